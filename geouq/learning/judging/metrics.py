"""Scores of a map and of its doubt, as sums that can be streamed chip by chip.

Each class is fed arrays of any shape and keeps only counts, so that a continent needs no more memory than a chip.
Only pixels the caller calls valid count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import digamma

from geouq.scores.confusion import ratio

#: Cells of the streaming histograms over 0..1; calibration and risk–coverage are exact up to one cell's width.
CELLS = 10_000


@dataclass
class Calibration:
    """How far probabilities of the positive class are from observed frequencies.

    Brier score and negative log-likelihood (natural log, probabilities clipped at 1e-7) are exact; the expected
    calibration error comes from a histogram of :data:`CELLS` cells that keeps count, Σp and Σlabel of each.
    """

    count: np.ndarray = field(default_factory=lambda: np.zeros(CELLS))
    probability: np.ndarray = field(default_factory=lambda: np.zeros(CELLS))
    positives: np.ndarray = field(default_factory=lambda: np.zeros(CELLS))
    _brier: float = 0.0
    _nll: float = 0.0

    def add(self, probability: np.ndarray, label: np.ndarray, valid: np.ndarray | None = None) -> Calibration:
        """Add one map of positive-class probabilities (0..1) and its 0/1 label, and return self."""
        keep = np.ones(np.shape(label), bool) if valid is None else valid
        p, y = np.asarray(probability, float)[keep], (np.asarray(label)[keep] == 1).astype(float)
        cell = _cells(p)
        self.count += np.bincount(cell, minlength=CELLS)
        self.probability += np.bincount(cell, p, CELLS)
        self.positives += np.bincount(cell, y, CELLS)
        self._brier += float(((p - y) ** 2).sum())
        safe = np.clip(p, 1e-7, 1 - 1e-7)
        self._nll -= float((y * np.log(safe) + (1 - y) * np.log1p(-safe)).sum())
        return self

    @property
    def brier(self) -> float:
        """Mean squared difference of probability and label (Brier 1950)."""
        return ratio(self._brier, self.count.sum())

    @property
    def nll(self) -> float:
        """Mean negative log-likelihood in nats."""
        return ratio(self._nll, self.count.sum())

    def reliability(self, bins: int = 15, equal_mass: bool = True) -> np.ndarray:
        """Return the reliability table, (bins, 3): share of the pixels, mean probability, observed frequency.

        Bins hold equally many pixels, or are equally wide. A histogram cell on the border of two bins of equal mass is
        shared between them in proportion. Empty bins are (0, NaN, NaN).
        """
        total = self.count.sum()
        ends = np.cumsum(self.count)
        if equal_mass:
            edges = np.linspace(0, total, bins + 1)
            sums = [np.interp(edges, np.r_[0, ends], np.r_[0, np.cumsum(v)]) for v in self._columns()]
        else:
            at = np.round(np.linspace(0, CELLS, bins + 1)).astype(int)
            sums = [np.r_[0, np.cumsum(v)][at] for v in self._columns()]
        count, probability, positives = (np.diff(v) for v in sums)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.stack([count / total, probability / count, positives / count], axis=1)

    def ece(self, bins: int = 15, equal_mass: bool = True) -> float:
        """Expected calibration error: Σ share · |mean probability − observed frequency| (Naeini et al. 2015).

        NaN of nothing.
        """
        share, probability, frequency = self.reliability(bins, equal_mass).T
        return float(np.nansum(share * np.abs(probability - frequency))) if self.count.any() else float("nan")

    def _columns(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.count, self.probability, self.positives


@dataclass
class RiskCoverage:
    """Risk–coverage: the error rate among the most certain share of pixels, as that share grows (Geifman 2017)."""

    count: np.ndarray = field(default_factory=lambda: np.zeros(CELLS))
    errors: np.ndarray = field(default_factory=lambda: np.zeros(CELLS))

    def add(self, uncertainty: np.ndarray, wrong: np.ndarray, valid: np.ndarray | None = None) -> RiskCoverage:
        """Add one map of uncertainties (0..1) and where the map is wrong (bool), and return self."""
        keep = np.ones(np.shape(wrong), bool) if valid is None else valid
        cell = _cells(np.asarray(uncertainty)[keep])
        self.count += np.bincount(cell, minlength=CELLS)
        self.errors += np.bincount(cell, np.asarray(wrong)[keep].astype(float), CELLS)
        return self

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Return coverage (0..1) and risk (0..1) at the end of each non-empty cell."""
        used = self.count > 0
        count, errors = np.cumsum(self.count[used]), np.cumsum(self.errors[used])
        return count / self.count.sum(), errors / count

    @property
    def aurc(self) -> float:
        """Mean risk over all coverages, pixels of one cell taken in random order (its expectation, in closed form).

        Within a cell of n pixels and e errors, after N pixels and E errors, the k-th pixel is met at the expected risk
        (E + k·e/n)/(N + k); summed over k this is e + (E − N·e/n)·(H(N+n) − H(N)), with harmonic numbers H.
        """
        used = self.count > 0
        n, e = self.count[used], self.errors[used]
        before, wrong = np.cumsum(n) - n, np.cumsum(e) - e
        harmonic = digamma(before + n + 1) - digamma(before + 1)
        return ratio(float((e + (wrong - before * e / n) * harmonic).sum()), n.sum())


@dataclass
class ProperScores:
    """Brier score and negative log-likelihood of class probabilities, two classes or more.

    The Brier score is the sum over classes of squared differences (Brier 1950); for two classes that is twice the mean
    squared difference of :class:`Calibration`.
    """

    count: int = 0
    _brier: float = 0.0
    _nll: float = 0.0

    def add(self, probabilities: np.ndarray, label: np.ndarray, valid: np.ndarray | None = None) -> ProperScores:
        """Add class probabilities (C, …) and class indices (…), and return self."""
        keep = np.ones(np.shape(label), bool) if valid is None else valid
        p, y = np.asarray(probabilities, float)[:, keep], np.asarray(label)[keep].astype(int)
        right = p[y, np.arange(len(y))]
        self.count += len(y)
        self._brier += float(((p**2).sum(0) - 2 * right + 1).sum())
        self._nll -= float(np.log(np.clip(right, 1e-7, 1 - 1e-7)).sum())
        return self

    @property
    def brier(self) -> float:
        """Mean over pixels of Σ_c (p_c − y_c)², 0..2."""
        return ratio(self._brier, self.count)

    @property
    def nll(self) -> float:
        """Mean negative log-likelihood of the label's class, in nats."""
        return ratio(self._nll, self.count)


def precision_recall(scores: RiskCoverage) -> tuple[np.ndarray, np.ndarray]:
    """Return recall and precision of finding errors by "uncertainty above u", u falling from cell to cell.

    What counts as an error is what was added as ``wrong``; pixels of one cell are taken together.
    """
    used = (scores.count > 0)[::-1]
    found, taken = np.cumsum(scores.errors[::-1][used]), np.cumsum(scores.count[::-1][used])
    with np.errstate(invalid="ignore"):
        return found / scores.errors.sum(), found / taken


def average_precision(scores: RiskCoverage) -> float:
    """Return Σ (gain in recall) · precision over :func:`precision_recall`; chance is the share of errors."""
    recall, precision = precision_recall(scores)
    return float((np.diff(recall, prepend=0) * precision).sum()) if scores.errors.sum() else float("nan")


def auroc(scores: RiskCoverage) -> float:
    """Return the probability that an error is more uncertain than a right pixel, ties counted half (0.5 = chance)."""
    right = scores.count - scores.errors
    below = np.cumsum(right) - right
    return ratio(float((scores.errors * (below + right / 2)).sum()), float(scores.errors.sum() * right.sum()))


def place_means(places: Sequence[str], values: np.ndarray) -> np.ndarray:
    """Return the mean of values (n, …) in which every place weighs the same, however many of the n are of it."""
    _, at, count = np.unique(np.asarray(places), return_inverse=True, return_counts=True)
    return np.asarray(np.average(np.asarray(values, np.float64), axis=0, weights=1 / count[at]))


def binary_entropy(probability: np.ndarray) -> np.ndarray:
    """Return the entropy of a two-class probability over ln 2: 0 = certain, 1 = undecided."""
    p = np.clip(np.asarray(probability, float), 1e-12, 1 - 1e-12)
    return np.asarray(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)))


def _cells(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip((values * CELLS).astype(int), 0, CELLS - 1))
