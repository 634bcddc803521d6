"""Stages that need no label of pixels: reconstruction of unlabelled images, classes of whole images, combinations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from samples.discs import disc_part, write_discs
from samples.stages import GROUP_NORM, history, require_same_bytes, spec_of, train, weights
from scipy.ndimage import uniform_filter

import segue
from segue import device
from segue.data.dataset import Dataset
from segue.data.normalization import image_statistics
from segue.data.sources import UNLABELED, DatasetSubset, ResidentSource, column_layer
from segue.data.streaming import StreamedSource
from segue.data.writer import merge_parts, write_part
from segue.errors import SegueError
from segue.study.evaluate import score_run
from segue.training.run_folder import load_run

MASKED = {"name": "reconstruction", "corruption": {"name": "masked", "patch_px": 4}}


@pytest.fixture(scope="module")
def unlabeled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a dataset of discs without labels; some tiles end early, and every second one is smooth."""
    out = tmp_path_factory.mktemp("unlabelled") / "discs.h5"
    parts = []
    for group in range(24):
        part = disc_part(group)
        part.labels.clear()  # type: ignore[attr-defined]
        part.valid[:, 2] = 32 - group % 3
        part.images[::2] = uniform_filter(part.images[::2], size=(0, 0, 3, 3))
        part.intensity[:] = np.stack([image_statistics(image) for image in part.images])
        part.samples["texture"] = np.array(["smooth", "rough"] * 9, dtype=object)[: len(part.images)]  # type: ignore[index]
        parts.append(out.with_suffix("") / f"{group}.part")
        write_part(parts[-1], part)
    merge_parts(parts, out, layers=[], channels=["intensity"], attributes={"provenance": "made"}, splits={}, chunk=8)
    return out


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_discs(tmp_path_factory.mktemp("objects") / "discs.h5", kind="instances")


@pytest.mark.parametrize("column", [None, "texture"])
def test_derived_labels_are_the_same_held_and_streamed(unlabeled: Path, column: str | None):
    """Samples without stored labels give the same bits from memory and from the file: −1 in padding, elsewhere 0 or
    the class of the image."""
    with Dataset(unlabeled) as dataset:
        layer = UNLABELED if column is None else column_layer(dataset, column)
        selected = [DatasetSubset(dataset, np.arange(5, 40), layer)]
        stored = ResidentSource.from_parts(selected, normalization="image")
        streamed = StreamedSource(selected, normalization="image", budget_bytes=2**20)
        bounds = [(0, 16), (16, 35)]
        pairs = zip(*(source.batches(np.arange(35), bounds, "cpu") for source in (stored, streamed)), strict=True)
        for (images, labels), (others, marks) in pairs:
            assert torch.equal(images, others) and torch.equal(labels, marks)
        _, labels = stored.read(torch.arange(35), "cpu")
        bottom = dataset.valid(np.arange(5, 40))[:, 2]
        streamed.close()
        expected = np.zeros(35) if column is None else np.searchsorted(layer.names, dataset.samples()[column][5:40])
    for values, value, end in zip(labels.numpy(), expected, bottom, strict=True):
        assert (values[:end] == value).all() and (values[end:] == -1).all()


@pytest.mark.slow
def test_reconstruction_of_unlabeled_images_starts_another_stage(unlabeled: Path, objects: Path, tmp_path: Path):
    """A network learns to fill in what is covered without any label, trains again to the same bytes, and its encoder
    and decoder begin a stage that has labels."""
    spec = spec_of(unlabeled, images="all", target=MASKED, epochs=3, augment="dihedral", optimizer={"lr": 5e-3})
    run = train(spec, tmp_path / "run")
    losses = history(run)
    assert losses["validation_loss"].iloc[-1] < losses["validation_loss"].iloc[0]
    assert not [name for name in losses.columns if "dice" in name or "accuracy" in name]
    require_same_bytes(train(spec, tmp_path / "again"), run)
    assert score_run(load_run(run), unlabeled, spec.data[0], "test")["scores"]["loss"] < losses["validation_loss"][0]

    child = spec_of(
        objects, target={"name": "foreground"}, load=["encoder", "decoder"], epochs=1, **{"from": {"run": str(run)}}
    )
    begun = train(child, tmp_path / "child", run)
    output = json.loads((begun / "metrics.json").read_text())["transfer"]
    assert output["loaded"] and all(name.startswith("head") for name in output["initialised"])
    assert weights(begun).keys() == weights(run).keys()


@pytest.mark.slow
def test_a_reconstruction_gives_images_in_their_own_units(unlabeled: Path, tmp_path: Path):
    """What a network that copies images predicts is near them, in the values in which they were acquired."""
    target = {"name": "reconstruction", "corruption": {"name": "nothing"}}
    training = {"epochs": 15, "optimizer": {"lr": 1e-2}, "normalize": "image"}
    spec = spec_of(unlabeled, images="all", target=target, network=GROUP_NORM, **training)
    run = train(spec, tmp_path / "run")
    with Dataset(unlabeled) as dataset:
        images = 100 * dataset.read(np.arange(3), layer=None)[0] + 500
    given = segue.predict(run, images)
    assert given.shape == images.shape and given.dtype == np.float32
    assert ((given - images) ** 2).mean() < 0.8 * images.var() and abs(given.mean() - images.mean()) < 20
    np.testing.assert_allclose(segue.predict(run, images[1]), given[1], rtol=1e-4)


@pytest.mark.parametrize(
    ("network", "width", "lr"), [("alexnet-small", 8, 1e-3), pytest.param("resunet", 16, 3e-3, marks=pytest.mark.slow)]
)
def test_classes_of_whole_images(unlabeled: Path, tmp_path: Path, network: str, width: int, lr: float):
    """Which texture an image has is learnt from a column, by a classifier and by a network of pixels, with weights
    that follow from how many images there are of each."""
    target = {"name": "image-class", "column": "texture", "class_weights": "inverse_frequency"}
    asked = {"network": {"name": network, "width": width}, "optimizer": {"lr": lr}, "epochs": 16}
    spec = spec_of(unlabeled, images="all", target=target, **asked)
    run = train(spec, tmp_path / "run")
    scores = score_run(load_run(run), unlabeled, spec.data[0], "test")["scores"]
    assert scores["accuracy"] > 0.8 and scores["auprc_smooth"] > 0.8 and "dice_mean" not in scores
    assert json.loads((run / "metrics.json").read_text())["class_weights"] == pytest.approx([1, 1], abs=0.1)
    with Dataset(unlabeled) as dataset:
        images = dataset.read(np.arange(12), layer=None)[0]
        known = dataset.samples()["texture"][:12]
    shares = segue.probabilities(run, images)
    assert shares.shape == (12, 2) and shares.sum(1) == pytest.approx(1)
    actual = segue.predict(run, images)
    assert actual.shape == (12,) and np.array_equal(actual, shares.argmax(1))
    names = load_run(run).target.names
    assert np.mean([names[value] == name for value, name in zip(actual, known, strict=True)]) > 0.8


def test_columns_that_are_no_classes_are_refused(unlabeled: Path, tmp_path: Path):
    """An unknown column and one of a single value are told, and so are targets that do not go with a network."""
    for column, output in (("dose", "unknown sample column 'dose'"), ("pixel", "texture")):
        with pytest.raises(SegueError, match=output):
            train(spec_of(unlabeled, target={"name": "image-class", "column": column}), tmp_path / "run")
    with pytest.raises(ValidationError, match="predicts one class for a whole image"):
        spec_of(unlabeled, network={"name": "mlp"}, target={"name": "foreground"})
    with pytest.raises(ValidationError, match="film shows classes of pixels"):
        spec_of(unlabeled, target=MASKED, film=2)
    with pytest.raises(SegueError, match=r"target\.layer is not given, the dataset has the label layers none"):
        train(spec_of(unlabeled, target={"name": "foreground"}), tmp_path / "run")


@pytest.mark.slow
def test_several_targets_of_one_network(objects: Path, tmp_path: Path):
    """Auxiliary outputs are learnt beside the main one, which alone is scored and decoded."""
    auxiliary = [{"target": {"name": "reconstruction", "corruption": {"name": "nothing"}}, "weight": 0.2}]
    auxiliary.append({"target": {"name": "distance"}, "weight": 0.5})
    target = {"name": "combined", "main": {"name": "boundary"}, "auxiliary": auxiliary}
    spec = spec_of(objects, target=target, epochs=3, optimizer={"lr": 5e-3})
    run = train(spec, tmp_path / "run")
    model = load_run(run)
    alone = load_run(train(spec_of(objects, target={"name": "boundary"}, epochs=1), tmp_path / "alone"))
    assert model.target.channels == alone.target.channels + 1 + 2
    assert model.decode_params.keys() == alone.decode_params.keys()
    assert history(run)["train_loss"].iloc[-1] < history(run)["train_loss"].iloc[0]
    assert 0 <= score_run(model, objects, spec.data[0], "test")["scores"]["tile_ap50"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize(("augment", "images"), [("none", 12), ("dihedral", 12), ("dihedral-all", 4)])
def test_cached_targets_change_no_bit(
    objects: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, augment: str, images: int
):
    """Targets encoded once and transformed, and those encoded anew without memory for them, train the same network."""
    spec = spec_of(objects, images=images, validation=4, target={"name": "rays"}, epochs=2, augment=augment)
    cached = train(spec, tmp_path / "cached")
    monkeypatch.setattr(device, "CACHE_FRACTION", 0.0)
    require_same_bytes(train(spec, tmp_path / "anew"), cached)
