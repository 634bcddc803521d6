"""The one training loop, read from top to bottom.

Views of the training images, a batch at a time: read, turn, forward, loss, backward, step. After each epoch the
validation images are scored, the best weights so far are kept and the state is saved. Several models can share the
pass over the data: they step one after another on each batch, and each becomes what it would have become alone.
Everything random is derived from (seed, purpose, epoch, step), so a training that is interrupted and resumed goes on to
the very weights it would have had.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from segue import targets
from segue.data.augment import augment
from segue.data.source import Source
from segue.errors import SegueError
from segue.training import averaging, encodings, features, freezing, watching
from segue.training.distributed import ALONE, Group
from segue.training.member import Member, Training, begin, begin_epoch, end_epoch, require_finite, save, take_step
from segue.training.stage import StageSpec
from segue.training.views import Views, are_fixed, augment_spec, copies, views

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
    fixed = fixed and not targets.learns_images(spec.target)  # which may change the images that the network is shown
    if not fixed or not freezing.is_fully_frozen(t.network, "encoder", t.frozen):
        t.features = None
    elif t.features is None and left >= features.LEAST_EPOCHS and not t.uncached:
        t.features = features.compute(
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
    if t.encodings is None and encodings.are_turned(t.spec):
        _, labels = training.read(torch.zeros(1, dtype=torch.int64), "cpu")
        t.encodings = encodings.Encodings.begin(
            t.member.target, (len(training), labels.shape[1], labels.shape[2]), device
        )


def _outcome(t: Training) -> Outcome:
    progress = t.progress
    with averaging.applied(t.network, t.average):
        final = averaging.begin(t.network)
    chosen = t.spec.selects_best and progress.best_epoch
    selected, epoch = (t.best, progress.best_epoch) if chosen else (final, progress.epoch)
    return Outcome(
        selected, final, epoch, progress.history, progress.seconds, progress.interruptions, progress.energy_J
    )


def _line(t: Training, count: int) -> str:
    progress = t.progress
    rate = count * progress.epoch / max(progress.seconds, 1e-9)
    left = (t.spec.epochs - progress.epoch) * progress.seconds / max(progress.epoch, 1)
    return watching.progress_line(progress.history[-1], t.spec.epochs, rate, left)


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
