"""Micrographs and label images: values as acquired, axes by rule, and one sentence for whatever is amiss."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from segue.data.image_io import count_pages, read_header, read_image, read_labels
from segue.data.normalization import mean_and_std
from segue.data.spec import Layer
from segue.errors import SegueError

CLASSES = Layer("cells", "classes", ("background", "live", "dead"))
NUCLEI = Layer("nuclei", "instances", ("background", "nucleus"))


def values(shape: tuple[int, ...], dtype: str = "uint16") -> np.ndarray:
    return np.random.default_rng(1).integers(0, 120, shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float32"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zlib", "predictor": True},
        {"metadata": None},
        {"bigtiff": True},
        {"bigtiff": True, "byteorder": ">"},
    ],
)
def test_tiff_planes_come_back_as_acquired(tmp_path: Path, dtype: str, options: dict[str, Any]) -> None:
    """A plane is read with its values and type, and its header tells the same size without decoding."""
    image = values((40, 50), dtype)
    tifffile.imwrite(tmp_path / "a.tif", image, **options)
    actual = read_image(tmp_path / "a.tif").image
    assert actual.dtype == image.dtype
    np.testing.assert_array_equal(actual, image[None])
    header = read_header(tmp_path / "a.tif")
    assert (header.height, header.width, header.channels, header.bits) == (40, 50, 1, image.dtype.itemsize * 8)


@pytest.mark.parametrize(
    ("shape", "options", "moved"),
    [
        ((3, 40, 50), {"photometric": "minisblack", "planarconfig": "separate"}, False),
        ((5, 40, 50), {"metadata": {"axes": "CYX"}}, False),
        ((5, 40, 50), {"imagej": True}, False),
        ((40, 50, 3), {}, True),
        ((40, 50, 2), {}, True),
        ((40, 50, 2), {"metadata": None}, True),
        ((2, 40, 50), {"ome": True, "metadata": {"axes": "CYX"}}, False),
    ],
)
def test_channels_come_first(tmp_path: Path, shape: tuple[int, ...], options: dict[str, Any], moved: bool) -> None:
    """Channels stored first, last, as pages or as colour samples all become (C, H, W)."""
    image = values(shape)
    tifffile.imwrite(tmp_path / "a.tif", image, **options)
    expected = np.moveaxis(image, -1, 0) if moved else image
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").image, expected)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        (
            (4, 40, 50),
            {"metadata": {"axes": "TYX"}, "photometric": "minisblack"},
            'holds 4 time points; set pages = "time" to take each as an image',
        ),
        ((4, 40, 50), {"imagej": True, "metadata": {"axes": "ZYX"}}, "holds 4 planes in depth"),
        ((17, 40, 50), {}, "holds 17 pages and does not say what they are; set pages = "),
        ((5, 40, 50), {"metadata": None}, "holds 5 pages and does not say what they are; set pages = "),
        ((2, 3, 40, 50), {"photometric": "minisblack"}, "holds 2 × 3 × 40 × 50 values and does not say"),
        ((2, 4, 40, 50), {"imagej": True, "metadata": {"axes": "TZYX"}}, "holds 2 time points × 4 planes in depth"),
    ],
)
def test_stacks_and_films_are_refused(tmp_path: Path, shape: tuple[int, ...], options: dict, message: str) -> None:
    """Depth, time and many unnamed planes are not taken for channels."""
    tifffile.imwrite(tmp_path / "a.tif", values(shape), **options)
    with pytest.raises(SegueError, match=message):
        read_image(tmp_path / "a.tif")


def test_pixel_size_from_metadata(tmp_path: Path) -> None:
    """ImageJ and OME pixel sizes are read in their units; a bare resolution tag is no pixel size."""
    image = values((40, 50))
    tifffile.imwrite(tmp_path / "j.tif", image, imagej=True, resolution=(1 / 0.065,) * 2, metadata={"unit": "um"})
    ome = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 500, "PhysicalSizeYUnit": "nm"}
    tifffile.imwrite(tmp_path / "o.ome.tif", image, ome=True, metadata={"axes": "YX", **ome})
    tifffile.imwrite(tmp_path / "n.tif", image, resolution=(72, 72))
    assert read_image(tmp_path / "j.tif").pixel_size_nm == pytest.approx(65, rel=1e-3)
    assert read_image(tmp_path / "o.ome.tif").pixel_size_nm == pytest.approx(500)
    assert read_image(tmp_path / "n.tif").pixel_size_nm is None
    tifffile.imwrite(tmp_path / "s.tif", image, imagej=True, resolution=(10.0, 20.0), metadata={"unit": "nm"})
    assert read_image(tmp_path / "s.tif").pixel_size_nm is None
    assert "pixels of 0.1 × 0.05 nm, which are not square" in read_image(tmp_path / "s.tif").notes[0]


@pytest.mark.parametrize(
    ("shape", "dtype"), [((40, 50), "uint8"), ((40, 50), "uint16"), ((40, 50, 3), "uint8"), ((40, 50, 3), "uint16")]
)
def test_png_comes_back_as_acquired(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    """Grey and colour PNGs of 8 and 16 bits keep every bit."""
    image = values(shape, dtype) * (1 if dtype == "uint8" else 500)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(image))
    actual = read_image(tmp_path / "a.png").image
    assert actual.dtype == image.dtype
    np.testing.assert_array_equal(actual, image[None] if image.ndim == 2 else np.moveaxis(image, -1, 0))
    header = read_header(tmp_path / "a.png")
    assert (header.height, header.width, header.channels) == (40, 50, 1 if image.ndim == 2 else 3)


def test_alpha_is_dropped_only_when_opaque(tmp_path: Path) -> None:
    """An opaque alpha channel is no channel; a see-through one is refused."""
    image = values((40, 50, 4), "uint8")
    image[..., 3] = 255
    Image.fromarray(image).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").image, np.moveaxis(image[..., :3], -1, 0))
    image[3, 3, 3] = 254
    Image.fromarray(image).save(tmp_path / "b.png")
    with pytest.raises(SegueError, match=r"b.png: has an alpha channel that is not opaque"):
        read_image(tmp_path / "b.png")


@pytest.mark.parametrize("keep", [0, 4, 60, 200, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["plain.tif", "zlib.tif", "pages.tif", "a.png"])
def test_truncated_files_are_named(tmp_path: Path, kind: str, keep: float) -> None:
    """A file cut anywhere gives one sentence with its name, never an image."""
    path = tmp_path / kind
    if kind == "a.png":
        path.write_bytes(imagecodecs.png_encode(values((60, 70))))
    else:
        image = values((3, 60, 70) if kind == "pages.tif" else (60, 70))
        tifffile.imwrite(path, image, photometric="minisblack", compression="zlib" if kind == "zlib.tif" else None)
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if keep >= 1 else int(len(whole) * keep)])
    with pytest.raises(SegueError, match="truncated or corrupt" if keep else "has 0 bytes; copy it again") as raised:
        read_image(path)
    assert kind in str(raised.value)
    assert "\n" not in str(raised.value)


def test_pages_lost_by_truncation_are_noticed(tmp_path: Path) -> None:
    """A multi-page TIFF without metadata that lost its later pages is corrupt, not a shorter image."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for plane in values((3, 60, 70)):
            writer.write(plane, metadata=None, contiguous=False)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 6 // 10])
    with pytest.raises(SegueError, match=r"a.tif: the TIFF file is truncated or corrupt"):
        read_image(path)


def test_nan_and_infinity_are_counted(tmp_path: Path) -> None:
    """NaN and infinity in an image are refused with the file and their number."""
    image = values((40, 50), "float32")
    image[3, 4:6], image[0, 0] = np.nan, np.inf
    tifffile.imwrite(tmp_path / "a.tif", image)
    with pytest.raises(SegueError, match=r"a.tif: 3 of 2000 pixels are NaN or infinite"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("value", [4e38, -4e38, 1e300])
def test_floats_beyond_float32(tmp_path: Path, value: float) -> None:
    """Finite numbers that float32 does not hold are named as such; the largest that it holds is read."""
    image = values((40, 50), "float64")
    image[0, 0] = value
    tifffile.imwrite(tmp_path / "a.tif", image)
    with pytest.raises(SegueError, match=r"a.tif: 1 of 2000 pixels are beyond 3.4e\+38, .*; divide them by a constant"):
        read_image(tmp_path / "a.tif")
    image[0, 0] = np.finfo(np.float32).max
    tifffile.imwrite(tmp_path / "a.tif", image)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif").image[0], image)


@pytest.mark.parametrize(
    ("image", "is_told"),
    [
        (values((20, 30), "float64") + 2**26, True),  # whole numbers above 2^24
        (values((20, 30), "float64") * 8 + 2**26, False),  # exact in float32
        (values((20, 30), "float64") / 7, False),  # rounded, by far less than the contrast
        (values((20, 30), "float64") / 7 + 1e7, True),
        (values((20, 30), "float64") * 1e-48, True),
        (np.full((20, 30), 0.1), False),
    ],
)
def test_rounding_is_told(tmp_path: Path, image: np.ndarray, is_told: bool) -> None:
    """Float64 becomes float32; where the image would not be the same any more, a note says by how much."""
    tifffile.imwrite(tmp_path / "a.tif", image)
    notes = read_image(tmp_path / "a.tif").notes
    assert ["are rounded to float32 by up to" in note for note in notes] == [True] * is_told


@pytest.mark.parametrize(("dtype", "read_as"), [("uint64", "uint32"), ("int64", "int32")])
def test_integers_of_64_bits(tmp_path: Path, dtype: str, read_as: str) -> None:
    """They are read as those of 32 bits if they fit, else refused with the largest."""
    image = values((20, 30), dtype)
    image[0, 0] = np.iinfo(read_as).max
    tifffile.imwrite(tmp_path / "a.tif", image)
    actual = read_image(tmp_path / "a.tif").image[0]
    assert actual.dtype == read_as
    np.testing.assert_array_equal(actual, image)
    image[0, 0] += np.ones((), dtype)
    tifffile.imwrite(tmp_path / "a.tif", image)
    with pytest.raises(SegueError, match=rf"a.tif: 1 of 600 pixels are beyond .*, the largest number of {read_as}"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jpg", "a.bmp", "a.mrc"])
def test_pointers_of_git_lfs(tmp_path: Path, name: str) -> None:
    """A file that Git LFS has not fetched is told with the command that does."""
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    for read in (read_image, read_header):
        with pytest.raises(SegueError, match=rf"{name}: is a pointer of Git LFS, not the file itself; .*git lfs pull"):
            read(tmp_path / name)


def test_files_that_are_no_images(tmp_path: Path) -> None:
    """A missing file, another format and another content under the name are told apart."""
    (tmp_path / "a.gif").write_bytes(b"x")
    (tmp_path / "a.png").write_text("not a picture")
    Image.fromarray(values((4, 5), "uint8")).save(tmp_path / "a.tif", "PNG")
    for name, message in [
        ("b.png", "there is no such file"),
        ("a.gif", "'.gif' files cannot be read"),
        ("a.png", "is no image of a known format, in spite of its suffix '.png'"),
        ("a.tif", "is a PNG file, in spite of its suffix '.tif'; rename it"),
    ]:
        with pytest.raises(SegueError, match=message):
            read_image(tmp_path / name)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such devices")
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg", "a.ser"])
def test_only_regular_files_are_read(tmp_path: Path, name: str) -> None:
    """A link to a device, which could be read without end, and a pipe, which waits for its writer, are refused; a link
    to an image is read."""
    (tmp_path / "device").mkdir()
    (tmp_path / "device" / name).symlink_to("/dev/zero")
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / name)
    for folder in ("device", "pipe"):
        with pytest.raises(SegueError, match=f"{name}: is not a regular file; give the path of an image"):
            read_image(tmp_path / folder / name)
    (tmp_path / name).mkdir()
    with pytest.raises(SegueError, match=f"{name}: is a folder"):
        read_image(tmp_path / name)
    tifffile.imwrite(tmp_path / "b.tif", values((4, 5)))
    (tmp_path / "link.tif").symlink_to("b.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "link.tif").image[0], values((4, 5)))


def test_intensity_is_that_of_the_channels() -> None:
    """Mean and deviation of large integers equal those computed in double precision."""
    image = np.random.default_rng(0).integers(60000, 65000, (2, 300, 300)).astype(np.uint16)
    expected = [[channel.astype(float).mean(), channel.astype(float).std()] for channel in image]
    np.testing.assert_allclose(mean_and_std(image), expected, rtol=1e-6)


def save(path: Path, labels: np.ndarray) -> Path:
    if path.suffix == ".png":
        Image.fromarray(labels).save(path)
    else:
        tifffile.imwrite(path, labels)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_labels_come_back_as_int32(tmp_path: Path, name: str) -> None:
    """Labels above 255 and, in a TIFF, ignored pixels and whole floats come back as int32."""
    labels = np.arange(600, dtype=np.uint16).reshape(20, 30)
    actual = read_labels(save(tmp_path / name, labels), NUCLEI, shape=(20, 30))
    assert actual.dtype == np.int32
    np.testing.assert_array_equal(actual, labels)
    if name == "a.tif":
        signed = labels.astype(np.float32) - 1
        np.testing.assert_array_equal(read_labels(save(tmp_path / name, signed), NUCLEI, shape=(20, 30)), signed)


def test_palette_and_one_bit_pngs_keep_their_indices(tmp_path: Path) -> None:
    """A palette's indices and a one-bit mask are labels as they stand, whatever the colours."""
    labels = (np.arange(600).reshape(20, 30) % 3).astype(np.uint8)
    picture = Image.fromarray(labels, mode=None).convert("P")
    picture.putdata(labels.ravel().tolist())
    picture.putpalette([9, 9, 9, 255, 0, 0, 0, 0, 255])
    picture.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "p.png", CLASSES, shape=(20, 30)), labels)
    Image.fromarray(labels == 1).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_labels(tmp_path / "b.png", CLASSES, shape=(20, 30)), labels == 1)


def test_values_map_masks_to_classes(tmp_path: Path) -> None:
    """Masks of 0, 128 and 255 become background, a class and ignored."""
    mask = np.array([[0, 128, 255, 0]] * 3, dtype=np.uint8)
    actual = read_labels(save(tmp_path / "a.png", mask), CLASSES, shape=(3, 4), values={128: 2, 255: -1})
    assert actual.tolist() == [[0, 2, -1, 0]] * 3


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        ("a.png", np.zeros((20, 31), np.uint8), "the label image is 20 × 31 px, but its image is 20 × 30 px"),
        ("a.png", np.zeros((20, 30, 3), np.uint8), "is an image of 3 channels, a picture of labels"),
        ("a.tif", np.full((20, 30), 0.5, np.float32), "600 labels are not whole numbers .the first is 0.5"),
        ("a.tif", np.full((20, 30), np.nan, np.float32), "600 labels are not whole numbers"),
        ("a.tif", np.full((20, 30), 1 + 1e-12), "600 labels are not whole numbers .the first is 1.000000000001"),
        ("a.tif", np.full((20, 30), 3 - 1e-9), "not whole numbers .the first is 2.999999999"),
        ("a.tif", np.full((20, 30), 1.0000001, np.float32), "not whole numbers .the first is 1.0000001"),
        ("a.tif", np.full((20, 30), -2, np.int16), "holds the label -2; below 0 only -1"),
        ("a.png", np.full((20, 30), 255, np.uint8), "holds the class value.s. 255, but only 0 to 2 are named"),
        ("a.tif", np.full((20, 30), 2**31, np.uint32), "holds the label 2147483648; the highest allowed"),
    ],
)
def test_labels_that_are_amiss(tmp_path: Path, name: str, labels: np.ndarray, message: str) -> None:
    """Another shape, colours, fractions, negative and unnamed values each have their sentence, with the file's name."""
    with pytest.raises(SegueError, match=message) as raised:
        read_labels(save(tmp_path / name, labels), CLASSES, shape=(20, 30))
    assert name in str(raised.value)


@pytest.mark.parametrize("options", [{"metadata": None}, {"imagej": True}, {"ome": True, "compression": "zlib"}])
def test_pages_are_read_alone(tmp_path: Path, options: dict[str, Any]) -> None:
    """A page of a time series equals that of the file, contiguous or compressed, with or without stated axes."""
    series = values((4, 40, 50))
    stated = {} if options.get("metadata", 0) is None else {"metadata": {"axes": "TYX"}}
    tifffile.imwrite(tmp_path / "a.tif", series, photometric="minisblack", **{**options, **stated})
    assert count_pages(tmp_path / "a.tif", "time") == 4
    for page in range(4):
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif", pages="time", page=page).image[0], series[page])
    if stated:
        for other in ("z", "channels"):
            with pytest.raises(SegueError, match="holds 4 time points according to its metadata"):
                read_image(tmp_path / "a.tif", pages=other)
    else:
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif", pages="channels").image, series)


def test_labels_page_by_page(tmp_path: Path) -> None:
    """Labels of a series are read by page; another number of pages is refused."""
    labels = values((3, 20, 30)) % 5
    tifffile.imwrite(tmp_path / "a.tif", labels, photometric="minisblack", metadata=None)
    for page in range(3):
        actual = read_labels(tmp_path / "a.tif", NUCLEI, shape=(20, 30), page=page, count=3)
        np.testing.assert_array_equal(actual, labels[page])
    for page, count in ((0, 4), (None, 1)):
        with pytest.raises(SegueError, match=rf"holds 3 page.s. of labels, but its image has {count}"):
            read_labels(tmp_path / "a.tif", NUCLEI, shape=(20, 30), page=page, count=count)


@pytest.mark.parametrize("axes", ["TYX", "ZYX", None])
def test_labels_of_other_axes(tmp_path: Path, axes: str | None) -> None:
    """Labels along time are not those of images along depth; pages of which nothing is stated are either."""
    labels = values((3, 20, 30)) % 5
    options: dict[str, Any] = {"imagej": True, "metadata": {"axes": axes}} if axes else {"metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", labels, photometric="minisblack", **options)
    cases: list[tuple[Literal["time", "z"], str]] = [("time", "time points"), ("z", "planes in depth")]
    for pages, words in cases:
        if axes in (None, f"{pages[0].upper()}YX"):
            actual = read_labels(tmp_path / "a.tif", NUCLEI, shape=(20, 30), page=1, count=3, pages=pages)
            np.testing.assert_array_equal(actual, labels[1])
        else:
            with pytest.raises(SegueError, match=f"a.tif: holds 3 .* to its metadata, but its image has 3 {words};"):
                read_labels(tmp_path / "a.tif", NUCLEI, shape=(20, 30), page=1, count=3, pages=pages)
