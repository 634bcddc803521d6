"""Units of length and time as image metadata write them, and what counts as the size of a microscope's pixel.

Every reader of files uses `length_nm`, `pixel_size_nm` or `square_pixel_nm`, so that a unit means the same everywhere.
"""

from __future__ import annotations

import html
import math
import re
import statistics
import unicodedata
from collections.abc import Sequence

MIN_PIXEL_NM = 1e-3  # 1 pm: an atomically resolved micrograph has some 10 pm
MAX_PIXEL_NM = 1e5  # 0.1 mm: a stereo microscope has some 10 µm, a scanner at 300 dpi 85 µm, a screen 265 µm
SQUARE_TOLERANCE = 0.01  # relative, of width and height
ROUNDING = 1e-5  # relative, between a size and what a file states as a ratio, or as inches
MAX_SIZE_FACTOR = 1.25  # between pixel sizes that count as one: of images that are trained on together, say

# SI prefixes: symbol, word, factor. Symbols are compared with their case first: Mm is a megameter.
_PREFIXES = (
    ("", "", 1.0), ("k", "kilo", 1e3), ("M", "mega", 1e6), ("G", "giga", 1e9), ("d", "deci", 1e-1),
    ("c", "centi", 1e-2), ("m", "milli", 1e-3), ("μ", "micro", 1e-6), ("u", "micro", 1e-6), ("n", "nano", 1e-9),
    ("p", "pico", 1e-12), ("P", "peta", 1e15), ("f", "femto", 1e-15), ("a", "atto", 1e-18),
)  # fmt: skip
_NM_PER_SYMBOL = {f"{symbol}m": factor * 1e9 for symbol, _, factor in _PREFIXES}
_NM_PER_WORD = {
    **{f"{word}{meter}": factor * 1e9 for _, word, factor in _PREFIXES for meter in ("meter", "metre")},
    **dict.fromkeys(("micron", "μ"), 1e3),
    **dict.fromkeys(("å", "angstrom", "angström", "ångstrom", "ångström"), 0.1),
}
_H_PER_SYMBOL = {f"{symbol}s": factor / 3600 for symbol, _, factor in _PREFIXES} | {"min": 1 / 60, "h": 1.0, "d": 24.0}
_H_PER_WORD = {
    **{f"{word}{second}": factor / 3600 for _, word, factor in _PREFIXES for second in ("second", "sec")},
    **dict.fromkeys(("minute", "min"), 1 / 60),
    **dict.fromkeys(("hour", "hr"), 1.0),
    "day": 24.0,
}


def length_nm(value: object, unit: object) -> float | None:
    """Returns a length in nm, or None if value is no finite number or unit no known unit of length.

    value: a number or its text. unit: as metadata write it, in any case (but Mm is no mm), with µ (U+00B5), μ (U+03BC)
    or u, escaped (\\u00B5m, &micro;m), in the plural, British or American, with Å as one or two characters, also
    followed by "/px" or "per pixel". Inches, pixels and reference frames are unknown: no microscope measures in them.
    """
    return _scaled(value, unit, _NM_PER_SYMBOL, _NM_PER_WORD)


def time_h(value: object, unit: object) -> float | None:
    """Returns a time in hours, or None if value is no finite number or unit no known unit of time."""
    return _scaled(value, unit, _H_PER_SYMBOL, _H_PER_WORD)


def pixel_size_nm(value: object, unit: object) -> float | None:
    """Returns the size of a microscope's pixel in nm, or None if it is not known.

    Not known are unknown units, what is no number, and what no microscope's pixel measures: zero, negative numbers, and
    sizes below `MIN_PIXEL_NM` (1 pm) or above `MAX_PIXEL_NM` (0.1 mm), which are defaults of programs or resolutions of
    prints.
    """
    size = length_nm(value, unit)
    return size if size is not None and MIN_PIXEL_NM * (1 - 1e-9) <= size <= MAX_PIXEL_NM * (1 + 1e-9) else None


def common_size_nm(sizes_nm: Sequence[float]) -> float | None:
    """Returns the size that all have but for rounding, the most frequent; None if they differ, or without any."""
    if not sizes_nm or max(sizes_nm) > (1 + ROUNDING) * min(sizes_nm):
        return None
    return statistics.mode(sizes_nm)


def size_range(sizes_nm: Sequence[float]) -> str:
    """Returns known sizes as text: "650 nm" if they are one but for rounding, else "650 to 1300 nm"."""
    size_nm = common_size_nm(sizes_nm)
    return f"{min(sizes_nm):g} to {max(sizes_nm):g} nm" if size_nm is None else f"{size_nm:g} nm"


def square_pixel_nm(width_nm: float | None, height_nm: float | None) -> tuple[float | None, tuple[str, ...]]:
    """Returns the size of a pixel of known width and height in nm, and notes; (None, a note) if it is not square."""
    if width_nm is None or height_nm is None:
        return None, ()
    if abs(width_nm - height_nm) > SQUARE_TOLERANCE * max(width_nm, height_nm):
        note = f"its metadata give pixels of {width_nm:g} × {height_nm:g} nm, which are not square"
        return None, (f"{note}: the pixel size is not known",)
    return width_nm, ()


def ratio(value: object) -> float | None:
    """Returns numerator / denominator of a TIFF or EXIF rational, None for a zero or missing denominator."""
    try:
        numerator, denominator = value  # pyright: ignore[reportGeneralTypeIssues]  whatever the file holds
        quotient = float(numerator) / float(denominator)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return quotient if math.isfinite(quotient) else None


def _scaled(value: object, unit: object, symbols: dict[str, float], words: dict[str, float]) -> float | None:
    try:
        number = float(value)  # pyright: ignore[reportArgumentType]  whatever the file holds
    except (TypeError, ValueError, OverflowError):
        return None
    text = _plain(unit)
    word = text.lower()
    singular = word.removesuffix("s") if len(word) > 3 else word  # not "ms"
    factor = symbols.get(text, words.get(word, words.get(singular, symbols.get(word))))
    return number * factor if factor is not None and math.isfinite(number * factor) else None


def _plain(unit: object) -> str:
    """Returns the text of a unit without escapes, brackets, "/px" and spaces, with μ (U+03BC) for every micro sign."""
    text = unit.decode("latin-1") if isinstance(unit, bytes) else str(unit)
    text = re.sub(r"\\(?:u00|x)([0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), text)
    text = unicodedata.normalize("NFKC", html.unescape(text)).replace("Âμ", "μ").strip("\0 \t\r\n\"'[]()")
    return re.sub(r"\s*(/|\bper\b)\s*(px|pixels?)$", "", text).replace(" ", "")
