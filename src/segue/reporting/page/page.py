"""The page of a study: its question and answer, figures, failures, and the command to run it again.

One self-contained file that needs no network. Its script (`templates/runs.js`) filters the runs; without it, all else
is there. Its figures are also written as SVG and PNG into `<page>-figures/`.
"""

from __future__ import annotations

import base64
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from segue.errors import SegueError
from segue.formatting import format_bytes
from segue.reporting.analysis.bootstrap import RESAMPLES
from segue.reporting.analysis.comparison import Comparison, compare, numeric
from segue.reporting.analysis.expectations import expectations
from segue.reporting.analysis.images import lacks_counts
from segue.reporting.analysis.leakage import leakage
from segue.reporting.analysis.ranking import ranking
from segue.reporting.analysis.result import as_table
from segue.reporting.figures.baselines import baselines_figure
from segue.reporting.figures.domains import distance_tables, domain_shift_figure
from segue.reporting.figures.effects import effects_figure
from segue.reporting.figures.generalization import generalization_figure
from segue.reporting.figures.interactions import interactions_figure
from segue.reporting.figures.label_efficiency import label_efficiency_figure
from segue.reporting.figures.leakage import leakage_figure
from segue.reporting.figures.learning_curves import learning_curves_figure, loss_curves_figure
from segue.reporting.figures.matrices import matrices_figure
from segue.reporting.figures.predictions.examples import examples_figure
from segue.reporting.figures.predictions.failures import failures_figure
from segue.reporting.figures.predictions.objects import object_scores, objects_figure, objects_table
from segue.reporting.figures.predictions.reliability import reliability_figure
from segue.reporting.formatting import (
    Table,
    format_duration,
    format_energy,
    format_number,
    join_names,
    plural,
)
from segue.reporting.page.analyses import PREFIXES, analysis_entries, spread_entries
from segue.reporting.page.conclusions import conclusions
from segue.reporting.page.entry import Entry
from segue.reporting.page.rendering import remove_stale, render_figure, render_page, write
from segue.reporting.page.run_filter import runs_json
from segue.study.table import NO_IMAGE_COUNTS, RESCORE, StatedValue, StudyResults

COUNTS = {
    "configurations": "configurations",
    "models": "models",
    "stages": "distinct trainings",
    "finished": "finished",
    "failed": "failed",
    "pending": "pending",
    "evaluations": "evaluations",
}
FIGURE_PREFIXES = (
    "matrices",
    "generalization",
    "efficiency",
    "baselines",
    "effects-",
    "interactions-",
    "learning-curves",
    "loss-curves",
    "domains",
    "examples",
    "objects",
    "reliability",
    "failures",
    "leak",
    "film-",
    *PREFIXES,
)
MAX_EMBEDDED_BYTES = 2_000_000
MAX_FAILURES = 200  # listed one by one


def write_page(results: StudyResults, out: Path, *, metric: str | None = None) -> None:
    """Writes the page `out` and its figures next to it, each file atomically.

    `metric` is a column of the table; by default the loss, less its floor where it has one. Raises SegueError when
    the table lacks it, or the page cannot be written.
    """
    comparison = compare(results, metric)
    folder = out.parent / f"{out.stem}-figures"
    before = set(folder.iterdir()) if folder.is_dir() else None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        entries = figure_list(comparison)
        if entries:
            folder.mkdir(exist_ok=True)
        rendered = [render_figure(entry.figure, folder) for entry in entries]
        remove_stale(folder, FIGURE_PREFIXES, {entry.figure.name for entry in entries})
        render_page(
            out,
            "study.html.j2",
            title=results.title or results.name,
            kind=results.name,
            results=results,
            conclusions=conclusions(comparison),
            counts={name: results.counts[key] for key, name in COUNTS.items() if key in results.counts},
            cost=_cost_table(results.cost),
            mixtures=_mixtures(results),
            expected=[(as_table(one), one.notes_text()) for one in expectations(comparison)],
            stated=_stated(results),
            entries=entries,
            rendered=rendered,
            failures=_failures(results),
            runs=runs_json(comparison, _figures_by_run(results, entries)),
            download=_download(results, folder),
            methods=_methods(comparison),
        )
    except BaseException as error:  # also of a signal that ends the process
        if before is None:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            for file in set(folder.iterdir()) - before:
                file.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise SegueError(f"{out}: the page cannot be written ({error}); give another path with -o.") from None


def figure_list(comparison: Comparison) -> list[Entry]:
    """Returns the figures that a study gets, in the order of the page."""
    objects = _objects(comparison)
    entries: list[Entry] = [*objects] if comparison.reason else []
    if figure := matrices_figure(comparison):
        entries.append(Entry(figure, "Trained on × tested on", "matrices"))
        if (figure := matrices_figure(comparison, second=True)) and comparison.second_metric:
            entries.append(Entry(figure, summary=f"The same by {comparison.second_metric.label}"))
    heading = ("Spread over domains", "generalization")
    if spread := generalization_figure(comparison):
        entries.append(Entry(spread[0], *heading, tables=(spread[1],)))
        heading = ("", "")
    entries += spread_entries(comparison, *heading)
    if figure := label_efficiency_figure(comparison):
        entries.append(Entry(figure, "Label efficiency", "labels"))
    if baselines := baselines_figure(comparison):
        entries.append(Entry(baselines[0], "Transfer and mixtures", "baselines", tables=(baselines[1],)))
    heading = ("Effect of each factor", "factors")
    for stage in comparison.outcome_stages:
        if effects := effects_figure(comparison, stage):
            entries.append(Entry(effects[0], *heading, tables=(effects[1],)))
            heading = ("", "")
            if figure := interactions_figure(comparison, stage):
                entries.append(Entry(figure))
    entries += analysis_entries(comparison)
    entries += [] if comparison.reason else objects
    if leaks := leakage(comparison):
        first, others = leaks.metrics[:1], leaks.metrics[1:]
        tables = [leaks.scores_table(first), leaks.neighbors_table()]
        tables += [leaks.scores_table(others, summary="The numbers of the other metrics")] if others else []
        heading = ("Leakage of the split", "leak")
        entries.append(Entry(leakage_figure(leaks), *heading, intro=leaks.finding, tables=tuple(tables)))
    heading = ("Learning rate and metrics by epoch", "learning-curves")
    for stage in comparison.results.stages:
        if figure := learning_curves_figure(comparison, stage):
            entries.append(Entry(figure, *heading, tables=_ranking_tables(comparison, stage)))
            heading = ("", "")
    heading = ("Classification by epoch", "films")
    for stage, run in comparison.results.films.items():
        from segue.reporting.video.film import film_sheet  # needs torch, which no other figure does

        entries.append(Entry(film_sheet(stage, run), *heading))
        heading = ("", "")
    # losses of different targets are not pooled where every stage has its own curves
    names = {entry.figure.name for entry in entries}
    is_covered = comparison.target_varies and all(f"learning-curves-{stage}" in names for stage in comparison.stages)
    if not is_covered and (figure := loss_curves_figure(comparison)):
        entries.append(Entry(figure, "Learning curves", "curves"))
    if "failures" not in names and (figure := examples_figure(comparison.results.examples)):
        entries.append(Entry(figure, "Examples", "examples"))  # else the same micrographs are shown already
    if shift := comparison.results.domain_shift:
        entries.append(Entry(domain_shift_figure(shift), "Domains", "domains", tables=distance_tables(shift)))
    return entries


def _figures_by_run(results: StudyResults, entries: Sequence[Entry]) -> dict[str, list[str]]:
    """Returns run -> the numbers of the figures that show its predictions."""
    runs: dict[str, list[str]] = {f"film-{stage}": [run.name] for stage, run in results.films.items()}
    runs["examples"] = [run for example in results.examples for run in example.runs]
    runs["failures"] = [run for example in results.object_examples for run in example.predictions]
    figures: dict[str, list[str]] = {}
    for number, entry in enumerate(entries, start=1):
        for run in dict.fromkeys(runs.get(entry.figure.name, [])):
            figures.setdefault(run, []).append(str(number))
    return figures


def _objects(comparison: Comparison) -> list[Entry]:
    """Returns scores of objects with their table, and where each representation fails."""
    lines = object_scores(comparison)
    figure = objects_figure(comparison, lines)
    if figure is None:
        return []
    table = objects_table(comparison, lines)
    entries = [Entry(figure, "Objects", "objects", intro=comparison.reason, tables=(table,))]
    if reliability := reliability_figure(comparison, lines):
        figure, table = reliability
        entries.append(Entry(figure, "Confidence of objects", "confidence", tables=(table,)))
    labels = {str(run): scores.label for scores in lines for run in scores.frame["run"]}
    if figure := failures_figure(comparison.results.object_examples, labels):
        entries.append(Entry(figure, "Failures of each representation", "fails"))
    return entries


def _ranking_tables(comparison: Comparison, stage: str) -> tuple[Table, ...]:
    """Returns the stage's configurations, best first; none where there are not two with a value."""
    ranked = ranking(comparison, stage)
    if ranked is None:
        return ()
    secondary = ranked.secondary_metrics
    columns = ["configuration", "runs", f"median {comparison.metric.label}", *(metric.label for metric in secondary)]
    rows = [
        [entry.label, f"{entry.estimate.runs:,}", entry.estimate.text()]
        + [format_number(entry.secondary[metric.column]) for metric in secondary]
        for entry in ranked.configurations
    ]
    summary = f"The configurations on the {comparison.split} split, best first"
    return (Table(columns, rows, range(1, len(columns)), summary),)


COST_COLUMNS: dict[str, tuple[str, Any]] = {  # column -> its head and its format; texts have none
    "stage": ("stage", None),
    "runs": ("trainings", "{:,.0f}".format),
    "seconds_total": ("time, all", format_duration),
    "seconds_median": ("time each, median", format_duration),
    "images_per_s": ("images/s", format_number),
    "energy_J": ("energy, all", format_energy),
    "threads": ("threads", None),
    "precision": ("precision", None),
    "side_by_side": ("steps", None),
    "machine": ("machine", None),
}


def _cost_table(cost: pd.DataFrame) -> Table | None:
    """Returns the cost of each stage, and the total."""
    if "seconds_total" not in cost.columns or cost.empty:
        return None
    columns = [column for column in COST_COLUMNS if column in cost.columns]
    rows = []
    for record in cost[columns].to_dict("records"):
        cells = []
        for column, value in record.items():
            form = COST_COLUMNS[str(column)][1]
            text = form(float(value)) if form else "–" if pd.isna(value) else str(value)
            cells.append(text)
        rows.append(cells)
    if len(rows) > 1:
        total = float(numeric(cost, "seconds_total").sum())
        totals = {"stage": "all", "seconds_total": format_duration(total)}
        rows.append([totals.get(column, "") for column in columns])
    heads = [COST_COLUMNS[column][0] for column in columns]
    texts = ("stage", "precision", "side_by_side", "machine")
    return Table(heads, rows, numeric=[place for place, column in enumerate(columns) if column not in texts])


def _mixtures(results: StudyResults) -> list[str]:
    """Returns the mixed precisions, thread counts or kinds of steps, since bit-identity and speed then differ."""
    notes = []
    kinds = {"precision": "precisions", "threads": "thread counts", "side_by_side": "kinds of steps"}
    for column, name in kinds.items():
        frame = results.table if column in results.table.columns else results.cost
        values = sorted(map(str, frame[column].dropna().unique())) if column in frame.columns else []
        if len(values) > 1:
            notes.append(f"different {name} ({join_names(values)})")
    return notes


def _failures(results: StudyResults) -> dict[str, Any] | None:
    """Returns the failures and their errors, equal errors counted together; None if nothing failed."""
    failures = results.failures
    if failures.empty:
        return None
    errors = failures["error"] if "error" in failures.columns else pd.Series("unknown", index=failures.index)
    reasons = [(str(error).strip().splitlines() or ["unknown"])[-1] for error in errors]
    grouped = failures.assign(reason=reasons).groupby(["stage", "reason"], sort=False).size().reset_index(name="runs")
    rows = [[str(stage), f"{count:,}", str(reason)] for stage, reason, count in grouped.to_numpy()]
    columns = [column for column in ("stage", "run", "configuration", "error") if column in failures.columns]
    singles = [[str(value) for value in row] for row in failures[columns].head(MAX_FAILURES).to_numpy()]
    summary = f"The first {MAX_FAILURES} failures" if len(failures) > MAX_FAILURES else "Each failure"
    return {
        "count": f"{len(failures):,}",
        "total": f"{int(results.counts.get('finished', 0)) + len(failures):,}",
        "tables": [Table(["stage", "runs", "why"], rows, numeric=[1]), Table(columns, singles, summary=summary)],
    }


def _stated(results: StudyResults) -> dict[str, Any] | None:
    """Returns what a publication states beside what its table gives: the differences, then all; None without any."""
    if not results.stated:
        return None
    differing = [one for one in results.stated if not one.agrees]
    columns = ["stated", "where", "published", "the table gives", ""]

    def table(stated: list[StatedValue], summary: str = "") -> Table:
        rows = [
            [
                one.statement,
                one.place,
                one.published,
                one.computed,
                "" if one.agrees else f"differs. {one.note}".strip(),
            ]
            for one in stated
        ]
        return Table(columns, rows, numeric=(2, 3), summary=summary)

    agreeing = [one for one in results.stated if one.agrees]
    tables = [table(differing)] if differing else []
    tables += [table(agreeing, f"{len(agreeing)} that agree, to the last digit printed")] if agreeing else []
    return {"differing": len(differing), "total": len(results.stated), "tables": tables}


def _download(results: StudyResults, folder: Path) -> dict[str, str]:
    """Returns the whole table: as data for the page if it is small, else as a file next to it."""
    table = results.table
    link = {"rows": plural(len(table), "row"), "name": f"{results.name}.csv", "data": "", "size": "", "path": ""}
    if table.empty:
        return link
    sample = table.head(200).to_csv(index=False)
    if len(sample) / min(len(table), 200) * len(table) < MAX_EMBEDDED_BYTES:
        data = table.to_csv(index=False).encode()
        return link | {"data": base64.b64encode(data).decode(), "size": format_bytes(len(data))}
    folder.mkdir(exist_ok=True)
    # columns of mixed types are written as texts
    texts = {c: table[c].map(str, na_action="ignore") for c in map(str, table.columns) if table[c].dtype == object}
    write(folder / "table.parquet", table.assign(**texts).to_parquet(index=False) or b"")
    return link | {"path": f"{folder.name}/table.parquet"}


def _methods(comparison: Comparison) -> list[str]:
    """Returns an explanation of the numbers: median and interval, the split, the labels that count."""
    texts = []
    split = f"Values are {comparison.metric.label} on the {comparison.split} split"
    if comparison.split == "test":
        split += (
            ", which shares no group (micrograph, structure, well) with the training and validation images of a run or"
            " of any run it starts from. Where an epoch was selected, it was on validation, not on test"
        )
    texts.append(
        f"{split}. A median is over the runs of a cell or level, all configurations and seeds alike. Bars and bands"
        " that are not called intervals show how runs differ, not how sure a median is."
    )
    if comparison.repeated:
        texts.append(
            "An interval is the range of the median if the same study were run with other seeds: the middle 95 %"
            f" of the medians of {RESAMPLES:,} resamples. The configurations are fixed; the seeds are resampled, n − 1"
            " of n with replacement, each with all its runs, since runs of one seed share parents and draws of images."
            " Where initializations and draws are crossed, both are drawn (pigeonhole bootstrap). With 2 or 3 seeds"
            " this is the range over the seeds, which holds the true median in about 50 and 75 % of studies, not 95 %."
        )
    else:
        cause = "nothing has finished yet" if comparison.runs.empty else "no configuration was run with a second seed"
        texts.append(f"There are no intervals, as {cause}.")
    if lacks_counts(comparison):
        texts.append(f"There are no intervals over test images, as all runs were {NO_IMAGE_COUNTS}; {RESCORE}.")
    texts.append(
        "Differences are within pairs of runs that share every other setting and seed, where the study crosses"
        " them; repeats of one configuration enter by their median."
    )
    if "labels" in comparison.runs.columns:
        texts.append(
            f"Labels are counted in {comparison.label_unit} of the target domain and include those spent on validation,"
            " by which an epoch is selected. Labels of the domain pretrained on are not counted. Images are counted as"
            " cut, so that each tile or sample of a larger micrograph is one; groups are whole micrographs, structures"
            " or wells."
        )
    if comparison.metric.column == "loss_adjusted":
        texts.append(
            "The adjusted loss is the loss minus its floor, the minimum of this loss: a perfect network has 0."
        )
    return texts
