"""Specifications of all targets and their losses, without torch: the table `[target]` of a stage.

`TargetSpec` at the end is what a stage holds: one of the models above it, told apart by `name`; without a name it is
`classes`. `targets.registry.TARGETS` builds the target of each name, `targets.losses.LOSSES` holds the loss of each
name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from segue.spec import SpecModel

# ------------------------------------------------------------------ losses and class weights

PlainLossName = Literal["cross_entropy", "cross_entropy_of_probabilities", "dice", "dice_cross_entropy"]
LossName = Literal[PlainLossName, "focal", "tversky"]
RegressionName = Literal["squared_error", "absolute_error", "smooth_l1"]
LOSSES_WITH_SMOOTHING = ("cross_entropy", "cross_entropy_of_probabilities", "dice_cross_entropy")
LOSSES_WITH_WEIGHTS = (*LOSSES_WITH_SMOOTHING, "focal")


class PlainLossSpec(SpecModel):
    """A loss without parameters; `dice_cross_entropy` is the sum of both."""

    name: PlainLossName


class FocalSpec(SpecModel):
    """Cross entropy times (1 - p)^gamma, p the probability of the labeled class; gamma = 0 is cross entropy."""

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


def _text_or_table(value: Any) -> str:
    return "text" if isinstance(value, str) else "table"


def _notation(value: Any) -> str:
    """Returns how a value is written, so that a mistake is reported for that notation alone."""
    return "text" if isinstance(value, str) else "table" if isinstance(value, dict | SpecModel) else "list"


LossSpec = PlainLossSpec | FocalSpec | TverskySpec
Loss = Annotated[
    Annotated[LossName, Tag("text")] | Annotated[LossSpec, Field(discriminator="name"), Tag("table")],
    Discriminator(_text_or_table),
]
CountedName = Literal["inverse_frequency", "median_frequency"]
CountedWeights = CountedName | EffectiveNumberSpec
ClassWeights = Annotated[
    Annotated[tuple[Annotated[float, Field(gt=0)], ...], Tag("list")]
    | Annotated[CountedName, Tag("text")]
    | Annotated[EffectiveNumberSpec, Tag("table")],
    Discriminator(_notation),
]


def loss_spec(loss: LossName | LossSpec) -> LossSpec:
    """Returns the loss with its parameters, which are the defaults where only its name is given."""
    if not isinstance(loss, str):
        return loss
    if loss == "focal":
        return FocalSpec(name=loss)
    return TverskySpec(name=loss) if loss == "tversky" else PlainLossSpec(name=loss)


# ------------------------------------------------------------------ common to all targets


class TargetModel(SpecModel):
    """Properties of each target's specification, so that no caller needs to check its class."""

    name: Any  # a Literal in each target

    @property
    def label_kind(self) -> Literal["none", "classes", "instances"]:
        """The kind of label layer that fits best; "none" where the images alone are enough."""
        return "instances"

    @property
    def label_column(self) -> str | None:
        """The column of the dataset's samples that holds the labels, where no label layer does."""
        return None

    @property
    def is_self_supervised(self) -> bool:
        """Whether the image itself is (also) the training target, not labels alone."""
        return False

    @property
    def cheap_to_encode(self) -> bool:
        """Whether encoding labels is about as fast as transforming an encoding, so that nothing is cached."""
        return False

    @property
    def needs_counts(self) -> bool:
        """Whether the class weights follow from the pixels (or images) of each class in the training samples."""
        return False

    def with_class_weights(self, weights: tuple[float, ...] | None) -> Self:
        """Returns the specification with these weights, as a finished run has recorded them."""
        return self


class PixelLossModel(TargetModel):
    """A target with a loss of classes of pixels: `loss` is a name, or a table where it has parameters."""

    loss: Loss = "cross_entropy"

    @field_validator("loss")
    @classmethod
    def _shorten(cls, value: Loss) -> Loss:
        """Returns the name alone where the parameters are the defaults, so that both notations have one key."""
        return value if isinstance(value, str) or value != loss_spec(value.name) else value.name

    @property
    def loss_spec(self) -> LossSpec:
        """The loss with its parameters, also where only its name is given."""
        return loss_spec(self.loss)


# ------------------------------------------------------------------ classes


class ClassesSpec(PixelLossModel):
    """One of K classes per pixel; an instances layer counts as background and object.

    `layer` names the label layer and may be left out where the dataset has one. `class_weights`: one positive weight
    per class, or how they follow from the pixels of each class in the training samples; in `dice_cross_entropy` they
    weigh the cross entropy. `label_smoothing` is the fraction of each pixel's label that is spread evenly over all
    classes, in losses with cross entropy.
    """

    name: Literal["classes"] = "classes"
    class_weights: ClassWeights | None = None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    layer: str | None = None

    @field_validator("class_weights", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        if value == "effective_number":
            raise ValueError('it needs a beta: write { name = "effective_number", beta = 0.9999 }')
        return None if value == "none" else value

    @model_validator(mode="after")
    def _consistent(self) -> ClassesSpec:
        loss = self.loss_spec.name
        if self.class_weights is not None and loss not in LOSSES_WITH_WEIGHTS:
            raise ValueError(
                f"class_weights do nothing in loss '{loss}', which counts every class alike; remove them, or use one "
                f"of {', '.join(LOSSES_WITH_WEIGHTS)}"
            )
        if self.label_smoothing and loss not in LOSSES_WITH_SMOOTHING:
            raise ValueError(
                f"label_smoothing belongs to cross entropy and is not in loss '{loss}'; remove it, or use one of "
                f"{', '.join(LOSSES_WITH_SMOOTHING)}"
            )
        if self.label_smoothing and self.class_weights is not None and loss == "cross_entropy_of_probabilities":
            raise ValueError(
                "label_smoothing with class_weights has no known least value in cross_entropy_of_probabilities; "
                "remove one of them, or use cross_entropy"
            )
        return self

    @property
    def label_kind(self) -> Literal["none", "classes", "instances"]:
        return "classes"

    @property
    def cheap_to_encode(self) -> bool:
        return True

    @property
    def needs_counts(self) -> bool:
        return isinstance(self.class_weights, str | EffectiveNumberSpec)

    def with_class_weights(self, weights: tuple[float, ...] | None) -> Self:
        return self.model_copy(update={"class_weights": weights})


class ImageClassSpec(TargetModel):
    """One class for a whole image, from a column of the dataset's samples: a condition, a treatment, a plate.

    The classes are the values of the column in ascending order. Networks of whole images (mlp, alexnet-small, timm-…)
    give it directly; of networks of pixels the scores are averaged over the image. `class_weights` and
    `label_smoothing` are as of the target `classes`, with images in the place of pixels.
    """

    name: Literal["image-class"]
    column: str
    loss: Literal["cross_entropy", "focal"] | FocalSpec = "cross_entropy"
    class_weights: ClassWeights | None = None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _consistent(self) -> ImageClassSpec:
        _ = self.as_classes
        return self

    @property
    def as_classes(self) -> ClassesSpec:
        """The same for the single pixel to which an image is reduced."""
        return ClassesSpec(loss=self.loss, class_weights=self.class_weights, label_smoothing=self.label_smoothing)

    @property
    def layer(self) -> None:
        return None

    @property
    def label_kind(self) -> Literal["none", "classes", "instances"]:
        return "classes"

    @property
    def label_column(self) -> str:
        return self.column

    @property
    def cheap_to_encode(self) -> bool:
        return True

    @property
    def needs_counts(self) -> bool:
        return self.as_classes.needs_counts

    def with_class_weights(self, weights: tuple[float, ...] | None) -> Self:
        return self.model_copy(update={"class_weights": weights})


# ------------------------------------------------------------------ objects


class ForegroundSpec(PixelLossModel):
    """The probability that a pixel belongs to any object; objects are its connected parts.

    Objects that touch become one: that is its limit. `layer` names the label layer and may be left out where the
    dataset has one, here and in all that follow; `loss` is that of background and object.
    """

    name: Literal["foreground"]
    layer: str | None = None

    @property
    def cheap_to_encode(self) -> bool:
        return True


class BoundarySpec(PixelLossModel):
    """Three classes per pixel: background, the interior of an object, and its boundary.

    `boundary_px`: pixels of an object are its boundary where a pixel outside it is as near as that, between centers: 1
    is a line of one pixel that is closed for four neighbors, 1.5 one closed for eight. `towards`: what counts as
    outside, "all" that is not the object, or other "objects" alone, so that only contacts are boundary.
    `boundary_weight`: the weight of boundary pixels in the loss, others have 1. `loss` is that of the three classes.
    """

    name: Literal["boundary"]
    boundary_px: Annotated[float, Field(ge=1, le=16)] = 2.0
    towards: Literal["all", "objects"] = "all"
    boundary_weight: Annotated[float, Field(gt=0)] = 1.0
    layer: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> BoundarySpec:
        if self.boundary_weight != 1 and self.loss_spec.name not in LOSSES_WITH_WEIGHTS:
            raise ValueError(
                f"boundary_weight does nothing in loss '{self.loss_spec.name}', which counts every class alike; remove "
                f"it, or use one of {', '.join(LOSSES_WITH_WEIGHTS)}"
            )
        return self


class DistanceSpec(PixelLossModel):
    """The distance of each pixel of an object to what is not that object; 0 in the background.

    `normalized`: divided by its maximum in the object, so that every object reaches 1; otherwise in pixels.
    `foreground`: a second score gives the probability of an object, as most methods have it; without it the distance
    must separate objects from the background too, as in DIST (Naylor et al., IEEE TMI 38, 448 (2018)). `distance_loss`
    is that of the distance, `loss` that of the foreground, weighed by `foreground_weight` beside it.
    """

    RENAMED = {"normalised": "normalized"}

    name: Literal["distance"]
    normalized: bool = False
    foreground: bool = True
    foreground_weight: Annotated[float, Field(gt=0)] = 1.0
    distance_loss: RegressionName = "squared_error"
    layer: str | None = None


class RaysSpec(TargetModel):
    """Star-convex polygons: object probability, and the distance to the object's border along `rays` directions.

    `rays` is a multiple of 4, so that quarter turns carry rays into rays. `distance_weight` weighs the distances
    against the probability in the loss, `background_weight` (within it) draws distances in the background to 0; both as
    in StarDist (Schmidt et al. 2018; Weigert et al. 2020), as is the `distance_loss`. The probability is a number
    between 0 and 1 also in the training target, and its loss is always the binary cross entropy.
    """

    name: Literal["rays"]
    rays: Annotated[int, Field(ge=8, le=256, multiple_of=4)] = 32
    distance_weight: Annotated[float, Field(gt=0)] = 0.2
    background_weight: Annotated[float, Field(ge=0)] = 1e-4
    distance_loss: RegressionName = "absolute_error"
    layer: str | None = None


class FlowsSpec(PixelLossModel):
    """Flows to the center of each object and the probability of objects (Stringer et al. 2021).

    `steps` is how long decoding follows the flows, a pixel each where they are certain: at least the way from the
    border of the largest object to its center. `flow_loss` is that of the flows, `loss` that of the probability.
    """

    name: Literal["flows"]
    steps: Annotated[int, Field(ge=1, le=5000)] = 200
    flow_loss: RegressionName = "squared_error"
    layer: str | None = None


class DescriptorsSpec(PixelLossModel):
    """Local shape descriptors: size, center and extent of each pixel's object within a Gaussian window around it.

    `sigma_px`: the window's standard deviation; about the radius of an object. `affinities`: the network also gives for
    each pixel whether it and its neighbors above and to the left are of one object, and objects are found from these,
    as in the paper; without, they are found from the offsets to local centers among the descriptors.
    `descriptor_weight`: the weight of the descriptors' `descriptor_loss` beside `loss`, that of the foreground, and the
    binary cross entropy of the affinities.
    """

    name: Literal["descriptors", "lsd"]  # lsd is an alias, and becomes descriptors
    sigma_px: Annotated[float, Field(ge=1, le=100)] = 10.0
    affinities: bool = True
    descriptor_weight: Annotated[float, Field(gt=0)] = 1.0
    descriptor_loss: RegressionName = "squared_error"
    layer: str | None = None

    @field_validator("name")
    @classmethod
    def _resolve_alias(cls, _: str) -> str:
        return "descriptors"


# ------------------------------------------------------------------ images


class MaskedSpec(SpecModel):
    """Squares of `patch_px` are covered with the image's mean until the fraction `share` of the image is covered, and
    the loss is computed on the covered pixels: masked autoencoding (He et al. 2022, there 0.75 of squares of 16 px).
    Squares of one pixel leave a network with only the neighbors to predict a pixel from, as Noise2Void does (Krull et
    al. 2019)."""

    name: Literal["masked"]
    patch_px: Annotated[int, Field(ge=1)] = 16
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5


class NoiseSpec(SpecModel):
    """Gaussian noise is added, of a standard deviation between two limits, uniform; in units of the normalized
    images, by default thirds of the contrast of objects (denoising autoencoder, Vincent et al. 2008)."""

    name: Literal["noise"]
    sigma: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.5, 0.5)


class NothingSpec(SpecModel):
    """The network sees the image as it is (autoencoder); skips between encoder and decoder make that easy to copy."""

    name: Literal["nothing"] = "nothing"


Corruption = Annotated[MaskedSpec | NoiseSpec | NothingSpec, Field(discriminator="name")]


class ReconstructionSpec(TargetModel):
    """The image itself, after augmentation, from a corrupted version (`corruption`).

    It needs no labels; its weights can be the start of another stage (load = ["encoder", "decoder"]). The loss is
    the mean squared error per channel and pixel, in squared units of the images as read; padding counts nowhere.
    """

    name: Literal["reconstruction"]
    corruption: Corruption = MaskedSpec(name="masked")

    @property
    def layer(self) -> None:
        return None

    @property
    def label_kind(self) -> Literal["none", "classes", "instances"]:
        return "none"

    @property
    def is_self_supervised(self) -> bool:
        return True


# ------------------------------------------------------------------ combinations


def _default_to_classes(value: Any) -> Any:
    return {"name": "classes", **value} if isinstance(value, dict) else value


PixelSpec = ClassesSpec | ForegroundSpec | BoundarySpec | DistanceSpec | RaysSpec | FlowsSpec | DescriptorsSpec
MainSpec = Annotated[Annotated[PixelSpec, Field(discriminator="name")], BeforeValidator(_default_to_classes)]
AuxiliarySpec = Annotated[
    Annotated[PixelSpec | ReconstructionSpec, Field(discriminator="name")], BeforeValidator(_default_to_classes)
]


class WeightedSpec(SpecModel):
    """An auxiliary target and the factor on its loss."""

    target: AuxiliarySpec
    weight: Annotated[float, Field(gt=0)] = 1.0


class CombinedSpec(TargetModel):
    """One network with several representations as outputs.

    `main` is scored, decoded and tuned. The loss is its own plus `weight` times that of each of `auxiliary`, whose
    scores the network gives too and nothing else uses. All are of the label layer of `main`.

        [target]
        name = "combined"
        main = { name = "flows" }
        auxiliary = [{ target = { name = "descriptors" }, weight = 0.5 }]
    """

    name: Literal["combined"]
    main: MainSpec
    auxiliary: Annotated[tuple[WeightedSpec, ...], Field(min_length=1)]

    @property
    def parts(self) -> tuple[PixelSpec | ReconstructionSpec, ...]:
        """The main target, then the auxiliary ones."""
        return (self.main, *(part.target for part in self.auxiliary))

    @model_validator(mode="after")
    def _consistent(self) -> CombinedSpec:
        parts = [self.main.model_copy(update={"layer": None}), *self.parts[1:]]
        repeated = next((spec for i, spec in enumerate(parts) if spec in parts[:i]), None)
        if repeated is not None:
            raise ValueError(f"target '{repeated.name}' occurs twice with equal settings; leave one of them out")
        for part in self.parts[1:]:
            if part.layer is not None:
                raise ValueError(
                    f"auxiliary target '{part.name}' names a layer, but all use the layer of main: name it there"
                )
            if isinstance(part, ReconstructionSpec) and part.corruption.name != "nothing":
                raise ValueError(
                    f"auxiliary reconstruction with corruption '{part.corruption.name}' would hide from main what it "
                    'needs to see; write corruption = { name = "nothing" }'
                )
        if any(part.needs_counts for part in self.parts):
            raise ValueError("class_weights within a combined target are given as numbers, one for each class")
        return self

    @property
    def layer(self) -> str | None:
        return self.main.layer

    @property
    def label_kind(self) -> Literal["none", "classes", "instances"]:
        return "classes" if all(part.label_kind == "classes" for part in self.parts) else "instances"

    @property
    def is_self_supervised(self) -> bool:
        return any(part.is_self_supervised for part in self.parts)


Spec = PixelSpec | ImageClassSpec | ReconstructionSpec | CombinedSpec
TargetSpec = Annotated[Annotated[Spec, Field(discriminator="name")], BeforeValidator(_default_to_classes)]
