"""`segue draw`: drawings of networks, of the activations of trained ones, and of simulated structures.

Heavy imports are deferred.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segue.errors import SegueError

if TYPE_CHECKING:
    from segue.training.run_folder import TrainedModel

app = typer.Typer(
    no_args_is_help=True,
    help="Draw a network, its receptive field, its activations, a dataset in its feature space, or an HRTEM series.",
)
Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")]
Image = Annotated[Path, typer.Argument(metavar="IMAGE", help="A TIFF or PNG image.")]
Figure = Annotated[Path, typer.Argument(metavar="OUT", help="The picture to write: .png, .svg or .pdf.")]


@app.command()
def network(
    what: Annotated[
        str, typer.Argument(metavar="NETWORK_OR_RUN", help="A network's name, or a finished run's folder.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.svg", help="The drawing to write.")],
    size: Annotated[int, typer.Option("--size", min=1, help="Side of the image, in pixels.")] = 256,
    frozen: Annotated[list[str] | None, typer.Option("--frozen", help="A part to mark as frozen.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the network, such as width=16.")
    ] = None,
    channels: Annotated[int, typer.Option("--channels", min=1, help="Image channels.")] = 1,
    classes: Annotated[int, typer.Option("--classes", min=1, help="Scores per pixel.")] = 2,
) -> None:
    """Draw blocks, sizes, channels, skips and frozen parts (of a run, those that it froze)."""
    from segue import networks
    from segue.networks.analysis.drawing import draw_network
    from segue.storage import as_path, replacing
    from segue.training.freezing import leaf_parts

    if out.suffix.lower() != ".svg":
        raise SegueError(f"{out}: the drawing of a network is an SVG; give a name that ends in .svg.")
    parts = tuple(frozen or ())
    if as_path(what).is_dir():
        if settings:
            raise SegueError(f"draw network {what}: the settings of the network are those of the run; leave --set out.")
        model = _model(Path(what))
        spec, channels, classes = model.spec.network, len(model.channels), model.target.channels
        parts = parts or leaf_parts(model.network, model.spec.freeze)
    else:
        spec = networks.named(what, settings or (), context=f"draw network {what}")
    svg = draw_network(spec, channels=channels, classes=classes, size=size, frozen=parts)
    with replacing(out) as partial:
        partial.write_text(svg, encoding="utf-8")
    print(f"drawing: {out}")


@app.command()
def activations(run: Run, image: Image, out: Figure) -> None:
    """Draw the activations of every block of a trained network for an image."""
    from segue.reporting.figures.network_views import activations_figure

    _save(activations_figure(_model(run), _image(image)), out)


@app.command("receptive-field")
def receptive_field(run: Run, image: Image, out: Figure) -> None:
    """Draw which pixels the scores at the center of an image depend on, and how strongly."""
    import torch

    from segue.data.normalization import intensity_stats, normalize
    from segue.networks.analysis.receptive_field import effective_field, receptive_field
    from segue.reporting.figures.network_views import receptive_field_figure

    model, pixels = _model(run), _image(image)
    if len(pixels) != len(model.channels):
        raise SegueError(f"{image}: has {len(pixels)} channels, but the run needs {', '.join(model.channels)}.")
    sides = [side // model.divisor * model.divisor for side in pixels.shape[1:]]
    cut = pixels[None, :, : sides[0], : sides[1]]
    if not cut.size:
        raise SegueError(f"{image}: is smaller than {model.divisor} px, the minimum size of the network.")
    inputs = torch.from_numpy(normalize(cut, intensity_stats(model.spec.normalize, pixels[None])))
    network: Any = model.network
    reach = receptive_field(network, channels=len(model.channels), divisor=model.divisor)
    _save(receptive_field_figure(effective_field(network, inputs), reach), out)


@app.command()
def embedding(
    run: Run,
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="A dataset (.h5).")],
    out: Figure,
    by: Annotated[str, typer.Option("--by", help="The sample column to color by.")] = "group",
    images: Annotated[int, typer.Option("--images", min=3, help="Maximum number of samples drawn.")] = 1000,
) -> None:
    """Draw the images of a dataset as points, close together if their encoder features are similar."""
    from segue.reporting.figures.network_views import embedding_figure

    _save(embedding_figure(_model(run), dataset, by=by, images=images), out)


@app.command()
def series(
    spec: Annotated[Path, typer.Argument(metavar="SPEC.toml", help="The specification of an HRTEM series.")],
    out: Figure,
    structure: Annotated[int, typer.Option("--structure", min=0, help="Number of the structure, from 0.")] = 0,
) -> None:
    """Draw a structure of an HRTEM series before it is simulated: its atoms, its label, and all its images.

    Of a specification with `each`, a line of the figure is the structure of one combination of its values.
    """
    from segue.cli.progress import open_progress
    from segue.hrtem.series import SeriesSpec, resolve
    from segue.reporting.figures.specimens import sheet_figure, simulate_structure, structure_figure
    from segue.reporting.formatting import setting_label
    from segue.spec import validate
    from segue.study.datasets import expand_specification

    _format(out)
    try:
        expanded = expand_specification(spec, {})
    except ValueError as error:
        raise SegueError(f"{spec}: {error}.") from None
    specs = {
        ", ".join(setting_label(key, value) for key, value in values.items()): resolve(
            validate(SeriesSpec, table, context=str(spec)), spec.parent
        )
        for table, values in expanded
    }
    for settings in specs.values():
        if structure >= settings.structures:
            raise SegueError(
                f"{spec}: has the structures 0 to {settings.structures - 1}, not {structure}; give another --structure."
            )
    structures = {}
    with open_progress() as report:
        for name, settings in specs.items():
            report("structures", len(structures), len(specs))
            structures[name] = simulate_structure(settings, structure)
        report("structures", len(structures), len(specs))
    single = next(iter(structures.values()))
    _save(structure_figure(single) if len(structures) == 1 else sheet_figure(structures), out)


def _model(run: Path) -> TrainedModel:
    from segue import api

    return api.load(run)


def _image(path: Path) -> Any:
    from segue.data.image_io import read_image

    return read_image(path).image


def _save(figure: Any, out: Path) -> None:
    from segue.storage import replacing

    kind = _format(out)
    with replacing(out) as partial:
        figure.savefig(partial, format=kind, dpi=150)
    print(f"figure: {out}")


def _format(out: Path) -> str:
    kind = out.suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise SegueError(f"{out}: a figure is a .png, .svg or .pdf file; give a name with one of these endings.")
    return kind
