"""Label images made by anything: which files they are, by which name they pair, and how they are read.

Label images of several tools belong together by name: the path below their folder without its suffix and without what
Cellpose adds to it (`_cp_masks`), or the named parts of a pattern, "{stem}_masks.tif". Files of NumPy are read if they
hold numbers; pickled objects, such as Cellpose's `_seg.npy`, are never opened.
"""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segue.data.folders.pairing import raise_problems
from segue.data.folders.patterns import (
    SIGNS,
    file_stem,
    find_files,
    is_hidden,
    match_path,
    named_parts,
    near_miss,
    texts_of,
)
from segue.data.formats.array_files import pickle_refusal
from segue.data.image_io import ARRAY_READERS, READERS, read_label_pages
from segue.errors import SegueError

CELLPOSE_MASKS, CELLPOSE_SEG = "_cp_masks", "_seg.npy"
SUFFIXES = (*READERS, *(suffix for suffix, reader in ARRAY_READERS.items() if not reader.is_folder))


@dataclass(frozen=True)
class NamedFiles:
    """The files of a folder or pattern by the name under which they pair, sorted; notes on files left out.

    name: what the files are called in messages: "labels", or the name of a tool.
    """

    name: str
    place: str
    files: Mapping[str, Path]
    notes: tuple[str, ...] = ()


def find_masks(name: str, place: str | Path, *, suffixes: Sequence[str] = SUFFIXES) -> NamedFiles:
    """Returns the label images of a folder with its sub-folders, of a pattern with named parts, or of a single file.

    Where files of a folder end in `_cp_masks`, only these are label images. Hidden files and other suffixes are not
    looked at. Raises SegueError if there are none, or two of one name.
    """
    path, text = Path(place), str(place)
    if path.is_dir():
        paths, notes = _files_of_folder(path, suffixes)
        keys = [(_key(file.relative_to(path)), file) for file in paths]
    elif path.is_file():
        keys, notes = [(_key(Path(path.name)), path)], []
    elif SIGNS.search(text):
        matches = find_files(text, Path())
        raise_problems(path, matches.problems)
        parts, notes = named_parts(text), []
        keys = [("/".join(texts_of(one, parts)) or _key(Path(one.path.name)), one.path) for one in matches.files]
    else:
        raise SegueError(
            f"{name}: there is no file or folder {path}{near_miss(path)}; give a folder of label images, a file, or a "
            "pattern in quotes, such as 'masks/{stem}_masks.tif'."
        )
    if not keys:
        raise SegueError(f"{name}: {text} has no label image ({', '.join(suffixes)}); correct the path.")
    pickled = [file for _, file in keys if file.name.endswith(CELLPOSE_SEG)]
    if pickled:
        raise SegueError(pickle_refusal(pickled[0]))
    files: dict[str, Path] = {}
    for key, file in sorted(keys):
        if key in files:
            raise SegueError(
                f"{name}: {files[key]} and {file} are both called '{key}'; leave one out, or give a pattern that one "
                "matches, such as 'masks/{stem}.tif'."
            )
        files[key] = file
    return NamedFiles(name, text, files, tuple(notes))


def _files_of_folder(folder: Path, suffixes: Sequence[str]) -> tuple[list[Path], list[str]]:
    paths = []
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(one for one in folders if not is_hidden(one))
        paths += [Path(where) / one for one in sorted(names) if not is_hidden(one)]
    images = [path for path in paths if path.suffix.lower() in suffixes]
    masks = [path for path in images if file_stem(path.name).endswith(CELLPOSE_MASKS)]
    others = [path for path in images if path not in masks] if masks else []
    notes = [f"{folder}: files beside those that end in {CELLPOSE_MASKS} are left out: {len(others)}"] if others else []
    return masks or images, notes


def _key(path: Path) -> str:
    """Returns the path without suffix and `_cp_masks`, folders by "/", composed (NFC)."""
    stem = file_stem(path.name)
    name = stem.removesuffix(CELLPOSE_MASKS) or stem
    return unicodedata.normalize("NFC", path.with_name(name).as_posix())


def pair_masks(labels: NamedFiles, masks: NamedFiles, *, complete: bool = True) -> dict[str, Path]:
    """Returns the file of `masks` for each of `labels`, by its name; two single files pair whatever they are called.

    complete: a file of another name is a problem too. Raises SegueError with each file that has no partner.
    """
    if len(labels.files) == len(masks.files) == 1 and Path(masks.place).is_file():
        return dict(zip(labels.files, masks.files.values(), strict=True))
    absent = [key for key in labels.files if key not in masks.files]
    further = [key for key in masks.files if key not in labels.files]
    problems = [
        f"{masks.name}: has no file for {labels.files[key]}{_close(key, further, masks)}; add '{key}' to "
        f"{masks.place}, or leave the label image out."
        for key in absent
    ]
    problems += [
        f"{masks.name}: {masks.files[key]} has no label image of that name{_close(key, absent, labels)}; rename it, or "
        "leave it out."
        for key in further
        if complete
    ]
    raise_problems(Path(masks.place), problems)
    return {key: masks.files[key] for key in labels.files}


def _close(key: str, names: Sequence[str], files: NamedFiles) -> str:
    close = [name for name in names if name.rpartition("/")[2] == key.rpartition("/")[2]]
    close = close or difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    return f" (there is {files.files[close[0]]})" if close else ""


def groups_of(keys: Sequence[str], pattern: str | None) -> list[str]:
    """Returns the group of each name: of a pattern its named parts, joined by "/", of a regular expression its one
    group; without either the name itself.

    The pattern is that of the end of the name, without suffix: "{well}_*", "{series}/*"; a single named part is as
    short as it can be, several that match in more than one way are refused. A regular expression is searched in the
    name without folders. Raises SegueError for names that do not match.

    >>> groups_of(["B02_s1_0"], "{group}_*"), groups_of(["B02_s1_0"], "^([A-Z])")
    (['B02'], ['B'])
    """
    if pattern is None:
        return list(keys)
    named = named_parts(pattern)
    expression = None if named else _group_expression(pattern)
    problems: list[str] = []
    groups = []
    for key in keys:
        ambiguous: list[str] = []
        if expression is None:
            texts = match_path(pattern, Path(key), ambiguous)
            group = "/".join((texts or {}).values())
        else:
            match = expression.search(key.rpartition("/")[2])
            group = (match[1] or "") if match else ""
        if len(named) > 1 and ambiguous:
            problems += ambiguous
        elif not group:
            problems.append(f"--group '{pattern}': does not match '{key}'; correct it.")
        groups.append(group)
    raise_problems(f"--group '{pattern}'", problems)
    return groups


def _group_expression(pattern: str) -> re.Pattern[str]:
    """Returns the regular expression of `--group`; raises SegueError if it is none, or has not one group."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise SegueError(f"--group '{pattern}': is no regular expression ({error}); or write {{well}}_*.") from None
    if expression.groups != 1:
        raise SegueError(
            f"--group '{pattern}': has no named part, such as '{{well}}_*', and is no regular expression with one "
            f"group, such as '^([^_]+)_' ({expression.groups} groups); write either."
        )
    return expression


def read_masks(path: Path) -> np.ndarray:
    """Returns the label images of a file, (N, H, W) int32, one per page, numbers as stored.

    Raises SegueError, one sentence naming the file, for what cannot be read and for what is no label image: pickled
    objects, colors, fractions, numbers below -1.
    """
    if path.name.endswith(CELLPOSE_SEG):
        raise SegueError(pickle_refusal(path))
    labels = read_label_pages(path)
    lowest = int(labels.min(initial=0))
    if lowest < -1:
        raise SegueError(f"{path}: holds the label {lowest}; below 0 only -1 (ignored) is allowed: correct it.")
    return labels
