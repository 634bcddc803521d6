"""Durations and sizes in words, the same in every message."""

from __future__ import annotations


def format_duration(seconds: float) -> str:
    """Returns "45 s", "3 min 20 s" or "2 h 05 min".

    >>> format_duration(200)
    '3 min 20 s'
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_bytes(count: float) -> str:
    """Returns a number of bytes in the decimal unit that fits: "12 kB", "3.4 MB", "120 GB".

    >>> format_bytes(3_400_000)
    '3.4 MB'
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit in ("B", "kB") or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
