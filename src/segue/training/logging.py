"""What one sees of a training while it runs: lines with rate and time left, TensorBoard, a film of predictions.

The film lies in the run's folder as `film/still.npz` (the images and their labels) and `film/epoch-<n>.npz` (what was
predicted for them), arrays that plain NumPy reads.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from segue.errors import SegueError
from segue.storage import replacing

FILM = "film"  # folder in the run's folder
Row = Mapping[str, float]


def choose(count: int, total: int) -> np.ndarray:
    """Returns the indices (int64, rising) of `count` of `total` images, evenly spaced; of all when there are fewer.

    >>> choose(3, 9).tolist()
    [1, 4, 7]
    """
    count = min(count, total)
    return (2 * np.arange(count) + 1) * total // (2 * max(count, 1))


def save_still(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Writes what a film is of into `folder`: images (n, C, H, W) as given, and their labels (n, H, W), −1 ignored.

    Where other images are there already, their frames are removed, since they belong to another training.
    """
    if images.ndim != 4 or labels.shape != (len(images), *images.shape[2:]):
        raise ValueError(f"images {images.shape} and labels {labels.shape} must be (n, C, H, W) and (n, H, W)")
    file = folder / "still.npz"
    if file.exists():
        kept = _read(file, "images", "labels")
        if all(np.array_equal(old, new, equal_nan=True) for old, new in zip(kept, (images, labels), strict=True)):
            return
        for frame in _frames(folder).values():
            frame.unlink()
    _write(file, {"images": images, "labels": labels})


def save_frame(folder: Path, epoch: int, probabilities: np.ndarray) -> None:
    """Writes an epoch's probabilities (n, K, H, W), uint8 with 255 for certain; again writes the same bytes."""
    if probabilities.dtype != np.uint8 or probabilities.ndim != 4:
        raise ValueError(f"probabilities must be uint8 (n, K, H, W), not {probabilities.dtype} {probabilities.shape}")
    _write(folder / f"epoch-{epoch}.npz", {"probabilities": probabilities})


def load_film(run: Path) -> tuple[np.ndarray, np.ndarray, list[int], np.ndarray]:
    """Returns images (n, C, H, W), labels (n, H, W), the epochs, and their frames (epochs, n, K, H, W) uint8.

    Raises SegueError where the run has no film, or a file of it is damaged.
    """
    folder = run / FILM
    frames = _frames(folder)
    if not frames or not (folder / "still.npz").exists():
        raise SegueError(f"{run}: has no film; train it with film = the number of validation images to keep.")
    images, labels = _read(folder / "still.npz", "images", "labels")
    shown = [_read(frame, "probabilities")[0] for frame in frames.values()]
    odd = [name for name, frame in zip(frames.values(), shown, strict=True) if frame.shape != shown[0].shape]
    if odd or shown[0].shape[0] != len(images):
        raise SegueError(
            f"{odd[0] if odd else folder}: its frames are not all of the same images; train the run again."
        )
    return images, labels, list(frames), np.stack(shown)


def _frames(folder: Path) -> dict[int, Path]:
    """Returns the files of the frames by epoch, in order."""
    found = {file.stem.removeprefix("epoch-"): file for file in folder.glob("epoch-*.npz")}
    return {int(epoch): found[epoch] for epoch in sorted(filter(str.isdigit, found), key=int)}


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _read(path: Path, *names: str) -> list[np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise SegueError(f"{path}: is no whole part of a film ({error}); remove it, or train the run again.") from error


@contextmanager
def tensorboard_writer(folder: Path, enabled: bool, *, history: Sequence[Row] = ()) -> Iterator[Callable[[Row], None]]:
    """Gives a function that writes a row of the history as scalars of its epoch; it does nothing when not enabled.

    `history` are the rows before a resume. They are written again and all that an interrupted attempt had written is
    purged, so that TensorBoard shows every epoch once, those too that a kill kept from the disk. A metric's training
    and validation values stand side by side (`loss/train`, `loss/validation`); values that are NaN are left out.
    Raises SegueError where TensorBoard is not installed.
    """
    if not enabled:
        yield lambda row: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SegueError(
            f"tensorboard = true: TensorBoard is not installed ({error}); run `pip install segue[tensorboard]`, or "
            "set tensorboard = false."
        ) from error

    def write(row: Row) -> None:
        epoch = int(row["epoch"])
        for name, value in row.items():
            if name != "epoch" and math.isfinite(value):
                writer.add_scalar(_tag(name), value, epoch)
        writer.flush()

    try:
        writer = SummaryWriter(str(folder), purge_step=0)
    except OSError as error:
        raise SegueError(f"{folder}: TensorBoard's files cannot be written ({error}).") from error
    try:
        for row in history:
            write(row)
        yield write
    finally:
        writer.close()


def _tag(name: str) -> str:
    for part in ("train", "validation"):
        if name.startswith(f"{part}_"):
            return f"{name.removeprefix(f'{part}_')}/{part}"
    return name


def progress_line(row: Row, epochs: int, images_per_s: float, seconds_left: float) -> str:
    """Returns the line of an epoch: losses (less the least that they can be), Dice, rates, and the time left."""
    told = [f"epoch {row['epoch']:.0f}/{epochs}", f"train loss {row['train_loss_adjusted']:.4f}"]
    if "validation_loss_adjusted" in row:
        told.append(f"validation loss {row['validation_loss_adjusted']:.4f}")
    if "validation_dice_mean" in row:
        told.append(f"Dice {row['validation_dice_mean']:.3f}")
    told += [
        f"lr {row['lr']:.2e}",
        f"{images_per_s:.0f} images/s" if images_per_s >= 10 else f"{images_per_s:.2g} images/s",
    ]
    if row["epoch"] < epochs and math.isfinite(seconds_left):
        told.append(f"{_clock(seconds_left)} left")
    return "  ".join(told)


def _clock(seconds: float) -> str:
    """Returns "45 s", "3 min 20 s" or "2 h 05 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
