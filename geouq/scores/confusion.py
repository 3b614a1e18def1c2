"""Scores of a map of classes against a label, from the counts of pixels that are each pair of classes.

Each table is fed arrays of any shape and keeps only counts, so that a continent needs no more memory than a chip.
Only pixels the caller calls valid count.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from geouq.errors import InputError


@dataclass
class Confusion:
    """Counts of a binary map: true and false positives and negatives. Ratios of nothing are NaN."""

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0

    def add(self, predicted: np.ndarray, label: np.ndarray, valid: np.ndarray | None = None) -> Confusion:
        """Count the pixels of one map (bool or 0/1) against its label, and return self."""
        keep = np.ones(np.shape(label), bool) if valid is None else valid
        predicted, label = np.asarray(predicted)[keep] == 1, np.asarray(label)[keep] == 1
        self.tp += int((predicted & label).sum())
        self.fp += int((predicted & ~label).sum())
        self.fn += int((~predicted & label).sum())
        self.tn += int((~predicted & ~label).sum())
        return self

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)

    @property
    def accuracy(self) -> float:
        """(TP + TN) / all."""
        return ratio(self.tp + self.tn, self.tp + self.fp + self.fn + self.tn)

    @property
    def precision(self) -> float:
        """TP / (TP + FP)."""
        return ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """TP / (TP + FN)."""
        return ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN), also called Dice."""
        return ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def iou(self) -> float:
        """TP / (TP + FP + FN), also called Jaccard."""
        return ratio(self.tp, self.tp + self.fp + self.fn)

    @property
    def false_water(self) -> float:
        """FP / (FP + TN): the share of dry ground called water."""
        return ratio(self.fp, self.fp + self.tn)


@dataclass
class ConfusionMatrix:
    """Counts of a map of several classes: ``counts[truth, predicted]``. Ratios of nothing are NaN."""

    classes: int
    counts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros((self.classes, self.classes), np.int64)

    def add(self, predicted: np.ndarray, label: np.ndarray, valid: np.ndarray | None = None) -> ConfusionMatrix:
        """Count the pixels of one map of class indices against its label, and return self.

        Raises
        ------
        InputError : a value is no class index: it would count as another pair of classes.
        """
        keep = np.ones(np.shape(label), bool) if valid is None else valid
        truth, found = np.asarray(label)[keep].astype(np.int64), np.asarray(predicted)[keep].astype(np.int64)
        for what, values in (("label", truth), ("map", found)):
            if values.size and not 0 <= values.min() <= values.max() < self.classes:
                raise InputError(f"a {what} holds {values.min()} to {values.max()}: give 0 to {self.classes - 1}")
        cell = truth * self.classes + found
        self.counts += np.bincount(cell, minlength=self.classes**2).reshape(self.counts.shape)
        return self

    def one(self, positive: int) -> Confusion:
        """Return the counts of one class against all others."""
        hits, column, row = self.counts[positive, positive], self.counts[:, positive], self.counts[positive]
        rest = self.counts.sum() - column.sum() - row.sum() + hits
        return Confusion(int(hits), int(column.sum() - hits), int(row.sum() - hits), int(rest))

    @property
    def accuracy(self) -> float:
        """Share of pixels with the right class."""
        return ratio(float(np.trace(self.counts)), float(self.counts.sum()))

    @property
    def dice(self) -> float:
        """Mean Dice (F1) over the classes that occur, in label or map."""
        return mean([self.one(c).f1 for c in range(self.classes)])

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that occur, in label or map."""
        return mean([self.one(c).iou for c in range(self.classes)])


def ratio(part: float, whole: float) -> float:
    """Return part / whole, NaN of nothing."""
    return float(part / whole) if whole else float("nan")


def mean(values: list[float]) -> float:
    """Return the mean of those that are numbers, NaN if none is."""
    known = [v for v in values if np.isfinite(v)]
    return float(np.mean(known)) if known else float("nan")
