"""The records of a store are read as they were written, or refused in a sentence that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from segue.errors import SegueError
from segue.study.store import EvaluationTiming, FailureRecord, PlanRecord, read_record

PLAN = {
    "datasets": {"d": "data-0123456789abcdef"},
    "trainings": {"a": {"key": "train-0123456789abcdef", "version": 4, "inputs": ["data", None], "settings": "h"}},
    "settings": {"h": {"epochs": 3}},
}


@pytest.mark.parametrize(
    ("record", "content"),
    [
        (PlanRecord, PLAN),
        (FailureRecord, {"label": "a", "error": "a sentence", "trace": ""}),
        (EvaluationTiming, {"images": 3, "decode_s_median": 0.5}),
        (EvaluationTiming, {}),
    ],
)
def test_records_come_back(tmp_path: Path, record: Any, content: dict[str, Any]):
    (tmp_path / "record.json").write_text(json.dumps(content))
    assert read_record(tmp_path / "record.json", record) == content
    assert read_record(tmp_path / "missing.json", record) is None


@pytest.mark.parametrize("text", ["", "null", "[]", "3", "{}", '{"error": 5}', '{"error": null}', "[" * 10**5, "\xff"])
def test_damaged_records_are_told(tmp_path: Path, text: str):
    (tmp_path / "record.json").write_text(text, encoding="latin-1")
    with pytest.raises(SegueError, match=r"record\.json: is damaged or was altered: .*remove it"):
        read_record(tmp_path / "record.json", FailureRecord)


@pytest.mark.parametrize("place", ["datasets", "trainings", "settings"])
@pytest.mark.parametrize("value", [None, [], {"a": 3}])
def test_damaged_plans_are_told(tmp_path: Path, place: str, value: object):
    (tmp_path / "record.json").write_text(json.dumps({**PLAN, place: value}))
    with pytest.raises(SegueError, match=f"record.json: is damaged or was altered: {place}"):
        read_record(tmp_path / "record.json", PlanRecord)
