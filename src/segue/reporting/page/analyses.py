"""The sections of the page that analyses make: each a figure of values with intervals, and its numbers."""

from __future__ import annotations

from dataclasses import replace

from segue.reporting.analysis import generalization
from segue.reporting.analysis.advice import judge
from segue.reporting.analysis.choices import best_of_k, regret_of_rules, selection_optimism
from segue.reporting.analysis.comparison import Comparison
from segue.reporting.analysis.images import image_intervals
from segue.reporting.analysis.ranking import rank_stability
from segue.reporting.analysis.result import Analysis, as_table
from segue.reporting.analysis.significance import level_tests
from segue.reporting.analysis.variance import variance_shares
from segue.reporting.figures.intervals import Panel, intervals_figure
from segue.reporting.formatting import Table, stage_label
from segue.reporting.page.entry import Entry
from segue.storage import file_name

PREFIXES = ("spread-", "forgetting-", "asymmetry", "variance-", "images-", "ranks-", "regret-", "advice-")
NUMBERS = "The numbers of this figure, with intervals"


def analysis_entries(comparison: Comparison) -> list[Entry]:
    """Returns the sections for which the study has what they need, in the order of the page."""
    entries = _asymmetry(comparison)
    for stage in comparison.outcome_stages:
        entries += [*_forgetting(comparison, stage), *_variance(comparison, stage), *_images(comparison, stage)]
        entries += [*_settings(comparison, stage), *_advice(comparison, stage)]
    headings: set[str] = set()
    result = []
    for entry in entries:  # a heading stands once, over the first of its figures
        is_first = entry.heading not in headings
        headings.add(entry.heading)
        result.append(entry if is_first else replace(entry, heading="", anchor=""))
    return result


def _numbers(*analyses: Analysis | None) -> tuple[Table, ...]:
    present = [analysis for analysis in analyses if analysis is not None]
    summaries = [NUMBERS, *(analysis.title for analysis in present[1:])]
    return tuple(as_table(one, summary=summary) for one, summary in zip(present, summaries, strict=False))


def _entry(name: str, heading: str, panels: list[Panel], tables: tuple[Table, ...]) -> Entry:
    first = panels[0].analysis.title
    anchor = name.split("-")[0] if heading else ""
    return Entry(intervals_figure(file_name(name), panels, first, first), heading, anchor, tables=tables)


def spread_entries(comparison: Comparison, heading: str, anchor: str) -> list[Entry]:
    """Returns the spread over domains with its intervals, of each stage that starts from no other."""
    label, entries = comparison.metric.label, []
    for stage in (stage for stage in comparison.stages if not comparison.results.parents.get(stage)):
        spread = generalization.spread(comparison, stage)
        if spread is None or len(spread.table) < 2:
            continue
        panels = [
            Panel(
                spread, {"spread": ""}, "trained_on", "spread over domains", f"standard deviation of the median {label}"
            ),
            Panel(
                spread,
                {"elsewhere": ""},
                "trained_on",
                "outside of the domain trained on",
                f"mean of the median {label}",
            ),
        ]
        entry = _entry(f"spread-{stage}", "", panels, _numbers(spread))
        entries.append(entry if entries else replace(entry, heading=heading, anchor=anchor))
    return entries


def _asymmetry(comparison: Comparison) -> list[Entry]:
    panels: list[Panel] = []
    tables: list[Analysis] = []
    for stage in comparison.stages:
        is_transfer = bool(comparison.results.parents.get(stage))
        parts = generalization.asymmetry(comparison, stage, after_transfer=is_transfer)
        if parts is None or len(panels) > 2:
            continue
        label = f"{comparison.metric.label} as source, minus as target"
        panels.append(Panel(parts[0], {"difference": ""}, "domain", f"after {stage_label(stage)}", label, zero=True))
        if is_transfer and len(parts[0].table) > 2:
            label = f"{comparison.metric.label}, minus from others"
            panels.append(Panel(parts[0], {"against_others": ""}, "domain", "as source", label, zero=True))
        tables += parts
    if not panels:
        return []
    return [_entry("asymmetry", "Asymmetry of domains", panels, _numbers(*tables))]


def _forgetting(comparison: Comparison, stage: str) -> list[Entry]:
    forgetting = generalization.forgetting(comparison, stage)
    if forgetting is None:
        return []
    label = f"change of {comparison.metric.label} in the source domain"
    panels = [Panel(forgetting, {"change": ""}, "level", stage_label(stage), label, group="by", zero=True)]
    return [_entry(f"forgetting-{stage}", "Forgetting of the source domain", panels, _numbers(forgetting))]


def _variance(comparison: Comparison, stage: str) -> list[Entry]:
    shares, tests = variance_shares(comparison, stage), level_tests(comparison, stage)
    if shares is None or len(shares.table) < 4:
        return []
    label = f"share of the variance of {comparison.metric.label}"
    panels = [Panel(shares, {"share": ""}, "factor", stage_label(stage), label, zero=True)]
    entry = _entry(f"variance-{stage}", "Shares of variance", panels, _numbers(shares, tests))
    return [entry]


def _images(comparison: Comparison, stage: str) -> list[Entry]:
    intervals = image_intervals(comparison, stage)
    if not intervals:
        return []
    label = comparison.metric.label
    over = {"value_over_seeds": "over seeds", "value_over_images": "over test images"}
    panels = [Panel(intervals[0], over, "domain", "values", f"median {label}")]
    if len(intervals) > 1:
        over = {"over_seeds": "over seeds", "over_images": "over test images"}
        panels.append(
            Panel(intervals[1], over, "level", "differences", f"difference of {label}", group="factor", zero=True)
        )
    return [_entry(f"images-{stage}", "Intervals over seeds and over images", panels, _numbers(*intervals))]


def _settings(comparison: Comparison, stage: str) -> list[Entry]:
    ranks, rules = rank_stability(comparison, stage), regret_of_rules(comparison, stage)
    if ranks is None or rules is None:
        return []
    heading = "Choosing settings"
    panels = [Panel(ranks, {"rank": ""}, "setting", "ranks of settings", "rank, 1 is best")]
    entries = [_entry(f"ranks-{stage}", heading, panels, _numbers(ranks))]
    label = f"regret in {comparison.metric.label}"
    panels = [
        Panel(
            rules,
            {"best_within": "best setting within the rule", "at_random": "a random one of them"},
            "rule",
            "rules",
            label,
            zero=True,
        )
    ]
    tables = _numbers(rules, best_of_k(comparison, stage), selection_optimism(comparison, stage))
    entries.append(_entry(f"regret-{stage}", heading, panels, tables))
    return entries


def _advice(comparison: Comparison, stage: str) -> list[Entry]:
    judged = judge(comparison, stage)
    if judged is None:
        return []
    label = f"regret in {comparison.metric.label}"
    panels = [
        Panel(
            judged,
            {"advice": "advice", "one_setting": "one setting everywhere", "random": "a random setting"},
            "domain",
            "domains left out",
            label,
            zero=True,
        )
    ]
    return [_entry(f"advice-{stage}", "Advice, judged by leaving domains out", panels, _numbers(judged))]
