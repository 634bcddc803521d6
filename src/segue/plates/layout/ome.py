"""Images by their metadata: OME-TIFF files, and OME-Zarr plates (NGFF 0.4 on Zarr 2, 0.5 on Zarr 3)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from segue.data.image_io import broken, read_header
from segue.errors import SegueError
from segue.plates.layout.filenames import match_paths
from segue.plates.layout.grid import ImageEntry, Plane, ScanResult, pixel_dtype, well_name
from segue.plates.spec import FilesSpec

UM_PER_UNIT = {"nm": 1e-3, "nanometer": 1e-3, "um": 1.0, "µm": 1.0, "μm": 1.0, "micrometer": 1.0, "mm": 1e3,
               "millimeter": 1e3, "cm": 1e4, "m": 1e6, "meter": 1e6, "å": 1e-4, "angstrom": 1e-4}  # fmt: skip
H_PER_UNIT = {"ns": 1e-9 / 3600, "µs": 1e-6 / 3600, "μs": 1e-6 / 3600, "ms": 1e-3 / 3600, "s": 1 / 3600, "min": 1 / 60,
              "h": 1.0, "d": 24.0, "nanosecond": 1e-9 / 3600, "microsecond": 1e-6 / 3600, "millisecond": 1e-3 / 3600,
              "second": 1 / 3600, "minute": 1 / 60, "hour": 1.0, "day": 24.0}  # fmt: skip


def scan_ome_tiff(spec: FilesSpec, where: Path, transmitted: str) -> ScanResult:
    """Returns the images of OME-TIFF files whose names fit the pattern: an image (series) is a field, with T and C.

    What the name does not tell, the metadata do: channel names, time points, fields, the well of an image (Plate
    elements), stage positions, pixel size. Files that are no OME-TIFF fit not.
    """
    assert spec.pattern is not None
    matched, unfit = match_paths(spec.pattern, where)
    findings = ScanResult(unmatched=unfit)
    for path, names in matched:
        _add_file(findings, path, names, spec, transmitted)
    return findings


def _add_file(findings: ScanResult, path: Path, names: Mapping[str, str], spec: FilesSpec, transmitted: str) -> None:
    import tifffile

    from segue.data.image_io import complaints_of_tifffile, pixel_size_of

    try:
        read_header(path)  # says better than tifffile what is no TIFF
        with complaints_of_tifffile() as complaints, tifffile.TiffFile(path) as tiff:
            text = tiff.ome_metadata if tiff.is_ome else None
            if complaints:
                raise SegueError(broken(path, complaints[0]))
            if text is None:
                findings.unmatched.append(f"{path} has no OME metadata")
                return
            root = ElementTree.fromstring(text)
            others = {e.attrib.get("FileName", path.name) for e in _all(root, "UUID")} - {path.name}
            if others:
                findings.errors.append(
                    f"{path}: is one of a set of {len(others) + 1} files ({min(others)} …) that share their metadata; "
                    'use format = "pattern" or "manifest" for such sets.'
                )
                return
            images, series = _all(root, "Image"), tiff.series
            if len(images) != len(series):
                findings.errors.append(
                    f"{path}: its metadata name {len(images)} images, it holds {len(series)}; export it again."
                )
                return
            size_nm = pixel_size_of(path, tiff)
            wells = _wells_of(root)
            for number, (image, one) in enumerate(zip(images, series, strict=True)):
                told = _image(path, number, image, None if size_nm is None else size_nm / 1000)
                place = {**wells.get(image.attrib.get("ID", ""), {}), **names}
                _add_image(findings, told, one, place, spec, transmitted)
    except SegueError as error:
        findings.errors.append(str(error))
    except Exception as error:  # whatever the bytes make tifffile raise
        findings.errors.append(f"{path}: cannot be read as OME-TIFF ({error}); copy it again, or leave it out.")


@dataclass(frozen=True)
class _Image:
    """What the OME metadata tell of one image of a file: channel names, stage position (y, x) in µm, pixel size, time.

    acquired_h: hours since the acquisition began by (T, C) of its planes, where they are told.
    """

    path: Path
    number: int
    channels: list[str]
    stage: tuple[float, float] | None
    pixel_size_um: float | None
    interval_h: float | None
    acquired_h: Mapping[tuple[int, int], float]


def _image(path: Path, number: int, element: ElementTree.Element, pixel_size_um: float | None) -> _Image:
    planes = [plane.attrib for plane in _all(element, "Plane")]
    plane = next((plane for plane in planes if "PositionX" in plane and "PositionY" in plane), None)
    stage = None if plane is None else (_micrometres(plane, "Y"), _micrometres(plane, "X"))
    channels = [channel.attrib.get("Name", str(i)) for i, channel in enumerate(_all(element, "Channel"))]
    interval = next((told for one in _all(element, "Pixels") if (told := _hours(one.attrib, "TimeIncrement"))), None)
    acquired = {(int(one.get("TheT", 0)), int(one.get("TheC", 0))): _hours(one, "DeltaT") for one in planes}
    known = {place: hours for place, hours in acquired.items() if hours is not None}
    return _Image(path, number, channels, stage, pixel_size_um, interval or None, known)


def _add_image(
    findings: ScanResult, told: _Image, series: Any, names: Mapping[str, str], spec: FilesSpec, transmitted: str
) -> None:
    path, axes, shape = told.path, series.axes, series.shape
    lengths = dict(zip(axes, shape, strict=True))
    many = next((f"{n} along {axis}" for axis, n in lengths.items() if axis not in "TCYX" and n > 1), None)
    if many is None and "time" in names and lengths.get("T", 1) > 1:
        many = f"{lengths['T']} time points, and its name tells one"
    if many is None and "channel" in names and lengths.get("C", 1) > 1:
        many = f"{lengths['C']} channels, and its name tells one"
    if many is None and told.number > 0 and ("row" in names or "field" in names):
        many = "several images, and its name tells one field"
    if many is None and axes[-2:] != "YX":
        many = f"pixels along {axes}"
    if many is None and "well" not in names:
        many = "no well, and its name tells none: write {well} in the pattern; it has"
    tokens = told.channels or [transmitted]
    if many is None and (
        len(set(tokens)) < len(tokens) or ("channel" not in names and len(tokens) != lengths.get("C", 1))
    ):
        many = f"{lengths.get('C', 1)} channels named {', '.join(tokens)}"
    if many is not None:
        findings.errors.append(f"{path}: has {many} (axes {axes}); a field is T × C × Y × X: export it so.")
        return
    leading = [(axis, n) for axis, n in zip(axes, shape, strict=True) if axis not in "YX"]
    for flat, place in enumerate(np.ndindex(*(n for _, n in leading))):
        page = series.pages[flat]
        if page is None:
            continue  # a plane that was never acquired: told as missing
        end = max(map(sum, zip(page.dataoffsets, page.databytecounts, strict=True)))
        if end > path.stat().st_size:
            raise SegueError(f"{path}: is cut off, {path.stat().st_size} bytes of at least {end}; copy it again.")
        at = dict(zip((axis for axis, _ in leading), place, strict=True))
        findings.images.append(
            ImageEntry(
                plate=names.get("plate", spec.plate),
                well=well_name(names["well"]),
                time=int(names["time"]) if "time" in names else int(at.get("T", 0)),
                channel=names.get("channel") or tokens[at.get("C", 0)],
                plane=Plane(path, (int(page.index),)),
                field_index=(int(names["row"]), int(names["column"])) if "row" in names else None,
                field_number=int(names["field"]) if "field" in names else told.number,
                stage=told.stage,
                shape=(int(shape[-2]), int(shape[-1])),
                dtype=pixel_dtype(series.dtype),
                pixel_size_um=told.pixel_size_um,
                interval_h=told.interval_h,
                time_h=None if "time" in names else told.acquired_h.get((at.get("T", 0), at.get("C", 0))),
            )
        )


def _wells_of(root: ElementTree.Element) -> dict[str, dict[str, str]]:
    """Returns plate and well by the identifier of an image, as Plate, Well and WellSample elements say."""
    found = {}
    for plate in _all(root, "Plate"):
        name = plate.attrib.get("Name") or plate.attrib.get("ID", "")
        for well in _all(plate, "Well"):
            place = f"{_letters(int(well.attrib['Row']))}{int(well.attrib['Column']) + 1}"
            for reference in _all(well, "ImageRef"):
                found[reference.attrib["ID"]] = {"plate": name.replace("/", "-"), "well": place}
    return found


def _letters(row: int) -> str:
    return chr(65 + row) if row < 26 else chr(64 + row // 26) + chr(65 + row % 26)


def _all(element: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [one for one in element.iter() if one.tag.rpartition("}")[2] == name]


def _micrometres(plane: Mapping[str, str], axis: str) -> float:
    return float(plane[f"Position{axis}"]) * UM_PER_UNIT.get(plane.get(f"Position{axis}Unit", "µm").lower(), 1.0)


def _hours(attributes: Mapping[str, str], name: str) -> float | None:
    """Returns a time in h, of which OME says that it is in seconds where no unit is given; None where it is no time."""
    unit = H_PER_UNIT.get(attributes.get(f"{name}Unit", "s"))
    try:
        hours = float(attributes[name]) * (unit or math.nan)
    except (KeyError, ValueError):
        return None
    return hours if math.isfinite(hours) and hours >= 0 else None


def scan_ome_zarr(spec: FilesSpec, where: Path) -> ScanResult:
    """Returns the images of OME-Zarr plates whose folders fit the pattern: wells, their images as fields, t and c.

    Full resolution only. A plate's name is that in the pattern, else its own, else the folder's. Channels are named by
    `omero`, else by number; translations give stage positions. Wells that the plate names and that are not there are
    told as missing.
    """
    assert spec.pattern is not None
    matched, _ = match_paths(spec.pattern, where, folders=True)
    findings = ScanResult()
    for folder, names in matched:
        plate = _attributes(folder).get("plate")
        if plate is None:
            findings.errors.append(f"{folder}: has no plate metadata; give the folder of an OME-Zarr plate.")
            continue
        name = (
            names.get("plate")
            or str(plate.get("name") or "").replace("/", "-")
            or re.sub(r"(\.ome)?\.zarr$", "", folder.name)
        )
        for entry in plate.get("wells", ()):
            well = well_name(str(entry["path"]).replace("/", ""))
            try:
                images = _attributes(folder / entry["path"])["well"]["images"]
            except (SegueError, KeyError):
                findings.missing.append(f"{name}/{well} is named by the plate {folder.name}, and is not there")
                continue
            if len({image.get("acquisition", 0) for image in images}) > 1:
                findings.errors.append(
                    f"{folder / entry['path']}: holds several acquisitions; name the images to use in a manifest."
                )
                continue
            for number, image in enumerate(images):
                _add_zarr(findings, folder / entry["path"] / image["path"], (name, well, number))
    return findings


def _add_zarr(findings: ScanResult, folder: Path, place: tuple[str, str, int]) -> None:
    try:
        attributes = _attributes(folder)
        scales = attributes["multiscales"][0]
        array = folder / scales["datasets"][0]["path"]
        shape, dtype = array_header(array)
        axes = [axis["name"] if isinstance(axis, dict) else str(axis) for axis in scales["axes"]]
        if axes[-2:] != ["y", "x"] or len(axes) != len(shape):
            raise SegueError(
                f"{array}: has the axes {', '.join(axes)} and {len(shape)} dimensions; allowed is t, c, y, x."
            )
        many = next((a for a, n in zip(axes, shape, strict=True) if a not in "tcyx" and n > 1), None)
        if many:
            raise SegueError(f"{array}: has several planes along {many}; allowed is t, c, y, x: project it.")
        size_um, stage = _geometry(array, scales)
        interval_h = _interval_h(scales, axes)
    except SegueError as error:
        findings.errors.append(str(error))
        return
    except (KeyError, IndexError, TypeError, ValueError) as error:
        findings.errors.append(f"{folder}: its multiscales metadata lack {error}; write it again as OME-Zarr.")
        return
    tokens = [str(one.get("label", i)) for i, one in enumerate(attributes.get("omero", {}).get("channels", ()))]
    count = shape[axes.index("c")] if "c" in axes else 1
    tokens = tokens or [str(i) for i in range(count)]
    if len(tokens) != count or len(set(tokens)) < count:
        findings.errors.append(f"{folder}: has {count} channels, named {', '.join(tokens)}; give each one name.")
        return
    for index in np.ndindex(*shape[:-2]):
        at = dict(zip(axes, index, strict=False))
        findings.images.append(
            ImageEntry(
                plate=place[0],
                well=place[1],
                time=int(at.get("t", 0)),
                channel=tokens[at.get("c", 0)],
                plane=Plane(array, tuple(int(i) for i in index)),
                field_number=place[2],
                stage=stage,
                shape=(shape[-2], shape[-1]),
                dtype=dtype,
                pixel_size_um=size_um,
                interval_h=interval_h,
            )
        )


def _geometry(array: Path, scales: Mapping[str, Any]) -> tuple[float | None, tuple[float, float] | None]:
    """Returns the pixel size in µm where a unit is given, and the translation (y, x) where there is one."""
    transforms = [
        *scales["datasets"][0].get("coordinateTransformations", ()),
        *scales.get("coordinateTransformations", ()),
    ]
    scale, shift = [1.0, 1.0], None
    for transform in transforms:
        if transform["type"] == "scale":
            factors = transform["scale"][-2:]
            scale = [a * b for a, b in zip(scale, factors, strict=True)]
            shift = None if shift is None else [a * b for a, b in zip(shift, factors, strict=True)]
        elif transform["type"] == "translation":
            shift = [a + b for a, b in zip(shift or [0.0, 0.0], transform["translation"][-2:], strict=True)]
    axis = scales["axes"][-1]
    unit = UM_PER_UNIT.get(str(axis.get("unit", "")).lower()) if isinstance(axis, dict) else None
    if unit is not None and not math.isclose(scale[0], scale[1], rel_tol=0.01):
        raise SegueError(f"{array}: its pixels are {scale[0]:g} × {scale[1]:g}; segue needs square ones: resample it.")
    stage = None if shift is None else (shift[0] * (unit or 1.0), shift[1] * (unit or 1.0))
    return None if unit is None else scale[1] * unit, stage


def _interval_h(scales: Mapping[str, Any], axes: list[str]) -> float | None:
    """Returns the hours from one index of the axis t to the next, where its unit is given."""
    if "t" not in axes or not isinstance(scales["axes"][axes.index("t")], dict):
        return None
    unit = H_PER_UNIT.get(str(scales["axes"][axes.index("t")].get("unit", "")).lower())
    transforms = [
        *scales["datasets"][0].get("coordinateTransformations", ()),
        *scales.get("coordinateTransformations", ()),
    ]
    steps = [float(one["scale"][axes.index("t")]) for one in transforms if one["type"] == "scale"]
    return None if unit is None or not steps or math.prod(steps) <= 0 else math.prod(steps) * unit


def array_header(folder: Path) -> tuple[tuple[int, ...], str]:
    """Returns the shape of a Zarr array and the type it is read in, by its metadata; raises SegueError without them."""
    for name, kind in (("zarr.json", "data_type"), (".zarray", "dtype")):
        if (folder / name).is_file():
            told = _json(folder / name)
            try:
                return tuple(int(n) for n in told["shape"]), pixel_dtype(np.dtype(told[kind]))
            except (KeyError, TypeError, ValueError) as error:
                raise SegueError(
                    f"{folder / name}: is no description of an array ({error}); write it again."
                ) from error
    raise SegueError(f"{folder}: is no Zarr array; correct the path.")


def _attributes(folder: Path) -> Mapping[str, Any]:
    """Returns the OME attributes of a Zarr group."""
    if (folder / "zarr.json").is_file():
        return _json(folder / "zarr.json").get("attributes", {}).get("ome", {})
    if (folder / ".zattrs").is_file():
        return _json(folder / ".zattrs")
    raise SegueError(f"{folder}: is no OME-Zarr group; correct the path.")


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SegueError(f"{path}: cannot be read ({error}); copy it again.") from error
