"""Changes of intensity on batches: blur, counting noise, Gaussian noise, gamma, contrast, brightness, standardisation.

Every function returns new images (n, C, H, W) float32, each view changed by its own parameter (n,) and each channel by
itself. No result depends, by a bit, on which other views stand in the batch: random numbers come from the view's seed,
and sums are taken along rows first, because torch divides a sum over a whole tensor among its threads.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from segue import rng


def blurred(images: Tensor, sigma_px: np.ndarray, *, widest_px: float) -> Tensor:
    """Returns images convolved with Gaussians of standard deviations sigma_px > 0, mirrored about the border's pixels.

    The kernels are cut at 3 `widest_px`, the largest sigma that could have been drawn, and sum to 1.
    """
    count, channels, height, width = images.shape
    radius = math.ceil(3 * widest_px)
    offsets = np.arange(-radius, radius + 1)
    kernels = np.exp(-(offsets**2) / (2 * sigma_px[:, None] ** 2))
    kernels = np.repeat(kernels / kernels.sum(axis=1, keepdims=True), channels, axis=0)
    weights = _on(kernels, images)
    planes = images.reshape(1, count * channels, height, width)
    alone = count * channels == 1
    if alone:  # a convolution in one group is another algorithm, whose last bit may differ
        planes, weights = planes.expand(1, 2, height, width), weights.expand(2, -1)
    groups = planes.shape[1]
    rows, columns = (_mirrored(length, radius).to(images.device, non_blocking=True) for length in (height, width))
    planes = F.conv2d(planes.index_select(2, rows), weights[:, None, :, None], groups=groups)
    planes = F.conv2d(planes.index_select(3, columns), weights[:, None, None, :], groups=groups)
    return planes[:, : count * channels].reshape(images.shape)


def counted(images: Tensor, peak: np.ndarray, seed: np.ndarray) -> Tensor:
    """Returns images with Poisson noise: the view's darkest value stands for 0 counts, its brightest for `peak` > 0."""
    lowest, extent = _range(images)
    unit = extent / _column(peak, images)  # intensity of one count
    rate = (images - lowest) / unit.clamp(min=torch.finfo(images.dtype).tiny)
    for view, number in enumerate(seed.tolist()):
        rate[view] = torch.poisson(rate[view], generator=rng.torch_generator(number, "poisson", device=images.device))
    return rate.mul_(unit).add_(lowest)


def noisy(images: Tensor, sigma: np.ndarray, seed: np.ndarray) -> Tensor:
    """Returns images with Gaussian noise of standard deviation `sigma` added, independent from pixel to pixel."""
    noise = torch.empty(images.shape, dtype=images.dtype, device=images.device)
    for view, number in enumerate(seed.tolist()):
        noise[view].normal_(generator=rng.torch_generator(number, "noise", device=images.device))
    return torch.addcmul(images, noise, _column(sigma, images))


def gamma_corrected(images: Tensor, gamma: np.ndarray) -> Tensor:
    """Returns images whose values x, as fractions of the channel's range, became x**gamma; the range stays."""
    lowest, extent = _range(images)
    fraction = (images - lowest) / extent.clamp(min=torch.finfo(images.dtype).tiny)
    powers = fraction.log_().mul_(_column(gamma, images)).exp_()  # much faster than pow; 0 stays 0 by way of -inf
    return powers.mul_(extent).add_(lowest)


def contrasted(images: Tensor, factor: np.ndarray) -> Tensor:
    """Returns images whose distance from the channel's mean is multiplied by `factor`."""
    return torch.lerp(_mean(images), images, _column(factor, images))


def brightened(images: Tensor, added: np.ndarray) -> Tensor:
    """Returns images with `added` added."""
    return images + _column(added, images)


def standardised(images: Tensor) -> Tensor:
    """Returns images of mean 0 and standard deviation 1 in each channel of each view; a constant channel becomes 0."""
    centred = images - _mean(images)
    deviation = _mean(centred.square()).sqrt_()
    return centred / torch.where(deviation > 0, deviation, 1)


def _mean(images: Tensor) -> Tensor:
    """Returns the means (n, C, 1, 1) of the channels."""
    return images.mean(-1, keepdim=True).mean(-2, keepdim=True)


def _range(images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the smallest value of each channel and the extent from there to the largest, both (n, C, 1, 1)."""
    lowest, highest = images.amin((-2, -1), keepdim=True), images.amax((-2, -1), keepdim=True)
    return lowest, highest - lowest


def _mirrored(length: int, margin: int) -> Tensor:
    """Returns the indices (length + 2 margin,) of a line that goes on beyond its ends as its mirror image."""
    period = max(2 * (length - 1), 1)
    place = torch.arange(-margin, length + margin) % period
    return torch.minimum(place, period - place)


def _on(values: np.ndarray, images: Tensor) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(images.device, non_blocking=True)


def _column(values: np.ndarray, images: Tensor) -> Tensor:
    """Returns the values (n,) as (n, 1, 1, 1) beside the images."""
    return _on(values, images).view(-1, 1, 1, 1)
