"""What data decide of a recipe: bands, units, classes, and how many steps are a pass over the chips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from geouq.errors import InputError
from geouq.learning.data.chip import LabelledChip
from geouq.learning.data.examples import take_census
from geouq.learning.data.loading import load, open_chip, windows
from geouq.learning.training.losses import for_classes
from geouq.learning.training.recipe import Recipe
from geouq.units import AMPLITUDE, DB, POWER, RGB, UNKNOWN, check_convertible

#: Chips whose longest side is above this are scenes.
SCENE = 1024


def settle(recipe: Recipe, chips: Sequence[LabelledChip], classes: int, steps: int | None, seed: int) -> Recipe:
    """Return the recipe with all that the data, steps and seed decide filled in; a settled one stays as it is.

    Where units cannot be converted to the recipe's, the data's own are kept and normalised by mean and standard
    deviation of the training chips; a recipe of other units than RGB with bands of its own refuses instead. With more
    than two classes, binary losses become cross entropy; balanced class weights become numbers. Backscatter in dB is
    also speckled and shifted where pictures are only turned. Scenes (a longest side of more than ``SCENE`` pixels, in
    the median) are neither shrunk nor held whole, but cut into windows. A pass draws one example from a chip, and from
    a scene as many windows as cover it.

    Raises
    ------
    InputError : augmentation "water" with more than two classes. UnitsError : the units do not fit the recipe's bands.
    """
    if recipe.augment == "water" and classes > 2:
        raise InputError(f'recipe {recipe.name}: augment "water" is for two classes, and the labels hold {classes}')
    units, bands = _units_and_bands(recipe, chips)
    changes: dict[str, Any] = {"units": units, "bands": bands}
    if units != recipe.units:
        changes |= _measure(chips, bands, units)
        changes["black"] = -1.0
    elif len(recipe.mean) != len(bands):
        changes |= {"mean": recipe.mean[:1] * len(bands), "std": recipe.std[:1] * len(bands)}
    if recipe.augment == "turn" and units == DB:
        changes["augment"] = "backscatter"
    changes["arguments"] = {**recipe.arguments, "bands": len(bands), "classes": 1 if classes == 2 else classes}
    shapes = [open_chip(chip).shape[1:] for chip in chips]
    if np.median([max(shape) for shape in shapes]) > SCENE:
        changes["view"] = "window"
    every, length = _rounds(recipe, shapes)
    loss = recipe.training.loss if classes == 2 else for_classes(recipe.training.loss)
    weights = _class_weights(recipe, chips, classes)
    training = replace(recipe.training, steps=steps or length, every=every, loss=loss, class_weights=weights, seed=seed)
    return replace(recipe, **changes, epochs=0, training=training)


def _rounds(recipe: Recipe, shapes: Sequence[tuple[int, ...]]) -> tuple[int, int]:
    """Return the steps of a round and of the run: of a pass and of all passes, but not too few."""
    if not recipe.epochs:
        return recipe.training.every, recipe.training.steps
    size = recipe.size
    drawn = [-(-h // size) * -(-w // size) if max(h, w) > SCENE else 1 for h, w in shapes]
    a_pass = -(-sum(drawn) // recipe.batch)
    return max(a_pass, recipe.round_steps), max(a_pass * recipe.epochs, recipe.training.floor)


def _class_weights(recipe: Recipe, chips: Sequence[LabelledChip], classes: int) -> tuple[float, ...]:
    """Return what each class counts in the loss: "balanced" by the labels, a class that has no pixels as 1."""
    given = recipe.training.class_weights
    if given and not isinstance(given, str) and len(given) != classes:
        raise InputError(f"recipe {recipe.name}: class_weights are {len(given)}, and there are {classes} classes")
    if not isinstance(given, str):
        return given
    counts = take_census(chips, recipe.size).counts.sum(0)[:classes]
    return tuple(round(float(counts.sum() / (classes * n)), 6) if n else 1.0 for n in counts)


def _units_and_bands(recipe: Recipe, chips: Sequence[LabelledChip]) -> tuple[str, tuple[str, ...]]:
    scenes = (open_chip(chip) for chip in chips)
    scene = next((s for s in scenes if s.attrs["units"] != UNKNOWN), open_chip(chips[0]))
    units, bands = str(scene.attrs["units"]), recipe.bands or tuple(str(b) for b in scene["band"].values)
    try:
        check_convertible(units, recipe.units)
    except InputError:
        if recipe.bands and recipe.units != RGB:
            raise
        return (DB if units in (POWER, AMPLITUDE) else units), bands
    return recipe.units, bands


def check_bands(recipe: Recipe, chips: Sequence[LabelledChip]) -> None:
    """Refuse chips that differ in their bands: what one lacks would be 0 in it, what it has more would not be seen.

    A recipe may name the bands that are wanted, and have those that are missing as 0 (``missing_bands``).

    Raises
    ------
    InputError : as said.
    """
    bands = [[str(name) for name in open_chip(chip)["band"].values] for chip in chips]
    wanted = {name.upper() for name in recipe.bands or bands[0]}
    for chip, names in zip(chips, bands, strict=True):
        known = {name.upper() for name in names}
        lacks = wanted - known and recipe.missing_bands == "refuse"
        if known & wanted and (lacks or (known - wanted and not recipe.bands)):
            others = ", ".join(recipe.bands or bands[0])
            raise InputError(
                f"{chip.images[0]}: has bands {', '.join(names)}, and "
                f"{'wanted' if recipe.bands else 'other chips have'} are {others}: give all chips the same, or name "
                "those that all have (--set bands=…; bands of a manifest)"
            )


def _measure(chips: Sequence[LabelledChip], bands: tuple[str, ...], units: str) -> dict[str, Any]:
    """Measure mean, std (a value a band) and clip (0.1 and 99.9 %) on a window in the middle of up to 64 chips."""
    values = np.empty((len(bands), 0), np.float32)
    for chip in chips[:: -(-len(chips) // 64)]:
        cells = list(windows(chip, 512))
        pixels, _, valid = load(chip, bands, units, cells[len(cells) // 2])
        values = np.concatenate([values, pixels[:, valid]], axis=1)
    if not values.size:
        raise InputError(f"{chips[0].images[0]}: not one pixel is measured and labelled, here and in other chips")
    low, high = np.nanquantile(values, (0.001, 0.999))
    values = np.clip(values, low, high)
    std = np.maximum(np.nanstd(values, axis=1), 1e-6)
    mean = np.nanmean(values, axis=1)
    high = max(high, low + 1e-3)  # constant data
    return {"mean": tuple(map(float, mean)), "std": tuple(map(float, std)), "clip": (float(low), float(high))}


def positive_name(names: Sequence[str]) -> str:
    """Return the class that counts: water if there is one, whatever its letters' case, else class 1."""
    return next((name for name in names if name.lower() == "water"), names[1])


def class_names(recipe: Recipe, found: Sequence[int], given: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the names of the classes: those given, or the recipe's two, or numbers where more were found.

    Parameters
    ----------
    found : the class indices that occur in the labels, in order.

    Raises
    ------
    InputError : fewer names are given than there are classes, or one twice; or nobody names them and indices are left
        out, as where labels are codes (10, 20, 30).
    """
    count = max(found) + 1
    if given is None:
        if count > 2 and len(found) < count:
            codes = ";".join(map(str, found))
            raise InputError(
                f"labels hold {', '.join(map(str, found))}: codes of {len(found)} classes, or {count} classes? "
                f"Say classes: {codes} in a manifest, or name all {count} with --classes"
            )
        return recipe.classes if count <= 2 else tuple(f"class{i}" for i in range(count))
    if len(given) < max(count, 2) or len(set(given)) < len(given):
        raise InputError(f"classes are {', '.join(given)}, and the labels hold {count}: give as many different names")
    return given
