"""What a training says of itself while it runs."""

from __future__ import annotations

from dataclasses import dataclass

from geouq.learning.training.recipe import Recipe
from geouq.learning.training.train import Row


@dataclass(frozen=True)
class Begun:
    """Event: the training of that name begins, the ``number``-th of ``count``, without some places."""

    name: str
    number: int
    count: int
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """Event: what is about to be trained on what: numbers of chips, and of places they are of; notes to be read."""

    recipe: Recipe
    training: int
    validation: int
    left_out: int
    device: str
    places: tuple[int, int] = (0, 0)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stepped:
    """Event: step (counted from 1) of so many, and its loss."""

    step: int
    steps: int
    loss: float


@dataclass(frozen=True)
class Judged:
    """Event: a round is over; its row of the log."""

    row: Row


@dataclass(frozen=True)
class Ended:
    """Event: the training ended at ``step`` of ``steps``; the weights that are kept are those of step ``kept``.

    It ended early if ``step`` is below ``steps``: for ``patience`` rounds no loss had been lower.
    """

    step: int
    steps: int
    kept: int
    patience: int


Event = Begun | Prepared | Stepped | Judged | Ended
