"""Splits by group: a pure function of (seed, group), hence equal in every dataset that shares groups.

A group is what must not be torn apart: a structure, a micrograph, a well, a series, a plate.
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


class SplitSpec(SpecModel):
    """How groups are divided: by `stored`, a split that the dataset holds, or by a seed and two fractions."""

    stored: str | None = None
    seed: int = Field(default=0, ge=0)
    validation: float = Field(default=0.15, ge=0, lt=1)
    test: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _consistent(self) -> SplitSpec:
        if self.stored is not None and self != SplitSpec.model_construct(stored=self.stored):
            raise ValueError("`stored` names a split of the dataset; remove seed, validation and test, or `stored`")
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} + test {self.test} leave nothing to train; lower them")
        return self


@dataclass(frozen=True)
class GivenSplit:
    """A split that came with the data: the part of each group."""

    parts: Mapping[str, PartName]


Split = SplitSpec | GivenSplit


def part_of(group: str, split: Split) -> PartName:
    """Returns the part a group belongs to; depends on nothing but the group's name and the split.

    With u uniform in [0, 1) by the group's name: u < test -> test, u < test + validation -> validation,
    else train. Raises SegueError for a group that a given split does not name.
    """
    if isinstance(split, GivenSplit):
        if group not in split.parts:
            raise SegueError(f"group '{group}': the given split does not name it; give every group a part.")
        return split.parts[group]
    if split.stored is not None:
        raise ValueError(f"split '{split.stored}' is stored in a dataset; read it with Dataset.split")
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
