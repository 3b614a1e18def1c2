"""MC-dropout sampling: the naive loop against geouq's plan, same weights, same windows, same masks.

    python benchmarks/sampling.py [--samples 20] [--windows 512 2048] [--runs 3] [--model NAME]

Naive: S passes of the whole network in eval mode with its dropout on, stacked, then averaged. Plan: geouq's compiled
plan with running sums, for every pixel of the window. Core: the same, as in a real run, for the core alone, a halo
inside the window (the naive loop computes the whole window either way). All in one process, alternating; the ratio is
that of the medians, seconds are per megapixel of the window. Peak memory is that of one run in a process of its own,
beyond what that process held before.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402

from geouq.grid import Roi  # noqa: E402
from geouq.networks.model import Model, ModelSpec  # noqa: E402
from geouq.networks.unet import UNet, UNetConfig  # noqa: E402
from geouq.sampling.dropout import plain_logits  # noqa: E402
from geouq.sampling.engine import predict_tile  # noqa: E402
from geouq.sampling.estimators import Question  # noqa: E402
from geouq.sampling.sampler import Sampler  # noqa: E402
from geouq.sampling.samplers import make_sampler  # noqa: E402
from geouq.sampling.window import Window  # noqa: E402

PLACEMENTS = {"bottleneck+decoder": ("bottleneck", "decoder"), "last2": ("last2",), "head": ("head",)}


def make_model(name: str) -> Model:
    """Return a shipped model, or U-Net 16…256 with random weights for "unet-16"."""
    if name != "unet-16":
        return Model.load(name)
    torch.manual_seed(0)
    config = UNetConfig(dropout={"bottleneck": 0.2, "decoder": 0.2, "head": 0.2})
    spec = ModelSpec("unet-16", "unet", config.to_dict(), ("VV", "VH"), "dB", (-12, -19), (5, 5), (-50, 20), 16)
    return Model(UNet(config), spec)


def naive(sampler: Sampler, pixels: np.ndarray) -> np.ndarray:
    """Return the mean of a stack of S plain passes."""
    x = torch.from_numpy(sampler.model.normalise(pixels))[None]
    return torch.stack([logits.sigmoid() for logits in plain_logits(sampler, x)]).mean(0).numpy()[0]


def plan(sampler: Sampler, pixels: np.ndarray, halo: int = 0) -> np.ndarray:
    """Return the same mean from running sums over the compiled plan, ``halo`` pixels inside the window."""
    question = Question(("probability",), 2, 1, 0.5, 1.0)
    valid = np.ones(pixels.shape[1:], bool)
    core = Roi(halo, pixels.shape[1] - halo, halo, pixels.shape[2] - halo)
    return predict_tile(sampler, question, Window(pixels, valid, core), np.ones((1, 1))).layers["probability"]


def core(sampler: Sampler, pixels: np.ndarray) -> np.ndarray:
    """Return the mean for the core that a run with this window keeps."""
    return plan(sampler, pixels, halo=sampler.model.halo or 0)


WAYS = {"naive": naive, "plan": plan, "core": core}


def peak(way: str, args: argparse.Namespace, window: int, placement: str) -> float:
    """Return peak RSS in MiB of one run in a process of its own, beyond that of a process doing nothing."""
    command = [sys.executable, __file__, "--only", way, "--samples", str(args.samples), "--model", args.model]
    command += ["--windows", str(window), "--placement", placement]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def run_only(args: argparse.Namespace) -> None:
    sampler = make_sampler(make_model(args.model), samples=args.samples, sites=PLACEMENTS[args.placement])
    pixels = scene(args.windows[0])
    naive(make_sampler(sampler.model, samples=1), scene(64))
    Path("/proc/self/clear_refs").write_text("5")  # forget the high-water mark of imports
    before = high_water()
    WAYS[args.only](sampler, pixels)
    print(high_water() - before)


def high_water() -> float:
    """Return this process's peak RSS since the mark was last cleared, MiB (Linux)."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def scene(size: int) -> np.ndarray:
    return np.random.default_rng(0).normal(-15, 4, (2, size, size)).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--windows", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--model", default="unet-16", help="unet-16 (random weights) or a model's name or file")
    parser.add_argument("--placement", choices=PLACEMENTS, default=None)
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        run_only(args)
        return
    model = make_model(args.model)
    print(f"{args.model}, S = {args.samples}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'window':>6} {'dropout at':<20} {'way':<6} {'s/Mpx':>8} {'ratio':>6} {'peak MiB':>9} {'max |Δp|':>9}")
    for window in args.windows:
        pixels = scene(window)
        for placement in [args.placement] if args.placement else PLACEMENTS:
            sampler = make_sampler(model, samples=args.samples, sites=PLACEMENTS[placement])
            seconds: dict[str, list[float]] = {way: [] for way in WAYS}
            result = {}
            plan(sampler, pixels[:, :64, :64])
            for _ in range(args.runs):
                for way, function in WAYS.items():
                    began = time.perf_counter()
                    result[way] = function(sampler, pixels)
                    seconds[way].append((time.perf_counter() - began) / (window**2 / 1e6))
            error = np.abs(result["naive"] - result["plan"]).max()
            median = {way: statistics.median(times) for way, times in seconds.items()}
            for way in WAYS:
                ratio = median["naive"] / median[way]
                row = f"{window:>6} {placement:<20} {way:<6} {median[way]:>8.2f} {ratio:>6.2f}"
                print(f"{row} {peak(way, args, window, placement):>9.0f} {error:>9.1e}", flush=True)


if __name__ == "__main__":
    main()
