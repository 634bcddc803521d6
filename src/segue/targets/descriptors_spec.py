"""The specification of the target `descriptors`, without torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from segue.spec import SpecModel


class DescriptorsSpec(SpecModel):
    """Local shape descriptors: size, centre and extent of each pixel's object within a Gaussian window around it.

    `sigma_px`: the window's standard deviation; about the radius of an object. `affinities`: the network also tells for
    each pixel whether it and its neighbours above and to the left are of one object, and objects are found from these,
    as in the paper; without, they are found from the offsets to local centres among the descriptors.
    `descriptor_weight`: the weight of the descriptors' mean squared error beside the cross entropies. `layer` names the
    label layer and may be left out where the dataset has one.
    """

    name: Literal["descriptors"]
    sigma_px: Annotated[float, Field(ge=1, le=100)] = 10.0
    affinities: bool = True
    descriptor_weight: Annotated[float, Field(gt=0)] = 1.0
    layer: str | None = None
