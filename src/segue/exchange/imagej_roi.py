"""ZIP archives of ImageJ ROIs, as the ROI Manager opens them.

An object of one part without holes is a traced ROI, whose corners are those of its pixels; others, and those that reach
beyond the signed 16 bits of its coordinates, are composite ROIs.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segue.exchange.objects import NO_CLASS, Objects, color_of
from segue.exchange.outlines import Outline
from segue.storage import replacing

if TYPE_CHECKING:
    from roifile import ImagejRoi

MAX_INT16 = 2**15 - 1
MOVE_TO, LINE_TO, CLOSE = 0.0, 1.0, 4.0  # java.awt.geom.PathIterator
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the first time that ZIP knows, so that equal objects are equal files
MAX_GROUP = 255  # of ROIs


def write_imagej_roi(path: Path, objects: Objects) -> None:
    """Writes a ROI for each object, called by its number, with the position in the stack; its class is the ROI's group,
    color and property "class"."""
    with replacing(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for chunk in objects.outlines():
            for outline in chunk:
                roi = _roi(objects, outline)
                member = zipfile.ZipInfo(f"{roi.name}.roi", LONG_AGO)
                member.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(member, roi.tobytes())


def _roi(objects: Objects, outline: Outline) -> ImagejRoi:
    from roifile import ROI_TYPE, ImagejRoi

    top, left, bottom, right = objects.regions.boxes[outline.row].tolist()
    roi = ImagejRoi(
        top=top,
        left=left,
        bottom=bottom,
        right=right,
        name=str(objects.regions.numbers[outline.row]),
        position=objects.stack_position or 0,
    )
    index = int(objects.class_of[outline.row])
    if index != NO_CLASS:
        roi.props = f"class: {' '.join(objects.classes[index].split())}\n"
        roi.group = index + 1 if index < MAX_GROUP else 0
        roi.stroke_color = bytes((255, *color_of(index)))
    if len(outline.parts) == 1 and len(outline.parts[0]) == 1 and max(bottom, right) <= MAX_INT16:
        ring = outline.parts[0][0][:-1]
        if len(ring) <= MAX_INT16:
            roi.roitype = ROI_TYPE.TRACED
            roi.n_coordinates = len(ring)
            roi.integer_coordinates = ring - np.array((left, top), np.int32)
            return roi
    roi.roitype = ROI_TYPE.RECT  # of a composite
    roi.multi_coordinates = np.concatenate([_path(ring) for rings in outline.parts for ring in rings])
    roi.shape_roi_size = len(roi.multi_coordinates)
    return roi


def _path(ring: np.ndarray) -> np.ndarray:
    """Returns the commands that draw a closed ring (k, 2), float32."""
    steps = np.full((len(ring) - 1, 3), LINE_TO, np.float32)
    steps[0, 0] = MOVE_TO
    steps[:, 1:] = ring[:-1]
    return np.append(steps.ravel(), np.float32(CLOSE))
