"""Files of weights that others publish: what they are, licenses, sizes, addresses, checksums. Nothing is fetched here.

Checksums are published ones: µSAM's (XXH3, 128 bits) in the source of micro_sam, DINOv2's on the page of its file,
SAM's in public code that fetches them. Of the encoders that `pretrained = true` fetches, a few are listed; the license
of any is `timm.models.get_pretrained_cfg(name).license`.
"""

from __future__ import annotations

from dataclasses import dataclass

SAM = "https://dl.fbaipublicfiles.com/segment_anything"
MICRO_SAM = "https://uk1s3.embassy.ebi.ac.uk/public-datasets/bioimage.io"
PAGES = "https://huggingface.co/"  # which show the sha256 of each file
MICRONET = "https://nasa-public-data.s3.amazonaws.com/microscopy_segmentation_models"


@dataclass(frozen=True)
class KnownEncoder:
    """network: the name to write in a specification, None of a file that segue does not read; address: of the file, or
    the page of one that `pretrained = true` fetches; checksum: of the file, after its kind, None where it is not
    published."""

    about: str
    network: str | None
    license: str
    size_MB: int
    address: str
    checksum: str | None = None
    fetched: bool = False

    def describe_checksum(self) -> str:
        """Returns the checksum, or where it is."""
        if self.checksum is None and self.address.startswith(PAGES):
            return "sha256 on the page of the file"
        return self.checksum or "checksum not published"


ENCODERS: tuple[KnownEncoder, ...] = (
    KnownEncoder(
        "SAM, natural images",
        "sam-samvit_base_patch16",
        "Apache-2.0",
        375,
        f"{SAM}/sam_vit_b_01ec64.pth",
        "sha256 ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    KnownEncoder(
        "SAM, natural images",
        "sam-samvit_large_patch16",
        "Apache-2.0",
        1250,
        f"{SAM}/sam_vit_l_0b3195.pth",
        "sha256 3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    KnownEncoder(
        "SAM, natural images",
        "sam-samvit_huge_patch16",
        "Apache-2.0",
        2565,
        f"{SAM}/sam_vit_h_4b8939.pth",
        "sha256 a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
    KnownEncoder(
        "µSAM, light microscopy",
        "sam-samvit_base_patch16",
        "CC-BY-4.0",
        375,
        f"{MICRO_SAM}/diplomatic-bug/1.2/files/vit_b.pt",
        "xxh128 fe9252a29f3f4ea53c15a06de471e186",
    ),
    KnownEncoder(
        "µSAM, light microscopy",
        "sam-samvit_large_patch16",
        "CC-BY-4.0",
        1250,
        f"{MICRO_SAM}/idealistic-rat/1.2/files/vit_l.pt",
        "xxh128 017f20677997d628426dec80a8018f9d",
    ),
    KnownEncoder(
        "µSAM, organelles in electron microscopy",
        "sam-samvit_base_patch16",
        "CC-BY-4.0",
        375,
        f"{MICRO_SAM}/noisy-ox/1.2/files/vit_b.pt",
        "xxh128 f3bf2ed83d691456bae2c3f9a05fb438",
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
    KnownEncoder(
        "DINOv2, natural images",
        "vit-vit_small_patch14_dinov2",
        "Apache-2.0",
        88,
        f"{PAGES}timm/vit_small_patch14_dinov2.lvd142m",
        fetched=True,
    ),
    KnownEncoder(
        "DINOv2, natural images",
        "vit-vit_base_patch14_dinov2",
        "Apache-2.0",
        346,
        f"{PAGES}timm/vit_base_patch14_dinov2.lvd142m",
        "sha256 55cbb5d887b336d430e649c277b85a1429e724871f9d02ac16203235886d8c7b",
        fetched=True,
    ),
    KnownEncoder(
        "DINOv3, natural images",
        "vit-vit_small_patch16_dinov3",
        "DINOv3 license",
        86,
        f"{PAGES}timm/vit_small_patch16_dinov3.lvd1689m",
        fetched=True,
    ),
    KnownEncoder(
        "ImageNet",
        "unet-resnet18",
        "Apache-2.0 or BSD-3-Clause",
        47,
        f"{PAGES}smp-hub/resnet18.imagenet",
        fetched=True,
    ),
    KnownEncoder(
        "ImageNet",
        "unet-tu-convnext_tiny",
        "Apache-2.0 or MIT",
        114,
        f"{PAGES}timm/convnext_tiny.in12k_ft_in1k",
        fetched=True,
    ),
    KnownEncoder(
        "Cellpose-SAM, cells",
        None,
        "BSD-3-Clause (data: CC-BY-NC)",
        1230,
        f"{PAGES}mouseland/cellpose-sam/resolve/main/cpsam",
    ),
    KnownEncoder("Cellpose 3 (cyto3), cells", None, "not stated", 26, "https://www.cellpose.org/models/cyto3"),
)


def encoder_of(sha256: str) -> KnownEncoder | None:
    """Returns the encoder whose file has this checksum (hex)."""
    return next((encoder for encoder in ENCODERS if encoder.checksum == f"sha256 {sha256}"), None)
