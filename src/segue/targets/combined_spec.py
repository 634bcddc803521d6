"""The specification of the target `combined`, without torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from segue.spec import SpecModel
from segue.targets.boundary_spec import BoundarySpec
from segue.targets.classes_spec import ClassesSpec
from segue.targets.descriptors_spec import DescriptorsSpec
from segue.targets.distance_spec import DistanceSpec
from segue.targets.flows_spec import FlowsSpec
from segue.targets.foreground_spec import ForegroundSpec
from segue.targets.rays_spec import RaysSpec
from segue.targets.reconstruction_spec import ReconstructionSpec

ObjectsSpec = ForegroundSpec | BoundarySpec | DistanceSpec | RaysSpec | FlowsSpec | DescriptorsSpec


def classes_unless_named(value: Any) -> Any:
    return {"name": "classes", **value} if isinstance(value, dict) else value


MainSpec = Annotated[
    Annotated[ClassesSpec | ObjectsSpec, Field(discriminator="name")], BeforeValidator(classes_unless_named)
]
AuxiliarySpec = Annotated[
    Annotated[ClassesSpec | ObjectsSpec | ReconstructionSpec, Field(discriminator="name")],
    BeforeValidator(classes_unless_named),
]


class Weighted(SpecModel):
    """An auxiliary target and the factor on its loss."""

    target: AuxiliarySpec
    weight: Annotated[float, Field(gt=0)] = 1.0


class CombinedSpec(SpecModel):
    """One network that is asked for several representations at once.

    `main` is what is scored, decoded and tuned. The loss is its own plus `weight` times that of each of `auxiliary`,
    whose scores the network gives too and nothing else uses. All are of the label layer of `main`.

        [target]
        name = "combined"
        main = { name = "flows" }
        auxiliary = [{ target = { name = "descriptors" }, weight = 0.5 }]
    """

    name: Literal["combined"]
    main: MainSpec
    auxiliary: Annotated[tuple[Weighted, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _fitting(self) -> CombinedSpec:
        asked = [self.main.model_copy(update={"layer": None}), *(part.target for part in self.auxiliary)]
        twice = next((spec for i, spec in enumerate(asked) if spec in asked[:i]), None)
        if twice is not None:
            raise ValueError(f"target '{twice.name}' is asked for twice with equal settings; leave one of them out")
        for part in self.auxiliary:
            if part.target.layer is not None:
                raise ValueError(
                    f"auxiliary target '{part.target.name}' names a layer; all are of the layer of main: name it there"
                )
            if isinstance(part.target, ReconstructionSpec) and part.target.corruption.name != "nothing":
                raise ValueError(
                    f"auxiliary reconstruction with corruption '{part.target.corruption.name}' would hide from main "
                    'what it is asked for; write corruption = { name = "nothing" }'
                )
        for spec in (self.main, *(part.target for part in self.auxiliary)):
            if isinstance(spec, ClassesSpec) and spec.needs_counts:
                raise ValueError("class_weights within a combined target are given as numbers, one for each class")
        return self

    @property
    def layer(self) -> str | None:
        return self.main.layer
