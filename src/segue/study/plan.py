"""Plans a study: every distinct stage with its key, what is done, what it needs on disk, and why it runs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from segue import networks
from segue.errors import SegueError
from segue.study.expand import Configuration, Member, Study, read_study
from segue.study.store import Store, digest_of, read_json
from segue.training.spec import VERSION, DataSpec, StageSpec

EVALUATION_VERSION = 4  # of what an evaluation measures; bump it by hand when that changes


@dataclass(frozen=True)
class Train:
    """One distinct training. `parent` is the key of the training it starts from; `inputs` the keys of its datasets."""

    key: str
    label: str  # configuration and seeds in words; names the stage when its key has changed
    configuration: Configuration
    template: StageSpec  # without the repetition's seeds
    seeds: Mapping[str, int]  # init and draw
    parent: str | None
    inputs: tuple[str, ...]
    fingerprint: Mapping[str, Any]  # what the key was made of: version, settings, inputs

    @property
    def spec(self) -> StageSpec:
        """What is trained; made when asked for, since a plan has thousands."""
        return self.template.model_copy(update=self.seeds)


@dataclass(frozen=True)
class Evaluation:
    """The scoring of one run on one domain. `data` names the dataset by its key."""

    domain: str
    dataset: str
    data: DataSpec

    def key(self, part: str, every_epoch: bool) -> str:
        content = {"version": EVALUATION_VERSION, "dataset": self.dataset, "part": part}
        content["conditions"] = self.data.model_dump(mode="json")["conditions"]
        return digest_of(content | ({"every_epoch": True} if every_epoch else {}))


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
    """datasets: key -> how it is made; trains: the distinct trainings, parents first.

    uses: each configuration with each training it needs; a training that two configurations share stands in both.
    """

    study: Study
    store: Store
    datasets: Mapping[str, Member]
    trains: tuple[Train, ...]
    uses: tuple[tuple[Configuration, Train], ...]
    evaluations: tuple[Evaluation, ...]

    @property
    def counts(self) -> tuple[StageCount, ...]:
        repetitions = len(self.study.spec.repetitions)
        names = self.store.names()
        rows = []
        for stage, configurations in self.study.configurations.items():
            own = {train.key: train for used, train in self.uses if used.stage == stage}
            failed = len(self.failed & own.keys())
            finished = sum(key in names for key in own.keys() - self.failed)
            models = len(configurations) * repetitions
            rows.append(StageCount(stage, len(configurations), models, len(own), finished, failed))
        return tuple(rows)

    @cached_property
    def parent_keys(self) -> frozenset[str]:
        """The keys of the trainings that others start from."""
        return frozenset(train.parent for train in self.trains if train.parent)

    @property
    def failed(self) -> frozenset[str]:
        """The keys of the trainings whose last attempt failed, or one of whose evaluations did."""
        names = self.store.names()
        recorded = [train for train in self.trains if f"{train.key}.failed.json" in names]
        return frozenset(train.key for train in recorded if not self.is_complete(train.key))

    def is_complete(self, key: str) -> bool:
        """Returns whether a training is finished and scored on every domain of the plan."""
        files = [self.store.evaluation(key, self.evaluation_key(evaluation)) for evaluation in self.evaluations]
        return (self.store.run(key) / "metrics.json").exists() and all(file.exists() for file in files)

    @property
    def evaluation_count(self) -> int:
        return len(self.trains) * len(self.evaluations)

    def evaluation_key(self, evaluation: Evaluation) -> str:
        return evaluation.key(self.study.spec.evaluate.part, self.study.spec.evaluate.every_epoch)

    def disk(self) -> dict[str, int]:
        """Returns the bytes needed for `datasets` and `weights` not there yet, and those `free` at the store.

        The weights of networks whose size only building them tells are not counted; `uncounted` is their number.
        """
        names = self.store.names()
        missing = [member for key, member in self.datasets.items() if member.kind != "file" and key not in names]
        weights = uncounted = 0
        for train in self.trains:
            if train.key in names:
                continue
            spec = train.template
            parameters = networks.parameter_count(spec.network, channels=1, classes=2)
            kept = train.key in self.parent_keys or self.study.spec.keep == "weights"
            copies = kept * (1 + spec.selects_best) + spec.keep_epochs * spec.epochs
            uncounted += parameters is None and copies > 0
            weights += 4 * (parameters or 0) * copies
        there = next(folder for folder in [self.store.folder, *self.store.folder.absolute().parents] if folder.is_dir())
        return {
            "datasets": sum(member.expected()["bytes"] for member in missing),
            "weights": weights,
            "uncounted": uncounted,
            "free": shutil.disk_usage(there).free,
        }

    def why(self, force: bool = False) -> list[tuple[str, str, str]]:
        """Returns for every dataset and training its key, its name, and why it runs, or that it is there."""
        names = self.store.names()
        known = read_json(self.store.plan_record(self.study.spec.name)) or {}
        rows = []
        for key, member in self.datasets.items():
            there = member.kind == "file" or key in names
            old = known.get(f"dataset {member.name}")
            reason = (
                "finished" if there else "new" if old is None else "input changed" if old != {"key": key} else "missing"
            )
            rows.append((key, f"dataset {member.name}", reason))
        wanting = frozenset(train.parent for train in self.trains if train.key not in names)
        for train in self.trains:
            reason = _reason(train, train.key in names, known.get(train.label), force)
            if reason == "finished" and self._lacks(train, wanting):
                reason = "weights not kept"
            rows.append((train.key, train.label, reason))
        return rows

    def _lacks(self, train: Train, wanting: frozenset[str | None]) -> bool:
        """Returns whether a finished training has to run again for weights that were not kept but are needed."""
        if (self.store.run(train.key) / "weights.safetensors").exists():
            return False
        keys = [self.evaluation_key(evaluation) for evaluation in self.evaluations]
        unscored = any(not self.store.evaluation(train.key, key).exists() for key in keys)
        return unscored or train.key in wanting

    def record(self) -> dict[str, Any]:
        """Returns what `why` compares the next plan with."""
        datasets = {f"dataset {member.name}": {"key": key} for key, member in self.datasets.items()}
        trains = {
            train.label: {
                "key": train.key,
                "version": train.fingerprint["version"],
                "inputs": train.fingerprint["inputs"],
            }
            for train in self.trains
        }
        return datasets | trains


def _reason(train: Train, finished: bool, old: Mapping[str, Any] | None, force: bool) -> str:
    if force:
        return "forced"
    if finished:
        return "finished"
    if old is None or old["key"] == train.key:
        return "new" if old is None else "unfinished"
    if old["version"] != train.fingerprint["version"]:
        return "version bumped"
    if old["inputs"] != train.fingerprint["inputs"]:
        return "input changed"
    return "settings changed"


def plan_study(path: Path, store: Path | None = None) -> Plan:
    """Returns the plan of a study file; runs nothing. The store is `runs` beside the file unless given."""
    study = read_study(path)
    place = Store(store if store is not None else path.parent / "runs")
    used = _used(study)
    keys = {member.name: member.key(place.digest_cache) for member in used}
    datasets = {keys[member.name]: member for member in used}
    trains: dict[str, Train] = {}
    uses: dict[tuple[int, str], tuple[Configuration, Train]] = {}
    by_configuration: dict[tuple[int, int, int], str] = {}
    for configurations in study.configurations.values():
        for configuration in configurations:
            prepared = _prepare(configuration, study, keys, place)
            for init, draw in study.spec.repetitions:
                parent = by_configuration.get((id(configuration.parent), init, draw)) if configuration.parent else None
                train = _train(configuration, prepared, (init, draw), parent)
                train = trains.setdefault(train.key, train)
                uses.setdefault((id(configuration), train.key), (configuration, train))
                by_configuration[id(configuration), init, draw] = train.key
    return Plan(study, place, datasets, tuple(trains.values()), tuple(uses.values()), _evaluations(study, keys))


def _used(study: Study) -> list[Member]:
    """Returns the datasets that a stage trains on or is scored on."""
    names = {i.dataset for found in study.configurations.values() for c in found for i in c.spec.data}
    names |= {data.dataset for _, data in _evaluated(study)}
    return [member for members in study.datasets.values() for member in members.all if member.name in names]


def _evaluated(study: Study) -> list[tuple[str, DataSpec]]:
    chosen = study.spec.evaluate.domains
    found = []
    for name in study.spec.domains if chosen == "all" else chosen:
        domain = study.spec.domains[name]
        entry, _ = study.datasets[domain["dataset"]].select(domain)
        found.append((name, DataSpec.model_validate(entry)))
    return found


def _evaluations(study: Study, keys: Mapping[str, str]) -> tuple[Evaluation, ...]:
    return tuple(Evaluation(name, keys[data.dataset], data) for name, data in _evaluated(study))


@dataclass(frozen=True)
class _Prepared:
    """What the repetitions of a configuration share: its specification, the settings and inputs of its key."""

    spec: StageSpec
    settings: Mapping[str, Any]
    inputs: tuple[str, ...]
    origin: str | None


def _prepare(configuration: Configuration, study: Study, keys: Mapping[str, str], store: Store) -> _Prepared:
    spec = configuration.spec
    if study.spec.evaluate.every_epoch:
        spec = spec.model_copy(update={"keep_epochs": True})
    settings = spec.keyed({"parent", "init", "draw"})
    inputs = tuple(keys[item.dataset] for item in spec.data)
    for item, key in zip(settings["data"], inputs, strict=True):
        item["dataset"] = key
    origin = _external_key(study.path.parent, spec, store) if spec.parent else None
    return _Prepared(spec, settings, inputs, origin)


def _train(configuration: Configuration, prepared: _Prepared, seeds: tuple[int, int], parent: str | None) -> Train:
    spec, (init, draw) = prepared.spec, seeds
    drawn = {"init": init, "draw": draw if spec.draws else 0}
    inputs = [*prepared.inputs, parent or prepared.origin]
    fingerprint = {"version": VERSION, "settings": {**prepared.settings, **drawn}, "inputs": inputs}
    key = f"train-{digest_of({'kind': 'train', **fingerprint})}"
    label = f"{configuration.title}, init {init}, draw {draw}"
    return Train(key, label, configuration, spec, drawn, parent, prepared.inputs, fingerprint)


def _external_key(folder: Path, spec: StageSpec, store: Store) -> str:
    """Returns the identity of a parent that no stage of the study makes: the digest of its weights file."""
    from segue.fingerprint import digest_inputs

    file = external_parent(folder, spec)
    if not file.is_file():
        raise SegueError(
            f"{file}: there are no weights for `from`; give the folder of a finished run or a safetensors file."
        )
    return digest_inputs([file], store.digest_cache)


def external_parent(folder: Path, spec: StageSpec) -> Path:
    """Returns the weights file of a parent outside the study; paths are relative to the study file."""
    assert spec.parent is not None
    if spec.parent.weights is not None:
        return folder / spec.parent.weights
    run = folder / (spec.parent.run or "")
    last = run / "last.safetensors"
    return last if spec.weights == "last" and last.exists() else run / "weights.safetensors"
