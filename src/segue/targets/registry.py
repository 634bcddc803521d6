"""Targets by name: what is asked of the network (encode), its loss, and the way back to labels (decode).

Here stand the specifications, without torch; each target stands in the file of its name. `classes` is meant where no
name is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from segue.errors import SegueError
from segue.targets.specs import (
    BoundarySpec,
    ClassesSpec,
    CombinedSpec,
    DistanceSpec,
    FlowsSpec,
    ForegroundSpec,
    ImageClassSpec,
    OfLayer,
    RaysSpec,
    ReconstructionSpec,
    Spec,
)

if TYPE_CHECKING:
    from torch import Tensor

    from segue.targets.target import Target


def taught(target: Target, images: Tensor, labels: Tensor, seeds: np.ndarray) -> tuple[Tensor, Tensor]:
    """Returns what the network is shown of images (N, C, H, W), and what it is taught (`Target.encode`).

    seeds (N,): where what is random in each view comes from.
    """
    from segue.targets.combined import Combined
    from segue.targets.reconstruction import Reconstruction

    if isinstance(target, Reconstruction | Combined):
        return target.taught(images, labels, seeds)
    return images, target.encode(labels)


def build(
    spec: Spec,
    *,
    names: Sequence[str],
    instances: bool,
    where: str,
    counts: np.ndarray | Sequence[int] | None = None,
    channels: int = 1,
) -> Target:
    """Returns the target for a layer with these class names; raises SegueError when the two do not fit.

    instances: whether the layer numbers objects. counts: the pixels of each class per training sample (n, K), or their
    totals (K,), needed where `needs_counts` says so. channels: those of the images.
    """
    if isinstance(spec, ImageClassSpec):
        from segue.targets import classes

        return classes.build_image_class(spec, names=names, where=where, counts=counts)
    if isinstance(spec, CombinedSpec):
        from segue.targets.combined import Combined

        asked = (spec.main, *(part.target for part in spec.auxiliary))
        parts = [_build(one, names, instances, (where, counts, channels)) for one in asked]
        return Combined(tuple(parts), (1.0, *(part.weight for part in spec.auxiliary)))
    return _build(spec, names, instances, (where, counts, channels))


def _build(
    spec: OfLayer,
    names: Sequence[str],
    instances: bool,
    of: tuple[str, np.ndarray | Sequence[int] | None, int],
) -> Target:
    """of: where, counts and channels, as in `build`."""
    from segue.targets import boundary, classes, descriptors, distance, flows, foreground, rays, reconstruction

    where, counts, channels = of
    if isinstance(spec, ReconstructionSpec):
        return reconstruction.build(spec, channels=channels)
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
