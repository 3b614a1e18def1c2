"""Is doubt small inside water, large at its border, and larger where the map is wrong? On pictures not trained on.

    python benchmarks/doubt.py MODEL DATA [--samples 100]

MODEL is a file that ``geouq train DATA -o FOLDER`` wrote. Of DATA the chips are taken that ``settings.json`` beside it
names as held out, and those of the split test. Doubt is the standard deviation over samples of the probability (layer
``std``). Inside: deeper than 8 pixels by the label; border: within 2 pixels of one. AUROC: the probability that a wrong
pixel's doubt is above a right one's, all pixels together, and the mean over chips.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.ndimage import distance_transform_edt

from geouq.learning.data.chip import LabelledChip
from geouq.learning.data.dataset import read_dataset
from geouq.learning.data.loading import load, open_chip
from geouq.learning.judging.metrics import RiskCoverage, auroc
from geouq.networks.model import Model
from geouq.scores.confusion import Confusion, mean
from geouq.segmentation.lazy import segment

DEEP, NEAR = 8, 2


def zones(label: np.ndarray) -> dict[str, np.ndarray]:
    """Return where the label (h, w) of 0 and 1 is deep inside a class, or near a border."""
    if label.min() == label.max():
        depth = np.full(label.shape, np.inf)
    else:
        depth = np.where(label == 1, distance_transform_edt(label == 1), distance_transform_edt(label != 1))
    water, land = (label == 1) & (depth > DEEP), (label != 1) & (depth > DEEP)
    return {"inside water": water, "inside land": land, "at borders": depth <= NEAR}


def main() -> None:
    """Print the scores, and the mean doubt and share of errors of each zone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--samples", type=int, default=100)
    asked = parser.parse_args()
    model = Model.load(asked.model)
    held = set(json.loads((asked.model.parent / "settings.json").read_text())["validation"])
    chips = [chip for chip in read_dataset(asked.data) if chip.name in held or chip.split == "test"]
    together, alone, found = RiskCoverage(), [], Confusion()
    sums: dict[str, np.ndarray] = {}  # zone → pixels, doubt, errors
    for chip in chips:
        std, mask, label, valid = doubts(chip, model, asked.samples)
        wrong = mask != (label == 1)
        together.add(std, wrong, valid)
        alone.append(auroc(RiskCoverage().add(std, wrong, valid)))
        found = found.add(mask, label, valid)
        for name, where in zones(label).items():
            here = where & valid
            row = np.array([here.sum(), std[here].sum(), wrong[here].sum()], float)
            sums[name] = sums.get(name, np.zeros(3)) + row
    print(f"{len(chips)} chips not trained on, {together.count.sum() / 1e6:.2f} megapixels, {asked.samples} samples")
    print(f"IoU of water {found.iou:.3f}; AUROC of doubt for errors {auroc(together):.3f}, mean over chips", end=" ")
    print(f"{mean(alone):.3f}")
    print("| | pixels | mean std | wrong |\n|---|---|---|---|")
    for name, (count, doubt, errors) in sums.items():
        print(f"| {name} | {count:.0f} | {doubt / max(count, 1):.4f} | {100 * errors / max(count, 1):.1f} % |")


def doubts(chip: LabelledChip, model: Model, samples: int) -> tuple[np.ndarray, ...]:
    """Return std, mask, label and what is valid of all three, each (h, w)."""
    layers = segment(open_chip(chip), model=model, samples=samples, layers=("mask", "std")).compute()
    _, label, valid = load(chip)
    std = layers["std"].values
    return np.nan_to_num(std), layers["mask"].values == 1, label, valid & np.isfinite(std)


if __name__ == "__main__":
    main()
