"""How domains differ in their histogram and power spectrum, and images changed until both agree with another domain's.

Every image is standardized first: mean 0, variance 1, so that gain and offset alone make no difference. Arrays of
images are (n, H, W), of one channel.

The variance of an image depends on its pixels: smaller ones let more frequencies in, and more noise. Domains are
therefore compared in what both have: power is relative to its mean over the common frequencies, and histograms are of
images at the larger of both pixels. Where a pixel size is not known, pixels are compared with pixels.
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
FREQUENCIES = 4096  # at which two spectra are compared
SAME_PIXELS = 0.01  # relative difference of pixel sizes that count as equal


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

    def frequencies(self, *, per_nm: bool) -> np.ndarray:
        """Returns the frequencies (k,) of `power`, in 1/nm or in periods per pixel."""
        if not per_nm:
            return self.frequencies_per_px
        assert self.pixel_size_nm is not None
        return self.frequencies_per_px / self.pixel_size_nm


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
    is_one = bool(sizes) and sizes[-1] <= (1 + SAME_PIXELS) * sizes[0]
    return measure(images[:, 0], float(np.median(sizes)) if is_one else None)


# what domains have in common


def are_calibrated(*statistics: DomainStatistics) -> bool:
    """Returns whether every pixel size is known, so that frequencies are in 1/nm."""
    return all(one.pixel_size_nm is not None for one in statistics)


def common_band(*statistics: DomainStatistics) -> tuple[float, float] | None:
    """Returns the lowest and the highest frequency that all spectra have, None if there is no such band.

    Frequencies are in 1/nm if all pixel sizes are known, else in periods per pixel.
    """
    per_nm = are_calibrated(*statistics)
    frequencies = [one.frequencies(per_nm=per_nm) for one in statistics if len(one.power)]
    if len(frequencies) < len(statistics):
        return None  # images too small for a spectrum
    low, high = max(values[0] for values in frequencies), min(values[-1] for values in frequencies)
    return (float(low), float(high)) if low < high else None


def relative_spectra(*statistics: DomainStatistics) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns the frequencies (k,) and the power (k,) of each domain, relative to its mean over the common band.

    The mean is over the area of the band in the plane of frequencies: white noise has power 1, whatever its pixels. If
    there is no common band, each is relative to its mean over all its frequencies.
    """
    per_nm = are_calibrated(*statistics)
    band = common_band(*statistics)
    spectra = []
    for one in statistics:
        frequencies = one.frequencies(per_nm=per_nm)
        grid = np.linspace(*(band or (frequencies[0], frequencies[-1])), FREQUENCIES)
        mean = np.average(np.interp(grid, frequencies, one.power), weights=grid)
        spectra.append((frequencies, one.power / max(float(mean), FLOOR)))
    return spectra


def common_pixels(*domains: DomainImages) -> tuple[DomainImages, ...]:
    """Returns domains as they look at the largest of their pixels; unchanged where a pixel size is not known."""
    statistics = [domain.statistics for domain in domains]
    if not are_calibrated(*statistics) or common_band(*statistics) is None:
        return domains
    largest_nm = max(one.pixel_size_nm or 0.0 for one in statistics)
    return tuple(_at_pixel_size(domain, largest_nm) for domain in domains)


def _at_pixel_size(domain: DomainImages, pixel_size_nm: float) -> DomainImages:
    own_nm = domain.statistics.pixel_size_nm
    assert own_nm is not None
    if pixel_size_nm <= (1 + SAME_PIXELS) * own_nm:
        return domain
    return measure(reduce_images(domain.images, own_nm / pixel_size_nm), pixel_size_nm)


def reduce_images(images: np.ndarray, factor: float) -> np.ndarray:
    """Returns images (n, H, W) at larger pixels, `factor` (0 to 1) times as many a side, rounded.

    Whole numbers of pixels are averaged, as a detector with larger pixels would count. Otherwise the cosine transform
    is cut to the frequencies that the new pixels hold. In both ways white noise of variance 1 has the variance factor².
    """
    from scipy.fft import dctn, idctn

    count, height, width = images.shape
    step = round(1 / factor)
    if abs(factor * step - 1) <= SAME_PIXELS:
        rows, columns = height // step, width // step
        blocks = images[:, : rows * step, : columns * step].reshape(count, rows, step, columns, step)
        return blocks.mean(axis=(2, 4))
    rows, columns = (max(1, round(factor * size)) for size in (height, width))
    spectra = np.asarray(dctn(images, axes=(1, 2), norm="ortho"))[:, :rows, :columns]
    return np.asarray(idctn(spectra, axes=(1, 2), norm="ortho")) * np.sqrt(rows * columns / (height * width))


# distances


def log_spectral_distance_dB(a: DomainImages, b: DomainImages) -> float:
    """Returns the root mean square of 10 log10 of the ratio of two power spectra, over their common band.

    The spectra are those of `relative_spectra`. NaN if they have no frequencies in common.
    """
    band = common_band(a.statistics, b.statistics)
    if band is None:
        return float("nan")
    grid = np.linspace(*band, FREQUENCIES)
    levels = [
        np.interp(grid, frequencies, 10 * np.log10(np.maximum(power, FLOOR)))
        for frequencies, power in relative_spectra(a.statistics, b.statistics)
    ]
    return float(np.sqrt(np.mean((levels[0] - levels[1]) ** 2)))


def histogram_distance(a: DomainImages, b: DomainImages) -> float:
    """Returns the Wasserstein distance of two distributions of pixels, in standard deviations of an image.

    The pixels are those of `common_pixels`. NaN if their sizes have no frequencies in common.
    """
    if common_band(a.statistics, b.statistics) is None:
        return float("nan")
    a, b = common_pixels(a, b)
    return float(np.trapezoid(np.abs(a.statistics.quantiles - b.statistics.quantiles), PROBABILITIES))


def feature_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the distance of the mean features of two sets of images (n, F) over the root mean square distance of an
    image from its own set's mean; NaN if the images of both sets are all alike."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    within = np.mean([((one - one.mean(axis=0)) ** 2).sum(axis=1).mean() for one in (a, b)])
    apart = np.linalg.norm(a.mean(axis=0) - b.mean(axis=0))
    return float(apart / np.sqrt(within)) if within > 0 else float("nan")


DISTANCES: dict[str, Callable[[DomainImages, DomainImages], float]] = {
    "power spectra, dB": log_spectral_distance_dB,
    "histograms, standard deviations": histogram_distance,
}


# match


def spectrum_gain(source: DomainStatistics, reference: DomainStatistics) -> np.ndarray:
    """Returns (k,) the factors at the frequencies of `source` that give its amplitudes the reference's spectrum.

    The square root of the ratio of the power spectra, each relative to its mean over the common band, so that the power
    in that band stays; beyond the reference's frequencies the nearest one's.
    """
    (frequencies, power), aim = relative_spectra(source, reference)
    return np.sqrt(np.maximum(np.interp(frequencies, *aim), FLOOR) / np.maximum(power, FLOOR))


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


def map_quantiles(images: np.ndarray, source: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Returns images float32 whose values are mapped, the same way in all of them, so that a distribution with the
    quantiles `source` gets the quantiles `reference`, both (k,): histogram matching."""
    values, place = np.unique(source, return_inverse=True)
    mapped = np.bincount(place, reference) / np.bincount(place)
    return np.interp(images, values, mapped).astype(np.float32)


@dataclass(frozen=True)
class Matching:
    """A transformation of standardized images, fixed by two domains: a filter, a factor, then mapped values.

    frequencies_per_px and gain (k,); gain is None to leave the spectrum. quantiles: of the images up to there, and
    those that they get, None to leave the histogram.
    """

    frequencies_per_px: np.ndarray
    gain: np.ndarray | None
    level: float
    quantiles: tuple[np.ndarray, np.ndarray] | None

    def apply(self, images: np.ndarray) -> np.ndarray:
        """Returns images (n, H, W) float32, of images as acquired; a constant one becomes 0."""
        values = images.astype(np.float64)
        stds = values.std(axis=(1, 2), keepdims=True)
        standard = ((values - values.mean(axis=(1, 2), keepdims=True)) / np.where(stds > 0, stds, 1)).astype(np.float32)
        if self.gain is not None:
            standard = apply_gain(standard, self.frequencies_per_px, self.gain)
        standard *= self.level
        return standard if self.quantiles is None else map_quantiles(standard, *self.quantiles)


def matching(
    source: DomainImages, reference: DomainImages, *, spectrum: bool = True, histogram: bool = True
) -> Matching:
    """Returns what makes images of one domain agree with another's in power spectrum, in histogram, or in both.

    The spectrum comes first: mapping values changes it little, while a filter changes the histogram much. The result
    has variance 1 at the larger of both pixels, as the standardized reference has there: in the common band both have
    the same level. Raises SegueError if the domains have no frequencies in common.
    """
    own_nm, other_nm = source.statistics.pixel_size_nm, reference.statistics.pixel_size_nm
    if common_band(source.statistics, reference.statistics) is None:
        pixels = " and ".join("unknown" if size is None else f"{size:g} nm" for size in (own_nm, other_nm))
        raise SegueError(
            f"match: the images have no spatial frequencies in common (pixel sizes: {pixels}; sides: "
            f"{min(source.images.shape[1:])} and {min(reference.images.shape[1:])} px); give a reference whose pixels "
            "and field of view are nearer to theirs."
        )
    images, gain, quantiles = source.images, None, None
    if spectrum:
        gain = spectrum_gain(source.statistics, reference.statistics)
        images = apply_gain(images, source.statistics.frequencies_per_px, gain)
    factor = 1.0 if own_nm is None or other_nm is None else min(1.0, own_nm / other_nm)
    level = 1 / max(float(reduce_images(images, factor).std()), FLOOR)
    if histogram:
        images = level * images
        _, target = common_pixels(source, reference)
        quantiles = np.quantile(images, PROBABILITIES), float(images.std()) * target.statistics.quantiles
    return Matching(source.statistics.frequencies_per_px, gain, level, quantiles)
