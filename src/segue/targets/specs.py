"""The specification of one class per pixel: loss, class weights, smoothing; without torch.

The specification of the target `image-class`, without torch.

The specification of the target `foreground`, without torch.

The specification of the target `boundary`, without torch.

The specification of the target `distance`, without torch.

The specification of star-convex polygons as a target, without torch; `rays` is the target.

The specification of flows as a target, without torch; `flows` is the target.

The specification of the target `descriptors`, without torch.

The specification of the target `reconstruction`, without torch.

The specification of the target `combined`, without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, field_validator, model_validator

from segue.spec import SpecModel

if TYPE_CHECKING:
    pass

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


class ImageClassSpec(SpecModel):
    """One class for a whole image, from a column of the dataset's samples: a condition, a treatment, a plate.

    The classes are the values of the column in rising order. Networks of whole images (mlp, alexnet-small, timm-…)
    give it directly; of networks of pixels the scores are averaged over the image. `class_weights` and
    `label_smoothing` are as of the target `classes`, images taking the place of pixels.
    """

    name: Literal["image-class"]
    column: str
    loss: Literal["cross_entropy", "focal"] | FocalSpec = "cross_entropy"
    class_weights: ClassWeights | None = None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _fitting(self) -> ImageClassSpec:
        _ = self.as_classes
        return self

    @property
    def as_classes(self) -> ClassesSpec:
        """The same of the one pixel that an image has in the end."""
        return ClassesSpec(loss=self.loss, class_weights=self.class_weights, label_smoothing=self.label_smoothing)

    @property
    def needs_counts(self) -> bool:
        """Whether the class weights follow from how many training images each class has."""
        return isinstance(self.class_weights, str | EffectiveNumberSpec)

    @property
    def layer(self) -> None:
        return None


class ForegroundSpec(SpecModel):
    """The probability that a pixel belongs to any object; objects are its connected parts.

    Objects that touch become one: that is what it is. `layer` names the label layer and may be left out where the
    dataset has one.
    """

    name: Literal["foreground"]
    layer: str | None = None


class BoundarySpec(SpecModel):
    """Three classes per pixel: background, the interior of an object, and its boundary.

    `boundary_px`: pixels of an object are its boundary where a pixel outside it is as near as that, between centres: 1
    is a line of one pixel that is closed for four neighbours, 1.5 one closed for eight. `towards`: what counts as
    outside, "all" that is not the object, or other "objects" alone, so that only contacts are boundary.
    `boundary_weight`: the weight of boundary pixels in the cross entropy, others have 1. `layer` names the label layer
    and may be left out where the dataset has one.
    """

    name: Literal["boundary"]
    boundary_px: Annotated[float, Field(ge=1, le=16)] = 2.0
    towards: Literal["all", "objects"] = "all"
    boundary_weight: Annotated[float, Field(gt=0)] = 1.0
    layer: str | None = None


class DistanceSpec(SpecModel):
    """The distance of each pixel of an object to what is not that object; 0 in the background.

    `normalised`: divided by its maximum in the object, so that every object reaches 1; otherwise in pixels.
    `foreground`: a second score tells the probability of an object, as most do; without it the distance must tell
    objects too, as in DIST (Naylor et al., IEEE TMI 38, 448 (2018)). `foreground_weight`: the weight of its cross
    entropy beside the mean squared error of the distance. `layer` names the label layer and may be left out where the
    dataset has one.
    """

    name: Literal["distance"]
    normalised: bool = False
    foreground: bool = True
    foreground_weight: Annotated[float, Field(gt=0)] = 1.0
    layer: str | None = None


class RaysSpec(SpecModel):
    """Star-convex polygons: object probability, and the distance to the object's border along `rays` directions.

    `rays` is a multiple of 4, so that quarter turns carry rays into rays. `distance_weight` weighs the distances
    against the probability in the loss, `background_weight` (within it) draws distances in the background to 0; both as
    in StarDist (Schmidt et al. 2018; Weigert et al. 2020). `layer` names the label layer and may be left out where the
    dataset has one.
    """

    name: Literal["rays"]
    rays: Annotated[int, Field(ge=8, le=256, multiple_of=4)] = 32
    distance_weight: Annotated[float, Field(gt=0)] = 0.2
    background_weight: Annotated[float, Field(ge=0)] = 1e-4
    layer: str | None = None


class FlowsSpec(SpecModel):
    """Flows to the centre of each object and the probability of objects (Stringer et al. 2021).

    `steps` says how long decoding follows the flows, a pixel each where they are sure: at least the way from the border
    of the largest object to its centre. `layer` names the label layer and may be left out where the dataset has one.
    """

    name: Literal["flows"]
    steps: Annotated[int, Field(ge=1, le=5000)] = 200
    layer: str | None = None


class DescriptorsSpec(SpecModel):
    """Local shape descriptors: size, centre and extent of each pixel's object within a Gaussian window around it.

    `sigma_px`: the window's standard deviation; about the radius of an object. `affinities`: the network also tells for
    each pixel whether it and its neighbours above and to the left are of one object, and objects are found from these,
    as in the paper; without, they are found from the offsets to local centres among the descriptors.
    `descriptor_weight`: the weight of the descriptors' mean squared error beside the cross entropies. `layer` names the
    label layer and may be left out where the dataset has one.
    """

    name: Literal["descriptors"]
    sigma_px: Annotated[float, Field(ge=1, le=100)] = 10.0
    affinities: bool = True
    descriptor_weight: Annotated[float, Field(gt=0)] = 1.0
    layer: str | None = None


class MaskedSpec(SpecModel):
    """Squares of `patch_px` are covered with the image's mean until `share` of the image is covered, and the loss is
    of what they cover: masked autoencoding (He et al. 2022, there 0.75 of squares of 16 px). Squares of one pixel
    leave a network with only the neighbours to tell a pixel from, as Noise2Void does (Krull et al. 2019)."""

    name: Literal["masked"]
    patch_px: Annotated[int, Field(ge=1)] = 16
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5


class NoiseSpec(SpecModel):
    """Gaussian noise is added, of a standard deviation between two limits, uniform; in standard deviations of the
    micrograph where images are normalised (denoising autoencoder, Vincent et al. 2008)."""

    name: Literal["noise"]
    sigma: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.5, 0.5)


class NothingSpec(SpecModel):
    """The network sees the image as it is (autoencoder); skips between encoder and decoder make that easy to copy."""

    name: Literal["nothing"] = "nothing"


Corruption = Annotated[MaskedSpec | NoiseSpec | NothingSpec, Field(discriminator="name")]


class ReconstructionSpec(SpecModel):
    """The image itself, as the network is shown it after augmentation, from what `corruption` leaves of it.

    It needs no labels; what it learns can be the start of another stage (load = ["encoder", "decoder"]). The loss is
    the mean squared error per channel and pixel, in squared units of the images as read; padding counts nowhere.
    """

    name: Literal["reconstruction"]
    corruption: Corruption = MaskedSpec(name="masked")

    @property
    def layer(self) -> None:
        return None


ObjectsSpec = ForegroundSpec | BoundarySpec | DistanceSpec | RaysSpec | FlowsSpec | DescriptorsSpec


def classes_unless_named(value: Any) -> Any:
    return {"name": "classes", **value} if isinstance(value, dict) else value


MainSpec = Annotated[
    Annotated[ClassesSpec | ObjectsSpec, Field(discriminator="name")], BeforeValidator(classes_unless_named)
]
AuxiliarySpec = Annotated[
    Annotated[ClassesSpec | ObjectsSpec | ReconstructionSpec, Field(discriminator="name")],
    BeforeValidator(classes_unless_named),
]


class Weighted(SpecModel):
    """An auxiliary target and the factor on its loss."""

    target: AuxiliarySpec
    weight: Annotated[float, Field(gt=0)] = 1.0


class CombinedSpec(SpecModel):
    """One network that is asked for several representations at once.

    `main` is what is scored, decoded and tuned. The loss is its own plus `weight` times that of each of `auxiliary`,
    whose scores the network gives too and nothing else uses. All are of the label layer of `main`.

        [target]
        name = "combined"
        main = { name = "flows" }
        auxiliary = [{ target = { name = "descriptors" }, weight = 0.5 }]
    """

    name: Literal["combined"]
    main: MainSpec
    auxiliary: Annotated[tuple[Weighted, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _fitting(self) -> CombinedSpec:
        asked = [self.main.model_copy(update={"layer": None}), *(part.target for part in self.auxiliary)]
        twice = next((spec for i, spec in enumerate(asked) if spec in asked[:i]), None)
        if twice is not None:
            raise ValueError(f"target '{twice.name}' is asked for twice with equal settings; leave one of them out")
        for part in self.auxiliary:
            if part.target.layer is not None:
                raise ValueError(
                    f"auxiliary target '{part.target.name}' names a layer; all are of the layer of main: name it there"
                )
            if isinstance(part.target, ReconstructionSpec) and part.target.corruption.name != "nothing":
                raise ValueError(
                    f"auxiliary reconstruction with corruption '{part.target.corruption.name}' would hide from main "
                    'what it is asked for; write corruption = { name = "nothing" }'
                )
        for spec in (self.main, *(part.target for part in self.auxiliary)):
            if isinstance(spec, ClassesSpec) and spec.needs_counts:
                raise ValueError("class_weights within a combined target are given as numbers, one for each class")
        return self

    @property
    def layer(self) -> str | None:
        return self.main.layer


OfLayer = ClassesSpec | ObjectsSpec | ReconstructionSpec
Spec = OfLayer | ImageClassSpec | CombinedSpec
TargetSpec = Annotated[Annotated[Spec, Field(discriminator="name")], BeforeValidator(classes_unless_named)]


def needs_counts(spec: Spec) -> bool:
    """Returns whether the class weights follow from the training samples."""
    return isinstance(spec, ClassesSpec | ImageClassSpec) and spec.needs_counts


def learns_images(spec: Spec) -> bool:
    """Returns whether the network is taught by the image itself, and not by labels alone."""
    if isinstance(spec, CombinedSpec):
        return any(isinstance(part.target, ReconstructionSpec) for part in spec.auxiliary)
    return isinstance(spec, ReconstructionSpec)
