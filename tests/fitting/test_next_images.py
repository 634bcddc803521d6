"""The order in which to label: disagreement times distance from what has labels or was ranked before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from samples.local_model import model_of

from segue.fitting.next_images import disagreement, order


def test_order() -> None:
    """The first is far and undecided; one that looks like it comes late, and so does one that has labels already."""
    features = np.array([[0.0, 0], [0, 1], [9, 9], [9, 9.1], [0, 0.1], [9, 0]])
    ranked = order(["far", "near far", "known", "aside"], np.array([0.3, 0.29, 0.9, 0.1]), features, 2)
    assert [one.image for one in ranked] == ["far", "aside", "known", "near far"]
    assert [one.rank for one in ranked] == [1, 2, 3, 4]
    assert ranked[3].distance < 0.1 < ranked[0].distance


def test_disagreement_of_views() -> None:
    """A network without a direction of its own agrees with itself, one that looks to the left does not."""
    image = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    model = model_of("foreground")
    assert disagreement(model, image) < 1e-6
    shifted = replace(model, network=torch.nn.Sequential(torch.nn.ZeroPad2d((3, -3, 0, 0)), model.network))
    assert disagreement(shifted, image) > 1e-3
