"""Loads what a stage trains on: samples drawn by group, checked for leaks and memory, then held resident."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from segue import networks
from segue.data.dataset import Dataset
from segue.data.layers import Layer
from segue.data.source import ResidentSource, bytes_needed, concatenate
from segue.device import free_memory
from segue.errors import SegueError
from segue.training import drawing
from segue.training.drawing import Drawn
from segue.training.stage import StageSpec

Tell = Callable[[str], None]
SHARE_OF_MEMORY = 0.8  # of what is free: activations and the optimiser need room beside the data


@dataclass(frozen=True)
class Inputs:
    """Where a stage's inputs lie. datasets: name in the specification -> (path, identity), the identity being a key
    or a digest that draws depend on; parent: the folder of a finished run, or a safetensors file."""

    datasets: Mapping[str, tuple[Path, str]]
    parent: Path | None = None


@dataclass(frozen=True)
class StageData:
    """labels: how many images or groups each part spends; groups: which were trained on and validated with."""

    training: ResidentSource
    validation: ResidentSource | None
    labels: Mapping[str, int]
    groups: Mapping[str, list[str]]
    layer: Layer
    channels: tuple[str, ...]
    ancestry: str  # "known", or "unknown" where a parent does not tell which groups it was trained on


@dataclass(frozen=True)
class _Chosen:
    dataset: Dataset
    layer: Layer
    training: Drawn
    validation: Drawn | None

    @property
    def bytes(self) -> int:
        count = len(self.training.indices) + (len(self.validation.indices) if self.validation else 0)
        return bytes_needed(self.dataset, count)


def load_data(spec: StageSpec, inputs: Inputs, *, where: str, device: str, tell: Tell | None) -> StageData:
    """Returns the stage's samples in memory, on the device where they fit there.

    What they will take is said through `tell` before any is read. Raises SegueError when tiles do not fit the network
    or one another, when too few labels are there, when groups leak, and when memory does not suffice.
    """
    with ExitStack() as opened:
        chosen = [_choose(opened, item_index, spec, inputs) for item_index in range(len(spec.data))]
        _require_alike(chosen)
        _require_disjoint(chosen)
        labels = {"train": sum(c.training.labels for c in chosen)}
        labels["validation"] = sum(c.validation.labels for c in chosen if c.validation)
        told = _told_groups(inputs.parent)
        groups = _groups(chosen, told or {})
        ancestry = "known" if told is not None else "unknown"
        drawing.refuse_leaks({*groups["training"], *groups["ancestors"]}, groups["validation"], "validation", where)
        needed = sum(c.bytes for c in chosen)
        if tell is not None:
            spent = f"{labels['train']} training and {labels['validation']} validation {spec.label_unit}"
            tell(f"{spent}, held in memory: {needed / 1e6:.0f} MB")
        _require_memory(needed, where)
        training = concatenate([_resident(c, c.training, spec) for c in chosen])
        held = [_resident(c, c.validation, spec) for c in chosen if c.validation]
        validation = concatenate(held) if held else None
    if device.startswith("cuda") and needed < SHARE_OF_MEMORY / 2 * torch.cuda.mem_get_info()[0]:
        training, validation = training.to(device), None if validation is None else validation.to(device)
    return StageData(training, validation, labels, groups, chosen[0].layer, chosen[0].dataset.channels, ancestry)


def _choose(opened: ExitStack, index: int, spec: StageSpec, inputs: Inputs) -> _Chosen:
    item = spec.data[index]
    path, identity = inputs.datasets[item.dataset]
    dataset = opened.enter_context(Dataset(path))
    networks.require_fit(spec.network, dataset.tile_shape, str(path))
    layer = choose_layer(dataset, spec.target.layer)
    training = drawing.draw_training(dataset, item, spec, identity)
    validation = drawing.draw_validation(dataset, item, spec, identity) if spec.validation != 0 else None
    return _Chosen(dataset, layer, training, validation)


def _resident(chosen: _Chosen, drawn: Drawn, spec: StageSpec) -> ResidentSource:
    return ResidentSource.from_dataset(chosen.dataset, drawn.indices, layer=chosen.layer.name, normalise=spec.normalise)


def choose_layer(dataset: Dataset, wanted: str | None) -> Layer:
    """Returns the label layer a target asks for; raises SegueError where that is not one layer."""
    if wanted is None and len(dataset.layers) == 1:
        return next(iter(dataset.layers.values()))
    if wanted not in dataset.layers:
        found = ", ".join(dataset.layers) or "none"
        asked = "target.layer is not given" if wanted is None else f"target.layer is '{wanted}'"
        raise SegueError(f"{dataset.path}: {asked}, the dataset has the label layers {found}; name one of them.")
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


def _told_groups(parent: Path | None) -> dict[str, list[str]] | None:
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


def _groups(chosen: list[_Chosen], told: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Returns the groups this stage trains on and validates with, and those that its ancestors did."""
    known = {name: told.get(name, []) for name in ("training", "ancestors", "validation", "ancestors_validation")}
    return {
        "training": sorted({group for c in chosen for group in c.training.groups}),
        "validation": sorted({group for c in chosen if c.validation for group in c.validation.groups}),
        "ancestors": sorted({*known["training"], *known["ancestors"]}),
        "ancestors_validation": sorted({*known["validation"], *known["ancestors_validation"]}),
    }


def _require_memory(needed: int, where: str) -> None:
    free = free_memory()
    if free is not None and needed > SHARE_OF_MEMORY * free:
        raise SegueError(
            f"{where}: its samples need {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free; train on fewer "
            "images, run fewer workers, or use a machine with more memory."
        )
