"""Patterns of paths with named parts: "images/{stem}_img.tif" finds files, and says of each what `stem` is.

A part is one name of a folder or file: {name} stands for one or more characters of it, the same wherever the name
occurs; * for any, ? for one, [abc] for one of these; ** for any folders. A folder that is called as it stands in the
pattern, "exp [1]", is that folder. Suffixes match in any case, and letters whether composed or decomposed (NFC, NFD).
Hidden files and those of operating systems are not looked at.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from segue.errors import SegueError

NAMED = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
SIGNS = re.compile(rf"{NAMED.pattern}|\*|\?|\[[^\]]+\]")
SUFFIX = re.compile(r"(?:\.[A-Za-z0-9]+)+$")
SYSTEM_FILES = {  # in lower case
    "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin", "lost+found",
    "system volume information",
}  # fmt: skip
FOLDER_SUFFIXES = (".zarr", ".n5")  # of folders that are taken as files
COMPOUND_SUFFIXES = (".ome",)  # before the last one: "a.ome.tif" is called "a"


@dataclass(frozen=True)
class NamedPath:
    """A file that matches a pattern, and the text of each named part, composed (NFC)."""

    path: Path
    names: Mapping[str, str]


@dataclass
class MatchedFiles:
    """The files that match a pattern, sorted, and sentences.

    others: the other files beside them, and those of the same suffix one folder below. problems: names that match in
    several ways. absent: folders that the pattern names and that do not exist.
    """

    files: list[NamedPath] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)


def named_parts(pattern: str) -> tuple[str, ...]:
    """Returns the names of the parts of a pattern, each once.

    >>> named_parts("{folder}/{stem}_img.tif")
    ('folder', 'stem')
    """
    return tuple(dict.fromkeys(NAMED.findall(pattern)))


def fill(pattern: str, names: Mapping[str, str]) -> str:
    """Returns the pattern with its named parts filled in.

    >>> fill("labels/{stem}_masks.tif", {"stem": "000"})
    'labels/000_masks.tif'
    """
    return NAMED.sub(lambda part: names[part[1]], pattern)


def file_stem(name: str) -> str:
    """Returns the name of a file without its suffix: "a" of "a.tif" and of "a.ome.tif"; composed (NFC)."""
    return without_compound_suffix(unicodedata.normalize("NFC", Path(name).stem))


def without_compound_suffix(stem: str) -> str:
    """Returns "a" of "a.ome", and any other stem as it is."""
    compound = next((suffix for suffix in COMPOUND_SUFFIXES if stem.lower().endswith(suffix)), "")
    return stem[: len(stem) - len(compound)] or stem


def all_names(file: NamedPath) -> dict[str, str]:
    """Returns the text of the named parts; {stem} without ".ome", and of every file, {folder} that of its folder."""
    folder = unicodedata.normalize("NFC", file.path.parent.name)
    names = {"stem": file_stem(file.path.name), "folder": folder, **file.names}
    return {**names, "stem": without_compound_suffix(names["stem"])}


def texts_of(file: NamedPath, parts: Sequence[str]) -> tuple[str, ...]:
    """Returns the texts of some named parts, by which an image and its label belong together."""
    names = all_names(file)
    return tuple(names[part] for part in parts)


def find_files(pattern: str, root: Path) -> MatchedFiles:
    """Returns the files that a pattern relative to the folder `root` matches; it may begin with ../ or /.

    Raises SegueError if a folder cannot be read, or is called as a part of the pattern that others match too.
    """
    matches = MatchedFiles()
    for folder, names in _folders(root, Path(pattern).parts[:-1], {}, matches):
        _match_files(folder, Path(pattern).name, names, matches)
    matches.files.sort(key=lambda file: file.path)
    matches.others = sorted(set(matches.others) - {file.path for file in matches.files})
    return matches


def match_path(pattern: str, path: PurePath, problems: list[str]) -> dict[str, str] | None:
    """Returns the texts of the named parts of a pattern that the end of a path matches, None if it does not.

    Adds a sentence to `problems` if the pattern matches in several ways.

    >>> match_path("{well}_*.tif", PurePath("plate/A01_3.tif"), [])
    {'well': 'A01'}
    """
    parts = PurePath(pattern).parts
    names: dict[str, str] | None = {}
    if len(parts) > len(path.parts):
        return None
    for part, name in zip(parts, path.parts[len(path.parts) - len(parts) :], strict=True):
        names = _match(part, name, names, Path(path).parent, problems)
        if names is None:
            return None
    return names


def existing_path(path: Path) -> Path | None:
    """Returns the file of that path, with its letters composed or decomposed and \\ or / between folders; or None.

    Folders of Zarr and N5 are files.
    """
    text = str(path)
    for form in (text, unicodedata.normalize("NFC", text), unicodedata.normalize("NFD", text), text.replace("\\", "/")):
        try:
            if Path(form).is_file() or (form.lower().endswith(FOLDER_SUFFIXES) and Path(form).is_dir()):
                return Path(form)
        except (OSError, ValueError):  # a name too long for the system, or with a zero byte
            return None
    return None


def near_miss(path: Path) -> str:
    """Returns " (did you mean '<name>'?)" if a file or folder of a similar name is where `path` should be, else ""."""
    parent = path
    try:
        while not parent.parent.is_dir() and parent != parent.parent:
            parent = parent.parent
        names = {name.casefold(): name for name, _ in reversed(list(_entries(parent.parent)))}
    except (SegueError, OSError, ValueError):
        return ""
    stem = file_stem(parent.name).casefold()
    close = [  # also without their suffixes: x.png is not near m.png
        name
        for name in difflib.get_close_matches(parent.name.casefold(), names, n=3, cutoff=0.6)
        if difflib.SequenceMatcher(None, stem, file_stem(names[name]).casefold()).ratio() >= 0.5
    ]
    return f" (did you mean '{names[close[0]]}'?)" if close else ""


def _folders(
    folder: Path, parts: tuple[str, ...], names: Mapping[str, str], matches: MatchedFiles
) -> Iterator[tuple[Path, Mapping[str, str]]]:
    """Yields the folders that the parts match below `folder`, each with the text of the named parts."""
    if not parts:
        yield folder.resolve(), names
        return
    part, rest = parts[0], parts[1:]
    if part == "**":
        yield from _folders(folder, rest, names, matches)
        for name, is_folder in _entries(folder):
            if is_folder:
                yield from _folders(folder / name, parts, names, matches)
        return
    literal = _literal_folder(folder, part)
    if not SIGNS.search(part):
        if literal is None:
            matches.absent.append(f"there is no folder {folder / part}{near_miss(folder / part)}")
        else:
            yield from _folders(literal, rest, names, matches)
        return
    matched = []
    for name, is_folder in _entries(folder) if folder.is_dir() else ():
        texts = _match(part, name, names, folder, matches.problems) if is_folder else None
        if texts is not None:
            matched.append((folder / name, texts))
    if literal is not None:
        others = [path.name for path, _ in matched if path != literal]
        if others:
            raise SegueError(
                f"{folder}: '{part}' in a pattern is the folder of that name, and matches others ('{others[0]}'); "
                "rename one, since * ? [ ] and { } are signs of patterns."
            )
        matched = [(literal, names)]
    if not matched:
        matches.absent.append(f"no folder below {folder} matches '{part}'; * ? [ ] and {{ }} are signs of patterns")
    for path, texts in matched:
        yield from _folders(path, rest, texts, matches)


def _literal_folder(folder: Path, part: str) -> Path | None:
    """Returns the folder that is called like a part of a pattern, in whichever form of its letters."""
    forms = (part, unicodedata.normalize("NFC", part), unicodedata.normalize("NFD", part))
    try:
        return next((folder / form for form in forms if (folder / form).is_dir()), None)
    except (OSError, ValueError) as error:
        raise SegueError(f"{folder / part}: cannot be the name of a folder ({error}); correct the pattern.") from error


def _match_files(folder: Path, part: str, names: Mapping[str, str], matches: MatchedFiles) -> None:
    """Adds the files of a folder that match the last part of a pattern, and those that do not, to `found`."""
    suffix = SUFFIX.search(part)
    for name, is_folder in _entries(folder):
        path = folder / name
        if is_folder and not (part.lower().endswith(FOLDER_SUFFIXES) and name.lower().endswith(FOLDER_SUFFIXES)):
            ending = part if suffix is None else suffix[0].lower()
            matches.others += [path / inside for inside, _ in _entries(path) if inside.lower().endswith(ending)]
            continue
        is_literal = name == part and not NAMED.search(part)
        texts = names if is_literal else _match(part, name, names, folder, matches.problems)
        if texts is None:
            matches.others.append(path)
        else:
            matches.files.append(NamedPath(path, texts))


def _entries(folder: Path) -> Iterable[tuple[str, bool]]:
    """Returns the names in a folder, and whether each is a folder; without hidden files and those of systems."""
    try:
        with os.scandir(folder) as scan:
            return sorted((entry.name, entry.is_dir()) for entry in scan if not is_hidden(entry.name))
    except OSError as error:
        raise SegueError(f"{folder}: cannot be read ({error.strerror}); check its permissions.") from error


def is_hidden(name: str) -> bool:
    """Returns whether a file is hidden or an operating system's: ".x", "._x", "Thumbs.db", "~$x"."""
    return name.startswith((".", "~$")) or name.lower() in SYSTEM_FILES


def _match(part: str, name: str, names: Mapping[str, str], folder: Path, problems: list[str]) -> dict[str, str] | None:
    """Returns the texts of the named parts if a name matches one part of a pattern and the texts so far, else None."""
    composed = unicodedata.normalize("NFC", name)
    match = _expression(part, lazy=True).fullmatch(composed)
    if match is None or any(names.get(key, text) != text for key, text in match.groupdict().items()):
        return None
    greedy = _expression(part, lazy=False).fullmatch(composed)
    if greedy is not None and greedy.groupdict() != match.groupdict():
        key = next(key for key, text in match.groupdict().items() if greedy[key] != text)
        problems.append(
            f"{folder / name}: '{part}' matches in several ways ({key} is '{match[key]}' or '{greedy[key]}'); "
            "write a pattern that tells its parts apart, or use a manifest."
        )
    return {**names, **match.groupdict()}


@functools.cache  # called for every file
def _expression(part: str, *, lazy: bool) -> re.Pattern[str]:
    """Returns the regular expression of one part of a pattern; `lazy`: named parts match as little as possible."""
    part = unicodedata.normalize("NFC", part)
    suffix = SUFFIX.search(part)
    end = len(part) if suffix is None else suffix.start()
    expression, position, seen = "", 0, set()
    for sign in SIGNS.finditer(part, 0, end):
        expression += re.escape(part[position : sign.start()])
        position, name = sign.end(), sign[1]
        if name in seen:
            expression += f"(?P={name})"
        elif name:
            seen.add(name)
            expression += f"(?P<{name}>.+?)" if lazy else f"(?P<{name}>.+)"
        elif sign[0][0] == "[":
            inner = re.sub(r"[\\\[&~|]", r"\\\g<0>", sign[0][1:-1])  # signs of sets in later versions of Python
            expression += f"[{'^' + inner[1:] if inner[0] == '!' else inner}]"
        else:
            expression += ".*" if sign[0] == "*" else "."
    expression += re.escape(part[position:end])
    try:
        return re.compile(expression + (f"(?i:{re.escape(suffix[0])})" if suffix else ""), re.DOTALL)
    except re.error as error:
        raise SegueError(f"'{part}' is no pattern of files ({error}); correct it.") from error
