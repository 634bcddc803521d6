"""The network that is exported: an image in acquired units in, probabilities or scores out, normalization inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segue.exporting.normalization import Normalization
from segue.inference.model import Model
from segue.targets.combined import Combined
from segue.targets.rays import Rays, border_px
from segue.targets.target import Target


@dataclass(frozen=True)
class Output:
    """What an exported network gives.

    name: "probabilities", "scores" or "image". channels: name -> meaning. of_images: (N, channels) instead of
    (N, channels, H, W). channels_last: (N, H, W, channels).
    """

    name: str
    channels: Mapping[str, str]
    of_images: bool = False
    channels_last: bool = False

    @property
    def axes(self) -> str:
        return "NC" if self.of_images else "NHWC" if self.channels_last else "NCHW"


def main_target(target: Target) -> Target:
    """Returns the target whose scores are decoded: auxiliary ones only support the training."""
    return target.main if isinstance(target, Combined) else target


class ExportedNetwork(nn.Module):
    """Maps images (N, C, H, W) float32, finite values in acquired units, to `output`, float32.

    Classes have probabilities (N, K, H, W), those of whole images (N, K), reconstructions the image (N, C, H, W) in
    acquired units. Objects have the scores (N, channels, H, W) that `Target.decode` takes; `for_stardist`: those of
    rays as StarDist has them, with a probability in place of its logit and distances that reach the pixel's own border
    at least; `channels_last` transposes them to (N, H, W, channels).

    Any height and width: images are padded inside as `segue.inference.predict.pad_to_multiple` pads them, and the
    scores cut back. With `model.tta` scores are the mean over the eight views.
    """

    border: Tensor  # (1, rays, 1, 1): from a pixel's center to its own border

    def __init__(self, model: Model, *, for_stardist: bool = False, channels_last: bool = False) -> None:
        super().__init__()
        self.target = main_target(model.target)
        self.normalization = Normalization(model.normalization)
        self.predictor = model.predictor.eval()
        self.channels, self.divisor = len(model.channels), model.divisor
        self.output = _output_of(model, self.target, for_stardist, channels_last)
        self.for_stardist = for_stardist
        if for_stardist:
            assert isinstance(self.target, Rays)
            border = torch.from_numpy(border_px(self.target.rays).astype(np.float32))
            self.register_buffer("border", border[None, :, None, None])

    def forward(self, image: Tensor) -> Tensor:
        shift, scale = self.normalization(image)
        height, width = image.shape[-2], image.shape[-1]
        scores = self.predictor(pad_to_multiple((image - shift) / scale, self.divisor)).float()
        scores = scores[:, : self.target.channels]
        if scores.dim() == 4:
            scores = scores[..., :height, :width]
        kind = self.target.output
        if kind == "image_class":
            return (scores if scores.dim() == 2 else scores.mean((2, 3))).softmax(1)
        if kind == "classes":
            return scores.softmax(1)
        if kind == "image":
            return scores * scale + shift
        if self.for_stardist:
            scores = torch.cat([scores[:, :1].sigmoid(), scores[:, 1:].maximum(self.border)], 1)
        return scores.permute(0, 2, 3, 1).contiguous() if self.output.channels_last else scores


def _output_of(model: Model, target: Target, for_stardist: bool, channels_last: bool) -> Output:
    channels = dict(target.score_channels)
    if target.output in ("classes", "image_class"):
        meanings = {f"class_{index}": f"probability of '{name}'" for index, name in enumerate(target.names)}
        return Output("probabilities", meanings, of_images=target.output == "image_class")
    if target.output == "image":
        return Output("image", {name: f"{name}, in acquired units" for name in model.channels})
    if for_stardist:
        channels["object"] = "probability, which is highest amid an object"
    return Output("scores", channels, channels_last=channels_last)


def pad_to_multiple(images: Tensor, divisor: int) -> Tensor:
    """Returns images (N, C, H, W) padded at the lower and right border to multiples of `divisor`, by reflection, or by
    their border where one side is too small for that."""
    if divisor == 1:
        return images
    rows, columns = _mirrored(images[0, 0, :, 0], divisor), _mirrored(images[0, 0, 0], divisor)
    is_reflected = (rows.amin(0) >= 0) & (columns.amin(0) >= 0)
    rows = torch.where(is_reflected, rows, _repeated(images[0, 0, :, 0], divisor))
    columns = torch.where(is_reflected, columns, _repeated(images[0, 0, 0], divisor))
    return images.index_select(-2, rows).index_select(-1, columns)


def _mirrored(line: Tensor, divisor: int) -> Tensor:
    """Returns the position that each position of a padded line is read from; negative where a line is too short."""
    position = _positions(line, divisor)
    return torch.where(position < line.shape[0], position, 2 * (line.shape[0] - 1) - position)


def _repeated(line: Tensor, divisor: int) -> Tensor:
    return _positions(line, divisor).minimum(_positions(line, 1)[-1])


def _positions(line: Tensor, divisor: int) -> Tensor:
    """Returns 0, 1 … (length,) int64 for a line (n,) padded to a multiple. Summed, since TorchScript would record the
    device of `torch.arange`."""
    length = (line.shape[0] + divisor - 1) // divisor * divisor
    ones = F.pad(torch.ones_like(line, dtype=torch.int64), (0, length - line.shape[0]), value=1)
    return ones.cumsum(0) - 1
