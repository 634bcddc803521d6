"""Pieces of work shared among processes that end with the one that started them."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

from segue.errors import SegueError

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(
    work: Callable[[Item], Result], items: Sequence[Item], *, workers: int, place: Path
) -> Iterator[tuple[Item, Result]]:
    """Yields every item with what `work` returns for it, in the order they finish; in this process for one worker.

    `work` and the items travel to other processes: a function of a module, or a partial of one. An error of `work` is
    raised here, and what has not begun is given up. Raises SegueError naming `place` where a process was killed.
    """
    if workers <= 1 or len(items) < 2:
        for item in items:
            yield item, work(item)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(items)), context, _end_with_parent) as pool:
        futures = {pool.submit(work, item): item for item in items}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise SegueError(
                f"{place}: a worker process was killed, perhaps for want of memory; run the same command again, with "
                "fewer workers: it continues."
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone, however it ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:

        def wait() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=wait, daemon=True).start()
