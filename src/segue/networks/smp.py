"""The encoders and decoders of segmentation-models-pytorch behind segue's three parts."""

from __future__ import annotations

import segmentation_models_pytorch as smp
from torch import Tensor, nn

from segue.errors import SegueError
from segue.networks.names import SMP_DECODERS


class SmpNetwork(nn.Module):
    """Maps images (N, channels, H, W) to (N, classes, H, W) unnormalised scores, with random initial weights."""

    def __init__(self, decoder: str, encoder: str, *, channels: int, classes: int) -> None:
        super().__init__()
        name = SMP_DECODERS[decoder].model
        try:
            model = getattr(smp, name)(encoder, encoder_weights=None, in_channels=channels, classes=classes)
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise SegueError(
                f"network '{decoder}-{encoder}': segmentation-models-pytorch cannot combine the two ({error}); "
                "choose another encoder for this decoder."
            ) from error
        self.encoder: nn.Module = model.encoder
        self.decoder: nn.Module = model.decoder
        self.head: nn.Module = model.segmentation_head
        self._tokens = name == "DPT"

    def forward(self, x: Tensor) -> Tensor:
        features = self.encoder(x)
        # DPT's encoders return the class tokens beside the features
        return self.head(self.decoder(*features) if self._tokens else self.decoder(features))
