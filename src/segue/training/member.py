"""One model in training with all of its state: what one step and the end of one epoch do to it.

Everything that a later step depends on is in the network, the optimiser, the moving average, the best weights and
`Progress`; `save` and `begin` write and read just these.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from segue import rng
from segue.data.files import make_folder
from segue.data.source import Source
from segue.device import Precision
from segue.errors import SegueError
from segue.evaluation import pixels
from segue.inference.forward import autocast, class_scores, score_many
from segue.targets.target import Target
from segue.training import averaging, checkpoint, freezing, optimizers, schedules, selection, watching
from segue.training.checkpoint import Progress
from segue.training.distributed import Group
from segue.training.encodings import Encodings
from segue.training.features import Features
from segue.training.stage import StageSpec


@dataclass(frozen=True)
class Member:
    """A model to be trained: its network (whose present weights are the start), target, specification, and where its
    state is kept while it trains. `report` is told a line after each epoch, `record` its row of the history."""

    network: nn.Module
    target: Target
    spec: StageSpec
    state: Path
    precision: Precision
    report: Callable[[str], None] | None = None
    record: Callable[[Mapping[str, float]], None] | None = None


@dataclass
class Training:
    """A member under way. losses (steps,) and counts (K, K) are those of the epoch so far, on the device."""

    member: Member
    network: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    progress: Progress
    best: dict[str, Tensor]
    average: dict[str, Tensor] | None
    forward: Callable[[Tensor], Tensor]
    losses: Tensor = field(default_factory=lambda: torch.zeros(0))
    counts: Tensor = field(default_factory=lambda: torch.zeros(0))
    looked: int = 0
    frozen: tuple[str, ...] = ()
    features: Features | None = None
    encodings: Encodings | None = None
    uncached: bool = False  # the features do not fit into memory
    error: SegueError | None = None

    @property
    def spec(self) -> StageSpec:
        return self.member.spec

    @property
    def finished(self) -> bool:
        return self.progress.epoch >= self.spec.epochs or self.progress.stopped or self.error is not None


def begin(member: Member, device: torch.device) -> Training:
    """Returns the member ready to train, at the point where its kept state left it, or at its start."""
    network, spec = member.network, member.spec
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = optimizers.build(spec.optimizer, network)
    scaler = torch.amp.GradScaler(device.type, enabled=member.precision == "fp16")
    average = averaging.begin(network) if spec.average is not None else None
    resumed = checkpoint.restore(member.state, network, optimizer)
    progress, kept = resumed if resumed else (Progress(schedule=schedules.begin(spec.schedule)), {})
    progress.interruptions += bool(resumed)
    if resumed and member.report is not None:
        place = f"epoch {progress.epoch + 1}, step {progress.step + 1}" if progress.epoch < spec.epochs else "its end"
        member.report(f"going on from {place}" + _passed_over(member.state))
    last = max(progress.epoch, 1)  # of one that has stopped already, whose trainable parameters are still counted
    freezing.freeze(network, freezing.frozen_at(network, spec.freeze, spec.unfreeze, last))
    if average is not None and kept.get("average"):
        average = kept["average"]
    if progress.scaler:
        scaler.load_state_dict(progress.scaler)
    return Training(
        member, network, optimizer, scaler, progress, kept.get("best", {}), average, _compiled(network, spec)
    )


def _passed_over(state: Path) -> str:
    damaged = checkpoint.damaged(state)
    return f" (the newest state, {damaged}, is damaged)" if damaged is not None else ""


def _compiled(network: nn.Module, spec: StageSpec) -> Callable[[Tensor], Tensor]:
    if spec.compile == "none":
        return network
    return torch.compile(network, mode="reduce-overhead" if spec.compile == "cuda-graphs" else "default")


def begin_epoch(training: Training, steps: int, device: torch.device, group: Group) -> None:
    """Freezes what is frozen in this epoch and makes room for its losses, those of steps already taken filled in.

    Of several processes, whose sums they are, the first takes them all.
    """
    progress, spec = training.progress, training.spec
    training.frozen = freezing.frozen_at(training.network, spec.freeze, spec.unfreeze, progress.epoch + 1)
    freezing.freeze(training.network, training.frozen)
    freezing.set_training(training.network, training.frozen)
    training.losses = torch.zeros(steps, device=device)
    if group.leads:
        training.losses[: progress.step] = torch.tensor(progress.losses, device=device)
    classes = len(training.member.target.names)
    training.counts = torch.zeros((classes, classes), dtype=torch.int64, device=device)
    if progress.counts and group.leads:
        training.counts += torch.tensor(progress.counts, device=device)
    training.looked = progress.step


def take_step(
    training: Training, images: Tensor | list[Tensor], encoded: Tensor, step: int, steps: int, group: Group
) -> None:
    """Learns from one batch (of which this process may hold a share): images, or features of the frozen encoder, and
    what the network is taught of them.

    The loss is that of the whole batch, whether it is computed at once, in parts, or by several processes: what the
    sums are divided by is known from the labels before the first part is computed.
    """
    spec, target, progress = training.spec, training.member.target, training.progress
    at = progress.epoch + step / steps
    factor = schedules.factor(spec.schedule, spec.warmup, progress.schedule, at, spec.epochs)
    optimizers.set_rate(training.optimizer, factor)
    progress.rate = spec.optimizer.lr * factor
    progress.highest_rate = max(progress.highest_rate, progress.rate)
    masses = group.sum_(target.masses(encoded)).clamp(min=1e-12)
    stream = (spec.seed, "dropout", spec.init, progress.epoch, step, *([group.rank] if group.rank else []))
    with rng.scope(*stream):
        for part in _parts(len(encoded), spec.accumulate):
            scores = _forward(training, images, part)
            loss = (target.totals(scores, encoded[part]) / masses).sum()
            training.scaler.scale(loss).backward()
            training.losses[step] += loss.detach()
            if target.names:
                found, known = target.classes(scores.detach()), target.truth(encoded[part])
                training.counts += pixels.confusion(found, known, len(target.names))
    trained = [p for p in training.network.parameters() if p.requires_grad]
    group.sum_gradients(trained)
    if spec.clip_norm is not None:
        training.scaler.unscale_(training.optimizer)
        optimizers.clip_norm(trained, spec.clip_norm)
    training.scaler.step(training.optimizer)
    training.scaler.update()
    training.optimizer.zero_grad(set_to_none=True)
    progress.updates += 1
    if spec.average is not None and training.average is not None:
        averaging.update(spec.average, training.average, training.network, progress.updates)
    progress.step = step + 1


def _parts(count: int, parts: int) -> list[slice]:
    """Returns `parts` slices of a batch of `count` samples, as even as possible; empty ones are left out."""
    bounds = [count * k // parts for k in range(parts + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(bounds) if b > a]


def _forward(training: Training, images: Tensor | list[Tensor], part: slice) -> Tensor:
    """Returns the scores; words what a network says of batches or tiles too small for it, or of memory too little."""
    shown = images if isinstance(images, Tensor) else images[0]
    try:
        with autocast(shown.device, training.member.precision):
            if isinstance(images, Tensor):
                return training.forward(images[part])
            return training.network.scores([level[part] for level in images])  # type: ignore[operator]
    except (ValueError, RuntimeError) as error:
        count, _, height, width = shown[part].shape
        raise SegueError(
            f"network '{training.spec.network.name}' cannot train on {count} tiles of {height}x{width} px at once "
            f"({str(error).splitlines()[0]}); change batch or the number of images, take larger tiles, or another "
            "network."
        ) from error


def end_epoch(
    training: Training, sizes: Sequence[int], validation: Source | None, device: torch.device, group: Group
) -> None:
    """Scores the epoch, keeps its weights where they are the best, and moves the schedule on.

    sizes: how many views each step took.
    """
    spec, progress, target = training.spec, training.progress, training.member.target
    weights = torch.tensor(sizes, dtype=torch.float64)
    losses = group.sum_(training.losses).cpu().double()
    row: dict[str, float] = {"epoch": progress.epoch + 1, "lr": progress.rate, "lr_max": progress.highest_rate}
    row["train_loss"] = ((losses * weights).sum() / weights.sum()).item()
    row["train_loss_adjusted"] = row["train_loss"] - target.floor
    found = class_scores(target, group.sum_(training.counts))
    row |= {f"train_{name}": value for name, value in found.items()}
    with averaging.applied(training.network, training.average):
        if validation is not None:
            row = group.told(row | _validated(training, validation, device) if group.leads else None, device)
        row["epoch"] = progress.epoch + 1
        _require_finite_validation(row, spec)
        if spec.tracks_best:
            value = selection.value_of(row, spec.monitor)
            if selection.is_better(value, progress.best_loss):
                progress.best_loss, progress.best_epoch = value, progress.epoch + 1
                training.best = averaging.begin(training.network)
        if spec.keep_epochs and group.leads:
            kept = make_folder(training.member.state.with_name("epochs")) / f"{progress.epoch + 1}.safetensors"
            checkpoint.save_weights(training.network.state_dict(), kept)
    progress.history.append(row)
    progress.schedule, turns = schedules.after_epoch(spec.schedule, spec.warmup, progress.schedule, row, progress.epoch)
    back = turns and spec.restore_best and training.best
    if turns and training.member.report is not None:
        turned = "kicked up" if spec.schedule.name == "kicks" else "lowered"
        told = f", from the weights of epoch {progress.best_epoch}" if back else ""
        training.member.report(f"epoch {progress.epoch + 1}: the rate is {turned} now{told}")
    if back:
        training.network.load_state_dict(training.best)
        if training.average is not None:
            training.average = averaging.begin(training.network)
    if spec.early_stopping is not None:
        progress.stopping, progress.stopped = selection.after_epoch(spec.early_stopping, progress.stopping, row)
    progress.epoch, progress.step, progress.losses, progress.counts = progress.epoch + 1, 0, [], []
    progress.highest_rate = 0.0


def _require_finite_validation(row: Mapping[str, float], spec: StageSpec) -> None:
    """Raises SegueError when the network's scores are lost although all losses of the epoch were finite.

    Where no validation pixel is labelled there is no loss and no accuracy either, which is no fault of the network.
    """
    loss = row.get("validation_loss", 0.0)
    if not math.isfinite(loss) and not math.isnan(row.get("validation_accuracy", 0.0)):
        raise SegueError(
            f"epoch {row['epoch']:.0f}: the validation loss is {loss} after it; lower optimizer.lr "
            f"({spec.optimizer.lr:g}), or look at the validation images."
        )


def _validated(training: Training, validation: Source, device: torch.device) -> dict[str, float]:
    """Returns the scores on the validation images; keeps a frame of the film where one is wanted."""
    member, spec = training.member, training.spec
    shown = watching.choose(spec.film, len(validation)).tolist()
    scored = score_many(
        [training.network],
        [member.target],
        validation,
        batch=spec.batch,
        device=device,
        precision=member.precision,
        keep=shown,
    )[0]
    if shown:
        folder = make_folder(member.state.with_name("film"))
        if training.progress.epoch == 0:
            images, labels = validation.read(torch.as_tensor(shown), device)
            watching.save_still(
                folder, images.cpu().numpy(), member.target.truth(member.target.encode(labels)).cpu().numpy()
            )
        watching.save_frame(folder, training.progress.epoch + 1, scored.kept.numpy())
    return {f"validation_{name}": value for name, value in scored.scores.items()}


def save(training: Training, group: Group) -> float:
    """Writes the state to disk; returns the seconds that took.

    In the middle of an epoch all processes must call it, at the same step; the first of them writes.
    """
    began = time.monotonic()
    progress = training.progress
    progress.losses = group.sum_(training.losses[: progress.step].clone()).tolist() if progress.step else []
    progress.counts = group.sum_(training.counts.clone()).tolist() if progress.step else []
    if not group.leads:
        return 0.0
    progress.scaler = training.scaler.state_dict()
    kept = {"best": training.best, "average": training.average or {}}
    checkpoint.save(training.member.state, training.network, training.optimizer, kept, progress)
    return time.monotonic() - began


def require_finite(training: Training, upto: int, names: Callable[[int], Sequence[str]], group: Group) -> None:
    """Raises SegueError naming the samples of the first step, since the last look, whose loss is not finite."""
    losses = group.sum_(training.losses[training.looked : upto].clone())
    wrong = (~losses.isfinite()).nonzero()
    if len(wrong):
        step = training.looked + int(wrong[0])
        raise SegueError(
            f"step {step + 1} of the epoch: the loss is {losses[int(wrong[0])].item()} on the samples "
            f"{', '.join(dict.fromkeys(names(step)))}; lower optimizer.lr ({training.spec.optimizer.lr:g}) or look at "
            "these samples."
        )
    training.looked = upto
