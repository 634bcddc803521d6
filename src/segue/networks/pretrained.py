"""Pretrained weights for the encoder: from a file in timm's format, or fetched with timm.

A file is safetensors, or a checkpoint of torch that holds tensors only (`weights_only`): nothing in it is executed.
Tensors are matched by timm's names. What does not fit is adapted where there is one known way, and reported:

    input channels       the weights of the first convolution are summed or averaged over those of the file (see
                         `NetworkSpec.pretrained_channels`)
    position embeddings  resampled bicubic to the network's grid of patches
    relative positions   of SAM's attention: resampled linear, as SAM does
    patches              of another size: resampled so that embeddings of resized images stay the same (Beyer et al.,
                         "FlexiViT", CVPR 2023)

Everything else that differs in shape, and every tensor of the encoder that the file lacks, is refused.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from segue.errors import SegueError
from segue.networks.architectures.mobilenet import MODEL as MOBILENET
from segue.networks.blocks import bicubic
from segue.networks.network import Network
from segue.networks.registry import FAMILIES, NetworkSpec

CONTAINERS = ("state_dict", "model")  # under which training scripts keep the tensors
TORCH_BEGINNINGS = (b"PK", b"\x80")  # of checkpoints of torch: zip files, earlier pickles
OF_DAMAGED_PICKLES = (ValueError, LookupError, TypeError, AttributeError)
MAX_HEADER_BYTES = 10**8  # of safetensors
SAM_PREFIX = "image_encoder."  # of the checkpoints that the authors of SAM publish
_FLATTENED = re.compile(r"^([a-z]+)_(\d+)\.")  # stages_0.… of timm's encoders by features is stages.0.… in its files


@dataclass(frozen=True)
class LoadingReport:
    """How each tensor was loaded. Names are the network's, those of `left_out` the file's.

    loaded: unchanged. resampled, adapted: with a description of the change. missing: counters of batch norms, which
    begin at 0. initialised: decoder and head, which no file has. left_out: in the file, but not of this encoder.
    """

    source: str
    loaded: tuple[str, ...]
    resampled: dict[str, str] = field(default_factory=dict)
    adapted: dict[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    initialised: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Returns the report as plain lists and tables."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def describe(self) -> str:
        """Returns the report in a few lines: counts, and each change."""
        counts = [
            f"{len(names)} {kind}"
            for kind, names in (
                ("loaded", self.loaded), ("resampled", self.resampled), ("adapted", self.adapted),
                ("missing", self.missing), ("initialized (decoder and head)", self.initialised),
                ("of the file left out", self.left_out),
            ) if names
        ]  # fmt: skip
        changes = [f"  {name}: {change}" for name, change in (self.resampled | self.adapted).items()]
        return "\n".join([f"weights of {self.source}: {', '.join(counts)}", *changes])


def load_pretrained(network: Network, spec: NetworkSpec, *, context: str) -> LoadingReport | None:
    """Fills the encoder from `spec.pretrained` and returns the report; None if it is not set.

    `network` is what `networks.build(spec, …)` returned. Raises SegueError when the weights cannot be fetched or
    read, or do not fit; the network is then unchanged.
    """
    if spec.pretrained is False:
        return None
    if isinstance(spec.pretrained, Path):
        weights, source = read_weights(spec.pretrained), str(spec.pretrained)
    else:
        weights, source = _fetch(spec, context), f"timm's '{_model_name(spec)}'"
    return fill_encoder(network, weights, source=source, channels_by=spec.pretrained_channels, context=context)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a file in timm's format by timm's names; nothing in it is executed.

    Of checkpoints of torch the table `state_dict` or `model` is taken where there is one. SAM's published
    checkpoints are read too: their image encoder, renamed as timm does.
    """
    content: Any
    try:
        with path.open("rb") as file:
            beginning = file.read(9)
        is_safetensors = path.suffix == ".safetensors" or _begins_as_safetensors(beginning)
        if beginning and not is_safetensors and not beginning.startswith(TORCH_BEGINNINGS):
            raise SegueError(
                f"{path}: is no file of weights, neither safetensors nor a checkpoint of torch; give a .safetensors or "
                ".pth file in timm's format."
            )
        if is_safetensors:
            content = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # on files of other kinds, which are reported below
                content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise SegueError(f"{path}: there is no such file; give a file of weights in timm's format.") from None
    except IsADirectoryError:
        raise SegueError(f"{path}: is a folder; give a file of weights, .safetensors or .pth.") from None
    except pickle.UnpicklingError:
        raise SegueError(
            f"{path}: holds more than tensors, and code in a file is never executed; save its tensors as safetensors "
            "and give that file."
        ) from None
    except (SafetensorError, OSError, RuntimeError, EOFError, *OF_DAMAGED_PICKLES) as error:
        raise SegueError(
            f"{path}: is not a complete file of weights ({_first_line(error)}); give a .safetensors or .pth file in "
            "timm's format."
        ) from None
    for container in CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(container), dict):
            content = content[container]
            break
    tensors = {} if not isinstance(content, dict) else {k: v for k, v in content.items() if isinstance(v, Tensor)}
    if not tensors:
        raise SegueError(f"{path}: holds no tensors by name; give a .safetensors or .pth file in timm's format.")
    tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return {_rename_sam(name): value for name, value in tensors.items()}


def fill_encoder(
    network: Network,
    weights: Mapping[str, Tensor],
    *,
    source: str,
    channels_by: Literal["sum", "mean"] = "sum",
    context: str = "network",
) -> LoadingReport:
    """Fills the encoder from tensors by timm's names and returns the report; raises SegueError if they do not fit."""
    state = network.encoder.state_dict()
    names_in_file = {name: _name_in_file(name, weights) for name in state}
    absent = [name for name, other in names_in_file.items() if other is None]
    missing = [name for name in absent if name.endswith("num_batches_tracked")]
    lacking = [name for name in absent if name not in missing]
    if lacking:
        raise SegueError(
            f"{context}: {source} lacks {len(lacking)} of the {len(state)} tensors of the encoder, first "
            f"'{lacking[0].removeprefix('model.')}'; it holds {', '.join(list(weights)[:3])}, …; give the weights of "
            "this encoder" + _hint(weights)
        )
    # the first convolution takes the images
    first = next((n for n, v in state.items() if v.dim() == 4 and not n.endswith("pos_embed")), None)
    values: dict[str, Tensor] = {}
    resampled: dict[str, str] = {}
    adapted: dict[str, str] = {}
    for name, other in names_in_file.items():
        if other is None:
            continue
        value, label = weights[other], f"encoder.{name}"
        if name == first and value.dim() == 4:
            value, change = _adapt_channels(value, state[name].shape[1], channels_by)
            adapted |= {label: change} if change else {}
        if value.shape != state[name].shape:
            value, change = _resample(name, value, state[name], network.encoder)
            resampled |= {label: change} if change else {}
        if value.shape != state[name].shape:
            raise SegueError(
                f"{context}: '{other}' of {source} is {tuple(weights[other].shape)}, and the encoder's is "
                f"{tuple(state[name].shape)}; give the weights of this encoder, or name the one that they are of."
            )
        values[name] = value
    with torch.no_grad():
        for name, value in values.items():
            state[name].copy_(value)
    modified = resampled.keys() | adapted.keys()
    used = set(names_in_file.values())
    return LoadingReport(
        source,
        loaded=tuple(f"encoder.{name}" for name in values if f"encoder.{name}" not in modified),
        resampled=resampled,
        adapted=adapted,
        missing=tuple(f"encoder.{name}" for name in missing),
        initialised=tuple(name for name in network.state_dict() if not name.startswith("encoder.")),
        left_out=tuple(name for name in weights if name not in used),
    )


def _name_in_file(name: str, weights: Mapping[str, Tensor]) -> str | None:
    plain = name.removeprefix("model.")
    candidates = (plain, _FLATTENED.sub(r"\1.\2.", plain), name)
    return next((candidate for candidate in candidates if candidate in weights), None)


def _adapt_channels(value: Tensor, channels: int, by: str) -> tuple[Tensor, str]:
    """Returns convolution weights (out, in, h, w) for another number of input channels, with a description."""
    before = value.shape[1]
    if before == channels:
        return value, ""
    if by == "mean":
        return value.float().mean(1, keepdim=True).expand(-1, channels, -1, -1), f"{before} → {channels} channels, mean"
    share = f" / {channels}" if channels > 1 else ""
    summed = value.float().sum(1, keepdim=True) / channels
    return summed.expand(-1, channels, -1, -1), f"{before} → {channels} channels, sum{share}"


def _resample(name: str, value: Tensor, target: Tensor, encoder: nn.Module) -> tuple[Tensor, str]:
    """Returns weights resampled for another size of image or patch, with a description; else the input unchanged."""
    leaf = name.rpartition(".")[2]
    before, after = value.shape, target.shape
    if name.endswith("patch_embed.proj.weight") and before[:2] == after[:2]:
        from timm.layers.patch_embed import resample_patch_embed

        resized = resample_patch_embed(value.float(), [after[2], after[3]])
        return resized, f"patches of {before[2]}x{before[3]} → {after[2]}x{after[3]} px"
    if leaf in ("rel_pos_h", "rel_pos_w") and before[1:] == after[1:]:
        line = F.interpolate(value.float().T[None], after[0], mode="linear")[0].T
        return line, f"relative positions {before[0]} → {after[0]}, linear"
    if leaf == "pos_embed" and before[-1] == after[-1] and value.dim() == target.dim():
        return _resample_positions(value.float(), target, encoder)
    return value, ""


def _resample_positions(value: Tensor, target: Tensor, encoder: nn.Module) -> tuple[Tensor, str]:
    if value.dim() == 4:  # SAM's: (1, rows, columns, D)
        shape = (target.shape[1], target.shape[2])
        change = f"position embeddings {value.shape[1]}x{value.shape[2]} → {shape[0]}x{shape[1]}, bicubic"
        return bicubic(value.permute(0, 3, 1, 2), shape).permute(0, 2, 3, 1), change
    model: Any = getattr(encoder, "model", encoder)
    prefix = 0 if model.no_embed_class else model.num_prefix_tokens  # tokens with positions before the patches
    side = round(max(0, value.shape[1] - prefix) ** 0.5)
    shape = tuple(model.patch_embed.grid_size)
    if side * side + prefix != value.shape[1] or shape[0] * shape[1] + prefix != target.shape[1]:
        return value, ""
    grid = bicubic(value[:, prefix:].transpose(1, 2).unflatten(2, (side, side)), (shape[0], shape[1]))
    change = f"position embeddings {side}x{side} → {shape[0]}x{shape[1]}, bicubic"
    return torch.cat([value[:, :prefix], grid.flatten(2).transpose(1, 2)], dim=1), change


def _model_name(spec: NetworkSpec) -> str:
    if spec.family in FAMILIES:
        return spec.encoder
    return MOBILENET if spec.name == "mobilenet-transposed" else spec.encoder.removeprefix("tu-")


def _fetch(spec: NetworkSpec, context: str) -> dict[str, Tensor]:
    """Returns the weights that timm or segmentation-models-pytorch fetch from the network."""
    model = _model_name(spec)
    try:
        if spec.family in FAMILIES or spec.name == "mobilenet-transposed" or spec.encoder.startswith("tu-"):
            import timm

            return dict(timm.create_model(model, pretrained=True).state_dict())
        import segmentation_models_pytorch as smp

        return dict(smp.encoders.get_encoder(model, in_channels=3, weights="imagenet").state_dict())
    except (OSError, RuntimeError, ValueError, KeyError) as error:  # all that hub, files and models raise
        raise SegueError(
            f"{context}: the pretrained weights of '{model}' could not be fetched ({type(error).__name__}: "
            f"{_first_line(error)}); connect to the network, or give a file in timm's format: "
            f'pretrained = "{model}.safetensors".'
        ) from error


def _begins_as_safetensors(beginning: bytes) -> bool:
    """Returns whether the first nine bytes are the length of a header of safetensors, and the bracket that opens it."""
    return beginning[8:] == b"{" and int.from_bytes(beginning[:8], "little") <= MAX_HEADER_BYTES


def _rename_sam(name: str) -> str:
    return name.removeprefix(SAM_PREFIX).replace("mlp.lin", "mlp.fc") if name.startswith(SAM_PREFIX) else name


def _hint(weights: Mapping[str, Tensor]) -> str:
    ours = all(name.startswith(("encoder.", "decoder.", "head.")) for name in weights)
    return ", and start the stage from weights of segue with from = … instead of pretrained." if ours else "."


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
