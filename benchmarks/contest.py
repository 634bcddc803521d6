"""What the benchmarks share: contestants that take turns, ratios round by round, lines of tables, a small mode."""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch

from segue import device

T = TypeVar("T")
Contestant = Callable[[], Callable[[], T]]  # makes and warms up what is then measured once a round


def parse(parser: argparse.ArgumentParser, **small: Any) -> argparse.Namespace:
    """Returns the options; with --small those named in `small` have the values given there, unless set as well."""
    parser.add_argument("--small", action="store_true", help="run in seconds, to see that it works; measures nothing")
    if parser.parse_known_args()[0].small:
        parser.set_defaults(**small)
    return parser.parse_args()


def take_turns(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Returns the seconds of each contestant in each round, after a round that compiles and warms up.

    The order is reversed in every other round, so that none always runs after the same one.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for index in range(rounds + 1):
        for name in list(contestants) if index % 2 else list(contestants)[::-1]:
            began = time.perf_counter()
            contestants[name]()
            if index:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def hold(contestants: Mapping[str, Contestant[T]], *, rounds: int, threads: int) -> dict[str, list[T]]:
    """Returns what each contestant measured in each round: each in a process of its own, one measuring at a time."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    processes = []
    for name, contestant in contestants.items():
        pipes[name], theirs = context.Pipe()
        processes.append(context.Process(target=_answer, args=(theirs, contestant, threads), daemon=True))
        processes[-1].start()
        theirs.close()  # so that the end of a process is seen here
    for pipe in pipes.values():
        pipe.recv()  # made and warmed up
    results: dict[str, list[T]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, pipe in pipes.items():
            pipe.send(True)
            results[name].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(False)
    for process in processes:
        process.join()
    return results


def _answer(pipe: Connection, contestant: Contestant[T], threads: int) -> None:
    torch.set_num_threads(threads)
    measure = contestant()
    pipe.send(True)
    while pipe.recv():
        pipe.send(measure())


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Returns the median of the ratios round by round."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Returns the median and, in brackets, the least and the greatest."""
    numbers = (f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return "{} ({} to {})".format(*numbers)


def row(*cells: object) -> str:
    """Returns a line of a markdown table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def head(*names: str) -> str:
    return row(*names) + "\n" + "|" + "---|" * len(names)


def machine(threads: int) -> str:
    """Returns in words what the figures were measured on."""
    flags = ", ".join(sorted(device.cpu_flags() & {"amx_bf16", "avx512_bf16"})) or "no bf16"
    precision = device.resolve_precision("auto", "cpu")
    return f"{device.cpu_name()} ({flags}), {threads} threads, {precision}, torch {torch.__version__}"
