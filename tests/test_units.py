"""Units of metadata: one table for all readers, and what is no size of a microscope's pixel."""

from __future__ import annotations

import math

import pytest

from segue.units import common_size_nm, length_nm, pixel_size_nm, ratio, size_range, square_pixel_nm, time_h

MICROMETERS = (
    "um", "UM", "µm", "μm", "\\u00b5m", "\\u00B5m", "\\xb5m", "&micro;m", "Âµm", "micron", "Microns", "micrometer",
    "micrometers", "Micrometre", "micrometres", " µm ", "[um]", "um/px", "µm per pixel", b"\xb5m",
)  # fmt: skip


@pytest.mark.parametrize("unit", MICROMETERS)
def test_micrometers_in_all_spellings(unit: object) -> None:
    """Case, the two micro signs, u, escapes, words, plurals and spellings are one unit."""
    assert length_nm("0.65", unit) == pytest.approx(650)


@pytest.mark.parametrize(
    ("unit", "nm"),
    [
        ("pm", 1e-3), ("Picometer", 1e-3), ("Å", 0.1), ("\u212b", 0.1), ("A\u030a", 0.1), ("angstroms", 0.1),
        ("Ångström", 0.1), ("nm", 1), ("NM", 1), ("nanometre", 1), ("mm", 1e6), ("MM", 1e6), ("Mm", 1e15),
        ("cm", 1e7), ("m", 1e9), ("metres", 1e9), ("km", 1e12),
    ],
)  # fmt: skip
def test_lengths(unit: str, nm: float) -> None:
    """Symbols keep their case where it has a meaning; words do not."""
    assert length_nm(1, unit) == pytest.approx(nm)


@pytest.mark.parametrize("unit", ["inch", "in", "pixel", "px", "reference frame", "A", "s", "", None, "thou", "?m"])
def test_unknown_units(unit: str | None) -> None:
    """Inches, pixels and reference frames are no units of a microscope; a lone A may be ampere."""
    assert length_nm(1, unit) is None


@pytest.mark.parametrize(
    ("value", "unit"),
    [(0, "um"), (-0.5, "um"), (math.nan, "um"), (math.inf, "nm"), ("", "um"), (None, "um"), ("0,65 x", "um"),
     (1, "m"), (1, "mm"), (0.3, "mm"), (1e-4, "nm"), (1, "pixel")],
)  # fmt: skip
def test_no_pixel_size(value: object, unit: str) -> None:
    """Zero, negative and no numbers, and sizes outside 1 pm to 0.1 mm, are not known."""
    assert pixel_size_nm(value, unit) is None


def test_pixel_sizes_at_the_limits() -> None:
    """1 pm and 0.1 mm still are."""
    assert pixel_size_nm(1, "pm") == pytest.approx(1e-3)
    assert pixel_size_nm(0.1, "mm") == pytest.approx(1e5)


def test_times() -> None:
    """Symbols, words and plurals of time."""
    for unit in ("s", "seconds", "sec"):
        assert time_h(3600, unit) == pytest.approx(1)
    assert time_h(60, "min") == time_h(60, "Minutes") == pytest.approx(1)
    assert time_h(1, "h") == time_h(1, "hours") == 1
    assert time_h(3.6e6, "ms") == pytest.approx(1)
    assert time_h(1, "um") is None


def test_rationals() -> None:
    """A zero denominator is no number."""
    assert ratio((1, 4)) == 0.25
    assert ratio((1, 0)) is None
    assert ratio(None) is None


def test_pixels_that_are_not_square() -> None:
    """Sides that differ by more than one per cent are not known, and told."""
    assert square_pixel_nm(100, 100.9) == (100, ())
    size, notes = square_pixel_nm(100, 50)
    assert size is None
    assert "100 × 50 nm, which are not square" in notes[0]
    assert square_pixel_nm(100, None) == (None, ())


@pytest.mark.parametrize(
    ("sizes_nm", "common", "text"),
    [
        ([650.0], 650.0, "650 nm"),
        ([649.9999999999999, 650.0, 650.0], 650.0, "650 nm"),
        ([650.0, 650.01], None, "650 to 650.01 nm"),
        ([0.05, 0.0500001], 0.05, "0.05 nm"),
        ([62.5, 125.0], None, "62.5 to 125 nm"),
    ],
)
def test_sizes_that_are_one_but_for_rounding(sizes_nm: list[float], common: float | None, text: str) -> None:
    """Sizes that differ by the rounding of a ratio are the most frequent one; others are a range."""
    assert common_size_nm(sizes_nm) == common and size_range(sizes_nm) == text
