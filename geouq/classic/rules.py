"""Rules that call a pixel a class by its own values: thresholds, Otsu's threshold, k-means.

Each is fitted on the whole scene, block by block, and then applied to each pixel by itself, so that no blocks show.
Letters in shape comments: K bands, H rows, W columns, N pixels, R regions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from geouq.errors import InputError

#: cells of the histogram that Otsu's threshold is taken from: it is exact up to the width of one
CELLS = 4096
#: pixels that k-means is fitted on, at most, on a lattice over the scene
FIT = 20_000

#: what gives the scene anew each time: its blocks' values (K, H, W), NaN where not valid
Blocks = Callable[[], Iterable[np.ndarray]]


@dataclass(frozen=True)
class Threshold:
    """Values of the first band below ``level`` (or from it on, ``above``) are class 1, others class 0."""

    level: float
    above: bool = False

    def apply(self, values: np.ndarray) -> np.ndarray:
        """(K, H, W) → class indices (H, W)."""
        below = values[0] < self.level
        return np.asarray(~below if self.above else below, np.uint8)


@dataclass(frozen=True)
class Levels:
    """Between ``levels`` of the first band, in ascending order, lie the classes, from dark to bright."""

    levels: tuple[float, ...]

    def apply(self, values: np.ndarray) -> np.ndarray:
        """(K, H, W) → class indices (H, W)."""
        return np.asarray(np.searchsorted(self.levels, np.nan_to_num(values[0]), side="right"), np.uint8)


@dataclass(frozen=True)
class Nearest:
    """The class of a pixel is the centre it is nearest to, bands divided by ``scale``; ``centres`` : (R, K)."""

    centres: np.ndarray
    scale: np.ndarray

    def apply(self, values: np.ndarray) -> np.ndarray:
        """(K, H, W) → class indices (H, W)."""
        return np.asarray(np.argmin(np.nan_to_num(self.distances(values)), axis=0), np.uint8)

    def distances(self, values: np.ndarray) -> np.ndarray:
        """(K, H, W) → squared distance to each centre, (R, H, W)."""
        return np.stack([(((values.T - centre) / self.scale) ** 2).sum(-1).T for centre in self.centres])


def otsu(blocks: Blocks, above: bool = False) -> Threshold:
    """Return the threshold of the first band with the largest variance between its two classes (Otsu 1979).

    doi 10.1109/TSMC.1979.4310076.

    Raises
    ------
    InputError : the band has not two values.
    """
    count, edges = _histogram(blocks)
    middle = (edges[1:] + edges[:-1]) / 2
    below, sums = np.cumsum(count)[:-1], np.cumsum(count * middle)[:-1]
    total, whole = count.sum(), (count * middle).sum()
    between = (whole * below - total * sums) ** 2 / np.maximum(below * (total - below), 1)  # · total²: the same argmax
    best = np.flatnonzero(between == between.max())
    return Threshold(float(edges[1 + int(best[len(best) // 2])]), above)  # the middle of a gap


def valleys(blocks: Blocks, regions: int, above: bool = False) -> Threshold | Levels:
    """Return thresholds of the first band in the valleys between the ``regions`` peaks of its histogram.

    The histogram is smoothed, more and more, until no more peaks are left (Prewitt and Mendelsohn 1966, doi
    10.1111/j.1749-6632.1965.tb11715.x); of two regions the result is a ``Threshold``.

    Raises
    ------
    InputError : the band has not two values, or its histogram never has so many peaks.
    """
    count, edges = _histogram(blocks)
    width, peaks, smooth = 2.0, np.empty(0, np.int64), count
    while width < CELLS:
        found = gaussian_filter1d(count, width, mode="constant")
        inner = np.pad(found, 1)
        here = np.flatnonzero((found > inner[:-2]) & (found >= inner[2:]) & (found > 1e-9 * found.max()))
        if len(here) < regions:
            break
        peaks, smooth = here, found
        if len(peaks) == regions:
            break
        width *= 1.1
    if len(peaks) < regions:
        raise InputError(f"the histogram of the band never has {regions} peaks: ask for fewer regions")
    peaks = np.sort(peaks[np.argsort(-smooth[peaks], kind="stable")[:regions]])  # two may go at once: the highest stay
    lows = [int(a + smooth[a:b].argmin()) for a, b in zip(peaks, peaks[1:], strict=False)]
    levels = tuple(float((edges[low] + edges[low + 1]) / 2) for low in lows)
    return Threshold(levels[0], above) if regions == 2 else Levels(levels)


def _histogram(blocks: Blocks) -> tuple[np.ndarray, np.ndarray]:
    """Return counts and edges of ``CELLS`` cells over the values of the first band; refuse a band without two."""
    low, high = np.inf, -np.inf
    for values in blocks():
        known = values[0][np.isfinite(values[0])]
        low, high = min(low, known.min(initial=np.inf)), max(high, known.max(initial=-np.inf))
    if not low < high:
        raise InputError("the band has no two values that are valid: there is nothing to divide")
    edges = np.linspace(low, high, CELLS + 1)
    count = np.zeros(CELLS)
    for values in blocks():
        count += np.histogram(values[0][np.isfinite(values[0])], edges)[0]
    return count, edges


def kmeans(pixels: np.ndarray, regions: int, above: bool = False, bands: int | None = None) -> Nearest:
    """Return the centres that pixels (N, K) gather around (Lloyd 1982, doi 10.1109/TIT.1982.1056489).

    Bands count by their standard deviations. It starts from quantiles along the first principal axis, so that the same
    pixels give the same centres. Of two regions the darker one is class 1 (the brighter one, ``above``), of more they
    go from dark to bright, by the mean over bands (the first ``bands`` of what describes a pixel).

    Raises
    ------
    InputError : fewer pixels than regions.
    """
    if len(np.unique(pixels, axis=0)) < regions:
        raise InputError(f"the scene has fewer different pixels than {regions} regions: ask for fewer")
    scale = np.maximum(pixels.std(0), 1e-12)
    scaled = (pixels - pixels.mean(0)) / scale
    axis = np.linalg.svd(scaled, full_matrices=False)[2][0]
    order = scaled[np.argsort(scaled @ axis, kind="stable")]
    centres = order[((np.arange(regions) + 0.5) / regions * len(order)).astype(int)]  # (R, K)
    for _ in range(100):
        nearest = ((scaled[:, None] - centres) ** 2).sum(-1).argmin(1)  # (N,)
        moved = np.stack([scaled[nearest == r].mean(0) if (nearest == r).any() else centres[r] for r in range(regions)])
        if np.array_equal(moved, centres):
            break
        centres = moved
    dark_first = centres[np.argsort(centres[:, :bands].mean(1), kind="stable")]
    ordered = dark_first[::-1] if regions == 2 and not above else dark_first
    return Nearest(ordered * scale + pixels.mean(0), scale)
