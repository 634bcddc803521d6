"""Evaluation stages: a finished run scored on a domain's held-out part, each result in a file of its own."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segue import device as devices
from segue import networks
from segue.data.dataset import Dataset
from segue.data.sources import DatasetSubset, ResidentSource, labelled_images
from segue.data.spec import Layer
from segue.data.splits import PartName
from segue.errors import SegueError
from segue.evaluation import object_metrics
from segue.evaluation.evaluate import score
from segue.storage import write_json
from segue.study.store import timing_file
from segue.targets.target import Target
from segue.training import checkpoint
from segue.training.data import choose_layer, part_indices, refuse_leaks, refuse_shared_groups, training_groups
from segue.training.freezing import load_parts
from segue.training.run_folder import RunFolder, TrainedModel, load_run
from segue.training.spec import DataSpec
from segue.training.tuning import predict_scores


def score_run(
    model: TrainedModel, dataset: Path, data: DataSpec, part: PartName, *, every_epoch: bool = False
) -> dict[str, Any]:
    """Returns the scores of a run on the part of a domain, and how many samples and groups they are from.

    Of objects also `images`: for each micrograph, in the order of `whole_images`, its objects, matches at IoU 0.5,
    merges and splits. With `every_epoch` also `epochs`, the scores of each epoch's weights, where the run kept them.
    Raises SegueError when the data do not fit the run, the part is empty, or any of its groups was trained on.
    """
    return _score_timed(model, dataset, data, part, every_epoch)[0]


def _score_timed(
    model: TrainedModel, dataset: Path, data: DataSpec, part: PartName, every_epoch: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns what `score_run` does and, apart from it since it differs from time to time, how long decoding took."""
    spec = model.spec
    run = RunFolder(model.folder)
    environment = run.read(run.environment)
    torch.set_num_threads(spec.threads)
    devices.keep_freed_memory()
    device = devices.default_device()
    precision = devices.resolve_precision(environment["precision"], device)
    with Dataset(dataset) as opened:
        layer = choose_layer(opened, spec.target)
        if layer.kind == "column":
            layer = replace(layer, names=model.target.names)  # of which the dataset may hold only some
        networks.require_fit(spec.network, opened.tile_shape, str(dataset))
        _require_fit(model, opened, layer.names)
        indices = part_indices(opened, data, spec, part)
        if not len(indices):
            raise SegueError(
                f"{dataset}: the {part} part of {data.conditions or 'all samples'} is empty; change the split."
            )
        groups = sorted(set(opened.samples()["group"][indices]))
        division = opened.split_id(spec.split) if part == "validation" else ""
        by = opened.resolve_split(spec.split).by
        source = ResidentSource.from_parts([DatasetSubset(opened, indices, layer)], normalization=spec.normalize)
    known = run.read(run.groups)
    if part == "test":
        seen = ("training", "ancestors", "validation", "ancestors_validation")
        refuse_shared_groups({group for name in seen for group in known.get(name, ())}, groups, part, str(dataset))
    else:
        refuse_leaks(training_groups(known), {division: groups}, str(dataset))
    if layer.kind == "instances" and part == "validation" and by == "chunk":
        raise SegueError(
            f"{dataset}: objects are scored on whole micrographs, of which a split by chunks trains on other tiles; "
            "score the test part, or split by group."
        )
    target = target_for(model, layer, str(dataset))
    network = model.network.to(device)

    of_objects: dict[str, float | None] = {}
    result: dict[str, Any] = {"part": part, "samples": len(indices), "groups": len(groups)}
    timing: dict[str, Any] = {}
    if layer.kind == "instances":
        with Dataset(dataset) as opened:
            wholes = labelled_images(opened, indices, layer=layer.name)
        shown = predict_scores(
            network, [image for image, _ in wholes], normalization=spec.normalize, divisor=model.divisor, device=device,
            precision=precision,
        )  # fmt: skip
        tallies, seconds = [], []
        for found, (_, labels) in zip(shown, wholes, strict=True):
            began = time.perf_counter()
            decoded = target.decode(found, model.decode_params)
            seconds.append(time.perf_counter() - began)
            tallies.append(object_metrics.tally(labels, decoded))
        counts = object_metrics.merged(tallies)
        of_objects |= _plain(object_metrics.scores(counts))
        result["images"] = object_metrics.counts_per_image(counts)
        # the median, since the first image may wait for compiled code to be read
        timing = {"images": len(seconds), "decode_s_median": float(np.median(seconds)), "decode_s": sum(seconds)}

    def scored() -> dict[str, float | None]:
        found = score(network, target, source, batch=spec.batch, device=device, precision=precision)
        return _plain(found)

    result |= {"classes": list(target.names), "scores": scored() | of_objects}
    if every_epoch:
        trained = run.read(run.metrics)
        result["epochs"] = []
        for epoch in range(1, trained["epochs"] + 1):
            weights = checkpoint.load_weights(run.epoch_weights(epoch))
            load_parts(network, weights, None, context=str(model.folder))
            result["epochs"].append(scored())
    return result, timing


def _plain(scores: Mapping[str, float]) -> dict[str, float | None]:
    """Returns scores as JSON can hold them: None where one is not defined."""
    return {name: None if math.isnan(value) else value for name, value in scores.items()}


def target_for(model: TrainedModel, layer: Layer, where: str) -> Target:
    """Returns the run's target for a layer of classes or of objects; raises SegueError where it cannot be scored."""
    instances = layer.kind == "instances"
    if not layer.stored:
        return model.target
    target = model.target.for_layer(instances=instances)
    if target is None:
        raise SegueError(
            f"{where}: layer '{layer.name}' holds classes, but {model.folder} was trained on objects (target "
            f"'{model.spec.target.name}'); give a layer of instances."
        )
    return target


def _require_fit(model: TrainedModel, dataset: Dataset, names: tuple[str, ...]) -> None:
    if (dataset.channels, names) != (model.channels, model.target.names):
        raise SegueError(
            f"{dataset.path}: has channels {dataset.channels} and classes {names}, but {model.folder} was trained on "
            f"channels {model.channels} and classes {model.target.names}; give data of the same kind."
        )


def score_missing(
    run: Path, wanted: Mapping[Path, tuple[str, Path, DataSpec]], part: PartName, *, every_epoch: bool = False
) -> dict[str, str]:
    """Writes the evaluations of a run that are not there yet; returns the domains that failed and why.

    wanted: result file -> (domain, dataset file, what of it).
    """
    missing = {file: how for file, how in wanted.items() if not file.exists()}
    failed: dict[str, str] = {}
    if not missing:
        return failed
    try:
        model = load_run(run)
    except SegueError as error:
        return {domain: str(error) for domain, _, _ in missing.values()}
    for file, (domain, dataset, data) in missing.items():
        try:
            result, timing = _score_timed(model, dataset, data, part, every_epoch)
            if timing:
                write_json(timing_file(file), timing)
            write_json(file, result)
        except SegueError as error:
            failed[domain] = str(error)
    return failed
