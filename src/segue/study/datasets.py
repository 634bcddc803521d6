"""The datasets of a study: which specifications make them, their keys, and what a domain selects in them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segue.data import prepare
from segue.data.prepare import PrepareSpec
from segue.errors import SegueError, SpecError
from segue.plate import planning
from segue.plate.assay_spec import PlateSpec
from segue.simulate import series
from segue.simulate.series import SeriesSpec
from segue.spec import attempt, read_toml
from segue.study import grammar
from segue.study.grammar import DatasetSource, Label, Table
from segue.study.store import digest_of

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
            parts["files"] = prepare.digest_inputs(files, cache)
        elif isinstance(self.spec, PlateSpec):
            parts = planning.identity(self.spec, self.where, cache)
        else:
            parts = {"kind": "file", "files": prepare.digest_inputs([self.where], cache)}
        return f"data-{digest_of(parts)}"

    def expected(self) -> Mapping[str, int]:
        """Returns the `tiles` and `bytes` the dataset will have, as far as can be told before it is made."""
        if isinstance(self.spec, SeriesSpec):
            return series.expected(self.spec)
        if isinstance(self.spec, PrepareSpec):
            return prepare.expected(self.spec, self.where)
        if isinstance(self.spec, PlateSpec):
            return planning.expected(self.spec, self.where)
        return {"bytes": self.where.stat().st_size}

    def make(self, out: Path, *, workers: int, progress: Callable[[int, int], None] | None) -> None:
        if isinstance(self.spec, SeriesSpec):
            series.simulate(self.spec, out, workers=workers, progress=progress)
        elif isinstance(self.spec, PrepareSpec):
            prepare.prepare(self.spec, out, where=self.where, workers=workers, progress=progress)
        elif isinstance(self.spec, PlateSpec):
            from segue.plate.assay import assay

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
