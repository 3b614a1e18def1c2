"""What a Stochastic Segmentation Network learns that others cannot: the toy of its paper, and images with many raters.

    OMP_NUM_THREADS=1 python benchmarks/ssn_raters.py DATA [--steps 2000]

The toy (Monteiro et al. 2020, arXiv 2006.06015, section 4.1): an image of 21 pixels, whose middle third one of two
raters calls 1 and the other 0. A perfect joint model reaches a mean log-likelihood of −ln 2 = −0.693, the best model of
independent pixels −7 ln 2 = −4.852.

DATA holds ``index.csv``, ``images/`` and ``masks/`` as the BU-BIL copy that the table of docs/samplers.md was made
from: 6 to 10 annotations of each cell. The same small U-Net learns from one rater drawn a step: deterministic (cross
entropy), with a diagonal covariance, and with a low-rank one. Every fifth image is held out.

Better: the share of all pairs of a sample and a rater in which the sample's Dice is above that of the mean prediction;
any: the share of images and raters of which at least one of the samples is.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from geouq.learning.judging.agreement import Agreement
from geouq.learning.training.ssn_loss import Integral, draw, log_likelihoods, ssn_nll
from geouq.learning.training.train import TrainConfig, seed_weights, train
from geouq.networks.ssn import SSN, Distribution
from geouq.networks.unet import UNet, UNetConfig

SAMPLES = 100
SIZE = 64


def toy(rank: int, steps: int = 4000) -> float:
    """Return the mean log-likelihood of both raters under a distribution of 21 logits fitted to them."""
    raters = torch.zeros(2, 1, 21)
    raters[:, :, :7], raters[1, :, 7:14] = 1, 1
    generator = torch.Generator().manual_seed(0)
    mean, logarithm = torch.zeros(1, 1, 1, 21), torch.full((1, 1, 1, 21), -1.0)
    factor = torch.randn(1, rank, 1, 1, 21, generator=generator)
    parameters = [p.requires_grad_() for p in (mean, logarithm, factor)]
    optimiser = torch.optim.Adam(parameters, lr=0.5)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)

    def both() -> Distribution:
        expand = [p.expand(2, *p.shape[1:]) for p in (mean, logarithm.clamp(-10, 10).exp() + 1e-5, factor)]
        return Distribution(*expand)

    for _ in range(steps):
        optimiser.zero_grad()
        loss, _ = ssn_nll(both(), raters, torch.ones(2, 1, 21), Integral(200), generator)
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        log_p = log_likelihoods(draw(both(), Integral(100_000), generator), raters, torch.ones(2, 1, 21))
        return float((torch.logsumexp(log_p, 0) - math.log(len(log_p))).mean())


def read(data: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (image (1, SIZE, SIZE) in −0.5..0.5, raters (M, SIZE, SIZE)) of every image, in the index's order."""
    found = []
    with open(data / "index.csv", newline="") as file:
        for row in csv.DictReader(file):
            image = Image.open(data / "images" / f"{row['name']}.png").convert("L")
            masks = np.asarray(Image.open(data / "masks" / f"{row['name']}.png"), np.uint8)
            raters = masks.reshape(-1, image.height, masks.shape[1])[:-1]  # the last one is a consensus
            pixels = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BILINEAR), np.float32) / 255 - 0.5
            nearest = [Image.fromarray(r * 255).resize((SIZE, SIZE), Image.Resampling.NEAREST) for r in raters]
            found.append((pixels[None], np.stack([np.asarray(r) > 0 for r in nearest]).astype(np.uint8)))
    return found


def fit(rank: int | None, chips: Sequence[tuple[np.ndarray, np.ndarray]], steps: int) -> torch.nn.Module:
    """Return a trained network: deterministic for rank None, of a diagonal covariance for rank 0."""
    backbone = {"bands": 1, "widths": (16, 32, 64, 128), "stem": 2, "dropout": {}}
    if rank is None:
        network, loss = UNet(UNetConfig(**backbone, classes=1)), "bce"
    else:
        network, loss = SSN(UNet(UNetConfig(**backbone, classes=2 + rank)), 1, rank), "ssn"
    config = TrainConfig(steps=steps, warmup=20, every=100, rate=2e-3, loss=loss, mean_steps=steps // 6)

    def batch(step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng([0, step])
        parts = []
        for i in rng.integers(len(chips), size=8):
            image, raters = chips[i]
            both = np.concatenate([image, raters[[rng.integers(len(raters))]]])
            both = np.rot90(both, int(rng.integers(4)), axes=(1, 2))
            parts.append(both[..., ::-1] if rng.random() < 0.5 else both)
        stacked = np.stack(parts).astype(np.float32)
        return stacked[:, :1], stacked[:, 1], np.ones(stacked[:, 1].shape, bool)

    return train(seed_weights(network, 0), batch, config)


def score(network: torch.nn.Module, chips: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Return the mean scores over images; a deterministic network has one sample."""
    generator, rows = torch.Generator().manual_seed(1), []
    for image, raters in chips:
        with torch.inference_mode():
            logits = network(torch.from_numpy(image)[None])
            if isinstance(network, SSN):
                distribution = network.split(logits)
                samples = draw(distribution, Integral(SAMPLES, antithetic=False), generator)[:, 0, 0] >= 0
                point = distribution.mean[0, 0] >= 0
            else:
                samples, point = logits[0] >= 0, logits[0, 0] >= 0
        agreement = Agreement(len(samples), len(raters))
        agreement.add(samples.flatten(1).numpy(), point.flatten().numpy(), raters.reshape(len(raters), -1))
        distance, s = agreement.distances(), len(samples)
        better = distance[:s, s + 1 :] < distance[s, s + 1 :]  # (S, M); of one class, Dice rises as this falls
        rows.append(agreement.scores() | {"better": float(better.mean()), "any": float(better.any(0).mean())})
    return {name: float(np.nanmean([row[name] for row in rows])) for name in rows[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", help="folder of images with several raters")
    parser.add_argument("--steps", type=int, default=2000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("toy: mean log-likelihood (best joint -0.693, best independent -4.852)")
    for name, rank in (("low-rank", 2), ("diagonal", 0)):
        print(f"  {name}: {toy(rank):.3f}", flush=True)
    if arguments.data is None:
        return
    chips = read(arguments.data)
    known, held = [c for i, c in enumerate(chips) if i % 5], chips[::5]
    print(f"\n{len(known)} images to learn from, {len(held)} held out, {arguments.steps} steps")
    print(f"| model | S | GED² (biased) | GED² (unbiased) | diversity | Dice | better | any |\n|{'---|' * 8}")
    for name, rank in (("deterministic", None), ("SSN, diagonal", 0), ("SSN, low-rank", 10)):
        s = score(fit(rank, known, arguments.steps), held)
        count = 1 if rank is None else SAMPLES
        columns = [s[key] for key in ("ged", "ged_unbiased", "diversity", "dice_raters", "better", "any")]
        print(f"| {name} | {count} | " + " | ".join(f"{v:.3f}" for v in columns) + " |", flush=True)


if __name__ == "__main__":
    main()
