"""Which fields (tiles, as the microscope took them) are too bad to use, and what is done with them.

    [quality.defocused]
    level = 0.3
    action = "mark"

A field that is to be excluded is left out of mosaics, labels and tiles; one that is marked is told in the report alone.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from segue.spec import SpecModel

Action = Literal["exclude", "mark"]
Share = Annotated[float, Field(ge=0, le=1)]


class SaturatedSpec(SpecModel):
    """More than `fraction` of the pixels at `full_counts`, or at the largest number of the file's type (None)."""

    fraction: Share = 0.02
    full_counts: Annotated[float, Field(gt=0)] | None = None
    action: Action = "exclude"


class BlackSpec(SpecModel):
    """The median below `level` of that of the other fields: the shutter was closed, or the lamp off."""

    level: Share = 0.5
    action: Action = "exclude"


class DefocusedSpec(SpecModel):
    """Fine contrast below `level` of that of the other fields, though there is something: see EmptySpec."""

    level: Share = 0.3
    action: Action = "exclude"


class EmptySpec(SpecModel):
    """No structure: fine and coarse contrast both below `contrast`, a share of the brightness.

    Where the other fields have none either, or there are none, the fine contrast alone decides. Among fields with
    structure an empty one looks much like one far out of focus; in doubt it is called defocused.
    """

    contrast: Annotated[float, Field(ge=0)] = 0.001
    action: Action = "mark"


class QualitySpec(SpecModel):
    """What makes a field bad. Contrast is measured at two scales: `fine_px` and `coarse_px` are the sd of the Gaussian
    whose Laplacian is taken. Fields of stains are judged by saturation and blackness alone: without a nucleus they are
    rightly empty.
    """

    fine_px: Annotated[float, Field(ge=0.7, le=8)] = 2.0
    coarse_px: Annotated[float, Field(gt=2, le=64)] = 8.0
    saturated: SaturatedSpec = SaturatedSpec()
    black: BlackSpec = BlackSpec()
    defocused: DefocusedSpec = DefocusedSpec()
    empty: EmptySpec = EmptySpec()
