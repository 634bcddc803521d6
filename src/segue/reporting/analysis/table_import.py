"""Results from a table alone: segue's own, or one made elsewhere whose columns a small file maps.

A mapping is TOML. For a table with a row per run and a column per evaluated domain (wide)::

    [domains]
    unit = "nm"                                # written after the text that stands for {domain} in the columns

    [stages.pretrain]
    domain = "pretrain_defocus_nm"             # the column that says what was trained on
    values = "pretrain_loss_at_{domain}"       # the columns that hold the metric, one per evaluated domain
    axes   = { "optimizer.lr" = "pretrain_lr" }

For one that is long already, ``[columns]`` gives our name = theirs.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from segue.errors import SegueError
from segue.reporting.analysis.comparison import IDENTITY
from segue.spec import SpecModel, load
from segue.study.table import StudyResults

MAX_COLUMNS_NAMED = 12  # in a message


class ImportedDomains(SpecModel):
    """How evaluated domains are written."""

    unit: str = ""


class ImportedStage(SpecModel):
    """The columns of a stage in a wide table, by name; `values` contains one "{domain}"."""

    domain: str
    values: str
    axes: dict[str, str] = {}
    parent: str | None = None
    labels: str | None = None
    seed_init: str | None = None
    seed_draw: str | None = None


class ColumnMapping(SpecModel):
    """The meaning of the columns of a table made elsewhere. `floor` is subtracted from a raw loss for loss_adjusted."""

    title: str = ""
    question: str = ""
    metric: str = "loss"
    floor: float | None = None
    split: str = "evaluation"
    label_unit: str = "images"
    domains: ImportedDomains = ImportedDomains()
    columns: dict[str, str] = {}
    stages: dict[str, ImportedStage] = {}


def from_table(path: Path, *, columns: Path | None = None) -> StudyResults:
    """Returns the results that a Parquet or CSV table holds; `columns` is a mapping file for tables made elsewhere.

    Such a page has no histories, examples, failures or costs. Raises SegueError when the table cannot be read, or
    lacks the columns of a tidy table and no mapping is given.
    """
    table = _read(path)
    mapping = load(ColumnMapping, columns) if columns else ColumnMapping()
    for ours, theirs in mapping.columns.items():
        _require_column(table, theirs, f"{columns}: columns.{ours}", path)
    table = table.rename(columns={theirs: ours for ours, theirs in mapping.columns.items()})
    return _from_wide(table, mapping, path, columns or path) if mapping.stages else _from_tidy(table, mapping, path)


def _read(path: Path) -> pd.DataFrame:
    if not path.exists():
        raise SegueError(f"{path}: there is no such file; give a study or a table (.parquet or .csv).")
    if (path / "spec.json").is_file():
        raise SegueError(
            f"{path}: is a run; a page is of a study, of one stage or many. `segue evaluate {path} DATASET` scores the "
            f"run, `segue inspect {path}` describes it; for a page, write its stage as that of a study and run it."
        )
    if path.suffix.lower() not in (".parquet", ".csv"):
        raise SegueError(f"{path}: is neither a study nor a table; allowed: .toml, .parquet, .csv.")
    try:
        return pd.read_parquet(path) if path.suffix.lower() == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise SegueError(f"{path}: cannot be read as a table ({error}); make it again.") from None


def _require_column(table: pd.DataFrame, column: str, context: str, path: Path) -> None:
    if column not in table.columns:
        names = list(map(str, table.columns))
        more = ", …" if len(names) > MAX_COLUMNS_NAMED else ""
        listed = ", ".join(names[:MAX_COLUMNS_NAMED]) + more
        raise SegueError(f"{context}: '{column}' is not a column of {path}; it has {listed}.")


def _from_tidy(table: pd.DataFrame, mapping: ColumnMapping, path: Path) -> StudyResults:
    missing = [column for column in IDENTITY if column not in table.columns]
    if missing:
        raise SegueError(
            f"{path}: has no column {', '.join(missing)}; a tidy table has {', '.join(IDENTITY)} and a metric."
            " Map the columns of a table made elsewhere with --columns FILE.toml."
        )
    if "parent" in table.columns:
        table = table.assign(parent=table["parent"].fillna(""))
    parents = _parents(table)
    axes = {
        stage: [c for c in map(str, table.columns) if c.startswith(f"{stage}.") and table[c].notna().any()]
        for stage in parents
    }
    return _results(table, mapping, path, axes, parents)


def _parents(table: pd.DataFrame) -> dict[str, str | None]:
    """Returns stage -> the stage its runs start from, parents first."""
    stages = list(map(str, table["stage"].unique()))
    parents: dict[str, str | None] = dict.fromkeys(stages)
    if "parent" in table.columns:
        stage_of = dict(zip(table["run"], table["stage"], strict=True))
        for stage, runs in table.groupby("stage"):
            known = [stage_of[parent] for parent in runs["parent"].unique() if parent in stage_of]
            parents[str(stage)] = str(known[0]) if known else None
    ordered: dict[str, str | None] = {}
    while len(ordered) < len(stages):
        ready = [s for s in stages if s not in ordered and (parents[s] is None or parents[s] in ordered)]
        if not ready:
            raise SegueError(f"table: the stages {', '.join(stages)} are parents of one another; the table is damaged.")
        ordered.update({stage: parents[stage] for stage in ready})
    return ordered


def _from_wide(table: pd.DataFrame, mapping: ColumnMapping, path: Path, source: Path) -> StudyResults:
    """Returns the results of a table with a row per model; errors name `source`, the file with the mapping."""
    unknown_parents = [s.parent for s in mapping.stages.values() if s.parent and s.parent not in mapping.stages]
    if unknown_parents:
        raise SegueError(
            f"{source}: parent '{unknown_parents[0]}' is not a stage; allowed: {', '.join(mapping.stages)}."
        )
    parts: list[pd.DataFrame] = []
    for name, stage in mapping.stages.items():
        for column in [stage.domain, *stage.axes.values(), *filter(None, (stage.labels, stage.seed_init))]:
            _require_column(table, column, f"{source}: stages.{name}", path)
        parts += _melt(table, mapping, name, source)
    parents = {name: stage.parent for name, stage in mapping.stages.items()}
    axes = {
        name: [f"{name}.domain", *(f"{name}.{axis}" for axis in stage.axes)] for name, stage in mapping.stages.items()
    }
    return _results(pd.concat(parts, ignore_index=True), mapping, path, axes, parents)


def _melt(table: pd.DataFrame, mapping: ColumnMapping, name: str, source: Path) -> list[pd.DataFrame]:
    """Returns the rows of one stage, a frame per evaluated domain; run "<stage>-<row>" starts from "<parent>-<row>"."""
    stage = mapping.stages[name]
    evaluated = _value_columns(table, stage.values, source)
    unit = f" {mapping.domains.unit}" if mapping.domains.unit else ""
    position = pd.Series(range(len(table)), index=table.index).astype(str)
    shared = pd.DataFrame({"stage": name, "run": f"{name}-" + position, "status": "finished"}, index=table.index)
    shared["study"] = mapping.title or "imported"
    shared["parent"] = f"{stage.parent}-" + position if stage.parent else ""
    shared["domain"] = _domain_names(table[stage.domain], list(evaluated), unit, f"{source}: stages.{name}.domain")
    # the settings of the stage and of its ancestors
    lineage, ancestor = [name], stage.parent
    while ancestor:
        lineage.append(ancestor)
        ancestor = mapping.stages[ancestor].parent
    for member in reversed(lineage):
        settings = mapping.stages[member]
        names = list(_value_columns(table, settings.values, source))
        context = f"{source}: stages.{member}.domain"
        shared[f"{member}.domain"] = _domain_names(table[settings.domain], names, unit, context)
        for axis, column in settings.axes.items():
            shared[f"{member}.{axis}"] = table[column]
    for ours, theirs in (("labels", stage.labels), ("seed_init", stage.seed_init), ("seed_draw", stage.seed_draw)):
        if theirs:
            shared[ours] = table[theirs]
    shared["label_unit"] = mapping.label_unit
    shared["split"] = mapping.split
    parts = []
    for text, column in evaluated.items():
        part = shared.assign(evaluated_domain=text + unit)
        part[mapping.metric] = table[column]
        if mapping.floor is not None:
            part["loss_floor"], part["loss_adjusted"] = mapping.floor, table[column] - mapping.floor
        parts.append(part)
    return parts


def _value_columns(table: pd.DataFrame, pattern: str, source: Path) -> dict[str, str]:
    """Returns text that stands for {domain} -> column, for every column of the pattern."""
    if pattern.count("{domain}") != 1:
        raise SegueError(f"{source}: values '{pattern}' names no column per domain; write {{domain}} once in it.")
    head, tail = pattern.split("{domain}")
    matches = {str(column): re.fullmatch(re.escape(head) + "(.+)" + re.escape(tail), str(column)) for column in table}
    columns = {match.group(1): column for column, match in matches.items() if match}
    if not columns:
        raise SegueError(f"{source}: no column of the table is of the form '{pattern}'; correct the pattern.")
    return columns


def _domain_names(values: pd.Series, written: list[str], unit: str, context: str) -> pd.Series:
    """Returns the domains as the value columns write them: the number 5 becomes "+5" where a column says +5."""

    def as_number(text: object) -> float | None:
        try:
            return float(str(text))
        except ValueError:
            return None

    by_number = {as_number(text): text for text in written if as_number(text) is not None}
    names = {}
    for value in values.unique():
        name = str(value) if str(value) in written else by_number.get(as_number(value))
        if name is None:
            raise SegueError(
                f"{context}: found '{value}', for which there is no column; there are {', '.join(written)}."
            )
        names[value] = name + unit
    return values.map(names)


def _results(
    table: pd.DataFrame, mapping: ColumnMapping, path: Path, axes: dict[str, list[str]], parents: dict[str, str | None]
) -> StudyResults:
    runs = table.drop_duplicates("run")
    columns = [axis for stage_axes in axes.values() for axis in stage_axes if axis in table.columns]
    outcomes = [stage for stage in parents if stage not in parents.values()]
    models = runs[runs["stage"].isin(outcomes)]
    counts = {
        "configurations": len(models.drop_duplicates(["stage", "domain", *columns])),
        "models": len(models),
        "stages": len(runs),
        "finished": len(runs),
        "evaluations": len(table),
    }
    title = mapping.title or (str(table["study"].iloc[0]) if "study" in table.columns and len(table) else path.stem)
    return StudyResults(
        name=path.stem,
        title=title,
        question=mapping.question,
        command="",
        spec_text="",
        table=table,
        histories=pd.DataFrame({"run": [], "stage": [], "epoch": []}),
        failures=pd.DataFrame({"stage": [], "run": [], "configuration": [], "error": []}),
        counts=counts,
        cost=pd.DataFrame({"stage": [], "runs": []}),
        stages=axes,
        parents=parents,
        domains=list(dict.fromkeys(map(str, table["evaluated_domain"]))),
        examples=[],
    )
