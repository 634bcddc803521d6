"""The mosaics of a plate's dataset: which well, time and part of a training each is of, and what runs predict of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segue import device
from segue.data.dataset import Dataset
from segue.data.normalization import normalised, statistics
from segue.data.splits import PARTS
from segue.data.tiling import Tiling
from segue.data.writer import Micrograph
from segue.errors import SegueError
from segue.inference.predict import CONTEXT_PX, predict, receptive_radius_px
from segue.labels import IGNORED
from segue.plates.counting.nuclei import Nuclei
from segue.plates.counting.truth import stained_nuclei
from segue.spec import unknown
from segue.targets.classes import Classes, ImageClass
from segue.targets.combined import Combined
from segue.targets.reconstruction import Reconstruction
from segue.training.run_folder import TrainedModel, load_run

NEEDED = ("plate", "well", "time", "time_h")  # attributes of a mosaic
OWN_ATTRIBUTES = (  # all others are conditions
    *(*NEEDED, "experiment", "stained"),
    *("intensity", "valid_fraction", "pixel_size_nm", "pixel_size_um", "report"),
)
HALO_PX = 128  # around a tile, for objects that reach over its border


@dataclass(frozen=True)
class Mosaic:
    """A kept micrograph of a plate's dataset, by its attributes."""

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
    """Returns the model of a run, on the machine's device; a model that is given stays where it is."""
    if isinstance(run, TrainedModel):
        return run
    model = load_run(run)
    model.network.to(device.default_device())
    return model


def _main_target(model: TrainedModel) -> Any:
    return model.target.main if isinstance(model.target, Combined) else model.target


def predicts_classes(model: TrainedModel) -> bool:
    """Returns whether the run tells the class of pixels, not which object they are of."""
    target = _main_target(model)
    return isinstance(target, Classes) and not target.instances


def require_targets(main: TrainedModel, second: TrainedModel | None) -> None:
    """Raises SegueError where nuclei cannot be counted by these runs, `second` being one of objects."""
    for model in filter(None, (main, second)):
        if isinstance(_main_target(model), ImageClass | Reconstruction):
            raise SegueError(
                f"{model.folder}: its target '{model.spec.target.name}' finds no nuclei; give a run of classes or of "
                "objects."
            )
    if second is not None and (not predicts_classes(main) or predicts_classes(second)):
        raise SegueError(
            f"{second.folder}: `objects` is a run of objects (flows, rays …) beside a run of classes; give them so."
        )


def mosaics_of(dataset: Dataset) -> list[Mosaic]:
    """Returns the mosaics of all wells and times, sorted; raises SegueError where there are none, or none of plates."""
    sources = dataset.micrograph_ids()
    if not sources:
        raise SegueError(
            f"{dataset.path}: holds no mosaics of wells; make it with keep_micrographs = true (segue plate)."
        )
    found = []
    for source in sources:
        attributes = dataset.micrograph_attributes(source)
        missing = [name for name in NEEDED if name not in attributes]
        if missing:
            raise SegueError(
                f"{dataset.path}: micrograph '{source}' has no {', '.join(missing)}; wells are counted in datasets of "
                "plates, made with `segue plate`."
            )
        plate, well = str(attributes["plate"]), str(attributes["well"])
        found.append(Mosaic(source, plate, well, int(attributes["time"]), attributes))
    return sorted(found, key=lambda mosaic: mosaic.order)


def conditions_of(mosaics: Sequence[Mosaic], *, taken: Sequence[str], where: str) -> tuple[str, ...]:
    """Returns the names of what was done to wells, by their mosaics; raises SegueError for a name that is `taken`."""
    names = {n: None for m in mosaics for n, v in m.attributes.items() if isinstance(v, str | int | float)}
    found = tuple(name for name in names if name not in OWN_ATTRIBUTES)
    clash = sorted(set(found) & set(taken))
    if clash:
        raise SegueError(f"{where}: '{clash[0]}' is a condition of its wells and a column of counts; rename it there.")
    return found


def pixel_size_um(dataset: Dataset) -> float | None:
    """Returns the side of a pixel, or None where the dataset does not tell."""
    if (size := dataset.attributes.get("pixel_size_um")) is not None:
        return float(size) or None
    size = dataset.attributes.get("pixel_size_nm")
    return float(size) / 1000 if size else None


def parts_of(dataset: Dataset, *models: TrainedModel | None) -> Callable[[str], str]:
    """Returns the part that a well had in the training of any of the runs, their ancestors included.

    "test" is a labelled well that the split leaves for testing; "unseen" one that was used in no way. A split that is
    stored in another dataset than this names no test wells.
    """
    used: dict[str, set[str]] = {part: set() for part in PARTS}
    groups = np.asarray(dataset.samples()["group"])
    for model in filter(None, models):
        try:
            known = json.loads((model.folder / "groups.json").read_text(encoding="utf-8"))
        except OSError:
            raise SegueError(
                f"{model.folder}: has no groups.json, which says on which wells it was trained; train it again."
            ) from None
        used["train"] |= {*known.get("training", ()), *known.get("ancestors", ())}
        used["validation"] |= {*known.get("validation", ()), *known.get("ancestors_validation", ())}
        split = model.spec.split
        if split.stored is None or split.stored in dataset.split_names():
            used["test"] |= set(groups[dataset.split(split) == PARTS.index("test")])
    return lambda group: next((part for part in PARTS if group in used[part]), "unseen")


@dataclass(frozen=True)
class PredictedMosaic:
    """A mosaic with what is predicted of it: classes (H, W), objects of a network of their own or None, what is not
    excluded (H, W) bool and how many pixels that is, and the labels from stains."""

    classes: np.ndarray
    objects: np.ndarray | None
    seen: np.ndarray
    seen_px: int
    labels: Mapping[str, np.ndarray]


class Reader:
    """Reads mosaics and predicts on them; how far each network looks is measured once."""

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
        """Whether a network finds the nuclei, so that they need not be divided."""
        return self.second is not None or not predicts_classes(self.main)

    def read(self, mosaic: Mosaic) -> PredictedMosaic:
        """Returns what is predicted of a mosaic, and what its stains say."""
        micrograph = self.dataset.micrograph(mosaic.source)
        seen = _not_excluded(micrograph)
        seen_px = int(np.count_nonzero(seen))
        if not micrograph.labels and "valid_fraction" in mosaic.attributes:
            seen_px = round(float(mosaic.attributes["valid_fraction"]) * seen.size)
        classes = self._predicted(self.main, micrograph, mosaic, seen)
        objects = None if self.second is None else self._predicted(self.second, micrograph, mosaic, seen)
        if not predicts_classes(self.main):
            classes, objects = (classes > 0).astype(np.int8), classes
        return PredictedMosaic(classes, objects, seen, seen_px, micrograph.labels)

    def true(self, found: PredictedMosaic) -> Nuclei | None:
        """Returns the nuclei that the stains show (`truth.stained_nuclei`), or None."""
        labels = found.labels if predicts_classes(self.main) else _without(found.labels, self.layers[0])
        return stained_nuclei(labels, self.counted, layers=self.layers, seen=found.seen)

    def _predicted(self, model: TrainedModel, micrograph: Micrograph, mosaic: Mosaic, seen: np.ndarray) -> np.ndarray:
        """Returns the prediction, 0 where nothing was seen. Intensities are normalised by what was seen alone."""
        if not seen.any():
            return np.zeros(seen.shape, np.int32)
        channels = self.dataset.channels
        for name in model.channels:
            if name not in channels:
                raise SegueError(f"{self.dataset.path}: {unknown(name, channels, 'channel')}.")
        chosen = [channels.index(name) for name in model.channels]
        image = micrograph.image[chosen]
        stored = mosaic.attributes.get("intensity")  # what its tiles are normalised by in training
        intensity = None if stored is None else np.asarray(stored, np.float32).reshape(1, len(channels), 2)[:, chosen]
        of = statistics(model.spec.normalize, image[None, :, seen][..., None], intensity)
        values = normalised(image[None], of)[0]
        values[:, ~np.isfinite(values).all(0) & ~seen] = 0
        plain = replace(model, normalization="none")
        out = np.zeros(seen.shape, np.int32)
        predict(plain, values, out=out, tiling=self._tilings[id(model)])
        return np.where(seen, out, 0)


def _without(labels: Mapping[str, np.ndarray], layer: str) -> dict[str, np.ndarray]:
    return {name: values for name, values in labels.items() if name != layer}


def _tiling(model: TrainedModel, tile_px: int) -> Tiling:
    radius = receptive_radius_px(model.network, channels=len(model.channels), divisor=model.divisor)
    return Tiling(tile_px, min(HALO_PX, tile_px), CONTEXT_PX if radius is None else radius)


def _not_excluded(micrograph: Micrograph) -> np.ndarray:
    """Returns (H, W) bool: what counts. −1 in any layer of labels is excluded; without labels, 0 in all channels.

    (Where a mosaic without labels is filled otherwise outside its tiles, its attribute valid_fraction tells the area.)
    """
    if not micrograph.labels:
        return np.asarray(micrograph.image.any(axis=0))
    seen = np.ones(micrograph.image.shape[1:], bool)
    for labels in micrograph.labels.values():
        seen &= labels != IGNORED
    return seen
