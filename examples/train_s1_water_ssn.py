"""Train, score and write the shipped model ``s1-water-ssn`` from the data and the fold models of ``s1-water``.

    OMP_NUM_THREADS=1 python examples/train_s1_water_ssn.py DATA --start build/s1-water/s1-water-small \
        --out geouq/weights --work build/s1-water-ssn

``--start`` holds what ``train_s1_water.py --models s1-water-small`` trained, one model a fold: each SSN starts from the
weights of its own fold, which have not seen the fold's places either, with small deviations, and learns whole label
maps. Where a chip has more than one source of labels they are its raters: every other time the hand label, else one of
Otsu's threshold on VH (of chips where it comes near the label) and the optical index MNDWI (where Sentinel-2 of the
same day is there).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import rasterio
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
from train_s1_water import FOLDS, train_fold, write_scores
from train_s1_water import VH_THERE as AUGMENTATION

from geouq.learning.data.augment import Sample, draw_sample
from geouq.learning.data.chips import Chip, leave_out, read_chips, read_shapes, simulate_chips
from geouq.learning.judging.baselines import boxcar, otsu
from geouq.learning.judging.metrics import Calibration, Confusion
from geouq.learning.training.train import TrainConfig, seed_weights
from geouq.networks.model import Model
from geouq.networks.ssn import SSN
from geouq.networks.unet import UNet, UNetConfig
from geouq.sampling.samplers import make_sampler

T = TypeVar("T")

SEED = 0
RANK = 10
TRAINING = TrainConfig(
    steps=160, warmup=10, every=40, rate=1.5e-3, loss="ssn", draws=12, bfloat16=True, average=0.97, seed=SEED
)
SIMULATED_CHIPS = 60
#: an automatic label joins as a rater where its IoU with the hand label is at least this
NEAR = 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of labelled chips")
    parser.add_argument("--start", type=Path, default=Path("build/s1-water/s1-water-small"), help="fold models")
    parser.add_argument("--out", type=Path, default=Path("geouq/weights"), help="where model and card go")
    parser.add_argument("--work", type=Path, default=Path("build/s1-water-ssn"), help="fold models, checkpoints")
    parser.add_argument("--folds", nargs="*", default=list(FOLDS), choices=list(FOLDS), help="only these")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    chips = read_chips(arguments.data)
    raters = [with_raters(chip, arguments.data) for chip in chips]
    for variants in raters:
        if len(variants) > 1:
            print(f"{variants[0].name}: {len(variants)} raters", flush=True)
    shapes, made = read_shapes(arguments.data), simulate_chips(SIMULATED_CHIPS, SEED)
    data = raters, made, shapes
    models = {fold: fit(fold, data, arguments.start, arguments.work) for fold in arguments.folds}
    found = score(chips, {fold: model for fold, model in models.items() if fold != "all"})
    print(card_table(found))
    if "all" in models:
        ship(models["all"], found, arguments.out)


def with_raters(chip: Chip, data: Path) -> list[Chip]:
    """Return the chip once for each source of labels, the hand label first."""
    found = [otsu_label(chip)] if chip.water >= 0.02 else []
    optical = data / "sen1floods11" / f"{chip.name}_S2Hand.tif"
    if optical.exists():
        found.append(optical_label(optical))
    near = [label for label in found if Confusion().add(label, chip.label, chip.valid).iou >= NEAR]
    return [chip, *(replace(chip, label=label.astype(np.uint8)) for label in near)]


def otsu_label(chip: Chip) -> np.ndarray:
    """Return VH, averaged over 5 pixels, below Otsu's threshold."""
    smooth = boxcar(chip.pixels[1], 5)
    return np.asarray(smooth < otsu(smooth))


def optical_label(path: Path) -> np.ndarray:
    """Return MNDWI > 0: (green − SWIR) / (green + SWIR), bands 3 and 11 (Xu 2006, doi 10.1080/01431160600589179)."""
    with rasterio.open(path) as source:
        green, swir = source.read(3).astype(float), source.read(12).astype(float)
    return np.asarray(green > swir)


def start(path: Path) -> Model:
    """Return an SSN whose mean is the network of a model file, with small deviations."""
    old = Model.load(path)
    arguments = {**old.spec.arguments, "backbone": "unet", "rank": RANK, "classes": 1}
    network = SSN(UNet(UNetConfig(**{**old.spec.arguments, "classes": 2 + RANK})), 1, RANK)
    seed_weights(network, SEED)
    state = dict(old.network.state_dict())
    head = network.network.head
    with torch.no_grad():
        for name in ("weight", "bias"):
            part, mean = getattr(head, name), state.pop(f"head.{name}")
            part[: len(mean)] = mean
    network.network.load_state_dict(state, strict=False)
    description = "Open water in Sentinel-1 VV and VH as whole plausible maps: a Stochastic Segmentation Network."
    told = {"name": "s1-water-ssn", "architecture": "ssn", "arguments": arguments, "sampler": "ssn"}
    fresh = {"temperature": 1.0, "place_effect": 0.0, "scores": {}, "correlation": 2.0 * AUGMENTATION.size}
    return Model(network, replace(old.spec, **told, **fresh, description=description))


def fit(fold: str, data: tuple[list[list[Chip]], list[Chip], list[np.ndarray]], begin: Path, work: Path) -> Model:
    """Return the model of a fold, trained unless the work folder holds it already."""
    path = work / f"{fold}.safetensors"
    if path.exists():
        return Model.load(path)
    raters, made, shapes = data
    known = {chip.name for chip in leave_out([variants[0] for variants in raters], FOLDS[fold])[0]}
    real = [variants for variants in raters if variants[0].name in known]
    model = start(begin / f"{fold}.safetensors")

    def draw(rng: np.random.Generator) -> Sample:
        chosen = [v[0] if rng.random() < 0.5 else v[int(rng.integers(len(v)))] for v in real]
        return draw_sample([*chosen, *made], shapes, AUGMENTATION, rng)

    return train_fold(model, draw, TRAINING, path)


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
    held = [(model, chip) for fold, model in models.items() for chip in leave_out(chips, FOLDS[fold])[1]]
    labels = {chip.name: float(chip.label[chip.valid].mean()) for _, chip in held}
    areas = {c.name: {s: wet_shares(m.with_spec(spread=s), c) for s in SPREADS} for m, c in held}
    shipped, raw = Scores(), Scores()
    spreads = {c.name: fit_spread(others(areas, c), labels) for _, c in held}
    spread = fit_spread(areas, labels)
    logits = {
        c.name: stack(make_sampler(m.with_spec(spread=spread), samples=SAMPLES, seed=SEED), c)[:, c.valid]
        for m, c in held
    }
    truth = {c.name: c.label[c.valid] for _, c in held}
    for model, chip in held:
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
