"""What a run of a study may spend: hours, and kWh of energy."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from segue import signals
from segue.errors import SegueError
from segue.formatting import format_duration
from segue.study.worker import TaskResult

J_PER_KWH = 3.6e6
SECONDS = {"h": 3600.0, "min": 60.0, "s": 1.0}


@dataclass(frozen=True)
class Budget:
    """Limits of one command, None for none; energy is that of finished trainings, as far as their GPUs or processors
    measure it. began: when the command did (`time.monotonic`)."""

    seconds: float | None = None
    energy_J: float | None = None
    began: float = 0.0

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Budget:
        """Returns the budget of texts such as "8h", "30min" and "2.5kWh"; raises SegueError for others."""
        budget = cls()
        for text in texts:
            match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(h|min|s|kWh)", text.strip())
            if match is None or not float(match[1]):
                raise SegueError(f"--budget {text}: give a time or an energy above 0, such as 8h, 30min or 2.5kWh.")
            amount, unit = float(match[1]), match[2]
            if unit == "kWh":
                budget = replace(budget, energy_J=amount * J_PER_KWH)
            else:
                budget = replace(budget, seconds=amount * SECONDS[unit])
        return budget

    def since(self, began: float) -> Budget:
        return replace(self, began=began)

    @property
    def time_is_spent(self) -> bool:
        return self.seconds is not None and time.monotonic() - self.began >= self.seconds

    def spent(self, energy_J: float) -> str:
        """Returns what is spent, in words, or "" while there is something left."""
        if self.time_is_spent:
            return f"the budget of {format_duration(self.seconds or 0)} is spent"
        if self.energy_J is not None and energy_J >= self.energy_J:
            return f"the budget of {self.energy_J / J_PER_KWH:g} kWh is spent ({energy_J / J_PER_KWH:.3g} kWh)"
        return ""

    def require_measured(self, result: TaskResult) -> None:
        """Raises SegueError for a budget of energy if a training was finished whose energy was not measured."""
        if self.energy_J is not None and result.trained and result.is_new and result.energy_J is None:
            raise SegueError(
                "--budget: the energy of trainings is not measured on this machine, so that a budget in kWh has no "
                "effect; give one in hours. What is finished is kept."
            )

    @contextmanager
    def ending_here(self) -> Iterator[None]:
        """Within the block, trainings of this process end with a checkpoint when the time is spent."""
        if self.seconds is None:
            yield
            return
        left = max(0.0, self.began + self.seconds - time.monotonic())
        timer = threading.Timer(left, signals.request_end, [signal.SIGTERM])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            if self.time_is_spent:
                signals.request_end(None)
