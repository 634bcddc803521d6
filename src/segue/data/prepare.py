"""`segue prepare`: folders of images and label images, described by a TOML file, become a dataset.

The specification and what planning needs are here and import no array library; the cutting is in `preparing`.

    name = "nuclei"
    images = "images/*.png"              # or: manifest = "table.csv" with the columns image, label and conditions
    tile_px = 256

    [labels]
    files = "labels/{stem}.png"
    layer = "nuclei"
    kind = "instances"
    names = ["background", "nucleus"]


Cuts paired images and labels into part files, one per micrograph, and assembles the dataset."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from segue.data.dataset import Dataset
from segue.data.image_io import Header, mean_and_std, read_header, read_image, read_labels
from segue.data.pairing import ImageLabelPair, error_location, find_pairs, raise_problems
from segue.data.spec import MAX_PADDING, PrepareSpec
from segue.data.splits import GivenSplit, PartName, Split
from segue.data.tiling import corners, cut
from segue.data.writer import GroupTiles, Micrograph, merge_parts, write_part
from segue.errors import SegueError
from segue.fingerprint import hash_each_file
from segue.parallel import map_unordered
from segue.storage import absolute, make_folder, remove_abandoned

VERSION = 1  # bumped by hand when the same spec and files give another dataset
Progress = Callable[[int, int], None]  # done, of how many micrographs


@dataclass(frozen=True)
class Prepared:
    """What `prepare` did: the dataset, its counts, and how many micrographs were cut now rather than found cut."""

    path: Path
    micrographs: int
    groups: int
    cut_now: int


def prepare(
    spec: PrepareSpec, out: Path, *, root: Path, workers: int = 1, progress: Progress | None = None
) -> Prepared:
    """Makes the dataset `out` from the files that `spec` names, starting at the folder `where`.

    Micrographs are read one at a time and cut into part files in `<out>.parts`, then assembled; interrupted and called
    again, it continues with the parts that are whole, and a finished `out` of the same files is left as it is. The
    content does not depend on `workers`. Raises SegueError with all problems of the files, when `out` holds anything
    else, or when the disk refuses.
    """

    pairs, place = _paired(spec, root), error_location(spec, root)
    _check_tile(spec, _headers(pairs)[0], place)  # a header that cannot be read is told with all that is amiss
    return make_dataset(spec, pairs, out, place=place, workers=workers, progress=progress)


def input_files(spec: PrepareSpec, root: Path) -> list[Path]:
    """Returns every file the dataset is made from, sorted; raises SegueError with the problems of the files."""
    pairs = _paired(spec, root)
    table = [absolute(root / spec.manifest)] if spec.manifest else []
    return sorted({*table, *(pair.image for pair in pairs), *(pair.label for pair in pairs if pair.label)})


def expected(spec: PrepareSpec, root: Path) -> dict[str, int]:
    """Returns {"micrographs", "tiles", "bytes"} from the images' headers, without decoding any.

    `bytes` is an upper estimate of the disk needed while the dataset is made: tiles and micrographs twice (part files
    beside the dataset), labels as if they did not compress.
    """
    pairs, place = _paired(spec, root), error_location(spec, root)
    headers, problems = _headers(pairs)
    raise_problems(place, problems)
    _check_tile(spec, headers, place)
    tiles = pixels = values = 0
    for header in headers:
        across = [_count(length, spec.tile_px, spec.step_px) for length in (header.height, header.width)]
        count = across[0] * across[1]
        area = count * spec.tile_px**2 + spec.keep_micrographs * header.height * header.width
        tiles += count
        pixels += area
        values += area * header.channels * max(1, header.bits // 8)
    return {"micrographs": len(pairs), "tiles": tiles, "bytes": 2 * (values + 4 * pixels) + 4096 * len(pairs)}


def _paired(spec: PrepareSpec, where: Path) -> list[ImageLabelPair]:
    pairs, problems = find_pairs(spec, where)
    raise_problems(error_location(spec, where), problems)
    return pairs


def _headers(pairs: Sequence[ImageLabelPair]) -> tuple[list[Header], list[str]]:
    """Returns the headers of the images, and a sentence for each that cannot be read."""
    headers, problems = [], []
    for pair in pairs:
        try:
            headers.append(read_header(pair.image))
        except SegueError as error:
            problems.append(str(error))
    return headers, problems


def _check_tile(spec: PrepareSpec, headers: Sequence[Header], place: Path) -> None:
    """Raises SegueError where even the largest image would be nearly all padding."""
    largest = max((max(header.height, header.width) for header in headers), default=spec.tile_px)
    if spec.tile_px > MAX_PADDING * largest:
        raise SegueError(
            f"{place}: tile_px is {spec.tile_px}, but the largest image measures {largest} px; "
            f"allowed are up to {MAX_PADDING} times that: lower tile_px."
        )


def part_keys(spec: PrepareSpec, pairs: list[ImageLabelPair]) -> tuple[list[str], list[str]]:
    """Returns a key for each pair's part file, and a sentence for each image whose content occurs twice.

    A key is a digest of what the part depends on: the files' content, the pair's row, and the fields that cut.
    """
    digests = hash_each_file([path for pair in pairs for path in (pair.image, pair.label) if path])
    fields = spec.model_dump(
        mode="json", include={"labels", "tile_px", "stride_px", "pixel_size_nm", "keep_micrographs"}
    )
    seen: dict[str, ImageLabelPair] = {}
    keys, problems = [], []
    for pair in pairs:
        image, label = digests[pair.image], digests[pair.label] if pair.label else None
        first = seen.setdefault(image, pair)
        if first is not pair:
            problems.append(f"{pair.image}: holds the same bytes as {first.image}; keep one of them.")
        row = [pair.source, pair.group, pair.pixel_size_nm, dict(pair.conditions)]
        text = json.dumps([VERSION, fields, row, image, label], sort_keys=True)
        keys.append(hashlib.sha256(text.encode()).hexdigest())
    return keys, problems


def _count(length: int, tile: int, stride: int) -> int:
    """Returns how many tiles cover a length: as `tiling.starts` gives them, which needs NumPy beside it."""
    return max(0, -(-(length - tile) // stride)) + 1


def make_dataset(
    spec: PrepareSpec,
    pairs: Sequence[ImageLabelPair],
    out: Path,
    *,
    place: Path,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Writes the dataset of the pairs to `out`; see `prepare`. Errors that concern no single file name `place`."""
    groups = len({pair.group for pair in pairs})
    keys, problems = part_keys(spec, list(pairs))
    raise_problems(place, problems)
    inputs = _inputs_key(spec, pairs, keys)
    if _is_made(out, inputs):
        return Prepared(out, len(pairs), groups, 0)
    folder = make_folder(out.with_name(f"{out.name}.parts"))
    paths = [folder / f"{key[:40]}.h5" for key in keys]
    missing = [(pair, path) for pair, path in zip(pairs, paths, strict=True) if not path.exists()]
    raise_problems(place, _make_parts(spec, missing, workers, progress))
    attributes, names = _attributes(spec, pairs, paths, place)
    merge_parts(
        paths,
        out,
        layers=[] if spec.layer is None else [spec.layer],
        channels=names,
        attributes={**attributes, "inputs": inputs},
        splits=_splits(spec, pairs),
    )
    remove_abandoned(out)
    shutil.rmtree(folder, ignore_errors=True)
    return Prepared(out, len(pairs), groups, len(missing))


def cut_tiles(spec: PrepareSpec, pair: ImageLabelPair) -> GroupTiles:
    """Returns the tiles of one micrograph; raises SegueError for an image or a label image that is amiss."""
    acquired = read_image(pair.image)
    image = acquired.image
    height, width = image.shape[1:]
    labels = {}
    if spec.labels is not None and spec.layer is not None and pair.label is not None:
        layer, values = spec.layer, spec.labels.values
        labels[layer.name] = read_labels(pair.label, layer, shape=(height, width), values=values)
    intensity = mean_and_std(image)
    places = corners(height, width, tile_px=spec.tile_px, stride_px=spec.step_px)
    tiles = cut(image, labels, tile_px=spec.tile_px, places=places, fill=intensity[:, 0])
    count = len(places)
    samples: dict[str, np.ndarray] = {
        "group": np.array([pair.group] * count, dtype=object),
        "source": np.array([pair.source] * count, dtype=object),
        "y_px": tiles.corners[:, 0],
        "x_px": tiles.corners[:, 1],
        "pixel_size_nm": np.full(count, _pixel_size_nm(spec, pair, acquired.pixel_size_nm)),
    }
    for name, value in pair.conditions.items():
        samples[name] = np.array([value] * count, dtype=object if isinstance(value, str) else None)
    kept = {pair.source: Micrograph(image, labels)} if spec.keep_micrographs else {}
    return GroupTiles(tiles.images, tiles.labels, tiles.valid, np.tile(intensity, (count, 1, 1)), samples, kept)


def _pixel_size_nm(spec: PrepareSpec, pair: ImageLabelPair, found: float | None) -> float:
    """Returns the table's size, else the file's, else the spec's, else NaN; a file must not contradict the spec."""
    if pair.pixel_size_nm is not None:
        return pair.pixel_size_nm
    stated = spec.pixel_size_nm
    if found is not None and stated is not None and abs(found - stated) > 0.01 * stated:
        raise SegueError(
            f"{pair.image}: its metadata say {found:g} nm per pixel, the spec says {stated:g}; remove pixel_size_nm "
            "from the spec, or give it per image in a manifest."
        )
    return found if found is not None else stated if stated is not None else float("nan")


def _make_parts(
    spec: PrepareSpec,
    missing: Sequence[tuple[ImageLabelPair, Path]],
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> list[str]:
    """Writes the missing part files and returns a sentence for each micrograph that could not be cut."""
    found: dict[Path, str] = {}
    for done, ((_, path), problem) in enumerate(
        map_unordered(partial(_write, spec), missing, workers=workers, context=missing[0][1].parent if missing else Path())
    ):
        if problem:
            found[path] = problem
        if progress:
            progress(done + 1, len(missing))
    return [found[path] for _, path in missing if path in found]


def _write(spec: PrepareSpec, item: tuple[ImageLabelPair, Path]) -> str | None:
    """Writes a pair's part file; returns what is wrong with the micrograph, if anything. A refusing disk raises."""
    pair, path = item
    try:
        part = cut_tiles(spec, pair)
    except SegueError as error:
        return str(error)
    except MemoryError:
        return (
            f"{pair.image}: memory does not suffice to cut it into tiles of {spec.tile_px} px every {spec.step_px} px; "
            "lower tile_px, raise stride_px, or use fewer workers."
        )
    write_part(path, part)
    return None


def _attributes(
    spec: PrepareSpec, pairs: Sequence[ImageLabelPair], paths: Sequence[Path], place: Path
) -> tuple[dict[str, str | int | float], list[str]]:
    """Returns the dataset's attributes and channel names; raises SegueError where micrographs disagree."""
    from segue.hdf5 import open_file

    kinds: dict[str, list[ImageLabelPair]] = {}
    sizes: set[float] = set()
    channels = 0
    for pair, path in zip(pairs, paths, strict=True):
        with open_file(path) as file:
            images = file["tiles/images"]
            channels = images.shape[1]
            kinds.setdefault(f"{channels} channel(s) of {images.dtype}", []).append(pair)
            sizes.add(float(file["samples/pixel_size_nm"][0]))
    if len(kinds) > 1:
        shown = "; ".join(f"{kind}: {len(found)}, e.g. {found[0].image}" for kind, found in kinds.items())
        raise SegueError(f"{place}: the images differ in kind ({shown}); convert them to one, or leave some out.")
    if spec.channels is not None and len(spec.channels) != channels:
        stated = f"{len(spec.channels)} channels are named ({', '.join(spec.channels)})"
        raise SegueError(f"{place}: {stated}, but the images have {channels}; correct `channels`.")
    names = list(spec.channels or (["intensity"] if channels == 1 else [f"channel {i}" for i in range(channels)]))
    attributes: dict[str, str | int | float] = {
        "name": spec.name,
        "provenance": json.dumps(spec.provenance.model_dump(), sort_keys=True, ensure_ascii=False),
    }
    if len(sizes) == 1 and np.isfinite(next(iter(sizes))):
        attributes["pixel_size_nm"] = next(iter(sizes))
    return attributes, names


def _given(pairs: Sequence[ImageLabelPair]) -> dict[str, PartName]:
    return {pair.group: pair.part for pair in pairs if pair.part is not None}


def _splits(spec: PrepareSpec, pairs: Sequence[ImageLabelPair]) -> dict[str, Split]:
    splits: dict[str, Split] = dict(spec.splits)
    given = _given(pairs)
    if given:
        splits["given"] = GivenSplit(given)
    return splits


def _inputs_key(spec: PrepareSpec, pairs: Sequence[ImageLabelPair], keys: Sequence[str]) -> str:
    """Returns the digest of all that the dataset depends on: the parts, and what is added when they are assembled."""
    given = _given(pairs)
    fields = spec.model_dump(mode="json", include={"name", "channels", "splits", "provenance"})
    return hashlib.sha256(
        json.dumps([fields, list(keys), *([given] if given else [])], sort_keys=True).encode()
    ).hexdigest()


def _is_made(out: Path, inputs: str) -> bool:
    """Tells whether `out` is there and is this very dataset; raises SegueError where it is anything else."""
    if not out.exists():
        return False
    try:
        with Dataset(out) as dataset:
            found = dataset.attributes.get("inputs")
    except SegueError as error:
        message = f"{out}: exists and is no whole segue dataset; remove it, or give another output."
        raise SegueError(message) from error
    if found != inputs:
        raise SegueError(
            f"{out}: holds a dataset of another specification or other files; choose another file or remove this one."
        )
    return True
