"""What a study trains on against what it is scored on: pixel sizes and statistics of the images, and pictures that are
in both. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache

from segue.data.dataset import Dataset
from segue.errors import SegueError
from segue.inference import domain
from segue.inference.domain import TrainingSet
from segue.study.plan import Plan
from segue.training.spec import DataSpec

MAX_WARNINGS = 10
Images = tuple[str, str]  # key of a dataset, conditions as JSON


def domain_warnings(plan: Plan) -> list[str]:
    """Returns sentences on pictures of one dataset that are in another, on images of different pixel size that are
    trained on together, and on domains that lie outside of what a stage trains on. Of datasets that do not exist yet
    only the pixel size that is specified is known."""

    @cache
    def observe(images: Images) -> TrainingSet:
        key, conditions = images
        path = plan.dataset_file(key)
        if not path.exists():
            return _specified(plan, key)
        with suppress(SegueError), Dataset(path) as dataset:  # a damaged dataset or an unknown condition stops the run
            return domain.observe(dataset, dataset.select(json.loads(conditions)))
        return TrainingSet()

    @cache
    def channels(key: str) -> tuple[str, ...]:
        with suppress(SegueError), Dataset(plan.dataset_file(key)) as dataset:
            return dataset.channels
        return ()

    trained = dict.fromkeys(
        tuple(_images(key, item) for key, item in zip(template.datasets, template.spec.data, strict=True))
        for template in plan.templates
    )
    scored = {_images(evaluation.dataset, evaluation.data): evaluation.domain for evaluation in plan.evaluations}
    sentences: dict[str, None] = {}
    for items in trained:
        training = domain.merge([observe(images) for images in items])
        names = " and ".join(dict.fromkeys(scored.get(images, plan.datasets[images[0]].name) for images in items))
        sentences |= dict.fromkeys(domain.mixed_sizes(training.pixel_sizes_nm, names))
        for images, name in scored.items():
            if images not in items:
                named = channels(images[0])
                sentences |= dict.fromkeys(
                    domain.differences(training, observe(images), channels=named, names=(name, names))
                )
    return _first([*_copies(plan), *sentences])


def _copies(plan: Plan) -> list[str]:
    """Returns sentences on pictures of scored datasets that are, in other groups, in those that are trained on."""

    @cache
    def read_pictures(key: str) -> Mapping[str, tuple[str, str]]:
        """Returns group and source by picture, of prepared datasets; others have no copies."""
        with suppress(SegueError), Dataset(plan.dataset_file(key)) as dataset:
            samples = dataset.samples()
            if "picture" in samples:
                pictures = zip(samples["picture"], samples["group"], samples["source"], strict=True)
                return {picture: (group, source) for picture, group, source in pictures if picture}
        return {}

    trained = dict.fromkeys(key for template in plan.templates for key in template.datasets)
    sentences = []
    for scored in dict.fromkeys(evaluation.dataset for evaluation in plan.evaluations):
        for source in trained:
            if source == scored:
                continue
            ours, theirs = read_pictures(scored), read_pictures(source)
            copies = [picture for picture in ours.keys() & theirs.keys() if ours[picture][0] != theirs[picture][0]]
            if copies:
                first = min(copies, key=lambda picture: ours[picture])
                sentences.append(
                    f"{plan.datasets[scored].name}: {len(copies)} of {len(ours)} pictures are also in "
                    f"{plan.datasets[source].name}, perhaps rotated or reflected, in other groups, so that one can be "
                    f"trained on and scored (e.g. {ours[first][1]} and {theirs[first][1]}): leave them out of one, or "
                    "give copies one group."
                )
    return sentences


def _images(key: str, item: DataSpec) -> Images:
    return key, json.dumps(item.model_dump(mode="json", exclude_none=True)["conditions"], sort_keys=True)


def _specified(plan: Plan, key: str) -> TrainingSet:
    size_nm = getattr(plan.datasets[key].spec, "pixel_size_nm", None)
    return TrainingSet(() if size_nm is None else (float(size_nm),))


def _first(sentences: Sequence[str]) -> list[str]:
    more = len(sentences) - MAX_WARNINGS
    return [*sentences[:MAX_WARNINGS], *([f"… and {more} more differences between domains"] if more > 0 else [])]
