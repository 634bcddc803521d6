"""Files that hold a time series or a focal series: each page an image of its own, all in one group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from segue.data.folders.pairing import ImageLabelPair
from segue.data.image_io import count_pages
from segue.data.spec import PrepareSpec
from segue.errors import SegueError


def split_pages(spec: PrepareSpec, pairs: Sequence[ImageLabelPair]) -> tuple[list[ImageLabelPair], list[str]]:
    """Returns a pair for each image of each file, and a problem for each file whose pages are not what `spec` says.

    With pages = "time" or "z", a file of several pages becomes as many pairs, named "a.tif/t000" or "a.tif/z000", of
    the file's group. A file of one page, and all files with another setting, stay one pair.
    """
    if spec.pages not in ("time", "z"):
        return list(pairs), []
    images, problems = [], []
    for pair in pairs:
        try:
            count = count_pages(pair.image, spec.pages)
        except SegueError as error:
            problems.append(str(error))
            continue
        if count is None:
            images.append(pair)
            continue
        header = pair.header and replace(pair.header, channels=max(1, pair.header.channels // count))
        for page in range(count):
            source = f"{pair.source}/{spec.pages[0]}{page:03d}"
            images.append(replace(pair, source=source, page=page, page_count=count, header=header))
    return images, problems
