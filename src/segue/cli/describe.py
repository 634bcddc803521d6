"""Human-readable summaries for `segue inspect`, `segue train` and `segue study`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segue import networks
from segue.cli import schedules
from segue.errors import SegueError
from segue.formatting import format_bytes
from segue.networks.registry import FAMILIES, SMP_DECODERS, NetworkSpec
from segue.spec import load, read_toml
from segue.storage import is_file
from segue.study.store import FailureRecord, read_record
from segue.training.run_folder import RunFolder
from segue.training.schedules import SCHEDULES
from segue.zoo.shipped import shipped_models

if TYPE_CHECKING:
    from segue.evaluation.folder import FolderScores
    from segue.reporting.analysis.result import Analysis
    from segue.study.plan import Plan


@dataclass(frozen=True)
class Sizes:
    """Sizes of a network's input and output, and of the step whose memory is estimated; `side_px` None: about 256."""

    channels: int = 1
    classes: int = 2
    batch: int = 1
    side_px: int | None = None


def describe(what: str, *, settings: Sequence[str] = (), sizes: Sizes | None = None) -> str:
    """Returns a summary of the file or folder, or of the network of that name; raises SegueError for neither.

    `settings` ("key=value") and `sizes` apply to a network's name only.
    """
    path = Path(what)
    if what in shipped_models() and not path.exists():
        path = shipped_models()[what]
    is_name = _is_network_name(what)
    if (settings or sizes) and not is_name:
        raise SegueError(
            f"inspect {what}: --set, --channels, --classes, --batch and --size apply to the name of a network; "
            "a file or a run has them already: leave them out."
        )
    if _is_run(path):
        return describe_run(path)
    if path.suffix == ".toml":
        table = read_toml(path)
        plate = describe_plate(path)
        if plate is not None:
            return plate.text
        if "stages" not in table and "data" in table:
            return describe_stage(path)
        kind = next((kind for kind, keys in MAKER_KEYS.items() if keys & set(table)), None)
        if kind is not None and "stages" not in table:
            return describe_preparation(path, kind)
        from segue.study.plan import plan_study

        return describe_plan(plan_study(path))
    if path.suffix.lower() == ".zip" and is_file(path):
        from segue.exporting.unpack import describe_package

        return describe_package(path)
    if is_file(path) or path.suffix in (".h5", ".hdf5"):
        from segue.data.summary import describe as describe_dataset

        return describe_dataset(path)
    if not is_name:
        raise SegueError(
            f"{what}: there is no such file or folder; give a dataset, a run, a study or a network's name."
        )
    return describe_network(networks.named(what, settings, context=f"inspect {what}"), sizes or Sizes())


def _is_run(path: Path) -> bool:
    try:
        return path.is_dir() or _working(path).path.is_dir()
    except (OSError, ValueError):  # a name that no folder can have
        return False


def _is_network_name(what: str) -> bool:
    """Returns whether `what` can only be a network's name; those of timm may have a dot, for the weights."""
    dotted = "." in what and what.partition("-")[0] not in (*FAMILIES, *SMP_DECODERS)
    return not (dotted or "/" in what or is_file(Path(what)) or _is_run(Path(what)))


def describe_stage(path: Path) -> str:
    """Returns a summary of a stage's file: its network for the data that it names, and its target."""
    from segue.data.dataset import Dataset
    from segue.targets.registry import build_target
    from segue.training.inputs.data import choose_layer
    from segue.training.spec import StageSpec

    spec = load(StageSpec, path)
    with Dataset(path.parent / spec.data[0].dataset) as dataset:
        layer, channels = choose_layer(dataset, spec.target), len(dataset.channels)
        counts = [1] * max(1, len(layer.names))  # weights of classes change no size
        target = build_target(
            spec.target,
            names=layer.names,
            instances=layer.kind == "instances",
            context=str(path),
            counts=counts,
            channels=channels,
        )
        networks.require_fit(spec.network, dataset.tile_shape, str(dataset.path))
        height, tile = dataset.tile_shape[-2], " × ".join(map(str, dataset.tile_shape))
    rows = [("target", f"{spec.target.name}, of the layer {layer.name}"), ("a tile", f"{tile} (C × H × W)")]
    return "\n".join(
        [align_rows(rows), describe_network(spec.network, Sizes(channels, target.channels, spec.batch, height))]
    )


MAKER_KEYS = {"prepare": {"images", "manifest", "tile_px"}, "simulate": {"structures", "specimen", "wave", "imaging"}}


def describe_preparation(path: Path, kind: str) -> str:
    """Returns what a specification of `segue prepare` or `segue simulate` would make, without decoding any image."""
    from segue.study.datasets import MAKERS, series_files

    maker, root = MAKERS[kind](), path.parent
    specs = [load(maker.spec, path)] if kind == "prepare" else [*series_files(path, root / "FOLDER").values()]
    inputs = [maker.inputs(spec, root) for spec in specs]
    counts = [maker.expected(spec, root, files) for spec, files in zip(specs, inputs, strict=True)]
    made = "a dataset" if len(specs) == 1 else f"{len(specs)} datasets"
    rows = [("makes", f"{made}: segue {kind} {path} {'OUT.h5' if len(specs) == 1 else 'FOLDER'}")]
    files = inputs[0]
    if kind == "prepare":
        groups = len({pair.group for pair in files.pairs})
        labeled = sum(pair.label is not None for pair in files.pairs)
        first = files.pairs[0]
        rows += [
            ("images", f"{len(files.pairs)}, {labeled} of them with labels"),
            ("groups", f"{groups}, e.g. {first.group} of {first.source}"),
        ]
    finished = sum(count["bytes"] for count in counts)  # one is made after another
    parts = max(count.get("bytes_while_making", count["bytes"]) - count["bytes"] for count in counts)
    rows += [
        ("tiles", f"{sum(count['tiles'] for count in counts):,}"),
        ("disk", f"up to {format_bytes(finished + parts)} meanwhile"),
    ]
    notes = [f"note: {note}" for note in files.notes] if kind == "prepare" else []
    return "\n".join([align_rows(rows), *notes])


@dataclass(frozen=True)
class PlateSummary:
    """Which images a plate's specification finds, and how many errors would make `segue plate` refuse it."""

    text: str
    errors: int


def describe_plate(path: Path) -> PlateSummary | None:
    """Returns a summary of a plate's specification: images found, missing, duplicate or wrong, its splits and tiles; of
    a synthetic plate its size. None if the file is not a specification of a plate."""
    if path.suffix != ".toml" or not is_file(path):
        return None
    table = read_toml(path)
    if "stages" in table or not ("files" in table or "synthetic" in table):
        return None
    from segue.plates import preflight
    from segue.plates.layout.discovery import describe as describe_layout
    from segue.plates.spec import PlateSpec

    spec, root = load(PlateSpec, path), path.parent
    if spec.synthetic is not None:
        layout, overlap = preflight.synthetic_layout(spec.synthetic), spec.synthetic.stage.overlap
        lines = [
            f"a synthetic plate; its dataset takes up to {format_bytes(preflight.estimate_size(spec, root)['bytes'])}"
        ]
    else:
        assert spec.files is not None  # the specification has one of the two
        layout, overlap = preflight.plate_layout(spec, spec.files, root, strict=False), spec.files.overlap
        lines = [describe_layout(layout)]
    problems = [*layout.errors, *layout.duplicates]
    if problems:
        return PlateSummary("\n".join(lines), len(problems))
    errors = preflight.errors(spec, layout, overlap=overlap)
    lines += [f"refused: {error}" for error in errors]
    lines += [f"WARNING: {warning}" for warning in preflight.warnings(spec, layout)]
    return PlateSummary("\n".join(lines), len(errors))


def describe_network(spec: NetworkSpec, sizes: Sizes) -> str:
    from segue.networks.analysis.summary import describe as describe_spec

    return align_rows(
        describe_spec(spec, channels=sizes.channels, classes=sizes.classes, batch=sizes.batch, side_px=sizes.side_px)
    )


def describe_schedules(
    which: str | None, settings: Sequence[str], *, lr: float | None, epochs: int | None, sheet: Path | None
) -> str:
    """Returns the description of a schedule by name, or of each in a stage's or study's TOML file.

    Draws them to `sheet`, a PNG, where one is given. `settings` ("key=value"), `lr` and `epochs` go with a name only.
    """
    if which is None:
        if settings or lr is not None or epochs or sheet:
            raise SegueError(
                f"inspect schedule: no schedule is named; give one of {', '.join(SCHEDULES)}, or a TOML file."
            )
        return align_rows([(name, spec.summary) for name, spec in SCHEDULES.items()])
    path = Path(which)
    if path.suffix == ".toml" or is_file(path):
        if settings or lr is not None or epochs:
            raise SegueError(f"{path}: already defines rate, epochs and settings; leave --lr, --epochs and --set out.")
        plotted = schedules.schedules_of_file(path)
    else:
        plotted = [schedules.schedule_by_name(which, settings, lr=lr, epochs=epochs)]
    texts = [align_rows(schedules.rows(course)) for course in plotted]
    if sheet is not None:
        schedules.draw(plotted, sheet)
    texts.append(f"drawing: {sheet}" if sheet is not None else "to draw it: --sheet FILE.png")
    return "\n\n".join(texts)


def _working(folder: Path) -> RunFolder:
    """Returns the working folder of an unfinished training, given its name with or without `.running`."""
    return RunFolder(folder.with_name(folder.name.removesuffix(".running"))).working


def describe_unfinished(run: RunFolder) -> str:
    """Returns the progress of a training that is running or was interrupted; `run` is its working folder."""
    from segue.training import checkpoint

    stage = run.read(run.spec)["stage"]
    progress = checkpoint.newest_progress(run.state)
    rows = [("run", f"{run.path}, running or interrupted"), ("network", stage["network"]["name"])]
    if progress is None:
        rows.append(("progress", f"no checkpoint written yet; epochs: {stage['epochs']}"))
        return align_rows(rows)
    rows.append(("progress", f"epoch {progress.epoch + 1}, step {progress.step + 1}, of {stage['epochs']} epochs"))
    rows.append(("trained for", f"{progress.seconds:.0f} s, interrupted {progress.interruptions} times"))
    last = progress.history[-1] if progress.history else {}
    columns = ("lr", "train_loss", "validation_loss", "validation_dice_mean")
    rows += [(name.replace("_", " "), number(last[name])) for name in columns if name in last]
    return align_rows(rows)


def describe_run(folder: Path) -> str:
    run, working = RunFolder(folder), _working(folder)
    if not run.is_finished and working.spec.is_file():
        return describe_unfinished(working)
    if not run.is_finished:
        raise SegueError(
            f"{folder}: is not a finished run (no metrics.json); give the folder that `segue train` wrote."
        )
    described, metrics = run.read(run.spec), run.read(run.metrics)
    timing, environment = run.read(run.timing), run.read(run.environment)
    stage = run.read_stage().model_dump(mode="json", by_alias=True)
    model, labels, counted = described["model"], metrics["labels"], metrics["parameters"]
    rows = [
        ("run", f"{folder}  ({described['key']})"),
        ("network", f"{stage['network']['name']}, {counted['network']['parameters']:,} parameters, "
                    f"{counted['network']['trainable']:,} trained"),
        ("frozen", ", ".join(stage["freeze"]) or "nothing"),
        ("target", describe_target(stage["target"], model["names"])),
        ("labels spent", f"{labels['train']} {labels['unit']} to train, {labels['validation']} to validate"),
        ("selected", f"epoch {metrics['selected_epoch']} of {metrics['epochs']}, by {metrics['selected_by']}"
                     + (f"; stopped early, of {stage['epochs']} epochs requested" if metrics["stopped_early"] else "")),
        ("time", f"{timing['seconds']:.1f} s, {timing['images_per_s']:.0f} images/s, "
                 f"{environment['precision']}, {environment['threads']} threads, {environment['cpu']}"),
    ]  # fmt: skip
    fused = metrics.get("side_by_side")
    if fused:
        reason = f"; {fused['why_exact']}" if fused.get("why_exact") else ""
        rows.append(("steps", f"{fused['fused_steps']} of {fused['all_steps']} at once with other models{reason}"))
    spent = timing["energy_J"]
    rows.append(
        ("energy", f"not measured ({timing['energy_note']})" if spent is None
         else f"{spent / 1e3:.1f} kJ ({timing['energy_source']}: {timing['energy_note']})")
    )  # fmt: skip
    if licenses := run.read(run.groups).get("licenses"):
        rows.append(("licenses", f"{'; '.join(licenses)} (of the images trained on)"))
    if metrics["transfer"]:
        rows.append(("from its parent", ", ".join(
            f"{len(names)} tensors {what.replace('_', ' ')}" for what, names in metrics["transfer"].items() if names
        )))  # fmt: skip
    decoding = metrics.get("decoding")
    if decoding:
        rows.append(("decoding", ", ".join(f"{name} {value:g}" for name, value in decoding["parameters"].items())))
        rows.append(("tuned on", f"{decoding['images']} validation images: {decoding['metric'].replace('_', ' ')} "
                     f"{number(decoding['value'])}, {number(decoding['value_of_defaults'])} with the defaults"
                     + (f" ({decoding['reason']})" if decoding.get("reason") else "")))  # fmt: skip
    return align_rows(rows) + "\n" + describe_scores(metrics["scores"], model["names"])


def describe_target(target: Mapping[str, Any], names: Sequence[str]) -> str:
    """Returns the target of a network in one line."""
    text = target["name"]
    if text == "combined":
        others = (f"{part['target']['name']} × {part['weight']:g}" for part in target["auxiliary"])
        text = f"{target['main']['name']}, with auxiliary {', '.join(others)}"
    elif text == "reconstruction":
        inputs = {"masked": "partly masked images", "noise": "noisy images", "nothing": "unchanged images"}
        text += f" from {inputs[target['corruption']['name']]}"
    elif text == "image-class":
        text += f" from column '{target['column']}'"
    return text + (f" ({', '.join(names)})" if names else "")


TILE_PREFIX = "tile_"  # `evaluation.object_metrics.TILE_PREFIX`, whose module imports numba
ON_TILES = "objects are counted on tiles, cut at their borders, as whole images are not kept: scores differ from theirs"
PER_CLASS = ("iou", "dice", "precision", "recall", "auprc", "auroc")  # F1 of pixels is their Dice
OBJECT_SCORES = {
    "objects_true": "true objects",
    "objects_predicted": "predicted objects",
    "ap50": "AP at IoU 0.5",
    "ap_mean": "mean AP, IoU 0.5 to 0.95",
    "f1_50": "F1 at IoU 0.5",
    "precision_50": "precision at IoU 0.5",
    "recall_50": "recall at IoU 0.5",
    "pq": "panoptic quality",
    "aji": "aggregated Jaccard index",
    "boundary_f1": "boundary F1, 2 px",
    "splits": "objects split",
    "merges": "objects merged",
    "confidence_objects": "objects with a confidence",
    "confidence_error": "calibration error of the confidence",
}


FOLDER_COLUMNS = (  # of each image; objects or classes
    *("objects_true", "objects_predicted", "ap50", "ap_mean", "f1_50"),
    *("accuracy", "iou_mean", "dice_mean"),
)


def describe_scores(scores: Mapping[str, float | None], names: Sequence[str]) -> str:
    """Returns scores as text: overall scores, then a table with a row per class; of training, then of validation."""
    texts: list[str] = []
    for prefix in ("train_", "validation_", ""):
        part = {name.removeprefix(prefix): value for name, value in scores.items() if _prefix(name) == prefix}
        if not part:
            continue
        title = {"train_": "training ", "validation_": "validation "}.get(prefix, "")
        overall = [name for name in ("loss", "loss_adjusted", "accuracy", "iou_mean", "dice_mean") if name in part]
        if part.get("loss_adjusted") == part.get("loss"):
            overall = [name for name in overall if name != "loss_adjusted"]
        if overall:
            texts.append(align_rows([(title + name.replace("_", " "), number(part[name])) for name in overall]))
        for place in ("", TILE_PREFIX):
            objects = {name: part[place + name] for name in OBJECT_SCORES if place + name in part}
            if objects and place:
                texts.append(ON_TILES)
            if objects:
                texts.append(
                    align_rows([(OBJECT_SCORES[n], _count_or_share(n, value)) for n, value in objects.items()])
                )
        columns = [name for name in PER_CLASS if any(f"{name}_{label}" in part for label in names)]
        if columns:
            rows = [(label, *(number(part.get(f"{name}_{label}")) for name in columns)) for label in names]
            texts.append(format_table([(title.strip() or "class", *columns), *rows]))
            absent = [label for label in names if f"auprc_{label}" in part and part[f"auprc_{label}"] is None]
            if absent:
                texts.append(
                    f"not labeled in the {title.strip() or 'scored'} part, hence not scored: {', '.join(absent)}"
                )
            texts += _means_note(part, names)
    return "\n".join(texts)


def describe_folder_scores(result: FolderScores, folder: str) -> list[str]:
    """Returns the scores of each image of a folder, then those of all, and notes on the images, in lines."""
    columns = [name for name in FOLDER_COLUMNS if name in result.images.columns]
    rows = [
        (str(row["image"]), *(_count_or_share(name, row[name]) for name in columns))
        for row in result.images.to_dict("records")
    ]
    totals = {name: None if math.isnan(value) else value for name, value in result.scores.items()}
    notes = [f"{note} ({count} image{'s' * (count > 1)})" if count else note for note, count in result.notes.items()]
    table = format_table([("image", *columns), *rows])
    return [table, "", f"{folder}: {len(rows)} images together", describe_scores(totals, result.classes), *notes]


def _means_note(scores: Mapping[str, float | None], names: Sequence[str]) -> list[str]:
    """Returns a line on the classes that means are of, where these are not all."""
    candidates = names if "f1_mean" in scores else names[1:]
    defined = [name for name in candidates if scores.get(f"f1_{name}") is not None]
    if len(defined) == len(candidates) or not any(f"f1_{name}" in scores for name in candidates):
        return []
    return [f"means are over {', '.join(defined) or 'no class'}"]


def _count_or_share(name: str, value: float | None) -> str:
    counts = ("objects_true", "objects_predicted", "splits", "merges", "confidence_objects")
    return f"{value:,.0f}" if name in counts and value is not None else number(value)


def _prefix(name: str) -> str:
    return next((prefix for prefix in ("train_", "validation_") if name.startswith(prefix)), "")


def describe_plan(plan: Plan) -> str:
    """Returns the counts of a plan stage by stage, the disk space it needs, and in what its domains differ."""
    from segue.study.domains import domain_warnings

    head, counts = ("stage", "configurations", "models", "distinct", "finished", "failed"), plan.counts
    rows = [
        (c.stage, *(f"{n:,}" for n in (c.configurations, c.models, c.distinct, c.finished, c.failed))) for c in counts
    ]
    sums = {name: sum(getattr(c, name) for c in counts) for name in head[1:]}
    sums["distinct"] = len(plan.trainings)  # a training that two stages share counts once
    rows.append(("all", *(f"{n:,}" for n in sums.values())))
    need = plan.disk()
    uncounted = f" (and {need['uncounted']:,} networks of unknown size)" if need["uncounted"] else ""
    waves = f"{format_bytes(need['waves'])} for exit waves, " if need["waves"] else ""
    lines = [
        plan.study.spec.title or plan.study.spec.name,
        format_table([head, *rows]),
        f"{plan.evaluation_count:,} evaluations on {len(plan.evaluations)} domains "
        f"({plan.study.spec.evaluate.part} part), datasets: {len(plan.datasets)}",
        f"disk still needed: {format_bytes(need['datasets'])} for datasets, {waves}{format_bytes(need['weights'])} for "
        f"weights{uncounted}; "
        f"{format_bytes(need['free'])} free in {plan.store.folder}",
    ]
    if need["datasets"] + need["waves"] + need["weights"] > need["free"]:
        other = "" if plan.study.spec.keep == "metrics" else ', or keep = "metrics"'
        lines.append(f"WARNING: this exceeds the free disk space; choose another --store{other}")
    lines += [f"WARNING: {sentence}" for sentence in domain_warnings(plan)]
    return "\n".join(lines)


def describe_reasons(rows: Sequence[tuple[str, str, str]]) -> str:
    """Returns why stages would run: each reason once, followed by its stages with their keys."""
    stages: dict[str, list[str]] = {}
    for key, name, reason in rows:
        stages.setdefault(reason, []).append(f"  {key}  {name}")
    headings = {
        reason: f"{reason} ({len(lines)} {'stage' if len(lines) == 1 else 'stages'})"
        for reason, lines in stages.items()
    }
    return "\n".join("\n".join([headings[reason], *lines]) for reason, lines in stages.items())


def describe_status(plan: Plan) -> str:
    """Returns the numbers of finished, started and failed stages, with the error of each failed one."""
    existing = plan.store.existing()
    lines = [describe_plan(plan), ""]
    for key, dataset in plan.datasets.items():
        file = plan.dataset_file(key)
        lines.append(f"dataset {dataset.name}: {'finished' if file.exists() else 'not made'}  {file}")
    unfinished = sum(f"{training.key}.running" in existing for training in plan.trainings)
    lines.append(f"{unfinished} trainings started and not finished")
    failed = plan.failed
    for training in plan.trainings:
        if training.key in failed:
            record = read_record(plan.store.failure(training.key), FailureRecord) or {"error": "unknown"}
            lines.append(f"failed: {training.label} [{training.key}]\n        {record['error']}")
    return "\n".join(lines)


def number(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "not defined"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def align_rows(rows: Sequence[tuple[str, str]]) -> str:
    wide = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{wide}}  {value}" for name, value in rows)


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows as a text table, the first column to the left and the others to the right."""
    wide = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(wide[0]), *(cell.rjust(w) for cell, w in zip(row[1:], wide[1:], strict=True))])
        for row in rows
    )


def describe_analysis(analysis: Analysis) -> str:
    """Returns the title, the table and the notes of an analysis as lines of text."""
    from segue.reporting.analysis.result import as_table

    table = as_table(analysis)
    numeric = set(table.numeric)
    columns = [[str(name), *(str(row[place]) for row in table.rows)] for place, name in enumerate(table.columns)]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(
            column[line].rjust(width) if place in numeric else column[line].ljust(width)
            for place, (column, width) in enumerate(zip(columns, widths, strict=True))
        ).rstrip()
        for line in range(len(table.rows) + 1)
    ]
    return "\n".join([analysis.title, *lines, *analysis.notes, ""])
