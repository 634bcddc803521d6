from __future__ import annotations

import re
from functools import cache
from itertools import combinations
from xml.etree import ElementTree

import pytest
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import FontProperties

from segue import networks
from segue.errors import SegueError
from segue.networks.analysis.drawing import CARD_PX, Arrangement, arrange, draw_network, drawing_of
from segue.networks.analysis.structure import Block, trace_blocks
from segue.networks.analysis.summary import build_on_meta_device
from segue.networks.network import Network
from segue.networks.registry import NetworkSpec

SVG = "{http://www.w3.org/2000/svg}"
RENDERER = RendererAgg(1, 1, 72)  # a point is a pixel
SIZES_PX = {"title": 17, "name": 13, "plain": 12, "small": 11}
NAMES = [
    "cellpose",
    "alexnet-small",
    "unetplusplus-resnet18",
    "upernet-resnet18",
    "vit-vit_tiny_patch16_224",
]
SOME = [*NAMES[:1], *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])]
Box = tuple[float, float, float, float]


@cache
def built(name: str) -> Network:
    spec = NetworkSpec(name=name)
    return build_on_meta_device(lambda: networks.build(spec, channels=1, classes=2))


@cache
def drawn(name: str) -> str:
    return drawing_of(built(name), (1, 64, 64), title=name, frozen=("encoder",))


@cache
def blocks_of(name: str) -> tuple[Block, ...]:
    return trace_blocks(built(name), (1, 64, 64))


@cache
def arranged(name: str) -> Arrangement:
    return arrange(blocks_of(name), dense=built(name).dense)


@cache
def text_boxes(svg: str) -> list[tuple[str, Box]]:
    """Returns each text with the box it fills in DejaVu Sans, which is wider than most."""
    actual = []

    def visit(element: ElementTree.Element, x: float, y: float) -> None:
        moved = element.get("transform", "")
        if moved.startswith("translate("):
            dx, dy = map(float, moved[10:-1].split())
            x, y = x + dx, y + dy
        if element.tag == f"{SVG}text" and element.text:
            kind = element.get("class", "")
            size = SIZES_PX[kind]
            weight = "bold" if kind in ("title", "name") else "normal"
            font = FontProperties(family="DejaVu Sans", weight=weight, size=size)
            width, _, _ = RENDERER.get_text_width_height_descent(element.text, font, False)
            left = x + float(element.get("x", 0)) - (width if element.get("text-anchor") == "end" else 0)
            base = y + float(element.get("y", 0))
            actual.append((element.text, (left, base - 0.75 * size, left + width, base + 0.22 * size)))
        for child in element:
            visit(child, x, y)

    visit(ElementTree.fromstring(svg), 0.0, 0.0)
    return actual


def overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@pytest.mark.parametrize("name", SOME)
def test_texts_neither_overlap_nor_leave_the_drawing(name: str):
    """In a wide typeface every text stands free of every other and inside the picture."""
    boxes = text_boxes(drawn(name))
    assert len(boxes) > 10
    assert [(a, b) for (a, one), (b, other) in combinations(boxes, 2) if overlap(one, other)] == []
    width, height = map(float, ElementTree.fromstring(drawn(name)).get("viewBox", "").split()[2:])
    assert [text for text, (x0, y0, x1, y1) in boxes if x0 < 0 or y0 < 0 or x1 > width or y1 > height] == []


@pytest.mark.parametrize("name", SOME)
def test_texts_stay_in_their_blocks(name: str):
    """What is written in a block ends before its border."""
    placed = arranged(name)
    cards = [(p.x, p.y, p.x + CARD_PX[0], p.y + CARD_PX[1]) for p in placed.places.values()]
    for text, box in text_boxes(drawn(name)):
        for card in cards:
            if overlap(box, card):
                assert card[0] <= box[0] and box[2] <= card[2] and card[1] <= box[1] and box[3] <= card[3], text


@pytest.mark.parametrize("name", SOME)
def test_lines_join_blocks_and_cross_none(name: str):
    """Every use of one block by another is drawn once, from border to border, without crossing a block."""
    placed = arranged(name)
    links = {(link.source, b.name) for b in blocks_of(name) for link in b.inputs}
    assert sorted((line.source, line.goal) for line in placed.lines) == sorted(links)
    cards = {n: (p.x, p.y, p.x + CARD_PX[0], p.y + CARD_PX[1]) for n, p in placed.places.items()}
    assert not [pair for pair in combinations(cards.values(), 2) if overlap(*pair)]
    for line in placed.lines:
        for end, (x, y) in ((line.source, line.corners[0]), (line.goal, line.corners[-1])):
            x0, y0, x1, y1 = cards[end]
            assert (x in (x0, x1) and y0 < y < y1) or (y in (y0, y1) and x0 < x < x1)
        for (ax, ay), (bx, by) in zip(line.corners, line.corners[1:], strict=False):
            assert ax == bx or ay == by
            way = (min(ax, bx), min(ay, by), max(ax, bx), max(ay, by))
            assert not [n for n, card in cards.items() if overlap(way, card)], line


@pytest.mark.parametrize(
    "name",
    ["cellpose", *(pytest.param(n, marks=pytest.mark.slow) for n in ("unetplusplus-resnet18", "upernet-resnet18"))],
)
def test_lines_of_different_origin_never_run_on_top_of_each_other(name: str):
    """Two lines may cross or end at one block, but share no piece of way."""
    pieces = []
    for line in arranged(name).lines:
        for (ax, ay), (bx, by) in zip(line.corners, line.corners[1:], strict=False):
            pieces.append((line, (min(ax, bx), min(ay, by), max(ax, bx), max(ay, by))))
    for (one, a), (other, b) in combinations(pieces, 2):
        both_upright, both_level = a[0] == a[2] == b[0] == b[2], a[1] == a[3] == b[1] == b[3]
        if one is not other and (both_upright or both_level):
            shared = min(a[3], b[3]) - max(a[1], b[1]) if both_upright else min(a[2], b[2]) - max(a[0], b[0])
            assert shared <= 0, (one, other)


def test_a_unet_looks_like_one():
    """The encoder goes down on the left, the decoder up on the right, and skips are straight."""
    placed = arranged("resunet")
    left = [placed.places[name] for name in ("image", "encoder.stem", "encoder.0", "encoder.3")]
    right = [placed.places[name] for name in ("decoder.0", "decoder.2", "decoder.4", "head")]
    assert len({p.x for p in left}) == len({p.x for p in right}) == 1 and left[0].x < right[0].x
    assert [p.y for p in left] == sorted(p.y for p in left)
    assert [p.y for p in right] == sorted((p.y for p in right), reverse=True)
    assert all(len(line.corners) == 2 for line in placed.lines if line.kind == "skip")


def test_frozen_parts_are_marked_in_words_too():
    """As many blocks say that they are frozen as lie in the frozen part, and the sum is told."""
    svg = draw_network(
        NetworkSpec(name="resunet", width=8), channels=1, classes=2, size=32, frozen=("encoder.0", "head")
    )
    root = ElementTree.fromstring(svg)
    marked = [g for g in root.iter(f"{SVG}g") if g.get("class") == "block frozen"]
    assert [(g.findtext(f"{SVG}title") or "").split("\n")[0] for g in marked] == ["encoder.0", "head"]
    counts = {b.name: b.parameters for b in trace_blocks(built_small(), (1, 32, 32))}
    assert f"{counts['encoder.0'] + counts['head']:,} frozen" in svg


def built_small() -> Network:
    spec = NetworkSpec(name="resunet", width=8)
    return build_on_meta_device(lambda: networks.build(spec, channels=1, classes=2))


def test_drawings_are_the_same_each_time_and_follow_the_reader():
    """Equal networks give equal bytes; every colour has a dark form, and both are plain, as not only browsers read."""
    spec = NetworkSpec(name="cellpose", width=8)
    again, first = (draw_network(spec, channels=1, classes=2, size=64) for _ in range(2))
    assert again == first
    light, dark = again.split("</style>")[0].split("prefers-color-scheme: dark")
    inks = [re.findall("#[0-9a-f]{6}", rules) for rules in (light, dark)]
    assert len(inks[0]) == len(inks[1]) and len(set(inks[0])) == len(set(inks[1])) == 11
    assert not set(inks[0]) & set(inks[1])
    assert "var(" not in again and "style=" not in again


def test_a_size_that_does_not_fit_is_told():
    """A size that is no multiple of what the network halves is refused in our own words, before anything is built."""
    with pytest.raises(SegueError, match="100 × 100 px; heights and widths must be multiples of 32; give a size of 96"):
        draw_network(NetworkSpec(name="resunet", width=8), channels=1, classes=2, size=100)


def test_an_unknown_part_is_refused():
    """A part that the network lacks is named with those that it has."""
    with pytest.raises(SegueError, match=r"decoder\.7.*decoder\.4"):
        draw_network(NetworkSpec(name="resunet", width=8), channels=1, classes=2, size=32, frozen=("decoder.7",))
