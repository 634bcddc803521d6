"""Tools compared on the same images: pooled and mean scores with intervals over images, and paired differences.

Images are resampled by group, n - 1 of n groups with replacement and weighted by n / (n - 1) (McCarthy and Snowden
1985, Vital and Health Statistics 2, 95), all tools by the same draws. An interval is the value plus and minus the
standard deviation of its resamples times the quantile of Student's t distribution with n - 1 degrees of freedom: for
the mean of one value per group that is the interval of the t test. Percentiles of resamples would hold the truth in
73 % of studies with 3 groups and 83 % with 5, these intervals in 92 and 91 % (docs/statistics.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from segue.errors import SegueError
from segue.evaluation.tools import ToolCounts
from segue.reporting.analysis.bootstrap import RESAMPLES, stratum_weights, t_quantile
from segue.reporting.analysis.significance import SIGNIFICANCE, holm
from segue.rng import numpy_generator

FEW_GROUPS = 10  # below, the page says what an interval is worth
MAIN_SCORES = {  # by what is compared, the first is the one that images are ordered by
    "instances": ("ap_mean", "f1_50", "pq", "aji", "boundary_f1", "dice_foreground", "count_error_absolute"),
    "classes": ("dice_mean", "iou_mean", "accuracy"),
}
ERRORS = ("merges_of_100", "splits_of_100", "missed_of_100", "false_of_100")
UNBOUNDED = ("count_error", "count_error_absolute", "count_error_relative", "merges", "splits", "missed", "false")
COUNTS = ("objects_true", "objects_predicted", "merges", "splits", "missed", "false")
LOWER_IS_BETTER = ("count_error_absolute", "count_error_relative", "merges", "splits", "missed", "false", *ERRORS)
WITHOUT_DIRECTION = ("count_error", "objects_true", "objects_predicted")
DIFFERENCE_KEYS = ("score", "tool", "reference")
SAME = "the same in every image"  # the conclusion where two tools have equal scores


@dataclass(frozen=True)
class ToolComparison:
    """Tools compared on the same labeled images.

    images: a row per image and tool with its group and scores. scores: a row per tool and score: `pooled` over all
    images, `image_mean`, the mean over the images where it is defined, each with `_low` and `_high` of its 95 %
    interval (NaN with a single group). differences: a row per score and tool after the first, `reference`: differences
    of both with intervals, `p` and `p_adjusted` (Holm's, over the tools) of the pooled difference, images on which the
    tool is better (`wins`), worse (`losses`) or equal (`ties`), `equivalent_within`: the least margin within which two
    one-sided tests at 5 % find the pooled scores equivalent, and `conclusion`, which is `SAME` for equal scores.
    counts: what was counted, and where the label images are. margin: for equivalence of scores from 0 to 1.
    """

    counts: ToolCounts
    images: pd.DataFrame
    scores: pd.DataFrame
    differences: pd.DataFrame
    margin: float | None

    @property
    def tools(self) -> list[str]:
        return list(self.counts.counts)

    def score_of(self, tool: str, score: str) -> dict[str, Any]:
        """Returns the row of `scores` of a tool and a score."""
        rows = self.scores[(self.scores["tool"] == tool) & (self.scores["score"] == score)]
        return {str(name): value for name, value in rows.to_dict("records")[0].items()}

    def difference_of(self, tool: str, score: str) -> dict[str, Any]:
        """Returns the row of `differences` of a tool after the first and a score."""
        rows = self.differences[(self.differences["tool"] == tool) & (self.differences["score"] == score)]
        return {str(name): value for name, value in rows.to_dict("records")[0].items()}

    @property
    def groups(self) -> int:
        return len(set(self.counts.groups))

    @property
    def main_scores(self) -> tuple[str, ...]:
        return MAIN_SCORES["classes" if self.counts.spec.classes else "instances"]


def compare_tools(counts: ToolCounts, *, margin: float | None = None, resamples: int = RESAMPLES) -> ToolComparison:
    """Returns the scores of all tools with intervals, and the differences of each to the first.

    margin: the largest difference that does not matter, of scores from 0 to 1. Raises SegueError if it is none.
    """
    if margin is not None and not 0 < margin < 1:
        raise SegueError(f"--margin {margin:g}: is no margin; give a number above 0 and below 1.")
    codes, names = pd.factorize(np.array(counts.groups, dtype=object))
    groups = len(names)
    resample_weights = stratum_weights(numpy_generator("compare", "bootstrap"), resamples, np.array([groups]))[:, codes]
    weights = np.concatenate(
        [np.ones((1, len(codes))), resample_weights.astype(float)]
    )  # the first row is the images as they are
    t, t_one_sided = (t_quantile(groups - 1, p) if groups > 1 else np.nan for p in (0.975, 0.95))

    def error(resampled: np.ndarray) -> float:
        values = resampled[1:][np.isfinite(resampled[1:])]
        return float(np.std(values, ddof=1)) if groups > 1 and len(values) > resamples // 2 else float("nan")

    single = {tool: one.scores() for tool, one in counts.counts.items()}
    pooled = {tool: one.weighted(weights).scores() for tool, one in counts.counts.items()}
    first = next(iter(single))
    score_names = list(single[first])
    scores, differences = [], []
    for name in score_names:
        adjusted = []
        for tool in single:
            values = single[tool][name]
            row: dict[str, Any] = {"tool": tool, "score": name}
            for kind, resampled in (("pooled", pooled[tool][name]), ("image_mean", _means(values, weights))):
                half = t * error(resampled)
                ends = _bounded(name, np.array([resampled[0] - half, resampled[0] + half]))
                row |= {kind: resampled[0], f"{kind}_low": ends[0], f"{kind}_high": ends[1]}
            scores.append(row | {"images": int(np.isfinite(values).sum())})
            if tool == first:
                continue
            row = {"score": name, "tool": tool, "reference": first}
            change = values - single[first][name]
            pairs = (("pooled", pooled[tool][name] - pooled[first][name]), ("image_mean", _means(change, weights)))
            for kind, resampled in pairs:
                half = t * error(resampled)
                row |= {kind: resampled[0], f"{kind}_low": resampled[0] - half, f"{kind}_high": resampled[0] + half}
            standard_error = error(pairs[0][1])
            better = -change if name in LOWER_IS_BETTER else change
            has_direction = name not in WITHOUT_DIRECTION
            row |= {
                "p": _p_value(float(pairs[0][1][0]), standard_error, groups - 1),
                "wins": int((better > 0).sum()) if has_direction else 0,
                "losses": int((better < 0).sum()) if has_direction else 0,
                "ties": int((better == 0).sum()) if has_direction else 0,
                "equivalent_within": abs(float(pairs[0][1][0])) + t_one_sided * standard_error,
            }
            adjusted.append(row)
        for row, p in zip(adjusted, holm(np.array([row["p"] for row in adjusted], float)), strict=True):
            values, reference = single[row["tool"]][name], single[first][name]
            is_same = np.array_equal(values, reference, equal_nan=True) and bool(np.isfinite(values).any())
            conclusion = SAME if is_same else _conclusion(row, p, margin)
            differences.append(row | {"p_adjusted": p, "conclusion": conclusion})
    return ToolComparison(
        counts,
        _tidy(counts, single),
        pd.DataFrame(scores),
        pd.DataFrame(differences, columns=None if differences else DIFFERENCE_KEYS),
        margin,
    )


def _means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the mean of the defined values (I,) with each row of weights (R, I), NaN where there is none."""
    defined = np.isfinite(values)
    total = weights @ defined
    return np.divide(weights @ np.where(defined, values, 0), total, out=np.full(len(weights), np.nan), where=total > 0)


def _bounded(name: str, ends: np.ndarray) -> np.ndarray:
    """Returns the ends of an interval within what the score can be: 0 to 1, or for counts from 0."""
    return ends if name == "count_error" else np.clip(ends, 0, 1 if _is_share(name) else np.inf)


def _is_share(name: str) -> bool:
    return name not in (*UNBOUNDED, *COUNTS, *ERRORS)


def _p_value(difference: float, error: float, freedom: int) -> float:
    from scipy.special import stdtr

    if not np.isfinite(error) or not np.isfinite(difference):
        return float("nan")
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * stdtr(freedom, -abs(difference) / error))


def _conclusion(row: dict[str, Any], p_adjusted: float, margin: float | None) -> str:
    """Returns "better", "worse" or "different", with or without "equivalent within the margin", or "undecided"."""
    if not np.isfinite(p_adjusted):
        return ""
    is_higher = row["pooled"] > 0
    words = "better" if is_higher != (row["score"] in LOWER_IS_BETTER) else "worse"
    words = "different" if row["score"] in WITHOUT_DIRECTION else words
    parts = [words] if p_adjusted < SIGNIFICANCE and row["pooled"] != 0 else []
    is_within = margin is not None and _is_share(row["score"]) and row["equivalent_within"] < margin
    parts += ["equivalent within the margin"] if is_within else []
    return ", but ".join(parts) or "undecided"


def _tidy(counts: ToolCounts, single: dict[str, dict[str, np.ndarray]]) -> pd.DataFrame:
    frames = []
    for tool, scores in single.items():
        columns = {"image": counts.images, "group": counts.groups, "tool": tool}
        if counts.used_in_training:
            used = counts.used_in_training.get(tool)
            columns["used_in_training"] = pd.array(used if used is not None else [None] * len(counts.images), "boolean")
        whole = {name: values.astype(int) if name in COUNTS else values for name, values in scores.items()}
        frames.append(pd.DataFrame(columns | whole))
    return pd.concat(frames, ignore_index=True)
