"""What is noticed about images while they are cut: copies of one picture, saturation, black and nearly empty images.

Each micrograph is observed once, as it is decoded (`observe`); the sentences are about all of them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from segue.data.folders.pairing import ImageLabelPair
from segue.data.folders.saturation import saturation
from segue.units import MAX_SIZE_FACTOR, size_range

MIN_VALUES = 4  # an image of fewer different values is a mask, a label image or a dark field
BLANK_SHARE = 0.999  # of the pixels have one value: a dark field, but for hot pixels
SATURATED_SHARE = 1e-3  # from here on saturation is told: more than hot pixels, and the brightest objects are cut off
MIN_CONTRAST = 0.02  # of the median contrast of all images; less is noise, or one value everywhere
BLACK_MEAN = 0.05  # of the median brightness: an exposure 20 times shorter is an error
BLACK_COUNTS = 5  # highest value of an integer image that is black whatever the others are: 2 % of 8 bits


@dataclass(frozen=True)
class Observation:
    """Of one image. picture: hash of its pixels, see `picture_hash`. values: different values, at most MIN_VALUES.

    mean and contrast (standard deviation) are of the brightest channel and of the one with most contrast; highest: the
    highest value, of integers or floats; saturated: share of the pixels of the most saturated channel, at `level`.
    """

    picture: str
    values: int
    mean: float
    contrast: float
    highest: float
    is_integer: bool
    saturated: float
    level: float

    @property
    def record(self) -> dict[str, str | int | float]:
        """As plain data, from which `Observation(**record)` makes it again."""
        return asdict(self)


def observe(image: np.ndarray, intensity: np.ndarray) -> Observation:
    """Returns what is noticed about an image (C, H, W); intensity (C, 2 or more): first mean and standard deviation."""
    most = max((saturation(channel) for channel in image), key=lambda one: one.share)
    mean, contrast = (float(value) for value in intensity[:, :2].max(axis=0))
    return Observation(
        picture=picture_hash(image),
        values=_count_values(image),
        mean=mean,
        contrast=contrast,
        highest=float(image.max()),
        is_integer=image.dtype.kind in "ui",
        saturated=most.share,
        level=most.level,
    )


def _count_values(image: np.ndarray) -> int:
    """Returns the number of different values, MIN_VALUES if there are more."""
    sample = np.unique(image.ravel()[:: max(1, image.size // 1000)])
    return min(MIN_VALUES, len(sample) if len(sample) >= MIN_VALUES else len(np.unique(image)))


def picture_hash(image: np.ndarray) -> str:
    """Returns a hash (hex) of type, shape and pixels of an image (C, H, W), "" for a blank one: no copy of any.

    It is the same for the eight rotations and reflections of an image, by the one whose bytes come first in order.
    Blank: BLANK_SHARE of the pixels of every channel have the channel's lowest or highest value.
    """
    if all(_is_blank(channel) for channel in image):
        return ""
    symmetries = [np.rot90(one, turns, (1, 2)) for one in (image, image[:, :, ::-1]) for turns in range(4)]
    views = [view for view in symmetries if view.shape[1] <= view.shape[2]]
    # the first rows decide but where they are equal, as in an image with a margin
    rows = [view[:, 0].tobytes() for view in views]
    first = min(rows)
    pixels = min(view.tobytes() for view, row in zip(views, rows, strict=True) if row == first)
    digest = hashlib.blake2b(f"{image.dtype.str} {views[0].shape}".encode(), digest_size=16)
    digest.update(pixels)
    return digest.hexdigest()


def _is_blank(channel: np.ndarray) -> bool:
    lowest, highest = channel.min(), channel.max()
    return any(np.count_nonzero(channel == value) >= BLANK_SHARE * channel.size for value in (lowest, highest))


def judge_copies(
    pairs: Sequence[ImageLabelPair], observations: Sequence[Observation], *, refuse: bool
) -> tuple[list[str], list[str]]:
    """Returns a problem for each image of which a copy is in another given part, and notes on all other copies.

    With `refuse` a copy in another group is a problem too. A note is their number with an example.
    """
    first_by_picture: dict[str, ImageLabelPair] = {}
    within: list[tuple[ImageLabelPair, ImageLabelPair]] = []
    across: list[tuple[ImageLabelPair, ImageLabelPair]] = []
    refused: list[tuple[ImageLabelPair, ImageLabelPair]] = []
    for pair, observation in zip(pairs, observations, strict=True):
        if not observation.picture:
            continue
        first = first_by_picture.setdefault(observation.picture, pair)
        if first is not pair:
            is_refused = first.part != pair.part or (refuse and first.group != pair.group)
            copies = refused if is_refused else within if first.group == pair.group else across
            copies.append((first, pair))
    problems = [
        f"{_name(second)}: is the same picture as {_name(first)}, perhaps rotated or reflected, but they are of the "
        f"groups '{second.group}' and '{first.group}', so that one can be in training and one in test; leave one out, "
        "or give both one group and split."
        for first, second in refused
    ]
    notes = [
        f"{len(copies)} of {len(pairs)} images {'is a copy' if len(copies) == 1 else 'are copies'}, perhaps rotated or "
        f"reflected, of an image {where} (e.g. {_name(copies[0][1])} of {_name(copies[0][0])}){consequence}"
        for copies, where, consequence in (
            (within, "of the same group", ""),
            (across, "of another group", ", so that one can be in training and one in test: leave one of the two out"),
        )
        if copies
    ]
    return problems, notes


def _name(pair: ImageLabelPair) -> str:
    return str(pair.image) if pair.page is None else f"{pair.image}, page {pair.page}"


def notes_on_pixel_sizes(sizes_nm: Mapping[str, float | None]) -> list[str]:
    """Returns notes if some sizes are not known, or differ by more than MAX_SIZE_FACTOR; sizes by the image's name."""
    known = [size for size in sizes_nm.values() if size is not None]
    unknown = [name for name, size in sizes_nm.items() if size is None]
    if not known:
        return []
    notes = []
    if unknown:
        of_all = f"{len(unknown)} of {len(sizes_nm)} images (e.g. {unknown[0]})"
        notes.append(
            f"the pixel size of {of_all} is not known, that of the others is {size_range(known)}: give "
            "pixel_size_nm, in a table for each image, or in the specification if all have one"
        )
    if max(known) <= MAX_SIZE_FACTOR * min(known):
        return notes
    counts = Counter(f"{size:.4g}" for size in known)
    listed = [f"{count} of {size} nm" for size, count in sorted(counts.items(), key=lambda item: float(item[0]))]
    listed = listed if len(listed) <= 5 else [*listed[:2], "…", *listed[-2:]]
    listed += [f"{len(unknown)} of unknown size"] if unknown else []
    return [
        *notes,
        f"the images differ in pixel size ({', '.join(listed)}), so that equal objects differ in size: bring them to "
        "one size, or train on one by a condition (pixel_size_nm)",
    ]


def notes_on_images(observations: Mapping[str, Observation]) -> list[str]:
    """Returns a note on each kind of odd image with its number and an example; observations by the image's name."""
    lit = [one for one in observations.values() if not _has_no_counts(one)]
    mean = float(np.median([one.mean for one in lit])) if lit else 0.0
    contrast = float(np.median([one.contrast for one in lit])) if lit else 0.0
    black = {name for name, one in observations.items() if _has_no_counts(one) or 0 <= one.mean < BLACK_MEAN * mean}
    flat = {name for name, one in observations.items() if one.contrast < MIN_CONTRAST * contrast} - black
    usual = f"; usual are {mean:.4g} and {contrast:.3g}" if lit else ""
    kinds = {
        "are nearly black": [
            (name, f"mean {one.mean:.4g}, standard deviation {one.contrast:.3g}{usual}")
            for name, one in observations.items()
            if name in black
        ],
        "are without contrast": [
            (name, f"mean {one.mean:.4g}, standard deviation {one.contrast:.3g}{usual}")
            for name, one in observations.items()
            if name in flat
        ],
        f"have fewer than {MIN_VALUES} different values, as masks or empty fields": [
            (name, f"{one.values}")
            for name, one in observations.items()
            if one.values < MIN_VALUES and name not in black | flat
        ],
        "are saturated, with a pile-up at their highest value": [
            (name, f"{one.saturated:.1%} of the pixels at {one.level:g}")
            for name, one in observations.items()
            if one.saturated >= SATURATED_SHARE
        ],
    }
    return [
        f"{len(odd)} of {len(observations)} images {words} (e.g. {odd[0][0]}: {odd[0][1]})"
        for words, odd in kinds.items()
        if odd
    ]


def _has_no_counts(one: Observation) -> bool:
    return one.is_integer and one.mean >= 0 and one.highest <= BLACK_COUNTS  # signed numbers are no counts
