"""Which labelled samples a stage trains on and validates with: split by group, then drawn in a nested order.

Where a stage's samples are while it trains: in memory where they fit below a limit, else streamed within it.

Loads what a stage trains on: samples drawn by group, checked for leaks, then held in memory or streamed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import torch

from segue import networks, rng
from segue.data import splits, streaming
from segue.data.dataset import Dataset
from segue.data.sources import (
    UNLABELLED,
    ResidentSource,
    Source,
    Taken,
    bytes_needed,
    column_layer,
    labels_of,
    object_counts,
)
from segue.data.spec import Layer, SplitSpec
from segue.data.splits import Neighbours, PartName
from segue.data.streaming import StreamedSource
from segue.device import free_memory
from segue.errors import SegueError
from segue.targets.specs import CombinedSpec, ImageClassSpec, ReconstructionSpec, Spec
from segue.training.spec import DataSpec, Range, StageSpec

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


def measure_leak(drawn: Sequence[tuple[Dataset, Drawn, Drawn | None]], spec: StageSpec) -> Leak | None:
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
    return f"WARNING: {splits.leak_words(found['split'], across)}"


SHARE_OF_MEMORY = 0.8  # of what is free: activations and the optimiser need room beside the data
VALIDATION_SHARE = 1 / 4  # of the limit at most, where not all fits


def hold(
    training: Sequence[Taken],
    validation: Sequence[Taken],
    *,
    spec: StageSpec,
    window: int | None,
    spent: str,
    where: str,
    device: str,
    tell: Callable[[str], None] | None,
) -> tuple[Source, Source | None]:
    """Returns the sources of training and of validation, None without any; says through `tell` what they will take.

    The limit is `spec.memory_gb`, but never above a share of the memory that is free. What fits together is resident,
    on the device where it fits there too. Else validation gets at most a quarter of the limit and training the rest,
    and each is streamed where it does not fit its own. Raises SegueError where even that needs more than the limit.
    """
    wanted, looked_at = _bytes(training), _bytes(validation)
    limit = memory_limit(spec)
    if limit is None or wanted + looked_at <= limit:
        if tell is not None:
            tell(f"{spent}, held in memory: {(wanted + looked_at) / 1e6:.0f} MB")
        held = [_resident(parts, spec, device, wanted + looked_at) for parts in (training, validation)]
        assert held[0] is not None
        return held[0], held[1]
    for_validation = min(looked_at, int(VALIDATION_SHARE * limit))
    for_training = limit - for_validation
    if wanted <= for_training:
        for_validation = limit - wanted
    with ExitStack() as undone:
        streamed: dict[str, StreamedSource] = {}
        for name, parts, budget in (("training", training, for_training), ("validation", validation, for_validation)):
            if _bytes(parts) > budget:
                streamed[name] = StreamedSource(parts, normalise=spec.normalise, budget_bytes=budget)
                undone.callback(streamed[name].close)
                share = VALIDATION_SHARE if name == "validation" else 1 - VALIDATION_SHARE
                enough = min(wanted + looked_at, math.ceil(streamed[name].least_bytes(spec.batch) / share))
                _require_room(streamed[name], spec.batch, budget, f"{where}: {name}", (limit, enough))
        if tell is not None:
            told = _how(streamed, spec.batch, window, looked_at)
            needed = _gb(wanted + looked_at)
            tell(f"{spent}: {needed} GB, more than the limit of {_gb(limit)} GB: {told}")
        first = streamed.get("training") or _resident(training, spec, device, wanted)
        second = streamed.get("validation") or _resident(validation, spec, device, looked_at)
        undone.pop_all()
    assert first is not None
    return first, second


def memory_limit(spec: StageSpec) -> int | None:
    """Returns how many bytes the samples may take; None where nothing is given and the system does not tell."""
    given, free = spec.memory_gb, free_memory()
    limits = [] if free is None else [int(SHARE_OF_MEMORY * free)]
    return min(limits if given is None else [*limits, int(given * 1e9)], default=None)


def _bytes(parts: Sequence[Taken]) -> int:
    return sum(bytes_needed(part.dataset, len(part.indices)) for part in parts)


def _resident(parts: Sequence[Taken], spec: StageSpec, device: str, together: int) -> ResidentSource | None:
    """Returns the samples in memory, on a GPU where what is held `together` takes less than half of its share."""
    if not parts:
        return None
    source = ResidentSource.from_parts(parts, normalise=spec.normalise)
    if device.startswith("cuda") and together < SHARE_OF_MEMORY / 2 * torch.cuda.mem_get_info()[0]:
        return source.to(device)
    return source


def _require_room(source: StreamedSource, batch: int, budget: int, where: str, of: tuple[int, int]) -> None:
    """Raises SegueError where the budget is too small; of: the limit for all samples, and one that is enough."""
    limit, enough = of
    least = source.least_bytes(batch)
    if least > budget:
        raise SegueError(
            f"{where}: even streamed, {len(source):,} samples in batches of {batch} take {_gb(least)} GB of memory "
            f"(a block of the file and batches made ahead), but of the limit of {_gb(limit)} GB only {_gb(budget)} GB "
            f"are theirs; raise memory_gb (to {_rounded_up(enough):.3g}), lower batch, run fewer "
            "workers, or use a machine with more memory."
        )


def _least_limit(for_training: int, looked_at: int) -> float:
    """Returns the memory_gb that leaves so many bytes to training."""
    return _rounded_up(min(for_training + looked_at, for_training / (1 - VALIDATION_SHARE)))


def _rounded_up(amount: float) -> float:
    """Returns GB of bytes, rounded up to three digits."""
    step = 10.0 ** (math.floor(math.log10(amount / 1e9)) - 2)
    return math.ceil(amount / 1e9 / step) * step


def _how(streamed: dict[str, StreamedSource], batch: int, window: int | None, looked_at: int) -> str:
    """Returns in words what is streamed and how; `looked_at` bytes are those of all validation samples."""
    training = streamed.get("training")
    if training is None:
        return "validation is streamed"
    too = ", validation too" if "validation" in streamed else ""
    shown = "all samples" if window is None else f"{window:,} samples"
    if training.shuffles_in_memory(window, batch):
        held = _gb(training.bytes_in_use(window, batch))
        windows = "one window of all samples" if window is None else f"windows of {shown}"
        return f"streamed in {windows}, {held} GB{too}"
    largest = training.largest_window(batch)
    remedy = f"memory_gb = {_least_limit(training.bytes_to_shuffle(window, batch), looked_at):.3g}"
    remedy += f", or shuffle = {largest}, which trains in another order" if largest else ""
    return f"streamed from random places{too}; slow, for the shuffle window of {shown} does not fit: give {remedy}"


def _gb(amount: int) -> str:
    return f"{amount / 1e9:.1f}" if amount >= 1e8 else f"{amount / 1e9:.2g}"


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
        leak = measure_leak([(c.dataset, c.training, c.validation) for c in chosen], spec)
        _tell_split(chosen, spec, leak, tell)
        blocks = _blocks(taken)
        window = streaming.resolve_window(spec.shuffle, len(blocks), bytes_needed(taken[0].dataset, 1))
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
        tell(leak_words(leak))
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
    return streaming.places([(t.dataset.path, t.indices, shape) for t, shape in zip(taken, shapes, strict=True)])


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
    training = draw_training(dataset, item, spec, identity)
    validation = draw_validation(dataset, item, spec, identity) if spec.validation != 0 else None
    return _Chosen(dataset, layer, training, validation)


def choose_layer(dataset: Dataset, target: Spec) -> Layer:
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
    return {"training": merged(training), "validation": merged(validation)}


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
    divisions = merged([own["training"], trained_on(told or {})])
    refuse_divided_leaks(divisions, own["validation"], where)
    return groups, divisions, "known" if told is not None else "unknown"
