"""The datasets of a study: the specifications that make them, their keys, and the selection of a domain in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segue.errors import SegueError, SpecError
from segue.fingerprint import hash_files, stage_hash
from segue.spec import SpecModel, attempt, read_toml, validate
from segue.storage import file_names, is_file
from segue.study import grid
from segue.study.spec import DatasetSource, Label, Table
from segue.training.identity import dataset_identity

if TYPE_CHECKING:
    from segue.hrtem.series import SeriesSpec
    from segue.plates.spec import PlateSpec

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Maker:
    """How one kind of specification makes a dataset; paths in a specification are relative to `root`.

    tile_px(spec): the side of its tiles; inputs(spec, root): computed once for the next two; identity(spec, root,
    inputs, cache): the content of its key, raw files by their content (`cache`: hashes of unchanged files);
    expected(spec, root, inputs): the `tiles` and `bytes` it will have; make(spec, out, root, workers, progress);
    shared_bytes(spec, root, inputs): the folders of files that other datasets share, and the bytes they still need.
    """

    spec: type[SpecModel]
    tile_px: Callable[[Any], int]
    inputs: Callable[[Any, Path], Any]
    identity: Callable[[Any, Path, Any, Path], Mapping[str, Any]]
    expected: Callable[[Any, Path, Any], Mapping[str, int]]
    make: Callable[[Any, Path, Path, int, Progress | None], object]
    shared_bytes: Callable[[Any, Path, Any], Mapping[Path, int]] = lambda spec, root, inputs: {}


def _settings(spec: SpecModel) -> Any:
    return spec.model_dump(mode="json", exclude_defaults=True, exclude={"title"})


def _simulation() -> Maker:
    from segue.hrtem import series

    return Maker(
        series.SeriesSpec,
        tile_px=lambda spec: spec.imaging.tile_px,
        inputs=series.resolve,
        identity=lambda spec, root, inputs, cache: {
            "kind": "simulate", "version": series.VERSION, "spec": _settings(inputs)
        },
        expected=lambda spec, root, inputs: series.expected(spec),
        make=lambda spec, out, root, workers, progress: series.simulate(
            spec, out, root=root, workers=workers, progress=progress
        ),
        shared_bytes=lambda spec, root, inputs: series.missing_waves(inputs, root),
    )  # fmt: skip


def _preparation() -> Maker:
    from segue.data import prepare
    from segue.data.folders.pairing import pair_files

    return Maker(
        prepare.PrepareSpec,
        tile_px=lambda spec: spec.tile_px,
        inputs=pair_files,
        identity=lambda spec, root, inputs, cache: {
            "kind": "prepare", "version": prepare.VERSION, "spec": _settings(spec),
            "files": hash_files(inputs.paths, cache),
        },
        expected=lambda spec, root, inputs: prepare.expected(spec, inputs),
        make=lambda spec, out, root, workers, progress: prepare.prepare(
            spec, out, root=root, workers=workers, progress=progress
        ),
    )  # fmt: skip


def _plate() -> Maker:
    from segue.plates import preflight
    from segue.plates.spec import PlateSpec

    return Maker(
        PlateSpec,
        tile_px=lambda spec: spec.tiles.tile_px,
        inputs=lambda spec, root: None,
        identity=lambda spec, root, inputs, cache: preflight.identity(spec, root, cache),
        expected=lambda spec, root, inputs: preflight.estimate_size(spec, root),
        make=_make_plate,
    )


def _make_plate(spec: PlateSpec, out: Path, root: Path, workers: int, progress: Progress | None) -> None:
    from segue.plates.assay import assay

    def wells_alone(what: str, done: int, total: int) -> None:  # not what is done before the first well
        if progress is not None and what == "wells":
            progress(done, total)

    assay(spec, out, root=root, workers=workers, progress=wells_alone)


MAKERS: dict[str, Callable[[], Maker]] = {  # each imports what it needs when it is called: most studies have one kind
    "simulate": _simulation,
    "prepare": _preparation,
    "plate": _plate,
}


@dataclass(frozen=True)
class PlannedDataset:
    """One dataset of a study: made from a specification, or the user's own file.

    kind: a key of `MAKERS`, or "file"; root: the folder that paths of the specification are relative to, or the file
    itself; values: those of the settings that `set` varies.
    """

    name: str
    kind: str
    root: Path
    spec: SpecModel | None
    values: Mapping[str, Label]

    @property
    def tile_px(self) -> int | None:
        """The side of its tiles, None where only the file has it."""
        return None if self.spec is None else MAKERS[self.kind]().tile_px(self.spec)

    @cached_property
    def _inputs(self) -> Any:
        return None if self.spec is None else MAKERS[self.kind]().inputs(self.spec, self.root)

    def key(self, cache: Path) -> str:
        """Returns the dataset's identity; raw files enter by their content, hashed once (`cache`)."""
        if self.spec is None:
            return dataset_identity(self.root, cache)
        return f"data-{stage_hash(MAKERS[self.kind]().identity(self.spec, self.root, self._inputs, cache))}"

    def expected(self) -> Mapping[str, int]:
        """Returns the `tiles` and `bytes` the dataset will have, as far as they are known before it is made."""
        if self.spec is None:
            return {"bytes": self.root.stat().st_size}
        return MAKERS[self.kind]().expected(self.spec, self.root, self._inputs)

    def shared_bytes(self) -> Mapping[Path, int]:
        """Returns the folders of what other datasets share, and the bytes that they still need."""
        return {} if self.spec is None else MAKERS[self.kind]().shared_bytes(self.spec, self.root, self._inputs)

    def make(self, out: Path, *, workers: int, progress: Progress | None) -> None:
        if self.spec is not None:
            MAKERS[self.kind]().make(self.spec, out, self.root, workers, progress)

    @property
    def varied(self) -> dict[str, Label]:
        """The values that `set` varies, by the last part of their dotted name."""
        return {path.rpartition(".")[2]: value for path, value in self.values.items()}


@dataclass(frozen=True)
class DatasetFamily:
    """All the datasets that one entry of `datasets` makes: one, or one per combination of the values in `set`."""

    members: tuple[PlannedDataset, ...]

    def select(self, domain: Table) -> tuple[Table, str]:
        """Returns the dataset's name and the conditions on its samples for a domain, or a message on a mistake.

        Values that `set` varies choose the dataset; the other entries are conditions on samples.
        """
        names = {name for dataset in self.members for name in dataset.varied}
        chosen = {key: grid.label(value) for key, value in domain.items() if key in names}
        matching = [
            dataset
            for dataset in self.members
            if all(dataset.varied.get(key) == value for key, value in chosen.items())
        ]
        if len(matching) != 1:
            values = (", ".join(f"{key} = {value}" for key, value in one.varied.items()) for one in self.members)
            return {}, f"fits {len(matching)} datasets where it must fit one; there are: {'; '.join(values)}"
        conditions = {key: value for key, value in domain.items() if key != "dataset" and key not in names}
        return {"dataset": matching[0].name, "conditions": conditions}, ""


def dataset_family(name: str, source: DatasetSource, folder: Path) -> tuple[DatasetFamily, list[str]]:
    """Returns the datasets of one entry and the mistakes in it and in its specification."""
    if source.file is not None:
        file = folder / source.file
        if not is_file(file):
            mistake = f"datasets.{name}.file: there is no file {file}; make the dataset, or correct the path"
            return DatasetFamily(()), [mistake]
        return DatasetFamily((PlannedDataset(name, "file", file, None, {}),)), []
    kind, file = next((kind, file) for kind in MAKERS if (file := getattr(source, kind)) is not None)
    path, prefix = folder / file, f"datasets.{name}.{kind}"
    try:
        expanded = expand_specification(path, source.set)
    except (SegueError, ValueError) as error:
        return DatasetFamily(()), [f"{prefix}: {error}"]
    datasets, mistakes, maker = [], [], MAKERS[kind]()
    for table, varied in expanded:
        spec, problems = attempt(maker.spec, table)
        if spec is None:
            mistakes.append(str(SpecError(f"{prefix}: {path}", problems)))
        else:
            label = f"{name}[{', '.join(f'{k}={v}' for k, v in varied.items())}]" if varied else name
            datasets.append(PlannedDataset(label, kind, path.parent, spec, varied))
    return DatasetFamily(tuple(datasets)), mistakes


def expand_specification(path: Path, settings: Mapping[str, Any]) -> list[tuple[Table, dict[str, Label]]]:
    """Returns the tables of a specification, one for each combination of the values of `each` in it, and these values.

    `settings` override the file's by dotted name. Raises SegueError for a file that cannot be read and ValueError for a
    mistaken `each`.
    """
    table = read_toml(path)
    for dotted, value in settings.items():
        table = grid.override(table, dotted.split("."), value)
    return [
        (expanded, {dotted: grid.label(value) for dotted, value in values.items()})
        for expanded, values in grid.expand_each(table)
    ]


def series_files(path: Path, out: Path) -> dict[Path, SeriesSpec]:
    """Returns the datasets that a specification of HRTEM series makes, and the series of each.

    It is `out`, or of a specification with `each` a file in the folder `out` for each combination of its values. Raises
    SegueError for mistakes in any of them.
    """
    from segue.hrtem.series import SeriesSpec

    try:
        expanded = expand_specification(path, {})
    except ValueError as error:
        raise SpecError(str(path), [str(error)]) from None
    specs = [validate(SeriesSpec, table, context=str(path)) for table, _ in expanded]
    if not any(values for _, values in expanded):
        return {out: specs[0]}
    if out.suffix or is_file(out):
        raise SegueError(f"{out}: {path} makes {len(specs)} datasets, one for each of its values; give a folder.")
    labels = [
        "-".join([spec.name, *map(str, values.values())]) for spec, (_, values) in zip(specs, expanded, strict=True)
    ]
    names = file_names(labels)
    return {out / f"{names[label]}.h5": spec for label, spec in zip(labels, specs, strict=True)}
