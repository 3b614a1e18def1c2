"""Splits of labelled chips that keep places whole: never by pixel, and never between neighbouring chips."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

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
    InputError : a place is on both sides, or on one and in a test, or not known; or one side would be empty.
    """
    chips = without_tests(chips)
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


def without_tests(chips: Iterable[LabelledChip]) -> list[LabelledChip]:
    """Return the chips that are not of the split "test".

    Raises
    ------
    InputError : one of them is of a place that is tested on.
    """
    chips = list(chips)
    tested = {chip.place for chip in chips if chip.split == "test"}
    rest = [chip for chip in chips if chip.split != "test"]
    both = sorted(tested & {chip.place for chip in rest})
    if both:
        raise InputError(f"place {both[0]!r} is both in test and in train or validation: keep each place on one side")
    return rest


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


def balanced_folds(kinds: Mapping[str, str], pixels: Mapping[str, int], count: int, seed: int = 0) -> list[list[str]]:
    """Split places into folds with about as many places of each kind, and about as many pixels.

    Kind after kind, from its largest place to its smallest, each goes to the fold with the fewest places of its kind,
    then with the fewest pixels; the seed orders what is alike.

    Parameters
    ----------
    kinds, pixels : of each place, what it counts as (wet, dry …), and how large it is.

    Raises
    ------
    InputError : there are fewer than 2 folds, or fewer places than folds.
    """
    if not 2 <= count <= len(kinds):
        raise InputError(f"{len(kinds)} places cannot be split in {count} folds: give 2 or more, and a place each")
    shuffled = [sorted(kinds)[i] for i in np.random.default_rng(seed).permutation(len(kinds))]
    folds: list[list[str]] = [[] for _ in range(count)]
    for place in sorted(shuffled, key=lambda name: (kinds[name], -pixels[name])):
        alike = [sum(kinds[other] == kinds[place] for other in fold) for fold in folds]
        size = [sum(pixels[other] for other in fold) for fold in folds]
        folds[min(range(count), key=lambda k: (alike[k], size[k], k))].append(place)
    return [sorted(fold) for fold in folds]


def check_folds(folds: Sequence[Sequence[str]], places: Iterable[str]) -> None:
    """Raise InputError for folds given by names that are fewer than 2, name a place twice, or one that is not known."""
    known, named = sorted(set(places)), [place for fold in folds for place in fold]
    unknown = sorted(set(named) - set(known))
    twice = sorted(place for place in set(named) if named.count(place) > 1)
    if unknown:
        raise InputError(f"no chip that can be left out is of place {unknown[0]!r}: places are {', '.join(known)}")
    if twice:
        raise InputError(f"place {twice[0]!r} is in two folds: leave it out once")
    if len(folds) < 2 or not all(folds):
        raise InputError("folds need two groups of places or more, as in 'a,b;c,d'")


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
