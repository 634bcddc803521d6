"""Label images that number no objects are recognized by their counts, and what numbers objects is left alone."""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label
from skimage.segmentation import find_boundaries

from segue.labels.numbering import judge, measure, number_parts


def discs(count: int = 9, *, radius: int = 8, pitch: int = 24) -> np.ndarray:
    """Returns labels of `count` separate discs on a grid, numbered from 1."""
    side = int(np.ceil(np.sqrt(count))) * pitch
    y, x = np.mgrid[:side, :side]
    inside = (y % pitch - pitch // 2) ** 2 + (x % pitch - pitch // 2) ** 2 <= radius**2
    numbers = (y // pitch) * (side // pitch) + x // pitch + 1
    return np.where(inside & (numbers <= count), numbers, 0).astype(np.int32)


def judged(*images: np.ndarray, classes: int | None = None, number_parts: bool | None = None) -> tuple[str, list[str]]:
    measures = {f"l{i}.tif": measure(image.astype(np.int32)) for i, image in enumerate(images)}
    return judge(measures, classes=classes, number_parts=number_parts)


DISCS = discs()
MANY = discs(100, radius=8)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ((DISCS > 0) * 255, "look like masks: a single value, 255,"),
        (DISCS > 0, "look like masks: a single value, 1,"),
        ((DISCS > 0) * 65535, "look like masks: a single value, 65535,"),
        (np.where(DISCS > 0, 1 + DISCS % 3, 0), "look like classes"),
        (np.where(DISCS > 0, 1 + find_boundaries(DISCS, mode="inner"), 0), "look like classes"),
        (np.where(MANY > 0, 1 + MANY % 40, 0), "use most numbers for several separate parts"),
        ((DISCS == 0) * 255, r"look inverted: .* values = \{ 255 = 0 \}"),
        (DISCS + 1, r"look inverted: .* values = \{ 1 = 0 \}"),
        ((discs(radius=10) == 0), "look inverted"),  # dense: the background covers less than half
        (ndimage.gaussian_filter((DISCS > 0) * 255.0, 1).round(), "look like a picture"),
        (ndimage.zoom(DISCS.astype(float), 1.7, order=1).round(), "look like a picture"),
        (ndimage.distance_transform_edt(DISCS > 0).round(), "look like a picture"),
        (np.random.default_rng(0).poisson(20, (64, 64)), "look like a picture"),
    ],
)
def test_what_cannot_be_objects_is_refused(labels: np.ndarray, words: str) -> None:
    """Masks, classes, inverted, resampled and reused numberings are named, refused unless decided, else noted."""
    refusal, _ = judged(labels, labels)
    assert refusal.startswith("2 of 2 label images ")
    assert re.search(words, refusal), refusal
    refusal, notes = judged(labels, labels, number_parts=False)
    assert not refusal and any("2 of 2 label images" in note for note in notes)
    few, notes = judged(labels, DISCS, DISCS)  # most are as they should be
    assert not few and notes[0].startswith("1 of 3 label images")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (find_boundaries(DISCS, mode="inner") * DISCS, "look like outlines"),
        (find_boundaries(DISCS, mode="thick") * 255, "look like outlines"),
        (DISCS * 256, "multiples of 256 only"),
        (np.kron(np.arange(1, 5).reshape(2, 2), np.ones((9, 9))), "have no background"),
        (DISCS * 0, "all 1 label images are empty"),
    ],
)
def test_what_is_odd_is_noted(labels: np.ndarray, words: str) -> None:
    """Outlines, shifted bytes, images without background and empty ones may be meant: they are told."""
    refusal, notes = judged(labels)
    assert not refusal and any(words in note for note in notes), notes


def test_divided_objects_and_specks_are_counted() -> None:
    """An object cut in two stays one object, and one of a pixel an object; both are told with their number."""
    labels = DISCS.copy()
    labels[:, 12] = 0  # through the three discs of the first column
    labels[0, 0] = 10
    refusal, notes = judged(labels, DISCS)
    assert not refusal
    assert (
        notes[0].startswith("3 of 19 objects are in several parts")
        and "in 1 of 2 label images, e.g. l0.tif" in notes[0]
    )
    assert notes[1].startswith("1 of 19 objects is of 2 pixels at most")
    assert judged(DISCS, discs(25), discs(1)) == ("", [])


@pytest.mark.parametrize(
    ("stray", "number", "divided", "repeated"),
    [
        ([(0, 0)], 1, 1, 0),  # one pixel
        ([(0, 0), (1, 1), (0, 71), (71, 0)], 1, 1, 0),  # a speck of two pixels, and two of one
        ([(0, 0), (0, 1), (0, 2)], 1, 1, 1),  # three pixels in a row are no speck
        ([(y, x) for y in range(0, 72, 12) for x in range(0, 72, 24)], 10, 1, 0),  # an object of nothing but specks
    ],
)
def test_objects_with_stray_pixels_are_counted(
    stray: list[tuple[int, int]], number: int, divided: int, repeated: int
) -> None:
    """An object of which a pixel lies apart is in several parts, and the note says so with its number."""
    labels = DISCS.copy()
    labels[tuple(zip(*stray, strict=True))] = number
    actual = measure(labels)
    assert (actual.objects_divided, actual.objects_repeated) == (divided, repeated)
    refusal, [note] = judged(labels, DISCS)
    total = 18 + (number > 9)
    assert not refusal and note.startswith(f"{divided} of {total} objects is in several parts with the same number")
    assert ("of 1 all but one part are specks of 2 pixels at most" in note) == (divided > repeated)


def test_specks_beside_every_object_are_no_numbers_used_twice() -> None:
    """A hundred objects with a stray pixel each are told; points without areas are a mask or classes."""
    labels = discs(100)
    labels[1::24, 1::24] = np.arange(1, 101).reshape(10, 10)
    refusal, [note] = judged(labels)
    assert not refusal and note.startswith("100 of 100 objects are in several parts")
    points = np.zeros((40, 40), np.int32)
    points[::5, ::5] = 255
    assert "look like masks" in judged(points)[0]
    points[::10, ::5] = 1
    assert "look like classes" in judged(points)[0]


@pytest.mark.parametrize("value", [1, 128, 255])
def test_masks_of_which_most_have_one_cell(value: int) -> None:
    """If no image has a second number, one image with several parts shows that all are masks; otherwise it is told."""
    one, several = (DISCS == 5) * value, (DISCS > 0) * value
    refusal, _ = judged(one, one, one, several)
    assert refusal.startswith("1 of 4 label images look like masks")
    assert (
        "and no image has a second value; if each value is an object all the same, set number_parts = false" in refusal
    )
    assert not judged(one, one, one, several, number_parts=False)[0]
    refusal, notes = judged(one, one, DISCS, several)
    assert not refusal and notes[0].startswith("1 of 4 label images look like masks")
    assert judged(one, one) == ("", [])


@pytest.mark.parametrize(
    ("labels", "classes", "words"),
    [
        (DISCS, 30, "look like a numbering of objects"),
        (DISCS == 0, 2, "may be inverted"),
        (ndimage.zoom((DISCS > 0) * 2.0, 1.7, order=1).round(), 3, None),  # two slivers beside each disc at most
        (DISCS > 0, 2, None),
        (np.where(DISCS > 0, 1 + DISCS % 3, 0), 4, None),
    ],
)
def test_classes(labels: np.ndarray, classes: int, words: str | None) -> None:
    """Class layers are never refused for their counts; numberings and inverted masks given as classes are told."""
    refusal, notes = judged(labels, classes=classes)
    assert not refusal
    assert (words is None and len(notes) <= 1) or any(str(words) in note for note in notes)


def test_measures_of_a_small_image() -> None:
    """Values, parts, holes, specks and sizes are those that can be counted by hand; ignored pixels count nowhere."""
    labels = np.zeros((12, 12), np.int32)
    labels[1:7, 1:7] = 7
    labels[2:6, 2:6] = 0  # a hole, ringed one pixel wide
    labels[8:10, 1:6] = 3
    labels[8:10, 8] = 3  # the same value again, a speck of two pixels
    labels[11, 11] = -1
    actual = measure(labels)
    assert (actual.values, actual.lowest, actual.highest) == (2, 3, 7)
    assert (actual.parts, actual.specks, actual.objects_divided, actual.objects_specks) == (2, 1, 1, 0)
    assert actual.objects_repeated == 0
    assert (actual.holed, actual.rings, actual.slivers) == (1, 1, 0)
    assert (actual.smallest_px, actual.median_px, actual.largest_px) == (12, 16, 20)
    assert actual.background == pytest.approx((144 - 33) / 144, abs=1e-6)


def test_parts_are_numbered_as_scikit_image_does() -> None:
    """Connected parts with corners (8 neighbors) are one object, values are never joined, ignored pixels stay."""
    labels = np.random.default_rng(1).integers(-1, 3, (40, 50)).astype(np.int32)
    numbered = number_parts(labels)
    reference = label(np.maximum(labels, 0), connectivity=2)
    np.testing.assert_array_equal(numbered == -1, labels == -1)
    pairs = np.unique(np.stack([numbered[labels > 0], reference[labels > 0]]), axis=1)
    assert pairs.shape[1] == reference.max() == numbered.max()
    first = [int(np.flatnonzero(numbered.ravel() == number)[0]) for number in range(1, 20)]
    assert first == sorted(first)
