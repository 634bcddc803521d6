"""The score that decode parameters are searched for. Cheap to import: no torch."""

from __future__ import annotations

from typing import Literal

TuningMetric = Literal[
    "ap_mean", "ap50", "ap75", "f1_50", "pq", "aji", "boundary_f1", "count_error_absolute",
    "ap_mean_image_mean", "ap50_image_mean", "ap75_image_mean", "f1_50_image_mean", "pq_image_mean",
]  # fmt: skip
"""Names of `segue.evaluation.objects.scores`. The higher the better, but for `count_error_absolute`: the number of
objects too many or too few, per image."""

LOWER_IS_BETTER = frozenset({"count_error_absolute"})
