"""Every choice that `segue fit` makes for the user, with its reason: the settings of the trainings, by what was seen.

A rule is a function of the images and the time (`Situation`) that returns a value and its reason. The values end in
the TOML files, the reasons beside them and on the page. What was measured and what was not: docs/decisions/0029.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from segue.fitting.look import Look

TILES_PX = (64, 128, 256, 512)
TILE_PX, MAX_TILE_PX = 128, 256  # usual, and largest on a CPU
DIAMETERS_PER_TILE = 4
FEW_TILES = 200  # below, tiles overlap by half
SHORT_S, SHORT_CLASSES_S = 20.0, 300.0  # of one training; below, a network whose steps take least
MIN_STEPS_PER_EPOCH = 8  # below, an epoch is every rotation and reflection of each tile
MAX_EPOCHS = 400  # each ends with a validation and perhaps a checkpoint
MIN_STEPS = 20  # fewer teach nothing
BATCH, MIN_BATCH = 8, 2  # of tiles of TILE_PX; of larger ones, which normalization over a batch still bears
LR, TRANSFER_LR = 3e-3, 1e-3  # of new weights; of those of a parent, which are to be kept where they are good
TRAINING_SHARE = 0.7  # of the time; the rest scores, tunes decode parameters, and draws
FORWARD_SHARE = 0.35  # of a training step's time that a validation image takes: no backward pass


@dataclass(frozen=True)
class Situation:
    """What the rules depend on: the images, seconds for one training, threads, whether there is a GPU."""

    look: Look
    training_s: float
    has_gpu: bool

    @property
    def has_objects(self) -> bool:
        return self.look.labels.kind == "instances"


@dataclass(frozen=True)
class Choice:
    """A setting, its value, and why."""

    setting: str
    value: Any
    reason: str


def tile_px(situation: Situation) -> tuple[int, str]:
    sides = situation.look.shapes.min(1)
    smallest = int(np.median(sides))
    needed, why = TILE_PX, f"{TILE_PX} px is the size that the settings below were measured with"
    if situation.has_objects and len(situation.look.diameters):
        diameter = float(np.percentile(situation.look.diameters, 90))
        if DIAMETERS_PER_TILE * diameter > needed:
            needed = int(DIAMETERS_PER_TILE * diameter)
            why = f"{DIAMETERS_PER_TILE} diameters of the larger objects ({diameter:.0f} px), so that most are whole"
    largest = TILES_PX[-1] if situation.has_gpu else MAX_TILE_PX
    side = next((px for px in TILES_PX if px >= needed), TILES_PX[-1])
    if side > largest:
        side, why = largest, "the largest that a step can take in the time; larger objects are cut"
    if side > smallest:
        fitting = [px for px in TILES_PX if px <= smallest]
        side, why = (fitting or TILES_PX)[-1 if fitting else 0], f"the images measure {smallest} px"
    return side, why


def stride_px(situation: Situation) -> tuple[int, str]:
    side, _ = tile_px(situation)
    tiles = sum(math.ceil(h / side) * math.ceil(w / side) for h, w in situation.look.shapes.tolist())
    if tiles < FEW_TILES:
        return side // 2, f"only {tiles} tiles without overlap: overlapping ones show objects at other places"
    return side, f"{tiles:,} tiles without overlap are enough"


def network(situation: Situation) -> tuple[dict[str, Any], str]:
    limit_s = SHORT_S if situation.has_objects else SHORT_CLASSES_S
    if not situation.has_gpu and situation.training_s < limit_s:
        seconds = max(1, round(situation.training_s))
        return {"name": "resunet", "width": 16}, (
            f"a small residual U-Net, whose steps take least, since a training has {seconds} s"
        )
    if situation.has_objects:
        return {"name": "unet", "width": 16}, "a U-Net at full resolution: mean AP +.012 to +.04 over resunets"
    return {"name": "resunet", "width": 32}, "a residual U-Net of the width that was best in ten minutes of two threads"


def target(situation: Situation) -> tuple[dict[str, Any], str]:
    if situation.has_objects:
        return {"name": "flows"}, "best AP50 of seven representations on fluorescence nuclei (AP50 .775)"
    return {"name": "classes", "loss": "dice_cross_entropy"}, (
        "Dice counts each class alike, however few its pixels; cross-entropy is smooth (Isensee et al. 2021)"
    )


def normalize(situation: Situation) -> tuple[Any, str]:
    if situation.has_objects:
        return "background", "an image of one object is as bright as one of many: mean AP +.014 over percentiles"
    return "image", "classes can fill the image, so that there is no background to refer to"


def augment(situation: Situation) -> tuple[dict[str, Any], str]:
    if situation.has_objects:
        return {"scale": [0.5, 2.0]}, "rotations and reflections; sizes by half and double, better on nuclei"
    return {"scale": [0.8, 1.25]}, "rotations and reflections; a little of scale, as textures have a size of their own"


def batch(situation: Situation) -> tuple[int, str]:
    side, _ = tile_px(situation)
    if situation.has_gpu or side <= TILE_PX:
        return BATCH, "the number that was measured in ten minutes"
    return max(MIN_BATCH, BATCH * TILE_PX**2 // side**2), (
        f"as many pixels as {BATCH} tiles of {TILE_PX} px: more steps rather than larger ones in a short time"
    )


def optimizer(situation: Situation) -> tuple[dict[str, Any], str]:
    return {
        "name": "adam",
        "lr": LR,
    }, "mean AP +.006 to +.010 over 1e-3, which transferred weights have"


def schedule(situation: Situation) -> tuple[dict[str, Any], str]:
    return {"name": "cosine"}, "ends at rate 0 when the time does"


def ema(situation: Situation) -> tuple[dict[str, Any], str]:
    return {"decay": 0.999}, "averages the last steps; with few steps fewer of them"


def tta(situation: Situation) -> tuple[bool, str]:
    if situation.has_objects:
        return True, "predictions averaged over rotations and reflections: mean AP +.019 on nuclei"
    return False, "not measured for classes; `segue predict --tta` does it for any model"


def clip_norm(situation: Situation) -> tuple[float, str]:
    return 1.0, "a single odd tile cannot undo the training"


DATA_RULES: Mapping[str, Callable[[Situation], tuple[Any, str]]] = {"tile_px": tile_px, "stride_px": stride_px}
STAGE_RULES: Mapping[str, Callable[[Situation], tuple[Any, str]]] = {
    "network": network,
    "target": target,
    "normalize": normalize,
    "augment": augment,
    "batch": batch,
    "optimizer": optimizer,
    "schedule": schedule,
    "ema": ema,
    "clip_norm": clip_norm,
    "tta": tta,
}


def choose(rules: Mapping[str, Callable[[Situation], tuple[Any, str]]], situation: Situation) -> list[Choice]:
    """Returns the value of every rule, with its reason."""
    return [Choice(setting, *rule(situation)) for setting, rule in rules.items()]


# the number of steps


@dataclass(frozen=True)
class Length:
    """How long the trainings are: epochs, and steps in all. `all_views`: an epoch visits each tile in eight views."""

    epochs: int
    steps: int
    all_views: bool


def length(steps: float, *, tiles: int, batch: int) -> Length:
    """Returns the whole epochs that come closest to `steps` steps from below; at least one.

    tiles: of the training part. An epoch of fewer than eight steps would mostly be validation: it then visits every
    rotation and reflection of a tile.
    """
    all_views = math.ceil(tiles / batch) < MIN_STEPS_PER_EPOCH
    per_epoch = math.ceil((8 if all_views else 1) * tiles / batch)
    epochs = min(MAX_EPOCHS, max(1, int(steps // per_epoch)))
    return Length(epochs, epochs * per_epoch, all_views)


def steps_in(seconds: float, *, step_s: float, training_tiles: int, validation_tiles: int, batch: int) -> float:
    """Returns the steps that fit into `seconds`, with the validation after each epoch; at least MIN_STEPS.

    A validation tile takes FORWARD_SHARE of a training tile, and an epoch at least MIN_STEPS_PER_EPOCH steps.
    """
    visits = max(training_tiles, MIN_STEPS_PER_EPOCH * batch)
    overhead = 1 + FORWARD_SHARE * validation_tiles / visits
    return max(MIN_STEPS, seconds / (step_s * overhead))
