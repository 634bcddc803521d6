"""The files that `segue fit` writes and follows: tables of images, specifications of datasets, studies.

    fit.toml             the command
    images.csv           image, label, group and split of each labeled image; fold-1.csv … of each fold
    prepare.toml         the dataset, for `segue prepare`; fold-1.toml …
    study.toml           the trainings, for `segue study run`; study-1.toml … of each fold; final.toml of all images
    runs/                the store of datasets and runs
    scores/              scores of models by image

Once the number of steps is chosen, a file that exists is not written again: a killed command goes on as it began.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segue.fitting.look import Look
from segue.fitting.parts import Parts
from segue.fitting.rules import Choice
from segue.storage import replacing


@dataclass(frozen=True)
class WorkFolder:
    """The paths of the files, `folder` being next to the model."""

    folder: Path

    @property
    def command(self) -> Path:
        return self.folder / "fit.toml"

    @property
    def store(self) -> Path:
        return self.folder / "runs"

    @property
    def scores(self) -> Path:
        return self.folder / "scores"

    @property
    def model(self) -> Path:
        """Where the model is put together before it is renamed."""
        return self.folder / "model"

    @property
    def length(self) -> Path:
        """The number of steps, with the seconds of a step."""
        return self.folder / "length.json"

    def table(self, name: str) -> Path:
        return self.folder / f"{name}.csv"

    def specification(self, name: str) -> Path:
        return self.folder / f"{'prepare' if name == 'images' else name}.toml"

    def study(self, name: str) -> Path:
        return self.folder / f"{name}.toml"


def write_text(path: Path, text: str, *, replace: bool = False) -> None:
    """Writes a text file unless there is one, or `replace` says so; it appears only when it is whole."""
    if path.exists() and not replace:
        return
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def table_text(look: Look, parts: Parts, folder: Path) -> str:
    """Returns the table of the images as CSV; paths are relative to `folder`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "label", "group", "split"])
    for pair in look.pairs:
        paths = [relative(path, folder) for path in (pair.image, *pair.labels)]
        writer.writerow([*paths, pair.group, parts[pair.group]])
    return text.getvalue()


def relative(path: Path, folder: Path) -> str:
    """Returns the path from `folder`, with / between folders; the absolute one from another drive."""
    try:
        return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()
    except ValueError:
        return path.absolute().as_posix()


def preparation(look: Look, name: str, data: Sequence[Choice], license: str) -> dict[str, Any]:
    """Returns the specification of a dataset of the images of the table `name`."""
    labels = look.labels
    layer: dict[str, Any] = {"layer": "labels", "kind": labels.kind, "names": list(labels.names)}
    if labels.values:
        layer["values"] = {str(value): label for value, label in labels.values.items()}
    if labels.unlabeled is not None:
        layer["unlabeled"] = labels.unlabeled
    if labels.kind == "instances":
        layer["number_parts"] = labels.number_parts
    settings = {choice.setting: choice.value for choice in data}
    if license:
        settings["provenance"] = {"license": license}
    return {"name": name, "manifest": f"{name}.csv", "color": look.color, **settings, "labels": layer}


# TOML


def toml_text(
    table: Mapping[str, Any], *, comments: Sequence[str] = (), reasons: Mapping[str, str] | None = None
) -> str:
    """Returns a table as TOML: values first, then tables, whose values are on one line each.

    comments: lines at the top; reasons: by setting, a comment beside it. Texts, numbers, booleans, lists and tables of
    these; None is left out.
    """
    lines = [f"# {line}" for line in comments] + ([""] if comments else [])
    _write_table(lines, "", table, reasons or {})
    return "\n".join(lines).rstrip() + "\n"


def _write_table(lines: list[str], path: str, table: Mapping[str, Any], reasons: Mapping[str, str]) -> None:
    tables = {key: value for key, value in table.items() if isinstance(value, Mapping) and _is_outer(path, key)}
    for key, value in table.items():
        if key not in tables and value is not None:
            reason = reasons.get(key)
            lines.append(f"{_key(key)} = {_value(value)}" + (f"  # {reason}" if reason else ""))
    for key, value in tables.items():
        name = f"{path}.{_key(key)}" if path else _key(key)
        if path or not all(isinstance(inner, Mapping) for inner in value.values()):
            lines += ["", f"[{name}]"]
        _write_table(lines, name, value, reasons)


def _is_outer(path: str, key: str) -> bool:
    """Returns whether a table gets a heading: those at the top, and the stages, domains and datasets of a study."""
    return not path or path in ("stages", "domains", "datasets")


def _key(key: str) -> str:
    plain = key and all(character.isascii() and (character.isalnum() or character in "-_") for character in key)
    return key if plain else json.dumps(key, ensure_ascii=False)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return (
            f"{{ {', '.join(f'{_key(key)} = {_value(entry)}' for key, entry in value.items() if entry is not None)} }}"
        )
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False)  # texts, numbers and booleans are written alike in JSON and in TOML
