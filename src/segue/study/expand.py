"""From a study file to its configurations: every stage's grid, joined to the grids of its ancestors, and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from segue import networks
from segue.errors import SegueError, SpecError
from segue.spec import MAX_MISTAKES, attempt, read_toml, unknown, unknown_key
from segue.study import grid
from segue.study.datasets import DatasetFamily, PlannedDataset, dataset_family
from segue.study.spec import MAX_TRAININGS, Label, StudySpec, Table
from segue.training.spec import ParentSpec, StageSpec

STUDY_KEYS = {"from", "domain", "mix", "pairs", "variants", "images", "groups"}
STAGE_KEYS = set(StageSpec.model_fields) - {"data", "parent", "seed", "init", "draw"}
INHERITED = ("network", "target", "split")


@dataclass(frozen=True)
class Configuration:
    """One point of a study's grid, without its seed.

    axes: "<stage>.<dotted key>" -> value as written in tables, of this stage and its ancestors; own_axes: those of this
    stage alone; table: the stage's table without axes; spec: the specification of the training, with names of datasets
    in place of their keys; domain: the training data, in words.
    """

    stage: str
    parent: Configuration | None
    axes: Mapping[str, Label]
    own_axes: tuple[str, ...]
    table: Table
    spec: StageSpec
    domain: str

    @cached_property
    def title(self) -> str:
        axes = ", ".join(f"{axis} = {value}" for axis, value in self.axes.items())
        return f"{self.stage} ({axes})" if axes else self.stage

    @property
    def lineage(self) -> dict[str, Configuration]:
        youngest_first: list[Configuration] = [self]
        while (parent := youngest_first[-1].parent) is not None:
            youngest_first.append(parent)
        return {configuration.stage: configuration for configuration in reversed(youngest_first)}


@dataclass(frozen=True)
class Study:
    """A study file, read and expanded. `configurations` lists each stage's, parents first."""

    path: Path
    spec: StudySpec
    datasets: Mapping[str, DatasetFamily]
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
        datasets[name], problems = dataset_family(name, source, path.parent)
        mistakes += problems
    mistakes += _domain_mistakes(spec, datasets) + _swept_at_the_top(spec)
    order, problems = _order(spec.stages)
    mistakes += problems
    configurations: dict[str, tuple[Configuration, ...]] = {}
    for name in order:
        configurations[name], problems = _expand_stage(name, spec, datasets, configurations)
        mistakes += problems
    if mistakes:
        raise SpecError(str(path), list(dict.fromkeys(mistakes)))
    trainings = sum(map(len, configurations.values())) * len(spec.repetitions)
    if trainings > MAX_TRAININGS:
        raise SegueError(
            f"{path}: its configurations and seeds make {trainings:,} trainings; allowed are {MAX_TRAININGS:,}: lower "
            "seeds, vary fewer settings, or divide the study."
        )
    parents = {name: _parent(spec.stages[name]) for name in order}
    return Study(path, spec, datasets, configurations, parents)


def _parent(table: Table) -> str | None:
    parent = table.get("from")
    return parent if isinstance(parent, str) else None


def _order(stages: Mapping[str, Table]) -> tuple[list[str], list[str]]:
    """Returns the stages with parents before children, and the mistakes in `from`."""
    children: dict[str | None, list[str]] = {}
    for name, table in stages.items():
        children.setdefault(_parent(table), []).append(name)
    place = {name: index for index, name in enumerate(stages)}
    order: list[str] = []
    ready = children.get(None, [])
    while ready:  # a generation after the other
        order += ready
        ready = sorted((child for name in ready for child in children.get(name, ())), key=lambda name: place[name])
    ordered = set(order)
    mistakes = []
    for name, table in stages.items():
        if name not in ordered:
            parent = str(_parent(table))
            reason = "a stage cannot be its own ancestor" if parent in stages else unknown(parent, stages, "stage")
            mistakes.append(f"stages.{name}.from: {reason}")
    return order, mistakes


def _domain_mistakes(spec: StudySpec, datasets: Mapping[str, DatasetFamily]) -> list[str]:
    mistakes = []
    for name, domain in spec.domains.items():
        dataset = domain.get("dataset")
        if not isinstance(dataset, str) or dataset not in spec.datasets:
            problem = "is missing" if dataset is None else unknown(str(dataset), spec.datasets, "dataset")
            mistakes.append(f"domains.{name}.dataset: {problem}")
        elif datasets[dataset].members:
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


def _expand_stage(
    name: str, spec: StudySpec, datasets: Mapping[str, DatasetFamily], known: Mapping[str, tuple[Configuration, ...]]
) -> tuple[tuple[Configuration, ...], list[str]]:
    prefix = f"stages.{name}"
    origin = spec.stages[name].get("from")
    if not (origin is None or isinstance(origin, str) or (isinstance(origin, dict) and "each" not in origin)):
        allowed = 'name one stage, or give { run = "folder" } or { weights = "file" }'
        return (), [f"{prefix}.from: found {origin!r}; {allowed}; for several parents write a stage for each"]
    try:
        points = grid.expand_grid(spec.stages[name])
    except ValueError as error:
        return (), [f"{prefix}.{error}"]
    parent_name = _parent(spec.stages[name])
    parents: tuple[Configuration | None, ...] = known.get(parent_name, ()) if parent_name else (None,)
    try:
        grid.require_few(len(points) * len(parents) + sum(map(len, known.values())))
    except ValueError as error:
        return (), [f"{prefix}.{error}"]
    members = {dataset.name: dataset for family in datasets.values() for dataset in family.members}
    tiles = {name: dataset.tile_px for name, dataset in members.items()}
    configurations, mistakes = [], []
    for point in points:
        stage_spec, domain, problems = _stage_spec(prefix, point.table, spec, datasets)
        mistakes += problems
        for parent in parents:
            is_excluded, problems = _is_excluded(prefix, point, parent)
            mistakes += problems
            if is_excluded or stage_spec is None:
                continue
            inherited = _inherited(point.table, parent, spec)
            if _needs_no_labels(inherited):
                mistakes.append(
                    f"{prefix}: starts from a stage that reconstructs images, but has no target; give it "
                    'one, such as target = { name = "boundary" }, or write a [target] for the study'
                )
            own_axes = {f"{name}.{axis}": grid.label(value) for axis, value in point.coordinates.items()}
            axes = {**(parent.axes if parent else {}), **own_axes}
            differs = any(value != getattr(stage_spec, key) for key, value in inherited.items())
            joined = stage_spec.model_copy(update=inherited) if differs else stage_spec
            mistakes += _network_mistakes(prefix, joined, tiles) + _render_mistakes(prefix, joined, members)
            configurations.append(Configuration(name, parent, axes, tuple(own_axes), point.table, joined, domain))
    if not configurations and not mistakes and (parents or parent_name is None):
        mistakes.append(f"{prefix}: `except` leaves no combination; widen `each` or drop `except`")
    return tuple(configurations), mistakes


def _inherited(table: Table, parent: Configuration | None, spec: StudySpec) -> dict[str, Any]:
    """Returns the settings that a stage has from its parent: those it does not set itself.

    The study's [target] takes precedence over a parent's reconstruction, which serves to start other trainings.
    """
    if parent is None:
        return {}
    inherited = {key: getattr(parent.spec, key) for key in INHERITED if key not in table}
    if spec.target and _needs_no_labels(inherited):
        del inherited["target"]
    return inherited


def _needs_no_labels(settings: dict[str, Any]) -> bool:
    return "target" in settings and settings["target"].label_kind == "none"


def _is_excluded(prefix: str, point: grid.GridPoint, parent: Configuration | None) -> tuple[bool, list[str]]:
    mistakes = []
    for axis, names in point.excluded.items():
        for path in names:
            stage, _, key = path.partition(".")
            ancestor = parent.lineage.get(stage) if parent else None
            if ancestor is None:
                above = ", ".join(parent.lineage) if parent else "none, since it has no `from`"
                mistakes.append(f"{prefix}.{axis}.except: '{path}' names no ancestor of this stage; ancestors: {above}")
            elif grid.lookup(ancestor.table, key) is None:
                mistakes.append(f"{prefix}.{axis}.except: stage '{stage}' sets no '{key}'; name a key it sets")
            elif grid.lookup(ancestor.table, key) == point.coordinates[axis]:
                return True, mistakes
    return False, mistakes


def _stage_spec(
    prefix: str, table: Table, spec: StudySpec, datasets: Mapping[str, DatasetFamily]
) -> tuple[StageSpec | None, str, list[str]]:
    """Returns the training's specification of one point of the grid, its domain in words, and the mistakes."""
    foreign = [key for key in table if key not in STUDY_KEYS | STAGE_KEYS][:MAX_MISTAKES]
    mistakes = [f"{prefix}: {unknown_key(StageSpec, key, STUDY_KEYS | STAGE_KEYS)}" for key in foreign]
    data, domain, problems = _data(prefix, table, spec, datasets)
    mistakes += problems
    plain: dict[str, Any] = {key: value for key, value in table.items() if key in STAGE_KEYS}
    for key in INHERITED:
        default = getattr(spec, key)
        if key not in plain and default:
            plain[key] = default
    if table.get("keep_epochs") and spec.keep == "metrics":
        mistakes.append(
            f'{prefix}.keep_epochs: the study says keep = "metrics", which removes all weights; write '
            'keep = "weights", or leave keep_epochs out'
        )
    origin = table.get("from")
    if isinstance(origin, dict):
        external, problems = attempt(ParentSpec, origin, prefix=f"{prefix}.from")
        mistakes += problems
        plain["from"] = external.model_dump(exclude_none=True) if external else None
    elif "load" in table and origin is None:
        mistakes.append(f"{prefix}.load: names parts of a parent, but the stage has no `from`; add it or remove load")
    # without data, because of a mistake already in the list, the rest is checked with a placeholder
    stage_spec, problems = attempt(
        StageSpec, {**plain, "data": data or [{"dataset": "?"}], "seed": spec.seed}, prefix=prefix
    )
    return (None if mistakes or problems else stage_spec), domain, mistakes + problems


def _network_mistakes(prefix: str, spec: StageSpec, tiles: Mapping[str, int | None]) -> list[str]:
    """Returns the mistakes of the network: a file of weights, or a dataset with tiles of unsuitable size."""
    mistakes = []
    if isinstance(spec.network.pretrained, Path):
        mistakes.append(
            f"{prefix}: network.pretrained names a file, which a study does not support; set pretrained = true, or "
            "train the stage by itself with `segue train`"
        )
    for item in spec.data:
        side = tiles.get(item.dataset)
        if side is not None:
            try:
                networks.require_fit(spec.network, (1, side, side), f"{prefix}: dataset '{item.dataset}'")
            except SegueError as error:
                mistakes.append(str(error))
    return mistakes


def _render_mistakes(prefix: str, spec: StageSpec, members: Mapping[str, PlannedDataset]) -> list[str]:
    """Returns the datasets to be made that will have no exit waves, for a stage that renders its images from them."""
    used = [members[item.dataset] for item in spec.data if item.dataset in members]
    return [
        f"{prefix}.render: dataset '{dataset.name}' keeps no exit waves; name a waves_folder in its series"
        for dataset in used
        if spec.render is not None and dataset.kind != "file" and getattr(dataset.spec, "waves_folder", None) is None
    ]


def _data(
    prefix: str, table: Table, spec: StudySpec, datasets: Mapping[str, DatasetFamily]
) -> tuple[list[Table], str, list[str]]:
    """Returns StageSpec.data, from `domain` or `mix`."""
    if ("domain" in table) == ("mix" in table):
        return [], "", [f"{prefix}: give either `domain` or `mix`, the training data of the stage"]
    if "domain" in table:
        counts = {key: table[key] for key in ("images", "groups") if key in table}
        items: Any = [{"domain": table["domain"], **counts}]
        described = str(table["domain"])
    else:
        items = table["mix"]
        if not (isinstance(items, list) and items and all(isinstance(i, dict) and "domain" in i for i in items)):
            return [], "", [f'{prefix}.mix: found {items!r}; write mix = [{{ domain = "a", images = 128 }}, ...]']
        if "images" in table or "groups" in table:
            return [], "", [f"{prefix}: with `mix`, numbers of images are given in its items; remove images and groups"]
        described = grid.mixture(items)
    data, mistakes = [], []
    for item in items:
        domain = spec.domains.get(item["domain"]) if isinstance(item["domain"], str) else None
        if domain is None:
            mistakes.append(f"{prefix}.domain: {unknown(str(item['domain']), spec.domains, 'domain')}")
        elif (source := datasets.get(str(domain.get("dataset")))) is not None and source.members:
            entry, _ = source.select(domain)
            data.append({**entry, **{key: value for key, value in item.items() if key != "domain"}})
    return data, described, mistakes
