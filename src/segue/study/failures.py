"""Held-out micrographs on which runs fail differently, with the objects that each of the runs finds there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segue.data.dataset import Dataset
from segue.data.wholes import whole_images
from segue.errors import SegueError
from segue.study.execute import dataset_file
from segue.study.plan import Evaluation, Plan
from segue.study.results import ObjectExample
from segue.study.scoring import target_for
from segue.study.store import read_json
from segue.targets.target import Target
from segue.training.drawing import part_indices
from segue.training.loading import choose_layer
from segue.training.run import Model, load_run
from segue.training.tuning import scored_images

MOST_IMAGES = 3  # over all domains


def object_examples(plan: Plan, runs: Mapping[str, Sequence[str]]) -> list[ObjectExample]:
    """Returns micrographs with what each of `runs`, domain -> keys of runs, finds in them.

    Of a domain those whose merges and splits differ most between the runs; where that is equal, those whose missed and
    false objects do; then the first. Runs whose weights were not kept are left out, and runs that have other held-out
    micrographs than the first; domains of which nothing is left, too.
    """
    domains = [evaluation for evaluation in plan.evaluations if runs.get(evaluation.domain)][:MOST_IMAGES]
    found: list[ObjectExample] = []
    for evaluation in domains:
        try:
            found += _of_domain(plan, evaluation, runs[evaluation.domain], MOST_IMAGES // len(domains))
        except SegueError:  # its weights are gone or its dataset is: the page shows the others
            continue
    return found


def telling(counts: Sequence[Mapping[str, Sequence[int]]], most: int) -> list[int]:
    """Returns up to `most` indices of micrographs, those first on which the runs differ most; see `object_examples`.

    counts: for each run what `evaluation.objects.counts_per_image` gives, of the same micrographs.
    """
    merged = np.array([np.add(one["merges"], one["splits"]) for one in counts])
    objects = np.array([np.add(one["true_objects"], one["predicted_objects"]) for one in counts])
    unmatched = objects - 2 * np.array([one["hits_50"] for one in counts])
    order = np.lexsort([np.arange(merged.shape[1]), -np.ptp(unmatched, axis=0), -np.ptp(merged, axis=0)])
    return order[:most].tolist()


@dataclass(frozen=True)
class _Scored:
    """A run with its counts and the indices of the samples it was scored on."""

    run: str
    model: Model
    target: Target
    layer: str
    indices: np.ndarray
    counts: Mapping[str, Sequence[int]]


def _of_domain(plan: Plan, evaluation: Evaluation, runs: Sequence[str], most: int) -> list[ObjectExample]:
    path = dataset_file(plan, evaluation.dataset)
    with Dataset(path) as dataset:
        scored = [one for run in runs if (one := _scored(plan, evaluation, dataset, run)) is not None]
        if not scored:
            return []
        first = scored[0]
        scored = [one for one in scored if one.layer == first.layer and np.array_equal(one.indices, first.indices)]
        wholes = whole_images(dataset, first.indices, layer=first.layer)
    examples = []
    for index in telling([one.counts for one in scored], most):
        image, label = wholes[index]
        predictions = {one.run: _objects(one, image) for one in scored}
        examples.append(ObjectExample(image[0].astype(float), label, evaluation.domain, index + 1, predictions))
    return examples


def _scored(plan: Plan, evaluation: Evaluation, dataset: Dataset, run: str) -> _Scored | None:
    """Returns a run of which the weights and the counts on whole micrographs are there, else None."""
    result = read_json(plan.store.evaluation(run, plan.evaluation_key(evaluation)))
    if not result or "images" not in result or not (plan.store.run(run) / "weights.safetensors").exists():
        return None
    model = load_run(plan.store.run(run))
    layer = choose_layer(dataset, model.spec.target)
    target = target_for(model, layer, str(dataset.path))
    part = "validation" if result["part"] == "validation" else "test"
    indices = part_indices(dataset, evaluation.data, model.spec, part)
    return _Scored(run, model, target, layer.name, indices, result["images"])


def _objects(one: _Scored, image: np.ndarray) -> np.ndarray:
    """Returns the objects (H, W) int32 that a run finds in an image (C, H, W)."""
    model = one.model
    scores = scored_images(
        model.network, [image], normalise=model.spec.normalise, divisor=model.divisor, device="cpu", precision="fp32"
    )
    return one.target.decode(next(iter(scores)), model.decoding)
