"""Preparing survives a kill and a full disk."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from samples.folders import make_folder, make_spec
from threadpoolctl import threadpool_limits

from segue.data.maker import make_parts, work_folders
from segue.data.prepare import Prepared, prepare
from segue.data.spec import PrepareSpec
from segue.fingerprint import hash_dataset
from segue.spec import load

RUN = """
import os, resource, signal, sys
from pathlib import Path
from segue.data.prepare import PrepareSpec, prepare
from segue.errors import SegueError
from segue.spec import load
if __name__ == "__main__":
    spec, out, limit, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    killed_after = int(sys.argv[5]) if len(sys.argv) > 5 else None  # parts, and from there some calls of functions
    if limit:
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # of the workers too: bytecode would be cut off at the limit
        sys.dont_write_bytecode = True
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    def strike(done, total):
        if done == killed_after:
            calls = iter(range(100))
            sys.setprofile(lambda *_: None if next(calls, None) is not None else os.kill(os.getpid(), signal.SIGKILL))

    try:
        prepare(load(PrepareSpec, spec), out, root=spec.parent, workers=workers, progress=strike)
    except SegueError as error:
        print(error)
        sys.exit(2)
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Returns the command that prepares tmp_path/spec.toml; output, limit and workers are to be added."""
    make_folder(tmp_path, 40, (96, 96))
    spec = make_spec().model_dump(mode="json", exclude_defaults=True)
    labels = spec.pop("labels")
    lines = [f"{key} = {json.dumps(value)}" for key, value in spec.items()]
    lines += ["[labels]", *(f"{key} = {json.dumps(value)}" for key, value in labels.items())]
    (tmp_path / "spec.toml").write_text("\n".join(lines))
    (tmp_path / "run.py").write_text(RUN)
    return [sys.executable, str(tmp_path / "run.py"), str(tmp_path / "spec.toml")]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_and_called_again_it_continues(tmp_path: Path, command: list[str], workers: int) -> None:
    """After SIGKILL in the midst, the same call uses the parts that are there and ends with the same content."""
    prepare(load(PrepareSpec, tmp_path / "spec.toml"), tmp_path / "whole.h5", root=tmp_path)
    out = tmp_path / "a.h5"
    parts = tmp_path / "a.h5.parts"
    assert subprocess.run([*command, str(out), "0", str(workers), "5"]).returncode == -signal.SIGKILL
    assert not out.exists()
    assert 5 <= len(list(parts.glob("*.h5"))) <= 40
    done = prepare(load(PrepareSpec, tmp_path / "spec.toml"), out, root=tmp_path)
    assert done.cut_now <= 35
    assert hash_dataset(out) == hash_dataset(tmp_path / "whole.h5")
    assert not parts.exists()


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1000, 100_000])
def test_a_full_disk_is_told_in_one_sentence(tmp_path: Path, command: list[str], limit: int) -> None:
    """Where no room is left for a part or for the dataset, one sentence says so; afterwards the same call succeeds."""
    out = tmp_path / "a.h5"
    result = subprocess.run([*command, str(out), str(limit), "1"], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (2, "")
    assert result.stdout.count("\n") == 1
    assert "cannot be written (File too large); free disk space" in result.stdout
    assert not out.exists()
    assert not list(tmp_path.rglob("*.partial-*"))
    prepare(load(PrepareSpec, tmp_path / "spec.toml"), out, root=tmp_path)
    assert out.exists()


def test_a_second_process_waits_for_the_first(tmp_path: Path) -> None:
    """Whoever makes a dataset holds its lock; the other one waits, then finds it made and leaves it as it is."""
    spec, root = make_spec(), make_folder(tmp_path / "raw")
    out = tmp_path / "out.h5"
    prepare(spec, tmp_path / "whole.h5", root=root)
    results: list[Prepared | Warning] = []

    def second() -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results.append(prepare(spec, out, root=root))
            results.extend(warning.message for warning in caught if isinstance(warning.message, Warning))

    with work_folders(out):
        thread = threading.Thread(target=second)
        thread.start()
        while not (tmp_path / "out.h5.parts").exists():  # what it makes before it waits
            thread.join(0.01)
        shutil.copyfile(tmp_path / "whole.h5", out)
    thread.join()
    done = results[0]
    assert isinstance(done, Prepared) and done.cut_now == 0
    assert out.read_bytes() == (tmp_path / "whole.h5").read_bytes()
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.h5"]


def product(seed: int) -> bytes:
    left, right = np.random.default_rng(seed).standard_normal((2, 700, 700), dtype=np.float32)
    return (left[:, :37] @ right[:37]).tobytes() + np.linalg.inv(left).tobytes()


def test_parts_do_not_depend_on_the_threads_of_blas():
    with threadpool_limits(1):
        expected = [product(seed) for seed in range(2)]
    with threadpool_limits(2):
        made = make_parts(product, [0, 1], finished=lambda _: None, workers=1, context="here")
    assert made.results == expected
