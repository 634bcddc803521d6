"""The specification of one class per pixel: loss, class weights, smoothing; without torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from segue.spec import SpecModel

Weight = Annotated[float, Field(gt=0)]
PlainLossName = Literal["cross_entropy", "cross_entropy_of_probabilities", "dice", "dice_cross_entropy"]
LossName = Literal[PlainLossName, "focal", "tversky"]
CountedName = Literal["inverse_frequency", "median_frequency"]
WITH_CROSS_ENTROPY = ("cross_entropy", "cross_entropy_of_probabilities", "dice_cross_entropy")
WITH_WEIGHTS = (*WITH_CROSS_ENTROPY, "focal")


class PlainLossSpec(SpecModel):
    """A loss without parameters; `dice_cross_entropy` is the sum of both."""

    name: PlainLossName


class FocalSpec(SpecModel):
    """Cross entropy times (1 - p)^gamma, p the probability of the labelled class; gamma = 0 is cross entropy."""

    name: Literal["focal"]
    gamma: Annotated[float, Field(ge=0)] = 2.0


class TverskySpec(SpecModel):
    """(1 - Tversky index)^exponent: `alpha` weighs false positives and `beta` false negatives; both 0.5 is Dice.

    Defaults of Salehi et al. 2017; an exponent of 0.75 is the focal Tversky loss of Abraham & Khan 2019.
    """

    name: Literal["tversky"]
    alpha: Annotated[float, Field(gt=0)] = 0.3
    beta: Annotated[float, Field(gt=0)] = 0.7
    exponent: Annotated[float, Field(gt=0)] = 1.0


class EffectiveNumberSpec(SpecModel):
    """Class weights from the effective number of pixels (Cui et al. 2019).

    Where every class has far more than 1 / (1 - beta) pixels all weights become alike, so `beta` has no default:
    choose 1 - 1/n with n between the pixels of the rarest and of the most frequent class.
    """

    name: Literal["effective_number"]
    beta: Annotated[float, Field(gt=0, lt=1)]


def _way(value: Any) -> str:
    """Returns which way of writing is meant, so that a mistake is told in that one alone."""
    if isinstance(value, str):
        return "text"
    return "table" if isinstance(value, dict | SpecModel) else "list"


def _named_or_table(value: Any) -> str:
    return "text" if isinstance(value, str) else "table"


LossSpec = PlainLossSpec | FocalSpec | TverskySpec
CountedWeights = CountedName | EffectiveNumberSpec
Loss = Annotated[
    Annotated[LossName, Tag("text")] | Annotated[LossSpec, Field(discriminator="name"), Tag("table")],
    Discriminator(_named_or_table),
]
ClassWeights = Annotated[
    Annotated[tuple[Weight, ...], Tag("list")]
    | Annotated[CountedName, Tag("text")]
    | Annotated[EffectiveNumberSpec, Tag("table")],
    Discriminator(_way),
]


def loss_spec(name: LossName) -> LossSpec:
    """Returns the loss of that name with the default parameters."""
    if name == "focal":
        return FocalSpec(name=name)
    return TverskySpec(name=name) if name == "tversky" else PlainLossSpec(name=name)


class ClassesSpec(SpecModel):
    """What the network is to predict.

    `classes`: one of K classes per pixel; an instances layer counts as background and object. `layer` names the
    label layer and may be left out where the dataset has one. `loss` is a name, or a table where it has parameters.
    `class_weights`: one positive weight per class, or how they follow from the pixels of each class in the training
    samples; in `dice_cross_entropy` they weigh the cross entropy. `label_smoothing` is the share of each pixel's label
    that is spread evenly over all classes, in losses with cross entropy.
    """

    name: Literal["classes"] = "classes"
    loss: Loss = "cross_entropy"
    class_weights: ClassWeights | None = None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    layer: str | None = None

    @field_validator("loss")
    @classmethod
    def _short(cls, value: Loss) -> Loss:
        """Returns the name alone where the parameters are the defaults, so that both ways of writing have one key."""
        return value if isinstance(value, str) or value != loss_spec(value.name) else value.name

    @field_validator("class_weights", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        if value == "effective_number":
            raise ValueError('it needs a beta: write { name = "effective_number", beta = 0.9999 }')
        return None if value == "none" else value

    @model_validator(mode="after")
    def _fitting(self) -> ClassesSpec:
        loss = self.loss_name
        if self.class_weights is not None and loss not in WITH_WEIGHTS:
            raise ValueError(
                f"class_weights do nothing in loss '{loss}', which counts every class alike; remove them, or use one "
                f"of {', '.join(WITH_WEIGHTS)}"
            )
        if self.label_smoothing and loss not in WITH_CROSS_ENTROPY:
            raise ValueError(
                f"label_smoothing belongs to cross entropy and is not in loss '{loss}'; remove it, or use one of "
                f"{', '.join(WITH_CROSS_ENTROPY)}"
            )
        if self.label_smoothing and self.class_weights is not None and loss == "cross_entropy_of_probabilities":
            raise ValueError(
                "label_smoothing with class_weights has no known least value in cross_entropy_of_probabilities; "
                "remove one of them, or use cross_entropy"
            )
        return self

    @property
    def loss_name(self) -> LossName:
        return self.loss if isinstance(self.loss, str) else self.loss.name

    @property
    def loss_spec(self) -> LossSpec:
        """The loss with its parameters, also where only its name is given."""
        return loss_spec(self.loss) if isinstance(self.loss, str) else self.loss

    @property
    def needs_counts(self) -> bool:
        """Whether the class weights follow from the pixels of each class in the training samples."""
        return isinstance(self.class_weights, str | EffectiveNumberSpec)
