"""The specification of one stage: one training from given inputs. Cheap to import: no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from segue.data.spec import AugmentSpec, NormalizeSpec, RenderSpec, SplitSpec
from segue.networks.registry import NetworkSpec, divisor, is_dense
from segue.spec import SpecModel
from segue.targets.specs import ClassesSpec, TargetSpec
from segue.training import schedules
from segue.training.freezing import Part, UnfreezeSpec
from segue.training.optimizers import AdamSpec, EmaSpec, OptimizerSpec
from segue.training.schedules import ConstantSpec, EarlyStoppingSpec, ScheduleSpec, WarmupSpec

# Scores of `segue.evaluation.object_metrics.scores` that decode parameters are tuned for
TuningMetric = Literal[
    "ap_mean", "ap50", "ap75", "f1_50", "pq", "aji", "boundary_f1", "count_error_absolute",
    "ap_mean_image_mean", "ap50_image_mean", "ap75_image_mean", "f1_50_image_mean", "pq_image_mean",
]  # fmt: skip
LOWER_IS_BETTER = frozenset({"count_error_absolute"})  # surplus or missing objects per image
VERSION = 4  # of the result of a training for a given specification; increase by hand when that changes
OUTSIDE_KEY = frozenset({"memory_gb", "power_w", "tensorboard", "cache_features"})  # change no result
AUGMENT_PRESETS = {  # a table that equals one is replaced by its name, by which a stage is then identified
    "none": AugmentSpec(dihedral="none"),
    "dihedral": AugmentSpec(dihedral="random"),
    "dihedral-all": AugmentSpec(dihedral="all"),
}
Count = Annotated[int, Field(gt=0)]
Scalar = bool | int | float | str


class Range(SpecModel):
    """All values from `min` to `max`, both included."""

    min: float | None = None
    max: float | None = None


Conditions = dict[str, Scalar | list[Scalar] | Range]


class DataSpec(SpecModel):
    """The labeled data of a stage: the samples of a dataset that meet the conditions, and how many of them.

    `images` counts samples and `groups` counts micrographs, structures or wells; both are drawn from the training
    part of the split. Without either, all are used.
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
    """The source of a stage's initial weights: the folder of a finished run, or a safetensors file."""

    run: str | None = None
    weights: str | None = None

    @model_validator(mode="after")
    def _one(self) -> ParentSpec:
        if (self.run is None) == (self.weights is None):
            raise ValueError("give either `run`, the folder of a finished run, or `weights`, a safetensors file")
        return self


class SamplingSpec(SpecModel):
    """`class_balanced`: a sample is visited in proportion to frequency^-power of the rarest class that it holds.

    The frequency of a class is the share of the samples that hold it: the repeat factor of Gupta et al. 2019 (LVIS),
    whose power is 0.5, without its threshold. 0 visits every sample once; 1 visits the samples of every class equally
    often, taken together, where no sample holds two.
    """

    RENAMED = {'name = "rare"': 'name = "class_balanced"'}
    name: Literal["class_balanced"]
    power: Annotated[float, Field(ge=0, le=1)] = 0.5


class StageSpec(SpecModel):
    """One training.

    Data
        data, split, normalize; sampling favors rare classes; augment changes the images; shuffle_window is the number
        of samples within which the order is random ("auto": all, unless they are large); render makes the training
        images of simulated series anew from their exit waves. `order = "shared"` gives
        all initializations the same order and augmentation, so that seeds can share one pass over the data.
    Model
        network, target; `from` a parent, of which `weights` ("best" or "last") and `load` (parts, all without it) are
        used; freeze names parts that are not trained, unfreeze when some of them are trained after all.
    Optimization
        epochs; batch samples per step of the optimizer, computed in `accumulate` parts; optimizer (Adam where none is
        named), schedule and warmup; clip_norm bounds the norm of the gradient; ema keeps a moving average of the
        weights, which is then validated and saved. restore_best goes back to the best weights before each drop (or
        kick) of the rate.
        precision "auto" is bf16 where the hardware supports it; tf32 lets CUDA round float32 products; compile is
        torch.compile, "cuda-graphs" with its graphs. threads is part of what bit-identity depends on.
        side_by_side = "approximate" lets models that share a pass over the data step at once on a GPU
        (`training.fused`): faster for small networks, with results that agree within rounding, not to the bit.
    Selection and outputs
        validation: how many images (or groups, where `data` counts groups) of the validation part are evaluated after
        each epoch; "all", or 0 for none. select: which epoch's weights the run keeps, the best by `monitor` on
        validation, where there is any, unless it says "last". early_stopping ends the training when nothing improves.
        keep_epochs keeps the weights of every epoch, film the predictions of so many validation images. tuning: the
        score of objects on validation images that the decode parameters maximize. tta: scores are averaged over the
        eight rotations and reflections of an image, in tuning, evaluation and prediction, but not after each epoch.
    Without effect on results
        memory_gb for the data, beyond which they are streamed; cache_features of a frozen encoder; power_w, a cap of
        the GPU's power; tensorboard.

    seed belongs to a study, init and draw to one repetition of it.
    """

    RENAMED = {"average": "ema", "normalise": "normalize", "shuffle": "shuffle_window"}
    data: Annotated[tuple[DataSpec, ...], Field(min_length=1)]
    network: NetworkSpec = NetworkSpec()
    target: TargetSpec = ClassesSpec()
    split: SplitSpec = SplitSpec()
    parent: Annotated[ParentSpec | None, Field(alias="from")] = None
    weights: Literal["best", "last"] = "best"
    load: tuple[Part, ...] | None = None
    freeze: tuple[Part, ...] = ()
    unfreeze: tuple[UnfreezeSpec, ...] = ()
    normalize: NormalizeSpec = "background"
    sampling: SamplingSpec | None = None
    shuffle_window: Count | Literal["auto", "all"] = "auto"
    order: Literal["own", "shared"] = "own"
    epochs: Count = 10
    batch: Count = 16
    accumulate: Count = 1
    augment: Literal["none", "dihedral", "dihedral-all"] | AugmentSpec = "none"
    render: RenderSpec | None = None
    optimizer: OptimizerSpec = AdamSpec()
    schedule: ScheduleSpec = ConstantSpec(name="constant")
    warmup: WarmupSpec | None = None
    clip_norm: Annotated[float | None, Field(gt=0)] = None
    ema: EmaSpec | None = None
    validation: Annotated[int, Field(ge=0)] | Literal["all"] = "all"
    select: Literal["best", "last"] | None = None
    monitor: str = "validation_loss"
    tuning: TuningMetric = "ap_mean"
    tta: bool = False
    restore_best: bool = False
    early_stopping: EarlyStoppingSpec | None = None
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    tf32: bool = False
    compile: Literal["none", "default", "cuda-graphs"] = "none"
    threads: Count = 1
    side_by_side: Literal["exact", "approximate"] = "exact"
    keep_epochs: bool = False
    film: Annotated[int, Field(ge=0)] = 0
    memory_gb: Annotated[float | None, Field(gt=0, le=10**6)] = None
    cache_features: bool = True
    power_w: Annotated[float | None, Field(gt=0, le=10**6)] = None
    tensorboard: bool = False
    seed: Annotated[int, Field(ge=0)] = 0
    init: Annotated[int, Field(ge=0)] = 0
    draw: Annotated[int, Field(ge=0)] = 0

    @field_validator("freeze", "load", mode="before")
    @classmethod
    def _as_names(cls, value: Any) -> Any:
        if value == "none":
            return ()
        return (value,) if isinstance(value, str) else value

    @field_validator("optimizer", mode="before")
    @classmethod
    def _default_to_adam(cls, value: Any) -> Any:
        return {"name": AdamSpec().name, **value} if isinstance(value, dict) else value

    @field_validator("augment")
    @classmethod
    def _named_augment(cls, value: Any) -> Any:
        """Returns the short form of an equivalent table, so that both are one training."""
        return next((word for word, preset in AUGMENT_PRESETS.items() if preset == value), value)

    @model_validator(mode="after")
    def _consistent(self) -> StageSpec:
        if self.validation == 0 and self.select == "best" and self.monitor.startswith("validation_"):
            raise ValueError('select = "best" needs validation images; use select = "last" or validation = "all"')
        self._require_kind()
        if set(self.freeze) >= {"encoder", "decoder", "head"} and not self.unfreeze:
            raise ValueError("freeze names every part, so nothing is left to train; leave one out")
        if self.unfreeze and not self.freeze:
            raise ValueError("unfreeze names epochs from which parts are trained, but freeze names no part; add it")
        if self.load is not None and not self.load:
            raise ValueError("load names no part; remove it to load all of them")
        if self.accumulate > self.batch:
            raise ValueError(
                f"accumulate = {self.accumulate} parts of a batch of {self.batch}; `batch` is the whole batch of a "
                "step, so accumulate is at most that"
            )
        if self.film and self.validation == 0:
            raise ValueError("film keeps predictions of validation images; use film = 0 or validation images")
        schedules.require_fit(self.warmup, self.epochs)
        if self.restore_best and self.schedule.monitored is None:
            raise ValueError(
                "restore_best goes back to the best weights before a drop of the rate, but the schedule "
                f"'{self.schedule.name}' has none; use plateau or kicks"
            )
        if any(step.epoch > self.epochs for step in self.unfreeze):
            raise ValueError(f"unfreeze names an epoch after the last ({self.epochs})")
        for name, monitor in self._monitors().items():
            if self.validation == 0 and monitor.startswith("validation_"):
                raise ValueError(
                    f'{name} is "{monitor}", but validation = 0 leaves no validation images; use "train_loss" there'
                )
            if not monitor.startswith(("validation_", "train_")):
                raise ValueError(f'{name}: found "{monitor}"; write a column of the history, such as "validation_loss"')
        return self

    def _require_kind(self) -> None:
        """Raises ValueError if network, target and the settings that depend on them are not of the same kind."""
        target = self.target.name
        if not is_dense(self.network) and target != "image-class":
            raise ValueError(
                f"network '{self.network.name}' predicts one class for a whole image, but target '{target}' is of "
                "pixels; use a network that scores pixels, such as resunet, or the target image-class"
            )
        if self.film and target in ("image-class", "reconstruction"):
            raise ValueError(f"film shows classes of pixels, but target '{target}' has none; remove film")
        if self.sampling is not None and target == "reconstruction":
            raise ValueError("sampling favors rare classes, but target 'reconstruction' has none; remove sampling")

    def _monitors(self) -> dict[str, str]:
        """Returns setting -> column of the history, for every value that a decision of this stage depends on."""
        monitors: dict[str, str] = {}
        if (monitor := self.schedule.monitored) is not None:
            monitors["schedule.monitor"] = monitor
        if self.early_stopping is not None:
            monitors["early_stopping.monitor"] = self.early_stopping.monitor
        if self.tracks_best:
            monitors["monitor"] = self.monitor
        return monitors

    def key_settings(self, without: Collection[str]) -> dict[str, Any]:
        """Returns the settings that identify a stage: those that differ from the defaults and can change its result,
        except the named fields."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude={*OUTSIDE_KEY, *without})

    @property
    def monitors(self) -> list[str]:
        """The columns of the history by which epochs are selected, rates lowered, or the training stopped."""
        return sorted(set(self._monitors().values()))

    @property
    def selects_best(self) -> bool:
        validated = self.validation != 0 or self.monitor.startswith("train_")
        return self.select != "last" and validated

    @property
    def tracks_best(self) -> bool:
        """Whether the best weights so far are remembered, to be kept or to be restored."""
        return self.selects_best or self.restore_best

    @property
    def label_unit(self) -> Literal["images", "groups"]:
        return "groups" if any(item.groups is not None for item in self.data) else "images"

    @property
    def draws(self) -> bool:
        """Whether the draw index matters: not where all images are used."""
        return not all(item.everything for item in self.data) or self.validation not in (0, "all")


PASS_FIELDS = (
    "data", "split", "normalize", "sampling", "shuffle_window", "order", "batch", "augment", "render", "validation",
    "threads", "memory_gb", "tf32", "power_w", "side_by_side", "seed", "draw",
)  # fmt: skip


def shared_pass(spec: StageSpec) -> str:
    """Returns the settings that stages must share to be trained side by side in one pass over the data."""
    common = {name: spec.model_dump(mode="json", by_alias=True)[name] for name in PASS_FIELDS}
    common["layer"], common["divisor"] = spec.target.layer, divisor(spec.network)  # the data are checked against both
    common["order"] = spec.init if spec.order == "own" else "shared"
    return repr(common)


@dataclass(frozen=True)
class Inputs:
    """Where a stage's inputs are. datasets: name in the specification -> (path, identity), the identity being a key or
    a hash that draws depend on; parent: the folder of a finished run, or a safetensors file."""

    datasets: Mapping[str, tuple[Path, str]]
    parent: Path | None = None


@dataclass(frozen=True)
class TrainTask:
    """A planned training: its specification, run folder, key and inputs."""

    spec: StageSpec
    folder: Path
    key: str
    inputs: Inputs
