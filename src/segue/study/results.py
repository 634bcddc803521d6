"""What a study yields for its report: a tidy table, histories, failures, costs and a few example images.

`study/table.py` fills these from finished runs; `report/` draws them. Nothing heavy is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pandas as pd


@dataclass(frozen=True)
class Example:
    """One held-out image with its labels and what several runs predict for it."""

    image: np.ndarray  # (H, W) float, any range
    label: np.ndarray  # (H, W) int; 0 background, -1 ignored
    domain: str
    predictions: dict[str, np.ndarray]  # caption -> (H, W) int, values as in `label`


@dataclass(frozen=True)
class ObjectExample:
    """One held-out micrograph with its objects and those that several runs find in it."""

    image: np.ndarray  # (H, W) float, any range
    label: np.ndarray  # (H, W) int; 0 background, -1 ignored, objects 1 …
    domain: str
    number: int  # which of the domain's held-out micrographs, from 1
    predictions: dict[str, np.ndarray]  # run -> (H, W) int; 0 background, objects 1 …


@dataclass(frozen=True)
class StudyResults:
    """A study as its report needs it. Frames may be empty, and optional columns absent.

    table: a row per (run, evaluated domain, split): study, stage, run, parent (key of the parent run or ""), status,
        the axes of the run's stage and of its ancestors ("<stage>.<dotted key>"), domain (what the run was trained
        on; a mixture reads "a:128+b:384"), seed_init, seed_draw, labels_train, labels_validation, labels (their sum),
        label_unit ("images" or "groups"), evaluated_domain, split, loss, loss_floor, loss_adjusted (loss less its
        floor), accuracy, iou_mean, dice_mean, for each foreground class iou_<class>, dice_<class>,
        precision_<class>, recall_<class>; where objects are scored, the scores of `evaluation.objects.scores`;
        selected_epoch, epochs, precision ("bf16", "fp32"), threads. Where stages differ in `split.by` also split_by
        (words), split_tears (whether groups were torn), apart_from_split (equal for runs that differ in nothing else
        but the seeds), training_groups, validation_groups, evaluated_groups, and of torn groups neighbouring_pairs,
        validation_tiles and validation_tiles_near (`training.drawing.Leak`).
    histories: a row per (run, epoch from 1): run, stage, epoch, lr, train_loss, validation_loss (NaN where none),
        validation_<metric>, with the axes and seeds of the table.
    failures: stage, run, configuration, error (texts).
    counts: configurations, models, stages, finished, failed, pending, evaluations.
    cost: stage, runs, seconds_total, seconds_median, images_per_s, energy_J (NaN where a run's was not
        measured), threads, precision, machine.
    stages: stage -> its own axes, parents first; parents: stage -> the stage it starts from, or None.
    domains: in the order of the study file.
    timings: a row per (run, evaluated domain), apart from the table since times differ from time to time: run,
        evaluated_domain, train_s, decode_s (of an image, the median; NaN where objects are not scored).
    """

    name: str
    title: str
    question: str
    command: str
    spec_text: str
    table: pd.DataFrame
    histories: pd.DataFrame
    failures: pd.DataFrame
    counts: dict[str, int]
    cost: pd.DataFrame
    stages: dict[str, list[str]]
    parents: dict[str, str | None]
    domains: list[str]
    examples: list[Example]
    timings: pd.DataFrame | None = None
    object_examples: list[ObjectExample] = field(default_factory=list)
    films: dict[str, Path] = field(default_factory=dict)  # stage -> the folder of a run that kept a film
