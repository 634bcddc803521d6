"""Averages over rotations and reflections: turned back exactly, for every target."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from samples.local_model import model_of
from samples.target_contract import perfect_prediction

from segue import rng
from segue.data.augmentation import N_DIHEDRAL, apply_dihedral, inverse
from segue.inference.dihedral_average import DihedralAverage
from segue.inference.predict import predict
from segue.targets import boundary, classes, combined, descriptors, distance, flows, foreground, rays

NAMES = ("background", "object")
TARGETS = {
    "foreground": foreground.Foreground(NAMES),
    "boundary": boundary.Boundary(NAMES),
    "distance": distance.Distance(NAMES),
    "rays": rays.Rays(NAMES),
    "flows": flows.Flows(NAMES),
    "descriptors": descriptors.Descriptors(NAMES),
    "offsets": descriptors.Descriptors(NAMES, affinities=False),
}


def labels() -> torch.Tensor:
    image = torch.zeros(1, 40, 40, dtype=torch.int64)
    image[0, 5:16, 8:15] = 1
    image[0, 9:20, 15:30] = 2  # touches the first
    image[0, 25:33, 6:34] = 3
    image[0, 28:36, 20:24] = 3  # no symmetry of its own
    return image


def scores_of(name: str, image: torch.Tensor) -> torch.Tensor:
    target = TARGETS[name]
    return torch.from_numpy(perfect_prediction(target, target.encode(image)[0].numpy()))[None]


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("code", range(N_DIHEDRAL))
def test_scores_turn_with_their_image(name: str, code: int):
    """Transformed scores are those of a perfect network for the transformed labels, and transform back."""
    target, scores = TARGETS[name], scores_of(name, labels())
    turned = target.transform_scores(scores, code)
    expected = scores_of(name, apply_dihedral(labels(), code))
    counts = torch.ones_like(expected, dtype=torch.bool)
    if isinstance(target, descriptors.Descriptors):  # which say nothing outside of objects
        counts[:, : descriptors.DESCRIPTORS] = expected[:, [descriptors.FOREGROUND]] > 0
    assert torch.allclose(turned[counts], expected[counts], atol=1e-3)
    assert torch.equal(target.transform_scores(turned, inverse(code)), scores)


def test_parts_of_a_combination_turn_each_for_itself():
    """The scores of several targets of one network turn as each of them would alone."""
    parts = (TARGETS["flows"], TARGETS["rays"])
    target = combined.Combined(parts, (1.0, 1.0))
    both = torch.cat([scores_of("flows", labels()), scores_of("rays", labels())], 1)
    turned = target.transform_scores(both, 6)
    assert torch.equal(turned[:, :3], parts[0].transform_scores(both[:, :3], 6))
    assert torch.equal(turned[:, 3:], parts[1].transform_scores(both[:, 3:], 6))


@pytest.mark.parametrize("name", ["foreground", "flows", "rays", "descriptors"])
def test_the_average_is_equivariant(name: str):
    """Whatever the network, the average of a turned image is the turned average, vectors included, also not square."""
    target = TARGETS[name]
    with rng.scope("average"):
        network = torch.nn.Conv2d(1, target.channels, 5, padding=2)
    average = DihedralAverage(network, target)
    image = torch.randn(1, 1, 24, 36, generator=rng.torch_generator("image"))
    with torch.inference_mode():
        scores = average(image)
        assert not torch.allclose(scores, network(image), atol=1e-2)
        for code in range(N_DIHEDRAL):
            turned = average(apply_dihedral(image, code))
            inside = np.s_[..., 1:-1, 1:-1]  # an affinity with a pixel outside the image means nothing
            assert torch.allclose(turned[inside], target.transform_scores(scores, code)[inside], atol=1e-5)


def test_classes_of_whole_images_need_no_turning():
    """Scores of images, without pixels, are averaged as they are."""
    target = classes.ImageClass(("a", "b"), False)
    scores = torch.tensor([[1.0, 2.0]])
    assert torch.equal(target.transform_scores(scores, 6), scores)


def test_a_symmetric_network_is_unchanged():
    """A network that has no direction of its own predicts the same objects with the average as without."""
    model = model_of("foreground")
    image = rng.numpy_generator("symmetric").normal(size=(64, 96)).astype(np.float32)
    assert np.array_equal(predict(replace(model, tta=True), image), predict(model, image))
