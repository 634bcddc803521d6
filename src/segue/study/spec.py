"""Specifications."""

from __future__ import annotations

import itertools
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from segue.spec import SpecModel

MAX_REPETITIONS = 10_000  # of every configuration
MAX_CONFIGURATIONS = 100_000  # of a study
MAX_TRAININGS = 200_000

Table = dict[str, Any]
Label = str | int | float | bool


class DatasetSource(SpecModel):
    """Where a dataset comes from: `simulate`, `prepare` or `plate`, a TOML specification, or a finished HDF5 `file`.

    `set` overrides values of the specification by dotted key; `{each = [...]}` there or in the specification makes a
    dataset per value.
    """

    simulate: str | None = None
    prepare: str | None = None
    plate: str | None = None
    file: str | None = None
    set: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one(self) -> DatasetSource:
        if sum(way is not None for way in (self.simulate, self.prepare, self.plate, self.file)) != 1:
            raise ValueError(
                "give one of `simulate`, `prepare`, `plate` (TOML specifications) or `file` (an HDF5 dataset)"
            )
        if self.file is not None and self.set:
            raise ValueError("`set` overrides a specification, but `file` has none; remove `set`")
        return self


class Seeds(SpecModel):
    """Numbers of repetitions; the two are crossed. init: initial weights and order; draw: choice of images."""

    init: Annotated[int, Field(gt=0, le=MAX_REPETITIONS)] = 1
    draw: Annotated[int, Field(gt=0, le=MAX_REPETITIONS)] = 1

    @model_validator(mode="after")
    def _few(self) -> Seeds:
        if self.init * self.draw > MAX_REPETITIONS:
            raise ValueError(
                f"seeds: {self.init} × {self.draw} repetitions; allowed are {MAX_REPETITIONS:,}: lower init or draw"
            )
        return self

    @property
    def repetitions(self) -> list[tuple[int, int]]:
        return list(itertools.product(range(self.init), range(self.draw)))


class Evaluation(SpecModel):
    """The domains and the part of the split on which every run is scored, and whether after every epoch."""

    domains: Literal["all"] | list[str] = "all"
    part: Literal["test", "validation"] = "test"
    every_epoch: bool = False


class Expectation(SpecModel):
    """What a study is expected to find, written before it is run; its page says what was found.

    In `stage`, runs with a level of `worse` of the factor (an axis, such as "transfer.freeze") are worse than those
    with a level of `than` that differ in nothing else; or the factor explains less of the variance than another does.
    """

    statement: Annotated[str, Field(min_length=1)]
    stage: str
    factor: str
    worse: list[str | float] = []
    than: list[str | float] = []
    explains_less_than: str | None = None

    @model_validator(mode="after")
    def _of_one_kind(self) -> Expectation:
        of_levels = bool(self.worse) and bool(self.than)
        if of_levels == (self.explains_less_than is not None) or bool(self.worse) != bool(self.than):
            raise ValueError("give levels as worse and than, or the other factor as explains_less_than")
        return self


class StudySpec(SpecModel):
    """A study file. `network`, `target` and `split` hold for every stage that does not have its own; one that starts
    from another stage has that one's, but for a target of reconstruction, which the study's goes before.

    `independent_parents` trains a parent of its own, from other initial weights, for every training that starts from
    another stage, as the published study did; otherwise trainings of equal parents share them.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]
    title: str = ""
    question: str = ""
    seed: Annotated[int, Field(ge=0)] = 0
    seeds: Annotated[int, Field(gt=0, le=MAX_REPETITIONS)] | Seeds = 1
    network: Table = {}
    target: Table = {}
    split: Table = {}
    datasets: Annotated[dict[str, DatasetSource], Field(min_length=1)]
    domains: Annotated[dict[str, Table], Field(min_length=1)]
    stages: Annotated[dict[str, Table], Field(min_length=1)]
    evaluate: Evaluation = Evaluation()
    keep: Literal["weights", "metrics"] = "weights"
    independent_parents: bool = False
    expected: list[Expectation] = []

    @field_validator("stages")
    @classmethod
    def _named_plainly(cls, stages: dict[str, Table]) -> dict[str, Table]:
        dotted = [name for name in stages if "." in name]
        if dotted:
            raise ValueError(f"stage names may not contain dots, found {', '.join(dotted)}; rename them")
        return stages

    @property
    def repetitions(self) -> list[tuple[int, int]]:
        """The (init, draw) of every repetition; of `seeds = 3`: (0, 0), (1, 1), (2, 2)."""
        return self.seeds.repetitions if isinstance(self.seeds, Seeds) else [(k, k) for k in range(self.seeds)]
