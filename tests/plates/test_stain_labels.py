"""Labels from stains: thresholds against references, nuclei against what was drawn, classes by rules."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage import filters

from segue import rng
from segue.data.summary import ON_IMAGES
from segue.errors import SpecError
from segue.evaluation.object_metrics import count_matches, scores
from segue.plates.exports import HEADER_PX, draw_overlay, scale_bar, write_overlay
from segue.plates.labeling.stain_labels import cell_area, estimate_bleed_through, label_stains, merge_stains, unmix
from segue.plates.labeling.thresholds import compute_threshold, half_sample_mode, subtract_background
from segue.plates.spec import BlockMaximaThreshold, CellAreaSpec, OtsuThreshold, StainsSpec
from segue.plates.synthetic.scene import render_scene
from segue.plates.synthetic.spec import SyntheticSpec
from segue.spec import validate

SIDE = 240


def drawn(discs: Sequence[tuple[int, int, float, float]], *, seed: int = 0, background: float = 300.0) -> np.ndarray:
    """Returns a stain (SIDE, SIDE) in counts with noise: discs (y, x, radius, height), blurred by 1 px."""
    y, x = np.mgrid[:SIDE, :SIDE]
    image = np.zeros((SIDE, SIDE))
    for row, column, radius, height in discs:
        image += height * (np.hypot(y - row, x - column) <= radius)
    image = background + ndimage.gaussian_filter(image, 1.0)
    return image + 15 * rng.numpy_generator(seed, "noise").standard_normal(image.shape)


def labeled(dapi: np.ndarray, cy5: np.ndarray, valid: np.ndarray | None = None, **settings: object):
    spec = validate(StainsSpec, settings, context="labels")
    return label_stains({"dapi": dapi, "cy5": cy5}, spec, pixel_size_um=1.0, valid=valid)


FOUR = [(40, 40, 7, 1500), (40, 120, 7, 900), (120, 40, 7, 2500), (160, 160, 6, 1200)]


def test_half_sample_mode_finds_the_narrow_group():
    """The mode of a narrow normal group is found under as many values spread widely above it; ties are no trouble."""
    g = rng.numpy_generator(1, "mode")
    values = np.concatenate([g.normal(10, 0.3, 600), g.uniform(12, 100, 500)])
    assert half_sample_mode(values) == pytest.approx(10, abs=0.4)
    assert half_sample_mode(np.full(9, 4)) == 4
    with pytest.raises(ValueError, match="no values"):
        half_sample_mode(np.empty(0))


def test_otsu_is_scikit_images():
    """The threshold of Otsu is scikit-image's, to a bin."""
    image = drawn(FOUR)
    assert compute_threshold(image, OtsuThreshold(name="otsu"), pixel_size_um=1).counts == pytest.approx(
        filters.threshold_otsu(np.minimum(image, np.quantile(image, 0.9999)), 1024), abs=np.ptp(image) / 1024
    )


def test_block_maxima_say_when_they_cannot_tell():
    """The level is factor × the maxima of empty blocks; too few blocks, or too few empty ones, are told."""
    spec = BlockMaximaThreshold()
    quiet = np.full((240, 240), 10.0, np.float32)
    quiet[:40] += 500 * rng.numpy_generator(3, "blocks").random((40, 240))
    level = compute_threshold(quiet, spec, pixel_size_um=1)
    assert level.counts == pytest.approx(11.5) and not level.notes and level.empty == pytest.approx(16 / 20, abs=0.01)
    crowded = 500 * (1 + rng.numpy_generator(4, "blocks").random((240, 240)))
    crowded[::12, ::12] = 900 + 300 * rng.numpy_generator(5, "blocks").random((20, 20))
    narrow = spec.model_copy(update={"factor": 0.9})
    assert "under the threshold" in compute_threshold(crowded, narrow, pixel_size_um=1).notes[0]
    assert "blocks" in compute_threshold(quiet[:36, :36], spec, pixel_size_um=1).notes[0]
    with pytest.raises(ValueError, match="no block"):
        compute_threshold(quiet[:8, :8], spec, pixel_size_um=1)


@pytest.mark.parametrize("name", ["opening", "gaussian"])
def test_slow_background_goes_and_nuclei_stay(name):
    """A background that rises fivefold over the field is taken off to a few counts, a nucleus keeps its height."""
    slope = np.linspace(0, 1200, SIDE)[None] + np.zeros((SIDE, 1))
    image = drawn([(120, 60, 6, 1500)]) + slope
    spec = validate(StainsSpec, {"stains": {"dapi": {"background": {"name": name}}, "cy5": {}}}, context="labels")
    flat = subtract_background(image, spec.stains["dapi"].background, pixel_size_um=1)
    assert np.abs(np.median(flat[40:200, 100:200], axis=0)).max() < 120
    assert flat[118:123, 58:63].mean() == pytest.approx(1500, rel=0.15)


@pytest.mark.parametrize(
    "rule",
    [
        {"name": "block-maxima"},
        {"name": "otsu"},
        {"name": "local", "offset_counts": 150, "window_um": 60},
        {"name": "fixed", "counts": 150},
    ],
)
def test_classes_by_every_threshold(rule):
    """Nuclei of the first stain alone are live, those with the second dead, whichever threshold: places and areas."""
    dead = [FOUR[2], (200, 60, 5, 1500)]  # one carries both, one the second alone
    actual = labeled(drawn(FOUR), drawn(dead, seed=1), bleed_through={},
                     stains={"dapi": {"threshold": rule}, "cy5": {"threshold": rule}})  # fmt: skip
    centers = np.stack([actual.objects["y_px"], actual.objects["x_px"]], 1)
    true = {(40, 40): 1, (40, 120): 1, (120, 40): 2, (160, 160): 1, (200, 60): 2}
    assert len(centers) == len(true)
    for (y, x), number in true.items():
        nearest = int(np.argmin(np.hypot(*(centers - (y, x)).T)))
        assert np.hypot(*(centers[nearest] - (y, x))) < 0.7
        assert actual.objects["class"][nearest] == number == actual.classes[y, x]
        assert actual.nuclei[y, x] == actual.objects["id"][nearest]
        assert actual.objects["area_px"][nearest] == (actual.nuclei == actual.nuclei[y, x]).sum()
    assert actual.objects["mean_cy5"][actual.nuclei[40, 40] - 1] < 60 < actual.objects["mean_dapi"].min() + 60
    assert set(actual.thresholds) == {"dapi", "cy5"}


def test_touching_nuclei_are_parted():
    """Two discs that touch are two nuclei with splitting, one without; a large bright one is not cut to pieces."""
    touching = drawn([(100, 100, 8, 1500), (100, 115, 8, 1500), (180, 60, 14, 1500)])
    empty = drawn([], seed=1)
    assert len(labeled(touching, empty).objects["id"]) == 3
    whole = labeled(touching, empty, stains={"dapi": {"split": "none"}, "cy5": {}})
    assert len(whole.objects["id"]) == 2


def test_joining_of_stains():
    """A rim left around: one nucleus. A neighbour in a clump: one of its own."""
    lower, upper = np.zeros((2, 40, 90), np.int32)
    y, x = np.mgrid[:40, :90]
    lower[np.hypot(y - 20, x - 15) < 10] = 1
    upper[np.hypot(y - 20, x - 15) < 6] = 1  # 36 % of it, in its midst
    lower[(np.hypot(y - 20, x - 45) < 9) | (np.hypot(y - 20, x - 60) < 9)] = 2
    upper[np.hypot(y - 20, x - 60) < 9] = 2
    lower[12:28, 75:85] = 3
    nuclei, carried = merge_stains([lower, upper], 0.7)
    assert int(nuclei.max()) == 4
    assert (nuclei == nuclei[20, 15]).sum() == (lower == 1).sum() and carried[nuclei[20, 15]].all()
    assert nuclei[20, 45] != nuclei[20, 60] and carried[nuclei[20, 45]].tolist() == [True, False]
    assert carried[nuclei[20, 60]].all() and carried[nuclei[20, 80]].tolist() == [True, False]
    assert sorted(np.unique(nuclei)) == [0, 1, 2, 3, 4]


def test_bleed_through_is_estimated_and_taken_off():
    """A known share of one stain in the other is found to 0.005, and unmixing undoes a mixing of both ways exactly."""
    g = rng.numpy_generator(5, "bleed")
    places = [(y, x, 5, float(g.uniform(800, 3000))) for y in range(15, 230, 28) for x in range(15, 230, 28)]
    dead = [(y, x, r, float(g.uniform(300, 1500))) for y, x, r, _ in places[::3]]
    dapi = drawn(places)
    cy5 = drawn(dead, seed=1) + 0.06 * (dapi - 300)
    actual = labeled(dapi, cy5)
    assert actual.bleed_through["dapi_in_cy5"] == pytest.approx(0.06, abs=0.005)
    assert (actual.objects["class"] == 2).sum() == len(dead) and len(actual.objects["id"]) == len(places)
    assert (labeled(dapi, cy5, bleed_through={}).objects["class"] == 2).sum() > len(dead)
    own = {"a": g.random((4, 4), np.float32), "b": g.random((4, 4), np.float32)}
    mixed = {"a": own["a"] + np.float32(0.02) * own["b"], "b": own["b"] + np.float32(0.1) * own["a"]}
    assert unmix(mixed, {("a", "b"): 0.1, ("b", "a"): 0.02}) == ["a", "b"]
    assert all(np.allclose(mixed[name], own[name], atol=1e-6) for name in own)


def test_bleed_through_needs_nuclei():
    """From a handful of nuclei no share is estimated, and a note says so."""
    assert estimate_bleed_through(np.ones((9, 9)), np.ones((9, 9)), np.eye(9, dtype=np.int32)) is None
    actual = labeled(drawn(FOUR), drawn([], seed=1))
    assert actual.bleed_through == {"dapi_in_cy5": 0.0} and any("bleed-through" in note for note in actual.notes)


def test_what_is_not_valid_changes_nothing():
    """Labels are −1 outside `valid`, and what light is there does not matter; with nothing valid all is ignored."""
    dapi, cy5 = drawn(FOUR), drawn([FOUR[2]], seed=1)
    valid = np.ones(dapi.shape, bool)
    valid[:, 190:] = False
    other = np.where(valid, dapi, 60000.0)
    one, two = labeled(dapi, cy5, valid), labeled(other, cy5, valid)
    assert np.array_equal(one.classes, two.classes) and np.array_equal(one.nuclei, two.nuclei)
    assert (one.classes[~valid] == -1).all() and (one.nuclei[~valid] == -1).all()
    assert (one.classes[valid] >= 0).all() and one.thresholds == two.thresholds
    nothing = labeled(dapi, cy5, np.zeros_like(valid))
    assert (nothing.classes == -1).all() and nothing.objects["id"].size == 0


@pytest.mark.parametrize("margin_px", [0, 12])
def test_a_background_that_slopes_to_the_border_is_no_nucleus(margin_px):
    """A background that rises to a ragged border leaves no nuclei there, and true ones at the border are found."""
    valid = np.zeros((SIDE, SIDE), bool)
    for part in range(3):
        rows = slice(margin_px * (part % 2), SIDE - margin_px // 2) if part < 2 else slice(margin_px, SIDE)
        valid[rows, part * 80 + margin_px * (part == 0) : (part + 1) * 80 - margin_px * (part == 2)] = True
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    slope = 500 * (x - y) + 150 * np.sin(4 * y)
    nuclei = [(120, margin_px + 4, 7, 1500), (SIDE - margin_px // 2 - 6, 40, 7, 900), (120, 150, 7, 1500)]
    dapi, cy5 = drawn(nuclei) + slope, drawn([nuclei[2]], seed=1) + slope
    for stain in (dapi, cy5):
        stain[~valid] = np.median(stain[valid])
    actual = labeled(dapi, cy5, valid, bleed_through={})
    assert actual.objects["class"].tolist() == [1, 2, 1]
    assert [actual.nuclei[y, x] for y, x, *_ in (nuclei[0], nuclei[2], nuclei[1])] == [1, 2, 3]


@pytest.mark.parametrize("name", ["opening", "gaussian"])
def test_background_goes_on_at_the_border_as_inside(name):
    """A plane is taken off to what it rises in a few pixels everywhere, also in the corners of what is valid."""
    y, x = np.mgrid[:SIDE, :SIDE]
    valid = (x >= 20) & (y < SIDE - 33)
    plane = np.where(valid, 900 + 2.0 * x - 1.5 * y, 0)
    spec = validate(StainsSpec, {"stains": {"dapi": {"background": {"name": name}}, "cy5": {}}}, context="labels")
    flat = subtract_background(plane, spec.stains["dapi"].background, pixel_size_um=1, valid=valid)
    assert np.abs(flat[valid]).max() < 10 and np.abs(flat[valid]).mean() < 2 and not flat[~valid].any()


def test_cell_area_rests_on_what_is_valid():
    """What was filled in beside a mosaic does not set the threshold of the cell area; an implausible share is told."""
    y, x = np.mgrid[:SIDE, :SIDE]
    cells = np.hypot(y - 110, x - 110) <= 40
    light = 8000 + 300 * ndimage.gaussian_filter(cells.astype(float), 1.5)
    light += 40 * rng.numpy_generator(9, "light").standard_normal(light.shape)
    valid = (x < 190) & (y < 200)
    none = np.zeros((SIDE, SIDE), np.int32)
    whole = cell_area(light, CellAreaSpec(hole_um2=9000), pixel_size_um=1, nuclei=none)
    light[~valid] = 8000
    area = cell_area(light, CellAreaSpec(hole_um2=9000), pixel_size_um=1, nuclei=none, valid=valid)
    assert not area[~valid].any() and (area != whole)[valid].mean() < 0.02
    spec = validate(StainsSpec, {"cells": {"factor": 0.1}}, context="labels")
    stains = {"dapi": drawn(FOUR), "cy5": drawn([], seed=1)}
    actual = label_stains(stains, spec, pixel_size_um=1, transmitted=light, valid=valid)
    assert any("more than plausible" in note for note in actual.notes)


def test_five_classes_in_order():
    """With cells and outline the classes are background, cell, live, dead, outline; nuclei stay whole beneath."""
    settings = {"cells": {"hole_um2": 2000}, "outline": {"width_um": 2}, "bleed_through": {}}
    spec = validate(StainsSpec, settings, context="labels")
    assert spec.class_names == ("background", "cell", "live", "dead", "outline")
    cells = np.zeros((SIDE, SIDE), bool)
    y, x = np.mgrid[:SIDE, :SIDE]
    for row, column, *_ in FOUR:
        cells |= np.hypot(y - row, x - column) <= 18
    light = 8000 + 300 * ndimage.gaussian_filter(cells.astype(float), 1.5)
    light += 40 * rng.numpy_generator(9, "light").standard_normal(light.shape)
    actual = label_stains({"dapi": drawn(FOUR), "cy5": drawn([FOUR[2]], seed=1)}, spec, pixel_size_um=1,
                         transmitted=light, valid=None)  # fmt: skip
    seen = actual.classes > 0
    assert (seen & cells).sum() / (seen | cells).sum() > 0.7
    assert actual.classes[40, 40] == 2 and actual.classes[120, 40] == 3 and actual.classes[40, 52] == 1
    assert actual.classes[40, 46] == 4 and actual.nuclei[40, 46] == actual.nuclei[40, 40]
    assert ((actual.classes == 4) <= (actual.nuclei > 0)).all()
    area = cell_area(light, CellAreaSpec(hole_um2=2000), pixel_size_um=1, nuclei=np.zeros((SIDE, SIDE), np.int32))
    assert (area & cells).sum() / (area | cells).sum() > 0.7


def test_labels_of_a_made_well_are_its_nuclei():
    """Of a made well of the default ranges, live and dead nuclei are found with F1 of at least 0.9 and 0.85."""
    stage = {"rows": 1, "columns": 1, "tile_px": 384, "overlap": 0.0}
    spec = SyntheticSpec.model_validate({"seed": 77, "plates": 1, "wells": 8, "stained_wells": 8, "stage": stage})
    scene = render_scene(spec, plate=0, well=4, time=1)
    actual = label_stains(scene.channels, StainsSpec(), pixel_size_um=spec.stage.pixel_size_um)
    true = np.zeros(int(scene.nuclei.max()) + 1, int)
    true[scene.objects["id"]] = scene.objects["class"]
    by_id = np.concatenate([[0], actual.objects["class"]])
    for number, least in ((1, 0.9), (2, 0.85)):
        counted = count_matches(
            np.where(true[scene.nuclei] == number, scene.nuclei, 0),
            np.where(by_id[actual.nuclei] == number, actual.nuclei, 0),
        )
        assert scores(counted)["f1_50"] >= least


def test_turning_the_images_turns_the_labels():
    """A quarter turn of the stains turns the classes, but for a few pixels where values tie."""
    dapi, cy5 = drawn(FOUR), drawn([FOUR[2]], seed=1)
    straight, rotated = labeled(dapi, cy5), labeled(np.rot90(dapi), np.rot90(cy5))
    assert (np.rot90(straight.classes) != rotated.classes).mean() < 0.002


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"stains": {"hoechst": {}}}, "the default ones are for the stains dapi"),
        ({"bleed_through": {"cy5_on_dapi": 0.1}}, "<stain>_in_<stain>"),
        ({"stains": {"dapi": {"threshold": {"name": "triangle"}}, "cy5": {}}}, "threshold"),
        ({"rules": [{"name": "background", "has": ["dapi"]}]}, "occurs twice"),
        ({"outline": {"of": "cells"}}, "labels.cells"),
        ({"stains": {"dapi": {"max_area_um2": 3}, "cy5": {}}}, "max_area_um2"),
    ],
)
def test_mistakes_are_told(settings, words):
    """Settings that contradict each other are refused with a sentence that names what is wrong."""
    with pytest.raises(SpecError, match=words):
        validate(StainsSpec, settings, context="labels")


def test_unfit_images_are_refused():
    """A missing stain, unlike shapes and a missing transmitted image are told; so is an unknown pixel size."""
    dapi = drawn(FOUR)
    with pytest.raises(ValueError, match="no image of the stain 'cy5'"):
        label_stains({"dapi": dapi}, StainsSpec(), pixel_size_um=1)
    with pytest.raises(ValueError, match="must be one"):
        label_stains({"dapi": dapi, "cy5": dapi[1:]}, StainsSpec(), pixel_size_um=1)
    with pytest.raises(ValueError, match="transmitted"):
        label_stains({"dapi": dapi, "cy5": dapi}, StainsSpec(cells=CellAreaSpec()), pixel_size_um=1)
    output = label_stains({"dapi": dapi, "cy5": dapi}, StainsSpec(bleed_through={}), pixel_size_um=None)
    assert "pixel size" in output.notes[0]


def test_overlay_draws_each_class_in_its_color(tmp_path):
    """Edges have the class's colour, inner pixels the image's grey, ignored ones are dark; the file is as asked."""
    actual = labeled(drawn(FOUR), drawn([FOUR[2]], seed=1))
    classes, nuclei = actual.classes.copy(), actual.nuclei.copy()
    classes[:, 220:] = nuclei[:, 220:] = -1
    image = np.full((SIDE, SIDE), 5.0)
    image[:, ::2] = 9.0
    names = ("background", "live", "dead")
    picture = draw_overlay(image, classes, nuclei, names=names)
    for (y, x), number in (((40, 40), 1), ((120, 40), 2)):
        own = np.flatnonzero(nuclei[y] == nuclei[y, x])
        assert tuple(picture[y, own[0]]) == ON_IMAGES[number - 1] == tuple(picture[y, own[-1]])
        assert picture[y, x].tolist() == [255 * (x % 2 == 0)] * 3
    assert picture[:, 220:].max() == 102
    file = tmp_path / "new" / "a.png"
    write_overlay(
        file, image, classes, nuclei, names=names, title="P1 A4, t2 (8 h)", pixel_size_um=0.5, max_side_px=100
    )
    written = np.asarray(Image.open(file))
    small = draw_overlay(image, classes, nuclei, names=names, max_side_px=100)
    np.testing.assert_array_equal(written[HEADER_PX:, : small.shape[1]], small)
    head = written[:HEADER_PX].reshape(-1, 3)
    assert all((head == color).all(1).sum() > 100 for color in ON_IMAGES[:2])  # the key
    with pytest.raises(ValueError, match="must be one"):
        draw_overlay(image, classes[1:], nuclei, names=names)


def test_overlay_colors_follow_names():
    """With cells and an outline live is blue and dead vermilion as without; cells have a colour of their own."""
    classes, nuclei = np.zeros((2, 40, 40), np.int32)
    image = np.tile(np.arange(40.0), (40, 1))
    classes[5:35, 5:35] = 1
    for number, (y, x) in enumerate(((10, 10), (10, 24)), start=1):
        classes[y : y + 6, x : x + 6], nuclei[y : y + 6, x : x + 6] = 1 + number, number
    picture = draw_overlay(image, classes, nuclei, names=("background", "cell", "live", "dead", "outline"))
    assert tuple(picture[10, 12]) == ON_IMAGES[0] and tuple(picture[10, 26]) == ON_IMAGES[1]
    assert len(set(picture[2, 20])) == 1 and picture[30, 20].argmax() == 1  # bare grey; a tint of green


@pytest.mark.parametrize(("width_px", "size_um"), [(160, 0.65), (1075, 0.65), (2048, 1.3), (900, 0.001), (50, None)])
def test_scale_bar_has_a_round_length(width_px: int, size_um: float | None):
    """The bar is as long as it says, to a pixel, 1, 2 or 5 of a decade, and between 7 and 20 % of the width."""
    length_px, output = scale_bar(width_px, size_um)
    number, unit = output.split()
    assert unit == ("px" if size_um is None else "µm") and float(f"{float(number):e}"[0]) in (1, 2, 5)
    assert length_px == pytest.approx(float(number) / (size_um or 1), abs=0.51)
    assert 0.07 * width_px <= length_px <= 0.2 * width_px + 0.5
