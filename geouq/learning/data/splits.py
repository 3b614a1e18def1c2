"""Splits of labelled chips that keep places whole: never by pixel, and never between neighbouring chips."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from geouq.errors import InputError
from geouq.learning.data.chip import LabelledChip


def split_by_place(
    chips: Iterable[LabelledChip],
    validation: Sequence[str] | float | None = None,
    seed: int = 0,
    usual: float = 0.2,
) -> tuple[list[LabelledChip], list[LabelledChip]]:
    """Split chips into training and validation, no place on both sides and chips of the split "test" on neither.

    Parameters
    ----------
    validation : names of places; or the share of all places (0..1), drawn by ``seed``; or None: as the chips' own split
        says, and the share ``usual`` of the places if no chip says so.
    usual : 0: nothing is held out, and validation stays empty.

    Raises
    ------
    InputError : a place is on both sides or not known, or one side would be empty.
    """
    chips = [chip for chip in chips if chip.split != "test"]
    if validation is None and not usual and chips and not any(chip.split for chip in chips):
        return chips, []
    if validation is None and any(chip.split for chip in chips):
        held = {chip.place for chip in chips if chip.split == "validation"}
        both = sorted(held & {chip.place for chip in chips if chip.split != "validation"})
        if both:
            raise InputError(f"place {both[0]!r} is both in train and in validation: keep each place on one side")
    else:
        places = sorted({chip.place for chip in chips})
        held = _draw(places, usual if validation is None else validation, seed)
    sides = [c for c in chips if c.place not in held], [c for c in chips if c.place in held]
    if not all(sides):
        raise InputError(
            f"{len({c.place for c in chips})} places cannot be split with {len(held)} of them for validation: "
            "give more places (a place column in a manifest), or name others"
        )
    return sides


def of_split(chips: Sequence[LabelledChip], split: str) -> list[LabelledChip]:
    """Return the chips of a split if there are any, else all that are not of the split "train".

    Raises
    ------
    InputError : there is none.
    """
    chosen = [c for c in chips if c.split == split] or [c for c in chips if c.split != "train"]
    if not chosen:
        raise InputError(
            f"all {len(chips)} chips are of the split train: scores need others (split test or validation)"
        )
    return chosen


def _draw(places: Sequence[str], validation: Sequence[str] | float, seed: int) -> set[str]:
    if isinstance(validation, int | float):
        if not 0 < validation < 1:
            raise InputError(f"validation share {validation} is not between 0 and 1")
        order = np.random.default_rng(seed).permutation(len(places))
        return {places[i] for i in order[: max(1, round(validation * len(places)))]}
    unknown = sorted(set(validation) - set(places))
    if unknown:
        raise InputError(f"no chip is of place {unknown[0]!r}: places are {', '.join(places)}")
    return set(validation)
