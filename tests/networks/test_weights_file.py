"""Files of weights are told by the networks whose encoders they fill."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from samples.cli import assert_refused, run_segue

from segue.errors import SegueError
from segue.fingerprint import hash_file
from segue.networks.analysis.weights_file import networks_for
from segue.networks.pretrained import read_weights
from segue.networks.registry import NetworkSpec
from segue.zoo import encoders
from segue.zoo.shipped import CARD, WEIGHTS, shipped_models


@pytest.mark.slow
def test_a_resnet_is_known_by_its_tensors():
    """Of all residual networks only the one it is, whatever its first convolution; none where a tensor lacks."""
    weights = timm.create_model("resnet18").state_dict()
    assert networks_for(weights) == {"unet-resnet18": []}
    weights["conv1.weight"] = weights["conv1.weight"].mean(1, keepdim=True)
    assert list(networks_for(weights)) == ["unet-resnet18"]
    del weights["layer3.0.conv1.weight"]
    assert networks_for(weights) == {}


@pytest.mark.slow
@pytest.mark.parametrize(("model", "network"), [
    ("vit_tiny_patch16_224", "vit-vit_tiny_patch16_224"), ("vit_small_patch14_dinov2", "vit-vit_small_patch14_dinov2"),
    ("convnext_tiny", "unet-tu-convnext_tiny"), ("swin_tiny_patch4_window7_224", "swin-swin_tiny_patch4_window7_224"),
    ("efficientnet_b0", "unet-tu-efficientnet_b0"), ("densenet121", "unet-densenet121"),
])  # fmt: skip
def test_other_families(model: str, network: str):
    """The network itself comes first; others may take its tensors resampled."""
    fitting = networks_for(timm.create_model(model).state_dict())
    assert next(iter(fitting)) == network
    assert all(changes for name, changes in fitting.items() if name != network)


@pytest.mark.slow
def test_the_command_says_what_a_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "r.safetensors"
    save_file(timm.create_model("resnet18").state_dict(), file)
    text = run_segue("models", "check", file).stdout
    assert f'fits      network = {{ name = "unet-resnet18", pretrained = "{file}" }}' in text
    assert "no file of `segue models`" in text and hash_file(file) in text
    known = encoders.KnownEncoder("tests", "unet-resnet18", "CC0", 47, "https://a.b", f"sha256 {hash_file(file)}")
    monkeypatch.setattr(encoders, "ENCODERS", (*encoders.ENCODERS, known))
    assert "known as  tests, license CC0" in run_segue("models", "check", file).stdout
    save_file({"encoder.a": torch.zeros(2), "head.b": torch.zeros(2)}, file)
    assert "from = { weights = " in run_segue("models", "check", file).stdout
    save_file({"a": torch.zeros(2)}, file)
    assert "none of the networks that are tried; its tensors: a, …" in run_segue("models", "check", file).stdout
    file.write_text("x")
    assert_refused(run_segue("models", "check", file), "is not a complete file of weights")


def test_listed_encoders_are_networks():
    """Every name is one that a specification takes; checksums are of one file each."""
    for encoder in encoders.ENCODERS:
        assert encoder.network is None or NetworkSpec(name=encoder.network).name == encoder.network
        assert encoder.address.startswith("https://")
    checksums = [encoder.checksum.split() for encoder in encoders.ENCODERS if encoder.checksum]
    assert all(len(value) == {"sha256": 64, "xxh128": 32}[kind] and int(value, 16) for kind, value in checksums)
    assert len({value for _, value in checksums}) == len(checksums)
    assert encoders.encoder_of(checksums[0][1]) is encoders.ENCODERS[0] and encoders.encoder_of("0" * 64) is None


def test_the_list_is_whole_and_fits_a_terminal():
    """Of every file license, size, address and checksum, or that none is published; no line is wider than 120."""
    text = run_segue("models").stdout
    for encoder in encoders.ENCODERS:
        assert f"{encoder.license}" in text and f"{encoder.size_MB:,} MB\n{encoder.address}" in text
        assert encoder.checksum is None or f"\n{encoder.checksum}\n" in text
    assert text.count("checksum not published") == 3 and text.count("sha256 on the page of the file") == 5
    assert "mouseland/cellpose-sam" in text and "models/cyto3" in text and "Weights of Cellpose are not read" in text
    assert all(len(line) <= 120 or line.endswith(CARD) for line in text.splitlines())


def test_shipped_models_are_known(tmp_path: Path):
    """By their weights, wherever a copy lies, and by the folder of the run; changed weights are others."""
    nuclei, copy = shipped_models()["nuclei"], tmp_path / "n.bin"
    shutil.copy(nuclei / WEIGHTS, copy)
    for file in (nuclei / WEIGHTS, copy):
        assert "known as  the weights of nuclei, which ships with segue" in run_segue("models", "check", file).stdout
    text = run_segue("models", "check", nuclei).stdout
    assert f"run       {nuclei}; segue inspect" in text and "known as  the weights of nuclei" in text
    save_file({name: value + 1 for name, value in load_file(copy).items()}, copy)
    text = run_segue("models", "check", copy).stdout
    assert "nuclei" not in text and "no file of `segue models`" in text and "from = { weights = " in text


def test_what_holds_no_weights_is_told_as_such(tmp_path: Path):
    """Images, texts and folders are not mistaken for files with code."""
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "a.tif")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    for name in ("a.tif", "a.png", "a.csv"):
        done = run_segue("models", "check", tmp_path / name)
        assert_refused(done, f"{name}: is no file of weights, neither safetensors nor a checkpoint of torch")
    assert_refused(run_segue("models", "check", tmp_path), f"{tmp_path}: is a folder, and not that of a run")
    with pytest.raises(SegueError, match="is a folder; give a file of weights"):
        read_weights(tmp_path)
    for damaged in (b"\x80\x02u.", b"\x80", b"PK", b""):
        (tmp_path / "a.pth").write_bytes(damaged)
        assert_refused(run_segue("models", "check", tmp_path / "a.pth"), "a.pth: ")
