"""Units of length, by the names that image metadata use."""

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
