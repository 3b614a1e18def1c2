"""What a threshold can do: the classical yardsticks a model has to beat.

All are for "darker is water": backscatter in dB below a threshold. *With hindsight* means chosen with the labels at
hand, which no one mapping a new place has; it is the most a threshold could have reached.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

#: Candidate thresholds in dB: fine enough that a finer step changes no IoU in its third digit.
CANDIDATES = np.arange(-45.0, 5.0, 0.1)


def boxcar(db: np.ndarray, size: int) -> np.ndarray:
    """Average linear power over ``size``² pixels, leaving out those not valid.

    Parameters
    ----------
    db : (rows, columns) dB, NaN = not valid. size : odd number of pixels.

    Returns
    -------
    (rows, columns) float32 dB, NaN where ``db`` is.
    """
    known = np.isfinite(db)
    power = np.where(known, 10 ** (np.where(known, db, 0) / 10), 0).astype(np.float64)
    total = ndimage.uniform_filter(power, size, mode="reflect")
    share = ndimage.uniform_filter(known.astype(np.float64), size, mode="reflect")
    mean = np.maximum(total, 1e-12) / np.maximum(share, 1e-12)
    return np.where(known, 10 * np.log10(mean), np.nan).astype(np.float32)


def threshold_ious(db: np.ndarray, label: np.ndarray, candidates: np.ndarray = CANDIDATES) -> np.ndarray:
    """Return the water IoU of ``db < t`` for each candidate threshold t.

    Parameters
    ----------
    db : values in dB, any shape, NaN left out. label : same shape, 1 = water.

    Returns
    -------
    float array, one IoU per candidate; NaN throughout if no pixel is water.
    """
    known = np.isfinite(db)
    db, water = np.asarray(db)[known], np.asarray(label)[known] == 1
    if not water.any():
        return np.full(len(candidates), np.nan)
    hit = np.searchsorted(np.sort(db[water]), candidates, side="left")
    false = np.searchsorted(np.sort(db[~water]), candidates, side="left")
    return np.asarray(hit / (water.sum() + false))


def best_global_threshold(
    bands: Sequence[np.ndarray], labels: Sequence[np.ndarray], candidates: np.ndarray = CANDIDATES
) -> tuple[float, list[float]]:
    """Return the one threshold with the best mean water IoU over several chips, and the IoU of each chip under it."""
    table = np.stack([threshold_ious(b, y, candidates) for b, y in zip(bands, labels, strict=True)])
    best = int(np.nanargmax(np.nanmean(table, axis=0)))
    return float(candidates[best]), [float(v) for v in table[:, best]]


def best_smoothed_iou(
    bands: Sequence[np.ndarray], label: np.ndarray, sizes: Sequence[int] = (3, 5, 7)
) -> tuple[float, int, int, float]:
    """Return the best IoU of any band, boxcar and threshold on one chip: (IoU, band index, size, threshold in dB)."""
    found = []
    for index, band in enumerate(bands):
        for size in sizes:
            ious = threshold_ious(boxcar(band, size), label)
            best = int(np.nanargmax(ious))
            found.append((float(ious[best]), index, size, float(CANDIDATES[best])))
    return max(found)


def otsu(db: np.ndarray) -> float:
    """Return Otsu's threshold (1979, doi 10.1109/TSMC.1979.4310076) of the finite values, in dB."""
    return float(threshold_otsu(db[np.isfinite(db)]))
