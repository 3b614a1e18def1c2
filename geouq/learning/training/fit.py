"""From labelled data and a recipe to a model file: split by place, settle, train, judge, write.

The folder that is written holds ``<recipe>.safetensors`` (the model), ``log.csv`` and ``curves.png`` (a row and a point
a round), ``settings.json`` (recipe, seed, places) and ``checkpoint.pt``, from which the same settings resume.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

from geouq.errors import InputError, OutputError
from geouq.learning.data.dataset import LabelledChip, read_dataset
from geouq.learning.data.samples import Census, Reading, Sample, take_census
from geouq.learning.data.splits import split_by_place
from geouq.learning.training.batches import held_out, prepared_ahead, training_samples
from geouq.learning.training.recipes import Recipe, class_names, find_recipe, settle
from geouq.learning.training.train import Judge, Row, TrainConfig, loss_of, seed_weights, train
from geouq.maps.plotting import own_settings
from geouq.networks.model import ARCHITECTURES, Model, ModelSpec
from geouq.networks.ssn import SSN, mean_of
from geouq.sampling.devices import choose_device


@dataclass(frozen=True)
class FitOptions:
    """What a run may be told beside data and recipe.

    steps : optimiser steps in all, instead of the recipe's.
    seed : of weights, batches, masks and the split; the same seed, the same model.
    validation : places to hold out, or a share of them; None: as the data say, else a fifth.
    classes : names in order; the network has as many. None: as many as the labels hold.
    resume : go on from the folder's checkpoint, if there is one.
    device : "auto", "cpu", "cuda", ….
    """

    steps: int | None = None
    seed: int = 0
    validation: tuple[str, ...] | float | None = None
    classes: tuple[str, ...] | None = None
    resume: bool = False
    device: str = "auto"


@dataclass(frozen=True)
class Prepared:
    """Event: what is about to be trained on what."""

    recipe: Recipe
    training: int
    validation: int
    left_out: int
    device: str


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


Event = Prepared | Stepped | Judged


def train_model(
    data: str | Path,
    recipe: str | Recipe,
    out: str | Path,
    options: FitOptions | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Path:
    """Train a recipe on labelled data and return the model file written into the folder ``out``.

    Raises
    ------
    InputError, UnitsError, SceneError : data, recipe or options cannot be used as given.
    OutputError : ``out`` holds a run already, and either ``resume`` was not given or its settings were others.
    """
    options, out = options or FitOptions(), Path(out)
    if (out / "checkpoint.pt").exists() and not options.resume:
        raise OutputError(f"{out} holds a training run already: give --resume to go on with it, or another folder")
    recipe = find_recipe(recipe) if isinstance(recipe, str) else recipe
    chips = read_dataset(data)
    sides = split_by_place(chips, options.validation, options.seed)
    censuses = [take_census(side, recipe.size) for side in sides]
    kept = [_well_posed(side, census, recipe) for side, census in zip(sides, censuses, strict=True)]
    names = class_names(recipe, max(census.classes for census in censuses), options.classes)
    device = choose_device(options.device)
    recipe = settle(recipe, kept[0], len(names), options.steps, options.seed)
    recipe = replace(recipe, training=replace(recipe.training, bfloat16=device.startswith("cuda")))
    _claim(out, recipe, kept)
    left_out = sum(map(len, sides)) - sum(map(len, kept))
    on_event(Prepared(recipe, len(kept[0]), len(kept[1]), left_out, device))
    model = _new_model(recipe, names, options.seed)
    _run(model, recipe, kept, out, on_event, device)
    rows = _read_log(out)
    _draw_curves(out / "curves.png", rows)
    path = out / f"{recipe.name}.safetensors"
    trained = replace(model.spec, training=_history(recipe, kept), scores=_scores(rows, recipe))
    Model(model.network.to("cpu"), trained).save(path)
    return path


def _well_posed(chips: Sequence[LabelledChip], census: Census, recipe: Recipe) -> list[LabelledChip]:
    kept = [c for c in chips if recipe.most_positive == 1 or census.share(c, 1) <= recipe.most_positive]
    if not kept:
        raise InputError(
            f"{chips[0].label}: every chip is labelled class 1 throughout: recipe {recipe.name} drops such"
        )
    return kept


def _new_model(recipe: Recipe, names: tuple[str, ...], seed: int) -> Model:
    network = ARCHITECTURES[recipe.architecture](recipe.arguments)
    spec = ModelSpec(
        name=recipe.name,
        architecture=recipe.architecture,
        arguments=recipe.arguments,
        bands=recipe.bands,
        units=recipe.units,
        mean=recipe.mean,
        std=recipe.std,
        clip=recipe.clip,
        stride=int(network.stride),  # type: ignore[arg-type]
        missing_bands=recipe.missing_bands,
        classes=names,
        positive="water" if "water" in names else names[1],
        **_sampled_by(network, recipe),
        description=" ".join(recipe.notes.split(":")[0].split()),
    )
    return Model(seed_weights(network, seed), spec)


def _sampled_by(network: nn.Module, recipe: Recipe) -> dict[str, Any]:
    """Return how an SSN is to draw z over a scene, as fields of its spec; nothing for other networks.

    In training one z served a whole window. Twice the window's side as correlation length keeps pixels a side apart at
    a correlation of 0.78. Trained on whole chips, one z serves the whole scene.
    """
    if not isinstance(network, SSN):
        return {}
    return {"sampler": "ssn", "correlation": 2.0 * recipe.size if recipe.view == "window" else "scene"}


def _run(
    model: Model,
    recipe: Recipe,
    sides: Sequence[Sequence[LabelledChip]],
    out: Path,
    on_event: Callable[[Event], None],
    device: str,
) -> None:
    """Train the model's network in place."""
    config = recipe.training
    reading = Reading(recipe.bands, recipe.units, recipe.size, recipe.view, config.loss.startswith("bce"))
    draw = training_samples(recipe, reading, sides[0])
    held = held_out(reading, sides[1])

    def batch(samples: Sequence[Sample]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        pixels, label, valid = (np.stack(part) for part in zip(*samples, strict=True))
        return np.stack([model.normalise(p) for p in pixels]), label, valid

    def judged() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for first in range(0, len(held), recipe.batch):
            yield batch([make() for make in held[first : first + recipe.batch]])

    def show(rows: list[Row]) -> None:
        _write_log(out, rows)
        on_event(Judged(rows[-1]))

    judge = Judge(lambda network: score(network, judged(), config), show)
    model.network.to(device)
    with ThreadPoolExecutor(1) as background:
        batches = prepared_ahead(lambda step: batch(draw(step)), config.steps, background)
        on_step = _stepper(config.steps, on_event)
        train(model.network, batches, config, out / "checkpoint.pt", on_step, judge)


def _stepper(steps: int, on_event: Callable[[Event], None]) -> Callable[[int, float], None]:
    return lambda step, loss: on_event(Stepped(step + 1, steps, loss))


# --- judging


def score(network: nn.Module, batches: Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]], config: TrainConfig) -> Row:
    """Return ``val_loss``, ``val_accuracy`` and ``val_iou`` over the valid pixels of some batches, dropout off.

    The IoU is that of class 1, or with more than two classes the mean over those that occur in labels or maps.
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
    mean = iou[1] if len(iou) == 2 else np.nanmean(iou)
    return {
        "val_loss": loss / max(pixels_seen, 1),
        "val_accuracy": float(right.sum() / max(counts.sum(), 1)),
        "val_iou": float(mean),
    }


# --- files


def _claim(out: Path, recipe: Recipe, sides: Sequence[Sequence[LabelledChip]]) -> None:
    """Take the folder for this run, or refuse it if it belongs to another."""
    resolved = asdict(recipe)
    del resolved["training"]["steps"], resolved["notes"]
    training, validation = (sorted(chip.name for chip in side) for side in sides)
    text = json.dumps({"recipe": resolved, "training": training, "validation": validation}, indent=1, default=list)
    settings, checkpoint = out / "settings.json", out / "checkpoint.pt"
    if checkpoint.exists() and settings.exists() and settings.read_text() != text:
        old, new = json.loads(settings.read_text()), json.loads(text)
        what = ", ".join(k for k in new["recipe"] if old["recipe"].get(k) != new["recipe"][k]) or "the chips"
        raise OutputError(f"{out} holds a run with other settings ({what}): resume with those, or take another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        _replace(settings, text)
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror}") from None


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)


def _write_log(out: Path, rows: Sequence[Row]) -> None:
    lines = [",".join(rows[0]), *(",".join(f"{v:.6g}" for v in row.values()) for row in rows)]
    _replace(out / "log.csv", "\n".join(lines) + "\n")
    if len(rows) % 5 == 0:  # a picture takes as long as a short round
        _draw_curves(out / "curves.png", rows)


def _read_log(out: Path) -> list[Row]:
    with open(out / "log.csv", newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def _scores(rows: Sequence[Row], recipe: Recipe) -> Row:
    """Return the scores of the weights that were kept: the best under early stopping, else the last."""
    kept = min(rows, key=lambda row: row["val_loss"]) if recipe.training.patience else rows[-1]
    return {name: value for name, value in kept.items() if name.startswith("val_") and np.isfinite(value)}


def _history(recipe: Recipe, sides: Sequence[Sequence[LabelledChip]]) -> str:
    datasets = ", ".join(sorted({chip.dataset for chip in sides[0]}))
    places = sorted({chip.place for chip in sides[1]})
    held = ", ".join(places[:20]) + (f" and {len(places) - 20} more" if len(places) > 20 else "")
    return f"Recipe {recipe.name} on {len(sides[0])} chips of {datasets}; places held out: {held}."


@own_settings()
def _draw_curves(path: Path, rows: Sequence[Row]) -> None:
    """Draw loss, accuracy and IoU over the steps."""
    figure = Figure(figsize=(10, 3), layout="constrained")
    FigureCanvasAgg(figure)
    steps = [row["step"] for row in rows]
    panels = (("loss", ("loss", "val_loss")), ("accuracy", ("val_accuracy",)), ("IoU", ("val_iou",)))
    for axes, (title, names) in zip(figure.subplots(1, 3), panels, strict=True):
        for name in names:
            label, colour = ("held-out places", "C1") if name.startswith("val_") else ("training", "C0")
            axes.plot(steps, [row.get(name, np.nan) for row in rows], ".-", label=label, color=colour)
        axes.set(title=title, xlabel="step", ylim=None if title == "loss" else (0, 1))
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
    partial = path.with_name(f"{path.name}.partial")
    figure.savefig(partial, dpi=100, format="png")
    os.replace(partial, path)
