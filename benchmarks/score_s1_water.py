"""Train the recipe ``s1-water-small`` on places left out, which ``s1-water-ssn`` starts from, and score it.

    OMP_NUM_THREADS=1 python benchmarks/score_s1_water.py DATA --work build/s1-water

DATA holds ``sen1floods11/``, ``stacoverflow/``, ``dfc2024/`` and ``etci2021/`` alone: other sets would be trained on.
(``s1-water`` and ``s1-water-fast`` are made by ``geouq train --folds``.) For each fold the recipe is trained, as
``geouq train DATA --recipe s1-water-small --val …`` does, without the fold's places, and scored on them, with
temperature and place's effect fitted on the others. Models already in the work folder are not trained again; an
interrupted run continues at its checkpoint.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import brentq, minimize_scalar

from geouq.grid import Roi
from geouq.learning.data.dataset import read_dataset
from geouq.learning.data.loading import load
from geouq.learning.judging.baselines import best_global_threshold, best_smoothed_iou, boxcar, otsu
from geouq.learning.judging.metrics import Calibration, RiskCoverage, binary_entropy
from geouq.learning.training.events import Event, Judged
from geouq.learning.training.fit import FitOptions, train_model
from geouq.learning.training.recipe import Recipe, find_recipe
from geouq.networks.model import Model
from geouq.sampling.draws import place_effects
from geouq.sampling.samplers import make_sampler
from geouq.sampling.window import Window
from geouq.scores.confusion import Confusion

RECIPE = "s1-water-small"
SEED = 0
SAMPLES = 20
#: fold → the places its model never sees; "all" is the shipped model. Dry places ride along with a wet one.
FOLDS = {"India": ("India", "Ghana"), "Spain": ("Spain",), "USA": ("USA", "awc00"), "jja10": ("jja10",), "all": ()}
WET = ("India_900498", "Spain_7370579", "USA_905409", "jja10")


@dataclass(frozen=True)
class Chip:
    """A labelled chip as read: VV and VH in dB (2, h, w), label (h, w) uint8 with 1 = water, valid (h, w)."""

    name: str
    place: str
    pixels: np.ndarray
    label: np.ndarray
    valid: np.ndarray

    @cached_property
    def water(self) -> float:
        """Share of water among valid pixels, 0..1."""
        return float(self.label[self.valid].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of labelled chips")
    parser.add_argument("--work", type=Path, default=Path("build/s1-water"), help="fold models, checkpoints, scores")
    parser.add_argument("--folds", nargs="*", default=list(FOLDS), choices=list(FOLDS), help="only these")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    chips, work = read_chips(arguments.data), arguments.work / RECIPE
    models = {fold: fit(fold, find_recipe(RECIPE), arguments.data, work) for fold in arguments.folds}
    scores = score(chips, {fold: model for fold, model in models.items() if fold != "all"})
    (work / "scores.json").write_text(json.dumps(scores, indent=1))
    print(f"\n{RECIPE}\n\n{table(scores)}")


def read_chips(data: Path) -> list[Chip]:
    """Read the chips below ``data`` that have a valid pixel."""
    chips = []
    for chip in read_dataset(data):
        pixels, label, valid = load(chip, ("VV", "VH"), "dB")
        if valid.any():
            chips.append(Chip(chip.name, chip.place, pixels, (label == 1).astype(np.uint8), valid))
    return chips


def _show(event: Event) -> None:
    if isinstance(event, Judged):
        print(event.row, flush=True)


def held(chips: Sequence[Chip], fold: str) -> list[Chip]:
    """Return the chips of the places that a fold's model has not seen."""
    return [chip for chip in chips if chip.place in FOLDS[fold]]


def fit(fold: str, recipe: Recipe, data: Path, work: Path, seed: int = SEED, init: Path | None = None) -> Model:
    """Return the model of a fold, trained unless the work folder holds it already."""
    path = work / fold / f"{recipe.name}.safetensors"
    if not path.exists():
        told = FitOptions(validation=FOLDS[fold] or None, seed=seed, init=init, resume=True, device="cpu")
        train_model(data, recipe, path.parent, told, _show)
    return Model.load(path)


# ---------------------------------------------------------------- scoring


def logits_of(model: Model, chip: Chip, bands: tuple[bool, bool] = (True, True)) -> np.ndarray:
    """Return SAMPLES + 1 logits of a chip's valid pixels, (SAMPLES + 1, pixels); the first is without dropout."""
    pixels = np.where(np.asarray(bands)[:, None, None], chip.pixels, np.nan)
    samplers = [make_sampler(model, samples=s, seed=SEED) for s in (0, SAMPLES)]
    with torch.inference_mode():
        drawn = [logits for sampler in samplers for _, logits in sampler.draw(whole(pixels))]
    return np.stack([logits[0].numpy()[chip.valid] for logits in drawn])


def whole(pixels: np.ndarray) -> Window:
    """Return a chip's pixels (K, h, w) as one window without a halo; what is NaN is what the network sees as 0."""
    return Window(pixels, np.ones(pixels.shape[1:], bool), Roi(0, pixels.shape[1], 0, pixels.shape[2]))


def probability(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Return p̄: the mean over samples (first axis) of the sigmoid of tempered logits."""
    total = np.zeros(logits.shape[1:])
    for sample in logits:
        total += 1 / (1 + np.exp(-sample / temperature))
    return total / len(logits)


def fit_temperature(logits: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> float:
    """Return the temperature in 0.2..5 with the least negative log-likelihood of the sampled mean."""
    every = 7  # neighbouring pixels say much the same
    pooled = np.concatenate([v[1:, ::every] for v in logits], axis=1)
    label = np.concatenate([v[::every] for v in labels])

    def loss(log_temperature: float) -> float:
        return Calibration().add(probability(pooled, float(np.exp(log_temperature))), label).nll

    return float(np.exp(minimize_scalar(loss, bounds=np.log((0.2, 5.0)), method="bounded").x))


def area_offset(logits: np.ndarray, label: np.ndarray) -> float:
    """Return the offset, added to all logits, with which the samples' mean area is the label's."""

    def excess(offset: float) -> float:
        return float((logits[1:] + offset >= 0).mean() - label.mean())

    return float(brentq(excess, -15, 15))


def fit_place_effect(offsets: Mapping[str, float], but: str = "") -> float:
    """Return the root mean square of the places' offsets: the deviation of a random offset of mean 0."""
    return float(np.sqrt(np.mean([b**2 for name, b in offsets.items() if name != but])))


def with_effects(logits: np.ndarray, scale: float) -> np.ndarray:
    """Return logits (1 + S, pixels) with each sample's place effect; the first row, one pass, has none."""
    effects = place_effects(scale, SEED, range(len(logits) - 1))
    return logits + np.concatenate([[0], effects]).astype(np.float32)[:, None]


def score(chips: Sequence[Chip], models: dict[str, Model]) -> dict[str, object]:
    """Score each fold's model on the chips of its places, after fitting one temperature on all of them."""
    left = [(m, c) for fold, m in models.items() for c in held(chips, fold)]
    logits = [logits_of(m, c) for m, c in left]
    labels = [c.label[c.valid] for _, c in left]
    pairs = list(zip(left, logits, labels, strict=True))
    offsets = {c.name: area_offset(logit, label) for (_, c), logit, label in pairs if c.name in WET}
    effect = fit_place_effect(offsets) if offsets else 0.0
    temperature = fit_temperature([with_effects(logit, effect) for logit in logits], labels)
    before, after, once = Calibration(), Calibration(), Calibration()
    sampled, softmax = RiskCoverage(), RiskCoverage()
    rows = {}
    for (model, chip), logit, label in pairs:
        raw, single = probability(logit[1:], 1), probability(logit[:1], 1)
        p = probability(with_effects(logit, effect)[1:], temperature)
        before.add(raw, label), after.add(p, label), once.add(single, label)
        sampled.add(binary_entropy(p), (p >= 0.5) != label)
        softmax.add(2 * np.minimum(single, 1 - single), (single >= 0.5) != label)
        vv = probability(with_effects(logits_of(model, chip, (True, False)), effect)[1:], temperature)
        rows[chip.name] = row(chip, p >= 0.5, vv >= 0.5, single >= 0.5)
        others = fit_place_effect(offsets, but=chip.name) if len(offsets) > 1 else effect
        for name, scale in (("share", others), ("dropout_share", 0.0)):
            shares = (with_effects(logit, scale)[1:] >= 0).mean(axis=1)  # a temperature does not change them
            rows[chip.name][f"{name}_p05"], rows[chip.name][f"{name}_p95"] = np.quantile(shares, (0.05, 0.95))
    add_thresholds(rows, [c for _, c in left])
    return {
        "places": rows,
        "temperature": temperature,
        "place_effect": effect,
        "offsets": offsets,
        "calibration": {
            name: {"ece": c.ece(), "ece_equal_width": c.ece(equal_mass=False), "brier": c.brier, "nll": c.nll}
            for name, c in (("one pass", once), ("dropout alone", before), ("as shipped", after))
        },
        "aurc": {"sampled entropy": sampled.aurc, "one pass, max-softmax": softmax.aurc},
    }


def row(chip: Chip, water: np.ndarray, from_vv: np.ndarray, once: np.ndarray) -> dict[str, float]:
    """Return the scores of one chip's maps, all on its valid pixels."""
    label = chip.label[chip.valid]
    count = Confusion().add(water, label)
    return {
        "water": chip.water,
        "iou": count.iou,
        "precision": count.precision,
        "recall": count.recall,
        "false_water": count.false_water,
        "iou_one_pass": Confusion().add(once, label).iou,
        "iou_vv_only": Confusion().add(from_vv, label).iou,
        "false_water_vv_only": Confusion().add(from_vv, label).false_water,
    }


def add_thresholds(rows: dict[str, dict[str, float]], held: Sequence[Chip]) -> None:
    """Add to the rows of the wet chips what thresholds reach on the same pixels."""
    wet = [c for c in held if c.name in WET]
    if not wet:
        return
    labels = [c.label[c.valid] for c in wet]
    for band, name in enumerate(("vv", "vh")):
        for kind, smooth in (("", lambda b: b), ("_boxcar5", lambda b: boxcar(b, 5))):
            values = [smooth(c.pixels[band])[c.valid] for c in wet]
            level, ious = best_global_threshold(values, labels)
            for chip, iou in zip(wet, ious, strict=True):
                rows[chip.name] |= {f"global_{name}{kind}": iou, f"global_{name}{kind}_db": level}
        for chip, label in zip(wet, labels, strict=True):
            below = chip.pixels[band][chip.valid] < otsu(chip.pixels[band])
            rows[chip.name][f"otsu_{name}"] = Confusion().add(below, label).iou
    for chip in wet:
        best = best_smoothed_iou([np.where(chip.valid, b, np.nan) for b in chip.pixels], chip.label)
        rows[chip.name]["hindsight"] = best[0]


def table(scores: dict) -> str:
    """Return the scores of the held-out chips as Markdown tables."""
    columns = ("iou", "global_vv", "global_vh", "global_vh_boxcar5", "otsu_vv", "otsu_vh", "hindsight", "iou_vv_only")
    lines = [
        "| chip held out | the model | VV global | VH global | VH global, 5 px boxcar | Otsu VV | Otsu VH |"
        " per-chip hindsight | the model, VV alone |",
        "|" + "---|" * 9,
    ]
    wet = [(n, r) for n, r in scores["places"].items() if n in WET]
    for name, r in wet:
        lines.append(f"| {name} | " + " | ".join(f"{r[c]:.3f}" for c in columns) + " |")
    means = [np.mean([r[c] for _, r in wet]) for c in columns]
    lines.append("| **mean** | " + " | ".join(f"{m:.3f}" for m in means) + " |")
    lines += [
        "",
        "| chip held out | water in the label | 90 % interval | of dropout alone | false water | the same, VV alone |",
        "|---|---|---|---|---|---|",
    ]
    for name, r in scores["places"].items():
        interval = f"{r['share_p05']:.1%} to {r['share_p95']:.1%}"
        false = f"{r['false_water']:.2%} | {r['false_water_vv_only']:.2%}"
        narrow = f"{r['dropout_share_p05']:.1%} to {r['dropout_share_p95']:.1%}"
        lines.append(f"| {name} | {r['water']:.1%} | {interval} | {narrow} | {false} |")
    rows = scores["places"].values()
    inside, narrowly = (
        sum(r[f"{kind}_p05"] <= r["water"] <= r[f"{kind}_p95"] for r in rows) for kind in ("share", "dropout_share")
    )
    offsets = ", ".join(f"{name} {offset:+.2f}" for name, offset in scores["offsets"].items())
    lines += [
        "",
        f"The 90 % interval, with the place's effect fitted on the other places, holds the label's share on {inside} "
        f"of {len(rows)} chips; that of dropout alone on {narrowly}. Offsets that make the area right: {offsets} "
        f"logits; their root mean square, {scores['place_effect']:.2f}, is the place's effect.",
        "",
        "| held-out pixels, pooled | ECE, 15 equal-mass bins | ECE, equal width | Brier | NLL |",
        "|---|---|---|---|---|",
    ]
    for name, c in scores["calibration"].items():
        lines.append(f"| {name} | {c['ece']:.4f} | {c['ece_equal_width']:.4f} | {c['brier']:.4f} | {c['nll']:.4f} |")
    aurc = ", ".join(f"{name} {value:.5f}" for name, value in scores["aurc"].items())
    return "\n".join([*lines, "", f"Temperature {scores['temperature']:.3f}. AURC: {aurc}."])


def write_scores(card: Path, tables: str) -> None:
    """Write a card's tables between its marks; what stands around them stays."""
    before, _, rest = card.read_text().partition("<!-- scores -->\n") if card.exists() else ("", "", "")
    after = rest.partition("<!-- end of scores -->")[2]
    card.write_text(f"{before}<!-- scores -->\n{tables}\n<!-- end of scores -->{after}")


if __name__ == "__main__":
    main()
