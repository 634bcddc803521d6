"""Files that are written whole or not at all: a kill or a full disk leaves no half-written file behind."""

from __future__ import annotations

import contextlib
import errno
import glob
import gzip
import hashlib
import json
import os
import re
import stat
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING, Any

from segue.errors import SegueError

if TYPE_CHECKING:
    import pandas as pd


LFS_POINTER = b"version https://git-lfs.github.com/spec/"
MAX_NAME_BYTES = 120  # of the name of a file that the user chose; systems allow 255 with all that is added


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
    """Writes JSON, indented by one space, or compact and compressed where the name ends in ".gz"; the file appears only
    when it is whole."""
    is_compressed = path.suffix == ".gz"
    layout: dict[str, Any] = {"separators": (",", ":")} if is_compressed else {"indent": 1}
    text = json.dumps(content, sort_keys=sort_keys, ensure_ascii=ensure_ascii, **layout).encode()
    with replacing(path) as partial:
        partial.write_bytes(gzip.compress(text, mtime=0) if is_compressed else text)


def read_json(path: Path, remedy: str = "remove it, and make it again") -> Any:
    """Returns the content of a JSON file, or None if there is no such file; raises SegueError if it is anything else.

    remedy: what the user can do about a file that is damaged.
    """
    try:
        content = json.loads(read_bytes(path, "a JSON file"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, nested too deeply
        raise SegueError(f"{path}: is damaged, not JSON as segue writes it ({error}); {remedy}.") from None
    if content is None:
        raise SegueError(f"{path}: is damaged, not JSON as segue writes it (it holds only null); {remedy}.")
    return content


def placeholder(path: Path) -> str:
    """Returns what stands in a file's place, and the remedy, if it is empty or a pointer of Git LFS, else ""."""
    try:
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
    except OSError:
        return ""
    if not start:
        return "has 0 bytes; copy it again from its source, or leave it out"
    return "is a pointer of Git LFS, not the file itself; get it with: git lfs pull" if start == LFS_POINTER else ""


def read_bytes(path: Path, what: str) -> bytes:
    """Returns the content of a regular file; raises FileNotFoundError if there is none, SegueError if it cannot be read
    or is no regular file: a device, a pipe or a folder could be read without end, or not at all."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise SegueError(f"{path}: is not a regular file; give {what}.")
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise SegueError(f"{path}: cannot be read ({_reason(error)}); give {what}.") from None


def as_path(path: Path | str) -> Path:
    """Returns the path that a user gave; raises SegueError if no file can have it: too long a name, NUL, half of a
    surrogate pair."""
    text = os.fspath(path)
    try:
        os.lstat(text)
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) or error.errno == errno.ENAMETOOLONG:
            start = f"{text[:60]!r}{' …' if len(text) > 60 else ''}"
            raise SegueError(f"{start}: is no path that a file can have ({_reason(error)}); give another.") from None
    return Path(path)


def is_file(path: Path) -> bool:
    """Returns whether there is a regular file; False also for a path that no file can have: too long, or with NUL."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def require_regular(path: Path, what: str) -> None:
    """Raises SegueError unless there is a regular file at `path`; `what`: what to give instead, such as "a table"."""
    if is_file(path):
        return
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise SegueError(f"{path}: there is no such file; give the path of {what}.") from None
    except (OSError, ValueError) as error:
        raise SegueError(f"{path}: cannot be opened ({_reason(error)}); give the path of {what}.") from None
    kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
    raise SegueError(f"{path}: is {kind}; give the path of {what}.")


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Writes a table as CSV or Parquet, by the file's extension; the file appears only when it is whole."""
    require_table_file(path)
    with replacing(path) as partial:
        if path.suffix == ".csv":
            table.to_csv(partial, index=False)
        else:
            table.to_parquet(partial, index=False)


def require_table_file(path: Path) -> None:
    """Raises SegueError unless a table can be written to a file of this extension: before the work of making one."""
    if path.suffix not in (".csv", ".parquet"):
        raise SegueError(f"{path}: a table is written as .csv or .parquet; give one of these extensions.")


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
    spaces at the end, the names of its devices), what is too long is cut, and a checksum keeps the names of different
    texts apart.
    """
    name = re.sub(r'[<>:"/\\|?*\x00-\x1f]', "_", text).rstrip(". ") or "_"
    if re.fullmatch(
        r"con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]", name.partition(".")[0].strip(), re.IGNORECASE
    ):
        name = f"_{name}"
    content = text.encode("utf-8", "surrogatepass")
    if name == text and len(content) <= MAX_NAME_BYTES:
        return name
    start = name.encode("utf-8", "replace")[: MAX_NAME_BYTES - 9].decode("utf-8", "ignore")
    return f"{start}-{zlib.crc32(content):08x}"


def file_names(texts: Iterable[str]) -> dict[str, str]:
    """Returns the name of a file for each text, "_" in place of "/": no two are equal on any operating system.

    Names that are equal, or that differ in the case or composition (NFC, NFD) of letters only, end in a hash.
    """
    names = {text: file_name(text.replace("/", "_")) for text in texts}
    counts = Counter(map(_folded, names.values()))
    return {text: name if counts[_folded(name)] == 1 else f"{name}-{_digest(text)}" for text, name in names.items()}


def _folded(name: str) -> str:
    """Returns what file systems compare that tell neither case nor composition of letters apart."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def is_inside(path: str) -> bool:
    """Returns whether a path that a file states leads to a part of its folder, on every operating system.

    >>> is_inside("labels/a.tif"), is_inside("../a.tif"), is_inside("C:/a.tif"), is_inside("")
    (True, False, False, False)
    """
    windows = PureWindowsPath(path)
    return bool(windows.parts) and not windows.anchor and ".." not in windows.parts


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
    elif code == errno.ENAMETOOLONG:
        remedy = f"give a shorter name, of at most {MAX_NAME_BYTES} bytes, since endings are added to it"
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
