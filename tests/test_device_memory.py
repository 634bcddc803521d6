"""What control groups leave of the machine's memory."""

from __future__ import annotations

from pathlib import Path

from segue.device import free_memory, group_memory

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
    assert group_memory(membership, tmp_path) == []
    write_group(tmp_path / "batch", str(8 * GB), 3 * GB, GB, version=2)
    assert group_memory(membership, tmp_path) == [6 * GB]
    write_group(tmp_path / "batch/task", str(2 * GB), 3 * GB, 0, version=2)
    assert sorted(group_memory(membership, tmp_path)) == [0, 6 * GB]


def test_version_1(tmp_path: Path):
    """Version 1 writes a huge number for no limit; a path from outside of a container is found at the mount."""
    membership = tmp_path / "cgroup"
    membership.write_text("5:cpu:/x\n4:hugetlb,memory:/container/inside\n0::/\n")
    write_group(tmp_path / "memory", str(2**63 - 4096), GB, 0, version=1)
    assert group_memory(membership, tmp_path) == []
    write_group(tmp_path / "memory", str(4 * GB), GB, GB // 2, version=1)
    assert group_memory(membership, tmp_path) == [35 * GB // 10]


def test_without_control_groups(tmp_path: Path):
    """Where there are none, the machine's own memory counts."""
    assert group_memory(tmp_path / "none", tmp_path) == []
    free = free_memory()
    assert free is None or free > 0
