"""The grammar of a study file: its tables, and how `each`, `variants` and `pairs` expand into a grid.

each      {each = [a, b]} anywhere in a stage is an axis; {each = [...], except = "pretrain.domain"} leaves out the
          combinations whose value an ancestor already has (a name or a list of names)
variants  named partial tables merged over a stage, for axes that go together
pairs     {a = [...], b = [...], unordered = true}: all pairs of different domains, called "a" and "b" in `mix`
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from segue.study.spec import MAX_CONFIGURATIONS, Label, Table


@dataclass(frozen=True)
class Axis:
    """One varied setting: the dotted path in the stage's table, its values, and ancestors' settings to exclude."""

    path: str
    values: tuple[Any, ...]
    avoid: tuple[str, ...] = ()


@dataclass(frozen=True)
class GridPoint:
    """One point of a stage's own grid: the table without axes, the value of each axis, and what to exclude."""

    table: Table
    coordinates: dict[str, Any]
    excluded: dict[str, tuple[str, ...]]


def expand_grid(table: Table) -> list[GridPoint]:
    """Returns every point of the grid that a stage's table spans, in the order written.

    Raises ValueError, worded for the user, for a malformed axis, and for more points than a study may have.
    """
    points: list[GridPoint] = []
    for variant, merged in _variants(table):
        for pair, paired in _pairs(merged):
            plain, axes = split_axes(paired)
            require_few(len(points) + math.prod(len(axis.values) for axis in axes))
            avoid = {axis.path: axis.avoid for axis in axes if axis.avoid}
            for point, values in _combinations(plain, axes):
                points.append(GridPoint(_named(point, pair), variant | pair_label(pair) | values, avoid))
    return points


def expand_each(table: Table) -> list[tuple[Table, dict[str, Any]]]:
    """Returns every table that the axes in one span, in the order written, with their values by dotted path.

    Raises ValueError, worded for the user, for a malformed axis, `except`, and too many tables.
    """
    plain, axes = split_axes(table)
    for axis in axes:
        if axis.avoid:
            raise ValueError(f"{axis.path}: found `except`, but a dataset has no ancestors; leave values out instead")
    require_few(math.prod(len(axis.values) for axis in axes))
    return list(_combinations(plain, axes))


def _combinations(plain: Table, axes: list[Axis]) -> Iterator[tuple[Table, dict[str, Any]]]:
    for values in itertools.product(*(axis.values for axis in axes)):
        point = plain
        for axis, value in zip(axes, values, strict=True):
            point = override(point, axis.path.split("."), value)
        yield point, {axis.path: value for axis, value in zip(axes, values, strict=True)}


def require_few(count: int) -> None:
    """Raises ValueError if `count` configurations are more than a study may have."""
    if count > MAX_CONFIGURATIONS:
        raise ValueError(
            f"each, variants, pairs: they span {count:,} configurations or more; allowed are "
            f"{MAX_CONFIGURATIONS:,} in a study: vary fewer settings, or divide the study"
        )


def _variants(table: Table) -> Iterator[tuple[dict[str, str], Table]]:
    rest = {key: value for key, value in table.items() if key != "variants"}
    variants = table.get("variants")
    if variants is None:
        yield {}, rest
        return
    if not isinstance(variants, dict) or not variants or not all(isinstance(v, dict) for v in variants.values()):
        raise ValueError("variants: found no named tables; write [stages.<stage>.variants.<name>] for each")
    for name, partial in variants.items():
        yield {"variant": name}, merge(rest, partial)


def merge(table: Table, partial: Mapping[str, Any]) -> Table:
    """Returns the table with the partial one merged over it, key by key; a table with another `name` replaces."""
    merged = dict(table)
    for key, value in partial.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict) and value.get("name", old.get("name")) == old.get("name"):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def _pairs(table: Table) -> Iterator[tuple[tuple[str, str] | None, Table]]:
    pairs = table.get("pairs")
    if pairs is None:
        yield None, table
        return
    rest = {key: value for key, value in table.items() if key != "pairs"}
    lists = isinstance(pairs, dict) and isinstance(pairs.get("a"), list) and isinstance(pairs.get("b"), list)
    names = [*pairs["a"], *pairs["b"]] if lists else []
    is_named = lists and all(isinstance(name, str) for name in names)
    if not is_named or set(pairs) - {"a", "b", "unordered"} or "mix" not in table:
        raise ValueError("pairs: write pairs = { a = [...], b = [...], unordered = true } beside a `mix` of a and b")
    seen = set()
    for pair in itertools.product(pairs["a"], pairs["b"]):
        identity = frozenset(pair) if pairs.get("unordered") else pair
        if pair[0] != pair[1] and identity not in seen:
            seen.add(identity)
            yield pair, rest


def pair_label(pair: tuple[str, str] | None) -> dict[str, str]:
    return {} if pair is None else {"pair": f"{pair[0]}+{pair[1]}"}


def _named(table: Table, pair: tuple[str, str] | None) -> Table:
    """Puts the pair's domains where the mix says "a" and "b"."""
    if pair is None or not isinstance(table.get("mix"), list):
        return table
    names: Table = dict(zip(("a", "b"), pair, strict=True))
    mix = [
        {**item, "domain": names.get(str(item.get("domain")), item.get("domain"))} if isinstance(item, dict) else item
        for item in table["mix"]
    ]
    return {**table, "mix": mix}


def split_axes(table: Any, path: str = "") -> tuple[Any, list[Axis]]:
    """Returns the table with the first value in place of every axis, and the axes."""
    if not isinstance(table, dict):
        return table, []
    if "each" in table:
        axis = _axis(table, path)
        return axis.values[0], [axis]
    plain, axes = {}, []
    for key, value in table.items():
        plain[key], inner_axes = split_axes(value, f"{path}.{key}" if path else key)
        axes += inner_axes
    return plain, axes


def holds_axis(table: Any) -> bool:
    """Returns whether `each` occurs anywhere in a table."""
    return isinstance(table, dict) and ("each" in table or any(holds_axis(value) for value in table.values()))


def _axis(table: Table, path: str) -> Axis:
    values, avoid = table["each"], table.get("except", [])
    if not isinstance(values, list) or not values or set(table) - {"each", "except"}:
        raise ValueError(f"{path}: found {table}; write {path} = {{ each = [first, second, ...] }}")
    names = [avoid] if isinstance(avoid, str) else avoid
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f'{path}.except: found {avoid!r}; name what an ancestor sets, such as "pretrain.domain"')
    labels = [label(value) for value in values]
    if len(set(labels)) != len(labels):
        raise ValueError(
            f"{path}: the values of `each` are not distinct ({', '.join(map(str, labels))}); name each once"
        )
    return Axis(path, tuple(values), tuple(names))


def override(table: Table, path: list[str], value: Any) -> Table:
    """Returns the table with a value at a path, in tables that are added where there are none."""
    head, *rest = path
    inner = table.get(head)
    return {**table, head: override(inner if isinstance(inner, dict) else {}, rest, value) if rest else value}


def lookup(table: Any, path: str) -> Any:
    """Returns the value at a dotted path, None where there is none."""
    for key in path.split("."):
        table = table.get(key) if isinstance(table, dict) else None
    return table


def label(value: Any) -> Label:
    """Returns the text of a value in tables: a scalar unchanged, a table by its name and other settings."""
    if isinstance(value, dict):
        rest = [f"{key}={label(inner)}" for key, inner in value.items() if key not in ("name", "domain")]
        name = [str(value["name"])] if "name" in value else []
        return " ".join(name + rest) or "default"
    if isinstance(value, list):
        if value and all(isinstance(item, dict) and "domain" in item for item in value):
            return mixture(value)
        return ",".join(str(label(item)) for item in value) or "none"
    return value if isinstance(value, (str, int, float, bool)) else str(value)


def mixture(mix: list[Table]) -> str:
    """Returns "a:128+b:384" for a mixture."""
    return "+".join(f"{item['domain']}:{item.get('images', item.get('groups', 'all'))}" for item in mix)
