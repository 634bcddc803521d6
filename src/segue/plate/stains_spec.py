"""What stains are told: how each becomes nuclei, which class a nucleus has by the stains it carries, and what is cell.

    [labels.stains.dapi]
    threshold = { name = "block-maxima", factor = 1.15 }
    [labels.stains.cy5]

    [[labels.rules]]
    name = "live"
    has = ["dapi"]
    lacks = ["cy5"]
    [[labels.rules]]
    name = "dead"
    has = ["cy5"]

Lengths are in µm; where the pixel size is not known one pixel is taken as 1 µm, and a note says so.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from segue.spec import SpecModel, unknown

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


class NoBackground(SpecModel):
    """The image as it is: thresholds are in its counts."""

    name: Literal["none"]


class OpeningBackground(SpecModel):
    """Subtracts a morphological opening by a square of `scale_um`: what is narrower, nuclei and clumps, stays."""

    name: Literal["opening"] = "opening"
    scale_um: Positive = 30.0


class GaussianBackground(SpecModel):
    """Subtracts a Gaussian mean of sd `scale_um`; dips appear around bright nuclei where the scale is small."""

    name: Literal["gaussian"]
    scale_um: Positive = 50.0


class BlockMaximaThreshold(SpecModel):
    """`factor` × the mode of the maxima of blocks of `block_um`: most blocks, or the largest group of alike ones, hold
    no nucleus, so that the mode is the highest that background comes to. It is the half-sample mode (Bickel and
    Frühwirth, Comput. Stat. Data Anal. 50, 3500, 2006). Where less than `least_empty` of the blocks stay under the
    threshold, a note says so.
    """

    name: Literal["block-maxima"] = "block-maxima"
    factor: Positive = 1.15
    block_um: Positive = 12.0
    least_empty: Share = 0.25


class OtsuThreshold(SpecModel):
    """The threshold of least variance within the two classes (Otsu 1979), times `factor`."""

    name: Literal["otsu"]
    factor: Positive = 1.0


class LocalThreshold(SpecModel):
    """The mean of a window of `window_um` around each pixel plus `offset_counts`."""

    name: Literal["local"]
    window_um: Positive = 50.0
    offset_counts: float = 50.0


class FixedThreshold(SpecModel):
    """A number of counts over the background that was subtracted."""

    name: Literal["fixed"]
    counts: float


Background = Annotated[NoBackground | OpeningBackground | GaussianBackground, Field(discriminator="name")]
Threshold = Annotated[
    BlockMaximaThreshold | OtsuThreshold | LocalThreshold | FixedThreshold, Field(discriminator="name")
]


class SplitSpec(SpecModel):
    """How touching nuclei are parted, by watershed: first by their brightness, then by the distance from their edges.

    Of two maxima the lower one is a nucleus of its own where the way to the higher descends by at least the share
    `depth` of its height; 1 never parts. `…_um`: sd of the smoothing before, against nuclei falling to pieces.
    """

    brightness_um: NotNegative = 1.5
    brightness_depth: Annotated[float, Field(gt=0, le=1)] = 0.05
    distance_um: NotNegative = 0.6
    distance_depth: Annotated[float, Field(gt=0, le=1)] = 0.03


class StainSpec(SpecModel):
    """One stain channel, from counts to objects, in the order of the fields.

    `edge`: a nucleus ends where the light falls below this share of its own maximum, wherever the threshold, which one
    low value cannot set for bright and faint nuclei alike; 0 leaves it to the threshold. `faint`: an object whose
    maximum is below this share of the typical one is haze, not a nucleus; typical is the median of the maxima weighted
    by the light of the objects, so that hundreds of faint ones do not sway it; 0 keeps all. `hole_um2`: holes up to
    this are filled. `opening_um`: radius of a morphological opening. Objects outside least and largest area are
    dropped.
    """

    background: Background = OpeningBackground()
    smoothing_um: NotNegative = 0.8
    threshold: Threshold = BlockMaximaThreshold()
    split: SplitSpec | Literal["none"] = SplitSpec()
    edge: Share = 0.3
    faint: Share = 0.1
    hole_um2: NotNegative = 20.0
    opening_um: NotNegative = 0.0
    least_area_um2: NotNegative = 12.0
    largest_area_um2: Positive | None = None

    @model_validator(mode="after")
    def _consistent(self) -> StainSpec:
        if self.largest_area_um2 is not None and self.largest_area_um2 <= self.least_area_um2:
            raise ValueError(
                f"largest_area_um2 = {self.largest_area_um2:g} is not above least_area_um2 = {self.least_area_um2:g}"
            )
        return self


class ClassRule(SpecModel):
    """The class `name` of nuclei that carry all stains of `has` and none of `lacks`."""

    name: Annotated[str, Field(min_length=1)]
    has: Annotated[tuple[str, ...], Field(min_length=1)]
    lacks: tuple[str, ...] = ()


class CellAreaSpec(SpecModel):
    """The class "cell", from the transmitted light: the Sobel magnitude of the image smoothed by `smoothing_um`, over
    `factor` × the mode of its values, which is that of noise (a higher factor loses cells near focus, which show
    little contrast; a lower one takes in halos); gaps closed with a radius of `closing_um`, holes up to `hole_um2`
    filled, areas below `least_area_um2` dropped; nuclei are cell too.
    """

    smoothing_um: NotNegative = 1.0
    factor: Positive = 3.0
    closing_um: NotNegative = 3.0
    hole_um2: NotNegative = 300.0
    least_area_um2: NotNegative = 60.0


class OutlineSpec(SpecModel):
    """The class "outline": pixels of objects within `width_um` of their border, at least one pixel, towards what is not
    the same object, "nuclei" or "cells" (the border of the cell area as a whole).
    """

    width_um: Positive = 1.0
    of: Literal["nuclei", "cells"] = "nuclei"


class StainsSpec(SpecModel):
    """Labels from stains. Stains are in the order of precedence: where two disagree the later one has the pixels.

    `overlap`: an object of an earlier stain of which at least this share is covered by one of a later stain is the same
    nucleus. A nucleus has the class of the first rule that it meets; `otherwise` says what it is where none is met.
    `bleed_through`: { dapi_in_cy5 = 0.03 } is the share of DAPI's light seen in Cy5, subtracted before all else;
    "estimate" finds it from nuclei that carry the first stain alone.
    Classes are numbered 0 background, 1 cell (with `cells`), then the rules in their order, and last outline (with
    `outline`): background, cell, live, dead, outline are the five classes; background, live, dead the three.
    """

    stains: dict[str, StainSpec] = Field(
        default_factory=lambda: {"dapi": StainSpec(), "cy5": StainSpec()}, min_length=1
    )
    rules: Annotated[tuple[ClassRule, ...], Field(min_length=1)] = (
        ClassRule(name="live", has=("dapi",), lacks=("cy5",)),
        ClassRule(name="dead", has=("cy5",)),
    )
    background: str = "background"
    overlap: Annotated[float, Field(gt=0, le=1)] = 0.7
    otherwise: Literal["background", "ignored"] = "ignored"
    bleed_through: dict[str, Annotated[float, Field(ge=0, lt=1)] | Literal["estimate"]] = Field(
        default_factory=lambda: {"dapi_in_cy5": "estimate"}
    )
    cells: CellAreaSpec | None = None
    outline: OutlineSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_these_stains(cls, data: Any) -> Any:
        """Leaves out the default bleed-through where other stains are given than the default ones."""
        if not isinstance(data, dict) or "bleed_through" in data or "stains" not in data:
            return data
        return data if {"dapi", "cy5"} <= set(data["stains"]) else {**data, "bleed_through": {}}

    @model_validator(mode="after")
    def _consistent(self) -> StainsSpec:
        named = [stain for rule in self.rules for stain in (*rule.has, *rule.lacks)]
        missing = [stain for stain in named if stain not in self.stains]
        if missing and "rules" not in self.model_fields_set:
            raise ValueError(_own_rules(list(self.stains)))
        if missing:
            raise ValueError(f"rules: {unknown(missing[0], self.stains, 'stain')}; give labels.stains.{missing[0]}")
        for pair in self.bleed_through:
            self.bleeding(pair)
        twice = [name for name in self.class_names if self.class_names.count(name) > 1]
        if twice:
            raise ValueError(f"the class name '{twice[0]}' occurs twice; give each class a name of its own")
        if self.outline is not None and self.outline.of == "cells" and self.cells is None:
            raise ValueError('outline.of = "cells" needs the table [labels.cells]; give it, or outline nuclei')
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of classes 0 …"""
        cell = ("cell",) if self.cells is not None else ()
        outline = ("outline",) if self.outline is not None else ()
        return (self.background, *cell, *(rule.name for rule in self.rules), *outline)

    def bleeding(self, pair: str) -> tuple[str, str]:
        """Returns ("dapi", "cy5") for "dapi_in_cy5"; raises ValueError where it names no two stains."""
        for source in self.stains:
            for target in self.stains:
                if source != target and pair == f"{source}_in_{target}":
                    return source, target
        raise ValueError(
            f"bleed_through: '{pair}' is not of the form <stain>_in_<stain> with two of {', '.join(self.stains)}"
        )


def _own_rules(stains: list[str]) -> str:
    """Returns what to write where the default rules do not go with the stains."""
    first, last = stains[0], stains[-1]
    one = f'[[labels.rules]] with name = "nucleus" and has = ["{first}"]'
    two = (
        f'[[labels.rules]] with name = "live", has = ["{first}"] and lacks = ["{last}"], and another with '
        f'name = "dead" and has = ["{last}"]'
    )
    return (
        "no rules are given, and the default ones are of the stains dapi (live) and cy5 (dead), but the stains here "
        f"are {', '.join(stains)}; say what each stain means, such as {one if first == last else two}"
    )
