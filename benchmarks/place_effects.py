"""Which place's effect makes intervals hold, and samples that someone could have drawn? Places left out.

    OMP_NUM_THREADS=1 python benchmarks/place_effects.py DATA FOLDS

FOLDS is what ``geouq train DATA --folds … -o FOLDS`` leaves. Each chip is drawn by the model that has not seen its
place, without a place's effect; effects are then added: one offset for all pixels, or one that fades where the map is
clear. Of each strength the table says on how many chips and random polygons the 90 % interval of area holds the
label's, how wide it is, the distance between samples and label (GED²: Kohl et al. 2018) over wet chips, and how
speckled the least and the most watery sample are: the share of their pixels that a 5×5 median changes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from compare_samplers import random_polygons
from scipy.ndimage import median_filter

from geouq.layers import area_interval
from geouq.learning.data.augment import WET
from geouq.learning.data.chip import LabelledChip
from geouq.learning.data.dataset import read_dataset
from geouq.learning.data.loading import open_chip
from geouq.learning.judging.agreement import Agreement
from geouq.learning.judging.labelled import labelled
from geouq.learning.judging.metrics import place_means
from geouq.networks.model import Model
from geouq.sampling.draws import place_effects
from geouq.segmentation.job import Settings, prepare

SAMPLES, SEED = 20, 0
#: strength and fade of the effects that are compared; None: no fade
EFFECTS = (
    [(0.0, None)]
    + [(g, None) for g in (0.75, 1.0, 1.25, 1.5)]
    + [(g, 1.0) for g in (1.5, 2.0, 3.0)]
    + [(g, 2.0) for g in (0.75, 1.0, 1.25, 1.5, 2.0)]
    + [(g, 4.0) for g in (0.75, 1.0, 1.25, 1.5)]
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of labelled chips")
    parser.add_argument("folds", type=Path, help="folder that geouq train --folds has left")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[tuple[float, float | None], list[dict[str, float]]] = {effect: [] for effect in EFFECTS}
    places = []
    for model, chip in left_out(arguments.data, arguments.folds):
        drawn = draw(model, chip)
        if drawn is None:
            continue
        places.append(chip.place)
        polygons = random_polygons(SimpleNamespace(label=drawn[1], valid=drawn[2]))
        for effect, found in rows.items():
            found.append(score(*drawn, polygons, *effect))
    print(f"{len(places)} chips of {len(set(places))} places; S = {SAMPLES}\n")
    print(table(rows, places))


def left_out(data: Path, folds: Path) -> Iterator[tuple[Model, LabelledChip]]:
    """Yield each chip with the model that has not seen its place."""
    chips = read_dataset(data)
    for fold in json.loads((folds / "folds.json").read_text("utf-8"))["folds"]:
        (path,) = (folds / f"fold-{fold['number']}").glob("*.safetensors")
        model = Model.load(path)
        yield from ((model, chip) for chip in chips if chip.place in fold["places"])


def draw(model: Model, chip: LabelledChip) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return a chip's logits (S, h, w) without a place's effect, its label and what is valid (h, w); None: nothing."""
    scene = open_chip(chip)
    job = prepare(scene, model.with_spec(place_effect=0.0), Settings(SAMPLES, SEED, device="cpu"))
    shape = scene.shape[1:]
    logits, truth, valid = np.zeros((SAMPLES, *shape), np.float32), np.zeros(shape, bool), np.zeros(shape, bool)
    for tile, window, label, keep in labelled(job, chip):
        with torch.inference_mode():
            for number, sample in job.sampler.draw(window):
                logits[number, *tile.core.slices] = sample[0].numpy()
        truth[tile.core.slices], valid[tile.core.slices] = label == 1, keep
    return (logits, truth, valid) if valid.any() else None


def score(
    logits: np.ndarray,
    truth: np.ndarray,
    valid: np.ndarray,
    polygons: list[np.ndarray],
    strength: float,
    fade: float | None,
) -> dict[str, float]:
    """Return what an effect does to a chip; NaN where a score has no meaning."""
    effects = place_effects(strength, SEED, range(SAMPLES))[:, None, None]
    wet = logits + effects * share_moved(logits, fade) >= 0
    share = wet[:, valid].mean(1)
    low, high = area_interval(share)
    water = truth[valid].mean()
    inside = [area_interval(wet[:, part & valid].mean(1)) for part in polygons]
    labels = [truth[part & valid].mean() for part in polygons]
    found = {
        "held": float(low <= water <= high),
        "width": float(high - low),
        "polygons": float(len(polygons)),
        "polygons_held": float(sum(a <= y <= b for (a, b), y in zip(inside, labels, strict=True))),
        "polygon_width": float(sum(b - a for a, b in inside)),
        "ged": float("nan"),
        "speckle": float("nan"),
    }
    if water >= WET:
        agreement = Agreement(SAMPLES, 1)
        agreement.add(wet[:, valid], wet[:, valid].mean(0) >= 0.5, truth[valid][None])
        ends = (wet[share.argmin()], wet[share.argmax()])
        speckle = [(one != median_filter(one.astype(np.uint8), 5))[valid].mean() for one in ends]
        found |= {"ged": agreement.scores()["ged"], "speckle": float(np.mean(speckle))}
    return found


def share_moved(logits: np.ndarray, fade: float | None) -> np.ndarray | float:
    """Return how much of the effect pixels take: all of it, or 4p(1 − p) with p = σ(logit / fade)."""
    if fade is None:
        return 1.0
    p = 1 / (1 + np.exp(-logits / fade))
    return np.asarray(4 * p * (1 - p))


def table(rows: dict[tuple[float, float | None], list[dict[str, float]]], places: list[str]) -> str:
    """Return the scores as a Markdown table."""
    heads = ["place's effect", "strength", "chips held", "by place", "median width"]
    heads += ["polygons held", "mean width", "GED²", "speckle"]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for (strength, fade), found in rows.items():
        v = {key: np.array([row[key] for row in found]) for key in found[0]}
        name = "none" if not strength else "everywhere alike" if fade is None else f"fades over {fade:g} logits"
        count = v["polygons"].sum()
        cells = [name, f"{strength:g}", f"{v['held'].mean():.1%}", f"{float(place_means(places, v['held'])):.1%}"]
        cells += [f"{np.median(v['width']):.2%}", f"{v['polygons_held'].sum() / count:.1%} of {count:.0f}"]
        cells += [f"{v['polygon_width'].sum() / count:.1%}", f"{np.nanmean(v['ged']):.4f}"]
        lines.append(f"| {' | '.join(cells)} | {np.nanmean(v['speckle']):.2%} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
