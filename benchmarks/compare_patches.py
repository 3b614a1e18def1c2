"""How often do 90 % intervals of area hold the label, on patches that no shipped model has seen, sampler by sampler?

    OMP_NUM_THREADS=1 python benchmarks/compare_patches.py DATA

DATA holds the chips that the shipped models were trained on, for the posterior of the last layer, and ``bigearthnet/``:
patches of 120 × 120 pixels with labels from Sentinel-2. Shares of water are those of a patch's labelled pixels.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import rasterio
import torch
from compare_samplers import SAMPLES, SEED, mean_probability, stack, with_posterior
from score_s1_water import Chip, read_chips

from geouq.learning.judging.metrics import Calibration
from geouq.networks.model import Model
from geouq.sampling.sampler import Sampler
from geouq.sampling.samplers import make_sampler
from geouq.scores.confusion import Confusion

#: a whole number of strides of all models
SIDE = 128
PIXELS = (1_000, 10_000, 100_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of labelled chips")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    patches = [read_patch(path) for path in sorted(arguments.data.glob("bigearthnet/*_S1.tif"))]
    patches = [patch for patch in patches if patch.valid.any()]
    mixed = [patch for patch in patches if 0.02 <= patch.water <= 0.98]
    print(f"{len(patches)} patches, {len(mixed)} of them 2 to 98 % water; S = {SAMPLES}\n")
    print("| sampler | mixed patches held | width | all patches held | mean IoU | ECE |\n" + "|---" * 6 + "|")
    for name, sampler in samplers(read_chips(arguments.data)).items():
        print(f"| {name} | " + " | ".join(row(sampler, patches)) + " |", flush=True)


def samplers(known: list[Chip]) -> dict[str, Sampler]:
    """Return each row's sampler; posteriors are fitted on the chips that are known to the model."""
    told = {"samples": SAMPLES, "seed": SEED}
    shipped = Model.load("s1-water")
    plain = shipped.with_spec(place_effect=0.0)
    rows = {
        "dropout": make_sampler(plain, **told),
        "dropout and the place's effect": make_sampler(shipped, **told),
    }
    for pixels in PIXELS:
        rows[f"Laplace, {pixels} pixels"] = make_sampler(with_posterior(plain, known, pixels), **told)
    rows["Laplace, 10000 pixels, and the place's effect"] = make_sampler(with_posterior(shipped, known, 10_000), **told)
    return rows | {"SSN": make_sampler(Model.load("s1-water-ssn"), **told)}


def read_patch(path: Path) -> Chip:
    """Return a patch, filled up to a whole number of strides with pixels that are not valid."""
    with rasterio.open(path) as scene, rasterio.open(str(path).replace("_S1", "_water")) as truth:
        values, label = scene.read().astype(np.float32), truth.read(1)
    rest = SIDE - values.shape[1], SIDE - values.shape[2]
    around = (0, rest[0]), (0, rest[1])
    pixels = np.pad(values, ((0, 0), *around), constant_values=np.nan)
    label = np.pad(label, around, constant_values=255)
    return Chip(path.stem, path.stem, pixels, (label == 1).astype(np.uint8), (label <= 1) & np.isfinite(pixels).all(0))


def row(sampler: Sampler, patches: list[Chip]) -> list[str]:
    """Return one sampler's cells."""
    held, widths, ious, calibration = {True: list[bool](), False: list[bool]()}, [], [], Calibration()
    for patch in patches:
        logits, label = stack(sampler, patch)[:, patch.valid], patch.label[patch.valid]
        mean, mixed = mean_probability(logits), 0.02 <= patch.water <= 0.98
        low, high = np.quantile((logits >= 0).mean(1), (0.05, 0.95))
        calibration.add(mean, label)
        held[mixed].append(bool(low <= label.mean() <= high))
        if mixed:
            widths.append(high - low)
            ious.append(Confusion().add(mean >= 0.5, label).iou)
    inside, everywhere = sum(held[True]), held[True] + held[False]
    return [
        f"{inside} of {len(held[True])}",
        f"{np.mean(widths):.1%}",
        f"{sum(everywhere)} of {len(everywhere)}",
        f"{np.mean(ious):.3f}",
        f"{calibration.ece():.4f}",
    ]


if __name__ == "__main__":
    main()
