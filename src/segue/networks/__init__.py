"""Networks by name: `build(NetworkSpec(name="resunet"), channels=1, classes=2)` returns an nn.Module."""

from segue.networks.part_names import is_under, parts
from segue.networks.registry import (
    NETWORKS,
    NetworkSpec,
    build,
    divisor,
    is_dense,
    named,
    parameter_count,
    require_fit,
)

__all__ = [
    "NETWORKS",
    "NetworkSpec",
    "build",
    "divisor",
    "is_dense",
    "is_under",
    "named",
    "parameter_count",
    "parts",
    "require_fit",
]
