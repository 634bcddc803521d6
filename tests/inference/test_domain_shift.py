"""Histograms and power spectra of domains, and images matched to them, against closed forms and scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats
from skimage.exposure import match_histograms

from segue.errors import SegueError
from segue.inference.domain_shift import (
    apply_gain,
    feature_distance,
    histogram_distance,
    log_spectral_distance_dB,
    map_quantiles,
    matching,
    measure,
    radial_power_spectrum,
    reduce_images,
    relative_spectra,
    spectrum_gain,
)


def noise(count: int, size: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(5.0, 2.0, (count, size, size))


def low_pass(frequencies: np.ndarray) -> np.ndarray:
    """A known transfer function: a Gaussian with a floor."""
    return 0.2 + 0.8 * np.exp(-((frequencies / 0.15) ** 2))


def test_the_spectrum_of_white_noise_is_flat() -> None:
    """Standardized white noise has power 1 at every frequency, whatever gain and offset it was acquired with."""
    statistics = measure(noise(200)).statistics
    assert statistics.power == pytest.approx(1, abs=0.06)
    assert statistics.frequencies_per_px[0] == pytest.approx(2 / 64, rel=0.15)
    assert statistics.frequencies_per_px[-1] == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize("shape", [(64, 64), (48, 80), (65, 63)])
def test_the_spectrum_of_a_wave_peaks_at_its_frequency(shape: tuple[int, int]) -> None:
    """A cosine of 0.25 periods per pixel has its power there alone; no constant leaks in."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = 100 + np.cos(2 * np.pi * (0.15 * y + 0.2 * x))
    frequencies, power = radial_power_spectrum(image[None])
    assert frequencies[power.argmax()] == pytest.approx(0.25, abs=0.6 / min(shape))
    assert power[np.abs(frequencies - 0.25) > 0.08].max() < 1e-2 * power.max()


def test_the_full_transform_gives_the_same_spectrum() -> None:
    """Power summed over the half that rfft gives is that of the whole transform."""
    images = noise(3, 32)
    window = np.outer(*[np.hanning(33)[:-1]] * 2)
    power = (np.abs(np.fft.fft2(window * images)) ** 2).mean(axis=0) / (window**2).sum()
    k = np.fft.fftfreq(32)
    ring = np.floor(np.hypot(k[:, None], k) * 32 + 0.5).astype(int)
    expected = [power[ring == index].mean() for index in range(2, 17)]
    assert radial_power_spectrum(images)[1] == pytest.approx(expected)


def test_the_gain_between_noise_and_filtered_noise_is_the_filter() -> None:
    """A filter's transfer function is recovered from the spectra, up to the factor that keeps the power of the band."""
    images = noise(200)
    frequencies = np.linspace(0, 1, 200)
    filtered = apply_gain(images, frequencies, low_pass(frequencies))
    gain = spectrum_gain(measure(images, 0.05).statistics, measure(filtered, 0.05).statistics)
    places = measure(images).statistics.frequencies_per_px
    k = np.linspace(2 / 64, 0.5, 1000)
    factor = np.sqrt(np.average(low_pass(k) ** 2, weights=k))
    assert gain == pytest.approx(low_pass(places) / factor, rel=0.06)
    assert filtered.mean(axis=(1, 2)) == pytest.approx(images.mean(axis=(1, 2)), rel=1e-5)


def test_a_gain_acts_on_cosines_exactly() -> None:
    """The cosines of the transform come out multiplied by the gain at their frequency."""
    x = np.arange(32)
    image = np.cos(np.pi * (x + 0.5) * 8 / 32)[None, None, :] * np.ones((1, 32, 1))
    result = apply_gain(image, np.array([0.0, 0.5]), np.array([1.0, 3.0]))
    assert result == pytest.approx(image * (1 + 2 * (8 / 64) / 0.5), abs=1e-5)


def test_distances_of_spectra_and_histograms_have_their_closed_forms() -> None:
    """White noise against noise of known spectrum; a normal distribution against two values; 0 to itself."""
    white = measure(noise(100))
    frequencies = np.linspace(0, 1, 200)
    colored = measure(apply_gain(noise(100, seed=1), frequencies, low_pass(frequencies)))
    k = np.linspace(2 / 64, 0.5, 1000)
    level = 20 * np.log10(low_pass(k)) - 10 * np.log10(np.average(low_pass(k) ** 2, weights=k))
    assert log_spectral_distance_dB(white, colored) == pytest.approx(np.sqrt(np.mean(level**2)), rel=0.06)
    two_values = measure(np.indices((1, 64, 64)).sum(axis=0) % 2)
    expected = 2 * integrate.quad(lambda z: abs(z - 1) * stats.norm.pdf(z), 0, 9)[0]
    assert histogram_distance(white, two_values) == pytest.approx(expected, rel=0.02)
    for distance in (log_spectral_distance_dB, histogram_distance):
        assert distance(white, white) == 0
        assert distance(white, colored) == distance(colored, white)


def test_frequencies_are_compared_in_nm_where_both_pixel_sizes_are_known() -> None:
    """Images sampled twice as finely have the same spectrum in 1/nm, and another one in periods per pixel."""
    fine = apply_gain(noise(50, 128), np.array([0.0, 0.1, 0.25, 0.5]), np.array([1.0, 0.6, 0.01, 0.01]))
    coarse = fine[:, ::2, ::2]
    calibrated = log_spectral_distance_dB(measure(fine, 0.02), measure(coarse, 0.04))
    assert calibrated < 0.2 * log_spectral_distance_dB(measure(fine), measure(coarse))


@pytest.mark.parametrize(
    ("dose_e_per_A2", "fine_nm", "side"),
    [(10, 0.02, 128), (10, 0.04, 48), (1000, 0.02, 128), (1000, 0.03, 86), (1000, 0.038, 64)],
)
def test_the_same_detector_with_other_pixels_is_no_other_domain(dose_e_per_A2: int, fine_nm: float, side: int) -> None:
    """Electrons counted in smaller pixels than 0.04 nm are other images, but have the same spectrum and histogram."""
    random = np.random.default_rng(0)
    fine, coarse = (
        measure(random.poisson(dose_e_per_A2 * (10 * size) ** 2, (64, width, width)), size)
        for size, width in ((fine_nm, side), (0.04, 64))
    )
    assert log_spectral_distance_dB(fine, coarse) < 0.2
    assert histogram_distance(fine, coarse) < 0.02
    for _, power in relative_spectra(fine.statistics, coarse.statistics):
        assert power == pytest.approx(1, abs=0.15)


def test_histograms_are_compared_at_the_larger_pixels() -> None:
    """A pattern of two small pixels a period, which pixels twice as large do not hold, counts at small ones only."""
    smooth = apply_gain(noise(8), np.array([0.0, 0.05, 0.1, 1.0]), np.array([1.0, 1.0, 0.0, 0.0]))
    pattern = smooth + 5 * (np.indices((64, 64)).sum(axis=0) % 2)
    small = measure(smooth, 0.02), measure(pattern, 0.02)
    assert histogram_distance(*small) > 0.1
    assert histogram_distance(small[1], measure(reduce_images(smooth, 0.5), 0.04)) < 0.01


def test_reduced_images_keep_their_cosines_and_lose_noise() -> None:
    """A cosine of the transform has the same amplitude at larger pixels; white noise keeps factor² of its variance."""
    x = np.arange(64)
    image = np.cos(np.pi * (x + 0.5) * 8 / 64)[None, None, :] * np.ones((1, 48, 1))
    expected = np.cos(np.pi * (np.arange(48) + 0.5) * 8 / 48)[None, None, :] * np.ones((1, 36, 1))
    assert reduce_images(image, 0.75) == pytest.approx(expected, abs=1e-12)
    assert reduce_images(np.arange(12.0).reshape(1, 3, 4), 0.5).tolist() == [[[2.5, 4.5]]]
    for factor in (1.0, 0.75, 0.5):
        assert reduce_images(noise(64), factor).var() == pytest.approx(4 * factor**2, rel=0.05)


@pytest.mark.parametrize(("source_nm", "reference_nm"), [(0.04, 0.02), (0.02, 0.04), (0.03, 0.03)])
def test_matched_images_have_the_level_of_the_reference_in_the_common_band(
    source_nm: float, reference_nm: float
) -> None:
    """White noise matched to a blurred domain with other pixels: at the larger of both, the same level and spectrum."""
    k = np.linspace(0, 25, 200)  # 1/nm
    side = round(1.92 / reference_nm)
    blurred = apply_gain(noise(32, side, seed=1), k * reference_nm, low_pass(k / 25))
    source, reference = measure(noise(32, round(1.92 / source_nm)), source_nm), measure(blurred, reference_nm)
    for histogram in (False, True):
        images = matching(source, reference, histogram=histogram).apply(source.images)
        result = measure(images, source_nm)
        assert log_spectral_distance_dB(result, reference) < 0.3
        assert histogram_distance(result, reference) < 0.02
        reduced = reduce_images(images, min(1.0, source_nm / reference_nm))
        assert reduced.std() == pytest.approx(1, abs=0.01)


def test_spectra_without_a_common_frequency_have_no_distance() -> None:
    """Pixels a hundred times as large: NaN, and nothing to match."""
    images = noise(2)
    fine, coarse = measure(images, 0.01), measure(images, 1.0)
    assert np.isnan(log_spectral_distance_dB(fine, coarse))
    assert np.isnan(histogram_distance(fine, coarse))
    with pytest.raises(SegueError, match=r"no spatial frequencies in common \(pixel sizes: 0.01 nm and 1 nm"):
        matching(fine, coarse)


def test_mapped_values_are_those_of_scikit_image() -> None:
    """Histogram matching by quantiles agrees with scikit-image's, which sorts all pixels."""
    source, reference = measure(noise(4)), measure(np.random.default_rng(1).gamma(2.0, 1.0, (4, 64, 64)))
    mapped = map_quantiles(source.images, source.statistics.quantiles, reference.statistics.quantiles)
    expected = match_histograms(source.images, reference.images)
    assert np.abs(mapped - expected).mean() < 3e-3


def test_matched_images_have_the_spectrum_and_histogram_of_the_reference() -> None:
    """Both distances fall to a small part; each alone is left where it is not asked for."""
    frequencies = np.linspace(0, 1, 200)
    source = measure(noise(64), 0.05)
    reference = measure(np.exp(0.5 * apply_gain(noise(64, seed=1), frequencies, low_pass(frequencies))), 0.05)
    spectrum = log_spectral_distance_dB(source, reference)
    histogram = histogram_distance(source, reference)

    both = measure(matching(source, reference).apply(source.images), 0.05)
    assert log_spectral_distance_dB(both, reference) < 0.25 * spectrum
    assert histogram_distance(both, reference) < 0.1 * histogram
    values = measure(matching(source, reference, spectrum=False).apply(source.images), 0.05)
    assert log_spectral_distance_dB(values, source) < 0.1 * spectrum
    filtered = measure(matching(source, reference, histogram=False).apply(source.images), 0.05)
    assert log_spectral_distance_dB(filtered, reference) < 0.1 * spectrum
    assert histogram_distance(filtered, source) < 0.2 * histogram


def test_features_are_apart_by_their_spread() -> None:
    """Two normal clouds in three dimensions, six spreads apart along one axis: 6/√3; a cloud from itself: 0."""
    cloud = np.random.default_rng(0).normal(size=(5000, 3))
    assert feature_distance(cloud, np.add(cloud[::-1], [6.0, 0, 0])) == pytest.approx(6 / np.sqrt(3), rel=0.03)
    assert feature_distance(cloud, cloud) == 0
    assert np.isnan(feature_distance(np.ones((3, 2)), np.zeros((3, 2))))


def test_constant_images_are_left_out_and_refused_alone() -> None:
    """A constant image has no contrast to standardize; with nothing else there is nothing to measure."""
    images = np.concatenate([noise(2), np.ones((1, 64, 64))])
    assert len(measure(images).images) == 2
    with pytest.raises(SegueError, match="every image is constant"):
        measure(images[2:])
