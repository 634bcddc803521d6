"""Predictions of a model on arrays: whole and tile by tile, from files to files."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from samples.local_model import model_of
from scipy import ndimage

from segue import networks, rng
from segue.data.tiling import Tiling
from segue.errors import SegueError
from segue.inference import predict as inference
from segue.inference.predict import forward, predict, probabilities
from segue.networks.registry import NetworkSpec

TILING = Tiling(128, 32)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    noise = rng.numpy_generator("applied").normal(size=(300, 331))
    return (5000 + 3000 * ndimage.gaussian_filter(noise, 3)).astype(np.uint16)


@pytest.mark.parametrize("name", ["classes", "foreground", "distance"])
def test_tiles_give_what_the_whole_image_gives(image: np.ndarray, name: str, monkeypatch: pytest.MonkeyPatch):
    """The same labels and probabilities, also without being asked for where images are large, one or several."""
    model = model_of(name)
    whole = predict(model, image)
    assert whole.max() == 1 if name == "classes" else whole.max() > 20
    tiled = predict(model, image, tiling=TILING)
    assert tiled.dtype == whole.dtype and np.array_equal(tiled, whole)
    assert np.allclose(probabilities(model, image, tiling=TILING), probabilities(model, image), atol=1e-5)
    monkeypatch.setattr(inference, "LARGE_PX", 1000)
    assert np.array_equal(predict(model, np.stack([image, image])[:, None]), np.stack([whole, whole]))


def test_from_file_to_file(image: np.ndarray, tmp_path: Path):
    """Arrays on disk are read and written tile by tile: HDF5, and memory maps of another type of integers."""
    model = model_of("foreground")
    with h5py.File(tmp_path / "image.h5", "w") as file:
        stored = file.create_dataset("image", data=image, chunks=(64, 64))
        labels = file.create_dataset("labels", shape=image.shape, dtype=np.int32)
        out = np.lib.format.open_memmap(tmp_path / "labels.npy", "w+", np.int32, image.shape)
        assert predict(model, stored, out=out, tiling=TILING) is out
        predict(model, stored, out=labels, tiling=TILING)
        assert np.array_equal(out, predict(model, image))
        assert np.array_equal(labels[...], out)


def test_what_does_not_fit_is_refused(image: np.ndarray):
    """An output of another shape or type, and other channels, are refused before anything is computed."""
    model = model_of("foreground")
    for wrong in (np.zeros((4, 4), np.int32), np.zeros(image.shape, np.float32)):
        with pytest.raises(SegueError, match="give an array of integers of that shape"):
            predict(model, image, out=wrong)
    with pytest.raises(SegueError, match="the run takes 1 channels"):
        predict(model, np.zeros((3, 50, 50)), tiling=TILING)


def test_objects_that_are_too_long_are_told():
    """An object across the whole image is joined from its parts, with a warning that says so."""
    model = model_of("foreground", slope=0.0, height=3.0)
    with pytest.warns(UserWarning, match=r"1 of 1 objects are longer than half a tile \(64 px\)"):
        labels = predict(model, np.zeros((300, 331)), tiling=TILING)
    assert (labels == 1).all()


def made() -> torch.nn.Module:
    with rng.scope("forward"):
        return networks.build(NetworkSpec(width=8), channels=1, classes=2).eval()


@pytest.mark.parametrize("shape", [(32, 32), (33, 70), (5, 3), (1, 1)])
def test_any_size_is_predicted_at_its_own_size(shape: tuple[int, int]):
    """Images of any height and width come back at that size, and exact multiples are not padded."""
    network = made()
    images = torch.randn(2, 1, *shape, generator=rng.torch_generator("images"))
    scores = forward(network, images, divisor=32, precision="fp32")
    assert scores.shape == (2, 2, *shape)
    if shape == (32, 32):
        with torch.inference_mode():
            assert torch.allclose(scores, network(images), atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("tiling", [None, Tiling(64, 16)])
def test_a_gpu_gives_what_the_cpu_gives(image: np.ndarray, tiling: Tiling | None):
    """Probabilities differ by rounding alone, of whole images and by tiles."""
    model = model_of("foreground")
    expected = probabilities(model, image, tiling=tiling)
    model.network.cuda()
    np.testing.assert_allclose(probabilities(model, image, tiling=tiling), expected, atol=1e-3)
    predict(model, image, tiling=tiling)
