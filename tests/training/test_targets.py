"""Targets of objects from training to tuned decoding: what is learnt, stored, scored and predicted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cc3d
import numpy as np
import pytest
from samples.discs import disc_part
from samples.stages import history, require_same_bytes, spec_of, train

from segue.data.dataset import Dataset
from segue.data.spec import Layer
from segue.data.writer import merge_parts, write_part
from segue.errors import SegueError
from segue.evaluation import object_metrics
from segue.inference.predict import predict, probabilities
from segue.study.evaluate import score_run
from segue.targets.foreground import Foreground
from segue.training import tuning
from segue.training.run_folder import load_run

TARGETS = ("classes", "foreground", "boundary", "distance", "rays", "flows", "descriptors")


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a dataset of discs of which every one is an object."""
    out = tmp_path_factory.mktemp("objects") / "discs.h5"
    parts = []
    for group in range(30):
        part = disc_part(group)
        numbered = np.stack([cc3d.connected_components(mask).astype(np.int32) for mask in part.labels["discs"] > 0])
        parts.append(out.with_suffix("") / f"{group}.part")
        write_part(parts[-1], replace(part, labels={"discs": numbered}))
    layers = [Layer("discs", "instances", ("background", "disc"))]
    merge_parts(parts, out, layers=layers, channels=["intensity"], attributes={"provenance": "made"}, splits={})
    return out


@pytest.mark.parametrize("name", ["flows", "classes"])
def test_averages_over_views_go_from_the_stage_to_scores_and_predictions(tiles: Path, tmp_path: Path, name: str):
    """With `tta` predictions turn with the image, scores are those of the average, and another stage has none of it."""
    spec = spec_of(tiles, images=12, validation=6, target={"name": name}, epochs=1, augment="dihedral", tta=True)
    model = load_run(train(spec, tmp_path / "run"))
    with Dataset(tiles) as dataset:
        image = dataset.read(np.array([0]), layer=None)[0][0]
    turned = np.ascontiguousarray(np.rot90(image, axes=(1, 2)))
    averaged_view, alone = (
        np.rot90(probabilities(one, image), axes=(1, 2)) for one in (model, replace(model, tta=False))
    )
    np.testing.assert_allclose(probabilities(model, turned), averaged_view, atol=1e-6)
    assert abs(probabilities(replace(model, tta=False), turned) - alone).max() > 1e-4
    averaged, single = (
        score_run(one, tiles, spec.data[0], "test")["scores"] for one in (model, replace(model, tta=False))
    )
    assert averaged["loss"] != single["loss"]
    assert not load_run(train(spec.model_copy(update={"tta": False}), tmp_path / "plain")).tta


@pytest.mark.parametrize("name", [n if n == "rays" else pytest.param(n, marks=pytest.mark.slow) for n in TARGETS])
def test_each_target_from_training_to_objects(tiles: Path, tmp_path: Path, name: str):
    """A target of objects is learnt, its decode parameters are tuned on validation images and used by scores and
    predictions, and a training that was interrupted has the same results."""
    spec = spec_of(
        tiles, images=12, validation=6, target={"name": name}, epochs=2, optimizer={"name": "adam", "lr": 5e-3},
        augment="dihedral",
    )  # fmt: skip
    run = train(spec, tmp_path / "run")
    losses = history(run)["train_loss"]
    assert losses.iloc[-1] < losses.iloc[0]
    model = load_run(run)
    output = json.loads((run / "metrics.json").read_text())["decoding"]
    if name == "classes":
        assert output is None and model.decode_params == {}
    else:
        assert output["value"] >= output["value_of_defaults"]
        assert model.decode_params == output["parameters"]
    for parameter, value in model.decode_params.items():
        assert value == model.target.decode_params[parameter] or value in model.target.decode_search_space[parameter]
    scores = score_run(model, tiles, spec.data[0], "test")["scores"]
    with Dataset(tiles) as dataset:
        image = dataset.read(np.array([0]), layer=None)[0][0]
        image_labels = predict(model, image)
    assert image_labels.shape == (32, 32) and image_labels.dtype == np.int64
    if name != "classes":
        assert sorted(set(np.unique(image_labels)) - {0}) == list(range(1, image_labels.max() + 1))
    assert scores["tile_objects_true"] > 0 and 0 <= scores["tile_ap50"] <= 1
    require_same_bytes(train(spec, tmp_path / "again"), run)


def test_objects_need_a_layer_of_objects(tmp_path: Path):
    """A layer of classes is refused for a target of objects, with what to do."""
    from samples.stages import write_tiles

    classes = write_tiles(tmp_path / "classes.h5", groups=12)
    with pytest.raises(SegueError, match=r"target 'flows' is of objects, but the layer holds classes .* use a layer"):
        train(spec_of(classes, images="all", target={"name": "flows"}), tmp_path / "run")


def test_tuning_finds_the_best_of_the_ranges():
    """Where probabilities are all too low, the threshold found is one that reaches what trying all of them reaches."""
    generator = np.random.default_rng(0)
    labels = np.zeros((4, 64, 64), np.int32)
    for image in labels:
        for number, (y, x) in enumerate(((12, 12), (12, 44), (44, 20)), start=1):
            image[y : y + 9, x : x + 9] = number
    scores = [
        ((one > 0)[None] * 2.0 - 3.0 + generator.normal(0, 0.4, (1, 64, 64))).astype(np.float32) for one in labels
    ]
    target = Foreground(("background", "disc"))
    actual = tuning.tune_decoding(target, scores, labels)

    def reached(threshold: float) -> float:
        parameters = {**actual["parameters"], "threshold": threshold}
        tallies = [
            object_metrics.count_matches(one, target.decode(visible, parameters))
            for one, visible in zip(labels, scores, strict=True)
        ]
        value = object_metrics.scores(object_metrics.concatenate(tallies))["ap_mean"]
        return -1.0 if np.isnan(value) else value

    assert actual["value"] == max(reached(threshold) for threshold in target.decode_search_space["threshold"])
    assert actual["value"] > actual["value_of_defaults"] + 0.5
    assert actual["parameters"]["threshold"] < target.decode_params["threshold"]


def test_images_to_tune_on_are_bounded():
    """At most 64 images are decoded again and again, evenly spaced."""
    images = [(np.zeros((1, 2, 2)), np.full((2, 2), k)) for k in range(200)]
    selection = [int(labels[0, 0]) for _, labels in tuning.select_images(images)]
    assert len(selection) == 64 and selection == sorted(set(selection)) and selection[0] < 4 and selection[-1] > 195
    assert len(tuning.select_images(images[:5])) == 5
