"""Names of the parts of a network, and of what lies below them. Cheap to import: no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def parts(network: nn.Module) -> dict[str, tuple[str, ...]]:
    """Returns the smallest parts in order, each with the dotted names of its modules and parameters.

    `encoder.stem`, `encoder.0`, …, `decoder.0`, …, `head` for a `Network` (see `Network.parts`); the children of any
    other module.
    """
    children = {name: (name,) for name, _ in network.named_children()}
    return getattr(network, "parts", children)


def is_under(name: str, owners: Iterable[str]) -> bool:
    """Returns whether a parameter is one of the owners or lies below one of them, by dotted names."""
    return any(name == owner or name.startswith(f"{owner}.") for owner in owners)
