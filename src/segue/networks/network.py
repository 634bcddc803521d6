"""The one shape of every network: head(decoder(encoder(images))), and the names of its smallest parts."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from torch import Tensor, nn

from segue.networks.stages import encoder_stages


class Network(nn.Module):
    """Maps images (N, channels, H, W) to unnormalised scores, (N, classes, H, W), or (N, classes) where not `dense`.

    `encoder` gives features at several scales; `tokens` says that it gives pairs of features and class tokens, as
    the encoders of DPT do. `dropout` is the probability with which a whole channel of the decoder's output is set to
    zero before the head while training (Tompson et al., CVPR 2015).
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        head: nn.Module,
        *,
        channels: int,
        dropout: float = 0.0,
        tokens: bool = False,
        dense: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.dropout = (nn.Dropout2d if dense else nn.Dropout)(dropout) if dropout else nn.Identity()
        self.head = head
        self.dense = dense
        self._channels = channels
        self._tokens = tokens

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.encoder(x))

    def scores(self, features: Any) -> Tensor:
        """Returns the scores from what `encoder` gave, so that features of a frozen encoder can be kept and reused."""
        decoded = self.decoder(*features) if self._tokens else self.decoder(features)
        return self.head(self.dropout(decoded))

    @cached_property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """The smallest parts in order, each with the dotted names of the modules and parameters it consists of.

        Every parameter belongs to exactly one of them: `encoder.stem`, `encoder.0`, … (`encoder` where its stages
        cannot be told apart), `decoder.0`, … (`decoder` where it is no list of blocks), and `head`.
        """
        named = encoder_stages(self.encoder, self._channels)
        found = {f"encoder.{stage}": tuple(f"encoder.{n}" for n in names) for stage, names in named.items()}
        found = found or {"encoder": ("encoder",)}
        blocks = getattr(self.decoder, "blocks", None)
        owned = {name for name, _ in self.decoder.named_parameters()}
        if isinstance(blocks, nn.ModuleList) and len(blocks) and all(name.startswith("blocks.") for name in owned):
            found |= {f"decoder.{index}": (f"decoder.blocks.{index}",) for index in range(len(blocks))}
        else:
            found["decoder"] = ("decoder",)
        return found | {"head": ("head", "dropout")}
