"""Patterns with named parts: which files match, what their parts are, and what lies beside them."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from segue.data.folders.patterns import existing_path, file_stem, find_files, near_miss
from segue.errors import SegueError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def matches(pattern: str, root: Path) -> dict[str, dict[str, str]]:
    return {file.path.relative_to(root).as_posix(): dict(file.names) for file in find_files(pattern, root).files}


def test_parts_are_named(tmp_path: Path):
    """Named parts have their text, a folder's too; a name that occurs twice is the same text; * and ? have no name."""
    touch(tmp_path, "d1/a/a_img.tif", "d1/a/b_img.tif", "d2/c/c_img.tif", "d1/a/c.png")
    assert matches("{folder}/{stem}/{stem}_img.tif", tmp_path) == {
        "d1/a/a_img.tif": {"folder": "d1", "stem": "a"},
        "d2/c/c_img.tif": {"folder": "d2", "stem": "c"},
    }
    assert list(matches("d?/*/[ab]_*.tif", tmp_path)) == ["d1/a/a_img.tif", "d1/a/b_img.tif"]
    assert list(matches("**/[!b]*.tif", tmp_path)) == ["d1/a/a_img.tif", "d2/c/c_img.tif"]


def test_suffixes_in_any_case_and_letters_in_any_form(tmp_path: Path):
    """.TIF is .tif, names are not; composed and decomposed letters are one, in folders too."""
    touch(tmp_path, "i/a.TIF", "i/b.Ome.Tif", "i/A.tif", unicodedata.normalize("NFD", "ü/ö.tif"))
    assert matches("i/{stem}.tif", tmp_path) == {
        "i/A.tif": {"stem": "A"}, "i/a.TIF": {"stem": "a"}, "i/b.Ome.Tif": {"stem": "b.Ome"},
    }  # fmt: skip
    assert list(matches("i/a*.tif", tmp_path)) == ["i/a.TIF"]
    assert [*matches(unicodedata.normalize("NFC", "ü/{stem}.tif"), tmp_path).values()] == [{"stem": "ö"}]
    assert [file_stem(name) for name in ("a.tif", "a.ome.tif", "a.OME.TIFF", "a.b.tif", ".ome.tif")] == [
        "a", "a", "a", "a.b", ".ome",
    ]  # fmt: skip


def test_signs_in_names_of_folders(tmp_path: Path):
    """A folder called as it stands in the pattern is that folder; where others match as well, it is asked which."""
    touch(tmp_path, "exp [1]/a.tif", "b {2}/b.tif", "[x]/in/c.tif")
    assert list(matches("exp [1]/*.tif", tmp_path)) == ["exp [1]/a.tif"]
    assert list(matches("b {2}/*.tif", tmp_path)) == ["b {2}/b.tif"]
    assert list(matches("in/*.tif", tmp_path / "[x]")) == ["in/c.tif"]
    touch(tmp_path, "exp 1/a.tif")
    with pytest.raises(SegueError, match=r"'exp \[1\]' in a pattern is the folder of that name, and matches others"):
        find_files("exp [1]/*.tif", tmp_path)
    with pytest.raises(SegueError, match="is no pattern of files"):
        find_files("[z-a].tif", touch(tmp_path, "x.tif"))


def test_names_that_match_in_several_ways(tmp_path: Path):
    """A name whose parts cannot be told apart is a problem, with both readings."""
    touch(tmp_path, "a_b_c.tif", "a_b.tif")
    (problem,) = find_files("{well}_{stem}.tif", tmp_path).problems
    assert problem.startswith(f"{tmp_path / 'a_b_c.tif'}: ") and "well is 'a' or 'a_b'" in problem
    assert not find_files("{stem}_c.tif", tmp_path).problems


def test_what_lies_beside(tmp_path: Path):
    """Other files, and those of the suffix one folder below, are listed; hidden and system files are not."""
    touch(tmp_path, "i/a.tif", "i/a.tiff", "i/notes.txt", "i/old/b.tif", "i/old/b.txt")
    touch(tmp_path, "i/.x.tif", "i/._a.tif", "i/Thumbs.db", "i/~$a.tif", "i/__MACOSX/a.tif", "i/.DS_Store")
    found = find_files("i/*.tif", tmp_path)
    assert [file.path.name for file in found.files] == ["a.tif"]
    assert [path.relative_to(tmp_path / "i").as_posix() for path in found.others] == [
        "a.tiff",
        "notes.txt",
        "old/b.tif",
    ]


def test_near_misses(tmp_path: Path):
    """A folder or file of a similar name is suggested; a path is found in any form of its letters and slashes."""
    touch(tmp_path, "images/i0.TIF", unicodedata.normalize("NFD", "images/ü.tif"))
    assert near_miss(tmp_path / "imges" / "i0.tif") == " (did you mean 'images'?)"
    assert near_miss(tmp_path / "images" / "i0.tif") == " (did you mean 'i0.TIF'?)"
    assert near_miss(tmp_path / "images" / "quite other") == ""
    assert "'images'" in find_files("imags/*.tif", tmp_path).absent[0]
    assert existing_path(tmp_path / unicodedata.normalize("NFC", "images/ü.tif")) is not None
    assert existing_path(Path(f"{tmp_path}/images\\i0.TIF")) == tmp_path / "images" / "i0.TIF"
    assert existing_path(tmp_path / ("n" * 5000)) is None and existing_path(tmp_path / "a\0") is None


@pytest.mark.parametrize("pattern", ["a\0b/*.png", "n" * 300 + "/*.png", "n" * 5000 + "/x.png"])
def test_impossible_names(tmp_path: Path, pattern: str):
    """A pattern that no system can have as a path finds nothing, or is refused in a sentence."""
    try:
        assert not find_files(pattern, tmp_path).files
    except SegueError as error:
        assert "cannot be" in str(error)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("{slide} [[]x={x},w=64].tif", "slide 1 [x=100,w=64].tif"),  # as QuPath names tiles
        ("a[&&]b[||]c[~~]{stem}.tif", "a&b|c~d.tif"),
        ("[!&&[]{stem}.tif", "xd.tif"),
    ],
)
def test_signs_in_brackets(tmp_path: Path, pattern: str, name: str) -> None:
    """[[] stands for [; no sign in brackets has a meaning but ! and -, and none makes Python warn."""
    touch(tmp_path, name, "&y.tif")
    assert list(matches(pattern, tmp_path)) == [name]
