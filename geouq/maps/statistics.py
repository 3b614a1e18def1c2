"""Exact statistics of a map's bands, as GDAL names them: what QGIS and gdalinfo would else estimate from overviews."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from geouq.layers import NOT_CLASSIFIED, UNDECIDED
from geouq.maps.bands import MapBand


class Moments:
    """Least, most, mean and standard deviation of all values added, in float64 (Chan, Golub and LeVeque 1983)."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0  # squares: sum of (value - mean)²
        self.least, self.most = math.inf, -math.inf

    def add(self, values: np.ndarray, counts: np.ndarray | int = 1) -> None:
        """Add values (n,), each as often as ``counts`` (n,) says."""
        if not values.size:
            return
        values = values.astype(np.float64)
        weights = np.broadcast_to(np.asarray(counts, np.float64), values.shape)
        count = int(weights.sum())
        mean = float((values * weights).sum() / count)
        squares = float(((values - mean) ** 2 * weights).sum())
        total, step = self.count + count, mean - self.mean
        self.squares += squares + step**2 * self.count * count / total
        self.mean += step * count / total
        self.count = total
        self.least, self.most = min(self.least, float(values.min())), max(self.most, float(values.max()))

    def tags(self) -> dict[str, str]:
        """Return them as GDAL's metadata of a band; nothing where no value was added."""
        if not self.count:
            return {}
        values = (self.least, self.most, self.mean, math.sqrt(self.squares / self.count))
        names = ("MINIMUM", "MAXIMUM", "MEAN", "STDDEV")
        return {f"STATISTICS_{name}": f"{value:.14g}" for name, value in zip(names, values, strict=True)}


def band_statistics(blocks: Iterable[np.ndarray], bands: Sequence[MapBand]) -> list[dict[str, str]]:
    """Return the statistics of each band over its valid pixels, in the units stored; of a mask, over its classes.

    Parameters
    ----------
    blocks : (bands, rows, columns) each, uint8 with 255 = not classified, or floats with NaN; together all pixels.
    """
    found = [Moments() for _ in bands]
    for block in blocks:
        for moments, plane, band in zip(found, block, bands, strict=True):
            if band.kind == "class":
                plane = plane[plane != UNDECIDED]
            if plane.dtype == np.uint8:
                counts = np.bincount(plane.ravel(), minlength=NOT_CLASSIFIED + 1)[:NOT_CLASSIFIED]
                values = np.flatnonzero(counts)
                moments.add(values, counts[values])
            else:
                moments.add(plane[~np.isnan(plane)])
    return [moments.tags() for moments in found]
