"""The film, the scalars for TensorBoard and the lines of a training, against what was put in."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from segue.errors import SegueError
from segue.formatting import format_duration
from segue.training import logging
from segue.training.run_folder import RunFolder

ROWS = [
    {"epoch": epoch, "lr": 0.1 / epoch, "train_loss": 1.0 / epoch, "validation_dice_cell": 0.1 * epoch}
    for epoch in (1, 2, 3)
]


def still(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    images = generator.normal(size=(3, 2, 8, 12)).astype(np.float32)
    return images, generator.integers(-1, 2, size=(3, 8, 12), dtype=np.int32)


def frame(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(3, 2, 8, 12), dtype=np.uint8)


@pytest.mark.parametrize(("count", "total"), [(1, 1), (3, 9), (4, 10), (7, 7), (9, 4), (2, 0), (0, 5), (16, 1000)])
def test_chosen_images_are_evenly_spaced(count: int, total: int) -> None:
    """As many different images as asked (or all), gaps differing by at most one, as far from both ends."""
    chosen = logging.film_samples(count, total)
    assert len(set(chosen.tolist())) == len(chosen) == min(count, total)
    assert ((chosen >= 0) & (chosen < total)).all()
    if len(chosen) > 1:
        gaps = np.diff(chosen)
        assert gaps.min() >= 1
        assert np.ptp(gaps) <= 1
        assert abs(chosen[0] - (total - 1 - chosen[-1])) <= 1


def test_film_comes_back(tmp_path: Path) -> None:
    """Images, labels and frames are read as written, in the order of epochs also beyond nine."""
    folder = RunFolder(tmp_path).film
    logging.save_film_images(folder, *still())
    for epoch in (10, 2, 1):
        logging.save_film_frame(folder, epoch, frame(epoch))
    images, labels, epochs, frames = logging.load_film(tmp_path)
    np.testing.assert_array_equal(images, still()[0])
    np.testing.assert_array_equal(labels, still()[1])
    assert (images.dtype, labels.dtype, frames.dtype, epochs) == (np.float32, np.int32, np.uint8, [1, 2, 10])
    np.testing.assert_array_equal(frames, np.stack([frame(1), frame(2), frame(10)]))


def test_frame_written_twice_has_equal_bytes(tmp_path: Path) -> None:
    """A resumed training writes the frames of its epochs again, to the very bytes, and leaves nothing beside them."""
    for folder in (tmp_path / "a", tmp_path / "b", tmp_path / "b"):
        logging.save_film_images(folder, *still())
        logging.save_film_frame(folder, 1, frame(1))
    for name in ("still.npz", "epoch-1.npz"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["epoch-1.npz", "still.npz"]


def test_frames_of_other_images_are_removed(tmp_path: Path) -> None:
    """The same images keep the frames there are; other images begin a film anew."""
    logging.save_film_images(RunFolder(tmp_path).film, *still())
    logging.save_film_frame(RunFolder(tmp_path).film, 7, frame(7))
    logging.save_film_images(RunFolder(tmp_path).film, *still())
    assert logging.load_film(tmp_path)[2] == [7]
    logging.save_film_images(RunFolder(tmp_path).film, *still(seed=1))
    with pytest.raises(SegueError, match="has no film; train it with film"):
        logging.load_film(tmp_path)


def test_frame_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error while a frame is written leaves the one before, and no partial file."""
    logging.save_film_frame(tmp_path, 1, frame(1))

    def fail(*given: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(SegueError, match=r"epoch-1.npz: cannot be written .* free disk space"):
        logging.save_film_frame(tmp_path, 1, frame(2))
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-1.npz"]
    np.testing.assert_array_equal(np.load(tmp_path / "epoch-1.npz")["probabilities"], frame(1))


@pytest.mark.parametrize("damage", ["truncated", "other bytes", "pickle", "other shape"])
def test_damaged_film_names_the_file(tmp_path: Path, damage: str) -> None:
    """A damaged frame is told with its file; nothing in it is executed."""
    folder = RunFolder(tmp_path).film
    logging.save_film_images(folder, *still())
    logging.save_film_frame(folder, 1, frame(1))
    logging.save_film_frame(folder, 2, frame(2) if damage != "other shape" else frame(2)[:, :, :4])
    file = folder / "epoch-2.npz"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:300])
    elif damage == "other bytes":
        file.write_bytes(b"no archive")
    elif damage == "pickle":
        np.savez(file, probabilities=np.array([{}], dtype=object))
    with pytest.raises(SegueError, match=r"epoch-2\.npz"):
        logging.load_film(tmp_path)


@pytest.mark.parametrize("wrong", [frame(0).astype(np.float32), frame(0)[0]])
def test_frames_are_bytes_of_four_dimensions(tmp_path: Path, wrong: np.ndarray) -> None:
    """What is no uint8 (n, K, H, W) is refused by the function that would write it."""
    with pytest.raises(ValueError, match="must be uint8"):
        logging.save_film_frame(tmp_path, 1, wrong)
    with pytest.raises(ValueError, match="must be"):
        logging.save_film_images(tmp_path, still()[0], still()[1][:2])


class FakeWriter:
    """Keeps the scalars of each folder as TensorBoard shows them: a new writer purges from its step on."""

    shown: dict[str, dict[tuple[str, int], list[float]]] = {}

    def __init__(self, log_dir: str, purge_step: int) -> None:
        selection = self.shown.get(log_dir, {})
        self.here = self.shown[log_dir] = {key: values for key, values in selection.items() if key[1] < purge_step}
        self.closed = False

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        assert not self.closed
        self.here.setdefault((tag, step), []).append(value)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[tuple[str, int], list[float]]]:
    fake = ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = FakeWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    monkeypatch.setattr(FakeWriter, "shown", {})
    return FakeWriter.shown


def test_rows_become_scalars_once(shown: dict[str, dict[tuple[str, int], list[float]]], tmp_path: Path) -> None:
    """Every value of every epoch is there exactly once although a training was killed and resumed an epoch earlier."""
    with logging.tensorboard_writer(tmp_path, True) as write:
        for row in ROWS[:2]:
            write(row)
    with logging.tensorboard_writer(tmp_path, True, history=ROWS[:1]) as write:
        for row in ROWS[1:]:
            write(row)
    tags = {"lr": "lr", "train_loss": "loss/train", "validation_dice_cell": "dice_cell/validation"}
    expected = {(tag, row["epoch"]): [row[name]] for row in ROWS for name, tag in tags.items()}
    assert shown[str(tmp_path)] == expected


def test_nan_is_left_out(shown: dict[str, dict[tuple[str, int], list[float]]], tmp_path: Path) -> None:
    """A class that does not occur has no value, hence no point."""
    with logging.tensorboard_writer(tmp_path, True) as write:
        write({"epoch": 1, "lr": 0.5, "validation_dice_cell": math.nan})
    assert shown[str(tmp_path)] == {("lr", 1): [0.5]}


def test_not_enabled_writes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Off, rows go nowhere and TensorBoard is not even looked for."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with logging.tensorboard_writer(tmp_path / "board", False, history=ROWS) as write:
        write(ROWS[0])
    assert not (tmp_path / "board").exists()


def test_missing_tensorboard_tells_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Asked for and not installed: one sentence with the command that mends it."""
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with (
        pytest.raises(SegueError, match=r"^tensorboard = true: .* `pip install segue\[tensorboard\]`"),
        logging.tensorboard_writer(tmp_path, True),
    ):
        pytest.fail("the block must not run")


def test_line_of_an_epoch() -> None:
    """The line says what the history's row says, the rate and the time left; parts that do not exist are absent."""
    row = {"epoch": 3, "lr": 1e-3, "train_loss": 0.9, "train_loss_adjusted": 0.25}
    scored = {**row, "validation_loss_adjusted": 0.5, "validation_dice_mean": 0.875}
    assert logging.epoch_line(scored, 10, 123.4, 3725) == (
        "epoch 3/10  train loss 0.2500  validation loss 0.5000  Dice 0.875  lr 1.00e-03  123 images/s  1 h 02 min left"
    )
    assert logging.epoch_line(row, 3, 0.52, 0) == "epoch 3/3  train loss 0.2500  lr 1.00e-03  0.52 images/s"
    assert logging.epoch_line(row, 4, 0.0, math.inf).endswith("  0 images/s")
    assert [format_duration(seconds) for seconds in (45, 200, 7500)] == ["45 s", "3 min 20 s", "2 h 05 min"]
