"""The specification of star-convex polygons as a target, without torch; `rays` is the target."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from segue.spec import SpecModel


class RaysSpec(SpecModel):
    """Star-convex polygons: object probability, and the distance to the object's border along `rays` directions.

    `rays` is a multiple of 4, so that quarter turns carry rays into rays. `distance_weight` weighs the distances
    against the probability in the loss, `background_weight` (within it) draws distances in the background to 0; both as
    in StarDist (Schmidt et al. 2018; Weigert et al. 2020). `layer` names the label layer and may be left out where the
    dataset has one.
    """

    name: Literal["rays"]
    rays: Annotated[int, Field(ge=8, le=256, multiple_of=4)] = 32
    distance_weight: Annotated[float, Field(gt=0)] = 0.2
    background_weight: Annotated[float, Field(ge=0)] = 1e-4
    layer: str | None = None
