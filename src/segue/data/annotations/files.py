"""Files of annotations: which formats there are, which images a file is of, and what is drawn on one of them.

A file is of one image, and called as it is; or of many (COCO, projects of ilastik), and names them.
"""

from __future__ import annotations

import functools
import gzip
import json
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from segue.data.annotations.coco import coco_images, is_coco, read_coco
from segue.data.annotations.geojson import is_geojson, read_geojson
from segue.data.annotations.labelme import is_labelme, read_labelme
from segue.data.annotations.shapes import Annotations
from segue.data.spec import ANNOTATIONS
from segue.errors import SegueError
from segue.storage import placeholder, require_regular

JSON_SUFFIXES = (".json", ".json.gz", ".geojson", ".geojson.gz")
CONTENTS = {  # of files by the last suffix
    ".roi": "a ROI of ImageJ",
    ".zip": "ROIs of ImageJ",
    ".csv": "shapes or points of napari",
    ".ilp": "a project of ilastik",
    ".json": "annotations in JSON",
    ".geojson": "GeoJSON",
    ".gz": "annotations in JSON, compressed by gzip",
}


@dataclass(frozen=True)
class AnnotationFile:
    """What an open file gives. images: the names of its images, None if it is of one; read: annotations by name."""

    images: Sequence[str] | None
    read: Callable[[str], Annotations]


def is_annotation_file(path: Path) -> bool:
    return path.name.lower().endswith(ANNOTATIONS)


def annotated_images(path: Path) -> Sequence[str] | None:
    """Returns the names of the images that a file is of, None if it is of one and does not name it."""
    return open_annotations(path).images


def read_annotations(
    path: Path, image: Path, page: int | None = None, page_count: int = 1, channels: int = 1
) -> Annotations:
    """Returns the annotations of an image, on its `page` of `page_count` (from 0 on; None: it is a single image).

    channels: of each page, by which planes are counted. Raises SegueError, one sentence naming the file, if it cannot
    be read, or is of other images.
    """
    file = open_annotations(path)
    name = "" if file.images is None else name_of(path, file.images, image)
    annotations = _reading(path, lambda: file.read(name))
    if any(shape.plane is not None for shape in annotations.shapes):
        pages = [shape.page if shape.plane is None else shape.plane // channels for shape in annotations.shapes]
        shapes = [replace(shape, page=of, plane=None) for shape, of in zip(annotations.shapes, pages, strict=True)]
        annotations = replace(annotations, shapes=shapes)
    for shape in annotations.shapes:
        if not all(np.isfinite(path).all() for paths in shape.paths for path in paths):
            raise SegueError(f"{path}: annotation '{shape.name}' has coordinates that are no numbers; draw it again.")
    notes: dict[str, list[str]] = {}
    if not page:  # what is of the whole stack is told once
        beyond = [shape.name for shape in annotations.shapes if (shape.page or 0) >= page_count]
        on_all = [shape.name for shape in annotations.shapes if shape.page is None and page_count > 1]
        notes |= {"are on a page that their image does not have, and are left out": beyond} if beyond else {}
        notes |= {"are on no page of their stack, and are drawn on each": on_all} if on_all else {}
    return _selected(annotations, page or 0, notes)


def _selected(annotations: Annotations, page: int, notes: dict[str, list[str]]) -> Annotations:
    shapes = [shape for shape in annotations.shapes if shape.page in (None, page)]
    return Annotations(shapes, annotations.size, annotations.sparse, {**annotations.notes, **notes})


def name_of(path: Path, names: Sequence[str], image: Path) -> str:
    """Returns the name by which a file of many images has `image`: with the most folders in common, else by its stem.

    Raises SegueError if it has none, or several.
    """
    candidates = names_of(names, image)
    if not candidates:
        example = f" (it has e.g. {names[0]})" if names else ""
        raise SegueError(f"{path}: has no image {image.name}{example}; add it, or leave the image out.")
    if len(candidates) > 1:
        raise SegueError(
            f"{path}: {candidates[0]} and {candidates[1]} may both be {image}; name them with their folders."
        )
    return candidates[0]


def names_of(names: Sequence[str], image: Path) -> list[str]:
    """Returns the names that may be the image: of its file name, else its stem, with most folders in common."""
    by_name = _names_by_file(tuple(names))
    candidates = by_name.get(_folded(image.name)) or by_name.get(_folded(image.stem), [])
    if len(candidates) < 2:
        return candidates
    parts = [_folded(part) for part in reversed(image.parts)]

    def common(name: str) -> int:
        of_name = [_folded(part) for part in reversed(_path(name).parts)]
        return next(
            (k for k, (a, b) in enumerate(zip(of_name, parts, strict=False)) if a != b), min(len(of_name), len(parts))
        )

    best = max(map(common, candidates))
    return [name for name in candidates if common(name) == best]


@functools.lru_cache(maxsize=4)
def _names_by_file(names: tuple[str, ...]) -> dict[str, list[str]]:
    by_name: dict[str, list[str]] = defaultdict(list)
    for name in names:
        path = _path(name)
        for key in dict.fromkeys((_folded(path.name), _folded(path.stem))):
            by_name[key].append(name)
    return dict(by_name)


def _path(name: str) -> PurePosixPath:
    return PurePosixPath(name.replace("\\", "/"))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold()


def open_annotations(path: Path) -> AnnotationFile:
    """Returns what a file holds; one that is asked for again and has not changed is not read again."""
    require_regular(path, "a file of annotations")
    absent = placeholder(path)
    if absent:
        raise SegueError(f"{path}: {absent}.")
    state = path.stat()
    return _reading(path, lambda: _open(path, state.st_mtime_ns, state.st_size))


@functools.lru_cache(maxsize=2)
def _open(path: Path, _modified: int, _size: int) -> AnnotationFile:
    name = path.name.lower()
    if name.endswith(JSON_SUFFIXES):
        return _open_json(path)
    if name.endswith(".csv"):
        from segue.data.annotations.napari_shapes import read_napari_shapes

        return AnnotationFile(None, lambda _: read_napari_shapes(path))
    if name.endswith(".ilp"):
        from segue.data.annotations.ilastik import read_ilastik, read_ilastik_lanes

        lanes = read_ilastik_lanes(path)
        return AnnotationFile(list(lanes), lambda name: read_ilastik(path, lanes[name]))
    from segue.data.annotations.imagej_roi import read_imagej_roi

    return AnnotationFile(None, lambda _: read_imagej_roi(path))


def _open_json(path: Path) -> AnnotationFile:
    data = path.read_bytes()
    content: Any = json.loads(gzip.decompress(data) if path.suffix.lower() == ".gz" else data)
    if is_coco(content):
        return AnnotationFile(coco_images(content), read_coco(content))
    if is_labelme(content):
        return AnnotationFile(None, lambda _: read_labelme(content))
    if is_geojson(content) or content == []:
        return AnnotationFile(None, lambda _: read_geojson(content))
    raise SegueError(
        f"{path}: is JSON, but no file of GeoJSON, COCO or LabelMe; export the annotations as one of these."
    )


def _reading(path: Path, function: Callable[[], Any]) -> Any:
    try:
        return function()
    except (SegueError, MemoryError):
        raise
    except Exception as error:  # whatever a damaged file makes a parser raise
        words = " ".join(str(error).split())[:200] or type(error).__name__
        if isinstance(error, KeyError):
            words = f"{error} is missing"
        raise SegueError(
            f"{path}: cannot be read as {CONTENTS[path.suffix.lower()]} ({words}); export it again."
        ) from error
