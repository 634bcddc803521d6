from __future__ import annotations

import numpy as np
import torch

from segue import rng


def test_streams_differ_by_every_part():
    """Seed, purpose and index each make another stream, and 3 is not "3"."""
    seeds = {rng.derive(0, "order", 0), rng.derive(1, "order", 0), rng.derive(0, "draw", 0), rng.derive(0, "order", 1)}
    assert len(seeds | {rng.derive("0", "order", 0)}) == 5


def test_streams_are_the_same_everywhere():
    """The hash does not depend on the process (golden value)."""
    assert rng.derive(3, "order", 0) == 1714824370830384623
    assert rng.numpy_generator(3, "order", 0).integers(1000) == rng.numpy_generator(3, "order", 0).integers(1000)


def test_uniform_is_uniform():
    """Ten thousand values have the mean and variance of the uniform distribution."""
    values = np.array([rng.uniform(0, "split", f"group {i}") for i in range(10_000)])
    assert values.min() >= 0 and values.max() < 1
    assert abs(values.mean() - 0.5) < 0.01
    assert abs(values.var() - 1 / 12) < 0.005


def test_scope_leaves_the_global_generator_alone():
    """Inside a scope torch draws from the scope's stream, outside from where it was."""
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    first = torch.rand(1)
    with rng.scope(0, "init", 0):
        inside = torch.rand(3)
    assert torch.equal(torch.cat([first, torch.rand(1)]), expected)
    with rng.scope(0, "init", 0):
        assert torch.equal(torch.rand(3), inside)
