"""Overlays: color images are in color, others in gray, outlines on the objects' own border."""

from __future__ import annotations

import numpy as np
import pytest

from segue.data.formats.stack import RGB
from segue.inference.overlay import CERTAIN, MAX_OVERLAY_PX, UNCERTAIN, outlined

COLOR = np.stack([np.full((40, 60), value, np.float32) for value in (210.0, 100.0, 50.0)])
COLOR[:, :5] = 0
COLOR[:, -5:] = 250


def labels_of_two_squares() -> np.ndarray:
    labels = np.zeros((40, 60), np.int32)
    labels[10:20, 10:20], labels[10:20, 30:40] = 1, 2
    return labels


@pytest.mark.parametrize(
    ("channels", "expected"),
    [(RGB, (214, 102, 51)), (("blue", "green", "red"), (122, 122, 122)), (("a", "b", "c"), (122, 122, 122))],
)
def test_red_green_blue_are_in_color(channels: tuple[str, ...], expected: tuple[int, int, int]):
    """Levels from 0 to 250 are stretched alike in all channels; three channels of other names are their mean."""
    picture = outlined(COLOR, np.zeros((40, 60), np.int32), channels=channels, is_uncertain=np.zeros(1, bool))
    assert picture.shape == (40, 60, 3) and picture[25, 50].tolist() == list(expected)


def test_outlines_are_pixels_of_the_object():
    """The border pixels of an object, and no others, are cyan, or orange where it is uncertain."""
    picture = outlined(COLOR, labels_of_two_squares(), channels=RGB, is_uncertain=np.array([False, False, True]))
    for left, color in ((10, CERTAIN), (30, UNCERTAIN)):
        is_outline = (picture == np.array(color)).all(-1)
        expected = np.zeros((40, 60), bool)
        expected[10:20, left : left + 10] = True
        expected[11:19, left + 1 : left + 9] = False
        assert np.array_equal(is_outline, expected)


def test_reduced_in_color():
    """A large color image is reduced channel by channel, values that are missing count as 0."""
    image = np.zeros((3, 30, MAX_OVERLAY_PX + 2), np.float32)
    image[0], image[1, :, ::2] = 100.0, 100.0
    image[2, 0, 0] = np.nan
    picture = outlined(image, np.zeros(image.shape[1:], np.int32), channels=RGB, is_uncertain=np.zeros(1, bool))
    assert picture.shape == (15, MAX_OVERLAY_PX // 2 + 1, 3)
    assert picture[5, 5].tolist() == [255, 127, 0]
