"""Targets by name: what is asked of the network (encode), its loss, and the way back to labels (decode).

Here stand the specifications, without torch; each target stands in the file of its name. `classes` is meant where no
name is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field

from segue.errors import SegueError
from segue.targets.boundary_spec import BoundarySpec
from segue.targets.classes_spec import ClassesSpec
from segue.targets.descriptors_spec import DescriptorsSpec
from segue.targets.distance_spec import DistanceSpec
from segue.targets.flows_spec import FlowsSpec
from segue.targets.foreground_spec import ForegroundSpec
from segue.targets.rays_spec import RaysSpec

if TYPE_CHECKING:
    from segue.targets.target import Target

ObjectsSpec = ForegroundSpec | BoundarySpec | DistanceSpec | RaysSpec | FlowsSpec | DescriptorsSpec


def _classes_unless_named(value: Any) -> Any:
    return {"name": "classes", **value} if isinstance(value, dict) else value


TargetSpec = Annotated[
    Annotated[ClassesSpec | ObjectsSpec, Field(discriminator="name")], BeforeValidator(_classes_unless_named)
]


def build(
    spec: ClassesSpec | ObjectsSpec,
    *,
    names: Sequence[str],
    instances: bool,
    where: str,
    counts: np.ndarray | Sequence[int] | None = None,
) -> Target:
    """Returns the target for a layer with these class names; raises SegueError when the two do not fit.

    instances: whether the layer numbers objects. counts: the pixels of each class per training sample (n, K), or their
    totals (K,), needed where `spec.needs_counts`.
    """
    from segue.targets import boundary, classes, descriptors, distance, flows, foreground, rays

    if isinstance(spec, ClassesSpec):
        return classes.build(spec, names=names, instances=instances, where=where, counts=counts)
    if not instances:
        raise SegueError(
            f"{where}: target '{spec.name}' is of objects, but the layer holds classes ({', '.join(names)}); use a "
            "layer of instances, or the target 'classes'."
        )
    if isinstance(spec, ForegroundSpec):
        return foreground.build(spec, names=names, where=where)
    if isinstance(spec, BoundarySpec):
        return boundary.build(spec, names=names, where=where)
    if isinstance(spec, DistanceSpec):
        return distance.build(spec, names=names, where=where)
    if isinstance(spec, RaysSpec):
        return rays.build(spec, names=names, where=where)
    if isinstance(spec, FlowsSpec):
        return flows.build(spec, names=names, where=where)
    return descriptors.build(spec, names=names, where=where)
