"""Units of length and time, by the names that image metadata use."""

from __future__ import annotations

NM_PER_UNIT = {
    **dict.fromkeys(("pm", "picometer"), 1e-3),
    **dict.fromkeys(("å", "angstrom"), 0.1),
    **dict.fromkeys(("nm", "nanometer"), 1),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer"), 1e3),
    **dict.fromkeys(("mm", "millimeter"), 1e6),
    **dict.fromkeys(("cm", "centimeter"), 1e7),
    **dict.fromkeys(("m", "meter"), 1e9),
    "inch": 2.54e7,
}
UM_PER_UNIT = {unit: length_nm / 1000 for unit, length_nm in NM_PER_UNIT.items()}
H_PER_UNIT = {
    "ns": 1e-9 / 3600, "µs": 1e-6 / 3600, "μs": 1e-6 / 3600, "ms": 1e-3 / 3600, "s": 1 / 3600, "min": 1 / 60, "h": 1.0,
    "d": 24.0, "nanosecond": 1e-9 / 3600, "microsecond": 1e-6 / 3600, "millisecond": 1e-3 / 3600, "second": 1 / 3600,
    "minute": 1 / 60, "hour": 1.0, "day": 24.0,
}  # fmt: skip
