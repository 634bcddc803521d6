"""Draws a network as SVG from the module itself: its blocks with their sizes, skips, and frozen parts.

A row per size of map, from the image's own at the top to the coarsest. The encoder goes down in the first column, the
decoder up in those to its right, so that U-Nets look like the letter and a skip is a straight line across. A network
that scores images is one column. Lines run in the gaps between columns and rows and never across a block.

The drawing follows the reader's light or dark setting, needs no font of its own, and has texts for screen readers.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html import escape
from string import Template
from typing import Literal, NamedTuple

from segue import networks
from segue.errors import SegueError
from segue.networks.analysis.structure import Block, trace_blocks
from segue.networks.analysis.summary import build_on_meta_device
from segue.networks.network import Network
from segue.networks.registry import NetworkSpec
from segue.spec import unknown

CARD_PX = (288.0, 80.0)
STACK_GAP_PX = 22.0  # between blocks of one cell
ROW_GAP_PX = 30.0
GUTTER_PX, LANE_PX = 44.0, 9.0  # minimum width of the gap between columns; distance of lines that run side by side
BANDS_PX = (6.0, 22.0)  # from a block's middle: where lines begin to leave, and to arrive
LEFT_PX, TOP_PX = 104.0, 84.0  # for the rows' labels, and for the title
Kind = Literal["main", "skip", "averaged"]
MARGIN_PX = 20
GLYPH_PX = (40.0, 58.0)  # the largest picture of a map: channels across, height down
TEXT_X_PX = 62
CHARACTER = 0.6  # of the size of the type: a little more than the mean width in common sans-serif faces
LEGEND_PX = 66
RADIUS_PX = 7
MIN_WIDTH_PX = 560
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
    network = build_on_meta_device(lambda: networks.build(spec, channels=channels, classes=classes))
    title = ", ".join([spec.name, *(f"{name} {value}" for name, value in spec.settings.items())])
    return drawing_of(network, (channels, height, width), title=title, frozen=frozen)


def drawing_of(
    network: Network, image: tuple[int, int, int], *, title: str = "network", frozen: Collection[str] = ()
) -> str:
    """Returns the SVG of a network that was built, for an image (C, H, W); `frozen` as of `draw_network`."""
    leaves = _frozen_leaves(network, frozen)
    blocks = trace_blocks(network, image)
    arrangement = arrange(blocks, dense=network.dense)
    counts = {leaf: network.count_parameters(owners) for leaf, owners in network.parts.items()}
    subtitle = _totals(counts, leaves)
    texts = (_clipped(title, arrangement.width, 17), subtitle)
    width = max(arrangement.width + MARGIN_PX, MIN_WIDTH_PX, MARGIN_PX + CHARACTER * 12 * len(subtitle))
    height = arrangement.height + LEGEND_PX
    description = "; ".join(f"{block.name}: {_shape(block)}" for block in blocks)
    body = [
        '<svg xmlns="http://www.w3.org/2000/svg" class="network-drawing" role="img" '
        f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}">',
        f"<title>{escape(title)}</title><desc>{escape(f'{subtitle}. {description}')}</desc>",
        f"<style>{_style()}</style>",
        '<defs><pattern id="network-frozen" width="9" height="9" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><rect class="hatch" width="9" height="9"/>'
        '<path class="stripe" d="M0 0V9"/></pattern></defs>',
        f'<rect class="paper" width="{width:g}" height="{height:g}" rx="6"/>',
        _text(MARGIN_PX, 34, texts[0], "title"),
        _text(MARGIN_PX, 56, texts[1]),
        *_row_labels(blocks, arrangement),
        *(_line(line) for line in arrangement.lines),
        *(_card(block, arrangement, image, frozen=block.leaf in leaves) for block in blocks),
        *_legend(arrangement, height - LEGEND_PX + 30, with_frozen=bool(leaves)),
        "</svg>",
    ]
    return "\n".join(body) + "\n"


# Layout: the position of each block, and the route of each line, in pixels


class Place(NamedTuple):
    """The row and column of a block, its level in the row, from the top, and its upper left corner."""

    row: int
    column: int
    level: int
    x: float
    y: float


class Line(NamedTuple):
    """A line of horizontal and vertical pieces through the corners (x, y), with an arrow at its end."""

    source: str
    goal: str
    kind: Kind
    corners: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Arrangement:
    """rows: height of the maps in each, 0 for vectors, and the row's upper and lower border; all in pixels."""

    places: dict[str, Place]
    lines: tuple[Line, ...]
    rows: tuple[tuple[int, float, float], ...]
    width: float
    height: float


def arrange(blocks: Sequence[Block], *, dense: bool) -> Arrangement:
    """Returns places and lines of the blocks of `trace_blocks`; `dense` as of `Network`."""
    # a cell for each block: the row of its size, the column of its part
    sizes = sorted({_size(block) for block in blocks}, reverse=True)
    cells = _cells(blocks, sizes, dense=dense)
    levels = [max(len(names) for (r, _), names in cells.items() if r == row) for row in range(len(sizes))]
    slots: dict[str, tuple[int, int, int]] = {}
    for (row, column), names in cells.items():
        # the encoder hangs from the row's top; decoders stand on its bottom, where the encoder's last is
        offset = 0 if column == 0 else levels[row] - len(names)
        slots |= {name: (row, column, offset + index) for index, name in enumerate(names)}

    # lines that are not straight take lanes in the gaps: right of their source, and over the row of their goal
    kinds = _kinds(blocks)
    bent = [pair for pair in kinds if not _is_straight(*pair, slots)]
    over = [pair for pair in bent if _is_blocked(*pair, slots)]
    gutters, ceilings = defaultdict(int), defaultdict(int)
    for source, goal in bent:
        gutters[slots[source][1]] += 1
        if (source, goal) in over:
            gutters[slots[goal][1] - 1] += 1
            ceilings[slots[goal][0]] += 1

    # columns and rows with room for the lanes
    columns = 1 + max(column for _, column, _ in slots.values())
    lefts, x = [], LEFT_PX
    for column in range(columns):
        lefts.append(x)
        x += CARD_PX[0] + (GUTTER_PX + LANE_PX * gutters[column] if column < columns - 1 or gutters[column] else 0.0)
    rows, y = [], TOP_PX
    for row, size in enumerate(sizes):
        y += LANE_PX * ceilings[row]
        height = levels[row] * CARD_PX[1] + (levels[row] - 1) * STACK_GAP_PX
        rows.append((size, y, y + height))
        y += height + ROW_GAP_PX
    places = {
        name: Place(row, column, level, lefts[column], rows[row][1] + level * (CARD_PX[1] + STACK_GAP_PX))
        for name, (row, column, level) in slots.items()
    }
    return Arrangement(places, _lines(kinds, places, bent, over, rows), tuple(rows), x, y - ROW_GAP_PX)


def _size(block: Block) -> int:
    return block.shape[1] if len(block.shape) == 3 else 0


def _kinds(blocks: Sequence[Block]) -> dict[tuple[str, str], Kind]:
    """Returns the kind of each line, from a block to another.

    The main path goes to each block from that of its own part which ran last before it, from the encoder's last
    block into the decoder, and from all that the head takes.
    """
    order = {block.name: index for index, block in enumerate(blocks)}
    part = {block.name: block.part for block in blocks}
    deepest = [block.name for block in blocks if block.part in ("image", "encoder")][-1]
    kinds: dict[tuple[str, str], Kind] = {}
    for block in blocks:
        inside = [link.source for link in block.inputs if part[link.source] == part[block.name] and not link.averaged]
        last = max(inside, key=lambda name: order[name]) if inside else deepest if block.part == "decoder" else None
        for link in block.inputs:
            is_main = link.source == last or block.part == "head" or block is blocks[1]
            kinds[link.source, block.name] = "main" if is_main else "averaged" if link.averaged else "skip"
    return kinds


Cells = dict[tuple[int, int], list[str]]


def _cells(blocks: Sequence[Block], sizes: list[int], *, dense: bool) -> Cells:
    """Returns the names in each cell (row, column), from the top."""
    cells: Cells = defaultdict(list)
    column_of: dict[str, int] = {}
    row_of = {block.name: sizes.index(_size(block)) for block in blocks}
    for block in blocks:
        row, column = row_of[block.name], 0
        if dense and block.part in ("decoder", "head"):
            column = _decoder_column(block, cells, column_of, row_of)
        column_of[block.name] = column
        if column == 0:
            cells[row, column].append(block.name)
        else:
            cells[row, column].insert(0, block.name)  # its arm goes up
    return dict(cells)


def _decoder_column(block: Block, cells: Cells, column_of: dict[str, int], row_of: dict[str, int]) -> int:
    """Returns the column right of the encoder where the block stands above what feeds it, or beside it."""
    fed_by = [link.source for link in block.inputs if column_of[link.source] > 0]
    row = row_of[block.name]
    if not fed_by:
        return 1
    column = max(column_of[name] for name in fed_by)
    here = cells.get((row, column), [])
    if not here and all(row_of[name] > row for name in fed_by if column_of[name] == column):
        return column
    if here and len(fed_by) == 1 and here[0] == fed_by[0]:
        return column
    return column + 1


def _is_straight(source: str, goal: str, slots: dict[str, tuple[int, int, int]]) -> bool:
    """Returns whether a vertical line joins neighbors in a column, or a horizontal one equal levels of two columns."""
    (row, column, level), (goal_row, goal_column, goal_level) = slots[source], slots[goal]
    if goal_column != column:
        return (goal_row, goal_column, goal_level) == (row, column + 1, level)
    stack = sorted((r, n) for r, c, n in slots.values() if c == column)
    return abs(stack.index((row, level)) - stack.index((goal_row, goal_level))) == 1


def _is_blocked(source: str, goal: str, slots: dict[str, tuple[int, int, int]]) -> bool:
    """Returns whether blocks of the goal's row stand in columns between the two."""
    return any(
        row == slots[goal][0] and slots[source][1] < column < slots[goal][1] for row, column, _ in slots.values()
    )


def _lines(
    kinds: dict[tuple[str, str], Kind],
    places: dict[str, Place],
    bent: Sequence[tuple[str, str]],
    over: Sequence[tuple[str, str]],
    rows: list[tuple[int, float, float]],
) -> tuple[Line, ...]:
    width, height = CARD_PX
    exits, entries = _ports(bent, places)
    ends = {place.column: place.x + width for place in places.values()}  # of the columns, to the right
    lanes, ceilings = defaultdict(int), defaultdict(int)
    lines: list[Line] = []
    # an upper source turns in a lane further left, so that lines which rise do not cross
    for pair in sorted(kinds, key=lambda pair: (places[pair[0]].column, places[pair[0]].y, places[pair[1]].y)):
        source, goal = places[pair[0]], places[pair[1]]
        corners: list[tuple[float, float]]
        if pair not in bent and source.column == goal.column:
            x, down = source.x + width / 2, goal.y > source.y
            corners = [(x, source.y + height * down), (x, goal.y + height * (not down))]
        elif pair not in bent:
            y = source.y + height / 2
            corners = [(source.x + width, y), (goal.x, y)]
        else:
            start, end = source.y + exits[pair], goal.y + entries[pair]
            lane = source.x + width + GUTTER_PX / 2 + LANE_PX * lanes[source.column]
            lanes[source.column] += 1
            corners = [(source.x + width, start), (lane, start)]
            if pair in over:
                ceilings[goal.row] += 1
                y = rows[goal.row][1] - LANE_PX * ceilings[goal.row]
                last = ends[goal.column - 1] + GUTTER_PX / 2 + LANE_PX * lanes[goal.column - 1]
                lanes[goal.column - 1] += 1
                corners += [(lane, y), (last, y), (last, end), (goal.x, end)]
            else:
                side = goal.x + width if goal.column == source.column else goal.x
                corners += [(lane, end), (side, end)]
        lines.append(Line(*pair, kinds[pair], tuple(corners)))
    return tuple(lines)


def _ports(
    bent: Sequence[tuple[str, str]], places: dict[str, Place]
) -> tuple[dict[tuple[str, str], float], dict[tuple[str, str], float]]:
    """Returns how far below its block's top each bent line leaves and arrives: above the middle for what is above.

    Lines leave in one band of heights and arrive in another, so that in the gap between two columns no level piece of
    one lies on that of another. A loop into its own column arrives on the side where lines leave.
    """
    exits, entries = {}, {}
    for end, other_end, heights in ((0, 1, exits), (1, 0, entries)):
        sides: dict[tuple[str, bool], list[tuple[str, str]]] = defaultdict(list)
        for pair in bent:
            sides[pair[end], places[pair[other_end]].y > places[pair[end]].y].append(pair)
        for (_, is_below), pairs in sides.items():
            pairs.sort(key=lambda pair: places[pair[other_end]].y, reverse=not is_below)
            step = min(5.0, (BANDS_PX[1] - BANDS_PX[0] - 2) / len(pairs))
            for index, pair in enumerate(pairs):
                is_loop = places[pair[0]].column == places[pair[1]].column
                first = BANDS_PX[0] if end == 0 or is_loop else BANDS_PX[1]
                heights[pair] = CARD_PX[1] / 2 + (first + step * index) * (1 if is_below else -1)
    return exits, entries


# Writing SVG


def _style() -> str:
    """Returns the drawing's CSS in plain colors, which every program reads, and the dark ones for readers who ask."""
    fonts = 'system-ui, "Segoe UI", "Helvetica Neue", Arial, "DejaVu Sans", sans-serif'
    light, dark = (Template(RULES).substitute(colors) for colors in (LIGHT, DARK))
    fitting = "@media screen { .network-drawing { max-width: 100%; height: auto; } }"  # for browsers alone
    base = f".network-drawing {{ font-family: {fonts}; }}\n{fitting}"
    return f"\n{base}{light}@media (prefers-color-scheme: dark) {{{dark}}}\n"


def _frozen_leaves(network: Network, frozen: Collection[str]) -> set[str]:
    parts = network.parts
    leaves: set[str] = set()
    for part in frozen:
        below = {leaf for leaf in parts if leaf == part or leaf.startswith(f"{part}.")}
        if not below:
            raise SegueError(f"frozen: {unknown(part, ['encoder', 'decoder', *parts], 'part of this network')}.")
        leaves |= below
    return leaves


def _totals(counts: dict[str, int], frozen: set[str]) -> str:
    parts: dict[str, int] = {}
    for leaf, count in counts.items():
        part = leaf.partition(".")[0]
        parts[part] = parts.get(part, 0) + count
    totals = f"{sum(counts.values()):,} parameters: " + ", ".join(f"{part} {count:,}" for part, count in parts.items())
    return totals + (f"; {sum(counts[leaf] for leaf in frozen):,} frozen" if frozen else "")


def _shape(block: Block) -> str:
    """Returns "64 channels, 128×128", and for vectors "512 values"."""
    names = {"image": "channel", "head": "score"}
    noun = names.get(block.part, "channel" if len(block.shape) == 3 else "value")
    count = f"{block.shape[0]:,} {noun}{'' if block.shape[0] == 1 else 's'}"
    return count + (f", {block.shape[1]}×{block.shape[2]}" if len(block.shape) == 3 else "")


def _row_labels(blocks: Sequence[Block], arrangement: Arrangement) -> list[str]:
    image = blocks[0].shape
    widths = {block.shape[1]: block.shape[2] for block in blocks if len(block.shape) == 3}
    labels = []
    for size, top, bottom in arrangement.rows:
        middle = (top + bottom) / 2
        stride = image[1] / size if size else 0
        scale = "full size" if stride == 1 else f"1/{stride:g}" if size else "no map"
        labels.append(_text(MARGIN_PX, middle - 2, f"{size}×{widths[size]}" if size else "values"))
        labels.append(_text(MARGIN_PX, middle + 14, scale, "small"))
        if size != arrangement.rows[0][0]:
            labels.append(f'<path class="rule" d="M{MARGIN_PX} {top - 15:g}H{LEFT_PX - 14:g}"/>')
    return labels


def _card(block: Block, arrangement: Arrangement, image: tuple[int, int, int], *, frozen: bool) -> str:
    place = arrangement.places[block.name]
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
    max_width, max_height = GLYPH_PX
    height = 5.0
    if len(block.shape) == 3:
        height = max(7.0, max_height * (1 - math.log2(image[1] / block.shape[1]) / 7))
    width = min(max_width, 3 + 3.7 * math.log2(max(1, block.shape[0])))
    x, y = 10 + (max_width - width) / 2, (CARD_PX[1] - height) / 2
    return f'<rect class="{block.part}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="1.5"/>'


def _line(line: Line) -> str:
    """Returns the line with rounded corners, and the tip of an arrow at its end."""
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
    gray = "" if line.kind == "main" else " grey"
    words = {"main": "", "skip": " (skip)", "averaged": " (averaged over the image)"}[line.kind]
    title = f"<title>{escape(f'{line.source} → {line.goal}{words}')}</title>"
    return f'<g>{title}<path class="line{kind}" d="{path}"/><path class="tip{gray}" d="{tip}"/></g>'


def _towards(start: tuple[float, float], end: tuple[float, float], distance: float) -> tuple[float, float]:
    length = math.hypot(end[0] - start[0], end[1] - start[1]) or 1.0
    return tuple(a + (b - a) * distance / length for a, b in zip(start, end, strict=True))  # type: ignore[return-value]


def _legend(arrangement: Arrangement, y: float, *, with_frozen: bool) -> list[str]:
    """Returns the meaning of lines and pictures, side by side."""
    kinds = {line.kind for line in arrangement.lines}
    words: dict[Kind, str] = {"main": "main path", "skip": "skip", "averaged": "averaged over the image"}
    items, x = [], float(MARGIN_PX)
    for kind, text in words.items():
        if kind in kinds:
            items.append(_line(Line("", "", kind, ((x, y - 4), (x + 28, y - 4)))).replace("<title> → </title>", ""))
            items.append(_text(x + 36, y, text, "small"))
            x += 36 + CHARACTER * 11 * len(text) + 18
    if with_frozen:
        items.append(
            f'<g class="frozen"><rect class="card" x="{x:g}" y="{y - 12:g}" width="26" height="15" rx="3"/></g>'
        )
        items.append(_text(x + 34, y, "frozen", "small"))
        x += 34 + CHARACTER * 11 * 6 + 18
    text = "bars: height for the size of the map, width for the number of channels, both logarithmic"
    items.append(_text(MARGIN_PX, y + 20, text, "small"))
    return items


def _text(x: float, y: float, text: str, kind: str = "plain") -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(text)}</text>'


def _clipped(text: str, room_px: float, size_px: float) -> str:
    """Returns the text, or as many of its words divided by commas as there is room for, and an ellipsis."""
    max_length = int(room_px / (CHARACTER * size_px))
    if len(text) <= max_length:
        return text
    start = text[: max_length - 2]
    return f"{start.rpartition(', ')[0] or start}, …" if ", " in start else f"{start}…"
