from __future__ import annotations

import numpy as np
import pytest
import torch
from samples import target_contract as contract
from samples.hostile_labels import average_precision, hostile_labels, large_objects, shipped_labels
from scipy import ndimage
from torch.nn import functional as F

from segue.errors import SpecError
from segue.spec import validate
from segue.targets import boundary
from segue.targets.kernels.boundary import BOUNDARY, INTERIOR, UNKNOWN
from segue.targets.registry import build_target
from segue.targets.specs import BoundarySpec
from segue.targets.target import transform_channels

NAMES = ("background", "nucleus")
SETTINGS = [{}, {"boundary_px": 1}, {"boundary_px": 3.5, "boundary_weight": 5}, {"towards": "objects"}]


def target(**settings: object) -> boundary.Boundary:
    spec = BoundarySpec.model_validate({"name": "boundary", **settings})
    return build_target(spec, names=NAMES, instances=True, context="test")


def every_object(asked: boundary.Boundary) -> dict[str, float]:
    return {**asked.decode_params, "min_size_px": 0.0}


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_contract(settings: dict):
    """Parameters, equivariance of encoding and loss, parts of the loss, a perfect network, and garbage."""
    asked = target(**settings)
    contract.check_parameters(asked)
    contract.check_encoding_transforms(asked, atol=0)
    contract.check_loss_transforms(asked, transform_channels)
    contract.check_loss_parts(asked)
    contract.check_perfect_scores(asked, near=1e-3)
    contract.check_decode_is_a_function_of_shapes(asked, asked.decode_params)
    contract.check_garbage(asked, asked.decode_params)


def test_hostile_labels():
    """No object disappears, since each keeps an interior; those that are thick enough come back whole."""
    thick = {"touching", "gaps", "hollow", "border_cut", "empty", "one_object", "ignored_everywhere"}
    contract.check_hostile_labels(target(boundary_px=1), exact=thick - {"hollow"}, parameters=every_object(target()))
    contract.check_hostile_labels(target(), exact=thick - {"hollow", "border_cut"}, parameters=every_object(target()))
    for labels in hostile_labels().values():
        encoded = target().encode(torch.from_numpy(labels)[None])[0, 0].numpy()
        inner = np.unique(labels[(encoded == INTERIOR) | (encoded == UNKNOWN)])
        assert set(inner) == set(labels[labels > 0])


@pytest.mark.parametrize("boundary_px", [1, 1.5, 2, 3.2])
def test_classes_follow_from_distances(boundary_px: float):
    """Of an object with an interior, boundary is what scipy's distance to the outside says, seen beyond the border."""
    labels = hostile_labels()["touching"]
    labels[20:, :] = 0
    labels[:, 30:] = np.where(labels[:, 30:] > 0, 99, 0)
    actual = target(boundary_px=boundary_px).encode(torch.from_numpy(labels)[None])[0, 0].numpy()
    for label in np.unique(labels[labels > 0]):
        inside = labels == label
        distance = np.asarray(ndimage.distance_transform_edt(np.pad(inside, 9, mode="edge")))[9:-9, 9:-9]
        if (distance > boundary_px).any():
            assert np.array_equal(actual[inside] == BOUNDARY, distance[inside] <= boundary_px)
            assert np.array_equal(actual[inside] == INTERIOR, distance[inside] > boundary_px)


def test_towards_objects_only_contacts_are_boundary():
    """A lone object has none; of two that touch, the two columns on each side of the contact are."""
    labels = np.zeros((12, 20), dtype=np.int64)
    labels[2:10, 2:10], labels[2:10, 10:18] = 1, 2
    actual = target(towards="objects").encode(torch.from_numpy(labels)[None])[0, 0].numpy()
    assert (actual[2:10, 8:12] == BOUNDARY).all() and (actual == BOUNDARY).sum() == 8 * 4
    assert (actual[labels > 0] >= INTERIOR).all() and not actual[labels == 0].any()


def test_next_to_ignored_pixels_the_class_is_unknown():
    """Where only ignored pixels are near, the class is not asked; where the background is near as well, it is known."""
    labels = np.ones((12, 12), dtype=np.int64)
    labels[:, :3], labels[0] = -1, 0
    encoded = target().encode(torch.from_numpy(labels)[None])
    actual = encoded[0, 0].numpy()
    assert (actual[3:, 3:5] == UNKNOWN).all() and (actual[1:3, 3:] == BOUNDARY).all() and (actual[3:, 5:] == 1).all()
    assert torch.equal(target().target_classes(encoded)[0], torch.from_numpy(labels))
    assert target().normalizers(encoded).item() == (actual == 0).sum() + ((actual == 1) | (actual == 2)).sum()


def test_loss_is_weighted_cross_entropy():
    """The boundary's weight gives torch's weighted mean over the pixels whose class is known."""
    labels = contract.hostile_batch()
    asked = target(boundary_weight=5)
    scores, encoded = contract.random_scores(asked, labels), asked.encode(labels)
    classes = encoded[:, 0].long()
    classes[classes == UNKNOWN] = -1
    expected = F.cross_entropy(scores, classes, torch.tensor([1.0, 1.0, 5.0]), ignore_index=-1)
    torch.testing.assert_close(contract.loss_of(asked, scores, encoded), expected)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param({"boundary_px": 1}, {"dsb2018": 0.985, "bbbc039": 1.0}, marks=pytest.mark.slow),
        pytest.param({}, {"dsb2018": 0.97, "bbbc039": 0.997}, marks=pytest.mark.slow),
        ({"towards": "objects"}, {"dsb2018": 0.985, "bbbc039": 0.999}),
    ],
)
def test_shipped_labels_come_back(settings: dict, expected: dict[str, float]):
    """AP at IoU 0.9 of perfect scores, objects above 30 px: what thin boundaries keep, and thick ones lose."""
    asked = target(**settings)
    for name, least in expected.items():
        pairs = []
        for labels in shipped_labels(name, count=29 if name == "bbbc039" else None):
            encoded = asked.encode(torch.from_numpy(labels.astype(np.int64))[None])
            actual = asked.decode(contract.perfect_prediction(asked, encoded[0].numpy()), every_object(asked))
            pairs.append((large_objects(labels, above_px=30), large_objects(actual, above_px=30)))
        assert average_precision(pairs, iou=0.9) >= least


def test_decode_parameters():
    """Seeds above their threshold and size grow over the foreground; what has none is kept or left out, as asked."""
    interior = np.zeros((12, 30))
    interior[2:10, 2:6] = 0.9
    interior[2:10, 8:12] = 0.6
    interior[5, 25] = 0.9
    boundary_ = np.zeros_like(interior)
    boundary_[1:11, 1:13] = 0.9 - interior[1:11, 1:13]
    boundary_[2:9, 17:20] = 0.8
    boundary_[4:7, 24:27] = 0.9 - interior[4:7, 24:27]
    scores = np.log(np.stack([1 - interior - boundary_, interior + 1e-9, boundary_ + 1e-9])).astype(np.float32)

    def sizes(**changed: float) -> list[int]:
        actual = target().decode(scores, {**every_object(target()), **changed})
        return sorted(np.bincount(actual.ravel())[1:].tolist())

    assert sizes() == [9, 21, 60, 60]
    assert sizes(keep_unseeded=0) == [9, 60, 60]
    assert sizes(keep_unseeded=0, seed_threshold=0.7) == [9, 120]
    assert sizes(keep_unseeded=0, seed_min_px=3) == [60, 60] and sizes(seed_min_px=3) == [9, 21, 60, 60]
    assert sizes(min_size_px=21) == [21, 60, 60]
    assert sizes(foreground_threshold=0.85) == [9, 60, 60]


def test_refusals():
    """A boundary of half a pixel would be none, and is refused."""
    with pytest.raises(SpecError, match=r"boundary_px: found 0.5"):
        validate(BoundarySpec, {"name": "boundary", "boundary_px": 0.5}, context="x.toml")
