"""Training logs: progress lines, TensorBoard scalars, and per-epoch predictions for the film.

The predictions are in a folder `film` of the run as `still.npz` (images and labels) and `epoch-<n>.npz` (probabilities
predicted for them), arrays that plain NumPy reads.
"""

from __future__ import annotations

import math
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from segue.errors import SegueError
from segue.formatting import format_duration
from segue.storage import replacing
from segue.training.run_folder import RunFolder

LOG_EVERY_S = 15.0  # between lines within an epoch
Row = Mapping[str, float]


def film_samples(count: int, total: int) -> np.ndarray:
    """Returns the indices (int64, rising) of `count` of `total` images, evenly spaced; of all when there are fewer.

    >>> film_samples(3, 9).tolist()
    [1, 4, 7]
    """
    count = min(count, total)
    return (2 * np.arange(count) + 1) * total // (2 * max(count, 1))


def save_film_images(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """Writes the images of a film (n, C, H, W) as given, and their labels (n, H, W), −1 ignored, into `folder`.

    Frames of other images there are removed, since they belong to another training.
    """
    if images.ndim != 4 or labels.shape != (len(images), *images.shape[2:]):
        raise ValueError(f"images {images.shape} and labels {labels.shape} must be (n, C, H, W) and (n, H, W)")
    file = folder / "still.npz"
    if file.exists():
        existing = _read(file, "images", "labels")
        if all(np.array_equal(old, new, equal_nan=True) for old, new in zip(existing, (images, labels), strict=True)):
            return
        for frame in _frames(folder).values():
            frame.unlink()
    _write(file, {"images": images, "labels": labels})


def save_film_frame(folder: Path, epoch: int, probabilities: np.ndarray) -> None:
    """Writes an epoch's probabilities (n, K, H, W), uint8 with 255 for certain; again writes the same bytes."""
    if probabilities.dtype != np.uint8 or probabilities.ndim != 4:
        raise ValueError(f"probabilities must be uint8 (n, K, H, W), not {probabilities.dtype} {probabilities.shape}")
    _write(folder / f"epoch-{epoch}.npz", {"probabilities": probabilities})


def load_film(run: Path) -> tuple[np.ndarray, np.ndarray, list[int], np.ndarray]:
    """Returns images (n, C, H, W), labels (n, H, W), the epochs, and their frames (epochs, n, K, H, W) uint8.

    Raises SegueError where the run has no film, or a file of it is damaged.
    """
    folder = RunFolder(run).film
    frames = _frames(folder)
    if not frames or not (folder / "still.npz").exists():
        raise SegueError(f"{run}: has no film; train it with film = the number of validation images to keep.")
    images, labels = _read(folder / "still.npz", "images", "labels")
    arrays = [_read(frame, "probabilities")[0] for frame in frames.values()]
    odd = [name for name, array in zip(frames.values(), arrays, strict=True) if array.shape != arrays[0].shape]
    if odd or arrays[0].shape[0] != len(images):
        raise SegueError(
            f"{odd[0] if odd else folder}: its frames are not all of the same images; train the run again."
        )
    return images, labels, list(frames), np.stack(arrays)


def _frames(folder: Path) -> dict[int, Path]:
    """Returns the files of the frames by epoch, in order."""
    files = {file.stem.removeprefix("epoch-"): file for file in folder.glob("epoch-*.npz")}
    return {int(epoch): files[epoch] for epoch in sorted(filter(str.isdigit, files), key=int)}


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _read(path: Path, *names: str) -> list[np.ndarray]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise SegueError(
            f"{path}: is not a complete part of a film ({error}); remove it, or train the run again."
        ) from error


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


def epoch_line(row: Row, epochs: int, images_per_s: float, seconds_left: float) -> str:
    """Returns the line of an epoch: losses (less the least possible), Dice, learning rate, speed, and the time left."""
    parts = [f"epoch {row['epoch']:.0f}/{epochs}", f"train loss {row['train_loss_adjusted']:.4f}"]
    if "validation_loss_adjusted" in row:
        parts.append(f"validation loss {row['validation_loss_adjusted']:.4f}")
    if "validation_dice_mean" in row:
        parts.append(f"Dice {row['validation_dice_mean']:.3f}")
    parts += [
        f"lr {row['lr']:.2e}",
        f"{images_per_s:.0f} images/s" if images_per_s >= 10 else f"{images_per_s:.2g} images/s",
    ]
    if row["epoch"] < epochs and math.isfinite(seconds_left):
        parts.append(f"{format_duration(seconds_left)} left")
    return "  ".join(parts)


class StepLog:
    """Logs the progress within a long epoch from time to time.

    bounds: the first sample and the one after the last of each of its batches; first: the first step to log.
    """

    def __init__(self, bounds: Sequence[tuple[int, int]], first: int) -> None:
        self._bounds, self._first = bounds, first
        self._started = self._logged = time.monotonic()

    def line(self, steps: int) -> str | None:
        """Returns the line after `steps` steps of the epoch, None if the last line is recent or the epoch ends."""
        now, bounds = time.monotonic(), self._bounds
        if now - self._logged < LOG_EVERY_S or steps >= len(bounds):
            return None
        self._logged = now
        rate = (bounds[steps - 1][1] - bounds[self._first][0]) / max(now - self._started, 1e-9)
        left = (bounds[-1][1] - bounds[steps - 1][1]) / rate
        return f"step {steps:,} of {len(bounds):,}  {rate:.0f} images/s, {format_duration(left)} left of this epoch"
