from __future__ import annotations

import numpy as np
import pytest
import torch
from samples import target_contract as contract
from samples.hostile_labels import average_precision, hostile_labels, large_objects, shipped_labels
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from segue.errors import SpecError
from segue.spec import validate
from segue.targets import descriptors
from segue.targets.registry import build_target
from segue.targets.specs import DescriptorsSpec
from segue.targets.target import transform_channels

NAMES = ("background", "nucleus")
SETTINGS = [{}, {"affinities": False, "sigma_px": 4}]


def target(**settings: object) -> descriptors.Descriptors:
    return build_target(
        DescriptorsSpec.model_validate({"name": "descriptors", **settings}), names=NAMES, instances=True, context="test"
    )


def every_object(asked: descriptors.Descriptors) -> dict[str, float]:
    return {**asked.decode_params, "min_size_px": 0.0} | ({} if asked.affinities else {"least": 0.0})


def by_definition(labels: np.ndarray, sigma_px: float) -> np.ndarray:
    """Returns the six descriptors from scipy's Gaussian filter of whole masks and of absolute coordinates, float64."""
    y, x = np.mgrid[: labels.shape[0], : labels.shape[1]].astype(float)
    out = np.zeros((6, *labels.shape))
    for label in np.unique(labels[labels > 0]):
        mask = (labels == label).astype(float)

        def sums(weights: np.ndarray, mask: np.ndarray = mask) -> np.ndarray:
            return ndimage.gaussian_filter(mask * weights, sigma_px, mode="constant", truncate=3)

        size = np.maximum(sums(np.ones_like(mask)), 1e-30)
        at_y, at_x = sums(y) / size, sums(x) / size
        yy, xx = (np.maximum(sums(a * a) / size - b * b, 1e-3) for a, b in ((y, at_y), (x, at_x)))
        correlation = (sums(x * y) / size - at_x * at_y) / np.sqrt(yy * xx)
        planes = [(at_y - y) / sigma_px / 2 + 0.5, (at_x - x) / sigma_px / 2 + 0.5]
        planes += [yy / sigma_px**2, xx / sigma_px**2, correlation / 2 + 0.5, size]
        out += np.stack(planes).clip(0, 1) * mask
    return out


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS)
def test_the_contract(settings: dict):
    """Parameters, equivariance of the encoding, parts of the loss, a perfect network, and garbage."""
    asked = target(**settings)
    contract.check_parameters(asked)
    contract.check_encoding_transforms(asked, atol=1e-4)
    contract.check_loss_parts(asked)
    contract.check_perfect_scores(asked, near=1e-3)
    contract.check_decode_is_a_function_of_shapes(asked, asked.decode_params)
    contract.check_garbage(asked, asked.decode_params)


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS)
def test_loss_turns(settings: dict):
    """Scores turned as offsets, correlations and pairs of pixels turn have the same loss with turned labels."""
    asked = target(**settings)

    def turned(scores: Tensor, codes: Tensor) -> Tensor:
        # a logit's mirror image is its negative, as a probability's is 1 − p; `turned` wants to know what is inside
        inside = torch.ones_like(scores[:, :1])
        probabilities = torch.cat([scores[:, :6].sigmoid(), inside, scores[:, 7:].sigmoid()], dim=1).double()
        logits = torch.logit(asked.transform(probabilities, codes)).float()
        logits[:, 6:7] = transform_channels(scores[:, 6:7], codes)
        return logits

    contract.check_loss_transforms(asked, turned, rtol=1e-4)


@pytest.mark.parametrize("sigma_px", [1.0, 3.0, 10.0])
def test_descriptors_equal_their_definition(sigma_px: float):
    """Equal to Gaussian filters of whole masks, also for hollow objects, pieces, single pixels and at the border."""
    for name in ("touching", "tiny", "hollow", "border_cut", "single_pixels", "lines", "pieces", "blobs", "one_object"):
        labels = hostile_labels()[name]
        actual = target(sigma_px=sigma_px).encode(torch.from_numpy(labels)[None])[0].numpy()
        expected = by_definition(labels, sigma_px)
        np.testing.assert_allclose(actual[[0, 1, 2, 3, 5]], expected[[0, 1, 2, 3, 5]], atol=2e-5, err_msg=name)
        wide = expected[2:4].min(0) * sigma_px**2 > 0.01  # where variances are next to none, so is their quotient
        np.testing.assert_allclose(actual[4][wide], expected[4][wide], atol=1e-3, err_msg=name)


def test_affinities_tell_who_is_of_one_object():
    """Up and to the left: 1 within an object, 0 across objects and in the background, −1 at the border or ignored."""
    labels = np.array([[1, 1, 0], [1, 2, 0], [-1, 2, 0]])
    up, left = target().encode(torch.from_numpy(labels)[None])[0, 7:].tolist()
    assert up == [[-1, -1, -1], [1, 0, 0], [-1, 1, 0]]
    assert left == [[-1, 1, 0], [-1, 0, 0], [-1, -1, 0]]


def test_loss_is_of_three_parts():
    """Mean squared error of descriptors in objects, mean cross entropies of foreground and of known affinities."""
    labels = contract.hostile_batch()
    asked = target(descriptor_weight=2)
    scores, encoded = contract.random_scores(asked, labels), asked.encode(labels)
    inside, known = (labels > 0)[:, None].expand(-1, 6, -1, -1), encoded[:, 7:] >= 0
    expected = 2 * F.mse_loss(scores[:, :6].sigmoid()[inside], encoded[:, :6][inside])
    expected += F.binary_cross_entropy_with_logits(scores[:, 6][labels >= 0], (labels[labels >= 0] > 0).float())
    expected += F.binary_cross_entropy_with_logits(scores[:, 7:][known], encoded[:, 7:][known])
    torch.testing.assert_close(contract.loss_of(asked, scores, encoded), expected)


@pytest.mark.slow
def test_hostile_labels():
    """With affinities objects come back exactly, but for parts that share no side; without, none disappears."""
    asked, exact = target(), set(hostile_labels()) - {"pieces", "tiny", "lines", "blobs", "ignored"}  # split
    contract.check_hostile_labels(asked, exact=exact, parameters=every_object(asked))
    asked = target(**SETTINGS[1])
    contract.check_hostile_labels(asked, exact={"empty", "one_object"}, parameters=every_object(asked))


@pytest.mark.slow
def test_shipped_labels_come_back():
    """AP at IoU 0.9 of decoded perfect scores on objects above 30 px: what parts that share no side lose, no more."""
    for settings, least in ((SETTINGS[0], {"dsb2018": 0.996, "bbbc039": 1.0}), (SETTINGS[1], {"bbbc039": 0.9})):
        asked = target(**settings)
        for name, expected in least.items():
            pairs = []
            for labels in shipped_labels(name, count=None if asked.affinities else 5):
                encoded = asked.encode(torch.from_numpy(labels.astype(np.int64))[None])
                actual = asked.decode(contract.perfect_prediction(asked, encoded[0].numpy()), every_object(asked))
                pairs.append((large_objects(labels, above_px=30), large_objects(actual, above_px=30)))
            assert average_precision(pairs, iou=0.9) >= expected


@pytest.mark.slow
def test_one_weak_affinity_joins_nothing():
    """A strong affinity across a contact, where all others are weak, does not merge two objects."""
    labels = np.zeros((16, 20), dtype=np.int64)
    labels[2:14, 2:10], labels[2:14, 10:18] = 1, 2
    asked = target()
    scores = contract.perfect_prediction(asked, asked.encode(torch.from_numpy(labels)[None])[0].numpy())
    scores[8, 7, 10] = 8
    actual = asked.decode(scores, asked.decode_params)
    assert actual.max() == 2 and np.array_equal(actual, labels)


def test_refusals():
    """A window of less than a pixel is refused."""
    with pytest.raises(SpecError, match=r"sigma_px: found 0\.5"):
        validate(DescriptorsSpec, {"name": "descriptors", "sigma_px": 0.5}, context="x.toml")
