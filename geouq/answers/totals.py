"""What a map and its samples hold inside places: sums over the pixels of each, strip by strip.

Every pixel counts with the share of it that lies inside a polygon (geouq.answers.coverage), times its area on the
ellipsoid; samples are kept apart, so that each stays a whole map.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from geouq.answers.coverage import Coverage, Edges, coverage
from geouq.grid import Roi, pixel_areas
from geouq.layers import NOT_CLASSIFIED, UNDECIDED
from geouq.maps.votes import expectation, open_votes, strips, sums

#: columns of sums; from ``MASKS`` on the mask's area of each class, and then of each class its area in each sample
_INSIDE, _GROUND, _VALID, _UNDECIDED, _DOUBT, _DOUBTED, MASKS = range(7)


def by_sample(totals: np.ndarray, classes: int) -> list[np.ndarray]:
    """Return of each of so many classes the sums of areas (places, S), views into ``totals`` (places, …)."""
    return np.split(totals[:, MASKS + classes :], classes, axis=1)


class Totals:
    """Votes, and the map if there is one, open; a context manager.

    numbers, names : of the classes asked about, their indices; their names, none where it is one class alone.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.votes, self.map = open_votes(path)
        whole = len(self.votes.classes) == len(self.votes.legend.names)
        self.numbers = self.votes.classes if whole else (self.votes.of,)  # of the classes asked about
        self.names = self.votes.legend.names if whole else ()
        self._mask = self.map.band("mask") if self.map else None
        self._doubt = self.map.band("uncertainty") if self.map else None
        self.undecided = self.map is not None and self._mask is not None and self.map.legend.undecided
        self.expectation = expectation(self.map or self.votes)

    def __enter__(self) -> Totals:
        return self

    def __exit__(self, *_: object) -> None:
        self.votes.file.close()
        if self.map is not None:
            self.map.file.close()

    def sums(self, found: Edges, count: int) -> np.ndarray:
        """Sum over the pixels of ``count`` places, in the order of ``_INSIDE`` … ``MASKS`` and what follows."""
        out = self._zeros(count)
        out[:, MASKS : MASKS + len(self.numbers)] = np.nan if self._mask is None else 0.0
        out[:, _UNDECIDED] = 0.0 if self.undecided else np.nan
        order = np.argsort(found.y0)
        tops, taken, active = found.y0[order], 0, np.empty(0, np.int64)
        for strip in strips(self.votes.geobox, max((1 << 20) // len(self.numbers), 1 << 16)):
            upto = int(np.searchsorted(tops, strip.y1))
            active = np.sort(np.concatenate([active[found.y1[active] > strip.y0], order[taken:upto]]))
            taken = upto
            self._add(out, found[active], strip)
        return out

    def _zeros(self, count: int) -> np.ndarray:
        return np.zeros((count, MASKS + len(self.numbers) * (1 + self.votes.samples)))

    def _add(self, out: np.ndarray, found: Edges, strip: Roi) -> None:
        """Add the pixels of one strip, reading no more columns than there are places."""
        if not len(found):
            return
        left = max(int(np.floor(min(found.x0.min(), found.x1.min()))), 0)
        right = min(int(np.ceil(max(found.x0.max(), found.x1.max()))), strip.x1)
        if left >= right:
            return
        roi = Roi(strip.y0, strip.y1, left, right)
        layers = self._read(roi)
        for part in coverage(found, roi.y0, roi.y1, left, right):
            out[part.owners] += self._measure(layers, part)

    def _read(self, roi: Roi) -> _Strip:
        votes, (valid, *_) = zip(*(self.votes.votes(roi, number) for number in self.numbers), strict=True)
        rows = Roi(roi.y0, roi.y1, 0, self.votes.geobox.shape[1])  # whole: PROJ's rounding goes by where it is asked
        area = np.broadcast_to(pixel_areas(self.votes.geobox, rows), rows.shape)[:, roi.x0 : roi.x1]
        said, doubt = np.full(roi.shape, NOT_CLASSIFIED, np.uint8), None
        if self.map is not None and self._mask is not None:
            mask = self.map.read(self._mask, roi)
            said = np.where(np.ma.getmaskarray(mask), NOT_CLASSIFIED, mask.data).astype(np.uint8)
        if self.map is not None and self._doubt is not None:
            doubt = self.map.read(self._doubt, roi)
        planes = tuple(plane.ravel() for plane in votes)
        return _Strip(roi, area.ravel(), planes, valid.ravel(), said.ravel(), doubt)

    def _measure(self, strip: _Strip, part: Coverage) -> np.ndarray:
        """Sum over the pixels of each of a few places; only the first two count what is not classified."""
        count = len(part.owners)
        out = self._zeros(count)
        pixel = (part.row - strip.roi.y0) * strip.roi.shape[1] + part.column - strip.roi.x0
        weight = part.share * strip.area[pixel]
        out[:, _INSIDE] = np.bincount(part.polygon, part.share, count)
        out[:, _GROUND] = np.bincount(part.polygon, weight, count)
        valid = strip.valid[pixel]
        polygon, pixel, weight = part.polygon[valid], pixel[valid], weight[valid]
        out[:, _VALID] = np.bincount(polygon, weight, count)
        said = strip.mask[pixel]
        for column, value in ((_UNDECIDED, UNDECIDED), *enumerate(self.numbers, MASKS)):
            here = said == value
            out[:, column] = np.bincount(polygon[here], weight[here], count)
        if self.map is not None and strip.doubt is not None and self._doubt is not None:
            known = ~np.ma.getmaskarray(strip.doubt).ravel()[pixel]
            values = strip.doubt.data.ravel()[pixel[known]] * self.map.file.scales[self._doubt - 1]
            out[:, _DOUBT] = np.bincount(polygon[known], weight[known] * values, count)
            out[:, _DOUBTED] = np.bincount(polygon[known], weight[known], count)
        for areas, votes in zip(by_sample(out, len(self.numbers)), strip.votes, strict=True):  # views into ``out``
            areas[:] = sums(votes[pixel], weight, polygon, count, self.votes.samples)
        return out


@dataclass(frozen=True)
class _Strip:
    """Pixels of ``roi``, one after the other: area, votes a class, whether valid, what the mask says; uncertainty."""

    roi: Roi
    area: np.ndarray
    votes: tuple[np.ndarray, ...]
    valid: np.ndarray
    mask: np.ndarray
    doubt: np.ma.MaskedArray | None
