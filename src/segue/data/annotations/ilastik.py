"""Labels inside a project of ilastik (.ilp, HDF5): brushed pixels of Pixel Classification, of several images."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from segue.data.annotations.shapes import Annotations, Pixels, Shape
from segue.errors import SegueError

INPUTS = "Input Data/infos"
RAW = "Raw Data"
SETS = "LabelSets"
CONTAINERS = (".h5", ".hdf5", ".ilp", ".zarr", ".n5")  # of files that a path goes on in


@dataclass(frozen=True)
class Lane:
    """An image of a project: its name, axes such as "yxc", shape along them, and where its labels are."""

    name: str
    axes: str
    shape: tuple[int, ...] | None
    labels: str
    names: tuple[str, ...]


def read_ilastik_lanes(path: Path) -> dict[str, Lane]:
    """Returns the images of a project by name. Raises SegueError if it has no labels of pixels."""
    with h5py.File(path, "r") as file:
        workflow = next((name for name, group in file.items() if isinstance(group, h5py.Group) and SETS in group), None)
        if workflow is None or INPUTS not in file:
            raise SegueError(
                f"{path}: has no labels of pixels; give a project of Pixel Classification, or export the labels."
            )
        names: Any = file[workflow].get("LabelNames")  # type: ignore[union-attr]
        titles = () if names is None else tuple(_text(one) for one in names[()])
        lanes = {}
        inputs: Any = file[INPUTS]
        for number, lane in enumerate(sorted(inputs)):
            info = inputs[lane].get(RAW, inputs[lane])
            name = image_name(_value(info, "filePath") or _value(info, "nickname") or lane)
            tags = _value(info, "axistags")
            axes = _keys(tags) if tags else ""
            shape = tuple(int(side) for side in info["shape"][()]) if "shape" in info else None
            where = f"{workflow}/{SETS}/labels{number:03d}"
            if where in file and name in lanes:
                raise SegueError(f"{path}: has two images {name}; export their labels.")
            if where in file:
                lanes[name] = Lane(name, axes, shape, where, titles)
    return lanes


def read_ilastik(path: Path, lane: Lane) -> Annotations:
    """Returns the labels of one image: a shape for each label of each page, by the name of the label."""
    pages: dict[tuple[int | None, int], list[Pixels]] = {}
    with h5py.File(path, "r") as file:
        blocks: list[Any] = [file[lane.labels][name] for name in sorted(file[lane.labels])]  # type: ignore[index]
        axes = _axes_of_blocks(blocks, lane)
        if blocks and axes is None:
            raise SegueError(
                f"{path}: an old ilastik wrote it, and the axes of the labels of {lane.name} cannot be known; "
                "save it by a version from 1.4 on, or export the labels."
            )
        lengths = dict(zip(lane.axes, lane.shape or (), strict=False))
        for block in blocks:
            values, starts = np.asarray(block[()]), [start for start, _ in _ranges(block)]
            for plane, page, top, left in _planes(values, axes or "", starts, lengths):
                for value in np.unique(plane[plane > 0]).tolist():
                    pages.setdefault((page, value), []).append(Pixels(top, left, plane == value))
    shapes = []
    for (page, value), pixels in sorted(pages.items(), key=lambda item: (item[0][0] or 0, item[0][1])):
        label = lane.names[value - 1] if value <= len(lane.names) else f"Label {value}"
        shapes.append(Shape(label, label, "area", pixels=tuple(pixels), page=page))
    return Annotations(shapes, _size(lane), sparse=True)


def _axes_of_blocks(blocks: list[Any], lane: Lane) -> str | None:
    """Returns the axes of an image's blocks of labels, None if they cannot be known.

    ilastik states them from 1.4 on. Before, the channel, of length one, is where the image has it, or comes last, and
    other axes of length one may be missing.
    """
    if not blocks:
        return None
    tags = blocks[0].attrs.get("axistags")
    if tags is not None:
        return _keys(_text(tags))
    plain = lane.axes.replace("c", "")
    long = "".join(axis for axis, side in zip(lane.axes, lane.shape or (), strict=False) if side > 1 and axis != "c")
    orders = dict.fromkeys((lane.axes, f"{plain}c", f"{long}c"))
    return next((axes for axes in orders if all(_agrees(block, axes, lane) for block in blocks)), None)


def _agrees(block: Any, axes: str, lane: Lane) -> bool:
    ranges = _ranges(block)
    if len(axes) != len(ranges) or len(ranges) != block.ndim or "c" not in axes or not set("yx") <= set(axes):
        return False
    limits = dict(zip(lane.axes, lane.shape or (), strict=False)) | {"c": 1}
    return all(end <= limits.get(axis, end) for axis, (_, end) in zip(axes, ranges, strict=True))


def _ranges(block: Any) -> list[tuple[int, int]]:
    text = _text(block.attrs["blockSlice"])
    return [(int(start), int(end)) for start, end in re.findall(r"(\d+)\s*:\s*(\d+)", text)]


def _keys(tags: str) -> str:
    return "".join(str(axis["key"]) for axis in json.loads(tags)["axes"])


def _planes(
    values: np.ndarray, axes: str, starts: list[int], lengths: Mapping[str, int]
) -> list[tuple[np.ndarray, int | None, int, int]]:
    """Returns the planes (H, W) of a block, each with its page, None without pages, and its first row and column."""
    at = dict(zip(axes, starts, strict=True))
    paged = next((axis for axis in axes if axis in "tz" and lengths.get(axis, 2) > 1), None)
    order = [axis for axis in axes if axis not in "yx" and axis != paged] + ([paged] if paged else []) + ["y", "x"]
    values = values.transpose([axes.index(axis) for axis in order])
    values = values.reshape(-1, *values.shape[-2:])
    page = at[paged] if paged else None
    return [(plane, None if page is None else page + k, at["y"], at["x"]) for k, plane in enumerate(values)]


def _size(lane: Lane) -> tuple[int, int] | None:
    if lane.shape is None or len(lane.shape) != len(lane.axes) or not set("yx") <= set(lane.axes):
        return None
    return lane.shape[lane.axes.index("y")], lane.shape[lane.axes.index("x")]


def image_name(text: str) -> str:
    """Returns the path of an image file without the path inside of it: "b/a.h5" of "b/a.h5/raw"."""
    first = text.partition(";")[0].replace("\\", "/")  # of a stack of several files
    parts = first.split("/")
    end = next((k for k, part in enumerate(parts, 1) if part.lower().endswith(CONTAINERS)), len(parts))
    return "/".join(parts[:end])


def _value(info: Any, name: str) -> str:
    return _text(info[name][()]) if name in info else ""


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
