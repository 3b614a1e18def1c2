"""Samples from labelled data: windows balanced by class, or whole chips made to fit; turned, speckled, shifted.

A sample is a square (pixels, label, valid) in the data's units. All drawing is done by the generator that is handed
in, so that a batch can be a function of the seed and the step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from geouq.errors import InputError
from geouq.grid import Roi
from geouq.learning.data.dataset import LabelledChip
from geouq.learning.data.loading import UNLABELLED, load, load_label, open_chip, windows
from geouq.units import RGB

#: pixels (K, size, size) float32 with NaN; label (size, size), class index or share of class 1; valid (size, size) bool
Sample = tuple[np.ndarray, np.ndarray, np.ndarray]
#: RGB values up to this, connected to the edge of the picture, are padding: what JPEG leaves of black.
BLACK = 8
#: Chips up to so many pixels are kept whole in memory, others read window by window.
SMALL = 1 << 19


@dataclass(frozen=True)
class Reading:
    """How chips become samples of ``size``² pixels.

    bands, units : as geouq.learning.data.loading.load takes them.
    view : "window" cuts at the chip's own resolution; "fit" resizes a whole chip into the square, aspect kept, the rest
        not valid; "stretch" to the square.
    soft : the label of a resized chip is the share of class 1 (two classes only), else that of the nearest pixel.
    """

    bands: tuple[str, ...]
    units: str
    size: int
    view: str = "window"
    soft: bool = False


# --- reading


def read_window(chip: LabelledChip, reading: Reading, window: Roi) -> Sample:
    """Read a window of a chip; what lies outside the chip is not valid."""
    rows, columns = open_chip(chip).shape[1:]
    if rows * columns <= SMALL:
        pixels, label, valid = (a[..., *window.slices] for a in _whole(chip, reading.bands, reading.units))
    else:
        pixels, label, valid = _read(chip, reading.bands, reading.units, window)
    missing = [(0, wanted - n) for wanted, n in zip(window.shape, label.shape, strict=True)]
    return _pad((pixels, label, valid), missing)


def read_whole(chip: LabelledChip, reading: Reading) -> Sample:
    """Read a chip resized into the square, centred: pixels antialiased, labels as ``reading.soft`` says."""
    pixels, label, valid = _read(chip, reading.bands, reading.units, None)
    size, longest = reading.size, max(label.shape)
    shape = (size, size) if reading.view == "stretch" else tuple(max(1, round(n * size / longest)) for n in label.shape)
    known = np.isfinite(pixels)
    share = _resize(known.astype(np.float32), shape)
    pixels = _resize(np.where(known, pixels, 0), shape) / np.maximum(share, 1e-6)
    pixels = np.where(share > 0.5, pixels, np.nan).astype(np.float32)
    if reading.soft:
        cover, water = _resize(np.stack([valid, valid & (label == 1)]).astype(np.float32), shape)
        label, valid = np.clip(water / np.maximum(cover, 1e-6), 0, 1), cover > 0.5
    else:
        rows, columns = ((np.arange(n) + 0.5) * old / n for n, old in zip(shape, label.shape, strict=True))
        nearest = np.ix_(rows.astype(int), columns.astype(int))
        label, valid = label[nearest], valid[nearest]
    return _pad((pixels, label, valid), [((size - n) // 2, size - n - (size - n) // 2) for n in shape])


def black_border(pixels: np.ndarray) -> np.ndarray:
    """Return where an RGB picture (3, H, W) is black padding: dark (≤ ``BLACK``) and connected to its edge."""
    regions, _ = ndimage.label(pixels.max(0) <= BLACK)
    edge = np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
    return np.isin(regions, np.setdiff1d(edge, [0]))


def _read(
    chip: LabelledChip, bands: tuple[str, ...], units: str, window: Roi | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    inside = None
    if window is not None:
        rows, columns = open_chip(chip).shape[1:]
        inside = Roi(window.y0, min(window.y1, rows), window.x0, min(window.x1, columns))
    pixels, label, valid = load(chip, bands, units, inside)
    if units == RGB and window is None:
        padding = black_border(pixels)
        pixels, valid = np.where(padding, np.float32(np.nan), pixels), valid & ~padding
    return pixels, label, valid


@lru_cache(maxsize=256)
def _whole(chip: LabelledChip, bands: tuple[str, ...], units: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return _read(chip, bands, units, None)


def _pad(sample: Sample, margins: Sequence[tuple[int, int]]) -> Sample:
    pixels, label, valid = sample
    return (
        np.pad(pixels, [(0, 0), *margins], constant_values=np.nan),
        np.pad(label, margins, constant_values=UNLABELLED),
        np.pad(valid, margins),
    )


def _resize(layers: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    tensor = torch.from_numpy(np.ascontiguousarray(layers, np.float32))[None]
    return functional.interpolate(tensor, shape, mode="bilinear", align_corners=False, antialias=True)[0].numpy()


# --- windows balanced by class


@dataclass(frozen=True)
class Census:
    """How many pixels of each class each window of some chips holds.

    cells : the chips, each cut into windows of ``size``² without overlap. counts : (cells, classes) pixels.
    """

    size: int
    cells: tuple[tuple[LabelledChip, Roi], ...]
    counts: np.ndarray

    @property
    def classes(self) -> int:
        """Number of classes that occur: the largest index + 1."""
        return int(np.flatnonzero(self.counts.sum(0)).max()) + 1

    def share(self, chip: LabelledChip, number: int) -> float:
        """Return the share of class ``number`` among a chip's labelled pixels."""
        rows = self.counts[[owner is chip for owner, _ in self.cells]].sum(0)
        return float(rows[number] / max(1, rows.sum()))

    @cached_property
    def cumulated(self) -> np.ndarray:
        """(cells, classes + 1) running sums of the counts; the last column is of all classes together."""
        return np.cumsum(np.c_[self.counts, self.counts.sum(1)], axis=0)


def take_census(chips: Sequence[LabelledChip], size: int) -> Census:
    """Count the classes in every window of the chips.

    Raises
    ------
    InputError : no pixel is labelled, or a label cannot be read.
    """
    cells = tuple((chip, window) for chip in chips for window in windows(chip, size))
    labels = (load_label(chip, window) for chip, window in cells)
    counts = np.stack([np.bincount(label[label != UNLABELLED], minlength=256) for label in labels])
    if not counts.any():
        raise InputError(f"{chips[0].label}: not one pixel of the training data is labelled")
    return Census(size, cells, counts)


def draw_window(census: Census, rng: np.random.Generator, size: int | None = None) -> tuple[LabelledChip, Roi]:
    """Draw a window: every other time one with a class drawn evenly from those there are, else any labelled one.

    The window is the drawn cell shifted by up to half its side, so that no border of cells is ever preferred.
    """
    present = np.flatnonzero(census.counts.sum(0))
    number = int(present[rng.integers(len(present))]) if rng.random() < 0.5 else census.counts.shape[1]
    column = census.cumulated[:, number]
    chip, cell = census.cells[int(np.searchsorted(column, rng.random() * column[-1], side="right"))]
    size = size or census.size
    starts = []
    for start, stop, n in zip((cell.y0, cell.x0), (cell.y1, cell.x1), open_chip(chip).shape[1:], strict=True):
        middle = (start + stop) // 2 + int(rng.integers(-census.size // 2, census.size // 2 + 1))
        starts.append(min(max(middle - size // 2, 0), max(n - size, 0)))
    y, x = starts
    return chip, Roi(y, y + size, x, x + size)


# --- augmentation


def turn(sample: Sample, rng: np.random.Generator) -> Sample:
    """Apply one of the eight flips and quarter turns."""
    how = int(rng.integers(8))
    turned = (np.rot90(a, how % 4, axes=(-2, -1)) for a in sample)
    pixels, label, valid = (np.ascontiguousarray(a[..., ::-1] if how >= 4 else a) for a in turned)
    return pixels, label, valid


def jitter_backscatter(sample: Sample, rng: np.random.Generator, gain_db: float = 1.5) -> Sample:
    """Shift each band (dB) by up to ± ``gain_db``; every other time add speckle of 4 to 30 looks."""
    pixels, label, valid = sample
    pixels = pixels + rng.uniform(-gain_db, gain_db, (len(pixels), 1, 1))
    if rng.random() < 0.5:
        looks = rng.uniform(4, 30)
        gamma = rng.standard_gamma(looks, size=pixels.shape) / looks
        pixels = pixels + 10 * np.log10(np.maximum(gamma, 1e-6))
    return pixels.astype(np.float32), label, valid
