"""A folder of images that are labeled and trained on: which there are, their labels, and models made of them. No Qt.

<folder>/*.tif                the images, as they are
<folder>/segue/labels/*.tif   labels that were saved: `segue fit FOLDER FOLDER/segue/labels` reads them
<folder>/segue/drafts/*.tif   labels that are being drawn: nothing is lost when the viewer closes
<folder>/segue/models/NAME    models of fits; beside them NAME.fit (settings, trainings), NAME.log, NAME.process.json
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

from segue.data.dataset import Dataset
from segue.data.folders.patterns import file_stem, is_hidden
from segue.data.image_io import READERS, read_image, read_label_pages
from segue.errors import SegueError
from segue.fitting.candidates import RESULT
from segue.fitting.fit import RANKING
from segue.storage import make_folder, read_json, replacing
from segue.zoo.shipped import shipped_models

PLACE = "segue"
SUFFIX = ".tif"


@dataclass(frozen=True)
class Project:
    """The images in a folder, and what was made of them."""

    folder: Path

    @property
    def labels(self) -> Path:
        return self.folder / PLACE / "labels"

    @property
    def drafts(self) -> Path:
        return self.folder / PLACE / "drafts"

    @property
    def models(self) -> Path:
        return self.folder / PLACE / "models"

    def images(self) -> list[Path]:
        """Returns the image files of the folder, sorted. Raises SegueError without any."""
        try:
            paths = sorted(path for path in self.folder.iterdir() if path.is_file() and not is_hidden(path.name))
        except OSError as error:
            raise SegueError(f"{self.folder}: cannot be read ({error.strerror}); choose another folder.") from None
        images = [path for path in paths if path.suffix.lower() in READERS]
        if not images:
            raise SegueError(f"{self.folder}: holds no image of a known format ({', '.join(READERS)}).")
        return images

    def labels_file(self, image: Path) -> Path:
        return self.labels / f"{file_stem(image.name)}{SUFFIX}"

    def draft_file(self, image: Path) -> Path:
        return self.drafts / f"{file_stem(image.name)}{SUFFIX}"

    def is_labeled(self, image: Path) -> bool:
        return self.labels_file(image).is_file()

    def read_labels(self, image: Path, shape: tuple[int, int]) -> np.ndarray:
        """Returns the labels (H, W) int32 of an image: the draft, else those that were saved, else none (0)."""
        for file in (self.draft_file(image), self.labels_file(image)):
            if file.is_file():
                labels = read_label_pages(file)[0]
                if labels.shape != shape:
                    raise SegueError(
                        f"{file}: is {labels.shape[0]} × {labels.shape[1]} px, its image {shape[0]} × {shape[1]}."
                    )
                return labels
        return np.zeros(shape, np.int32)

    def save_labels(self, image: Path, labels: np.ndarray) -> Path:
        """Writes labels for `segue fit` to read, and removes the draft."""
        path = self.labels_file(image)
        _write(path, labels)
        self.draft_file(image).unlink(missing_ok=True)
        return path

    def save_draft(self, image: Path, labels: np.ndarray) -> None:
        _write(self.draft_file(image), labels)

    def finished_models(self) -> dict[str, Path]:
        """Returns the models that ship with segue and those of this folder, by name, the newest last."""
        models = [path.parent for path in self.models.glob(f"*/{RESULT}")] if self.models.is_dir() else []
        models.sort(key=lambda path: (path / RESULT).stat().st_mtime)
        return {**shipped_models(), **{path.name: path for path in models}}

    def new_model_name(self) -> str:
        """Returns "model-1", or the first number that no model and no fit has."""
        number = 1
        while any(self.models.glob(f"model-{number}*")):
            number += 1
        return f"model-{number}"

    def ranking(self, model: Path) -> list[Path]:
        """Returns the images without labels in the order in which a fit says to label them; [] without a ranking."""
        file = model / RANKING
        if not file.is_file():
            return []
        with file.open(encoding="utf-8", newline="") as text:
            names = [Path(row["image"]).name for row in csv.DictReader(text)]
        by_name = {image.name: image for image in self.images()}
        return [by_name[name] for name in names if name in by_name and not self.is_labeled(by_name[name])]


@dataclass(frozen=True)
class Score:
    """How good a candidate of a fit is on held-out images: mean over images, with a 95 % interval."""

    name: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class FitResult:
    """What a fit says. before: the untouched parent, None from scratch; after: the candidate that was chosen."""

    answer: Sequence[str]
    meaning: str
    before: Score | None
    after: Score
    page: Path


def read_result(model: Path) -> FitResult:
    """Returns the result of a finished fit."""
    content = read_json(model / RESULT)
    scores = {
        one["name"]: Score(one["name"], *(float(one["test"][key]) for key in ("mean", "low", "high")))
        for one in content["candidates"]
        if one.get("test")
    }
    before = next((score for name, score in scores.items() if name.endswith("untouched")), None)
    return FitResult(
        content["answer"], content["score_meaning"], before, scores[content["chosen"]], model / "report.html"
    )


def project_of_dataset(path: Path) -> Project:
    """Writes the micrographs of a dataset, with their labels where it has one layer of them, as image files into the
    folder `<name>-images` beside it, and returns that; files that are there are left as they are.

    Raises SegueError for a dataset without whole images.
    """
    project = Project(path.with_name(f"{path.stem}-images"))
    with Dataset(path) as dataset:
        sources = dataset.micrograph_ids()
        if not sources:
            raise SegueError(f"{path}: stores no whole images (keep_micrographs = false); open a folder of images.")
        for source in sources:
            image = project.folder / f"{source.replace('/', '-').rpartition('.')[0] or source}{SUFFIX}"
            if image.exists():
                continue
            micrograph = dataset.micrograph(source)
            _write(image, micrograph.image[0] if len(micrograph.image) == 1 else micrograph.image)
            if len(micrograph.labels) == 1:
                project.save_labels(image, np.asarray(next(iter(micrograph.labels.values()))))
    return project


def read_picture(path: Path) -> np.ndarray:
    """Returns the image (C, H, W) of a file, as acquired."""
    return read_image(path).image


def _write(path: Path, values: np.ndarray) -> None:
    make_folder(path.parent)
    with replacing(path) as partial:
        axes = "CYX"[-values.ndim :]
        tifffile.imwrite(partial, values, compression="zlib", photometric="minisblack", metadata={"axes": axes})
