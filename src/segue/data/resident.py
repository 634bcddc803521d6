"""Samples that stay in this process from one stage to the next, where a study trains many stages on the same ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from segue.data.sources import DatasetSubset, ResidentSource
from segue.data.spec import NormalizeSpec
from segue.device import CACHE_FRACTION, free_memory
from segue.fingerprint import hash_json

_sources: OrderedDict[str, ResidentSource] = OrderedDict()  # the last used at the end
_enabled = False


def enable() -> None:
    """Lets `resident_source` remember what it reads."""
    global _enabled
    _enabled = True


def disable() -> None:
    """Frees what is remembered."""
    global _enabled
    _enabled = False
    clear()


def clear() -> bool:
    """Frees what is remembered, where something else needs the memory; returns whether there was anything."""
    freed = bool(_sources)
    _sources.clear()
    return freed


def resident_source(parts: Sequence[DatasetSubset], *, normalization: NormalizeSpec) -> ResidentSource:
    """Returns the samples of all parts in memory (`ResidentSource.from_parts`), read once while they are remembered.

    A file that was replaced since, by its inode, size and time, is read again. At most a quarter of the memory that is
    free is used; what was used longest ago is forgotten first.
    """
    if not _enabled:
        return ResidentSource.from_parts(parts, normalization=normalization)
    key = _key(parts, normalization)
    source = _sources.pop(key, None) or ResidentSource.from_parts(parts, normalization=normalization)
    _sources[key] = source
    free = free_memory()
    in_use = sum(map(_bytes, _sources.values()))
    while _sources and free is not None and in_use > CACHE_FRACTION * (free + in_use):
        in_use -= _bytes(_sources.popitem(last=False)[1])
    return source


def _key(parts: Sequence[DatasetSubset], normalization: NormalizeSpec) -> str:
    content = []
    for part in parts:
        status = part.dataset.path.stat()
        file = [str(part.dataset.path.absolute()), status.st_ino, status.st_size, status.st_mtime_ns]
        layer = [part.layer.name, part.layer.kind, list(part.layer.names)]
        content.append([file, layer, part.indices.tolist()])
    return hash_json([content, repr(normalization)])


def _bytes(source: ResidentSource) -> int:
    return source.pixels.nbytes + source.labels.nbytes
