"""Hints for patterns by which images and labels do not pair: files that are near, and patterns that pair more files."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from segue.data.folders.patterns import (
    NamedPath,
    all_names,
    file_stem,
    fill,
    find_files,
    named_parts,
    near_miss,
    texts_of,
)
from segue.data.image_io import READERS
from segue.errors import SegueError
from segue.storage import absolute


@dataclass
class PatternHints:
    """Ends of sentences on files without a partner; patterns are suggested only if they pair more files.

    images, labels: the patterns below `root`; image_paths: what the first one matches. images_by_label: the image to
    which each label image was suggested; counts: of pairs by patterns that were tried.
    """

    images: str
    labels: str
    root: Path
    image_paths: Collection[Path]
    images_by_label: dict[Path, Path] = field(default_factory=dict)
    counts: dict[tuple[str, str], int] = field(default_factory=dict)

    def label_of(self, image: NamedPath) -> str:
        """Returns " (there is …: write images = …)" for a label that is called or lies otherwise, or ""."""
        names, root = all_names(image), self.root.resolve()
        # a folder of labels beside each folder of images
        folder = image.path.parent
        while folder != root and root in folder.parents:
            sibling = folder / fill(self.labels, names)
            if sibling.is_file():
                levels = len(folder.relative_to(root).parts)
                above = "/".join("{folder}" if levels == 1 else f"{{folder{level}}}" for level in range(levels))
                inner = image.path.parent.relative_to(folder) / f"{{stem}}{image.path.suffix}"
                return f" (there is {sibling}{self._suggest(f'{above}/{inner.as_posix()}', f'{above}/{self.labels}')})"
            folder = folder.parent
        # a name of which a part is that of the image
        expected = absolute(self.root / fill(self.labels, names))
        stem = names["stem"]
        siblings = sorted(expected.parent.glob("*"), reverse=True) if expected.parent.is_dir() else ()
        stems = {file_stem(path.name): path for path in siblings if path not in self.image_paths}
        contained = sorted((other for other in stems if other and (other in stem or stem in other)), key=len)
        close = contained[-1:] or difflib.get_close_matches(stem, stems, n=1, cutoff=0.5)
        if not close:
            return near_miss(expected)
        label = stems[close[0]]
        first = self.images_by_label.setdefault(label, image.path)
        if first != image.path:
            return (
                f" (there is {label.name}, as for {first.name}: if both are channels of one image, choose one by the "
                "pattern, or stack them into one file)"
            )
        shared = _shared_name(file_stem(image.path.name), close[0])
        if not shared:
            return f" (there is {label.name})"
        written = (
            (PurePosixPath(pattern).parent / path.name.replace(shared, "{stem}", 1)).as_posix()
            for pattern, path in ((self.images, image.path), (self.labels, label))
        )
        return f" (there is {label.name}{self._suggest(*written)})"

    def one_of(self, labels: Sequence[Path]) -> str:
        """Returns "; …", how one label image is chosen of several."""
        if len({label.parent for label in labels}) < len(labels):
            return (
                "; give a pattern that one of them matches, or if each is the mask of one object, set "
                "one_object_per_file = true"
            )
        images = re.sub(r"\*(?=[^/*]*$)", "{stem}", self.images, count=1)
        written = (re.sub(r"(?<![^/])\*\*?(?=/)", "{folder}", pattern, count=1) for pattern in (images, self.labels))
        return f"; name the folders on both sides{self._suggest(*written) or ', or give a pattern that one matches'}"

    def image_of(self, label: Path, others: Sequence[Path]) -> str:
        """Returns " (there is …)" for an image of the label's name that the pattern of images does not match, or ""."""
        stem = file_stem(label.name)
        image = next((o for o in others if file_stem(o.name) == stem and o.suffix.lower() in READERS), None)
        if image is None:
            return ""
        any_suffix = self.images.removesuffix(Path(self.images).suffix) + ".*"
        suggestion = self._suggest(any_suffix, self.labels)
        return f" (there is {image}, which images = '{self.images}' does not match{suggestion})"

    def _suggest(self, images: str, labels: str) -> str:
        """Returns ": write images = … and files = …" if these patterns pair more files than those given, else ""."""
        if self._count(images, labels) <= self._count(self.images, self.labels):
            return ""
        return f": write images = '{images}' and files = '{labels}'"

    def _count(self, images: str, labels: str) -> int:
        key = images, labels
        if key not in self.counts:
            self.counts[key] = _count_pairs(images, labels, self.root)
        return self.counts[key]


def _count_pairs(images: str, labels: str, root: Path) -> int:
    """Returns how many images of a pattern have one label image that no other has; 0 if names are ambiguous."""
    parts = named_parts(labels)
    if not set(parts) <= set(named_parts(images) or ("stem",)):
        return 0
    try:
        image_files, label_files = find_files(images, root), find_files(labels, root)
    except SegueError:
        return 0
    if image_files.problems or label_files.problems:
        return 0
    image_paths = {image.path for image in image_files.files}
    label_counts = Counter(texts_of(label, parts) for label in label_files.files if label.path not in image_paths)
    image_counts = Counter(texts_of(image, parts) for image in image_files.files)
    return sum(label_counts[texts] == 1 for texts, count in image_counts.items() if count == 1)


def _shared_name(name: str, other: str) -> str:
    """Returns the longest text in both names that neither cuts a word nor a number in two, "" without any.

    >>> _shared_name("img_07", "mask_07"), _shared_name("img_1", "mask_01")
    ('07', '')
    """
    match = difflib.SequenceMatcher(None, name, other).find_longest_match()
    shared = name[match.a : match.a + match.size].strip("_-. ")
    whole = rf"(?<![^\W\d_]){re.escape(shared)}" if shared[:1].isalpha() else rf"(?<!\d){re.escape(shared)}"
    whole += r"(?![^\W\d_])" if shared[-1:].isalpha() else r"(?!\d)"
    return shared if shared and re.search(whole, name) and re.search(whole, other) else ""
