"""Features of images: what an encoder gives at its deepest layer, averaged over each image."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from segue.inference.predict import pad_to_multiple
from segue.networks.network import Network


def mean_features(network: Network, images: Tensor, valid: np.ndarray, divisor: int = 1) -> np.ndarray:
    """Returns (N, F) float32: the deepest features of images (N, C, H, W), averaged over their boxes `valid` (N, 4).

    Images are padded to a multiple of `divisor`, as in predictions.
    """
    padded = pad_to_multiple(images, divisor)
    encoded: Any = network.encoder(padded)
    features = encoded[0] if isinstance(encoded, tuple) else encoded
    deepest: Tensor = features if isinstance(features, Tensor) else features[-1]
    if deepest.dim() != 4:
        return deepest.flatten(1).float().cpu().numpy()
    return box_means(deepest.float(), valid, (padded.shape[-2], padded.shape[-1])).cpu().numpy()


def box_means(maps: Tensor, valid: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Returns (N, C): the means of maps (N, C, h, w) over boxes (N, 4) of y0, x0, y1, x1 in an image of `size`.

    A place on the map that lies partly in its box counts by that part.
    """
    boxes = torch.from_numpy(np.asarray(valid, dtype=np.float32)).to(maps.device)
    shares = []
    for axis in (0, 1):
        count = maps.shape[2 + axis]
        edges = torch.arange(count + 1, device=maps.device) * (size[axis] / count)
        ends = torch.minimum(edges[1:], boxes[:, axis + 2, None])
        shares.append((ends - torch.maximum(edges[:-1], boxes[:, axis, None])).clamp(min=0))
    weights = shares[0][:, :, None] * shares[1][:, None, :]
    return torch.einsum("nchw,nhw->nc", maps, weights) / weights.sum((1, 2))[:, None].clamp(min=1e-12)
