"""A small dataset that a network can learn in seconds: bright discs on noise, under two conditions."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from segue import rng
from segue.data.normalization import image_statistics
from segue.data.spec import Layer
from segue.data.writer import GroupTiles, merge_parts, write_part

SIZE = 32
CONTRASTS = {"low": 1.0, "high": 2.0}


def disc_part(group: int, *, size: int = SIZE, per_condition: int = 1) -> GroupTiles:
    """Returns tiles of one group: the same discs seen at low and at high contrast, in noise of deviation 1."""
    generator = rng.numpy_generator("discs", group)
    y, x = np.mgrid[:size, :size]
    images, labels, contrasts = [], [], []
    for _ in range(per_condition):
        mask = np.zeros((size, size), dtype=bool)
        for _ in range(generator.integers(1, 4)):
            cy, cx, radius = [*generator.uniform(4, size - 4, 2).tolist(), generator.uniform(3, 6)]
            mask |= (y - cy) ** 2 + (x - cx) ** 2 < radius**2
        for name, contrast in CONTRASTS.items():
            images.append((contrast * mask + generator.normal(size=mask.shape)).astype(np.float32)[None])
            labels.append(mask.astype(np.int32))
            contrasts.append(name)
    stack = np.stack(images)
    count = len(stack)
    names = np.array([f"group-{group:03d}"] * count, dtype=object)
    return GroupTiles(
        images=stack,
        labels={"discs": np.stack(labels)},
        valid=np.tile(np.array([0, 0, size, size], dtype=np.int32), (count, 1)),
        intensity=np.stack([image_statistics(image) for image in stack]),
        samples={
            "group": names,
            "source": names,
            "y_px": np.zeros(count, dtype=np.int64),
            "x_px": np.zeros(count, dtype=np.int64),
            "contrast": np.array(contrasts, dtype=object),
        },
    )


def write_discs(
    out: Path,
    *,
    groups: int = 24,
    size: int = SIZE,
    per_condition: int = 1,
    kind: Literal["classes", "instances"] = "classes",
) -> Path:
    """Writes a dataset of `groups` groups and returns its path."""
    parts = []
    for group in range(groups):
        parts.append(out.with_suffix("") / f"{group}.part")
        write_part(parts[-1], disc_part(group, size=size, per_condition=per_condition))
    layers = [Layer("discs", kind, ("background", "disc"))]
    merge_parts(parts, out, layers=layers, channels=["intensity"], attributes={"provenance": "made"}, splits={})
    return out
