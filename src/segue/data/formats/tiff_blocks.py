"""Parts of a large TIFF, read when asked for: nothing but them, and a band of rows, is in memory."""

from __future__ import annotations

import math
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from segue.data.formats.tiff import leading_shape, samples_of, select_series, tifffile_errors

MAX_BAND_BYTES = 2**28  # of the rows in memory, so that strips as wide as the image are decoded once


class TiffBlocks:
    """The planes of a TIFF, read by rows and columns, as a viewer shows them (`Samples.apply`).

    lead: the lengths of the axes before those of a page, one index of each selects a plane.
    """

    def __init__(self, path: Path) -> None:
        import tifffile

        self.path = path
        with tifffile_errors() as errors:
            self._tiff = tifffile.TiffFile(path)
            series = select_series(path, self._tiff)
        weakref.finalize(self, self._tiff.close)  # as soon as nothing reads from it any more
        if errors:
            raise EOFError(errors[0])
        self.lead = leading_shape(series)
        self._samples, _ = samples_of(path, series.keyframe, labels=False)
        self._page = tuple(series.shape[len(self.lead) :])
        axis = self._samples.axis
        self._is_planar = axis is not None and axis % len(self._page) == 0
        self._height, self._width = self._page[1:] if self._is_planar else self._page[:2]
        self._dtype = np.dtype(series.dtype).newbyteorder(self._tiff.byteorder)
        self._offset: int | None = series.dataoffset
        self._series = series
        self._zarr: Any = None
        if self._offset is None:
            import zarr

            self._zarr = zarr.open_array(series.aszarr(level=0), mode="r")
        columns = len(self._page) - (1 if self._is_planar or axis is None else 2) - len(self._page)
        self._has_bands = self._zarr is None or self._zarr.chunks[columns] >= self._width
        self._band: tuple[tuple[int, ...], int, np.ndarray] = ((), 0, np.empty(0))

    @property
    def has_small_chunks(self) -> bool:
        """Whether what is decoded at a time is small: not a whole plane of a compressed file in one strip."""
        chunk = math.prod(self._zarr.chunks) if self._zarr is not None else 0
        return chunk * self._dtype.itemsize <= MAX_BAND_BYTES

    def read(self, lead: tuple[int, ...], rows: slice, columns: slice) -> np.ndarray:
        """Returns (samples, height, width) of one plane; raises whatever a decoder raises for damaged bytes."""
        top, bottom, _ = rows.indices(self._height)
        if not self._has_bands or (bottom - top) * self._row_bytes > MAX_BAND_BYTES:
            values = self._decode(lead, top, bottom, columns)
        else:
            place, first, band = self._band
            rows_axis = 1 if self._is_planar else 0
            if not band.size or place != lead or not first <= top <= bottom <= first + band.shape[rows_axis]:
                self._band = ((), 0, np.empty(0))  # freed before the next one is read
                first, band = top, self._decode(lead, top, bottom, slice(None))
                self._band = (lead, first, band)
            part = slice(top - first, bottom - first), columns
            values = band[(slice(None), *part)] if self._is_planar else band[part]
        values = self._samples.apply(self.path, values)
        if values.ndim == 2:
            return values[None]
        return values if self._is_planar else np.moveaxis(values, -1, 0)

    @property
    def _row_bytes(self) -> int:
        return math.prod(self._page) // self._height * self._dtype.itemsize

    def _decode(self, lead: tuple[int, ...], top: int, bottom: int, columns: slice) -> np.ndarray:
        if self._zarr is not None:
            part = (slice(top, bottom), columns)
            index = (*lead, *((slice(None), *part) if self._is_planar else part))
            with tifffile_errors() as errors:
                values = np.asarray(self._zarr[index])
            if errors:
                raise EOFError(errors[0])
        else:
            planes = self._page[0] if self._is_planar else 1
            page = int(np.ravel_multi_index(lead, self.lead)) if lead else 0
            parts = [self._rows_of_file(page * planes + plane, top, bottom) for plane in range(planes)]
            values = np.stack(parts)[..., columns] if self._is_planar else parts[0][:, columns]
        return values.astype(values.dtype.newbyteorder("="), copy=False)

    def _rows_of_file(self, plane: int, top: int, bottom: int) -> np.ndarray:
        """Returns whole rows of a plane whose bytes are contiguous; mapped files would count as memory."""
        row = self._page[1:] if not self._is_planar else self._page[2:]
        size, count = self._dtype.itemsize * math.prod(row), (bottom - top) * math.prod(row)
        start = (self._offset or 0) + (plane * self._height + top) * size
        values = np.fromfile(self.path, self._dtype, count, offset=start)
        if values.size < count:
            raise EOFError("it ends before its last row")
        return values.reshape(bottom - top, *row)
