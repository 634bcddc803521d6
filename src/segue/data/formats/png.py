"""PNG: pixels as a viewer shows them, whatever chunks say of them (third edition of the specification)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import imagecodecs
import numpy as np
from PIL.PngImagePlugin import PngImageFile

from segue.data.formats.codec_messages import quiet_codecs
from segue.data.formats.exif import exif_problem
from segue.data.formats.stack import Header, Reader, Stack
from segue.errors import SegueError
from segue.units import pixel_size_nm, square_pixel_nm

# what is done with each chunk that says something of pixels
CHUNKS: Mapping[bytes, str] = {
    b"IHDR": "taken into account",
    b"PLTE": "colors of a palette image; of labels, the stored numbers; otherwise a suggestion, ignored",
    b"IDAT": "the pixels",
    b"IEND": "the end",
    b"tRNS": "refused where a pixel is transparent; ignored for labels",
    b"acTL": "animations are refused",
    b"fcTL": "of animations",
    b"fdAT": "of animations",
    b"sTER": "two pictures side by side: refused",
    b"eXIf": "refused unless upright",
    b"sCAL": "the pixel size",
    b"pHYs": "dots per meter of a print: ignored, but pixels that are not square are told",
    b"pCAL": "what a pixel's value measures: told, pixels stay as stored",
    b"sBIT": "the camera's bits: ignored, pixels stay as stored",
    b"gAMA": "display only: ignored",
    b"cHRM": "display only: ignored",
    b"sRGB": "display only: ignored",
    b"iCCP": "display only: ignored",
    b"cICP": "display only: ignored",
    b"mDCV": "display only: ignored",
    b"cLLI": "display only: ignored",
    b"bKGD": "display only: ignored",
    b"hIST": "display only: ignored",
    b"sPLT": "display only: ignored",
    b"oFFs": "a place on a page: ignored",
}
SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNK_BYTES = 2**20  # of those chunks that are looked at
METER = 1  # unit of sCAL


def read_png_header(path: Path) -> Header:
    with PngImageFile(path) as image:  # opened without `Image.open`, which refuses large images
        return _header(image)


def _header(image: PngImageFile) -> Header:
    bands, _, depth = str(image.tile[0][3]).partition(";")  # Pillow's raw mode, e.g. "L;4", "RGB;16B", "1"
    bits = 1 if bands == "1" else int(depth.removesuffix("B") or 8)
    return Header(image.height, image.width, {"1": 1, "I": 1, "P": 3}.get(bands, len(bands)), bits)


def read_png(path: Path, labels: bool) -> Stack:
    """Returns the pixels; gray of fewer than eight bits stays as stored, palettes become colors except for labels."""
    content = path.read_bytes()
    chunks = _chunks(content)
    notes = _check(path, chunks)
    size_nm, size_notes = _pixel_size(chunks)
    notes += size_notes
    with PngImageFile(path) as image:
        bits, mode = _header(image).bits, image.mode
        if mode == "P" or bits < 8:  # imagecodecs would turn indices into colors and 1 into 255
            pixels = np.asarray(image)
            if mode != "P":
                gray = (pixels // {2: 85, 4: 17}.get(bits, 1)).astype(np.uint8)
                if not labels:
                    _check_transparent_color(path, gray, chunks)
                return Stack(gray, "YX", size_nm, None, notes)
            if labels:
                return Stack(pixels, "YX", size_nm, None, notes)
            return Stack(_colors(path, pixels, image, chunks), "YXS", size_nm, None, notes)
    with quiet_codecs():
        pixels = imagecodecs.png_decode(content)
    channels = struct.unpack(">B", chunks[b"IHDR"][9:10])[0]  # color type
    if channels in (4, 6):
        if (pixels[..., -1] != np.iinfo(pixels.dtype).max).any():
            raise SegueError(f"{path}: has an alpha channel that is not opaque; save the image without transparency.")
        pixels = pixels[..., :-1]
    elif b"tRNS" in chunks:
        pixels = pixels[..., : 3 if channels == 2 else 1]  # libpng adds an alpha channel
        if not labels:
            _check_transparent_color(path, pixels, chunks)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    return Stack(pixels, "YX" if pixels.ndim == 2 else "YXS", size_nm, None, notes)


def _chunks(content: bytes) -> dict[bytes, bytes]:
    """Returns the first chunk of each kind that is looked at; b"" stands for the content of others.

    Raises ValueError if a chunk has a wrong checksum: of that of pixels, libpng only warns.
    """
    chunks: dict[bytes, bytes] = {}
    view, place = memoryview(content), len(SIGNATURE)
    while place + 12 <= len(view):
        length, kind = struct.unpack(">I4s", view[place : place + 8])
        end = place + 8 + length
        if end + 4 > len(view):
            raise EOFError(f"the chunk {kind.decode('latin-1')} is cut off")
        if zlib.crc32(view[place + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise ValueError(f"the chunk {kind.decode('latin-1')} has a wrong checksum")
        is_read = kind in CHUNKS and kind not in (b"IDAT", b"fdAT") and length <= MAX_CHUNK_BYTES
        chunks.setdefault(kind, bytes(view[place + 8 : end]) if is_read else b"")
        if kind == b"IEND":
            break
        place = end + 4
    return chunks


def _check(path: Path, chunks: Mapping[bytes, bytes]) -> tuple[str, ...]:
    """Raises SegueError for chunks that say what is not read; returns notes."""
    unknown = [kind for kind in chunks if kind not in CHUNKS and not kind[0] & 0x20 and kind.isalpha()]
    if unknown:
        raise SegueError(
            f"{path}: has the critical chunk {unknown[0].decode()}, which is not of the PNG specification; save it "
            "again."
        )
    if len(chunks.get(b"acTL", b"")) >= 4 and struct.unpack(">I", chunks[b"acTL"][:4])[0] > 1:
        frames = struct.unpack(">I", chunks[b"acTL"][:4])[0]
        raise SegueError(f"{path}: is an animated PNG of {frames} frames; save each as a separate image.")
    if b"sTER" in chunks:
        raise SegueError(f"{path}: is a stereo image (sTER), two pictures side by side; save each as a separate image.")
    problem = exif_problem(chunks[b"eXIf"]) if b"eXIf" in chunks else None
    if problem is not None:
        raise SegueError(f"{path}: {problem}.")
    if b"pCAL" in chunks:
        return ("has a calibration (pCAL) for its pixel values, which is not applied: pixels are as stored",)
    return ()


def _pixel_size(chunks: Mapping[bytes, bytes]) -> tuple[float | None, tuple[str, ...]]:
    """Returns the pixel size of sCAL in nm, and notes; pHYs is the resolution of a print."""
    scale = chunks.get(b"sCAL", b"")
    if scale[:1] == bytes([METER]) and scale.count(b"\0") == 1:
        width, _, height = scale[1:].decode("latin-1").partition("\0")
        return square_pixel_nm(pixel_size_nm(width, "m"), pixel_size_nm(height, "m"))
    density = chunks.get(b"pHYs", b"")
    if len(density) == 9:
        x, y, _ = struct.unpack(">IIB", density)
        if x and y and abs(x - y) > 0.01 * max(x, y):
            return None, ("its pixels are not square according to pHYs",)
    return None, ()


def _check_transparent_color(path: Path, pixels: np.ndarray, chunks: Mapping[bytes, bytes]) -> None:
    """Raises SegueError if a pixel (..., C) or (H, W) has the color that tRNS makes transparent."""
    data = chunks.get(b"tRNS", b"")
    color = np.frombuffer(data[: len(data) // 2 * 2], ">u2")
    if not len(color):
        return
    samples = pixels[..., None] if pixels.ndim == 2 else pixels
    count = int((samples == color[: samples.shape[-1]]).all(axis=-1).sum())
    if count:
        raise SegueError(
            f"{path}: {count} pixels have the color that is transparent (tRNS); save the image without transparency."
        )


def _colors(path: Path, indices: np.ndarray, image: PngImageFile, chunks: Mapping[bytes, bytes]) -> np.ndarray:
    """Returns (H, W, 3) colors of a palette; raises SegueError for indices without one, and transparent ones."""
    palette = np.frombuffer(chunks.get(b"PLTE", b""), np.uint8)
    palette = palette[: len(palette) // 3 * 3].reshape(-1, 3)
    used = np.unique(indices)
    if used[-1] >= len(palette):
        raise SegueError(f"{path}: has the palette index {used[-1]}, but only {len(palette)} colors; save it again.")
    alpha = np.full(256, 255, np.uint8)
    stated = np.frombuffer(chunks.get(b"tRNS", b"")[:256], np.uint8)
    alpha[: len(stated)] = stated
    if (alpha[used] < 255).any():
        count = int((alpha[indices] < 255).sum())
        raise SegueError(
            f"{path}: {count} pixels are transparent (tRNS of its palette); save the image without transparency."
        )
    return palette[indices]


PNG = Reader("PNG", read_png_header, read_png, single=True)
