"""A package of bioimage.io (a .zip): ONNX and TorchScript with test tensors, cover, card, license, and the run itself.

The description is that of `bioimageio.spec`, version 0.5. The standard has post-processing for flows and rays, which
needs the packages cellpose and stardist wherever the package is tested. By default the tested output are therefore the
scores, and the post-processing with the tuned thresholds stands in `config.segue.postprocessing`, as the standard
writes it, fit for these scores; `postprocessing=True` declares it, and the output are objects.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from segue.errors import SegueError
from segue.exporting.card import summary_of, title_of
from segue.exporting.check import example_image
from segue.exporting.facts import INPUT, KEY, facts_of
from segue.exporting.network import ExportedNetwork, Output, main_target
from segue.exporting.onnx_file import OPSET, onnx_bytes
from segue.exporting.torchscript_file import torchscript_bytes
from segue.inference.overlay import outlined
from segue.inference.predict import predict
from segue.labels.matching import label_overlap
from segue.targets.flows import Flows
from segue.targets.rays import Rays
from segue.training.run_folder import RunFolder, TrainedModel
from segue.zoo.shipped import CARD

TEST_SIDE_PX, MIN_SIDE_PX = 256, 64  # of the test tensors, about, and the smallest image that the package names
COVER_SIDE_PX = 512
MAX_DESCRIPTION = 512  # characters
MATCH_IOU = 0.5
STEPS = 200  # of cellpose's post-processing, which cannot be set in the standard
CELLPOSE = {"text": "Stringer et al., Cellpose, Nature Methods 18, 100 (2021)", "doi": "10.1038/s41592-020-01018-x"}
CITATIONS: Mapping[str, Mapping[str, str]] = {  # of networks and targets
    "flows": CELLPOSE,
    "cellpose": CELLPOSE,
    "rays": {"text": "Schmidt et al., StarDist, MICCAI 2018", "doi": "10.1007/978-3-030-00934-2_30"},
    "unet": {"text": "Ronneberger et al., U-Net, MICCAI 2015", "doi": "10.1007/978-3-319-24574-4_28"},
    "resunet": {"text": "Rangel DaCosta et al., Elemental Microscopy EM000010", "doi": "10.69761/kjte5358"},
}
TASKS = {
    "objects": "instance-segmentation",
    "classes": "semantic-segmentation",
    "image_class": "image-classification",
    "image": "image-restoration",
}


@dataclass(frozen=True)
class PackageSettings:
    """card: text in Markdown. image (C, H, W): of which cover and test tensors are made, None for a made image.
    license: an SPDX identifier; None: the run's. authors: "Name" or "Name, Affiliation"."""

    card: str
    image: np.ndarray | None = None
    license: str | None = None
    authors: Sequence[str] = ()
    postprocessing: bool = False


def write_package(
    path: Path, out: Path, model: TrainedModel, settings: PackageSettings, log: Callable[[str], None]
) -> None:
    """Writes the package of a run to `path`; `out` is the name in messages. log receives notes.

    Raises SegueError for a license that is no SPDX identifier, an image of too few pixels or other channels, and
    post-processing that the standard does not have or whose package is not installed.
    """
    license_id = spdx_license(out, model, settings.license)
    image = _test_image(out, model, settings.image)
    target = main_target(model.target)
    operation = standard_postprocessing(model)
    if settings.postprocessing and operation is None:
        raise SegueError(
            f"{out}: bioimage.io has post-processing for flows and rays of 200 steps, but the model predicts "
            f"{model.spec.target.name}; leave --postprocessing out."
        )
    network = ExportedNetwork(
        model, for_stardist=isinstance(target, Rays), channels_last=isinstance(target, Rays) and settings.postprocessing
    )
    facts = facts_of(model, network)
    if operation is not None:
        facts["postprocessing"] = operation

    with tempfile.TemporaryDirectory() as temporary, _quiet():
        folder = Path(temporary)
        for name, make in (("onnx", onnx_bytes), ("torchscript", torchscript_bytes)):
            content, difference = make(out, network, facts)
            (folder / WEIGHTS[name]).write_bytes(content)
            log(f"{name}: {difference}")
        with torch.inference_mode():
            scores = network(torch.from_numpy(image[None])).numpy()
        labels = predict(model, image)
        tested = scores
        if settings.postprocessing:
            assert operation is not None
            tested = _postprocessed(out, operation, scores, network.output)
            if not tested.any():
                raise SegueError(
                    f"{out}: the test image has no object for the post-processing to find; give one with objects, "
                    "such as --image FILE."
                )
            log(_agreement(labels, tested.squeeze()))
        np.save(folder / "test_input.npy", image[None])
        np.save(folder / "test_output.npy", tested)
        _write_cover(folder / "cover.png", model, image, labels)
        (folder / "README.md").write_text(_readme(settings.card, facts), encoding="utf-8", newline="\n")
        attachments = _copy_run(model, folder, settings.card)
        description = _description(
            out, model, settings, folder=folder, facts=facts, network=network, license_id=license_id,
            attachments=attachments,
        )  # fmt: skip
        _write_zip(path, description)


WEIGHTS = {"onnx": "network.onnx", "torchscript": "network.pt"}


def standard_postprocessing(model: TrainedModel) -> dict[str, Any] | None:
    """Returns the standard's post-processing with the model's tuned thresholds, None where it has no such.

    Flows are (y, x) × 5 and a logit in both; rays have the same directions, and their fraction of the smaller polygon
    is what stardist calls its threshold of IoU.
    """
    target, params = main_target(model.target), model.decode_params
    if isinstance(target, Flows) and target.steps == STEPS:
        kwargs = {
            "cellprob_threshold": params["cellprob_threshold"],
            "flow_threshold": params["flow_threshold"],
            "min_size": round(params["min_size_px"]),
            "do_3D": False,
            "output_dtype": "uint32",
        }
        return {"id": "cellpose_flow_dynamics", "kwargs": kwargs}
    if isinstance(target, Rays):
        kwargs = {
            "prob_threshold": params["prob_threshold"],
            "nms_threshold": params["nms_threshold"],
            "n_rays": target.rays,
            "grid": [1, 1],
            "b": 0,
        }
        return {"id": "stardist_postprocessing", "kwargs": kwargs}
    return None


def spdx_license(out: Path, model: TrainedModel, given: str | None) -> str:
    """Returns the SPDX identifier of a license, `given` or that of the run ("CC0 1.0" is CC0-1.0); raises SegueError
    where there is none, or several."""
    from bioimageio.spec.generic.v0_3 import LicenseId

    names = get_args(LicenseId.root_model.model_fields["root"].annotation)
    known = {_folded(name): name for name in names}
    stated = [given] if given is not None else list(dict.fromkeys(model.licenses))
    if len(stated) == 1 and (license_id := known.get(_folded(stated[0]))) is not None:
        return license_id
    licenses = "no license" if not stated else " and ".join(f"'{one}'" for one in stated)
    source = "--license says" if given is not None else "the run states"
    raise SegueError(
        f"{out}: {source} {licenses}, but a package needs one license with an SPDX identifier; give one that fits the "
        "images which the model was trained on, such as --license CC-BY-4.0."
    )


def _folded(license: str) -> str:
    return re.sub(r"[^a-z0-9.+]", "", license.lower())


def _test_image(out: Path, model: TrainedModel, image: np.ndarray | None) -> np.ndarray:
    """Returns the middle of an image (C, H, W), float32, with sides that are multiples of the divisor."""
    largest = max(TEST_SIDE_PX // model.divisor, 1) * model.divisor
    smallest = _min_side_px(model.divisor)
    largest = max(largest, smallest)
    if image is None:
        return example_image(len(model.channels), largest, largest)
    if len(image) != len(model.channels):
        raise SegueError(
            f"{out}: --image has {len(image)} channels, but the model takes {len(model.channels)} "
            f"({', '.join(model.channels)}); give an image with these."
        )
    sides = [min(largest, side // model.divisor * model.divisor) for side in image.shape[1:]]
    if min(sides) < smallest:
        raise SegueError(
            f"{out}: --image has {image.shape[1]} × {image.shape[2]} px, but test tensors have {smallest} px a side at "
            "least; give a larger one."
        )
    top, left = ((whole - side) // 2 for whole, side in zip(image.shape[1:], sides, strict=True))
    return np.ascontiguousarray(image[:, top : top + sides[0], left : left + sides[1]], np.float32)


def _min_side_px(divisor: int) -> int:
    return -(-MIN_SIDE_PX // divisor) * divisor


def _postprocessed(out: Path, operation: Mapping[str, Any], scores: np.ndarray, output: Output) -> np.ndarray:
    """Returns the objects that the standard's post-processing makes of scores, with the axes of the scores."""
    from bioimageio.core import Sample, Tensor
    from bioimageio.core.proc_ops import (
        CellposeFlowDynamics,  # pyright: ignore[reportPrivateImportUsage]
        StardistPostprocessing2D,
    )
    from bioimageio.spec.model import v0_5

    letters = {"N": "batch", "C": "channel", "H": "y", "W": "x"}
    member: Any = "scores"
    sample = Sample(
        members={member: Tensor.from_numpy(scores, dims=[letters[letter] for letter in output.axes])}, stat={}, id=None
    )
    try:
        if operation["id"] == "cellpose_flow_dynamics":
            CellposeFlowDynamics.from_proc_descr(v0_5.CellposeFlowDynamicsDescr.model_validate(operation), member)(
                sample
            )
        else:
            StardistPostprocessing2D.from_proc_descr(
                v0_5.StardistPostprocessingDescr.model_validate(operation), member
            )(sample)
    except ImportError as error:
        package = operation["id"].partition("_")[0]
        raise SegueError(
            f"{out}: --postprocessing needs {package}, which is not installed; pip install {package}, or leave it "
            "out: the thresholds then stand in config.segue of the package."
        ) from error
    return np.asarray(sample.members[member].to_numpy()).astype(np.uint32)


def _agreement(labels: np.ndarray, others: np.ndarray) -> str:
    overlap = label_overlap(labels.astype(np.int32), others.astype(np.int32))
    equal = int((overlap.iou > MATCH_IOU).sum())
    return (
        f"post-processing: {equal} of {len(overlap.true_ids)} objects of segue are among its "
        f"{len(overlap.predicted_ids)} (IoU above {MATCH_IOU:g})"
    )


def _write_cover(path: Path, model: TrainedModel, image: np.ndarray, labels: np.ndarray) -> None:
    """Writes the image beside its prediction, a picture of twice its width."""
    from PIL import Image

    empty, none = np.zeros(image.shape[1:], np.int32), np.zeros(1, bool)
    left = outlined(image, empty, channels=model.channels, is_uncertain=none)
    if model.target.output == "image":
        right = outlined(labels, empty, channels=model.channels, is_uncertain=none)
    else:
        label_image = np.broadcast_to(labels, image.shape[1:]) if model.target.output == "image_class" else labels
        certain = np.zeros(int(label_image.max()) + 1, bool)
        right = outlined(image, label_image, channels=model.channels, is_uncertain=certain)
    picture = Image.fromarray(np.concatenate([left, right], axis=1))
    factor = max(1, round(COVER_SIDE_PX / image.shape[1]))
    picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST).save(path)


def _copy_run(model: TrainedModel, folder: Path, card: str) -> list[Path]:
    """Copies what is needed of the run to predict and to start from it, and returns the files."""
    run, copy = RunFolder(model.folder), RunFolder(folder / "run")
    copy.path.mkdir()
    needed = [run.spec, run.groups, run.metrics, run.timing, run.environment]
    for file in [*needed, *([run.history] if run.history.exists() else [])]:
        (copy.path / file.name).write_bytes(run.read_bytes(file))
    copy.weights.write_bytes(run.read_bytes(run.weights_file("best")))
    (copy.path / CARD).write_text(card, encoding="utf-8", newline="\n")
    copy.write_digests()
    return sorted(copy.path.iterdir())


def _description(
    out: Path,
    model: TrainedModel,
    settings: PackageSettings,
    *,
    folder: Path,
    facts: Mapping[str, Any],
    network: ExportedNetwork,
    license_id: str,
    attachments: Sequence[Path],
) -> Any:
    """Returns the description of bioimageio.spec; raises SegueError for what it refuses, such as an author's name."""
    from bioimageio.spec.model import v0_5
    from pydantic import ValidationError

    stage, card = model.spec, settings.card
    names = dict.fromkeys((stage.network.name, main_name(model)))
    citations = {CITATIONS[name]["doi"]: dict(CITATIONS[name]) for name in names if name in CITATIONS}
    weights = {
        "torchscript": {
            "source": folder / WEIGHTS["torchscript"],
            "pytorch_version": torch.__version__.partition("+")[0],
        },
        "onnx": {
            "source": folder / WEIGHTS["onnx"],
            "opset_version": OPSET,
            "parent": "torchscript",
            "comment": "both were exported from the same network by segue",
        },
    }  # fmt: skip
    content = {
        "type": "model",
        "format_version": v0_5.ModelDescr.implemented_format_version,
        "name": _allowed_name(title_of(card) or model.folder.name),
        "description": summary_of(card)[:MAX_DESCRIPTION],
        "authors": [_author(one) for one in settings.authors],
        "license": license_id,
        "cite": list(citations.values()),
        "tags": ["2d", "pytorch", "segue", stage.network.name, stage.target.name, TASKS[model.target.output]],
        "documentation": {"source": folder / "README.md"},
        "covers": [{"source": folder / "cover.png"}],
        "attachments": [{"source": file} for file in attachments],
        "inputs": [_input(model, folder)],
        "outputs": [_output(model, settings, network, facts, folder)],
        "weights": weights,
        "config": {
            "bioimageio": {
                "architecture_type": stage.network.name[:32],
                "task": TASKS[model.target.output],
                "model_parameter_count": sum(parameter.numel() for parameter in model.network.parameters()),
                "training": {"training_epochs": stage.epochs, "training_batch_size": stage.batch},
            },
            KEY: dict(facts),
        },
    }
    try:
        return v0_5.ModelDescr.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise SegueError(
            f"{out}: bioimageio.spec refuses the description ({place}: {first['msg']}); correct it, or get "
            "the versions that fit together with pip install 'segue[export]'."
        ) from error


def main_name(model: TrainedModel) -> str:
    """Returns the name of the target that is decoded."""
    return getattr(model.spec.target, "main", model.spec.target).name


def _axis(model: TrainedModel, name: str, size: Any) -> dict[str, Any]:
    known = {} if model.pixel_size_nm is None else {"unit": "micrometer", "scale": model.pixel_size_nm / 1000}
    return {"type": "space", "id": name, "size": size, **known}


def _input(model: TrainedModel, folder: Path) -> dict[str, Any]:
    size = {"min": _min_side_px(model.divisor), "step": 1}  # others are padded inside
    return {
        "id": INPUT,
        "description": "an image as acquired, at its own size; the network normalizes it",
        "axes": [
            {"type": "batch"},
            {"type": "channel", "channel_names": list(model.channels)},
            _axis(model, "y", size),
            _axis(model, "x", size),
        ],
        "test_tensor": {"source": folder / "test_input.npy"},
        "data": {"type": "float32", "unit": "arbitrary unit"},
    }


def _output(
    model: TrainedModel, settings: PackageSettings, network: ExportedNetwork, facts: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    output = network.output
    name = "objects" if settings.postprocessing else output.name
    axes = {
        "N": {"type": "batch"},
        "C": {"type": "channel", "channel_names": ["objects"] if settings.postprocessing else list(output.channels)},
        "H": _axis(model, "y", {"tensor_id": INPUT, "axis_id": "y"}),
        "W": _axis(model, "x", {"tensor_id": INPUT, "axis_id": "x"}),
    }
    return {
        "id": name,
        "description": "objects 1 … n, 0 background" if settings.postprocessing else _meanings(output),
        "axes": [axes[letter] for letter in output.axes],
        "test_tensor": {"source": folder / "test_output.npy"},
        "data": {"type": "uint32" if settings.postprocessing else "float32"},
        "postprocessing": [facts["postprocessing"]] if settings.postprocessing else [],
    }


def _meanings(output: Output) -> str:
    """Returns what the channels mean, in as many characters as the standard allows."""
    text = "; ".join(f"{name}: {meaning}" for name, meaning in output.channels.items())
    return text if len(text) <= 128 else f"{output.name}: see config.{KEY}.output"


def _author(text: str) -> dict[str, str]:
    name, _, affiliation = (part.strip() for part in text.partition(","))
    return {"name": name} | ({"affiliation": affiliation} if affiliation else {})


def _allowed_name(title: str) -> str:
    """Returns a title of letters, digits and _+- (), of 5 to 64 characters, as the standard wants names."""
    name = re.sub(r"\s+", " ", re.sub(r"[^A-Za-z0-9_+\-() ]", " ", title)).strip()[:64].strip()
    return name if len(name) >= 5 else f"model {name}".strip()


def _readme(card: str, facts: Mapping[str, Any]) -> str:
    """Returns the card with what the input and the output are, and how to validate the model."""
    output, channels, normalization = facts["output"], facts["input"]["channels"], facts["normalization"]
    normalization = normalization if isinstance(normalization, str) else "percentiles"
    lines = [
        card.rstrip(),
        "",
        "## Input and output",
        "",
        f"- input: {', '.join(channels)}, values as acquired; the network normalizes what it is given "
        f"({normalization}), so that blocks of a large image are normalized each by itself",
        *(f"- output {channel['name']}: {channel['meaning']}" for channel in output["channels"]),
        *(f"- {name}: {value:g}" for name, value in facts["decode_parameters"].items()),
        "",
        "The trained run is attached: `segue models unpack PACKAGE OUT` makes it a folder that segue predicts with and "
        "trains from.",
        "",
    ]
    if not re.search("#.*[vV]alidation", card):
        lines += ["## Validation", "", "`segue evaluate RUN FOLDER` scores the attached run on labeled images.", ""]
    return "\n".join(lines)


def _write_zip(path: Path, description: Any) -> None:
    """Writes the description as rdf.yaml, and the files that it names."""
    import yaml
    from bioimageio.spec import get_package_content

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in get_package_content(description).items():
            if isinstance(content, dict):
                archive.writestr(name, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
            else:
                archive.write(str(content.source), name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences bioimageio: log lines for those who write descriptions by hand, and that it leaves closing files to
    Python."""
    from loguru import logger

    logger.disable("bioimageio")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            yield
    finally:
        logger.enable("bioimageio")
