"""The page: what it says, that it needs nothing from outside, and that it survives results with parts missing."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from segue.errors import SegueError
from segue.reporting.analysis.comparison import compare
from segue.reporting.figures.learning_curves import draw_loss_curves
from segue.reporting.figures.matrices import color_scale
from segue.reporting.figures.predictions.examples import outcome
from segue.reporting.figures.style import INKS, ReportFigure, inline_svg, style
from segue.reporting.page import page
from segue.reporting.page.page import write_page
from segue.signals import Terminated
from segue.study.table import Example, StudyResults


class Links(HTMLParser):
    """Gathers what a page refers to, its ids, and whether its tags close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
                self.sources.append(value or "")
            if name == "id":
                self.ids.append(value or "")


@pytest.fixture(scope="module")
def written(results: StudyResults, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "demo.html"
    write_page(results, out)
    return out


def test_page_needs_nothing_from_outside(written: Path) -> None:
    """Everything is in the page or, as figures to download, beside it; no duplicate id, no broken anchor."""
    text = written.read_text()
    links = Links(text)
    for source in links.sources:
        assert source.startswith(("#", "data:", f"{written.stem}-figures/")), source[:80]
        if source.startswith("#"):
            assert source[1:] in links.ids
        elif not source.startswith("data:"):
            assert (written.parent / source).is_file()
    assert not links.tags & {"link", "iframe", "object", "embed"}
    assert len(links.ids) == len(set(links.ids))
    assert "url(http" not in text and "@import" not in text


def test_page_without_its_script_lacks_the_filters_alone(written: Path, results: StudyResults) -> None:
    """What the script shows is hidden in the page, with the link to it; the script asks for nothing outside."""
    text = written.read_text()
    assert '<section id="runs" hidden' in text and '<a href="#runs" hidden' in text
    (kind, data), (attributes, script) = re.findall(r"<script([^>]*)>(.*?)</script>", text, flags=re.DOTALL)
    assert (kind, attributes) == (' type="application/json" id="runs-data"', "")
    assert json.loads(data)["domains"] == results.domains
    assert not re.search(r"\b(fetch|XMLHttpRequest|import|eval|innerHTML)\b", script)
    assert re.findall(r"https?://[^\"'\s]+", script) == ["http://www.w3.org/2000/svg"]


def test_page_tells_the_study(written: Path, results: StudyResults) -> None:
    """Question, answer, counts, cost, figures with captions, table, command and spec are there, in this order."""
    text = written.read_text()
    head, body = text.split("</nav>")
    for part, order in (
        (head, [results.question, "Transfer improves the median", "after pretraining only", "Hardest domains", "0nm"]),
        (body, ["distinct trainings", "time each, median", "Figure 1.", "Label efficiency", "Effect of each factor"]),
        (body, ["Learning curves", "Examples", "The whole table", "segue study run", "Methods"]),
    ):
        places = [part.index(words) for words in order]
        assert places == sorted(places)
    assert "&lt;two&gt; sources &amp; &#34;more&#34;" in text


def test_numbers_of_the_answer_are_those_of_the_table(written: Path, results: StudyResults) -> None:
    """The answer states medians that can be computed from the table by hand, with intervals in its table."""
    table = results.table
    after = table[(table["stage"] == "transfer") & (table["evaluated_domain"] == table["domain"])]
    lookup = table.set_index(["run", "evaluated_domain"])["loss_adjusted"]
    before = [lookup[(parent, domain)] for parent, domain in zip(after["parent"], after["domain"], strict=True)]
    text = written.read_text()
    medians = [f"{np.median(before):.4f}", f"{after['loss_adjusted'].median():.4f}"]
    assert f"in the target domain from {medians[0]} to {medians[1]}." in text
    for name, median in zip(["after pretraining only", "after transfer"], medians, strict=True):
        assert f'<td>{name}</td><td class="number">{median} [' in text


def test_figures_are_files_too(written: Path) -> None:
    """Every figure is written as a well-formed SVG and as a PNG, and nothing unfinished is left."""
    folder = written.parent / "demo-figures"
    names = {path.stem for path in folder.glob("*.svg")}
    assert names == {path.stem for path in folder.glob("*.png")}
    assert {"matrices", "efficiency", "effects-transfer", "loss-curves", "examples"} <= names
    for path in folder.glob("*.svg"):
        ElementTree.fromstring(path.read_text())
    assert not list(written.parent.rglob("*partial*"))


def test_colors_follow_a_dark_page(written: Path) -> None:
    """No ink of a figure is fixed in the page, each has a light and a dark form, and files keep the light one."""
    text = written.read_text()
    figures = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL))
    for color, (name, dark) in INKS.items():
        assert color not in figures
        assert f"--{name}: {color};" in text and f"--{name}: {dark};" in text
    assert next(iter(INKS)) in (written.parent / "demo-figures" / "matrices.svg").read_text()


def test_cells_have_tooltips(written: Path) -> None:
    """A cell of a matrix tells its median, quartiles and number of runs."""
    assert re.search(
        r"<title>-10nm → 0nm: median 0\.\d+, quartiles 0\.\d+ to 0\.\d+, 18 runs</title>", written.read_text()
    )


@pytest.mark.slow
def test_equal_results_give_equal_bytes(make: Callable[..., StudyResults], tmp_path: Path, real_png: None) -> None:
    """Page and figures hold no date, path or random id."""
    small = _pretraining_only(dataclasses.replace(make(2, scratch=False), histories=pd.DataFrame(), examples=[]))
    for name in ("a", "b"):
        write_page(small, tmp_path / name / "page.html")
    for path in sorted((tmp_path / "a").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes(), path.name


def _pretraining_only(r: StudyResults) -> StudyResults:
    table = r.table[r.table["stage"] == "pretrain"]
    return dataclasses.replace(r, table=table, stages={"pretrain": r.stages["pretrain"]}, parents={"pretrain": None})


def _failures_only(r: StudyResults) -> StudyResults:
    failures = pd.DataFrame(
        {"stage": ["pretrain"] * 3, "run": list("abc"), "configuration": "x", "error": "<no> memory"}
    )
    counts = {"failed": 3, "finished": 0, "pending": 5}
    none = pd.DataFrame()
    return dataclasses.replace(r, table=none, histories=none, examples=[], failures=failures, counts=counts, cost=none)


def _bare(r: StudyResults) -> StudyResults:
    table = r.table[["stage", "run", "domain", "evaluated_domain", "loss"]]
    return dataclasses.replace(r, table=table, histories=pd.DataFrame(), examples=[], cost=pd.DataFrame(), counts={})


def _children_of_elsewhere(r: StudyResults) -> StudyResults:
    table = r.table[r.table["stage"] == "transfer"]
    return dataclasses.replace(r, table=table, histories=pd.DataFrame(), counts={})


def _mixtures(r: StudyResults) -> StudyResults:
    table = r.table[r.table["stage"] == "pretrain"].replace({"domain": {"-10nm": "-10nm:64+0nm:64"}})
    return dataclasses.replace(r, table=table, histories=pd.DataFrame(), parents={"pretrain": None})


def _some_nan(r: StudyResults) -> StudyResults:
    table = r.table.copy()
    table.loc[table.index % 7 == 0, ["loss", "loss_adjusted", "dice_mean"]] = np.nan
    return dataclasses.replace(r, table=table, histories=r.histories.assign(validation_loss=np.nan))


def _all_nan(r: StudyResults) -> StudyResults:
    numbers = [c for c in r.table.columns if c.startswith(("loss", "dice", "iou", "accuracy"))]
    return dataclasses.replace(r, table=r.table.assign(**dict.fromkeys(numbers, np.nan)), histories=pd.DataFrame())


def _mixed(r: StudyResults) -> StudyResults:
    part = _pretraining_only(r)
    halves = ["bf16" if i % 2 else "fp32" for i in range(len(part.table))]
    return dataclasses.replace(part, table=part.table.assign(precision=halves))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_failures_only, ["Failed: 3 of 3 trainings"]),
        pytest.param(
            _children_of_elsewhere,
            ["After transfer, the median adjusted loss in the target domain is"],
            marks=pytest.mark.slow,
        ),
        pytest.param(_mixtures, ["64 of -10nm, 64 of 0nm"], marks=pytest.mark.slow),
        pytest.param(_bare, ["Trained on × tested on"], marks=pytest.mark.slow),
        pytest.param(_some_nan, ["no finite", "has a single seed, so there is no interval"], marks=pytest.mark.slow),
        (_all_nan, ["No finished run has a value"]),
        pytest.param(
            _mixed,
            ["All runs, in their own domains: adjusted loss", "mix different precisions (bf16 and fp32)"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_page_of_incomplete_results(
    make: Callable[..., StudyResults], tmp_path: Path, change: Callable[[StudyResults], StudyResults], says: list[str]
) -> None:
    """Whatever is missing, the page is made, says so, and invents nothing in its place."""
    plain = dataclasses.replace(make(1, scratch=False), examples=[])
    if change is not _some_nan:
        plain = dataclasses.replace(plain, histories=pd.DataFrame())
    write_page(change(plain), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert all(words in text for words in says)
    assert not re.search(r">\s*nan\s*<|\bnan\b \[", text)
    assert "<no>" not in text


def test_nothing_finished_is_not_called_a_single_seed(make: Callable[..., StudyResults], tmp_path: Path) -> None:
    """An empty result says that nothing has finished, and nothing about seeds."""
    write_page(_failures_only(make(2)), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "Nothing has finished yet." in text and "as nothing has finished yet" in text
    assert "single seed" not in text and "second seed" not in text


def test_captions_tell_what_is_counted_and_paired(written: Path) -> None:
    """The page says which labels each figure counts, what an image is, and where pairs cover only some targets."""
    text = written.read_text()
    assert ">20 (16 + 4)</text>" in text
    assert "in brackets the labels for training + for validation" in text
    assert "as a factor are those to train on, without those for validation" in text
    assert "<td>in 18 pairs, all in the target 0nm</td>" in text
    assert "each tile or sample of a larger micrograph is one; groups are whole micrographs" in text


def test_legends_of_curves_lie_outside_the_axes(make: Callable[..., StudyResults]) -> None:
    """No legend overlaps the curves of its panel, or its title, also where names are long and take several lines."""
    results = make(1, scratch=False)
    long = {name: f"a rather long name of {name}" for name in results.domains}
    histories = results.histories.replace({"transfer.domain": long})
    with style():
        figure = draw_loss_curves(compare(dataclasses.replace(results, histories=histories)), 0.0)
        figure.draw_without_rendering()
    legends = [(axes, legend) for axes in figure.axes if (legend := axes.get_legend())]
    assert len(legends) == 4
    for axes, legend in legends:
        box = legend.get_window_extent()
        assert box.y0 >= axes.get_window_extent().y1 - 0.5
        assert box.y1 <= axes._left_title.get_window_extent().y0 + 0.5  # pyright: ignore[reportAttributeAccessIssue]
        assert box.x1 <= figure.bbox.x1


def test_large_table_lies_beside_the_page(
    make: Callable[..., StudyResults], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table too large to embed is written whole beside the page, which says where."""
    monkeypatch.setattr(page, "MAX_EMBEDDED_BYTES", 1000)
    small = dataclasses.replace(_all_nan(make(1, scratch=False)), examples=[])
    mixed_types = small.table.assign(**{"pretrain.batch": [4 if i % 2 else "auto" for i in range(len(small.table))]})
    write_page(dataclasses.replace(small, table=mixed_types), tmp_path / "page.html")
    assert "page-figures/table.parquet" in (tmp_path / "page.html").read_text()
    assert len(pd.read_parquet(tmp_path / "page-figures" / "table.parquet")) == len(mixed_types)


def test_figures_of_an_earlier_page_are_removed(make: Callable[..., StudyResults], tmp_path: Path) -> None:
    """A figure that the present results do not have is not left to be mistaken for theirs; other files stay."""
    folder = tmp_path / "page-figures"
    folder.mkdir()
    for name in ("examples.svg", "effects-old.png", "mine.svg"):
        (folder / name).write_text("")
    write_page(_bare(make(1, scratch=False)), tmp_path / "page.html")
    assert (folder / "matrices.svg").exists()
    assert not (folder / "examples.svg").exists() and not (folder / "effects-old.png").exists()
    assert (folder / "mine.svg").exists()


def test_page_that_cannot_be_written_is_named(results: StudyResults, tmp_path: Path) -> None:
    """A folder that is a file is one clear sentence, and no half page."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SegueError, match=r"the page cannot be written .* give another path with -o"):
        write_page(results, tmp_path / "file" / "page.html")


@pytest.mark.slow
@pytest.mark.parametrize("error", [SegueError("No space left on device"), Terminated(signal.SIGTERM)])
@pytest.mark.parametrize("there_before", [False, True])
def test_a_page_that_is_not_finished_leaves_no_figures(
    results: StudyResults,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    there_before: bool,
    error: BaseException,
) -> None:
    """Those of an earlier page stay; new ones are removed when the disk refuses one, and at a signal."""
    folder = tmp_path / "page-figures"
    if there_before:
        folder.mkdir()
        (folder / "mine.txt").write_text("kept")

    def refuse(figure: ReportFigure, folder: Path) -> None:
        (folder / "effects-new.svg").write_text("<svg/>")
        raise error

    monkeypatch.setattr(page, "render_figure", refuse)
    with pytest.raises(type(error)):
        write_page(results, tmp_path / "page.html")
    assert sorted(path.name for path in tmp_path.rglob("*")) == (["mine.txt", "page-figures"] if there_before else [])


@pytest.mark.parametrize(
    "name", ['effects-a" onload="alert(1)', "film-<script>alert(1)</script>", "effects-a\\1b", "é' /"]
)
def test_names_of_stages_are_no_markup(name: str) -> None:
    """The ids of a figure begin with its name, which may hold what a user calls a stage."""
    svg = '<svg xmlns="http://www.w3.org/2000/svg"><g id="a"/><use href="#a"/></svg>'
    text = inline_svg(ReportFigure(name, Figure(), "", "", ""), svg)
    element = ElementTree.fromstring(text)
    ids = [node.get("id") for node in element.iter() if node.get("id")]
    assert [f"#{one}" for one in ids] == [node.get("href") for node in element.iter() if node.get("href")]
    assert re.fullmatch(r"[A-Za-z0-9_-]+-a", str(ids[0])) and len(ids) == 1


@pytest.mark.slow
def test_large_examples_are_reduced(make: Callable[..., StudyResults], tmp_path: Path) -> None:
    """Eight examples of 1024 by 768 pixels, odd sizes too, do not make a page that is slow to open."""
    generator = np.random.default_rng(0)
    image, label = generator.normal(size=(1025, 767)), np.zeros((1025, 767), dtype=np.int32)
    label[100:300, 200:500], label[:50] = 1, -1
    example = Example(image, label, "0nm", {"after transfer": np.roll(label, 40, axis=0)})
    small = dataclasses.replace(_all_nan(make(1, scratch=False)), examples=[example] * 9)
    write_page(small, tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 5e6
    assert "8 held-out images of 9" in (tmp_path / "page.html").read_text()


def test_outcome_counts_every_pixel_once() -> None:
    """Hits, misses, false alarms and what is not judged, by hand; a wrong class is missed."""
    label = np.array([[0, 0, 1, 1, 1, -1]])
    prediction = np.array([[0, 1, 1, 0, 2, 1]])
    assert outcome(label, prediction).tolist() == [[0, 3, 1, 2, 2, 4]]


@pytest.mark.parametrize("values", [[], [0.2], [-1.0, 3.0], [0.0, 0.0], [0.01, 2.0]])
def test_color_scale_fits_any_values(values: list[float]) -> None:
    """None, one, negative, equal and widely spread values all lie within an increasing scale."""
    scale = color_scale(np.array(values))
    assert scale.vmin is not None and scale.vmax is not None and scale.vmin < scale.vmax
    assert all(0 <= float(scale(value)) <= 1 for value in values)


@pytest.mark.browser
def test_page_opens_in_a_browser(written: Path, tmp_path: Path) -> None:
    """Chromium lays the page out without asking the network for anything, and all figures have a size."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium, "this test needs Chromium; install Debian's package chromium, or leave the marker out"
    log = tmp_path / "net.json"
    command = [
        chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
        f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}", "--dump-dom", written.as_uri(),
    ]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    links = Links(dom)
    assert dom.count("<figure") == dom.count('class="drawing"') >= 6
    assert not [source for source in links.sources if "://" in source]
    assert "segue" in dom and 'id="methods"' in dom
