from __future__ import annotations

import numpy as np
from samples.hostile_labels import hostile_labels
from scipy import ndimage

from segue.labels import ops


def test_holes_are_filled_only_where_one_object_surrounds_them():
    """A hole between two objects, at the border, or too large stays open."""
    labels = hostile_labels()["hollow"]
    filled = ops.fill_holes(labels, max_size_px=1000)
    assert (filled[labels == 5].mean(), filled[31, 6]) == (5, 5)
    assert (filled == 3).sum() == (labels == 3).sum()  # its hole holds another object
    assert np.array_equal(ops.fill_holes(labels, max_size_px=12), labels)
    open_ = np.ones((5, 5), dtype=np.int32)
    open_[0, 2] = open_[2, 2] = 0
    assert ops.fill_holes(open_, max_size_px=9).sum() == 24
    shared = np.array([[1, 1, 1, 1], [1, 0, 2, 2], [1, 1, 1, 1]])
    assert np.array_equal(ops.fill_holes(shared, max_size_px=9), shared)


def test_numbers_follow_first_pixels():
    """Any ids, beyond 32 bits too, become 1 … n in scan order; −1 and 0 stay; small objects go where asked."""
    for labels in hostile_labels().values():
        actual, former = ops.relabel_sequential(labels)
        ids, first = np.unique(labels, return_index=True)
        expected = np.zeros(labels.shape, dtype=np.int32)
        for number, label in enumerate(ids[ids > 0][np.argsort(first[ids > 0])]):
            expected[labels == label] = number + 1
        assert np.array_equal(former, ids[ids > 0][np.argsort(first[ids > 0])]) and actual.dtype == np.int32
        assert np.array_equal(actual, np.where(labels < 0, -1, expected))
        sized = ops.remove_small(labels.clip(min=0), min_size_px=5)
        selection, areas = np.unique(labels[labels > 0], return_counts=True)
        assert np.array_equal(sized > 0, np.isin(labels, selection[areas >= 5]))
        assert len(np.unique(sized[sized > 0])) == (areas >= 5).sum() == sized.max()


def test_bounding_boxes_equal_scipy():
    """Slices of every object are those of `scipy.ndimage.find_objects`."""
    for labels in hostile_labels().values():
        numbers, ids = ops.relabel_sequential(labels)
        boxes = ops.bounding_boxes(numbers, len(ids))
        expected = [(y.start, x.start, y.stop, x.stop) for y, x in ndimage.find_objects(numbers.clip(min=0))]
        assert boxes.tolist() == [list(box) for box in expected]
