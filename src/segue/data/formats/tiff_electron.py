"""Pixel sizes that the programs of electron microscopes write into TIFF, or into a text file beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from segue.units import pixel_size_nm

# private tags of Gatan DigitalMicrograph: scale and unit of x and y
GATAN_SCALE, GATAN_UNIT = (65009, 65010), (65003, 65004)
ZEISS_SIZES = ("ap_image_pixel_size", "ap_pixel_size")  # of the stored image, of the scan: the first that exists
JEOL_BAR, JEOL_MARKER = "$$SM_MICRON_BAR", "$$SM_MICRON_MARKER"  # length in pixels, and with its unit
MAX_TEXT_BYTES = 2**18

Size = tuple[float | None, float | None, tuple[str, ...]]  # width and height in nm, notes


def _fei(tiff: Any, series: Any) -> Size | None:
    """FEI and Thermo Fisher: sizes of the scan in m; rows below the scan show a bar with text."""
    if not tiff.is_fei:
        return None
    metadata = tiff.fei_metadata or {}
    beam = metadata.get("Beam") or {}
    scan = metadata.get(beam.get("Scan") or "") or metadata.get("Scan") or {}
    rows = (metadata.get("Image") or {}).get("ResolutionY")
    height = series.keyframe.imagelength
    bar = height - rows if isinstance(rows, int) and 0 < rows < height else 0
    notes = (f"its lowest {bar} rows are no part of the scan but a bar with text",) if bar else ()
    return pixel_size_nm(scan.get("PixelWidth"), "m"), pixel_size_nm(scan.get("PixelHeight"), "m"), notes


def _zeiss(tiff: Any, series: Any) -> Size | None:
    if not tiff.is_sem:
        return None
    metadata = tiff.sem_metadata or {}
    entry = next((metadata[name] for name in ZEISS_SIZES if name in metadata), None)
    size = pixel_size_nm(*entry[1:3]) if entry is not None else None
    return size, size, ()


def _gatan(tiff: Any, series: Any) -> Size | None:
    tags = series.keyframe.tags
    if GATAN_SCALE[0] not in tags:
        return None
    width, height = (
        pixel_size_nm(tags.valueof(scale), tags.valueof(unit) or "")
        for scale, unit in zip(GATAN_SCALE, GATAN_UNIT, strict=True)
    )
    return width, height, ()


def _tvips(tiff: Any, series: Any) -> Size | None:
    """TVIPS EMMENU: sizes in nm."""
    if not tiff.is_tvips:
        return None
    metadata = tiff.tvips_metadata or {}
    return pixel_size_nm(metadata.get("PixelSizeX"), "nm"), pixel_size_nm(metadata.get("PixelSizeY"), "nm"), ()


def _olympus_sis(tiff: Any, series: Any) -> Size | None:
    if not tiff.is_sis:
        return None
    metadata = tiff.sis_metadata or {}
    return pixel_size_nm(metadata.get("pixelsizex"), "m"), pixel_size_nm(metadata.get("pixelsizey"), "m"), ()


def _jeol(tiff: Any, series: Any) -> Size | None:
    """JEOL scanning microscopes: NAME.txt beside NAME.tif states the length of the scale bar, in pixels and in µm."""
    path = Path(tiff.filehandle.path)
    text = next((path.with_suffix(end) for end in (".txt", ".TXT") if path.with_suffix(end).is_file()), None)
    if text is None or text.stat().st_size > MAX_TEXT_BYTES:
        return None
    content = text.read_text("latin-1")
    if "$CM_FORMAT" not in content or "JEOL" not in content:
        return None
    entries = dict(line.split(None, 1) for line in content.splitlines() if len(line.split(None, 1)) == 2)
    marker = re.fullmatch(r"([0-9.]+)\s*(\S+)\s*", entries.get(JEOL_MARKER, ""))
    try:
        bar = float(entries[JEOL_BAR])
    except (KeyError, ValueError):
        return None
    if marker is None or bar <= 0:
        return None
    size = pixel_size_nm(float(marker[1]) / bar, marker[2].replace("\xb5", "µ"))
    return size, size, ()


SIZES: Mapping[str, Callable[[Any, Any], Size | None]] = {
    "FEI": _fei,
    "Zeiss SEM": _zeiss,
    "Gatan": _gatan,
    "TVIPS": _tvips,
    "Olympus SIS": _olympus_sis,
    "JEOL": _jeol,
}
