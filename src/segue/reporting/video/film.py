"""The film of a training: how the classes of a field of view, and the curves of precision by recall, change by epoch.

It shows the predictions for some validation images during the training (`film` in its stage), or any micrograph of a
dataset, which is then predicted with the weights of every epoch (`keep_epochs`). Epochs are predicted one by one
while the film is written, so that memory does not depend on their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from segue import device
from segue.data.dataset import Dataset
from segue.data.tiling import Region, Tiling
from segue.errors import SegueError
from segue.evaluation import pixel_metrics
from segue.inference.predict import LARGE_PX, TiledPredictor, tiled_predictor
from segue.reporting.analysis.comparison import numeric
from segue.reporting.figures.predictions.examples import gray_levels
from segue.reporting.figures.style import ReportFigure, png_bytes
from segue.reporting.formatting import join_names, stage_label
from segue.reporting.video.frames import FrameRenderer, VideoContext, VideoFrame, sheet_figure
from segue.storage import replacing
from segue.study.evaluate import target_for
from segue.training.freezing import load_parts
from segue.training.inputs.data import choose_layer
from segue.training.logging import load_film
from segue.training.run_folder import RunFolder, TrainedModel, load_run

if TYPE_CHECKING:
    import pandas as pd

    from segue.study.plan import Plan

Progress = Callable[[int, int], None]
AddFrame = Callable[[np.ndarray], None]
TRACKS = ("lr", "train_loss", "validation_loss")  # columns of the history
LENGTH_S, MIN_FRAMES_PER_S, MAX_FRAMES_PER_S = 12.0, 2.0, 12.0  # by default
STILL_S = 2.0  # how long the last frame stays
SHEET_FRAMES = 8
MAX_FILMS = 3  # in a page
MAX_FIELDS_NAMED = 8  # in a message
GIF_COLORS = 192


@dataclass(frozen=True)
class Film:
    """A film to be drawn: `frames` yields the predictions for a selection of the context's epochs."""

    context: VideoContext
    frames: Callable[[Sequence[int]], Iterator[VideoFrame]]


def film_of_run(run: Path) -> Film:
    """Returns the film of the validation images that the run kept predictions of; raises SegueError without any.

    The weights need not be kept. Probabilities are of 8 bit, as `pixel_metrics.histogram` counts them.
    """
    folder = RunFolder(run)
    folder.require_finished()
    images, labels, epochs, probabilities = load_film(run)
    names = tuple(folder.read(folder.spec)["model"]["names"])
    count = probabilities.shape[2]
    if count != len(names):
        raise SegueError(f"{run}: its film has {count} classes, the run {len(names)}; train the run again.")
    truth = torch.from_numpy(labels.astype(np.int64))

    def frames(selected: Sequence[int]) -> Iterator[VideoFrame]:
        for epoch in selected:
            of_epoch = probabilities[epochs.index(epoch)]
            counts = pixel_metrics.histogram(torch.from_numpy(of_epoch).float() / 255, truth.clone())
            yield VideoFrame(epoch, of_epoch.argmax(1).astype(np.uint8), counts.numpy())

    subtitle = "a validation image" if len(images) == 1 else f"{len(images)} validation images"
    gray = np.stack([gray_levels(image[0]) for image in images])
    return Film(_context(folder, gray, labels.astype(np.int16), names, subtitle, epochs), frames)


def film_of_field(run: Path, dataset: Path, field: str, crop: tuple[int, int, int, int] | None = None) -> Film:
    """Returns the film of a whole micrograph of a dataset, or of the part y, x, height, width of it, in px.

    The part is predicted as it would be in the whole image, by whose statistics it is normalized. Raises SegueError
    where the run did not keep the weights of its epochs, or the micrograph does not fit it or has no labels.
    """
    folder = RunFolder(run)
    weights = folder.epoch_files()
    model = load_run(run)
    if model.target.output in ("image", "image_class"):
        raise SegueError(f"{run}: target '{model.spec.target.name}' has no classes of pixels to show in a film.")
    image, truth, use = _read_field(model, dataset, field)
    region = _region(crop, image.shape[1:], f"{dataset}: micrograph '{field}'")
    truth = region.read(truth)
    if not (truth >= 0).any():
        raise SegueError(f"{dataset}: micrograph '{field}' has no labeled pixel there; choose another part or field.")

    def frames(selected: Sequence[int]) -> Iterator[VideoFrame]:
        model.network.to(device.default_device())
        is_whole = region.shape == image.shape[1:] and truth.size <= LARGE_PX
        predictor = tiled_predictor(
            model.predictor,
            image,
            normalization=model.spec.normalize,
            divisor=model.divisor,
            context_px=0 if is_whole else None,
        )
        for epoch in selected:
            load_parts(model.network, folder.read_weights(weights[epoch]), None, context=str(weights[epoch]))
            yield _predict(model, predictor, region, truth, epoch)

    gray = gray_levels(region.read(image)[0])[None]
    part = "" if crop is None else f", {region.shape[0]} × {region.shape[1]} px at y {region.top}, x {region.left}"
    subtitle = f"{field}{part}{use}"
    return Film(_context(RunFolder(run), gray, truth[None], model.target.names, subtitle, list(weights)), frames)


def _read_field(model: TrainedModel, path: Path, field: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Returns the image (C, H, W), its classes (H, W) int16, and what the run used its group for, as text."""
    with Dataset(path) as dataset:
        layer = choose_layer(dataset, model.spec.target)
        target = target_for(model, layer, str(path))
        if dataset.channels != model.channels:
            raise SegueError(
                f"{path}: has channels {dataset.channels}, but {model.folder} was trained on {model.channels}; give a "
                "dataset of the same channels."
            )
        fields = dataset.micrograph_ids()
        if field not in fields:
            remedy = ": name one of them." if fields else ", or make the dataset with keep_micrographs = true."
            raise SegueError(f"{path}: holds no micrograph '{field}'; stored: {_name_some(fields) or 'none'}{remedy}")
        micrograph = dataset.micrograph(field)
        if layer.name not in micrograph.labels:
            labeled = [source for source in fields if layer.name in dataset.micrograph_layers(source)]
            remedy = "no other stored one has them; use the dataset that the run was trained on."
            if labeled:
                remedy = f"name one of the {len(labeled)} that have them: {_name_some(labeled)}."
            raise SegueError(
                f"{path}: micrograph '{field}' has no labels '{layer.name}' to compare predictions with; {remedy}"
            )
        labels = torch.from_numpy(micrograph.labels[layer.name].astype(np.int64))[None]
        samples = dataset.samples()
        groups = set(samples["group"][samples["source"] == field])
    truth = target.target_classes(target.encode(labels))[0].numpy().astype(np.int16)
    if truth.max(initial=0) >= len(model.target.names):
        raise SegueError(
            f"{path}: has classes {layer.names}, but {model.folder} was trained on {model.target.names}; give a "
            "dataset of the same classes."
        )
    return micrograph.image, truth, _use_of(RunFolder(model.folder), groups)


def _name_some(fields: Sequence[str]) -> str:
    return ", ".join(fields[:MAX_FIELDS_NAMED]) + (", …" if len(fields) > MAX_FIELDS_NAMED else "")


def _use_of(run: RunFolder, groups: set[str]) -> str:
    """Returns the use of these groups by the run, in brackets; nothing if it is unknown."""
    used = run.read(run.groups)
    for name, use in (("training", "trained on"), ("ancestors", "trained on"), ("validation", "validation")):
        if groups & set(used.get(name, ())):
            return f" ({use})"
    return " (never trained on)" if groups else ""


def _region(crop: tuple[int, int, int, int] | None, shape: tuple[int, ...], context: str) -> Region:
    if crop is None:
        return Region(0, 0, shape[0], shape[1])
    y, x, height, width = crop
    if y < 0 or x < 0 or height < 1 or width < 1 or y + height > shape[0] or x + width > shape[1]:
        raise SegueError(
            f"{context}: the part y,x,height,width = {y},{x},{height},{width} does not lie in its {shape[0]} ×"
            f" {shape[1]} px; give another part."
        )
    return Region(y, x, y + height, x + width)


def _predict(
    model: TrainedModel, predictor: TiledPredictor, region: Region, truth: np.ndarray, epoch: int
) -> VideoFrame:
    """Returns the prediction of the network for a region, tile by tile; truth (H, W) is of the region."""
    classes = np.empty((1, *region.shape), np.uint8)
    counts = torch.zeros((len(model.target.names), 2, pixel_metrics.BINS), dtype=torch.int64)
    side = max(region.shape) if truth.size <= LARGE_PX else Tiling().tile_px
    for tile in Tiling(side, 0).cores(region.shape):
        top, left = region.top + tile.top, region.left + tile.left
        scores = torch.from_numpy(predictor.scores(Region(top, left, top + tile.shape[0], left + tile.shape[1])))[None]
        labels = torch.from_numpy(tile.read(truth).astype(np.int64))[None]
        counts += pixel_metrics.histogram(model.target.probabilities(scores), labels)
        classes[(0, *tile.slices)] = model.target.classes(scores)[0].numpy()
    return VideoFrame(epoch, classes, counts.numpy())


def _context(
    run: RunFolder, gray: np.ndarray, truth: np.ndarray, names: tuple[str, ...], subtitle: str, epochs: Sequence[int]
) -> VideoContext:
    """Returns the context of a film; gray (n, H, W) uint8 and truth (n, H, W) are what it shows."""
    table = run.read_history()
    history = {str(name): table[name].to_numpy(float) for name in table.columns}
    curves = {
        name: (history["epoch"], history[name])
        for name in TRACKS
        if name in history and np.isfinite(history[name]).any()
    }
    return VideoContext(gray, truth, names, run.path.resolve().name, subtitle, tuple(epochs), curves)


def runs_with_film(plan: Plan, table: pd.DataFrame) -> dict[str, Path]:
    """Returns for each stage of a study whose runs kept a film, up to three, the folder of its run of median loss."""
    folders: dict[str, Path] = {}
    for stage, rows in table.groupby("stage", sort=False) if "stage" in table.columns else ():
        losses = rows.assign(loss=numeric(rows, "loss")).dropna(subset="loss").groupby("run")["loss"].mean()
        ordered = sorted(map(str, losses.index), key=lambda run: (losses[run], run))
        runs = [plan.store.run(run) for run in ordered]
        filmed = [run for run in runs if (RunFolder(run).film / "still.npz").is_file()]
        if filmed and len(folders) < MAX_FILMS:
            folders[str(stage)] = filmed[(len(filmed) - 1) // 2]
    return folders


def film_sheet(stage: str, run: Path) -> ReportFigure:
    """Returns the sheet of a run's film for the page, with the meaning of its colors and curves."""
    film = film_of_run(run)
    epochs = evenly_spaced(film.context.epochs, SHEET_FRAMES)
    figure = sheet_figure(film.context, list(film.frames(epochs)))
    foreground = join_names(film.context.names[1:])
    caption = (
        f"The run {run.name}, of median loss, on {film.context.subtitle}: true positives are green; a pixel that was"
        " missed, or invented, has the color of that class (of one that was given another foreground class: of the"
        f" labeled one). Below, precision by recall of {foreground} over these pixels. The film: segue film {run.name}"
        " -o film.mp4; also of any labeled field if the stage has keep_epochs = true."
    )
    alt = f"Classification of {foreground} at epochs {join_names(list(map(str, epochs)))}"
    return ReportFigure(f"film-{stage}", figure, f"Classification by epoch, {stage_label(stage)}.", caption, alt)


def write_film(
    film: Film, outs: Sequence[Path], *, frames_per_s: float | None = None, progress: Progress | None = None
) -> None:
    """Writes the film into each file, by its suffix: .mp4 (H.264), .gif, or .png, a sheet of up to eight epochs.

    Every epoch is predicted once. frames_per_s: by default as many, from 2 to 12, as make twelve seconds. Raises
    SegueError for other endings.
    """
    odd = [out for out in outs if out.suffix.lower() not in (*WRITERS, ".png")]
    if odd or not outs:
        raise SegueError(f"{odd[0] if odd else 'film'}: films are written as .mp4, .gif or .png; choose one of these.")
    if frames_per_s is not None and not 0.1 <= frames_per_s <= 60:
        raise SegueError(f"film: {frames_per_s:g} frames per second; allowed are 0.1 to 60.")
    epochs, sheet_epochs = film.context.epochs, evenly_spaced(film.context.epochs, SHEET_FRAMES)
    rate = frames_per_s or min(max(len(epochs) / LENGTH_S, MIN_FRAMES_PER_S), MAX_FRAMES_PER_S)
    videos = [out for out in outs if out.suffix.lower() in WRITERS]
    selected = epochs if videos else sheet_epochs
    sheet: list[VideoFrame] = []
    with ExitStack() as opened:
        renderer = FrameRenderer(film.context) if videos else None
        writers = []
        if renderer is not None:
            writers = [opened.enter_context(WRITERS[out.suffix.lower()](out, renderer, rate)) for out in videos]
        for done, frame in enumerate(film.frames(selected), start=1):
            if frame.epoch in sheet_epochs:
                sheet.append(frame)
            if renderer is not None:
                pixels = renderer.render(frame)
                for add_frame in writers:
                    add_frame(pixels)
            if progress is not None:
                progress(done, len(selected))
    for out in outs:
        if out not in videos:
            with replacing(out) as partial:
                partial.write_bytes(png_bytes(sheet_figure(film.context, sheet)))


def evenly_spaced(epochs: Sequence[int], count: int) -> tuple[int, ...]:
    """Returns up to `count` epochs, evenly spaced, the first and the last among them.

    >>> evenly_spaced(range(1, 101), 4)
    (1, 34, 67, 100)
    """
    places = np.rint(np.linspace(0, len(epochs) - 1, min(count, len(epochs)))).astype(int)
    return tuple(epochs[place] for place in places)


@contextmanager
def _mp4_writer(out: Path, renderer: FrameRenderer, rate: float) -> Iterator[AddFrame]:
    """Gives a function that adds a frame (H, W, 3) uint8 to an H.264 film for browsers: yuv420p, its index in front."""
    try:
        import av
        from av.video.reformatter import ColorRange, Colorspace
    except ImportError as error:
        raise SegueError(f"{out}: PyAV is not installed ({error}); run `pip install av`, or write a .gif.") from error
    last: list[np.ndarray] = []
    with (
        replacing(out) as partial,
        av.open(str(partial), "w", format="mp4", options={"movflags": "faststart"}) as container,
    ):
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000))
        stream.height, stream.width = renderer.size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "17", "preset": "medium"}
        context = stream.codec_context
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG  # else players guess by the size
        context.color_primaries = context.color_trc = 1  # BT.709, too

        def add_frame(pixels: np.ndarray) -> None:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame = frame.reformat(
                format="yuv420p", src_color_range=ColorRange.JPEG, dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
            )  # fmt: skip
            for packet in stream.encode(frame):
                container.mux(packet)
            last[:] = [pixels]

        yield add_frame
        for _ in range(round(STILL_S * rate)):
            add_frame(last[0])
        for packet in stream.encode():
            container.mux(packet)


@contextmanager
def _gif_writer(out: Path, renderer: FrameRenderer, rate: float) -> Iterator[AddFrame]:
    """Gives a function that adds a frame (H, W, 3) uint8 to a GIF, whose colors are chosen at the first frame."""
    frames: list[Image.Image] = []
    palette: list[Image.Image] = []

    def add_frame(pixels: np.ndarray) -> None:
        if not palette:
            palette.append(Image.fromarray(renderer.palette(pixels)).quantize(GIF_COLORS))
        # not dithered: what stays the same is then stored once
        frames.append(Image.fromarray(pixels).quantize(palette=palette[0], dither=Image.Dither.NONE))

    yield add_frame
    frame_ms = max(round(100 / rate), 2) * 10
    durations = [frame_ms] * (len(frames) - 1) + [max(frame_ms, round(1000 * STILL_S))]
    with replacing(out) as partial:
        frames[0].save(
            partial, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=True
        )


WRITERS: dict[str, Callable[[Path, FrameRenderer, float], AbstractContextManager[AddFrame]]] = {
    ".mp4": _mp4_writer,
    ".gif": _gif_writer,
}
