"""How numbers, metrics and axes read on the page."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from segue.reporting.analysis.bootstrap import Estimate

METRICS = {
    "loss": "loss",
    "loss_adjusted": "adjusted loss",
    "dice_mean": "mean Dice",
    "iou_mean": "mean intersection over union",
    "accuracy": "pixel accuracy",
    "ap_mean": "mean AP (IoU 0.5 to 0.95)",
    "f1_50": "F1 of objects (IoU 0.5)",
    "precision_50": "precision of objects (IoU 0.5)",
    "recall_50": "recall of objects (IoU 0.5)",
    "pq": "panoptic quality",
    "aji": "aggregated Jaccard index",
    "boundary_f1": "F1 of boundaries",
    "auprc_objects": "area under the precision–recall curve of objects",
    "count_error_absolute": "miscounted objects per image",
    "count_error_relative": "miscounted share of objects",
    "merges": "merges",
    "splits": "splits",
}
LOWER = ("count_error_absolute", "count_error_relative", "merges", "splits")  # besides losses, what should be small
AXES = {
    "domain": "domain",
    "images": "labelled images",
    "groups": "labelled groups",
    "freeze": "frozen part",
    "optimizer.lr": "learning rate",
    "optimizer.name": "optimiser",
    "optimizer": "optimiser",
    "optimizer.momentum": "momentum",
    "optimizer.weight_decay": "weight decay",
    "schedule": "schedule",
    "schedule.name": "schedule",
    "target.name": "output representation",
    "target.class_weights": "class weights",
    "target.loss": "loss function",
    "target.loss.name": "loss function",
    "target.label_smoothing": "label smoothing",
    "epochs": "epochs",
    "batch": "batch size",
    "variant": "variant",
}
LEVELS = {"inverse_frequency": "inverse frequency", "median_frequency": "median frequency"}
STAGES = {
    "pretrain": "pretraining",
    "train": "training",
    "scratch": "training from scratch",
    "finetune": "fine-tuning",
    "tune": "tuning",
}


@dataclass(frozen=True)
class Metric:
    """A column of the table to compare by, how it is called, and which way is better."""

    column: str
    words: str
    lower_is_better: bool


def metric_named(column: str) -> Metric:
    kind, _, name = column.partition("_")
    kinds = {
        "iou": "intersection over union",
        "dice": "Dice",
        "f1": "F1",
        "precision": "precision",
        "recall": "recall",
        "auprc": "area under the precision–recall curve",
        "auroc": "area under the ROC curve",
    }
    words = METRICS.get(column) or (f"{kinds[kind]} of {name}" if kind in kinds and name else column.replace("_", " "))
    if re.fullmatch(r"ap\d\d", column):
        words = f"AP (IoU 0.{column[2:].rstrip('0')})"
    return Metric(column, words, lower_is_better="loss" in column or column in LOWER)


def stage_words(stage: str) -> str:
    """Returns what a stage is called in a sentence: "pretraining" for "pretrain"."""
    return STAGES.get(stage, stage)


def percent(share: float) -> str:
    """Returns "97 %" for 0.97; "more than 99 %" rather than 100 % where not all."""
    if 0.995 <= share < 1:
        return "more than 99 %"
    return "less than 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def axis_words(axis: str) -> str:
    """Returns "pretraining: learning rate" for "pretrain.optimizer.lr"."""
    stage, _, key = axis.partition(".")
    return f"{stage_words(stage)}: {AXES.get(key, key)}" if key else axis


def configuration_words(levels: Mapping[str, Any]) -> str:
    """Returns the levels of axes as one phrase: "sgd plateau with no class weights" for a variant and its weights."""
    parts = []
    for axis, value in levels.items():
        if value is None or (isinstance(value, float) and math.isnan(value)):
            continue  # an axis of other variants
        key, text = axis.partition(".")[2], level_text(value)
        if key in ("variant", "domain", "optimizer.name", "target.name"):
            parts.append(text)
        elif key == "target.class_weights":
            parts.append(_weights_text(text))
        else:
            parts.append(f"{AXES.get(key, key)} {text}")
    return f"{parts[0]} with {listed(parts[1:])}" if len(parts) > 1 else "".join(parts)


def _weights_text(text: str) -> str:
    if text == "none":
        return "no class weights"
    return f"{text.replace(' ', '-')} class weights" if text.endswith(" frequency") else f"class weights {text}"


def level_text(value: Any) -> str:
    """Returns a value of an axis as one would write it: 64, 1e-4, encoder."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)) or hasattr(value, "dtype"):
        number = float(value)
        if number != 0 and abs(number) < 0.01:
            mantissa, _, exponent = f"{number:.6e}".partition("e")
            return f"{float(mantissa):g}e{int(exponent)}"
        return f"{int(number)}" if number == int(number) else f"{number:g}"
    return LEVELS.get(str(value), str(value))


def number(value: float, *, signed: bool = False) -> str:
    """Returns `value` to three significant digits, never in more than four decimals, with a true minus sign."""
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    decimals = 4 if size < 0.1 else 3 if size < 10 else 1 if size < 1000 else 0
    text = f"{size:.{decimals}f}"
    if float(text) == 0:
        text, value = (f"{size:.1e}", value) if value else ("0", 0.0)
    sign = "−" if value < 0 else "+" if signed and value > 0 else ""
    return sign + text


def cell_number(value: float) -> str:
    """Returns `value` shortly enough for a cell of a matrix: .0144, .183, 2.41."""
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    text = (
        f"{size:.4f}" if size < 0.1 else f"{size:.3f}" if size < 1 else f"{size:.2f}" if size < 100 else f"{size:.0f}"
    )
    return ("−" if value < 0 else "") + (text.removeprefix("0") if size < 1 and text.startswith("0.") else text)


def estimate_text(found: Estimate, *, signed: bool = False) -> str:
    """Returns "0.0144 [0.0141, 0.0147]", without the brackets where there is no interval."""
    text = number(found.median, signed=signed)
    if found.interval is None:
        return text
    low, high = (number(end, signed=signed) for end in found.interval)
    return f"{text} [{low}, {high}]"


def energy(joules: float) -> str:
    """Returns "12.3 kJ" or "4.1 kWh"."""
    return f"{joules / 1e3:.1f} kJ" if joules < 3.6e6 else f"{joules / 3.6e6:.1f} kWh"


def duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "–"
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min" if seconds < 600 else f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def listed(names: list[str]) -> str:
    """Returns "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def several(count: int, singular: str, plural: str | None = None) -> str:
    """Returns "1 run", "7,200 runs"."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def html_table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: Sequence[int] = ()) -> str:
    """Returns a table of texts; `numbers` are the columns set flush right."""

    def cells(kind: str, texts: Sequence[str]) -> str:
        marks = [' class="number"' if i in numbers else "" for i in range(len(texts))]
        return "".join(f"<{kind}{mark}>{escape(text)}</{kind}>" for mark, text in zip(marks, texts, strict=True))

    body = "".join(
        f"<tr>{cells('td', row)}</tr>"
        if len(row) > 1
        else f'<tr class="group"><td colspan="{len(heads)}">{escape(row[0])}</td></tr>'
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{cells("th", heads)}</tr></thead><tbody>{body}</tbody></table></div>'
