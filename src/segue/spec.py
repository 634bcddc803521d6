"""Loads TOML specifications and reports their mistakes: all of them at once, each with its location and remedy.

The models are defined next to the functions that use them. Here are their base class, the loader, and the messages.
"""

from __future__ import annotations

import datetime
import difflib
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import PydanticKnownError, core_schema

from segue.errors import SegueError, SpecError
from segue.storage import require_regular

MAX_BYTES = 2 * 10**6  # of a specification
MAX_DEPTH = 50
MAX_INTEGER = 2**63
MAX_ENTRIES = 10_000  # of a table or list
MAX_MISTAKES = 100  # reported of a file
MAX_NAMES = 100  # named in a mistake, and compared with what was written


def _as_written(schema: Any) -> Any:
    """Returns a schema that takes no text or switch for a number, and no text or number for a switch."""
    if isinstance(schema, list):
        return [_as_written(item) for item in schema]
    if isinstance(schema, tuple):
        return tuple(_as_written(item) for item in schema)
    if not isinstance(schema, dict):
        return schema
    kind = schema.get("type")
    if kind in ("float", "bool"):
        return {**schema, "strict": True}
    if kind == "int":  # not strict, which would refuse 1e3
        return core_schema.no_info_before_validator_function(_require_number, cast(core_schema.IntSchema, schema))
    stays = ("keys_schema", "metadata", "serialization")  # keys of TOML are texts, of numbers too
    return {key: value if key in stays else _as_written(value) for key, value in schema.items()}


def _require_number(value: Any) -> Any:
    if isinstance(value, (str, bool)):
        raise PydanticKnownError("int_type")
    return value


class SpecModel(BaseModel):
    """A frozen table of a specification file; unknown keys are mistakes, and so are numbers and switches in quotes.

    RENAMED: former names -> current ones, of keys ("average": "ema") and of values ('name = "rare"': 'name = "…"').
    """

    RENAMED: ClassVar[Mapping[str, str]] = {}
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return _as_written(handler(source))


def as_range(value: Any) -> Any:
    """Returns (value, value) for one number and a tuple for [minimum, maximum]; for pydantic's BeforeValidator.

    Raises ValueError for anything else, and for a range that runs backwards.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (value, value)
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(v, int | float) for v in value):
        if value[0] > value[1]:
            raise ValueError(f"found {list(value)}; a range is [minimum, maximum]; swap the two")
        return tuple(value)
    raise ValueError(f"found {_shortened(value)}; give one number or a range [minimum, maximum]")


PATTERNS = {  # of names -> what they allow
    r"^[A-Za-z0-9._-]+$": "letters of English, digits, and . _ -",
    r"^[A-Za-z0-9][A-Za-z0-9._-]*$": "letters of English, digits, and . _ -, the first a letter or digit",
    r"^[A-Za-z0-9_-]+$": "letters of English, digits, and _ -",
    r"^[^/]+$": "any characters but the slash",
    r"^[0-9a-f]{64}$": "64 digits and letters from a to f",
}
REMEDIES = {  # pydantic's type of error -> what to do; braces are its bounds
    "greater_than": "give a number above {gt}",
    "greater_than_equal": "give a number of {ge} or more",
    "less_than": "give a number below {lt}",
    "less_than_equal": "give a number of {le} or less",
    "finite_number": "give a finite number",
    "int_type": "give a whole number",
    "int_parsing": "give a whole number",
    "int_from_float": "give a whole number",
    "float_type": "give a number",
    "float_parsing": "give a number",
    "bool_type": "give true or false",
    "bool_parsing": "give true or false",
    "string_type": "give a text, in quotes",
    "string_too_short": "give a text of {min_length} or more characters",
    "string_pattern_mismatch": "give a name of {pattern}",
    "path_type": "give a path, in quotes",
    "list_type": "give a list, such as [a, b]",
    "tuple_type": "give a list, such as [a, b]",
    "dict_type": "give a table",
    "too_short": "give {min_length} or more entries",
    "too_long": "give {max_length} or fewer entries",
}
Model = TypeVar("Model", bound=SpecModel)


def read_toml(path: Path) -> dict[str, Any]:
    """Returns the tables of a TOML file; raises SegueError when it is missing, unreadable, not TOML, or holds what no
    specification has: dates, NUL, or more than the limits above."""
    require_regular(path, "a TOML specification")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise SegueError(f"{path}: has {size:,} bytes; a specification has at most {MAX_BYTES:,}.")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SegueError(f"{path}: cannot be read as text ({error}); give the path of a TOML specification.") from None
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise SegueError(f"{path}: is nested too deeply; tables and lists may be nested {MAX_DEPTH} deep.") from None
    except ValueError as error:  # also a number of thousands of digits
        raise SegueError(f"{path}: is not valid TOML: {error}.") from None
    mistake = _excess(table)
    if mistake is not None:
        raise SegueError(f"{path}: {mistake}.")
    return table


def _excess(table: dict[str, Any]) -> str | None:
    """Returns the first thing in a file that no setting can be, None without."""
    waiting: list[tuple[str, Any, int]] = [("at the top", table, 1)]
    while waiting:
        place, value, depth = waiting.pop()
        if isinstance(value, (dict, list)):
            if len(value) > MAX_ENTRIES or depth > MAX_DEPTH:
                return (
                    f"{_shortened(place, quoted=False)}: found {len(value):,} entries, {depth} deep; allowed are "
                    f"{MAX_ENTRIES:,} entries and a depth of {MAX_DEPTH}"
                )
            if isinstance(value, dict):
                waiting += [(place, key, depth) for key in value]
                inner = [(key if value is table else f"{place}.{key}", entry) for key, entry in value.items()]
            else:
                inner = [(f"{place}[{index}]", entry) for index, entry in enumerate(value)]
            waiting += [(name, entry, depth + 1) for name, entry in inner]
        elif isinstance(value, str) and "\0" in value:
            return f"{place!r}: found a text with the character NUL, which no name or path can have; remove it"
        elif isinstance(value, int) and not -MAX_INTEGER <= value < MAX_INTEGER:
            return f"{place}: found a whole number beyond 64 bits, which TOML does not have; give a smaller one"
        elif isinstance(value, (datetime.date, datetime.time)):
            return f"{place}: found the date or time {value}; no setting is one: put it in quotes to make it a text"
    return None


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """Returns the table of settings from the command line ("key=value", values as in TOML); keys may be dotted.

    A bare word is a string. Raises SegueError for what is not key=value.

    >>> parse_settings(["kick=0.5", "warmup.epochs=5", "monitor=validation_loss"])
    {'kick': 0.5, 'warmup': {'epochs': 5}, 'monitor': 'validation_loss'}
    """
    table: dict[str, Any] = {}
    for text in settings:
        key, _, value = (part.strip() for part in text.partition("="))
        *outer, last = key.split(".")
        inner = table
        for name in outer:
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                raise SegueError(f"--set {text}: {name} has a value already; give it one, or settings below it.")
        if not all((*outer, last, value)):
            raise SegueError(f"--set {text}: found no key=value; write a setting such as --set width=16.")
        inner[last] = _parse_value(value)
    return table


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def load(model: type[Model], path: Path) -> Model:
    """Returns `model` filled from the TOML file; raises SpecError with every mistake."""
    return validate(model, read_toml(path), context=str(path))


def validate(model: type[Model], data: Any, *, context: str) -> Model:
    """Returns `model` filled from plain data; raises SpecError with every mistake, headed by `context`."""
    spec, mistakes = attempt(model, data)
    if spec is None:
        raise SpecError(context, mistakes)
    return spec


def attempt(model: type[Model], data: Any, *, prefix: str = "") -> tuple[Model | None, list[str]]:
    """Returns the filled model and no mistakes, or None and a sentence for each mistake.

    `prefix` is the dotted key of `data` in its file.
    """
    try:
        return model.model_validate(data), []
    except ValidationError as error:
        errors = error.errors(include_url=False)
        more = [f"and {len(errors) - MAX_MISTAKES:,} more mistakes"] if len(errors) > MAX_MISTAKES else []
        return None, _messages(model, errors[:MAX_MISTAKES], prefix) + more
    except RecursionError:
        return None, [f"{prefix or 'at the top'}: tables and lists are nested too deeply"]


def unknown(name: str, allowed: Iterable[str], what: str = "name", *, in_order: bool = False) -> str:
    """Returns "unknown name 'x'; did you mean 'y'? Allowed: …", for any closed set; sorted unless `in_order`."""
    names = list(allowed) if in_order else sorted(allowed)
    close = difflib.get_close_matches(name[:MAX_NAMES], names[:MAX_NAMES], n=1, cutoff=0.5)
    suggestion = f" did you mean '{close[0]}'?" if close else ""
    listed = names if len(names) <= MAX_NAMES else [*names[:MAX_NAMES], f"… ({len(names):,} names)"]
    return f"unknown {what} '{_shortened(name, quoted=False)}';{suggestion} allowed: {', '.join(listed) or 'none'}"


def unknown_key(model: type[BaseModel] | None, key: str, allowed: Iterable[str]) -> str:
    """Returns the mistake in a key that a model does not have: an old name, or an unknown one."""
    renamed = model.RENAMED if model is not None and issubclass(model, SpecModel) else {}
    return f"`{key}` is called `{renamed[key]}` now; rename it" if key in renamed else unknown(key, allowed, "key")


def _messages(model: type[BaseModel], errors: list[Any], prefix: str) -> list[str]:
    """Returns a sentence for each place; the alternatives of a union that all failed there become one."""
    locations = [error["loc"] for error in errors]
    by_place: dict[str, list[str]] = {}
    for error in errors:
        location, parent = error["loc"], error["loc"][:-1]
        has_deeper = any(other[: len(location)] == location and other != location for other in locations)
        if has_deeper and error["type"] == "too_short":
            continue  # the missing entry is there, but mistaken, and has its own message
        has_sibling = any(other != location and other[: len(parent)] == parent for other in locations)
        if has_sibling and error["type"] == "literal_error" and isinstance(error["input"], dict):
            continue  # a table is allowed there too, and its mistakes have their own messages
        place, text = _message(model, error, prefix)
        by_place.setdefault(place, []).append(text)
    return [f"{place}: {text}" for place, texts in by_place.items() for text in _join_alternatives(texts)]


def _join_alternatives(texts: list[str]) -> list[str]:
    """Joins "found X; give a" and "found X; allowed: b" to 'found X; give a, or "b"'; other sentences stay."""
    remedies: dict[str, list[str]] = {}
    for text in texts:
        finding, semicolon, remedy = text.partition("; ")
        if semicolon and finding.startswith("found "):
            remedies.setdefault(finding, []).append(remedy)
        else:
            remedies[text] = []
    return [
        f"{finding}; {_either(list(dict.fromkeys(rest)))}" if rest else finding for finding, rest in remedies.items()
    ]


def _either(remedies: list[str]) -> str:
    first, *others = remedies
    for other in others:
        names = other.removeprefix("allowed: ")
        quoted = ", or ".join(f'"{name}"' for name in names.split(", "))
        first += f", or {quoted if names != other else other.removeprefix('give ')}"
    return first


def _message(model: type[BaseModel], error: Any, prefix: str) -> tuple[str, str]:
    """Returns the location of an error as a dotted key, and the mistake there."""
    location, kind, value, bounds = error["loc"], error["type"], error["input"], error.get("ctx", {})
    place, owner = _locate(model, location, prefix)
    top = place or "at the top"
    if kind == "extra_forbidden":
        place, owner = _locate(model, location[:-1], prefix)
        allowed = [field.alias or name for name, field in owner.model_fields.items()] if owner else []
        return place or "at the top", unknown_key(owner, str(location[-1]), allowed)
    if kind == "missing":
        return place, "is missing; add it"
    if kind == "union_tag_invalid":
        tags = bounds["expected_tags"].replace("'", "").split(", ")
        return f"{place}.name", unknown(str(bounds["tag"]), tags)
    finding = "" if kind == "union_tag_not_found" else f"found {_shortened(value)}; "
    if kind == "literal_error":
        parent = _locate(model, location[:-1], prefix)[1]
        setting = f'{location[-1]} = "{value}"'
        if parent is not None and issubclass(parent, SpecModel) and setting in parent.RENAMED:
            return place, f"`{setting}` is written `{parent.RENAMED[setting]}` now; rename it"
        allowed = bounds["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        one_of_a_union = str(location[-1]).startswith("literal[")
        if isinstance(value, str) and not one_of_a_union:
            return place, unknown(value, allowed, "value")
        return place, f"{finding}allowed: {', '.join(allowed)}"
    if kind == "value_error":
        return top, str(bounds["error"])
    if kind in ("model_type", "model_attributes_type"):
        named = isinstance(value, str) and owner is not None and "name" in owner.model_fields
        if not named or owner is None:
            return place, f"{finding}give a table"
        setting = getattr(owner, "RENAMED", {}).get(f'name = "{value}"', f'name = "{value}"')
        names = [f'name = "{name}"' for name in get_args(owner.model_fields["name"].annotation)]
        return place, f"{finding}give a table, such as {{ {setting if setting in names or not names else names[0]} }}"
    if kind in REMEDIES:
        words = {name: f"{bound:g}" if isinstance(bound, float) else bound for name, bound in bounds.items()}
        if kind == "string_pattern_mismatch":
            words["pattern"] = PATTERNS.get(bounds["pattern"], f"what the pattern {bounds['pattern']} allows")
        return top, f"{finding}{REMEDIES[kind].format(**words)}"
    # TOML's terms in place of Python's
    text = error["msg"].partition(" or instance of ")[0].replace("dictionary", "table").replace("tuple", "list")
    return top, f"{finding}{text[0].lower()}{text[1:]}"


def _shortened(value: Any, *, quoted: bool = True) -> str:
    text = repr(value) if quoted else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _locate(model: type[BaseModel], location: Iterable[Any], prefix: str) -> tuple[str, type[BaseModel] | None]:
    """Returns a location as a dotted key, without the tags that pydantic adds for unions, and the model there."""
    parts = [prefix] if prefix else []
    annotation: Any = model
    for step in location:
        options = _options(annotation)
        tagged = _tagged_member(options, step)
        if tagged is not None:
            annotation = tagged
            continue
        children = [child for option in options if (child := _child(option, step)) is not None]
        if not children and isinstance(step, str):  # another tag that pydantic gives a member of a union
            continue
        parts.append(f"[{step}]" if isinstance(step, int) else str(step))
        annotation = children[0] if children else None
    models = [option for option in _options(annotation) if _is_model(option)]
    return ".".join(parts).replace(".[", "["), models[0] if models else None


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _options(annotation: Any) -> list[Any]:
    """Returns the alternatives of an annotation: the members of a union, without Annotated."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _options(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [option for member in typing.get_args(annotation) for option in _options(member)]
    return [annotation]


def _child(option: Any, step: Any) -> Any:
    """Returns the annotation of a model's field, a dict's value or a list's entry; None where there is none."""
    if _is_model(option):
        fields = {field.alias or name: field for name, field in option.model_fields.items()}
        return fields[step].annotation if step in fields else None
    origin, arguments = typing.get_origin(option), typing.get_args(option)
    if origin is dict and arguments and isinstance(step, str):
        return arguments[1]
    if origin in (list, tuple) and arguments and isinstance(step, int):
        return arguments[min(step, len(arguments) - 1)] if arguments[-1] is not Ellipsis else arguments[0]
    return None


def _tagged_member(options: list[Any], tag: Any) -> Any:
    """Returns the member of a union that pydantic names `tag`: by class name or by its literal `name`.

    It is looked up before the fields, since a member may have a field of its own name, as the target rays has.
    """
    if len(options) < 2:
        return None
    for option in filter(_is_model, options):
        field = option.model_fields.get("name")
        if option.__name__ == tag or (field and tag in typing.get_args(field.annotation)):
            return option
    return None
