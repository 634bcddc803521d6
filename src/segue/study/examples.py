"""A held-out image of each domain, with what a typical run predicts for it before and after its last stage."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from segue.data.dataset import Dataset
from segue.data.source import ResidentSource
from segue.errors import SegueError
from segue.inference.forward import predict
from segue.study.execute import dataset_file
from segue.study.plan import Evaluation, Plan
from segue.study.results import Example
from segue.training.drawing import part_indices
from segue.training.loading import choose_layer
from segue.training.run import Model, load_run

MOST_DOMAINS = 6


def examples(plan: Plan, table: pd.DataFrame) -> list[Example]:
    """Returns one example for each domain a last stage was trained on: the middle of its test images by labelled area.

    The run shown is the one with the median loss, so the page does not show its best face. Domains whose runs kept
    no weights are left out.
    """
    if table.empty:
        return []
    found = []
    children = set(plan.study.parents.values())
    lasts = [name for name in plan.study.configurations if name not in children]
    for evaluation in plan.evaluations:
        own = table[(table["domain"] == evaluation.domain) & (table["evaluated_domain"] == evaluation.domain)]
        runs = {stage: _median_run(own.loc[own["stage"] == stage]) for stage in lasts}
        runs = {stage: run for stage, run in runs.items() if run is not None}
        if runs and len(found) < MOST_DOMAINS:
            try:
                found.append(_example(plan, evaluation, table, runs))
            except SegueError:
                continue
    return found


def _median_run(rows: pd.DataFrame) -> pd.Series | None:
    ordered = rows.dropna(subset="loss").sort_values(["loss", "run"]) if len(rows) else rows
    return ordered.iloc[(len(ordered) - 1) // 2] if len(ordered) else None


def _example(plan: Plan, evaluation: Evaluation, table: pd.DataFrame, runs: dict[str, pd.Series]) -> Example:
    shown: dict[str, Model] = {}
    for stage, run in runs.items():
        folder = plan.store.run(str(run["run"]))
        if str(run["parent"]):
            parent = table[table["run"] == run["parent"]].iloc[0]
            shown[f"{parent['stage']} only"] = load_run(plan.store.run(str(run["parent"])))
        shown[f"after {stage}"] = load_run(folder)
    model = next(iter(shown.values()))
    path = dataset_file(plan, evaluation.dataset)
    with Dataset(path) as dataset:
        layer = choose_layer(dataset, model.spec.target)
        index = _typical(dataset, part_indices(dataset, evaluation.data, model.spec, "test"), layer.name)
        images, _labels = dataset.read(index, layer=layer.name)
        source = ResidentSource.from_dataset(dataset, index, layer=layer.name, normalise=model.spec.normalise)
    standardised, encoded = source.read(torch.tensor([0]), "cpu")
    label = model.target.truth(model.target.encode(encoded))[0].numpy()
    predictions = {caption: _predicted(shown_model, standardised) for caption, shown_model in shown.items()}
    return Example(images[0, 0].astype(float), label, evaluation.domain, predictions)


def _typical(dataset: Dataset, indices: np.ndarray, layer: str) -> np.ndarray:
    """Returns (1,) the sample whose labelled area is the median of those given."""
    _, labels = dataset.read(indices, layer=layer)
    assert labels is not None
    area = (labels > 0).sum((1, 2))
    return indices[[np.argsort(area, kind="stable")[len(area) // 2]]]


def _predicted(model: Model, images: torch.Tensor) -> np.ndarray:
    scores = predict(model.network, images, divisor=model.divisor, precision="fp32")
    return model.target.classes(scores)[0].numpy()
