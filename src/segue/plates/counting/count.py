"""Counts of nuclei per class, well and time point over whole plates, with the truth beside them.

A dataset of a plate holds a mosaic for each well and time (`segue plate`), of unstained wells too. A run predicts on
each from the transmitted light, tile by tile; what it finds becomes nuclei (`segue.plates.counting.nuclei`), which are
counted.

The interval of a count is Poisson's: what other equally large fields of such a well would hold. It knows nothing of
the network's errors; these are told by the truth beside (`segue.plates.counting.truth`) in wells that were held out.
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
    Example,
    fractions,
    measure_nuclei,
    poisson_interval,
    split_nuclei,
    tune_counting,
    wilson_interval,
)
from segue.plates.counting.truth import SYNTHETIC_CLASSES, agreement, headline, known_counts
from segue.spec import SpecModel, unknown
from segue.storage import replacing
from segue.training.run_folder import TrainedModel

NOT_COUNTED = ("background", "cell", "outline")  # of the five classes; counted where they are asked for
LEAST_AREA_UM2, SPLIT_DEPTH = 12.0, 0.1  # where no well is stained: the least nucleus of `segue plate`, and mid-way
MOST_TUNED = 24  # images that counting is tuned on
KEYS = ["plate", "well", "experiment", "time", "time_h", "stained", "part", "class"]
VALUES = [
    *("count", "count_low", "count_high", "fraction", "fraction_low", "fraction_high", "density_per_mm2"),
    *("area_fraction", "seen_px", "stain_count", "stain_fraction", "known_count", "known_fraction"),
    *("least_area_px", "split_depth", "counting_from"),
]
Progress = Callable[[int, int], None]
Tunable = Literal["validation", "unseen", "train"]


class CountSpec(SpecModel):
    """How nuclei are counted.

    classes: those counted; without it all of the run's but background, cell and outline. min_area_px, and
    split_depth (1 divides nothing, see `nuclei.objects_of`): "tuned" takes what fits the stains of validation wells
    best, of training wells where no validation well has any. layers: those of classes and of nuclei, from the stains.
    """

    RENAMED = {"least_area_px": "min_area_px"}
    classes: tuple[str, ...] | None = None
    min_area_px: Annotated[float, Field(ge=0)] | Literal["tuned"] = "tuned"
    split_depth: Annotated[float, Field(gt=0, le=1)] | Literal["tuned"] = "tuned"
    layers: tuple[str, str] = ("classes", "nuclei")
    tile_px: Annotated[int, Field(ge=64)] = 1024


@dataclass(frozen=True)
class CountingChoice:
    """How nuclei are counted, whether that was "given", the "default" for want of stained wells, or tuned, and on wells
    of which part.

    error: |counted − true| per true nucleus of these wells, or None.
    """

    counting: Counting
    source: Tunable | Literal["given", "default"]
    error: float | None = None


@dataclass(frozen=True)
class WellCounts:
    """table: a row per well, time and class; conditions: its columns that are of treatments; errors: see `agreement`;
    notes: what a reader must know."""

    table: pd.DataFrame
    conditions: tuple[str, ...]
    errors: pd.DataFrame
    chosen: CountingChoice
    notes: tuple[str, ...]

    @property
    def headline(self) -> str:
        return headline(self.errors)


def count_wells(
    run: TrainedModel | Path | str,
    dataset: Path | str,
    spec: CountSpec | None = None,
    *,
    objects: TrainedModel | Path | str | None = None,
    tune_on: Path | str | None = None,
    truth: Path | str | None = None,
    progress: Progress | None = None,
) -> WellCounts:
    """Returns the counts of every mosaic of a plate's dataset, predicted by a run from the transmitted light alone.

    A run of classes tells the class of pixels. A run of objects counts them all as one class; given as `objects`
    beside a run of classes, it finds the nuclei, and each has the class of most of its pixels. tune_on: another dataset
    with stained wells, on which counting is tuned: on validation wells, else on such that the run has never seen.
    truth: the folder of the made plate that the dataset is of.

    Columns of the table: plate, well, experiment, conditions, time, time_h, stained · part: train, validation or test
    as the run used the well, "unseen" where it had no labels for it · class · count, fraction (of all nuclei counted)
    and their 95 % intervals (Poisson, Garwood; Wilson) · density_per_mm2 of what was seen, NaN without a pixel size ·
    area_fraction, pixels of the class · seen_px, without what is excluded · stain_count, stain_fraction, from the
    stains' labels · known_count, known_fraction of a made plate · least_area_px, split_depth, counting_from: how it was
    counted, and whether that was given or tuned, and on which wells. NaN where there is no truth.

    Memory: one mosaic and what the network needs for a tile. Raises SegueError where the dataset has no mosaics, other
    channels or classes than the run, or nothing to tune with.
    """
    spec, path = spec or CountSpec(), Path(dataset)
    main, second = open_run(run), None if objects is None else open_run(objects)
    require_targets(main, second)
    if truth is not None and not (Path(truth) / "truth").is_dir():
        raise SegueError(f"{truth}: holds no folder truth/; give the folder of the made plate.")
    with Dataset(path) as opened:
        mosaics = mosaics_of(opened)
        names = _counted(main, spec)
        counted = [main.target.names.index(name) for name in names]
        reader = Reader(opened, main, second, counted=counted, layers=spec.layers, tile_px=spec.tile_px)
        parts = parts_of(opened, main, second)
        pixel_um = pixel_size_um(opened)
        if tune_on is None:
            chosen = _chosen(reader, mosaics, parts, spec, pixel_um, ("validation", "train"))
        else:
            with Dataset(Path(tune_on)) as other:
                tuning = Reader(other, main, second, counted=counted, layers=spec.layers, tile_px=spec.tile_px)
                wells = mosaics_of(other)
                of = parts_of(other, main, second)
                chosen = _chosen(tuning, wells, of, spec, None, ("validation", "unseen", "train"))
        counting = chosen.counting
        conditions = conditions_of(mosaics, taken=(*KEYS, *VALUES), where=str(path))
        told = {
            "least_area_px": counting.least_area_px,
            "split_depth": counting.split_depth,
            "counting_from": chosen.source,
        }
        rows: list[dict[str, Any]] = []
        for done, mosaic in enumerate(mosaics):
            known = {name: mosaic.attributes.get(name) for name in conditions}
            for row in _rows(reader, mosaic, counting, names, None if truth is None else Path(truth), pixel_um):
                rows.append(row | known | told | {"part": parts(mosaic.group)})
            if progress:
                progress(done + 1, len(mosaics))
    first = KEYS[:3] + list(conditions) + KEYS[3:]
    table = pd.DataFrame(rows, columns=[*first, *VALUES])
    table["split_depth"] = table["split_depth"].astype(float)
    notes = _notes(mosaics, table, chosen, densities=pixel_um is not None, with_truth=truth is not None)
    return WellCounts(table, conditions, agreement(table), chosen, notes)


def write_counts(table: pd.DataFrame, out: Path | str) -> Path:
    """Returns `out`, the table written as CSV or Parquet by its extension; it appears only when whole."""
    path = Path(out)
    if path.suffix not in (".csv", ".parquet"):
        raise SegueError(f"{path}: a table is written as .csv or .parquet; give one of these extensions.")
    with replacing(path) as partial:
        if path.suffix == ".csv":
            table.to_csv(partial, index=False)
        else:
            table.to_parquet(partial, index=False)
    return path


def _counted(model: TrainedModel, spec: CountSpec) -> tuple[str, ...]:
    known = model.target.names
    for name in spec.classes or ():
        if name not in known[1:]:
            raise SegueError(f"{model.folder}: {unknown(name, known[1:], 'class')}.")
    return spec.classes or tuple(name for name in known if name not in NOT_COUNTED and name != known[0])


def _chosen(
    reader: Reader,
    mosaics: list[Mosaic],
    parts: Callable[[str], str],
    spec: CountSpec,
    pixel_um: float | None,
    tunable: tuple[Tunable, ...],
) -> CountingChoice:
    depth = None if reader.finds_objects else spec.split_depth
    if spec.min_area_px != "tuned" and depth != "tuned":
        return CountingChoice(Counting(spec.min_area_px, depth), "given")
    labelled = [m for m in mosaics if set(reader.dataset.micrograph_layers(m.source)) & set(spec.layers)]
    for part in tunable:
        of_part = [mosaic for mosaic in labelled if parts(mosaic.group) == part]
        if of_part:
            step = max(1.0, len(of_part) / MOST_TUNED)
            taken = [of_part[int(index * step)] for index in range(min(len(of_part), MOST_TUNED))]
            given = None if spec.min_area_px == "tuned" else spec.min_area_px
            depths = DEPTHS if depth in ("tuned", None) else (float(depth),)
            try:
                best, error = tune_counting(_examples(reader, taken), reader.counted, depths=depths, area_px=given)
            except ValueError:
                continue
            return CountingChoice(best, part, error)
    if not labelled and pixel_um:
        area = LEAST_AREA_UM2 / pixel_um**2 if spec.min_area_px == "tuned" else spec.min_area_px
        return CountingChoice(Counting(area, SPLIT_DEPTH if depth == "tuned" else depth), "default")
    raise SegueError(
        f"{reader.dataset.path}: no {' or '.join(tunable)} well of the run has nuclei from stains here, so that how "
        "they are counted cannot be tuned; give another dataset with stained wells to tune on, or min_area_px and "
        "split_depth."
    )


def _examples(reader: Reader, mosaics: list[Mosaic]) -> Iterator[Example]:
    for mosaic in mosaics:
        found = reader.read(mosaic)
        true = reader.true(found)
        if true is not None:
            yield Example(found.classes, found.objects, found.seen, true)


def _rows(
    reader: Reader,
    mosaic: Mosaic,
    counting: Counting,
    names: tuple[str, ...],
    truth: Path | None,
    pixel_um: float | None,
) -> Iterator[dict[str, Any]]:
    found, counted = reader.read(mosaic), reader.counted
    objects = found.objects
    if objects is None:
        assert counting.split_depth is not None
        objects = split_nuclei(np.isin(found.classes, counted) & found.seen, split_depth=counting.split_depth)
    nuclei = measure_nuclei(objects, found.classes, counted, seen=found.seen)
    counts = dict(zip(names, nuclei.counts(counted, least_area_px=counting.least_area_px).tolist(), strict=True))
    seen_px = found.seen_px
    nothing = dict.fromkeys(names, float("nan"))
    true = reader.true(found)
    stain = nothing if true is None or not seen_px else dict(zip(names, true.counts(counted).tolist(), strict=True))
    known = nothing if truth is None else _known(truth, mosaic, names, seen_px) or nothing
    shares = [fractions(one) for one in (counts, stain, known)]
    for name, value in zip(names, counted, strict=True):
        low, high = poisson_interval(counts[name])
        share_low, share_high = wilson_interval(counts[name], sum(counts.values()))
        area_mm2 = seen_px * (pixel_um / 1000) ** 2 if pixel_um and seen_px else float("nan")
        yield {
            "plate": mosaic.plate, "well": mosaic.well, "experiment": str(mosaic.attributes.get("experiment", "")),
            "time": mosaic.time, "time_h": float(mosaic.attributes["time_h"]),
            "stained": int(mosaic.attributes.get("stained", bool(found.labels))), "class": name,
            "count": counts[name], "count_low": low, "count_high": high,
            "fraction": shares[0][name], "fraction_low": share_low, "fraction_high": share_high,
            "density_per_mm2": counts[name] / area_mm2,
            "area_fraction": np.count_nonzero(found.classes == value) / seen_px if seen_px else float("nan"),
            "seen_px": seen_px, "stain_count": stain[name], "stain_fraction": shares[1][name],
            "known_count": known[name], "known_fraction": shares[2][name],
        }  # fmt: skip


def _known(truth: Path, mosaic: Mosaic, names: tuple[str, ...], seen_px: int) -> dict[str, float] | None:
    """Returns the made plate's counts under the run's names: by name, else the first of two is live, one is all."""
    made = known_counts(truth, plate=mosaic.plate, well=mosaic.well, time=mosaic.time, seen_px=seen_px)
    if made is None:
        return None
    if set(names) <= set(made):
        return {name: made[name] for name in names}
    if len(names) == 1:
        return {names[0]: sum(made.values())}
    if len(names) == len(SYNTHETIC_CLASSES):
        return dict(zip(names, made.values(), strict=True))
    raise SegueError(
        f"{truth}: knows live and dead nuclei, but {', '.join(names)} are counted; name the classes that are these two."
    )


def _notes(
    mosaics: list[Mosaic], table: pd.DataFrame, chosen: CountingChoice, *, densities: bool, with_truth: bool
) -> tuple[str, ...]:
    times = sorted({mosaic.time for mosaic in mosaics})
    by_well: dict[str, set[int]] = {}
    for mosaic in mosaics:
        by_well.setdefault(mosaic.group, set()).add(mosaic.time)
    notes = []
    for well, there in by_well.items():
        if missing := [str(time) for time in times if time not in there]:
            notes.append(f"{well}: the dataset has no mosaic of time {', '.join(missing)}")
    depth = "" if chosen.counting.split_depth is None else f", split at depth {chosen.counting.split_depth:g}"
    how = (
        "given"
        if chosen.source == "given"
        else "by default, as no well is stained; tune it on a dataset with stained wells: --tune-on"
        if chosen.error is None
        else f"tuned on {chosen.source} wells, where counts are off by {100 * chosen.error:.3g} % of the nuclei"
    )
    notes.append(f"nuclei of at least {chosen.counting.least_area_px:g} px{depth} are counted ({how})")
    unseen = table[table["seen_px"] == 0]
    for plate, well, time in dict.fromkeys(zip(unseen["plate"], unseen["well"], unseen["time"], strict=True)):
        notes.append(f"{plate}/{well}: everything is excluded at time {time}, so that its count is 0")
    if not densities:
        notes.append("the dataset has no pixel size: densities are not known")
    if with_truth:
        without = table[table["known_count"].isna()]
        for plate, well in dict.fromkeys(zip(without["plate"], without["well"], strict=True)):
            notes.append(f"{plate}/{well}: the made plate has no truth of it at some time")
    return tuple(notes)
