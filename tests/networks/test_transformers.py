from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor

from segue import networks, rng
from segue.errors import SegueError
from segue.networks.architectures.transformers import (
    Feature,
    Pyramid,
    SAMEncoder,
    ViTEncoder,
    position_note,
    quarter_ends,
)
from segue.networks.blocks import bicubic
from segue.networks.network import Network
from segue.networks.registry import NetworkSpec
from segue.training.checkpoint import load_weights, save_weights

VIT = "vit-vit_tiny_patch16_224"


def images(*shape: int) -> Tensor:
    return torch.randn(shape, generator=rng.torch_generator(0, "images"))


def of(encoder: Any, *, channels: int = 1) -> Network:
    decoder = Pyramid(channels, encoder.features)
    return Network(encoder, decoder, torch.nn.Conv2d(decoder.width, 2, 1), channels=channels)


def small_vit(**more: Any) -> Network:
    table: dict[str, Any] = {"img_size": 32, "patch_size": 8, "in_chans": 1, "num_classes": 0, "embed_dim": 24}
    table |= {"depth": 4, "num_heads": 3} | more
    with rng.scope(0, "test"):
        return of(ViTEncoder(VisionTransformer(**table)))


def small_sam() -> Network:
    with rng.scope(0, "test"):
        model = VisionTransformerSAM(
            img_size=64, patch_size=8, in_chans=1, num_classes=0, embed_dim=24, depth=4, num_heads=3, neck_chans=16,
            use_rel_pos=True, window_size=3, global_attn_indexes=(1, 3),
        )  # fmt: skip
        for parameter in model.parameters():  # positions begin at zero
            torch.nn.init.normal_(parameter, std=0.1)
        return of(SAMEncoder(model))


def built(name: str, **more: Any) -> Network:
    with rng.scope(0, "test"):
        return networks.build(NetworkSpec.model_validate({"name": name, **more}), channels=1, classes=2)


@pytest.mark.parametrize(
    ("name", "factor"), [(VIT, 16), pytest.param("swin-swin_tiny_patch4_window7_224", 32, marks=pytest.mark.slow)]
)
def test_trained_saved_and_loaded(name: str, factor: int, tmp_path: Path):
    """A step of training lowers the loss at one size, and the weights give the same scores at another when loaded."""
    network = built(name)
    assert networks.divisor(NetworkSpec(name=name)) == factor
    x, losses = images(1, 1, 2 * factor, factor), []
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(2):
        with rng.scope(0, "drops"):  # Swin leaves units out by itself
            losses.append(network(x).square().mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[1] < losses[0]
    assert all(p.grad is not None for p in network.parameters())
    save_weights(network.state_dict(), tmp_path / "weights.safetensors")
    other = built(name)
    other.load_state_dict(load_weights(tmp_path / "weights.safetensors"))
    with torch.inference_mode():
        wide = images(1, 1, factor, 3 * factor)
        assert torch.equal(network.eval()(wide), other.eval()(wide))
        assert network(wide).shape == (1, 2, factor, 3 * factor)


@pytest.mark.parametrize("network", [small_vit, small_sam, lambda: small_vit(patch_size=14, img_size=56)])
def test_blocks_are_grouped_in_four_stages(network: Any):
    """The encoder has four parts of which the first makes the first feature; the decoder has one per doubling."""
    made = network()
    steps = made.encoder.features[0].stride_px.bit_length()
    assert list(made.parts) == [*(f"encoder.{i}" for i in range(4)), *(f"decoder.{i}" for i in range(steps)), "head"]
    assert "encoder.model.blocks.0" in made.parts["encoder.0"]
    assert "encoder.model.pos_embed" in made.parts["encoder.0"]
    side = 4 * made.encoder.features[0].stride_px
    assert made(images(2, 1, side, 2 * side)).shape == (2, 2, side, 2 * side)


@pytest.mark.parametrize(("depth", "ends"), [(12, (2, 5, 8, 11)), (32, (7, 15, 23, 31)), (2, (0, 1))])
def test_quarters(depth: int, ends: tuple[int, ...]):
    """Quarters of the blocks end evenly, the last with the last block."""
    assert quarter_ends(depth) == ends


@pytest.mark.parametrize("more", [
    {}, {"class_token": False, "global_pool": "avg"}, {"reg_tokens": 2}, {"reg_tokens": 2, "no_embed_class": True},
])  # fmt: skip
@pytest.mark.parametrize("shape", [(32, 32), (48, 24)])
def test_features_are_those_of_timm(more: dict[str, Any], shape: tuple[int, int]):
    """The last feature is what timm's own forward pass gives, also where position embeddings are resampled."""
    network = small_vit(**more).double().eval()
    model: Any = VisionTransformer(
        img_size=32, patch_size=8, in_chans=1, num_classes=0, embed_dim=24, depth=4, num_heads=3,
        dynamic_img_size=True, **more,
    ).double().eval()  # fmt: skip
    model.load_state_dict(network.encoder.get_submodule("model").state_dict())
    x = images(2, 1, *shape).double()
    with torch.inference_mode():
        expected = model.forward_features(x)[:, model.num_prefix_tokens :].transpose(1, 2)
        torch.testing.assert_close(network.encoder(x)[-1].flatten(2), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(64, 64), (40, 72)])
def test_features_of_sam_are_those_of_timm(shape: tuple[int, int]):
    """What leaves SAM's neck is what timm's own forward pass gives, at the size it is made for and at another."""
    network = small_sam().eval()
    model: Any = network.encoder.get_submodule("model")
    x = images(1, 1, *shape)
    with torch.inference_mode():
        torch.testing.assert_close(network.encoder(x)[-1], model.forward_features(x), atol=1e-4, rtol=1e-4)


def test_features_of_swin_are_those_of_timm():
    """The last feature of Swin is what timm's own forward pass gives, of a size that is no multiple of windows."""
    network = built("swin-swin_tiny_patch4_window7_224").eval()
    model: Any = network.encoder.get_submodule("model")
    with torch.inference_mode():
        x = images(1, 1, 64, 96)
        torch.testing.assert_close(network.encoder(x)[-1].permute(0, 2, 3, 1), model.forward_features(x))


@pytest.mark.parametrize("shape", [(7, 5), (14, 14), (20, 9)])
def test_position_embeddings_are_resampled_as_timm_does(shape: tuple[int, int]):
    """Bicubic resampling by matrices is timm's, and its gradient is that of interpolation."""
    grid = images(1, 196, 6).requires_grad_()
    ours = bicubic(grid.transpose(1, 2).unflatten(2, (14, 14)), shape).flatten(2).transpose(1, 2)
    other = grid.detach().clone().requires_grad_()
    theirs = resample_abs_pos_embed(other, list(shape), num_prefix_tokens=0)
    torch.testing.assert_close(ours, theirs)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    torch.testing.assert_close(grid.grad, other.grad)


def test_resampling_is_told():
    """What happens to position embeddings is said with both grids; networks without say nothing."""
    network = small_vit()
    assert position_note(network, 32, 32) == "learned for 4x4 patches (32x32 px), used as they are"
    assert "resampled (bicubic) to 6x3 for images of 48x24 px" in str(position_note(network, 48, 24))
    assert position_note(built("unet", width=8), 32, 32) is None


@pytest.mark.parametrize(("stride", "skips"), [(1, [0]), (4, [3, 0]), (8, [3, 2, 0]), (32, [3, 2, 1, None, 0])])
def test_where_skips_join(stride: int, skips: list[int | None]):
    """Features join from the deepest on, the image at its own size, whatever the stride."""
    decoder = Pyramid(2, [Feature(5, stride)] * 4)
    assert decoder.skips == (skips if stride > 1 else [])
    if stride > 1:
        maps = [images(2, 5, 2, 3)] * 4
        assert decoder([images(2, 2, 2 * stride, 3 * stride), *maps]).shape == (
            2, decoder.width, 2 * stride, 3 * stride,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "vit-vit_tiny_patch16_225",
            "timm has no model 'vit_tiny_patch16_225'; did you mean vit_tiny_patch16",
        ),
        ("vit-deit_tiny_distilled_patch16_224", "is a VisionTransformerDistilled, but vit takes VisionTransformer"),
    ],
)
def test_other_models_are_refused(name: str, message: str):
    """Models of another kind, or that are not there, are told with what to take."""
    with torch.device("meta"), pytest.raises(SegueError, match=message):
        built(name)


@pytest.mark.slow
def test_the_largest_are_built_without_memory():
    """ViT-H has the published 632 M parameters with its 1000 classes; SAM's and that of 16 px patches are told too."""
    with torch.device("meta"):
        classifier = timm.create_model("vit_huge_patch14_224", num_classes=1000)
        network = built("vit-vit_huge_patch14_224", patch_px=16, side_px=512)
    assert round(sum(p.numel() for p in classifier.parameters()) / 1e6) == 632
    encoder = sum(p.numel() for p in network.encoder.parameters())
    # without classes; one channel instead of three, patches of 16 px, 32x32 positions instead of 16x16
    assert encoder == 632_045_800 - 1281 * 1000 + (16 * 16 - 3 * 14 * 14) * 1280 + (32 * 32 - 16 * 16) * 1280
    assert all(p.is_meta for p in network.parameters())
