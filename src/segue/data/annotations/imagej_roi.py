"""ROIs of ImageJ and Fiji: a .roi, or a .zip of the ROI Manager.

Areas have the pixels that ImageJ 1.54 gives them: those whose centers are inside; of centers on the border, those on
the right of an area are in it. Lines and points count from the center of the first pixel, so that 0.5 is added.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from segue.data.annotations.shapes import Annotations, Shape, ellipse, polygon

if TYPE_CHECKING:
    from roifile import ImagejRoi

CLASS = "class"  # the property of a ROI that names its class
TIE_PX = 1e-8  # by which ImageJ moves areas to the right, so that centers on their left border are outside


def read_imagej_roi(path: Path) -> Annotations:
    """Returns the ROIs of a file, in its order. A ROI's class is its property "class", else the number of its group."""
    from roifile import ImagejRoi

    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.lower().endswith(".roi")]
            members = [name for name in members if not name.startswith("__MACOSX/")]
            rois = [ImagejRoi.frombytes(archive.read(name)) for name in members]
            if archive.namelist() and not rois:
                raise ValueError("it holds no .roi")
    else:
        rois = [ImagejRoi.frombytes(path.read_bytes())]
    shapes, left_out = [], []
    for index, roi in enumerate(rois, 1):
        name = roi.name or str(index)
        shape = _shape(roi, name)
        if shape is None:
            left_out.append(name)
        else:
            shapes.append(shape)
    return Annotations(shapes, notes={"are texts or images, and are left out": left_out} if left_out else {})


def _shape(roi: ImagejRoi, name: str) -> Shape | None:
    from roifile import ROI_SUBTYPE, ROI_TYPE

    common: dict[str, Any] = {"name": name, "class_name": _class_name(roi), **_place(roi)}
    if roi.subtype in (ROI_SUBTYPE.TEXT, ROI_SUBTYPE.IMAGE) or roi.roitype == ROI_TYPE.NOROI:
        return None
    if roi.composite:
        return Shape(**common, kind="area", paths=[[_moved(ring, TIE_PX, 0) for ring in _rings(roi)]])
    if roi.roitype in (ROI_TYPE.RECT, ROI_TYPE.OVAL):
        if roi.subpixelrect:
            left, top, width, height = roi.xd, roi.yd, roi.widthd, roi.heightd
        else:
            left, top, width, height = roi.left, roi.top, roi.right - roi.left, roi.bottom - roi.top
        if roi.roitype == ROI_TYPE.OVAL:
            return Shape(**common, kind="area", pixels=(ellipse(left, top, width, height),))
        if roi.rounded_rect_arc_size:
            return Shape(**common, **_rounded(left, top, width, height, roi.rounded_rect_arc_size))
        corners = [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]
        return Shape(**common, kind="area", paths=[polygon(corners)])
    if roi.roitype == ROI_TYPE.LINE:
        ends = _moved([(roi.x1, roi.y1), (roi.x2, roi.y2)], 0.5, 0.5)
        return Shape(**common, kind="line", paths=[[ends]], width_px=float(roi.stroke_width or 1))
    points = roi.coordinates()
    if roi.roitype in (ROI_TYPE.POLYLINE, ROI_TYPE.FREELINE, ROI_TYPE.ANGLE):
        return Shape(**common, kind="line", paths=[[_moved(points, 0.5, 0.5)]], width_px=float(roi.stroke_width or 1))
    if roi.roitype == ROI_TYPE.POINT:
        return Shape(**common, kind="point", paths=[[_moved(points, 0.5, 0.5)]])
    return Shape(**common, kind="area", paths=[[_moved(points, TIE_PX, 0)]])


def _moved(points: ArrayLike, right: float, down: float) -> np.ndarray:
    return np.asarray(points, float) + np.array([right, down])


def _rounded(left: float, top: float, width: float, height: float, arc: float) -> dict[str, Any]:
    """Returns the areas of a rectangle whose corners are quarters of a circle of the diameter `arc`."""
    across, down = min(arc, width), min(arc, height)
    right, bottom = left + width, top + height
    wide = [(left, top + down / 2), (right, top + down / 2), (right, bottom - down / 2), (left, bottom - down / 2)]
    tall = [
        (left + across / 2, top),
        (right - across / 2, top),
        (right - across / 2, bottom),
        (left + across / 2, bottom),
    ]
    corners = [(x, y) for x in (left, right - across) for y in (top, bottom - down)]
    pixels = tuple(ellipse(x, y, across, down) for x, y in corners)
    return {"kind": "area", "paths": [polygon(wide), polygon(tall)], "pixels": pixels}


def _rings(roi: ImagejRoi) -> list[np.ndarray]:
    coordinates = roi.coordinates(multi=True)
    return coordinates if isinstance(coordinates, list) else [coordinates]


def _class_name(roi: ImagejRoi) -> str:
    stated = str(roi.properties.get(CLASS, "")).strip() if roi.props else ""
    return stated or (str(roi.group) if roi.group else "")


def _place(roi: ImagejRoi) -> dict[str, int | None]:
    """Returns the page that a ROI is on, by time, else by depth, or the plane by its position; none if it is on all."""
    number = roi.t_position or roi.z_position
    if number > 0:
        return {"page": number - 1}
    return {"plane": roi.position - 1} if roi.position > 0 else {}
