"""Speckle filters on linear power: boxcar, Lee, refined Lee and Gamma-MAP.

Speckle multiplies the power of a homogeneous area by a random number of mean 1 and variance 1 / looks. All filters
take means and variances over the measured pixels of a small window; NaN stays NaN and weighs nothing. A filtered
pixel depends on those within ``HALO`` pixels of it and on nothing else: with that halo around a tile, the
result is the same bit by bit whatever the tiles are.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import correlate, correlate1d

from geouq.errors import InputError

#: side of the windows: Lee's and the boxcar's, and that of the refined Lee filter, which is part of its definition
_SIDE = 7
_SUB = 3
#: Pixels on each side that a filtered pixel depends on. The refined Lee filter's 3 x 3 means reach no further.
HALO = _SIDE // 2


def check_filter(name: str) -> None:
    """Raise InputError unless there is such a filter."""
    if name not in FILTERS:
        raise InputError(f"speckle filter {name!r} is none of {', '.join(FILTERS)}")


def despeckle(power: np.ndarray, name: str, looks: float) -> np.ndarray:
    """Filter an image and cut its halo off.

    Parameters
    ----------
    power : (rows + 2·halo, columns + 2·halo) float32, linear power, NaN where not measured.
    name : one of ``FILTERS``. looks : equivalent number of looks.

    Returns
    -------
    (rows, columns) float32; NaN where the pixel itself is.
    """
    values = np.where(np.isfinite(power), power, 0).astype(np.float64)
    valid = np.isfinite(power).astype(np.float64)
    filtered = FILTERS[name](values, valid, looks)
    inner = (slice(HALO, -HALO),) * 2
    return np.where(np.isfinite(power), filtered, np.nan)[inner].astype(np.float32)


def _sum(values: np.ndarray, side: int) -> np.ndarray:
    """Sum over a square window, term by term in one order: no running sums, which would depend on the tile."""
    ones = np.ones(side)
    return np.asarray(correlate1d(correlate1d(values, ones, axis=0, mode="constant"), ones, axis=1, mode="constant"))


def statistics(values: np.ndarray, valid: np.ndarray, side: int = _SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance of the measured pixels, 1 in ``valid`` and else 0 in both, in a square around each."""
    count = np.maximum(_sum(valid, side), 1)
    mean = _sum(values, side) / count
    return mean, np.maximum(_sum(values**2, side) / count - mean**2, 0)


def _boxcar(values: np.ndarray, valid: np.ndarray, looks: float) -> np.ndarray:
    """Mean of the window."""
    return statistics(values, valid)[0]


def _adapted(values: np.ndarray, mean: np.ndarray, variance: np.ndarray, looks: float) -> np.ndarray:
    """Between mean and pixel, by how much of the variance is the scene's: Lee 1980, equations 19 to 21.

    "Digital image enhancement and noise filtering by use of local statistics", IEEE PAMI 2(2), 165-168; for
    multiplicative noise of mean 1 and variance 1 / looks.
    """
    speckle = mean**2 / looks
    scene = np.maximum(variance - speckle, 0) / (1 + 1 / looks)
    weight = scene / np.maximum(scene + speckle, np.finfo(float).tiny)
    return np.asarray(mean + weight * (values - mean))


def _lee(values: np.ndarray, valid: np.ndarray, looks: float) -> np.ndarray:
    mean, variance = statistics(values, valid)
    return _adapted(values, mean, variance, looks)


def _gamma_map(values: np.ndarray, valid: np.ndarray, looks: float) -> np.ndarray:
    """The most probable power if scene and speckle are gamma distributed.

    Lopes, Nezry, Touzi & Laur 1990, "Maximum a posteriori speckle filtering and first order texture models in SAR
    images", IGARSS: mean where the window is as uniform as speckle is, the pixel where it is more than twice as varied.
    """
    mean, variance = statistics(values, valid)
    positive = np.maximum(mean, 1e-30)  # noise subtraction can leave less; such pixels get the mean, below
    varied = variance / positive**2
    speckle = 1 / looks
    alpha = (1 + speckle) / np.maximum(varied - speckle, 1e-6)
    slope = (alpha - looks - 1) * positive
    root = np.sqrt(np.maximum(slope**2 + 4 * alpha * looks * positive * np.maximum(values, 0), 0))
    out = np.where(varied <= speckle, mean, (slope + root) / (2 * alpha))
    return np.where((varied >= 2 * speckle) | (mean <= 0), np.where(mean <= 0, mean, values), out)


def _refined_lee(values: np.ndarray, valid: np.ndarray, looks: float) -> np.ndarray:
    """Lee's filter with the half of the 7 x 7 window that lies on the pixel's side of the strongest edge.

    Lee 1981, "Refined filtering of image noise using local statistics", Computer Graphics and Image Processing
    15(4), 380-389: nine 3 x 3 means tell the direction of the edge, the means on both sides which half is alike.
    """
    count = _sum(valid, _SUB)
    choice = _half_window(np.where(count > 0, _sum(values, _SUB) / np.maximum(count, 1), np.nan))
    out = np.empty_like(values)
    for index, window in enumerate(_HALVES):
        here = choice == index
        if not here.any():
            continue
        number = np.maximum(correlate(valid, window, mode="constant"), 1)
        mean = correlate(values, window, mode="constant") / number
        variance = np.maximum(correlate(values**2, window, mode="constant") / number - mean**2, 0)
        out[here] = _adapted(values, mean, variance, looks)[here]
    return out


def _halves() -> list[np.ndarray]:
    """The eight half windows, in opposite pairs, each with the line through the pixel, that edges leave."""
    y, x = np.mgrid[-3:4, -3:4]
    return [(side >= 0).astype(float) for side in (x, -x, y, -y, x - y, y - x, x + y, -x - y)]


_HALVES = _halves()
#: The two 3 x 3 means, two pixels off the centre (down, right), that lie in each of ``_HALVES``' middles
_SIDES = ((0, 1), (0, -1), (1, 0), (-1, 0), (-1, 1), (1, -1), (1, 1), (-1, -1))


def _half_window(blocks: np.ndarray) -> np.ndarray:
    """Index into ``_HALVES`` for each pixel, from the 3 x 3 means around it; unknown (NaN) ones make no edge."""
    padded = np.pad(blocks, 2, mode="edge")
    rows, columns = blocks.shape

    def beside(down: int, right: int) -> np.ndarray:
        return padded[2 + 2 * down : 2 + 2 * down + rows, 2 + 2 * right : 2 + 2 * right + columns]

    edges = []
    for down, right in _SIDES[::2]:
        # the three means on one side of the edge less the three opposite
        turn = ((0, 0), (-right, down), (right, -down)) if not down or not right else ((0, 0), (-down, 0), (0, -right))
        ahead = [(down + a, right + b) for a, b in turn]
        edges.append(np.abs(sum(np.nan_to_num(beside(a, b) - beside(-a, -b)) for a, b in ahead)))
    pair = np.argmax(edges, axis=0)
    out = np.zeros(blocks.shape, np.intp)
    for index, (down, right) in enumerate(_SIDES[::2]):
        one, other = (
            np.nan_to_num(np.abs(beside(s * down, s * right) - blocks), nan=np.inf, posinf=np.inf) for s in (1, -1)
        )
        out = np.where(pair == index, 2 * index + (other < one), out)
    return out


FILTERS: dict[str, Callable[[np.ndarray, np.ndarray, float], np.ndarray]] = {
    "boxcar": _boxcar,
    "lee": _lee,
    "refined-lee": _refined_lee,
    "gamma-map": _gamma_map,
}
