"""Renders templates to self-contained pages, with figures embedded and as files."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from segue.reporting.figures.style import ReportFigure, inline_svg, png_bytes, svg_text, theme
from segue.storage import file_name, replacing

TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class RenderedFigure:
    """A figure as a page shows it; `files` are its paths relative to the page, by kind."""

    figure: ReportFigure
    svg: str
    files: dict[str, str]


def render_figure(figure: ReportFigure, folder: Path | None = None) -> RenderedFigure:
    """Returns the figure for the page, after writing it as SVG and PNG into `folder`, if given."""
    svg = svg_text(figure.figure)
    figure.figure.set_layout_engine("none")  # as it was laid out for the SVG, which takes half of the time of a drawing
    files = {}
    if folder is not None:
        name = file_name(figure.name)
        for kind, data in (("svg", svg.encode()), ("png", png_bytes(figure.figure))):
            write(folder / f"{name}.{kind}", data)
            files[kind] = f"{folder.name}/{name}.{kind}"
    return RenderedFigure(figure, inline_svg(figure, svg), files)


def render_page(out: Path, template: str, **values: Any) -> None:
    """Writes a page atomically; texts among `values` are escaped."""
    light, dark = theme()
    text = environment().get_template(template).render(light=light, dark=dark, **values)
    write(out, text.encode())


def write(path: Path, data: bytes) -> None:
    with replacing(path) as partial:
        partial.write_bytes(data)


def remove_stale(folder: Path, prefixes: tuple[str, ...], names: Collection[str]) -> None:
    """Deletes figures of an earlier page in this folder that the current one does not have."""
    current = set(map(file_name, names))
    for path in folder.glob("*.*"):
        if path.suffix in (".svg", ".png") and path.stem not in current and path.stem.startswith(prefixes):
            path.unlink()


@cache
def environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
