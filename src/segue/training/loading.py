"""Loads what a stage trains on: samples drawn by group, checked for leaks, then held in memory or streamed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segue import networks, targets
from segue.data import order
from segue.data.dataset import Dataset
from segue.data.derived import UNLABELLED, column_layer, labels_of
from segue.data.layers import Layer
from segue.data.source import Source, Taken, bytes_needed, object_counts
from segue.data.split import SplitSpec
from segue.data.stream import StreamedSource
from segue.errors import SegueError
from segue.targets.combined_spec import CombinedSpec
from segue.targets.image_class_spec import ImageClassSpec
from segue.targets.reconstruction_spec import ReconstructionSpec
from segue.training import drawing
from segue.training.drawing import Drawn, Leak
from segue.training.holding import hold
from segue.training.stage import StageSpec

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Inputs:
    """Where a stage's inputs lie. datasets: name in the specification -> (path, identity), the identity being a key
    or a digest that draws depend on; parent: the folder of a finished run, or a safetensors file."""

    datasets: Mapping[str, tuple[Path, str]]
    parent: Path | None = None


@dataclass(frozen=True)
class StageData:
    """labels: how many images or groups each part spends; groups: which were trained on and validated with.

    own: "training" and "validation" -> the stage's own groups by division (`drawing.Divided`); divisions: those trained
    on, by ancestors too; leak: what the split lets through, None where it tears no groups.
    blocks (n,) and window say in what order an epoch may visit the training samples (`order.order`): they are the same
    whether these are resident or streamed. Close it after use.
    """

    training: Source
    validation: Source | None
    labels: Mapping[str, int]
    groups: Mapping[str, list[str]]
    layer: Layer
    channels: tuple[str, ...]
    ancestry: str  # "known", or "unknown" where a parent does not tell which groups it was trained on
    blocks: np.ndarray
    window: int | None
    counting: Callable[[], np.ndarray]
    own: Mapping[str, Mapping[str, list[str]]]
    divisions: Mapping[str, list[str]]
    leak: Leak | None

    @property
    def told_groups(self) -> dict[str, Any]:
        """What groups.json tells: `groups`, and `divisions` where any of them were torn."""
        return {**self.groups, **({"divisions": dict(self.divisions)} if set(self.divisions) - {""} else {})}

    def sample_counts(self) -> np.ndarray:
        """Returns (n, K) int64: the pixels of each class in each training sample, ignored ones nowhere.

        Of a layer of classes they are stored in the dataset; objects are counted, which reads the labels once.
        """
        return self.counting()

    def class_counts(self) -> tuple[int, ...]:
        """Returns the pixels of each class over all training samples."""
        return tuple(self.counting().sum(0).tolist())

    def close(self) -> None:
        """Closes the files of streamed samples; resident ones stay."""
        for source in (self.training, self.validation):
            if isinstance(source, StreamedSource):
                source.close()


@dataclass(frozen=True)
class _Chosen:
    dataset: Dataset
    layer: Layer
    training: Drawn
    validation: Drawn | None


def load_data(spec: StageSpec, inputs: Inputs, *, where: str, device: str, tell: Tell | None) -> StageData:
    """Returns the stage's samples, in memory or streamed, and the order in which they may be visited.

    What they will take is said through `tell` before any is read. Raises SegueError when tiles do not fit the network
    or one another, when too few labels are there, when groups leak, and when memory does not suffice.
    """
    with ExitStack() as opened:
        chosen = [_choose(opened, item_index, spec, inputs) for item_index in range(len(spec.data))]
        _require_alike(chosen)
        _require_disjoint(chosen)
        labels = {"train": sum(c.training.labels for c in chosen)}
        labels["validation"] = sum(c.validation.labels for c in chosen if c.validation)
        own = _divided(chosen, spec.split)
        groups, divisions, ancestry = _with_ancestors(own, inputs.parent, where)
        taken = [_taken(c, c.training) for c in chosen]
        looked_at = [_taken(c, c.validation) for c in chosen if c.validation]
        leak = drawing.leak([(c.dataset, c.training, c.validation) for c in chosen], spec)
        _tell_split(chosen, spec, leak, tell)
        blocks = _blocks(taken)
        window = order.resolve_window(spec.shuffle, len(blocks), bytes_needed(taken[0].dataset, 1))
        spent = f"{labels['train']:,} training and {labels['validation']:,} validation {spec.label_unit}"
        training, validation = hold(
            taken, looked_at, spec=spec, window=window, spent=spent, where=where, device=device, tell=tell
        )
        counting = _counting(training, taken, tell)
    first = chosen[0]
    channels = first.dataset.channels
    return StageData(
        training, validation, labels, groups, first.layer, channels, ancestry, blocks, window, cache(counting), own,
        divisions, leak,
    )  # fmt: skip


def _tell_split(chosen: list[_Chosen], spec: StageSpec, leak: Leak | None, tell: Tell | None) -> None:
    """Says how samples are divided, what that lets through, and where a dataset has a split of its own, not used."""
    split = spec.split
    if tell is None:
        return
    if leak is not None:
        tell(drawing.leak_words(leak))
    if split.stored is not None:
        return
    own = sorted({name for c in chosen for name in c.dataset.split_names() if not _is_same(c.dataset, name, split)})
    tell(
        f"split by {split.words}: {100 * split.test:.3g}% test{'' if split.by == 'group' else ' by group'}, "
        f"{100 * split.validation:.3g}% validation, seed {split.seed}"
        + (f'; not the split stored in the dataset (split = {{ stored = "{own[0]}" }})' if own else "")
    )


def _is_same(dataset: Dataset, stored: str, split: SplitSpec) -> bool:
    return np.array_equal(dataset.split(SplitSpec(stored=stored)), dataset.split(split))


def _taken(chosen: _Chosen, drawn: Drawn) -> Taken:
    return Taken(chosen.dataset, drawn.indices, chosen.layer)


def _blocks(taken: list[Taken]) -> np.ndarray:
    shapes = [(t.dataset.count, *t.dataset.tile_shape[1:]) for t in taken]
    return order.places([(t.dataset.path, t.indices, shape) for t, shape in zip(taken, shapes, strict=True)])


def _counting(training: Source, taken: list[Taken], tell: Tell | None) -> Callable[[], np.ndarray]:
    """Returns what counts the pixels of each class in each sample when it is asked to."""
    parts = [(t.dataset.path, t.indices, t.layer) for t in taken]

    def count() -> np.ndarray:
        if parts[0][2].kind == "instances":
            if tell is not None and isinstance(training, StreamedSource):
                tell(f"counting the pixels of objects in {len(training):,} samples")
            return object_counts(training)
        found = []
        for path, indices, layer in parts:
            with Dataset(path) as dataset:
                if layer.kind == "column":
                    own = labels_of(dataset, indices, layer).max(axis=(1, 2))
                    found.append(np.eye(len(layer.names), dtype=np.int64)[own])
                else:
                    found.append(dataset.class_counts(layer.name)[indices])
        return np.concatenate(found)

    return count


def _choose(opened: ExitStack, index: int, spec: StageSpec, inputs: Inputs) -> _Chosen:
    item = spec.data[index]
    path, identity = inputs.datasets[item.dataset]
    dataset = opened.enter_context(Dataset(path))
    networks.require_fit(spec.network, dataset.tile_shape, str(path))
    layer = choose_layer(dataset, spec.target)
    training = drawing.draw_training(dataset, item, spec, identity)
    validation = drawing.draw_validation(dataset, item, spec, identity) if spec.validation != 0 else None
    return _Chosen(dataset, layer, training, validation)


def choose_layer(dataset: Dataset, target: targets.Spec) -> Layer:
    """Returns the label layer a target asks for, or the derived one; raises SegueError where that is not one layer.

    Without a name it is the only layer, or the only one of the target's own kind: classes, or for others instances.
    """
    if isinstance(target, ReconstructionSpec):
        return UNLABELLED
    if isinstance(target, ImageClassSpec):
        return column_layer(dataset, target.column)
    wanted = target.layer
    asked = (
        (target.main, *(part.target for part in target.auxiliary)) if isinstance(target, CombinedSpec) else (target,)
    )
    fitting = "classes" if all(one.name == "classes" for one in asked) else "instances"
    for candidates in (list(dataset.layers.values()), [x for x in dataset.layers.values() if x.kind == fitting]):
        if wanted is None and len(candidates) == 1:
            return candidates[0]
    if wanted not in dataset.layers:
        found = ", ".join(dataset.layers) or "none"
        told = "target.layer is not given" if wanted is None else f"target.layer is '{wanted}'"
        raise SegueError(f"{dataset.path}: {told}, the dataset has the label layers {found}; name one of them.")
    return dataset.layers[wanted]


def _require_alike(chosen: list[_Chosen]) -> None:
    first, *others = chosen
    for other in others:
        kinds = [(c.dataset.tile_shape, c.dataset.channels, c.layer.names, c.layer.kind) for c in (first, other)]
        if kinds[0] != kinds[1]:
            raise SegueError(
                f"{other.dataset.path} and {first.dataset.path} cannot be used together: tiles, channels, classes and "
                f"kind of labels are {kinds[1]} and {kinds[0]}; make them alike."
            )


def _require_disjoint(chosen: list[_Chosen]) -> None:
    """Raises SegueError when two items of the same dataset take the same samples: labels would count twice."""
    seen: dict[Path, set[int]] = {}
    for item in chosen:
        taken = seen.setdefault(item.dataset.path.resolve(), set())
        both = taken & set(item.training.indices.tolist())
        if both:
            raise SegueError(
                f"{item.dataset.path}: {len(both)} samples are drawn by two items of the stage's data; make their "
                "conditions exclude each other."
            )
        taken |= set(item.training.indices.tolist())


def _told_groups(parent: Path | None) -> dict[str, Any] | None:
    """Returns the groups that a parent and its ancestors used; None where it does not tell, as a bare file of weights.

    A run's weights given as a file are still the run's: its groups lie beside them.
    """
    if parent is None:
        return {}
    file = (parent if parent.is_dir() else parent.parent) / "groups.json"
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def with_parent(data: StageData, parent: Path | None, *, where: str) -> StageData:
    """Returns the same data as a stage sees them that descends from `parent`; raises SegueError where groups leak."""
    groups, divisions, ancestry = _with_ancestors(data.own, parent, where)
    return replace(data, groups=groups, divisions=divisions, ancestry=ancestry)


def _divided(chosen: list[_Chosen], split: SplitSpec) -> dict[str, dict[str, list[str]]]:
    """Returns by division the groups this stage trains on and validates with."""
    divisions = [c.dataset.division(split) for c in chosen]
    training = [{division: c.training.groups} for division, c in zip(divisions, chosen, strict=True)]
    validation = [{d: c.validation.groups} for d, c in zip(divisions, chosen, strict=True) if c.validation]
    return {"training": drawing.merged(training), "validation": drawing.merged(validation)}


def _with_ancestors(
    own: Mapping[str, Mapping[str, list[str]]], parent: Path | None, where: str
) -> tuple[dict[str, list[str]], dict[str, list[str]], Literal["known", "unknown"]]:
    """Adds the groups that a parent and its ancestors used; raises SegueError where they leak.

    Returns the groups, those trained on by division, and whether the parent tells.
    """
    told = _told_groups(parent)
    known = {
        name: (told or {}).get(name, []) for name in ("training", "ancestors", "validation", "ancestors_validation")
    }
    groups = {
        "training": sorted({group for found in own["training"].values() for group in found}),
        "validation": sorted({group for found in own["validation"].values() for group in found}),
        "ancestors": sorted({*known["training"], *known["ancestors"]}),
        "ancestors_validation": sorted({*known["validation"], *known["ancestors_validation"]}),
    }
    divisions = drawing.merged([own["training"], drawing.trained_on(told or {})])
    drawing.refuse_divided_leaks(divisions, own["validation"], where)
    return groups, divisions, "known" if told is not None else "unknown"
