"""Writes files beside and renames them into place, so that a kill or a full disk leaves nothing half-written."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path

from segue.errors import SegueError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to, and renames it to `path` when the block ends without an error.

    Makes the folder where it is missing. On an error the partial file is removed; what the disk refused
    (full, too large, not permitted, no folder) is raised as a SegueError that names `path` and the remedy.
    """
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        make_folder(path.parent)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise SegueError(refusal(path, error)) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def make_folder(folder: Path) -> Path:
    """Returns `folder`, made with its parents where missing; raises SegueError when that is refused."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SegueError(refusal(folder, error)) from error
    return folder


def refusal(path: Path, error: OSError, *, wanted: str = "the path of a file in a folder") -> str:
    """Returns the sentence for a write that the system refused; `wanted`: what to give where `path` cannot be."""
    code = _code(error)
    reason = os.strerror(code) if code else str(error)
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        remedy = "free disk space or raise the limit, or choose an output elsewhere; then run the same command again"
    elif code in (errno.EACCES, errno.EPERM, errno.EROFS):
        remedy = "choose an output in a folder that you may write to"
    elif code in (errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.EEXIST):
        remedy = f"give {wanted}"
    else:
        remedy = "check the disk, or choose an output elsewhere; then run the same command again"
    return f"{path}: cannot be written ({reason}); {remedy}."


def _code(error: OSError) -> int | None:
    """Returns the errno, also where HDF5 gives it only in its text, and NumPy tells of a cut off write alone."""
    if error.errno:
        return error.errno
    if re.fullmatch(r"\d+ requested and \d+ written", str(error)):
        return errno.ENOSPC
    found = re.search(r"errno = (\d+)", str(error))
    return int(found.group(1)) if found else None


def remove_abandoned(path: Path) -> None:
    """Removes the partial files beside `path` of processes that no longer run: they were killed while writing."""
    for partial in path.parent.glob(f"{glob.escape(path.name)}.partial-*"):
        owner = partial.name.rpartition("-")[2]
        if owner.isdigit() and not _runs(int(owner)):
            with contextlib.suppress(OSError):
                partial.unlink()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
