"""Every benchmark runs in its small mode and prints its ratios; their results are in benchmarks/RESULTS.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"

# arguments of each run, in order, and a line that must be printed; a ratio is "–" where the rival is not installed
RATIO = r"(\d+\.\d+|–)"
RUNS: dict[str, list[tuple[str, str]]] = {
    "bench_augmentation.py": [("", rf"all of these but plain dihedral .* {RATIO}$")],
    "bench_engine.py": [
        ("fleet", r"^\| width 8 \| streamed.* \*\*\d+\.\d+\*\* \|$"),
        ("frozen", r"^\| width 8 \| trained .* \*\*\d+\.\d+\*\* \|"),
        ("overhead", r"^\| width 8 .* \*\*\d+\.\d+%\*\* \|$"),
    ],
    "bench_flows.py": [("", rf"decode / compute_masks, with noise .* {RATIO}$")],
    "bench_fused.py": [
        ("speed", r"^\| width 8 \| 32², batch 8 \| 2 .* \*\*\d+\.\d+\*\* \|$"),
        ("differences", r"^\| resunet, batch norm \| Adam \| 2 ( ?\| \d\.\de-\d\d){6} \|$"),
    ],
    "bench_learning_curve.py": [("OUT", r"^\| the other draws \| 2 .* \*\*\d\*\* \| \d\.\d+ \|$")],
    "bench_many_objects.py": [("", rf"^\| all scores \| .* \| {RATIO} \|$")],
    "bench_next_images.py": [("OUT", r"^\| 0 \|( −?\d\.\d+ \[.*\] \|){3} [+−]\d\.\d+ \[.*\] \|$")],
    "bench_normalization.py": [("", r"^\| background( \| \d\.\d+){9} \|$")],
    "bench_objects.py": [("", rf"^\| overlap and match \| \d+\.\d+ \| {RATIO} \|$")],
    "bench_page.py": [("", r"^\| [\d,]+ \| \*\*\d+\.\d+\*\* \| \d+\.\d+ \| \d+ \|$")],
    "bench_predict.py": [("", r"^\| \d+ \| \d+ \| .* \| yes \(\d+ objects\) \|$")],
    "bench_rays.py": [("", rf"^decode noisy scores .* {RATIO}$")],
    "bench_scheduling.py": [("", r"^\| 330 \| .* \*\*\d+\.\d+\*\* \|$")],
    "bench_simulate.py": [("", r"segue is \d+\.\d+ × as fast as abTEM")],
    "bench_stain_labels.py": [("", r"^ +0 +1 +\d\.\d+ +\d\.\d+ ")],
    "bench_stitch.py": [("", r"^\| nuclei .* phase correlation .* \d+\.\d+ × as fast \|$")],
    "bench_streaming.py": [("", r"^step +streamed .* \d+\.\d+ of resident$")],
    "bench_ten_minutes.py": [
        ("images OUT", r"^train: \d+ images"),
        ("segue OUT", r'"tool": "segue"'),
        ("unet OUT", r'"tool": "plain U-Net"'),
        ("table OUT", r"^\| segue, 1 seeds \| bbbc039 \| \d\.\d+ "),
    ],
    "bench_tiling.py": [("", r"plain, direct .* segue / it: \d+\.\d+$")],
    "bench_training.py": [("", r"^\| resunet of width 8 .* \*\*\d+\.\d+\*\* \| \*\*\d+\.\d+\*\* \|$")],
}


def test_every_benchmark_has_a_test():
    """A new benchmark is run by the test below."""
    assert {path.name for path in FOLDER.glob("bench_*.py")} == RUNS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_small_mode(name: str, tmp_path: Path):
    """The benchmark runs to its end and prints the line with its ratio, whatever that is."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    for arguments, line in RUNS[name]:
        words = [str(tmp_path) if word == "OUT" else word for word in arguments.split()]
        command = [sys.executable, str(FOLDER / name), *words, "--small"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert re.search(line, done.stdout, re.MULTILINE), done.stdout
