"""Several processes that train one model together, as `torchrun` starts them: one per GPU, or over gloo on CPUs.

Each process takes its shard of every batch; gradients are summed, so that the step is that of the whole batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn


@dataclass(frozen=True)
class ProcessGroup:
    """The `world` processes of one training. `rank` counts them from 0; the main process, 0, writes and logs."""

    rank: int = 0
    world: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def shard(self, start: int, stop: int) -> tuple[int, int]:
        """Returns this process's part of the samples start … stop of a batch; parts differ by one sample at most."""
        count = stop - start
        return start + count * self.rank // self.world, start + count * (self.rank + 1) // self.world

    def sum_(self, values: Tensor) -> Tensor:
        """Adds the tensor up over all processes, in place."""
        if self.world > 1:
            distributed.all_reduce(values)
        return values

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Adds up the gradients over all processes, in one reduction; a parameter without one anywhere keeps none."""
        if self.world == 1:
            return
        trained = [p for p in parameters if p.requires_grad]
        has_gradient = torch.tensor([float(p.grad is not None) for p in trained], device=trained[0].device)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        flat = torch.cat([*(gradient.reshape(-1).float() for gradient in gradients), has_gradient])
        distributed.all_reduce(flat)
        counts = flat[len(flat) - len(trained) :].tolist()
        start = 0
        for parameter, count in zip(trained, counts, strict=True):
            piece = flat[start : start + parameter.numel()].reshape(parameter.shape)
            start += parameter.numel()
            parameter.grad = torch.empty_like(parameter).copy_(piece) if count else None

    def broadcast_row(self, row: Mapping[str, float] | None, device: torch.device) -> dict[str, float]:
        """Returns the main process's row of numbers in every process; the others pass None."""
        if self.world == 1:
            assert row is not None
            return dict(row)
        received: list[object] = [list(row) if row is not None else None]
        distributed.broadcast_object_list(received, src=0, device=device)  # between the processes of one command
        names: list[str] = received[0]  # type: ignore[assignment]
        values = torch.tensor(list(row.values()) if row is not None else [0.0] * len(names), dtype=torch.float64)
        values = values.to(device)
        distributed.broadcast(values, src=0)
        return dict(zip(names, values.tolist(), strict=True))

    def broadcast_flag(self, value: bool) -> bool:
        """Returns the main process's value in every process."""
        if self.world == 1:
            return value
        flag = torch.tensor(float(value), device=_device())
        distributed.broadcast(flag, src=0)
        return bool(flag.item())

    def all_true(self, values: Sequence[bool]) -> list[bool]:
        """Returns for each value whether it is true in every process."""
        if self.world == 1 or not values:
            return list(values)
        return (self.sum_(torch.tensor(values, dtype=torch.float32, device=_device())) == self.world).tolist()

    def barrier(self) -> None:
        """Waits until every process has reached this call."""
        if self.world > 1:
            distributed.barrier()


SINGLE_PROCESS = ProcessGroup()


def _device() -> str:
    return "cuda" if distributed.get_backend() == "nccl" else "cpu"


@contextmanager
def init_distributed() -> Iterator[ProcessGroup]:
    """Gives the group of the processes that `torchrun` started; a group of one without it."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield SINGLE_PROCESS
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield ProcessGroup(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()
