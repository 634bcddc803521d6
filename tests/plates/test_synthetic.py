"""The made plate: what lies in the files is what the truth says, and depends on the specification alone."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from pydantic import ValidationError

from segue.api import synthetic_plate
from segue.errors import SegueError
from segue.plates.synthetic.optics import camera, cut_tile, defocused_intensity
from segue.plates.synthetic.scene import render_scene, sample_well, simulate_well
from segue.plates.synthetic.spec import (
    CellsSpec,
    FaultsSpec,
    OpticsSpec,
    StageSpec,
    SyntheticSpec,
    plate_name,
    well_name,
)
from segue.plates.synthetic.write import (
    PATTERN,
    expected_tile,
    flat_fields,
    sample_faults,
    tile_positions,
    write_plates,
)

SMALL = SyntheticSpec(
    seed=4,
    wells=2,
    stained_wells=1,
    times=2,
    interval_h=6.0,
    stage=StageSpec(rows=2, columns=2, tile_px=72, overlap=0.25, jitter_px=6, drift_px=3),
    cells=CellsSpec(density_per_mm2=(900, 900), onset_h=(3, 3)),
    faults=FaultsSpec(missing_tiles=1, dead_fields=1),
)
WELLS = [(plate, well) for plate in range(SMALL.plates) for well in range(SMALL.wells)]
STAINED = next(pw for pw in WELLS if sample_well(SMALL, plate=pw[0], well=pw[1]).stained)


@pytest.fixture(scope="module")
def plates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "screen"
    write_plates(SMALL, folder)
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    """Returns all arrays of an HDF5 file by their path, and its attributes."""
    actual: dict[str, np.ndarray] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: actual.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
        return actual, dict(file.attrs)


def raw(folder: Path, plate: int, well: int, time: int, field: int, channel: str) -> Path:
    row, column = divmod(field, SMALL.stage.columns)
    names = {"plate": plate_name(plate), "well": well_name(well), "time": time, "row": row, "column": column}
    return folder / PATTERN.format(**names, channel=channel)


def test_transport_of_intensity():
    """For a weak smooth object and small defocus, intensity is 1 − defocus × Laplacian of the path (Teague 1983)."""
    y, x = (np.mgrid[:128, :128] - 64) * 0.5
    width, height, defocus = 6.0, 0.01, 2.0
    bump = height * np.exp(-(y**2 + x**2) / (2 * width**2))
    laplacian = bump * ((y**2 + x**2) / width**4 - 2 / width**2)
    for sign in (1, -1):
        actual = defocused_intensity(
            bump, np.zeros_like(bump), defocus_um=sign * defocus, pixel_size_um=0.5, wavelength_um=0.55,
            condenser_aperture=0,
        )  # fmt: skip
        assert np.abs(actual - (1 - sign * defocus * laplacian)).max() < 0.02 * defocus * np.abs(laplacian).max()


def test_absorption_in_focus_and_energy():
    """In focus the intensity is exp(−absorbance); out of focus a phase object keeps the mean of 1."""
    generator = np.random.default_rng(0)
    absorbance = generator.uniform(0, 1, (40, 50))
    common = {"pixel_size_um": 0.8, "wavelength_um": 0.55, "condenser_aperture": 0.1}
    assert np.allclose(
        defocused_intensity(np.zeros((40, 50)), absorbance, defocus_um=0, **common), np.exp(-absorbance), atol=1e-4
    )
    phase = np.zeros((200, 200))
    phase[80:120, 90:110] = 0.1
    assert abs(defocused_intensity(phase, 0 * phase, defocus_um=9, **common).mean() - 1) < 1e-3


def test_cut_is_a_shift():
    """Cutting at whole pixels copies; between pixels it samples a band-limited scene where it should."""
    y, x = np.mgrid[:90, :90].astype(np.float64)

    def wave(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        return 100 + 20 * np.sin(0.5 * y + 0.2) * np.cos(0.4 * x)

    scene = wave(y, x).astype(np.float32)
    assert np.array_equal(cut_tile(scene, (7, 9), 40), scene[7:47, 9:49])
    assert np.abs(cut_tile(scene, (20.3, 25.75), 40) - wave(y + 20.3, x + 25.75)[:40, :40]).max() < 0.05
    with pytest.raises(ValueError, match="leaves a scene"):
        cut_tile(scene, (60, 0), 40)


def test_camera_statistics():
    """Counts have the mean of what is expected plus offset and the variance of shot and read-out noise."""
    tile = camera(
        np.full((300, 300), 500.0), electrons_per_count=0.4, read_noise_electrons=3, offset_counts=100, seed=(0, "a")
    )
    assert abs(tile.mean() - 600) < 1
    assert abs(tile.var() / (500 / 0.4 + (3 / 0.4) ** 2) - 1) < 0.05


@pytest.mark.slow
def test_broken_off_and_continued(plates: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A run that is interrupted, then ends on a full disk, keeps the wells that are whole and nothing else; two
    processes make the others, and every file has the bytes that one process writes in one run."""

    def stop(done: int, total: int) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_plates(SMALL, tmp_path / "s", progress=stop)
    (first,) = [path for path in (tmp_path / "s" / "raw").glob("*/*") if not path.name.endswith(".writing")]
    before = {path: path.stat().st_mtime_ns for path in first.iterdir()}

    written = tifffile.imwrite

    def fill_up(path: Path, *given: object, **settings: object) -> None:
        if path.name.startswith("t001"):
            raise OSError("10368 requested and 4096 written")  # as NumPy tells of it
        written(path, *given, **settings)

    monkeypatch.setattr(tifffile, "imwrite", fill_up)
    with pytest.raises(SegueError, match=r"raw/P1/A2: cannot be written \(No space left on device\); free disk space"):
        write_plates(SMALL, tmp_path / "s")
    monkeypatch.undo()
    left = {path.relative_to(tmp_path / "s").as_posix() for path in (tmp_path / "s").rglob("*") if path.is_file()}
    assert first == tmp_path / "s" / "raw" / "P1" / "A1"
    whole = ("raw/P1/A1/", "truth/P1/A1/")
    assert not [n for n in left if (n.startswith(("raw/", "truth/P1/A")) and not n.startswith(whole)) or "partial" in n]

    output: list[tuple[int, int]] = []
    write_plates(SMALL, tmp_path / "s", workers=2, progress=lambda done, total: output.append((done, total)))
    assert output == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert before == {path: path.stat().st_mtime_ns for path in first.iterdir()}
    assert contents(tmp_path / "s") == contents(plates)


def test_refuses_other_folders(plates: Path, tmp_path: Path):
    """A folder of other settings or other things is left alone, with one sentence."""
    with pytest.raises(SegueError, match="other settings"):
        write_plates(SMALL.model_copy(update={"seed": 5}), plates)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SegueError, match="does not contain a synthetic plate"):
        write_plates(SMALL, tmp_path)


def test_places_that_cannot_hold_a_screen_are_told(tmp_path: Path):
    """A file in place of the folder, or of one above it, is one sentence, and nothing is written."""
    (tmp_path / "tiny.toml").write_text("plates = 1")
    with pytest.raises(SegueError, match=r"tiny\.toml: is a file, but a synthetic plate needs a folder"):
        write_plates(SMALL, tmp_path / "tiny.toml")
    with pytest.raises(SegueError, match=r"cannot be written \(Not a directory\); give a folder"):
        write_plates(SMALL, tmp_path / "tiny.toml" / "s")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.toml"]


def test_settings_stand_alone_or_in_a_specification(tmp_path: Path):
    """A file of settings and a plate's specification with [synthetic] make the same screen; other files are told."""
    settings = """plates = 1
wells = 1
stained_wells = 1
times = 1
faults = { missing_tiles = 0, dead_fields = 0 }
stage = { rows = 1, columns = 1, tile_px = 64, jitter_px = 2 }
"""
    (tmp_path / "bare.toml").write_text(settings)
    (tmp_path / "whole.toml").write_text('name = "tiny"\n[synthetic]\n' + settings)
    for name in ("bare", "whole"):
        assert synthetic_plate(tmp_path / name, tmp_path / f"{name}.toml") == tmp_path / name / "plate.toml"
    assert contents(tmp_path / "bare") == contents(tmp_path / "whole")
    (tmp_path / "odd.toml").write_text("sed = 3\n[synthetic]\nwels = 3\n")
    with pytest.raises(SegueError, match=r"(?s)synthetic: unknown key 'wels'; did you mean 'wells'.*unknown key 'sed'"):
        synthetic_plate(tmp_path / "odd", tmp_path / "odd.toml")
    (tmp_path / "odd.toml").write_text('name = "mine"\n[files]\npattern = "{well}.tif"\n')
    with pytest.raises(SegueError, match=r"has \[files\], the location of existing images"):
        synthetic_plate(tmp_path / "odd", tmp_path / "odd.toml")
    assert not (tmp_path / "odd").exists()


def test_tiles_are_cut_where_the_truth_says(plates: Path):
    """Raw tiles differ from the scene, cut at the stored places and vignetted, by noise of the expected size alone."""
    plate, well = STAINED
    scene = render_scene(SMALL, plate=plate, well=well, time=1)
    flats, optics = flat_fields(SMALL, plate=plate), SMALL.optics
    truth, _ = arrays(plates / "truth" / plate_name(plate) / well_name(well) / "t001.h5")
    places = np.stack([truth["tiles/y_px"], truth["tiles/x_px"]], axis=1)
    states = truth["tiles/state"].astype(str)
    assert np.array_equal(truth["nuclei"], scene.nuclei)
    stored, _ = arrays(plates / "truth" / plate_name(plate) / "flatfield.h5")
    assert all(np.array_equal(stored[channel], flats[channel]) for channel in flats)
    assert np.array_equal(places, tile_positions(SMALL, plate=plate, well=well, time=1).reshape(-1, 2))
    for field in np.flatnonzero(states == "ok"):
        for channel, counts in scene.channels.items():
            expected = expected_tile(counts, flats[channel], places[field])
            actual = tifffile.imread(raw(plates, plate, well, 1, int(field), channel))
            sd = np.sqrt(expected / optics.electrons_per_count + (4 / optics.electrons_per_count) ** 2)
            noise = (actual - optics.offset_counts - expected) / sd
            assert actual.dtype == np.uint16
            assert abs(noise.mean()) < 0.06
            assert abs(noise.std() - 1) < 0.06


def test_placements_within_jitter_and_drift():
    """Tiles lie within jitter and drift of the grid, and drift is shared: at time 0 there is none."""
    stage = SMALL.stage
    rows, columns = np.indices((stage.rows, stage.columns))
    nominal = stage.margin_px + np.stack([rows, columns], axis=-1) * stage.step_px
    for time in range(SMALL.times):
        off = tile_positions(SMALL, plate=0, well=0, time=time) - nominal
        assert np.abs(off).max() <= stage.jitter_px + (stage.drift_px if time else 0)
        assert np.ptp(off[..., 0]) > 0


def test_labels_classes_and_counts_agree(plates: Path):
    """Every label has one row of the right area and centre, and the counts are those of nuclei in the field."""
    for path in sorted((plates / "truth").glob("*/*/t*.h5")):
        truth, attributes = arrays(path)
        nuclei = truth["nuclei"]
        objects = {name.removeprefix("objects/"): column for name, column in truth.items() if "objects/" in name}
        assert truth["bodies"].shape == nuclei.shape == SMALL.stage.canvas_px
        ids, areas = np.unique(nuclei[nuclei > 0], return_counts=True)
        assert np.array_equal(ids, objects["id"])
        assert np.array_equal(areas, objects["area_px"])
        y, x = np.nonzero(nuclei == ids[0])
        assert np.allclose([y.mean(), x.mean()], [objects["y_px"][0], objects["x_px"][0]])
        seen = objects["class"][objects["in_field"]]
        assert (attributes["live"], attributes["dead"]) == ((seen == 1).sum(), (seen == 2).sum())


def test_dead_cells_stay_dead_and_follow_the_sigmoid():
    """No cell returns to life, and the dead fraction of a treated well follows the curve that was drawn for it."""
    spec = SyntheticSpec(
        wells=2, stained_wells=2, times=7, interval_h=2.0, stage=StageSpec(rows=2, columns=2),
        cells=CellsSpec(dying_treated=(0.8, 0.8), onset_h=(5, 5), width_h=(1, 1), density_per_mm2=(2000, 2000)),
    )  # fmt: skip
    wells = [sample_well(spec, plate=0, well=well) for well in range(2)]
    treated = next(well for well in wells if well.treatment == "treated")
    cells = simulate_well(spec, treated)
    founders = np.isneginf(cells.born_h)
    dead = np.stack([cells.dead(2.0 * t)[founders] for t in range(7)])
    assert np.all(dead[1:] >= dead[:-1])
    start = treated.dynamics["dead_at_start"]
    sigmoid = 0.8 / (1 + np.exp(-(2.0 * np.arange(7) - 5)))
    assert np.abs(dead.mean(axis=1) - (start + (1 - start) * sigmoid)).max() < 0.04


def test_faults_are_in_the_files(plates: Path):
    """The missing tile has no file in any channel, the dead field is black or full, and every other tile is there."""
    for plate, well in WELLS:
        faults = sample_faults(SMALL, plate=plate)
        channels = (
            ("brightfield", "dapi", "cy5") if sample_well(SMALL, plate=plate, well=well).stained else ("brightfield",)
        )
        assert sorted(faults.values()) == sorted(["missing", "black" if plate == 0 else "saturated"])
        for time in range(SMALL.times):
            for field in range(SMALL.fields):
                kind = faults.get((well, time, field), "ok")
                for channel in ("brightfield", "dapi", "cy5"):
                    path = raw(plates, plate, well, time, field, channel)
                    assert path.exists() == (kind != "missing" and channel in channels)
                    if kind == "black" and path.exists():
                        assert abs(tifffile.imread(path).mean() - SMALL.optics.offset_counts) < 3
                    if kind == "saturated" and path.exists():
                        assert tifffile.imread(path).min() == 65535


def test_stains_mark_their_nuclei_and_bleed_through():
    """Draq7 glows in dead nuclei only, Hoechst in all, and live nuclei show in Cy5 by the fraction drawn."""
    plate, well = STAINED
    drawn = sample_well(SMALL, plate=plate, well=well)
    scene = render_scene(SMALL, plate=plate, well=well, time=1)
    labels = np.append(0, scene.objects["class"])[np.searchsorted(np.append(0, scene.objects["id"]), scene.nuclei)]
    dapi, cy5 = scene.channels["dapi"], scene.channels["cy5"]
    far = scene.nuclei == 0
    assert dapi[labels > 0].mean() > 2 * np.median(dapi[far])
    assert cy5[labels == 2].mean() > 2 * cy5[labels == 1].mean()
    none = SMALL.model_copy(
        update={"stains": SMALL.stains.model_copy(update={"dapi_in_cy5": (0.0, 0.0), "cy5_in_dapi": (0.0, 0.0)})}
    )
    pure = render_scene(none, plate=plate, well=well, time=1).channels
    hoechst = pure["dapi"] - pure["dapi"].min()
    assert np.corrcoef((cy5 - pure["cy5"]).ravel(), hoechst.ravel())[0, 1] > 0.95
    slope = np.polyfit(hoechst[labels == 1], (cy5 - pure["cy5"])[labels == 1], 1)[0]
    assert abs(slope - drawn.dapi_in_cy5) < 0.15 * drawn.dapi_in_cy5


def test_plate_table_and_pixel_size(plates: Path):
    """The table names every well once with its treatment; every TIFF says pixel size, channel and stage position."""
    with (plates / "plates.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["plate", "well", "stained", "treatment", "experiment"]
    assert {(row["plate"], row["well"]) for row in rows} == {(plate_name(p), well_name(w)) for p, w in WELLS}
    assert sum(int(row["stained"]) for row in rows) == SMALL.plates * SMALL.stained_wells
    assert len({row["experiment"] for row in rows}) == SMALL.plates
    path = next(iter(sorted(plates.glob("raw/*/*/*_r1_c1_brightfield.tif"))))
    with tifffile.TiffFile(path) as file:
        assert file.ome_metadata is not None
        assert 'PhysicalSizeX="0.8"' in file.ome_metadata
        assert f'PositionY="{SMALL.stage.step_px * 0.8}' in file.ome_metadata
        assert 'Name="brightfield"' in file.ome_metadata
        resolution = file.pages.first.tags["XResolution"].value
        assert resolution[0] / resolution[1] == pytest.approx(1e4 / 0.8)


def test_halo_changes_sign_with_focus():
    """On the two sides of focus the same cells are seen inverted: their contrasts are anticorrelated."""
    contrast = []
    for focus in (6.0, -6.0):
        spec = SMALL.model_copy(
            update={"optics": OpticsSpec(defocus_um=(focus, focus), focus_sd_um=0, gradient=(0, 0))}
        )
        scene = render_scene(spec, plate=0, well=0, time=0)
        image, bodies = scene.channels["brightfield"], scene.bodies
        rim = (bodies > 0) & (np.roll(bodies, 2, axis=0) == 0)
        contrast.append((image - np.median(image))[rim] / np.median(image))
    assert np.corrcoef(contrast)[0, 1] < -0.3


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"stained_wells": 9}, "more than wells"),
        ({"stage": {"tile_px": 256}}, "twice jitter_px"),
        ({"cells": {"density_per_mm2": (5, 2)}}, "exchange them"),
        ({"faults": {"missing_tiles": 10**6}}, "request fewer"),
    ],
)
def test_mistakes_are_told(wrong: dict[str, object], told: str):
    """Settings that cannot be made are refused with what to do."""
    with pytest.raises(ValidationError, match=told):
        SyntheticSpec.model_validate(wrong)
