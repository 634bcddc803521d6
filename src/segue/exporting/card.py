"""The card of an exported model: that of the run, or one made of what the run recorded."""

from __future__ import annotations

from pathlib import Path

from segue.exporting.network import main_target
from segue.training.run_folder import RunFolder, TrainedModel
from segue.zoo.shipped import CARD

SCORES = ("ap_mean", "iou_mean", "accuracy", "loss")  # on validation images, if the run has them


def card_text(model: TrainedModel, card: Path | None = None) -> str:
    """Returns a card as Markdown: the file `card`, else card.md of the run, else one of the run's facts."""
    file = model.folder / CARD if card is None else card
    return file.read_text(encoding="utf-8") if card is not None or file.is_file() else card_of_facts(model)


def card_of_facts(model: TrainedModel) -> str:
    """Returns a card of what the run recorded: network, data, scores on validation images, license."""
    run, stage = RunFolder(model.folder), model.spec
    metrics, target = run.read(run.metrics), main_target(model.target)
    labels, scores = metrics["labels"], metrics["scores"]
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    size = "not known" if model.pixel_size_nm is None else f"{model.pixel_size_nm:g} nm"
    names = ", ".join(target.names) or "none"
    known = [(name, scores.get(f"validation_{name}")) for name in SCORES]
    decoding = metrics["decoding"] or {"metric": "", "value": None}
    if decoding["value"] is not None and decoding["metric"] not in SCORES:
        known.insert(0, (decoding["metric"], decoding["value"]))
    lines = [
        f"# {model.folder.name}",
        "",
        f"A network ({stage.network.name}, {parameters:,} parameters) that predicts {stage.target.name} of: {names}.",
        "",
        "## Data",
        "",
        f"- {labels['train']} labeled {labels['unit']} trained on, {labels['validation']} validated with",
        f"- channels: {', '.join(model.channels)}; pixel size: {size}",
        f"- license of the images: {'; '.join(model.licenses) or 'none is stated'}",
        "",
        "## Validation",
        "",
        "Scores on the validation images, by which the epoch was selected:",
        "",
        *(f"- {name.replace('_', ' ')}: {value:.4g}" for name, value in known if value is not None),
        "",
    ]
    return "\n".join(lines)


def title_of(card: str) -> str:
    """Returns the first heading of a card, "" without one."""
    return next((line.lstrip("# ").strip() for line in card.splitlines() if line.startswith("#")), "")


def summary_of(card: str) -> str:
    """Returns the first line of text of a card, "" without one."""
    lines = (line.strip().removeprefix("- ") for line in card.splitlines())
    return next((line for line in lines if line and not line.startswith(("#", "|", "!"))), "")
