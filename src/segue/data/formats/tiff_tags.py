"""What is done with each TIFF tag that says something of pixels: TIFF 6.0, its supplements, and private tags.

`TAGS` treats tags, `PHOTOMETRIC` the values of PhotometricInterpretation, `LOSSLESS` the values of Compression. Tags
that are in neither say nothing of pixels, or describe their storage, which tifffile decodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

WHITE_IS_ZERO, BLACK_IS_ZERO, COLOR_RGB, PALETTE, MASK, YCBCR = 0, 1, 2, 3, 4, 6
JPEG = (6, 7, 33007, 34892)  # compressions that tifffile decodes from YCbCr to RGB
CCITT = (2, 3, 4)
UNSPECIFIED, ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA = 0, 1, 2  # values of ExtraSamples
REDUCED, PART_OF_MASK = 0b1, 0b100  # bits of NewSubfileType


@dataclass(frozen=True)
class Tag:
    """A tag's name and treatment; refusal(value) returns why the pixels cannot be used, None if they can."""

    name: str
    treatment: str
    refusal: Callable[[Any], str | None] | None = None


# what images of a value of PhotometricInterpretation are; a sentence begins with the refused ones
PHOTOMETRIC: Mapping[int, str] = {
    WHITE_IS_ZERO: "gray, inverted to what a viewer shows; labels as stored, but see image_io.is_inverted_mask",
    BLACK_IS_ZERO: "gray, as stored",
    COLOR_RGB: "color",
    PALETTE: "color, looked up in ColorMap; of labels, and of more than eight bits, the stored numbers",
    YCBCR: "color, if compressed as JPEG",
}
REFUSED_PHOTOMETRIC: Mapping[int, str] = {
    MASK: "holds a transparency mask, so that some pixels are not shown; save the image without it",
    5: "is a CMYK image (Separated); convert it to RGB",
    8: "is a CIELab image; convert it to RGB",
    9: "is an ICCLab image; convert it to RGB",
    10: "is an ITULab image; convert it to RGB",
    32803: "holds raw data of a camera's color filter array (CFA); develop it to RGB or gray",
    32844: "is a LogL image (logarithms of luminance); convert it to gray floats",
    32845: "is a LogLuv image (logarithms of luminance, and chroma); convert it to RGB",
    34892: "holds a camera's LinearRaw data; develop it to RGB or gray",
    51177: "is a depth map; leave it out",
    52527: "is a semantic mask of a photograph; leave it out",
}
RAW_YCBCR = "stores color as YCbCr without JPEG, which is not read; save it as RGB"


def _equal(values: Any) -> str | None:
    bits = values if isinstance(values, tuple) else (values,)
    unlike = f"{', '.join(map(str, bits))} bits per sample, which are not uniform; save it with equal bits"
    return f"has {unlike}" if len(set(bits)) > 1 else None


def _upright(value: Any) -> str | None:
    return orientation_problem(value)


def orientation_problem(value: Any) -> str | None:
    """Returns why pixels of an Orientation (TIFF and EXIF, 1 to 8) cannot be used; 0 is written for unknown."""
    if value in (None, 0, 1):
        return None
    return (
        f"has the orientation {value}, so that viewers turn or mirror its stored pixels; save it upright "
        "(orientation 1), its label image alike"
    )


def _sample_format(values: Any) -> str | None:
    formats = set(values if isinstance(values, tuple) else (values,))
    if formats & {5, 6}:
        return "holds complex numbers; save their magnitude or phase"
    if len(formats) > 1:
        return "mixes integers and floats among its samples; save them as one type"
    return None


def _present(name: str) -> Callable[[Any], str]:
    return lambda value: f"holds a camera's raw data ({name}); develop it to RGB or gray"


def _indexed(value: Any) -> str | None:
    return "holds indices into another color space (Indexed); convert it to RGB" if value else None


TAGS: Mapping[int, Tag] = {
    254: Tag("NewSubfileType", "pages of reduced resolution are left out, transparency masks refused"),
    255: Tag("SubfileType", "pages of reduced resolution (2) are left out"),
    258: Tag("BitsPerSample", "white is 2^bits - 1; unequal bits are refused", _equal),
    259: Tag("Compression", "lossy ones are refused for labels"),
    262: Tag("PhotometricInterpretation", "see PHOTOMETRIC"),
    263: Tag("Threshholding", "how a scanner made one bit of gray: ignored"),
    266: Tag("FillOrder", "taken into account"),
    274: Tag("Orientation", "refused unless 1", _upright),
    277: Tag("SamplesPerPixel", "gray, color, alpha and further channels"),
    280: Tag("MinSampleValue", "display only: ignored"),
    281: Tag("MaxSampleValue", "display only: ignored"),
    284: Tag("PlanarConfiguration", "taken into account"),
    290: Tag("GrayResponseUnit", "print only: ignored"),
    291: Tag("GrayResponseCurve", "print only: ignored"),
    301: Tag("TransferFunction", "display only: ignored"),
    317: Tag("Predictor", "taken into account"),
    318: Tag("WhitePoint", "display only: ignored"),
    319: Tag("PrimaryChromaticities", "display only: ignored"),
    320: Tag("ColorMap", "colors of a palette; display only without one"),
    321: Tag("HalftoneHints", "print only: ignored"),
    330: Tag("SubIFDs", "pyramids: full resolution only"),
    332: Tag("InkSet", "of Separated, which is refused"),
    336: Tag("DotRange", "of Separated, which is refused"),
    338: Tag(
        "ExtraSamples",
        "opaque alpha is dropped, other refused; unspecified samples: channels of gray; of color, as alpha",
    ),
    339: Tag(
        "SampleFormat", "integers and floats; 4 (undefined) as unsigned; complex numbers are refused", _sample_format
    ),
    340: Tag("SMinSampleValue", "display only: ignored"),
    341: Tag("SMaxSampleValue", "display only: ignored"),
    346: Tag("Indexed", "refused", _indexed),
    529: Tag("YCbCrCoefficients", "of JPEG: taken into account by its decoder"),
    530: Tag("YCbCrSubSampling", "of JPEG: taken into account by its decoder"),
    531: Tag("YCbCrPositioning", "of JPEG: taken into account by its decoder"),
    532: Tag("ReferenceBlackWhite", "display only: ignored"),
    32997: Tag("ImageDepth", "planes in depth"),
    33421: Tag("CFARepeatPatternDim", "refused", _present("CFA")),
    33422: Tag("CFAPattern", "refused", _present("CFA")),
    34675: Tag("ICCProfile", "display only: ignored"),
    37439: Tag("StoNits", "of LogLuv, which is refused"),
    42112: Tag("GDAL_METADATA", "scale and offset are told, pixels stay as stored"),
    42113: Tag("GDAL_NODATA", "refused where a pixel has this value; of labels, unless it is 0"),
    50706: Tag("DNGVersion", "refused", _present("DNG")),
    50712: Tag("LinearizationTable", "refused", _present("LinearizationTable")),
    50714: Tag("BlackLevel", "refused", _present("BlackLevel")),
    50717: Tag("WhiteLevel", "refused", _present("WhiteLevel")),
}

# compressions that leave every number as it was; of JPEG 2000, WebP, JPEG XL, JPEG XR and LERC a file does not say it
LOSSLESS = frozenset({1, *CCITT, 5, 8, 32771, 32773, 32946, 34661, 34925, 34926, 34933, 50000, 50013})


def refusal(tags: Mapping[int, Any], *, compression: int, labels: bool) -> str | None:
    """Returns why the pixels of a page with these tags cannot be used, None if they can."""
    photometric = tags.get(262)
    if photometric is not None and photometric in REFUSED_PHOTOMETRIC and not tags.get(50706):
        return REFUSED_PHOTOMETRIC[photometric]
    for code, tag in TAGS.items():
        if tag.refusal is not None and tags.get(code) is not None:
            problem = tag.refusal(tags[code])
            if problem is not None:
                return problem
    if photometric is not None and photometric not in PHOTOMETRIC:
        return f"has the PhotometricInterpretation {photometric}, which is not known; save it as gray or RGB"
    if photometric == YCBCR and compression not in JPEG:
        return RAW_YCBCR
    if (tags.get(254) or 0) & PART_OF_MASK:
        return REFUSED_PHOTOMETRIC[MASK]
    if labels and compression not in LOSSLESS:
        return (
            f"is a label image whose compression can lose information (Compression {compression}), which changes its "
            "numbers; save it uncompressed or with deflate"
        )
    return None


def is_reduced(tags: Mapping[int, Any]) -> bool:
    """Returns whether a page is a copy of another at reduced resolution."""
    return bool((tags.get(254) or 0) & REDUCED) or (not tags.get(254) and tags.get(255) == 2)


def photometric_of(tags: Mapping[int, Any], *, compression: int) -> int:
    """Returns PhotometricInterpretation; where it is missing, what libtiff takes it for."""
    value = tags.get(262)
    if value is not None:
        return int(value)
    if compression in CCITT:
        return WHITE_IS_ZERO
    if compression == 6:
        return YCBCR
    return COLOR_RGB if (tags.get(277) or 1) >= 3 else BLACK_IS_ZERO
