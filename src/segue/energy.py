"""Energy of a training, from the counters of the GPU (NVML) or the processor (RAPL), and a cap on the GPU's power."""

from __future__ import annotations

import contextlib
import json
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal, TypedDict

from segue.device import nvml
from segue.errors import SegueError

POWERCAP = Path("/sys/class/powercap")  # where Linux has the processor's counters
POLL_EVERY_S = 30.0  # at 500 W even a counter of 65 kJ takes at least 130 s to wrap around
Source = Literal["NVML", "RAPL", "not measured"]
NOTES: dict[Source, str] = {
    "NVML": "of the whole GPU, other processes on it included; the processor is not in it",
    "RAPL": "of the whole processor packages, other processes on them included; memory and the rest are not in it",
}


class Energy(TypedDict):
    """`energy_J` is None if `energy_source` is "not measured"; `energy_note` states what was measured, or why not."""

    energy_J: float | None
    energy_source: Source
    energy_note: str


class Meter:
    """Reads a counter: `read()` returns the energy since the beginning."""

    def __init__(self, source: Source, note: str, joules: Callable[[], float] | None) -> None:
        self._now: Energy = {"energy_J": None, "energy_source": source, "energy_note": note}
        self._joules = joules
        self._lock = threading.Lock()

    def read(self) -> Energy:
        with self._lock:
            if self._joules is not None:
                try:
                    self._now = {**self._now, "energy_J": self._joules()}
                except OSError as error:
                    self._joules = None
                    self._now = _not_measured(f"the counters can no longer be read ({error})")
            return self._now

    def close(self) -> None:
        """Reads a last time; what was read remains."""
        self.read()
        self._joules = None


def _not_measured(reason: str) -> Energy:
    return {"energy_J": None, "energy_source": "not measured", "energy_note": reason}


@contextmanager
def measure(device: str, *, powercap: Path = POWERCAP) -> Iterator[Meter]:
    """Gives a meter of the energy from now on: the GPU's if the device is one, otherwise the processor's.

    The meter may be read at any time, also after the block.
    """
    with ExitStack() as stack:
        source: Source = "NVML" if device.startswith("cuda") else "RAPL"
        try:
            joules = _gpu_joules(device, stack) if source == "NVML" else _cpu_joules(device, powercap)
            meter = Meter(source, NOTES[source], joules)
        except SegueError as error:
            meter = Meter("not measured", str(error), None)
        else:
            meter.read()
            if source == "RAPL":
                stack.enter_context(_polling(meter))
        try:
            yield meter
        finally:
            meter.close()


def _gpu_joules(device: str, stack: ExitStack) -> Callable[[], float]:
    """Returns a function that gives the GPU's energy from now on; raises SegueError where there is no counter."""
    library, handle = stack.enter_context(nvml(device))

    def millijoules() -> int:  # 64 bits, since the driver was loaded
        try:
            return library.nvmlDeviceGetTotalEnergyConsumption(handle)
        except library.NVMLError as error:
            raise OSError(f"NVML: {error}") from error

    try:
        first = millijoules()
    except OSError as error:
        raise SegueError(f"the GPU has no energy counter that can be read ({error})") from error
    return lambda: (millijoules() - first) / 1000


def _cpu_joules(device: str, powercap: Path) -> Callable[[], float]:
    """Returns a function that gives the energy of all processor packages from now on; it must be called at least once
    per turn of a counter. Raises SegueError where there are no counters."""
    if not device.startswith("cpu"):
        raise SegueError(f"there is no counter for device {device}")
    try:
        # whole packages ("package-0"), without their parts, which they include, and the platform ("psys")
        folders = [f for f in sorted(powercap.glob("intel-rapl:*")) if _read(f / "name").startswith("package")]
        counters = [_Counter(folder) for folder in folders]
    except (OSError, ValueError) as error:
        reason = "may be read by root only" if isinstance(error, PermissionError) else f"cannot be read ({error})"
        raise SegueError(f"the processor's energy counters (RAPL) {reason}") from error
    if not counters:
        raise SegueError("this system shows no energy counters of the processor (RAPL)")
    return lambda: sum(counter.joules() for counter in counters)


def _read(file: Path) -> str:
    return file.read_text(encoding="ascii").strip()


class _Counter:
    """One package's microjoules, which begin again at 0 beyond `max_energy_range_uj`."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "energy_uj"
        self._range = int(_read(folder / "max_energy_range_uj"))
        self._last, self._sum = int(_read(self._file)), 0

    def joules(self) -> float:
        value = int(_read(self._file))
        self._sum += value - self._last if value >= self._last else value - self._last + self._range
        self._last = value
        return self._sum / 1e6


@contextmanager
def _polling(meter: Meter) -> Iterator[None]:
    """Reads the meter from a thread, often enough to see every turn of a counter."""
    ended = threading.Event()

    def poll() -> None:
        while not ended.wait(POLL_EVERY_S):
            meter.read()

    thread = threading.Thread(target=poll, name="energy", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def power_cap(watts: float | None, device: str, *, records: Path | None = None) -> Iterator[None]:
    """Lowers the GPU's power limit to `watts` for the block and then restores it; None changes nothing.

    Also restored on errors and on SIGTERM. After SIGKILL the cap stays until the next use of `power_cap` on this GPU,
    which restores the previous limit from a file in `records` (default: the system's folder for temporary files).
    Raises SegueError without a GPU or NVML, outside the GPU's range, without permission, or where another process caps
    the same GPU.
    """
    if watts is None:
        yield
        return
    from filelock import FileLock, Timeout

    context, cap_mW = f"power_w = {watts:g}", round(watts * 1000)
    with ExitStack() as stack:
        try:
            library, handle = stack.enter_context(nvml(device))
        except SegueError as error:
            raise SegueError(
                f"{context}: the power cannot be capped, since {error}; leave out power_w, or train on an NVIDIA GPU "
                "whose limit may be set."
            ) from error
        name = library.nvmlDeviceGetName(handle)

        def ask(function: Callable[..., Any], *arguments: int) -> Any:
            try:
                return function(handle, *arguments)
            except library.NVMLError as error:
                if error.value == library.NVML_ERROR_NO_PERMISSION:
                    raise SegueError(
                        f"{context}: only an administrator may set the power limit of {name}; train as root, have the "
                        "limit set beforehand (nvidia-smi --power-limit), or leave out power_w."
                    ) from error
                raise SegueError(
                    f"{context}: the driver refuses to set the power limit of {name} ({error}); leave out power_w, or "
                    "train on a GPU whose limit may be set."
                ) from error

        lowest, highest = ask(library.nvmlDeviceGetPowerManagementLimitConstraints)
        if not lowest <= watts * 1000 <= highest:
            raise SegueError(
                f"{context}: {name} takes a power limit from {lowest / 1000:g} to {highest / 1000:g} W; choose power_w "
                "within that range, or leave it out."
            )

        # one cap at a time on a GPU; the lock ends with the process
        stack.enter_context(_sigterm_as_exit())
        folder = records or Path(tempfile.gettempdir())
        record = folder / f"segue-power-{library.nvmlDeviceGetUUID(handle)}.json"
        try:
            stack.enter_context(FileLock(record.with_suffix(".lock"), timeout=0))
        except Timeout:
            raise SegueError(
                f"{context}: another training already caps this GPU's power; run one after the other, or leave out "
                "power_w."
            ) from None
        except OSError as error:
            raise SegueError(
                f"{record}: the GPU's current power limit cannot be recorded ({error.strerror}); remove that file, or "
                "leave out power_w."
            ) from error

        # record the limit, cap, and restore
        previous = present = ask(library.nvmlDeviceGetPowerManagementLimit)
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # no record, or not one of ours
            left = json.loads(record.read_text(encoding="utf-8"))
            if left["cap_mW"] == present:  # of a process that was killed
                previous = int(left["previous_mW"])
        record.unlink(missing_ok=True)
        with record.open("x", encoding="utf-8") as file:  # follows no link that somebody else has laid there
            json.dump({"previous_mW": previous, "cap_mW": cap_mW}, file)
        try:
            ask(library.nvmlDeviceSetPowerManagementLimit, cap_mW)
            yield
        finally:
            if ask(library.nvmlDeviceGetPowerManagementLimit) != previous:
                ask(library.nvmlDeviceSetPowerManagementLimit, previous)
            record.unlink()


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """Makes SIGTERM end the process through SystemExit, so that `finally` blocks run; other handlers stay in place."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
