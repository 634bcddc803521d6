"""What planning a study needs to know of a plate before anything is made: its identity and its size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segue.plate import assay_spec, synthetic_spec
from segue.plate.assay_spec import PlateSpec

BYTES_OF_LABEL, BYTES_OF_PIXEL = 1, 2  # labels compress; images are acquired with 16 bits


def identity(spec: PlateSpec, where: Path, cache: Path) -> dict[str, Any]:
    """Returns all the dataset depends on; raw files enter by their content, a made plate by its settings."""
    parts: dict[str, Any] = {"kind": "plate", "version": assay_spec.VERSION, "spec": assay_spec.settings(spec)}
    if spec.files is None:
        return {**parts, "made": synthetic_spec.VERSION}
    from segue.plate.foresight import plate_layout
    from segue.plate.layout import input_digest

    layout = plate_layout(spec, spec.files, where)
    return {**parts, "files": input_digest(layout, cache)}


def expected(spec: PlateSpec, where: Path) -> Mapping[str, int]:
    """Returns the most `tiles` and `bytes` that the dataset may have: before any is left out by the keep rules.

    A made plate's raw images, which lie beside it, are counted too.
    """
    if spec.synthetic is not None:
        made = spec.synthetic
        stage = made.stage
        height, width = (stage.step_px * (n - 1) + stage.tile_px for n in (stage.rows, stage.columns))
        stained, frames = made.plates * made.stained_wells * made.times, made.plates * made.wells * made.times
        raw = made.files * stage.tile_px**2 * BYTES_OF_PIXEL
    else:
        from segue.plate.foresight import plate_layout

        assert spec.files is not None  # the specification has one of the two
        layout = plate_layout(spec, spec.files, where)
        sides = zip(layout.grid, layout.tile_shape, strict=True)
        height, width = (round(side * (1 + (n - 1) * (1 - spec.files.overlap))) for n, side in sides)
        times = {well.key: len({time for time, _, _ in well.planes}) for well in layout.wells}
        stained = sum(times[well.key] for well in layout.wells if well.stained)
        frames, raw = sum(times.values()), 0
    side, step = spec.tiles.tile_px, spec.tiles.stride_px
    tiles = stained * ((height - side) // step + 1) * ((width - side) // step + 1)
    pixels = tiles * side**2 + frames * height * width * (1 + spec.tiles.keep_micrographs)
    return {"tiles": tiles, "bytes": pixels * (BYTES_OF_PIXEL + 2 * BYTES_OF_LABEL) + raw}
