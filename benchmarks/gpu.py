"""A GPU against the processor beside it: the same maps, how fast, and in what memory.

    python benchmarks/gpu.py [--size 8192] [--minutes 8] [--json gpu.json]
    python benchmarks/gpu.py --device cpu --size 512            # to try it where there is no GPU

Four tables, and all of them as one JSON:

agreement : every sampler in every precision on one window of 1024², against float32 on the CPU: largest and mean
    difference of the probability, share of equal masks, whether a second run gives the same bytes.
batches : dropout with more and more samples at once. memory : the same on a card that is full but for what a few
    samples need, so that the batch must be halved; its map against that of the free card.
runs : whole runs (scene file → COG) of ``--size``², S = 20: megapixels a second of the tiles, seconds of all, and
    whether the run again gives the same bytes. Halved until four runs fit the time that is left.

Peak memory is that of torch's tensors on the GPU (``torch.cuda.max_memory_allocated``), "-" on a CPU. What is refused
says so in its row; what the time did not allow is listed at the end, and nothing else is left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import rasterio
import torch
from affine import Affine
from samplers import with_posterior

from geouq.errors import GeouqError
from geouq.grid import Roi
from geouq.networks.architectures import ARCHITECTURES
from geouq.networks.model import Model
from geouq.sampling import devices
from geouq.sampling.engine import TileResult, predict_tile
from geouq.sampling.estimators import Question
from geouq.sampling.names import PRECISIONS
from geouq.sampling.sampler import Sampler
from geouq.sampling.samplers import make_sampler
from geouq.sampling.window import Window
from geouq.scenes.open import open_scene
from geouq.segmentation.job import Settings, prepare
from geouq.segmentation.results import Outputs
from geouq.segmentation.run import run
from geouq.simulation.landscape import Landscape, surfaces

T = TypeVar("T")
Row = dict[str, Any]
SAMPLES, WINDOW, BATCHES = 20, 1024, (1, 4, 10, 20)
ASK = Question(("mask", "probability", "uncertainty"), 2, 1, 0.5, 1.0)


@dataclass(frozen=True)
class Bench:
    """Where, and until when (``time.monotonic``), this runs; ``left_out`` collects what there was no time for."""

    device: str
    ends: float
    left_out: list[str]

    @property
    def gpu(self) -> bool:
        """True if it is one."""
        return torch.device(self.device).type == "cuda"

    def late(self, what: str, needs: float = 0.0) -> bool:
        """Return whether fewer than ``needs`` seconds are left, and note what is left out for that."""
        short = time.monotonic() + needs > self.ends
        if short:
            self.left_out.append(what)
        return short

    def measure(self, function: Callable[[], T]) -> tuple[T, float, float | None]:
        """Return what a function gives, the seconds it took, and the peak of the GPU's memory in MiB."""
        if self.gpu:
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
        began = time.perf_counter()
        result = function()
        seconds = time.perf_counter() - began
        return result, seconds, torch.cuda.max_memory_allocated(self.device) / 2**20 if self.gpu else None


def landscape(side: int) -> np.ndarray:
    """Return simulated backscatter with speckle, dB, float32 (2, side, side)."""
    level, _, _ = surfaces(Roi(0, side, 0, side), 0, Landscape())
    return (level + np.random.default_rng(0).normal(0, 1.2, level.shape)).astype(np.float32)


def with_head_dropout(model: Model) -> Model:
    """Return the model with dropout in its head alone, which has a closed form."""
    arguments = {**model.spec.arguments, "dropout": {"head": 0.2}}
    network = ARCHITECTURES["unet"](arguments)
    network.load_state_dict(model.network.state_dict())
    return Model(network.eval(), replace(model.spec, arguments=arguments))


def samplers() -> dict[str, Sampler]:
    """Return each sampler, in float32 on the CPU."""
    water = Model.load("s1-water")
    told: dict[str, Any] = {"samples": SAMPLES, "seed": 0}
    return {
        "one pass": make_sampler(water, samples=0),
        "dropout": make_sampler(water, **told),
        "ssn": make_sampler(Model.load("s1-water-ssn"), **told),
        "ensemble": make_sampler([water, Model.load("s1-water-fast")], **told),
        "laplace": make_sampler(with_posterior(water), **told),
        "closed form": make_sampler(with_head_dropout(water), samples=float("inf")),
    }


def predict(sampler: Sampler, pixels: np.ndarray) -> TileResult:
    """Return the layers of a whole window, all of it valid."""
    shape = (pixels.shape[1], pixels.shape[2])
    question = replace(ASK, temperature=sampler.model.spec.temperature)
    return predict_tile(
        sampler, question, Window(pixels, np.ones(shape, bool), Roi(0, shape[0], 0, shape[1])), np.ones((1, 1))
    )


def differences(ours: TileResult, theirs: TileResult) -> Row:
    """Return how two predictions of one window differ."""
    apart = np.abs(ours.layers["probability"] - theirs.layers["probability"])
    same = (ours.layers["mask"] == theirs.layers["mask"]).mean()
    return {"max |Δp|": float(apart.max()), "mean |Δp|": float(apart.mean()), "masks equal": float(same)}


def same_bytes(ours: TileResult, theirs: TileResult) -> bool:
    return all(ours.layers[name].tobytes() == theirs.layers[name].tobytes() for name in ours.layers)


def agreement(bench: Bench, pixels: np.ndarray) -> list[Row]:
    """Return a row for each sampler and precision."""
    rows = []
    for name, sampler in samplers().items():
        if bench.late(f"agreement of {name}", 20):
            continue
        predict(sampler, pixels[:, :64, :64])  # compiles
        reference, on_cpu, _ = bench.measure(lambda sampler=sampler: predict(sampler, pixels))
        for precision in PRECISIONS:
            row = {"sampler": name, "precision": precision, "CPU float32, s/Mpx": on_cpu / pixels[0].size * 1e6}
            rows.append(row | told_or_refused(lambda: against(bench, sampler, precision, pixels, reference)))  # noqa: B023
    return rows


def against(bench: Bench, sampler: Sampler, precision: str, pixels: np.ndarray, reference: TileResult) -> Row:
    """Return how a sampler's map on the device differs from the CPU's. The first run compiles, the second is timed."""
    there = sampler.changed(device=bench.device, precision=precision)
    first = predict(there, pixels)
    again, seconds, peak = bench.measure(lambda: predict(there, pixels))
    told = {"again the same bytes": same_bytes(first, again)}
    return differences(first, reference) | told | {"s/Mpx": seconds / pixels[0].size * 1e6, "peak MiB": peak}


def told_or_refused(function: Callable[[], Row]) -> Row:
    """Return a row, or what geouq says where it refuses."""
    try:
        return function()
    except GeouqError as error:
        return {"refused": str(error)}


def batches(bench: Bench, pixels: np.ndarray) -> list[Row]:
    """Return a row for each number of samples at once, compared with one at a time."""
    rows, sampler = [], samplers()["dropout"].changed(device=bench.device)
    alone = predict(sampler, pixels)
    for batch in BATCHES:
        if bench.late(f"batch {batch}", 10):
            continue
        several = sampler.changed(batch=batch)
        predict(several, pixels)
        found, seconds, peak = bench.measure(lambda several=several: predict(several, pixels))
        row = {"batch": batch, "ended with": found.batch, "s/Mpx": seconds / pixels[0].size * 1e6, "peak MiB": peak}
        rows.append(row | differences(found, alone))
    return rows


def little_memory(bench: Bench, pixels: np.ndarray) -> list[Row]:
    """Return how a batch of all samples fares on a card with room for four or so; nothing on a CPU."""
    if not bench.gpu or bench.late("memory that runs out", 20):
        return []
    sampler = samplers()["dropout"].changed(device=bench.device, batch=SAMPLES)
    free = predict(sampler, pixels)
    before = torch.cuda.memory_allocated(bench.device)
    _, _, peak = bench.measure(lambda: predict(sampler.changed(batch=3), pixels))
    room = int(1.5 * ((peak or 0) * 2**20 - before))
    torch.cuda.empty_cache()
    left, _ = torch.cuda.mem_get_info(bench.device)
    ballast = torch.empty(max(left - room, 0), dtype=torch.uint8, device=bench.device)
    try:
        row = told_or_refused(lambda: in_what_is_left(bench, sampler, pixels, free))
    finally:
        del ballast
        torch.cuda.empty_cache()
        devices._FITS.clear()  # the card is free again
    return [{"memory left, MiB": room / 2**20, "batch": SAMPLES} | row]


def in_what_is_left(bench: Bench, sampler: Sampler, pixels: np.ndarray, free: TileResult) -> Row:
    found, seconds, _ = bench.measure(lambda: predict(sampler, pixels))
    return {
        "ended with": found.batch,
        "halved": found.batch < SAMPLES,
        "s/Mpx": seconds / pixels[0].size * 1e6,
    } | differences(found, free)


def runs(bench: Bench, size: int, pixels: np.ndarray, seconds_per_megapixel: float) -> list[Row]:
    """Return a row for each whole run, of ``size``² or as much as the time allows."""
    asked = size
    while (
        size > WINDOW // 4 and time.monotonic() + 4 * (5 + (seconds_per_megapixel + 0.3) * size**2 / 1e6) > bench.ends
    ):
        size //= 2
    if size < asked:
        bench.left_out.append(f"runs of {asked}²: of {size}² instead")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        scene = write_scene(Path(folder) / "scene.tif", pixels, size)
        for precision, which in (
            ("float32", "first"),
            ("float32", "again"),
            ("bfloat16", "first"),
            ("float16", "first"),
        ):
            if bench.late(f"{which} run in {precision}"):
                continue
            out = Path(folder) / f"{precision}_{which}.tif"
            row = {"size": size, "precision": precision, "run": which}
            rows.append(row | told_or_refused(lambda: whole_run(bench, scene, out, precision)))  # noqa: B023
    if len(rows) > 1 and {"sha256"} <= rows[0].keys() & rows[1].keys():
        rows[1]["again the same bytes"] = rows[0]["sha256"] == rows[1]["sha256"]
    return rows


def whole_run(bench: Bench, path: Path, out: Path, precision: str) -> Row:
    scene = open_scene(path)
    job = prepare(scene, Model.load("s1-water"), Settings(samples=SAMPLES, device=bench.device, precision=precision))
    summary, seconds, peak = bench.measure(lambda: run(scene, job, Outputs(out)))
    return {
        "tile": job.tiling.size,
        "batch": job.sampler.batch,
        "Mpx/s, tiles": summary["megapixels_per_second"],
        "seconds, all": seconds,
        "peak MiB": peak,
        "sha256": hashlib.sha256(out.read_bytes()).hexdigest(),
    }


def write_scene(path: Path, pixels: np.ndarray, size: int) -> Path:
    """Write a scene of ``size``² pixels: the window given, again and again."""
    times = -(-size // pixels.shape[1])
    profile = {"count": 2, "height": size, "width": size, "dtype": "float32", "crs": "EPSG:32633"}
    grid = Affine(10, 0, 5e5, 0, -10, 5e6)
    with rasterio.open(path, "w", driver="GTiff", tiled=True, transform=grid, **profile) as file:
        for band, (name, values) in enumerate(zip(("VV", "VH"), pixels, strict=True), 1):
            file.write(np.tile(values, (times, times))[:size, :size], band)
            file.set_band_description(band, name)
        file.update_tags(units="dB")
        file.units = ("dB", "dB")
    return path


def table(title: str, rows: Sequence[Row]) -> str:
    """Return rows as a Markdown table; "-" where a row has no such value."""
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "sha256"]
    lines = [f"## {title}", "", f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    return "\n".join([*lines, *(f"| {' | '.join(shown(row.get(name)) for name in names)} |" for row in rows), ""])


def shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)


def about(device: str) -> Row:
    """Return what this ran on."""
    gpu = torch.device(device).type == "cuda"
    name = torch.cuda.get_device_name(device) if gpu else "CPU"
    return {"device": device, "name": name, "torch": torch.__version__, "CPU threads": torch.get_num_threads()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", type=int, default=8192, help="of the whole runs, in pixels a side")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which nothing more is begun")
    parser.add_argument("--json", type=Path, help="write all rows here as well; must not exist")
    args = parser.parse_args()
    if args.json and args.json.exists():
        parser.error(f"{args.json} exists: give another name, or remove it")
    bench = Bench(devices.choose_device(args.device), time.monotonic() + 60 * args.minutes - 20, [])
    pixels = landscape(min(WINDOW, args.size))
    found: dict[str, Any] = {"about": about(bench.device)}
    print(", ".join(f"{name}: {value}" for name, value in found["about"].items()), "\n")
    parts: dict[str, Callable[[], list[Row]]] = {
        "agreement": lambda: agreement(bench, pixels),
        "batches": lambda: batches(bench, pixels),
        "memory": lambda: little_memory(bench, pixels),
        "runs": lambda: runs(bench, args.size, pixels, min([row["s/Mpx"] for row in found["batches"]] or [1.0])),
    }
    for name, part in parts.items():
        found[name] = part()
        print(table(name, found[name]) if found[name] else f"## {name}\n\nnothing on {bench.device}\n", flush=True)
    found["left out"] = bench.left_out
    print("left out for want of time:", "; ".join(bench.left_out) or "nothing")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
