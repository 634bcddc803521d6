from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from segue import networks, rng
from segue.data.dataset import Dataset
from segue.errors import SegueError
from segue.inference.features import box_means, mean_features
from segue.networks.registry import NetworkSpec
from segue.reporting.figures.network_views import (
    Embedding,
    draw_embedding,
    embed,
    embedding_figure,
    principal_components,
)
from segue.training.run_folder import TrainedModel


@pytest.fixture(scope="module")
def model(discs: Path) -> TrainedModel:
    with Dataset(discs) as dataset, rng.scope(0, "test"):
        channels = dataset.channels
        network = networks.build(NetworkSpec(name="resunet", width=8), channels=len(channels), classes=2).eval()
    spec = cast(Any, SimpleNamespace(normalize="none", network=NetworkSpec(name="resunet", width=8)))
    return TrainedModel(
        network=network,
        target=cast(Any, None),
        normalization="none",
        channels=tuple(channels),
        divisor=networks.divisor(spec.network),
        decode_params={},
        spec=spec,
        folder=Path("run"),
    )


def made(count: int) -> Embedding:
    points = rng.numpy_generator(0, "points").normal(size=(count, 2))
    return Embedding(np.arange(count), np.zeros((count, 5), np.float32), points, (0.5, 0.25))


def test_components_are_those_of_the_covariance():
    """Coordinates and shares of variance agree with the eigenvectors of the covariance matrix, up to the sign told."""
    features = rng.numpy_generator(0, "features").normal(size=(50, 6)) * [9, 4, 2, 1, 1, 1] + 5
    result, shares = principal_components(features)
    values, vectors = np.linalg.eigh(np.cov(features.T))
    np.testing.assert_allclose(shares, values[::-1][:2] / values.sum(), rtol=1e-10)
    for index in (0, 1):
        axis = vectors[:, -1 - index]
        axis = axis * np.sign(axis[np.argmax(np.abs(axis))])
        np.testing.assert_allclose(result[:, index], (features - features.mean(0)) @ axis, atol=1e-9)


def test_equal_features_lie_in_one_point():
    """Without any variance nothing is divided by zero."""
    result, shares = principal_components(np.ones((4, 3), dtype=np.float32))
    assert not result.any() and shares == (0.0, 0.0)


def test_padding_counts_nowhere():
    """Means over boxes are those of a map at full size, and other values outside of the box do not change them."""
    maps = torch.from_numpy(rng.numpy_generator(0, "maps").normal(size=(2, 3, 4, 8))).float()
    boxes = np.array([[0, 0, 32, 64], [4, 10, 17, 40]])
    full = maps.repeat_interleave(8, 2).repeat_interleave(8, 3).numpy()
    expected = [full[i, :, y0:y1, x0:x1].mean((1, 2)) for i, (y0, x0, y1, x1) in enumerate(boxes)]
    np.testing.assert_allclose(box_means(maps, boxes, (32, 64)).numpy(), expected, atol=1e-5)
    changed = maps.clone()
    changed[1, :, 3], changed[1, :, :, 6:] = 99, -99
    np.testing.assert_array_equal(box_means(changed, boxes, (32, 64))[1], box_means(maps, boxes, (32, 64))[1])


@pytest.mark.parametrize("name", ["mlp", "dpt-tu-vit_tiny_patch16_224"])
def test_encoders_of_vectors_and_of_tokens_are_described_too(name: str):
    """What an encoder gives as vectors is taken as it is; class tokens beside maps are left out."""
    with rng.scope(0, "test"):
        network = networks.build(NetworkSpec(name=name), channels=1, classes=2).eval()
    side = 224 if name.startswith("dpt") else 16
    with torch.inference_mode():
        result = mean_features(network, torch.ones(1, 1, side, side), np.array([[0, 0, side, side]]))
    assert result.shape == (1, 256 if name == "mlp" else 192)


def test_fewer_images_are_a_part_of_the_same(model: TrainedModel, discs: Path):
    """Drawing is the same each time, and what an image's features are does not depend on which others are drawn."""
    with Dataset(discs) as dataset:
        whole = embed(model, dataset, batch=7)
        part, again = (embed(model, dataset, images=20) for _ in range(2))
        count = dataset.count
    assert len(whole.samples) == count and set(part.samples) < set(whole.samples)
    np.testing.assert_array_equal(part.features, again.features)
    np.testing.assert_allclose(part.features, whole.features[part.samples], atol=1e-4)


def test_the_figure_names_conditions_and_explained_variance(model: TrainedModel, discs: Path):
    """The legend holds the two conditions in different colours, the axes the share of the variance."""
    axes = embedding_figure(model, discs, by="contrast", images=30).axes[0]
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["high", "low"]
    assert len({to_hex(c.get_facecolor()[0]) for c in axes.collections}) == 2  # type: ignore[index]
    assert "% of the variance" in axes.get_xlabel() and "30 images" in axes.get_title("left")


def test_many_groups_leave_a_legend_that_can_be_read():
    """Of thirty groups the nine most frequent are named, each by its own marker or colour, and no image is lost."""
    values = [f"well {n:02d}" for n in range(30) for _ in range(1 + (n in (3, 7)) * 5)]
    axes = draw_embedding(made(len(values)), values, by="group").axes[0]
    legend = axes.get_legend()
    assert legend is not None
    output = [text.get_text() for text in legend.get_texts()]
    assert len(output) == 10 and {"well 03", "well 07"} <= set(output)
    assert output[-1] == "others: 21 more (21 images)"
    assert sum(len(np.asarray(c.get_offsets())) for c in axes.collections) == len(values)


def test_numbers_are_ordered_or_on_a_scale():
    """A few numbers are named in their order, many get a continuous scale, and NaN is said to be not known."""
    few = draw_embedding(made(30), np.repeat([10.0, -5.0, 0.0], 10), by="defocus_nm").axes[0].get_legend()
    assert few is not None
    assert [text.get_text() for text in few.get_texts()] == ["−5", "0", "10"]
    some = draw_embedding(made(30), np.repeat([np.nan, 2.0, 1.0], 10), by="dose").axes[0].get_legend()
    assert some is not None
    assert [text.get_text() for text in some.get_texts()] == ["1", "2", "not known"]
    many = draw_embedding(made(30), np.arange(30.0), by="time_s")
    assert many.axes[0].get_legend() is None and many.axes[1].get_ylabel() == "time s"


def test_what_does_not_fit_is_refused(model: TrainedModel, discs: Path):
    """Another column, other channels and too few images each have their sentence."""
    with pytest.raises(SegueError, match="contrast"):
        embedding_figure(model, discs, by="contrasts")
    with pytest.raises(SegueError, match="at least 3"):
        embedding_figure(model, discs, by="group", images=2)
    other = replace(model, channels=("red", "green"))
    with pytest.raises(SegueError, match="channels"):
        embedding_figure(other, discs, by="group")
