"""Says in words what a dataset, a network, a schedule, a run, a plan or a study's state holds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segue import networks
from segue.cli import schedules
from segue.cli.progress import size
from segue.errors import SegueError
from segue.networks.registry import FAMILIES, SMP_DECODERS, NetworkSpec
from segue.spec import load, read_toml
from segue.training.schedules import SCHEDULES

if TYPE_CHECKING:
    from segue.study.plan import Plan


@dataclass(frozen=True)
class Sizes:
    """Of a network's input and output, and of the step whose memory is told; `side_px` None: about 256 px."""

    channels: int = 1
    classes: int = 2
    batch: int = 1
    side_px: int | None = None


def describe(what: str, *, settings: Sequence[str] = (), sizes: Sizes | None = None) -> str:
    """Returns what lies at a path, or what a network of that name is; raises SegueError when it is neither.

    `settings` ("key=value") and `sizes` go with a network's name only.
    """
    path = Path(what)
    named = _is_name(what)
    if (settings or sizes) and not named:
        raise SegueError(
            f"inspect {what}: --set, --channels, --classes, --batch and --size go with the name of a network; "
            "a file or a run says them itself: leave them out."
        )
    if _is_run(path):
        return describe_run(path)
    if path.suffix == ".toml":
        table = read_toml(path)
        plate = find_plate(path)
        if plate is not None:
            return plate.told
        if "stages" not in table and "data" in table:
            return describe_stage(path)
        from segue.study.plan import plan_study

        return describe_plan(plan_study(path))
    if path.is_file() or path.suffix in (".h5", ".hdf5"):
        from segue.data.summary import describe as describe_dataset

        return describe_dataset(path)
    if not named:
        raise SegueError(
            f"{what}: there is no such file or folder; give a dataset, a run, a study or a network's name."
        )
    return describe_network(networks.named(what, settings, where=f"inspect {what}"), sizes or Sizes())


def _is_run(path: Path) -> bool:
    return path.is_dir() or working_folder(path).is_dir()


def _is_name(what: str) -> bool:
    """Tells whether `what` can only be a network's name; those of timm may have a dot, for the weights."""
    dotted = "." in what and what.partition("-")[0] not in (*FAMILIES, *SMP_DECODERS)
    return not (dotted or "/" in what or Path(what).is_file() or _is_run(Path(what)))


def describe_stage(path: Path) -> str:
    """Returns what a stage's file would train: its network for the data that it names, on which target."""
    from segue.data.dataset import Dataset
    from segue.targets import registry as targets
    from segue.training.data import choose_layer
    from segue.training.spec import StageSpec

    spec = load(StageSpec, path)
    with Dataset(path.parent / spec.data[0].dataset) as dataset:
        layer, channels = choose_layer(dataset, spec.target), len(dataset.channels)
        counts = [1] * max(1, len(layer.names))  # weights of classes change no size
        target = targets.build(
            spec.target,
            names=layer.names,
            instances=layer.kind == "instances",
            where=str(path),
            counts=counts,
            channels=channels,
        )
        networks.require_fit(spec.network, dataset.tile_shape, str(dataset.path))
        height, tile = dataset.tile_shape[-2], " × ".join(map(str, dataset.tile_shape))
    told = [("target", f"{spec.target.name}, of the layer {layer.name}"), ("a tile", f"{tile} (C × H × W)")]
    return "\n".join(
        [aligned(told), describe_network(spec.network, Sizes(channels, target.channels, spec.batch, height))]
    )


@dataclass(frozen=True)
class PlateFound:
    """What a plate's specification finds, in words, and how many things would make `segue plate` refuse it."""

    told: str
    obstacles: int


def find_plate(path: Path) -> PlateFound | None:
    """Returns what images a plate's specification finds, what is missing, duplicate or wrong, and what its splits and
    tiles would be; of a made plate its size. None where the file is no specification of a plate."""
    if path.suffix != ".toml" or not path.is_file():
        return None
    table = read_toml(path)
    if "stages" in table or not ("files" in table or "synthetic" in table):
        return None
    from segue.plates import preflight
    from segue.plates.layout.discovery import describe as describe_layout
    from segue.plates.spec import PlateSpec

    spec, where = load(PlateSpec, path), path.parent
    if spec.synthetic is not None:
        layout, overlap = preflight.synthetic_layout(spec.synthetic), spec.synthetic.stage.overlap
        lines = [f"a made plate; its dataset takes up to {size(preflight.estimate_size(spec, where)['bytes'])}"]
    else:
        assert spec.files is not None  # the specification has one of the two
        layout, overlap = preflight.plate_layout(spec, spec.files, where, strict=False), spec.files.overlap
        lines = [describe_layout(layout)]
    amiss = [*layout.errors, *layout.duplicates]
    refused = [] if amiss else preflight.errors(spec, layout, overlap=overlap)
    lines += [f"refused: {told}" for told in refused]
    lines += [f"WARNING: {told}" for told in ([] if amiss else preflight.warnings(spec, layout))]
    return PlateFound("\n".join(lines), len(amiss) + len(refused))


def describe_network(spec: NetworkSpec, sizes: Sizes) -> str:
    return aligned(
        networks.describe(
            spec, channels=sizes.channels, classes=sizes.classes, batch=sizes.batch, side_px=sizes.side_px
        )
    )


def describe_schedules(
    which: str | None, settings: Sequence[str], *, lr: float | None, epochs: int | None, sheet: Path | None
) -> str:
    """Returns what a schedule by name does, or each in a stage's or study's TOML file; of None the names there are.

    Draws them to `sheet`, a PNG, where one is given. `settings` ("key=value"), `lr` and `epochs` go with a name only.
    """
    if which is None:
        if settings or lr is not None or epochs or sheet:
            raise SegueError(
                f"inspect schedule: no schedule is named; give one of {', '.join(SCHEDULES)}, or a TOML file."
            )
        return aligned([(name, spec.summary) for name, spec in SCHEDULES.items()])
    path = Path(which)
    if path.suffix == ".toml" or path.is_file():
        if settings or lr is not None or epochs:
            raise SegueError(f"{path}: says rate, epochs and settings itself; leave --lr, --epochs and --set out.")
        courses = schedules.file_courses(path)
    else:
        courses = [schedules.named_course(which, settings, lr=lr, epochs=epochs)]
    told = [aligned(schedules.rows(course)) for course in courses]
    if sheet is not None:
        schedules.draw(courses, sheet)
    told.append(f"drawing: {sheet}" if sheet is not None else "to draw it: --sheet FILE.png")
    return "\n\n".join(told)


def working_folder(folder: Path) -> Path:
    return folder.with_name(folder.name.removesuffix(".running") + ".running")


def describe_unfinished(folder: Path) -> str:
    """Returns how far a training has come that is under way or was interrupted; `folder` is its working folder."""
    from segue.training import checkpoint

    stage = json.loads((folder / "spec.json").read_text(encoding="utf-8"))["stage"]
    progress = checkpoint.newest(folder / "state")
    rows = [("run", f"{folder}, under way or interrupted"), ("network", stage["network"]["name"])]
    if progress is None:
        rows.append(("come to", f"its first checkpoint is not written yet; epochs: {stage['epochs']}"))
        return aligned(rows)
    rows.append(("come to", f"epoch {progress.epoch + 1}, step {progress.step + 1}, of {stage['epochs']} epochs"))
    rows.append(("trained for", f"{progress.seconds:.0f} s, interrupted {progress.interruptions} times"))
    last = progress.history[-1] if progress.history else {}
    shown = ("lr", "train_loss", "validation_loss", "validation_dice_mean")
    rows += [(name.replace("_", " "), number(last[name])) for name in shown if name in last]
    return aligned(rows)


def describe_run(folder: Path) -> str:
    working = working_folder(folder)
    if not (folder / "metrics.json").is_file() and (working / "spec.json").is_file():
        return describe_unfinished(working)
    if not (folder / "metrics.json").is_file():
        raise SegueError(f"{folder}: is no finished run (no metrics.json); give the folder that `segue train` wrote.")
    described, metrics, timing, environment = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("spec", "metrics", "timing", "environment")
    )
    stage, model, labels, counted = described["stage"], described["model"], metrics["labels"], metrics["parameters"]
    rows = [
        ("run", f"{folder}  ({described['key']})"),
        ("network", f"{stage['network']['name']}, {counted['network']['parameters']:,} parameters, "
                    f"{counted['network']['trainable']:,} trained"),
        ("frozen", ", ".join(stage["freeze"]) or "nothing"),
        ("target", described_target(stage["target"], model["names"])),
        ("labels spent", f"{labels['train']} {labels['unit']} to train, {labels['validation']} to validate"),
        ("selected", f"epoch {metrics['selected_epoch']} of {metrics['epochs']}, by {metrics['selected_by']}"
                     + (f"; stopped early, {stage['epochs']} were asked for" if metrics["stopped_early"] else "")),
        ("time", f"{timing['seconds']:.1f} s, {timing['images_per_s']:.0f} images/s, "
                 f"{environment['precision']}, {environment['threads']} threads, {environment['cpu']}"),
    ]  # fmt: skip
    spent = timing["energy_J"]
    rows.append(
        ("energy", f"not measured ({timing['energy_note']})" if spent is None
         else f"{spent / 1e3:.1f} kJ ({timing['energy_source']}: {timing['energy_note']})")
    )  # fmt: skip
    if metrics["transfer"]:
        rows.append(("from its parent", ", ".join(
            f"{len(names)} tensors {what.replace('_', ' ')}" for what, names in metrics["transfer"].items() if names
        )))  # fmt: skip
    decoding = metrics.get("decoding")
    if decoding:
        rows.append(("decoding", ", ".join(f"{name} {value:g}" for name, value in decoding["parameters"].items())))
        rows.append(("tuned on", f"{decoding['images']} validation images: {decoding['metric'].replace('_', ' ')} "
                     f"{decoding['value']:.4f}, {decoding['value_of_defaults']:.4f} with the defaults"))  # fmt: skip
    return aligned(rows) + "\n" + described_scores(metrics["scores"], model["names"])


def described_target(target: Mapping[str, Any], names: Sequence[str]) -> str:
    """Returns what a network was asked for, in a line."""
    told = target["name"]
    if told == "combined":
        others = (f"{part['target']['name']} × {part['weight']:g}" for part in target["auxiliary"])
        told = f"{target['main']['name']}, beside it {', '.join(others)}"
    elif told == "reconstruction":
        shown = {"masked": "images partly covered", "noise": "images with noise", "nothing": "images as they are"}
        told += f" from {shown[target['corruption']['name']]}"
    elif told == "image-class":
        told += f" from column '{target['column']}'"
    return told + (f" ({', '.join(names)})" if names else "")


PER_CLASS = ("iou", "dice", "precision", "recall", "auprc", "auroc")  # F1 of pixels is their Dice
OF_OBJECTS = {
    "objects_true": "objects labelled",
    "objects_predicted": "objects found",
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
}


def described_scores(scores: Mapping[str, float | None], names: Sequence[str]) -> str:
    """Returns scores in words: those of the whole, then a table with a row per class; of training, then validation."""
    told: list[str] = []
    for part in ("train_", "validation_", ""):
        own = {name.removeprefix(part): value for name, value in scores.items() if _part(name) == part}
        if not own:
            continue
        words = {"train_": "training ", "validation_": "validation "}.get(part, "")
        whole = [name for name in ("loss", "loss_adjusted", "accuracy", "iou_mean", "dice_mean") if name in own]
        if own.get("loss_adjusted") == own.get("loss"):
            whole = [name for name in whole if name != "loss_adjusted"]
        told.append(aligned([(words + name.replace("_", " "), number(own[name])) for name in whole]))
        of_objects = [name for name in OF_OBJECTS if name in own]
        if of_objects:
            told.append(aligned([(OF_OBJECTS[name], _count_or_share(name, own[name])) for name in of_objects]))
        columns_ = [name for name in PER_CLASS if any(f"{name}_{label}" in own for label in names)]
        if columns_:
            body = [(label, *(number(own.get(f"{name}_{label}")) for name in columns_)) for label in names]
            told.append(columns([(words.strip() or "class", *columns_), *body]))
            absent = [label for label in names if f"auprc_{label}" in own and own[f"auprc_{label}"] is None]
            if absent:
                part_words = words.strip() or "scored"
                told.append(f"not labelled in the {part_words} part, so that it is not told apart: {', '.join(absent)}")
    return "\n".join(told)


def _count_or_share(name: str, value: float | None) -> str:
    counts = ("objects_true", "objects_predicted", "splits", "merges")
    return f"{value:,.0f}" if name in counts and value is not None else number(value)


def _part(name: str) -> str:
    return next((part for part in ("train_", "validation_") if name.startswith(part)), "")


def describe_plan(plan: Plan) -> str:
    """Returns the counts of a plan stage by stage, and the disk space it needs."""
    head = ("stage", "configurations", "models", "distinct", "finished", "failed")
    rows = [
        (c.stage, *(f"{n:,}" for n in (c.configurations, c.models, c.distinct, c.finished, c.failed)))
        for c in plan.counts
    ]
    sums = {name: sum(getattr(c, name) for c in plan.counts) for name in head[1:]}
    sums["distinct"] = len(plan.trainings)  # a training that two stages share counts once
    rows.append(("all", *(f"{n:,}" for n in sums.values())))
    need = plan.disk()
    uncounted = f" (and {need['uncounted']:,} networks whose size is not known beforehand)" if need["uncounted"] else ""
    lines = [
        plan.study.spec.title or plan.study.spec.name,
        columns([head, *rows]),
        f"{plan.evaluation_count:,} evaluations on {len(plan.evaluations)} domains "
        f"({plan.study.spec.evaluate.part} part), datasets: {len(plan.datasets)}",
        f"disk still needed: {size(need['datasets'])} for datasets, {size(need['weights'])} for weights{uncounted}; "
        f"{size(need['free'])} free in {plan.store.folder}",
    ]
    if need["datasets"] + need["weights"] > need["free"]:
        lines.append('WARNING: that is more than is free; choose another --store, or keep = "metrics"')
    return "\n".join(lines)


def describe_status(plan: Plan) -> str:
    """Returns what is finished, under way and failed, with the error of each failed stage."""
    names = plan.store.existing()
    lines = [describe_plan(plan), ""]
    for key, member in plan.datasets.items():
        state = "finished" if member.kind == "file" or plan.store.dataset(key).exists() else "not made"
        lines.append(
            f"dataset {member.name}: {state}  {plan.store.dataset(key) if member.kind != 'file' else member.root}"
        )
    running = [train for train in plan.trainings if f"{train.key}.running" in names]
    lines.append(f"{len(running)} trainings begun and not finished")
    failed = plan.failed
    for train in plan.trainings:
        if train.key not in failed:
            continue
        error = json.loads(plan.store.failure(train.key).read_text(encoding="utf-8"))["error"]
        lines.append(f"failed: {train.label} [{train.key}]\n        {error}")
    return "\n".join(lines)


def number(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "not defined"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def aligned(rows: Sequence[tuple[str, str]]) -> str:
    wide = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{wide}}  {value}" for name, value in rows)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows as a text table, the first column to the left and the others to the right."""
    wide = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(wide[0]), *(cell.rjust(w) for cell, w in zip(row[1:], wide[1:], strict=True))])
        for row in rows
    )
