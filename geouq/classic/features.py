"""What the neighbourhood of a pixel looks like: mean and standard deviation of each band around it.

Statistics of a small window are the plainest description of texture (Haralick, Shanmugam and Dinstein 1973, doi
10.1109/TSMC.1973.4309314, begin with them); a pixel and its neighbours are all that they depend on, so windows do not
show.
"""

from __future__ import annotations

import numpy as np

from geouq.sentinel1.speckle import statistics

#: side of the window, and how far it reaches
SIDE = 5
REACH = SIDE // 2


def texture(values: np.ndarray) -> np.ndarray:
    """Return (2·K, h, w): the mean of each band over the window, then the deviation of each.

    values : (K, h + 2·REACH, w + 2·REACH), NaN where not valid; it is NaN in what comes out.
    """
    moments = [_moments(band, np.isfinite(band)) for band in values.astype(np.float64)]
    inner = (slice(REACH, -REACH),) * 2
    return np.stack([plane[inner] for planes in zip(*moments, strict=True) for plane in planes]).astype(np.float32)


def _moments(band: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation over the known pixels around each; NaN where it is not known."""
    mean, variance = statistics(np.where(known, band, 0), known.astype(np.float64), SIDE)
    return np.where(known, mean, np.nan), np.where(known, np.sqrt(variance), np.nan)
