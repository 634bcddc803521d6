"""What `study plan` tells of datasets that differ from those trained on."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import tifffile
from samples.datasets import make_dataset, make_part

from segue.data.prepare import prepare
from segue.data.spec import PrepareSpec
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


def test_pictures_of_one_dataset_in_another(tmp_path: Path):
    """Copies under other names, one of them rotated, are told; a picture of equal group is left to the split."""
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 4000, (64, 64), dtype=np.uint16) for _ in range(4)]
    labels = np.zeros((64, 64), np.uint8)
    labels[8:20, 8:20] = 1
    contents = {
        "coarse": {"a": pictures[0], "b": pictures[1], "same": pictures[2]},
        "fine": {"x": np.rot90(pictures[0]), "y": pictures[1], "same": pictures[2], "z": pictures[3]},
    }
    for dataset, images in contents.items():
        for name, image in images.items():
            for kind, values in (("images", image), ("labels", labels)):
                (tmp_path / dataset / kind).mkdir(parents=True, exist_ok=True)
                tifffile.imwrite(tmp_path / dataset / kind / f"{name}.tif", values)
        spec = {
            "name": dataset, "images": "images/*.tif", "tile_px": 32, "group": "stem",
            "labels": {"files": "labels/{stem}.tif", "layer": "cells", "kind": "classes", "names": ("", "cell")},
        }  # fmt: skip
        prepare(PrepareSpec.model_validate(spec), tmp_path / f"{dataset}.h5", root=tmp_path / dataset)
    (tmp_path / "study.toml").write_text(STUDY)
    copies = [sentence for sentence in domain_warnings(plan_study(tmp_path / "study.toml")) if "picture" in sentence]
    assert len(copies) == 1
    assert copies[0].startswith("fine: 2 of 4 pictures are also in coarse")
    assert "(e.g. x.tif and a.tif)" in copies[0]
