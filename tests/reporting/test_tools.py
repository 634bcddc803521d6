"""Tools compared: means and intervals by closed forms, pairs, equivalence, and the page with its table."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from samples.cli import run_segue
from scipy.stats import ttest_1samp

from segue import api
from segue.errors import SegueError
from segue.evaluation.counts import ClassCounts
from segue.evaluation.tools import LabelFiles, ToolCounts, ToolsSpec
from segue.reporting.figures.predictions.tools import background, chosen_images, disagreement_figure
from segue.reporting.tables.tool_comparison import SAME, ToolComparison, compare_tools

NAMES = ("background", "cell")


def comparison(
    groups: list[str], *, margin: float | None = None, copies: int = 1, more: int | np.ndarray = 5
) -> ToolComparison:
    """Returns two tools on images of 100 px of which the first gets 50 … right, the second `more` in every image."""
    right = 50 + 3 * (np.arange(len(groups)) // copies) % 17
    counts = {}
    for name, values in {"first": right, "second": right + more}.items():
        pixels = np.zeros((len(groups), 2, 2), int)
        pixels[:, 1, 1], pixels[:, 1, 0] = values, 100 - values
        counts[name] = ClassCounts(pixels, NAMES)
    images = tuple(f"i{k}" for k in range(len(groups)))
    source = LabelFiles([])
    sources = {"first": source, "second": source}
    spec = ToolsSpec(classes=NAMES, group="{x}")
    places = {"first": "a", "second": "b"}
    return compare_tools(ToolCounts(spec, images, tuple(groups), counts, source, sources, places), margin=margin)


def test_intervals_of_means_are_those_of_the_t_test():
    """With an image per group, mean and interval are those of a t test but for the randomness of resampling."""
    result = comparison([str(k) for k in range(12)])
    values = result.images[result.images["tool"] == "first"]["accuracy"].to_numpy()
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    row = result.score_of("first", "accuracy")
    assert row["image_mean"] == pytest.approx(values.mean())
    half = (row["image_mean_high"] - row["image_mean_low"]) / 2
    assert half == pytest.approx((expected.high - expected.low) / 2, rel=0.1)
    assert row["pooled"] == pytest.approx(values.mean())  # images of one size


def test_groups_are_resampled_whole():
    """Copies of every image in its group leave the interval as it was: they are no further evidence."""
    alone, doubled = comparison(list("abcdef")), comparison([name for name in "abcdef" for _ in range(2)], copies=2)
    one, other = alone.score_of("first", "accuracy"), doubled.score_of("first", "accuracy")
    assert (one.pop("images"), other.pop("images")) == (6, 12)
    for name in ("pooled", "pooled_low", "pooled_high", "image_mean_low", "image_mean_high"):
        assert other[name] == pytest.approx(one[name])


def test_differences_are_paired():
    """A constant difference has no spread, however the images vary; wins count images."""
    result = comparison(list("abcdef"), margin=0.06)
    row = result.difference_of("second", "accuracy")
    assert row["pooled"] == pytest.approx(0.05) and row["pooled_high"] - row["pooled_low"] == pytest.approx(0, abs=1e-9)
    assert (row["wins"], row["losses"], row["ties"]) == (6, 0, 0)
    assert row["equivalent_within"] == pytest.approx(0.05)
    assert row["conclusion"] == "better, but equivalent within the margin"


@pytest.mark.parametrize(("groups", "change", "conclusion"), [
    ("abcdef", np.zeros(6), SAME), ("aaa", np.zeros(3), SAME),
    ("abcdef", np.array([1, -1, 1, -1, 1, -1]), "undecided"), ("aaa", np.array([1, -1, 0]), ""),
])  # fmt: skip
def test_equal_scores_are_told_as_such(groups: str, change: np.ndarray, conclusion: str):
    """Equal scores in every image are no undecided difference; equal means of scores that differ are."""
    row = comparison(list(groups), more=change, margin=None).difference_of("second", "accuracy")
    assert row["pooled"] == pytest.approx(0) and row["ties"] == (change == 0).sum()
    assert row["conclusion"] == conclusion


def test_a_single_group_has_no_interval():
    """One group is no repeat; nothing is concluded."""
    result = comparison(["a", "a", "a"], margin=0.5)
    assert np.isnan(result.score_of("first", "accuracy")["pooled_low"])
    assert result.difference_of("second", "accuracy")["conclusion"] == ""
    with pytest.raises(SegueError, match="is no margin"):
        comparison(["a"], margin=0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Labels of four squares in three images, and two tools: one misses a square, one joins two."""
    for index in range(3):
        labels = np.zeros((40, 48), np.uint16)
        for number in range(4):
            labels[5:35, 12 * number : 12 * number + 11] = number + 1
        image = np.where(labels > 0, 200 + index, 20).astype(np.uint8)
        missing, joined = np.where(labels == 2, 0, labels), labels.copy()
        joined[5:35, 11] = joined[labels == 2] = 1
        if index == 0:
            joined = labels
        for name, values in {"labels": labels, "images": image, "missing": missing, "joined": joined}.items():
            (tmp_path / name).mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / f"{name}/w{index}_a.tif", values)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("classes", [(), NAMES])
def test_page_and_table(folder: Path, classes: tuple[str, ...]):
    """The page names tools, groups and examples; the table has a row per image and tool, with the scores by hand."""
    out = folder / "page.html"
    masks = {name: folder / name for name in ("missing", "joined")}
    spec = ToolsSpec(classes=classes, group="{well}_*")
    result = api.compare(folder / "labels", masks, images=folder / "images", out=out, spec=spec)
    table = pd.read_csv(folder / "page.csv")
    assert table["image"].tolist() == ["w0_a", "w1_a", "w2_a"] * 2 and table["group"].tolist() == ["w0", "w1", "w2"] * 2
    if not classes:
        assert table[table["tool"] == "missing"]["recall_50"].tolist() == [0.75] * 3
        assert table[table["tool"] == "joined"]["merges"].tolist() == [0, 1, 1]
        assert result.score_of("joined", "merges")["pooled"] == 2
    text = out.read_text()
    assert "missing" in text and "3 images in 3 groups" in text and "Disagreement" in text
    api.compare(folder / "labels", masks, out=out, spec=spec)  # an earlier page is replaced, images are not needed
    single = api.compare(folder / "labels", {"joined": folder / "joined"}, out=folder / "one.html", spec=spec)
    assert single.differences.empty and (folder / "one.html").exists()


def test_the_command_tells_equal_tools_from_others(folder: Path):
    """Masks given twice are the same in every image, and so are renumbered ones; others differ by a number."""
    for path in (folder / "joined").iterdir():
        (folder / "renumbered").mkdir(exist_ok=True)
        labels = tifffile.imread(path)
        tifffile.imwrite(folder / "renumbered" / path.name, np.where(labels > 0, 9 - labels, 0).astype(np.uint8))
    tools = ("a=joined", "b=joined", "c=renumbered", "d=missing")
    masks = [f"{name}={folder / place}" for name, _, place in (tool.partition("=") for tool in tools)]
    text = run_segue("compare", folder / "labels", *masks, "-o", folder / "page.html").stdout
    assert "b − a, ap_mean: the same in every image\nc − a, ap_mean: the same in every image\nd − a" in text
    assert "[0, 0]" not in text and text.count("the same in every image") == 2


@pytest.mark.parametrize("samples", [1, 3, 4])
def test_images_behind_outlines(folder: Path, samples: int):
    """Color images are in color, without their alpha; the gray ones are as they are."""
    values = [10, 60, 200, 255][:samples]
    for path in (folder / "images").glob("*.tif"):
        image = np.full((40, 48, samples), values, np.uint8)
        image[:20] //= 2
        image[..., 3:] = 255
        is_color = samples > 1
        tifffile.imwrite(path, image if is_color else image[..., 0], photometric="rgb" if is_color else "minisblack")
    result = api.compare(folder / "labels", {"joined": folder / "joined"}, images=folder / "images")
    picture = background(result, 1)
    expected = [10, 60, 200] if samples > 1 else 10
    assert picture.shape == ((40, 48, 3) if samples > 1 else (40, 48))
    assert picture[30, 5].tolist() == expected and picture[3, 5].tolist() == (np.array(expected) // 2).tolist()


@pytest.mark.parametrize(("count", "classes", "absent"), [
    (1, (), ""), (4, (), ""), (5, (), "Not drawn: tool-4."), (6, NAMES, "Not drawn: tool-4 and tool-5."),
])  # fmt: skip
def test_examples_fit_their_columns(folder: Path, count: int, classes: tuple[str, ...], absent: str):
    """No title runs into the next column, however many there are; tools that are not drawn are named."""
    for file in folder.glob("*/*.tif"):
        file.rename(file.with_name(f"IXMtest_{file.stem}_FEE31BFC-B8B3-41F7-A3E2-1E847D9B42CB.tif"))
    names = [f"{'a-tool-of-a-long-name-' * (k == 1)}tool-{k}" for k in range(count)]
    masks = {name: folder / ("joined", "missing")[k % 2] for k, name in enumerate(names)}
    result = api.compare(folder / "labels", masks, images=folder / "images", spec=ToolsSpec(classes=classes))
    figure = disagreement_figure(result)
    assert figure is not None and figure.caption.count("Not drawn") == bool(absent) and absent in figure.caption
    renderer = FigureCanvasAgg(figure.figure).get_renderer()
    figure.figure.draw(renderer)
    columns = len(figure.figure.axes) // len(chosen_images(result))
    for number, (axes, right) in enumerate(pairwise(figure.figure.axes), 1):
        for title in axes.findobj(Text) if number % columns else ():
            is_title = title.get_text() and title.get_text() == axes.get_title(loc="left")  # pyright: ignore
            assert not is_title or title.get_window_extent(renderer).x1 < right.get_window_extent(renderer).x0


@pytest.mark.parametrize("name", ["page.html", "page.csv"])
def test_other_files_are_not_overwritten(folder: Path, name: str):
    """A file that is no page or table of a comparison stays, and nothing is written beside it."""
    (folder / name).write_text("image,notes\n")
    with pytest.raises(SegueError, match=rf"{name}: exists and is no"):
        api.compare(folder / "labels", {"joined": folder / "joined"}, out=folder / "page.html")
    assert (folder / name).read_text() == "image,notes\n" and len(list(folder.glob("page.*"))) == 1
    with pytest.raises(SegueError, match="a page is an"):
        api.compare(folder / "labels", {"joined": folder / "joined"}, out=folder / "page")
