"""The number of parameters of our own networks in closed form, so that plans need not build them. No torch."""

from __future__ import annotations

from segue.networks.spec import NetworkSpec


def parameter_count(spec: NetworkSpec, *, channels: int, classes: int) -> int | None:
    """Returns the number of trainable parameters without building the network, or None where only building tells.

    It is the same for every norm: each has a scale and a shift per channel.
    """
    width, depth = spec.setting("width") or 0, spec.setting("depth") or 0
    if spec.name == "resunet":
        return _resunet(width, channels, classes)
    if spec.name == "unet":
        return _unet(spec, width, depth, channels=channels, classes=classes)
    if spec.name == "cellpose":
        return _cellpose(width, depth, channels=channels, classes=classes)
    if spec.name == "mlp":
        pixels = (spec.setting("side_px") or 0) ** 2
        return (channels * pixels + 1) * width + (depth - 1) * (width + 1) * width + (width + 1) * classes
    if spec.name == "alexnet-small":
        w = width
        convolutions = [(25 * channels, w), (25 * w, 3 * w), (27 * w, 6 * w), (54 * w, 4 * w), (36 * w, 4 * w)]
        return sum((a + 1) * b for a, b in [*convolutions, (64 * w, 16 * w), (16 * w, classes)])
    return None


def _resunet(w: int, channels: int, classes: int) -> int:
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


def _unet(spec: NetworkSpec, width: int, depth: int, *, channels: int, classes: int) -> int:
    each = 1 if spec.norm == "none" else 2  # per output of a convolution: a bias, or scale and shift
    count = spec.setting("convolutions") or 0

    def block(before: int, after: int) -> int:
        return (9 * before + each) * after + (count - 1) * (9 * after + each) * after

    widths = [width << level for level in range(depth + 1)]
    down = sum(block(b, w) for b, w in zip([channels, *widths[:-1]], widths, strict=True))
    up = sum((8 * w + 1) * w + block(2 * w, w) for w in widths[:-1])
    return down + up + (width + 1) * classes


def _cellpose(width: int, depth: int, *, channels: int, classes: int) -> int:
    def convolution(before: int, after: int, side: int = 3) -> int:
        return 2 * before + (side * side * before + 1) * after

    def block(before: int, after: int) -> int:
        return convolution(before, after, 1) + convolution(before, after) + 3 * convolution(after, after)

    widths = [width << level for level in range(depth + 1)]
    down = sum(block(b, w) for b, w in zip([channels, *widths[:-1]], widths, strict=True))
    styles = sum(3 * (widths[-1] + 1) * w for w in widths)
    up = sum(block(b, w) for b, w in zip([*widths[1:], widths[-1]], widths, strict=True))
    return down + styles + up + convolution(width, classes, 1)
