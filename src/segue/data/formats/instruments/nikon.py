"""Nikon ND2: frames are decoded one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from segue.data.formats.instruments.planes import Index, Planes, checked_dtype, lazy_reader, loop_frames, plane_index
from segue.data.formats.stack import Stack
from segue.errors import SegueError
from segue.units import pixel_size_nm, square_pixel_nm

FRAME_AXES = "CYXS"  # of a frame, in this order; those before are loops of the acquisition


def read_nd2(path: Path, labels: bool) -> Stack:
    """Returns the image of an ND2; raises SegueError for colors, missing frames, and labels compressed with loss."""
    import nd2

    with nd2.ND2File(path) as file:
        sizes = dict(file.sizes)
        if sizes.get("S", 1) > 1:
            raise SegueError(
                f"{path}: is a color image; ND2 files do not say whether red or blue comes first, and programs differ: "
                "export it as TIFF."
            )
        loops = {letter: length for letter, length in sizes.items() if letter not in FRAME_AXES}
        frame = {letter: sizes[letter] for letter in FRAME_AXES if letter in sizes}
        shape = (*loops.values(), *frame.values())
        dtype = checked_dtype(path, file.dtype)
        expected = int(np.prod(list(loops.values()), dtype=int))
        offsets = getattr(getattr(file, "_rdr", None), "_frame_offsets", None)  # nd2 reads frames without one as 0
        counted = min(file.attributes.sequenceCount, expected if offsets is None else len(offsets))
        if counted < expected:
            raise SegueError(
                f"{path}: {expected - counted} of {expected} frames are missing; an acquisition that was stopped must "
                "be cut to whole images."
            )
        if labels and file.attributes.compressionType == "lossy":
            raise SegueError(
                f"{path}: is a label image compressed with loss, which changes its numbers; save it as TIFF."
            )
        channels, size_nm, notes = _metadata(file)

    def read(index: Index) -> np.ndarray:
        with nd2.ND2File(path) as file:  # frames are views of the file, gone when it is closed: stacked before
            numbers = loop_frames(index, tuple(loops.values()))
            frames = [file.read_frame(int(number)).reshape(*frame.values()) for number in numbers.flat]
            pixels = np.stack(frames).reshape(*numbers.shape, *frame.values())
        return pixels[plane_index(index, len(loops))]

    axes = "".join(letter if len(letter) == 1 else "O" for letter in (*loops, *frame))
    return Stack(Planes(shape, dtype, read), axes, size_nm, channels, notes)


def _metadata(file: object) -> tuple[tuple[str, ...] | None, float | None, tuple[str, ...]]:
    """Returns channel names, pixel size in nm and notes; an axis that is not calibrated has the size 1 or none."""
    try:
        metadata = file.metadata  # pyright: ignore[reportAttributeAccessIssue]
    except Exception:  # nd2 raises all kinds for entries that microscopes leave out
        return None, None, ("its metadata cannot be read: pixel size and channel names are not known",)
    channels = getattr(metadata, "channels", None) or []
    names = tuple(str(one.channel.name) for one in channels if one.channel.name)
    if not channels:
        return None, None, ()
    volume = channels[0].volume
    sizes = [
        pixel_size_nm(size, "µm") if is_known and kind == "distance" else None
        for size, is_known, kind in zip(
            volume.axesCalibration[:2], volume.axesCalibrated[:2], volume.axesInterpretation[:2], strict=True
        )
    ]
    size_nm, notes = square_pixel_nm(*sizes)
    return (names if len(names) == len(channels) else None), size_nm, notes


ND2 = lazy_reader("ND2", read_nd2, "nd2")
