"""The decoders and encoders of segmentation-models-pytorch by name, so that a plan is checked without importing it.

A test holds these names against the installed package. Of timm's models, of which there are a thousand, only the
beginnings of the names are checked beforehand.
"""

from __future__ import annotations

from typing import NamedTuple


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
