"""The plugin in napari itself, without a display: from opening a folder to a fine-tuned model."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from skimage.draw import disk

from segue.data.folders.patterns import file_stem
from segue.data.image_io import read_label_pages
from segue.napari_plugin.project import Project
from segue.napari_plugin.training import Training

pytestmark = pytest.mark.napari  # napari is imported by the tests alone
LABELS, SEGMENTATION, BEFORE, AFTER = "labels", "segmentation", "before", "after"
NAMES = ("a", "b", "c", "d", "e", "f")
SHAPE = (96, 128)


def write_nuclei(folder: Path) -> Path:
    """Writes six images of bright discs in noise, 8 to 12 each."""
    folder.mkdir()
    for index, name in enumerate(NAMES):
        generator = np.random.default_rng(index)
        image = generator.normal(30, 4, SHAPE)
        for k in range(8 + index % 4):
            rows, columns = disk((14 + 28 * (k // 4), 14 + 32 * (k % 4)), generator.uniform(6, 9), shape=SHAPE)
            image[rows, columns] += generator.uniform(80, 140)
        tifffile.imwrite(folder / f"{name}.tif", image.clip(0, 255).astype(np.uint8))
    return folder


@pytest.fixture
def workbench(tmp_path: Path, make_napari_viewer_proxy: Callable[..., Any]) -> Iterator[Any]:
    from segue.napari_plugin.workbench import Workbench

    viewer = make_napari_viewer_proxy()
    bench = Workbench(viewer)
    viewer.window.add_dock_widget(bench)
    bench.open(Project(write_nuclei(tmp_path / "images")))
    yield bench


def wait(condition: Callable[[], bool], seconds: float = 600.0) -> None:
    """Lets Qt work until something holds."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while not condition():
        QApplication.processEvents()
        time.sleep(0.01)
        assert time.monotonic() < end


def press(bench: Any, name: str) -> None:
    """Clicks a button and waits until its work is done."""
    assert bench.buttons[name].isEnabled()
    bench.buttons[name].click()
    wait(lambda: not bench._workers)


def labels(bench: Any) -> np.ndarray:
    return np.asarray(bench.viewer.layers[LABELS].data)


def test_from_a_folder_to_a_fine_tuned_model(workbench: Any):
    """Open, segment, correct, save, train, stop, resume, compare, and the next image to label."""
    project = workbench.project
    assert project is not None and workbench.image_path == project.folder / "a.tif"
    assert workbench.count.text() == "0 of 6 labeled" and not workbench.buttons["Train"].isEnabled()

    # segment with the model that ships, correct by hand
    workbench.model.setCurrentText("nuclei")
    press(workbench, "Segment")
    assert SEGMENTATION in workbench.viewer.layers and labels(workbench).max() == 8
    workbench.viewer.layers[LABELS].fill((14, 14), 0)
    assert len(np.unique(labels(workbench))) == 8
    corrected = labels(workbench).copy()

    # what is drawn is kept when another image is opened, and is not trained on before it is saved
    workbench.images.setCurrentRow(1)
    assert project.draft_file(project.folder / "a.tif").is_file() and not project.labels.exists()
    assert labels(workbench).max() == 0 and SEGMENTATION not in workbench.viewer.layers
    workbench.images.setCurrentRow(0)
    np.testing.assert_array_equal(labels(workbench), corrected)
    press(workbench, "Save labels")
    np.testing.assert_array_equal(read_label_pages(project.labels / "a.tif")[0], corrected)
    assert not project.draft_file(project.folder / "a.tif").exists()

    # all others become drafts; five are saved, one is left
    press(workbench, "Segment all")
    for row in range(1, 5):
        workbench.images.setCurrentRow(row)
        press(workbench, "Save labels")
    assert workbench.count.text() == "5 of 6 labeled"
    workbench.images.setCurrentRow(2)
    press(workbench, "Next to label")
    assert workbench.image_path == project.folder / "f.tif"

    # train in a process of its own, stop it, resume it from another viewer's point of view
    workbench.minutes.setValue(0.1)
    press(workbench, "Train")
    training = workbench.training
    assert training is not None and training.is_running and workbench.buttons["Stop"].isEnabled()
    wait(lambda: (training.model.with_name("model-1.fit") / "study-fold-1.toml").exists())
    press(workbench, "Stop")
    wait(lambda: not training.is_running)
    assert training.was_stopped and not training.is_finished
    workbench.open(project)
    assert workbench.training == Training(project.models / "model-1")
    press(workbench, "Resume")
    wait(lambda: workbench.result.text() != "")
    assert training.is_finished and workbench.model.currentText() == "model-1"
    assert "held-out images" in workbench.result.text() and "nuclei, untouched" in workbench.result.text()

    # before and after
    press(workbench, "Before and after")
    wait(lambda: AFTER in workbench.viewer.layers)
    before, after = (np.asarray(workbench.viewer.layers[name].data) for name in (BEFORE, AFTER))
    assert before.shape == after.shape == SHAPE and before.max() >= 8
    folder = os.environ.get("SEGUE_SCREENSHOTS")
    if folder:
        workbench.viewer.window.screenshot(f"{folder}/window.png", canvas_only=False, flash=False)
        workbench.grab().save(f"{folder}/workbench.png")


def test_closing_the_viewer_loses_nothing(tmp_path: Path, make_napari_viewer_proxy: Callable[..., Any]):
    """Labels that were drawn are there when the folder is opened again."""
    from segue.napari_plugin.workbench import Workbench

    viewer = make_napari_viewer_proxy()
    bench = Workbench(viewer)
    viewer.window.add_dock_widget(bench)
    project = Project(write_nuclei(tmp_path / "images"))
    bench.open(project)
    bench.viewer.layers[LABELS].data[10:20, 10:20] = 1
    bench.viewer.layers[LABELS].name = "mine"  # whatever the layer is called
    bench.viewer.layers.clear()  # as closing the viewer does
    assert read_label_pages(project.draft_file(project.folder / "a.tif"))[0].sum() == 100
    again = Workbench(viewer)
    viewer.window.add_dock_widget(again)
    again.open(project)
    assert labels(again).sum() == 100 and again.images.item(0).toolTip() == "labels not saved"
    assert file_stem(project.images()[0].name) == "a"
