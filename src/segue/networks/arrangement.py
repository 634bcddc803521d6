"""Where each block of a drawn network stands, and the way of each line between them, in pixels.

A row per size of map, from the image's own at the top to the coarsest. The encoder goes down in the first column, the
decoder up in those to its right, so that U-Nets look like the letter and a skip is a straight line across. A network
that scores images is one column. Lines run in the gaps between columns and rows and never across a block.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from segue.networks.anatomy import Block

CARD_PX = (288.0, 80.0)
STACK_GAP_PX = 22.0  # between blocks of one cell
ROW_GAP_PX = 30.0
GUTTER_PX, LANE_PX = 44.0, 9.0  # least width of the gap between columns; distance of lines that run side by side
BANDS_PX = (6.0, 22.0)  # from a block's middle: where lines begin to leave, and to arrive
LEFT_PX, TOP_PX = 104.0, 84.0  # for the rows' labels, and for the title

Kind = Literal["main", "skip", "averaged"]


class Place(NamedTuple):
    """The cell, the block's place in it from the top, and the upper left corner of the block."""

    row: int
    column: int
    x: float
    y: float


class Line(NamedTuple):
    """A way of horizontal and vertical pieces through the corners (x, y); an arrow stands at its end."""

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
    """Returns places and lines of the blocks of `anatomy`; `dense` as of `Network`."""
    sizes = sorted({_size(block) for block in blocks}, reverse=True)
    cells = _cells(blocks, sizes, dense=dense)
    column_of = {name: column for (_, column), names in cells.items() for name in names}
    row_of = {name: row for (row, _), names in cells.items() for name in names}
    kinds = _kinds(blocks)
    bent = [
        (source, goal)
        for source, goal in kinds
        if not _is_neighbour(source, goal, cells, row_of, column_of) and not _is_across(source, goal, cells, row_of)
    ]
    over = [pair for pair in bent if _is_blocked(*pair, cells, row_of, column_of)]
    gutters, ceilings = defaultdict(int), defaultdict(int)  # lanes in each
    for pair in bent:
        gutters[column_of[pair[0]]] += 1
        if pair in over:
            gutters[column_of[pair[1]] - 1] += 1
            ceilings[row_of[pair[1]]] += 1
    count = 1 + max(column_of.values())
    lefts, x = [], LEFT_PX
    for column in range(count):
        lefts.append(x)
        x += CARD_PX[0] + (GUTTER_PX + LANE_PX * gutters[column] if column < count - 1 or gutters[column] else 0.0)
    places: dict[str, Place] = {}
    rows, y = [], TOP_PX
    for row, size in enumerate(sizes):
        y += LANE_PX * ceilings[row]
        most = max(len(names) for (r, _), names in cells.items() if r == row)
        height = most * CARD_PX[1] + (most - 1) * STACK_GAP_PX
        for (r, column), names in cells.items():
            if r == row:
                # the encoder hangs from the row's top; decoders stand on its bottom, where the encoder's last is
                offset = 0 if column == 0 else most - len(names)
                for index, name in enumerate(names):
                    top = y + (offset + index) * (CARD_PX[1] + STACK_GAP_PX)
                    places[name] = Place(row, column, lefts[column], top)
        rows.append((size, y, y + height))
        y += height + ROW_GAP_PX
    lines = _lines(kinds, places, set(bent), set(over), rows)
    return Arrangement(places, lines, tuple(rows), x, y - ROW_GAP_PX)


def _size(block: Block) -> int:
    return block.shape[1] if len(block.shape) == 3 else 0


def _kinds(blocks: Sequence[Block]) -> dict[tuple[str, str], Kind]:
    """Returns what kind of line goes from a block to another.

    The main path goes to each block from that of its own part which was run last before it, from the encoder's last
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


def _is_neighbour(source: str, goal: str, cells: Cells, row_of: dict[str, int], column_of: dict[str, int]) -> bool:
    """Returns whether a vertical line joins the two: they share a column and nothing stands between them."""
    column = column_of[source]
    if column_of[goal] != column:
        return False
    ordered = [name for row in range(1 + max(row_of.values())) for name in cells.get((row, column), [])]
    return abs(ordered.index(source) - ordered.index(goal)) == 1


def _is_across(source: str, goal: str, cells: Cells, row_of: dict[str, int]) -> bool:
    """Returns whether a horizontal line joins the two: the same height in neighbouring columns."""
    row = row_of[source]
    columns = {name: (column, names) for (r, column), names in cells.items() if r == row for name in names}
    if goal not in columns:
        return False
    (column, names), (following, others) = columns[source], columns[goal]
    most = max(len(found) for (r, _), found in cells.items() if r == row)

    def level(name: str, column: int, names: list[str]) -> int:
        return names.index(name) + (0 if column == 0 else most - len(names))

    return following == column + 1 and level(source, column, names) == level(goal, following, others)


def _is_blocked(source: str, goal: str, cells: Cells, row_of: dict[str, int], column_of: dict[str, int]) -> bool:
    """Returns whether blocks of the goal's row stand in columns between the two."""
    between = range(column_of[source] + 1, column_of[goal])
    return any((row_of[goal], column) in cells for column in between)


def _lines(
    kinds: dict[tuple[str, str], Kind],
    places: dict[str, Place],
    bent: set[tuple[str, str]],
    over: set[tuple[str, str]],
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
    bent: set[tuple[str, str]], places: dict[str, Place]
) -> tuple[dict[tuple[str, str], float], dict[tuple[str, str], float]]:
    """Returns how far below its block's top each bent line leaves and arrives: above the middle for what is above.

    Lines leave in one band of heights and arrive in another, so that in the gap between two columns no level piece of
    one lies on that of another. A loop into its own column arrives on the side where lines leave.
    """
    exits, entries = {}, {}
    for mine, other, found in ((0, 1, exits), (1, 0, entries)):
        sides: dict[tuple[str, bool], list[tuple[str, str]]] = defaultdict(list)
        for pair in bent:
            sides[pair[mine], places[pair[other]].y > places[pair[mine]].y].append(pair)
        for (_, is_below), pairs in sides.items():
            pairs.sort(key=lambda pair: places[pair[other]].y, reverse=not is_below)
            step = min(5.0, (BANDS_PX[1] - BANDS_PX[0] - 2) / len(pairs))
            for index, pair in enumerate(pairs):
                is_loop = places[pair[0]].column == places[pair[1]].column
                first = BANDS_PX[0] if mine == 0 or is_loop else BANDS_PX[1]
                found[pair] = CARD_PX[1] / 2 + (first + step * index) * (1 if is_below else -1)
    return exits, entries
