"""Networks by name: their specification, their properties, and their construction.

Names are those of `NETWORKS`; `<decoder>-<encoder>` of segmentation-models-pytorch, e.g. `unet-resnet18`,
`fpn-mobilenet_v2`, `unet-tu-convnext_tiny`; and `<family>-<timm name>` of `FAMILIES`, e.g. `vit-vit_tiny_patch16_224`.

Cheap to import: torch only when a network is built, so that a plan is checked in an instant. The names of
segmentation-models-pytorch are therefore written out here, and a test compares them with the installed package; of
the thousand models of timm only the beginnings of the names are checked beforehand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field, StrictBool, field_validator, model_validator

from segue.device import free_memory
from segue.errors import SegueError
from segue.formatting import format_bytes
from segue.spec import SpecModel, parse_settings, unknown, validate

if TYPE_CHECKING:
    from segue.networks.network import Network

Probability = Annotated[float, Field(ge=0, lt=1)]
BYTES_PER_PARAMETER = 4  # float32
WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar")  # .pth.tar, too


class NetworkSpec(SpecModel):
    """A network by name, with its settings.

    width: channels of the first scale of `resunet` (64), `unet` (64), `cellpose` (32) and `alexnet-small` (32); units
    of each hidden layer of `mlp` (256).
    depth: how often `unet` (4) and `cellpose` (3) halve the image; hidden layers of `mlp` (2).
    convolutions: 3x3 convolutions per block of `unet` (2).
    norm: what replaces its batch norms (see `normalization.replace_batch_norms`); by default they stay.
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
    pretrained_channels: how RGB weights are adapted to other channels: each gets their "sum", divided by the number of
    channels, so that equal channels act as one gray image, or their "mean".
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
            return _require_timm_name(name, first, second)
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
        if isinstance(value, Path) and value.suffix not in WEIGHTS_SUFFIXES:
            raise ValueError(
                f"found '{value}'; allowed are true (fetched with timm), false, or a file in timm's format that ends "
                f"in {', '.join(WEIGHTS_SUFFIXES)}"
            )
        return value

    @model_validator(mode="after")
    def _only_where_it_counts(self) -> NetworkSpec:
        kind, named = self.kind, {**NETWORKS, **FAMILIES}
        for setting in ("width", "depth", "convolutions", "patch_px", "side_px"):
            if getattr(self, setting) is not None and setting not in kind.settings:
                owners = [name for name, other in named.items() if setting in other.settings]
                raise ValueError(_misplaced(setting, owners, self.name))
        if self.norm == "none" and self.name != "unet":
            raise ValueError('norm = "none" belongs to unet; remove norm, or choose batch, instance, group or layer')
        if self.norm is not None and not kind.has_batch_norm:
            raise ValueError(f"'{self.name}' has no batch norm that norm could replace: remove norm")
        if self.stochastic_depth and not kind.has_residual_units and not self.encoder.startswith("tu-"):
            owners = [name for name, other in named.items() if other.has_residual_units]
            raise ValueError(
                f"stochastic_depth belongs to {', '.join(owners)} and to encoders of timm (tu-…); '{self.name}' "
                "has none: remove stochastic_depth"
            )
        if self.pretrained is not False and not kind.has_pretrained:
            raise ValueError(
                f"pretrained belongs to networks with an encoder of timm or segmentation-models-pytorch; '{self.name}' "
                "has none: remove pretrained, and start the stage from a run or a weights file with from = … instead"
            )
        if self.pretrained_channels != "sum" and self.pretrained is False:
            raise ValueError("pretrained_channels adapts pretrained weights: set pretrained or remove it")
        if self.side_px is not None and self.family in ("vit", "sam") and self.side_px % divisor(self):
            raise ValueError(f"side_px = {self.side_px} is not a multiple of the {divisor(self)} px of a patch")
        return self

    @property
    def family(self) -> str:
        """The name itself, or that of its family, `vit`, `swin`, `sam` or `timm`, or "smp"."""
        first = self.name.partition("-")[0]
        return self.name if self.name in NETWORKS else first if first in FAMILIES else "smp"

    @property
    def kind(self) -> NetworkKind:
        return NETWORKS.get(self.name) or FAMILIES.get(self.family) or SMP

    @property
    def decoder(self) -> str:
        """The decoder of segmentation-models-pytorch; "" for other networks."""
        return self.name.partition("-")[0] if self.family == "smp" else ""

    @property
    def encoder(self) -> str:
        """The name behind the family or decoder; "" for networks of `NETWORKS`."""
        return "" if self.name in NETWORKS else self.name.partition("-")[2]

    def setting(self, name: str) -> int:
        """Returns width, depth, convolutions or side_px as given, or this network's default, or 0 without one."""
        value: int | None = getattr(self, name)
        return self.kind.settings.get(name, 0) if value is None else value

    @property
    def settings(self) -> dict[str, Any]:
        """What is set, by itself or by default, apart from pretrained weights."""
        values: dict[str, Any] = {name: self.setting(name) for name in ("width", "depth", "convolutions")}
        values |= {name: getattr(self, name) for name in ("norm", "dropout", "stochastic_depth", "patch_px")}
        values["side_px"] = self.setting("side_px")
        return {name: value for name, value in values.items() if value}


def _require_timm_name(name: str, family: str, model: str) -> str:
    prefixes, example = FAMILIES[family].prefixes, FAMILIES[family].example
    if not model or not model.startswith(prefixes):
        allowed = " or ".join(f"{prefix}…" for prefix in prefixes) or "any"
        raise ValueError(f"found '{name}'; {family}-<timm name> takes {allowed} of timm, e.g. {family}-{example}")
    if family in ("vit", "sam") and not _PATCH.search(model):
        raise ValueError(
            f"found '{name}'; {family} takes plain transformers of timm, which have patch<px> in their name, "
            f"e.g. {family}-{example}"
        )
    return name


def _misplaced(setting: str, owners: Iterable[str], name: str) -> str:
    widths = f"; '{name}' has the widths of its encoder" if setting == "width" and name not in NETWORKS else ""
    return f"{setting} belongs to {', '.join(owners)}{widths or f'; {name!r} has none'}: remove {setting}"


# Properties of each network


@dataclass(frozen=True)
class NetworkKind:
    """A network, or a family of them.

    build: called with a specification, channels of the images and classes. divisor: of which height and width of an
    input are multiples. settings: those of width, depth, convolutions, patch_px and side_px that it has, with their
    defaults; 0 is that of the encoder's name. is_dense: scores pixels, else images. has_batch_norm: that `norm` can
    replace. has_residual_units: that stochastic depth can leave out. count_parameters: without building, for channels
    and classes, where there is a closed form. prefixes, example: of the names of timm's models in a family.
    """

    build: Callable[[NetworkSpec, int, int], Network]
    divisor: Callable[[NetworkSpec], int]
    settings: Mapping[str, int] = field(default_factory=dict)
    description: str = ""
    is_dense: bool = True
    has_batch_norm: bool = True
    has_residual_units: bool = False
    has_pretrained: bool = False
    count_parameters: Callable[[NetworkSpec, int, int], int] | None = None
    prefixes: tuple[str, ...] = ()
    example: str = ""


def _build_resunet(spec: NetworkSpec, channels: int, classes: int) -> Network:
    from segue.networks.architectures.resunet import resunet

    width = spec.setting("width")
    return resunet(channels, classes, width, dropout=spec.dropout, stochastic_depth=spec.stochastic_depth)


def _build_unet(spec: NetworkSpec, channels: int, classes: int) -> Network:
    from segue.networks.architectures.unet import unet

    width, depth, convolutions = (spec.setting(name) for name in ("width", "depth", "convolutions"))
    return unet(
        channels,
        classes,
        width,
        depth=depth,
        convolutions=convolutions,
        normed=spec.norm != "none",
        dropout=spec.dropout,
    )


def _build_cellpose(spec: NetworkSpec, channels: int, classes: int) -> Network:
    from segue.networks.architectures.cellpose import cellpose

    width, depth = spec.setting("width"), spec.setting("depth")
    return cellpose(channels, classes, width, depth=depth, dropout=spec.dropout, stochastic_depth=spec.stochastic_depth)


def _build_mobilenet(spec: NetworkSpec, channels: int, classes: int) -> Network:
    from segue.networks.architectures.mobilenet import mobilenet_transposed

    return mobilenet_transposed(channels, classes, dropout=spec.dropout, stochastic_depth=spec.stochastic_depth)


def _build_mlp(spec: NetworkSpec, channels: int, classes: int) -> Network:
    from segue.networks.architectures.classifiers import mlp

    width, depth, side = (spec.setting(name) for name in ("width", "depth", "side_px"))
    return mlp(channels, classes, width, depth=depth, side=side, dropout=spec.dropout)


def _build_alexnet(spec: NetworkSpec, channels: int, classes: int) -> Network:
    from segue.networks.architectures.classifiers import alexnet_small

    return alexnet_small(channels, classes, spec.setting("width"), dropout=spec.dropout)


def _build_transformer(spec: NetworkSpec, channels: int, classes: int) -> Network:
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


def _build_timm_classifier(spec: NetworkSpec, channels: int, classes: int) -> Network:
    from segue.networks.architectures.timm_models import timm_classifier

    return timm_classifier(
        spec.encoder,
        channels=channels,
        classes=classes,
        side_px=spec.side_px,
        dropout=spec.dropout,
        stochastic_depth=spec.stochastic_depth,
    )


def _build_smp(spec: NetworkSpec, channels: int, classes: int) -> Network:
    from segue.networks.architectures.smp import smp_network

    return smp_network(
        spec.decoder,
        spec.encoder,
        model=SMP_DECODERS[spec.decoder].model,
        channels=channels,
        classes=classes,
        dropout=spec.dropout,
        stochastic_depth=spec.stochastic_depth,
    )


_PATCH = re.compile(r"_patch(\d+)")
SWIN_MERGES = 8  # a Swin transformer halves its grid of patches three times


def _halved_by_depth(spec: NetworkSpec) -> int:
    return 2 ** spec.setting("depth")


def _patch_divisor(spec: NetworkSpec) -> int:
    patch = _PATCH.search(spec.encoder)
    return spec.patch_px or (int(patch[1]) if patch else 1)


def _swin_divisor(spec: NetworkSpec) -> int:
    patch = _PATCH.search(spec.encoder)
    return SWIN_MERGES * (int(patch[1]) if patch else 4)  # those without a patch in their name have one of 4 px


def _timm_divisor(spec: NetworkSpec) -> int:
    return (_swin_divisor if spec.encoder.startswith("swin") else _patch_divisor)(spec)


# The number of parameters in closed form, so that plans need not build networks


def _count_resunet(spec: NetworkSpec, channels: int, classes: int) -> int:
    w = spec.setting("width")
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


def _count_unet(spec: NetworkSpec, channels: int, classes: int) -> int:
    width, depth, convolutions = (spec.setting(name) for name in ("width", "depth", "convolutions"))
    each = 1 if spec.norm == "none" else 2  # per output of a convolution: a bias, or scale and shift

    def block(before: int, after: int) -> int:
        return (9 * before + each) * after + (convolutions - 1) * (9 * after + each) * after

    widths = [width << level for level in range(depth + 1)]
    down = sum(block(b, w) for b, w in zip([channels, *widths[:-1]], widths, strict=True))
    up = sum((8 * w + 1) * w + block(2 * w, w) for w in widths[:-1])
    return down + up + (width + 1) * classes


def _count_cellpose(spec: NetworkSpec, channels: int, classes: int) -> int:
    width, depth = spec.setting("width"), spec.setting("depth")

    def convolution(before: int, after: int, side: int = 3) -> int:
        return 2 * before + (side * side * before + 1) * after

    def block(before: int, after: int) -> int:
        return convolution(before, after, 1) + convolution(before, after) + 3 * convolution(after, after)

    widths = [width << level for level in range(depth + 1)]
    down = sum(block(b, w) for b, w in zip([channels, *widths[:-1]], widths, strict=True))
    styles = sum(3 * (widths[-1] + 1) * w for w in widths)
    up = sum(block(b, w) for b, w in zip([*widths[1:], widths[-1]], widths, strict=True))
    return down + styles + up + convolution(width, classes, 1)


def _count_mlp(spec: NetworkSpec, channels: int, classes: int) -> int:
    width, depth, pixels = spec.setting("width"), spec.setting("depth"), spec.setting("side_px") ** 2
    return (channels * pixels + 1) * width + (depth - 1) * (width + 1) * width + (width + 1) * classes


def _count_alexnet(spec: NetworkSpec, channels: int, classes: int) -> int:
    w = spec.setting("width")
    convolutions = [(25 * channels, w), (25 * w, 3 * w), (27 * w, 6 * w), (54 * w, 4 * w), (36 * w, 4 * w)]
    return sum((a + 1) * b for a, b in [*convolutions, (64 * w, 16 * w), (16 * w, classes)])


NETWORKS = {
    "resunet": NetworkKind(
        _build_resunet,
        lambda _: 32,
        {"width": 64},
        "U-Net with a pre-activation ResNet-18 encoder (14,323,492 parameters at width 64)",
        has_residual_units=True,
        count_parameters=_count_resunet,
    ),
    "unet": NetworkKind(
        _build_unet,
        _halved_by_depth,
        {"width": 64, "depth": 4, "convolutions": 2},
        "classical U-Net (31,036,546 parameters at width 64, depth 4, two convolutions per block)",
        count_parameters=_count_unet,
    ),
    "cellpose": NetworkKind(
        _build_cellpose,
        _halved_by_depth,
        {"width": 32, "depth": 3},
        "residual U-Net with a style vector (6,600,519 parameters for one channel, three scores)",
        has_residual_units=True,
        count_parameters=_count_cellpose,
    ),
    "mobilenet-transposed": NetworkKind(
        _build_mobilenet,
        lambda _: 32,
        description="MobileNetV2 encoder with a decoder of transposed convolutions (10.1 M parameters)",
        has_residual_units=True,
        has_pretrained=True,
    ),
    "mlp": NetworkKind(
        _build_mlp,
        lambda _: 1,
        {"width": 256, "depth": 2, "side_px": 32},
        "multilayer perceptron for classes of images",
        is_dense=False,
        has_batch_norm=False,
        count_parameters=_count_mlp,
    ),
    "alexnet-small": NetworkKind(
        _build_alexnet,
        lambda _: 16,
        {"width": 32},
        "small convolutional classifier of images in the manner of AlexNet",
        is_dense=False,
        has_batch_norm=False,
        count_parameters=_count_alexnet,
    ),
}
FAMILIES = {  # encoders of timm
    "vit": NetworkKind(
        _build_transformer,
        _patch_divisor,
        {"patch_px": 0, "side_px": 0},
        has_residual_units=True,
        has_pretrained=True,
        prefixes=("vit_", "deit_", "deit3_", "flexivit_"),
        example="vit_tiny_patch16_224",
    ),
    "swin": NetworkKind(
        _build_transformer,
        _swin_divisor,
        has_residual_units=True,
        has_pretrained=True,
        # of swinv2 only these: swinv2_cr_… are models of another kind
        prefixes=("swin_", "swinv2_tiny_", "swinv2_small_", "swinv2_base_", "swinv2_large_"),
        example="swin_tiny_patch4_window7_224",
    ),
    "sam": NetworkKind(
        _build_transformer,
        _patch_divisor,
        {"side_px": 0},
        has_residual_units=True,
        has_pretrained=True,
        prefixes=("samvit_",),
        example="samvit_base_patch16",
    ),
    "timm": NetworkKind(
        _build_timm_classifier,
        _timm_divisor,
        {"side_px": 0},
        is_dense=False,
        has_residual_units=True,
        has_pretrained=True,
        prefixes=("",),
        example="resnet18",
    ),
}
SMP = NetworkKind(_build_smp, lambda spec: SMP_DECODERS[spec.decoder].divisor, has_pretrained=True)


class Decoder(NamedTuple):
    """`model` is the class in segmentation-models-pytorch; inputs must be multiples of `divisor` pixels."""

    model: str
    divisor: int


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


# Functions of a specification


def divisor(spec: NetworkSpec) -> int:
    """Returns the number of pixels of which height and width of an input must be multiples."""
    return spec.kind.divisor(spec)


def is_dense(spec: NetworkSpec) -> bool:
    """Returns whether the network scores pixels, (N, classes, H, W); else it scores images, (N, classes)."""
    return spec.kind.is_dense


def parameter_count(spec: NetworkSpec, *, channels: int, classes: int) -> int | None:
    """Returns the number of trainable parameters without building the network, or None where there is no closed form.

    It is the same for every norm: each has a scale and a shift per channel.
    """
    count = spec.kind.count_parameters
    return None if count is None else count(spec, channels, classes)


def build(spec: NetworkSpec, *, channels: int, classes: int) -> Network:
    """Returns the untrained network for images (N, channels, H, W), initialized from torch's global generator.

    Pretrained weights are not loaded yet: see `load_pretrained`. Raises SegueError if its encoder, decoder, norm and
    depth settings are incompatible, timm has no such model, or there is not enough memory.
    """
    import torch

    needed = BYTES_PER_PARAMETER * (parameter_count(spec, channels=channels, classes=classes) or 0)
    free = None if torch.get_default_device().type == "meta" else free_memory()
    if free is not None and needed > free:
        raise SegueError(
            f"network '{spec.name}': its weights take {format_bytes(needed)}, but {format_bytes(free)} of memory are "
            "free; lower its width or depth."
        )
    network = spec.kind.build(spec, channels, classes)
    if spec.norm not in (None, "none"):
        from segue.networks.normalization import replace_batch_norms

        replace_batch_norms(network, spec.norm, context=f"network '{spec.name}'")
    return network


def named(name: str, settings: Iterable[str], *, context: str) -> NetworkSpec:
    """Returns the network of a name with settings written as "key=value"; raises SpecError for what is unknown."""
    return validate(NetworkSpec, {**parse_settings(settings), "name": name}, context=context)


def require_fit(spec: NetworkSpec, tile_shape: tuple[int, int, int], context: str) -> None:
    """Raises SegueError when tiles (C, H, W) have a size that the network does not support."""
    factor = divisor(spec)
    _, height, width = tile_shape
    if spec.family == "timm" and spec.side_px is not None and (height, width) != (spec.side_px, spec.side_px):
        raise SegueError(
            f"{context}: its tiles are {height}x{width} px, but network '{spec.name}' is set to images of "
            f"{spec.side_px}x{spec.side_px} px; set its side_px to the side of the tiles."
        )
    if height % factor or width % factor:
        fitting = [max(factor, side // factor * factor) for side in (height, width)]
        raise SegueError(
            f"{context}: its tiles are {height}x{width} px, but network '{spec.name}' takes heights and widths that "
            f"are multiples of {factor}; make the dataset with tiles of {fitting[0]}x{fitting[1]} px, for example."
        )
