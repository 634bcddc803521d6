"""Image files in, labels and tables out: equal to predictions of arrays, resumable, nothing overwritten."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch
import zarr
from PIL import Image
from roifile import roiread
from samples.local_model import load_local_model, model_of
from samples.stages import FORKS
from scipy import ndimage

from segue import rng
from segue.data import tiling
from segue.errors import SegueError
from segue.exchange.write import OUTLINE_FORMATS
from segue.inference import inputs, predict_files
from segue.inference import predict as inference
from segue.inference.confidence import FEATURES, Calibration
from segue.inference.domain import TrainingSet
from segue.inference.model import Model
from segue.inference.predict import predict, probabilities
from segue.inference.predict_files import ModelSource, Prediction, PredictSettings
from segue.targets.classes import ImageClass
from segue.targets.reconstruction import Reconstruction
from segue.targets.specs import MaskedSpec

SOURCE = ModelSource(Path("foreground"), "key", load_local_model)


def image_of(seed: int, shape: tuple[int, int] = (90, 120)) -> np.ndarray:
    noise = rng.numpy_generator("files", seed).normal(size=shape)
    return (5000 + 3000 * ndimage.gaussian_filter(noise, 3)).astype(np.uint16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Returns a folder of three images, one of them in two pages, with a pixel size, and a text."""
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "a.tif", image_of(1))
    Image.fromarray(image_of(2)).save(tmp_path / "in" / "b.PNG")
    stack = np.stack([image_of(3), image_of(4)])
    size = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm"}
    tifffile.imwrite(tmp_path / "in" / "c.ome.tif", stack, ome=True, metadata={"axes": "TYX", **size})
    (tmp_path / "in" / "notes.txt").write_text("no image")
    return tmp_path / "in"


def run(
    arguments: list[Any], out: Path, *, source: ModelSource = SOURCE, workers: int = 1, **settings: Any
) -> Prediction:
    return predict_files.predict_files(source, arguments, out, PredictSettings(**settings), workers=workers)


def source_of(model: Model, key: str = "key") -> ModelSource:
    return ModelSource(Path("model"), key, lambda folder: model)


def tree(out: Path) -> dict[str, str]:
    """Returns the digest of every file of a prediction but its lock."""
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_folder_becomes_labels_and_tables(folder: Path, tmp_path: Path):
    """Labels are those of arrays; rows of objects and images agree with them; what is uncertain is counted."""
    done = run([folder], tmp_path / "out", table="parquet")
    assert (done.predicted, done.skipped, done.errors) == (4, 0, [])
    assert done.notes == {f"{folder}: 1 file is no image and is left out, such as notes.txt": []}
    summary = pd.read_parquet(tmp_path / "out" / "images.parquet").set_index("image")
    objects = pd.read_parquet(tmp_path / "out" / "objects.parquet")
    assert list(summary.index) == ["a", "b", "c-t000", "c-t001"]
    assert summary.loc["c-t001", "pixel_size_nm"] == 500 and pd.isna(summary.loc["a", "pixel_size_nm"])
    for number, name in enumerate(summary.index, 1):
        expected = predict(model_of("foreground"), image_of(number))
        with tifffile.TiffFile(tmp_path / "out" / "labels" / f"{name}.tif") as tiff:
            labels = tiff.asarray()
            assert f'"uncertain": {summary.loc[name, "uncertain"]}' in tiff.pages[0].description
        assert labels.dtype == np.uint16 and np.array_equal(labels, expected)
        rows = objects[objects["image"] == name]
        assert len(rows) == summary.loc[name, "objects"] == expected.max() > 3
        assert rows["area_px"].tolist() == np.bincount(expected.ravel())[1:].tolist()
        edge = {*expected[0], *expected[-1], *expected[:, 0], *expected[:, -1]} - {0}
        assert set(rows.loc[rows["at_edge"], "label"]) == edge
        assert summary.loc[name, "uncertain"] == rows["uncertain"].sum() == len(edge)
        with Image.open(tmp_path / "out" / "overlays" / f"{name}.png") as overlay:
            assert overlay.size == (120, 90)
            assert f"{len(edge)} of them with uncertain borders" in overlay.info["Description"]
    page = objects[objects["image"] == "c-t000"]
    assert np.allclose(page["area_um2"], page["area_px"] / 4)
    assert not (tmp_path / "out" / "working").exists()


@pytest.mark.parametrize("format", ["ome-tiff", "ome-zarr", "ome-zarr-0.4"])
def test_formats_state_pixel_size_and_uncertain_objects(folder: Path, tmp_path: Path, format: str):
    """Labels and probabilities of OME formats hold the values, the pixel size, the class names and the counts."""
    run([folder / "c.ome.tif"], tmp_path / "out", format=format, probabilities=True)
    model = model_of("foreground")
    labels, chances = predict(model, image_of(3)), probabilities(model, image_of(3))
    uncertain = pd.read_csv(tmp_path / "out" / "images.csv")["uncertain"][0]
    if format == "ome-tiff":
        for kind, expected in (("labels", labels), ("probabilities", chances)):
            with tifffile.TiffFile(tmp_path / "out" / kind / "c-t000.ome.tif") as tiff:
                assert np.array_equal(tiff.asarray(), expected)
                assert (
                    'PhysicalSizeX="0.5"' in tiff.ome_metadata and f"uncertain&quot;: {uncertain}" in tiff.ome_metadata
                )
        return
    for kind, expected in (("labels", labels), ("probabilities", chances)):
        group = zarr.open_group(tmp_path / "out" / kind / "c-t000.ome.zarr", mode="r")
        assert np.array_equal(group["0"][...], expected)
        ome: Any = group.attrs if format == "ome-zarr-0.4" else group.attrs["ome"]
        assert group.metadata.zarr_format == (2 if format == "ome-zarr-0.4" else 3)
        scale = ome["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"]
        assert scale[-2:] == [0.5, 0.5] and group.attrs["segue"]["uncertain"] == uncertain
    assert ome["omero"]["channels"][1]["label"] == "object"


LAYOUTS: dict[str, dict[str, Any]] = {
    "contiguous": {},
    "big-endian": {"byteorder": ">"},
    "strips": {"rowsperstrip": 7, "compression": "zlib"},
    "tiles": {"tile": (64, 64), "compression": "zlib"},
}


@pytest.mark.parametrize("layout", [*LAYOUTS, "zarr"])
def test_large_images_by_tiles_are_those_of_the_whole(layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """An image read by tiles from any layout of a file has the labels, probabilities and rows of the whole image."""
    image = image_of(7, (300, 331))
    if layout == "zarr":
        group = zarr.open_group(tmp_path / "a.zarr", mode="w")
        group.create_array("full", data=image[None], chunks=(1, 100, 90))
        axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "micrometer"} for n in "yx")]
        scale = [{"type": "scale", "scale": [1.0, 0.25, 0.25]}]
        datasets = [{"path": "full", "coordinateTransformations": scale}]
        group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
        path = tmp_path / "a.zarr"
    else:
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, image, photometric="minisblack", **LAYOUTS[layout])
    run([path], tmp_path / "whole", probabilities=True)
    monkeypatch.setattr(inputs, "LARGE_BYTES", 1000)
    monkeypatch.setattr(predict_files, "LARGE_PX", 1000)
    run([path], tmp_path / "tiles", probabilities=True, tile_px=128)
    labels = tifffile.imread(tmp_path / "tiles" / "labels" / "a.tif")
    assert labels.max() > 20 and np.array_equal(labels, tifffile.imread(tmp_path / "whole" / "labels" / "a.tif"))
    chances = [tifffile.imread(tmp_path / out / "probabilities" / "a.tif") for out in ("whole", "tiles")]
    assert np.allclose(*chances, atol=1e-5)
    tables = [(tmp_path / out / "objects.csv").read_bytes() for out in ("whole", "tiles")]
    assert tables[0] == tables[1]
    if layout == "zarr":
        assert pd.read_csv(tmp_path / "tiles" / "images.csv")["pixel_size_nm"][0] == 250


def test_channels_of_files_by_name_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Channels are taken by their names, wherever they are; colors as samples; another number is refused."""
    image = np.stack([image_of(1), image_of(2), image_of(3)])
    names = {"axes": "CYX", "Channel": {"Name": ["GFP", "DAPI", "RFP"]}}
    tifffile.imwrite(tmp_path / "a.ome.tif", image, ome=True, metadata=names, photometric="minisblack")
    tifffile.imwrite(tmp_path / "b.tif", np.moveaxis(image, 0, -1), photometric="rgb")
    tifffile.imwrite(tmp_path / "c.tif", image, photometric="rgb", planarconfig="separate")
    for limit in (2**26, 1000):
        monkeypatch.setattr(inputs, "LARGE_BYTES", limit)
        (named,) = inputs.find_images(
            [tmp_path / "a.ome.tif"], channels=("RFP", "GFP"), exclude=tmp_path / "out"
        ).images
        pixels = inputs.open_image(named, ("RFP", "GFP")).image
        assert np.array_equal(pixels[:, 5:40, 7:60], image[[2, 0], 5:40, 7:60])
        assert np.array_equal(pixels[1, 5:40, 7:60], image[0, 5:40, 7:60])
        for name in ("b", "c"):
            color = inputs.open_image(inputs.ImageInput(name, tmp_path / f"{name}.tif"), ("red", "green", "blue")).image
            assert np.array_equal(color[:, 3:50, :], image[:, 3:50])
    with pytest.raises(SegueError, match=r"has 3 channel\(s\) \(GFP, DAPI, RFP\), but the model takes 2"):
        inputs.open_image(named, ("RFP", "nuclei"))


@pytest.mark.parametrize("limit", [2**26, 1000])
@pytest.mark.parametrize("kind", ["rgb.tif", "planar.tif", "tiled.tif", "rgb.png", "pages.tif"])
def test_equal_colors_are_gray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, limit: int):
    """A model of one channel takes an RGB image as gray if its channels are equal, read whole or by bands."""
    monkeypatch.setattr(inputs, "LARGE_BYTES", limit)
    monkeypatch.setattr(tiling, "BAND_BYTES", 2000)
    gray = image_of(1).astype(np.uint8)
    image, path = np.stack([gray] * 3, -1), tmp_path / kind

    def write() -> None:
        options = {"planar.tif": {"planarconfig": "separate"}, "tiled.tif": {"tile": (16, 16), "compression": "zlib"}}
        pixels = np.moveaxis(image, -1, 0) if kind == "planar.tif" else image
        if kind == "rgb.png":
            Image.fromarray(image).save(path)
        elif kind == "pages.tif":
            tifffile.imwrite(path, np.stack([image[::-1], image]), photometric="rgb", metadata={"axes": "TYXS"})
        else:
            tifffile.imwrite(path, pixels, photometric="rgb", **options.get(kind, {}))

    write()
    named = inputs.find_images([path], channels=("intensity",), exclude=tmp_path / "out").images[-1]
    for channels in (("intensity",), ("DAPI",)):
        opened = inputs.open_image(named, channels)
        assert np.array_equal(opened.image[:, :, :], gray[None]) and inputs.GRAY_NOTE in opened.notes
    assert inputs.GRAY_NOTE not in inputs.open_image(named, ("green",)).notes
    assert inputs.GRAY_NOTE not in inputs.open_image(named, ("red", "green", "blue")).notes
    image[-1, -1, 2] ^= 1
    write()
    with pytest.raises(SegueError, match=r"3 channel\(s\) \(red, green, blue\) that differ, but the model takes 1"):
        inputs.open_image(named, ("intensity",))
    with pytest.raises(SegueError, match=r"3 channel\(s\) \(red, green, blue\), but the model takes 2"):
        inputs.open_image(named, ("one", "two"))


def test_numbers_of_64_bits(tmp_path: Path):
    """Floats are rounded with a word, and refused where float32 ends; integers are read as those of 32 bits."""
    image = image_of(1)[None]
    for pixels, notes in ((image.astype(np.uint64), 0), (image.astype(np.float64), 0), (image + 2.0**40, 1)):
        tifffile.imwrite(tmp_path / "a.tif", pixels)
        opened = inputs.open_image(inputs.ImageInput("a", tmp_path / "a.tif"), ("intensity",))
        assert np.array_equal(opened.image, pixels.astype(opened.image.dtype))
        assert opened.image.dtype == ("uint32" if pixels.dtype.kind == "u" else "float32")
        assert ["rounded to float32" in note for note in opened.notes] == [True] * notes
    tifffile.imwrite(tmp_path / "a.tif", image * 1e40)
    with pytest.raises(SegueError, match="the largest number of float32"):
        inputs.open_image(inputs.ImageInput("a", tmp_path / "a.tif"), ("intensity",))


def test_pages_are_images_or_the_models_channels(tmp_path: Path):
    """Pages of which the file says nothing are images each, or the channels of a model that takes as many."""
    stack = np.stack([image_of(1), image_of(2)])
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for page in stack:
            writer.write(page, metadata=None)

    def names(*channels: str) -> list[str]:
        found = inputs.find_images([tmp_path / "a.tif"], channels=channels, exclude=tmp_path / "out")
        return [image.name for image in found.images]

    assert names("one") == ["a-p000", "a-p001"]
    assert names("one", "two") == ["a"]
    second = inputs.open_image(inputs.ImageInput("a", tmp_path / "a.tif", 1, "-p001"), ("one",))
    assert np.array_equal(second.image, stack[1:])
    both = inputs.open_image(inputs.ImageInput("a", tmp_path / "a.tif"), ("one", "two"))
    assert np.array_equal(both.image, stack)


def test_any_two_images_stay_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Files of one name in two folders, in two formats and in two cases get outputs of their own; patterns match."""
    for name in ("x/a.tif", "y/a.tif", "y/A.png", "y/[1] b.tif", "y/.hidden.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (
            Image.fromarray(image_of(1)).save
            if name.endswith("png")
            else lambda path: tifffile.imwrite(path, image_of(1))
        )(tmp_path / name)
    monkeypatch.chdir(tmp_path)

    def names(*arguments: str) -> set[str]:
        found = inputs.find_images(arguments, channels=("one",), exclude=Path("out"))
        return {image.name for image in found.images}

    assert names("x", "y") == {"x/a", "y/a.tif", "y/A.png", "[1] b"}
    assert names("x/a.tif", "x", "x/*.tif") == {"a"}
    assert names("y/[1] b.tif") == {"[1] b"}
    assert names("**/*.tif") == {"x/a", "y/a", "y/[1] b"}
    for wrong in ("z", "x/*.png"):
        with pytest.raises(SegueError, match=r"no such file or folder|matches no image"):
            names(wrong)


def test_finished_images_are_skipped_and_changed_ones_done_again(folder: Path, tmp_path: Path):
    """The same command does nothing; a changed image and a lost output are made again; other settings are refused."""
    out = tmp_path / "out"
    run([folder], out)
    before = tree(out)
    again = run([folder], out)
    assert (again.predicted, again.skipped) == (0, 4) and len(again.rows) == 4
    assert tree(out) == before
    (out / "labels" / "b.tif").unlink()
    assert run([folder], out).predicted == 1 and tree(out) == before
    tifffile.imwrite(folder / "a.tif", image_of(9))
    assert run([folder / "a.tif"], out).predicted == 1
    assert np.array_equal(tifffile.imread(out / "labels" / "a.tif"), predict(model_of("foreground"), image_of(9)))
    assert len(pd.read_csv(out / "images.csv")) == 4
    changed = tree(out)
    for settings, words in (({"tta": True}, "tta = false, not true"), ({"format": "ome-tiff"}, "format")):
        with pytest.raises(SegueError, match=words):
            run([folder], out, **settings)
    with pytest.raises(SegueError, match=r"of the model .*foreground"):
        run([folder], out, source=replace(SOURCE, key="another"))
    assert tree(out) == changed
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    with pytest.raises(SegueError, match="holds no prediction; nothing in it is replaced"):
        run([folder], tmp_path / "other")


def test_names_stay_when_images_are_added(folder: Path, tmp_path: Path):
    """A file keeps the name by which it was predicted; one of the same name, added later, is called by its folder."""
    out = tmp_path / "out"
    run([folder], out)
    before = tree(out)
    (tmp_path / "other").mkdir()
    tifffile.imwrite(tmp_path / "other" / "a.tif", image_of(11, (91, 100)))
    done = run([folder, tmp_path / "other"], out)
    assert (done.predicted, done.skipped) == (1, 4)
    images = pd.read_csv(out / "images.csv")["image"].tolist()
    assert images == ["a", "b", "c-t000", "c-t001", "other/a"]
    assert run([tmp_path / "other", folder], out).skipped == run([folder], out).skipped + 1 == 5
    after = tree(out)
    outputs = {name for name in before if not name.startswith(("images.", "objects."))}
    assert {name: after[name] for name in outputs} == {name: before[name] for name in outputs}


@pytest.mark.parametrize("content", ["", "garbage", "not as long as it was"])
def test_outputs_that_were_overwritten_are_made_again(folder: Path, tmp_path: Path, content: str):
    out = tmp_path / "out"
    run([folder], out)
    before = tree(out)
    (out / "labels/a.tif").write_text(content)
    (out / "parts/b.json").write_text(content or "[]")
    assert run([folder], out).predicted == 2
    assert tree(out) == before


@pytest.mark.parametrize("change", [
    {"outputs": {"../keep.txt": 1}}, {"outputs": {"/": 1}}, {"file_name": "../../b"}, {"name": 3}, {"row": []},
    {"notes": None}, {"stamp": ["x"]},
], ids=str)  # fmt: skip
def test_altered_records_are_made_again(folder: Path, tmp_path: Path, change: dict[str, object]):
    """Whatever a record in `parts` says, nothing outside of the folder is removed or written."""
    out = tmp_path / "out"
    run([folder], out)
    before = tree(out)
    (tmp_path / "keep.txt").write_text("x")
    record = json.loads((out / "parts/a.json").read_text())
    (out / "parts/a.json").write_text(json.dumps(record | change))
    assert run([folder], out).predicted == 1
    assert tree(out) == before and (tmp_path / "keep.txt").read_text() == "x"


def test_damaged_tables_of_objects_are_named(folder: Path, tmp_path: Path):
    """With what to remove; then only that image is predicted again."""
    out = tmp_path / "out"
    run([folder], out)
    before = tree(out)
    (out / "parts/a.parquet").write_bytes((out / "parts/a.parquet").read_bytes()[:-9])
    with pytest.raises(SegueError, match=r"a\.parquet: is damaged .*; remove it and a\.json beside it"):
        run([folder], out)
    (out / "parts/a.parquet").unlink()
    (out / "parts/a.json").unlink()
    assert run([folder], out).predicted == 1 and tree(out) == before


def test_files_that_cannot_be_predicted_stop_no_other(folder: Path, tmp_path: Path):
    """Text in a TIFF, time points of stacks, and an empty file are named at the end; the others are finished."""
    (folder / "text.tif").write_text("text")
    tifffile.imwrite(folder / "tz.ome.tif", np.zeros((2, 2, 40, 40), np.uint16), metadata={"axes": "TZYX"}, ome=True)
    (folder / "empty.png").touch()
    done = run([folder], tmp_path / "out")
    assert done.predicted == 4
    assert len(done.errors) == 3
    assert [any(name in error for error in done.errors) for name in ("text.tif", "tz.ome.tif", "empty.png")] == [
        True
    ] * 3
    assert run([folder], tmp_path / "out").skipped == 4


def test_the_table_of_images_has_their_notes_and_sizes(folder: Path, tmp_path: Path):
    run([folder / "a.tif"], tmp_path / "out")
    (row,) = pd.read_csv(tmp_path / "out/images.csv").to_dict("records")
    assert np.isnan(row["pixel_size_nm"])
    record = json.loads((tmp_path / "out/parts/a.json").read_text())
    assert row["notes"] == "; ".join(record["notes"]) or (np.isnan(row["notes"]) and not record["notes"])


class FatalNetwork(torch.nn.Module):
    """A network that ends its process by a signal when it sees its third image."""

    def __init__(self, network: torch.nn.Module, end: signal.Signals) -> None:
        super().__init__()
        self.network, self.end, self.calls = network, end, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == 3 and self.end == signal.SIGINT:
            raise KeyboardInterrupt  # a signal itself may be ignored where tests run in the background
        if self.calls == 3:
            os.kill(os.getpid(), self.end)
        return self.network(images)


def predict_until_ended(folder: Path, out: Path, end: signal.Signals) -> None:
    model = model_of("foreground")
    source = source_of(replace(model, network=FatalNetwork(model.network, end)))
    run([folder], out, source=source, probabilities=True)


@pytest.mark.parametrize("end", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_an_interrupted_command_goes_on(end: signal.Signals, folder: Path, tmp_path: Path):
    """After a kill in the third of four images the same command ends with the files of one that was never killed."""
    out = tmp_path / "killed"
    if end == signal.SIGINT:
        with pytest.raises(KeyboardInterrupt):
            predict_until_ended(folder, out, end)
    else:
        process = FORKS.Process(target=predict_until_ended, args=(folder, out, end))
        process.start()
        process.join()
        assert process.exitcode == -end
    assert len(list((out / "labels").iterdir())) == 2
    source = source_of(model_of("foreground"))
    done = run([folder], out, source=source, probabilities=True)
    assert (done.predicted, done.skipped) == (2, 2)
    run([folder], tmp_path / "calm", source=source, probabilities=True)
    assert tree(out) == tree(tmp_path / "calm")


@pytest.mark.slow
def test_workers_write_the_same(folder: Path, tmp_path: Path):
    """Two worker processes write what this process does."""
    run([folder], tmp_path / "one")
    run([folder], tmp_path / "two", workers=2)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_a_scheduler_writes_the_same(folder: Path, tmp_path: Path):
    """Workers of a Dask scheduler write what this process does."""
    from distributed import LocalCluster

    run([folder], tmp_path / "one")
    with LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        predict_files.predict_files(
            SOURCE, [folder], tmp_path / "dask", PredictSettings(), scheduler=cluster.scheduler_address
        )
    assert tree(tmp_path / "one") == tree(tmp_path / "dask")


def test_an_image_that_cannot_be_predicted_does_not_stop_others(folder: Path, tmp_path: Path):
    """Truncated files and NaN are told by name, the others are predicted, and nothing of the former remains."""
    whole = (folder / "a.tif").read_bytes()
    run([folder], tmp_path / "out")
    (folder / "a.tif").write_bytes(whole[: len(whole) // 2])
    bad = image_of(1).astype(np.float32)
    bad[3, 4] = np.nan
    tifffile.imwrite(folder / "d.tif", bad)
    tifffile.imwrite(folder / "e.tif", image_of(5))
    done = run([folder], tmp_path / "out")
    assert (done.predicted, done.skipped, len(done.errors)) == (1, 3, 2)
    assert sorted(error.split(": ")[0] for error in done.errors) == [str(folder / "a.tif"), str(folder / "d.tif")]
    assert list(pd.read_csv(tmp_path / "out" / "images.csv")["image"]) == ["b", "c-t000", "c-t001", "e"]
    assert not (tmp_path / "out" / "labels" / "a.tif").exists()


def test_rescaled_to_the_training_and_back(tmp_path: Path):
    """Labels come back at the image's own size, those of the resampled image; unknown sizes are refused or told."""
    model = replace(model_of("foreground"), training_set=TrainingSet((1000.0,)))
    image = image_of(3, (180, 240))
    size = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm"}
    tifffile.imwrite(tmp_path / "a.ome.tif", image, ome=True, metadata={"axes": "YX", **size})
    tifffile.imwrite(tmp_path / "b.tif", image)
    done = run(
        [tmp_path / "a.ome.tif", tmp_path / "b.tif"],
        tmp_path / "out",
        source=source_of(model),
        rescale=True,
        write=("coco",),
    )
    labels = tifffile.imread(tmp_path / "out" / "labels" / "a.tif")
    half = np.asarray(Image.fromarray(image.astype(np.float32)).resize((120, 90), Image.Resampling.BILINEAR))
    assert np.array_equal(labels, np.kron(predict(model, half), np.ones((2, 2), int))) and labels.max() > 3
    assert [names for note, names in done.notes.items() if "no pixel size and was not rescaled" in note] == [["b"]]
    objects = pd.read_csv(tmp_path / "out" / "objects.csv")
    first = objects[objects["image"] == "a"]
    assert np.allclose(first["area_um2"], first["area_px"] / 4)
    coco = json.loads((tmp_path / "out" / "coco.json").read_bytes())
    assert [one["area"] for one in coco["annotations"]] == objects["area_px"].tolist()
    with pytest.raises(SegueError, match="does not say one pixel size"):
        run([tmp_path / "b.tif"], tmp_path / "other", rescale=True)
    assert not (tmp_path / "other").exists()


def test_classes_images_and_classes_of_images(folder: Path, tmp_path: Path):
    """Targets of classes give a row per class; reconstructions an image in acquired units; others a class each."""
    run([folder / "a.tif"], tmp_path / "classes", source=source_of(model_of("classes")))
    labels = predict(model_of("classes"), image_of(1))
    assert np.array_equal(tifffile.imread(tmp_path / "classes" / "labels" / "a.tif"), labels)
    (row,) = pd.read_csv(tmp_path / "classes" / "objects.csv").to_dict("records")
    assert (row["class"], row["area_px"]) == ("object", labels.sum())
    assert pd.read_csv(tmp_path / "classes" / "images.csv")["fraction_object"][0] == pytest.approx(labels.mean())

    image_class = replace(model_of("classes"), target=ImageClass(("empty", "full"), False))
    run([folder / "a.tif"], tmp_path / "class", source=source_of(image_class))
    (row,) = pd.read_csv(tmp_path / "class" / "images.csv").to_dict("records")
    assert row["class"] == "full" and row["probability_empty"] + row["probability_full"] == pytest.approx(1)
    assert not (tmp_path / "class" / "objects.csv").exists()

    model = model_of("foreground", height=0.0)
    images = replace(model, target=Reconstruction(1, MaskedSpec(name="masked")))
    run([folder / "a.tif"], tmp_path / "image", source=source_of(images))
    with tifffile.TiffFile(tmp_path / "image" / "images" / "a.tif") as tiff:
        assert np.allclose(tiff.asarray(), predict(images, image_of(1)), rtol=1e-5)
    with pytest.raises(SegueError, match="has no classes; leave --probabilities out"):
        run([folder / "a.tif"], tmp_path / "wrong", source=source_of(images), probabilities=True)


def test_two_commands_on_one_output(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A second command is refused while the first one is at work."""
    write: Callable[..., None] = predict_files._write_image
    refused = []

    def write_and_try(*arguments: Any) -> None:
        if not refused:
            with pytest.raises(SegueError, match="another command is predicting into it"):
                run([folder / "b.PNG"], tmp_path / "out")
            refused.append(True)
        write(*arguments)

    monkeypatch.setattr(predict_files, "_write_image", write_and_try)
    assert run([folder / "a.tif"], tmp_path / "out").predicted == 1 and refused


def test_large_by_default():
    """What is large is the same for arrays and for files."""
    assert predict_files.LARGE_PX is inference.LARGE_PX


def test_confidence_by_tiles_is_that_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Objects have the confidence of the whole image when they are decoded by tiles; low ones count as uncertain."""
    calibration = Calibration(FEATURES, (1.0, 0.5, 0.2, 4.0), (1.0, 0.2, 0.1, 1.0), (0.5, 0.3, 0.2, 0.4), 0.3, 100)
    source = source_of(replace(model_of("foreground"), confidence=calibration))
    tifffile.imwrite(tmp_path / "a.tif", image_of(7, (300, 331)))
    run([tmp_path / "a.tif"], tmp_path / "whole", source=source)
    monkeypatch.setattr(predict_files, "LARGE_PX", 1000)
    run([tmp_path / "a.tif"], tmp_path / "tiles", source=source, tile_px=128)
    whole, tiles = (pd.read_csv(tmp_path / out / "objects.csv") for out in ("whole", "tiles"))
    assert whole["confidence"].between(0.01, 0.99).all() and whole["confidence"].std() > 0.01
    assert np.allclose(whole["confidence"], tiles["confidence"], atol=1e-5)
    is_low = whole["confidence"] < 0.5
    assert 0 < is_low.sum() < len(whole)
    assert (whole["uncertain"] == (is_low | whole["at_edge"] | whole["joined"])).all()
    assert pd.read_csv(tmp_path / "whole" / "images.csv")["low_confidence"][0] == is_low.sum()


FILES = {"geojson": "geojson/{}.geojson", "geojson-gz": "geojson-gz/{}.geojson.gz", "imagej-roi": "imagej-roi/{}.zip",
         "geoparquet": "geoparquet/{}.parquet"}  # fmt: skip


def test_objects_for_other_programs(folder: Path, tmp_path: Path):
    """Every format has the objects of the labels with their measurements; COCO those of all images in one file."""
    out = tmp_path / "out"
    run([folder], out, write=tuple(OUTLINE_FORMATS))
    table = pd.read_csv(out / "objects.csv")
    coco = json.loads((out / "coco.json").read_bytes())
    assert [image["file_name"] for image in coco["images"]] == ["a.tif", "b.PNG", "c.ome.tif", "c.ome.tif"]
    assert coco["categories"] == [{"id": 1, "name": "object"}]
    assert [one["label"] for one in coco["annotations"]] == table["label"].tolist()
    assert [one["area"] for one in coco["annotations"]] == table["area_px"].tolist()
    assert [one["id"] for one in coco["annotations"]] == list(range(1, len(table) + 1))
    for name in ("a", "b", "c-t000", "c-t001"):
        rows = table[table["image"] == name]
        features = json.loads((out / FILES["geojson"].format(name)).read_bytes())["features"]
        assert (
            gzip.decompress((out / FILES["geojson-gz"].format(name)).read_bytes())
            == (out / FILES["geojson"].format(name)).read_bytes()
        )
        properties = [feature["properties"] for feature in features]
        assert {one["objectType"] for one in properties} == {"detection"}
        assert {one["classification"]["name"] for one in properties} == {"object"}
        measured = pd.DataFrame([one["measurements"] for one in properties])
        assert measured["uncertain"].tolist() == rows["uncertain"].tolist()
        assert np.allclose(measured["mean_intensity"], rows["mean_intensity"])
        frame = pd.read_parquet(out / FILES["geoparquet"].format(name))
        assert frame["label"].tolist() == rows["label"].tolist() and set(frame["image"]) == {name}
        rois: Any = roiread(out / FILES["imagej-roi"].format(name))
        assert [roi.name for roi in rois] == rows["label"].astype(str).tolist()
        assert {roi.position for roi in rois} == {{"c-t000": 1, "c-t001": 2}.get(name, 0)}
    before = tree(out)
    assert run([folder], out, write=tuple(OUTLINE_FORMATS)).predicted == 0 and tree(out) == before
    (out / FILES["geojson"].format("b")).unlink()
    assert run([folder], out, write=tuple(OUTLINE_FORMATS)).predicted == 1 and tree(out) == before
    with pytest.raises(SegueError, match=r'write = \["geojson", .*\], not \["geojson"\]'):
        run([folder], out, write=("geojson",))
    header = json.loads((out / "prediction.json").read_bytes())
    del header["settings"]["annotations"]  # of a version that did not know it
    (out / "prediction.json").write_text(json.dumps(header))
    assert run([folder], out, write=tuple(OUTLINE_FORMATS)).predicted == 0


def test_objects_of_large_images_for_other_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Files of an image predicted by tiles are those of the whole image."""
    tifffile.imwrite(tmp_path / "a.tif", image_of(7, (300, 331)), photometric="minisblack")
    formats = tuple(OUTLINE_FORMATS)
    run([tmp_path / "a.tif"], tmp_path / "whole", write=formats)
    monkeypatch.setattr(predict_files, "LARGE_PX", 1000)
    monkeypatch.setattr(tiling, "BAND_BYTES", 331 * 4 * 50)
    run([tmp_path / "a.tif"], tmp_path / "tiles", write=formats, tile_px=128)
    whole, tiles = (
        sorted(
            json.loads((tmp_path / out / "geojson" / "a.geojson").read_bytes())["features"], key=lambda one: one["id"]
        )
        for out in ("whole", "tiles")
    )
    assert [one["geometry"] for one in whole] == [one["geometry"] for one in tiles] and len(whole) > 20


def test_classes_for_other_programs(folder: Path, tmp_path: Path):
    """The pixels of a class are one annotation of QuPath; models without objects refuse to write any."""
    run(
        [folder / "a.tif"],
        tmp_path / "out",
        source=ModelSource(Path("classes"), "key", load_local_model),
        write=("geojson",),
    )
    (feature,) = json.loads((tmp_path / "out" / "geojson" / "a.geojson").read_bytes())["features"]
    assert feature["properties"]["objectType"] == "annotation"
    assert feature["properties"]["classification"]["name"] == "object"
    model = replace(model_of("foreground"), target=ImageClass(("empty", "full"), False))
    with pytest.raises(SegueError, match="leave --write out"):
        run([folder / "a.tif"], tmp_path / "none", source=source_of(model), write=("coco",))
    assert not (tmp_path / "none").exists()
