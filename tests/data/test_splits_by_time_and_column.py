"""Splits of plates: by well, experiment, time and chunk, one test part for all, and neighbours counted exactly."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from segue.data import splits
from segue.data.spec import SplitSpec
from segue.data.splits import TEST, TRAIN, VALIDATION, group_codes, part_of
from segue.errors import SegueError, SpecError
from segue.spec import validate
from segue.training.spec import StageSpec

BY_WELL = SplitSpec(validation=0.2, test=0.2)
BY_EXPERIMENT = SplitSpec(validation=0.2, test=0.2, by="experiment")
BY_TIME = SplitSpec(validation=0.2, test=0.2, by="time", blocks=4)
BY_CHUNK = SplitSpec(validation=0.2, test=0.2, by="chunk", chunk=37)
ALL = [BY_WELL, BY_EXPERIMENT, BY_TIME, BY_CHUNK]
Samples = dict[str, np.ndarray]


def plate(wells: int = 24, times: int = 10, *, side: int = 4, stride: int = 8, experiments: int = 3) -> Samples:
    """Returns the columns of a plate: wells x times x (side x side) tiles `stride` px apart, in the order of files."""
    rows = []
    for well, time, y, x in itertools.product(range(wells), range(times), range(side), range(side)):
        key = f"P1/{well:02d}"
        rows.append((key, f"{key}/t{time:03d}", stride * y, stride * x, 3 * time, f"e{well % experiments}"))
    names = ("group", "source", "y_px", "x_px", "time", "experiment")
    kinds = (object, object, np.int64, np.int64, np.int64, object)
    columns = zip(*rows, strict=True)
    return {name: np.array(values, dtype=kind) for name, values, kind in zip(names, columns, kinds, strict=True)}


def taken(samples: Samples, rows: np.ndarray) -> Samples:
    return {name: values[rows] for name, values in samples.items()}


def brute(samples: Samples, shape: tuple[int, int], training: np.ndarray, validation: np.ndarray) -> tuple[int, int]:
    """Returns the pairs of neighbours across, and the validation tiles that have one, from every pair by itself."""
    rank = np.unique(samples["time"], return_inverse=True)[1] if "time" in samples else None
    pairs, near = 0, 0
    for v in validation:
        count = 0
        for t in training:
            apart = abs(samples["y_px"][v] - samples["y_px"][t]), abs(samples["x_px"][v] - samples["x_px"][t])
            same = samples["group"][v] == samples["group"][t]
            if rank is None:
                same = samples["source"][v] == samples["source"][t]
            elif abs(rank[v] - rank[t]) > 1:
                same = False
            count += bool(same and apart[0] < shape[0] and apart[1] < shape[1])
        pairs += count
        near += count > 0
    return pairs, near


def test_the_test_part_is_the_same_for_all() -> None:
    """Whatever divides training from validation, the test part is whole wells, those that the seed gives."""
    samples = plate()
    expected = np.array([part_of(group, BY_WELL) == "test" for group in samples["group"]])
    assert 0 < expected.mean() < 0.5
    for split in ALL:
        codes = splits.split_codes(split, samples, context="plate.h5")
        assert codes.dtype == np.uint8 and np.array_equal(codes == TEST, expected)
        assert {TRAIN, VALIDATION} <= set(codes)
    assert np.array_equal(splits.split_codes(BY_WELL, samples, context=""), group_codes(samples["group"], BY_WELL))


def units_of(split: SplitSpec, samples: Samples) -> np.ndarray:
    count = len(samples["group"])
    return {
        "experiment": samples["experiment"],
        "time": np.array([min(block for block, last in enumerate((6, 15, 21, 27)) if time <= last)
                          for time in samples["time"]]),
        "chunk": np.arange(count) // split.chunk,
    }[split.by]  # fmt: skip


@pytest.mark.parametrize("split", [BY_EXPERIMENT, BY_TIME, BY_CHUNK])
def test_units_are_never_divided(split: SplitSpec) -> None:
    """Beside the test wells, a unit is of one part: an experiment, a run of times (3 + 3 + 2 + 2 of 10), a chunk of
    the file; and of n units round(validation / (1 - test) * n) are validated with, one at least."""
    samples = plate()
    codes = splits.split_codes(split, samples, context="")
    units = units_of(split, samples)
    stored = codes != TEST
    parts = {unit: set(codes[stored & (units == unit)]) for unit in set(units[stored])}
    assert all(len(actual) == 1 for actual in parts.values())
    validated = sum(actual == {VALIDATION} for actual in parts.values())
    assert validated == max(1, int(0.25 * len(parts) + 0.5))


@pytest.mark.parametrize("split", ALL)
def test_larger_validation_holds_smaller(split: SplitSpec) -> None:
    """A larger validation part keeps the samples of a smaller one, and the seed alone moves them."""
    samples = plate(experiments=6)
    smaller, larger, other = (
        splits.split_codes(split.model_copy(update=more), samples, context="")
        for more in ({}, {"validation": 0.5}, {"seed": 5})
    )
    selection = smaller == VALIDATION
    assert set(larger[selection]) == {VALIDATION} and (larger == VALIDATION).sum() > selection.sum()
    assert not np.array_equal(smaller, other)
    assert np.array_equal(smaller, splits.split_codes(split, samples, context=""))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("timed", [True, False])
def test_neighbors_against_every_pair(seed: int, timed: bool) -> None:
    """On ragged plates, tiles dropped, times missing, sides unequal and edges shifted, the count is the brute one."""
    generator = np.random.default_rng(seed)
    samples = plate(3, 4, side=4, stride=5)
    samples["y_px"] = samples["y_px"] + generator.integers(0, 3, len(samples["y_px"]))
    if not timed:
        del samples["time"]
    samples = taken(samples, np.flatnonzero(generator.random(len(samples["group"])) < 0.6))
    codes = generator.integers(0, 3, len(samples["group"]))
    training, validation = np.flatnonzero(codes == TRAIN), np.flatnonzero(codes == VALIDATION)
    shape = (7 + seed, 10 - seed)
    actual = splits.neighbors(samples, shape, training=training, validation=validation)
    assert (actual.pairs, actual.near) == brute(samples, shape, training, validation)
    assert actual.validation == len(validation) and actual.pairs > 0


def test_neighbors_of_a_known_plate() -> None:
    """Tiles that only touch are none; half overlap makes 9 places at 3 times around an inner tile, itself aside."""
    samples = plate(2, 3, side=3, stride=8)
    middle = np.flatnonzero((samples["group"] == "P1/00") & (samples["time"] == 3))[4:5]
    others = np.setdiff1d(np.arange(len(samples["group"])), middle)
    assert splits.neighbors(samples, (16, 16), training=others, validation=middle).pairs == 26
    assert splits.neighbors(samples, (8, 8), training=others, validation=middle).pairs == 2  # the same place
    assert splits.neighbors(samples, (9, 8), training=others, validation=middle).pairs == 8
    assert splits.neighbors(samples, (16, 16), training=others[:0], validation=middle).pairs == 0


def test_micrographs_of_one_time_are_not_one_plane() -> None:
    """Where a group has several micrographs of one time, only tiles of the same micrograph are neighbours."""
    samples = plate(1, 2, side=2, stride=8)
    samples["time"] = np.zeros_like(samples["time"])
    actual = splits.neighbors(samples, (16, 16), training=np.arange(4), validation=np.arange(4, 8))
    assert (actual.pairs, actual.near) == (0, 0)


def test_only_torn_groups_have_neighbors_across() -> None:
    """Split by well or experiment nothing lies across; by time, of each well the (4 + 2 x 3)^2 pairs of two adjacent
    frames at each border of the block; by chunk something."""
    samples = plate()
    actual = {}
    for split in ALL:
        codes = splits.split_codes(split, samples, context="")
        training, validation = (np.flatnonzero(codes == part) for part in (TRAIN, VALIDATION))
        actual[split.by] = splits.neighbors(samples, (16, 16), training=training, validation=validation).pairs
        assert split.leaks_groups == (actual[split.by] > 0)
        if split is BY_TIME:
            validated = np.isin(np.unique(samples["time"]), samples["time"][validation])
            borders, wells = np.count_nonzero(np.diff(validated)), len(set(samples["group"][validation]))
            assert actual["time"] == borders * wells * 10**2


def test_divisions_tell_ways_of_tearing_apart() -> None:
    """Whole groups have none; torn ones another for another seed, chunk, order of the file or choice of tiles."""
    samples = plate(4, 2)
    assert {splits.split_id(split, samples) for split in (BY_WELL, BY_EXPERIMENT)} == {""}
    seeded = BY_CHUNK.model_copy(update={"seed": 1})
    ways = [splits.split_id(split, samples) for split in (BY_CHUNK, seeded, BY_TIME)]
    rotated = np.arange(len(samples["group"]))[::-1]
    ways += [splits.split_id(BY_CHUNK, taken(samples, rows)) for rows in (rotated, rotated[::-1][1:])]
    assert len(set(ways)) == 5 and ways[0] == splits.split_id(BY_CHUNK, plate(4, 2))


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"by": "experimnt"}, "d.h5: split.by: unknown column 'experimnt'; did you mean 'experiment'"),
        ({"by": "source"}, "differs within group 'P1/00' and would split it"),
        ({"by": "time", "blocks": 11}, "split.blocks = 11, but there are 10 times; lower blocks to at most that"),
        ({"by": "chunk", "chunk": 10**6}, "only one unit to divide by chunks of 1000000 tiles"),
    ],
)
def test_what_cannot_be_divided_is_refused(split: dict, message: str) -> None:
    """Unknown columns, those that would tear groups, more blocks than times and a single unit are refused."""
    with pytest.raises(SegueError, match=message):
        splits.split_codes(SplitSpec(**split), plate(), context="d.h5")


def test_a_plate_without_times_has_no_blocks() -> None:
    """Without the column time, a split by time is refused by its name; without validation, nothing is divided."""
    samples = plate()
    del samples["time"]
    with pytest.raises(SegueError, match=r"split\.by: unknown column 'time'"):
        splits.split_codes(BY_TIME, samples, context="d.h5")
    whole = SplitSpec(by="chunk", chunk=10**6, validation=0)
    assert set(splits.split_codes(whole, samples, context="")) <= {TRAIN, TEST}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"by": "time"}, "give their number, such as blocks = 10"),
        ({"by": "time", "blocks": 1}, "blocks: found 1"),
        ({"blocks": 4}, 'blocks are of time, but by = "group"'),
        ({"chunk": 50}, 'chunk = 50 belongs to by = "chunk", but by = "group"'),
        ({"stored": "x", "by": "chunk"}, "remove seed, validation, test, by"),
    ],
)
def test_contradictions_are_worded(table: dict, message: str) -> None:
    """What belongs to another way of splitting is refused, naming both."""
    with pytest.raises(SpecError, match=message):
        validate(SplitSpec, table, context="study.toml")


def test_groups_alone_do_not_tell() -> None:
    """A function of the group's name cannot compute such a split, and says so."""
    with pytest.raises(ValueError, match=r"compute it with split_codes"):
        part_of("P1/00", BY_CHUNK)


def test_keys_of_earlier_stages_are_unchanged() -> None:
    """What is new in a split is outside the key unless it is asked for, and a spec read back is the same."""
    data = [{"dataset": "d"}]
    assert "split" not in StageSpec.model_validate({"data": data}).key_settings(())
    old = StageSpec.model_validate({"data": data, "split": {"seed": 3, "validation": 0.2}}).key_settings(())
    assert old["split"] == {"seed": 3, "validation": 0.2}
    specs = [StageSpec.model_validate({"data": data, "split": split}) for split in ALL]
    for spec in specs:
        assert StageSpec.model_validate(spec.model_dump(mode="json", by_alias=True)) == spec
    assert specs[-1].key_settings(())["split"] == {"validation": 0.2, "test": 0.2, "by": "chunk", "chunk": 37}


def test_an_empty_part_is_told_with_a_seed_that_fills_it() -> None:
    """Of three wells none is for validation under this seed; the seed that is named fills all parts."""
    samples = plate(wells=3, times=2, side=1)
    split = next(
        one
        for seed in range(50)
        if not (
            splits.split_codes(one := SplitSpec(seed=seed, validation=0.3, test=0.3), samples, context="a") == 1
        ).any()
    )
    output = splits.empty_parts_message("wells", split, samples, splits.split_codes(split, samples, context="a"))
    assert "validation" in output.partition(" empty ")[0] and "3 groups" in output
    named = int(output.partition("such as ")[2].partition(",")[0])
    filled = split.model_copy(update={"seed": named})
    assert not splits.empty_parts(filled, splits.split_codes(filled, samples, context="a"))
    assert not splits.empty_parts_message("wells", filled, samples, splits.split_codes(filled, samples, context="a"))
