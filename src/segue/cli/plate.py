"""`segue film` and `segue count`: a finished run applied to wells; heavy imports are deferred."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segue.cli.progress import open_progress
from segue.errors import SegueError


def film(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    out: Annotated[
        list[Path] | None,
        typer.Option("--out", "-o", help="A .mp4 or .gif film, or a .png sheet of frames; default: film.mp4."),
    ] = None,
    dataset: Annotated[Path | None, typer.Option("--dataset", help="A dataset (.h5) with whole images.")] = None,
    field: Annotated[
        str | None,
        typer.Option("--field", help="A micrograph of it, such as P1/A1/t000; needs a run with keep_epochs."),
    ] = None,
    crop: Annotated[str | None, typer.Option("--crop", help="Part of the field: y,x,height,width in px.")] = None,
    rate: Annotated[float | None, typer.Option("--fps", help="Epochs per second; default: a film of 12 s.")] = None,
) -> None:
    """Film how a run classifies a field, epoch by epoch, with its precision-recall curves."""
    from segue import api

    part = None if crop is None else _crop(crop)
    with open_progress() as report:
        written = api.film(
            run, *(out or [Path("film.mp4")]), dataset=dataset, field=field, crop=part, frames_per_s=rate,
            progress=lambda done, total: report("epochs", done, total),
        )  # fmt: skip
    print(f"film: {', '.join(map(str, written))}")


def _crop(text: str) -> tuple[int, int, int, int]:
    try:
        y, x, height, width = map(int, text.split(","))
    except ValueError:
        raise SegueError(
            f"--crop {text}: is not y,x,height,width; write four whole numbers of pixels, such as 0,0,512,512."
        ) from None
    return y, x, height, width


def count(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="A dataset with whole images of wells.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The table: .csv or .parquet.")] = Path("counts.csv"),
    truth: Annotated[
        Path | None,
        typer.Option("--truth", metavar="FOLDER", help="Folder of the synthetic plate, to compare with its truth."),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="Draw the counts over time: .png, .svg or .pdf.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option("--page", help="Write figure, errors and notes as one HTML page.")
    ] = None,
    objects: Annotated[
        Path | None, typer.Option("--objects", help="A run with a target of objects, to find the nuclei.")
    ] = None,
    tune_on: Annotated[
        Path | None, typer.Option("--tune-on", metavar="FILE", help="A dataset with stained wells, to tune on.")
    ] = None,
    by: Annotated[str | None, typer.Option("--by", help="Draw one panel per value of this condition.")] = None,
    value: Annotated[str, typer.Option("--value", help="count, fraction or density_per_mm2.")] = "count",
) -> None:
    """Count the cells of each class in every well and time point, beside the true counts if they are known."""
    from segue import api
    from segue.plates.counting.count import CountOptions

    options = CountOptions(objects=objects, tune_on=tune_on, truth=truth, figure=figure, page=page, by=by, value=value)
    with open_progress() as report:
        lines = api.count(run, dataset, out, options, progress=lambda done, total: report("images", done, total))
    print("\n".join(lines))
