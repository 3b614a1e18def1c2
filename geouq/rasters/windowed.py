"""Arrays that are read by windows, dressed for dask, which slices them; and which windows to look at first."""

from __future__ import annotations

from typing import Any

import numpy as np


def spread_out(length: int, pieces: int, size: int) -> list[slice]:
    """At most ``pieces`` stretches of ``size``, centred in equal parts of ``length``; all of it if that is less."""
    if length <= pieces * size:
        return [slice(0, length)]
    starts = [(2 * i + 1) * length // (2 * pieces) - size // 2 for i in range(pieces)]
    return [slice(start, start + size) for start in starts]


def first_windows(shape: tuple[int, int], edges: bool = True) -> list[tuple[slice, slice]]:
    """Rows and columns of the windows of an image to look at first: 16 of 128² spread over it, all of a small one.

    With ``edges`` four more along each side, 32 pixels deep, where fill lies mostly; always the same ones.
    """
    rows, columns = (spread_out(length, 4, 128) for length in shape)
    found = [(row, column) for row in rows for column in columns]
    if edges and not (len(rows) == len(columns) == 1):
        sides = [[slice(0, min(32, length)), slice(max(length - 32, 0), length)] for length in shape]
        found += [(side, column) for side in sides[0] for column in columns]
        found += [(row, side) for row in rows for side in sides[1]]
    return found


class Windowed:
    """An array (band, y, x), float32, NaN where not valid, that is read by windows when it is sliced."""

    dtype = np.dtype("float32")
    ndim = 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """(bands, rows, columns)."""
        raise NotImplementedError

    def read(self, bands: slice, rows: slice, columns: slice) -> np.ndarray:
        """Read a window; slices without step, within the shape."""
        raise NotImplementedError

    def __getitem__(self, key: Any) -> np.ndarray:
        """Read any selection, axis by axis: the smallest window that holds it, then the selection in it."""
        key = key if isinstance(key, tuple) else (key,)
        key += (slice(None),) * (self.ndim - len(key))
        picks = [np.arange(n)[k] for n, k in zip(self.shape, key, strict=True)]
        if not all(pick.size for pick in picks):
            return np.empty([n for pick in picks for n in np.shape(pick)], self.dtype)
        spans = [slice(int(pick.min()), int(pick.max()) + 1) for pick in picks]
        values = self.read(*spans)
        for axis, (pick, span) in reversed(list(enumerate(zip(picks, spans, strict=True)))):
            if np.ndim(pick) == 0 or len(pick) != span.stop - span.start or pick[0] > pick[-1]:
                values = np.take(values, pick - span.start, axis=axis)
        return values


def chunk_shape(shape: tuple[int, int], block: tuple[int, int], chunk: int) -> tuple[int, int]:
    """Return (rows, columns) of a dask chunk: whole blocks of the file, about ``chunk``² pixels.

    Strips stay whole, so that no row is decoded once for each of many narrow chunks.
    """
    rows, columns = shape
    height, width = block
    if width >= columns:
        return min(rows, max(1, chunk * chunk // (columns * height)) * height), columns
    return min(rows, max(1, round(chunk / height)) * height), min(columns, max(1, round(chunk / width)) * width)
