"""A held-out image of each domain, with the predictions of a typical run before and after its last stage.

Held-out micrographs on which runs fail differently, with the objects that each of the runs finds there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from segue.data.dataset import Dataset
from segue.data.sources import ResidentSource, labeled_images
from segue.errors import SegueError
from segue.inference.predict import forward
from segue.study.evaluate import target_for
from segue.study.plan import Evaluation, Plan
from segue.study.table import Example, ObjectExample
from segue.targets.target import Target
from segue.training.inputs.data import choose_layer, part_indices
from segue.training.run_folder import RunFolder, TrainedModel, load_run
from segue.training.tuning import predict_scores

MAX_DOMAINS = 6


def example_images(plan: Plan, table: pd.DataFrame) -> list[Example]:
    """Returns one example for each domain a last stage was trained on: the middle of its test images by labeled area.

    The run shown is the one with the median loss, so the page does not show the best case. Domains whose runs kept no
    weights are left out.
    """
    if table.empty:
        return []
    examples = []
    children = set(plan.study.parents.values())
    lasts = [name for name in plan.study.configurations if name not in children]
    for evaluation in plan.evaluations:
        rows = table[(table["domain"] == evaluation.domain) & (table["evaluated_domain"] == evaluation.domain)]
        runs = {stage: _median_run(rows.loc[rows["stage"] == stage]) for stage in lasts}
        runs = {stage: run for stage, run in runs.items() if run is not None}
        if runs and len(examples) < MAX_DOMAINS:
            try:
                examples.append(_example(plan, evaluation, table, runs))
            except SegueError:
                continue
    return examples


def _median_run(rows: pd.DataFrame) -> pd.Series | None:
    ordered = rows.dropna(subset="loss").sort_values(["loss", "run"]) if len(rows) else rows
    return ordered.iloc[(len(ordered) - 1) // 2] if len(ordered) else None


def _example(plan: Plan, evaluation: Evaluation, table: pd.DataFrame, runs: dict[str, pd.Series]) -> Example:
    models: dict[str, TrainedModel] = {}
    for stage, run in runs.items():
        folder = plan.store.run(str(run["run"]))
        if str(run["parent"]):
            parent = table[table["run"] == run["parent"]].iloc[0]
            models[f"{parent['stage']} only"] = load_run(plan.store.run(str(run["parent"])))
        models[f"after {stage}"] = load_run(folder)
    model = next(iter(models.values()))
    path = plan.dataset_file(evaluation.dataset)
    with Dataset(path) as dataset:
        layer = choose_layer(dataset, model.spec.target)
        index = _typical(dataset, part_indices(dataset, evaluation.data, model.spec, "test"), layer.name)
        images, _labels = dataset.read(index, layer=layer.name)
        source = ResidentSource.from_dataset(dataset, index, layer=layer.name, normalization=model.spec.normalize)
    inputs, labels = source.read(torch.tensor([0]), "cpu")
    label = model.target.target_classes(model.target.encode(labels))[0].numpy()
    predictions = {caption: _predicted(model, inputs) for caption, model in models.items()}
    names = tuple(model.folder.name for model in models.values())
    return Example(images[0, 0].astype(float), label, evaluation.domain, predictions, names)


def _typical(dataset: Dataset, indices: np.ndarray, layer: str) -> np.ndarray:
    """Returns (1,) the sample whose labeled area is the median of those given."""
    _, labels = dataset.read(indices, layer=layer)
    assert labels is not None
    area = (labels > 0).sum((1, 2))
    return indices[[np.argsort(area, kind="stable")[len(area) // 2]]]


def _predicted(model: TrainedModel, images: torch.Tensor) -> np.ndarray:
    scores = forward(model.network, images, divisor=model.divisor, precision="fp32")
    return model.target.classes(scores)[0].numpy()


MAX_IMAGES = 3  # over all domains


def object_examples(plan: Plan, runs: Mapping[str, Sequence[str]]) -> list[ObjectExample]:
    """Returns micrographs with the objects predicted by each of `runs` (domain -> keys of runs).

    Of a domain those whose merges and splits differ most between the runs; where that is equal, those whose missed and
    false objects do; then the first. Runs whose weights were not kept are left out, and runs that have other held-out
    micrographs than the first; domains of which nothing is left, too.
    """
    domains = [evaluation for evaluation in plan.evaluations if runs.get(evaluation.domain)][:MAX_IMAGES]
    examples: list[ObjectExample] = []
    for evaluation in domains:
        try:
            examples += _examples_of_domain(plan, evaluation, runs[evaluation.domain], MAX_IMAGES // len(domains))
        except SegueError:  # its weights or dataset no longer exist: the page shows the others
            continue
    return examples


def most_different(counts: Sequence[Mapping[str, Sequence[int]]], most: int) -> list[int]:
    """Returns up to `most` indices of micrographs, those first on which the runs differ most; see `object_examples`.

    counts: for each run what `evaluation.objects.counts_per_image` gives, of the same micrographs.
    """
    merged = np.array([np.add(one["merges"], one["splits"]) for one in counts])
    objects = np.array([np.add(one["true_objects"], one["predicted_objects"]) for one in counts])
    unmatched = objects - 2 * np.array([one["hits_50"] for one in counts])
    order = np.lexsort([np.arange(merged.shape[1]), -np.ptp(unmatched, axis=0), -np.ptp(merged, axis=0)])
    return order[:most].tolist()


@dataclass(frozen=True)
class ScoredRun:
    """A run with its counts and the indices of the samples it was scored on."""

    run: str
    model: TrainedModel
    target: Target
    layer: str
    indices: np.ndarray
    counts: Mapping[str, Sequence[int]]


def _examples_of_domain(plan: Plan, evaluation: Evaluation, runs: Sequence[str], most: int) -> list[ObjectExample]:
    path = plan.dataset_file(evaluation.dataset)
    with Dataset(path) as dataset:
        scored = [one for run in runs if (one := _scored(plan, evaluation, dataset, run)) is not None]
        if not scored:
            return []
        first = scored[0]
        scored = [one for one in scored if one.layer == first.layer and np.array_equal(one.indices, first.indices)]
        wholes = labeled_images(dataset, first.indices, layer=first.layer)
    examples = []
    for index in most_different([one.counts for one in scored], most):
        image, label = wholes[index]
        predictions = {one.run: _objects(one, image) for one in scored}
        examples.append(ObjectExample(image[0].astype(float), label, evaluation.domain, index + 1, predictions))
    return examples


def _scored(plan: Plan, evaluation: Evaluation, dataset: Dataset, run: str) -> ScoredRun | None:
    """Returns a run whose weights and counts on whole micrographs exist, else None."""
    folder, file = RunFolder(plan.store.run(run)), plan.evaluation_file(run, evaluation)
    if not file.exists() or not folder.weights.exists():
        return None
    result = folder.read(file)
    if "images" not in result:
        return None
    model = load_run(plan.store.run(run))
    layer = choose_layer(dataset, model.spec.target)
    target = target_for(model, layer, str(dataset.path))
    part = "validation" if result["part"] == "validation" else "test"
    indices = part_indices(dataset, evaluation.data, model.spec, part)
    return ScoredRun(run, model, target, layer.name, indices, result["images"])


def _objects(one: ScoredRun, image: np.ndarray) -> np.ndarray:
    """Returns the objects (H, W) int32 that a run finds in an image (C, H, W)."""
    model = one.model
    scores = predict_scores(
        model.network,
        [image],
        normalization=model.spec.normalize,
        divisor=model.divisor,
        device="cpu",
        precision="fp32",
    )
    return one.target.decode(next(iter(scores)), model.decode_params)
