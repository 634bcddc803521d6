"""The size of an image from its file's header alone, without decoding and without NumPy: for planning."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from segue.errors import SegueError

PNG_SUFFIXES = (".png",)
TIFF_SUFFIXES = (".tif", ".tiff")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # colour type -> values per pixel; 3 is a palette
PALETTE = 3


@dataclass(frozen=True)
class Header:
    """Height and width in pixels, values per pixel (pages of a TIFF counted as such), bits per value."""

    height: int
    width: int
    channels: int
    bits: int
    palette: bool = False


def read_header(path: Path) -> Header:
    """Returns the header of a PNG or TIFF file (of a TIFF, its first page); raises SegueError naming the file."""
    suffix = path.suffix.lower()
    if suffix not in (*PNG_SUFFIXES, *TIFF_SUFFIXES):
        raise SegueError(f"{path}: '{path.suffix}' files cannot be read; allowed are .png, .tif and .tiff: convert it.")
    try:
        with path.open("rb") as file:
            return _png(file) if suffix in PNG_SUFFIXES else _tiff(file)
    except FileNotFoundError:
        raise SegueError(f"{path}: there is no such file; correct the path.") from None
    except OSError as error:
        raise SegueError(f"{path}: cannot be read ({error.strerror}); check the file's permissions.") from error
    except (struct.error, ValueError, KeyError) as error:
        raise SegueError(broken(path)) from error


def broken(path: Path, reason: str = "") -> str:
    """Returns the sentence for an image file that cannot be decoded."""
    kind = "PNG" if path.suffix.lower() in PNG_SUFFIXES else "TIFF"
    detail = f" ({reason})" if reason else ""
    return f"{path}: the {kind} file is truncated or corrupt{detail}; copy it again from its source, or leave it out."


def _png(file: BinaryIO) -> Header:
    start = file.read(26)
    if start[:8] != PNG_SIGNATURE or start[12:16] != b"IHDR":
        raise ValueError("no PNG signature")
    width, height, bits, colour = struct.unpack(">IIBB", start[16:26])
    return Header(height, width, PNG_CHANNELS[colour], bits, colour == PALETTE)


def _tiff(file: BinaryIO) -> Header:
    order = {b"II": "<", b"MM": ">"}[file.read(2)]
    big = {42: False, 43: True}[_one(file, order, "H")]
    if big:
        file.seek(8)
    place = _one(file, order, "Q" if big else "I")
    first, place = _page(file, place, order, big)
    pages = 1
    while place and pages < 4096:
        _, place = _page(file, place, order, big)
        pages += 1
    samples = first.get(277, 1)
    return Header(first[257], first[256], samples * pages, first.get(258, 1))


def _page(file: BinaryIO, place: int, order: str, big: bool) -> tuple[dict[int, int], int]:
    """Returns the first value of each short numeric tag of the page at `place`, and where the next page is."""
    file.seek(place)
    count = _one(file, order, "Q" if big else "H")
    size, offset = (20, 12) if big else (12, 8)
    entries = file.read(count * size)
    if len(entries) < count * size:
        raise ValueError("tags cut off")
    next_page = _one(file, order, "Q" if big else "I")
    tags = {}
    for index in range(count):
        entry = entries[index * size : (index + 1) * size]
        tag, kind = struct.unpack(order + "HH", entry[:4])
        number = struct.unpack(order + ("Q" if big else "I"), entry[4:offset])[0]
        letter = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
        if letter is None:
            continue
        width = struct.calcsize(letter)
        if number * width <= size - offset:
            tags[tag] = struct.unpack(order + letter, entry[offset : offset + width])[0]
        elif tag == 258:  # bits of each sample do not fit the entry: they stand elsewhere
            file.seek(struct.unpack(order + ("Q" if big else "I"), entry[offset:])[0])
            tags[tag] = _one(file, order, letter)
    return tags, next_page


def _one(file: BinaryIO, order: str, letter: str) -> int:
    return struct.unpack(order + letter, file.read(struct.calcsize(letter)))[0]
