"""Exit waves in a folder: equal to those computed, shared by series of the same structures, never used for others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segue.errors import SegueError
from segue.fingerprint import hash_dataset
from segue.hrtem import series
from segue.hrtem.exit_wave import Execution
from segue.hrtem.series import SeriesSpec, expected, simulate, structure, structure_waves, waves_file
from segue.hrtem.waves import StructureWaves, read_waves, write_waves
from segue.spec import validate


def spec(**changes: Any) -> SeriesSpec:
    table = {
        "name": "tiny",
        "structures": 2,
        "waves_folder": "waves",
        "specimen": {"particles": 1, "diameter_nm": 1.2, "support_nm": 0.4},
        "wave": {"field_nm": 2.56, "sampling_A": 0.25, "slice_thickness_A": 4.0, "frozen_phonons": 2},
        "imaging": {"tile_px": 64, "pixel_size_A": 0.4, "defocus_nm": [-10, 10]},
        "labels": {"phase_threshold_rad": 0.098},
    }
    for name, value in changes.items():
        table[name] = {**table[name], **value} if isinstance(value, dict) else value
    return validate(SeriesSpec, table, context="tiny")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Returns the list of structures whose waves are computed in the test."""
    calls: list[int] = []
    compute = series._compute_waves

    def counted(settings: SeriesSpec, index: int, execution: Execution) -> StructureWaves:
        calls.append(index)
        return compute(settings, index, execution)

    monkeypatch.setattr(series, "_compute_waves", counted)
    return calls


def test_a_file_gives_the_waves_that_were_written(tmp_path: Path) -> None:
    """Waves, thickness and columns come back as they were, of text and numbers alike."""
    made = StructureWaves(
        torch.randn(3, 8, 6, dtype=torch.complex64), torch.randn(8, 6, dtype=torch.complex64), 41.5,
        {"crystal": "CdSe", "particles": 3, "support_nm": 2.25},
    )  # fmt: skip
    write_waves(tmp_path / "new" / "0.h5", made)
    back = read_waves(tmp_path / "new" / "0.h5")
    assert torch.equal(back.exit, made.exit)
    assert torch.equal(back.vacuum, made.vacuum)
    assert (back.thickness_A, dict(back.columns)) == (41.5, dict(made.columns))
    assert [type(value) for value in back.columns.values()] == [str, int, float]


def test_a_second_series_of_the_same_structures_computes_no_waves(tmp_path: Path, computed: list[int]) -> None:
    """Another series with other conditions over the same structures is rendered from the first one's waves, and is the
    same as without a folder."""
    other = spec(name="noise", structures=3, imaging={"defocus_nm": -5, "dose_e_per_A2": [30, 600]})
    simulate(spec(), tmp_path / "defocus.h5", root=tmp_path)
    assert computed == [0, 1]
    simulate(other, tmp_path / "noise.h5", root=tmp_path)
    assert computed == [0, 1, 2]  # the third structure is new
    simulate(other.model_copy(update={"waves_folder": None}), tmp_path / "alone.h5")
    assert hash_dataset(tmp_path / "noise.h5") == hash_dataset(tmp_path / "alone.h5")


def test_images_from_waves_that_were_read_are_equal(tmp_path: Path, computed: list[int]) -> None:
    """A structure is bit for bit the same without a folder, with an empty one and with a filled one."""
    parts = [structure(spec(), 1, folder) for folder in (None, tmp_path, tmp_path)]
    assert computed == [1, 1]
    for part in parts[1:]:
        np.testing.assert_array_equal(part.images, parts[0].images)
        for name, values in parts[0].samples.items():
            np.testing.assert_array_equal(part.samples[name], values)


def test_a_folder_named_later_is_filled(tmp_path: Path, computed: list[int]) -> None:
    """The dataset stays; the same call again computes what a killed one has not, and nothing else."""
    without = spec().model_copy(update={"waves_folder": None})
    simulate(without, tmp_path / "a.h5")
    assert computed == [0, 1]
    before = (tmp_path / "a.h5").stat().st_mtime_ns
    simulate(spec(), tmp_path / "a.h5", root=tmp_path)
    assert computed == [0, 1, 0, 1]
    waves_file(spec(), 1, tmp_path / "waves").unlink()
    simulate(spec(), tmp_path / "a.h5", root=tmp_path)
    simulate(spec(), tmp_path / "a.h5", root=tmp_path)
    assert computed == [0, 1, 0, 1, 1]
    assert (tmp_path / "a.h5").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"specimen": {"support_nm": 0.5}},
        {"wave": {"frozen_phonons": 1}},
        {"imaging": {"pixel_size_A": 0.32}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_changes_the_waves_has_files_of_its_own(changes: dict) -> None:
    """Seed, specimen, wave and pixel size do; the name, defocus, dose, optics and detector do not."""
    folder = Path("waves")
    assert waves_file(spec(**changes), 0, folder) != waves_file(spec(), 0, folder)
    imaging = {"defocus_nm": 3, "dose_e_per_A2": 7, "focal_spread_A": 30, "detector": {"mtf_at_nyquist": 0.5}}
    assert waves_file(spec(name="x", imaging=imaging), 0, folder) == waves_file(spec(), 0, folder)


def test_the_folder_is_no_part_of_what_a_series_is() -> None:
    """Specifications with and without a folder are one series: one key, one provenance."""
    assert spec().model_dump() == spec(waves_folder=None).model_dump()


def test_the_disk_of_the_waves_is_foreseen(tmp_path: Path) -> None:
    """The folder is at most as large as the plan says, and at least nine tenths of it; without one it is none."""
    structure_waves(spec(), 0, tmp_path)
    structure_waves(spec(), 1, tmp_path)
    used = sum(file.stat().st_size for file in tmp_path.rglob("*.h5"))
    assert 0.9 * expected(spec())["bytes_of_waves"] < used <= expected(spec())["bytes_of_waves"]
    assert expected(spec(waves_folder=None))["bytes_of_waves"] == 0


def test_files_that_hold_no_waves_are_refused(tmp_path: Path) -> None:
    """Damaged files and foreign ones are refused by name, and never used."""
    path = waves_file(spec(), 0, tmp_path)
    structure_waves(spec(), 0, tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        SegueError, match=r"00000\.h5: .*truncated.* If you remove the file, its waves are computed again\."
    ):
        structure_waves(spec(), 0, tmp_path)
    simulate(spec(structures=1, waves_folder=None), tmp_path / "dataset.h5")
    path.write_bytes((tmp_path / "dataset.h5").read_bytes())
    with pytest.raises(
        SegueError,
        match=r"00000\.h5: does not hold the exit waves of a structure; name another folder.* remove the file",
    ):
        structure_waves(spec(), 0, tmp_path)
