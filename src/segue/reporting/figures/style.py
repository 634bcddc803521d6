"""The look of every figure, and how one figure becomes a file for a paper and an inline SVG of the page.

Figures are drawn once, with the colors of `INKS` in their light form. In the page those colors are replaced by CSS
variables of the same names, so that the same figure follows a dark page, and its text takes the page's typeface.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Literal, TypeVar

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from PIL import Image

from segue.errors import SegueError
from segue.storage import replacing

# Light form -> (CSS variable, dark form). The hues after "faint" are Okabe and Ito's, deepened for thin lines.
INKS = {
    "#1c2127": ("ink", "#e8e6e1"),
    "#5d6670": ("muted", "#a3a9b2"),
    "#dfe2e6": ("grid", "#343a43"),
    "#f0f1f3": ("faint", "#262b33"),
    "#fdfdfc": ("paper", "#16191e"),
    "#0b68a8": ("blue", "#5eb2ec"),
    "#c8500a": ("vermilion", "#f58a4b"),
    "#0d8a66": ("green", "#3fc79c"),
    "#a8508a": ("purple", "#db8fc2"),
    "#a87a00": ("amber", "#e5b53c"),
    "#2f93ad": ("teal", "#6fd0e6"),
    "#70543e": ("brown", "#c8a68a"),
    "#7c838c": ("grey", "#99a0aa"),
}
INK, MUTED, GRID, FAINT, PAPER, BLUE, VERMILION, GREEN, PURPLE, AMBER, TEAL, BROWN, GRAY = INKS
CATEGORIES = (BLUE, VERMILION, GREEN, PURPLE, AMBER, TEAL, BROWN)
FONT = "DejaVu Sans"  # ships with matplotlib, so that layout is the same everywhere
WIDTH_IN = 10.0
GAP_IN = 0.15  # between the titles of neighbors
SCALE = "cividis"  # perceptually uniform, and alike for color-blind readers
STYLE: dict[Any, Any] = {
    "font.family": FONT,
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.facecolor": PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "figure.facecolor": PAPER,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "segue",  # equal figures are equal bytes
    "image.interpolation": "none",
}


class Tooltips(dict[str, str]):
    """The tooltips of a figure in the page: gid of an artist -> text."""

    def add(self, artist: Artist, text: str) -> None:
        gid = f"tip-{len(self)}"
        artist.set_gid(gid)
        self[gid] = text


Canvas = TypeVar("Canvas", bound=FigureCanvasBase)


@dataclass(frozen=True)
class ReportFigure:
    """A figure of a page: its file name, title and caption, a description for those who cannot see it, tooltips."""

    name: str
    figure: Figure
    title: str
    caption: str
    alt: str
    tooltips: Tooltips = field(default_factory=Tooltips)


@contextmanager
def style() -> Iterator[None]:
    """Sets the figures' style inside, and matplotlib's own on leaving."""
    with matplotlib.rc_context(STYLE):
        yield


def new_figure(height_in: float) -> Figure:
    return Figure(figsize=(WIDTH_IN, height_in), layout="constrained")


def shorten(text: str, width_in: float, *, size: str = "axes.titlesize", weight: str = "bold") -> str:
    """Returns the text, or "…" and as much of its end as is at most so wide, in the font of titles.

    >>> shorten("IXMtest_F09_s6_w1", 0.6), shorten("F09", 0.6)
    ('…6_w1', 'F09')
    """
    font = FontProperties(family=FONT, size=STYLE[size], weight=weight)

    def is_wide(part: str) -> bool:
        return (
            text_to_path.get_text_width_height_descent(part, font, ismath=False)[0] > 0.93 * 72 * width_in
        )  # pixels round widths

    if not is_wide(text):
        return text
    return next(part for at in range(1, len(text) + 1) if not is_wide(part := f"…{text[at:]}") or at == len(text))


def hide_axes(axes: Axes) -> None:
    """Removes frame, ticks and grid."""
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_scale_bar(axes: Axes, width_px: int, pixel_size_nm: float, *, color: str = "white") -> None:
    """Draws a bar of 1, 2 or 5 · 10ⁿ nm, a sixth to nearly half of an image's width, at its lower left with its length.

    The axes are those of `imshow`, in px.
    """
    width_nm = width_px * pixel_size_nm
    decade = 10.0 ** np.floor(np.log10(0.4 * width_nm))
    length_nm = max(step * decade for step in (1, 2, 5) if step * decade <= 0.4 * width_nm)
    bar_px, left, bottom = length_nm / pixel_size_nm, 0.05 * width_px, axes.get_ylim()[0] - 0.05 * width_px
    axes.add_patch(Rectangle((left, bottom), bar_px, -0.02 * width_px, facecolor=color, edgecolor="black", lw=0.5))
    axes.text(
        left + bar_px / 2, bottom - 0.03 * width_px, f"{length_nm:g} nm", color=color, fontsize=7, ha="center",
        va="bottom", path_effects=[withStroke(linewidth=1.5, foreground="black")],
    )  # fmt: skip


def plain_ticks(form: str = "g") -> FuncFormatter:
    """Returns a formatter of ticks as plain numbers with a true minus sign."""
    return FuncFormatter(lambda value, _: f"{value:{form}}".replace("-", "−"))


def scale_axis(axes: Axes, which: Literal["x", "y"], values: np.ndarray, fold: float = 8) -> None:
    """Makes an axis logarithmic where `values` are positive and differ more than `fold`; writes plain numbers."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if low > 0 and high / low > fold:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        axis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if high / low < 300 else (1,)))
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(plain_ticks())


def draw_spread(axes: Axes, at: float, values: np.ndarray, color: str, *, is_vertical: bool, width: float) -> None:
    """Draws the middle nine tenths of `values` as a thin bar and their middle half as a wide one, `width` points."""
    low, first, third, high = np.quantile(values, [0.05, 0.25, 0.75, 0.95])
    for ends, linewidth in (((low, high), 2.2), ((first, third), width)):
        places = ((at, at), ends) if is_vertical else (ends, (at, at))
        axes.plot(*places, color=color, alpha=0.35, linewidth=linewidth, solid_capstyle="butt", zorder=2)


def legend_columns(handles: Sequence[Artist], max_characters: int) -> int:
    """Returns in how many columns a legend's entries stand, so that a line holds at most `max_characters`."""
    lengths = [8 + len(str(handle.get_label())) for handle in handles]
    return len(handles) if sum(lengths) <= max_characters else max(1, max_characters // max(lengths))


def category_colors(names: Sequence[str]) -> dict[str, str]:
    """Returns a color per name, the same wherever a name occurs: distinct hues, or a scale where there are many."""
    if len(names) <= len(CATEGORIES):
        return dict(zip(names, CATEGORIES, strict=False))
    return graded_colors(names)


def graded_colors(names: Sequence[str]) -> dict[str, str]:
    """Returns colors along a scale of one order, readable on light and on dark."""
    scale = matplotlib.colormaps["plasma"]
    steps = [0.27 + 0.58 * i / max(1, len(names) - 1) for i in range(len(names))]
    return {name: to_hex(scale(step)) for name, step in zip(names, steps, strict=True)}


def svg_text(figure: Figure) -> str:
    """Returns the SVG of `figure` for a file: light, the same bytes each time, no date, every image in it once."""
    buffer = io.StringIO()
    with style(), _canvas(FigureCanvasSVG, figure, figure.dpi) as canvas:
        canvas.print_svg(buffer, metadata={"Date": None})
    return _embed_images_once(buffer.getvalue().replace(f"'{FONT}'", f"'{FONT}', Arial, sans-serif"))


def _embed_images_once(svg: str) -> str:
    """Returns `svg` with equal images, which matplotlib embeds each time, defined once and referred to."""
    defined: dict[str, str] = {}

    def refer(match: re.Match[str]) -> str:
        tag = match.group(0)
        name, place = (re.search(rf'\s{attribute}="([^"]*)"', tag) for attribute in ("id", "transform"))
        if name is None or place is None:
            return tag
        defined[name.group(1)] = tag.replace(place.group(0), "")
        return f'<use xlink:href="#{name.group(1)}"{place.group(0)}/>'

    text = re.sub(r"<image\s[^>]*>", refer, svg)
    if not defined:
        return svg
    end_of_head = text.index(">", text.index("<svg")) + 1
    return f"{text[:end_of_head]}<defs>{''.join(defined.values())}</defs>{text[end_of_head:]}"


def png_bytes(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with style(), _canvas(FigureCanvasAgg, figure, 200) as canvas:
        canvas.draw()
        opaque = Image.fromarray(np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3]))
        opaque.save(buffer, "png", dpi=(200, 200), compress_level=3)  # beyond, half of the time of a drawing for 20 %
    return buffer.getvalue()


@contextmanager
def _canvas(kind: type[Canvas], figure: Figure, dpi: float) -> Iterator[Canvas]:
    """Yields a canvas that lays out and draws the figure once, where `Figure.savefig` would draw it for the layout too.

    On leaving, the figure has the canvas and resolution of before.
    """
    first_canvas, first_dpi = figure.canvas, figure.dpi
    try:
        figure.dpi = dpi
        yield kind(figure)
    finally:
        figure.set_canvas(first_canvas)
        figure.dpi = first_dpi


def inline_svg(figure: ReportFigure, svg: str) -> str:
    """Returns `svg`, the text of the figure, as an element of the page: themed, titled, with ids of its own."""
    text = svg[svg.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    for color, (name, _) in INKS.items():
        text = text.replace(color, f"var(--{name})")
    text = text.replace(f"'{FONT}', Arial, sans-serif", "var(--sans)")
    for gid, tooltip in figure.tooltips.items():
        text = text.replace(f'<g id="{gid}">', f'<g id="{gid}"><title>{escape(tooltip)}</title>', 1)
    # a name may hold what a user calls a stage: as an identifier it has neither quotes nor brackets
    prefix = re.sub(r"[^A-Za-z0-9_-]", lambda character: f"_{ord(character[0]):x}_", figure.name)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = text.replace("url(#", f"url(#{prefix}-")
    text = re.sub(r'href="#', f'href="#{prefix}-', text)
    text = re.sub(r"\n\s*", "\n", text)
    head = f'<svg role="img" aria-label="{escape(figure.alt)}" class="drawing" '
    return head + text.removeprefix("<svg").lstrip()


def theme() -> tuple[str, str]:
    """Returns the CSS declarations of the light and of the dark inks."""
    light = " ".join(f"--{name}: {color};" for color, (name, _) in INKS.items())
    dark = " ".join(f"--{name}: {color};" for name, color in INKS.values())
    return light, dark


def write_figure(figure: Figure, out: Path | str) -> Path:
    """Returns `out`, the figure written by its extension: PNG, SVG or PDF; it appears only when complete."""
    path = Path(out)
    kind = figure_format(path)
    with replacing(path) as partial, style():
        figure.savefig(partial, format=kind, dpi=200)
    return path


def figure_format(path: Path) -> str:
    """Returns the format of a figure's file, "png", "svg" or "pdf"; raises SegueError for another extension."""
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise SegueError(f"{path}: a figure is written as .png, .svg or .pdf; give one of these extensions.")
    return path.suffix[1:]
