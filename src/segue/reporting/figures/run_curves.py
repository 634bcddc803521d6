"""The curves of one run by epoch: its losses, scores on validation images and learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from segue.reporting.analysis.comparison import numeric
from segue.reporting.figures.style import (
    BLUE,
    CATEGORIES,
    MUTED,
    VERMILION,
    ReportFigure,
    new_figure,
    scale_axis,
    style,
)
from segue.reporting.formatting import METRICS, level_label, metric_for

MAX_SCORES = 5  # in the panel of scores
ERRORS = ("count_error_absolute", "count_error_relative", "confidence_error", "merges", "splits")  # not from 0 to 1


@dataclass(frozen=True)
class Panel:
    """Where epochs lie in a drawn figure: the axes as shares of its size from the upper left, and their ends."""

    left: float
    right: float
    top: float
    bottom: float
    first: float
    last: float


def run_curves_figure(history: pd.DataFrame, selected_epoch: int) -> ReportFigure:
    """Returns a panel each for losses, scores and learning rate, as far as the history of the run has them."""
    losses = {part: _loss(history, part) for part in ("train", "validation")}
    losses = {part: column for part, column in losses.items() if column}
    is_adjusted = all(column.endswith("_adjusted") for column in losses.values())
    scores = [name for name in METRICS if "loss" not in name and name not in ERRORS and "_of_100" not in name]
    scores = [name for name in scores if _is_present(history, f"validation_{name}")][:MAX_SCORES]
    panels = [name for name, columns in (("loss", losses), ("scores", scores), ("rate", ["lr"])) if columns]
    epochs = history["epoch"].to_numpy(float)
    with style():
        figure = new_figure(3.0)
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            if panel == "loss":
                for part, column in losses.items():
                    label, color = ("training", VERMILION) if part == "train" else ("validation", BLUE)
                    axes.plot(epochs, numeric(history, column), color=color, label=label, **_marks(epochs))
                scale_axis(axes, "y", np.concatenate([numeric(history, column) for column in losses.values()]))
                _finish(axes, metric_for("loss_adjusted" if is_adjusted else "loss").label, selected_epoch, legend=True)
            elif panel == "scores":
                for name, color in zip(scores, CATEGORIES, strict=False):
                    values = numeric(history, f"validation_{name}")
                    axes.plot(epochs, values, color=color, label=metric_for(name).label, **_marks(epochs))
                _finish(axes, "scores on validation images", selected_epoch, legend=True)
            else:
                axes.plot(epochs, numeric(history, "lr"), color=MUTED, **_marks(epochs))
                rates = numeric(history, "lr").to_numpy()
                scale_axis(axes, "y", rates)
                if np.nanmin(rates) == np.nanmax(rates):
                    axes.set_yticks([np.nanmin(rates)])
                axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: level_label(float(f"{rate:.3g}"))))
                _finish(axes, "learning rate", selected_epoch)
    caption = f"The dashed line is at the selected epoch, {selected_epoch}."
    return ReportFigure("curves", figure, "Curves by epoch.", caption, "Losses, scores and learning rate by epoch")


def panels(figure: ReportFigure) -> list[Panel]:
    """Returns where the epochs lie in each panel of a figure that was drawn."""
    result = []
    for axes in figure.figure.axes:
        box, (first, last) = axes.get_position(), axes.get_xlim()
        result.append(Panel(box.x0, box.x1, 1 - box.y1, 1 - box.y0, first, last))
    return result


def _is_present(history: pd.DataFrame, column: str) -> bool:
    return bool(np.isfinite(numeric(history, column)).any())


def _loss(history: pd.DataFrame, part: str) -> str:
    """Returns the column of a part's loss, less its floor where the history has that; "" without any."""
    names = (f"{part}_loss_adjusted", f"{part}_loss")
    return next((name for name in names if _is_present(history, name)), "")


def _marks(epochs: Sequence[float] | np.ndarray) -> dict[str, object]:
    return {"linewidth": 1.4, "marker": "o" if len(epochs) <= 30 else None, "markersize": 2.6}


def _finish(axes: Axes, title: str, selected_epoch: int, *, legend: bool = False) -> None:
    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.axvline(selected_epoch, color=MUTED, linewidth=0.9, linestyle="--")
    if legend:
        axes.legend(loc="best", fontsize=7.5)
