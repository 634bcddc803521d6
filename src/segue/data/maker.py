"""Makes a dataset from parts so that it can be interrupted at any moment and continued by the same call.

`prepare`, `simulate` and `plate` follow the same steps: refuse an output of another specification (`is_made`), make the
missing parts in worker processes, each appearing only when it is complete (`make_parts`), write the dataset from the
parts, and remove the intermediate files (`work_folders`).
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from filelock import FileLock, Timeout
from threadpoolctl import threadpool_limits

from segue.data.dataset import Dataset
from segue.errors import SegueError, warn
from segue.parallel import map_unordered
from segue.storage import make_folder, refusal, remove_abandoned

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class MadeParts(Generic[Result]):
    """The results of all parts, in the order of their items, and how many parts this call made."""

    results: list[Result]
    made_now: int


def is_made(out: Path, attribute: str, value: str) -> bool:
    """Returns whether `out` exists and is the dataset whose `attribute` records `value`, its specification or inputs.

    Raises SegueError if `out` exists and is anything else: nothing is overwritten.
    """
    if not out.exists():
        return False
    try:
        with Dataset(out) as dataset:
            recorded = dataset.attributes.get(attribute)
    except SegueError as error:
        raise SegueError(
            f"{out}: exists and is not a complete segue dataset; remove it, or give another output."
        ) from error
    if recorded != value:
        raise SegueError(
            f"{out}: holds a dataset of another specification or other files; choose another file or remove this one."
        )
    return True


def make_parts(
    make: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    finished: Callable[[Item], Result | None],
    workers: int,
    context: Path | str,
    progress: Callable[[int, int], None] | None = None,
) -> MadeParts[Result]:
    """Calls `make` for every item whose part does not exist yet, in `workers` processes.

    `finished` returns the result of a part that is there already, else None. `make` must write its part so that it
    appears only when it is whole (`storage.replacing`); while it runs, BLAS has one thread, for products of several
    threads differ in their last bits. `progress(done, total)` is called at the start and after every part. Errors as in
    `parallel.map_unordered`.
    """
    results: dict[int, Result] = {}
    for index, item in enumerate(items):
        result = finished(item)
        if result is not None:
            results[index] = result
    missing = [index for index in range(len(items)) if index not in results]
    report = progress or (lambda done, total: None)
    report(len(results), len(items))
    work = partial(_make_item, make)
    todo = [(index, items[index]) for index in missing]
    for (index, _), result in map_unordered(work, todo, workers=workers, context=context):
        results[index] = result
        report(len(results), len(items))
    return MadeParts([results[index] for index in range(len(items))], len(missing))


def _make_item(make: Callable[[Item], Result], numbered: tuple[int, Item]) -> Result:
    with threadpool_limits(1, user_api="blas"):
        return make(numbered[1])


@contextlib.contextmanager
def work_folders(out: Path, *folders: Path) -> Iterator[None]:
    """Lets one process at a time make `out`; removes, after a success, the folders of intermediate files and the
    partial files of killed processes.

    Another process waits, so that it has to look again whether `out` is made (`is_made`). The lock `<out>.lock` is
    released by the system however a process ends. Raises SegueError where the folder of `out` cannot be written.
    """
    make_folder(out.parent)
    lock = FileLock(out.with_name(f"{out.name}.lock"))
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            warn(f"{out}: another process is making this dataset; waiting for it to end")
            lock.acquire()
    except OSError as error:
        raise SegueError(refusal(out, error)) from error
    try:
        yield
        remove_abandoned(out)
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        Path(lock.lock_file).unlink(missing_ok=True)  # whoever waits for it finds `out` made
    finally:
        lock.release()
