"""Tasks, seconds and MiB of the graph of a large map, by the chunks of the scene.

python benchmarks/graph.py
"""

import argparse
import pickle
import time

import dask
import dask.array as da
import numpy as np
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from odc.geo.xr import xr_coords

import geouq

SHAPE = (17_000, 25_000)


def scene(chunk: int) -> xr.DataArray:
    """Return a scene of the size of a Sentinel-1 product that is computed, in chunks of one band."""
    geobox = GeoBox(SHAPE, Affine(10, 0, 500_000, 0, -10, 5_000_000), "EPSG:32633")
    data = da.full((2, *SHAPE), np.float32(-15), chunks=(1, chunk, chunk))
    coords = {"band": ["VV", "VH"], **xr_coords(geobox)}
    return xr.DataArray(data, dims=("band", "y", "x"), coords=coords, attrs={"units": "dB"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", nargs="+", type=int, default=[128, 256, 512, 1024, 2048, 4096, max(SHAPE)])
    given = parser.parse_args()
    geouq.segment(scene(max(SHAPE)))  # loads the model and compiles its plan
    print("| chunk | input tasks | tasks | to build, s | to optimise, s | MiB | keys that a second call shares |")
    print("|---|---|---|---|---|---|---|")
    for chunk in given.chunks:
        data = scene(chunk)
        started = time.perf_counter()
        layers = geouq.segment(data)
        built = time.perf_counter()
        (optimised,) = dask.optimize(layers)
        tasks = dict(optimised.__dask_graph__())
        done = time.perf_counter()
        size = len(pickle.dumps(layers.__dask_graph__())) / 2**20
        again = set(geouq.segment(data).__dask_graph__())
        shared = len(again & set(layers.__dask_graph__())) / len(again)
        print(
            f"| {chunk} | {data.data.npartitions} | {len(tasks)} | {built - started:.2f} | {done - built:.2f} "
            f"| {size:.1f} | {shared:.0%} |"
        )


if __name__ == "__main__":
    main()
