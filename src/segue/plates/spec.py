"""The specification of `segue plate`: where the images are, and how they become mosaics, labels and tiles.

    name = "live-dead"
    transmitted = "brightfield"

    [files]                                    # FilesSpec; or [synthetic], a simulated plate (plates/synthetic/spec.py)
    pattern  = "raw/{plate}/{well}/t{time}_r{row}_c{column}_{channel}.tif"
    channels = { brightfield = "w1", dapi = "w2", cy5 = "w3" }   # our name = token in the file names
    wells    = "plates.csv"                    # plate, well, stained, experiment, conditions …
    overlap  = 0.1
    interval_h = 4.0

    [stitching]                                # StitchingSpec
    register_px = 14
    [quality.defocused]                        # QualitySpec
    level = 0.3
    action = "mark"

    [labels.stains.dapi]                       # StainsSpec
    threshold = { name = "block-maxima", factor = 1.15 }
    [labels.stains.cy5]
    [[labels.rules]]
    name = "live"
    has = ["dapi"]
    lacks = ["cy5"]
    [[labels.rules]]
    name = "dead"
    has = ["cy5"]

    [tiles]                                    # TilesSpec
    tile_px = 160
    [splits.wells]
    validation = 0.2
    test = 0.2

The models are in the order in which `segue plate` uses them. Lengths are in µm; if the pixel size is unknown, one
pixel counts as 1 µm and a note is added.
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
from segue.units import MAX_PIXEL_NM, MIN_PIXEL_NM

VERSION = 4  # increase when the same specification and files give a different dataset
NUMBERS = ("time", "row", "column", "field")
PLACEHOLDERS = ("plate", "well", "channel", *NUMBERS)
MAX_CHUNK_BYTES = 2**28  # of labels, 4 bytes a pixel; several chunks are in memory, and HDF5 allows 16 times as much

FieldIndex = tuple[int, int]  # (row, column) of a field of view in the grid of its well, from 0
FieldOrder = Literal["rows", "columns", "snake-rows", "snake-columns"]
Action = Literal["exclude", "mark"]
PixelSize = Annotated[float, Field(ge=MIN_PIXEL_NM / 1000, le=MAX_PIXEL_NM / 1000)]  # µm
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
FractionBelow1 = Annotated[float, Field(ge=0, lt=1)]
GridSide = Annotated[int, Field(ge=1, le=1000)]


class FilesSpec(SpecModel):
    """The images of one or several plates. All paths start at the folder of the specification.

    format: what identifies an image: the "pattern" of its file name, the metadata of "ome-tiff" files or "ome-zarr"
    plates (`pattern` then gives the file or plate names, with the fields that only they contain), or a "manifest".
    pattern: placeholders {plate}, {well}, {time}, {row} and {column} or {field}, {channel}; numbers have the digits of
    {time:03d}, or any number of digits; * and ? match any characters but "/". Defaults: one plate, named `plate`; one
    time point, 0; all images are transmitted light. A running number {field} needs `grid` and perhaps `field_order`.
    manifest: a CSV with the columns well, channel, path and optionally plate, time, row and column or field, and index
    (the page of a TIFF, or the leading indices of a Zarr array, "0 2").
    wells: a CSV with a row per well to use; without it all are used, and wells with every channel are stained.
    """

    format: Literal["pattern", "ome-tiff", "ome-zarr", "manifest"] = "pattern"
    pattern: str | None = None
    manifest: str | None = None
    channels: dict[str, str] = Field(default_factory=dict)  # our name = token in names or metadata; {}: the tokens
    ignore_channels: tuple[str, ...] = ()  # tokens of channels to ignore
    grid: tuple[GridSide, GridSide] | None = None  # rows, columns of fields in a well; None: from the images
    field_order: FieldOrder = "rows"  # of the running number {field}; snakes change direction after each row or column
    count_from: Literal[0, 1] | None = None  # of rows, columns and fields; None: 0 if one has the number 0, else 1
    stage_y_up: bool = False  # stage y in the metadata increases towards the top of the image
    stage_x_left: bool = False  # stage x in the metadata increases towards the left
    plate: str = Field(default="P1", pattern=r"^[^/]+$")  # name of the plate if nothing else gives one
    wells: str | None = None
    overlap: float = Field(default=0.1, ge=0, lt=1)  # nominal, as a fraction of the tile's side
    pixel_size_um: PixelSize | None = None  # None: from the metadata
    interval_h: Positive | None = None  # from one time index to the next; index 0 is at 0 h
    times: str | None = None  # a CSV with the columns time and time_h, instead
    only_wells: tuple[str, ...] = ()  # "A1", on all plates, or "P1/A1"; (): all
    only_times: tuple[Annotated[int, Field(ge=0)], ...] = ()

    @field_validator("pattern")
    @classmethod
    def _check_pattern(cls, pattern: str | None, others: ValidationInfo) -> str | None:
        if pattern is not None:
            _check_placeholders(pattern, others.data.get("format"))
        return pattern

    @field_validator("channels")
    @classmethod
    def _check_names(cls, channels: dict[str, str]) -> dict[str, str]:
        bad = [name for name in channels if not name or "/" in name]
        if bad:
            raise ValueError(f"'{bad[0]}' cannot be a name; give one without a slash")
        return channels

    @model_validator(mode="after")
    def _check(self) -> FilesSpec:
        if (self.format == "manifest") != (self.manifest is not None):
            raise ValueError('manifest requires format = "manifest", and vice versa; give both or neither')
        if (self.format == "manifest") == (self.pattern is not None):
            raise ValueError(f'format = "{self.format}" {"takes no" if self.pattern else "needs a"} pattern')
        named = {name for _, name, _ in placeholders(self.pattern or "")}
        if "field" in named and self.grid is None and self.format == "pattern":
            raise ValueError(
                f"pattern = '{self.pattern}' has {{field}}, but there is no grid; add grid = [rows, columns]"
            )
        if self.interval_h is not None and self.times is not None:
            raise ValueError("give either interval_h or times, a table")
        tokens = list(self.channels.values())
        twice = sorted({token for token in tokens if tokens.count(token) > 1 or token in self.ignore_channels})
        if twice:
            raise ValueError(f"channels: the token '{twice[0]}' is used twice; give each channel its own")
        return self


def placeholders(pattern: str) -> list[tuple[str, str, int]]:
    """Returns (literal text, placeholder after it, minimum digits or 0) in order; the last may have no placeholder.

    Raises ValueError for unbalanced braces and unknown placeholders.
    """
    try:
        parts = list(string.Formatter().parse(pattern))
    except ValueError as error:
        raise ValueError(f"'{pattern}' cannot be read ({error}); write e.g. {{well}}") from None
    parsed = []
    for literal, name, width, conversion in parts:
        if name is None:
            parsed.append((literal, "", 0))
            continue
        if name not in PLACEHOLDERS or conversion:
            raise ValueError(f"'{pattern}': {unknown(name, PLACEHOLDERS, 'placeholder')}")
        digits = (width or "0").removesuffix("d")
        if not digits.isdigit() or (width and name not in NUMBERS):
            raise ValueError(f"'{pattern}': '{{{name}:{width}}}' is not a number of digits; write e.g. {{time:03d}}")
        parsed.append((literal, name, int(digits)))
    return parsed


def _check_placeholders(pattern: str, format: str | None) -> None:
    """Raises ValueError for placeholders that contradict each other or do not fit the format."""
    names = [name for _, name, _ in placeholders(pattern)]
    if format == "pattern" and "well" not in names:
        raise ValueError(f"'{pattern}' has no {{well}}; write e.g. '{{well}}/r{{row}}_c{{column}}_{{channel}}.tif'")
    if ("row" in names) != ("column" in names):
        raise ValueError(
            f"'{pattern}' has one of {{row}} and {{column}}; give both, or {{field}} with grid and field_order"
        )
    if "row" in names and "field" in names:
        raise ValueError(f"'{pattern}' has {{row}} and {{column}}, and {{field}}; keep one way to give the field")
    other = sorted(set(names) - {"", "plate"})
    if format == "ome-zarr" and other:
        raise ValueError(
            f"'{pattern}' has {{{other[0]}}}; this is in the metadata of a Zarr plate: the name may only have {{plate}}"
        )


class StitchingSpec(SpecModel):
    """How the fields of a well become one mosaic per time point.

    reach_px: maximum deviation of the shift between two neighbors from the nominal one, along each axis: twice the
    error of the stage. flat_field: "estimate" from the tiles of each plate and channel (at least four), or "none".
    dark_counts: counts of the camera without light; None estimates them. register_px: maximum drift between frames,
    which is measured and removed; None leaves frames where the stage put them. equalize_brightness: "time" equalizes
    the brightness of the transmitted light between frames. mosaics: format of mosaics exported beside the dataset.
    """

    RENAMED = {"even": "equalize_brightness"}
    reach_px: Positive = 32.0
    flat_field: Literal["estimate", "none"] = "estimate"
    dark_counts: NotNegative | None = None
    register_px: Positive | None = None
    equalize_brightness: Literal["time", "none"] = "time"
    mosaics: Literal["none", "ome-tiff", "ome-zarr"] = "none"


class SaturatedSpec(SpecModel):
    """More than `fraction` of the pixels at `full_counts` or above; None: piled up at the field's highest value."""

    fraction: Fraction = 0.02
    full_counts: Positive | None = None
    action: Action = "exclude"


class BlackSpec(SpecModel):
    """Median below `level` × that of the other fields: closed shutter, or lamp off."""

    level: Fraction = 0.5
    action: Action = "exclude"


class DefocusedSpec(SpecModel):
    """Fine contrast below `level` × that of the other fields, although the field is not empty (EmptySpec)."""

    level: Fraction = 0.3
    action: Action = "exclude"


class EmptySpec(SpecModel):
    """No structure: fine and coarse contrast both below `contrast` × brightness.

    If the other fields have no structure either, or there are none, the fine contrast alone decides. Among fields with
    structure an empty field resembles one far out of focus; in doubt it is flagged as defocused.
    """

    contrast: NotNegative = 0.001
    action: Action = "mark"


class QualitySpec(SpecModel):
    """Which fields are bad: an excluded field is left out of mosaics, labels and tiles, a marked one only reported.

    Contrast is measured by the Laplacian of Gaussians of sd `fine_px` and `coarse_px`. Stains are judged by saturation
    and blackness alone: without nuclei they are rightly empty.
    """

    fine_px: Annotated[float, Field(ge=0.7, le=8)] = 2.0
    coarse_px: Annotated[float, Field(gt=2, le=64)] = 8.0
    saturated: SaturatedSpec = SaturatedSpec()
    black: BlackSpec = BlackSpec()
    defocused: DefocusedSpec = DefocusedSpec()
    empty: EmptySpec = EmptySpec()


class NoBackground(SpecModel):
    """No background subtraction: thresholds are in raw counts."""

    name: Literal["none"]


class OpeningBackground(SpecModel):
    """Subtracts a morphological opening by a square of side `scale_um`; narrower structures (nuclei, clumps) stay."""

    name: Literal["opening"] = "opening"
    scale_um: Positive = 30.0


class GaussianBackground(SpecModel):
    """Subtracts a Gaussian mean of sd `scale_um`; too small a scale leaves dips around bright nuclei."""

    name: Literal["gaussian"]
    scale_um: Positive = 50.0


class BlockMaximaThreshold(SpecModel):
    """`factor` × the mode of the maxima of blocks of side `block_um`.

    Most blocks, or the largest group of similar ones, hold no nucleus, so the mode is the maximum of pure background.
    It is the half-sample mode (Bickel and Frühwirth, Comput. Stat. Data Anal. 50, 3500, 2006). A note says if less than
    `min_empty` of the blocks stay below the threshold.
    """

    RENAMED = {"least_empty": "min_empty"}
    name: Literal["block-maxima"] = "block-maxima"
    factor: Positive = 1.15
    block_um: Positive = 12.0
    min_empty: FractionBelow1 = 0.25


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
    """How touching nuclei are split, by watershed: first on brightness, then on the distance to their edges.

    The lower of two maxima is a nucleus of its own if the path to the higher one descends by at least the fraction
    `depth` of its height; 1 never splits. `…_um`: sd of the smoothing before, against oversegmentation.
    """

    brightness_um: NotNegative = 1.5
    brightness_depth: Annotated[float, Field(gt=0, le=1)] = 0.05
    distance_um: NotNegative = 0.6
    distance_depth: Annotated[float, Field(gt=0, le=1)] = 0.03


class StainSpec(SpecModel):
    """One stain channel, from counts to objects; steps in the order of the fields.

    edge: a nucleus ends where its light falls below this fraction of its own maximum, since one threshold cannot suit
    bright and faint nuclei; 0 uses the threshold alone. faint: an object whose maximum is below this fraction of the
    typical one is haze; typical is the median of the maxima weighted by the objects' light, robust against hundreds of
    faint ones; 0 keeps all. hole_um2: holes up to this area are filled. opening_um: radius of a morphological opening.
    Objects outside min_area_um2 … max_area_um2 are dropped.
    """

    RENAMED = {"least_area_um2": "min_area_um2", "largest_area_um2": "max_area_um2"}
    background: Background = OpeningBackground()
    smoothing_um: NotNegative = 0.8
    threshold: Threshold = BlockMaximaThreshold()
    split: NucleusSplitSpec | Literal["none"] = NucleusSplitSpec()
    edge: FractionBelow1 = 0.3
    faint: FractionBelow1 = 0.1
    hole_um2: NotNegative = 20.0
    opening_um: NotNegative = 0.0
    min_area_um2: NotNegative = 12.0
    max_area_um2: Positive | None = None

    @model_validator(mode="after")
    def _check(self) -> StainSpec:
        if self.max_area_um2 is not None and self.max_area_um2 <= self.min_area_um2:
            raise ValueError(f"max_area_um2 = {self.max_area_um2:g} is not above min_area_um2 = {self.min_area_um2:g}")
        return self


class ClassRule(SpecModel):
    """The class `name`: nuclei positive for all stains of `has` and for none of `lacks`."""

    name: Annotated[str, Field(min_length=1)]
    has: Annotated[tuple[str, ...], Field(min_length=1)]
    lacks: tuple[str, ...] = ()


class CellAreaSpec(SpecModel):
    """The class "cell", from the transmitted light: Sobel magnitude above `factor` × its mode, which is that of noise.

    A higher factor loses cells near focus, which have little contrast; a lower one includes halos. smoothing_um is
    applied before; then gaps are closed with radius closing_um, holes up to hole_um2 filled, and areas below
    min_area_um2 dropped. Nuclei belong to the cell area.
    """

    RENAMED = {"least_area_um2": "min_area_um2"}
    smoothing_um: NotNegative = 1.0
    factor: Positive = 3.0
    closing_um: NotNegative = 3.0
    hole_um2: NotNegative = 300.0
    min_area_um2: NotNegative = 60.0


class OutlineSpec(SpecModel):
    """The class "outline": pixels of nuclei, or of the cell area, within `width_um` of their border, at least 1 px."""

    width_um: Positive = 1.0
    of: Literal["nuclei", "cells"] = "nuclei"


class StainsSpec(SpecModel):
    """Labels from stains, listed in order of precedence: where two disagree, the later stain owns the pixels.

    overlap: an object of an earlier stain is the same nucleus as one of a later stain that covers at least this
    fraction of it. A nucleus has the class of the first rule that it meets, or else `otherwise`.
    bleed_through: { dapi_in_cy5 = 0.03 } is the fraction of DAPI light seen in Cy5, subtracted first; "estimate"
    measures it on nuclei that carry the first stain alone.
    Classes are numbered 0 background, 1 cell (with `cells`), the rules in their order, and last outline (with
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
    def _drop_default_bleed_through(cls, data: Any) -> Any:
        """Removes the default bleed-through if the stains are not the default ones."""
        if not isinstance(data, dict) or "bleed_through" in data or not isinstance(data.get("stains"), dict):
            return data
        return data if {"dapi", "cy5"} <= set(data["stains"]) else {**data, "bleed_through": {}}

    @model_validator(mode="after")
    def _check(self) -> StainsSpec:
        named = [stain for rule in self.rules for stain in (*rule.has, *rule.lacks)]
        missing = [stain for stain in named if stain not in self.stains]
        if missing and "rules" not in self.model_fields_set:
            raise ValueError(_missing_rules_message(list(self.stains)))
        if missing:
            raise ValueError(f"rules: {unknown(missing[0], self.stains, 'stain')}; give labels.stains.{missing[0]}")
        for pair in self.bleed_through:
            self.bleed_through_pair(pair)
        twice = [name for name in self.class_names if self.class_names.count(name) > 1]
        if twice:
            raise ValueError(f"the class name '{twice[0]}' occurs twice; give each class its own name")
        if self.outline is not None and self.outline.of == "cells" and self.cells is None:
            raise ValueError('outline.of = "cells" needs the table [labels.cells]; give it, or outline nuclei')
        return self

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes 0 …"""
        cell = ("cell",) if self.cells is not None else ()
        outline = ("outline",) if self.outline is not None else ()
        return (self.background, *cell, *(rule.name for rule in self.rules), *outline)

    def bleed_through_pair(self, pair: str) -> tuple[str, str]:
        """Returns ("dapi", "cy5") for "dapi_in_cy5"; raises ValueError if it does not name two stains."""
        for source in self.stains:
            for target in self.stains:
                if source != target and pair == f"{source}_in_{target}":
                    return source, target
        raise ValueError(
            f"bleed_through: '{pair}' is not of the form <stain>_in_<stain> with two of {', '.join(self.stains)}"
        )


def _missing_rules_message(stains: list[str]) -> str:
    """Returns the message if the default rules do not fit the stains."""
    first, last = stains[0], stains[-1]
    one = f'[[labels.rules]] with name = "nucleus" and has = ["{first}"]'
    two = (
        f'[[labels.rules]] with name = "live", has = ["{first}"] and lacks = ["{last}"], and another with '
        f'name = "dead" and has = ["{last}"]'
    )
    return (
        "no rules are given, and the default ones are for the stains dapi (live) and cy5 (dead), but the stains here "
        f"are {', '.join(stains)}; define a class for each stain, such as {one if first == last else two}"
    )


class KeepSpec(SpecModel):
    """Which tiles the kept dataset holds; the default is the published rule, more than one class.

    Minima per tile: `classes` that occur, the background included; fraction of `foreground` pixels, of any other class
    than the background; fraction of `labeled` pixels, which are not ignored.
    """

    RENAMED = {"labelled": "labeled"}
    classes: int = Field(default=2, ge=0)
    foreground: float = Field(default=0, ge=0, le=1)
    labeled: float = Field(default=0, ge=0, le=1)


class TilesSpec(SpecModel):
    """How mosaics are cut; the defaults are the published geometry: 2700 × 3600 px give 32 × 44 = 1408 tiles.

    edge: "drop" skips a tile that would cross the border; "shift" moves it back inside, so that every pixel is in a
    tile. chunk: tiles per chunk of the file, fewer for few or large tiles (`rows`). layer: the class layer whose counts
    select tiles. datasets: OUT.h5 holds the "kept" or the "full" tiles; with "both" it holds the kept ones, and
    OUT.full.h5 all. Whole mosaics are stored in OUT.h5 alone, if keep_micrographs is true.
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
    def _check(self) -> TilesSpec:
        if 4 * self.tile_px**2 > MAX_CHUNK_BYTES:
            limit = int((MAX_CHUNK_BYTES // 4) ** 0.5)
            raise ValueError(
                f"tile_px = {self.tile_px} is too large for a chunk of the file; lower it to at most {limit}"
            )
        return self

    @property
    def rows(self) -> int:
        """Maximum number of tiles per chunk of the file: `chunk`, or as many as fit into MAX_CHUNK_BYTES of labels."""
        return min(self.chunk, MAX_CHUNK_BYTES // (4 * self.tile_px**2))


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
    overlays: bool = True  # PNGs of labels over images, to check by eye

    @model_validator(mode="after")
    def _check(self) -> PlateSpec:
        if (self.files is None) == (self.synthetic is None):
            raise ValueError("give either [files], the location of the images, or [synthetic], a plate to be simulated")
        if self.transmitted in self.labels.stains:
            raise ValueError(
                f"'{self.transmitted}' is both the transmitted-light channel and a stain; name the stains' channels"
            )
        stored = [name for name, split in self.splits.items() if split.stored is not None]
        if stored:
            raise ValueError(f"splits.{stored[0]}: names a stored split; give seed, validation and test")
        return self


_NOT_IN_CONTENT: dict[str, Any] = {"title": True, "overlays": True, "stitching": {"mosaics"}}  # exports and pictures
_NOT_IN_WELLS: dict[str, Any] = {
    **_NOT_IN_CONTENT,
    **dict.fromkeys(("name", "files", "synthetic", "tiles", "splits"), True),
}


def settings(spec: PlateSpec) -> str:
    """Returns, as JSON, the settings that the content of the dataset depends on."""
    return _as_json(spec, _NOT_IN_CONTENT)


def well_settings(spec: PlateSpec) -> str:
    """Returns, as JSON, the settings a stitched and labeled well depends on, apart from its images and geometry."""
    return _as_json(spec, _NOT_IN_WELLS)


def _as_json(spec: PlateSpec, exclude: dict[str, Any]) -> str:
    return json.dumps(spec.model_dump(mode="json", exclude=exclude, exclude_defaults=True), sort_keys=True)
