"""Networks by name: functions of plain numbers that return an nn.Module with .encoder, .decoder and .head.

`spec.py` says which names there are. Nothing here imports torch before a network is built, so that a plan can be
checked in an instant.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from segue.errors import SegueError
from segue.networks.counts import parameter_count
from segue.networks.names import FAMILIES
from segue.networks.spec import NETWORKS, NetworkSpec, divisor, is_dense
from segue.spec import given, validate

if TYPE_CHECKING:
    from torch import nn

    from segue.networks.network import Network
    from segue.networks.pretrained import LoadingReport

__all__ = [
    "NETWORKS", "NetworkSpec", "build", "describe", "divisor", "is_dense", "load_pretrained", "named",
    "parameter_count", "parts", "require_fit",
]  # fmt: skip


def build(spec: NetworkSpec, *, channels: int, classes: int) -> Network:
    """Returns the untrained network for images (N, channels, H, W), initialised from torch's global generator.

    Pretrained weights are not in it yet: see `load_pretrained`. Raises SegueError when its encoder and decoder, or
    what is asked of its norm or depth, do not go together, or timm has no such model.
    """
    if spec.name in NETWORKS:
        network = _own(spec, channels, classes)
    elif spec.family in FAMILIES:
        network = _of_timm(spec, channels, classes)
    else:
        from segue.networks.smp import smp_network

        network = smp_network(
            spec.decoder,
            spec.encoder,
            channels=channels,
            classes=classes,
            dropout=spec.dropout,
            stochastic_depth=spec.stochastic_depth,
        )
    if spec.norm not in (None, "none"):
        from segue.networks.normalisation import replace_batch_norms

        replace_batch_norms(network, spec.norm, where=f"network '{spec.name}'")
    return network


def load_pretrained(network: Network, spec: NetworkSpec, *, where: str) -> LoadingReport | None:
    """Fills the encoder as `spec.pretrained` says and returns the report; None where it says nothing.

    Raises SegueError when the weights cannot be fetched or read, or do not fit; the network is then as it was.
    """
    if spec.pretrained is False:
        return None
    from segue.networks import pretrained

    return pretrained.load_pretrained(network, spec, where=where)


def named(name: str, settings: Iterable[str], *, where: str) -> NetworkSpec:
    """Returns the network of a name with settings written as "key=value"; raises SpecError for what is unknown."""
    return validate(NetworkSpec, {**given(settings), "name": name}, where=where)


def describe(
    spec: NetworkSpec, *, channels: int, classes: int, batch: int = 1, side_px: int | None = None
) -> list[tuple[str, str]]:
    """Returns label and text of each line on the network, built on the meta device where that can be.

    The memory told is that of a step on `batch` images of side_px x side_px px (about 256 px where None). Raises
    SegueError as `build` does.
    """
    from segue.networks import description

    network = description.built_without_memory(lambda: build(spec, channels=channels, classes=classes))
    return description.rows(spec, network, channels=channels, classes=classes, batch=batch, side_px=side_px)


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
    if spec.family == "timm" and spec.side_px is not None and (height, width) != (spec.side_px, spec.side_px):
        raise SegueError(
            f"{where}: its tiles are {height}x{width} px, but network '{spec.name}' is asked for images of "
            f"{spec.side_px}x{spec.side_px} px; set its side_px to the side of the tiles."
        )
    if height % factor or width % factor:
        fitting = [max(factor, side // factor * factor) for side in (height, width)]
        raise SegueError(
            f"{where}: its tiles are {height}x{width} px, but network '{spec.name}' takes heights and widths that are "
            f"multiples of {factor}; make the dataset with tiles of {fitting[0]}x{fitting[1]} px, for example."
        )


def _own(spec: NetworkSpec, channels: int, classes: int) -> Network:
    width, depth = spec.setting("width") or 0, spec.setting("depth") or 0
    dropout, stochastic_depth = spec.dropout, spec.stochastic_depth
    if spec.name == "unet":
        from segue.networks.unet import unet

        count, normed = spec.setting("convolutions") or 0, spec.norm != "none"
        return unet(channels, classes, width, depth=depth, count=count, normed=normed, dropout=dropout)
    if spec.name == "cellpose":
        from segue.networks.cellpose import cellpose

        return cellpose(channels, classes, width, depth=depth, dropout=dropout, stochastic_depth=stochastic_depth)
    if spec.name == "mobilenet-transposed":
        from segue.networks.mobilenet import mobilenet_transposed

        return mobilenet_transposed(channels, classes, dropout=dropout, stochastic_depth=stochastic_depth)
    if spec.name == "mlp":
        from segue.networks.classifiers import mlp

        return mlp(channels, classes, width, depth=depth, side=spec.setting("side_px") or 0, dropout=dropout)
    if spec.name == "alexnet-small":
        from segue.networks.classifiers import alexnet_small

        return alexnet_small(channels, classes, width, dropout=dropout)
    from segue.networks.resunet import resunet

    return resunet(channels, classes, width, dropout=dropout, stochastic_depth=stochastic_depth)


def _of_timm(spec: NetworkSpec, channels: int, classes: int) -> Network:
    if spec.family == "timm":
        from segue.networks.classifiers import timm_classifier

        return timm_classifier(
            spec.encoder,
            channels=channels,
            classes=classes,
            side_px=spec.side_px,
            dropout=spec.dropout,
            stochastic_depth=spec.stochastic_depth,
        )
    from segue.networks.transformers import dense_transformer

    return dense_transformer(
        spec.family,
        spec.encoder,
        channels=channels,
        classes=classes,
        patch_px=spec.patch_px,
        side_px=spec.side_px,
        dropout=spec.dropout,
        stochastic_depth=spec.stochastic_depth,
    )
