"""ROIs of ImageJ and Fiji: a .roi, or a .zip of the ROI Manager."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segue.data.annotations.shapes import Annotations, Shape, ellipse, polygon

if TYPE_CHECKING:
    from roifile import ImagejRoi

CLASS = "class"  # the property of a ROI that names its class


def read_imagej_roi(path: Path) -> Annotations:
    """Returns the ROIs of a file, in its order. A ROI's class is its property "class", else the number of its group."""
    from roifile import roiread

    rois = roiread(path)
    shapes, left_out = [], []
    for index, roi in enumerate(rois if isinstance(rois, list) else [rois], 1):
        name = roi.name or str(index)
        shape = _shape(roi, name)
        if shape is None:
            left_out.append(name)
        else:
            shapes.append(shape)
    return Annotations(shapes, notes={"are texts or images, and are left out": left_out} if left_out else {})


def _shape(roi: ImagejRoi, name: str) -> Shape | None:
    from roifile import ROI_SUBTYPE, ROI_TYPE

    common = {"name": name, "class_name": _class_name(roi), "page": _page(roi)}
    if roi.subtype in (ROI_SUBTYPE.TEXT, ROI_SUBTYPE.IMAGE) or roi.roitype == ROI_TYPE.NOROI:
        return None
    if roi.composite:
        return Shape(**common, kind="area", paths=[[np.asarray(ring, float) for ring in _rings(roi)]])
    if roi.roitype in (ROI_TYPE.RECT, ROI_TYPE.OVAL):
        if roi.subpixelrect:
            left, top, width, height = roi.xd, roi.yd, roi.widthd, roi.heightd
        else:
            left, top, width, height = roi.left, roi.top, roi.right - roi.left, roi.bottom - roi.top
        if roi.roitype == ROI_TYPE.OVAL:
            return Shape(**common, kind="area", pixels=(ellipse(left, top, width, height),))
        corners = [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]
        return Shape(**common, kind="area", paths=[polygon(corners)])
    if roi.roitype == ROI_TYPE.LINE:
        ends = np.array([(roi.x1, roi.y1), (roi.x2, roi.y2)], float)
        return Shape(**common, kind="line", paths=[[ends]], width_px=float(roi.stroke_width or 1))
    points = np.asarray(roi.coordinates(), float)
    if roi.roitype in (ROI_TYPE.POLYLINE, ROI_TYPE.FREELINE, ROI_TYPE.ANGLE):
        return Shape(**common, kind="line", paths=[[points]], width_px=float(roi.stroke_width or 1))
    return Shape(**common, kind="point" if roi.roitype == ROI_TYPE.POINT else "area", paths=[[points]])


def _rings(roi: ImagejRoi) -> list[np.ndarray]:
    coordinates = roi.coordinates(multi=True)
    return coordinates if isinstance(coordinates, list) else [coordinates]


def _class_name(roi: ImagejRoi) -> str:
    stated = str(roi.properties.get(CLASS, "")).strip() if roi.props else ""
    return stated or (str(roi.group) if roi.group else "")


def _page(roi: ImagejRoi) -> int | None:
    """Returns the page of the stack that a ROI is on: time, else depth, else the position; None if it is on all."""
    number = roi.t_position or roi.z_position or roi.position
    return number - 1 if number > 0 else None
