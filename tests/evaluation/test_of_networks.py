"""Scoring of networks on a source: `inference.forward` with the scores of `evaluation`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from segue import networks, rng
from segue.data.dataset import Dataset
from segue.data.sources import ResidentSource
from segue.evaluation import pixel_metrics
from segue.inference.predict import Scored, autocast, score, score_many
from segue.networks.registry import NetworkSpec
from segue.targets import classes, losses
from segue.targets.specs import ClassesSpec

COUNT = 11


@pytest.fixture(scope="module")
def source(discs: Path) -> ResidentSource:
    with Dataset(discs) as dataset:
        return ResidentSource.from_dataset(dataset, np.arange(COUNT), layer="discs")


def made(seed: int = 0) -> torch.nn.Module:
    with rng.scope("score", seed):
        return networks.build(NetworkSpec(width=8), channels=1, classes=2)


def target(loss: str = "cross_entropy") -> classes.Classes:
    spec = ClassesSpec.model_validate({"loss": loss})
    return classes.build(spec, names=("background", "disc"), instances=False, where="test")


def scored(source: ResidentSource, count: int = 1, **settings: object) -> list[Scored]:
    asked = {"batch": 4, "device": "cpu", "precision": "fp32"} | settings
    return score_many([made(i) for i in range(count)], [target()] * count, source, **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_loss_over_batches_is_the_loss_of_all(source: ResidentSource, loss: str):
    """Totals and masses summed over batches give the loss of all samples at once, for every loss."""
    network, asked = made(), target(loss)
    found = score(network, asked, source, batch=4, device="cpu", precision="fp32")
    images, labels = source.read(torch.arange(COUNT), "cpu")
    with torch.inference_mode():
        expected = asked.loss(network(images), asked.encode(labels)).item()
    assert found["loss"] == pytest.approx(expected, rel=1e-5)
    assert found["loss_adjusted"] == pytest.approx(expected - asked.floor, rel=1e-5)


def test_areas_over_batches_are_those_of_all(source: ResidentSource):
    """Curves are of probabilities, over all samples."""
    network, asked = made(), target()
    found = score(network, asked, source, batch=4, device="cpu", precision="fp32")
    images, labels = source.read(torch.arange(COUNT), "cpu")
    with torch.inference_mode():
        counts = pixel_metrics.histogram(network(images).softmax(1), labels)
    for name, value in pixel_metrics.curve_scores(counts, asked.names).items():
        assert found[name] == pytest.approx(value, abs=1e-3)


def test_several_networks_score_as_alone(source: ResidentSource):
    """Sharing the reading changes no bit of any network's scores."""
    together = scored(source, 2)
    for seed in range(2):
        alone = score(made(seed), target(), source, batch=4, device="cpu", precision="fp32")
        assert together[seed].scores == alone
    assert together[0].scores != together[1].scores


def test_kept_probabilities(source: ResidentSource):
    """The samples asked for come back in that order, as 255 times their probabilities; by default none."""
    keep = [9, 0, 4, 9]
    found = scored(source, keep=keep)[0]
    network = made().eval()
    images, _ = source.read(torch.tensor(keep), "cpu")
    with torch.inference_mode():
        expected = network(images).softmax(1) * 255
    assert found.kept.dtype == torch.uint8 and found.kept.shape == expected.shape
    assert (found.kept.float() - expected).abs().max() <= 0.5 + 1e-2
    assert found.kept.float().sum(1).sub(255).abs().max() <= 1
    assert not scored(source)[0].kept.numel()
    with pytest.raises(IndexError, match="keep: the source has samples 0 to 10, not 11, -1"):
        scored(source, keep=[11, 3, -1])


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_precision_of_products(precision: str, dtype: torch.dtype):
    """Each precision multiplies in its own type."""
    with torch.inference_mode(), autocast("cpu", precision):  # type: ignore[arg-type]
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
