"""The one training loop, read from top to bottom.

Views of the training images in a fixed random order, a batch at a time: read, turn, forward, loss, backward, step.
After each epoch the validation images are scored, the best weights so far are kept and the state is saved.
Everything random is derived from (seed, purpose, epoch, step), so a training that is interrupted and
resumed goes on to the very weights it would have had.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from segue import rng
from segue.data.augment import dihedral
from segue.data.files import make_folder
from segue.data.source import Source
from segue.device import Precision
from segue.errors import SegueError
from segue.inference.forward import autocast, score
from segue.targets.classes import Classes
from segue.training import checkpoint, freezing, optimizers, schedules
from segue.training.stage import StageSpec

LOOK_EVERY = 50  # steps between looks at the losses: each look waits for the device
CHECKPOINT_SHARE = 0.02  # a checkpoint at the end of an epoch may cost this share of the time since the last
DIHEDRAL = 8  # the symmetries of a square


@dataclass(frozen=True)
class Outcome:
    """`selected` and `last` are state dicts; `history` has a row per epoch; seconds are of training alone."""

    selected: Mapping[str, Tensor]
    last: Mapping[str, Tensor]
    selected_epoch: int
    history: list[dict[str, float]]
    seconds: float
    interruptions: int


@dataclass(frozen=True)
class Settings:
    """What does not change a result: where the state is kept, how often, and who is told (epoch, epochs, rate)."""

    state: Path
    device: str
    precision: Precision
    checkpoint_s: float = 60.0
    report: Callable[[str], None] | None = None


def train(
    network: nn.Module,
    target: Classes,
    *,
    training: Source,
    validation: Source | None,
    spec: StageSpec,
    settings: Settings,
) -> Outcome:
    """Returns the weights of the selected epoch and of the last, after `spec.epochs` passes over the views.

    The network's present weights are the start. Where `settings.state` holds a state, training goes on from it.
    A loss that is not finite raises SegueError naming the samples of the first such step.
    """
    device = torch.device(settings.device)
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    freezing.freeze(network, spec.freeze)
    optimizer = optimizers.build(spec.optimizer, [p for p in network.parameters() if p.requires_grad])
    resumed = checkpoint.restore(settings.state, network, optimizer)
    progress, best = resumed if resumed else (checkpoint.Progress(), {})
    progress.interruptions += bool(resumed)
    began = saved = time.monotonic()
    before = progress.seconds
    cost = 0.0

    while progress.epoch < spec.epochs:
        samples, codes = views(spec, len(training), progress.epoch)
        steps = math.ceil(len(samples) / spec.batch)
        rate = spec.optimizer.lr * schedules.factor(spec.schedule, progress.epoch)
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses = torch.zeros(steps, device=device)
        losses[: progress.step] = torch.tensor(progress.losses, device=device)
        looked = progress.step
        freezing.set_training(network, spec.freeze)
        for step in range(progress.step, steps):
            batch = slice(step * spec.batch, (step + 1) * spec.batch)
            images, labels = training.read(torch.from_numpy(samples[batch]), device)
            images, labels = dihedral(images, labels, torch.from_numpy(codes[batch]))
            with rng.scope(spec.seed, "dropout", spec.init, progress.epoch, step):
                scores = _forward(network, images, spec, settings.precision)
                loss = target.loss(scores, target.encode(labels))
                loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses[step] = loss.detach()
            last = step == steps - 1
            due = time.monotonic() - saved > settings.checkpoint_s
            if due or last or (step + 1) % LOOK_EVERY == 0:
                _require_finite(losses[looked : step + 1], looked, training, samples, spec)
                looked = step + 1
            if due and not last:
                progress.step, progress.losses = step + 1, losses[: step + 1].tolist()
                progress.seconds = before + time.monotonic() - began
                checkpoint.save(settings.state, network, optimizer, best, progress)
                saved = time.monotonic()

        row = {"epoch": progress.epoch + 1, "lr": rate, "train_loss": _mean(losses, len(samples), spec.batch)}
        row["train_loss_adjusted"] = row["train_loss"] - target.floor
        if validation is not None:
            found = score(network, target, validation, batch=spec.batch, device=device, precision=settings.precision)
            row |= {f"validation_{name}": value for name, value in found.items()}
        progress.history.append(row)
        progress.epoch, progress.step, progress.losses = progress.epoch + 1, 0, []
        if spec.selects_best and row["validation_loss"] < progress.best_loss:
            progress.best_loss, progress.best_epoch = row["validation_loss"], progress.epoch
            best = {name: value.detach().clone() for name, value in network.state_dict().items()}
        if spec.keep_epochs:
            kept = make_folder(settings.state.with_name("epochs")) / f"{progress.epoch}.safetensors"
            checkpoint.save_weights(network.state_dict(), kept)
        now = time.monotonic()
        progress.seconds = before + now - began
        if progress.epoch < spec.epochs and now - saved > cost / CHECKPOINT_SHARE:
            checkpoint.save(settings.state, network, optimizer, best, progress)
            saved = time.monotonic()
            cost = saved - now
        if settings.report is not None:
            settings.report(_line(row, spec, len(samples) * progress.epoch / max(progress.seconds, 1e-9)))

    final = {name: value.detach().clone() for name, value in network.state_dict().items()}
    selected, epoch = (best, progress.best_epoch) if progress.best_epoch else (final, spec.epochs)
    return Outcome(selected, final, epoch, progress.history, progress.seconds, progress.interruptions)


def _forward(network: nn.Module, images: Tensor, spec: StageSpec, precision: Precision) -> Tensor:
    """Returns the scores; words what a network says of batches or tiles too small for it, or of memory too little."""
    try:
        with autocast(images.device, precision):
            return network(images)
    except (ValueError, RuntimeError) as error:
        count, _, height, width = images.shape
        raise SegueError(
            f"network '{spec.network.name}' cannot train on {count} tiles of {height}x{width} px at once "
            f"({str(error).splitlines()[0]}); change batch or the number of images, take larger tiles, or another "
            "network."
        ) from error


def views(spec: StageSpec, count: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sample index and the dihedral code (0…7, 0 leaves it as it is) of every view of an epoch, in order.

    `dihedral-all` visits all eight copies of every image, `dihedral` a random one of each, `none` the image itself.
    """
    purpose = (spec.init, spec.draw if spec.draws else -1, epoch)
    if spec.augment == "dihedral-all":
        samples, codes = np.divmod(np.arange(count * DIHEDRAL), DIHEDRAL)
    elif spec.augment == "dihedral":
        generator = rng.numpy_generator(spec.seed, "augment", *purpose)
        samples, codes = np.arange(count), generator.integers(DIHEDRAL, size=count)
    else:
        samples, codes = np.arange(count), np.zeros(count, dtype=np.int64)
    order = rng.numpy_generator(spec.seed, "order", *purpose).permutation(len(samples))
    return samples[order], codes[order]


def _mean(losses: Tensor, views_count: int, batch: int) -> float:
    """Returns the mean of the steps' losses, each weighted with the size of its batch."""
    sizes = torch.full((len(losses),), float(batch), dtype=torch.float64)
    sizes[-1] = views_count - batch * (len(losses) - 1)
    return ((losses.cpu().double() * sizes).sum() / views_count).item()


def _require_finite(losses: Tensor, first: int, training: Source, samples: np.ndarray, spec: StageSpec) -> None:
    wrong = (~losses.isfinite()).nonzero()
    if len(wrong):
        step = first + int(wrong[0])
        names = training.names(samples[step * spec.batch : (step + 1) * spec.batch].tolist())
        raise SegueError(
            f"step {step + 1} of the epoch: the loss is {losses[int(wrong[0])].item()} on the samples "
            f"{', '.join(dict.fromkeys(names))}; lower optimizer.lr ({spec.optimizer.lr:g}) or look at these samples."
        )


def _line(row: Mapping[str, float], spec: StageSpec, rate: float) -> str:
    told = f"epoch {row['epoch']:.0f}/{spec.epochs}  train loss {row['train_loss_adjusted']:.4f}"
    if "validation_loss" in row:
        told += f"  validation loss {row['validation_loss_adjusted']:.4f}  Dice {row['validation_dice_mean']:.3f}"
    return f"{told}  {rate:.0f} images/s"
