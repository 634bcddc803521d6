"""Splits of the samples of a dataset into training, validation and test, and the leakage that they allow.

By default whole groups are split. A group consists of samples that must stay together: of a structure, a micrograph, a
well, a series, a plate. A split by group is a pure function of (seed, group), hence the same in every dataset that
shares groups.

Splits by anything but the group divide units of one dataset (chunks, blocks of time, values of a column) into training
and validation: the units with the lowest hash of (seed, unit) are for validation, as many as the fraction asks for, and
larger fractions keep the units of smaller ones. Some of them divide groups, for comparison. The test part is by group
in all of them, and so the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from segue import rng
from segue.data.spec import SplitSpec
from segue.errors import SegueError
from segue.spec import unknown

PartName = Literal["train", "validation", "test"]
PARTS: tuple[PartName, PartName, PartName] = ("train", "validation", "test")  # a sample's code is the index


@dataclass(frozen=True)
class GivenSplit:
    """A split that came with the data: the part of each group."""

    parts: Mapping[str, PartName]


Split = SplitSpec | GivenSplit


def part_of(group: str, split: Split) -> PartName:
    """Returns the part a group belongs to; depends on nothing but the group's name and the split.

    With u uniform in [0, 1) by the group's name: u < test -> test, u < test + validation -> validation,
    else train. Raises SegueError for a group that a given split does not name, and ValueError for a split that is not
    of groups alone.
    """
    if isinstance(split, GivenSplit):
        if group not in split.parts:
            raise SegueError(f"group '{group}': the given split does not name it; give every group a part.")
        return split.parts[group]
    if split.stored is not None:
        raise ValueError(f"split '{split.stored}' is stored in a dataset; read it with Dataset.split")
    if split.by != "group":
        raise ValueError(
            f"split by {split.description} does not depend on the group alone; compute it with split_codes"
        )
    u = rng.uniform(split.seed, "split", group)
    if u < split.test:
        return "test"
    return "validation" if u < split.test + split.validation else "train"


def group_codes(groups: Iterable[str], split: Split) -> list[int]:
    """Returns 0 (train), 1 (validation) or 2 (test) for each group name, in order."""
    code_of: dict[str, int] = {}
    codes = []
    for group in groups:
        if group not in code_of:
            code_of[group] = PARTS.index(part_of(group, split))
        codes.append(code_of[group])
    return codes


TRAIN, VALIDATION, TEST = range(len(PARTS))
MAX_SEEDS = 100  # of which one is named that leaves no part empty
Samples = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Neighbors:
    """Counts of neighboring tiles on both sides of the border between training and validation.

    pairs: pairs of tiles, one on each side, that share pixels of a group at the same or at an adjacent time.
    validation: all validation tiles. near: those of them with a neighbor that is trained on.
    """

    pairs: int
    validation: int
    near: int


def split_codes(split: Split, samples: Samples, *, context: str) -> np.ndarray:
    """Returns (N,) uint8: 0 train, 1 validation, 2 test. The test part is by group, and so the same for every `by`.

    samples: the columns of the dataset, each (N,), in file order. Raises SegueError, beginning with `context`, for a
    column that is missing or differs within a group, and for fewer units than parts or blocks. Without samples
    the result is empty.
    """
    groups = samples["group"]
    if not len(groups):
        return np.zeros(0, dtype=np.uint8)
    if isinstance(split, GivenSplit) or split.by == "group":
        return np.array(group_codes(groups, split), dtype=np.uint8)
    by_group = np.array(group_codes(groups, SplitSpec(seed=split.seed, validation=0, test=split.test)), dtype=np.uint8)
    not_test = by_group != TEST
    units = _units(split, samples, context)
    names = list(dict.fromkeys(units[not_test].tolist()))
    if split.validation == 0 or not names:
        return by_group
    if len(names) < 2:
        raise SegueError(
            f"{context}: apart from the test groups there is only one unit to divide by {split.description} "
            f"({names[0]}); divide into smaller units, or set split.validation = 0."
        )
    share = split.validation / (1 - split.test)
    count = min(max(int(share * len(names) + 0.5), 1), len(names) - 1)
    selected = sorted(names, key=lambda name: rng.uniform(split.seed, "split", split.by, name))[:count]
    return np.where(not_test & np.isin(units, selected), np.uint8(VALIDATION), by_group)


def _units(split: SplitSpec, samples: Samples, context: str) -> np.ndarray:
    """Returns the unit of each sample, (N,): an index of chunk or block, or the value of a column as text."""
    if split.by == "chunk":
        return np.arange(len(samples["group"])) // split.chunk
    if split.by not in samples:
        raise SegueError(
            f"{context}: split.by: {unknown(split.by, samples, 'column')}; or 'chunk', by place in the file."
        )
    if split.by == "time":
        assert split.blocks is not None
        times, place = np.unique(samples["time"], return_inverse=True)
        if len(times) < split.blocks:
            raise SegueError(
                f"{context}: split.blocks = {split.blocks}, but there are {len(times)} times; lower blocks to at most "
                "that, or split by group."
            )
        sizes = [len(block) for block in np.array_split(times, split.blocks)]
        return np.repeat(np.arange(split.blocks), sizes)[place]
    values, place = np.unique(samples[split.by].astype(str), return_inverse=True)
    groups, of_group = np.unique(samples["group"].astype(str), return_inverse=True)
    first = np.zeros(len(groups), dtype=np.int64)
    first[of_group] = place
    divided = np.flatnonzero(first[of_group] != place)
    if len(divided):
        raise SegueError(
            f"{context}: split.by = '{split.by}' differs within group '{samples['group'][divided[0]]}' and would split "
            "it; name a column with one value in each group, or a split that divides groups on purpose: time, chunk."
        )
    return values[place]


def empty_parts(split: SplitSpec, codes: np.ndarray) -> list[PartName]:
    """Returns the parts without samples that should have some: train always, the others unless their fraction is 0.

    codes (N,): see `codes`.
    """
    is_required: dict[PartName, bool] = {"train": True, "validation": split.validation > 0, "test": split.test > 0}
    return [part for part in PARTS if is_required[part] and not (codes == PARTS.index(part)).any()]


def empty_parts_message(name: str, split: SplitSpec, samples: Samples, codes: np.ndarray) -> str:
    """Returns the warning that parts of the split `name` with these codes are empty, or "" if none is.

    It names a seed that leaves no part empty, if one of the first ones does.
    """
    empty = empty_parts(split, codes)
    if not empty:
        return ""
    seed = find_nonempty_seed(split, samples)
    remedy = "other fractions, or more wells" if seed is None else f"another seed, such as {seed}, or other fractions"
    parts = f"{' and '.join(empty)} part{' is' if len(empty) == 1 else 's are'}"
    return (
        f"split '{name}': its {parts} empty ({len(set(samples['group']))} groups, divided by {split.description} with "
        f"validation {split.validation:g}, test {split.test:g}, seed {split.seed}); choose {remedy}."
    )


def find_nonempty_seed(split: SplitSpec, samples: Samples) -> int | None:
    """Returns the first of MAX_SEEDS seeds that leaves no part empty; None if there is none, or if that is slow."""
    if split.by == "chunk":
        return None
    keys = [samples[name].astype(str) for name in ("group", "time") if name in samples]
    rows = np.unique(np.stack(keys), axis=1, return_index=True)[1]
    distinct = {name: values[rows] for name, values in samples.items()}
    for seed in range(MAX_SEEDS):
        other = split.model_copy(update={"seed": seed})
        try:
            if not empty_parts(other, split_codes(other, distinct, context="")):
                return seed
        except SegueError:
            continue
    return None


def leak_message(split: str, neighbors: Neighbors) -> str:
    """Returns the warning about a split that divides groups; `split` is its `SplitSpec.description`."""
    return (
        f"split by {split} divides groups: {neighbors.pairs:,} pairs of neighboring tiles (they overlap, at the same "
        "or an adjacent time) lie across the border between training and validation, and "
        f"{neighbors.near:,} of {neighbors.validation:,} validation tiles have a neighbor that is trained on. "
        "Validation scores are not of unseen groups; those of the test part, which is by group, are."
    )


def split_id(split: SplitSpec, samples: Samples) -> str:
    """Returns an identifier of a split that divides groups, "" for a split that does not.

    Two splits with the same identifier put every sample on the same side. It depends on the split and on the samples of
    the dataset and their order, not on the file.
    """
    if not split.leaks_groups:
        return ""
    digest = hashlib.blake2b(split.model_dump_json().encode(), digest_size=8)
    for name in ("group", "source", "y_px", "x_px", "time"):
        if name in samples:
            values, place = np.unique(samples[name].astype(str), return_inverse=True)
            digest.update("\n".join(values.tolist()).encode() + place.astype(np.int64).tobytes())
    return f"{split.description}, {digest.hexdigest()}"


def neighbors(
    samples: Samples, tile_shape: tuple[int, int], *, training: np.ndarray, validation: np.ndarray
) -> Neighbors:
    """Returns how many neighbors lie across the border between two sets of samples, given by their indices.

    Neighbors are of one group, share pixels (|Δy| < height and |Δx| < width of a tile), and are of the same time or of
    adjacent ones among those of the dataset. Without a column time, or where a group has several micrographs of one
    time, which need not lie in one plane, only tiles of the same micrograph are.
    """
    from scipy.spatial import KDTree

    if not len(training) or not len(validation):
        return Neighbors(0, len(validation), 0)
    height, width = tile_shape
    place = np.unique(samples["group"].astype(str), return_inverse=True)[1]
    time = np.zeros(len(place), dtype=np.int64)
    if "time" in samples:
        time = np.unique(samples["time"], return_inverse=True)[1]
    source = np.unique(samples["source"].astype(str), return_inverse=True)[1]
    frames = len(np.unique(np.stack([place, time]), axis=1).T)
    if frames < len(np.unique(np.stack([place, time, source]), axis=1).T) or "time" not in samples:
        place, time = source, np.zeros_like(time)
    # the greatest distance over the axes is below `reach` for neighbors and beyond it for all others: places are far
    # apart, adjacent times 0.6, and overlapping tiles at most a pixel less than their side, which counts as 1
    reach = 1 - 0.5 / max(height, width)
    points = np.stack([4.0 * place, 0.6 * time, samples["y_px"] / height, samples["x_px"] / width], axis=1)
    train_tree, validation_tree = (
        KDTree(points[np.asarray(i)], balanced_tree=False, compact_nodes=False) for i in (training, validation)
    )
    nearest, _ = train_tree.query(points[validation], p=np.inf, distance_upper_bound=reach)
    pairs = int(train_tree.count_neighbors(validation_tree, reach, p=np.inf))
    return Neighbors(pairs, len(validation), int(np.isfinite(nearest).sum()))
