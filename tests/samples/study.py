"""A small study over discs: two pretrainings and eight transfers, of a second each."""

from __future__ import annotations

from pathlib import Path

HEAD = """
name = "discs"
seeds = 2
network = { name = "resunet", width = 8 }
split = { validation = 0.2, test = 0.2 }

[datasets.discs]
file = "DISCS"

[domains]
low = { dataset = "discs", contrast = "low" }
high = { dataset = "discs", contrast = "high" }
"""

STAGES = """
[stages.pretrain]
domain = "high"
images = 12
epochs = 2
augment = "dihedral-all"
precision = "fp32"

[stages.transfer]
from = "pretrain"
domain = { each = ["low", "high"], except = "pretrain.domain" }
images = { each = [2, 4] }
epochs = 2
freeze = { each = ["none", "encoder"] }
augment = "dihedral-all"
precision = "fp32"
"""


def write_study(path: Path, discs: Path, stages: str = STAGES) -> Path:
    """Writes the file of a study over a dataset of discs, with these stages; returns its path."""
    path.write_text(HEAD.replace("DISCS", str(discs)) + stages, encoding="utf-8")
    return path
