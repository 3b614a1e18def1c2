"""What samples cost by sampler: seconds of S samples over seconds of one deterministic pass of the same network.

    OMP_NUM_THREADS=1 python benchmarks/samplers.py [--core 1024] [--samples 1 20 100]

A tile of ``--core``² pixels within its halo goes through ``predict_tile`` and its running sums, as in a run with the
layers mask, uncertainty and confidence. The network is that of s1-water, and the same with an SSN head of rank 10;
weights and posterior do not matter for speed. Processor time of the best of ``--repeats`` runs, all in one process, in
turn.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
import torch

from geouq.grid import Roi
from geouq.learning.training.train import seed_weights
from geouq.networks.architectures import ARCHITECTURES
from geouq.networks.model import Model
from geouq.sampling.engine import predict_tile
from geouq.sampling.estimators import Question
from geouq.sampling.laplace import Curvature
from geouq.sampling.sampler import Sampler
from geouq.sampling.samplers import make_sampler
from geouq.sampling.window import Window

RANK = 10
ASK = Question(("mask", "uncertainty", "confidence"), 2, 1, 0.5, 1.0)


def models() -> dict[str, Model]:
    """Return each row's name and model."""
    plain = Model.load("s1-water")
    arguments = {**plain.spec.arguments, "backbone": "unet", "rank": RANK, "classes": 1, "dropout": {}}
    network = seed_weights(ARCHITECTURES["ssn"](arguments), 0)
    spec = replace(plain.spec, name="ssn", architecture="ssn", arguments=arguments, sampler="ssn", place_effect=0.0)
    wide = Model(network, replace(spec, correlation=256.0))
    plain = plain.with_spec(place_effect=0.0)
    return {
        "dropout, as s1-water": plain,
        "last-layer Laplace": with_posterior(plain),
        "SSN, correlation 256 pixels": wide,
        "SSN, one z for the scene": wide.with_spec(correlation="scene"),
    }


def with_posterior(model: Model) -> Model:
    """Return the model with a posterior of its last layer, from noise."""
    pixels = np.random.default_rng(0).normal(-15, 4, (len(model.spec.bands), 64, 64)).astype(np.float32)
    curvature, core = Curvature(model), Roi(0, 64, 0, 64)
    curvature.add(Window(pixels, np.ones(core.shape, bool), core), np.ones(core.shape, bool))
    return curvature.posterior()


def seconds(sampler: Sampler, core: int) -> float:
    """Return the processor time of one tile."""
    halo, stride = sampler.model.halo or 0, sampler.model.spec.stride
    side = -(-(core + 2 * halo) // stride) * stride
    rng = np.random.default_rng(0)
    pixels = rng.normal(-15, 4, (len(sampler.model.spec.bands), side, side)).astype(np.float32)
    inner = Roi(halo, halo + core, halo, halo + core)
    start = time.process_time()
    predict_tile(sampler, ASK, Window(pixels, np.ones((side, side), bool), inner), np.ones((1, 1)))
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--core", type=int, default=1024)
    parser.add_argument("--samples", type=int, nargs="*", default=[1, 20, 100])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    samplers = {
        (name, count): make_sampler(model, samples=count)
        for name, model in models().items()
        for count in (0, *arguments.samples)
    }
    best = dict.fromkeys(samplers, float("inf"))
    for _ in range(arguments.repeats):
        for key, sampler in samplers.items():
            best[key] = min(best[key], seconds(sampler, arguments.core))
    print(f"core {arguments.core}, {torch.get_num_threads()} threads")
    print("| sampler | one pass, s | " + " | ".join(f"S = {s}" for s in arguments.samples) + " |")
    print("|---|" + "---|" * (1 + len(arguments.samples)))
    for name in models():
        once = best[name, 0]
        print(
            f"| {name} | {once:.2f} | " + " | ".join(f"{best[name, s] / once:.2f}×" for s in arguments.samples) + " |"
        )


if __name__ == "__main__":
    main()
