"""`segue fit`: from a folder of images and label images to a model, in order.

look        what the images and labels are (`look`)
divide      groups into training, validation and test, or folds (`parts`)
choose      settings by rules (`rules`), the number of steps by a few measured ones (`timing`)
write       tables and TOML files (`specifications`): from here on, a killed command goes on as it began
train       parents transferred and scratch (`candidates`), as stages of ordinary studies in an ordinary store
judge       each model on the same held-out images (`scoring`, `verdict`)
ask         what more labels would give (`learning_curve`), which images to label next (`next_images`)
write       the model with its card and page (`card`, `page`)
"""

from __future__ import annotations

import math
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from segue.data.folders.pairing import ImageLabelPair
from segue.data.spec import NOT_STATED
from segue.device import cpu_count, default_device
from segue.errors import SegueError
from segue.fingerprint import hash_files
from segue.fitting import learning_curve, rules
from segue.fitting.candidates import RESULT, SCRATCH, Parent, read_parents, require_unseen, stages, used_groups
from segue.fitting.card import card_text
from segue.fitting.learning_curve import LearningCurve, Training
from segue.fitting.look import LabelKind, Look, look_at, pair
from segue.fitting.next_images import rank_images, write_ranking
from segue.fitting.page import PageContent, write_fit_page
from segue.fitting.parts import divide, without_test
from segue.fitting.rules import Choice, Length, Situation
from segue.fitting.scoring import SCORES, VERSION, Scores, constant_scores, score_model, stored_scores
from segue.fitting.specifications import WorkFolder, preparation, relative, table_text, toml_text, write_text
from segue.fitting.timing import step_seconds, tile_counts
from segue.fitting.verdict import Verdict, judge, mean_score, sentences
from segue.formatting import format_duration
from segue.spec import read_toml
from segue.storage import make_folder, read_json, write_json
from segue.study.datasets import dataset_family
from segue.study.executor import Event, run_study
from segue.study.plan import Plan, plan_study
from segue.study.spec import DatasetSource
from segue.study.store import Store, copy_run
from segue.training.run_folder import RunFolder, load_run

PAGE, CARD, RANKING = "report.html", "card.md", "next.csv"
FINAL = "final"
LONGER = 1.5  # times the minutes given, from which on it is said
FROZEN = "encoder frozen"

Log = Callable[[str], None]


class Progress(Protocol):
    def __call__(
        self, text: str, done: int, total: int, share: float | None = None, left_s: float | None = None
    ) -> None: ...


@dataclass(frozen=True)
class Request:
    """What the user asked for. steps: of each training, in place of what fits into the time."""

    images: str
    labels: str
    out: Path
    minutes: float = 10.0
    parents: tuple[str, ...] = ()
    group: str | None = None
    kind: LabelKind | None = None
    license: str = ""
    curve: bool = False
    rank: bool = False
    steps: int | None = None

    def record(self, folder: Path) -> dict[str, Any]:
        """Returns the command as it is written to `folder`, by which the same one is known again."""
        paths = {name: relative(Path(getattr(self, name)), folder) for name in ("images", "labels")}
        parents = [relative(Path(one), folder) if Path(one).exists() else one for one in self.parents]
        settings = {"minutes": float(self.minutes), "from": parents, "group": self.group, "kind": self.kind}
        settings |= {"license": self.license or None, "curve": self.curve or None, "next": self.rank or None}
        return {**paths, **{name: value for name, value in settings.items() if value is not None}}


@dataclass(frozen=True)
class Fitted:
    """What a fit left: the model's folder, its page, the study to edit next, the answer in sentences, and the candidate
    that was chosen."""

    model: Path
    page: Path
    study: Path
    answer: tuple[str, ...]
    chosen: str


def fit(request: Request, *, progress: Progress, log: Log) -> Fitted:
    """Makes the model `request.out`; the same call continues an interrupted one, and does nothing to a finished one.

    Raises SegueError for files that cannot be used, fewer than three groups, a parent that was trained on these images,
    an `out` that is something else, a call that differs from the one that began, and files that have changed since.
    """
    out = request.out
    work = WorkFolder(out.with_name(f"{out.name}.fit"))
    _require_own(request, work)
    if out.exists():
        pairs, _ = pair(request.images, request.labels, request.group)
        _require_same_files(read_json(out / RESULT).get("files"), pairs, work)
        return _finished(out, work)

    # look; nothing is written for images that cannot be used
    began = time.monotonic()
    look = look_at(request.images, request.labels, group=request.group, kind=request.kind)
    parents = read_parents(request.parents, look)
    used = used_groups(parents, look)
    divide(look.groups, used)

    make_folder(work.folder)
    try:
        with FileLock(work.folder / "lock").acquire(timeout=0):
            return _fit(request, work, look, parents, used, began, progress, log)
    except Timeout:
        raise SegueError(f"{work.folder}: another process is at the same fit; wait for it to end.") from None


def _require_own(request: Request, work: WorkFolder) -> None:
    """Raises SegueError if the output is something else, or was begun by another command."""
    out = request.out
    if out.exists() and not (out / RESULT).is_file():
        raise SegueError(f"{out}: exists and was not made by `segue fit`; choose another -o.")
    if not out.exists() and not (work.command.exists() and work.length.exists()):
        return  # no training has begun
    before = read_json(out / RESULT)["command"] if out.exists() else read_toml(work.command)
    now = request.record(work.folder)
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if changed:
        values = "; ".join(f"{name} was {before.get(name)}, is {now.get(name)}" for name in changed)
        raise SegueError(
            f"{work.folder}: was begun by another command ({values}); repeat that one, choose another -o, or remove "
            "the folder."
        )


def _hash_files(pairs: Sequence[ImageLabelPair], work: WorkFolder) -> str:
    """Returns a hash of the names and contents of the labeled images and their labels."""
    files = {path for one in pairs for path in (one.image, *one.labels)}
    return hash_files(files, Store(work.store).digest_cache if work.store.exists() else None)


def _require_same_files(recorded: str | None, pairs: Sequence[ImageLabelPair], work: WorkFolder) -> None:
    """Raises SegueError unless images and labels are those that a fit was begun with (None: not recorded)."""
    if recorded not in (None, _hash_files(pairs, work)):
        raise SegueError(
            f"{work.folder}: the labeled images or their labels are not those that this fit was begun with; choose "
            "another -o for them, or remove the folder and the model."
        )


def _finished(out: Path, work: WorkFolder) -> Fitted:
    result = read_json(out / RESULT)
    return Fitted(out, out / PAGE, work.folder / result["study"], tuple(result["answer"]), result["chosen"])


def _fit(
    request: Request,
    work: WorkFolder,
    look: Look,
    parents: Sequence[Parent],
    used: Mapping[str, str],
    began: float,
    progress: Progress,
    log: Log,
) -> Fitted:
    seen = look.describe()
    for line in seen:
        log(line)

    # divide
    folds = divide(look.groups, used)
    names = ["images"] if len(folds) == 1 else [f"fold-{number}" for number in range(1, len(folds) + 1)]
    division = _division(look, folds, request.group, used)
    log(division)
    seen.append(division)

    # choose, as far as that does not depend on the time that a step takes
    trainings = len(folds) * (1 + 2 * len(parents)) + (len(folds) > 1)
    training_groups = min(sum(part == "train" for part in parts.values()) for parts in folds)
    if request.curve:
        trainings += learning_curve.training_count(training_groups, len(folds))
        if training_groups < 2:
            log("WARNING: no learning curve: a single group is trained on; label more groups")
    training_s = rules.TRAINING_SHARE * 60 * request.minutes / trainings
    situation = Situation(look, training_s, default_device() == "cuda")
    length_record = read_json(work.length)
    is_new = length_record is None  # no number of steps is chosen, and nothing trained
    if length_record is not None:
        _require_same_files(length_record.get("files"), look.pairs, work)
    data = rules.choose(rules.DATA_RULES, situation)
    choices = rules.choose(rules.STAGE_RULES, situation)
    for name, parts in zip(names, folds, strict=True):
        _write_images(work, name, table_text(look, parts, work.folder), replace=is_new)
        reasons = {choice.setting: choice.reason for choice in data}
        text = toml_text(preparation(look, name, data, request.license), reasons=reasons)
        write_text(work.specification(name), text, replace=is_new)
    write_text(work.command, toml_text(request.record(work.folder), comments=["segue fit"]), replace=is_new)
    store = Store(work.store)
    datasets = {
        name: _make_dataset(work, name, store, progress, log if name == names[0] else _ignore, look.notes)
        for name in names
    }
    for dataset in datasets.values():
        require_unseen(parents, dataset, request.parents)

    # choose the number of steps, and write it: from here on, the time decides nothing
    length = _length(request, work, look, choices, parents, datasets[names[0]], trainings, began)
    step_s = read_json(work.length)["step_s"]
    expected_s = None if step_s is None else trainings * length.steps * step_s / rules.TRAINING_SHARE
    about = "" if expected_s is None else f", about {format_duration(expected_s)} in all"
    epochs = "1 epoch" if length.epochs == 1 else f"{length.epochs} epochs"
    log(f"trainings: {trainings}, of {length.steps:,} steps ({epochs}) each{about}")
    if expected_s is not None and expected_s > LONGER * 60 * request.minutes:
        log(
            f"WARNING: {trainings} trainings of an epoch, or of about {rules.MIN_STEPS} steps, are the least, and take "
            f"more than the {request.minutes:g} minutes given"
        )
    if request.steps is None and length.steps <= rules.MIN_STEPS:
        log(f"WARNING: the time allows no more than {length.steps} steps, which teach little; give more --minutes")
    table = stages(choices, length, cpu_count(), parents, work.folder)
    choices = _decided(choices, table[SCRATCH], parents)
    studies = {name: work.study("study" if name == "images" else f"study-{name}") for name in names}
    for name, file in studies.items():
        write_text(file, _study_text(name, table, choices, test=True))

    # train
    plans = {name: plan_study(file, work.store) for name, file in studies.items()}
    for plan in plans.values():
        _run(plan, progress, log)
    models = _trained_models(plans)

    # judge
    scored = {parent.untouched: dict.fromkeys(names, parent.folder) for parent in parents if parent.fits} | models
    keys = {parent.untouched: parent.key for parent in parents}
    tables: dict[str, dict[str, Scores]] = {"validation": {}, "test": {}}
    total = len(scored) * len(names) * 2
    done = 0
    for candidate, runs in scored.items():
        for part in ("validation", "test"):
            rows: Scores = {}
            for name, folder in runs.items():
                dataset = datasets[name]
                key = f"{keys.get(candidate, folder.name)}-{dataset.parent.name}-{part}-{VERSION}"
                found = stored_scores(
                    work.scores / f"{key}.json",
                    lambda folder=folder, dataset=dataset, part=part: score_model(load_run(folder), dataset, part),
                )
                rows |= found if part == "test" else {f"{name}/{image}": row for image, row in found.items()}
                done += 1
                progress("scores", done, total)
            tables[part][candidate] = rows
    constant: Scores = {}
    for name in names:
        constant |= constant_scores(datasets[name], "test")
    verdict = judge(
        tables["validation"], tables["test"],
        untouched=[parent.untouched for parent in parents], constant=constant, references=[SCRATCH],
    )  # fmt: skip

    # ask
    curve = None
    if request.curve and training_groups > 1:
        settings = table[verdict.selected]
        curve = _learning_curve(
            settings, training_groups, length, work, datasets, tables["test"][verdict.selected], progress, log
        )

    # the model: a parent, the run of the split, or one trained on all images with the settings of the folds
    parent = next((one for one in parents if one.untouched == verdict.chosen), None)
    run = parent.folder if parent else models[verdict.chosen][names[0]]
    study = studies[names[0]]
    if parent is None and len(names) > 1:
        settings = read_toml(studies[names[0]])["stages"][verdict.chosen]  # as they were trained
        run, study = _train_on_all(request, look, used, data, choices, {verdict.chosen: settings}, work, progress, log)

    ranked = None
    if request.rank:
        ranked = rank_images(
            load_run(run),
            [pair.image for pair in look.pairs],
            look.unlabeled,
            progress=lambda done, total: progress("images to label next", done, total),
            log=log,
        )

    # write
    result = _result(request, work, look, seen, parents, verdict, tables, names, study, run)
    if curve is not None:
        result["curve"] = curve.record()
        result["answer"] += curve.sentences()
    if ranked:
        first = ", ".join(Path(one.image).name for one in ranked[:3])
        result["answer"].append(f"Of {len(ranked)} images without labels, label first: {first} ({RANKING}).")
    shutil.rmtree(work.model, ignore_errors=True)
    copy_run(run, work.model)
    for name in (RESULT, CARD, PAGE, RANKING, f"{Path(PAGE).stem}-figures"):  # those of a parent that was made by a fit
        path = work.model / name
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    if ranked is not None:
        write_ranking(ranked, work.model / RANKING)
    (work.model / CARD).write_text(card_text(result), encoding="utf-8", newline="\n")
    write_fit_page(
        PageContent(
            title=f"{request.out.name}: fit of {len(look.pairs)} labeled images",
            answer=tuple(filter(None, [*result["answer"], result["tested_by"]])),
            seen=tuple(seen),
            choices=(*data, *choices, _length_choice(request, length, trainings)),
            verdict=verdict,
            validation=tables["validation"],
            test=tables["test"],
            score=SCORES[look.labels.kind],
            runs={candidate: list(runs.values()) for candidate, runs in models.items()},
            model=run,
            datasets=datasets,
            chosen_runs=scored[verdict.chosen],
            curve=curve,
            ranked=ranked or (),
            command=f"segue study run {relative(study, Path.cwd())}",
        ),
        work.model / PAGE,
    )
    write_json(work.model / RESULT, result)
    try:
        work.model.rename(request.out)
    except OSError as error:
        raise SegueError(f"{request.out}: cannot be written ({error.strerror}); choose another -o.") from None
    log(f"took {format_duration(time.monotonic() - began)}")
    return _finished(request.out, work)


def _write_images(work: WorkFolder, name: str, text: str, *, replace: bool = False) -> None:
    """Writes a table of images; raises SegueError if there is one of other images, unless `replace` says so."""
    table = work.table(name)
    write_text(table, text, replace=replace)
    if table.read_text(encoding="utf-8") != text:
        raise SegueError(
            f"{table}: the labeled images are not those that this fit was begun with; choose another -o for them, or "
            f"remove {work.folder}."
        )


def _ignore(line: str) -> None:
    """Leaves out what was told of the same images before."""


def _division(look: Look, folds: Sequence[Mapping[str, str]], group: str | None, used: Mapping[str, str]) -> str:
    """Returns a sentence on how the groups are divided."""
    divided = _division_of_unseen(look, folds, group)
    if not used:
        return f"division: {divided}"
    count = sum(pair.group in used for pair in look.pairs)
    names = " and ".join(sorted(set(used.values())))
    seen = f"{names} has seen {count} of {len(look.pairs)} images, which are only trained on"
    return f"division: {seen}; the others: {divided}"


def _division_of_unseen(look: Look, folds: Sequence[Mapping[str, str]], group: str | None) -> str:
    grouping = "each image is a group of its own (--group tells otherwise)" if group is None else f"groups by '{group}'"
    if len(folds) > 1:
        return (
            f"{len(folds)} folds, so that each is tested once by a model that never saw it, and is trained on or "
            f"validates in the other folds; {grouping}"
        )
    counts = {
        part: sum(folds[0][pair.group] == part for pair in look.pairs) for part in ("train", "validation", "test")
    }
    return f"{', '.join(f'{count} images {part}' for part, count in counts.items())}; {grouping}"


# datasets and trainings


def _make_dataset(
    work: WorkFolder, name: str, store: Store, progress: Progress, log: Log, known: Sequence[str]
) -> Path:
    """Returns the dataset of a specification in the store, made if it is missing; `known` notes are not told again."""
    from segue.data.prepare import stored_notes

    file = work.specification(name)
    family, mistakes = dataset_family(name, DatasetSource(prepare=file.name), work.folder)
    if mistakes:
        raise SegueError(f"{file}: {'; '.join(mistakes)}")
    (planned,) = family.members
    out = store.dataset(planned.key(store.digest_cache)).absolute()
    if not out.exists():
        make_folder(out.parent)
        planned.make(out, workers=1, progress=lambda done, total: progress(f"dataset {name}", done, total))
        seen = {_without_examples(note) for note in known}
        for note in stored_notes(out):
            if _without_examples(note) not in seen:
                log(f"looks wrong: {note}")
    return out


def _without_examples(note: str) -> str:
    """Returns a note without its examples, which are named by label images in some places, by images in others."""
    return re.split(r"\W+e\.g\. ", note)[0]


def _length(
    request: Request, work: WorkFolder, look: Look, choices: Sequence[Choice], parents: Sequence[Parent],
    dataset: Path, trainings: int, began: float,
) -> Length:  # fmt: skip
    """Returns how long each training is: as stored, else by the steps that were asked for or that fit into the time."""
    file = work.length
    stored = read_json(file)
    if stored is not None:
        return Length(**stored["length"])
    training, validation = tile_counts(dataset)
    batch = next(choice.value for choice in choices if choice.setting == "batch")
    steps, step_s = request.steps, None
    if steps is None:
        table = stages(choices, rules.length(1, tiles=training, batch=batch), cpu_count(), parents, work.folder)
        distinct = {repr((stage["network"], stage["target"], stage["normalize"])): stage for stage in table.values()}
        step_s = max(step_seconds(stage, dataset, work.folder) for stage in distinct.values())
        left_s = rules.TRAINING_SHARE * max(0.0, 60 * request.minutes - (time.monotonic() - began)) / trainings
        steps = rules.steps_in(left_s, step_s=step_s, training_tiles=training, validation_tiles=validation, batch=batch)
    length = rules.length(steps, tiles=training, batch=batch)
    tiles = {"train": training, "validation": validation}
    record = {"length": asdict(length), "step_s": step_s, "tiles": tiles, "files": _hash_files(look.pairs, work)}
    write_json(file, record)
    return length


def _study_text(
    name: str, table: Mapping[str, Mapping[str, Any]], choices: Sequence[Choice], *, test: bool, draws: int = 1
) -> str:
    """Returns a study of the stages on the dataset `name`; draws: of the groups of stages that have a part of them."""
    specification = WorkFolder(Path()).specification(name).name
    study = {
        "name": f"fit-{name}" if draws == 1 else f"curve-{name}",
        "seeds": {"draw": draws} if draws > 1 else None,
        "split": {"stored": "given"},
        "datasets": {name: {"prepare": specification}},
        "domains": {name: {"dataset": name}},
        "stages": {stage: {"domain": name, **_without_domain(settings)} for stage, settings in table.items()},
        "evaluate": {"domains": "all" if test else []},
    }
    comments = ["The trainings of `segue fit`; edit them, then: segue study run", *_reasons(choices)]
    return toml_text(study, comments=comments)


def _without_domain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "domain"}


def _reasons(choices: Sequence[Choice]) -> list[str]:
    return [f"{choice.setting}: {choice.reason}" for choice in choices]


def _run(plan: Plan, progress: Progress, log: Log) -> None:
    def report(event: Event) -> None:
        progress(f"{plan.study.spec.name}: {event.text}", event.done, event.total, event.share, event.left_s)

    run_study(plan, workers=1, progress=report, log=log)


def _trained_models(plans: Mapping[str, Plan]) -> dict[str, dict[str, Path]]:
    """Returns candidate -> dataset -> run folder; raises SegueError with the reasons if any training failed."""
    models: dict[str, dict[str, Path]] = {}
    for name, plan in plans.items():
        for stage, runs in _runs_of_stages(plan).items():
            models.setdefault(stage, {})[name] = runs[0]
    return models


def _runs_of_stages(plan: Plan) -> dict[str, list[Path]]:
    """Returns stage -> run folder of each seed; raises SegueError with the reasons if any training failed."""
    runs: dict[str, list[Path]] = {}
    problems = []
    for configuration, training in plan.uses:
        if plan.is_complete(training.key):
            runs.setdefault(configuration.stage, []).append(plan.store.run(training.key))
        else:
            record = read_json(plan.store.failure(training.key)) or {"error": "did not finish"}
            problems.append(f"{configuration.stage}: {record['error']}")
    if problems:
        raise SegueError("; ".join(problems))
    return runs


def _learning_curve(
    settings: Mapping[str, Any], groups: int, length: Length, work: WorkFolder, datasets: Mapping[str, Path],
    scores: Scores, progress: Progress, log: Log,
) -> LearningCurve | None:  # fmt: skip
    """Returns the curve of the selected training: trainings on fewer groups, scored on the same held-out images; those
    that are not possible are told and left out."""
    folds = len(datasets) > 1
    sizes = learning_curve.subset_sizes(groups, folds=folds)
    draws = learning_curve.FOLD_DRAWS if folds else learning_curve.DRAWS
    of_size: dict[int, list[list[float]]] = {size: [[] for _ in range(draws)] for size in sizes}
    failed: set[tuple[int, int]] = set()
    for name, dataset in datasets.items():
        tiles, _ = tile_counts(dataset)
        table = learning_curve.stages(
            settings, sizes, groups=groups, tiles=tiles, length=length, batch=int(settings["batch"])
        )
        study = work.study("curve" if name == "images" else f"curve-{name}")
        write_text(study, _study_text(name, table, (), test=False, draws=draws))
        plan = plan_study(study, work.store)
        _run(plan, progress, log)
        for configuration, training in plan.uses:
            size, draw = sizes[list(table).index(configuration.stage)], training.spec.draw
            folder = plan.store.run(training.key)
            if not plan.is_complete(training.key):  # such as a subset without any object
                error = (read_json(plan.store.failure(training.key)) or {"error": "did not finish"})["error"]
                log(f"WARNING: no training of the learning curve on {configuration.stage}, draw {draw}: {error}")
                failed.add((size, draw))
            elif (size, draw) not in failed:
                rows = stored_scores(
                    work.scores / f"{folder.name}-{dataset.parent.name}-test-{VERSION}.json",
                    lambda folder=folder, dataset=dataset: score_model(load_run(folder), dataset, "test"),
                )
                of_size[size][draw] += [float(row["score"]) for row in rows.values()]
    trainings = [
        Training(size, sum(one) / len(one))
        for size, of_draw in of_size.items()
        for draw, one in enumerate(of_draw)
        if (size, draw) not in failed
    ]
    if not trainings:
        log("WARNING: no learning curve: no training on fewer groups was possible")
        return None
    return learning_curve.through([*trainings, Training(groups, mean_score(scores).mean)], scores)


def _train_on_all(
    request: Request, look: Look, used: Mapping[str, str], data: Sequence[Choice], choices: Sequence[Choice],
    table: Mapping[str, Mapping[str, Any]], work: WorkFolder, progress: Progress, log: Log,
) -> tuple[Path, Path]:  # fmt: skip
    """Returns the run of a stage trained on all groups but those that select its epoch, and its study."""
    (stage,) = table
    _write_images(work, "all", table_text(look, without_test(look.groups, used), work.folder))
    reasons = {choice.setting: choice.reason for choice in data}
    write_text(work.specification("all"), toml_text(preparation(look, "all", data, request.license), reasons=reasons))
    _make_dataset(work, "all", Store(work.store), progress, _ignore, look.notes)
    study = work.study(FINAL)
    write_text(study, _study_text("all", table, choices, test=False))
    plan = plan_study(study, work.store)
    _run(plan, progress, log)
    return _trained_models({"all": plan})[stage]["all"], study


# results


def _result(
    request: Request, work: WorkFolder, look: Look, seen: Sequence[str], parents: Sequence[Parent], verdict: Verdict,
    tables: Mapping[str, Mapping[str, Scores]], names: Sequence[str], study: Path, run: Path,
) -> dict[str, Any]:  # fmt: skip
    """Returns the content of fit.json."""
    score = SCORES[look.labels.kind]
    unscored = [one for one in parents if not one.fits]
    candidates = []
    for name, scores in tables["test"].items():
        test = asdict(mean_score(scores))
        test = {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in test.items()}
        candidates.append({"name": name, "validation": mean_score(tables["validation"][name]).mean, "test": test})
    licenses = RunFolder(run).read(RunFolder(run).groups).get("licenses", ())
    origins = [
        {"name": given, "license": one.license, "card": _card_of(one)}
        for given, one in zip(request.parents, parents, strict=True)
        if verdict.chosen in (one.untouched, *_children(one))
    ]
    is_untouched = verdict.chosen in [one.untouched for one in parents]
    tested_by = ""
    if len(names) > 1:
        tested_by = (
            f"Each image was tested by trainings of {len(names)} folds that never saw it. These share training images, "
            f"which makes intervals of {'differences from them' if is_untouched else 'their scores'} too narrow."
        )
    if len(names) > 1 and not is_untouched:
        tested_by += " This model is trained with the same settings on all groups but those that select its epoch."
    return {
        "name": request.out.name,
        "command": request.record(work.folder),
        "answer": [*sentences(verdict, tables["validation"], tables["test"], score), *map(_not_scored, unscored)],
        "chosen": verdict.chosen,
        "selected": verdict.selected,
        "against": {
            name: {key: None if value != value else value for key, value in asdict(each).items()}
            for name, each in verdict.against.items()
        },
        "learned": verdict.learned.relation == "better",
        "candidates": candidates,
        "score_meaning": (
            "mean average precision of objects over IoU 0.5 to 0.95, mean over images"
            if look.labels.kind == "instances"
            else "mean IoU of the classes that are labeled or predicted in an image, mean over images"
        ),
        "tested_by": tested_by,
        "untouched": is_untouched,
        "seen": list(seen),
        "channels": look.channels,
        "classes": list(look.labels.names),
        "data_license": request.license or NOT_STATED,
        "started_from": origins,
        "license": "; ".join(licenses) or NOT_STATED,
        "study": study.name,
        "files": read_json(work.length).get("files"),
    }


def _card_of(parent: Parent) -> str:
    """Returns the card of a parent, "" without any."""
    file = parent.folder / CARD
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _not_scored(parent: Parent) -> str:
    predicted = "objects" if parent.model.target.output == "objects" else ", ".join(parent.model.target.names)
    return f"{parent.untouched}, is not scored: it predicts {predicted}, which these labels are not."


def _children(parent: Parent) -> tuple[str, str]:
    return f"from {parent.name}", f"from {parent.name}, {FROZEN}"


def _decided(choices: Sequence[Choice], scratch: Mapping[str, Any], parents: Sequence[Parent]) -> list[Choice]:
    """Returns the choices as the trainings have them: those that go with the first parent are its own."""
    of_parent = "of the first parent, so that only the initial weights differ"
    return [
        choice if scratch[choice.setting] == choice.value or choice.setting == "augment" or not parents
        else replace(choice, value=scratch[choice.setting], reason=of_parent)
        for choice in choices
    ]  # fmt: skip


def _length_choice(request: Request, length: Length, trainings: int) -> Choice:
    views = ", each of eight views of every tile" if length.all_views else ""
    reason = f"what fits into the time for {trainings} trainings, by a few measured steps"
    if request.steps is not None:
        reason = "as given"
    elif length.epochs == 1 or length.steps <= rules.MIN_STEPS:
        reason = f"the least: an epoch, or about {rules.MIN_STEPS} steps"
    return Choice("steps", f"{length.steps:,} in {length.epochs} epochs{views}", reason)
