"""The classical ways to map water without a trained model, as yardsticks: all for backscatter, where darker is water.

Each takes one band in dB, (rows, columns) with NaN where not valid, and returns where it says water (bool). They see
5-pixel means of linear power unless they say otherwise, since none of them copes with raw speckle. The work is
done by scikit-image and scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from skimage.filters import apply_hysteresis_threshold, sobel
from skimage.graph import cut_threshold, rag_mean_color
from skimage.segmentation import watershed
from sklearn.cluster import KMeans

from geouq.learning.judging.baselines import CANDIDATES, boxcar, otsu
from geouq.scores.confusion import Confusion

#: pixels that k-means is fitted on, at most; it is then applied to all
_FIT = 20_000
#: sides of boxcars that thresholds are tried after; 1 is raw
BOXCARS = (1, 3, 5, 7)


def otsu_raw(db: np.ndarray) -> np.ndarray:
    """Below Otsu's threshold of the raw band."""
    return db < otsu(db)


def otsu_smooth(db: np.ndarray) -> np.ndarray:
    """Below Otsu's threshold."""
    return otsu_raw(boxcar(db, 5))


def region_growing(db: np.ndarray) -> np.ndarray:
    """Grow from seeds, darker than the median of Otsu's dark class, to all connected pixels below Otsu's threshold."""
    smooth = boxcar(db, 5)
    level = otsu(smooth)
    dark = smooth[smooth < level]
    if not dark.size:
        return np.zeros(db.shape, bool)
    seed = float(np.median(dark))
    return np.asarray(apply_hysteresis_threshold(-np.nan_to_num(smooth, nan=np.inf), -level, -seed))


def split_and_merge(db: np.ndarray, spread: float = 1.5, step: float = 1.0, least: int = 4) -> np.ndarray:
    """Split into quarters while a block varies, merge neighbours alike, and call regions below Otsu's threshold water.

    ``spread``: standard deviation in dB above which a block is split, down to ``least`` pixels a side; ``step``: the
    difference of means in dB below which neighbours are merged (Horowitz and Pavlidis 1976, doi 10.1145/321941.321956).
    """
    smooth = boxcar(db, 5)
    level = otsu(smooth)
    filled = np.where(np.isfinite(smooth), smooth, level)
    blocks = np.zeros(db.shape, np.int32)
    for number, (rows, columns) in enumerate(_quarters(filled, spread, least)):
        blocks[rows, columns] = number
    if not blocks.any():  # one block, and no neighbours to merge it with
        return np.full(db.shape, bool(filled.mean() < level))
    graph = rag_mean_color(np.repeat(filled[..., None], 3, axis=2), blocks)
    merged = cut_threshold(blocks, graph, step * 3**0.5)  # the graph's distances are over three equal channels
    count = np.bincount(merged.ravel())
    mean = np.bincount(merged.ravel(), filled.ravel()) / np.maximum(count, 1)
    return np.asarray((mean < level)[merged])


def edge_based(db: np.ndarray) -> np.ndarray:
    """Flood Sobel edges from sure water and sure land, the darker and brighter halves of Otsu's two classes."""
    smooth = boxcar(db, 5)
    level = otsu(smooth)
    filled = np.where(np.isfinite(smooth), smooth, level)
    dark, bright = filled[filled < level], filled[filled > level]
    if not dark.size or not bright.size:
        return np.zeros(db.shape, bool)
    markers = np.where(filled < np.median(dark), 1, 0) + np.where(filled > np.median(bright), 2, 0)
    return np.asarray(watershed(sobel(filled), markers) == 1)


def k_means(bands: Sequence[np.ndarray]) -> np.ndarray:
    """Cluster the pixels of all bands in two (fixed seed), and call the darker cluster water."""
    smooth = np.stack([boxcar(band, 5) for band in bands], axis=-1)
    known = np.isfinite(smooth).all(-1)
    water = np.zeros(known.shape, bool)
    pixels = smooth[known]
    if len(np.unique(pixels[:_FIT], axis=0)) < 2:
        return water
    fit = KMeans(2, n_init=3, random_state=0).fit(pixels[:: max(1, len(pixels) // _FIT)])
    water[known] = fit.predict(pixels) == int(fit.cluster_centers_.mean(1).argmin())
    return water


#: methods that take one band
METHODS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Otsu": otsu_raw,
    "Otsu, 5 px boxcar": otsu_smooth,
    "region growing": region_growing,
    "split and merge": split_and_merge,
    "edge-based": edge_based,
}


@dataclass
class ThresholdCounts:
    """What every candidate threshold, band and boxcar would score, as counts that can be streamed and added up.

    ``hit``, ``false`` : (bands, boxcars, candidates), pixels below of water and of land. ``water``, ``dry`` : all.
    """

    bands: int
    hit: np.ndarray = field(init=False)
    false: np.ndarray = field(init=False)
    water: int = 0
    dry: int = 0

    def __post_init__(self) -> None:
        self.hit, self.false = np.zeros((2, self.bands, len(BOXCARS), len(CANDIDATES)), np.int64)

    def add(self, bands: Sequence[np.ndarray], label: np.ndarray, valid: np.ndarray) -> ThresholdCounts:
        """Count the valid pixels of bands in dB against a label (1 = water), and return self."""
        water = label[valid] == 1
        for b, band in enumerate(bands):
            for k, size in enumerate(BOXCARS):
                values = (band if size == 1 else boxcar(band, size))[valid]
                for counts, part in ((self.hit, values[water]), (self.false, values[~water])):
                    counts[b, k] += np.searchsorted(np.sort(part), CANDIDATES, side="left")
        self.water += int(water.sum())
        self.dry += int((~water).sum())
        return self

    def merge(self, other: ThresholdCounts) -> None:
        """Add the counts of other pixels to these."""
        self.hit += other.hit
        self.false += other.false
        self.water += other.water
        self.dry += other.dry

    def best(self, boxcars: slice = slice(None), bands: slice = slice(None)) -> tuple[int, int, int]:
        """Return (band, boxcar, candidate) indices of the highest IoU; where nothing is water, of the fewest errors."""
        goal = self.hit / (self.water + self.false) if self.water else -self.false.astype(float)
        goal = goal[bands, boxcars]
        b, k, t = np.unravel_index(int(goal.argmax()), goal.shape)
        return int(b) + (bands.start or 0), int(k) + (boxcars.start or 0), int(t)

    def confusion(self, choice: tuple[int, int, int]) -> Confusion:
        """Return the counts under one choice of band, boxcar and candidate."""
        hit, false = int(self.hit[choice]), int(self.false[choice])
        return Confusion(hit, false, self.water - hit, self.dry - false)


def maps(bands: Sequence[np.ndarray], names: Sequence[str]) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield (method, band, water) of every method on every band, and of k-means on all of them."""
    for name, band in zip(names, bands, strict=True):
        for method, segment in METHODS.items():
            enough = np.isfinite(band).any() and np.nanmin(band) < np.nanmax(band)
            yield method, name, segment(band) if enough else np.zeros(band.shape, bool)
    yield "k-means", "+".join(names), k_means(bands)


@dataclass
class Yardsticks:
    """What the classical methods and thresholds score, place by place, on the pixels that a model is scored on.

    ``found`` : (method, band) → place → counts. ``levels`` : place → counts of every threshold.
    """

    names: tuple[str, ...]
    found: dict[tuple[str, str], dict[str, Confusion]] = field(default_factory=dict)
    levels: dict[str, ThresholdCounts] = field(default_factory=dict)

    def add_window(self, place: str, bands: np.ndarray, label: np.ndarray, valid: np.ndarray) -> ThresholdCounts:
        """Score one window, bands (K, h, w) in dB; return its counts of thresholds."""
        for method, band, water in maps(list(bands), self.names):
            self._count(method, band, place).add(water, label, valid)
        counts = ThresholdCounts(len(self.names)).add(list(bands), label, valid)
        self.levels.setdefault(place, ThresholdCounts(len(self.names))).merge(counts)
        return counts

    def add_chip(self, place: str, counts: ThresholdCounts) -> None:
        """Score the best that one threshold could do for one chip, with hindsight."""
        of_place = self.found.setdefault(("best threshold of each chip, with hindsight", "any"), {})
        of_place[place] = of_place.get(place, Confusion()) + counts.confusion(counts.best())

    def results(self) -> Iterator[tuple[str, str, dict[str, Confusion]]]:
        """Yield (method, details, place → counts); methods of one band for the band that is best with hindsight."""
        pooled = ThresholdCounts(len(self.names))
        for counts in self.levels.values():
            pooled.merge(counts)
        for method, boxcars in (("one threshold, with hindsight", slice(0, 1)), ("… after a boxcar", slice(1, None))):
            choice = pooled.best(boxcars)
            details = f"{self.names[choice[0]]} < {CANDIDATES[choice[2]]:.1f} dB"
            details += f", {BOXCARS[choice[1]]} px" if choice[1] else ""
            yield method, details, {place: counts.confusion(choice) for place, counts in self.levels.items()}
        for method in dict.fromkeys(method for method, _ in self.found):
            of_bands = {band: found for (m, band), found in self.found.items() if m == method}
            band = max(of_bands, key=lambda b: np.nan_to_num(sum(of_bands[b].values(), Confusion()).iou))
            yield method, "" if band == "any" else band, of_bands[band]

    def _count(self, method: str, band: str, place: str) -> Confusion:
        return self.found.setdefault((method, band), {}).setdefault(place, Confusion())


def _quarters(values: np.ndarray, spread: float, least: int) -> Iterator[tuple[slice, slice]]:
    """Yield the blocks that a quadtree splits an array into."""
    todo = [(0, values.shape[0], 0, values.shape[1])]
    while todo:
        top, bottom, left, right = todo.pop()
        block = values[top:bottom, left:right]
        if min(block.shape) < 2 * least or block.std() <= spread:
            yield slice(top, bottom), slice(left, right)
            continue
        row, column = (top + bottom) // 2, (left + right) // 2
        todo += [(a, b, c, d) for a, b in ((top, row), (row, bottom)) for c, d in ((left, column), (column, right))]
