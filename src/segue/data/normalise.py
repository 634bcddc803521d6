"""How acquired values become what a network sees: (x - shift) / scale, per image and channel.

The same two functions serve data in memory, streamed data and predictions, so that all see equal bits. Cheap to
import: no torch.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from segue.spec import SpecModel


class PercentileSpec(SpecModel):
    """(x - p_low) / (p_high - p_low): the percentiles of the image itself become 0 and 1."""

    name: Literal["percentile"]
    low: Annotated[float, Field(ge=0, le=100)] = 1.0
    high: Annotated[float, Field(ge=0, le=100)] = 99.8

    @model_validator(mode="after")
    def _ordered(self) -> PercentileSpec:
        if self.low >= self.high:
            raise ValueError(f"low = {self.low:g} is not below high = {self.high:g}; give 0 <= low < high <= 100")
        return self


NormaliseSpec = Literal["image", "none", "tile"] | PercentileSpec
"""image: mean and standard deviation of the micrograph that a tile was cut from. tile: of the tile itself, padding
included. percentile: two percentiles of the tile. none: the acquired values. Where a whole image is given, as in a
prediction, image and tile are the same."""


def statistics(normalise: NormaliseSpec, images: np.ndarray, intensity: np.ndarray | None = None) -> np.ndarray:
    """Returns (n, C, 2) float32, the shift and the scale of each channel of images (n, C, H, W) in acquired values.

    intensity (n, C, 2): mean and standard deviation of the micrographs that the images were cut from, which "image"
    takes; without it the images count as whole. A scale of 0 counts as 1, so that a constant image becomes 0.
    NaN and infinity in an image make its statistics so.
    """
    from segue.data.micrographs import intensity_of

    found = np.empty((*images.shape[:2], 2), dtype=np.float32)
    with np.errstate(invalid="ignore"):
        if normalise == "none":
            found[...] = 0, 1
        elif normalise == "image" and intensity is not None:
            found[...] = intensity
        elif isinstance(normalise, PercentileSpec):
            for index, image in enumerate(images):
                low, high = np.percentile(image.reshape(len(image), -1), [normalise.low, normalise.high], axis=1)
                found[index] = np.stack([low, high - low], axis=1)
        else:
            for index, image in enumerate(images):
                found[index] = intensity_of(image)
    scale = found[..., 1]
    scale[scale == 0] = 1
    return found


def normalised(images: np.ndarray, of: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Returns (x - shift) / scale as float32 (n, C, H, W), written to `out` where given, with `of` (n, C, 2)."""
    if out is None:
        out = np.empty(images.shape, dtype=np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        np.subtract(images, of[..., 0, None, None], out=out, dtype=np.float32, casting="unsafe")
        np.divide(out, of[..., 1, None, None], out=out)
    return out
