"""Which groups are trained on, validated with and tested: one split, or with few groups three folds.

The order of the groups is by a hash of their names, so that it does not depend on the machine or on the files' order.
Groups that a parent was trained or selected with are trained on, and never validate or test.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from segue import rng
from segue.data.splits import PartName
from segue.errors import SegueError

MIN_GROUPS = 3  # one to train on, one to select by, one to test on
FEW_GROUPS = 12  # below, a quarter for testing is fewer than three groups, whose interval says next to nothing
FOLDS = 3  # the fewest in which training, validation and test are each another third; each costs all trainings once
TEST_SHARE, VALIDATION_SHARE = 0.25, 0.15  # of the groups, in one split
FOLD_VALIDATION_SHARE = 0.2  # of the groups, in a fold and for the last training of all

Parts = Mapping[str, PartName]  # group -> its part
TRAIN: PartName = "train"


def divide(groups: Sequence[str], used: Collection[str] = ()) -> tuple[Parts, ...]:
    """Returns the parts of the groups: of one split, or of each fold, in which every group is tested once, but for
    those that are `used` by a parent.

    Raises SegueError for fewer than three groups that are not.
    """
    trained: dict[str, PartName] = dict.fromkeys(_in_order(used), TRAIN)
    names = _in_order(set(groups) - set(used))
    if len(names) < MIN_GROUPS and used:
        raise SegueError(
            f"a model of --from was trained or selected with the images of {len(trained)} of these "
            f"{len(trained) + len(names)} groups, and fewer than {MIN_GROUPS} are left to hold out; give more images, "
            "or leave the model out."
        )
    if len(names) < MIN_GROUPS:
        raise SegueError(
            f"the labeled images are of {len(names)} group{'s' if len(names) > 1 else ''} ({', '.join(names)}), but a "
            "model is trained on one, selected by another and tested on a third: label images of at least "
            f"{MIN_GROUPS} groups, or let --group tell more apart."
        )
    if len(names) >= FEW_GROUPS:
        tested, validated = round(TEST_SHARE * len(names)), round(VALIDATION_SHARE * len(names))
        return (trained | _parts(names, names[:tested], names[tested : tested + validated]),)
    validated = max(1, round(FOLD_VALIDATION_SHARE * len(names)))
    folds = []
    for fold in range(FOLDS):
        rotated = names[fold:] + names[:fold]
        tested = [name for place, name in enumerate(names) if place % FOLDS == fold]
        rest = [name for name in rotated if name not in tested]
        folds.append(trained | _parts(names, tested, rest[:validated]))
    return tuple(folds)


def without_test(groups: Sequence[str], used: Collection[str] = ()) -> Parts:
    """Returns the parts for a training on all groups, but for those that decode parameters and epochs are chosen by."""
    names = _in_order(set(groups) - set(used))
    validated = names[: max(1, round(FOLD_VALIDATION_SHARE * len(names)))]
    return _parts([*_in_order(used), *names], [], validated)


def _in_order(groups: Collection[str]) -> list[str]:
    return sorted(set(groups), key=lambda name: (rng.derive("fit", name), name))


def _parts(names: Sequence[str], tested: Sequence[str], validated: Sequence[str]) -> dict[str, PartName]:
    return {name: "test" if name in tested else "validation" if name in validated else "train" for name in names}
