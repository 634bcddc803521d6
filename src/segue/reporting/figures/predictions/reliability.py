"""Reliability of the confidence of objects: expected against actual IoU, on held-out data.

The confidence was calibrated on validation (`segue.inference.confidence`); what is drawn is of the part that runs are
evaluated on, where nothing was fitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from segue import rng
from segue.reporting.analysis.comparison import Comparison
from segue.reporting.figures.predictions.objects import MARKERS, MAX_LINES, ObjectScores, line_colors
from segue.reporting.figures.style import MUTED, PAPER, ReportFigure, Tooltips, legend_columns, new_figure, style
from segue.reporting.formatting import Table, join_names

RESAMPLES = 1000  # of micrographs
COVERAGE = 0.95
MIN_OBJECTS = 5  # in a bin that is drawn


@dataclass(frozen=True)
class Reliability:
    """The objects of a representation by bins of confidence, over all its runs.

    images (J, bins, 3): number, confidence and IoU summed, of each micrograph of the runs' own domains.
    """

    label: str
    runs: int
    images: np.ndarray

    @property
    def bins(self) -> np.ndarray:
        return self.images.sum(0)

    @property
    def objects(self) -> int:
        return int(self.bins[:, 0].sum())

    def resampled(self) -> np.ndarray:
        """Returns the bins (RESAMPLES, bins, 3) of micrographs drawn with replacement."""
        count = len(self.images)
        draws = rng.numpy_generator("reliability").multinomial(count, np.full(count, 1 / count), RESAMPLES)
        return np.einsum("rj,jbk->rbk", draws, self.images)


def reliabilities(comparison: Comparison, lines: Sequence[ObjectScores]) -> list[Reliability]:
    """Returns the reliability of each line whose runs have a calibrated confidence, in their order."""
    results = []
    for scores in lines:
        by_domain: dict[str, list[np.ndarray]] = {}
        for run, domain in zip(scores.frame["run"], scores.frame["domain"], strict=True):
            bins = comparison.results.reliability.get((str(run), str(domain)))
            if bins is not None:
                by_domain.setdefault(str(domain), []).append(bins)
        # runs of one domain see the same micrographs, which are resampled together
        parts = [
            part
            for arrays in by_domain.values()
            for part in ([sum(arrays)] if len({len(each) for each in arrays}) == 1 else arrays)
        ]
        if parts:
            runs = sum(map(len, by_domain.values()))
            results.append(Reliability(scores.label, runs, np.concatenate([np.asarray(part) for part in parts])))
    return [each for each in results if each.objects]


def reliability_figure(comparison: Comparison, lines: Sequence[ObjectScores]) -> tuple[ReportFigure, Table] | None:
    """Returns the curves of expected against actual IoU with their table; None without any calibrated confidence."""
    selected = reliabilities(comparison, lines[:MAX_LINES])
    if not selected:
        return None
    tooltips = Tooltips()
    colors = line_colors(comparison, lines[:MAX_LINES])
    rows = []
    with style():
        figure = new_figure(4.2)
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle="--")
        for each, marker in zip(selected, MARKERS, strict=False):
            _draw(axes, each, colors, marker, tooltips)
            rows.append([each.label, f"{each.runs:,}", f"{each.objects:,}", _error_text(each)])
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axes.set(xlabel="confidence: expected IoU", ylabel="mean IoU with the best true object")
        handles = axes.get_legend_handles_labels()[0]
        figure.legend(handles=handles, loc="outside upper left", ncols=legend_columns(handles, 130))
    caption = (
        f"Objects of the {comparison.split} split in bins of confidence; those on the dashed line have the IoU that was"
        " expected. The confidence was calibrated on validation objects. Bars are 95 % bootstrap intervals, resampling"
        f" micrographs; bins of fewer than {MIN_OBJECTS} objects are not drawn."
    )
    alt = f"Actual against expected intersection over union: {join_names([each.label for each in selected])}"
    heads = ["", "runs", "objects", "expected calibration error"]
    title = "Confidence of objects against what came about."
    return ReportFigure("reliability", figure, title, caption, alt, tooltips), Table(heads, rows, range(1, 4))


def _draw(axes: Axes, each: Reliability, colors: Mapping[str, str], marker: str, tooltips: Tooltips) -> None:
    is_drawn = each.bins[:, 0] >= MIN_OBJECTS
    count, expected, actual = each.bins[is_drawn].T
    x, y = expected / count, actual / count
    look = {"color": colors[each.label], "marker": marker, "markersize": 4.5, "markeredgecolor": PAPER}
    errors = None
    if len(each.images) > 1:
        samples = each.resampled()[:, is_drawn]
        with np.errstate(invalid="ignore"):
            means = samples[..., 2] / np.where(samples[..., 0] > 0, samples[..., 0], np.nan)
        low, high = np.nanquantile(means, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], axis=0)
        errors = np.maximum([y - low, high - y], 0)
    bars = axes.errorbar(x, y, yerr=errors, linewidth=1.6, elinewidth=1.0, label=each.label, **look)
    tooltips.add(
        bars[0], f"{each.label}: {each.objects:,} objects, calibration error {_calibration_error(each.bins):.3f}"
    )


def _calibration_error(bins: np.ndarray) -> float:
    from segue.inference.confidence import calibration_error  # with numba, which takes half a second

    return calibration_error(bins)


def _error_text(each: Reliability) -> str | tuple[str, str]:
    """Returns the expected calibration error, its interval beneath in small type if there are several micrographs."""
    text = f"{_calibration_error(each.bins):.3f}"
    if len(each.images) < 2:
        return text
    errors = [_calibration_error(bins) for bins in each.resampled()]
    low, high = np.nanquantile(errors, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    return text, f"{low:.3f} – {high:.3f}"
