"""The dataset file: what goes in comes out, equality by content, and errors that say what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from samples.datasets import LAYERS, make_dataset, make_part, make_parts

from segue.data.dataset import Dataset
from segue.data.spec import SplitSpec
from segue.data.writer import GroupTiles, _chunk_shape, merge_parts, write_part
from segue.errors import SegueError
from segue.fingerprint import hash_dataset


@pytest.fixture
def parts() -> dict[str, GroupTiles]:
    return make_parts()


def test_what_is_written_is_read(tmp_path: Path, parts: dict[str, GroupTiles]) -> None:
    """Images, labels, boxes, intensities, columns and micrographs come back in the order of the parts."""
    with Dataset(make_dataset(tmp_path, parts)) as data:
        everything = np.arange(data.count)
        images, labels = data.read(everything, layer="nuclei")
        np.testing.assert_array_equal(images, np.concatenate([part.images for part in parts.values()]))
        np.testing.assert_array_equal(labels, np.concatenate([part.labels["nuclei"] for part in parts.values()]))
        assert images.dtype == np.uint16
        assert labels is not None and labels.dtype == np.int32
        assert data.samples()["group"].tolist() == [g for g, part in parts.items() for _ in part.images]
        np.testing.assert_array_equal(
            data.samples()["defocus_nm_drawn"], np.concatenate([p.samples["defocus_nm_drawn"] for p in parts.values()])
        )
        assert data.valid(everything).shape == (13, 4)
        assert data.intensity(everything)[0].tolist() == [[100.0, 20.0, 100.0, 20.0]]
        assert data.channels == ("channel 0",)
        assert data.layers == {layer.name: layer for layer in LAYERS}
        assert data.attributes["pixel_size_nm"] == 0.02
        assert data.micrograph_ids() == tuple(sorted(parts))
        np.testing.assert_array_equal(data.micrograph("b/1").image, parts["b/1"].micrographs["b/1"].image)
        np.testing.assert_array_equal(data.micrograph("%2F").labels["cells"], parts["%2F"].labels["cells"][0])


@pytest.mark.parametrize("indices", [[5, 1, 1, 12, 0], [3], [], [2, 3, 4, 5, 9]])
def test_reading_any_order_equals_indexing(tmp_path: Path, parts: dict[str, GroupTiles], indices: list[int]) -> None:
    """Reading rows in any order, with repeats, equals NumPy's indexing of all rows."""
    with Dataset(make_dataset(tmp_path, parts, chunk=2)) as data:
        images, labels = data.read(np.arange(data.count), layer="cells")
        some, some_labels = data.read(np.array(indices, dtype=np.int64), layer="cells")
        assert labels is not None
        np.testing.assert_array_equal(some, images[np.array(indices, dtype=np.int64)])
        np.testing.assert_array_equal(some_labels, labels[np.array(indices, dtype=np.int64)])


def test_class_counts_are_counts(tmp_path: Path, parts: dict[str, GroupTiles]) -> None:
    """The stored counts equal counting each class in each tile, ignored pixels left out."""
    with Dataset(make_dataset(tmp_path, parts, chunk=4)) as data:
        _, labels = data.read(np.arange(data.count), layer="cells")
        assert labels is not None
        expected = np.stack([(labels == value).sum((1, 2)) for value in range(3)], axis=1)
        np.testing.assert_array_equal(data.class_counts("cells"), expected)
        with pytest.raises(SegueError, match="unknown class layer 'nuclei'"):
            data.class_counts("nuclei")


def test_digest_is_of_content_not_of_storage(tmp_path: Path, parts: dict[str, GroupTiles]) -> None:
    """The digest ignores chunking and sees one changed pixel, attribute or name."""
    first = make_dataset(tmp_path, parts)
    digest = hash_dataset(first)
    assert hash_dataset(make_dataset(tmp_path, parts, "again.h5", chunk=1)) == digest
    changes = {
        "pixel": lambda file: file["tiles/images"].__setitem__((0, 0, 0, 0), file["tiles/images"][0, 0, 0, 0] + 1),
        "attribute": lambda file: file.attrs.__setitem__("pixel_size_nm", 0.03),
        "name": lambda file: file.move("samples/stain", "samples/dye"),
        "text": lambda file: file["samples/stain"].__setitem__(0, "dap"),
    }
    for name, change in changes.items():
        copy = tmp_path / f"{name}.h5"
        copy.write_bytes(first.read_bytes())
        with h5py.File(copy, "a") as file:
            change(file)
        assert hash_dataset(copy) != digest, name


def test_select_by_value_list_and_range(tmp_path: Path, parts: dict[str, GroupTiles]) -> None:
    """Conditions select the rows that meet all of them, sorted."""
    with Dataset(make_dataset(tmp_path, parts)) as data:
        defocus, stain = data.samples()["defocus_nm"], data.samples()["stain"]
        assert data.select({}).tolist() == list(range(13))
        assert data.select({"defocus_nm": -10}).tolist() == np.flatnonzero(defocus == -10).tolist()
        both = data.select({"defocus_nm": [0, 10], "stain": "cy5"})
        assert both.tolist() == np.flatnonzero((defocus >= 0) & (stain == "cy5")).tolist()
        assert data.select({"defocus_nm": {"min": -1}}).tolist() == np.flatnonzero(defocus >= -1).tolist()


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"defocus": 0}, "unknown condition 'defocus'; did you mean 'defocus_nm'"),
        ({"defocus_nm": 5}, "no sample has 5; found: -10.0, 0.0, 10.0"),
        ({"defocus_nm": "0"}, "no sample has '0'"),
        ({"stain": "Cy5"}, "no sample has 'Cy5'; found: cy5, dapi"),
        ({"defocus_nm": {"min": 50}}, "no sample lies in"),
        ({"defocus_nm": {"least": 50}}, "is not a range"),
        ({"stain": {"min": 0}}, "is not a range"),
        ({"group": "c", "stain": "cy5"}, "no sample meets all of"),
    ],
)
def test_select_names_what_is_there(
    tmp_path: Path, parts: dict[str, GroupTiles], conditions: dict, message: str
) -> None:
    """An unknown column or a value nobody has is refused, naming the columns or values present."""
    with Dataset(make_dataset(tmp_path, parts)) as data, pytest.raises(SegueError, match=message):
        data.select(conditions)


def test_stored_split_equals_the_computed_one(tmp_path: Path, parts: dict[str, GroupTiles]) -> None:
    """A stored split holds what its seed and fractions give, and a missing one is refused by name."""
    with Dataset(make_dataset(tmp_path, parts)) as data:
        computed = data.split(SplitSpec(seed=3, validation=0.25, test=0.25))
        np.testing.assert_array_equal(data.split(SplitSpec(stored="default")), computed)
        assert data.split_attributes("default") == {"seed": 3, "validation": 0.25, "test": 0.25}
        with pytest.raises(SegueError, match="unknown stored split 'defalt'; did you mean 'default'"):
            data.split(SplitSpec(stored="defalt"))


def test_parts_that_disagree_are_refused(tmp_path: Path) -> None:
    """Tiles of another size, an unnamed class and a repeated micrograph are refused; nothing is left."""
    with pytest.raises(SegueError, match="images are 1 × 8 × 8 uint16, but 1 × 16 × 16 uint16"):
        make_dataset(tmp_path, {"a": make_part("a"), "b": make_part("b", size=8)})
    odd = make_part("a")
    odd.labels["cells"][0, 0, 0] = 3
    with pytest.raises(SegueError, match=r"found class value 3, but only the values 0 to 2 are named"):
        make_dataset(tmp_path, {"a": odd})
    with pytest.raises(SegueError, match="micrograph 'a' occurs twice"):
        make_dataset(tmp_path, {"a": make_part("a"), "b": make_part("a")})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts"]


def test_chunks_fit_sixteen_megabytes() -> None:
    """A chunk holds 1000 tiles, or as many as fit 16 MB shared out evenly, or one."""
    assert _chunk_shape((5000, 1, 100, 100), 1, 1000)[0] == 1000
    assert _chunk_shape((5000, 1, 160, 160), 2, 1000)[0] == 295
    assert _chunk_shape((5000, 1, 4096, 4096), 4, 1000)[0] == 1
    assert _chunk_shape((7, 1, 100, 100), 1, 1000)[0] == 7


def test_files_that_are_no_datasets(tmp_path: Path, parts: dict[str, GroupTiles]) -> None:
    """Missing, a folder, not HDF5, cut in half, foreign, newer: each has its own sentence."""
    whole = make_dataset(tmp_path, parts)
    (tmp_path / "text.h5").write_text("no")
    (tmp_path / "half.h5").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (tmp_path / "newer.h5").write_bytes(whole.read_bytes())
    with h5py.File(tmp_path / "newer.h5", "a") as file:
        file.attrs["format_version"] = 3
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = 1
    expected = {
        "missing.h5": "there is no such file",
        "parts": "is a folder",
        "text.h5": "is not an HDF5 file",
        "half.h5": "is truncated",
        "newer.h5": "has dataset format 3, this segue reads up to 2; upgrade",
        "foreign.h5": "not a segue dataset",
    }
    for name, message in expected.items():
        with pytest.raises(SegueError, match=message) as raised:
            Dataset(tmp_path / name)
        assert name in str(raised.value)
        assert "\n" not in str(raised.value)


def test_damage_inside_is_named(tmp_path: Path) -> None:
    """Bytes overwritten inside a compressed chunk end in one sentence that names the file."""
    part = make_part("a", 8, size=64)
    path = make_dataset(tmp_path, {"a": part})
    with h5py.File(path) as file:
        info = file["tiles/labels/cells"].id.get_chunk_info(0)
    with path.open("r+b") as raw:
        raw.seek(info.byte_offset + info.size // 2)
        raw.write(b"\xff" * 64)
    with Dataset(path) as data, pytest.raises(SegueError, match="the file is damaged"):
        data.read(np.arange(8), layer="cells")


LIMITED = """
import resource, signal, sys, json
from pathlib import Path
sys.path.insert(0, sys.argv[1])
sys.dont_write_bytecode = True  # it would be cut off at the limit
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from samples.datasets import make_part, make_dataset
from segue.data.writer import merge_parts, write_part
from segue.errors import SegueError
folder = Path(sys.argv[2])
part = make_part("a", 200, size=32)
messages = []
for limit in [0, 90, 3000, 20000, 200000, 450000]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write_part(folder / "part.h5", part)
    except SegueError as error:
        messages.append(str(error))
resource.setrlimit(resource.RLIMIT_FSIZE, (10**9, resource.RLIM_INFINITY))
write_part(folder / "part.h5", part)
from samples.datasets import LAYERS
for limit in [500, 20000, 300000, 600000]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        merge_parts([folder / "part.h5"], folder / "all.h5", layers=LAYERS, channels=["c"], attributes={}, splits={})
    except SegueError as error:
        messages.append(str(error))
print(json.dumps(messages))
"""


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    """At any limit of the file size a write ends in one sentence, no file is left and the process ends well."""
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, str(Path(__file__).parents[1]), str(tmp_path)], capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")
    messages = json.loads(result.stdout)
    assert len(messages) == 10
    for message in messages:
        assert "cannot be written (File too large); free disk space" in message
        assert "\n" not in message
    assert [path.name for path in tmp_path.iterdir()] == ["part.h5"]


def test_an_output_that_cannot_be_written(tmp_path: Path, parts: dict[str, GroupTiles]) -> None:
    """A file in the place of a folder, and a folder in the place of the file, are named."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for out in (tmp_path / "file" / "a.h5", tmp_path / "folder"):
        with pytest.raises(SegueError, match=r"cannot be written .*; give the path of a file in a folder"):
            write_part(out, parts["a"])
    with pytest.raises(SegueError, match="there are no tiles to write"):
        merge_parts([], tmp_path / "x.h5", layers=[], channels=[], attributes={}, splits={})


@pytest.mark.parametrize(
    "name",
    [
        "samples/stain",
        "samples/y_px",
        "samples/group",
        "tiles/valid",
        "tiles/intensity",
        "tiles/labels/cells",
        "tiles/class_counts/cells",
        "splits/default",
    ],
)
def test_arrays_of_other_lengths_are_named(tmp_path: Path, parts: dict[str, GroupTiles], name: str) -> None:
    """An array that is shorter than the images, of another shape, or not there is told when the dataset is opened."""
    path = make_dataset(tmp_path, parts)
    with h5py.File(path, "r+") as file:
        values, attributes = file[name][()], dict(file[name].attrs)
        kind = file[name].dtype

        def put(array: np.ndarray) -> None:
            del file[name]
            file.create_dataset(name, data=array, dtype=kind).attrs.update(attributes)
            file.flush()

        put(values[:-2])
    with pytest.raises(
        SegueError, match=rf"data.h5: {name} has length 11, but tiles/images has length 13; the file is"
    ):
        Dataset(path)
    with h5py.File(path, "r+") as file:
        put(values[:, None])
    with pytest.raises(SegueError, match=rf"{name} is 13 × 1.*, but must be 13"):
        Dataset(path)
    with h5py.File(path, "r+") as file:
        del file[name]
    if name not in ("samples/stain", "tiles/labels/cells", "splits/default"):
        with pytest.raises(SegueError, match=f"the array {name} is missing"):
            Dataset(path)


def test_attributes_that_are_missing_are_told(tmp_path: Path, parts: dict[str, GroupTiles]) -> None:
    """A dataset without its version, channels or the kind of a layer ends in a sentence."""
    for number, (place, name) in enumerate(
        [("/", "format_version"), ("/", "channels"), ("tiles/labels/cells", "kind")]
    ):
        path = make_dataset(tmp_path, parts, f"{number}.h5")
        with h5py.File(path, "r+") as file:
            del file[place].attrs[name]
        with pytest.raises(SegueError, match=rf"{number}.h5: is not a complete segue dataset .*{name}"):
            Dataset(path)


def test_a_split_that_is_not_stored(tmp_path: Path, parts: dict[str, GroupTiles]) -> None:
    """An unknown split is told with those there are, and with the other way to split where there are none."""
    path = make_dataset(tmp_path, parts)
    with Dataset(path) as data, pytest.raises(SegueError, match="unknown stored split 'x'; allowed: default"):
        data.split_codes("x")
    with h5py.File(path, "r+") as file:
        del file["splits"]
    with Dataset(path) as data, pytest.raises(SegueError, match="stores no split; use seed, validation and test"):
        data.split_codes("x")


def contents(path: Path) -> list[str]:
    """Returns all that a reader gets from a dataset."""
    with Dataset(path) as data:
        rows = np.arange(data.count)
        arrays = [data.valid(rows), data.intensity(rows), *data.samples().values()]
        for layer in data.layers:
            arrays += data.read(rows, layer=layer)
            arrays += [data.class_counts(layer)] if data.layers[layer].kind == "classes" else []
        arrays += [data.split_codes(name) for name in data.split_names()]
        for source in data.micrograph_ids():
            micrograph = data.micrograph(source)
            arrays += [micrograph.image, *micrograph.labels.values()]
        rest = (data.channels, data.layers, data.attributes, data.micrograph_ids(), data.split_names())
        return [repr(rest), *(repr(np.asarray(array).tolist()) for array in arrays)]


def test_no_damage_is_silent(tmp_path: Path, parts: dict[str, GroupTiles]) -> None:
    """Whichever bit of a file is turned, it is read as it was written, or refused in one sentence."""
    path = make_dataset(tmp_path, parts)
    original, expected = path.read_bytes(), contents(path)
    generator = np.random.default_rng(5)
    refused = 0
    for place in generator.integers(0, len(original), 150).tolist():
        damaged = bytearray(original)
        damaged[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(damaged)
        try:
            assert contents(path) == expected
        except SegueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 50


def external(file: h5py.File, other: Path) -> None:
    del file["tiles/images"]
    file["tiles"].create_dataset("images", (13, 1, 16, 16), np.uint16, external=[(str(other), 0, h5py.h5f.UNLIMITED)])


def virtual(file: h5py.File, other: Path) -> None:
    layout = h5py.VirtualLayout((13, 1, 16, 16), np.uint16)
    layout[...] = h5py.VirtualSource(str(other), "x", (13, 1, 16, 16))
    del file["tiles/images"]
    file["tiles"].create_virtual_dataset("images", layout)


def put(file: h5py.File, name: str, link: object) -> None:
    del file[name]
    file[name] = link


@pytest.mark.parametrize(
    "change",
    [
        external,
        virtual,
        lambda file, other: put(file, "tiles/images", h5py.ExternalLink(str(other), "x")),
        lambda file, other: put(file, "micrographs", h5py.ExternalLink(str(other), "x")),
        lambda file, other: put(file, "samples/source", h5py.SoftLink("/samples/group")),
    ],
)
def test_values_of_other_files_are_refused(tmp_path: Path, parts: dict[str, GroupTiles], change: object) -> None:
    """A dataset received from somebody must not read the files of who opens it; nor does its digest."""
    path, other = make_dataset(tmp_path, parts), tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["x"] = np.full((13, 1, 16, 16), 7, np.uint16)
    with h5py.File(path, "r+") as file:
        change(file, other)  # type: ignore[operator]
    for read in (Dataset, hash_dataset):
        with pytest.raises(SegueError, match="must hold all of its arrays"):
            read(path)


def retyped(file: h5py.File, name: str, values: np.ndarray) -> None:
    attributes = dict(file[name].attrs)
    del file[name]
    file.create_dataset(name, data=values).attrs.update(attributes)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("tiles/images", lambda a: a.astype(np.complex64), "must hold integers of up to 32 bits or float32"),
        ("tiles/images", lambda a: a.astype(np.float64), "must hold integers of up to 32 bits or float32"),
        ("tiles/images", lambda a: a.astype(np.float16), "must hold integers of up to 32 bits or float32"),
        ("tiles/images", lambda a: a > 0, "must hold integers of up to 32 bits or float32"),
        ("tiles/valid", lambda a: a + 10_000, "boxes .* outside"),
        ("tiles/valid", lambda a: a[:, ::-1], "boxes .* outside"),
        ("tiles/valid", lambda a: a.astype(float), "must hold integers"),
        ("tiles/intensity", lambda a: -a, "negative deviations"),
        ("tiles/intensity", lambda a: np.zeros(a.shape, [("a", "f4")]), "must hold float32 or float64"),
        ("tiles/labels/cells", lambda a: np.full_like(a, 99), "holds the value 99"),
        ("tiles/labels/cells", lambda a: np.full_like(a, 2**31 - 1), "holds the value 2147483647"),
        ("tiles/labels/nuclei", lambda a: a - 50, "holds the value -50"),
        ("tiles/class_counts/cells", lambda a: -a - 1, "numbers of pixels that no tile"),
        ("tiles/class_counts/cells", lambda a: a + 2**62, "numbers of pixels that no tile"),
        ("samples/y_px", lambda a: a - 10**6, "negative positions"),
        ("samples/group", lambda a: np.zeros(len(a), np.int8), "must hold text"),
        ("samples/group", lambda a: np.array([b"\xff"] * len(a), h5py.string_dtype()), "holds text that is not UTF-8"),
        ("splits/default", lambda a: a * 0 + 7, "other numbers than 0 to 2"),
        ("micrographs/b%2F1/image", lambda a: np.float64(5), "not 1 × H × W"),
        ("micrographs/b%2F1/image", lambda a: a[0, :4], "not 1 × H × W"),
        ("micrographs/b%2F1/labels/cells", lambda a: a[:4], "must be"),
    ],
)
def test_what_an_array_cannot_hold_is_told(
    tmp_path: Path, parts: dict[str, GroupTiles], name: str, values: object, message: str
) -> None:
    """Types when the file is opened, values and micrographs when they are read."""
    path = make_dataset(tmp_path, parts)
    with h5py.File(path, "r+") as file:
        retyped(file, name, values(file[name][()]))  # type: ignore[operator]
    with pytest.raises(SegueError, match=message):
        contents(path)


@pytest.mark.parametrize(
    ("node", "name", "value"),
    [
        ("/", "channels", np.arange(3)),
        ("/", "channels", 7.5),
        ("/", "channels", ["a", "b"]),
        ("/", "format_version", "x"),
        ("tiles/labels/cells", "kind", "colors"),
        ("tiles/labels/cells", "names", 5),
        ("splits/default", "seed", 7.5),
    ],
)
def test_attributes_of_another_kind_are_told(
    tmp_path: Path, parts: dict[str, GroupTiles], node: str, name: str, value: object
) -> None:
    path = make_dataset(tmp_path, parts)
    with h5py.File(path, "r+") as file:
        file[node].attrs[name] = value
    with pytest.raises(SegueError, match="not a complete segue dataset"), Dataset(path) as data:
        data.resolve_split(SplitSpec(stored="default"))


@pytest.mark.parametrize("name", ["micrographs", "micrographs/b%2F1", "micrographs/b%2F1/labels", "splits", "samples"])
def test_an_array_in_place_of_a_group_is_told(tmp_path: Path, parts: dict[str, GroupTiles], name: str) -> None:
    path = make_dataset(tmp_path, parts)
    with h5py.File(path, "r+") as file:
        put(file, name, 5)
    with pytest.raises(SegueError, match=str(path)):
        contents(path)


def test_values_that_nobody_wrote_take_no_memory(tmp_path: Path, parts: dict[str, GroupTiles]) -> None:
    """A file of a few kB that claims a billion rows is refused before they are read; so is its digest."""
    path = make_dataset(tmp_path, parts)
    with h5py.File(path, "r+") as file:
        for name in ("tiles/images", "tiles/valid", "tiles/intensity", "samples/y_px"):
            old = file[name]
            shape, dtype = (10**9, *old.shape[1:]), old.dtype
            del file[name]
            file.create_dataset(name, shape, dtype, chunks=(1000, *shape[1:]), compression="gzip")
    for read in (Dataset, hash_dataset):
        with pytest.raises(SegueError, match="never written"):
            read(path)


def test_files_without_checksums_say_so(tmp_path: Path, parts: dict[str, GroupTiles]) -> None:
    path = make_dataset(tmp_path, parts)
    before = hash_dataset(path)
    with Dataset(path) as data:
        assert data.has_checksums
    with h5py.File(path, "r+") as file:
        retyped(file, "tiles/images", file["tiles/images"][()])
    with Dataset(path) as data:
        assert not data.has_checksums
    assert hash_dataset(path) == before  # checksums are no content
