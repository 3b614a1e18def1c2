"""Several dates of one place: how often each pixel was water, of the times that anything was known there.

    python examples/stack_of_dates.py frequency.tif 2024-05-01=may.tif 2024-05-13=later.tif …

Sample s of every date is drawn with the same seed, so errors that dates have in common cancel in differences.
"""

import sys

import numpy as np
import odc.geo.xr  # noqa: F401 (gives arrays their `.odc`)
import xarray as xr

import geouq


def main(out_path: str, *dated: str) -> None:
    dates, paths = zip(*(text.split("=", 1) for text in dated), strict=True)
    maps = [geouq.segment(geouq.open_scene(path), samples=10, layers=("probability",)) for path in paths]
    stack = xr.concat(maps, xr.DataArray(np.array(dates, "datetime64[ns]"), dims="time", name="time"))  # same grid
    probability = stack["probability"]  # (time, y, x), lazy
    known = probability.notnull()
    frequency = (probability > 0.5).where(known).mean("time").astype("float32")
    frequency.odc.write_cog(out_path, overwrite=True)
    for date, share in zip(dates, (probability > 0.5).where(known).mean(("y", "x")).values, strict=True):
        print(f"{date}: {share:.1%} water")


if __name__ == "__main__":
    main(*sys.argv[1:])
