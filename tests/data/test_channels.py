"""Names of channels: which are names, and the order by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from segue.data.dataset import Dataset
from segue.data.folders.channels import channel_order, channels_left_out, names_in_use
from segue.data.prepare import prepare
from segue.data.spec import PrepareSpec
from segue.errors import SegueError


@pytest.mark.parametrize(
    "names",
    [("0", "1"), ("Channel:0:0", "Channel:0:1"), ("channel 1", "Channel 2"), ("C1", "C2"), ("Ch1-T1",), ("", "")],
)
def test_counters_are_no_names(names: tuple[str, ...]) -> None:
    """Numbers that programs count channels by are not compared."""
    assert names_in_use(names) is None
    assert channel_order(Path("a.tif"), names, ("DAPI", "GFP"), "the specification") is None


@pytest.mark.parametrize("names", [("DAPI", "GFP"), ("C1q", "GFP"), ("Cy5", "1"), ("TL Brightfield",)])
def test_names(names: tuple[str, ...]) -> None:
    """Stains are names, also beside a counter."""
    assert names_in_use(names) == names


def test_order() -> None:
    """The same names in another order, or another case, give the indices; other names are refused with both."""
    path = Path("b.tif")
    assert channel_order(path, ("GFP", "dapi"), ("DAPI", "GFP"), "the first image") == [1, 0]
    assert channel_order(path, ("A", "B", "C"), ("C", "A", "B"), "the first image") == [2, 0, 1]
    assert channel_order(path, ("DAPI", "GFP"), ("DAPI", "GFP"), "the first image") is None
    for names in (("DAPI", "RFP"), ("DAPI",), ("DAPI", "DAPI")):
        with pytest.raises(
            SegueError, match=rf"b.tif: its channels are named {', '.join(names)}, those of .* DAPI, GFP"
        ):
            channel_order(path, names, ("DAPI", "GFP"), "the specification")


@pytest.mark.parametrize(
    ("reference", "order", "note"),
    [
        (("GFP",), [1], ("channels left out: DAPI, RFP",)),
        (("rfp", "DAPI"), [2, 0], ("channels left out: GFP",)),
        (("RFP", "GFP", "DAPI"), [2, 1, 0], ()),
    ],
)
def test_subset(reference: tuple[str, ...], order: list[int], note: tuple[str, ...]) -> None:
    """Some of an image's channels are taken by name, and the others told; all that are named must be there, once."""
    names = ("DAPI", "GFP", "RFP")
    path = Path("a.tif")
    assert channel_order(path, names, reference, "the specification", subset=True) == order
    assert channels_left_out(names, order) == note
    for absent in (("GFP", "Cy5"), ("GFP", "GFP"), ("DAPI", "GFP", "RFP", "Cy5")):
        with pytest.raises(SegueError, match="an image needs these among its channels"):
            channel_order(path, names, absent, "the specification", subset=True)


@pytest.mark.parametrize(
    ("kind", "channels", "planes"),
    [
        ("OME", ("GFP",), [1]),
        ("OME", ("RFP", "DAPI"), [2, 0]),
        ("rgb", ("green",), [1]),
        ("rgb", ("Blue", "green", "red"), [2, 1, 0]),
        ("rgb", ("H", "E", "X"), [0, 1, 2]),
    ],
)
def test_prepare_takes_channels_by_name(
    tmp_path: Path, kind: str, channels: tuple[str, ...], planes: list[int]
) -> None:
    """One channel of a file of several, and one color; those left out are told; names of all colors rename them."""
    pixels = np.random.default_rng(0).integers(0, 200, (3, 16, 24)).astype(np.uint8)
    if kind == "rgb":
        tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(pixels, 0, -1), photometric="rgb")
    else:
        metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP", "RFP"]}}
        tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", ome=True, metadata=metadata)
    settings = {"color": "rgb"} if kind == "rgb" else {}
    spec = PrepareSpec.model_validate({"name": "a", "images": "*.tif", "tile_px": 16, "channels": channels, **settings})
    notes: list[str] = []
    done = prepare(spec, tmp_path / "a.h5", root=tmp_path, log=notes.append)
    with Dataset(done.path) as data:
        assert data.channels == channels
        np.testing.assert_array_equal(data.micrograph("a.tif").image, pixels[planes])
    assert len([note for note in notes if "channels left out: " in note]) == (len(channels) < 3)
