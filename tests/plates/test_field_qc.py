"""Fields that are saturated, black, out of focus or empty are found among good ones, and good ones are left alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from segue import rng
from segue.errors import SpecError
from segue.plates.spec import QualitySpec
from segue.plates.stitching.field_qc import judge_fields, measure_field
from segue.spec import validate

SPEC = QualitySpec()


def counts(expected: np.ndarray, seed: int) -> np.ndarray:
    noisy = rng.numpy_generator(seed, "noise").poisson(expected * 0.4) / 0.4 + 100
    return np.clip(np.rint(noisy), 0, 65535).astype(np.uint16)


def scene(seed: int, *, strength: float = 0.08) -> np.ndarray:
    """Returns expected counts (192, 192): structure of 2 px sd and of 10 px sd, as of cells in transmitted light."""
    noise = rng.numpy_generator(seed, "scene").standard_normal((2, 192, 192))
    fine, coarse = (ndimage.gaussian_filter(n, sd) for n, sd in zip(noise, (2, 10), strict=True))
    return 9000 * (1 + strength * (fine / fine.std() + 0.5 * coarse / coarse.std()))


@pytest.fixture(scope="module")
def good() -> dict[tuple[int, int], np.ndarray | None]:
    return {(i // 3, i % 3): counts(scene(i), i) for i in range(9)}


def test_good_fields_are_left_alone(good):
    """Fields of twofold different contrast raise no flag, alone or together, and a missing one is passed over."""
    weak = {**good, (1, 1): counts(scene(11, strength=0.04), 11), (2, 2): None}
    actual = judge_fields(weak, SPEC)
    assert set(actual) == set(weak) - {(2, 2)}
    assert all(quality.flags == () and not quality.excluded for quality in actual.values())
    assert judge_fields({0: good[0, 0]}, SPEC)[0].flags == ()


@pytest.mark.parametrize(
    ("kind", "bad"),
    [
        ("black", counts(np.zeros((192, 192)), 3)),
        ("saturated", np.full((192, 192), 65535, np.uint16)),
        ("defocused", counts(ndimage.gaussian_filter(scene(4), 8), 3)),
        ("empty", counts(np.full((192, 192), 9000.0), 3)),
    ],
)
def test_one_bad_field_is_found(good, kind, bad):
    """A bad field among eight good ones has its flag and its action, and none of the good ones has any."""
    actual = judge_fields({**good, (0, 1): bad}, SPEC)
    assert actual[0, 1].flags == (kind,)
    assert actual[0, 1].excluded is (getattr(SPEC, kind).action == "exclude")
    assert [cell for cell, quality in actual.items() if quality.flags] == [(0, 1)]


def test_the_action_is_the_specification_s(good):
    """A flag excludes where its table says so and only then."""
    bad = {**good, (0, 1): np.full((192, 192), 65535, np.uint16)}
    marking = QualitySpec.model_validate({"saturated": {"action": "mark"}})
    assert not judge_fields(bad, marking)[0, 1].excluded
    assert judge_fields(bad, SPEC)[0, 1].excluded


def test_stains_may_be_empty(good):
    """A stain's field without structure is no fault; a black one is."""
    medium = {cell: counts(np.full((192, 192), 300.0), i) for i, cell in enumerate(good)}
    assert not any(q.flags for q in judge_fields(medium, SPEC, stain=True).values())
    dark = {**medium, (1, 1): counts(np.zeros((192, 192)), 3)}
    assert judge_fields(dark, SPEC, stain=True)[1, 1].flags == ("black",)


def test_other_times_tell_when_all_fields_are_out_of_focus(good):
    """With most fields blurred the others do not tell, a reference from another time does."""
    blurred = {cell: counts(ndimage.gaussian_filter(scene(i), 8), i) for i, cell in enumerate(good)}
    assert not any(quality.flags for quality in judge_fields(blurred, SPEC).values())
    reference = [measure_field(tile, SPEC) for tile in good.values() for _ in range(2)]
    assert all(q.flags == ("defocused",) for q in judge_fields(blurred, SPEC, reference=reference).values())


@pytest.mark.parametrize("scale", [2.0, 8.0])
def test_noise_alone_has_no_contrast(scale):
    """Of white noise the contrast vanishes: its share through the Laplacian of Gaussian has its closed form."""
    tile = counts(np.full((512, 512), 9000.0), 1)
    raw = ndimage.gaussian_laplace(tile / np.median(tile), scale)[40:-40, 40:-40].std() * scale**2
    noise = measure_field(tile, SPEC).noise
    assert raw == pytest.approx(noise / (np.sqrt(2 * np.pi) * scale), rel=0.06)
    assert measure_field(tile, SPEC).fine < 0.3 * noise / (np.sqrt(2 * np.pi) * 2)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_cameras_of_any_bits_saturate(good, bits):
    """A field of which half is at the full scale of its camera is saturated in 16 bits, and only that field."""
    full = 2**bits - 1
    fields = {cell: (tile / 65536 * full).astype(np.uint16) for cell, tile in good.items()}
    fields[0, 0][:, :96] = full
    saturated = [cell for cell, quality in judge_fields(fields, SPEC, stain=True).items() if quality.flags]
    assert saturated == [(0, 0)]


def test_float_fields_and_a_given_full_scale(good):
    """Float fields need no full scale; a given one counts whatever reaches it."""
    tile = (good[0, 0] / np.float32(65535)).astype(np.float32)
    assert judge_fields({0: tile}, SPEC, stain=True)[0].flags == ()
    assert judge_fields({0: np.minimum(tile, np.quantile(tile, 0.9))}, SPEC)[0].flags == ("saturated",)
    given = QualitySpec.model_validate({"saturated": {"full_counts": float(np.quantile(tile, 0.9))}})
    assert judge_fields({0: tile}, given)[0].flags == ("saturated",)


def test_bad_input_is_told():
    """Wrong shapes and settings are refused in words."""
    with pytest.raises(ValueError, match="one field"):
        measure_field(np.ones((2, 8, 8), np.uint16), SPEC)
    with pytest.raises(SpecError, match="action"):
        validate(QualitySpec, {"black": {"action": "drop"}}, context="quality")
