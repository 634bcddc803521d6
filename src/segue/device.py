"""What this machine can do, and how `auto` settings resolve on it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16"]


def cores() -> int:
    """Returns the number of CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def cpu_flags() -> frozenset[str]:
    """Returns the processor's feature flags (`amx_bf16`, `avx512_bf16`, …); empty where the system does not tell."""
    return frozenset(_cpuinfo("flags").split())


def cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == field), "")


def free_memory() -> int | None:
    """Returns the bytes of main memory that are free for use; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith("MemAvailable:")]
    return int(found[0][1]) * 1024 if found else None


def default_device() -> str:
    """Returns "cuda" where torch sees a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_precision(wanted: Literal["auto", "fp32", "bf16"], device: str | torch.device) -> Precision:
    """Returns what `auto` means on the device: bf16 where the hardware multiplies it, else fp32."""
    if wanted != "auto":
        return wanted
    if str(device).startswith("cuda"):
        import torch

        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if cpu_flags() & {"amx_bf16", "avx512_bf16"} else "fp32"


def reuse_memory() -> None:
    """Keeps freed blocks of memory in this process instead of handing them back to the system after every step.

    glibc returns large blocks at once, and each step of a training then pays for faulting in the same pages again
    (measured: 143 against 183 images/s, and 103 under the trim threshold that Dask sets in its workers). Does
    nothing where the C library has no `mallopt`.
    """
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    if not mallopt(mmap_threshold, 1 << 30):
        mallopt(mmap_threshold, 1 << 25)  # the highest that older versions take
    mallopt(trim_threshold, (1 << 31) - 1)


def environment(device: str | torch.device, precision: Precision, threads: int) -> dict[str, str | int]:
    """Returns what a result may depend on beside its key: versions, machine, what `auto` resolved to."""
    from importlib.metadata import version

    import torch

    packages = ("segue", "torch", "numpy", "h5py", "segmentation-models-pytorch")
    found: dict[str, str | int] = {name: version(name) for name in packages}
    found |= {"python": platform.python_version(), "cpu": cpu_name(), "cores": cores(), "device": str(device)}
    found |= {"amx": "yes" if "amx_bf16" in cpu_flags() else "no", "precision": precision, "threads": threads}
    if str(device).startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name()
    return found
