"""A fit in a process of its own, which goes on when the viewer closes, and which any viewer can look at and stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from segue.fitting.candidates import RESULT
from segue.storage import make_folder, read_json, write_json

DETACHED = 0x00000208  # of Windows: a process and a group of its own, without a console
CHILDREN: list[subprocess.Popen[Any]] = []  # that this process began
START_TOLERANCE_S = 2.0  # between two readings of when a process began


@dataclass(frozen=True)
class Training:
    """The fit that makes the model `model`: an ordinary `segue fit`, whose words go to `<model>.log`."""

    model: Path

    @property
    def log(self) -> Path:
        return self.model.with_name(f"{self.model.name}.log")

    @property
    def record(self) -> Path:
        """The command and the process that runs it, JSON."""
        return self.model.with_name(f"{self.model.name}.process.json")

    def start(self, images: Path, labels: Path, *, parents: Sequence[Path | str], minutes: float) -> None:
        """Begins the fit, or goes on with one of the same settings that was stopped."""
        options = [part for parent in parents for part in ("--from", os.fspath(parent))]
        arguments = [str(images), str(labels), "-o", str(self.model), "--minutes", f"{minutes:g}", "--next", *options]
        self._run(arguments)

    def resume(self) -> None:
        """Goes on with a fit that was stopped."""
        self._run(read_json(self.record)["arguments"])

    def _run(self, arguments: list[str]) -> None:
        make_folder(self.model.parent)
        command = [sys.executable, "-c", "from segue.cli.main import main; main()", "fit", *arguments]
        apart: dict[str, Any] = {"creationflags": DETACHED} if sys.platform == "win32" else {"start_new_session": True}
        with self.log.open("ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **apart)
        CHILDREN.append(process)
        began = psutil.Process(process.pid).create_time()
        write_json(self.record, {"arguments": arguments, "process": process.pid, "began": began})

    @property
    def is_running(self) -> bool:
        for child in CHILDREN:
            child.poll()  # or one that ended would still be a process
        return self._process() is not None

    @property
    def is_finished(self) -> bool:
        return (self.model / RESULT).is_file()

    @property
    def was_stopped(self) -> bool:
        return self.record.is_file() and not self.is_finished and not self.is_running

    @property
    def state(self) -> str:
        """The last line of the log that says anything."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def stop(self) -> None:
        """Asks the process to end; what it trained is kept, and `resume` goes on."""
        process = self._process()
        if process is not None:
            process.send_signal(signal.SIGTERM)

    def _process(self) -> psutil.Process | None:
        """Returns the process, None if it ended; its number may be another process's by now."""
        if not self.record.is_file():
            return None
        record = read_json(self.record)
        try:
            process = psutil.Process(int(record["process"]))
            is_same = abs(process.create_time() - float(record["began"])) < START_TOLERANCE_S
        except psutil.NoSuchProcess:
            return None
        return process if is_same else None


def trainings(models: Path) -> list[Training]:
    """Returns every fit that was begun in a folder of models, the newest last."""
    files = sorted(models.glob("*.process.json"), key=lambda path: path.stat().st_mtime) if models.is_dir() else []
    return [Training(path.with_name(path.name.removesuffix(".process.json"))) for path in files]
