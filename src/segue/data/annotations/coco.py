"""Instances as COCO's JSON: the annotations of many images in a file (https://cocodataset.org/#format-data)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from segue.data.annotations.shapes import Annotations, Pixels, Shape, reading


def is_coco(content: Any) -> bool:
    return isinstance(content, Mapping) and "images" in content and "annotations" in content


def coco_images(content: Mapping[str, Any]) -> list[str]:
    return [str(image["file_name"]) for image in content["images"]]


def read_coco(content: Mapping[str, Any]) -> Callable[[str], Annotations]:
    """Returns a function that gives the annotations of an image by its `file_name`, in the order of the file.

    Pixels of crowds (`iscrowd`) are ignored. Results, which have a score, are read as annotations are.
    """
    images = {str(image["file_name"]): image for image in content["images"]}
    categories = {one["id"]: str(one["name"]) for one in content.get("categories") or ()}
    by_image: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
    known = {image["id"] for image in content["images"]}
    for one in content["annotations"]:
        if one["image_id"] not in known:
            raise ValueError(
                f"annotation {one.get('id')} is of image {one['image_id']!r}, which `images` does not have"
            )
        by_image[one["image_id"]].append(one)

    def read(name: str) -> Annotations:
        image = images[name]
        shapes, left_out = [], []
        for number, one in enumerate(by_image[image["id"]], 1):
            if one.get("segmentation"):
                with reading(str(one.get("id", number))):
                    shapes.append(
                        _shape(one, str(one.get("id", number)), categories, (image["height"], image["width"]))
                    )
            else:
                left_out.append(str(one.get("id", number)))
        notes = {"have a box and no outline, and are left out": left_out} if left_out else {}
        return Annotations(shapes, (int(image["height"]), int(image["width"])), notes=notes)

    return read


def _shape(one: Mapping[str, Any], name: str, categories: Mapping[Any, str], size: tuple[int, int]) -> Shape:
    segmentation, category = one["segmentation"], one.get("category_id")
    label = categories.get(category, "" if category is None else str(category))
    is_crowd = bool(one.get("iscrowd", 0))
    if isinstance(segmentation, Mapping):
        if tuple(segmentation["size"]) != size:
            stated = " × ".join(map(str, segmentation["size"]))
            raise ValueError(f"annotation {name} has run lengths of {stated} px, its image {size[0]} × {size[1]} px")
        pixels = decode_runs(segmentation["counts"], *size)
        return Shape(name, label, "area", pixels=(pixels,), ignored=is_crowd)
    paths = [[np.asarray(flat, float).reshape(-1, 2)] for flat in segmentation]
    return Shape(name, label, "area", paths, ignored=is_crowd)


def decode_runs(counts: Sequence[int] | str, height: int, width: int) -> Pixels:
    """Returns the pixels of run lengths down the columns, outside first, as numbers or in COCO's compressed text."""
    runs = np.array(_decoded(counts) if isinstance(counts, str) else counts, np.int64)
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"run lengths of {runs.sum()} pixels in an image of {height} × {width}")
    ends = np.cumsum(runs)
    first, last = ends[0:-1:2], ends[1::2]  # of the runs inside
    first = first[: len(last)]
    is_inside = last > first
    first, last = first[is_inside], last[is_inside]
    if not len(first):
        return Pixels(0, 0, np.zeros((0, 0), bool))
    left, right = int(first[0] // height), int((last[-1] - 1) // height) + 1
    changes = np.zeros((right - left) * height + 1, np.int8)
    changes[first - left * height] += 1
    changes[last - left * height] -= 1
    mask = np.cumsum(changes[:-1], dtype=np.int8).astype(bool).reshape(right - left, height).T
    rows = np.flatnonzero(mask.any(1))
    return Pixels(int(rows[0]), left, mask[rows[0] : rows[-1] + 1])


def _decoded(text: str) -> list[int]:
    """Returns the run lengths of COCO's compressed text: groups of five bits, as differences from the run before the
    last one (`rleFrString` of https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c)."""
    runs: list[int] = []
    value = shift = 0
    for byte in text.encode("ascii"):
        group = byte - 48
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs
