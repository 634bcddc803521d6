"""The specification of synthetic plates: every range from which a well is sampled, with its unit.

A pair (low, high) is the range of a uniform distribution, sampled once per well unless the comment says otherwise; low
= high fixes the value. The defaults give two plates of six wells, two of them stained, three times and 3 × 3 fields:
540 TIFFs, 160 MB.

    seed = 3
    plates = 2
    [cells]
    density_per_mm2 = [200, 700]
    [faults]
    dead_fields = 1
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from segue.spec import SpecModel

VERSION = 1  # increase when the same specification gives different files
COLUMNS_OF_PLATE = 6  # wells are named row by row on a 24-well plate: A1 … A6, B1 … D6
ROWS_OF_PLATE = 4
TRANSMITTED = "brightfield"
STAINS = ("dapi", "cy5")  # Hoechst in all nuclei, Draq7 in dead ones
STAINED_CHANNELS = (TRANSMITTED, *STAINS)


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"a range is [low, high], but {pair[0]:g} > {pair[1]:g}; exchange them")
    return pair


Range = Annotated[tuple[float, float], AfterValidator(_ascending)]
Positive = Annotated[tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]], AfterValidator(_ascending)]
NotNegative = Annotated[tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]], AfterValidator(_ascending)]
Fraction = Annotated[
    tuple[Annotated[float, Field(ge=0, le=1)], Annotated[float, Field(ge=0, le=1)]], AfterValidator(_ascending)
]


class CellsSpec(SpecModel):
    """Number, size, motion, division and death of cells. Ranges per cell are marked as such."""

    density_per_mm2: Positive = (220.0, 800.0)  # cells at time 0
    patchiness: NotNegative = (
        0.3,
        1.2,
    )  # sd of the log density over the field, at a scale of 150 µm: confluent patches
    radius_um: Positive = (11.0, 19.0)  # per cell: of a spread cell
    nucleus_radius_um: Positive = (4.6, 7.0)  # per cell
    rounded_radius_um: Positive = (5.5, 8.5)  # per cell: of a dead or dividing cell
    speed_um_per_h: NotNegative = (3.0, 9.0)  # root mean square of the persistent random walk
    persistence_h: Annotated[float, Field(gt=0)] = 0.6
    doubling_h: Annotated[float, Field(gt=0)] = 30.0  # mean time between divisions of a live cell
    treated_fraction: Annotated[float, Field(ge=0, le=1)] = 0.5  # of the stained wells, and of the unstained ones
    dead_at_start: Fraction = (0.02, 0.07)  # of the cells
    dying_control: Fraction = (0.02, 0.12)  # fraction of the live cells that dies in an untreated well in the end
    dying_treated: Fraction = (0.35, 0.9)  # in a treated one
    onset_h: Range = (1.0, 7.0)  # when half of these have died
    width_h: Positive = (0.6, 2.0)  # of the sigmoid 1 / (1 + exp(−(t − onset) / width))
    rounding_lag_h: Range = (
        -1.5,
        1.5,
    )  # per cell: from death (the membrane leaks) to rounding; < 0: rounded while alive
    spread_when_dead: Annotated[float, Field(ge=0, le=1)] = 0.25  # fraction that dies without rounding (necrosis)
    debris_per_mm2: NotNegative = (30.0, 150.0)  # resembles dead cells, without stain


class OpticsSpec(SpecModel):
    """The microscope: transmitted light of small aperture, two fluorescence filters, one camera."""

    wavelength_um: Annotated[float, Field(gt=0)] = 0.55
    condenser_aperture: Annotated[float, Field(ge=0, le=0.6)] = 0.09  # NA: blurs what is out of focus
    defocus_um: Range = (3.0, 12.0)  # of the plane of the cells; nearer to 0 live cells are hardly seen
    below_focus: Annotated[float, Field(ge=0, le=1)] = 0.2  # of the wells: the sign is turned, halo and cell inverted
    focus_sd_um: Annotated[float, Field(ge=0)] = 1.2  # of the autofocus, over times
    level_counts: Positive = (7000.0, 16000.0)  # brightfield of the empty medium
    gradient: NotNegative = (0.0, 0.25)  # illumination across the well (meniscus): relative change over the mosaic
    drift: NotNegative = (0.0, 0.06)  # relative sd of the illumination from time to time
    vignetting: Fraction = (0.1, 0.3)  # per plate and channel: loss in the corners of each tile
    electrons_per_count: Annotated[float, Field(gt=0)] = 0.4
    read_noise_electrons: Annotated[float, Field(ge=0)] = 4.0
    offset_counts: Annotated[float, Field(ge=0)] = 100.0  # of the camera in the dark


class StainsSpec(SpecModel):
    """Hoechst through the DAPI filter, Draq7 through the Cy5 filter, in counts at the camera."""

    dapi_counts: Positive = (700.0, 3500.0)  # a live nucleus over its background
    cy5_counts: Positive = (500.0, 3000.0)  # a dead nucleus over its background
    spread: Annotated[float, Field(ge=0)] = 0.25  # sd of the log of a nucleus's strength
    background_counts: Positive = (120.0, 700.0)  # of the medium, per stain
    haze: Fraction = (0.05, 0.2)  # of the light of nuclei spread over their surroundings (out of focus), sd 12 µm
    blur_um: Positive = (0.7, 2.2)  # sd of the point spread with the well's focus
    dapi_in_cy5: Fraction = (0.01, 0.06)  # bleed-through: fraction of the one's light seen in the other
    cy5_in_dapi: Fraction = (0.0, 0.05)
    draq7_quenching: Fraction = (0.1, 0.6)  # of Hoechst in nuclei that Draq7 has entered


class StageSpec(SpecModel):
    """The grid of tiles with its nominal overlap, and the error of the stage."""

    rows: Annotated[int, Field(ge=1, le=20)] = 3
    columns: Annotated[int, Field(ge=1, le=20)] = 3
    tile_px: Annotated[int, Field(ge=32, le=4096)] = 384
    overlap: Annotated[float, Field(ge=0, le=0.5)] = 0.10  # fraction of tile_px
    jitter_px: Annotated[float, Field(ge=0)] = 15.0  # uniform in ± this, per tile, time and axis
    drift_px: Annotated[float, Field(ge=0)] = 6.0  # the whole grid over time: a random walk that stays in ± this
    pixel_size_um: Annotated[float, Field(gt=0)] = 0.8

    @model_validator(mode="after")
    def _overlapping(self) -> StageSpec:
        if self.overlap > 0 and self.overlap * self.tile_px < 2 * self.jitter_px:
            raise ValueError(
                f"overlap {self.overlap:g} of tile_px {self.tile_px} is {self.overlap * self.tile_px:.0f} px, less "
                f"than twice jitter_px = {self.jitter_px:g}: neighbors could fail to touch; enlarge tile_px or "
                "overlap, or lower jitter_px"
            )
        return self

    @property
    def step_px(self) -> int:
        """The nominal distance between neighboring tiles."""
        return self.tile_px - round(self.overlap * self.tile_px)

    @property
    def margin_px(self) -> int:
        """Margin of a scene around the nominal mosaic, so that no tile leaves it."""
        return math.ceil(self.jitter_px + self.drift_px) + 2

    @property
    def canvas_px(self) -> tuple[int, int]:
        """Height and width of a scene: nominal mosaic and margin."""
        around = self.tile_px + 2 * self.margin_px
        return (self.rows - 1) * self.step_px + around, (self.columns - 1) * self.step_px + around


class FaultsSpec(SpecModel):
    """Faults per plate, each at a different well, time and field."""

    missing_tiles: Annotated[int, Field(ge=0)] = 1  # no file in any channel
    dead_fields: Annotated[int, Field(ge=0)] = 1  # in turn: black (shutter closed), saturated, defocused (a bubble)


class SyntheticSpec(SpecModel):
    """Synthetic plates of 24-well format, each a separate experiment, most wells unstained."""

    seed: Annotated[int, Field(ge=0)] = 0
    plates: Annotated[int, Field(ge=1, le=26)] = 2
    wells: Annotated[int, Field(ge=1, le=ROWS_OF_PLATE * COLUMNS_OF_PLATE)] = 6  # per plate
    stained_wells: Annotated[int, Field(ge=0)] = 2  # per plate
    times: Annotated[int, Field(ge=1, le=1000)] = 3
    interval_h: Annotated[float, Field(gt=0)] = 4.0
    stage: StageSpec = StageSpec()
    cells: CellsSpec = CellsSpec()
    optics: OpticsSpec = OpticsSpec()
    stains: StainsSpec = StainsSpec()
    faults: FaultsSpec = FaultsSpec()

    @model_validator(mode="after")
    def _consistent(self) -> SyntheticSpec:
        if self.stained_wells > self.wells:
            raise ValueError(f"stained_wells = {self.stained_wells} is more than wells = {self.wells}; lower it")
        requested, tiles = self.faults.missing_tiles + self.faults.dead_fields, self.wells * self.times * self.fields
        if requested > tiles:
            raise ValueError(
                f"faults: {requested} faulty tiles are requested, but a plate has {tiles} tiles; request fewer"
            )
        return self

    @property
    def fields(self) -> int:
        """Tiles of one well at one time and channel."""
        return self.stage.rows * self.stage.columns

    @property
    def files(self) -> int:
        """TIFFs of all plates, including missing tiles."""
        return self.plates * self.times * self.fields * (self.wells + len(STAINS) * self.stained_wells)


def well_name(well: int) -> str:
    """Returns "A1" … "D6" for 0 … 23."""
    return f"{'ABCD'[well // COLUMNS_OF_PLATE]}{well % COLUMNS_OF_PLATE + 1}"


def plate_name(plate: int) -> str:
    """Returns "P1", "P2" …"""
    return f"P{plate + 1}"
