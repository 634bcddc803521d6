"""The runs embedded in the page of a study are those of its table, and its script filters them as pandas does."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import pytest
from browser import Browser
from scipy.stats import binom

from segue.reporting.analysis.comparison import compare
from segue.reporting.formatting import format_number, level_label
from segue.reporting.page import run_filter
from segue.reporting.page.page import write_page
from segue.reporting.page.rendering import environment
from segue.reporting.page.run_filter import encode, runs_data, runs_json, whole_numbers
from segue.reporting.tables.table_import import from_table
from segue.study.table import StudyResults

EXAMPLES = Path(__file__).parents[2] / "examples"
MEGABYTE = 10**6
FAILURES = pd.DataFrame(
    {
        "stage": ["transfer", "transfer", "dataset"],
        "run": ["failed-a", "failed-b", "data-c"],
        "configuration": "x",
        "error": ["</script><b>no memory</b>", "NaN loss", "no file"],
        "transfer.freeze": ["none", np.nan, np.nan],
        "transfer.images": [64, np.nan, np.nan],
    }
)


def decode(column: dict[str, Any], runs: int) -> list[str | None]:
    """Returns the level of each run."""
    codes = column["codes"] or [0] * runs
    return [column["levels"][code] if code >= 0 else None for code in codes]


def stage_of(data: dict[str, Any] | None, name: str) -> dict[str, Any]:
    assert data is not None
    return next(stage for stage in data["stages"] if stage["name"] == name)


@pytest.fixture(scope="module")
def data(results: StudyResults) -> dict[str, Any]:
    return json.loads(runs_json(compare(replace(results, failures=FAILURES))))


def test_scores_are_those_of_the_table(data: dict[str, Any], results: StudyResults) -> None:
    """Of each run, metric and domain, to half of the last digit; the first column is of the domain trained on."""
    table = results.table.drop_duplicates(["run", "evaluated_domain"]).set_index(["run", "evaluated_domain"])
    trained_on = results.table.drop_duplicates("run").set_index("run")["domain"]
    for stage in data["stages"]:
        assert {"loss_adjusted", "loss", "dice_mean"} <= {score["name"] for score in stage["scores"]}
        for score in stage["scores"]:
            for place, domain in enumerate(["", *data["domains"]]):
                for run, whole in zip(stage["runs"], score["values"][place] or [], strict=False):
                    if run.startswith("failed") or (run, domain or trained_on[run]) not in table.index:
                        assert whole is None
                        continue
                    value = table.loc[(run, domain or trained_on[run]), score["name"]]
                    assert abs(whole / score["scale"] - float(str(value))) <= 0.5001 / score["scale"]


def test_settings_are_those_of_the_table(data: dict[str, Any], results: StudyResults) -> None:
    """Factors are the columns that differ, others stand apart; parents are in the stage that a stage starts from."""
    stage = stage_of(data, "transfer")
    runs = results.table[results.table["stage"] == "transfer"].drop_duplicates("run").set_index("run")
    names = [factor["name"] for factor in stage["factors"]]
    axes = ["pretrain.domain", "transfer.domain", "transfer.images", "transfer.freeze"]
    assert names == [*axes, "seed_draw", "seed_init"]
    assert {"precision", "threads", "epochs", "labels_train"} <= {column["name"] for column in stage["settings"]}
    for column in [*stage["factors"], *stage["settings"]]:
        if column["name"] == "configuration":  # of failed runs
            continue
        levels = decode(column, len(stage["runs"]))
        for run, level in zip(stage["runs"], levels, strict=True):
            if run in runs.index:
                assert level == level_label(runs.loc[run, column["name"]])
    parents = stage_of(data, "pretrain")["runs"]
    named = [parents[place] if place >= 0 else None for place in stage["parents"]]
    assert named == [runs["parent"].get(run) for run in stage["runs"]]
    assert stage_of(data, "pretrain")["parent"] is None


def test_failed_runs_are_among_their_stage(data: dict[str, Any]) -> None:
    """With the settings that are known of them and their error, which closes no element of the page."""
    stage = stage_of(data, "transfer")
    assert stage["runs"][-2:] == ["failed-a", "failed-b"]
    assert list(stage["errors"].values()) == ["</script><b>no memory</b>", "NaN loss"]
    (freeze,) = (factor for factor in stage["factors"] if factor["name"] == "transfer.freeze")
    assert decode(freeze, len(stage["runs"]))[-2:] == ["none", None]
    assert "dataset" not in [stage["name"] for stage in data["stages"]]


def test_rows_that_are_not_finished_are_failed_runs(results: StudyResults) -> None:
    """Of a table with a column of states."""
    status = np.where(results.table["run"] == "p-10nm0", "diverged", "finished")
    data = runs_data(compare(replace(results, table=results.table.assign(status=status))), {})
    stage = stage_of(data, "pretrain")
    assert stage["errors"] == {str(stage["runs"].index("p-10nm0")): "diverged"}


def test_runs_may_be_numbers(results: StudyResults) -> None:
    """As in a table made elsewhere; scores and parents are still theirs."""
    numbers = {run: place for place, run in enumerate(results.table["run"].unique())}
    parents = results.table["parent"].map(lambda run: str(numbers.get(run, "")))
    table = results.table.assign(run=results.table["run"].map(numbers), parent=parents)
    plain = replace(results, histories=pd.DataFrame())
    expected = stage_of(runs_data(compare(plain), {}), "transfer")
    stage = stage_of(runs_data(compare(replace(plain, table=table)), {}), "transfer")
    assert stage["runs"] == [str(numbers[run]) for run in expected["runs"]]
    for part in ("scores", "factors", "parents"):
        assert stage[part] == expected[part]


def test_embedded_text_ends_no_script(results: StudyResults) -> None:
    assert "<" not in runs_json(compare(replace(results, failures=FAILURES)))


@pytest.mark.parametrize(
    ("values", "levels", "kind"),
    [
        ([1e-4, 1e-3, 1e-4], ["1e-4", "1e-3"], "numbers"),
        ([64, 512.0, np.nan], ["64", "512"], "numbers"),
        (["none", "encoder", None], ["none", "encoder"], "texts"),
        (["b", "a", "none"], ["none", "b", "a"], "texts"),
        (["+5 nm", "-10 nm", "0 nm"], ["-10 nm", "0 nm", "+5 nm"], "texts"),
        ([True, False, True], ["no", "yes"], "texts"),
        ([0.12345678, 0.12345679, 0.12345678], ["0.12345678", "0.12345679"], "numbers"),
        ([7, 7, 7], ["7"], "numbers"),
        ([np.nan, np.nan, np.nan], [], "texts"),
    ],
)
def test_dictionary_encoding_can_be_undone(values: list[Any], levels: list[str], kind: str) -> None:
    """Levels are in order, each once; a missing value is no level; a constant has no codes."""
    column = encode("x", pd.Series(values))
    assert column["levels"] == levels
    assert (column["numbers"] is not None) == (kind == "numbers")
    assert (column["codes"] is None) == (levels == ["7"])
    decoded = decode(column, len(values))
    for value, level in zip(values, decoded, strict=True):
        assert (level is None) == pd.isna(value)
        assert level is None or level in (level_label(value), str(value))
    assert len({(str(value), level) for value, level in zip(values, decoded, strict=True)}) == len(
        set(map(str, values))
    )


def test_whole_numbers_are_exact_to_the_scale() -> None:
    assert whole_numbers([0.0123456, -1.5, np.nan, np.inf], 10**6) == [12346, -1500000, None, None]


def test_curves_have_their_first_and_last_epoch(results: StudyResults, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thinned or not, values are those of the history at these epochs; the page is told how many there are."""
    epochs = pd.concat([results.histories.assign(epoch=results.histories["epoch"] + 5 * k) for k in range(20)])
    epochs = epochs.assign(validation_loss=np.random.default_rng(0).random(len(epochs)))
    long = replace(results, histories=epochs)
    comparison = compare(long)
    runs = results.table["run"].nunique()
    for points, most in ((run_filter.MAX_CURVE_VALUES, 0), (2 * runs * 9, 9)):
        monkeypatch.setattr(run_filter, "MAX_CURVE_VALUES", points)
        monkeypatch.setattr(run_filter, "MAX_POINTS", 100 if most == 0 else 60)
        stage = stage_of(runs_data(comparison, {}), "pretrain")
        curves = stage["curves"]
        assert curves["points"] == most and curves["epochs"][0][0] == 1 and curves["epochs"][0][-1] == 100
        assert len(curves["epochs"]) == 1 and len(curves["epochs"][0]) == (most or 100)
        history = epochs.set_index(["run", "epoch"])["validation_loss"]
        for run, losses in zip(stage["runs"], curves["validation"], strict=True):
            expected = [history[(run, epoch)] for epoch in curves["epochs"][0]]
            assert np.allclose(np.array(losses) / curves["scale"], expected, atol=0.5001 / curves["scale"])
    monkeypatch.setattr(run_filter, "MAX_CURVE_VALUES", 2 * runs * 7)
    assert stage_of(runs_data(comparison, {}), "pretrain")["curves"] is None


def many_runs(runs: int, domains: int, epochs: int) -> StudyResults:
    """Returns results of a study of this size, with eight scores and six factors."""
    generator = np.random.default_rng(0)
    names = [f"{place} nm" for place in range(domains)]
    keys = [f"train-{place % 256:02x}{place:014x}" for place in range(runs)]
    place = np.arange(runs)
    frame = pd.DataFrame({"study": "s", "stage": "train", "run": keys, "parent": "", "status": "finished"})
    frame = frame.assign(domain=[names[k % domains] for k in place], seed_init=place % 5, seed_draw=place // 5 % 5)
    frame["train.domain"] = frame["domain"]
    for number, name in enumerate(("optimizer.lr", "images", "width", "freeze")):
        frame[f"train.{name}"] = (place // 7**number % 7).astype(float)
    table = frame.loc[frame.index.repeat(domains)].assign(evaluated_domain=names * runs, split="test")
    scores = ("loss", "dice_mean", "iou_mean", "accuracy", "pq", "aji", "dice_a", "dice_b")
    table = table.assign(**{name: generator.random(len(table)) for name in scores})
    curves = frame[["run", "stage"]].loc[frame.index.repeat(epochs)].assign(epoch=np.tile(np.arange(epochs) + 1, runs))
    curves = curves.assign(**{f"{part}_loss": generator.random(len(curves)) for part in ("train", "validation")})
    none = pd.DataFrame()
    axes = ["train.domain", "train.optimizer.lr", "train.images", "train.width", "train.freeze"]
    return StudyResults(
        name="s", title="s", question="", command="", spec_text="", table=table, histories=curves, failures=none,
        counts={}, cost=none, stages={"train": axes}, parents={"train": None}, domains=names, examples=[],
        run_folder=lambda run: f"runs/{run[6:8]}/{run}",
    )  # fmt: skip


def test_ten_thousand_runs_are_light() -> None:
    """At most 5 MB of the page, which is to stay under 10; what does not fit is in fewer domains, or named."""
    comparison = compare(many_runs(10_000, 11, 20))
    text = runs_json(comparison)
    assert 2 * MEGABYTE < len(text) < 5 * MEGABYTE
    stage = stage_of(json.loads(text), "train")
    full = [score["name"] for score in stage["scores"] if len(score["values"]) > 1]
    assert full[:2] == ["loss", "dice_mean"] and all(len(score["values"]) in (1, 12) for score in stage["scores"])
    labels = {score["label"] for score in stage["scores"]} | set(json.loads(text)["left_out"])
    assert len(labels) == 8 and "loss" in labels
    assert [len(stage["curves"]["train"]), stage["curves"]["points"]] == [10_000, 12]
    assert len(stage["folders"]["levels"]) == 256  # the first two digits of the keys


# --- in a browser


def medians(frame: pd.DataFrame, column: str) -> tuple[str, str]:
    """Returns the median and its interval from order statistics as texts."""
    values = np.sort(frame[column].dropna().to_numpy(float))
    rank = int(binom.ppf(0.025, len(values), 0.5))
    interval = f"{format_number(values[rank - 1])} to {format_number(values[-rank])}" if rank else "–"
    return format_number(float(np.median(values))), interval


def levels_in_view(browser: Browser) -> dict[str, list[str]]:
    """Returns level -> runs, median and interval of the table of levels; "" is all of them."""
    return browser.evaluate(
        "Object.fromEntries([...document.querySelectorAll('#runs-levels tbody tr')].map((row) => "
        "[row.dataset.level, [...row.querySelectorAll('td.number')].map((cell) => cell.textContent)]))"
    )


def column_shown(browser: Browser, place: int) -> list[str]:
    return browser.evaluate(
        f"[...document.querySelectorAll('#runs-table tbody tr')].map((row) => row.cells[{place}].textContent)"
    )


def count_shown(browser: Browser) -> str:
    return browser.evaluate("document.getElementById('runs-count').textContent")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(make: Callable[..., StudyResults], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, pd.DataFrame]:
    """Returns the address of a page with two failed runs of the transfer, and its table."""
    results = make(3)
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segue.reporting.page.rendering.png_bytes", lambda figure: b"\x89PNG")
        failing = replace(results, failures=FAILURES, run_folder=lambda run: f"runs/{run}")
        write_page(failing, folder / "page.html")
    return (folder / "page.html").as_uri(), results.table


def transferred(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of the transfer's runs in their own domains."""
    return table[(table["stage"] == "transfer") & (table["domain"] == table["evaluated_domain"])]


@pytest.mark.browser
def test_a_link_shows_the_numbers_of_pandas(browser: Browser, page: tuple[str, pd.DataFrame]) -> None:
    """Count, failures, medians and intervals of a filtered view, all runs in the order of the table, no request."""
    url, runs = page[0], transferred(page[1])
    browser.open(f"{url}#runs?transfer.freeze=none&transfer.freeze=encoder&transfer.images=64&by=transfer.domain")
    chosen = runs[runs["transfer.freeze"].isin(["none", "encoder"]) & (runs["transfer.images"] == 64)]
    assert count_shown(browser) == f"{len(chosen) + 1} of {len(runs) + 2} runs, 1 of them failed"
    view = levels_in_view(browser)
    assert view.pop("")[2:] == list(medians(chosen, "loss_adjusted"))
    assert list(view) == ["-10nm", "0nm", "+10nm"]
    for domain, cells in view.items():
        part = chosen[chosen["transfer.domain"] == domain]
        of_domain = runs[runs["transfer.domain"] == domain]
        assert cells == [f"{len(part)} of {len(of_domain)}", "0", *medians(part, "loss_adjusted")]
    ordered = chosen.sort_values("loss_adjusted", kind="stable")
    assert column_shown(browser, 0) == [*ordered["run"], "failed-a"]
    assert not [one for one in browser.requests if not one.startswith(("file:", "data:"))]
    assert not [event for event in browser.events if event.get("method") == "Runtime.exceptionThrown"]


@pytest.mark.browser
def test_another_score_in_another_domain(browser: Browser, page: tuple[str, pd.DataFrame]) -> None:
    """Before transfer, tested elsewhere; a score that is better when higher begins with its highest."""
    url, table = page
    browser.open(f"{url}#runs?stage=pretrain&score=dice_mean&on=0nm&by=pretrain.domain")
    runs = table[(table["stage"] == "pretrain") & (table["evaluated_domain"] == "0nm")]
    assert count_shown(browser) == f"{len(runs)} of {len(runs)} runs"
    assert levels_in_view(browser)[""][1:] == list(medians(runs, "dice_mean"))
    dice = [format_number(value) for value in sorted(runs["dice_mean"], reverse=True)]
    assert column_shown(browser, 1) == dice


@pytest.mark.browser
def test_unknown_names_in_a_link_are_told(browser: Browser, page: tuple[str, pd.DataFrame]) -> None:
    """They filter nothing, and are not passed over in silence."""
    url, runs = page[0], transferred(page[1])
    browser.open(f"{url}#runs?transfer.freeze=head&color=blue&run=nobody")
    notice = browser.evaluate("document.getElementById('runs-notice').textContent")
    assert all(words in notice for words in ("transfer.freeze=head", "color=blue", "run=nobody"))
    assert count_shown(browser).startswith(f"{len(runs) + 2} of {len(runs) + 2} runs")


@pytest.mark.browser
def test_keys_filter_open_and_close(browser: Browser, page: tuple[str, pd.DataFrame]) -> None:
    """Space toggles a level and keeps the focus, the back button undoes it; Enter opens a run with its scores and
    commands, and its end returns to the link."""
    url, runs = page[0], transferred(page[1])
    browser.open(f"{url}#runs?")
    browser.evaluate("document.querySelector('[data-factor=\"transfer.freeze\"] input').focus()")
    browser.press(" ")
    browser.wait_for("location.hash === '#runs?transfer.freeze=none'")
    none = runs[runs["transfer.freeze"] == "none"]
    assert count_shown(browser) == f"{len(none) + 1} of {len(runs) + 2} runs, 1 of them failed"
    assert browser.evaluate("document.activeElement.value") == "none"
    browser.press("Tab", " ")
    browser.wait_for("location.hash.endsWith('=encoder')")
    both = runs[runs["transfer.freeze"].isin(["none", "encoder"])]
    assert count_shown(browser).startswith(f"{len(both) + 1} of")
    browser.evaluate("history.back()")
    browser.wait_for("location.hash === '#runs?transfer.freeze=none'")
    assert count_shown(browser).startswith(f"{len(none) + 1} of")
    assert browser.evaluate(
        "[...document.querySelectorAll('[data-factor] input:checked')].map((one) => one.value)"
    ) == ["none"]

    best = none.loc[none["loss_adjusted"].idxmin()]
    browser.evaluate("document.querySelector('#runs-table tbody a').focus()")
    browser.press("Enter")
    browser.wait_for("!document.getElementById('runs-run').hidden")
    panel = browser.evaluate("document.getElementById('runs-run').innerText")
    assert f"Run {best['run']}" in panel and f"segue inspect runs/{best['run']}" in panel
    assert browser.evaluate("document.activeElement.id") == "runs-run-heading"
    cells = browser.evaluate(
        "[...document.querySelectorAll('#runs-run [data-score=\"dice_mean\"]')].map((cell) => cell.textContent)"
    )
    assert cells[0] == format_number(best["dice_mean"]) and len(cells) == 4
    assert browser.evaluate("document.querySelectorAll('#runs-run polyline').length") == 2
    browser.press("Tab", "Enter")
    browser.wait_for("document.getElementById('runs-run').hidden")
    assert browser.evaluate("document.activeElement.textContent") == best["run"]


@pytest.mark.browser
def test_columns_sort_by_key(browser: Browser, page: tuple[str, pd.DataFrame]) -> None:
    """Enter on a head sorts, again it turns the order; the head says so and keeps the focus."""
    url, _ = page
    browser.open(f"{url}#runs?transfer.domain=0nm&transfer.freeze=none")
    place = 2 + ["pretrain.domain", "transfer.domain", "transfer.images"].index("transfer.images")
    browser.evaluate("document.querySelector('[data-sort=\"transfer.images\"]').focus()")
    for direction, order in (("ascending", 1), ("descending", -1)):
        browser.press("Enter")
        browser.wait_for(f"document.activeElement.closest('th').ariaSort === '{direction}'")
        images = [int(text) for text in column_shown(browser, place)]
        assert images == sorted(images, key=lambda one: order * one) and len(set(images)) == 2


@pytest.mark.browser
def test_printed_without_controls(browser: Browser, page: tuple[str, pd.DataFrame]) -> None:
    """On paper, words say what is selected, instead of buttons."""
    url, _ = page
    browser.open(f"{url}#runs?transfer.freeze=none")
    browser.send("Emulation.setEmulatedMedia", media="print")
    view = browser.evaluate("document.getElementById('runs').innerText")
    browser.send("Emulation.setEmulatedMedia", media="screen")
    assert "transfer; transfer: frozen part: none" in view
    assert "clear all filters" not in view and "divided by" not in view


@pytest.mark.browser
def test_the_published_models_filtered_in_chromium(browser: Browser, tmp_path: Path) -> None:
    """All 7,200: what pandas counts in the published table, and the published medians, of which 0 nm is left out."""
    published = pd.read_parquet(EXAMPLES / "data" / "published-hrtem" / "defocus.parquet")
    columns = EXAMPLES / "published-hrtem-defocus.toml"
    results = from_table(EXAMPLES / "data" / "published-hrtem" / "defocus.parquet", columns=columns)
    write_page(results, tmp_path / "defocus.html")
    assert (tmp_path / "defocus.html").stat().st_size < 4 * MEGABYTE
    url = (tmp_path / "defocus.html").as_uri()
    domains = [domain for domain in results.domains if domain != "0 nm"]
    off_focus = urlencode([("transfer.domain", domain) for domain in domains])
    published = published[published["transfer_defocus_nm"] != 0]
    published["value"] = [
        row[f"transfer_loss_at_{row['transfer_defocus_nm']:+d}"] for row in published.to_dict("records")
    ]

    browser.open(f"{url}#runs?{off_focus}&by=transfer.images")
    assert count_shown(browser) == "6,624 of 7,200 runs" and len(published) == 6624
    view = levels_in_view(browser)
    assert {level: cells[1] for level, cells in view.items() if level} == {
        "64": "0.0173", "128": "0.0161", "256": "0.0153", "512": "0.0144",
    }  # fmt: skip
    for level, part in published.groupby("transfer_images"):
        assert view[f"{level}"][1:] == list(medians(part, "value"))

    browser.open(f"{url}#runs?{off_focus}&by=transfer.freeze&transfer.images=64&pretrain.optimizer.lr=1e-3&page=2")
    part = published[(published["transfer_images"] == 64) & np.isclose(published["pretrain_lr"], 1e-3)]
    assert count_shown(browser) == f"{len(part)} of 7,200 runs"
    view = levels_in_view(browser)
    assert view[""][1:] == list(medians(part, "value"))
    for level, of_level in part.groupby("freeze"):
        assert view[str(level)][1:] == list(medians(of_level, "value"))
    ordered = [format_number(value) for value in np.sort(part["value"])]
    assert column_shown(browser, 1) == ordered[50:100]
    assert browser.evaluate("document.getElementById('runs-page').textContent") == f"51 to 100 of {len(part)}"

    run = column_shown(browser, 0)[0]
    browser.open(f"{url}#runs?run={run}")
    row = pd.read_parquet(EXAMPLES / "data" / "published-hrtem" / "defocus.parquet").iloc[int(run.rpartition("-")[2])]
    cells = browser.evaluate("[...document.querySelectorAll('#runs-run [data-score]')].map((cell) => cell.textContent)")
    names = [f"transfer_loss_at_{int(domain.removesuffix(' nm')):+d}" for domain in results.domains]
    assert cells[1:] == [format_number(row[name]) for name in names]


def write_section(results: StudyResults, out: Path) -> str:
    """Writes a page of the filters alone, and returns its address."""
    out.write_text(
        '<!doctype html><html><head><meta charset="utf-8"></head><body><main>'
        + environment().get_template("runs.html.j2").render(runs=runs_json(compare(results)))
        + "</main></body></html>"
    )
    return out.as_uri()


@pytest.mark.browser
def test_many_levels_are_a_range_or_a_list(browser: Browser, tmp_path: Path) -> None:
    """Numbers typed into a range, one end or both, and levels of a list; with hostile names and undefined scores."""
    results = many_runs(40, 2, 3)
    place = results.table["run"].str[-4:].map(lambda digits: int(digits, 16))
    names = ["constructor", "__proto__", "a&b=c", "<i>", "+5 %", "..", "é"] + [f"level {k}" for k in range(13)]
    table = results.table.assign(
        **{"train.images": 10.0 * (place % 20), "train.freeze": [names[k % 20] for k in place]}
    )
    table.loc[place == 3, "loss"] = np.nan
    browser.open(write_section(replace(results, table=table), tmp_path / "page.html"))
    browser.evaluate("document.querySelector('[data-factor=\"train.images\"] input').focus()")
    browser.send("Input.insertText", text="150")
    browser.press("Tab")
    browser.wait_for("location.hash === '#runs?train.images=150..'")
    assert count_shown(browser) == "10 of 40 runs"
    browser.send("Input.insertText", text="160")
    browser.press("Tab")
    browser.wait_for("location.hash === '#runs?train.images=150..160'")
    assert count_shown(browser) == "4 of 40 runs"
    for name in names:
        browser.open(f"{(tmp_path / 'page.html').as_uri()}#runs?{urlencode({'train.freeze': name})}")
        assert count_shown(browser) == "2 of 40 runs"
        chosen = "[...document.querySelectorAll('[data-factor] option:checked')].map((one) => one.value)"
        assert browser.evaluate(chosen) == [name]
    browser.open(f"{(tmp_path / 'page.html').as_uri()}#runs?train.images=a..b&sort=-train.images")
    assert "train.images=a..b" in browser.evaluate("document.getElementById('runs-notice').textContent")
    images = [int(text) for text in column_shown(browser, 4)]
    assert images == sorted(images, reverse=True)
    browser.open(f"{(tmp_path / 'page.html').as_uri()}#runs?")
    losses = column_shown(browser, 1)
    assert losses[-1] == "–" and losses[:-1] == sorted(losses[:-1])


@pytest.mark.browser
def test_only_failed_runs(browser: Browser, results: StudyResults, tmp_path: Path) -> None:
    """There is no score, and no error of the script: the runs and why they failed are there."""
    none = pd.DataFrame()
    failed = replace(results, table=none, histories=none, failures=FAILURES, examples=[])
    browser.open(f"{write_section(failed, tmp_path / 'page.html')}#runs?run=failed-a")
    assert count_shown(browser) == "2 of 2 runs, 2 of them failed"
    assert "</script><b>no memory</b>" in browser.evaluate("document.getElementById('runs-run').innerText")
    assert not [event for event in browser.events if event.get("method") == "Runtime.exceptionThrown"]
