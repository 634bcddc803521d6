"""How domains differ in their histogram and power spectrum, and images changed until both agree with another domain's.

Every image is standardized first: mean 0, variance 1, so that gain, offset and dose alone make no difference. Arrays of
images are (n, H, W), of one channel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from segue.data.dataset import Dataset
from segue.errors import SegueError
from segue.inference.domain import pixel_sizes_nm

PROBABILITIES = np.linspace(0, 1, 1025)  # at which quantiles are taken
MIN_RING = 2  # rings nearer to 0 hold what the window leaves of the mean
FLOOR = 1e-9  # of a power: rounding errors of float32 lie below
SAMPLED = 256  # images of a dataset by which it is matched


@dataclass(frozen=True)
class DomainStatistics:
    """What a set of images looks like, each standardized.

    quantiles (1025,): of all pixels together, at `PROBABILITIES`. frequencies_per_px and power (k,): the radially
    averaged power spectrum. pixel_size_nm: None if it is not known.
    """

    quantiles: np.ndarray
    frequencies_per_px: np.ndarray
    power: np.ndarray
    pixel_size_nm: float | None

    def spectrum(self, *, per_nm: bool) -> tuple[np.ndarray, np.ndarray]:
        """Returns frequencies (k,) and power (k,): 1/nm and nm² (its integral is the variance, whatever the pixels), or
        periods per pixel and the variance of a pixel of white noise."""
        if not per_nm:
            return self.frequencies_per_px, self.power
        assert self.pixel_size_nm is not None
        return self.frequencies_per_px / self.pixel_size_nm, self.power * self.pixel_size_nm**2


@dataclass(frozen=True)
class DomainImages:
    """Some images (n, H, W) float32 of a domain, each standardized, with their statistics."""

    images: np.ndarray
    statistics: DomainStatistics


@dataclass(frozen=True)
class DomainShift:
    """Domains side by side. features: domain -> (n, F), the encoder's of `model`; empty where no weights were kept."""

    domains: Mapping[str, DomainImages]
    features: Mapping[str, np.ndarray] = field(default_factory=dict)
    model: str = ""


# measure


def standardize(images: np.ndarray) -> np.ndarray:
    """Returns (m, H, W) float32, each image with mean 0 and variance 1; without those that are constant or not finite.

    Raises SegueError if none is left.
    """
    values = images.astype(np.float64)
    means, stds = values.mean(axis=(1, 2), keepdims=True), values.std(axis=(1, 2), keepdims=True)
    usable = (np.isfinite(stds) & (stds > 0)).ravel()
    if not usable.any():
        raise SegueError("domains: every image is constant or has NaN; give images with structure.")
    return ((values[usable] - means[usable]) / stds[usable]).astype(np.float32)


def radial_power_spectrum(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns frequencies (k,) in periods per pixel and the mean power (k,) of all images in rings about 0.

    White noise of variance 1 has power 1 at every frequency. Images are multiplied by a Hann window. Rings are as wide
    as the period of the shorter side, from 2 periods a side, below which the window leaks the mean, to Nyquist's.
    """
    _, height, width = images.shape
    window = np.outer(*(np.sin(np.pi * np.arange(size) / size) ** 2 for size in (height, width)))
    y, x = np.fft.fftfreq(height), np.fft.rfftfreq(width)
    radius = np.hypot(y[:, None], x)
    side = min(height, width)
    ring = np.floor(radius * side + 0.5).astype(int)
    twice = np.where((x == 0) | (2 * x == 1), 1, 2) * np.ones((height, 1))  # the half that rfft leaves out
    power = np.zeros(radius.shape)
    for image in images:
        power += np.abs(np.fft.rfft2(window * image)) ** 2
    power /= len(images) * (window**2).sum()

    def sums(values: np.ndarray) -> np.ndarray:
        return np.bincount(ring.ravel(), (twice * values).ravel())[MIN_RING : side // 2 + 1]

    count = sums(np.ones(radius.shape))
    return sums(radius) / count, sums(power) / count


def measure(images: np.ndarray, pixel_size_nm: float | None = None) -> DomainImages:
    """Returns images (n, H, W) standardized, with their statistics; raises SegueError if all are constant."""
    standard = standardize(images)
    frequencies, power = radial_power_spectrum(standard)
    return DomainImages(
        standard, DomainStatistics(np.quantile(standard, PROBABILITIES), frequencies, power, pixel_size_nm)
    )


def read_domain(dataset: Dataset, *, conditions: Mapping[str, Any] | None = None, most: int = SAMPLED) -> DomainImages:
    """Returns the first channel of at most `most` whole tiles of a dataset, evenly chosen from those of `conditions`.

    Tiles with padding are left out. The pixel size is known if it is the same, to 1 %, for all of them.
    """
    indices = dataset.select(conditions or {})
    valid = dataset.valid(indices)
    height, width = dataset.tile_shape[-2:]
    indices = indices[(valid == [0, 0, height, width]).all(axis=1)]
    if not len(indices):
        raise SegueError(f"{dataset.path}: no tile is free of padding; cut smaller tiles.")
    indices = indices[np.unique(np.linspace(0, len(indices) - 1, min(most, len(indices))).round().astype(int))]
    images, _ = dataset.read(indices, layer=None)
    sizes = pixel_sizes_nm(dataset, indices)
    is_one = bool(sizes) and sizes[-1] <= 1.01 * sizes[0]
    return measure(images[:, 0], float(np.median(sizes)) if is_one else None)


# distances


def log_spectral_distance_dB(a: DomainStatistics, b: DomainStatistics) -> float:
    """Returns the root mean square of 10 log10 of the ratio of two power spectra, over the frequencies of both.

    Frequencies are in 1/nm if both pixel sizes are known, else in periods per pixel. NaN if the spectra have none in
    common.
    """
    per_nm = are_calibrated(a, b)
    spectra = [one.spectrum(per_nm=per_nm) for one in (a, b)]
    low, high = max(values[0] for values, _ in spectra), min(values[-1] for values, _ in spectra)
    if low >= high:
        return float("nan")
    grid = np.linspace(low, high, 512)
    levels = [np.interp(grid, frequencies, 10 * np.log10(np.maximum(power, FLOOR))) for frequencies, power in spectra]
    return float(np.sqrt(np.mean((levels[0] - levels[1]) ** 2)))


def histogram_distance(a: DomainStatistics, b: DomainStatistics) -> float:
    """Returns the Wasserstein distance of two distributions of pixels, in standard deviations of an image."""
    return float(np.trapezoid(np.abs(a.quantiles - b.quantiles), PROBABILITIES))


def feature_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the distance of the mean features of two sets of images (n, F) over the root mean square distance of an
    image from its own set's mean; NaN if the images of both sets are all alike."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    within = np.mean([((one - one.mean(axis=0)) ** 2).sum(axis=1).mean() for one in (a, b)])
    apart = np.linalg.norm(a.mean(axis=0) - b.mean(axis=0))
    return float(apart / np.sqrt(within)) if within > 0 else float("nan")


def are_calibrated(*statistics: DomainStatistics) -> bool:
    """Returns whether every pixel size is known, so that frequencies are in 1/nm."""
    return all(one.pixel_size_nm is not None for one in statistics)


DISTANCES: dict[str, Callable[[DomainStatistics, DomainStatistics], float]] = {
    "power spectra, dB": log_spectral_distance_dB,
    "histograms, standard deviations": histogram_distance,
}


# match


def spectrum_gain(source: DomainStatistics, reference: DomainStatistics) -> np.ndarray:
    """Returns (k,) the factors at the frequencies of `source` that give its amplitudes the reference's spectrum.

    The square root of the ratio of the power spectra; beyond the reference's frequencies the nearest one's. Frequencies
    are compared as in `log_spectral_distance_dB`.
    """
    per_nm = are_calibrated(source, reference)
    frequencies, power = source.spectrum(per_nm=per_nm)
    aim = np.interp(frequencies, *reference.spectrum(per_nm=per_nm))
    return np.sqrt(np.maximum(aim, FLOOR) / np.maximum(power, FLOOR))


def apply_gain(images: np.ndarray, frequencies_per_px: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Returns images (n, H, W) float32 filtered by a radial gain (k,); beyond its frequencies the nearest one's holds.

    Images are continued by reflection (a cosine transform), so that opposite sides do not meet. The mean is kept.
    """
    from scipy.fft import dctn, idctn

    y, x = (np.arange(size) / (2 * size) for size in images.shape[1:])
    factors = np.interp(np.hypot(y[:, None], x), frequencies_per_px, gain)
    factors[0, 0] = 1
    spectra = np.asarray(dctn(images.astype(np.float64), axes=(1, 2), norm="ortho"))
    return np.asarray(idctn(factors * spectra, axes=(1, 2), norm="ortho"), np.float32)


def map_quantiles(images: np.ndarray, source: DomainStatistics, reference: DomainStatistics) -> np.ndarray:
    """Returns images float32 whose values are mapped, the same way in all of them, so that the distribution of
    `source` becomes that of `reference`: histogram matching."""
    values, place = np.unique(source.quantiles, return_inverse=True)
    mapped = np.bincount(place, reference.quantiles) / np.bincount(place)
    return np.interp(images, values, mapped).astype(np.float32)


@dataclass(frozen=True)
class Matching:
    """A transformation of standardized images, fixed by the statistics of two domains: gain, then mapped values.

    gain (k,) at source.frequencies_per_px, None to leave the spectrum; filtered: the statistics after the gain;
    reference: whose histogram is taken, None to leave the histogram.
    """

    source: DomainStatistics
    gain: np.ndarray | None
    filtered: DomainStatistics
    reference: DomainStatistics | None

    def apply(self, images: np.ndarray) -> np.ndarray:
        """Returns images (n, H, W) float32, of images as acquired; a constant one becomes 0."""
        values = images.astype(np.float64)
        stds = values.std(axis=(1, 2), keepdims=True)
        standard = ((values - values.mean(axis=(1, 2), keepdims=True)) / np.where(stds > 0, stds, 1)).astype(np.float32)
        if self.gain is not None:
            standard = apply_gain(standard, self.source.frequencies_per_px, self.gain)
        if self.reference is not None:
            standard = map_quantiles(standard, self.filtered, self.reference)
        return standard


def matching(
    source: DomainImages, reference: DomainImages, *, spectrum: bool = True, histogram: bool = True
) -> Matching:
    """Returns what makes images of one domain agree with another's in power spectrum, in histogram, or in both.

    The spectrum comes first: mapping values changes it little, while a filter changes the histogram much.
    """
    gain = spectrum_gain(source.statistics, reference.statistics) if spectrum else None
    filtered = source.statistics
    if gain is not None:
        images = apply_gain(source.images, source.statistics.frequencies_per_px, gain)
        filtered = DomainStatistics(
            np.quantile(images, PROBABILITIES), *radial_power_spectrum(images), source.statistics.pixel_size_nm
        )
    return Matching(source.statistics, gain, filtered, reference.statistics if histogram else None)
