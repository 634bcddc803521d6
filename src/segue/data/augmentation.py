"""Augmentation of whole batches on their device: parameters, geometry, intensity.

A view is one visit of a sample in an epoch. `sample_params` samples the parameters of all views of an epoch at once, so
that an epoch may be divided into batches in any way; `augment` applies them: first the eight rotations and reflections
of a square (the dihedral group), which only move pixels; then everything that needs resampling, in one step; last the
intensities.

A dihedral code has three bits: 1 flips left and right, 2 flips up and down, 4 transposes first. Code 0 changes nothing;
3 is half a turn, 6 a quarter turn to the left and 5 one to the right.

Functions of intensity return new images (n, C, H, W) float32, each view changed by its own parameter (n,) and each
channel by itself. No bit of a result depends on the other views of the batch: random numbers come from the view's seed,
and sums are taken along rows first, because torch divides a sum over a whole tensor among its threads.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segue import rng
from segue.data.spec import AugmentSpec, Range
from segue.errors import SegueError

N_DIHEDRAL = 8  # rotations and reflections of a square
FLIP_X, FLIP_Y, TRANSPOSE = 1, 2, 4
CPU_BLOCK_VALUES = 2**18  # a CPU changes about so many values at a time (1 MiB), so that they stay in its cache
EXACT_INTEGERS = 2**24  # below which float32 holds every integer


@dataclass(frozen=True)
class AugmentParams:
    """The parameters of n views, arrays (n,); a change that is not made has its neutral value.

    Indexing with a slice, an index array or a mask selects views. Random fields of a view are made from its `seed`.
    """

    code: np.ndarray  # dihedral code, 0 to 7; 0 changes nothing
    scale: np.ndarray  # 1
    angle_deg: np.ndarray  # 0; positive turns to the left, as torch.rot90 does
    elastic_px: np.ndarray  # 0
    blur_px: np.ndarray  # 0
    poisson_peak: np.ndarray  # 0: no counting noise
    noise: np.ndarray  # 0
    gamma: np.ndarray  # 1
    contrast: np.ndarray  # 1
    brightness: np.ndarray  # 0
    seed: np.ndarray  # int64

    def __len__(self) -> int:
        return len(self.code)

    def __getitem__(self, index: slice | np.ndarray) -> AugmentParams:
        return AugmentParams(*(getattr(self, field.name)[index] for field in dataclasses.fields(self)))

    @property
    def resampled(self) -> np.ndarray:
        """Returns which views (n,) are scaled, rotated or deformed."""
        return (self.scale != 1) | (self.angle_deg != 0) | (self.elastic_px > 0)


def sample_params(spec: AugmentSpec, count: int, generator: np.random.Generator) -> AugmentParams:
    """Returns the parameters of `count` views.

    Every change has its own random numbers, so that switching one on or off does not alter the others. With dihedral
    "all", each sample has eight consecutive views and view k has the code k mod 8; raises ValueError if `count` is no
    multiple of eight then.
    """
    if spec.dihedral == "all" and count % N_DIHEDRAL:
        raise ValueError(f'{count} views are not a whole number of samples; dihedral = "all" has eight views of each')
    random = generator.integers(N_DIHEDRAL, size=count)
    code = {"none": np.zeros_like(random), "random": random, "all": np.arange(count) % N_DIHEDRAL}[spec.dihedral]
    seed = generator.integers(2**63, size=count, dtype=np.int64)
    value, coin = generator.random((count, 9, 2)).transpose(2, 1, 0)
    applies = coin < spec.probability

    def sampled(column: int, values: np.ndarray, neutral: float) -> np.ndarray:
        return np.where(applies[column], values, neutral)

    amplitude_px = np.full(count, 0.0 if spec.elastic is None else spec.elastic.amplitude_px)
    return AugmentParams(
        code=code,
        scale=sampled(0, _log_uniform(spec.scale or (1, 1), value[0]), 1),
        angle_deg=sampled(1, _uniform((-spec.rotation_deg, spec.rotation_deg), value[1]), 0),
        elastic_px=sampled(2, amplitude_px, 0),
        blur_px=sampled(3, _uniform(spec.blur_px or (0, 0), value[3]), 0),
        poisson_peak=sampled(4, _log_uniform(spec.poisson, value[4]) if spec.poisson else np.zeros(count), 0),
        noise=sampled(5, _uniform(spec.noise or (0, 0), value[5]), 0),
        gamma=sampled(6, _log_uniform(spec.gamma or (1, 1), value[6]), 1),
        contrast=sampled(7, _log_uniform(spec.contrast or (1, 1), value[7]), 1),
        brightness=sampled(8, _uniform((-spec.brightness, spec.brightness), value[8]), 0),
        seed=seed,
    )


def _uniform(limits: Range, value: np.ndarray) -> np.ndarray:
    """Returns numbers between the limits from numbers in [0, 1)."""
    return limits[0] + (limits[1] - limits[0]) * value


def _log_uniform(limits: Range, value: np.ndarray) -> np.ndarray:
    """Returns factors between the limits, uniform in their logarithm, from numbers in [0, 1)."""
    return limits[0] * (limits[1] / limits[0]) ** value


def augment(spec: AugmentSpec, images: Tensor, labels: Tensor, params: AugmentParams) -> tuple[Tensor, Tensor]:
    """Returns images (n, C, H, W) float32 and labels (n, H, W) int64 of n views, changed by `params`.

    Memory order and types are kept, and the arguments are not modified. A change with its neutral value leaves a view
    as it is, bit for bit, and on a CPU no bit of a view depends on the rest of its batch; other devices have other
    random numbers. Labels are never mixed: each pixel takes the nearest one. Beyond the tile labels are -1 (ignored),
    and the image continues as its mirror image. No anti-aliasing is applied when downscaling.

    Raises SegueError for quarter turns of tiles that are not square, ValueError if `params` are of another number of
    views.
    """
    if len(params) != len(images) or len(params) != len(labels):
        raise ValueError(f"{len(params)} parameters for {len(images)} images and {len(labels)} labels")
    # rotations and reflections: exact, for the whole batch at once
    images, labels = dihedral(images, labels, torch.from_numpy(params.code))
    if not (spec.resamples or spec.changes_intensity or spec.standardize):
        return images, labels
    # resampling and intensities: on a CPU for a few views at a time, which stay in its cache
    step = len(images) if images.is_cuda else max(1, CPU_BLOCK_VALUES // images[0].numel())
    new_images, new_labels = torch.empty_like(images), torch.empty_like(labels) if spec.resamples else labels
    for start in range(0, len(images), step):
        block = slice(start, start + step)
        block_images, block_labels = _resample_views(spec, images[block], labels[block], params[block])
        block_images = _change_intensities(spec, block_images, params[block])
        new_images[block] = standardize(block_images) if spec.standardize else block_images
        if spec.resamples:
            new_labels[block] = block_labels
    return new_images, new_labels


# rotations and reflections


def dihedral(images: Tensor, labels: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
    """Returns images (n, C, H, W) and labels (n, H, W), each sample changed by its code (n,) in 0 … 7.

    Memory order and types are kept. Codes on the CPU need no synchronization with a device. Raises SegueError if a
    transposing code (4 … 7) meets tiles that are not square.
    """
    height, width = labels.shape[-2:]
    codes = code.tolist()
    if height != width and any(value & TRANSPOSE for value in codes):
        raise SegueError(
            f"the tiles are {height} × {width} px, but quarter turns need square tiles; "
            "prepare square tiles, or choose an augmentation without turns."
        )
    if not any(codes):
        return images, labels
    new_images, new_labels = torch.empty_like(images), torch.empty_like(labels)
    for value in sorted(set(codes)):
        views = [view for view, other in enumerate(codes) if other == value]
        index = torch.tensor(views).to(images.device, non_blocking=True)
        new_images[index] = apply_dihedral(images[index], value)
        new_labels[index] = apply_dihedral(labels[index], value)
    return new_images, new_labels


def apply_dihedral(array: Tensor, code: int) -> Tensor:
    """Returns (…, H, W) changed by one code; for codes 4 … 7 it becomes (…, W, H)."""
    if code & TRANSPOSE:
        array = array.transpose(-2, -1)
    axes = [axis for axis, bit in ((-1, FLIP_X), (-2, FLIP_Y)) if code & bit]
    return array.flip(axes) if axes else array


def inverse(code: int) -> int:
    """Returns the code of the inverse: `code` itself, except for the quarter turns, which are inverse to each other."""
    return {5: 6, 6: 5}.get(code, code)


def compose(first: int, then: int) -> int:
    """Returns the code that is equal to applying `first`, then `then`."""
    flips = first & (FLIP_X | FLIP_Y)
    if then & TRANSPOSE:
        flips = (flips & FLIP_X) << 1 | (flips & FLIP_Y) >> 1
    return ((first ^ then) & TRANSPOSE) | (flips ^ (then & (FLIP_X | FLIP_Y)))


# resampling


def _resample_views(spec: AugmentSpec, images: Tensor, labels: Tensor, params: AugmentParams) -> tuple[Tensor, Tensor]:
    applies = params.resampled
    if not applies.any():
        return images, labels
    sigma_px = spec.elastic.sigma_px if spec.elastic else 1.0
    if applies.all():
        return resample(
            images, labels, sampling_grid(params, labels.shape[-2:], sigma_px=sigma_px, device=images.device)
        )
    index = _to_index(applies, images.device)
    points = sampling_grid(params[applies], labels.shape[-2:], sigma_px=sigma_px, device=images.device)
    changed = resample(images.index_select(0, index), labels.index_select(0, index), points)
    return images.index_copy(0, index, changed[0]), labels.index_copy(0, index, changed[1])


def sampling_grid(
    params: AugmentParams, size: tuple[int, int] | torch.Size, *, sigma_px: float, device: torch.device
) -> Tensor:
    """Returns the source of each pixel of n views, (n, H, W, 2) as x, y in the convention of `grid_sample`.

    A pixel p of the view, relative to its center, is displaced by the elastic field, rotated and scaled back:
    R(-angle) (p + field) / scale. -1 and 1 are the outer edges of the first and the last pixel.
    """
    height, width = size
    angle = np.deg2rad(params.angle_deg)
    cosine, sine = np.cos(angle) / params.scale, np.sin(angle) / params.scale
    matrix = 2 * np.array([[cosine / width, -sine / width], [sine / height, cosine / height]])
    (xx, xy), (yx, yy) = torch.from_numpy(matrix.astype(np.float32)).to(device, non_blocking=True)[..., None, None]
    y = torch.arange(height, device=device).view(1, -1, 1) - (height - 1) / 2
    x = torch.arange(width, device=device).view(1, 1, -1) - (width - 1) / 2
    points = torch.empty(len(params), 2, height, width, device=device)
    torch.add(xx * x, xy * y, out=points[:, 0])
    torch.add(yx * x, yy * y, out=points[:, 1])
    deformed = np.flatnonzero(params.elastic_px).tolist()
    if deformed:
        along_y, along_x = (lattice_weights(n, sigma_px).to(device, non_blocking=True) for n in (height, width))
        amplitudes = torch.from_numpy((params.elastic_px * matrix).astype(np.float32)).to(device, non_blocking=True)
        for view in deformed:  # each by itself: in one product, the last bit would depend on their number
            generator = rng.torch_generator(int(params.seed[view]), "elastic", device=device)
            nodes = torch.randn(2, along_y.shape[1], along_x.shape[1], generator=generator, device=device)
            nodes = (amplitudes[:, :, view, None, None] * nodes).sum(1)  # the linear map costs less here than per pixel
            points[view].baddbmm_(along_y @ nodes, along_x.T.expand(2, -1, -1))
    return points.permute(0, 2, 3, 1)


def lattice_weights(length: int, sigma_px: float) -> Tensor:
    """Returns weights (length, m) that turn m independent normal numbers into smooth noise of variance 1 along a line.

    White noise on a lattice of spacing sigma_px, smoothed by a Gaussian of that standard deviation, sampled at every
    pixel: no noise per pixel is needed. Its correlation differs from that of smoothed noise per pixel,
    exp(-r² / 4 sigma_px²), by at most 2 exp(-π²) = 1e-4 (Poisson's summation formula on the lattice).
    """
    reach = 4  # standard deviations beyond the ends
    nodes = torch.arange(-reach, int(length / sigma_px) + reach + 2, dtype=torch.float64)
    weights = torch.exp(-((torch.arange(length)[:, None] / sigma_px - nodes) ** 2) / 2)
    return (weights / weights.square().sum(1, keepdim=True).sqrt()).float()


def resample(images: Tensor, labels: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Returns images, bilinear, and labels, nearest, at `points` (n, H, W, 2); for the border see `augment`."""
    height, width = labels.shape[-2:]
    if height * width >= EXACT_INTEGERS:
        raise SegueError(
            f"the tiles are {height} × {width} px, but scale, rotation and elastic take less than 4096 × 4096; "
            "prepare smaller tiles."
        )
    new_images = F.grid_sample(images, points, mode="bilinear", padding_mode="reflection", align_corners=False)
    # pixel numbers are sampled instead of labels, so that any label stays exact; 0, beyond the tile, reads -1
    numbers = torch.arange(1, height * width + 1, device=labels.device, dtype=points.dtype).view(1, 1, height, width)
    numbers = F.grid_sample(numbers.expand(len(labels), -1, -1, -1), points, mode="nearest", align_corners=False)
    padded = F.pad(labels.flatten(1), (1, 0), value=-1)
    return new_images, padded.gather(1, numbers.flatten(1).long()).view_as(labels)


# intensity


def _change_intensities(spec: AugmentSpec, images: Tensor, params: AugmentParams) -> Tensor:
    def apply(applies: np.ndarray, change: Callable[[Tensor, AugmentParams], Tensor]) -> Tensor:
        """Returns the images, changed where it applies."""
        if not applies.any():
            return images
        if applies.all():
            return change(images, params)
        index = _to_index(applies, images.device)
        return images.index_copy(0, index, change(images.index_select(0, index), params[applies]))

    if spec.blur_px is not None:
        max_px = spec.blur_px[1]
        images = apply(params.blur_px > 0, lambda x, p: gaussian_blur(x, p.blur_px, max_sigma_px=max_px))
    images = apply(params.poisson_peak > 0, lambda x, p: add_poisson_noise(x, p.poisson_peak, p.seed))
    images = apply(params.noise > 0, lambda x, p: add_gaussian_noise(x, p.noise, p.seed))
    images = apply(params.gamma != 1, lambda x, p: adjust_gamma(x, p.gamma))
    images = apply(params.contrast != 1, lambda x, p: adjust_contrast(x, p.contrast))
    return apply(params.brightness != 0, lambda x, p: adjust_brightness(x, p.brightness))


def gaussian_blur(images: Tensor, sigma_px: np.ndarray, *, max_sigma_px: float) -> Tensor:
    """Returns images convolved with Gaussians of standard deviations sigma_px > 0, mirrored about the border's pixels.

    The kernels are cut at 3 `max_sigma_px`, the largest sigma of the specification, and sum to 1.
    """
    count, channels, height, width = images.shape
    radius = math.ceil(3 * max_sigma_px)
    offsets = np.arange(-radius, radius + 1)
    kernels = np.exp(-(offsets**2) / (2 * sigma_px[:, None] ** 2))
    kernels = np.repeat(kernels / kernels.sum(axis=1, keepdims=True), channels, axis=0)
    weights = _on(kernels, images)
    planes = images.reshape(1, count * channels, height, width)
    if count * channels == 1:  # a convolution in one group is another algorithm, whose last bit may differ
        planes, weights = planes.expand(1, 2, height, width), weights.expand(2, -1)
    groups = planes.shape[1]
    rows, columns = (_mirrored(length, radius).to(images.device, non_blocking=True) for length in (height, width))
    planes = F.conv2d(planes.index_select(2, rows), weights[:, None, :, None], groups=groups)
    planes = F.conv2d(planes.index_select(3, columns), weights[:, None, None, :], groups=groups)
    return planes[:, : count * channels].reshape(images.shape)


def add_poisson_noise(images: Tensor, peak: np.ndarray, seed: np.ndarray) -> Tensor:
    """Returns images with Poisson noise; the darkest value of a view stands for 0 counts, the brightest for `peak`."""
    lowest, extent = _range(images)
    unit = extent / _column(peak, images)  # intensity of one count
    rate = (images - lowest) / unit.clamp(min=torch.finfo(images.dtype).tiny)
    for view, number in enumerate(seed.tolist()):
        rate[view] = torch.poisson(rate[view], generator=rng.torch_generator(number, "poisson", device=images.device))
    return rate.mul_(unit).add_(lowest)


def add_gaussian_noise(images: Tensor, sigma: np.ndarray, seed: np.ndarray) -> Tensor:
    """Returns images with Gaussian noise of standard deviation `sigma` added, independent from pixel to pixel."""
    noise = torch.empty(images.shape, dtype=images.dtype, device=images.device)
    for view, number in enumerate(seed.tolist()):
        noise[view].normal_(generator=rng.torch_generator(number, "noise", device=images.device))
    return torch.addcmul(images, noise, _column(sigma, images))


def adjust_gamma(images: Tensor, gamma: np.ndarray) -> Tensor:
    """Returns images whose values x, as fractions of the channel's range, become x**gamma; the range stays."""
    lowest, extent = _range(images)
    fraction = (images - lowest) / extent.clamp(min=torch.finfo(images.dtype).tiny)
    powers = (
        fraction.log_().mul_(_column(gamma, images)).exp_()
    )  # much faster than pow; log 0 = -inf, so that 0 stays 0
    return powers.mul_(extent).add_(lowest)


def adjust_contrast(images: Tensor, factor: np.ndarray) -> Tensor:
    """Returns images whose distance from the channel's mean is multiplied by `factor`."""
    return torch.lerp(_mean(images), images, _column(factor, images))


def adjust_brightness(images: Tensor, added: np.ndarray) -> Tensor:
    """Returns images with `added` added."""
    return images + _column(added, images)


def standardize(images: Tensor) -> Tensor:
    """Returns images of mean 0 and standard deviation 1 in each channel of each view; a constant channel becomes 0."""
    centered = images - _mean(images)
    deviation = _mean(centered.square()).sqrt_()
    return centered / torch.where(deviation > 0, deviation, 1)


def _mean(images: Tensor) -> Tensor:
    """Returns the means (n, C, 1, 1) of the channels."""
    return images.mean(-1, keepdim=True).mean(-2, keepdim=True)


def _range(images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the smallest value of each channel and the extent from there to the largest, both (n, C, 1, 1)."""
    lowest, highest = images.amin((-2, -1), keepdim=True), images.amax((-2, -1), keepdim=True)
    return lowest, highest - lowest


def _mirrored(length: int, margin: int) -> Tensor:
    """Returns the indices (length + 2 margin,) of a line that continues beyond its ends as its mirror image."""
    period = max(2 * (length - 1), 1)
    place = torch.arange(-margin, length + margin) % period
    return torch.minimum(place, period - place)


def _on(values: np.ndarray, images: Tensor) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(images.device, non_blocking=True)


def _column(values: np.ndarray, images: Tensor) -> Tensor:
    """Returns the values (n,) as a tensor (n, 1, 1, 1) that broadcasts with the images."""
    return _on(values, images).view(-1, 1, 1, 1)


def _to_index(applies: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.flatnonzero(applies)).to(device, non_blocking=True)
