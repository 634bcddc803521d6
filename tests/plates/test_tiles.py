"""Tiles of mosaics: counts, geometry, what is kept, the stream to the file, and what an interruption leaves."""

from __future__ import annotations

import errno
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from pydantic import ValidationError

from segue.data import summary, writer
from segue.data.dataset import Dataset
from segue.data.normalization import image_statistics
from segue.data.spec import Layer, SplitSpec
from segue.data.streaming import LabelChunks
from segue.data.tiling import cut
from segue.data.writer import GroupTiles, Micrograph, merge_parts, write_part
from segue.errors import SegueError
from segue.fingerprint import hash_dataset
from segue.hdf5 import Node, create_labels, write_labels
from segue.plates.spec import KeepSpec, TilesSpec
from segue.plates.tiles import Mosaic, count_classes, full_path, select_tiles, write_tiles

CLASSES = Layer("classes", "classes", ("background", "live", "dead"))
NUCLEI = Layer("nuclei", "instances", ("background", "nucleus"))
SMALL = TilesSpec(tile_px=16, stride_px=8, chunk=40)
SPLITS = {"wells": SplitSpec(seed=1, validation=0.3, test=0.3), "chunks": SplitSpec(by="chunk", chunk=20, test=0.3)}


def make_mosaic(
    index: int, shape: tuple[int, int] = (60, 84), *, stained: bool = True, dtype: str = "uint16"
) -> Mosaic:
    """Returns a mosaic of noise whose labels are a few rectangles and an ignored border at the right."""
    generator = np.random.default_rng(index)
    image = generator.integers(0, 250, (1, *shape)).astype(dtype)
    classes, nuclei = np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.int32)
    for number in range(1, 9):
        y, x = generator.integers(0, shape[0] - 6), generator.integers(0, shape[1] - 6)
        classes[y : y + 6, x : x + 5], nuclei[y : y + 6, x : x + 5] = 1 + number % 2, 300 * number
    classes[:, -3:] = nuclei[:, -3:] = -1
    well = f"P1/A{1 + index // 2}"
    return Mosaic(
        source=f"{well}/t{index % 2:03d}",
        group=well,
        image=image,
        labels={"classes": classes, "nuclei": nuclei} if stained else {},
        intensity=image_statistics(image),
        samples={"plate": "P1", "time": index % 2, "time_h": 0.25 * (index % 2), "treatment": "none"},
        attributes={"plate": "P1", "time": index % 2, "stained": int(stained)},
    )


def write(out: Path, mosaics: Iterator[Mosaic] | list[Mosaic], spec: TilesSpec = SMALL):
    return write_tiles(
        mosaics,
        out,
        spec,
        layers=(CLASSES, NUCLEI),
        channels=("brightfield",),
        attributes={"pixel_size_nm": 650.0},
        splits=SPLITS,
    )


def read(data: Dataset, indices: np.ndarray, layer: str) -> tuple[np.ndarray, np.ndarray]:
    images, labels = data.read(indices, layer=layer)
    assert labels is not None
    return images, labels


def slices(image: np.ndarray, places: np.ndarray, tile: int) -> np.ndarray:
    return np.stack([image[..., y : y + tile, x : x + tile] for y, x in places])


@pytest.mark.parametrize("edge", ["drop", "shift"])
@pytest.mark.parametrize(("tile", "stride"), [(16, 8), (15, 7), (8, 20), (60, 1)])
def test_counts_equal_those_of_each_tile(tile: int, stride: int, edge) -> None:
    """Sums of cells are the counts of each tile by bincount, whatever the stride, with ignored pixels left out."""
    mosaic = make_mosaic(3)
    places, counts = count_classes(mosaic, (CLASSES,), TilesSpec(tile_px=tile, stride_px=stride, edge=edge))
    tiles = slices(mosaic.labels["classes"], places, tile)
    assert np.array_equal(counts["classes"], [np.bincount(t[t >= 0], minlength=3) for t in tiles])
    if edge == "drop":
        assert len(places) == ((60 - tile) // stride + 1) * ((84 - tile) // stride + 1)
    else:
        assert tuple(places[-1]) == (60 - tile, 84 - tile)


@pytest.mark.slow
def test_published_geometry(tmp_path: Path) -> None:
    """A field of 2700 × 3600 px gives 1408 tiles in chunks of 1000, each equal to its cut of the field."""
    generator = np.random.default_rng(0)
    image = generator.integers(0, 2**16, (1, 2700, 3600), dtype=np.uint16)
    labels = np.kron(generator.integers(0, 3, (27, 36), dtype=np.int32), np.ones((100, 100), dtype=np.int32))
    one = Mosaic("P1/A1/t000", "P1/A1", image, {"classes": labels}, np.ones((1, 4)), {"time": 0}, {})
    spec = TilesSpec(datasets="full", keep_micrographs=False)
    done = write_tiles([one], tmp_path / "a.h5", spec, layers=(CLASSES,), channels=("b",), attributes={}, splits={})
    assert (done.mosaics, done.labeled, done.tiles) == (1, 1, 1408) == (1, 1, 32 * 44)
    with h5py.File(tmp_path / "a.h5") as opened:
        file: Node = opened
        assert (file["tiles/images"].shape, file["tiles/images"].dtype) == ((1408, 1, 160, 160), np.uint16)
        assert (file["tiles/labels/classes"].shape, file["tiles/labels/classes"].dtype) == ((1408, 160, 160), np.int32)
        assert file["tiles/images"].chunks == (1000, 1, 160, 160)
        assert file["tiles/labels/classes"].chunks == (1000, 160, 160)
        assert file["tiles/images"].compression is None
    chosen = np.array([0, 43, 44, 999, 1000, 1407])
    with Dataset(tmp_path / "a.h5") as data:
        places = np.stack([data.samples()[name][chosen] for name in ("y_px", "x_px")], axis=1)
        images, actual = read(data, chosen, "classes")
    assert np.array_equal(images, slices(image, places, 160))
    assert np.array_equal(actual, slices(labels, places, 160))


def test_keep_rules() -> None:
    """Each rule leaves out what it says; the default one keeps tiles with more than one class, ignored being none."""
    counts = np.array([[100, 0, 0], [0, 0, 100], [99, 1, 0], [50, 25, 25], [10, 5, 0], [0, 0, 0]])
    selection = [
        (KeepSpec(), [2, 3, 4]),
        (KeepSpec(classes=3), [3]),
        (KeepSpec(classes=0), [0, 1, 2, 3, 4, 5]),
        (KeepSpec(classes=0, foreground=0.05), [1, 3, 4]),
        (KeepSpec(labeled=0.5), [2, 3]),
        (KeepSpec(classes=1, foreground=0.5, labeled=1), [1, 3]),
    ]
    for rule, expected in selection:
        assert np.flatnonzero(select_tiles(counts, rule, area_px=100)).tolist() == expected


def test_equals_assembled_parts(tmp_path: Path) -> None:
    """The full dataset is, by content, what the parts of the same tiles are assembled to."""
    mosaics = [make_mosaic(index) for index in range(4)]
    write(tmp_path / "a.h5", mosaics, SMALL.model_copy(update={"datasets": "full"}))
    paths = []
    for mosaic in mosaics:
        places = count_classes(mosaic, (CLASSES,), SMALL)[0]
        count = len(places)
        tiles = cut(mosaic.image, mosaic.labels, tile_px=16, places=[tuple(p) for p in places], fill=np.zeros(1))
        columns = {"group": mosaic.group, "source": mosaic.source, **mosaic.samples}
        samples = {name: np.array([value] * count) for name, value in columns.items()}
        samples |= {"y_px": places[:, 0], "x_px": places[:, 1]}
        intensity = np.tile(mosaic.intensity, (count, 1, 1))
        selection = {mosaic.source: Micrograph(mosaic.image, mosaic.labels)}
        paths.append(tmp_path / f"{len(paths)}.part")
        write_part(paths[-1], GroupTiles(tiles.images, tiles.labels, tiles.valid, intensity, samples, selection))
    attributes = {"pixel_size_nm": 650.0, "tiles": "full"}
    layers = (CLASSES, NUCLEI)
    merge_parts(
        paths, tmp_path / "b.h5", layers=layers, channels=("brightfield",), attributes=attributes, splits=SPLITS
    )
    with h5py.File(tmp_path / "b.h5", "r+") as file:
        for mosaic in mosaics:
            file[f"micrographs/{mosaic.source.replace('/', '%2F')}"].attrs.update(mosaic.attributes)
    assert hash_dataset(tmp_path / "a.h5") == hash_dataset(tmp_path / "b.h5")


def test_kept_is_a_part_of_full(tmp_path: Path) -> None:
    """With "both", the kept dataset holds the tiles of the full one that the rules allow, in the same order."""
    mosaics = [make_mosaic(index) for index in range(5)]
    done = write(tmp_path / "a.h5", mosaics, SMALL.model_copy(update={"datasets": "both"}))
    with Dataset(tmp_path / "a.h5") as selection, Dataset(full_path(tmp_path / "a.h5")) as full:
        assert full_path(tmp_path / "a.h5").name == "a.full.h5"
        assert (full.count, selection.count) == (done.tiles, done.selected)
        chosen = np.flatnonzero(select_tiles(full.class_counts("classes"), KeepSpec(), area_px=256))
        assert 0 < selection.count == len(chosen) < full.count
        for layer in ("classes", "nuclei"):
            images, labels = read(selection, np.arange(selection.count), layer)
            expected_images, expected_labels = read(full, chosen, layer)
            assert np.array_equal(images, expected_images)
            assert np.array_equal(labels, expected_labels)
        for name, values in selection.samples().items():
            assert np.array_equal(values, full.samples()[name][chosen])
        assert (len(selection.micrograph_ids()), len(full.micrograph_ids())) == (5, 0)
        assert np.array_equal(selection.split_codes("wells"), selection.split(SPLITS["wells"]))
        assert np.array_equal(selection.split_codes("chunks"), selection.split(SPLITS["chunks"]))
        assert selection.split_attributes("chunks") == {
            "seed": 0, "validation": 0.15, "test": 0.3, "by": "chunk", "chunk": 20,
        }  # fmt: skip
    write(tmp_path / "b.h5", mosaics)
    assert hash_dataset(tmp_path / "a.h5") == hash_dataset(tmp_path / "b.h5")


def test_unstained_wells_are_stored_whole_only(tmp_path: Path) -> None:
    """A mosaic without labels gives a micrograph with its attributes and no tile."""
    done = write(tmp_path / "a.h5", [make_mosaic(0), make_mosaic(2, stained=False)])
    assert (done.mosaics, done.labeled) == (2, 1)
    with Dataset(tmp_path / "a.h5") as data:
        assert set(data.samples()["group"]) == {"P1/A1"}
        unstained = data.micrograph("P1/A2/t000")
        assert np.array_equal(unstained.image, make_mosaic(2).image)
        assert not unstained.labels
        assert data.micrograph_attributes("P1/A2/t000") == {"plate": "P1", "time": 0, "stained": 0}
        for name, values in make_mosaic(0).labels.items():
            assert np.array_equal(data.micrograph("P1/A1/t000").labels[name], values)


def test_a_plate_without_stained_wells_is_mosaics_alone(tmp_path: Path) -> None:
    """No labels give a dataset of whole images with no tile, which is told, and which cannot be trained on or drawn."""
    done = write(tmp_path / "a.h5", [make_mosaic(0, stained=False), make_mosaic(2, stained=False)])
    assert (done.mosaics, done.tiles) == (2, 0)
    with Dataset(tmp_path / "a.h5") as data:
        assert (data.count, data.tile_shape, str(data.dtype)) == (0, (1, 16, 16), "uint16")
        assert {len(values) for values in data.samples().values()} == {0} and "time" in data.samples()
        assert np.array_equal(data.micrograph("P1/A2/t000").image, make_mosaic(2).image)
        assert data.split(SplitSpec(by="time", blocks=3)).shape == (0,)
        with pytest.raises(SegueError, match="holds no tiles, only images of unstained wells"):
            data.select({})
    assert "no tiles: all wells are unstained" in summary.describe(tmp_path / "a.h5")
    with pytest.raises(SegueError, match="nothing to draw"):
        summary.contact_sheet(tmp_path / "a.h5", tmp_path / "a.png")


def test_large_tiles_lie_in_smaller_chunks() -> None:
    """A chunk that would be too large for memory is fitted, the published one stays as it is."""
    assert TilesSpec().rows == 1000
    assert 1 <= TilesSpec(tile_px=5000).rows < 10


def test_memory_does_not_grow_with_mosaics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many mosaics pass by, a file has two blocks, and of the mosaics no more than three are held at once."""
    blocks = []
    made = writer._Block.__init__

    def counted(block, *arguments) -> None:
        blocks.append(block)
        made(block, *arguments)

    monkeypatch.setattr(writer._Block, "__init__", counted)
    images: list[weakref.ref] = []

    def stream() -> Iterator[Mosaic]:
        for index in range(12):
            mosaic = make_mosaic(index)
            images.append(weakref.ref(mosaic.image))
            yield mosaic
            del mosaic
            assert sum(image() is not None for image in images) <= 3

    write(tmp_path / "a.h5", stream(), SMALL.model_copy(update={"datasets": "both"}))
    assert len(images) == 12
    assert len(blocks) == 4


def test_an_interruption_leaves_what_was_there(tmp_path: Path) -> None:
    """Where the mosaics break off, no file appears, none is changed, and nothing partial lies about."""

    def broken() -> Iterator[Mosaic]:
        yield from (make_mosaic(index) for index in range(4))
        raise KeyboardInterrupt

    spec = SMALL.model_copy(update={"datasets": "both"})
    out = tmp_path / "a.h5"
    with pytest.raises(KeyboardInterrupt):
        write(out, broken(), spec)
    assert not list(tmp_path.iterdir())
    write(out, [make_mosaic(0)], spec)
    before = hash_dataset(out)
    with pytest.raises(KeyboardInterrupt):
        write(out, broken(), spec)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.full.h5", "a.h5"]
    assert hash_dataset(out) == before


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the disk refuses in the background ends in one sentence that names the file."""

    def refuse(*_arguments) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writer, "write_packed", refuse)
    with pytest.raises(SegueError, match=r"a\.h5: cannot be written \(No space left on device\); free disk space"):
        write(tmp_path / "a.h5", [make_mosaic(index) for index in range(4)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32"])
@pytest.mark.parametrize("lowest", [-1, 0])
def test_packed_labels_are_what_hdf5_reads(tmp_path: Path, dtype: str, lowest: int) -> None:
    """HDF5 reads the labels of chunks packed outside as int32, whatever bytes their numbers need."""
    most = np.iinfo(dtype).max
    labels = np.random.default_rng(0).integers(lowest, most, (7, 20, 30), endpoint=True, dtype=dtype)
    labels[:3] = np.arange(30, dtype=dtype) + lowest
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write_labels(create_labels(file, "a", labels.shape, chunk=7), labels)
    with h5py.File(tmp_path / "a.h5") as opened:
        actual: Node = opened["a"]
        assert actual.dtype == np.int32
        assert np.array_equal(actual[()], labels)


def test_the_stream_decodes_its_chunks(tmp_path: Path) -> None:
    """The reader that inflates chunks by itself finds the labels that HDF5 finds, also in the last, unfilled chunk."""
    write(tmp_path / "a.h5", [make_mosaic(index) for index in range(3)])
    with Dataset(tmp_path / "a.h5") as data:
        for layer in (CLASSES, NUCLEI):
            chunks = LabelChunks(data, layer)
            expected = read(data, np.arange(data.count), layer.name)[1]
            actual = np.concatenate([chunks.read(number) for number in range(-(-data.count // chunks.rows))])
            chunks.close()
            assert chunks.rows == 40
            assert np.array_equal(actual, expected)


def test_refusals(tmp_path: Path) -> None:
    """What cannot be cut is told: where, what, and what to do."""
    out = tmp_path / "a.h5"
    odd = make_mosaic(0)
    odd.labels["classes"][3, 4] = 7
    empty = make_mosaic(0)
    empty.labels["classes"][:] = 0
    longer = make_mosaic(1)
    longer = Mosaic(**{**vars(longer), "samples": {**longer.samples, "dose": 1.0}})
    output = {
        "P1/A1/t000: layer 'classes' holds the value 7, but only the values 0 to 2": ([odd], SMALL),
        "smaller than a tile of 160 px; lower tiles.tile_px": ([make_mosaic(0)], TilesSpec()),
        "unknown class layer 'cells'; did you mean 'classes'": ([], TilesSpec(layer="cells")),
        "none of the 1 mosaics has labels": (
            [make_mosaic(0, stained=False)],
            SMALL.model_copy(update={"keep_micrographs": False}),
        ),
        r"none of the 54 tiles meets tiles.keep \(classes >= 2": ([empty], SMALL),
        "P1/A1/t000: occurs twice": ([make_mosaic(0), make_mosaic(0)], SMALL),
        r"P1/A1/t001: the column\(s\) dose are not in every mosaic": ([make_mosaic(0), longer], SMALL),
        "the image is uint8, but uint16 in P1/A1/t000": ([make_mosaic(0), make_mosaic(1, dtype="uint8")], SMALL),
    }
    for message, (mosaics, spec) in output.items():
        with pytest.raises(SegueError, match=message):
            write(out, mosaics, spec)
    with pytest.raises(ValidationError, match="tile_px = 9000 is too large for a chunk of the file; lower it"):
        TilesSpec(tile_px=9000)
    assert not list(tmp_path.iterdir())
