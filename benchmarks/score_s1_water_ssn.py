r"""Score the recipe of the shipped model ``s1-water-ssn`` on places left out, and ship it.

    OMP_NUM_THREADS=1 python benchmarks/score_s1_water_ssn.py DATA --start build/s1-water/s1-water-small \
        --out geouq/weights --work build/s1-water-ssn

``--start`` holds what ``score_s1_water.py --models s1-water-small`` trained, one model a fold: each SSN starts from the
weights of its own fold, which have not seen the fold's places either, and learns whole label maps.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from compare_samplers import (
    SAMPLES,
    SPREADS,
    Scores,
    fit_spread,
    mean_probability,
    place,
    stack,
    wet_shares,
)
from score_s1_water import FOLDS, Chip, fit, held, read_chips, write_scores

from geouq.learning.judging.metrics import Calibration
from geouq.learning.training.recipe import find_recipe
from geouq.networks.model import Model
from geouq.sampling.samplers import make_sampler

T = TypeVar("T")

SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of labelled chips")
    parser.add_argument("--start", type=Path, default=Path("build/s1-water/s1-water-small"), help="fold models")
    parser.add_argument("--out", type=Path, default=Path("geouq/weights"), help="where model and card go")
    parser.add_argument("--work", type=Path, default=Path("build/s1-water-ssn"), help="fold models, checkpoints")
    parser.add_argument("--folds", nargs="*", default=list(FOLDS), choices=list(FOLDS), help="only these")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    models = {}
    for fold in arguments.folds:
        start = arguments.start / fold / "s1-water-small.safetensors"
        models[fold] = fit(fold, find_recipe("s1-water-ssn"), arguments.data, arguments.work, SEED, start)
    chips = read_chips(arguments.data)
    found = score(chips, {fold: model for fold, model in models.items() if fold != "all"})
    print(card_table(found))
    if "all" in models:
        ship(models["all"], found, arguments.out)


# ---------------------------------------------------------------- scoring


@dataclass(frozen=True)
class Found:
    """Scores of the held-out chips as shipped, and with spread and temperature 1; and what was fitted on all."""

    shipped: Scores
    raw: Scores
    spread: float
    temperature: float


def score(chips: Sequence[Chip], models: dict[str, Model]) -> Found:
    """Score each fold's model on the chips of its places, with a spread and a temperature fitted on the others."""
    left = [(model, chip) for fold, model in models.items() for chip in held(chips, fold)]
    labels = {chip.name: float(chip.label[chip.valid].mean()) for _, chip in left}
    areas = {c.name: {s: wet_shares(m.with_spec(spread=s), c) for s in SPREADS} for m, c in left}
    shipped, raw = Scores(), Scores()
    spreads = {c.name: fit_spread(others(areas, c), labels) for _, c in left}
    spread = fit_spread(areas, labels)
    logits = {
        c.name: stack(make_sampler(m.with_spec(spread=spread), samples=SAMPLES, seed=SEED), c)[:, c.valid]
        for m, c in left
    }
    truth = {c.name: c.label[c.valid] for _, c in left}
    for model, chip in left:
        temperature = fit_temperature(others(logits, chip), truth)
        fitted = model.with_spec(spread=spreads[chip.name], temperature=temperature)
        shipped.add(chip, stack(make_sampler(fitted, samples=SAMPLES, seed=SEED), chip), ())
        raw.add(chip, stack(make_sampler(model, samples=SAMPLES, seed=SEED), chip), ())
    return Found(shipped, raw, spread, fit_temperature(logits, truth))


def others(values: Mapping[str, T], chip: Chip) -> dict[str, T]:
    """Return what belongs to the chips of other places."""
    return {name: value for name, value in values.items() if place(name) != place(chip.name)}


def fit_temperature(logits: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]) -> float:
    """Return the temperature with the least negative log-likelihood of the samples' mean, of every 7th pixel."""

    def loss(temperature: float) -> float:
        sums = Calibration()
        for name, sample in logits.items():
            sums.add(mean_probability(sample[:, ::7] / temperature), labels[name][::7])
        return sums.nll

    return float(min(np.geomspace(0.4, 3.0, 31), key=loss))


def card_table(found: Found) -> str:
    """Return the card's tables."""
    lines = ["| chip held out | IoU | water in the label | 90 % interval |", "|" + "---|" * 4]
    for row in found.shipped.chips:
        iou = f"{row['iou']:.3f}" if row["wet"] else "–"
        lines.append(f"| {row['name']} | {iou} | {row['water']:.1%} | {row['low']:.1%} to {row['high']:.1%} |")
    told, raw = found.shipped.plain(), found.raw.plain()
    lines += [
        "",
        f"The 90 % interval holds the label's share on {told['covered']} of {told['chips']} chips (with spread 1: "
        f"{raw['covered']}); mean IoU of the wet chips {told['iou']:.3f}, pooled ECE {told['ece']:.4f} (with "
        f"spread and temperature 1: {raw['iou']:.3f}, {raw['ece']:.4f}). Fitted on all of them and shipped: spread "
        f"{found.spread:g}, temperature {found.temperature:.3f}.",
    ]
    return "\n".join(lines)


def ship(model: Model, found: Found, out: Path) -> None:
    """Write the shipped model, and the tables its card quotes."""
    told = found.shipped.plain()
    wet = {r["name"]: round(float(r["iou"]), 3) for r in found.shipped.chips if r["wet"]}
    quoted = {"water_iou_held_out": wet, "ece": round(told["ece"], 4), "chips_held": told["covered"]}
    fitted = {"spread": found.spread, "temperature": round(found.temperature, 3)}
    model.with_spec(**fitted, scores=quoted).save(out / "s1-water-ssn.safetensors")
    write_scores(out / "s1-water-ssn.md", card_table(found))


if __name__ == "__main__":
    main()
