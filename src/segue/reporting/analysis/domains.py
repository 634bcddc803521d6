"""What a study's domains look like, and how a trained encoder sees them, where datasets and weights are at hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import pandas as pd

from segue.data.dataset import Dataset
from segue.errors import SegueError
from segue.inference.domain_shift import DomainImages, DomainShift, read_domain
from segue.study.plan import Plan
from segue.training.run_folder import TrainedModel, load_run
from segue.training.spec import DataSpec

MAX_DOMAINS = 12
IMAGES = 32  # of each domain


def domain_shift(plan: Plan, table: pd.DataFrame) -> DomainShift | None:
    """Returns the study's domains, the first 12 whose datasets are there; None for fewer than two.

    Features are those of the first run in the table whose weights were kept and that takes such images.
    """
    domains: dict[str, DomainImages] = {}
    keys = {dataset.name: key for key, dataset in plan.datasets.items()}
    for name, settings in plan.study.spec.domains.items():
        entry, _ = plan.study.datasets[settings["dataset"]].select(settings)
        data = DataSpec.model_validate(entry)
        if data.dataset not in keys or len(domains) == MAX_DOMAINS:
            continue
        try:
            with Dataset(plan.dataset_file(keys[data.dataset])) as dataset:
                domains[name] = read_domain(dataset, conditions=data.conditions, most=IMAGES)
        except SegueError:  # its dataset is not there, or has nothing to measure: the page shows the others
            continue
    if len(domains) < 2:
        return None
    features, model = _features(plan, table, domains)
    return DomainShift(domains, features, model)


def _features(
    plan: Plan, table: pd.DataFrame, domains: Mapping[str, DomainImages]
) -> tuple[dict[str, np.ndarray], str]:
    for run, stage in table.drop_duplicates("run")[["run", "stage"]].itertuples(index=False) if len(table) else ():
        try:
            model = load_run(plan.store.run(str(run)))
            return {name: _encode(model, domain) for name, domain in domains.items()}, str(stage)
        except SegueError:
            continue
    return {}, ""


def _encode(model: TrainedModel, domain: DomainImages) -> np.ndarray:
    """Returns (n, F): the deepest features of the domain's images, averaged over each."""
    import torch

    from segue.data.normalization import intensity_stats, normalize
    from segue.inference.features import mean_features
    from segue.networks.network import Network, evaluating

    if len(model.channels) != 1 or model.spec.normalize == "none":
        raise SegueError(f"{model.folder}: takes several channels, or acquired values.")
    images = domain.images[:, None]
    standard = torch.from_numpy(normalize(images, intensity_stats(model.spec.normalize, images)))
    valid = np.tile(np.array([0, 0, *images.shape[-2:]], np.int32), (len(images), 1))
    network = cast(Network, model.network)
    with evaluating(network), torch.inference_mode():
        rows = [
            mean_features(network, standard[start : start + 16], valid[start : start + 16], model.divisor)
            for start in range(0, len(images), 16)
        ]
    return np.concatenate(rows)
