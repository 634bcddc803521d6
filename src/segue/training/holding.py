"""Where a stage's samples are while it trains: in memory where they fit below a limit, else streamed within it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch

from segue.data.source import ResidentSource, Source, Taken, bytes_needed
from segue.data.stream import StreamedSource
from segue.device import free_memory
from segue.errors import SegueError
from segue.training.stage import StageSpec

SHARE_OF_MEMORY = 0.8  # of what is free: activations and the optimiser need room beside the data
VALIDATION_SHARE = 1 / 4  # of the limit at most, where not all fits


def hold(
    training: Sequence[Taken],
    validation: Sequence[Taken],
    *,
    spec: StageSpec,
    window: int | None,
    spent: str,
    where: str,
    device: str,
    tell: Callable[[str], None] | None,
) -> tuple[Source, Source | None]:
    """Returns the sources of training and of validation, None without any; says through `tell` what they will take.

    The limit is `spec.memory_gb`, but never above a share of the memory that is free. What fits together is resident,
    on the device where it fits there too. Else validation gets at most a quarter of the limit and training the rest,
    and each is streamed where it does not fit its own. Raises SegueError where even that needs more than the limit.
    """
    wanted, looked_at = _bytes(training), _bytes(validation)
    limit = memory_limit(spec)
    if limit is None or wanted + looked_at <= limit:
        if tell is not None:
            tell(f"{spent}, held in memory: {(wanted + looked_at) / 1e6:.0f} MB")
        held = [_resident(parts, spec, device, wanted + looked_at) for parts in (training, validation)]
        assert held[0] is not None
        return held[0], held[1]
    for_validation = min(looked_at, int(VALIDATION_SHARE * limit))
    for_training = limit - for_validation
    if wanted <= for_training:
        for_validation = limit - wanted
    with ExitStack() as undone:
        streamed: dict[str, StreamedSource] = {}
        for name, parts, budget in (("training", training, for_training), ("validation", validation, for_validation)):
            if _bytes(parts) > budget:
                streamed[name] = StreamedSource(parts, normalise=spec.normalise, budget_bytes=budget)
                undone.callback(streamed[name].close)
                share = VALIDATION_SHARE if name == "validation" else 1 - VALIDATION_SHARE
                enough = min(wanted + looked_at, math.ceil(streamed[name].least_bytes(spec.batch) / share))
                _require_room(streamed[name], spec.batch, budget, f"{where}: {name}", (limit, enough))
        if tell is not None:
            told = _how(streamed, spec.batch, window, looked_at)
            needed = _gb(wanted + looked_at)
            tell(f"{spent}: {needed} GB, more than the limit of {_gb(limit)} GB: {told}")
        first = streamed.get("training") or _resident(training, spec, device, wanted)
        second = streamed.get("validation") or _resident(validation, spec, device, looked_at)
        undone.pop_all()
    assert first is not None
    return first, second


def memory_limit(spec: StageSpec) -> int | None:
    """Returns how many bytes the samples may take; None where nothing is given and the system does not tell."""
    given, free = spec.memory_gb, free_memory()
    limits = [] if free is None else [int(SHARE_OF_MEMORY * free)]
    return min(limits if given is None else [*limits, int(given * 1e9)], default=None)


def _bytes(parts: Sequence[Taken]) -> int:
    return sum(bytes_needed(part.dataset, len(part.indices)) for part in parts)


def _resident(parts: Sequence[Taken], spec: StageSpec, device: str, together: int) -> ResidentSource | None:
    """Returns the samples in memory, on a GPU where what is held `together` takes less than half of its share."""
    if not parts:
        return None
    source = ResidentSource.from_parts(parts, normalise=spec.normalise)
    if device.startswith("cuda") and together < SHARE_OF_MEMORY / 2 * torch.cuda.mem_get_info()[0]:
        return source.to(device)
    return source


def _require_room(source: StreamedSource, batch: int, budget: int, where: str, of: tuple[int, int]) -> None:
    """Raises SegueError where the budget is too small; of: the limit for all samples, and one that is enough."""
    limit, enough = of
    least = source.least_bytes(batch)
    if least > budget:
        raise SegueError(
            f"{where}: even streamed, {len(source):,} samples in batches of {batch} take {_gb(least)} GB of memory "
            f"(a block of the file and batches made ahead), but of the limit of {_gb(limit)} GB only {_gb(budget)} GB "
            f"are theirs; raise memory_gb (to {_rounded_up(enough):.3g}), lower batch, run fewer "
            "workers, or use a machine with more memory."
        )


def _least_limit(for_training: int, looked_at: int) -> float:
    """Returns the memory_gb that leaves so many bytes to training."""
    return _rounded_up(min(for_training + looked_at, for_training / (1 - VALIDATION_SHARE)))


def _rounded_up(amount: float) -> float:
    """Returns GB of bytes, rounded up to three digits."""
    step = 10.0 ** (math.floor(math.log10(amount / 1e9)) - 2)
    return math.ceil(amount / 1e9 / step) * step


def _how(streamed: dict[str, StreamedSource], batch: int, window: int | None, looked_at: int) -> str:
    """Returns in words what is streamed and how; `looked_at` bytes are those of all validation samples."""
    training = streamed.get("training")
    if training is None:
        return "validation is streamed"
    too = ", validation too" if "validation" in streamed else ""
    shown = "all samples" if window is None else f"{window:,} samples"
    if training.shuffles_in_memory(window, batch):
        held = _gb(training.bytes_in_use(window, batch))
        windows = "one window of all samples" if window is None else f"windows of {shown}"
        return f"streamed in {windows}, {held} GB{too}"
    largest = training.largest_window(batch)
    remedy = f"memory_gb = {_least_limit(training.bytes_to_shuffle(window, batch), looked_at):.3g}"
    remedy += f", or shuffle = {largest}, which trains in another order" if largest else ""
    return f"streamed from random places{too}; slow, for the shuffle window of {shown} does not fit: give {remedy}"


def _gb(amount: int) -> str:
    return f"{amount / 1e9:.1f}" if amount >= 1e8 else f"{amount / 1e9:.2g}"
