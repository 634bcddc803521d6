"""No image of one shipped nuclei set is part of an image of the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.fft

from segue.data.image_io import read_image

EXAMPLES = Path(__file__).parents[2] / "examples" / "data"
COARSE = 4  # images are compared at a quarter of their scale


def coarse(image: np.ndarray) -> np.ndarray:
    """Returns (H, W) averaged over blocks of 4 × 4 px."""
    height, width = (length // COARSE * COARSE for length in image.shape)
    blocks = image[:height, :width].astype(np.float64).reshape(height // COARSE, COARSE, width // COARSE, COARSE)
    return blocks.mean(axis=(1, 3))


def box_sums(image: np.ndarray, height: int, width: int) -> np.ndarray:
    sums = np.pad(image.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    return sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]


class Field:
    """A large image, prepared for sliding smaller ones over it."""

    def __init__(self, image: np.ndarray) -> None:
        self.image = coarse(image)
        self.transform = scipy.fft.rfft2(self.image)

    def highest_correlation(self, image: np.ndarray) -> float:
        """Returns the highest normalised correlation of a smaller image at any place inside this one."""
        small = coarse(image)
        height, width = small.shape
        small = small - small.mean()
        product = self.transform * np.conj(scipy.fft.rfft2(small, self.image.shape))
        places = tuple(slice(whole - part + 1) for whole, part in zip(self.image.shape, small.shape, strict=True))
        covariance = scipy.fft.irfft2(product, self.image.shape)[places]
        mean = box_sums(self.image, height, width) / small.size
        variance = box_sums(self.image**2, height, width) / small.size - mean**2
        spread = np.sqrt(np.maximum(variance, 1e-9) * small.size * (small**2).sum())
        return float((covariance / np.maximum(spread, 1e-9)).max())


@pytest.fixture(scope="module")
def fields() -> list[Field]:
    return [Field(read_image(path).image[0]) for path in sorted((EXAMPLES / "bbbc039/images").glob("*.tif"))]


@pytest.mark.slow
def test_a_hidden_crop_would_be_found(fields: list[Field]) -> None:
    """An 8-bit crop of a field, at the worst offset for the coarse grid, correlates above .9 with that field alone."""
    path = sorted((EXAMPLES / "bbbc039/images").glob("*.tif"))[5]
    crop = read_image(path).image[0, 102:358, 202:458]
    actual = [field.highest_correlation((crop // 16).astype(np.uint8)) for field in fields]
    assert actual[5] > 0.9
    assert max(actual[:5] + actual[6:]) < 0.9


@pytest.mark.slow
def test_the_two_sets_share_no_image(fields: list[Field]) -> None:
    """The highest correlation of any image of one set with any place of any field of the other is below .9."""
    images = [read_image(path).image[0] for path in sorted((EXAMPLES / "dsb2018/images").glob("*.png"))]
    assert (len(images), len(fields)) == (109, 29)
    assert max(field.highest_correlation(image) for field in fields for image in images) < 0.9


def test_the_shipped_images_are_small(fields: list[Field]) -> None:
    """All shipped images and labels together stay below 13 MB."""
    assert sum(path.stat().st_size for path in EXAMPLES.rglob("*") if path.is_file()) < 18e6
