"""What a dataset holds: as text, and as a contact sheet of tiles with their labels."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segue.data import division
from segue.data.dataset import Dataset
from segue.data.digest import content_digest
from segue.data.files import replacing
from segue.data.layers import Layer
from segue.data.split import PARTS, SplitSpec
from segue.errors import SegueError
from segue.spec import unknown

SHOWN_VALUES = 8
SURVEYED_TILES = 1000  # of instance layers, whose fractions are not stored
OWN_COLUMNS = ("group", "source", "y_px", "x_px", "pixel_size_nm")


def describe(path: Path) -> str:
    """Returns what the dataset holds: tiles, layers, groups, conditions, splits, provenance, digest, one line each."""
    with Dataset(path) as data:
        channels, height, width = data.tile_shape
        samples = data.samples()
        sources, kept = set(samples["source"]), set(data.micrograph_ids())
        rows = [
            ("tiles", f"{data.count} of {height} × {width} px, {channels} × {data.dtype} ({', '.join(data.channels)})"),
            ("size", f"{path.stat().st_size / 1e6:.1f} MB"),
            ("pixel size", _pixel_sizes(data, samples)),
            ("padding", _padding(data)),
            *((f"layer {layer.name}", _layer(data, layer)) for layer in data.layers.values()),
            ("labels", "" if data.layers else "none: for reconstruction and classes of whole images"),
            ("groups", f"{len(set(samples['group']))}, e.g. {samples['group'][0]}" if data.count else "none"),
            ("micrographs", f"{len(sources | kept)}: {len(sources)} cut into tiles, {len(kept)} kept whole"),
            *_conditions(samples),
            *((f"split {name}", _split(data, name, samples["group"])) for name in data.split_names()),
            *(("WARNING", warning) for warning in warnings_of(data)),
            *_provenance(data.attributes),
        ]
    rows.append(("digest", content_digest(path)))
    left = max(len(name) for name, _ in rows)
    return "\n".join([str(path), *(f"  {name:<{left}}  {text}" for name, text in rows if text)])


def warnings_of(data: Dataset) -> list[str]:
    """Returns what a reader must know before training: no tiles, splits with an empty part, and those that leak.

    Of a stored split that tears groups, the neighbours across the border are counted over the whole dataset.
    """
    if not data.count:
        return ["no tiles: all wells are unstained, and their whole images are for prediction only (`segue count`)"]
    found = []
    for name in data.split_names():
        made = data.origin(SplitSpec(stored=name))
        if made.stored is not None:
            continue  # it came with the data
        codes = data.split_codes(name)
        found.append(division.empty_words(name, made, data.samples(), codes))
        if made.tears_groups:
            training, validation = (np.flatnonzero(codes == PARTS.index(part)) for part in ("train", "validation"))
            found.append(f"'{name}': {division.leak_words(made.words, data.neighbours(training, validation))}")
    return [warning for warning in found if warning]


def contact_sheet(path: Path, out_png: Path, *, count: int = 24, layer: str | None = None) -> None:
    """Writes a PNG of `count` tiles, spread over the conditions and groups, with the outlines of their labels.

    Intensities are stretched between the 0.5th and 99.8th percentile of each tile. Ignored pixels are hatched, padding
    is cut off by a dashed line. `layer` is the layer drawn; without it, the first, or none where there is none.
    """
    from segue.data.sheet import draw_sheet

    if out_png.suffix.lower() != ".png":
        raise SegueError(f"{out_png}: a contact sheet is a PNG picture; give a name that ends in .png.")
    with Dataset(path) as data:
        if not data.count:
            raise SegueError(f"{path}: holds no tiles, so that there is nothing to draw; give a dataset with tiles.")
        if layer is not None and layer not in data.layers:
            raise SegueError(f"{path}: {unknown(layer, data.layers, 'label layer')}.")
        name = layer or next(iter(data.layers), None)
        drawn = Layer("", "classes", ("background",)) if name is None else data.layers[name]
        indices = spread(data.samples(), count)
        images, labels = data.read(indices, layer=name)
        if labels is None:
            labels = np.zeros((len(images), *images.shape[2:]), dtype=np.int32)
        captions = [_caption(data.samples(), int(index)) for index in indices]
        sheet = draw_sheet(
            images,
            labels,
            layer=drawn,
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
    """Returns the names of the conditions that take more than one value and are no drawn ones."""
    return [
        name
        for name, values in sorted(samples.items())
        if name not in OWN_COLUMNS and not name.endswith("_drawn") and len(np.unique(values)) > 1
    ]


def _caption(samples: Mapping[str, np.ndarray], index: int) -> tuple[str, str]:
    source = str(samples["source"][index])
    source = source if len(source) <= 22 else f"{source[:10]}…{source[-11:]}"
    conditions = ", ".join(f"{name} {_shown(samples[name][index])}" for name in _nominal(samples))
    return source, conditions or f"y {samples['y_px'][index]}, x {samples['x_px'][index]} px"


def _pixel_sizes(data: Dataset, samples: Mapping[str, np.ndarray]) -> str:
    if "pixel_size_nm" in data.attributes:
        return f"{_shown(data.attributes['pixel_size_nm'])} nm"
    sizes = samples.get("pixel_size_nm")
    known = np.unique(sizes[np.isfinite(sizes)]) if sizes is not None else np.array([])
    return f"{_shown(known[0])} to {_shown(known[-1])} nm" if len(known) else "not known"


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
    indices = spread(data.samples(), SURVEYED_TILES)
    objects, covered, seen = 0, 0, 0
    for start in range(0, len(indices), 64):
        _, labels = data.read(np.sort(indices)[start : start + 64], layer=layer.name)
        assert labels is not None
        objects += sum(len(np.unique(tile[tile > 0])) for tile in labels)
        covered += int((labels > 0).sum())
        seen += int((labels >= 0).sum())
    whole = "" if len(indices) == data.count else f" (from {len(indices)} tiles)"
    return (
        f"instances of {layer.names[1]}: {objects / len(indices):.1f} a tile, "
        f"{covered / max(1, seen):.2%} of the pixels{whole}"
    )


def _conditions(samples: Mapping[str, np.ndarray]) -> list[tuple[str, str]]:
    rows = []
    for name, values in sorted(samples.items()):
        if name in OWN_COLUMNS:
            continue
        if name.endswith("_drawn"):
            known = values[np.isfinite(values)]
            rows.append((name, f"{_shown(known.min())} to {_shown(known.max())}" if known.size else "not known"))
            continue
        known = values[~np.isnan(values)] if values.dtype.kind == "f" else values
        missing, counts = len(values) - len(known), Counter(known.tolist())
        if not counts:
            rows.append((name, "not known"))
            continue
        shown = [f"{_shown(value)} ({counts[value]})" for value in sorted(counts)[:SHOWN_VALUES]]
        more = f", … {len(counts)} values" if len(counts) > SHOWN_VALUES else ""
        unknown_too = f", not known ({missing})" if missing else ""
        rows.append((name, ", ".join(shown) + more + unknown_too))
    return rows


def _split(data: Dataset, name: str, groups: np.ndarray) -> str:
    codes = data.split_codes(name)
    made = data.split_attributes(name)
    how = "given" if made.get("given") else ", ".join(f"{key} {_shown(value)}" for key, value in sorted(made.items()))
    parts = [
        f"{part} {int((codes == code).sum())} tiles of {len(set(groups[codes == code]))} groups"
        for code, part in enumerate(PARTS)
    ]
    return f"{'; '.join(parts)} ({how})"


def _provenance(attributes: Mapping[str, Any]) -> list[tuple[str, str]]:
    text = str(attributes.get("provenance", ""))
    try:
        found = json.loads(text)
    except ValueError:
        return [("provenance", text)]
    if not isinstance(found, dict):
        return [("provenance", text)]
    return [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in found.items()]


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, (float, np.floating)) else str(value)
