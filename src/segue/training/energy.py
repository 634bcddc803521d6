"""The energy that a training takes, from the counters of the GPU or the processor, and a cap on the GPU's power."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal, TextIO, TypedDict

from segue.device import nvml
from segue.errors import SegueError

POWERCAP = Path("/sys/class/powercap")  # where Linux shows the processor's counters
LOOK_EVERY_S = 30.0  # a package of 500 W turns over even a counter of 65 kJ in no less than 130 s
Source = Literal["NVML", "RAPL", "not measured"]
NOTES: dict[Source, str] = {
    "NVML": "of the whole GPU, other processes on it included; the processor is not in it",
    "RAPL": "of the whole processor packages, other processes on them included; memory and the rest are not in it",
}


class Energy(TypedDict):
    """`energy_J` is None where `energy_source` is "not measured"; `energy_note` says what it is of, or why not."""

    energy_J: float | None
    energy_source: Source
    energy_note: str


class Meter:
    """Reads a counter: `read()` returns the energy since the beginning, that of earlier parts included."""

    def __init__(self, source: Source, note: str, joules: Callable[[], float] | None, before: Energy | None) -> None:
        self._source: Source = source
        self._note, self._joules, self._before = note, joules, before
        self._lock = threading.Lock()
        self._found: float | None = joules() if joules else None

    def read(self) -> Energy:
        with self._lock:
            if self._joules is not None:
                try:
                    self._found = self._joules()
                except OSError as error:
                    self._found, self._joules = None, None
                    self._source, self._note = "not measured", f"the counters can no longer be read ({error})"
            found = self._found
        if found is None:
            return {"energy_J": None, "energy_source": "not measured", "energy_note": self._note}
        now: Energy = {"energy_J": found, "energy_source": self._source, "energy_note": self._note}
        return _sum(self._before, now)


def _sum(before: Energy | None, now: Energy) -> Energy:
    """Returns the energy of both parts; none where one was not measured, or they are not of the same thing."""
    if before is None:
        return now
    first, second = before["energy_J"], now["energy_J"]
    if first is None or second is None or before["energy_source"] != now["energy_source"]:
        sources = f"{before['energy_source']} before an interruption, {now['energy_source']} after it"
        return {"energy_J": None, "energy_source": "not measured", "energy_note": f"not of all its parts: {sources}"}
    return {**now, "energy_J": first + second}


@contextmanager
def measure(device: str, *, before: Energy | None = None, powercap: Path = POWERCAP) -> Iterator[Meter]:
    """Gives a meter of the energy from here on: the GPU's where the device is one, else the processor's.

    `before` is what `read` returned when an interrupted training was last saved; it is added. What was spent between
    that and the interruption is in neither. The meter may be read at any time, also after the block.
    """
    with ExitStack() as stack:
        if device.startswith("cuda"):
            meter = _gpu(device, before, stack)
        elif device.startswith("cpu"):
            meter = _packages(powercap, before, stack)
        else:
            meter = _unmeasured(f"there is no counter for device {device}", before)
        try:
            yield meter
        finally:
            meter.read()
            meter._joules = None  # the counter is closed; what was found last stays


def _unmeasured(reason: str, before: Energy | None) -> Meter:
    return Meter("not measured", reason, None, before)


def _gpu(device: str, before: Energy | None, stack: ExitStack) -> Meter:
    try:
        library, handle = stack.enter_context(nvml(device))
    except SegueError as error:
        return _unmeasured(str(error), before)

    def millijoules() -> int:
        """Returns the counter, which is of 64 bits and runs since the driver was loaded."""
        try:
            return library.nvmlDeviceGetTotalEnergyConsumption(handle)
        except library.NVMLError as error:
            raise OSError(f"NVML: {error}") from error

    try:
        first = millijoules()
    except OSError as error:
        return _unmeasured(f"the GPU has no energy counter that can be read ({error})", before)
    return Meter("NVML", NOTES["NVML"], lambda: (millijoules() - first) / 1000, before)


def _packages(powercap: Path, before: Energy | None, stack: ExitStack) -> Meter:
    """Returns the meter of all processor packages; a thread looks often enough to see every turn of a counter."""
    try:
        counters = [_Counter(folder) for folder in sorted(powercap.glob("intel-rapl:*")) if _is_package(folder)]
    except (OSError, ValueError) as error:
        reason = "may be read by root only" if isinstance(error, PermissionError) else f"cannot be read ({error})"
        return _unmeasured(f"the processor's energy counters (RAPL) {reason}", before)
    if not counters:
        return _unmeasured("this system shows no energy counters of the processor (RAPL)", before)
    meter = Meter("RAPL", NOTES["RAPL"], lambda: sum(counter.joules() for counter in counters), before)
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_EVERY_S):
            meter.read()

    thread = threading.Thread(target=look, name="energy", daemon=True)
    thread.start()
    stack.callback(lambda: (ended.set(), thread.join()))
    return meter


def _is_package(folder: Path) -> bool:
    """Tells a whole package ("package-0") from its parts, which it includes, and from the platform ("psys")."""
    return (folder / "name").read_text(encoding="ascii").strip().startswith("package")


class _Counter:
    """One package's microjoules, which begin again at 0 beyond `max_energy_range_uj`."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "energy_uj"
        self._range = int((folder / "max_energy_range_uj").read_text(encoding="ascii"))
        self._last, self._sum = self._value(), 0

    def _value(self) -> int:
        return int(self._file.read_text(encoding="ascii"))

    def joules(self) -> float:
        value = self._value()
        passed = value - self._last
        self._sum += passed if passed >= 0 else passed + self._range
        self._last = value
        return self._sum / 1e6


@contextmanager
def power_cap(watts: float | None, device: str, *, records: Path | None = None) -> Iterator[None]:
    """Lowers the GPU's power limit to `watts` for the block and then restores what it was; None leaves it alone.

    Also restored on errors and on SIGTERM. After SIGKILL the cap stays until the next use of `power_cap` on this
    GPU, which restores the limit from before: `records` (default: the system's folder for temporary files) keeps it.
    Processes may cap one GPU together at the same watts; the last to end restores. Raises SegueError without a GPU
    or NVML, outside the GPU's range, without permission, or beside another cap.
    """
    if watts is None:
        yield
        return
    where = f"power_w = {watts:g}"
    remedy = "leave out power_w, or train on an NVIDIA GPU whose limit may be set"
    with ExitStack() as stack:
        try:
            library, handle = stack.enter_context(nvml(device))
        except SegueError as error:
            raise SegueError(f"{where}: the power cannot be capped, since {error}; {remedy}.") from error
        limit = _Limit(library, handle, where)
        limit.require(watts)
        stack.enter_context(_sigterm_as_exit())
        name = f"segue-power-{library.nvmlDeviceGetUUID(handle)}.json"
        stack.enter_context(_shared(limit, round(watts * 1000), (records or Path(tempfile.gettempdir())) / name))
        yield


class _Limit:
    """The power limit of one GPU, in milliwatts."""

    def __init__(self, library: Any, handle: Any, where: str) -> None:
        self._library, self._handle, self._where = library, handle, where

    def get(self) -> int:
        return self._asked(self._library.nvmlDeviceGetPowerManagementLimit)

    def set(self, limit_mW: int) -> None:
        self._asked(self._library.nvmlDeviceSetPowerManagementLimit, limit_mW)

    def require(self, watts: float) -> None:
        lowest, highest = self._asked(self._library.nvmlDeviceGetPowerManagementLimitConstraints)
        if not lowest <= watts * 1000 <= highest:
            raise SegueError(
                f"{self._where}: {self._name()} takes a power limit from {lowest / 1000:g} to {highest / 1000:g} W; "
                "choose power_w within that range, or leave it out."
            )

    def _asked(self, function: Callable[..., Any], *given: int) -> Any:
        try:
            return function(self._handle, *given)
        except self._library.NVMLError as error:
            if error.value == self._library.NVML_ERROR_NO_PERMISSION:
                raise SegueError(
                    f"{self._where}: only an administrator may set the power limit of {self._name()}; train as root, "
                    "have the limit set beforehand (nvidia-smi --power-limit), or leave out power_w."
                ) from error
            raise SegueError(
                f"{self._where}: the driver refuses to set the power limit of {self._name()} ({error}); leave out "
                "power_w, or train on a GPU whose limit may be set."
            ) from error

    def _name(self) -> str:
        return str(self._library.nvmlDeviceGetName(self._handle))


@contextmanager
def _shared(limit: _Limit, cap_mW: int, record: Path) -> Iterator[None]:
    """Holds the cap together with other processes: the first to come notes the limit, the last to go restores it.

    Each holds a shared lock on the record; who gets the exclusive one is alone. A record left by a killed process
    counts only while the GPU still has the cap that it speaks of.
    """
    try:
        descriptor = os.open(record, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SegueError(
            f"{record}: the GPU's present power limit cannot be noted ({error.strerror}); remove that file, or leave "
            "out power_w."
        ) from error
    with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
        alone, left = _join(file)
        present = limit.get()
        if not alone and present != cap_mW:
            raise SegueError(
                f"power_w = {cap_mW / 1000:g}: another training holds this GPU at {present / 1000:g} W; give both the "
                "same power_w, or run one after the other."
            )
        previous = left["previous_mW"] if left and left["cap_mW"] == present else present
        if alone:
            _write(file, json.dumps({"previous_mW": previous, "cap_mW": cap_mW}))
        try:
            limit.set(cap_mW)
            fcntl.flock(file, fcntl.LOCK_SH)
            yield
        finally:
            if _lock_alone(file.fileno()):
                if limit.get() != previous:
                    limit.set(previous)
                _write(file, "")


def _join(file: TextIO) -> tuple[bool, dict[str, int] | None]:
    """Returns whether this process is the only one, which then has the exclusive lock, and what the record says."""
    while True:
        alone = _lock_alone(file.fileno())
        if not alone:
            fcntl.flock(file, fcntl.LOCK_SH)
        file.seek(0)
        left = _recorded(file.read())
        if alone or left is not None:
            return alone, left
        fcntl.flock(file, fcntl.LOCK_UN)  # the other one has just gone and emptied the record


def _lock_alone(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _recorded(text: str) -> dict[str, int] | None:
    with contextlib.suppress(ValueError, TypeError, KeyError):
        found = json.loads(text)
        return {name: int(found[name]) for name in ("previous_mW", "cap_mW")}
    return None


def _write(file: TextIO, text: str) -> None:
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """Makes SIGTERM end the process through SystemExit, so that what is to be restored is; others' handlers stay."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
