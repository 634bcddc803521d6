"""`segue fit` on color images: made sections with nuclei of real shapes in hematoxylin, eosin and gaps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage.color import combine_stains, rgb_from_hed

from segue.fitting.fit import Request, fit

ROOT = Path(__file__).resolve().parents[2]
SIDE = 256


def make_sections(folder: Path, count: int) -> None:
    """Writes RGB sections of 256² px and their numbered nuclei, whose shapes are those of fields of BBBC039.

    Per image the strength of both stains and the sharpness differ; eosin has the texture of noise at two scales, a
    tenth of the area is an unstained gap, and a third of the nuclei is pale.
    """
    fields = sorted((ROOT / "examples/data/bbbc039/labels").glob("*.png"))[:count]
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for index, path in enumerate(fields):
        rng = np.random.default_rng(index)

        def texture(sigma_px: float, rng: np.random.Generator = rng) -> np.ndarray:
            noise = ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), sigma_px)
            return noise / noise.std()

        labels = np.array(Image.open(path))[:SIDE, :SIDE]
        strength = rng.uniform(0.5, 1.0, labels.max() + 1) * np.where(rng.random(labels.max() + 1) < 1 / 3, 0.5, 1.0)
        inside = ndimage.gaussian_filter((labels > 0) * strength[labels], rng.uniform(0.6, 1.4))
        stains = np.zeros((SIDE, SIDE, 3))
        stains[..., 0] = rng.uniform(0.10, 0.16) * inside * (1 + 0.25 * texture(1.5)) + 0.01
        gaps = texture(12) > 1.3
        eosin = rng.uniform(0.05, 0.12) * (1 + 0.2 * texture(6) + 0.1 * texture(1.5))
        stains[..., 1] = eosin * ~gaps * (1 - 0.5 * inside)
        section = combine_stains(np.clip(stains, 0, None), rgb_from_hed)
        pixels = np.clip(255 * section + rng.normal(0, 3, section.shape), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"section{index:02}.png")
        Image.fromarray(labels.astype(np.uint16)).save(folder / "labels" / f"section{index:02}.png")


@pytest.mark.slow
def test_nuclei_of_stained_tissue_are_found(tmp_path: Path):
    """Three channels, dark objects on a bright ground: 300 steps are enough to beat the constant answer by far."""
    make_sections(tmp_path, 12)
    request = Request(f"{tmp_path}/images", f"{tmp_path}/labels", tmp_path / "model", steps=300)
    result = fit(request, progress=lambda *_, **__: None, log=lambda line: None)
    chosen = json.loads((result.model / "fit.json").read_text())["candidates"][0]["test"]
    assert chosen["images"] == 3 and chosen["mean"] > 0.5
