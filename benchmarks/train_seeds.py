"""Train the recipes of two public seed systems on copies of their data, within a CPU budget.

    OMP_NUM_THREADS=1 python benchmarks/train_seeds.py DATA --out build/seeds --recipe mc-dropout-unet

DATA holds ``water-bodies-rgb/`` (images/, masks/) and ``camvid12/`` (train/, trainannot/, val/, valannot/ and
classes.txt). Whole chips are resized, as in the systems these follow. Batches are smaller than the recipes', so that a
few minutes hold more than a handful of steps; give --full for the recipe's own (hours on a CPU). The same command
continues a broken run.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from geouq.learning.training.events import Event, Judged, Prepared
from geouq.learning.training.fit import FitOptions, train_model
from geouq.learning.training.recipe import find_recipe

#: recipe → batch, steps a round, steps in all: three to five minutes of one core
BUDGETS = {"mc-dropout-unet": (4, 25, 75), "unet-16": (8, 100, 400), "unet-34m": (4, 30, 60)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with water-bodies-rgb/ and camvid12/")
    parser.add_argument("--out", type=Path, default=Path("build/seeds"), help="a folder a recipe goes there")
    parser.add_argument("--recipe", nargs="*", default=["mc-dropout-unet", "unet-34m"], choices=list(BUDGETS))
    parser.add_argument("--steps", type=int, help="steps in all, instead of the budget's")
    parser.add_argument("--full", action="store_true", help="the recipe as it stands")
    arguments = parser.parse_args()
    for name in arguments.recipe:
        out = arguments.out / name
        out.mkdir(parents=True, exist_ok=True)
        street = name == "unet-34m"
        rows = camvid(arguments.data / "camvid12") if street else water_bodies(arguments.data / "water-bodies-rgb")
        manifest = out / "manifest.json"
        manifest.write_text(json.dumps(rows))
        batch, every, steps = BUDGETS[name]
        recipe = find_recipe(name, [f"view={'stretch' if street else 'fit'}"])
        if not arguments.full:
            training = replace(recipe.training, every=every, steps=steps)
            recipe = replace(recipe, batch=batch, epochs=0, training=training)
        options = FitOptions(
            steps=arguments.steps,
            validation=None if street else 0.2,
            classes=class_names(arguments.data / "camvid12") if street else None,
            resume=True,
        )
        print(f"wrote {train_model(manifest, recipe, out, options, printer())}")


def water_bodies(folder: Path) -> list[dict[str, str]]:
    """List the chips; nobody says where they lie, so each is a place of its own (neighbours may face each other)."""
    images = sorted((folder / "images").iterdir())
    return [
        {
            "image": str(image.resolve()),
            "label": str((folder / "masks" / f"{image.stem}.png").resolve()),
            "place": image.stem,
            "dataset": folder.name,
        }
        for image in images
    ]


def camvid(folder: Path) -> list[dict[str, str]]:
    """List the frames in the published split; its validation frames follow training frames of the same drive.

    To compare with the published figure, the split is kept as it is: each frame counts as a place.
    """
    return [
        {
            "image": str(image.resolve()),
            "label": str((folder / f"{split}annot" / f"{image.stem}.png").resolve()),
            "place": image.stem,
            "split": split,
            "dataset": folder.name,
            "ignore": "11",
        }
        for split in ("train", "val")
        for image in sorted((folder / split).iterdir())
    ]


def class_names(folder: Path) -> tuple[str, ...]:
    lines = (folder / "classes.txt").read_text().split("\n")
    return tuple(line.split(maxsplit=1)[1] for line in lines if line.strip())


def printer() -> Callable[[Event], None]:
    """Return what prints a line a round."""
    began = time.perf_counter()

    def show(event: Event) -> None:
        if isinstance(event, Prepared):
            print(
                f"{event.recipe.name}: {event.training} chips, {event.validation} held out, {event.left_out} left out"
            )
        elif isinstance(event, Judged):
            values = ", ".join(f"{name} {value:.4g}" for name, value in event.row.items())
            print(f"{time.perf_counter() - began:.0f} s: {values}", flush=True)

    return show


if __name__ == "__main__":
    main()
