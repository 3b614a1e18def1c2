"""Overviews of a mask: each level from the map's own pixels, so that no class gains or loses from level to level.

The mode of modes, ties going to water, shows 25 % of water at 1:64 where the map has 17 %. Here a pixel of a level is
judged by all the valid pixels that it covers. With two classes it shows the positive one where that one's share of
them reaches a cut, and each level's cut is the one by which it shows as much of the positive class as the map has (its
histogram is matched): narrow rivers last where wide ones do. Of the pixels whose share is at the cut, an even pattern
shows as many as are due. Where it does not show the positive class, it shows "undecided" if that has the larger part
of the rest. With more classes a pixel shows the most frequent one, the lowest on a tie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from geouq.grid import Roi, pieces
from geouq.layers import NOT_CLASSIFIED, UNDECIDED, Legend, mask_of_two

#: pixels a side that are read at a time, at least; steps of a share
WINDOW, STEPS = 2048, 4096

Read = Callable[[Roi], np.ndarray]


def mask_levels(
    read: Read, shape: tuple[int, int], levels: int, legend: Legend
) -> Iterator[tuple[int, Roi, np.ndarray]]:
    """Yield (level from 1, where in it, class indices with 255) of all parts of all levels.

    Parameters
    ----------
    read : gives a window of the mask, (rows, columns), class indices with 255.
    shape : rows and columns of the mask. Level k has 2**k times fewer, rounded up.
    """
    side = max(WINDOW, 1 << levels)
    windows = list(pieces(shape, side, side))
    cuts = _cuts(read, windows, levels, legend) if len(legend.names) == 2 else ()
    for window in windows:
        mask = read(window)
        shown = _by_cut(mask, cuts, legend, window) if cuts else _by_mode(mask, levels, len(legend.names))
        for level, plane in enumerate(shown, 1):
            y, x = window.y0 >> level, window.x0 >> level
            yield level, Roi(y, y + plane.shape[0], x, x + plane.shape[1]), plane


def _sums(chosen: np.ndarray, levels: int) -> Iterator[np.ndarray]:
    """Yield how many pixels are chosen under each pixel of each level, int64, from (rows, columns) bool."""
    below = chosen.astype(np.uint8)
    for level in range(1, levels + 1):
        padded = np.pad(below, [(0, n % 2) for n in below.shape])
        kind = np.uint8 if level < 4 else np.int64  # 4³ = 64 pixels fit a byte
        below = sum(padded[y::2, x::2].astype(kind) for y in (0, 1) for x in (0, 1))  # type: ignore[assignment]
        yield below.astype(np.int64)


def _steps(mask: np.ndarray, levels: int, positive: int) -> Iterator[np.ndarray]:
    """Yield the positive class's share of the valid pixels in steps, 0 … STEPS, or −1 where none is valid."""
    pairs = zip(_sums(mask == positive, levels), _sums(mask != NOT_CLASSIFIED, levels), strict=True)
    for chosen, valid in pairs:
        yield np.where(valid > 0, chosen * STEPS // np.maximum(valid, 1), -1)


def _cuts(read: Read, windows: Sequence[Roi], levels: int, legend: Legend) -> tuple[float, ...]:
    """Return each level's cut, in steps: the one by which as large a share of it is positive as of the mask.

    Its fraction is the part of the pixels at the cut that is not shown.
    """
    histograms = np.zeros((levels, STEPS + 2), np.int64)  # of −1 … STEPS
    chosen = valid = 0
    for window in windows:
        mask = read(window)
        chosen, valid = chosen + int((mask == legend.positive).sum()), valid + int((mask != NOT_CLASSIFIED).sum())
        for histogram, steps in zip(histograms, _steps(mask, levels, legend.positive), strict=True):
            histogram += np.bincount(steps.ravel() + 1, minlength=STEPS + 2)
    reached = np.cumsum(histograms[:, ::-1], axis=1)[:, ::-1]  # [level, s + 1]: pixels of s steps or more
    wanted = reached[:, 1] * chosen / max(valid, 1)
    cuts = []
    for least, due in zip(reached, wanted, strict=True):
        step = max(int((least[1:] >= due).sum()) - 1, 1)  # the highest that as many pixels as are due reach
        above = least[step + 2] if step < STEPS else 0
        due_here = (due - above) / max(least[step + 1] - above, 1)
        cuts.append(step + 1 - min(max(due_here, 0.0), 1.0))
    return tuple(cuts)


def _by_cut(mask: np.ndarray, cuts: Sequence[float], legend: Legend, window: Roi) -> Iterator[np.ndarray]:
    mostly = _mostly_undecided(mask, len(cuts), legend)
    for level, (steps, cut) in enumerate(zip(_steps(mask, len(cuts), legend.positive), cuts, strict=True), 1):
        corner = window.y0 >> level, window.x0 >> level
        chosen = steps + _pattern(steps.shape, corner) >= cut
        shown = np.where(steps >= 0, mask_of_two(chosen, legend.positive), NOT_CLASSIFIED).astype(np.uint8)
        shown[mostly[level - 1] & ~chosen & (steps >= 0)] = UNDECIDED
        yield shown


def _mostly_undecided(mask: np.ndarray, levels: int, legend: Legend) -> Sequence[np.ndarray | bool]:
    """Return of each level where more pixels are undecided than of the class that is not positive."""
    if not legend.undecided:
        return [False] * levels
    pairs = zip(_sums(mask == UNDECIDED, levels), _sums(mask == 1 - legend.positive, levels), strict=True)
    return [open_ > other for open_, other in pairs]


def _pattern(shape: tuple[int, ...], corner: tuple[int, int]) -> np.ndarray:
    """Return numbers in 0..1 that are spread evenly over any patch, by a pixel's position in its level.

    They follow the R2 sequence: Roberts 2018, The unreasonable effectiveness of quasirandom sequences.
    """
    y, x = (np.arange(start, start + n) for start, n in zip(corner, shape, strict=True))
    return np.asarray((0.7548776662466927 * y[:, None] + 0.5698402909980532 * x) % 1)


def _by_mode(mask: np.ndarray, levels: int, classes: int) -> Iterator[np.ndarray]:
    first = [np.full(count.shape, NOT_CLASSIFIED, np.uint8) for count in _sums(mask == NOT_CLASSIFIED, levels)]
    most = [np.zeros(plane.shape, np.int64) for plane in first]
    for index in range(classes):
        for level, count in enumerate(_sums(mask == index, levels)):
            more = count > most[level]
            first[level][more], most[level][more] = index, count[more]
    yield from first
