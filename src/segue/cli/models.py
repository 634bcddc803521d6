"""`segue models`: those that ship with segue, and runs made ready for others; heavy imports are deferred."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segue.errors import SegueError

app = typer.Typer(help="List the models that ship with segue; check and unpack those of others.")


@app.callback(invoke_without_command=True)
def list_models(context: typer.Context) -> None:
    """List the models that ship with segue."""
    from segue.formatting import format_bytes
    from segue.zoo.encoders import ENCODERS
    from segue.zoo.shipped import CARD, shipped_models

    if context.invoked_subcommand is not None:
        return
    models = shipped_models()
    for name, folder in models.items():
        title = (folder / CARD).read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
        size = sum(file.stat().st_size for file in folder.iterdir())
        print(f"{name}: {title} ({format_bytes(size)})\n{folder / CARD}\n")
    if not models:
        print("no model ships with this version")
    print("segue predict NAME IMAGES -o OUT, segue fit … --from NAME, segue inspect NAME\n")
    print("Encoders that others publish, for network = { name = …, pretrained = FILE or true }:\n")
    for encoder in ENCODERS:
        network = encoder.network or "not read"
        print(f"{encoder.about:39}  {network:28}  {encoder.license:29}  {encoder.size_MB:>5,} MB")
        print(f"{encoder.address}{'  (pretrained = true fetches it)' if encoder.fetched else ''}")
        print(f"{encoder.describe_checksum()}\n")
    print("Weights of Cellpose are not read; segue compare takes the masks that it wrote.")


@app.command()
def check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Weights: .safetensors, .pth, .pt or .bin; or a run.")],
) -> None:
    """Say what a file of weights is, and which networks' encoders it fills; nothing in it is executed.

    Of the folder of a run, its weights.
    """
    from segue.cli.describe import align_rows
    from segue.fingerprint import hash_file
    from segue.formatting import format_bytes
    from segue.networks.analysis.weights_file import networks_for
    from segue.networks.pretrained import read_weights
    from segue.zoo.encoders import encoder_of
    from segue.zoo.shipped import WEIGHTS, shipped_model_of

    rows = []
    if file.is_dir():
        if not (file / "spec.json").is_file():
            raise SegueError(f"{file}: is a folder, and not that of a run; give a file of weights, or a run.")
        rows.append(("run", f"{file}; segue inspect {file} describes it"))
        file = file / WEIGHTS
    weights = read_weights(file)
    digest, parameters = hash_file(file), sum(value.numel() for value in weights.values())
    rows += [
        ("file", f"{file}, {format_bytes(file.stat().st_size)}, {len(weights)} tensors of {parameters:,} numbers"),
        ("sha256", digest),
    ]
    known, shipped = encoder_of(digest), shipped_model_of(digest)
    about = f"{known.about}, license {known.license}" if known else "no file of `segue models` whose sha256 is known"
    about = f"the weights of {shipped}, which ships with segue: segue predict {shipped} …" if shipped else about
    rows.append(("known as", about))
    if all(name.startswith(("encoder.", "decoder.", "head.")) for name in weights):
        rows.append(("fits", f'a stage of the same network: from = {{ weights = "{file}" }}'))
    else:
        for name, changes in networks_for(weights).items():
            note = f"  # resampled: {'; '.join(changes)}" if changes else ""
            rows.append(("fits", f'network = {{ name = "{name}", pretrained = "{file}" }}{note}'))
    if rows[-1][0] != "fits":
        rows.append(("fits", f"none of the networks that are tried; its tensors: {', '.join(list(weights)[:3])}, …"))
    print(align_rows(rows))


@app.command()
def unpack(
    package: Annotated[
        Path, typer.Argument(metavar="PACKAGE", help="A package of bioimage.io (.zip) that segue exported.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write: a run.")],
) -> None:
    """Write the run inside a package, to predict with it and to start from it; nothing in it is executed."""
    from segue import api

    api.unpack(package, out)
    print(f"run: {out}")


@app.command(hidden=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def export() -> None:
    """Name the command that took this one's place."""
    raise SegueError("segue models export: is now segue export RUN OUT; write that, with the same --card.")
