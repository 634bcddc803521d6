"""Trains stages into run folders: one alone, or several side by side in one pass over their data."""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from segue import device as devices
from segue import networks, rng
from segue.data.dataset import Dataset
from segue.data.sources import Labelled, tiles, whole_images
from segue.errors import SegueError
from segue.storage import make_folder, refusal
from segue.targets import registry as targets
from segue.targets.classes import Classes, ImageClass
from segue.targets.specs import needs_counts
from segue.training import checkpoint, energy, freezing, logging, loop, tuning
from segue.training import data as drawing
from segue.training.data import Inputs, StageData, Tell, load_data, with_parent
from segue.training.distributed import Group, joined
from segue.training.energy import power_cap
from segue.training.freezing import load_parts
from segue.training.loop import Member
from segue.training.run_folder import is_finished, recorded_key, weights_file, working_folder, write_json, write_run
from segue.training.sampler import copies
from segue.training.spec import StageSpec, shared_pass


@dataclass(frozen=True)
class Stage:
    """A training to be done: what, into which folder, under which key, from which inputs."""

    spec: StageSpec
    folder: Path
    key: str
    inputs: Inputs


def train_stage(
    spec: StageSpec, folder: Path, *, key: str, inputs: Inputs, checkpoint_s: float = 60.0, tell: Tell | None = None
) -> None:
    """Trains the stage into `folder`, going on from where an earlier attempt was interrupted.

    A finished run of the same key is left alone. Raises SegueError for what the user can mend: data that do not fit
    the network, too few labels, leaking groups, a folder in use or holding another run, a full disk. Started by
    `torchrun`, its processes train the one model together.
    """
    (error,) = train_fleet([Stage(spec, folder, key, inputs)], checkpoint_s=checkpoint_s, tell=tell)
    if error is not None:
        raise error


def train_fleet(
    stages: Sequence[Stage], *, checkpoint_s: float = 60.0, tell: Tell | None = None
) -> list[SegueError | None]:
    """Trains several stages side by side in one pass over their data; returns for each what stopped it, or None.

    The stages must agree in `stage.shared_pass`; each run becomes what it would have become alone. A mistake in the
    data, which they share, is that of all.
    """
    if len({shared_pass(stage.spec) for stage in stages}) > 1:
        raise ValueError("the stages of a fleet must share their data, order, batch and augmentation")
    errors: dict[Path, SegueError] = {}
    with joined() as group, ExitStack() as held:
        waiting = []
        for stage in stages:
            try:
                if not group.leads or _enter(stage, held, tell):
                    waiting.append(stage)
            except (SegueError, OSError) as error:
                errors[stage.folder] = _worded(error, stage.folder)
        to_train = group.by_all([stage in waiting for stage in stages])
        waiting = [stage for stage, wanted in zip(stages, to_train, strict=True) if wanted]
        if waiting:
            errors |= _train(waiting, (checkpoint_s, tell), group)
        for stage in waiting:
            if stage.folder in errors and not (working_folder(stage.folder) / "state").exists() and group.leads:
                shutil.rmtree(working_folder(stage.folder), ignore_errors=True)  # nothing to go on from
            elif stage.folder not in errors and group.leads:
                _clear(stage.folder)
        if waiting and not errors:  # a process that failed alone does not wait, which ends the others
            group.wait()
    return [errors.get(stage.folder) for stage in stages]


def _enter(stage: Stage, held: ExitStack, tell: Tell | None) -> bool:
    """Takes hold of the stage's working folder; returns whether there is anything to train."""
    folder = stage.folder
    if is_finished(folder):
        _require_same(folder, stage.key)
        _clear(folder)
        return False
    if folder.exists() or folder.is_symlink():
        raise SegueError(f"{folder}: is in the way and is no finished run; move it or choose another folder.")
    working = working_folder(folder)
    make_folder(working)
    held.enter_context(_lock(working, tell))
    if is_finished(folder):  # another process finished it while this one waited
        return False
    if recorded_key(working) not in (None, stage.key):
        for left in ("state", "epochs", "film", "tensorboard"):
            shutil.rmtree(working / left, ignore_errors=True)
    return True


def _worded(error: Exception, folder: Path) -> SegueError:
    if isinstance(error, SegueError):
        return error
    if isinstance(error, OSError):
        return SegueError(refusal(folder, error))
    return SegueError(
        f"{folder}: its weights cannot be written ({error}); free disk space, then run the same command again."
    )


def _train(stages: Sequence[Stage], how: tuple[float, Tell | None], group: Group) -> dict[Path, SegueError]:
    """Trains the stages and writes their runs; returns by folder what stopped those that did not finish."""
    began = time.monotonic()
    checkpoint_s, tell = how
    spec, folder = stages[0].spec, stages[0].folder
    try:
        device = _hardware(spec, folder)
        if tell is not None and group.leads:
            precisions = sorted({devices.resolve_precision(stage.spec.precision, device) for stage in stages})
            tell(f"{', '.join(precisions)} on {device}, {spec.threads} threads" + _processes(group, len(stages)))
        if len(stages) == 1:  # of several, one with a mistake does not stop the others
            _require_parts(spec)
        inputs = stages[0].inputs if len(stages) == 1 else replace(stages[0].inputs, parent=None)  # each has its own
        data = load_data(spec, inputs, where=str(folder), device=device, tell=tell if group.leads else None)
    except SegueError as error:
        return {stage.folder: error for stage in stages}
    errors: dict[Path, SegueError] = {}
    prepared: list[_Prepared] = []
    with closing(data), ExitStack() as opened:
        for stage in stages:
            try:
                prepared.append(_prepare(stage, data, device, group, (opened, tell)))
            except (SegueError, OSError) as error:
                errors[stage.folder] = _worded(error, stage.folder)
        ready = group.by_all([stage.folder not in errors for stage in stages])
        everywhere = {stage.folder for stage, known in zip(stages, ready, strict=True) if known}
        for one in [p for p in prepared if p.stage.folder not in everywhere]:
            errors[one.stage.folder] = SegueError(f"{one.stage.folder}: another process cannot begin it and tells why.")
            prepared.remove(one)
        settings = loop.Settings(device, checkpoint_s, data.blocks, data.window, data.sample_counts, group)
        members = [p.member for p in prepared]
        try:
            with power_cap(spec.power_w, device), energy.measure(device) as meter:
                settings = replace(settings, energy_J=lambda: meter.read()["energy_J"])
                outcomes = loop.train(members, training=data.training, validation=data.validation, settings=settings)
        except (SegueError, OSError) as error:
            return errors | {p.stage.folder: _worded(error, p.stage.folder) for p in prepared}
        used = meter.read()
    for one, outcome in zip(prepared, outcomes, strict=True):
        try:
            if isinstance(outcome, SegueError):
                raise outcome
            if group.leads:
                timing = _timing(one, outcome, len(data.blocks), (began, len(prepared)), used)
                _finish(one, outcome, timing, device)
        except (SegueError, OSError, SafetensorError) as error:
            errors[one.stage.folder] = _worded(error, one.stage.folder)
    return errors


def _require_parts(spec: StageSpec) -> None:
    """Raises SegueError where freeze or unfreeze name parts that the network does not have: before data are read."""
    try:
        with torch.device("meta"):
            network = networks.build(spec.network, channels=1, classes=2)
    except (RuntimeError, SegueError):
        return  # it counts with tensors while it is built; what is wrong is found when it is built for these data
    freezing.leaves(network, spec.freeze)
    freezing.frozen_at(network, spec.freeze, spec.unfreeze, spec.epochs)


def _hardware(spec: StageSpec, folder: Path) -> str:
    """Sets threads, memory and TF32 as the stage wants them; returns the device it trains on."""
    if spec.threads > devices.cores():
        raise SegueError(
            f"{folder}: threads = {spec.threads}, but this machine has {devices.cores()} cores; lower threads "
            "(results are bit-identical for equal threads only)."
        )
    torch.set_num_threads(spec.threads)
    devices.reuse_memory()
    devices.set_tf32(spec.tf32)
    device = devices.default_device()
    return f"cuda:{torch.cuda.current_device()}" if device == "cuda" else device


def _processes(group: Group, members: int) -> str:
    told = f", {group.world} processes" if group.world > 1 else ""
    return told + (f", {members} models side by side" if members > 1 else "")


@dataclass(frozen=True)
class _Prepared:
    """A stage ready to train: its member, the data as it sees them (ancestry included), what its parent gave."""

    stage: Stage
    member: Member
    data: StageData
    loaded: dict[str, list[str]] | None
    pretrained: dict[str, Any] | None


def _prepare(
    stage: Stage, data: StageData, device: str, group: Group, around: tuple[ExitStack, Tell | None]
) -> _Prepared:
    spec, where = stage.spec, str(stage.folder)
    opened, tell = around
    data = with_parent(data, stage.inputs.parent, where=where)
    precision = devices.resolve_precision(spec.precision, device)
    target = targets.build(
        spec.target,
        names=data.layer.names,
        instances=data.layer.kind == "instances",
        where=where,
        counts=data.sample_counts() if needs_counts(spec.target) else None,
        channels=len(data.channels),
    )
    with rng.scope(spec.seed, "init", spec.init):
        network = networks.build(spec.network, channels=len(data.channels), classes=target.channels)
    freezing.freeze(network, freezing.frozen_at(network, spec.freeze, spec.unfreeze, 1))  # or tells of unknown parts
    pretrained = networks.load_pretrained(network, spec.network, where=where)
    if pretrained is not None and tell is not None and group.leads:
        tell(pretrained.words())
    loaded = _load_parent(network, spec, stage.inputs.parent, tell if group.leads else None)
    report = None if pretrained is None else pretrained.as_dict()
    network = _together(network, spec, group, device, where)
    working = working_folder(stage.folder)
    described = {
        "kind": "train", "key": stage.key, "stage": spec.model_dump(mode="json", by_alias=True),
        "model": {"channels": data.channels, "layer": data.layer.name, "names": target.names,
                  "instances": data.layer.kind == "instances",
                  "class_weights": target.weights if isinstance(target, Classes | ImageClass) else None,
                  "divisor": networks.divisor(spec.network)},
    }  # fmt: skip
    if not group.leads:
        return _Prepared(stage, Member(network, target, spec, working / "state", precision), data, loaded, report)
    write_json(working / "spec.json", described)
    before = checkpoint.newest(working / "state") if spec.tensorboard else None
    earlier = before.history if before is not None else []
    record = opened.enter_context(
        logging.tensorboard_writer(working / "tensorboard", spec.tensorboard, history=earlier)
    )
    member = Member(network, target, spec, working / "state", precision, tell, record)
    return _Prepared(stage, member, data, loaded, report)


def _together(network: nn.Module, spec: StageSpec, group: Group, device: str, where: str) -> nn.Module:
    """Returns the network as several processes train it: batch normalisation has to see the whole batch."""
    if group.world == 1:
        return network
    if spec.batch < group.world * spec.accumulate:
        raise SegueError(
            f"{where}: a batch of {spec.batch} cannot be shared by {group.world} processes in {spec.accumulate} parts; "
            "take a larger batch, or fewer processes or parts."
        )
    frozen = [freezing.frozen_at(network, spec.freeze, spec.unfreeze, epoch + 1) for epoch in range(spec.epochs)]
    if not any(freezing.live_batch_norms(network, parts) for parts in set(frozen)):
        return network
    if not device.startswith("cuda"):
        raise SegueError(
            f"{where}: its network has batch normalisation that is trained, whose statistics several CPU processes "
            'cannot share, so that each would normalise by its own part of the batch; set network.norm = "group", '
            "freeze the parts that have it, or train in one process."
        )
    return nn.SyncBatchNorm.convert_sync_batchnorm(network)


def _timing(
    one: _Prepared, outcome: loop.Outcome, samples: int, how: tuple[float, int], used: Mapping[str, Any]
) -> dict[str, Any]:
    """how: when loading began, and how many models shared the pass. Seconds and energy are this run's share."""
    began, members = how
    spec = one.stage.spec
    visited = samples * copies(spec) * len(outcome.history)
    return {
        "seconds": outcome.seconds, "images_per_s": visited / max(outcome.seconds, 1e-9),
        "seconds_with_loading": time.monotonic() - began, "interruptions": outcome.interruptions,
        "side_by_side": members, **used, "energy_J": outcome.energy_J, "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }  # fmt: skip


def _finish(one: _Prepared, outcome: loop.Outcome, timing: Mapping[str, Any], device: str) -> None:
    """Writes the run and gives it its name."""
    spec, data, member = one.stage.spec, one.data, one.member
    working = working_folder(one.stage.folder)
    write_json(working / "environment.json", devices.environment(device, member.precision, spec.threads))
    write_json(working / "timing.json", timing)
    write_json(working / "groups.json", data.told_groups)
    told = {
        "decoding": _tuned(one, outcome, device),
        "class_weights": member.target.weights if isinstance(member.target, Classes | ImageClass) else None,
        "labels": {"unit": spec.label_unit, **data.labels},
        "parameters": freezing.counts(member.network),
        "transfer": one.loaded,
        "pretrained": one.pretrained,
        "ancestry": data.ancestry,
        "precision": member.precision,
        **({"leak": data.leak} if data.leak is not None else {}),
    }
    write_run(working, spec, outcome, told=told)
    working.rename(one.stage.folder)


def _tuned(one: _Prepared, outcome: loop.Outcome, device: str) -> dict[str, Any] | None:
    """Returns the decode parameters as tuned on the validation images; None where there are none of either."""
    spec, member = one.stage.spec, one.member
    if not member.target.ranges or one.data.validation is None:
        return None
    found: list[Labelled] = []
    for item in spec.data:
        path, identity = one.stage.inputs.datasets[item.dataset]
        with Dataset(path) as dataset:
            indices = drawing.draw_validation(dataset, item, spec, identity).indices
            # no label is spent that was not drawn, and no pixel looked at that was trained on
            whole = spec.validation == "all" and dataset.origin(spec.split).by != "chunk"
            take = whole_images if whole else tiles
            found += take(dataset, indices, layer=one.data.layer.name)
    images, labels = zip(*tuning.chosen(found), strict=True)
    member.network.load_state_dict(outcome.selected)
    scores = tuning.scored_images(
        member.network,
        images,
        normalise=spec.normalise,
        divisor=networks.divisor(spec.network),
        device=device,
        precision=member.precision,
    )
    return tuning.tuned(member.target, scores, labels, metric=spec.tuning)


def _load_parent(
    network: nn.Module, spec: StageSpec, parent: Path | None, tell: Tell | None
) -> dict[str, list[str]] | None:
    if parent is None:
        return None
    file = weights_file(parent, spec.weights) if parent.is_dir() else parent
    loaded = load_parts(network, checkpoint.load_weights(file), spec.load, where=str(file))
    if tell is not None:
        tell(f"{file}: " + ", ".join(f"{len(n)} tensors {w.replace('_', ' ')}" for w, n in loaded.items() if n))
    return loaded


def _clear(folder: Path) -> None:
    """Removes what only an unfinished run needs."""
    shutil.rmtree(folder / "state", ignore_errors=True)
    (folder / "lock").unlink(missing_ok=True)


def _require_same(folder: Path, key: str) -> None:
    if recorded_key(folder) != key:
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
