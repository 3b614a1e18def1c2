"""The sums that an evaluation streams its tiles into: scores of maps and of doubt, areas, and pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from geouq.grid import Roi
from geouq.layers import NOT_CLASSIFIED, area_interval, says
from geouq.learning.data.loading import UNLABELLED
from geouq.learning.judging.metrics import (
    Calibration,
    ProperScores,
    RiskCoverage,
    auroc,
    average_precision,
    precision_recall,
)
from geouq.scores.confusion import Confusion, ConfusionMatrix


@dataclass(frozen=True)
class Picture:
    """One chip as it is shown: (rows, columns) arrays, every so many pixels of a large one.

    bands, scene : names and pixels (K, rows, columns) in ``units``, K ≤ 3. label : class indices, -1 where none is
        given. mask : class indices, 255 where not valid. uncertainty : 0..1, NaN where not valid.
    """

    name: str
    units: str
    bands: tuple[str, ...]
    scene: np.ndarray
    label: np.ndarray
    mask: np.ndarray
    uncertainty: np.ndarray


@dataclass(frozen=True)
class LabelledPixels:
    """The valid, labelled pixels of a tile, (n,) each; ``probabilities`` is (C, n)."""

    label: np.ndarray
    mask: np.ndarray
    probabilities: np.ndarray
    uncertainty: np.ndarray


@dataclass
class Tally:
    """Sums from which the scores of a place, a dataset, or all data come."""

    classes: int
    positive: int
    matrix: ConfusionMatrix = field(init=False)
    calibration: Calibration = field(default_factory=Calibration)
    proper: ProperScores = field(default_factory=ProperScores)
    risk: RiskCoverage = field(default_factory=RiskCoverage)

    def __post_init__(self) -> None:
        self.matrix = ConfusionMatrix(self.classes)

    def add(self, pixels: LabelledPixels) -> None:
        """Add the pixels of a tile.

        For two classes calibration is that of the positive class' probability, for more that of the chosen class'.
        """
        right = pixels.mask == pixels.label
        self.matrix.add(pixels.mask, pixels.label)
        if self.classes == 2:
            self.calibration.add(pixels.probabilities[self.positive], pixels.label == self.positive)
        else:
            self.calibration.add(pixels.probabilities.max(0), right)
            self.proper.add(pixels.probabilities, pixels.label)
        self.risk.add(pixels.uncertainty, ~right)

    def scores(self) -> dict[str, Any]:
        """Return every score by name; ``confusion``: pixels, a row a class of the label, a column one of the map."""
        one, total = self.matrix.one(self.positive), int(self.matrix.counts.sum())
        proper = self.calibration if self.classes == 2 else self.proper
        out: dict[str, Any] = {
            "pixels": total,
            "positive_share": (one.tp + one.fn) / total if total else float("nan"),
            **map_scores(one),
            "accuracy": self.matrix.accuracy,
            "miou": self.matrix.miou,
            "ece": self.calibration.ece(),
            "ece_equal_width": self.calibration.ece(equal_mass=False),
            "brier": proper.brier,
            "nll": proper.nll,
            "aurc": self.risk.aurc,
            "error_auroc": auroc(self.risk),
            "error_average_precision": average_precision(self.risk),
        }
        if self.classes > 2:
            out["class_iou"] = [self.matrix.one(c).iou for c in range(self.classes)]
            out["by_class"] = [map_scores(self.matrix.one(c)) for c in range(self.classes)]
            out["confusion"] = self.matrix.counts.tolist()
        return out

    def curves(self) -> dict[str, list[Any]]:
        """Return what diagrams are drawn from: tables of rows, and the pixels in 50 classes of probability."""
        return {
            "reliability": self.calibration.reliability(equal_mass=False).tolist(),
            "risk_coverage": _thin(*self.risk.curve()),
            "error_precision_recall": _thin(*precision_recall(self.risk)),
            "histogram": self.calibration.count.reshape(50, -1).sum(1).tolist(),
        }


class Areas:
    """The positive area of a chip's valid, labelled pixels: by the label, and by each sample."""

    def __init__(self, samples: int) -> None:
        self.samples, self.truth, self.total = np.zeros(samples), 0.0, 0.0

    def add(self, votes: np.ndarray, positive: np.ndarray, area: np.ndarray) -> None:
        """Add pixels: a bit a sample, the label (bool), and their areas, (n,) each."""
        for s in range(len(self.samples)):
            self.samples[s] += area[says(votes, s)].sum()
        self.truth += float(area[positive].sum())
        self.total += float(area.sum())

    def scores(self) -> dict[str, float | bool]:
        """Return the areas in m² (pixels without a CRS) and their 90 % interval; nothing without samples."""
        if len(self.samples) < 2 or not self.total:
            return {}
        low, high = area_interval(self.samples)
        return {
            "area": self.truth,
            "area_labelled": self.total,
            "area_low": low,
            "area_high": high,
            "area_covered": bool(low <= self.truth <= high),
            "area_missed_by": max(low - self.truth, self.truth - high, 0.0),
        }


class Canvas:
    """Gathers a picture of a chip, every ``step``-th pixel, tile by tile."""

    def __init__(self, scene: xr.DataArray, most: int = 512) -> None:
        self.step = -(-max(scene.shape[1:]) // most)
        shape = tuple(-(-n // self.step) for n in scene.shape[1:])
        self.bands = tuple(str(name) for name in scene["band"].values[:3])
        self.scene = np.full((min(scene.shape[0], 3), *shape), np.nan, np.float32)
        self.label = np.full(shape, UNLABELLED, np.int16)
        self.mask = np.full(shape, NOT_CLASSIFIED, np.uint8)
        self.uncertainty = np.full(shape, np.nan, np.float32)

    def add(self, core: Roi, values: np.ndarray, label: np.ndarray, layers: dict[str, np.ndarray]) -> None:
        """Add a tile's core: values (K, h, w), label, and the layers mask and uncertainty."""
        first = [-start % self.step for start in (core.y0, core.x0)]
        pick = tuple(slice(f, None, self.step) for f in first)
        size = label[pick].shape
        to = tuple(
            slice(-(-s // self.step), -(-s // self.step) + n) for s, n in zip((core.y0, core.x0), size, strict=True)
        )
        self.scene[:, *to] = values[: len(self.scene), *pick]
        self.label[to] = label[pick]
        self.mask[to] = layers["mask"][pick]
        self.uncertainty[to] = layers["uncertainty"][pick]

    def finish(self, name: str, units: str) -> Picture:
        """Return the picture."""
        return Picture(name, units, self.bands, self.scene, self.label, self.mask, self.uncertainty)


def map_scores(one: Confusion) -> dict[str, float]:
    """Return the scores of the positive class by name."""
    return {
        "precision": one.precision,
        "recall": one.recall,
        "f1": one.f1,
        "iou": one.iou,
        "false_positive_rate": one.false_water,
    }


def plain(value: Any) -> Any:
    """Return plain values for JSON: numbers that are not finite become None."""
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def _thin(x: np.ndarray, y: np.ndarray, most: int = 400) -> list[list[float]]:
    """Return a curve as (x, y) pairs, no more than needed to draw it."""
    index = np.unique(np.linspace(0, len(x) - 1, min(most, len(x))).astype(int))
    return [[float(x[i]), float(y[i])] for i in index]
