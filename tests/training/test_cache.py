"""Features of a frozen encoder, computed once, give the same training as computed anew."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from samples.stages import spec_of, train, write_tiles

from segue.networks.architectures.resunet import Encoder
from segue.training.cache import FeatureCache


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("tiles") / "tiles.h5")


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Returns the list of the sizes of all batches that an encoder is asked for from here on."""
    sizes: list[int] = []
    forward = Encoder.forward

    def counted(self: Encoder, x: torch.Tensor) -> list[torch.Tensor]:
        if x.shape[-1] == 64:  # not what its stages are found with
            sizes.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(Encoder, "forward", counted)
    return sizes


@pytest.fixture(scope="module")
def parent(tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(spec_of(tiles, images=12), tmp_path_factory.mktemp("parent") / "run")


@pytest.mark.slow
@pytest.mark.parametrize(("augment", "images"), [("none", 13), ("dihedral-all", 4)])
def test_cached_features_are_the_uncached(
    tiles: Path, tmp_path: Path, parent: Path, encoded: list[int], augment: str, images: int
):
    """With a frozen encoder every view goes through it once, not once per epoch, and weights and history are the same
    bytes; the last batch of an epoch and that of the cache are of other sizes than the rest."""
    spec = spec_of(
        tiles, images=images, epochs=3, batch=5, freeze="encoder", augment=augment, validation=4,
        network={"name": "resunet", "width": 8, "dropout": 0.2, "stochastic_depth": 0.2},
    )  # fmt: skip
    views = images * (8 if augment == "dihedral-all" else 1)
    seen = {}
    for cached in (True, False):
        encoded.clear()
        train(spec.model_copy(update={"cache_features": cached}), tmp_path / str(cached), parent)
        seen[cached] = sum(encoded)
    assert seen[False] - seen[True] == 2 * views
    for name in ("weights.safetensors", "history.parquet", "metrics.json"):
        assert (tmp_path / "True" / name).read_bytes() == (tmp_path / "False" / name).read_bytes()


def test_kept_features_stay_channels_last():
    """Features taken from the cache lie in memory as the encoder gives them, else every step would turn them."""
    selection = torch.randn(6, 3, 8, 8).to(memory_format=torch.channels_last)
    (actual,) = FeatureCache((selection,)).get(torch.tensor([4, 1]))
    assert torch.equal(actual, torch.stack([selection[4], selection[1]]))
    assert actual.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
def test_the_cache_ends_with_unfreezing(tiles: Path, tmp_path: Path, parent: Path, encoded: list[int]):
    """From the epoch on in which a stage of the encoder is trained, views go through it again; the bytes are those of
    a training without a cache."""
    spec = spec_of(
        tiles, images=8, epochs=4, freeze="encoder", unfreeze=[{"epoch": 3, "parts": "encoder.3"}], validation=0
    )
    encoded.clear()
    cached = train(spec, tmp_path / "cached", parent)
    assert encoded == [8, 8, 8]  # once for two epochs, then in each
    encoded.clear()
    uncached = train(spec.model_copy(update={"cache_features": False}), tmp_path / "uncached", parent)
    assert encoded == [8] * 4
    assert (cached / "weights.safetensors").read_bytes() == (uncached / "weights.safetensors").read_bytes()
