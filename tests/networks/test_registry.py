from __future__ import annotations

import pytest
import segmentation_models_pytorch as smp
import torch

from segue import networks, rng
from segue.errors import SegueError, SpecError
from segue.networks import registry
from segue.networks.registry import SMP_DECODERS, SMP_ENCODERS, NetworkSpec
from segue.spec import validate


def trainable(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def test_published_parameter_count():
    """The study's network has exactly the published number of parameters, 78 % of them in the encoder."""
    network = networks.build(NetworkSpec(width=64), channels=1, classes=2)
    assert trainable(network) == 14_323_492
    assert round(100 * trainable(network.get_submodule("encoder")) / trainable(network)) == 78


@pytest.mark.parametrize(("width", "channels", "classes"), [(8, 1, 2), (16, 3, 5), (64, 2, 3)])
@pytest.mark.parametrize("norm", [None, "batch", "instance", "group", "layer"])
def test_count_without_building(width: int, channels: int, classes: int, norm: str | None):
    """The closed form that plans rely on equals what building gives, with every norm."""
    spec = NetworkSpec.model_validate({"width": width, "norm": norm, "dropout": 0.1, "stochastic_depth": 0.1})
    with torch.device("meta"):
        built = networks.build(spec, channels=channels, classes=classes)
    assert networks.parameter_count(spec, channels=channels, classes=classes) == trainable(built)


NAMES = [NetworkSpec(width=8), *(NetworkSpec(name=f"{d}-resnet18") for d in SMP_DECODERS if d != "dpt")]


@pytest.mark.parametrize(
    "spec",
    [
        *NAMES[:2],
        *(pytest.param(spec, marks=pytest.mark.slow) for spec in [*NAMES[2:], NetworkSpec(name="unet-mobilenet_v2")]),
    ],
    ids=lambda spec: spec.name,
)
def test_shapes_and_parts(spec: NetworkSpec):
    """Every network keeps height and width at its divisor's multiples, and consists of the three parts."""
    with rng.scope(0, "test"):
        network = networks.build(spec, channels=2, classes=3).eval()
        factor = networks.divisor(spec)
        with torch.inference_mode():
            scores = network(torch.randn(2, 2, 4 * max(factor, 32), 2 * max(factor, 64)))
    assert scores.shape == (2, 3, 4 * max(factor, 32), 2 * max(factor, 64))
    parts = sum(trainable(network.get_submodule(part)) for part in ("encoder", "decoder", "head"))
    assert parts == trainable(network)


def test_same_stream_same_weights():
    """Initial weights depend on the stream alone."""
    states = []
    for _ in range(2):
        with rng.scope(0, "init", 1):
            states.append(networks.build(NetworkSpec(width=8), channels=1, classes=2).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_batch_norm_of_input_makes_scale_irrelevant():
    """In training mode the network gives the same scores for an image and for ten times that image plus one."""
    with rng.scope(0, "test"):
        network = networks.build(NetworkSpec(width=8), channels=1, classes=2).train().double()
        images = torch.randn(4, 1, 64, 64, dtype=torch.float64)
    assert torch.allclose(network(images), network(10 * images + 1), atol=1e-4)


def test_names_are_those_of_the_package():
    """The names that plans are checked against are the installed package's."""
    assert set(smp.encoders.encoders) == SMP_ENCODERS
    assert {decoder.model for decoder in SMP_DECODERS.values()} == {
        name for name in dir(smp) if name[0].isupper() and name != "MODEL_ARCHITECTURES_MAPPING"
    }


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "resnet"}, "unknown network 'resnet'; did you mean 'resunet'?"),
        ({"name": "unet-resnet19"}, "unknown encoder 'resnet19'; did you mean 'resnet1"),
        ({"name": "unet-resnet18", "width": 8}, "width belongs to resunet"),
        ({"name": "resunet", "width": 10}, "multiple of 4"),
        ({"name": "unet-resnet18", "stochastic_depth": 0.1}, "'unet-resnet18' has none: remove stochastic_depth"),
        ({"dropout": 1.0}, "dropout: .*a number below 1"),
        ({"norm": "spectral"}, "norm: unknown value 'spectral'; allowed: batch, group, instance, layer"),
    ],
)
def test_bad_networks_are_refused_by_name(table: dict[str, object], message: str):
    """A network that cannot be is refused before anything is built, with what is allowed."""
    with pytest.raises(SpecError, match=message):
        validate(NetworkSpec, table, context="stage.toml")


@pytest.mark.parametrize(
    ("table", "size"),
    [
        ({"name": "unet", "width": 10**6, "depth": 1}, r"\d+ TB"),
        ({"name": "resunet", "width": 10**9}, r"\d+ TB"),
        ({"name": "mlp", "width": 10**8}, r"\d+ TB"),
    ],
)
def test_networks_larger_than_memory_are_refused(table: dict[str, object], size: str, monkeypatch: pytest.MonkeyPatch):
    """Before any of it is allocated."""
    monkeypatch.setattr(registry, "free_memory", lambda: 64 * 10**9)
    spec = NetworkSpec.model_validate(table)
    with pytest.raises(SegueError, match=f"its weights take .*{size}, but 64.0 GB of memory are free; lower its width"):
        networks.build(spec, channels=1, classes=2)


def test_weights_may_take_all_free_memory(monkeypatch: pytest.MonkeyPatch):
    """The limit is 4 bytes for each of the parameters."""
    spec = NetworkSpec(width=8)
    needed = 4 * networks.parameter_count(spec, channels=1, classes=2)
    monkeypatch.setattr(registry, "free_memory", lambda: needed)
    networks.build(spec, channels=1, classes=2)
    monkeypatch.setattr(registry, "free_memory", lambda: needed - 1)
    with pytest.raises(SegueError, match="its weights take"):
        networks.build(spec, channels=1, classes=2)
    with torch.device("meta"):
        networks.build(spec, channels=1, classes=2)


def test_tiles_that_do_not_fit_are_refused():
    """Tiles that the network cannot halve five times are refused with a size that fits."""
    with pytest.raises(SegueError, match=r"100x100 px.*multiples of 32.*96x96"):
        networks.require_fit(NetworkSpec(), (1, 100, 100), "data.h5")
    networks.require_fit(NetworkSpec(), (1, 96, 128), "data.h5")
