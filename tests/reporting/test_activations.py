from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from segue import networks, rng
from segue.errors import SegueError
from segue.networks.analysis.receptive_field import EffectiveField, TheoreticalField, effective_field, noise
from segue.networks.network import Network
from segue.networks.registry import NetworkSpec
from segue.reporting.figures.network_views import (
    activations_figure,
    block_activations,
    distinct_channels,
    receptive_field_figure,
)
from segue.training.run_folder import TrainedModel


def built(**spec: Any) -> Network:
    with rng.scope(0, "test"):
        return networks.build(NetworkSpec.model_validate(spec), channels=1, classes=2).eval()


def model_of(network: Network, name: str) -> TrainedModel:
    target = cast(Any, SimpleNamespace(names=("background", "disc"), channels=2))
    spec = cast(Any, SimpleNamespace(normalize="image", network=NetworkSpec(name=name)))
    return TrainedModel(
        network=network,
        target=target,
        normalization="image",
        channels=("grey",),
        divisor=networks.divisor(spec.network),
        decode_params={},
        spec=spec,
        folder=Path("run"),
    )


def picture(side: int = 40) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    return (100 + 50 * np.sin(x / 3) * np.cos(y / 5)).astype(np.float32)


def words(figure: Figure) -> str:
    figure.draw_without_rendering()
    result = [text.get_text() for part in (figure, *figure.subfigs) for text in _texts(part)]
    return "\n".join(result)


def _texts(part: Any) -> list[Any]:
    return list(part.findobj(lambda artist: hasattr(artist, "get_text")))


def test_channels_that_vary_most_and_differ_are_shown():
    """Of channels with known spread the greatest are taken, but neither a copy, a negative, nor a constant one."""
    generator = rng.numpy_generator(0, "maps")
    patterns = generator.normal(size=(3, 8, 8))
    values = np.stack(
        [
            1.0 * patterns[0],
            5.0 * patterns[1],
            4.0 * patterns[1],
            -3.0 * patterns[1],
            2.0 * patterns[2],
            np.ones((8, 8)),
        ]
    )
    assert distinct_channels(values, 3) == [0, 1, 4]
    assert distinct_channels(values, 6) == [0, 1, 4]
    assert distinct_channels(values, 2) == [1, 4]


def test_stages_are_what_the_network_computes():
    """The scores shown are the network's, channel by channel, and the colour scale holds the shown values' range."""
    network = built(name="resunet", width=8)
    images = noise(1, 1, 32)
    result = block_activations(network, images)
    with torch.no_grad():
        np.testing.assert_array_equal(result[-1].maps, network(images)[0].numpy())
    np.testing.assert_array_equal(result[0].maps, images[0].numpy())
    for stage in result:
        assert stage.maps.min() <= stage.limits[0] <= stage.limits[1] <= stage.maps.max()
        assert list(stage.channels) == sorted(set(stage.channels))


@pytest.mark.slow
def test_the_figure_tells_every_stage():
    """Each block's name, channels and size are written, and the scores have the names of their classes."""
    output = words(activations_figure(model_of(built(name="resunet", width=8), "resunet"), picture(), channels=2))
    for text in (
        "1 channel of 32×32",
        "64 channels of 1×1",
        "2 scores of 32×32",
        "decoder{.}4",
        "background",
        "disc",
    ):
        assert text in output


def test_units_and_offset_of_the_image_do_not_count():
    """A run's model standardises the image, so that other units draw the same scores."""
    model = model_of(built(name="resunet", width=8), "resunet")
    images_drawn = []
    for image in (picture(), 7 * picture() + 3):
        figure = activations_figure(model, image, channels=2)
        arrays = [artist.get_array() for part in figure.findobj(AxesImage) for artist in [cast(AxesImage, part)]]
        images_drawn.append(
            [np.asarray(values) for values in arrays if values is not None and values.shape == (32, 32)]
        )
    assert len(images_drawn[0]) == len(images_drawn[1]) > 2
    np.testing.assert_allclose(images_drawn[0][-1], images_drawn[1][-1], atol=1e-4)


def test_a_classifier_is_one_column_with_its_scores_as_bars():
    """Networks without maps are drawn too: a perceptron's layers as bars."""
    output = words(activations_figure(built(name="mlp", width=16, side_px=8), picture(), divisor=1))
    assert "encoder.1: 16 values" in output and "head: 2 values" in output


def test_images_that_do_not_fit_are_refused():
    """Another number of channels, an image smaller than the divisor, NaN, and a missing divisor are told."""
    model = model_of(built(name="resunet", width=8), "resunet")
    bad = picture()
    bad[0, 0] = np.nan
    cases = [
        (model, np.zeros((2, 40, 40)), "shape"), (model, np.ones((8, 40)), "at least 32x32"), (model, bad, "NaN"),
        (model.network, picture(), "divisor"),
    ]  # fmt: skip
    for subject, image, message in cases:
        with pytest.raises(SegueError, match=message):
            activations_figure(cast(Any, subject), image)


def test_the_receptive_field_is_drawn_with_its_numbers():
    """The squares and the theoretical field are written as they are measured."""
    result = effective_field(built(name="unet", width=8, depth=1), noise(2, 1, 32))
    output = words(receptive_field_figure(result, TheoreticalField("head", 1.0, 18, 18, unbounded=False)))
    assert f"50% in {result.sides_px[0.5]} px" in output and "theoretical: 18 px" in output
    assert isinstance(result, EffectiveField)
