"""Series: the same samples from any number of workers and after any kill; mistakes worded; studies as published."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from segue import api
from segue.data.dataset import Dataset
from segue.errors import SegueError, SegueWarning, SpecError
from segue.fingerprint import hash_dataset
from segue.hrtem.optics import max_displacement_A
from segue.hrtem.series import SeriesSpec, expected, group_of, resolve, simulate, structure, waves_file
from segue.spec import load, validate
from segue.study.datasets import series_files

STUDIES = Path(__file__).parents[2] / "studies"
TINY = {
    "name": "tiny",
    "seed": 5,
    "structures": 10,
    "specimen": {"particles": [1, 2], "diameter_nm": 1.4, "spacing_nm": 0.1, "support_nm": [0.4, 0.8]},
    "wave": {"field_nm": 3.2, "sampling_A": 0.25, "slice_thickness_A": 4.0, "frozen_phonons": 1},
    "imaging": {"tile_px": 80, "pixel_size_A": 0.4, "defocus_nm": [-10, 0, 10], "dose_e_per_A2": [100, 400]},
}


def tiny(**changes) -> SeriesSpec:
    table = {
        key: {**value, **changes.pop(key, {})} if isinstance(value, dict) else changes.pop(key, value)
        for key, value in TINY.items()
    }
    return validate(SeriesSpec, table | changes, context="tiny")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the tiny series made in one go, in this process."""
    out = tmp_path_factory.mktemp("series") / "whole.h5"
    simulate(tiny(), out)
    return out


def test_the_dataset_holds_every_condition_of_every_structure(uninterrupted: Path) -> None:
    """Tiles, columns, masks and counts are as specified; a structure's mask is the same in all its tiles."""
    with Dataset(uninterrupted) as dataset:
        assert dataset.count == expected(tiny())["tiles"] == 60
        assert dataset.tile_shape == (1, 80, 80)
        assert dataset.attributes["pixel_size_nm"] == pytest.approx(0.04)
        samples = dataset.samples()
        for column in ("crystal", "support_nm", "defocus_nm_drawn", "zero_defocus_nm", "structure", "seed", "source"):
            assert column in samples
        assert len(set(samples["group"])) == 10
        assert len(set(samples["source"])) == 60
        chosen = dataset.select({"defocus_nm": 10, "dose_e_per_A2": 400})
        assert len(chosen) == 10
        images, _ = dataset.read(chosen, layer=None)
        assert images.mean() == pytest.approx(400 * 0.16, rel=0.02)
        np.testing.assert_allclose(dataset.intensity(chosen)[:, 0, 0], images.mean((1, 2, 3)), rtol=1e-5)
        np.testing.assert_allclose(dataset.intensity(chosen)[:, 0, 1], images.std((1, 2, 3)), rtol=1e-5)
        _, labels = dataset.read(np.arange(dataset.count), layer="particles")
        assert labels is not None
        masks = labels.reshape(10, 6, 80, 80)
        assert np.all(masks == masks[:, :1])
        assert np.all(masks.reshape(10, -1).max(1) == 1)


def test_drawn_defoci_scatter_about_the_nominal(uninterrupted: Path) -> None:
    """Drawn defoci differ from image to image, with the standard deviation asked for."""
    with Dataset(uninterrupted) as dataset:
        samples = dataset.samples()
    deviation = samples["defocus_nm_drawn"] - samples["defocus_nm"]
    assert len(set(deviation)) == 60
    assert deviation.std() == pytest.approx(1.5, rel=0.3)
    assert abs(deviation.mean()) < 0.6


def test_in_focus_is_the_least_contrast(uninterrupted: Path) -> None:
    """Averaged over structures, images near 0 nm vary less than those at ±10 nm, at equal dose."""
    with Dataset(uninterrupted) as dataset:
        variances = {
            defocus: np.mean(dataset.intensity(dataset.select({"defocus_nm": defocus, "dose_e_per_A2": 400}))[:, 0, 1])
            for defocus in (-10, 0, 10)
        }
    assert variances[0] < 0.97 * min(variances[-10], variances[10])


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


SCRIPT = """
import multiprocessing, os, signal, sys
from pathlib import Path
from segue.hrtem.series import SeriesSpec, simulate

def strike(done, structures):
    if done == 2:  # names the workers and dies at the same moment however slow the machine is
        print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    spec = SeriesSpec.model_validate_json(sys.argv[1]).model_copy(update={"waves_folder": "waves"})
    simulate(spec, Path(sys.argv[2]), root=Path(sys.argv[2]).parent, workers=2, progress=strike)
"""


@pytest.mark.slow  # the maker's own tests kill it within the default tier
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_killed_and_started_again_gives_the_same_dataset(uninterrupted: Path, tmp_path: Path) -> None:
    """SIGKILL of a run with two workers, which keeps its waves, ends its workers; started again in one process, the
    content is that of a run without interruption or waves."""
    script, out = tmp_path / "run.py", tmp_path / "killed.h5"
    script.write_text(SCRIPT)
    parts = out.with_name("killed.h5.parts")
    ended = subprocess.run([sys.executable, script, tiny().model_dump_json(), out], stdout=subprocess.PIPE, text=True)
    workers = [int(worker) for worker in ended.stdout.split()]
    assert ended.returncode == -signal.SIGKILL
    assert len(workers) == 2
    assert not out.exists()
    deadline = time.monotonic() + 60
    while any(_alive(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    done = list(parts.glob("*/?????.h5"))
    written = {path: path.stat().st_mtime_ns for path in done}
    seen: list[tuple[int, int]] = []
    again = tiny(waves_folder="waves")
    simulate(again, out, root=tmp_path, progress=lambda finished, structures: seen.append((finished, structures)))
    assert len(list((tmp_path / "waves").glob("*/?????.h5"))) == 10
    assert seen[0] == (len(done), 10)
    assert seen[-1] == (10, 10)
    assert written
    assert not parts.exists()
    assert hash_dataset(out) == hash_dataset(uninterrupted)


def test_parts_of_another_specification_are_not_reused(tmp_path: Path) -> None:
    """After an interruption, a changed specification starts from nothing; more structures reuse what is there."""
    out = tmp_path / "series.h5"

    class Stop(Exception):
        pass

    def stop(done: int, structures: int) -> None:
        if done == 2:
            raise Stop

    with pytest.raises(Stop):
        simulate(tiny(structures=3), out, progress=stop)
    starts: list[int] = []

    def note_and_stop(done: int, structures: int) -> None:
        starts.append(done)
        raise Stop

    for spec in (tiny(structures=5), tiny(structures=3, seed=6)):
        with pytest.raises(Stop):
            simulate(spec, out, progress=note_and_stop)
    assert starts == [2, 0]


def test_made_again_it_returns_at_once_and_overwrites_nothing_else(uninterrupted: Path) -> None:
    """The same words on a finished dataset do nothing; another specification, or no dataset there, is refused."""
    before = uninterrupted.stat().st_mtime_ns
    simulate(tiny(), uninterrupted, progress=lambda done, structures: pytest.fail("worked"))
    assert uninterrupted.stat().st_mtime_ns == before
    with pytest.raises(
        SegueError, match="holds a dataset of another specification or other files; choose another file"
    ):
        simulate(tiny(seed=6), uninterrupted)


def test_more_conditions_leave_the_others_as_they_are() -> None:
    """Adding a defocus or a dose changes no image of the conditions that were there."""
    few = structure(tiny(imaging={"defocus_nm": [0], "dose_e_per_A2": 400}), 1)
    many = structure(tiny(), 1)
    row = next(i for i in range(6) if many.samples["defocus_nm"][i] == 0 and many.samples["dose_e_per_A2"][i] == 400)
    np.testing.assert_array_equal(few.images[0], many.images[row])
    np.testing.assert_array_equal(few.labels["particles"][0], many.labels["particles"][row])


def test_defocus_counts_from_a_plane_of_choice() -> None:
    """From a zero 1 nm before the exit plane, -1 nm is the image of the exit plane, whatever the least contrast."""
    at_exit = {"defocus_spread_nm": 0, "defocus_nm": [0], "dose_e_per_A2": 4e4, "zero_defocus_nm": 0}
    before = at_exit | {"zero_defocus_nm": 1.0, "defocus_nm": [-1]}
    images = [structure(tiny(imaging=imaging), 1).images.astype(float) for imaging in (at_exit, before)]
    free = structure(tiny(imaging=at_exit | {"zero_defocus_nm": "minimum-contrast"}), 1)
    assert free.samples["zero_defocus_nm"][0] > 0.3
    spread = math.sqrt(2 * images[0].mean())  # of the difference of two Poisson images
    assert (images[0] - images[1]).std() == pytest.approx(spread, rel=0.05)
    assert (images[0] - free.images).std() > 1.25 * spread


@pytest.mark.parametrize(
    ("threshold_rad", "is_small"), [(math.pi / 16, True), (math.pi / 32, False), (math.pi / 64, False)]
)
def test_labels_smaller_than_the_particles_are_told(tmp_path: Path, threshold_rad: float, is_small: bool) -> None:
    """Thin silicon turns the phase by less than the default threshold over more than half of its area."""
    spec = tiny(
        structures=3,
        specimen={"crystal": "Si", "particles": 1, "stacking_faults": 0, "diameter_nm": 1.6},
        imaging={"defocus_nm": 0, "dose_e_per_A2": 100},
        labels={"phase_threshold_rad": threshold_rad},
    )
    out = tmp_path / "si.h5"
    if is_small:
        with pytest.warns(
            SegueWarning, match=r"in \d of 3 structures the labels cover less than half .* = 0.196; lower"
        ):
            simulate(spec, out)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            simulate(spec, out)
    with Dataset(out) as dataset:
        samples = dataset.samples()
    assert ((samples["labeled_fraction"] < 0.5).any()) == is_small
    np.testing.assert_allclose(samples["particle_area_nm2"], math.pi * 0.8**2, rtol=0.25)


def test_the_zero_of_defocus_follows_the_aberrations() -> None:
    """With a Cs of -0.02 mm least contrast lies 2.76 nm nearer than without, whatever the particles."""
    free, corrected = (
        structure(tiny(imaging={"aberrations": aberrations}), 1) for aberrations in ({}, {"Cs_mm": -0.02})
    )
    shift = corrected.samples["zero_defocus_nm"][0] - free.samples["zero_defocus_nm"][0]
    assert shift == pytest.approx(-2.76, abs=0.03)


def test_detail_displaced_over_the_border_is_told(tmp_path: Path) -> None:
    """Spherical aberration without angular spread, which the periodic field cannot hold, is warned of; the studies'
    conditions are not, in which it stays inside."""
    uncorrected = tiny(structures=1, imaging={"aberrations": {"Cs_mm": 1.2}})
    with pytest.warns(
        SegueWarning, match=r"displace the finest detail by up to \d+ nm, beyond the border .* of 3.2 nm"
    ):
        simulate(uncorrected, tmp_path / "cs.h5")
    for name in ("demo", "hrtem-defocus", "small-defocus"):
        spec = load(SeriesSpec, STUDIES / f"{name}-series.toml")
        assert max_displacement_A(spec.imaging.optics(300), 300) < 5 * spec.wave.field_nm  # half of it, in Å


def test_images_of_an_integrating_detector_are_no_whole_counts() -> None:
    """They are float32 with the mean of the dose, and stay whole where the detector changes nothing."""
    detector = {"mode": "integrating", "mtf_at_nyquist": 0.5, "read_noise_e": 2.0}
    part = structure(tiny(imaging={"detector": detector, "tile_px": 48}), 1)
    assert part.images.dtype == np.float32
    assert part.images[1].mean() == pytest.approx(400 * 0.16, rel=0.05)
    assert not np.array_equal(part.images, part.images.round())
    plain = structure(tiny(imaging={"detector": {"mode": "integrating"}}), 1)
    np.testing.assert_array_equal(plain.images, structure(tiny(), 1).images)


def test_a_tile_is_cut_from_a_larger_field() -> None:
    """With tiles smaller than the field, image and mask are cut at the same place: the window of the whole."""
    whole, cut = structure(tiny(), 2), structure(tiny(imaging={"tile_px": 48}), 2)
    mask, window = whole.labels["particles"][0], cut.labels["particles"][0]
    places = [(y, x) for y in range(33) for x in range(33) if np.array_equal(mask[y : y + 48, x : x + 48], window)]
    assert places
    # noise differs, but the expected image under it does not: the right window correlates, shifted ones less
    large, small = (part.images[-1, 0].astype(float) for part in (whole, cut))
    scores = {
        (y, x): np.corrcoef(large[y : y + 48, x : x + 48].ravel(), small.ravel())[0, 1]
        for y in range(33)
        for x in range(33)
    }
    assert max(scores, key=lambda place: scores[place]) in places


def test_series_of_the_same_structures_share_groups() -> None:
    """Groups follow the atoms: not the name or the imaging, but the seed, the specimen and the field."""
    group = group_of(tiny(), 3)
    assert group_of(tiny(name="other", imaging={"defocus_nm": -5}), 3) == group
    assert group.startswith("CdSe-")
    assert group.endswith("/00003")
    others = [tiny(seed=6), tiny(specimen={"diameter_nm": 1.5}), tiny(wave={"field_nm": 4.0})]
    assert len({group_of(spec, 3) for spec in others} | {group}) == 4


@pytest.mark.parametrize("specimen", [{"crystal": "Ag"}, {"diameter_nm": 1.5}, {"support_nm": 0.9}])
def test_structures_of_other_groups_share_nothing(specimen: dict) -> None:
    """With equal seeds and index: other places, carbon, defoci and noise, so that no split can separate halves."""
    first, other = structure(tiny(), 0), structure(tiny(specimen=specimen), 0)
    assert first.samples["group"][0] != other.samples["group"][0]
    assert not np.isin(first.samples["defocus_nm_drawn"], other.samples["defocus_nm_drawn"]).any()
    for image, twin in zip(first.images[:, 0], other.images[:, 0], strict=True):
        assert abs(np.corrcoef(image.ravel(), twin.ravel())[0, 1]) < 0.1


def test_series_of_the_same_structures_share_places_and_noise() -> None:
    """However they are written, and whatever else is imaged."""
    diameter = TINY["specimen"]["diameter_nm"]
    specimen = {key: value for key, value in TINY["specimen"].items() if key != "diameter_nm"}
    radius = [d / 2 for d in diameter] if isinstance(diameter, list) else diameter / 2
    spec = validate(SeriesSpec, TINY | {"specimen": specimen | {"radius_nm": radius}, "name": "other"}, context="x")
    np.testing.assert_array_equal(structure(spec, 1).images, structure(tiny(), 1).images)


def test_a_structure_file_is_known_by_its_content(tmp_path: Path) -> None:
    """The same file elsewhere is the same series; a changed one is another."""
    dimer = "2\n\nAu 0 0 0\nAu 0 0 2.6\n"
    labels = {"phase_threshold_rad": 0.02}
    for name, text in (("a", dimer), ("b", dimer), ("c", dimer.replace("2.6", "2.7"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dimer.xyz").write_text(text)
    specimen = {key: value for key, value in TINY["specimen"].items() if key != "diameter_nm"} | {
        "structure_file": "dimer.xyz",
        "shape": "whole",
        "stacking_faults": 0,
    }
    spec = validate(SeriesSpec, TINY | {"specimen": specimen, "structures": 1, "labels": labels}, context="x")
    first, same, other = (resolve(spec, tmp_path / name) for name in "abc")
    assert group_of(first, 0) == group_of(same, 0) != group_of(other, 0)
    assert group_of(first, 0).startswith("file-")
    simulate(spec, tmp_path / "out.h5", root=tmp_path / "a")
    written = (tmp_path / "out.h5").stat().st_mtime_ns
    simulate(spec, tmp_path / "out.h5", root=tmp_path / "b")
    assert (tmp_path / "out.h5").stat().st_mtime_ns == written
    with Dataset(tmp_path / "out.h5") as dataset:
        assert set(dataset.samples()["crystal"]) == {"Au2"}
        assert str(tmp_path) not in dataset.attributes["provenance"]
    with pytest.raises(SegueError, match="holds a dataset of another specification"):
        simulate(spec, tmp_path / "out.h5", root=tmp_path / "c")


def test_all_mistakes_are_reported_at_once() -> None:
    """Mistakes in several tables come together, each with its key."""
    table = {
        "name": "x",
        "structures": 0,
        "specimen": {"crystal": "CdS", "diameter_nm": [5, 3]},
        "wave": {"frozen_phonon": 2},
        "imaging": {"dose_e_per_A2": -1, "defocus_nm": [1, 1]},
    }
    with pytest.raises(SpecError) as caught:
        validate(SeriesSpec, table, context="x.toml")
    message = str(caught.value)
    assert "6 mistakes" in message
    for words in (
        "structures",
        "specimen.crystal: unknown value 'CdS'; did you mean 'CdSe'",
        "specimen.diameter_nm",
        "wave: unknown key 'frozen_phonon'; did you mean 'frozen_phonons'",
        "imaging.dose_e_per_A2",
        "imaging.defocus_nm: found [1.0, 1.0]; each value may occur only once",
    ):
        assert words in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"wave": {"field_nm": 3.21}}, r"wave.field_nm: found 3.21, which is 80.25 pixels of 0.4 Å; .* e.g. 3.2"),
        ({"imaging": {"tile_px": 128}}, "imaging.tile_px: found 128, but the field of 3.2 nm has 80 pixels"),
        ({"wave": {"sampling_A": 0.5}}, "wave.sampling_A: found 0.5, coarser than imaging.pixel_size_A"),
        ({"specimen": {"diameter_nm": 4}}, "specimen.diameter_nm: found up to 4, more than wave.field_nm = 3.2"),
        ({"imaging": {"dose_e_per_A2": 1e6}}, "160000 electrons per pixel.*lower the dose"),
        ({"name": "a b"}, "name: found 'a b'"),
    ],
)
def test_tables_that_do_not_fit_each_other_are_refused(changes: dict, words: str) -> None:
    """What contradicts another table is refused with both numbers and a remedy."""
    with pytest.raises(SpecError, match=words):
        tiny(**changes)


@pytest.mark.parametrize(
    ("name", "datasets", "tiles", "grid_px"),
    [
        ("demo-series", 1, 100 * 3, 192),
        ("hrtem-defocus-series", 1, 1024 * 11, 1280),
        ("hrtem-noise-series", 1, 1024 * 5, 1280),
        ("hrtem-structure-series", 18, 1024, 1280),
        ("small-defocus-series", 1, 96 * 11, 320),
        ("small-noise-series", 1, 96 * 5, 320),
        ("small-structure-series", 18, 48, 320),
    ],
)
def test_the_studies_series_load_and_count(name: str, datasets: int, tiles: int, grid_px: int) -> None:
    """Every series file loads, with the counts and the grid that one computes by hand."""
    specs = series_files(STUDIES / f"{name}.toml", Path("out")).values()
    assert len(specs) == datasets
    for spec in specs:
        counted = expected(spec)
        assert (counted["tiles"], counted["grid_px"]) == (tiles, grid_px)
        assert counted["bytes"] > tiles * spec.imaging.tile_px**2 * 2


def test_the_studies_conditions_are_the_published_ones() -> None:
    """Defoci, doses, particles and crystals of the three series stand as the reference gives them."""
    defocus, noise = (load(SeriesSpec, STUDIES / f"hrtem-{name}-series.toml") for name in ("defocus", "noise"))
    assert defocus.imaging.defocus_nm == list(range(-25, 26, 5))
    assert (defocus.imaging.dose_e_per_A2, defocus.imaging.defocus_spread_nm) == ([400], 1.5)
    assert (noise.imaging.defocus_nm, noise.imaging.dose_e_per_A2) == ([-10], [30, 75, 150, 300, 600])
    files = series_files(STUDIES / "hrtem-structure-series.toml", Path("out"))
    assert {spec.specimen.diameter_nm for spec in files.values()} == {(2.0, 4.0), (5.0, 7.0)}
    assert len({spec.specimen.crystal for spec in files.values()}) == 9
    assert Path("out/hrtem-structure-series-Fe3O4-2.5,3.5.h5") in files
    for spec in (defocus, noise, *files.values()):
        assert spec.specimen.particles == (1, 5)
        assert (spec.wave.frozen_phonons, spec.imaging.tile_px, spec.imaging.focal_spread_A) == (8, 512, 10)
        assert spec in (defocus, noise) or (spec.imaging.defocus_nm, spec.imaging.dose_e_per_A2) == ([-10], [300])


@pytest.mark.parametrize("size", ["hrtem", "small"])
def test_defocus_and_noise_series_show_the_same_structures(size: str) -> None:
    """The noise series and the defocus series share their groups and their exit waves, as their files say."""
    defocus, noise = (load(SeriesSpec, STUDIES / f"{size}-{name}-series.toml") for name in ("defocus", "noise"))
    assert group_of(defocus, 7) == group_of(noise, 7)
    assert waves_file(defocus, 7, STUDIES) == waves_file(noise, 7, STUDIES)
    assert defocus.waves_folder == noise.waves_folder is not None


def test_each_makes_a_dataset_for_every_value(tmp_path: Path) -> None:
    """A file with `each` makes datasets named by their values, the same as by a file for each, counted together."""
    path = tmp_path / "tiny.toml"
    text = """
        name = "tiny"
        seed = 5
        structures = 1
        specimen = { crystal = { each = ["Cu", "CdSe"] }, stacking_faults = 0, particles = 1, diameter_nm = 1.2 }
        wave = { field_nm = 2.56, sampling_A = 0.25, slice_thickness_A = 4.0, frozen_phonons = 1 }
        imaging = { tile_px = 64, pixel_size_A = 0.4 }
        labels = { phase_threshold_rad = 0.098 }
    """
    path.write_text(text)
    calls: list[tuple[int, int]] = []
    lines: list[str] = []
    out = api.simulate(path, tmp_path / "all", progress=lambda *call: calls.append(call), log=lines.append)
    assert sorted(file.name for file in out.iterdir()) == ["tiny-CdSe.h5", "tiny-Cu.h5"]
    assert (calls[0], calls[-1]) == ((0, 2), (2, 2))
    assert lines[0].startswith("2 structures, 2 images")
    path.write_text(text.replace('{ each = ["Cu", "CdSe"] }', '"Cu"'))
    assert hash_dataset(api.simulate(path, tmp_path / "cu.h5")) == hash_dataset(out / "tiny-Cu.h5")


def test_mistakes_in_each_are_refused(tmp_path: Path) -> None:
    """A file as the output of several datasets, an empty `each` and `except` are refused in a sentence."""
    path = tmp_path / "tiny.toml"
    path.write_text('name = "tiny"\nstructures = 1\nseed = { each = [1, 2] }')
    with pytest.raises(SegueError, match=r"all.h5: .* makes 2 datasets, one for each of its values; give a folder"):
        api.simulate(path, tmp_path / "all.h5")
    path.write_text('name = "tiny"\nstructures = 1\nseed = { each = [] }')
    with pytest.raises(SpecError, match=r"seed: found .*; write seed = { each = \[first, second"):
        api.simulate(path, tmp_path / "all")
    path.write_text('name = "tiny"\nstructures = 1\nseed = { each = [1], except = "pretrain.seed" }')
    with pytest.raises(SpecError, match="seed: found `except`, but a dataset has no ancestors"):
        api.simulate(path, tmp_path / "all")


def test_the_disk_needed_is_foreseen(uninterrupted: Path) -> None:
    """The dataset is never larger than the bytes expected, nor less than a third of them."""
    assert expected(tiny())["bytes"] / 3 < uninterrupted.stat().st_size <= expected(tiny())["bytes"]


def test_an_unwritable_output_is_refused(tmp_path: Path) -> None:
    """An output under a file, where no folder can be, is refused in one sentence before anything is computed."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SegueError, match="cannot be written"):
        simulate(tiny(), tmp_path / "file" / "out.h5")


def test_specifications_import_neither_torch_nor_abtem() -> None:
    """Planning with a series' specification loads none of the heavy libraries."""
    code = (
        "import sys; from pathlib import Path; from segue.spec import load\n"
        "from segue.hrtem.series import SeriesSpec, expected, group_of\n"
        f"spec = load(SeriesSpec, Path({str(STUDIES / 'demo-series.toml')!r})); expected(spec); group_of(spec, 0)\n"
        "print([m for m in ('torch', 'pandas', 'abtem', 'ase', 'dask', 'h5py', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"
