"""Training examples from labelled data: windows balanced by class, whole chips made to fit, and simulated chips.

All drawing is done by the generator that is handed in, so that a batch can be a function of the seed and the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from geouq.errors import InputError
from geouq.grid import Roi
from geouq.learning.data.chip import LabelledChip
from geouq.learning.data.loading import UNLABELLED, load, load_label, open_chip, open_label, windows
from geouq.simulation.simulate import random_landscape, simulate_window

#: Chips up to so many pixels are kept whole in memory, others read window by window.
SMALL = 1 << 19


class Example(NamedTuple):
    """A piece of labelled data: pixels (K, h, w) float32 in the data's units with NaN, label (h, w), valid (h, w) bool.

    A label is a class index, ``UNLABELLED`` where nobody gave one, or the share of class 1 in 0..1 (``Reading.soft``).
    Only valid pixels, measured and labelled, count.
    """

    pixels: np.ndarray
    label: np.ndarray
    valid: np.ndarray

    def window(self, window: Roi) -> Example:
        """Return a window of it; what lies beyond its last row and column is not valid."""
        inside = Example(*(a[..., *window.slices] for a in self))
        missing = [(0, wanted - n) for wanted, n in zip(window.shape, inside.label.shape, strict=True)]
        return inside.padded(missing)

    def padded(self, margins: Sequence[tuple[int, int]]) -> Example:
        """Return it with (before, after) rows and columns around it that are not valid."""
        return Example(
            np.pad(self.pixels, [(0, 0), *margins], constant_values=np.nan),
            np.pad(self.label, margins, constant_values=UNLABELLED),
            np.pad(self.valid, margins),
        )


@dataclass(frozen=True)
class Reading:
    """How chips become examples of ``size``² pixels.

    bands, units : as geouq.learning.data.loading.load takes them.
    view : how; "window" and "crop" cut at the chip's own resolution; "fit" resizes a whole chip into the square, aspect
        kept, the rest not valid; "stretch" to the square.
    black : pixels none of whose bands is above it are padding (geouq.validity).
    beside : how the image beside each chip is read; its bands then follow the chip's own.
    soft : the label of a resized chip is the share of class 1 (two classes only), else that of the nearest pixel.
    """

    bands: tuple[str, ...]
    units: str
    size: int
    view: str = "window"
    soft: bool = False
    black: float | None = None
    beside: Reading | None = None


# --- reading


def read_example(chip: LabelledChip, reading: Reading, window: Roi) -> Example:
    """Read a window of a chip; what lies outside the chip is not valid."""
    rows, columns = open_chip(chip).shape[1:]
    if rows * columns <= SMALL:
        return read_whole(chip, reading).window(window)
    own = _read(chip, reading, window).window(Roi(0, window.shape[0], 0, window.shape[1]))
    return _joined(own, chip, reading, lambda other, how: read_example(other, how, window))


def read_whole(chip: LabelledChip, reading: Reading) -> Example:
    """Read a chip as it is, of its own size; kept in memory for the next time."""
    own = read_piece(chip, reading.bands, reading.units, reading.black)
    return _joined(own, chip, reading, read_whole)


def _joined(
    own: Example, chip: LabelledChip, reading: Reading, read: Callable[[LabelledChip, Reading], Example]
) -> Example:
    """Return an example with the bands of the image beside, which are NaN where a chip has none."""
    if reading.beside is None:
        return own
    if chip.beside is None:
        other = np.full((len(reading.beside.bands), *own.label.shape), np.nan, np.float32)
    else:
        other = read(chip.beside, reading.beside).pixels
    if other.shape[1:] != own.label.shape:
        beside = chip.images[0] if chip.beside is None else chip.beside.images[0]
        raise InputError(f"{beside}: is not on the grid of {chip.images[0]}, of which it is to show the same ground")
    return own._replace(pixels=np.concatenate([own.pixels, other]))


@lru_cache(maxsize=256)
def read_piece(chip: LabelledChip, bands: tuple[str, ...], units: str, black: float | None = None) -> Example:
    """Read a chip as it is, of its own size; kept in memory for the next time."""
    return Example(*load(chip, bands, units, black=black))


def look_anew() -> None:
    """Forget what chips were found to be and to hold: in a long session their files are corrected and used again."""
    for remembered in (open_chip, open_label, read_piece):
        remembered.cache_clear()


def read_fitted(chip: LabelledChip, reading: Reading) -> Example:
    """Read a chip resized into the square, centred: pixels antialiased, labels as ``reading.soft`` says."""
    pixels, label, valid = load(chip, reading.bands, reading.units, black=reading.black)
    size, longest = reading.size, max(label.shape)
    shape = (size, size) if reading.view == "stretch" else tuple(max(1, round(n * size / longest)) for n in label.shape)
    known = np.isfinite(pixels)
    share = resize(known.astype(np.float32), shape)
    pixels = resize(np.where(known, pixels, 0), shape) / np.maximum(share, 1e-6)
    pixels = np.where(share > 0.5, pixels, np.nan).astype(np.float32)
    if reading.soft:
        cover, water = resize(np.stack([valid, valid & (label == 1)]).astype(np.float32), shape)
        label, valid = np.clip(water / np.maximum(cover, 1e-6), 0, 1), cover > 0.5
    else:
        rows, columns = ((np.arange(n) + 0.5) * old / n for n, old in zip(shape, label.shape, strict=True))
        nearest = np.ix_(rows.astype(int), columns.astype(int))
        label, valid = label[nearest], valid[nearest]
    own = Example(pixels, label, valid).padded([((size - n) // 2, size - n - (size - n) // 2) for n in shape])
    return _joined(own, chip, reading, read_fitted)


def simulate_examples(count: int, seed: int, size: int = 512) -> list[Example]:
    """Simulate ``count`` labelled pieces of ``size``² pixels, VV and VH in dB, each of another landscape."""
    whole, made = Roi(0, size, 0, size), []
    for number in range(seed, seed + count):
        pixels, truth = simulate_window((size, size), whole, number, random_landscape(number))
        valid = (truth <= 1) & np.isfinite(pixels).all(0)
        made.append(Example(pixels, (truth == 1).astype(np.uint8), valid))
    return made


def _read(chip: LabelledChip, reading: Reading, window: Roi) -> Example:
    """Read the part of a window that lies inside the chip."""
    rows, columns = open_chip(chip).shape[1:]
    inside = Roi(window.y0, min(window.y1, rows), window.x0, min(window.x1, columns))
    return Example(*load(chip, reading.bands, reading.units, inside, reading.black))


# --- geometry


def resize(layers: np.ndarray, shape: tuple[int, ...], area: bool = False) -> np.ndarray:
    """Resize layers (K, h, w) bilinearly: antialiased, or if ``area`` to the mean of what each new pixel covers."""
    tensor = torch.from_numpy(np.ascontiguousarray(layers, np.float32))[None]
    if area and layers.shape[-1] > shape[-1]:
        return functional.interpolate(tensor, shape, mode="area")[0].numpy()
    return functional.interpolate(tensor, shape, mode="bilinear", align_corners=False, antialias=not area)[0].numpy()


def turned(array: np.ndarray, how: int) -> np.ndarray:
    """Return one of the eight flips and quarter turns, ``how`` 0..7, of the last two axes."""
    array = np.rot90(array, how % 4, axes=(-2, -1))
    return np.ascontiguousarray(array[..., ::-1] if how >= 4 else array)


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

    def of(self, chip: LabelledChip) -> np.ndarray:
        """Return a chip's labelled pixels of each class, (classes,)."""
        return np.asarray(self.counts[[owner is chip for owner, _ in self.cells]].sum(0))

    def share(self, chip: LabelledChip, number: int) -> float:
        """Return the share of class ``number`` among a chip's labelled pixels."""
        counts = self.of(chip)
        return float(counts[number] / max(1, counts.sum()))

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
        raise InputError(f"{chips[0].label}: not one pixel is labelled in it, nor in {len(chips) - 1} chips beside it")
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
