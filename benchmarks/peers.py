"""A scene with MC dropout by geouq and by what others do: same weights, same masks, same windows.

    python benchmarks/peers.py [--size 2048] [--tile 512] [--samples 20] [--runs 3]
    python benchmarks/peers.py --quick
    python benchmarks/peers.py --sweep 1 5 20 50

*naive*: windows (core + halo), S passes of the whole network each, stacked and averaged. *dask*: the same loop in
``dask.array.map_overlap`` with the halo as depth. *monai*: the same loop in MONAI's SlidingWindowInferer with windows
of the same size that overlap by two halos, averaged where they do. *geouq*: ``geouq.segment`` as it comes, at the same
tile size and at the one it chooses; then sampling at fewer sites, and in bfloat16, which are other maps.

All in one process, alternating; medians. Seconds are per useful megapixel, that is per pixel of the map. Peak memory is
that of one run in a process of its own, beyond what it held before. GFLOP/s are those really computed (counted by
torch), as a share of the best 3×3 convolution measured in this process. --sweep: other numbers of samples, naive and
geouq alone. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import dask.array as da  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import xarray as xr  # noqa: E402
from monai.inferers import SlidingWindowInferer  # noqa: E402
from sampling import high_water, make_model  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

import geouq  # noqa: E402
from geouq.grid import Tiling  # noqa: E402
from geouq.networks.model import Model  # noqa: E402
from geouq.sampling.dropout import plain_logits  # noqa: E402
from geouq.sampling.sampler import Sampler  # noqa: E402
from geouq.sampling.samplers import make_sampler  # noqa: E402

Way = Callable[[np.ndarray, Sampler, int], np.ndarray]


def mc_loop(pixels: np.ndarray, sampler: Sampler) -> np.ndarray:
    """Return the mean of a stack of S plain passes over a window (bands, rows, columns)."""
    x = torch.from_numpy(sampler.model.normalise(pixels))[None]
    return torch.stack([logits.sigmoid() for logits in plain_logits(sampler, x)]).mean(0).numpy()[0]


def naive(scene: np.ndarray, sampler: Sampler, tile: int) -> np.ndarray:
    model = sampler.model
    out = np.empty(scene.shape[1:], np.float32)
    for t in Tiling(scene.shape[1:], tile, model.halo, model.spec.stride):
        mean = mc_loop(scene[:, *t.window.slices], sampler)
        out[t.core.slices] = mean[t.core.within(t.window).slices]
    return out


def dask_overlap(scene: np.ndarray, sampler: Sampler, tile: int) -> np.ndarray:
    array = da.from_array(scene, chunks=(-1, tile, tile))
    depth = {0: 0, 1: sampler.model.halo, 2: sampler.model.halo}

    def loop(block: np.ndarray) -> np.ndarray:  # twice, because map_overlap keeps the number of bands
        return np.repeat(mc_loop(block, sampler)[None], len(block), 0)

    mean = array.map_overlap(loop, depth, "none", dtype=np.float32, meta=np.empty((0, 0, 0), np.float32))
    return np.asarray(mean[0].compute(scheduler="synchronous"))


def monai(scene: np.ndarray, sampler: Sampler, tile: int) -> np.ndarray:
    window = tile + 2 * sampler.model.halo
    inferer = SlidingWindowInferer((window, window), overlap=2 * sampler.model.halo / window)
    mean = inferer(
        torch.from_numpy(scene)[None], lambda x: torch.from_numpy(mc_loop(x[0].numpy(), sampler))[None, None]
    )
    return mean[0, 0].numpy()


def ours(scene: np.ndarray, sampler: Sampler, tile: int | None) -> np.ndarray:
    array = xr.DataArray(
        scene,
        dims=("band", "y", "x"),
        coords={"band": ["VV", "VH"], "y": -10.0 * np.arange(scene.shape[1]), "x": 10.0 * np.arange(scene.shape[2])},
        attrs={"units": "dB"},
    )
    options = {"samples": sampler.samples, "sites": sampler.sites, "precision": sampler.precision}
    lazy = geouq.segment(array, sampler.model, layers=("probability",), tile=tile, **options)
    return lazy.probability.compute(scheduler="synchronous").values


def ours_default(scene: np.ndarray, sampler: Sampler, tile: int) -> np.ndarray:
    return ours(scene, sampler, None)


#: name → (function, sites, precision); sites None: bottleneck and decoder
WAYS: dict[str, tuple[Way, tuple[str, ...] | None, str]] = {
    "naive": (naive, None, "float32"),
    "dask": (dask_overlap, None, "float32"),
    "monai": (monai, None, "float32"),
    "geouq": (ours, None, "float32"),
    "geouq, its own tile": (ours_default, None, "float32"),
    "geouq --sites last2": (ours_default, ("last2",), "float32"),
    "geouq --sites head": (ours_default, ("head",), "float32"),
    "geouq --precision bfloat16": (ours_default, None, "bfloat16"),
}


def sampler_of(way: str, model: Model, samples: int) -> Sampler:
    _, sites, precision = WAYS[way]
    sites = sites or ("bottleneck", "decoder")
    return make_sampler(model, samples=samples, sites=sites, precision=precision)


def make_scene(size: int) -> np.ndarray:
    return np.random.default_rng(0).normal(-15, 4, (2, size, size)).astype(np.float32)


def seconds_of(way: str, scene: np.ndarray, sampler: Sampler, tile: int) -> tuple[float, np.ndarray]:
    began = time.perf_counter()
    result = WAYS[way][0](scene, sampler, tile)
    return time.perf_counter() - began, result


def gflop(way: str, model: Model, args: argparse.Namespace) -> float:
    """Return the arithmetic of a run in 10⁹ operations, from those of 1 and of 2 samples."""
    scene, counts = make_scene(args.size), []
    for samples in (1, 2):
        with FlopCounterMode(display=False) as counter:
            WAYS[way][0](scene, sampler_of(way, model, samples), args.tile)
        counts.append(counter.get_total_flops() / 1e9)
    return counts[0] + (args.samples - 1) * (counts[1] - counts[0])


def conv_peak() -> float:
    """Return GFLOP/s of the best 3×3 convolution: 64 to 64 channels, channels last."""
    conv = torch.nn.Conv2d(64, 64, 3, padding=1).to(memory_format=torch.channels_last)
    x: Tensor = torch.randn(1, 64, 224, 224).contiguous(memory_format=torch.channels_last)
    best = float("inf")
    with torch.inference_mode():
        for _ in range(20):
            began = time.perf_counter()
            conv(x)
            best = min(best, time.perf_counter() - began)
    return 2 * 9 * 64**2 * 224**2 / best / 1e9


def peak(way: str, args: argparse.Namespace) -> float:
    """Return peak RSS in MiB of one run in a process of its own, beyond what it held before."""
    command = [sys.executable, __file__, "--only", way, "--samples", str(min(args.samples, 5)), "--model", args.model]
    command += ["--size", str(args.size), "--tile", str(args.tile)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def run_only(args: argparse.Namespace) -> None:
    model = make_model(args.model)
    scene = make_scene(args.size)
    naive(make_scene(64), sampler_of(args.only, model, 1), 64)
    Path("/proc/self/clear_refs").write_text("5")  # forget the high-water mark of imports
    before = high_water()
    WAYS[args.only][0](scene, sampler_of(args.only, model, args.samples), args.tile)
    print(high_water() - before)


def compare(model: Model, args: argparse.Namespace) -> None:
    scene, useful = make_scene(args.size), args.size**2 / 1e6
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    result: dict[str, np.ndarray] = {}
    for way in WAYS:  # plans and halos are made once a process
        WAYS[way][0](make_scene(3 * model.halo), sampler_of(way, model, 2), args.tile)
    top = conv_peak()
    for _ in range(args.runs):
        for way in WAYS:
            spent, result[way] = seconds_of(way, scene, sampler_of(way, model, args.samples), args.tile)
            seconds[way].append(spent / useful)
        top = max(top, conv_peak())
    print(f"{args.model}, {args.size}² pixels, tile {args.tile}, S = {args.samples}, {args.runs} runs, ", end="")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, best convolution {top:.0f} GFLOP/s\n")
    print("| way | s/Mpx | ratio | peak MiB | GFLOP/Mpx | GFLOP/s | of the best | max abs. difference |")
    print("|---|---|---|---|---|---|---|---|")
    first = statistics.median(seconds["naive"])
    for way, (_, sites, precision) in WAYS.items():
        spent, work = statistics.median(seconds[way]), gflop(way, model, args) / useful
        same = f"{np.abs(result[way] - result['naive']).max():.1e}" if sites is None and precision == "float32" else ""
        row = f"| {way} | {spent:.2f} | {first / spent:.2f} | {peak(way, args):.0f} | {work:.0f} "
        print(f"{row}| {work / spent:.0f} | {100 * work / spent / top:.0f} % | {same} |", flush=True)


def sweep(model: Model, args: argparse.Namespace) -> None:
    scene, useful = make_scene(args.size), args.size**2 / 1e6
    ways = ("naive", "geouq, its own tile")
    for way in ways:  # plans and halos are made once a process
        WAYS[way][0](make_scene(3 * model.halo), sampler_of(way, model, 2), args.tile)
    print(f"{args.model}, {args.size}² pixels, tile {args.tile}, {torch.get_num_threads()} threads\n")
    print("| S | naive, s/Mpx | geouq, s/Mpx | ratio |\n|---|---|---|---|")
    for samples in args.sweep:
        took = {w: seconds_of(w, scene, sampler_of(w, model, samples), args.tile)[0] / useful for w in ways}
        first, second = took.values()
        print(f"| {samples} | {first:.2f} | {second:.2f} | {first / second:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--tile", type=int, default=512, help="core of the peers' windows")
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--model", default="unet-16", help="unet-16 (random weights) or a model's name or file")
    parser.add_argument("--sweep", type=int, nargs="+", help="numbers of samples")
    parser.add_argument("--quick", action="store_true", help="a small scene, few samples, one run: to try it")
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.size, args.tile, args.samples, args.runs = 512, 192, 3, 1
    if args.only:
        run_only(args)
    elif args.sweep:
        sweep(make_model(args.model), args)
    else:
        compare(make_model(args.model), args)


if __name__ == "__main__":
    main()
