"""Several rows of one run and domain: the rules by hand, and the refusal without one."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from segue.errors import SegueError
from segue.reporting.tables.column_mapping import ColumnMapping
from segue.reporting.tables.reduction import BY_EPOCH, RULES, reduce_rows
from segue.reporting.tables.table_import import from_table

# loss of p on its own domain a and on b, of its child t on its own domain b and on a, by epoch
LOSSES = {
    ("p", "a"): [0.5, 0.2, 0.3], ("p", "b"): [0.9, 0.8, 0.7],
    ("t", "b"): [0.4, 0.5, 0.3], ("t", "a"): [0.6, 0.1, 0.9],
}  # fmt: skip


def epochs() -> pd.DataFrame:
    own, parents = {"p": "a", "t": "b"}, {"p": "", "t": "p"}
    rows = [
        {"stage": run, "run": run, "parent": parents[run], "domain": own[run], "evaluated_domain": domain,
         "epoch": epoch, "loss": loss}
        for (run, domain), losses in LOSSES.items() for epoch, loss in enumerate(losses, 1)
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("last", [0.3, 0.7, 0.3, 0.9]),
        ("best", [0.2, 0.8, 0.3, 0.9]),
        ("best_of_parent", [0.2, 0.8, 0.5, 0.1]),
        ("mean", [1.0 / 3, 0.8, 0.4, 1.6 / 3]),
        ("median", [0.3, 0.8, 0.4, 0.6]),
    ],
)
def test_every_rule_by_hand(rule: str, expected: list[float]) -> None:
    """Epoch 2 is the best of p on a, epoch 3 that of t on b; the other domain is read at the same epoch."""
    rows, notes = reduce_rows(epochs(), "loss", rule, Path("m.toml"))
    values = rows.set_index(["run", "evaluated_domain"])["loss"]
    assert [values[key] for key in LOSSES] == pytest.approx(expected)
    assert notes[0].startswith("Of 12 rows, 4 are used: ") and f'(reduce = "{rule}")' in notes[0]
    assert ("selected_epoch" in rows.columns) == (rule in BY_EPOCH)


def test_rules_are_those_of_the_mapping() -> None:
    annotation = ColumnMapping.model_fields["reduce"].annotation
    assert all(f"'{rule}'" in str(annotation) for rule in RULES)


def test_the_best_of_a_score_is_the_largest() -> None:
    frame = epochs().rename(columns={"loss": "dice_mean"})
    rows, _ = reduce_rows(frame, "dice_mean", "best", Path("m.toml"))
    assert rows.set_index(["run", "evaluated_domain"])["dice_mean"]["p", "a"] == 0.5


def test_without_a_rule_different_rows_are_refused() -> None:
    """The run, the domain, how many there are, and what to write."""
    with pytest.raises(SegueError) as caught:
        reduce_rows(epochs(), "loss", None, Path("m.toml"))
    for words in ("m.toml: run 'p' of the stage p has 3 rows", "domain 'a', as have 4 runs", "last, best"):
        assert words in str(caught.value)


def test_equal_rows_count_once() -> None:
    """A run that two configurations share is in the table twice, with the same values."""
    frame = epochs()[lambda table: table["epoch"] == 1]
    rows, notes = reduce_rows(pd.concat([frame, frame]), "loss", None, Path("m.toml"))
    assert len(rows) == 4
    assert notes == ["Left out: 4 rows with the run, domain and scores of another row."]
    assert reduce_rows(frame, "loss", None, Path("m.toml"))[1] == []


def test_empty_values_are_counted() -> None:
    """With and without a rule; rows without the value stay, for they may have others."""
    frame = epochs().astype({"loss": float})
    frame.loc[frame["run"] == "p", "loss"] = None
    rows, notes = reduce_rows(frame[frame["epoch"] == 1], "loss", None, Path("m.toml"))
    assert len(rows) == 4 and notes == ["loss is empty or infinite in 2 of 4 rows, which count nowhere."]
    assert reduce_rows(frame, "loss", "last", Path("m.toml"))[1][0] == notes[0]


@pytest.mark.parametrize(
    ("change", "rule", "message"),
    [
        (lambda frame: frame.drop(columns="epoch"), "last", "needs epochs; give their column as `epoch`"),
        (lambda frame: frame.replace({"epoch": {3: None}}), "last", "the epoch is missing in 4 rows"),
        (lambda frame: frame[frame["evaluated_domain"] == "b"], "best", "run 'p' has no loss in its own domain"),
        (lambda frame: pd.concat([frame, frame.assign(loss=0.0)]), "last", "has 2 rows with different values"),
    ],
)
def test_rules_that_cannot_be_followed(change, rule: str, message: str) -> None:
    with pytest.raises(SegueError) as caught:
        reduce_rows(change(epochs()), "loss", rule, Path("m.toml"))
    assert message in str(caught.value)


def test_a_tidy_table_is_reduced_by_its_mapping(tmp_path: Path) -> None:
    """With numbers as names: 3 and 3.0 are one run, and domains carry the unit of the mapping."""
    frame = epochs().replace({"a": 30, "b": 150}).rename(columns={"epoch": "pass"})
    frame.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(SegueError, match="Name the rule that reduces them"):
        from_table(tmp_path / "t.csv")
    (tmp_path / "m.toml").write_text('epoch = "pass"\nreduce = "last"\ndomains = { unit = "e/Å²" }\n')
    results = from_table(tmp_path / "t.csv", columns=tmp_path / "m.toml")
    assert results.domains == ["30 e/Å²", "150 e/Å²"] and len(results.table) == 4
    assert results.histories.groupby("run")["validation_loss"].last().to_dict() == {"p": 0.3, "t": 0.3}
