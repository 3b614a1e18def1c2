"""Whether two points are connected, in each sample: by water, or by land.

Water connects pixels that share a side, as in the polygons of geouq.polygons.vectorize; land also those that share a
corner only, so that either a river separates two fields or its water is connected, never both (Rosenfeld 1970,
Connectivity in digital pictures, doi 10.1145/321556.321570). The map is read strip by strip; of what lies above, each
sample keeps which pixels of its last row belong together, and to which of them the two points do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import label
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from geouq.errors import InputError
from geouq.grid import Roi
from geouq.layers import says
from geouq.maps.votes import Votes, strips

_SIDES = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
_CORNERS = np.ones((3, 3), int)
_BELOW = -1  # a point that is not among the rows so far


def connected(
    votes: Votes, a: Sequence[float], b: Sequence[float], through: str = "water", pixels: int = 1 << 20
) -> np.ndarray:
    """Return, for each sample, whether a path over ``through`` leads from ``a`` to ``b``.

    What is not classified is not passed. Where ``a`` or ``b`` is not on what is gone through, there is no path.

    Parameters
    ----------
    a, b : (x, y) in the map's coordinates.
    through : "water" (the positive class) or "land" (all else).
    pixels : of a strip; no effect on the result.

    Returns
    -------
    (samples,) bool; its mean is the probability.

    Raises
    ------
    InputError : if a point lies beyond the map, or where it is not classified.
    """
    if through not in ("water", "land"):
        raise InputError(f"through {through!r}: give water or land")
    points = [_pixel(votes, point) for point in (a, b)]
    states = [_Sample(points, _SIDES if through == "water" else _CORNERS) for _ in range(votes.samples)]
    for roi in strips(votes.geobox, pixels):
        bits, valid = votes.votes(roi)
        for sample, state in enumerate(states):
            if state.answer is None:
                wet = says(bits, sample)
                state.add(roi, valid & (wet if through == "water" else ~wet))
    return np.array([bool(state.answer) for state in states])


def _pixel(votes: Votes, point: Sequence[float]) -> tuple[int, int]:
    """Return the (row, column) of a point."""
    if not np.isfinite(point).all():
        raise InputError(f"the point {point[0]}, {point[1]}: give two finite numbers, x and y in the map's coordinates")
    column, row = (int(np.floor(value)) for value in ~votes.geobox.affine * (point[0], point[1]))
    rows, columns = votes.geobox.shape
    name = f"the point {point[0]:.10g}, {point[1]:.10g}"
    if not (0 <= row < rows and 0 <= column < columns):
        raise InputError(f"{name} lies beyond {votes.path}: give x and y in the map's coordinates ({votes.crs})")
    if not votes.votes(Roi(row, row + 1, column, column + 1))[1].all():
        raise InputError(f"{name} is not classified in {votes.path}: choose another nearby")
    return row, column


class _Sample:
    """What one sample has of paths so far; ``answer`` is None while that is open."""

    def __init__(self, points: list[tuple[int, int]], structure: np.ndarray) -> None:
        self.points, self.structure = points, structure
        self.answer: bool | None = None
        self._last: np.ndarray | None = None  # the piece that each pixel of the last row belongs to, 0 = none
        self._count = 0
        self._pieces = [_BELOW, _BELOW]

    def add(self, roi: Roi, passable: np.ndarray) -> None:
        """Go on with the next rows."""
        labels, count = label(passable, self.structure)
        labels = np.where(labels > 0, labels + self._count, 0)
        region = self._merge(labels[0], count)
        for i, (row, column) in enumerate(self.points):
            if roi.y0 <= row < roi.y1:
                self._pieces[i] = int(region[labels[row - roi.y0, column]])
            elif self._pieces[i] != _BELOW:
                self._pieces[i] = int(region[self._pieces[i]])
        last = region[labels[-1]]
        self.answer = self._decide(set(np.unique(last).tolist()))
        kept = np.unique(np.concatenate([[0], np.maximum(self._pieces, 0), last]))
        self._last, self._count = np.searchsorted(kept, last), len(kept) - 1
        self._pieces = [p if p == _BELOW else int(np.searchsorted(kept, p)) for p in self._pieces]

    def _merge(self, first: np.ndarray, count: int) -> np.ndarray:
        """Return the piece of each old piece and each new label, joined where they touch; 0 stays 0."""
        links = np.empty((2, 0), np.int64)
        if self._last is not None:
            shifts = (0,) if self.structure is _SIDES else (-1, 0, 1)
            above = np.concatenate([np.roll(np.pad(self._last, 1), shift)[1:-1] for shift in shifts])
            links = np.stack([above, np.tile(first, len(shifts))])
            links = links[:, (links > 0).all(axis=0)]
        graph = csr_array((np.ones(links.shape[1], np.int8), tuple(links)), shape=(1 + self._count + count,) * 2)
        return np.asarray(connected_components(graph, directed=False)[1])

    def _decide(self, going_on: set[int]) -> bool | None:
        """Return the answer once more rows cannot change it."""
        a, b = self._pieces
        if 0 in (a, b):
            return False
        if a == b != _BELOW:
            return True
        closed = any(piece not in going_on for piece in (a, b) if piece != _BELOW)
        return False if closed else None
