"""Classic methods beside a U-Net on the same chips: water IoU of each, mean over chips.

    python benchmarks/classic.py DATA [--rgb-model MODEL] [--chips 20] [--picture PNG]

    python benchmarks/classic.py DATA --chips 10 --manifest water.json     # the row "U-Net" of the pictures, by a model
    geouq train water.json --recipe unet-16 -o rgb/                        # that has not seen those compared
    python benchmarks/classic.py DATA --chips 10 --rgb-model rgb/unet-16.safetensors

DATA holds ``s1/`` (sen1floods11/, stacoverflow/) and ``seeds/water-bodies-rgb/`` (images/, masks/, manifest.csv). The
ships are drawn here: bright hulls on 5 % of a noisy sea. Each chip is a scene of its own. Backscatter is smoothed
(``--smooth``), pictures are not. There the darker class is water; in the sea the brighter one is ships.

The picture shows all methods on a simulated scene.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import xarray as xr

import geouq
from geouq.classic.classify import METHODS, classify
from geouq.grid import Roi
from geouq.learning.data.chip import LabelledChip
from geouq.learning.data.layouts import sen1floods11, stacoverflow
from geouq.learning.data.loading import load_label, open_chip
from geouq.maps.figure import Grid, Panel, draw, save
from geouq.scores.confusion import Confusion, mean
from geouq.simulation.simulate import simulate_window

TRIED = tuple(method for method in METHODS if method != "threshold")
BLUE, LAND, GREY = (0.12, 0.47, 0.71), (0.95, 0.93, 0.9), (0.77, 0.77, 0.77)


@dataclass(frozen=True)
class Example:
    """A scene, its label (1 = the class, -1 = none), whether the class is the brighter one, and how it is smoothed."""

    scene: xr.DataArray
    label: np.ndarray
    above: bool = False
    smooth: str | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--smooth", default="median", help="of backscatter")
    parser.add_argument("--chips", type=int, default=20, help="pictures of water bodies, evenly spread")
    parser.add_argument("--rgb-model", help="a model of red, green and blue that has not seen these chips")
    parser.add_argument("--manifest", type=Path, help="only write this: all pictures, those compared of the split test")
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    if given.manifest:
        given.manifest.write_text(json.dumps(manifest(given.data / "seeds" / "water-bodies-rgb", given.chips)))
        return
    sets = {
        "ships, drawn": [ships()],
        "Sentinel-1": list(radar(given.data / "s1", given.smooth)),
        "water RGB": list(pictures(given.data / "seeds" / "water-bodies-rgb", given.chips)),
    }
    models = {"Sentinel-1": "s1-water", "water RGB": given.rgb_model}
    print(f"| method | {' | '.join(f'{name} ({len(found)})' for name, found in sets.items())} |")
    print(f"|---|{'---|' * len(sets)}")
    for method in TRIED:
        row = [mean([iou(mapped(one, method), one.label) for one in found]) for found in sets.values()]
        print(f"| `{method}` | {' | '.join(f'{value:.3f}' for value in row)} |", flush=True)
    row = [
        mean([iou(segmented(one, models[n]), one.label) for one in f]) if models.get(n) else None
        for n, f in sets.items()
    ]
    print(f"| U-Net | {' | '.join('–' if value is None else f'{value:.3f}' for value in row)} |")
    if given.picture:
        picture(given.picture)


def ships(size: int = 200) -> Example:
    """Hulls of 4 x 14 pixels on 5 % of a sea."""
    rng = np.random.default_rng(0)
    hull = np.zeros((size, size), bool)
    while hull.mean() < 0.05:
        y, x = rng.integers(0, size - 14, 2)
        long = (4, 14) if rng.random() < 0.5 else (14, 4)
        hull[y : y + long[0], x : x + long[1]] = True
    values = np.where(hull, 170, 60) + rng.normal(0, 18, hull.shape)
    grid = {"y": np.arange(size) + 0.5, "x": np.arange(size) + 0.5}
    scene = xr.DataArray(values[None].astype(np.float32), {"band": ["grey"], **grid}, ("band", "y", "x"))
    return Example(scene.assign_attrs(units="rgb"), hull.astype(np.int16), above=True)


def radar(folder: Path, smooth: str) -> Iterator[Example]:
    """Chips with both classes: of those with one alone a method of two classes can say nothing right."""
    for chip in (*sen1floods11(folder), *stacoverflow(folder)):
        found = example(chip, smooth)
        if 0.01 < (found.label == 1).sum() / max((found.label >= 0).sum(), 1) < 0.99:
            yield found


def compared(folder: Path, count: int) -> list[Path]:
    images = sorted((folder / "images").iterdir())
    return images[:: max(1, len(images) // count)][:count]


def mask_of(image: Path) -> Path:
    return next((image.parents[1] / "masks").glob(f"{image.stem}.*"))


def manifest(folder: Path, count: int) -> list[dict[str, str]]:
    """List all pictures, each a place of its own, as nobody says where they lie; those compared are not trained on."""
    test = compared(folder, count)
    return [
        {"image": str(image.resolve()), "label": str(mask_of(image).resolve()), "place": image.stem}
        | ({"split": "test"} if image in test else {})
        for image in sorted((folder / "images").iterdir())
    ]


def pictures(folder: Path, count: int) -> Iterator[Example]:
    """Every so many-th of the pictures of water bodies; black padding is not valid."""
    for image in compared(folder, count):
        chip = LabelledChip(image.stem, image.stem, (image,), mask_of(image), scale="rgb")
        found = example(chip, None)
        black = (found.scene.values <= 8).all(0)
        scene = found.scene.where(~black)
        yield Example(scene.assign_attrs(found.scene.attrs), np.where(black, -1, found.label))


def example(chip: LabelledChip, smooth: str | None) -> Example:
    scene = open_chip(chip).compute()
    return Example(scene, load_label(chip, Roi(0, scene.shape[1], 0, scene.shape[2])), smooth=smooth)


def mapped(one: Example, method: str) -> np.ndarray:
    """Return the mask of a classic method, (h, w)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.tif")
        classify(one.scene, path, method, above=one.above, smooth=one.smooth)
        with rasterio.open(path) as file:
            return np.asarray(file.read(1))


def segmented(one: Example, model: str) -> np.ndarray:
    """Return the mask of a model, 20 samples."""
    return np.asarray(geouq.segment(one.scene, model, samples=20, layers=("mask",))["mask"].values)


def iou(mask: np.ndarray, label: np.ndarray) -> float:
    """Return the IoU of class 1 where mask and label say something."""
    return Confusion().add(mask, label, (mask != 255) & (label >= 0)).iou


def picture(path: Path, size: int = 320) -> None:
    """Draw a simulated scene, its truth, and what each method makes of it."""
    values, truth = simulate_window((size, size), Roi(0, size, 0, size), seed=7)
    grid = {"y": -10.0 * np.arange(size), "x": 10.0 * np.arange(size)}
    scene = xr.DataArray(values, {"band": ["VV", "VH"], **grid}, ("band", "y", "x"), attrs={"units": "dB"})
    one = Example(scene, np.where(truth == 255, -1, truth), smooth="median")
    grey = np.clip((values[0] + 24) / 20, 0, 1)
    panels = [Panel("VV, dB", np.dstack([*[np.nan_to_num(grey)] * 3, np.isfinite(grey)]), (size, size), "-24 to -4")]
    panels.append(Panel("Truth", coloured(truth), (size, size), "water blue"))
    for method in TRIED:
        mask = mapped(one, method)
        panels.append(Panel(method, coloured(mask), (size, size), f"IoU {iou(mask, one.label):.2f}"))
    panels.append(Panel("U-Net, s1-water", coloured(found := segmented(one, "s1-water")), (size, size), ""))
    panels[-1] = Panel(panels[-1].title, panels[-1].image, (size, size), f"IoU {iou(found, one.label):.2f}")
    sheet = Grid((size, size), rasterio.Affine.identity(), None)
    save(
        draw(panels, sheet, "A simulated scene by classic methods (median smoothing)", ["simulated, no measurement"]),
        path,
    )


def coloured(mask: np.ndarray) -> np.ndarray:
    image = np.where((mask == 1)[..., None], BLUE, LAND)
    return np.where((mask == 255)[..., None], GREY, image).astype(np.float32)


if __name__ == "__main__":
    main()
