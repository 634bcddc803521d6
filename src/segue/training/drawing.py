"""Which labelled samples a stage trains on and validates with: split by group, then drawn in a nested order."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from segue import rng
from segue.data import division as divisions
from segue.data.dataset import Dataset
from segue.data.division import Neighbours
from segue.data.split import PartName, SplitSpec
from segue.errors import SegueError
from segue.training.stage import DataSpec, Range, StageSpec

Divided = Mapping[str, Collection[str]]  # division (`division.division`, "" where groups are whole) -> groups


class Leak(TypedDict):
    """What a split that tears groups lets through: by what it divides, the pairs of neighbouring tiles across the
    border, and how many of the validation tiles have a neighbour that is trained on."""

    split: str
    neighbouring_pairs: int
    validation_tiles: int
    validation_tiles_near: int


@dataclass(frozen=True)
class Drawn:
    """Sorted indices into a dataset, the groups they come from, and how many labels they count for."""

    indices: np.ndarray
    groups: frozenset[str]
    labels: int


def plain_conditions(item: DataSpec) -> dict[str, object]:
    return {
        name: value.model_dump(exclude_none=True) if isinstance(value, Range) else value
        for name, value in item.conditions.items()
    }


def part_indices(dataset: Dataset, item: DataSpec, spec: StageSpec, part: PartName) -> np.ndarray:
    """Returns the sorted indices of the samples that meet the item's conditions and lie in a part of the split."""
    selected = dataset.select(plain_conditions(item))
    return selected[dataset.split(spec.split)[selected] == ("train", "validation", "test").index(part)]


def draw_training(dataset: Dataset, item: DataSpec, spec: StageSpec, identity: str) -> Drawn:
    """Returns the training samples of an item; `identity` is the dataset's key, so that domains draw independently.

    Subsets are nested: of one domain and draw index, the 64 images are among the 128. Raises SegueError when the
    training part holds fewer than asked for.
    """
    available = part_indices(dataset, item, spec, "train")
    counting = "groups" if item.groups is not None else "images"
    wanted = item.groups if item.groups is not None else item.images
    return _draw(dataset, available, "all" if wanted is None else wanted, (spec, item, identity, "train", counting))


def draw_validation(dataset: Dataset, item: DataSpec, spec: StageSpec, identity: str) -> Drawn:
    """Returns the validation samples of an item: all, or as many as `spec.validation` says."""
    available = part_indices(dataset, item, spec, "validation")
    return _draw(dataset, available, spec.validation, (spec, item, identity, "validation", spec.label_unit))


def _draw(
    dataset: Dataset, available: np.ndarray, wanted: int | str, purpose: tuple[StageSpec, DataSpec, str, PartName, str]
) -> Drawn:
    spec, item, identity, part, counting = purpose
    groups = dataset.samples()["group"][available]
    units = list(dict.fromkeys(groups)) if counting == "groups" else _sample_names(groups)
    if not units or (wanted != "all" and int(wanted) > len(units)):
        raise SegueError(
            f"{dataset.path}: the {part} part of {_domain(item)} holds {len(units)} {counting}, but the stage wants "
            f"{'at least one' if wanted == 'all' else wanted}; {'lower the number, or ' if units else ''}"
            f"{_other_split(dataset, spec.split)}."
        )
    if wanted == "all":
        return Drawn(available, frozenset(groups), len(units))
    domain = json.dumps(plain_conditions(item), sort_keys=True)
    order = sorted(
        range(len(units)), key=lambda i: rng.derive(spec.seed, "draw", spec.draw, identity, domain, part, units[i])
    )
    chosen = order[: int(wanted)]
    if counting == "groups":
        kept = {units[i] for i in chosen}
        indices = available[[group in kept for group in groups]]
    else:
        indices = np.sort(available[chosen])
    return Drawn(indices, frozenset(dataset.samples()["group"][indices]), len(chosen))


def _other_split(dataset: Dataset, split: SplitSpec) -> str:
    """Returns what to do about a part that is too small, with how the split that is used was made."""
    made = dataset.origin(split)
    if made.stored is not None:
        return f"use another split: {made.words} was given with the data"
    how = f"validation {made.validation:g}, test {made.test:g}, seed {made.seed}, by {made.words}"
    if split.stored is None:
        return f"change the split's seed or fractions ({how})"
    return (
        f"use another split: give seed, validation and test instead of {split.words} ({how}), or make the dataset anew "
        "with others"
    )


def _sample_names(groups: Iterable[str]) -> list[str]:
    """Returns a name per sample: its group and its number within the group."""
    seen: dict[str, int] = {}
    names = []
    for group in groups:
        seen[group] = seen.get(group, -1) + 1
        names.append(f"{group}#{seen[group]}")
    return names


def _domain(item: DataSpec) -> str:
    told = ", ".join(f"{name} = {value}" for name, value in plain_conditions(item).items())
    return f"({told})" if told else "the dataset"


def refuse_leaks(training: Collection[str], held_out: Collection[str], part: PartName, where: str) -> None:
    """Raises SegueError when held-out groups occur among the training groups of a stage or of its ancestors."""
    shared = sorted(set(training) & set(held_out))
    if shared:
        raise SegueError(
            f"{where}: {len(shared)} of its {part} groups were trained on, by it or by a stage it descends from (first "
            f"'{shared[0]}'); give all stages the same split (by, seed and fractions)."
        )


def refuse_divided_leaks(training: Divided, validation: Divided, where: str) -> None:
    """Raises SegueError when validation samples may have been trained on, by a stage or by its ancestors.

    Whole groups must not occur among the groups trained on in any way. Torn ones may, where they were torn by the same
    division, which puts each sample on one side: that their neighbours were trained on is what `leak` tells.
    """
    for held, groups in validation.items():
        others = {group for division, found in training.items() if not held or division != held for group in found}
        refuse_leaks(others, groups, "validation", where)


def merged(parts: Iterable[Divided]) -> dict[str, list[str]]:
    """Returns the groups of all parts by division, sorted."""
    found: dict[str, set[str]] = {}
    for part in parts:
        for division, groups in part.items():
            found.setdefault(division, set()).update(groups)
    return {division: sorted(groups) for division, groups in sorted(found.items())}


def trained_on(told: Mapping[str, Any]) -> dict[str, list[str]]:
    """Returns by division the groups that a run and its ancestors trained on, from its groups.json."""
    return told.get("divisions") or {"": sorted({*told.get("training", ()), *told.get("ancestors", ())})}


def leak(drawn: Sequence[tuple[Dataset, Drawn, Drawn | None]], spec: StageSpec) -> Leak | None:
    """Returns what the stage's split lets through between the samples drawn for training and for validation.

    drawn: the dataset, training and validation samples of each item. None where groups are whole or nothing validates.
    """
    by_file: dict[Path, list[tuple[Dataset, Drawn, Drawn]]] = {}
    for dataset, training, validation in drawn:
        if validation is not None and dataset.origin(spec.split).tears_groups:
            by_file.setdefault(dataset.path.resolve(), []).append((dataset, training, validation))
    if not by_file:
        return None
    found = []
    for items in by_file.values():
        training = np.unique(np.concatenate([one.indices for _, one, _ in items]))
        validation = np.unique(np.concatenate([one.indices for _, _, one in items]))
        found.append(items[0][0].neighbours(training, validation))
    return {
        "split": next(iter(by_file.values()))[0][0].origin(spec.split).words,
        "neighbouring_pairs": sum(one.pairs for one in found),
        "validation_tiles": sum(one.validation for one in found),
        "validation_tiles_near": sum(one.near for one in found),
    }


def leak_words(found: Leak) -> str:
    """Returns the warning of a split that tears groups."""
    across = Neighbours(found["neighbouring_pairs"], found["validation_tiles"], found["validation_tiles_near"])
    return f"WARNING: {divisions.leak_words(found['split'], across)}"
