"""The file that says what the columns of a table made elsewhere mean.

A row per model, a column per evaluated domain (wide)::

    [domains]
    unit = "nm"

    [stages.pretrain]
    domain = "pretrain_defocus_nm"             # the column that says what was trained on
    values = "pretrain_loss_at_{domain}"       # the columns that hold the metric, one per evaluated domain
    axes   = { "optimizer.lr" = "pretrain_lr" }

A row per model, stage, epoch and evaluated domain (long)::

    epoch  = "epoch"
    reduce = "best"                            # which of a run's epochs counts

    [stages.pretrain]
    rows             = { stage = "pretrain" }  # the rows of the table that are of this stage
    run              = "model"                 # the column that says which rows are of one model
    domain           = "pretrain_dose"
    evaluated_domain = "evaluated_dose"
    values           = "loss"

For a table that is tidy but for the names of its columns, ``[columns]`` gives our name = theirs.
"""

from __future__ import annotations

from typing import Literal

from segue.spec import SpecModel

Level = str | int | float


class ImportedDomains(SpecModel):
    """How domains that are numbers are named: with a unit, and with a plus where `signed`."""

    unit: str = ""
    signed: bool = False


class ImportedPart(SpecModel):
    """A domain of a mixture: the columns with its name, with the metric in it and with its number of images."""

    domain: str
    values: str
    images: str | None = None


class ImportedStage(SpecModel):
    """The columns of a stage, by name. `values` has "{domain}" in it, unless there is `evaluated_domain`.

    A stage trained on mixtures has `parts`; the part without `images` has the rest of `total_images`. `rows` and
    `training_rows` give values of columns: of the stage's rows, and of those with its loss on the training samples.
    """

    domain: str = ""
    values: str = ""
    evaluated_domain: str | None = None
    parts: list[ImportedPart] = []
    total_images: int | None = None
    run: str | None = None
    rows: dict[str, Level] = {}
    training_rows: dict[str, Level] = {}
    axes: dict[str, str] = {}
    parent: str | None = None
    labels: str | None = None
    seed_init: str | None = None
    seed_draw: str | None = None


class ImportedPair(SpecModel):
    """A pair of domains for `segue.study.table.ComparedPair`."""

    source: str
    target: str
    where: list[str] = []
    statistic: Literal["median", "mean"] = "median"


class StatedNumber(SpecModel):
    """Something that a publication states, and how it follows from the table.

    `value` is as printed: a number, to whose last digit the table is rounded, or a level. The `statistic` is over the
    runs of `stage` in their own domain, in all `others`, or in `all`, of those rows that match `where` and `without`.
    With `by`, it is taken per combination of these columns, and `of_groups` of the results.
    """

    statement: str
    place: str
    value: str
    stage: str
    where: list[str] = []
    without: list[str] = []
    tested_on: Literal["own", "others", "all"] = "own"
    statistic: Literal["median", "mean", "sd", "models", "configurations", "domains"] = "median"
    by: list[str] = []
    of_groups: Literal["min", "max", "sd", "level of min", "level of max"] | None = None
    note: str = ""


class ColumnMapping(SpecModel):
    """The meaning of the columns of a table made elsewhere. `floor` is subtracted from a raw loss for loss_adjusted.

    `epoch` is the column that counts epochs; `reduce` names the rule by which several rows of one run, stage and
    domain become one. `compare` and `stated` are for the page.
    """

    title: str = ""
    question: str = ""
    source: str = ""
    metric: str = "loss"
    floor: float | None = None
    split: str = "evaluation"
    label_unit: str = "images"
    epoch: str | None = None
    reduce: Literal["last", "best", "best_of_parent", "mean", "median"] | None = None
    domains: ImportedDomains = ImportedDomains()
    columns: dict[str, str] = {}
    stages: dict[str, ImportedStage] = {}
    compare: list[ImportedPair] = []
    stated: list[StatedNumber] = []
