"""The page of a finished run: settings, scores, curves and, by a slider over epochs, what the run was at each of them.

The script (`templates/run.js`) moves the slider; without it the page shows the selected epoch.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from segue.errors import SegueError
from segue.reporting.analysis.comparison import numeric
from segue.reporting.figures.run_curves import panels, run_curves_figure
from segue.reporting.formatting import (
    CLASS_METRICS,
    METRICS,
    Table,
    format_duration,
    format_energy,
    format_number,
    level_label,
    metric_for,
)
from segue.reporting.page.rendering import render_figure, render_page
from segue.training.run_folder import RunFolder

MAX_PICTURES = 300  # predictions in a page, epochs × images
MAX_IMAGES = 6
MAX_SIDE_PX = 256  # larger images are reduced
MAX_ROWS = 100  # of the table of epochs
PARTS = ("train", "validation")


@dataclass(frozen=True)
class Pictures:
    """Images of a film as PNG in base64: gray ones (n), labels and predictions as overlays that are transparent where
    they are background, predictions by epoch (epochs, n).

    colors: what an overlay shows -> its color. note: what is left out, "" if nothing.
    """

    size: tuple[int, int]  # height, width
    images: list[str]
    labels: list[str]
    epochs: list[int]
    predictions: list[list[str]]
    colors: dict[str, str]
    note: str


def write_run_page(run: Path, out: Path) -> None:
    """Writes the page `out` of a finished run, atomically.

    Raises SegueError where the run is not finished or a file of it is damaged, and where the page cannot be written.
    """
    folder = RunFolder(run)
    folder.require_finished()
    metrics, timing = folder.read(folder.metrics), folder.read(folder.timing)
    stage = folder.read_stage()
    history = run_history(folder)
    selected = int(metrics["selected_epoch"])
    figure = run_curves_figure(history, selected)
    rendered = render_figure(figure)
    pictures = film_pictures(folder, selected)
    main, of_classes = _quantities(history)
    all_settings = stage.model_dump(mode="json", by_alias=True)
    changed = stage.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        render_page(
            out,
            "run.html.j2",
            title=f"Run {run.resolve().name}",
            kind="run",
            tiles=_tiles(metrics, timing),
            rendered=rendered,
            selected=selected,
            epochs=history["epoch"].astype(int).tolist(),
            quantities=_cells(history, main, selected),
            class_quantities=_cells(history, of_classes, selected),
            pictures=pictures,
            picture_index=_picture_index(pictures, selected),
            history=_history_table(history, main),
            scores=scores_tables(folder, metrics),
            changed=Table(["setting", "value"], [list(pair) for pair in flatten(changed)]),
            settings=Table(
                ["setting", "value"], [list(pair) for pair in flatten(all_settings)], summary="All settings"
            ),
            command=f"segue inspect {run.as_posix()}",
            data=_embedded(history, pictures, [asdict(panel) for panel in panels(figure)]),
        )
    except OSError as error:
        raise SegueError(f"{out}: the page cannot be written ({error}); give another path with -o.") from None


def run_history(folder: RunFolder) -> pd.DataFrame:
    """Returns the row per epoch, with the scores on domains of a study that scored every epoch
    ("dice_mean@<domain>")."""
    history = folder.read_history().sort_values("epoch", kind="stable", ignore_index=True)
    for domain, result in _evaluations(folder).items():
        if len(result.get("epochs") or ()) == len(history):
            for name in ("loss_adjusted", "dice_mean"):
                history[f"{name}@{domain}"] = [scores.get(name) for scores in result["epochs"]]
    return history


def _evaluations(folder: RunFolder) -> dict[str, dict[str, Any]]:
    """Returns the results on each domain, by its name; those of an earlier version by their key."""
    files = sorted(folder.evaluations.glob("*.json")) if folder.evaluations.is_dir() else []
    results = [(file.stem, folder.read(file)) for file in files if not file.stem.endswith(".timing")]
    named: dict[str, dict[str, Any]] = {}
    for key, result in results:
        name = str(result.get("domain", key))
        named[f"{name} ({key})" if name in named else name] = result
    return named


def _tiles(metrics: Mapping[str, Any], timing: Mapping[str, Any]) -> dict[str, str]:
    labels, counted = metrics["labels"], metrics["parameters"]["network"]
    tiles = {
        "selected epoch": f"{metrics['selected_epoch']} of {metrics['epochs']}",
        f"labeled {labels['unit']}, to train + to validate": f"{labels['train']:,} + {labels['validation']:,}",
        "parameters": f"{counted['parameters']:,}",
        "of them trained": f"{counted['trainable']:,}",
        "time": format_duration(timing["seconds"]),
    }
    if timing["energy_J"] is not None:
        tiles["energy"] = format_energy(timing["energy_J"])
    return tiles


# --- what the slider shows


def _quantities(history: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Returns the names of scores in the history, without their part, in order, and those of single classes."""
    columns = [column for column in map(str, history.columns) if np.isfinite(numeric(history, column)).any()]
    names = [
        column.partition("_")[2]
        for column in columns
        if column.partition("_")[0] in PARTS and not column.endswith("loss_floor")
    ]
    elsewhere = [column for column in columns if "@" in column]
    names = _ordered(names)
    floors = [numeric(history, f"{part}_loss") - numeric(history, f"{part}_loss_adjusted") for part in PARTS]
    if not any((floor.abs() > 0).any() for floor in floors):
        names = [name for name in names if name != "loss_adjusted"]
    return [*(name for name in names if not _is_of_class(name)), *elsewhere], list(filter(_is_of_class, names))


def _ordered(names: Iterable[str]) -> list[str]:
    return sorted(dict.fromkeys(names), key=lambda name: [*METRICS, name].index(name))


def _is_of_class(name: str) -> bool:
    return name not in METRICS and name.partition("_")[0] in (*CLASS_METRICS, "accuracy")


def _cells(history: pd.DataFrame, names: Sequence[str], selected: int) -> list[dict[str, Any]]:
    """Returns a line per score: its label, and of both parts the column and its text at the selected epoch."""
    at = history.index[history["epoch"] == selected]
    lines = []
    for name in names:
        score, _, domain = name.partition("@")
        label = metric_for(score).label + (f", on {domain}" if domain else "")
        columns = ["", name] if domain else [f"{part}_{name}" for part in PARTS]
        present = [column if column in history.columns else "" for column in columns]
        texts = [
            format_number(float(numeric(history, column)[at[0]])) if column and len(at) else "–" for column in present
        ]
        lines.append({"label": label, "columns": present, "texts": texts})
    return lines


def _embedded(history: pd.DataFrame, pictures: Pictures | None, places: list[dict[str, float]]) -> str:
    """Returns what the script needs as JSON that can stand inside of a script element: six digits of each value."""
    columns = [str(column) for column in history.columns if column != "epoch"]
    values = {column: [_rounded(value) for value in numeric(history, column)] for column in columns}
    data: dict[str, Any] = {"epochs": history["epoch"].astype(int).tolist(), "history": values, "panels": places}
    data |= {} if pictures is None else {"pictures": {"epochs": pictures.epochs, "predictions": pictures.predictions}}
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _rounded(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _history_table(history: pd.DataFrame, names: Sequence[str]) -> Table:
    """Returns the rows of the history, evenly chosen where there are many."""
    columns = [column for name in names for column in (name, *(f"{part}_{name}" for part in PARTS))]
    columns = [column for column in ("lr", *columns) if column in history.columns]
    count = min(len(history), MAX_ROWS)
    chosen = history.iloc[np.rint(np.linspace(0, len(history) - 1, count)).astype(int)]
    rows = [
        [
            str(int(row["epoch"])),
            *(f"{row[name]:.3g}" if name == "lr" else format_number(float(row[name])) for name in columns),
        ]
        for row in chosen.astype(float).to_dict("records")
    ]
    heads = ["epoch", *(_column_label(column) for column in columns)]
    some = f"{count} of {len(history)} epochs" if count < len(history) else "All epochs"
    return Table(heads, rows, range(len(heads)), some)


def _column_label(column: str) -> str:
    part, _, name = column.partition("_")
    if part in PARTS:
        return f"{'training' if part == 'train' else part}: {metric_for(name).label}"
    score, _, domain = column.partition("@")
    return "learning rate" if column == "lr" else f"{metric_for(score).label}, on {domain}"


# --- scores and settings


def scores_tables(folder: RunFolder, metrics: Mapping[str, Any]) -> list[Table]:
    """Returns the scores of the selected epoch on validation images, and those on each domain that it was scored on;
    those of single classes in a table of their own."""
    validation = {
        name.removeprefix("validation_"): value
        for name, value in metrics["scores"].items()
        if name.startswith("validation_")
    }
    labels = metrics["labels"]
    columns = {"when trained": validation} if validation else {}
    parts = ["validation"] * len(columns)
    counts = [f"{labels['validation']:,} {labels['unit']}"] * len(columns)
    for domain, result in _evaluations(folder).items():
        columns[domain] = result["scores"]
        parts.append(result["part"])
        counts.append(f"{result['samples']:,} images")
    names = _ordered(name for scores in columns.values() for name in scores if name != "loss_floor")
    rows = {
        name: [metric_for(name).label, *(format_number(_number(scores.get(name))) for scores in columns.values())]
        for name in names
    }
    heads, numbers = ["", *columns], range(1, len(columns) + 1)
    main = [row for name, row in rows.items() if not _is_of_class(name)]
    tables = [Table(heads, [["part", *parts], ["of", *counts], *main], numbers)]
    of_classes = [row for name, row in rows.items() if _is_of_class(name)]
    return tables + ([Table(heads, of_classes, numbers, "Of each class")] if of_classes else [])


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def flatten(settings: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Returns dotted keys with their values as texts; tables in a list are numbered from 1.

    >>> flatten({"batch": 4, "optimizer": {"lr": 1e-4}, "data": [{"dataset": "a"}]})
    [('batch', '4'), ('optimizer.lr', '1e-4'), ('data.1.dataset', 'a')]
    """
    if isinstance(settings, Mapping) and settings:
        return [
            pair for key, value in settings.items() for pair in flatten(value, f"{prefix}.{key}" if prefix else key)
        ]
    if isinstance(settings, list) and settings and isinstance(settings[0], Mapping):
        return [pair for place, value in enumerate(settings, start=1) for pair in flatten(value, f"{prefix}.{place}")]
    if isinstance(settings, list):
        return [(prefix, ", ".join(map(level_label, settings)) or "none")]
    return [(prefix, "none" if settings is None or settings == {} else level_label(settings))]


# --- pictures


def film_pictures(folder: RunFolder, selected: int) -> Pictures | None:
    """Returns the images of the run's film with its predictions at some epochs, the selected one among them; None
    where the run has no film."""
    if not (folder.film / "still.npz").is_file():
        return None
    from segue.reporting.video import frames  # needs torch, which nothing else here does
    from segue.reporting.video.film import evenly_spaced, film_of_run

    film = film_of_run(folder.path)
    images, labels, names, epochs = film.context.images, film.context.truth, film.context.names, film.context.epochs
    indices = list(evenly_spaced(range(len(images)), MAX_IMAGES))
    chosen = set(evenly_spaced(epochs, MAX_PICTURES // len(indices) - 1)) | ({selected} & set(epochs))
    step = -(-max(images.shape[1:]) // MAX_SIDE_PX)
    colors = film.context.colors
    inks = {1: (frames.HIT, frames.HIT_OPACITY)}
    inks |= {1 + k: (color, frames.ERROR_OPACITY) for k, color in colors.items()}
    ignored = len(names) + 1
    inks[ignored] = (frames.IGNORED_COLOR, frames.IGNORED_OPACITY)

    def overlay(codes: np.ndarray) -> str:
        return _png(np.where(codes == frames.IGNORED_CODE, ignored, codes), inks)

    thin = (slice(step // 2, None, step), slice(step // 2, None, step))
    truth = labels[indices]
    predictions = [
        [overlay(frames.outcomes(t, c)[thin]) for t, c in zip(truth, frame.classes[indices], strict=True)]
        for frame in film.frames(sorted(chosen))
    ]
    of_labels = [np.where(t < 0, frames.IGNORED_CODE, np.where(t > 0, t + 1, 0)).astype(np.uint8)[thin] for t in truth]
    gray = [_reduce(images[index], step) for index in indices]
    legend = {"true positive": frames.HIT} | {f"{names[k]}: missed or invented": color for k, color in colors.items()}
    legend |= {"ignored": frames.IGNORED_COLOR} if (truth < 0).any() else {}
    notes = []
    if len(chosen) < len(epochs):
        notes.append(f"Predictions of {len(chosen)} of {len(epochs)} epochs")
    if len(indices) < len(images):
        notes.append(f"{len(indices)} of {len(images)} images")
    if step > 1:
        notes.append(f"one of {step} × {step} pixels")
    return Pictures(
        size=(int(gray[0].shape[0]), int(gray[0].shape[1])),
        images=[_png(one) for one in gray],
        labels=[overlay(one) for one in of_labels],
        epochs=sorted(chosen),
        predictions=predictions,
        colors=legend,
        note=f"{', '.join(notes)} in this page, to keep it light." if notes else "",
    )


def _reduce(image: np.ndarray, step: int) -> np.ndarray:
    """Returns gray levels (h, w) uint8: of every `step`-th pixel of (H, W), from the middle of the first `step` on, the
    mean around it."""
    from skimage.measure import block_reduce

    size = len(range(step // 2, image.shape[0], step)), len(range(step // 2, image.shape[1], step))
    whole = np.pad(image.astype(float), [(0, -side % step) for side in image.shape], mode="edge")
    return np.rint(block_reduce(whole, step, np.mean)[: size[0], : size[1]]).astype(np.uint8)


def _png(pixels: np.ndarray, inks: Mapping[int, tuple[str, float]] | None = None) -> str:
    """Returns a PNG in base64: of gray levels, or of codes with a color and an opacity, transparent where 0."""
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels.astype(np.uint8))
    if inks is None:
        picture.save(buffer, "png", optimize=True)
    else:
        picture = picture.convert("P")
        palette = [(0, 0, 0), *(tuple(bytes.fromhex(inks[code][0][1:])) for code in sorted(inks))]
        picture.putpalette([value for color in palette for value in color])
        opacities = bytes([0, *(round(255 * inks[code][1]) for code in sorted(inks))])
        picture.save(buffer, "png", optimize=True, transparency=opacities)
    return base64.b64encode(buffer.getvalue()).decode()


def _picture_index(pictures: Pictures | None, epoch: int) -> int:
    """Returns the index of the last epoch with pictures that is not after this one, else the first."""
    return 0 if pictures is None else max((i for i, one in enumerate(pictures.epochs) if one <= epoch), default=0)
