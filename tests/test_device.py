"""Free memory within control groups, and settings of numerical precision."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segue import device as devices
from segue.device import cgroup_memory, free_memory

GB = 10**9


def write_group(folder: Path, limit: str, used: int, cached: int, *, version: int) -> None:
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    stat = f"anon 5\n{'inactive_file' if version == 2 else 'total_inactive_file'} {cached}\n"
    (folder / "memory.stat").write_text(stat)


def test_version_2(tmp_path: Path):
    """The limits of a group and of those above it count, less what is used, plus what the cache gives back."""
    membership = tmp_path / "cgroup"
    membership.write_text("0::/batch/task\n")
    write_group(tmp_path / "batch/task", "max", GB, 0, version=2)
    assert cgroup_memory(membership, tmp_path) == []
    write_group(tmp_path / "batch", str(8 * GB), 3 * GB, GB, version=2)
    assert cgroup_memory(membership, tmp_path) == [6 * GB]
    write_group(tmp_path / "batch/task", str(2 * GB), 3 * GB, 0, version=2)
    assert sorted(cgroup_memory(membership, tmp_path)) == [0, 6 * GB]


def test_version_1(tmp_path: Path):
    """Version 1 writes a huge number for no limit; a path from outside of a container is found at the mount."""
    membership = tmp_path / "cgroup"
    membership.write_text("5:cpu:/x\n4:hugetlb,memory:/container/inside\n0::/\n")
    write_group(tmp_path / "memory", str(2**63 - 4096), GB, 0, version=1)
    assert cgroup_memory(membership, tmp_path) == []
    write_group(tmp_path / "memory", str(4 * GB), GB, GB // 2, version=1)
    assert cgroup_memory(membership, tmp_path) == [35 * GB // 10]


def test_without_control_groups(tmp_path: Path):
    """Where there are none, the machine's own memory counts."""
    assert cgroup_memory(tmp_path / "none", tmp_path) == []
    free = free_memory()
    assert free is None or free > 0


@pytest.mark.parametrize(("on", "word"), [(True, "on"), (False, "off")])
def test_tf32_is_set_and_told(on: bool, word: str) -> None:
    """The switch is seen through both of torch's interfaces, warns of nothing, and is recorded beside the versions."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        devices.set_tf32(on)
        assert devices.tf32() == word
        assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is on
        assert torch.get_float32_matmul_precision() == ("high" if on else "highest")
        assert devices.environment("cpu", "fp32", 1)["tf32"] == "off"
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_fp16_trains_on_the_processor() -> None:
    """fp16 is taken as given, and with loss scaling its gradients on the CPU are fp32's within half precision."""
    assert devices.resolve_precision("fp16", "cpu") == "fp16"
    actual = {}
    for dtype in (torch.float32, torch.float16):
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(8, 3, 3, 3, generator=generator).requires_grad_()
        images = torch.randn(2, 3, 16, 16, generator=generator)
        optimizer = torch.optim.SGD([weight], lr=1.0)
        scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16)
        with torch.autocast("cpu", dtype, enabled=dtype == torch.float16):
            scores = torch.nn.functional.conv2d(images, weight)
        scaler.scale(1e-6 * scores.float().square().mean()).backward()  # below what fp16 could hold unscaled
        scaler.unscale_(optimizer)
        assert weight.grad is not None
        actual[dtype] = weight.grad
    torch.testing.assert_close(actual[torch.float16], actual[torch.float32], rtol=1e-2, atol=1e-9)


def _resident_after(code: str) -> list[float]:
    """Returns what the code prints; `resident_MB` is known to it, and `fill` makes and frees 400 MB of blocks."""
    if not (Path("/proc/self/statm").exists() and hasattr(ctypes.CDLL(None), "malloc_trim")):
        pytest.skip("other C libraries return memory by rules of their own")
    start = """
import numpy as np
from segue import device
def resident_MB():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6
def fill():
    blocks = [np.ones(2_500_000) for _ in range(20)]
    blocks.clear()
before = resident_MB()
"""
    done = subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, check=True)
    return list(map(float, done.stdout.split()))


@pytest.mark.slow
def test_freed_memory_is_kept_until_it_is_returned():
    """400 MB of freed blocks stay with the process between the two calls, and leave it with the second."""
    kept, left = _resident_after("""
device.keep_freed_memory()
fill()
kept = resident_MB() - before
device.return_freed_memory()
print(kept, resident_MB() - before)
""")
    assert kept > 300
    assert left < 100


def test_freed_memory_is_kept_in_the_block_and_returned_after_an_error():
    kept, left = _resident_after("""
try:
    with device.freed_memory_kept():
        fill()
        kept = resident_MB() - before
        raise ValueError
except ValueError:
    print(kept, resident_MB() - before)
""")
    assert kept > 300
    assert left < 100


@pytest.mark.slow
def test_freed_memory_is_kept_longer_where_it_was_kept_before():
    """A worker of a study trains on after it has predicted."""
    (kept,) = _resident_after("""
device.keep_freed_memory()
with device.freed_memory_kept():
    fill()
print(resident_MB() - before)
""")
    assert kept > 300
