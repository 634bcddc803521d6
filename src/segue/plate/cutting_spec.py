"""How mosaics are cut into tiles, which of them are kept, and which datasets are written."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from segue.data.tiling import Edge
from segue.spec import SpecModel

MOST_CHUNK_BYTES = 2**28  # of labels, 4 bytes a pixel, as memory holds several; HDF5 itself allows sixteen times that


class KeepSpec(SpecModel):
    """Which tiles the kept dataset holds; the defaults are the published rule, more than one class.

    classes: least number of classes that occur in a tile, the background among them. foreground: least fraction of its
    pixels that are of a class other than the background. labelled: least fraction of its pixels that are not ignored.
    """

    classes: int = Field(default=2, ge=0)
    foreground: float = Field(default=0, ge=0, le=1)
    labelled: float = Field(default=0, ge=0, le=1)


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
