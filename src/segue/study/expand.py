"""The datasets of a study: which specifications make them, their keys, and what a domain selects in them.

From a study file to its configurations: every stage's grid, joined to the grids of its ancestors, and checked."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from segue import networks
from segue.data import prepare
from segue.data.spec import PrepareSpec
from segue.errors import SegueError, SpecError
from segue.fingerprint import digest_inputs
from segue.hrtem import series
from segue.hrtem.series import SeriesSpec
from segue.plates import preflight
from segue.plates.spec import PlateSpec
from segue.spec import attempt, read_toml, unknown
from segue.study import grid
from segue.study import grid as grammar
from segue.study.spec import DatasetSource, Label, StudySpec, Table
from segue.study.store import digest_of
from segue.targets.specs import ReconstructionSpec
from segue.training.spec import ParentSpec, StageSpec

MODELS: dict[str, type[SeriesSpec | PrepareSpec | PlateSpec]] = {
    "simulate": SeriesSpec,
    "prepare": PrepareSpec,
    "plate": PlateSpec,
}


@dataclass(frozen=True)
class Member:
    """One dataset: how it is made, and the values that `set` gave it."""

    name: str
    kind: str  # simulate, prepare, plate or file
    where: Path  # the folder that paths of its specification are relative to; the file itself for `file`
    spec: SeriesSpec | PrepareSpec | PlateSpec | None
    values: Mapping[str, Label]

    @property
    def tile_px(self) -> int | None:
        """The side of its tiles, None where only the file tells."""
        if isinstance(self.spec, SeriesSpec):
            return self.spec.imaging.tile_px
        if isinstance(self.spec, PlateSpec):
            return self.spec.tiles.tile_px
        return self.spec.tile_px if self.spec is not None else None

    def key(self, cache: Path) -> str:
        """Returns the dataset's identity; raw files enter by their content, digested once (`cache`)."""
        if isinstance(self.spec, SeriesSpec):
            parts: Any = {"kind": "simulate", "version": series.VERSION, "spec": _settings(self.spec)}
        elif isinstance(self.spec, PrepareSpec):
            files = prepare.input_files(self.spec, self.where)
            parts = {"kind": "prepare", "version": prepare.VERSION, "spec": _settings(self.spec)}
            parts["files"] = digest_inputs(files, cache)
        elif isinstance(self.spec, PlateSpec):
            parts = preflight.identity(self.spec, self.where, cache)
        else:
            parts = {"kind": "file", "files": digest_inputs([self.where], cache)}
        return f"data-{digest_of(parts)}"

    def expected(self) -> Mapping[str, int]:
        """Returns the `tiles` and `bytes` the dataset will have, as far as can be told before it is made."""
        if isinstance(self.spec, SeriesSpec):
            return series.expected(self.spec)
        if isinstance(self.spec, PrepareSpec):
            return prepare.expected(self.spec, self.where)
        if isinstance(self.spec, PlateSpec):
            return preflight.expected(self.spec, self.where)
        return {"bytes": self.where.stat().st_size}

    def make(self, out: Path, *, workers: int, progress: Callable[[int, int], None] | None) -> None:
        if isinstance(self.spec, SeriesSpec):
            series.simulate(self.spec, out, workers=workers, progress=progress)
        elif isinstance(self.spec, PrepareSpec):
            prepare.prepare(self.spec, out, where=self.where, workers=workers, progress=progress)
        elif isinstance(self.spec, PlateSpec):
            from segue.plates.assay import assay

            assay(self.spec, out, where=self.where, workers=workers, progress=_of_wells(progress))


def _of_wells(progress: Callable[[int, int], None] | None) -> Callable[[str, int, int], None] | None:
    """Returns a progress that tells of wells done, and leaves out what is done before the first."""
    return progress and (lambda what, done, total: progress(done, total) if what == "wells" else None)


def _settings(spec: SeriesSpec | PrepareSpec) -> Any:
    return spec.model_dump(mode="json", exclude_defaults=True, exclude={"title"})


@dataclass(frozen=True)
class Members:
    """All the datasets that one entry of `datasets` makes: one, or one for each value of what `set` varies."""

    all: tuple[Member, ...]

    def select(self, domain: Table) -> tuple[Table, str]:
        """Returns the dataset's name and the conditions on its samples for a domain, or a sentence on what is wrong.

        Values that `set` varies choose the dataset; the other entries are conditions on samples.
        """
        varied = {path.rpartition(".")[2] for member in self.all for path in member.values}
        chosen = {key: value for key, value in domain.items() if key in varied}
        fitting = [
            member
            for member in self.all
            if all(_short(member).get(key) == grammar.label(value) for key, value in chosen.items())
        ]
        if len(fitting) != 1:
            there = "; ".join(", ".join(f"{k} = {v}" for k, v in _short(member).items()) for member in self.all)
            return {}, f"fits {len(fitting)} datasets where it must fit one; there are: {there}"
        conditions = {key: value for key, value in domain.items() if key != "dataset" and key not in varied}
        return {"dataset": fitting[0].name, "conditions": conditions}, ""


def _short(member: Member) -> dict[str, Label]:
    return {path.rpartition(".")[2]: value for path, value in member.values.items()}


def members(name: str, source: DatasetSource, folder: Path) -> tuple[Members, list[str]]:
    """Returns the datasets of one entry and the mistakes in it and in its specification."""
    if source.file is not None:
        file = folder / source.file
        if not file.is_file():
            return Members(()), [f"datasets.{name}.file: there is no file {file}; make the dataset, or mend the path"]
        return Members((Member(name, "file", file, None, {}),)), []
    kind, file = next((way, file) for way in MODELS if (file := getattr(source, way)) is not None)
    path = folder / file
    place = f"datasets.{name}.{kind}"
    try:
        base = read_toml(path)
        grid = _grid(source.set)
    except (SegueError, ValueError) as error:
        return Members(()), [f"{place}: {error}"]
    found, mistakes = [], []
    model = MODELS[kind]
    for values in grid:
        table = base
        for dotted, value in values.items():
            table = _override(table, dotted.split("."), value)
        spec, wrong = attempt(model, table)
        if spec is None:
            mistakes += [str(SpecError(f"{place}: {path}", wrong))]
        else:
            varied = {dotted: grammar.label(value) for dotted, value in values.items() if _is_axis(source.set[dotted])}
            label = f"{name}[{', '.join(f'{k}={v}' for k, v in varied.items())}]" if varied else name
            found.append(Member(label, kind, path.parent, spec, varied))
    return Members(tuple(found)), mistakes


def _is_axis(value: Any) -> bool:
    return isinstance(value, dict) and "each" in value


def _grid(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    choices = []
    for path, value in settings.items():
        if _is_axis(value) and not (isinstance(value["each"], list) and value["each"]):
            raise ValueError(f"set.{path}: found {json.dumps(value)}; write {{ each = [first, second, ...] }}")
        choices.append([(path, choice) for choice in (value["each"] if _is_axis(value) else [value])])
    return [dict(combination) for combination in itertools.product(*choices)]


def _override(table: Table, path: list[str], value: Any) -> Table:
    head, *rest = path
    inner = table.get(head)
    return {**table, head: _override(inner if isinstance(inner, dict) else {}, rest, value) if rest else value}


STUDY_KEYS = {"from", "domain", "mix", "pairs", "variants", "images", "groups"}
STAGE_KEYS = set(StageSpec.model_fields) - {"data", "parent", "seed", "init", "draw"}
INHERITED = ("network", "target", "split")


@dataclass(frozen=True)
class Configuration:
    """One point of a study's grid, without its seed.

    axes: "<stage>.<dotted key>" -> value as written in tables, of this stage and its ancestors; own: those of this
    stage alone; table: the stage's table without axes; spec: the same as the training takes it, with names of datasets
    in place of their keys; domain: what it trains on, in words.
    """

    stage: str
    parent: Configuration | None
    axes: Mapping[str, Label]
    own: tuple[str, ...]
    table: Table
    spec: StageSpec
    domain: str

    @cached_property
    def title(self) -> str:
        told = ", ".join(f"{axis} = {value}" for axis, value in self.axes.items())
        return f"{self.stage} ({told})" if told else self.stage

    @property
    def lineage(self) -> dict[str, Configuration]:
        above = self.parent.lineage if self.parent else {}
        return above | {self.stage: self}


@dataclass(frozen=True)
class Study:
    """A study file, read and unfolded. `configurations` lists each stage's, parents first."""

    path: Path
    spec: StudySpec
    datasets: Mapping[str, Members]
    configurations: Mapping[str, tuple[Configuration, ...]]
    parents: Mapping[str, str | None]


def read_study(path: Path) -> Study:
    """Returns the study of a TOML file; raises SpecError with all of its mistakes."""
    data = read_toml(path)
    spec, mistakes = attempt(StudySpec, data)
    if spec is None:
        raise SpecError(str(path), mistakes)
    datasets = {}
    for name, source in spec.datasets.items():
        datasets[name], found = members(name, source, path.parent)
        mistakes += found
    mistakes += _domain_mistakes(spec, datasets) + _swept_at_the_top(spec)
    order, found = _order(spec.stages)
    mistakes += found
    configurations: dict[str, tuple[Configuration, ...]] = {}
    for name in order:
        configurations[name], found = _unfold(name, spec, datasets, configurations)
        mistakes += found
    if mistakes:
        raise SpecError(str(path), list(dict.fromkeys(mistakes)))
    parents = {name: _parent(spec.stages[name]) for name in order}
    return Study(path, spec, datasets, configurations, parents)


def _parent(table: Table) -> str | None:
    parent = table.get("from")
    return parent if isinstance(parent, str) else None


def _order(stages: Mapping[str, Table]) -> tuple[list[str], list[str]]:
    """Returns the stages with parents before children, and the mistakes in `from`."""
    order: list[str] = []
    waiting, mistakes = dict(stages), []
    while waiting:
        ready = [name for name, table in waiting.items() if _parent(table) is None or _parent(table) in order]
        for name in ready:
            order.append(name)
            del waiting[name]
        if not ready:
            for name, table in waiting.items():
                parent = str(_parent(table))
                reason = "a stage cannot descend from itself" if parent in stages else unknown(parent, stages, "stage")
                mistakes.append(f"stages.{name}.from: {reason}")
            break
    return order, mistakes


def _domain_mistakes(spec: StudySpec, datasets: Mapping[str, Members]) -> list[str]:
    mistakes = []
    for name, domain in spec.domains.items():
        dataset = domain.get("dataset")
        if not isinstance(dataset, str) or dataset not in spec.datasets:
            found = "is missing" if dataset is None else unknown(str(dataset), spec.datasets, "dataset")
            mistakes.append(f"domains.{name}.dataset: {found}")
        elif datasets[dataset].all:
            _, problem = datasets[dataset].select(domain)
            mistakes += [f"domains.{name}: {problem}"] if problem else []
    chosen = spec.evaluate.domains
    for name in chosen if isinstance(chosen, list) else []:
        if name not in spec.domains:
            mistakes.append(f"evaluate.domains: {unknown(name, spec.domains, 'domain')}")
    return mistakes


def _swept_at_the_top(spec: StudySpec) -> list[str]:
    return [
        f"{key}: `each` belongs in a stage; write stages.<name>.{key} with the values to vary"
        for key in INHERITED
        if grid.holds_axis(getattr(spec, key))
    ]


def _unfold(
    name: str, spec: StudySpec, datasets: Mapping[str, Members], known: Mapping[str, tuple[Configuration, ...]]
) -> tuple[tuple[Configuration, ...], list[str]]:
    place = f"stages.{name}"
    origin = spec.stages[name].get("from")
    if not (origin is None or isinstance(origin, str) or (isinstance(origin, dict) and "each" not in origin)):
        wanted = 'name one stage, or give { run = "folder" } or { weights = "file" }'
        return (), [f"{place}.from: found {origin!r}; {wanted}; for several parents write a stage for each"]
    try:
        points = grid.unfold(spec.stages[name])
    except ValueError as error:
        return (), [f"{place}.{error}"]
    parent_name = _parent(spec.stages[name])
    parents: tuple[Configuration | None, ...] = known.get(parent_name, ()) if parent_name else (None,)
    tiles = {member.name: member.tile_px for made in datasets.values() for member in made.all}
    mistakes = []
    found = []
    for point in points:
        stage_spec, domain, wrong = _stage_spec(place, point.table, spec, datasets)
        mistakes += wrong
        for parent in parents:
            ruled_out, wrong = _ruled_out(place, point, parent)
            mistakes += wrong
            if ruled_out or stage_spec is None:
                continue
            inherited = _inherited(point.table, parent, spec)
            if isinstance(inherited.get("target"), ReconstructionSpec):
                mistakes.append(
                    f"{place}: starts from a stage that reconstructs images, and says no target of its own; give it "
                    'one, such as target = { name = "boundary" }, or write a [target] for the study'
                )
            own = {f"{name}.{axis}": grid.label(value) for axis, value in point.coordinates.items()}
            axes = dict(parent.axes) | own if parent else own
            differs = any(value != getattr(stage_spec, key) for key, value in inherited.items())
            joined = stage_spec.model_copy(update=inherited) if differs else stage_spec
            mistakes += _unfitting(place, joined, tiles)
            found.append(Configuration(name, parent, axes, tuple(own), point.table, joined, domain))
    if not found and not mistakes and (parents or parent_name is None):
        mistakes.append(f"{place}: `except` leaves no combination; widen `each` or drop `except`")
    return tuple(found), mistakes


def _inherited(table: Table, parent: Configuration | None, spec: StudySpec) -> dict[str, Any]:
    """Returns the settings that a stage has from its parent: those it does not set itself.

    The study's [target] goes before a parent's reconstruction, which serves to start other trainings.
    """
    if parent is None:
        return {}
    found = {key: getattr(parent.spec, key) for key in INHERITED if key not in table}
    if spec.target and isinstance(found.get("target"), ReconstructionSpec):
        del found["target"]
    return found


def _ruled_out(place: str, point: grid.Point, parent: Configuration | None) -> tuple[bool, list[str]]:
    mistakes = []
    for axis, names in point.avoid.items():
        for path in names:
            stage, _, key = path.partition(".")
            ancestor = parent.lineage.get(stage) if parent else None
            if ancestor is None:
                above = ", ".join(parent.lineage) if parent else "none, since it has no `from`"
                mistakes.append(f"{place}.{axis}.except: '{path}' names no ancestor of this stage; ancestors: {above}")
            elif grid.lookup(ancestor.table, key) is None:
                mistakes.append(f"{place}.{axis}.except: stage '{stage}' sets no '{key}'; name a key it sets")
            elif grid.lookup(ancestor.table, key) == point.coordinates[axis]:
                return True, mistakes
    return False, mistakes


def _stage_spec(
    place: str, table: Table, spec: StudySpec, datasets: Mapping[str, Members]
) -> tuple[StageSpec | None, str, list[str]]:
    """Returns the training's specification of one point of the grid, its domain in words, and the mistakes."""
    foreign = [key for key in table if key not in STUDY_KEYS | STAGE_KEYS]
    mistakes = [f"{place}: {unknown(key, STUDY_KEYS | STAGE_KEYS, 'key')}" for key in foreign]
    data, domain, wrong = _data(place, table, spec, datasets)
    mistakes += wrong
    plain: dict[str, Any] = {key: value for key, value in table.items() if key in STAGE_KEYS}
    for key in INHERITED:
        default = getattr(spec, key)
        if key not in plain and default:
            plain[key] = default
    if table.get("keep_epochs") and spec.keep == "metrics":
        mistakes.append(
            f'{place}.keep_epochs: the study says keep = "metrics", which removes all weights; write keep = "weights", '
            "or leave keep_epochs out"
        )
    origin = table.get("from")
    if isinstance(origin, dict):
        external, wrong = attempt(ParentSpec, origin, place=f"{place}.from")
        mistakes += wrong
        plain["from"] = external.model_dump(exclude_none=True) if external else None
    elif "load" in table and origin is None:
        mistakes.append(f"{place}.load: names parts of a parent, but the stage has no `from`; add it or remove load")
    # without data, because of a mistake told already, the rest is checked with a placeholder
    found, wrong = attempt(StageSpec, {**plain, "data": data or [{"dataset": "?"}], "seed": spec.seed}, place=place)
    return (None if mistakes or wrong else found), domain, mistakes + wrong


def _unfitting(place: str, spec: StageSpec, tiles: Mapping[str, int | None]) -> list[str]:
    """Returns a sentence for each dataset to be made whose tiles the network cannot take."""
    mistakes = []
    if isinstance(spec.network.pretrained, Path):
        mistakes.append(
            f"{place}: network.pretrained names a file, whose content a study does not follow; pretrained = true, or "
            "train the stage by itself with `segue train`"
        )
    for item in spec.data:
        side = tiles.get(item.dataset)
        if side is not None:
            try:
                networks.require_fit(spec.network, (1, side, side), f"{place}: dataset '{item.dataset}'")
            except SegueError as error:
                mistakes.append(str(error))
    return mistakes


def _data(
    place: str, table: Table, spec: StudySpec, datasets: Mapping[str, Members]
) -> tuple[list[Table], str, list[str]]:
    """Returns what StageSpec.data takes, from `domain` or `mix`."""
    if ("domain" in table) == ("mix" in table):
        return [], "", [f"{place}: give either `domain` or `mix`, which say what the stage trains on"]
    if "domain" in table:
        counts = {key: table[key] for key in ("images", "groups") if key in table}
        items: Any = [{"domain": table["domain"], **counts}]
        described = str(table["domain"])
    else:
        items = table["mix"]
        if not (isinstance(items, list) and items and all(isinstance(i, dict) and "domain" in i for i in items)):
            return [], "", [f'{place}.mix: found {items!r}; write mix = [{{ domain = "a", images = 128 }}, ...]']
        if "images" in table or "groups" in table:
            return [], "", [f"{place}: with `mix` the numbers of images stand in its items; remove images and groups"]
        described = grid.mixture(items)
    data, mistakes = [], []
    for item in items:
        domain = spec.domains.get(item["domain"]) if isinstance(item["domain"], str) else None
        if domain is None:
            mistakes.append(f"{place}.domain: {unknown(str(item['domain']), spec.domains, 'domain')}")
        elif (source := datasets.get(str(domain.get("dataset")))) is not None and source.all:
            entry, _ = source.select(domain)
            data.append({**entry, **{key: value for key, value in item.items() if key != "domain"}})
    return data, described, mistakes
