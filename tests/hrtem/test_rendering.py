"""Images rendered while a network trains: equal to the stored ones, or fresh at every visit, whatever the batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from segue import api
from segue.data.dataset import Dataset
from segue.data.sources import DatasetSubset, ResidentSource
from segue.data.spec import RenderSpec
from segue.errors import SegueError, SpecError
from segue.hrtem.rendering import Renderer
from segue.hrtem.series import SeriesSpec, simulate, waves_record
from segue.spec import validate

SERIES = {
    "name": "tiny",
    "structures": 6,
    "waves_folder": "waves",
    "specimen": {"particles": 1, "diameter_nm": 1.2, "support_nm": 0.4},
    "wave": {"field_nm": 3.2, "sampling_A": 0.25, "slice_thickness_A": 4.0, "frozen_phonons": 2},
    "imaging": {"tile_px": 64, "pixel_size_A": 0.4, "defocus_nm": [-10, 10], "dose_e_per_A2": [100, 400]},
    "labels": {"phase_threshold_rad": 0.098},
}
STREAM = ("shared", 0, 3)


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a dataset of 24 images whose exit waves are kept."""
    folder = tmp_path_factory.mktemp("series")
    simulate(validate(SeriesSpec, SERIES, context="tiny"), folder / "tiny.h5", root=folder)
    return folder / "tiny.h5"


def renderer(dataset: Dataset, *, normalization: Any = "background", memory_limit: int | None = None, **settings: Any):
    parts = [DatasetSubset(dataset, np.arange(dataset.count), dataset.layers["particles"])]
    return Renderer.from_parts(
        parts, RenderSpec(**settings), normalization=normalization, seed=0, device="cpu", memory_limit=memory_limit
    )


@pytest.mark.parametrize("normalization", ["background", "image", "tile", "none"])
def test_stored_noise_gives_the_stored_images(series: Path, normalization: Any) -> None:
    """With the dataset's own noise, rendered images are those that the source reads, in any order and with repeats."""
    order = np.array([5, 0, 17, 5, 23])
    with Dataset(series) as dataset:
        source = ResidentSource.from_dataset(
            dataset, np.arange(dataset.count), layer="particles", normalization=normalization
        )
        images = renderer(dataset, normalization=normalization, noise="stored").render(order, order, STREAM)
    expected, _ = source.read(torch.from_numpy(order), "cpu")
    assert images.stride() == expected.stride()
    torch.testing.assert_close(images, expected, rtol=1e-6, atol=1e-6)


def test_fresh_images_depend_on_the_visit_alone(series: Path) -> None:
    """A visit gives the same image in any batch; another visit, epoch or seed of the sample gives another one."""
    with Dataset(series) as dataset:
        fresh = renderer(dataset)
        images = fresh.render(np.array([3, 3, 4]), np.array([24, 25, 32]), STREAM)
        alone = renderer(dataset).render(np.array([3]), np.array([25]), STREAM)
        later = fresh.render(np.array([3]), np.array([25]), ("shared", 0, 4))
    torch.testing.assert_close(images[1:2], alone)
    assert (images[0] - images[1]).std() > 0.1 * images[0].std()
    assert (later - alone).std() > 0.1 * alone.std()


def test_fresh_images_show_the_structure_at_its_dose(series: Path) -> None:
    """Averaged over visits, noise and drawn defoci leave the dose and the structure of the stored image."""
    with Dataset(series) as dataset:
        rendered = renderer(dataset, normalization="none")
        images = rendered.render(np.full(60, 1), np.arange(60), STREAM)[:, 0]
        stored = dataset.read(np.array([1]), layer=None)[0][0, 0].astype(float)
    assert dataset.count == 24
    assert float(images.mean()) == pytest.approx(400 * 0.16, rel=0.01)
    assert torch.equal(images, images.round())
    mean = images.mean(0).numpy()
    assert np.corrcoef(mean.ravel(), stored.ravel())[0, 1] > 0.3 > np.corrcoef(mean.T.ravel(), stored.ravel())[0, 1]
    noise = float(images.var(0).mean() / images.mean())
    assert 0.98 < noise < 1.3  # Poisson, and the spread of defocus


def test_conditions_are_drawn_from_their_ranges(series: Path) -> None:
    """With ranges, doses and defoci are uniform over them, and no longer those of the sample."""
    with Dataset(series) as dataset:
        rendered = renderer(dataset, normalization="none", defocus_nm=(-20, 20), dose_e_per_A2=(100, 300))
        drawn = np.array([rendered._conditions(rendered.samples[0], (*STREAM, visit)) for visit in range(400)])
        images = rendered.render(np.zeros(8, int), np.arange(8), STREAM)
    assert drawn[:, 1].min() > 100
    assert drawn[:, 1].max() < 300
    assert drawn[:, 1].mean() == pytest.approx(200, abs=10)
    assert drawn[:, 0].std() == pytest.approx(np.hypot(40 / np.sqrt(12), 1.5), rel=0.1)
    np.testing.assert_allclose(images.mean((1, 2, 3)), 0.16 * drawn[:8, 1], rtol=0.03)


def test_little_memory_gives_the_same_images(series: Path) -> None:
    """Waves that do not stay in memory are read again."""
    order = np.array([0, 8, 0, 20])
    with Dataset(series) as dataset:
        small = renderer(dataset, memory_limit=1)
        torch.testing.assert_close(small.render(order, order, STREAM), renderer(dataset).render(order, order, STREAM))
    assert len(small._spectra) == 1


def stage(folder: Path, series: Path, render: str = "", more: str = "") -> Path:
    path = folder / f"{len(list(folder.glob('*.toml')))}.toml"
    path.write_text(
        f"epochs = 1\nbatch = 4\naugment = 'dihedral'\nprecision = 'fp32'\n{render}\n{more}\n"
        "split = { validation = 0.2, test = 0.2 }\nnetwork = { name = 'resunet', width = 8 }\n"
        f"target = {{ name = 'classes' }}\n[[data]]\ndataset = '{series.as_posix()}'\n"
    )
    return path


def _history(run: Path) -> list[float]:
    import pandas as pd

    return pd.read_parquet(run / "history.parquet")["train_loss"].tolist()


def test_training_with_stored_noise_is_training_on_the_stored_images(series: Path, tmp_path: Path) -> None:
    """The losses agree to rounding with and without rendering; with fresh noise they do not."""
    runs = {
        name: _history(api.train(stage(tmp_path, series, render), tmp_path / name))
        for name, render in (
            ("plain", ""),
            ("stored", "render = { noise = 'stored' }"),
            ("fresh", "render = {}"),
        )
    }
    np.testing.assert_allclose(runs["stored"], runs["plain"], rtol=1e-5)
    assert np.abs(np.subtract(runs["fresh"], runs["plain"])).max() > 1e-3


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"noise": "stored", "defocus_nm": [-5, 5]}, 'defocus_nm is drawn anew, but noise = "stored" repeats'),
        ({"dose_e_per_A2": [300, 100]}, r"dose_e_per_A2: found \[300, 100\]; a range is \[minimum, maximum\]"),
        ({"dose_e_per_A2": 0}, r"found 0; give a number above 0"),
        ({"defocus_nm": "focus"}, r"defocus_nm: found 'focus'; give one number or a range \[minimum, maximum\]"),
        ({"defocus_nm": [1, 2, 3]}, r"defocus_nm: found \[1, 2, 3\]; give one number or a range"),
        ({"dose_e_per_A2": [0, 100]}, r"dose_e_per_A2\[0\]: found 0; give a number above 0"),
    ],
)
def test_mistaken_settings_are_refused(table: dict, words: str) -> None:
    """What contradicts itself is refused, each in a sentence."""
    with pytest.raises(SpecError, match=words):
        validate(RenderSpec, table, context="x")


@pytest.mark.parametrize("defocus_nm", [-10, [-10, -10]])
def test_one_number_is_a_range_of_one_value(series: Path, defocus_nm: float | list[float]) -> None:
    """Every visit has the one defocus, with the spread of its series, and the one dose, whatever the nominal ones."""
    settings = validate(RenderSpec, {"defocus_nm": defocus_nm, "dose_e_per_A2": 200}, context="x")
    assert settings.defocus_nm == (-10.0, -10.0)
    assert settings.dose_e_per_A2 == (200.0, 200.0)
    with Dataset(series) as dataset:
        rendered = renderer(dataset, normalization="none", defocus_nm=defocus_nm, dose_e_per_A2=200)
        visits = np.array([rendered._conditions(rendered.samples[1], (*STREAM, visit)) for visit in range(200)])
        images = rendered.render(np.ones(8, int), np.arange(8), STREAM)
    assert set(visits[:, 1]) == {200.0}
    assert visits[:, 0].mean() == pytest.approx(-10, abs=0.4)
    assert visits[:, 0].std() == pytest.approx(1.5, rel=0.15)
    assert float(images.mean()) == pytest.approx(0.16 * 200, rel=0.02)


def test_datasets_without_waves_are_refused(series: Path, tmp_path: Path) -> None:
    """A dataset without waves, with lost ones, or of another kind is refused by name, with the remedy."""
    copy = tmp_path / "copy.h5"
    copy.write_bytes(series.read_bytes())
    with Dataset(copy) as dataset:
        with pytest.raises(
            SegueError, match=r"copy.h5: render needs the exit waves, .*copy.h5.waves.json.*waves_folder"
        ):
            renderer(dataset)
        for damaged in ("[]", '{"waves_folder": 5}', "{}", "null"):
            waves_record(copy).write_text(damaged)
            with pytest.raises(SegueError, match=r"copy.h5.waves.json: is damaged.*name a waves_folder in its series"):
                renderer(dataset)
        waves_record(copy).write_text(json.dumps({"waves_folder": str(tmp_path / "lost")}))
        with pytest.raises(SegueError, match=r"the exit waves of 6 structures that are not there"):
            renderer(dataset)


@pytest.mark.parametrize(("dose", "is_refused"), [(49_000.0, False), (50_001.0, True), (900_000.0, True)])
def test_doses_beyond_16_bits_are_refused(series: Path, dose: float, is_refused: bool) -> None:
    """Of 0.4 Å pixels, 8,000 electrons are 50,000 per Å²."""
    with Dataset(series) as dataset:
        if is_refused:
            with pytest.raises(
                SegueError,
                match=r"dose_e_per_A2: found up to .*, which is .* electrons per pixel of 0.4 Å; at most 8000 .*lower",
            ):
                renderer(dataset, dose_e_per_A2=(100, dose))
        else:
            image = renderer(dataset, normalization="none", dose_e_per_A2=(dose, dose)).render(
                np.array([0]), np.array([0]), STREAM
            )
            assert abs(float(image.mean()) / (dose * 0.16) - 1) < 0.02
