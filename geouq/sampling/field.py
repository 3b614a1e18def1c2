"""The random numbers behind an SSN's samples, at the scale of a scene: a smooth field z and a noise ε a pixel.

On a patch z is one vector (Monteiro et al. 2020, arXiv 2006.06015). One z for a whole scene would make lakes 200 km
apart lie or dry together, and a z for each tile would break at the seams. So z is a stationary Gaussian field: normal
numbers on a lattice, each a function of (seed, sample, rank, row, column) alone, blended with quintic B-splines
(Schoenberg 1946) whose weights are brought to a sum of squares of 1, so that the variance is 1 at every pixel. A window
computes its part alone from the few lattice points around it.

Letters in shape comments: S samples, R numbers of z (the rank), C logits a pixel, h rows and w columns of pixels, n
rows of a strip, i rows and j columns of lattice points, k the 6 of these (``NODES``) that a pixel's z is blended from
along an axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from geouq.errors import ModelError
from geouq.grid import Roi
from geouq.noise import philox, stream, uniform

if TYPE_CHECKING:
    from scipy.interpolate import BSpline

#: one z for the whole scene: the paper's reading, where a scene is a patch
SCENE = "scene"
#: correlation length in pixels, or SCENE
Correlation = float | str
#: lattice points that a pixel's z is blended from, along each axis
NODES = 6
#: samples whose ε come from one call of the generator, a byte each
BLOCK = 16
_FIELD, _PIXEL = 0x7A, 0x65  # purposes: keep both apart from each other and from any other random numbers


def check_correlation(correlation: Correlation) -> Correlation:
    """Return a correlation length of 4 pixels or more, or SCENE; raise ModelError for anything else."""
    fits = correlation == SCENE if isinstance(correlation, str) else 4 <= correlation < 1e6
    if not fits:
        raise ModelError(f"correlation is {correlation!r}: give a length of 4 pixels or more, or {SCENE!r}")
    return correlation


def spacing(correlation: float) -> int:
    """Return the lattice spacing, in pixels, with which the field's correlation falls to 1/e at ``correlation``.

    The correlation function is nearly exp(−d²/(2·spacing²)): that of a quintic B-spline with itself.
    """
    return max(1, round(float(correlation / np.sqrt(2))))


def blend(start: int, stop: int, step: int) -> tuple[int, np.ndarray]:
    """Return the first lattice point that pixels ``start ≤ i < stop`` need, and their weights, (pixels, points).

    Each row's sum of squares is 1; ``step`` is the spacing of the lattice.
    """
    first, last = start // step - NODES // 2 + 1, (stop - 1) // step + NODES // 2
    position = np.arange(start, stop)[:, None] / step  # (pixels, 1)
    distance = position - np.arange(first, last + 1)[None, :]  # (pixels, points)
    weights = np.nan_to_num(_spline()(distance + NODES / 2))  # (pixels, points), 0 but for k of them
    return first, weights / np.sqrt((weights**2).sum(1, keepdims=True))


@cache
def _spline() -> BSpline:
    from scipy.interpolate import BSpline  # here, for it takes half a second, and an SSN alone needs it

    return BSpline.basis_element(np.arange(NODES + 1), extrapolate=False)


def lattice(seed: int, samples: Sequence[int], rank: int, points: Roi) -> np.ndarray:
    """Return the normal numbers of lattice points, float64 (S, R, rows, columns)."""
    rows, columns = np.arange(points.y0, points.y1), np.arange(points.x0, points.x1)
    numbers, ranks = np.asarray(samples)[:, None, None, None], np.arange(rank)[:, None, None]
    draw = uniform(seed, _FIELD, numbers, ranks, rows[:, None], columns, dtype=np.float64)  # (S, R, i, j)
    return np.asarray(ndtri(np.maximum(draw, 2.0**-54)))


def field(seed: int, samples: Sequence[int], rank: int, roi: Roi, correlation: Correlation) -> np.ndarray:
    """Return z in absolute scene pixels ``roi``, float32 (S, R, rows, columns).

    Parameters
    ----------
    samples : numbers of the samples. rank : R. correlation : length in pixels at which the correlation of two pixels
        has fallen to 1/e, or SCENE.
    """
    if isinstance(correlation, str):
        one = lattice(seed, samples, rank, Roi(0, 1, 0, 1))  # (S, R, 1, 1)
        return np.broadcast_to(one, (len(samples), rank, *roi.shape)).astype(np.float32)
    step = spacing(correlation)
    (i, along_y), (j, along_x) = blend(roi.y0, roi.y1, step), blend(roi.x0, roi.x1, step)
    points = lattice(seed, samples, rank, Roi(i, i + along_y.shape[1], j, j + along_x.shape[1]))
    return np.asarray(along_y @ points @ along_x.T, np.float32)  # (h, i) @ (S, R, i, j) @ (j, w) → (S, R, h, w)


def add_deviations(
    logits: Tensor, factor: Tensor, seed: int, samples: Sequence[int], corner: tuple[int, int], correlation: Correlation
) -> None:
    """Add P z to the logits of some samples, in place: S small matrix products.

    Parameters
    ----------
    logits : float32 (S, C, h, w), contiguous. factor : P, float32 (R, C, h, w), on the same device.
    corner : absolute row and column of the first pixel.
    """
    rank, _, rows, columns = factor.shape
    if isinstance(correlation, str):
        z = torch.from_numpy(lattice(seed, samples, rank, Roi(0, 1, 0, 1))[..., 0, 0]).to(factor)  # (S, R)
        logits.view(len(logits), -1).addmm_(z, factor.reshape(rank, -1))  # (S, R) @ (R, C·h·w) → (S, C·h·w)
        return
    step = spacing(correlation)
    i, along_y = blend(corner[0], corner[0] + rows, step)  # (h, i)
    j, along_x = blend(corner[1], corner[1] + columns, step)  # (w, j)
    points = lattice(seed, samples, rank, Roi(i, i + along_y.shape[1], j, j + along_x.shape[1]))  # (S, R, i, j)
    points = np.ascontiguousarray(points.transpose(2, 0, 3, 1), np.float32)  # (i, S, j, R)
    for cell in range(along_x.shape[1] - NODES + 1):  # a column of cells: its pixels see the same 6 points
        start = (j + cell + NODES // 2 - 1) * step - corner[1]
        part = slice(max(start, 0), min(start + step, columns))
        # (h, i) @ (i, S·k·R) → (h, S·k·R)
        rowwise = along_y.astype(np.float32) @ points[:, :, cell : cell + NODES].reshape(len(points), -1)
        z = torch.from_numpy(rowwise).to(factor.device).unflatten(1, (len(samples), -1))  # (h, S, k·R)
        _project(factor[..., part], z, along_x[part, cell : cell + NODES], logits[..., part])


def _project(factor: Tensor, z: Tensor, along_x: np.ndarray, out: Tensor, strip: int = 16) -> None:
    """Add Σ_kr z_kr(y) a_k(x) P_r(y, x) to ``out`` (S, C, h, w), a strip of rows at a time, in the same buffers."""
    rank, classes, rows, columns = factor.shape
    weights = torch.from_numpy(np.ascontiguousarray(along_x.T)).to(factor)[:, None, :]  # (k, 1, w)
    blended = factor.new_empty(min(strip, rows), NODES, rank, columns)  # (strip, k, R, w)
    product = factor.new_empty(len(blended), z.shape[1], columns)  # (strip, S, w)
    for c in range(classes):
        for y in range(0, rows, strip):
            n = min(strip, rows - y)
            # (k, 1, w) · (n, 1, R, w) → (n, k, R, w)
            torch.mul(weights, factor[:, c, y : y + n].transpose(0, 1)[:, None], out=blended[:n])
            torch.bmm(z[y : y + n], blended[:n].flatten(1, 2), out=product[:n])  # (n, S, k·R) @ (n, k·R, w) → (n, S, w)
            out[:, c, y : y + n] += product[:n].transpose(0, 1)  # (S, n, w)


@lru_cache(maxsize=1)
def _quantiles() -> np.ndarray:
    """Return the normal quantiles of the 256 values of a byte, brought to variance 1."""
    values = ndtri((np.arange(256) + 0.5) / 256)
    return np.asarray(values / values.std(), np.float32)


def pixel_noise(
    seed: int, samples: Sequence[int], classes: int, corner: tuple[int, int], shape: tuple[int, int]
) -> np.ndarray:
    """Return ε, float32 (S, C, h, w): a function of (seed, sample, class, row, column), mean 0, variance 1.

    Normal to one part in 256: a byte chooses among as many quantiles, so that one call of the generator serves
    ``BLOCK`` samples of a pixel. Finer steps of the noise of a single pixel would not show in any map.
    """
    rows, columns = (np.arange(start, start + n) for start, n in zip(corner, shape, strict=True))
    out = np.empty((len(samples), classes, *shape), np.float32)
    key, at = stream(seed, _PIXEL), 0
    for block, members in groupby(samples, lambda s: s // BLOCK):
        within = [s % BLOCK for s in members]
        for c in range(classes):
            words = philox((block, c, rows[:, None], columns), key)  # 4 of (h, w) uint32: a byte for each of 16 samples
            for n, k in enumerate(within):
                byte = (words[k // 4] >> np.uint32(8 * (k % 4))).astype(np.uint8)  # (h, w)
                np.take(_quantiles(), byte, out=out[at + n, c], mode="clip")
        at += len(within)
    return out
