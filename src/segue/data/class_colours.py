"""The colour of each class, the same in every picture: live blue, dead vermilion, other classes what is left.

Blue and vermilion are told apart with any kind of colour vision. A palette for images is brighter than one for lines on
paper; both begin with a blue and a vermilion.
"""

from __future__ import annotations

from collections.abc import Sequence

KNOWN = {"live": 0, "dead": 1}  # places in a palette
# for thin lines on grey images: blue, vermilion, green, pink, yellow, violet
ON_IMAGES = ((46, 166, 255), (255, 90, 31), (0, 200, 120), (230, 60, 170), (255, 210, 0), (150, 110, 255))


def palette_places(names: Sequence[str]) -> tuple[int, ...]:
    """Returns for each class after the first, the background, its place in a palette; from 6 on a palette repeats.

    >>> palette_places(("background", "cell", "live", "dead", "outline"))
    (2, 0, 1, 3)
    >>> palette_places(("background", "pore", "grain"))
    (0, 1)
    """
    taken = {KNOWN[name] for name in names[1:] if name in KNOWN}
    free = iter([place for place in range(len(names) + len(KNOWN)) if place not in taken])
    return tuple(KNOWN[name] if name in KNOWN else next(free) for name in names[1:])


def colours_on_images(names: Sequence[str]) -> tuple[tuple[int, int, int], ...]:
    """Returns RGB (0 to 255) of each class, black for the first, the background."""
    return ((0, 0, 0), *(ON_IMAGES[place % len(ON_IMAGES)] for place in palette_places(names)))
