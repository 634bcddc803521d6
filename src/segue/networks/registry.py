"""The decoders and encoders of segmentation-models-pytorch by name, so that a plan is checked without importing it.

A test holds these names against the installed package. Of timm's models, of which there are a thousand, only the
beginnings of the names are checked beforehand.


The specification of a network: its name, and what is changed of it. Cheap to import: no torch.

Names are those of `NETWORKS`; `<decoder>-<encoder>` of segmentation-models-pytorch, e.g. `unet-resnet18`,
`fpn-mobilenet_v2`, `unet-tu-convnext_tiny`; and `<family>-<timm name>` of `FAMILIES`, e.g. `vit-vit_tiny_patch16_224`.


The number of parameters of our own networks in closed form, so that plans need not build them. No torch.

Networks by name: functions of plain numbers that return an nn.Module with .encoder, .decoder and .head.

`spec.py` says which names there are. Nothing here imports torch before a network is built, so that a plan can be
checked in an instant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field, StrictBool, field_validator, model_validator

from segue.errors import SegueError
from segue.spec import SpecModel, given, unknown, validate

if TYPE_CHECKING:
    from torch import nn

    from segue.networks.network import Network
    from segue.networks.pretrained import LoadingReport


class Decoder(NamedTuple):
    """`model` is the class in segmentation-models-pytorch; inputs must be multiples of `divisor` pixels."""

    model: str
    divisor: int


class Family(NamedTuple):
    """Encoders of timm whose names begin with one of `prefixes`."""

    prefixes: tuple[str, ...]
    example: str


FAMILIES = {
    "vit": Family(("vit_", "deit_", "deit3_", "flexivit_"), "vit_tiny_patch16_224"),
    # of swinv2 only these: swinv2_cr_… are models of another kind
    "swin": Family(
        ("swin_", "swinv2_tiny_", "swinv2_small_", "swinv2_base_", "swinv2_large_"), "swin_tiny_patch4_window7_224"
    ),
    "sam": Family(("samvit_",), "samvit_base_patch16"),
    "timm": Family(("",), "resnet18"),
}
SMP_DECODERS = {
    "unet": Decoder("Unet", 32),
    "unetplusplus": Decoder("UnetPlusPlus", 32),
    "manet": Decoder("MAnet", 32),
    "linknet": Decoder("Linknet", 32),
    "fpn": Decoder("FPN", 32),
    "pspnet": Decoder("PSPNet", 8),
    "deeplabv3": Decoder("DeepLabV3", 8),
    "deeplabv3plus": Decoder("DeepLabV3Plus", 16),
    "pan": Decoder("PAN", 16),
    "upernet": Decoder("UPerNet", 32),
    "segformer": Decoder("Segformer", 32),
    "dpt": Decoder("DPT", 16),
}
SMP_ENCODERS = frozenset(
    """
    densenet121 densenet161 densenet169 densenet201 dpn107 dpn131 dpn68 dpn68b dpn92 dpn98
    efficientnet-b0 efficientnet-b1 efficientnet-b2 efficientnet-b3 efficientnet-b4 efficientnet-b5 efficientnet-b6
    efficientnet-b7 inceptionresnetv2 inceptionv4 mit_b0 mit_b1 mit_b2 mit_b3 mit_b4 mit_b5 mobilenet_v2
    mobileone_s0 mobileone_s1 mobileone_s2 mobileone_s3 mobileone_s4
    resnet18 resnet34 resnet50 resnet101 resnet152
    resnext50_32x4d resnext101_32x4d resnext101_32x8d resnext101_32x16d resnext101_32x32d resnext101_32x48d
    se_resnet50 se_resnet101 se_resnet152 se_resnext50_32x4d se_resnext101_32x4d senet154
    timm-efficientnet-b0 timm-efficientnet-b1 timm-efficientnet-b2 timm-efficientnet-b3 timm-efficientnet-b4
    timm-efficientnet-b5 timm-efficientnet-b6 timm-efficientnet-b7 timm-efficientnet-b8 timm-efficientnet-l2
    timm-skresnet18 timm-skresnet34 timm-skresnext50_32x4d
    timm-tf_efficientnet_lite0 timm-tf_efficientnet_lite1 timm-tf_efficientnet_lite2 timm-tf_efficientnet_lite3
    timm-tf_efficientnet_lite4 vgg11 vgg11_bn vgg13 vgg13_bn vgg16 vgg16_bn vgg19 vgg19_bn xception
    """.split()
)
NETWORKS = {
    "resunet": "U-Net with a pre-activation ResNet-18 encoder (14,323,492 parameters at width 64)",
    "unet": "classical U-Net (31,036,546 parameters at width 64, depth 4, two convolutions per block)",
    "cellpose": "residual U-Net with a style vector (6,600,519 parameters for one channel, three scores)",
    "mobilenet-transposed": "MobileNetV2 encoder with a decoder of transposed convolutions (10.1 M parameters)",
    "mlp": "multilayer perceptron for classes of images",
    "alexnet-small": "small convolutional classifier of images in the manner of AlexNet",
}
# what each setting defaults to, and so which networks have it
WIDTHS = {"resunet": 64, "unet": 64, "cellpose": 32, "mlp": 256, "alexnet-small": 32}
DEPTHS = {"unet": 4, "cellpose": 3, "mlp": 2}
CONVOLUTIONS = {"unet": 2}
SIDES_PX = {"mlp": 32}
SIDED = ("mlp", "vit", "sam", "timm")
WITHOUT_NORM = ("mlp", "alexnet-small")  # that could be replaced
WITH_UNITS = ("resunet", "cellpose", "mobilenet-transposed", *FAMILIES)  # that stochastic depth can leave out
IMAGE_LEVEL = ("mlp", "alexnet-small", "timm")
SWIN_MERGES = 8  # a Swin transformer halves its grid of patches three times
_PATCH = re.compile(r"_patch(\d+)")
Probability = Annotated[float, Field(ge=0, lt=1)]


class NetworkSpec(SpecModel):
    """A network by name, and what is changed of it.

    width: channels of the first scale of `resunet` (64), `unet` (64), `cellpose` (32) and `alexnet-small` (32); units
    of each hidden layer of `mlp` (256).
    depth: how often `unet` (4) and `cellpose` (3) halve the image; hidden layers of `mlp` (2).
    convolutions: 3x3 convolutions per block of `unet` (2).
    norm: what stands in the place of its batch norms (see `normalisation.replace_batch_norms`); its own without it.
    "none" is for `unet`, as it was published.
    dropout: with which probability a channel is left out before the head while training.
    stochastic_depth: with which probability the last residual unit of the encoder is left out for an image while
    training, growing linearly from the first. 0 leaves what the encoder's authors chose, which is none but for a few
    transformers.
    patch_px: side of a `vit`'s patches; that of its name without it.
    side_px: of the square images that the position embeddings of `vit` and `sam` are learned for (timm's own without
    it; at other sizes they are resampled), that a `timm` classifier of fixed size takes, or to which `mlp` averages
    images (32).
    pretrained: true fetches the encoder's weights with timm; a path reads them from a file in timm's format
    (`pretrained.load_pretrained`).
    pretrained_channels: what each of other than RGB channels gets of the RGB weights: their "sum", divided by the
    number of channels, so that equal channels act as one grey image, or their "mean".
    """

    name: str = "resunet"
    width: int | None = Field(default=None, ge=8, multiple_of=4)
    depth: int | None = Field(default=None, ge=1, le=8)
    convolutions: int | None = Field(default=None, ge=1, le=8)
    norm: Literal["batch", "instance", "group", "layer", "none"] | None = None
    dropout: Probability = 0.0
    stochastic_depth: Probability = 0.0
    patch_px: int | None = Field(default=None, ge=4, le=64)
    side_px: int | None = Field(default=None, ge=8, le=4096)
    pretrained: StrictBool | Path = False
    pretrained_channels: Literal["sum", "mean"] = "sum"

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name in NETWORKS:
            return name
        first, _, second = name.partition("-")
        if first in FAMILIES:
            return _known_to_timm(name, first, second)
        if first not in SMP_DECODERS:
            allowed = [*NETWORKS, *(f"{d}-<encoder>" for d in SMP_DECODERS), *(f"{f}-<timm name>" for f in FAMILIES)]
            raise ValueError(
                unknown(name, allowed, "network")
                + "; <encoder> is one of segmentation-models-pytorch, e.g. unet-resnet18"
            )
        if second not in SMP_ENCODERS and not second.startswith("tu-"):
            raise ValueError(unknown(second, [*SMP_ENCODERS, "tu-<timm name>"], "encoder"))
        return name

    @field_validator("pretrained", mode="after")
    @classmethod
    def _is_a_file(cls, value: bool | Path) -> bool | Path:
        if isinstance(value, Path) and value.suffix not in (".safetensors", ".pth", ".pt", ".bin"):
            raise ValueError(
                f"found '{value}'; allowed are true (fetched with timm), false, or a file in timm's format that ends "
                "on .safetensors, .pth, .pt or .bin"
            )
        return value

    @model_validator(mode="after")
    def _only_where_it_counts(self) -> NetworkSpec:
        kind = self.family
        for field, owners in (
            ("width", WIDTHS), ("depth", DEPTHS), ("convolutions", CONVOLUTIONS), ("patch_px", ("vit",)),
            ("side_px", SIDED),
        ):  # fmt: skip
            if getattr(self, field) is not None and kind not in owners:
                raise ValueError(_misplaced(field, owners, self.name))
        if self.norm == "none" and self.name != "unet":
            raise ValueError('norm = "none" belongs to unet; remove norm, or choose batch, instance, group or layer')
        if self.norm is not None and kind in WITHOUT_NORM:
            raise ValueError(f"'{self.name}' has no batch norm that norm could replace: remove norm")
        if self.stochastic_depth and kind not in WITH_UNITS and not self.name.partition("-")[2].startswith("tu-"):
            raise ValueError(
                f"stochastic_depth belongs to {', '.join(WITH_UNITS)} and to encoders of timm (tu-…); '{self.name}' "
                "takes none: remove stochastic_depth"
            )
        if self.pretrained is not False and kind in NETWORKS and kind != "mobilenet-transposed":
            raise ValueError(
                f"pretrained belongs to networks with an encoder of timm or segmentation-models-pytorch; '{self.name}' "
                "has none: remove pretrained, and start the stage from a run or a weights file with from = … instead"
            )
        if self.pretrained_channels != "sum" and self.pretrained is False:
            raise ValueError("pretrained_channels says how pretrained weights are adapted: set pretrained or remove it")
        self._require_fitting_side(kind)
        return self

    def _require_fitting_side(self, kind: str) -> None:
        if self.side_px is not None and kind in ("vit", "sam") and self.side_px % divisor(self):
            raise ValueError(f"side_px = {self.side_px} is no multiple of the {divisor(self)} px of a patch")

    @property
    def family(self) -> str:
        """The name itself, or that of its family, `vit`, `swin`, `sam` or `timm`, or "smp"."""
        first = self.name.partition("-")[0]
        return self.name if self.name in NETWORKS else first if first in FAMILIES else "smp"

    @property
    def decoder(self) -> str:
        """The decoder of segmentation-models-pytorch; "" for other networks."""
        return self.name.partition("-")[0] if self.family == "smp" else ""

    @property
    def encoder(self) -> str:
        """The name behind the family or decoder; "" for networks of `NETWORKS`."""
        return "" if self.name in NETWORKS else self.name.partition("-")[2]

    def setting(self, field: str) -> int | None:
        """Returns width, depth, convolutions or side_px as it counts: as given, or this network's default."""
        defaults: dict[str, dict[str, int]] = {
            "width": WIDTHS, "depth": DEPTHS, "convolutions": CONVOLUTIONS, "side_px": SIDES_PX,
        }  # fmt: skip
        given: Any = getattr(self, field)
        return defaults[field].get(self.family) if given is None else given


def divisor(spec: NetworkSpec) -> int:
    """Returns the number of pixels of which height and width of an input must be multiples."""
    if spec.name in ("unet", "cellpose"):
        return 2 ** (spec.depth or DEPTHS[spec.name])
    if spec.name in NETWORKS:
        return {"mlp": 1, "alexnet-small": 16}.get(spec.name, 32)
    found = _PATCH.search(spec.encoder)
    if spec.family == "swin" or (spec.family == "timm" and spec.encoder.startswith("swin")):
        return SWIN_MERGES * (int(found[1]) if found else 4)  # those without a patch in their name have one of 4 px
    if spec.family in FAMILIES:
        return spec.patch_px or (int(found[1]) if found else 1)
    return SMP_DECODERS[spec.decoder].divisor


def is_dense(spec: NetworkSpec) -> bool:
    """Returns whether the network scores pixels, (N, classes, H, W); else it scores images, (N, classes)."""
    return spec.family not in IMAGE_LEVEL


def _known_to_timm(name: str, family: str, model: str) -> str:
    prefixes = FAMILIES[family].prefixes
    if not model or not model.startswith(prefixes):
        told = " or ".join(f"{prefix}…" for prefix in prefixes) or "any"
        raise ValueError(
            f"found '{name}'; {family}-<timm name> takes {told} of timm, e.g. {family}-{FAMILIES[family].example}"
        )
    if family in ("vit", "sam") and not _PATCH.search(model):
        raise ValueError(
            f"found '{name}'; {family} takes plain transformers of timm, which have patch<px> in their name, "
            f"e.g. {family}-{FAMILIES[family].example}"
        )
    return name


def _misplaced(field: str, owners: Any, name: str) -> str:
    widths = f"; '{name}' has the widths of its encoder" if field == "width" and name not in NETWORKS else ""
    return f"{field} belongs to {', '.join(owners)}{widths or f'; {name!r} has none'}: remove {field}"


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
        from segue.networks.architectures.smp import smp_network

        network = smp_network(
            spec.decoder,
            spec.encoder,
            channels=channels,
            classes=classes,
            dropout=spec.dropout,
            stochastic_depth=spec.stochastic_depth,
        )
    if spec.norm not in (None, "none"):
        from segue.networks.normalization import replace_batch_norms

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
    from segue.networks.analysis import summary

    network = summary.built_without_memory(lambda: build(spec, channels=channels, classes=classes))
    return summary.rows(spec, network, channels=channels, classes=classes, batch=batch, side_px=side_px)


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
        from segue.networks.architectures.unet import unet

        count, normed = spec.setting("convolutions") or 0, spec.norm != "none"
        return unet(channels, classes, width, depth=depth, count=count, normed=normed, dropout=dropout)
    if spec.name == "cellpose":
        from segue.networks.architectures.cellpose import cellpose

        return cellpose(channels, classes, width, depth=depth, dropout=dropout, stochastic_depth=stochastic_depth)
    if spec.name == "mobilenet-transposed":
        from segue.networks.architectures.mobilenet import mobilenet_transposed

        return mobilenet_transposed(channels, classes, dropout=dropout, stochastic_depth=stochastic_depth)
    if spec.name == "mlp":
        from segue.networks.architectures.classifiers import mlp

        return mlp(channels, classes, width, depth=depth, side=spec.setting("side_px") or 0, dropout=dropout)
    if spec.name == "alexnet-small":
        from segue.networks.architectures.classifiers import alexnet_small

        return alexnet_small(channels, classes, width, dropout=dropout)
    from segue.networks.architectures.resunet import resunet

    return resunet(channels, classes, width, dropout=dropout, stochastic_depth=stochastic_depth)


def _of_timm(spec: NetworkSpec, channels: int, classes: int) -> Network:
    if spec.family == "timm":
        from segue.networks.architectures.classifiers import timm_classifier

        return timm_classifier(
            spec.encoder,
            channels=channels,
            classes=classes,
            side_px=spec.side_px,
            dropout=spec.dropout,
            stochastic_depth=spec.stochastic_depth,
        )
    from segue.networks.architectures.transformers import dense_transformer

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
