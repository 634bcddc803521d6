"""The models that ship: found by name, with card, license and study file, and good on images that are new to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import segue
from segue.data.folders.observations import picture_hash
from segue.data.image_io import read_image
from segue.data.spec import PrepareSpec
from segue.evaluation import object_metrics
from segue.spec import load
from segue.study.plan import plan_study
from segue.training.run_folder import load_run
from segue.zoo.shipped import CARD, shipped_models

ROOT = Path(__file__).parents[2]
STUDIES = ROOT / "studies" / "models"
BBBC039 = ROOT / "examples" / "data" / "bbbc039"
NAMES = ("hrtem-particles", "nuclei")


def test_each_has_a_card_and_a_study() -> None:
    """The card names data, license, scores with intervals, what it is not for, and the study file, which is there."""
    models = shipped_models()
    assert tuple(models) == NAMES
    for name, folder in models.items():
        card = (folder / CARD).read_text(encoding="utf-8")
        for text in ("## Data", "## Held-out scores", "95 % interval", "license", "## Not trained for"):
            assert text in card, (name, text)
        assert f"studies/models/{name}.toml" in card
        assert (STUDIES / f"{name}.toml").is_file()
    assert load_run(models["nuclei"]).licenses == ("CC0 1.0",)


def test_their_study_files_are_valid(tmp_path: Path) -> None:
    """A training each; the images of `nuclei` are not in the repository."""
    assert len(plan_study(STUDIES / "hrtem-particles.toml", tmp_path).trainings) == 1
    for file in STUDIES.glob("nuclei-*.toml"):
        load(PrepareSpec, file)
    with pytest.raises(segue.SegueError, match="dsb2018-fluorescence"):
        plan_study(STUDIES / "nuclei.toml", tmp_path)


def test_nuclei_segments_unseen_images() -> None:
    """On two fields of BBBC039 that it was not trained or selected with."""
    model = load_run(shipped_models()["nuclei"])
    unseen = [path for path in sorted((BBBC039 / "images").iterdir()) if picture_of(path) not in model.pictures]
    assert len(unseen) >= 8
    for path in unseen[:2]:
        labels = read_image(BBBC039 / "labels" / f"{path.stem}.png").image[0].astype(np.int32)
        predicted = segue.predict("nuclei", read_image(path).image).astype(np.int32)
        scores = object_metrics.scores(object_metrics.count_matches(labels, predicted))
        assert scores["ap50"] > 0.8


def picture_of(path: Path) -> str:
    return picture_hash(read_image(path).image)
