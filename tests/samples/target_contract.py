"""What every target of objects must fulfil, as checks that a target's own tests call, and predictions of no error."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from samples.hostile_labels import hostile_labels, matches
from segue import rng
from segue.data.augmentation import N_DIHEDRAL, dihedral
from segue.targets.boundary import Boundary
from segue.targets.descriptors import Descriptors
from segue.targets.distance import Distance
from segue.targets.flows import FLOW_SCALE, Flows
from segue.targets.kernels.boundary import INTERIOR, UNKNOWN
from segue.targets.rays import Rays
from segue.targets.target import Target

HOSTILE = hostile_labels()


CERTAIN = 10.0  # the logit of a perfect network


def perfect_prediction(target: Target, encoded: np.ndarray) -> np.ndarray:
    """Returns the scores (channels, H, W) float32 of a perfect network for one image's encoding."""
    if isinstance(target, Boundary):
        classes = np.where(encoded[0] == UNKNOWN, INTERIOR, encoded[0].clip(min=0))
        scores = np.where(classes == np.arange(3)[:, None, None], CERTAIN, -CERTAIN)
    elif isinstance(target, Distance):
        inside = encoded[1] > 0
        top = max(float(encoded[0].max()), 1.0)  # of what is unknown only its being inside is sure
        distance = np.where(inside & (encoded[0] < 0), top, encoded[0].clip(min=0))
        scores = np.stack([distance, np.where(inside, CERTAIN, -CERTAIN)][: target.channels])
    elif isinstance(target, Rays):
        scores = encoded.copy()
        edge = 1 / (1 + math.exp(CERTAIN))
        probability = np.clip(encoded[0].astype(np.float64), edge, 1 - edge)
        scores[0] = np.log(probability / (1 - probability))
    elif isinstance(target, Flows):
        scores = np.concatenate([FLOW_SCALE * encoded[:2], np.where(encoded[2:] > 0, CERTAIN, -CERTAIN)])
    elif isinstance(target, Descriptors):
        certain = 1 / (1 + np.exp(-CERTAIN))
        probabilities = encoded.clip(1 - certain, certain).astype(np.float64)
        scores = np.log(probabilities / (1 - probabilities))
    else:
        scores = np.where(encoded > 0, CERTAIN, -CERTAIN)
    return scores.astype(np.float32, copy=False)


def hostile_batch() -> Tensor:
    """Returns all hostile label maps, (N, 40, 40) int64."""
    return torch.from_numpy(np.stack(list(HOSTILE.values())))


def random_scores(target: Target, labels: Tensor, *, seed: int = 0) -> Tensor:
    """Returns scores (N, channels, H, W) of a wide normal distribution."""
    generator = rng.torch_generator("target contract", seed)
    return 3 * torch.randn(len(labels), target.channels, *labels.shape[-2:], generator=generator)


def loss_of(target: Target, scores: Tensor, encoded: Tensor) -> Tensor:
    """Returns the loss of a batch; 0 where it has no labels."""
    return (target.loss_sums(scores, encoded) / target.normalizers(encoded).clamp(min=1e-12)).sum()


def perfect_scores(target: Target, encoded: Tensor) -> np.ndarray:
    """Returns a perfect network's scores (N, channels, H, W)."""
    return np.stack([perfect_prediction(target, one) for one in encoded.numpy()])


def check_encoding_transforms(target: Target, *, atol: float = 1e-5) -> None:
    """The encoding of transformed labels is the transformed encoding, for all eight codes, hostile maps included."""
    for name, one in HOSTILE.items():
        labels = torch.from_numpy(one).expand(N_DIHEDRAL, -1, -1)
        codes = torch.arange(N_DIHEDRAL)
        encoded = target.encode(labels)
        assert encoded.dtype == torch.float32 and encoded.shape == (N_DIHEDRAL, target.target_channels, *one.shape)
        before = encoded.clone()
        transformed = target.transform(encoded, codes)
        assert torch.equal(encoded, before), "the encoding was written to"
        expected = target.encode(dihedral(labels[:, None], labels, codes)[1])
        torch.testing.assert_close(
            transformed, expected, atol=atol, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )
        assert torch.equal(target.target_classes(transformed), dihedral(labels[:, None], labels.clamp(max=1), codes)[1])


def check_loss_transforms(
    target: Target, transform_scores: Callable[[Tensor, Tensor], Tensor], *, rtol: float = 1e-5
) -> None:
    """Scores and labels transformed together have the same loss; `transform_scores` is that of scores."""
    labels = hostile_batch()
    scores = random_scores(target, labels)
    encoded = target.encode(labels)
    still = loss_of(target, scores, encoded)
    for code in range(N_DIHEDRAL):
        codes = torch.full((len(labels),), code)
        transformed = target.encode(dihedral(labels[:, None], labels, codes)[1])
        torch.testing.assert_close(
            loss_of(target, transform_scores(scores, codes), transformed), still, rtol=rtol, atol=0
        )


def check_loss_parts(target: Target) -> None:
    """Sums and normalizers of parts add up, ignored pixels have no gradient, and a batch of them alone has loss 0."""
    labels = hostile_batch()
    scores, encoded = random_scores(target, labels).requires_grad_(), target.encode(labels)
    sums, normalizers = target.loss_sums(scores, encoded), target.normalizers(encoded)
    assert sums.shape == normalizers.shape and sums.dtype == normalizers.dtype == torch.float32
    parts = [slice(0, 3), slice(3, 4), slice(4, None)]
    for whole, function in ((sums, target.loss_sums), (normalizers, lambda _, encoded: target.normalizers(encoded))):
        torch.testing.assert_close(
            whole, sum(function(scores[part], encoded[part]) for part in parts), rtol=1e-5, atol=1e-4
        )
    loss_of(target, scores, encoded).backward()
    assert scores.grad is not None and scores.grad.isfinite().all() and scores.grad.any()
    assert not scores.grad.movedim(1, -1)[labels < 0].any()
    unlabeled = target.encode(torch.full_like(labels[:1], -1))
    assert loss_of(target, scores[:1], unlabeled) == 0


def check_perfect_scores(target: Target, *, near: float) -> None:
    """A perfect network's loss is within `near` of the least, its classes are right, its probabilities sum to 1."""
    encoded = target.encode(hostile_batch())
    scores = torch.from_numpy(perfect_scores(target, encoded))
    assert 0 <= float(loss_of(target, scores, encoded)) - target.min_loss < near
    true, probabilities = target.target_classes(encoded), target.probabilities(scores)
    labeled = true >= 0
    assert torch.equal(target.classes(scores)[labeled], true[labeled])
    assert torch.equal(probabilities.argmax(1)[labeled], true[labeled])
    for given in (probabilities, target.probabilities(random_scores(target, true))):
        assert given.shape == (len(true), len(target.names), *true.shape[-2:]) and given.min() >= 0
        torch.testing.assert_close(given.sum(1), torch.ones(given[:, 0].shape))
    for half in (torch.bfloat16, torch.float16):
        assert target.loss_sums(scores.to(half), encoded).isfinite().all()


def check_hostile_labels(
    target: Target, *, exact: set[str], parameters: Mapping[str, float], iou: float = 0.999
) -> None:
    """No hostile map crashes, and in no result a pixel of an object is lost, or one of the background is gained.

    Objects of the maps in `exact` come back one by one with an IoU above `iou`.
    """
    assert exact <= set(HOSTILE)
    for name, labels in HOSTILE.items():
        encoded = target.encode(torch.from_numpy(labels)[None])
        objects = decoded(target, perfect_scores(target, encoded)[0], parameters)
        assert (objects[labels > 0] > 0).all() and not (objects[labels == 0] > 0).any(), name
        if name in exact:
            assert matches(labels, objects, iou=iou)[1:] == (0, 0), name


def check_decode_is_a_function_of_shapes(target: Target, parameters: Mapping[str, float]) -> None:
    """The ids of labels change no bit of the encoding, and decoding twice gives the same."""
    labels = HOSTILE["blobs"]
    renamed = np.where(labels > 0, 5 + (labels * 7919) % 1009, 0)
    first, second = (target.encode(torch.from_numpy(one)[None]) for one in (labels, renamed))
    assert torch.equal(first, second)
    scores = perfect_scores(target, first)[0] + random_scores(target, torch.from_numpy(labels)[None])[0].numpy()
    before = scores.copy()
    once = decoded(target, scores, parameters)
    assert np.array_equal(once, decoded(target, scores, parameters)) and np.array_equal(scores, before)


def check_garbage(target: Target, parameters: Mapping[str, float]) -> None:
    """Scores of noise, of one value everywhere and beyond all bounds decode, on oblong and tiny images too."""
    for shape in ((64, 48), (1, 1), (1, 9), (3, 1)):
        scores = random_scores(target, torch.zeros(1, *shape))[0].numpy()
        for garbage in (scores, scores * 1e30, np.zeros_like(scores), np.full_like(scores, 50), -1e4 + 0 * scores):
            decoded(target, garbage.astype(np.float32), parameters)
            for name, values in target.decode_search_space.items():
                for value in values if shape == (64, 48) and garbage is scores else ():
                    decoded(target, garbage, {**parameters, name: value})


def check_parameters(target: Target) -> None:
    """Every parameter has a rising range, and the default is one of it."""
    assert target.decode_params.keys() == target.decode_search_space.keys()
    for name, values in target.decode_search_space.items():
        assert list(values) == sorted(set(values)) and target.decode_params[name] in values, name


def decoded(target: Target, scores: np.ndarray, parameters: Mapping[str, float]) -> np.ndarray:
    """Returns the labels, seen to be int32 and numbered 1 … n in the order of first pixels."""
    labels = target.decode(scores, parameters)
    assert labels.dtype == np.int32 and labels.shape == scores.shape[1:]
    ids, first = np.unique(labels, return_index=True)
    first = first[ids > 0]
    assert ids.min() >= 0 and np.array_equal(ids[ids > 0], np.arange(1, len(first) + 1)) and (np.diff(first) > 0).all()
    return labels
