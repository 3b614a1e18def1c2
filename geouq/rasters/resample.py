"""Values of an image at positions between its pixels, and means over blocks; what is not valid weighs nothing."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from geouq.units import LEAST_POWER


class Image(Protocol):
    """An image in radar geometry: linear power, NaN where not measured."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(bands, lines, pixels)."""

    def read(self, bands: slice, rows: slice, columns: slice) -> np.ndarray:
        """Read a window, float32."""


def inside(image: Image, where: np.ndarray) -> np.ndarray:
    """Return which positions (2, h, w), lines and pixels, lie on a pixel of the image, (h, w) bool; NaN does not."""
    _, lines, pixels = image.shape
    return np.asarray((where[0] >= -0.5) & (where[0] < lines - 0.5) & (where[1] >= -0.5) & (where[1] < pixels - 0.5))


def interpolate(image: Image, bands: slice, where: np.ndarray) -> np.ndarray:
    """Interpolate an image bilinearly at positions ``where`` (2, h, w): lines and pixels, integers at pixel centres.

    Returns
    -------
    (bands, h, w) float32. Of the four pixels around a position those that are not valid weigh nothing; the result
    is NaN where the nearest one is not valid, or lies outside the image.
    """
    count, lines, pixels = image.shape
    seen = inside(image, where)
    out = np.full((len(range(count)[bands]), *seen.shape), np.nan, np.float32)
    if not seen.any():
        return out
    line, pixel = where[:, seen]
    (top, down, bottom), (left, right, end) = _neighbours(line, lines), _neighbours(pixel, pixels)
    source = image.read(bands, slice(int(top.min()), int(bottom.max()) + 1), slice(int(left.min()), int(end.max()) + 1))
    corner = top.min(), left.min()
    nearest = np.rint(line).astype(np.intp) - corner[0], np.rint(pixel).astype(np.intp) - corner[1]
    for layer, values in zip(out, source, strict=True):
        total = np.zeros(len(line), np.float32)
        weights = np.zeros(len(line), np.float32)
        for y, x, weight in (
            (top, left, (1 - down) * (1 - right)),
            (top, end, (1 - down) * right),
            (bottom, left, down * (1 - right)),
            (bottom, end, down * right),
        ):
            picked = values[y - corner[0], x - corner[1]]
            measured = np.isfinite(picked)
            total += np.where(measured, picked, 0) * weight
            weights += measured * weight
        power = total / np.maximum(weights, 1e-6)
        power[power == 0] = LEAST_POWER  # valid pixels that average to exactly 0: noise was subtracted
        layer[seen] = np.where(np.isfinite(values[nearest]), power, np.nan)
    return out


def _neighbours(position: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pixel before each position, the share of the one after it, and that one; both within the image."""
    before = np.floor(position)
    share = (position - before).astype(np.float32)
    return (
        np.clip(before, 0, size - 1).astype(np.intp),
        share,
        np.clip(before + 1, 0, size - 1).astype(np.intp),
    )


def mean_of_blocks(values: np.ndarray, size: int) -> np.ndarray:
    """Mean of each block of ``size``² pixels over the valid ones; NaN where fewer than half of them are."""
    bands, rows, columns = values.shape
    blocks = values.reshape(bands, rows // size, size, columns // size, size)
    measured = np.isfinite(blocks)
    count = measured.sum((2, 4))
    total = np.where(measured, blocks, 0).sum((2, 4), dtype=np.float64)
    return np.where(2 * count >= size * size, total / np.maximum(count, 1), np.nan).astype(np.float32)
