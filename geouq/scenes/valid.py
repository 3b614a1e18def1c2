"""What share of a scene is valid: counted where the file is small, estimated and said to be so where it is large."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from geouq.noise import uniform
from geouq.rasters.raster import Pixels, overview_factors, read_window
from geouq.sources import is_remote

#: pixels that are read for it, of a file on this machine and of one elsewhere
_MOST, _MOST_REMOTE = 1 << 23, 1 << 20
#: windows along each side of a file without overviews, and their side in pixels
_WINDOWS, _SIDE = 12, 32


def valid_share(parts: Sequence[Pixels]) -> dict[str, Any]:
    """Return the share of the pixels that are valid in all bands, and of which pixels it is.

    Of large files an overview is looked at, or windows at random places of an even grid. An estimate is never 0 or 1:
    of n looks it is (n · share seen + ½) / (n + 1), its range two standard errors and 3/n about it: what n looks have
    all missed is rarer than 3/n with 95 % (the rule of three, Hanley & Lippman-Hand 1983).
    """
    rows, columns = parts[0].raster.shape
    most = _MOST_REMOTE if any(is_remote(part.path) for part in parts) else _MOST
    if rows * columns <= most:
        count = sum(int(valid.sum()) for valid in _strips(parts))
        share = round(count / (rows * columns), 6)
        share = min(share, 0.999999) if count < rows * columns else share
        return {"valid_share": share, "valid_share_of": "all pixels"}
    shared = set.intersection(*(set(overview_factors(part.raster)) for part in parts))
    factor = min((f for f in shared if rows * columns <= most * f * f), default=None)
    if factor is not None:
        looks, of = _overview(parts, factor), f"an overview, 1 to {factor}"
    else:
        looks = list(_windows(parts))
        of = f"{len(looks)} windows of {_SIDE}² pixels"
    n, seen = len(looks), sum(look.size for look in looks)
    share = (n * sum(int(look.sum()) for look in looks) / seen + 0.5) / (n + 1)
    margin = 3 / n + 2 * float(np.std([look.mean() for look in looks])) / np.sqrt(n)
    low, high = max(share - margin, 0.0), min(share + margin, 1.0)
    return {
        "valid_share": round(share, 4),
        "valid_share_range": [float(np.floor(1000 * low)) / 1000, float(np.ceil(1000 * high)) / 1000],
        "valid_share_of": f"about, from {of}",
    }


def _valid(parts: Sequence[Pixels], rows: slice, columns: slice, *, factor: int = 1) -> np.ndarray:
    """Return where a window is valid in all bands of all parts."""
    found = (read_window(part.raster, part.raster.bands, rows, columns, factor=factor) for part in parts)
    return np.asarray(np.logical_and.reduce([np.isfinite(values).all(axis=0) for values in found]))


def _strips(parts: Sequence[Pixels]) -> Iterator[np.ndarray]:
    rows, columns = parts[0].raster.shape
    height = max(1, (1 << 20) // columns // 256) * 256
    for top in range(0, rows, height):
        yield _valid(parts, slice(top, min(top + height, rows)), slice(0, columns))


def _overview(parts: Sequence[Pixels], factor: int) -> list[np.ndarray]:
    """Return where each block of an overview is valid."""
    rows, columns = parts[0].raster.shape
    valid = _valid(parts, slice(0, rows), slice(0, columns), factor=factor)
    return [valid[y : y + _SIDE, x : x + _SIDE] for y in _steps(valid.shape[0]) for x in _steps(valid.shape[1])]


def _steps(length: int) -> range:
    return range(0, length, _SIDE)


def _windows(parts: Sequence[Pixels]) -> Iterator[np.ndarray]:
    """Yield where windows are valid, each at a random place of its part of the image, always the same."""
    shape = parts[0].raster.shape
    pieces = [max(1, min(_WINDOWS, length // _SIDE)) for length in shape]
    for i, j in np.ndindex(*pieces):
        at = []
        for number, axis in enumerate((i, j)):
            low, high = (shape[number] * (axis + k) // pieces[number] for k in (0, 1))
            side = min(_SIDE, high - low)
            start = low + int((high - low - side + 1) * float(uniform(0, i, j, number, dtype=np.float64)))
            at.append(slice(start, start + side))
        yield _valid(parts, at[0], at[1])
