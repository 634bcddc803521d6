"""A dataset whose images agree with another's in histogram and power spectrum; groups, labels and samples stay."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segue.data.dataset import Dataset
from segue.data.maker import is_made, work_folders
from segue.data.normalization import image_statistics
from segue.data.writer import GroupTiles, merge_parts, write_part
from segue.errors import SegueError
from segue.fingerprint import hash_dataset
from segue.inference.domain_shift import (
    DISTANCES,
    DomainImages,
    Matching,
    are_calibrated,
    matching,
    measure,
    read_domain,
)
from segue.storage import make_folder

VERSION = 2  # increase when the same settings and datasets give a different dataset
BLOCK = 64  # images in memory at once


@dataclass(frozen=True)
class Matched:
    """Images of the source as they were and as they are in the new dataset, and of the reference."""

    before: DomainImages
    after: DomainImages
    reference: DomainImages

    @property
    def notes(self) -> list[str]:
        """The distances from the reference before and after, and what they are in where pixel sizes are not known."""
        lines = []
        for name, distance in DISTANCES.items():
            measure, unit = name.split(", ")
            before, after = (distance(one, self.reference) for one in (self.before, self.after))
            lines.append(f"{measure}: {before:.2g} {unit} from the reference before, {after:.2g} after")
        statistics = {"dataset": self.before.statistics, "reference": self.reference.statistics}
        if not are_calibrated(*statistics.values()):
            unknown = " and ".join(name for name, one in statistics.items() if one.pixel_size_nm is None)
            lines.append(
                f"the pixel size of the {unknown} is not known, or not the same for all images: pixels were compared "
                "with pixels, frequencies in periods per pixel"
            )
        return lines


def match_dataset(
    source: Path,
    reference: Path,
    out: Path,
    *,
    conditions: Mapping[str, Any] | None = None,
    spectrum: bool = True,
    histogram: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Matched:
    """Writes the samples of `source` that meet `conditions` to the dataset `out`, matched to those of `reference`.

    One transformation, fixed by up to 256 images of each, is applied to all images, which become float32, each with
    mean 0 and variance 1 before it is filtered. The distances before and after are notes of the dataset. Images of all
    parts of `reference` count, without their labels: of a domain whose test part must not be seen at all, give a
    dataset without it. A finished `out` of the same settings is left as it is. Raises SegueError for datasets of
    several channels or without common frequencies, and if `out` holds anything else.
    """
    if not (spectrum or histogram):
        raise SegueError("match: neither spectrum nor histogram is left; leave one of them.")
    conditions = conditions or {}
    with Dataset(source) as dataset, Dataset(reference) as other:
        for one in (dataset, other):
            if len(one.channels) != 1:
                raise SegueError(f"{one.path}: has {len(one.channels)} channels; images of one channel are matched.")
        before, target = read_domain(dataset, conditions=conditions), read_domain(other)
        transformation = matching(before, target, spectrum=spectrum, histogram=histogram)
        after = measure(transformation.apply(before.images), before.statistics.pixel_size_nm)
        matched = Matched(before, after, target)
        provenance = json.dumps(
            {
                "made_by": "segue match",
                "version": VERSION,
                "source": hash_dataset(source),
                "reference": hash_dataset(reference),
                "conditions": dict(conditions),
                "spectrum": spectrum,
                "histogram": histogram,
            },
            sort_keys=True,
        )
        if not is_made(out, "provenance", provenance):
            folder = make_folder(out.with_name(f"{out.name}.parts"))
            with work_folders(out, folder):
                if not is_made(out, "provenance", provenance):  # by another process, while this one waited
                    rows = dataset.select(conditions)
                    attributes = {"provenance": provenance, "notes": "\n".join(matched.notes)}
                    _write(dataset, rows, transformation, folder, out, attributes, progress)
    return matched


def _write(
    dataset: Dataset,
    indices: np.ndarray,
    transformation: Matching,
    folder: Path,
    out: Path,
    attributes: Mapping[str, str],
    progress: Callable[[int, int], None] | None,
) -> None:
    columns = dataset.samples()
    paths = []
    for start in range(0, len(indices), BLOCK):
        rows = indices[start : start + BLOCK]
        images, _ = dataset.read(rows, layer=None)
        labels = {name: dataset.read(rows, layer=name)[1] for name in dataset.layers}
        matched = transformation.apply(images[:, 0])[:, None]
        valid = dataset.valid(rows)
        tiles = GroupTiles(
            images=matched,
            labels={name: np.asarray(values, np.int32) for name, values in labels.items()},
            valid=valid,
            intensity=np.stack([image_statistics(image) for image in matched]),
            samples={name: values[rows] for name, values in columns.items()},
        )
        paths.append(folder / f"{start:08d}.h5")
        write_part(paths[-1], tiles)
        if progress is not None:
            progress(start + len(rows), len(indices))
    pixel_size = {name: dataset.attributes[name] for name in ("pixel_size_nm",) if name in dataset.attributes}
    merge_parts(
        paths,
        out,
        layers=list(dataset.layers.values()),
        channels=dataset.channels,
        attributes={**pixel_size, **attributes},
        splits={},
    )
