"""Recipes: everything about a training run but the data, by name.

Three come from public systems, written anew from descriptions of them; ``notes`` says what was not copied, because it
would have flattered the scores or blurred the labels. Where data differ from a recipe's own (other bands, units or
classes), :func:`settle` says how the recipe adapts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from geouq.errors import InputError
from geouq.learning.data.dataset import LabelledChip
from geouq.learning.data.loading import load, open_chip, windows
from geouq.learning.training.train import TrainConfig
from geouq.units import AMPLITUDE, DB, POWER, RGB, UNKNOWN, check_convertible

#: Chips whose longest side is above this are scenes.
SCENE = 1024


@dataclass(frozen=True)
class Recipe:
    """Settings of a model to be trained.

    architecture, arguments : as in a model file, without bands and classes, which the data decide.
    size, view, batch : samples (geouq.learning.data.samples.Reading).
    bands : wanted, in order; empty: all that the data have. units, mean, std, clip : as in a model file; one mean and
        std stand for every band.
    missing_bands : "zero" or "refuse".
    augment : "none"; "turn": flips and quarter turns; "backscatter": also dB offsets and extra speckle;
        "water": all of geouq.learning.data.augment.
    most_positive : chips labelled class 1 over more than this share are ill-posed and left out.
    simulated : simulated chips that join the training ("water" only).
    epochs : passes over the chips; 0: as many steps as ``training`` says.
    training : the loop's settings; ``every`` is one pass where there are epochs.
    classes : names, where there are two.
    """

    name: str
    architecture: str
    arguments: Mapping[str, Any]
    notes: str
    size: int = 128
    view: str = "window"
    batch: int = 32
    bands: tuple[str, ...] = ()
    units: str = RGB
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (255.0,)
    clip: tuple[float, float] = (0.0, 255.0)
    missing_bands: str = "refuse"
    augment: str = "turn"
    most_positive: float = 1.0
    simulated: int = 0
    epochs: int = 0
    training: TrainConfig = field(default_factory=TrainConfig)
    classes: tuple[str, str] = ("land", "water")


_SEED = TrainConfig(warmup=0, decay=0.0, average=0.0, rate=1e-3, schedule="constant", patience=10)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="mc-dropout-unet",
            architecture="mc-dropout-unet",
            arguments={"rate": 0.5},
            view="fit",
            most_positive=250 / 255,
            epochs=150,
            training=replace(_SEED, loss="bce", optimiser="nadam", schedule="plateau"),
            notes="""Water from RGB with Monte-Carlo dropout, after github chrismolli/uncertainty-in-image-seg (MIT):
            7.35 M parameters, chips fitted into 128 with their aspect kept, BCE on soft masks, Nadam 1e-3,
            rate × 0.3 after 3 rounds without a lower validation loss, end after 10; use with --samples 100 and layer
            std. Not copied: the test set as validation set (places are held out here), the last weights
            (here the best), padding as land and no-data as water (neither is valid here), a filter of
            ill-posed masks that skips neighbours. Added: flips and quarter turns.""",
        ),
        Recipe(
            name="unet-16",
            architecture="unet",
            arguments={"widths": [16, 32, 64, 128, 256], "up": "transpose"},
            view="fit",
            most_positive=250 / 255,
            epochs=18,
            training=replace(_SEED, loss="bce", optimiser="adam"),
            notes="""A small U-Net, 16…256, transposed convolutions, batch normalisation, 128 × 128, after github
            Aadit3003/u-nets-implementation: 18 epochs of Adam 1e-3, batch 32, BCE. Added: channel dropout
            (core and decoder 0.2), the best weights by held-out places, validity, flips and quarter turns.""",
        ),
        Recipe(
            name="unet-34m",
            architecture="plain-unet",
            arguments={"rate": 0.3},
            view="stretch",
            mean=(127.5,),
            std=(127.5,),
            augment="none",
            epochs=38,
            training=replace(_SEED, loss="cross_entropy", optimiser="adam"),
            notes="""The classic U-Net, 64…1024, dropout 0.3, after github Ayush-Mi/Image-Segmentation-Using-U-Net:
            34,514,060 parameters for 12 classes, images stretched to 128 × 128, Adam 1e-3, cross
            entropy, 20 epochs of 1.9 passes each. Not copied: label maps resized bilinearly (nearest here), void
            trained and scored as a class (ignored here), dropout of single values (channels here, as samples need).""",
        ),
        Recipe(
            name="s1-water",
            architecture="unet",
            arguments={"widths": [16, 32, 64, 128, 128], "stem": 2, "dropout": {"bottleneck": 0.3, "decoder": 0.2}},
            size=256,
            batch=8,
            bands=("VV", "VH"),
            units=DB,
            mean=(-12.0, -19.0),
            std=(5.0, 6.0),
            clip=(-50.0, 20.0),
            missing_bands="zero",
            augment="water",
            simulated=60,
            training=TrainConfig(steps=800, every=100, rate=3e-3),
            notes="""Ours: water from Sentinel-1 VV and VH. Windows balanced by class, seen at other resolutions,
            speckled, shifted in gain, with water painted from calm to wind-roughened, and simulated chips.
            BCE + Dice, AdamW, cosine, averaged weights. The script that made the shipped model is
            examples/train_s1_water.py.""",
        ),
        Recipe(
            name="ssn",
            architecture="ssn",
            arguments={"backbone": "unet", "rank": 10, "widths": [16, 32, 64, 128], "stem": 2, "dropout": {}},
            batch=8,
            training=TrainConfig(steps=2000, every=200, rate=1e-3, loss="ssn", mean_steps=200),
            notes="""A Stochastic Segmentation Network (Monteiro et al. 2020, arXiv 2006.06015) of rank 10 on a small
            U-Net: whole label maps from windows of 128, one rater of each chip a step, 20 antithetic draws, 200
            steps of the mean alone. Its samples are coherent over the windows' size.""",
        ),
    )
}


def find_recipe(name: str) -> Recipe:
    """Return the recipe of a name.

    Raises
    ------
    InputError : there is none.
    """
    if name not in RECIPES:
        raise InputError(f"no recipe {name!r}: choose among {', '.join(RECIPES)}")
    return RECIPES[name]


def settle(recipe: Recipe, chips: Sequence[LabelledChip], classes: int, steps: int | None, seed: int) -> Recipe:
    """Return the recipe with all that the data, steps and seed decide filled in.

    Where units cannot be converted to the recipe's, the data's own are kept and normalised by mean and standard
    deviation of the training chips; a recipe with bands of its own refuses instead. With more than two classes, binary
    losses become cross entropy. Backscatter in dB is also speckled and shifted where pictures are only turned. Scenes
    (a longest side of more than ``SCENE`` pixels, in the median) are not shrunk but cut into windows.
    """
    units, bands = _units_and_bands(recipe, chips)
    changes: dict[str, Any] = {"units": units, "bands": bands}
    if units != recipe.units:
        changes |= _measure(chips, bands, units)
    elif len(recipe.mean) != len(bands):
        changes |= {"mean": recipe.mean[:1] * len(bands), "std": recipe.std[:1] * len(bands)}
    if recipe.augment == "turn" and units == DB:
        changes["augment"] = "backscatter"
    changes["arguments"] = {**recipe.arguments, "bands": len(bands), "classes": 1 if classes == 2 else classes}
    shapes = [open_chip(chip).shape[1:] for chip in chips]
    if recipe.view == "window" or np.median([max(shape) for shape in shapes]) > SCENE:
        changes["view"] = "window"
        samples = sum(-(-rows // recipe.size) * -(-columns // recipe.size) for rows, columns in shapes)
    else:
        samples = len(chips)
    every = -(-samples // recipe.batch) if recipe.epochs else recipe.training.every
    steps = steps or (every * recipe.epochs if recipe.epochs else recipe.training.steps)
    loss = recipe.training.loss if classes == 2 or not recipe.training.loss.startswith("bce") else "cross_entropy"
    training = replace(recipe.training, steps=steps, every=every, loss=loss, seed=seed)
    return replace(recipe, **changes, training=training)


def _units_and_bands(recipe: Recipe, chips: Sequence[LabelledChip]) -> tuple[str, tuple[str, ...]]:
    scenes = (open_chip(chip) for chip in chips)
    scene = next((s for s in scenes if s.attrs["units"] != UNKNOWN), open_chip(chips[0]))
    units, bands = str(scene.attrs["units"]), recipe.bands or tuple(str(b) for b in scene["band"].values)
    try:
        check_convertible(units, recipe.units)
    except InputError:
        if recipe.bands:
            raise
        return (DB if units in (POWER, AMPLITUDE) else units), bands
    return recipe.units, bands


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
    return {"mean": tuple(map(float, mean)), "std": tuple(map(float, std)), "clip": (float(low), float(high))}


def class_names(recipe: Recipe, found: int, given: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the names of the classes: those given, or the recipe's two, or numbers where more were found.

    Raises
    ------
    InputError : fewer names are given than there are classes, or one twice.
    """
    if given is None:
        return recipe.classes if found <= 2 else tuple(f"class{i}" for i in range(found))
    if len(given) < max(found, 2) or len(set(given)) < len(given):
        raise InputError(f"classes are {', '.join(given)}, and the labels hold {found}: give as many different names")
    return given
