"""Checkpoints: the state of a training on disk, verified by a hash; the previous one is kept until the next is
complete."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save_file
from torch import Tensor, nn

from segue.errors import SegueError
from segue.fingerprint import hash_file, hash_json
from segue.storage import read_bytes, refusal

MAX_STATES = 2  # kept: the newest, and the one before in case the newest is damaged
MAX_TIME_SHARE = 0.01  # a checkpoint at the end of an epoch may cost this share of the time since the last


@dataclass
class Progress:
    """All that resuming needs apart from tensors. Random streams are derived from indices and need no state.

    `epoch` (from 0) and `step` are the next to be taken; `losses` those of the steps already taken in the epoch, and
    `counts` their confusion matrix; `updates` the steps taken in all, `fused_steps` those of them taken by several
    models at once; `rate` the last and `highest_rate` the highest
    learning rate of the epoch; `history` a row per finished epoch; `best_epoch` counts from 1, 0 where none is selected
    yet, and `best_loss` is its monitored value, lower being better. `schedule`, `stopping` and `scaler` are the states
    of the schedule, of early stopping and of loss scaling.
    """

    epoch: int = 0
    step: int = 0
    updates: int = 0
    fused_steps: int = 0
    losses: list[float] = field(default_factory=list)
    counts: list[list[int]] = field(default_factory=list)
    rate: float = 0.0
    highest_rate: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_loss: float = float("inf")
    schedule: dict[str, float] = field(default_factory=dict)
    stopping: dict[str, float] = field(default_factory=dict)
    stopped: bool = False
    scaler: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    energy_J: float | None = None
    interruptions: int = 0


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Writes a state dict as safetensors with one metadata key, so that equal weights give equal bytes."""
    path.touch()
    mode = path.stat().st_mode  # that of any new file here; safetensors lets only the owner read
    save_file({name: value.contiguous() for name, value in weights.items()}, path, metadata={"format": "pt"})
    path.chmod(mode & 0o777)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a safetensors file; nothing in the file is executed."""
    try:
        content = read_bytes(path, "a safetensors file or the folder of a run")
    except FileNotFoundError:
        raise SegueError(f"{path}: there is no such file; give a safetensors file or the folder of a run.") from None
    return parse_weights(content, path)


def parse_weights(content: bytes, path: Path) -> dict[str, Tensor]:
    """Returns the tensors in the bytes of a safetensors file; raises SegueError for another one, and for NaN."""
    try:
        weights = load(content)
    except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise SegueError(f"{path}: is not a complete safetensors file ({error}); give one written by segue.") from None
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise SegueError(f"{path}: tensor '{name}' holds NaN or infinity; give weights that were trained.")
    return weights


def save(
    folder: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    extra_weights: Mapping[str, Mapping[str, Tensor]],
    progress: Progress,
) -> None:
    """Writes the state as `folder/<count>`, which appears when it is complete; the last two are kept.

    extra_weights: further state dicts by name (the best weights, the moving average).
    """
    # what resuming needs: weights, best and averaged weights, momenta of the optimizer, progress
    names: dict[Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    for kind, weights in extra_weights.items():
        tensors |= {f"kept.{kind}.{name}": value for name, value in weights.items()}
    for parameter, values in optimizer.state.items():
        averages = {kind: value for kind, value in values.items() if isinstance(value, Tensor)}
        tensors |= {f"optimizer.{names[parameter]}/{kind}": value for kind, value in averages.items()}

    existing = _numbers(folder)
    number = existing[-1] + 1 if existing else 1
    partial = folder / f"partial-{number}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_weights(tensors, partial / "tensors.safetensors")
        record = {"digest": _digest(partial, vars(progress)), **vars(progress)}
        (partial / "progress.json").write_text(json.dumps(record), encoding="utf-8")
        partial.rename(folder / str(number))
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise SegueError(refusal(folder, error)) from error
    except SafetensorError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise SegueError(
            f"{folder}: the checkpoint cannot be written ({error}); free disk space, then run the same command again."
        ) from error
    for old in existing[: 1 - MAX_STATES]:
        shutil.rmtree(folder / str(old), ignore_errors=True)


def restore(
    folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Progress, dict[str, dict[str, Tensor]]] | None:
    """Fills network and optimizer from the newest intact state; returns its progress and extra weights, or None.

    A state whose bytes do not match the recorded hash is skipped in favor of the previous one.
    """
    for number in reversed(_numbers(folder)):
        state = _read(folder / str(number))
        if state is not None and _fits(network, state[1]):
            progress, tensors = state
            _fill(network, optimizer, tensors)
            return progress, _extra_weights(network, tensors)
    return None


def damaged_state(folder: Path) -> Path | None:
    """Returns the newest state if it is damaged, else None."""
    numbers = _numbers(folder)
    newest = folder / str(numbers[-1]) if numbers else None
    return newest if newest is not None and _read(newest) is None else None


def newest_progress(folder: Path) -> Progress | None:
    """Returns the progress of the newest intact state; None without any."""
    states = (_read(folder / str(number)) for number in reversed(_numbers(folder)))
    return next((progress for progress, _ in filter(None, states)), None)


def _read(state: Path) -> tuple[Progress, dict[str, Tensor]] | None:
    """Returns the content of a state, None if it is damaged."""
    try:
        content: dict[str, Any] = json.loads(read_bytes(state / "progress.json", "a checkpoint"))
        if content.pop("digest") != _digest(state, content):
            return None
        return Progress(**content), load_file(state / "tensors.safetensors")
    except (OSError, SegueError, ValueError, TypeError, KeyError, AttributeError, RecursionError, SafetensorError):
        return None


def _digest(state: Path, progress: Mapping[str, Any]) -> str:
    """Returns the hash of all that a state holds: its tensors and its progress."""
    return hash_json([hash_file(state / "tensors.safetensors"), progress])


def _fits(network: nn.Module, tensors: Mapping[str, Tensor]) -> bool:
    """Returns whether a state is of this network."""
    shapes = {name[8:]: value.shape for name, value in tensors.items() if name.startswith("network.")}
    return shapes == {name: value.shape for name, value in network.state_dict().items()}


def _extra_weights(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Returns the extra state dicts, on the network's device and in its order in memory."""
    like = network.state_dict()
    extra: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("kept."):
            kind, _, entry = name[5:].partition(".")
            extra.setdefault(kind, {})[entry] = torch.empty_like(like[entry]).copy_(value)
    return extra


def _fill(network: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    network.load_state_dict({name[8:]: value for name, value in tensors.items() if name.startswith("network.")})
    parameters = dict(network.named_parameters())
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            owner, _, kind = name[10:].rpartition("/")
            parameter = parameters[owner]
            # averages keep the memory format of their parameter, else the fused kernel would pair wrong elements
            like = torch.empty_like(parameter) if value.shape == parameter.shape else torch.empty_like(value)
            optimizer.state[parameter][kind] = like.detach().copy_(value)


def _numbers(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return sorted(int(state.name) for state in folder.iterdir() if re.fullmatch("[1-9][0-9]{0,17}", state.name))


class CheckpointClock:
    """Decides when the next checkpoint is due, and divides time and energy evenly among the models in one pass."""

    def __init__(self, interval_s: float, read_energy_J: Callable[[], float | None]) -> None:
        self._interval_s, self._read_energy_J = interval_s, read_energy_J
        self._energy_J = read_energy_J()
        self._saved = self._shared = time.monotonic()
        self._cost_s = 0.0  # of the last checkpoint

    def is_due(self) -> bool:
        return time.monotonic() - self._saved > self._interval_s

    def is_worthwhile(self) -> bool:
        """Returns whether a checkpoint at the end of an epoch would cost little of the time since the last."""
        return time.monotonic() - self._saved > self._cost_s / MAX_TIME_SHARE

    def share_time(self, models: Sequence[Progress]) -> None:
        """Adds the time and the energy since the last call to these models."""
        now, energy_J = time.monotonic(), self._read_energy_J()
        for progress in models:
            progress.seconds += (now - self._shared) / len(models)
            if energy_J is not None and self._energy_J is not None:
                progress.energy_J = (progress.energy_J or 0.0) + (energy_J - self._energy_J) / len(models)
        self._shared, self._energy_J = now, energy_J

    def record_save(self, cost_s: float) -> None:
        """Records that checkpoints have just been written, and the seconds that took."""
        self._cost_s, self._saved = cost_s, time.monotonic()
