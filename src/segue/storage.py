"""Files that are written whole or not at all: a kill or a full disk leaves no half-written file behind."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segue.errors import SegueError

if TYPE_CHECKING:
    import pandas as pd


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path next to `path` to write to, and renames it to `path` when the block ends without an error.

    The folder is created where it is missing. Close the file before the block ends: Windows renames no open file. On
    an error the partial file is removed; an error of the operating system (disk full, file too large, not permitted,
    no folder) becomes a SegueError that names `path` and the remedy.
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


def write_json(path: Path, content: Any, *, sort_keys: bool = False, ensure_ascii: bool = True) -> None:
    """Writes JSON, indented by one space; the file appears only when it is whole."""
    text = json.dumps(content, indent=1, sort_keys=sort_keys, ensure_ascii=ensure_ascii)
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """Returns the content of a JSON file, or None if there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Writes a table as CSV or Parquet, by the file's extension; the file appears only when it is whole."""
    if path.suffix not in (".csv", ".parquet"):
        raise SegueError(f"{path}: a table is written as .csv or .parquet; give one of these extensions.")
    with replacing(path) as partial:
        if path.suffix == ".csv":
            table.to_csv(partial, index=False)
        else:
            table.to_parquet(partial, index=False)


def make_folder(folder: Path) -> Path:
    """Returns `folder`, created with its parents where missing; raises SegueError if that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SegueError(refusal(folder, error)) from error
    return folder


def file_name(text: str) -> str:
    """Returns `text` as the name of a file, or the start of one, on every operating system.

    Unchanged where every system takes it. Otherwise what Windows refuses is replaced (reserved characters, dots and
    spaces at the end, the names of its devices), and a checksum keeps the names of different texts apart.
    """
    name = re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", text).rstrip(". ") or "_"
    if re.fullmatch(
        r"con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]", name.partition(".")[0].strip(), re.IGNORECASE
    ):
        name = f"_{name}"
    return name if name == text else f"{name}-{zlib.crc32(text.encode()):08x}"


def absolute(path: Path) -> Path:
    """Returns the absolute path without ".."; a link at its end is not followed, so that the file keeps its name."""
    return path.parent.resolve() / path.name


def refusal(path: Path, error: OSError, *, expected: str = "the path of a file in a folder") -> str:
    """Returns the message for a write that the system refused; `expected`: what to give instead of a wrong path."""
    code = _error_number(error)
    reason = os.strerror(code) if code else str(error)
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        remedy = "free disk space or raise the limit, or choose an output elsewhere; then run the same command again"
    elif code in (errno.EACCES, errno.EPERM, errno.EROFS):
        remedy = "choose an output in a folder that you may write to"
    elif code in (errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.EEXIST):
        remedy = f"give {expected}"
    else:
        remedy = "check the disk, or choose an output elsewhere; then run the same command again"
    return f"{path}: cannot be written ({reason}); {remedy}."


def _error_number(error: OSError) -> int | None:
    """Returns the errno, also where HDF5 gives it only in its text and NumPy reports just a short write."""
    if error.errno:
        return error.errno
    if re.fullmatch(r"\d+ requested and \d+ written", str(error)):
        return errno.ENOSPC
    match = re.search(r"errno = (\d+)", str(error))
    return int(match.group(1)) if match else None


def remove_abandoned(path: Path) -> None:
    """Removes the partial files beside `path` whose processes were killed while writing."""
    for partial in path.parent.glob(f"{glob.escape(path.name)}.partial-*"):
        process = partial.name.rpartition("-")[2]
        if process.isdigit() and not _is_running(int(process)):
            with contextlib.suppress(OSError):
                partial.unlink()


def _is_running(process: int) -> bool:
    if os.name == "nt":
        return False  # `os.kill` would end the process; and Windows deletes no file that a process still has open
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
