"""PNG: every chunk that says something of pixels is taken into account, or refused by its name."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segue.data.formats.png import CHUNKS
from segue.data.image_io import read_header, read_image, read_stack
from segue.errors import SegueError

RANDOM = np.random.default_rng(0)
GRAY = RANDOM.integers(0, 200, (16, 24)).astype(np.uint8)
COLOR = RANDOM.integers(0, 200, (16, 24, 3)).astype(np.uint8)
INDICES = (GRAY % 5).astype(np.uint8)
PALETTE = RANDOM.integers(0, 256, (5, 3)).astype(np.uint8)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)  # pyright: ignore[reportArgumentType]
    return path


def palette_image() -> Image.Image:
    image = Image.fromarray(INDICES).convert("P")
    image.putdata(INDICES.ravel().tolist())
    image.putpalette(PALETTE.ravel().tolist())
    return image


def with_chunk(path: Path, kind: bytes, content: bytes) -> Path:
    """Writes a gray PNG with a further chunk behind the header."""
    save(path, Image.fromarray(GRAY))
    whole = path.read_bytes()
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    path.write_bytes(whole[:33] + chunk + whole[33:])
    return path


def stored(path: Path) -> np.ndarray:
    return np.asarray(read_stack(path, labels=True).pixels)


def test_palette(tmp_path: Path) -> None:
    """A palette becomes its colors; labels keep their indices, also where one of them is transparent."""
    path = save(tmp_path / "a.png", palette_image())
    np.testing.assert_array_equal(read_image(path).image, np.moveaxis(PALETTE[INDICES], -1, 0))
    np.testing.assert_array_equal(stored(path), INDICES)
    assert read_header(path).channels == 3
    path = save(tmp_path / "b.png", palette_image(), transparency=2)
    np.testing.assert_array_equal(stored(path), INDICES)
    with pytest.raises(SegueError, match=rf"b.png: {(INDICES == 2).sum()} pixels are transparent"):
        read_image(path)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits(tmp_path: Path, bits: int) -> None:
    """Gray of fewer than eight bits stays as stored, for images and labels."""
    values = (GRAY % 2**bits).astype(np.uint8)
    path = tmp_path / "a.png"
    rows = np.zeros((16, 24 * bits), np.uint8)
    for place in range(bits):
        rows[:, place::bits] = values >> (bits - 1 - place) & 1
    lines = b"".join(b"\0" + np.packbits(row).tobytes() for row in rows)
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    header = struct.pack(">IIBBBBB", 24, 16, bits, 0, 0, 0, 0)
    with path.open("ab") as file:
        for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")):
            file.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content)))
    np.testing.assert_array_equal(read_image(path).image[0], values)
    np.testing.assert_array_equal(stored(path), values)


def test_transparency(tmp_path: Path) -> None:
    """A transparent color is refused where a pixel has it; opaque alpha is dropped."""
    path = save(tmp_path / "a.png", Image.fromarray(GRAY), transparency=int(GRAY[0, 0]))
    with pytest.raises(SegueError, match=r"pixels have the color that is transparent .tRNS"):
        read_image(path)
    np.testing.assert_array_equal(stored(path), GRAY)
    path = save(tmp_path / "a.png", Image.fromarray(COLOR), transparency=tuple(int(v) for v in COLOR[0, 0]))
    with pytest.raises(SegueError, match="transparent"):
        read_image(path)
    path = save(tmp_path / "a.png", Image.fromarray(COLOR), transparency=(255, 255, 255))
    np.testing.assert_array_equal(read_image(path).image, np.moveaxis(COLOR, -1, 0))
    alpha = np.dstack([GRAY, np.full_like(GRAY, 255)])
    np.testing.assert_array_equal(stored(save(tmp_path / "a.png", Image.fromarray(alpha))), GRAY)
    alpha[0, 0, 1] = 0
    with pytest.raises(SegueError, match="alpha channel that is not opaque"):
        read_image(save(tmp_path / "a.png", Image.fromarray(alpha)))


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        (b"acTL", struct.pack(">II", 3, 0), "animated PNG of 3 frames"),
        (b"sTER", b"\0", "is a stereo image"),
        (b"ABCD", b"\0", "critical chunk ABCD"),
        (b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0", "has the orientation 6"),
    ],
)
def test_refused_by_name(tmp_path: Path, kind: bytes, content: bytes, message: str) -> None:
    """Animations, stereo images, unknown critical chunks and turned images are named."""
    with pytest.raises(SegueError, match=message):
        read_image(with_chunk(tmp_path / "a.png", kind, content))


@pytest.mark.parametrize(
    ("content", "nm"),
    [(b"\x016.5e-7\x006.5e-7", 650), (b"\x026.5e-7\x006.5e-7", None), (b"\x011\x001", None), (b"\x01x\x00y", None)],
)
def test_physical_scale(tmp_path: Path, content: bytes, nm: float | None) -> None:
    """sCAL in meters is the pixel size; in radians, implausible or unreadable, it is not known."""
    size = read_image(with_chunk(tmp_path / "a.png", b"sCAL", content)).pixel_size_nm
    assert size == (None if nm is None else pytest.approx(nm))


@pytest.mark.parametrize(
    ("kind", "content"),
    [(b"sBIT", b"\x04"), (b"gAMA", struct.pack(">I", 45455)), (b"pHYs", struct.pack(">IIB", 11811, 11811, 1))],
)
def test_display_only(tmp_path: Path, kind: bytes, content: bytes) -> None:
    """Significant bits, gamma and the resolution of a print change neither pixels nor their size."""
    path = with_chunk(tmp_path / "a.png", kind, content)
    np.testing.assert_array_equal(read_image(path).image[0], GRAY)
    np.testing.assert_array_equal(stored(path), GRAY)
    assert read_image(path).pixel_size_nm is None
    assert kind in CHUNKS


def test_notes(tmp_path: Path) -> None:
    """Pixels that are not square and calibrations of values are told."""
    wide = with_chunk(tmp_path / "a.png", b"pHYs", struct.pack(">IIB", 2, 1, 0))
    assert "not square" in read_image(wide).notes[0]
    calibrated = with_chunk(tmp_path / "b.png", b"pCAL", b"x\0" + bytes(10))
    assert "calibration" in read_image(calibrated).notes[0]


def test_checksums(tmp_path: Path) -> None:
    """A flipped bit is damage, though a decoder may only warn of it."""
    path = save(tmp_path / "a.png", Image.fromarray(GRAY))
    whole = path.read_bytes()
    for place in range(whole.index(b"IDAT") + 4, len(whole) - 16, 40):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(bytes(damaged))
        with pytest.raises(SegueError, match=r"truncated or corrupt .the chunk IDAT has a wrong checksum"):
            read_image(path)


@pytest.mark.parametrize(("bits", "channels"), [(16, 1), (16, 3), (8, 1)])
def test_interlaced(tmp_path: Path, caplog: pytest.LogCaptureFixture, bits: int, channels: int) -> None:
    """Adam7 is read without a remark of the decoder."""
    pixels = RANDOM.integers(0, 2**bits, (9, 11, channels)).astype(f">u{bits // 8}")
    passes = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1))
    parts = [pixels[y::dy, x::dx] for y, dy, x, dx in passes]
    rows = b"".join(b"\0" + row.tobytes() for part in parts for row in part if part.size)
    header = struct.pack(">IIBBBBB", 11, 9, bits, {1: 0, 3: 2}[channels], 0, 0, 1)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    )
    np.testing.assert_array_equal(read_image(path).image, np.moveaxis(pixels, -1, 0))
    assert not caplog.records
