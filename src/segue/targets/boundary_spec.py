"""The specification of the target `boundary`, without torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from segue.spec import SpecModel


class BoundarySpec(SpecModel):
    """Three classes per pixel: background, the interior of an object, and its boundary.

    `boundary_px`: pixels of an object are its boundary where a pixel outside it is as near as that, between centres: 1
    is a line of one pixel that is closed for four neighbours, 1.5 one closed for eight. `towards`: what counts as
    outside, "all" that is not the object, or other "objects" alone, so that only contacts are boundary.
    `boundary_weight`: the weight of boundary pixels in the cross entropy, others have 1. `layer` names the label layer
    and may be left out where the dataset has one.
    """

    name: Literal["boundary"]
    boundary_px: Annotated[float, Field(ge=1, le=16)] = 2.0
    towards: Literal["all", "objects"] = "all"
    boundary_weight: Annotated[float, Field(gt=0)] = 1.0
    layer: str | None = None
