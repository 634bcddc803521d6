"""The specification of flows as a target, without torch; `flows` is the target."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from segue.spec import SpecModel


class FlowsSpec(SpecModel):
    """Flows to the centre of each object and the probability of objects (Stringer et al. 2021).

    `steps` says how long decoding follows the flows, a pixel each where they are sure: at least the way from the border
    of the largest object to its centre. `layer` names the label layer and may be left out where the dataset has one.
    """

    name: Literal["flows"]
    steps: Annotated[int, Field(ge=1, le=5000)] = 200
    layer: str | None = None
