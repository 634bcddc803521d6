"""The specification of a network: its name, and what is changed of it. Cheap to import: no torch.

Names are those of `NETWORKS`; `<decoder>-<encoder>` of segmentation-models-pytorch, e.g. `unet-resnet18`,
`fpn-mobilenet_v2`, `unet-tu-convnext_tiny`; and `<family>-<timm name>` of `FAMILIES`, e.g. `vit-vit_tiny_patch16_224`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, field_validator, model_validator

from segue.networks.names import FAMILIES, SMP_DECODERS, SMP_ENCODERS
from segue.spec import SpecModel, unknown

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
