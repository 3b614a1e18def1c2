"""Regions of touching pixels in a raster of any size, found strip by strip, and their outlines.

A region is a 4-connected set of set pixels. The raster comes in strips of whole rows, each with one row of
margin above and below; memory is that of a strip and of the regions which go on below it. Outlines are traced in
whole numbers, along pixel edges: each strip gives straight *edges* with the region on their right-hand side
(seen with rows going down), each end of an edge is the start of the next one, and a region's edges are linked
into rings once its last strip is in. Nothing is cut at a strip's border and nothing needs to be merged: the
polygons are those of the whole raster, in an order that does not depend on the strips either.

Where two pixels of one region touch at a corner only, rings turn left and so keep apart the two sides of the
outline; a hole that meets the shell there stays a hole that touches it in one point, which is valid (OGC Simple
Features 1.2.1, 6.1.11.1), while turning right would give a shell that touches itself, which is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import shapely
from affine import Affine
from scipy.ndimage import label
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

_EAST, _SOUTH, _WEST, _NORTH = range(4)


@dataclass(frozen=True)
class Outlines:
    """Straight pieces of outline: ``start`` and ``end`` vertex, ``heading``, and the ``owner`` they bound.

    Vertices are numbered along the rows of the (rows + 1) x (columns + 1) pixel corners.
    """

    start: np.ndarray
    end: np.ndarray
    heading: np.ndarray
    owner: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """The four arrays."""
        return self.start, self.end, self.heading, self.owner

    def of(self, rank: np.ndarray) -> Outlines:
        """Return the edges whose owner has a ``rank`` ≥ 0, owned by that."""
        owner = rank[self.owner]
        keep = owner >= 0
        return Outlines(self.start[keep], self.end[keep], self.heading[keep], owner[keep])


def _join(parts: list[Outlines]) -> Outlines:
    return Outlines(*(np.concatenate(arrays) for arrays in zip(*(part.arrays for part in parts), strict=True)))


@dataclass(frozen=True)
class Regions:
    """Finished regions: their ``outlines`` (owner = row of ``sums``) and what was measured over their pixels.

    They come sorted by their last pixel in reading order, across all strips.
    """

    outlines: Outlines
    sums: np.ndarray


@dataclass
class _Waiting:
    """Edges of one strip whose regions go on; ``region`` is the current number of each owner's region."""

    outlines: Outlines
    region: np.ndarray

    def take(self, rank: np.ndarray) -> Outlines:
        """Return the edges of all regions with a ``rank`` ≥ 0, owned by that, and keep the others."""
        ranks = rank[self.region]
        left = ranks < 0
        if left.all():  # most parts of a large region, most of the time
            return Outlines(*(array[:0] for array in self.outlines.arrays))
        taken = self.outlines.of(ranks)
        self.outlines = self.outlines.of(np.where(left, np.cumsum(left) - 1, -1))
        self.region = self.region[left]
        return taken


@dataclass
class _Below:
    """The regions that go on below the strips seen so far, and under which columns they do (-1: none)."""

    columns: np.ndarray
    sums: np.ndarray
    last: np.ndarray
    waiting: list[_Waiting] = field(default_factory=list)


def regions(
    strips: Iterable[tuple[int, np.ndarray]], columns: int, measure: Callable[[int, np.ndarray, int], np.ndarray]
) -> Iterator[Regions]:
    """Yield the regions that each strip finishes.

    Parameters
    ----------
    strips : from top to bottom, (first row, bool array (rows + 2, columns + 2)): the strip with one pixel of
        margin all around, which is False outside the raster.
    columns : of the raster.
    measure : called with (first row, labels (rows, columns), n): sums over the pixels of each label 1 … n, as an
        array (n, any number of sums).
    """
    below = None
    for row, padded in strips:
        labels, pieces = label(padded[1:-1, 1:-1])
        sums = measure(row, labels, pieces)
        if below is None:
            below = _Below(np.full(columns, -1), sums[:0], np.empty(0, np.int64))
        yield _grow(below, row, padded, labels, sums)


def _grow(below: _Below, row: int, padded: np.ndarray, labels: np.ndarray, sums: np.ndarray) -> Regions:
    """Add one strip to ``below``; return the regions that end in it."""
    pieces, before = len(sums), len(below.sums)
    pixels = np.flatnonzero(labels)
    last = np.empty(pieces, np.int64)
    last[labels.ravel()[pixels] - 1] = row * labels.shape[1] + pixels  # ascending: the last one stays

    joined = below.columns >= 0
    links = (below.columns[joined], before + labels[0, joined] - 1)
    graph = csr_array((np.ones(len(links[0]), np.int8), links), shape=(before + pieces,) * 2)
    count, region = connected_components(graph, directed=False)
    members = csr_array((np.ones(len(region)), (region, np.arange(len(region)))), shape=(count, len(region)))
    sums = members @ np.concatenate([below.sums, sums])
    lasts = np.full(count, -1, np.int64)
    np.maximum.at(lasts, region, np.concatenate([below.last, last]))

    onward = padded[-2, 1:-1] & padded[-1, 1:-1]
    is_open = np.zeros(count, bool)
    is_open[region[before + labels[-1, onward] - 1]] = True
    done = np.flatnonzero(~is_open)
    done = done[np.argsort(lasts[done])]
    rank = np.full(count, -1)
    rank[done] = np.arange(len(done))

    for part in below.waiting:
        part.region = region[part.region]
    below.waiting.append(_Waiting(outline(padded, labels, row), region[before:]))
    outlines = _join([part.take(rank) for part in below.waiting])
    finished = Regions(outlines, sums[done])

    number = np.cumsum(is_open) - 1
    for part in below.waiting:
        part.region = number[part.region]
    below.waiting = [part for part in below.waiting if len(part.region)]
    below.columns = np.full_like(below.columns, -1)
    below.columns[onward] = number[region[before + labels[-1, onward] - 1]]
    below.sums, below.last = sums[is_open], lasts[is_open]
    return finished


def outline(padded: np.ndarray, labels: np.ndarray, row: int) -> Outlines:
    """Return the edges between the set pixels of a strip (``padded`` by one pixel) and others; owner = label - 1."""
    inside = padded[1:-1, 1:-1]
    vertices = labels.shape[1] + 1
    parts = []
    for heading, beyond in (
        (_EAST, padded[:-2, 1:-1]),
        (_WEST, padded[2:, 1:-1]),
        (_SOUTH, padded[1:-1, 2:]),
        (_NORTH, padded[1:-1, :-2]),
    ):
        along = heading in (_EAST, _WEST)
        line, first, stop = _runs(inside & ~beyond, along)
        owner = (labels[line, first] if along else labels[first, line]) - 1
        far = heading in (_WEST, _SOUTH)  # the edge is on the pixel's lower or right side
        if along:
            ends = [(row + line + far) * vertices + column for column in (first, stop)]
        else:
            ends = [(row + y) * vertices + line + far for y in (first, stop)]
        start, end = ends if heading in (_EAST, _SOUTH) else ends[::-1]
        parts.append(Outlines(start, end, np.full(len(line), heading, np.int8), owner))
    return _join(parts)


def _runs(edge: np.ndarray, along_rows: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (line, first, one past last) of the runs of True along rows, or along columns."""
    lines = edge if along_rows else edge.T
    change = np.zeros((lines.shape[0], lines.shape[1] + 1), bool)
    change[:, 0], change[:, -1] = lines[:, 0], lines[:, -1]
    np.not_equal(lines[:, 1:], lines[:, :-1], out=change[:, 1:-1])
    line, position = np.divmod(np.flatnonzero(change), change.shape[1])
    return line[::2], position[::2], position[1::2]


def polygons(outlines: Outlines, count: int, columns: int, affine: Affine) -> np.ndarray:
    """Link edges into one polygon per owner.

    Parameters
    ----------
    outlines : complete ones of the owners 0 … count - 1.
    columns : of the raster.
    affine : from pixel corners (column, row) to coordinates.

    Returns
    -------
    (count,) shapely polygons: the shell counter-clockwise in coordinates, holes the other way, no vertex in the
    middle of a straight line.
    """
    if count == 0:
        return np.empty(0, object)
    vertices = int(outlines.start.max()) + 1
    # Where two edges end, two begin: one turns left of each. Sorted by what a left turn gives, both ends match.
    base = outlines.owner.astype(np.int64) * vertices * 4
    begin = np.argsort(base + outlines.start * 4 + outlines.heading)
    finish = np.argsort(base + outlines.end * 4 + (outlines.heading - 1) % 4)
    position = np.empty_like(begin)
    position[begin] = np.arange(len(begin))
    following = np.empty_like(begin)
    following[position[finish]] = np.arange(len(begin))
    start, heading, owner = outlines.start[begin], outlines.heading[begin], outlines.owner[begin]

    order, heads, previous = _walk(following)
    corner = heading != heading[previous]
    order = order[corner[order]]
    head = np.zeros(len(start), bool)
    head[heads] = True
    return _build(start[order], head[order], owner[heads], columns, affine)


def _walk(following: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Walk all cycles of a permutation, each from its first element, in the order of these.

    Edges being sorted by owner and start, the first of a cycle is a corner of its ring (its uppermost, leftmost
    vertex), and the first cycle of an owner is its shell.
    """
    n = len(following)
    count, cycle = connected_components(csr_array((np.ones(n, np.int8), following, np.arange(n + 1)), shape=(n, n)))
    heads = np.empty(count, following.dtype)
    heads[cycle[::-1]] = np.arange(n)[::-1]
    heads.sort()
    previous = np.empty_like(following)
    previous[following] = np.arange(n)
    path = following.copy()
    path[previous[heads]] = np.roll(heads, -1)  # one path through all cycles
    graph = csr_array((np.ones(n, np.int8), path, np.arange(n + 1)), shape=(n, n))
    return breadth_first_order(graph, heads[0], return_predecessors=False), heads, previous


def _build(vertex: np.ndarray, head: np.ndarray, ring_owner: np.ndarray, columns: int, affine: Affine) -> np.ndarray:
    """Make polygons from the vertices of rings one after the other, ``head`` marking the first of each."""
    ring = np.cumsum(head) - 1
    sizes = np.bincount(ring) + 1  # closed: the first vertex comes again
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    slot = np.arange(len(vertex)) + ring
    if affine.determinant < 0:  # rows go down: clockwise in pixels is clockwise on the map, so turn it round
        slot = offsets[ring] + offsets[ring + 1] - 1 - slot
    closed = np.empty(offsets[-1], vertex.dtype)
    closed[slot] = vertex
    first, end = offsets[:-1], offsets[1:] - 1
    closed[first], closed[end] = vertex[head], vertex[head]
    y, x = np.divmod(closed, columns + 1)
    # in GDAL's order of sums, for the same last bit
    points = [affine.c + x * affine.a + y * affine.b, affine.f + x * affine.d + y * affine.e]
    shells = np.concatenate([[0], np.cumsum(np.bincount(ring_owner))])
    return np.asarray(
        shapely.from_ragged_array(shapely.GeometryType.POLYGON, np.stack(points, axis=1), (offsets, shells))
    )
