"""Targets by name; their specifications are in `targets.specs`, without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from segue.targets import boundary, classes, descriptors, distance, flows, foreground, rays, reconstruction, specs
from segue.targets.combined import Combined
from segue.targets.specs import CombinedSpec, Spec, TargetModel
from segue.targets.target import LabelInfo, Target


def _build_combined(spec: CombinedSpec, labels: LabelInfo) -> Combined:
    parts = tuple(TARGETS[part.name][1](part, labels) for part in spec.parts)
    return Combined(parts, (1.0, *(part.weight for part in spec.auxiliary)))


TARGETS: dict[str, tuple[type[TargetModel], Callable[[Any, LabelInfo], Target]]] = {
    "classes": (specs.ClassesSpec, classes.build),
    "foreground": (specs.ForegroundSpec, foreground.build),
    "boundary": (specs.BoundarySpec, boundary.build),
    "distance": (specs.DistanceSpec, distance.build),
    "rays": (specs.RaysSpec, rays.build),
    "flows": (specs.FlowsSpec, flows.build),
    "descriptors": (specs.DescriptorsSpec, descriptors.build),
    "reconstruction": (specs.ReconstructionSpec, reconstruction.build),
    "image-class": (specs.ImageClassSpec, classes.build_image_class),
    "combined": (specs.CombinedSpec, _build_combined),
}


def build_target(
    spec: Spec,
    *,
    names: Sequence[str],
    instances: bool,
    context: str,
    counts: np.ndarray | Sequence[int] | None = None,
    channels: int = 1,
) -> Target:
    """Returns the target for a layer with these class names; raises SegueError when the two do not fit.

    instances: whether the layer numbers objects. counts: the pixels of each class per training sample (n, K), or their
    totals (K,), needed where `spec.needs_counts`. channels: those of the images. context: the beginning of error
    messages.
    """
    build = TARGETS[spec.name][1]
    return build(spec, LabelInfo(tuple(names), instances, context, counts, channels))
