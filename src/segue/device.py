"""The capabilities of this machine, its free memory, and how `auto` settings resolve on it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from segue.errors import SegueError

if TYPE_CHECKING:
    import torch

CACHE_FRACTION = 0.25  # of free memory
UNLIMITED = 1 << 60  # control groups of version 1 have a number of this size where there is no limit
Precision = Literal["fp32", "bf16", "fp16"]


def cpu_count() -> int:
    """Returns the number of CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def cpu_flags() -> frozenset[str]:
    """Returns the processor's feature flags (`amx_bf16`, `avx512_bf16`, …); empty where the system has no such list."""
    return frozenset(_cpuinfo("flags").split())


def cpu_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == field), "")


def fits_in_free_memory(needed: int, device: torch.device) -> bool:
    """Returns whether so many bytes may be cached on a device: a fraction of what is free, since other workers train
    beside this one."""
    import torch

    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory()
    return free is None or needed < CACHE_FRACTION * free


def free_memory() -> int | None:
    """Returns the bytes of main memory that are free for use; None if the system does not report it.

    That is what the machine and the control groups of this process (a container's, a batch system's) have left.
    """
    amounts = [_machine_memory(), *cgroup_memory(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))]
    return min((amount for amount in amounts if amount is not None), default=None)


def _machine_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    available = [line.split() for line in lines if line.startswith("MemAvailable:")]
    return int(available[0][1]) * 1024 if available else None


def cgroup_memory(membership: Path, mount: Path) -> list[int]:
    """Returns the bytes that each limited control group of this process has left, of version 2 or 1.

    membership: the file that names the groups; mount: where they are mounted. The page cache that a group could give
    back at once (inactive files) counts as free. Inside a container, the path may not exist; the mount is read then.
    """
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    left = []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers == "":
            top, names = mount, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top, names = mount / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        innermost = top / path.strip("/")
        for group in dict.fromkeys([innermost, *innermost.parents, top]):
            if group.is_relative_to(top):
                left += _bytes_left(group, *names)
    return left


def _bytes_left(group: Path, limit: str, usage: str, reclaimable: str) -> list[int]:
    """Returns [bytes left] of a control group, or nothing where it sets no limit."""
    try:
        maximum = (group / limit).read_text(encoding="utf-8").strip()
        used = int((group / usage).read_text(encoding="utf-8"))
        rows = [line.split() for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return []
    if not maximum.isdigit() or int(maximum) >= UNLIMITED:
        return []
    cached = next((int(row[1]) for row in rows if row[0] == reclaimable), 0)
    return [max(0, int(maximum) - used + cached)]


def default_device() -> str:
    """Returns "cuda" where torch sees a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def device_of(network: torch.nn.Module) -> torch.device:
    """Returns where a network's parameters are; the CPU for one without any."""
    import torch

    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def resolve_precision(setting: Literal["auto"] | Precision, device: str | torch.device) -> Precision:
    """Returns what `auto` means on the device: bf16 where the hardware supports it, otherwise fp32.

    `auto` is never fp16: that needs loss scaling, and gains nothing over bf16 where there is bf16.
    """
    if setting != "auto":
        return setting
    if str(device).startswith("cuda"):
        import torch

        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if cpu_flags() & {"amx_bf16", "avx512_bf16"} else "fp32"


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error says that there is not enough memory: of Python, torch's CPU, or a GPU."""
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def set_tf32(on: bool) -> None:
    """Lets a GPU round float32 inputs of matrix products and convolutions to TF32 (10 bits of mantissa), or forbids it.

    It uses the older of torch's two interfaces: after a use of the newer one, reading the older raises an error, and
    torch's own compiler still reads it; settings of the older are visible through both.
    """
    import torch

    torch.backends.cuda.matmul.allow_tf32 = on
    torch.backends.cudnn.allow_tf32 = on


def tf32() -> str:
    """Returns "on", "off", or the one of "matrix products" and "convolutions" that may use TF32.

    Torch's own default is "convolutions".
    """
    import torch

    products = torch.backends.cuda.matmul.fp32_precision == "tf32"
    convolutions = torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]
    if products == convolutions:
        return "on" if products else "off"
    return "matrix products" if products else "convolutions"


@contextmanager
def nvml(device: str | torch.device) -> Iterator[tuple[Any, Any]]:
    """Gives NVIDIA's management library (the module `pynvml`) and its handle of the GPU that torch calls `device`.

    The GPU is found by its UUID, or by its place on the bus where the device is a part of a GPU (MIG), so that
    CUDA_VISIBLE_DEVICES has no effect. Raises SegueError, saying what is missing, where that is not possible.
    """
    import torch

    if not str(device).startswith("cuda") or torch.version.hip is not None:
        raise SegueError(f"device {device} is not an NVIDIA GPU")
    try:
        library: Any = import_module("pynvml")
    except ImportError:
        raise SegueError("nvidia-ml-py is not installed") from None
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        raise SegueError(f"NVIDIA's management library does not answer ({error})") from error
    try:
        properties = torch.cuda.get_device_properties(device)
        try:
            handle = library.nvmlDeviceGetHandleByUUID(f"GPU-{properties.uuid}")
        except library.NVMLError:
            place = (properties.pci_domain_id, properties.pci_bus_id, properties.pci_device_id)
            try:
                handle = library.nvmlDeviceGetHandleByPciBusId("{:08x}:{:02x}:{:02x}.0".format(*place))
            except library.NVMLError as error:
                raise SegueError(f"NVIDIA's management library does not know device {device} ({error})") from error
        yield library, handle
    finally:
        library.nvmlShutdown()


def power_limit_w(device: str | torch.device) -> float | None:
    """Returns the power limit of the GPU in watts; None where it cannot be read."""
    try:
        with nvml(device) as (library, handle):
            try:
                return library.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000
            except library.NVMLError:
                return None
    except SegueError:
        return None


TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
_keeps_freed_memory = False


def keep_freed_memory() -> None:
    """Keeps freed blocks of memory in this process instead of returning them to the system after every step.

    glibc returns large blocks at once, and each training step then pays for faulting in the same pages again (measured:
    143 against 183 images/s, and 103 under the trim threshold that Dask sets in its workers; scoring blocks of 2624 px
    10.7 against 17.0 Mpx/s). Does nothing where the C library has no `mallopt`.
    """
    global _keeps_freed_memory
    _keeps_freed_memory = True
    library = _c_library()
    if library is not None:
        if not library.mallopt(MMAP_THRESHOLD, 1 << 30):
            library.mallopt(MMAP_THRESHOLD, 1 << 25)  # the highest that older versions take
        library.mallopt(TRIM_THRESHOLD, (1 << 31) - 1)


def return_freed_memory() -> None:
    """Ends `keep_freed_memory`: what is free returns to the system, now and from now on."""
    global _keeps_freed_memory
    _keeps_freed_memory = False
    library = _c_library()
    if library is not None:
        library.mallopt(MMAP_THRESHOLD, 1 << 25)  # as far as glibc raises it by itself
        library.mallopt(TRIM_THRESHOLD, 1 << 17)
        library.malloc_trim(0)


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keeps freed memory while the block or the decorated function runs, or longer where it was kept before."""
    if _keeps_freed_memory:
        yield
        return
    keep_freed_memory()
    try:
        yield
    finally:
        return_freed_memory()


def _c_library() -> Any:
    """Returns the C library if it is glibc, else None."""
    import ctypes

    try:
        library = ctypes.CDLL(None)
        return library if library.mallopt and library.malloc_trim else None
    except (AttributeError, OSError, TypeError):  # TypeError on Windows
        return None


def environment(device: str | torch.device, precision: Precision, threads: int) -> dict[str, str | int | float]:
    """Returns what a result may depend on in addition to its key: versions, machine, what `auto` resolved to.

    `tf32` is the current setting ("off" without a GPU); `gpu_power_limit_w` is there where it can be read.
    """
    from importlib.metadata import version

    import torch

    packages = ("segue", "torch", "numpy", "h5py", "segmentation-models-pytorch")
    facts: dict[str, str | int | float] = {name: version(name) for name in packages}
    facts |= {"python": platform.python_version(), "cpu": cpu_name(), "cores": cpu_count(), "device": str(device)}
    facts |= {"amx": "yes" if "amx_bf16" in cpu_flags() else "no", "precision": precision, "threads": threads}
    facts["tf32"] = "off"
    if str(device).startswith("cuda"):
        facts |= {"gpu": torch.cuda.get_device_name(device), "tf32": tf32()}
        facts |= {"cuda": torch.version.cuda or "none", "cudnn": torch.backends.cudnn.version() or "none"}
        limit_w = power_limit_w(device)
        facts |= {} if limit_w is None else {"gpu_power_limit_w": limit_w}
    return facts
