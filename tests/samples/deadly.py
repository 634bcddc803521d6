"""What takes the place of the work of a study's workers in tests of faults; it is sent to processes by its name."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any

from segue.study.worker import TaskResult


def kill_for_bad(groups: Sequence[Sequence[Any]]) -> list[TaskResult]:
    """Finishes all tasks; one of a stage "bad" kills the process of the worker."""
    tasks = [task for group in groups for task in group]
    if any(task.label.startswith("bad") for task in tasks):
        os.kill(os.getpid(), signal.SIGKILL)
    return [TaskResult(task.key, trained=True, seconds=1e-3) for task in tasks]
