"""Targets that are taught by whole images: reconstruction, the class of an image, and combinations with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from samples.target_contract import check_encoding_transforms, hostile_batch, random_scores
from torch.nn import functional as F

from segue import rng
from segue.data.augmentation import dihedral
from segue.targets.classes import ImageClass
from segue.targets.combined import Combined
from segue.targets.reconstruction import Reconstruction
from segue.targets.registry import build_target
from segue.targets.specs import TargetSpec
from segue.targets.target import Target

SEEDS = np.array([3, 1, 4, 1])
NAMES = ("background", "nucleus")


def built(channels: int = 2, names: tuple[str, ...] = NAMES, **spec: object) -> Target:
    asked = TypeAdapter(TargetSpec).validate_python(spec)
    return build_target(asked, names=names, instances=True, context="here", channels=channels)


def reconstruction(**corruption: object) -> Reconstruction:
    actual = built(name="reconstruction", corruption=corruption)
    assert isinstance(actual, Reconstruction)
    return actual


def images_and_labels() -> tuple[torch.Tensor, torch.Tensor]:
    """Returns four images of two channels, and labels that end at column 40."""
    images = torch.randn(4, 2, 48, 48, generator=rng.torch_generator("images"))
    labels = torch.zeros(4, 48, 48, dtype=torch.int64)
    labels[:, :, 40:] = -1
    return images, labels


def loss(target: Target, scores: torch.Tensor, encoded: torch.Tensor) -> float:
    return (target.loss_sums(scores, encoded) / target.normalizers(encoded).clamp(min=1e-12)).sum().item()


@pytest.mark.parametrize("patch_px", [1, 8, 16])
def test_masked_images_are_judged_by_what_was_covered(patch_px: int):
    """The share asked for is covered with the mean, and only there, and not in padding, an error counts."""
    target = reconstruction(name="masked", patch_px=patch_px, share=0.4)
    images, labels = images_and_labels()
    visible, encoded = target.encode_batch(images, labels, SEEDS)
    covered = (visible == 0).all(1)
    assert torch.equal(visible, torch.where(covered[:, None], 0, images))
    assert covered.float().mean().item() == pytest.approx(0.4, abs=0.12)
    wrong = images + torch.where(covered & (labels >= 0), 0.0, 5.0)[:, None]
    assert loss(target, wrong, encoded) == 0
    off = images + torch.where(covered, 2.0, 0.0)[:, None]
    assert loss(target, off, encoded) == pytest.approx(4, rel=1e-5)
    assert torch.equal(covered[1], covered[3]) and not torch.equal(covered[0], covered[1])


@pytest.mark.parametrize("name", ["masked", "noise", "nothing"])
def test_what_is_random_in_a_view_is_its_own(name: str):
    """A view looks the same, by the bit, whichever views stand beside it, and its own image is not written to."""
    target = reconstruction(name=name)
    images, labels = images_and_labels()
    before = images.clone()
    visible, encoded = target.encode_batch(images, labels, SEEDS)
    alone, taught = target.encode_batch(images[2:3], labels[2:3], SEEDS[2:3])
    assert torch.equal(visible[2:3], alone) and torch.equal(encoded[2:3], taught)
    assert torch.equal(images, before) and torch.equal(visible, images) == (name == "nothing")


def test_noise_has_the_deviation_asked_for():
    """The noise added has a standard deviation between the limits, another one in each view, and is judged everywhere
    but in padding."""
    target = reconstruction(name="noise", sigma=[0.5, 2.0])
    images, labels = images_and_labels()
    visible, encoded = target.encode_batch(images, labels, SEEDS)
    deviations = (visible - images).std((1, 2, 3))
    assert ((deviations > 0.45) & (deviations < 2.1)).all() and deviations[0] != deviations[1]
    error = ((visible - images) ** 2)[..., :40].mean().item()
    assert loss(target, visible, encoded) == pytest.approx(error, rel=1e-5)


def test_a_reconstruction_turns_with_its_image():
    """Turned images and scores have the loss of the images as they were."""
    target = reconstruction(name="masked", patch_px=4)
    images, labels = images_and_labels()
    _, encoded = target.encode_batch(images, labels, SEEDS)
    scores = random_scores(target, labels)  # type: ignore[arg-type]
    codes = torch.tensor([0, 3, 5, 6])
    rotated = target.transform(encoded, codes)
    assert loss(target, dihedral(scores, labels, codes)[0], rotated) == pytest.approx(loss(target, scores, encoded))


def test_the_class_of_an_image_is_that_of_its_one_pixel():
    """The loss is cross entropy over images, of scores per image or of the mean of scores per pixel."""
    target = built(name="image-class", column="dose", names=("0", "1", "2.5"))
    assert isinstance(target, ImageClass) and target.names == ("0", "1", "2.5")
    labels = torch.tensor([2, 0, 1])[:, None, None].repeat(1, 8, 8)
    labels[:, :, 5:] = -1
    encoded = target.encode(labels)
    scores = torch.randn(3, 3, 8, 8, generator=rng.torch_generator("scores"))
    expected = F.cross_entropy(scores.mean((2, 3)), torch.tensor([2, 0, 1])).item()
    assert loss(target, scores, encoded) == pytest.approx(expected, rel=1e-5)
    assert loss(target, scores.mean((2, 3)), encoded) == pytest.approx(expected, rel=1e-5)
    assert torch.equal(target.classes(scores)[:, 0, 0], scores.mean((2, 3)).argmax(1))
    assert target.decode(scores[0].numpy(), {}).item() == scores[0].mean((1, 2)).argmax().item()
    assert target.probabilities(scores).sum(1) == pytest.approx(torch.ones(3, 1, 1))


def combined() -> Combined:
    auxiliary = [
        {"target": {"name": "boundary"}, "weight": 0.5},
        {"target": {"name": "classes"}, "weight": 2.0},
    ]
    actual = built(name="combined", main={"name": "flows"}, auxiliary=auxiliary)
    assert isinstance(actual, Combined)
    return actual


@pytest.mark.slow
def test_a_combination_loses_the_weighted_sum_of_its_parts():
    """Each part is taught by its own scores as if alone, times its weight; the main one decodes and is scored."""
    target, labels = combined(), hostile_batch()
    encoded, scores = target.encode(labels), random_scores(target, labels)  # type: ignore[arg-type]
    own = scores.split([part.channels for part in target.parts], dim=1)
    parts = [loss(part, given, part.encode(labels)) for part, given in zip(target.parts, own, strict=True)]
    expected = sum(weight * value for weight, value in zip((1.0, 0.5, 2.0), parts, strict=True))
    assert loss(target, scores, encoded) == pytest.approx(expected, rel=1e-5)
    main = target.parts[0]
    assert torch.equal(target.target_classes(encoded), main.target_classes(main.encode(labels)))
    assert torch.equal(target.probabilities(scores), main.probabilities(own[0]))
    decoded = target.decode(scores[0].numpy(), target.decode_params)
    assert np.array_equal(decoded, main.decode(own[0][0].numpy(), main.decode_params))


def test_a_combination_turns_as_its_parts_do():
    """The encoding of turned labels is the turned encoding."""
    check_encoding_transforms(combined())  # type: ignore[arg-type]


def test_a_combination_with_the_image_itself():
    """An auxiliary reconstruction is taught the images, which stay as they are."""
    auxiliary = [{"target": {"name": "reconstruction", "corruption": {"name": "nothing"}}}]
    target = built(name="combined", main={"name": "foreground"}, auxiliary=auxiliary)
    assert isinstance(target, Combined)
    images, labels = images_and_labels()
    visible, encoded = target.encode_batch(images, labels, SEEDS)
    assert torch.equal(visible, images)
    certain = torch.where(labels == 0, -50.0, 0.0)[:, None]
    assert loss(target, torch.cat([certain, images], 1), encoded) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"main": {"name": "flows"}, "auxiliary": []}, "at least 1 item"),
        ({"main": {"name": "flows"}, "auxiliary": [{"target": {"name": "flows"}, "weight": 0.5}]}, "occurs twice"),
        ({"main": {"name": "reconstruction"}, "auxiliary": [{"target": {"name": "flows"}}]}, "reconstruction"),
        ({"main": {"name": "flows"}, "auxiliary": [{"target": {"name": "reconstruction"}}]}, "would hide from main"),
        ({"main": {"name": "flows"}, "auxiliary": [{"target": {"name": "classes", "layer": "a"}}]}, "name it there"),
        (
            {"main": {"name": "classes", "class_weights": "inverse_frequency"}, "auxiliary": [{"target": {}}]},
            "given as numbers",
        ),
    ],
)
def test_combinations_that_make_no_sense_are_refused(spec: dict[str, object], told: str):
    """What cannot be combined is told when the specification is read."""
    with pytest.raises(ValidationError, match=told):
        TypeAdapter(TargetSpec).validate_python({"name": "combined", **spec})
