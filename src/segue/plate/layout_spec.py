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
"""

from __future__ import annotations

import string
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

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
