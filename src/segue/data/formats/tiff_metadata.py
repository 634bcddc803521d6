"""Pixel size and channel names of a TIFF, as the metadata of microscopes' programs in it state them.

Metadata never refuse pixels: what cannot be read becomes a note. Resolutions in dots per inch or per centimeter without
such metadata are those of a print, not of a microscope, and no pixel size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from segue.data.formats.tiff_electron import SIZES, Size
from segue.units import SQUARE_TOLERANCE, length_nm, pixel_size_nm, ratio, square_pixel_nm

CENTIMETER, INCH = 3, 2  # values of ResolutionUnit
UNIT_OF_RESOLUTION_NM = {CENTIMETER: 1e7, INCH: 2.54e7}
MIN_PRINT_NM = 1e4  # 2540 dots per inch: no print is finer


@dataclass(frozen=True)
class Metadata:
    """Pixel size in nm, channel names and notes on them: see `Acquisition`."""

    pixel_size_nm: float | None = None
    channels: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def read_metadata(tiff: Any, series: Any) -> Metadata:
    """Returns what the metadata of an open `tifffile.TiffFile` say of one of its series.

    If several programs left metadata, the first to name channels counts; if their pixel sizes differ by more than one
    per cent, the size is not known, and a note tells them. Resolution tags finer than any print are compared too.
    """
    sizes: dict[str, float] = {}
    channels: tuple[str, ...] | None = None
    notes: list[str] = []
    for name, read in METADATA.items():
        try:
            metadata = read(tiff, series)
        except Exception:  # whatever the file holds there: tifffile and parsers may raise anything
            notes.append(f"its {name} metadata cannot be read: pixel size and channel names in them are not known")
            continue
        if metadata is None:
            continue
        notes += metadata.notes
        channels = channels or metadata.channels
        if metadata.pixel_size_nm is not None:
            sizes[name] = metadata.pixel_size_nm
    resolution_nm = _resolution_nm(series) if sizes and not tiff.is_imagej else None  # ImageJ has its own use of them
    if resolution_nm is not None and resolution_nm < MIN_PRINT_NM:
        sizes["XResolution"] = resolution_nm
    if sizes and max(sizes.values()) > (1 + SQUARE_TOLERANCE) * min(sizes.values()):
        stated = ", ".join(f"{size:g} nm ({name})" for name, size in sizes.items())
        notes.append(f"its metadata contradict one another ({stated} per pixel): the pixel size is not known")
        sizes = {}
    return Metadata(next(iter(sizes.values()), None), channels, tuple(dict.fromkeys(notes)))


def _resolution_nm(series: Any) -> float | None:
    """Returns the pixel size by the tags XResolution, YResolution and ResolutionUnit, None if it is no microscope's."""
    tags = series.keyframe.tags
    unit_nm = UNIT_OF_RESOLUTION_NM.get(tags.valueof(296, INCH), 0)
    per_unit = [ratio(tags.valueof(code)) or 0 for code in (282, 283)]
    sizes = [pixel_size_nm(unit_nm / one if one > 0 else 0, "nm") for one in per_unit]
    return square_pixel_nm(*sizes)[0]


def _size(width: float | None, height: float | None, channels: Sequence[Any] | None = None) -> Metadata:
    size_nm, notes = square_pixel_nm(width, height)
    names = tuple(str(name).strip() for name in channels) if channels else None
    return Metadata(size_nm, names, notes)


# OME


def _ome(tiff: Any, series: Any) -> Metadata | None:
    if not tiff.is_ome:
        return None
    images = [e for e in ElementTree.fromstring(tiff.ome_metadata).iter() if _name(e) == "Image"]
    index = next((i for i, one in enumerate(tiff.series) if one is series), 0)
    index = index if series.kind == "ome" and index < len(images) else 0
    return ome_pixels(next(e for e in images[index].iter() if _name(e) == "Pixels"))


def ome_pixels(pixels: ElementTree.Element) -> Metadata:
    """Returns what an OME Pixels element says; its default unit is µm, and channels without a name get none."""
    sizes = [
        pixel_size_nm(pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "XY"
    ]
    channels = [e for e in pixels.iter() if _name(e) == "Channel"]
    names = [channel.get("Name") or f"Channel {i}" for i, channel in enumerate(channels)]
    return _size(sizes[0], sizes[1], names if any(channel.get("Name") for channel in channels) else None)


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


# ImageJ


def _imagej(tiff: Any, series: Any) -> Metadata | None:
    """Units of ImageJ, with its resolution tags: pixels per unit."""
    if not tiff.is_imagej:
        return None
    metadata = tiff.imagej_metadata or {}
    unit = metadata.get("unit", "")
    tags = series.keyframe.tags
    per_unit = [ratio(tags.valueof(code)) for code in (282, 283)]
    resolution_unit = tags.valueof(296)
    width = _imagej_nm(per_unit[0], unit, resolution_unit)
    height = _imagej_nm(per_unit[1], metadata.get("yunit", unit), resolution_unit)
    return _size(width, height, _imagej_channels(Path(tiff.filename).stem, metadata, series))


def _imagej_nm(per_unit: float | None, unit: object, resolution_unit: object) -> float | None:
    """Returns nm per pixel of a resolution in pixels per unit.

    If the tags say "per centimeter" and the unit is µm, ImageJ multiplies by 10000 (`FileOpener.decodeDescription`). Of
    other units it is open which of the two is meant; the size is known if only one reading is that of a microscope.
    72 dpi is the default of programs.
    """
    if not per_unit or per_unit < 0 or length_nm(1, unit) is None or (resolution_unit == INCH and per_unit == 72):
        return None
    by_unit = pixel_size_nm(1 / per_unit, unit)
    if resolution_unit != CENTIMETER:
        return by_unit
    by_tag = pixel_size_nm(1 / per_unit, "cm")
    if length_nm(1, unit) == length_nm(1, "µm") or by_unit is None or by_unit == by_tag:
        return by_tag
    return by_unit if by_tag is None else None


def _imagej_channels(stem: str, metadata: Mapping[str, Any], series: Any) -> list[str] | None:
    """Returns the labels of the first slice of each channel, None if they are titles of files or counters.

    "c:1/2 z:3/5 - DAPI" is the form of hyperstacks; what follows the dash is the label.
    """
    count = int(metadata.get("channels", 1))
    labels = metadata.get("Labels") or ()
    if len(labels) < count or count < 2:
        return None
    names = [re.sub(r"^([czt]:\d+/\d+\s*)+(-\s*)?", "", str(label)).strip() for label in labels[:count]]
    titles = [name for name in names if not name or name in stem or stem in name or re.search(r"\.\w{2,5}$", name)]
    return None if titles else names


# instruments


def _lsm(tiff: Any, series: Any) -> Metadata | None:
    if not tiff.is_lsm:
        return None
    metadata = tiff.lsm_metadata or {}
    names = metadata.get("ChannelColors", {}).get("ColorNames")
    return _size(pixel_size_nm(metadata["VoxelSizeX"], "m"), pixel_size_nm(metadata["VoxelSizeY"], "m"), names)


def _stk(tiff: Any, series: Any) -> Metadata | None:
    if not tiff.is_stk:
        return None
    metadata = tiff.stk_metadata or {}
    unit = metadata.get("CalibrationUnits", "")
    if not metadata.get("SpatialCalibration", 1):
        return None
    width, height = (pixel_size_nm(metadata.get(f"{axis}Calibration"), unit) for axis in "XY")
    return _size(width, height)


def _metaseries(tiff: Any, series: Any) -> Metadata | None:
    if not tiff.is_metaseries:
        return None
    metadata = tiff.metaseries_metadata["PlaneInfo"]
    name = metadata.get("_IllumSetting_")
    if not metadata.get("spatial-calibration-state", True):
        return Metadata(channels=(str(name),) if name else None)
    unit = metadata.get("spatial-calibration-units", "")
    width, height = (pixel_size_nm(metadata.get(f"spatial-calibration-{axis}"), unit) for axis in "xy")
    return _size(width, height, [name] if name else None)


def _micromanager(tiff: Any, series: Any) -> Metadata | None:
    """0 is Micro-Manager's word for not calibrated."""
    if not tiff.is_micromanager:
        return None
    summary = tiff.micromanager_metadata["Summary"]
    size = summary.get("PixelSizeUm", summary.get("PixelSize_um"))
    size_nm = pixel_size_nm(size, "µm")
    names = summary.get("ChNames")
    return _size(size_nm, size_nm, list(names) if isinstance(names, (list, tuple)) else None)


def _fluoview(tiff: Any, series: Any) -> Metadata | None:
    if not tiff.is_fluoview:
        return None
    rows = {str(row[0]).strip().upper(): row for row in tiff.fluoview_metadata["Dimensions"]}
    width, height = (pixel_size_nm(rows[axis][3], rows[axis][4]) for axis in "XY")
    return _size(width, height)


def _aperio(tiff: Any, series: Any) -> Metadata | None:
    """Micrometers per pixel (MPP) in the description, "Aperio Image Library v1|AppMag = 20|MPP = 0.499"."""
    if not tiff.is_svs:
        return None
    description = next((page.description for page in (series.keyframe, tiff.pages.first) if page.is_svs), "")
    match = re.search(r"\|\s*MPP\s*=\s*([^|\s]+)", description)
    size_nm = pixel_size_nm(match[1], "µm") if match else None
    return _size(size_nm, size_nm)


def _electron(read: Callable[[Any, Any], Size | None]) -> Callable[[Any, Any], Metadata | None]:
    """Returns a reader of the metadata of an electron microscope's program, of which only the pixel size is known."""

    def read_size(tiff: Any, series: Any) -> Metadata | None:
        size = read(tiff, series)
        if size is None:
            return None
        width, height, notes = size
        square = _size(width, height)
        return Metadata(square.pixel_size_nm, None, (*square.notes, *notes))

    return read_size


METADATA: Mapping[str, Callable[[Any, Any], Metadata | None]] = {
    "OME": _ome,
    "ImageJ": _imagej,
    "Zeiss LSM": _lsm,
    "MetaMorph": _stk,
    "MetaSeries": _metaseries,
    "Micro-Manager": _micromanager,
    "FluoView": _fluoview,
    "Aperio": _aperio,
    **{name: _electron(read) for name, read in SIZES.items()},
}
