"""What a model was trained on, and how images differ from that. Cheap to import: no torch.

Of every image and channel are measured: how much the foreground differs from the background, in units of the
background's noise; how much of that difference is towards brighter values; the share of saturated pixels; and the share
of those amid constant ones, as in a dark margin.
An image lies outside the training images where its pixel size differs from theirs by more than MAX_SIZE_FACTOR, or
where a measure lies beyond their range by more than it may (`MEASURES`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from segue.data.folders.saturation import saturation
from segue.data.normalization import AMID, FOREGROUND_SD, MIN_FOREGROUND_PX, RIM, background_of, sample_channel
from segue.units import MAX_SIZE_FACTOR

if TYPE_CHECKING:
    from segue.data.dataset import Dataset

MAX_CONTRAST_FACTOR = 2.0  # beyond the range of the training images
MAX_CONTRAST_TO_NOISE = 1000.0  # more has only a background without noise, such as zeros
MAX_MORE_SATURATED = 0.01  # of the pixels
MAX_MORE_CONSTANT = 0.5
MAX_OTHER_SIDE = 0.5  # of the foreground, brighter than the background where it is darker in training, or the reverse
MAX_TILES = 32  # of a dataset that are measured
Range = tuple[float, float]


class Acquired(Protocol):
    """What `describe_difference` needs to know of an image: pixels (C, H, W), its size of a pixel, None if unknown."""

    @property
    def image(self) -> Any: ...

    @property
    def pixel_size_nm(self) -> float | None: ...


@dataclass(frozen=True)
class TrainingSet:
    """The images that a model was trained on, or others to be compared with them.

    pixel_sizes_nm: the distinct known sizes in ascending order. measures: for each channel, name of a measure -> its
    least and greatest value among the images; without those that are undefined.
    """

    pixel_sizes_nm: tuple[float, ...] = ()
    measures: tuple[Mapping[str, Range], ...] = field(default=())

    @property
    def pixel_size_nm(self) -> float | None:
        """The size of a pixel, the median of those known; None without any, or where they differ by MAX_SIZE_FACTOR."""
        return float(np.median(self.pixel_sizes_nm)) if self.pixel_sizes_nm and not self.has_mixed_sizes else None

    @property
    def has_mixed_sizes(self) -> bool:
        sizes = self.pixel_sizes_nm
        return bool(sizes) and sizes[-1] > MAX_SIZE_FACTOR * sizes[0]

    def as_record(self) -> dict[str, Any]:
        """Returns plain values, as `from_record` reads them."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any] | None) -> TrainingSet | None:
        if record is None:
            return None
        measures = [{name: (float(low), float(high)) for name, (low, high) in m.items()} for m in record["measures"]]
        return cls(tuple(record["pixel_sizes_nm"]), tuple(measures))


class Measure(NamedTuple):
    """beyond(values, training): whether the range of images lies outside that of the training images; describe: both
    as a clause of a sentence."""

    beyond: Callable[[Range, Range], bool]
    describe: Callable[[Range, Range], str]


def _contrast_is_beyond(values: Range, training: Range) -> bool:
    return values[1] * MAX_CONTRAST_FACTOR < training[0] or values[0] > MAX_CONTRAST_FACTOR * training[1]


def _span(values: Range, unit: str = "") -> str:
    low, high = (f"{value:.3g}{unit}" for value in values)
    return low if low == high else f"{low} to {high}"


def _percent(values: Range) -> str:
    return _span((100 * values[0], 100 * values[1]), " %")


MEASURES: dict[str, Measure] = {
    "contrast_to_noise": Measure(
        _contrast_is_beyond,
        lambda values, training: (
            f"objects differ from the background by {_span(values)} times its noise, by {_span(training)} in training"
        ),
    ),
    "brighter": Measure(
        lambda values, training: values[0] > training[1] + MAX_OTHER_SIDE or values[1] < training[0] - MAX_OTHER_SIDE,
        lambda values, training: (
            f"{_percent(values)} of what differs from the background is brighter, {_percent(training)} in training"
        ),
    ),
    "saturated": Measure(
        lambda values, training: values[0] > training[1] + MAX_MORE_SATURATED,
        lambda values, training: f"{_percent(values)} of the pixels are saturated, {_percent(training)} in training",
    ),
    "constant": Measure(
        lambda values, training: values[0] > training[1] + MAX_MORE_CONSTANT,
        lambda values, training: (
            f"{_percent(values)} of the pixels lie amid constant ones, as in an empty margin, "
            f"{_percent(training)} in training"
        ),
    ),
}


def describe_difference(model: Any, acquisition: Acquired) -> list[str]:
    """Returns a sentence with numbers for everything by which an image lies outside of what the model was trained on;
    none if it lies inside, or where either is not known.

    model: a `Model`; acquisition: an image (C, H, W) in acquired units, the channels in the model's order.
    """
    training: TrainingSet | None = model.training_set
    if training is None:
        return []
    size = acquisition.pixel_size_nm
    image = TrainingSet(() if size is None else (size,), measure_image(acquisition.image))
    return differences(training, image, channels=model.channels)


def describe_differences(model: Any, images: Sequence[Any]) -> list[str]:
    """Returns the sentences of `describe_difference` for images (C, H, W) of unknown pixel size taken together, of
    which at most MAX_TILES are measured: on that by which all of them lie outside."""
    training: TrainingSet | None = model.training_set
    if training is None:
        return []
    chosen = np.linspace(0, len(images) - 1, min(MAX_TILES, len(images))).round().astype(int).tolist()
    together = merge([TrainingSet((), measure_image(images[index])) for index in chosen])
    return differences(training, together, channels=model.channels)


def differences(
    training: TrainingSet, other: TrainingSet, *, channels: Sequence[str], names: tuple[str, str] = ("", "")
) -> list[str]:
    """Returns sentences on how other images lie outside of the training images.

    names: of the other images and of those trained on, for a comparison of datasets.
    """
    beginning = f"{names[0]}: " if names[0] else ""
    source = f" of {names[1]}" if names[1] else ""
    sentences = []
    ours, theirs = other.pixel_sizes_nm, training.pixel_sizes_nm
    if ours and theirs and (ours[0] > MAX_SIZE_FACTOR * theirs[-1] or ours[-1] * MAX_SIZE_FACTOR < theirs[0]):
        factor = float(np.median(ours)) / float(np.median(theirs))
        sentences.append(
            f"{beginning}has {_span((ours[0], ours[-1]))} nm per pixel, the training images{source} "
            f"{_span((theirs[0], theirs[-1]))} nm ({max(factor, 1 / factor):.3g} times as "
            f"{'large' if factor < 1 else 'small'}); bring both to one pixel size (segue predict --rescale)."
        )
    for index, (values, known) in enumerate(zip(other.measures, training.measures, strict=False)):
        where = f"channel '{channels[index]}': " if len(channels) > 1 else ""
        for name, measure in MEASURES.items():
            if name in values and name in known and measure.beyond(values[name], known[name]):
                sentences.append(f"{beginning}{where}{measure.describe(values[name], known[name])}{source}.")
    return sentences


def mixed_sizes(sizes_nm: Iterable[float], what: str) -> list[str]:
    """Returns a sentence if images that are used together differ in pixel size by more than MAX_SIZE_FACTOR."""
    together = TrainingSet(tuple(sorted(set(sizes_nm))))
    if not together.has_mixed_sizes:
        return []
    listed = [f"{size:g}" for size in together.pixel_sizes_nm]
    listed = listed if len(listed) <= 5 else [*listed[:2], "…", *listed[-2:]]
    return [
        f"{what}: the images differ in pixel size ({', '.join(listed)} nm), so that equal objects differ in size; "
        "bring them to one pixel size, or select one by a condition (pixel_size_nm)."
    ]


# Measure


def observe(dataset: Dataset, indices: np.ndarray) -> TrainingSet:
    """Returns pixel sizes and measures of samples of a dataset: of at most MAX_TILES tiles, evenly chosen."""
    chosen = indices[np.linspace(0, len(indices) - 1, min(MAX_TILES, len(indices))).round().astype(int)]
    images, _ = dataset.read(chosen, layer=None)
    tiles = [
        image[:, y0:y1, x0:x1] for image, (y0, x0, y1, x1) in zip(images, dataset.valid(chosen).tolist(), strict=True)
    ]
    return merge([TrainingSet(pixel_sizes_nm(dataset, indices)), *(TrainingSet((), measure_image(t)) for t in tiles)])


def pixel_sizes_nm(dataset: Dataset, indices: np.ndarray) -> tuple[float, ...]:
    """Returns the distinct known pixel sizes of samples in ascending order."""
    column = dataset.samples().get("pixel_size_nm")
    values = [dataset.attributes.get("pixel_size_nm")] if column is None else column[indices]
    if not np.issubdtype(np.asarray(values).dtype, np.number):
        return ()
    sizes = np.asarray(values, np.float64)
    return tuple(np.unique(sizes[np.isfinite(sizes) & (sizes > 0)]).tolist())


def measure_image(image: Any) -> tuple[Mapping[str, Range], ...]:
    """Returns the measures of each channel of an image (C, H, W), of which only a sample is read if it is large."""
    measures = []
    for channel in range(image.shape[0]):
        values, constancy = sample_channel(image, channel)
        if not len(values):
            measures.append({})
            continue
        background = background_of(values, constancy)
        measured = {"saturated": saturation(values).share, "constant": float((constancy == AMID).mean())}
        if background.contrast < MAX_CONTRAST_TO_NOISE * background.noise:
            measured["contrast_to_noise"] = background.contrast / background.noise
        differences = values[constancy < RIM].astype(np.float64) - background.level
        foreground = differences[np.abs(differences) > FOREGROUND_SD * background.noise]
        if len(foreground) >= MIN_FOREGROUND_PX:  # each pixel weighs by its difference, as in the contrast
            measured["brighter"] = float(foreground.clip(0).sum() / np.abs(foreground).sum())
        measures.append({name: (value, value) for name, value in measured.items()})
    return tuple(measures)


def merge(parts: Sequence[TrainingSet]) -> TrainingSet:
    """Returns all images together."""
    sizes = sorted({size for part in parts for size in part.pixel_sizes_nm})
    measures: list[dict[str, Range]] = []
    for part in parts:
        measures += [{} for _ in part.measures[len(measures) :]]
        for together, values in zip(measures, part.measures, strict=False):
            for name, (low, high) in values.items():
                first, last = together.get(name, (low, high))
                together[name] = (min(first, low), max(last, high))
    return TrainingSet(tuple(sizes), tuple(measures))
