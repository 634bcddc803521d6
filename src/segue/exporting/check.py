"""An exported file computes what the network does: at three sizes, compared with torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from segue import rng
from segue.errors import SegueError
from segue.exporting.network import ExportedNetwork

MAX_RELATIVE_DIFFERENCE = 1e-3  # of the largest value
MIN_SIDE_PX = 32
DISC_AREA_PX = 2500  # of the image, per disc


@dataclass(frozen=True)
class Difference:
    """The largest difference from torch, and the largest value, over all sizes (height, width)."""

    largest: float
    of_values_up_to: float
    sizes: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        sizes = ", ".join(f"{height} × {width}" for height, width in self.sizes)
        return (
            f"largest difference from torch {self.largest:.1e}, of values up to {self.of_values_up_to:.3g} ({sizes} px)"
        )


def example_image(channels: int, height: int, width: int) -> np.ndarray:
    """Returns a made image (channels, height, width) float32: bright discs on a noisy background, in integers."""
    generator = rng.numpy_generator("exporting", "example", height, width)
    y, x = np.mgrid[:height, :width]
    image = generator.normal(200, 15, (height, width))
    for _ in range(max(2, height * width // DISC_AREA_PX)):
        row, column, radius = generator.uniform(0, height), generator.uniform(0, width), generator.uniform(5, 12)
        image = np.maximum(image, 1000 * ((y - row) ** 2 + (x - column) ** 2 < radius**2))
    image += generator.normal(0, 30, image.shape)
    return np.repeat(image.clip(0).round().astype(np.float32)[None], channels, axis=0)


def example_batches(network: ExportedNetwork) -> Iterator[torch.Tensor]:
    """Yields batches of made images at three sizes, none of them square; two are no multiples of the divisor."""
    side = -(-MIN_SIDE_PX // network.divisor) * network.divisor
    for batch, height, width in ((1, side, 2 * side), (2, 2 * side + 3, side + 5), (1, 3 * side - 1, 4 * side)):
        yield torch.from_numpy(np.stack([example_image(network.channels, height, width)] * batch))


def check(path: Path, network: ExportedNetwork, run: Callable[[torch.Tensor], np.ndarray]) -> Difference:
    """Returns how far `run` differs from the network; raises SegueError where it fails, or differs by more than
    MAX_RELATIVE_DIFFERENCE.

    run: computes the output of images (N, C, H, W) by what was exported. path: for messages.
    """
    differences, values, sizes = [0.0], [0.0], []
    for images in example_batches(network):
        with torch.inference_mode():
            expected = network(images).numpy()
        size = (images.shape[-2], images.shape[-1])
        try:
            actual = run(images)
        except Exception as error:  # onnxruntime has several, of no common base
            raise refusal(path, _failure(size), error) from error
        if actual.shape != expected.shape:
            raise refusal(path, _failure(size), f"it gives shape {actual.shape} in place of {expected.shape}")
        differences.append(float(np.abs(actual - expected).max()))
        values.append(float(np.abs(expected).max()))
        sizes.append(size)
    if not max(differences) <= MAX_RELATIVE_DIFFERENCE * max(values):
        raise refusal(path, _failure(sizes[-1]), f"it differs from torch by {max(differences):.2g}")
    return Difference(max(differences), max(values), tuple(sizes))


def _failure(size: tuple[int, int]) -> str:
    return f"does not compute an image of {size[0]} × {size[1]} px as segue does"


def refusal(path: Path, failure: str, reason: BaseException | str) -> SegueError:
    """Returns the error for a network that cannot be exported; of the reason the first line is told."""
    first = str(reason).strip().partition("\n")[0][:200]
    return SegueError(
        f"{path}: the exported network {failure} ({first}); nothing was written: predict with segue, or try "
        "another format; TorchScript has the fewest limits."
    )
