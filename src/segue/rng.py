"""Random streams derived by hashing (seed, purpose, index), so that no two purposes ever share one.

A stream depends on the given values and on nothing else: not on the order of calls, the number of workers or torch's
global generator, which is used only inside `scope`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive(*parts: str | int | float) -> int:
    """Returns a seed in [0, 2**63) from any parts, e.g. ``derive(3, "order", 0)``; 3 and "3" differ."""
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def uniform(*parts: str | int | float) -> float:
    """Returns a number in [0, 1) from the parts: the same in every process and on every machine."""
    return derive(*parts) / 2**63


def numpy_generator(*parts: str | int | float) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(derive(*parts)))


def torch_generator(*parts: str | int | float, device: str | torch.device = "cpu") -> torch.Generator:
    import torch

    return torch.Generator(device=device).manual_seed(derive(*parts))


@contextmanager
def scope(*parts: str | int | float) -> Iterator[None]:
    """Seeds torch's global generators (CPU, and CUDA where present) inside, and restores them on leaving."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(derive(*parts))
        yield
