"""The state of a training on disk: written beside, verified by digest, the one before kept until then."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from segue.errors import SegueError
from segue.storage import refusal

KEPT = 2
UMASK = os.umask(0)


os.umask(UMASK)


MODE = 0o666 & ~UMASK


@dataclass
class Progress:
    """All that resuming needs beside tensors. Random streams are derived from indices and need no state.

    `epoch` (from 0) and `step` are the next to be taken; `losses` those of the steps already taken in the epoch, and
    `counts` their confusion matrix; `updates` the steps taken in all; `rate` the last and `highest_rate` the highest
    rate of the epoch; `history` a row per finished epoch; `best_epoch` counts from 1, 0 where none was selected yet,
    and `best_loss` is its monitored value, to be made small. `schedule`, `stopping` and `scaler` are the memories of
    the schedule, of early stopping and of the scaling of losses.
    """

    epoch: int = 0
    step: int = 0
    updates: int = 0
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
    save_file({name: value.contiguous() for name, value in weights.items()}, path, metadata={"format": "pt"})
    path.chmod(MODE)  # as every other file: safetensors lets only the owner read


def load_weights(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a safetensors file; nothing in the file is executed."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise SegueError(f"{path}: there is no such file; give a safetensors file or the folder of a run.") from None
    except (SafetensorError, OSError) as error:
        raise SegueError(f"{path}: is no complete safetensors file ({error}); give one written by segue.") from None


def save(
    folder: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    kept: Mapping[str, Mapping[str, Tensor]],
    progress: Progress,
) -> None:
    """Writes the state as `folder/<count>`, renamed when whole; the last two are kept.

    kept: further state dicts by name (the best weights, the moving average).
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    for kind, weights in kept.items():
        tensors |= {f"kept.{kind}.{name}": value for name, value in weights.items()}
    for parameter, values in optimizer.state.items():
        held = {kind: value for kind, value in values.items() if isinstance(value, Tensor)}
        tensors |= {f"optimizer.{names[parameter]}/{kind}": value for kind, value in held.items()}
    existing = _numbers(folder)
    number = existing[-1] + 1 if existing else 1
    partial = folder / f"partial-{number}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_weights(tensors, partial / "tensors.safetensors")
        digest = _digest(partial / "tensors.safetensors")
        (partial / "progress.json").write_text(json.dumps({"digest": digest, **vars(progress)}), encoding="utf-8")
        partial.rename(folder / str(number))
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise SegueError(refusal(folder, error)) from error
    except SafetensorError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise SegueError(
            f"{folder}: the checkpoint cannot be written ({error}); free disk space, then run the same command again."
        ) from error
    for old in existing[: 1 - KEPT]:
        shutil.rmtree(folder / str(old), ignore_errors=True)


def restore(
    folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Progress, dict[str, dict[str, Tensor]]] | None:
    """Fills network and optimiser from the newest whole state and returns its progress and what else was kept.

    A state whose bytes do not have the digest recorded is passed over for the one before. None without any.
    """
    for number in reversed(_numbers(folder)):
        found = _read(folder / str(number))
        if found is not None:
            progress, tensors = found
            _fill(network, optimizer, tensors)
            return progress, _kept(network, tensors)
    return None


def damaged(folder: Path) -> Path | None:
    """Returns the newest state where it is not whole, None where it is or where there is none."""
    numbers = _numbers(folder)
    newest = folder / str(numbers[-1]) if numbers else None
    return newest if newest is not None and _read(newest) is None else None


def newest(folder: Path) -> Progress | None:
    """Returns the progress of the newest whole state; None without any."""
    found = (_read(folder / str(number)) for number in reversed(_numbers(folder)))
    return next((progress for progress, _ in filter(None, found)), None)


def _read(state: Path) -> tuple[Progress, dict[str, Tensor]] | None:
    try:
        recorded: dict[str, Any] = json.loads((state / "progress.json").read_text(encoding="utf-8"))
        if _digest(state / "tensors.safetensors") != recorded.pop("digest"):
            return None
        return Progress(**recorded), load_file(state / "tensors.safetensors")
    except (OSError, ValueError, TypeError, KeyError, SafetensorError):
        return None


def _kept(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Returns the state dicts kept beside the network's own, on its device and in its order in memory."""
    own = network.state_dict()
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("kept."):
            kind, _, entry = name[5:].partition(".")
            found.setdefault(kind, {})[entry] = torch.empty_like(own[entry]).copy_(value)
    return found


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
    return sorted(int(state.name) for state in folder.iterdir() if state.name.isdigit())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
