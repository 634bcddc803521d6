"""The page of tools compared on the same images, and the table beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from segue.errors import SegueError
from segue.reporting.analysis.bootstrap import RESAMPLES
from segue.reporting.analysis.result import Analysis, as_table
from segue.reporting.figures.predictions.tools import (
    disagreement_figure,
    errors_figure,
    scatter_figure,
    scores_figure,
)
from segue.reporting.formatting import Table, format_number, join_names, metric_for, plural
from segue.reporting.page.rendering import render_figure, render_page
from segue.reporting.tables.tool_comparison import FEW_GROUPS, LOWER_IS_BETTER, ToolComparison
from segue.storage import read_bytes, write_table

MARK = '<meta name="generator" content="segue compare">'  # of the template, by which a page is known
MAX_MARK_BYTES = 4096
TABLE_COLUMNS = "image,group,tool,"


def table_path(page: Path) -> Path:
    """Returns the table beside a page: page.csv for page.html."""
    return page.with_suffix(".csv")


def check_outputs(page: Path) -> None:
    """Raises SegueError unless page and table can be written: they are new, or those of an earlier comparison."""
    if page.suffix.lower() not in (".html", ".htm"):
        raise SegueError(f"{page}: a page is an .html file; give a name with this ending.")
    for path, start, what in ((page, MARK, "page"), (table_path(page), TABLE_COLUMNS, "table")):
        try:
            content = read_bytes(path, f"the path of a {what}")[:MAX_MARK_BYTES].decode("utf-8", "replace")
        except FileNotFoundError:
            continue
        is_own = start in content if what == "page" else content.startswith(start)
        if not is_own:
            raise SegueError(
                f"{path}: exists and is no {what} of segue compare, so that it is not overwritten; give another path."
            )


def write_tools_page(comparison: ToolComparison, out: Path) -> None:
    """Writes the page and the table of images beside it, each whole or not at all; see `check_outputs`."""
    check_outputs(out)
    figures = [
        scores_figure(comparison),
        errors_figure(comparison),
        scatter_figure(comparison),
        disagreement_figure(comparison),
    ]
    rendered = [render_figure(figure) for figure in figures if figure is not None]
    write_table(comparison.images, table_path(out))
    images = len(comparison.counts.images)
    render_page(
        out,
        "tools.html.j2",
        title=f"{join_names(comparison.tools)} on {plural(images, 'image')}",
        kind="compare",
        summary=summary_table(comparison),
        notices=notices(comparison),
        rendered=rendered,
        tables=_tables(comparison),
        notes=comparison.counts.notes,
        sources=_sources(comparison),
        download=table_path(out).name,
        methods=methods(comparison),
    )


def summary_table(comparison: ToolComparison) -> Table:
    """Returns the main scores of all images together, a row per tool, with intervals beneath."""
    names = comparison.main_scores
    rows: list[Sequence[str | tuple[str, str]]] = []
    for tool in comparison.tools:
        cells: list[str | tuple[str, str]] = [tool]
        for name in names:
            row = comparison.score_of(tool, name)
            low, high = format_number(float(row["pooled_low"])), format_number(float(row["pooled_high"]))
            interval = "" if pd.isna(row["pooled_low"]) else f"{low} to {high}"
            cells.append((format_number(float(row["pooled"])), interval))
        rows.append(cells)
    heads = ["tool", *(f"{metric_for(name).label}{' ↓' if name in LOWER_IS_BETTER else ''}" for name in names)]
    return Table(heads, rows, range(1, len(heads)), css="objects")


def notices(comparison: ToolComparison) -> list[str]:
    """Returns what a reader must know before the numbers: groups, few of them, images used in training."""
    counts, groups = comparison.counts, comparison.groups
    if counts.spec.classes:
        texts = [f"Compared are classes of pixels: {', '.join(counts.spec.classes)}."]
    else:
        texts = ["Compared are objects."]
    if counts.spec.group is None:
        texts.append(
            "Each image is its own group: if several are of one sample, well or series, intervals are too narrow; name"
            " the group with --group."
        )
    else:
        texts.append(f"{plural(len(counts.images), 'image')} in {plural(groups, 'group')} ({counts.spec.group}).")
    if groups < 2:
        texts.append("There are no intervals, since there is one group only.")
    elif groups < FEW_GROUPS:
        texts.append(
            f"With {groups} groups the intervals rest on few samples: in simulations those of pooled scores, nominally"
            " 95 %, held the truth in 89 to 95 % of studies with 2 to 10 groups, those of differences in 93 to 96 %,"
            " provided that the groups are drawn at random from those that conclusions are to hold for."
        )
    for tool, used in counts.used_in_training.items():
        if used.any():
            texts.append(f"{tool} was trained or selected with {used.sum()} of these images, perhaps rotated.")
    return texts


def methods(comparison: ToolComparison) -> list[str]:
    """Returns what was computed and how."""
    texts = [
        f"Intervals: value ± t × the standard deviation over {RESAMPLES:,} resamples of the groups (n − 1 of n, with"
        " replacement), with n − 1 degrees of freedom, nominally 95 %, cut where a score cannot be. All tools are"
        " resampled alike, so that differences are paired.",
        "Pooled: counts of all images are summed, then divided, as stardist.matching_dataset does with by_image=False."
        " Mean of images: each image has the same weight, over the images on which the score is defined.",
        "p: t test of the pooled difference by the same standard deviation, adjusted over the tools (Holm 1979). Better"
        " and worse: p adjusted below .05. Equivalent within: the least margin in which two one-sided tests at 5 %"
        " find the pooled scores equivalent (Schuirmann 1987). No difference is not equivalence.",
    ]
    if comparison.margin is not None:
        texts.append(f"Margin of equivalence, for scores from 0 to 1: {comparison.margin:g}.")
    if not comparison.counts.spec.classes:
        texts.append(
            "An object is matched if its IoU with a labeled one is at least the threshold, each used once. precision,"
            " recall, f1, pq_50 and pq_70, true_iou (mean_true_score) and matched_iou (mean_matched_score) are those of"
            " stardist.matching; pq is of matches above 0.5 (Kirillov et al. 2019). Boundaries are within 2 px."
        )
    return texts


def _tables(comparison: ToolComparison) -> list[Table]:
    scores = comparison.scores.copy()
    names = ["score", "tool", "pooled", "pooled_low", "pooled_high", "image_mean", "image_mean_low", "image_mean_high"]
    tables = [as_table(Analysis("", scores[[*names, "images"]]), summary="All scores")]
    if not comparison.differences.empty:
        kept = comparison.differences.drop(columns="p").rename(
            columns={"pooled": "difference", "pooled_low": "difference_low", "pooled_high": "difference_high"}
        )
        reference = comparison.tools[0]
        tables.append(as_table(Analysis("", kept.drop(columns="reference")), summary=f"Differences to {reference}"))
    return tables


def _sources(comparison: ToolComparison) -> Table:
    rows = [[tool, place] for tool, place in comparison.counts.places.items()]
    return Table(["tool", "label images"], rows)
