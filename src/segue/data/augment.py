"""The eight rotations and reflections of a square (the dihedral group), applied to images and labels alike.

A code is three bits: 1 flips left and right, 2 flips up and down, 4 transposes first. Code 0 changes nothing; 3 is half
a turn, 6 a quarter turn to the left and 5 one to the right.
"""

from __future__ import annotations

import torch
from torch import Tensor

from segue.errors import SegueError

CODES = 8
FLIP_X, FLIP_Y, TRANSPOSE = 1, 2, 4


def dihedral(images: Tensor, labels: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
    """Returns images (n, C, H, W) and labels (n, H, W), each sample changed by its code (n,) in 0 … 7.

    Memory order and types are kept. Codes on the CPU cost no synchronisation with a device. Raises SegueError when a
    transposing code (4 … 7) meets tiles that are not square.
    """
    height, width = labels.shape[-2:]
    kinds = code.tolist()
    if height != width and any(kind & TRANSPOSE for kind in kinds):
        raise SegueError(
            f"the tiles are {height} × {width} px, but quarter turns need square tiles; "
            "prepare square tiles, or choose an augmentation without turns."
        )
    if not any(kinds):
        return images, labels
    new_images, new_labels = torch.empty_like(images), torch.empty_like(labels)
    for kind in sorted(set(kinds)):
        members = [index for index, found in enumerate(kinds) if found == kind]
        place = torch.tensor(members).to(images.device, non_blocking=True)
        new_images[place] = turned(images[place], kind)
        new_labels[place] = turned(labels[place], kind)
    return new_images, new_labels


def turned(array: Tensor, code: int) -> Tensor:
    """Returns (…, H, W) changed by one code; for codes 4 … 7 it becomes (…, W, H)."""
    if code & TRANSPOSE:
        array = array.transpose(-2, -1)
    axes = [axis for axis, bit in ((-1, FLIP_X), (-2, FLIP_Y)) if code & bit]
    return array.flip(axes) if axes else array


def inverse(code: int) -> int:
    """Returns the code that undoes `code`: itself, but for the quarter turns, which undo each other."""
    return {5: 6, 6: 5}.get(code, code)


def compose(first: int, then: int) -> int:
    """Returns the one code that equals applying `first`, then `then`."""
    flips = first & (FLIP_X | FLIP_Y)
    if then & TRANSPOSE:
        flips = (flips & FLIP_X) << 1 | (flips & FLIP_Y) >> 1
    return ((first ^ then) & TRANSPOSE) | (flips ^ (then & (FLIP_X | FLIP_Y)))
