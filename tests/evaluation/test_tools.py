"""Tools scored on the same images: equal to the published definitions, and unfit files are refused by name."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from scipy.optimize import linear_sum_assignment

from segue import rng
from segue.data.folders.masks import find_masks, groups_of, pair_masks, read_masks
from segue.errors import SegueError
from segue.evaluation.counts import concatenate, count
from segue.evaluation.tools import ToolsSpec, score_tools
from segue.fitting.look import group_of
from segue.inference.model import Model
from segue.inference.predict import predict
from segue.targets.foreground import Foreground


def blocks(name: str, side: int = 40) -> np.ndarray:
    """Returns labels of up to nine squares of 8 px, int32, some missing."""
    generator = rng.numpy_generator("blocks", name)
    labels = np.zeros((side, side), np.int32)
    for number, (y, x) in enumerate(np.ndindex(3, 3), 1):
        if generator.random() < 0.8:
            labels[13 * y + 1 : 13 * y + 9, 13 * x + 1 : 13 * x + 9] = number
    return labels


def changed(labels: np.ndarray, name: str) -> np.ndarray:
    """Returns labels shifted, some cut in two, joined to a neighbor or left out."""
    generator = rng.numpy_generator("changed", name)
    moved = np.roll(labels, generator.integers(0, 2), 0)
    for number in np.unique(moved[moved > 0]):
        fate = generator.integers(0, 6)
        y, x = np.nonzero(moved == number)
        if fate == 0:
            moved[y, x] = 0
        elif fate == 1:
            moved[y[x > x.mean()], x[x > x.mean()]] = number + 50
        elif fate == 2:
            moved[y, x] = max(1, number - 1)
    return moved


def write_folders(where: Path, count: int = 4) -> list[tuple[np.ndarray, np.ndarray]]:
    """Writes labels/w0_0.png …, tool/w0_0.tif … and images/, and returns labels and masks of the tool."""
    pairs = []
    for index in range(count):
        labels = blocks(f"{index}")
        masks = changed(labels, f"{index}")
        name = f"w{index // 2}_{index}"
        for folder in ("labels", "tool", "images"):
            (where / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels.astype(np.uint16)).save(where / f"labels/{name}.png")
        tifffile.imwrite(where / f"tool/{name}.tif", masks.astype(np.uint16))
        Image.fromarray((60 + 100 * (labels > 0)).astype(np.uint8)).save(where / f"images/{name}.png")
        pairs.append((labels, masks))
    return pairs


def published(pairs: list[tuple[np.ndarray, np.ndarray]], threshold: float) -> dict[str, float]:
    """Returns the scores of stardist.matching over a dataset (by_image=False), by their definitions: Weigert et al.,
    WACV 2020, and Kirillov et al., CVPR 2019, with an optimal assignment of a dense IoU matrix."""
    tp = fp = fn = 0
    iou_sum = 0.0
    for labels, masks in pairs:
        true = [labels == k for k in np.unique(labels[labels > 0])]
        predicted = [masks == k for k in np.unique(masks[masks > 0])]
        iou = np.array([[(a & b).sum() / (a | b).sum() for b in predicted] for a in true])
        rows, columns = linear_sum_assignment(-(iou >= threshold).astype(float) - iou / (2 * min(iou.shape)))
        matched = iou[rows, columns][iou[rows, columns] >= threshold]
        tp, fp, fn = tp + len(matched), fp + len(predicted) - len(matched), fn + len(true) - len(matched)
        iou_sum += matched.sum()
    return {
        "precision": tp / (tp + fp),
        "recall": tp / (tp + fn),
        "f1": 2 * tp / (2 * tp + fp + fn),
        "ap": tp / (tp + fp + fn),
        "pq": iou_sum / (tp + (fp + fn) / 2),
        "true_iou": iou_sum / (tp + fn),
        "matched_iou": iou_sum / tp,
    }


@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_scores_are_those_of_the_published_definitions(tmp_path: Path, threshold: float):
    """From files, precision, recall, F1, AP, panoptic quality, mean true and mean matched score, all images pooled."""
    pairs = write_folders(tmp_path)
    result = score_tools(tmp_path / "labels", {"tool": tmp_path / "tool"})
    scores = result.counts["tool"].weighted(np.ones((1, 4), int)).scores()
    percent = round(100 * threshold)
    for name, value in published(pairs, threshold).items():
        assert scores[f"ap{percent}" if name == "ap" else f"{name}_{percent}"][0] == pytest.approx(value), name


def test_errors_and_pixels_by_hand():
    """One merge, one split, one missed and one false object in five labeled; Dice of all foreground pixels."""
    label, masks = np.zeros((12, 40), np.int32), np.zeros((12, 40), np.int32)
    label[1:6, 8:13], label[1:6, 13:18], masks[1:6, 8:18] = 2, 3, 12
    label[1:6, 20:30], masks[1:6, 20:25], masks[1:6, 25:30] = 4, 13, 14
    label[7:11, 1:5] = 5
    label[7:11, 30:34], masks[7:11, 30:34] = 6, 16
    masks[7:11, 10:14] = 15
    scores = count(label, masks, ()).scores()
    assert [scores[name][0] for name in ("merges", "splits", "missed", "false")] == [1, 1, 1, 1]
    assert scores["missed_of_100"][0] == 20
    assert scores["dice_foreground"][0] == pytest.approx(2 * 116 / (132 + 132))


def test_weighted_counts_are_those_of_repeated_images():
    """An image of weight two counts as if it were there twice."""
    rows = [count(blocks(name), changed(blocks(name), name), ()) for name in "ab"]
    actual = concatenate(rows).weighted(np.array([[2, 1]])).scores()
    expected = concatenate([rows[0], *rows]).weighted(np.ones((1, 3), int)).scores()
    for name in actual:
        assert actual[name][0] == pytest.approx(expected[name][0], nan_ok=True), name


def test_names_of_tools_and_formats(tmp_path: Path):
    """Cellpose's suffix, NPY, NPZ, a pattern, and pages of one file against those of another give the same labels."""
    pairs = write_folders(tmp_path)
    expected = score_tools(tmp_path / "labels", {"tool": tmp_path / "tool"}).counts["tool"].scores()["ap50"]
    for folder in ("cellpose", "npy", "npz", "named"):
        (tmp_path / folder).mkdir()
    for index, (_, masks) in enumerate(pairs):
        name = f"w{index // 2}_{index}"
        Image.fromarray(masks.astype(np.uint16)).save(tmp_path / f"cellpose/{name}_cp_masks.png")
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / f"cellpose/{name}.png")
        np.save(tmp_path / f"npy/{name}.npy", masks)
        np.savez(tmp_path / f"npz/{name}.npz", masks=masks, flows=np.zeros(3))
        tifffile.imwrite(tmp_path / f"named/{name}_objects.tif", masks)
    tifffile.imwrite(
        tmp_path / "all.tif", np.stack([one for one, _ in pairs]).astype(np.uint16), photometric="minisblack"
    )
    np.save(tmp_path / "masks.npy", np.stack([one for _, one in pairs]))
    tools = {name: tmp_path / name for name in ("cellpose", "npy", "npz")}
    result = score_tools(tmp_path / "labels", tools | {"named": tmp_path / "named/{stem}_objects.tif"})
    for counts in result.counts.values():
        assert counts.scores()["ap50"].tolist() == expected.tolist()
    assert any("4" in note and "_cp_masks" in note for note in result.notes)
    pages = score_tools(tmp_path / "all.tif", {"tool": tmp_path / "masks.npy"})
    assert pages.counts["tool"].scores()["ap50"].tolist() == expected.tolist()
    assert pages.images[2] == "all page 3" and set(pages.groups) == {"all"}


def rename(folder: Path) -> None:
    (folder / "tool/w0_1.tif").rename(folder / "tool/w0_01.tif")


def rewrite(array: np.ndarray) -> Callable[[Path], None]:
    kind = "rgb" if array.ndim == 3 else "minisblack"
    return lambda folder: tifffile.imwrite(folder / "tool/w0_1.tif", array, photometric=kind)


def masks_alone(folder: Path) -> None:
    for path in (folder / "tool").iterdir():
        tifffile.imwrite(path, 255 * (tifffile.imread(path) > 0).astype(np.uint8))


def pickled(folder: Path) -> None:
    np.save(folder / "tool/w0_1_seg.npy", np.array({"masks": 1}, dtype=object))


def pickled_array(folder: Path) -> None:
    (folder / "tool/w0_1.tif").unlink()
    np.save(folder / "tool/w0_1.npy", np.array([{"masks": 1}], dtype=object))


def junk(folder: Path) -> None:
    (folder / "tool/w0_1.tif").unlink()
    (folder / "tool/w0_1.npy").write_bytes(b"\x93NUMPY junk")


REFUSALS = {
    "missing": (lambda folder: (folder / "tool/w0_1.tif").unlink(), r"tool: has no file for .*w0_1\.png.*add 'w0_1'"),
    "other name": (rename, r"has no file for .*w0_1\.png \(there is .*w0_01\.tif\).*\n.*w0_01\.tif has no label image"),
    "other size": (rewrite(np.ones((40, 39), np.uint8)), r"w0_1\.tif is 40 × 39 px, but the label .*is 40 × 40 px"),
    "fractions": (rewrite(np.full((40, 40), 0.5, np.float32)), r"w0_1\.tif: 1600 labels are not whole numbers"),
    "ignored": (rewrite(-np.ones((40, 40), np.int16)), r"w0_1\.tif holds -1, which is for pixels that labels ignore"),
    "colors": (rewrite(np.ones((40, 40, 3), np.uint8)), r"w0_1\.tif: is an image of 3 channels, a picture of labels"),
    "masks": (masks_alone, r"^tool: .* look like masks: a single value, 255, .* give --number-parts tool"),
    "pickled": (pickled, r"w0_1_seg\.npy: holds pickled objects, which are not opened"),
    "pickled array": (pickled_array, r"w0_1\.npy: holds pickled objects, which are not opened"),
    "damaged": (junk, r"w0_1\.npy: the NumPy file is truncated or corrupt"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_unfit_masks_are_refused_by_name(tmp_path: Path, what: str):
    """A file that is missing, has another name, size or kind of content is named, with what to do."""
    write_folders(tmp_path)
    spoil, message = REFUSALS[what]
    spoil(tmp_path)
    with pytest.raises(SegueError, match=message):
        score_tools(tmp_path / "labels", {"tool": tmp_path / "tool"})


@pytest.mark.parametrize("wrong", [("tool",), ("tool", "other"), ("images",)])
def test_a_list_of_problems_is_headed_by_the_folders_that_have_them(tmp_path: Path, wrong: tuple[str, ...]):
    """Colored masks of one tool or of two, and images of another size; the folders without problems are not named."""
    write_folders(tmp_path)
    shutil.copytree(tmp_path / "tool", tmp_path / "other")
    for folder in wrong:
        for path in (tmp_path / folder).iterdir():
            path.unlink()
            if folder == "images":
                Image.fromarray(np.ones((9, 9), np.uint8)).save(path)
            else:
                tifffile.imwrite(path, np.ones((40, 40, 3), np.uint8), photometric="rgb")
    tools = {"first": tmp_path / "tool", "second": tmp_path / "other"}
    with pytest.raises(SegueError) as caught:
        score_tools(tmp_path / "labels", tools, images=tmp_path / "images")
    heading = f"{', '.join(str(tmp_path / folder) for folder in wrong)}: {4 * len(wrong)} problems with the files"
    assert str(caught.value).splitlines()[0] == heading


def test_other_refusals(tmp_path: Path):
    """No tool, names that are none, a model without images, a pattern of groups that does not match."""
    write_folders(tmp_path)
    labels, tools = tmp_path / "labels", {"tool": tmp_path / "tool"}
    for spec, message in (
        (ToolsSpec(number_parts=("tol",)), "--number-parts tol: is no tool; allowed are labels, tool"),
        (ToolsSpec(classes=("cell",)), "needs the background and one class"),
        (ToolsSpec(group="{well}-*"), r"does not match 'w0_0'"),
        (ToolsSpec(group="w*"), "has no named part"),
        (ToolsSpec(classes=("background", "a", "b")), "only 0 to 2 are named"),
    ):
        with pytest.raises(SegueError, match=message):
            score_tools(labels, tools, spec=spec)
    with pytest.raises(SegueError, match="no file or folder"):
        score_tools(labels, {"tool": tmp_path / "tols"})
    with pytest.raises(SegueError, match="at least one NAME=MASKS"):
        score_tools(labels, {})


def test_masks_become_objects_where_so_asked(tmp_path: Path):
    """Parts of masks are numbered; with keep_numbers a mask is one object."""
    write_folders(tmp_path)
    masks_alone(tmp_path)
    labels, tools = tmp_path / "labels", {"tool": tmp_path / "tool"}
    numbered = score_tools(labels, tools, spec=ToolsSpec(number_parts=("tool",)))
    assert numbered.counts["tool"].scores()["objects_predicted"].min() > 1
    whole = score_tools(labels, tools, spec=ToolsSpec(keep_numbers=("tool",)))
    assert whole.counts["tool"].scores()["objects_predicted"].tolist() == [1] * 4


def test_classes_of_masks_and_of_objects(tmp_path: Path):
    """Of two classes, objects and masks of 255 are the foreground, which is said; scores are those of the pixels."""
    pairs = write_folders(tmp_path)
    tools, spec = {"tool": tmp_path / "tool"}, ToolsSpec(classes=("background", "cell"))
    first = score_tools(tmp_path / "labels", tools, spec=spec)
    assert any("tool: holds objects numbered" in note and "compared as 'cell'" in note for note in first.notes)
    masks_alone(tmp_path)
    second = score_tools(tmp_path / "labels", tools, spec=spec)
    actual = first.counts["tool"].weighted(np.ones((1, 4), int)).scores()
    assert second.counts["tool"].weighted(np.ones((1, 4), int)).scores() == actual
    true, predicted = (np.concatenate([pair[k].ravel() > 0 for pair in pairs]) for k in (0, 1))
    assert actual["dice_cell"][0] == pytest.approx(2 * (true & predicted).sum() / (true.sum() + predicted.sum()))
    tifffile.imwrite(tmp_path / "tool/w0_0.tif", (pairs[0][1] > 0).astype(np.uint8))
    with pytest.raises(SegueError, match="holds 0, 1 and 255"):
        score_tools(tmp_path / "labels", tools, spec=spec)


class Bright(torch.nn.Module):
    """Scores bright pixels as foreground."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 4 * images


def test_a_model_stands_in_the_place_of_masks(tmp_path: Path):
    """Its predictions are scored as if they were files; without images it is refused by name."""
    write_folders(tmp_path)
    target = Foreground(("background", "cell"))
    settings = {"normalization": "image", "channels": ("intensity",), "divisor": 1}
    model = Model(network=Bright(), target=target, decode_params=target.decode_params, **settings)
    (tmp_path / "saved").mkdir()
    for path in (tmp_path / "images").iterdir():
        np.save(tmp_path / f"saved/{path.stem}.npy", np.asarray(predict(model, np.asarray(Image.open(path)))))
    tools = {"model": model, "saved": tmp_path / "saved"}
    result = score_tools(tmp_path / "labels", tools, images=tmp_path / "images")
    assert result.counts["model"].scores()["ap50"].tolist() == result.counts["saved"].scores()["ap50"].tolist()
    assert result.counts["model"].scores()["ap50"].mean() > 0.5
    with pytest.raises(SegueError, match=r"model: is a model, which needs the images .*--images"):
        score_tools(tmp_path / "labels", tools)


def test_groups_are_named_parts():
    """Of the end of a name; folders count where the pattern has them."""
    keys = ["p/A01_1", "p/A01_2", "q/B02_1"]
    assert groups_of(keys, "{well}_*") == ["A01", "A01", "B02"]
    assert groups_of(keys, "{plate}/{well}_*") == ["p/A01", "p/A01", "q/B02"]
    assert groups_of(keys, None) == keys
    assert groups_of(["A01_1_2"], "{well}_*") == ["A01"]
    with pytest.raises(SegueError, match="matches in several ways"):
        groups_of(["A01_1_2"], "{well}_{field}")


@pytest.mark.parametrize(
    "pattern", ["(IXMtest_[A-Z]).*", "^(?P<row>[^_]+_.)", "{group}_s*", "{group}_s?_w*", "_([0-9])"]
)
def test_patterns_of_groups_mean_the_same_as_in_fit(pattern: str):
    """Regular expressions with one group, and text around {group}; folders do not count."""
    names = ["IXMtest_A_s1_w2_3", "IXMtest_B02_s2_w1_s3"]
    if pattern == "_([0-9])":
        names = ["IXMtest_7_s1", "x_1_2"]
    assert groups_of([f"p_9/{name}" for name in names], pattern) == [group_of(name, pattern) for name in names]


@pytest.mark.parametrize("pattern", ["[", "(a", "w*", "(w)(.)", "^(z)", "{group}-*", "w(x?)"])
def test_patterns_without_a_group_are_refused_as_in_fit(pattern: str):
    for find in (lambda: groups_of(["w0_0"], pattern), lambda: group_of("w0_0", pattern)):
        with pytest.raises(SegueError, match=f"^--group '{re.escape(pattern)}': "):
            find()


def test_two_files_of_one_name_are_refused(tmp_path: Path):
    """a.png and a.tif may both be the masks of a; images may be more than the label images."""
    for name in ("a.png", "b.png"):
        Image.fromarray(np.eye(9, dtype=np.uint8)).save(tmp_path / name)
    files = find_masks("tool", tmp_path)
    (tmp_path / "labels").mkdir()
    Image.fromarray(np.eye(9, dtype=np.uint8)).save(tmp_path / "labels/b.png")
    assert pair_masks(find_masks("labels", tmp_path / "labels"), files, complete=False) == {"b": tmp_path / "b.png"}
    assert read_masks(tmp_path / "a.png").shape == (1, 9, 9)
    tifffile.imwrite(tmp_path / "a.tif", np.eye(9, dtype=np.uint8))
    with pytest.raises(SegueError, match="are both called 'a'"):
        find_masks("tool", tmp_path)
