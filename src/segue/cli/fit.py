"""`segue fit`: a folder in, a model and an answer out; heavy imports are deferred."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from segue.cli.progress import open_progress


def fit(
    images: Annotated[str, typer.Argument(metavar="IMAGES", help="A folder, or a pattern such as 'a/{stem}.tif'.")],
    labels: Annotated[
        str,
        typer.Argument(
            metavar="LABELS", help="Label images or annotations of the same names, or a file of all (COCO, ilastik)."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="MODEL", help="The model's folder; may be continued.")],
    minutes: Annotated[float, typer.Option("--minutes", min=0.1, help="The time to take, about.")] = 10.0,
    parents: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="MODEL", help="A model that ships (nuclei) or a finished run; repeatable."),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option("--group", metavar="PATTERN", help="Images of a group are never divided: '{group}_s*', or regex."),
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", help="What labels are: instances or classes; found out by default.")
    ] = None,
    curve: Annotated[
        bool, typer.Option("--curve", help="Train on fewer labels too, and say what more of them are expected to give.")
    ] = False,
    rank: Annotated[bool, typer.Option("--next", help="Rank the images without labels: which to label next.")] = False,
    license: Annotated[str, typer.Option("--license", help="Of the images; the model has it with its parents'.")] = "",
) -> None:
    """Look at images and labels, train within the time, and keep the model that held-out images show to be best."""
    print(f"looking at {images} and {labels}", file=sys.stderr, flush=True)  # before imports that take seconds
    from segue import api

    with open_progress() as report:
        result = api.fit(
            images,
            labels,
            out,
            minutes=minutes,
            parents=parents or (),
            group=group,
            kind=kind,
            license=license,
            curve=curve,
            rank=rank,
            progress=report,
            log=lambda line: print(line, file=sys.stderr, flush=True),
        )
    print("\n".join(result.answer))
    print(f"model: {result.model}\npage: {result.page}\nnext: edit {result.study}, then segue study run {result.study}")
