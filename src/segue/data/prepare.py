"""`segue prepare`: folders of images and label images, described by a TOML file, become a dataset.

    name = "nuclei"
    images = "images/*.png"              # or: manifest = "table.csv" with the columns image, label and conditions
    tile_px = 256

    [labels]
    files = "labels/{stem}.png"
    layer = "nuclei"
    kind = "instances"
    names = ["background", "nucleus"]

Images are paired with their label images (`pairing`), each pair is read, cut into tiles and written as a part file, and
the parts are merged into the dataset (`maker`, `writer`).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from segue.data.annotations.draw import SCRIBBLES, AnnotationNotes, describe_annotation_notes
from segue.data.annotations.files import is_annotation_file
from segue.data.dataset import Dataset
from segue.data.folders.channels import channel_order, channels_left_out, names_in_use
from segue.data.folders.label_files import read_label_files
from segue.data.folders.observations import Observation, judge_copies, notes_on_images, notes_on_pixel_sizes, observe
from segue.data.folders.pages import split_pages
from segue.data.folders.pairing import ImageLabelPair, PairedFiles, pair_files, raise_problems, read_headers
from segue.data.formats.stack import RGB
from segue.data.image_io import read_channel_names, read_image
from segue.data.maker import is_made, make_parts, work_folders
from segue.data.normalization import image_statistics
from segue.data.spec import MAX_PADDING, PrepareSpec
from segue.data.splits import GivenSplit, PartName, Split
from segue.data.tiling import corners, cut, starts
from segue.data.writer import GroupTiles, Micrograph, merge_parts, write_part
from segue.errors import SegueError
from segue.fingerprint import hash_each_file, hash_json
from segue.hdf5 import open_file
from segue.storage import make_folder, read_json, write_json
from segue.units import SQUARE_TOLERANCE, common_size_nm

VERSION = 5  # increase when the same specification and files give a different dataset
Progress = Callable[[int, int], None]  # done, of how many micrographs
Log = Callable[[str], None]  # receives sentences on what was left out, or is not what it seems
Metadata = dict[str, Any]  # of a part: channels and notes as its file states them, an observation, measures of labels


@dataclass(frozen=True)
class Prepared:
    """The dataset that `prepare` made, its counts, and how many micrographs this call cut."""

    path: Path
    micrographs: int
    groups: int
    cut_now: int


def prepare(
    spec: PrepareSpec,
    out: Path,
    *,
    root: Path,
    workers: int = 1,
    progress: Progress | None = None,
    log: Log | None = None,
) -> Prepared:
    """Makes the dataset `out` from the files that `spec` names; its paths start at the folder `root`.

    Micrographs are read one at a time and cut into part files in `<out>.parts`, which are then merged. An interrupted
    call continues with the parts that are whole; a finished `out` of the same files is left as it is. The content does
    not depend on `workers`. Raises SegueError with all problems of the files, if `out` holds anything else, or if the
    disk refuses.
    """
    # pair images and labels, check their headers
    files = pair_files(spec, root)
    _log_notes(files.notes, log)
    context = files.context
    pairs, _ = read_headers(files.pairs)  # an unreadable header is reported with all other problems of the images
    _check_tile_px(spec, pairs, context)
    pairs, problems = split_pages(spec, pairs)
    raise_problems(context, problems)
    channels = _reference_channels(spec, pairs)

    # leave a finished dataset of the same files as it is
    keys = part_keys(spec, pairs, channels)
    inputs = _inputs_hash(spec, pairs, keys)
    groups = len({pair.group for pair in pairs})
    if is_made(out, "inputs", inputs):
        _log_notes(stored_notes(out), log)
        return Prepared(out, len(pairs), groups, 0)

    # cut the micrographs, merge the parts
    folder = make_folder(out.with_name(f"{out.name}.parts"))
    paths = [folder / f"{key[:40]}.h5" for key in keys]
    with work_folders(out, folder):
        if is_made(out, "inputs", inputs):  # by another process, while this one waited
            _log_notes(stored_notes(out), log)
            return Prepared(out, len(pairs), groups, 0)
        parts = make_parts(
            partial(_write_tiles, spec, channels),
            list(zip(pairs, paths, strict=True)),
            finished=lambda item: "" if item[1].exists() and _metadata_path(item[1]).exists() else None,
            workers=workers,
            context=folder,
            progress=progress,
        )
        raise_problems(context, [problem for problem in parts.results if problem])
        attributes, count = _attributes(spec, pairs, paths, context)
        metadata = [read_json(_metadata_path(path)) for path in paths]
        stated, notes = _stated_channels(pairs, metadata, channels)
        problems, observed = _judge(spec, pairs, metadata)
        raise_problems(context, problems)
        notes = [*count_notes(notes, len(pairs)), *observed]
        _log_notes(notes, log)
        merge_parts(
            paths,
            out,
            layers=[] if spec.layer is None else [spec.layer],
            channels=stated or _default_channels(spec, count),
            attributes={**attributes, **({"notes": "\n".join(notes)} if notes else {}), "inputs": inputs},
            splits=_splits(spec, pairs),
        )
    return Prepared(out, len(pairs), groups, parts.made_now)


def stored_notes(path: Path) -> list[str]:
    """Returns the notes of the preparation of a dataset, [] without any."""
    with Dataset(path) as data:
        return str(data.attributes.get("notes", "")).splitlines()


def _log_notes(notes: Sequence[str], log: Log | None) -> None:
    if log is not None:
        for note in notes:
            log(note)


def expected(spec: PrepareSpec, files: PairedFiles) -> dict[str, int]:
    """Returns {"micrographs", "tiles", "bytes"} from the headers of the images, without decoding any.

    `bytes` is an upper estimate of the disk space needed meanwhile: tiles and micrographs twice (part files and
    dataset), labels as if they did not compress.
    """
    pairs, problems = read_headers(files.pairs)
    raise_problems(files.context, problems)
    _check_tile_px(spec, pairs, files.context)
    pairs, problems = split_pages(spec, pairs)
    raise_problems(files.context, problems)
    tiles = pixels = values = 0
    for header in (pair.header for pair in pairs if pair.header is not None):
        rows, columns = (len(starts(side, spec.tile_px, spec.step_px)) for side in (header.height, header.width))
        area = rows * columns * spec.tile_px**2 + spec.keep_micrographs * header.height * header.width
        tiles += rows * columns
        pixels += area
        values += area * header.channels * max(1, header.bits // 8)
    return {"micrographs": len(pairs), "tiles": tiles, "bytes": 2 * (values + 4 * pixels) + 4096 * len(pairs)}


def _check_tile_px(spec: PrepareSpec, pairs: Sequence[ImageLabelPair], context: Path) -> None:
    """Raises SegueError if even the largest image would be nearly all padding."""
    sides = [max(pair.header.height, pair.header.width) for pair in pairs if pair.header is not None]
    largest = max(sides, default=spec.tile_px)
    if spec.tile_px > MAX_PADDING * largest:
        raise SegueError(
            f"{context}: tile_px is {spec.tile_px}, but the largest image measures {largest} px; "
            f"allowed are up to {MAX_PADDING} times that: lower tile_px."
        )


def part_keys(spec: PrepareSpec, pairs: Sequence[ImageLabelPair], channels: Sequence[str] | None) -> list[str]:
    """Returns the key of each pair's part file.

    A key is a hash of what the part depends on: the content of the files, the pair's row, the settings for cutting, and
    the names by which `channels` are ordered.
    """
    hashes = hash_each_file([path for pair in pairs for path in (pair.image, *pair.labels)])
    settings = spec.model_dump(
        mode="json", include={"labels", "tile_px", "stride_px", "pixel_size_nm", "keep_micrographs", "pages", "color"}
    )
    settings["channels"] = channels
    if spec.labels is not None and not spec.labels.number_parts:
        del settings["labels"]["number_parts"]  # undecided or false, the tiles are the same
    if spec.labels is not None:
        for name in ("unlabeled", "array"):
            if settings["labels"][name] is None:
                del settings["labels"][name]
    keys = []
    for pair in pairs:
        image, labels = hashes[pair.image], [hashes[label] for label in pair.labels]
        row = [pair.source, pair.group, pair.pixel_size_nm, dict(pair.conditions), pair.page]
        keys.append(hash_json([VERSION, settings, row, image, *labels]))
    return keys


def _write_tiles(spec: PrepareSpec, channels: Sequence[str] | None, item: tuple[ImageLabelPair, Path]) -> str:
    """Writes a pair's part file; returns the problem with the micrograph, "" if none. A refusing disk raises."""
    pair, path = item
    try:
        tiles, metadata = cut_tiles(spec, pair, channels)
    except SegueError as error:
        return str(error)
    except MemoryError:
        return (
            f"{pair.image}: memory does not suffice to cut it into tiles of {spec.tile_px} px every {spec.step_px} px; "
            "lower tile_px, raise stride_px, or use fewer workers."
        )
    write_json(_metadata_path(path), metadata)  # first: a part that exists is whole
    write_part(path, tiles)
    return ""


def _metadata_path(path: Path) -> Path:
    return path.with_suffix(".json")


def cut_tiles(spec: PrepareSpec, pair: ImageLabelPair, channels: Sequence[str] | None) -> tuple[GroupTiles, Metadata]:
    """Returns the tiles of one micrograph, and what is noted of it.

    channels: the names by which its channels are ordered. Raises SegueError if the image or its labels are unusable.
    """
    from segue.labels import numbering

    acquisition = read_image(pair.image, pages=spec.pages, page=pair.page, color=spec.color)
    image, notes = acquisition.image, list(acquisition.notes)
    names = names_in_use(acquisition.channels)
    source = "the specification" if spec.channels is not None else "the first image"
    is_rgb = spec.color == "rgb" and len(image) == len(RGB) and spec.channels is not None
    if is_rgb and {name.casefold() for name in spec.channels or ()} <= set(RGB):
        names = RGB  # colors are chosen by name; other names are given to them
    order = channel_order(pair.image, names, channels, source, subset=spec.channels is not None)
    if order is not None:
        image = image[order]
        notes += channels_left_out(names, order)
    elif names is None and channels is not None and spec.channels is None and len(image) > 1:
        notes.append("states no names of channels: they are taken in the order of the first image's")
    height, width = image.shape[1:]
    labels, annotation_notes = {}, None
    if spec.labels is not None and spec.layer is not None and pair.label is not None:
        layer = spec.layer
        of_image = read_label_files(spec, pair, layer, (height, width))
        labels[layer.name], annotation_notes = of_image.labels, of_image.annotation_notes
        notes += of_image.notes
        if spec.labels.number_parts:
            labels[layer.name] = numbering.number_parts(labels[layer.name])
    intensity = image_statistics(image)
    places = corners(height, width, tile_px=spec.tile_px, stride_px=spec.step_px)
    tiles = cut(image, labels, tile_px=spec.tile_px, places=places, fill=intensity[:, 0])
    count = len(places)
    size_nm = _pixel_size_nm(spec, pair, acquisition.pixel_size_nm, notes)
    observation = observe(image, intensity)
    samples: dict[str, np.ndarray] = {
        "group": np.array([pair.group] * count, dtype=object),
        "source": np.array([pair.source] * count, dtype=object),
        "y_px": tiles.corners[:, 0],
        "x_px": tiles.corners[:, 1],
        "pixel_size_nm": np.full(count, size_nm),
        "picture": np.array([observation.picture] * count, dtype=object),  # by which copies in other datasets are known
    }
    for name, value in pair.conditions.items():
        samples[name] = np.array([value] * count, dtype=object if isinstance(value, str) else None)
    whole = {pair.source: Micrograph(image, labels)} if spec.keep_micrographs else {}
    part = GroupTiles(tiles.images, tiles.labels, tiles.valid, np.tile(intensity, (count, 1, 1)), samples, whole)
    measures = {name: asdict(numbering.measure(values)) for name, values in labels.items()}
    return part, {
        "channels": names,
        "notes": notes,
        "pixel_size_nm": None if math.isnan(size_nm) else size_nm,
        "observation": observation.record,
        "labels": measures,
        "annotations": annotation_notes,
    }


def _pixel_size_nm(spec: PrepareSpec, pair: ImageLabelPair, file_nm: float | None, notes: list[str]) -> float:
    """Returns the table's size, else the file's, else the spec's, else NaN; a file must not contradict the spec.

    The spec's size is used for a file's that equals it but for rounding. A table that gives each image its size
    corrects the files; that it does is added to `notes`.
    """
    if pair.pixel_size_nm is not None:
        if file_nm is not None and abs(file_nm - pair.pixel_size_nm) > SQUARE_TOLERANCE * file_nm:
            notes.append("its metadata give another pixel size than the table, whose size is used")
        return pair.pixel_size_nm
    spec_nm = spec.pixel_size_nm
    if file_nm is not None and spec_nm is not None and abs(file_nm - spec_nm) > 0.01 * spec_nm:
        raise SegueError(
            f"{pair.image}: its metadata say {file_nm:g} nm per pixel, the spec says {spec_nm:g}; remove pixel_size_nm "
            "from the spec, or give it per image in a manifest."
        )
    if file_nm is None or (spec_nm is not None and common_size_nm((spec_nm, file_nm)) is not None):
        return math.nan if spec_nm is None else spec_nm
    return file_nm


def _attributes(
    spec: PrepareSpec, pairs: Sequence[ImageLabelPair], paths: Sequence[Path], context: Path
) -> tuple[dict[str, str | int | float], int]:
    """Returns the dataset's attributes and number of channels; raises SegueError if the micrographs differ in kind."""
    pairs_by_kind: dict[str, list[ImageLabelPair]] = {}
    sizes_nm: list[float] = []
    channels = 0
    for pair, path in zip(pairs, paths, strict=True):
        with open_file(path) as file:
            images = file["tiles/images"]
            channels = images.shape[1]
            pairs_by_kind.setdefault(f"{channels} channel(s) of {images.dtype}", []).append(pair)
            sizes_nm.append(float(file["samples/pixel_size_nm"][0]))
    if len(pairs_by_kind) > 1:
        kinds = "; ".join(f"{kind}: {len(same)}, e.g. {same[0].image}" for kind, same in pairs_by_kind.items())
        raise SegueError(f"{context}: the images differ in kind ({kinds}); convert them to one, or leave some out.")
    if spec.channels is not None and len(spec.channels) != channels:
        named = f"{len(spec.channels)} channels are named ({', '.join(spec.channels)})"
        raise SegueError(f"{context}: {named}, but the images have {channels}; correct `channels`.")
    attributes: dict[str, str | int | float] = {
        "name": spec.name,
        "provenance": json.dumps(spec.provenance.model_dump(by_alias=True), sort_keys=True, ensure_ascii=False),
    }
    size_nm = common_size_nm(sizes_nm) if np.isfinite(sizes_nm).all() else None
    if size_nm is not None:
        attributes["pixel_size_nm"] = size_nm
    return attributes, channels


def _reference_channels(spec: PrepareSpec, pairs: Sequence[ImageLabelPair]) -> tuple[str, ...] | None:
    """Returns the names by which channels are ordered: the specification's, else those that the first image states."""
    if spec.channels is not None:
        return spec.channels
    try:
        return names_in_use(read_channel_names(pairs[0].image))
    except SegueError:  # it is reported with all other problems of the images
        return None


def _stated_channels(
    pairs: Sequence[ImageLabelPair], metadata: Sequence[Metadata], channels: tuple[str, ...] | None
) -> tuple[tuple[str, ...] | None, list[str]]:
    """Returns the names of the dataset's channels if they are known, and the notes on all images.

    Raises SegueError if the first image states none, and others state different ones.
    """
    notes = [note for one in metadata for note in one["notes"]]
    if channels is not None:
        return channels, notes
    stated = [(pair, tuple(one["channels"])) for pair, one in zip(pairs, metadata, strict=True) if one["channels"]]
    if not stated:
        return None, notes
    first, names = stated[0]
    for pair, others in stated:
        if [name.casefold() for name in others] != [name.casefold() for name in names]:
            raise SegueError(
                f"{pair.image}: its channels are named {', '.join(others)}, those of {first.image} {', '.join(names)}, "
                f"and {pairs[0].image} names none; set `channels`, so that they are put in its order."
            )
    unnamed = len(pairs) - len(stated)
    return names, notes + [f"states no names of channels: they are taken to be {', '.join(names)}"] * unnamed


def _judge(
    spec: PrepareSpec, pairs: Sequence[ImageLabelPair], metadata: Sequence[Metadata]
) -> tuple[list[str], list[str]]:
    """Returns problems and notes on all images and labels: copies, pixel sizes, saturation, dark images, numberings."""
    from segue.labels import numbering  # it compiles; planning does without

    observations = [Observation(**one["observation"]) for one in metadata]
    problems, notes = judge_copies(pairs, observations, refuse=spec.copies == "refuse")
    notes += notes_on_pixel_sizes({p.source: one["pixel_size_nm"] for p, one in zip(pairs, metadata, strict=True)})
    notes += notes_on_images({pair.source: one for pair, one in zip(pairs, observations, strict=True)})
    layer = spec.layer
    if spec.labels is not None and layer is not None:
        annotated = [pair.label is not None and is_annotation_file(pair.label) for pair in pairs]
        number_parts = False if all(annotated) else spec.labels.number_parts  # objects are numbered as they are drawn
        if any(annotated):
            of_annotations = {p.source: one.get("annotations") or {} for p, one in zip(pairs, metadata, strict=True)}
            notes += describe_annotation_notes(of_annotations)
            problems += _scribble_problems(pairs, of_annotations)
        measures = {
            _label_name(pair): numbering.LabelMeasures(**one["labels"][layer.name])
            for pair, one in zip(pairs, metadata, strict=True)
        }
        classes = len(layer.names) if layer.kind == "classes" else None
        refusal, odd = numbering.judge(measures, classes=classes, number_parts=number_parts)
        problems += [f"{spec.labels.files or spec.manifest}: {refusal}."] if refusal else []
        notes += odd
    return problems, notes


def _scribble_problems(pairs: Sequence[ImageLabelPair], notes: Mapping[str, AnnotationNotes]) -> list[str]:
    """Returns a problem if some images have scribbles, so that their other pixels are ignored, and some have none."""
    plain = [pair.label for pair in pairs if SCRIBBLES not in notes[pair.source]]
    if not 0 < len(plain) < len(pairs):
        return []
    return [
        f"{plain[0]}: holds no scribbles, but {len(pairs) - len(plain)} of {len(pairs)} images have some: set "
        'unlabeled = "ignored" if its other pixels are not labeled, or "background".'
    ]


def _label_name(pair: ImageLabelPair) -> str:
    if pair.label is not None and is_annotation_file(pair.label):  # which may be of several images
        return f"{pair.label}, {pair.source}"
    return str(pair.label) if pair.page is None else f"{pair.label}, page {pair.page}"


def _default_channels(spec: PrepareSpec, count: int) -> tuple[str, ...]:
    if count == 1:
        return ("intensity",)
    return RGB if spec.color == "rgb" and count == 3 else tuple(f"channel {i}" for i in range(count))


def count_notes(notes: Sequence[str], images: int) -> list[str]:
    """Returns each different note once, with the number of images that it is of."""
    return [f"{count} of {images} images: {note}" for note, count in Counter(notes).items()]


def _given_parts(pairs: Sequence[ImageLabelPair]) -> Mapping[str, PartName]:
    """Returns the manifest's split: the part of each group."""
    return {pair.group: pair.part for pair in pairs if pair.part is not None}


def _splits(spec: PrepareSpec, pairs: Sequence[ImageLabelPair]) -> dict[str, Split]:
    parts = _given_parts(pairs)
    return {**spec.splits, **({"given": GivenSplit(parts)} if parts else {})}


def _inputs_hash(spec: PrepareSpec, pairs: Sequence[ImageLabelPair], keys: Sequence[str]) -> str:
    """Returns the hash of all that the dataset depends on: its parts, and the settings that merging adds."""
    parts = _given_parts(pairs)
    settings = spec.model_dump(mode="json", include={"name", "channels", "splits", "provenance"}, by_alias=True)
    return hash_json([settings, list(keys), *([parts] if parts else [])])
