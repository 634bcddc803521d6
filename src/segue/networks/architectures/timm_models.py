"""Models of timm: built by name, and used as classifiers of images with a new head.

timm-<name>     any classifier of timm; its head is replaced
"""

from __future__ import annotations

import difflib
from typing import Any

import timm
from timm.layers.drop import DropPath
from torch import Tensor, nn

from segue.errors import SegueError
from segue.networks.blocks import LastFeature
from segue.networks.network import Network

QUARTERS = 4


def quarter_ends(depth: int) -> tuple[int, ...]:
    """Returns the blocks, from 0, after which the four quarters of `depth` blocks end; fewer for fewer blocks."""
    return tuple(dict.fromkeys(max(0, depth * q // QUARTERS - 1) for q in range(1, QUARTERS + 1)))


def timm_model(model: str, context: str, options: dict[str, Any]) -> nn.Module:
    """Returns timm's model with random weights; raises SegueError where there is none, or not with these options."""
    if not timm.is_model(model):
        raise SegueError(f"{context}: {_unknown_model(model)}")
    try:
        return timm.create_model(model, pretrained=False, **options)
    except (TypeError, ValueError, RuntimeError, AssertionError, KeyError) as error:
        if "drop_path_rate" in str(error):
            raise without_units(context) from error
        settings = ", ".join(f"{name} = {value}" for name, value in options.items())
        raise SegueError(
            f"{context}: timm's '{model}' cannot be built with {settings} ({error}); choose other settings or another "
            "model."
        ) from error


def without_units(context: str) -> SegueError:
    return SegueError(
        f"{context}: it does not support stochastic depth; set stochastic_depth = 0, or choose another model."
    )


def _unknown_model(model: str) -> str:
    similar = difflib.get_close_matches(model.partition(".")[0], timm.list_models(), n=3)
    return f"timm has no model '{model}'" + (
        f"; did you mean {' or '.join(similar)}?" if similar else "; give another name."
    )


class TimmEncoder(nn.Module):
    """Returns the features at several depths, if the model provides them, and the pooled one (N, F) as the last."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        depth = len(model.blocks) if hasattr(model, "cls_token") and hasattr(model, "blocks") else None
        self.indices = None if depth is None else list(quarter_ends(depth))
        patches: Any = getattr(model, "patch_embed", None)
        is_fixed = getattr(patches, "strict_img_size", False) and getattr(patches, "img_size", None) is not None
        self.side_px: int | None = patches.img_size[0] if is_fixed else None  # of the only size that it takes

    def forward(self, x: Tensor) -> list[Tensor]:
        if self.side_px is not None and x.shape[-2:] != (self.side_px, self.side_px):
            raise SegueError(
                f"network: its transformer takes images of {self.side_px}x{self.side_px} px, and these are "
                f"{x.shape[-2]}x{x.shape[-1]} px; set side_px of the network to the side of the tiles."
            )
        if not hasattr(self.model, "forward_intermediates"):
            return [self.model(x)]
        last, features = self.model.forward_intermediates(x, indices=self.indices)
        return [*features, self.model.forward_head(last, pre_logits=True)]


def timm_classifier(
    model: str,
    *,
    channels: int,
    classes: int,
    side_px: int | None = None,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
) -> Network:
    """Returns timm's classifier with a new head and random initial weights; with pooling and all it is the encoder.

    Raises SegueError where timm has no such model, or it cannot leave units out.
    """
    context = f"network 'timm-{model}'"
    options: dict[str, Any] = {"in_chans": channels, "num_classes": 0}
    options |= {"img_size": side_px} if side_px else {}
    options |= {"drop_path_rate": stochastic_depth} if stochastic_depth else {}
    classifier = timm_model(model, context, options)
    if stochastic_depth and not any(isinstance(m, DropPath) and m.drop_prob for m in classifier.modules()):
        raise without_units(context)
    features: Any = getattr(classifier, "head_hidden_size", None) or classifier.num_features
    head = nn.Linear(features, classes)
    return Network(TimmEncoder(classifier), LastFeature(), head, channels=channels, dropout=dropout, dense=False)
