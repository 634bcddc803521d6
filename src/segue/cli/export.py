"""`segue export`: a run as a file for other programs; heavy imports are deferred."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="The folder of a finished run, or a shipped model's name.")
    ],
    out: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="model.onnx, model.pt (TorchScript), model.zip (bioimage.io) or a folder."),
    ],
    format: Annotated[
        str | None,
        typer.Option("--format", help="onnx, torchscript, bioimageio or folder; default: by the suffix of OUT."),
    ] = None,
    tta: Annotated[
        bool | None,
        typer.Option(help="Export the mean over the eight rotations and reflections; else as the run says."),
    ] = None,
    card: Annotated[
        Path | None, typer.Option("--card", help="Its card as Markdown; default: the run's, or one of its facts.")
    ] = None,
    image: Annotated[
        Path | None, typer.Option("--image", help="Of a package: an image for its cover and test tensors.")
    ] = None,
    license: Annotated[
        str | None, typer.Option("--license", help="Of a package: an SPDX identifier; default: the run's.")
    ] = None,
    author: Annotated[
        list[str] | None,
        typer.Option("--author", help="Of a package: 'Name' or 'Name, Affiliation'; may be repeated."),
    ] = None,
    postprocessing: Annotated[
        bool,
        typer.Option(
            "--postprocessing",
            help="Of a package of flows or rays: declare that of cellpose or stardist, which its test then needs.",
        ),
    ] = False,
) -> None:
    """Write a run for other programs: ONNX, TorchScript, a bioimage.io package, or a folder in half precision."""
    from segue import api

    api.export(
        run,
        out,
        format=format,
        tta=tta,
        card=card,
        image=image,
        license=license,
        authors=author or (),
        postprocessing=postprocessing,
        log=lambda note: print(f"note: {note}", file=sys.stderr, flush=True),
    )
    print(f"model: {out}")
