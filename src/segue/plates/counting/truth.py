"""True counts to compare predictions with, from stains or from the truth of a synthetic plate; errors of the counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from segue.errors import SegueError
from segue.plates.counting.nuclei import Nuclei, measure_nuclei, split_nuclei
from segue.rng import numpy_generator

SYNTHETIC_CLASSES = {"live": 1, "dead": 2}  # in the truth files of a synthetic plate
SOURCES = ("known", "stain")  # columns <source>_count, the more reliable one first
HELD_OUT_PARTS = ("test", "unseen")
RESAMPLES = 1000
MIN_FOR_CORRELATION = 3


def stained_nuclei(
    labels: Mapping[str, np.ndarray], counted: Sequence[int], *, layers: tuple[str, str], valid: np.ndarray
) -> Nuclei | None:
    """Returns the nuclei in the labels from stains; None without labels.

    layers: the layers of classes and of objects. Without objects they are the connected components of the counted
    classes; without classes all objects have the only counted class.
    """
    classes, objects = (labels.get(layer) for layer in layers)
    if objects is None and classes is None:
        return None
    if classes is None:
        if len(counted) > 1:
            return None
        assert objects is not None
        classes = np.where(objects > 0, counted[0], 0)
    if objects is None:
        objects = split_nuclei(np.isin(classes, counted), split_depth=1.0)
    return measure_nuclei(objects, classes, counted, valid=valid)


def known_counts(folder: Path, *, plate: str, well: str, time: int, valid_px: int) -> dict[str, float] | None:
    """Returns the true live and dead nuclei in the valid area of a synthetic plate's well; None if there is no file.

    Nuclei are counted by their centers within the true positions of the tiles: of all tiles that are not missing, or of
    those without any fault, whichever area is closer to `valid_px`. Counts are scaled by valid_px over that area, which
    is 1 except for what jitter moves out of the mosaic. (The attributes live and dead of these files are of the nominal
    mosaic instead.)
    """
    path = folder / "truth" / plate / well / f"t{time:03d}.h5"
    if not path.exists():
        return None
    try:
        with h5py.File(path) as opened:
            file: Any = opened
            step, margin = int(file.attrs["step_px"]), int(file.attrs["margin_px"])
            shape: tuple[int, int] = file["nuclei"].shape
            tiles = {name: file[f"tiles/{name}"][()] for name in ("row", "column", "y_px", "x_px")}
            states = file["tiles/state"].asstr()[()]
            nuclei = {name: file[f"objects/{name}"][()] for name in ("class", "y_px", "x_px")}
    except (OSError, KeyError) as error:
        raise SegueError(
            f"{path}: is not the truth of a synthetic plate ({error}); simulate the plate again."
        ) from None
    tile_px = shape[0] - 2 * margin - int(tiles["row"].max()) * step
    areas = [_union(tiles, selected, tile_px, shape) for selected in (states != "missing", states == "ok")]
    area = min(areas, key=lambda mask: abs(int(mask.sum()) - valid_px))
    if not area.any():
        return dict.fromkeys(SYNTHETIC_CLASSES, 0.0)
    y, x = (np.clip(nuclei[axis].astype(int), 0, n - 1) for axis, n in (("y_px", shape[0]), ("x_px", shape[1])))
    share = valid_px / int(area.sum())
    classes = nuclei["class"][area[y, x]]
    return {name: share * int(np.count_nonzero(classes == value)) for name, value in SYNTHETIC_CLASSES.items()}


def _union(tiles: Mapping[str, np.ndarray], selected: np.ndarray, tile_px: int, shape: tuple[int, int]) -> np.ndarray:
    """Returns (H, W) bool: the union of the selected tiles."""
    mask = np.zeros(shape, bool)
    for y, x in zip(
        tiles["y_px"][selected].round().astype(int), tiles["x_px"][selected].round().astype(int), strict=True
    ):
        mask[max(y, 0) : y + tile_px, max(x, 0) : x + tile_px] = True
    return mask


def agreement(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the errors of the counts: a row for each part, kind of truth and class.

    part: train, validation, test, unseen, and "held out", the last two together, the only evidence. truth:
    "known" or "stain". For count and fraction the mean absolute error with a 95 % interval (bootstrap over wells; NaN
    for a single one), the bias (predicted − true) and Pearson's correlation, over images, that is wells × times.
    """
    table_rows = []
    for part in (*dict.fromkeys(table["part"]), "held out"):
        of_part = table[table["part"].isin(HELD_OUT_PARTS) if part == "held out" else table["part"] == part]
        for truth in SOURCES:
            for name in dict.fromkeys(table["class"]):
                rows = of_part[(of_part["class"] == name) & of_part[f"{truth}_count"].notna()]
                if len(rows):
                    table_rows.append({"part": part, "truth": truth, "class": name, **_errors(rows, truth)})
    return pd.DataFrame(table_rows, columns=AGREEMENT_COLUMNS)


ERROR_MEASURES = ("mae", "mae_low", "mae_high", "bias", "correlation")
AGREEMENT_COLUMNS = [
    *("part", "truth", "class", "wells", "images", "true_count_mean"),
    *(f"{value}_{measure}" for value in ("count", "fraction") for measure in ERROR_MEASURES),
]


def _errors(rows: pd.DataFrame, truth: str) -> dict[str, float]:
    wells = (rows["plate"] + "/" + rows["well"]).to_numpy()
    errors_by_name: dict[str, float] = {
        "wells": len(set(wells)),
        "images": len(rows),
        "true_count_mean": float(rows[f"{truth}_count"].mean()),
    }
    for value in ("count", "fraction"):
        predicted, true = rows[value].to_numpy(float), rows[f"{truth}_{value}"].to_numpy(float)
        known = np.isfinite(predicted) & np.isfinite(true)
        predicted, true = predicted[known], true[known]
        error = predicted - true
        varied = len(error) >= MIN_FOR_CORRELATION and predicted.std() > 0 and true.std() > 0
        low, high = _bootstrap_interval(np.abs(error), wells[known])
        errors_by_name |= {
            f"{value}_mae": float(np.abs(error).mean()) if len(error) else np.nan,
            f"{value}_mae_low": low,
            f"{value}_mae_high": high,
            f"{value}_bias": float(error.mean()) if len(error) else np.nan,
            f"{value}_correlation": float(np.corrcoef(predicted, true)[0, 1]) if varied else np.nan,
        }
    return errors_by_name


def _bootstrap_interval(values: np.ndarray, wells: np.ndarray) -> tuple[float, float]:
    """Returns the 95 % interval of the mean of values (n,), resampling whole wells; NaN for fewer than two."""
    names, index = np.unique(wells, return_inverse=True)
    if len(names) < 2:
        return np.nan, np.nan
    sums, sizes = np.bincount(index, values), np.bincount(index)
    resampled = numpy_generator("wells", "bootstrap").integers(len(names), size=(RESAMPLES, len(names)))
    low, high = np.quantile(sums[resampled].sum(1) / sizes[resampled].sum(1), [0.025, 0.975])
    return float(low), float(high)


def headline(errors: pd.DataFrame) -> str:
    """Returns one or two sentences on the errors in held-out wells, the only evidence."""
    held_out = errors[errors["part"] == "held out"]
    if held_out.empty:
        return (
            "No held-out well has a known truth: the accuracy of these counts is not known (that of wells used for "
            "training or validation says little)."
        )
    truth = next(source for source in SOURCES if (held_out["truth"] == source).any())
    held_out = held_out[held_out["truth"] == truth]
    first = held_out.iloc[0]
    against = "the known truth" if truth == "known" else "the stains"
    classes_text = [
        f"{row['class']} {row['count_mae']:.3g} of {row['true_count_mean']:.3g}{_range(row, 'count')}, bias "
        f"{_signed(row['count_bias'], '.3g')}"
        for _, row in held_out.iterrows()
    ]
    last = held_out.iloc[-1]
    share = (
        f" The fraction {last['class']} is {last['fraction_mae']:.3f} off{_range(last, 'fraction')}, bias "
        f"{_signed(last['fraction_bias'], '.3f')}."
        if len(held_out) > 1
        else ""
    )
    return (
        f"In {int(first['wells'])} held-out {'well' if first['wells'] == 1 else 'wells'} "
        f"({int(first['images'])} images) the mean absolute error of a count against "
        f"{against} is: {'; '.join(classes_text)}.{share}"
    )


def _signed(value: float, form: str) -> str:
    return f"{value:+{form}}".replace("-", "−")


def _range(row: pd.Series, value: str) -> str:
    low, high = float(row[f"{value}_mae_low"]), float(row[f"{value}_mae_high"])
    return f" (95 % {low:.3g}–{high:.3g})" if np.isfinite(low) else ""
