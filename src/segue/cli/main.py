"""The command line: each command reads its arguments, calls one function and prints the result.

Heavy imports are deferred until a command needs them. Exit code 2: a mistake of the user; 1: a bug or a failed stage.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue import device, signals
from segue.cli import draw, models
from segue.cli.compare import compare
from segue.cli.export import export
from segue.cli.fit import fit
from segue.cli.live_page import live_page
from segue.cli.plate import count, film
from segue.cli.predict import predict
from segue.cli.progress import open_progress
from segue.errors import SegueError, print_warnings
from segue.formatting import format_duration
from segue.storage import as_path, refusal, require_table_file

if TYPE_CHECKING:
    from segue.reporting.analysis.result import Analysis
    from segue.study.executor import Event, Summary

CORES = device.cpu_count()
INTERRUPTED = 130  # the exit code of a command ended by Ctrl-C
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train, transfer, compare and apply segmentation networks for microscopy.",
)
study_app = typer.Typer(no_args_is_help=True, help="Plan and run a study: a grid of trainings that share parents.")


app.add_typer(study_app, name="study")


app.add_typer(draw.app, name="draw")
app.add_typer(models.app, name="models")


Spec = Annotated[Path, typer.Argument(metavar="SPEC.toml", help="The TOML specification.")]
Study = Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study file.")]
OutFile = Annotated[Path, typer.Argument(metavar="OUT.h5", help="The dataset to write.")]
Workers = Annotated[int, typer.Option("--workers", "-w", min=1, help="Worker processes.")]
StorePath = Annotated[
    Path | None, typer.Option("--store", help="Folder of runs; default: runs/ next to the specification.")
]


def main() -> None:
    """Runs the command line; prints a mistake of the user as one message."""
    try:
        with warnings.catch_warnings(), signals.ending_on_signals():
            print_warnings()
            app()
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            print("segue: interrupted; run the same command again to resume.", file=sys.stderr)
        raise
    except signals.Terminated as ended:
        print(f"segue: ended by {ended.name}; run the same command again to resume.", file=sys.stderr)
        sys.exit(ended.exit_code)
    except SegueError as error:
        print(f"segue: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG or error.filename is None:
            raise
        print(f"segue: {refusal(Path(error.filename), error)}", file=sys.stderr)
        sys.exit(2)


def _table_file(path: Path | None) -> Path | None:
    """Refuses what no table can be written to before the work of making one."""
    if path is not None:
        require_table_file(path)
    return path


@app.command()
def simulate(
    spec: Spec,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The dataset to write; a folder if the file has `each`.")],
    workers: Workers = CORES,
    batch: Annotated[
        int | None,
        typer.Option("--batch", min=1, help="Waves computed at once by a worker: 8 on a GPU, 1 on a CPU unless given."),
    ] = None,
) -> None:
    """Simulate an HRTEM series into a dataset."""
    from segue import api

    with open_progress() as report:
        api.simulate(
            spec,
            out,
            workers=workers,
            batch=batch,
            progress=lambda done, total: report("structures", done, total),
            log=lambda note: print(note, file=sys.stderr, flush=True),
        )
    for dataset in sorted(out.glob("*.h5")) if out.is_dir() else [out]:
        _inspect_dataset(dataset)


def _print_note(note: str) -> None:
    print(f"note: {note}", file=sys.stderr, flush=True)


@app.command()
def prepare(spec: Spec, out: OutFile, workers: Workers = 1) -> None:
    """Turn folders of images and annotations into a dataset."""
    from segue import api

    with open_progress() as report:
        api.prepare(
            spec,
            out,
            workers=workers,
            progress=lambda done, total: report("micrographs", done, total),
            log=_print_note,
        )
    _inspect_dataset(out, notes=False)


@app.command()
def match(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="The dataset whose images are changed (.h5).")],
    reference: Annotated[Path, typer.Argument(metavar="REFERENCE", help="The dataset that they are to look like.")],
    out: OutFile,
    spectrum: Annotated[bool, typer.Option(help="Match the radial power spectrum, by a filter.")] = True,
    histogram: Annotated[bool, typer.Option(help="Match the histogram, by mapping values.")] = True,
    where: Annotated[
        list[str] | None, typer.Option("--where", help="Only samples of a condition, such as defocus_nm=-10.")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="Draw both domains, before and after: .png, .svg or .pdf.")
    ] = None,
) -> None:
    """Make a dataset whose images agree with another's in power spectrum and histogram; print how far they do."""
    from segue import api

    with open_progress() as report:
        api.match(
            dataset,
            reference,
            out,
            conditions=dict(_condition(text) for text in where or ()),
            spectrum=spectrum,
            histogram=histogram,
            figure=figure,
            progress=lambda done, total: report("images", done, total),
        )
    _inspect_dataset(out)


@app.command()
def plate(
    spec: Annotated[Path | None, typer.Argument(metavar="SPEC.toml", help="The TOML specification.")] = None,
    out: Annotated[Path | None, typer.Argument(metavar="OUT.h5", help="The dataset to write.")] = None,
    synthetic: Annotated[
        Path | None,
        typer.Option(
            "--synthetic",
            metavar="FOLDER",
            help="Make a synthetic screen with known truth in this folder; SPEC.toml is optional.",
        ),
    ] = None,
    workers: Workers = CORES,
) -> None:
    """Turn a stained plate into a dataset: stitched, labeled from its stains, cut into tiles."""
    from segue import api

    if synthetic is not None:
        if out is not None:
            raise SegueError("plate: --synthetic FOLDER makes raw images only; leave OUT.h5 out.")
        with open_progress() as report:
            plate_spec = api.synthetic_plate(
                synthetic, spec, workers=workers, progress=lambda done, total: report("wells", done, total)
            )
        print(f"raw images, truth and a specification: {synthetic}\nnext: segue plate {plate_spec} OUT.h5")
        return
    if spec is None or out is None:
        raise SegueError("plate: give SPEC.toml and OUT.h5, or --synthetic FOLDER for a synthetic plate.")
    with open_progress() as report:
        api.plate(spec, out, workers=workers, progress=report)
    _inspect_dataset(out)
    print("\n".join(api.plate_summary(out)))
    print(f"report and pictures: {out.with_name(f'{out.stem}.plate')}")


def _inspect_dataset(path: Path, *, notes: bool = True) -> None:
    from segue.data import summary

    print(summary.describe(path, notes=notes))


@app.command()
def inspect(
    what: Annotated[
        str,
        typer.Argument(
            help="A dataset (.h5), a network's name, a run's folder, a specification (.toml: stage, study, plate, "
            "prepare, simulate), or 'schedule'."
        ),
    ],
    which: Annotated[
        str | None, typer.Argument(help="For 'schedule': its name, or the TOML file of a stage or study.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Write a contact sheet of a dataset, or draw a schedule, as PNG.")
    ] = None,
    channels: Annotated[int | None, typer.Option("--channels", min=1, help="Channels of images; default: 1.")] = None,
    classes: Annotated[int | None, typer.Option("--classes", min=1, help="Scores per pixel; default: 2.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Images per step; default: 1.")] = None,
    side: Annotated[int | None, typer.Option("--size", min=1, help="Side of the images in px; default: 256.")] = None,
    lr: Annotated[float | None, typer.Option("--lr", help="Learning rate of a schedule; default: 0.05.")] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", min=1, help="Epochs of a schedule; default: 100.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the network or schedule, e.g. width=16."),
    ] = None,
) -> None:
    """Describe a dataset, a network, a schedule, a run, a stage, a study or a plate."""
    from segue.cli import describe

    if what == "schedule":
        print(describe.describe_schedules(which, settings or (), lr=lr, epochs=epochs, sheet=sheet))
        return
    if which is not None or lr is not None or epochs is not None:
        raise SegueError(
            f"inspect {what}: a second name, --lr and --epochs apply to a schedule; write: segue inspect schedule NAME"
        )
    if sheet is not None:
        from segue.data.summary import contact_sheet

        contact_sheet(Path(what), sheet)
        print(f"contact sheet: {sheet}")
        return
    options = {"channels": channels, "classes": classes, "batch": batch, "side_px": side}
    sizes = {name: value for name, value in options.items() if value is not None}
    plate = None if sizes or settings else describe.describe_plate(Path(what))
    if plate is not None:
        print(plate.text)
        if plate.errors:
            raise SegueError(
                f"{what}: `segue plate` would refuse it because of {plate.errors} of the above problems; correct them."
            )
        return
    print(describe.describe(what, settings=settings or (), sizes=describe.Sizes(**sizes) if sizes else None))


@app.command()
def train(
    spec: Spec,
    run: Annotated[
        Path | None,
        typer.Argument(metavar="RUN", help="The run folder to write; default: in the store, named by its key."),
    ] = None,
    store: StorePath = None,
    checkpoint_s: Annotated[
        float, typer.Option("--checkpoint-every", min=0, help="Seconds between checkpoints.")
    ] = 60.0,
) -> None:
    """Train one stage into a run folder."""
    from segue import api

    folder = api.train(
        spec, run, store=store, checkpoint_s=checkpoint_s, log=lambda line: print(line, file=sys.stderr, flush=True)
    )
    if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun starts, one prints
        from segue.cli import describe

        print(describe.describe(str(folder)))


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    dataset: Annotated[
        Path,
        typer.Argument(
            metavar="DATASET_OR_FOLDER",
            help="A dataset (.h5), a folder with images/ and labels/, or a specification of `prepare` (.toml).",
        ),
    ],
    part: Annotated[
        str | None, typer.Option("--part", help="test or validation, by the split of the run; default: test.")
    ] = None,
    where: Annotated[list[str] | None, typer.Option("--where", help="A condition, such as defocus_nm=-10.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Of a folder: a .csv or .parquet file, a row per image.", callback=_table_file
        ),
    ] = None,
) -> None:
    """Score a run on a dataset, or on a folder of images and label images."""
    from segue import api
    from segue.cli import describe

    if as_path(dataset).is_dir() or dataset.suffix.lower() == ".toml":
        if part is not None or where:
            raise SegueError(f"{dataset}: has no parts and conditions, as a dataset has; leave --part and --where out.")
        _evaluate_folder(run, dataset, out)
        return
    if out is not None:
        raise SegueError(f"{dataset}: --out writes the scores of the images of a folder; leave it out for a dataset.")
    part = part or "test"
    conditions = dict(_condition(text) for text in where or ())
    result = api.evaluate(
        run,
        dataset,
        part=part,
        conditions=conditions,
        log=lambda sentence: print(f"WARNING: {sentence}", file=sys.stderr, flush=True),
    )
    print(f"{part} part of {dataset}: {result['samples']} samples of {result['groups']} groups")
    print(describe.describe_scores(result["scores"], result["classes"]))


def _evaluate_folder(run: Path, folder: Path, out: Path | None) -> None:
    from segue import api
    from segue.cli import describe

    if out is not None and as_path(out).exists():
        raise SegueError(f"{out}: exists, and nothing is overwritten; choose another file.")
    result = api.evaluate_folder(run, folder)
    print("\n".join(describe.describe_folder_scores(result, str(folder))))
    if out is not None:
        from segue.storage import write_table

        write_table(result.images, out)
        print(f"{len(result.images)} rows: {out}")


def _condition(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise SegueError(f"--where {text}: found no '='; write a condition as name=value, such as defocus_nm=-10.")
    try:
        return name, float(value) if "." in value or "e" in value else int(value)
    except ValueError:
        return name, value


app.command()(fit)
app.command()(predict)
app.command()(export)
app.command()(compare)
app.command()(film)
app.command()(count)


@study_app.command("plan")
def study_plan(
    study: Study,
    store: StorePath = None,
    why: Annotated[bool, typer.Option("--why", help="Show why each stage would run.")] = False,
    force: Annotated[bool, typer.Option("--force", help="With --why: as if all stages ran again.")] = False,
) -> None:
    """Count the stages that a study would run, and the disk space needed. Runs nothing."""
    from segue import api
    from segue.cli import describe

    planned = api.plan(study, store=store)
    print(describe.describe_plan(planned))
    if why:
        print(describe.describe_reasons(planned.why(force)))


@study_app.command("run")
def study_run(
    study: Study,
    store: StorePath = None,
    workers: Workers = CORES,
    scheduler: Annotated[str | None, typer.Option("--scheduler", help="Address of a running Dask scheduler.")] = None,
    cluster: Annotated[
        Path | None,
        typer.Option("--cluster", metavar="CLUSTER.toml", help="Submit workers to Slurm or PBS as this file says."),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option("--budget", help="Stop when this is spent, such as 8h or 2.5kWh; the same command goes on."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Train finished stages again.")] = False,
    side_by_side: Annotated[
        int | None,
        typer.Option(
            "--side-by-side",
            min=1,
            help="Maximum number of models that share a pass over the data; default: as many as saves time.",
        ),
    ] = None,
    page: Annotated[
        Path | None, typer.Option("--page", help="Write the report here, again and again as trainings finish.")
    ] = None,
) -> None:
    """Run every stage of a study that is not finished; resume interrupted ones."""
    summary = _run(
        study,
        store,
        workers=workers,
        scheduler=scheduler,
        cluster=cluster,
        budget=budget or (),
        force=force,
        side_by_side=side_by_side,
        page=page,
    )
    if page is not None and not summary.failed_datasets:
        from segue import api

        print(f"report: {api.report(study, page, store=store).absolute()}")
    sys.exit(0 if summary.complete else 1)


def _run(
    study: Path,
    store: Path | None,
    *,
    workers: int,
    scheduler: str | None = None,
    cluster: Path | None = None,
    budget: Sequence[str] = (),
    force: bool = False,
    side_by_side: int | None = None,
    page: Path | None = None,
) -> Summary:
    from segue import api

    with open_progress() as report, live_page(study, store, page) as live:

        def show(event: Event) -> None:
            report(event.text, event.done, event.total, event.share, event.left_s)
            if live is not None and event.text == "trainings":
                live.update(event.done)

        summary = api.run_study(
            study,
            store=store,
            progress=show,
            log=_print_note,
            workers=workers,
            scheduler=scheduler,
            cluster=cluster,
            budget=budget,
            force=force,
            side_by_side=side_by_side,
        )
    if summary.complete and not summary.finished:
        print("nothing to do: every stage is finished")
    else:
        print(f"{summary.finished} trainings finished in {format_duration(summary.seconds)}")
    if summary.stopped:
        print(f"{summary.stopped}; {summary.left} trainings are left: run the same command again to go on")
    for name, reason in summary.failed_datasets.items():
        print(f"dataset {name} failed: {reason}")
    if summary.failed or summary.blocked:
        option = f" --store {store}" if store is not None else ""
        print(f"{summary.failed} failed and {summary.blocked} were not run; see: segue study status {study}{option}")
    return summary


@study_app.command("status")
def study_status(
    study: Study,
    store: StorePath = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on until the study has ended or Ctrl-C, and show what finishes.")
    ] = False,
) -> None:
    """Show which stages of a study are finished, running or failed, and why they failed."""
    from segue import api
    from segue.cli import describe

    plan = api.plan(study, store=store)
    if watch:
        from segue.cli.watch import watch as watch_study

        watch_study(plan)
    print(describe.describe_status(plan))


@study_app.command("table")
def study_table(
    study: Study,
    store: StorePath = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="A .parquet or .csv file; default: print CSV.", callback=_table_file),
    ] = None,
    per_image: Annotated[
        bool, typer.Option("--per-image", help="One row per run, domain and test image, with the scores of the image.")
    ] = False,
) -> None:
    """Write the tidy table: one row per run and domain it was scored on."""
    from segue import api

    table = api.table(study, store=store, per_image=per_image, log=_print_note)
    if out is None:
        print(table.to_csv(index=False), end="")
        return
    from segue.storage import write_table

    write_table(table, out)
    print(f"{len(table)} rows: {out}")


StudyOrTable = Annotated[
    Path, typer.Argument(metavar="STUDY_OR_TABLE", help="A study file, or a .parquet or .csv table.")
]
MetricName = Annotated[str | None, typer.Option("--metric", help="The column to compare by; default: the loss.")]
Columns = Annotated[
    Path | None, typer.Option("--columns", help="TOML file that maps the columns of a table made elsewhere.")
]
Where = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="COLUMN=VALUE", help="Use these rows only, such as transfer.images=64."),
]
Without = Annotated[
    list[str] | None,
    typer.Option("--without", metavar="COLUMN=VALUE", help="Leave out these rows; notes count them."),
]
Stage = Annotated[str | None, typer.Option("--stage", help="One stage; default: all that it applies to.")]


@study_app.command("analyze")
def study_analyze(
    what: StudyOrTable,
    name: Annotated[
        str,
        typer.Argument(
            metavar="ANALYSIS",
            help="expected, stated, matrix, factors, tests, variance, spread, forgetting, asymmetry, labels, ranks, "
            "best-of-k, regret, selection, images or advice.",
        ),
    ],
    stage: Stage = None,
    store: StorePath = None,
    metric: MetricName = None,
    columns: Columns = None,
    where: Where = None,
    without: Without = None,
    rule: Annotated[
        list[str] | None, typer.Option("--rule", help="For regret: a setting to fix, such as transfer.freeze=none.")
    ] = None,
    aggregate: Annotated[
        str, typer.Option(help="For matrix: median, mean, min, max, std, p05, p25, p75, p95 or count.")
    ] = "median",
    adjust: Annotated[str, typer.Option(help="For tests: holm, benjamini-hochberg or none.")] = "holm",
    margin: Annotated[
        float | None, typer.Option(help="For tests: the margin of equivalence, in units of the metric.")
    ] = None,
    select: Annotated[
        str,
        typer.Option(
            help="For best-of-k and regret: by which images the best is selected, validation, or paper for those "
            "reported, as in the published study."
        ),
    ] = "validation",
    log: Annotated[bool, typer.Option("--log", help="For variance: of the logarithm.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Write the first table, unrounded, as .csv or .parquet.", callback=_table_file
        ),
    ] = None,
) -> None:
    """Analyze results: matrices, effects, tests, spread, forgetting, asymmetry, ranks, regret, and more."""
    from segue import api
    from segue.reporting.analysis.tables import Options
    from segue.reporting.tables.selection import parse_conditions

    options = Options(aggregate, adjust, margin, select, log, parse_conditions(rule or [], "--rule") or None)
    results = api.analyze(
        what, name, stage=stage, store=store, metric=metric, columns=columns,
        options=options, where=where or [], without=without or [],
    )  # fmt: skip
    for result in results:
        _print_analysis(result)
    if out is not None:
        from segue.storage import write_table

        write_table(results[0].table, out)
        print(f"{len(results[0].table)} rows: {out}")


@study_app.command("advise")
def study_advise(
    what: StudyOrTable,
    target: Annotated[
        str | None, typer.Option("--target", help="The domain to transfer to; default: one not in the table.")
    ] = None,
    labels: Annotated[
        float | None, typer.Option("--labels", min=1, help="Labels in it, for training and validation together.")
    ] = None,
    stage: Annotated[str | None, typer.Option("--stage", help="The transfer; default: the last.")] = None,
    store: StorePath = None,
    metric: MetricName = None,
    columns: Columns = None,
    most: Annotated[int, typer.Option("--most", min=1, help="Settings to list.")] = 10,
) -> None:
    """Advise which source, rates and frozen part to choose for a transfer, and judge such advice."""
    from dataclasses import replace

    from segue import api

    advice = api.advise(what, target=target, labels=labels, stage=stage, store=store, metric=metric, columns=columns)
    _print_analysis(replace(advice.settings, table=advice.settings.table.head(most)))
    _print_analysis(advice.rules)
    if advice.labels is not None:
        _print_analysis(advice.labels)
    if advice.judged is None:
        print("Fewer than four target domains: the advice cannot be judged by leaving domains out.")
    else:
        _print_analysis(advice.judged)


def _print_analysis(analysis: Analysis) -> None:
    from segue.cli.describe import describe_analysis

    print(describe_analysis(analysis))


@app.command()
def report(
    what: Annotated[
        list[Path],
        typer.Argument(metavar="WHAT...", help="A study file, .parquet or .csv tables, or the folder of a run."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page to write.")] = Path("report.html"),
    store: StorePath = None,
    metric: MetricName = None,
    columns: Annotated[
        list[Path] | None,
        typer.Option("--columns", help="TOML file that maps the columns of tables made elsewhere; or one for each."),
    ] = None,
    where: Where = None,
    without: Without = None,
) -> None:
    """Write figures and tables of a study, or of a run, as one self-contained page."""
    from segue import api

    page = api.report(
        what, out, store=store, metric=metric, columns=columns or [], where=where or [], without=without or []
    )
    print(f"report: {page}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for its runs and its report.")] = Path("segue-demo"),
    workers: Workers = CORES,
) -> None:
    """Run the small study end to end: simulate, pretrain, transfer, compare, report."""
    from segue import api
    from segue.cli import describe

    study = demo_study()
    print(f"{study.name}: {api.plan(study, store=out / 'runs').study.spec.question}")
    print(describe.describe_plan(api.plan(study, store=out / "runs")))
    summary = _run(study, out / "runs", workers=workers, page=out / "report.html")
    if not summary.failed_datasets:
        page = api.report(study, out / "report.html", store=out / "runs")
        print(f"report: {page.absolute()}")
    sys.exit(0 if summary.complete else 1)


def demo_study() -> Path:
    """Returns the demo's study file: inside an installed package, or at the root of a checkout."""
    package = Path(__file__).resolve().parents[1]
    files = [folder / "studies" / "demo.toml" for folder in (package, package.parents[1])]
    for file in files:
        if file.is_file():
            return file
    raise SegueError(f"{files[0]}: the demo's study file is missing; install segue again.")
