"""Where the images of a plate lie and what they are: the table [files] of a plate's specification.

    [files]
    pattern  = "raw/{plate}/{well}/t{time}_r{row}_c{column}_{channel}.tif"
    channels = { brightfield = "w1", dapi = "w2", cy5 = "w3" }      # our name = the file's token; default: the tokens
    wells    = "plates.csv"                                         # plate, well, stained, experiment, conditions …
    overlap  = 0.1
    interval_h = 4.0

A running number instead of rows and columns, here of a stage that goes to and fro:

    pattern     = "{well}/{well}_s{field}_w{channel}_t{time}.tif"
    grid        = [3, 3]
    field_order = "snake-rows"

Metadata instead of names: format = "ome-tiff" with pattern = "raw/{plate}_{well}.ome.tif", or "ome-zarr" with pattern =
"{plate}.zarr". A table instead of both: format = "manifest" with manifest = "files.csv".


Which fields (tiles, as the microscope took them) are too bad to use, and what is done with them.

    [quality.defocused]
    level = 0.3
    action = "mark"

A field that is to be excluded is left out of mosaics, labels and tiles; one that is marked is told in the report alone.


What stains are told: how each becomes nuclei, which class a nucleus has by the stains it carries, and what is cell.

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


How mosaics are cut into tiles, which of them are kept, and which datasets are written.

What `segue plate` is told: where the images are, and how they become mosaics, labels and tiles.

    name = "live-dead"
    transmitted = "brightfield"

    [files]
    pattern = "raw/{plate}/{well}/t{time}_r{row}_c{column}_{channel}.tif"
    wells   = "plates.csv"
    overlap = 0.1

    [labels.stains.dapi]
    [labels.stains.cy5]

    [splits.wells]
    validation = 0.2
    test = 0.2

Instead of [files], a table [synthetic] asks for a made plate (`segue.plates.synthetic.spec`), written beside the
dataset.
"""

from __future__ import annotations

import json
import string
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from segue.data.spec import SplitSpec
from segue.data.tiling import Edge
from segue.plates.synthetic.spec import SyntheticSpec
from segue.spec import SpecModel, unknown

NUMBERS = ("time", "row", "column", "field")
PLACEHOLDERS = ("plate", "well", "channel", *NUMBERS)
FieldOrder = Literal["rows", "columns", "snake-rows", "snake-columns"]
Length = Annotated[float, Field(gt=0)]
Side = Annotated[int, Field(ge=1, le=1000)]


class FilesSpec(SpecModel):
    """How the files of one or several plates are found. All paths start at the specification's folder.

    format: what tells which image is which: the "pattern" of the file names, the metadata of "ome-tiff" files or
    "ome-zarr" plates (pattern then names the files or plates, and what their names tell), or a "manifest".
    pattern: placeholders {plate}, {well}, {time}, {row} and {column} or {field}, {channel}; numbers are digits, as many
    as {time:03d} says or any; *, ? stand for any characters but "/". Without {plate} there is one, named `plate`;
    without {time} one time point, 0; without {channel} all is transmitted light.
    manifest: a CSV with the columns well, channel, path and optionally plate, time, row and column or field, and index
    (the page of a TIFF, or the leading indices of a Zarr array, "0 2").
    wells: a CSV with a row per well that is to be used; without it all are, and those with every channel are stained.
    """

    format: Literal["pattern", "ome-tiff", "ome-zarr", "manifest"] = "pattern"
    pattern: str | None = None
    manifest: str | None = None
    channels: dict[str, str] = Field(default_factory=dict)  # our name = token in names or metadata; {}: the tokens
    ignore_channels: tuple[str, ...] = ()  # tokens that are left out
    grid: tuple[Side, Side] | None = None  # rows, columns of a well's fields; None: as the rows and columns show
    field_order: FieldOrder = "rows"  # how the running number {field} goes; snakes turn round after each row or column
    count_from: Literal[0, 1] | None = None  # of rows, columns and fields; None: 0 where one is numbered 0, else 1
    stage_y_up: bool = False  # whether the stage's y of metadata grows towards the upper rows of the image
    stage_x_left: bool = False  # whether its x grows towards the left columns
    plate: str = Field(default="P1", pattern=r"^[^/]+$")  # the name where nothing else gives one
    wells: str | None = None
    overlap: float = Field(default=0.1, ge=0, lt=1)  # nominal, as a fraction of the tile's side
    pixel_size_um: Length | None = None  # None: as the metadata say
    interval_h: Length | None = None  # from one time index to the next; index 0 is at 0 h
    times: str | None = None  # a CSV with the columns time and time_h, instead
    only_wells: tuple[str, ...] = ()  # "A1", on all plates, or "P1/A1"; (): all
    only_times: tuple[Annotated[int, Field(ge=0)], ...] = ()

    @field_validator("pattern")
    @classmethod
    def _readable(cls, pattern: str | None, others: ValidationInfo) -> str | None:
        if pattern is not None:
            _check_placeholders(pattern, others.data.get("format"))
        return pattern

    @field_validator("channels")
    @classmethod
    def _named(cls, channels: dict[str, str]) -> dict[str, str]:
        bad = [name for name in channels if not name or "/" in name]
        if bad:
            raise ValueError(f"'{bad[0]}' cannot be a name; give one without a slash")
        return channels

    @model_validator(mode="after")
    def _consistent(self) -> FilesSpec:
        if (self.format == "manifest") != (self.manifest is not None):
            raise ValueError('manifest goes with format = "manifest", and with no other; give both or neither')
        if (self.format == "manifest") == (self.pattern is not None):
            raise ValueError(f'format = "{self.format}" {"takes no" if self.pattern else "needs a"} pattern')
        named = {name for _, name, _ in placeholders(self.pattern or "")}
        if "field" in named and self.grid is None and self.format == "pattern":
            raise ValueError(
                f"pattern = '{self.pattern}' has {{field}}, and there is no grid; add grid = [rows, columns]"
            )
        if self.interval_h is not None and self.times is not None:
            raise ValueError("give either interval_h or times, a table")
        tokens = list(self.channels.values())
        twice = sorted({token for token in tokens if tokens.count(token) > 1 or token in self.ignore_channels})
        if twice:
            raise ValueError(f"channels: the token '{twice[0]}' is used twice; give each channel its own")
        return self


def placeholders(pattern: str) -> list[tuple[str, str, int]]:
    """Returns (literal text, the placeholder after it, least digits or 0) in order; the last may have no placeholder.

    Raises ValueError for braces that do not close and for unknown placeholders.
    """
    try:
        parts = list(string.Formatter().parse(pattern))
    except ValueError as error:
        raise ValueError(f"'{pattern}' cannot be read ({error}); write e.g. {{well}}") from None
    found = []
    for literal, name, width, conversion in parts:
        if name is None:
            found.append((literal, "", 0))
            continue
        if name not in PLACEHOLDERS or conversion:
            raise ValueError(f"'{pattern}': {unknown(name, PLACEHOLDERS, 'placeholder')}")
        digits = (width or "0").removesuffix("d")
        if not digits.isdigit() or (width and name not in NUMBERS):
            raise ValueError(f"'{pattern}': '{{{name}:{width}}}' is no number of digits; write e.g. {{time:03d}}")
        found.append((literal, name, int(digits)))
    return found


def _check_placeholders(pattern: str, kind: str | None) -> None:
    """Raises ValueError where the placeholders contradict each other, or do not go with `kind`, the format."""
    names = [name for _, name, _ in placeholders(pattern)]
    where = f"'{pattern}'"
    if kind == "pattern" and "well" not in names:
        raise ValueError(f"{where} has no {{well}}; write e.g. '{{well}}/r{{row}}_c{{column}}_{{channel}}.tif'")
    if ("row" in names) != ("column" in names):
        raise ValueError(
            f"{where} has one of {{row}} and {{column}}; give both, or {{field}} with grid and field_order"
        )
    if "row" in names and "field" in names:
        raise ValueError(f"{where} has {{row}} and {{column}}, and {{field}}; one of them tells the place")
    other = sorted(set(names) - {"", "plate"})
    if kind == "ome-zarr" and other:
        raise ValueError(f"{where} has {{{other[0]}}}; a Zarr plate tells that itself, and its name at most {{plate}}")


Action = Literal["exclude", "mark"]
Share = Annotated[float, Field(ge=0, le=1)]


class SaturatedSpec(SpecModel):
    """More than `fraction` of the pixels at `full_counts`, or at the largest number of the file's type (None)."""

    fraction: Share = 0.02
    full_counts: Annotated[float, Field(gt=0)] | None = None
    action: Action = "exclude"


class BlackSpec(SpecModel):
    """The median below `level` of that of the other fields: the shutter was closed, or the lamp off."""

    level: Share = 0.5
    action: Action = "exclude"


class DefocusedSpec(SpecModel):
    """Fine contrast below `level` of that of the other fields, though there is something: see EmptySpec."""

    level: Share = 0.3
    action: Action = "exclude"


class EmptySpec(SpecModel):
    """No structure: fine and coarse contrast both below `contrast`, a share of the brightness.

    Where the other fields have none either, or there are none, the fine contrast alone decides. Among fields with
    structure an empty one looks much like one far out of focus; in doubt it is called defocused.
    """

    contrast: Annotated[float, Field(ge=0)] = 0.001
    action: Action = "mark"


class QualitySpec(SpecModel):
    """What makes a field bad. Contrast is measured at two scales: `fine_px` and `coarse_px` are the sd of the Gaussian
    whose Laplacian is taken. Fields of stains are judged by saturation and blackness alone: without a nucleus they are
    rightly empty.
    """

    fine_px: Annotated[float, Field(ge=0.7, le=8)] = 2.0
    coarse_px: Annotated[float, Field(gt=2, le=64)] = 8.0
    saturated: SaturatedSpec = SaturatedSpec()
    black: BlackSpec = BlackSpec()
    defocused: DefocusedSpec = DefocusedSpec()
    empty: EmptySpec = EmptySpec()


Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
StainShare = Annotated[float, Field(ge=0, lt=1)]


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
    Frühwirth, Comput. Stat. Data Anal. 50, 3500, 2006). Where less than `min_empty` of the blocks stay under the
    threshold, a note says so.
    """

    name: Literal["block-maxima"] = "block-maxima"
    factor: Positive = 1.15
    block_um: Positive = 12.0
    min_empty: StainShare = 0.25


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


class NucleusSplitSpec(SpecModel):
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
    split: NucleusSplitSpec | Literal["none"] = NucleusSplitSpec()
    edge: StainShare = 0.3
    faint: StainShare = 0.1
    hole_um2: NotNegative = 20.0
    opening_um: NotNegative = 0.0
    min_area_um2: NotNegative = 12.0
    max_area_um2: Positive | None = None

    @model_validator(mode="after")
    def _consistent(self) -> StainSpec:
        if self.max_area_um2 is not None and self.max_area_um2 <= self.min_area_um2:
            raise ValueError(f"max_area_um2 = {self.max_area_um2:g} is not above min_area_um2 = {self.min_area_um2:g}")
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
    filled, areas below `min_area_um2` dropped; nuclei are cell too.
    """

    smoothing_um: NotNegative = 1.0
    factor: Positive = 3.0
    closing_um: NotNegative = 3.0
    hole_um2: NotNegative = 300.0
    min_area_um2: NotNegative = 60.0


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


MOST_CHUNK_BYTES = 2**28  # of labels, 4 bytes a pixel, as memory holds several; HDF5 itself allows sixteen times that


class KeepSpec(SpecModel):
    """Which tiles the kept dataset holds; the defaults are the published rule, more than one class.

    classes: least number of classes that occur in a tile, the background among them. foreground: least fraction of its
    pixels that are of a class other than the background. labelled: least fraction of its pixels that are not ignored.
    """

    classes: int = Field(default=2, ge=0)
    foreground: float = Field(default=0, ge=0, le=1)
    labeled: float = Field(default=0, ge=0, le=1)


class TilesSpec(SpecModel):
    """The table [tiles]; the defaults are the published geometry: 2700 × 3600 px give 32 × 44 = 1408 tiles.

    edge: "drop" leaves out a tile that would reach beyond the border; "shift" moves it back inside, so that every pixel
    is in a tile. chunk: tiles in a chunk of the file, fewer where there are fewer tiles or where they are large
    (`rows`). layer: the class layer whose counts decide what is kept. datasets: "kept" or "full" is written to OUT.h5;
    with "both", OUT.h5 is the kept one and OUT.full.h5 beside it holds all tiles. Whole mosaics are stored in OUT.h5
    alone, where keep_micrographs is true.
    """

    tile_px: int = Field(default=160, ge=1)
    stride_px: int = Field(default=80, ge=1)
    edge: Edge = "drop"
    chunk: int = Field(default=1000, ge=1)
    layer: str = "classes"
    keep: KeepSpec = KeepSpec()
    datasets: Literal["kept", "full", "both"] = "kept"
    keep_micrographs: bool = True

    @model_validator(mode="after")
    def _fits(self) -> TilesSpec:
        if 4 * self.tile_px**2 > MOST_CHUNK_BYTES:
            most = int((MOST_CHUNK_BYTES // 4) ** 0.5)
            raise ValueError(
                f"tile_px = {self.tile_px} is too large for a chunk of the file; lower it to at most {most}"
            )
        return self

    @property
    def rows(self) -> int:
        """The most tiles in a chunk of the file: `chunk`, or as many as 256 MiB of labels are."""
        return min(self.chunk, MOST_CHUNK_BYTES // (4 * self.tile_px**2))


VERSION = 3  # raised by hand when the same specification and files give another dataset
REACH_PX = 32.0


class StitchingSpec(SpecModel):
    """How the fields of a well become one mosaic per time point.

    reach_px: how far the shift between two neighbours may lie from the nominal one, along each axis: twice the stage's
    error. flat_field: "estimate" from the tiles of each plate and channel, where there are four at least, or "none".
    dark_counts: what the camera gives without light; None estimates it. register_px: the largest drift between frames,
    which is measured and taken out; None leaves frames where the stage put them. even: "time" evens out the brightness
    of the transmitted light between frames. mosaics: written as files too, beside the dataset.
    """

    reach_px: float = Field(default=REACH_PX, gt=0)
    flat_field: Literal["estimate", "none"] = "estimate"
    dark_counts: float | None = Field(default=None, ge=0)
    register_px: float | None = Field(default=None, gt=0)
    equalize_brightness: Literal["time", "none"] = "time"
    mosaics: Literal["none", "ome-tiff", "ome-zarr"] = "none"


class PlateSpec(SpecModel):
    """A plate, or several of one kind, and how to make a dataset of it. Paths start at the specification's folder."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    title: str = ""
    transmitted: str = "brightfield"  # the channel that networks see
    files: FilesSpec | None = None
    synthetic: SyntheticSpec | None = None
    stitching: StitchingSpec = StitchingSpec()
    labels: StainsSpec = StainsSpec()
    quality: QualitySpec = QualitySpec()
    tiles: TilesSpec = TilesSpec()
    splits: dict[str, SplitSpec] = Field(default_factory=dict)
    overlays: bool = True  # pictures of labels over images, to check by eye

    @model_validator(mode="after")
    def _consistent(self) -> PlateSpec:
        if (self.files is None) == (self.synthetic is None):
            raise ValueError("give either [files], where the images are, or [synthetic], a plate to be made")
        if self.transmitted in self.labels.stains:
            raise ValueError(
                f"'{self.transmitted}' is both the transmitted-light channel and a stain; name the stains' channels"
            )
        stored = [name for name, split in self.splits.items() if split.stored is not None]
        if stored:
            raise ValueError(f"splits.{stored[0]}: names a stored split; give seed, validation and test")
        return self


def well_settings(spec: PlateSpec) -> str:
    """Returns what a stitched and labelled well depends on beside its images and their geometry, as text."""
    left_out = {*("name", "title", "files", "synthetic", "tiles", "splits", "overlays")}
    exclude = {**dict.fromkeys(left_out, True), "stitching": {"mosaics"}}
    return json.dumps(spec.model_dump(mode="json", exclude=exclude, exclude_defaults=True), sort_keys=True)


def settings(spec: PlateSpec) -> str:
    """Returns what the dataset's content depends on, as text: titles, pictures and files beside it are left out."""
    left_out = {"title": True, "overlays": True, "stitching": {"mosaics"}}
    return json.dumps(spec.model_dump(mode="json", exclude=left_out, exclude_defaults=True), sort_keys=True)
