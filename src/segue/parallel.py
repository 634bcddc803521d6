"""Runs a function over items in worker processes that die with their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

from segue.errors import SegueError

Item = TypeVar("Item")
Result = TypeVar("Result")
PR_SET_PDEATHSIG = 1
CONNECT_S = 20


def map_unordered(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int, context: Path | str
) -> Iterator[tuple[Item, Result]]:
    """Yields (item, function(item)) in the order in which they finish; runs in this process if one worker suffices.

    `function` (of a module, or a partial of one), items and results are pickled, for workers are spawned, on every
    operating system. An exception of `function` is raised here, and items that were not started are canceled. Raises
    SegueError beginning with `context` if a worker process was killed.
    """
    workers = min(workers, len(items))
    if workers <= 1:
        for item in items:
            yield item, function(item)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker) as pool:
        futures = {pool.submit(function, item): item for item in items}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise SegueError(
                f"{context}: a worker process ended early, most likely because memory ran out; run the same again with "
                f"fewer than {workers} workers: it resumes from the finished parts. A script of your own must start "
                'its work under `if __name__ == "__main__":`.'
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def connect(address: str) -> Any:
    """Returns a client of a running Dask scheduler; raises SegueError if none answers."""
    from distributed import Client

    try:
        return Client(address, timeout=CONNECT_S)
    except (OSError, ValueError, TimeoutError) as error:
        raise SegueError(
            f"--scheduler {address}: no Dask scheduler answers ({error}); give the address it printed when it "
            "started, such as tcp://host:8786."
        ) from error


def map_on_scheduler(
    function: Callable[[Item], Result], items: Sequence[Item], *, address: str
) -> Iterator[tuple[Item, Result]]:
    """Yields (item, function(item)) in the order in which they finish on the workers of a running Dask scheduler.

    An exception of `function` is raised here. Raises SegueError where no scheduler answers or a worker is lost.
    """
    from distributed import as_completed
    from distributed.scheduler import KilledWorker

    with connect(address) as client:
        futures = {client.submit(function, item, pure=False): item for item in items}
        try:
            for future in as_completed(list(futures)):
                yield futures[future], future.result()
        except KilledWorker as error:
            raise SegueError(
                f"--scheduler {address}: a worker was lost ({error}); run the same command again to go on."
            ) from error
        finally:
            client.cancel(list(futures))


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the worker without a traceback
    end_with_parent()


def end_with_parent() -> None:
    """Makes this process end when the process that started it ends, however that happens."""
    if sys.platform == "linux":  # at once, also within a long call of a compiled library
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=watch, daemon=True, name="segue-parent-watch").start()
