"""One labelled chip: the files of an image and its label, and what is to be known to read them."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from geouq.errors import InputError
from geouq.layers import misplaced


@dataclass(frozen=True)
class LabelledChip:
    """One labelled image or scene, by its files.

    name : unlike any other in its dataset. place : the geographic unit that splits keep whole; chips of one flood, or
        of neighbouring ground, share it.
    images : one file, or one a band. label : a raster of the same shape.
    raters : further labels of the same image, by other people or methods; training draws one of all a step.
    split : "train", "validation", "test", or "" where nobody said. dataset : what scores are also pooled by.
    bands : names in order, where the files do not name them.
    scale, nodata : as ``open_scene`` takes them. factor, offset : value · factor + offset is in those units; one
        number for all bands or one a band.
    least : in those units; lower values are raised to it, as a count of 0 stands for less than half of one.
    ignore : label values that say nothing; None stands for 255 and all below 0.
    classes : label values in class order; empty stands for 0, 1, 2 …
    beside : another image of the same ground, on the same grid, that a teacher sees.
    class_names : names of the classes, in order, where the data tell them.
    throughout : class index of every pixel; ``label`` is then the first image, and not read.
    """

    name: str
    place: str
    images: tuple[Path, ...]
    label: Path
    split: str = ""
    dataset: str = ""
    bands: tuple[str, ...] = ()
    scale: str = "auto"
    factor: tuple[float, ...] = (1.0,)
    offset: tuple[float, ...] = (0.0,)
    least: float | None = None
    nodata: float | None = None
    ignore: tuple[int, ...] | None = None
    classes: tuple[int, ...] = ()
    raters: tuple[Path, ...] = ()
    throughout: int | None = None
    class_names: tuple[str, ...] = ()
    beside: LabelledChip | None = None

    def by_rater(self) -> tuple[LabelledChip, ...]:
        """Return the chip once a rater, each with that rater's label alone."""
        return tuple(replace(self, label=label, raters=()) for label in (self.label, *self.raters))


def mark_of(name: str) -> str:
    """Return the number by which a chip's name is known again in a model that was trained on it."""
    return f"{zlib.crc32(name.encode()):08x}"


def class_names_of(chips: Sequence[LabelledChip], given: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the names of the classes: those ``given``, or the longest list that the data of any chip tell, or ().

    Raises
    ------
    InputError : two chips call one class index by different names, or the data have a name given at another index.
    """
    told = _told_by(chips)
    if not given:
        return told
    name = misplaced(given, told)
    if name is not None:
        raise InputError(
            f"class {given.index(name)} is to be named {name}, which the data call class {told.index(name)} "
            f"({', '.join(told)}): give the names in the order of the label values"
        )
    return tuple(given)


def _told_by(chips: Sequence[LabelledChip]) -> tuple[str, ...]:
    if not chips:
        return ()
    longest = max(chips, key=lambda chip: len(chip.class_names))
    for chip in chips:
        for index, names in enumerate(zip(chip.class_names, longest.class_names, strict=False)):
            if names[0] != names[1]:
                raise InputError(
                    f"{chip.label}: class {index} is named {names[0]}, and {names[1]} in {longest.label}: label and "
                    "name all chips alike"
                )
    return longest.class_names


def one_rater(chip: LabelledChip, rng: np.random.Generator) -> LabelledChip:
    """Return the chip with the label of one of its raters, drawn evenly; with one rater nothing is drawn."""
    return chip.by_rater()[int(rng.integers(1 + len(chip.raters)))] if chip.raters else chip


def place_of(stem: str) -> str:
    """Return a file name's place: the name up to its last underscore and number, or all of it."""
    return re.sub(r"_\d+$", "", stem)


def place_in(name: str, pattern: str) -> str:
    """Return the place that a regular expression finds in a name: its group ``place``, else its first, else all of it.

    Raises
    ------
    InputError : the pattern is none, or finds nothing there.
    """
    try:
        found = re.search(pattern, name)
    except re.error as error:
        raise InputError(f"place pattern '{pattern}' is no regular expression: {error}") from None
    if found is None:
        raise InputError(f"place pattern '{pattern}' finds nothing in the name {name!r}: it must in all of them")
    groups = found.groupdict().get("place"), *found.groups(), found[0]
    place = next((group for group in groups if group), "")
    if not place:
        raise InputError(f"place pattern '{pattern}' finds an empty place in the name {name!r}")
    return place
