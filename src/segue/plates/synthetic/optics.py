"""From a synthetic scene to the camera: defocused light, cutting at sub-pixel positions, flat field, noise."""

from __future__ import annotations

import numpy as np
import scipy.fft
import scipy.ndimage
from scipy.interpolate import CubicSpline

from segue.rng import numpy_generator

MAX_COUNTS = 65535
CUT_MARGIN_PX = 12  # beyond this, pixels have no influence on cubic splines


def defocused_intensity(
    path_um: np.ndarray,
    absorbance: np.ndarray,
    *,
    defocus_um: float,
    pixel_size_um: float,
    wavelength_um: float,
    condenser_aperture: float,
) -> np.ndarray:
    """Returns the transmitted intensity (H, W) float32, 1 in empty medium, of a thin object seen `defocus_um` from it.

    `path_um` is its optical path beyond that of the medium (thickness × difference of refractive index), `absorbance`
    −ln of its transmission. The wave exp(−absorbance / 2 + 2πi path / λ) is propagated over the defocus in Fresnel's
    approximation, H(q) = exp(−iπλ defocus q²) (Goodman, Introduction to Fourier Optics, 3rd ed., §4.2), and the
    intensity is blurred by the source: sd = |defocus| × condenser_aperture. For small defocus it is the transport of
    intensity (Teague, JOSA 73, 1434, 1983), I = exp(−absorbance) − defocus ∇·(I ∇path): positive defocus brightens
    what is thick and darkens its rim, negative the reverse. The border is mirrored.
    """
    height, width = path_um.shape
    size = [scipy.fft.next_fast_len(n + 64) or n for n in (height, width)]
    padding = [((s - n) // 2, s - n - (s - n) // 2) for s, n in zip(size, (height, width), strict=True)]
    phase = np.pad((2 * np.pi / wavelength_um) * path_um.astype(np.float32), padding, mode="symmetric")
    amplitude = np.exp(-0.5 * np.pad(absorbance.astype(np.float32), padding, mode="symmetric"))
    q2 = (
        scipy.fft.fftfreq(size[0], pixel_size_um)[:, None] ** 2 + scipy.fft.fftfreq(size[1], pixel_size_um)[None] ** 2
    ).astype(np.float32)
    transfer = np.exp((-1j * np.pi * wavelength_um * defocus_um) * q2)
    wave = scipy.fft.ifft2(np.asarray(scipy.fft.fft2(amplitude * np.exp(1j * phase))) * transfer)
    intensity = np.square(np.abs(np.asarray(wave)), dtype=np.float32)
    sd_um = abs(defocus_um) * condenser_aperture
    blur = np.exp((-2 * np.pi**2 * sd_um**2) * q2[:, : size[1] // 2 + 1])
    blurred = np.asarray(scipy.fft.irfft2(np.asarray(scipy.fft.rfft2(intensity)) * blur, s=size))
    top, left = padding[0][0], padding[1][0]
    return np.ascontiguousarray(blurred[top : top + height, left : left + width], dtype=np.float32)


def texture(size_px: int, coarsest_px: float, finest_px: float, generator: np.random.Generator) -> np.ndarray:
    """Returns periodic noise (size_px, size_px) float32, mean 0, sd 1, of wavelengths from finest_px to coarsest_px."""
    q = np.hypot(np.fft.fftfreq(size_px)[:, None], np.fft.rfftfreq(size_px)[None])
    passed = np.exp(-((q * finest_px) ** 2)) * (1 - np.exp(-((q * coarsest_px) ** 2)))
    noise = np.fft.irfft2(np.fft.rfft2(generator.standard_normal((size_px, size_px))) * passed, s=(size_px, size_px))
    return ((noise - noise.mean()) / noise.std()).astype(np.float32)


def smooth_field(
    shape: tuple[int, int], scale_px: float, generator: np.random.Generator, *, knots: int = 2
) -> np.ndarray:
    """Returns noise (H, W) float32, mean about 0, sd about 1, that changes over `scale_px` (cubic between knots)."""
    counts = [max(4, round(knots * n / scale_px) + 3) for n in shape]
    coarse = scipy.ndimage.gaussian_filter(generator.standard_normal(counts), knots / 2, mode="nearest")
    coarse /= max(float(coarse.std()), 1e-9)
    down, right = (
        CubicSpline(np.arange(c), np.eye(c))(np.linspace(1, c - 2, n)).astype(np.float32)
        for c, n in zip(counts, shape, strict=True)
    )
    return down @ coarse.astype(np.float32) @ right.T


def flat_field(tile_px: int, loss: float, generator: np.random.Generator) -> np.ndarray:
    """Returns the relative illumination (tile_px, tile_px) float32, mean 1, of one plate and channel.

    A polynomial, 1 − loss (0.7 r² + 0.3 r⁴) about a center off the middle by up to 0.15 of half the tile, times a tilt
    of at most 3 %; r is 1 in the corners.
    """
    axis = np.linspace(-1, 1, tile_px)
    center = generator.uniform(-0.15, 0.15, 2)
    tilt = generator.uniform(-0.03, 0.03, 2)
    r2 = ((axis[:, None] - center[0]) ** 2 + (axis[None] - center[1]) ** 2) / 2
    flat = (1 - loss * (0.7 * r2 + 0.3 * r2**2)) * (1 + tilt[0] * axis[:, None] + tilt[1] * axis[None])
    return (flat / flat.mean()).astype(np.float32)


def cut_tile(scene: np.ndarray, place_px: tuple[float, float], tile_px: int) -> np.ndarray:
    """Returns the tile (tile_px, tile_px) float32 whose first pixel lies at (y, x) of the scene (cubic splines).

    Integer positions copy pixels. Raises ValueError if the tile leaves the scene.
    """
    whole = [int(np.floor(p)) for p in place_px]
    rest = [p - w for p, w in zip(place_px, whole, strict=True)]
    if any(w < 0 or w + tile_px + (r > 0) > n for w, r, n in zip(whole, rest, scene.shape, strict=True)):
        raise ValueError(f"a tile of {tile_px} px at {place_px} leaves a scene of {scene.shape} px")
    if rest == [0, 0]:
        return scene[whole[0] : whole[0] + tile_px, whole[1] : whole[1] + tile_px].astype(np.float32)
    first = [max(0, w - CUT_MARGIN_PX) for w in whole]
    last = [min(n, w + tile_px + CUT_MARGIN_PX) for w, n in zip(whole, scene.shape, strict=True)]
    padding = scene[first[0] : last[0], first[1] : last[1]].astype(np.float32)
    moved = scipy.ndimage.shift(padding, [-r for r in rest], order=3, mode="nearest")
    y, x = whole[0] - first[0], whole[1] - first[1]
    return moved[y : y + tile_px, x : x + tile_px]


def camera(
    expected_counts: np.ndarray,
    *,
    electrons_per_count: float,
    read_noise_electrons: float,
    offset_counts: float,
    seed: tuple[str | int, ...],
) -> np.ndarray:
    """Returns uint16 counts: Poisson electrons of the expected counts, Gaussian read-out noise, offset; clipped."""
    generator = numpy_generator(*seed)
    electrons = generator.poisson(np.maximum(expected_counts, 0) * electrons_per_count).astype(np.float32)
    electrons += read_noise_electrons * generator.standard_normal(electrons.shape, dtype=np.float32)
    return np.clip(np.rint(electrons / electrons_per_count + offset_counts), 0, MAX_COUNTS).astype(np.uint16)
