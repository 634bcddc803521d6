"""Scoring of networks on a source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from samples.target_contract import loss_of

from segue import networks, rng
from segue.data.dataset import Dataset
from segue.data.sources import ResidentSource
from segue.evaluation import pixel_metrics
from segue.evaluation.evaluate import Evaluation, score, score_many
from segue.inference.predict import autocast
from segue.networks.registry import NetworkSpec
from segue.targets import classes, losses
from segue.targets.registry import build_target
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
    return build_target(spec, names=("background", "disc"), instances=False, context="test")


def scored(source: ResidentSource, count: int = 1, **settings: object) -> list[Evaluation]:
    asked = {"batch": 4, "device": "cpu", "precision": "fp32"} | settings
    return score_many([made(i) for i in range(count)], [target()] * count, source, **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize("loss", losses.LOSSES)
def test_loss_over_batches_is_the_loss_of_all(source: ResidentSource, loss: str):
    """Totals and masses summed over batches give the loss of all samples at once, for every loss."""
    network, asked = made(), target(loss)
    actual = score(network, asked, source, batch=4, device="cpu", precision="fp32")
    images, labels = source.read(torch.arange(COUNT), "cpu")
    with torch.inference_mode():
        expected = loss_of(asked, network(images), asked.encode(labels)).item()
    assert actual["loss"] == pytest.approx(expected, rel=1e-5)
    assert actual["loss_adjusted"] == pytest.approx(expected - asked.min_loss, rel=1e-5)


def test_counts_of_samples_sum_to_the_scores(source: ResidentSource):
    """Counting every sample changes no score; sums over samples give the loss, of two terms, and the confusion."""
    asked = target("dice_cross_entropy")
    settings = {"batch": 4, "device": "cpu", "precision": "fp32"}
    (plain,) = score_many([made()], [asked], source, **settings)  # type: ignore[arg-type]
    (result,) = score_many([made()], [asked], source, **settings, per_sample=True)  # type: ignore[arg-type]
    assert plain.samples is None and result.samples is not None and plain.scores == result.scores
    sums, normalizers, confusion = result.samples.loss_sums, result.samples.normalizers, result.samples.confusion
    assert sums.shape == normalizers.shape == (COUNT, 2)
    assert (sums.sum(0) / normalizers.sum(0)).sum().item() == pytest.approx(result.scores["loss"], rel=1e-6)
    assert confusion is not None and len(confusion) == COUNT
    assert pixel_metrics.scores(confusion.sum(0), asked.names)["iou_disc"] == result.scores["iou_disc"]


def test_areas_over_batches_are_those_of_all(source: ResidentSource):
    """Curves are of probabilities, over all samples."""
    network, asked = made(), target()
    actual = score(network, asked, source, batch=4, device="cpu", precision="fp32")
    images, labels = source.read(torch.arange(COUNT), "cpu")
    with torch.inference_mode():
        counts = pixel_metrics.histogram(network(images).softmax(1), labels)
    for name, value in pixel_metrics.curve_scores(counts, asked.names).items():
        assert actual[name] == pytest.approx(value, abs=1e-3)


def test_several_networks_score_as_alone(source: ResidentSource):
    """Sharing the reading changes no bit of any network's scores."""
    together = scored(source, 2)
    for seed in range(2):
        alone = score(made(seed), target(), source, batch=4, device="cpu", precision="fp32")
        assert together[seed].scores == alone
    assert together[0].scores != together[1].scores


def test_probabilities_of_samples(source: ResidentSource):
    """The samples asked for come back in that order, as 255 times their probabilities; by default none."""
    samples = [9, 0, 4, 9]
    actual = scored(source, samples=samples)[0]
    network = made().eval()
    images, _ = source.read(torch.tensor(samples), "cpu")
    with torch.inference_mode():
        expected = network(images).softmax(1) * 255
    assert actual.probabilities.dtype == torch.uint8 and actual.probabilities.shape == expected.shape
    assert (actual.probabilities.float() - expected).abs().max() <= 0.5 + 1e-2
    assert actual.probabilities.float().sum(1).sub(255).abs().max() <= 1
    assert not scored(source)[0].probabilities.numel()
    with pytest.raises(IndexError, match="samples: the source has samples 0 to 10, not 11, -1"):
        scored(source, samples=[11, 3, -1])


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_precision_of_products(precision: str, dtype: torch.dtype):
    """Each precision multiplies in its own type."""
    with torch.inference_mode(), autocast("cpu", precision):  # type: ignore[arg-type]
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


def test_score_equals_whole_at_once(discs: Path):
    """Loss and scores summed over batches equal those of all samples in one batch."""
    with Dataset(discs) as dataset:
        source = ResidentSource.from_dataset(dataset, np.arange(11), layer="discs")
    target = build_target(ClassesSpec(), names=("background", "disc"), instances=False, context="test")
    network = made().eval()
    few, all_at_once = (
        score(network, target, source, batch=batch, device="cpu", precision="fp32") for batch in (4, 11)
    )
    for name, value in all_at_once.items():
        assert few[name] == pytest.approx(value, rel=1e-5), name
    images, labels = source.read(torch.arange(11), "cpu")
    with torch.inference_mode():
        scores = network(images)
    assert few["loss"] == pytest.approx(loss_of(target, scores, target.encode(labels)).item(), rel=1e-5)
    counts = pixel_metrics.confusion(target.classes(scores), target.encode(labels), 2)
    assert few["accuracy"] == pytest.approx((counts.diagonal().sum() / counts.sum()).item())
