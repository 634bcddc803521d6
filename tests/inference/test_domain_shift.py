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
    """A filter's transfer function is recovered from the spectra, up to the factor that standardizes the result."""
    images = noise(200)
    k = np.arange(64) / 128
    frequencies = np.linspace(0, 1, 200)
    filtered = apply_gain(images, frequencies, low_pass(frequencies))
    gain = spectrum_gain(measure(images, 0.05).statistics, measure(filtered, 0.05).statistics)
    places = measure(images).statistics.frequencies_per_px
    factor = np.sqrt(np.mean(low_pass(np.hypot(k[:, None], k)) ** 2))
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
    white = measure(noise(100)).statistics
    frequencies = np.linspace(0, 1, 200)
    colored = measure(apply_gain(noise(100, seed=1), frequencies, low_pass(frequencies))).statistics
    places = white.frequencies_per_px
    k = np.arange(64) / 128
    level = 20 * np.log10(low_pass(places)) - 10 * np.log10(np.mean(low_pass(np.hypot(k[:, None], k)) ** 2))
    assert log_spectral_distance_dB(white, colored) == pytest.approx(np.sqrt(np.mean(level**2)), rel=0.06)
    two_values = measure(np.indices((1, 64, 64)).sum(axis=0) % 2).statistics
    expected = 2 * integrate.quad(lambda z: abs(z - 1) * stats.norm.pdf(z), 0, 9)[0]
    assert histogram_distance(white, two_values) == pytest.approx(expected, rel=0.02)
    for distance in (log_spectral_distance_dB, histogram_distance):
        assert distance(white, white) == 0
        assert distance(white, colored) == distance(colored, white)


def test_frequencies_are_compared_in_nm_where_both_pixel_sizes_are_known() -> None:
    """Images sampled twice as finely have the same spectrum in 1/nm, and another one in periods per pixel."""
    fine = apply_gain(noise(50, 128), np.array([0.0, 0.1, 0.25, 0.5]), np.array([1.0, 0.6, 0.01, 0.01]))
    coarse = fine[:, ::2, ::2]
    calibrated = log_spectral_distance_dB(measure(fine, 0.02).statistics, measure(coarse, 0.04).statistics)
    assert calibrated < 0.4 * log_spectral_distance_dB(measure(fine).statistics, measure(coarse).statistics)


def test_spectra_without_a_common_frequency_have_no_distance() -> None:
    """Pixels a hundred times as large: NaN, not a number."""
    images = noise(2)
    assert np.isnan(log_spectral_distance_dB(measure(images, 0.01).statistics, measure(images, 1.0).statistics))


def test_mapped_values_are_those_of_scikit_image() -> None:
    """Histogram matching by quantiles agrees with scikit-image's, which sorts all pixels."""
    source, reference = measure(noise(4)), measure(np.random.default_rng(1).gamma(2.0, 1.0, (4, 64, 64)))
    mapped = map_quantiles(source.images, source.statistics, reference.statistics)
    expected = match_histograms(source.images, reference.images)
    assert np.abs(mapped - expected).mean() < 3e-3


def test_matched_images_have_the_spectrum_and_histogram_of_the_reference() -> None:
    """Both distances fall to a small part; each alone is left where it is not asked for."""
    frequencies = np.linspace(0, 1, 200)
    source = measure(noise(64), 0.05)
    reference = measure(np.exp(0.5 * apply_gain(noise(64, seed=1), frequencies, low_pass(frequencies))), 0.05)
    spectrum = log_spectral_distance_dB(source.statistics, reference.statistics)
    histogram = histogram_distance(source.statistics, reference.statistics)

    both = measure(matching(source, reference).apply(source.images), 0.05).statistics
    assert log_spectral_distance_dB(both, reference.statistics) < 0.25 * spectrum
    assert histogram_distance(both, reference.statistics) < 0.1 * histogram
    values = measure(matching(source, reference, spectrum=False).apply(source.images), 0.05).statistics
    assert log_spectral_distance_dB(values, source.statistics) < 0.1 * spectrum
    filtered = measure(matching(source, reference, histogram=False).apply(source.images), 0.05).statistics
    assert log_spectral_distance_dB(filtered, reference.statistics) < 0.1 * spectrum
    assert histogram_distance(filtered, source.statistics) < 0.2 * histogram


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
