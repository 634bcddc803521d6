"""One self-contained page: the question, its answer, the figures, the failures and how to run it again.

The page needs no network and no script. Its figures are also written as SVG and PNG into `<page>-figures/`.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd

from segue.errors import SegueError
from segue.report import exhibits, leak, objects
from segue.report.answer import answer, caution
from segue.report.comparison import Comparison, compare
from segue.report.drawing import Drawing, inline, png_bytes, svg_text, theme
from segue.report.failures import failures_drawing
from segue.report.film import sheet_drawing
from segue.report.sections import (
    cost_section,
    failures_section,
    levels_table,
    methods_section,
    paragraphs,
    ranking_table,
    rerun_section,
)
from segue.report.variants import target_varies
from segue.report.words import several
from segue.study.results import StudyResults

MOST_EMBEDDED_BYTES = 2_000_000
FIGURE_NAMES = (
    "matrices",
    "efficiency",
    "effects-",
    "courses-",
    "learning-curves",
    "examples",
    "objects",
    "failures",
    "leak",
    "film-",
)


@dataclass(frozen=True)
class Shown:
    """A drawing in its place: under which heading, with what above and beneath it, and folded away or not."""

    heading: str
    anchor: str
    drawing: Drawing
    above: str = ""
    beneath: str = ""
    folded: str = ""


def write_page(results: StudyResults, out: Path, *, metric: str | None = None) -> None:
    """Writes the page `out` and its figures beside it, each file whole or not at all.

    `metric` is a column of the table; by default the loss, less its floor where it has one. Raises SegueError when
    the table lacks it, or the page cannot be written.
    """
    comparison = compare(results, metric)
    folder = out.parent / f"{out.stem}-figures"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shown = _shown(comparison)
        if shown:
            folder.mkdir(exist_ok=True)
        figures = [_figure(entry, position, folder) for position, entry in enumerate(shown, start=1)]
        _forget(folder, {entry.drawing.name for entry in shown})
        table = _table_link(comparison, folder)
        _write(out, _page(comparison, shown, figures, table).encode())
    except OSError as error:
        raise SegueError(f"{out}: the page cannot be written ({error}); give another place with -o.") from None


def _shown(comparison: Comparison) -> list[Shown]:
    """Returns the drawings in the order of the page."""
    of_objects = _of_objects(comparison)
    found: list[Shown] = [*of_objects] if comparison.reason else []
    if drawing := exhibits.matrices(comparison):
        found.append(Shown("Trained on × tested on", "matrices", drawing))
        if again := exhibits.matrices(comparison, second=True):
            assert comparison.second is not None
            found.append(Shown("", "", again, folded=f"The same by {comparison.second.words}"))
    if drawing := exhibits.learning_efficiency(comparison):
        found.append(Shown("What labels buy", "labels", drawing))
    for position, stage in enumerate(comparison.leaves()):
        if drawn := exhibits.effects(comparison, stage):
            heading = ("Effect of each factor", "factors") if position == 0 else ("", "")
            found.append(Shown(*heading, drawn[0], beneath=levels_table(comparison, drawn[1])))
    found += [] if comparison.reason else of_objects
    if let_through := leak.shown(comparison):
        drawing, texts, table = let_through
        found.append(Shown("What the split lets through", "leak", drawing, above=paragraphs(texts), beneath=table))
    heading = ("Learning rate and metrics by epoch", "courses")
    for stage in comparison.results.stages:
        if drawing := exhibits.training_courses(comparison, stage):
            found.append(Shown(*heading, drawing, beneath=ranking_table(comparison, stage)))
            heading = ("", "")
    for position, (stage, run) in enumerate(comparison.results.films.items()):
        heading = ("Classification by epoch", "films") if position == 0 else ("", "")
        found.append(Shown(*heading, sheet_drawing(stage, run)))
    drawn = {entry.drawing.name for entry in found}
    told = all(f"courses-{stage}" in drawn for stage in comparison.present) and target_varies(comparison.results)
    if not told and (drawing := exhibits.learning_curves(comparison)):  # would pool losses that do not compare
        found.append(Shown("Learning curves", "curves", drawing))
    failures = any(entry.drawing.name == "failures" for entry in found)  # they show the same, and by what
    if not failures and (drawing := exhibits.example_images(comparison)):
        found.append(Shown("Examples", "examples", drawing))
    return found


def _of_objects(comparison: Comparison) -> list[Shown]:
    """Returns scores of objects with their table, and where each representation fails."""
    scored = objects.object_scores(comparison)
    drawing = objects.objects_drawing(comparison, scored)
    if drawing is None:
        return []
    why = f"<p>{escape(comparison.reason)}</p>" if comparison.reason else ""
    found = [Shown("Objects", "objects", drawing, above=why, beneath=objects.objects_table(comparison, scored))]
    names = {str(run): one.words for one in scored for run in one.frame["run"]}
    if drawing := failures_drawing(comparison.results.object_examples, names):
        found.append(Shown("Where each fails", "fails", drawing))
    return found


def _figure(entry: Shown, position: int, folder: Path) -> str:
    """Writes the drawing's files and returns its element of the page."""
    drawing = entry.drawing
    svg = svg_text(drawing.figure)
    _write(folder / f"{drawing.name}.svg", svg.encode())
    _write(folder / f"{drawing.name}.png", png_bytes(drawing.figure))
    files = ", ".join(
        f'<a href="{escape(folder.name)}/{drawing.name}.{kind}">{kind.upper()}</a>' for kind in ("svg", "png")
    )
    element = (
        f'<figure id="figure-{position}"><div class="sheet">{inline(drawing, svg)}</div><figcaption>'
        f'<b>Figure {position}.</b>{drawing.caption} <span class="files">[{files}]</span></figcaption></figure>'
    )
    heading = f'<h2 id="{entry.anchor}">{escape(entry.heading)}</h2>' if entry.heading else ""
    if entry.folded:
        element = f"<details><summary>{escape(entry.folded)}</summary>{element}</details>"
    return heading + entry.above + element + entry.beneath


def _page(comparison: Comparison, shown: Sequence[Shown], figures: Sequence[str], table: str) -> str:
    results = comparison.results
    light, dark = theme()
    style = (
        f":root {{ {light} }} @media (prefers-color-scheme: dark) {{ @media screen {{ :root {{ {dark} }} }} }}\n"
        + Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    )
    anchors = [("cost", "Counts and cost"), *((entry.anchor, entry.heading) for entry in shown if entry.heading)]
    if not results.failures.empty:
        anchors.append(("failures", "Failures"))
    anchors += [("table", "Table"), ("again", "Run it again"), ("methods", "Methods")]
    links = "".join(f'<a href="#{anchor}">{escape(words)}</a>' for anchor, words in anchors)
    doubt = caution(comparison)
    found = [text for text in answer(comparison) if text != doubt]
    parts = [
        f'<p class="kind">segue · {escape(results.name)}</p><h1>{escape(results.title or results.name)}</h1>',
        f'<p class="question">{escape(results.question)}</p>' if results.question else "",
        f'<div class="answer">{paragraphs(found)}{paragraphs([doubt], "caution") if doubt else ""}</div>',
        f"<nav>{links}</nav>",
        cost_section(comparison),
        *figures,
        failures_section(results),
        table,
        rerun_section(results),
        methods_section(comparison),
        f"<footer>{several(len(results.table), 'row')} of results in {several(len(figures), 'figure')}."
        " Made with segue; this page needs no network.</footer>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(results.title or results.name)}</title><style>{style}</style></head>\n"
        f"<body><main>\n{chr(10).join(filter(None, parts))}\n</main></body></html>\n"
    )


def _table_link(comparison: Comparison, folder: Path) -> str:
    """Returns the section with the whole table: in the page where it is small, else as a file beside it."""
    table = comparison.results.table
    head = (
        f'<h2 id="table">The whole table</h2><p>{several(len(table), "row")}: one per run, evaluated domain and split'
    )
    if table.empty:
        return f"{head}; it is empty.</p>"
    sample = table.head(200).to_csv(index=False)
    if len(sample) / min(len(table), 200) * len(table) < MOST_EMBEDDED_BYTES:
        text = table.to_csv(index=False)
        data = base64.b64encode(text.encode()).decode()
        name = f"{comparison.results.name}.csv"
        link = f'<a download="{escape(name)}" href="data:text/csv;base64,{data}">{escape(name)}</a>'
        return (
            f'{head}. <span class="download">Download: {link} ({len(text) / 1e6:.2f} MB, inside this page).</span></p>'
        )
    folder.mkdir(exist_ok=True)
    place = folder / "table.parquet"
    _write(place, _parquet(table))
    link = f'<a href="{escape(folder.name)}/table.parquet">{escape(folder.name)}/table.parquet</a>'
    return f"{head}. It is too large to stand in this page and lies beside it: {link}.</p>"


def _parquet(table: pd.DataFrame) -> bytes:
    texts = {c: table[c].map(str, na_action="ignore") for c in table.columns if table[c].dtype == object}
    return bytes(table.assign(**texts).to_parquet(index=False) or b"")


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _forget(folder: Path, names: set[str]) -> None:
    """Deletes figures of an earlier page in this place that the present one does not have."""
    for path in folder.glob("*.*"):
        if path.suffix in (".svg", ".png") and path.stem not in names and path.stem.startswith(FIGURE_NAMES):
            path.unlink()
