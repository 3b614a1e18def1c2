"""Methods that call whole regions a class, not pixels: from edges, by growing, by splitting and merging.

Which classes there are comes from the whole scene (geouq.classic.rules.kmeans); where regions begin and end is seen in
a window. A pixel is *sure* of its class where it is nearer to its centre than half of the class' pixels are.

Letters in shape comments: K bands, H rows, W columns, R classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import distance_transform_edt, label, sobel
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from geouq.classic.rules import Nearest
from geouq.errors import InputError

try:
    from skimage.segmentation import watershed
except ImportError:  # an extra: only edges need it
    watershed = None  # type: ignore[assignment]

#: pixels around a core that regions may reach into
REACH = 64
#: of blocks: the largest and smallest side; in standard deviations of a band, the spread above which a block is split,
#: and the difference of means below which neighbours are merged
LARGEST, SMALLEST, SPREAD, STEP = 64, 4, 0.4, 0.15


@dataclass(frozen=True)
class Regional:
    """One of the methods: ``nearest`` names the classes, ``sure`` (R,) is how near a sure pixel is to its centre."""

    method: str
    nearest: Nearest
    sure: np.ndarray

    def apply(self, values: np.ndarray) -> np.ndarray:
        """(K, H, W), NaN where not valid → class indices (H, W), of no account where not valid."""
        return {"edges": edges, "region-growing": growing, "split-merge": split_merge}[self.method](self, values)


def check_method(method: str) -> None:
    """Raise InputError for a method whose library is not there."""
    if method == "edges" and watershed is None:
        raise InputError("edges need scikit-image: pip install 'geouq[classic]'")


def edges(rule: Regional, values: np.ndarray) -> np.ndarray:
    """Flood the height of edges (Sobel) from sure pixels (Meyer 1994, doi 10.1016/0165-1684(94)90060-4)."""
    valid = np.isfinite(values).all(0)
    chosen, sure = _sure(rule, values, valid)
    scaled = np.where(valid, values, rule.nearest.centres.mean(0)[:, None, None]) / rule.nearest.scale[:, None, None]
    height = np.sqrt(sum(sobel(band, axis) ** 2 for band in scaled for axis in (0, 1)))
    found = watershed(height, np.where(sure, chosen + 1, 0), mask=valid)
    return np.where(found > 0, found - 1, chosen).astype(np.uint8)


def growing(rule: Regional, values: np.ndarray) -> np.ndarray:
    """Grow regions from sure pixels to all connected ones of the class; what none reaches goes to the nearest region.

    Adams and Bischof 1994, doi 10.1109/34.295913, in its plainest form.
    """
    valid = np.isfinite(values).all(0)
    chosen, sure = _sure(rule, values, valid)
    reached = np.zeros(valid.shape, bool)
    for number in range(len(rule.sure)):
        parts, count = label((chosen == number) & valid)
        grown = np.zeros(count + 1, bool)
        grown[np.unique(parts[sure & (chosen == number)])] = True
        grown[0] = False
        reached |= grown[parts]
    if not reached.any():
        return chosen
    rows, columns = distance_transform_edt(~reached, return_distances=False, return_indices=True)
    return np.asarray(chosen[rows, columns])


def split_merge(rule: Regional, values: np.ndarray) -> np.ndarray:
    """Split blocks into quarters while they vary, merge neighbours that are alike, and call regions by their means.

    Horowitz and Pavlidis 1976, doi 10.1145/321941.321956. The core of a window begins on the grid of blocks.
    """
    rows, columns = values.shape[1:]
    padding = [(0, 0), (0, -rows % LARGEST), (0, -columns % LARGEST)]
    scaled = np.pad(values / rule.nearest.scale[:, None, None], padding, constant_values=np.nan)
    blocks = _split(scaled)
    count = int(blocks.max()) + 1
    known = np.isfinite(scaled).all(0)
    owner, pixels = blocks[known], np.bincount(blocks[known], minlength=count)
    means = np.stack([np.bincount(owner, band[known], count) for band in scaled]) / np.maximum(pixels, 1)  # (K, blocks)
    merged = _merge(blocks, means, pixels > 0)
    regions = int(merged.max()) + 1
    weight = np.bincount(merged, pixels, regions)
    of_region = np.stack([np.bincount(merged, band * pixels, regions) for band in means]) / np.maximum(weight, 1)
    classes = rule.nearest.apply((of_region * rule.nearest.scale[:, None])[..., None])[
        :, 0
    ]  # (K, regions, 1) → (regions,)
    return np.asarray(classes[merged][blocks][:rows, :columns])


def _sure(rule: Regional, values: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each pixel's nearest class, (H, W), and where it is sure of it."""
    chosen = rule.nearest.apply(values)
    away = np.sqrt(rule.nearest.distances(values).min(0))
    return chosen, valid & (away <= rule.sure[chosen])


def _split(scaled: np.ndarray) -> np.ndarray:
    """Return the number of the block that each pixel is in, (H, W), from 0; sides are multiples of ``LARGEST``."""
    rows, columns = scaled.shape[1:]
    known = np.isfinite(scaled).all(0)
    filled, blocks = np.where(known, scaled, 0).astype(np.float64), np.full((rows, columns), -1, np.int64)
    first, side = 0, LARGEST
    while side >= SMALLEST:
        count = np.maximum(_by_block(known.astype(np.float64), side), 1)
        variance = [_by_block(b**2, side) / count - (_by_block(b, side) / count) ** 2 for b in filled]
        alike = np.max(variance, axis=0) <= SPREAD**2 if side > SMALLEST else np.ones(count.shape, bool)
        numbers = first + np.arange(count.size).reshape(count.shape)
        first += count.size
        whole = np.repeat(np.repeat(np.where(alike, numbers, -1), side, 0), side, 1)
        blocks = np.where(blocks < 0, whole, blocks)
        side //= 2
    return np.unique(blocks, return_inverse=True)[1].reshape(rows, columns)


def _by_block(values: np.ndarray, side: int) -> np.ndarray:
    rows, columns = values.shape
    return np.asarray(values.reshape(rows // side, side, columns // side, side).sum((1, 3)))


def _merge(blocks: np.ndarray, means: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the region of each block: neighbours whose means differ by less than ``STEP`` are one."""
    pairs = np.concatenate(
        [
            np.stack([blocks[:, 1:].ravel(), blocks[:, :-1].ravel()]),
            np.stack([blocks[1:].ravel(), blocks[:-1].ravel()]),
        ],
        axis=1,
    )
    pairs = np.unique(pairs[:, pairs[0] != pairs[1]], axis=1)
    away = np.sqrt(((means[:, pairs[0]] - means[:, pairs[1]]) ** 2).mean(0))
    a, b = pairs[:, (away < STEP) & known[pairs[0]] & known[pairs[1]]]
    graph = csr_array((np.ones(len(a), np.int8), (a, b)), shape=(len(known),) * 2)
    return np.asarray(connected_components(graph, directed=False)[1])
