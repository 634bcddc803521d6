"""TIFF: every tag that says something of pixels is taken into account, or refused by its name."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import tifffile
from PIL import Image

from segue.data.formats.stack import Stack
from segue.data.formats.tiff_tags import LOSSLESS, PHOTOMETRIC, REFUSED_PHOTOMETRIC, TAGS
from segue.data.image_io import count_pages, is_inverted_mask, read_header, read_image, read_page, read_stack
from segue.errors import SegueError

RANDOM = np.random.default_rng(0)
GRAY = RANDOM.integers(0, 200, (16, 24)).astype(np.uint8)
DEEP = RANDOM.integers(0, 4000, (16, 24)).astype(np.uint16)
COLOR = RANDOM.integers(0, 200, (16, 24, 4)).astype(np.uint8)
OPAQUE = np.concatenate([COLOR[..., :3], np.full((16, 24, 1), 255, np.uint8)], axis=-1)
COLORMAP = RANDOM.integers(0, 2**16, (3, 256)).astype(np.uint16)


def write(folder: Path, pixels: np.ndarray, **settings: Any) -> Path:
    tifffile.imwrite(folder / "a.tif", pixels, **settings)
    return folder / "a.tif"


def stored(path: Path) -> np.ndarray:
    """Returns what is read as labels."""
    stack: Stack = read_stack(path, labels=True)
    return np.asarray(stack.pixels[tuple(slice(None) for _ in stack.axes)])


def by_hand(path: Path, data: bytes, tags: dict[int, tuple[int, ...]], *, bits: tuple[int, ...] = (8,)) -> Path:
    """Writes a TIFF of 8 × 2 px with given tags (code: values, as 16-bit numbers); None leaves one out."""
    fixed = {256: (8,), 257: (2,), 258: bits, 259: (1,), 262: (1,), 277: (len(bits),), 278: (2,), 279: (len(data),)}
    every = {code: values for code, values in sorted({**fixed, 273: (0,), **tags}.items()) if values}
    start = 8 + 2 + 12 * len(every) + 4
    long_values, entries = b"", []
    for code, values in every.items():
        packed = struct.pack(f"<{len(values)}H", *values)
        if len(packed) > 4:
            packed, long_values = struct.pack("<I", start + len(long_values)), long_values + packed
        entries.append([code, len(values), packed])
    for entry in entries:
        if entry[0] == 273:
            entry[2] = struct.pack("<I", start + len(long_values))
    directory = b"".join(struct.pack("<HHI", code, 3, count) + value.ljust(4, b"\0") for code, count, value in entries)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    path.write_bytes(head + directory + bytes(4) + long_values + data)
    return path


@pytest.mark.parametrize(
    ("settings", "white"),
    [
        ({}, 2**16 - 1),
        ({"bitspersample": 12}, 2**12 - 1),
        ({"compression": "zlib"}, 2**16 - 1),
        ({"tile": (16, 16)}, 65535),
    ],
)
def test_white_is_zero_is_inverted(tmp_path: Path, settings: dict[str, Any], white: int) -> None:
    """Gray whose 0 is white is inverted with the white of its bits, also packed ones; labels keep their numbers."""
    path = write(tmp_path, DEEP, photometric="miniswhite", **settings)
    np.testing.assert_array_equal(read_image(path).image[0], white - DEEP)
    np.testing.assert_array_equal(read_page(path, 0), white - DEEP)
    np.testing.assert_array_equal(stored(path), DEEP)


def test_white_is_zero_of_several_samples(tmp_path: Path) -> None:
    """Gray is inverted and opaque alpha dropped; of further samples it is open what is white."""
    both = np.stack([GRAY, np.full_like(GRAY, 255)], axis=-1)
    path = write(tmp_path, both, photometric="miniswhite", planarconfig="contig", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(read_image(path).image, 255 - GRAY[None])
    for config, pixels in (("contig", both), ("separate", np.moveaxis(both, -1, 0))):
        path = write(tmp_path, pixels, photometric="miniswhite", planarconfig=config, extrasamples=["unspecified"])
        with pytest.raises(SegueError, match="is marked WhiteIsZero and has 2 samples per pixel"):
            read_image(path)


def test_one_bit_images_and_masks(tmp_path: Path) -> None:
    """One-bit images are inverted; a mask only if its image has the mark too, since tifffile sets it for every mask."""
    path = write(tmp_path, GRAY > 90)  # tifffile marks it WhiteIsZero
    np.testing.assert_array_equal(read_image(path).image[0], GRAY <= 90)
    np.testing.assert_array_equal(stored(path), GRAY > 90)
    tifffile.imwrite(tmp_path / "white.tif", GRAY, photometric="miniswhite")
    tifffile.imwrite(tmp_path / "black.tif", GRAY)
    assert is_inverted_mask(path, tmp_path / "white.tif") is True
    assert is_inverted_mask(path, tmp_path / "black.tif") is False
    assert is_inverted_mask(tmp_path / "white.tif", tmp_path / "white.tif") is None
    Image.fromarray(GRAY > 90).save(tmp_path / "group4.tif", compression="group4")
    np.testing.assert_array_equal(read_image(tmp_path / "group4.tif").image[0], GRAY > 90)


@pytest.mark.parametrize("scale", [1, 256])
def test_palettes(tmp_path: Path, scale: int) -> None:
    """A palette becomes its colors, of 16 bits or (as old programs write) of 8; labels keep their indices."""
    path = write(tmp_path, GRAY, photometric="palette", colormap=(COLORMAP >> 8) * np.uint16(scale))
    np.testing.assert_array_equal(read_image(path).image, (COLORMAP >> 8)[:, GRAY])
    np.testing.assert_array_equal(stored(path), GRAY)
    assert read_header(path).channels == 3


@pytest.mark.parametrize("bits", [9, 12, 16])
def test_palettes_of_acquired_data(tmp_path: Path, bits: int) -> None:
    """More than eight bits are data with a table for display, as FluoView writes them: stored, and told."""
    ramp = np.arange(2**16, dtype=np.uint16)[:: 2 ** (16 - bits)]
    pixels = DEEP & np.uint16(2**bits - 1)
    colormap = np.stack([0 * ramp, ramp, 0 * ramp])
    if bits == 16:
        path = write(tmp_path, pixels, photometric="palette", colormap=colormap)
    else:
        data = np.packbits(((pixels[:2, :8, None] >> np.arange(bits)[::-1]) & 1).astype(np.uint8)).tobytes()
        tags = {262: (3,), 320: tuple(colormap.ravel().tolist())}
        path, pixels = by_hand(tmp_path / "b.tif", data, tags, bits=(bits,)), pixels[:2, :8]
    actual = read_image(path, color=None)
    np.testing.assert_array_equal(actual.image, pixels[None])
    (note,) = actual.notes
    assert note == f"has a color table (PhotometricInterpretation Palette) over {bits} bits: pixels are as stored"
    assert read_header(path).channels == 1 and actual.image.dtype == np.uint16
    np.testing.assert_array_equal(stored(path), pixels)


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
@pytest.mark.parametrize("first", [0, 2])
def test_opaque_alpha_is_dropped(tmp_path: Path, kind: str, first: int) -> None:
    """Of color and of gray, associated and not; whatever is not opaque is refused."""
    options: dict[str, Any] = {"photometric": "minisblack" if first else "rgb", "extrasamples": [kind]}
    path = write(tmp_path, OPAQUE[..., first:], planarconfig="contig", **options)
    expected = np.moveaxis(OPAQUE[..., first:-1], -1, 0)
    np.testing.assert_array_equal(read_image(path).image, expected)
    np.testing.assert_array_equal(read_page(path, 0), expected[0] if first else OPAQUE[..., :3])
    path = write(tmp_path, COLOR[..., first:], planarconfig="contig", **options)
    with pytest.raises(SegueError, match=r"a.tif: has an alpha channel and is not opaque everywhere"):
        read_image(path)


@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_color_and_further_samples(tmp_path: Path, planes: Literal["contig", "separate"]) -> None:
    """Color is three channels: a fourth sample (RGBX) is left out if opaque, and told; else refused."""
    for pixels, opaque in ((OPAQUE, True), (COLOR, False)):
        values = pixels if planes == "contig" else np.moveaxis(pixels, -1, 0)
        path = write(tmp_path, values, photometric="rgb", planarconfig=planes, extrasamples=["unspecified"])
        assert read_header(path).channels == 3
        if opaque:
            np.testing.assert_array_equal(read_image(path).image, np.moveaxis(OPAQUE[..., :3], -1, 0))
            assert len(read_image(path, color="gray").image) == 1
            assert "further samples beside its colors" in read_image(path).notes[0]
        else:
            with pytest.raises(SegueError, match=r"a.tif: has a further sample beside its colors .* not opaque"):
                read_image(path)
    path = by_hand(tmp_path / "b.tif", bytes(range(64)), {262: (2,)}, bits=(8, 8, 8, 8))
    with pytest.raises(SegueError, match=r"b.tif: has a fourth sample that is not declared and is not opaque"):
        read_image(path)


OME = (
    '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image '
    'ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="24" SizeY="16" SizeC="{}" '
    'SizeZ="{}" SizeT="{}"><TiffData/></Pixels></Image></OME>'
)


@pytest.mark.parametrize(
    ("text", "named"),
    [(OME.format(2, 1, 1), 2), (OME.format(1, 1, 2), 2), (OME.format(1, 1, 1), 1),
     ("ImageJ=1.53t\nimages=2\nchannels=2\nhyperstack=true\n", 2), ("ImageJ=1.53t\nimages=2\nframes=2\n", 2)],
)  # fmt: skip
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_pages_that_metadata_do_not_name(tmp_path: Path, text: str, named: int, compression: str | None) -> None:
    """No page of the image's size is dropped, of images and of labels; smaller ones are previews."""
    planes = np.stack([DEEP, DEEP + 1, DEEP + 2])
    options: dict[str, Any] = {"photometric": "minisblack", "metadata": None, "compression": compression}
    path = write(tmp_path, planes, description=text, **options)
    for read in (read_image, stored, lambda path: count_pages(path, "time")):
        with pytest.raises(SegueError, match=f"a.tif: has 3 pages of 16 × 24 px, but its metadata name {named};"):
            read(path)
    if compression and text.startswith("ImageJ"):
        return  # tifffile takes these for pages without metadata as soon as there are others
    with tifffile.TiffWriter(tmp_path / "b.tif") as writer:
        writer.write(planes[:named], description=text, **options)
        writer.write(DEEP[::2, ::2], **options)  # a preview
        writer.write(DEEP, subfiletype=1, **options)  # and a reduced copy
    pages = stored(tmp_path / "b.tif")
    np.testing.assert_array_equal(pages, planes[:named] if named > 1 else DEEP)


def test_color_is_asked_for(tmp_path: Path) -> None:
    """Color is read as three channels or their luma (ITU-R BT.601); the question says whether they are equal."""
    path = write(tmp_path, COLOR[..., :3], photometric="rgb")
    with pytest.raises(SegueError, match='whose red, green and blue differ; set color = "rgb"'):
        read_image(path, color=None)
    expected = np.asarray(Image.fromarray(COLOR[..., :3]).convert("L"))
    assert np.abs(read_image(path, color="gray").image[0].astype(int) - expected).max() <= 1  # Pillow rounds otherwise
    path = write(tmp_path, np.stack([GRAY] * 3, -1), photometric="rgb")
    with pytest.raises(SegueError, match="are equal everywhere: gray loses nothing"):
        read_image(path, color=None)
    np.testing.assert_array_equal(read_image(path, color="gray").image[0], GRAY)


def test_jpeg_inside(tmp_path: Path) -> None:
    """YCbCr of JPEG comes back as colors; as a label image it is refused, like other compressions with loss."""
    blocks = np.repeat(np.repeat(COLOR[:2, :3, :3], 8, 0), 8, 1)
    path = write(tmp_path, blocks, photometric="rgb", compression="jpeg", compressionargs={"level": 98})
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages.first.photometric == 6
    assert np.abs(read_image(path).image.astype(int) - np.moveaxis(blocks, -1, 0)).mean() < 5
    for pixels, options in (
        (blocks, {"compression": "jpeg", "photometric": "rgb"}),
        (DEEP, {"compression": "jpeg2000"}),
    ):
        with pytest.raises(SegueError, match=r"compression can lose information .* which changes its numbers"):
            stored(write(tmp_path, pixels, **options))
    for compression in ("zlib", "lzw", "packbits", "lzma", "zstd"):
        np.testing.assert_array_equal(stored(write(tmp_path, DEEP, compression=compression)), DEEP)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: write(p, DEEP.astype(np.float32), photometric="miniswhite"), "WhiteIsZero, but holds floats"),
        (lambda p: write(p, DEEP.astype(np.int16), photometric="miniswhite"), "WhiteIsZero, but holds signed integers"),
        (lambda p: write(p, COLOR, photometric="separated"), "is a CMYK image"),
        (lambda p: write(p, COLOR[..., :3], photometric="cielab"), "is a CIELab image"),
        (lambda p: write(p, DEEP, photometric=32803), "color filter array"),
        (lambda p: write(p, DEEP, extratags=[(274, 3, 1, 6, True)]), "has the orientation 6"),
        (lambda p: write(p, (DEEP * 1j).astype(np.complex64)), "holds complex numbers"),
        (lambda p: write(p, GRAY, extratags=[(50706, 1, 4, b"\1\4\0\0", True)]), "raw data .DNG"),
        (lambda p: by_hand(p / "a.tif", bytes(32), {262: (2,)}, bits=(5, 6, 5)), "5, 6, 5 bits per sample"),
        (lambda p: by_hand(p / "a.tif", bytes(48), {262: (6,), 530: (1, 1)}, bits=(8, 8, 8)), "YCbCr without JPEG"),
        (lambda p: by_hand(p / "a.tif", bytes(96), {262: (32845,)}, bits=(16, 16, 16)), "LogLuv"),
        (lambda p: by_hand(p / "a.tif", bytes(16), {262: (99,)}), "PhotometricInterpretation 99"),
        (lambda p: by_hand(p / "a.tif", bytes(16), {346: (1,)}), "Indexed"),
        (lambda p: by_hand(p / "a.tif", bytes(16), {262: (4,)}), "transparency mask"),
        (lambda p: by_hand(p / "a.tif", bytes(16), {259: (12345,)}), "way of storing pixels .* is not read .12345"),
    ],
)  # fmt: skip
def test_refused_by_name(tmp_path: Path, make: Callable[[Path], Path], message: str) -> None:
    """What cannot be taken into account is named, and never called corrupt."""
    with pytest.raises(SegueError, match=message) as raised:
        read_image(make(tmp_path))
    assert "corrupt" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_tables_are_disjoint() -> None:
    """Each photometric interpretation is either read or refused; every tag has a name and a treatment."""
    assert not set(PHOTOMETRIC) & set(REFUSED_PHOTOMETRIC)
    assert all(tag.name and tag.treatment for tag in TAGS.values())
    assert 7 not in LOSSLESS


def test_storage_of_bits(tmp_path: Path) -> None:
    """FillOrder, undefined SampleFormat and a missing PhotometricInterpretation."""
    path = by_hand(tmp_path / "a.tif", bytes([0b00000001, 0b11110000]), {266: (2,)}, bits=(1,))
    assert read_image(path).image[0].tolist() == [[1] + [0] * 7, [0, 0, 0, 0, 1, 1, 1, 1]]
    for tags in ({339: (4,)}, {262: ()}):
        path = by_hand(tmp_path / "b.tif", bytes(range(16)), tags)
        assert read_image(path).image.ravel().tolist() == list(range(16))


@pytest.mark.parametrize("smaller", ["subifd", "page", "page of equal size"])
def test_reduced_copies_are_left_out(tmp_path: Path, smaller: str) -> None:
    """Pyramids in SubIFDs, thumbnails as pages, and copies of equal size are no further images."""
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(DEEP, metadata=None, subifds=1 if smaller == "subifd" else 0)
        small = DEEP if smaller == "page of equal size" else DEEP[::2, ::2]
        writer.write(small, metadata=None, subfiletype=1)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").image, DEEP[None])
    assert read_header(tmp_path / "a.tif").channels == 1


def test_several_images(tmp_path: Path) -> None:
    """Images of other types, other marks or beside a mask are told with shape and type."""
    pairs = [
        (DEEP.astype(np.float32), {}, "holds 2 images .*16×24 of uint16, 16×24 of float32"),
        (DEEP, {"photometric": "miniswhite"}, "holds 2 images|differ in PhotometricInterpretation"),
        (GRAY > 90, {"photometric": "mask", "subfiletype": 4}, "holds a transparency mask"),
    ]
    for second, options, message in pairs:
        with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
            writer.write(DEEP, metadata=None, photometric="minisblack")
            writer.write(second, metadata=None, **options)
        with pytest.raises(SegueError, match=message):
            read_image(tmp_path / "a.tif", pages="channels")


def test_no_data(tmp_path: Path) -> None:
    """Pixels of the value that stands for no data are refused, unless there are none; 0 is background of labels."""
    for value, is_refused in ((int(GRAY[0, 0]), True), (255, False)):
        path = write(tmp_path, GRAY, extratags=[(42113, 2, 0, str(value), True)])
        if is_refused:
            with pytest.raises(SegueError, match=r"stands for no data .GDAL_NODATA"):
                read_image(path)
        else:
            np.testing.assert_array_equal(read_image(path).image[0], GRAY)
    labels = GRAY * (GRAY > 90)
    np.testing.assert_array_equal(stored(write(tmp_path, labels, extratags=[(42113, 2, 0, "0", True)])), labels)


def test_imagej_calibration(tmp_path: Path) -> None:
    """Signed 16-bit numbers, stored with an offset, are signed again; other calibrations are told."""
    signed = DEEP.astype(np.int16) - 2000
    text = "ImageJ=1.53t\nimages=1\ncf=0\nc0={}\nc1={}\n"
    shifted = (signed.astype(np.int32) + 32768).astype(np.uint16)
    path = write(tmp_path, shifted, description=text.format(-32768.0, 1.0), metadata=None)
    for pixels in (read_image(path).image[0], stored(path), read_page(path, 0)):
        assert pixels.dtype == np.int16
        np.testing.assert_array_equal(pixels, signed)
    path = write(tmp_path, DEEP, description=text.format(1.5, 0.3), metadata=None)
    np.testing.assert_array_equal(read_image(path).image[0], DEEP)
    assert "calibration of ImageJ" in read_image(path).notes[0]
    assert not read_image(write(tmp_path, DEEP, imagej=True)).notes


def test_sets_of_files(tmp_path: Path) -> None:
    """A file of an OME set would give the images of all; alone, its missing planes are told."""
    ids = [f"{digit * 8}-1111-1111-1111-111111111111" for digit in "12"]
    planes = "".join(
        f'<TiffData FirstC="{i}" IFD="0" PlaneCount="1"><UUID FileName="s{i}.ome.tif">urn:uuid:{ids[i]}</UUID>'
        "</TiffData>"
        for i in range(2)
    )
    for i in range(2):
        description = (
            '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="urn:uuid:{ids[i]}"><Image ID="Image:0">'
            '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="24" SizeY="16" '
            'SizeC="2" SizeZ="1" SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="1"/><Channel ID="Channel:0:1" '
            f'SamplesPerPixel="1"/>{planes}</Pixels></Image></OME>'
        )
        tifffile.imwrite(tmp_path / f"s{i}.ome.tif", DEEP, description=description, metadata=None)
        message = "one of a set of files" if i else "1 of 2 planes that its metadata name are missing"
        with pytest.raises(SegueError, match=message):
            read_image(tmp_path / f"s{i}.ome.tif")


@pytest.mark.parametrize("step", [1, 2])
def test_previews_of_lsm(tmp_path: Path, step: int) -> None:
    """Zeiss LSM has a preview behind each plane, which counts as no page, whatever its size."""
    settings = {"MagicNumber": 67127628, "StructureSize": 500, "DimensionX": 24, "DimensionY": 16, "DimensionZ": 3}
    settings |= {"DimensionChannels": 1, "DimensionTime": 1, "DataType": 2, "VoxelSizeX": 1e-7, "VoxelSizeY": 1e-7}
    record = np.zeros((), np.dtype([(name, kind) for name, kind in tifffile.TIFF.CZ_LSMINFO]))
    for name, value in settings.items():
        record[name] = value
    extra = [(34412, 1, record.nbytes, record.tobytes(), True)]
    planes = [DEEP, DEEP + 1, DEEP + 2]
    options: dict[str, Any] = {"metadata": None, "contiguous": False, "photometric": "minisblack"}
    with tifffile.TiffWriter(tmp_path / "a.lsm") as writer:
        for index, plane in enumerate(planes):
            writer.write(plane, extratags=[] if index else extra, **options)
            writer.write(GRAY[::step, ::step], subfiletype=1, **options)
    for index, plane in enumerate(planes):
        actual = read_image(tmp_path / "a.lsm", pages="z", page=index)
        np.testing.assert_array_equal(actual.image[0], plane)
        assert actual.pixel_size_nm == pytest.approx(100)
