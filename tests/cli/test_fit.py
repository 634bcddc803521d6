"""`segue fit` as a user meets it: what is refused, before anything is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from samples.cli import assert_refused, run_segue


def test_mistakes_are_one_sentence(tmp_path: Path):
    """Unknown kinds, missing folders, too few groups and folders that are no runs are told; nothing is written."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
        for index in range(2):
            pixels = np.random.default_rng(index).integers(0, 2 if folder == "labels" else 255, (64, 64))
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / folder / f"{index}.png")
    words = ("fit", tmp_path / "images", tmp_path / "labels", "-o", tmp_path / "model")
    assert_refused(run_segue(*words, "--kind", "masks"), "--kind masks: allowed are instances, classes")
    assert_refused(run_segue(*words), "are of 2 groups", "at least 3 groups")
    assert_refused(run_segue(*words, "--from", tmp_path / "images"), "is not a finished run")
    assert_refused(run_segue("fit", tmp_path / "none", tmp_path, "-o", tmp_path / "model"), "there is no such folder")
    assert not (tmp_path / "model").exists() and not list(tmp_path.glob("model.fit/*.toml"))
