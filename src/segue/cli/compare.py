"""`segue compare`: label images of any tools, judged on the same labeled images; heavy imports are deferred."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segue.errors import SegueError

if TYPE_CHECKING:
    from segue.reporting.tables.tool_comparison import ToolComparison

MAX_NOTES = 20


def compare(
    labels: Annotated[
        str, typer.Argument(metavar="LABELS", help="Label images: a folder, a file, or a pattern in quotes.")
    ],
    masks: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME=MASKS...",
            help="A tool and its label images of the same names, or the folder of a finished run; the first is the "
            "one that others are compared with.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="PAGE.html", help="The page; a table is put beside it.")],
    images: Annotated[
        str | None, typer.Option("--images", help="The images, for examples and for runs: a folder or a pattern.")
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            "--group",
            metavar="PATTERN",
            help="Named parts of the names that are the group, such as '{well}_*', or a regular expression with one "
            "group; default: each image is its own group.",
        ),
    ] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", help="Compare classes of pixels: background,NAME,…; default: objects.")
    ] = None,
    margin: Annotated[
        float | None, typer.Option("--margin", help="Within which scores from 0 to 1 are equivalent, such as 0.02.")
    ] = None,
    number_parts: Annotated[
        list[str] | None,
        typer.Option("--number-parts", help="A tool, or labels, whose masks become objects: parts are numbered."),
    ] = None,
    keep_numbers: Annotated[
        list[str] | None,
        typer.Option("--keep-numbers", help="A tool, or labels, whose numbers are objects whatever they look like."),
    ] = None,
) -> None:
    """Compare label images made by any tools, or runs, on the same labeled images: a page and a table."""
    from segue import api
    from segue.evaluation.tools import ToolsSpec

    spec = ToolsSpec(
        classes=tuple(name.strip() for name in classes.split(",")) if classes else (),
        number_parts=tuple(number_parts or ()),
        keep_numbers=tuple(keep_numbers or ()),
        group=group,
    )
    result = api.compare(labels, _by_name(masks), images=images, out=out, spec=spec, margin=margin)
    for note in result.counts.notes[:MAX_NOTES]:
        print(f"note: {note}", file=sys.stderr)
    if len(result.counts.notes) > MAX_NOTES:
        print(f"… and {len(result.counts.notes) - MAX_NOTES} more notes, on the page", file=sys.stderr)
    print(_summary(result))
    print(f"page: {out}, table: {out.with_suffix('.csv')}")


def _by_name(masks: list[str]) -> dict[str, str]:
    tools: dict[str, str] = {}
    for text in masks:
        name, equals, place = text.partition("=")
        if not equals or not name.strip() or not place:
            raise SegueError(f"{text}: names no tool; write NAME=MASKS, such as cellpose=masks/cellpose.")
        if name.strip() in tools:
            raise SegueError(f"{text}: the tool '{name.strip()}' is given twice; call one something else.")
        tools[name.strip()] = place
    return tools


def _summary(result: ToolComparison) -> str:
    """Returns the main scores of all images together, a line per tool, and how they differ from the first."""
    from segue.cli.describe import format_table
    from segue.reporting.formatting import format_number
    from segue.reporting.tables.tool_comparison import SAME

    names = result.main_scores
    rows = []
    for tool in result.tools:
        cells = []
        for name in names:
            row = result.score_of(tool, name)
            ends = [format_number(float(row[f"pooled_{end}"])) for end in ("low", "high")]
            interval = "" if "–" in ends else f" [{', '.join(ends)}]"
            cells.append(f"{format_number(float(row['pooled']))}{interval}")
        rows.append((tool, *cells))
    lines = [format_table([("tool", *names), *rows])]
    for row in (result.difference_of(tool, names[0]) for tool in result.tools[1:]):
        tools = f"{row['tool']} − {row['reference']}, {names[0]}"
        if row["conclusion"] == SAME:
            lines.append(f"{tools}: {SAME}")
            continue
        ends = ", ".join(format_number(row[f"pooled_{end}"], signed=True) for end in ("low", "high"))
        lines.append(
            f"{tools}: {format_number(row['pooled'], signed=True)} [{ends}], "
            f"better on {row['wins']} of {row['wins'] + row['losses'] + row['ties']} images"
            + (f": {row['conclusion']}" if row["conclusion"] else "")
        )
    unit = "group" if result.counts.spec.group else "image"
    return "\n".join([*lines, f"intervals: 95 %, over {result.groups} {unit}s"])
