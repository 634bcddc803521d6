"""Image files in, labels, overlays and tables out: the steps of `segue predict`.

    OUT/prediction.json            the model and the settings, which cannot change
    OUT/labels/NAME.tif            objects or classes (images/ of a reconstruction); probabilities/ if asked for
    OUT/overlays/NAME.png          outlines over the image
    OUT/FORMAT/NAME.*              objects for other programs if asked for (`segue.exchange`); coco.json of all images
    OUT/objects.csv, images.csv    a row per object (or class) of all images; a row per image
    OUT/parts/NAME.json, .parquet, .coco
                                   what is known of each image, NAME.json last: images that have it are not done again

A killed command leaves files that are whole, and at most one unfinished per worker, which nothing refers to.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
from filelock import FileLock, Timeout
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from segue.data.tiling import Region, Tiling
from segue.device import default_device, freed_memory_kept
from segue.errors import SegueError
from segue.exchange.coco import join_coco
from segue.exchange.objects import describe_objects
from segue.exchange.pictures import Picture, PictureFormat, label_dtype, write_picture
from segue.exchange.write import OUTLINE_FORMATS
from segue.fingerprint import hash_json
from segue.inference import domain
from segue.inference.confidence import object_confidence
from segue.inference.inputs import ImageInput, OpenImage, content_stamp, find_images, open_image
from segue.inference.model import Model
from segue.inference.object_table import measure_objects
from segue.inference.overlay import write_overlay
from segue.inference.predict import (
    LARGE_PX,
    decode_whole,
    score_whole,
    scores_of,
    tiled_predictor,
    write_classes,
    write_objects,
)
from segue.inference.rescale import Nearest, Resampled
from segue.parallel import map_on_scheduler, map_unordered
from segue.storage import absolute, is_inside, make_folder, read_json, remove_abandoned, replacing, write_json

MIN_CONFIDENCE = 0.5  # predicted IoU below which an object is uncertain: then it counts as missed at IoU 0.5
COCO_SUFFIX = ".coco"  # of the part of an image
TableFormat = Literal["csv", "parquet"]
Progress = Callable[[int, int, float], None]  # images done, of how many, share of the work


@dataclass(frozen=True)
class PredictSettings:
    """What a prediction writes and how: see `segue.predict_files`. write: names of `OUTLINE_FORMATS` in their order."""

    format: PictureFormat = "tiff"
    probabilities: bool = False
    tta: bool = False
    rescale: bool = False
    table: TableFormat = "csv"
    write: tuple[str, ...] = ()
    annotations: bool = False
    tile_px: int = 1024


@dataclass(frozen=True)
class ModelSource:
    """Where a model is: `load(folder)` returns it, in any process; `key` changes with whatever changes predictions."""

    folder: Path
    key: str
    load: Callable[[Path], Model]


@dataclass(frozen=True)
class Prediction:
    """What a command did. rows: of the summary, one per image. notes: each distinct sentence, and the names of the
    images that it is about. errors: of images that could not be predicted."""

    rows: list[dict[str, Any]]
    predicted: int
    skipped: int
    notes: dict[str, list[str]]
    errors: list[str]


def predict_files(
    source: ModelSource,
    arguments: Sequence[Path | str],
    out: Path,
    settings: PredictSettings,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    progress: Progress | None = None,
) -> Prediction:
    """Predicts images into a folder, continues what was interrupted there, and returns what was done."""
    report = progress or (lambda done, total, share: None)
    model = _model(source.load, source.folder)
    known = {Path(record["source"]): record["file_name"] for record in _all_records(out)}
    inputs = find_images(arguments, channels=model.channels, exclude=out, names=known)
    _check_settings(model, settings, source.folder)
    with _locked(out, source, settings):
        shutil.rmtree(out / "working", ignore_errors=True)
        # what is left to do
        records = {image.name: _record(out, image) for image in inputs.images}
        waiting = [image for image in inputs.images if records[image.name] is None]
        done = skipped = len(inputs.images) - len(waiting)
        total = len(inputs.images)
        if total:
            report(done, total, done / total)
        # images
        work = partial(_predict_image, source, absolute(out), settings, workers if scheduler is None else None)
        errors = list(inputs.errors)
        for _, result in _map(work, waiting, workers, scheduler, out, partial(_share, report, done, total)):
            done += 1
            if result.error is not None:
                errors.append(result.error)
            report(done, total, done / total)
        # tables of all images in the folder
        shutil.rmtree(out / "working", ignore_errors=True)
        described = _all_records(out)
        _write_tables(out, described, settings.table)
        if "coco" in settings.write:
            join_coco([_part(out, record["name"], COCO_SUFFIX) for record in described], out / "coco.json")
    current = {image.name for image in inputs.images}
    notes: dict[str, list[str]] = {note: [] for note in inputs.notes}
    for record in described:
        for note in record["notes"] if record["name"] in current else ():
            notes.setdefault(note, []).append(record["name"])
    rows = [record["row"] for record in described if record["name"] in current]
    return Prediction(rows, len(waiting) - len(errors) + len(inputs.errors), skipped, notes, errors)


def _check_settings(model: Model, settings: PredictSettings, folder: Path) -> None:
    if settings.rescale and model.pixel_size_nm is None:
        raise SegueError(
            f"{folder}: does not say one pixel size of the images it was trained on, which --rescale needs; predict "
            "without it, or train on a dataset whose pixel size is known."
        )
    if settings.probabilities and model.target.output == "image":
        raise SegueError(f"{folder}: reconstructs images and has no classes; leave --probabilities out.")
    if settings.write and model.target.output in ("image", "image_class"):
        raise SegueError(f"{folder}: finds neither objects nor classes of pixels; leave --write out.")


@lru_cache(maxsize=1)
def _model(load: Callable[[Path], Model], folder: Path) -> Model:
    """Returns the model, its network on the GPU where there is one."""
    model = load(folder)
    model.network.to(default_device())
    return model


def _share(report: Progress, done: int, total: int, share: float) -> None:
    """Reports the share of an image that is under way in this process."""
    report(done, total, (done + share) / total)


def _map(
    work: Callable[..., ImageResult],
    waiting: Sequence[ImageInput],
    workers: int,
    scheduler: str | None,
    out: Path,
    share: Callable[[float], None],
) -> Iterator[tuple[ImageInput, ImageResult]]:
    if scheduler is not None:
        return map_on_scheduler(work, waiting, address=scheduler)
    if len(waiting) == 1:
        work = partial(work, share=share)
        return iter([(waiting[0], work(waiting[0]))])
    return map_unordered(work, waiting, workers=workers, context=out)


# the folder


@contextlib.contextmanager
def _locked(out: Path, source: ModelSource, settings: PredictSettings) -> Iterator[None]:
    """Holds the output's folder for this command; raises SegueError if it belongs to another prediction or command."""
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()}
    header = {"model": str(absolute(source.folder)), "model_key": source.key, "settings": values}
    file = out / "prediction.json"
    if out.exists() and not out.is_dir():
        raise SegueError(f"{out}: is a file; OUT is a folder: choose another one.")
    unfinished = (".lock", f"{file.name}.partial-")
    if out.is_dir() and not file.is_file() and not all(path.name.startswith(unfinished) for path in out.iterdir()):
        raise SegueError(f"{out}: exists and holds no prediction; nothing in it is replaced: choose another OUT.")
    make_folder(out)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(FileLock(out / ".lock", timeout=0))
        except Timeout:
            raise SegueError(f"{out}: another command is predicting into it; wait for its end.") from None
        except OSError as error:
            raise SegueError(f"{out}: cannot be written ({error.strerror}); choose another OUT.") from error
        try:
            existing = read_json(file)
            differing = [] if existing is None else _differences(existing, header)
        except (SegueError, KeyError, TypeError, AttributeError):
            raise SegueError(f"{file}: is damaged; choose another OUT, or remove {out}.") from None
        if differing:
            raise SegueError(
                f"{out}: holds the prediction of other settings ({'; '.join(differing)}); nothing in it is replaced: "
                "choose another OUT, or repeat the command as it was."
            )
        if existing is None:
            write_json(file, header, ensure_ascii=False)
        yield


def _differences(existing: Mapping[str, Any], header: Mapping[str, Any]) -> list[str]:
    differing = []
    if existing["model_key"] != header["model_key"]:
        differing.append(f"of the model {existing['model']}")
    recorded = {**asdict(PredictSettings()), "write": [], **existing["settings"]}  # of a version without a setting
    for name, value in header["settings"].items():
        if recorded[name] != value:
            differing.append(f"{name} = {json.dumps(recorded[name])}, not {json.dumps(value)}")
    return differing


def _part(out: Path, name: str, suffix: str) -> Path:
    return out / "parts" / f"{name}{suffix}"


def _require_inside(path: str) -> str:
    if not is_inside(path):
        raise ValueError("leads out of the folder")
    return path


PathInside = Annotated[str, AfterValidator(_require_inside)]


class ImageRecord(BaseModel):
    """What is known of a predicted image, in its file in `parts`. outputs: file or folder -> bytes."""

    model_config = ConfigDict(strict=True, extra="forbid")

    name: PathInside
    file_name: PathInside
    source: str
    page: int | None
    stamp: str
    outputs: dict[PathInside, int]
    notes: list[str]
    row: dict[str, Any]


def _read_record(path: Path) -> dict[str, Any] | None:
    """Returns the record of an image; None where there is none, or one that is damaged: then it is predicted again."""
    try:
        record = read_json(path)
        return None if record is None else ImageRecord.model_validate(record).model_dump()
    except (SegueError, ValidationError):
        return None


def _record(out: Path, image: ImageInput) -> dict[str, Any] | None:
    """Returns the record of an image that was predicted and whose files have not changed since, else None."""
    record = _read_record(_part(out, image.name, ".json"))
    if record is None or record["name"] != image.name or record["stamp"] != content_stamp(image.path):
        return None
    is_whole = all(_size(out / output) == size for output, size in record["outputs"].items())
    return record if is_whole else None


def _size(path: Path) -> int:
    """Returns the bytes of a file, or of all files of a folder; -1 if there is none."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file()) if path.exists() else -1


def _forget(out: Path, name: str) -> None:
    """Removes what was written of an image that has changed since, or whose files are incomplete."""
    record = _read_record(_part(out, name, ".json"))
    for output in record["outputs"] if record else ():
        path = out / output
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    _part(out, name, ".parquet").unlink(missing_ok=True)
    _part(out, name, ".json").unlink(missing_ok=True)


def _all_records(out: Path) -> list[dict[str, Any]]:
    records = [record for path in (out / "parts").rglob("*.json") if (record := _read_record(path)) is not None]
    return sorted(records, key=lambda record: record["name"])


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns what reading the table of an image's objects raises into a sentence that says how to go on."""
    try:
        yield
    except (OSError, ValueError) as error:  # pyarrow's errors are among these
        record = path.with_suffix(".json").name
        raise SegueError(
            f"{path}: is damaged or was altered ({error}); remove it and {record} beside it, and run the same command "
            "again, which predicts that image again."
        ) from None


def _write_tables(out: Path, records: Sequence[Mapping[str, Any]], table: TableFormat) -> None:
    """Writes the summary and the table of objects, part by part."""
    import pandas as pd
    import pyarrow as pa
    from pyarrow import parquet

    from segue.storage import write_table

    rows = pd.DataFrame([record["row"] for record in records]).convert_dtypes()  # whole numbers stay whole
    rows["notes"] = ["; ".join(record["notes"]) for record in records]
    write_table(rows, out / f"images.{table}")
    parts = [path for record in records if (path := _part(out, record["name"], ".parquet")).is_file()]
    if not parts:
        return
    schemas = []
    for path in parts:
        with _reading(path):
            schemas.append(parquet.read_schema(path).remove_metadata())
    schema = pa.unify_schemas(schemas, promote_options="permissive")
    target = out / f"objects.{table}"
    remove_abandoned(target)
    with replacing(target) as partial_file, contextlib.ExitStack() as stack:
        writer = stack.enter_context(parquet.ParquetWriter(partial_file, schema)) if table == "parquet" else None
        for number, path in enumerate(parts):
            with _reading(path):
                part = parquet.read_table(path)
            missing = [field for field in schema if field.name not in part.column_names]
            for field in missing:
                part = part.append_column(field, pa.nulls(len(part), field.type))
            part = part.select(schema.names).cast(schema)
            if writer is not None:
                writer.write_table(part)
                continue
            frame = part.to_pandas()
            frame.to_csv(
                partial_file, mode="a", header=number == 0, index=False, float_format="%.8g", lineterminator="\n"
            )


# one image


@dataclass(frozen=True)
class ImageResult:
    """What came of one image; error: the sentence that says why it could not be predicted."""

    name: str
    error: str | None = None


@dataclass(frozen=True)
class Labels:
    """Predicted labels (H, W), sliceable, 0 … count; is_joined and confidence (count + 1,) of the objects."""

    values: Any
    count: int
    is_joined: np.ndarray
    confidence: np.ndarray | None = None
    probabilities: Any = None


@freed_memory_kept()
def _predict_image(
    source: ModelSource,
    out: Path,
    settings: PredictSettings,
    workers: int | None,
    image: ImageInput,
    *,
    share: Callable[[float], None] | None = None,
) -> ImageResult:
    """Predicts one image and writes all that belongs to it, its record last; runs in any process."""
    import torch

    if workers is not None and workers > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    working = out / "working" / f"{hash_json(image.name, digest_size=8)}-{os.getpid()}"
    try:
        make_folder(working)
        model = _model(source.load, source.folder)
        model = replace(model, tta=settings.tta)
        _write_image(model, image, out, working, settings, share or (lambda part: None))
    except SegueError as error:
        message = str(error)
        return ImageResult(image.name, message if message.startswith(str(image.path)) else f"{image.path}: {message}")
    except MemoryError:
        return ImageResult(image.name, f"{image.path}: is too large for the memory; predict it with fewer workers.")
    finally:
        shutil.rmtree(working, ignore_errors=True)
    return ImageResult(image.name)


def _write_image(
    model: Model,
    image: ImageInput,
    out: Path,
    working: Path,
    settings: PredictSettings,
    share: Callable[[float], None],
) -> None:
    stamp = content_stamp(image.path)
    _forget(out, image.name)
    opened = open_image(image, model.channels)
    scaled, notes = _at_training_size(model, opened, settings)
    notes += [*opened.notes, *domain.describe_difference(model, scaled)]
    size = opened.image.shape[1:]
    row: dict[str, Any] = {
        "image": image.name,
        "file": str(image.path),
        "page": image.page,
        "height_px": size[0],
        "width_px": size[1],
        "pixel_size_nm": opened.pixel_size_nm,
    }
    outputs: list[Path] = []
    if model.target.output == "image_class":
        row |= _image_class(model, scaled.image)
    elif model.target.output == "image":
        picture = _reconstruction(model, opened, scaled, image.name, working)
        outputs.append(write_picture(out / "images", picture, settings.format))
    else:
        labels = predict_labels(model, scaled.image, working, settings, share)
        if scaled is not opened:
            labels = _at_original_size(labels, (int(size[0]), int(size[1])))
        table, facts = _measure(model, opened, labels)
        row |= facts
        channels = tuple(model.target.names) if labels.probabilities is not None else ()
        picture = Picture(labels.values, label_dtype(labels.count), image.name, opened.pixel_size_nm, facts)
        outputs.append(write_picture(out / "labels", picture, settings.format))
        if labels.probabilities is not None:
            values = Picture(
                labels.probabilities, np.dtype(np.float32), image.name, opened.pixel_size_nm, facts, channels
            )
            outputs.append(write_picture(out / "probabilities", values, settings.format))
        outputs += _write_objects(model, image, labels, table, opened.pixel_size_nm, out, settings)
        outputs.append(out / "overlays" / f"{image.name}.png")
        is_uncertain = np.zeros(labels.count + 1, np.bool_)
        if "uncertain" in table:
            is_uncertain[table["label"]] = table["uncertain"]
        title = _title(image.name, facts)
        write_overlay(
            outputs[-1],
            opened.image,
            labels.values,
            channels=model.channels,
            title=title,
            is_uncertain=is_uncertain,
        )
        _write_part(_part(out, image.name, ".parquet"), {"image": np.full(len(table["label"]), image.name), **table})
    record = {
        "name": image.name,
        "file_name": image.file_name,
        "source": str(absolute(image.path)),
        "page": image.page,
        "stamp": stamp,
        "outputs": {path.relative_to(out).as_posix(): _size(path) for path in outputs},
        "notes": notes,
        "row": {key: value for key, value in row.items() if value is not None or key == "pixel_size_nm"},
    }
    record_path = _part(out, image.name, ".json")
    remove_abandoned(record_path)
    write_json(record_path, record, ensure_ascii=False)


def _write_objects(
    model: Model,
    image: ImageInput,
    labels: Labels,
    table: Mapping[str, np.ndarray],
    pixel_size_nm: float | None,
    out: Path,
    settings: PredictSettings,
) -> list[Path]:
    """Writes the objects, or the regions of classes, in the formats that are asked for; returns the files."""
    if not settings.write:
        return []
    names = model.target.names
    is_classes = model.target.output == "classes"
    objects = describe_objects(
        labels.values,
        str(image.path),
        name=image.name,
        file_name=(PurePosixPath(image.file_name).parent / image.path.name).as_posix(),
        classes=dict(enumerate(names[1:], 1)) if is_classes else names[1],
        measurements=table,
        pixel_size_nm=pixel_size_nm,
        object_type="annotation" if settings.annotations or is_classes else "detection",
        stack_position=image.page + 1 if image.page is not None and len(model.channels) == 1 else None,
    )
    paths = []
    for name in settings.write:
        format = OUTLINE_FORMATS[name]
        is_part = name == "coco"  # of the file of all images
        path = _part(out, image.name, COCO_SUFFIX) if is_part else out / name / f"{image.name}{format.suffixes[0]}"
        make_folder(path.parent)
        remove_abandoned(path)
        format.write(path, objects)
        paths.append(path)
    return paths


def _write_part(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    remove_abandoned(path)
    with replacing(path) as partial_file:
        parquet.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), partial_file)


def _title(name: str, facts: Mapping[str, Any]) -> str:
    if "objects" not in facts:
        return name
    return f"{name}: {facts['objects']} objects, {facts['uncertain']} of them with uncertain borders (orange)"


# pixel sizes


def _at_training_size(model: Model, opened: OpenImage, settings: PredictSettings) -> tuple[OpenImage, list[str]]:
    """Returns the image at the pixel size of the training, if that is asked for and both are known, and notes."""
    image_nm, trained = opened.pixel_size_nm, model.pixel_size_nm
    if trained is not None and image_nm is None:
        effect = " and was not rescaled" if settings.rescale else ""
        return opened, [f"states no pixel size{effect}; the model was trained on {trained:.4g} nm per pixel"]
    if not settings.rescale or trained is None or image_nm is None:
        return opened, []
    height, width = opened.image.shape[1:]
    size = max(1, round(height * image_nm / trained)), max(1, round(width * image_nm / trained))
    if size == (height, width):
        return opened, []
    return replace(opened, image=Resampled(opened.image, size), pixel_size_nm=trained), []


def _at_original_size(labels: Labels, size: tuple[int, int]) -> Labels:
    probabilities = None if labels.probabilities is None else Resampled(labels.probabilities, size)
    return replace(labels, values=Nearest(labels.values, size), probabilities=probabilities)


# labels


def predict_labels(
    model: Model,
    pixels: Any,
    working: Path,
    settings: PredictSettings,
    share: Callable[[float], None] = lambda part: None,
) -> Labels:
    """Returns the labels of an image (C, H, W): of a large one in files of the folder `working`, by tiles."""
    height, width = pixels.shape[1:]
    if height * width <= LARGE_PX:
        scores = score_whole(model, pixels[:, :, :])
        values = decode_whole(model, scores)[0]
        probabilities = model.target.probabilities(scores)[0].numpy() if settings.probabilities else None
        if model.target.output == "classes":
            return _class_labels(model, values, probabilities)
        count = int(values.max(initial=0))
        confidence = object_confidence(model, values, scores[0].numpy())
        return Labels(values, count, np.zeros(count + 1, np.bool_), confidence, probabilities)

    import torch

    tiling = Tiling(tile_px=settings.tile_px)
    scores = scores_of(model, pixels, tiling)
    values = _scratch(working / "labels", (height, width), np.int32, tiling)
    probabilities = None
    if settings.probabilities:
        shape = (len(model.target.names), height, width)
        probabilities = _scratch(working / "probabilities", shape, np.float32, tiling)
    latest: dict[Region, np.ndarray] = {}

    def read_scores(region: Region) -> np.ndarray:
        latest.clear()  # before more memory is needed
        latest[region] = scores(region)
        share(region.top / height)
        if probabilities is not None:
            chances = model.target.probabilities(torch.from_numpy(latest[region])[None])[0].numpy()
            probabilities[(slice(None), *region.slices)] = chances
        return latest[region]

    if model.target.output == "classes":
        write_classes(read_scores, model.target, values, tiling=tiling)
        return _class_labels(model, values, probabilities)

    def measure(labels: np.ndarray, region: Region) -> np.ndarray:
        confidence = object_confidence(model, labels, latest[region])
        return np.full(int(labels.max(initial=0)) + 1, np.nan) if confidence is None else confidence

    params = model.decode_params
    result = write_objects(read_scores, model.target, values, params=params, tiling=tiling, measure=measure)
    is_unknown = result.values is None or np.isnan(result.values[1:]).any()
    return Labels(values, result.objects, result.is_uncertain, None if is_unknown else result.values, probabilities)


def _class_labels(model: Model, values: Any, probabilities: Any) -> Labels:
    count = len(model.target.names) - 1
    return Labels(values, count, np.zeros(count + 1, np.bool_), None, probabilities)


def _scratch(path: Path, shape: tuple[int, ...], dtype: Any, tiling: Tiling) -> Any:
    """Returns an array in files, chunked as the image is tiled."""
    import zarr

    sides = tuple(min(tiling.tile_px, side) for side in shape[-2:])
    return zarr.create_array(path, shape=shape, dtype=dtype, chunks=(*(1,) * (len(shape) - 2), *sides), fill_value=0)


def _measure(model: Model, opened: OpenImage, labels: Labels) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns the columns of the table of objects, or of classes, and the facts of the image."""
    measured = measure_objects(labels.values, opened.image, labels.count)
    size_um = None if opened.pixel_size_nm is None else opened.pixel_size_nm / 1000
    columns = measured.columns(pixel_size_um=size_um, channels=model.channels)
    area = float(np.prod(opened.image.shape[1:]))
    if model.target.output == "classes":
        names = np.array(model.target.names)
        fractions = {f"fraction_{name}": 0.0 for name in names[1:]}
        fractions |= dict(
            zip((f"fraction_{name}" for name in names[measured.labels]), columns["area_px"] / area, strict=True)
        )
        visible = [name for name in columns if name.startswith(("label", "area", "mean_"))]
        return {"class": names[measured.labels], **{name: columns[name] for name in visible}}, fractions
    is_joined = labels.is_joined[measured.labels]
    columns["joined"] = is_joined
    is_low = np.zeros(len(is_joined), np.bool_)
    if labels.confidence is not None:
        columns["confidence"] = labels.confidence[measured.labels]
        is_low = columns["confidence"] < MIN_CONFIDENCE
    columns["uncertain"] = measured.at_edge | is_joined | is_low
    facts = {
        "objects": len(measured.labels),
        "uncertain": int(columns["uncertain"].sum()),
        "at_edge": int(measured.at_edge.sum()),
        "joined": int(is_joined.sum()),
        "low_confidence": int(is_low.sum()) if labels.confidence is not None else None,
        "fraction_object": float(columns["area_px"].sum() / area),
    }
    return columns, {name: value for name, value in facts.items() if value is not None}


# classes of images, and images


def _image_class(model: Model, pixels: Any) -> dict[str, Any]:
    chances = model.target.probabilities(score_whole(model, pixels[:, :, :]))[0].reshape(-1).numpy()
    names = model.target.names
    row = {"class": names[int(chances.argmax())]}
    return row | {f"probability_{name}": float(chance) for name, chance in zip(names, chances, strict=True)}


def _reconstruction(model: Model, opened: OpenImage, scaled: OpenImage, name: str, working: Path) -> Picture:
    """Returns the image that the network gives, in acquired units, by tiles."""
    pixels, tiling = scaled.image, Tiling()
    predictor = tiled_predictor(model.predictor, pixels, normalization=model.normalization, divisor=model.divisor)
    values = _scratch(working / "image", pixels.shape, np.float32, tiling)
    shift, scale = np.moveaxis(predictor.stats[0], -1, 0)[..., None, None]
    for core in tiling.cores(pixels.shape[1:]):
        values[(slice(None), *core.slices)] = predictor.scores(core) * scale + shift
    final: Any = values if scaled is opened else Resampled(values, tuple(opened.image.shape[1:]))
    return Picture(final, np.dtype(np.float32), name, opened.pixel_size_nm, {}, model.channels)
