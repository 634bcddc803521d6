"""Counts nuclei per class, well and time point over whole plates, next to the true counts if they are known.

A dataset of a plate has a mosaic for each well and time (`segue plate`), of unstained wells too. A run predicts on each
from the transmitted light, tile by tile; the prediction becomes nuclei (`segue.plates.counting.nuclei`), which are
counted.

The interval of a count is Poisson's, the variation between equally large fields of such a well. It does not include the
errors of the network, which are measured against the truth (`segue.plates.counting.truth`) in held-out wells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from segue.data.dataset import Dataset
from segue.errors import SegueError
from segue.plates.counting.mosaics import (
    Mosaic,
    PredictedMosaic,
    Reader,
    conditions_of,
    mosaics_of,
    open_run,
    parts_of,
    pixel_size_um,
    require_targets,
)
from segue.plates.counting.nuclei import (
    DEPTHS,
    Counting,
    TuningExample,
    fractions,
    measure_nuclei,
    poisson_interval,
    split_nuclei,
    tune_counting,
    wilson_interval,
)
from segue.plates.counting.truth import SYNTHETIC_CLASSES, agreement, headline, known_counts
from segue.spec import SpecModel, unknown
from segue.training.run_folder import TrainedModel

NOT_COUNTED = ("background", "cell", "outline")  # of the five classes, unless requested
DEFAULT_MIN_AREA_UM2, DEFAULT_SPLIT_DEPTH = 12.0, 0.1  # without stained wells; the area is that of `segue plate`
MAX_TUNING_IMAGES = 24
KEYS = ["plate", "well", "experiment", "time", "time_h", "stained", "part", "class"]
VALUES = [
    *("count", "count_low", "count_high", "fraction", "fraction_low", "fraction_high", "density_per_mm2"),
    *("area_fraction", "seen_px", "stain_count", "stain_fraction", "known_count", "known_fraction"),
    *("least_area_px", "split_depth", "counting_from"),
]
Progress = Callable[[int, int], None]
TuningPart = Literal["validation", "unseen", "train"]
Run = TrainedModel | Path | str


class CountSpec(SpecModel):
    """How nuclei are counted.

    classes: the counted ones; None: all of the run except background, cell and outline. min_area_px, split_depth (1
    never splits, see `nuclei.split_nuclei`): "tuned" takes what fits the stains of validation wells best, or of
    training wells if no validation well has any. layers: of classes and of nuclei, from the stains.
    """

    RENAMED = {"least_area_px": "min_area_px"}

    classes: tuple[str, ...] | None = None
    min_area_px: Annotated[float, Field(ge=0)] | Literal["tuned"] = "tuned"
    split_depth: Annotated[float, Field(gt=0, le=1)] | Literal["tuned"] = "tuned"
    layers: tuple[str, str] = ("classes", "nuclei")
    tile_px: Annotated[int, Field(ge=64)] = 1024


@dataclass(frozen=True)
class CountOptions:
    """Options of `segue count`, besides a run, a dataset and a table.

    counting: how nuclei are counted. objects: a run of objects beside a run of classes. tune_on: a dataset with stained
    wells to tune counting on. truth: the folder of the synthetic plate that the dataset is of. figure,
    page: files to write, with a panel for each value of the condition `by`; value: "count", "fraction" or
    "density_per_mm2".
    """

    counting: CountSpec | None = None
    objects: Path | None = None
    tune_on: Path | None = None
    truth: Path | None = None
    figure: Path | None = None
    page: Path | None = None
    by: str | None = None
    value: str = "count"


@dataclass(frozen=True)
class CountingChoice:
    """How nuclei are counted, and why: "given", the "default" without stained wells, or tuned on wells of that part.

    error: |counted − true| per true nucleus of these wells, or None.
    """

    counting: Counting
    source: TuningPart | Literal["given", "default"]
    error: float | None = None


@dataclass(frozen=True)
class WellCounts:
    """table: a row per well, time and class; conditions: its columns of treatments; errors: see `agreement`; notes:
    what a reader must know."""

    table: pd.DataFrame
    conditions: tuple[str, ...]
    errors: pd.DataFrame
    choice: CountingChoice
    notes: tuple[str, ...]

    @property
    def headline(self) -> str:
        return headline(self.errors)


def count_wells(
    run: Run,
    dataset: Path | str,
    spec: CountSpec | None = None,
    *,
    objects: Run | None = None,
    tune_on: Path | str | None = None,
    truth: Path | str | None = None,
    progress: Progress | None = None,
) -> WellCounts:
    """Returns the counts of every mosaic of a plate's dataset, predicted by a run from the transmitted light alone.

    A run of classes predicts the class of pixels. A run of objects counts them all as one class; given as `objects`
    beside a run of classes, it finds the nuclei, and each has the majority class of its pixels. tune_on: another
    dataset with stained wells on which counting is tuned: on validation wells, else on wells the run has never seen.
    truth: the folder of the synthetic plate that the dataset is of.

    Columns of the table: plate, well, experiment, conditions, time, time_h, stained · part: train, validation or test
    as the run used the well, "unseen" without labels for it · class · count, fraction (of all counted nuclei) and their
    95 % intervals (Poisson, Garwood; Wilson) · density_per_mm2 of the valid area, NaN without a pixel size ·
    area_fraction, pixels of the class · seen_px, the valid pixels · stain_count, stain_fraction, from the labels of the
    stains · known_count, known_fraction of a synthetic plate · least_area_px, split_depth, counting_from: how nuclei
    were counted, and whether that was given or on which wells it was tuned. NaN without truth.

    Memory: one mosaic and what the network needs for a tile. Raises SegueError if the dataset has no mosaics, or other
    channels or classes than the run, or if there is nothing to tune on.
    """
    spec, path = spec or CountSpec(), Path(dataset)
    truth = None if truth is None else Path(truth)
    # the runs and what they count
    main, second = open_run(run), None if objects is None else open_run(objects)
    require_targets(main, second)
    if truth is not None and not (truth / "truth").is_dir():
        raise SegueError(f"{truth}: contains no folder truth/; give the folder of the synthetic plate.")
    names = _counted_classes(main, spec)
    counted = [main.target.names.index(name) for name in names]
    with Dataset(path) as opened:
        mosaics, part_of, pixel_um = mosaics_of(opened), parts_of(opened, main, second), pixel_size_um(opened)
        reader = Reader(opened, main, second, counted=counted, layers=spec.layers, tile_px=spec.tile_px)
        conditions = conditions_of(mosaics, reserved=(*KEYS, *VALUES), context=str(path))
        # tune
        if tune_on is None:
            choice = _choose_counting(reader, mosaics, part_of, spec, pixel_um, ("validation", "train"))
        else:
            with Dataset(Path(tune_on)) as other:
                tuning = Reader(other, main, second, counted=counted, layers=spec.layers, tile_px=spec.tile_px)
                parts = parts_of(other, main, second)
                order: tuple[TuningPart, ...] = ("validation", "unseen", "train")
                choice = _choose_counting(tuning, mosaics_of(other), parts, spec, None, order)
        # count
        rows: list[dict[str, Any]] = []
        for done, mosaic in enumerate(mosaics, start=1):
            well = {
                **{name: mosaic.attributes.get(name) for name in conditions},
                "least_area_px": choice.counting.min_area_px,
                "split_depth": choice.counting.split_depth,
                "counting_from": choice.source,
                "part": part_of(mosaic.group),
            }
            prediction = reader.read(mosaic)
            known = None if truth is None else _known_counts(truth, mosaic, names, prediction.valid_px)
            rows += [row | well for row in _rows(reader, mosaic, prediction, choice.counting, names, known, pixel_um)]
            if progress:
                progress(done, len(mosaics))
    table = pd.DataFrame(rows, columns=[*KEYS[:3], *conditions, *KEYS[3:], *VALUES])
    table["split_depth"] = table["split_depth"].astype(float)
    notes = _notes(mosaics, table, choice, densities=pixel_um is not None, with_truth=truth is not None)
    return WellCounts(table, conditions, agreement(table), choice, notes)


def _counted_classes(model: TrainedModel, spec: CountSpec) -> tuple[str, ...]:
    names = model.target.names
    for name in spec.classes or ():
        if name not in names[1:]:
            raise SegueError(f"{model.folder}: {unknown(name, names[1:], 'class')}.")
    return spec.classes or tuple(name for name in names if name not in NOT_COUNTED and name != names[0])


def _choose_counting(
    reader: Reader,
    mosaics: list[Mosaic],
    part_of: Callable[[str], str],
    spec: CountSpec,
    pixel_um: float | None,
    parts: tuple[TuningPart, ...],
) -> CountingChoice:
    depth = None if reader.finds_objects else spec.split_depth
    if spec.min_area_px != "tuned" and depth != "tuned":
        return CountingChoice(Counting(spec.min_area_px, depth), "given")
    labeled = [m for m in mosaics if set(reader.dataset.micrograph_layers(m.source)) & set(spec.layers)]
    for part in parts:
        of_part = [mosaic for mosaic in labeled if part_of(mosaic.group) == part]
        if of_part:
            step = max(1.0, len(of_part) / MAX_TUNING_IMAGES)
            sample = [of_part[int(index * step)] for index in range(min(len(of_part), MAX_TUNING_IMAGES))]
            area_px = None if spec.min_area_px == "tuned" else spec.min_area_px
            depths = DEPTHS if depth in ("tuned", None) else (float(depth),)
            try:
                best, error = tune_counting(_examples(reader, sample), reader.counted, depths=depths, area_px=area_px)
            except ValueError:
                continue
            return CountingChoice(best, part, error)
    if not labeled and pixel_um:
        area_px = DEFAULT_MIN_AREA_UM2 / pixel_um**2 if spec.min_area_px == "tuned" else spec.min_area_px
        return CountingChoice(Counting(area_px, DEFAULT_SPLIT_DEPTH if depth == "tuned" else depth), "default")
    raise SegueError(
        f"{reader.dataset.path}: no {' or '.join(parts)} well of the run has nuclei from stains here, so that "
        "counting cannot be tuned; give another dataset with stained wells to tune on, or min_area_px and "
        "split_depth."
    )


def _examples(reader: Reader, mosaics: list[Mosaic]) -> Iterator[TuningExample]:
    for mosaic in mosaics:
        prediction = reader.read(mosaic)
        true = reader.true(prediction)
        if true is not None:
            yield TuningExample(prediction.classes, prediction.objects, prediction.valid, true)


def _rows(
    reader: Reader,
    mosaic: Mosaic,
    prediction: PredictedMosaic,
    counting: Counting,
    names: tuple[str, ...],
    known: dict[str, float] | None,
    pixel_um: float | None,
) -> Iterator[dict[str, Any]]:
    """Yields a row per class."""
    counted, valid_px, nan = reader.counted, prediction.valid_px, float("nan")
    objects = prediction.objects
    if objects is None:
        assert counting.split_depth is not None
        mask = np.isin(prediction.classes, counted) & prediction.valid
        objects = split_nuclei(mask, split_depth=counting.split_depth)
    nuclei = measure_nuclei(objects, prediction.classes, counted, valid=prediction.valid)
    counts = dict(zip(names, nuclei.counts(counted, min_area_px=counting.min_area_px).tolist(), strict=True))
    true = reader.true(prediction)
    stain = dict.fromkeys(names, nan)
    if true is not None and valid_px:
        stain = dict(zip(names, true.counts(counted).tolist(), strict=True))
    known = known or dict.fromkeys(names, nan)
    shares, stain_shares, known_shares = (fractions(one) for one in (counts, stain, known))
    area_mm2 = valid_px * (pixel_um / 1000) ** 2 if pixel_um and valid_px else nan
    for name, value in zip(names, counted, strict=True):
        low, high = poisson_interval(counts[name])
        share_low, share_high = wilson_interval(counts[name], sum(counts.values()))
        yield {
            "plate": mosaic.plate, "well": mosaic.well, "experiment": str(mosaic.attributes.get("experiment", "")),
            "time": mosaic.time, "time_h": float(mosaic.attributes["time_h"]),
            "stained": int(mosaic.attributes.get("stained", bool(prediction.labels))), "class": name,
            "count": counts[name], "count_low": low, "count_high": high,
            "fraction": shares[name], "fraction_low": share_low, "fraction_high": share_high,
            "density_per_mm2": counts[name] / area_mm2,
            "area_fraction": np.count_nonzero(prediction.classes == value) / valid_px if valid_px else nan,
            "seen_px": valid_px, "stain_count": stain[name], "stain_fraction": stain_shares[name],
            "known_count": known[name], "known_fraction": known_shares[name],
        }  # fmt: skip


def _known_counts(truth: Path, mosaic: Mosaic, names: tuple[str, ...], valid_px: int) -> dict[str, float] | None:
    """Returns the true counts under the run's names: by name, else the first of two is live, a single one is all."""
    known = known_counts(truth, plate=mosaic.plate, well=mosaic.well, time=mosaic.time, valid_px=valid_px)
    if known is None:
        return None
    if set(names) <= set(known):
        return {name: known[name] for name in names}
    if len(names) == 1:
        return {names[0]: sum(known.values())}
    if len(names) == len(SYNTHETIC_CLASSES):
        return dict(zip(names, known.values(), strict=True))
    raise SegueError(
        f"{truth}: has live and dead nuclei, but {', '.join(names)} are counted; name the classes that are these two."
    )


def _notes(
    mosaics: list[Mosaic], table: pd.DataFrame, choice: CountingChoice, *, densities: bool, with_truth: bool
) -> tuple[str, ...]:
    notes = []
    times, times_of = sorted({mosaic.time for mosaic in mosaics}), dict[str, set[int]]()
    for mosaic in mosaics:
        times_of.setdefault(mosaic.group, set()).add(mosaic.time)
    for well, existing in times_of.items():
        if missing := [str(time) for time in times if time not in existing]:
            notes.append(f"{well}: the dataset has no mosaic of time {', '.join(missing)}")
    if choice.source == "given":
        origin = "given"
    elif choice.error is None:
        origin = "by default, as no well is stained; tune it on a dataset with stained wells: --tune-on"
    else:
        origin = f"tuned on {choice.source} wells, where counts are off by {100 * choice.error:.3g} % of the nuclei"
    depth = "" if choice.counting.split_depth is None else f", split at depth {choice.counting.split_depth:g}"
    notes.append(f"nuclei of at least {choice.counting.min_area_px:g} px{depth} are counted ({origin})")
    excluded = table[table["seen_px"] == 0]
    for plate, well, time in dict.fromkeys(zip(excluded["plate"], excluded["well"], excluded["time"], strict=True)):
        notes.append(f"{plate}/{well}: everything is excluded at time {time}, so that its count is 0")
    if not densities:
        notes.append("the dataset has no pixel size: densities are unknown")
    if with_truth:
        without = table[table["known_count"].isna()]
        for plate, well in dict.fromkeys(zip(without["plate"], without["well"], strict=True)):
            notes.append(f"{plate}/{well}: the synthetic plate has no truth of it at some time")
    return tuple(notes)
