"""Tables made elsewhere become the same results that a study of ours would give."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from segue.errors import SegueError
from segue.reporting.analysis.comparison import before_and_after, compare, matrix
from segue.reporting.analysis.factors import factors
from segue.reporting.analysis.tables import analyze
from segue.reporting.page.page import write_page
from segue.reporting.tables.table_import import from_table, from_tables
from segue.study.table import StudyResults

EXAMPLES = Path(__file__).parents[2] / "examples"
MAPPING = """
title      = "made"
metric     = "loss_adjusted"
split      = "validation"
domains    = { unit = "nm", signed = true }

[stages.pretrain]
domain = "pretrain_defocus_nm"
values = "pretrain_loss_at_{domain}"
axes   = { "optimizer.lr" = "pretrain_lr" }

[stages.transfer]
parent = "pretrain"
domain = "transfer_defocus_nm"
values = "transfer_loss_at_{domain}"
labels = "transfer_images"
axes   = { images = "transfer_images", freeze = "freeze", "optimizer.lr" = "transfer_lr" }
"""


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """Returns a table shaped like the published one: a row per model, columns per evaluated defocus."""
    defoci = {-5: "-5", 0: "+0", 5: "+5"}
    rows = []
    for source, target, images, freeze, repeat in itertools.product(
        (-5, 5), defoci, (64, 128), ("none", "encoder"), (0, 1)
    ):
        if source == target:
            continue
        row = {
            "pretrain_lr": 1e-3, "transfer_lr": 1e-4, "transfer_images": images, "freeze": freeze,
            "pretrain_defocus_nm": source, "transfer_defocus_nm": target,
        }  # fmt: skip
        for defocus, text in defoci.items():
            row[f"pretrain_loss_at_{text}"] = 0.1 + 0.01 * abs(defocus - source) + 0.001 * repeat
            row[f"transfer_loss_at_{text}"] = 0.02 + 0.64 / images + 0.002 * (freeze == "encoder") + 0.001 * repeat
        rows.append(row)
    pd.DataFrame(rows).to_parquet(tmp_path / "wide.parquet")
    return tmp_path / "wide.parquet"


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    (tmp_path / "mapping.toml").write_text(MAPPING)
    return tmp_path / "mapping.toml"


def test_wide_table_becomes_tidy(wide: Path, mapping: Path) -> None:
    """Every model gives its stages, every column of a domain a row, and domains are named as the columns are."""
    results = from_table(wide, columns=mapping)
    assert results.domains == ["-5 nm", "0 nm", "+5 nm"]
    assert results.parents == {"pretrain": None, "transfer": "pretrain"}
    assert len(results.table) == 32 * 2 * 3
    assert results.counts["models"] == 32
    assert set(results.table["transfer.domain"].dropna()) == {"-5 nm", "0 nm", "+5 nm"}


def test_wide_table_keeps_its_values(wide: Path, mapping: Path) -> None:
    """Matrices, pairs and factors are those that went into the table."""
    comparison = compare(from_table(wide, columns=mapping))
    before = matrix(comparison, "pretrain")
    assert before.rows == ["-5 nm", "+5 nm"]
    assert before.values[0] == pytest.approx([0.1005, 0.1505, 0.2005])
    result = {factor.axis: factor for factor in factors(comparison, "transfer")}
    assert [level.name for level in result["transfer.freeze"].levels] == ["none", "encoder"]
    assert result["transfer.freeze"].levels[1].difference.median == pytest.approx(0.002)
    assert result["transfer.images"].levels[1].difference.median == pytest.approx(-0.005)
    assert (before_and_after(comparison, "transfer")["change"] < 0).all()


@pytest.mark.slow
def test_page_from_a_wide_table(wide: Path, mapping: Path, tmp_path: Path) -> None:
    """A page is made without histories, examples, costs or seeds."""
    write_page(from_table(wide, columns=mapping), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "Learning curves" not in text and "Trained on × tested on" in text and "adjusted loss" in text


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_own_table_gives_the_same_comparison(results: StudyResults, tmp_path: Path, kind: str) -> None:
    """The study's own table, read back, has the same stages, parents, axes and medians."""
    path = tmp_path / f"table.{kind}"
    if kind == "parquet":
        results.table.to_parquet(path)
    else:
        results.table.to_csv(path, index=False)
    back = from_table(path)
    assert back.parents == results.parents
    assert {s: set(axes) for s, axes in back.stages.items()} == {s: set(axes) for s, axes in results.stages.items()}
    ours, theirs = (matrix(compare(r), "transfer", after_transfer=True) for r in (results, back))
    order = [theirs.columns.index(column) for column in ours.columns]
    rows = [theirs.rows.index(row) for row in ours.rows]
    pd.testing.assert_frame_equal(pd.DataFrame(ours.values), pd.DataFrame(theirs.values[rows][:, order]))


def test_long_table_is_renamed(tmp_path: Path) -> None:
    """Columns of a long table are mapped by [columns]."""
    table = pd.DataFrame({"phase": ["a"] * 2, "model": ["m", "n"], "on": "x", "at": "x", "error": [0.1, 0.3]})
    table.to_csv(tmp_path / "t.csv", index=False)
    names = 'stage = "phase"\nrun = "model"\ndomain = "on"\nevaluated_domain = "at"\nloss = "error"\n'
    (tmp_path / "m.toml").write_text("[columns]\n" + names)
    comparison = compare(from_table(tmp_path / "t.csv", columns=tmp_path / "m.toml"))
    assert comparison.runs["value"].tolist() == [0.1, 0.3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('values = "pretrain_loss_at_{domain}"', "names no column per domain; write {domain} once"),
        ('domain = "pretrain_defocus_nm"', "'defocus' is not a column"),
        ('parent = "pretrain"', "parent 'before' is not a stage; allowed: pretrain, transfer"),
    ],
)
def test_mapping_mistakes_are_named(wide: Path, tmp_path: Path, change: str, message: str) -> None:
    """A mapping that does not fit the table says which key, what was found and what there is."""
    wrong = {"values": 'values = "loss"', "domain": 'domain = "defocus"', "parent": 'parent = "before"'}
    text = MAPPING.replace(change, wrong[change.split()[0]])
    (tmp_path / "m.toml").write_text(text)
    with pytest.raises(SegueError, match=r"m\.toml") as caught:
        from_table(wide, columns=tmp_path / "m.toml")
    assert message in str(caught.value)


def test_tables_that_cannot_be_read_are_named(wide: Path, tmp_path: Path) -> None:
    """Missing, foreign, damaged and untidy tables each get one sentence with the remedy."""
    (tmp_path / "damaged.parquet").write_bytes(wide.read_bytes()[:200])
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "folder.csv").mkdir()
    if os.name != "nt":
        (tmp_path / "device.csv").symlink_to("/dev/zero")  # it could be read without end
        with pytest.raises(SegueError, match=r"device.csv: is not a regular file"):
            from_table(tmp_path / "device.csv")
    for name, message in (
        ("none.parquet", "there is no such file"),
        ("folder.csv", "is a folder; give the path of a study or a table"),
        ("n" * 300 + ".csv", "cannot be opened"),
        ("notes.txt", "allowed: .toml, .parquet, .csv"),
        ("damaged.parquet", "cannot be read as a table"),
        ("wide.parquet", "--columns"),
    ):
        with pytest.raises(SegueError) as caught:
            from_table(tmp_path / name)
        assert message in str(caught.value) and name in str(caught.value)


@pytest.mark.parametrize("metadata", ["{}", "[", '{"index_columns": 3}', '{"index_columns": [{"kind": "range"}]}', "1"])
def test_altered_metadata_of_parquet_are_named(tmp_path: Path, metadata: str) -> None:
    """What pandas keeps beside the columns may hold anything: it is read without it, or refused in a sentence."""
    table = pa.Table.from_pandas(long_table()).replace_schema_metadata({"pandas": metadata})
    parquet.write_table(table, tmp_path / "t.parquet")
    (tmp_path / "m.toml").write_text(LONG)
    try:
        results = from_table(tmp_path / "t.parquet", columns=tmp_path / "m.toml")
    except SegueError as error:
        assert "t.parquet: cannot be read as a table (" in str(error)
    else:
        assert len(results.table) == 2


LONG = """
metric = "loss"
floor = 0.3
columns = { defocus = "condition", "stage_name" = "phase" }
[stages.pretrain]
rows = { stage_name = "first" }
run = "model"
domain = "on"
evaluated_domain = "at"
values = "error"
axes = { lr = "condition", "optimizer.lr" = "condition" }
"""


def long_table() -> pd.DataFrame:
    return pd.DataFrame(
        {"phase": ["first", "first", "second"], "model": [1, 1, 2], "on": [5, 5, 5], "at": [5, 30, 5],
         "error": [0.4, 0.5, 0.6], "condition": [1e-3, 1e-3, 1e-4]}
    )  # fmt: skip


def test_long_table_of_stages(tmp_path: Path) -> None:
    """Rows of each stage, the floor off the loss, a column that serves two settings, and rows of no stage told."""
    long_table().to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "m.toml").write_text(LONG)
    results = from_table(tmp_path / "t.csv", columns=tmp_path / "m.toml")
    assert results.table["loss_adjusted"].tolist() == pytest.approx([0.1, 0.2])
    assert results.table["pretrain.lr"].tolist() == results.table["pretrain.optimizer.lr"].tolist() == [1e-3, 1e-3]
    assert results.notes == ["1 of 3 rows of t.csv belong to no stage."]


def test_a_column_serves_two_of_our_names(tmp_path: Path) -> None:
    table = pd.DataFrame({"run": ["m", "n"], "d": ["x", "y"], "stage": "s", "loss": [0.1, 0.3]})
    table.to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "m.toml").write_text('columns = { domain = "d", evaluated_domain = "d" }')
    results = from_table(tmp_path / "t.csv", columns=tmp_path / "m.toml")
    assert compare(results).runs["value"].tolist() == [0.1, 0.3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("floor = 0.3", "floor = 0.45"), "floor: found a loss of 0.4 below the floor 0.45"),
        (('metric = "loss"', 'metric = "dice_mean"'), "floor: is subtracted from a raw loss"),
        (('"first"', '"third"'), "stages.pretrain.rows: no row of the table has {'stage_name': 'third'}"),
        (('domain = "on"', 'domain = "model"'), "found '1' in model, on which nothing is evaluated: there are values"),
        (
            ('values = "error"', 'values = "phase"'),
            "the column phase has the text 'first' in 2 rows; it must hold numbers",
        ),
        (('domain = "on"', ""), "give either `domain` and `values`, or `parts` of a mixture"),
        (("[stages", '[[compare]]\nsource = "5"\ntarget = "6"\n[stages'), "compare: unknown domain '6'"),
    ],
)
def test_mistakes_in_a_long_mapping(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    long_table().to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "m.toml").write_text(LONG.replace(*change))
    with pytest.raises(SegueError) as caught:
        from_table(tmp_path / "t.csv", columns=tmp_path / "m.toml")
    assert message in str(caught.value)


def test_empty_names_are_refused(tmp_path: Path) -> None:
    """A row without a run would be lost without a word."""
    long_table().assign(model=[1, None, 2]).to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "m.toml").write_text(LONG)
    with pytest.raises(SegueError, match="the column model is empty in 1 row"):
        from_table(tmp_path / "t.csv", columns=tmp_path / "m.toml")


def test_rows_of_one_run_have_one_domain(tmp_path: Path) -> None:
    """Else `run` does not tell models apart, and their values would be mixed."""
    long_table().assign(on=[5, 30, 5]).to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "m.toml").write_text(LONG)
    with pytest.raises(SegueError, match="the rows of 'pretrain-1' were trained on 2 domains; `run` must name"):
        from_table(tmp_path / "t.csv", columns=tmp_path / "m.toml")


def test_texts_among_the_values_are_refused(tmp_path: Path) -> None:
    """A metric that holds a text would otherwise be left out without a word."""
    long_table().assign(error=["0.4", "failed", "0.6"]).to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "m.toml").write_text(LONG)
    with pytest.raises(SegueError, match="the column error has the text 'failed' in 1 row; it must hold numbers"):
        from_table(tmp_path / "t.csv", columns=tmp_path / "m.toml")


@pytest.mark.parametrize("values", [["0,1", "0,2"], ["0.1", "n/a?"], ["failed", "failed"]])
def test_texts_in_the_loss_of_a_tidy_table_are_refused(tmp_path: Path, values: list[str]) -> None:
    """Of which a part or all are no numbers, such as those with decimal commas; empty cells are no texts."""
    rows = [
        {"stage": "train", "run": run, "domain": "x", "evaluated_domain": "x", "seed_init": seed}
        for seed, run in enumerate("ab")
    ]
    pd.DataFrame(rows).assign(loss=values).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(SegueError, match=r"the column loss has the text .* it must hold numbers"):
        from_table(tmp_path / "t.csv")
    pd.DataFrame(rows).assign(loss=["0.1", ""]).to_csv(tmp_path / "t.csv", index=False)
    assert from_table(tmp_path / "t.csv").table["loss"].notna().sum() == 1


def transfers() -> pd.DataFrame:
    """Three pretrainings, and transfers from each to the two other domains, with two numbers of labels."""
    rows = [("pretrain", f"p{domain}", "", domain, 64, None, 0.1) for domain in "abc"]
    rows += [
        ("transfer", f"t{source}{domain}{labels}{freeze}", f"p{source}", domain, labels, freeze,
         0.2 / labels + 0.01 * ord(domain) + 0.001 * ord(source) + 0.1 * (freeze == "encoder"))
        for source, domain in itertools.permutations("abc", 2) for labels in (4, 16) for freeze in ("none", "encoder")
    ]  # fmt: skip
    columns = ["stage", "run", "parent", "domain", "labels", "transfer.freeze", "loss"]
    return pd.DataFrame(rows, columns=columns).assign(evaluated_domain=lambda table: table["domain"])


def test_domains_and_labels_of_a_tidy_table_are_settings(tmp_path: Path) -> None:
    """Of the runs and of those that they start from, as if they were columns of their own; once, if they are."""
    transfers().to_csv(tmp_path / "plain.csv", index=False)
    results = from_table(tmp_path / "plain.csv")
    assert results.stages == {
        "pretrain": ["pretrain.domain"], "transfer": ["transfer.freeze", "transfer.domain", "transfer.images"]
    }  # fmt: skip
    row = results.table.set_index("run").loc["tab16none"]
    assert (row["pretrain.domain"], row["transfer.domain"], row["transfer.images"]) == ("a", "b", 16)
    (shares,) = analyze(compare(results), "variance", "transfer")
    assert {"pretraining: domain", "transfer: domain", "transfer: labeled images"} <= set(shares.table["factor"])

    written = transfers()
    is_transfer = written["stage"] == "transfer"
    written["transfer.variant"] = written["labels"].where(is_transfer)
    written["transfer.domain"] = written["domain"].where(is_transfer)
    written.to_csv(tmp_path / "written.csv", index=False)
    assert from_table(tmp_path / "written.csv").stages["transfer"] == [
        "transfer.freeze", "transfer.variant", "transfer.domain"
    ]  # fmt: skip


def test_tables_of_segue_have_their_settings(tmp_path: Path) -> None:
    """Numbers of labels that differ between draws of the same setting are no setting."""
    frame = transfers().assign(label_unit="groups")
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert from_table(tmp_path / "t.csv").stages == {"pretrain": [], "transfer": ["transfer.freeze"]}


def test_runs_whose_parent_is_missing_are_counted(tmp_path: Path) -> None:
    frame = transfers().query("run != 'pa'")
    frame.loc[frame["run"] == "pb", "loss"] = float("inf")
    frame.to_csv(tmp_path / "t.csv", index=False)
    notes = from_table(tmp_path / "t.csv").notes
    assert "8 of 26 runs start from a run that is not in the table." in notes
    assert any(note.startswith("loss is empty or infinite in 1 of 26 rows") for note in notes)
    frame.assign(labels=frame["labels"].astype(str) + " images").to_csv(tmp_path / "l.csv", index=False)
    with pytest.raises(SegueError, match=r"the column labels has the text '64 images' in 26 rows; it must hold"):
        from_table(tmp_path / "l.csv")


@pytest.mark.parametrize(("separator", "encoding", "first"), [
    (";", "utf-8", ""), ("\t", "utf-8", ""), (";", "utf-16", ""), (";", "utf-8-sig", "sep=;\n"),
])  # fmt: skip
def test_separators_of_spreadsheets(tmp_path: Path, separator: str, encoding: str, first: str) -> None:
    """Semicolons and tabs, as those of CSV tables that datasets are made with."""
    text = long_table().to_csv(index=False, sep=separator)
    (tmp_path / "t.csv").write_text(first + text, encoding=encoding)
    (tmp_path / "m.toml").write_text(LONG)
    long_table().to_csv(tmp_path / "plain.csv", index=False)
    expected, actual = (from_table(tmp_path / name, columns=tmp_path / "m.toml") for name in ("plain.csv", "t.csv"))
    pd.testing.assert_frame_equal(actual.table, expected.table)


MIXTURES = """
metric = "loss"
domains = { unit = "nm" }
[stages.mixture]
total_images = 100
[[stages.mixture.parts]]
domain = "a"
values = "loss_a"
images = "n"
[[stages.mixture.parts]]
domain = "b"
values = "loss_b"
"""


def test_mixtures_have_a_row_for_each_part(tmp_path: Path) -> None:
    """The rest of the images is of the second; a run's value is the mean over both."""
    table = pd.DataFrame({"a": [5, 5], "b": [30, 30], "n": [25, 75], "loss_a": [0.2, 0.1], "loss_b": [0.4, 0.7]})
    table.to_parquet(tmp_path / "t.parquet")
    (tmp_path / "m.toml").write_text(MIXTURES)
    results = from_table(tmp_path / "t.parquet", columns=tmp_path / "m.toml")
    assert set(results.table["domain"]) == {"5 nm:25+30 nm:75", "5 nm:75+30 nm:25"}
    assert compare(results).runs["value"].tolist() == pytest.approx([0.3, 0.4])
    table.assign(n=[25, 100]).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(SegueError, match="a row has no images of a part"):
        from_table(tmp_path / "t.parquet", columns=tmp_path / "m.toml")
    (tmp_path / "m.toml").write_text(MIXTURES.replace("total_images = 100\n", ""))
    with pytest.raises(SegueError, match="give two or more, each with `images`"):
        from_table(tmp_path / "t.parquet", columns=tmp_path / "m.toml")


def test_tables_of_different_stages_are_one_page(wide: Path, mapping: Path, tmp_path: Path) -> None:
    """Two tables: their stages side by side; the same stage in both, or mappings that do not fit, are refused."""
    table = pd.DataFrame({"a": [-5], "b": [5], "n": [25], "loss_a": [0.2], "loss_b": [0.4]})
    table.to_parquet(tmp_path / "t.parquet")
    other = MIXTURES.replace('"loss"\n', '"loss_adjusted"\n').replace('"nm"', '"nm", signed = true')
    (tmp_path / "m.toml").write_text(other)
    results = from_tables([wide, tmp_path / "t.parquet"], columns=[mapping, tmp_path / "m.toml"])
    assert list(results.stages) == ["pretrain", "transfer", "mixture"]
    assert results.counts["models"] == 33 and results.domains == ["-5 nm", "0 nm", "+5 nm"]
    with pytest.raises(SegueError, match="has a stage 'pretrain', as wide has; rename one"):
        from_tables([wide, wide], columns=[mapping])
    with pytest.raises(SegueError, match="--columns: found 2 for 1 table; give one for all, or one for each"):
        from_tables([wide], columns=[mapping, mapping])
