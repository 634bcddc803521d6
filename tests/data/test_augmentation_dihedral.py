"""The eight operations form the dihedral group, and images move with their labels."""

from __future__ import annotations

import pytest
import torch

from segue.data.augmentation import N_DIHEDRAL, apply_dihedral, compose, dihedral, inverse
from segue.errors import SegueError

ALL = range(N_DIHEDRAL)


@pytest.fixture
def square() -> torch.Tensor:
    return torch.arange(25).reshape(5, 5)


def test_the_operations_are_a_group(square: torch.Tensor) -> None:
    """Eight different results; each pair composes to the code that `compose` names; each has its inverse."""
    results = {tuple(apply_dihedral(square, code).flatten().tolist()) for code in ALL}
    assert len(results) == N_DIHEDRAL
    for first in ALL:
        torch.testing.assert_close(apply_dihedral(apply_dihedral(square, first), inverse(first)), square)
        assert compose(first, inverse(first)) == 0
        for then in ALL:
            torch.testing.assert_close(
                apply_dihedral(apply_dihedral(square, first), then), apply_dihedral(square, compose(first, then))
            )


def test_quarter_turns_are_torch_rotations(square: torch.Tensor) -> None:
    """Codes 6, 3 and 5 are the rotations of torch.rot90."""
    for code, quarters in [(6, 1), (3, 2), (5, 3)]:
        torch.testing.assert_close(apply_dihedral(square, code), torch.rot90(square, quarters))


@pytest.mark.parametrize("channels", [1, 3])
def test_images_and_labels_move_together(channels: int) -> None:
    """In a mixed batch each sample is changed by its own code, and labels made from images stay so."""
    images = torch.randn(20, channels, 6, 6).contiguous(memory_format=torch.channels_last)
    labels = (images[:, 0] > 0).long()
    codes = torch.arange(20) % N_DIHEDRAL
    new_images, new_labels = dihedral(images, labels, codes)
    torch.testing.assert_close(new_labels, (new_images[:, 0] > 0).long())
    assert new_images.is_contiguous(memory_format=torch.channels_last)
    assert (new_images.dtype, new_labels.dtype) == (images.dtype, labels.dtype)
    for index, code in enumerate(codes.tolist()):
        torch.testing.assert_close(new_images[index], apply_dihedral(images[index], code))
    back = torch.tensor([inverse(code) for code in codes.tolist()])
    for before, after in zip((images, labels), dihedral(new_images, new_labels, back), strict=True):
        torch.testing.assert_close(after, before)


def test_oblong_tiles_may_only_be_flipped() -> None:
    """Flips work on any tile; quarter turns of an oblong one are refused with both lengths."""
    images, labels = torch.randn(2, 1, 4, 6), torch.zeros(2, 4, 6, dtype=torch.long)
    torch.testing.assert_close(dihedral(images, labels, torch.tensor([1, 2]))[0][0], images[0].flip(-1))
    with pytest.raises(SegueError, match="4 × 6 px, but quarter turns need square tiles"):
        dihedral(images, labels, torch.tensor([0, 4]))
