from __future__ import annotations

import numpy as np
import pytest
import torch
from samples.hostile_labels import average_precision, hostile_labels, large_objects, shipped_labels
from samples.target_contract import loss_of, perfect_prediction
from scipy import ndimage
from torch.nn import functional as F

from segue import rng
from segue.data.augmentation import N_DIHEDRAL, dihedral
from segue.errors import SegueError
from segue.labels import ops
from segue.targets import flows
from segue.targets.kernels import flows as flow_kernels
from segue.targets.registry import build_target
from segue.targets.specs import FlowsSpec

TARGET = build_target(FlowsSpec(name="flows"), names=("background", "nucleus"), instances=True, context="test")
HOSTILE = hostile_labels()
EVERYTHING = {"cellprob_threshold": 0.0, "flow_threshold": flows.NO_FLOW_FILTER, "min_size_px": 1.0}


def encoded(labels: np.ndarray) -> np.ndarray:
    return TARGET.encode(torch.from_numpy(labels.astype(np.int64))[None])[0].numpy()


def round_trip(labels: np.ndarray, parameters: dict[str, float] | None = None) -> np.ndarray:
    return TARGET.decode(perfect_prediction(TARGET, encoded(labels)), parameters or dict(TARGET.decode_params))


def scores_for(labels: torch.Tensor, seed: str) -> torch.Tensor:
    return 3 * torch.randn(len(labels), 3, *labels.shape[1:], generator=rng.torch_generator("flows", seed))


def smooth_scores(size: int, seed: str) -> np.ndarray:
    noise = rng.numpy_generator("flows", seed).standard_normal((3, size, size))
    smooth = np.stack([ndimage.gaussian_filter(plane, 3) for plane in noise])
    return (smooth / smooth.std() * 4).astype(np.float32)


def assert_numbered(labels: np.ndarray) -> None:
    """Objects are int32 and numbered 1 … n in the order of their first pixels."""
    ids, first = np.unique(labels, return_index=True)
    first = first[ids > 0]
    assert labels.dtype == np.int32 and labels.min() >= 0
    assert np.array_equal(ids[ids > 0], np.arange(1, len(first) + 1)) and np.all(np.diff(first) > 0)


def regions(mask: np.ndarray, *, corners: bool) -> np.ndarray:
    """Returns connected regions (H, W) int32 of a mask, 1 … n, by 8 neighbours or by 4."""
    actual = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, ndimage.generate_binary_structure(2, 1 + corners), output=actual)
    return actual


def heat_reference(inside: np.ndarray) -> np.ndarray:
    """Returns the flows of one connected object as the paper words them, with plain numpy."""
    inside = np.pad(inside, 1)
    y, x = np.nonzero(inside)
    far = (y - y.mean()) ** 2 + (x - x.mean()) ** 2
    centers = np.flatnonzero(far < far.min() + 1e-9)
    heat = np.zeros(inside.shape)
    for _ in range(2 * (np.ptp(y) + 1 + np.ptp(x) + 1)):
        heat[y[centers], x[centers]] += 1 / len(centers)
        heat = np.where(inside, ndimage.uniform_filter(heat, 3, mode="constant"), 0)
    gradient = np.zeros((2, *inside.shape))
    logarithm = np.log1p(np.maximum(heat, 0))
    gradient[0, 1:-1], gradient[1, :, 1:-1] = logarithm[2:] - logarithm[:-2], logarithm[:, 2:] - logarithm[:, :-2]
    norm = np.sqrt((gradient**2).sum(0))
    return np.where(inside & (norm > 1e-12), gradient / np.maximum(norm, 1e-12), 0)[:, 1:-1, 1:-1]


def test_flows_are_those_of_diffusing_heat():
    """Each object's flows equal a plain simulation of the paper's text on that object alone, touching others or not."""
    labels = np.where(HOSTILE["blobs"] > 0, HOSTILE["blobs"], 0)
    expected = np.zeros((2, *labels.shape))
    for label in np.unique(labels)[1:]:
        parts = regions(labels == label, corners=True)
        for part in range(1, parts.max() + 1):
            expected += heat_reference(parts == part)
    assert np.allclose(encoded(labels)[:2], expected, atol=1e-4)


@pytest.mark.parametrize("name", HOSTILE)
def test_turned_labels_have_turned_flows(name: str):
    """For all eight codes the encoding of turned labels is the turned encoding, bit for bit, and the loss the same."""
    labels = torch.from_numpy(HOSTILE[name])[None].repeat(N_DIHEDRAL, 1, 1)
    codes = torch.arange(N_DIHEDRAL)
    planes = TARGET.encode(labels)
    turned_labels = dihedral(planes, labels, codes)[1]
    assert torch.equal(TARGET.encode(turned_labels), TARGET.transform(planes, codes))
    scores = scores_for(labels[:1], name).repeat(N_DIHEDRAL, 1, 1, 1)
    as_scores = TARGET.transform(scores, codes)  # scores are flows and a plane too
    for code in range(N_DIHEDRAL):
        loss = loss_of(TARGET, as_scores[code : code + 1], TARGET.encode(turned_labels[code : code + 1]))
        assert loss.item() == pytest.approx(loss_of(TARGET, scores[:1], planes[:1]).item(), rel=1e-5)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_labels_lose_no_object(name: str):
    """Every pixel has its class and a unit flow or none, and each object gives pixels back when nothing is filtered."""
    labels = HOSTILE[name]
    planes = encoded(labels)
    assert np.array_equal(planes[2], np.sign(labels))
    length = np.sqrt((planes[:2].astype(np.float64) ** 2).sum(0))
    assert np.all((np.abs(length - 1) < 1e-6) | (length == 0)) and not length[labels <= 0].any()
    actual = round_trip(labels, EVERYTHING)
    assert_numbered(actual)
    assert set(np.unique(labels[labels > 0])) == set(np.unique(labels[(labels > 0) & (actual > 0)]))
    assert_numbered(round_trip(labels))


def test_order_of_ids_is_nothing():
    """Objects renumbered at random, with gaps, are decoded to the same labels, and twice the same."""
    labels = HOSTILE["blobs"]
    ids = rng.numpy_generator("flows", "ids").permutation(5000)[: labels.max() + 1] + 1
    other = np.where(labels > 0, ids[labels], labels)
    assert np.array_equal(round_trip(labels), round_trip(other))
    assert np.array_equal(round_trip(labels), round_trip(labels))


@pytest.mark.parametrize(("name", "count"), [("dsb2018", 16), ("bbbc039", 3)])
def test_shipped_labels_come_back(name: str, count: int):
    """decode(encode(labels)) has AP of at least .99 at IoU .9 on the shipped nuclei above 30 px."""
    maps = [large_objects(labels, above_px=30) for labels in shipped_labels(name, count=count)]
    assert average_precision([(labels, round_trip(labels)) for labels in maps], iou=0.9) >= 0.99


def test_loss_is_the_papers():
    """The loss is half the mean squared error of 5 × flows plus binary cross entropy, over labelled pixels alone."""
    labels = torch.from_numpy(np.stack([HOSTILE["blobs"], HOSTILE["ignored"], HOSTILE["hollow"]]))
    planes, scores = TARGET.encode(labels), scores_for(labels, "loss")
    known = labels >= 0
    error = F.mse_loss(scores[:, :2].movedim(1, -1)[known], 5 * planes[:, :2].movedim(1, -1)[known])
    entropy = F.binary_cross_entropy_with_logits(scores[:, 2][known], (labels[known] > 0).float())
    changed = scores.where(known[:, None], 1e3).requires_grad_()
    loss = loss_of(TARGET, changed, planes)
    loss.backward()
    assert loss.item() == pytest.approx((0.5 * error + entropy).item(), rel=1e-5)
    assert changed.grad is not None and not changed.grad.where(~known[:, None], 0.0).any()
    parts = sum(TARGET.loss_sums(scores[i : i + 1], planes[i : i + 1]) for i in range(3)) / TARGET.normalizers(planes)
    assert float(parts.sum()) == pytest.approx(loss.item(), rel=1e-5)
    perfect = torch.from_numpy(np.stack([perfect_prediction(TARGET, one.numpy()) for one in planes]))
    assert TARGET.min_loss <= loss_of(TARGET, perfect, planes).item() < 1e-3
    assert loss_of(TARGET, scores, TARGET.encode(torch.full_like(labels, -1))).item() == 0


def test_classes_and_probabilities_agree():
    """Probabilities sum to 1, their largest is the class, and a perfect network's class is the labelled one."""
    labels = torch.from_numpy(HOSTILE["ignored"])[None]
    planes, scores = TARGET.encode(labels), scores_for(labels, "classes")
    probabilities = TARGET.probabilities(scores)
    assert torch.allclose(probabilities.sum(1), torch.ones(1, *labels.shape[1:]))
    assert torch.equal(probabilities.argmax(1), TARGET.classes(scores))
    truth, perfect = (
        TARGET.target_classes(planes),
        torch.from_numpy(perfect_prediction(TARGET, planes[0].numpy()))[None],
    )
    assert torch.equal(truth, labels.sign()) and torch.equal(TARGET.classes(perfect)[truth >= 0], truth[truth >= 0])


@pytest.mark.parametrize("steps", [1, 31, 200])
def test_points_follow_flows_by_eulers_method(steps: int):
    """Ends equal those of all steps taken in plain numpy, though points at rest are followed no further."""
    scores = smooth_scores(48, "follow")
    inside = scores[2] > -2
    size = len(inside)
    field = np.zeros((size + 1, size + 1, 2), np.float32)
    field[:-1, :-1] = (scores[:2] * inside / 5).transpose(1, 2, 0)
    starts = np.flatnonzero(inside)
    points = np.stack([starts // size, starts % size], 1).astype(np.float32)
    for _ in range(steps):
        corner = points.astype(int)
        y, x = (points - corner.astype(np.float32)).T[:, :, None]
        (v, u), one = corner.T, np.float32(1)
        above = (one - y) * ((one - x) * field[v, u] + x * field[v, u + 1])
        points = np.clip(points + above + y * ((one - x) * field[v + 1, u] + x * field[v + 1, u + 1]), 0, size - 1)
    pixels = (points + np.float32(0.5)).astype(int)
    actual = flow_kernels.integrate_flows(field, starts, steps)
    assert np.mean(actual == pixels[:, 0] * size + pixels[:, 1]) > 0.998  # sums in another order may round otherwise


def test_flow_filter_removes_what_its_flows_do_not_fit():
    """An object predicted with flows too short stays at a high threshold and goes at a low one; its neighbour stays."""
    labels = np.zeros((40, 40), np.int64)
    labels[5:16, 5:16], labels[20:33, 20:35] = 1, 2
    scores = perfect_prediction(TARGET, encoded(labels))
    scores[:2, :18] *= 0.3  # squared error (1 − 0.3)² = 0.49
    parameters = dict(TARGET.decode_params)
    assert np.array_equal(TARGET.decode(scores, {**parameters, "flow_threshold": 0.6}), labels)
    assert np.array_equal(TARGET.decode(scores, parameters), labels == 2)
    assert not TARGET.decode(scores, {**parameters, "cellprob_threshold": 11.0}).any()
    assert np.array_equal(TARGET.decode(scores, {**parameters, "flow_threshold": 0.6, "min_size_px": 150}), labels == 2)


def filled(labels: np.ndarray) -> np.ndarray:
    return ops.fill_holes(labels, connectivity=4)


def test_holes_are_filled_but_not_with_objects():
    """A hole of background becomes part of the object around it; one that holds an object, or is open, stays."""
    labels = np.zeros((40, 40), np.int64)
    labels[2:14, 2:14], labels[20:38, 18:38], labels[0:8, 25:35] = 1, 2, 4
    labels[9, 9:12] = 0  # a hole
    labels[0:2, 30] = 0  # open to the border
    labels[33:36, 22:25] = 0
    expected = labels.copy()
    expected[9, 9:12], expected[33:36, 22:25] = 1, 2
    assert np.array_equal(filled(labels), expected)
    labels[34, 23] = 3
    expected[33:36, 22:25] = labels[33:36, 22:25]
    assert np.array_equal(filled(labels), expected)


def test_peaks_are_local_maxima():
    """Peaks are where scipy's 5 × 5 maximum filter changes nothing, and tied ones side by side gather as one."""
    counts = rng.numpy_generator("flows", "peaks").integers(0, 40, (30, 31))
    expected = np.flatnonzero((counts == ndimage.maximum_filter(counts, 5)) & (counts > 10))
    assert np.array_equal(flow_kernels.find_seeds(counts, 10), expected)
    counts = np.zeros((20, 20), np.int64)
    counts[4, 4] = counts[5, 5] = 30
    counts[4:10, 15] = [50, 9, 9, 2, 9, 9]  # grows as far as places hold more than two
    places = flow_kernels.find_seeds(counts, 10)
    owners = flow_kernels.cluster_endpoints(counts, places[np.argsort(counts.ravel()[places], kind="stable")])
    assert owners[4, 4] == owners[5, 5] == 1 and np.count_nonzero(owners == 1) == 2
    assert owners[4:10, 15].tolist() == [2, 2, 2, 0, 0, 0]


@pytest.mark.parametrize("seed", ["a", "b"])
def test_garbage_is_decoded_to_something(seed: str):
    """Scores of no meaning, rough or smooth, small or huge, give numbered labels, the same each time."""
    noise = rng.numpy_generator("flows", "garbage", seed).standard_normal((3, 64, 50)).astype(np.float32)
    for scores in (noise, 100 * noise, smooth_scores(64, seed), np.ones((3, 33, 20), np.float32), noise[:, :1, :1]):
        actual = TARGET.decode(scores, EVERYTHING)
        assert_numbered(actual)
        assert actual.shape == scores.shape[1:] and np.array_equal(actual, TARGET.decode(scores, EVERYTHING))
    with pytest.raises(SegueError, match="NaN or infinite"):
        TARGET.decode(np.full((3, 8, 8), np.nan, np.float32), EVERYTHING)


def test_more_than_one_kind_of_objects_is_refused():
    """A layer of three classes is no layer of objects, and the message says what to do."""
    with pytest.raises(SegueError, match=r"background, a, b; use a layer of instances"):
        build_target(FlowsSpec(name="flows"), names=("background", "a", "b"), instances=True, context="test")
