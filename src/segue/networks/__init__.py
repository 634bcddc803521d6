"""Networks by name: functions of plain numbers that return an nn.Module with .encoder, .decoder and .head.

`resunet` is the network of the HRTEM study. Any other name is `<decoder>-<encoder>` of
segmentation-models-pytorch, e.g. `unet-resnet18`, `fpn-mobilenet_v2`, `unet-tu-convnext_tiny`.
Nothing here imports torch before a network is built, so that a plan can be checked in an instant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, field_validator, model_validator

from segue.errors import SegueError
from segue.networks.names import SMP_DECODERS, SMP_ENCODERS
from segue.spec import SpecModel, unknown

if TYPE_CHECKING:
    from torch import nn

NETWORKS = {"resunet": "U-Net with a pre-activation ResNet-18 encoder (14,323,492 parameters at width 64)"}


class NetworkSpec(SpecModel):
    """`width` scales the channels of `resunet` (64 in the published study) and belongs to it alone."""

    name: str = "resunet"
    width: int | None = Field(default=None, ge=4, multiple_of=4)

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name in NETWORKS:
            return name
        decoder, _, encoder = name.partition("-")
        if decoder not in SMP_DECODERS:
            raise ValueError(
                unknown(name, [*NETWORKS, *(f"{d}-<encoder>" for d in SMP_DECODERS)], "network")
                + "; <encoder> is one of segmentation-models-pytorch, e.g. unet-resnet18"
            )
        if encoder not in SMP_ENCODERS and not encoder.startswith("tu-"):
            raise ValueError(unknown(encoder, [*SMP_ENCODERS, "tu-<timm name>"], "encoder"))
        return name

    @model_validator(mode="after")
    def _width_only_where_it_counts(self) -> NetworkSpec:
        if self.width is not None and self.name not in NETWORKS:
            raise ValueError(f"width belongs to resunet; '{self.name}' has the widths of its encoder: remove width")
        return self


def divisor(spec: NetworkSpec) -> int:
    """Returns the number of pixels of which height and width of an input must be multiples."""
    return 32 if spec.name in NETWORKS else SMP_DECODERS[spec.name.partition("-")[0]].divisor


def build(spec: NetworkSpec, *, channels: int, classes: int) -> nn.Module:
    """Returns the untrained network for images (N, channels, H, W), initialised from torch's global generator."""
    if spec.name in NETWORKS:
        from segue.networks.resunet import ResUNet

        return ResUNet(channels, classes, spec.width or 64)
    from segue.networks.smp import SmpNetwork

    decoder, _, encoder = spec.name.partition("-")
    return SmpNetwork(decoder, encoder, channels=channels, classes=classes)


def require_fit(spec: NetworkSpec, tile_shape: tuple[int, int, int], where: str) -> None:
    """Raises SegueError when tiles (C, H, W) are of a size that the network cannot take."""
    factor = divisor(spec)
    _, height, width = tile_shape
    if height % factor or width % factor:
        fitting = [max(factor, side // factor * factor) for side in (height, width)]
        raise SegueError(
            f"{where}: its tiles are {height}x{width} px, but network '{spec.name}' takes heights and widths that are "
            f"multiples of {factor}; make the dataset with tiles of {fitting[0]}x{fitting[1]} px, for example."
        )


def parameter_count(spec: NetworkSpec, *, channels: int, classes: int) -> int | None:
    """Returns the number of trainable parameters without building the network, or None where only building tells."""
    if spec.name not in NETWORKS:
        return None
    w = spec.width or 64
    total = 2 * channels + 49 * channels * w + 2 * w
    before = w
    for after in (w, 2 * w, 4 * w, 8 * w):
        total += 2 * before + 9 * before * after + 2 * after + 9 * after * after + before * after
        total += 2 * (2 * after + 9 * after * after)
        before = after
    for skip, after in zip((4 * w, 2 * w, w, w, 0), (4 * w, 2 * w, w, w // 2, w // 4), strict=True):
        total += 9 * (before + skip) * after + 9 * after * after + 4 * after
        before = after
    return total + 9 * before * classes + classes
