from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from segue import networks, rng
from segue.errors import SegueError
from segue.networks.network import Network
from segue.networks.pretrained import LoadingReport, fill_encoder, load_pretrained, read_weights
from segue.networks.registry import NetworkSpec

VIT = "vit_tiny_patch16_224"


def model(name: str, **more: Any) -> nn.Module:
    with rng.scope(0, "pretrained"):
        return timm.create_model(name, **more)


def loaded(table: dict[str, Any], *, channels: int = 1) -> tuple[Network, LoadingReport]:
    spec = NetworkSpec.model_validate(table)
    with rng.scope(0, "test"):
        network = networks.build(spec, channels=channels, classes=2)
    report = load_pretrained(network, spec, context="stage.toml")
    assert report is not None
    return network, report


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=rng.torch_generator(0, "images"))


@pytest.fixture(scope="module")
def vit_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file(model(VIT).state_dict(), path)
    return path


def test_a_file_of_the_same_size_gives_the_same_features(vit_file: Path):
    """Where nothing is to be adapted the encoder computes what timm's model does, and the rest stays as it was."""
    network, report = loaded({"name": f"vit-{VIT}", "pretrained": str(vit_file)}, channels=3)
    theirs: Any = model(VIT, dynamic_img_size=True).eval()
    x = images(1, 3, 32, 48)
    with torch.inference_mode():
        expected = theirs.forward_features(x)[:, 1:].transpose(1, 2)
        torch.testing.assert_close(network.eval().encoder(x)[-1].flatten(2), expected, atol=1e-4, rtol=1e-4)
    assert len(report.loaded) == len(network.encoder.state_dict())
    assert set(report.left_out) == {"head.weight", "head.bias"}
    assert not report.adapted and not report.resampled and not report.missing
    assert {name.partition(".")[0] for name in report.initialised} == {"decoder", "head"}


@pytest.mark.parametrize(("by", "factor"), [("sum", 1.0), ("mean", 1 / 3)])
@pytest.mark.parametrize("channels", [1, 2])
def test_channels_and_sizes_are_adapted_and_told(vit_file: Path, by: str, factor: float, channels: int):
    """Equal channels act as a grey image does in RGB, or each as a third of it; positions are resampled as by timm."""
    table = {"name": f"vit-{VIT}", "side_px": 64, "pretrained": str(vit_file), "pretrained_channels": by}
    network, report = loaded(table, channels=channels)
    weights = read_weights(vit_file)
    convolution = network.encoder.get_submodule("model.patch_embed.proj")
    gray = images(1, 1, 16, 16)
    with torch.no_grad():
        bias = weights["patch_embed.proj.bias"]
        response = nn.functional.conv2d(gray.expand(-1, 3, -1, -1), weights["patch_embed.proj.weight"]).flatten()
        share = factor if by == "sum" else factor * channels
        actual = convolution(gray.expand(-1, channels, -1, -1)).flatten()
        torch.testing.assert_close(actual, response * share + bias, atol=1e-5, rtol=1e-4)
    positions = network.encoder.get_parameter("model.pos_embed")
    torch.testing.assert_close(positions, resample_abs_pos_embed(weights["pos_embed"], [4, 4]))
    divided = " / 2" if by == "sum" and channels == 2 else ""
    assert report.adapted == {"encoder.model.patch_embed.proj.weight": f"3 → {channels} channels, {by}{divided}"}
    assert report.resampled == {"encoder.model.pos_embed": "position embeddings 14x14 → 4x4, bicubic"}
    assert "1 resampled, 1 adapted" in report.describe() and "14x14 → 4x4" in report.describe()


def test_patches_of_another_size(vit_file: Path):
    """Patches of 32 px are made of those of 16 px such that the embedding of an image twice as large stays the same."""
    network, report = loaded({"name": f"vit-{VIT}", "patch_px": 32, "pretrained": str(vit_file)}, channels=3)
    assert report.resampled["encoder.model.patch_embed.proj.weight"] == "patches of 16x16 → 32x32 px"
    weights, small = read_weights(vit_file), images(2, 3, 16, 16)
    large = nn.functional.interpolate(small, (32, 32), mode="bicubic", antialias=True)
    with torch.no_grad():
        actual = network.encoder.get_submodule("model.patch_embed.proj")(large)
        expected = nn.functional.conv2d(small, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"])
    torch.testing.assert_close(actual, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("unet-resnet18", "resnet18"),
        ("unet-tu-convnext_atto", "convnext_atto"),
        ("mobilenet-transposed", "mobilenetv2_100"),
        ("timm-resnet10t", "resnet10t"),
    ],
)
@pytest.mark.parametrize("container", [None, pytest.param("state_dict", marks=pytest.mark.slow)])
def test_files_of_timm_fill_all_kinds_of_encoders(name: str, theirs: str, container: str | None, tmp_path: Path):
    """Encoders of every package take timm's names, of safetensors and of torch's checkpoints with one channel."""
    state = model(theirs, in_chans=1).state_dict()
    path = tmp_path / ("weights.safetensors" if container is None else "weights.pth")
    if container is None:
        save_file(state, path)
    else:
        torch.save({container: {f"module.{n}": v for n, v in state.items()}, "epoch": 3}, path)
    network, report = loaded({"name": name, "pretrained": str(path)})
    assert len(report.loaded) == len(network.encoder.state_dict()) and not report.adapted
    first = next(value for value in state.values() if value.dim() == 4)
    assert any(torch.equal(value, first) for value in network.encoder.state_dict().values())


def test_sam_files_as_published(tmp_path: Path):
    """SAM's own names are read as timm's, and relative positions come to another grid as SAM brings them."""
    from timm.models.vision_transformer_sam import VisionTransformerSAM

    from segue.networks.architectures.transformers import Pyramid, SAMEncoder

    def made(side: int) -> Any:
        return VisionTransformerSAM(
            img_size=side, patch_size=8, in_chans=1, num_classes=0, embed_dim=24, depth=4, num_heads=3, neck_chans=16,
            use_rel_pos=True, window_size=3, global_attn_indexes=(1, 3),
        )  # fmt: skip

    with rng.scope(0, "test"):
        state = {n: torch.randn_like(v) for n, v in made(64).state_dict().items()}
        encoder = SAMEncoder(made(32))
        network = Network(encoder, Pyramid(1, encoder.features), nn.Conv2d(32, 2, 1), channels=1)
    published = {"image_encoder." + n.replace("mlp.fc", "mlp.lin"): v for n, v in state.items()}
    torch.save(published | {"mask_decoder.iou.weight": torch.zeros(2)}, tmp_path / "sam.pth")
    report = fill_encoder(network, read_weights(tmp_path / "sam.pth"), source="sam.pth")
    assert report.left_out == ("mask_decoder.iou.weight",)
    assert report.resampled["encoder.model.pos_embed"] == "position embeddings 8x8 → 4x4, bicubic"
    assert report.resampled["encoder.model.blocks.1.attn.rel_pos_h"] == "relative positions 15 → 7, linear"
    assert torch.equal(encoder.model.blocks[0].mlp.fc1.weight, state["blocks.0.mlp.fc1.weight"])


class Trap:
    """A thing that writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_nothing_in_a_file_is_executed(tmp_path: Path):
    """A checkpoint that holds code is refused with a sentence and the code does not run."""
    torch.save({"state_dict": Trap(tmp_path / "sprung")}, tmp_path / "trap.pth")
    with pytest.raises(SegueError, match=r"trap.pth: holds more than tensors, .*save its tensors as safetensors"):
        read_weights(tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


def test_files_that_are_none(tmp_path: Path):
    """Files that are missing, cut short or without tensors are told by name."""
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 cut")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(3))
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    for name, message in (
        ("none.pth", "there is no such file"),
        ("cut.safetensors", "is not a complete file of weights"),
        ("cut.pth", "is not a complete file of weights|holds more than tensors"),
        ("plain.pth", "is not a complete file of weights|holds more than tensors|holds no tensors"),
        ("empty.pth", "holds no tensors by name"),
    ):
        with pytest.raises(SegueError, match=message):
            read_weights(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("other", r"weights.safetensors lacks \d+ of the \d+ tensors of the encoder, first 'conv1.weight'"),
        ("missing", r"lacks 1 of the \d+ tensors of the encoder, first 'layer2.0.conv1.weight'"),
        ("shape", r"'layer1.0.bn1.weight' of .* is \(3,\), and the encoder's is \(64,\)"),
        ("ours", r"start the stage from weights of segue with from = … instead of pretrained"),
    ],
)
def test_weights_of_another_encoder_are_refused(change: str, message: str, tmp_path: Path):
    """Weights that lack a tensor or have another shape are refused, and the network stays as it was."""
    state = dict(model("convnext_atto" if change == "other" else "resnet18").state_dict())
    if change == "missing":
        del state["layer2.0.conv1.weight"]
    elif change == "shape":
        state["layer1.0.bn1.weight"] = torch.ones(3)
    elif change == "ours":
        state = {f"encoder.x.{name}": value for name, value in state.items()}
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    spec = NetworkSpec.model_validate({"name": "unet-resnet18", "pretrained": str(path)})
    with rng.scope(0, "test"):
        network = networks.build(spec, channels=1, classes=2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(SegueError, match=message):
        load_pretrained(network, spec, context="stage.toml")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("name", [f"vit-{VIT}", "unet-tu-resnet18", "unet-resnet18", "mobilenet-transposed"])
def test_weights_that_cannot_be_fetched(name: str, monkeypatch: pytest.MonkeyPatch):
    """Without the network one sentence names the model, what failed, and that a file can be given."""
    import segmentation_models_pytorch as smp

    spec = NetworkSpec.model_validate({"name": name, "pretrained": True})
    with torch.device("meta"):
        network = networks.build(spec, channels=1, classes=2)

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to the hub\nand more")

    monkeypatch.setattr(timm, "create_model", unreachable)
    monkeypatch.setattr(smp.encoders, "get_encoder", unreachable)
    message = r"the pretrained weights of '\w+' could not be fetched \(OSError: no route to the hub\); .*give a file"
    with pytest.raises(SegueError, match=message):
        load_pretrained(network, spec, context="stage.toml")


def test_nothing_is_loaded_unasked():
    """Without `pretrained` the network stays as it is and there is no report."""
    assert load_pretrained(nn.Identity(), NetworkSpec(), context="x") is None  # type: ignore[arg-type]
