from __future__ import annotations

import importlib
import re
import typing
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field
from samples.modules import every_module

from segue.errors import SegueError, SpecError
from segue.spec import PATTERNS, SpecModel, load, read_toml, validate


class Small(SpecModel):
    RENAMED = {"largeness": "size", 'mode = "slow"': 'mode = "thorough"'}
    name: Literal["small"]
    size: int = 1
    mode: Literal["fast", "thorough"] = "fast"


class Large(SpecModel):
    name: Literal["large"]
    weight: float


class Whole(SpecModel):
    RENAMED = {"heading": "title"}
    title: str
    count: Annotated[int, Field(gt=0)] = 1
    part: Annotated[Small | Large, Field(discriminator="name")] = Small(name="small")
    parts: list[Small] = []


def mistakes(data: object) -> str:
    with pytest.raises(SpecError) as caught:
        validate(Whole, data, context="file.toml")
    return str(caught.value)


def test_all_mistakes_are_told_at_once():
    """Four mistakes of different kinds give four lines, each with its place."""
    text = mistakes({"count": 0, "cuont": 3, "part": {"name": "large", "weihgt": 2.0}})
    assert text.startswith("file.toml: 5 mistakes")
    assert "title: is missing" in text
    assert "count: found 0; give a number above 0" in text
    assert "unknown key 'cuont'; did you mean 'count'?" in text
    assert "part: unknown key 'weihgt'; did you mean 'weight'?" in text
    assert "part.weight: is missing" in text


def test_unknown_choice_names_the_allowed_ones():
    """A misspelt name in a union tells what it could have been."""
    assert "part.name: unknown name 'smal'; did you mean 'small'? allowed: large, small" in mistakes(
        {"title": "t", "part": {"name": "smal"}}
    )


class Bounded(SpecModel):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")] = "a"
    share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    number: int = 1
    flag: bool = True
    list_of: Annotated[tuple[str, ...], Field(min_length=1)] = ("a",)
    count: Annotated[int, Field(gt=0)] | Literal["all", "none"] = 1


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"name": "a b"}, "name: found 'a b'; give a name of letters of English, digits, and . _ -"),
        ({"share": 1.0}, "share: found 1.0; give a number below 1"),
        ({"share": -0.5}, "share: found -0.5; give a number of 0 or more"),
        ({"number": "zero"}, "number: found 'zero'; give a whole number"),
        ({"number": 1.5}, "number: found 1.5; give a whole number"),
        ({"flag": "maybe"}, "flag: found 'maybe'; give true or false"),
        ({"name": 3}, "name: found 3; give a text, in quotes"),
        ({"list_of": []}, "list_of: found []; give 1 or more entries"),
        ({"count": -1}, 'count: found -1; give a number above 0, or "all", or "none"'),
    ],
)
def test_what_is_allowed_is_told_in_words(wrong: dict[str, object], words: str):
    """Bounds, types, patterns and lengths are worded as what to give."""
    with pytest.raises(SpecError) as caught:
        validate(Bounded, wrong, context="file.toml")
    assert caught.value.mistakes == (words,)


def test_every_pattern_of_a_name_has_its_words():
    """No regular expression is shown: each one that a specification uses stands in words in `segue.spec`."""
    sources = [path.read_text(encoding="utf-8") for path in (Path(__file__).parents[1] / "src").rglob("*.py")]
    used = {actual for text in sources for actual in re.findall(r'Field\([^\n]*pattern=r"([^"]+)"', text)}
    assert used and used <= set(PATTERNS)


def test_place_in_a_list_is_given():
    """The third entry of a list is named by its index."""
    text = mistakes({"title": "t", "parts": [{"name": "small"}, {"name": "small"}, {"name": "small", "size": "x"}]})
    assert "parts[2].size: found 'x'" in text


def test_toml_mistakes_name_file_and_line(tmp_path: Path):
    """A file that is missing or no TOML is one sentence that names it."""
    with pytest.raises(SegueError, match=r"no\.toml: there is no such file"):
        read_toml(tmp_path / "no.toml")
    (tmp_path / "bad.toml").write_text("a = 1\nb = = 2\n")
    with pytest.raises(SegueError, match=r"bad\.toml: is not valid TOML.*line 2"):
        load(Whole, tmp_path / "bad.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SegueError, match="cannot be read as text"):
        load(Whole, tmp_path / "binary.toml")


def test_old_names_are_told_with_the_new():
    """A key or value that was renamed is told with its new name, wherever it is, beside all other mistakes."""
    text = mistakes({"heading": "t", "part": {"name": "small", "largeness": 2, "mode": "slow"}, "parts": [{"siez": 1}]})
    assert "at the top: `heading` is called `title` now; rename it" in text
    assert "part: `largeness` is called `size` now; rename it" in text
    assert 'part.mode: `mode = "slow"` is written `mode = "thorough"` now; rename it' in text
    assert "parts[0]: unknown key 'siez'; did you mean 'size'?" in text
    assert "part.mode: unknown value 'swol'; allowed: fast, thorough" in mistakes(
        {"title": "t", "part": {"name": "small", "mode": "swol"}}
    )


def models() -> list[type[SpecModel]]:
    """Returns every specification of the package."""
    for name in every_module():
        importlib.import_module(name)
    waiting, actual = [SpecModel], []
    while waiting:
        below = waiting.pop().__subclasses__()
        waiting += below
        actual += [model for model in below if model.__module__.startswith("segue.")]
    return actual


def test_every_old_name_leads_to_a_setting():
    """What was renamed is no setting any more, what it is called now is one, and no name is British."""
    renamed = 0
    for model in models():
        keys = {field.alias or name for name, field in model.model_fields.items()}
        for old, new in model.RENAMED.items():
            renamed += 1
            if " = " not in old:
                assert new.partition(".")[0] in keys and old not in keys, model
            else:
                name, value = new.replace('"', "").split(" = ")
                assert value in typing.get_args(model.model_fields[name].annotation), model
        british = r"colour|labelled|licence|centre|(normal|optim|standard|initial|regular)is"
        assert not any(re.search(british, key) for key in keys), model
    assert renamed >= 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = " + "[" * 5000, "nested too deeply"),
        ("a" + ".b" * 1000 + " = 1", "a depth of 50"),
        ("x = " + "[" * 60 + "]" * 60, "a depth of 50"),
        ("x = " + "9" * 5000, "not valid TOML"),
        ("x = [" + "1," * 10_001 + "]", "10,001 entries"),
        ("\n".join(f"k{index} = 1" for index in range(10_001)), "10,001 entries"),
        ("images = 'a'\nb = [\"c\\u0000d\"]", "character NUL"),
        ("'a\\u0000' = 1\n\"b\\u0000\" = 2", "character NUL"),
        ("x = { each = [1979-05-27] }", "the date or time 1979-05-27"),
        ("x = 07:32:00", "the date or time 07:32:00"),
        (f"x = {2**63}", "x: found a whole number beyond 64 bits"),
        (f"x = [{{ y = -{10**400} }}]", r"x\[0\]\.y: found a whole number beyond 64 bits"),
        ("#" + "x" * 2_000_000, "at most 2,000,000"),
    ],
)
def test_what_no_specification_holds_is_refused_before_it_is_used(tmp_path: Path, text: str, message: str):
    """Depth, numbers of entries, NUL, dates: one sentence that names the file, and no recursion or memory."""
    path = tmp_path / "spec.toml"
    path.write_text(text)
    with pytest.raises(SegueError, match=message) as raised:
        read_toml(path)
    assert str(raised.value).startswith(str(path))


def test_whole_numbers_of_64_bits_are_read(tmp_path: Path):
    """The greatest and the least that TOML has."""
    (tmp_path / "a.toml").write_text(f"x = {2**63 - 1}\ny = -{2**63}\n", encoding="utf-8")
    assert read_toml(tmp_path / "a.toml") == {"x": 2**63 - 1, "y": -(2**63)}


@pytest.mark.parametrize("path", ["/dev/zero", "n" * 300, "n" * 5000, "a\0b", "/dev/null/x"])
def test_only_regular_files_are_specifications(path: str):
    with pytest.raises(SegueError, match="give the path of a TOML specification"):
        read_toml(Path(path))


def test_thousands_of_mistakes_are_told_in_part():
    """All of them would take minutes to word."""
    text = mistakes({"title": "t", **{f"k{index}": 1 for index in range(5000)}})
    assert "and 4,900 more mistakes" in text
    assert text.count("unknown key") == 100


class Numbers(SpecModel):
    count: Annotated[int, Field(gt=0)] = 1
    size: float = 1.0
    sizes: tuple[float, ...] = ()
    plain: bool = False
    either: int | Literal["all"] | None = None
    by_number: dict[int, int] = {}
    title: str = ""


@pytest.mark.parametrize(
    ("table", "mistake"),
    [
        ({"count": "3"}, "count: found '3'; give a whole number"),
        ({"count": True}, "count: found True; give a whole number"),
        ({"count": 2.5}, "count: found 2.5; give a whole number"),
        ({"size": "1.2"}, "size: found '1.2'; give a number"),
        ({"size": False}, "size: found False; give a number"),
        ({"sizes": [1, "2"]}, r"sizes\[1\]: found '2'; give a number"),
        ({"by_number": {"255": "1"}}, "by_number.255: found '1'; give a whole number"),
        ({"plain": "true"}, "plain: found 'true'; give true or false"),
        ({"plain": 1}, "plain: found 1; give true or false"),
        ({"either": "3"}, "either: found '3'; give a whole number"),
        ({"title": 3}, "title: found 3; give a text, in quotes"),
    ],
)
def test_values_are_what_they_are_written_as(table: dict, mistake: str):
    """No text is taken for a number and no switch for 1, which would pass every check that looks at numbers only."""
    with pytest.raises(SpecError, match=mistake):
        validate(Numbers, table, context="file.toml")


def test_whole_numbers_may_be_written_with_an_exponent():
    table = {"count": 1e3, "size": 2, "either": 4, "by_number": {"255": 1}}
    expected = Numbers(count=1000, size=2.0, either=4, by_number={255: 1})
    assert validate(Numbers, table, context="file.toml") == expected
