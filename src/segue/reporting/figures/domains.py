"""Domains side by side: some images of each, the distribution of their pixels and their power spectra."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import cast

import numpy as np
from matplotlib.figure import Figure, SubFigure

from segue.inference.domain_shift import (
    DISTANCES,
    DomainImages,
    DomainShift,
    are_calibrated,
    common_pixels,
    feature_distance,
    relative_spectra,
)
from segue.reporting.figures.style import ReportFigure, category_colors, hide_axes, scale_axis, style
from segue.reporting.formatting import Table, format_number

IMAGES = 2  # of each domain
COLUMNS = 6  # domains in a row
BINS = np.linspace(-5, 5, 101)  # standard deviations
SMOOTHING_BINS = 1.5  # counts of few electrons fall into some bins twice and into others once
MAX_PX = 256  # of an image's side in the figure
GRAYS = (0.5, 99.5)  # percentiles at which images are black and white


def domains_figure(domains: Mapping[str, DomainImages]) -> Figure:
    """Returns the figure of up to 12 domains: images above, histograms and power spectra of all of them below."""
    count = len(domains)
    columns = min(COLUMNS, max(count, 2))
    rows = -(-count // columns)
    with style():
        width = 10.0
        side = min(width / columns, 1.9)
        figure = Figure(figsize=(width, rows * IMAGES * side + 3.4), layout="constrained")
        images, curves = cast(np.ndarray, figure.subfigures(2, 1, height_ratios=[rows * IMAGES * side, 3.4]))
        grid = images.subplots(rows * IMAGES, columns, squeeze=False)
        for axes in grid.ravel():
            hide_axes(axes)
        for place, (name, domain) in enumerate(domains.items()):
            row, column = divmod(place, columns)
            middle = np.linspace(0, len(domain.images) - 1, IMAGES + 2).round().astype(int)[1:-1]
            for offset, index in enumerate(middle):
                image = domain.images[index, :MAX_PX, :MAX_PX]
                low, high = np.percentile(image, GRAYS)
                axes = grid[row * IMAGES + offset, column]
                axes.imshow(image, cmap="gray", vmin=low, vmax=high)
                if not offset:
                    axes.set_title(name, loc="center", fontsize=8.5)
        _draw_curves(curves, domains)
    return figure


def _draw_curves(panel: SubFigure, domains: Mapping[str, DomainImages]) -> None:
    from scipy.ndimage import gaussian_filter1d  # half a second of imports that few pages need

    colors = category_colors(list(domains))
    statistics = [domain.statistics for domain in domains.values()]
    unit = "1/nm" if are_calibrated(*statistics) else "periods per pixel"
    histograms, spectra = panel.subplots(1, 2)
    for color, domain in zip(colors.values(), common_pixels(*domains.values()), strict=True):
        density, _ = np.histogram(domain.images, bins=BINS, density=True)
        density = gaussian_filter1d(density, SMOOTHING_BINS)
        histograms.plot((BINS[1:] + BINS[:-1]) / 2, density, color=color, linewidth=1.4)
    for (name, color), spectrum in zip(colors.items(), relative_spectra(*statistics), strict=True):
        spectra.plot(*spectrum, color=color, linewidth=1.4, label=name)
    histograms.set_title("Pixel values")
    histograms.set_xlabel("standard deviations from the image's mean")
    histograms.set_ylabel("density")
    spectra.set_title("Power spectrum, radial mean")
    spectra.set_xlabel(f"spatial frequency, {unit}")
    spectra.set_ylabel("power (white noise: 1)")
    scale_axis(spectra, "y", np.concatenate([line.get_ydata() for line in spectra.get_lines()]))
    spectra.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


def domain_shift_figure(shift: DomainShift) -> ReportFigure:
    """Returns the page's figure of a study's domains."""
    names = list(shift.domains)
    images = sum(len(domain.images) for domain in shift.domains.values())
    return ReportFigure(
        "domains",
        domains_figure(shift.domains),
        "Images of the domains.",
        f"Every image with mean 0 and variance 1; {images:,} images in all, {IMAGES} of each domain above.",
        f"Images, histograms and power spectra of {', '.join(names)}.",
    )


def distance_tables(shift: DomainShift) -> tuple[Table, ...]:
    """Returns a table of distances between all domains for each measure."""
    names = list(shift.domains)
    unknown = [name for name in names if shift.domains[name].statistics.pixel_size_nm is None]
    by_pixel = f" (pixel by pixel, where a size is not known: {', '.join(unknown)})" if unknown else ""
    tables = []
    for measure, distance in DISTANCES.items():
        values = {(a, b): distance(shift.domains[a], shift.domains[b]) for a, b in combinations(names, 2)}
        tables.append(_table(f"Distances between {measure}{by_pixel}", names, values))
    if shift.features:
        names = list(shift.features)
        values = {(a, b): feature_distance(shift.features[a], shift.features[b]) for a, b in combinations(names, 2)}
        tables.append(
            _table(f"Distances between encoder features ({shift.model}), spreads within a domain", names, values)
        )
    return tuple(tables)


def _table(summary: str, names: list[str], values: Mapping[tuple[str, str], float]) -> Table:
    cells = {pair: format_number(value) for (a, b), value in values.items() for pair in ((a, b), (b, a))}
    rows = [[a, *(cells.get((a, b), "–") for b in names)] for a in names]
    return Table(["", *names], rows, range(1, len(names) + 1), summary)
