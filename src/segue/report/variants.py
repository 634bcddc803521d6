"""What the variants of a study's stages set, read from the study file: the table knows them by name alone."""

from __future__ import annotations

import tomllib
from typing import Any

from segue.study.results import StudyResults

Table = dict[str, Any]


def target_names(results: StudyResults) -> set[str]:
    """Returns the targets that take part, as far as the table or the study file tell."""
    swept = [c for c in map(str, results.table.columns) if c.endswith(".target.name")]
    found = {str(name) for column in swept for name in results.table[column].dropna().unique()}
    try:
        study = tomllib.loads(results.spec_text)
    except tomllib.TOMLDecodeError:  # as below
        return found
    tables = [study, *(table for stage in results.stages for table in variants(results, stage).values())]
    tables += [stage_table(results, stage) for stage in results.stages]
    targets = [table["target"] for table in tables if isinstance(table.get("target"), dict)]
    return found | {target["name"] for target in targets if isinstance(target.get("name"), str)}


def stage_table(results: StudyResults, stage: str) -> Table:
    """Returns the stage's table of the study file, empty where the results come without one."""
    try:
        stages = tomllib.loads(results.spec_text).get("stages")
    except tomllib.TOMLDecodeError:  # the text is what was given to be shown; nothing else depends on it
        return {}
    table = stages.get(stage) if isinstance(stages, dict) else None
    return table if isinstance(table, dict) else {}


def variants(results: StudyResults, stage: str) -> dict[str, Table]:
    """Returns variant -> the settings it has of its own."""
    found = stage_table(results, stage).get("variants")
    return {name: table for name, table in found.items() if isinstance(table, dict)} if isinstance(found, dict) else {}


def target_varies(results: StudyResults) -> bool:
    """Returns whether runs differ in their target, within a stage or between: their losses are not one quantity."""
    swept = any(axis.partition(".")[2].split(".")[0] == "target" for axes in results.stages.values() for axis in axes)
    varied = any("target" in table for stage in results.stages for table in variants(results, stage).values())
    return swept or varied or len(set(_stage_targets(results).values())) > 1


def _stage_targets(results: StudyResults) -> dict[str, str]:
    """Returns stage -> the name of its target: its own, else its parent's, else the study's.

    A parent's reconstruction is not passed on, as in plans.
    """
    try:
        shared = tomllib.loads(results.spec_text).get("target")
    except tomllib.TOMLDecodeError:  # as above
        shared = None
    found: dict[str, str] = {}
    for stage in results.stages:  # parents first
        table, above = stage_table(results, stage).get("target"), found.get(results.parents.get(stage) or "")
        if not isinstance(table, dict) and above not in (None, "reconstruction"):
            found[stage] = str(above)
            continue
        chosen = table if isinstance(table, dict) else shared if isinstance(shared, dict) else {}
        found[stage] = str(chosen.get("name", "classes"))
    return found
