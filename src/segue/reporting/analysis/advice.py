"""Advice for a target domain: which source, rates and frozen part, what loss to expect, and how good such advice is.

The mean over repeats y of a setting c in a target domain t, with a given number of labels, is modeled as

    y[t, c] = a[t] + m[c] + b x[t, c] + g[t, c] + noise

where a is how hard the domain is, m the effect of the setting, x the value before the transfer, of the networks that c
starts from, in t (where the table has it), and g how much the setting suits this domain. Losses enter by their
logarithm, so that effects are ratios. What is estimated from little is pulled to what is common: g to 0, and m to the
sum of the effects of its factors, each by the factor variance / (variance + error variance), with the variance
estimated from all of them: empirical Bayes (Efron and Morris 1973, Journal of the American Statistical Association 68,
117; Morris 1983, the same 78, 47). A domain without runs has g = 0, and a is predicted from x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from segue.errors import SegueError
from segue.evaluation.learning_curve import forecast as expected_errors
from segue.reporting.analysis.bootstrap import t_quantile
from segue.reporting.analysis.choices import additive_effects, components, over_domains, settings_everywhere
from segue.reporting.analysis.comparison import Comparison
from segue.reporting.analysis.ranking import choice_axes, setting_label, setting_note
from segue.reporting.analysis.result import Analysis
from segue.reporting.formatting import (
    axis_label,
    format_number,
    format_percent,
    level_label,
    natural_order,
    quantity,
)
from segue.spec import unknown

MIN_DOMAINS = 3  # from which effects of settings are learned, besides the one left out


@dataclass(frozen=True)
class Records:
    """The runs of a transfer as the model takes them.

    table: a row per target `domain`, `labels` (0 where the table has none) and `choice`, with `y` and `loss`, the means
    over repeats of the scaled and the plain loss, `runs`, `within`, the sum of squares of y within the cell, and
    `source`. choices: a row per choice, its axes and its `source`. before: (choice, domain) -> scaled loss before the
    transfer, NaN where unknown. sign: 1 where the metric is lower-is-better, else -1; is_log: how y is scaled.
    """

    table: pd.DataFrame
    choices: pd.DataFrame
    axes: list[str]
    before: pd.DataFrame
    sign: float
    is_log: bool

    def label(self, choice: int) -> str:
        return setting_label({axis: self.choices.at[choice, axis] for axis in self.axes})

    def metric_value(self, y: Any) -> Any:
        """Returns scaled losses as values of the metric."""
        return self.sign * (np.exp(y) if self.is_log else y)


@dataclass(frozen=True)
class Forecast:
    """For each choice of `y`'s index: the scaled loss to expect in one domain, its standard error, and a t quantile."""

    y: pd.Series
    error: pd.Series
    quantile: float


def shrink(effects: np.ndarray, variances: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns effects (n,) pulled to 0, their posterior variances (n,), and the variance between effects.

    variances: (n,), of the errors of estimation. The variance between effects is the mean of their squares less the
    mean error variance, at least 0 (moments, as in Morris 1983); an effect keeps the share variance / (variance +
    error variance) of itself, and has that share of its error variance left.
    """
    between = max(0.0, float(np.mean(effects**2) - np.mean(variances))) if effects.size else 0.0
    total = between + variances
    weights = np.divide(between, total, out=np.zeros_like(total), where=total > 0)
    return weights * effects, weights * variances, between


def records(comparison: Comparison, stage: str) -> Records | None:
    """Returns the runs of `stage` for the model; None where there are not two choices or no finite value."""
    axes = choice_axes(comparison, stage)
    frame = comparison.stage_runs(stage)
    frame = frame[np.isfinite(frame["value"])]
    if not axes or frame.empty:
        return None
    sign = 1.0 if comparison.metric.lower_is_better else -1.0
    is_log = bool((sign * frame["value"] > 0).all())

    def scaled(values: pd.Series) -> pd.Series:
        return np.log(sign * values) if is_log else sign * values

    choice = frame.groupby(axes, dropna=False, sort=False).ngroup()
    labels = frame["labels"].fillna(0.0) if "labels" in frame.columns else 0.0
    frame = frame.assign(choice=choice, labels=labels, y=scaled(frame["value"]), loss=sign * frame["value"])
    grouped = frame.groupby(["domain", "labels", "choice"])
    table = grouped.agg(
        y=("y", "mean"), loss=("loss", "mean"), runs=("y", "size"), source=("root_domain", "first"),
        within=("y", "var"),
    ).reset_index()  # fmt: skip
    table["within"] = table["within"].fillna(0.0) * (table["runs"] - 1)
    choices = frame.drop_duplicates("choice").set_index("choice").sort_index()[[*axes, "root_domain"]]
    choices = choices.rename(columns={"root_domain": "source"})
    if len(choices) < 2:
        return None
    before = _before(comparison, stage, choices, [a for a in axes if not a.startswith(f"{stage}.")])
    positive = (sign * before > 0) | before.isna()
    before = before.where(positive).apply(scaled) if is_log else sign * before
    return Records(table, choices, axes, before, sign, is_log)


def _before(comparison: Comparison, stage: str, choices: pd.DataFrame, inherited: list[str]) -> pd.DataFrame:
    """Returns (choice, evaluated domain) -> the mean value of the parents that a choice starts from."""
    parent = comparison.results.parents.get(stage)
    rows = comparison.rows[comparison.rows["stage"] == parent] if parent else comparison.rows[:0]
    rows = rows[np.isfinite(rows["value"])]
    keys = [axis for axis in inherited if axis in rows.columns]
    if rows.empty or keys != inherited:
        return pd.DataFrame(index=choices.index)
    if not keys:
        means = rows.groupby("evaluated_domain")["value"].mean()
        return pd.DataFrame(dict(means.items()), index=choices.index)
    means = rows.groupby([*keys, "evaluated_domain"], dropna=False)["value"].mean().unstack()
    return choices[keys].merge(means.reset_index(), on=keys, how="left").set_axis(choices.index).drop(columns=keys)


def forecast(data: Records, table: pd.DataFrame, domain: str, *, with_before: bool = True) -> Forecast:
    """Returns what to expect in `domain` from every choice, by a fit to the rows of `table`, all of one label number.

    Choices that start from `domain` itself, or are not in `table`, are left out. with_before: whether values before the
    transfer are used; they are only where all are known. Raises SegueError for fewer than two target domains.
    """
    x = _known_before(data, table, domain) if with_before else None
    fit = _fit(data, table, x)
    index = fit.settings.index
    usable = data.choices["source"].loc[index].to_numpy() != domain
    if x is not None:
        usable &= np.isfinite(data.before[domain].loc[index].to_numpy(dtype=float))
    choices = index[usable]
    places = np.flatnonzero(usable)
    covariate = data.before.loc[choices, domain].to_numpy(dtype=float) if x is not None else np.zeros(len(choices))
    y = fit.settings.to_numpy()[places] + fit.slope * covariate
    variance = fit.setting_variances[places]
    if domain in fit.domains.index:
        of_domain = fit.suits[table["domain"] == domain].set_index("choice").reindex(choices)
        y = y + fit.domains[domain] + of_domain["suit"].fillna(0.0).to_numpy()
        variance = variance + of_domain["variance"].fillna(fit.between).to_numpy()
        variance = variance + fit.residual / of_domain["suit"].count()
        freedom = fit.freedom
    else:
        y = y + fit.level + fit.level_slope * covariate.mean()
        variance = variance + fit.between + fit.level_variance
        freedom = fit.level_freedom
    return Forecast(pd.Series(y, choices), pd.Series(np.sqrt(variance), choices), t_quantile(max(freedom, 1)))


def _known_before(data: Records, table: pd.DataFrame, domain: str) -> np.ndarray | None:
    """Returns (rows,) the scaled loss before the transfer; None where it is unknown for a row or for `domain`."""
    if domain not in data.before.columns or not set(table["domain"]) <= set(data.before.columns):
        return None
    columns = data.before.columns.get_indexer(pd.Index(table["domain"]))
    values = data.before.to_numpy(dtype=float)[data.before.index.get_indexer(pd.Index(table["choice"])), columns]
    is_known = np.isfinite(values).all() and np.ptp(values) > 0
    return values if is_known and data.before[domain].notna().any() else None


@dataclass(frozen=True)
class _Fit:
    domains: pd.Series  # a
    settings: pd.Series  # m, shrunken
    setting_variances: np.ndarray
    slope: float  # b
    suits: pd.DataFrame  # a row per row of the table: choice, suit (g, shrunken) and its variance
    between: float  # the variance of g
    residual: float  # the variance about the additive fit
    freedom: int
    level: float  # a of a domain without runs, at x = 0
    level_slope: float
    level_variance: float
    level_freedom: int


def _fit(data: Records, table: pd.DataFrame, x: np.ndarray | None) -> _Fit:
    domain_codes, domains = pd.factorize(table["domain"], sort=True)
    choice_codes, choices = pd.factorize(table["choice"], sort=True)
    if components(domain_codes, choice_codes)[0].any():
        raise SegueError(
            "advise: some target domains share no setting with the others, so that settings cannot be compared; run the"
            " same settings in several domains."
        )
    if len(domains) < 2:
        raise SegueError(
            "advise: the table has one target domain only, from which nothing is learned for another; add domains."
        )
    y = table["y"].to_numpy(dtype=float)
    # the two-way fit, and the slope of x within domains and settings
    of_domains, of_settings, residuals = _two_way_fit(table)
    slope, shifted = 0.0, y
    if x is not None:
        domains_of_x, settings_of_x, residuals_of_x = _two_way_fit(table.assign(y=x))
        squares = float(residuals_of_x @ residuals_of_x)
        slope = float(residuals_of_x @ residuals / squares) if squares > 1e-12 else 0.0
        of_domains, of_settings = of_domains - slope * domains_of_x, of_settings - slope * settings_of_x
        residuals, shifted = residuals - slope * residuals_of_x, y - slope * x
    freedom = max(len(table) - len(domains) - len(choices) + 1 - (x is not None), 1)
    residual = float(residuals @ residuals) / freedom
    # how much of it is noise of the repeats
    repeats = int((table["runs"] - 1).sum())
    noise = float(table["within"].sum()) / repeats if repeats else 0.0
    errors = noise / table["runs"].to_numpy(dtype=float)
    # settings are pulled to the sum of their factors' effects
    counts = np.bincount(choice_codes)
    variances = residual / counts
    main = _main_effects(data.choices.loc[choices, data.axes], of_settings.to_numpy())
    pooled, left, _ = shrink(of_settings.to_numpy() - main, variances)
    settings = main + pooled
    main_variance = residual / len(table) * np.linalg.matrix_rank(_indicators(data.choices.loc[choices, data.axes]))
    # what suits a domain is pulled to nothing
    gaps = shifted - of_domains.to_numpy()[domain_codes] - settings[choice_codes]
    suits, suit_left, between = shrink(gaps, errors)
    of_rows = pd.DataFrame({"choice": table["choice"], "suit": suits, "variance": suit_left})
    # the level of a domain without runs
    level, level_slope, level_variance, level_freedom = _levels(of_domains, x, domain_codes)
    return _Fit(
        of_domains, pd.Series(settings, choices), left + main_variance, slope, of_rows, between, residual, freedom,
        level, level_slope, level_variance, level_freedom,
    )  # fmt: skip


def _two_way_fit(table: pd.DataFrame) -> tuple[pd.Series, pd.Series, np.ndarray]:
    """Returns the effects of domains and of choices on `y`, and the residuals (rows,)."""
    of_domains, of_settings = additive_effects(table, "domain", "choice")
    residuals = table["y"] - table["domain"].map(of_domains) - table["choice"].map(of_settings)
    return of_domains, of_settings, residuals.to_numpy(dtype=float)


def _indicators(levels: pd.DataFrame) -> np.ndarray:
    """Returns (choices, p) indicators of the levels of every axis, with a constant."""
    blocks = [np.ones((len(levels), 1))]
    for axis in levels.columns:
        codes = pd.factorize(levels[axis], use_na_sentinel=False)[0]
        blocks.append((codes[:, None] == np.arange(1, codes.max() + 1)).astype(float))
    return np.concatenate(blocks, axis=1)


def _main_effects(levels: pd.DataFrame, effects: np.ndarray) -> np.ndarray:
    design = _indicators(levels)
    return design @ np.linalg.lstsq(design, effects, rcond=None)[0]


def _levels(of_domains: pd.Series, x: np.ndarray | None, codes: np.ndarray) -> tuple[float, float, float, int]:
    """Returns intercept and slope of the domains' levels on their mean x, the variance of a prediction, and freedom."""
    levels, count = of_domains.to_numpy(), len(of_domains)
    if x is None or count < 4:
        variance = float(np.var(levels, ddof=1)) * (1 + 1 / count) if count > 1 else 0.0
        return float(levels.mean()), 0.0, variance, count - 1
    means = np.bincount(codes, weights=x) / np.bincount(codes)
    slope, level = np.polyfit(means, levels, 1)
    variance = float(((levels - level - slope * means) ** 2).sum()) / (count - 2) * (1 + 2 / count)
    return float(level), float(slope), variance, count - 2


# ---- advice


@dataclass(frozen=True)
class Advice:
    """settings: the choices, best first, with their expected value; rules: what simpler rules would lose; judged: both
    in domains left out; labels: what more labels are expected to give, None unless the target domain has runs of the
    advised setting with two numbers of them. `choice` are the settings advised, by axis.
    """

    choice: dict[str, Any]
    settings: Analysis
    rules: Analysis
    judged: Analysis | None
    labels: Analysis | None


def advise(comparison: Comparison, stage: str, target: str | None, labels: float | None) -> Advice:
    """Returns the advice for transferring to `target` with `labels` labels, training and validation together.

    target: a domain of the table, with runs or only tested on, or None for one that the table does not have. labels:
    between the smallest and largest number in the table; the forecast is interpolated in the logarithm of the number.
    None if the table has a single number. Raises SegueError for others, or if there is nothing to choose.
    """
    data = records(comparison, stage)
    if data is None:
        raise SegueError(f"advise: stage {stage} has a single setting, or no finished run; there is nothing to choose.")
    target = None if target is None else _find_domain(target, comparison.results.domains)
    name = target if target is not None else ""
    parts = _label_weights(sorted(data.table["labels"].unique()), labels)
    forecasts = [(weight, forecast(data, _at(data.table, n), name)) for n, weight in parts.items()]
    shared = set.intersection(*(set(f.y.index) for _, f in forecasts))
    index = sorted(shared)
    y, variance = pd.Series(0.0, index), pd.Series(0.0, index)
    for weight, one in forecasts:
        y, variance = y + weight * one.y.loc[index], variance + weight**2 * one.error.loc[index] ** 2
    error = variance.map(np.sqrt)
    quantile = max(f.quantile for _, f in forecasts)
    order = y.sort_values().index
    metric = comparison.metric
    expected = {c: float(data.metric_value(y[c])) for c in order}
    rows = []
    for c in order:
        ends = sorted(float(data.metric_value(y[c] + s * quantile * error[c])) for s in (-1, 1))
        rows.append(
            {**{axis: level_label(data.choices.at[c, axis]) for axis in data.axes}, "expected": expected[c],
             "expected_low": ends[0], "expected_high": ends[1], "lost": data.sign * (expected[c] - expected[order[0]])}
        )  # fmt: skip
    where = f"to {target}" if target else "to a domain that the table does not have"
    amount = f" with {level_label(labels)} labeled {comparison.label_unit}" if labels is not None else ""
    uses_before = all(_known_before(data, _at(data.table, n), name) is not None for n in parts)
    notes = [
        f"Expected {metric.label} in the target domain; in brackets: 95 % interval of the mean over seeds.",
        "Values of the pretrained networks in the target domain before transfer are used."
        if uses_before
        else "Values of pretrained networks in the target domain are not known, and not used.",
    ]
    if target in set(data.table["domain"]):
        notes.append("The target domain's own runs are used, pooled partially with those of the other domains.")
    settings = Analysis(f"Settings for a transfer {where}{amount}, best first", pd.DataFrame(rows), tuple(notes))
    best = order[0]
    return Advice(
        {axis: data.choices.at[best, axis] for axis in data.axes},
        settings,
        _simple_rules(data, expected, metric.label),
        judge(comparison, stage),
        _more_labels(comparison, stage, data, best, target, labels),
    )


def _more_labels(
    comparison: Comparison, stage: str, data: Records, choice: int, target: str | None, labels: float | None
) -> Analysis | None:
    """Returns the values of the advised setting in the target domain by number of labels, and what more would give."""
    frame = comparison.stage_runs(stage)
    is_advised = (frame[data.axes] == data.choices.loc[choice, data.axes].to_numpy()).all(axis=1)
    frame = frame[is_advised & (frame["domain"] == target) & np.isfinite(frame["value"])]
    metric = comparison.metric
    errors = frame["value"] if metric.lower_is_better else 1 - frame["value"]
    if "labels" not in frame.columns or frame["labels"].nunique() < 2 or (errors < 0).any():
        return None
    most = int(frame["labels"].max())
    base = most if labels is None else int(labels)
    counts = [*sorted(map(int, frame["labels"].unique())), 2 * most, 4 * most]
    rows = []
    for one in expected_errors(frame["labels"].tolist(), errors.tolist(), counts, base=base):
        known = frame.loc[frame["labels"] == one.labels, "value"]
        ends = (one.low, one.high) if metric.lower_is_better else (1 - one.high, 1 - one.low)
        rows.append({
            "labels": one.labels, "trainings": len(known), "median": float(known.median()) if len(known) else np.nan,
            "expected": one.error if metric.lower_is_better else 1 - one.error,
            "expected_low": ends[0], "expected_high": ends[1],
            "gain": one.gain if one.labels > base else np.nan,
            "gain_low": one.gain_low if one.labels > base else np.nan,
            "gain_high": one.gain_high if one.labels > base else np.nan,
        })  # fmt: skip
    notes = (
        f"{data.label(choice)}, in {target}: {metric.label} of its trainings, their median, and what a curve "
        "a + g n^−c through them expects of one more training, with its 95 % interval.",
        f"Gain: expected, over {base:,} {comparison.label_unit}, positive for what is better, with the interval of the "
        "curve.",
    )
    return Analysis(f"More labeled {comparison.label_unit}", pd.DataFrame(rows), notes)


def _at(table: pd.DataFrame, labels: float) -> pd.DataFrame:
    return table[table["labels"] == labels]


def _find_domain(text: str, domains: Sequence[str]) -> str:
    """Returns the domain of this name, or the only one with this number: "75" and "75 e/A2" are "75 e/Å²"."""
    if text in domains:
        return text
    number, unit = quantity(text) or (None, "")
    known = {name: quantity(name) or (None, "") for name in domains}
    same = [name for name, (other, its_unit) in known.items() if number == other is not None and unit in ("", its_unit)]
    if len(same) == 1:
        return same[0]
    known_names = unknown(text, natural_order(domains), "domain", in_order=True)
    raise SegueError(f"advise --target: {known_names}; leave it out for a new one.")


def _label_weights(present: list[float], labels: float | None) -> dict[float, float]:
    """Returns the numbers of labels between which to interpolate, with their weights."""
    if labels is None:
        if len(present) > 1:
            texts = ", ".join(map(level_label, present))
            raise SegueError(f"advise: the table has {texts} labels; give the number that you have with --labels.")
        return {present[0]: 1.0}
    if present == [0.0]:
        raise SegueError(
            "advise --labels: the table does not say with how many labels its runs were trained; leave it out."
        )
    if not present[0] <= labels <= present[-1]:
        span = (
            level_label(present[0]) if len(present) == 1 else f"{level_label(present[0])} to {level_label(present[-1])}"
        )
        raise SegueError(
            f"advise --labels: found {level_label(labels)}; the table has {span}, outside of which nothing is known."
        )
    if labels in present:
        return {labels: 1.0}
    below, above = max(n for n in present if n < labels), min(n for n in present if n > labels)
    share = float((np.log(labels) - np.log(below)) / (np.log(above) - np.log(below)))
    return {below: 1 - share, above: share}


def _simple_rules(data: Records, expected: dict[int, float], label: str) -> Analysis:
    """Returns what simple rules would lose against the advice, by the forecast."""
    best = min(data.sign * value for value in expected.values())
    losses = pd.Series({c: data.sign * value for c, value in expected.items()})
    rules: dict[str, list[int]] = {}
    for everywhere in [choice for choice in _everywhere(data.table) if choice in expected][:1]:
        rules[f"one setting everywhere: {data.label(everywhere)}"] = [everywhere]
    for axis in data.axes:
        if axis.endswith(".freeze") and (data.choices[axis] == "none").any():
            rules[f"{axis_label(axis)} none, the rest at random"] = [
                c for c in expected if data.choices.at[c, axis] == "none"
            ]
    rules["a random setting"] = list(expected)
    rows = [
        {"rule": name, "settings": len(choices), "expected": data.sign * float(losses[choices].mean()),
         "lost": float(losses[choices].mean()) - best, "lost_share": float(losses[choices].mean()) / best - 1
         if data.is_log else float("nan")}
        for name, choices in rules.items() if choices
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    return Analysis(
        "What simpler rules would lose", table if data.is_log else table.drop(columns="lost_share"),
        (setting_note(data.axes), f"Lost: expected {label} less that of the advice, positive for what is worse."),
    )  # fmt: skip


def _least(values: pd.Series) -> int:
    return int(values.index[int(np.nanargmin(values.to_numpy()))])


def _everywhere(table: pd.DataFrame) -> list[int]:
    """Returns the choices by how good they are over all domains and numbers of labels, best first."""
    return settings_everywhere(table.assign(context=table.groupby(["domain", "labels"]).ngroup()))


def judge(comparison: Comparison, stage: str) -> Analysis | None:
    """Returns the regret of the advice in every target domain, given without any run to or from that domain.

    For each domain and number of labels, all runs that were transferred to the domain or started from it are removed,
    the model is fitted to the rest, and the setting it advises is looked up: its mean over repeats less the least of
    all settings tried there. Beside it: the same without values before the transfer, the one setting that is best over
    the remaining domains and all numbers of labels, freezing nothing with the rest at random, and a random setting.
    Rows are means over numbers of labels. None for fewer than four target domains, and where nothing is transferred.
    """
    data = records(comparison, stage) if comparison.results.parents.get(stage) else None
    if data is None or data.table["domain"].nunique() < MIN_DOMAINS + 1:
        return None
    names = [name for name in comparison.results.domains if name in set(data.table["domain"])]
    frozen = [axis for axis in data.axes if axis.endswith(".freeze")]
    rows, covered = [], []
    for name in names:
        rest = data.table[(data.table["domain"] != name) & (data.table["source"] != name)]
        everywhere = _everywhere(rest)
        for labels, tried in data.table[data.table["domain"] == name].groupby("labels"):
            losses = tried.set_index("choice")["loss"]
            training = _at(rest, float(str(labels)))
            if training["domain"].nunique() < MIN_DOMAINS:
                continue
            losses = losses[losses.index.isin(set(training["choice"]))]
            if len(losses) < 2:
                continue
            forecasts = {
                "advice": forecast(data, training, name),
                "without_before": forecast(data, training, name, with_before=False),
            }
            row: dict[str, Any] = {"domain": name, "best": float(losses.min())}
            for key, result in forecasts.items():
                row[key] = float(losses[_least(result.y.reindex(losses.index))])
            chosen = _least(forecasts["advice"].y.reindex(losses.index))
            half = forecasts["advice"].quantile * forecasts["advice"].error[chosen]
            observed = np.log(losses[chosen]) if data.is_log else losses[chosen]
            covered.append(abs(observed - forecasts["advice"].y[chosen]) <= half)
            row["one_setting"] = next((float(losses[c]) for c in everywhere if c in losses.index), float("nan"))
            if frozen:
                free = [c for c in losses.index if all(data.choices.at[c, axis] == "none" for axis in frozen)]
                row["freeze_nothing"] = float(losses[free].mean()) if free else float("nan")
            row["random"] = float(losses.mean())
            rows.append(row)
    if not rows:
        return None
    table = pd.DataFrame(rows)
    columns = [column for column in table.columns if column not in ("domain", "best")]
    regrets = table[columns].sub(table["best"], axis=0).assign(domain=table["domain"], best=table["best"])
    by_domain = regrets.groupby("domain", sort=False)[["best", *columns]].mean()
    by_domain["best"] *= data.sign
    means = {column: over_domains(column, by_domain[column])[column] for column in columns}
    summary = pd.DataFrame([{"domain": "mean over domains", "best": by_domain["best"].mean(), **means}])
    result = pd.concat([by_domain.reset_index(), summary], ignore_index=True)
    relative = ""
    if data.is_log:
        shares = {c.replace("_", " "): float((table[c] / table["best"] - 1).mean()) for c in columns}
        relative = "In percent of the best: " + ", ".join(f"{c} {100 * s:.1f}" for c, s in shares.items()) + "."
    mean, low, high = map(format_number, over_domains("advice", by_domain["advice"]).values())
    notes = (
        f"Regret in {comparison.metric.label}: the mean over repeats of the setting chosen without any run to or from"
        " the domain, less the best of all settings tried there. Without before: advice that does not use what the"
        " pretrained networks score in the domain; one setting: the best over all other domains; freeze nothing,"
        " random: a random one of those settings.",
        relative,
        f"Regret of the advice, mean over {len(by_domain)} domains with its 95 % t interval: {mean} [{low}, {high}].",
        "The 95 % intervals of the losses that the advice expects held the observed value in"
        f" {format_percent(float(np.mean(covered)))} of {len(covered)} cases.",
    )
    return Analysis("Advice judged by leaving domains out", result, tuple(filter(None, notes)))
