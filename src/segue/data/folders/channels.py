"""Names of channels: which are names at all, and the order of an image's channels by those of a dataset."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from segue.errors import SegueError

# counters of programs: "0", "C2", "Channel:0:1", "channel 3", "Ch1-T2", "Image 1"
GENERIC = re.compile(
    r"(channel|chan|chs?|c|image|img|sample|track|wavelength|w|gray|grey)?[\s:_#.-]*\d*([\s:_t-]+\d+)*"
)


def names_in_use(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Returns the names of a file's channels, None if all of them are empty or counters of a program."""
    if names is None or all(GENERIC.fullmatch(name.strip().lower()) for name in names):
        return None
    return tuple(name.strip() for name in names)


def channel_order(
    path: Path, names: Sequence[str] | None, reference: Sequence[str] | None, source: str, *, subset: bool = False
) -> list[int] | None:
    """Returns the indices by which an image's channels come into the order of `reference`, None if they are in it.

    Names are compared without regard to case. If either has no names, channels are taken by their position. Raises
    SegueError naming both, and `source`, where the reference stands, if the names are not the same set; with `subset`
    the image may have further channels, which are left out.
    """
    names, reference = names_in_use(names), names_in_use(reference)
    if names is None or reference is None:
        return None
    keys, expected = [name.casefold() for name in names], [name.strip().casefold() for name in reference]
    if keys == expected:
        return None
    is_match = set(expected) <= set(keys) if subset else set(expected) == set(keys)
    if not is_match or len(set(keys)) < len(keys) or len(set(expected)) < len(expected):
        needs = "these among its channels" if subset else "the same names in any order"
        raise SegueError(
            f"{path}: its channels are named {', '.join(names)}, those of {source} {', '.join(reference)}; an image "
            f"needs {needs}: correct `channels`, or leave the image out."
        )
    return [keys.index(key) for key in expected]


def channels_left_out(names: Sequence[str] | None, order: Sequence[int] | None) -> tuple[str, ...]:
    """Returns a note on the channels of an image that `order`, of `channel_order`, leaves out."""
    names = names_in_use(names)
    absent = [] if names is None or order is None else [name for i, name in enumerate(names) if i not in order]
    return (f"channels left out: {', '.join(absent)}",) if absent else ()
