"""Specifications of datasets: splits, `segue prepare`, augmentation, normalization; and label layers. No torch."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from segue.data.folders.patterns import named_parts
from segue.data.tables import is_condition_name
from segue.spec import SpecModel, as_range, unknown
from segue.units import MAX_PIXEL_NM, MIN_PIXEL_NM

STANDARD_COLUMNS = ("group", "source", "y_px", "x_px", "pixel_size_nm", "picture", "split", "image", "label")


@dataclass(frozen=True)
class Layer:
    """A label layer.

    classes: `names[v]` is the name of value v, names[0] the background. instances: ("background", <object name>),
    every object has its own value from 1 on. In both, 0 is background and -1 is ignored. Virtual layers
    (`sources.virtual_labels`) are not stored: images, without any names, and column, whose classes are of whole images.
    """

    name: str
    kind: Literal["classes", "instances", "images", "column"]
    names: tuple[str, ...]

    @property
    def stored(self) -> bool:
        return self.kind in ("classes", "instances")


PUBLISHED_CHUNK = 1000  # samples in a chunk of the published live-dead files; whole chunks were used for validation


class SplitSpec(SpecModel):
    """How samples are split: by `stored`, a split in the dataset, or by a seed and two fractions.

    by is the unit that goes to training or to validation as a whole; the test part is always by group.
        "group"   the default
        a column  of the samples with one value per group, such as "experiment" or "plate": does not divide groups
        "time"    contiguous `blocks` of the times in the dataset, the same for all groups: divides groups
        "chunk"   `chunk` consecutive samples of the file, as in the published live-dead experiments: divides groups,
                  and with overlapping tiles neighbors lie on both sides
    Except by group, the validation fraction is of the number of units, rounded, and at least one.
    """

    stored: str | None = None
    seed: int = Field(default=0, ge=0)
    validation: float = Field(default=0.15, ge=0, lt=1)
    test: float = Field(default=0.1, ge=0, lt=1)
    by: str = Field(default="group", min_length=1)
    blocks: int | None = Field(default=None, ge=2)
    chunk: int = Field(default=PUBLISHED_CHUNK, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> SplitSpec:
        if self.stored is not None and self != SplitSpec.model_construct(stored=self.stored):
            raise ValueError(
                "`stored` names a split of the dataset; remove seed, validation, test, by, blocks and chunk, "
                "or `stored`"
            )
        if self.validation + self.test >= 1:
            raise ValueError(f"validation {self.validation} + test {self.test} leave nothing to train; lower them")
        if self.by == "time" and self.blocks is None:
            raise ValueError('by = "time" divides the times into blocks; give their number, such as blocks = 10')
        if self.by != "time" and self.blocks is not None:
            raise ValueError(f'blocks are of time, but by = "{self.by}"; remove blocks, or set by = "time"')
        if self.by != "chunk" and self.chunk != PUBLISHED_CHUNK:
            raise ValueError(f'chunk = {self.chunk} belongs to by = "chunk", but by = "{self.by}"; remove one of them')
        return self

    @property
    def leaks_groups(self) -> bool:
        """Whether samples of one group may be in training and in validation."""
        return self.by in ("time", "chunk")

    @property
    def description(self) -> str:
        """Returns the unit of the split: "group", "experiment", "blocks of time (10)", "chunks of 1000 tiles"."""
        if self.stored is not None:
            return f"stored split '{self.stored}'"
        descriptions = {"time": f"blocks of time ({self.blocks})", "chunk": f"chunks of {self.chunk} tiles"}
        return descriptions.get(self.by, self.by)


GROUPS = {  # of an image, by its file
    "path": "its path below the folder of all images, without suffix: one name in two folders is two groups",
    "stem": "its name without suffix: one name in two folders is one group",
    "file": "its path with suffix",
}
ANNOTATIONS = (".geojson", ".json", ".geojson.gz", ".json.gz", ".roi", ".zip", ".csv", ".ilp")  # suffixes of files
COLLECTIONS = (".json", ".json.gz", ".ilp")  # of which one may be of many images
MAX_TILE_PX = 8192
MAX_PADDING = 8  # a tile may be this many times as large as the largest image


def _with_numbers(values: Any) -> Any:
    """Returns a table whose keys are numbers where they are written as such: all keys of TOML are texts."""
    if not isinstance(values, dict):
        return values
    return {int(key) if re.fullmatch(r"-?\d{1,18}", str(key)) else key: value for key, value in values.items()}


class LabelsSpec(SpecModel):
    """The label images or annotations: their files and the meaning of their values or classes."""

    files: str | None = None  # pattern with the named parts of `images`, else with {stem}; a file of annotations of all
    layer: str = Field(default="labels", pattern=r"^[A-Za-z0-9_-]+$")
    kind: Literal["classes", "instances"]
    names: tuple[str, ...] = Field(min_length=2)  # names[0] is the background; instances: background and the object
    values: Annotated[dict[int | str, int], BeforeValidator(_with_numbers)] = Field(
        default_factory=dict
    )  # label by value or class in the file where they differ, e.g. { 255 = 1 } or { "Tumor" = 1 }
    unlabeled: Literal["background", "ignored"] | None = None  # pixels without an annotation; None: scribbles ignore
    array: str | None = Field(default=None, min_length=1)  # path of the labels inside of HDF5, Zarr, N5 and NPZ files
    number_parts: bool | None = None  # number the connected parts (8 neighbors) of each value; None: refuse masks
    one_object_per_file: bool = False  # all files that belong to an image are joined, each the mask of one object

    @model_validator(mode="after")
    def _consistent(self) -> LabelsSpec:
        if self.files is not None and not named_parts(self.files) and not self.files.lower().endswith(COLLECTIONS):
            raise ValueError(f"files = '{self.files}' has no {{stem}}; write e.g. files = 'labels/{{stem}}.png'")
        if self.files is not None and self.files.lower().endswith(ANNOTATIONS):
            self._require_annotations()
        elif self.unlabeled is not None and self.files is not None:
            raise ValueError(
                f"unlabeled says what pixels without annotations are, but files = '{self.files}' are label images; use "
                "values, such as { 0 = -1 }"
            )
        words = [name for name in self.values if isinstance(name, str)]
        if words and self.files is not None and not self.files.lower().endswith(ANNOTATIONS):
            raise ValueError(
                f"values has the class '{words[0]}', but label images have numbers; write e.g. {{ 255 = 1 }}"
            )
        if self.kind == "instances" and len(self.names) != 2:
            raise ValueError(
                f"names has {len(self.names)} entries; instances need two: background and the object's name"
            )
        if len(set(self.names)) < len(self.names):
            raise ValueError("names holds a name twice; give each class its own")
        if self.kind == "classes" and self.number_parts is not None:
            raise ValueError('number_parts makes objects of masks; set kind = "instances", or leave it out')
        if self.one_object_per_file and (self.kind != "instances" or self.files is None or self.number_parts):
            raise ValueError(
                'one_object_per_file joins the files that a pattern finds into objects; it needs kind = "instances" '
                "and files, without number_parts"
            )
        return self

    def _require_annotations(self) -> None:
        """Raises ValueError for settings of label images."""
        if self.number_parts is not None or self.one_object_per_file or self.array is not None:
            name = "array" if self.array else "one_object_per_file" if self.one_object_per_file else "number_parts"
            raise ValueError(f"{name} is of label images, but files = '{self.files}' are annotations; leave it out")


NOT_STATED = "not stated"  # of a license


class Provenance(SpecModel):
    """Where the images come from, in the words of the publisher; stored in the dataset."""

    RENAMED = {"licence": "license"}
    model_config = ConfigDict(serialize_by_alias=True)

    origin: str = ""
    license: str = Field(default="", serialization_alias="licence")  # as datasets have always had it
    citation: str = ""
    note: str = ""


class PrepareSpec(SpecModel):
    """A folder of images with label images, and how to cut it into a dataset. Paths start at the spec's folder."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    title: str = ""
    images: str | None = None  # pattern, e.g. "images/*.tif" or "images/{stem}_img.tif" (data/folders/patterns.py)
    manifest: str | None = None  # CSV with image, label and optionally group, split, pixel_size_nm and conditions
    labels: LabelsSpec | None = None  # images without labels serve for reconstruction and classes of whole images
    tile_px: int = Field(ge=8, le=MAX_TILE_PX)
    stride_px: int | None = Field(default=None, ge=1)  # None: tile_px
    channels: tuple[str, ...] | None = None
    pages: Literal["channels", "time", "z"] | None = None  # what the pages of a file are; time and z: an image each
    color: Literal["rgb", "gray"] | None = None  # color images: as red, green, blue, or as their luma
    pixel_size_nm: float | None = Field(default=None, ge=MIN_PIXEL_NM, le=MAX_PIXEL_NM)  # where no file states it
    group: str = "path"  # of an image: a key of GROUPS, or text with named parts: "lab2-{stem}", "{folder}/{stem}"
    group_pattern: str | None = None  # regular expression with one capture group, searched in the path with suffix
    sizes: tuple[tuple[int, int], ...] | None = None  # keep only images of these heights and widths
    splits: dict[str, SplitSpec] = Field(default_factory=dict)
    keep_micrographs: bool = True
    copies: Literal["tell", "refuse"] = "tell"  # of one picture in different groups, which splits may separate
    conditions: dict[str, str | int | float] = Field(default_factory=dict)
    provenance: Provenance = Provenance()

    @model_validator(mode="after")
    def _consistent(self) -> PrepareSpec:
        if (self.images is None) == (self.manifest is None):
            raise ValueError("give either images, a pattern, or manifest, a CSV table")
        if self.labels is not None and (self.images is None) != (self.labels.files is None):
            raise ValueError("labels.files goes with images; a manifest has a column label instead")
        if self.labels is not None and self.labels.one_object_per_file and self.pages in ("time", "z"):
            raise ValueError(f'labels.one_object_per_file goes with one image a file, not with pages = "{self.pages}"')
        _check_named_parts(self.images, self.labels.files if self.labels else None, self.group)
        if self.stride_px is not None and self.stride_px > self.tile_px:
            raise ValueError(f"stride_px {self.stride_px} leaves gaps between tiles of {self.tile_px}; lower it")
        if self.group_pattern is not None:
            _check_pattern(self.group_pattern)
        odd = [name for name in self.conditions if not is_condition_name(name)]
        if odd:
            raise ValueError(f"conditions.'{odd[0]}' cannot be stored by that name; leave out its / or .")
        reserved = sorted(set(self.conditions) & set(STANDARD_COLUMNS))
        if reserved:
            raise ValueError(f"conditions.{reserved[0]} is a column of every dataset; choose another name")
        stored = [name for name, split in self.splits.items() if split.stored is not None]
        if stored or "given" in self.splits:
            raise ValueError(
                "splits: give seed, validation and test; the name 'given' is kept for the manifest's split"
            )
        return self

    @property
    def layer(self) -> Layer | None:
        return None if self.labels is None else Layer(self.labels.layer, self.labels.kind, self.labels.names)

    @property
    def step_px(self) -> int:
        return self.stride_px or self.tile_px


def _check_named_parts(images: str | None, files: str | None, group: str) -> None:
    """Raises ValueError for parts of the labels' pattern that the images' lacks, several files an image, odd groups."""
    parts = named_parts(images or "")
    if "channel" in parts:
        raise ValueError(
            f"images = '{images}': {{channel}} would make one image of several files, which is not supported; choose "
            "one channel, e.g. 'images/{stem}_0000.tif', or stack the channels into one file"
        )
    for name in named_parts(files or ""):
        if name not in (parts or ("stem",)):
            raise ValueError(
                f"labels.files = '{files}' has {{{name}}}, but images = '{images}' has not; name the same parts in "
                "both, e.g. images = '{folder}/images/{stem}.tif' with files = '{folder}/labels/{stem}.tif'"
            )
    if group not in GROUPS:
        allowed = tuple(dict.fromkeys((*parts, "stem", "folder")))
        foreign = [name for name in named_parts(group) if name not in allowed]
        if foreign or not named_parts(group):
            raise ValueError(
                f"group = '{group}': {unknown(foreign[0], allowed, 'part')}"
                if foreign
                else f"{unknown(group, GROUPS, 'group')}, or text with {{stem}} or {{folder}}, such as 'lab2-{{stem}}'"
            )


def _check_pattern(pattern: str) -> None:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"group_pattern '{pattern}' is not a regular expression: {error}") from None
    if groups != 1:
        raise ValueError(f"group_pattern '{pattern}' has {groups} capture groups; it needs one, e.g. '_([A-H][0-9]+)_'")


Range = tuple[float, float]
MAX_BLUR_PX = 100  # of a kernel six times as wide


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
    """Random changes of each view; changes that are not set are not made.

    dihedral: one of the eight rotations and reflections of the tile, exact ("random"), or every one of them, eight
    views of each sample ("all"). Each of the changes below is made to a view with `probability`, independently.

    Geometry, of image and labels together, in one resampling about the center of the tile:
    scale: the factor by which things grow, log-uniform between two limits; rotation_deg: the angle, uniform in ±;
    elastic: a smooth displacement.

    Intensity, per channel, in this order, as light, counting, readout and display would act:
    blur_px: standard deviation of a Gaussian, uniform between two limits; poisson: the counts that the brightest pixel
    of the view stands for, the darkest standing for none, log-uniform; noise: standard deviation of Gaussian noise,
    uniform; gamma: exponent on the view's own range, which it keeps, log-uniform; contrast: factor on the distance from
    the view's mean, log-uniform; brightness: what is added, uniform in ±. Noise and brightness are in the units of the
    normalized images: thirds of the contrast of objects by default, standard deviations if normalize = "image".
    standardize: every view is brought to mean 0 and standard deviation 1 in the end (a constant channel to 0).
    """

    RENAMED = {"standardise": "standardize"}

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
    standardize: bool = False
    probability: Annotated[float, Field(gt=0, le=1)] = 1.0

    @field_validator("scale", "contrast", "gamma", "poisson", "blur_px", "noise")
    @classmethod
    def _ordered(cls, value: Range | None, info: ValidationInfo) -> Range | None:
        name = info.field_name
        lowest, words = (0.0, "0 or above") if name in ("blur_px", "noise") else (math.ulp(0.0), "above 0")
        context = "" if value is None else f"found [{value[0]:g}, {value[1]:g}]"
        if value is not None and not lowest <= value[0] <= value[1]:
            raise ValueError(
                f"{context}; allowed: two numbers {words}, the lower first; give the same number twice for a fixed one"
            )
        if name == "scale" and value is not None and not (value[0] >= 0.1 and value[1] <= 10):
            raise ValueError(f"{context}; allowed: factors between 0.1 and 10; narrow the range")
        if name == "blur_px" and value is not None and value[1] > MAX_BLUR_PX:
            raise ValueError(f"{context}; allowed: up to {MAX_BLUR_PX} px; lower it")
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


class PercentileSpec(SpecModel):
    """(x - p_low) / (p_high - p_low): the percentiles of the image itself become 0 and 1."""

    name: Literal["percentile"]
    low: Annotated[float, Field(ge=0, le=100)] = 1.0
    high: Annotated[float, Field(ge=0, le=100)] = 99.8

    @model_validator(mode="after")
    def _ordered(self) -> PercentileSpec:
        if self.low >= self.high:
            raise ValueError(f"low = {self.low:g} is not below high = {self.high:g}; give 0 <= low < high <= 100")
        return self


Positive = Annotated[float, Field(gt=0)]
NormalizeSpec = Literal["background", "image", "none", "tile"] | PercentileSpec


class RenderSpec(SpecModel):
    """Training images rendered from the exit waves of a simulated series, on the training device, batch by batch.

    noise: "fresh" draws noise, and the defocus about the nominal one, anew at each visit; "stored" repeats the
    dataset's own, whose images these then are to rounding. defocus_nm and dose_e_per_A2, ranges [minimum, maximum]
    drawn uniformly at each visit or one number, replace the nominal values (domain randomization; fresh only).
    """

    noise: Literal["fresh", "stored"] = "fresh"
    defocus_nm: Annotated[tuple[float, float], BeforeValidator(as_range)] | None = None
    dose_e_per_A2: Annotated[tuple[Positive, Positive], BeforeValidator(as_range)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> RenderSpec:
        for name in ("defocus_nm", "dose_e_per_A2"):
            values = getattr(self, name)
            if values is not None and self.noise == "stored":
                raise ValueError(
                    f'{name} is drawn anew, but noise = "stored" repeats the dataset\'s images; remove one'
                )
        return self
