"""Mosaics of a plate's dataset: the well, time and part of a training of each, and the predictions of runs on it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segue import device
from segue.data.dataset import Dataset
from segue.data.normalization import image_statistics, intensity_stats, normalize
from segue.data.splits import PARTS
from segue.data.tiling import Tiling
from segue.data.writer import Micrograph
from segue.errors import SegueError
from segue.inference.predict import CONTEXT_PX, predict, receptive_radius_px
from segue.labels import IGNORED
from segue.plates.counting.nuclei import Nuclei
from segue.plates.counting.truth import stained_nuclei
from segue.spec import unknown
from segue.training.run_folder import RunFolder, TrainedModel, load_run

REQUIRED_ATTRIBUTES = ("plate", "well", "time", "time_h")  # of a mosaic
PLATE_ATTRIBUTES = (  # all others are conditions
    *(*REQUIRED_ATTRIBUTES, "experiment", "stained"),
    *("intensity", "valid_fraction", "pixel_size_nm", "pixel_size_um", "report"),
)
HALO_PX = 128  # around a tile, for objects that cross its border


@dataclass(frozen=True)
class Mosaic:
    """A stored micrograph of a plate's dataset, with its attributes."""

    source: str
    plate: str
    well: str
    time: int
    attributes: Mapping[str, Any]

    @property
    def group(self) -> str:
        return f"{self.plate}/{self.well}"

    @property
    def order(self) -> tuple[Any, ...]:
        return self.plate, [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", self.well)], self.time


def open_run(run: TrainedModel | Path | str) -> TrainedModel:
    """Returns the model of a run, on the default device; a given model stays on its device."""
    if isinstance(run, TrainedModel):
        return run
    model = load_run(run)
    model.network.to(device.default_device())
    return model


def predicts_classes(model: TrainedModel) -> bool:
    """Returns whether the run predicts classes of pixels, not objects."""
    return model.target.output == "classes" and not model.target.decodes_objects


def require_targets(main: TrainedModel, second: TrainedModel | None) -> None:
    """Raises SegueError if nuclei cannot be counted by these runs; `second` must predict objects."""
    for model in filter(None, (main, second)):
        if model.target.output in ("image", "image_class"):
            raise SegueError(
                f"{model.folder}: its target '{model.spec.target.name}' does not find nuclei; give a run of classes or "
                "of objects."
            )
    if second is not None and (not predicts_classes(main) or predicts_classes(second)):
        raise SegueError(
            f"{second.folder}: `objects` is a run of objects (flows, rays …), next to a run of classes; correct them."
        )


def mosaics_of(dataset: Dataset) -> list[Mosaic]:
    """Returns the mosaics of all wells and times, sorted; raises SegueError if there are none, or none of plates."""
    sources = dataset.micrograph_ids()
    if not sources:
        raise SegueError(
            f"{dataset.path}: holds no mosaics of wells; make it with keep_micrographs = true (segue plate)."
        )
    mosaics = []
    for source in sources:
        attributes = dataset.micrograph_attributes(source)
        missing = [name for name in REQUIRED_ATTRIBUTES if name not in attributes]
        if missing:
            raise SegueError(
                f"{dataset.path}: micrograph '{source}' has no {', '.join(missing)}; wells are counted in datasets of "
                "plates, made with `segue plate`."
            )
        plate, well = str(attributes["plate"]), str(attributes["well"])
        mosaics.append(Mosaic(source, plate, well, int(attributes["time"]), attributes))
    return sorted(mosaics, key=lambda mosaic: mosaic.order)


def conditions_of(mosaics: Sequence[Mosaic], *, reserved: Sequence[str], context: str) -> tuple[str, ...]:
    """Returns the names of the conditions of wells; raises SegueError for a name that is `reserved`."""
    names = {n: None for m in mosaics for n, v in m.attributes.items() if isinstance(v, str | int | float)}
    conditions = tuple(name for name in names if name not in PLATE_ATTRIBUTES)
    clash = sorted(set(conditions) & set(reserved))
    if clash:
        raise SegueError(f"{context}: '{clash[0]}' is a condition of its wells and a column of counts; rename it.")
    return conditions


def pixel_size_um(dataset: Dataset) -> float | None:
    """Returns the side of a pixel, or None if the dataset does not give it."""
    if (size := dataset.attributes.get("pixel_size_um")) is not None:
        return float(size) or None
    size = dataset.attributes.get("pixel_size_nm")
    return float(size) / 1000 if size else None


def parts_of(dataset: Dataset, *models: TrainedModel | None) -> Callable[[str], str]:
    """Returns the part that a well had in the training of any of the runs, their ancestors included.

    "test" is a labeled well in the test part of the split; "unseen" one that was not used at all. A split stored in
    another dataset gives no test wells.
    """
    used: dict[str, set[str]] = {part: set() for part in PARTS}
    groups = np.asarray(dataset.samples()["group"])
    for model in filter(None, models):
        run = RunFolder(model.folder)
        record = run.read(run.groups)
        used["train"] |= {*record.get("training", ()), *record.get("ancestors", ())}
        used["validation"] |= {*record.get("validation", ()), *record.get("ancestors_validation", ())}
        split = model.spec.split
        if split.stored is None or split.stored in dataset.split_names():
            used["test"] |= set(groups[dataset.split(split) == PARTS.index("test")])
    return lambda group: next((part for part in PARTS if group in used[part]), "unseen")


@dataclass(frozen=True)
class PredictedMosaic:
    """The prediction on a mosaic: classes (H, W), objects of a second network or None, the valid pixels (H, W) bool and
    their number; and the labels from stains."""

    classes: np.ndarray
    objects: np.ndarray | None
    valid: np.ndarray
    valid_px: int
    labels: Mapping[str, np.ndarray]


class Reader:
    """Reads mosaics and predicts on them; the receptive field of each network is measured once."""

    def __init__(
        self,
        dataset: Dataset,
        main: TrainedModel,
        second: TrainedModel | None,
        *,
        counted: Sequence[int],
        layers: tuple[str, str],
        tile_px: int,
    ) -> None:
        self.dataset, self.main, self.second, self.counted, self.layers = dataset, main, second, counted, layers
        self._tilings = {id(model): _tiling(model, tile_px) for model in filter(None, (main, second))}

    @property
    def finds_objects(self) -> bool:
        """Whether a network predicts the nuclei, so that they need not be split."""
        return self.second is not None or not predicts_classes(self.main)

    def read(self, mosaic: Mosaic) -> PredictedMosaic:
        """Returns the prediction on a mosaic, with its labels from stains."""
        micrograph = self.dataset.micrograph(mosaic.source)
        valid = _valid_mask(micrograph)
        valid_px = int(np.count_nonzero(valid))
        if not micrograph.labels and "valid_fraction" in mosaic.attributes:
            valid_px = round(float(mosaic.attributes["valid_fraction"]) * valid.size)
        classes = self._predict(self.main, micrograph, mosaic, valid)
        objects = None if self.second is None else self._predict(self.second, micrograph, mosaic, valid)
        if not predicts_classes(self.main):
            classes, objects = (classes > 0).astype(np.int8), classes
        return PredictedMosaic(classes, objects, valid, valid_px, micrograph.labels)

    def true(self, prediction: PredictedMosaic) -> Nuclei | None:
        """Returns the nuclei in the labels from stains (`truth.stained_nuclei`), or None."""
        labels = prediction.labels if predicts_classes(self.main) else _without(prediction.labels, self.layers[0])
        return stained_nuclei(labels, self.counted, layers=self.layers, valid=prediction.valid)

    def _predict(self, model: TrainedModel, micrograph: Micrograph, mosaic: Mosaic, valid: np.ndarray) -> np.ndarray:
        """Returns the prediction, 0 outside the valid pixels, by which alone intensities are normalized."""
        if not valid.any():
            return np.zeros(valid.shape, np.int32)
        channels = self.dataset.channels
        for name in model.channels:
            if name not in channels:
                raise SegueError(f"{self.dataset.path}: {unknown(name, channels, 'channel')}.")
        selected = [channels.index(name) for name in model.channels]
        image = micrograph.image[selected]
        intensity = image_statistics(image, valid)[None]
        stored = mosaic.attributes.get("intensity")  # by which its tiles are normalized in training; two of old files
        if stored is not None:
            statistics = np.asarray(stored, np.float32).reshape(1, len(channels), -1)[:, selected]
            intensity[..., : statistics.shape[-1]] = statistics
        stats = intensity_stats(model.spec.normalize, image[None, :, valid][..., None], intensity)
        values = normalize(image[None], stats)[0]
        values[:, ~np.isfinite(values).all(0) & ~valid] = 0
        plain = replace(model, normalization="none")
        out = np.zeros(valid.shape, np.int32)
        predict(plain, values, out=out, tiling=self._tilings[id(model)])
        return np.where(valid, out, 0)


def _without(labels: Mapping[str, np.ndarray], layer: str) -> dict[str, np.ndarray]:
    return {name: values for name, values in labels.items() if name != layer}


def _tiling(model: TrainedModel, tile_px: int) -> Tiling:
    radius = receptive_radius_px(model.network, channels=len(model.channels), divisor=model.divisor)
    return Tiling(tile_px, min(HALO_PX, tile_px), CONTEXT_PX if radius is None else radius)


def _valid_mask(micrograph: Micrograph) -> np.ndarray:
    """Returns (H, W) bool: False for −1 in any layer of labels; without labels, for 0 in all channels.

    (A mosaic without labels that is filled otherwise outside its tiles has its area in the attribute valid_fraction.)
    """
    if not micrograph.labels:
        return np.asarray(micrograph.image.any(axis=0))
    valid = np.ones(micrograph.image.shape[1:], bool)
    for labels in micrograph.labels.values():
        valid &= labels != IGNORED
    return valid
