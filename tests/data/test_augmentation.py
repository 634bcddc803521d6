"""Augmented views follow closed forms, move with their labels, and depend on nothing but their own parameters."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from segue import rng
from segue.data.augmentation import (
    AugmentParams,
    apply_dihedral,
    augment,
    gaussian_blur,
    lattice_weights,
    sample_params,
)
from segue.data.spec import AugmentSpec
from segue.errors import SegueError, SpecError
from segue.spec import SpecModel, validate

EVERYTHING = {
    "scale": [0.8, 1.25],
    "rotation_deg": 30,
    "elastic": {"amplitude_px": 2, "sigma_px": 8},
    "blur_px": [0.4, 1.2],
    "poisson": [20, 200],
    "noise": [0.01, 0.2],
    "gamma": [0.7, 1.5],
    "contrast": [0.8, 1.25],
    "brightness": 0.3,
}
ONE_BY_ONE = [{name: value} for name, value in EVERYTHING.items()] + [{"standardize": True}]


def spec_of(table: dict) -> AugmentSpec:
    return AugmentSpec.model_validate({"dihedral": "none"} | table)


def drawn_of(spec: AugmentSpec, count: int, *, seed: int = 0) -> AugmentParams:
    return sample_params(spec, count, rng.numpy_generator(seed, "test"))


def smooth(count: int, size: int, *, channels: int = 1, sigma_px: float = 4) -> Tensor:
    """Returns smooth random images (n, C, size, size), channels-last, of standard deviation near 1."""
    noise = rng.numpy_generator("smooth", count, size).standard_normal((count, channels, size, size))
    images = 2 * sigma_px * np.sqrt(np.pi) * ndimage.gaussian_filter(noise, sigma_px, axes=(2, 3), truncate=3)
    images = torch.from_numpy(images).float()
    return images.contiguous(memory_format=torch.channels_last)


def only(spec: AugmentSpec, images: Tensor) -> Tensor:
    """Returns the images augmented, with labels that do not matter."""
    labels = torch.zeros(images.shape[0], *images.shape[2:], dtype=torch.long)
    return augment(spec, images, labels, drawn_of(spec, len(images)))[0]


def test_nothing_asked_changes_nothing() -> None:
    """Without a change the very tensors come back; with ones that are drawn for half of the views the others stay."""
    images, labels = smooth(40, 24), torch.randint(-1, 9, (40, 24, 24))
    spec = spec_of({})
    same = augment(spec, images, labels, drawn_of(spec, 40))
    assert same[0] is images and same[1] is labels
    before = images.clone(), labels.clone()
    spec = spec_of({"scale": [1.5, 2], "noise": [0.1, 0.1], "probability": 0.5})
    drawn = drawn_of(spec, 40)
    new_images, new_labels = augment(spec, images, labels, drawn)
    assert torch.equal(images, before[0]) and torch.equal(labels, before[1])
    still, dark = ~drawn.resampled, drawn.noise == 0
    assert 5 < (still & dark).sum() < 20 and 10 < still.sum() < 30
    for view in range(40):
        assert torch.equal(new_images[view], images[view]) == (still[view] and dark[view])
        assert torch.equal(new_labels[view], labels[view]) == still[view]


@pytest.mark.parametrize(("channels", "threads"), [(1, 2), (3, 1)])
@pytest.mark.parametrize("table", [*ONE_BY_ONE, EVERYTHING | {"dihedral": "random", "probability": 0.7}])
def test_splitting_a_batch_changes_no_bit(table: dict, channels: int, threads: int) -> None:
    """Every change, alone and all together: seven views at once, in parts and alone are the same."""
    images, labels = smooth(7, 190, channels=channels), torch.randint(-1, 9, (7, 190, 190))
    spec = spec_of(table)
    drawn = drawn_of(spec, 7)
    outside = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        whole = augment(spec, images, labels, drawn)
        assert whole[0].is_contiguous(memory_format=torch.channels_last) and whole[0].stride() == images.stride()
        for places in np.split(np.array([3, 6, 0, 5, 1, 2, 4]), [1, 2, 4]):
            part = augment(spec, images[places], labels[places], drawn[places])
            assert torch.equal(part[0], whole[0][places]) and torch.equal(part[1], whole[1][places])
    finally:
        torch.set_num_threads(outside)


def test_quarter_turns_by_resampling() -> None:
    """Rotation by 90 and 180 degrees is torch.rot90, and labels are then equal."""
    images, labels = smooth(2, 32), torch.randint(-1, 9, (2, 32, 32))
    spec = spec_of({"rotation_deg": 180})
    for quarters, angle in ((1, 90.0), (2, 180.0), (3, -90.0)):
        drawn = dataclasses.replace(drawn_of(spec, 2), angle_deg=np.full(2, angle))
        new_images, new_labels = augment(spec, images, labels, drawn)
        torch.testing.assert_close(new_images, torch.rot90(images, quarters, (-2, -1)), atol=1e-4, rtol=0)
        torch.testing.assert_close(new_labels, torch.rot90(labels, quarters, (-2, -1)))


@pytest.mark.parametrize(
    "table", [{"scale": [1.2, 1.2]}, {"rotation_deg": 45}, {"rotation_deg": 45, "scale": [0.8, 1.2]}]
)
def test_the_inverse_geometry_returns_the_image(table: dict) -> None:
    """Turned back by the same angle and scaled back by the same factor, the middle of a smooth image is as before."""
    images, labels = smooth(4, 96), torch.zeros(4, 96, 96, dtype=torch.long)
    spec = spec_of(table)
    drawn = drawn_of(spec, 4)
    there, _ = augment(spec, images, labels, drawn)
    undone = dataclasses.replace(drawn, scale=1 / drawn.scale, angle_deg=-drawn.angle_deg)
    back, _ = augment(spec, there, labels, undone)
    middle = (..., slice(32, 64), slice(32, 64))
    assert (there - images)[middle].abs().mean() > 0.2
    torch.testing.assert_close(back[middle], images[middle], atol=0.1, rtol=0)


def test_scale_is_how_things_grow() -> None:
    """A disc of known area has its area multiplied by scale², on oblong tiles too."""
    y, x = torch.meshgrid(torch.arange(80) - 39.5, torch.arange(120) - 59.5, indexing="ij")
    disc = (x**2 + y**2 < 20**2).long().expand(3, -1, -1)
    spec = spec_of({"scale": [0.5, 1.8], "rotation_deg": 90})
    drawn = drawn_of(spec, 3)
    _, labels = augment(spec, disc[:, None].float(), disc, drawn)
    np.testing.assert_allclose((labels == 1).sum((1, 2)).numpy(), 400 * np.pi * drawn.scale**2, rtol=0.02)


@pytest.mark.parametrize("table", [{"scale": [0.7, 1.4], "rotation_deg": 180, "dihedral": "random"}, EVERYTHING])
def test_images_and_labels_move_together(table: dict) -> None:
    """Labels made from a smooth image by a threshold fit the augmented image as well."""
    geometry = {name: table[name] for name in ("dihedral", "scale", "rotation_deg", "elastic") if name in table}
    images = smooth(12, 128, sigma_px=8)
    labels = (images[:, 0] > 0.5).long()
    spec = spec_of(geometry)
    new_images, new_labels = augment(spec, images, labels, drawn_of(spec, 12))
    known, actual = new_labels >= 0, new_images[:, 0] > 0.5
    union = (known & (actual | (new_labels == 1))).sum()
    assert (known & actual & (new_labels == 1)).sum() / union > 0.95
    assert (labels & actual).sum() / (labels | actual).sum() < 0.6  # and they did move


def test_instances_keep_their_ids() -> None:
    """No id arises that was not there, ids beyond float32 included, and each object is found where its image went."""
    places = torch.arange(64) // 16
    ids = 2**40 + 1 + 4 * places[:, None] + places[None]  # sixteen squares
    ids = ids.expand(6, -1, -1).clone()
    ids[:, ::16], ids[:, 1::16] = 0, 0
    marks = (ids % 17).float()[:, None]  # the object as an image
    spec = spec_of({"rotation_deg": 45, "scale": [0.9, 1.1], "elastic": {"amplitude_px": 1, "sigma_px": 8}})
    new_marks, new_ids = augment(spec, marks, ids, drawn_of(spec, 6))
    assert set(new_ids.unique().tolist()) == {-1, *ids.unique().tolist()}
    inside = torch.from_numpy(
        np.stack([ndimage.minimum_filter(v, 5) == ndimage.maximum_filter(v, 5) for v in new_ids.numpy()])
    ) & (new_ids >= 0)  # away from where two objects' pixels are mixed in the image
    assert inside.float().mean() > 0.3
    torch.testing.assert_close(new_marks[:, 0][inside], (new_ids % 17).float()[inside], atol=1e-3, rtol=0)


def test_what_lies_beyond_is_ignored() -> None:
    """Shrunk to half, the labels outside the middle square are -1, none inside, and the image is mirrored there."""
    images, labels = smooth(1, 64), torch.ones(1, 64, 64, dtype=torch.long)
    spec = spec_of({"scale": [0.5, 0.5]})
    new_images, new_labels = augment(spec, images, labels, drawn_of(spec, 1))
    expected = torch.full((1, 64, 64), -1)
    expected[:, 16:48, 16:48] = 1
    torch.testing.assert_close(new_labels, expected)
    torch.testing.assert_close(new_images[..., :16], new_images[..., 16:32].flip(-1), atol=1e-4, rtol=0)
    torch.testing.assert_close(new_images[..., 16:48, 16:48], torch.nn.functional.avg_pool2d(images, 2))


def test_elastic_field_has_its_statistics() -> None:
    """Variance and correlation are those of white noise per pixel smoothed by a Gaussian, at whole and broken sigma."""
    for sigma_px in (1.0, 6.3, 20.0):
        weights = lattice_weights(96, sigma_px).double()
        lag = torch.arange(96.0, dtype=torch.float64)[:, None] - torch.arange(96)
        # the field is weights @ noise @ weights.T, so its covariance is the product of those along y and x
        torch.testing.assert_close(weights @ weights.T, torch.exp(-(lag**2) / (4 * sigma_px**2)), atol=3e-4, rtol=0)


def test_elastic_moves_by_its_amplitude() -> None:
    """A ramp's intensity tells how far pixels came: standard deviation amplitude_px, along x as along y."""
    ramp = torch.arange(128.0).expand(40, 1, 128, 128)
    spec = spec_of({"elastic": {"amplitude_px": 2, "sigma_px": 6}})
    for images in (ramp, ramp.transpose(-2, -1)):
        moved = (only(spec, images.contiguous()) - images)[..., 10:-10, 10:-10]
        assert abs(moved.std() - 2) < 0.1 and abs(moved.mean()) < 0.15


def test_blur_is_a_gaussian() -> None:
    """Equal to scipy's Gaussian filter, each view with its own width, also wider than the tile."""
    images = torch.randn(3, 2, 40, 30)
    for widest_px in (1.5, 20.0):
        sigma_px = widest_px * np.array([0.3, 0.7, 1.0])
        actual = gaussian_blur(images, sigma_px, max_sigma_px=widest_px)
        for image, sigma, result in zip(images, sigma_px, actual, strict=True):
            radius = int(np.ceil(3 * widest_px))
            expected = ndimage.gaussian_filter(image.numpy(), sigma, axes=(1, 2), mode="mirror", radius=radius)
            np.testing.assert_allclose(result.numpy(), expected, atol=1e-5)


def test_noise_has_its_deviation() -> None:
    """Mean 0 and the standard deviation drawn, different in every view and channel, the same for the same seed."""
    images = torch.zeros(4, 2, 128, 128)
    spec = spec_of({"noise": [0.1, 0.5]})
    drawn, actual = drawn_of(spec, 4), only(spec, images)
    np.testing.assert_allclose(actual.std((1, 2, 3)).numpy(), drawn.noise, rtol=0.02)
    assert (actual.mean((1, 2, 3)).abs().numpy() < 4 * drawn.noise / 181).all()
    assert np.abs(np.corrcoef(actual.flatten(2).flatten(0, 1).numpy()) - np.eye(8)).max() < 0.04
    assert torch.equal(actual, only(spec, images))


def test_poisson_noise_has_its_variance() -> None:
    """On steps between the range's ends the mean stays and the variance, counted, is the mean."""
    steps = torch.tensor([-1.0, 0.0, 1.0, 3.0]).repeat_interleave(64).expand(2, 1, 256, -1)
    spec = spec_of({"poisson": [50, 50]})
    actual = only(spec, steps)
    for step, start in ((-1.0, 0), (0.0, 64), (1.0, 128), (3.0, 192)):
        values = actual[..., start : start + 64]
        counts = 50 * (step + 1) / 4
        assert abs(values.mean().item() - step) < 4 * 4 / 50 * np.sqrt(counts / values.numel()) + 1e-6
        np.testing.assert_allclose(values.var().item(), counts * (4 / 50) ** 2, rtol=0.05, atol=1e-9)


def test_gamma_contrast_and_brightness_are_their_formulas() -> None:
    """Per channel: gamma keeps both ends of the range, contrast the mean; brightness shifts."""
    images = smooth(5, 40, channels=2)
    values = images.double()
    column = (slice(None), None, None, None)

    spec = spec_of({"gamma": [0.5, 2]})
    low, high = values.amin((2, 3), keepdim=True), values.amax((2, 3), keepdim=True)
    power = torch.from_numpy(drawn_of(spec, 5).gamma)[column]
    expected = ((values - low) / (high - low)) ** power * (high - low) + low
    torch.testing.assert_close(only(spec, images).double(), expected, atol=1e-5, rtol=0)

    spec = spec_of({"contrast": [0.5, 2]})
    mean = values.mean((2, 3), keepdim=True)
    expected = mean + torch.from_numpy(drawn_of(spec, 5).contrast)[column] * (values - mean)
    torch.testing.assert_close(only(spec, images).double(), expected, atol=1e-5, rtol=0)

    spec = spec_of({"brightness": 0.7})
    added = torch.from_numpy(drawn_of(spec, 5).brightness)[column]
    torch.testing.assert_close(only(spec, images).double(), values + added, atol=1e-6, rtol=0)


def test_standardized_views() -> None:
    """After all other changes every channel has mean 0 and standard deviation 1; a constant image becomes 0."""
    images = torch.cat([3 + 5 * smooth(3, 64, channels=2), torch.full((1, 2, 64, 64), 7.0)])
    actual = only(spec_of({"contrast": [0.5, 2], "noise": [0, 0], "standardize": True}), images).double()
    torch.testing.assert_close(actual.mean((2, 3)), torch.zeros(4, 2).double(), atol=1e-5, rtol=0)
    deviations = torch.tensor([[1.0, 1.0]] * 3 + [[0.0, 0.0]]).double()
    torch.testing.assert_close(actual.std((2, 3), correction=0), deviations, atol=1e-4, rtol=0)


@pytest.mark.parametrize("table", [EVERYTHING | {"standardize": True}])
def test_a_constant_image_stays_finite(table: dict) -> None:
    """An image without any range meets every change without a division by nothing."""
    assert only(spec_of(table), torch.full((3, 1, 32, 32), -2.0)).isfinite().all()


def test_parameters_are_drawn_as_told() -> None:
    """Limits hold, factors are log-uniform, coins independent, and each change has numbers of its own."""
    spec = spec_of(EVERYTHING | {"dihedral": "random", "probability": 0.6})
    drawn = drawn_of(spec, 20_000)
    for name, field, neutral in (("scale", "scale", 1), ("gamma", "gamma", 1), ("poisson", "poisson_peak", 0)):
        values = getattr(drawn, field)
        made = values != neutral
        low, high = EVERYTHING[name]
        assert abs(made.mean() - 0.6) < 0.02
        assert low <= values[made].min() < values[made].max() <= high
        assert abs(np.log(values[made]).mean() - np.log(low * high) / 2) < 0.03
    assert abs(((drawn.scale != 1) & (drawn.noise > 0)).mean() - 0.36) < 0.02
    assert (np.bincount(drawn.code) > 2300).all()
    assert len(set(drawn.seed.tolist())) == 20_000
    fewer = drawn_of(spec_of({"noise": EVERYTHING["noise"], "probability": 0.6}), 20_000)
    np.testing.assert_array_equal(fewer.noise, drawn.noise)
    np.testing.assert_array_equal(fewer.seed, drawn.seed)
    np.testing.assert_array_equal(drawn[np.array([5, 2])].scale, drawn.scale[[5, 2]])


def test_all_copies_of_each_sample() -> None:
    """With dihedral "all", eight views after one another are the eight copies of a sample."""
    spec = AugmentSpec(dihedral="all")
    images, labels = smooth(1, 16), torch.randint(0, 3, (1, 16, 16))
    new_images, new_labels = augment(spec, images.repeat(8, 1, 1, 1), labels.repeat(8, 1, 1), drawn_of(spec, 8))
    for code in range(8):
        torch.testing.assert_close(new_images[code], apply_dihedral(images[0], code))
        torch.testing.assert_close(new_labels[code], apply_dihedral(labels[0], code))
    with pytest.raises(ValueError, match="9 views are not a whole number of samples"):
        drawn_of(spec, 9)


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"scale": [1.2, 0.8]}, "augment.scale: found .1.2, 0.8.; allowed: two numbers above 0, the lower first"),
        ({"scale": [0.01, 1]}, "augment.scale: found .* allowed: factors between 0.1 and 10"),
        ({"blur_px": [0, 101]}, r"augment.blur_px: found \[0, 101\]; allowed: up to 100 px; lower it"),
        ({"blur_px": [1e30, 1e30]}, "augment.blur_px: found .*; allowed: up to 100 px"),
        ({"noise": [-1, 1]}, "augment.noise: found .-1, 1.; allowed: two numbers 0 or above"),
        ({"elastic": {"amplitude_px": 9, "sigma_px": 4}}, "augment.elastic: found amplitude_px 9 above sigma_px 4"),
        ({"probability": 0.5}, "found probability 0.5 without a change"),
        ({"rotation": 5}, "unknown key 'rotation'; did you mean 'rotation_deg'"),
    ],
)
def test_mistakes_are_told(table: dict, sentence: str) -> None:
    """A mistaken range, a folding displacement, a setting without effect: each is refused in words."""

    class Stage(SpecModel):  # a table that holds one
        augment: AugmentSpec

    with pytest.raises(SpecError, match=sentence):
        validate(Stage, {"augment": table}, context="stage.toml")


def test_oblong_tiles_and_wrong_numbers_are_refused() -> None:
    """Random quarter turns need square tiles; parameters must be as many as images."""
    images, labels = torch.zeros(8, 1, 20, 30), torch.zeros(8, 20, 30, dtype=torch.long)
    with pytest.raises(SegueError, match="quarter turns need square tiles"):
        augment(AugmentSpec(), images, labels, drawn_of(AugmentSpec(), 8))
    with pytest.raises(ValueError, match="7 parameters for 8 images"):
        augment(AugmentSpec(), images, labels, drawn_of(AugmentSpec(), 7))


def test_specifying_needs_no_torch() -> None:
    """The specification of an augmentation is imported without torch."""
    code = "import sys; from segue.data.spec import AugmentSpec; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
