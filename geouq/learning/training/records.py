"""What a training run leaves in its folder, beside the model.

``recipe.toml`` is the complete recipe as settled for these data, from which ``--recipe`` trains the same again;
``settings.json`` says which chips are on which side, and how they are read; ``log.csv`` and ``curves.png`` have a row
and a point a round; from ``checkpoint.pt`` the same settings resume.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from geouq.errors import OutputError
from geouq.files import whole
from geouq.learning.data.chip import LabelledChip
from geouq.learning.training.recipe import Recipe, write_recipe
from geouq.learning.training.train import Row
from geouq.maps.plotting import own_settings

#: what is written into the folder of a training run, beside the model
FILES = ("settings.json", "recipe.toml", "log.csv", "checkpoint.pt", "curves.png")


def refuse_another(out: Path, resume: bool, names: Sequence[str] = FILES) -> None:
    """Raise OutputError if the folder holds a run or a part of one, and it is not to be resumed."""
    if not resume and any((out / name).exists() for name in names):
        raise OutputError(f"{out} holds a training run already: give --resume to go on with it, or another folder")


def claim(out: Path, recipe: Recipe, sides: Sequence[Sequence[LabelledChip]], names: Sequence[str], init: str) -> None:
    """Take the folder for this run, or raise OutputError if it belongs to another or cannot be written."""
    text = json.dumps(_settings(recipe, sides, names, init), indent=1, default=list)
    path = out / "settings.json"
    if path.exists():
        what = _differing(path, json.loads(text))
        if what:
            raise OutputError(
                f"{out} holds a run with other settings ({what}): resume with those, or take another folder"
            )
    try:
        out.mkdir(parents=True, exist_ok=True)
        _replace(path, text)
        _replace(out / "recipe.toml", write_recipe(recipe))
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error.strerror}") from None


def _settings(
    recipe: Recipe, sides: Sequence[Sequence[LabelledChip]], names: Sequence[str], init: str
) -> dict[str, Any]:
    """Return what must be the same for a run to go on: the steps only where the learning rate follows them."""
    resolved = asdict(recipe)
    steps = resolved["training"].pop("steps")
    del resolved["notes"]
    training, validation = (sorted(chip.name for chip in side) for side in sides)
    chips = sorted((chip for side in sides for chip in side), key=lambda chip: chip.name)
    told = {"recipe": resolved, "classes": names, "training": training, "validation": validation, "init": init}
    told |= {"read": hashlib.sha256(repr([_read_as(chip) for chip in chips]).encode()).hexdigest()[:16]}
    return told | ({"steps": steps} if recipe.training.schedule == "cosine" else {})


def _read_as(chip: LabelledChip) -> list[Any]:
    """Return how a chip is read, wherever its files lie."""
    files = [file.name for file in (*chip.images, chip.label, *chip.raters)]
    others = {key: value for key, value in vars(chip).items() if key not in ("images", "label", "raters", "beside")}
    return [files, others, _read_as(chip.beside) if chip.beside else None]


def _differing(path: Path, new: dict[str, Any]) -> str:
    """Return what of a folder's settings is not as it is now, by name; "" if nothing is."""
    try:
        old = json.loads(path.read_bytes())
        before, now = dict(old["recipe"]), new["recipe"]
        other = [key for key in {**now, **before} if before.get(key) != now.get(key)]
        keys = [key for key in new if key != "recipe" and key in old and old[key] != new[key]]
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"{path.name} is damaged"
    chips = {"training": "the chips", "validation": "the chips", "read": "how the chips are read"}
    return ", ".join(dict.fromkeys([*other, *(chips.get(key, key) for key in keys)]))


def write_log(out: Path, rows: Sequence[Row]) -> None:
    """Write ``log.csv`` anew, and now and then the curves."""
    lines = [",".join(rows[0]), *(",".join(f"{v:.6g}" for v in row.values()) for row in rows)]
    _replace(out / "log.csv", "\n".join(lines) + "\n")
    if len(rows) % 5 == 0:  # a picture takes as long as a short round
        draw_curves(out, rows)


def read_log(out: Path) -> list[Row]:
    """Return the rows of ``log.csv``."""
    with open(out / "log.csv", newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


@own_settings()
def draw_curves(out: Path, rows: Sequence[Row]) -> None:
    """Draw loss, accuracy and IoU over the steps into ``curves.png``."""
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
    with whole(out / "curves.png") as made:
        figure.savefig(made, dpi=100, format="png")


def _replace(path: Path, text: str) -> None:
    with whole(path) as made:
        made.write_text(text)
