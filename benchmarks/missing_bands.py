"""How wrong are maps of places left out, when a band is missing, and what would the alarm expect of them?

    OMP_NUM_THREADS=1 python benchmarks/missing_bands.py DATA FOLDS [--samples 8]

DATA is what the folds were trained on, FOLDS the folder that ``geouq train DATA --recipe s1-water --folds …`` wrote.
Each chip is mapped by the model that never saw its place, with both bands, with VV and with VH alone, by the cut that
is most accurate. Expected is what the alarm of the final model says of so much doubt; it was made with both bands.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from geouq.alarm import OPEN, expect
from geouq.learning.data.dataset import read_dataset
from geouq.learning.data.loading import load, open_chip
from geouq.networks.model import Model
from geouq.segmentation.lazy import segment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("folds", type=Path)
    parser.add_argument("--samples", type=int, default=8)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    found = json.loads((arguments.folds / "folds.json").read_text())
    (final,) = arguments.folds.glob("*.safetensors")
    alarm = Model.load(final).spec.alarm
    assert alarm is not None
    heads = ("bands", "chips", "wrong %", "expected %", "interval holds", "a tenth wrong or more")
    print(f"| {' | '.join(heads)} | half water or more: wrong % |\n|---|---|---|---|---|---|---|")
    for bands in (["VV", "VH"], ["VV"], ["VH"]):
        rows = np.array([[*row, *told(alarm, row[0])] for row in maps(arguments, found, bands)])
        doubt, wrong, share, expected, low, high = rows.T
        held = ((low <= wrong) & (wrong <= high)).mean()
        wet = 100 * wrong[share >= 0.5].mean()
        print(
            f"| {', '.join(bands)} | {len(rows)} | {100 * wrong.mean():.1f} | {100 * expected.mean():.1f} "
            f"| {100 * held:.0f} % | {(wrong >= 0.1).sum()} | {wet:.1f} |",
            flush=True,
        )


def told(alarm: dict, doubt: float) -> tuple[float, float, float]:
    """Return the share of wrong pixels that the alarm expects, and its interval."""
    one = expect(alarm, "accuracy", doubt)
    return one.wrong, one.low, one.high


def maps(arguments: argparse.Namespace, found: dict, bands: list[str]) -> Iterator[tuple[float, float, float]]:
    """Yield doubt, share of wrong pixels and share of water in the label of each chip."""
    chips = {chip.name: chip for chip in read_dataset(arguments.data)}
    models = {}
    for number, fields in enumerate(found["fitted_by_fold"], 1):
        (path,) = (arguments.folds / f"fold-{number}").glob("*.safetensors")
        models[number] = Model.load(path).with_spec(**fields)
    for row in found["chips"]:
        chip = chips[row["name"]]
        _, label, valid = load(chip, ("VV", "VH"), "dB")
        scene = open_chip(chip)
        names = [str(name).split("_")[0] for name in scene.band.values]
        scene = scene.isel(band=[names.index(band) for band in bands]).assign_coords(band=bands)
        layers = segment(
            scene, models[row["fold"]], samples=arguments.samples, layers=("mask", "uncertainty"), decide="accuracy"
        ).compute()
        mask, doubt = layers["mask"].values, layers["uncertainty"].values
        seen = valid & (mask < 2)
        yield float((doubt[seen] > OPEN).mean()), float((mask != label)[seen].mean()), float(label[seen].mean())


if __name__ == "__main__":
    main()
