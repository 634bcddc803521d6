"""The shift between two overlapping images: all whole-pixel shifts within reach, then sub-pixel least squares.

Correlation of narrow strips is normalized over the true overlap of each shift (Lewis 1995, Fast normalized
cross-correlation: sums of tables), so shifts do not wrap around and small overlaps do not win by chance. Both images
are band-passed first, which flattens their spectra like phase correlation but omits the frequencies of noise. The best
peaks are refined by Gauss-Newton on the intensities (Lucas & Kanade 1981; Baker & Matthews 2004) together with a gain,
an offset and a plane, and carry the information matrix of that fit: an edge along y says nothing about dy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from segue.plates.stitching.spline import Array, spline_coefficients, spline_values

SMOOTHING_PX = 1.0  # sd of the Gaussian that removes noise
BACKGROUND_PX = 10.0  # sd of the Gaussian subtracted as background in the search
NOISE_AREA_PX = 4 * np.pi * SMOOTHING_PX**2  # pixels per independent value after the smoothing
MIN_OVERLAP_PX = 6  # width; narrower overlaps are not compared
MIN_VARIANCE = 1e-6  # below this an overlap is empty
FLOOR_PX = 0.05  # minimum error of a refined shift, whatever the texture: distortion, interpolation
SIGNIFICANCE = 5.0  # minimum height of the peak over the other shifts, in standard deviations of chance
CAUCHY_VARIANCE = 0.8  # what Cauchy's weights leave of a Gaussian's
MAX_CANDIDATES = 4
MIN_EVIDENCE_RATIO = 0.3  # evidence of a candidate over that of the best


@dataclass(frozen=True)
class Candidate:
    """One possible shift (dy, dx) in px with its correlation, evidence (nats) and information (2 × 2, px⁻²)."""

    dy: float
    dx: float
    ncc: float
    evidence: float
    information: tuple[float, float, float]  # yy, yx, xx


@dataclass(frozen=True)
class Shift:
    """The origin of the second image in the first one's pixels: candidates, best first, and whether to trust them.

    `significance`: height of the best peak over the other shifts, in standard deviations of chance; `ratio`: evidence
    of the second peak over that of the first (1: ambiguous). `reason`: why a shift is not trusted.
    """

    candidates: tuple[Candidate, ...]
    significance: float
    ratio: float
    trusted: bool
    reason: str = ""

    @property
    def best(self) -> Candidate | None:
        return self.candidates[0] if self.candidates else None


def measure_shift(first: Array, second: Array, *, expected: tuple[float, float], reach_px: float) -> Shift:
    """Returns where the second image's origin lies in the first one's pixels (y down, x right).

    Images are (C, H, W) of any real type; the channels are aligned with one another and their evidence adds up.
    Shifts within ±`reach_px` of `expected` along both axes are tried. Images without texture or overlap raise nothing:
    the shift is not trusted and has no candidates.
    """
    windows = [_windows(first.shape[1 + a], second.shape[1 + a], expected[a], reach_px) for a in (0, 1)]
    if any(window is None for window in windows):
        return Shift((), 0.0, 1.0, False, "no overlap within reach")
    (rows, columns) = [window for window in windows if window is not None]
    # evidence of every whole-pixel shift, and its peaks
    left = _smooth(first[:, rows.first, columns.first])
    right = _smooth(second[:, rows.second, columns.second])
    evidence, ncc = _evidence(left, right, rows.lags, columns.lags)
    significance = _significance(evidence)
    peaks = _peaks(evidence)
    if not peaks:
        return Shift((), 0.0, 1.0, False, "featureless")
    ratio = float(evidence[peaks[1]] / evidence[peaks[0]]) if len(peaks) > 1 else 0.0
    # sub-pixel refinement of the peaks
    origin = np.array([rows.origin, columns.origin])
    coefficients = [spline_coefficients(channel) for channel in left]
    candidates = []
    for peak in peaks:
        if evidence[peak] < MIN_EVIDENCE_RATIO * evidence[peaks[0]]:
            continue
        lag = np.array([rows.lags[peak[0]], columns.lags[peak[1]]])
        offset, information = _refine(coefficients, right, lag)
        dy, dx = (origin + lag + offset).tolist()
        candidates.append(Candidate(dy, dx, float(ncc[peak]), float(evidence[peak]), information))
    trusted = significance >= SIGNIFICANCE
    return Shift(tuple(candidates), significance, ratio, trusted, "" if trusted else "featureless")


@dataclass(frozen=True)
class _Window:
    """Along one axis: the parts of both images that can overlap, the lags between them, and the shift at lag 0."""

    first: slice
    second: slice
    lags: np.ndarray
    origin: int


def _windows(first: int, second: int, expected: float, reach: float) -> _Window | None:
    low = max(round(expected - reach), MIN_OVERLAP_PX - second)
    high = min(round(expected + reach), first - MIN_OVERLAP_PX)
    if low > high:
        return None
    a = slice(max(0, low), min(first, high + second))
    b = slice(max(0, -high), min(second, first - low))
    origin = a.start - b.start
    return _Window(a, b, np.arange(low, high + 1) - origin, origin)


def _smooth(images: Array) -> Array:
    return ndimage.gaussian_filter(images.astype(np.float32), (0, SMOOTHING_PX, SMOOTHING_PX))


def _evidence(left: Array, right: Array, lags_y: Array, lags_x: Array) -> tuple[Array, Array]:
    """Returns (lags y, lags x) maps: evidence of correlation in nats over the channels, and the mean correlation.

    The evidence of n independent pairs with correlation r is −n/2 log(1 − r²), the log likelihood ratio of correlated
    against independent Gaussians; negative correlation counts as none. Neighboring pixels are not independent: n
    is the overlap over the area in which both images stay correlated.
    """
    rows = _overlaps(left.shape[1], right.shape[1], lags_y)
    columns = _overlaps(left.shape[2], right.shape[2], lags_x)
    count = np.outer(rows[1] - rows[0], columns[1] - columns[0]).astype(np.float64)
    evidence = np.zeros(count.shape)
    total = np.zeros(count.shape)
    size = [
        fft.next_fast_len(int(max(left.shape[1 + a] - lags[0], right.shape[1 + a] + lags[-1])), real=True)
        for a, lags in enumerate((lags_y, lags_x))
    ]
    for a, b in zip(left, right, strict=True):
        a, b = (_without_background(image) for image in (a, b))
        spectra: list[Array] = [np.asarray(fft.rfft2(image, size)) for image in (a, b)]
        area = _correlation_area(*(np.abs(s) ** 2 for s in spectra))
        cross = np.asarray(fft.irfft2(spectra[0] * np.conj(spectra[1]), size), np.float64)
        cross = cross[np.ix_(lags_y % size[0], lags_x % size[1])]
        sums = [_box_sums(b**p, rows, columns, 0, 0) for p in (1, 2)]
        sums += [_box_sums(a**p, rows, columns, lags_y, lags_x) for p in (1, 2)]
        covariance = cross - sums[0] * sums[2] / count
        variance = np.maximum(sums[1] - sums[0] ** 2 / count, 0), np.maximum(sums[3] - sums[2] ** 2 / count, 0)
        scale = np.sqrt(variance[0] * variance[1])
        textured = scale > MIN_VARIANCE * count
        r = np.where(textured, covariance / np.where(textured, scale, 1), 0).clip(-0.9999, 0.9999)
        evidence -= count / (2 * area) * np.log1p(-(np.maximum(r, 0) ** 2))
        total += r
    return evidence, total / len(left)


def _correlation_area(left: Array, right: Array) -> float:
    """Returns Σ ρ_left ρ_right over all lags, in px, from power spectra (half of them: real images).

    The correlation of two unrelated images over n px has this variance over n (Bartlett 1935).
    """
    # smoothed, since the squared periodogram of two views of one scene would count its scatter twice
    left = ndimage.uniform_filter(left, 5, mode="nearest")
    # Parseval: Σ R_left R_right = mean of the product of the power spectra, R(0) = their means
    powers = float(left.mean()) * float(right.mean())
    return max(float((left * right).mean()) / powers, NOISE_AREA_PX) if powers > 0 else NOISE_AREA_PX


def _without_background(image: Array) -> Array:
    image = image - ndimage.gaussian_filter(image, BACKGROUND_PX)
    spread = float(image.std())
    return (image - image.mean()) / spread if spread**2 > MIN_VARIANCE else np.zeros_like(image)


def _overlaps(left: int, right: int, lags: Array) -> tuple[Array, Array]:
    """Returns where the overlap begins and ends in the right image's coordinates, for each lag."""
    return np.maximum(0, -lags), np.minimum(right, left - lags)


def _box_sums(
    image: Array, rows: tuple[Array, Array], columns: tuple[Array, Array], lag_y: Array | int, lag_x: Array | int
) -> Array:
    table = np.zeros((image.shape[0] + 1, image.shape[1] + 1))
    table[1:, 1:] = image.astype(np.float64).cumsum(0).cumsum(1)
    y0, y1 = rows[0] + lag_y, rows[1] + lag_y
    x0, x1 = columns[0] + lag_x, columns[1] + lag_x
    return table[np.ix_(y1, x1)] - table[np.ix_(y0, x1)] - table[np.ix_(y1, x0)] + table[np.ix_(y0, x0)]


def _significance(evidence: Array) -> float:
    """Returns the height of the best shift over the low ones that were tried, in standard deviations of chance."""
    z = np.sqrt(2 * evidence)
    return float(z.max() - np.quantile(z, 0.1))


def _peaks(evidence: Array) -> list[tuple[int, int]]:
    """Returns the local maxima, best first; none if the evidence is flat."""
    top = (evidence == ndimage.maximum_filter(evidence, 5)) & (evidence > 0)
    peaks = [(int(y), int(x)) for y, x in np.argwhere(top)]
    return sorted(peaks, key=lambda peak: -evidence[peak])[:MAX_CANDIDATES]


def _refine(coefficients: list[Array], right: Array, lag: Array) -> tuple[Array, tuple[float, float, float]]:
    """Returns the sub-pixel offset to add to `lag`, and its information matrix.

    If the fit leaves the pixel of the peak, it restarts at the next pixel. If it leads beyond 3 px or does not
    converge, the offset is 0 with an error of 2 px.
    """
    moved = np.zeros(2)
    for _ in range(4):
        offset, information = _fit(coefficients, right, lag + moved.astype(int))
        if np.abs(moved + offset).max() > 3:
            break
        if np.abs(offset).max() <= 0.75:
            return moved + offset, information
        moved += np.rint(offset)
    return np.zeros(2), (0.25, 0.0, 0.25)


def _fit(coefficients: list[Array], right: Array, lag: Array) -> tuple[Array, tuple[float, float, float]]:
    """Returns the offset (infinite if the overlap is too small) and its information matrix.

    Fits right(v) = gain · left(v + lag + offset) + level + slope · v in every channel over the overlap, two pixels
    inside its border, by Cauchy's weights.
    """
    shape = coefficients[0].shape
    low = [max(0, -int(lag[a])) + 2 for a in (0, 1)]
    high = [min(right.shape[1 + a], shape[a] - int(lag[a])) - 2 for a in (0, 1)]
    window = (high[0] - low[0], high[1] - low[1])
    if min(window) < 2:
        return np.full(2, np.inf), (0.0, 0.0, 0.0)
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in window)
    plane = np.stack([np.ones(window, np.float32), *np.meshgrid(y, x, indexing="ij")]).reshape(3, -1)
    offset, normal = np.zeros(2), np.zeros((2, 2))
    weights = np.ones((len(right), plane.shape[1]), np.float32)
    for _ in range(10):
        normal, gradient = np.zeros((2, 2)), np.zeros(2)
        for c, (left_c, right_c) in enumerate(zip(coefficients, right, strict=True)):
            observed = right_c[low[0] : high[0], low[1] : high[1]].ravel()
            start = (low[0] + lag[0] + offset[0], low[1] + lag[1] + offset[1])
            value, by_y, by_x = (spline_values(left_c, start, window, derivative=d).ravel() for d in (None, 0, 1))
            # remove what gain, offset and plane explain from the image and from the gradients
            nuisance, columns = np.vstack([value, plane]), np.stack([observed, by_y, by_x])
            weighted = nuisance * weights[c]
            explained = np.linalg.solve(_sums(weighted, nuisance) + 1e-6 * np.eye(4), _sums(weighted, columns))
            columns = columns - explained.T.astype(np.float32) @ nuisance
            moments = _sums(columns * weights[c], columns)
            gain = max(float(explained[0, 0]), 0.0)
            # weight every channel by its own noise: what the step does not explain
            rest = max(moments[0, 0] - _explained(moments), 1e-3 * moments[0, 0], 1e-9)
            noise = rest / max(float(weights[c].sum()) - 6, 1)
            normal += gain**2 * moments[1:, 1:] / noise
            gradient += gain * moments[1:, 0] / noise
            weights[c] = _cauchy(columns)
        step = np.linalg.solve(normal + 1e-6 * np.eye(2), gradient)
        offset = offset + step
        if not np.isfinite(offset).all() or np.abs(offset).max() > 1.25:
            return np.clip(np.nan_to_num(offset, nan=np.inf), -1.25, 1.25), (0.0, 0.0, 0.0)
        if np.abs(step).max() < 3e-3:
            break
    # noise has gradients too, of 1 / (2 smoothing²) its variance; half of it, of the left image, is no information
    strengths, axes = np.linalg.eigh(normal)
    noise_strength = float(weights.sum()) / (4 * SMOOTHING_PX**2 * CAUCHY_VARIANCE)
    strengths = np.maximum(strengths - noise_strength, 0.02 * strengths + 1e-3)
    covariance = NOISE_AREA_PX * (axes / strengths) @ axes.T + FLOOR_PX**2 * np.eye(2)
    information = np.linalg.inv(covariance)
    return offset, (float(information[0, 0]), float(information[0, 1]), float(information[1, 1]))


def _sums(left: Array, right: Array) -> Array:
    return (left @ right.T).astype(np.float64)


def _cauchy(columns: Array) -> Array:
    """Returns a weight per pixel from its residual, so that cells that moved on their own count little.

    The scale is the median residual at steep gradients, not that of the empty background.
    """
    residual, steep = columns[0], columns[1] ** 2 + columns[2] ** 2
    steepest = steep >= np.partition(steep, -max(1, steep.size // 10))[-max(1, steep.size // 10)]
    scale = 1.4826 * float(np.median(np.abs(residual[steepest])))
    return (1 / (1 + (residual / (2.385 * max(scale, 1e-6))) ** 2)).astype(np.float32)


def _explained(moments: Array) -> float:
    """Returns the sum of squares that a further step would explain."""
    return float(moments[0, 1:] @ np.linalg.lstsq(moments[1:, 1:], moments[1:, 0], rcond=None)[0])
