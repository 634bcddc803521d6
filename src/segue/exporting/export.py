"""`segue export`: `FORMATS` has every format by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segue.errors import SegueError
from segue.storage import is_file, remove_abandoned, replacing
from segue.training.run_folder import TrainedModel, load_run


@dataclass(frozen=True)
class ExportSettings:
    """What the user chose; None leaves it to the run.

    tta: whether the mean over the eight views is exported. card: a Markdown file; None: that of the run, or one made of
    its facts. image: an image file of which cover and test tensors of a package are made; None: a made image. license,
    authors, postprocessing: see `segue.exporting.package.PackageSettings`.
    """

    tta: bool | None = None
    card: Path | None = None
    image: Path | None = None
    license: str | None = None
    authors: Sequence[str] = ()
    postprocessing: bool = False


Write = Callable[[Path, Path, TrainedModel, ExportSettings, Callable[[str], None]], None]


@dataclass(frozen=True)
class Format:
    """suffix: of the files, "" for a folder. write: called with the path to write to, its name in messages, the model,
    the settings, and a function that takes notes. settings: those that apply. packages: that it imports."""

    suffix: str
    write: Write
    settings: tuple[str, ...]
    packages: tuple[str, ...] = ()


def _write_folder(
    path: Path, out: Path, model: TrainedModel, settings: ExportSettings, log: Callable[[str], None]
) -> None:
    from segue.exporting.card import card_text
    from segue.exporting.half_precision import export_model

    export_model(model.folder, out, card_text(model, settings.card))


def _write_onnx(
    path: Path, out: Path, model: TrainedModel, settings: ExportSettings, log: Callable[[str], None]
) -> None:
    from segue.exporting.onnx_file import onnx_bytes

    _write_network(onnx_bytes, "onnxruntime", path, out, model, log)


def _write_torchscript(
    path: Path, out: Path, model: TrainedModel, settings: ExportSettings, log: Callable[[str], None]
) -> None:
    from segue.exporting.torchscript_file import torchscript_bytes

    _write_network(torchscript_bytes, "TorchScript", path, out, model, log)


def _write_network(
    make: Callable[..., tuple[bytes, Any]],
    program: str,
    path: Path,
    out: Path,
    model: TrainedModel,
    log: Callable[[str], None],
) -> None:
    from segue.exporting.facts import facts_of
    from segue.exporting.network import ExportedNetwork

    network = ExportedNetwork(model)
    content, difference = make(out, network, facts_of(model, network))
    path.write_bytes(content)
    log(f"{program}: {difference}")


def _write_bioimageio(
    path: Path, out: Path, model: TrainedModel, settings: ExportSettings, log: Callable[[str], None]
) -> None:
    from segue.data.image_io import read_image
    from segue.exporting.card import card_text
    from segue.exporting.package import PackageSettings, write_package

    image = None if settings.image is None else read_image(settings.image).image
    if image is None:
        log("cover and test tensors are of a made image; --image FILE takes one of yours")
    package = PackageSettings(
        card_text(model, settings.card), image, settings.license, settings.authors, settings.postprocessing
    )
    write_package(path, out, model, package, log)


FORMATS: dict[str, Format] = {
    "folder": Format("", _write_folder, ("card",)),
    "onnx": Format(".onnx", _write_onnx, ("tta",), ("onnx", "onnxscript", "onnxruntime")),
    "torchscript": Format(".pt", _write_torchscript, ("tta",)),
    "bioimageio": Format(
        ".zip",
        _write_bioimageio,
        ("tta", "card", "image", "license", "authors", "postprocessing"),
        ("onnx", "onnxscript", "onnxruntime", "bioimageio.core"),
    ),
}


def export_run(
    run: Path, out: Path, settings: ExportSettings, *, format: str | None = None, log: Callable[[str], None]
) -> None:
    """Writes a finished run as `format`, or as the suffix of `out` says; the file appears when it is whole and checked.

    Raises SegueError, before any work, for another format, settings that it does not have, packages that are not
    installed, and where `out` exists.
    """
    name = _format_of(out, format)
    chosen = FORMATS[name]
    for setting, default in ExportSettings().__dict__.items():
        if getattr(settings, setting) != default and setting not in chosen.settings:
            owners = [other for other, one in FORMATS.items() if setting in one.settings]
            option = {"authors": "author", "tta": "tta/--no-tta"}.get(setting, setting)
            raise SegueError(f"{out}: --{option} is for {', '.join(owners)}, not for {name}; leave it out.")
    for file in (settings.card, settings.image):
        if file is not None and not is_file(file):
            raise SegueError(f"{file}: there is no such file; give the path of an existing one.")
    missing = [package for package in chosen.packages if not _is_installed(package)]
    if missing:
        raise SegueError(
            f"{out}: {name} is written by {', '.join(missing)}, not installed here; pip install 'segue[export]'."
        )
    if out.exists():
        raise SegueError(f"{out}: exists; remove it, or give another path.")
    model = load_run(run)
    model.network.requires_grad_(False)
    if settings.tta is not None:
        model = replace(model, tta=settings.tta)
    if not chosen.suffix:
        chosen.write(out, out, model, settings, log)
        return
    remove_abandoned(out)
    with replacing(out) as partial:
        chosen.write(partial, out, model, settings, log)


def _format_of(out: Path, format: str | None) -> str:
    if format is not None:
        if format not in FORMATS:
            raise SegueError(f"--format {format}: allowed are {', '.join(FORMATS)}; choose one of them.")
        return format
    suffix = out.suffix.lower()
    name = next((name for name, one in FORMATS.items() if one.suffix == suffix), None)
    if name is None:
        suffixes = ", ".join(f"{one.suffix or 'no suffix'} ({name})" for name, one in FORMATS.items())
        raise SegueError(f"{out}: no format has this suffix; allowed are {suffixes}; rename it, or give --format.")
    return name


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the parent of a dotted name
        return False
