"""One stage from its specification to a run folder, and a finished run back to a model.

    spec.json             what was asked, resolved, and what the network takes and gives
    groups.json           groups trained on (by ancestors too) and validated with
    weights.safetensors   of the selected epoch; last.safetensors where that is not the last
    epochs/, film/        weights of every epoch, and what they predict for some images, where they were asked for
    history.parquet       a row per epoch
    metrics.json          selected epoch, its validation scores, labels spent, parameters
    timing.json           seconds, rates, interruptions    } apart from results, since they
    environment.json      versions and machine             } differ from run to run

While it runs the folder is called `<name>.running` and holds `state/`; it is renamed when all is written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from segue import networks, rng
from segue.errors import SegueError
from segue.targets import registry as targets
from segue.targets.specs import ClassesSpec, ImageClassSpec
from segue.targets.target import Target
from segue.training import checkpoint
from segue.training.freezing import load_parts
from segue.training.loop import Outcome
from segue.training.spec import StageSpec


@dataclass(frozen=True)
class Model:
    """A trained network with what is needed to use it: its target, channels, normalisation and input divisor.

    decoding: the target's decode parameters, tuned on validation images where there were any.
    """

    network: nn.Module
    target: Target
    spec: StageSpec
    channels: tuple[str, ...]
    folder: Path
    decoding: Mapping[str, float]

    @property
    def divisor(self) -> int:
        return networks.divisor(self.spec.network)


def is_finished(folder: Path) -> bool:
    return (folder / "metrics.json").is_file()


def working_folder(folder: Path) -> Path:
    """Returns where an unfinished run of `folder` lies."""
    return folder.with_name(folder.name + ".running")


def weights_file(run: Path, which: str) -> Path:
    """Returns the file with the selected ("best") or the last weights of a finished run."""
    if not is_finished(run):
        raise SegueError(f"{run}: is no finished run (no metrics.json); finish it, or give another run.")
    last = run / "last.safetensors"
    kept = last if which == "last" and last.exists() else run / "weights.safetensors"
    if not kept.exists():
        raise SegueError(f'{run}: its weights were not kept (keep = "metrics"); train it again with keep = "weights".')
    return kept


def epoch_files(run: Path) -> dict[int, Path]:
    """Returns the files with the weights of every epoch of a finished run, in order; raises SegueError without any."""
    if not is_finished(run):
        raise SegueError(f"{run}: is no finished run (no metrics.json); finish it, or give another run.")
    found = {int(file.stem): file for file in (run / "epochs").glob("*.safetensors") if file.stem.isdigit()}
    if not found:
        raise SegueError(
            f"{run}: the weights of its epochs were not kept; write keep_epochs = true in its stage (of a study, too, "
            'then with keep = "weights") and train it again.'
        )
    return {epoch: found[epoch] for epoch in sorted(found)}


def load_run(folder: Path | str) -> Model:
    """Returns the model of a finished run, on the CPU and in evaluation mode. Nothing in the folder is executed."""
    folder = Path(folder)
    file = weights_file(folder, "best")
    described = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    try:
        spec, kind = StageSpec.model_validate(described["stage"]), described["model"]
    except (ValidationError, KeyError) as error:
        raise SegueError(
            f"{folder}: was made by another version of segue, whose specification this one cannot read; train it again."
        ) from error
    found = kind["class_weights"]  # as they followed from the training samples
    asked = spec.target
    if isinstance(asked, ClassesSpec | ImageClassSpec):
        asked = asked.model_copy(update={"class_weights": None if found is None else tuple(found)})
    target = targets.build(
        asked, names=kind["names"], instances=kind["instances"], where=str(folder), channels=len(kind["channels"])
    )
    with rng.scope("unused"):
        network = networks.build(spec.network, channels=len(kind["channels"]), classes=target.channels)
    load_parts(network, checkpoint.load_weights(file), None, where=str(file))
    network.eval().to(memory_format=torch.channels_last)
    tuned = json.loads((folder / "metrics.json").read_text(encoding="utf-8")).get("decoding") or {}
    return Model(network, target, spec, tuple(kind["channels"]), folder, tuned.get("parameters", target.parameters))


def recorded_key(folder: Path) -> str | None:
    try:
        return json.loads((folder / "spec.json").read_text(encoding="utf-8"))["key"]
    except (OSError, ValueError, KeyError):
        return None


def _write_history(history: list[dict[str, float]], path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    # one NaN of the several that float64 has: a row that has been in a checkpoint has another than a computed one
    rows = [{name: math.nan if math.isnan(value) else value for name, value in row.items()} for row in history]
    parquet.write_table(pa.Table.from_pylist([{**row, "epoch": int(row["epoch"])} for row in rows]), path)


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def write_run(working: Path, spec: StageSpec, outcome: Outcome, *, told: Mapping[str, Any]) -> None:
    """Writes what a training yielded into its working folder.

    told: the further entries of metrics.json.
    """
    checkpoint.save_weights(outcome.selected, working / "weights.safetensors")
    (working / "last.safetensors").unlink(missing_ok=True)
    if outcome.selected_epoch != len(outcome.history):
        checkpoint.save_weights(outcome.last, working / "last.safetensors")
    _write_history(outcome.history, working / "history.parquet")
    row = outcome.history[outcome.selected_epoch - 1]
    metrics = {
        "selected_epoch": outcome.selected_epoch,
        "selected_by": spec.monitor.replace("_", " ") if spec.selects_best else "last epoch",
        "epochs": len(outcome.history),
        "stopped_early": len(outcome.history) < spec.epochs,
        "scores": {name: value for name, value in row.items() if name not in ("epoch", "lr", "lr_max")},
        "threads": spec.threads,
        **told,
    }
    write_json(working / "metrics.json", metrics)
