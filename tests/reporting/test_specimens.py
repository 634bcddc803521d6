"""Figures of simulated structures: what they draw is what the series holds."""

from __future__ import annotations

import numpy as np
import pytest

from segue.hrtem.series import SeriesSpec, structure
from segue.reporting.figures.specimens import SimulatedStructure, sheet_figure, simulate_structure, structure_figure
from segue.reporting.figures.style import png_bytes
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
