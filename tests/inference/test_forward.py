from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from segue import networks, rng
from segue.data.dataset import Dataset
from segue.data.sources import ResidentSource
from segue.evaluation import pixel_metrics
from segue.inference.predict import predict, score
from segue.networks.registry import NetworkSpec
from segue.targets import classes
from segue.targets.specs import ClassesSpec


def made() -> torch.nn.Module:
    with rng.scope("forward"):
        return networks.build(NetworkSpec(width=8), channels=1, classes=2).eval()


@pytest.mark.parametrize("shape", [(32, 32), (33, 70), (5, 3), (1, 1)])
def test_any_size_is_predicted_at_its_own_size(shape: tuple[int, int]):
    """Images of any height and width come back at that size, and exact multiples are not padded."""
    network = made()
    images = torch.randn(2, 1, *shape, generator=rng.torch_generator("images"))
    scores = predict(network, images, divisor=32, precision="fp32")
    assert scores.shape == (2, 2, *shape)
    if shape == (32, 32):
        with torch.inference_mode():
            assert torch.allclose(scores, network(images), atol=1e-5)


def test_score_equals_whole_at_once(discs: Path):
    """Loss and scores summed over batches equal those of all samples in one batch."""
    with Dataset(discs) as dataset:
        source = ResidentSource.from_dataset(dataset, np.arange(11), layer="discs")
    target = classes.build(ClassesSpec(), names=("background", "disc"), instances=False, where="test")
    network = made()
    few, all_at_once = (
        score(network, target, source, batch=batch, device="cpu", precision="fp32") for batch in (4, 11)
    )
    for name, value in all_at_once.items():
        assert few[name] == pytest.approx(value, rel=1e-5), name
    images, labels = source.read(torch.arange(11), "cpu")
    with torch.inference_mode():
        scores = network(images)
    assert few["loss"] == pytest.approx(target.loss(scores, target.encode(labels)).item(), rel=1e-5)
    counts = pixel_metrics.confusion(target.classes(scores), target.encode(labels), 2)
    assert few["accuracy"] == pytest.approx((counts.diagonal().sum() / counts.sum()).item())
