"""Plans a study: every distinct stage with its key, its progress, its disk space, and why it runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from segue import networks, rng
from segue.fingerprint import stage_hash
from segue.study.datasets import PlannedDataset
from segue.study.expand import Configuration, Study, read_study
from segue.study.store import PlanRecord, Store, read_record
from segue.training import identity
from segue.training.identity import RepeatedKey
from segue.training.run_folder import RunFolder
from segue.training.spec import VERSION, DataSpec, StageSpec

EVALUATION_VERSION = 6  # of the measurements of an evaluation; increase by hand when these change


@dataclass(frozen=True)
class Template:
    """Common to the repetitions of a configuration: its specification, and the settings and inputs of its key."""

    spec: StageSpec
    settings: Mapping[str, Any]
    datasets: tuple[str, ...]
    parent: str | None  # the identity of a parent outside the study
    keys: RepeatedKey


@dataclass(frozen=True)
class PlannedTraining:
    """One distinct training. `parent` is the key of the training of the study it starts from."""

    key: str
    label: str  # configuration and seeds in words; names the stage when its key has changed
    configuration: Configuration
    template: Template
    seeds: Mapping[str, int]  # init and draw
    parent: str | None

    @property
    def identities(self) -> list[str | None]:
        """The identities of its datasets and of its parent, those inputs that its key is made of."""
        return [*self.template.datasets, self.parent or self.template.parent]

    @property
    def inputs(self) -> tuple[str, ...]:
        """The keys of its datasets."""
        return self.template.datasets

    @property
    def spec(self) -> StageSpec:
        """The specification of the training; made on request, since a plan has thousands."""
        return self.template.spec.model_copy(update=self.seeds)


@dataclass(frozen=True)
class Evaluation:
    """The scoring of one run on one domain. `data` names the dataset by its key."""

    domain: str
    dataset: str
    data: DataSpec

    def key(self, part: str, every_epoch: bool) -> str:
        content = {"version": EVALUATION_VERSION, "dataset": self.dataset, "part": part}
        content["conditions"] = self.data.model_dump(mode="json")["conditions"]
        return stage_hash(content | ({"every_epoch": True} if every_epoch else {}))


@dataclass(frozen=True)
class StageCount:
    stage: str
    configurations: int
    models: int
    distinct: int
    finished: int
    failed: int


@dataclass(frozen=True)
class Plan:
    """datasets: key -> how it is made; trainings: the distinct trainings, parents first.

    uses: each configuration with each training it needs; a training that two configurations share is in both.
    """

    study: Study
    store: Store
    datasets: Mapping[str, PlannedDataset]
    trainings: tuple[PlannedTraining, ...]
    uses: tuple[tuple[Configuration, PlannedTraining], ...]
    evaluations: tuple[Evaluation, ...]

    @property
    def counts(self) -> tuple[StageCount, ...]:
        repetitions = len(self.study.spec.repetitions)
        existing, failed = self.store.existing(), self.failed
        keys: dict[str, set[str]] = {stage: set() for stage in self.study.configurations}
        for configuration, training in self.uses:
            keys[configuration.stage].add(training.key)
        rows = []
        for stage, configurations in self.study.configurations.items():
            of_stage, models = keys[stage], len(configurations) * repetitions
            if self.study.spec.independent_parents:  # a parent has the repetitions of its children
                models = max(models, len(of_stage))
            finished = len((of_stage - failed) & existing)
            count = StageCount(stage, len(configurations), models, len(of_stage), finished, len(failed & of_stage))
            rows.append(count)
        return tuple(rows)

    @property
    def templates(self) -> list[Template]:
        """The distinct templates of the trainings, in their order."""
        return list({id(training.template): training.template for training in self.trainings}.values())

    @cached_property
    def parent_keys(self) -> frozenset[str]:
        """The keys of the trainings that others start from."""
        return frozenset(train.parent for train in self.trainings if train.parent)

    @property
    def failed(self) -> frozenset[str]:
        """The keys of the trainings whose last attempt failed, or one of whose evaluations did."""
        existing = self.store.existing()
        recorded = [train for train in self.trainings if f"{train.key}.failed.json" in existing]
        return frozenset(train.key for train in recorded if not self.is_complete(train.key))

    def is_complete(self, key: str) -> bool:
        """Returns whether a training is finished and scored on every domain of the plan."""
        run = RunFolder(self.store.run(key))
        return run.is_finished and all((run.evaluations / name).exists() for name in self.evaluation_names.values())

    @property
    def evaluation_count(self) -> int:
        return len(self.trainings) * len(self.evaluations)

    def dataset_file(self, key: str) -> Path:
        """Returns the path of a dataset: in the store, or the user's own file."""
        dataset = self.datasets[key]
        return (dataset.root if dataset.kind == "file" else self.store.dataset(key)).absolute()

    def evaluation_file(self, key: str, evaluation: Evaluation) -> Path:
        """Returns the path of the result of scoring a training on a domain."""
        return RunFolder(self.store.run(key)).evaluations / self.evaluation_names[evaluation.domain]

    @cached_property
    def evaluation_names(self) -> dict[str, str]:
        """Domain -> the name of its results in a run's folder of evaluations."""
        settings = self.study.spec.evaluate
        keys = {item.domain: item.key(settings.part, settings.every_epoch) for item in self.evaluations}
        return {domain: f"{key}.json" for domain, key in keys.items()}

    def disk(self) -> dict[str, int]:
        """Returns the bytes needed for `datasets`, exit `waves` and `weights` that do not exist yet, and those `free`
        at the store.

        The weights of networks whose size is unknown until they are built are not counted; `uncounted` is their number.
        """
        existing = self.store.existing()
        missing = [member for key, member in self.datasets.items() if member.kind != "file" and key not in existing]
        weights = uncounted = 0
        parameters_of = {
            id(template): networks.parameter_count(template.spec.network, channels=1, classes=2)
            for template in self.templates
        }
        for train in self.trainings:
            if train.key in existing:
                continue
            spec, parameters = train.template.spec, parameters_of[id(train.template)]
            is_kept = train.key in self.parent_keys or self.study.spec.keep == "weights"
            copies = is_kept * (1 + spec.selects_best) + spec.keep_epochs * spec.epochs
            uncounted += parameters is None and copies > 0
            weights += 4 * (parameters or 0) * copies
        there = next(folder for folder in [self.store.folder, *self.store.folder.absolute().parents] if folder.is_dir())
        waves: dict[Path, int] = {}
        for member in missing:
            for folder, size in member.shared_bytes().items():  # several datasets share a folder
                waves[folder] = max(size, waves.get(folder, 0))
        return {
            "datasets": sum(member.expected()["bytes"] for member in missing),
            "waves": sum(waves.values()),
            "weights": weights,
            "uncounted": uncounted,
            "free": shutil.disk_usage(there).free,
        }

    def why(self, force: bool = False) -> list[tuple[str, str, str]]:
        """Returns for every dataset and training its key, its name, and why it runs, or that it is finished.

        If the settings of a training changed since the study was last run, the reason names each of them, with its
        values before and now.
        """
        existing = self.store.existing()
        known = read_record(self.store.plan_record(self.study.spec.name), PlanRecord) or {}
        rows = []
        for key, dataset in self.datasets.items():
            is_there = dataset.kind == "file" or key in existing
            then = known.get("datasets", {}).get(dataset.name)
            reason = (
                "finished" if is_there else "new" if then is None else "input changed" if then != key else "missing"
            )
            rows.append((key, f"dataset {dataset.name}", reason))
        parents_needed = frozenset(training.parent for training in self.trainings if training.key not in existing)
        reasons: dict[str, str] = {}
        compared: dict[tuple[str, int], str] = {}  # repetitions share their settings: compared once
        for training in self.trainings:
            then = known.get("trainings", {}).get(training.label)
            if force:
                reason = "forced"
            elif training.key not in existing:
                reason = _change(training, then, known.get("settings", {}), compared)
                if reason == "parent changed":  # because of what changed there, if that is still to be trained
                    cause = reasons.get(training.parent or "", "")
                    reason = cause if " changed" in cause or "bumped" in cause else reason
            else:
                reason = "weights not kept" if self._lacks(training, parents_needed) else "finished"
            reasons[training.key] = reason
            rows.append((training.key, training.label, reason))
        return rows

    def _lacks(self, train: PlannedTraining, wanting: frozenset[str | None]) -> bool:
        """Returns whether a finished training has to run again for weights that were not kept but are needed."""
        if RunFolder(self.store.run(train.key)).weights.exists():
            return False
        unscored = any(not self.evaluation_file(train.key, evaluation).exists() for evaluation in self.evaluations)
        return unscored or train.key in wanting

    def record(self) -> dict[str, Any]:
        """Returns the record that `why` compares the next plan with; settings shared by repetitions are stored once."""
        hashes = {id(template): stage_hash(template.settings) for template in self.templates}
        trainings = {
            training.label: {
                "key": training.key,
                "version": VERSION,
                "inputs": training.identities,
                "settings": hashes[id(training.template)],
            }
            for training in self.trainings
        }
        settings = {hashes[id(template)]: template.settings for template in self.templates}
        datasets = {dataset.name: key for key, dataset in self.datasets.items()}
        return {"datasets": datasets, "trainings": trainings, "settings": settings}


def _change(
    training: PlannedTraining,
    then: Mapping[str, Any] | None,
    settings: Mapping[str, Any],
    compared: dict[tuple[str, int], str],
) -> str:
    """Returns why an unfinished training is to run; `then` and `settings` are from the last plan's record."""
    if then is None:
        return "new"
    if then["key"] == training.key:
        return "unfinished"
    if then["version"] != VERSION:
        return f"version bumped: {then['version']} -> {VERSION}"
    at = (then["settings"], id(training.template))
    if at not in compared:
        compared[at] = _changed_settings(settings.get(then["settings"], {}), training.template.settings)
    if compared[at]:
        return f"settings changed: {compared[at]}"
    before, now = then["inputs"], training.identities
    datasets = len(training.template.datasets)
    return "dataset changed" if before[:datasets] != now[:datasets] else "parent changed"


def _changed_settings(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Returns each setting that differs as "name: before -> now"; those that are not named have their default."""
    before, after = _flat(_without_datasets(then)), _flat(_without_datasets(now))
    names = [name for name in {**before, **after} if before.get(name, _DEFAULT) != after.get(name, _DEFAULT)]
    return "; ".join(f"{name} {before.get(name, _DEFAULT)} -> {after.get(name, _DEFAULT)}" for name in names)


_DEFAULT = "(default)"


def _without_datasets(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings without the datasets: a change of these is a change of inputs."""
    data = [{name: value for name, value in item.items() if name != "dataset"} for item in settings.get("data", ())]
    return {**settings, "data": data}


def _flat(table: Any, path: str = "") -> dict[str, str]:
    """Returns dotted name -> value as JSON of all entries of a table."""
    if isinstance(table, dict) and table:
        return {
            name: v
            for key, value in table.items()
            for name, v in _flat(value, f"{path}.{key}" if path else key).items()
        }
    if isinstance(table, list) and any(isinstance(item, dict) for item in table):
        places = [path] if len(table) == 1 else [f"{path}[{index}]" for index in range(len(table))]
        return {name: value for at, item in zip(places, table, strict=True) for name, value in _flat(item, at).items()}
    return {path: json.dumps(table)}


def plan_study(path: Path, store: Path | None = None) -> Plan:
    """Returns the plan of a study file; runs nothing. The store is by default `runs` next to the file."""
    study = read_study(path)
    place = Store(store if store is not None else path.parent / "runs")
    used = _datasets_used(study)
    keys = {member.name: member.key(place.digest_cache) for member in used}
    datasets = {keys[member.name]: member for member in used}
    trainings: dict[str, PlannedTraining] = {}
    uses: dict[tuple[int, str], tuple[Configuration, PlannedTraining]] = {}
    by_configuration: dict[tuple[int, int, int], str] = {}
    templates: dict[int, Template] = {}

    def plan_training(configuration: Configuration, init: int, draw: int) -> str:
        """Returns the key of a training; plans it, and those that it starts from, where that was not done."""
        place_in_grid = id(configuration), init, draw
        if place_in_grid in by_configuration:
            return by_configuration[place_in_grid]
        if id(configuration) not in templates:
            templates[id(configuration)] = _template(configuration, study, keys, place)
        template, parent = templates[id(configuration)], None
        if configuration.parent is not None:
            parent_init = _parent_init(template, init, draw) if study.spec.independent_parents else init
            parent = plan_training(configuration.parent, parent_init, draw)
        training = _planned_training(configuration, template, init=init, draw=draw, parent=parent)
        training = trainings.setdefault(training.key, training)
        uses.setdefault((id(configuration), training.key), (configuration, training))
        return by_configuration.setdefault(place_in_grid, training.key)

    have_children = {id(c.parent) for configurations in study.configurations.values() for c in configurations}
    for configurations in study.configurations.values():
        for configuration in configurations:
            if not (study.spec.independent_parents and id(configuration) in have_children):
                for init, draw in study.spec.repetitions:
                    plan_training(configuration, init, draw)
    return Plan(study, place, datasets, tuple(trainings.values()), tuple(uses.values()), _evaluations(study, keys))


def _parent_init(template: Template, init: int, draw: int) -> int:
    """Returns the seed of the initial weights of a parent that no other training of the study starts from."""
    return rng.derive("parent", stage_hash(template.settings), init, draw) % 2**31


def _datasets_used(study: Study) -> list[PlannedDataset]:
    """Returns the datasets that a stage trains on or is scored on."""
    names = {i.dataset for configurations in study.configurations.values() for c in configurations for i in c.spec.data}
    names |= {data.dataset for _, data in _evaluated_domains(study)}
    return [member for members in study.datasets.values() for member in members.members if member.name in names]


def _evaluated_domains(study: Study) -> list[tuple[str, DataSpec]]:
    chosen = study.spec.evaluate.domains
    entries = []
    for name in study.spec.domains if chosen == "all" else chosen:
        domain = study.spec.domains[name]
        entry, _ = study.datasets[domain["dataset"]].select(domain)
        entries.append((name, DataSpec.model_validate(entry)))
    return entries


def _evaluations(study: Study, keys: Mapping[str, str]) -> tuple[Evaluation, ...]:
    return tuple(Evaluation(name, keys[data.dataset], data) for name, data in _evaluated_domains(study))


def _template(configuration: Configuration, study: Study, keys: Mapping[str, str], store: Store) -> Template:
    spec = configuration.spec
    if study.spec.evaluate.every_epoch:
        spec = spec.model_copy(update={"keep_epochs": True})
    datasets = tuple(keys[item.dataset] for item in spec.data)
    parent = identity.parent_identity(spec.parent, study.path.parent, store.digest_cache) if spec.parent else None
    settings = identity.shared_settings(spec, datasets)
    return Template(spec, settings, datasets, parent, RepeatedKey(spec, settings, datasets))


def _planned_training(
    configuration: Configuration, template: Template, *, init: int, draw: int, parent: str | None
) -> PlannedTraining:
    key = template.keys.key(init=init, draw=draw, parent=parent or template.parent)
    label = f"{configuration.title}, init {init}, draw {draw}"
    seeds = {"init": init, "draw": draw if template.keys.draws else 0}
    return PlannedTraining(key, label, configuration, template, seeds, parent)
