"""Labels that no label image gives: those of images without any, and those that a sample's row tells of all its pixels.

A stage that needs no label of pixels (reconstruction, image-level classes) reads them as it reads stored ones, so that
samples of datasets with and without label layers are held, streamed, turned and counted alike.


Sources: whatever yields images and labels to the training loop.

A source numbers its samples 0 … len - 1 and reads any of them, in any order, on the device asked for. `ResidentSource`
holds them in memory; `stream.StreamedSource` reads them as they are needed, and gives the same bits.


Whole images with their labels, for what is measured on objects: a tile's border would cut them."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from segue.data.dataset import Dataset
from segue.data.normalization import intensity_stats, normalize
from segue.data.spec import Layer, NormalizeSpec
from segue.data.writer import to_smallest_int
from segue.errors import SegueError
from segue.labels import IGNORED
from segue.spec import unknown

MAX_CLASSES = 1000
LOCATION_COLUMNS = ("source", "y_px", "x_px")  # columns that tell where a sample lies, not what it is
UNLABELLED = Layer("", "images", ())


def column_layer(dataset: Dataset, column: str) -> Layer:
    """Returns the layer whose classes are the values of a sample column, in rising order; text as it is, numbers in
    their shortest form. Raises SegueError for an unknown column and for one that holds no classes."""
    columns = dataset.samples()
    known = [name for name in columns if name not in LOCATION_COLUMNS]
    if column not in known:
        raise SegueError(f"{dataset.path}: {unknown(column, known, 'sample column')}.")
    values = np.unique(columns[column])
    if not 2 <= len(values) <= MAX_CLASSES or (values.dtype.kind == "f" and np.isnan(values).any()):
        raise SegueError(
            f"{dataset.path}: column '{column}' holds {len(values)} values, which are no classes to tell apart; name a "
            f"column of 2 to {MAX_CLASSES} values."
        )
    return Layer(column, "column", tuple(map(value_name, values.tolist())))


def value_name(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)


def virtual_labels(dataset: Dataset, indices: np.ndarray, layer: Layer) -> np.ndarray:
    """Returns labels (n, H, W) of samples for a derived layer, in the smallest type: −1 in padding, elsewhere 0
    (`images`), or the number of the sample's class among the layer's names (`column`).

    Raises SegueError for a sample whose value is none of the names.
    """
    _, height, width = dataset.tile_shape
    y0, x0, y1, x1 = dataset.valid(indices).T[:, :, None, None]
    y, x = np.arange(height)[:, None], np.arange(width)
    inside = (y >= y0) & (y < y1) & (x >= x0) & (x < x1)
    if layer.kind == "images":
        return np.where(inside, np.int8(0), np.int8(IGNORED))
    number = {name: value for value, name in enumerate(layer.names)}
    found = [value_name(value) for value in dataset.samples()[layer.name][indices].tolist()]
    strange = sorted(set(found) - set(number))
    if strange:
        raise SegueError(
            f"{dataset.path}: column '{layer.name}' holds '{strange[0]}', which is none of {', '.join(layer.names)}; "
            "leave these samples out by a condition, or correct the column."
        )
    values = np.array([number[name] for name in found], dtype=np.int16)
    return np.where(inside, values[:, None, None], np.int16(IGNORED))


READ_BYTES = 64 * 2**20


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
        """Returns what to call the samples in an error: "<source> tile y,x"."""
        ...


@dataclass(frozen=True)
class DatasetSubset:
    """The samples `indices` of a dataset, in that order, with the labels of one layer."""

    dataset: Dataset
    indices: np.ndarray
    layer: Layer

    @property
    def label_dtype(self) -> np.dtype:
        """The type in which labels are held: int8 for the values of classes, else int32."""
        few = self.layer.kind != "instances" and len(self.layer.names) <= 127
        return np.dtype(np.int8 if few else np.int32)

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns images (n, C, H, W), as acquired, and labels (n, H, W) of samples of the dataset."""
        images, labels = self.dataset.read(indices, layer=self.layer.name if self.layer.stored else None)
        return images, virtual_labels(self.dataset, indices, self.layer) if labels is None else labels


@dataclass(frozen=True)
class ResidentSource:
    """Samples in memory: pixels (n, H, W, C) float32, marks (n, H, W) in the smallest type that holds the labels."""

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
        """Returns the samples of all parts, those of the first part first, normalised (`normalization.normalised`).

        Raises SegueError where the parts' tiles differ, and for NaN and infinity, naming the sample and its file.
        """
        channels, height, width = tile_shape(parts)
        count = sum(len(part.indices) for part in parts)
        pixels = np.empty((count, height, width, channels), dtype=np.float32)
        marks = np.empty(
            (count, height, width), dtype=max((part.label_dtype for part in parts), key=lambda t: t.itemsize)
        )
        step = max(1, READ_BYTES // max(1, 8 * channels * height * width))
        names: list[str] = []
        for part in parts:
            dataset, indices = part.dataset, np.asarray(part.indices, dtype=np.int64)
            own = slice(len(names), len(names) + len(indices))
            names += sample_names(dataset, indices)
            intensity = dataset.intensity(indices)
            order = np.argsort(indices, kind="stable")  # sorted, so that each compressed chunk is read once
            for start in range(0, len(order), step):
                places = order[start : start + step]
                images, labels = part.read(indices[places])
                values = normalize(images, intensity_stats(normalization, images, intensity[places]))
                require_finite(dataset, values, [names[own.start + place] for place in places])
                pixels[own.start + places] = np.moveaxis(values, 1, -1)
                marks[own.start + places] = labels
        return cls(torch.from_numpy(pixels), torch.from_numpy(to_smallest_int(marks)), tuple(names))

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, indices: Tensor, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Returns images (n, C, H, W) float32, channels-last, and labels (n, H, W) int64 on `device`."""
        place = torch.as_tensor(indices, device=self.pixels.device)
        pixels = self.pixels.index_select(0, place).to(device, non_blocking=True)
        marks = self.labels.index_select(0, place).to(device, non_blocking=True)
        return pixels.permute(0, 3, 1, 2), marks.to(torch.int64)

    def batches(
        self, samples: np.ndarray, bounds: Sequence[tuple[int, int]], device: torch.device | str
    ) -> Generator[tuple[Tensor, Tensor]]:
        """Yields images and labels of samples[start:end] for each of `bounds`; the order is copied across once."""
        whole = torch.from_numpy(np.asarray(samples, dtype=np.int64)).to(self.pixels.device)
        for start, end in bounds:
            yield self.read(whole[start:end], device)

    def names(self, indices: Sequence[int]) -> list[str]:
        return [self.sample_names[int(index)] for index in indices]

    def to(self, device: torch.device | str) -> ResidentSource:
        """Returns the same samples held on `device`, where `read` then copies nothing across."""
        return ResidentSource(self.pixels.to(device), self.labels.to(device), self.sample_names)


def tile_shape(parts: Sequence[DatasetSubset]) -> tuple[int, int, int]:
    """Returns the channels, height and width that all parts share; raises SegueError where they differ."""
    if not parts:
        raise ValueError("there are no samples to hold: no part is given")
    shapes = {part.dataset.tile_shape for part in parts}
    if len(shapes) > 1:
        shown = ", ".join(f"{c} × {h} × {w}" for c, h, w in sorted(shapes))
        raise SegueError(
            f"the tiles of the mixed domains differ ({shown}); prepare them with one tile_px and channels."
        )
    return shapes.pop()


def bytes_needed(dataset: Dataset, count: int) -> int:
    """Returns an upper estimate of the memory that `count` samples of the dataset take when resident."""
    channels, height, width = dataset.tile_shape
    return count * height * width * (4 * channels + 4)


def sample_names(dataset: Dataset, indices: np.ndarray) -> list[str]:
    """Returns "<source> tile y,x" for each sample."""
    samples = dataset.samples()
    columns = (samples[name][indices] for name in ("source", "y_px", "x_px"))
    return [f"{source} tile {y},{x}" for source, y, x in zip(*columns, strict=True)]


def object_counts(source: Source, *, batch: int = 64) -> np.ndarray:
    """Returns (n, 2) int64: the background's and the objects' pixels of each sample; ignored pixels count nowhere."""
    bounds = [(start, min(start + batch, len(source))) for start in range(0, len(source), batch)]
    found = [
        torch.stack([(labels == 0).sum((1, 2)), (labels > 0).sum((1, 2))], dim=1)
        for _, labels in source.batches(np.arange(len(source)), bounds, "cpu")
    ]
    return torch.cat(found).numpy()


def require_finite(dataset: Dataset, values: np.ndarray, names: Sequence[str]) -> None:
    """Raises SegueError, naming the first sample, where values (n, C, H, W) hold NaN or infinity."""
    finite = np.isfinite(values).reshape(len(values), -1)
    bad = np.flatnonzero(~finite.all(axis=1))
    if len(bad):
        count = int((~finite[bad[0]]).sum())
        more = f", and {len(bad) - 1} more samples," if len(bad) > 1 else ""
        raise SegueError(
            f"{dataset.path}: sample {names[bad[0]]}{more} holds NaN or infinity ({count} pixels); "
            "correct the image and make the dataset anew, or leave the sample out."
        )


LabelledImage = tuple[np.ndarray, np.ndarray]


def labelled_images(dataset: Dataset, indices: np.ndarray, *, layer: str) -> list[LabelledImage]:
    """Returns images (C, H, W), as acquired, and labels (H, W) int32 of the micrographs that the samples were cut from.

    Each once, in the order of its first sample; where the dataset keeps no whole images, its tiles.
    """
    kept = set(dataset.micrograph_ids())
    sources = dataset.samples()["source"][indices]
    if not set(sources) <= kept:
        return labelled_tiles(dataset, indices, layer=layer)
    found = []
    for source in dict.fromkeys(sources):
        micrograph = dataset.micrograph(source)
        found.append((micrograph.image, np.asarray(micrograph.labels[layer], dtype=np.int32)))
    return found


def labelled_tiles(dataset: Dataset, indices: np.ndarray, *, layer: str) -> list[LabelledImage]:
    """Returns images (C, H, W) and labels (H, W) of samples themselves."""
    images, labels = dataset.read(indices, layer=layer)
    assert labels is not None
    return list(zip(images, labels, strict=True))
