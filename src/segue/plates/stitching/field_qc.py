"""How good fields are: saturated, black, out of focus, empty, each judged against the other fields of its well."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import ndimage

from segue.plates.spec import Action, QualitySpec

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class FieldMeasures:
    """What a field shows. Contrasts are sds of the Laplacian of Gaussian times its variance, over the median, with the
    share of white noise taken off, so that a blurred field is not sharp for its noise.
    """

    median_counts: float
    saturated: float  # fraction of the pixels
    noise: float  # sd from pixel to pixel over the median
    fine: float
    coarse: float


@dataclass(frozen=True)
class FieldQuality:
    """`flags`: which of "saturated", "black", "defocused", "empty" hold; `excluded`: whether one of them excludes."""

    flags: tuple[str, ...]
    excluded: bool
    measures: FieldMeasures


def measure_field(tile: np.ndarray, spec: QualitySpec) -> FieldMeasures:
    """Returns the measures of a tile (H, W) as the camera gave it.

    Raises ValueError for other shapes, and for floating-point tiles where `saturated.full_counts` is not given.
    """
    if tile.ndim != 2 or tile.size == 0:
        raise ValueError(f"quality: the tile is {tile.shape}; give one field (H, W) of one channel")
    full = spec.saturated.full_counts
    if full is None:
        if not np.issubdtype(tile.dtype, np.integer):
            raise ValueError(
                f"quality: the tile is {tile.dtype}, which has no largest count; give quality.saturated.full_counts"
            )
        full = np.iinfo(tile.dtype).max
    median = float(np.median(tile))
    relative = tile.astype(np.float32) / np.float32(max(median, 1.0))
    noise = _noise(relative)
    fine, coarse = (_contrast(relative, scale, noise) for scale in (spec.fine_px, spec.coarse_px))
    return FieldMeasures(median, float((tile >= full).mean()), noise, fine, coarse)


def field_quality(
    tile: np.ndarray, spec: QualitySpec, *, reference: Sequence[FieldMeasures] | None = None, stain: bool = False
) -> FieldQuality:
    """Returns the quality of one tile (H, W); `reference` are measures of other fields taken alike.

    Without a reference it can be saturated or empty, not black or out of focus, which the others' median decides.
    """
    return _judged(measure_field(tile, spec), spec, reference or (), stain)


def judge_fields(
    tiles: Mapping[Key, np.ndarray | None],
    spec: QualitySpec,
    *,
    stain: bool = False,
    reference: Iterable[FieldMeasures] = (),
) -> dict[Key, FieldQuality]:
    """Returns the quality of each tile of one channel at one time, missing ones (None) left out.

    Each is compared with the median of the others and of `reference`, fields of other times, that are neither saturated
    nor black. Where most fields are out of focus the others do not tell: give a reference then.
    """
    found = {key: measure_field(tile, spec) for key, tile in tiles.items() if tile is not None}
    more = list(reference)
    return {
        key: _judged(own, spec, [*(other for k, other in found.items() if k != key), *more], stain)
        for key, own in found.items()
    }


def _judged(own: FieldMeasures, spec: QualitySpec, others: Sequence[FieldMeasures], stain: bool) -> FieldQuality:
    holds: dict[str, Action] = {}
    usable = [other for other in others if other.saturated <= spec.saturated.fraction]
    bright = float(np.median([other.median_counts for other in usable])) if usable else 0.0
    if own.saturated > spec.saturated.fraction:
        holds["saturated"] = spec.saturated.action
    elif own.median_counts < spec.black.level * bright:
        holds["black"] = spec.black.action
    elif not stain:
        lit = [other.fine for other in usable if other.median_counts >= spec.black.level * bright]
        usual = float(np.median(lit)) if lit else 0.0
        # far out of focus nothing fine is left either: among fields with structure the coarse contrast tells them apart
        bare = own.coarse < spec.empty.contrast or usual < spec.empty.contrast
        if own.fine < spec.empty.contrast and bare:
            holds["empty"] = spec.empty.action
        elif own.fine < spec.defocused.level * usual:
            holds["defocused"] = spec.defocused.action
    return FieldQuality(tuple(holds), "exclude" in holds.values(), own)


def _noise(image: np.ndarray) -> float:
    """Returns the sd of white noise, from the median size of differences of differences between four neighbours."""
    if min(image.shape) < 2:
        return 0.0
    steps = image[1:, 1:] - image[1:, :-1] - image[:-1, 1:] + image[:-1, :-1]
    return float(1.4826 * np.median(np.abs(steps)) / 2)


def _contrast(image: np.ndarray, scale_px: float, noise: float) -> float:
    """Returns scale² · sd(∇² G ∗ image) less what white noise of this sd gives, noise / (√(2π) scale)."""
    # Σ (∇² G)² = 1 / (2π scale⁶), from its spectrum q² exp(−scale² q² / 2)
    seen = float(np.var(ndimage.gaussian_laplace(image, scale_px, mode="nearest"))) * scale_px**4
    return float(np.sqrt(max(seen - noise**2 / (2 * np.pi * scale_px**2), 0.0)))
