"""`segue predict`: a finished run applied to image files; heavy imports are deferred."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from segue.cli.progress import open_progress
from segue.errors import SegueError

MAX_NOTES = 20
MAX_ERRORS = 10
REASONS = {"at_edge": "at an image's edge", "joined": "joined from tiles", "low_confidence": "of low confidence"}


def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The folder of a finished run.")],
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGES...", help="Files, folders, OME-Zarr, or patterns in quotes, such as 'a/*.tif'."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="The folder to write; may be continued.")],
    format: Annotated[
        str, typer.Option("--format", help="Of labels: tiff, ome-tiff, ome-zarr or ome-zarr-0.4.")
    ] = "tiff",
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Write that of each class.")] = False,
    tta: Annotated[
        bool | None,
        typer.Option(
            help="Average over the eight rotations and reflections, eight times as long; else as the model says."
        ),
    ] = None,
    rescale: Annotated[
        bool, typer.Option("--rescale", help="Resample to the pixel size of the training where both are known.")
    ] = False,
    table: Annotated[str, typer.Option("--table", help="Of tables: csv or parquet.")] = "csv",
    write: Annotated[
        list[str] | None,
        typer.Option(
            "--write",
            help="Objects for other programs: geojson, geojson-gz, imagej-roi, coco, geoparquet; several by commas.",
        ),
    ] = None,
    annotations: Annotated[
        bool, typer.Option("--annotations", help="In GeoJSON, objects are QuPath's annotations, not detections.")
    ] = False,
    workers: Annotated[
        int, typer.Option("--workers", "-w", min=1, help="Images at a time; one image uses all cores.")
    ] = 1,
    scheduler: Annotated[str | None, typer.Option("--scheduler", help="Address of a running Dask scheduler.")] = None,
) -> None:
    """Predict images: labels, overlays, and tables of objects and of counts."""
    from segue import api

    with open_progress() as report:
        done = api.predict_files(
            model,
            images,
            out,
            format=format,
            probabilities=probabilities,
            tta=tta,
            rescale=rescale,
            table=table,
            write=write or (),
            annotations=annotations,
            workers=workers,
            scheduler=scheduler,
            progress=lambda finished, total, share: report("images", finished, total, share),
        )
    for note, names in list(done.notes.items())[:MAX_NOTES]:
        images = names[:1] if len(names) == 1 else [f"{len(names)} images, such as {names[0]}"] if names else []
        print(": ".join(["note", *images, note]), file=sys.stderr)
    if len(done.notes) > MAX_NOTES:
        print(f"… and {len(done.notes) - MAX_NOTES} more notes", file=sys.stderr)
    print("\n".join(_summary(done, out, table)))
    if done.errors:
        listed = "\n  ".join(done.errors[:MAX_ERRORS])
        more = f"\n  … and {len(done.errors) - MAX_ERRORS} more" if len(done.errors) > MAX_ERRORS else ""
        raise SegueError(f"{out}: {len(done.errors)} image(s) could not be predicted:\n  {listed}{more}")


def _summary(done: Any, out: Path, table: str) -> list[str]:
    skipped = f", {done.skipped} were finished before" if done.skipped else ""
    lines = [f"{done.predicted} image(s) predicted{skipped}: {out}"]
    objects = sum(row.get("objects", 0) for row in done.rows)
    if any("objects" in row for row in done.rows):
        counts = {text: sum(row.get(name, 0) for row in done.rows) for name, text in REASONS.items()}
        listed = ", ".join(f"{count} {text}" for text, count in counts.items() if count)
        uncertain = sum(row.get("uncertain", 0) for row in done.rows)
        lines.append(f"{objects} objects, the borders of {uncertain} uncertain{f' ({listed})' if listed else ''}")
    return [*lines, f"tables: {out / f'images.{table}'}" + (f", {out / f'objects.{table}'}" if objects else "")]
