"""From labelled data and a recipe to a model file: split by place, settle, train, judge, write.

What the folder that is written holds: geouq.learning.training.records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from geouq.errors import InputError, OutputError
from geouq.files import refuse_own
from geouq.learning.data.chip import LabelledChip, class_names_of, mark_of
from geouq.learning.data.dataset import data_files, read_dataset, read_masks, read_outlines
from geouq.learning.data.examples import Census, Example, Reading, read_example, take_census
from geouq.learning.data.loading import opacity_note, unlike_note, windows
from geouq.learning.data.splits import split_by_place
from geouq.learning.training.batches import held_out, prepared_ahead, training_examples
from geouq.learning.training.event_files import check_event_files, event_files
from geouq.learning.training.events import Ended, Event, Judged, Prepared, Stepped
from geouq.learning.training.freeze import freeze
from geouq.learning.training.losses import takes_shares
from geouq.learning.training.recipe import Recipe, find_recipe
from geouq.learning.training.records import FILES, claim, draw_curves, read_log, refuse_another, write_log
from geouq.learning.training.settle import check_bands, class_names, positive_name, settle
from geouq.learning.training.start import as_sampled, new_model, normalised_as, paired, with_extra_loss
from geouq.learning.training.train import Judge, Row, TrainConfig, loss_of, train
from geouq.networks.model import Model
from geouq.networks.ssn import mean_of
from geouq.sampling.devices import choose_device


@dataclass(frozen=True)
class FitOptions:
    """What a run may be told beside data and recipe.

    steps : optimiser steps in all, instead of the recipe's.
    seed : of weights, batches, masks and the split, 0 to 2³² − 1; the same seed, the same model.
    validation : places to hold out, or a share of them; None: as the data say, else as the recipe says.
    without : places that are neither trained on nor held out: as if the data had them not.
    classes : names in order; the network has as many. None: as many as the labels hold.
    place_pattern : a regular expression that tells a chip's place from its name (``read_dataset``).
    also : more labelled data to train on; it is never held out, and where it is of the split "test", or of a place
        that is held out, left out or tested on, not used.
    init : a model whose weights the network starts from; an SSN starts with its mean at them.
    resume : go on from the folder's checkpoint, if there is one.
    device : "auto", "cpu", "cuda", ….
    tensorboard : folder for the log as curves for TensorBoard, which must be installed; None: no such curves.
    """

    steps: int | None = None
    seed: int = 0
    validation: tuple[str, ...] | float | None = None
    without: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    place_pattern: str | None = None
    also: str | Path | None = None
    init: str | Path | None = None
    resume: bool = False
    device: str = "auto"
    tensorboard: str | Path | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed is {self.seed}: give a whole number from 0 to 4294967295")

    def within(self, name: str) -> FitOptions:
        """Return the options of one of several trainings: its curves lie in a folder of its name."""
        return self if self.tensorboard is None else replace(self, tensorboard=Path(self.tensorboard) / name)


#: chips to train on, chips held out
Sides = Sequence[Sequence[LabelledChip]]


def train_model(
    data: str | Path,
    recipe: str | Recipe,
    out: str | Path,
    options: FitOptions | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
    chips: Sequence[LabelledChip] | None = None,
) -> Path:
    """Train a recipe on labelled data and return the model file written into the folder ``out``.

    ``chips`` : are trained on and held out in place of those that ``data`` hold.

    Raises
    ------
    InputError, UnitsError, SceneError : data, recipe or options cannot be used as given.
    OutputError : ``out`` holds a run already, and either ``resume`` was not given or its settings were others; or it
        holds images or labels of the data.
    """
    options, out = options or FitOptions(), Path(out)
    recipe = find_recipe(recipe) if isinstance(recipe, str) else recipe
    if recipe.training.freeze and not options.init:
        raise InputError(f"freeze {', '.join(recipe.training.freeze)}: of which model? Name one to start from (--init)")
    chips = read_dataset(data, options.place_pattern) if chips is None else chips
    also = [] if options.also is None else _others(options.also, data, chips, options)
    files = [*data_files(data, chips), *(data_files(options.also, also) if options.also is not None else ())]
    for made in (*FILES, f"{recipe.name}.safetensors"):
        refuse_own(out / made, files, "part of the data")
    check_free(out, options)
    refuse_another(out, options.resume, [f"{recipe.name}.safetensors"])
    teacher = Model.load(recipe.teacher.model) if recipe.teacher.model else None
    chips = chips if teacher is None else paired(chips, recipe.teacher.data)
    _refuse_inside(out, [*chips, *also])
    sides, names, left_out = _chosen(chips, also, recipe, options)
    check_bands(recipe, [chip for side in sides for chip in side])
    outlines = _outlines(data, recipe)
    device = choose_device(options.device)
    wanted, recipe = recipe, settle(recipe, sides[0], len(names), options.steps, options.seed)
    if options.init and recipe.units != wanted.units:
        recipe = normalised_as(recipe, options.init)
    low = recipe.training.bfloat16 or device.startswith("cuda")
    recipe = replace(recipe, training=replace(recipe.training, bfloat16=low))
    if recipe.augment == "water" and recipe.outlines == "etci2021" and not outlines:
        recipe = replace(recipe, outlines="labels")
    notes = _check_labels(data, recipe, sides, names)
    model = new_model(recipe, names, options.seed, options.init)
    as_sampled(model, recipe)  # what it cannot be written as is refused now, not after the training
    network = with_extra_loss(model, recipe, teacher, device)
    freeze(network, recipe.training.freeze)  # as is a part that it has not
    claim(out, recipe, sides, names, str(options.init or ""))
    on_event(_prepared(recipe, sides, left_out, device, notes))
    with event_files(options.tensorboard) as curves:
        _run(network, (model, teacher), recipe, (sides, outlines), _Shown(out, curves, on_event))
    rows = read_log(out)
    draw_curves(out, rows)
    kept = _kept(rows, recipe)
    on_event(Ended(int(rows[-1]["step"]), recipe.training.steps, int(kept["step"]), recipe.training.patience))
    scores = {name: value for name, value in kept.items() if name.startswith("val_") and np.isfinite(value)}
    path = out / f"{recipe.name}.safetensors"
    before = Model.load(options.init).spec.trained_on if options.init else None
    seen = tuple(sorted({*(before or ()), *(mark_of(chip.name) for chip in sides[0])}))
    history = _history(recipe, sides, len(outlines))
    spec = replace(model.spec, training=history, trained_on=seen, scores=scores)
    as_sampled(Model(model.network.to("cpu"), spec), recipe).save(path)
    return path


def check_free(out: Path, options: FitOptions) -> None:
    """Refuse a folder that holds another run, or curves of one; raise as ``train_model``."""
    refuse_another(out, options.resume)
    if options.tensorboard is not None:
        begun = any((out / name).exists() for name in ("checkpoint.pt", "log.csv"))
        check_event_files(Path(options.tensorboard), goes_on=options.resume and begun)


def _outlines(data: str | Path, recipe: Recipe) -> list[np.ndarray]:
    """Return what water is painted by, where that comes from beside the chips."""
    if recipe.augment != "water" or recipe.outlines in ("labels", "none"):
        return []
    if recipe.outlines == "etci2021":
        return read_outlines(data)
    found = read_masks(recipe.outlines)
    if not found:
        raise InputError(f"{recipe.outlines}: holds no mask that is 2 to 90 % water, of 32 x 32 pixels or more")
    return found


def _others(
    also: str | Path, data: str | Path, chips: Sequence[LabelledChip], options: FitOptions
) -> list[LabelledChip]:
    """Return the chips of more data to train on: under other names than the rest, as chips are known by their names.

    Their labels are indices of the same classes: where both data name them, the names must be alike.
    """
    found, taken = read_dataset(also, options.place_pattern), {chip.name for chip in chips}
    twice = next((chip.name for chip in found if chip.name in taken), None)
    if twice is not None:
        raise InputError(f"{also}: chip {twice!r} is in {data} too: give it another name, or leave one of them out")
    class_names_of([*chips, *found])
    return found


def _chosen(
    chips: Sequence[LabelledChip], also: Sequence[LabelledChip], recipe: Recipe, options: FitOptions
) -> tuple[Sides, tuple[str, ...], int]:
    """Return the chips of both sides, the classes' names, and how many chips are left out as ill-posed."""
    chips, also = (
        [c for c in some if not c.name.startswith(recipe.leave_out) and c.place not in options.without]
        for some in (chips, also)
    )
    training, held = split_by_place(chips, options.validation, options.seed, recipe.validation)
    unseen = {chip.place for chip in (*held, *(c for c in chips if c.split == "test"))}
    sides = [*training, *(chip for chip in also if chip.place not in unseen and chip.split != "test")], held
    censuses = [take_census(side, recipe.size) for side in sides if side]
    found = np.flatnonzero(np.sum([census.counts.sum(0) for census in censuses], 0))
    names = class_names(recipe, [int(i) for i in found], class_names_of([*chips, *also], options.classes) or None)
    positive = names.index(positive_name(names))
    kept = [well_posed(side, census, recipe, positive) for side, census in zip(sides, censuses, strict=False)]
    return [*kept, *([[]] if len(kept) == 1 else [])], names, sum(map(len, sides)) - sum(map(len, kept))


def well_posed(chips: Sequence[LabelledChip], census: Census, recipe: Recipe, positive: int) -> list[LabelledChip]:
    """Return the chips without those of the positive class throughout, where the recipe drops such.

    Raises
    ------
    InputError : none is left.
    """
    kept = [c for c in chips if recipe.most_positive == 1 or census.share(c, positive) <= recipe.most_positive]
    if not kept:
        raise InputError(
            f"{chips[0].label}: every chip is labelled class {positive} throughout: recipe {recipe.name} drops such"
        )
    return kept


def _refuse_inside(out: Path, chips: Sequence[LabelledChip]) -> None:
    """Refuse an output folder that images or labels lie in: the curves, a picture, would be one of them."""
    folders = {file.parent.resolve() for chip in chips for file in (*chip.images, chip.label, *chip.raters)}
    if out.resolve() in folders:
        raise OutputError(f"{out} holds images or labels of the data: give another folder for what training writes")


def _check_labels(data: str | Path, recipe: Recipe, sides: Sides, names: Sequence[str]) -> tuple[str, ...]:
    """Refuse data that teach or judge nothing: no pixel that is measured and labelled, or one class throughout.

    Returns
    -------
    Notes to be read: that only the chips held out have a second class.
    """
    training, held = (_classes_seen(chips, _reading(recipe)) for chips in sides)
    for what, chips, seen in (("to train on", sides[0], training), ("held out", sides[1], held)):
        if chips and not seen:
            raise InputError(
                f"{chips[0].images[0]}: not one pixel of the {len(chips)} chips {what} is both measured and labelled: "
                "look at their nodata, bands and labels"
            )
    if len(training) > 1:
        return ()
    (only,) = training
    alone = f"class {only} ({names[only]}) alone"
    if training | held == training:
        raise InputError(f"{data}: the measured pixels are labelled {alone}: label another class too, to tell it from")
    return (f"the chips to train on are labelled {alone}, which no model learns from: hold out other places (--val)",)


def _classes_seen(chips: Sequence[LabelledChip], reading: Reading) -> set[int]:
    """Return the classes of valid pixels by any rater; no more is read once there are two."""
    seen: set[int] = set()
    for chip in (one for several in chips for one in several.by_rater()):
        for window in windows(chip, 1024):
            example = read_example(chip, reading, window)
            seen |= {int(number) for number in np.unique(example.label[example.valid])}
            if len(seen) > 1:
                return seen
    return seen


def _prepared(recipe: Recipe, sides: Sides, left_out: int, device: str, told: Sequence[str]) -> Prepared:
    training, held = (len({chip.place for chip in side}) for side in sides)
    notes = [note for note in (*told, opacity_note(sides[0][0]), unlike_note([*sides[0], *sides[1]])) if note]
    if recipe.view in ("fit", "stretch"):
        notes.append(f"chips are resized to {recipe.size} pixels: the model will know images that are resized alike")
    return Prepared(recipe, len(sides[0]), len(sides[1]), left_out, device, (training, held), tuple(notes))


# --- the run


def _reading(recipe: Recipe) -> Reading:
    soft = takes_shares(recipe.training.loss)
    return Reading(recipe.bands, recipe.units, recipe.size, recipe.view, soft, recipe.padding)


def _beside(teacher: Model, recipe: Recipe) -> Reading:
    spec = teacher.spec
    return Reading(spec.bands, spec.units, recipe.size, recipe.view, black=spec.black)


@dataclass(frozen=True)
class _Shown:
    """Where a run shows itself: its folder, what writes rows as curves, and who is told of events."""

    out: Path
    curves: Callable[[Sequence[Row]], None]
    on_event: Callable[[Event], None]

    def rows(self, rows: list[Row]) -> None:
        """Show a round's end."""
        write_log(self.out, rows)
        self.curves(rows)
        self.on_event(Judged(rows[-1]))


def _run(
    network: nn.Module,
    models: tuple[Model, Model | None],
    recipe: Recipe,
    data: tuple[Sides, Sequence[np.ndarray]],
    shown: _Shown,
) -> None:
    """Train a network in place, that of the first of ``models`` (student and teacher) with what its loss needs.

    ``data`` : the chips of both sides, and outlines to paint water by.
    """
    config, reading, (sides, outlines), (model, teacher) = recipe.training, _reading(recipe), data, models
    positive = model.spec.classes.index(model.spec.positive)
    both = reading if teacher is None else replace(reading, beside=_beside(teacher, recipe))
    draw = cache(lambda: training_examples(recipe, both, sides[0], outlines, positive))  # not for a finished run
    held = held_out(reading, sides[1])

    def batch(examples: Sequence[Example]) -> tuple[np.ndarray, ...]:
        pixels, label, valid = (np.stack(part) for part in zip(*examples, strict=True))
        bands = len(recipe.bands)
        own = np.stack([model.normalise(p[:bands]) for p in pixels])
        if teacher is None or pixels.shape[1] == bands:  # as where rounds are judged
            return own, label, valid
        return own, label, valid, np.stack([teacher.normalise(p[bands:]) for p in pixels])

    def judged() -> Iterator[tuple[np.ndarray, ...]]:
        for first in range(0, len(held), recipe.batch):
            yield batch([make() for make in held[first : first + recipe.batch]])

    judge = Judge(lambda network: score(network, judged(), config, positive) if held else {}, shown.rows)
    with ThreadPoolExecutor(1) as background:
        batches = prepared_ahead(lambda step: batch(draw()(step)), config.steps, background)
        on_step = _stepper(config.steps, shown.on_event)
        train(network, batches, config, shown.out / "checkpoint.pt", on_step, judge)


def _stepper(steps: int, on_event: Callable[[Event], None]) -> Callable[[int, float], None]:
    return lambda step, loss: on_event(Stepped(step + 1, steps, loss))


def _kept(rows: Sequence[Row], recipe: Recipe) -> Row:
    """Return the round whose weights are kept: the best where training may end early, else the last."""
    return min(rows, key=lambda row: row.get("val_loss", row["loss"])) if recipe.training.patience else rows[-1]


def _history(recipe: Recipe, sides: Sides, outlines: int) -> str:
    datasets = ", ".join(sorted({chip.dataset for chip in sides[0]}))
    places = sorted({chip.place for chip in sides[1]})
    held = ", ".join(places[:20]) + (f" and {len(places) - 20} more" if len(places) > 20 else "")
    source = "ETCI 2021" if recipe.outlines == "etci2021" else Path(recipe.outlines).name
    more = f", {outlines} outlines of {source}" if outlines else ""
    more += f", {recipe.simulated} simulated" if recipe.simulated else ""
    return f"Recipe {recipe.name} on {len(sides[0])} chips of {datasets}{more}; places held out: {held or 'none'}."


# --- judging


def score(
    network: nn.Module,
    batches: Iterator[tuple[np.ndarray, ...]],
    config: TrainConfig,
    positive: int = 1,
) -> Row:
    """Return ``val_loss``, ``val_accuracy`` and ``val_iou`` over the valid pixels of some batches, dropout off.

    The IoU is that of the positive class, or with more than two the mean over those that occur in labels or maps.
    """
    device = next(network.parameters()).device
    loss = pixels_seen = 0.0
    counts: np.ndarray | int = 0
    for pixels, label, valid in batches:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=config.bfloat16):
            logits = network(torch.from_numpy(pixels).to(device)).float().cpu()
        seen = float(valid.sum())
        truth = torch.from_numpy(label), torch.from_numpy(valid).float()
        found = loss_of(network, logits, truth, config, torch.Generator().manual_seed(config.seed), config.steps)
        loss, pixels_seen = loss + seen * float(found), pixels_seen + seen
        logits = mean_of(network, logits)
        classes = max(2, logits.shape[1])
        guess = (logits[:, 0] >= 0 if logits.shape[1] == 1 else logits.argmax(1)).numpy().astype(int)[valid]
        truth = np.round(label[valid]).astype(int)
        counts = counts + np.bincount(classes * truth + guess, minlength=classes**2).reshape(classes, classes)
    counts = np.asarray(counts, float)
    right, union = np.diag(counts), counts.sum(0) + counts.sum(1) - np.diag(counts)
    with np.errstate(invalid="ignore"):
        iou = right / union
    mean = iou[positive] if len(iou) == 2 else np.nanmean(iou)
    return {
        "val_loss": loss / max(pixels_seen, 1),
        "val_accuracy": float(right.sum() / max(counts.sum(), 1)),
        "val_iou": float(mean),
    }
