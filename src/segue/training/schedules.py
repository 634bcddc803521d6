"""Learning-rate schedules by name, as factors on the optimiser's rate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from segue.spec import SpecModel


class ConstantSpec(SpecModel):
    name: Literal["constant"]


class ExponentialSpec(SpecModel):
    """The rate is multiplied by `gamma` after every epoch."""

    name: Literal["exponential"]
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.99


ScheduleSpec = Annotated[ConstantSpec | ExponentialSpec, Field(discriminator="name")]


def factor(spec: ConstantSpec | ExponentialSpec, epoch: int) -> float:
    """Returns the factor on the rate in an epoch, counted from 0."""
    if isinstance(spec, ExponentialSpec):
        return spec.gamma**epoch
    return 1.0
