"""Large images by tiles: the same objects, scores and statistics as of the whole image, in the memory of a tile."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from samples.target_contract import perfect_prediction
from scipy import ndimage

from segue import networks, rng
from segue.data.normalization import intensity_stats, streaming_stats
from segue.data.spec import NormalizeSpec, PercentileSpec
from segue.data.tiling import Region, Tiling
from segue.errors import SegueError
from segue.inference import predict
from segue.inference.predict import (
    forward,
    receptive_radius_px,
    tiled_predictor,
    write_classes,
    write_objects,
    write_probabilities,
)
from segue.inference.stitch_objects import StitchResult, stitch_objects
from segue.labels.ops import relabel_sequential
from segue.networks.registry import NetworkSpec
from segue.targets import boundary, descriptors, distance, flows, foreground, rays
from segue.targets.registry import build_target
from segue.targets.specs import ClassesSpec

NAMES = ("background", "object")
TARGETS = {
    "classes": build_target(ClassesSpec(), names=NAMES, instances=True, context="test"),
    "foreground": foreground.Foreground(NAMES),
    "boundary": boundary.Boundary(NAMES),
    "distance": distance.Distance(NAMES),
    "normalized": distance.Distance(NAMES, normalized=True),
    "rays": rays.Rays(NAMES),
    "flows": flows.Flows(NAMES),
    "descriptors": descriptors.Descriptors(NAMES),
    "offsets": descriptors.Descriptors(NAMES, affinities=False),
}


@pytest.fixture(scope="module")
def crowd() -> np.ndarray:
    """Returns 400 × 400 labels: 220 ellipses of up to 26 px, many touching, in any place."""
    generator = rng.numpy_generator("crowd")
    y, x = np.mgrid[:400, :400]
    labels = np.zeros((400, 400), np.int64)
    for label in range(1, 221):
        cy, cx = generator.uniform(0, 400, 2)
        a, b = generator.uniform(5, 13, 2)
        turn = generator.uniform(0, np.pi)
        u = (y - cy) * np.cos(turn) + (x - cx) * np.sin(turn)
        v = (x - cx) * np.cos(turn) - (y - cy) * np.sin(turn)
        labels[((u / a) ** 2 + (v / b) ** 2 < 1) & (labels == 0)] = label
    return labels


def noisy_scores(name: str, labels: np.ndarray, amount: float) -> np.ndarray:
    """Returns what a good network gives, with smooth noise of that share of the scores' deviation."""
    target = TARGETS[name]
    if name == "classes":
        inside = np.where(labels > 0, 3.0, -3.0)
        scores = np.stack([-inside, inside]).astype(np.float32)
    else:
        scores = perfect_prediction(target, target.encode(torch.from_numpy(labels)[None])[0].numpy())
    noise = ndimage.gaussian_filter(rng.numpy_generator("noise").normal(size=scores.shape), (0, 1, 1))
    noise *= amount * scores.std((1, 2), keepdims=True) / noise.std()
    return (scores + noise).astype(np.float32)


def by_tiles(name: str, scores: np.ndarray, tiling: Tiling) -> tuple[np.ndarray, StitchResult]:
    out = np.full(scores.shape[1:], 77, np.int32)  # what stood there before must not matter
    target = TARGETS[name]
    actual = write_objects(
        lambda region: np.ascontiguousarray(region.read(scores)), target, out, params=target.decode_params,
        tiling=tiling,
    )  # fmt: skip
    return out, actual


@pytest.mark.parametrize(
    "name", [n if n in ("flows", "rays", "classes") else pytest.param(n, marks=pytest.mark.slow) for n in TARGETS]
)
@pytest.mark.parametrize("amount", [0.0, pytest.param(0.5, marks=pytest.mark.slow)])
def test_objects_by_tiles_are_those_of_the_whole_image(crowd: np.ndarray, name: str, amount: float):
    """Every target decodes noisy scores of touching objects to the same pixels and numbers, whatever the tiles are."""
    scores = noisy_scores(name, crowd, amount)
    whole = relabel_sequential(TARGETS[name].decode(scores, TARGETS[name].decode_params))[0]
    for tiling in (Tiling(96, 24), Tiling(160, 64)):
        actual, joined = by_tiles(name, scores, tiling)
        assert np.array_equal(actual, whole), tiling
        assert joined.objects == whole.max() > 30


def test_order_of_tiles_holds_no_secret_state(crowd: np.ndarray):
    """The same labels come out at another grid, in int64, and a second time into the same array."""
    scores = noisy_scores("boundary", crowd, 0.1)
    whole = TARGETS["boundary"].decode(scores, TARGETS["boundary"].decode_params)
    out = np.empty(whole.shape, np.int64)
    for side in (113, 130, 113):
        target = TARGETS["boundary"]
        write_objects(
            lambda region: np.ascontiguousarray(region.read(scores)), target, out, params=target.decode_params,
            tiling=Tiling(side, 60),
        )  # fmt: skip
        assert np.array_equal(out, whole)


def bars(shape: tuple[int, int]) -> np.ndarray:
    """Returns labels: objects across two, four and eight tiles of 64 px, and one that touches another's corner."""
    labels = np.zeros(shape, np.int64)
    labels[60:69, 5:60] = 1  # across two
    labels[55:75, 120:140] = 2  # across four, at a corner of the grid
    labels[100:110, 10:240] = 3  # across four in a row
    labels[150:250, 100:110] = 4
    labels[240:250, 100:200] = 4  # bent
    labels[187:192, 187:192] = 5
    labels[192:197, 192:197] = 6  # meet at a corner of the grid alone
    return labels


@pytest.mark.parametrize(
    "name", ["classes", "foreground", "boundary", "distance", pytest.param("descriptors", marks=pytest.mark.slow)]
)
def test_objects_longer_than_the_halo(name: str):
    """Objects across up to eight tiles come out whole: with halos that grow to hold them, and without by overlap."""
    labels = bars((256, 256))
    target = TARGETS[name]
    scores = noisy_scores(name, labels, 0.01)
    whole = relabel_sequential(target.decode(scores, target.decode_params))[0]
    assert whole.max() >= 5
    actual, joined = by_tiles(name, scores, Tiling(64, 16))
    assert joined.objects == whole.max() and joined.uncertain >= 2
    if name != "distance":  # whose long objects are of one distance all along, where noise alone says what is a maximum
        assert np.array_equal(actual, whole)
    actual, joined = by_tiles(name, scores, Tiling(250, 60))
    assert joined.uncertain == 0 and np.array_equal(actual, whole)


def test_what_touches_only_diagonally_over_four_tiles_is_joined():
    """Pixels that meet at a corner where four tiles meet are one object where corners connect (classes)."""
    labels = np.zeros((128, 128), np.int64)
    labels[50:64, 50:64] = labels[64:80, 64:80] = 1
    actual, joined = by_tiles("classes", noisy_scores("classes", labels, 0.0), Tiling(64, 32))
    assert joined == StitchResult(1, 0)
    assert np.array_equal(actual, labels)


@pytest.mark.parametrize("shape", [(1, 1), (5, 90), (90, 90), (97, 200)])
def test_empty_and_small_images(shape: tuple[int, int]):
    """An empty image stays empty, and one smaller than a tile is decoded whole, once."""
    calls: list[Region] = []

    def decode(region: Region) -> np.ndarray:
        calls.append(region)
        return np.zeros(region.shape, np.int32)

    out = np.full(shape, 3, np.int32)
    assert stitch_objects(decode, out, tiling=Tiling(96, 20)) == StitchResult(0, 0)
    assert not out.any()
    if max(shape) <= 96:
        assert calls == [Region(0, 0, *shape)]


def test_a_tiling_that_cannot_be_is_refused():
    """Sizes that leave no core, or a halo beyond the neighbouring core, are refused with what is allowed."""
    for wrong in ({"tile_px": 0}, {"halo_px": -1}, {"tile_px": 64, "halo_px": 65}, {"context_px": -2}):
        with pytest.raises(ValueError, match="allowed are tile_px of at least 1, halo_px from 0 to tile_px"):
            Tiling(**wrong)


def made(norm: str | None = None) -> torch.nn.Module:
    with rng.scope("tiles"):
        network = networks.build(NetworkSpec.model_validate({"width": 8, "norm": norm}), channels=1, classes=3).eval()
        for module in network.modules():  # as after training: statistics that are not those of the image
            if isinstance(module, torch.nn.BatchNorm2d):
                assert module.running_mean is not None and module.running_var is not None
                torch.nn.init.normal_(module.running_mean, 0, 0.1)
                torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return network


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """Returns an image (1, 1000, 1010), of no multiple of 32, in 16 bits."""
    noise = rng.numpy_generator("picture").normal(size=(1000, 1010))
    return (1000 + 400 * ndimage.gaussian_filter(noise, 2))[None].astype(np.uint16)


def test_scores_of_a_region_are_those_of_the_whole_image(picture: np.ndarray):
    """With as much around it as the network looks at, a region's scores are the whole image's, at borders too."""
    network = made()
    predictor = tiled_predictor(network, picture, normalization="image", divisor=32)
    assert 200 < predictor.context_px < 400
    values = (picture - predictor.stats[0, :, :1, None]) / predictor.stats[0, :, 1:, None]
    whole = forward(network, torch.from_numpy(values.astype(np.float32))[None], divisor=32, precision="fp32")[0].numpy()
    for region in (Region(400, 470, 520, 601), Region(900, 930, 1000, 1010), Region(0, 300, 64, 364)):
        assert np.abs(predictor.scores(region) - region.read(whole)).max() < 1e-4 * np.abs(whole).max()
    short = tiled_predictor(network, picture, normalization="image", divisor=32, context_px=0).scores(
        Region(416, 480, 512, 608)
    )
    assert np.abs(short - Region(416, 480, 512, 608).read(whole)).max() > 1e-3 * np.abs(whole).max()


def test_the_receptive_radius_is_what_gradients_say(monkeypatch: pytest.MonkeyPatch):
    """How far a network looks is what the gradient of a row of scores shows; one that looks at all has no reach."""
    network = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 7, padding=3),
        torch.nn.AvgPool2d(4),
        torch.nn.Conv2d(3, 3, 3, padding=1),
        torch.nn.Upsample(scale_factor=4),
    )
    radius = receptive_radius_px(network, channels=2, divisor=4)
    assert radius is not None
    for row, depends in ((40 - radius, True), (39 - radius, False), (43 + radius, True), (44 + radius, False)):
        image = torch.zeros(1, 2, 80, 80, requires_grad=True)
        network(image)[..., row, :].sum().backward()
        assert image.grad is not None
        assert bool(image.grad[..., 40:44, :].any()) == depends
    monkeypatch.setattr(predict, "MAX_RADIUS_PX", 500)  # more than the same network has without averages, see above
    assert receptive_radius_px(made("group"), channels=1, divisor=32) is None
    assert receptive_radius_px(made("instance"), channels=1, divisor=32) is None


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.int32, np.float32, bool])
@pytest.mark.parametrize("normalization", ["image", "none", PercentileSpec(name="percentile", low=3, high=99.5)])
def test_statistics_by_blocks(kind: type, normalization: NormalizeSpec):
    """Statistics from blocks are those of the whole image, for every type, negative values and constant channels."""
    image = rng.numpy_generator("values").normal(30, 25, (2, 130, 171)).clip(0 if kind == np.uint8 else None, 200)
    image[1] = 7
    image = image.clip(0, None).astype(kind) if kind == np.uint16 else image.astype(kind)
    whole = intensity_stats(normalization, (image.astype(np.uint8) if kind is bool else image)[None])
    assert np.allclose(streaming_stats(normalization, image, block_px=64), whole, rtol=1e-6, atol=1e-6)


class Blob(torch.nn.Module):
    """Scores that tell bright from dark, with a parameter so that it has a device."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 1, 3, padding=1, bias=False)
        torch.nn.init.constant_(self.conv.weight, 1 / 9)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(images) - 1


def test_memory_is_that_of_a_tile(tmp_path: Path):
    """From file to file, an image 16 times as large takes no more memory: nothing is held but a tile."""
    peaks, counts = [], []
    for side in (512, 2048):
        image = np.lib.format.open_memmap(tmp_path / f"{side}.npy", "w+", np.uint8, (1, side, side))
        out = np.lib.format.open_memmap(tmp_path / f"{side}-labels.npy", "w+", np.int32, (side, side))
        image[0, 8::32, 8::32] = image[0, 9::32, 8::32] = 250
        image[0, 6:9, 20 : side - 20] = 250  # one along the whole width
        tracemalloc.start()
        predictor = tiled_predictor(Blob(), image, normalization="image", divisor=8)
        joined = write_objects(
            predictor.scores, TARGETS["foreground"], out, params={"threshold": 0.5, "min_size_px": 0.0,
            "fill_holes_px": 0.0}, tiling=Tiling(256, 32),
        )  # fmt: skip
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        counts.append(joined.objects)
    assert counts == [2 + 15 * 16, 2 + 63 * 64]  # the first row of dots but one is of the long object
    assert peaks[1] < 1.5 * peaks[0] + 200 * 4096  # and a few numbers for each object


def test_classes_and_probabilities_by_tiles():
    """Classes and probabilities of every pixel are those of the whole image; NaN is refused."""
    image = rng.numpy_generator("classes").normal(size=(1, 200, 150)).astype(np.float32)
    predictor = tiled_predictor(Blob(), image, normalization="none", divisor=8)
    whole = forward(predictor.network, torch.from_numpy(image)[None], divisor=8, precision="fp32")
    target, tiling = TARGETS["foreground"], Tiling(64, 0)
    labels, chances = np.empty((200, 150), np.int64), np.empty((2, 200, 150), np.float32)
    write_classes(predictor.scores, target, labels, tiling=tiling)
    write_probabilities(predictor.scores, target, chances, tiling=tiling)
    assert np.array_equal(labels, target.classes(whole)[0].numpy())
    assert np.allclose(chances, target.probabilities(whole)[0].numpy(), atol=1e-6)
    image[0, 100, 100] = np.nan
    with pytest.raises(SegueError, match="NaN"):
        write_classes(predictor.scores, target, labels, tiling=tiling)
