"""What `segue plate` is told: where the images are, and how they become mosaics, labels and tiles.

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

Instead of [files], a table [synthetic] asks for a made plate (`segue.plate.synthetic_spec`), written beside the
dataset.
"""

from __future__ import annotations

import json
from typing import Literal

from pydantic import Field, model_validator

from segue.data.split import SplitSpec
from segue.plate.cutting_spec import TilesSpec
from segue.plate.layout_spec import FilesSpec
from segue.plate.quality_spec import QualitySpec
from segue.plate.stains_spec import StainsSpec
from segue.plate.synthetic_spec import SyntheticSpec
from segue.spec import SpecModel

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
    even: Literal["time", "none"] = "time"
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
