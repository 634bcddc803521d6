"""COCO instances (https://cocodataset.org/#format-data): masks as compressed run lengths, which keep every pixel.

A file holds one annotation a line, so that those of many images are joined without reading them whole.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numba import njit

from segue.errors import SegueError
from segue.exchange.objects import NO_CLASS, Objects
from segue.exchange.outlines import Outline
from segue.storage import replacing

MAX_PIXELS = 2**32 - 1  # COCO's programs count runs in 32 bits
SCORE = "confidence"  # the measurement that is the score of an annotation
UNNAMED = "object"  # the category of objects without a class
HEAD, MIDDLE, END = "{", ',"annotations":[', "\n]}\n"


def write_coco(path: Path, objects: Objects) -> None:
    """Writes the objects of one image: `images`, `categories` (1 … n in the order of the classes) and `annotations`.

    An annotation is called by the object's number, and has bbox (x, y, width, height), area in px, RLE, and as `score`
    the measurement "confidence". Raises SegueError for images of 2^32 px or more.
    """
    height, width = objects.labels.shape
    if height * width > MAX_PIXELS:
        raise SegueError(
            f"{path}: COCO counts pixels in 32 bits, but the image has {height} × {width} px; write geojson or "
            "geoparquet."
        )
    names = [*objects.classes]
    if UNNAMED not in names and (not names or (objects.class_of == NO_CLASS).any()):
        names.append(UNNAMED)
    image = {"id": 1, "file_name": objects.file_name, "width": width, "height": height}
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        _write(file, [image], names, _annotations(objects, names))


def join_coco(paths: Iterable[Path], path: Path) -> None:
    """Writes the annotations of files of `write_coco` to one file; images, annotations and categories are numbered
    anew, categories by name. Raises SegueError naming a file that is none."""
    paths = list(paths)
    heads = [_read_head(one) for one in paths]
    names = list(dict.fromkeys(category["name"] for head in heads for category in head["categories"]))
    images = [{**head["images"][0], "id": number} for number, head in enumerate(heads, 1)]

    def annotations() -> Iterator[dict[str, Any]]:
        count = 0
        for number, (one, head) in enumerate(zip(paths, heads, strict=True), 1):
            categories = {category["id"]: names.index(category["name"]) + 1 for category in head["categories"]}
            for annotation in _read_annotations(one):
                count += 1
                category = categories[annotation["category_id"]]
                yield {**annotation, "id": count, "image_id": number, "category_id": category}

    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        _write(file, images, names, annotations())


def _write(file: IO[str], images: list[Any], names: list[str], annotations: Iterable[dict[str, Any]]) -> None:
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    file.write(HEAD + _json({"images": images, "categories": categories})[1:-1] + MIDDLE)
    separator = "\n"
    for annotation in annotations:
        file.write(separator + _json(annotation))
        separator = ",\n"
    file.write(END)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _read_head(path: Path) -> dict[str, Any]:
    with _reading(path), path.open(encoding="utf-8") as file:
        line = file.readline()
        if not line.endswith(f"{MIDDLE}\n"):
            raise ValueError("it is no file of one image")
        return json.loads(line[: -len(MIDDLE) - 1] + "}")


def _read_annotations(path: Path) -> Iterator[dict[str, Any]]:
    with _reading(path), path.open(encoding="utf-8") as file:
        file.readline()
        for line in file:
            if line == END[1:]:
                return
            yield json.loads(line.rstrip(",\n"))
        raise ValueError("its end is missing")


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise SegueError(f"{path}: is damaged or was altered ({error}); remove it, and make it again.") from None


def _annotations(objects: Objects, names: list[str]) -> Iterator[dict[str, Any]]:
    height, width = objects.labels.shape
    scores = objects.numbers.get(SCORE)
    for chunk in objects.outlines():
        for outline in chunk:
            row = outline.row
            top, left, bottom, right = objects.regions.boxes[row].tolist()
            index = int(objects.class_of[row])
            annotation: dict[str, Any] = {
                "id": int(objects.regions.numbers[row]),
                "image_id": 1,
                "category_id": (names.index(UNNAMED) if index == NO_CLASS else index) + 1,
                "bbox": [left, top, right - left, bottom - top],
                "area": int(objects.regions.area_px[row]),
                "segmentation": {"size": [height, width], "counts": encoded_runs(outline, height, width)},
                "iscrowd": 0,
                "label": int(objects.regions.numbers[row]),
            }
            if scores is not None and not np.isnan(scores[row]):
                annotation["score"] = float(scores[row])
            yield annotation


def encoded_runs(outline: Outline, height: int, width: int) -> str:
    """Returns the pixels of an object in an image of height × width px as COCO's compressed run lengths.

    Runs go down the columns, from left to right; the first one is outside of the object. See `rleToString` of
    https://github.com/cocodataset/cocoapi/blob/master/common/maskApi.c for the code: differences from the run before
    the last one, in groups of five bits.
    """
    rings = [ring for part in outline.parts for ring in part]
    ends = np.concatenate([_ends(ring, height) for ring in rings])
    ends.sort()
    is_same = ends[1:] == ends[:-1]  # the run goes on at the top of the next column
    ends = ends[~(np.append(is_same, False) | np.append(False, is_same))]
    runs = np.diff(ends, prepend=0, append=height * width)
    return _encoded(runs if runs[-1] else runs[:-1]).tobytes().decode("ascii")


@njit(cache=True, nogil=True)
def _ends(ring: np.ndarray, height: int) -> np.ndarray:
    """Returns where horizontal borders cross columns, as places x · height + y."""
    count = 0
    for index in range(len(ring) - 1):
        count += abs(ring[index + 1, 0] - ring[index, 0])
    ends = np.empty(count, np.int64)
    count = 0
    for index in range(len(ring) - 1):
        first, last = ring[index, 0], ring[index + 1, 0]
        for x in range(min(first, last), max(first, last)):
            ends[count] = np.int64(x) * height + ring[index, 1]
            count += 1
    return ends


@njit(cache=True, nogil=True)
def _encoded(runs: np.ndarray) -> np.ndarray:
    text = np.empty(8 * len(runs), np.uint8)  # seven groups of five bits hold 32 bits and a sign
    count = 0
    for index in range(len(runs)):
        value = runs[index] - (runs[index - 2] if index > 2 else 0)
        is_last = False
        while not is_last:
            group = value & 31
            value >>= 5
            is_last = value == (-1 if group & 16 else 0)
            text[count] = group + (0 if is_last else 32) + 48
            count += 1
    return text[:count]
