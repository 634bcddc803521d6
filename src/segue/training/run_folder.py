"""The folder of a run: the name of every file in it, and a finished run loaded as a model. Cheap to import: no torch.

    spec.json             the resolved specification, and what the network takes and gives
    groups.json           groups trained on (by ancestors too) and validated with
    weights.safetensors   of the selected epoch; last.safetensors if that is not the last
    epochs/, film/        weights of every epoch, and predictions of some images per epoch, if asked for
    tensorboard/          scalars, if asked for
    history.parquet       a row per epoch
    metrics.json          selected epoch, its validation scores, labels spent, parameters; written last
    timing.json           seconds, rates, interruptions    } apart from results, since they
    environment.json      versions and machine             } differ from run to run
    evaluations/          scores on domains, of a study

While a training is unfinished, the folder is called `<name>.running` and has its checkpoints in `state/`; it is renamed
when all is written. The lock `<name>.lock` next to it is held by the process that trains.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from segue import networks, rng
from segue.errors import SegueError
from segue.inference.model import Model
from segue.training.freezing import load_parts
from segue.training.spec import StageSpec


@dataclass(frozen=True)
class RunFolder:
    """The paths in the folder of a run, finished or not; files are read only on request."""

    path: Path

    @property
    def working(self) -> RunFolder:
        """The folder of this run while it is unfinished."""
        return RunFolder(self.path.with_name(f"{self.path.name}.running"))

    @property
    def lock(self) -> Path:
        return self.path.with_name(f"{self.path.name}.lock")

    @property
    def spec(self) -> Path:
        return self.path / "spec.json"

    @property
    def groups(self) -> Path:
        return self.path / "groups.json"

    @property
    def weights(self) -> Path:
        """The weights of the selected epoch."""
        return self.path / "weights.safetensors"

    @property
    def last_weights(self) -> Path:
        """The weights of the last epoch; missing if that is the selected one."""
        return self.path / "last.safetensors"

    @property
    def epochs(self) -> Path:
        return self.path / "epochs"

    def epoch_weights(self, epoch: int) -> Path:
        """The weights of an epoch (from 1)."""
        return self.epochs / f"{epoch}.safetensors"

    @property
    def film(self) -> Path:
        return self.path / "film"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def history(self) -> Path:
        return self.path / "history.parquet"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.json"

    @property
    def timing(self) -> Path:
        return self.path / "timing.json"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def evaluations(self) -> Path:
        return self.path / "evaluations"

    @property
    def state(self) -> Path:
        """The checkpoints of an unfinished run."""
        return self.path / "state"

    @property
    def is_finished(self) -> bool:
        return self.metrics.is_file()

    @property
    def key(self) -> str | None:
        """The key of the training, None where the folder does not record it."""
        try:
            return self.read(self.spec)["key"]
        except (OSError, ValueError, KeyError):
            return None

    def read(self, file: Path) -> Any:
        """Returns the content of one of the JSON files of this folder; raises OSError or ValueError without it."""
        return json.loads(file.read_text(encoding="utf-8"))

    def require_finished(self) -> None:
        if not self.is_finished:
            raise SegueError(f"{self.path}: is not a finished run (no metrics.json); finish it, or give another run.")

    def weights_file(self, which: str) -> Path:
        """Returns the file with the selected ("best") or the last weights of a finished run."""
        self.require_finished()
        file = self.last_weights if which == "last" and self.last_weights.exists() else self.weights
        if not file.exists():
            raise SegueError(
                f'{self.path}: its weights were not kept (keep = "metrics"); train it again with keep = "weights".'
            )
        return file

    def epoch_files(self) -> dict[int, Path]:
        """Returns the weights of every epoch of a finished run, in order; raises SegueError without any."""
        self.require_finished()
        epochs = sorted(int(file.stem) for file in self.epochs.glob("*.safetensors") if file.stem.isdigit())
        if not epochs:
            raise SegueError(
                f"{self.path}: the weights of its epochs were not kept; write keep_epochs = true in its stage (of a "
                'study, too, then with keep = "weights") and train it again.'
            )
        return {epoch: self.epoch_weights(epoch) for epoch in epochs}

    def write_history(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Writes a row per epoch."""
        import pyarrow as pa
        from pyarrow import parquet

        # one NaN of the several that float64 has: a row that has been in a checkpoint has another than a computed one
        plain = [{name: math.nan if math.isnan(value) else value for name, value in row.items()} for row in rows]
        table = pa.Table.from_pylist([{**row, "epoch": int(row["epoch"])} for row in plain])
        parquet.write_table(table, self.history)


@dataclass(frozen=True, kw_only=True)
class TrainedModel(Model):
    """The model of a run, with the run's specification and folder.

    decode_params: tuned on validation images where there were any.
    """

    spec: StageSpec
    folder: Path


def load_run(folder: Path | str) -> TrainedModel:
    """Returns the model of a finished run, on the CPU and in evaluation mode. Nothing in the folder is executed."""
    import torch

    from segue.targets.registry import build_target
    from segue.training.checkpoint import load_weights

    run = RunFolder(Path(folder))
    file = run.weights_file("best")
    described = run.read(run.spec)
    try:
        spec, model = StageSpec.model_validate(described["stage"]), described["model"]
    except (ValidationError, KeyError) as error:
        raise SegueError(
            f"{folder}: was made by another version of segue, whose specification this one cannot read; train it again."
        ) from error
    weights = model["class_weights"]  # as they followed from the training samples
    target_spec = spec.target.with_class_weights(None if weights is None else tuple(weights))
    channels = tuple(model["channels"])
    target = build_target(
        target_spec, names=model["names"], instances=model["instances"], context=str(folder), channels=len(channels)
    )
    with rng.scope("unused"):
        network = networks.build(spec.network, channels=len(channels), classes=target.channels)
    load_parts(network, load_weights(file), None, context=str(file))
    network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return TrainedModel(
        network=network,
        target=target,
        normalization=spec.normalize,
        channels=channels,
        divisor=networks.divisor(spec.network),
        decode_params=(run.read(run.metrics).get("decoding") or {}).get("parameters", target.decode_params),
        spec=spec,
        folder=run.path,
    )
