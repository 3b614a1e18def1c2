"""How often do 90 % intervals of area hold the label? All samplers and independent pixels, places held out.

    OMP_NUM_THREADS=1 python benchmarks/compare_samplers.py DATA --water build/s1-water/s1-water-small \
        --ssn build/s1-water-ssn [--member build/other-seed ...]

Each folder holds fold models as score_s1_water.py and score_s1_water_ssn.py leave them; ``--member`` adds folders of
other seeds of s1-water-small, which form an ensemble with it. Areas are those of whole chips, and of random polygons
in them that are 2 to 98 % water. The place's effect is fitted without the place in question; SSNs have spread 1 and
temperature 1.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from rasterio.features import geometry_mask
from rasterio.transform import Affine
from score_s1_water import FOLDS, WET, Chip, area_offset, fit_place_effect, held, read_chips, whole

from geouq.layers import area_interval
from geouq.learning.judging.agreement import Agreement
from geouq.learning.judging.calibrate import LAPLACE_PIXELS
from geouq.learning.judging.metrics import Calibration
from geouq.networks.model import Model
from geouq.sampling.laplace import Curvature
from geouq.sampling.sampler import Sampler
from geouq.sampling.samplers import make_sampler
from geouq.scores.confusion import Confusion

SAMPLES, SEED = 20, 0
SPREADS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
POLYGONS = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of labelled chips")
    parser.add_argument("--water", type=Path, required=True, help="fold models of s1-water-small")
    parser.add_argument("--ssn", type=Path, required=True, help="fold models of s1-water-ssn")
    parser.add_argument("--member", type=Path, action="append", default=[], help="fold models of another seed")
    parser.add_argument("--json", type=Path, help="scores, as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folds = [fold for fold in FOLDS if fold != "all"]
    ready = [f for f in folds if all(found(d, f) for d in (arguments.ssn, *arguments.member))]
    chips = read_chips(arguments.data)
    left = [(fold, chip) for fold in ready for chip in held(chips, fold)]
    scores = compare(left, chips, arguments)
    print(f"{len(left)} chips of the folds {', '.join(ready)}; S = {SAMPLES}\n")
    print(table(scores))
    if arguments.json:
        arguments.json.write_text(json.dumps({n: s.plain() for n, s in scores.items()}, indent=1))


@dataclass
class Scores:
    """The sums of one sampler over the held-out chips."""

    chips: list[dict[str, float]] = field(default_factory=list)
    polygons: list[tuple[bool, float]] = field(default_factory=list)
    calibration: Calibration = field(default_factory=Calibration)

    def add(self, chip: Chip, logits: np.ndarray, polygons: Sequence[np.ndarray]) -> None:
        """Add a chip: logits of its samples (S, h, w), and where its polygons lie, (h, w) bool each."""
        label, valid, wet = chip.label[chip.valid], chip.valid, logits >= 0
        mean = mean_probability(logits[:, valid])
        self.calibration.add(mean, label)
        low, high = area_interval(wet[:, valid].mean(1))
        agreement = Agreement(len(wet), 1)
        agreement.add(wet[:, valid], mean >= 0.5, label[None])
        row = {"name": chip.name, "water": label.mean(), "low": low, "high": high}
        self.chips.append(
            row | agreement.scores() | {"iou": Confusion().add(mean >= 0.5, label).iou, "wet": chip.name in WET}
        )
        for inside in polygons:
            part = inside & valid
            low, high = area_interval(wet[:, part].mean(1))
            self.polygons.append((bool(low <= chip.label[part].mean() <= high), float(high - low)))

    def plain(self) -> dict[str, object]:
        """Return plain values."""
        covered = sum(r["low"] <= r["water"] <= r["high"] for r in self.chips)
        wet = [r for r in self.chips if r["wet"]]
        return {
            "covered": int(covered),
            "chips": len(self.chips),
            "width": float(np.mean([r["high"] - r["low"] for r in wet])),
            "polygons": len(self.polygons),
            "polygon_coverage": float(np.mean([inside for inside, _ in self.polygons] or [np.nan])),
            "polygon_width": float(np.mean([width for _, width in self.polygons] or [np.nan])),
            "iou": float(np.mean([r["iou"] for r in wet])),
            "ece": self.calibration.ece(),
            "diversity": float(np.mean([r["diversity"] for r in wet])),
            "ged": float(np.mean([r["ged"] for r in wet])),
            "rows": [{k: float(v) if not isinstance(v, str) else v for k, v in r.items()} for r in self.chips],
        }


def compare(held: Sequence[tuple[str, Chip]], chips: Sequence[Chip], folders: argparse.Namespace) -> dict[str, Scores]:
    """Return the scores of every sampler; posteriors are fitted on the chips that the fold's model was trained on."""
    water, ssn = (load(folder, held) for folder in (folders.water, folders.ssn))
    members = [load(folder, held) for folder in folders.member]
    laplace = {
        fold: with_posterior(model, [c for c in chips if c.place not in FOLDS[fold]]) for fold, model in water.items()
    }
    offsets = {c.name: offset(make_sampler(water[f], samples=SAMPLES, seed=SEED), c) for f, c in held if c.name in WET}
    scores: dict[str, Scores] = {}
    for fold, chip in held:
        effect = fit_place_effect({n: o for n, o in offsets.items() if place(n) != place(chip.name)})
        print(f"{chip.name}: place's effect {effect:.2f}", flush=True)
        shaken = water[fold].with_spec(place_effect=effect)
        told = {"samples": SAMPLES, "seed": SEED}
        rows = {
            "independent pixels": make_sampler(water[fold], **told),
            "dropout": make_sampler(water[fold], **told),
            "dropout and the place's effect": make_sampler(shaken, **told),
            "last-layer Laplace": make_sampler(laplace[fold], **told),
            "Laplace and the place's effect": make_sampler(laplace[fold].with_spec(place_effect=effect), **told),
            "SSN": make_sampler(ssn[fold], **told),
            "SSN, one z for the scene": make_sampler(ssn[fold].with_spec(correlation="scene"), **told),
            "SSN and the place's effect": make_sampler(ssn[fold].with_spec(place_effect=effect), **told),
        }
        if members:
            others = tuple(m[fold] for m in members)
            name = f"ensemble of {1 + len(others)}"
            rows[name] = make_sampler([water[fold], *others], samples=1 + len(others), seed=SEED, sites=("none",))
            rows[f"{name}, with dropout"] = make_sampler([water[fold], *others], **told)
        polygons = random_polygons(chip)
        for name, sampler in rows.items():
            logits = stack(sampler, chip)
            if name == "independent pixels":  # each drawn by its own probability, and by nothing else
                drawn = np.random.default_rng(SEED).random(logits.shape) < mean_probability(logits)
                logits = np.where(drawn, 4.0, -4.0)
            scores.setdefault(name, Scores()).add(chip, logits, polygons)
    return scores


def with_posterior(model: Model, chips: Sequence[Chip], pixels: int = LAPLACE_PIXELS) -> Model:
    """Return the model with a posterior of its last layer, from about that many random pixels of the chips."""
    curvature, rng = Curvature(model), np.random.default_rng(SEED)
    share = pixels / sum(int(chip.valid.sum()) for chip in chips)
    for chip in chips:
        curvature.add(whole(chip.pixels), chip.valid & (rng.random(chip.valid.shape) < share))
    return curvature.posterior()


def place(name: str) -> str:
    """Return a chip's place: two chips of one flood are not fitted for each other."""
    return name.split("_")[0]


def load(folder: Path, held: Sequence[tuple[str, Chip]]) -> Mapping[str, Model]:
    """Return a folder's models by fold."""
    return {fold: Model.load(found(folder, fold)[0]) for fold in {f for f, _ in held}}


def found(folder: Path, fold: str) -> list[Path]:
    """Return the model files of a fold."""
    return list((folder / fold).glob("*.safetensors"))


def stack(sampler: Sampler, chip: Chip) -> np.ndarray:
    """Return the logits of every sample, (S, h, w), divided by the temperature."""
    logits = np.empty((sampler.samples, *chip.label.shape), np.float32)
    with torch.inference_mode():
        for s, sample in sampler.draw(whole(chip.pixels)):
            logits[s] = (sample[0] / sampler.model.spec.temperature).numpy()
    return logits


def mean_probability(logits: np.ndarray) -> np.ndarray:
    """Return the mean over samples (first axis) of the sigmoid of their logits."""
    return np.asarray((1 / (1 + np.exp(-logits.astype(float)))).mean(0))


def wet_shares(model: Model, chip: Chip) -> np.ndarray:
    """Return each sample's share of water among the valid pixels, (S,)."""
    return np.asarray((stack(make_sampler(model, samples=SAMPLES, seed=SEED), chip)[:, chip.valid] >= 0).mean(1))


def offset(sampler: Sampler, chip: Chip) -> float:
    """Return what must be added to all logits for the samples' mean area to be the label's."""
    logits = stack(sampler, chip)[:, chip.valid]
    return area_offset(np.concatenate([logits[:1], logits]), chip.label[chip.valid])


def fit_spread(areas: Mapping[str, Mapping[float, np.ndarray]], labels: Mapping[str, float]) -> float:
    """Return the spread under which the labels' shares are likeliest, as draws of a normal with samples' moments."""

    def loss(spread: float) -> float:
        terms = []
        for name, by_spread in areas.items():
            mean, deviation = by_spread[spread].mean(), max(by_spread[spread].std(), 0.002)
            terms.append(((labels[name] - mean) / deviation) ** 2 / 2 + np.log(deviation))
        return float(np.mean(terms))

    return min(SPREADS, key=loss)


def random_polygons(chip: Chip) -> list[np.ndarray]:
    """Return random polygons within a chip, (h, w) bool, that are 2 to 98 % water in its label, up to ``POLYGONS``."""
    rng, shape, found = np.random.default_rng(SEED), chip.label.shape, list[np.ndarray]()
    for _ in range(5 * POLYGONS):
        corners = int(rng.integers(4, 10))
        angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
        radius = rng.uniform(0.4, 1, corners) * rng.uniform(15, 120)
        y, x = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        ring = list(zip(x + radius * np.cos(angle), y + radius * np.sin(angle), strict=True))
        geometry = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
        inside = geometry_mask([geometry], shape, Affine.identity(), invert=True)
        part = inside & chip.valid
        if part.sum() >= 100 and 0.02 <= chip.label[part].mean() <= 0.98:
            found.append(inside)
    return found[:POLYGONS]


def table(scores: Mapping[str, Scores]) -> str:
    """Return the scores as a Markdown table."""
    lines = [
        "| sampler | chips held | width, wet chips | polygons held | width | mean IoU | ECE | diversity | GED² |",
        "|" + "---|" * 9,
    ]
    for name, found in scores.items():
        s = found.plain()
        lines.append(
            f"| {name} | {s['covered']} of {s['chips']} | {s['width']:.1%} | {s['polygon_coverage']:.0%} of "
            f"{s['polygons']} | {s['polygon_width']:.1%} | {s['iou']:.3f} | {s['ece']:.4f} | {s['diversity']:.3f} | "
            f"{s['ged']:.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
