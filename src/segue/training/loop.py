"""The training loop, from top to bottom: `train` → `train_epoch` → `train_step`, then `validate_epoch`.

Several models can share one pass over the data: they step one after another on each batch, and each ends with exactly
the same weights as if trained alone; or, where that was asked for, they step at once (`fused`). Everything random is
derived from (seed, purpose, epoch, step), so a training that is interrupted and resumed ends with the same weights as
without interruption. Everything else that a later step depends on is in the network, the optimizer, the moving average
(EMA), the best weights and `Progress`: `save_state` writes just these, and `init_state` reads them.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segue import rng, signals
from segue.data.augmentation import augment
from segue.data.sources import Source
from segue.device import Precision
from segue.errors import SegueError
from segue.evaluation import pixel_metrics
from segue.evaluation.evaluate import class_scores, score_many
from segue.formatting import format_bytes
from segue.hrtem.rendering import Renderer
from segue.inference.predict import autocast
from segue.storage import make_folder
from segue.targets.target import Target
from segue.training import cache, checkpoint, freezing, logging, optimizers, schedules
from segue.training.cache import FeatureCache, TargetCache
from segue.training.checkpoint import CheckpointClock, Progress
from segue.training.distributed import SINGLE_PROCESS, ProcessGroup
from segue.training.fused import Fusion, Stack
from segue.training.inputs.sampler import EpochPlan, augment_spec, epoch_stream, plan_epoch
from segue.training.run_folder import RunFolder
from segue.training.spec import StageSpec

CHECK_EVERY_STEPS = 50  # between checks of the losses: each check waits for the device


@dataclass
class TrainState:
    """One model in training: what is trained, and all that its next step depends on.

    folder: the folder of the unfinished run. log takes a line, write_row the row of each epoch. losses (steps,) and
    counts (K, K), a confusion matrix, accumulate over the current epoch, on the device. why_exact: why it steps by
    itself where side_by_side = "approximate". error stopped the model.
    """

    spec: StageSpec
    target: Target
    network: nn.Module
    forward: Callable[[Tensor], Tensor]  # the network, compiled if the specification says so
    folder: RunFolder
    precision: Precision
    log: Callable[[str], None]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    progress: Progress
    best: dict[str, Tensor]
    ema: dict[str, Tensor] | None
    write_row: Callable[[Mapping[str, float]], None] = lambda row: None
    frozen: tuple[str, ...] = ()
    losses: Tensor = field(default_factory=lambda: torch.zeros(0))
    counts: Tensor = field(default_factory=lambda: torch.zeros(0))
    last_checked: int = 0  # step up to which the losses are known to be finite
    features: FeatureCache | None = None
    features_fit: bool = True  # into memory, as far as is known
    targets: TargetCache | None = None
    metrics: dict[str, Any] = field(default_factory=dict)  # entries of metrics.json known before the training
    why_exact: str = ""
    error: SegueError | None = None

    @property
    def is_finished(self) -> bool:
        return self.progress.epoch >= self.spec.epochs or self.progress.stopped or self.error is not None


@dataclass(frozen=True)
class PassSettings:
    """Settings of a pass over the data.

    chunk_ids (n,) and window decide in which order samples may be visited (`data.streaming.epoch_order`), in any order
    without them; sample_counts returns the pixels of each class in each training sample (n, K); renderer makes images
    in place of those that the source reads. These change the result, the rest does not. energy_J reads the energy
    meter.
    """

    device: str
    checkpoint_s: float = 60.0
    chunk_ids: np.ndarray | None = None
    window: int | None = None
    sample_counts: Callable[[], np.ndarray] | None = None
    renderer: Renderer | None = None
    group: ProcessGroup = SINGLE_PROCESS
    energy_J: Callable[[], float | None] = lambda: None


@dataclass(frozen=True)
class Batch:
    """This process's shard of a batch: its part of the epoch's plan, images and labels after augmentation, and the
    labels as they are stored."""

    plan: EpochPlan
    images: Tensor
    labels: Tensor
    stored_labels: Tensor


@contextmanager
def stops(*states: TrainState) -> Iterator[None]:
    """Stops these models alone at a SegueError raised inside: the error is recorded, and the others continue."""
    try:
        yield
    except SegueError as error:
        for state in states:
            state.error = error


def train(states: Sequence[TrainState], *, training: Source, validation: Source | None, settings: PassSettings) -> None:
    """Trains the models side by side to the end, each from its current state.

    They must agree in everything that determines the order of the samples (`spec.shared_pass`). A loss that is not
    finite stops its model with an `error` that names the samples of the first such step; the others continue. A signal
    that asks the process to end (`signals`) stops all of them at their next step, with a checkpoint.
    """
    clock = CheckpointClock(settings.checkpoint_s, settings.energy_J)
    fusion = Fusion(settings.device, settings.group.world)
    while active := [state for state in states if not state.is_finished]:
        # after an interruption, models may be at different epochs: those behind catch up first
        epoch = min(state.progress.epoch for state in active)
        current = [state for state in active if state.progress.epoch == epoch]
        batch_sizes = train_epoch(current, training, settings, clock, fusion)

        # once per epoch: validate, select, schedule, early stopping
        for state in running(current):
            with stops(state):
                validate_epoch(state, batch_sizes, validation, settings)
        current = running(current)

        # checkpoint, if it costs little of the time since the last; none after the very last epoch
        clock.share_time([state.progress for state in current])
        unfinished = any(not state.is_finished for state in states)
        ends = unfinished and settings.group.broadcast_flag(signals.received())
        worthwhile = ends or clock.is_worthwhile()
        save_states([s for s in current if unfinished and (worthwhile or s.is_finished)], clock, settings.group)

        # log
        for state in current:
            state.write_row(state.progress.history[-1])
            log_epoch(state, sum(batch_sizes))
        if ends:
            signals.raise_if_received()


def running(states: Sequence[TrainState]) -> list[TrainState]:
    """Returns the models that no error has stopped."""
    return [state for state in states if state.error is None]


def train_epoch(
    states: Sequence[TrainState], source: Source, settings: PassSettings, clock: CheckpointClock, fusion: Fusion
) -> list[int]:
    """Trains the models, which are at the same epoch, on every batch of it; returns the sizes of all batches.

    A model that was interrupted within the epoch joins at its next step.
    """
    spec, epoch, group = states[0].spec, states[0].progress.epoch, settings.group

    # which samples, in which order, with which augmentation
    chunk_ids = np.zeros(len(source), dtype=np.int64) if settings.chunk_ids is None else settings.chunk_ids
    plan = plan_epoch(spec, chunk_ids, epoch, window=settings.window, counts=settings.sample_counts)
    bounds = [(start, min(start + spec.batch, len(plan))) for start in range(0, len(plan), spec.batch)]

    # which parts are frozen in this epoch, hence what can be cached
    for state in states:
        init_epoch(state, len(bounds), settings)
        update_caches(state, source, settings)

    def sample_names(step: int) -> Sequence[str]:
        return source.names(plan[slice(*bounds[step])].samples.tolist())

    first = min(state.progress.step for state in states)
    shards = [group.shard(*bound) for bound in bounds[first:]]
    step_log = logging.StepLog(bounds, first)
    with closing(source.batches(plan.samples, shards, settings.device)) as batches:
        for step, ((start, stop), (images, stored_labels)) in enumerate(zip(shards, batches, strict=True), start=first):
            # read and augment, once for all models
            part = plan[start:stop]
            if settings.renderer is not None:
                images = settings.renderer.render(part.samples, part.ids, epoch_stream(spec, epoch))
            images, labels = augment(augment_spec(spec), images, stored_labels, part.params)
            batch = Batch(part, images, labels, stored_labels)

            # encode targets, forward, backward, optimizer step: of each model, or of several at once
            current = [state for state in running(states) if state.progress.step == step]
            for models, stack in fusion.divide(current, images):
                with stops(*models):
                    train_step(models, stack, batch, len(bounds), group)

            # periodically: check the losses, save, log. Several processes save at the same step, and synchronize
            # only where they check
            is_last = step == len(bounds) - 1
            checks = is_last or (step + 1) % CHECK_EVERY_STEPS == 0
            can_save = not is_last and (checks or group.world == 1)
            ends = can_save and group.broadcast_flag(signals.received())
            saves = can_save and (ends or group.broadcast_flag(clock.is_due()))
            if checks or saves:
                for state in running(states):
                    with stops(state):
                        check_finite_loss(state, step + 1, sample_names, group)
                if saves:
                    save_states(running(states), clock, group)
                if ends:
                    signals.raise_if_received()
                if (line := step_log.line(step + 1)) is not None:
                    for state in running(states):
                        state.log(f"epoch {epoch + 1}/{state.spec.epochs}, {line}")
            if not running(states):
                break
    return [stop - start for start, stop in bounds]


def train_step(
    states: Sequence[TrainState], stack: Stack | None, batch: Batch, steps: int, group: ProcessGroup
) -> None:
    """Takes the next of the epoch's `steps` steps of the optimizer, on one batch: of one model, or of those of a stack.

    The loss is that of the whole batch, whether it is computed at once, in parts, or by several processes: the
    normalizers of its terms follow from the labels, before the first part is computed.
    """
    first = states[0]  # what is read of it below is the same in the others
    spec, target, epoch, step = first.spec, first.target, first.progress.epoch, first.progress.step

    # schedule
    for state in states:
        set_lr(state, epoch + step / steps)

    # encode targets
    inputs, encoded = encode(first, batch)
    normalizers = group.sum_(target.normalizers(encoded)).clamp(min=1e-12)

    rank = [group.rank] if group.rank else []
    with rng.scope(spec.seed, "dropout", spec.init, epoch, step, *rank):
        for part in split_batch(len(encoded), spec.accumulate):
            # forward
            scores = forward(first, stack, inputs, part)

            # loss, backward
            losses = [(target.loss_sums(one, encoded[part]) / normalizers).sum() for one in scores]
            scaled = [state.scaler.scale(loss) for state, loss in zip(states, losses, strict=True)]
            torch.autograd.backward(scaled)

            # statistics of the epoch, which stay on the device
            for state, loss, one in zip(states, losses, scores, strict=True):
                state.losses[step] += loss.detach()
                if target.names:
                    predicted, labeled = target.classes(one.detach()), target.target_classes(encoded[part])
                    state.counts += pixel_metrics.confusion(predicted, labeled, len(target.names))
    if stack is not None:
        stack.assign_gradients()

    for state in states:
        # all-reduce across processes
        trained = [parameter for parameter in state.network.parameters() if parameter.requires_grad]
        group.sum_gradients(trained)

        # clip, optimizer step
        if state.spec.clip_norm is not None:
            state.scaler.unscale_(state.optimizer)
            optimizers.clip_grad_norm(trained, state.spec.clip_norm)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        state.progress.updates += 1
        state.progress.fused_steps += stack is not None

        # EMA
        if state.spec.ema is not None and state.ema is not None:
            optimizers.update_ema(state.spec.ema, state.ema, state.network, state.progress.updates)
        state.progress.step = step + 1


def set_lr(state: TrainState, position: float) -> None:
    """Sets the learning rate of the schedule at `position`, in epochs."""
    spec, progress = state.spec, state.progress
    factor = schedules.factor(spec.schedule, spec.warmup, progress.schedule, position, spec.epochs)
    optimizers.set_lr(state.optimizer, factor)
    progress.rate = spec.optimizer.lr * factor
    progress.highest_rate = max(progress.highest_rate, progress.rate)


def validate_epoch(
    state: TrainState, batch_sizes: Sequence[int], validation: Source | None, settings: PassSettings
) -> None:
    """Scores the epoch, keeps its weights if they are the best so far, and moves the schedule on."""
    spec, progress, target, group = state.spec, state.progress, state.target, settings.group
    device = torch.device(settings.device)

    # scores of training
    weights = torch.tensor(batch_sizes, dtype=torch.float64)
    losses = group.sum_(state.losses).cpu().double()
    row: dict[str, float] = {"epoch": progress.epoch + 1, "lr": progress.rate, "lr_max": progress.highest_rate}
    row["train_loss"] = ((losses * weights).sum() / weights.sum()).item()
    row["train_loss_adjusted"] = row["train_loss"] - target.min_loss
    row |= {f"train_{name}": value for name, value in class_scores(target, group.sum_(state.counts)).items()}

    with optimizers.ema_weights(state.network, state.ema):
        # validate
        if validation is not None:
            scored = row | score_validation(state, validation, device) if group.is_main else None
            row = group.broadcast_row(scored, device)
        row["epoch"] = progress.epoch + 1
        check_finite_validation(row, spec)

        # select
        if spec.tracks_best:
            value = schedules.value_to_minimize(row, spec.monitor)
            if schedules.is_improvement(value, progress.best_loss):
                progress.best_loss, progress.best_epoch = value, progress.epoch + 1
                state.best = optimizers.copy_weights(state.network)
        if spec.keep_epochs and group.is_main:
            make_folder(state.folder.epochs)
            checkpoint.save_weights(state.network.state_dict(), state.folder.epoch_weights(progress.epoch + 1))
    progress.history.append(row)

    # schedule
    progress.schedule, turns = schedules.step(spec.schedule, spec.warmup, progress.schedule, row, progress.epoch)
    goes_back = turns and spec.restore_best and bool(state.best)
    if turns:
        change = "kicked up" if spec.schedule.name == "kicks" else "lowered"
        origin = f", from the weights of epoch {progress.best_epoch}" if goes_back else ""
        state.log(f"epoch {progress.epoch + 1}: the rate is {change}{origin}")
    if goes_back:
        state.network.load_state_dict(state.best)
        if state.ema is not None:
            state.ema = optimizers.copy_weights(state.network)

    # early stopping
    if spec.early_stopping is not None:
        progress.stopping, progress.stopped = schedules.step_early_stopping(spec.early_stopping, progress.stopping, row)
    progress.epoch, progress.step, progress.losses, progress.counts = progress.epoch + 1, 0, [], []
    progress.highest_rate = 0.0


def encode(state: TrainState, batch: Batch) -> tuple[Tensor | list[Tensor], Tensor]:
    """Returns the inputs of the network, images or the features of a frozen encoder, and the training targets."""
    plan = batch.plan
    if state.targets is not None:
        samples, codes = torch.from_numpy(plan.samples), torch.from_numpy(plan.params.code)
        images, encoded = batch.images, state.targets.get(samples, batch.stored_labels, codes)
    else:
        images, encoded = state.target.encode_batch(batch.images, batch.labels, plan.params.seed)
    return images if state.features is None else state.features.get(torch.from_numpy(plan.ids)), encoded


def split_batch(count: int, parts: int) -> list[slice]:
    """Returns `parts` slices of a batch of `count` samples, as even as possible; empty ones are left out."""
    bounds = [count * k // parts for k in range(parts + 1)]
    return [slice(a, b) for a, b in itertools.pairwise(bounds) if b > a]


def forward(state: TrainState, stack: Stack | None, inputs: Tensor | list[Tensor], part: slice) -> Sequence[Tensor]:
    """Returns the scores (n, channels, H, W) of a part of a batch, of the model or of each in the stack; turns torch's
    errors into SegueErrors: batches or tiles that are too small for the network, or too little memory."""
    first = inputs if isinstance(inputs, Tensor) else inputs[0]
    try:
        with autocast(first.device, state.precision):
            if not isinstance(inputs, Tensor):
                return [state.network.scores([level[part] for level in inputs])]  # type: ignore[operator]
            return [state.forward(inputs[part])] if stack is None else stack.scores(inputs[part]).unbind()
    except (ValueError, RuntimeError) as error:
        count, _, height, width = first[part].shape
        raise SegueError(
            f"network '{state.spec.network.name}' cannot train on {count} tiles of {height}x{width} px at once "
            f"({str(error).splitlines()[0]}); change batch or the number of images, take larger tiles, or another "
            f"network{', or fewer models side by side' if stack is not None else ''}."
        ) from error


def check_finite_loss(state: TrainState, upto: int, names: Callable[[int], Sequence[str]], group: ProcessGroup) -> None:
    """Raises SegueError that names the samples of the first step, since the last check, whose loss is not finite."""
    losses = group.sum_(state.losses[state.last_checked : upto].clone())
    wrong = (~losses.isfinite()).nonzero()
    if len(wrong):
        step = state.last_checked + int(wrong[0])
        raise SegueError(
            f"step {step + 1} of the epoch: the loss is {losses[int(wrong[0])].item()} on the samples "
            f"{', '.join(dict.fromkeys(names(step)))}; lower optimizer.lr ({state.spec.optimizer.lr:g}) or look at "
            "these samples."
        )
    state.last_checked = upto


def init_epoch(state: TrainState, steps: int, settings: PassSettings) -> None:
    """Freezes the parts frozen in this epoch and allocates its losses, with those of the steps already taken.

    Of several processes, whose losses are summed, the main one takes the earlier steps into account.
    """
    progress, spec, is_main = state.progress, state.spec, settings.group.is_main
    state.frozen = freezing.frozen_at(state.network, spec.freeze, spec.unfreeze, progress.epoch + 1)
    freezing.freeze(state.network, state.frozen)
    freezing.set_training(state.network, state.frozen)
    state.losses = torch.zeros(steps, device=settings.device)
    if is_main:
        state.losses[: progress.step] = torch.tensor(progress.losses, device=settings.device)
    classes = len(state.target.names)
    state.counts = torch.zeros((classes, classes), dtype=torch.int64, device=settings.device)
    if progress.counts and is_main:
        state.counts += torch.tensor(progress.counts, device=settings.device)
    state.last_checked = progress.step


def update_caches(state: TrainState, source: Source, settings: PassSettings) -> None:
    """Fills or drops the cache of the frozen encoder's features, and allocates that of encoded targets."""
    spec, device = state.spec, torch.device(settings.device)
    cacheable = cache.are_features_cacheable(spec) and settings.group.world == 1
    if not cacheable or not freezing.is_fully_frozen(state.network, "encoder", state.frozen):
        state.features = None
    elif state.features is None and state.features_fit and spec.epochs - state.progress.epoch >= cache.MIN_EPOCHS:
        state.features = FeatureCache.compute(state.network, source, spec, device=device, precision=state.precision)
        state.features_fit = state.features is not None
        if state.features is not None:
            state.log(f"features of the frozen encoder are cached: {format_bytes(state.features.bytes)}")
    if state.targets is None and cache.are_targets_cacheable(spec):
        _, labels = source.read(torch.zeros(1, dtype=torch.int64), "cpu")
        state.targets = TargetCache.allocate(state.target, (len(source), labels.shape[1], labels.shape[2]), device)


def score_validation(state: TrainState, validation: Source, device: torch.device) -> dict[str, float]:
    """Returns the scores on the validation images; writes a frame of the film if the specification asks for one."""
    spec, folder = state.spec, state.folder.film
    samples = logging.film_samples(spec.film, len(validation)).tolist()
    scored = score_many(
        [state.network],
        [state.target],
        validation,
        batch=spec.batch,
        device=device,
        precision=state.precision,
        samples=samples,
    )[0]
    if samples:
        make_folder(folder)
        if state.progress.epoch == 0:
            images, labels = validation.read(torch.as_tensor(samples), device)
            classes = state.target.target_classes(state.target.encode(labels))
            logging.save_film_images(folder, images.cpu().numpy(), classes.cpu().numpy())
        logging.save_film_frame(folder, state.progress.epoch + 1, scored.probabilities.numpy())
    return {f"validation_{name}": value for name, value in scored.scores.items()}


def check_finite_validation(row: Mapping[str, float], spec: StageSpec) -> None:
    """Raises SegueError if the validation loss is not finite although all losses of the epoch were.

    Where no validation pixel is labeled there is no loss and no accuracy either, which is no fault of the network.
    """
    loss = row.get("validation_loss", 0.0)
    if not math.isfinite(loss) and not math.isnan(row.get("validation_accuracy", 0.0)):
        raise SegueError(
            f"epoch {row['epoch']:.0f}: the validation loss is {loss}; lower optimizer.lr "
            f"({spec.optimizer.lr:g}), or look at the validation images."
        )


def init_state(
    network: nn.Module,
    target: Target,
    spec: StageSpec,
    folder: RunFolder,
    *,
    device: str,
    precision: Precision,
    log: Callable[[str], None] = lambda line: None,
) -> TrainState:
    """Returns a model ready to train: from its last checkpoint in `folder`, or from the network's present weights."""
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = optimizers.build(spec.optimizer, network)
    scaler = torch.amp.GradScaler(torch.device(device).type, enabled=precision == "fp16")
    ema = optimizers.copy_weights(network) if spec.ema is not None else None
    resumed = checkpoint.restore(folder.state, network, optimizer)
    progress, extra_weights = resumed if resumed else (Progress(schedule=spec.schedule.init_state()), {})
    progress.interruptions += bool(resumed)
    if resumed:
        place = f"epoch {progress.epoch + 1}, step {progress.step + 1}" if progress.epoch < spec.epochs else "its end"
        damaged = checkpoint.damaged_state(folder.state)
        log(f"resuming from {place}" + (f" (the newest state, {damaged}, is damaged)" if damaged is not None else ""))
    last = max(progress.epoch, 1)  # of a training that has stopped already, whose parameters are still counted
    freezing.freeze(network, freezing.frozen_at(network, spec.freeze, spec.unfreeze, last))
    if ema is not None and extra_weights.get("average"):
        ema = extra_weights["average"]
    if progress.scaler:
        scaler.load_state_dict(progress.scaler)
    compiled = network
    if spec.compile != "none":
        compiled = torch.compile(network, mode="reduce-overhead" if spec.compile == "cuda-graphs" else "default")
    return TrainState(
        spec=spec,
        target=target,
        network=network,
        forward=compiled,
        folder=folder,
        precision=precision,
        log=log,
        optimizer=optimizer,
        scaler=scaler,
        progress=progress,
        best=extra_weights.get("best", {}),
        ema=ema,
    )


def save_state(state: TrainState, group: ProcessGroup) -> float:
    """Writes a checkpoint; returns the seconds it took.

    In the middle of an epoch all processes must call it, at the same step; the main one writes.
    """
    started = time.monotonic()
    progress = state.progress
    progress.losses = group.sum_(state.losses[: progress.step].clone()).tolist() if progress.step else []
    progress.counts = group.sum_(state.counts.clone()).tolist() if progress.step else []
    if not group.is_main:
        return 0.0
    progress.scaler = state.scaler.state_dict()
    extra_weights = {"best": state.best, "average": state.ema or {}}
    checkpoint.save(state.folder.state, state.network, state.optimizer, extra_weights, progress)
    return time.monotonic() - started


def save_states(states: Sequence[TrainState], clock: CheckpointClock, group: ProcessGroup) -> None:
    """Writes a checkpoint of each model."""
    if states:
        clock.share_time([state.progress for state in states])
        clock.record_save(sum(save_state(state, group) for state in states))


def log_epoch(state: TrainState, visits: int) -> None:
    """Logs the epoch that has just ended, in which the model saw `visits` images."""
    progress, epochs = state.progress, state.spec.epochs
    images_per_s = visits * progress.epoch / max(progress.seconds, 1e-9)
    seconds_left = (epochs - progress.epoch) * progress.seconds / max(progress.epoch, 1)
    state.log(logging.epoch_line(progress.history[-1], epochs, images_per_s, seconds_left))


@dataclass(frozen=True)
class FinalWeights:
    """Weights of the selected epoch (from 1) and of the last one, averaged (EMA) if the specification says so."""

    selected: Mapping[str, Tensor]
    last: Mapping[str, Tensor]
    epoch: int


def final_weights(state: TrainState) -> FinalWeights:
    """Returns the weights of a finished training: the best ones, if there is a selection, and the last ones."""
    with optimizers.ema_weights(state.network, state.ema):
        last = optimizers.copy_weights(state.network)
    if state.spec.selects_best and state.progress.best_epoch:
        return FinalWeights(state.best, last, state.progress.best_epoch)
    return FinalWeights(last, last, state.progress.epoch)
