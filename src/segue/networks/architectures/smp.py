"""The encoders and decoders of segmentation-models-pytorch as networks of segue's three parts."""

from __future__ import annotations

from typing import Any

import segmentation_models_pytorch as smp
from timm.layers.drop import DropPath
from torch import nn

from segue.errors import SegueError
from segue.networks.network import Network


def smp_network(
    decoder: str,
    encoder: str,
    *,
    model: str,
    channels: int,
    classes: int,
    dropout: float,
    stochastic_depth: float,
) -> Network:
    """Returns the network of the two names, with random initial weights; `model` is the package's class.

    `stochastic_depth` is timm's `drop_path_rate`: the probability with which the last residual unit is left out,
    growing linearly from the first. Raises SegueError when the two do not go together, or the encoder has no units
    that could be left out.
    """
    options: dict[str, Any] = {"drop_path_rate": stochastic_depth} if stochastic_depth else {}
    try:
        network = getattr(smp, model)(encoder, encoder_weights=None, in_channels=channels, classes=classes, **options)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        if "drop_path_rate" in str(error):
            raise _without_units(decoder, encoder) from error
        raise SegueError(
            f"network '{decoder}-{encoder}': segmentation-models-pytorch cannot combine the two ({error}); "
            "choose another encoder for this decoder."
        ) from error
    if stochastic_depth and not _leaves_out(network.encoder):
        raise _without_units(decoder, encoder)
    return Network(
        network.encoder,
        network.decoder,
        network.segmentation_head,
        channels=channels,
        dropout=dropout,
        tokens=model == "DPT",
    )


def _leaves_out(encoder: nn.Module) -> bool:
    return any(isinstance(module, DropPath) and module.drop_prob for module in encoder.modules())


def _without_units(decoder: str, encoder: str) -> SegueError:
    return SegueError(
        f"network '{decoder}-{encoder}': its encoder does not support stochastic depth; set stochastic_depth = 0, or "
        "choose an encoder of timm with residual units, e.g. tu-resnet18 or tu-convnext_tiny."
    )
