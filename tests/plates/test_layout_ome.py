"""The layout of a plate by metadata: OME-TIFF files and OME-Zarr plates give what lies where, as names would."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from segue.errors import SegueError
from segue.plates.layout.discovery import Layout, WellTiles, find_layout, hash_layout, read_plane
from segue.plates.layout.grid import Plane
from segue.plates.spec import FilesSpec
from segue.plates.synthetic.spec import FaultsSpec, StageSpec, SyntheticSpec
from segue.plates.synthetic.write import PATTERN, write_plates

CHANNELS = ("brightfield", "dapi")
SHAPE = (10, 12)
PIXEL_UM, STEP_UM = 0.5, (4.5, 5.4)  # 10 % overlap
CELLS = [(0, 0), (0, 1), (1, 1), (1, 0)]  # the order in which the stage went: a snake


def pixels(well: int, times: int = 2) -> np.ndarray:
    """Returns (F, T, C, H, W): each plane's value tells all its indices."""
    numbers = np.arange(4 * times * 2).reshape(4, times, 2) + 100 * well
    return np.broadcast_to(numbers[..., None, None], (4, times, 2, *SHAPE)).astype(np.uint16)


def stage(cell: tuple[int, int]) -> tuple[float, float]:
    jitter = np.random.default_rng(cell).uniform(-0.3, 0.3, 2)  # µm, of tiles of 5 × 6 µm
    return float(1000 + cell[0] * STEP_UM[0] + jitter[0]), float(-300 + cell[1] * STEP_UM[1] + jitter[1])


def write_ome(
    path: Path, well: int, cells: Sequence[tuple[int, int]] | None = CELLS, channels=CHANNELS, **more: object
) -> None:
    """Writes a file with one image per field, with stage positions where `cells` are given, and `more` metadata."""
    with tifffile.TiffWriter(path, ome=True) as writer:
        for field, image in enumerate(pixels(well)):
            metadata: dict[str, object] = {
                "axes": "TCYX", "Channel": {"Name": list(channels)},
                "PhysicalSizeX": PIXEL_UM, "PhysicalSizeY": PIXEL_UM, **more,
            }  # fmt: skip
            if cells is not None:
                y, x = stage(cells[field])
                metadata["Plane"] = {"PositionX": [x] * 4, "PositionY": [y] * 4, "PositionXUnit": ["µm"] * 4}
            writer.write(image, metadata=metadata, photometric="minisblack")


def check(layout: Layout, wells: Sequence[str]) -> None:
    """Checks that every plane of every well lies at its cell, time and channel."""
    assert [well.key for well in layout.wells] == list(wells)
    assert (layout.grid, layout.times, layout.tile_shape, layout.dtype) == ((2, 2), (0, 1), SHAPE, "uint16")
    assert layout.pixel_size_um == PIXEL_UM
    assert layout.missing == ()
    for number, well in enumerate(layout.wells):
        truth = pixels(number)
        for time in layout.times:
            for cell, tile in WellTiles(layout, well, time, layout.channels).items():
                assert tile is not None and np.array_equal(tile, truth[CELLS.index(cell), time])


def told(action: Callable[[], object]) -> str:
    with pytest.raises(SegueError) as caught:
        action()
    return str(caught.value)


def test_file_per_well_with_stage_positions(tmp_path: Path):
    """Fields, times and channels of one file per well are found; jittered stage positions give rows and columns."""
    for number, well in enumerate(("A1", "B10")):
        write_ome(tmp_path / f"X_{well}.ome.tif", number)
    spec = FilesSpec(format="ome-tiff", pattern="{plate}_{well}.ome.tif")
    layout = find_layout(spec, tmp_path)
    check(layout, ["X/A1", "X/B10"])
    assert layout.notes == ("rows and columns are those of the stage positions",)
    assert all(well.stained for well in layout.wells)
    half = find_layout(spec.model_copy(update={"overlap": 0.5}), tmp_path)
    assert any("give an overlap of 0." in note and "not 0.5" in note for note in half.notes)
    upward = find_layout(spec.model_copy(update={"stage_y_up": True}), tmp_path)
    assert {(1 - cell[0], cell[1]): plane for (time, channel, cell), plane in upward.wells[0].planes.items()
            if (time, channel) == (0, "dapi")} == {
        cell: plane for (time, channel, cell), plane in layout.wells[0].planes.items() if (time, channel) == (0, "dapi")
    }  # fmt: skip


def test_fields_without_positions_need_grid_and_order(tmp_path: Path):
    """Without stage positions the order of the images counts: with a grid they are placed, without one it is told."""
    write_ome(tmp_path / "A1.ome.tif", 0, cells=None)
    spec = FilesSpec(format="ome-tiff", pattern="{well}.ome.tif")
    assert "there is no grid; add grid" in told(lambda: find_layout(spec, tmp_path))
    ordered = spec.model_copy(update={"grid": (2, 2), "field_order": "snake-rows"})
    check(find_layout(ordered, tmp_path), ["P1/A1"])


def test_file_per_field_gives_what_names_give(tmp_path: Path):
    """A made plate, read by the metadata of its tiles, is laid out and digested as by the names of its files."""
    made = SyntheticSpec(
        plates=1, wells=2, stained_wells=1, times=2, faults=FaultsSpec(missing_tiles=2, dead_fields=0),
        stage=StageSpec(rows=2, columns=3, tile_px=64, overlap=0.25, jitter_px=4),
    )  # fmt: skip
    write_plates(made, tmp_path / "made")
    named = FilesSpec(pattern=PATTERN, wells="plates.csv", overlap=0.25)
    told_by_ome = FilesSpec(
        format="ome-tiff", pattern="raw/{plate}/{well}/t{time}_*.tif", wells="plates.csv", overlap=0.25
    )
    by_name, by_metadata = (find_layout(spec, tmp_path / "made") for spec in (named, told_by_ome))
    for one, other in zip(by_name.wells, by_metadata.wells, strict=True):
        assert {at: plane.path for at, plane in one.planes.items()} == {
            at: plane.path for at, plane in other.planes.items()
        }
        assert (one.key, one.stained, one.conditions) == (other.key, other.stained, other.conditions)
    assert by_name.missing == by_metadata.missing
    assert (by_name.grid, by_name.pixel_size_um) == (by_metadata.grid, by_metadata.pixel_size_um)


@pytest.mark.parametrize(
    ("told_of", "hours", "note"),
    [
        ({"TimeIncrement": 900.0}, {0: 0, 1: 0.25}, "times are 0.25 h apart according to the metadata"),
        ({"TimeIncrement": 90.0, "TimeIncrementUnit": "min"}, {0: 0, 1: 1.5}, "times are 1.5 h apart"),
        ({"TimeIncrement": 0.0}, {}, ""),
        ({"Plane": {"DeltaT": [60.0, 62.0, 3660.0, 3662.0]}}, {0: 0, 1: 1}, "acquisition times of planes"),
        ({"Plane": {"DeltaT": [5.0, 5.0, 5.0, 5.0]}}, {}, ""),
        ({}, {}, ""),
    ],
)
def test_hours_of_the_metadata(tmp_path: Path, told_of: dict[str, object], hours: dict[int, float], note: str):
    """Hours follow from the increment in its unit, seconds without one; else from the times of planes that ascend."""
    write_ome(tmp_path / "A1.ome.tif", 0, cells=None, **told_of)
    spec = FilesSpec(format="ome-tiff", pattern="{well}.ome.tif", grid=(2, 2), field_order="snake-rows")
    layout = find_layout(spec, tmp_path)
    assert layout.times_h == pytest.approx(hours)
    assert bool(note) == any(note in one for one in layout.notes if note)
    own = find_layout(spec.model_copy(update={"interval_h": 4.0}), tmp_path)
    assert own.times_h == {0: 0, 1: 4}
    contradicted = bool(hours) and "TimeIncrement" in told_of
    assert contradicted == any("interval_h = 4 is used" in one for one in own.notes)


def test_intervals_that_disagree_leave_hours_open(tmp_path: Path):
    """Files that tell different intervals give no hours, and a note says what to give."""
    for well, interval in (("A1", 900.0), ("A2", 3600.0)):
        write_ome(tmp_path / f"{well}.ome.tif", 0, TimeIncrement=interval)
    layout = find_layout(FilesSpec(format="ome-tiff", pattern="{well}.ome.tif"), tmp_path)
    assert layout.times_h == {}
    assert any("intervals from 0.25 to 1 h" in note and "give interval_h" in note for note in layout.notes)


def test_wells_of_the_metadata(tmp_path: Path):
    """Where names tell no well, the Plate elements of the metadata do."""
    path = tmp_path / "scan.ome.tif"
    write_ome(path, 0)
    text = tifffile.tiffcomment(path)
    samples = "".join(f'<WellSample ID="WS:{i}" Index="{i}"><ImageRef ID="Image:{i}"/></WellSample>' for i in range(4))
    plate = f'<Plate ID="Plate:0" Name="screen"><Well ID="Well:0" Row="1" Column="2">{samples}</Well></Plate>'
    spec = FilesSpec(format="ome-tiff", pattern="*.ome.tif")
    assert "has no well, and its name gives none" in told(lambda: find_layout(spec, tmp_path))
    tifffile.tiffcomment(path, str(text).replace("</OME>", f"{plate}</OME>").encode())
    check(find_layout(spec, tmp_path), ["screen/B3"])


def test_what_a_file_cannot_be_is_told(tmp_path: Path):
    """A contradicted pixel size, a TIFF without metadata, a file that is none, and doubled channel names are told."""
    write_ome(tmp_path / "A1.ome.tif", 0)
    spec = FilesSpec(format="ome-tiff", pattern="{well}.ome.tif")
    sized = spec.model_copy(update={"pixel_size_um": 0.65})
    assert "its metadata give 0.5 µm per pixel, pixel_size_um 0.65" in told(lambda: find_layout(sized, tmp_path))
    tifffile.imwrite(tmp_path / "A2.ome.tif", np.zeros(SHAPE, np.uint16), ome=False)
    assert [one.rpartition("/")[2] for one in find_layout(spec, tmp_path).unmatched] == [
        "A2.ome.tif has no OME metadata"
    ]
    (tmp_path / "A3.ome.tif").write_bytes(b"II*\0nothing")
    assert "A3.ome.tif: the TIFF file is truncated or corrupt" in told(lambda: find_layout(spec, tmp_path))
    write_ome(tmp_path / "A3.ome.tif", 0)
    whole = (tmp_path / "A3.ome.tif").read_bytes()
    (tmp_path / "A3.ome.tif").write_bytes(whole[: len(whole) - 100])
    assert "A3.ome.tif: the TIFF file is truncated or corrupt" in told(lambda: find_layout(spec, tmp_path))
    (tmp_path / "A3.ome.tif").unlink()
    write_ome(tmp_path / "A4.ome.tif", 0, channels=("dapi", "dapi"))
    assert "has 2 channels named dapi, dapi" in told(lambda: find_layout(spec, tmp_path))


def test_lost_column_is_not_guessed(tmp_path: Path):
    """A well whose stage positions show fewer columns than the others is refused: which one is missing is unknown."""
    write_ome(tmp_path / "A1.ome.tif", 0)
    with tifffile.TiffWriter(tmp_path / "A2.ome.tif", ome=True) as writer:
        for field in (0, 3):
            y, x = stage(CELLS[field])
            where = {"PositionX": [x] * 4, "PositionY": [y] * 4}
            sizes = {"PhysicalSizeX": PIXEL_UM, "PhysicalSizeY": PIXEL_UM}
            told_of = {"axes": "TCYX", "Channel": {"Name": list(CHANNELS)}, "Plane": where, **sizes}
            writer.write(pixels(1)[field], metadata=told_of, photometric="minisblack")
    message = told(lambda: find_layout(FilesSpec(format="ome-tiff", pattern="{well}.ome.tif"), tmp_path))
    assert "P1/A2: its stage positions show 2 × 1 fields, the grid is 2 × 2" in message


def write_zarr_plate(folder: Path, version: int, *, positions: bool) -> None:
    """Writes an OME-Zarr plate by hand: NGFF 0.4 on Zarr 2, 0.5 on Zarr 3; wells A1 and B10, images 0 … 3."""

    def group(place: Path, attributes: dict[str, object]) -> None:
        place.mkdir(parents=True, exist_ok=True)
        if version == 2:
            (place / ".zgroup").write_text('{"zarr_format": 2}')
            (place / ".zattrs").write_text(json.dumps(attributes))
        else:
            content = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": {"version": "0.5", **attributes}}}
            (place / "zarr.json").write_text(json.dumps(content))

    wells = ("A/1", "B/10")
    group(folder, {"plate": {"name": "screen", "wells": [{"path": well} for well in (*wells, "C/3")]}})
    for number, well in enumerate(wells):
        group(folder / well, {"well": {"images": [{"path": str(i), "acquisition": 0} for i in range(4)]}})
        for i, image in enumerate(pixels(number)):
            scale: list[dict[str, object]] = [{"type": "scale", "scale": [30, 1, 1, 500.0, 500.0]}]
            if positions:
                y, x = stage(CELLS[i])
                scale.append({"type": "translation", "translation": [0, 0, 0, 1000 * y, 1000 * x]})
            units = {"t": "minute", "y": "nanometer", "x": "nanometer"}
            axes = [{"name": name, **({"unit": units[name]} if name in units else {})} for name in "tczyx"]
            levels = [{"path": "0", "coordinateTransformations": scale}]
            omero = {"channels": [{"label": name} for name in CHANNELS]}
            group(folder / well / str(i), {"multiscales": [{"axes": axes, "datasets": levels}], "omero": omero})
            array = zarr.create_array(
                str(folder / well / str(i) / "0"), shape=(2, 2, 1, *SHAPE), chunks=(1, 1, 1, *SHAPE), dtype="uint16",
                zarr_format=2 if version == 2 else 3,
            )  # fmt: skip
            array[:] = image[:, :, None]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("positions", [True, False])
def test_zarr_plates(tmp_path: Path, version: int, positions: bool):
    """Both generations of OME-Zarr plates are found and read, placed by translations or by order; a well that the
    plate names and that is not there is missing."""
    write_zarr_plate(tmp_path / "screen.zarr", version, positions=positions)
    spec = FilesSpec(format="ome-zarr", pattern="*.zarr")
    if not positions:
        spec = spec.model_copy(update={"grid": (2, 2), "field_order": "snake-rows"})
    layout = find_layout(spec, tmp_path)
    assert layout.missing == ("screen/C3 is named by the plate screen.zarr, but does not exist",)
    assert layout.times_h == {0: 0, 1: 0.5}
    check_without_gaps = Layout(**{**vars(layout), "missing": ()})
    check(check_without_gaps, ["screen/A1", "screen/B10"])
    before = hash_layout(layout)
    assert before == hash_layout(layout)
    chunk = next(
        path for path in (tmp_path / "screen.zarr/A/1/0/0").rglob("*") if path.is_file() and "z" not in path.name
    )
    chunk.write_bytes(b"broken")
    assert hash_layout(layout) != before
    broken = {plane for plane in layout.wells[0].planes.values() if plane.path == tmp_path / "screen.zarr/A/1/0/0"}
    failed = [plane for plane in broken if _fails(plane)]
    assert len(failed) == 1


def _fails(plane: Plane) -> bool:
    try:
        read_plane(plane)
    except SegueError as error:
        assert str(plane.path) in str(error)
        return True
    return False


def test_two_names_of_plates_stay_two(tmp_path: Path):
    """A slash, which parts plate and well, is written another way, and no name becomes that of another plate."""
    names = ["day/1", "day-1", "day%2F1", "day%1"]
    for number, name in enumerate(names):
        write_zarr_plate(tmp_path / f"{number}.zarr", 3, positions=True)
        path = tmp_path / f"{number}.zarr/zarr.json"
        path.write_text(path.read_text().replace('"screen"', json.dumps(name)))
    plates = {well.plate for well in find_layout(FilesSpec(format="ome-zarr", pattern="*.zarr"), tmp_path).wells}
    assert plates == {"day%2F1", "day-1", "day%252F1", "day%1"}


def test_two_folders_of_one_plate_are_told(tmp_path: Path):
    for number in (0, 1):
        write_zarr_plate(tmp_path / f"{number}.zarr", 3, positions=True)
    path = tmp_path / "1.zarr/zarr.json"
    for well, other in (("A/1", "D/4"), ("B/10", "E/5")):
        (tmp_path / "1.zarr" / other).parent.mkdir()
        (tmp_path / "1.zarr" / well).rename(tmp_path / "1.zarr" / other)
        path.write_text(path.read_text().replace(f'"{well}"', f'"{other}"'))
    layout = find_layout(FilesSpec(format="ome-zarr", pattern="*.zarr"), tmp_path)
    assert {well.key for well in layout.wells} == {"screen/A1", "screen/B10", "screen/D4", "screen/E5"}
    assert any("both hold a plate 'screen'" in note for note in layout.notes)
    layout = find_layout(FilesSpec(format="ome-zarr", pattern="{plate}.zarr"), tmp_path)
    assert not any("both" in note for note in layout.notes)


@pytest.mark.parametrize(("file", "entry"), [
    ("zarr.json", '"path": "A/1"'), ("A/1/zarr.json", '"path": "0"'), ("A/1/0/zarr.json", '"path": "0"'),
])  # fmt: skip
@pytest.mark.parametrize("other", ["../elsewhere", "/etc", "C:/x", "A\\\\..\\\\..", ""])
def test_paths_out_of_a_zarr_plate_are_refused(tmp_path: Path, file: str, entry: str, other: str):
    """Metadata name parts of the folder alone: of wells, of fields and of resolutions."""
    write_zarr_plate(tmp_path / "screen.zarr", 3, positions=True)
    path = tmp_path / "screen.zarr" / file
    assert entry in path.read_text()
    path.write_text(path.read_text().replace(entry, f'"path": "{other}"', 1))
    with pytest.raises(SegueError, match=r"the path '.*' is no part of the folder"):
        find_layout(FilesSpec(format="ome-zarr", pattern="*.zarr"), tmp_path)


def test_what_is_no_zarr_plate_is_told(tmp_path: Path):
    """A folder that is no plate, and an image whose channels have no names of their own, are told."""
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr/.zattrs").write_text("{}")
    spec = FilesSpec(format="ome-zarr", pattern="{plate}.zarr")
    assert "a.zarr: has no plate metadata" in told(lambda: find_layout(spec, tmp_path))
    assert "matches no folder" in told(lambda: find_layout(FilesSpec(format="ome-zarr", pattern="b.zarr"), tmp_path))


def _altered(metadata: Any, place: str, value: Any) -> Any:
    """Returns metadata with the value at a dotted place."""
    key, _, rest = place.partition(".")
    if not key:
        return value
    entry = int(key) if isinstance(metadata, list) else key
    metadata[entry] = _altered(metadata[entry], rest, value)
    return metadata


@pytest.mark.parametrize("value", [None, 5, "x", [], [1], {}, True])
@pytest.mark.parametrize(
    ("file", "place"),
    [
        ("", ""), ("", "attributes"), ("", "attributes.ome"), ("", "attributes.ome.plate"),
        ("", "attributes.ome.plate.wells"), ("", "attributes.ome.plate.wells.0"),
        ("", "attributes.ome.plate.wells.0.path"), ("A/1", "attributes.ome.well"),
        ("A/1", "attributes.ome.well.images"), ("A/1", "attributes.ome.well.images.0"),
        ("A/1", "attributes.ome.well.images.0.path"),
        ("A/1/0", "attributes.ome.multiscales"), ("A/1/0", "attributes.ome.multiscales.0.axes"),
        ("A/1/0", "attributes.ome.multiscales.0.datasets.0"), ("A/1/0", "attributes.ome.omero"),
        ("A/1/0", "attributes.ome.omero.channels"), ("A/1/0/0", ""), ("A/1/0/0", "shape"), ("A/1/0/0", "data_type"),
    ],
)  # fmt: skip
def test_altered_metadata_of_zarr_plates(altered_plate: Path, file: str, place: str, value: Any):
    """Whatever stands in place of a part of the metadata, the other well is found as it is, or a sentence names the
    folder or the well."""
    path = altered_plate / "screen.zarr" / file / "zarr.json"
    written = path.read_text()
    path.write_text(json.dumps(_altered(json.loads(written), place, value)))
    spec = FilesSpec(format="ome-zarr", pattern="*.zarr")
    try:
        layout = find_layout(spec, altered_plate, strict=False)
    except SegueError as error:
        assert "screen" in str(error)
    else:
        assert file == "" or "screen/B10" in {well.key for well in layout.wells}
    finally:
        path.write_text(written)


@pytest.fixture(scope="module")
def altered_plate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("altered")
    write_zarr_plate(folder / "screen.zarr", 3, positions=True)
    return folder


def test_metadata_nested_too_deeply(tmp_path: Path):
    write_zarr_plate(tmp_path / "screen.zarr", 3, positions=True)
    (tmp_path / "screen.zarr/zarr.json").write_text("[" * 10**5)
    assert "screen.zarr" in told(lambda: find_layout(FilesSpec(format="ome-zarr", pattern="*.zarr"), tmp_path))


def test_pages_by_manifest(tmp_path: Path):
    """A manifest names pages of a stack and indices of a Zarr array; pages that are not there are told."""
    stack = pixels(0)[0].reshape(4, *SHAPE)
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="minisblack")
    array = zarr.create_array(str(tmp_path / "more.zarr"), shape=(2, 2, *SHAPE), dtype="uint16")
    array[:] = pixels(1)[0]
    rows = [f"A1,{i // 2},{CHANNELS[i % 2]},stack.tif,{i}" for i in range(4)]
    rows += [f"A2,{i // 2},{CHANNELS[i % 2]},more.zarr,{i // 2} {i % 2}" for i in range(4)]
    (tmp_path / "files.csv").write_text("\n".join(["well,time,channel,path,index", *rows]), encoding="utf-8")
    layout = find_layout(FilesSpec(format="manifest", manifest="files.csv"), tmp_path)
    for number, well in enumerate(layout.wells):
        for (time, channel, _), plane in well.planes.items():
            assert np.array_equal(read_plane(plane), pixels(number)[0, time, CHANNELS.index(channel)])
    assert "has 4 pages, and none of index 7" in told(lambda: read_plane(Plane(tmp_path / "stack.tif", (7,))))
    assert "holds 4 channels" in told(lambda: read_plane(Plane(tmp_path / "stack.tif")))


@pytest.mark.parametrize(
    ("unit", "scale", "size_um"),
    [("Micrometres", (0.5, 0.5), 0.5), ("Å", (5000, 5000), 0.5), ("pixel", (1, 1), None), ("nanometer", (1, 2), None)],
)
def test_units_of_ome_zarr(tmp_path: Path, unit: str, scale: tuple[float, float], size_um: float | None) -> None:
    """OME-Zarr has the units of all readers; pixels that are not square are told."""
    folder = tmp_path / "screen.zarr"
    write_zarr_plate(folder, 2, positions=False)
    for path in folder.glob("*/*/*/.zattrs"):
        attributes = json.loads(path.read_text())
        multiscale = attributes["multiscales"][0]
        for axis in multiscale["axes"][-2:]:
            axis["unit"] = unit
        multiscale["datasets"][0]["coordinateTransformations"][0]["scale"][-2:] = scale
        path.write_text(json.dumps(attributes))
    spec = FilesSpec(format="ome-zarr", pattern="*.zarr", grid=(2, 2), field_order="snake-rows")
    layout = find_layout(spec, tmp_path)
    assert layout.pixel_size_um == (None if size_um is None else pytest.approx(size_um))
    assert any("not square" in note for note in layout.notes) == (scale[0] != scale[1])
