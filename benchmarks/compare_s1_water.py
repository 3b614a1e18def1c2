"""What each source of data, each network and each set of dropout sites is worth: held-out scores and cost of variants.

    OMP_NUM_THREADS=1 python benchmarks/compare_s1_water.py DATA --work build/s1-water [--only NAME …]

Every variant is trained as ``score_s1_water.py`` trains the shipped model, one model a fold, and scored on the places
its models have not seen. Variants that differ only in the sites sampled share weights. Models already in the work
folder are not trained again. Prints one table; figures of one seed each: two seeds of the same recipe differ by
about 0.02 in mean IoU, so smaller differences say nothing.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from score_s1_water import (
    FOLDS,
    SAMPLES,
    WET,
    Chip,
    area_offset,
    fit,
    fit_place_effect,
    fit_temperature,
    held,
    probability,
    read_chips,
    whole,
    with_effects,
)

from geouq.grid import Roi
from geouq.layers import area_interval
from geouq.learning.data.examples import simulate_examples
from geouq.learning.judging.metrics import Calibration, RiskCoverage, binary_entropy
from geouq.learning.training.recipe import find_recipe
from geouq.networks.model import Model
from geouq.sampling.samplers import make_sampler
from geouq.sampling.window import Window
from geouq.scores.confusion import Confusion

#: side in pixels of the tile that is timed, without its halo
TIMED = 1024


@dataclass(frozen=True)
class Variant:
    """A recipe with changes, under the name of its folder; and the sites sampled (None: all it was trained with)."""

    folder: str
    recipe: str = "s1-water"
    changes: tuple[str, ...] = ()
    sites: tuple[str, ...] | None = None
    samples: int = SAMPLES
    seed: int = 0


#: what s1-water was first: a level less, VH missing less often; data were left out of this one, which trains faster
SMALL = "s1-water-small"

VARIANTS = {
    "all sites": Variant("s1-water"),
    "bottleneck": Variant("s1-water", sites=("bottleneck",)),
    "decoder": Variant("s1-water", sites=("decoder",)),
    "**last two stages (s1-water)**": Variant("s1-water", sites=("last2",)),
    "… of 5 samples": Variant("s1-water", sites=("last2",), samples=5),
    "… of 50 samples": Variant("s1-water", sites=("last2",), samples=50),
    "none, only the place's effect": Variant("s1-water", sites=()),
    "**4 × 4 fold, 32-64-128 (s1-water-fast)**": Variant("s1-water-fast", "s1-water-fast", sites=("last2",)),
    "… all sites": Variant("s1-water-fast", "s1-water-fast"),
    "a level less, VH missing less often": Variant("s1-water-small", SMALL),
    "… another seed": Variant("seed1", SMALL, seed=1),
    "… without simulated scenes": Variant("nosim", SMALL, ("simulated=0",)),
    "… without ETCI outlines (painted water from noise alone)": Variant("noshapes", SMALL, ("outlines=none",)),
    "… without DFC 2024": Variant("nodfc", SMALL, ('leave_out=["dfc"]',)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of labelled chips")
    parser.add_argument("--work", type=Path, default=Path("build/s1-water"), help="fold models")
    parser.add_argument("--folds", nargs="*", choices=list(FOLDS)[:-1], default=list(FOLDS)[:-1], help="only these")
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), default=list(VARIANTS), metavar="NAME")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chips = read_chips(arguments.data)
    print(
        "| variant | "
        + " | ".join(WET)
        + " | mean IoU | false water, dry chips | ECE | AURC | chips held | parameters | s/Mpx |"
    )
    print("|" + "---|" * (8 + len(WET)))
    for name in arguments.only:
        variant = VARIANTS[name]
        work = arguments.work / "compared" / variant.folder
        recipe = find_recipe(variant.recipe, (*variant.changes, "sampled={}"))  # all sites, to choose among
        models = {fold: fit(fold, recipe, arguments.data, work, variant.seed) for fold in arguments.folds}
        print(f"| {name} | " + " | ".join(row(variant, chips, models)) + " |", flush=True)


def row(variant: Variant, chips: Sequence[Chip], models: dict[str, Model]) -> list[str]:
    """Return a variant's cells: IoU of each wet chip, their mean, false water, ECE, AURC, intervals, size, cost."""
    left = [(m, c) for fold, m in models.items() for c in held(chips, fold)]
    logits = [logits_of(variant, m, c) for m, c in left]
    labels = [c.label[c.valid] for _, c in left]
    offsets = {
        c.name: area_offset(z, label) for (_, c), z, label in zip(left, logits, labels, strict=True) if c.name in WET
    }
    scale = fit_place_effect(offsets)
    temperature = fit_temperature([with_effects(z, scale) for z in logits], labels)
    calibration, risk, ious, false, inside = Calibration(), RiskCoverage(), {}, {}, 0
    for (_, chip), z, label in zip(left, logits, labels, strict=True):
        p = probability(with_effects(z, scale)[1:], temperature)
        calibration.add(p, label), risk.add(binary_entropy(p), (p >= 0.5) != label)
        count = Confusion().add(p >= 0.5, label)
        (ious if chip.name in WET else false)[chip.name] = count.iou if chip.name in WET else count.false_water
        shares = (with_effects(z, fit_place_effect(offsets, but=chip.name))[1:] >= 0).mean(axis=1)
        low, high = area_interval(shares)
        inside += bool(low <= chip.water <= high)
    model = next(iter(models.values()))
    size = sum(p.numel() for p in model.network.parameters())
    cells = [f"{ious[name]:.3f}" if name in ious else "" for name in WET] + [f"**{np.mean(list(ious.values())):.3f}**"]
    cells += [
        ", ".join(f"{100 * v:.1f}" for v in false.values()) + " %",
        f"{calibration.ece():.4f}",
        f"{risk.aurc:.4f}",
    ]
    return [*cells, f"{inside} of {len(left)}", f"{size / 1e6:.2f} M", f"{seconds(variant, model):.2f}"]


def logits_of(variant: Variant, model: Model, chip: Chip) -> np.ndarray:
    """Return 1 + samples logits of a chip's valid pixels; the first is without dropout."""
    window = whole(chip.pixels)
    once, passes = [*_passes(replace(variant, sites=()), model, window)][0], [*_passes(variant, model, window)]
    found = np.stack([z[0].numpy()[chip.valid] for z in (once, *passes)])
    return found if len(passes) > 1 else found[np.r_[0, [1] * variant.samples]]


def _passes(variant: Variant, model: Model, window: Window) -> Iterator[torch.Tensor]:
    """Yield what is computed for a window: a pass a sample; one where no site is sampled (samples differ by effect)."""
    samples = 0 if variant.sites == () else variant.samples
    with torch.inference_mode():
        for _, logits in make_sampler(model, samples=samples, sites=variant.sites).draw(window):
            yield logits


def seconds(variant: Variant, model: Model) -> float:
    """Return the least CPU seconds a megapixel of three runs on one tile of a simulated scene, halo included."""
    side = TIMED + 2 * (model.halo or 0)
    (piece,) = simulate_examples(1, 0, side)
    core = Roi(model.halo or 0, side - (model.halo or 0), model.halo or 0, side - (model.halo or 0))
    window = Window(piece.pixels, np.ones((side, side), bool), core)
    best = np.inf
    for _ in range(3):
        started = time.process_time()
        deque(_passes(variant, model, window), maxlen=0)
        best = min(best, time.process_time() - started)
    return best / TIMED**2 * 1e6


if __name__ == "__main__":
    main()
