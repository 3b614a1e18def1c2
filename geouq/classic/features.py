"""What the neighbourhood of a pixel looks like: mean and standard deviation of each band at two sizes.

Statistics of a small window are the plainest description of texture (Haralick, Shanmugam and Dinstein 1973, doi
10.1109/TSMC.1973.4309314, begin with them); a pixel and its neighbours are all that they depend on, so windows do not
show.
"""

from __future__ import annotations

import numpy as np

from geouq.sentinel1.speckle import statistics

#: sides of the windows, and how far the larger one reaches
SIDES = (5, 11)
REACH = SIDES[-1] // 2


def texture(values: np.ndarray) -> np.ndarray:
    """Return (3·K, h, w): of each band the mean over the smaller window, then the deviation over each of both.

    values : (K, h + 2·REACH, w + 2·REACH), NaN where not valid; it is NaN in what comes out.
    """
    means, near, far = [], [], []
    for band in values.astype(np.float64):
        known = np.isfinite(band)
        mean, deviation = _moments(band, known, SIDES[0])
        means.append(mean)
        near.append(deviation)
        far.append(_moments(band, known, SIDES[1])[1])
    inner = (slice(REACH, -REACH),) * 2
    return np.stack([plane[inner] for plane in (*means, *near, *far)]).astype(np.float32)


def _moments(band: np.ndarray, known: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation over the known pixels of a square around each; NaN where it is not known."""
    mean, variance = statistics(np.where(known, band, 0), known.astype(np.float64), side)
    return np.where(known, mean, np.nan), np.where(known, np.sqrt(variance), np.nan)
