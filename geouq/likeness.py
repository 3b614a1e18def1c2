"""Do two bands look like the two polarisations of one radar image? A map of anything else says nothing, however sure.

Two things tell, whatever the ground. Cross-polarised backscatter (VH, HV) is the lower one. And speckle of the two is
independent, for they are uncorrelated over natural ground (reflection symmetry: Nghiem et al. 1992, Radio Science
27(5), 693-711), so that their fine detail hardly goes together; bands of a photograph share it, and one band given
twice is the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geouq.units import BACKSCATTER, DB, PAIRS, convert, likelier

#: A median of the cross-polarised band this far above that of the other, in dB, is no backscatter: of the scenes that
#: were at hand the highest was 1.0 above (calm water, both near the noise).
LEVEL = 2.0
#: Correlation of fine detail beyond which it is no speckle: scenes at hand had -0.04 to 0.35, under filters up to a
#: Gaussian of two pixels -0.09 to 0.72, means of eight dates up to 0.59; photographs 0.81 to 0.97, elevation 1.
SHARED, OPPOSITE = 0.75, -0.2
#: side of the cells that a correlation is of, in pixels, and how many of them make a median that can be told
_CELL, _FEWEST = 16, 16


def doubtful(windows: Sequence[np.ndarray], names: Sequence[str], unit: str) -> str:
    """Say why bands are none of a radar image in ``unit`` (geouq.units.likelier), or in any (``unlike``); else "".

    Parameters
    ----------
    windows : (bands, h, w) each, in ``unit``, NaN where not valid. names : as of ``unlike``.
    """
    if unit not in BACKSCATTER:
        return ""
    medians = {name: _median([window[k] for window in windows]) for k, name in enumerate(names)}
    return likelier(unit, medians) or unlike([convert(window, unit, DB) for window in windows], names)


def unlike(windows: Sequence[np.ndarray], names: Sequence[str]) -> str:
    """Say why two bands are not the co- and the cross-polarised one of a radar image.

    Parameters
    ----------
    windows : (bands, h, w) each, in dB, NaN where not valid. names : of the bands, VV, VH, HH, HV, or any other.

    Returns
    -------
    One sentence; empty if nothing speaks against it, or no such pair is among the bands.
    """
    pair = next((pair for pair in PAIRS if set(pair) <= set(names)), None)
    return "" if pair is None else _unlike([window[[*map(names.index, pair)]] for window in windows], pair)


def _unlike(windows: Sequence[np.ndarray], names: tuple[str, str]) -> str:
    co, cross = (_median([window[k] for window in windows]) for k in (0, 1))
    if cross - co > LEVEL:
        return (
            f"{names[1]} (median {cross:.1f} dB) lies above {names[0]} ({co:.1f} dB), and cross-polarised backscatter "
            "is the lower one: are the two swapped? Say which is which (--vv FILE --vh FILE, or of one file --bidx 2,1)"
        )
    found = np.concatenate([_correlations(window) for window in windows])
    shared = float(np.median(found)) if len(found) >= _FEWEST else 0.0
    if OPPOSITE <= shared <= SHARED:
        return ""
    return (
        f"the fine detail of {names[0]} and {names[1]} correlates by {shared:.2f}, and speckle of two polarisations "
        "hardly does: is this backscatter, and are these two bands of it?"
    )


def _median(values: Sequence[np.ndarray]) -> float:
    known = np.concatenate([some[np.isfinite(some)] for some in values])
    return float(np.median(known)) if known.size else np.nan


def _correlations(window: np.ndarray) -> np.ndarray:
    """Return the correlation of the two bands' detail, pixels less the mean of their neighbours, in each whole cell."""
    beside = window[:, :-2, 1:-1] + window[:, 2:, 1:-1] + window[:, 1:-1, :-2] + window[:, 1:-1, 2:]
    detail = window[:, 1:-1, 1:-1].astype(np.float64) - beside / 4  # (2, h-2, w-2)
    rows, columns = (n // _CELL for n in detail.shape[1:])
    cells = detail[:, : rows * _CELL, : columns * _CELL].reshape(2, rows, _CELL, columns, _CELL)
    cells = cells.transpose(0, 1, 3, 2, 4).reshape(2, rows * columns, _CELL**2)
    cells = cells[:, np.isfinite(cells).all((0, 2))]
    cells = cells - cells.mean(2, keepdims=True)
    spread = cells.std(2)
    moving = (spread > 1e-4).all(0)  # dB; a flat cell has no detail
    return np.asarray((cells[0] * cells[1]).mean(1)[moving] / spread.prod(0)[moving])
