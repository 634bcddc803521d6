"""The model card: what a model is, what it was trained on, how good it is on held-out images, what it is not for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any


def card_text(result: Mapping[str, Any]) -> str:
    """Returns the card as Markdown, from the content of fit.json."""
    origins, is_untouched = result["started_from"], result["untouched"]
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
        "## Images that models were compared on" if is_untouched else "## Data",
        "",
        *(f"- {line}" for line in result["seen"]),
        f"- license of the images: {result['data_license']}",
        "",
        "## Origin",
        "",
        *(
            f"- {'is' if is_untouched else 'started from'} {parent['name']}, license: {parent['license']}"
            for parent in origins
        ),
        *([] if origins else ["- started from random weights"]),
        f"- license of this model: {result['license']}",
    ]
    if is_untouched:
        lines += ["- its weights are unchanged: it was not trained on the images above for this comparison"]
    else:
        lines += [
            "",
            "## Not trained for",
            "",
            f"- images other than those above: other channels than {result['channels']}, other pixel or object sizes, "
            "other contrast or staining. `segue predict` tells where an image lies outside.",
            f"- other classes than {', '.join(result['classes'])}",
        ]
    for parent in origins:
        if parent["card"]:  # its headings one level below those of this card
            lines += ["", f"## Card of {parent['name']}", "", re.sub(r"(?m)^#", "###", parent["card"]).strip()]
    return "\n".join([*lines, ""])
