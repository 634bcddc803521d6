"""Parts without a class are told before the first step, and refused where nothing can be learned or selected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segue.data.spec import Layer
from segue.errors import SegueError
from segue.training.inputs.class_presence import Presence, check
from segue.training.spec import StageSpec

CLASSES = Layer("types", "classes", ("background", "live", "dead"))
OBJECTS = Layer("cells", "instances", ("background", "cell"))


def stage(**settings: object) -> StageSpec:
    values = {"data": [{"dataset": "d.h5"}], "network": {"name": "unet"}, "target": {"name": "classes"}, **settings}
    return StageSpec.model_validate(values)


def told(*parts: Presence, **settings: object) -> list[str]:
    lines: list[str] = []
    check(stage(**settings), parts, context="run", log=lines.append)
    return lines


def presence(part: str, counts: list[int], layer: Layer = CLASSES) -> Presence:
    return Presence(part, layer, np.array(counts), 7)  # type: ignore[arg-type]


def test_every_part_is_told_with_class_and_counts():
    """A class that a part lacks is named with the counts of the others; complete parts say nothing."""
    assert told(*(presence(part, [50, 3, 2]) for part in ("train", "validation", "test"))) == []
    lines = told(presence("train", [50, 3, 0]), presence("validation", [50, 0, 4]), presence("test", [9, 0, 0]))
    assert lines[0] == (
        "WARNING: the train part has no pixel of class 'dead' (7 samples: background 50, live 3, dead 0); "
        "it cannot be learned"
    )
    assert "the validation part has no pixel of class 'live'" in lines[1] and "is not scored there" in lines[1]
    assert "the test part has no pixel of class 'live', 'dead'" in lines[2]
    (line,) = told(presence("validation", [100, 0], OBJECTS))
    assert "the validation part has no object of class 'cell' (7 samples)" in line


@pytest.mark.parametrize(
    ("counts", "layer"), [([80, 0, 0], CLASSES), ([0, 5, 0], CLASSES), ([0, 0, 0], CLASSES), ([9, 0], OBJECTS)]
)
def test_training_on_one_class_is_refused(counts: list[int], layer: Layer):
    """Where all labels are of one class, or none are, nothing can be learned."""
    with pytest.raises(SegueError, match=r"run: the train part has no .*nothing can be learned"):
        told(presence("train", counts, layer))


@pytest.mark.parametrize(
    ("monitor", "counts"),
    [
        ("validation_dice_dead", [50, 3, 0]),
        ("validation_auprc_live", [50, 0, 3]),
        ("validation_iou_mean", [50, 0, 0]),
        ("validation_loss", [0, 0, 0]),
    ],
)
def test_what_selects_must_be_defined(monitor: str, counts: list[int]):
    """An epoch is not selected by a score of what validation lacks; another monitor is only warned of."""
    with pytest.raises(SegueError, match=rf"{monitor} is undefined there .*monitor another score"):
        told(presence("validation", counts), monitor=monitor)
    stopping = {"monitor": monitor, "patience": 3}
    with pytest.raises(SegueError, match="undefined"):
        told(presence("validation", counts), early_stopping=stopping, select="last")
    assert len(told(presence("validation", counts), monitor="train_loss")) == 1


def test_parts_of_a_dataset(discs: Path, tmp_path: Path):
    """What is measured of a dataset is what its labels hold, whole parts and parts without any object alike."""
    from segue.data.dataset import Dataset
    from segue.training.inputs.class_presence import measure
    from segue.training.spec import Inputs

    with Dataset(discs) as dataset:
        counts = dataset.class_counts("discs")
        parts = dataset.split(stage().split)
    measured = {each.part: each for each in measure(stage(), Inputs({"d.h5": (discs, "key")}, None))}
    for index, part in enumerate(("train", "validation", "test")):
        if (parts == index).any():
            assert measured[part].counts.tolist() == counts[parts == index].sum(0).tolist()  # type: ignore[index]
            assert measured[part].samples == (parts == index).sum()  # type: ignore[index]
