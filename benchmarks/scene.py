"""Whole runs of ``geouq segment`` on simulated scenes: time and memory as the scene grows.

    python benchmarks/scene.py [--sizes 1000 2000 4000 8000] [--samples 20] [--precision float32] [--model s1-water]

Each run is a process of its own, from the command line to the finished COG; peak RSS is the operating system's. Seconds
per megapixel and peak should be flat once a scene has several tiles.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GEOUQ = [sys.executable, "-m", "geouq.cli.main"]


def run(command: list[str], log: Path) -> tuple[float, float]:
    """Return wall seconds and peak RSS in MiB of a command; its stdout goes to ``log``."""
    began = time.perf_counter()
    with open(log, "w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 2000, 4000, 8000])
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--model", default="s1-water")
    parser.add_argument("--vector", action="store_true", help="polygons as well")
    args = parser.parse_args()
    print(f"{args.model}, S = {args.samples}, {args.precision}, {os.cpu_count()} processors")
    print(f"{'size':>6} {'tile':>5} {'seconds':>8} {'s/Mpx':>6} {'tiles only, s/Mpx':>18} {'peak MiB':>9}")
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            scene, made, log = (Path(folder) / name for name in (f"{size}.tif", f"{size}_map.tif", "log.json"))
            run([*GEOUQ, "simulate", str(scene), "--size", str(size)], log)
            command = [*GEOUQ, "segment", str(scene), "-o", str(made), "--samples", str(args.samples), "--json"]
            command += ["--model", args.model, "--precision", args.precision]
            command += ["--vector", str(made.with_suffix(".gpkg"))] if args.vector else []
            seconds, peak = run(command, log)
            summary = json.loads(log.read_text())
            pixels = size**2 / 1e6
            tiles = 1 / summary["megapixels_per_second"]
            row = f"{size:>6} {summary['tile']:>5} {seconds:>8.1f} {seconds / pixels:>6.2f} {tiles:>18.2f} {peak:>9.0f}"
            print(row, flush=True)


if __name__ == "__main__":
    main()
