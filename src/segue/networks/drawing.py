"""A network drawn as SVG from the module itself: its blocks with their sizes, skips, and what is frozen.

The drawing follows the reader's light or dark setting, needs no font of its own, and says the same in words to those
who cannot see it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from html import escape
from string import Template

from segue import networks
from segue.errors import SegueError
from segue.networks.anatomy import Block, anatomy
from segue.networks.arrangement import CARD_PX, LEFT_PX, Arrangement, Kind, Line, arrange
from segue.networks.description import SETTINGS, built_without_memory
from segue.networks.network import Network
from segue.networks.spec import NetworkSpec
from segue.spec import unknown

MARGIN_PX = 20
GLYPH_PX = (40.0, 58.0)  # the largest picture of a map: channels across, height down
TEXT_X_PX = 62
CHARACTER = 0.6  # of the size of the type: a little more than the mean width in common sans-serif faces
LEGEND_PX = 66
RADIUS_PX = 7
LEAST_WIDTH_PX = 560

LIGHT = {
    "ink": "#1c2127",
    "muted": "#5d6670",
    "line": "#8a929b",
    "card": "#f4f5f6",
    "edge": "#cfd4d9",
    "paper": "#fdfdfc",
    "image": "#7c838c",
    "encoder": "#0b68a8",
    "decoder": "#c8500a",
    "head": "#0d8a66",
    "frozen": "#dfe9f1",
}
DARK = {
    "ink": "#e8e6e1",
    "muted": "#a3a9b2",
    "line": "#7f8893",
    "card": "#20252c",
    "edge": "#3a424d",
    "paper": "#16191e",
    "image": "#99a0aa",
    "encoder": "#5eb2ec",
    "decoder": "#f58a4b",
    "head": "#3fc79c",
    "frozen": "#2b3b49",
}
RULES = """
.network-drawing .paper { fill: $paper; }
.network-drawing text { fill: $ink; font-size: 12px; }
.network-drawing .title { font-size: 17px; font-weight: 600; }
.network-drawing .name { font-size: 13px; font-weight: 600; }
.network-drawing .small { font-size: 11px; fill: $muted; }
.network-drawing .card { fill: $card; stroke: $edge; }
.network-drawing .frozen .card { fill: url(#network-frozen); stroke: $encoder; stroke-dasharray: 5 3; }
.network-drawing .hatch { fill: $card; } .network-drawing .stripe { stroke: $frozen; stroke-width: 5; }
.network-drawing .line { fill: none; stroke: $ink; stroke-width: 1.8; }
.network-drawing .skip { stroke: $line; stroke-width: 1.5; }
.network-drawing .averaged { stroke: $line; stroke-width: 1.5; stroke-dasharray: 2 3; }
.network-drawing .tip { fill: $ink; } .network-drawing .tip.grey { fill: $line; }
.network-drawing .rule { stroke: $edge; stroke-dasharray: 1 4; }
.network-drawing .image { fill: $image; } .network-drawing .encoder { fill: $encoder; }
.network-drawing .decoder { fill: $decoder; } .network-drawing .head { fill: $head; }
"""


def _style() -> str:
    """Returns the drawing's CSS in plain colours, which every program reads, and the dark ones for readers who ask."""
    fonts = 'system-ui, "Segoe UI", "Helvetica Neue", Arial, "DejaVu Sans", sans-serif'
    light, dark = (Template(RULES).substitute(colours) for colours in (LIGHT, DARK))
    fitting = "@media screen { .network-drawing { max-width: 100%; height: auto; } }"  # for browsers alone
    base = f".network-drawing {{ font-family: {fonts}; }}\n{fitting}"
    return f"\n{base}{light}@media (prefers-color-scheme: dark) {{{dark}}}\n"


def draw_network(
    spec: NetworkSpec, *, channels: int, classes: int, size: int | tuple[int, int], frozen: Collection[str] = ()
) -> str:
    """Returns the SVG of the untrained network for images (channels, H, W), H and W being `size`.

    frozen: parts such as `encoder`, `encoder.0` or `decoder.1`. Raises SegueError as `networks.build` does, for a part
    that the network lacks, and for a size that it cannot take.
    """
    height, width = (size, size) if isinstance(size, int) else size
    factor = networks.divisor(spec)
    if height % factor or width % factor:
        raise SegueError(
            f"the drawing of '{spec.name}': found {height} × {width} px; heights and widths must be multiples "
            f"of {factor}; give a size of {max(factor, height // factor * factor)}, for example."
        )
    network = built_without_memory(lambda: networks.build(spec, channels=channels, classes=classes))
    given = {name: getattr(spec, name) for name in SETTINGS}
    given |= {name: spec.setting(name) for name in ("width", "depth", "convolutions", "side_px")}
    title = ", ".join([spec.name, *(f"{name} {value}" for name, value in given.items() if value not in (None, 0.0))])
    return drawing_of(network, (channels, height, width), title=title, frozen=frozen)


def drawing_of(
    network: Network, image: tuple[int, int, int], *, title: str = "network", frozen: Collection[str] = ()
) -> str:
    """Returns the SVG of a network that is already there, for an image (C, H, W); `frozen` as of `draw_network`."""
    leaves = _frozen_leaves(network, frozen)
    blocks = anatomy(network, image)
    placed = arrange(blocks, dense=network.dense)
    counts = {leaf: _count(network, owners) for leaf, owners in network.parts.items()}
    subtitle = _totals(counts, leaves)
    texts = (_clipped(title, placed.width, 17), subtitle)
    width = max(placed.width + MARGIN_PX, LEAST_WIDTH_PX, MARGIN_PX + CHARACTER * 12 * len(subtitle))
    height = placed.height + LEGEND_PX
    told = "; ".join(f"{block.name}: {_shape(block)}" for block in blocks)
    body = [
        '<svg xmlns="http://www.w3.org/2000/svg" class="network-drawing" role="img" '
        f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}">',
        f"<title>{escape(title)}</title><desc>{escape(f'{subtitle}. {told}')}</desc>",
        f"<style>{_style()}</style>",
        '<defs><pattern id="network-frozen" width="9" height="9" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><rect class="hatch" width="9" height="9"/>'
        '<path class="stripe" d="M0 0V9"/></pattern></defs>',
        f'<rect class="paper" width="{width:g}" height="{height:g}" rx="6"/>',
        _text(MARGIN_PX, 34, texts[0], "title"),
        _text(MARGIN_PX, 56, texts[1]),
        *_row_labels(blocks, placed),
        *(_line(line) for line in placed.lines),
        *(_card(block, placed, image, frozen=block.leaf in leaves) for block in blocks),
        *_legend(placed, height - LEGEND_PX + 30, with_frozen=bool(leaves)),
        "</svg>",
    ]
    return "\n".join(body) + "\n"


def _frozen_leaves(network: Network, frozen: Collection[str]) -> set[str]:
    known = network.parts
    found: set[str] = set()
    for part in frozen:
        below = {leaf for leaf in known if leaf == part or leaf.startswith(f"{part}.")}
        if not below:
            raise SegueError(f"frozen: {unknown(part, ['encoder', 'decoder', *known], 'part of this network')}.")
        found |= below
    return found


def _count(network: Network, owners: Sequence[str]) -> int:
    below = tuple(f"{owner}." for owner in owners)
    return sum(p.numel() for name, p in network.named_parameters() if name in owners or name.startswith(below))


def _totals(counts: dict[str, int], frozen: set[str]) -> str:
    parts: dict[str, int] = {}
    for leaf, count in counts.items():
        part = leaf.partition(".")[0]
        parts[part] = parts.get(part, 0) + count
    told = f"{sum(counts.values()):,} parameters: " + ", ".join(f"{part} {count:,}" for part, count in parts.items())
    return told + (f"; {sum(counts[leaf] for leaf in frozen):,} frozen" if frozen else "")


def _shape(block: Block) -> str:
    """Returns "64 channels, 128×128", and for vectors "512 values"."""
    names = {"image": "channel", "head": "score"}
    noun = names.get(block.part, "channel" if len(block.shape) == 3 else "value")
    count = f"{block.shape[0]:,} {noun}{'' if block.shape[0] == 1 else 's'}"
    return count + (f", {block.shape[1]}×{block.shape[2]}" if len(block.shape) == 3 else "")


def _row_labels(blocks: Sequence[Block], placed: Arrangement) -> list[str]:
    image = blocks[0].shape
    widths = {block.shape[1]: block.shape[2] for block in blocks if len(block.shape) == 3}
    found = []
    for size, top, bottom in placed.rows:
        middle = (top + bottom) / 2
        stride = image[1] / size if size else 0
        scale = "full size" if stride == 1 else f"1/{stride:g}" if size else "no map"
        found.append(_text(MARGIN_PX, middle - 2, f"{size}×{widths[size]}" if size else "values"))
        found.append(_text(MARGIN_PX, middle + 14, scale, "small"))
        if size != placed.rows[0][0]:
            found.append(f'<path class="rule" d="M{MARGIN_PX} {top - 15:g}H{LEFT_PX - 14:g}"/>')
    return found


def _card(block: Block, placed: Arrangement, image: tuple[int, int, int], *, frozen: bool) -> str:
    place = placed.places[block.name]
    width, height = CARD_PX
    room = width - TEXT_X_PX - 10
    lines = [_shape(block), f"{block.parameters:,} parameters" if block.parameters else "", block.layers]
    tooltip = "\n".join([block.name, *filter(None, lines), *(["frozen"] if frozen else [])])
    x = TEXT_X_PX
    is_long = CHARACTER * 13 * len(block.name) > room - 50 * frozen
    name = block.name.removeprefix(f"{block.part}.") if is_long else block.name
    parts = [
        f'<g class="block{" frozen" if frozen else ""}" transform="translate({place.x:g} {place.y:g})">',
        f"<title>{escape(tooltip)}</title>",
        f'<rect class="card" width="{width:g}" height="{height:g}" rx="6"/>',
        _glyph(block, image),
        _text(x, 21, _clipped(name, room - 50 * frozen, 13), "name"),
        _text(x, 38, _clipped(lines[0], room, 12)),
        _text(x, 54, _clipped(lines[1], room, 11), "small") if lines[1] else "",
        _text(x, 69, _clipped(lines[2], room, 11), "small") if lines[2] else "",
        f'<text class="small" x="{width - 10:g}" y="21" text-anchor="end">frozen</text>' if frozen else "",
        "</g>",
    ]
    return "".join(parts)


def _glyph(block: Block, image: tuple[int, int, int]) -> str:
    """Returns the picture of a map: its height the map's, its width the channels', both in steps of doubling."""
    widest, tallest = GLYPH_PX
    height = 5.0
    if len(block.shape) == 3:
        height = max(7.0, tallest * (1 - math.log2(image[1] / block.shape[1]) / 7))
    width = min(widest, 3 + 3.7 * math.log2(max(1, block.shape[0])))
    x, y = 10 + (widest - width) / 2, (CARD_PX[1] - height) / 2
    return f'<rect class="{block.part}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="1.5"/>'


def _line(line: Line) -> str:
    """Returns the way with rounded corners, and the tip of an arrow at its end."""
    corners = list(line.corners)
    (x, y), *_ = corners
    path = f"M{x:g} {y:g}"
    for (ax, ay), (bx, by), (cx, cy) in zip(corners, corners[1:], corners[2:], strict=False):
        radius = min(RADIUS_PX, math.hypot(bx - ax, by - ay) / 2, math.hypot(cx - bx, cy - by) / 2)
        inward, outward = _towards((bx, by), (ax, ay), radius), _towards((bx, by), (cx, cy), radius)
        path += f"L{inward[0]:g} {inward[1]:g}Q{bx:g} {by:g} {outward[0]:g} {outward[1]:g}"
    (px, py), (x, y) = corners[-2:]
    back = _towards((x, y), (px, py), 7)
    path += f"L{back[0]:g} {back[1]:g}"
    dx, dy = (back[0] - x) / 7, (back[1] - y) / 7
    tip = f"M{x:g} {y:g}L{back[0] - 4 * dy:g} {back[1] + 4 * dx:g}L{back[0] + 4 * dy:g} {back[1] - 4 * dx:g}Z"
    kind = "" if line.kind == "main" else f" {line.kind}"
    grey = "" if line.kind == "main" else " grey"
    words = {"main": "", "skip": " (skip)", "averaged": " (averaged over the image)"}[line.kind]
    title = f"<title>{escape(f'{line.source} → {line.goal}{words}')}</title>"
    return f'<g>{title}<path class="line{kind}" d="{path}"/><path class="tip{grey}" d="{tip}"/></g>'


def _towards(start: tuple[float, float], end: tuple[float, float], distance: float) -> tuple[float, float]:
    length = math.hypot(end[0] - start[0], end[1] - start[1]) or 1.0
    return tuple(a + (b - a) * distance / length for a, b in zip(start, end, strict=True))  # type: ignore[return-value]


def _legend(placed: Arrangement, y: float, *, with_frozen: bool) -> list[str]:
    """Returns the meaning of lines and pictures, side by side."""
    kinds = {line.kind for line in placed.lines}
    words: dict[Kind, str] = {"main": "main path", "skip": "skip", "averaged": "averaged over the image"}
    found, x = [], float(MARGIN_PX)
    for kind, text in words.items():
        if kind in kinds:
            found.append(_line(Line("", "", kind, ((x, y - 4), (x + 28, y - 4)))).replace("<title> → </title>", ""))
            found.append(_text(x + 36, y, text, "small"))
            x += 36 + CHARACTER * 11 * len(text) + 18
    if with_frozen:
        found.append(
            f'<g class="frozen"><rect class="card" x="{x:g}" y="{y - 12:g}" width="26" height="15" rx="3"/></g>'
        )
        found.append(_text(x + 34, y, "frozen", "small"))
        x += 34 + CHARACTER * 11 * 6 + 18
    text = "bars: height for the size of the map, width for the number of channels, both logarithmic"
    found.append(_text(MARGIN_PX, y + 20, text, "small"))
    return found


def _text(x: float, y: float, text: str, kind: str = "plain") -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(text)}</text>'


def _clipped(text: str, room_px: float, size_px: float) -> str:
    """Returns the text, or as many of its words divided by commas as there is room for, and an ellipsis."""
    most = int(room_px / (CHARACTER * size_px))
    if len(text) <= most:
        return text
    kept = text[: most - 2]
    return f"{kept.rpartition(', ')[0] or kept}, …" if ", " in kept else f"{kept}…"
