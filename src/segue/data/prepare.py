"""`segue prepare`: folders of images and label images, described by a TOML file, become a dataset.

The specification and what planning needs are here and import no array library; the cutting is in `preparing`.

    name = "nuclei"
    images = "images/*.png"              # or: manifest = "table.csv" with the columns image, label and conditions
    tile_px = 256

    [labels]
    files = "labels/{stem}.png"
    layer = "nuclei"
    kind = "instances"
    names = ["background", "nucleus"]
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from segue.data.headers import Header, read_header
from segue.data.inputs import digest_inputs, file_digests, tidy
from segue.data.layers import Layer
from segue.data.pairs import OWN_COLUMNS, Pair, find_pairs, place_of, refuse
from segue.data.split import SplitSpec
from segue.errors import SegueError
from segue.spec import SpecModel

__all__ = ["VERSION", "PrepareSpec", "digest_inputs", "expected", "input_files", "prepare"]

MOST_TILE_PX = 8192
MOST_PADDING = 8  # a tile may be this many times as large as the largest image
VERSION = 1  # bumped by hand when the same spec and files give another dataset
Progress = Callable[[int, int], None]  # done, of how many micrographs


class LabelsSpec(SpecModel):
    """The label images: which files, what their values mean."""

    files: str | None = None  # pattern with {stem}, the image's name without its suffix; not with a manifest
    layer: str = Field(default="labels", pattern=r"^[A-Za-z0-9_-]+$")
    kind: Literal["classes", "instances"]
    names: tuple[str, ...] = Field(min_length=2)  # names[0] is the background; instances: background and the object
    values: dict[int, int] = Field(
        default_factory=dict
    )  # label by value in the file where they differ, e.g. { 255 = 1 }

    @model_validator(mode="after")
    def _consistent(self) -> LabelsSpec:
        if self.files is not None and "{stem}" not in self.files:
            raise ValueError(f"files = '{self.files}' has no {{stem}}; write e.g. files = 'labels/{{stem}}.png'")
        if self.kind == "instances" and len(self.names) != 2:
            raise ValueError(
                f"names has {len(self.names)} entries; instances need two: background and the object's name"
            )
        if len(set(self.names)) < len(self.names):
            raise ValueError("names holds a name twice; give each class its own")
        return self


class Provenance(SpecModel):
    """Where the images come from, in the words of whoever publishes them; kept in the dataset."""

    origin: str = ""
    licence: str = ""
    citation: str = ""
    note: str = ""


class PrepareSpec(SpecModel):
    """A folder of images with label images, and how to cut it into a dataset. Paths start at the spec's folder."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    title: str = ""
    images: str | None = None  # pattern, e.g. "images/*.tif"
    manifest: str | None = None  # CSV with image, label and optionally group, split, pixel_size_nm and conditions
    labels: LabelsSpec | None = None  # images without labels serve for reconstruction and classes of whole images
    tile_px: int = Field(ge=8, le=MOST_TILE_PX)
    stride_px: int | None = Field(default=None, ge=1)  # None: tile_px
    channels: tuple[str, ...] | None = None
    pixel_size_nm: float | None = Field(default=None, gt=0)  # where neither table nor file says it
    group: Literal["stem", "file"] = "stem"  # one group per file name, or per path below the shared folder
    group_pattern: str | None = None  # regular expression with one capture group, searched in that path
    sizes: tuple[tuple[int, int], ...] | None = None  # keep only images of these heights and widths
    splits: dict[str, SplitSpec] = Field(default_factory=dict)
    keep_micrographs: bool = True
    conditions: dict[str, str | int | float] = Field(default_factory=dict)
    provenance: Provenance = Provenance()

    @model_validator(mode="after")
    def _consistent(self) -> PrepareSpec:
        if (self.images is None) == (self.manifest is None):
            raise ValueError("give either images, a pattern, or manifest, a CSV table")
        if self.labels is not None and (self.images is None) != (self.labels.files is None):
            raise ValueError("labels.files goes with images; a manifest has a column label instead")
        if self.stride_px is not None and self.stride_px > self.tile_px:
            raise ValueError(f"stride_px {self.stride_px} leaves gaps between tiles of {self.tile_px}; lower it")
        if self.group_pattern is not None:
            _check_pattern(self.group_pattern)
        taken = sorted(set(self.conditions) & set(OWN_COLUMNS))
        if taken:
            raise ValueError(f"conditions.{taken[0]} is a column of every dataset; choose another name")
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


@dataclass(frozen=True)
class Prepared:
    """What `prepare` did: the dataset, its counts, and how many micrographs were cut now rather than found cut."""

    path: Path
    micrographs: int
    groups: int
    cut_now: int


def prepare(
    spec: PrepareSpec, out: Path, *, where: Path, workers: int = 1, progress: Progress | None = None
) -> Prepared:
    """Makes the dataset `out` from the files that `spec` names, starting at the folder `where`.

    Micrographs are read one at a time and cut into part files in `<out>.parts`, then assembled; interrupted and called
    again, it continues with the parts that are whole, and a finished `out` of the same files is left as it is. The
    content does not depend on `workers`. Raises SegueError with all problems of the files, when `out` holds anything
    else, or when the disk refuses.
    """
    from segue.data.preparing import make_dataset

    pairs, place = _paired(spec, where), place_of(spec, where)
    _check_tile(spec, _headers(pairs)[0], place)  # a header that cannot be read is told with all that is amiss
    return make_dataset(spec, pairs, out, place=place, workers=workers, progress=progress)


def input_files(spec: PrepareSpec, where: Path) -> list[Path]:
    """Returns every file the dataset is made from, sorted; raises SegueError with the problems of the files."""
    pairs = _paired(spec, where)
    table = [tidy(where / spec.manifest)] if spec.manifest else []
    return sorted({*table, *(pair.image for pair in pairs), *(pair.label for pair in pairs if pair.label)})


def expected(spec: PrepareSpec, where: Path) -> dict[str, int]:
    """Returns {"micrographs", "tiles", "bytes"} from the images' headers, without decoding any.

    `bytes` is an upper estimate of the disk needed while the dataset is made: tiles and micrographs twice (part files
    beside the dataset), labels as if they did not compress.
    """
    pairs, place = _paired(spec, where), place_of(spec, where)
    headers, problems = _headers(pairs)
    refuse(place, problems)
    _check_tile(spec, headers, place)
    tiles = pixels = values = 0
    for header in headers:
        across = [_count(length, spec.tile_px, spec.step_px) for length in (header.height, header.width)]
        count = across[0] * across[1]
        area = count * spec.tile_px**2 + spec.keep_micrographs * header.height * header.width
        tiles += count
        pixels += area
        values += area * header.channels * max(1, header.bits // 8)
    return {"micrographs": len(pairs), "tiles": tiles, "bytes": 2 * (values + 4 * pixels) + 4096 * len(pairs)}


def _paired(spec: PrepareSpec, where: Path) -> list[Pair]:
    pairs, problems = find_pairs(spec, where)
    refuse(place_of(spec, where), problems)
    return pairs


def _headers(pairs: Sequence[Pair]) -> tuple[list[Header], list[str]]:
    """Returns the headers of the images, and a sentence for each that cannot be read."""
    headers, problems = [], []
    for pair in pairs:
        try:
            headers.append(read_header(pair.image))
        except SegueError as error:
            problems.append(str(error))
    return headers, problems


def _check_tile(spec: PrepareSpec, headers: Sequence[Header], place: Path) -> None:
    """Raises SegueError where even the largest image would be nearly all padding."""
    largest = max((max(header.height, header.width) for header in headers), default=spec.tile_px)
    if spec.tile_px > MOST_PADDING * largest:
        raise SegueError(
            f"{place}: tile_px is {spec.tile_px}, but the largest image measures {largest} px; "
            f"allowed are up to {MOST_PADDING} times that: lower tile_px."
        )


def part_keys(spec: PrepareSpec, pairs: list[Pair]) -> tuple[list[str], list[str]]:
    """Returns a key for each pair's part file, and a sentence for each image whose content occurs twice.

    A key is a digest of what the part depends on: the files' content, the pair's row, and the fields that cut.
    """
    digests = file_digests([path for pair in pairs for path in (pair.image, pair.label) if path])
    fields = spec.model_dump(
        mode="json", include={"labels", "tile_px", "stride_px", "pixel_size_nm", "keep_micrographs"}
    )
    seen: dict[str, Pair] = {}
    keys, problems = [], []
    for pair in pairs:
        image, label = digests[pair.image], digests[pair.label] if pair.label else None
        first = seen.setdefault(image, pair)
        if first is not pair:
            problems.append(f"{pair.image}: holds the same bytes as {first.image}; keep one of them.")
        row = [pair.source, pair.group, pair.pixel_size_nm, dict(pair.conditions)]
        text = json.dumps([VERSION, fields, row, image, label], sort_keys=True)
        keys.append(hashlib.sha256(text.encode()).hexdigest())
    return keys, problems


def _count(length: int, tile: int, stride: int) -> int:
    """Returns how many tiles cover a length: as `tiling.starts` gives them, which needs NumPy beside it."""
    return max(0, -(-(length - tile) // stride)) + 1


def _check_pattern(pattern: str) -> None:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"group_pattern '{pattern}' is not a regular expression: {error}") from None
    if groups != 1:
        raise ValueError(f"group_pattern '{pattern}' has {groups} capture groups; it needs one, e.g. '_([A-H][0-9]+)_'")
