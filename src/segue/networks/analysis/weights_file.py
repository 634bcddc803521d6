"""Which networks' encoders a file of weights fills: by the names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from segue.errors import SegueError
from segue.networks.analysis.summary import build_on_meta_device
from segue.networks.pretrained import fill_encoder
from segue.networks.registry import NetworkSpec, build

# networks to try, by a beginning of names that all files of the family have
CANDIDATES: Mapping[str, tuple[str, ...]] = {
    "layer1.0.": tuple(f"unet-{name}" for name in (
        "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x8d",
        "se_resnext50_32x4d", "se_resnext101_32x4d",
    )),
    "patch_embed.": (
        *(f"sam-samvit_{size}_patch16" for size in ("base", "large", "huge")),
        *(f"vit-vit_{size}_patch16_224" for size in ("tiny", "small", "base", "large")),
        *(f"vit-vit_{size}_patch14_dinov2" for size in ("small", "base", "large")),
        *(f"vit-vit_{size}_patch16_dinov3" for size in ("small", "base", "large")),
        *(f"swin-swin_{size}_patch4_window7_224" for size in ("tiny", "small", "base")),
    ),
    "stages.": tuple(f"unet-tu-convnext_{size}" for size in ("atto", "tiny", "small", "base")),
    "features.": tuple(f"unet-{name}" for name in ("vgg16", "vgg16_bn", "vgg19", "densenet121", "densenet169")),
    "conv_stem.": tuple(f"unet-tu-efficientnet_b{size}" for size in range(4)),
}  # fmt: skip


def networks_for(weights: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Returns the networks, of those that are tried, whose encoder takes the tensors as `pretrained`, those first for
    which the least is resampled, each with what is.

    weights: `pretrained.read_weights` of a file. Networks are built without memory; transformers take seconds.
    """
    names = [
        name
        for beginning, candidates in CANDIDATES.items()
        if any(key.startswith(beginning) for key in weights)
        for name in candidates
    ]
    resampled = {name: changes for name in names if (changes := _resampled(name, weights)) is not None}
    return dict(sorted(resampled.items(), key=lambda item: len(item[1])))


def _resampled(name: str, weights: Mapping[str, Tensor]) -> list[str] | None:
    """Returns what is resampled to fill an encoder, None where the tensors do not fit."""
    spec = NetworkSpec(name=name)
    try:
        report = fill_encoder(build_on_meta_device(lambda: build(spec, channels=3, classes=2)), weights, source=name)
    except SegueError:
        return None
    return sorted(set(report.resampled.values()))
