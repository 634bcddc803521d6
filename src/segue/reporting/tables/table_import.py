"""Results from a table alone: segue's own, or one made elsewhere whose columns a small file maps (`ColumnMapping`)."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from segue.data.tables import find_separator, read_text
from segue.errors import SegueError
from segue.reporting.analysis.comparison import IDENTITY, SCORES, numeric
from segue.reporting.formatting import METRICS, natural_order, plural, quantity
from segue.reporting.tables.column_mapping import ColumnMapping, ImportedDomains, ImportedStage
from segue.reporting.tables.published import compare_stated
from segue.reporting.tables.reduction import reduce_rows
from segue.reporting.tables.selection import count_table, is_level
from segue.spec import load, unknown
from segue.storage import is_file, require_regular
from segue.study.table import ComparedPair, StudyResults

MAX_COLUMNS_NAMED = 12  # in a message


def from_tables(paths: Sequence[Path], *, columns: Sequence[Path] = ()) -> StudyResults:
    """Returns the results that tables hold together, each with a mapping file, one mapping for all, or none.

    Raises SegueError where two of them have a stage of the same name.
    """
    if len(columns) not in (0, 1, len(paths)):
        raise SegueError(
            f"--columns: found {len(columns)} for {plural(len(paths), 'table')}; give one for all, or one for each."
        )
    mappings: list[Path | None] = [*columns] * (len(paths) if len(columns) == 1 else 1) or [None] * len(paths)
    first, *others = [from_table(path, columns=one) for path, one in zip(paths, mappings, strict=True)]
    for other in others:
        first = _joined(first, other)
    return first


def from_table(path: Path, *, columns: Path | None = None) -> StudyResults:
    """Returns the results that a Parquet or CSV table holds; `columns` is a mapping file for tables made elsewhere.

    Such a page has no examples, failures or costs, and histories only where the mapping names epochs. Raises SegueError
    when the table cannot be read, or lacks the columns of a tidy table and no mapping is given.
    """
    table = _read(path)
    mapping = load(ColumnMapping, columns) if columns else ColumnMapping()
    source = columns or path
    if mapping.floor is not None and mapping.metric != "loss":
        raise SegueError(f'{source}: floor: is subtracted from a raw loss, metric = "loss"; remove one of them.')
    # our names; a column may serve two, and stages may name it by either
    for ours, theirs in mapping.columns.items():
        _require_column(table, theirs, f"{source}: columns.{ours}", path)
    named = {ours: table[theirs] for ours, theirs in mapping.columns.items()}
    if not mapping.stages:
        table = table.drop(columns=list(set(mapping.columns.values())))
    table = table.assign(**named)
    if mapping.epoch is not None:
        _require_column(table, mapping.epoch, f"{source}: epoch", path)
        table = table.assign(epoch=_numbers(table, mapping.epoch, f"{source}: epoch"))
    results = _from_stages(table, mapping, path, source) if mapping.stages else _from_tidy(table, mapping, path, source)
    unknown_domains = [
        name for pair in mapping.compare for name in (pair.source, pair.target) if name not in results.domains
    ]
    if unknown_domains:
        raise SegueError(f"{source}: compare: {unknown(unknown_domains[0], results.domains, 'domain')}.")
    pairs = [ComparedPair(pair.source, pair.target, tuple(pair.where), pair.statistic) for pair in mapping.compare]
    return replace(results, compared_pairs=pairs, stated=compare_stated(results, mapping.stated, source))


def _read(path: Path) -> pd.DataFrame:
    if is_file(path / "spec.json"):
        raise SegueError(
            f"{path}: is a run; a page is of a study, of one stage or many. `segue evaluate {path} DATASET` scores the "
            f"run, `segue inspect {path}` describes it; for a page, write its stage as that of a study and run it."
        )
    if path.suffix.lower() not in (".parquet", ".csv"):
        raise SegueError(f"{path}: is neither a study nor a table; allowed: .toml, .parquet, .csv.")
    require_regular(path, "a study or a table (.parquet or .csv)")
    try:
        table = pd.read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path)
    except SegueError:
        raise
    except Exception as error:  # whatever a foreign file makes pandas and pyarrow raise
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise SegueError(f"{path}: cannot be read as a table ({words}); make it again.") from None
    if table.columns.duplicated().any():
        name = table.columns[table.columns.duplicated()][0]
        raise SegueError(f"{path}: has several columns '{name}'; rename them.")
    return table.reset_index(drop=True)


def _read_csv(path: Path) -> pd.DataFrame:
    text = read_text(path)
    separator, is_declared = find_separator(path, text)
    return pd.read_csv(io.StringIO(text), sep=separator, skiprows=int(is_declared))


def _require_column(table: pd.DataFrame, column: str, context: str, path: Path) -> None:
    if column not in table.columns:
        names = list(map(str, table.columns))
        more = ", …" if len(names) > MAX_COLUMNS_NAMED else ""
        listed = ", ".join(names[:MAX_COLUMNS_NAMED]) + more
        raise SegueError(f"{context}: '{column}' is not a column of {path}; it has {listed}.")


def _numbers(table: pd.DataFrame, column: str, context: str) -> pd.Series:
    """Returns a column as floats, NaN where empty or infinite; raises SegueError for texts that are no numbers."""
    numbers = pd.to_numeric(table[column], errors="coerce").astype(float)
    texts = table[column][numbers.isna() & table[column].notna()]
    if len(texts):
        raise SegueError(
            f"{context}: the column {column} has the text '{texts.iloc[0]}' in {plural(len(texts), 'row')}; it must "
            "hold numbers, with a decimal point, or be empty."
        )
    return numbers.where(np.isfinite(numbers))


def _text(value: Any) -> Any:
    """Returns an identifier as a text: 3.0, which pandas makes of 3 beside empty cells, as "3"."""
    if pd.isna(value):
        return value
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _texts(values: pd.Series, name: Callable[[Any], Any] = _text) -> pd.Series:
    return values.map({value: name(value) for value in values.unique()}).astype(object)


def _domain_name(domains: ImportedDomains) -> Callable[[Any], Any]:
    """Returns the function that names domains: a number by its value, sign and unit, a text as it is."""
    unit = f" {domains.unit}" if domains.unit else ""

    def name(value: Any) -> Any:
        number = quantity(value)
        if number is None or number[1] not in ("", domains.unit):
            return _text(value)
        return f"{number[0]:{'+' if domains.signed and number[0] else ''}.12g}{unit}"

    return name


def _from_tidy(table: pd.DataFrame, mapping: ColumnMapping, path: Path, source: Path) -> StudyResults:
    missing = [column for column in IDENTITY if column not in table.columns]
    if missing:
        raise SegueError(
            f"{path}: has no column {', '.join(missing)}; a tidy table has {', '.join(IDENTITY)} and a metric."
            " Map the columns of a table made elsewhere with --columns FILE.toml."
        )
    for column in ("run", "parent", "stage"):
        if column in table.columns:
            table[column] = _texts(table[column])
    if "parent" in table.columns:
        table["parent"] = table["parent"].fillna("")
    for column in map(str, table.columns):
        if column in ("domain", "evaluated_domain") or column.endswith(".domain"):
            table[column] = _texts(table[column], _domain_name(mapping.domains))
        elif column in METRICS or (
            re.match(SCORES, column) and "." not in column and numeric(table, column).notna().any()
        ):
            table[column] = _numbers(table, column, str(path))
    if "labels" in table.columns:
        table["labels"] = _numbers(table, "labels", str(path))
    if mapping.floor is not None:
        table = _with_floor(table, mapping, source)
    metric = mapping.metric if mapping.metric in table.columns else "loss_adjusted"
    if mapping.reduce and metric not in table.columns:
        raise SegueError(f"{source}: metric '{mapping.metric}' is not a column of {path}; name the one to reduce by.")
    histories = _histories(table, mapping)
    table, notes = reduce_rows(table, metric, mapping.reduce, source)
    parents = _parents(table)
    if "label_unit" not in table.columns:  # a table made by segue has all settings that vary
        table = _with_settings(table, parents)
    if "parent" in table.columns:
        runs = table.drop_duplicates("run")
        orphans = int(((runs["parent"] != "") & ~runs["parent"].isin(runs["run"])).sum())
        if orphans:
            notes.append(f"{orphans:,} of {plural(len(runs), 'run')} start from a run that is not in the table.")
    axes = {
        stage: [c for c in map(str, table.columns) if c.startswith(f"{stage}.") and table[c].notna().any()]
        for stage in parents
    }
    return replace(_results(table, mapping, path, axes, parents), histories=histories, notes=notes)


def _with_settings(table: pd.DataFrame, parents: Mapping[str, str | None]) -> pd.DataFrame:
    """Returns the table with the domain and the number of labels as settings of each stage, `<stage>.domain` and
    `<stage>.images`, where no other setting tells them: those of a run, and of the runs that it starts from."""
    runs = table.drop_duplicates("run").set_index("run")
    added: dict[str, pd.Series] = {}
    for stage, (axis, column) in itertools.product(parents, (("domain", "domain"), ("images", "labels"))):
        name = f"{stage}.{axis}"
        if column not in table.columns or name in table.columns:
            continue
        of_stage = runs[runs["stage"] == stage]
        settings = [setting for setting in map(str, runs.columns) if setting.startswith(f"{stage}.")]
        levels = (
            of_stage.groupby(settings, dropna=False)[column].nunique() if settings else [of_stage[column].nunique()]
        )
        if max(levels, default=0) > 1:
            values = pd.Series(np.nan, table.index, dtype=object if column == "domain" else float)
            run = table["run"]
            for _ in parents:  # from each run to those that it starts from
                values = values.fillna(run.map(of_stage[column]))
                run = run.map(runs["parent"]) if "parent" in runs else run
            added[name] = values
    return table.assign(**added)


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


def _from_stages(table: pd.DataFrame, mapping: ColumnMapping, path: Path, source: Path) -> StudyResults:
    """Returns the results of a table whose stages are mapped; errors name `source`, the file with the mapping."""
    stages = mapping.stages
    for name, stage in stages.items():
        context = f"{source}: stages.{name}"
        if stage.parent is not None and name in _lineage(stages, stage.parent, source):
            raise SegueError(f"{context}: parent '{stage.parent}' descends from {name} itself; name the earlier stage.")
        if bool(stage.parts) == bool(stage.domain and stage.values):
            raise SegueError(f"{context}: give either `domain` and `values`, or `parts` of a mixture.")
        for column in _columns(stage):
            _require_column(table, column, context, path)
    # the rows of each stage
    is_used = np.zeros(len(table), dtype=bool)
    parts, losses = [], []
    for name, stage in stages.items():
        chosen = _rows_with(table, stage.rows, f"{source}: stages.{name}.rows")
        is_used |= chosen
        parts.append(_stage_rows(table[chosen], mapping, name, source))
        if stage.training_rows:
            chosen = _rows_with(table, stage.training_rows, f"{source}: stages.{name}.training_rows")
            is_used |= chosen
            losses.append(_training_losses(table[chosen], mapping, name, source))
    tidy = pd.concat(parts, ignore_index=True)
    trained_on = tidy.groupby(["stage", "run"], sort=False)["domain"].nunique()
    if (trained_on > 1).any():
        stage_name, run = trained_on.index[trained_on > 1][0]
        raise SegueError(
            f"{source}: stages.{stage_name}: the rows of '{run}' were trained on {trained_on.max()} domains; `run` "
            "must name the column that tells models apart."
        )
    # one row for each run and domain
    histories = _histories(tidy, mapping, pd.concat(losses, ignore_index=True) if losses else None)
    tidy, notes = reduce_rows(tidy, mapping.metric, mapping.reduce, source)
    if not is_used.all():
        notes.insert(0, f"{int((~is_used).sum()):,} of {plural(len(table), 'row')} of {path.name} belong to no stage.")
    parents = {name: stage.parent for name, stage in stages.items()}
    axes = {name: _axes(name, stage) for name, stage in stages.items()}
    results = _results(tidy, mapping, path, axes, parents)
    return replace(results, histories=histories, notes=notes)


def _lineage(stages: Mapping[str, ImportedStage], name: str, source: Path) -> list[str]:
    """Returns the stage and its ancestors, itself first."""
    lineage = [name]
    while True:
        if lineage[-1] not in stages:
            raise SegueError(f"{source}: parent '{lineage[-1]}' is not a stage; allowed: {', '.join(stages)}.")
        parent = stages[lineage[-1]].parent
        if parent is None or parent in lineage:
            return lineage
        lineage.append(parent)


def _columns(stage: ImportedStage) -> list[str]:
    """Returns the columns that a stage names one by one."""
    parts = [name for part in stage.parts for name in (part.domain, part.values, part.images)]
    single = [stage.evaluated_domain, stage.run, stage.labels, stage.seed_init, stage.seed_draw, *parts]
    single += [] if stage.parts else [stage.domain]
    single += [stage.values] if stage.evaluated_domain else []
    return [name for name in [*single, *stage.axes.values(), *stage.rows, *stage.training_rows] if name is not None]


def _axes(name: str, stage: ImportedStage) -> list[str]:
    axes = ["pair", "variant"] if stage.parts else ["domain"]
    return [f"{name}.{axis}" for axis in [*axes, *stage.axes]]


def _rows_with(table: pd.DataFrame, levels: Mapping[str, str | int | float], context: str) -> np.ndarray:
    chosen = np.ones(len(table), dtype=bool)
    for column, level in levels.items():
        chosen &= is_level(table[column], str(level)).to_numpy()
    if not chosen.any():
        raise SegueError(f"{context}: no row of the table has {dict(levels)}; correct the values.")
    return chosen


def _stage_rows(table: pd.DataFrame, mapping: ColumnMapping, name: str, source: Path) -> pd.DataFrame:
    """Returns the rows of one stage; run "<stage>-<id>" starts from "<parent>-<id>", id is of the model or row."""
    stage = mapping.stages[name]
    model = _texts(table[stage.run]) if stage.run else pd.Series(table.index, index=table.index).astype(str)
    shared = pd.DataFrame({"study": mapping.title or "imported", "stage": name, "run": f"{name}-" + model})
    shared["parent"] = f"{stage.parent}-" + model if stage.parent else ""
    shared["status"] = "finished"
    # the settings of the stage and of its ancestors
    for member in reversed(_lineage(mapping.stages, name, source)):
        settings = mapping.stages[member]
        context = f"{source}: stages.{member}"
        shared = shared.assign(**_settings(table, settings, member, _domain_name(mapping.domains), context))
        shared[f"{member}.domain"] = shared["domain"]
        for axis, column in settings.axes.items():
            shared[f"{member}.{axis}"] = table[column]
    for ours, theirs in (("labels", stage.labels), ("seed_init", stage.seed_init), ("seed_draw", stage.seed_draw)):
        if theirs:
            shared[ours] = table[theirs]
    shared["label_unit"] = mapping.label_unit
    shared["split"] = mapping.split
    if mapping.epoch is not None:
        shared["epoch"] = table["epoch"]
    # a frame per column of values
    context = f"{source}: stages.{name}"
    frames = [
        shared.assign(evaluated_domain=domains, **{mapping.metric: _numbers(table, column, context)})
        for domains, column in _value_columns(table, mapping, stage, context)
    ]
    rows = pd.concat(frames, ignore_index=True)
    rows = rows if mapping.floor is None else _with_floor(rows, mapping, source)
    known = set(rows["evaluated_domain"].unique())
    for column, values in ((stage.run, rows["run"]), (stage.evaluated_domain, rows["evaluated_domain"])):
        if values.isna().any():
            raise SegueError(f"{context}: the column {column} is empty in {plural(int(values.isna().sum()), 'row')}.")
    untested = [domain for domain in rows["domain"].unique() if not stage.parts and domain not in known]
    if untested:
        present = natural_order(sorted(map(str, known)))
        raise SegueError(
            f"{context}: found '{untested[0]}' in {stage.domain}, on which nothing is evaluated: there are values on "
            f"{', '.join(present[: 2 * MAX_COLUMNS_NAMED])}."
        )
    return rows


def _settings(
    table: pd.DataFrame, stage: ImportedStage, name: str, domain_name: Callable[[Any], Any], context: str
) -> dict[str, pd.Series]:
    """Returns the columns with what a stage was trained on."""
    if not stage.parts:
        return {"domain": _texts(table[stage.domain], domain_name)}
    domains = [_texts(table[part.domain], domain_name) for part in stage.parts]
    images = [_numbers(table, part.images, context) if part.images else None for part in stage.parts]
    stated = [numbers for numbers in images if numbers is not None]
    if len(stage.parts) < 2 or len(stated) < len(images) - 1 or (len(stated) < len(images) and not stage.total_images):
        raise SegueError(
            f"{context}.parts: give two or more, each with `images`, the column with its number; one may have the rest "
            "of `total_images`."
        )
    rest = (stage.total_images or 0) - pd.concat(stated, axis=1).sum(axis=1)
    counts = [rest if numbers is None else numbers for numbers in images]
    if any((numbers <= 0).any() or numbers.isna().any() for numbers in counts):
        raise SegueError(f"{context}.parts: a row has no images of a part; each part has one or more.")
    texts = [_texts(numbers) for numbers in counts]
    mixture, pair, variant = domains[0] + ":" + texts[0], domains[0], texts[0]
    for domain, text in zip(domains[1:], texts[1:], strict=True):
        mixture, pair, variant = mixture + "+" + domain + ":" + text, pair + " with " + domain, variant + ":" + text
    return {"domain": mixture, f"{name}.pair": pair, f"{name}.variant": variant}


def _value_columns(
    table: pd.DataFrame, mapping: ColumnMapping, stage: ImportedStage, context: str
) -> list[tuple[Any, str]]:
    """Returns the evaluated domain, of all rows or of each, and the column with the values there."""
    name = _domain_name(mapping.domains)
    if stage.parts:
        return [(_texts(table[part.domain], name), part.values) for part in stage.parts]
    if stage.evaluated_domain is not None:
        return [(_texts(table[stage.evaluated_domain], name), stage.values)]
    if stage.values.count("{domain}") != 1:
        raise SegueError(f"{context}: values '{stage.values}' names no column per domain; write {{domain}} once in it.")
    pattern = "(.+)".join(map(re.escape, stage.values.split("{domain}")))
    matches = {str(column): re.fullmatch(pattern, str(column)) for column in table}
    columns = [(name(match.group(1)), column) for column, match in matches.items() if match]
    if not columns:
        raise SegueError(f"{context}: no column of the table is of the form '{stage.values}'; correct the pattern.")
    return columns


def _with_floor(table: pd.DataFrame, mapping: ColumnMapping, source: Path) -> pd.DataFrame:
    """Returns the table with the floor of the loss and the loss less it; a loss below it is refused."""
    least = float(table["loss"].min()) if "loss" in table.columns else float("nan")
    floor = mapping.floor or 0.0
    if not least >= floor:
        raise SegueError(
            f"{source}: floor: found a loss of {least:.4g} below the floor {floor:.4g}; where the floor is taken off "
            'already, write metric = "loss_adjusted" and no floor.'
        )
    return table.assign(loss_floor=floor, loss_adjusted=table["loss"] - floor)


def _training_losses(table: pd.DataFrame, mapping: ColumnMapping, name: str, source: Path) -> pd.DataFrame:
    """Returns the training loss of each run and epoch."""
    stage = mapping.stages[name]
    if mapping.epoch is None or not stage.run or not stage.evaluated_domain:
        raise SegueError(f"{source}: stages.{name}.training_rows: needs `epoch`, `run` and `evaluated_domain`.")
    losses = _numbers(table, stage.values, f"{source}: stages.{name}")
    return pd.DataFrame({"run": f"{name}-" + _texts(table[stage.run]), "epoch": table["epoch"], "train_loss": losses})


def _histories(table: pd.DataFrame, mapping: ColumnMapping, training: pd.DataFrame | None = None) -> pd.DataFrame:
    """Returns run, stage, epoch, the run's settings, validation_loss in its own domain, and train_loss where known."""
    in_domain = table[table["domain"] == table["evaluated_domain"]]
    if (
        mapping.epoch is None
        or mapping.metric != "loss"
        or "loss" not in in_domain.columns
        or in_domain.duplicated(["run", "epoch"]).any()
    ):
        return pd.DataFrame({"run": [], "stage": [], "epoch": []})
    axes = [column for column in map(str, table.columns) if "." in column]
    frame = in_domain[["run", "stage", "epoch", *axes]].assign(validation_loss=in_domain["loss"])
    if training is None or training.duplicated(["run", "epoch"]).any():
        return frame.assign(train_loss=np.nan)
    return frame.merge(training, on=["run", "epoch"], how="left")


def _results(
    table: pd.DataFrame, mapping: ColumnMapping, path: Path, axes: dict[str, list[str]], parents: dict[str, str | None]
) -> StudyResults:
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
        counts=count_table(table, axes, parents),
        cost=pd.DataFrame({"stage": [], "runs": []}),
        stages=axes,
        parents=parents,
        domains=natural_order(map(str, table["evaluated_domain"].unique())),
        examples=[],
        source=mapping.source,
    )


def _joined(first: StudyResults, other: StudyResults) -> StudyResults:
    """Returns two results as one, under the name of the first."""
    both = sorted(set(first.stages) & set(other.stages))
    if both:
        raise SegueError(f"{other.name}: has a stage '{both[0]}', as {first.name} has; rename one in its mapping.")
    table = pd.concat([first.table, other.table], ignore_index=True)
    stages, parents = first.stages | other.stages, first.parents | other.parents
    return replace(
        first,
        table=table,
        histories=pd.concat([first.histories, other.histories], ignore_index=True),
        counts=count_table(table, stages, parents),
        stages=stages,
        parents=parents,
        domains=natural_order([*first.domains, *other.domains]),
        notes=[*first.notes, *other.notes],
        stated=[*first.stated, *other.stated],
        compared_pairs=[*first.compared_pairs, *other.compared_pairs],
        source=first.source or other.source,
    )
