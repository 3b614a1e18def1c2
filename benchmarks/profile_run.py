"""Where the time of a default run goes, step by step.

    python benchmarks/profile_run.py [--size 4000] [--samples 20] [--vector] [--precision float32] [--model s1-water]

Runs ``geouq segment`` in this process on a simulated scene, with a clock around each step. Two tiles are in flight, so
steps of the first part (reading, predicting, writing parts) overlap: their seconds are those each was busy, waiting
for the processor included, and together may exceed the run's. Prints Markdown.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

STARTED = time.perf_counter()

import geouq.cli.main  # noqa: E402

geouq.cli.main.prepare_process()

import geouq.maps.preview  # noqa: E402
import geouq.networks.model  # noqa: E402
import geouq.polygons.vectorize  # noqa: E402
import geouq.segmentation.assemble  # noqa: E402
import geouq.segmentation.run  # noqa: E402
import geouq.segmentation.tile  # noqa: E402
from geouq.compiling import plan  # noqa: E402
from geouq.maps import cog  # noqa: E402
from geouq.sampling import dropout, estimators, one_model  # noqa: E402

#: step → what it is called in the table
STEPS = {
    (geouq.segmentation.run, "_Work.do"): "a tile, from reading to its receipt",
    (geouq.segmentation.run, "tile_values"): "· lazy window",
    (geouq.segmentation.tile, "tile_pixels"): "· units and validity",
    (geouq.segmentation.tile, "pixel_areas"): "· pixel areas",
    (geouq.networks.model, "Model.normalise"): "· normalising",
    (geouq.segmentation.tile, "predict_tile"): "· predicting, waiting for the device included",
    (one_model, "cut"): "·· blocks",
    (dropout, "block_logits"): "·· suffix, all samples",
    (estimators, "RunningSums.add"): "·· running sums",
    (estimators, "RunningSums.layers"): "·· layers",
    (geouq.segmentation.run, "quantise"): "· quantising",
    (geouq.segmentation.run, "pack"): "· packing the part",
    (geouq.segmentation.run, "write_bytes"): "· writing the part",
    (geouq.segmentation.run, "enter"): "· receipt",
    (geouq.segmentation.run, "assemble"): "all rasters from parts to COG",
    (geouq.segmentation.run, "read_part"): "· reading parts",
    (cog, "MapWriter.write"): "· base level",
    (cog, "MapWriter._overviews"): "· overviews",
    (cog.rasterio.shutil, "copy"): "· COG driver",
    (cog, "MapWriter._check"): "· check",
    (geouq.polygons.vectorize, "vectorize"): "polygons",
    (geouq.maps.preview, "preview"): "picture",
}


class Clock:
    """Adds up how long each step took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self.lock = threading.Lock()

    def wrap(self, holder: object, path: str, label: str) -> None:
        """Replace what ``path`` names in ``holder`` by itself with a clock around it."""
        *outer, name = path.split(".")
        for part in outer:
            holder = getattr(holder, part)
        function = getattr(holder, name)

        @functools.wraps(function)
        def timed(*args: object, **options: object) -> object:
            began = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                with self.lock:
                    self.seconds[label] += time.perf_counter() - began
                    self.calls[label] += 1

        setattr(holder, name, timed)


def time_prefix(clock: Clock) -> None:
    """Put a clock around the prefix of each plan that is made."""
    make = plan.make_plan

    def make_timed(*args: object) -> plan.Plan:
        made = make(*args)
        clock.wrap(made.prefix, "forward", "·· prefix")
        return made

    one_model.make_plan = make_timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4000)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--model", default="s1-water")
    parser.add_argument("--vector", action="store_true", help="polygons as well")
    args = parser.parse_args()
    clock = Clock()
    for (holder, path), label in STEPS.items():
        clock.wrap(holder, path, label)
    time_prefix(clock)
    with tempfile.TemporaryDirectory() as folder:
        scene, made = Path(folder) / "scene.tif", Path(folder) / "map.tif"
        geouq.cli.main.geouq.main(["simulate", str(scene), "--size", str(args.size)], standalone_mode=False)
        command = ["segment", str(scene), "-o", str(made), "--samples", str(args.samples), "-q"]
        command += ["--model", args.model, "--precision", args.precision]
        command += ["--vector", str(made.with_suffix(".gpkg"))] if args.vector else []
        began, spent = time.perf_counter(), time.process_time()
        geouq.cli.main.geouq.main(command, standalone_mode=False)
        total, spent = time.perf_counter() - began, time.process_time() - spent
    pixels = args.size**2 / 1e6
    print(f"{args.model}, {args.size}², S = {args.samples}, {args.precision}, {os.cpu_count()} processors: ", end="")
    print(
        f"{total:.1f} s ({total / pixels:.2f} s/Mpx), processor {spent:.1f} s; imports before {began - STARTED:.1f} s"
    )
    print("\n| step | s/Mpx | calls |\n|---|---|---|")
    for label in (*STEPS.values(), "·· prefix"):
        if clock.calls[label]:
            print(f"| {label} | {clock.seconds[label] / pixels:.3f} | {clock.calls[label]} |")


if __name__ == "__main__":
    sys.exit(main())
