"""A run on one process against two workers of a cluster: seconds, megapixels a second, peak memory of each process.

    python -m benchmarks.cluster --size 6000 --samples 4

Each way is a process of its own, so that its peak is its own. The scene is simulated (``geouq simulate``); the maps of
both ways are compared by their sha256.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import geouq

WAYS = ("one process", "local:2")


def peak() -> int:
    """Return the most memory that this process ever had, MiB."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) >> 10


def measure(folder: Path, way: str, samples: int, tile: int) -> None:
    """Run one way and print what it took as JSON."""
    import distributed

    scene = geouq.open_scene(folder / "scene.tif")
    path = folder / f"{WAYS.index(way)}" / "water.tif"
    path.parent.mkdir()
    settings = {"samples": samples, "tile": tile, "device": "cpu"}
    workers: list[int] = []
    if way == "one process":
        told = geouq.run(scene, outputs=path, **settings)
    else:
        with (
            distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
            distributed.Client(cluster) as client,
        ):
            told = geouq.run(scene, outputs=path, scheduler=client, **settings)
            workers = sorted(client.run(peak).values())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    keys = ("seconds", "megapixels_per_second", "tiles")
    print(json.dumps({key: told[key] for key in keys} | {"here": peak(), "workers": workers, "sha256": digest}))


def main() -> None:
    """Measure all ways and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=6000)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    if given.way:
        measure(given.folder, given.way, given.samples, given.tile)
        return
    print(f"{given.size} x {given.size} pixels, {given.samples} samples, tiles of {given.tile}")
    print(f"{'':12} {'seconds':>8} {'Mpx/s':>7} {'client, MiB':>12} {'workers, MiB':>15}  sha256")
    with TemporaryDirectory() as folder:
        geouq.simulate_scene(Path(folder) / "scene.tif", size=given.size, seed=7)
        for way in WAYS:
            command = [sys.executable, "-m", "benchmarks.cluster", "--way", way, "--folder", folder]
            asked = ["--samples", str(given.samples), "--tile", str(given.tile)]
            told = json.loads(subprocess.run([*command, *asked], check=True, capture_output=True, text=True).stdout)
            workers = ", ".join(map(str, told["workers"])) or "none"
            speed = told["megapixels_per_second"]
            print(f"{way:12} {told['seconds']:8.1f} {speed:7.3f} {told['here']:12} {workers:>15}  {told['sha256']}")


if __name__ == "__main__":
    main()
