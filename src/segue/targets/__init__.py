"""Targets by name: what is asked of the network (encode), its loss, and the way back to labels (decode)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from segue.spec import SpecModel

Weight = Annotated[float, Field(gt=0)]


class TargetSpec(SpecModel):
    """What the network is to predict.

    `classes`: one of K classes per pixel; an instances layer counts as background and object. `layer` names the
    label layer and may be left out where the dataset has one. `class_weights` gives one positive weight per class.
    """

    name: Literal["classes"] = "classes"
    loss: Literal["cross_entropy", "cross_entropy_of_probabilities"] = "cross_entropy"
    class_weights: tuple[Weight, ...] | None = None
    layer: str | None = None
