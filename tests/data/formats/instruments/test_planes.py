"""Registry: each format of instruments is named with its package, and the command that installs it."""

import sys
from pathlib import Path

import numpy as np
import pytest

from segue.data.formats.instruments.planes import plane_index
from segue.data.image_io import READERS, read_header
from segue.errors import SegueError

STARTS = {
    "nd2": b"\xda\xce\xbe\x0a",
    "dm3": b"\0\0\0\3",
    "dm4": b"\0\0\0\4",
    "ser": b"II\x97\x01",
    "czi": b"ZISRAWFILE",
}


@pytest.mark.parametrize(
    "suffix", [suffix for suffix, reader in READERS.items() if reader.package and suffix != ".oir"]
)
def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    package = READERS[suffix].package
    for module in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path / f"a{suffix}"
    path.write_bytes(STARTS.get(suffix[1:], b"p\0\0\0").ljust(2000, b"\0"))
    with pytest.raises(SegueError, match=rf"needs the package {package}, .*pip install 'segue\[formats\]'"):
        read_header(path)


def test_plane_index() -> None:
    """Indexing twice equals indexing once."""
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    for index in [(1, slice(None), slice(None), 0), (slice(None), 2, slice(None), slice(None)), (0, 0, 1, slice(None))]:
        first = array[index[:2]]
        np.testing.assert_array_equal(first[plane_index(index, 2)], array[index])
