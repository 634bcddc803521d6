"""The command line in this process: as a user meets it, but without importing everything once more."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys

from segue.cli.main import main

COMMAND = [sys.executable, "-c", "from segue.cli.main import main; main()"]  # for a process of its own


def run_segue(*words: object) -> subprocess.CompletedProcess[str]:
    """Runs `segue WORDS`; returns its exit code and what it wrote to standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    arguments, sys.argv = sys.argv, ["segue", *map(str, words)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
        code = 0
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    finally:
        arguments, sys.argv = sys.argv, arguments
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def assert_refused(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Asserts that a command ended as for a user's mistake, in a message that holds each of the parts."""
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr
