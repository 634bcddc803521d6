"""`segue models`: those that ship with segue, and runs made ready for others; heavy imports are deferred."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="List the models that ship with segue, or make one of a run.")


@app.callback(invoke_without_command=True)
def list_models(context: typer.Context) -> None:
    """List the models that ship with segue."""
    from segue.cli.describe import align_rows
    from segue.formatting import format_bytes
    from segue.zoo.shipped import CARD, shipped_models

    if context.invoked_subcommand is not None:
        return
    rows = []
    for name, folder in shipped_models().items():
        title = (folder / CARD).read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        size = sum(file.stat().st_size for file in folder.iterdir())
        rows.append((name, f"{title} ({format_bytes(size)}; card: {folder / CARD})"))
    print(align_rows(rows) if rows else "no model ships with this version")
    print("segue predict NAME IMAGES -o OUT, segue fit … --from NAME, segue inspect NAME")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.")],
    card: Annotated[
        Path | None, typer.Option("--card", help="Its card as Markdown; by default the run's, as of segue fit.")
    ] = None,
) -> None:
    """Write a run as a model for others: weights in half precision, what predicts with them, and a card."""
    from segue import api

    api.export(run, out, card=card)
    print(f"model: {out}")
