"""The exported network, in torch, gives what segue predicts: any size, any target, normalized inside."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from samples.local_model import model_of

from segue.data.spec import NormalizeSpec, PercentileSpec
from segue.exporting.check import example_image
from segue.exporting.network import ExportedNetwork, pad_to_multiple
from segue.inference import predict
from segue.targets.classes import ImageClass
from segue.targets.combined import Combined
from segue.targets.rays import border_px
from segue.targets.reconstruction import Reconstruction

OBJECTS = ("foreground", "boundary", "distance", "rays", "flows", "descriptors")


def images(height: int = 37, width: int = 70) -> np.ndarray:
    return np.stack([example_image(1, height, width), example_image(1, height, width)[..., ::-1] * 3 + 50])


@pytest.mark.parametrize("divisor", [1, 2, 8, 32])
def test_padding_is_that_of_segue(divisor: int):
    """Reflected, or repeated where a side is too small: the same pixels as in a prediction."""
    for height, width in ((1, 1), (1, 40), (3, 5), (8, 8), (17, 33), (31, 32), (40, 3)):
        image = torch.arange(2.0 * height * width).reshape(1, 2, height, width)
        assert torch.equal(pad_to_multiple(image, divisor), predict.pad_to_multiple(image, divisor)), (height, width)


@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize("name", OBJECTS)
def test_scores_are_those_that_are_decoded(name: str, tta: bool):
    """Objects have the scores of `score_whole`, which `decode` takes, with a name for each channel."""
    model = replace(model_of(name), tta=tta)
    network = ExportedNetwork(model)
    with torch.inference_mode():
        actual = network(torch.from_numpy(images()))
    assert network.output.axes == "NCHW" and len(network.output.channels) == model.target.channels
    assert all(channel.isidentifier() for channel in network.output.channels)
    torch.testing.assert_close(actual, predict.score_whole(model, images()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("normalize", ["background", "none", "tile", PercentileSpec(name="percentile")])
def test_classes_have_probabilities(normalize: NormalizeSpec):
    """They are those of `segue.probabilities`, for every normalization."""
    model = replace(model_of("classes"), normalization=normalize)
    with torch.inference_mode():
        actual = ExportedNetwork(model)(torch.from_numpy(images()))
    np.testing.assert_allclose(actual.numpy(), predict.probabilities(model, images()), rtol=1e-4, atol=1e-5)


def test_classes_of_images_have_one_probability():
    """(N, K), not one per pixel."""
    model = replace(model_of("classes"), target=ImageClass(("background", "object"), False))
    network = ExportedNetwork(model)
    with torch.inference_mode():
        actual = network(torch.from_numpy(images(64, 32)))
    assert network.output.axes == "NC"
    np.testing.assert_allclose(actual.numpy(), predict.probabilities(model, images(64, 32)), rtol=1e-5)


def test_reconstructions_come_back_in_acquired_units():
    """As `segue.predict` gives them."""
    model = replace(model_of("foreground"), target=Reconstruction(1, "none"))
    network = ExportedNetwork(model)
    with torch.inference_mode():
        actual = network(torch.from_numpy(images()))
    assert list(network.output.channels) == ["intensity"]
    np.testing.assert_allclose(actual.numpy(), predict.predict(model, images()), rtol=1e-4)


def test_auxiliary_scores_are_left_out():
    """Of several targets the main one's scores are exported, which alone are decoded."""
    flows, rays = model_of("flows"), model_of("rays")
    convolution = torch.nn.Conv2d(1, 3 + rays.target.channels, 1)
    model = replace(flows, target=Combined((flows.target, rays.target), (1.0, 0.5)), network=convolution)
    network = ExportedNetwork(model)
    with torch.inference_mode():
        actual = network(torch.from_numpy(images()))
    assert list(network.output.channels) == ["flow_y", "flow_x", "object"]
    torch.testing.assert_close(actual, predict.score_whole(model, images())[:, :3], rtol=1e-5, atol=1e-5)


def test_rays_as_stardist_has_them():
    """A probability in place of its logit, distances that reach the pixel's border, channels last."""
    model = model_of("rays")
    network = ExportedNetwork(model, for_stardist=True, channels_last=True)
    with torch.inference_mode():
        actual = network(torch.from_numpy(images())).numpy()
    scores = predict.score_whole(model, images()).numpy().transpose(0, 2, 3, 1)
    assert network.output.axes == "NHWC" and actual.shape == (2, 37, 70, 33)
    np.testing.assert_allclose(actual[..., 0], 1 / (1 + np.exp(-scores[..., 0])), rtol=1e-4)
    assert (scores[..., 1:] < 0).any()
    np.testing.assert_allclose(actual[..., 1:], np.maximum(scores[..., 1:], border_px(32)), rtol=1e-4, atol=1e-5)
