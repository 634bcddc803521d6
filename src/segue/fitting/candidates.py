"""The candidates: each parent untouched, each parent transferred, and training from scratch; as stages of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segue.data.dataset import Dataset
from segue.data.folders.observations import picture_hash
from segue.data.image_io import read_image
from segue.data.spec import NOT_STATED, Layer
from segue.data.splits import TRAIN
from segue.errors import SegueError
from segue.fitting.look import Look
from segue.fitting.rules import TRANSFER_LR, Choice, Length
from segue.fitting.scoring import GIVEN, fits
from segue.fitting.specifications import relative
from segue.training.run_folder import RunFolder, TrainedModel, load_run
from segue.zoo.shipped import find_model

SCRATCH = "scratch"
RESULT = "fit.json"  # of a model that was made by `segue fit`: its scores among others


@dataclass(frozen=True)
class Parent:
    """A model to start from. name: of its candidates; key: of its run; fits: whether it can be scored as it is."""

    name: str
    folder: Path
    key: str
    model: TrainedModel
    fits: bool

    @property
    def license(self) -> str:
        return "; ".join(self.model.licenses) or NOT_STATED

    @property
    def untouched(self) -> str:
        return f"{self.name}, untouched"


def resolve(name: str) -> Path:
    """Returns the folder of the finished run that `--from` names; raises SegueError without."""
    try:
        folder = find_model(name)
    except SegueError as error:
        raise SegueError(f"--from {error}") from None
    RunFolder(folder).require_finished()
    return folder


def read_parents(names: Sequence[str], look: Look) -> list[Parent]:
    """Returns the parents in their order; raises SegueError for one that the images do not fit."""
    parents: list[Parent] = []
    layer = Layer("labels", look.labels.kind, look.labels.names)
    for given in names:
        folder = resolve(given)
        run, model = RunFolder(folder), load_run(folder)
        if len(model.channels) != look.channels:
            raise SegueError(
                f"--from {given}: takes {len(model.channels)} channel(s), {', '.join(model.channels)}; the images have "
                f"{look.channels}: give a model of as many channels, or leave it out."
            )
        name = folder.resolve().name.replace(".", "-")
        if any(parent.name == name for parent in parents):
            name = f"{name} {len(parents) + 1}"
        key = run.read(run.spec)["key"]
        parents.append(Parent(name, folder, key, model, fits(model, layer, look.channels)))
    return parents


def used_groups(parents: Sequence[Parent], look: Look) -> dict[str, str]:
    """Returns the groups with an image that a parent was trained or selected with -> the first such parent's name: by
    its pixels, whatever its name, rotated or reflected."""
    used: dict[str, str] = {}
    with_pictures = [parent for parent in parents if parent.model.pictures]
    for pair in look.pairs if with_pictures else ():
        image = read_image(pair.image).image
        picture = picture_hash(image[: look.channels] if look.color == "gray" else image)
        for parent in with_pictures:
            if picture in parent.model.pictures:
                used.setdefault(pair.group, parent.name)
    return used


def require_unseen(parents: Sequence[Parent], dataset: Path, given: Sequence[str]) -> None:
    """Raises SegueError for a parent that was trained or selected with images that the dataset holds out."""
    with Dataset(dataset) as data:
        is_held_out = data.split(GIVEN) != TRAIN
        pictures = set(data.samples().get("picture", np.array([]))[is_held_out]) - {"", None}
    for parent, name in zip(parents, given, strict=True):
        used = pictures & parent.model.pictures
        if used:
            raise SegueError(
                f"--from {name}: was trained or selected with {len(used)} of the {len(pictures)} images that would be "
                "held out; give other images, or leave it out."
            )


def stage_settings(choices: Sequence[Choice], length: Length, threads: int, parent: Parent | None) -> dict[str, Any]:
    """Returns the settings that all stages of a study share, but for those that a parent decides for its children."""
    settings = {choice.setting: choice.value for choice in choices}
    settings["augment"] = {"dihedral": "all" if length.all_views else "random", **settings["augment"]}
    if parent is not None:
        settings |= _of_parent(parent, settings)
    return {"epochs": length.epochs, **settings, "threads": threads}


def _of_parent(parent: Parent, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that go with a parent's weights: its network, what its images were normalized by and, where
    it predicts the same kind of labels, its target."""
    spec = parent.model.spec
    network = spec.network.model_dump(mode="json", exclude_defaults=True, exclude={"pretrained"})
    stage: dict[str, Any] = {"network": {"name": spec.network.name, **network}}
    stage["normalize"] = spec.normalize if isinstance(spec.normalize, str) else spec.normalize.model_dump(mode="json")
    if parent.fits:
        target = spec.target.model_dump(mode="json", exclude_defaults=True, exclude={"layer"})
        stage["target"] = {"name": spec.target.name, **target}
    return stage


def stages(
    choices: Sequence[Choice], length: Length, threads: int, parents: Sequence[Parent], folder: Path
) -> dict[str, dict[str, Any]]:
    """Returns the stages of a study in `folder`, whose domain is to be added: scratch, and each parent transferred with
    every weight trained and with its encoder frozen.

    Scratch has the network, target and normalization of the first parent, so that they differ in their weights and in
    the rate that suits these.
    """
    first = parents[0] if parents else None
    table = {SCRATCH: stage_settings(choices, length, threads, first)}
    for parent in parents:
        settings = stage_settings(choices, length, threads, parent)
        settings["optimizer"] = {**settings["optimizer"], "lr": TRANSFER_LR}
        origin: dict[str, Any] = {"from": {"run": relative(parent.folder, folder)}}
        if not parent.fits:
            origin["load"] = ["encoder", "decoder"]  # the head is of other labels
        table[f"from {parent.name}"] = {**origin, **settings}
        table[f"from {parent.name}, encoder frozen"] = {**origin, "freeze": "encoder", **settings}
    return table
