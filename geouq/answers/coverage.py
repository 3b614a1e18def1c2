"""Which share of each pixel lies inside a polygon, exactly, strip by strip.

The area of a polygon is the sum, over its directed edges, of the area to the right of each edge, signed by the
direction the edge runs in (the shoelace formula, Meister 1769, one term an edge). The same holds inside any pixel. So
edges are cut at pixel borders, each piece adds its signed height and the area to its right to its own pixel, and a
running sum of heights along the row says how much of the pixels further right is inside. Only the
pixels on an outline are touched one by one; those between are found as runs. All polygons of a strip go through
the same few array operations. Rounding is that of float64 pixel coordinates (10⁻¹² of a pixel).

Why not the library exactextract: for 5000 polygons over 16 million pixels of a 12 000² raster, 0.3.0 took 1.9 to 2.9 s
against 0.5 s, was off by up to 3·10⁻⁸ of a polygon against 2·10⁻¹², and is one more dependency.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import shapely

#: pixels and edge pieces worked on at a time, at most, unless one polygon alone has more in a strip
LIMIT = 250_000
_TINY = 1e-12  # of a pixel: below this a share is rounding


@dataclass(frozen=True)
class Edges:
    """Edges of polygons in pixel coordinates, downwards (``y0 < y1``), sorted by ``owner``.

    ``sign`` is +1 where the polygon lies to the right of the edge, towards greater x, and -1 where it lies left.
    """

    x0: np.ndarray
    y0: np.ndarray
    x1: np.ndarray
    y1: np.ndarray
    sign: np.ndarray
    owner: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> Edges:
        return Edges(
            self.x0[chosen], self.y0[chosen], self.x1[chosen], self.y1[chosen], self.sign[chosen], self.owner[chosen]
        )

    def __len__(self) -> int:
        return len(self.owner)

    @classmethod
    def join(cls, parts: Sequence[Edges]) -> Edges:
        """Return the edges of several, none sharing an owner with another."""
        nothing = np.empty(0)
        none = cls(nothing, nothing, nothing, nothing, nothing, nothing.astype(np.int64))
        names = cls.__annotations__
        return cls(**{name: np.concatenate([getattr(part, name) for part in (none, *parts)]) for name in names})


@dataclass(frozen=True)
class Coverage:
    """Pixels (``row``, ``column``) and the ``share`` of each, in 0..1, inside the polygon of ``owners[polygon]``."""

    owners: np.ndarray
    polygon: np.ndarray
    row: np.ndarray
    column: np.ndarray
    share: np.ndarray


def rings(polygons: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Take valid (multi)polygons apart.

    Returns
    -------
    coordinates (vertices, 2); the ring of each vertex; the polygon of each ring; whether a ring is a shell.
    """
    parts, whole = shapely.get_parts(polygons, return_index=True)
    found, part = shapely.get_rings(parts, return_index=True)
    shell = np.ones(len(part), bool)
    shell[1:] = part[1:] != part[:-1]
    coordinates, ring = shapely.get_coordinates(found, return_index=True)
    return coordinates, ring, whole[part], shell


def edges(coordinates: np.ndarray, ring: np.ndarray, owner: np.ndarray, shell: np.ndarray) -> tuple[Edges, np.ndarray]:
    """Return the edges of closed rings given in pixel coordinates (column, row), and the signed area of each ring.

    Parameters
    ----------
    coordinates, ring, owner, shell : as from ``rings``, rings of one owner being neighbours. Which way they turn does
        not matter. The area (in pixels) is negative for holes.
    """
    follows = np.flatnonzero(ring[1:] == ring[:-1])
    of = ring[follows]
    (x0, y0), (x1, y1) = coordinates[follows].T, coordinates[follows + 1].T
    first = np.searchsorted(ring, np.arange(len(owner)))  # areas relative to a vertex: no large numbers cancel
    ox, oy = coordinates[first[of]].T
    area = np.bincount(of, (x0 - ox) * (y1 - oy) - (x1 - ox) * (y0 - oy), len(owner)) / 2
    role = np.where(shell, 1.0, -1.0)
    sign = -np.sign(y1 - y0) * (np.sign(area) * role)[of]
    down = y0 <= y1
    x0, x1, y0, y1 = np.where(down, x0, x1), np.where(down, x1, x0), np.where(down, y0, y1), np.where(down, y1, y0)
    return Edges(x0, y0, x1, y1, sign, owner[of])[sign != 0], np.abs(area) * role


def coverage(found: Edges, top: int, bottom: int, left: int, right: int) -> Iterator[Coverage]:
    """Yield the shares of the pixels in rows top ≤ row < bottom and columns left ≤ column < right.

    Parameters
    ----------
    found : all edges that pass through these rows (others may be there, and change nothing), each owner's together.

    Yields
    ------
    Several polygons at a time, each polygon once, so that memory stays that of ``LIMIT`` pixels.
    """
    if not len(found):
        return
    starts = np.flatnonzero(np.r_[True, found.owner[1:] != found.owner[:-1]])
    low, high = np.minimum(found.x0, found.x1).clip(left, right), np.maximum(found.x0, found.x1).clip(left, right)
    width = np.maximum.reduceat(high, starts) - np.minimum.reduceat(low, starts) + 1
    pieces = np.add.reduceat(high - low + (found.y1.clip(top, bottom) - found.y0.clip(top, bottom)) + 2, starts)
    cost = width * (bottom - top) + pieces
    group = ((np.cumsum(cost) - cost) // LIMIT).astype(np.int64)
    firsts = starts[np.flatnonzero(np.r_[True, group[1:] != group[:-1]])]
    for start, stop in zip(firsts, np.r_[firsts[1:], len(found)], strict=True):
        yield _pixels(found[np.arange(start, stop)], top, bottom, left, right)


def _pixels(found: Edges, top: int, bottom: int, left: int, right: int) -> Coverage:
    """Return all pixels of a few polygons."""
    row, edge, y0, y1, x0, x1 = _cut(found.y0, found.y1, found.x0, found.x1, top, bottom)
    inside = (row >= top) & (row < bottom)
    row, edge, x0, x1 = row[inside], edge[inside], x0[inside], x1[inside]
    height = (y1 - y0)[inside] * found.sign[edge]
    column, piece, x0, x1, h0, h1 = _cut(
        np.minimum(x0, x1), np.maximum(x0, x1), np.zeros_like(height), height, left, right
    )
    height = h1 - h0
    area = height * np.where(column < left, 1.0, 1 - ((x0 + x1) / 2 - column))
    column = np.maximum(column, left)  # what lies further left counts for the whole row; ``right`` stays, as an end

    owners, local = np.unique(found.owner, return_inverse=True)
    line = local[edge][piece] * (bottom - top) + row[piece] - top
    key = line * (right - left + 1) + column - left
    order = np.argsort(key, kind="stable")
    key = key[order]
    first = np.flatnonzero(np.r_[True, key[1:] != key[:-1]]) if len(key) else np.empty(0, np.int64)
    height, area = np.add.reduceat(height[order], first), np.add.reduceat(area[order], first)
    line, column = np.divmod(key[first], right - left + 1)
    return _fill(owners, line, column, np.cumsum(height), area - height, (top, bottom, left, right))


def _fill(
    owners: np.ndarray,
    line: np.ndarray,
    column: np.ndarray,
    after: np.ndarray,
    area: np.ndarray,
    box: tuple[int, int, int, int],
) -> Coverage:
    """Return the pixels that outlines cross, and the share of the pixels that lie between two crossed ones.

    ``after`` is, for each crossed pixel, the share of the pixels from there to the next crossed one. In each line (one
    row of pixels of one polygon) the signed heights sum to 0, so that no line's shares run on into the next line.
    """
    top, bottom, left, right = box
    share, after = _snap(after + area), _snap(after)
    seen = (share > 0) & (column < right - left)
    run = np.flatnonzero((line[1:] == line[:-1]) & (np.diff(column) > 1) & (after[:-1] > 0))
    length = column[run + 1] - column[run] - 1
    begin = np.repeat(column[run] + 1 - (np.cumsum(length) - length), length)
    polygon, row = np.divmod(np.concatenate([line[seen], np.repeat(line[run], length)]), bottom - top)
    column = np.concatenate([column[seen], begin + np.arange(len(begin))])
    share = np.concatenate([share[seen], np.repeat(after[run], length)])
    return Coverage(owners, polygon, row + top, column + left, share)


def _snap(share: np.ndarray) -> np.ndarray:
    """Make shares that are 0 or 1 but for rounding just that."""
    return np.where(share > 1 - _TINY, 1.0, np.where(share < _TINY, 0.0, share))


def _cut(
    a0: np.ndarray, a1: np.ndarray, b0: np.ndarray, b1: np.ndarray, low: int, high: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cut segments from (a0, b0) to (a1, b1), a0 ≤ a1, where ``a`` is a whole number from ``low`` to ``high``.

    Returns
    -------
    For each piece: its cell (the floor of ``a``; low - 1 for all cells below ``low``, high for all from ``high`` on),
    the number of the segment it was cut from, and its ends a0, a1, b0, b1.
    """
    first = np.clip(np.floor(a0), low - 1, high).astype(np.int64)
    last = np.clip(np.ceil(a1) - 1, first, high).astype(np.int64)
    count = last - first + 1
    segment = np.repeat(np.arange(len(a0)), count)
    cell = np.arange(len(segment)) - np.repeat(np.cumsum(count) - count - first, count)
    slope = (b1 - b0) / np.where(a1 > a0, a1 - a0, 1.0)
    starts, ends = cell == first[segment], cell == last[segment]
    a0, a1, b0, b1, slope = a0[segment], a1[segment], b0[segment], b1[segment], slope[segment]
    lower, upper = np.where(starts, a0, cell), np.where(ends, a1, cell + 1)
    at_lower, at_upper = np.where(starts, b0, b0 + (lower - a0) * slope), np.where(ends, b1, b0 + (upper - a0) * slope)
    return cell, segment, lower, upper, at_lower, at_upper
