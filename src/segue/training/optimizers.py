"""Optimisers by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from segue.spec import SpecModel

if TYPE_CHECKING:
    import torch
    from torch import nn

Rate = Annotated[float, Field(gt=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class AdamSpec(SpecModel):
    """Adam (Kingma and Ba 2015): `lr` is the rate before any schedule, `betas` the decay of the two averages."""

    name: Literal["adam"] = "adam"
    lr: Rate = 1e-3
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8


def build(spec: AdamSpec, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Returns the optimiser over the parameters; all of them step in one fused kernel."""
    import torch

    return torch.optim.Adam(list(parameters), lr=spec.lr, betas=spec.betas, eps=spec.eps, fused=True)
