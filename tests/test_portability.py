"""What has to hold for Windows and macOS, as far as Linux can show it."""

from __future__ import annotations

import ast
import importlib
import sys
import unicodedata
import warnings
from pathlib import Path, PureWindowsPath

import pytest
from samples.modules import every_module, imported_anew

from segue.data.writer import micrograph_key, micrograph_name
from segue.storage import file_name, file_names
from segue.study.store import Store

SOURCE = Path(__file__).parents[1] / "src" / "segue"
POSIX_MODULES = ("fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty")
POSIX_ATTRIBUTES = {
    "os": (
        "WNOHANG", "chown", "fchown", "fork", "forkpty", "getegid", "geteuid", "getgid", "getloadavg", "getpgid",
        "getuid", "initgroups", "killpg", "mkfifo", "nice", "posix_fadvise", "posix_spawn", "pread", "pwrite",
        "sched_getaffinity", "sched_setaffinity", "setsid", "statvfs", "sync", "sysconf", "uname", "wait4",
    ),
    "signal": ("SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGSTOP", "SIGUSR1", "SIGUSR2",
               "pthread_sigmask", "setitimer"),
}  # fmt: skip
GUARDED = {("device.py", "sched_getaffinity"), ("parallel.py", "SIGKILL")}  # used where the system has them


def import_every_module() -> int:
    """Imports all modules of segue; returns their number."""
    names = every_module()
    for name in names:
        importlib.import_module(name)
    return len(names)


def test_every_module_is_imported_without_posix(monkeypatch: pytest.MonkeyPatch):
    """No module of segue needs at import what only POSIX systems have."""
    with warnings.catch_warnings():  # how the libraries that segue needs do without is their matter
        warnings.simplefilter("ignore")
        import_every_module()
    with imported_anew(), monkeypatch.context() as change:
        for name in POSIX_MODULES:
            change.setitem(sys.modules, name, None)
        for module, attributes in POSIX_ATTRIBUTES.items():
            for attribute in attributes:
                change.delattr(f"{module}.{attribute}", raising=False)
        assert import_every_module() > 100


def test_what_only_posix_has_is_used_nowhere_unguarded():
    """Outside a few places that ask first, no function uses a module or attribute that Windows lacks."""
    uses = set()
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.attr in POSIX_ATTRIBUTES.get(node.value.id, ()):
                    uses.add((file.name, node.attr))
            elif isinstance(node, ast.Import):
                uses |= {(file.name, alias.name) for alias in node.names if alias.name in POSIX_MODULES}
            elif isinstance(node, ast.ImportFrom) and node.module in POSIX_MODULES:
                uses.add((file.name, node.module))
    assert uses == GUARDED


NAMES = ['a<b>:"c', "a/b", "a\\b", "a|b?", "wells*", "dots...", "space ", "CON", "nul.txt", "com1", "LPT9.tar", "\x07"]
NAMES += ["...", ""]


@pytest.mark.parametrize("text", NAMES)
def test_names_of_files(text: str):
    """A name that a user or another program chose becomes one that Windows takes, as one part of a path."""
    name = file_name(text)
    assert name and not set(name) & set('<>:"/\\|?*\x07') and not name.endswith((".", " "))
    assert PureWindowsPath("C:/runs", name).name == name and file_name(name) == name
    if sys.version_info < (3, 13):
        assert not PureWindowsPath(name).is_reserved()


def test_names_of_files_are_kept_and_distinct():
    """What every system takes stays as it is, and different texts get different names."""
    for text in ("A01", "P1_B02", "Plate 3, 24 h", "größe", "table.v2", "effects-transfer", "console"):
        assert file_name(text) == text
    assert len({file_name(text) for text in [*NAMES, "a_b_", "a_b", "CON_", "_CON"]}) == len(NAMES) + 4


def test_names_of_files_are_distinct_where_case_does_not_count():
    """Of several texts no two get one name, not even on a system without case or composed letters; nor do long ones."""
    texts = [
        "P/x_A1",
        "P_x/A1",
        "p/a1",
        "P/A1",
        "P_A1",
        "\u00fc/A1",
        "u\u0308/A1",
        "Stra\u00dfe",
        "STRASSE",
        "a:b",
        "a?b",
    ]
    texts += ["Q/B2", "x" * 300, "x" * 301]
    names = file_names(texts)
    assert len({unicodedata.normalize("NFC", name).casefold() for name in names.values()}) == len(texts)
    assert names["Q/B2"] == "Q_B2" and file_names(reversed(texts)) == names
    assert max(len(name.encode()) for name in names.values()) <= 120


def test_paths_of_a_store():
    """A plan is recorded in one file, whatever the study is called; a run's folder is its key."""
    store = Store(Path("runs"))
    assert store.plan_record("live-dead") == Path("runs/plans/live-dead.json")
    assert not PureWindowsPath(store.plan_record("con")).is_reserved() or sys.version_info >= (3, 13)
    assert store.run("train-0123456789abcdef").name == "train-0123456789abcdef"


@pytest.mark.parametrize("source", ["a/b.tif", "C:\\images\\b.tif", "50%/a:b?.tif", ".", "%2F"])
def test_micrographs_are_found_by_the_name_of_their_file(source: str):
    """The key of a micrograph is one name within HDF5 and gives its source back."""
    assert "/" not in micrograph_key(source) and micrograph_name(micrograph_key(source)) == source
