"""Curves of counts over time, per well or per treatment, with the truth beside them, and a page of them.

Blue is live and vermilion dead, which readers with any kind of colour vision tell apart; lines and markers differ too.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from segue.errors import SegueError
from segue.reporting.analysis.bootstrap import Sharing, estimate
from segue.reporting.figures.style import (
    BLUE,
    CATEGORIES,
    FAINT,
    INK,
    MUTED,
    PAPER,
    VERMILION,
    Drawing,
    graded,
    inline,
    sheet,
    style,
    svg_text,
    theme,
    tip,
)
from segue.spec import unknown
from segue.storage import replacing

MOST_WELLS = 24  # shown one by one; of more, treatments are shown
COLUMNS = 6
PANEL_IN = 1.55
LEGEND_CHARACTERS = 140  # in a line
KNOWN_COLOURS = {"live": BLUE, "dead": VERMILION}  # as in the film of a training
DASHES = ("solid", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (5, 1.5, 1.2, 1.5)))
MARKERS = "o^sD"
HELD_OUT = ("test", "unseen")
WORDS = {"count": "nuclei", "fraction": "fraction of nuclei", "density_per_mm2": "nuclei / mm²"}
BANDS = {"count": "Poisson 95 %, counting noise only", "fraction": "Wilson 95 %, counting noise only"}
TRUTHS = {"known": "known truth", "stain": "from the stains"}  # hollow, filled
PARTS = {"train": "training", "validation": "validation", "test": "test", "unseen": "unseen"}


def by_condition(table: pd.DataFrame, condition: str, *, value: str = "count") -> pd.DataFrame:
    """Returns medians over wells with 95 % bootstrap intervals: a row per level of the condition, time and class.

    Only wells that were held out (test, unseen) are in it. value: "count", "fraction" or "density_per_mm2".
    Columns: the condition, time, time_h, class, wells, median, low, high (NaN for a single well), and true_median, of
    the known truth where there is any, else of the stains; density has none.
    """
    if condition not in table:
        raise SegueError(f"the table of counts: {unknown(condition, table.columns, 'condition')}.")
    rows = []
    held = table[table["part"].isin(HELD_OUT)]
    for (level, time, name), part in held.groupby([condition, "time", "class"], sort=True):
        wells = (part["plate"] + "/" + part["well"]).to_numpy()
        found = estimate(part[value].to_numpy(float), {"wells": Sharing(wells, np.zeros(len(wells)))})
        low, high = found.interval or (np.nan, np.nan)
        true = np.nan
        for truth in TRUTHS:
            if np.isnan(true) and f"{truth}_{value}" in part:
                true = float(part[f"{truth}_{value}"].median())
        rows.append(
            {condition: level, "time": time, "time_h": float(part["time_h"].median()), "class": name,
             "wells": len(set(wells)), "median": found.median, "low": low, "high": high, "true_median": true}
        )  # fmt: skip
    columns = [condition, "time", "time_h", "class", "wells", "median", "low", "high", "true_median"]
    found = pd.DataFrame(rows, columns=columns)
    order = {name: place for place, name in enumerate(dict.fromkeys(table["class"]))}
    return found.sort_values("class", key=lambda names: names.map(order), kind="stable").reset_index(drop=True)


def counts_drawing(
    table: pd.DataFrame, *, conditions: Sequence[str] = (), by: str | None = None, value: str = "count"
) -> Drawing:
    """Returns the curves with a caption: a panel per well, of more than 24 wells one per level of a condition.

    by: the condition; without it, "treatment" or the first of `conditions` is taken where there are many wells. Without
    any condition each well has its panel. value: "count", "fraction" or "density_per_mm2" (which has no truth).
    """
    if value not in WORDS:
        raise SegueError(f"the figure of counts: {unknown(value, WORDS, 'value')}.")
    wells = table[["plate", "well"]].drop_duplicates()
    if by is None and len(wells) > MOST_WELLS and conditions:
        by = "treatment" if "treatment" in conditions else conditions[0]
    with style():
        return _of_wells(table, conditions, value) if by is None else _of_conditions(table, by, value)


def write_figure(figure: Figure, out: Path | str) -> Path:
    """Returns `out`, the figure written by its extension: PNG, SVG or PDF; it appears only when whole."""
    path = Path(out)
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise SegueError(f"{path}: a figure is written as .png, .svg or .pdf; give one of these extensions.")
    with replacing(path) as partial, style():
        figure.savefig(partial, format=path.suffix[1:], dpi=200)
    return path


def write_counts_page(
    drawings: Sequence[Drawing], errors: pd.DataFrame, out: Path | str, *, title: str, told: Sequence[str]
) -> Path:
    """Returns `out`, one self-contained page: what is told (the headline first), the curves, and errors by part."""
    path = Path(out)
    light, dark = theme()
    css = f":root {{ {light} }} @media (prefers-color-scheme: dark) {{ @media screen {{ :root {{ {dark} }} }} }}\n"
    css += Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    figures = "".join(
        f'<figure><div class="sheet">{inline(drawing, svg_text(drawing.figure))}</div>'
        f"<figcaption><b>Figure {place}.</b> {drawing.caption}</figcaption></figure>"
        for place, drawing in enumerate(drawings, start=1)
    )
    head, *notes = told
    listed = f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>" if notes else ""
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{css}</style></head>\n<body><main>"
        f'<p class="kind">segue · counts</p><h1>{escape(title)}</h1><div class="answer"><p>{escape(head)}</p></div>'
        f"{figures}{_errors_table(errors)}{listed}"
        "<footer>Made with segue; this page needs no network.</footer></main></body></html>\n"
    )
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def _colours(names: Sequence[str]) -> dict[str, str]:
    """Returns the ink of each class: live and dead have their own, others the next that is free."""
    free = [ink for ink in CATEGORIES if ink not in {KNOWN_COLOURS.get(name) for name in names}]
    others = [name for name in names if name not in KNOWN_COLOURS]
    inks = dict(zip(others, free, strict=False)) if len(others) <= len(free) else graded(others)
    return {name: KNOWN_COLOURS.get(name) or inks[name] for name in names}


def _of_wells(table: pd.DataFrame, conditions: Sequence[str], value: str) -> Drawing:
    names, colours = _classes(table)
    wells = list(table[["plate", "well"]].drop_duplicates().itertuples(index=False, name=None))
    figure, panels = _panels(len(wells))
    tips: dict[str, str] = {}
    for axes, (plate, well) in zip(panels, wells, strict=True):
        rows = table[(table["plate"] == plate) & (table["well"] == well)]
        part = str(rows["part"].iloc[0])
        level = ", ".join(str(rows[name].iloc[0]) for name in conditions[:1])
        axes.set_title(f"{plate} {well}")
        axes.set_title(PARTS[part], loc="right", fontsize=8, color=MUTED, fontweight="normal")
        if level:
            axes.text(0.03, 0.96, level, transform=axes.transAxes, va="top", fontsize=7.5, color=MUTED)
        if part not in HELD_OUT:
            axes.set_facecolor(FAINT)
        for place, name in enumerate(names):
            own = rows[rows["class"] == name].sort_values("time_h")
            _curve(axes, own, place, colours[name], value, (f"{plate} {well}, {name}", tips))
    _scale(panels, table, value)
    truths = [truth for truth in TRUTHS if f"{truth}_{value}" in table and table[f"{truth}_{value}"].notna().any()]
    used = not table["part"].isin(HELD_OUT).all()
    _legend(figure, names, colours, truths=truths, band=BANDS.get(value, ""), used=used)
    words = [
        f"{WORDS[value].capitalize()} per class, well and time, predicted from the transmitted light alone (lines)"
    ]
    words[0] += "." if not truths else f"; markers: the truth, {' and '.join(TRUTHS[truth] for truth in truths)}."
    if value in BANDS:
        words.append(f"Bands: {BANDS[value]}; the network's own errors are not in them, so the truth may lie outside.")
    if used:
        words.append("Wells on grey were used in training or validation and are no evidence.")
    return Drawing("wells", figure, escape(" ".join(words)), f"Curves of {WORDS[value]} over time in each well.", tips)


def _of_conditions(table: pd.DataFrame, by: str, value: str) -> Drawing:
    medians = by_condition(table, by, value=value)
    if medians.empty:
        raise SegueError(f"the figure of counts by '{by}': no well was held out; show wells one by one, without by.")
    names, colours = _classes(table)
    levels = list(dict.fromkeys(medians[by].sort_values()))
    figure, panels = _panels(len(levels), columns=3, panel_in=2.5)
    tips: dict[str, str] = {}
    held = table[table["part"].isin(HELD_OUT)]
    for axes, level in zip(panels, levels, strict=True):
        of_level = medians[medians[by] == level]
        axes.set_title(str(level))
        wells = int(of_level["wells"].max())
        axes.set_title(f"{wells} held-out wells", loc="right", fontsize=8, color=MUTED, fontweight="normal")
        for place, name in enumerate(names):
            own = of_level[of_level["class"] == name].sort_values("time_h")
            single = held[(held[by] == level) & (held["class"] == name)]
            for _, rows in single.groupby(["plate", "well"]):
                ordered = rows.sort_values("time_h")
                axes.plot(ordered["time_h"], ordered[value], color=colours[name], linewidth=0.5, alpha=0.35)
            x = own["time_h"].to_numpy(float)
            low, high = (own[side].to_numpy(float) for side in ("low", "high"))
            axes.fill_between(x, low, high, color=colours[name], alpha=0.2, linewidth=0)
            line = axes.plot(x, own["median"], color=colours[name], linestyle=DASHES[place % 4], linewidth=1.8)[0]
            tip(tips, line, f"{by} {level}, {name}: median {own['median'].iloc[-1]:.3g} at the last time")
            true = own["true_median"].to_numpy(float)
            axes.plot(
                x,
                true,
                MARKERS[place % 4],
                color=colours[name],
                markerfacecolor=PAPER,
                markersize=4.5,
                zorder=4,
                clip_on=False,
            )
    _scale(panels, held, value)
    truths = ["known"] if medians["true_median"].notna().any() else []
    _legend(figure, names, colours, truths=truths, band="95 % interval of the median", used=False, single=True)
    left = table.loc[~table["part"].isin(HELD_OUT), ["plate", "well"]].drop_duplicates()
    caption = (
        f"{WORDS[value].capitalize()} by {by}: medians over held-out wells with 95 % bootstrap intervals; thin lines "
        "are single wells; hollow markers medians of the truth, where there is any. Left out: "
        f"{len(left)} wells that were used in training or validation."
    )
    return Drawing("wells", figure, escape(caption), f"Median curves of {WORDS[value]} over time by {by}.", tips)


def _classes(table: pd.DataFrame) -> tuple[list[str], dict[str, str]]:
    names = [str(name) for name in dict.fromkeys(table["class"])]
    return names, _colours(names)


def _panels(count: int, *, columns: int = COLUMNS, panel_in: float = PANEL_IN) -> tuple[Figure, list[Axes]]:
    """Returns a figure of `count` panels that share both axes."""
    rows = -(-count // columns)
    columns = max(-(-count // rows), 2)  # as few places as possible stay empty; one panel alone would be too wide
    figure = sheet(0.9 + panel_in * max(rows, 1) * (1.25 if rows == 1 else 1))
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    panels = list(grid.flat)
    for place, axes in enumerate(panels):
        if place + columns >= count:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("time / h")
    for axes in panels[count:]:
        axes.set_visible(False)
    return figure, panels[:count]


def _curve(axes: Axes, rows: pd.DataFrame, place: int, ink: str, value: str, told: tuple[str, dict[str, str]]) -> None:
    """Draws one class of a well: line and band of what is predicted, markers of what is true."""
    x, y = rows["time_h"].to_numpy(float), rows[value].to_numpy(float)
    line = axes.plot(x, y, color=ink, linestyle=DASHES[place % 4], linewidth=1.6, marker="." if len(x) == 1 else None)[
        0
    ]
    name, tips = told
    tip(tips, line, f"{name}: {y[-1]:.3g} at {x[-1]:.3g} h")
    if f"{value}_low" in rows:
        low, high = (rows[f"{value}_{side}"].to_numpy(float) for side in ("low", "high"))
        axes.fill_between(x, low, high, color=ink, alpha=0.18, linewidth=0)
    for truth in TRUTHS:
        if f"{truth}_{value}" in rows:
            fill = PAPER if truth == "known" else ink
            size = 5.5 if truth == "known" else 3
            true = rows[f"{truth}_{value}"].to_numpy(float)
            axes.plot(
                x, true, MARKERS[place % 4], color=ink, markerfacecolor=fill, markersize=size, zorder=4, clip_on=False
            )


def _scale(panels: Sequence[Axes], table: pd.DataFrame, value: str) -> None:
    columns = [name for name in (value, f"{value}_high", *(f"{t}_{value}" for t in TRUTHS)) if name in table]
    highest = np.nanmax(table[columns].to_numpy(float), initial=0)
    panels[0].set_ylim(0, 1.02 if value == "fraction" else 1.18 * highest or 1)  # above, room for a well's treatment
    panels[0].xaxis.set_major_locator(MaxNLocator(4, integer=True))
    panels[0].yaxis.set_major_locator(MaxNLocator(4))
    for axes in panels:
        if axes.get_subplotspec().is_first_col():  # type: ignore[union-attr]
            axes.set_ylabel(WORDS[value])


def _legend(
    figure: Figure,
    names: Sequence[str],
    colours: dict[str, str],
    *,
    truths: Sequence[str],
    band: str,
    used: bool,
    single: bool = False,
) -> None:
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=colours[name], linestyle=DASHES[place % 4], linewidth=1.8, label=f"{name}, predicted")
        for place, name in enumerate(names)
    ]
    if band:
        handles.append(Patch(color=MUTED, alpha=0.25, linewidth=0, label=band))
    for truth in truths:
        fill = PAPER if truth == "known" else INK
        label = "truth" if single else TRUTHS[truth]
        size = 5.5 if truth == "known" else 3
        marks = MARKERS[: max(1, min(len(names), 2))]
        handles += [
            Line2D([], [], color=INK, marker=mark, linestyle="", markerfacecolor=fill, markersize=size, label=words)
            for mark, words in zip(marks, [f"{label}: {name}" for name in names], strict=False)
        ]
    if single:
        handles.append(Line2D([], [], color=MUTED, linewidth=0.6, label="single wells"))
    if used:
        handles.append(Patch(facecolor=FAINT, edgecolor=MUTED, linewidth=0.5, label="used in training or validation"))
    lengths = sum(8 + len(str(handle.get_label())) for handle in handles)
    per_line = len(handles) if lengths < LEGEND_CHARACTERS else -(-len(handles) // 2)
    figure.legend(handles=handles, loc="outside upper left", ncols=per_line)


def _errors_table(errors: pd.DataFrame) -> str:
    """Returns the errors by part, truth and class as an HTML table, the held-out wells first."""
    if errors.empty:
        return ""
    heads = ("part", "truth", "class", "wells", "images", "true count", "|error|", "bias", "r")
    heads += ("|error| of fraction", "bias", "r")
    first = errors["part"] == "held out"
    body = ""
    for _, row in pd.concat([errors[first], errors[~first]]).iterrows():
        values = [escape(str(row[name])) for name in ("part", "truth", "class", "wells", "images")]
        values += [f"{row['true_count_mean']:.1f}"]
        for value, form in (("count", ".1f"), ("fraction", ".3f")):
            numbers = [(f"{value}_mae", form), (f"{value}_bias", f"+{form}"), (f"{value}_correlation", ".3f")]
            values += [
                "–" if np.isnan(row[name]) else f"{row[name]:{spec}}".replace("-", "−") for name, spec in numbers
            ]
        body += f"<tr>{''.join(f'<td>{cell}</td>' for cell in values)}</tr>"
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    return (
        f"<h2>Errors by part</h2><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>Only wells that "
        "were held out are evidence of how good the counts are.</p>"
    )
