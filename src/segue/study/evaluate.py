"""Evaluates a finished run on the held-out part of a domain; every result is a file of its own."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segue import device as devices
from segue import networks
from segue.data.dataset import Dataset
from segue.data.resident import resident_source
from segue.data.sources import DatasetSubset, has_micrographs, labeled_images, sample_names
from segue.data.spec import Layer
from segue.data.splits import PartName
from segue.errors import SegueError
from segue.evaluation import object_metrics
from segue.evaluation.evaluate import SampleCounts, score, score_many
from segue.evaluation.image_counts import ImageCounts
from segue.evaluation.object_metrics import MatchCounts
from segue.inference import confidence
from segue.inference.domain import differences, mixed_sizes, observe
from segue.storage import write_json
from segue.study.store import image_counts_file, timing_file
from segue.targets.target import Target
from segue.training.freezing import load_parts
from segue.training.inputs.data import choose_layer, part_indices, refuse_leaks, refuse_shared_groups, training_groups
from segue.training.run_folder import RunFolder, TrainedModel, load_run
from segue.training.spec import DataSpec
from segue.training.tuning import predict_scores


def score_run(
    model: TrainedModel, dataset: Path, data: DataSpec, part: PartName, *, every_epoch: bool = False
) -> dict[str, Any]:
    """Returns the scores of a run on the part of a domain, with the number of samples and groups.

    Scores of objects have their own names only if counted on whole micrographs, else those of
    `object_metrics.name_scores`; `objects_on` says which. `classes_in_means`: the classes that means over classes are
    of, those that are defined. Of objects with a calibrated confidence also `reliability`: for each micrograph the bins
    of `confidence.reliability`.

    Of objects also `images`: for each micrograph, in the order of `labeled_images`, its objects, matches at IoU 0.5,
    merges and splits. With `every_epoch` also `epochs`, the scores of each epoch's weights, where the run kept them.
    Raises SegueError when the data do not fit the run, the part is empty, or any of its groups was trained on.
    """
    return _score(model, dataset, data, part, every_epoch).result


def domain_differences(model: TrainedModel, path: Path, data: DataSpec, part: PartName) -> list[str]:
    """Returns sentences on how the images of the part of a domain lie outside of what the run was trained on, on
    different pixel sizes among them, and on pictures that it was trained on."""
    with Dataset(path) as dataset:
        indices = part_indices(dataset, data, model.spec, part)
        images = observe(dataset, indices)
        pictures = set(dataset.samples().get("picture", np.empty(dataset.count, object))[indices]) - {"", None}
    sentences = mixed_sizes(images.pixel_sizes_nm, str(path))
    if part == "test" and (used := pictures & model.pictures):
        sentences.append(
            f"{path}: {len(used)} of {len(pictures)} pictures of the test part were used in training, perhaps rotated "
            "or reflected and in other groups, so that scores are not those of new images: give copies one group."
        )
    if model.training_set is not None:
        names = (str(path), str(model.folder))
        sentences += differences(model.training_set, images, channels=model.channels, names=names)
    return sentences


@dataclass(frozen=True)
class _Scored:
    """The result of `score_run`; what was counted in each image; and the time of decoding, which differs from run to
    run."""

    result: dict[str, Any]
    images: ImageCounts
    timing: dict[str, Any]


@devices.freed_memory_kept()
def _score(model: TrainedModel, path: Path, data: DataSpec, part: PartName, every_epoch: bool) -> _Scored:
    spec, run = model.spec, RunFolder(model.folder)
    torch.set_num_threads(spec.threads)
    device = devices.default_device()
    precision = devices.resolve_precision(run.read(run.environment)["precision"], device)

    # open the data
    with Dataset(path) as dataset:
        layer = choose_layer(dataset, spec.target)
        if layer.kind == "column":
            layer = replace(layer, names=model.target.names)  # of which the dataset may hold only some
        networks.require_fit(spec.network, dataset.tile_shape, str(path))
        _require_fit(model, dataset, layer.names)
        indices = part_indices(dataset, data, spec, part)
        if not len(indices):
            raise SegueError(
                f"{path}: the {part} part of {data.conditions or 'all samples'} is empty; change the split."
            )
        samples = dataset.samples()
        groups = sorted(set(samples["group"][indices]))
        split_id = dataset.split_id(spec.split) if part == "validation" else ""
        split_by = dataset.resolve_split(spec.split).by
        source = resident_source([DatasetSubset(dataset, indices, layer)], normalization=spec.normalize)
        has_objects = layer.kind == "instances"
        micrographs = labeled_images(dataset, indices, layer=layer.name) if has_objects else []
        is_whole = has_micrographs(dataset, indices)
        images_of_samples = list(samples["source"][indices]) if is_whole else sample_names(dataset, indices)
        groups_of_samples = samples["group"][indices]

    # check that none of it was trained on
    run_groups = run.read(run.groups)
    if part == "test":
        used = ("training", "ancestors", "validation", "ancestors_validation")
        used_groups = {group for name in used for group in run_groups.get(name, ())}
        refuse_shared_groups(used_groups, groups, part, str(path))
    else:
        refuse_leaks(training_groups(run_groups), {split_id: groups}, str(path))
    if has_objects and part == "validation" and split_by == "chunk":
        raise SegueError(
            f"{path}: objects are scored on whole micrographs, but a split by chunks trains on some of their tiles; "
            "score the test part, or split by group."
        )

    # score pixels
    target = target_for(model, layer, str(path))
    network = model.predictor.to(device)
    (evaluation,) = score_many(
        [network], [target], source, batch=spec.batch, device=device, precision=precision, per_sample=True
    )
    scores = evaluation.scores
    result: dict[str, Any] = {"part": part, "samples": len(indices), "groups": len(groups)}

    # score objects
    matches: MatchCounts | None = None
    object_scores: dict[str, float] = {}
    timing: dict[str, Any] = {}
    if has_objects:
        images = [image for image, _ in micrographs]
        predictions = predict_scores(
            network,
            images,
            normalization=spec.normalize,
            divisor=model.divisor,
            device=device,
            precision=precision,
        )
        counts, seconds, reliability = [], [], []
        for prediction, (_, labels) in zip(predictions, micrographs, strict=True):
            start = time.perf_counter()
            objects = target.decode(prediction, model.decode_params)
            seconds.append(time.perf_counter() - start)
            expected = confidence.object_confidence(model, objects, prediction)
            if expected is None:
                counts.append(object_metrics.count_matches(labels, objects))
            else:
                counts.append(object_metrics.count_matches(labels, objects, probabilities=expected[1:]))
                ids, iou = confidence.best_iou(labels, objects)
                reliability.append(confidence.reliability(expected[ids], iou))
        matches = object_metrics.concatenate(counts)
        object_scores = object_metrics.scores(matches)
        if reliability:
            bins = np.sum(reliability, axis=0)
            object_scores |= {
                "confidence_error": confidence.calibration_error(bins),
                "confidence_objects": bins[:, 0].sum(),
            }
            result["reliability"] = [image.tolist() for image in reliability]
        object_scores = object_metrics.name_scores(object_scores, whole=is_whole)
        result["objects_on"] = "micrographs" if is_whole else "tiles"
        result["images"] = object_metrics.counts_per_image(matches)
        # the median, since the first image may wait for compiled code to be read
        timing = {"images": len(seconds), "decode_s_median": float(np.median(seconds)), "decode_s": sum(seconds)}
    result |= {"classes": list(target.names), "scores": _undefined_as_none(scores | object_scores)}
    result["classes_in_means"] = classes_in_means(result["scores"], target.names)

    # score the weights of every epoch
    if every_epoch:
        result["epochs"] = []
        for epoch in range(1, run.read(run.metrics)["epochs"] + 1):
            weights = run.read_weights(run.epoch_weights(epoch))
            load_parts(model.network, weights, None, context=str(model.folder))
            scores = score(network, target, source, batch=spec.batch, device=device, precision=precision)
            result["epochs"].append(_undefined_as_none(scores))
    assert evaluation.samples is not None
    counts_of_images = _image_counts(
        target, evaluation.samples, matches, images_of_samples, groups_of_samples, is_whole=is_whole
    )
    return _Scored(result, counts_of_images, timing)


def _image_counts(
    target: Target,
    counts: SampleCounts,
    objects: MatchCounts | None,
    images: Sequence[str],
    groups: np.ndarray,
    *,
    is_whole: bool,
) -> ImageCounts:
    """Returns the counts of samples beside those of objects; `images` and `groups` are those of the samples.

    Counts of the tiles of one micrograph are summed where micrographs are whole (`is_whole`), in the order of
    `labeled_images`; otherwise each tile is an image.
    """
    place = np.arange(len(images))
    if is_whole:
        order = {name: index for index, name in enumerate(dict.fromkeys(images))}
        place = np.array([order[name] for name in images])
    first = np.unique(place, return_index=True)[1]

    def per_image(values: Tensor) -> np.ndarray:
        total = np.zeros((len(first), *values.shape[1:]), values.numpy().dtype)
        np.add.at(total, place, values.numpy())
        return total

    return ImageCounts(
        images=tuple(images[int(index)] for index in first),
        groups=tuple(groups[first]),
        classes=tuple(target.names),
        of_images=target.output == "image_class",
        on_tiles=not is_whole,
        loss_floor=target.min_loss,
        loss_sums=per_image(counts.loss_sums),
        normalizers=per_image(counts.normalizers),
        confusion=None if counts.confusion is None else per_image(counts.confusion),
        objects=objects,
    )


def _undefined_as_none(scores: Mapping[str, float]) -> dict[str, float | None]:
    """Returns scores as JSON can hold them: None where one is not defined."""
    return {name: None if math.isnan(value) else value for name, value in scores.items()}


def classes_in_means(scores: Mapping[str, float | None], names: Sequence[str]) -> list[str]:
    """Returns the classes that `iou_mean`, `dice_mean` (the background, the first, left out) or `f1_mean` of whole
    images are means of: those that are labeled."""
    candidates = names if "f1_mean" in scores else names[1:]
    return [name for name in candidates if scores.get(f"f1_{name}") is not None]


def target_for(model: TrainedModel, layer: Layer, context: str) -> Target:
    """Returns the run's target for a layer of classes or of objects; raises SegueError where it cannot be scored."""
    instances = layer.kind == "instances"
    if not layer.stored:
        return model.target
    target = model.target.for_layer(instances=instances)
    if target is None:
        raise SegueError(
            f"{context}: layer '{layer.name}' holds classes, but {model.folder} was trained on objects (target "
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
    run: Path, evaluations: Mapping[str, tuple[str, Path, DataSpec]], part: PartName, *, every_epoch: bool = False
) -> dict[str, str]:
    """Writes the evaluations of a run that are not there yet; returns the domains that failed and why.

    evaluations: name of the result in the run's folder -> (domain, dataset file, which of its samples).
    """
    files = {RunFolder(run).evaluations / name: evaluation for name, evaluation in evaluations.items()}
    missing = {file: evaluation for file, evaluation in files.items() if not file.exists()}
    failed: dict[str, str] = {}
    if not missing:
        return failed
    try:
        model = load_run(run)
    except SegueError as error:
        return {domain: str(error) for domain, _, _ in missing.values()}
    for file, (domain, dataset, data) in missing.items():
        try:
            scored = _score(model, dataset, data, part, every_epoch)
            if scored.timing:
                write_json(timing_file(file), scored.timing)
            write_json(image_counts_file(file), scored.images.record())
            write_json(file, {"domain": domain, **scored.result})
        except SegueError as error:
            failed[domain] = str(error)
    return failed
