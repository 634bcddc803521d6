"""What may be done to the views of an epoch (`AugmentSpec`) and what is done to each (`draw`).

A view is one visit of a sample in an epoch. Its parameters are drawn for a whole epoch at once and belong to the view,
so an epoch may be cut into batches anyhow. `segue.data.augment` carries them out; here nothing needs torch.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator, model_validator

from segue.spec import SpecModel

Range = tuple[float, float]
COPIES = 8  # of a square under rotations and reflections


class ElasticSpec(SpecModel):
    """A smooth random displacement, `amplitude_px` its standard deviation along each axis.

    It is white noise smoothed by a Gaussian of standard deviation `sigma_px` (Simard, Steinkraus & Platt 2003), so its
    correlation at a distance r is exp(-r² / 4 sigma_px²) and its slope has the standard deviation
    amplitude_px / (√2 sigma_px); beyond a third of sigma_px it begins to fold the image over itself.
    """

    amplitude_px: Annotated[float, Field(gt=0)]
    sigma_px: Annotated[float, Field(ge=1)]

    @model_validator(mode="after")
    def _unfolded(self) -> ElasticSpec:
        if self.amplitude_px > self.sigma_px:
            raise ValueError(
                f"found amplitude_px {self.amplitude_px:g} above sigma_px {self.sigma_px:g}, which folds the image over"
                " itself; allowed: at most sigma_px, and at most a third of it for tissue; lower amplitude_px"
            )
        return self


class AugmentSpec(SpecModel):
    """Random changes of each view; what is not named is not done.

    dihedral: one of the eight rotations and reflections of the tile, exact ("random"), or every one of them, eight
    views of each sample ("all"). The changes below are each made to a view with `probability`, independently.

    Geometry, of image and labels together, in one resampling about the tile's centre:
    scale: the factor by which things grow, log-uniform between two limits; rotation_deg: the angle, uniform in ±;
    elastic: a smooth displacement.

    Intensity, per channel, in this order, as light, counting, readout and display would act:
    blur_px: standard deviation of a Gaussian, uniform between two limits; poisson: the counts that the brightest pixel
    of the view stands for, the darkest standing for none, log-uniform; noise: standard deviation of Gaussian noise,
    uniform; gamma: exponent on the view's own range, which it keeps, log-uniform; contrast: factor on the distance from
    the view's mean, log-uniform; brightness: what is added, uniform in ±. Noise and brightness are in the units of the
    images as read: standard deviations of the micrograph where images are normalised. standardise: every view is
    brought to mean 0 and standard deviation 1 in the end (a constant channel to 0).
    """

    dihedral: Literal["none", "random", "all"] = "random"
    scale: Range | None = None
    rotation_deg: Annotated[float, Field(ge=0, le=180)] = 0.0
    elastic: ElasticSpec | None = None
    blur_px: Range | None = None
    poisson: Range | None = None
    noise: Range | None = None
    gamma: Range | None = None
    contrast: Range | None = None
    brightness: Annotated[float, Field(ge=0)] = 0.0
    standardise: bool = False
    probability: Annotated[float, Field(gt=0, le=1)] = 1.0

    @field_validator("scale", "contrast", "gamma", "poisson", "blur_px", "noise")
    @classmethod
    def _ordered(cls, value: Range | None, info: ValidationInfo) -> Range | None:
        name = info.field_name
        lowest, words = (0.0, "0 or above") if name in ("blur_px", "noise") else (math.ulp(0.0), "above 0")
        found = "" if value is None else f"found [{value[0]:g}, {value[1]:g}]"
        if value is not None and not lowest <= value[0] <= value[1]:
            raise ValueError(
                f"{found}; allowed: two numbers {words}, the lower first; give the same number twice for a fixed one"
            )
        if name == "scale" and value is not None and not (value[0] >= 0.1 and value[1] <= 10):
            raise ValueError(f"{found}; allowed: factors between 0.1 and 10; narrow the range")
        return value

    @model_validator(mode="after")
    def _used(self) -> AugmentSpec:
        if self.probability < 1 and not (self.resamples or self.changes_intensity):
            raise ValueError(
                f"found probability {self.probability:g} without a change that it could apply to (it leaves dihedral "
                "alone); add scale, rotation_deg, noise or another, or remove probability"
            )
        return self

    @property
    def resamples(self) -> bool:
        return self.scale is not None or self.rotation_deg > 0 or self.elastic is not None

    @property
    def changes_intensity(self) -> bool:
        ranges = (self.blur_px, self.poisson, self.noise, self.gamma, self.contrast)
        return self.brightness > 0 or any(limits is not None for limits in ranges)


@dataclass(frozen=True)
class Drawn:
    """What is done to each of n views: arrays (n,), neutral where a change is not made.

    Indexing with a slice, an index array or a mask gives those views. A view's random fields are made from its `seed`.
    """

    code: np.ndarray  # of segue.data.augment.dihedral; 0 changes nothing
    scale: np.ndarray  # 1
    angle_deg: np.ndarray  # 0; positive turns to the left, as torch.rot90 does
    elastic_px: np.ndarray  # 0
    blur_px: np.ndarray  # 0
    poisson_peak: np.ndarray  # 0: not counted
    noise: np.ndarray  # 0
    gamma: np.ndarray  # 1
    contrast: np.ndarray  # 1
    brightness: np.ndarray  # 0
    seed: np.ndarray  # int64

    def __len__(self) -> int:
        return len(self.code)

    def __getitem__(self, index: slice | np.ndarray) -> Drawn:
        return Drawn(*(getattr(self, field.name)[index] for field in dataclasses.fields(self)))

    @property
    def resampled(self) -> np.ndarray:
        """Returns which views (n,) are scaled, rotated or deformed."""
        return (self.scale != 1) | (self.angle_deg != 0) | (self.elastic_px > 0)


def draw(spec: AugmentSpec, count: int, generator: np.random.Generator) -> Drawn:
    """Returns the parameters of `count` views; every change has random numbers of its own, so that switching one on or
    off leaves the others as they were.

    With dihedral "all" the views are eight copies of each sample, one sample after another, and view k has the code
    k mod 8; raises ValueError when `count` is no multiple of eight then.
    """
    if spec.dihedral == "all" and count % COPIES:
        raise ValueError(f'{count} views are no whole number of samples; dihedral = "all" has eight views of each')
    random = generator.integers(COPIES, size=count)
    code = {"none": np.zeros_like(random), "random": random, "all": np.arange(count) % COPIES}[spec.dihedral]
    seed = generator.integers(2**63, size=count, dtype=np.int64)
    value, coin = generator.random((count, 9, 2)).transpose(2, 1, 0)
    applies = coin < spec.probability

    def chosen(column: int, drawn: np.ndarray, neutral: float) -> np.ndarray:
        return np.where(applies[column], drawn, neutral)

    amplitude_px = np.full(count, 0.0 if spec.elastic is None else spec.elastic.amplitude_px)
    return Drawn(
        code=code,
        scale=chosen(0, _log_uniform(spec.scale or (1, 1), value[0]), 1),
        angle_deg=chosen(1, _uniform((-spec.rotation_deg, spec.rotation_deg), value[1]), 0),
        elastic_px=chosen(2, amplitude_px, 0),
        blur_px=chosen(3, _uniform(spec.blur_px or (0, 0), value[3]), 0),
        poisson_peak=chosen(4, _log_uniform(spec.poisson, value[4]) if spec.poisson else np.zeros(count), 0),
        noise=chosen(5, _uniform(spec.noise or (0, 0), value[5]), 0),
        gamma=chosen(6, _log_uniform(spec.gamma or (1, 1), value[6]), 1),
        contrast=chosen(7, _log_uniform(spec.contrast or (1, 1), value[7]), 1),
        brightness=chosen(8, _uniform((-spec.brightness, spec.brightness), value[8]), 0),
        seed=seed,
    )


def _uniform(limits: Range, value: np.ndarray) -> np.ndarray:
    """Returns numbers between the limits from numbers in [0, 1)."""
    return limits[0] + (limits[1] - limits[0]) * value


def _log_uniform(limits: Range, value: np.ndarray) -> np.ndarray:
    """Returns factors between the limits, as often twice as half of a middle one, from numbers in [0, 1)."""
    return limits[0] * (limits[1] / limits[0]) ** value
