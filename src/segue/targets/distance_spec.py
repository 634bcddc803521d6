"""The specification of the target `distance`, without torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from segue.spec import SpecModel


class DistanceSpec(SpecModel):
    """The distance of each pixel of an object to what is not that object; 0 in the background.

    `normalised`: divided by its maximum in the object, so that every object reaches 1; otherwise in pixels.
    `foreground`: a second score tells the probability of an object, as most do; without it the distance must tell
    objects too, as in DIST (Naylor et al., IEEE TMI 38, 448 (2018)). `foreground_weight`: the weight of its cross
    entropy beside the mean squared error of the distance. `layer` names the label layer and may be left out where the
    dataset has one.
    """

    name: Literal["distance"]
    normalised: bool = False
    foreground: bool = True
    foreground_weight: Annotated[float, Field(gt=0)] = 1.0
    layer: str | None = None
