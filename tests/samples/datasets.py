"""Small parts and datasets to test with, made from a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segue.data.spec import Layer, SplitSpec
from segue.data.writer import GroupTiles, Micrograph, merge_parts, write_part

LAYERS = (
    Layer("cells", "classes", ("background", "live", "dead")),
    Layer("nuclei", "instances", ("background", "nucleus")),
)


def make_part(group: str, count: int = 3, *, size: int = 16, channels: int = 1, dtype: str = "uint16") -> GroupTiles:
    """Returns a part of `count` random tiles with both layers, two conditions and one kept micrograph."""
    generator = np.random.default_rng(sum(map(ord, group)))
    shape = (count, size, size)
    labels = {
        "cells": generator.integers(-1, 3, shape, dtype=np.int32),
        "nuclei": generator.integers(0, 9, shape, dtype=np.int32),
    }
    images = generator.integers(0, 250, (count, channels, size, size)).astype(dtype)
    names = np.array([group] * count, dtype=object)
    samples = {
        "group": names,
        "source": names,
        "y_px": np.zeros(count, dtype=np.int64),
        "x_px": np.arange(count) * size,
        "defocus_nm": np.array([-10.0, 0.0, 10.0] * count)[:count],
        "defocus_nm_drawn": generator.normal(size=count),
        "stain": np.array(["dapi", "cy5"] * count, dtype=object)[:count],
    }
    return GroupTiles(
        images=images,
        labels=labels,
        valid=np.tile(np.array([0, 0, size, size], dtype=np.int32), (count, 1)),
        intensity=np.tile(np.array([100.0, 20.0, 100.0, 20.0], dtype=np.float32), (count, channels, 1)),
        samples=samples,
        micrographs={group: Micrograph(images[0], {name: values[0] for name, values in labels.items()})},
    )


def make_dataset(folder: Path, parts: dict[str, GroupTiles], name: str = "data.h5", chunk: int = 1000) -> Path:
    """Writes and assembles the parts; returns the dataset's path."""
    paths = []
    for part in parts.values():
        paths.append(folder / "parts" / f"{len(paths)}.h5")
        write_part(paths[-1], part)
    out = folder / name
    channels = [f"channel {index}" for index in range(next(iter(parts.values())).images.shape[1])]
    merge_parts(
        paths,
        out,
        layers=LAYERS,
        channels=channels,
        attributes={"pixel_size_nm": 0.02, "provenance": '{"origin": "made"}'},
        splits={"default": SplitSpec(seed=3, validation=0.25, test=0.25)},
        chunk=chunk,
    )
    return out


def make_parts() -> dict[str, GroupTiles]:
    """Returns four groups, two of them with names that HDF5 would take amiss."""
    return {group: make_part(group, count) for group, count in [("a", 3), ("b/1", 5), ("c", 1), ("%2F", 4)]}
