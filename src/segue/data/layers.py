"""What datasets are made of: label layers, micrographs, and the part that one group contributes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

IGNORED = -1  # the label of pixels that count nowhere, also in padding


@dataclass(frozen=True)
class Layer:
    """A label layer.

    classes: `names[v]` is the name of value v, names[0] the background. instances: ("background", <object name>),
    every object has its own value from 1 on. In both, 0 is background and -1 is ignored. Not stored but derived from
    what a dataset holds of every sample (`segue.data.derived`): images, without any names, and column, whose classes
    are of whole images.
    """

    name: str
    kind: Literal["classes", "instances", "images", "column"]
    names: tuple[str, ...]

    @property
    def stored(self) -> bool:
        return self.kind in ("classes", "instances")


@dataclass(frozen=True)
class Micrograph:
    """An image at its own size: image (C, H, W) in the acquired type, labels {layer: (H, W) int32}."""

    image: np.ndarray
    labels: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Part:
    """What one group contributes to a dataset; all arrays are in memory, for a group is small.

    images (n, C, H, W) in the acquired type (integers up to 32 bit, float32); labels {layer: (n, H, W) int32};
    valid (n, 4) int32, the box y0, x0, y1, x1 that is not padding; intensity (n, C, 2) float32, mean and standard
    deviation of the whole micrograph that the tile was cut from; samples {column: (n,)} of str, int64 or float64,
    with at least group, source, y_px, x_px; micrographs {source: Micrograph}, empty where whole images are not kept.
    """

    images: np.ndarray
    labels: Mapping[str, np.ndarray]
    valid: np.ndarray
    intensity: np.ndarray
    samples: Mapping[str, np.ndarray]
    micrographs: Mapping[str, Micrograph] = field(default_factory=dict)
