"""Quality of fields: saturated, black, out of focus or empty, judged against the other fields of the well."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import ndimage

from segue.data.folders.saturation import saturation
from segue.plates.spec import Action, QualitySpec

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class FieldMeasures:
    """Measures of a field. Contrast: sd of the scale-normalized Laplacian of Gaussian over the median, minus the part
    of white noise, so that noise does not make a blurred field sharp.
    """

    median_counts: float
    saturated: float  # fraction of the pixels
    noise: float  # sd of pixel noise over the median
    fine: float
    coarse: float


@dataclass(frozen=True)
class FieldQuality:
    """`flags`: which of "saturated", "black", "defocused", "empty" hold; `excluded`: whether one of them excludes."""

    flags: tuple[str, ...]
    excluded: bool
    measures: FieldMeasures


def measure_field(tile: np.ndarray, spec: QualitySpec) -> FieldMeasures:
    """Returns the measures of a raw tile (H, W); raises ValueError for other shapes."""
    if tile.ndim != 2 or tile.size == 0:
        raise ValueError(f"quality: the tile is {tile.shape}; give one field (H, W) of one channel")
    full = spec.saturated.full_counts
    saturated = saturation(tile).share if full is None else float((tile >= full).mean())
    median = float(np.median(tile))
    relative = tile.astype(np.float32) / np.float32(max(median, 1.0))
    noise = _noise_sd(relative)
    fine, coarse = (_contrast(relative, scale, noise) for scale in (spec.fine_px, spec.coarse_px))
    return FieldMeasures(median, saturated, noise, fine, coarse)


def judge_fields(
    tiles: Mapping[Key, np.ndarray | None],
    spec: QualitySpec,
    *,
    stain: bool = False,
    reference: Iterable[FieldMeasures] = (),
) -> dict[Key, FieldQuality]:
    """Returns the quality of each existing tile of one channel at one time.

    Each is compared with the median of those others, and of `reference` (fields of other times), that are neither
    saturated nor black. A single tile without reference can be saturated or empty only. If most fields are out of
    focus, the others are no standard: give a reference.
    """
    fields = {key: measure_field(tile, spec) for key, tile in tiles.items() if tile is not None}
    more = list(reference)
    return {
        key: _judge(measures, spec, [*(other for k, other in fields.items() if k != key), *more], stain)
        for key, measures in fields.items()
    }


def _judge(measures: FieldMeasures, spec: QualitySpec, others: Sequence[FieldMeasures], stain: bool) -> FieldQuality:
    flags: dict[str, Action] = {}
    usable = [other for other in others if other.saturated <= spec.saturated.fraction]
    bright = float(np.median([other.median_counts for other in usable])) if usable else 0.0
    if measures.saturated > spec.saturated.fraction:
        flags["saturated"] = spec.saturated.action
    elif measures.median_counts < spec.black.level * bright:
        flags["black"] = spec.black.action
    elif not stain:
        lit = [other.fine for other in usable if other.median_counts >= spec.black.level * bright]
        typical = float(np.median(lit)) if lit else 0.0
        # far out of focus no fine contrast is left either: among fields with structure the coarse contrast decides
        is_bare = measures.coarse < spec.empty.contrast or typical < spec.empty.contrast
        if measures.fine < spec.empty.contrast and is_bare:
            flags["empty"] = spec.empty.action
        elif measures.fine < spec.defocused.level * typical:
            flags["defocused"] = spec.defocused.action
    return FieldQuality(tuple(flags), "exclude" in flags.values(), measures)


def _noise_sd(image: np.ndarray) -> float:
    """Returns the sd of white noise, from the median absolute second difference of four neighbors."""
    if min(image.shape) < 2:
        return 0.0
    steps = image[1:, 1:] - image[1:, :-1] - image[:-1, 1:] + image[:-1, :-1]
    return float(1.4826 * np.median(np.abs(steps)) / 2)


def _contrast(image: np.ndarray, scale_px: float, noise: float) -> float:
    """Returns scale² · sd(∇² G ∗ image) minus the part of white noise of this sd, noise / (√(2π) scale)."""
    # Σ (∇² G)² = 1 / (2π scale⁶), from its spectrum q² exp(−scale² q² / 2)
    variance = float(np.var(ndimage.gaussian_laplace(image, scale_px, mode="nearest"))) * scale_px**4
    return float(np.sqrt(max(variance - noise**2 / (2 * np.pi * scale_px**2), 0.0)))
