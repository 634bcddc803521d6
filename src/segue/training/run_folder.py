"""The folder of a run: the name of every file in it, the one place that reads them, and a finished run loaded as a
model. Cheap to import: no torch.

    spec.json             the resolved specification, and what the network takes and gives
    groups.json           groups trained on (by ancestors too) and validated with, hashes and licenses of their images
    weights.safetensors   of the selected epoch; last.safetensors if that is not the last
    epochs/, film/        weights of every epoch, and predictions of some images per epoch, if asked for
    tensorboard/          scalars, if asked for
    history.parquet       a row per epoch
    metrics.json          selected epoch, its validation scores, labels spent, parameters; written last
    timing.json           seconds, rates, interruptions    } apart from results, since they
    environment.json      versions and machine             } differ from run to run
    evaluations/          scores on domains, of a study, and what was counted in each image
    digests.json          sha256 of every file that is a result

A file is checked when it is read: that it is a regular file, JSON or safetensors, has what is needed, and is what the
training wrote. Of a folder without metrics.json, such as one of weights alone, nothing is known to compare it with.

While a training is unfinished, the folder is called `<name>.running` and has its checkpoints in `state/`; it is renamed
when all is written. The lock `<name>.lock` next to it is held by the process that trains.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from segue import networks, rng
from segue.errors import SegueError
from segue.fingerprint import hash_file
from segue.inference.domain import TrainingSet
from segue.inference.model import Model
from segue.spec import attempt
from segue.storage import is_file, read_bytes, write_json
from segue.training.freezing import load_parts
from segue.training.spec import StageSpec

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

REMEDY = "copy the run again, or train it again"
VARYING = ("timing.json", "environment.json", "tensorboard", "state", "evaluations")  # not equal in equal runs


class Record(BaseModel):
    """What is needed of a JSON file; it may hold more."""

    model_config = ConfigDict(extra="allow", strict=True)


class TrainingSetRecord(Record):
    """The images trained on (`segue.inference.domain.TrainingSet`)."""

    pixel_sizes_nm: list[float]
    measures: list[dict[str, Annotated[list[float], Field(min_length=2, max_length=2)]]]


class ModelRecord(Record):
    """What the network takes and gives."""

    channels: Annotated[list[str], Field(min_length=1)]
    names: list[str]
    instances: bool
    class_weights: list[float] | None
    training_set: TrainingSetRecord | None = None


class SpecRecord(Record):
    key: str
    stage: dict[str, Any]
    model: ModelRecord


class GroupsRecord(Record):
    training: Annotated[list[str], Field(min_length=1)]
    validation: list[str]
    ancestors: list[str] = []
    ancestors_validation: list[str] = []
    divisions: dict[str, list[str]] = {}
    pictures: list[str] = []
    licenses: list[str] = []


class DecodingRecord(Record):
    parameters: dict[str, float]
    images: int
    metric: str
    value: float | None  # None where there was no object to tune by
    value_of_defaults: float | None


class LabelsRecord(Record):
    unit: str
    train: int
    validation: int


class ParameterCounts(Record):
    parameters: int
    trainable: int


class SideBySideRecord(Record):
    """steps: "approximate" where any of them was one of several models at once."""

    steps: Literal["approximate", "exact"]
    fused_steps: int
    all_steps: int
    why_exact: str = ""


class MetricsRecord(Record):
    selected_epoch: Annotated[int, Field(ge=1)]
    selected_by: str
    epochs: Annotated[int, Field(ge=1)]
    stopped_early: bool
    scores: dict[str, float | None]
    decoding: DecodingRecord | None
    labels: LabelsRecord
    parameters: dict[str, ParameterCounts]
    transfer: dict[str, list[str]] | None
    licenses: list[str] = []
    leak: dict[str, Any] | None = None
    side_by_side: SideBySideRecord | None = None


class TimingRecord(Record):
    seconds: float
    images_per_s: float
    energy_J: float | None
    energy_source: str | None
    energy_note: str | None


class EnvironmentRecord(Record):
    precision: str
    threads: int
    cpu: str
    cores: int
    amx: str
    gpu: str | None = None


class EvaluationRecord(Record):
    part: str
    samples: int
    groups: int
    classes: list[str]
    scores: dict[str, float | None]
    images: dict[str, list[int]] | None = None
    epochs: list[dict[str, float | None]] | None = None


class ImageCountsRecord(Record):
    """What was counted in each image (`segue.evaluation.image_counts`)."""

    image: list[str]
    group: list[str]
    classes: list[str]
    of_images: bool
    on_tiles: bool
    loss_floor: float
    loss_sums: list[list[float | None]]
    normalizers: list[list[float | None]]
    confusion: list[list[list[int]]] | None
    objects: dict[str, list[Any]] | None
    tolerance_px: float | None


IMAGE_COUNTS_SUFFIX = ".images.json.gz"  # of a file beside an evaluation
MAX_COUNTS_BYTES = 2**28  # of such a file, decompressed
RECORDS: dict[str, type[Record]] = {
    "spec.json": SpecRecord,
    "groups.json": GroupsRecord,
    "metrics.json": MetricsRecord,
    "timing.json": TimingRecord,
    "environment.json": EnvironmentRecord,
}


def _decompress(content: bytes) -> bytes:
    """Returns the content of a gzip file; raises ValueError if it is cut off or larger than any that is written."""
    decompressor = zlib.decompressobj(wbits=31)
    text = decompressor.decompress(content, MAX_COUNTS_BYTES)
    if not decompressor.eof:
        raise ValueError(f"cut off, or more than {MAX_COUNTS_BYTES:,} bytes")
    return text


def parse_record(content: bytes, record: type[Record]) -> dict[str, Any]:
    """Returns the content of a JSON file; raises ValueError, with the reason, for one that lacks what `record` has."""
    try:
        parsed = from_json(content)  # thrice as fast as json.loads: a study has thousands
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from None
    try:
        record.model_validate(parsed)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "at the top"
        raise ValueError(f"{place}: {first['msg'][0].lower()}{first['msg'][1:]}") from None
    return parsed


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
    def digests(self) -> Path:
        """The sha256 (hex) of every file that is a result, by its path in the folder."""
        return self.path / "digests.json"

    @property
    def state(self) -> Path:
        """The checkpoints of an unfinished run."""
        return self.path / "state"

    @property
    def is_finished(self) -> bool:
        return is_file(self.metrics)

    @property
    def key(self) -> str | None:
        """The key of the training, None where the folder does not record it or its spec.json is damaged."""
        try:
            return self.read(self.spec)["key"]
        except SegueError:
            return None

    @property
    def is_verifiable(self) -> bool:
        """Whether the folder records the digests of its files: not a folder of weights alone."""
        return bool(self._digests)

    @cached_property
    def _digests(self) -> Mapping[str, str]:
        try:
            digests = from_json(read_bytes(self.digests, "a run"))
        except FileNotFoundError:
            if self.is_finished:
                raise SegueError(
                    f"{self.digests}: is missing, so that nothing shows whether the files are those that the training "
                    f"wrote; {REMEDY}."
                ) from None
            return {}
        except (ValueError, RecursionError) as error:
            raise self._damaged(self.digests, f"not JSON ({error})") from None
        if not isinstance(digests, dict) or not digests:
            raise self._damaged(self.digests, "no table of digests")
        return digests

    def write_digests(self) -> None:
        """Records the digests of all files that are results; to be called when all of them are written."""
        files = [file for file in self.path.rglob("*") if file.is_file() and file != self.digests]
        names = {file.relative_to(self.path): file for file in files}
        results = {name.as_posix(): file for name, file in names.items() if name.parts[0] not in VARYING}
        write_json(self.digests, {name: hash_file(file) for name, file in results.items()}, sort_keys=True)

    def read_bytes(self, file: Path) -> bytes:
        """Returns the content of a file of this folder; raises SegueError if it is missing, no regular file, or not
        what the training wrote."""
        try:
            content = read_bytes(file, "the folder of a run")
        except FileNotFoundError:
            raise SegueError(f"{file}: is missing, the run is not complete; {REMEDY}.") from None
        name = "/".join(file.parts[len(self.path.parts) :])  # of a file of this folder; quicker than relative_to
        known = name in self._digests or not self._digests or name.partition("/")[0] in VARYING
        if not known or self._digests.get(name) not in (None, hashlib.sha256(content).hexdigest()):
            raise self._damaged(file, "its bytes are not those that the training wrote (digests.json)")
        return content

    def read(self, file: Path) -> dict[str, Any]:
        """Returns the content of a JSON file of this folder, spec.json or one of the others in `RECORDS`, or one of
        evaluations; raises SegueError if it is missing, damaged or altered, or lacks something."""
        of_images = file.name.endswith(IMAGE_COUNTS_SUFFIX)
        record = ImageCountsRecord if of_images else RECORDS.get(file.name, EvaluationRecord)
        try:
            content = self.read_bytes(file)
            return parse_record(_decompress(content) if of_images else content, record)
        except (ValueError, zlib.error) as error:
            raise self._damaged(file, str(error)) from None

    def read_history(self) -> pd.DataFrame:
        """Returns the row per epoch."""
        import io

        import pandas as pd

        content = self.read_bytes(self.history)
        try:
            return pd.read_parquet(io.BytesIO(content))
        except (OSError, ValueError) as error:  # pyarrow's errors are among these
            raise self._damaged(self.history, f"not Parquet ({error})") from None

    def read_stage(self) -> StageSpec:
        """Returns the specification that the run was trained by; raises SegueError for one of another version."""
        spec, mistakes = attempt(StageSpec, self.read(self.spec)["stage"])
        if spec is None:
            raise SegueError(
                f"{self.path}: was made by another version of segue, whose specification this one cannot read "
                f"({mistakes[0]}); train it again."
            )
        return spec

    def read_weights(self, file: Path) -> dict[str, Tensor]:
        """Returns the tensors of one of the files of weights, on the CPU."""
        from segue.training.checkpoint import parse_weights

        return parse_weights(self.read_bytes(file), file)

    def _damaged(self, file: Path, reason: str) -> SegueError:
        return SegueError(f"{file}: is damaged or was altered: {reason}; {REMEDY}.")

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
        epochs = sorted(int(file.stem) for file in self.epochs.glob("*.safetensors") if file.stem.isdecimal())
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

    decode_params: tuned on validation images where there were any. licenses: of the images that it and its ancestors
    were trained on; empty where none is stated.
    """

    spec: StageSpec
    folder: Path
    licenses: tuple[str, ...] = ()


def load_run(folder: Path | str) -> TrainedModel:
    """Returns the model of a finished run, on the CPU and in evaluation mode. Nothing in the folder is executed."""
    import torch

    from segue.inference import confidence
    from segue.targets.registry import build_target

    run = RunFolder(Path(folder))
    file = run.weights_file("best")
    spec, model = run.read_stage(), run.read(run.spec)["model"]
    weights = model["class_weights"]  # as they followed from the training samples
    target_spec = spec.target.with_class_weights(None if weights is None else tuple(weights))
    channels = tuple(model["channels"])
    target = build_target(
        target_spec, names=model["names"], instances=model["instances"], context=str(folder), channels=len(channels)
    )
    with rng.scope("unused"):
        network = networks.build(spec.network, channels=len(channels), classes=target.channels)
    load_parts(network, run.read_weights(file), None, context=str(file))
    decode_params = (run.read(run.metrics)["decoding"] or {}).get("parameters", target.decode_params)
    if decode_params.keys() != target.decode_params.keys():
        raise SegueError(
            f"{run.metrics}: has decode parameters {', '.join(decode_params)}, but target '{spec.target.name}' has "
            f"{', '.join(target.decode_params)}; {REMEDY}."
        )
    try:
        calibration = confidence.from_record(run.read(run.metrics).get("confidence"))
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise SegueError(f"{run.metrics}: the confidence of objects cannot be read ({error}); {REMEDY}.") from None
    network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return TrainedModel(
        network=network,
        target=target,
        normalization=spec.normalize,
        channels=channels,
        divisor=networks.divisor(spec.network),
        decode_params=decode_params,
        confidence=calibration,
        training_set=TrainingSet.from_record(model.get("training_set")),
        pictures=frozenset(run.read(run.groups).get("pictures", ())),
        tta=spec.tta,
        spec=spec,
        folder=run.path,
        licenses=tuple(run.read(run.groups).get("licenses", ())),
    )
