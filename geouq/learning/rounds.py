"""Few labels: a model trains on its own sure answers, in rounds.

``labels = "pixels"`` (semi-supervised, after Paul and Ganju 2021, arXiv 2107.08369): trained on what is labelled, the
model maps images without labels. Where it is sure, these maps are labels of the next training, which starts from the
weights of the first. Labels are made anew each round, from the second one on by the mean of the first and the latest
model.

``labels = "images"``: of a chip it is known only whether it holds the positive class. At first every pixel of such a
chip is labelled with it; the model learns to tell what the chips without it have as well. Each round labels the pixels
of those chips anew, at least ``least`` of each with the class, and trains from the start.

A folder holds ``round-0`` …, a training run each, ``labels-1`` … with the labels made for each round, the final
model, and ``rounds.json``: what was labelled in each round, and the ``scores`` of each training, round 0 first.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
import xarray as xr
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from geouq.errors import InputError, OutputError
from geouq.files import whole
from geouq.learning.crf import crf_labels
from geouq.learning.data.chip import LabelledChip, class_names_of
from geouq.learning.data.dataset import read_dataset
from geouq.learning.data.loading import open_chip
from geouq.learning.data.splits import split_by_place
from geouq.learning.training.events import Begun, Event
from geouq.learning.training.fit import FitOptions, train_model
from geouq.learning.training.recipe import Recipe, Rounds, find_recipe
from geouq.learning.training.settle import positive_name
from geouq.networks.combine import combined, turned
from geouq.networks.model import Model
from geouq.rasters.coords import scene_geobox
from geouq.segmentation.lazy import segment

#: what is written beside the final model
DATA = "rounds.json"
#: label of a pixel that is not sure
UNSURE = 255


@dataclass(frozen=True)
class Labelling:
    """Event: a chip is about to be mapped for a round, the ``number``-th of ``count``."""

    name: str
    number: int
    count: int


@dataclass(frozen=True)
class Labelled:
    """Event: a round's labels are made, of ``accepted`` of so many ``chips``.

    pixels : share of the accepted chips' valid pixels that is labelled. positive : share of these that is positive.
    """

    round: int
    chips: int
    accepted: int
    pixels: float
    positive: float


def train_rounds(
    data: str | Path,
    recipe: str | Recipe,
    out: str | Path,
    unlabelled: Sequence[LabelledChip] = (),
    options: FitOptions | None = None,
    on_event: Callable[[Event | Labelling | Labelled], None] = lambda event: None,
) -> Path:
    """Train a recipe with ``rounds`` of its own labels, and return the model file written into ``out``.

    Parameters
    ----------
    unlabelled : chips whose label is not read; those of places held out or kept for tests are left out, for what is
        mapped there would be trained on.

    Raises
    ------
    InputError, OutputError : as ``train_model``; or the recipe has no rounds, or nothing to label.
    """
    options, out = options or FitOptions(), Path(out)
    recipe = find_recipe(recipe) if isinstance(recipe, str) else recipe
    path = out / f"{recipe.name}.safetensors"
    if path.exists() and not options.resume:
        raise OutputError(f"{path} exists: give another folder")
    chips = read_dataset(data, options.place_pattern)
    given, whole_chips, options = _sides(chips, recipe, options)
    unseen = {*_held(options), *options.without, *(chip.place for chip in chips if chip.split == "test")}
    wanted = [c for c in unlabelled if c.place not in unseen] if recipe.rounds.labels == "pixels" else whole_chips
    if not recipe.rounds.count or not wanted:
        raise InputError(f"recipe {recipe.name}: {_missing(recipe.rounds)}")
    for chip in wanted:
        open_chip(chip)  # what cannot be read is refused now, not after the first training
    count = recipe.rounds.count + 1
    on_event(Begun("round-0", 1, count))
    model = Model.load(train_model(data, recipe, out / "round-0", options.within("round-0"), on_event, chips))
    first, rows, scores = model, [], [model.spec.scores]
    for number in range(1, count):
        teacher, name = _teacher(first, model, recipe.rounds), f"round-{number}"
        on_event(Begun(name, number + 1, count))
        made, row = label_chips(teacher, wanted, out / f"labels-{number}", recipe.rounds, number, on_event)
        on_event(row)
        rows.append(asdict(row))
        start = None if recipe.rounds.labels == "images" else _file(out, recipe, 0)
        told = replace(options, init=start) if start else options
        model = Model.load(train_model(data, recipe, out / name, told.within(name), on_event, [*given, *made]))
        scores.append(model.spec.scores)
    with whole(out / DATA) as file:
        told_of = {"recipe": recipe.name, "rounds": rows, "scores": scores}
        file.write_text(json.dumps(told_of, indent=1) + "\n", "utf-8")
    model.save(path)
    return path


def label_chips(
    model: Model,
    chips: Sequence[LabelledChip],
    folder: Path,
    how: Rounds,
    number: int = 1,
    on_event: Callable[[Labelling], None] = lambda event: None,
) -> tuple[list[LabelledChip], Labelled]:
    """Map chips, write sure maps into ``folder`` as labels, and return the chips with these; and what came out."""
    folder.mkdir(parents=True, exist_ok=True)
    made, labelled, valid, positive = [], 0, 0, 0
    for counted, chip in enumerate(chips, 1):
        on_event(Labelling(chip.name, counted, len(chips)))
        layers = segment(
            open_chip(chip), model=model, samples=0, layers=("mask", "confidence", "probability")
        ).compute()
        label = _label(layers, how, len(model.spec.classes), model.spec.legend.positive)
        if label is None:
            continue
        path = folder / f"{chip.name}.tif"
        _write(path, label, open_chip(chip))
        made.append(replace(chip, label=path, raters=(), throughout=None, classes=(), ignore=(UNSURE,)))
        labelled, valid = labelled + int((label != UNSURE).sum()), valid + int(np.isfinite(layers["confidence"]).sum())
        positive += int((label == model.spec.legend.positive).sum())
    row = Labelled(number, len(chips), len(made), labelled / max(valid, 1), positive / max(labelled, 1))
    return made, row


def _label(layers: xr.Dataset, how: Rounds, classes: int, positive: int) -> np.ndarray | None:
    """Return a map as a label, (h, w) uint8 with ``UNSURE``; None if too little of it is sure."""
    mask, sure = layers["mask"].values, layers["confidence"].values
    valid = np.isfinite(sure)
    if how.crf:
        mask = crf_labels(mask, classes, valid)
    if not valid.any():
        return None
    if how.labels == "images":
        p = layers["probability"].values
        cut = min(0.5, float(np.quantile(p[valid], 1 - how.least)))
        label = np.where(p >= cut, positive, 1 - positive)
    elif how.per == "tile":
        if (sure[valid] > how.confidence).mean() <= how.share:
            return None
        label = mask
    else:
        valid &= sure > how.confidence
        label = mask
    return np.where(valid, label, UNSURE).astype(np.uint8) if valid.any() else None


def _write(path: Path, label: np.ndarray, scene: xr.DataArray) -> None:
    """Write a label on a scene's grid; one that is there already, of a run that goes on, stays."""
    grid = scene_geobox(scene)
    placed = {} if grid.crs is None else {"crs": str(grid.crs), "transform": grid.transform}
    profile = {"height": label.shape[0], "width": label.shape[1], "count": 1, "dtype": "uint8", "compress": "deflate"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # a picture's label lies nowhere, as the picture does
        if path.exists() and np.array_equal(_written(path), label):
            return
        with whole(path) as made, rasterio.open(made, "w", driver="GTiff", **profile, **placed) as file:
            file.write(label, 1)


def _written(path: Path) -> np.ndarray:
    """Return the label in a file; nothing where that is damaged."""
    try:
        with rasterio.open(path) as file:
            return np.asarray(file.read(1))
    except RasterioError:
        return np.empty(0)


def _teacher(first: Model, latest: Model, how: Rounds) -> Model:
    """Return who labels: the first model, with the latest if that is another, over turns if so told."""
    if how.labels == "images":
        return turned(latest) if how.turns else latest
    both = first if latest is first else combined([first, latest], "both")
    return turned(both) if how.turns else both


def _sides(
    chips: Sequence[LabelledChip], recipe: Recipe, options: FitOptions
) -> tuple[list[LabelledChip], list[LabelledChip], FitOptions]:
    """Return the chips whose labels stay, those known as a whole to be positive, and options that name who is held out.

    What is held out is decided here, once, by the chips that are labelled.
    """
    chips = [chip for chip in chips if chip.place not in options.without]
    _, held = split_by_place(chips, options.validation, options.seed, recipe.validation)
    places = tuple(sorted({chip.place for chip in held}))
    options = replace(options, validation=places or options.validation)
    if recipe.rounds.labels == "pixels":
        return chips, [], options
    positive = _positive(chips, recipe, options)
    whole_chips = [c for c in chips if c.throughout == positive and c.place not in places and c.split != "test"]
    return [chip for chip in chips if chip not in whole_chips], whole_chips, options


def _positive(chips: Sequence[LabelledChip], recipe: Recipe, options: FitOptions) -> int:
    """Return the index of the positive class of two."""
    names = class_names_of(chips, options.classes) or recipe.classes
    if len(names) != 2:
        raise InputError(f"rounds.labels images decides between two classes, and these are {', '.join(names)}")
    return names.index(positive_name(tuple(names)))


def _held(options: FitOptions) -> tuple[str, ...]:
    return options.validation if isinstance(options.validation, tuple) else ()


def _missing(how: Rounds) -> str:
    if not how.count:
        return "rounds.count is 0: say how many rounds (--set rounds.count=2)"
    if how.labels == "images":
        return "rounds.labels is images, and no chip to train on is known as a whole (throughout, in a manifest)"
    return "rounds need images without labels, of places that are neither held out nor for tests (--unlabelled)"


def _file(out: Path, recipe: Recipe, number: int) -> Path:
    return out / f"round-{number}" / f"{recipe.name}.safetensors"
