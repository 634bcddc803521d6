"""Minimal files of instruments' formats, byte by byte: what their readers need and nothing else."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

# CZI

CZI_TYPES = {("u1", 1): 0, ("u2", 1): 1, ("f4", 1): 2, ("u1", 3): 3, ("u2", 3): 4, ("u1", 4): 9, ("c8", 1): 10}


@dataclass(frozen=True)
class CziTile:
    """A tile: its stored array (H, W) or (H, W, samples), (start, size) by dimension, and how its bytes are stored."""

    pixels: np.ndarray
    at: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # X and Y give the logical rectangle
    compression: int = 0
    data: bytes | None = None


def write_czi(path: Path, tiles: Sequence[CziTile], metadata: str = "", file_part: int = 0) -> Path:
    """Writes a CZI: a header, the tiles, their directory and XML."""
    segments: list[bytes] = []
    position = 32 + 512
    entries = []
    for tile in tiles:
        samples = tile.pixels.shape[2] if tile.pixels.ndim == 3 else 1
        kind = CZI_TYPES[tile.pixels.dtype.str[1:], samples]
        dimensions = {
            "X": (0, tile.pixels.shape[1], tile.pixels.shape[1]),
            "Y": (0, tile.pixels.shape[0], tile.pixels.shape[0]),
        }
        for name, (start, size) in tile.at.items():
            dimensions[name] = (start, size, dimensions[name][2] if name in dimensions else 1)
        entry = struct.pack("<2siqiiBB4si", b"DV", kind, position, 0, tile.compression, 0, 0, b"", len(dimensions))
        for name, (start, size, stored) in dimensions.items():
            entry += struct.pack("<4siifi", name.encode(), start, size, 0.0, stored)
        data = tile.pixels.tobytes() if tile.data is None else tile.data
        content = struct.pack("<iiq", 0, 0, len(data)) + entry
        content += bytes(16 + max(240, len(entry)) - len(content)) + data
        segments.append(_segment(b"ZISRAWSUBBLOCK", content))
        entries.append(entry)
        position += len(segments[-1])
    directory = _segment(b"ZISRAWDIRECTORY", struct.pack("<i", len(entries)) + bytes(124) + b"".join(entries))
    xml = metadata.encode()
    text = _segment(b"ZISRAWMETADATA", struct.pack("<ii", len(xml), 0) + bytes(248) + xml)
    header = struct.pack(
        "<iiii16s16siqqiq", 1, 0, 0, 0, bytes(16), bytes(16), file_part, position, position + len(directory), 0, 0
    )
    file_header = _segment(b"ZISRAWFILE", header + bytes(512 - len(header)))
    path.write_bytes(file_header + b"".join(segments) + directory + text)
    return path


def _segment(name: bytes, content: bytes) -> bytes:
    content += bytes(-len(content) % 32)
    return struct.pack("<16sqq", name, len(content), len(content)) + content


def czi_metadata(size_m: float | None, channels: Sequence[str] = (), scenes: Sequence[str] = ()) -> str:
    """Returns the XML of a CZI."""
    distances = "".join(f'<Distance Id="{a}"><Value>{size_m}</Value></Distance>' for a in "XY") if size_m else ""
    named = "".join(f'<Channel Id="Channel:{i}" Name="{name}"/>' for i, name in enumerate(channels))
    places = "".join(f'<Scene Index="{i}" Name="{name}"/>' for i, name in enumerate(scenes))
    return (
        f"<ImageDocument><Metadata><Scaling><Items>{distances}</Items></Scaling><Information><Image><Dimensions>"
        f"<Channels>{named}</Channels><S><Scenes>{places}</Scenes></S></Dimensions></Image></Information></Metadata>"
        "</ImageDocument>"
    )


# LIF

LIF_DIMENSIONS = {"X": 1, "Y": 2, "Z": 3, "T": 4}


def write_lif(
    path: Path, images: Mapping[str, tuple[np.ndarray, str, float]], dyes: Sequence[str] = (), tags: Sequence[int] = ()
) -> Path:
    """Writes images by name: (array, its axes with C in front of Y and X, distance of pixels in m)."""
    elements, blocks = "", b""
    for number, (name, (array, axes, step_m)) in enumerate(images.items()):
        data = np.ascontiguousarray(array).tobytes()
        strides = np.ascontiguousarray(array).strides
        dimensions = "".join(
            f'<DimensionDescription DimID="{LIF_DIMENSIONS[letter]}" NumberOfElements="{n}" Origin="0" '
            f'Length="{step_m * (n - 1)}" Unit="m" BytesInc="{stride}" BitInc="0"/>'
            for letter, n, stride in reversed(list(zip(axes, array.shape, strides, strict=True)))
            if letter != "C"
        )
        count = array.shape[axes.index("C")] if "C" in axes else 1
        channels = "".join(
            f'<ChannelDescription DataType="0" ChannelTag="{tags[i] if tags else 0}" Resolution="{8 * array.itemsize}" '
            f'NameOfMeasuredQuantity="" Min="0" Max="255" Unit="" LUTName="Gray" IsLUTInverted="0" '
            f'BytesInc="{i * (strides[axes.index("C")] if "C" in axes else 0)}" BitInc="0">'
            f"{f'<ChannelProperty><Key>DyeName</Key><Value>{dyes[i]}</Value></ChannelProperty>' if dyes else ''}"
            "</ChannelDescription>"
            for i in range(count)
        )
        elements += (
            f'<Element Name="{name}" UniqueID="{number}"><Data><Image><ImageDescription><Channels>{channels}</Channels>'
            f"<Dimensions>{dimensions}</Dimensions></ImageDescription></Image></Data>"
            f'<Memory Size="{len(data)}" MemoryBlockID="MemBlock_{number}"/></Element>'
        )
        identifier = f"MemBlock_{number}".encode("utf-16-le")
        content = struct.pack("<BqBi", 0x2A, len(data), 0x2A, len(identifier) // 2) + identifier
        blocks += struct.pack("<ii", 0x70, len(content)) + content + data
    xml = (
        '<LMSDataContainerHeader Version="2"><Element Name="Project"><Data/>'
        '<Memory Size="0" MemoryBlockID="MemBlock_P"/>'
        f"<Children>{elements}</Children></Element></LMSDataContainerHeader>"
    ).encode("utf-16-le")
    header = struct.pack("<Bi", 0x2A, len(xml) // 2) + xml
    path.write_bytes(struct.pack("<ii", 0x70, len(header)) + header + blocks)
    return path


# ND2


@dataclass(frozen=True)
class Nd2:
    """frames: (N, H, W, C) uint16. calibration_um: None if it is not calibrated."""

    frames: np.ndarray
    calibration_um: float | None = 0.5
    channels: tuple[str, ...] = ("DAPI", "FITC")
    loop: int | None = None  # the number of times or planes that the acquisition planned; None: of the frames
    loop_type: int = 1  # 1 of times, 4 of depths
    has_probes: bool = True
    is_color: bool = False  # the three components are of one channel


def write_nd2(path: Path, nd2: Nd2) -> Path:
    """Writes an ND2 of version 3 whose metadata are XML."""
    count, height, width, components = nd2.frames.shape
    attributes = {
        "uiWidth": width, "uiHeight": height, "uiWidthBytes": width * 2 * components, "uiComp": components,
        "uiBpcInMemory": 16, "uiBpcSignificant": 16, "uiSequenceCount": count, "eCompression": 2,
    }  # fmt: skip
    probe = {"pFluorescentProbe": {"m_sName": "dye"}} if nd2.has_probes else {}
    planes = {
        f"a{i}": {"sDescription": name, "uiCompCount": 3 if nd2.is_color else 1, **probe}
        for i, name in enumerate(nd2.channels)
    }
    metadata = {
        "bCalibrated": nd2.calibration_um is not None, "dCalibration": nd2.calibration_um or -1.0,
        "sPicturePlanes": {"uiCount": len(planes), "sPlaneNew": planes},
    }  # fmt: skip
    loops = nd2.loop or count
    times = {"uiCount": loops, "dStart": 0.0, "dPeriod": 1000.0, "dDuration": 0.0}
    depths = {"uiCount": loops, "dZStep": 0.3, "dZLow": 0.0, "dZHigh": 1.0, "iType": 0, "bAbsolute": False}
    experiment = {"eType": nd2.loop_type, "uLoopPars": times if nd2.loop_type == 1 else depths}
    chunks = {
        b"ImageAttributesLV!": _clx({"SLxImageAttributes": attributes}),
        b"ImageMetadataSeqLV|0!": _clx({"SLxPictureMetadata": metadata}),
        b"ImageMetadataLV!": _clx({"SLxExperiment": experiment}),
        b"CustomData|AcqTimesCache!": np.arange(count, dtype=np.float64).tobytes(),
    }
    for i, frame in enumerate(nd2.frames):
        chunks[f"ImageDataSeq|{i}!".encode()] = bytes(8) + np.ascontiguousarray(frame).tobytes()
    content = _chunk(b"ND2 FILE SIGNATURE CHUNK NAME01!", b"Ver3.0".ljust(64, b"\0"), 32)
    table = b""
    for name, data in chunks.items():
        table += name + struct.pack("<QQ", len(content), len(data))
        content += _chunk(name, data, 4072)
    position = len(content)
    table += b"ND2 CHUNK MAP SIGNATURE 0000001!" + struct.pack("<Q", position)
    path.write_bytes(content + _chunk(b"ND2 FILEMAP SIGNATURE NAME 0001!", table, 4072))
    return path


def _chunk(name: bytes, data: bytes, name_length: int) -> bytes:
    return struct.pack("<IIQ", 0x0ABECEDA, name_length, len(data)) + name.ljust(name_length, b"\0") + data


def _clx(values: Mapping[str, Any]) -> bytes:
    return f'<variant version="1.0">{_clx_nodes(values)}</variant>'.encode()


def _clx_nodes(values: Mapping[str, Any]) -> str:
    kinds = {bool: "bool", int: "lx_uint32", float: "double", str: "CLxStringW"}
    nodes = ""
    for name, value in values.items():
        if isinstance(value, Mapping):
            nodes += f'<{name} runtype="CLxVariant">{_clx_nodes(value)}</{name}>'
        else:
            text = str(value).lower() if isinstance(value, bool) else value
            nodes += f'<{name} runtype="{kinds[type(value)]}" value="{text}"/>'
    return nodes


# SER


def write_ser(
    path: Path, images: np.ndarray, step: float, *, total: int | None = None, lengths: Sequence[int] = ()
) -> Path:
    """Writes images (N, H, W), the lowest row of each first; lengths: of the scan, () for a series of numbers."""
    kinds = {"u1": 1, "u2": 2, "i4": 6, "f4": 7, "c8": 9}
    axes = lengths or [len(images)]
    unit = b"meters" if lengths else b""
    dimensions = b"".join(
        struct.pack("<iddii", n, 0.0, 1.0, 0, 8)
        + (b"Position" if lengths else b"Number  ")
        + struct.pack("<i", len(unit))
        + unit
        for n in axes
    )
    data_start = 34 + len(dimensions)
    elements = []
    for image in images:
        height, width = image.shape
        calibration = struct.pack("<ddi", 0.0, step, 0) * 2
        elements.append(
            calibration + struct.pack("<hii", kinds[image.dtype.str[1:]], width, height) + image[::-1].tobytes()
        )
    offsets = np.cumsum([data_start, *map(len, elements)])
    tags = struct.pack("<ii", 0x4152, 0)
    header = b"II" + struct.pack(
        "<hhiiiiqi", 0x0197, 0x0220, 0x4122, 0x4152, total or len(images), len(images), int(offsets[-1]), len(axes)
    )
    tag_start = int(offsets[-1]) + 16 * len(images)
    table = np.array([*offsets[:-1], *[tag_start] * len(images)], "<i8").tobytes()
    path.write_bytes(header + dimensions + b"".join(elements) + table + tags)
    return path


# DM3 and DM4


def write_dm(path: Path, images: Sequence[Mapping[str, Any]], *, thumbnail: int | None = None) -> Path:
    """Writes images with the keys data (flat array), lengths (x first), type, units, scales and optionally name."""
    version = int(path.suffix[-1])
    writer = _DmWriter(version)
    listed = [
        {
            "ImageData": {
                "Calibrations": {
                    "Dimension": [
                        {"Origin": 0.0, "Scale": float(scale), "Units": unit}
                        for scale, unit in zip(image["scales"], image["units"], strict=True)
                    ]
                },
                "Data": image["data"],
                "DataType": int(image["type"]),
                "Dimensions": [int(n) for n in image["lengths"]],
            },
            "Name": image.get("name", "image"),
        }
        for image in images
    ]
    root = {"ImageList": listed} | ({"Thumbnails": [{"ImageIndex": thumbnail}]} if thumbnail is not None else {})
    body = writer.group(root)
    size = struct.pack(">i" if version == 3 else ">q", len(body))
    path.write_bytes(struct.pack(">i", version) + size + struct.pack(">i", 1) + body + bytes(8))
    return path


@dataclass(frozen=True)
class _DmWriter:
    version: int

    def number(self, value: int) -> bytes:
        return struct.pack(">i" if self.version == 3 else ">q", value)

    def group(self, entries: Mapping[str, Any] | Sequence[Any]) -> bytes:
        named = entries.items() if isinstance(entries, Mapping) else (("", one) for one in entries)
        tags = [self.tag(name, value) for name, value in named]
        return struct.pack(">BB", 0, 0) + self.number(len(tags)) + b"".join(tags)

    def tag(self, name: str, value: Any) -> bytes:
        is_group = isinstance(value, (Mapping, list, tuple))
        content = self.group(value) if is_group else self.value(value)
        head = struct.pack(">BH", 20 if is_group else 21, len(name)) + name.encode()
        return head + (self.number(len(content)) if self.version == 4 else b"") + content

    def value(self, value: Any) -> bytes:
        if isinstance(value, np.ndarray):
            codes = {"u1": 10, "i1": 9, "u2": 4, "i2": 2, "i4": 3, "u4": 5, "f4": 6, "f8": 7}
            return self.array(codes[value.dtype.str[1:]], len(value), value.tobytes())
        if isinstance(value, str):
            return self.array(4, len(value), value.encode("utf-16-le"))
        kind, data = (3, struct.pack("<i", value)) if isinstance(value, int) else (6, struct.pack("<f", value))
        return b"%%%%" + self.number(1) + self.number(kind) + data

    def array(self, kind: int, count: int, data: bytes) -> bytes:
        return b"%%%%" + self.number(3) + self.number(20) + self.number(kind) + self.number(count) + data
