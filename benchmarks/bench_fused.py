"""Models that step at once (`side_by_side = "approximate"`) against models that step one after another, in one run.

    uv run python benchmarks/bench_fused.py --device cuda [--models 2 4 8] [--widths 8 16 32] [--size 128] [--batch 16]
    uv run python benchmarks/bench_fused.py differences

    speed         seconds of an epoch of M `resunet`s that share a pass over noise in memory, with different learning
                  rates: `exact` is segue's loop as it is, `at once` the same loop with their weights stacked
    differences   by how much loss and weights differ between the two after the first step and after so many: the norm
                  of the difference over the norm of the weights, and over that of their change by training; beside it
                  the same for `exact` with its weights changed by a rounding of float32 before the first step, since
                  training enlarges any difference

Contestants run in processes of their own, rounds in turn; the gain is the median of the ratios round by round. On a
processor, where segue does not do this by itself, it is done nevertheless. Prints lines of markdown tables.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bench_engine import CLASSES, noise
from contest import head, hold, machine, parse, ratio, row, spread
from torch import Tensor, nn

from segue import device, networks
from segue.targets.registry import build_target
from segue.targets.specs import ClassesSpec
from segue.training import fused, loop
from segue.training.loop import PassSettings, TrainState
from segue.training.run_folder import RunFolder
from segue.training.spec import StageSpec

ADAM = {"name": "adam", "lr": 1e-3}
NETWORKS: dict[str, dict[str, Any]] = {
    "resunet, batch norm": {"name": "resunet", "width": 8},
    "resunet, group norm": {"name": "resunet", "width": 8, "norm": "group"},
    "unet, batch norm": {"name": "unet", "width": 8, "depth": 2},
    "unet, without norm": {"name": "unet", "width": 8, "depth": 2, "norm": "none"},
}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"name": "sgd", "lr": 1e-2},
    "Adam": ADAM,
    "AdamW": {"name": "adamw", "lr": 1e-3},
}


@dataclass(frozen=True)
class Case:
    """M models of a network on `images` tiles of noise, `size` px, with learning rates that grow by 10 % each."""

    network: Mapping[str, Any]
    models: int
    images: int
    size: int
    batch: int
    device: str
    precision: str
    optimizer: Mapping[str, Any] = field(default_factory=lambda: ADAM)

    def specs(self, side_by_side: str) -> list[StageSpec]:
        return [
            StageSpec.model_validate(
                {
                    "data": [{"dataset": "made"}],
                    "network": self.network,
                    "optimizer": {**self.optimizer, "lr": self.optimizer["lr"] * 1.1**model},
                    "epochs": 1,
                    "batch": self.batch,
                    "validation": 0,
                    "precision": self.precision,
                    "side_by_side": side_by_side,
                }
            )
            for model in range(self.models)
        ]

    def build(self) -> list[nn.Module]:
        """Returns the untrained networks, each with its own initial weights."""
        built = []
        for model, spec in enumerate(self.specs("exact")):
            torch.manual_seed(model)
            built.append(networks.build(spec.network, channels=1, classes=len(CLASSES)))
        return built

    def train(self, trained: Sequence[nn.Module], side_by_side: str) -> tuple[float, list[TrainState]]:
        """Returns the seconds of an epoch, from the networks' present weights, and the states at its end."""
        fused.DEVICES = ("cuda", "cpu")
        target = build_target(ClassesSpec(), names=CLASSES, instances=False, context="benchmark")
        source = noise(self.images, self.size, 0)
        precision = device.resolve_precision(self.precision, self.device)  # type: ignore[arg-type]
        with tempfile.TemporaryDirectory() as folder:
            states = [
                loop.init_state(network, target, spec, RunFolder(Path(folder)), device=self.device, precision=precision)
                for network, spec in zip(trained, self.specs(side_by_side), strict=True)
            ]
            started = time.perf_counter()
            loop.train(states, training=source, validation=None, settings=PassSettings(self.device))  # ends with a wait
            seconds = time.perf_counter() - started
        for state in states:
            if state.error is not None:
                raise state.error
            if (state.progress.fused_steps > 0) != (side_by_side == "approximate"):
                raise SystemExit(f"the models did not step as asked: {state.why_exact}")
        return seconds, states


def contestant(case: Case, side_by_side: str) -> Callable[[], float]:
    """Returns what gives the seconds of an epoch."""
    device.keep_freed_memory()
    trained = case.build()
    case.train(trained, side_by_side)  # warms up
    return lambda: case.train(trained, side_by_side)[0]


def speed(options: argparse.Namespace) -> None:
    print(head("resunet", "tiles", "models", "exact, s", "at once, s", "gain"))
    for width in options.widths:
        network = {"name": "resunet", "width": width}
        for models in options.models:
            case = Case(network, models, options.images, options.size, options.batch, options.device, options.precision)
            contestants = {kind: partial(contestant, case, kind) for kind in ("exact", "approximate")}
            seconds = hold(contestants, rounds=options.rounds, threads=options.threads)
            gain = f"**{ratio(seconds['exact'], seconds['approximate']):.2f}**"
            tiles = f"{case.size}², batch {case.batch}"
            times = (spread(seconds[kind], 3) for kind in contestants)
            print(row(f"width {width}", tiles, models, *times, gain), flush=True)


@dataclass(frozen=True)
class End:
    """The losses (steps,) and weights of each model after an epoch; weights in one vector."""

    losses: list[Tensor]
    weights: list[Tensor]


def vector(network: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()]).double()


def end_of(case: Case, side_by_side: str, *, rounding: bool = False) -> End:
    trained = case.build()
    if rounding:
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for network in trained:
                for parameter in network.parameters():
                    change = torch.randn(parameter.shape, generator=generator) * torch.finfo(torch.float32).eps / 2
                    parameter.mul_(1 + change)
    _, states = case.train(trained, side_by_side)
    return End([state.losses.cpu().double() for state in states], [vector(network).cpu() for network in trained])


def compare(case: Case, exact: End, other: End) -> list[float]:
    """Returns the largest relative difference, over models, of the last loss, of the weights, and of the weights
    relative to their change."""
    begin = [vector(network) for network in case.build()]
    numbers = []
    for model in range(case.models):
        loss, weights = exact.losses[model][-1], exact.weights[model]
        apart = (other.weights[model] - weights).norm()
        change = (weights - begin[model]).norm()
        numbers.append([(other.losses[model][-1] - loss).abs() / loss, apart / weights.norm(), apart / change])
    return torch.tensor(numbers).max(0).values.tolist()


def differences(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    columns = ("loss", "weights", "change of weights", "by rounding: loss", "weights", "change of weights")
    print(head("network", "optimizer", "steps", *columns))
    for network in options.networks or NETWORKS:
        for optimizer in OPTIMIZERS:
            for steps in options.steps:
                settings = (options.batch * steps, options.size, options.batch, options.device, options.precision)
                case = replace(Case(NETWORKS[network], 3, *settings), optimizer=OPTIMIZERS[optimizer])
                exact, at_once = end_of(case, "exact"), end_of(case, "approximate")
                rounded = end_of(case, "exact", rounding=True)
                numbers = compare(case, exact, at_once) + compare(case, exact, rounded)
                print(row(network, optimizer, steps, *(f"{number:.1e}" for number in numbers)), flush=True)


BENCHMARKS: dict[str, Callable[[argparse.Namespace], None]] = {"speed": speed, "differences": differences}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["speed"], help=" or ".join(BENCHMARKS))
    parser.add_argument("--device", default=device.default_device())
    parser.add_argument("--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"))
    parser.add_argument("--models", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, help="of `differences`")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 10, 100], help="of `differences`")
    for name, value in (("images", 512), ("size", 128), ("batch", 16), ("threads", 1), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    small = {"models": [2], "widths": [8], "images": 16, "size": 32, "batch": 8, "rounds": 1, "steps": [2]}
    options = parse(parser, **small, networks=["resunet, batch norm"])
    for name in options.what:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark '{name}'; it is one of {', '.join(BENCHMARKS)}")
    name = torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else "the processor"
    print(f"{machine(options.threads)}; on {name}, {options.precision}")
    for what in options.what:
        print(f"\n{what}:\n")
        BENCHMARKS[what](options)


if __name__ == "__main__":
    main()
