"""Detectors: dose conserved, Poisson statistics, and signal and noise transferred as each kind does."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from segue.errors import SpecError
from segue.hrtem.detector import DetectorSpec, acquire, blur, expose, modulation_transfer
from segue.hrtem.imaging import ImagingSpec
from segue.spec import validate

WHOLE = (slice(None), slice(None))
MEASURED = ((0.0, 1.0), (0.5, 0.6), (1.0, 0.2))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def noise_spectrum(image: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Returns frequencies over Nyquist's, 0.15 … 0.95, and the power there, 1 for white noise of the image's mean."""
    height, width = image.shape
    power = torch.fft.fft2(image.double() - image.double().mean()).abs().square().numpy() / image.numel()
    radius = 2 * np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    ring = (10 * radius).astype(int).ravel()
    sums, counts = np.bincount(ring, power.ravel()), np.bincount(ring)
    return np.arange(1, 10) / 10 + 0.05, (sums / counts)[1:10] / float(image.mean())


def test_dose_is_conserved_and_noise_is_poisson() -> None:
    """Counts are whole, with mean and variance dose × pixel area × intensity."""
    counts = expose(torch.full((400, 400), 1.25), 50.0, pixel_size_A=0.4, generator=generator())
    assert float(counts.mean()) == pytest.approx(10.0, abs=4 * math.sqrt(10) / 400)
    assert float(counts.var()) == pytest.approx(10.0, rel=0.02)
    assert torch.equal(counts, counts.round())


def test_each_image_is_exposed_with_its_own_dose() -> None:
    """Images exposed together with several doses have the mean counts of those doses."""
    doses = torch.tensor([20.0, 200.0])
    images = expose(torch.ones(2, 64, 64), doses[:, None, None], pixel_size_A=0.4, generator=generator())
    np.testing.assert_allclose(images.mean((1, 2)), doses * 0.16, rtol=0.05)


def test_the_parametric_mtf_is_its_closed_form() -> None:
    """It is 1 at 0, the given value at Nyquist's frequency, and a Lorentzian between."""
    values = modulation_transfer(np.array([0.0, 0.5, 1.0]), DetectorSpec(mtf_at_nyquist=0.25))
    np.testing.assert_allclose(values, [1, 1 / 1.75, 0.25])


def test_a_measured_mtf_is_interpolated() -> None:
    """Straight lines join the pairs; beyond the last the value stays."""
    values = modulation_transfer(np.array([0.25, 0.5, 0.75, 1.4]), DetectorSpec(mtf=MEASURED))
    np.testing.assert_allclose(values, [0.8, 0.6, 0.4, 0.2])


def test_a_wave_loses_the_contrast_that_the_mtf_says() -> None:
    """Fringes at half of Nyquist's frequency keep 0.6 of their amplitude, and the image its mean."""
    fringes = 1 + 0.5 * torch.cos(2 * math.pi * torch.arange(64) * 0.25).repeat(64, 1)
    blurred = blur(fringes, DetectorSpec(mtf=MEASURED))
    torch.testing.assert_close(blurred, 1 + 0.6 * (fringes - 1), atol=1e-6, rtol=0)


def test_a_detector_without_an_mtf_changes_nothing() -> None:
    """By default the image is the Poisson counts of the cut, drawn for no pixel outside of it."""
    intensity = torch.rand(20, 30, generator=generator())
    cut = (slice(3, 11), slice(5, 25))
    actual = acquire(intensity, 9.0, pixel_size_A=0.5, cut=cut, detector=DetectorSpec(), generator=generator())
    assert torch.equal(actual, expose(intensity[cut], 9.0, pixel_size_A=0.5, generator=generator()))


@pytest.mark.parametrize(("mode", "white"), [("counting", True), ("integrating", False)])
def test_noise_is_transferred_as_the_detector_does(mode: str, white: bool) -> None:
    """Shot noise of counting detectors is white and of whole counts; of integrating ones its power is MTF²."""
    detector = DetectorSpec.model_validate({"mode": mode, "mtf_at_nyquist": 0.3})
    flat = torch.ones(512, 512)
    image = acquire(flat, 20.0, pixel_size_A=1.0, cut=WHOLE, detector=detector, generator=generator())
    frequency, power = noise_spectrum(image)
    expected = np.ones(9) if white else modulation_transfer(frequency, detector) ** 2
    np.testing.assert_allclose(power, expected, rtol=0.06)
    assert float(image.mean()) == pytest.approx(20.0, rel=0.002)
    assert torch.equal(image, image.round()) == detector.counts_whole == white


def test_the_signal_is_transferred_alike_by_both() -> None:
    """Averaged over many exposures, counting and integrating detectors show the same blurred fringes."""
    fringes = (1 + 0.5 * torch.cos(2 * math.pi * torch.arange(32) * 0.25)).repeat(400, 32, 1)
    for mode in ("counting", "integrating"):
        detector = DetectorSpec.model_validate({"mode": mode, "mtf": MEASURED})
        images = acquire(fringes, 50.0, pixel_size_A=1.0, cut=WHOLE, detector=detector, generator=generator())
        expected = 50 * (1 + 0.6 * (fringes[0, 0] - 1))
        torch.testing.assert_close(images.mean((0, 1)), expected, atol=0.4, rtol=0)


def test_read_noise_adds_its_variance() -> None:
    """Counts of mean 4 with read noise of 3 electrons have variance 4 + 9; some pixels are negative."""
    detector = DetectorSpec(mode="integrating", read_noise_e=3.0)
    flat = torch.ones(400, 400)
    image = acquire(flat, 4.0, pixel_size_A=1.0, cut=WHOLE, detector=detector, generator=generator())
    assert float(image.var()) == pytest.approx(13.0, rel=0.02)
    assert float(image.mean()) == pytest.approx(4.0, abs=0.03)
    assert float(image.min()) < 0


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"read_noise_e": 1.0}, 'read_noise_e: a counting detector has none; set mode = "integrating"'),
        ({"mtf": [[0, 1], [1, 0.5]], "mtf_at_nyquist": 0.5}, "mtf and mtf_at_nyquist are both given"),
        ({"mtf": [[0, 0.9], [1, 0.5]]}, r"mtf: found the frequencies \[0.0, 1.0\]; .* the first \[0, 1\]"),
        ({"mtf": [[0, 1], [0.9, 0.5]]}, "the last at 1 or above"),
        ({"mtf": [[0, 1], [1, 0.5], [0.5, 0.7]]}, "in ascending order"),
        ({"mtf": [[0, 1], [1, 1.5]]}, r"detector.mtf\[1\]\[1\]: found 1.5; give a number of 1 or less"),
        ({"mtf_at_nyquist": 0}, "detector.mtf_at_nyquist: found 0; give a number above 0"),
        ({"mode": "ccd"}, "unknown value 'ccd'"),
    ],
)
def test_impossible_detectors_are_refused(table: dict, words: str) -> None:
    """What no detector can be is refused, each in a sentence."""
    with pytest.raises(SpecError, match=words):
        validate(ImagingSpec, {"detector": table}, context="x")
