"""The comparison on the page, from the tidy table: one metric, one split, runs in their own domain, matrices.

Every value of a run is read on held-out images (`split` is "test" where the table has it) of the domain that the run
itself was trained on, unless a matrix says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from segue.errors import SegueError
from segue.reporting.analysis.bootstrap import SEEDS, ClusterLevel, Estimate, estimate
from segue.reporting.formatting import TILE_PREFIX, Metric, level_label, metric_for, natural_order
from segue.spec import unknown
from segue.study.table import StudyResults

IDENTITY = ("stage", "run", "domain", "evaluated_domain")
MAX_VALUES_NAMED = 30  # in a message
PREFERRED = ("loss", "dice_mean", "iou_mean", "accuracy")
LOSSES = ("loss", "loss_adjusted")
MAX_MIXTURES = 24  # that are rows of a matrix
OBJECTS = (
    r"(tile_)?(ap\d\d|ap_mean|f1_50|precision_50|recall_50|pq|aji|boundary_f1|count_error_|merges|splits|objects_"
    r"|object_auprc|confidence_)"
)
SCORES = rf"loss|iou_|dice_|accuracy|precision_|recall_|f1_|auprc_|auroc_|{OBJECTS}"


def numeric(frame: pd.DataFrame, column: str) -> pd.Series:
    """Returns a column as floats; NaN for values that are not numbers and for a missing column."""
    if column not in frame.columns:
        return pd.Series(np.nan, index=frame.index)
    return pd.to_numeric(frame[column], errors="coerce").astype(float)


@dataclass(frozen=True)
class Comparison:
    """rows: a row per (run, evaluated domain) with `value` and `second_value`; runs: a row per run, in its own domain.

    `runs` also holds `configuration`, a number, `root`, the run it descends from or itself, and `repeat`, which numbers
    the runs of a configuration where the table has no seeds.
    `repeated` says whether anything was repeated with another seed, without which no interval can be given.
    `reason` explains why the metric is one of objects if none was requested; else it is empty.
    `images` has a row per (run, evaluated domain, image) where the table has a column `image`; `rows` are means of it.
    """

    results: StudyResults
    metric: Metric
    second_metric: Metric | None
    split: str
    rows: pd.DataFrame
    runs: pd.DataFrame
    repeated: bool
    reason: str = ""
    images: pd.DataFrame | None = None

    def axes(self, stage: str) -> list[str]:
        """Returns the axes of `stage` after those of its ancestors, as far as the table has them."""
        parent = self.results.parents.get(stage)
        return (self.axes(parent) if parent else []) + self.own_axes(stage)

    def own_axes(self, stage: str) -> list[str]:
        return [axis for axis in self.results.stages.get(stage, []) if axis in self.runs.columns]

    def stage_runs(self, stage: str) -> pd.DataFrame:
        return self._runs_by_stage.get(stage, self.runs[:0])

    def tested(self, stage: str) -> pd.DataFrame:
        """Returns the finite rows of a stage, one per tested domain, with the lineage and configuration of the runs."""
        return self._tested_by_stage.get(stage, self.rows[:0].assign(root="", configuration=0, root_domain=""))

    @cached_property
    def _runs_by_stage(self) -> dict[Any, pd.DataFrame]:
        return dict(list(self.runs.groupby("stage", sort=False)))

    @cached_property
    def _tested_by_stage(self) -> dict[Any, pd.DataFrame]:
        rows = self.rows[np.isfinite(self.rows["value"])].drop_duplicates(["stage", "run", "evaluated_domain"])
        place = pd.Index(self.runs["run"]).drop_duplicates().get_indexer(pd.Index(rows["run"]))
        rows, place = rows[place >= 0], place[place >= 0]
        first = self.runs.drop_duplicates("run")
        lineage = {name: first[name].to_numpy()[place] for name in ("root", "configuration", "root_domain")}
        return dict(list(rows.assign(**lineage).groupby("stage", sort=False)))

    @cached_property
    def stages(self) -> list[str]:
        """The stages that have finished runs, parents first."""
        finished = set(self.runs["stage"].unique())
        return [stage for stage in self.results.stages if stage in finished]

    @cached_property
    def factors_by_stage(self) -> dict[str, list[Any]]:
        """What `factors` has computed so far."""
        return {}

    @property
    def transfer_stages(self) -> list[str]:
        return [stage for stage in self.stages if self.results.parents.get(stage)]

    @property
    def outcome_stages(self) -> list[str]:
        """The stages whose outcome is the result of the study: those from which no other starts."""
        parents = set(self.results.parents.values())
        return [stage for stage in self.stages if stage not in parents] or self.stages

    def scratch_stages(self, transfer: str) -> list[str]:
        """Returns the stages without parent or children that were trained on domains `transfer` was trained on."""
        parents = self.results.parents
        domains = set(self.stage_runs(transfer)["domain"].unique())
        alone = [stage for stage in self.stages if not parents.get(stage) and stage not in parents.values()]
        return [stage for stage in alone if domains & set(self.stage_runs(stage)["domain"].unique())]

    def cluster_levels(self, frame: pd.DataFrame) -> dict[str, ClusterLevel]:
        """Returns for `estimate` the clusters of dependent runs of `frame`; empty if nothing was repeated.

        With seeds, those are the seeds: child k starts from parent k, so that runs of one parent are in one cluster.
        Without, runs are grouped by their root, and clusters repeat each other when their first configuration is one.
        """
        if not self.repeated or frame.empty:
            return {}
        seeds = {name: frame[seed].to_numpy() for seed, name in SEEDS.items() if seed in frame.columns}
        if seeds:
            return {name: ClusterLevel(ids, np.zeros(len(ids))) for name, ids in seeds.items()}
        roots = frame["root"].to_numpy()
        strata = frame["configuration"].groupby(roots).transform("min").to_numpy()
        return {"independent runs": ClusterLevel(roots, strata)}

    def estimate(self, frame: pd.DataFrame, column: str = "value") -> Estimate:
        """Returns the median of a column of some of the runs, with its interval."""
        return estimate(frame[column].to_numpy(dtype=float), self.cluster_levels(frame))

    @property
    def label_unit(self) -> str:
        """The unit of labels: "images", or the unit of all runs."""
        units = list(self.runs["label_unit"].dropna().unique()) if "label_unit" in self.runs.columns else []
        return str(units[0]) if len(units) == 1 else "images"

    def spends_validation(self, stages: Sequence[str]) -> bool:
        """Returns whether any run of `stages` spent labels on validation, according to the table."""
        runs = self.runs[self.runs["stage"].isin(stages)]
        return bool((numeric(runs, "labels_validation") > 0).any())

    @property
    def target_varies(self) -> bool:
        return _target_varies(self.results)

    def variants(self, stage: str) -> dict[str, dict[str, Any]]:
        """Returns variant -> the settings that it has of its own; empty for results from a table alone."""
        return self.results.variants.get(stage, {})


AGGREGATES: dict[str, Callable[[Any], pd.Series]] = {  # of a grouped column
    "median": lambda grouped: grouped.median(),
    "mean": lambda grouped: grouped.mean(),
    "min": lambda grouped: grouped.min(),
    "max": lambda grouped: grouped.max(),
    "std": lambda grouped: grouped.std(ddof=1),
    "p05": lambda grouped: grouped.quantile(0.05),
    "p25": lambda grouped: grouped.quantile(0.25),
    "p75": lambda grouped: grouped.quantile(0.75),
    "p95": lambda grouped: grouped.quantile(0.95),
    "count": lambda grouped: grouped.count(),
}


@dataclass(frozen=True)
class Matrix:
    """Medians, or another aggregate, over runs: values[i, j] for rows[i] in columns[j]; NaN where there are none."""

    rows: list[str]
    columns: list[str]
    values: np.ndarray
    quartiles: np.ndarray  # (rows, columns, 2)
    counts: np.ndarray  # (rows, columns) int


def compare(results: StudyResults, metric: str | None = None) -> Comparison:
    """Returns the comparison by `metric`, a column of the table, or by the loss (less its floor, where it has one).

    If runs differ in their target (class weights, kind of loss), their losses are different quantities: then by Dice.
    If any target other than `classes` occurs and every run that no other starts from is scored on objects: by their
    mean AP.
    """
    table = results.table
    missing = [column for column in IDENTITY if column not in table.columns]
    if missing and table.empty:
        table, missing = table.reindex(columns=[*table.columns, *missing, "loss"]), []
    if missing:
        raise SegueError(
            f"table of {results.name}: has no column {', '.join(missing)}; a tidy table has {', '.join(IDENTITY)} and"
            " a metric. For a table made elsewhere, give a file that maps its columns."
        )
    # finished runs, on one split
    if "status" in table.columns:
        table = table[table["status"] == "finished"]
    split = _choose_split(table)
    if "split" in table.columns:
        table = table[table["split"] == split]
    # the metric
    reason = _reason_for_objects(results, table) if metric is None else ""
    first, second = _choose_metrics(
        table, object_prefix(table) + "ap_mean" if reason else metric, one_loss=not _target_varies(results)
    )
    rows = table.assign(
        value=numeric(table, first.column),
        second_value=numeric(table, second.column) if second else np.nan,
        domain=table["domain"].astype(str),
        evaluated_domain=table["evaluated_domain"].astype(str),
        parent=table["parent"].fillna("").astype(str) if "parent" in table.columns else "",
    )
    images = rows if "image" in rows.columns else None
    if images is not None:
        rows = _mean_over_images(images)
    # a row per run, with its ancestor and its repeats
    runs = _with_lineage(_in_own_domain(rows, results.domains), rows)
    axes = [axis for stage_axes in results.stages.values() for axis in stage_axes if axis in runs.columns]
    configurations = runs.groupby(["stage", "domain", *axes], dropna=False, sort=False)
    runs = runs.assign(configuration=configurations.ngroup())
    if not any(seed in runs.columns for seed in SEEDS):
        runs = runs.assign(repeat=configurations.cumcount())
    repeated = len(runs[repeat_columns(runs)].drop_duplicates()) > 1
    if images is not None and "repeat" in runs.columns:
        images = images.assign(repeat=images["run"].map(runs.set_index("run")["repeat"]))
    return Comparison(results, first, second, split, rows, runs, repeated, reason, images)


def _mean_over_images(images: pd.DataFrame) -> pd.DataFrame:
    """Returns a row per run and evaluated domain, whose values are means over its images."""
    keys = ["run", "evaluated_domain"]
    means = images.groupby(keys)[["value", "second_value"]].mean()
    rows = images.drop_duplicates(keys).drop(columns=["image", "group"], errors="ignore").set_index(keys)
    rows[means.columns] = means
    return rows.reset_index()


def repeat_columns(runs: pd.DataFrame) -> list[str]:
    """Returns the columns that distinguish the repeats of a configuration."""
    return [column for column in (*SEEDS, "repeat") if column in runs.columns]


Conditions = Mapping[str, Sequence[Any]]  # column -> the values it may have


def select(frame: pd.DataFrame, where: Conditions, *, context: str = "where") -> pd.DataFrame:
    """Returns the rows of `frame` that have, in each column of `where`, one of the values given.

    Values are compared as text, numbers as numbers: 1e-4 and "0.0001" are one. Raises SegueError for a column or a
    value that `frame` does not have.
    """
    return frame[_is_selected(frame, where, context)]


def _is_selected(frame: pd.DataFrame, where: Conditions, context: str) -> np.ndarray:
    selected = np.ones(len(frame), dtype=bool)
    for column, values in where.items():
        if column not in frame.columns:
            raise SegueError(f"{context}: {unknown(column, list(map(str, frame.columns)), 'column')}.")
        codes, levels = pd.factorize(frame[column], use_na_sentinel=False)
        texts, allowed = [_value_text(level) for level in levels], {_value_text(value) for value in values}
        if missing := sorted(allowed - set(texts)):
            present = ", ".join(sorted(map(level_label, levels))[:MAX_VALUES_NAMED])
            raise SegueError(f"{context}: {column} is never '{missing[0]}'; it is {present}.")
        selected &= np.array([text in allowed for text in texts], dtype=bool)[codes]
    return selected


def _value_text(value: object) -> str:
    try:
        return repr(float(str(value)))
    except ValueError:
        return str(value)


def matrix(
    comparison: Comparison,
    stage: str,
    *,
    after_transfer: bool = False,
    second: bool = False,
    aggregate: str = "median",
    where: Conditions | None = None,
) -> Matrix:
    """Returns trained on × evaluated on for `stage`, or pretrained on × transferred to when `after_transfer`.

    After transfer, a run's column is its own domain, on which it is evaluated, and its row that of its root.
    aggregate: a name of AGGREGATES, over the runs of a cell; where: column of the table -> values, see `select`.
    """
    if aggregate not in AGGREGATES:
        raise SegueError(f"aggregate: {unknown(aggregate, AGGREGATES, 'aggregate')}.")
    value = "second_value" if second else "value"
    if after_transfer:
        frame = select(comparison.stage_runs(stage), where or {})
        row, column = frame["root_domain"], frame["domain"]
    else:
        frame = select(comparison.rows[comparison.rows["stage"] == stage], where or {})
        row, column = frame["domain"], frame["evaluated_domain"]
    return _matrix(frame[value], row, column, comparison.results.domains, aggregate)


def _matrix(
    values: pd.Series, row: pd.Series, column: pd.Series, order: Sequence[str], aggregate: str = "median"
) -> Matrix:
    rows, columns = _in_order(row, order), _in_order(column, order)
    grouped = values.groupby([row.to_numpy(), column.to_numpy()])
    quantiles = grouped.quantile(np.array([0.25, 0.5, 0.75])).unstack()
    index = pd.MultiIndex.from_product([rows, columns])
    spread = quantiles.reindex(index).to_numpy(dtype=float).reshape(len(rows), len(columns), 3)
    counts = grouped.count().reindex(index, fill_value=0).to_numpy(dtype=int).reshape(len(rows), len(columns))
    cells = spread[..., 1]
    if aggregate != "median":
        cells = AGGREGATES[aggregate](grouped).reindex(index).to_numpy(dtype=float).reshape(counts.shape)
    return Matrix(rows, columns, cells, spread[..., [0, 2]], counts)


def pair_matrix(comparison: Comparison, stage: str, *, second: bool = False) -> Matrix | None:
    """Returns mixed with × tested on for a stage whose runs were all trained on two domains, both of which they met.

    None for any other stage, and for one with few mixtures, which are rows of their own in `matrix`.
    """
    domains = comparison.results.domains
    frame = comparison.rows[comparison.rows["stage"] == stage]
    mixtures = {name: list(mixture_images(name, domains)) for name in frame["domain"].unique()}
    if len(mixtures) <= MAX_MIXTURES or any(len(names) != 2 for names in mixtures.values()):
        return None
    is_inside = [e in mixtures[d] for d, e in zip(frame["domain"], frame["evaluated_domain"], strict=True)]
    frame = frame[np.array(is_inside, dtype=bool)]
    others = [
        next(name for name in mixtures[d] if name != e)
        for d, e in zip(frame["domain"], frame["evaluated_domain"], strict=True)
    ]
    rows = pd.Series(others, index=frame.index, dtype=object)
    return _matrix(frame["second_value" if second else "value"], rows, frame["evaluated_domain"], domains)


def before_and_after(comparison: Comparison, stage: str) -> pd.DataFrame:
    """Returns the runs of a transfer with `before`, their parent's value in the same domain, and `change`."""
    frame = comparison.stage_runs(stage)
    rows = comparison.rows[comparison.rows["stage"] == comparison.results.parents[stage]]
    before = rows.drop_duplicates(["run", "evaluated_domain"]).set_index(["run", "evaluated_domain"])["value"]
    keys = pd.MultiIndex.from_arrays([frame["parent"], frame["domain"]])
    frame = frame.assign(before=before.reindex(keys).to_numpy())
    frame["change"] = frame["value"] - frame["before"]
    return frame[np.isfinite(frame["change"])]


def sorted_levels(values: pd.Series, domains: Sequence[str] = ()) -> list[Any]:
    """Returns the distinct values: domains as in the study, numbers ascending, else "none", then by appearance.

    Texts that differ in their numbers alone are in the order of these.
    """
    present = list(values.dropna().unique())
    if domains:
        rest = [name for name in present if name not in domains]
        return [name for name in domains if name in present] + natural_order(rest)
    if pd.api.types.is_numeric_dtype(values):
        return sorted(present)
    reference = [value for value in present if value == "none"]
    return reference + natural_order(value for value in present if value != "none")


def _target_varies(results: StudyResults) -> bool:
    """Returns whether runs differ in their target, within a stage or between: their losses are not one quantity."""
    targets = [target for of_stage in results.targets.values() for target in of_stage]
    keys = [axis.partition(".")[2] for axes in results.stages.values() for axis in axes]
    return any(target != targets[0] for target in targets) or any(key.split(".")[0] == "target" for key in keys)


def _target_names(results: StudyResults) -> set[str]:
    """Returns the targets of the runs, from the table or the study."""
    columns = [column for column in map(str, results.table.columns) if column.endswith(".target.name")]
    names = {str(name) for column in columns for name in results.table[column].dropna().unique()}
    return names | {str(target["name"]) for of_stage in results.targets.values() for target in of_stage}


def object_prefix(table: pd.DataFrame) -> str:
    """Returns "tile_" if objects are scored on tiles only, whose scores have other names; else ""."""
    whole, tiles = (bool(numeric(table, f"{prefix}ap_mean").notna().any()) for prefix in ("", TILE_PREFIX))
    return TILE_PREFIX if tiles and not whole else ""


def _reason_for_objects(results: StudyResults, table: pd.DataFrame) -> str:
    """Returns why runs are compared by their objects, or an empty text if they are not."""
    targets = _target_names(results)
    outcomes = table[~table["stage"].isin(set(results.parents.values()))]
    column = object_prefix(outcomes) + "ap_mean"
    scored = column in outcomes.columns and not outcomes.empty and bool(outcomes[column].notna().all())
    if not scored or not targets - {"classes"}:
        return ""
    cause = f"the target {min(targets)} predicts objects"
    if len(targets) > 1:
        cause = (
            "the targets differ, so that their losses are different quantities, and overlap of pixels does not show"
            " whether objects are merged or split"
        )
    return f"Runs are compared by {metric_for(column).label}, because {cause}."


def _choose_split(table: pd.DataFrame) -> str:
    present = [str(name) for name in table["split"].dropna().unique()] if "split" in table.columns else []
    return next((name for name in ("test", "validation") if name in present), present[0] if present else "test")


def _choose_metrics(table: pd.DataFrame, column: str | None, *, one_loss: bool) -> tuple[Metric, Metric | None]:
    """Returns the metric to compare by and a second one; `one_loss` says whether the losses are one quantity."""

    def is_usable(name: str) -> bool:
        return bool(numeric(table, name).notna().any())

    if column is not None and column not in table.columns:
        columns = [str(name) for name in table.columns if re.match(SCORES, str(name))]
        raise SegueError(f"metric: {unknown(column, columns, 'metric')}.")
    has_floor = bool((numeric(table, "loss_floor") > 0).any())
    adjusted = is_usable("loss_adjusted") and (has_floor or not is_usable("loss"))
    order = [*(["loss_adjusted"] if adjusted else []), *PREFERRED, "loss_adjusted"]
    order.sort(key=lambda name: name in LOSSES and not one_loss)
    first = column or next((name for name in order if is_usable(name)), None)
    if first is None:
        first = next((name for name in order if name in table.columns), None)
        if first is None:
            raise SegueError(
                f"the table has no column to compare by ({', '.join(PREFERRED)}); name one with --metric, or map "
                "one with --columns."
            )
        return metric_for(first), None
    others = [name for name in ("dice_mean", "iou_mean", "loss_adjusted", "loss") if name != first]
    if first in LOSSES or not one_loss:
        others = [name for name in others if name not in LOSSES]
    second = next((name for name in others if is_usable(name)), None)
    return metric_for(first), metric_for(second) if second else None


def own_evaluations(rows: pd.DataFrame, domains: Sequence[str]) -> pd.DataFrame:
    """Returns the rows where runs were evaluated in their own domain; for a mixture, those in each of its domains."""
    runs = rows[rows["domain"] == rows["evaluated_domain"]].drop_duplicates("run")
    rest = rows[~rows["run"].isin(runs["run"])]
    mixtures = {mixture: mixture_images(str(mixture), domains) for mixture in rest["domain"].unique()}
    inside = [e in mixtures[d] for d, e in zip(rest["domain"], rest["evaluated_domain"], strict=True)]
    rest = rest[np.array(inside, dtype=bool)]
    return runs if rest.empty else pd.concat([runs, rest])


def _in_own_domain(rows: pd.DataFrame, domains: Sequence[str]) -> pd.DataFrame:
    """Returns a row per run: where it was evaluated in its domain; for a mixture, the mean over its domains."""
    rows = own_evaluations(rows, domains)
    is_single = rows["domain"] == rows["evaluated_domain"]
    runs, rest = rows[is_single], rows[~is_single]
    if not rest.empty:
        of_objects = [name for name in map(str, rest.columns) if re.match(OBJECTS, name)]
        columns = list(dict.fromkeys(["value", "second_value", *of_objects]))
        numbers = rest.assign(**{name: numeric(rest, name) for name in columns})
        # undefined in one of the domains mixed: no mean over fewer of them
        means = numbers.groupby("run")[columns].agg(lambda values: values.mean(skipna=False))
        rest = rest.drop_duplicates("run").set_index("run")
        rest[means.columns] = means
        runs = pd.concat([runs, rest.reset_index()], ignore_index=True)
    return runs.reset_index(drop=True)


def mixture_images(mixture: str, domains: Sequence[str]) -> dict[str, float]:
    """Returns domain -> its number of images, for a mixture such as "a:128+b:384"; empty for a single domain."""
    matches = {name: re.search(rf"(?:^|\+){re.escape(name)}:([\d.]+)(?:\+|$)", mixture) for name in domains}
    return {name: float(match.group(1)) for name, match in matches.items() if match}


def _with_lineage(runs: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Returns `runs` with root, the run that a run descends from or itself, its domain, and `labels` as numbers."""
    by_run = rows.drop_duplicates("run")
    parents = {run: parent for run, parent in zip(by_run["run"], by_run["parent"], strict=True) if parent}
    trained_on = dict(zip(by_run["run"], by_run["domain"], strict=True))

    def root_of(run: str) -> str:
        while run in parents:
            run = parents[run]
        return run

    roots = pd.Series([root_of(run) for run in runs["run"]], index=runs.index, dtype=object)
    runs = runs.assign(root=roots, root_domain=roots.map(trained_on).fillna("external"))
    return runs.assign(labels=numeric(runs, "labels")) if "labels" in runs.columns else runs


def _in_order(names: pd.Series, order: Sequence[str]) -> list[str]:
    present = [str(name) for name in names.dropna().unique()]
    rest = sorted(name for name in present if name not in order)
    return [name for name in order if name in present] + natural_order(rest)
