"""The contents of a dataset: as text, and as a contact sheet of tiles with their labels.

Classes have the same color in every picture: live blue, dead vermilion, which differ for any kind of color vision;
other classes take the remaining colors.
"""

from __future__ import annotations

import colorsys
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segue.data import splits
from segue.data.dataset import Dataset
from segue.data.spec import Layer, SplitSpec
from segue.data.splits import PARTS
from segue.errors import SegueError
from segue.fingerprint import hash_dataset
from segue.labels import IGNORED, numbering
from segue.labels.numbering import LabelMeasures
from segue.spec import unknown
from segue.storage import replacing
from segue.units import size_range

MAX_VALUES = 8
MAX_VALUE_CHARACTERS = 100  # of a value of the provenance
MAX_SAMPLED_TILES = 1000  # of instance layers, whose fractions are not stored
MAX_MEASURED = 200  # micrographs whose label images are measured, spread evenly
STANDARD_COLUMNS = ("group", "source", "y_px", "x_px", "pixel_size_nm", "picture")


def describe(path: Path, *, notes: bool = True) -> str:
    """Returns a text with one line each for tiles, layers, groups, conditions, splits, notes, provenance and digest.

    notes: whether to repeat what `segue prepare` told.
    """
    with Dataset(path) as data:
        channels, height, width = data.tile_shape
        samples = data.samples()
        sources, stored = set(samples["source"]), set(data.micrograph_ids())
        measures = {layer.name: _measure_labels(data, layer) for layer in data.layers.values()}
        rows = [
            ("tiles", f"{data.count} of {height} × {width} px, {channels} × {data.dtype} ({', '.join(data.channels)})"),
            ("size", f"{path.stat().st_size / 1e6:.1f} MB"),
            ("pixel size", _pixel_sizes(data, samples)),
            ("padding", _padding(data)),
            *((f"layer {layer.name}", _layer(data, layer)) for layer in data.layers.values()),
            *((f"parts of {name}", _count_parts(layer)) for name, layer in measures.items() if layer),
            ("labels", "" if data.layers else "none: for reconstruction and classes of whole images"),
            ("groups", f"{len(set(samples['group']))}, e.g. {samples['group'][0]}" if data.count else "none"),
            ("micrographs", f"{len(sources | stored)}: {len(sources)} cut into tiles, {len(stored)} kept whole"),
            *_conditions(samples),
            *((f"split {name}", _split(data, name, samples["group"])) for name in data.split_names()),
            *(("WARNING", warning) for warning in dataset_warnings(data)),
            *(("note", note) for note in (_notes(data, measures) if notes else ())),
            ("checksums", "" if data.has_checksums else "none, made by an earlier version: damage cannot be seen"),
            *_provenance(data.attributes),
        ]
    rows.append(("digest", hash_dataset(path)))
    left = max(len(name) for name, _ in rows)
    return "\n".join([str(path), *(f"  {name:<{left}}  {text}" for name, text in rows if text)])


def dataset_warnings(data: Dataset) -> list[str]:
    """Returns warnings before training: a dataset without tiles, splits with an empty part, and splits that leak.

    For a stored split that divides groups, neighbors across the border are counted over the whole dataset.
    """
    if not data.count:
        return ["no tiles: all wells are unstained, and their whole images are for prediction only (`segue count`)"]
    warnings = []
    for name in data.split_names():
        split = data.resolve_split(SplitSpec(stored=name))
        if split.stored is not None:
            continue  # it came with the data
        codes = data.split_codes(name)
        warnings.append(splits.empty_parts_message(name, split, data.samples(), codes))
        if split.leaks_groups:
            training, validation = (np.flatnonzero(codes == PARTS.index(part)) for part in ("train", "validation"))
            warnings.append(f"'{name}': {splits.leak_message(split.description, data.neighbors(training, validation))}")
    return [warning for warning in warnings if warning]


def contact_sheet(path: Path, out_png: Path, *, count: int = 24, layer: str | None = None) -> None:
    """Writes a PNG of `count` tiles, spread over the conditions and groups, with the outlines of their labels.

    Intensities are stretched between the 0.5th and 99.8th percentile of each tile. Ignored pixels are hatched, padding
    is cut off by a dashed line. `layer` is the layer drawn; without it, the first, or none where there is none.
    """

    if out_png.suffix.lower() != ".png":
        raise SegueError(f"{out_png}: a contact sheet is a PNG picture; give a name that ends in .png.")
    with Dataset(path) as data:
        if not data.count:
            raise SegueError(f"{path}: holds no tiles, so there is nothing to draw; give a dataset with tiles.")
        if layer is not None and layer not in data.layers:
            raise SegueError(f"{path}: {unknown(layer, data.layers, 'label layer')}.")
        name = layer or next(iter(data.layers), None)
        drawn_layer = Layer("", "classes", ("background",)) if name is None else data.layers[name]
        indices = spread(data.samples(), count)
        images, labels = data.read(indices, layer=name)
        if labels is None:
            labels = np.zeros((len(images), *images.shape[2:]), dtype=np.int32)
        captions = [_caption(data.samples(), int(index)) for index in indices]
        sheet = draw_sheet(
            images,
            labels,
            layer=drawn_layer,
            valid=data.valid(indices),
            captions=captions,
            heading=f"{path.name}: {len(indices)} of {data.count} tiles, {f'layer {name}' if name else 'no labels'}",
        )
    with replacing(out_png) as partial:
        sheet.save(partial, format="PNG", optimize=True)


def spread(samples: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    """Returns `count` sample indices, evenly spaced when ordered by conditions, then group."""
    keys = ["x_px", "y_px", "group", *reversed(_nominal(samples))]
    order = np.lexsort([np.unique(samples[key], return_inverse=True)[1] for key in keys])
    places = np.linspace(0, len(order) - 1, min(max(count, 1), len(order))).round().astype(int)
    return order[np.unique(places)]


def _nominal(samples: Mapping[str, np.ndarray]) -> list[str]:
    """Returns the names of the conditions with more than one value, except the random ones."""
    return [
        name
        for name, values in sorted(samples.items())
        if name not in STANDARD_COLUMNS and not name.endswith("_drawn") and len(np.unique(values)) > 1
    ]


def _caption(samples: Mapping[str, np.ndarray], index: int) -> tuple[str, str]:
    source = str(samples["source"][index])
    source = source if len(source) <= 22 else f"{source[:10]}…{source[-11:]}"
    conditions = ", ".join(f"{name} {_format(samples[name][index])}" for name in _nominal(samples))
    return source, conditions or f"y {samples['y_px'][index]}, x {samples['x_px'][index]} px"


def _pixel_sizes(data: Dataset, samples: Mapping[str, np.ndarray]) -> str:
    if "pixel_size_nm" in data.attributes:
        return f"{_format(data.attributes['pixel_size_nm'])} nm"
    sizes_nm = dict(zip(samples["source"], samples.get("pixel_size_nm", ()), strict=False))  # of images
    known = [size for size in sizes_nm.values() if math.isfinite(size)]
    unknown_images = [source for source, size in sizes_nm.items() if not math.isfinite(size)]
    if not known or not unknown_images:
        return size_range(known) if known else "unknown"
    counts = f"of {len(known)} images, unknown of {len(unknown_images)}"
    return f"{size_range(known)} {counts}, e.g. {unknown_images[0]}"


def _padding(data: Dataset) -> str:
    _, height, width = data.tile_shape
    boxes = data.valid(np.arange(data.count))
    padded = int(((boxes[:, 2] - boxes[:, 0] < height) | (boxes[:, 3] - boxes[:, 1] < width)).sum())
    return f"in {padded} tiles" if padded else "none"


def _layer(data: Dataset, layer: Layer) -> str:
    if not data.count:
        return f"{layer.kind}: {', '.join(layer.names)}"
    if layer.kind == "classes":
        counts = data.class_counts(layer.name).sum(axis=0)
        shares = counts / max(1, counts.sum())
        named = ", ".join(f"{name} {share:.2%}" for name, share in zip(layer.names, shares, strict=True))
        return f"classes: {named}"
    indices = spread(data.samples(), MAX_SAMPLED_TILES)
    objects, covered, seen = 0, 0, 0
    for start in range(0, len(indices), 64):
        _, labels = data.read(np.sort(indices)[start : start + 64], layer=layer.name)
        assert labels is not None
        objects += sum(len(np.unique(tile[tile > 0])) for tile in labels)
        covered += int((labels > 0).sum())
        seen += int((labels >= 0).sum())
    whole = "" if len(indices) == data.count else f" (from {len(indices)} tiles)"
    return (
        f"instances of {layer.names[1]}: {objects / len(indices):.1f} per tile, "
        f"{covered / max(1, seen):.2%} of the pixels{whole}"
    )


def _measure_labels(data: Dataset, layer: Layer) -> dict[str, LabelMeasures]:
    """Returns the counts of the stored label images of a layer by micrograph, at most MAX_MEASURED of them."""
    labeled = [source for source in data.micrograph_ids() if layer.name in data.micrograph_layers(source)]
    chosen = labeled[:: -(-len(labeled) // MAX_MEASURED)] if labeled else []
    return {source: numbering.measure(data.micrograph(source).labels[layer.name]) for source in chosen}


def _count_parts(measures: Mapping[str, LabelMeasures]) -> str:
    """Returns the numbers of values, connected parts, specks and holes of label images, and the sizes of values."""
    labeled = [one for one in measures.values() if one.values]
    if not labeled:
        return f"none in {len(measures)} label images"
    parts, specks, holed, divided = (
        sum(getattr(one, name) for one in labeled) for name in ("parts", "specks", "holed", "objects_divided")
    )
    smallest, largest = min(one.smallest_px for one in labeled), max(one.largest_px for one in labeled)
    median = np.median([one.median_px for one in labeled])
    return (
        f"{sum(one.values for one in labeled):,} values in {len(labeled)} of {len(measures)} label images, "
        f"{divided:,} of them in several parts; {parts + specks:,} parts, {specks:,} of at most "
        f"{numbering.SPECK_PX} px, {holed:,} with holes; {smallest:,} to {largest:,} px a value, "
        f"in the median {median:,.0f}"
    )


def _notes(data: Dataset, measures: Mapping[str, Mapping[str, LabelMeasures]]) -> list[str]:
    """Returns the notes of `segue prepare`; of a dataset without any, what its label images look like."""
    if "notes" in data.attributes:
        return str(data.attributes["notes"]).splitlines()
    notes = []
    for layer in data.layers.values():
        classes = len(layer.names) if layer.kind == "classes" else None
        refusal, odd = numbering.judge(measures[layer.name], classes=classes, number_parts=False)
        notes += [f"{layer.name}: {note}" for note in [*([refusal] if refusal else []), *odd]]
    return notes


def _conditions(samples: Mapping[str, np.ndarray]) -> list[tuple[str, str]]:
    rows = []
    for name, values in sorted(samples.items()):
        if name in STANDARD_COLUMNS:
            continue
        if name.endswith("_drawn"):
            known = values[np.isfinite(values)]
            rows.append((name, f"{_format(known.min())} to {_format(known.max())}" if known.size else "unknown"))
            continue
        known = values[~np.isnan(values)] if values.dtype.kind == "f" else values
        missing, counts = len(values) - len(known), Counter(known.tolist())
        if not counts:
            rows.append((name, "unknown"))
            continue
        listed = [f"{_format(value)} ({counts[value]})" for value in sorted(counts)[:MAX_VALUES]]
        more = f", … {len(counts)} values" if len(counts) > MAX_VALUES else ""
        unknown_too = f", unknown ({missing})" if missing else ""
        rows.append((name, ", ".join(listed) + more + unknown_too))
    return rows


def _split(data: Dataset, name: str, groups: np.ndarray) -> str:
    codes = data.split_codes(name)
    attributes = data.split_attributes(name)
    how = (
        "given"
        if attributes.get("given")
        else ", ".join(f"{key} {_format(value)}" for key, value in sorted(attributes.items()))
    )
    parts = [
        f"{part} {int((codes == code).sum())} tiles of {len(set(groups[codes == code]))} groups"
        for code, part in enumerate(PARTS)
    ]
    return f"{'; '.join(parts)} ({how})"


def _provenance(attributes: Mapping[str, Any]) -> list[tuple[str, str]]:
    text = str(attributes.get("provenance", ""))
    try:
        provenance = json.loads(text)
        if isinstance(provenance, dict):
            return [(name, _brief(value)) for name, value in provenance.items()]
    except (ValueError, RecursionError):  # no JSON, or nested too deeply
        pass
    return [("provenance", text)]


def _brief(value: Any) -> str:
    """Returns a value of the provenance as a person reads it: a long table by its name and the names of its tables."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if isinstance(value, str) or len(text) <= MAX_VALUE_CHARACTERS:
        return text
    if not isinstance(value, dict):
        return f"{len(value)} entries, in the attribute provenance"
    tables = ", ".join(key for key, inner in value.items() if isinstance(inner, dict))
    name = f"{value['name']}, " if "name" in value else ""
    count = _count_settings(value)
    return f"{name}{count} setting{'s' * (count != 1)}{f' ({tables})' if tables else ''}, in the attribute provenance"


def _count_settings(table: Mapping[str, Any]) -> int:
    return sum(_count_settings(value) if isinstance(value, dict) else 1 for value in table.values())


def _format(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (float, np.floating)) else str(value)


FIXED_PLACES = {"live": 0, "dead": 1}  # positions in a palette
# for thin lines on gray images: blue, vermilion, green, pink, yellow, violet
ON_IMAGES = ((46, 166, 255), (255, 90, 31), (0, 200, 120), (230, 60, 170), (255, 210, 0), (150, 110, 255))


def palette_indices(names: Sequence[str]) -> tuple[int, ...]:
    """Returns for each class except the first, the background, its index in a palette; from 6 on a palette repeats.

    >>> palette_places(("background", "cell", "live", "dead", "outline"))
    (2, 0, 1, 3)
    >>> palette_places(("background", "pore", "grain"))
    (0, 1)
    """
    reserved = {FIXED_PLACES[name] for name in names[1:] if name in FIXED_PLACES}
    free = iter([place for place in range(len(names) + len(FIXED_PLACES)) if place not in reserved])
    return tuple(FIXED_PLACES[name] if name in FIXED_PLACES else next(free) for name in names[1:])


def class_colors(names: Sequence[str]) -> tuple[tuple[int, int, int], ...]:
    """Returns RGB (0 to 255) of each class, black for the first, the background."""
    return ((0, 0, 0), *(ON_IMAGES[place % len(ON_IMAGES)] for place in palette_indices(names)))


PAPER, INK, FAINT = (255, 255, 255), (25, 25, 30), (120, 120, 128)
MIN_TILE_PX = 220  # minimum side of a tile on the sheet
GAP, MARGIN, CAPTION = 14, 22, 40


def draw_sheet(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    layer: Layer,
    valid: np.ndarray,
    captions: Sequence[tuple[str, str]],
    heading: str,
) -> Any:
    """Returns a PIL image of tiles (n, C, H, W) with labels (n, H, W), valid boxes (n, 4) and two captions each."""
    count = len(images)
    scale = max(1, math.ceil(MIN_TILE_PX / max(images.shape[2:])))
    height, width = images.shape[2] * scale, images.shape[3] * scale
    columns = min(count, max(1, round(math.sqrt(count * 1.6))))
    rows = math.ceil(count / columns)
    top = MARGIN + 62
    size = (2 * MARGIN + columns * (width + GAP) - GAP, top + rows * (height + CAPTION + GAP) - GAP + MARGIN)
    sheet = Image.new("RGB", (max(size[0], 640), size[1]), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, MARGIN - 6), heading, fill=INK, font=load_font(18))
    _legend(pen, layer, (MARGIN, MARGIN + 26))
    for index in range(count):
        x = MARGIN + (index % columns) * (width + GAP)
        y = top + (index // columns) * (height + CAPTION + GAP)
        tile = Image.fromarray(colored(images[index], labels[index], layer, valid[index], scale))
        sheet.paste(tile, (x, y))
        _dashed_box(pen, valid[index] * scale, (x, y), (width, height))
        for line, (text, color) in enumerate(zip(captions[index], (INK, FAINT), strict=True)):
            pen.text((x, y + height + 3 + 16 * line), _fitting(pen, text, width), fill=color, font=load_font(12))
    return sheet


def colored(image: np.ndarray, labels: np.ndarray, layer: Layer, valid: np.ndarray, scale: int) -> np.ndarray:
    """Returns (H·scale, W·scale, 3) uint8: the stretched image, a tint and an outline for each label.

    Three channels become red, green and blue; otherwise the first channel is shown in gray.
    """
    y0, x0, y1, x1 = valid
    picture = np.empty((*labels.shape, 3))
    for band, channel in enumerate((0, 1, 2) if len(image) == 3 else (0, 0, 0)):
        picture[..., band] = _stretch(image[channel], image[channel, y0:y1, x0:x1])
    picture, labels = (np.repeat(np.repeat(array, scale, 0), scale, 1) for array in (picture, labels))
    colors = _colors(layer, labels)
    if layer.kind == "classes":
        tint = labels > 0
        picture[tint] = 0.78 * picture[tint] + 0.22 * colors[tint]
    outline = _outline(labels)
    picture[outline] = colors[outline]
    rows, columns = np.indices(labels.shape)
    inside = (rows < y1 * scale) & (columns < x1 * scale) & (rows >= y0 * scale) & (columns >= x0 * scale)
    hatch = (labels == IGNORED) & inside & ((rows + columns) % 8 < 2)
    picture[hatch] = 0.35 * picture[hatch] + 0.65 * 200
    picture[~inside] = 238
    return picture.round().clip(0, 255).astype(np.uint8)


def _stretch(channel: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Returns the channel from 0 to 255, stretched by its finite measured values; NaN and infinity become black."""
    measured = measured[np.isfinite(measured)].astype(np.float64)
    low, high = np.percentile(measured, (0.5, 99.8)) if measured.size else (0, 1)
    values = np.where(np.isfinite(channel), channel, low).astype(np.float64)
    return ((values - low) / max(high - low, 1e-12)).clip(0, 1) * 255


def _outline(labels: np.ndarray) -> np.ndarray:
    """Returns the inner border pixels of every label: those with a neighbor of another value."""
    padded = np.pad(labels, 1, mode="edge")
    shifted = (padded[2:, 1:-1], padded[:-2, 1:-1], padded[1:-1, 2:], padded[1:-1, :-2])
    return (labels > 0) & np.any([neighbor != labels for neighbor in shifted], axis=0)


def _colors(layer: Layer, labels: np.ndarray) -> np.ndarray:
    if layer.kind == "classes":
        table = np.array(class_colors(layer.names), dtype=float)
        return table[np.maximum(labels, 0)]
    hues = [colorsys.hsv_to_rgb((0.11 + 0.618034 * k) % 1, 0.85, 1) for k in range(64)]
    return (np.array(hues) * 255)[np.maximum(labels, 0) % 64]


def _legend(pen: Any, layer: Layer, place: tuple[int, int]) -> None:
    x, y = place
    font = load_font(13)
    if layer.kind == "instances":
        pen.text(
            (x, y), f"each outline is one {layer.names[1]}; hatched: ignored; gray: padding", fill=FAINT, font=font
        )
        return
    for name, color in list(zip(layer.names, class_colors(layer.names), strict=True))[1:]:
        pen.rectangle((x, y + 2, x + 13, y + 15), fill=color)
        pen.text((x + 19, y), name, fill=INK, font=font)
        x += 37 + round(pen.textlength(name, font=font))
    pen.text((x, y), "hatched: ignored; gray: padding", fill=FAINT, font=font)


def _dashed_box(pen: Any, box: np.ndarray, place: tuple[int, int], size: tuple[int, int]) -> None:
    """Draws the lower and right border of the valid box where padding follows."""
    _, _, y1, x1 = (int(value) for value in box)
    (x, y), (width, height) = place, size
    if y1 < height:
        for start in range(0, x1, 8):
            pen.line((x + start, y + y1, x + min(start + 4, x1), y + y1), fill=INK)
    if x1 < width:
        for start in range(0, y1, 8):
            pen.line((x + x1, y + start, x + x1, y + min(start + 4, y1)), fill=INK)


def _fitting(pen: Any, text: str, width: int) -> str:
    font = load_font(12)
    if pen.textlength(text, font=font) <= width:
        return text
    while text and pen.textlength(text + "…", font=font) > width:
        text = text[:-1]
    return text + "…"


def load_font(size: int) -> Any:
    """Returns the font of matplotlib's figures, `size` px high: PIL's own lacks "µ", "×" and "…"."""
    from matplotlib import get_data_path

    return ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)
