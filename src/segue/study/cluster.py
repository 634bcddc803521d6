"""Stages on a Dask cluster: worker processes of this machine, or a scheduler that runs elsewhere."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from distributed import Client, LocalCluster, WorkerPlugin, as_completed

from segue.errors import SegueError
from segue.study.work import Done, Work, perform

PR_SET_PDEATHSIG = 1
CONNECT_S = 20


class EndWithParent(WorkerPlugin):
    """Ends a worker when the process that started it is killed: it would go on training unwatched."""

    name = "end-with-parent"

    def setup(self, worker: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the command ends its workers
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class OnCluster:
    def __init__(self, client: Client) -> None:
        self._client = client
        self._works: dict[str, Sequence[Work]] = {}
        self._completed = as_completed(with_results=True, raise_errors=False)

    def submit(self, works: Sequence[Work]) -> None:
        key = works[0].key
        self._works[key] = works
        self._completed.add(self._client.submit(perform, works, key=key, pure=False))

    def next(self) -> list[Done]:
        future, result = next(self._completed)
        if isinstance(result, list):
            return result
        # a worker that died takes its exception's place: the stages resume from their checkpoints the next time
        error = result[1] if isinstance(result, tuple) else result
        told = f"its worker was lost ({error}); run the study again to go on from its checkpoint"
        return [Done(work.key, 0.0, False, told) for work in self._works[future.key]]


@contextmanager
def connected(workers: int, scheduler: str | None) -> Iterator[OnCluster]:
    """Gives a cluster of `workers` local processes with one thread each, or the one at `scheduler` (host:port)."""
    logging.getLogger("distributed").setLevel(logging.ERROR)
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=CONNECT_S)
        except (OSError, ValueError, TimeoutError) as error:
            raise SegueError(
                f"--scheduler {scheduler}: no Dask scheduler answers ({error}); give the address it printed when it "
                "started, such as tcp://host:8786."
            ) from error
        with client:
            yield OnCluster(client)
        return
    os.environ.setdefault("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "60s")
    with _local_cluster(workers) as cluster, Client(cluster) as client:
        client.register_plugin(EndWithParent())
        yield OnCluster(client)


def _local_cluster(workers: int) -> LocalCluster:
    try:
        return LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",  # any free port: a fixed one warns where two studies run
            silence_logs=logging.ERROR,
        )
    except RuntimeError as error:
        raise SegueError(
            f"workers = {workers}: the worker processes did not start ({str(error).splitlines()[0]}); in a script of "
            'your own, call segue under `if __name__ == "__main__":`, since each worker imports the script again, or '
            "use workers=1."
        ) from error
