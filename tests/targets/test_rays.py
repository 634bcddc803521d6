"""Star-convex polygons: what is taught, its loss, and the way back, against the stardist package and by geometry."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from samples.target_contract import perfect_prediction
from scipy.optimize import linear_sum_assignment
from skimage.draw import polygon

from segue import rng
from segue.data import augmentation
from segue.errors import SegueError, SpecError
from segue.spec import validate
from segue.targets import rays
from segue.targets.kernels import rays as kernels
from segue.targets.rays import Rays
from segue.targets.registry import build_target
from segue.targets.specs import RaysSpec

DATA = Path(__file__).parents[2] / "examples" / "data"
STARDIST = json.loads((Path(__file__).parents[1] / "data" / "rays" / "stardist.json").read_text(encoding="utf-8"))
TARGET = Rays(("background", "nucleus"))


def read(name: str) -> np.ndarray:
    return np.array(Image.open(DATA / name)).astype(np.int64)


def encoded(labels: np.ndarray, target: Rays = TARGET) -> np.ndarray:
    """Returns (1 + rays, H, W) of one label map."""
    return target.encode(torch.from_numpy(labels)[None])[0].numpy()


def round_trip(labels: np.ndarray, target: Rays = TARGET) -> np.ndarray:
    return target.decode(perfect_prediction(target, encoded(labels, target)), target.decode_params)


def hostile(size: int = 40) -> dict[str, np.ndarray]:
    """Returns label maps that break careless code."""
    empty = np.zeros((size, size), np.int64)
    y, x = np.mgrid[:size, :size]
    touching, tiny, cut, gaps = empty.copy(), empty.copy(), empty.copy(), empty.copy()
    touching[5:15, 5:15], touching[5:15, 15:25], touching[15:25, 5:25] = 1, 2, 3
    tiny[3, 3], tiny[10, 10:12], tiny[20:22, 20], tiny[30:32, 30:32], tiny[3, 4] = 1, 2, 3, 4, 5
    cut[:6, :7], cut[-1, 10:20], cut[15:25, -2:], cut[0, 39], cut[25:, :1] = 1, 2, 3, 4, 5
    gaps[2:9, 2:9], gaps[12:20, 12:20], gaps[25:33, 25:33] = 7, 2**40, 1000
    radius = np.hypot(y - 20, x - 20)
    hollow = np.where(radius < 6, 2, np.where((radius > 10) & (radius < 17), 1, 0))
    ignored = touching.copy()
    ignored[:8], ignored[:, :3] = -1, -1
    noise = rng.numpy_generator("hostile").integers(-1, 4, (size, size))
    everything = {"touching": touching, "tiny": tiny, "cut": cut, "gaps": gaps, "hollow": hollow, "ignored": ignored}
    return everything | {"empty": empty, "one": empty + 3, "all_ignored": empty - 1, "noise": noise}


HOSTILE = hostile()
TOLD = ("touching", "tiny", "cut", "gaps", "ignored", "one")  # none of their objects is hollow or in parts


def walked(labels: np.ndarray, y: int, x: int, angle: float) -> float:
    """Returns the distance along a ray by walking it, in steps of 1 px rounded to the nearest pixel."""
    unit = np.array([math.sin(angle), math.cos(angle)])
    unit[np.abs(unit) < 1e-12] = 0
    count = 0
    while True:
        step = (count + 1) * unit
        row, column = (np.array([y, x]) + np.sign(step) * np.floor(np.abs(step) + 0.5 + 1e-12)).astype(int)
        beyond = not (0 <= row < labels.shape[0] and 0 <= column < labels.shape[1])
        if beyond or labels[row, column] != labels[y, x]:
            return count + 0.5 / np.abs(unit).max()
        count += 1


def stars(count: int, rays_: int, name: str, *, spread: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Returns centres (count, 2) and radii (count, R) of irregular star-convex polygons."""
    generator = rng.numpy_generator("stars", name)
    centers = generator.integers(8, 40, (count, 2))
    size = generator.uniform(3, 9, (count, 1))
    return centers, (size * generator.uniform(1 - spread, 1 + spread, (count, rays_))).astype(np.float32)


def test_pixels_are_taught_as_by_stardist():
    """Probabilities and distances equal those of the stardist package at pixels of a real label image."""
    known = STARDIST["pixels"]
    rows, columns = np.array(known["places"]).T
    actual = encoded(read(known["file"]))[:, rows, columns]
    np.testing.assert_allclose(actual[0], known["probabilities"], atol=2e-6)
    np.testing.assert_allclose(actual[1:].T, known["distances"], atol=2e-4)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("count", [8, 12, 32])
def test_distances_are_those_of_walking_each_ray(name: str, count: int):
    """The displaced masks give, at every pixel of hostile maps, what walking the ray step by step gives."""
    labels = HOSTILE[name]
    actual = encoded(labels, Rays(("background", "object"), count))
    assert not actual[1:, labels <= 0].any()
    for y, x in np.argwhere(labels > 0)[::17]:
        expected = [walked(labels, y, x, 2 * math.pi * k / count) for k in range(count)]
        np.testing.assert_allclose(actual[1:, y, x], expected, rtol=1e-6)


def test_long_distances_are_counted_beyond_a_byte():
    """Objects longer than 255 steps have their whole distances."""
    labels = np.ones((3, 700), np.int64)
    labels[2] = 0
    actual = encoded(labels, Rays(("background", "object"), 8))
    assert actual[1, 0].tolist() == [699.5 - x for x in range(700)]
    assert actual[5, 1].tolist() == [x + 0.5 for x in range(700)]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_maps_are_taught_whole(name: str):
    """Every object pixel has a probability in (0, 1], each object reaches 1, and ignored pixels are recognisable."""
    labels = HOSTILE[name]
    actual = encoded(labels)
    assert np.isfinite(actual).all() and actual.shape == (33, *labels.shape) and actual.dtype == np.float32
    truth = TARGET.target_classes(torch.from_numpy(actual)[None])[0].numpy()
    assert np.array_equal(truth, np.sign(labels))
    assert all(actual[0][labels == label].max() == 1 for label in np.unique(labels[labels > 0]))
    assert (actual[1:, labels > 0] >= 0.5).all()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_maps_lose_no_object(name: str):
    """Of every object some pixels come back, as an object of their own where it is neither hollow nor in parts."""
    labels = HOSTILE[name]
    actual = round_trip(labels)
    ids = np.unique(labels[labels > 0])
    assert actual.dtype == np.int32 and all(actual[labels == label].any() for label in ids)
    if name in TOLD:
        assert actual.max() == len(ids)
        firsts = [np.flatnonzero(actual == label)[0] for label in range(1, actual.max() + 1)]
        assert firsts == sorted(firsts)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dsb2018", "bbbc039"])
def test_round_trip_is_as_good_as_that_of_stardist(name: str):
    """AP of decode(encode(labels)) at IoU 0.5 … 0.95 is within .002 of the stardist package's on all shipped labels.

    Compared with its suppression without border; by default it leaves out candidates within 2 px of the image's border
    and then loses the objects there.
    """
    known = STARDIST["sets"][name]
    files = sorted((DATA / name / "labels").glob("*.png"))
    assert len(files) == known["images"]
    counts = np.zeros((len(STARDIST["iou"]), 3), np.int64)
    for file in files:
        labels = read(f"{name}/labels/{file.name}")
        counts += matched(labels, round_trip(labels))
    ap = counts[:, 0] / counts.sum(1)
    assert ap.mean() == pytest.approx(np.mean(known["ap"]), abs=0.002)
    assert ap[:-1] == pytest.approx(known["ap"][:-1], abs=0.0025)
    assert (ap > known["ap_without_candidates_within_2_px_of_the_border"]).all()


def matched(labels: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Returns true positives, false positives and false negatives (thresholds, 3)."""
    ids, dense = np.unique(labels, return_inverse=True)
    objects, others = len(ids), int(found.max()) + 1
    table = np.bincount(dense.ravel() * others + found.ravel(), minlength=objects * others).reshape(objects, others)
    shared = table[1:, 1:]
    iou = shared / (table.sum(1)[1:, None] + table.sum(0)[None, 1:] - shared)
    rows, columns = linear_sum_assignment(-iou)
    hits = (iou[rows, columns][None] >= np.array(STARDIST["iou"])[:, None]).sum(1)
    return np.stack([hits, shared.shape[1] - hits, shared.shape[0] - hits], 1)


@pytest.mark.parametrize("count", [8, 12, 32])
def test_encoding_turns_with_the_labels(count: int):
    """Turning labels by each of the eight codes and turning their encoding are the same, bit for bit."""
    target = Rays(("background", "object"), count)
    maps = torch.from_numpy(np.stack(list(HOSTILE.values())))
    known = target.encode(maps)
    for code in range(augmentation.N_DIHEDRAL):
        codes = torch.full((len(maps),), code)
        labels = augmentation.dihedral(maps[:, None].float(), maps, codes)[1]
        assert torch.equal(target.transform(known, codes), target.encode(labels))


def test_samples_turn_by_codes_of_their_own():
    """A batch of mixed codes is turned as its samples alone; half turns do for tiles that are not square."""
    known = TARGET.encode(torch.from_numpy(np.stack([HOSTILE["touching"], HOSTILE["cut"], HOSTILE["ignored"]])))
    codes = torch.tensor([5, 0, 7])
    alone = [TARGET.transform(known[i : i + 1], codes[i : i + 1])[0] for i in range(3)]
    assert torch.equal(TARGET.transform(known, codes), torch.stack(alone))
    wide = known[:, :, :20]
    assert torch.equal(TARGET.transform(TARGET.transform(wide, torch.full((3,), 3)), torch.full((3,), 3)), wide)
    with pytest.raises(SegueError, match="20 × 40 px"):
        TARGET.transform(wide, codes)


def loss(scores: torch.Tensor, taught: torch.Tensor, target: Rays = TARGET) -> torch.Tensor:
    return (target.loss_sums(scores, taught) / target.normalizers(taught).clamp(min=1e-12)).sum()


def test_loss_turns_with_the_batch():
    """Scores and labels turned together have the same loss."""
    taught = TARGET.encode(torch.from_numpy(np.stack(list(HOSTILE.values()))))
    scores = 3 * torch.randn(taught.shape, generator=rng.torch_generator("rays"))
    expected = loss(scores, taught)
    for code in range(augmentation.N_DIHEDRAL):
        codes = torch.full((len(taught),), code)
        assert loss(TARGET.transform(scores, codes), TARGET.transform(taught, codes)).item() == pytest.approx(
            expected.item(), rel=1e-5
        )


def test_loss_is_the_published_one():
    """Against the formula of the stardist package, written down in float64 numpy for a batch without ignored pixels."""
    taught = TARGET.encode(torch.from_numpy(np.stack([HOSTILE["touching"], HOSTILE["hollow"], HOSTILE["empty"]])))
    scores = 3 * torch.randn(taught.shape, generator=rng.torch_generator("rays"))
    p, d = taught.double().numpy()[:, 0], taught.double().numpy()[:, 1:]
    z, e = scores.double().numpy()[:, 0], scores.double().numpy()[:, 1:]
    q = 1 / (1 + np.exp(-z))
    probability = -(p * np.log(q) + (1 - p) * np.log(1 - q)).mean()
    distance = (p[:, None] * np.abs(d - e)).mean() / p.mean() + 1e-4 * ((1 - p)[:, None] * np.abs(e)).mean()
    assert loss(scores, taught).item() == pytest.approx(probability + 0.2 * distance, rel=1e-5)


def test_ignored_pixels_count_nowhere():
    """Scores of ignored pixels change nothing and get no gradient; a batch of them alone has loss 0."""
    taught = TARGET.encode(torch.from_numpy(HOSTILE["ignored"])[None])
    ignored = taught[:, :1] < 0
    scores = torch.randn(taught.shape, generator=rng.torch_generator("rays"))
    changed = scores.where(~ignored, 50.0).requires_grad_()
    actual = loss(changed, taught)
    actual.backward()
    assert actual.item() == pytest.approx(loss(scores, taught).item(), rel=1e-6)
    assert changed.grad is not None and changed.grad.isfinite().all()
    assert not changed.grad.where(ignored, 0.0).any() and changed.grad.where(~ignored, 0.0).any()
    assert loss(scores, torch.zeros_like(taught).index_fill(1, torch.tensor([0]), -1)).item() == 0


def test_perfect_scores_have_the_least_loss_and_the_true_classes():
    """Ideal scores have only the entropy of the probabilities as loss, and the true classes; probabilities fit them."""
    taught = TARGET.encode(torch.from_numpy(np.stack([HOSTILE["touching"], HOSTILE["cut"], HOSTILE["ignored"]])))
    ideal = torch.from_numpy(np.stack([perfect_prediction(TARGET, one.numpy()) for one in taught]))
    p = taught[:, 0][taught[:, 0] >= 0].double()
    entropy = -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)).mean()
    totals = TARGET.loss_sums(ideal, taught)
    assert loss(ideal, taught).item() == pytest.approx(entropy.item(), abs=1e-3) and totals[1] == 0
    truth, known = TARGET.target_classes(taught), taught[:, 0] >= 0
    assert torch.equal(TARGET.classes(ideal)[known], truth[known])
    scores = 4 * torch.randn(taught.shape, generator=rng.torch_generator("rays"))
    probabilities = TARGET.probabilities(scores)
    assert probabilities.shape == (3, 2, 40, 40) and torch.allclose(probabilities.sum(1), torch.ones(3, 40, 40))
    assert torch.equal(probabilities.argmax(1), TARGET.classes(scores))


def test_ids_and_their_order_mean_nothing():
    """Labels with other ids, in another order and with gaps, are taught the same, and decoding repeats itself."""
    labels = read(STARDIST["pixels"]["file"])
    ids = np.unique(labels)
    others = np.concatenate([[0], rng.numpy_generator("ids").permutation(10**6)[1 : len(ids)] + 1])
    other = others[np.searchsorted(ids, labels)]
    assert np.array_equal(encoded(labels), encoded(other)) and np.array_equal(encoded(labels), encoded(-(-other << 30)))
    assert np.array_equal(round_trip(labels), round_trip(other))


def test_common_area_of_squares_is_in_closed_form():
    """Displaced and nested squares with a vertex per ray share rectangles of known area."""
    radii = 3 * 2 * rays.border_px(32)
    square = np.ascontiguousarray((radii[:, None] * rays.directions(32)).T)
    for dy, dx in ((0.3, 0.2), (1.5, -2.25), (5.9, 0.1), (6.1, 0.0), (-3.01, 4.7)):
        expected = max(0.0, 6 - abs(dy)) * max(0.0, 6 - abs(dx))
        assert kernels.intersection_area(square[0] + dy, square[1] + dx, *square) == pytest.approx(expected, abs=1e-9)
    assert kernels.intersection_area(*(0.25 * square + 0.1), *square) == pytest.approx(36 / 16)


def test_common_area_of_stars_is_that_of_their_pixels():
    """Irregular stars share the area counted on a fine grid, either way round, and a star shares all with itself."""
    centers, radii = stars(12, 16, "area")
    unit, scale = rays.directions(16), 40
    polygons = np.ascontiguousarray((centers[:, None] + radii[..., None] * unit).swapaxes(1, 2))
    polygons += 1e-7 * np.arange(12)[:, None, None]
    masks = np.zeros((12, 60 * scale, 60 * scale), bool)
    for mask, (ys, xs) in zip(masks, polygons, strict=True):
        mask[polygon(ys * scale, xs * scale, mask.shape)] = True
    for i in range(0, 12, 2):
        a, b = polygons[i], polygons[i + 1]
        actual = kernels.intersection_area(a[0], a[1], b[0], b[1])
        assert actual == pytest.approx((masks[i] & masks[i + 1]).sum() / scale**2, abs=0.15)
        assert actual == pytest.approx(kernels.intersection_area(b[0], b[1], a[0], a[1]), abs=1e-6)
        assert kernels.intersection_area(a[0] + 1e-7, a[1] - 3e-8, a[0], a[1]) == pytest.approx(
            masks[i].sum() / scale**2, abs=0.4
        )


def test_polygons_are_drawn_as_by_skimage():
    """Irregular stars cover the same pixels as skimage's polygon."""
    centers, radii = stars(40, 16, "draw")
    for center, own in zip(centers, radii, strict=True):
        ys, xs = np.ascontiguousarray(center[:, None] + own * rays.directions(16).T) + 1e-3
        actual, expected = np.zeros((48, 48), np.int32), np.zeros((48, 48), np.int32)
        kernels.fill_polygon(actual, 1, ys, xs)
        expected[polygon(ys, xs, expected.shape)] = 1
        assert np.array_equal(actual, expected)


@pytest.mark.parametrize("threshold", [0.05, 0.2, 0.4, 0.6])
@pytest.mark.parametrize("spread", [0.1, 0.6])
def test_suppression_is_that_of_all_pairs(threshold: float, spread: float):
    """Cells, discs and boxes leave the same polygons as exact overlaps of each candidate with all kept before."""
    centers, radii = stars(150, 16, "pairs", spread=spread)
    places = np.unique(centers[:, 0] * 48 + centers[:, 1])
    radii, order = radii[: len(places)], rng.numpy_generator("order").permutation(len(places))
    radii[::9] *= 3
    unit = rays.directions(16)
    vertices = np.stack(np.divmod(places, 48), 1)[:, None] + radii[..., None] * unit
    polygons = np.ascontiguousarray(vertices.swapaxes(1, 2))
    following = np.roll(radii, -1, 1)
    areas = (radii.astype(float) * following).sum(1) * math.sin(math.pi / 8) / 2
    expected: list[int] = []
    for i in order:
        near = [
            kernels.intersection_area(*(polygons[j] + 1e-7), *polygons[i]) / min(areas[i], areas[j]) for j in expected
        ]
        if all(share <= threshold for share in near):
            expected.append(i)
    labels = np.zeros((48, 48), np.int32)
    actual = kernels.non_maximum_suppression(places, radii, order, unit, threshold, labels)
    assert actual.tolist() == expected and 3 < len(expected) < len(places)
    drawn = np.zeros_like(labels)
    for number, i in enumerate(expected, 1):
        kernels.fill_polygon(drawn, number, *polygons[i])
    assert np.array_equal(labels, drawn)


def test_polygons_are_the_objects_that_are_decoded():
    """Vertices drawn in order of probability give the labels; each object's probability is that of its proposer."""
    labels = read(STARDIST["pixels"]["file"])
    scores = perfect_prediction(TARGET, encoded(labels))
    noise = rng.numpy_generator("scores").normal(size=scores.shape)
    scores[0] += 0.3 * noise[0]
    scores[1:] *= 1 + 0.1 * noise[1:]
    vertices, probabilities = TARGET.polygons(scores, TARGET.decode_params)
    decoded = TARGET.decode(scores, TARGET.decode_params)
    assert vertices.shape == (decoded.max(), 32, 2) and probabilities.shape == (decoded.max(),)
    assert (probabilities > 0.5).all() and (probabilities <= 1).all()
    drawn = np.zeros_like(decoded)
    for index in np.argsort(-probabilities, kind="stable"):
        kernels.fill_polygon(drawn, index + 1, *np.ascontiguousarray(vertices[index].T, float))
    assert (drawn != decoded).mean() < 1e-3


def test_thresholds_do_what_they_say():
    """A higher probability threshold proposes less, a higher overlap threshold suppresses less."""
    scores = perfect_prediction(TARGET, encoded(read(STARDIST["pixels"]["file"])))
    noise = rng.numpy_generator("scores").normal(size=scores.shape)
    scores[0] += 2 * noise[0]
    scores[1:] *= np.exp(0.6 * noise[1:])

    def found(probability: float, overlap: float) -> int:
        return int(TARGET.decode(scores, {"prob_threshold": probability, "nms_threshold": overlap}).max())

    counts = [found(0.5, overlap) for overlap in TARGET.decode_search_space["nms_threshold"]]
    assert counts == sorted(counts) and counts[0] < counts[-1]
    assert found(0.3, 0.4) >= found(0.8, 0.4) > 0
    assert found(1.0, 0.4) == 0


def test_many_candidates_are_thinned_by_cells(monkeypatch: pytest.MonkeyPatch):
    """With few candidates allowed, the best of each cell still finds every object of a real image of large ones."""
    labels = read("bbbc039/labels/" + sorted((DATA / "bbbc039" / "labels").glob("*.png"))[0].name)[:300, :300]
    scores, expected = perfect_prediction(TARGET, encoded(labels)), round_trip(labels)
    monkeypatch.setattr(rays, "MAX_CANDIDATES", np.count_nonzero(scores[0] > 0) // 3)
    actual = TARGET.decode(scores, TARGET.decode_params)
    assert len(rays._candidates(scores[0], 0.0)) <= rays.MAX_CANDIDATES
    assert abs(int(actual.max()) - int(expected.max())) <= 1 and ((actual > 0) != (expected > 0)).mean() < 0.01


@pytest.mark.parametrize("scale", [0, 3, 1000])
def test_noise_is_decoded(scale: float):
    """Scores of noise, with distances below 0 and far beyond the image, give numbered objects inside it."""
    scores = rng.numpy_generator("noise").normal(size=(33, 64, 48)).astype(np.float32)
    scores[1:] *= scale
    scores[1, :4, :4], scores[2, :4, :4] = np.nan, np.inf
    actual = TARGET.decode(scores, TARGET.decode_params)
    assert actual.shape == (64, 48) and np.array_equal(np.unique(actual[actual > 0]), np.arange(1, actual.max() + 1))
    assert np.array_equal(actual, TARGET.decode(scores.copy(), TARGET.decode_params))


def test_settings_that_do_not_fit_are_refused():
    """Rays that quarter turns do not carry into rays, and layers of several kinds, are told."""
    with pytest.raises(SpecError, match="rays"):
        validate(RaysSpec, {"name": "rays", "rays": 30}, context="study.toml")
    spec = validate(RaysSpec, {"name": "rays", "rays": 16}, context="study.toml")
    assert build_target(spec, names=("background", "cell"), instances=True, context="study.toml").channels == 17
    with pytest.raises(SegueError, match="background, a, b; use a layer"):
        build_target(spec, names=("background", "a", "b"), instances=True, context="study.toml")
