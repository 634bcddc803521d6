"""Shapes and points of napari: its CSV files, with a row per corner and a column per axis."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segue.data.annotations.shapes import Annotations, Pixels, Shape

CLASS_COLUMNS = ("class", "label")  # properties of points, which napari writes beside the axes
AREAS, LINES = ("rectangle", "polygon", "ellipse"), ("path", "line")


def read_napari_shapes(path: Path) -> Annotations:
    """Returns the shapes of a file by index; the first of three axes is the page.

    Points may have a class, in a column "class" or "label"; shapes have none in files of napari.

    napari's coordinates count from the center of the first pixel, so that 0.5 is added. An ellipse has the corners of
    the rectangle around it, which may be turned.
    """
    import pandas as pd

    table = pd.read_csv(path)
    axes = sorted(name for name in table.columns if str(name).startswith("axis-"))
    if "index" not in table.columns or len(axes) not in (2, 3):
        raise ValueError(f"the columns {', '.join(map(str, table.columns[:8]))}, where index, axis-0, axis-1 should be")
    is_points = "shape-type" not in table.columns
    classes = next((name for name in CLASS_COLUMNS if name in table.columns), None)
    shapes = []
    for index, rows in table.groupby("index", sort=True):
        points = rows[axes[::-1][:2]].to_numpy(float) + 0.5
        page = round(float(rows[axes[0]].iloc[0])) if len(axes) == 3 else None
        kind = "point" if is_points else str(rows["shape-type"].iloc[0])
        name = str(int(float(str(index))))
        label = "" if classes is None else str(rows[classes].iloc[0])
        if kind == "ellipse":
            shapes.append(Shape(name, label, "area", pixels=(_turned_ellipse(points),), page=page))
        elif kind in AREAS:
            shapes.append(Shape(name, label, "area", [[points]], page=page))
        elif kind in LINES or kind == "point":
            shapes.append(Shape(name, label, "point" if kind == "point" else "line", [[points]], page=page))
        else:
            raise ValueError(f"a shape of type '{kind}'")
    return Annotations(shapes)


def _turned_ellipse(corners: np.ndarray) -> Pixels:
    """Returns the pixels whose centers lie in the ellipse that touches the sides of a rectangle in their middle."""
    center = corners.mean(0)
    axes = np.stack([(corners[1] - corners[0]) / 2, (corners[3] - corners[0]) / 2], axis=1)
    left, top = np.floor(corners.min(0)).astype(int)
    right, bottom = np.ceil(corners.max(0)).astype(int)
    y, x = np.mgrid[top:bottom, left:right] + 0.5
    across = np.linalg.solve(axes, np.stack([x - center[0], y - center[1]]).reshape(2, -1))
    return Pixels(int(top), int(left), ((across**2).sum(0) <= 1).reshape(y.shape))
