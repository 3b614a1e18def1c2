"""Light smoothing before a classic method: raw speckle spoils all of them.

Backscatter is smoothed as linear power and comes back in its unit. What is not valid weighs nothing and stays so.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import median_filter

from geouq.errors import InputError
from geouq.sentinel1.speckle import FILTERS, HALO, despeckle
from geouq.units import BACKSCATTER, POWER, convert

MEDIAN = 5
#: what may be asked for, and how far it looks
SMOOTHS = ("median", *FILTERS)
MARGIN = HALO + MEDIAN // 2
#: equivalent number of looks of Sentinel-1 GRD products in high resolution
LOOKS = 4.4


def check_smooth(name: str | None, unit: str) -> None:
    """Raise InputError unless there is such a smoothing for values in this unit."""
    if name is not None and name not in SMOOTHS:
        raise InputError(f"no smoothing {name!r}: choose among {', '.join(SMOOTHS)}")
    if name not in (None, "median", "boxcar") and unit not in BACKSCATTER:
        raise InputError(f"{name} is for speckle, and the scene is in {unit or 'no known unit'}: take median or boxcar")


def smoothed(values: np.ndarray, name: str, unit: str) -> np.ndarray:
    """Return (K, h, w) smoothed by a method of that name, from values (K, h + 2·MARGIN, w + 2·MARGIN)."""
    power = [convert(band, unit, POWER) if unit in BACKSCATTER else band for band in values]
    found = [_median(band) if name == "median" else _filtered(band, name) for band in power]
    return np.stack([convert(band, POWER, unit) if unit in BACKSCATTER else band for band in found])


def _filtered(power: np.ndarray, name: str) -> np.ndarray:
    rest = MARGIN - HALO
    return despeckle(power[rest:-rest, rest:-rest], name, LOOKS)


def _median(power: np.ndarray) -> np.ndarray:
    """Median of 5 x 5 pixels, those that are not valid taken as the mean of the valid ones around them."""
    around = despeckle(np.nan_to_num(power), "boxcar", LOOKS)
    share = despeckle(np.isfinite(power).astype(np.float32), "boxcar", LOOKS)
    inner = power[HALO:-HALO, HALO:-HALO]
    filled = np.where(np.isfinite(inner), inner, around / np.maximum(share, 1e-6))
    found = median_filter(filled, MEDIAN, mode="nearest")
    half = MEDIAN // 2
    return np.where(np.isfinite(inner), found, np.float32(np.nan))[half:-half, half:-half].astype(np.float32)
