"""The public functions of segue, one per command: called by the command line and offered by `import segue`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segue.data.spec import PrepareSpec
from segue.device import freed_memory_kept
from segue.errors import SegueError, warn
from segue.spec import load as load_spec
from segue.spec import read_toml, unknown, validate
from segue.storage import as_path

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from segue.data.tiling import Tiling
    from segue.evaluation.folder import FolderScores
    from segue.evaluation.tools import ToolsSpec
    from segue.fitting.fit import Fitted
    from segue.fitting.fit import Progress as FitProgress
    from segue.inference.model import Model
    from segue.inference.predict_files import Prediction
    from segue.plates.counting.count import CountOptions
    from segue.plates.synthetic.spec import SyntheticSpec
    from segue.reporting.analysis.advice import Advice
    from segue.reporting.analysis.comparison import Comparison
    from segue.reporting.analysis.result import Analysis
    from segue.reporting.analysis.tables import Options
    from segue.reporting.tables.tool_comparison import ToolComparison
    from segue.study.executor import Progress as StudyProgress
    from segue.study.executor import Summary
    from segue.study.plan import Plan
    from segue.training.run_folder import TrainedModel

PathLike = Path | str
COUNT_VALUES = ("count", "fraction", "density_per_mm2")  # of the cells of a class in a well, over time
Progress = Callable[[int, int], None]


def simulate(
    spec: PathLike,
    out: PathLike,
    *,
    workers: int = 1,
    batch: int | None = None,
    progress: Progress | None = None,
    log: Callable[[str], None] | None = None,
) -> Path:
    """Simulates the HRTEM series of a TOML specification into a dataset, and returns its path.

    Of a specification with `each`, `out` is a folder with a dataset for each combination of its values, named by the
    series and the values. `log` receives what is going to be made and the disk it needs. Waves are computed on a GPU
    where there is one; `batch` is the number computed at once (8 there, 1 on a CPU), each needs about 130 bytes per
    point of the grid.
    """
    from segue.hrtem import series
    from segue.study.datasets import series_files

    root, files = Path(spec).parent, series_files(as_path(spec), as_path(out))
    total, before = sum(settings.structures for settings in files.values()), 0
    if log is not None:
        for line in series.describe(list(files.values()), root):
            log(line)
    for file, settings in files.items():

        def report(done: int, _: int, before: int = before) -> None:
            if progress is not None:
                progress(before + done, total)

        series.simulate(settings, file, root=root, workers=workers, batch=batch, progress=report)
        before += settings.structures
    return Path(out)


def prepare(
    spec: PathLike,
    out: PathLike,
    *,
    workers: int = 1,
    progress: Progress | None = None,
    log: Callable[[str], None] | None = None,
) -> Path:
    """Makes a dataset from folders of images and annotations, as a TOML specification says, and returns its path.

    log receives the notes that the command prints, such as on files that were left out. Without it they are Python's
    warnings.
    """
    from segue.data import prepare as preparing

    settings, folder = load_spec(PrepareSpec, as_path(spec)), Path(spec).parent
    preparing.prepare(settings, as_path(out), root=folder, workers=workers, progress=progress, log=log or warn)
    return Path(out)


def match(
    source: PathLike,
    reference: PathLike,
    out: PathLike,
    *,
    conditions: Mapping[str, Any] | None = None,
    spectrum: bool = True,
    histogram: bool = True,
    figure: PathLike | None = None,
    progress: Progress | None = None,
) -> Path:
    """Writes a dataset's images, matched to those of another in power spectrum and histogram, and returns its path.

    Groups, labels and conditions stay; `conditions` selects samples. The distances in both, before and after, are notes
    of the dataset (`segue inspect`). figure: a .png, .svg or .pdf of both domains
    before and after. See `segue.inference.match_domains.match_dataset`.
    """
    from segue.inference.match_domains import match_dataset

    if figure is not None:
        from segue.reporting.figures.style import figure_format

        figure_format(as_path(figure))
    matched = match_dataset(
        as_path(source), as_path(reference), as_path(out),
        conditions=conditions, spectrum=spectrum, histogram=histogram, progress=progress,
    )  # fmt: skip
    if figure is not None:
        from segue.reporting.figures.domains import domains_figure
        from segue.reporting.figures.style import write_figure

        domains = {"before": matched.before, "after": matched.after, "reference": matched.reference}
        write_figure(domains_figure(domains), as_path(figure))
    return Path(out)


def plate(
    spec: PathLike, out: PathLike, *, workers: int = 1, progress: Callable[[str, int, int], None] | None = None
) -> Path:
    """Makes a dataset from a plate: stitched, labeled from its stains, cut into tiles; returns its path.

    A report, a table of nuclei and pictures to check the labels by eye are written next to it, to `<out stem>.plate`.
    """
    from segue.plates.assay import assay
    from segue.plates.spec import PlateSpec

    settings = load_spec(PlateSpec, as_path(spec))
    return assay(settings, as_path(out), root=Path(spec).parent, workers=workers, progress=progress).path


def plate_summary(out: PathLike) -> list[str]:
    """Returns a few lines on what was left out and repaired in a plate's dataset; [] without a report."""
    from segue.plates.exports import summarize
    from segue.storage import read_json

    path = as_path(out).with_name(f"{Path(out).stem}.plate") / "report.json"
    report = read_json(path)
    return [] if report is None else summarize(report)


def synthetic_plate(
    folder: PathLike, spec: PathLike | None = None, *, workers: int = 1, progress: Progress | None = None
) -> Path:
    """Simulates a plate with its truth into a folder, and returns the specification that `plate` takes.

    `spec`: a TOML file with the settings of a synthetic plate (`segue.plates.synthetic.spec`), or a plate's
    specification
    whose table [synthetic] has them; None for the defaults.
    """
    from segue.plates.synthetic.spec import SyntheticSpec
    from segue.plates.synthetic.write import write_plates, write_specification

    settings = SyntheticSpec() if spec is None else _synthetic_spec(as_path(spec))
    written = write_plates(settings, as_path(folder), workers=workers, progress=progress)
    return write_specification(settings, written.folder)


def _synthetic_spec(path: Path) -> SyntheticSpec:
    """Returns the settings of a synthetic plate: the whole file, or its table [synthetic] if it has one."""
    from segue.plates.spec import PlateSpec
    from segue.plates.synthetic.spec import SyntheticSpec

    table = read_toml(path)
    if "synthetic" in table:
        spec = validate(PlateSpec, {"name": "screen", **table}, context=str(path)).synthetic
        assert spec is not None  # the table is there
        return spec
    if "files" in table:
        raise SegueError(
            f"{path}: has [files], the location of existing images, but --synthetic makes new ones; give a file with "
            f"[synthetic], or write: segue plate {path} OUT.h5"
        )
    return validate(SyntheticSpec, table, context=str(path))


def train(
    spec: PathLike,
    run: PathLike | None = None,
    *,
    store: PathLike | None = None,
    checkpoint_s: float = 60.0,
    log: Callable[[str], None] | None = None,
) -> Path:
    """Trains the stage of a TOML specification into a run folder, and returns the folder.

    Paths in the specification are relative to it. An interrupted training resumes from its checkpoint.

    store: the folder of runs that studies share, by default `runs` next to the specification. A training that is
    finished there, by a study or by this function, is copied from there; a new one is also stored there if the store
    exists, so that a study finds it. Without `run` it is trained in the store, under its key.

    log receives the lines that the command prints. Without it, a split that leaks between training and validation
    issues a `SegueWarning`.
    """
    from segue.study.store import Store, copy_run
    from segue.training import identity
    from segue.training.inputs.data import leak_message
    from segue.training.run import train_tasks
    from segue.training.run_folder import RunFolder
    from segue.training.spec import Inputs, StageSpec, TrainTask

    path = as_path(spec)
    folder = path.parent
    stage_spec = load_spec(StageSpec, path)
    if stage_spec.weights != "best" and stage_spec.parent is None:
        raise SegueError(
            f"{path}: `weights` selects weights of a parent, but there is no `from`; add it or remove weights."
        )
    if stage_spec.load is not None and stage_spec.parent is None:
        raise SegueError(f"{path}: `load` names parts of a parent, but there is no `from`; add it or remove load.")

    # its identity
    runs = Store(folder / "runs" if store is None else as_path(store))
    cache = runs.digest_cache
    datasets = {
        item.dataset: (folder / item.dataset, identity.dataset_identity(folder / item.dataset, cache))
        for item in stage_spec.data
    }
    identities = [datasets[item.dataset][1] for item in stage_spec.data]
    parent = None if stage_spec.parent is None else identity.parent_identity(stage_spec.parent, folder, cache)
    weights = folder / stage_spec.network.pretrained if isinstance(stage_spec.network.pretrained, Path) else None
    pretrained = None if weights is None else identity.weights_identity(weights, cache)
    settings = identity.shared_settings(stage_spec, identities, pretrained)
    key = identity.fingerprint(
        stage_spec, settings, identities, init=stage_spec.init, draw=stage_spec.draw, parent=parent
    ).key
    if weights is not None:
        network = stage_spec.network.model_copy(update={"pretrained": weights})
        stage_spec = stage_spec.model_copy(update={"network": network})

    # copied from the store, or trained
    stored = RunFolder(runs.run(key))
    out = stored if run is None else RunFolder(as_path(run))
    is_main = os.environ.get("RANK", "0") == "0"  # of the processes that torchrun starts
    if not out.path.exists() and stored.is_finished and stored.weights.exists():
        if is_main:
            copy_run(stored.path, out.path)
            if log is not None:
                log(f"{out.path}: the same training is finished in {runs.folder}; copied from there")
            leak = stored.read(stored.metrics).get("leak")
            if leak is not None:
                (log or _warn_of_leaks)(leak_message(leak))
        return out.path
    parent_path = None if stage_spec.parent is None else identity.parent_path(stage_spec.parent, folder)
    task = TrainTask(stage_spec, out.path, key, Inputs(datasets, parent_path))
    with freed_memory_kept():
        (error,) = train_tasks([task], checkpoint_s=checkpoint_s, log=log or _warn_of_leaks)
    if error is not None:
        raise error
    if is_main and runs.folder.is_dir() and not stored.path.exists():
        copy_run(out.path, stored.path)
    return out.path


def fit(
    images: PathLike,
    labels: PathLike,
    out: PathLike,
    *,
    minutes: float = 10.0,
    parents: Sequence[PathLike] = (),
    group: str | None = None,
    kind: str | None = None,
    license: str = "",
    curve: bool = False,
    rank: bool = False,
    progress: FitProgress | None = None,
    log: Callable[[str], None] | None = None,
) -> Fitted:
    """Trains models on a folder of images with label images, and keeps the one that held-out images show to be best.

    images, labels: folders, or patterns such as "images/{stem}.tif" with "labels/{stem}_masks.tif"; labels may be
    annotations (docs/annotations.md), also a file of all images (COCO, ilastik). Images without labels are left out.
    out: the folder of the model, which `predict` and `evaluate` take; settings and trainings are in `<out>.fit` beside
    it, as TOML files of `prepare` and of studies. minutes: about how long it takes. parents: finished runs to start
    from; each is scored untouched and transferred, beside training from scratch. group: the part of file names that
    names the group of an image, as "{group}_s*" or as a regular expression with one group. kind: "instances" or
    "classes", by default found out. license: of the images, which the model has with its parents'. curve: whether to
    train on a half, a quarter and an eighth of the labels as well, and to forecast what more of them would give. rank:
    whether to rank the images without labels, those to label next first (`next.csv` of the model).

    The same call continues an interrupted one. log receives what is seen and chosen. Raises SegueError for fewer than
    three groups, files that do not pair, and parents that were trained on these images. docs/fit.md describes it.
    """
    from segue.fitting import fit as fitting

    if kind is not None and kind not in ("instances", "classes"):
        raise SegueError(f"--kind {kind}: allowed are instances, classes; choose one of them.")
    if not minutes > 0:
        raise SegueError(f"--minutes {minutes}: allowed are numbers above 0.")
    request = fitting.Request(
        str(images), str(labels), Path(out), float(minutes), tuple(map(str, parents)), group, kind, license, curve, rank
    )  # fmt: skip
    return fitting.fit(request, progress=progress or _no_progress, log=log or _no_log)


def _no_progress(text: str, done: int, total: int, share: float | None = None, left_s: float | None = None) -> None:
    """Reports nothing."""


def _no_log(line: str) -> None:
    """Writes nothing."""


def _warn_of_leaks(line: str) -> None:
    """Turns a warning among the log lines into Python's own, for callers without a log."""
    if line.startswith("WARNING: "):
        warn(line.removeprefix("WARNING: "))


def _as_list(paths: PathLike | Sequence[PathLike] | None) -> Sequence[PathLike]:
    return [] if paths is None else [paths] if isinstance(paths, (str, Path)) else paths


def _as_typed(path: Path) -> str:
    """Returns the path as one would type it: relative if it is below the current folder."""
    absolute = path.absolute()
    return str(absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute)


def predict(run: Model | PathLike, images: Any, *, out: Any = None, tiling: Tiling | None = None) -> Any:
    """Returns the class of every pixel, int64, of images (H, W), (C, H, W) or (N, C, H, W) in acquired units.

    If the target of the run is of objects (flows, rays …): the objects of each image, numbered 1 … n, 0 background.

    The result has the shape of the images without channels: (H, W) or (N, H, W). Each image is normalized as in
    training, by its own statistics. Raises SegueError for another number of channels.

    If the run classifies whole images: the class of each, () or (N,) int64. If it reconstructs them: the images
    themselves, (C, H, W) or (N, C, H, W) float32 in acquired units: denoised, if it was trained on noise.

    Issues a warning with numbers where contrast, saturation or margins of the images lie outside of what the run was
    trained on. Images of more than 2048 × 2048 px, or all if `tiling` is given, are read, scored and decoded by tiles;
    they may be memory maps, zarr or HDF5. The result is that of the whole image but for rounding of the scores, unless
    objects are longer than half a tile, which issues a warning, or the network depends on the whole image (see
    `segue.inference.predict`). run: a run folder, or a model that was loaded (`segue.load`). out: an array of integers
    to write to and to return, for example a memory map.

    >>> labels = predict("runs/train-0123456789abcdef", image)  # doctest: +SKIP
    """
    from segue.inference import domain
    from segue.inference import predict as inference

    model = _model(run)
    labels = inference.predict(model, images, out=out, tiling=tiling)
    for sentence in domain.describe_differences(model, inference.image_views(model, images)):
        warn(sentence)
    return labels


def probabilities(run: Model | PathLike, images: Any, *, tiling: Tiling | None = None) -> np.ndarray:
    """Returns the probability of each class, float32 (K, H, W) or (N, K, H, W), of images as `predict` takes them."""
    from segue.inference import predict as inference

    return inference.probabilities(_model(run), images, tiling=tiling)


def predict_files(
    model: PathLike,
    images: Sequence[PathLike],
    out: PathLike,
    *,
    format: str = "tiff",
    probabilities: bool = False,
    tta: bool | None = None,
    rescale: bool = False,
    table: str = "csv",
    write: str | Sequence[str] = (),
    annotations: bool = False,
    workers: int = 1,
    scheduler: str | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Prediction:
    """Predicts image files into the folder `out`: labels, overlays, a table of objects and one of images.

    model: the folder of a finished run. images: files, folders, patterns, OME-Zarr. format: of labels, "tiff",
    "ome-tiff", "ome-zarr" (0.5) or "ome-zarr-0.4". tta: averages over the eight rotations and reflections; None: as
    the run does. rescale: resamples to the pixel size of the training. table: "csv" or "parquet". write: formats of
    outlines for other programs, "geojson", "geojson-gz", "imagej-roi", "coco", "geoparquet" (`segue.write_objects`);
    annotations: the objects of GeoJSON are QuPath's annotations, not detections.

    Large images are read, predicted and written by tiles. The same call continues an interrupted one; other settings in
    the same folder raise SegueError. Images that cannot be predicted are `errors` of the result. docs/predict.md and
    docs/exchange.md describe what is written.
    """
    from segue.exchange.pictures import WRITERS
    from segue.exchange.write import OUTLINE_FORMATS
    from segue.fingerprint import hash_files
    from segue.inference import predict_files as files
    from segue.training.run_folder import RunFolder, load_run
    from segue.zoo.shipped import find_model

    for name, value, allowed in (("format", format, tuple(WRITERS)), ("table", table, ("csv", "parquet"))):
        if value not in allowed:
            raise SegueError(f"--{name} {value}: allowed are {', '.join(allowed)}; choose one of them.")
    names = [part for one in ([write] if isinstance(write, str) else write) for part in one.split(",") if part]
    for one in names:
        if one not in OUTLINE_FORMATS:
            remedy = f"label images are written by --format {one}" if one in WRITERS else "choose among them"
            raise SegueError(f"--write {one}: allowed are {', '.join(OUTLINE_FORMATS)}; {remedy}.")
    run = RunFolder(find_model(model))
    key = hash_files([run.weights_file("best"), run.spec, run.metrics])
    tta = run.read_stage().tta if tta is None else tta
    settings = files.PredictSettings(
        format=format,  # pyright: ignore[reportArgumentType]
        probabilities=probabilities,
        tta=tta,
        rescale=rescale,
        table=table,  # pyright: ignore[reportArgumentType]
        write=tuple(one for one in OUTLINE_FORMATS if one in names),
        annotations=annotations,
    )
    return files.predict_files(
        files.ModelSource(run.path.absolute(), key, load_run),
        images,
        as_path(out),
        settings,
        workers=workers,
        scheduler=scheduler,
        progress=progress,
    )


def load(run: PathLike) -> TrainedModel:
    """Returns the model of a finished run folder, or the one that ships with segue under this name ("nuclei").

    `predict` and `probabilities` accept it in place of the folder. Its `network` is an `nn.Module` on the CPU, in
    evaluation mode, from normalized images (N, C, H, W) to scores; its `target` decodes them.

    >>> network = segue.load("nuclei").network  # doctest: +SKIP
    """
    from segue.training.run_folder import load_run
    from segue.zoo.shipped import find_model

    return load_run(find_model(run))


def export(
    run: PathLike,
    out: PathLike,
    *,
    format: str | None = None,
    tta: bool | None = None,
    card: PathLike | None = None,
    image: PathLike | None = None,
    license: str | None = None,
    authors: Sequence[str] = (),
    postprocessing: bool = False,
    log: Callable[[str], None] | None = None,
) -> Path:
    """Writes a finished run, or a shipped model, for other programs, and returns the path.

    format: "onnx", "torchscript", "bioimageio" (a package), or "folder": a run of segue in half precision, for others
    to predict with and to start from. None: by the suffix, .onnx, .pt, .zip, or none. The first three take images in
    acquired units, normalize them inside, and are compared with torch at three sizes before they appear;
    docs/exchange.md says what they give.

    tta: whether the mean over the eight rotations and reflections is exported; None: as the run does. card (folder,
    bioimageio): a Markdown file; by default card.md of the run, or one made of what the run recorded. Of a package:
    image, a file of which cover and test tensors are made; license, an SPDX identifier, by default that of the run;
    authors, "Name" or "Name, Affiliation"; postprocessing: the thresholds of flows and rays are declared as the
    standard's post-processing, which needs cellpose or stardist wherever the package is tested. log receives notes,
    such as how far onnxruntime differs. Raises SegueError where `out` exists.

    >>> segue.export("run", "model.onnx")  # doctest: +SKIP
    """
    from segue.exporting.export import ExportSettings, export_run
    from segue.zoo.shipped import find_model

    settings = ExportSettings(
        tta,
        None if card is None else as_path(card),
        None if image is None else as_path(image),
        license,
        tuple(authors),
        postprocessing,
    )
    export_run(find_model(run), as_path(out), settings, format=format, log=log or _no_log)
    return Path(out)


def unpack(package: PathLike, out: PathLike) -> Path:
    """Writes the run inside a bioimage.io package (.zip) that segue exported into the folder `out`, and returns it.

    Nothing in the package is executed; its files are checked by their digests. Raises SegueError where `out` exists,
    and for the package of another program, with what it is.
    """
    from segue.exporting import unpack as unpacking

    unpacking.unpack(as_path(package), as_path(out))
    return Path(out)


def _model(run: Model | PathLike) -> Model:
    from segue.inference.model import Model

    return run if isinstance(run, Model) else load(run)


def evaluate(
    run: PathLike,
    dataset: PathLike,
    *,
    part: str = "test",
    conditions: dict[str, Any] | None = None,
    log: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Returns the scores of a run on a part (test, validation) of a dataset, under the run's own split.

    log receives sentences, with numbers, on how the images lie outside of what the run was trained on. Without it they
    are Python's warnings.
    """
    from segue.study.evaluate import domain_differences, score_run
    from segue.training.spec import DataSpec

    if part not in ("test", "validation"):
        raise SegueError(f"part '{part}': allowed are test and validation; choose one of them.")
    data = validate(DataSpec, {"dataset": str(dataset), "conditions": conditions or {}}, context="evaluate")
    model, of_part = load(run), "validation" if part == "validation" else "test"
    scores = score_run(model, as_path(dataset), data, of_part)
    for sentence in domain_differences(model, Path(dataset), data, of_part):
        (log or warn)(sentence)
    return scores


def evaluate_folder(model: Model | PathLike, folder: PathLike) -> FolderScores:
    """Returns the scores of a run, or of a loaded model, on the label images of a folder, without a dataset.

    folder: has images/ and labels/ with files of the same names, or is a specification (.toml) as `prepare` takes it.
    Whole images are predicted; scores have the names of those on the micrographs of a dataset.
    """
    from segue.evaluation import folder as folders

    loaded = _model(model)
    return folders.evaluate_folder(loaded, as_path(folder), context=str(getattr(loaded, "folder", "the model")))


def compare(
    labels: PathLike,
    masks: Mapping[str, PathLike | Model],
    *,
    images: PathLike | None = None,
    out: PathLike | None = None,
    spec: ToolsSpec | None = None,
    margin: float | None = None,
) -> ToolComparison:
    """Compares label images made by any tools on the same labeled images; writes a page and a table if `out` is given.

    labels: a folder of label images, one file, or a pattern such as "labels/{stem}_masks.tif". masks: the same of each
    tool, or the folder of a finished run or a loaded model, which predicts `images` (a folder or pattern). Files pair
    by name. spec: classes, groups of images, masks to be numbered (`segue.ToolsSpec`). margin: within which scores from
    0 to 1 are equivalent. The result has the tables `images`, `scores` and `differences`; out: an .html file, beside
    which the table of images stands as .csv. docs/compare.md describes the page.
    """
    from segue.evaluation.tools import ToolsSpec, score_tools
    from segue.inference.model import Model
    from segue.reporting.tables.tool_comparison import compare_tools
    from segue.training.run_folder import RunFolder
    from segue.zoo.shipped import shipped_models

    if out is not None:
        from segue.reporting.page.tools import check_outputs

        check_outputs(Path(out))
    tools: dict[str, Model | PathLike] = {
        name: load(place)
        if not isinstance(place, Model) and (RunFolder(Path(place)).is_finished or str(place) in shipped_models())
        else place
        for name, place in masks.items()
    }
    comparison = compare_tools(score_tools(labels, tools, images=images, spec=spec or ToolsSpec()), margin=margin)
    if out is not None:
        from segue.reporting.page.tools import write_tools_page

        write_tools_page(comparison, Path(out))
    return comparison


def film(
    run: PathLike,
    *outs: PathLike,
    dataset: PathLike | None = None,
    field: str | None = None,
    crop: tuple[int, int, int, int] | None = None,
    frames_per_s: float | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Writes the film of a run's classification by epoch into .mp4, .gif and .png (a sheet) files; returns them.

    It shows the validation images whose predictions the run kept (`film`), or the micrograph `field` of a dataset, or
    its part y, x, height, width in px, if the run kept the weights of its epochs.
    """
    from segue.reporting.video import film as films

    if (dataset is None) != (field is None) or (crop is not None and field is None):
        raise SegueError(
            f"{run}: a field is a micrograph of a dataset; give both dataset and field, with or without a crop of it, "
            "or neither of them for the film of the run's own validation images."
        )
    if dataset is None or field is None:
        content = films.film_of_run(as_path(run))
    else:
        content = films.film_of_field(as_path(run), as_path(dataset), field, crop)
    paths = [as_path(out) for out in outs]
    films.write_film(content, paths, frames_per_s=frames_per_s, progress=progress)
    return paths


def count(
    run: PathLike,
    dataset: PathLike,
    out: PathLike,
    options: CountOptions | None = None,
    *,
    progress: Progress | None = None,
) -> list[str]:
    """Counts the cells of each class per well and time point into a table; returns a headline and notes, in lines.

    `options`: truth, a second run, and a figure and a page to write (`segue.plates.counting.count.CountOptions`).
    """
    from segue.plates.counting.count import CountOptions, count_wells
    from segue.reporting.figures.predictions.wells import counts_figure
    from segue.reporting.figures.style import write_figure
    from segue.reporting.page.counts import write_counts_page
    from segue.storage import write_table
    from segue.zoo.shipped import find_model

    options = options or CountOptions()
    if options.value not in COUNT_VALUES:
        raise SegueError(f"value = '{options.value}'; allowed are {', '.join(COUNT_VALUES)}.")
    counts = count_wells(
        find_model(run),
        as_path(dataset),
        spec=options.counting,
        objects=options.objects,
        tune_on=options.tune_on,
        truth=options.truth,
        progress=progress,
    )
    write_table(counts.table, as_path(out))
    lines = [counts.headline, *counts.notes, f"table: {out}"]
    if options.figure is not None or options.page is not None:
        drawing = counts_figure(counts.table, conditions=counts.conditions, by=options.by, value=options.value)
        if options.figure is not None:
            write_figure(drawing.figure, options.figure)
            lines.append(f"figure: {options.figure}")
        if options.page is not None:
            title, notes = f"Counts in the wells of {Path(dataset).name}", [counts.headline, *counts.notes]
            write_counts_page([drawing], counts.errors, options.page, title=title, notes=notes)
            lines.append(f"page: {options.page}")
    return lines


def plan(study: PathLike, *, store: PathLike | None = None) -> Plan:
    """Returns the plan of a study file: its distinct stages, which are finished, what it needs. Runs nothing."""
    from segue.study.plan import plan_study

    return plan_study(as_path(study), None if store is None else as_path(store))


def run_study(
    study: PathLike,
    *,
    store: PathLike | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    cluster: PathLike | None = None,
    budget: Sequence[str] = (),
    force: bool = False,
    side_by_side: int | None = None,
    progress: StudyProgress | None = None,
    log: Callable[[str], None] | None = None,
) -> Summary:
    """Runs all stages of a study that are not finished; see `segue.study.executor.run_study`.

    cluster: a TOML file by which workers are submitted to a batch system (`segue.study.cluster.batch_jobs.BatchSpec`);
    budget: a time and an energy, such as ["8h", "2.5kWh"], after which the study stops; the same call continues it.
    Without log, what is noted of datasets and domains are Python's warnings.
    """
    from segue.study import executor
    from segue.study.budget import Budget

    return executor.run_study(
        plan(study, store=store),
        workers=workers,
        scheduler=scheduler,
        cluster=None if cluster is None else as_path(cluster),
        budget=Budget.parse(budget),
        force=force,
        side_by_side=side_by_side,
        progress=progress,
        log=log or warn,
    )


def table(
    study: PathLike,
    *,
    store: PathLike | None = None,
    per_image: bool = False,
    log: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Returns the tidy table of a study: one row per run and domain it was scored on.

    per_image: one row per test image of these instead, with its group (micrograph, structure, well) and the scores of
    the image by itself, whose means are not the pooled scores of the other table. log receives what is left out;
    without it, that is Python's warnings.
    """
    from segue.study.table import image_table, results_table

    if not per_image:
        return results_table(plan(study, store=store))
    images, notes = image_table(plan(study, store=store))
    for note in notes:
        (log or warn)(note)
    return images


def analyze(
    what: PathLike,
    name: str,
    *,
    stage: str | None = None,
    store: PathLike | None = None,
    metric: str | None = None,
    columns: PathLike | None = None,
    options: Options | None = None,
    where: Sequence[str] = (),
    without: Sequence[str] = (),
) -> list[Analysis]:
    """Returns the tables of an analysis of a study file or of a table, as `segue study analyze` prints them.

    name: a name of `segue.reporting.analysis.tables.ANALYSES`; metric, columns, where, without: see `report`.
    """
    from segue.reporting.analysis.tables import analyze

    comparison = _comparison(what, store, metric, columns, where=where, without=without)
    return analyze(comparison, name, stage, options=options)


def advise(
    what: PathLike,
    *,
    target: str | None = None,
    labels: float | None = None,
    stage: str | None = None,
    store: PathLike | None = None,
    metric: str | None = None,
    columns: PathLike | None = None,
) -> Advice:
    """Returns which source, rates and frozen part to choose for a transfer to `target` with `labels` labels.

    Learned from a study file's finished runs or from a table. target: a domain of it, or None for another; stage: a
    transfer, by default the last one. See `segue.reporting.analysis.advice.advise`.
    """
    from segue.reporting.analysis.advice import advise

    comparison = _comparison(what, store, metric, columns)
    transfers = comparison.transfer_stages
    if not transfers:
        raise SegueError(f"{what}: has no finished transfer, from which to learn what to advise.")
    if stage is not None and stage not in transfers:
        raise SegueError(f"advise --stage: {unknown(stage, transfers, 'transfer')}.")
    return advise(comparison, stage or transfers[-1], target, labels)


def _comparison(
    what: PathLike,
    store: PathLike | None,
    metric: str | None,
    columns: PathLike | None,
    *,
    where: Sequence[str] = (),
    without: Sequence[str] = (),
) -> Comparison:
    from segue.reporting.analysis.comparison import compare
    from segue.reporting.tables.selection import select_results

    if as_path(what).suffix == ".toml":
        from segue.study.table import collect

        results = collect(plan(what, store=store), command="")
    else:
        from segue.reporting.tables.table_import import from_table

        results = from_table(as_path(what), columns=None if columns is None else as_path(columns))
    return compare(select_results(results, where=where, without=without), metric)


def report(
    what: PathLike | Sequence[PathLike],
    out: PathLike,
    *,
    store: PathLike | None = None,
    metric: str | None = None,
    columns: PathLike | Sequence[PathLike] | None = None,
    where: Sequence[str] = (),
    without: Sequence[str] = (),
) -> Path:
    """Writes the page of a study file, of tables (Parquet, CSV) made anywhere, or of the folder of a finished run, and
    returns its path.

    metric: the column to compare by, by default the loss; columns: a TOML file that maps the columns of tables made
    elsewhere, or one for each of them; where, without: conditions "COLUMN=VALUE" on the rows of the table, such as
    "transfer.domain=0 nm". The page says how many rows they leave out. None of these is for the page of a run.
    """
    from segue.reporting.tables.selection import select_results
    from segue.training.run_folder import RunFolder

    paths = [as_path(one) for one in _as_list(what)]
    path, page = paths[0], as_path(out)
    if path.is_dir() or RunFolder(path).working.path.is_dir():
        if len(paths) > 1 or store is not None or metric or columns or where or without:
            raise SegueError(f"report {path}: the page of a run takes no table and no option but -o; give it alone.")
        from segue.reporting.page.run_page import write_run_page

        write_run_page(path, page)
        return page
    if path.suffix == ".toml":
        if len(paths) > 1:
            raise SegueError(f"{paths[1]}: a page is of one study, or of tables; give {path} alone.")
        from dataclasses import replace

        from segue.reporting.analysis.comparison import compare
        from segue.reporting.analysis.domains import domain_shift
        from segue.reporting.figures.predictions.objects import typical_runs
        from segue.reporting.video.film import runs_with_film
        from segue.study.examples import example_images, object_examples
        from segue.study.table import collect

        planned = plan(path, store=store)
        option = f" --store {_as_typed(Path(store))}" if store is not None else ""
        results = collect(planned, command=f"segue study run {_as_typed(path)}{option}")
        results = select_results(results, where=where, without=without)
        objects = object_examples(planned, typical_runs(compare(results, metric)))
        films = runs_with_film(planned, results.table)
        results = replace(
            results,
            examples=example_images(planned, results.table),
            object_examples=objects,
            films=films,
            domain_shift=domain_shift(planned, results.table),
            run_folder=lambda run: _as_typed(planned.store.run(run)),
        )
    else:
        from segue.reporting.tables.table_import import from_tables

        results = from_tables(paths, columns=[as_path(one) for one in _as_list(columns)])
        results = select_results(results, where=where, without=without)
    from segue.reporting.page.page import write_page

    write_page(results, page, metric=metric)
    return page
