"""The film of a training: how the classes of a field of view, and the curves of precision by recall, change by epoch.

It is of what the run predicted for some validation images while it trained (`film` in its stage), or of any micrograph
of a dataset, which is then predicted with the weights of every epoch (`keep_epochs`). Epochs are predicted one by one
while the film is written, so that memory does not depend on their number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from html import escape
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
from segue.inference.predict import Scorer
from segue.reporting.figures.examples import grey_levels
from segue.reporting.figures.style import Drawing, png_bytes
from segue.reporting.page.formatting import listed, stage_words
from segue.reporting.video.frames import Scene, Screen, Shot, sheet_figure
from segue.storage import replacing
from segue.study.evaluate import target_for
from segue.targets.classes import ImageClass
from segue.targets.reconstruction import Reconstruction
from segue.training import checkpoint
from segue.training.data import choose_layer
from segue.training.freezing import load_parts
from segue.training.logging import FILM, load_film
from segue.training.run_folder import Model, epoch_files, is_finished, load_run

if TYPE_CHECKING:
    import pandas as pd

    from segue.study.plan import Plan

Progress = Callable[[int, int], None]
Write = Callable[[np.ndarray], None]
COURSES = ("lr", "train_loss", "validation_loss")
LARGE_PX = 2048 * 2048  # what has more is predicted tile by tile
LENGTH_S, SLOWEST, FASTEST = 12.0, 2.0, 12.0  # how long a film is by default, and its frames per second
STILL_S = 2.0  # how long the last frame stays
SHEET_FRAMES = 8
MOST_FILMS = 3  # in a page
SHOWN_FIELDS = 8  # in a message
GIF_COLOURS = 192
MOVING = (".mp4", ".gif")


@dataclass(frozen=True)
class Film:
    """A film that is yet to be drawn: `shots` yields what was predicted in each of some of the scene's epochs."""

    scene: Scene
    shots: Callable[[Sequence[int]], Iterator[Shot]]


def film_of_run(run: Path) -> Film:
    """Returns the film of the validation images that the run kept predictions of; raises SegueError without any.

    The weights need not be kept. Probabilities are of 8 bit, as `curves.histogram` counts them.
    """
    if not is_finished(run):
        raise SegueError(f"{run}: is no finished run (no metrics.json); finish it, or give another run.")
    images, labels, epochs, frames = load_film(run)
    names = _names(run)
    if frames.shape[2] != len(names):
        raise SegueError(f"{run}: its film has {frames.shape[2]} classes, the run {len(names)}; train the run again.")
    truth = torch.from_numpy(labels.astype(np.int64))

    def shots(wanted: Sequence[int]) -> Iterator[Shot]:
        for epoch in wanted:
            kept = frames[epochs.index(epoch)]
            counts = pixel_metrics.histogram(torch.from_numpy(kept).float() / 255, truth.clone())
            yield Shot(epoch, kept.argmax(1).astype(np.uint8), counts.numpy())

    shown = "a validation image" if len(images) == 1 else f"{len(images)} validation images"
    grey = np.stack([grey_levels(image[0]) for image in images])
    return Film(_scene(run, grey, labels.astype(np.int16), names, shown, epochs), shots)


def film_of_field(run: Path, dataset: Path, field: str, crop: tuple[int, int, int, int] | None = None) -> Film:
    """Returns the film of a whole micrograph of a dataset, or of the part y, x, height, width of it, in px.

    The part is predicted as it would be in the whole image, by whose statistics it is normalised. Raises SegueError
    where the run did not keep the weights of its epochs, or the micrograph does not fit it or has no labels.
    """
    weights = epoch_files(run)
    model = load_run(run)
    if isinstance(model.target, ImageClass | Reconstruction):
        raise SegueError(f"{run}: target '{model.spec.target.name}' has no classes of pixels, which a film shows.")
    image, truth, known = _field(model, dataset, field)
    region = _region(crop, image.shape[1:], f"{dataset}: micrograph '{field}'")
    truth = region.read(truth)
    if not (truth >= 0).any():
        raise SegueError(f"{dataset}: micrograph '{field}' has no labelled pixel there; choose another part or field.")

    def shots(wanted: Sequence[int]) -> Iterator[Shot]:
        model.network.to(device.default_device())
        whole = region.shape == image.shape[1:] and truth.size <= LARGE_PX
        scorer = Scorer(
            model.network, image, normalise=model.spec.normalise, divisor=model.divisor, context_px=0 if whole else None
        )
        for epoch in wanted:
            load_parts(model.network, checkpoint.load_weights(weights[epoch]), None, where=str(weights[epoch]))
            yield _predicted(model, scorer, region, truth, epoch)

    grey = grey_levels(region.read(image)[0])[None]
    where = "" if crop is None else f", {region.shape[0]} × {region.shape[1]} px at y {region.top}, x {region.left}"
    scene = _scene(run, grey, truth[None], model.target.names, f"{field}{where}{known}", list(weights))
    return Film(scene, shots)


def _field(model: Model, path: Path, field: str) -> tuple[np.ndarray, np.ndarray, str]:
    """Returns the image (C, H, W), its classes (H, W) int16, and in words whether the run was trained on its group."""
    with Dataset(path) as dataset:
        layer = choose_layer(dataset, model.spec.target)
        target = target_for(model, layer, str(path))
        if dataset.channels != model.channels:
            raise SegueError(
                f"{path}: has channels {dataset.channels}, but {model.folder} was trained on {model.channels}; give a "
                "dataset of the same channels."
            )
        if field not in (kept := dataset.micrograph_ids()):
            more = ", …" if len(kept) > SHOWN_FIELDS else ""
            shown = ", ".join(kept[:SHOWN_FIELDS]) + more if kept else "none"
            raise SegueError(
                f"{path}: holds no micrograph '{field}'; kept are {shown}: name one of them"
                + ("." if kept else ", or make the dataset with keep_micrographs = true.")
            )
        micrograph = dataset.micrograph(field)
        if layer.name not in micrograph.labels:
            raise SegueError(
                f"{path}: micrograph '{field}' has no labels '{layer.name}', and a film shows what is right and wrong; "
                + _labelled(dataset, kept, layer.name)
            )
        labels = torch.from_numpy(micrograph.labels[layer.name].astype(np.int64))[None]
        samples = dataset.samples()
        groups = set(samples["group"][samples["source"] == field])
    truth = target.truth(target.encode(labels))[0].numpy().astype(np.int16)
    if truth.max(initial=0) >= len(model.target.names):
        raise SegueError(
            f"{path}: has classes {layer.names}, but {model.folder} was trained on {model.target.names}; give a "
            "dataset of the same classes."
        )
    return micrograph.image, truth, _use_of(model.folder, groups)


def _labelled(dataset: Dataset, kept: Sequence[str], layer: str) -> str:
    """Returns in words which kept micrographs have labels, the first few by name."""
    found = [source for source in kept if layer in dataset.micrograph_layers(source)]
    if not found:
        return "none of those kept has; take the dataset that the run was trained on."
    return f"name one of the {len(found)} that have: {', '.join(found[:SHOWN_FIELDS])}" + (
        ", …" if len(found) > SHOWN_FIELDS else "."
    )


def _use_of(run: Path, groups: set[str]) -> str:
    """Returns in words what the run used these groups for; nothing where they are not known."""
    used = json.loads((run / "groups.json").read_text(encoding="utf-8"))
    for name, words in (("training", "trained on"), ("ancestors", "trained on"), ("validation", "validation")):
        if groups & set(used.get(name, ())):
            return f" ({words})"
    return " (never trained on)" if groups else ""


def _region(crop: tuple[int, int, int, int] | None, shape: tuple[int, ...], where: str) -> Region:
    if crop is None:
        return Region(0, 0, shape[0], shape[1])
    y, x, height, width = crop
    if y < 0 or x < 0 or height < 1 or width < 1 or y + height > shape[0] or x + width > shape[1]:
        raise SegueError(
            f"{where}: the part y,x,height,width = {y},{x},{height},{width} does not lie in its {shape[0]} × {shape[1]}"
            " px; give another part."
        )
    return Region(y, x, y + height, x + width)


def _predicted(model: Model, scorer: Scorer, region: Region, truth: np.ndarray, epoch: int) -> Shot:
    """Returns what the network predicts for a region, tile by tile; truth (H, W) is of the region."""
    classes = np.empty((1, *region.shape), np.uint8)
    counts = torch.zeros((len(model.target.names), 2, pixel_metrics.BINS), dtype=torch.int64)
    side = max(region.shape) if truth.size <= LARGE_PX else Tiling().tile_px
    for tile in Tiling(side, 0).cores(region.shape):
        top, left = region.top + tile.top, region.left + tile.left
        scores = scorer.scores(Region(top, left, top + tile.shape[0], left + tile.shape[1]))
        probabilities = model.target.probabilities(torch.from_numpy(scores)[None])
        counts += pixel_metrics.histogram(probabilities, torch.from_numpy(tile.read(truth).astype(np.int64))[None])
        classes[(0, *tile.slices)] = model.target.classes(torch.from_numpy(scores)[None])[0].numpy()
    return Shot(epoch, classes, counts.numpy())


def _names(run: Path) -> tuple[str, ...]:
    return tuple(json.loads((run / "spec.json").read_text(encoding="utf-8"))["model"]["names"])


def _scene(
    run: Path, images: np.ndarray, truth: np.ndarray, names: tuple[str, ...], shown: str, epochs: Sequence[int]
) -> Scene:
    from pyarrow import parquet

    history = parquet.read_table(run / "history.parquet").to_pydict()
    at = np.array(history["epoch"], dtype=float)
    courses = {name: (at, np.array(history[name], dtype=float)) for name in COURSES if name in history}
    courses = {name: course for name, course in courses.items() if np.isfinite(course[1]).any()}
    return Scene(images, truth, names, run.resolve().name, shown, tuple(epochs), courses)


def studied_films(plan: Plan, table: pd.DataFrame) -> dict[str, Path]:
    """Returns for each stage of a study whose runs kept a film, up to three, the folder of its run of median loss."""
    found: dict[str, Path] = {}
    for stage, rows in table.groupby("stage", sort=False) if "stage" in table.columns else ():
        losses = {
            str(run): float(np.mean(of_run["loss"].to_numpy(float)))
            for run, of_run in rows.dropna(subset="loss").groupby("run")
        }
        folders = [plan.store.run(run) for run in sorted(losses, key=lambda run: (losses[run], run))]
        filmed = [folder for folder in folders if (folder / FILM / "still.npz").is_file()]
        if filmed and len(found) < MOST_FILMS:
            found[str(stage)] = filmed[(len(filmed) - 1) // 2]
    return found


def sheet_drawing(stage: str, run: Path) -> Drawing:
    """Returns the sheet of a run's film for the page, with what its colours and curves mean."""
    film = film_of_run(run)
    epochs = _spread(film.scene.epochs, SHEET_FRAMES)
    figure = sheet_figure(film.scene, list(film.shots(epochs)))
    foreground = listed(list(film.scene.names[1:]))
    caption = (
        f"<strong>Classification by epoch, {escape(stage_words(stage))}.</strong> What the run {escape(run.name)}, of"
        f" median loss, gives {film.scene.subtitle}: true positives are green; a pixel that was missed, or invented,"
        " has the colour of that class (of one that was given another foreground class: of the labelled one). Beneath,"
        f" precision by recall of {escape(foreground)} over these pixels with the areas under the curves; the dot is"
        " the most probable class, as in the picture; dotted, the share of the class, which guessing reaches. The film:"
        f" <code>segue film {escape(run.name)} -o film.mp4</code>; of any labelled field, too, where the stage has"
        " <code>keep_epochs = true</code>."
    )
    return Drawing(
        f"film-{stage}", figure, caption, f"Classification of {foreground} at epochs {listed(list(map(str, epochs)))}"
    )


def write_film(
    film: Film, outs: Sequence[Path], *, frames_per_s: float | None = None, progress: Progress | None = None
) -> None:
    """Writes the film into each file, as its ending says: .mp4 (H.264), .gif, or .png, a sheet of up to eight epochs.

    Every epoch is predicted once. frames_per_s: by default as many, from 2 to 12, as make twelve seconds. Raises
    SegueError for other endings.
    """
    odd = [out for out in outs if out.suffix.lower() not in (*MOVING, ".png")]
    if odd or not outs:
        raise SegueError(f"{odd[0] if odd else 'film'}: films are written as .mp4, .gif or .png; choose one of these.")
    if frames_per_s is not None and not 0.1 <= frames_per_s <= 60:
        raise SegueError(f"film: {frames_per_s:g} frames per second; allowed are 0.1 to 60.")
    epochs, sheet = film.scene.epochs, _spread(film.scene.epochs, SHEET_FRAMES)
    moving = [out for out in outs if out.suffix.lower() in MOVING]
    rate = frames_per_s or min(max(len(epochs) / LENGTH_S, SLOWEST), FASTEST)
    kept: list[Shot] = []
    with ExitStack() as opened:
        screen = Screen(film.scene) if moving else None
        writers = [] if screen is None else [opened.enter_context(_writer(out, screen, rate)) for out in moving]
        wanted = epochs if moving else sheet
        for done, shot in enumerate(film.shots(wanted), start=1):
            if shot.epoch in sheet:
                kept.append(shot)
            if screen is not None:
                frame = screen.frame(shot)
                for write in writers:
                    write(frame)
            if progress is not None:
                progress(done, len(wanted))
    for out in outs:
        if out not in moving:
            with replacing(out) as partial:
                partial.write_bytes(png_bytes(sheet_figure(film.scene, kept)))


def _spread(epochs: Sequence[int], count: int) -> tuple[int, ...]:
    """Returns up to `count` epochs, evenly spaced, the first and the last among them.

    >>> _spread(range(1, 101), 4)
    (1, 34, 67, 100)
    """
    places = np.rint(np.linspace(0, len(epochs) - 1, min(count, len(epochs)))).astype(int)
    return tuple(epochs[place] for place in places)


def _writer(out: Path, screen: Screen, rate: float) -> AbstractContextManager[Write]:
    return _mp4(out, screen.size, rate) if out.suffix.lower() == ".mp4" else _gif(out, screen.palette(), rate)


@contextmanager
def _mp4(out: Path, size: tuple[int, int], rate: float) -> Iterator[Write]:
    """Gives what adds a frame (H, W, 3) uint8 to an H.264 film that browsers play: yuv420p, its index in front."""
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
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "17", "preset": "medium"}
        context = stream.codec_context
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG  # else players guess by the size
        context.color_primaries = context.color_trc = 1  # BT.709, too

        def write(pixels: np.ndarray) -> None:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame = frame.reformat(
                format="yuv420p", src_color_range=ColorRange.JPEG, dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
            )  # fmt: skip
            for packet in stream.encode(frame):
                container.mux(packet)
            last[:] = [pixels]

        yield write
        for _ in range(round(STILL_S * rate)):
            write(last[0])
        for packet in stream.encode():
            container.mux(packet)


@contextmanager
def _gif(out: Path, palette: np.ndarray, rate: float) -> Iterator[Write]:
    """Gives what adds a frame (H, W, 3) uint8 to a GIF; palette (1, m, 3) uint8 are pixels to choose its colours by."""
    chosen = Image.fromarray(palette).quantize(GIF_COLOURS)
    frames: list[Image.Image] = []
    yield lambda pixels: frames.append(
        # not dithered: what stays the same is then stored once
        Image.fromarray(pixels).quantize(palette=chosen, dither=Image.Dither.NONE)
    )
    each_ms = max(round(100 / rate), 2) * 10
    durations = [each_ms] * (len(frames) - 1) + [max(each_ms, round(1000 * STILL_S))]
    with replacing(out) as partial:
        frames[0].save(
            partial, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=True
        )
