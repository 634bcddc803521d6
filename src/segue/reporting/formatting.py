"""Text for reports: names of metrics, axes and configurations; numbers, durations, energies; plain tables."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
    "object_auprc": "area under the precision–recall curve of objects",
    "count_error_absolute": "miscounted objects per image",
    "count_error_relative": "miscounted share of objects",
    "confidence_error": "calibration error of the confidence",
    "merges": "merges",
    "splits": "splits",
    "merges_of_100": "merges in 100 objects",
    "splits_of_100": "splits in 100 objects",
    "missed_of_100": "missed in 100 objects",
    "false_of_100": "false in 100 objects",
}
TILE_PREFIX = "tile_"  # of scores of objects counted on tiles (`evaluation.object_metrics`, which imports numba)
CLASS_METRICS = {  # metrics with a column per class, e.g. dice_particle
    "iou": "intersection over union",
    "dice": "Dice",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "auprc": "area under the precision–recall curve",
    "auroc": "area under the ROC curve",
}
# besides losses
LOWER_IS_BETTER = (
    "count_error_absolute",
    "count_error_relative",
    "confidence_error",
    "merges",
    "splits",
)  # besides losses
AXES = {
    "domain": "domain",
    "images": "labeled images",
    "groups": "labeled groups",
    "freeze": "frozen part",
    "optimizer.lr": "learning rate",
    "optimizer.name": "optimizer",
    "optimizer": "optimizer",
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
    "pair": "pair of domains",
}
UNITS = {  # endings of settings -> units
    "e_per_A2": "e/Å²",
    "g_per_cm3": "g/cm³",
    "A": "Å",
    "deg": "°",
    "keV": "keV",
    "mm": "mm",
    "mrad": "mrad",
    "nm": "nm",
    "px": "px",
    "rad": "rad",
    "um": "µm",
}
LEVELS = {"inverse_frequency": "inverse frequency", "median_frequency": "median frequency"}
STAGES = {
    "pretrain": "pretraining",
    "train": "training",
    "scratch": "training from scratch",
    "finetune": "fine-tuning",
    "tune": "tuning",
    "mixture": "training on mixtures",
}


@dataclass(frozen=True)
class Metric:
    """A column of the results table that runs are compared by, its name in text, and its direction."""

    column: str
    label: str
    lower_is_better: bool

    @property
    def direction(self) -> str:
        return "lower is better" if self.lower_is_better else "higher is better"

    def is_better(self, difference: float) -> bool:
        """Returns whether a `difference` of this metric is an improvement."""
        return (difference < 0) == self.lower_is_better


def metric_for(column: str) -> Metric:
    """Returns the metric of a column, such as "dice_mean", "dice_particle" or "ap75"."""
    if column.startswith(TILE_PREFIX):
        whole = metric_for(column.removeprefix(TILE_PREFIX))
        return Metric(column, f"{whole.label}, on tiles", whole.lower_is_better)
    kind, _, name = column.partition("_")
    label = METRICS.get(column) or column.replace("_", " ")
    if column not in METRICS and kind in CLASS_METRICS and name:
        label = f"{CLASS_METRICS[kind]} of {name}"
    elif re.fullmatch(r"ap\d\d", column):
        label = f"AP (IoU 0.{column[2:].rstrip('0')})"
    return Metric(column, label, lower_is_better="loss" in column or column in LOWER_IS_BETTER)


@dataclass(frozen=True)
class Table:
    """A table of the page. A cell is a text, or a text with a second one in small type beneath it.

    A row of a single cell is the heading of the rows that follow. `numeric` are the columns set flush right; `summary`
    is the line that expands the table, "" if it is always shown; `css` is its class in the style sheet.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str | tuple[str, str]]]
    numeric: Iterable[int] = ()
    summary: str = ""
    css: str = ""


def stage_label(stage: str) -> str:
    """Returns the name of a stage in text: "pretraining" for "pretrain"."""
    return STAGES.get(stage, stage)


def key_label(axis: str) -> str:
    """Returns "learning rate" for "pretrain.optimizer.lr"."""
    key = axis.partition(".")[2]
    return AXES.get(key, key)


def axis_label(axis: str) -> str:
    """Returns "pretraining: learning rate" for "pretrain.optimizer.lr"."""
    stage = stage_label(axis.partition(".")[0])
    return f"{stage}: {key_label(axis)}" if "." in axis else stage


MIXTURE = re.compile(r"(?:^|\+)(.+?):([\d.]+)(?=\+|$)")


def level_label(value: Any) -> str:
    """Returns a value of an axis: 64, 1e-4, encoder; see `domain_label` for mixtures."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)) or hasattr(value, "dtype"):
        number = float(value)
        if number != 0 and abs(number) < 0.01:
            mantissa, _, exponent = f"{number:.6e}".partition("e")
            return f"{float(mantissa):g}e{int(exponent)}"
        return f"{int(number)}" if number == int(number) else f"{number:g}"
    text = domain_label(str(value))
    return LEVELS.get(text, text)


def domain_label(text: str) -> str:
    """Returns what a run was trained on: a domain as it is, a mixture "0 nm:384++10 nm:128" with words.

    >>> domain_label("0 nm:384++10 nm:128")
    '384 of 0 nm, 128 of +10 nm'
    """
    parts = MIXTURE.findall(text)
    is_mixture = len(parts) > 1 and "+".join(f"{name}:{count}" for name, count in parts) == text
    return ", ".join(f"{count} of {name}" for name, count in parts) if is_mixture else text


def setting_label(key: str, value: Any) -> str:
    """Returns a setting of an HRTEM series and its value as a phrase, by its dotted key; a text stands for itself.

    Two numbers are a range if they are of the specimen, and a list elsewhere.

    >>> setting_label("specimen.radius_nm", "0.5,1.0")
    'radius 0.5–1.0 nm'
    >>> setting_label("imaging.defocus_nm", "-10,0")
    'defocus −10, 0 nm'
    >>> setting_label("specimen.crystal", "ZnS")
    'ZnS'
    """
    values = str(value).split(",")
    if not all(re.fullmatch(r"[-+]?[0-9.]+(e[-+]?[0-9]+)?", text) for text in values):
        return str(value)
    name = key.rpartition(".")[2]
    ending = next((ending for ending in UNITS if name.endswith(f"_{ending}")), "")
    words = name.removesuffix(f"_{ending}").replace("_", " ")
    between = "–" if key.startswith("specimen.") and len(values) == 2 else ", "
    return " ".join([words, between.join(values).replace("-", "−"), UNITS.get(ending, "")]).rstrip()


def configuration_label(levels: Mapping[str, Any]) -> str:
    """Returns the levels of axes as one phrase: "sgd plateau with no class weights" for a variant and its weights."""
    parts = []
    for axis, value in levels.items():
        if value is None or (isinstance(value, float) and math.isnan(value)):
            continue  # an axis of other variants
        key, text = axis.partition(".")[2], level_label(value)
        if key in ("variant", "domain", "optimizer.name", "target.name"):
            parts.append(text)
        elif key == "target.class_weights":
            parts.append(_weights_label(text))
        else:
            parts.append(f"{AXES.get(key, key)} {text}")
    return f"{parts[0]} with {join_names(parts[1:])}" if len(parts) > 1 else "".join(parts)


def _weights_label(text: str) -> str:
    if text == "none":
        return "no class weights"
    return f"{text.replace(' ', '-')} class weights" if text.endswith(" frequency") else f"class weights {text}"


def format_number(value: float, *, signed: bool = False) -> str:
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


def format_cell(value: float) -> str:
    """Returns `value` short enough for a cell of a matrix: .0144, .183, 2.41."""
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    text = f"{size:.{4 if size < 0.1 else 3 if size < 1 else 2 if size < 100 else 0}f}"
    return ("−" if value < 0 else "") + (text.removeprefix("0") if size < 1 else text)


def format_percent(share: float) -> str:
    """Returns "97 %" for 0.97; "more than 99 %" rather than 100 % if not all."""
    if 0.995 <= share < 1:
        return "more than 99 %"
    return "less than 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def format_duration(seconds: float) -> str:
    """Returns "110 ms", "2.1 s", "35 min" or "4.0 h"; "–" where not finite."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 1:
        return f"{1e3 * seconds:.0f} ms"
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60)):
        if seconds < limit:
            return f"{seconds / size:.{1 if seconds < 10 * size else 0}f} {unit}"
    return f"{seconds / 3600:.1f} h"


def format_energy(joules: float) -> str:
    """Returns "12.3 kJ" or "4.1 kWh"; "not measured" for NaN."""
    if math.isnan(joules):
        return "not measured"
    return f"{joules / 1e3:.1f} kJ" if joules < 3.6e6 else f"{joules / 3.6e6:.1f} kWh"


NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def quantity(value: object) -> tuple[float, str] | None:
    """Returns the number and the unit of "-10 nm", 1e-4 or "30"; None for what is no number with at most a unit.

    "e/A2" is another way to write "e/Å²".
    """
    text = str(value).strip()
    match = NUMBER.match(text)
    unit = text[match.end() :].strip().replace("A2", "Å²") if match else ""
    return None if match is None or re.search("[0-9]", unit) else (float(match.group()), unit)


def natural_order(values: Iterable[Any]) -> list[Any]:
    """Returns the distinct values: by their numbers where they differ in nothing else, else as they first appear.

    "30", "150" and "-10 nm", "+5 nm" and "128-384", "256-256" are ordered by number; "Ag", "Cu" are left as they are.
    """
    distinct = list(dict.fromkeys(values))
    texts = [str(value) for value in distinct]
    if len({NUMBER.sub("#", text) for text in texts}) != 1 or not NUMBER.search(texts[0]):
        return distinct
    return sorted(distinct, key=lambda value: [float(number) for number in NUMBER.findall(str(value))])


def join_names(names: Sequence[str]) -> str:
    """Returns "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def plural(count: int, singular: str) -> str:
    """Returns "1 run", "7,200 runs"."""
    return f"{count:,} {singular}{'' if count == 1 else 's'}"
