"""Files of weights are told by the networks whose encoders they fill."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from samples.cli import assert_refused, run_segue

from segue.fingerprint import hash_file
from segue.networks.analysis.weights_file import networks_for
from segue.networks.registry import NetworkSpec
from segue.zoo import encoders


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
    known = encoders.KnownEncoder("tests", "unet-resnet18", "CC0", 47, None, hash_file(file))
    monkeypatch.setattr(encoders, "ENCODERS", (*encoders.ENCODERS, known))
    assert "known as  tests, license CC0" in run_segue("models", "check", file).stdout
    save_file({"encoder.a": torch.zeros(2), "head.b": torch.zeros(2)}, file)
    assert "from = { weights = " in run_segue("models", "check", file).stdout
    save_file({"a": torch.zeros(2)}, file)
    assert "none of the networks that are tried; its tensors: a, …" in run_segue("models", "check", file).stdout
    file.write_text("x")
    assert_refused(run_segue("models", "check", file), "is not a complete file of weights")


def test_listed_encoders_are_networks():
    """Every name is one that a specification takes; checksums are of sha256, and of one file each."""
    for encoder in encoders.ENCODERS:
        assert NetworkSpec(name=encoder.network).name == encoder.network
        assert encoder.address is None or encoder.address.startswith("https://")
    checksums = [encoder.sha256 for encoder in encoders.ENCODERS if encoder.sha256]
    assert all(len(one) == 64 and int(one, 16) for one in checksums) and len(set(checksums)) == len(checksums)
    assert encoders.encoder_of(checksums[0]) is encoders.ENCODERS[0] and encoders.encoder_of("0" * 64) is None
