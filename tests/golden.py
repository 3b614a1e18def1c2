"""What every verb leaves, as sha256: run it before and after a change that must not show, and compare.

    python -m tests.golden FOLDER > before.txt

FOLDER is made anew. One line a file, and one for what a verb printed, in a fixed order. Only the command line is used,
so that the same script runs on any version. Times, speeds and the folder's own name are left out of what is printed.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import rasterio

from tests.safe_products import build

VERBS = """
simulate scene.tif --size 700 --seed 7 --truth truth.tif
simulate other.tif --size 512 --seed 8 --truth other_truth.tif
simulate third.tif --size 512 --seed 9 --truth third_truth.tif
info scene.tif
models
models show s1-water
segment scene.tif -o water.tif --samples 8 --vector water.gpkg --preview water.png --layers LAYERS
segment scene.tif -o plain.tif --samples 0 --tile 256 --json
segment scene.tif -o float.tif --samples 4 --float32 --vector float.geojson --model s1-water-fast
segment scene.tif -o ssn.tif --samples 4 --model s1-water-ssn --layers mask,probability,votes
segment scene.tif -o both.tif --samples 4 --model s1-water --model s1-water-fast --layers mask,std,votes
segment scene.tif -o head.tif --samples inf --sites head --model s1-water-fast --layers mask,probability,epistemic
segment scene.tif -o part.tif --samples 4 --bounds BOUNDS --vector part.fgb --min-area 1000
segment scene.tif -o tolerant.tif --samples 20 --tolerance 0.05 --layers mask,probability
vectorize water.tif again.gpkg
score water.tif truth.tif --picture errors.png
classic scene.tif -o kmeans.tif --method kmeans --regions 3
zonal water.tif places.geojson -o zonal.gpkg --samples-table
samples water_samples.tif
samples water_samples.tif -o sample.tif --sample 3 --preview samples.png
calibrate s1-water-fast data -o calibrated.safetensors
evaluate s1-water-fast data -o evaluation --samples 4
train data --recipe unet-16 -o trained --steps 6
train data --recipe s1-water -o trained_s1 --steps 3
preprocess product.SAFE -o backscatter.tif --resolution 200
"""
LAYERS = "mask,uncertainty,confidence,probability,probabilities,aleatoric,epistemic,std,votes"
_CHANGING = re.compile(r'("seconds": |"megapixels_per_second": |[\d.]+ \w+/s|[\d.]+ s\b|[\d.:]+ left)[\d.]*')


def main() -> None:
    """Run all verbs in a new folder and print the digests."""
    folder = Path(sys.argv[1]).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    known: set[Path] = set()
    for line in VERBS.strip().splitlines():
        prepare(folder)
        words = shlex.split(line.replace("LAYERS", LAYERS).replace("BOUNDS", bounds(folder)))
        command = [sys.executable, "-m", "geouq.cli.main", *words]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        said = _CHANGING.sub("", (done.stdout + done.stderr).replace(str(folder), ""))
        print(f"{digest(said.encode())}  exit {done.returncode}  {line}", flush=True)
        if done.returncode:
            print(f"    {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else ''}")
        made = sorted(path for path in folder.rglob("*") if path.is_file() and path not in known)
        for path in made:
            print(f"{digest(path.read_bytes())}      {path.relative_to(folder)}", flush=True)
        known |= set(made)


def prepare(folder: Path) -> None:
    """Make what verbs need beside scenes, once those are there: places, and a folder of labelled data."""
    if not (folder / "third.tif").exists() or (folder / "data").exists():
        return
    left, bottom, right, top = (float(v) for v in bounds(folder).split())
    ring = [[left, bottom], [right, bottom], [right, top], [left, top], [left, bottom]]
    with rasterio.open(folder / "scene.tif") as scene:
        crs = scene.crs.to_epsg()
    (folder / "places.geojson").write_text(
        '{"type": "FeatureCollection", "crs": {"type": "name", '
        f'"properties": {{"name": "urn:ogc:def:crs:EPSG::{crs}"}}}},'
        ' "features": [{"type": "Feature", "properties": {"name": "a"}, "geometry": {"type": "Polygon",'
        f' "coordinates": [{ring}]}}}}]}}'
    )
    build(folder).rename(folder / "product.SAFE")
    (folder / "data").mkdir()
    rows = ["image,label,place,split,units"]
    for name, place, split in (("scene", "a", "train"), ("other", "b", "val"), ("third", "c", "test")):
        shutil.copy(folder / f"{name}.tif", folder / "data" / f"{name}.tif")
        truth = folder / f"{'truth' if name == 'scene' else name + '_truth'}.tif"
        with rasterio.open(truth) as file:
            label, profile = file.read(1), file.profile
        with rasterio.open(folder / "data" / f"{name}_label.tif", "w", **profile) as file:
            file.write(np.where(label <= 1, label, 255).astype(np.uint8), 1)
        rows.append(f"{name}.tif,{name}_label.tif,{place},{split},db")
    (folder / "data" / "manifest.csv").write_text("\n".join(rows) + "\n")


def bounds(folder: Path) -> str:
    """Return a rectangle inside the first scene, as --bounds takes it."""
    if not (folder / "scene.tif").exists():
        return ""
    with rasterio.open(folder / "scene.tif") as scene:
        x0, y0 = scene.transform * (101, 150)
        x1, y1 = scene.transform * (420, 555)
    return f"{x0:g} {min(y0, y1):g} {x1:g} {max(y0, y1):g}"


def digest(data: bytes) -> str:
    """Return 16 hex digits of the sha256."""
    return hashlib.sha256(data).hexdigest()[:16]


if __name__ == "__main__":
    main()
