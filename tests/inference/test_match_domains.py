"""A dataset matched to another: its images change, its samples and labels do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from segue.data.dataset import Dataset
from segue.data.normalization import image_statistics
from segue.data.spec import Layer
from segue.data.summary import describe
from segue.data.writer import GroupTiles, merge_parts, write_part
from segue.errors import SegueError
from segue.inference.domain_shift import histogram_distance, log_spectral_distance_dB, read_domain
from segue.inference.match_domains import match_dataset


def write_dataset(path: Path, images: np.ndarray, *, pixel_size_nm: float | None = None) -> Path:
    """Writes images (n, C, 32, 32), each a group of its own with two labels, half of them at a defocus of -10 nm."""
    count = len(images)
    parts = []
    for index in range(count):
        image = images[[index]]
        tiles = GroupTiles(
            images=image,
            labels={"particles": (image[:, 0] > np.median(image)).astype(np.int32)},
            valid=np.array([[0, 0, 32, 32]], np.int32),
            intensity=np.stack([image_statistics(image[0])]),
            samples={
                "group": np.array([f"g{index}"], object),
                "source": np.array([f"s{index}"], object),
                "y_px": np.zeros(1, np.int64),
                "x_px": np.zeros(1, np.int64),
                "defocus_nm": np.array([-10.0 if index % 2 else 0.0]),
            },
        )
        parts.append(path.with_name(f"{path.stem}-{index}.h5"))
        write_part(parts[-1], tiles)
    merge_parts(
        parts, path, layers=[Layer("particles", "classes", ("background", "particle"))],
        channels=[f"c{channel}" for channel in range(images.shape[1])],
        attributes={} if pixel_size_nm is None else {"pixel_size_nm": pixel_size_nm}, splits={},
    )  # fmt: skip
    return path


@pytest.fixture
def datasets(tmp_path: Path) -> tuple[Path, Path]:
    random = np.random.default_rng(0)
    counts = random.poisson(20, (8, 1, 32, 32)).astype(np.uint16)
    smooth = random.normal(size=(8, 1, 32, 32))
    smooth = (smooth + np.roll(smooth, 1, 2) + np.roll(smooth, 1, 3)).astype(np.float32)
    return (
        write_dataset(tmp_path / "simulated.h5", counts, pixel_size_nm=0.04),
        write_dataset(tmp_path / "real.h5", smooth, pixel_size_nm=0.04),
    )


def test_the_dataset_looks_like_the_reference(datasets: tuple[Path, Path], tmp_path: Path) -> None:
    """What is read back is as near to the reference as the result says, and nearer than before; labels are the same."""
    source, reference = datasets
    out = tmp_path / "matched.h5"
    matched = match_dataset(source, reference, out)
    with Dataset(out) as new, Dataset(source) as old:
        for distance in (log_spectral_distance_dB, histogram_distance):
            after = distance(read_domain(new), matched.reference)
            assert after == pytest.approx(distance(matched.after, matched.reference), abs=1e-3)
            assert after < 0.5 * distance(matched.before, matched.reference)
        images, labels = new.read(np.arange(8), layer="particles")
        labels_before = old.read(np.arange(8), layer="particles")[1]
        assert images.dtype == np.float32
        assert labels is not None
        assert labels_before is not None
        assert np.array_equal(labels, labels_before)
        for name, values in old.samples().items():
            assert np.array_equal(new.samples()[name], values), name
        assert new.attributes["pixel_size_nm"] == 0.04
    changed = out.stat().st_mtime_ns
    match_dataset(source, reference, out)
    assert out.stat().st_mtime_ns == changed


def test_conditions_select_samples(datasets: tuple[Path, Path], tmp_path: Path) -> None:
    """Only those of the condition are written, and only they decide about the filter."""
    match_dataset(*datasets, tmp_path / "matched.h5", conditions={"defocus_nm": -10})
    with Dataset(tmp_path / "matched.h5") as new:
        assert new.samples()["group"].tolist() == ["g1", "g3", "g5", "g7"]


def test_what_cannot_be_matched_is_refused(datasets: tuple[Path, Path], tmp_path: Path) -> None:
    """Nothing to match, several channels, and another dataset in the way."""
    source, reference = datasets
    with pytest.raises(SegueError, match="neither spectrum nor histogram"):
        match_dataset(source, reference, tmp_path / "o.h5", spectrum=False, histogram=False)
    two = write_dataset(tmp_path / "two.h5", np.random.default_rng(0).normal(size=(2, 2, 32, 32)).astype(np.float32))
    with pytest.raises(SegueError, match=r"two\.h5: has 2 channels"):
        match_dataset(source, two, tmp_path / "o.h5")
    with pytest.raises(SegueError, match="another specification or other files"):
        match_dataset(source, reference, reference)
    assert not (tmp_path / "o.h5").exists()


@pytest.mark.parametrize(
    ("sizes_nm", "unknown"), [((0.04, 0.04), ""), ((0.04, None), "reference"), ((None, None), "dataset and reference")]
)
def test_the_dataset_notes_its_distances(
    tmp_path: Path, sizes_nm: tuple[float | None, float | None], unknown: str
) -> None:
    """Both distances, before and after, are in `segue inspect`; and that pixels were compared, where sizes lack."""
    images = np.random.default_rng(0).gamma(2.0, 1.0, (2, 8, 1, 32, 32)).astype(np.float32)
    images[1] += np.roll(images[1], 1, -1)
    paths = [
        write_dataset(tmp_path / f"{name}.h5", values, pixel_size_nm=size)
        for name, values, size in zip("ab", images, sizes_nm, strict=True)
    ]
    matched = match_dataset(*paths, tmp_path / "matched.h5")
    with Dataset(tmp_path / "matched.h5") as dataset:
        notes = str(dataset.attributes["notes"]).splitlines()
    before, after = (log_spectral_distance_dB(one, matched.reference) for one in (matched.before, matched.after))
    assert notes[0] == f"power spectra: {before:.2g} dB from the reference before, {after:.2g} after"
    assert notes[1].startswith("histograms: ")
    assert len(notes) == (3 if unknown else 2)
    assert not unknown or notes[2].startswith(f"the pixel size of the {unknown} is not known")
    assert f" {notes[0]}\n" in describe(tmp_path / "matched.h5")
