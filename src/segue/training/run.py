"""One stage from its specification to a run folder, and a finished run back to a model.

    spec.json             what was asked, resolved, and what the network takes and gives
    groups.json           groups trained on (by ancestors too) and validated with
    weights.safetensors   of the selected epoch; last.safetensors where that is not the last
    history.parquet       a row per epoch
    metrics.json          selected epoch, its validation scores, labels spent, parameters
    timing.json           seconds, rates, interruptions    } apart from results, since they
    environment.json      versions and machine             } differ from run to run

While it runs the folder is called `<name>.running` and holds `state/`; it is renamed when all is written.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import nn

from segue import device as devices
from segue import networks, rng
from segue.data.files import make_folder, refusal
from segue.errors import SegueError
from segue.targets import classes as targets
from segue.training import checkpoint, freezing, loop
from segue.training.loading import Inputs, Tell, load_data
from segue.training.stage import StageSpec
from segue.training.transfer import load_parts


@dataclass(frozen=True)
class Model:
    """A trained network with what is needed to use it: its target, channels, normalisation and input divisor."""

    network: nn.Module
    target: targets.Classes
    spec: StageSpec
    channels: tuple[str, ...]
    folder: Path

    @property
    def divisor(self) -> int:
        return networks.divisor(self.spec.network)


def is_finished(folder: Path) -> bool:
    return (folder / "metrics.json").is_file()


def working_folder(folder: Path) -> Path:
    """Returns where an unfinished run of `folder` lies."""
    return folder.with_name(folder.name + ".running")


def train_stage(
    spec: StageSpec, folder: Path, *, key: str, inputs: Inputs, checkpoint_s: float = 60.0, tell: Tell | None = None
) -> None:
    """Trains the stage into `folder`, going on from where an earlier attempt was interrupted.

    A finished run of the same key is left alone. Raises SegueError for what the user can mend: data that do not fit
    the network, too few labels, leaking groups, a folder in use or holding another run, a full disk.
    """
    if is_finished(folder):
        _require_same(folder, key)
        _clear(folder)
        return
    if folder.exists() or folder.is_symlink():
        raise SegueError(f"{folder}: is in the way and is no finished run; move it or choose another folder.")
    working = working_folder(folder)
    make_folder(working)
    with _lock(working, tell):
        if is_finished(folder):  # another process finished it while this one waited
            return
        if _recorded_key(working) not in (None, key):
            for left in ("state", "epochs"):
                shutil.rmtree(working / left, ignore_errors=True)
        try:
            _train(spec, working, key, inputs, (checkpoint_s, tell))
            working.rename(folder)
        except SegueError:
            if not (working / "state").exists():  # nothing to go on from
                shutil.rmtree(working, ignore_errors=True)
            raise
        except OSError as error:
            raise SegueError(refusal(folder, error)) from error
        except SafetensorError as error:
            raise SegueError(
                f"{folder}: its weights cannot be written ({error}); free disk space, then run the same command again."
            ) from error
    _clear(folder)


def _clear(folder: Path) -> None:
    """Removes what only an unfinished run needs."""
    shutil.rmtree(folder / "state", ignore_errors=True)
    (folder / "lock").unlink(missing_ok=True)


def _train(spec: StageSpec, working: Path, key: str, inputs: Inputs, how: tuple[float, Tell | None]) -> None:
    began = time.monotonic()
    checkpoint_s, tell = how
    folder = working.with_name(working.name.removesuffix(".running"))  # as the user knows it
    if spec.threads > devices.cores():
        raise SegueError(
            f"{folder}: threads = {spec.threads}, but this machine has {devices.cores()} cores; lower threads "
            "(results are bit-identical for equal threads only)."
        )
    torch.set_num_threads(spec.threads)
    devices.reuse_memory()
    device = devices.default_device()
    precision = devices.resolve_precision(spec.precision, device)
    if tell is not None:
        tell(f"{precision} on {device}, {spec.threads} threads")
    data = load_data(spec, inputs, where=str(folder), device=device, tell=tell)
    target = targets.build(
        spec.target, names=data.layer.names, instances=data.layer.kind == "instances", where=str(folder)
    )
    with rng.scope(spec.seed, "init", spec.init):
        network = networks.build(spec.network, channels=len(data.channels), classes=target.channels)
    loaded = _load_parent(network, spec, inputs.parent)
    described = {
        "kind": "train", "key": key, "stage": spec.model_dump(mode="json", by_alias=True),
        "model": {"channels": data.channels, "layer": data.layer.name, "names": target.names,
                  "instances": target.instances, "divisor": networks.divisor(spec.network)},
    }  # fmt: skip
    _write_json(working / "spec.json", described)
    settings = loop.Settings(working / "state", device, precision, checkpoint_s, tell)
    outcome = loop.train(
        network, target, training=data.training, validation=data.validation, spec=spec, settings=settings
    )
    checkpoint.save_weights(outcome.selected, working / "weights.safetensors")
    (working / "last.safetensors").unlink(missing_ok=True)
    if outcome.selected_epoch != spec.epochs:
        checkpoint.save_weights(outcome.last, working / "last.safetensors")
    _write_history(outcome.history, working / "history.parquet")
    environment = devices.environment(device, precision, spec.threads)
    _write_json(working / "environment.json", environment)
    views = len(loop.views(spec, len(data.training), 0)[0]) * spec.epochs
    timing = {"seconds": outcome.seconds, "images_per_s": views / max(outcome.seconds, 1e-9),
              "seconds_with_loading": time.monotonic() - began, "interruptions": outcome.interruptions,
              "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")}  # fmt: skip
    _write_json(working / "timing.json", timing)
    _write_json(working / "groups.json", data.groups)
    row = outcome.history[outcome.selected_epoch - 1]
    metrics = {
        "selected_epoch": outcome.selected_epoch,
        "selected_by": "validation loss" if spec.selects_best else "last epoch",
        "scores": {name: value for name, value in row.items() if name not in ("epoch", "lr")},
        "labels": {"unit": spec.label_unit, **data.labels},
        "parameters": freezing.counts(network),
        "transfer": loaded,
        "ancestry": data.ancestry,
        "precision": precision,
        "threads": spec.threads,
    }
    _write_json(working / "metrics.json", metrics)


def _load_parent(network: nn.Module, spec: StageSpec, parent: Path | None) -> dict[str, list[str]] | None:
    if parent is None:
        return None
    file = weights_file(parent, spec.weights) if parent.is_dir() else parent
    return load_parts(network, checkpoint.load_weights(file), spec.load, where=str(file))


def weights_file(run: Path, which: str) -> Path:
    """Returns the file with the selected ("best") or the last weights of a finished run."""
    if not is_finished(run):
        raise SegueError(f"{run}: is no finished run (no metrics.json); finish it, or give another run.")
    last = run / "last.safetensors"
    kept = last if which == "last" and last.exists() else run / "weights.safetensors"
    if not kept.exists():
        raise SegueError(f'{run}: its weights were not kept (keep = "metrics"); train it again with keep = "weights".')
    return kept


def load_run(folder: Path) -> Model:
    """Returns the model of a finished run, on the CPU and in evaluation mode. Nothing in the folder is executed."""
    file = weights_file(folder, "best")
    described = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    try:
        spec, kind = StageSpec.model_validate(described["stage"]), described["model"]
    except (ValidationError, KeyError) as error:
        raise SegueError(
            f"{folder}: was made by another version of segue, whose specification this one cannot read; train it again."
        ) from error
    target = targets.build(spec.target, names=kind["names"], instances=kind["instances"], where=str(folder))
    with rng.scope("unused"):
        network = networks.build(spec.network, channels=len(kind["channels"]), classes=target.channels)
    load_parts(network, checkpoint.load_weights(file), None, where=str(file))
    network.eval().to(memory_format=torch.channels_last)
    return Model(network, target, spec, tuple(kind["channels"]), folder)


def _recorded_key(folder: Path) -> str | None:
    try:
        return json.loads((folder / "spec.json").read_text(encoding="utf-8"))["key"]
    except (OSError, ValueError, KeyError):
        return None


def _require_same(folder: Path, key: str) -> None:
    if _recorded_key(folder) != key:
        raise SegueError(
            f"{folder}: holds a finished run of another specification or other data; choose another folder, "
            "or remove this one to train anew."
        )


@contextmanager
def _lock(working: Path, tell: Tell | None) -> Iterator[None]:
    """Holds the run against other processes; the system lets go when this process ends, however it ends."""
    with (working / "lock").open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if tell is not None:
                tell(f"{working}: another process is training this run; waiting for it to end")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write_history(history: list[dict[str, float]], path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist([{**row, "epoch": int(row["epoch"])} for row in history]), path)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
