"""What does the alarm say of images that the model was not made for? Each is mapped as if it were VV and VH in dB.

    python benchmarks/strange_ground.py DATA [--model NAME]
    python benchmarks/strange_ground.py DATA --bands         # what the bands alone tell, of many more images

DATA is a folder with ``dem``, ``seeds/water-bodies-rgb`` and ``s1``. Elevation, bytes of photographs and reflectances
are stretched to the range of backscatter, so that no check of units can refuse them: what is left are the look of the
bands (geouq.likeness) and the alarm. All answers of the model are meaningless there, and a map without a warning is a
miss. With ``--bands`` nothing is mapped: how many of all images are told from radar, and how many radar images are not.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rasterio
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords
from scipy.ndimage import uniform_filter

import geouq
from geouq.learning.data.dataset import read_dataset
from geouq.learning.data.loading import load
from geouq.likeness import doubtful
from geouq.rasters.windowed import first_windows

#: dB that the least and the largest value of an image become, of VV and of VH
VV, VH = (-24.0, 0.0), (-30.0, -6.0)
#: images of a kind, and the longest side that is read of each
MOST, SIDE = 12, 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="s1-water")
    parser.add_argument("--bands", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.bands:
        by_bands(arguments.data)
        return
    print("| image | kind | water % | open % | alarm | what is said |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for kind, name, values in strange(arguments.data):
            grid = xr_coords(GeoBox(values.shape[1:], Affine(10, 0, 5e5, 0, -10, 5e6), "EPSG:32633"))
            coords = {"band": ["VV", "VH"], **grid}
            scene = xr.DataArray(values, dims=("band", "y", "x"), coords=coords, attrs={"units": "dB"})
            try:
                found = geouq.run(scene, arguments.model, Path(folder) / "map.tif", samples=20, overwrite=True)
            except geouq.GeouqError as error:
                print(f"| {name} | {kind} | | | refused | {error} |", flush=True)
                continue
            share, said = 100 * found["area_m2"] / (found["valid_area_m2"] or 1), found.get("expectation", "")
            alarm = "yes" if any("do not trust" in line for line in found["warnings"]) else "**no**"
            print(f"| {name} | {kind} | {share:.0f} | {found['open_percent']:.1f} | {alarm} | {said} |", flush=True)


def by_bands(data: Path) -> None:
    """Print how many images of each kind are told from radar by their bands."""
    told = Counter[str]()
    seen = Counter[str]()
    for kind, values in (*pictures(data), *radar(data)):
        seen[kind] += 1
        windows = [values[:, rows, columns] for rows, columns in first_windows(values.shape[1:])]
        told[kind] += bool(doubtful(windows, ("VV", "VH"), "dB"))
    print("| images | told | of |\n|---|---|---|")
    for kind, count in seen.items():
        print(f"| {kind} | {told[kind]} | {count} |")


def pictures(data: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield kind and (2, h, w) dB of all photographs and reflectances, but those that ``strange`` yields."""
    photographs, reflectances = data / "seeds/water-bodies-rgb", data / "s1/bigearthnet"
    known = {*some(photographs, "**/*.jp*g"), *some(reflectances, "*_S2.tif")}
    for path in sorted({*photographs.glob("**/*.jp*g")} - known):
        yield "photographs, red and blue", as_decibels(read(path)[[0, 2]])
    for path in sorted({*reflectances.glob("*_S2.tif")} - known):
        for name, pair in (("red, NIR", (2, 3)), ("blue, green", (0, 1)), ("NIR, SWIR", (3, 4)), ("SWIR, red", (4, 2))):
            yield f"reflectances, {name}", as_decibels(read(path)[list(pair)])


def radar(data: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield kind and (2, h, w) dB of Sentinel-1 chips: as they are, smoothed, swapped, in wrong decibels."""
    for chip in read_dataset(data / "s1"):
        values, _, _ = load(chip, ("VV", "VH"), "dB")
        yield "Sentinel-1", values
        yield "Sentinel-1, means of 5 x 5", uniform_filter(values, (0, 5, 5))
        yield "Sentinel-1, swapped", values[::-1]
        yield "Sentinel-1, decibels halved", values / 2
        yield "Sentinel-1, decibels doubled", values * 2


def strange(data: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield kind, name and (2, h, w) dB of each image."""
    for path in some(data / "dem", "*.tif"):
        yield "elevation", path.stem, as_decibels(read(path)[:1].repeat(2, 0))
    for path in some(data / "seeds/water-bodies-rgb", "**/*.jp*g"):
        yield "photograph", path.stem, as_decibels(read(path)[[0, 2]])
    for path in some(data / "s1/bigearthnet", "*_S2.tif"):
        yield "reflectance", path.stem, as_decibels(read(path)[[2, 3]])
    for path in some(data / "s1/terramind", "609U*_S1RTC.tif"):
        yield "Sentinel-1, snow", path.stem, read(path)[:2]


def some(folder: Path, pattern: str) -> list[Path]:
    """Return up to ``MOST`` files, evenly spread."""
    paths = sorted(folder.glob(pattern))
    return paths[:: -(-len(paths) // MOST) or 1]


def read(path: Path) -> np.ndarray:
    """Return the upper left part of an image, (bands, h, w) float32, NaN where it is nodata."""
    with rasterio.open(path) as file:
        window = rasterio.windows.Window(0, 0, min(file.width, SIDE), min(file.height, SIDE))
        return file.read(window=window, masked=True).astype(np.float32).filled(np.nan)


def as_decibels(values: np.ndarray) -> np.ndarray:
    """Stretch the values of two bands to ``VV`` and ``VH``: 1 % to 99 % of them, and on beyond that."""
    out = np.empty_like(values)
    for band, (low, high), one in zip(out, (VV, VH), values, strict=True):
        a, b = np.nanpercentile(one, (1, 99))
        band[:] = low + (high - low) * (one - a) / max(b - a, 1e-6)
    return out


if __name__ == "__main__":
    main()
