"""Do samples differ as raters do? Scores of a set of maps against a set of labels, streamed.

The distance of two maps is d = 1 − the mean over foreground classes of their IoU (1 where both are empty, 0 where one
is). The generalised energy distance compares the two sets: GED² = 2·E d(s, y) − E d(s, s') − E d(y, y') (Székely and
Rizzo 2013, doi 10.1016/j.jspi.2013.03.018; for segmentation Kohl et al. 2018, arXiv 1806.05034). Monteiro et al. 2020
(arXiv 2006.06015) take each mean over all ordered pairs, those of a map with itself included: biased, and smaller the
more samples there are, so it is told with their number. Without the pairs of equals it is unbiased.
"""

from __future__ import annotations

import numpy as np


class Agreement:
    """Counts of pixels shared by each pair of maps, samples and raters alike; ``add`` tile by tile."""

    def __init__(self, samples: int, raters: int, classes: int = 2) -> None:
        self.samples, self.raters = samples, raters
        maps = samples + 1 + raters  # the one in between is the map itself
        self.shared = np.zeros((classes - 1, maps, maps))

    def add(self, samples: np.ndarray, mask: np.ndarray, raters: np.ndarray) -> None:
        """Add class indices of some pixels: samples (S, n), the map (n,), raters (M, n); 0 is the background."""
        maps = np.concatenate([samples, mask[None], raters])
        for number in range(len(self.shared)):
            for part in np.array_split(maps == number + 1, -(-maps.shape[1] // 65536) or 1, axis=1):
                one = part.astype(np.float32)  # sums of 65536 ones are exact
                self.shared[number] += one @ one.T

    def distances(self) -> np.ndarray:
        """Return d between all maps, (S + 1 + M, S + 1 + M): samples, the map itself, raters."""
        own = np.diagonal(self.shared, axis1=1, axis2=2)
        union = own[:, :, None] + own[:, None, :] - self.shared
        iou = np.where(union > 0, self.shared / np.maximum(union, 1), 1.0)
        return np.asarray(1 - iou.mean(0))

    def scores(self) -> dict[str, float]:
        """Return ``ged`` (biased), ``ged_unbiased``, ``diversity`` (E d(s, s'), biased) and ``dice_raters``.

        ``dice_raters`` is the mean over raters of the map's Dice, those left out where both are empty (NaN if all are).
        """
        d, s = self.distances(), self.samples
        across, among, between = d[:s, s + 1 :].mean(), d[:s, :s], d[s + 1 :, s + 1 :]
        unbiased = 2 * across - _off_diagonal(among) - (_off_diagonal(between) if self.raters > 1 else 0.0)
        return {
            "ged": float(2 * across - among.mean() - between.mean()),
            "ged_unbiased": float(unbiased),
            "diversity": float(among.mean()),
            "dice_raters": self._dice(),
        }

    def _dice(self) -> float:
        own, s = np.diagonal(self.shared, axis1=1, axis2=2), self.samples
        size = own[:, s, None] + own[:, s + 1 :]
        with np.errstate(invalid="ignore", divide="ignore"):
            dice = 2 * self.shared[:, s, s + 1 :] / size
        return float(np.nanmean(dice)) if np.isfinite(dice).any() else float("nan")


def _off_diagonal(d: np.ndarray) -> float:
    n = len(d)
    return float(d.sum() / (n * (n - 1))) if n > 1 else float("nan")
