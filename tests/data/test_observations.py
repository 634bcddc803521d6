"""Copies of a picture are found by its pixels, blank fields are copies of nothing; odd images are told by number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segue.data.folders.observations import (
    Observation,
    judge_copies,
    notes_on_images,
    notes_on_pixel_sizes,
    observe,
    picture_hash,
)
from segue.data.folders.pairing import ImageLabelPair


def picture(seed: int = 0, shape: tuple[int, ...] = (1, 20, 30)) -> np.ndarray:
    return np.random.default_rng(seed).integers(100, 4000, shape).astype(np.uint16)


def observation(image: np.ndarray) -> Observation:
    flat = image.reshape(len(image), -1)
    return observe(image, np.stack([flat.mean(axis=1), flat.std(axis=1)], axis=1))


def pairs_of(*groups: str) -> list[ImageLabelPair]:
    return [ImageLabelPair(Path(f"{i}.tif"), None, f"{i}.tif", group) for i, group in enumerate(groups)]


@pytest.mark.parametrize("shape", [(1, 20, 30), (2, 24, 24)])
@pytest.mark.parametrize("margin", [0, 4])
def test_turned_pictures_have_one_hash(shape: tuple[int, ...], margin: int) -> None:
    """The eight rotations and reflections have one hash, also with a margin; other pixels, types and shapes another."""
    image = np.pad(picture(shape=shape), ((0, 0), (margin, margin), (margin, margin)))
    turned = [np.rot90(one, turns, (1, 2)) for one in (image, image[:, :, ::-1]) for turns in range(4)]
    assert len({picture_hash(one) for one in turned}) == 1
    changed = image.copy()
    changed[0, margin, margin] += 1
    others = [changed, image.astype(np.uint32), image[:, :-1], image.reshape(len(image), image.shape[2], -1)]
    if image.shape[1] == image.shape[2]:
        others.pop()
    assert picture_hash(image) not in {picture_hash(one) for one in others}
    if len(image) > 1:
        assert picture_hash(image) != picture_hash(image[::-1])  # exchanged channels are another picture


def test_blank_fields_are_no_copies() -> None:
    """Black fields, burnt-out ones and black ones with the same hot pixel are copies of nothing."""
    hot = np.zeros((1, 64, 64), np.uint16)
    hot[0, 7, 9] = 4095
    assert {picture_hash(one) for one in (hot, hot * 0, hot * 0 + 65535, hot.astype(np.float32) * 0)} == {""}
    problems, notes = judge_copies(pairs_of("a", "b"), [observation(hot)] * 2, refuse=True)
    assert problems == notes == []


def test_copies_within_and_across_groups() -> None:
    """Copies are noted; in two groups they are refused with both names if asked, in two given parts always."""
    one, other = observation(picture(0)), observation(picture(1))
    problems, notes = judge_copies(pairs_of("a", "a", "b", "c"), [one, one, other, one], refuse=True)
    assert notes == [
        "1 of 4 images is a copy, perhaps rotated or reflected, of an image of the same group (e.g. 1.tif of 0.tif)"
    ]
    assert len(problems) == 1 and problems[0].startswith("3.tif: is the same picture as 0.tif")
    assert "groups 'c' and 'a'" in problems[0]
    problems, notes = judge_copies(pairs_of("a", "b"), [one, one], refuse=False)
    assert problems == [] and notes == [
        "1 of 2 images is a copy, perhaps rotated or reflected, of an image of another group (e.g. 1.tif of 0.tif), so "
        "that one can be in training and one in test: leave one of the two out"
    ]
    parts = [replace(pair, part=part) for pair, part in zip(pairs_of("a", "b"), ("train", "test"), strict=True)]
    problems, notes = judge_copies(parts, [one, one], refuse=False)
    assert notes == [] and problems[0].startswith("1.tif: is the same picture as 0.tif")


def test_odd_images_are_told() -> None:
    """A black field, a mask and a saturated image are told each with the number and an example; good ones are not."""
    good = {f"{i}.tif": observation(picture(i)) for i in range(5)}
    assert notes_on_images(good) == []
    saturated = picture(9)
    saturated[0, :5] = 4095
    odd = {
        "black.tif": observation(np.random.default_rng(0).poisson(20, (1, 20, 30)).astype(np.uint16)),
        "mask.tif": observation((picture(7) > 2000) * np.uint16(4000)),
        "bright.tif": observation(saturated),
    }
    black, few, bright = notes_on_images(good | odd)
    assert black.startswith("1 of 8 images are nearly black (e.g. black.tif: mean 20")
    assert few.startswith("1 of 8 images have fewer than 4 different values") and "mask.tif: 2" in few
    assert bright.startswith("1 of 8 images are saturated") and "bright.tif: 25.0% of the pixels at 4095" in bright


@pytest.mark.parametrize("highest", [0, 3, 5])
def test_a_single_black_image(highest: int) -> None:
    """An image of the lowest counts is black whatever others are; small floats and negative numbers are not."""
    image = np.random.default_rng(0).integers(0, highest + 1, (1, 20, 30)).astype(np.uint8)
    assert "1 of 1 images are nearly black" in notes_on_images({"a.tif": observation(image)})[0]
    assert notes_on_images({"a.tif": observation(picture().astype(np.float32) / 4000)}) == []
    signed = (picture().astype(np.int32) - 32768).astype(np.int16)  # as ImageJ stores signed numbers
    assert notes_on_images({"a.tif": observation(signed)}) == []


@pytest.mark.parametrize("value", [0, 80, 4095])
def test_an_image_of_one_value_is_black_only_if_it_is_dark(value: int) -> None:
    """A field burnt out, or lit and empty, has no contrast; only a dark one is black."""
    good = {f"{i}.tif": observation(picture(i)) for i in range(3)}
    image = np.full((1, 20, 30), value, np.uint16)
    [note] = notes_on_images(good | {"odd.tif": observation(image)})[:1]
    words = "nearly black" if value < 200 else "without contrast"
    assert note.startswith(f"1 of 4 images are {words} (e.g. odd.tif: mean {value}, standard deviation 0; usual are ")


def by_name(sizes_nm: Sequence[float | None]) -> dict[str, float | None]:
    return {f"{index}.tif": size for index, size in enumerate(sizes_nm)}


def test_pixel_sizes_that_differ_are_told_with_numbers() -> None:
    unknown, note = notes_on_pixel_sizes(by_name([650.0, 100.0, 650.0, None]))
    assert unknown.startswith(
        "the pixel size of 1 of 4 images (e.g. 3.tif) is not known, that of the others is 100 to 650"
    )
    assert "(1 of 100 nm, 2 of 650 nm, 1 of unknown size)" in note
    [note] = notes_on_pixel_sizes(by_name([100.0 * 2**n for n in range(7)]))
    assert "(1 of 100 nm, 1 of 200 nm, …, 1 of 3200 nm, 1 of 6400 nm)" in note


@pytest.mark.parametrize("sizes_nm", [[], [None], [100.0], [100.0, 124.9], [650.0, 649.9999999999999]])
def test_pixel_sizes_that_are_alike_are_not_told(sizes_nm: list[float | None]) -> None:
    assert notes_on_pixel_sizes(by_name(sizes_nm)) == []


@pytest.mark.parametrize(
    ("sizes_nm", "words"),
    [
        ([None, 650.0, 650.0], "1 of 3 images (e.g. 0.tif) is not known, that of the others is 650 nm: give"),
        ([650.0, 649.9999999999999, None], "1 of 3 images (e.g. 2.tif) is not known, that of the others is 650 nm"),
        ([650.0, None, 700.0, None], "2 of 4 images (e.g. 1.tif) is not known, that of the others is 650 to 700 nm"),
    ],
)
def test_pixel_sizes_that_some_lack_are_told(sizes_nm: list[float | None], words: str) -> None:
    [note] = notes_on_pixel_sizes(by_name(sizes_nm))
    assert words in note
