"""What `study plan` tells of datasets that differ from those trained on."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from samples.datasets import make_dataset, make_part

from segue.study.domains import domain_warnings
from segue.study.plan import plan_study

STUDY = """
name = "sizes"
[datasets]
coarse = { file = "coarse.h5" }
fine   = { file = "fine.h5" }
[domains.coarse]
dataset = "coarse"
[domains.fine]
dataset = "fine"
[stages.train]
domain  = "coarse"
epochs  = 1
network = { name = "unet", width = 8, depth = 2 }
target  = { name = "classes", layer = "cells" }
"""


def test_domains_of_another_pixel_size(tmp_path: Path):
    """A stage on 650 nm that is scored on 65 nm is told with both; alike domains are not."""
    for name, size_nm in (("coarse", 650.0), ("fine", 65.0)):
        folder = tmp_path / name
        folder.mkdir()
        path = make_dataset(folder, {name: make_part(name)})
        with h5py.File(path, "a") as file:
            file["samples/pixel_size_nm"] = np.full(3, size_nm)
        path.rename(tmp_path / f"{name}.h5")
    (tmp_path / "study.toml").write_text(STUDY)
    warnings = domain_warnings(plan_study(tmp_path / "study.toml"))
    sizes = [sentence for sentence in warnings if "nm per pixel" in sentence]
    assert len(sizes) == 1
    assert sizes[0].startswith("fine: has 65 nm per pixel, the training images of coarse 650 nm (10 times as large)")
