"""Networks by name: functions of plain numbers that return an nn.Module with .encoder, .decoder and .head.

`resunet` is the network of the HRTEM study. Any other name is `<decoder>-<encoder>` of
segmentation-models-pytorch, e.g. `unet-resnet18`, `fpn-mobilenet_v2`, `unet-tu-convnext_tiny`.
Nothing here imports torch before a network is built, so that a plan can be checked in an instant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator, model_validator

from segue.errors import SegueError
from segue.networks.names import SMP_DECODERS, SMP_ENCODERS
from segue.spec import SpecModel, unknown

if TYPE_CHECKING:
    from torch import nn

    from segue.networks.network import Network

NETWORKS = {"resunet": "U-Net with a pre-activation ResNet-18 encoder (14,323,492 parameters at width 64)"}


Probability = Annotated[float, Field(ge=0, lt=1)]


class NetworkSpec(SpecModel):
    """A network by name, and what is changed of it.

    width: scales the channels of `resunet` (64 in the published study) and belongs to it alone.
    norm: what stands in the place of its batch norms (see `normalisation.replace_batch_norms`); its own without it.
    dropout: with which probability a channel is left out before the head while training.
    stochastic_depth: with which probability the last residual unit of the encoder is left out for an image while
    training, growing linearly from the first; `resunet` and encoders of timm (`tu-…`) take it. 0 leaves what the
    encoder's authors chose, which is none but for a few transformers.
    """

    name: str = "resunet"
    width: int | None = Field(default=None, ge=8, multiple_of=4)
    norm: Literal["batch", "instance", "group", "layer"] | None = None
    dropout: Probability = 0.0
    stochastic_depth: Probability = 0.0

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
    def _only_where_it_counts(self) -> NetworkSpec:
        if self.name in NETWORKS:
            return self
        if self.width is not None:
            raise ValueError(f"width belongs to resunet; '{self.name}' has the widths of its encoder: remove width")
        if self.stochastic_depth and not self.name.partition("-")[2].startswith("tu-"):
            raise ValueError(
                f"stochastic_depth belongs to resunet and to encoders of timm (tu-…); '{self.name}' takes none: "
                "remove stochastic_depth"
            )
        return self


def divisor(spec: NetworkSpec) -> int:
    """Returns the number of pixels of which height and width of an input must be multiples."""
    return 32 if spec.name in NETWORKS else SMP_DECODERS[spec.name.partition("-")[0]].divisor


def build(spec: NetworkSpec, *, channels: int, classes: int) -> Network:
    """Returns the untrained network for images (N, channels, H, W), initialised from torch's global generator.

    Raises SegueError when its encoder and decoder, or what is asked of its norm or depth, do not go together.
    """
    if spec.name in NETWORKS:
        from segue.networks.resunet import resunet

        network = resunet(
            channels, classes, spec.width or 64, dropout=spec.dropout, stochastic_depth=spec.stochastic_depth
        )
    else:
        from segue.networks.smp import smp_network

        decoder, _, encoder = spec.name.partition("-")
        network = smp_network(
            decoder,
            encoder,
            channels=channels,
            classes=classes,
            dropout=spec.dropout,
            stochastic_depth=spec.stochastic_depth,
        )
    if spec.norm is not None:
        from segue.networks.normalisation import replace_batch_norms

        replace_batch_norms(network, spec.norm, where=f"network '{spec.name}'")
    return network


def parts(network: nn.Module) -> dict[str, tuple[str, ...]]:
    """Returns the smallest parts in order, each with the dotted names of its modules and parameters.

    `encoder.stem`, `encoder.0`, …, `decoder.0`, …, `head` for a network of ours (see `Network.parts`); the children
    of any other module.
    """
    from segue.networks.network import Network

    if isinstance(network, Network):
        return network.parts
    return {name: (name,) for name, _ in network.named_children()}


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
    """Returns the number of trainable parameters without building the network, or None where only building tells.

    It is the same for every norm: each has a scale and a shift per channel.
    """
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
