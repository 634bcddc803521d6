"""Figures of simulated structures: what they draw is what the series holds."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from segue.hrtem.series import SeriesSpec, structure
from segue.reporting.figures.specimens import SimulatedStructure, sheet_figure, simulate_structure, structure_figure
from segue.reporting.figures.style import draw_scale_bar, png_bytes
from segue.reporting.formatting import setting_label
from segue.spec import validate

SPEC = {
    "name": "figure",
    "structures": 2,
    "specimen": {
        "crystal": "Cu",
        "particles": 1,
        "diameter_nm": 1.6,
        "stacking_faults": 1,
        "twins": 1,
        "spacing_nm": 0.1,
        "support_nm": 0.4,
    },
    "wave": {"field_nm": 3.2, "sampling_A": 0.25, "slice_thickness_A": 4.0, "frozen_phonons": 1},
    "imaging": {"tile_px": 64, "pixel_size_A": 0.4, "defocus_nm": [-10, 0], "dose_e_per_A2": [400, 100]},
}


@pytest.fixture(scope="module")
def simulated() -> SimulatedStructure:
    return simulate_structure(validate(SeriesSpec, SPEC, context="x"), 1)


def test_images_are_those_of_the_series_in_lines_of_doses(simulated: SimulatedStructure) -> None:
    """The images, their conditions and the label are those of the dataset, sorted by dose."""
    tiles = structure(simulated.spec, 1)
    conditions = [simulated.condition(position) for position in range(4)]
    assert conditions == ["−10 nm, 100 e/Å²", "0 nm, 100 e/Å²", "−10 nm, 400 e/Å²", "0 nm, 400 e/Å²"]
    np.testing.assert_array_equal(simulated.images, tiles.images[[1, 3, 0, 2], 0])
    np.testing.assert_array_equal(simulated.clearest, tiles.images[0, 0])
    np.testing.assert_array_equal(simulated.label, tiles.labels["particles"][1])


def test_a_structure_with_planes_is_drawn_along_them(simulated: SimulatedStructure) -> None:
    """The figure shows both views, the particle along its planes with a line for each, and every image."""
    figure = structure_figure(simulated)
    titles = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert [title for title in titles if "nm" not in title] == [
        "from above",
        "from the side, beam ↓",
        "along its planes",
        "label",
        "power spectrum",
    ]
    assert len(titles) == 9
    (particle,) = simulated.specimen.parts
    heights = {float(line.get_ydata()[0]) for line in titles["along its planes"].lines}  # type: ignore[index]
    assert heights == {defect.offset_A / 10 for defect in particle.defects}
    assert {defect.kind for defect in particle.defects} == {"fault", "twin"}
    assert png_bytes(figure).startswith(b"\x89PNG")


def test_a_sheet_has_a_line_for_each_structure(simulated: SimulatedStructure) -> None:
    """Lines are named; each has five panels, also without support and planes."""
    plain = validate(
        SeriesSpec,
        SPEC | {"specimen": SPEC["specimen"] | {"support_nm": 0, "stacking_faults": 0, "twins": 0}},
        context="x",
    )
    figure = sheet_figure({"with": simulated, "without": simulate_structure(plain, 0)})
    assert len(figure.axes) == 10
    assert [axes.get_title(loc="left") for axes in figure.axes[::5]] == ["with", "without"]
    assert png_bytes(figure).startswith(b"\x89PNG")


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_images_and_labels_have_a_bar_of_their_scale(simulated: SimulatedStructure) -> None:
    """64 px of 0.04 nm are 2.56 nm wide: a bar of 1 nm is 25 px."""
    for axes in structure_figure(simulated).axes:
        title = axes.get_title(loc="left")
        if title == "label" or "e/Å²" in title:
            assert "1 nm" in texts(axes)
            (bar,) = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
            assert bar.get_width() == pytest.approx(25)


@pytest.mark.parametrize(
    ("width_px", "pixel_size_nm", "length"), [(512, 0.02, "2 nm"), (128, 0.04, "2 nm"), (100, 0.5, "20 nm")]
)
def test_bars_are_at_most_two_fifths_of_the_image(width_px: int, pixel_size_nm: float, length: str) -> None:
    """Of 1, 2 or 5 by powers of ten, the longest that fits."""
    axes = Figure().subplots()
    axes.imshow(np.zeros((width_px, width_px)))
    draw_scale_bar(axes, width_px, pixel_size_nm)
    assert texts(axes) == [length]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "carbon film 0.4 nm, 1 particle"),
        ({"support_nm": 0}, "no support, 1 particle"),
        ({"support": "graphene"}, "graphene, 1 particle"),
    ],
)
def test_the_support_is_named(settings: dict, words: str) -> None:
    """A film has its thickness; graphene is one layer and has none to state."""
    table = {name: value for name, value in SPEC["specimen"].items() if name != "support_nm" or not settings}
    wave = SPEC["wave"] | {"field_nm": 4.4}  # wide enough for graphene
    spec = validate(SeriesSpec, SPEC | {"specimen": table | settings, "wave": wave}, context="x")
    side = structure_figure(simulate_structure(spec, 0)).axes[1]
    assert side.get_xlabel() == words


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("specimen.radius_nm", "0.5,1.0", "radius 0.5–1.0 nm"),
        ("specimen.diameter_nm", "3,5", "diameter 3–5 nm"),
        ("specimen.stacking_faults", 2, "stacking faults 2"),
        ("imaging.dose_e_per_A2", 1e-05, "dose 1e−05 e/Å²"),
        ("imaging.defocus_nm", "-10,0", "defocus −10, 0 nm"),
        ("imaging.aberrations.C30_um", -5.0, "C30 −5.0 µm"),
        ("wave.energy_keV", 300, "energy 300 keV"),
        ("specimen.crystal", "ZnS", "ZnS"),
    ],
)
def test_settings_are_named_with_their_units(key: str, value: object, words: str) -> None:
    """Keys of a series become words; ranges of specimens have a dash, lists of conditions a comma."""
    assert setting_label(key, value) == words
