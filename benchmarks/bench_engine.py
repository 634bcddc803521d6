"""What the training engine gains by sharing and by keeping, and what it spends beside training, each in one run.

    uv run python benchmarks/bench_engine.py [fleet] [frozen] [overhead] [--rounds 3] [--threads 2]
    uv run python benchmarks/bench_engine.py frozen overhead --augment dihedral-all

    fleet      2 and 4 models in one pass over the data against one after another; resident, and streamed from HDF5 with
               random rotation and elastic deformation, which a pass does once for all its models
    frozen     trainings of ten epochs of 64 images: all parts trained, the encoder frozen, and its features kept
               besides; beside what was measured, the ratios of the multiply-adds of all convolutions
    overhead   the share of a stage's time (256 training and 32 validation images, ten epochs, checkpoints as by
               default) that goes into its own validation, the rest of an epoch's end, and checkpoints

The network is `resunet` at 128², batch 16, on noise. Contestants run in processes of their own, rounds in turn; ratios
are medians of the ratios round by round. `overhead` is one training, whose functions are timed by Python's profiler.
Prints lines of markdown tables. Without a name all three run.
"""

from __future__ import annotations

import argparse
import cProfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_streaming import make
from contest import head, hold, machine, parse, ratio, row, spread
from torch import Tensor, nn

from segue import device, networks
from segue.data.dataset import Dataset
from segue.data.sources import DatasetSubset, ResidentSource, Source
from segue.data.streaming import StreamedSource, chunk_ids
from segue.evaluation.evaluate import score_many
from segue.networks.registry import NetworkSpec
from segue.targets.registry import build_target
from segue.targets.specs import ClassesSpec
from segue.training import freezing, loop, optimizers
from segue.training.cache import FeatureCache
from segue.training.loop import PassSettings, TrainState
from segue.training.run_folder import RunFolder
from segue.training.spec import StageSpec

CLASSES = ("background", "live", "dead")
BUDGET_BYTES = 2 * 10**8  # for streamed samples
CHANGES = {"dihedral": "random", "rotation_deg": 180, "elastic": {"amplitude_px": 2, "sigma_px": 8}}


@dataclass(frozen=True)
class Case:
    """What is trained: `images` tiles of `size` px of noise, with a `resunet` of this width, so many epochs."""

    width: int
    images: int
    epochs: int
    augment: str | dict[str, Any] = "none"
    freeze: tuple[str, ...] = ()
    cache: bool = True
    validation: int = 0
    size: int = 128
    batch: int = 16

    @property
    def spec(self) -> StageSpec:
        return StageSpec.model_validate(
            {
                "data": [{"dataset": "made"}],
                "network": NetworkSpec(name="resunet", width=self.width),
                "epochs": self.epochs,
                "batch": self.batch,
                "augment": self.augment,
                "freeze": self.freeze,
                "cache_features": self.cache,
                "validation": self.validation,
            }
        )

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return networks.build(self.spec.network, channels=1, classes=len(CLASSES))

    def state(self, network: nn.Module, folder: Path) -> TrainState:
        target = build_target(ClassesSpec(), names=CLASSES, instances=False, context="benchmark")
        precision = device.resolve_precision("auto", "cpu")
        return loop.init_state(network, target, self.spec, RunFolder(folder), device="cpu", precision=precision)


def noise(count: int, size: int, seed: int) -> ResidentSource:
    """Returns images of noise in memory, whose labels follow from it."""
    images = np.random.default_rng(seed).normal(size=(count, size, size, 1)).astype(np.float32)
    labels = (images[..., 0] > 0.5).astype(np.int8) + (images[..., 0] > 1.5)
    names = tuple(f"image {index}" for index in range(count))
    return ResidentSource(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int8)), names)


def train(
    case: Case,
    trained: Sequence[nn.Module],
    training: Source,
    *,
    validation: Source | None = None,
    settings: PassSettings | None = None,
) -> float:
    """Returns the seconds of training the networks side by side, going on from the weights that they have."""
    with tempfile.TemporaryDirectory() as folder:
        states = [case.state(network, Path(folder) / str(index)) for index, network in enumerate(trained)]
        started = time.perf_counter()
        loop.train(states, training=training, validation=validation, settings=settings or PassSettings("cpu"))
        seconds = time.perf_counter() - started
    for state in states:
        if state.error is not None:
            raise state.error
    return seconds


def fleet_contestant(case: Case, path: Path, models: int, streamed: bool, together: bool) -> Callable[[], float]:
    """Returns what gives the seconds of training several models once, side by side or one after another."""
    device.keep_freed_memory()
    with Dataset(path) as data:
        subset = DatasetSubset(data, np.arange(data.count), data.layers["cells"])
        blocks = chunk_ids([(data.path, subset.indices, (data.count, case.size, case.size))])
        if streamed:
            source: Source = StreamedSource([subset], normalization="image", budget_bytes=BUDGET_BYTES)
        else:
            source = ResidentSource.from_parts([subset], normalization="image")
    settings = PassSettings("cpu", chunk_ids=blocks)
    trained = [case.build() for _ in range(models)]

    def measured() -> float:
        if together:
            return train(case, trained, source, settings=settings)
        return sum(train(case, [network], source, settings=settings) for network in trained)

    measured()  # warms up
    return measured


def fleet(options: argparse.Namespace) -> None:
    print(head("resunet", "data", "models", "one after another, s", "side by side, s", "gain"))
    sources: dict[str, tuple[bool, str | dict[str, Any]]] = {
        "resident": (False, "none"),
        "streamed, rotated, elastic": (True, CHANGES),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = make(Path(folder), options.fleet_images, options.size)
        for width in options.fleet_widths:
            for what, (streamed, augment) in sources.items():
                for models in options.fleet_models:
                    case = Case(width, options.fleet_images, epochs=1, augment=augment, size=options.size)
                    contestants = {
                        name: partial(fleet_contestant, case, path, models, streamed, together)
                        for name, together in (("alone", False), ("together", True))
                    }
                    seconds = hold(contestants, rounds=options.rounds, threads=options.threads)
                    gain = f"**{ratio(seconds['alone'], seconds['together']):.2f}**"
                    times = (spread(seconds[name], 2) for name in ("alone", "together"))
                    print(row(f"width {width}", what, models, *times, gain), flush=True)


def frozen_contestant(case: Case) -> Callable[[], float]:
    """Returns what gives the seconds of a training; the features of a frozen encoder are computed within it."""
    device.keep_freed_memory()
    source, network = noise(case.images, case.size, 0), case.build()
    if case.freeze and case.cache:
        precision = device.resolve_precision("auto", "cpu")
        cache = FeatureCache.compute(network.eval(), source, case.spec, device=torch.device("cpu"), precision=precision)
        if cache is None:
            raise SystemExit("the features do not fit into the memory that is free, so there is nothing to compare")
        del cache
    train(replace(case, epochs=2), [network], source)  # warms up
    return lambda: train(case, [network], source)


def multiply_adds(case: Case) -> float:
    """Returns those of all convolutions for one view in one epoch, on average over the epochs.

    Forward counts one, backward one for the weights where these are trained and one for the input where its gradient is
    needed; a frozen encoder whose features are kept is computed in one of the epochs only.
    """
    network = case.build()
    freezing.freeze(network, case.freeze)
    freezing.set_training(network, case.freeze)
    counted = 0.0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, epochs: int) -> None:
        nonlocal counted
        assert isinstance(module, nn.Conv2d)
        forward = output[0].numel() * module.weight[0].numel()
        counted += forward * (1 / epochs + module.weight.requires_grad + inputs[0].requires_grad)

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            is_cached = case.cache and networks.is_under(name, case.freeze)
            module.register_forward_hook(partial(count, epochs=case.epochs if is_cached else 1))
    network(torch.zeros(2, 1, case.size, case.size))
    return counted


def frozen(options: argparse.Namespace) -> None:
    names = ("resunet", "encoder", "time, s", "cached is faster by", "by multiply-adds", "10⁶ multiply-adds a view")
    print(head(*names))
    for width in options.widths:
        images, epochs = options.images // 4, options.epochs
        base = Case(width, images, epochs, augment=options.augment or "none", size=options.size)
        cases = {
            "trained": base,
            "frozen": replace(base, freeze=("encoder",), cache=False),
            "frozen, cached": replace(base, freeze=("encoder",)),
        }
        contestants = {name: partial(frozen_contestant, case) for name, case in cases.items()}
        seconds = hold(contestants, rounds=options.rounds, threads=options.threads)
        cost = {name: multiply_adds(case) for name, case in cases.items()}
        cached = "frozen, cached"
        for name in cases:
            gain = f"**{ratio(seconds[name], seconds[cached]):.2f}**" if name != cached else ""
            bound = f"{cost[name] / cost[cached]:.2f}" if name != cached else ""
            cells = (name, spread(seconds[name]), gain, bound, f"{cost[name] / 1e6:.0f}")
            print(row(f"width {width}", *cells), flush=True)


@dataclass(frozen=True)
class Spent:
    """Seconds of a whole training and of what belongs to it, and how many checkpoints it wrote."""

    whole: float
    validation: float
    best_weights: float
    scores: float
    checkpoints: float
    saved: int


def overhead_contestant(case: Case) -> Callable[[], Spent]:
    device.keep_freed_memory()
    training, validation = noise(case.images, case.size, 0), noise(case.validation, case.size, 1)
    network = case.build()
    train(replace(case, epochs=1), [network], training, validation=validation)  # warms up

    def measured() -> Spent:
        profile = cProfile.Profile()
        whole = profile.runcall(partial(train, case, [network], training, validation=validation))
        entries = {entry.code: entry for entry in profile.getstats()}

        def seconds(function: Callable[..., object]) -> float:
            entry = entries.get(function.__code__)
            return entry.totaltime if entry is not None else 0.0

        saves, ends = entries.get(loop.save_state.__code__), entries[loop.validate_epoch.__code__]
        copied = {call.code: call.totaltime for call in ends.calls or ()}.get(optimizers.copy_weights.__code__, 0.0)
        return Spent(
            whole,
            validation=seconds(score_many),
            best_weights=copied,
            scores=seconds(loop.validate_epoch) - seconds(score_many) - copied,
            checkpoints=seconds(loop.save_state),
            saved=saves.callcount if saves is not None else 0,
        )

    return measured


def overhead(options: argparse.Namespace) -> None:
    columns = ("validation", "scores of training", "copies of the best weights", "checkpoints", "together")
    print(head("resunet", "training, s", *columns))
    for width in options.widths:
        augment, validation = options.augment or "dihedral", options.images // 8
        case = Case(width, options.images, options.epochs, augment=augment, validation=validation, size=options.size)
        (spent,) = hold({"one": partial(overhead_contestant, case)}, rounds=1, threads=options.threads)["one"]
        parts = (spent.validation, spent.scores, spent.best_weights, spent.checkpoints)
        shares = [f"{part / spent.whole:.2%}" for part in parts]
        shares[-1] += f" ({spent.saved} written)"
        print(row(f"width {width}", f"{spent.whole:.1f}", *shares, f"**{sum(parts) / spent.whole:.2%}**"), flush=True)


BENCHMARKS: dict[str, Callable[[argparse.Namespace], None]] = {"fleet": fleet, "frozen": frozen, "overhead": overhead}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help=f"{', '.join(BENCHMARKS)}; all without any")
    parser.add_argument("--threads", type=int, default=device.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=Case.size, help="side of the images in px")
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 64], help="of `frozen` and `overhead`")
    parser.add_argument("--augment", choices=("none", "dihedral", "dihedral-all"), help="of `frozen` and `overhead`")
    parser.add_argument("--images", type=int, default=256, help="of `overhead`; `frozen` has a quarter of them")
    parser.add_argument("--epochs", type=int, default=10, help="of `frozen` and `overhead`")
    parser.add_argument("--fleet-images", type=int, default=96, help="samples of an epoch")
    parser.add_argument("--fleet-widths", type=int, nargs="+", default=[16, 8])
    parser.add_argument("--fleet-models", type=int, nargs="+", default=[2, 4])
    small = {"rounds": 1, "threads": 1, "size": 32, "widths": [8], "images": 32, "epochs": 2}
    small |= {"fleet_images": 16, "fleet_widths": [8], "fleet_models": [2]}
    options = parse(parser, **small)
    for name in options.what:
        if name not in BENCHMARKS:
            parser.error(f"there is no benchmark '{name}'; it is one of {', '.join(BENCHMARKS)}")
    print(machine(options.threads))
    for name in options.what or BENCHMARKS:
        print(f"\n{name}:\n")
        BENCHMARKS[name](options)


if __name__ == "__main__":
    main()
