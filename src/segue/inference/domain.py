"""What a model was trained on, and how an image differs from that. Cheap to import: no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

MAX_SIZE_FACTOR = 1.25  # between pixel sizes that count as one


@dataclass(frozen=True)
class TrainingSet:
    """The images that a model was trained on.

    pixel_sizes_nm: the distinct known sizes in ascending order. statistics: channel -> name of a statistic -> its
    least and greatest value among the images.
    """

    pixel_sizes_nm: tuple[float, ...] = ()
    statistics: Mapping[str, Mapping[str, tuple[float, float]]] | None = None

    @property
    def pixel_size_nm(self) -> float | None:
        """The size of a pixel, the median of those known; None without any, or where they differ by MAX_SIZE_FACTOR."""
        sizes = self.pixel_sizes_nm
        return float(np.median(sizes)) if sizes and sizes[-1] <= MAX_SIZE_FACTOR * sizes[0] else None
