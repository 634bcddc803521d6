"""The specification of one stage: one training from given inputs. Cheap to import: no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from segue.data.split import SplitSpec
from segue.networks import NetworkSpec
from segue.spec import SpecModel
from segue.targets import TargetSpec
from segue.training.optimizers import AdamSpec
from segue.training.schedules import ConstantSpec, ScheduleSpec

VERSION = 1  # of what a training produces from its specification; bump it by hand when that changes

Part = Literal["encoder", "decoder", "head"]
Count = Annotated[int, Field(gt=0)]
Scalar = bool | int | float | str


class Range(SpecModel):
    """All values from `min` to `max`, both included."""

    min: float | None = None
    max: float | None = None


Conditions = dict[str, Scalar | list[Scalar] | Range]


class DataSpec(SpecModel):
    """The labelled data of a stage: the samples of a dataset that meet the conditions, and how many of them.

    `images` counts samples and `groups` counts micrographs, structures or wells; both are drawn from the training
    part of the split. Without either all are taken.
    """

    dataset: str
    conditions: Conditions = {}
    images: Count | Literal["all"] | None = None
    groups: Count | Literal["all"] | None = None

    @model_validator(mode="after")
    def _one_count(self) -> DataSpec:
        if self.images is not None and self.groups is not None:
            raise ValueError("give `images` or `groups`, not both")
        return self

    @property
    def everything(self) -> bool:
        return self.images in (None, "all") and self.groups in (None, "all")


class ParentSpec(SpecModel):
    """Where a stage's first weights come from: the folder of a finished run, or a safetensors file."""

    run: str | None = None
    weights: str | None = None

    @model_validator(mode="after")
    def _one(self) -> ParentSpec:
        if (self.run is None) == (self.weights is None):
            raise ValueError("give either `run`, the folder of a finished run, or `weights`, a safetensors file")
        return self


class StageSpec(SpecModel):
    """One training.

    validation: how many images (or groups, where `data` counts groups) of the validation part are looked at after
    each epoch; "all", or 0 for none. select: which epoch's weights the run keeps; the best
    on validation, where there is any, unless it says "last". weights: which of the parent's
    weights are taken, those it kept ("best") or those of its last epoch. load: the parts taken from the parent,
    all without it. precision "auto" is bf16 where the hardware multiplies it. threads is part of what bit-identity
    depends on. keep_epochs keeps the weights of every epoch beside, to be scored later.
    seed belongs to a study, init and draw to one repetition of it.
    """

    data: Annotated[tuple[DataSpec, ...], Field(min_length=1)]
    network: NetworkSpec = NetworkSpec()
    target: TargetSpec = TargetSpec()
    split: SplitSpec = SplitSpec()
    parent: Annotated[ParentSpec | None, Field(alias="from")] = None
    weights: Literal["best", "last"] = "best"
    load: tuple[Part, ...] | None = None
    freeze: tuple[Part, ...] = ()
    normalise: Literal["image", "none"] = "image"
    epochs: Count = 10
    batch: Count = 16
    augment: Literal["none", "dihedral", "dihedral-all"] = "none"
    optimizer: AdamSpec = AdamSpec()
    schedule: ScheduleSpec = ConstantSpec(name="constant")
    validation: Annotated[int, Field(ge=0)] | Literal["all"] = "all"
    select: Literal["best", "last"] | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    threads: Count = 1
    keep_epochs: bool = False
    seed: Annotated[int, Field(ge=0)] = 0
    init: Annotated[int, Field(ge=0)] = 0
    draw: Annotated[int, Field(ge=0)] = 0

    @field_validator("freeze", "load", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        if value == "none":
            return ()
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> StageSpec:
        if self.validation == 0 and self.select == "best":
            raise ValueError('select = "best" needs validation images; use select = "last" or validation = "all"')
        if set(self.freeze) == {"encoder", "decoder", "head"}:
            raise ValueError("freeze names every part, so nothing is left to train; leave one out")
        if self.load is not None and not self.load:
            raise ValueError("load names no part; remove it to load all of them")
        return self

    @property
    def selects_best(self) -> bool:
        return self.select != "last" and self.validation != 0

    @property
    def label_unit(self) -> Literal["images", "groups"]:
        return "groups" if any(item.groups is not None for item in self.data) else "images"

    @property
    def draws(self) -> bool:
        """Whether the draw index matters: not where all images are taken."""
        return not all(item.everything for item in self.data) or self.validation not in (0, "all")
