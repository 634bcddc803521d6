"""The parts of the page that are words and tables: counts and cost, levels, failures, running it again, methods."""

# pandas ships no types, and those that pyright infers from its sources are wrong for indexing and reductions.
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportCallIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false, reportOperatorIssue=false, reportAssignmentType=false

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

import pandas as pd

from segue.report.answer import label_unit
from segue.report.comparison import Comparison
from segue.report.factors import Factor
from segue.report.ranking import ranking
from segue.report.words import duration, energy, estimate_text, listed, number, several
from segue.study.results import StudyResults

COUNTS = {
    "configurations": "configurations",
    "models": "models",
    "stages": "distinct trainings",
    "finished": "finished",
    "failed": "failed",
    "pending": "pending",
    "evaluations": "evaluations",
}
MOST_FAILURES = 200


def paragraphs(texts: Iterable[str], kind: str = "") -> str:
    marked = f' class="{kind}"' if kind else ""
    return "".join(f"<p{marked}>{escape(text)}</p>" for text in texts)


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


def cost_section(comparison: Comparison) -> str:
    results = comparison.results
    tiles = [
        (words, count, key == "failed" and count > 0)
        for key, words in COUNTS.items()
        if (count := results.counts.get(key)) is not None
    ]
    shown = "".join(
        f"<div{' class=bad' if bad else ''}><dt>{words}</dt><dd>{count:,}</dd></div>" for words, count, bad in tiles
    )
    tiled = f'<dl class="tiles">{shown}</dl>' if shown else ""
    return f'<h2 id="cost">Counts and cost</h2>{tiled}{_cost_table(results.cost)}{_mixture(results)}'


def _cost_table(cost: pd.DataFrame) -> str:
    if "seconds_total" not in cost.columns or cost.empty:
        return ""
    heads = {
        "stage": "stage",
        "runs": "trainings",
        "seconds_total": "time, all",
        "seconds_median": "time each, median",
        "images_per_s": "images/s",
        "energy_J": "energy, all",
        "threads": "threads",
        "precision": "precision",
        "machine": "machine",
    }
    present = [column for column in heads if column in cost.columns]

    def cell(column: str, value: object) -> str:
        if pd.isna(value):
            return "not measured" if column == "energy_J" else "–"
        if column == "energy_J":
            return energy(float(str(value)))
        if column.startswith("seconds"):
            return duration(float(str(value)))
        if column in ("runs", "images_per_s"):
            return f"{float(str(value)):,.0f}" if float(str(value)) >= 10 or column == "runs" else f"{value:.1f}"
        return str(value)

    rows = [[cell(column, value) for column, value in zip(present, row, strict=True)] for row in cost[present].values]
    total = float(pd.to_numeric(cost["seconds_total"], errors="coerce").sum())
    words = f"<p>All stages together took {duration(total)} of training time.</p>" if math.isfinite(total) else ""
    counted = ("runs", "images_per_s", "energy_J", "threads", "seconds_total", "seconds_median")
    numbers = [i for i, column in enumerate(present) if column in counted]
    return words + html_table([heads[column] for column in present], rows, numbers=numbers)


def _mixture(results: StudyResults) -> str:
    """Returns a notice where precisions or thread counts are mixed, as bit-identity and speed then differ."""
    notes = []
    for column, words in (("precision", "precisions"), ("threads", "thread counts")):
        frame = results.table if column in results.table.columns else results.cost
        found = sorted(map(str, frame[column].dropna().unique())) if column in frame.columns else []
        if len(found) > 1:
            notes.append(f"different {words} ({listed(found)})")
    if not notes:
        return ""
    return (
        f'<p class="notice">These runs mix {escape(listed(notes))}: equal stages would not give equal bits,'
        " and times do not compare.</p>"
    )


def levels_table(comparison: Comparison, found: Sequence[Factor]) -> str:
    """Returns the numbers behind the figure of effects, folded away."""
    heads = ["level", "runs", f"median {comparison.metric.words}"]
    heads += [f"median {comparison.second.words}"] if comparison.second else []
    heads += ["difference in pairs", "pairs"]
    rows: list[list[str]] = []
    for factor in found:
        rows.append([factor.words])
        for level in factor.levels:
            difference = level.difference
            row = [level.name, f"{level.estimate.runs:,}", estimate_text(level.estimate)]
            row += [estimate_text(level.second)] if level.second else []
            row += [estimate_text(difference, signed=True), f"{difference.runs:,}"] if difference else ["", ""]
            rows.append(row)
    table = html_table(heads, rows, numbers=range(1, len(heads)))
    return f"<details><summary>The numbers of this figure, with intervals</summary>{table}</details>"


def ranking_table(comparison: Comparison, stage: str) -> str:
    """Returns the stage's configurations, best first, folded away; empty where there are not two with a value."""
    found = ranking(comparison, stage)
    if found is None:
        return ""
    heads = ["configuration", "runs", f"median {comparison.metric.words}", *(metric.words for metric in found.beside)]
    rows = [
        [entry.words, f"{entry.estimate.runs:,}", estimate_text(entry.estimate)]
        + [number(entry.beside[metric.column]) for metric in found.beside]
        for entry in found.entries
    ]
    table = html_table(heads, rows, numbers=range(1, len(heads)))
    return (
        f"<details><summary>The configurations on the {escape(comparison.split)} split, best first</summary>"
        f"{table}</details>"
    )


def failures_section(results: StudyResults) -> str:
    """Returns what failed and why, alike errors counted together; empty where nothing failed."""
    failures = results.failures
    if failures.empty:
        return ""
    errors = failures["error"] if "error" in failures.columns else pd.Series("unknown", index=failures.index)
    reasons = errors.astype(str).map(lambda text: text.strip().splitlines()[-1] if text.strip() else "unknown")
    grouped = failures.assign(reason=reasons).groupby(["stage", "reason"], sort=False).size()
    total = int(results.counts.get("finished", 0)) + len(failures)
    rows = [[str(key[0]), f"{count:,}", str(key[1])] for key, count in zip(grouped.index, grouped, strict=True)]
    columns = [column for column in ("stage", "run", "configuration", "error") if column in failures.columns]
    singles = [[str(value) for value in row] for row in failures[columns].head(MOST_FAILURES).values]
    more = f" The first {MOST_FAILURES} are listed." if len(failures) > MOST_FAILURES else ""
    return (
        f'<h2 id="failures">Failures</h2><p class="notice failure">{len(failures):,} of {several(total, "training")}'
        f" failed; what starts from them was not run.{more}</p>"
        + html_table(["stage", "runs", "why"], rows, numbers=[1])
        + f"<details><summary>Each failure</summary>{html_table(columns, singles)}</details>"
    )


def rerun_section(results: StudyResults) -> str:
    parts = ['<h2 id="again">Run it again</h2>']
    if results.command:
        parts.append("<p>Stages that exist are not run again; the same words continue what was interrupted.</p>")
        parts.append(f"<pre>{escape(results.command)}</pre>")
    else:
        parts.append("<p>These results come from a table; the study that made it is not part of it.</p>")
    if results.spec_text:
        parts.append(f"<details><summary>The study file</summary><pre>{escape(results.spec_text)}</pre></details>")
    return "".join(parts)


def methods_section(comparison: Comparison) -> str:
    """Returns how to read the numbers: median and interval, the split, which labels count."""
    texts = [comparison.reason] if comparison.reason else []
    texts += [
        f"Values are {comparison.metric.words} on the {comparison.split} split"
        + (
            ", which shares no group (micrograph, structure, well) with the training and validation images of a run or"
            " of any run it starts from. Where an epoch was selected, it was on validation, not on test."
            if comparison.split == "test"
            else "."
        ),
        "A median is over the runs of a cell or level, all configurations and seeds alike. Bars and bands that are not"
        " called intervals show how runs differ, not how sure a median is.",
    ]
    if comparison.repeated:
        texts.append(
            "An interval says where the median would fall if the same study were run with other seeds: the middle 95 %"
            " of the medians of 1,000 resamples. The configurations stay; the seeds are drawn anew, n − 1 of n with"
            " replacement, each with all its runs, since runs of one seed share parents and draws of images. Where"
            " initialisations and draws are crossed, both are drawn (pigeonhole bootstrap). With two or three seeds"
            " this is the range over the seeds, which holds the true median in about 50 and 75 % of studies, not 95 %."
        )
    elif comparison.own.empty:
        texts.append("There are no intervals, as nothing has finished yet.")
    else:
        texts.append("There are no intervals, as no configuration was run with a second seed.")
    texts.append(
        "Differences are within pairs of runs that have every other setting and seed in common, where the study crosses"
        " them; repeats of one configuration enter by their median."
    )
    if "labels" in comparison.own.columns:
        texts.append(
            f"Labels are counted in {label_unit(comparison)} of the target domain and include those spent on"
            " validation, by which an epoch is selected. Labels of the domain pretrained on are not counted. Images are"
            " counted as cut, so that each tile or sample of a larger micrograph is one; groups are whole micrographs,"
            " structures or wells."
        )
    if comparison.metric.column == "loss_adjusted":
        texts.append(
            "The adjusted loss is the loss less its floor, the least that this loss can be: a perfect network has 0."
        )
    return f'<h2 id="methods">Methods</h2>{paragraphs(texts)}'
