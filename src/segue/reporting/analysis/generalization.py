"""Runs outside of the domain they were trained on: spread over domains, forgetting of the source, asymmetry."""

from __future__ import annotations

import itertools
from collections.abc import Collection

import numpy as np
import pandas as pd

from segue.reporting.analysis.bootstrap import estimate_contrasts
from segue.reporting.analysis.comparison import Comparison, sorted_levels
from segue.reporting.analysis.result import Analysis, affordable_resamples, interval_columns, interval_note
from segue.reporting.formatting import axis_label, join_names, level_label, stage_label


def spread(comparison: Comparison, stage: str, *, without: Collection[str] = ()) -> Analysis | None:
    """Returns how much a network's value varies over the domains it is tested on, by the domain it was trained on.

    The spread is the standard deviation over tested domains, with 1/n, of the median over runs in each; a network that
    generalizes has a small one, and a small `elsewhere`, the mean of these medians over the domains that it was not
    trained on. without: tested domains that are left out, such as one that is hard for every network. None where no
    network was tested on two domains.
    """
    frame = comparison.tested(stage)
    frame = frame[~frame["evaluated_domain"].isin(set(without))]
    tested = frame.groupby("domain")["evaluated_domain"].nunique()
    frame = frame[frame["domain"].isin(tested[tested > 1].index)]
    if frame.empty:
        return None
    cells, codes = _cells(frame["domain"], frame["evaluated_domain"])
    trained = sorted_levels(frame["domain"], comparison.results.domains)
    columns = {name: np.flatnonzero([cell[0] == name for cell in cells]) for name in trained}
    others = {name: [c for c in places if cells[c][1] != name] for name, places in columns.items()}

    def contrasts(medians: np.ndarray) -> np.ndarray:
        deviations = [medians[:, places].std(axis=1, ddof=0) for places in columns.values()]
        means = [medians[:, places].mean(axis=1) for places in others.values()]
        return np.stack(deviations + means, axis=1)

    resamples = affordable_resamples(len(frame))
    levels = comparison.cluster_levels(frame)
    estimates = estimate_contrasts(frame["value"].to_numpy(), codes, contrasts, levels, resamples=resamples)
    medians = frame.groupby(["domain", "evaluated_domain"])["value"].median()
    records = []
    for place, name in enumerate(trained):
        in_domain = medians[name]
        worst = in_domain.idxmax() if comparison.metric.lower_is_better else in_domain.idxmin()
        records.append(
            {
                "trained_on": name,
                "domains": len(columns[name]),
                **interval_columns("spread", estimates[place]),
                "own_domain": in_domain.get(name, float("nan")),
                **interval_columns("elsewhere", estimates[place + len(trained)]),
                "worst_domain": worst,
                "worst": in_domain[worst],
            }
        )
    notes = [
        f"Spread: standard deviation over tested domains of the median {comparison.metric.label}; elsewhere: mean of"
        " these medians outside of the domain trained on.",
        interval_note(estimates, resamples),
    ]
    notes += [f"Left out of the tested domains: {join_names(sorted(without))}."] if without else []
    return Analysis(f"Spread over domains after {stage_label(stage)}", pd.DataFrame(records), tuple(notes))


def forgetting(comparison: Comparison, stage: str) -> Analysis | None:
    """Returns how a transfer changes the value in the domain that its runs come from, run by run.

    The change is the value of a run in the domain of its root less that of its parent there; positive for a loss means
    that the source was forgotten (backward transfer of Lopez-Paz and Ranzato 2017, with its sign for accuracies). A row
    per source, and per level of each setting of the transfer. None where `stage` starts from no other, or its runs were
    not tested on their source.
    """
    parent = comparison.results.parents.get(stage)
    if not parent:
        return None
    runs = comparison.stage_runs(stage)
    at_source = pd.concat([comparison.tested(name) for name in (stage, parent)])
    at_source = at_source[at_source["evaluated_domain"] == at_source["root_domain"]].set_index("run")["value"]
    after, before = (runs[name].map(at_source).to_numpy(dtype=float) for name in ("run", "parent"))
    runs = runs.assign(before=before, after=after, change=after - before)
    runs = runs[np.isfinite(runs["change"]) & (runs["domain"] != runs["root_domain"])]
    if runs.empty:
        return None
    axes = [axis for axis in comparison.own_axes(stage) if axis != f"{stage}.domain"]
    groupings = {"root_domain": "source", "domain": "transferred to", **{axis: axis_label(axis) for axis in axes}}
    records, estimates = [], []
    resamples = affordable_resamples(len(runs))
    changes, clusters = runs["change"].to_numpy(), comparison.cluster_levels(runs)
    for column, label in groupings.items():
        levels = sorted_levels(runs[column], comparison.results.domains if column.endswith("domain") else ())
        if len(levels) < 2 and column != "root_domain":
            continue
        codes = pd.Index(levels).get_indexer(pd.Index(runs[column]))
        of_levels = estimate_contrasts(changes, codes, lambda medians: medians, clusters, resamples=resamples)
        for level, estimate in zip(levels, of_levels, strict=True):
            part = runs[runs[column] == level]
            estimates.append(estimate)
            records.append(
                {
                    "by": label,
                    "level": level_label(level),
                    "runs": len(part),
                    "before": part["before"].median(),
                    "after": part["after"].median(),
                    **interval_columns("change", estimates[-1]),
                }
            )
    notes = (
        f"{comparison.metric.label.capitalize()} in the source domain before and after {stage_label(stage)}; change:"
        " median of the differences run by run.",
        interval_note(estimates, resamples),
    )
    return Analysis(f"Forgetting of the source domain by {stage_label(stage)}", pd.DataFrame(records), notes)


def asymmetry(comparison: Comparison, stage: str, *, after_transfer: bool = False) -> tuple[Analysis, Analysis] | None:
    """Returns how i → j differs from j → i: per domain, over its partners, and per pair of domains.

    i → j is the median over runs trained on i and tested on j or, `after_transfer`, over runs of `stage` that descend
    from i and were transferred to j. The difference of a domain is the mean over partners j of (i → j) less (j → i):
    for a loss, a negative one says that the domain serves better as a source than it is served as a target. `excess`
    is the same after subtracting from each value that of networks trained on the tested domain itself, so that how
    hard a domain is cancels. `against_others` is the mean over partners j of (i → j) less the mean of (k → j) over the
    other sources k: negative for a loss if the domain is a better source than the others are. Pairs of which one
    direction is missing are left out. None where there is no pair.
    """
    if after_transfer:
        frame = comparison.stage_runs(stage)
        frame = frame[np.isfinite(frame["value"])]
        frame = frame.assign(source=frame["root_domain"], target=frame["domain"])
    else:
        frame = comparison.tested(stage)
        frame = frame.assign(source=frame["domain"], target=frame["evaluated_domain"])
    domains = sorted_levels(frame["source"], comparison.results.domains)
    frame = frame[frame["target"].isin(domains)]
    if frame.empty:
        return None
    cells, codes = _cells(frame["source"], frame["target"])
    place = {cell: index for index, cell in enumerate(cells)}
    pairs = [(i, j) for i, j in itertools.combinations(domains, 2) if (i, j) in place and (j, i) in place]
    if not pairs:
        return None
    ordered = [name for name in domains if any(name in pair for pair in pairs)]
    forward, backward = (np.array([place[pair] for pair in order]) for order in (pairs, [(j, i) for i, j in pairs]))
    signs = np.array([[(name == i) - (name == j) for i, j in pairs] for name in ordered], dtype=float)
    signs /= np.abs(signs).sum(axis=1, keepdims=True)  # (domains, pairs): the mean over partners
    rivals = [_rivals(name, ordered, place) for name in ordered]
    has_own = all((name, name) in place for name in ordered)
    diagonal = np.array([[place[i, i], place[j, j]] for i, j in pairs]) if has_own else None

    def contrasts(medians: np.ndarray) -> np.ndarray:
        differences = medians[:, forward] - medians[:, backward]
        against = [
            np.mean([medians[:, ours] - medians[:, theirs].mean(axis=1) for ours, theirs in of_name], axis=0)
            if of_name
            else np.full(len(medians), np.nan)
            for of_name in rivals
        ]
        parts = [differences, differences @ signs.T, np.stack(against, axis=1)]
        if diagonal is not None:  # (i → j less j → j) less (j → i less i → i)
            excess = differences - medians[:, diagonal[:, 1]] + medians[:, diagonal[:, 0]]
            parts += [excess, excess @ signs.T]
        return np.concatenate(parts, axis=1)

    resamples = affordable_resamples(len(frame))
    levels = comparison.cluster_levels(frame)
    estimates = estimate_contrasts(frame["value"].to_numpy(), codes, contrasts, levels, resamples=resamples)
    ends = np.cumsum([len(pairs), len(ordered), len(ordered), len(pairs), len(ordered)][: 5 if has_own else 3])
    of_pairs, of_domains, of_rivals, *of_excess = np.split(np.arange(len(estimates)), ends)[:-1]
    medians = frame.groupby(["source", "target"])["value"].median()
    pair_records, domain_records = [], []
    for index, (i, j) in enumerate(pairs):
        record = {"domain": i, "partner": j, "to_partner": medians[i, j], "from_partner": medians[j, i]}
        record |= interval_columns("difference", estimates[of_pairs[index]])
        if of_excess:
            record |= interval_columns("excess", estimates[of_excess[0][index]])
        pair_records.append(record)
    for index, name in enumerate(ordered):
        partners = [j if i == name else i for i, j in pairs if name in (i, j)]
        record = {
            "domain": name,
            "partners": len(partners),
            "as_source": float(np.mean([medians[name, j] for j in partners])),
            "as_target": float(np.mean([medians[j, name] for j in partners])),
        }
        record |= interval_columns("difference", estimates[of_domains[index]])
        if of_excess:
            record |= interval_columns("excess", estimates[of_excess[1][index]])
        record |= interval_columns("against_others", estimates[of_rivals[index]])
        domain_records.append(record)
    arrow = "transferred from i to j" if after_transfer else "trained on i, tested on j"
    notes = [
        f"Difference: median {comparison.metric.label} of networks {arrow}, less that of the opposite direction."
        " Against others: from this source, less the mean from other sources to the same targets."
    ]
    notes += ["Excess: each less the median of networks trained on the tested domain itself."] if has_own else []
    notes.append(interval_note(estimates, resamples))
    title = f"Asymmetry of domains after {stage_label(stage)}"
    return (
        Analysis(title, pd.DataFrame(domain_records), tuple(notes)),
        Analysis(f"{title}, by pair", pd.DataFrame(pair_records), tuple(notes)),
    )


def _cells(first: pd.Series, second: pd.Series) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Returns the distinct pairs of two columns, and (n,) which of them each row has."""
    index = pd.MultiIndex.from_arrays([first, second])
    codes, cells = pd.factorize(index)
    return [(str(a), str(b)) for a, b in cells], codes


def _rivals(name: str, domains: list[str], place: dict[tuple[str, str], int]) -> list[tuple[int, list[int]]]:
    """Returns, for each target of `name` that other sources reach too, its cell and theirs."""
    result = []
    for target in domains:
        others = [place[k, target] for k in domains if k not in (name, target) and (k, target) in place]
        if target != name and others and (name, target) in place:
            result.append((place[name, target], others))
    return result
