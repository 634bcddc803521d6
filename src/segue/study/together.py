"""Which trainings of a study are run side by side in one pass over their data, because that is faster.

Models side by side share the reading of the data and its augmentation, which pays where these are a notable part of a
step: where the data are streamed from disk, and where images are resampled or their intensities changed. Each becomes
what it would have become alone, so that this is no part of a result.
"""

from __future__ import annotations

from collections.abc import Sequence

from segue.data.augmentation import AugmentSpec
from segue.study.work import Work, bytes_of
from segue.training.stage import shared_pass

MOST = 4  # models in one process: more would leave other workers without any, and gain little


def groups(works: Sequence[Work], *, workers: int, most: int | None) -> list[tuple[Work, ...]]:
    """Returns the works that are ready, in their order, those together that are to be trained side by side.

    most: how many at most, 1 for none; by default up to `MOST` where it pays, and never so many that a worker would
    be left without work.
    """
    alike: dict[str, list[Work]] = {}
    for work in works:
        alike.setdefault(shared_pass(work.spec) + repr(sorted(map(str, work.datasets.values()))), []).append(work)
    found: dict[str, tuple[Work, ...]] = {}
    for members in alike.values():
        size = most if most is not None else min(MOST, -(-len(works) // workers)) if pays(members[0]) else 1
        size = max(1, min(size, -(-len(members) // workers)))
        for start in range(0, len(members), size):
            found[members[start].key] = tuple(members[start : start + size])
    return [found[work.key] for work in works if work.key in found]


def pays(work: Work) -> bool:
    """Returns whether reading and augmentation are a notable part of a training."""
    changes = work.spec.augment
    if isinstance(changes, AugmentSpec) and (changes.resamples or changes.changes_intensity):
        return True
    return is_streamed(work)


def is_streamed(work: Work) -> bool:
    """Returns whether the samples of a training are probably more than its memory holds."""
    from segue.training.holding import memory_limit

    limit = memory_limit(work.spec)
    return limit is not None and bytes_of(work) > limit
