"""Annotations as the labels of `segue prepare`: a file for each image, a file of all, a table; what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from skimage.draw import disk

import segue
from segue.data.spec import PrepareSpec
from segue.errors import SegueError
from segue.spec import validate

NAMES = ("a", "b", "c")


def cells(number: int) -> np.ndarray:
    """Returns labels (32, 40) with `number` discs."""
    labels = np.zeros((32, 40), np.int32)
    for k in range(number):
        rows, columns = disk((8 + 12 * (k % 2), 6 + 8 * k), 3.5)
        labels[rows, columns] = k + 1
    return labels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index, name in enumerate(NAMES):
        (tmp_path / "images").mkdir(exist_ok=True)
        labels = cells(index + 2)
        image = (100 * (labels > 0) + np.arange(40) + 7 * index).astype(np.uint8)
        tifffile.imwrite(tmp_path / "images" / f"{name}.tif", image)
        np.save(tmp_path / f"{name}.npy", labels)
    return tmp_path


def spec_of(folder: Path, files: str, **labels: Any) -> dict[str, Any]:
    layer = {"files": files, "kind": "instances", "names": ["background", "cell"], **labels}
    return {"name": "cells", "images": "images/*.tif", "tile_px": 32, "labels": layer}


def prepared(folder: Path, spec: dict[str, Any], log: Any = None) -> dict[str, np.ndarray]:
    """Returns the labels of each micrograph."""
    from segue.data.prepare import prepare
    from segue.data.sources import labeled_images

    out = folder / "out.h5"
    out.unlink(missing_ok=True)
    prepare(validate(PrepareSpec, spec, context="test"), out, root=folder, log=log)
    with segue.Dataset(out) as dataset:
        layer = spec["labels"].get("layer", "labels")
        samples = dataset.samples()
        names = list(dict.fromkeys(samples["source"]))
        order = [int(np.flatnonzero(samples["source"] == name)[0]) for name in names]
        pairs = labeled_images(dataset, np.arange(len(samples["source"])), layer=layer)
        assert len(order) == len(pairs)
        return {name.removesuffix(".tif"): labels for name, (_, labels) in zip(names, pairs, strict=True)}


def write_all(folder: Path, suffix: str) -> None:
    for name in NAMES:
        segue.write_objects(np.load(folder / f"{name}.npy"), folder / "rois" / f"{name}{suffix}", classes="cell")


@pytest.mark.parametrize("suffix", [".geojson", ".geojson.gz", ".zip"])
def test_a_file_for_each_image(folder: Path, suffix: str):
    """Files called as their images give the labels that were drawn."""
    write_all(folder, suffix)
    made = prepared(folder, spec_of(folder, f"rois/{{stem}}{suffix}"))
    for name in NAMES:
        np.testing.assert_array_equal(made[name], np.load(folder / f"{name}.npy"))


def coco_of(folder: Path) -> dict[str, Any]:
    write_all(folder, ".json")
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    for number, name in enumerate(NAMES, 1):
        one = json.loads((folder / "rois" / f"{name}.json").read_text(encoding="utf-8"))
        content["categories"] = one["categories"]
        content["images"].append({**one["images"][0], "id": number, "file_name": f"train\\{name}.png"})
        content["annotations"] += [{**annotation, "image_id": number} for annotation in one["annotations"]]
    return content


def test_a_file_of_all_images(folder: Path):
    """COCO names its images, with their folder and another suffix, and images that are not there are told."""
    content = coco_of(folder)
    content["images"].append({"id": 9, "file_name": "elsewhere.png", "height": 5, "width": 5})
    (folder / "all.json").write_text(json.dumps(content), encoding="utf-8")
    notes: list[str] = []
    made = prepared(folder, spec_of(folder, "all.json"), notes.append)
    for name in NAMES:
        np.testing.assert_array_equal(made[name], np.load(folder / f"{name}.npy"))
    assert f"{folder / 'all.json'}: 1 images that it names are not there, e.g. elsewhere.png" in notes


def test_an_image_that_a_file_of_all_does_not_name_is_refused(folder: Path):
    content = coco_of(folder)
    content["images"] = content["images"][:2]
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] < 3]
    (folder / "all.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(
        SegueError, match=r"c\.tif: has no annotations in all\.json; add it there, or leave the image out"
    ):
        prepared(folder, spec_of(folder, "all.json"))


def test_annotations_of_no_image_and_run_lengths_of_another_size_are_refused(folder: Path):
    """An annotation of an image that is not there would be lost, one of another size would be other pixels."""
    content = coco_of(folder)
    content["annotations"][0] = {**content["annotations"][0], "image_id": "1"}
    (folder / "all.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(SegueError, match=r"annotation 1 is of image '1', which `images` does not have"):
        prepared(folder, spec_of(folder, "all.json"))
    content["annotations"][0] |= {"image_id": 1, "segmentation": {"size": [40, 32], "counts": [100, 50, 1130]}}
    (folder / "all.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(SegueError, match=r"annotation 1 has run lengths of 40 × 32 px, its image 32 × 40 px"):
        prepared(folder, spec_of(folder, "all.json"))


def test_pages_of_a_stack(folder: Path):
    """Objects go to their page; those of none are on each, those beyond the stack are left out, and both are told."""
    (folder / "stack").mkdir()
    tifffile.imwrite(
        folder / "stack" / "s.tif",
        np.zeros((3, 32, 40), np.uint8) + np.arange(40, dtype=np.uint8),
        photometric="minisblack",
    )
    rows = ["index,shape-type,vertex-index,axis-0,axis-1,axis-2"]
    for index, page in enumerate((1, 7)):
        corners = ((2, 2), (2, 6), (6, 6), (6, 2))
        rows += [f"{index},polygon,{k},{page},{y},{x}" for k, (y, x) in enumerate(corners)]
    (folder / "s.csv").write_text("\n".join(rows) + "\n")
    notes: list[str] = []
    spec = {**spec_of(folder, "s.csv"), "images": "stack/{stem}.tif", "pages": "z"}
    spec["labels"]["files"] = "{stem}.csv"
    made = prepared(folder, spec, notes.append)
    assert [int(labels.max()) for labels in made.values()] == [0, 1, 0]
    assert any(
        "annotations that are on a page that their image does not have, and are left out: 1" in one for one in notes
    )
    segue.write_objects(cells(1), folder / "s.geojson", classes="cell")
    spec["labels"]["files"] = "{stem}.geojson"
    notes.clear()
    made = prepared(folder, spec, notes.append)
    assert [int(labels.max()) for labels in made.values()] == [1, 1, 1]
    assert any("annotations that are on no page of their stack, and are drawn on each: 1" in one for one in notes)


def test_positions_in_a_hyperstack_count_the_channels(folder: Path):
    """Position 3 of a stack of two channels is the first channel of the second plane in depth, as ImageJ counts."""
    from roifile import ImagejRoi

    (folder / "stack").mkdir()
    pixels = np.zeros((3, 2, 32, 40), np.uint8) + np.arange(40, dtype=np.uint8)
    tifffile.imwrite(folder / "stack" / "s.tif", pixels, imagej=True, metadata={"axes": "ZCYX"})
    roi = ImagejRoi.frompoints(np.array([[2, 2], [6, 2], [6, 6], [2, 6]]))
    spec = {**spec_of(folder, "{stem}.roi"), "images": "stack/{stem}.tif", "pages": "z"}
    for positions, page in (({"position": 3}, 1), ({"position": 6}, 2), ({"z_position": 3, "position": 1}, 2)):
        for name, value in {"position": 0, "z_position": 0, **positions}.items():
            setattr(roi, name, value)
        roi.tofile(folder / "s.roi")
        made = prepared(folder, spec)
        assert [int((labels > 0).sum()) for labels in made.values()] == [16 * (index == page) for index in range(3)]


def test_a_malformed_shape_is_named(folder: Path):
    shapes = [{"label": "cell", "points": [[1, 1], [5, 1], [5, 5]]}]
    shapes.append({"label": "cell", "points": [[1, 1]], "shape_type": "circle"})  # without a point on it
    content = {"imagePath": "a.tif", "imageHeight": 32, "imageWidth": 40, "shapes": shapes}
    (folder / "a.json").write_text(json.dumps(content))
    with pytest.raises(SegueError, match=r"a\.json: cannot be read as annotations in JSON \(annotation 2: "):
        prepared(folder, {**spec_of(folder, "{stem}.json"), "images": "images/a.tif"})


def test_files_of_a_mac_in_a_zip_are_no_rois(folder: Path):
    """What macOS adds to a ZIP is left out; a ZIP of anything else is refused."""
    import zipfile

    write_all(folder, ".zip")
    for name in NAMES:
        with zipfile.ZipFile(folder / "rois" / f"{name}.zip", "a") as archive:
            archive.writestr("__MACOSX/._1.roi", b"\0\5\x16\7")
            archive.writestr("notes.txt", b"")
    made = prepared(folder, spec_of(folder, "rois/{stem}.zip"))
    np.testing.assert_array_equal(made["a"], np.load(folder / "a.npy"))
    with zipfile.ZipFile(folder / "rois" / "a.zip", "w") as archive:
        archive.writestr("notes.txt", b"")
    with pytest.raises(SegueError, match=r"a\.zip: cannot be read as ROIs of ImageJ \(it holds no \.roi"):
        prepared(folder, spec_of(folder, "rois/{stem}.zip"))


def test_a_table_may_name_a_file_of_all_images(folder: Path):
    """Rows of a manifest share a file of COCO; they do not share one of a single image."""
    (folder / "all.json").write_text(json.dumps(coco_of(folder)), encoding="utf-8")
    rows = "".join(f"images/{name}.tif,all.json,{name}\n" for name in NAMES)
    (folder / "table.csv").write_text(f"image,label,group\n{rows}")
    spec = spec_of(folder, "all.json")
    del spec["images"], spec["labels"]["files"]
    made = prepared(folder, {**spec, "manifest": "table.csv"})
    for name in NAMES:
        np.testing.assert_array_equal(made[name], np.load(folder / f"{name}.npy"))
    write_all(folder, ".geojson")
    (folder / "table.csv").write_text(f"image,label,group\n{rows.replace('all.json', 'rois/a.geojson')}")
    with pytest.raises(SegueError, match="is the label image of 3 images"):
        prepared(folder, {**spec, "manifest": "table.csv"})


def test_classes_by_name_and_what_is_odd(folder: Path):
    """Classes of pixels go by name, objects beyond the image are told with the number of images."""
    square = lambda x, y, name: {  # noqa: E731
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [[[x, y], [x + 4, y], [x + 4, y + 4], [x, y + 4], [x, y]]]},
        "properties": {"objectType": "annotation", "classification": {"name": name}},
    }
    for index, name in enumerate(NAMES):
        features = [square(2, 2, "Tumor"), square(8, 2, "Stroma"), square(50 if index else 20, 2, "Tumor")]
        (folder / f"{name}.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    notes: list[str] = []
    names = ["background", "tumor", "stroma"]
    made = prepared(folder, spec_of(folder, "{stem}.geojson", kind="classes", names=names), notes.append)
    assert (made["a"] == 1).sum() == 32 and (made["b"] == 1).sum() == 16 and (made["c"] == 2).sum() == 16
    assert any(
        "annotations that lie outside of their image: 2, in 2 of 3 images, e.g. '3' in b.tif" in one for one in notes
    )
    with pytest.raises(SegueError, match=r"a\.geojson: has annotations of the class 'Stroma', but names are"):
        prepared(folder, spec_of(folder, "{stem}.geojson", kind="classes", names=["background", "tumor"]))
    values = {"Stroma": -1}
    made = prepared(folder, spec_of(folder, "{stem}.geojson", names=["background", "tumor"], values=values))
    assert made["a"].max() == 2 and (made["a"] == -1).sum() == 16


def test_scribbles_in_some_images_alone_are_asked_about(folder: Path):
    """An image without any scribble would be background beside images whose other pixels are ignored."""
    for name in NAMES:
        shapes = [{"label": "cell", "points": [[2, 2], [20, 2]], "shape_type": "line"}] if name != "b" else []
        content = {"imagePath": f"{name}.tif", "imageHeight": 32, "imageWidth": 40, "shapes": shapes}
        (folder / f"{name}.json").write_text(json.dumps(content))
    spec = spec_of(folder, "{stem}.json", kind="classes")
    with pytest.raises(SegueError, match=r"b\.json: holds no scribbles, but 2 of 3 images have some: set"):
        prepared(folder, spec)
    made = prepared(folder, spec_of(folder, "{stem}.json", kind="classes", unlabeled="ignored"))
    assert (made["a"] == 1).sum() == 19 and made["b"].max() == made["b"].min() == -1
    made = prepared(folder, spec_of(folder, "{stem}.json", kind="classes", unlabeled="background"))
    assert made["a"].sum() == 19 and made["b"].max() == made["b"].min() == 0


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (
            "{stem}.zip",
            {"number_parts": True},
            "number_parts is of label images, but files = '{stem}.zip' are annotations",
        ),
        ("{stem}.json", {"array": "labels"}, "array is of label images"),
        ("{stem}.tif", {"unlabeled": "ignored"}, "unlabeled says what pixels without annotations are"),
        ("{stem}.tif", {"values": {"tumor": 1}}, "values has the class 'tumor', but label images have numbers"),
        ("all.geojson", {}, "has no {stem}"),
    ],
)
def test_settings_that_do_not_go_together(folder: Path, files: str, options: dict[str, Any], message: str):
    with pytest.raises(SegueError, match=message.replace("{", r"\{")):
        prepared(folder, spec_of(folder, files, **options))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"{", "a.json: cannot be read as annotations in JSON .Expecting"),
        ("a.json", b'{"version": 1}', "a.json: is JSON, but no file of GeoJSON, COCO or LabelMe"),
        ("a.zip", b"PK\3\4damaged", "a.zip: cannot be read as ROIs of ImageJ"),
        ("a.roi", b"Iout", "a.roi: cannot be read as a ROI of ImageJ"),
        ("a.csv", b"x,y\n1,2\n", "a.csv: cannot be read as shapes or points of napari .the columns x, y, where index"),
        ("a.ilp", b"\x89HDF\r\n\x1a\n", "a.ilp: cannot be read as a project of ilastik"),
        (
            "a.geojson",
            b'{"type": "Feature", "geometry": {"type": "Circle", "coordinates": []}}',
            "a geometry of type Circle",
        ),
    ],
)
def test_damaged_files_are_named(folder: Path, name: str, content: bytes, message: str):
    """A file that cannot be read is refused by one sentence that names it."""
    (folder / name).write_bytes(content)
    spec = spec_of(folder, f"{{stem}}{Path(name).suffix}")
    with pytest.raises(SegueError, match=message):
        prepared(folder, {**spec, "images": "images/a.tif"})


def test_datasets_of_label_images_keep_their_key():
    """The new settings do not change the part files of specifications without them."""
    from segue.data.prepare import part_keys

    plain = validate(PrepareSpec, spec_of(Path(), "{stem}.tif"), context="test")
    assert part_keys(plain, [], None) == []
    settings = plain.model_dump(mode="json", include={"labels"})["labels"]
    assert settings["unlabeled"] is None and settings["array"] is None
