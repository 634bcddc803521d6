"""The documents tell the truth about the tree."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from pydantic.fields import FieldInfo

from segue.plates import spec
from segue.plates.spec import FilesSpec, PlateSpec
from segue.plates.synthetic import spec as synthetic_specs
from segue.plates.synthetic.spec import SyntheticSpec
from segue.spec import SpecModel, validate

ROOT = Path(__file__).parents[1]


def test_architecture_names_only_what_exists():
    """Every path that ARCHITECTURE.md names in code marks is there."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = [
        name for name in re.findall(r"`([\w./-]+)`", text) if "/" in name or name.endswith((".py", ".toml", ".md"))
    ]
    assert named
    missing = [name for name in named if not (ROOT / name).exists() and not (ROOT / "src" / "segue" / name).exists()]
    assert not missing


def test_readme_names_the_two_commands():
    """A newcomer finds the commands that do all the set-up."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "pip install uv && uv run segue demo" in text
    assert "uv run pytest" in text


def test_shipped_data_stays_small():
    """Everything that ships with the repository as data or models stays under 30 MB, models under 12 MB."""
    folders = ["examples", "tests", "src/segue/zoo/models"]
    listed = subprocess.run(["git", "ls-files", "-z", *folders], cwd=ROOT, capture_output=True, check=False)
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    assert sum(file.stat().st_size for file in files if file.exists()) < 30e6
    models = ROOT / "src" / "segue" / "zoo" / "models"
    assert sum(file.stat().st_size for file in models.rglob("*") if file.is_file()) < 12e6


def told_default(field: FieldInfo) -> str:
    """Returns a default as docs/plate-formats.md writes it."""
    value = field.default
    if value is None or isinstance(value, bool):
        return "–" if value is None else str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(f'{number:g}' for number in value)}]"
    return f'"{value}"' if isinstance(value, str) else f"{value:g}"


SIMPLE = (str, bool, int, float, type(None))
IN_TABLES = (FilesSpec, SyntheticSpec, synthetic_specs.StageSpec, synthetic_specs.CellsSpec, synthetic_specs.OpticsSpec,
             synthetic_specs.StainsSpec, synthetic_specs.FaultsSpec, spec.StainsSpec, spec.StainSpec,
             spec.BlockMaximaThreshold, spec.NucleusSplitSpec, spec.CellAreaSpec,
             spec.OutlineSpec, spec.QualitySpec, spec.SaturatedSpec, spec.BlackSpec,
             spec.DefocusedSpec, spec.EmptySpec)  # fmt: skip


@pytest.mark.parametrize("model", IN_TABLES)
def test_formats_of_plates_name_every_key_and_default(model: type[SpecModel]):
    """One table of docs/plate-formats.md has just the keys of the model, with the defaults that it has."""
    text = (ROOT / "docs/plate-formats.md").read_text(encoding="utf-8")
    fields = {name: field for name, field in model.model_fields.items() if name != "name"}
    tables = [dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", part, re.MULTILINE)) for part in text.split("|---|---|---|")]
    actual = [table for table in tables if set(table) == set(fields)]
    plain = {
        name: told_default(field)
        for name, field in fields.items()
        if isinstance(field.default, SIMPLE)
        or (isinstance(field.default, tuple) and all(isinstance(one, SIMPLE) for one in field.default))
    }
    assert any(plain.items() <= table.items() for table in actual)


def test_examples_of_formats_are_valid():
    """Every TOML example of docs/plate-formats.md is a specification that is accepted."""
    text = (ROOT / "docs/plate-formats.md").read_text(encoding="utf-8")
    examples = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 6
    for example in examples:
        table = tomllib.loads(example)
        if "plates" in table:
            validate(SyntheticSpec, table, context=example)
        else:
            validate(PlateSpec, {"name": "a", "files": {"pattern": "{well}.tif"}, **table}, context=example)
