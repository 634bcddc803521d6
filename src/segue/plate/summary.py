"""What was done to a plate in a few words, and its seams as a table: from the reports of its wells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

Reports = Mapping[str, Mapping[str, Mapping[str, Any]]]  # well, time -> report of `segue.plate.well`
SHOWN_NOTES = 10


def seam_rows(wells: Reports) -> Iterator[dict[str, Any]]:
    """Yields a row for each well and time: well, time, tiles placed, of how many fields, measured pairs, those
    repaired, the median and largest residual in px ("" where none is), and the flags of fields.
    """
    for well, times in wells.items():
        for name, told in sorted(times.items()):
            seams = told["seams"]
            residual = seams["residual_px"]
            yield {
                "well": well,
                "time": int(name.removeprefix("t")),
                "tiles": len(told["positions"]) - len(seams["missing"]),
                "fields": len(told["positions"]),
                "pairs": seams.get("pairs", ""),
                "repaired": len(seams["repaired"]),
                "unplaced": len(seams["unplaced"]),
                "median_residual_px": _rounded(residual["median"]),
                "largest_residual_px": _rounded(residual["largest"]),
                "flags": "; ".join(f"({cell}) {', '.join(flags)}" for cell, flags in sorted(told["flags"].items())),
            }


def summary(report: Mapping[str, Any]) -> list[str]:
    """Returns lines that say which fields were left out, missing or only marked, how the seams are, and the notes."""
    wells: Reports = report["wells"]
    out, marked = Counter(), Counter()
    fields = left_out = missing = 0
    for times in wells.values():
        for told in times.values():
            gone = {",".join(map(str, cell)) for cell in told["seams"]["missing"]}
            fields += len(told["positions"])
            left_out += len(gone & set(told["flags"]))
            missing += len(gone - set(told["flags"]))
            for cell, flags in told["flags"].items():
                kinds = {flag.rpartition(": ")[2] for flag in flags}
                (out if cell in gone else marked).update("out of focus" if k == "defocused" else k for k in kinds)
    rows = list(seam_rows(wells))
    measured = [row for row in rows if row["largest_residual_px"] != ""]
    lines = [
        f"of {fields} fields: {left_out} left out{_counted(out)}, {missing} missing"
        + (f", marked only{_counted(marked)}" if marked else "")
    ]
    repaired, pairs = sum(row["repaired"] for row in rows), sum(row["pairs"] or 0 for row in rows)
    unplaced = sum(row["unplaced"] for row in rows)
    if measured:
        worst = max(measured, key=lambda row: row["largest_residual_px"])
        lines.append(
            f"of {pairs} pairs of neighbours: {repaired} repaired; worst residual "
            f"{worst['largest_residual_px']:.2f} px ({worst['well']}, time {worst['time']})"
            + (f"; {unplaced} fields could not be placed" if unplaced else "")
        )
    notes = list(report.get("notes", ()))
    lines += [f"note: {note}" for note in notes[:SHOWN_NOTES]]
    return lines + ([f"… and {len(notes) - SHOWN_NOTES} more notes"] if len(notes) > SHOWN_NOTES else [])


def _counted(kinds: Counter[str]) -> str:
    return f" ({', '.join(f'{kind} {count}' for kind, count in sorted(kinds.items()))})" if kinds else ""


def _rounded(value: float | None) -> float | str:
    return "" if value is None else round(value, 4)
