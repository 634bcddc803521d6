"""Scores of a folder of images and label images equal those of arrays predicted and compared by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from segue.data.folders.observations import picture_hash
from segue.errors import SegueError
from segue.evaluation.folder import evaluate_folder
from segue.evaluation.object_metrics import concatenate, count_matches, scores
from segue.inference.model import Model
from segue.inference.predict import predict
from segue.targets.classes import Classes
from segue.targets.foreground import Foreground
from segue.targets.target import Target


class Bright(torch.nn.Module):
    """Scores bright pixels as foreground: logits (N, channels, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 4 * images if self.channels == 1 else torch.cat([-images, images], dim=1)


def model(target: Target) -> Model:
    settings = {"normalization": "image", "channels": ("intensity",), "divisor": 1}
    return Model(network=Bright(target.channels), target=target, decode_params=target.decode_params, **settings)


def folder(path: Path, *, classes: bool = False) -> list[tuple[np.ndarray, np.ndarray]]:
    """Writes three images with square cells of value 1 … n, or 1, and returns them with their labels."""
    pairs = []
    for k in range(3):
        labels = np.zeros((40, 48), np.uint16)
        for number in range(1, k + 2):
            labels[4 : 14 + k, 12 * number - 8 : 12 * number] = 1 if classes else number
        image = np.random.default_rng(k).normal(100, 3, labels.shape) + 500 * (np.roll(labels, k, 0) > 0)
        for name, values in (("images", image.astype(np.uint16)), ("labels", labels)):
            (path / name).mkdir(exist_ok=True, parents=True)
            tifffile.imwrite(path / name / f"i{k}.tif", values)
        pairs.append((image.astype(np.uint16), labels.astype(np.int32)))
    return pairs


@pytest.mark.parametrize("target", [Foreground(("background", "cell")), Classes(("background", "cell"), True)])
def test_objects_of_a_folder(tmp_path: Path, target: Target):
    """Per image and together, objects are scored as whole micrographs are."""
    pairs, used = folder(tmp_path), model(target)
    result = evaluate_folder(used, tmp_path, context="model")
    counts = []
    for image, labels in pairs:
        predicted = np.asarray(predict(used, image))
        if target.output == "classes":
            predicted = np.cumsum(np.diff(predicted.max(0), prepend=0) > 0)[None] * (predicted > 0)
        counts.append(count_matches(labels, predicted))
    assert result.scores == pytest.approx(scores(concatenate(counts)), nan_ok=True)
    assert result.scores["objects_true"] == 6 and result.scores["ap50"] > 0.5
    assert result.images["image"].tolist() == ["i0.tif", "i1.tif", "i2.tif"]
    assert result.images["ap_mean"].tolist() == [scores(each)["ap_mean"] for each in counts]


@pytest.mark.parametrize("value", [1, 255])
def test_masks_are_no_objects_to_score(tmp_path: Path, value: int):
    """Masks are refused before anything is predicted; their parts, or masks of each object, are scored as objects."""
    pairs, used = folder(tmp_path), model(Foreground(("background", "cell")))
    expected = evaluate_folder(used, tmp_path, context="model").scores
    for k, (_, labels) in enumerate(pairs):
        tifffile.imwrite(tmp_path / f"labels/i{k}.tif", ((labels > 0) * value).astype(np.uint8))
        for number in range(1, k + 2):
            (tmp_path / f"masks/i{k}").mkdir(exist_ok=True, parents=True)
            mask = ((labels == number) * value).astype(np.uint8)
            tifffile.imwrite(tmp_path / f"masks/i{k}/m{number}.tif", mask)
    with pytest.raises(SegueError, match=f"look like masks: a single value, {value}, .* in a specification"):
        evaluate_folder(used, tmp_path, context="model")
    labels = '[labels]\nkind = "instances"\nnames = ["background", "cell"]\n'
    for number, (files, setting) in enumerate(
        (("labels/{stem}.tif", "number_parts"), ("masks/{stem}/*.tif", "one_object_per_file"))
    ):
        spec = tmp_path / f"s{number}.toml"
        spec.write_text(
            f'name = "x"\nimages = "images/*.tif"\ntile_px = 8\n{labels}files = "{files}"\n{setting} = true\n'
        )
        assert evaluate_folder(used, spec, context="model").scores == pytest.approx(expected, nan_ok=True)


def test_classes_of_a_folder(tmp_path: Path):
    """Classes of pixels are counted over all images."""
    pairs, used = folder(tmp_path, classes=True), model(Classes(("background", "cell"), False))
    result = evaluate_folder(used, tmp_path, context="model")
    right = np.concatenate([(np.asarray(predict(used, image)) == labels).ravel() for image, labels in pairs])
    assert result.scores["accuracy"] == pytest.approx(right.mean())


def test_what_cannot_be_scored_is_refused(tmp_path: Path):
    """Neither a dataset nor a folder of pairs; an image without labels; other classes."""
    used = model(Foreground(("background", "cell")))
    with pytest.raises(SegueError, match="is neither a dataset"):
        evaluate_folder(used, tmp_path, context="model")
    folder(tmp_path)
    (tmp_path / "labels" / "i1.tif").unlink()
    with pytest.raises(SegueError, match=r"i1\.tif: has no label image"):
        evaluate_folder(used, tmp_path, context="model")
    text = (
        'name = "x"\nimages = "images/*.tif"\ntile_px = 8\n[labels]\nfiles = "labels/{stem}.tif"\nkind = "instances"\n'
    )
    (tmp_path / "s.toml").write_text(text + 'names = ["background", "nucleus"]\n')
    with pytest.raises(SegueError, match=r"nucleus.*was trained on background, cell"):
        evaluate_folder(used, tmp_path / "s.toml", context="model")


@pytest.mark.parametrize("value", [1, 255])
def test_masks_are_not_scored_as_single_objects(tmp_path: Path, value: int):
    """Three cells of one value are no object, unless the specification says so, or numbers their parts."""
    pairs, used = folder(tmp_path), model(Foreground(("background", "cell")))
    for k, (_, labels) in enumerate(pairs):
        tifffile.imwrite(tmp_path / f"labels/i{k}.tif", ((labels > 0) * value).astype(np.uint8))
    with pytest.raises(SegueError, match=r"number_parts = true.*in a specification"):
        evaluate_folder(used, tmp_path, context="model")
    specification = """
name = "scored"
images = "images/{stem}.tif"
tile_px = 8
labels = { files = "labels/{stem}.tif", kind = "instances", names = ["background", "cell"], number_parts = true }
"""
    (tmp_path / "scored.toml").write_text(specification)
    result = evaluate_folder(used, tmp_path / "scored.toml", context="model")
    assert result.images["objects_true"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("turns", [0, 1, 2])
def test_images_of_the_training_are_named(tmp_path: Path, turns: int):
    """A copy of a training image, perhaps rotated, is marked and told; without a record nothing is claimed."""
    pairs, used = folder(tmp_path), model(Foreground(("background", "cell")))
    assert "used_in_training" not in evaluate_folder(used, tmp_path, context="model").images
    trained = picture_hash(np.rot90(pairs[1][0], turns)[None])
    result = evaluate_folder(replace(used, pictures=frozenset({trained, "other"})), tmp_path, context="model")
    assert result.images["used_in_training"].tolist() == [False, True, False]
    assert [count for note, count in result.notes.items() if "used in training" in note] == [1]
