"""Pretrained encoders that others publish: what they are, licenses, addresses, checksums. Nothing is fetched here.

Of the encoders that `pretrained = true` fetches, a few are listed; the license of any is
`timm.models.get_pretrained_cfg(name).license`.
"""

from __future__ import annotations

from dataclasses import dataclass

SAM = "https://dl.fbaipublicfiles.com/segment_anything"
MICRO_SAM = "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io"
MICRONET = "https://nasa-public-data.s3.amazonaws.com/microscopy_segmentation_models"


@dataclass(frozen=True)
class KnownEncoder:
    """network: the name to write in a specification; size_MB: of the file, about; address: of the file, or None where
    `pretrained = true` fetches it; sha256: of the file, None where it is not published."""

    about: str
    network: str
    license: str
    size_MB: int
    address: str | None
    sha256: str | None = None


ENCODERS: tuple[KnownEncoder, ...] = (
    KnownEncoder(
        "SAM, natural images",
        "sam-samvit_base_patch16",
        "Apache-2.0",
        375,
        f"{SAM}/sam_vit_b_01ec64.pth",
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    KnownEncoder(
        "SAM, natural images",
        "sam-samvit_large_patch16",
        "Apache-2.0",
        1250,
        f"{SAM}/sam_vit_l_0b3195.pth",
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    KnownEncoder(
        "SAM, natural images",
        "sam-samvit_huge_patch16",
        "Apache-2.0",
        2565,
        f"{SAM}/sam_vit_h_4b8939.pth",
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
    KnownEncoder(
        "µSAM, light microscopy",
        "sam-samvit_base_patch16",
        "CC-BY-4.0",
        375,
        f"{MICRO_SAM}/diplomatic-bug/1.2/files/vit_b.pt",
    ),
    KnownEncoder(
        "µSAM, light microscopy",
        "sam-samvit_large_patch16",
        "CC-BY-4.0",
        1250,
        f"{MICRO_SAM}/idealistic-rat/1.2/files/vit_l.pt",
    ),
    KnownEncoder(
        "µSAM, organelles in electron microscopy",
        "sam-samvit_base_patch16",
        "CC-BY-4.0",
        375,
        f"{MICRO_SAM}/noisy-ox/1.2/files/vit_b.pt",
    ),
    KnownEncoder(
        "MicroNet, materials microscopy",
        "unet-resnet50",
        "MIT",
        100,
        f"{MICRONET}/resnet50_pretrained_microscopynet_v1.1.pth.tar",
    ),
    KnownEncoder(
        "MicroNet, materials microscopy",
        "unet-resnet101",
        "MIT",
        175,
        f"{MICRONET}/resnet101_pretrained_microscopynet_v1.0.pth.tar",
    ),
    KnownEncoder("DINOv2, natural images", "vit-vit_small_patch14_dinov2", "Apache-2.0", 88, None),
    KnownEncoder("DINOv2, natural images", "vit-vit_base_patch14_dinov2", "Apache-2.0", 346, None),
    KnownEncoder("DINOv3, natural images", "vit-vit_small_patch16_dinov3", "DINOv3 license", 86, None),
    KnownEncoder("ImageNet", "unet-resnet18", "Apache-2.0 or BSD-3-Clause", 47, None),
    KnownEncoder("ImageNet", "unet-tu-convnext_tiny", "Apache-2.0 or MIT", 114, None),
)


def encoder_of(sha256: str) -> KnownEncoder | None:
    """Returns the encoder whose file has this checksum (hex)."""
    return next((encoder for encoder in ENCODERS if encoder.sha256 == sha256), None)
