"""Nuclei of one stain: from counts over the background to separate objects, the sequence in `segment_stain`."""

from __future__ import annotations

import cc3d
import edt
import numpy as np
from scipy import ndimage

from segue.labels import ops, watershed
from segue.plates.labeling.thresholds import ThresholdLevel, compute_threshold
from segue.plates.spec import NucleusSplitSpec, StainSpec


def segment_stain(
    counts: np.ndarray, spec: StainSpec, *, pixel_size_um: float, valid: np.ndarray
) -> tuple[np.ndarray, ThresholdLevel]:
    """Returns objects (H, W) int32, 1 … n in scan order, and the threshold.

    `counts` (H, W) float32 over the background (`thresholds.subtract_background`); objects lie within `valid`. Raises
    ValueError if the threshold has no valid pixels.
    """
    # smooth and threshold
    smooth = _smooth(counts, spec.smoothing_um / pixel_size_um)
    level = compute_threshold(smooth, spec.threshold, pixel_size_um=pixel_size_um, valid=valid)
    mask = (smooth > level.at) & valid
    # split by brightness, cut each part at its own edge, split by distance
    if isinstance(spec.split, NucleusSplitSpec):
        bright = np.maximum(_smooth(counts, spec.split.brightness_um / pixel_size_um), 1e-3)
        parts = _split(bright, mask, spec.split.brightness_depth)
        mask = _cut_at_edges(parts, smooth, spec.edge) > 0
        deep = _smooth(edt.edt(mask).astype(np.float32), spec.split.distance_um / pixel_size_um)
        labels = _split(deep, mask, spec.split.distance_depth)
    else:
        labels = ops.connected_components(mask)
    # cut at the edges, remove faint objects, clean up
    labels = _remove_faint(_cut_at_edges(labels, smooth, spec.edge), smooth, spec.faint)
    labels = ops.fill_holes(labels, max_size_px=spec.hole_um2 / pixel_size_um**2)
    labels = _open(labels, spec.opening_um / pixel_size_um)
    # cutting and opening may have disconnected objects
    labels = np.asarray(cc3d.connected_components(labels, connectivity=4), np.int32)
    if spec.max_area_um2 is not None:
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        labels = np.where(sizes[labels] * pixel_size_um**2 > spec.max_area_um2, 0, labels)
    return ops.remove_small(labels, min_size_px=spec.min_area_um2 / pixel_size_um**2), level


def inscribed_radius_px(labels: np.ndarray, count: int) -> np.ndarray:
    """Returns (count + 1,) float32: the radius of the largest disc in each object, 0 for the background."""
    return max_per_label(edt.edt(np.ascontiguousarray(labels)).astype(np.float32), labels, count)


def max_per_label(values: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Returns (count + 1,) float32: the maximum of the values in each object, 0 for the background and missing
    objects."""
    result = np.zeros(count + 1, np.float32)
    inside = labels > 0
    np.maximum.at(result, labels[inside], values[inside].astype(np.float32, copy=False))
    return result


def _smooth(image: np.ndarray, sd_px: float) -> np.ndarray:
    return ndimage.gaussian_filter(image, sd_px, mode="nearest", truncate=3.0) if sd_px > 0 else image


def _split(values: np.ndarray, mask: np.ndarray, depth: float) -> np.ndarray:
    """Returns the parts of the mask, (H, W) int32 from 1, one for each maximum of the values of sufficient depth."""
    seeds = watershed.seeds_by_dynamics(values, mask, min_depth=depth, join_above=np.inf, min_height=0.0)
    pixels = np.flatnonzero(seeds)  # numbered by pixels: few and large numbers
    seeds.ravel()[pixels] = np.unique(seeds.ravel()[pixels], return_inverse=True)[1] + 1
    return watershed.flood(values, seeds, mask)


def _cut_at_edges(labels: np.ndarray, smooth: np.ndarray, edge: float) -> np.ndarray:
    """Returns the labels where the light is at least the fraction `edge` of its maximum in the object."""
    if edge == 0:
        return labels
    ends = edge * max_per_label(smooth, labels, int(labels.max(initial=0)))
    return np.where(smooth >= ends[labels], labels, 0)


def _remove_faint(labels: np.ndarray, smooth: np.ndarray, faint: float) -> np.ndarray:
    """Returns the labels without objects whose maximum is below `faint` of the light-weighted median of the maxima."""
    inside = labels > 0
    if faint == 0 or not inside.any():
        return labels
    peaks = max_per_label(smooth, labels, int(labels.max()))
    light = np.bincount(labels[inside], np.maximum(smooth[inside], 0), len(peaks))
    order = np.argsort(peaks, kind="stable")
    running = np.cumsum(light[order])
    typical = peaks[order[int(np.searchsorted(running, running[-1] / 2))]]
    return np.where((peaks < faint * typical)[labels], 0, labels)


def _open(labels: np.ndarray, radius_px: float) -> np.ndarray:
    """Returns the morphological opening of each object by a disc of this radius."""
    if radius_px <= 0:
        return labels
    core = edt.edt(np.ascontiguousarray(labels)) > radius_px
    return np.where(edt.edt(~core) <= radius_px, labels, 0).astype(np.int32)
