"""Simulated structures: their atoms from above, from the side and along their planes, and their images.

Atoms have the colors of their elements that molecular viewers use. From the side the beam comes from above: it passes
the support first, and the exit plane is at the bottom.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Rectangle

from segue.hrtem.detector import Cut
from segue.hrtem.series import SeriesSpec, structure, structures_seed, tile_cut
from segue.hrtem.specimen import A_PER_NM, Atoms, Particle, Specimen, build
from segue.reporting.figures.predictions.examples import gray_levels
from segue.reporting.figures.style import INK, VERMILION, WIDTH_IN, draw_scale_bar, hide_axes, style
from segue.reporting.formatting import plural

IMAGE_COLUMNS = 6
PANEL_IN = 2.5  # height of a panel of atoms
SUPPORT_COLOR = "#d5d8dc"
LINES = {"fault": (0, (4, 3)), "twin": "solid"}
SPECTRUM_DECADES = 3.5  # of a power spectrum that are drawn
IMAGE_TEXT_BOX = {"boxstyle": "square,pad=0.1", "facecolor": "black", "alpha": 0.6, "linewidth": 0}


@dataclass(frozen=True)
class SimulatedStructure:
    """A structure with its tiles: images (n, H, W) in electrons under n conditions, and its label (H, W).

    Conditions are nominal: `defoci_nm` and `doses` (e/Å²), (n,) each. Images are in the order of doses, then of defoci.
    """

    spec: SeriesSpec
    specimen: Specimen
    cut: Cut
    images: np.ndarray
    label: np.ndarray
    defoci_nm: np.ndarray
    doses: np.ndarray

    @property
    def clearest(self) -> np.ndarray:
        """The image of the first defocus with the highest dose."""
        return self.images[int(self.doses.argmax())]

    @property
    def pixel_size_nm(self) -> float:
        return self.spec.imaging.pixel_size_A / A_PER_NM

    @property
    def support(self) -> str:
        """What the particles stand on, such as "carbon film 3.4 nm"."""
        if self.spec.specimen.support == "graphene":
            return "graphene"
        thickness_nm = self.specimen.support_A / A_PER_NM
        return f"carbon film {thickness_nm:.1f} nm" if thickness_nm > 0 else "no support"

    def condition(self, position: int) -> str:
        defocus = f"{self.defoci_nm[position]:+g}".replace("-", "−").replace("+0", "0")
        return f"{defocus} nm, {self.doses[position]:g} e/Å²"


def simulate_structure(spec: SeriesSpec, index: int) -> SimulatedStructure:
    """Returns structure `index` of a resolved series: the atoms, images and label that its dataset holds."""
    tiles = structure(spec, index)
    doses, defoci_nm = tiles.samples["dose_e_per_A2"], tiles.samples["defocus_nm"]
    order = np.lexsort((np.arange(len(doses)), doses))
    return SimulatedStructure(
        spec=spec,
        specimen=build(spec.specimen, field_A=A_PER_NM * spec.wave.field_nm, seed=structures_seed(spec), index=index),
        cut=tile_cut(spec, index),
        images=tiles.images[order, 0],
        label=tiles.labels["particles"][0],
        defoci_nm=defoci_nm[order],
        doses=doses[order],
    )


def structure_figure(simulated: SimulatedStructure) -> Figure:
    """Returns the figure of a structure: atoms above, every image below, titled with its nominal defocus and dose.

    A line of images is a dose where all defoci fit into one.
    """
    count, defoci = len(simulated.images), len(np.unique(simulated.defoci_nm))
    width = defoci if 1 < defoci <= IMAGE_COLUMNS else min(IMAGE_COLUMNS, count)
    rows = -(-count // width)
    planar = _with_most_defects(simulated.specimen)
    columns = 4 if planar is None else 5
    with style():
        figure = Figure(figsize=(WIDTH_IN, PANEL_IN + 1.85 * rows), layout="constrained")
        top, bottom = np.ravel(np.asarray(figure.subfigures(2, 1, height_ratios=[PANEL_IN, 1.85 * rows])))
        panels = list(np.ravel(top.subplots(1, columns)))
        _draw_above(panels[0], simulated)
        _draw_side(panels[1], simulated)
        if planar is not None:
            _draw_along_row(panels[2], planar)
        _draw_label(panels[-2], simulated)
        _draw_spectrum(panels[-1], simulated)
        for position, axes in enumerate(np.ravel(bottom.subplots(rows, width, squeeze=False))):
            hide_axes(axes)
            if position >= count:
                axes.set_visible(False)
                continue
            _draw_image(axes, simulated, position)
            axes.set_title(simulated.condition(position), fontsize=8, fontweight="normal")
    return figure


def sheet_figure(structures: Mapping[str, SimulatedStructure]) -> Figure:
    """Returns a figure with a line for each structure: atoms from above and from the side, image, label, spectrum.

    The names are those of the lines; the image and its power spectrum have the first defocus and the lowest dose.
    """
    with style():
        height = 2.3 * len(structures)
        figure = Figure(figsize=(WIDTH_IN, height))  # a constrained layout of so many panels takes half a minute
        figure.subplots_adjust(
            left=0.03, right=0.995, bottom=0.3 / height, top=1 - 0.3 / height, wspace=0.06, hspace=0.3
        )
        grid = figure.subplots(len(structures), 5, squeeze=False)
        for (name, simulated), line in zip(structures.items(), grid, strict=True):
            _draw_above(line[0], simulated, title=name)
            line[0].set_title(name, fontsize=min(9.5, 205 / max(len(name), 1)))  # as wide as the panel
            _draw_side(line[1], simulated)
            hide_axes(line[2])
            _draw_image(line[2], simulated, 0)
            line[2].set_title(simulated.condition(0))
            _draw_label(line[3], simulated)
            _draw_spectrum(line[4], simulated)
    return figure


def _draw_above(axes: Axes, simulated: SimulatedStructure, title: str = "from above") -> None:
    specimen, field_nm = simulated.specimen, simulated.spec.wave.field_nm
    _draw_support(axes, specimen.support, (0, 1), field_nm)
    _draw_atoms(axes, specimen.particles, (0, 1), 2, field_nm)
    rows, columns = simulated.cut
    pixel_nm = simulated.pixel_size_nm
    side = pixel_nm * simulated.spec.imaging.tile_px
    corner = (pixel_nm * columns.start, pixel_nm * rows.start)
    axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor=VERMILION, linewidth=1))
    _frame(axes, field_nm, field_nm, title)
    axes.set_ylabel(f"{field_nm:g} nm", fontsize=7, labelpad=1)
    _name_elements(axes, specimen)


def _draw_side(axes: Axes, simulated: SimulatedStructure) -> None:
    specimen, field_nm = simulated.specimen, simulated.spec.wave.field_nm
    _draw_support(axes, specimen.support, (0, 2), field_nm)
    _draw_atoms(axes, specimen.particles, (0, 2), 1, field_nm)
    height_nm = specimen.height_A / A_PER_NM
    _frame(axes, field_nm, max(field_nm, height_nm), "from the side, beam ↓")
    axes.axhline(height_nm, color=VERMILION, linewidth=0.8, linestyle=(0, (1, 2)))
    axes.set_xlabel(f"{simulated.support}, {plural(len(specimen.parts), 'particle')}", fontsize=7, labelpad=3)


def _draw_support(axes: Axes, support: Atoms, plane: tuple[int, int], field_nm: float) -> None:
    x, y = (support.positions_A[:, axis] / A_PER_NM for axis in plane)
    axes.scatter(x, y, s=_marker_size(0.77, field_nm), color=SUPPORT_COLOR, linewidths=0, rasterized=True)


def _draw_atoms(axes: Axes, atoms: Atoms, plane: tuple[int, int], depth: int, field_nm: float) -> None:
    """Draws atoms from the far to the near ones."""
    from ase.data import covalent_radii

    order = np.argsort(atoms.positions_A[:, depth])
    numbers, positions = atoms.numbers[order], atoms.positions_A[order] / A_PER_NM
    axes.scatter(
        positions[:, plane[0]], positions[:, plane[1]], s=_marker_size(covalent_radii[numbers], field_nm),
        color=[element_color(int(number)) for number in numbers], edgecolors=INK, linewidths=0.1, rasterized=True,
    )  # fmt: skip


def element_color(number: int) -> str:
    """Returns the color of an element in molecular viewers (Jmol), as #rrggbb."""
    from ase.data.colors import jmol_colors

    red, green, blue = (float(value) for value in jmol_colors[number])
    return to_hex((red, green, blue))


def _marker_size(radius_A: float | np.ndarray, field_nm: float) -> float | np.ndarray:
    """Returns the area of a marker in points², for atoms of a radius in a panel as wide as the field."""
    points = 72 * 0.85 * PANEL_IN * 0.75 / field_nm
    return (1.2 * points * radius_A / A_PER_NM) ** 2


def _frame(axes: Axes, width_nm: float, height_nm: float, title: str) -> None:
    axes.set(xlim=(0, width_nm), ylim=(height_nm, 0), aspect="equal")
    axes.set_title(title)
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(True)


def _name_elements(axes: Axes, specimen: Specimen) -> None:
    from ase.data import chemical_symbols

    handles = [
        Line2D([], [], marker="o", linestyle="", markersize=4, color=element_color(int(number)), markeredgecolor=INK,
               markeredgewidth=0.2, label=chemical_symbols[number])
        for number in np.unique(specimen.particles.numbers)
    ]  # fmt: skip
    if len(specimen.support.numbers):
        handles.append(Line2D([], [], marker="o", linestyle="", markersize=4, color=SUPPORT_COLOR, label="support"))
    axes.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=min(4, len(handles)), fontsize=7,
        handletextpad=0.1, columnspacing=0.8, borderpad=0,
    )  # fmt: skip


def _with_most_defects(specimen: Specimen) -> Particle | None:
    return max((part for part in specimen.parts if part.defects), key=lambda part: len(part.defects), default=None)


def _draw_along_row(axes: Axes, particle: Particle) -> None:
    """Draws a particle along the close-packed rows of its planes, in which the order of its layers shows."""
    first = particle.defects[0]
    across = np.cross(first.row, first.normal)
    centered = particle.atoms.positions_A - particle.center_A
    projected = Atoms(
        particle.atoms.numbers, np.column_stack([centered @ across, centered @ first.normal, centered @ first.row])
    )
    width_nm = float(np.abs(projected.positions_A).max()) / A_PER_NM * 2.1
    _draw_atoms(axes, projected, (0, 1), 2, width_nm)
    for defect in particle.defects:
        axes.axhline(defect.offset_A / A_PER_NM, color=VERMILION, linewidth=1, linestyle=LINES[defect.kind])
    axes.set(xlim=(-width_nm / 2, width_nm / 2), ylim=(-width_nm / 2, width_nm / 2), aspect="equal")
    hide_axes(axes)
    axes.set_title("along its planes")
    kinds = [defect.kind for defect in particle.defects]
    handles = [
        Line2D([], [], color=VERMILION, linewidth=1, linestyle=LINES[kind], label=plural(kinds.count(kind), kind))
        for kind in dict.fromkeys(kinds)
    ]
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=2, fontsize=7, borderpad=0)


def _draw_image(axes: Axes, simulated: SimulatedStructure, position: int) -> None:
    image = simulated.images[position]
    axes.imshow(gray_levels(image), cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
    draw_scale_bar(axes, image.shape[-1], simulated.pixel_size_nm)


def _draw_label(axes: Axes, simulated: SimulatedStructure) -> None:
    hide_axes(axes)
    axes.imshow(simulated.label, cmap="gray", vmin=0, vmax=1)
    draw_scale_bar(axes, simulated.label.shape[-1], simulated.pixel_size_nm, color=VERMILION)
    axes.set_title("label")


def _draw_spectrum(axes: Axes, simulated: SimulatedStructure) -> None:
    """Draws the power spectrum of the clearest image on a logarithmic scale, with rings at 4, 2 and 1 Å."""
    image = simulated.clearest.astype(np.float64)
    window = np.outer(np.hanning(image.shape[0]), np.hanning(image.shape[1]))
    power = np.abs(np.fft.fftshift(np.fft.fft2((image - image.mean()) * window))) ** 2
    greatest = float(np.quantile(power, 0.9999)) or 1.0
    limit = 0.5 / simulated.spec.imaging.pixel_size_A
    logarithm = np.log10(np.maximum(power, greatest * 10**-SPECTRUM_DECADES))
    axes.imshow(
        logarithm,
        cmap="gray",
        extent=(-limit, limit, limit, -limit),
        vmax=np.log10(greatest),
        interpolation="antialiased",
    )
    edge = min(limit, 1.05)
    for spacing_A in (4, 2, 1):
        if 1 / spacing_A < edge:
            axes.add_patch(Circle((0, 0), 1 / spacing_A, fill=False, color=VERMILION, linewidth=0.4, alpha=0.7))
            place = 0.72 / spacing_A
            axes.annotate(f"{spacing_A} Å", (place, -place), color="white", fontsize=6, bbox=IMAGE_TEXT_BOX)
    axes.set(xlim=(-edge, edge), ylim=(edge, -edge))
    hide_axes(axes)
    axes.set_title("power spectrum")
