"""What every target of objects must keep, as checks that a target's own tests call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from samples.hostile_labels import hostile_labels, matches
from segue import rng
from segue.data.augmentation import CODES, dihedral
from segue.targets.target import Target

HOSTILE = hostile_labels()


class Invertible(Target, Protocol):
    """A target that knows the scores of a perfect network, so that what decoding makes of them can be seen."""

    def ideal(self, encoded: np.ndarray) -> np.ndarray:
        """Returns scores (channels, H, W) float32 for one image's encoding (planes, H, W)."""
        ...


def hostile_batch() -> Tensor:
    """Returns all hostile label maps, (N, 40, 40) int64."""
    return torch.from_numpy(np.stack(list(HOSTILE.values())))


def random_scores(target: Invertible, labels: Tensor, *, seed: int = 0) -> Tensor:
    """Returns scores (N, channels, H, W) of a wide normal distribution."""
    generator = rng.torch_generator("target contract", seed)
    return 3 * torch.randn(len(labels), target.channels, *labels.shape[-2:], generator=generator)


def loss(target: Invertible, scores: Tensor, encoded: Tensor) -> Tensor:
    return (target.totals(scores, encoded) / target.masses(encoded).clamp(min=1e-12)).sum()


def ideal_scores(target: Invertible, encoded: Tensor) -> np.ndarray:
    """Returns a perfect network's scores (N, channels, H, W)."""
    return np.stack([target.ideal(one) for one in encoded.numpy()])


def check_encoding_turns(target: Invertible, *, atol: float = 1e-5) -> None:
    """The encoding of turned labels is the turned encoding, for the eight codes in one batch, hostile maps included."""
    for name, one in HOSTILE.items():
        labels = torch.from_numpy(one).expand(CODES, -1, -1)
        codes = torch.arange(CODES)
        encoded = target.encode(labels)
        assert encoded.dtype == torch.float32 and encoded.shape == (CODES, target.planes, *one.shape)
        before = encoded.clone()
        turned = target.turned(encoded, codes)
        assert torch.equal(encoded, before), "the encoding was written to"
        expected = target.encode(dihedral(labels[:, None], labels, codes)[1])
        torch.testing.assert_close(turned, expected, atol=atol, rtol=0, msg=lambda text, name=name: f"{name}: {text}")
        assert torch.equal(target.truth(turned), dihedral(labels[:, None], labels.clamp(max=1), codes)[1])


def check_loss_turns(
    target: Invertible, turn_scores: Callable[[Tensor, Tensor], Tensor], *, rtol: float = 1e-5
) -> None:
    """Scores and labels turned together have the same loss; `turn_scores(scores, codes)` turns what a network gives."""
    labels = hostile_batch()
    scores = random_scores(target, labels)
    encoded = target.encode(labels)
    still = loss(target, scores, encoded)
    for code in range(CODES):
        codes = torch.full((len(labels),), code)
        turned = target.encode(dihedral(labels[:, None], labels, codes)[1])
        torch.testing.assert_close(loss(target, turn_scores(scores, codes), turned), still, rtol=rtol, atol=0)


def check_loss_parts(target: Invertible) -> None:
    """Totals and masses of parts add up, ignored pixels have no gradient, and a batch of them alone has loss 0."""
    labels = hostile_batch()
    scores, encoded = random_scores(target, labels).requires_grad_(), target.encode(labels)
    totals, masses = target.totals(scores, encoded), target.masses(encoded)
    assert totals.shape == masses.shape and totals.dtype == masses.dtype == torch.float32
    parts = [slice(0, 3), slice(3, 4), slice(4, None)]
    for whole, of in ((totals, target.totals), (masses, lambda _, encoded: target.masses(encoded))):
        torch.testing.assert_close(whole, sum(of(scores[part], encoded[part]) for part in parts), rtol=1e-5, atol=1e-4)
    loss(target, scores, encoded).backward()
    assert scores.grad is not None and scores.grad.isfinite().all() and scores.grad.any()
    assert not scores.grad.movedim(1, -1)[labels < 0].any()
    unlabelled = target.encode(torch.full_like(labels[:1], -1))
    assert loss(target, scores[:1], unlabelled) == 0


def check_perfect_scores(target: Invertible, *, near: float) -> None:
    """A perfect network's loss is within `near` of the floor, its classes are the truth, its probabilities sum to 1."""
    encoded = target.encode(hostile_batch())
    scores = torch.from_numpy(ideal_scores(target, encoded))
    assert 0 <= float(loss(target, scores, encoded)) - target.floor < near
    truth, probabilities = target.truth(encoded), target.probabilities(scores)
    labelled = truth >= 0
    assert torch.equal(target.classes(scores)[labelled], truth[labelled])
    assert torch.equal(probabilities.argmax(1)[labelled], truth[labelled])
    for given in (probabilities, target.probabilities(random_scores(target, truth))):
        assert given.shape == (len(truth), len(target.names), *truth.shape[-2:]) and given.min() >= 0
        torch.testing.assert_close(given.sum(1), torch.ones(given[:, 0].shape))
    for half in (torch.bfloat16, torch.float16):
        assert target.totals(scores.to(half), encoded).isfinite().all()


def check_hostile_labels(
    target: Invertible, *, exact: set[str], parameters: Mapping[str, float], iou: float = 0.999
) -> None:
    """No hostile map crashes, and in no result a pixel of an object is lost, or one of the background is gained.

    Objects of the maps in `exact` come back one by one with an IoU above `iou`.
    """
    assert exact <= set(HOSTILE)
    for name, labels in HOSTILE.items():
        encoded = target.encode(torch.from_numpy(labels)[None])
        found = decoded(target, ideal_scores(target, encoded)[0], parameters)
        assert (found[labels > 0] > 0).all() and not (found[labels == 0] > 0).any(), name
        if name in exact:
            assert matches(labels, found, iou=iou)[1:] == (0, 0), name


def check_decode_is_a_function_of_shapes(target: Invertible, parameters: Mapping[str, float]) -> None:
    """The ids of labels change no bit of the encoding, and decoding twice gives the same."""
    labels = HOSTILE["blobs"]
    renamed = np.where(labels > 0, 5 + (labels * 7919) % 1009, 0)
    first, second = (target.encode(torch.from_numpy(one)[None]) for one in (labels, renamed))
    assert torch.equal(first, second)
    scores = ideal_scores(target, first)[0] + random_scores(target, torch.from_numpy(labels)[None])[0].numpy()
    before = scores.copy()
    once = decoded(target, scores, parameters)
    assert np.array_equal(once, decoded(target, scores, parameters)) and np.array_equal(scores, before)


def check_garbage(target: Invertible, parameters: Mapping[str, float]) -> None:
    """Scores of noise, of one value everywhere and beyond all bounds decode, on oblong and tiny images too."""
    for shape in ((64, 48), (1, 1), (1, 9), (3, 1)):
        scores = random_scores(target, torch.zeros(1, *shape))[0].numpy()
        for garbage in (scores, scores * 1e30, np.zeros_like(scores), np.full_like(scores, 50), -1e4 + 0 * scores):
            decoded(target, garbage.astype(np.float32), parameters)
            for name, values in target.ranges.items():
                for value in values if shape == (64, 48) and garbage is scores else ():
                    decoded(target, garbage, {**parameters, name: value})


def check_parameters(target: Invertible) -> None:
    """Every parameter has a rising range, and the default is one of it."""
    assert target.parameters.keys() == target.ranges.keys()
    for name, values in target.ranges.items():
        assert list(values) == sorted(set(values)) and target.parameters[name] in values, name


def decoded(target: Invertible, scores: np.ndarray, parameters: Mapping[str, float]) -> np.ndarray:
    """Returns the labels, seen to be int32 and numbered 1 … n in the order of first pixels."""
    found = target.decode(scores, parameters)
    assert found.dtype == np.int32 and found.shape == scores.shape[1:]
    ids, first = np.unique(found, return_index=True)
    first = first[ids > 0]
    assert ids.min() >= 0 and np.array_equal(ids[ids > 0], np.arange(1, len(first) + 1)) and (np.diff(first) > 0).all()
    return found
