"""What a study's runs recorded: one tidy table, their histories, failures, costs and a few example images.

Nothing heavy is imported here."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from segue.data.dataset import Dataset
from segue.data.spec import NOT_STATED, SplitSpec
from segue.errors import SegueError
from segue.fingerprint import stage_hash
from segue.inference.domain_shift import DomainShift
from segue.study.expand import Configuration
from segue.study.plan import Evaluation, Plan, PlannedTraining
from segue.study.spec import Expectation
from segue.study.store import EvaluationTiming, FailureRecord, image_counts_file, read_record, timing_file
from segue.training.run_folder import RunFolder

if TYPE_CHECKING:
    from segue.evaluation.image_counts import ImageCounts


@dataclass(frozen=True)
class Example:
    """One held-out image with its labels and the predictions of several runs."""

    image: np.ndarray  # (H, W) float, any range
    label: np.ndarray  # (H, W) int; 0 background, -1 ignored
    domain: str
    predictions: dict[str, np.ndarray]  # caption -> (H, W) int, values as in `label`
    runs: tuple[str, ...] = ()  # that predicted it


@dataclass(frozen=True)
class ObjectExample:
    """One held-out micrograph with its objects and the predictions of several runs."""

    image: np.ndarray  # (H, W) float, any range
    label: np.ndarray  # (H, W) int; 0 background, -1 ignored, objects 1 …
    domain: str
    number: int  # which of the domain's held-out micrographs, from 1
    predictions: dict[str, np.ndarray]  # run -> (H, W) int; 0 background, objects 1 …


@dataclass(frozen=True)
class StatedValue:
    """What a publication states of a stage, where, and what its table gives, both as texts."""

    stage: str
    statement: str
    place: str
    published: str
    computed: str
    agrees: bool
    note: str = ""


@dataclass(frozen=True)
class ComparedPair:
    """A source and a target whose transfer is drawn against training on their mixtures.

    `where` selects runs by conditions "COLUMN=VALUE"; lines join the `statistic` ("median" or "mean") of their runs.
    """

    source: str
    target: str
    where: tuple[str, ...] = ()
    statistic: str = "median"


@dataclass(frozen=True)
class StudyResults:
    """A study as its report needs it. Frames may be empty, and optional columns absent.

    table: a row per (run, evaluated domain, split): study, stage, run, parent (key of the parent run or ""), status,
        the axes of the run's stage and of its ancestors ("<stage>.<dotted key>"), domain (what the run was trained
        on; a mixture reads "a:128+b:384"), seed_init, seed_draw, labels_train, labels_validation, labels (their sum),
        label_unit ("images" or "groups"), licenses (of the images that the run and its ancestors were trained on),
        evaluated_domain, split, loss, loss_floor, loss_adjusted (loss less its
        floor), accuracy, iou_mean, dice_mean, for each foreground class iou_<class>, dice_<class>,
        precision_<class>, recall_<class>; where objects are scored, the scores of `evaluation.objects.scores`;
        selected_epoch, epochs, precision ("bf16", "fp32"), threads; side_by_side ("approximate" where models stepped at
        once, "exact"), where a stage asks for it. Where stages differ in `split.by` also split_by
        (words), split_tears (whether groups were divided), apart_from_split (equal for runs that differ in nothing else
        but the seeds), training_groups, validation_groups, evaluated_groups, and of divided groups neighbouring_pairs,
        validation_tiles and validation_tiles_near (`training.drawing.Leak`).
    histories: a row per (run, epoch from 1): run, stage, epoch, lr, train_loss, validation_loss (NaN where none),
        validation_<metric>, with the axes and seeds of the table.
    failures: stage, run, configuration, error (texts), with the axes, domain and seeds of the table where known.
    counts: configurations, models, stages, finished, failed, pending, evaluations.
    cost: stage, runs, seconds_total, seconds_median, images_per_s, energy_J (NaN where a run's was not
        measured), threads, precision, machine, and side_by_side where the table has it.
    stages: stage -> its own axes, parents first; parents: stage -> the stage it starts from, or None.
    targets: stage -> its distinct targets, as settings; variants: stage -> variant -> the settings that it has of its
        own, and the parts it freezes. Both are empty for results from a table alone.
    domains: in the order of the study file.
    timings: a row per (run, evaluated domain), apart from the table since times differ from time to time: run,
        evaluated_domain, train_s, decode_s (of an image, the median; NaN where objects are not scored).
    reliability: (run, evaluated domain) -> (micrographs, bins, 3), objects by confidence (`confidence.reliability`),
        where the run has a calibrated confidence.
    image_counts: returns what was counted in each image, of a run and an evaluated domain; None where an earlier
        version scored it, without counting images. It is None for results from a table alone.
    run_folder: returns the folder of a run as one would type it; None for results from a table alone.
    notes: which rows of a table are not in these results, a sentence each. source: where the table is from, "" for own
        results. stated, compared_pairs, expected: see `StatedValue`, `ComparedPair`, `Expectation`.
    """

    name: str
    title: str
    question: str
    command: str
    spec_text: str
    table: pd.DataFrame
    histories: pd.DataFrame
    failures: pd.DataFrame
    counts: dict[str, int]
    cost: pd.DataFrame
    stages: dict[str, list[str]]
    parents: dict[str, str | None]
    domains: list[str]
    examples: list[Example]
    timings: pd.DataFrame | None = None
    reliability: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    object_examples: list[ObjectExample] = field(default_factory=list)
    targets: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    variants: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    films: dict[str, Path] = field(default_factory=dict)  # stage -> the folder of a run that kept a film
    domain_shift: DomainShift | None = None  # images of the domains, where their datasets are at hand
    image_counts: Callable[[str, str], ImageCounts | None] | None = None
    run_folder: Callable[[str], str] | None = None
    notes: list[str] = field(default_factory=list)
    source: str = ""
    stated: list[StatedValue] = field(default_factory=list)
    compared_pairs: list[ComparedPair] = field(default_factory=list)
    expected: list[Expectation] = field(default_factory=list)


RESCORE = "remove the folder `evaluations` of the run and run the study again, which scores it anew"
NO_IMAGE_COUNTS = "scored by an earlier version of segue, which did not count images"
LEAK_COLUMNS = ("neighbouring_pairs", "validation_tiles", "validation_tiles_near")


@dataclass(frozen=True)
class _Finished:
    """A finished run of a configuration: its columns, and its results by domain, as far as it is scored."""

    configuration: Configuration
    train: PlannedTraining
    run: RunFolder
    columns: Mapping[str, Any]
    results: Sequence[tuple[Evaluation, Mapping[str, Any]]]

    def rows(self, *, with_groups: bool) -> list[dict[str, Any]]:
        rows = []
        for evaluation, result in self.results:
            scores = {"evaluated_domain": evaluation.domain, "split": result["part"], "samples": result["samples"]}
            scores |= {"evaluated_groups": result["groups"]} if with_groups else {}
            rows.append({**self.columns, **scores, **result["scores"]})
        return rows


def _finished_runs(plan: Plan, apart: Mapping[str, str], splits: Mapping[str, SplitSpec]) -> Iterator[_Finished]:
    existing = plan.store.existing()
    may_be_approximate = any(template.spec.side_by_side == "approximate" for template in plan.templates)
    for configuration, train in plan.uses:
        run = RunFolder(plan.store.run(train.key))
        if train.key not in existing or not run.is_finished:
            continue
        metrics = run.read(run.metrics)
        columns = _identity(plan, configuration, train, metrics)
        columns |= {"side_by_side": _steps(metrics)} if may_be_approximate else {}
        columns |= _split_columns(run, splits[train.key], apart.get(train.key), metrics)
        folder = run.evaluations
        files = [(evaluation, folder / plan.evaluation_names[evaluation.domain]) for evaluation in plan.evaluations]
        results = [(evaluation, run.read(file)) for evaluation, file in files if file.exists()]
        yield _Finished(configuration, train, run, columns, results)


def results_table(plan: Plan) -> pd.DataFrame:
    """Returns the table of `StudyResults` alone: a row per run and domain that it was scored on."""
    splits = _splits(plan)
    apart = _apart_from_split(plan, splits)
    finished = _finished_runs(plan, apart, splits)
    return _ordered(pd.DataFrame([row for run in finished for row in run.rows(with_groups=bool(apart))]))


def read_image_counts(plan: Plan, run: str, domain: str) -> ImageCounts | None:
    """Returns what was counted in each image when a run was scored on a domain; None where an earlier version scored
    it, without counting images. Raises SegueError for a damaged file."""
    from segue.evaluation.image_counts import ImageCounts

    (evaluation,) = (one for one in plan.evaluations if one.domain == domain)
    file = image_counts_file(plan.evaluation_file(run, evaluation))
    if not file.exists():
        return None
    try:
        return ImageCounts.from_record(RunFolder(plan.store.run(run)).read(file))
    except (KeyError, TypeError, ValueError) as error:
        raise SegueError(f"{file}: is damaged or was altered ({error}); {RESCORE}.") from None


def image_table(plan: Plan) -> tuple[pd.DataFrame, list[str]]:
    """Returns a row per run, evaluated domain and image, and notes on what is missing.

    Columns are those that identify a row of the table of runs, `image`, `group`, and the scores of the image by itself:
    their means are not the scores of the table of runs, which are pooled. Raises SegueError where no run has counts per
    image, and where they do not agree with the scores.
    """
    splits = _splits(plan)
    frames, evaluations = [], 0
    for finished in _finished_runs(plan, _apart_from_split(plan, splits), splits):
        for evaluation, result in finished.results:
            evaluations += 1
            counts = read_image_counts(plan, finished.train.key, evaluation.domain)
            if counts is None:
                continue
            if (name := counts.disagreement(result["scores"])) is not None:
                file = image_counts_file(plan.evaluation_file(finished.train.key, evaluation))
                raise SegueError(f"{file}: does not give the score {name} of the evaluation beside it; {RESCORE}.")
            identity = {**finished.columns, "evaluated_domain": evaluation.domain, "split": result["part"]}
            images = pd.DataFrame({"image": counts.images, "group": counts.groups, **counts.scores()})
            frames.append(pd.concat([pd.DataFrame([identity] * len(images)), images], axis=1))
    missing = evaluations - len(frames)
    if missing == evaluations > 0:
        raise SegueError(f"{plan.study.path}: {NO_IMAGE_COUNTS}; {RESCORE}.")
    notes = [f"{missing} of {evaluations} evaluations are left out: {NO_IMAGE_COUNTS}; {RESCORE}."] if missing else []
    return _ordered(pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()), notes


def collect(plan: Plan, *, command: str) -> StudyResults:
    """Returns the results of all finished runs of a plan, without example images."""
    study = plan.study
    rows, histories, costs, timings = [], [], [], []
    reliability: dict[tuple[str, str], np.ndarray] = {}
    splits = _splits(plan)
    apart = _apart_from_split(plan, splits)
    for finished in _finished_runs(plan, apart, splits):
        configuration, train, run = finished.configuration, finished.train, finished.run
        rows += finished.rows(with_groups=bool(apart))
        for evaluation, result in finished.results:
            if result.get("reliability"):
                reliability[train.key, evaluation.domain] = np.array(result["reliability"], dtype=float)
        histories.append(_history(run, finished.columns, {e.domain: r for e, r in finished.results}))
        if configuration is train.configuration:
            costs.append(_cost(run, train, finished.columns))
            timings += [_timing(plan, train, evaluation, costs[-1]["seconds"]) for evaluation, _ in finished.results]
    failures = _failures(plan)
    return StudyResults(
        name=study.spec.name,
        title=study.spec.title or study.spec.name,
        question=study.spec.question,
        expected=study.spec.expected,
        command=command,
        spec_text=study.path.read_text(encoding="utf-8"),
        table=_ordered(pd.DataFrame(rows)),
        histories=pd.concat(histories, ignore_index=True) if histories else pd.DataFrame(),
        failures=failures,
        counts=_counts(plan, len(failures), len(rows)),
        cost=_total_cost(costs),
        stages={name: _stage_axes(configurations) for name, configurations in study.configurations.items()},
        parents=dict(study.parents),
        domains=list(study.spec.domains),
        examples=[],
        timings=pd.DataFrame(timings),
        reliability=reliability,
        image_counts=partial(read_image_counts, plan),
        targets={stage: _targets(configurations) for stage, configurations in study.configurations.items()},
        variants={stage: _variants(table) for stage, table in study.spec.stages.items()},
    )


def _targets(configurations: tuple[Configuration, ...]) -> list[dict[str, Any]]:
    """Returns the distinct targets of a stage's configurations, inherited ones included."""
    targets = [configuration.spec.target.model_dump(mode="json") for configuration in configurations]
    return [target for place, target in enumerate(targets) if target not in targets[:place]]


def _variants(stage: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns variant -> its own settings, with the stage's `freeze` where it has none, from a stage's table."""
    return {
        name: {"freeze": stage.get("freeze", "none"), **settings}
        for name, settings in stage.get("variants", {}).items()
    }


def _identity(
    plan: Plan, configuration: Configuration, train: PlannedTraining, metrics: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the columns that identify the run of a row. Timings and dates are not among them."""
    labels = metrics["labels"]
    return {
        "study": plan.study.spec.name,
        "stage": configuration.stage,
        "run": train.key,
        "parent": train.parent or "",
        "status": "finished",
        **configuration.axes,
        **_trained_on(configuration),
        "domain": configuration.domain,
        "seed_init": train.seeds["init"],
        "seed_draw": train.seeds["draw"],
        "labels_train": labels["train"],
        "labels_validation": labels["validation"],
        "labels": labels["train"] + labels["validation"],
        "label_unit": labels["unit"],
        "selected_epoch": metrics["selected_epoch"],
        "epochs": metrics.get("epochs", train.template.spec.epochs),
        "ancestry": metrics.get("ancestry", "unknown"),
        "licenses": "; ".join(metrics.get("licenses", [NOT_STATED])),
        "precision": metrics["precision"],
        "threads": metrics["threads"],
    }


def _steps(metrics: Mapping[str, Any]) -> str:
    """Returns "approximate" if the model stepped at once with others, else "exact"."""
    return metrics.get("side_by_side", {}).get("steps", "exact")


def _splits(plan: Plan) -> dict[str, SplitSpec]:
    """Returns the split of each training; for one stored in an existing dataset, the split it was made by."""
    splits: dict[str, SplitSpec] = {}
    origins: dict[tuple[str, str], SplitSpec] = {}
    for train in plan.trainings:
        split = splits[train.key] = train.template.spec.split
        if split.stored is not None:
            place = (train.inputs[0], split.stored)
            path = plan.dataset_file(train.inputs[0])
            if place not in origins and path.exists():
                with Dataset(path) as dataset:
                    origins[place] = dataset.resolve_split(split)
            splits[train.key] = origins.get(place, split)
    return splits


def _apart_from_split(plan: Plan, splits: Mapping[str, SplitSpec]) -> dict[str, str]:
    """Returns for each training a digest of its settings and those of its ancestors, except the kind of split, the
    repetition and the files kept per epoch; the test part is included.

    Empty where the study divides all samples by the same."""
    if len({split.by for split in splits.values()}) < 2:
        return {}
    hashes: dict[str, str] = {}
    for train in plan.trainings:
        settings: dict[str, Any] = train.template.spec.key_settings(
            {"parent", "init", "draw", "split", "keep_epochs", "film"}
        )
        settings["test"] = splits[train.key].model_dump(include={"stored", "seed", "test"})
        inputs = [*train.inputs, hashes.get(train.parent or "", train.identities[-1])]
        hashes[train.key] = stage_hash({"settings": settings, "inputs": inputs})
    return hashes


def _split_columns(run: RunFolder, split: SplitSpec, apart: str | None, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the columns that describe how a run's samples were divided; none if all runs use the same split."""
    if apart is None:
        return {}
    leak = metrics.get("leak") or {}
    groups = run.read(run.groups)
    return {
        "split_by": split.description,
        "split_tears": split.leaks_groups,
        "apart_from_split": apart,
        "training_groups": len(groups["training"]),
        "validation_groups": len(groups["validation"]),
        "neighbouring_pairs": leak.get("neighbouring_pairs", 0),
        "validation_tiles": leak.get("validation_tiles", math.nan),
        "validation_tiles_near": leak.get("validation_tiles_near", 0),
    }


def _trained_on(configuration: Configuration) -> dict[str, str]:
    """Returns "<stage>.domain" of the stage and its ancestors, whether or not the domain is an axis."""
    return {f"{stage}.domain": c.domain for stage, c in configuration.lineage.items()}


def _stage_axes(configurations: tuple[Any, ...]) -> list[str]:
    return list(dict.fromkeys(axis for configuration in configurations for axis in configuration.own_axes))


def _history(run: RunFolder, identity: Mapping[str, Any], evaluations: Mapping[str, Any]) -> pd.DataFrame:
    history = run.read_history()
    for domain, result in evaluations.items():
        for name in ("loss_adjusted", "dice_mean") if "epochs" in result else ():
            history[f"{name}@{domain}"] = [scores[name] for scores in result["epochs"]]
    left_out = {"selected_epoch", "epochs", "ancestry", "licenses", "labels_train", "labels_validation", "labels"}
    left_out |= {"label_unit", "status", "apart_from_split", "training_groups", "validation_groups", *LEAK_COLUMNS}
    columns = {name: value for name, value in identity.items() if name not in left_out}
    return pd.concat([pd.DataFrame([columns] * len(history)), history], axis=1)


def _cost(run: RunFolder, train: PlannedTraining, columns: Mapping[str, Any]) -> dict[str, Any]:
    timing = run.read(run.timing)
    environment = run.read(run.environment)
    machine = environment.get("gpu") or f"{environment['cpu']}, {environment['cores']} cores"
    if environment["amx"] == "yes":
        machine += " with AMX"
    return {
        "stage": train.configuration.stage,
        "seconds": timing["seconds"],
        "images_per_s": timing["images_per_s"],
        "energy_J": timing["energy_J"],
        "threads": environment["threads"],
        "precision": environment["precision"],
        **{name: columns[name] for name in ("side_by_side",) if name in columns},
        "machine": machine,
    }


def _timing(plan: Plan, train: PlannedTraining, evaluation: Evaluation, train_s: float) -> dict[str, Any]:
    timing = read_record(timing_file(plan.evaluation_file(train.key, evaluation)), EvaluationTiming) or {}
    decode_s = timing.get("decode_s_median", math.nan)
    return {"run": train.key, "evaluated_domain": evaluation.domain, "train_s": train_s, "decode_s": decode_s}


def _total_cost(costs: list[dict[str, Any]]) -> pd.DataFrame:
    if not costs:
        return pd.DataFrame()
    frame = pd.DataFrame(costs)
    grouped = frame.groupby("stage", sort=False)
    total = grouped["seconds"].agg(runs="size", seconds_total="sum", seconds_median="median")
    total["images_per_s"] = grouped["images_per_s"].median()
    total["energy_J"] = grouped["energy_J"].agg(lambda values: values.astype(float).sum(skipna=False))
    for name in ("threads", "precision", "side_by_side", "machine"):
        if name in frame:
            total[name] = grouped[name].agg(lambda values: ", ".join(sorted({str(value) for value in values})))
    return total.reset_index()


def _failures(plan: Plan) -> pd.DataFrame:
    rows = []
    failed = plan.failed
    for train in plan.trainings:
        record = read_record(plan.store.failure(train.key), FailureRecord) if train.key in failed else None
        if record is not None:
            configuration = train.configuration
            named = {"stage": configuration.stage, "run": train.key, "parent": train.parent or ""}
            settings = {**configuration.axes, **_trained_on(configuration), "domain": configuration.domain}
            seeds = {"seed_init": train.seeds["init"], "seed_draw": train.seeds["draw"]}
            rows.append({**named, "configuration": train.label, "error": record["error"], **settings, **seeds})
    for key, dataset in plan.datasets.items():
        record = read_record(plan.store.failure(key), FailureRecord)
        if record is not None:
            rows.append({"stage": "dataset", "run": key, "configuration": dataset.name, "error": record["error"]})
    columns = dict.fromkeys(["stage", "run", "configuration", "error", *(name for row in rows for name in row)])
    return pd.DataFrame(rows, columns=list(columns))


def _counts(plan: Plan, failed: int, evaluations: int) -> dict[str, int]:
    names = plan.store.existing()
    lost = plan.failed
    finished = sum(t.key in names and t.key not in lost for t in plan.trainings)
    return {
        "configurations": sum(count.configurations for count in plan.counts),
        "models": sum(count.models for count in plan.counts),
        "stages": len(plan.trainings),
        "finished": finished,
        "failed": failed,
        "pending": max(len(plan.trainings) - finished - failed, 0),
        "evaluations": evaluations,
    }


SCORES = ("iou_", "dice_", "f1_", "precision_", "recall_", "accuracy_", "auprc_", "auroc_")


def _ordered(table: pd.DataFrame) -> pd.DataFrame:
    """Puts the columns that identify a row before its scores."""
    if table.empty:
        return pd.DataFrame(columns=["study", "stage", "run", "domain", "evaluated_domain", "split", "loss"])
    late = ("evaluated_domain", "split", "samples", "loss", "loss_floor", "loss_adjusted", "accuracy")
    first = [name for name in table.columns if name not in late and not name.startswith(SCORES)]
    rest = [name for name in table.columns if name not in first]
    return table.reindex(columns=first + rest)
