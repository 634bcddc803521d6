"""From a planned training to a run folder, in order of execution.

`train_tasks` claims the folders, loads the data, prepares network, target and state of each model, trains all models
side by side in one pass over the data (`loop.train`), tunes decode parameters, and writes the runs.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from torch import Tensor, nn

from segue import device as devices
from segue import energy, networks, rng, signals
from segue.data.dataset import Dataset
from segue.data.sources import LabeledImage, has_micrographs, labeled_images, labeled_tiles
from segue.data.spec import NormalizeSpec
from segue.errors import SegueError
from segue.inference import confidence
from segue.inference.dihedral_average import DihedralAverage
from segue.networks.pretrained import load_pretrained
from segue.storage import make_folder, refusal, write_json
from segue.targets.registry import build_target
from segue.training import checkpoint, freezing, logging, loop, schedules, tuning
from segue.training.distributed import ProcessGroup, init_distributed
from segue.training.inputs import class_presence
from segue.training.inputs.data import StageData, draw_validation_subset, load_data, with_parent
from segue.training.inputs.sampler import repeats_per_sample
from segue.training.loop import PassSettings, TrainState
from segue.training.run_folder import RunFolder
from segue.training.spec import StageSpec, TrainTask, shared_pass

Log = Callable[[str], None]


@dataclass(frozen=True)
class RunContext:
    """How tasks are run: the group of processes, the interval of checkpoints, and the log."""

    group: ProcessGroup
    checkpoint_s: float
    log: Log


def train_task(task: TrainTask, *, checkpoint_s: float = 60.0, log: Log | None = None) -> None:
    """Trains a stage into the task's folder, resuming from where an earlier attempt was interrupted.

    A finished run of the same key is left unchanged. Raises SegueError for what the user can correct: data that do not
    fit the network, too few labels, leaking groups, a folder in use or with another run, a full disk. Started by
    `torchrun`, its processes train the one model together.
    """
    (error,) = train_tasks([task], checkpoint_s=checkpoint_s, log=log)
    if error is not None:
        raise error


def train_tasks(
    tasks: Sequence[TrainTask], *, checkpoint_s: float = 60.0, log: Log | None = None
) -> list[SegueError | None]:
    """Trains several stages side by side in one pass over their data; returns for each the error, or None.

    The stages must agree in `spec.shared_pass`; each run is the same as if trained alone, within rounding where the
    stages say `side_by_side = "approximate"`. A mistake in the shared data stops all of them.
    """
    if len({shared_pass(task.spec) for task in tasks}) > 1:
        raise ValueError("tasks side by side must share their data, order, batch and augmentation")
    errors: dict[Path, SegueError] = {}
    with init_distributed() as group, ExitStack() as locks:
        context = RunContext(group, checkpoint_s, log if log is not None and group.is_main else lambda line: None)

        # claim the folders; the main process decides which are to be trained
        claimed: list[TrainTask] = []
        for task in tasks:
            with collects(errors, task.folder):
                if not group.is_main or _claim(task, locks, context.log):
                    claimed.append(task)
        to_train = group.all_true([task in claimed for task in tasks])
        claimed = [task for task, is_claimed in zip(tasks, to_train, strict=True) if is_claimed]

        if claimed:
            errors |= _train(claimed, context)

        # remove what only an unfinished run needs; of a failed one everything, if there is no checkpoint to resume from
        for task in claimed if group.is_main else ():
            run = RunFolder(task.folder)
            if task.folder not in errors:
                shutil.rmtree(run.state, ignore_errors=True)
            elif not run.working.state.exists():
                shutil.rmtree(run.working.path, ignore_errors=True)
        if claimed and not errors:  # a process that failed alone does not wait, which ends the others
            group.barrier()
    return [errors.get(task.folder) for task in tasks]


@contextmanager
def collects(errors: dict[Path, SegueError], folder: Path) -> Iterator[None]:
    """Records the error that stops the run of `folder`, worded for the user; the other runs continue."""
    try:
        yield
    except (SegueError, OSError, SafetensorError, RuntimeError, MemoryError) as error:
        errors[folder] = _worded(error, folder)


def _worded(error: Exception, folder: Path) -> SegueError:
    """Returns the error as a user can correct it; raises it again where no user can."""
    if isinstance(error, SegueError):
        return error
    if devices.is_out_of_memory(error):
        return SegueError(
            f"{folder}: the training does not fit into memory ({str(error).splitlines()[0][:200]}); lower batch, raise "
            "accumulate, set memory_gb for the data, or take a smaller network."
        )
    if isinstance(error, (RuntimeError, MemoryError)):
        raise error
    if isinstance(error, OSError):
        return SegueError(refusal(folder, error))
    return SegueError(
        f"{folder}: its weights cannot be written ({error}); free disk space, then run the same command again."
    )


# Claim a folder


def _claim(task: TrainTask, locks: ExitStack, log: Log) -> bool:
    """Takes hold of the task's folder; returns whether there is anything to train."""
    run = RunFolder(task.folder)
    if run.is_finished:
        if run.key != task.key:
            raise SegueError(
                f"{run.path}: holds a finished run of another specification or other data; choose another folder, "
                "or remove this one to train again."
            )
        shutil.rmtree(run.state, ignore_errors=True)
        return False
    if run.path.exists() or run.path.is_symlink():
        raise SegueError(f"{run.path}: exists and is not a finished run; move it or choose another folder.")
    working = run.working
    make_folder(working.path.parent)
    locks.enter_context(lock_run(run, log))
    if run.is_finished:  # another process finished it while this one waited
        return False
    make_folder(working.path)
    if working.key not in (None, task.key):
        for outdated in (working.state, working.epochs, working.film, working.tensorboard):
            shutil.rmtree(outdated, ignore_errors=True)
    return True


@contextmanager
def lock_run(run: RunFolder, log: Log = lambda line: None) -> Iterator[None]:
    """Locks the run against other processes; the system releases it when this process ends, however it ends.

    The lock is next to the folder, since Windows cannot rename a folder with an open file in it.
    """
    lock = FileLock(run.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log(f"{run.working.path}: another process is training this run; waiting for it to end")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
        if not run.working.path.exists():
            run.lock.unlink(missing_ok=True)


# Train


def _train(tasks: Sequence[TrainTask], context: RunContext) -> dict[Path, SegueError]:
    """Trains the tasks and writes their runs; returns by folder the errors of those that did not finish."""
    started = time.monotonic()
    spec, root, group = tasks[0].spec, tasks[0].folder, context.group

    # hardware and data, which are the same for all
    try:
        device = _set_up_hardware(spec, root)
        precisions = sorted({devices.resolve_precision(task.spec.precision, device) for task in tasks})
        processes = f", {group.world} processes" if group.world > 1 else ""
        models = f", {len(tasks)} models side by side" if len(tasks) > 1 else ""
        context.log(f"{', '.join(precisions)} on {device}, {spec.threads} threads{processes}{models}")
        if len(tasks) == 1:  # of several, one with a mistake does not stop the others
            _require_parts(spec)
        inputs = tasks[0].inputs if len(tasks) == 1 else replace(tasks[0].inputs, parent=None)  # each has its own
        data = load_data(spec, inputs, context=str(root), device=device, log=context.log)
        presence = class_presence.measure(spec, inputs)
    except SegueError as error:
        return {task.folder: error for task in tasks}

    errors: dict[Path, SegueError] = {}
    states: dict[Path, TrainState] = {}
    with closing(data), ExitStack() as writers:
        # network, target and state of each model; a model that cannot start in one process starts in none
        for task in tasks:
            with collects(errors, task.folder):
                class_presence.check(task.spec, presence, context=str(task.folder), log=context.log)
                states[task.folder] = _prepare(task, data, device, context)
                _open_tensorboard(states[task.folder], writers, group)
        ready = group.all_true([task.folder not in errors for task in tasks])
        for task, is_ready in zip(tasks, ready, strict=True):
            if not is_ready:
                states.pop(task.folder, None)
                message = f"{task.folder}: another process cannot start this training and reports why."
                errors.setdefault(task.folder, SegueError(message))

        # train
        try:
            with signals.deferring(), energy.power_cap(spec.power_w, device), energy.measure(device) as meter:
                settings = PassSettings(
                    device,
                    context.checkpoint_s,
                    data.chunk_ids,
                    data.window,
                    data.sample_counts,
                    data.renderer,
                    group,
                    energy_J=lambda: meter.read()["energy_J"],
                )
                loop.train(list(states.values()), training=data.training, validation=data.validation, settings=settings)
        except (SegueError, OSError, RuntimeError, MemoryError) as error:
            return errors | {folder: _worded(error, folder) for folder in states}

    # write the runs; seconds and energy are each model's share
    for task in tasks:
        state = states.get(task.folder)
        if state is None:
            continue
        with collects(errors, task.folder):
            if state.error is not None:
                raise state.error
            if group.is_main:
                visits = len(data.chunk_ids) * repeats_per_sample(spec) * len(state.progress.history)
                timing = {
                    "seconds": state.progress.seconds,
                    "images_per_s": visits / max(state.progress.seconds, 1e-9),
                    "seconds_with_loading": time.monotonic() - started,
                    "interruptions": state.progress.interruptions,
                    "side_by_side": len(states),
                    **meter.read(),
                    "energy_J": state.progress.energy_J,
                    "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                }
                _write_run(task, state, data, timing, device)
    return errors


def _set_up_hardware(spec: StageSpec, folder: Path) -> str:
    """Sets threads, memory and TF32 as in the stage's settings; returns the device it trains on."""
    if spec.threads > devices.cpu_count():
        raise SegueError(
            f"{folder}: threads = {spec.threads}, but this machine has {devices.cpu_count()} cores; lower threads "
            "(results are bit-identical for equal threads only)."
        )
    torch.set_num_threads(spec.threads)
    devices.keep_freed_memory()
    devices.set_tf32(spec.tf32)
    device = devices.default_device()
    return f"cuda:{torch.cuda.current_device()}" if device == "cuda" else device


def _require_parts(spec: StageSpec) -> None:
    """Raises SegueError if freeze or unfreeze name parts that the network does not have: before data are read."""
    if not spec.freeze and not spec.unfreeze:
        return
    try:
        with torch.device("meta"):
            network = networks.build(spec.network, channels=1, classes=2)
    except (RuntimeError, SegueError):
        return  # it computes with tensors during construction; errors are found when it is built for these data
    freezing.leaf_parts(network, spec.freeze)
    freezing.frozen_at(network, spec.freeze, spec.unfreeze, spec.epochs)


# Prepare a model


def _prepare(task: TrainTask, data: StageData, device: str, context: RunContext) -> TrainState:
    """Returns the model in its initial state, or in that of its last checkpoint; writes its specification and
    groups."""
    spec, error_context, group = task.spec, str(task.folder), context.group
    working = RunFolder(task.folder).working
    data = with_parent(data, task.inputs.parent, context=error_context)
    target = build_target(
        spec.target,
        names=data.layer.names,
        instances=data.layer.kind == "instances",
        context=error_context,
        counts=data.sample_counts() if spec.target.needs_counts else None,
        channels=len(data.channels),
    )

    # initial weights: random, then pretrained ones, then those of a parent
    with rng.scope(spec.seed, "init", spec.init):
        network = networks.build(spec.network, channels=len(data.channels), classes=target.channels)
    freezing.freeze(network, freezing.frozen_at(network, spec.freeze, spec.unfreeze, 1))  # or reports unknown parts
    pretrained = load_pretrained(network, spec.network, context=error_context)
    if pretrained is not None:
        context.log(pretrained.describe())
    transfer = _load_parent(network, spec, task.inputs.parent, context.log)
    network = _share_batch_norm(network, spec, group, device, error_context)

    if group.is_main:
        model = {
            "channels": data.channels,
            "layer": data.layer.name,
            "names": target.names,
            "instances": data.layer.kind == "instances",
            "class_weights": target.class_weights,
            "divisor": networks.divisor(spec.network),
            "training_set": data.training_set.as_record(),
        }
        stage = spec.model_dump(mode="json", by_alias=True)
        write_json(working.spec, {"kind": "train", "key": task.key, "stage": stage, "model": model})
        write_json(working.groups, data.groups_record)
    precision = devices.resolve_precision(spec.precision, device)
    state = loop.init_state(network, target, spec, working, device=device, precision=precision, log=context.log)
    state.metrics = {
        "transfer": transfer,
        "pretrained": None if pretrained is None else pretrained.as_dict(),
        "ancestry": data.ancestry,
        **({"licenses": data.groups["licenses"]} if "licenses" in data.groups else {}),
        "precision": precision,
        **({"leak": data.leak} if data.leak is not None else {}),
    }
    return state


def _as_setting(normalize: NormalizeSpec) -> str:
    return f'"{normalize if isinstance(normalize, str) else normalize.name}"'


def _load_parent(network: nn.Module, spec: StageSpec, parent: Path | None, log: Log) -> dict[str, list[str]] | None:
    if parent is None:
        return None
    if parent.is_dir():
        run = RunFolder(parent)
        normalize = run.read_stage().normalize
        if normalize != spec.normalize:
            log(
                f"WARNING: {parent}: was trained with normalize = {_as_setting(normalize)}, this stage has "
                f"{_as_setting(spec.normalize)}: its weights see other values than they were trained on."
            )
        file = run.weights_file(spec.weights)
        weights = run.read_weights(file)
    else:
        file, weights = parent, checkpoint.load_weights(parent)
    loaded = freezing.load_parts(network, weights, spec.load, context=str(file))
    log(f"{file}: " + ", ".join(f"{len(n)} tensors {what.replace('_', ' ')}" for what, n in loaded.items() if n))
    return loaded


def _share_batch_norm(network: nn.Module, spec: StageSpec, group: ProcessGroup, device: str, context: str) -> nn.Module:
    """Returns the network prepared for several processes: batch normalization has to see the whole batch."""
    if group.world == 1:
        return network
    if spec.batch < group.world * spec.accumulate:
        raise SegueError(
            f"{context}: a batch of {spec.batch} cannot be shared by {group.world} processes in {spec.accumulate} "
            "parts; take a larger batch, or fewer processes or parts."
        )
    frozen = [freezing.frozen_at(network, spec.freeze, spec.unfreeze, epoch + 1) for epoch in range(spec.epochs)]
    if not any(freezing.live_batch_norms(network, parts) for parts in set(frozen)):
        return network
    if not device.startswith("cuda"):
        raise SegueError(
            f"{context}: its network has batch normalization that is trained, whose statistics several CPU processes "
            'cannot share, so that each would normalize by its own part of the batch; set network.norm = "group", '
            "freeze the parts that have it, or train in one process."
        )
    return nn.SyncBatchNorm.convert_sync_batchnorm(network)


def _open_tensorboard(state: TrainState, writers: ExitStack, group: ProcessGroup) -> None:
    writer = logging.tensorboard_writer(
        state.folder.tensorboard, state.spec.tensorboard and group.is_main, history=state.progress.history
    )
    state.write_row = writers.enter_context(writer)


# Finish a run


def _write_run(task: TrainTask, state: TrainState, data: StageData, timing: Mapping[str, Any], device: str) -> None:
    """Writes the results of a training into its working folder, and renames the folder."""
    spec, run, history = task.spec, state.folder, state.progress.history
    write_json(run.environment, devices.environment(device, state.precision, spec.threads))
    write_json(run.timing, timing)
    weights = loop.final_weights(state)
    decoding, calibration = _tune_decoding(task, state, data, weights.selected, device) or (None, None)
    checkpoint.save_weights(weights.selected, run.weights)
    run.last_weights.unlink(missing_ok=True)
    if weights.epoch != len(history):
        checkpoint.save_weights(weights.last, run.last_weights)
    run.write_history(history)
    row = history[weights.epoch - 1]
    undefined = schedules.undefined_epochs(spec.monitors, history)
    for monitor, count in undefined.items():
        state.log(f"WARNING: {monitor} was undefined in {count} of {len(history)} epochs, which counted for nothing")
    is_selected = spec.selects_best and state.progress.best_epoch > 0
    metrics = {
        "selected_epoch": weights.epoch,
        "selected_by": spec.monitor.replace("_", " ") if is_selected else "last epoch",
        **({"undefined_epochs": undefined} if undefined else {}),
        "epochs": len(history),
        "stopped_early": len(history) < spec.epochs,
        "scores": {name: value for name, value in row.items() if name not in ("epoch", "lr", "lr_max")},
        "threads": spec.threads,
        "decoding": decoding,
        **({"confidence": calibration} if calibration is not None else {}),
        "class_weights": state.target.class_weights,
        "labels": {"unit": spec.label_unit, **data.label_counts},
        "parameters": freezing.parameter_counts(state.network),
        **_side_by_side(state),
        **state.metrics,
    }
    write_json(run.metrics, metrics)
    run.write_digests()
    run.path.rename(task.folder)


def _side_by_side(state: TrainState) -> dict[str, Any]:
    """Returns the entry on how a model was trained whose steps may be approximate; none for others."""
    if state.spec.side_by_side == "exact":
        return {}
    fused, steps = state.progress.fused_steps, state.progress.updates
    how = {"steps": "approximate" if fused else "exact", "fused_steps": fused, "all_steps": steps}
    return {"side_by_side": how | ({"why_exact": state.why_exact} if fused < steps else {})}


def _tune_decoding(
    task: TrainTask, state: TrainState, data: StageData, weights: Mapping[str, Tensor], device: str
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Returns the decode parameters as tuned on the validation images, and the confidence of objects as calibrated on
    them; None without parameters or images."""
    spec = task.spec
    if not state.target.decode_search_space or data.validation is None:
        return None
    labeled: list[LabeledImage] = []
    all_whole = True
    for item in spec.data:
        path, identity = task.inputs.datasets[item.dataset]
        with Dataset(path) as dataset:
            indices = draw_validation_subset(dataset, item, spec, identity).indices
            # no label is spent that was not drawn, and no pixel used that was trained on
            whole = (
                spec.validation == "all"
                and dataset.resolve_split(spec.split).by != "chunk"
                and has_micrographs(dataset, indices)
            )
            all_whole = all_whole and whole
            labeled += (labeled_images if whole else labeled_tiles)(dataset, indices, layer=data.layer.name)
    images, labels = zip(*tuning.select_images(labeled), strict=True)
    state.network.load_state_dict(weights)
    predicted = tuning.predict_scores(
        DihedralAverage(state.network, state.target) if spec.tta else state.network,
        images,
        normalization=spec.normalize,
        divisor=networks.divisor(spec.network),
        device=device,
        precision=state.precision,
    )
    scores = list(predicted)
    decoding = tuning.tune_decoding(state.target, scores, labels, metric=spec.tuning, whole=all_whole)
    pairs = zip(scores, labels, strict=True)
    calibration, objects = confidence.fit_images(state.target, pairs, decoding["parameters"])
    if calibration is not None:
        return decoding, calibration.record
    reason = f"{objects} objects on the validation images, fewer than {confidence.MIN_OBJECTS}"
    state.log(f"WARNING: objects get no confidence: {reason}")
    return decoding, {"objects": objects, "reason": reason}
