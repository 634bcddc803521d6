"""Which classes occur in which part of a stage's data, looked at before the first step of its training.

A class without any pixel in a part has undefined scores there; a training part of a single class teaches nothing, and a
validation part without what `monitor` scores selects nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from segue.data.dataset import Dataset
from segue.data.sources import virtual_labels
from segue.data.spec import Layer
from segue.data.splits import PartName
from segue.errors import SegueError
from segue.training.inputs.data import choose_layer, draw_training_subset, draw_validation_subset, part_indices
from segue.training.spec import Inputs, StageSpec

BLOCK = 32  # tiles read at once in search of objects
MEANS = ("iou_mean", "dice_mean")  # over classes but the background, which is the first


@dataclass(frozen=True)
class Presence:
    """The pixels of each class of the layer in one part, (K,) int64, or its images where these are classified.

    Of objects, counting ends with the tile in which both objects and background have occurred.
    """

    part: PartName
    layer: Layer
    counts: np.ndarray
    samples: int

    @property
    def missing(self) -> list[str]:
        return [name for name, count in zip(self.layer.names, self.counts, strict=True) if not count]

    def sentence(self, names: Sequence[str]) -> str:
        """Returns what is missing, with the counts of all classes."""
        unit = {"instances": "object", "column": "image"}.get(self.layer.kind, "pixel")
        counts = ", ".join(f"{name} {count:,}" for name, count in zip(self.layer.names, self.counts, strict=True))
        # of objects only what is missing is counted to the end
        known = f"{self.samples:,} samples" + ("" if self.layer.kind == "instances" else f": {counts}")
        return f"the {self.part} part has no {unit} of class {', '.join(map(repr, names))} ({known})"


def measure(spec: StageSpec, inputs: Inputs) -> list[Presence]:
    """Returns the classes in each part that has samples, over all data of the stage; nothing of unlabeled images."""
    totals: dict[PartName, Presence] = {}
    for item in spec.data:
        path, identity = inputs.datasets[item.dataset]
        with Dataset(path) as dataset:
            layer = choose_layer(dataset, spec.target)
            if not layer.names:
                return []
            indices = {
                "train": draw_training_subset(dataset, item, spec, identity).indices,
                "validation": np.empty(0, np.int64)
                if spec.validation == 0
                else draw_validation_subset(dataset, item, spec, identity).indices,
                "test": part_indices(dataset, item, spec, "test"),
            }
            for part in get_args(PartName):
                if not len(indices[part]):
                    continue
                before = totals.get(part, Presence(part, layer, np.zeros(len(layer.names), np.int64), 0))
                counts = before.counts + COUNTERS[layer.kind](dataset, indices[part], layer)
                totals[part] = Presence(part, layer, counts, before.samples + len(indices[part]))
    return list(totals.values())


def _count_pixels(dataset: Dataset, indices: np.ndarray, layer: Layer) -> np.ndarray:
    return dataset.class_counts(layer.name)[indices].sum(0)


def _count_images(dataset: Dataset, indices: np.ndarray, layer: Layer) -> np.ndarray:
    counts = np.zeros(len(layer.names), np.int64)
    for start in range(0, len(indices), BLOCK):
        classes = virtual_labels(dataset, indices[start : start + BLOCK], layer).max(axis=(1, 2))
        counts += np.bincount(classes[classes >= 0], minlength=len(counts))
    return counts


def _count_objects(dataset: Dataset, indices: np.ndarray, layer: Layer) -> np.ndarray:
    """Returns pixels of background and objects, counted until both have occurred."""
    counts = np.zeros(2, np.int64)
    for start in range(0, len(indices), BLOCK):
        _, labels = dataset.read(indices[start : start + BLOCK], layer=layer.name)
        assert labels is not None
        counts += [np.count_nonzero(labels == 0), np.count_nonzero(labels > 0)]
        if counts.all():
            break
    return counts


COUNTERS: dict[str, Callable[[Dataset, np.ndarray, Layer], np.ndarray]] = {
    "classes": _count_pixels,
    "column": _count_images,
    "instances": _count_objects,
}


def check(spec: StageSpec, parts: Sequence[Presence], *, context: str, log: Callable[[str], None]) -> None:
    """Logs a warning for each part without a class; raises SegueError where nothing can be learned or selected."""
    for present in parts:
        missing = present.missing
        if not missing:
            continue
        sentence = present.sentence(missing)
        labeled = len(present.counts) - len(missing)
        if present.part == "train" and labeled < 2:
            raise SegueError(
                f"{context}: {sentence}, so that nothing can be learned; label some, or change the split, the "
                "conditions or the number of images."
            )
        undefined = [name for name in spec.monitors if present.part == "validation" and _is_undefined(name, present)]
        if undefined:
            raise SegueError(
                f"{context}: {sentence}, so that {', '.join(undefined)} is undefined there and can select, schedule or "
                "stop nothing; change the split or the conditions, monitor another score, or a loss."
            )
        effect = "cannot be learned" if present.part == "train" else "is not scored there"
        log(f"WARNING: {sentence}; it {effect}")


def _is_undefined(monitor: str, present: Presence) -> bool:
    """Returns whether a column of the history cannot be defined on a validation part with these counts."""
    score = monitor.removeprefix("validation_")
    if score == monitor:
        return False
    if not present.counts.any():
        return True
    if score in MEANS and present.layer.kind != "column":
        return not present.counts[1:].any()
    return any(score.endswith(f"_{name}") for name in present.missing)
