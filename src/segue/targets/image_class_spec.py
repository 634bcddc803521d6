"""The specification of the target `image-class`, without torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from segue.spec import SpecModel
from segue.targets.classes_spec import ClassesSpec, ClassWeights, EffectiveNumberSpec, FocalSpec


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
