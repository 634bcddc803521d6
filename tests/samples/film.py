"""A run of three classes that kept the weights of its epochs and a film, trained in about a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import segue
from segue import rng
from segue.data.normalization import image_statistics
from segue.data.spec import Layer
from segue.data.writer import GroupTiles, Micrograph, merge_parts, write_part

NAMES = ("background", "live", "dead")
SIDE, TILE, EPOCHS = 64, 32, 3
STAGE = f"""
epochs = {EPOCHS}
batch = 4
keep_epochs = true
film = 40
precision = "fp32"
network = {{ name = "unet", width = 8, depth = 2 }}
split = {{ validation = 0.4, test = 0.1 }}
optimizer = {{ name = "adam", lr = 1e-2 }}
target = {{ name = "classes", loss = "cross_entropy" }}

[[data]]
dataset = "blobs.h5"
"""


def well(index: int) -> GroupTiles:
    """Returns a well with one field of bright (live) and dark (dead) squares in noise, cut into four tiles."""
    generator = rng.numpy_generator("film", index)
    image, labels = generator.normal(size=(SIDE, SIDE)), np.zeros((SIDE, SIDE), np.int32)
    for position in range(12):
        y, x = generator.integers(0, SIDE - 8, 2)
        labels[y : y + 8, x : x + 8] = 1 + position % 2
    image = (1000 + 100 * (image + 3.0 * (labels == 1) - 3.0 * (labels == 2))).astype(np.uint16)
    labels[:5] = -1
    corners = [(y, x) for y in (0, TILE) for x in (0, TILE)]
    count, name = len(corners), f"P1/A{index + 1}"
    return GroupTiles(
        images=np.stack([image[None, y : y + TILE, x : x + TILE] for y, x in corners]),
        labels={"classes": np.stack([labels[y : y + TILE, x : x + TILE] for y, x in corners])},
        valid=np.tile(np.array([0, 0, TILE, TILE], np.int32), (count, 1)),
        intensity=np.tile(image_statistics(image[None]), (count, 1, 1)),
        samples={
            "group": np.array([name] * count, dtype=object),
            "source": np.array([f"{name}/t000"] * count, dtype=object),
            "y_px": np.array([y for y, _ in corners]),
            "x_px": np.array([x for _, x in corners]),
        },
        micrographs={f"{name}/t000": Micrograph(image[None], {"classes": labels})},
    )


def train_with_film(folder: Path) -> None:
    """Writes a dataset, blobs.h5, and a run of three epochs, run, into `folder`."""
    parts = [folder / "parts" / f"{index}.part" for index in range(6)]
    for index, part in enumerate(parts):
        write_part(part, well(index))
    layers = [Layer("classes", "classes", NAMES)]
    merge_parts(
        parts, folder / "blobs.h5", layers=layers, channels=["phase"], attributes={"provenance": "made"}, splits={}
    )
    (folder / "stage.toml").write_text(STAGE, encoding="utf-8")
    segue.train(folder / "stage.toml", folder / "run")
