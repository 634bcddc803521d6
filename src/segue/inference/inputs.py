"""Images to be predicted: from arguments of a command to images that are read by regions, (C, H, W) in acquired units.

A file with pages of time or depth, or pages of which it says nothing, holds an image in each, unless the model takes as
many channels as there are such pages. Large TIFF files and OME-Zarr are read by regions; other files whole.
"""

from __future__ import annotations

import contextlib
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segue.data import image_io
from segue.data.folders.patterns import file_stem, find_files
from segue.data.formats.ome_zarr import is_zarr, read_ome_zarr
from segue.data.formats.stack import AXIS_WORDS, RGB, Stack, luma
from segue.data.formats.tiff_blocks import TiffBlocks
from segue.data.tiling import bands
from segue.errors import SegueError
from segue.fingerprint import hash_json, shared_folder
from segue.storage import absolute, as_path, file_name

LARGE_BYTES = 2**26  # of a plane; smaller ones are read whole
PAGE_AXES = {"T": "t", "Z": "z", "Q": "p"}  # axes whose entries are images, and how these are numbered in names
WITHOUT_PAGES = tuple(suffix for suffix, reader in image_io.READERS.items() if reader.single)
SIGNS = frozenset("*?[{")
GRAY_NOTE = "has equal red, green and blue, taken as one channel of gray"
UNNAMED = "intensity"  # the name of the only channel of a dataset that names none


@dataclass(frozen=True)
class ImageInput:
    """An image of a file: the whole, or one page. name: by which its outputs are called, unique, folders by "/"; that
    of the file, and of its page."""

    file_name: str
    path: Path
    page: int | None = None
    suffix: str = ""

    @property
    def name(self) -> str:
        return f"{self.file_name}{self.suffix}"


@dataclass(frozen=True)
class ImageInputs:
    """The images that arguments name, sentences about files in their folders that are none, and why others cannot be
    predicted."""

    images: tuple[ImageInput, ...]
    notes: tuple[str, ...]
    errors: tuple[str, ...]


# which images


def find_images(
    arguments: Sequence[Path | str], *, channels: Sequence[str], exclude: Path, names: Mapping[Path, str] | None = None
) -> ImageInputs:
    """Returns the images of files, folders, patterns (*, ?, [abc], **) and OME-Zarr folders.

    Of a folder, those that lie directly in it. Nothing at or below the folder `exclude` counts, the output. names: of
    files that were predicted before, which stay. Raises SegueError for an argument without any image.
    """
    files: dict[Path, str] = {}
    notes: list[str] = []
    for argument in arguments:
        path = as_path(argument)
        if path.is_dir() and not is_zarr(path):
            images, others = _images_of_folder(path)
            root = path
            if not images:
                raise SegueError(f"{path}: holds no image ({_suffixes()}); give a folder of images.")
            if others:
                count = (
                    "1 file is no image and is" if len(others) == 1 else f"{len(others)} files are no images and are"
                )
                notes.append(f"{path}: {count} left out, such as {others[0].name}")
        elif path.exists():
            images, root = [path], path.parent
        elif SIGNS & set(str(argument)):
            images = [one.path for one in find_files(str(argument), Path()).files if not _is_hidden(one.path)]
            images = [path for path in images if path.suffix.lower() in image_io.READERS] + _zarr_folders(str(argument))
            root = shared_folder(images) if images else Path()
            if not images:
                raise SegueError(f"{argument}: matches no image ({_suffixes()}); correct the pattern.")
        else:
            raise SegueError(f"{argument}: there is no such file or folder; correct the path.")
        for image in images:
            if not absolute(image).is_relative_to(absolute(exclude)):
                files.setdefault(absolute(image), _name(absolute(image).relative_to(absolute(root))))
    if not files:
        raise SegueError(f"{exclude}: all images given lie in the output's own folder; give the images to predict.")
    inputs, errors = [], []
    for path, name in _unique(files, names or {}).items():
        try:
            inputs += _pages(path, name, channels)
        except SegueError as error:
            errors.append(str(error))
    return ImageInputs(tuple(inputs), tuple(notes), tuple(errors))


def _suffixes() -> str:
    return ", ".join((*image_io.READERS, ".zarr"))


def _is_hidden(path: Path) -> bool:
    return path.name.startswith((".", "~"))


def _images_of_folder(folder: Path) -> tuple[list[Path], list[Path]]:
    entries = sorted(path for path in folder.iterdir() if not _is_hidden(path))
    images = [path for path in entries if (is_zarr(path) if path.is_dir() else path.suffix.lower() in image_io.READERS)]
    return images, [path for path in entries if path not in images and path.is_file()]


def _zarr_folders(pattern: str) -> list[Path]:
    path = Path(pattern)
    root = Path(path.anchor) if path.is_absolute() else Path()
    return sorted(one for one in root.glob(str(path.relative_to(root))) if one.is_dir() and is_zarr(one))


def _name(path: Path) -> str:
    """Returns the name of an image without suffix, folders by "/", as every system takes it."""
    stem = path.name[: -len(".zarr")] if path.suffix.lower() == ".zarr" else file_stem(path.name)
    stem = stem.removesuffix(".ome") if path.suffix.lower() == ".zarr" else stem
    return "/".join(file_name(part) for part in (*path.parts[:-1], stem))


def _unique(files: Mapping[Path, str], known: Mapping[Path, str]) -> dict[Path, str]:
    """Returns a name per file: the one that is known, else its own, which files that share it extend by their folders,
    and where these are the same by their suffixes."""
    names = {path: known.get(path, name) for path, name in files.items()}
    others = {path: name for path, name in known.items() if path not in names}
    shared = _shared(names | others)
    folder = shared_folder(shared) if shared else Path()
    for extend in (_name, lambda path: "/".join(file_name(part) for part in path.parts)):
        names |= {path: extend(path.relative_to(folder)) for path in shared if path not in known}
        shared = _shared(names | others)
    if shared:
        raise SegueError(
            f"{shared[0]}: shares the name {(names | others)[shared[0]]} with {shared[1]}, so that their outputs would "
            "be one file; rename one, or predict the folders one by one."
        )
    return names


def _shared(names: Mapping[Path, str]) -> list[Path]:
    def folded(name: str) -> str:
        return unicodedata.normalize("NFC", name).casefold()

    counts = Counter(folded(name) for name in names.values())
    return [path for path, name in names.items() if counts[folded(name)] > 1]


def _pages(path: Path, name: str, channels: Sequence[str]) -> list[ImageInput]:
    """Returns the images of a file; raises SegueError if it has pages of several kinds."""
    if path.is_file() and path.suffix.lower() in WITHOUT_PAGES:
        return [ImageInput(name, path)]
    stack = _read_stack(path)
    axis = _page_axis(path, stack, len(channels))
    if axis is None:
        return [ImageInput(name, path)]
    letter, count = PAGE_AXES[stack.axes[axis]], stack.pixels.shape[axis]
    digits = max(3, len(str(count)))
    return [ImageInput(name, path, page, f"-{letter}{page:0{digits}d}") for page in range(count)]


def _read_stack(path: Path) -> Stack:
    return read_ome_zarr(path) if path.is_dir() else image_io.read_stack(path)


def _page_axis(path: Path, stack: Stack, channels: int) -> int | None:
    """Returns the axis whose entries are images of their own, None if the stack is one image."""
    lengths = dict(zip(stack.axes, stack.pixels.shape, strict=True))
    for letter, length in lengths.items():
        if letter not in (*"YXCS", *PAGE_AXES) and length > 1:
            words = AXIS_WORDS.get(letter, f"entries along axis {letter}")
            raise SegueError(f"{path}: holds {length} {words}; save each as a separate image.")
    several = [letter for letter in PAGE_AXES if lengths.get(letter, 1) > 1]
    if len(several) > 1:
        words = " × ".join(f"{lengths[letter]} {AXIS_WORDS.get(letter, 'pages')}" for letter in several)
        raise SegueError(f"{path}: holds {words}; an image has one of them at most: save each as a separate image.")
    if several == ["Q"] and channels > 1 and lengths["Q"] == channels and lengths.get("C", 1) == 1:
        return None  # pages without a meaning, as many as the model takes channels
    return stack.axes.index(several[0]) if several else None


def content_stamp(path: Path) -> str:
    """Returns a text that changes when a file, or a file of a folder, changes: from sizes and times."""
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    stats = [(one.relative_to(path).as_posix(), one.stat()) for one in files]
    return hash_json([[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats], digest_size=8)


# one image


@dataclass(frozen=True)
class OpenImage:
    """An image to be predicted: it has shape (C, H, W) and dtype, and is sliced by (channel, rows, columns)."""

    image: Any
    pixel_size_nm: float | None
    notes: tuple[str, ...]


def open_image(image: ImageInput, channels: tuple[str, ...]) -> OpenImage:
    """Returns the image with the model's channels; raises SegueError if it has not these, or cannot be read.

    Channels are taken by name where the file names all of the model's, and in order where it has as many; red, green
    and blue that are equal are gray, which a model of one channel takes.
    """
    stack = _read_stack(image.path)
    axes, lengths = stack.axes, dict(zip(stack.axes, stack.pixels.shape, strict=True))
    page_axis = _page_axis(image.path, stack, len(channels))
    if page_axis is not None:
        if image.page is None or image.page >= stack.pixels.shape[page_axis]:
            raise SegueError(f"{image.path}: changed while it was predicted; run the same command again.")
        index = {axes[page_axis]: image.page}
    else:
        index = {}
    dtype = image_io.acquired_dtype(image.path, np.dtype(stack.pixels.dtype))
    channel_axis = next((letter for letter in "CSQ" if lengths.get(letter, 1) > 1 and letter not in index), None)
    if channel_axis == "C" and lengths.get("S", 1) > 1:
        raise SegueError(f"{image.path}: holds {lengths['C']} color images; save each as a separate image.")
    size = (lengths["Y"], lengths["X"])
    is_large = int(np.prod(size)) * dtype.itemsize * (lengths.get("S", 1)) > LARGE_BYTES
    with _decoding(image.path):
        is_tiff = image.path.suffix.lower() in image_io.TIFF_SUFFIXES
        blocks = TiffBlocks(image.path) if is_large and is_tiff else None
    is_whole = not is_large or (not image.path.is_dir() and (blocks is None or not blocks.has_small_chunks))
    colors = RegionReader(image.path, stack, index, channel_axis, (0, 1, 2), False, dtype, blocks)
    is_rgb = channel_axis == "S" and lengths["S"] == len(RGB)
    if is_rgb and _takes_gray(channels) and _are_equal(colors, size, whole=is_whole):
        order, is_gray, notes = (0,), False, (GRAY_NOTE,)
    else:
        order, is_gray, notes = _channel_order(image.path, stack, channel_axis, lengths, channels)
    pixels = replace(colors, order=order, is_gray=is_gray)
    if is_whole:
        planes = pixels.planes(order, slice(None), slice(None))
        acquired = image_io.to_acquired(image.path, planes)
        notes = (*notes, *image_io.rounding_notes(planes, acquired))
        return OpenImage(acquired, stack.pixel_size_nm, (*stack.notes, *notes))
    return OpenImage(pixels, stack.pixel_size_nm, (*stack.notes, *notes))


@contextlib.contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Turns whatever a decoder raises for damaged bytes into a SegueError that names the file."""
    try:
        yield
    except (SegueError, MemoryError):
        raise
    except Exception as error:
        reader = image_io.READERS.get(path.suffix.lower())
        format = reader.format if reader is not None and path.is_file() else "OME-Zarr"
        raise SegueError(image_io.not_decoded(path, format, error)) from error


def _takes_gray(channels: tuple[str, ...]) -> bool:
    """Returns whether a model takes one channel that is neither a color nor made of colors."""
    return len(channels) == 1 and channels[0] not in ("gray", *RGB)


def _are_equal(colors: RegionReader, size: tuple[int, int], *, whole: bool) -> bool:
    """Returns whether red, green and blue are equal everywhere; a large image is read by bands, up to a difference."""
    row_ranges = [(0, size[0])] if whole else bands(*size, 3 * colors.dtype.itemsize)
    planes = (colors.planes(colors.order, slice(*rows), slice(None)) for rows in row_ranges)
    return all(bool((band == band[:1]).all()) for band in planes)


def _channel_order(
    path: Path, stack: Stack, channel_axis: str | None, lengths: dict[str, int], channels: tuple[str, ...]
) -> tuple[tuple[int, ...], bool, tuple[str, ...]]:
    """Returns which channels of the file are the model's, in its order, whether red, green and blue become gray, and
    notes."""
    count = lengths[channel_axis] if channel_axis else 1
    names = RGB if channel_axis == "S" and count == 3 else stack.channels
    if channel_axis == "S" and channels == ("gray",) and count == 3:
        return (0,), True, ()
    if names is not None and len(set(names)) == len(names) and set(channels) <= set(names):
        return tuple(names.index(name) for name in channels), False, ()
    if count != len(channels):
        named = f" ({', '.join(names)})" if names else ""
        named += " that differ" if channel_axis == "S" and count == 3 and _takes_gray(channels) else ""
        raise SegueError(
            f"{path}: has {count} channel(s){named}, but the model takes {len(channels)} ({', '.join(channels)}); "
            "give images of these channels."
        )
    note = f"has the channels {', '.join(names)}, taken as the model's {', '.join(channels)}" if names else None
    return tuple(range(count)), False, () if note is None or channels == (UNNAMED,) else (note,)


@dataclass(frozen=True)
class RegionReader:
    """An image (C, H, W) that reads what is sliced; `order` are the channels of the file, `index` its page."""

    path: Path
    stack: Stack
    index: dict[str, int]
    channel_axis: str | None
    order: tuple[int, ...]
    is_gray: bool
    dtype: np.dtype
    blocks: TiffBlocks | None

    @property
    def shape(self) -> tuple[int, int, int]:
        lengths = dict(zip(self.stack.axes, self.stack.pixels.shape, strict=True))
        return len(self.order), lengths["Y"], lengths["X"]

    def __getitem__(self, key: tuple[int | slice, slice, slice]) -> np.ndarray:
        """Returns (C, h, w), or (h, w) for one channel; raises SegueError naming the file for damaged bytes."""
        channel, rows, columns = key
        chosen = (self.order[channel],) if isinstance(channel, int) else self.order[channel]
        planes = image_io.to_acquired(self.path, self.planes(chosen, rows, columns))
        return planes[0] if isinstance(channel, int) else planes

    def planes(self, channels: tuple[int, ...], rows: slice, columns: slice) -> np.ndarray:
        """Returns (channels, h, w) in the type of the file; raises SegueError for damaged bytes."""
        with _decoding(self.path):
            return self._planes(channels, rows, columns)

    def _planes(self, channels: tuple[int, ...], rows: slice, columns: slice) -> np.ndarray:
        if self.blocks is not None:
            lead_axes = self.stack.axes[: len(self.blocks.lead)]
            if self.channel_axis is not None and self.channel_axis in lead_axes:
                leads = [self._lead(lead_axes, channel) for channel in channels]
                return np.concatenate([self.blocks.read(lead, rows, columns) for lead in leads])
            samples = self.blocks.read(self._lead(lead_axes, 0), rows, columns)
        else:
            index = tuple(
                {"Y": rows, "X": columns}.get(letter, slice(None))
                if letter in ("Y", "X", self.channel_axis)
                else self.index.get(letter, 0)
                for letter in self.stack.axes
            )
            if not self.path.is_dir():  # pages of files are read whole
                whole = tuple(slice(None) if isinstance(one, slice) else one for one in index)
                rest = tuple(one for one in index if isinstance(one, slice))
                samples = np.asarray(self.stack.pixels[whole])[rest]
            else:
                samples = np.asarray(self.stack.pixels[index])
            axes = [letter for letter in self.stack.axes if letter in ("Y", "X", self.channel_axis)]
            samples = samples.transpose([axes.index(letter) for letter in (self.channel_axis, "Y", "X") if letter])
            samples = samples if self.channel_axis else samples[None]
        return luma(samples)[None] if self.is_gray else samples[list(channels)]

    def _lead(self, axes: str, channel: int) -> tuple[int, ...]:
        return tuple(channel if letter == self.channel_axis else self.index.get(letter, 0) for letter in axes)
