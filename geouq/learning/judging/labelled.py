"""The labelled pixels of a chip, window by window as ``segment`` sees them, and a fair choice among them."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from geouq import noise
from geouq.errors import InputError
from geouq.grid import Roi, Tile
from geouq.layers import misplaced
from geouq.learning.data.chip import LabelledChip, mark_of
from geouq.learning.data.loading import UNLABELLED, load_label, open_chip
from geouq.networks.model import Model
from geouq.sampling.window import Window
from geouq.segmentation.job import Job
from geouq.segmentation.tile import tile_values, tile_window

#: about how many pixels' logits are kept
MOST_PIXELS = 200_000
_PURPOSE = 0x63616C69  # keeps the choice of pixels apart from other random numbers


def labelled(
    job: Job, chip: LabelledChip, everything: bool = False
) -> Iterator[tuple[Tile, Window, np.ndarray, np.ndarray]]:
    """Yield each tile with its window, the label of its core, and where that is both valid and labelled.

    ``everything`` : tiles without such a pixel, too.
    """
    for tile in job.tiling:
        label = load_label(chip, tile.core)
        check_label(chip, label, job.sampler.model.spec.classes)
        window = tile_window(job, np.asarray(tile_values(open_chip(chip), tile)), tile)
        keep = (label != UNLABELLED) & window.valid[tile.core.within(window.roi).slices]
        if everything or keep.any():
            yield tile, window, label, keep


def check_label(chip: LabelledChip, label: np.ndarray, classes: Sequence[str]) -> None:
    """Refuse a label that holds a class which the model has not, or whose data name its classes in another order.

    Raises
    ------
    InputError : as said.
    """
    if label.max(initial=0) >= len(classes):
        names = ", ".join(classes)
        raise InputError(f"{chip.label}: holds class {label.max()}, and the model has {names}: name ignore or classes")
    name = misplaced(chip.class_names, classes)
    if name is not None:
        raise InputError(
            f"{chip.label}: {name} is class {chip.class_names.index(name)}, and class {classes.index(name)} of the "
            "model: give the label values, and class_names, in the order of the model (classes: of a manifest)"
        )


def trained_on(models: Sequence[Model], names: Iterable[str]) -> int:
    """Return how many chips of these names one of the models at least was trained on, as far as they know."""
    seen = {mark for model in models for mark in model.spec.trained_on or ()}
    return sum(mark_of(name) in seen for name in names)


def lottery(name: str, core: Roi, seed: int) -> np.ndarray:
    """Return a number from 0 to 1 for each pixel, by the chip's name and the pixel's position alone."""
    rows, columns = core.slices
    y, x = np.arange(rows.start, rows.stop)[:, None], np.arange(columns.start, columns.stop)
    return noise.uniform(seed, _PURPOSE, zlib.crc32(name.encode()), y, x)


def pixels_share(chips: Sequence[LabelledChip], most: int = MOST_PIXELS) -> float:
    """Return which share of all pixels of some chips is about ``most``."""
    return most / max(1, sum(int(np.prod(open_chip(chip).shape[1:])) for chip in chips))
