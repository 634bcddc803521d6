"""Energy and power caps against made counters: a fake NVML and a fake folder of the processor's counters."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from segue import device as devices
from segue import energy
from segue.errors import SegueError

UUID = "11111111-2222-3333-4444-555555555555"


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"code {value}")
        self.value = value


class FakeNVML:
    """A machine with two GPUs in NVML's order, of which torch sees the second as its first."""

    NVMLError = NVMLError
    NVML_ERROR_NO_PERMISSION = 4

    def __init__(self) -> None:
        self.open = 0
        self.millijoules = {"GPU-other": 0, f"GPU-{UUID}": 5_000_000}
        self.limit_mW = 350_000
        self.fails: dict[str, int] = {}

    def _ask(self, name: str) -> None:
        if name in self.fails:
            raise NVMLError(self.fails[name])

    def nvmlInit(self) -> None:
        self._ask("init")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self._ask("uuid")
        return uuid

    def nvmlDeviceGetHandleByPciBusId(self, place: str) -> str:
        assert place == "00000000:3b:00.0"
        return f"GPU-{UUID}"

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return handle

    def nvmlDeviceGetName(self, handle: str) -> str:
        return "Fake 9000"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        self._ask("energy")
        return self.millijoules[handle]

    def nvmlDeviceGetPowerManagementLimit(self, handle: str) -> int:
        return self.limit_mW

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: str) -> int:
        self._ask("enforced")
        return self.limit_mW

    def nvmlDeviceGetPowerManagementLimitConstraints(self, handle: str) -> list[int]:
        self._ask("constraints")
        return [100_000, 400_000]

    def nvmlDeviceSetPowerManagementLimit(self, handle: str, limit_mW: int) -> None:
        self._ask("set")
        self.limit_mW = limit_mW


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNVML:
    fake = FakeNVML()
    properties = SimpleNamespace(uuid=UUID, pci_domain_id=0, pci_bus_id=0x3B, pci_device_id=0)
    monkeypatch.setitem(sys.modules, "pynvml", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.version, "hip", None)
    return fake


def package(powercap: Path, number: str, *, name: str, energy_uj: int, range_uj: int = 10_000_000) -> Path:
    folder = powercap / f"intel-rapl:{number}"
    folder.mkdir(parents=True)
    for file, content in {"name": name, "energy_uj": energy_uj, "max_energy_range_uj": range_uj}.items():
        (folder / file).write_text(f"{content}\n")
    return folder / "energy_uj"


@pytest.mark.parametrize("fails", [{}, {"uuid": 6}], ids=["by UUID", "by place on the bus"])
def test_gpu_energy_is_the_difference_of_its_counter(nvml: FakeNVML, fails: dict[str, int]) -> None:
    """The counter of the GPU that torch uses is read, in joules, also after the block, and NVML is closed again."""
    nvml.fails = fails
    with energy.measure("cuda") as meter:
        nvml.millijoules[f"GPU-{UUID}"] += 1500
        assert meter.read()["energy_J"] == 1.5
        nvml.millijoules[f"GPU-{UUID}"] += 500
    nvml.millijoules[f"GPU-{UUID}"] += 10**6
    assert (meter.read()["energy_J"], meter.read()["energy_source"], nvml.open) == (2.0, "NVML", 0)
    assert "other processes" in meter.read()["energy_note"]


@pytest.mark.parametrize(("fails", "word"), [({"energy": 3}, "no energy counter"), ({"init": 9}, "does not answer")])
def test_gpu_that_does_not_tell_is_not_measured(nvml: FakeNVML, fails: dict[str, int], word: str) -> None:
    """Without the counter nothing is made up: None, "not measured" and the reason."""
    nvml.fails = fails
    with energy.measure("cuda:0") as meter:
        pass
    actual = meter.read()
    assert (actual["energy_J"], actual["energy_source"], nvml.open) == (None, "not measured", 0)
    assert word in actual["energy_note"]


def test_counter_lost_on_the_way_leaves_nothing_measured(nvml: FakeNVML) -> None:
    """A counter that fails in the middle gives "not measured", not the energy up to there, and stops no training."""
    with energy.measure("cuda") as meter:
        nvml.fails = {"energy": 15}
    assert (meter.read()["energy_J"], meter.read()["energy_source"]) == (None, "not measured")


def test_missing_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without nvidia-ml-py a GPU's energy is not measured, and a cap is refused, with that reason."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setattr(torch.version, "hip", None)
    with energy.measure("cuda") as meter:
        assert meter.read()["energy_note"] == "nvidia-ml-py is not installed"
    with pytest.raises(SegueError, match=r"power_w = 200: .* nvidia-ml-py is not installed; leave out"):
        energy.power_cap(200, "cuda").__enter__()


def test_packages_are_summed_over_turns_of_the_counter(tmp_path: Path) -> None:
    """Packages count together, also when a counter begins anew; parts of packages and the platform are left out."""
    first = package(tmp_path, "0", name="package-0", energy_uj=9_000_000)
    second = package(tmp_path, "1", name="package-1", energy_uj=0)
    inside = package(tmp_path, "0:0", name="core", energy_uj=0)
    platform = package(tmp_path, "2", name="psys", energy_uj=0)
    with energy.measure("cpu", powercap=tmp_path) as meter:
        first.write_text("2000000")  # 1 J to the end of the range and 2 J more
        second.write_text("500000")
        inside.write_text("700000")
        platform.write_text("9000000")
        assert meter.read()["energy_J"] == pytest.approx(3.5)
        first.write_text("1000000")  # once more around
    assert meter.read()["energy_J"] == pytest.approx(12.5)
    assert meter.read()["energy_source"] == "RAPL"


def test_turns_between_two_readings_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counter is looked at also while nobody asks, so that an epoch longer than its turn is counted whole."""
    monkeypatch.setattr(energy, "POLL_EVERY_S", 0.001)
    counter = package(tmp_path, "0", name="package-0", energy_uj=0)
    with energy.measure("cpu", powercap=tmp_path) as meter:
        for value in ("6000000", "2000000", "8000000"):  # 6, then 6 and 6 more: beyond the range of 10 J
            expected = {"6000000": 6, "2000000": 12, "8000000": 18}[value]
            partial = counter.with_name("partial")
            partial.write_text(value)
            partial.replace(counter)
            while meter._now["energy_J"] != pytest.approx(expected):
                time.sleep(0.001)
    assert meter.read()["energy_J"] == pytest.approx(18)


@pytest.mark.parametrize("kind", ["no folder", "no package", "refused"])
def test_processor_that_does_not_tell_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Without counters, or where only root may read them, energy is not measured and the note says why."""
    if kind != "no folder":
        package(tmp_path, "0", name="package-0" if kind == "refused" else "psys", energy_uj=0)
    if kind == "refused":
        read = Path.read_text

        def refuse(path: Path, **given: Any) -> str:
            if path.name == "energy_uj":
                raise PermissionError(13, "Permission denied")
            return read(path, **given)

        monkeypatch.setattr(Path, "read_text", refuse)
    with energy.measure("cpu", powercap=tmp_path / "none" if kind == "no folder" else tmp_path) as meter:
        actual = meter.read()
    assert (actual["energy_J"], actual["energy_source"]) == (None, "not measured")
    assert ("root only" if kind == "refused" else "no energy counters") in actual["energy_note"]


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, ValueError], ids=str)
def test_cap_is_restored(nvml: FakeNVML, tmp_path: Path, error: type[BaseException] | None) -> None:
    """The limit is the cap within the block and afterwards what it was, whichever way the block ends."""

    def train() -> None:
        with energy.power_cap(200.5, "cuda", records=tmp_path):
            assert nvml.limit_mW == 200_500
            if error:
                raise error

    if error:
        with pytest.raises(error):
            train()
    else:
        train()
    assert (nvml.limit_mW, nvml.open) == (350_000, 0)


def test_sigterm_restores(nvml: FakeNVML, tmp_path: Path) -> None:
    """SIGTERM within the block ends it as SystemExit, the limit is restored, and so is the signal's handling."""
    with pytest.raises(SystemExit) as ended, energy.power_cap(200, "cuda", records=tmp_path):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert (ended.value.code, nvml.limit_mW) == (128 + signal.SIGTERM, 350_000)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_no_cap_touches_nothing(nvml: FakeNVML, tmp_path: Path) -> None:
    """None leaves the limit, the driver and the folder alone."""
    nvml.fails = {"init": 9}
    with energy.power_cap(None, "cuda", records=tmp_path):
        assert nvml.limit_mW == 350_000
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("watts", "device", "fails", "sentence"),
    [
        (200, "cpu", {}, r"^power_w = 200: .* device cpu is not an NVIDIA GPU; leave out power_w"),
        (200, "cuda", {"init": 9}, r"^power_w = 200: .* does not answer \(code 9\); leave out"),
        (99, "cuda", {}, r"^power_w = 99: Fake 9000 takes a power limit from 100 to 400 W; choose"),
        (401, "cuda", {}, r"^power_w = 401: .* from 100 to 400 W"),
        (200, "cuda", {"set": 4}, r"^power_w = 200: only an administrator .* Fake 9000; train as root"),
        (200, "cuda", {"constraints": 3}, r"^power_w = 200: the driver refuses .*\(code 3\); leave out"),
    ],
)
def test_cap_is_refused(
    nvml: FakeNVML, tmp_path: Path, watts: float, device: str, fails: dict[str, int], sentence: str
) -> None:
    """No GPU, no NVML, out of range, no permission: one sentence each, before anything ran, the limit as it was."""
    nvml.fails = fails
    with pytest.raises(SegueError, match=sentence), energy.power_cap(watts, device, records=tmp_path):
        pytest.fail("the block must not run")
    assert (nvml.limit_mW, nvml.open) == (350_000, 0)


def test_second_cap_is_refused(nvml: FakeNVML, tmp_path: Path) -> None:
    """A second cap on a GPU is refused, the same or another, and leaves the first as it is; later ones are taken."""
    with energy.power_cap(200, "cuda", records=tmp_path):
        for watts in (200, 300):
            sentence = rf"^power_w = {watts}: another training already caps this GPU's power; run one after the other"
            with pytest.raises(SegueError, match=sentence), energy.power_cap(watts, "cuda", records=tmp_path):
                pytest.fail("the block must not run")
            assert nvml.limit_mW == 200_000
    assert nvml.limit_mW == 350_000
    with energy.power_cap(300, "cuda", records=tmp_path):
        assert nvml.limit_mW == 300_000
    assert nvml.limit_mW == 350_000


def test_killed_training_leaves_no_lock(nvml: FakeNVML, tmp_path: Path) -> None:
    """The lock of a process that was killed while it held a cap does not keep others from one."""
    code = (
        "import sys; from filelock import FileLock; lock = FileLock(sys.argv[1]); lock.acquire(); "
        "print(1, flush=True); sys.stdin.read()"
    )
    lock = tmp_path / f"segue-power-GPU-{UUID}.lock"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline()
        with pytest.raises(SegueError, match="another training already caps"):
            energy.power_cap(200, "cuda", records=tmp_path).__enter__()
        holder.kill()
        holder.wait()
        with energy.power_cap(200, "cuda", records=tmp_path):
            assert nvml.limit_mW == 200_000


@pytest.mark.parametrize(("found_mW", "restored_mW"), [(200_000, 350_000), (300_000, 300_000)])
def test_cap_of_a_killed_training_is_healed(nvml: FakeNVML, tmp_path: Path, found_mW: int, restored_mW: int) -> None:
    """After SIGKILL the next to cap restores the limit from before it, unless the limit was changed meanwhile."""
    record = tmp_path / f"segue-power-GPU-{UUID}.json"
    record.write_text('{"previous_mW": 350000, "cap_mW": 200000}')
    nvml.limit_mW = found_mW
    with energy.power_cap(250, "cuda", records=tmp_path):
        assert nvml.limit_mW == 250_000
    assert nvml.limit_mW == restored_mW and not record.exists()


def test_power_limit_is_told_where_known(nvml: FakeNVML) -> None:
    """The GPU's limit in watts; None where it does not tell, and on a processor."""
    assert devices.power_limit_w("cuda") == 350
    assert devices.power_limit_w("cpu") is None
    nvml.fails = {"enforced": 3}
    assert devices.power_limit_w("cuda") is None


def test_energy_imports_no_torch() -> None:
    """The module can be imported where torch must not be: what a specification needs to say stays quick."""
    code = "import sys, segue.energy; sys.exit('torch' in sys.modules or 'pynvml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
