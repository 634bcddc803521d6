"""Splits by group: a pure function of (seed, group), hence equal in every dataset that shares groups.

A group is what must not be torn apart: a structure, a micrograph, a well, a series, a plate. For comparison there are
splits that divide training from validation otherwise, some of which tear groups; they depend on the whole dataset and
are computed by `segue.data.division`. Of all of them the test part is by group, so that it is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from segue.errors import SegueError
from segue.spec import SpecModel

PartName = Literal["train", "validation", "test"]
PARTS: tuple[PartName, PartName, PartName] = ("train", "validation", "test")  # a sample's code is the index
PUBLISHED_CHUNK = 1000  # samples in a chunk of the published live-dead files, of which whole ones were validated with


class SplitSpec(SpecModel):
    """How samples are divided: by `stored`, a split that the dataset holds, or by a seed and two fractions.

    by is what goes to training or to validation as a whole; the test part is by group whatever it says.
        "group"   the default
        a column  of the samples that has one value in each group, such as "experiment" or "plate": never torn either
        "time"    contiguous `blocks` of the times that the dataset holds, in all groups alike: tears groups
        "chunk"   `chunk` samples as they follow each other in the file, the way of the published live-dead
                  experiments: tears groups, and with overlapping tiles neighbours lie on both sides
    Except by group, the validation fraction is of as many units as there are, rounded, and one at least.
    """

    stored: str | None = None
    seed: int = Field(default=0, ge=0)
    validation: float = Field(default=0.15, ge=0, lt=1)
    test: float = Field(default=0.1, ge=0, lt=1)
    by: str = Field(default="group", min_length=1)
    blocks: int | None = Field(default=None, ge=2)
    chunk: int = Field(default=PUBLISHED_CHUNK, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> SplitSpec:
        if self.stored is not None and self != SplitSpec.model_construct(stored=self.stored):
            raise ValueError(
                "`stored` names a split of the dataset; remove seed, validation and test, by and what belongs to it, "
                "or `stored`"
            )
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} + test {self.test} leave nothing to train; lower them")
        if self.by == "time" and self.blocks is None:
            raise ValueError('by = "time" divides the times into blocks; say how many, such as blocks = 10')
        if self.by != "time" and self.blocks is not None:
            raise ValueError(f'blocks are of time, but by = "{self.by}"; remove blocks, or set by = "time"')
        if self.by != "chunk" and self.chunk != PUBLISHED_CHUNK:
            raise ValueError(f'chunk = {self.chunk} belongs to by = "chunk", but by = "{self.by}"; remove one of them')
        return self

    @property
    def tears_groups(self) -> bool:
        """Whether samples of one group may be trained on and validated with."""
        return self.by in ("time", "chunk")

    @property
    def words(self) -> str:
        """Returns by what it divides: "group", "experiment", "blocks of time (10)", "chunks of 1000 tiles"."""
        if self.stored is not None:
            return f"stored split '{self.stored}'"
        told = {"time": f"blocks of time ({self.blocks})", "chunk": f"chunks of {self.chunk} tiles"}
        return told.get(self.by, self.by)


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
        raise ValueError(f"split by {split.words} is no matter of the group alone; compute it with division.codes")
    from segue import rng

    u = rng.uniform(split.seed, "split", group)
    if u < split.test:
        return "test"
    return "validation" if u < split.test + split.validation else "train"


def codes_of(groups: Iterable[str], split: Split) -> list[int]:
    """Returns 0 (train), 1 (validation) or 2 (test) for each group name, in order."""
    known: dict[str, int] = {}
    codes = []
    for group in groups:
        if group not in known:
            known[group] = PARTS.index(part_of(group, split))
        codes.append(known[group])
    return codes
