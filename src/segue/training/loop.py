"""One model in training with all of its state: what one step and the end of one epoch do to it.

Everything that a later step depends on is in the network, the optimiser, the moving average, the best weights and
`Progress`; `save` and `begin` write and read just these.


The one training loop, read from top to bottom.

Views of the training images, a batch at a time: read, turn, forward, loss, backward, step. After each epoch the
validation images are scored, the best weights so far are kept and the state is saved. Several models can share the
pass over the data: they step one after another on each batch, and each becomes what it would have become alone.
Everything random is derived from (seed, purpose, epoch, step), so a training that is interrupted and resumed goes on to
the very weights it would have had.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from segue import rng
from segue.data.augmentation import augment
from segue.data.sources import Source
from segue.device import Precision
from segue.errors import SegueError
from segue.evaluation import pixel_metrics
from segue.inference.predict import autocast, class_scores, score_many
from segue.storage import make_folder
from segue.targets import registry as targets
from segue.targets.specs import learns_images
from segue.targets.target import Target
from segue.training import cache, checkpoint, freezing, logging, optimizers, schedules
from segue.training.cache import Encodings, Features
from segue.training.checkpoint import Progress
from segue.training.distributed import ALONE, Group
from segue.training.sampler import Views, are_fixed, augment_spec, copies, views
from segue.training.spec import StageSpec


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
    average = optimizers.begin(network) if spec.average is not None else None
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
                training.counts += pixel_metrics.confusion(found, known, len(target.names))
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
        optimizers.update(spec.average, training.average, training.network, progress.updates)
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
    with optimizers.applied(training.network, training.average):
        if validation is not None:
            row = group.told(row | _validated(training, validation, device) if group.leads else None, device)
        row["epoch"] = progress.epoch + 1
        _require_finite_validation(row, spec)
        if spec.tracks_best:
            value = schedules.value_of(row, spec.monitor)
            if schedules.is_better(value, progress.best_loss):
                progress.best_loss, progress.best_epoch = value, progress.epoch + 1
                training.best = optimizers.begin(training.network)
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
            training.average = optimizers.begin(training.network)
    if spec.early_stopping is not None:
        progress.stopping, progress.stopped = schedules.update_early_stopping(
            spec.early_stopping, progress.stopping, row
        )
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
    shown = logging.choose(spec.film, len(validation)).tolist()
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
            logging.save_still(
                folder, images.cpu().numpy(), member.target.truth(member.target.encode(labels)).cpu().numpy()
            )
        logging.save_frame(folder, training.progress.epoch + 1, scored.kept.numpy())
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


LOOK_EVERY = 50  # steps between looks at the losses: each look waits for the device
TELL_S = 15.0  # seconds between lines within an epoch
CHECKPOINT_SHARE = 0.01  # a checkpoint at the end of an epoch may cost this share of the time since the last


@dataclass(frozen=True)
class Outcome:
    """`selected` and `last` are state dicts; `history` has a row per epoch; seconds are of training alone, and, as the
    energy, this member's even share where several are trained side by side."""

    selected: Mapping[str, Tensor]
    last: Mapping[str, Tensor]
    selected_epoch: int
    history: list[dict[str, float]]
    seconds: float
    interruptions: int
    energy_J: float | None


@dataclass(frozen=True)
class Settings:
    """How a pass is run. The order is part of the result, the rest is not.

    blocks (n,) and window say in what order samples may be visited (`data.order`), all at once without them;
    sample_counts gives the pixels of each class in each training sample (n, K); energy_J reads the meter.
    """

    device: str
    checkpoint_s: float = 60.0
    blocks: np.ndarray | None = None
    window: int | None = None
    sample_counts: Callable[[], np.ndarray] | None = None
    group: Group = ALONE
    energy_J: Callable[[], float | None] = lambda: None


def train(
    members: Sequence[Member], *, training: Source, validation: Source | None, settings: Settings
) -> list[Outcome | SegueError]:
    """Trains the members side by side; returns of each its outcome, or why it stopped without one.

    Members must agree in all that decides which views are seen when (`stage.shared_pass`). Where their `state` holds a
    state, training goes on from it. A loss that is not finite ends its member, naming the samples of the first such
    step, and the others go on.
    """
    device = torch.device(settings.device)
    group = settings.group
    trainings = [begin(member, device) for member in members]
    blocks = np.zeros(len(training), dtype=np.int64) if settings.blocks is None else settings.blocks
    clock = _Clock(settings.checkpoint_s, settings.energy_J)

    while active := [t for t in trainings if not t.finished]:
        epoch = min(t.progress.epoch for t in active)
        now = [t for t in active if t.progress.epoch == epoch]  # after an interruption some may be ahead
        spec = now[0].spec
        seen = views(spec, blocks, epoch, window=settings.window, counts=settings.sample_counts)
        bounds = [(start, min(start + spec.batch, len(seen))) for start in range(0, len(seen), spec.batch)]
        for t in now:
            begin_epoch(t, len(bounds), device, group)
            _cache_features(t, training, settings)
            _keep_encodings(t, training, device)
        first = min(t.progress.step for t in now)

        clock.begin_epoch(first)
        with closing(_batches(spec, training, seen, bounds[first:], settings)) as batches:
            for step, batch in enumerate(batches, start=first):
                for t in now:
                    if t.progress.step == step and t.error is None:
                        _step(t, batch, step, len(bounds), group)
                last = step == len(bounds) - 1
                look = last or (step + 1) % LOOK_EVERY == 0
                # several processes save at the same step, and do not ask one another at each
                due = not last and (look or group.world == 1) and group.agreed(clock.is_due())
                if look or due:
                    for t in now:
                        _look(t, step + 1, training, seen, bounds, group)
                    if due:
                        clock.save([t for t in now if t.error is None], group)
                    clock.tell(now, step + 1, bounds)
                if all(t.error is not None for t in now):
                    break

        now = [t for t in now if t.error is None]
        for t in now:
            try:
                end_epoch(t, [stop - start for start, stop in bounds], validation, device, group)
            except SegueError as error:
                t.error = error
        now = [t for t in now if t.error is None]
        clock.share(now)
        worth = clock.is_worth()
        unfinished = any(not t.finished for t in trainings)
        clock.save([t for t in now if unfinished and (worth or t.finished)], group)
        for t in now:
            if t.member.record is not None:
                t.member.record(t.progress.history[-1])
            if t.member.report is not None:
                t.member.report(_line(t, len(seen)))

    return [_outcome(t) if t.error is None else t.error for t in trainings]


@dataclass(frozen=True)
class _Batch:
    """This process's share of a batch: what `views` says of it, images and labels as changed for it, and the labels as
    they are stored."""

    seen: Views
    images: Tensor
    labels: Tensor
    stored: Tensor


def _batches(
    spec: StageSpec, training: Source, seen: Views, bounds: Sequence[tuple[int, int]], settings: Settings
) -> Generator[_Batch]:
    """Yields this process's share of each batch."""
    shares = [settings.group.share(*bound) for bound in bounds]
    changes = augment_spec(spec)
    with closing(training.batches(seen.samples, shares, settings.device)) as read:
        for (start, stop), (images, stored) in zip(shares, read, strict=True):
            own = seen[start:stop]
            images, labels = augment(changes, images, stored, own.drawn)
            yield _Batch(own, images, labels, stored)


def _step(t: Training, batch: _Batch, step: int, steps: int, group: Group) -> None:
    seen = batch.seen
    try:
        if t.encodings is not None:
            samples, codes = torch.from_numpy(seen.samples), torch.from_numpy(seen.drawn.code)
            images, encoded = batch.images, t.encodings.of(samples, batch.stored, codes)
        else:
            images, encoded = targets.taught(t.member.target, batch.images, batch.labels, seen.drawn.seed)
        shown = images if t.features is None else t.features.of(torch.from_numpy(seen.ids))
        take_step(t, shown, encoded, step, steps, group)
    except SegueError as error:
        t.error = error


def _look(
    t: Training, upto: int, training: Source, seen: Views, bounds: Sequence[tuple[int, int]], group: Group
) -> None:
    """Ends the member at a loss that is not finite."""

    def names(step: int) -> Sequence[str]:
        start, stop = bounds[step]
        return training.names(seen.samples[start:stop].tolist())

    try:
        if t.error is None:
            require_finite(t, upto, names, group)
    except SegueError as error:
        t.error = error


def _cache_features(t: Training, training: Source, settings: Settings) -> None:
    """Gives a member whose encoder is frozen its features of every view, where views stay the same over epochs."""
    spec, left = t.spec, t.spec.epochs - t.progress.epoch
    fixed = spec.cache_features and are_fixed(spec) and spec.compile == "none" and settings.group.world == 1
    fixed = fixed and not learns_images(spec.target)  # which may change the images that the network is shown
    if not fixed or not freezing.is_fully_frozen(t.network, "encoder", t.frozen):
        t.features = None
    elif t.features is None and left >= cache.LEAST_EPOCHS and not t.uncached:
        t.features = cache.compute(
            t.network,
            training,
            copies=copies(spec),
            batch=spec.batch,
            device=torch.device(settings.device),
            precision=t.member.precision,
        )
        t.uncached = t.features is None
        if t.features is not None and t.member.report is not None:
            t.member.report(f"the frozen encoder's features of all views are kept: {t.features.bytes / 1e6:.0f} MB")


def _keep_encodings(t: Training, training: Source, device: torch.device) -> None:
    if t.encodings is None and cache.are_turned(t.spec):
        _, labels = training.read(torch.zeros(1, dtype=torch.int64), "cpu")
        t.encodings = cache.Encodings.begin(t.member.target, (len(training), labels.shape[1], labels.shape[2]), device)


def _outcome(t: Training) -> Outcome:
    progress = t.progress
    with optimizers.applied(t.network, t.average):
        final = optimizers.begin(t.network)
    chosen = t.spec.selects_best and progress.best_epoch
    selected, epoch = (t.best, progress.best_epoch) if chosen else (final, progress.epoch)
    return Outcome(
        selected, final, epoch, progress.history, progress.seconds, progress.interruptions, progress.energy_J
    )


def _line(t: Training, count: int) -> str:
    progress = t.progress
    rate = count * progress.epoch / max(progress.seconds, 1e-9)
    left = (t.spec.epochs - progress.epoch) * progress.seconds / max(progress.epoch, 1)
    return logging.progress_line(progress.history[-1], t.spec.epochs, rate, left)


class _Clock:
    """When states were last saved, and to whom the time goes: members side by side share it evenly."""

    def __init__(self, checkpoint_s: float, energy_J: Callable[[], float | None]) -> None:
        self._checkpoint_s, self._meter, self._metered = checkpoint_s, energy_J, energy_J()
        self._saved = self._shared = self._told = time.monotonic()
        self._cost = 0.0
        self._began, self._first = self._saved, 0

    def is_due(self) -> bool:
        return time.monotonic() - self._saved > self._checkpoint_s

    def is_worth(self) -> bool:
        """Returns whether a checkpoint at the end of an epoch would cost little of the time since the last."""
        return time.monotonic() - self._saved > self._cost / CHECKPOINT_SHARE

    def share(self, trainings: Sequence[Training]) -> None:
        """Adds the time since the last call to these."""
        now = time.monotonic()
        metered = self._meter()
        for training in trainings:
            progress = training.progress
            progress.seconds += (now - self._shared) / len(trainings)
            if metered is not None and self._metered is not None:
                progress.energy_J = (progress.energy_J or 0.0) + (metered - self._metered) / len(trainings)
        self._shared, self._metered = now, metered

    def save(self, trainings: Sequence[Training], group: Group) -> None:
        if not trainings:
            return
        self.share(trainings)
        self._cost = sum(save(training, group) for training in trainings)
        self._saved = time.monotonic()

    def begin_epoch(self, step: int) -> None:
        """Starts to count the steps of an epoch, from `step` on."""
        self._began, self._first = time.monotonic(), step

    def tell(self, trainings: Sequence[Training], step: int, bounds: Sequence[tuple[int, int]]) -> None:
        """Says now and then how far a long epoch has come."""
        now = time.monotonic()
        if now - self._told < TELL_S or step >= len(bounds):
            return
        self._told = now
        rate = (bounds[step - 1][1] - bounds[self._first][0]) / max(now - self._began, 1e-9)
        left = (bounds[-1][1] - bounds[step - 1][1]) / rate
        for t in trainings:
            if t.member.report is not None and t.error is None:
                place = f"epoch {t.progress.epoch + 1}/{t.spec.epochs}, step {step:,} of {len(bounds):,}"
                t.member.report(f"{place}  {rate:.0f} images/s, {left:.0f} s left of this epoch")
