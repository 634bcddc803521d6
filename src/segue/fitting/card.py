"""The model card: what a model is, what it was trained on, how good it is on held-out images, what it is not for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def card_text(result: Mapping[str, Any]) -> str:
    """Returns the card as Markdown, from the content of fit.json."""
    seen = result["seen"]
    lines = [f"# {result['name']}", "", *(f"- {line}" for line in result["answer"]), ""]
    lines += [
        "## Held-out scores",
        "",
        "| candidate | validation | held-out images | 95 % interval |",
        "|---|---|---|---|",
    ]
    for row in result["candidates"]:
        test = row["test"]
        interval = "–" if test["low"] is None else f"{test['low']:.3f} to {test['high']:.3f}"
        mark = " (this model)" if row["name"] == result["chosen"] else ""
        lines.append(f"| {row['name']}{mark} | {row['validation']:.3f} | {test['mean']:.3f} | {interval} |")
    lines += [
        "",
        f"Score: {result['score_meaning']}. Intervals are over held-out images, clustered by group. "
        f"{result['tested_by']}".rstrip(),
        "",
        "## Data",
        "",
        *(f"- {line}" for line in seen),
        f"- license of the images: {result['data_license']}",
        "",
        "## Origin",
        "",
        *(f"- started from {parent['name']}, license: {parent['license']}" for parent in result["started_from"]),
        *([] if result["started_from"] else ["- started from random weights"]),
        f"- license of this model: {result['license']}",
        "",
        "## Not trained for",
        "",
        f"- images other than those above: other channels than {result['channels']}, other pixel or object sizes, "
        "other contrast or staining. `segue predict` tells where an image lies outside.",
        f"- other classes than {', '.join(result['classes'])}",
        "",
    ]
    return "\n".join(lines)
