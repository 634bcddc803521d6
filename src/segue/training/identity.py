"""The identity of a training: a key made of its settings, its inputs and a version.

Shared by `segue train` and studies, so that each finds the runs of the other. The key of a training is a hash
of the settings that differ from their defaults and can change the result (`StageSpec.keyed`), of the identities of its
datasets and of the source of its initial weights, and of `VERSION`.

A dataset in a study's store is identified by the key of the specification that makes it, any other by its content; a
parent by the key of its run, weights from elsewhere by their content. Names and paths do not enter. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segue.errors import SegueError
from segue.fingerprint import hash_dataset, hash_each_file, plain_json, stage_hash, text_hash
from segue.storage import is_file
from segue.training.run_folder import RunFolder
from segue.training.spec import VERSION, ParentSpec, StageSpec
from segue.zoo.shipped import find_model

STORED_DATASET = "dataset.h5"  # <store>/data-<hash>/dataset.h5
_DATASET_KEY = re.compile("data-[0-9a-f]{16}")


@dataclass(frozen=True)
class Fingerprint:
    """The content of a training's key.

    settings: those of `shared_settings`, with the seeds `init` and `draw`; inputs: the identities of the datasets, in
    the order of `data`, and of the parent (None without).
    """

    settings: Mapping[str, Any]
    inputs: Sequence[str | None]
    version: int = VERSION

    @property
    def content(self) -> dict[str, Any]:
        return {"kind": "train", "version": self.version, "settings": self.settings, "inputs": list(self.inputs)}

    @property
    def key(self) -> str:
        return f"train-{stage_hash(self.content)}"


def shared_settings(spec: StageSpec, datasets: Sequence[str], pretrained: str | None = None) -> dict[str, Any]:
    """Returns the settings of a key that repetitions share.

    datasets: the identities of those in `spec.data`; pretrained: that of the file of weights `network.pretrained`.
    """
    settings = spec.key_settings({"parent", "init", "draw"})
    for item, identity in zip(settings["data"], datasets, strict=True):
        item["dataset"] = identity
    if pretrained is not None:
        settings["network"]["pretrained"] = pretrained
    return settings


def fingerprint(
    spec: StageSpec, settings: Mapping[str, Any], datasets: Sequence[str], *, init: int, draw: int, parent: str | None
) -> Fingerprint:
    """Returns the fingerprint of one repetition. The draw index counts only where samples are drawn at all."""
    return Fingerprint({**settings, "init": init, "draw": draw if spec.draws else 0}, [*datasets, parent])


class RepeatedKey:
    """The keys of the repetitions of one specification, whose JSON is written once: a study has many thousands.

    The arguments are those of `fingerprint`, and `key` gives the same as its keys.
    """

    def __init__(self, spec: StageSpec, settings: Mapping[str, Any], datasets: Sequence[str]) -> None:
        self.draws = spec.draws
        marks = {name: f"\0{name}" for name in ("parent", "draw", "init")}  # in the order of the JSON; TOML has no NUL
        filled = {**settings, "init": marks["init"], "draw": marks["draw"]}
        text = plain_json(Fingerprint(filled, [*datasets, marks["parent"]]).content)
        self._pieces = re.split("|".join(re.escape(plain_json(mark)) for mark in marks.values()), text)

    def key(self, *, init: int, draw: int, parent: str | None) -> str:
        start, before_draw, before_init, end = self._pieces
        identity = "null" if parent is None else f'"{parent}"'  # hexadecimal, and a plain name before it
        parts = (start, identity, before_draw, str(draw if self.draws else 0), before_init, str(init), end)
        return f"train-{text_hash(''.join(parts))}"


def dataset_identity(path: Path, cache_path: Path | None = None) -> str:
    """Returns the key of a dataset that a study made, the content hash of any other file (`hash_dataset`)."""
    if path.name == STORED_DATASET and _DATASET_KEY.fullmatch(path.absolute().parent.name):
        return path.absolute().parent.name
    return hash_dataset(path, cache_path)


def parent_path(parent: ParentSpec, folder: Path) -> Path:
    """Returns the run folder, from `folder` or of a shipped model, or the weights file, that `from` names."""
    return folder / (parent.weights or "") if parent.run is None else find_model(parent.run, folder)


def parent_identity(parent: ParentSpec, folder: Path, cache_path: Path | None = None) -> str:
    """Returns the key of the run that `from` names, or the hash of the weights file; raises SegueError without."""
    path = parent_path(parent, folder)
    if parent.run is None:
        return weights_identity(path, cache_path)
    run = RunFolder(path)
    run.require_finished()
    if not run.spec.exists():
        return weights_identity(run.weights_file("best"), cache_path)
    return run.read(run.spec)["key"]


def weights_identity(path: Path, cache_path: Path | None = None) -> str:
    """Returns the hash of a file of weights; raises SegueError where there is none."""
    if not is_file(path):
        raise SegueError(f"{path}: there are no such weights; give a finished run or a safetensors file.")
    return hash_each_file([path], cache_path)[path]
