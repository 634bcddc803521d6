"""Curves of counts over time, per well and per treatment, and their page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from segue import rng
from segue.errors import SegueError
from segue.plates.counting.nuclei import fractions, poisson_interval, wilson_interval
from segue.plates.counting.truth import agreement, headline
from segue.reporting.figures.predictions.wells import BANDS, by_condition, counts_figure
from segue.reporting.figures.style import write_figure
from segue.reporting.page.counts import write_counts_page


def made_table(wells: int) -> pd.DataFrame:
    """Returns counts of wells at five times, half of them treated; three quarters are held out, a third is stained."""
    generator = rng.numpy_generator("curves", wells)
    rows = []
    for well in range(wells):
        treated = well % 2 == 1
        for time in range(5):
            share = 0.05 + (0.7 * time / 4 if treated else 0.02 * time)
            true = {"live": round(300 * (1 - share)), "dead": round(300 * share)}
            counts = {name: int(generator.poisson(value)) for name, value in true.items()}
            for name, count in counts.items():
                low, high = poisson_interval(count)
                share_low, share_high = wilson_interval(count, sum(counts.values()))
                rows.append(
                    {
                        "plate": f"P{well // 12 + 1}", "well": f"{'AB'[well % 12 // 6]}{well % 6 + 1}",
                        "treatment": "treated" if treated else "control", "time": time, "time_h": 4.0 * time,
                        "part": ("train", "test", "unseen", "unseen")[well % 4], "class": name, "count": count,
                        "count_low": low, "count_high": high, "fraction": fractions(counts)[name],
                        "fraction_low": share_low, "fraction_high": share_high, "density_per_mm2": 2.0 * count,
                        "known_count": float(true[name]), "known_fraction": fractions(true)[name],
                        "stain_count": float(true[name]) if well % 4 < 2 else np.nan,
                        "stain_fraction": fractions(true)[name] if well % 4 < 2 else np.nan,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def test_medians_of_a_treatment_are_of_held_out_wells():
    """Medians and truths equal those computed by hand, intervals hold them, and wells trained on are left out."""
    table = made_table(12)
    result = by_condition(table, "treatment", value="fraction")
    stored = table[table["part"] != "train"]
    assert list(result["class"].unique()) == ["live", "dead"]
    for row in result.itertuples():
        part_rows = stored[
            (stored["treatment"] == row.treatment) & (stored["time"] == row.time) & (stored["class"] == row._4)
        ]
        assert row.wells == len(part_rows) and row.median == part_rows["fraction"].median()
        assert row.true_median == part_rows["known_fraction"].median() and row.low <= row.median <= row.high
    with pytest.raises(SegueError, match="'dose'"):
        by_condition(table, "dose")


def test_few_wells_have_a_panel_each_and_many_are_shown_by_treatment():
    """Seven wells make seven panels, those trained on marked; thirty make two, one per treatment."""
    few = counts_figure(made_table(7), conditions=["treatment"])
    assert sum(axes.get_visible() for axes in few.figure.axes) == 7
    assert "used in training or validation" in few.caption and "known truth and from the stains" in few.caption
    many = counts_figure(made_table(30), conditions=["treatment"])
    assert [axes.get_title("left") for axes in many.figure.axes if axes.get_visible()] == ["control", "treated"]
    assert "Left out: 8 wells" in many.caption
    with pytest.raises(SegueError, match="'counts'"):
        counts_figure(made_table(1), value="counts")


@pytest.mark.parametrize("value", ["count", "fraction", "density_per_mm2"])
def test_every_value_has_a_figure(tmp_path: Path, value: str):
    """Each value is drawn and written by the extension of its file; another extension is refused;
    the legend says that bands are counting noise."""
    figure = counts_figure(made_table(1), value=value).figure
    output = [text.get_text() for text in figure.legends[0].get_texts()]
    assert (BANDS.get(value, "95 %") in output) == (value in BANDS)
    assert all("counting noise only" in words for words in BANDS.values())
    assert write_figure(figure, tmp_path / "counts.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(SegueError, match="give one of these extensions"):
        write_figure(figure, tmp_path / "counts.bmp")


def test_the_page_holds_everything(tmp_path: Path):
    """Headline, notes, curves and errors stand in one file, which names no other."""
    table = made_table(8)
    errors = agreement(table)
    drawings = [counts_figure(table, conditions=["treatment"])]
    notes = [headline(errors), "densities are <not> known"]
    page = write_counts_page(drawings, errors, tmp_path / "counts.html", title="Counts", notes=notes).read_text("utf-8")
    assert "6 held-out wells (30 images)" in page and "&lt;not&gt;" in page and page.count("<svg") == 1
    assert page.index("held out") < page.index("<td>train</td>") and "http" not in page.split("<svg")[0]
