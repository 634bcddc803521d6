"""Detectors: from expected intensities to counts, by dose, modulation transfer, shot noise and read noise.

The modulation transfer function (MTF) is what a detector leaves of the contrast at a spatial frequency. Where it acts
decides about the noise (Meyer and Kirkland, Microsc. Res. Tech. 49 (2000) 269; McMullan et al., Ultramicroscopy 109
(2009) 1126):

    counting      every electron is counted once, perhaps in a pixel near its own. Electrons displaced at random remain
                  independent: the counts are Poisson of the blurred intensity, and their noise is white.
    integrating   every electron leaves a signal spread over several pixels, as in a scintillator. Signal and shot noise
                  are blurred alike, then read noise is added. Real electrons leave unequal signals, which raises the
                  noise; this is not modeled.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from segue.spec import SpecModel

if TYPE_CHECKING:
    import torch

Cut = tuple[slice, slice]


class DetectorSpec(SpecModel):
    """What the detector makes of the electrons; by default it counts each of them in its own pixel.

    The MTF is 1 / (1 + (1/m − 1) ν²) with m = `mtf_at_nyquist`, or the measured `mtf`: pairs [ν, MTF] joined by
    straight lines, constant beyond the last. ν is the frequency over Nyquist's, up to √2 in the corners. `read_noise_e`
    is the standard deviation of each pixel in electrons, of integrating detectors only.
    """

    mode: Literal["counting", "integrating"] = "counting"
    mtf_at_nyquist: Annotated[float, Field(gt=0, le=1)] = 1.0
    mtf: tuple[tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0, le=1)]], ...] = ()
    read_noise_e: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _possible(self) -> DetectorSpec:
        frequencies = [frequency for frequency, _ in self.mtf]
        if self.mtf and self.mtf_at_nyquist != 1:
            raise ValueError("mtf and mtf_at_nyquist are both given; remove one")
        if self.mtf and (self.mtf[0] != (0, 1) or frequencies[-1] < 1 or sorted(set(frequencies)) != frequencies):
            raise ValueError(
                f"mtf: found the frequencies {frequencies}; give pairs [frequency over Nyquist's, MTF] in ascending "
                "order, the first [0, 1], the last at 1 or above"
            )
        if self.read_noise_e and self.mode == "counting":
            raise ValueError('read_noise_e: a counting detector has none; set mode = "integrating" or remove it')
        return self

    @property
    def blurs(self) -> bool:
        return bool(self.mtf) or self.mtf_at_nyquist < 1

    @property
    def counts_whole(self) -> bool:
        """Whether pixels are whole numbers of electrons."""
        return self.mode == "counting" or not (self.blurs or self.read_noise_e)


def modulation_transfer(frequency: np.ndarray, detector: DetectorSpec) -> np.ndarray:
    """Returns the MTF at frequencies in units of Nyquist's."""
    if detector.mtf:
        return np.interp(frequency, *np.array(detector.mtf).T)
    return 1 / (1 + (1 / detector.mtf_at_nyquist - 1) * frequency**2)


def blur(image: torch.Tensor, detector: DetectorSpec) -> torch.Tensor:
    """Returns images (…, H, W) times the MTF, across the periodic border; the mean stays."""
    import torch

    if not detector.blurs:
        return image
    height, width = image.shape[-2:]
    frequency = 2 * np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    mtf = torch.from_numpy(modulation_transfer(frequency, detector)).to(image)
    return torch.fft.irfft2(torch.fft.rfft2(image) * mtf, s=(height, width))


def expose(
    intensity: torch.Tensor, dose_e_per_A2: float | torch.Tensor, *, pixel_size_A: float, generator: torch.Generator
) -> torch.Tensor:
    """Returns electrons counted per pixel, float32 whole numbers: Poisson of intensity × dose × pixel area.

    The dose is one number or one for each image (n, 1, 1); the generator lives where the intensity does.
    """
    import torch

    return torch.poisson(intensity * (dose_e_per_A2 * pixel_size_A**2), generator=generator)


def acquire(
    intensity: torch.Tensor,
    dose_e_per_A2: float,
    *,
    pixel_size_A: float,
    cut: Cut,
    detector: DetectorSpec,
    generator: torch.Generator,
) -> torch.Tensor:
    """Returns the image (…, h, w) float32 that the detector gives of the part `cut` of intensities (…, H, W).

    Whole numbers of electrons where `counts_whole`; otherwise electrons without an offset, so that read noise makes
    some pixels negative. The blur sees the whole field, which is periodic.
    """
    import torch

    count = partial(expose, dose_e_per_A2=dose_e_per_A2, pixel_size_A=pixel_size_A, generator=generator)
    if not detector.blurs:
        image = count(intensity[..., *cut])
    elif detector.mode == "counting":
        # a measured MTF can overshoot below 0, which no number of electrons can be expected to
        image = count(blur(intensity, detector).clamp(min=0)[..., *cut])
    else:
        image = blur(count(intensity), detector)[..., *cut]
    if detector.read_noise_e:
        image = image + detector.read_noise_e * torch.randn(image.shape, generator=generator, device=image.device)
    return image
