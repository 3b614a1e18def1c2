"""Batches of a recipe: whole chips pass by pass or windows balanced by class, augmented; and the held-out samples.

What a step draws is a function of the seed and the step alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from geouq.grid import Roi
from geouq.learning.data.augment import Augmentation, draw_sample
from geouq.learning.data.chips import Chip, simulate_chips
from geouq.learning.data.dataset import LabelledChip, one_rater
from geouq.learning.data.loading import load_label
from geouq.learning.data.samples import (
    Census,
    Reading,
    Sample,
    draw_window,
    jitter_backscatter,
    read_whole,
    read_window,
    take_census,
    turn,
)
from geouq.learning.training.recipes import Recipe
from geouq.learning.training.train import Batches

#: At most so many windows, evenly spread over the validation chips, judge a round.
JUDGED = 256


def training_samples(recipe: Recipe, reading: Reading, chips: Sequence[LabelledChip]) -> Callable[[int], list[Sample]]:
    """Return a function step → the samples of its batch."""
    return (_windows if recipe.view == "window" else _chips)(recipe, reading, chips)


def prepared_ahead(prepare: Batches, steps: int, background: ThreadPoolExecutor) -> Batches:
    """Prepare the next batch while the network works on this one."""
    waiting: dict[int, Future[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}

    def at(step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        ready = waiting.pop(step, None) or background.submit(prepare, step)
        if step + 1 < steps:
            waiting[step + 1] = background.submit(prepare, step + 1)
        return ready.result()

    return at


def _chips(recipe: Recipe, reading: Reading, chips: Sequence[LabelledChip]) -> Callable[[int], list[Sample]]:
    """Return step → samples: all chips, made to fit, in a new order each pass."""
    fitted = [[read_whole(one, reading) for one in chip.by_rater()] for chip in chips]
    size, a_pass, seed = min(recipe.batch, len(fitted)), -(-len(fitted) // recipe.batch), recipe.training.seed

    def at(step: int) -> list[Sample]:
        order = np.random.default_rng([seed, step // a_pass]).permutation(len(fitted))
        first = step % a_pass * size
        rng = np.random.default_rng([seed, 1, step])
        chosen = [fitted[i] for i in np.resize(order, first + size)[first:]]
        return [_augment(one[int(rng.integers(len(one))) if len(one) > 1 else 0], recipe, rng) for one in chosen]

    return at


def _windows(recipe: Recipe, reading: Reading, chips: Sequence[LabelledChip]) -> Callable[[int], list[Sample]]:
    """Return step → samples: windows balanced by class."""
    census, seed = take_census(chips, recipe.size), recipe.training.seed
    if recipe.augment != "water":

        def draw(rng: np.random.Generator) -> Sample:
            chip, window = draw_window(census, rng)
            return _augment(read_window(one_rater(chip, rng), reading, window), recipe, rng)

    else:
        made, shapes = simulate_chips(recipe.simulated, seed), _outlines(census)
        how = Augmentation(size=recipe.size)

        def draw(rng: np.random.Generator) -> Sample:
            chip, window = draw_window(census, rng, 2 * recipe.size)  # room to see it at a coarser resolution
            pixels, label, valid = read_window(one_rater(chip, rng), reading, window)
            around = Chip(chip.name, chip.place, pixels, (label == 1).astype(np.uint8), valid)
            return draw_sample([around, *made], shapes, how, rng)

    return lambda step: [draw(rng) for rng in [np.random.default_rng([seed, step])] for _ in range(recipe.batch)]


def _outlines(census: Census, most: int = 100) -> list[np.ndarray]:
    """Return outlines of class 1 from the training labels, to paint more of it by."""
    share = census.counts[:, 1] / np.maximum(census.counts.sum(1), 1)
    cells = [c for c, s in zip(census.cells, share, strict=True) if 0.02 <= s <= 0.9 and min(c[1].shape) >= 32]
    return [load_label(*cell) == 1 for cell in cells[:: max(1, len(cells) // most)]]


def _augment(sample: Sample, recipe: Recipe, rng: np.random.Generator) -> Sample:
    if recipe.augment == "none":
        return sample
    if recipe.augment == "backscatter":
        sample = jitter_backscatter(sample, rng)
    return turn(sample, rng)


def held_out(reading: Reading, chips: Sequence[LabelledChip]) -> list[Callable[[], Sample]]:
    """Return one function for each validation sample, which reads it: whole chips, or windows without overlap."""
    if reading.view != "window":
        fitted = [read_whole(chip, reading) for chip in chips]
        return [lambda s=s: s for s in fitted]  # type: ignore[misc]
    cells = take_census(chips, reading.size).cells
    chosen = cells[:: -(-len(cells) // JUDGED)]
    return [lambda c=c, w=w: read_window(c, reading, _square(w, reading.size)) for c, w in chosen]  # type: ignore[misc]


def _square(window: Roi, size: int) -> Roi:
    return Roi(window.y0, window.y0 + size, window.x0, window.x0 + size)
