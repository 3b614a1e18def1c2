"""Train, score and write the shipped model ``s1-water-ssn`` from the data and the fold models of ``s1-water``.

    OMP_NUM_THREADS=1 python examples/train_s1_water_ssn.py DATA --start build/s1-water --out geouq/weights \
        --work build/s1-water-ssn

``--start`` holds the models that train_s1_water.py trained, one a fold: each SSN starts from the weights of its own
fold, which have not seen the fold's places either, with small deviations, and learns whole label maps. Where a chip
has more than one source of labels they are its raters: every other time the hand label, else one of Otsu's threshold on
VH (of chips where it comes near the label) and the optical index MNDWI (where Sentinel-2 of the same day is there).
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio
import torch
from train_s1_water import AUGMENTATION, BATCH, FOLDS

from geouq.learning.augment import batch_source, draw_sample
from geouq.learning.baselines import boxcar, otsu
from geouq.learning.chips import Chip, leave_out, read_chips, read_shapes, simulate_chips
from geouq.learning.metrics import Confusion
from geouq.learning.train import TrainConfig, seed_weights, train
from geouq.model import Model
from geouq.networks.ssn import SSN
from geouq.networks.unet import UNet, UNetConfig

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
    parser.add_argument("--start", type=Path, default=Path("build/s1-water"), help="fold models of s1-water")
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
    for fold in arguments.folds:
        fit(fold, (raters, made, shapes), arguments.start, arguments.work)


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
    fresh = {"temperature": 1.0, "place_effect": 0.0, "scores": {}, "correlation": float(AUGMENTATION.size)}
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

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        chosen = [v[0] if rng.random() < 0.5 else v[int(rng.integers(len(v)))] for v in real]
        return draw_sample([*chosen, *made], shapes, AUGMENTATION, rng)

    source = batch_source(draw, BATCH, SEED)

    def prepare(step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        pixels, label, valid = source(step)
        return np.stack([model.normalise(p) for p in pixels]), label, valid

    def batches(step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        ready = waiting.pop(step, None) or background.submit(prepare, step)
        waiting[step + 1] = background.submit(prepare, step + 1)  # while the network works on this one
        return ready.result()

    started, losses = time.perf_counter(), list[float]()
    background, waiting = ThreadPoolExecutor(1), {}

    def on_step(step: int, loss: float) -> None:
        losses.append(loss)
        if (step + 1) % 25 == 0:
            seconds = time.perf_counter() - started
            print(f"{fold}: step {step + 1}, loss {np.mean(losses[-25:]):.4f}, {seconds:.0f} s", flush=True)

    train(model.network, batches, TRAINING, checkpoint=work / f"{fold}.checkpoint", on_step=on_step)
    model.save(path)
    return Model.load(path)


if __name__ == "__main__":
    main()
