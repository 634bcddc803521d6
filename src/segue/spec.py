"""Loads TOML specifications and words their mistakes: all of them at once, each with its place and remedy.

The models themselves stand beside the functions that consume them; here are only the model they derive
from, the loader and the messages.
"""

from __future__ import annotations

import difflib
import tomllib
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from segue.errors import SegueError, SpecError


class SpecModel(BaseModel):
    """A frozen table of a specification file; unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


PATTERNS = {  # of names, in words
    r"^[A-Za-z0-9._-]+$": "letters of English, digits, and . _ -",
    r"^[A-Za-z0-9][A-Za-z0-9._-]*$": "letters of English, digits, and . _ -, the first a letter or digit",
    r"^[A-Za-z0-9_-]+$": "letters of English, digits, and _ -",
    r"^[^/]+$": "any characters but the slash",
}
REMEDIES = {  # by pydantic's kind of mistake; braces are its bounds
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
    """Returns the tables of a TOML file; raises SegueError when it is missing, unreadable or not TOML."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SegueError(f"{path}: there is no such file; give the path of a TOML specification.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SegueError(f"{path}: cannot be read as text ({error}); give the path of a TOML specification.") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SegueError(f"{path}: is not valid TOML: {error}.") from None


def given(settings: Iterable[str]) -> dict[str, Any]:
    """Returns the table that settings of the command line ("key=value", values as in TOML) make; keys may be dotted.

    A bare word is a text. Raises SegueError for what is no key=value.

    >>> given(["kick=0.5", "warmup.epochs=5", "monitor=validation_loss"])
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
        inner[last] = _value(value)
    return table


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def load(model: type[Model], path: Path) -> Model:
    """Returns `model` filled from the TOML file; raises SpecError with every mistake."""
    return validate(model, read_toml(path), where=str(path))


def validate(model: type[Model], data: Any, *, where: str) -> Model:
    """Returns `model` filled from plain data; raises SpecError with every mistake, headed by `where`."""
    found, mistakes = attempt(model, data)
    if found is None:
        raise SpecError(where, mistakes)
    return found


def attempt(model: type[Model], data: Any, *, place: str = "") -> tuple[Model | None, list[str]]:
    """Returns the filled model and no mistakes, or None and a sentence for each mistake.

    `place` is the dotted key under which `data` stands in its file.
    """
    try:
        return model.model_validate(data), []
    except ValidationError as error:
        return None, _sentences(model, error.errors(include_url=False), place)


def unknown(found: str, allowed: typing.Iterable[str], what: str = "name") -> str:
    """Returns "unknown name 'x'; did you mean 'y'? Allowed: …", for any closed set of names."""
    names = sorted(allowed)
    close = difflib.get_close_matches(found, names, n=1, cutoff=0.5)
    meant = f" did you mean '{close[0]}'?" if close else ""
    return f"unknown {what} '{found}';{meant} allowed: {', '.join(names) or 'none, for there are none'}"


def _sentences(model: type[BaseModel], mistakes: list[Any], place: str) -> list[str]:
    """Returns a sentence for each place; the alternatives of a union that all failed there become one."""
    places = [mistake["loc"] for mistake in mistakes]
    told: dict[str, list[str]] = {}
    for mistake in mistakes:
        deeper = any(other[: len(mistake["loc"])] == mistake["loc"] and other != mistake["loc"] for other in places)
        if deeper and mistake["type"] == "too_short":
            continue  # what it lacks is there, but mistaken, and told by itself
        above = mistake["loc"][:-1]
        beside = any(other != mistake["loc"] and other[: len(above)] == above for other in places)
        if beside and mistake["type"] == "literal_error" and isinstance(mistake["input"], dict):
            continue  # a table is allowed there too, and is mistaken in what is told by itself
        where, _, what = _sentence(model, mistake, place).partition(": ")
        told.setdefault(where, []).append(what)
    return [f"{where}: {alternative}" for where, whats in told.items() for alternative in _alternatives(whats)]


def _alternatives(whats: list[str]) -> list[str]:
    """Joins "found X; give a" and "found X; allowed: b" to 'found X; give a, or "b"'; other sentences stay."""
    joined: dict[str, list[str]] = {}
    for what in whats:
        found, semicolon, message = what.partition("; ")
        if semicolon and found.startswith("found "):
            joined.setdefault(found, []).append(message)
        else:
            joined[what] = []
    return [f"{found}; {_either(list(dict.fromkeys(rest)))}" if rest else found for found, rest in joined.items()]


def _either(remedies: list[str]) -> str:
    first, *others = remedies
    for other in others:
        names = other.removeprefix("allowed: ")
        quoted = ", or ".join(f'"{name}"' for name in names.split(", "))
        first += f", or {quoted if names != other else other.removeprefix('give ')}"
    return first


def _sentence(model: type[BaseModel], mistake: Any, place: str) -> str:
    location = list(mistake["loc"])
    kind, context = mistake["type"], mistake.get("ctx", {})
    if kind == "extra_forbidden":
        owner = _model_at(model, location[:-1])
        allowed = [field.alias or name for name, field in owner.model_fields.items()] if owner else []
        return f"{_dotted(model, location[:-1], place) or 'at the top'}: {unknown(str(location[-1]), allowed, 'key')}"
    where = _dotted(model, location, place)
    if kind == "missing":
        return f"{where}: is missing; add it"
    found = "" if kind == "union_tag_not_found" else f"found {_shown(mistake['input'])}; "
    if kind in ("union_tag_invalid",):
        return f"{where}.name: " + unknown(str(context["tag"]), context["expected_tags"].replace("'", "").split(", "))
    if kind == "literal_error":
        allowed = context["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        one_of_a_union = str(location[-1:]).startswith('["literal[')
        if isinstance(mistake["input"], str) and not one_of_a_union:
            return f"{where}: {unknown(mistake['input'], allowed, 'value')}"
        return f"{where}: found {_shown(mistake['input'])}; allowed: {', '.join(allowed)}"
    if kind == "value_error":
        return f"{where or 'at the top'}: {context['error']}"
    if kind in ("model_type", "model_attributes_type"):
        owner = _model_at(model, location)
        named = isinstance(mistake["input"], str) and owner is not None and "name" in owner.model_fields
        return f"{where}: {found}give a table" + (f', such as {{ name = "{mistake["input"]}" }}' if named else "")
    if kind in REMEDIES:
        allowed = {name: f"{value:g}" if isinstance(value, float) else value for name, value in context.items()}
        if kind == "string_pattern_mismatch":
            allowed["pattern"] = PATTERNS.get(context["pattern"], f"what the pattern {context['pattern']} allows")
        return f"{where or 'at the top'}: {found}{REMEDIES[kind].format(**allowed)}"
    # TOML's words for Python's
    message = mistake["msg"].partition(" or instance of ")[0].replace("dictionary", "table").replace("tuple", "list")
    return f"{where or 'at the top'}: {found}{message[0].lower()}{message[1:]}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _dotted(model: type[BaseModel], location: list[Any], place: str) -> str:
    """Returns the location as a dotted key, without the tags that pydantic adds for unions."""
    parts = [place] if place else []
    owner: Any = model
    for step in location:
        options = _options(owner)
        if (member := _member(options, step)) is not None:
            owner = member
            continue
        following = [_child(option, step) for option in options]
        following = [option for option in following if option is not None]
        if not following and isinstance(step, str):  # another tag that pydantic gives a member of a union
            continue
        parts.append(f"[{step}]" if isinstance(step, int) else str(step))
        owner = following[0] if following else None
    return ".".join(parts).replace(".[", "[")


def _model_at(model: type[BaseModel], location: list[Any]) -> type[BaseModel] | None:
    owner: Any = model
    for step in location:
        options = _options(owner)
        if (member := _member(options, step)) is not None:
            owner = member
            continue
        following = next((c for c in (_child(option, step) for option in options) if c is not None), None)
        owner = following if following is not None else owner
    models = [option for option in _options(owner) if isinstance(option, type) and issubclass(option, BaseModel)]
    return models[0] if models else None


def _options(annotation: Any) -> list[Any]:
    """Returns the alternatives of an annotation: the members of a union, without Annotated."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _options(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [option for member in typing.get_args(annotation) for option in _options(member)]
    return [annotation]


def _child(option: Any, step: Any) -> Any:
    if isinstance(option, type) and issubclass(option, BaseModel):
        fields = {field.alias or name: field for name, field in option.model_fields.items()}
        return fields[step].annotation if step in fields else None
    arguments = typing.get_args(option)
    if typing.get_origin(option) is dict and arguments and isinstance(step, str):
        return arguments[1]
    if typing.get_origin(option) in (list, tuple) and arguments and isinstance(step, int):
        return arguments[min(step, len(arguments) - 1)] if arguments[-1] is not Ellipsis else arguments[0]
    return None


def _member(options: list[Any], tag: Any) -> Any:
    """Returns the member of a union that pydantic names `tag`: by class name or by its literal `name`.

    Asked for before the fields: a member may have a field of its own name, as the target rays has.
    """
    if len(options) < 2:
        return None
    for option in options:
        if not (isinstance(option, type) and issubclass(option, BaseModel)):
            continue
        field = option.model_fields.get("name")
        if option.__name__ == tag or (field and tag in typing.get_args(field.annotation)):
            return option
    return None
