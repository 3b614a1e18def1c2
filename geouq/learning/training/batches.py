"""Batches of a recipe: whole chips pass by pass, windows balanced by class, or squares from anywhere; augmented.

What a step draws is a function of the seed and the step alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np

from geouq.grid import Roi
from geouq.learning.data.augment import WET, Group, Pool, Reader, draw_example, draw_piece, jitter_backscatter, turn
from geouq.learning.data.chip import LabelledChip, one_rater
from geouq.learning.data.examples import (
    Census,
    Example,
    Reading,
    draw_window,
    read_example,
    read_fitted,
    read_whole,
    simulate_examples,
    take_census,
)
from geouq.learning.data.loading import load_label
from geouq.learning.training.raters import labels_by_rule
from geouq.learning.training.recipe import Recipe
from geouq.learning.training.train import Batches

#: At most so many windows, evenly spread over the validation chips, judge a round.
JUDGED = 256


class Version(NamedTuple):
    """A chip by one rater: what reads it, its share of the positive class, and its valid pixels."""

    read: Reader
    water: float
    pixels: int


#: generator → an example
Draw = Callable[[np.random.Generator], Example]


def training_examples(
    recipe: Recipe,
    reading: Reading,
    chips: Sequence[LabelledChip],
    outlines: Sequence[np.ndarray] = (),
    positive: int = 1,
) -> Callable[[int], list[Example]]:
    """Return a function step → the examples of its batch.

    Parameters
    ----------
    positive : index of the class that augmentation paints.
    outlines : of it, (h, w) bool, that the data hold beside the chips (``read_outlines``).
    """
    if recipe.view in ("fit", "stretch"):
        return _chips(recipe, reading, chips)
    draw = (_crops if recipe.view == "crop" else _windows)(recipe, reading, chips, outlines, positive)
    seed = recipe.training.seed
    return lambda step: [draw(rng) for rng in [np.random.default_rng([seed, step])] for _ in range(recipe.batch)]


def prepared_ahead(prepare: Batches, steps: int, background: ThreadPoolExecutor) -> Batches:
    """Prepare the next batch while the network works on this one."""
    waiting: dict[int, Future[tuple[np.ndarray, ...]]] = {}

    def at(step: int) -> tuple[np.ndarray, ...]:
        ready = waiting.pop(step, None) or background.submit(prepare, step)
        if step + 1 < steps:
            waiting[step + 1] = background.submit(prepare, step + 1)
        return ready.result()

    return at


def _chips(recipe: Recipe, reading: Reading, chips: Sequence[LabelledChip]) -> Callable[[int], list[Example]]:
    """Return step → examples: all chips, made to fit, in a new order each pass."""
    fitted = [[read_fitted(one, reading) for one in chip.by_rater()] for chip in chips]
    size, a_pass, seed = min(recipe.batch, len(fitted)), -(-len(fitted) // recipe.batch), recipe.training.seed

    def at(step: int) -> list[Example]:
        order = np.random.default_rng([seed, step // a_pass]).permutation(len(fitted))
        first = step % a_pass * size
        rng = np.random.default_rng([seed, 1, step])
        chosen = [fitted[i] for i in np.resize(order, first + size)[first:]]
        return [_augment(one[int(rng.integers(len(one))) if len(one) > 1 else 0], recipe, rng) for one in chosen]

    return at


def _windows(
    recipe: Recipe, reading: Reading, chips: Sequence[LabelledChip], outlines: Sequence[np.ndarray], positive: int
) -> Draw:
    """Return what draws windows balanced by class."""
    census = take_census(chips, recipe.size)
    made, shapes = _made(recipe), _shapes(recipe, census, outlines, positive)

    def draw(rng: np.random.Generator) -> Example:
        painted = recipe.augment == "water"
        size = 2 * recipe.size if painted else recipe.size  # room to see it at a coarser resolution
        chip, window = draw_window(census, rng, size)
        example = read_example(one_rater(chip, rng), reading, window)
        if not painted:
            return _augment(example, recipe, rng)
        example = _positive_as_1(example, positive)
        alone = [Group([lambda: example])]
        pool = Pool(alone, alone if _share(example, 1) >= WET else [], made)
        return _classes_again(draw_example(pool, shapes, recipe.size, recipe.augmentation, rng), positive)

    return draw


def _crops(
    recipe: Recipe, reading: Reading, chips: Sequence[LabelledChip], outlines: Sequence[np.ndarray], positive: int
) -> Draw:
    """Return what draws squares from anywhere in a chip; with several raters, every other time by the first."""
    pieces = [(chip, versions) for chip in chips if (versions := _versions(chip, recipe, reading, positive))]
    several, by_place = any(len(versions) > 1 for _, versions in pieces), recipe.balance == "places"
    made = _made(recipe)
    shapes = _shapes(recipe, take_census(chips, recipe.size), outlines, positive)

    owners = [chip for chip, _ in pieces]
    by_first = _pool(owners, by_place, [versions[0] for _, versions in pieces], made)

    def draw(rng: np.random.Generator) -> Example:
        chosen = [_one_version(versions, rng) for _, versions in pieces] if several else []
        pool = _pool(owners, by_place, chosen, made) if several else by_first
        if recipe.augment != "water":
            return _augment(_square_of(pool, recipe.size, rng), recipe, rng)
        return _classes_again(draw_example(pool, shapes, recipe.size, recipe.augmentation, rng), positive)

    return draw


def _pool(chips: Sequence[LabelledChip], by_place: bool, chosen: Sequence[Version], made: Sequence[Group]) -> Pool:
    """Return the pieces, each for itself; or by place, and of these as wet those alone that are dry as well.

    A place weighs the root of its pixels: as one witness it would count as much for 120² pixels as for 1000², in
    proportion to them a large place would drown the others.
    """
    if not by_place:
        alone = [(Group([piece.read]), piece.water) for piece in chosen]
        return Pool([group for group, _ in alone], [group for group, water in alone if water >= WET], made)
    places: dict[str, list[Version]] = {}
    for chip, piece in zip(chips, chosen, strict=True):
        places.setdefault(chip.place, []).append(piece)
    mixed = [[piece for piece in pieces if WET <= piece.water <= 1 - WET] for pieces in places.values()]
    return Pool([_place(pieces) for pieces in places.values()], [_place(pieces) for pieces in mixed if pieces], made)


def _place(pieces: Sequence[Version]) -> Group:
    return Group([piece.read for piece in pieces], float(np.sqrt(sum(piece.pixels for piece in pieces))))


def _versions(chip: LabelledChip, recipe: Recipe, reading: Reading, positive: int) -> list[Version]:
    """Return a chip once a rater; nothing if it has no valid pixel."""
    pieces = [partial(read_whole, one, reading) for one in chip.by_rater()]
    if not pieces[0]().valid.any():
        return []
    if recipe.augment != "water":
        return [_version(read, positive) for read in pieces]
    readers: list[Reader] = [lambda read=read: _positive_as_1(read(), positive) for read in pieces]  # type: ignore[misc]
    for label in labels_by_rule(chip, readers[0](), recipe.raters):
        readers.append(lambda label=label: readers[0]()._replace(label=label))  # type: ignore[misc]
    return [_version(read, 1) for read in readers]


def _version(read: Reader, positive: int) -> Version:
    example = read()
    return Version(read, _share(example, positive), int(example.valid.sum()))


def _one_version(versions: Sequence[Version], rng: np.random.Generator) -> Version:
    return versions[0] if rng.random() < 0.5 else versions[int(rng.integers(len(versions)))]


def _positive_as_1(example: Example, positive: int) -> Example:
    """Label the positive class 1 and all else 0, as augmentation paints it."""
    return example._replace(label=(example.label == positive).astype(np.uint8))


def _classes_again(example: Example, positive: int) -> Example:
    """Give back class indices to an example of two classes whose positive one is labelled 1."""
    return example if positive == 1 else example._replace(label=1 - example.label)


def _square_of(pool: Pool, size: int, rng: np.random.Generator) -> Example:
    """Cut a square from anywhere in a piece, every other time a wet one; what lies outside the piece is not valid."""
    piece = draw_piece(pool.draw(0, rng), rng)
    y, x = (int(rng.integers(max(n - size, 0) + 1)) for n in piece.label.shape)
    return piece.window(Roi(y, y + size, x, x + size))


def _share(example: Example, number: int) -> float:
    """Return the share of class ``number`` among valid pixels, 0 where none is valid."""
    return float((example.label[example.valid] == number).mean()) if example.valid.any() else 0.0


def _made(recipe: Recipe) -> list[Group]:
    """Return what reads each simulated piece that joins the training."""
    if recipe.augment != "water":
        return []
    return [Group([lambda s=s: s]) for s in simulate_examples(recipe.simulated, recipe.training.seed)]  # type: ignore[misc]


def _shapes(recipe: Recipe, census: Census, outlines: Sequence[np.ndarray], positive: int) -> Sequence[np.ndarray]:
    """Return outlines of water to paint more of it by, as the recipe says where they come from."""
    if recipe.augment != "water" or recipe.outlines == "none":
        return ()
    return outlines if recipe.outlines != "labels" and outlines else _outlines(census, positive)


def _outlines(census: Census, positive: int, most: int = 100) -> list[np.ndarray]:
    """Return outlines of the positive class from the training labels."""
    share = census.counts[:, positive] / np.maximum(census.counts.sum(1), 1)
    cells = [c for c, s in zip(census.cells, share, strict=True) if WET <= s <= 0.9 and min(c[1].shape) >= 32]
    return [load_label(*cell) == positive for cell in cells[:: max(1, len(cells) // most)]]


def _augment(example: Example, recipe: Recipe, rng: np.random.Generator) -> Example:
    if recipe.augment == "none":
        return example
    if recipe.augment == "backscatter":
        example = jitter_backscatter(example, rng, bands=len(recipe.bands))
    return turn(example, rng)


def held_out(reading: Reading, chips: Sequence[LabelledChip]) -> list[Reader]:
    """Return one function for each validation example, which reads it: whole chips, or windows without overlap."""
    if not chips:
        return []
    if reading.view in ("fit", "stretch"):
        fitted = [read_fitted(chip, reading) for chip in chips]
        return [lambda s=s: s for s in fitted]  # type: ignore[misc]
    cells = take_census(chips, reading.size).cells
    chosen = cells[:: -(-len(cells) // JUDGED)]
    return [partial(read_example, c, reading, _square(w, reading.size)) for c, w in chosen]


def _square(window: Roi, size: int) -> Roi:
    return Roi(window.y0, window.y0 + size, window.x0, window.x0 + size)
