"""What the variants of a study's stages set, read from the study file: the table knows them by name alone.

From the tidy table to what the page compares: one metric, one split, runs in their own domain, matrices.

Every quantity of a run is read on held-out images (`split` is "test" where the table has it) of the domain that the
run itself was trained on, unless a matrix says otherwise.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from segue.errors import SegueError
from segue.reporting.analysis.bootstrap import Sharing
from segue.reporting.page.formatting import Metric, metric_named
from segue.spec import unknown
from segue.study.table import StudyResults

Table = dict[str, Any]


def target_names(results: StudyResults) -> set[str]:
    """Returns the targets that take part, as far as the table or the study file tell."""
    swept = [c for c in map(str, results.table.columns) if c.endswith(".target.name")]
    found = {str(name) for column in swept for name in results.table[column].dropna().unique()}
    try:
        study = tomllib.loads(results.spec_text)
    except tomllib.TOMLDecodeError:  # as below
        return found
    tables = [study, *(table for stage in results.stages for table in variants(results, stage).values())]
    tables += [stage_table(results, stage) for stage in results.stages]
    targets = [table["target"] for table in tables if isinstance(table.get("target"), dict)]
    return found | {target["name"] for target in targets if isinstance(target.get("name"), str)}


def stage_table(results: StudyResults, stage: str) -> Table:
    """Returns the stage's table of the study file, empty where the results come without one."""
    try:
        stages = tomllib.loads(results.spec_text).get("stages")
    except tomllib.TOMLDecodeError:  # the text is what was given to be shown; nothing else depends on it
        return {}
    table = stages.get(stage) if isinstance(stages, dict) else None
    return table if isinstance(table, dict) else {}


def variants(results: StudyResults, stage: str) -> dict[str, Table]:
    """Returns variant -> the settings it has of its own."""
    found = stage_table(results, stage).get("variants")
    return {name: table for name, table in found.items() if isinstance(table, dict)} if isinstance(found, dict) else {}


def target_varies(results: StudyResults) -> bool:
    """Returns whether runs differ in their target, within a stage or between: their losses are not one quantity."""
    swept = any(axis.partition(".")[2].split(".")[0] == "target" for axes in results.stages.values() for axis in axes)
    varied = any("target" in table for stage in results.stages for table in variants(results, stage).values())
    return swept or varied or len(set(_stage_targets(results).values())) > 1


def _stage_targets(results: StudyResults) -> dict[str, str]:
    """Returns stage -> the name of its target: its own, else its parent's, else the study's.

    A parent's reconstruction is not passed on, as in plans.
    """
    try:
        shared = tomllib.loads(results.spec_text).get("target")
    except tomllib.TOMLDecodeError:  # as above
        shared = None
    found: dict[str, str] = {}
    for stage in results.stages:  # parents first
        table, above = stage_table(results, stage).get("target"), found.get(results.parents.get(stage) or "")
        if not isinstance(table, dict) and above not in (None, "reconstruction"):
            found[stage] = str(above)
            continue
        chosen = table if isinstance(table, dict) else shared if isinstance(shared, dict) else {}
        found[stage] = str(chosen.get("name", "classes"))
    return found


IDENTITY = ("stage", "run", "domain", "evaluated_domain")
PREFERRED = ("loss", "dice_mean", "iou_mean", "accuracy")
LOSSES = ("loss", "loss_adjusted")
OBJECTS = r"ap\d\d|ap_mean|f1_50|precision_50|recall_50|pq|aji|boundary_f1|count_error_|merges|splits|objects_"
SCORES = rf"loss|iou_|dice_|accuracy|precision_|recall_|f1_|auprc_|auroc_|{OBJECTS}"
SEEDS = {"seed_draw": "draws of images", "seed_init": "initialisations"}


@dataclass(frozen=True)
class Comparison:
    """rows: a row per (run, evaluated domain) with `value` and `second_value`; own: a row per run, in its own domain.

    `own` also holds `configuration`, a number, `root`, the run it descends from or itself, and `repeat`, which numbers
    the runs of a configuration where the table has no seeds.
    `repeated` tells whether anything was repeated with another seed, without which no interval can be given.
    `reason` says why the metric is one of objects, where nobody asked for it; else it is empty.
    """

    results: StudyResults
    metric: Metric
    second: Metric | None
    split: str
    rows: pd.DataFrame
    own: pd.DataFrame
    repeated: bool
    reason: str = ""

    def axes(self, stage: str) -> list[str]:
        """Returns the axes of `stage` after those of its ancestors, as far as the table has them."""
        parent = self.results.parents.get(stage)
        above = self.axes(parent) if parent else []
        return above + [axis for axis in self.results.stages.get(stage, []) if axis in self.own.columns]

    def of(self, stage: str) -> pd.DataFrame:
        return self.own[self.own["stage"] == stage]

    @property
    def present(self) -> list[str]:
        """The stages that have finished runs, parents first."""
        found = set(self.own["stage"])
        return [stage for stage in self.results.stages if stage in found]

    @property
    def transfers(self) -> list[str]:
        return [stage for stage in self.present if self.results.parents.get(stage)]

    def scratch(self, transfer: str) -> list[str]:
        """Returns the stages without parent or children that were trained on domains `transfer` was trained on."""
        parents = set(self.results.parents.values())
        targets = set(self.of(transfer)["domain"])
        return [
            stage
            for stage in self.present
            if not self.results.parents.get(stage) and stage not in parents and targets & set(self.of(stage)["domain"])
        ]

    def leaves(self) -> list[str]:
        """Returns the stages whose outcome the study asks for: those from which no other starts."""
        parents = set(self.results.parents.values())
        return [stage for stage in self.present if stage not in parents] or self.present

    def sharing(self, frame: pd.DataFrame) -> dict[str, Sharing]:
        """Returns for `estimate` what the runs of `frame` share; empty where nothing was repeated.

        With seeds, those are the seeds: child k starts from parent k, so that runs of one parent are in one group.
        Without, runs are grouped by their root, and groups repeat each other when their first configuration is one.
        """
        if not self.repeated or frame.empty:
            return {}
        seeds = {words: frame[seed].to_numpy() for seed, words in SEEDS.items() if seed in frame.columns}
        if seeds:
            return {words: Sharing(ids, np.zeros(len(ids))) for words, ids in seeds.items()}
        roots = frame["root"].to_numpy()
        strata = frame.groupby(roots)["configuration"].transform("min").to_numpy()
        return {"independent runs": Sharing(roots, strata)}


@dataclass(frozen=True)
class Matrix:
    """Medians over runs: values[i, j] for runs of rows[i] in columns[j]; NaN where there are none."""

    rows: list[str]
    columns: list[str]
    values: np.ndarray
    quartiles: np.ndarray  # (rows, columns, 2)
    runs: np.ndarray  # (rows, columns) int


def compare(results: StudyResults, metric: str | None = None) -> Comparison:
    """Returns the comparison by `metric`, a column of the table, or by the loss (less its floor, where it has one).

    Where runs differ in their target (class weights, kind of loss), their losses are not one quantity: then by Dice.
    Where any target but `classes` takes part and every run that no other starts from is scored on objects, by their
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
    if "status" in table.columns:
        table = table[table["status"] == "finished"]
    split = _split(table)
    if "split" in table.columns:
        table = table[table["split"] == split]
    reason = _reason(results, table) if metric is None else ""
    chosen, second = _metrics(table, "ap_mean" if reason else metric, one_loss=not target_varies(results))
    rows = table.assign(
        value=pd.to_numeric(table[chosen.column], errors="coerce").astype(float),
        second_value=pd.to_numeric(table[second.column], errors="coerce").astype(float) if second else np.nan,
        domain=table["domain"].astype(str),
        evaluated_domain=table["evaluated_domain"].astype(str),
        parent=table["parent"].fillna("").astype(str) if "parent" in table.columns else "",
    )
    own = _with_lineage(_in_own_domain(rows, results.domains), rows)
    axes = [axis for named in results.stages.values() for axis in named if axis in own.columns]
    configurations = own.groupby(["stage", "domain", *axes], dropna=False, sort=False)
    own = own.assign(configuration=configurations.ngroup())
    if not any(seed in own.columns for seed in SEEDS):
        own = own.assign(repeat=configurations.cumcount())
    seeds = repeats_of(own)
    return Comparison(results, chosen, second, split, rows, own, len(own[seeds].drop_duplicates()) > 1, reason)


def _reason(results: StudyResults, table: pd.DataFrame) -> str:
    """Returns why runs are compared by their objects, or an empty text where they are not."""
    targets = target_names(results)
    asked = table[~table["stage"].isin(set(results.parents.values()))]
    scored = "ap_mean" in asked.columns and not asked.empty and bool(asked["ap_mean"].notna().all())
    if not scored or not targets - {"classes"}:
        return ""
    many = len(targets) > 1
    why = (
        "the targets differ, so that their losses are not one quantity, and overlap of pixels does not tell whether"
        " objects are merged or split"
        if many
        else f"its target, {min(targets)}, is of objects"
    )
    return f"Runs are compared by {metric_named('ap_mean').words}, because {why}."


def repeats_of(own: pd.DataFrame) -> list[str]:
    """Returns the columns that tell the repeats of a configuration apart."""
    return [column for column in (*SEEDS, "repeat") if column in own.columns]


def matrix(comparison: Comparison, stage: str, *, after_transfer: bool = False, second: bool = False) -> Matrix:
    """Returns trained on × evaluated on for `stage`, or pretrained on × transferred to when `after_transfer`.

    After transfer, a run's column is its own domain, on which it is evaluated, and its row that of its root.
    """
    value = "second_value" if second else "value"
    if after_transfer:
        frame = comparison.of(stage)
        row, column = frame["root_domain"], frame["domain"]
    else:
        frame = comparison.rows[comparison.rows["stage"] == stage]
        row, column = frame["domain"], frame["evaluated_domain"]
    order = comparison.results.domains
    rows, columns = _ordered(row, order), _ordered(column, order)
    grouped = frame[value].groupby([row.to_numpy(), column.to_numpy()])
    found = grouped.quantile([0.25, 0.5, 0.75]).unstack()
    index = pd.MultiIndex.from_product([rows, columns])
    spread = found.reindex(index).to_numpy(dtype=float).reshape(len(rows), len(columns), 3)
    runs = grouped.count().reindex(index, fill_value=0).to_numpy(dtype=int).reshape(len(rows), len(columns))
    return Matrix(rows, columns, spread[..., 1], spread[..., [0, 2]], runs)


def before_and_after(comparison: Comparison, stage: str) -> pd.DataFrame:
    """Returns the runs of a transfer with `before`, their parent's value in the same domain, and `change`."""
    frame = comparison.of(stage)
    rows = comparison.rows[comparison.rows["stage"] == comparison.results.parents[stage]]
    before = rows.drop_duplicates(["run", "evaluated_domain"]).set_index(["run", "evaluated_domain"])["value"]
    keys = pd.MultiIndex.from_arrays([frame["parent"], frame["domain"]])
    frame = frame.assign(before=before.reindex(keys).to_numpy())
    frame["change"] = frame["value"] - frame["before"]
    return frame[np.isfinite(frame["change"])]


def _split(table: pd.DataFrame) -> str:
    present = list(table["split"].dropna().unique()) if "split" in table.columns else []
    return next((name for name in ("test", "validation") if name in present), present[0] if present else "test")


def _metrics(table: pd.DataFrame, wanted: str | None, *, one_loss: bool) -> tuple[Metric, Metric | None]:
    def usable(column: str) -> bool:
        return column in table.columns and bool(pd.to_numeric(table[column], errors="coerce").notna().any())

    if wanted is not None and wanted not in table.columns:
        numeric = [str(c) for c in table.columns if re.match(SCORES, str(c))]
        raise SegueError(f"metric: {unknown(wanted, numeric, 'metric')}.")
    floors = usable("loss_floor") and bool((pd.to_numeric(table["loss_floor"], errors="coerce") > 0).any())
    adjusted = usable("loss_adjusted") and (floors or not usable("loss"))
    order = [*(["loss_adjusted"] if adjusted else []), *PREFERRED, "loss_adjusted"]
    order.sort(key=lambda column: column in LOSSES and not one_loss)
    chosen = wanted or next((column for column in order if usable(column)), None)
    if chosen is None:
        chosen = next((column for column in order if column in table.columns), None)
        if chosen is None:
            raise SegueError(f"table: has no column to compare by; allowed: {', '.join(PREFERRED)}.")
        return metric_named(chosen), None
    others = [column for column in ("dice_mean", "iou_mean", "loss_adjusted", "loss") if column != chosen]
    if chosen in LOSSES or not one_loss:
        others = [column for column in others if column not in LOSSES]
    second = next((column for column in others if usable(column)), None)
    return metric_named(chosen), metric_named(second) if second else None


def _in_own_domain(rows: pd.DataFrame, domains: Sequence[str]) -> pd.DataFrame:
    """Returns a row per run: where it was evaluated in its domain; for a mixture, the mean over its domains."""
    own = rows[rows["domain"] == rows["evaluated_domain"]].drop_duplicates("run")
    rest = rows[~rows["run"].isin(own["run"])]
    mixtures = {mixture: _parts_of(str(mixture), domains) for mixture in rest["domain"].unique()}
    inside = [e in mixtures[d] for d, e in zip(rest["domain"], rest["evaluated_domain"], strict=True)]
    rest = rest[np.array(inside, dtype=bool)]
    if not rest.empty:
        of_objects = [name for name in map(str, rest.columns) if re.match(OBJECTS, name)]
        averaged = ["value", "second_value", *of_objects]
        means = rest[["run", *averaged]].groupby("run").mean(numeric_only=True)
        rest = rest.drop_duplicates("run").set_index("run")
        rest[means.columns] = means
        own = pd.concat([own, rest.reset_index()], ignore_index=True)
    return own.reset_index(drop=True)


def _parts_of(mixture: str, domains: Sequence[str]) -> set[str]:
    return {name for name in domains if re.search(rf"(^|\+){re.escape(name)}:[\d.]+(\+|$)", mixture)}


def _with_lineage(own: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Returns `own` with root, the run that a run descends from or itself, its domain, and `labels` as numbers."""
    runs = rows.drop_duplicates("run").set_index("run")
    parents = dict(runs["parent"])
    trained_on = dict(runs["domain"])

    def root(run: str) -> str:
        while parents.get(run):
            run = parents[run]
        return run

    roots = own["run"].map(root) if len(own) else own["run"]
    own = own.assign(root=roots, root_domain=roots.map(trained_on).fillna("external"))
    if "labels" in own.columns:
        own["labels"] = pd.to_numeric(own["labels"], errors="coerce").astype(float)
    return own


def _ordered(names: pd.Series, order: Sequence[str]) -> list[str]:
    present = list(dict.fromkeys(names.dropna()))
    return [name for name in order if name in present] + sorted(name for name in present if name not in order)
