"""The samples of a stage: a subset of the labeled samples, checked for leakage, in memory or streamed.

select      the samples that meet the conditions, of the training and the validation part of the split
draw        as many of them as requested, in a nested random order (`Subset`)
check       datasets used together are alike, samples are drawn once, and no group leaks into validation
load        in memory where they fit below the limit, otherwise streamed within it (`make_sources`)
"""

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
from segue.data import resident, splits, streaming
from segue.data.dataset import Dataset
from segue.data.sources import (
    UNLABELED,
    DatasetSubset,
    ResidentSource,
    Source,
    bytes_needed,
    column_layer,
    object_counts,
    virtual_labels,
)
from segue.data.spec import NOT_STATED, Layer, SplitSpec
from segue.data.splits import Neighbors, PartName
from segue.data.streaming import StreamedSource
from segue.device import free_memory
from segue.errors import SegueError
from segue.hrtem.rendering import Renderer
from segue.inference import domain
from segue.inference.domain import TrainingSet
from segue.targets.specs import Spec
from segue.training.run_folder import RunFolder
from segue.training.spec import DataSpec, Inputs, Range, StageSpec

MEMORY_FRACTION = 0.8  # of free memory: activations and the optimizer need room beside the data
VALIDATION_FRACTION = 1 / 4  # of the limit at most, where not everything fits
Log = Callable[[str], None]
GroupsBySplit = Mapping[str, Collection[str]]  # `Dataset.split_id` ("" where groups are whole) -> groups


class Leak(TypedDict):
    """The leakage of a split: its description, the pairs of neighboring tiles across the border, and the number of
    validation tiles with a neighbor that is trained on."""

    split: str
    neighbouring_pairs: int
    validation_tiles: int
    validation_tiles_near: int


@dataclass(frozen=True)
class Subset:
    """Sorted indices into a dataset, the groups they come from, and how many labels they count for."""

    indices: np.ndarray
    groups: frozenset[str]
    labels: int


@dataclass(frozen=True)
class StageData:
    """The samples of a stage, with their recorded properties. Close it after use.

    label_counts: how many images or groups each part spends. chunk_ids (n,) and window determine in what order an epoch
    may visit the training samples (`streaming.epoch_order`); they are the same whether these are resident or streamed.
    stage_groups: "training" and "validation" -> the stage's own groups by split; pictures: hashes of its micrographs,
    as far as the datasets have them; licenses: of its datasets; groups: the groups over all splits, the pictures and
    the licenses, with the ancestors';
    splits_used: the groups trained on by split, also by ancestors; ancestry: "unknown" where a parent does not record
    which groups it was trained on. leak: None where the split leaks no groups. training_set: pixel sizes and statistics
    of the images trained on. renderer: renders the training images, in place of those of `training`; None where they
    are used as stored.
    """

    training: Source
    validation: Source | None
    label_counts: Mapping[str, int]
    layer: Layer
    channels: tuple[str, ...]
    chunk_ids: np.ndarray
    window: int | None
    count_classes: Callable[[], np.ndarray]
    stage_groups: Mapping[str, Mapping[str, list[str]]]
    pictures: Sequence[str]
    licenses: Sequence[str]
    groups: Mapping[str, list[str]]
    splits_used: Mapping[str, list[str]]
    ancestry: Literal["known", "unknown"]
    leak: Leak | None
    training_set: TrainingSet
    renderer: Renderer | None = None

    @property
    def groups_record(self) -> dict[str, Any]:
        """The content of groups.json: `groups`, and `divisions` by split where any split leaks groups."""
        return {**self.groups, **({"divisions": dict(self.splits_used)} if set(self.splits_used) - {""} else {})}

    def sample_counts(self) -> np.ndarray:
        """Returns (n, K) int64: the pixels of each class in each training sample, without ignored ones.

        For a layer of classes they are stored in the dataset; objects are counted, which reads the labels once.
        """
        return self.count_classes()

    def class_counts(self) -> tuple[int, ...]:
        """Returns the pixels of each class over all training samples."""
        return tuple(self.count_classes().sum(0).tolist())

    def close(self) -> None:
        """Closes the files of streamed samples; resident ones stay."""
        for source in (self.training, self.validation):
            if isinstance(source, StreamedSource):
                source.close()


@dataclass(frozen=True)
class _Selection:
    """The samples of one item of a stage's data."""

    dataset: Dataset
    layer: Layer
    training: Subset
    validation: Subset | None

    def read_from(self, subset: Subset) -> DatasetSubset:
        return DatasetSubset(self.dataset, subset.indices, self.layer)


def load_data(spec: StageSpec, inputs: Inputs, *, context: str, device: str, log: Log) -> StageData:
    """Returns the stage's samples, in memory or streamed, and the order in which they may be visited.

    `log` receives how they are split and what memory they will take, before any is read. Raises SegueError when tiles
    do not fit the network or one another, labels are too few, groups leak, or memory is too small.
    """
    with ExitStack() as opened:
        # select and draw
        selections = [_select(opened, item, spec, inputs) for item in spec.data]
        training = [selection.read_from(selection.training) for selection in selections]
        validation = [selection.read_from(s) for selection in selections if (s := selection.validation) is not None]
        label_counts = {
            "train": sum(selection.training.labels for selection in selections),
            "validation": sum(selection.validation.labels for selection in selections if selection.validation),
        }

        # check
        _require_alike(selections)
        _require_disjoint(selections)
        stage_groups = _groups_by_split(selections, spec.split)
        pictures = sorted({picture for selection in selections for picture in _pictures(selection)})
        licenses = sorted({selection.dataset.license for selection in selections})
        groups, splits_used, ancestry = _with_ancestors(stage_groups, pictures, licenses, inputs.parent, context)
        leak = measure_leak([(s.dataset, s.training, s.validation) for s in selections], spec)
        if leak is not None:
            log(leak_message(leak))
        if spec.split.stored is None:
            log(_split_message([selection.dataset for selection in selections], spec.split))

        # observe
        training_set = domain.merge([domain.observe(part.dataset, part.indices) for part in training])
        paths = " and ".join(dict.fromkeys(str(part.dataset.path) for part in training))
        for sentence in domain.mixed_sizes(training_set.pixel_sizes_nm, paths):
            log(f"WARNING: {sentence}")

        # load
        chunk_ids = streaming.chunk_ids(
            [(s.dataset.path, s.indices, (s.dataset.count, *s.dataset.tile_shape[1:])) for s in training]
        )
        window = streaming.resolve_window(spec.shuffle_window, len(chunk_ids), bytes_needed(training[0].dataset, 1))
        training_source, validation_source = make_sources(
            training, validation, spec=spec, window=window, context=context, device=device, log=log,
            title=f"{label_counts['train']:,} training and {label_counts['validation']:,} validation {spec.label_unit}",
        )  # fmt: skip
        count_classes = _class_counter(training_source, training, log)
        renderer = None
        if spec.render is not None:
            renderer = Renderer.from_parts(
                training, spec.render, normalization=spec.normalize, seed=spec.seed, device=device,
                memory_limit=None if spec.memory_gb is None else int(spec.memory_gb * 1e9),
            )  # fmt: skip
            log(renderer.describe())
    return StageData(
        training=training_source,
        validation=validation_source,
        label_counts=label_counts,
        layer=selections[0].layer,
        channels=selections[0].dataset.channels,
        chunk_ids=chunk_ids,
        window=window,
        count_classes=cache(count_classes),
        stage_groups=stage_groups,
        pictures=pictures,
        licenses=licenses,
        groups=groups,
        splits_used=splits_used,
        ancestry=ancestry,
        leak=leak,
        training_set=training_set,
        renderer=renderer,
    )


def with_parent(data: StageData, parent: Path | None, *, context: str) -> StageData:
    """Returns the same data for a stage that starts from `parent`; raises SegueError where groups leak."""
    groups, splits_used, ancestry = _with_ancestors(data.stage_groups, data.pictures, data.licenses, parent, context)
    return replace(data, groups=groups, splits_used=splits_used, ancestry=ancestry)


# Select and draw


def _select(opened: ExitStack, item: DataSpec, spec: StageSpec, inputs: Inputs) -> _Selection:
    path, identity = inputs.datasets[item.dataset]
    dataset = opened.enter_context(Dataset(path))
    networks.require_fit(spec.network, dataset.tile_shape, str(path))
    layer = choose_layer(dataset, spec.target)
    training = draw_training_subset(dataset, item, spec, identity)
    validation = draw_validation_subset(dataset, item, spec, identity) if spec.validation != 0 else None
    return _Selection(dataset, layer, training, validation)


def choose_layer(dataset: Dataset, target: Spec) -> Layer:
    """Returns the label layer a target needs, or the derived one; raises SegueError if that is not exactly one layer.

    Without a name it is the only layer, or the only one of the target's kind: classes, or for other targets instances.
    """
    if target.label_kind == "none":
        return UNLABELED
    if target.label_column is not None:
        return column_layer(dataset, target.label_column)
    if target.layer in dataset.layers:
        return dataset.layers[target.layer]
    if target.layer is None:
        layers = list(dataset.layers.values())
        for candidates in (layers, [x for x in layers if x.kind == target.label_kind]):
            if len(candidates) == 1:
                return candidates[0]
    setting = "target.layer is not given" if target.layer is None else f"target.layer is '{target.layer}'"
    names = ", ".join(dataset.layers) or "none"
    raise SegueError(f"{dataset.path}: {setting}, the dataset has the label layers {names}; name one of them.")


def plain_conditions(item: DataSpec) -> dict[str, object]:
    """Returns the item's conditions as plain values and tables."""
    return {
        name: value.model_dump(exclude_none=True) if isinstance(value, Range) else value
        for name, value in item.conditions.items()
    }


def part_indices(dataset: Dataset, item: DataSpec, spec: StageSpec, part: PartName) -> np.ndarray:
    """Returns the sorted indices of the samples that meet the item's conditions and are in a part of the split."""
    selected = dataset.select(plain_conditions(item))
    return selected[dataset.split(spec.split)[selected] == ("train", "validation", "test").index(part)]


def draw_training_subset(dataset: Dataset, item: DataSpec, spec: StageSpec, identity: str) -> Subset:
    """Returns the training samples of an item; `identity` is the dataset's key, so that domains draw independently.

    Subsets are nested: of one domain and draw index, the 64 images are among the 128. Raises SegueError when the
    training part holds fewer than requested.
    """
    unit = "groups" if item.groups is not None else "images"
    count = item.groups if item.groups is not None else item.images
    return _draw(
        dataset, item, spec, part="train", identity=identity, unit=unit, count="all" if count is None else count
    )


def draw_validation_subset(dataset: Dataset, item: DataSpec, spec: StageSpec, identity: str) -> Subset:
    """Returns the validation samples of an item: all, or the number `spec.validation`."""
    return _draw(
        dataset, item, spec, part="validation", identity=identity, unit=spec.label_unit, count=spec.validation
    )  # fmt: skip


def _draw(
    dataset: Dataset, item: DataSpec, spec: StageSpec, *, part: PartName, identity: str, unit: str, count: int | str
) -> Subset:
    available = part_indices(dataset, item, spec, part)
    groups = dataset.samples()["group"][available]
    names = list(dict.fromkeys(groups)) if unit == "groups" else _sample_names(groups)
    if not names or (count != "all" and int(count) > len(names)):
        raise SegueError(
            f"{dataset.path}: the {part} part of {_domain_name(item)} holds {len(names)} {unit}, but the stage asks "
            f"for {'at least one' if count == 'all' else count}; {'lower the number, or ' if names else ''}"
            f"{_split_remedy(dataset, spec.split)}."
        )
    if count == "all":
        return Subset(available, frozenset(groups), len(names))
    domain = json.dumps(plain_conditions(item), sort_keys=True)
    order = sorted(
        range(len(names)), key=lambda i: rng.derive(spec.seed, "draw", spec.draw, identity, domain, part, names[i])
    )
    selected = order[: int(count)]
    if unit == "groups":
        selected_groups = {names[i] for i in selected}
        indices = available[[group in selected_groups for group in groups]]
    else:
        indices = np.sort(available[selected])
    return Subset(indices, frozenset(dataset.samples()["group"][indices]), len(selected))


def _sample_names(groups: Iterable[str]) -> list[str]:
    """Returns a name per sample: its group and its number within the group."""
    counts: dict[str, int] = {}
    names = []
    for group in groups:
        counts[group] = counts.get(group, -1) + 1
        names.append(f"{group}#{counts[group]}")
    return names


def _domain_name(item: DataSpec) -> str:
    conditions = ", ".join(f"{name} = {value}" for name, value in plain_conditions(item).items())
    return f"({conditions})" if conditions else "the dataset"


def _split_remedy(dataset: Dataset, split: SplitSpec) -> str:
    """Returns the remedy for a part that is too small, with the settings of the split."""
    resolved = dataset.resolve_split(split)
    if resolved.stored is not None:
        return f"use another split: {resolved.description} was given with the data"
    settings = (
        f"validation {resolved.validation:g}, test {resolved.test:g}, seed {resolved.seed}, by {resolved.description}"
    )
    if split.stored is None:
        return f"change the split's seed or fractions ({settings})"
    return (
        f"use another split: give seed, validation and test instead of {split.description} ({settings}), or make the "
        "dataset again with others"
    )


# Check


def _require_alike(selections: Sequence[_Selection]) -> None:
    first, *others = selections
    for other in others:
        kinds = [(s.dataset.tile_shape, s.dataset.channels, s.layer.names, s.layer.kind) for s in (first, other)]
        if kinds[0] != kinds[1]:
            raise SegueError(
                f"{other.dataset.path} and {first.dataset.path} cannot be used together: tiles, channels, classes and "
                f"kind of labels are {kinds[1]} and {kinds[0]}; make them alike."
            )


def _require_disjoint(selections: Sequence[_Selection]) -> None:
    """Raises SegueError when two items of the same dataset draw the same samples: labels would count twice."""
    used: dict[Path, set[int]] = {}
    for selection in selections:
        earlier = used.setdefault(selection.dataset.path.resolve(), set())
        indices = set(selection.training.indices.tolist())
        if earlier & indices:
            raise SegueError(
                f"{selection.dataset.path}: {len(earlier & indices)} samples are drawn by two items of the stage's "
                "data; make their conditions exclude each other."
            )
        earlier |= indices


def refuse_shared_groups(training: Collection[str], held_out: Collection[str], part: PartName, context: str) -> None:
    """Raises SegueError when held-out groups occur among the training groups of a stage or of its ancestors.

    Groups made of paths are the same if one path ends with the other: "a" of a dataset of one folder may be "d1/a" of
    another of several.
    """
    shared = _shared_groups(training, held_out)
    if shared:
        group, other = shared[0]
        first = f"'{group}'" if group == other else f"'{group}' of the dataset, '{other}' in training"
        raise SegueError(
            f"{context}: {len(shared)} of its {part} groups were trained on, by it or by one of its ancestors "
            f"(first {first}); give all stages the same split (by, seed and fractions). Groups are names: of `segue "
            "prepare` those of the image files unless its specification or table says otherwise, of plates the wells. "
            "If different samples only happen to be called alike, name them apart where a dataset is made: by "
            "group = '{folder}-{stem}' or 'lab2-{stem}', or by a column group in its table."
        )


def _shared_groups(training: Collection[str], held_out: Collection[str]) -> list[tuple[str, str]]:
    """Returns each held-out group that was trained on, with its name in training: the same, or a path that ends so."""
    by_end = {end: group for group in sorted(training, reverse=True) for end in _ends(group)}
    known = set(training)
    by_end |= {group: group for group in known}
    names = {}
    for group in sorted(set(held_out)):
        names[group] = by_end.get(group) or next((end for end in _ends(group) if end in known), None)
    return [(group, name) for group, name in names.items() if name is not None]


def _ends(group: str) -> list[str]:
    """Returns "a/b/c", "b/c" and "c" of "a/b/c"."""
    parts = group.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def refuse_leaks(training: GroupsBySplit, validation: GroupsBySplit, context: str) -> None:
    """Raises SegueError when validation samples may have been trained on, by a stage or by its ancestors.

    Whole groups must not be among the groups trained on under any split. Groups split across parts are allowed if both
    used the same split, which puts each sample on one side; `measure_leak` reports how many neighboring tiles this
    affects.
    """
    for split, groups in validation.items():
        others = {group for other, names in training.items() if not split or other != split for group in names}
        refuse_shared_groups(others, groups, "validation", context)


def measure_leak(items: Sequence[tuple[Dataset, Subset, Subset | None]], spec: StageSpec) -> Leak | None:
    """Returns the leakage of the stage's split between the samples drawn for training and for validation.

    items: the dataset, training and validation samples of each. None where groups are whole or nothing validates.
    """
    by_file: dict[Path, list[tuple[Dataset, Subset, Subset]]] = {}
    for dataset, training, validation in items:
        if validation is not None and dataset.resolve_split(spec.split).leaks_groups:
            by_file.setdefault(dataset.path.resolve(), []).append((dataset, training, validation))
    if not by_file:
        return None
    neighbors = []
    for subsets in by_file.values():
        training_indices = np.unique(np.concatenate([training.indices for _, training, _ in subsets]))
        validation_indices = np.unique(np.concatenate([validation.indices for _, _, validation in subsets]))
        neighbors.append(subsets[0][0].neighbors(training_indices, validation_indices))
    return {
        "split": next(iter(by_file.values()))[0][0].resolve_split(spec.split).description,
        "neighbouring_pairs": sum(one.pairs for one in neighbors),
        "validation_tiles": sum(one.validation for one in neighbors),
        "validation_tiles_near": sum(one.near for one in neighbors),
    }


def leak_message(leak: Leak) -> str:
    """Returns the warning about a split that leaks groups."""
    across = Neighbors(leak["neighbouring_pairs"], leak["validation_tiles"], leak["validation_tiles_near"])
    return f"WARNING: {splits.leak_message(leak['split'], across)}"


def _split_message(datasets: Sequence[Dataset], split: SplitSpec) -> str:
    """Returns the message on how samples are split, and on a split stored in a dataset that is not used."""
    stored = {
        name
        for dataset in datasets
        for name in dataset.split_names()
        if not np.array_equal(dataset.split(SplitSpec(stored=name)), dataset.split(split))
    }
    return (
        f"split by {split.description}: {100 * split.test:.3g}% test{'' if split.by == 'group' else ' by group'}, "
        f"{100 * split.validation:.3g}% validation, seed {split.seed}"
        + (f'; not the split stored in the dataset (split = {{ stored = "{min(stored)}" }})' if stored else "")
    )


def _groups_by_split(selections: Sequence[_Selection], split: SplitSpec) -> dict[str, dict[str, list[str]]]:
    """Returns the groups this stage trains on and validates with, by split."""
    ids = [selection.dataset.split_id(split) for selection in selections]
    training = [{id_: s.training.groups} for id_, s in zip(ids, selections, strict=True)]
    validation = [{id_: s.validation.groups} for id_, s in zip(ids, selections, strict=True) if s.validation]
    return {"training": merge_groups(training), "validation": merge_groups(validation)}


def _pictures(selection: _Selection) -> Iterable[str]:
    """Yields the hashes of the micrographs of the samples drawn, where the dataset has them."""
    column = selection.dataset.samples().get("picture")
    if column is None:
        return
    for subset in (selection.training, selection.validation):
        if subset is not None:
            yield from set(column[subset.indices]) - {""}


def merge_groups(parts: Iterable[GroupsBySplit]) -> dict[str, list[str]]:
    """Returns the groups of all parts by split, sorted."""
    merged: dict[str, set[str]] = {}
    for part in parts:
        for split, groups in part.items():
            merged.setdefault(split, set()).update(groups)
    return {split: sorted(groups) for split, groups in sorted(merged.items())}


def training_groups(record: Mapping[str, Any]) -> dict[str, list[str]]:
    """Returns the groups that a run and its ancestors trained on, by split, from its groups.json."""
    return record.get("divisions") or {"": sorted({*record.get("training", ()), *record.get("ancestors", ())})}


def _read_groups(parent: Path | None) -> tuple[dict[str, Any], bool]:
    """Returns the groups that a parent and its ancestors used, and whether these are certainly all: not for bare
    weights, which record none, nor for a run that cannot be verified.

    The groups of a run are also found next to its weights, if these are given as a file. Raises SegueError where they
    are damaged, altered or lost.
    """
    if parent is None:
        return {}, True
    run = RunFolder(parent if parent.is_dir() else parent.parent)
    if not run.is_verifiable and not run.groups.exists():
        return {}, False
    return run.read(run.groups), run.is_verifiable


def _with_ancestors(
    stage_groups: Mapping[str, Mapping[str, list[str]]],
    pictures: Sequence[str],
    licenses: Sequence[str],
    parent: Path | None,
    context: str,
) -> tuple[dict[str, list[str]], dict[str, list[str]], Literal["known", "unknown"]]:
    """Adds the groups, pictures and licenses that a parent and its ancestors used; raises SegueError where groups leak.

    Returns them, the groups trained on by split, and whether the parent records its groups.
    """
    record, is_complete = _read_groups(parent)
    earlier = {name: record.get(name, []) for name in ("training", "ancestors", "validation", "ancestors_validation")}
    groups = {
        "training": sorted({group for names in stage_groups["training"].values() for group in names}),
        "validation": sorted({group for names in stage_groups["validation"].values() for group in names}),
        "ancestors": sorted({*earlier["training"], *earlier["ancestors"]}),
        "ancestors_validation": sorted({*earlier["validation"], *earlier["ancestors_validation"]}),
    }
    if pictures or record.get("pictures"):
        groups["pictures"] = sorted({*pictures, *record.get("pictures", ())})
    of_parent = [] if parent is None else record.get("licenses", [NOT_STATED])
    if stated := {*licenses, *of_parent} - {NOT_STATED}:
        groups["licenses"] = sorted(stated) + [NOT_STATED] * (NOT_STATED in {*licenses, *of_parent})
    splits_used = merge_groups([stage_groups["training"], training_groups(record)])
    refuse_leaks(splits_used, stage_groups["validation"], context)
    return groups, splits_used, "known" if is_complete else "unknown"


# Load


def make_sources(
    training: Sequence[DatasetSubset],
    validation: Sequence[DatasetSubset],
    *,
    spec: StageSpec,
    window: int | None,
    title: str,
    context: str,
    device: str,
    log: Log,
) -> tuple[Source, Source | None]:
    """Returns the sources of training and of validation, None without any; logs `title` and their memory.

    The limit is `spec.memory_gb`, but never above a fraction of the free memory. What fits together is resident, on the
    device where it fits there too. Otherwise validation gets at most a quarter of the limit and training the rest, and
    each is streamed where it does not fit. Raises SegueError where even that needs more than the limit.
    """
    training_bytes, validation_bytes = _bytes(training), _bytes(validation)
    total = training_bytes + validation_bytes
    limit = memory_limit(spec)
    if limit is not None and total > limit and resident.clear():  # of earlier stages in this process
        limit = memory_limit(spec)
    if limit is None or total <= limit:
        log(f"{title}, held in memory: {total / 1e6:.0f} MB")
        sources = [_make_resident(parts, spec, device, total) for parts in (training, validation)]
        assert sources[0] is not None
        return sources[0], sources[1]
    validation_budget = min(validation_bytes, int(VALIDATION_FRACTION * limit))
    training_budget = limit - validation_budget
    if training_bytes <= training_budget:
        validation_budget = limit - training_bytes
    with ExitStack() as undo:
        streamed: dict[str, StreamedSource] = {}
        for name, parts, budget, fraction in (
            ("training", training, training_budget, 1 - VALIDATION_FRACTION),
            ("validation", validation, validation_budget, VALIDATION_FRACTION),
        ):
            if _bytes(parts) > budget:
                source = StreamedSource(parts, normalization=spec.normalize, budget_bytes=budget)
                streamed[name] = source
                undo.callback(source.close)
                needed = source.min_bytes(spec.batch)
                if needed > budget:
                    enough = min(total, math.ceil(needed / fraction))
                    raise SegueError(
                        f"{context}: {name}: even streamed, {len(source):,} samples in batches of {spec.batch} need "
                        f"{_gb(needed)} GB of memory (a block of the file and prefetched batches), but of the limit of "
                        f"{_gb(limit)} GB only {_gb(budget)} GB are available to them; raise memory_gb (to "
                        f"{_rounded_up_gb(enough):.3g}), lower batch, run fewer workers, or use a machine with more "
                        "memory."
                    )
        how = _streaming_message(streamed, spec.batch, window, validation_bytes)
        log(f"{title}: {_gb(total)} GB, more than the limit of {_gb(limit)} GB: {how}")
        training_source = streamed.get("training") or _make_resident(training, spec, device, training_bytes)
        validation_source = streamed.get("validation") or _make_resident(validation, spec, device, validation_bytes)
        undo.pop_all()
    assert training_source is not None
    return training_source, validation_source


def memory_limit(spec: StageSpec) -> int | None:
    """Returns how many bytes the samples may take; None if neither the stage nor the system sets a limit."""
    free = free_memory()
    limits = [] if free is None else [int(MEMORY_FRACTION * free)]
    return min(limits if spec.memory_gb is None else [*limits, int(spec.memory_gb * 1e9)], default=None)


def _bytes(parts: Sequence[DatasetSubset]) -> int:
    return sum(bytes_needed(part.dataset, len(part.indices)) for part in parts)


def _make_resident(
    parts: Sequence[DatasetSubset], spec: StageSpec, device: str, resident_bytes: int
) -> ResidentSource | None:
    """Returns the samples in memory, on a GPU where all `resident_bytes` are less than half of its memory fraction."""
    if not parts:
        return None
    source = resident.resident_source(parts, normalization=spec.normalize)
    if device.startswith("cuda") and resident_bytes < MEMORY_FRACTION / 2 * torch.cuda.mem_get_info()[0]:
        return source.to(device)
    return source


def _class_counter(training: Source, parts: Sequence[DatasetSubset], log: Log) -> Callable[[], np.ndarray]:
    """Returns a function that counts the pixels of each class in each sample; it opens the datasets again."""
    subsets = [(part.dataset.path, part.indices, part.layer) for part in parts]

    def count() -> np.ndarray:
        if subsets[0][2].kind == "instances":
            if isinstance(training, StreamedSource):
                log(f"counting the pixels of objects in {len(training):,} samples")
            return object_counts(training)
        counts = []
        for path, indices, layer in subsets:
            with Dataset(path) as dataset:
                if layer.kind == "column":
                    classes = virtual_labels(dataset, indices, layer).max(axis=(1, 2))
                    counts.append(np.eye(len(layer.names), dtype=np.int64)[classes])
                else:
                    counts.append(dataset.class_counts(layer.name)[indices])
        return np.concatenate(counts)

    return count


def _streaming_message(
    streamed: Mapping[str, StreamedSource], batch: int, window: int | None, validation_bytes: int
) -> str:
    """Returns the message on what is streamed and how."""
    training = streamed.get("training")
    if training is None:
        return "validation is streamed"
    also = ", validation too" if "validation" in streamed else ""
    samples = "all samples" if window is None else f"{window:,} samples"
    if training.shuffles_in_memory(window, batch):
        windows = "one window of all samples" if window is None else f"windows of {samples}"
        return f"streamed in {windows}, {_gb(training.bytes_in_use(window, batch))} GB{also}"
    needed = training.bytes_to_shuffle(window, batch)
    limit = _rounded_up_gb(min(needed + validation_bytes, needed / (1 - VALIDATION_FRACTION)))
    largest = training.largest_window(batch)
    return (
        f"streamed from random places{also}; slow, since the shuffle window of {samples} does not fit: give "
        f"memory_gb = {limit:.3g}"
        + (f", or shuffle_window = {largest}, which trains in another order" if largest else "")
    )


def _rounded_up_gb(amount: float) -> float:
    """Returns bytes as GB, rounded up to three digits."""
    step = 10.0 ** (math.floor(math.log10(amount / 1e9)) - 2)
    return math.ceil(amount / 1e9 / step) * step


def _gb(amount: int) -> str:
    return f"{amount / 1e9:.1f}" if amount >= 1e8 else f"{amount / 1e9:.2g}"
