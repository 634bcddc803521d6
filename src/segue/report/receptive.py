"""The receptive field drawn: where the gradient of a centre's scores lies, and how much of it within which square."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from segue.networks.receptive import Effective, Reach, side_holding
from segue.report.drawing import BLUE, INK, MUTED, SCALE, VERMILION, WIDTH_IN, bare, style

DECADES = 4  # of the gradient that are shown
FIELD = "#ff7a2f"  # vermilion, bright enough for the dark of the scale
PLAIN = {"boxstyle": "square,pad=0.1", "facecolor": "white", "alpha": 0.85, "linewidth": 0}  # behind text on lines
OUTLINES = ("solid", (0, (4, 2)), (0, (1, 2)))


def receptive_figure(found: Effective, reach: Reach | None = None) -> Figure:
    """Returns the mean absolute gradient on the image, with the squares that hold its shares, and those as a curve.

    reach: the theoretical field, drawn as a dotted box and a line; boxes that end outside of the image are cut.
    """
    height, width = found.map.shape
    with style():
        figure = Figure(figsize=(WIDTH_IN, WIDTH_IN * 0.47), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[1, 1.05])
        greatest = float(found.map.max())
        shown = np.maximum(found.map, greatest * 10.0**-DECADES)
        picture = left.imshow(shown, cmap=SCALE, norm=LogNorm(greatest * 10.0**-DECADES, greatest))
        bare(left)
        bar = figure.colorbar(picture, ax=left, shrink=0.8, label="share of the gradient per pixel")
        bar.outline.set_visible(False)
        for (share, side), outline in zip(found.sides_px.items(), OUTLINES, strict=False):
            corner = (found.centre[1] - side / 2, found.centre[0] - side / 2)
            left.add_patch(
                Rectangle(corner, side, side, fill=False, edgecolor="white", linestyle=outline, linewidth=1.4)
            )
            left.annotate(
                f"{share:.0%}", (corner[0] + 2, max(2.0, corner[1] + 2)), color="white", fontsize=8, va="top",
                bbox={"boxstyle": "square,pad=0.15", "facecolor": "black", "alpha": 0.45, "linewidth": 0},
            )  # fmt: skip
        left.set_title(f"mean gradient of the centre, {height}×{width} px")
        sides = np.arange(1, min(height, width) + 1, 2)
        y, x = np.indices(found.map.shape)
        distance = np.maximum(abs(y - found.centre[0]), abs(x - found.centre[1]))
        held = np.cumsum(np.bincount(distance.ravel(), found.map.ravel()))
        right.plot(sides, held[: len(sides)] / held[-1], color=BLUE, linewidth=1.8)
        for share in found.sides_px:
            side = side_holding(found.map, found.centre, share)
            right.plot([side, side, 0], [0, share, share], color=MUTED, linewidth=0.9, linestyle=(0, (3, 2)))
            is_right = side > 0.6 * sides[-1]
            right.annotate(
                f"{share:.0%} in {side} px", (side, share), xytext=(-6 if is_right else 6, -12),
                textcoords="offset points", ha="right" if is_right else "left", bbox=PLAIN,
            )  # fmt: skip
        longest = min(height, width)
        if reach is not None and not reach.unbounded:
            corner = (found.centre[1] - reach.width_px / 2, found.centre[0] - reach.height_px / 2)
            left.add_patch(
                Rectangle(corner, reach.width_px, reach.height_px, fill=False, edgecolor=FIELD, linestyle=(0, (1, 2)))
            )
            left.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
            right.axvline(reach.width_px, color=VERMILION, linewidth=1.2)
            right.annotate(
                f"theoretical: {reach.width_px} px", (reach.width_px, 0.04), xytext=(-5, 0), textcoords="offset points",
                color=VERMILION, ha="right", bbox=PLAIN,
            )  # fmt: skip
            longest = max(longest, int(1.04 * reach.width_px))
        right.set(xlim=(0, longest), ylim=(0, 1.02), xlabel="side of the square around the centre (px)")
        right.set_title("share of the gradient within a square", color=INK)
    return figure
