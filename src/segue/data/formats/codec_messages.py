"""What codecs print while they decode: remarks on how they were called, which no user can act on."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_codecs() -> Iterator[None]:
    """Drops what imagecodecs logs; what is wrong with a file it raises."""
    logger = logging.getLogger("imagecodecs")

    def drop(record: logging.LogRecord) -> bool:
        return False

    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)
