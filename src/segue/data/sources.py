"""Sources of images and labels for the training loop, and the samples that they are made of.

A source numbers its samples 0 … len - 1 and reads any of them, in any order, on the device asked for. `ResidentSource`
holds them in memory; `streaming.StreamedSource` reads them as they are needed, and gives the same bits.

Label maps of datasets without label images are virtual (`virtual_labels`): all-background maps, and maps filled with
the class of a per-sample column. Stages that need no labeled pixels (reconstruction, classes of whole images) read
them like stored ones.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from segue.data.dataset import Dataset
from segue.data.normalization import background_stats, intensity_stats, normalize
from segue.data.spec import Layer, NormalizeSpec
from segue.data.writer import to_smallest_int
from segue.errors import SegueError
from segue.labels import IGNORED
from segue.spec import unknown

MAX_CLASSES = 1000
LOCATION_COLUMNS = ("source", "y_px", "x_px")  # they say where a sample lies, not what it is
UNLABELED = Layer("", "images", ())
READ_BYTES = 64 * 2**20
LabeledImage = tuple[np.ndarray, np.ndarray]


class Source(Protocol):
    """What the loop needs: images (n, C, H, W) float32, channels-last, and labels (n, H, W) int64, -1 ignored."""

    def __len__(self) -> int: ...

    def read(self, indices: Tensor, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Returns images and labels of the samples, in the order of `indices` (n,), repeats allowed."""
        ...

    def batches(
        self, samples: np.ndarray, bounds: Sequence[tuple[int, int]], device: torch.device | str
    ) -> Generator[tuple[Tensor, Tensor]]:
        """Yields images and labels of samples[start:end] for each (start, end) of `bounds`, in turn.

        `samples` (m,) is the whole order of an epoch, so that a source can read ahead; repeats are allowed. Close the
        iterator where it is not read to its end.
        """
        ...

    def names(self, indices: Sequence[int]) -> list[str]:
        """Returns the names of the samples in an error: "<source> tile y,x"."""
        ...


@dataclass(frozen=True)
class DatasetSubset:
    """The samples `indices` of a dataset, in that order, with the labels of one layer."""

    dataset: Dataset
    indices: np.ndarray
    layer: Layer

    @property
    def label_dtype(self) -> np.dtype:
        """The type of labels in memory: int8 for classes, else int32."""
        is_small = self.layer.kind != "instances" and len(self.layer.names) <= 127
        return np.dtype(np.int8 if is_small else np.int32)

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns images (n, C, H, W), as acquired, and labels (n, H, W) of samples of the dataset."""
        images, labels = self.dataset.read(indices, layer=self.layer.name if self.layer.stored else None)
        return images, virtual_labels(self.dataset, indices, self.layer) if labels is None else labels


@dataclass(frozen=True)
class ResidentSource:
    """Samples in memory: pixels (n, H, W, C) float32, labels (n, H, W) in the smallest type that holds them."""

    pixels: Tensor
    labels: Tensor
    sample_names: tuple[str, ...]

    @classmethod
    def from_dataset(
        cls, dataset: Dataset, indices: np.ndarray, *, layer: str, normalization: NormalizeSpec = "image"
    ) -> ResidentSource:
        """Returns the samples `indices` of a dataset, in that order, with the labels of `layer` as they are stored."""
        if layer not in dataset.layers:
            raise SegueError(f"{dataset.path}: {unknown(layer, dataset.layers, 'label layer')}.")
        return cls.from_parts([DatasetSubset(dataset, indices, dataset.layers[layer])], normalization=normalization)

    @classmethod
    def from_parts(cls, parts: Sequence[DatasetSubset], *, normalization: NormalizeSpec) -> ResidentSource:
        """Returns the samples of all parts, those of the first part first, normalized.

        Raises SegueError where the parts' tiles differ, and for NaN and infinity, naming the sample and its file.
        """
        channels, height, width = tile_shape(parts)
        count = sum(len(part.indices) for part in parts)
        pixels = np.empty((count, height, width, channels), dtype=np.float32)
        labels = np.empty(
            (count, height, width), dtype=max((part.label_dtype for part in parts), key=lambda t: t.itemsize)
        )
        step = max(1, READ_BYTES // max(1, 8 * channels * height * width))
        names: list[str] = []
        for part in parts:
            dataset, indices = part.dataset, np.asarray(part.indices, dtype=np.int64)
            first = len(names)
            names += sample_names(dataset, indices)
            intensity = micrograph_statistics(dataset, indices, normalization)
            order = np.argsort(indices, kind="stable")  # sorted, so that each compressed chunk is read once
            for start in range(0, len(order), step):
                rows = order[start : start + step]
                images, part_labels = part.read(indices[rows])
                values = normalize(images, intensity_stats(normalization, images, intensity[rows]))
                require_finite(dataset, values, [names[first + row] for row in rows])
                pixels[first + rows] = np.moveaxis(values, 1, -1)
                labels[first + rows] = part_labels
        return cls(torch.from_numpy(pixels), torch.from_numpy(to_smallest_int(labels)), tuple(names))

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, indices: Tensor, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Returns images (n, C, H, W) float32, channels-last, and labels (n, H, W) int64 on `device`."""
        index = torch.as_tensor(indices, device=self.pixels.device)
        pixels = self.pixels.index_select(0, index).to(device, non_blocking=True)
        labels = self.labels.index_select(0, index).to(device, non_blocking=True)
        return pixels.permute(0, 3, 1, 2), labels.to(torch.int64)

    def batches(
        self, samples: np.ndarray, bounds: Sequence[tuple[int, int]], device: torch.device | str
    ) -> Generator[tuple[Tensor, Tensor]]:
        """Yields images and labels of samples[start:end] for each of `bounds`; the order is copied across once."""
        order = torch.from_numpy(np.asarray(samples, dtype=np.int64)).to(self.pixels.device)
        for start, end in bounds:
            yield self.read(order[start:end], device)

    def names(self, indices: Sequence[int]) -> list[str]:
        return [self.sample_names[int(index)] for index in indices]

    def to(self, device: torch.device | str) -> ResidentSource:
        """Returns the same samples on `device`, so that `read` copies nothing to it."""
        return ResidentSource(self.pixels.to(device), self.labels.to(device), self.sample_names)


def tile_shape(parts: Sequence[DatasetSubset]) -> tuple[int, int, int]:
    """Returns the channels, height and width that all parts share; raises SegueError where they differ."""
    if not parts:
        raise ValueError("there are no samples: no part is given")
    shapes = {part.dataset.tile_shape for part in parts}
    if len(shapes) > 1:
        listed = ", ".join(f"{c} × {h} × {w}" for c, h, w in sorted(shapes))
        raise SegueError(
            f"the tiles of the mixed domains differ ({listed}); prepare them with one tile_px and channels."
        )
    return shapes.pop()


def micrograph_statistics(dataset: Dataset, indices: np.ndarray, normalization: NormalizeSpec) -> np.ndarray:
    """Returns the stored statistics (n, C, 4) of the micrographs that samples were cut from, as `intensity_stats` takes
    them. Of a file of format 1, level and scale of the background are computed where `normalization` needs them:
    from the micrographs, or from their tiles where these are not stored."""
    intensity = dataset.intensity(indices)
    if normalization != "background" or intensity.shape[-1] == 4:
        return intensity
    background = np.empty_like(intensity)
    sources, stored = dataset.samples()["source"], set(dataset.micrograph_ids())
    for source in dict.fromkeys(sources[indices]):
        if source in stored:
            stats = background_stats(dataset.micrograph(source).image)
        else:
            rows = np.flatnonzero(sources == source)
            tiles, inside = dataset.read(rows, layer=None)[0], virtual_labels(dataset, rows, UNLABELED) == 0
            stats = background_stats(np.concatenate(list(tiles), axis=1), np.concatenate(list(inside)))
        background[sources[indices] == source] = stats
    return np.concatenate([intensity, background], axis=-1)


def bytes_needed(dataset: Dataset, count: int) -> int:
    """Returns an upper estimate of the memory that `count` samples of the dataset take when resident."""
    channels, height, width = dataset.tile_shape
    return count * height * width * (4 * channels + 4)


def sample_names(dataset: Dataset, indices: np.ndarray) -> list[str]:
    """Returns "<source> tile y,x" for each sample."""
    samples = dataset.samples()
    columns = (samples[name][indices] for name in ("source", "y_px", "x_px"))
    return [f"{source} tile {y},{x}" for source, y, x in zip(*columns, strict=True)]


def require_finite(dataset: Dataset, values: np.ndarray, names: Sequence[str]) -> None:
    """Raises SegueError, naming the first sample, where values (n, C, H, W) hold NaN or infinity."""
    finite = np.isfinite(values).reshape(len(values), -1)
    bad = np.flatnonzero(~finite.all(axis=1))
    if len(bad):
        count = int((~finite[bad[0]]).sum())
        more = f", and {len(bad) - 1} more samples," if len(bad) > 1 else ""
        raise SegueError(
            f"{dataset.path}: sample {names[bad[0]]}{more} holds NaN or infinity ({count} pixels); "
            "correct the image and make the dataset again, or leave the sample out."
        )


def object_counts(source: Source, *, batch: int = 64) -> np.ndarray:
    """Returns (n, 2) int64: the background's and the objects' pixels of each sample; ignored pixels are not counted."""
    bounds = [(start, min(start + batch, len(source))) for start in range(0, len(source), batch)]
    counts = [
        torch.stack([(labels == 0).sum((1, 2)), (labels > 0).sum((1, 2))], dim=1)
        for _, labels in source.batches(np.arange(len(source)), bounds, "cpu")
    ]
    return torch.cat(counts).numpy()


def column_layer(dataset: Dataset, column: str) -> Layer:
    """Returns the layer whose classes are the values of a sample column in ascending order, numbers in their shortest
    form. Raises SegueError for an unknown column and for one that does not hold classes."""
    columns = dataset.samples()
    known = [name for name in columns if name not in LOCATION_COLUMNS]
    if column not in known:
        raise SegueError(f"{dataset.path}: {unknown(column, known, 'sample column')}.")
    values = np.unique(columns[column])
    if not 2 <= len(values) <= MAX_CLASSES or (values.dtype.kind == "f" and np.isnan(values).any()):
        raise SegueError(
            f"{dataset.path}: column '{column}' holds {len(values)} distinct values, which cannot be classes; name a "
            f"column of 2 to {MAX_CLASSES} values."
        )
    return Layer(column, "column", tuple(map(value_name, values.tolist())))


def value_name(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


def virtual_labels(dataset: Dataset, indices: np.ndarray, layer: Layer) -> np.ndarray:
    """Returns labels (n, H, W) of samples for a virtual layer: -1 in padding, elsewhere 0 (kind "images", int8), or the
    index of the sample's class in the names of the layer ("column", int16).

    Raises SegueError for a sample whose value is none of the names.
    """
    _, height, width = dataset.tile_shape
    y0, x0, y1, x1 = dataset.valid(indices).T[:, :, None, None]
    y, x = np.arange(height)[:, None], np.arange(width)
    inside = (y >= y0) & (y < y1) & (x >= x0) & (x < x1)
    if layer.kind == "images":
        return np.where(inside, np.int8(0), np.int8(IGNORED))
    class_of = {name: value for value, name in enumerate(layer.names)}
    names = [value_name(value) for value in dataset.samples()[layer.name][indices].tolist()]
    unnamed = sorted(set(names) - set(class_of))
    if unnamed:
        raise SegueError(
            f"{dataset.path}: column '{layer.name}' holds '{unnamed[0]}', which is none of {', '.join(layer.names)}; "
            "leave these samples out by a condition, or correct the column."
        )
    values = np.array([class_of[name] for name in names], dtype=np.int16)
    return np.where(inside, values[:, None, None], np.int16(IGNORED))


def has_micrographs(dataset: Dataset, indices: np.ndarray) -> bool:
    """Returns whether the dataset stores the whole images of all these samples."""
    return set(dataset.samples()["source"][indices]) <= set(dataset.micrograph_ids())


def labeled_images(dataset: Dataset, indices: np.ndarray, *, layer: str) -> list[LabeledImage]:
    """Returns images (C, H, W), as acquired, and labels (H, W) int32 of the micrographs that the samples were cut from.

    Each once, in the order of its first sample; the tiles if the dataset stores no whole images (`has_micrographs`).
    """
    sources = dataset.samples()["source"][indices]
    if not has_micrographs(dataset, indices):
        return labeled_tiles(dataset, indices, layer=layer)
    images = []
    for source in dict.fromkeys(sources):
        micrograph = dataset.micrograph(source)
        images.append((micrograph.image, np.asarray(micrograph.labels[layer], dtype=np.int32)))
    return images


def labeled_tiles(dataset: Dataset, indices: np.ndarray, *, layer: str) -> list[LabeledImage]:
    """Returns images (C, H, W) and labels (H, W) of the tiles themselves."""
    images, labels = dataset.read(indices, layer=layer)
    assert labels is not None
    return list(zip(images, labels, strict=True))
