"""Images identified by their metadata: OME-TIFF files, and OME-Zarr plates (NGFF 0.4 on Zarr 2, 0.5 on Zarr 3).

OME-XML is read by ElementTree and NGFF metadata as JSON: typed models take ten times as long (decision 14).
"""

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
from segue.storage import is_inside
from segue.units import length_nm, pixel_size_nm, square_pixel_nm, time_h

# ---- OME-TIFF


def scan_ome_tiff(spec: FilesSpec, root: Path, transmitted: str) -> ScanResult:
    """Returns the images of OME-TIFF files whose names match the pattern: an image (series) is a field, with T and C.

    What the name does not give comes from the metadata: channel names, time points, fields, the well of an image
    (Plate elements), stage positions, pixel size. Other TIFF files are unmatched.
    """
    assert spec.pattern is not None
    matched, unmatched, errors = match_paths(spec.pattern, root)
    scan = ScanResult(unmatched=unmatched, errors=errors)
    for path, names in matched:
        try:
            _scan_file(scan, path, names, spec, transmitted)
        except SegueError as error:
            scan.errors.append(str(error))
        except Exception as error:  # whatever the bytes make tifffile raise
            scan.errors.append(f"{path}: cannot be read as OME-TIFF ({error}); copy it again, or leave it out.")
    return scan


def _scan_file(scan: ScanResult, path: Path, names: Mapping[str, str], spec: FilesSpec, transmitted: str) -> None:
    """Adds the images of a file to the scan; `names` are the values of the pattern's placeholders."""
    import tifffile

    from segue.data.formats.tiff import samples_of, tifffile_errors

    read_header(path)  # its message on a file that is not a TIFF is better than tifffile's
    with tifffile_errors() as complaints, tifffile.TiffFile(path) as tiff:
        text = tiff.ome_metadata if tiff.is_ome else None
        if complaints:
            raise SegueError(broken(path, complaints[0]))
        if text is None:
            scan.unmatched.append(f"{path} has no OME metadata")
            return
        root = ElementTree.fromstring(text)
        others = {e.attrib.get("FileName", path.name) for e in _elements(root, "UUID")} - {path.name}
        if others:
            raise SegueError(
                f"{path}: is one of a set of {len(others) + 1} files ({min(others)} …) that share their metadata; "
                'use format = "pattern" or "manifest" for such sets.'
            )
        elements, all_series = _elements(root, "Image"), tiff.series
        if len(elements) != len(all_series):
            raise SegueError(
                f"{path}: its metadata name {len(elements)} images, but it holds {len(all_series)}; export it again."
            )
        wells = _wells_by_image(root)
        for number, (element, series) in enumerate(zip(elements, all_series, strict=True)):
            samples, _ = samples_of(path, series.keyframe, labels=False)
            image = _image_metadata(path, number, element, samples.dtype(series.dtype))
            scan.notes += [f"{path}: {note}" for note in image.notes]
            place = {**wells.get(element.attrib.get("ID", ""), {}), **names}
            problem = _unusable(image, series, place, transmitted)
            if problem is not None:
                scan.errors.append(
                    f"{path}: has {problem} (axes {series.axes}); a field is T × C × Y × X: export it in this form."
                )
            else:
                _add_planes(scan, image, series, place, spec, transmitted)


@dataclass(frozen=True)
class _ImageMetadata:
    """The OME metadata of one image of a file: channel names, stage position (y, x) in µm, pixel size, times.

    acquired_h: hours since the start of the acquisition by (T, C) of the planes that have one. dtype: of its pixels.
    """

    path: Path
    number: int
    channels: list[str]
    stage: tuple[float, float] | None
    pixel_size_um: float | None
    interval_h: float | None
    acquired_h: Mapping[tuple[int, int], float]
    dtype: np.dtype
    notes: tuple[str, ...]


def _image_metadata(path: Path, number: int, element: ElementTree.Element, dtype: np.dtype) -> _ImageMetadata:
    from segue.data.formats.tiff_metadata import ome_pixels

    metadata = ome_pixels(_elements(element, "Pixels")[0])
    size_nm = metadata.pixel_size_nm
    planes = [plane.attrib for plane in _elements(element, "Plane")]
    placed = next((plane for plane in planes if "PositionX" in plane and "PositionY" in plane), None)
    intervals = [_hours(pixels.attrib, "TimeIncrement") for pixels in _elements(element, "Pixels")]
    acquired = {(int(plane.get("TheT", 0)), int(plane.get("TheC", 0))): _hours(plane, "DeltaT") for plane in planes}
    return _ImageMetadata(
        path,
        number,
        channels=[channel.attrib.get("Name", str(i)) for i, channel in enumerate(_elements(element, "Channel"))],
        stage=None if placed is None else (_position_um(placed, "Y"), _position_um(placed, "X")),
        pixel_size_um=None if size_nm is None else size_nm / 1000,
        interval_h=next((hours for hours in intervals if hours), None),
        acquired_h={place: hours for place, hours in acquired.items() if hours is not None},
        dtype=dtype,
        notes=metadata.notes,
    )


def _unusable(image: _ImageMetadata, series: Any, names: Mapping[str, str], transmitted: str) -> str | None:
    """Returns the property of an image that makes it unusable as a field, or None."""
    lengths = dict(zip(series.axes, series.shape, strict=True))
    tokens, channels = image.channels or [transmitted], lengths.get("C", 1)
    for axis, length in lengths.items():
        if axis not in "TCYX" and length > 1:
            return f"{length} along {axis}"
    if "time" in names and lengths.get("T", 1) > 1:
        return f"{lengths['T']} time points, but its name gives one"
    if "channel" in names and channels > 1:
        return f"{channels} channels, but its name gives one"
    if image.number > 0 and ("row" in names or "field" in names):
        return "several images, but its name gives one field"
    if series.axes[-2:] != "YX":
        return f"pixels along {series.axes}"
    if "well" not in names:
        return "no well, and its name gives none: write {well} in the pattern; it has"
    if len(set(tokens)) < len(tokens) or ("channel" not in names and len(tokens) != channels):
        return f"{channels} channels named {', '.join(tokens)}"
    return None


def _add_planes(
    scan: ScanResult, image: _ImageMetadata, series: Any, names: Mapping[str, str], spec: FilesSpec, transmitted: str
) -> None:
    path, tokens = image.path, image.channels or [transmitted]
    leading = [(axis, length) for axis, length in zip(series.axes, series.shape, strict=True) if axis not in "YX"]
    for number, index in enumerate(np.ndindex(*(length for _, length in leading))):
        page = series.pages[number]
        if page is None:
            continue  # a plane that was never acquired: it is reported as missing
        end = max(map(sum, zip(page.dataoffsets, page.databytecounts, strict=True)))
        if end > path.stat().st_size:
            raise SegueError(f"{path}: is cut off, {path.stat().st_size} bytes of at least {end}; copy it again.")
        at = dict(zip((axis for axis, _ in leading), index, strict=True))
        time, channel = int(at.get("T", 0)), int(at.get("C", 0))
        scan.images.append(
            ImageEntry(
                plate=names.get("plate", spec.plate),
                well=well_name(names["well"]),
                time=int(names["time"]) if "time" in names else time,
                channel=names.get("channel") or tokens[channel],
                plane=Plane(path, (int(page.index),)),
                field_index=(int(names["row"]), int(names["column"])) if "row" in names else None,
                field_number=int(names["field"]) if "field" in names else image.number,
                stage=image.stage,
                shape=(int(series.shape[-2]), int(series.shape[-1])),
                dtype=pixel_dtype(image.dtype),
                pixel_size_um=image.pixel_size_um,
                interval_h=image.interval_h,
                time_h=None if "time" in names else image.acquired_h.get((time, channel)),
            )
        )


def _wells_by_image(root: ElementTree.Element) -> dict[str, dict[str, str]]:
    """Returns plate and well by the identifier of an image, from Plate, Well and WellSample elements."""
    wells = {}
    for plate in _elements(root, "Plate"):
        name = plate.attrib.get("Name") or plate.attrib.get("ID", "")
        for well in _elements(plate, "Well"):
            row, column = int(well.attrib["Row"]), int(well.attrib["Column"])
            letters = chr(65 + row) if row < 26 else chr(64 + row // 26) + chr(65 + row % 26)
            for reference in _elements(well, "ImageRef"):
                wells[reference.attrib["ID"]] = {"plate": _plate_name(name), "well": f"{letters}{column + 1}"}
    return wells


def _plate_name(name: str) -> str:
    """Returns the name without slashes, which part plate and well; two names stay two."""
    return re.sub("%(?=2F|25)", "%25", name).replace("/", "%2F")


def _elements(element: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [child for child in element.iter() if child.tag.rpartition("}")[2] == name]


def _position_um(plane: Mapping[str, str], axis: str) -> float:
    """Returns a stage position in µm; one in a reference frame is taken as it is."""
    position = plane[f"Position{axis}"]
    position_nm = length_nm(position, plane.get(f"Position{axis}Unit", "µm"))
    return float(position) if position_nm is None else position_nm / 1000


def _hours(attributes: Mapping[str, str], name: str) -> float | None:
    """Returns a time in h; OME's default unit is the second. None if it is no time."""
    hours = time_h(attributes.get(name), attributes.get(f"{name}Unit", "s"))
    return hours if hours is not None and hours >= 0 else None


# ---- OME-Zarr


def scan_ome_zarr(spec: FilesSpec, root: Path) -> ScanResult:
    """Returns the images of OME-Zarr plates whose folders match the pattern: wells, their images as fields, t and c.

    Full resolution only. A plate's name is that of the pattern, else its own, else the folder's. Channels are named by
    `omero`, else by number; translations give stage positions. Wells that the plate lists and that do not exist are
    missing.
    """
    assert spec.pattern is not None
    scan = ScanResult()
    folders: dict[str, Path] = {}  # of plates
    for folder, names in match_paths(spec.pattern, root, folders=True)[0]:
        try:
            _scan_plate(scan, folder, names, folders)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            scan.errors.append(
                f"{folder}: its metadata are not those of a plate ({error}); write it again as OME-Zarr."
            )
    return scan


def _scan_plate(scan: ScanResult, folder: Path, names: Mapping[str, str], folders: dict[str, Path]) -> None:
    """Adds the images of a plate to the scan; `names` are the values of the pattern's placeholders, `folders` those of
    the plates so far."""
    plate = _group_metadata(folder).get("plate")
    if plate is None:
        scan.errors.append(f"{folder}: has no plate metadata; give the folder of an OME-Zarr plate.")
        return
    if not plate.get("wells"):
        scan.errors.append(f"{folder}: its metadata name no well of the plate; copy it again, or leave it out.")
        return
    stated = _plate_name(str(plate.get("name") or ""))
    name = names.get("plate") or stated or re.sub(r"(\.ome)?\.zarr$", "", folder.name)
    if "plate" not in names and (other := folders.setdefault(name, folder)) != folder:
        scan.notes.append(
            f"{folder} and {other} both hold a plate '{name}' and are taken for parts of one; if they are two, "
            "write {plate} for the part of the folder's name that tells them apart."
        )
    for entry in plate["wells"]:
        well, path = well_name(str(entry["path"]).replace("/", "")), _inside(folder, entry["path"])
        try:
            images = _group_metadata(path)["well"]["images"]
        except (SegueError, KeyError):
            scan.missing.append(f"{name}/{well} is named by the plate {folder.name}, but does not exist")
            continue
        if len({image.get("acquisition", 0) for image in images}) > 1:
            scan.errors.append(f"{path}: holds several acquisitions; name the images to use in a manifest.")
            continue
        for number, image in enumerate(images):
            try:
                images_of_field, notes = _zarr_images(_inside(path, image["path"]), name, well, number)
                scan.images += images_of_field
                scan.notes += [f"{path / image['path']}: {note}" for note in notes]
            except SegueError as error:
                scan.errors.append(str(error))


def _inside(folder: Path, path: str) -> Path:
    """Returns the path of a part of the folder that metadata name; raises ValueError for one that leads out of it."""
    if not is_inside(path):
        raise ValueError(f"the path {path!r} is no part of the folder")
    return folder / path


def _zarr_images(folder: Path, plate: str, well: str, number: int) -> tuple[list[ImageEntry], tuple[str, ...]]:
    """Returns the planes of one field, and notes; raises SegueError if its metadata are incomplete or not a field's."""
    try:
        attributes = _group_metadata(folder)
        multiscale = attributes["multiscales"][0]
        array = _inside(folder, multiscale["datasets"][0]["path"])
        shape, dtype = array_header(array)
        axes = [axis["name"] if isinstance(axis, dict) else str(axis) for axis in multiscale["axes"]]
        if axes[-2:] != ["y", "x"] or len(axes) != len(shape):
            raise SegueError(
                f"{array}: has the axes {', '.join(axes)} and {len(shape)} dimensions; allowed is t, c, y, x."
            )
        deep = next((axis for axis, n in zip(axes, shape, strict=True) if axis not in "tcyx" and n > 1), None)
        if deep:
            raise SegueError(f"{array}: has several planes along {deep}; allowed is t, c, y, x: project it.")
        size_um, stage, notes = _pixel_size_and_stage(multiscale)
        interval_h = _interval_h(multiscale, axes)
        count = shape[axes.index("c")] if "c" in axes else 1
        channels = attributes.get("omero", {}).get("channels", ())
        tokens = [str(channel.get("label", i)) for i, channel in enumerate(channels)] or [str(i) for i in range(count)]
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise SegueError(f"{folder}: its multiscales metadata lack {error}; write it again as OME-Zarr.") from error
    if len(tokens) != count or len(set(tokens)) < count:
        raise SegueError(f"{folder}: has {count} channels, named {', '.join(tokens)}; give each one name.")
    entries = []
    for index in np.ndindex(*shape[:-2]):
        at = dict(zip(axes, index, strict=False))
        entries.append(
            ImageEntry(
                plate=plate,
                well=well,
                time=int(at.get("t", 0)),
                channel=tokens[at.get("c", 0)],
                plane=Plane(array, tuple(int(i) for i in index)),
                field_number=number,
                stage=stage,
                shape=(shape[-2], shape[-1]),
                dtype=dtype,
                pixel_size_um=size_um,
                interval_h=interval_h,
            )
        )
    return entries, notes


def _transforms(multiscale: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns the coordinate transformations of the full resolution, in the order in which they apply."""
    key = "coordinateTransformations"
    return [*multiscale["datasets"][0].get(key, ()), *multiscale.get(key, ())]


def _pixel_size_and_stage(
    multiscale: Mapping[str, Any],
) -> tuple[float | None, tuple[float, float] | None, tuple[str, ...]]:
    """Returns the pixel size in µm if it is known, the translation (y, x) if there is one, and notes."""
    scale, shift = [1.0, 1.0], None
    for transform in _transforms(multiscale):
        if transform["type"] == "scale":
            factors = transform["scale"][-2:]
            scale = [a * b for a, b in zip(scale, factors, strict=True)]
            shift = None if shift is None else [a * b for a, b in zip(shift, factors, strict=True)]
        elif transform["type"] == "translation":
            shift = [a + b for a, b in zip(shift or [0.0, 0.0], transform["translation"][-2:], strict=True)]
    units = [axis.get("unit") if isinstance(axis, dict) else None for axis in multiscale["axes"][-2:]]
    sizes_nm = [pixel_size_nm(factor, unit) for factor, unit in zip(scale, units, strict=True)]
    size_nm, notes = square_pixel_nm(sizes_nm[1], sizes_nm[0])
    stage = None if shift is None else (_um(shift[0], units[0]), _um(shift[1], units[1]))
    return None if size_nm is None else size_nm / 1000, stage, notes


def _um(length: float, unit: object) -> float:
    """Returns a length in µm, that of an unknown unit as it is."""
    nm = length_nm(length, unit)
    return length if nm is None else nm / 1000


def _interval_h(multiscale: Mapping[str, Any], axes: list[str]) -> float | None:
    """Returns the hours between time indices, if the axis t has a unit."""
    if "t" not in axes or not isinstance(multiscale["axes"][axes.index("t")], dict):
        return None
    unit = multiscale["axes"][axes.index("t")].get("unit")
    steps = [float(one["scale"][axes.index("t")]) for one in _transforms(multiscale) if one["type"] == "scale"]
    return time_h(math.prod(steps), unit) if steps and math.prod(steps) > 0 else None


def array_header(folder: Path) -> tuple[tuple[int, ...], str]:
    """Returns the shape of a Zarr array and the type in which it is read; raises SegueError if it is not an array."""
    for name, key in (("zarr.json", "data_type"), (".zarray", "dtype")):
        if (folder / name).is_file():
            header = _read_json(folder / name)
            try:
                return tuple(int(n) for n in header["shape"]), pixel_dtype(np.dtype(header[key]))
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise SegueError(
                    f"{folder / name}: is not a description of an array ({error}); write it again."
                ) from error
    raise SegueError(f"{folder}: is not a Zarr array; correct the path.")


def _group_metadata(folder: Path) -> Mapping[str, Any]:
    """Returns the OME metadata of a Zarr group."""
    if (folder / "zarr.json").is_file():
        return _read_json(folder / "zarr.json").get("attributes", {}).get("ome", {})
    if (folder / ".zattrs").is_file():
        return _read_json(folder / ".zattrs")
    raise SegueError(f"{folder}: is not an OME-Zarr group; correct the path.")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SegueError(f"{path}: cannot be read ({error}); copy it again.") from error
    if not isinstance(content, dict):
        raise SegueError(f"{path}: holds no table of metadata; copy it again.")
    return content
