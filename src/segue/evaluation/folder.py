"""Scores a model on a folder of images with label images, without a dataset: whole images, as `segue predict` does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from segue.data.annotations.draw import describe_annotation_notes
from segue.data.annotations.files import is_annotation_file
from segue.data.folders.channels import channel_order, channels_left_out, names_in_use
from segue.data.folders.label_files import read_label_files
from segue.data.folders.observations import picture_hash
from segue.data.folders.pairing import ImageLabelPair, pair_files, raise_problems, read_headers
from segue.data.image_io import read_image
from segue.data.spec import PrepareSpec
from segue.device import freed_memory_kept
from segue.errors import SegueError
from segue.evaluation import object_metrics, pixel_metrics
from segue.inference import confidence, domain
from segue.inference.model import Model
from segue.inference.predict_files import PredictSettings, predict_labels
from segue.labels import numbering
from segue.spec import load, validate

if TYPE_CHECKING:
    import pandas as pd

USED = "was used in training, so that its scores are not those of a new image: leave it out"
PATTERNS = {"images": "images/{stem}.*", "files": "labels/{stem}.*"}


@dataclass(frozen=True)
class FolderScores:
    """The scores of each image (a row each), of all together, and distinct sentences with the number of their images.

    `used_in_training` of an image: whether the model was trained or selected with it, perhaps rotated or reflected;
    without the column that is not known. The number is 0 for sentences on all images together.

    classes: names of the model's classes, the background first.
    """

    images: pd.DataFrame
    scores: dict[str, float]
    classes: tuple[str, ...]
    notes: dict[str, int]


@freed_memory_kept()
def evaluate_folder(model: Model, folder: Path, *, context: str) -> FolderScores:
    """Returns the scores of a model on FOLDER/images with FOLDER/labels, paired by name, or on those of a TOML file as
    `segue prepare` takes it; names of scores are those of whole micrographs.

    Objects are scored by `object_metrics`, classes of pixels by `pixel_metrics.scores`. Raises SegueError for models of
    neither, and for images and labels that do not fit.
    """
    import pandas as pd

    if model.target.output not in ("objects", "classes"):
        raise SegueError(
            f"{context}: predicts {model.target.output.replace('_', ' ')}, which label images cannot score; give a "
            "model of objects or of classes of pixels, or a dataset (.h5)."
        )
    spec, root = _specification(model, folder)
    assert spec.layer is not None
    if tuple(spec.layer.names) != tuple(model.target.names):
        raise SegueError(
            f"{folder}: has the classes {', '.join(spec.layer.names)}, but {context} was trained on "
            f"{', '.join(model.target.names)}; give labels of the same classes."
        )
    files = pair_files(spec, root)
    kind = spec.layer.kind
    if (kind == "instances") != model.target.decodes_objects:
        raise SegueError(
            f"{folder}: has labels of kind '{kind}', but {context} predicts "
            f"{'objects' if model.target.decodes_objects else 'classes of pixels'}; give labels of the other kind."
        )
    pairs, problems = read_headers(files.pairs)
    raise_problems(files.context, problems)
    on_all = [*files.notes, *_judge_labels(spec, pairs, folder)]
    count, total = COUNTERS[kind]
    notes: Counter[str] = Counter()
    counts, rows, reliability = [], [], []
    for pair in pairs:
        image, labels, sentences = _read(model, spec, pair)
        page = "" if pair.page is None else f" page {pair.page + 1}"
        predicted, expected = predict_image(model, image, kind)
        counts.append(count(labels, predicted, expected, model))
        if expected is not None:
            ids, iou = confidence.best_iou(labels, predicted)
            reliability.append(confidence.reliability(expected[ids], iou))
        row: dict[str, Any] = {"image": f"{pair.source}{page}"}
        if model.pictures:
            row["used_in_training"] = picture_hash(image) in model.pictures
            sentences += [USED] * row["used_in_training"]
        rows.append(row | total([counts[-1]], model))
        notes.update(sentences)
    scores = total(counts, model)
    if reliability:
        bins = np.sum(reliability, axis=0)
        scores["confidence_error"] = confidence.calibration_error(bins)
        scores["confidence_objects"] = bins[:, 0].sum()
    return FolderScores(pd.DataFrame(rows), scores, model.target.names, dict.fromkeys(on_all, 0) | dict(notes))


def predict_image(model: Model, image: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the labels of an image as `segue predict` writes them, and the confidence of each by its number."""
    with TemporaryDirectory() as working:
        labels = predict_labels(model, image, Path(working), PredictSettings())
        values = np.asarray(labels.values[:, :])
    if kind == "instances" and model.target.output == "classes":
        return numbering.number_parts((values > 0).astype(np.int32)), None  # as the target decodes objects
    return values, labels.confidence


def _specification(model: Model, folder: Path) -> tuple[PrepareSpec, Path]:
    """Returns how the images are paired, and the folder that paths start from."""
    if folder.suffix.lower() == ".toml":
        spec = load(PrepareSpec, folder)
        if spec.labels is None:
            raise SegueError(f"{folder}: has no [labels], by which predictions could be scored; add them.")
        return spec, folder.parent
    if not (folder / "images").is_dir() or not (folder / "labels").is_dir():
        raise SegueError(
            f"{folder}: is neither a dataset (.h5) nor a folder with images/ and labels/; give one of these, or a "
            "specification (.toml) of `segue prepare`."
        )
    kind: Literal["instances", "classes"] = "instances" if model.target.decodes_objects else "classes"
    labels = {"files": PATTERNS["files"], "kind": kind, "names": model.target.names}
    values = {"name": "evaluation", "images": PATTERNS["images"], "tile_px": 8, "labels": labels}
    return validate(PrepareSpec, values, context=str(folder)), folder


def _read(model: Model, spec: PrepareSpec, pair: ImageLabelPair) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Returns an image in the model's channels, its labels, and sentences on both."""
    acquisition = read_image(pair.image, pages=spec.pages, page=pair.page, color=spec.color)
    order = channel_order(pair.image, names_in_use(acquisition.channels), model.channels, "the model", subset=True)
    image = acquisition.image if order is None else acquisition.image[order]
    if len(image) != len(model.channels):
        raise SegueError(
            f"{pair.image}: has {len(image)} channels, but the model takes {len(model.channels)} "
            f"({', '.join(model.channels)}); give images of these channels."
        )
    labels, of_labels = _labels(spec, pair, (image.shape[1], image.shape[2]))
    differences = domain.describe_difference(model, replace(acquisition, image=image))
    notes = (*acquisition.notes, *of_labels, *channels_left_out(acquisition.channels, order))
    return image, labels, [*notes, *differences]


def _labels(spec: PrepareSpec, pair: ImageLabelPair, shape: tuple[int, int]) -> tuple[np.ndarray, list[str]]:
    """Returns the labels (H, W) of a pair, with their parts numbered if so specified, and notes."""
    assert spec.labels is not None and spec.layer is not None
    of_image = read_label_files(spec, pair, spec.layer, shape)
    labels = numbering.number_parts(of_image.labels) if spec.labels.number_parts else of_image.labels
    return labels, [*of_image.notes, *describe_annotation_notes({pair.source: of_image.annotation_notes})]


def _judge_labels(spec: PrepareSpec, pairs: Sequence[ImageLabelPair], folder: Path) -> list[str]:
    """Returns notes on all label images, before any image is predicted; raises SegueError if they are no objects."""
    assert spec.labels is not None and spec.layer is not None
    measures = {}
    for pair in pairs:
        assert pair.header is not None
        labels, _ = _labels(spec, pair, (pair.header.height, pair.header.width))
        measures[pair.source if pair.page is None else f"{pair.source} page {pair.page + 1}"] = numbering.measure(
            labels
        )
    classes = len(spec.layer.names) if spec.layer.kind == "classes" else None
    are_annotations = all(pair.label is not None and is_annotation_file(pair.label) for pair in pairs)
    number_parts = False if are_annotations else spec.labels.number_parts
    refusal, notes = numbering.judge(measures, classes=classes, number_parts=number_parts)
    if refusal:
        where = "" if folder.suffix.lower() == ".toml" else ", in a specification (.toml) of `segue prepare`"
        raise SegueError(f"{folder}: {refusal}{where}.")
    return notes


def _count_objects(labels: np.ndarray, predicted: np.ndarray, expected: np.ndarray | None, model: Model) -> Any:
    return object_metrics.count_matches(labels, predicted, probabilities=None if expected is None else expected[1:])


def _object_scores(counts: list[Any], model: Model) -> dict[str, float]:
    return object_metrics.scores(object_metrics.concatenate(counts))


def _count_pixels(labels: np.ndarray, predicted: np.ndarray, expected: None, model: Model) -> Any:
    classes, names = torch.from_numpy(labels.astype(np.int64)), model.target.names
    return pixel_metrics.confusion(torch.from_numpy(predicted.astype(np.int64)), classes, len(names))


def _pixel_scores(counts: list[Any], model: Model) -> dict[str, float]:
    return pixel_metrics.scores(torch.stack(counts).sum(0), model.target.names)


COUNTERS = {"instances": (_count_objects, _object_scores), "classes": (_count_pixels, _pixel_scores)}
