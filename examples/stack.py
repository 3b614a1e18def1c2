"""A stack of dates of one place: the area of water at each, with its interval, as a plot and as a GeoPackage.

    python examples/stack.py FOLDER water.gpkg water.png

FOLDER holds scenes on one grid with their dates in their names: files with VV and VH, or a file each (OPERA RTC-S1).
The GeoPackage has two layers: `water`, the polygons of all dates, and `dates`, a row a date with its area.
"""

import sys
import tempfile

import geopandas
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr

import geouq
from geouq.scenes.batch import scenes_named


def main(folder: str, out_path: str, plot_path: str) -> None:
    found = sorted(scenes_named([folder])[0], key=lambda one: one.taken)  # VV and VH of a date are one scene
    times = xr.DataArray(np.array([one.taken.rstrip("Z") for one in found], "datetime64[ns]"), dims="time", name="time")
    stack = xr.concat([geouq.open_scene(one.source) for one in found], times, join="exact")  # (time, band, y, x), lazy
    maps = geouq.segment(stack, samples=20, layers=("mask", "uncertainty", "probability", "votes"))
    dates, water = [], []
    with tempfile.TemporaryDirectory() as scratch:
        outline = f"{scratch}/outline.gpkg"
        geopandas.GeoDataFrame(geometry=[stack.odc.geobox.extent.geom], crs=str(stack.odc.crs)).to_file(outline)
        for date in map(pd.Timestamp, times.values):
            layers = maps.sel(time=date).compute()  # one date at a time is in memory
            dates.append(layers.geouq.zonal(outline).assign(date=date))  # intervals come from samples of the whole
            water.append(layers.geouq.to_polygons().assign(date=date))
    areas = pd.concat(dates, ignore_index=True)
    pd.concat(water, ignore_index=True).to_file(out_path, layer="water", driver="GPKG")
    areas.to_file(out_path, layer="dates", driver="GPKG", mode="a")
    plot(areas, plot_path)
    for row in areas.itertuples():
        middle, low, high = (value / 1e6 for value in (row.water_area_m2, row.water_area_m2_p05, row.water_area_m2_p95))
        print(f"{row.date:%Y-%m-%d}: {middle:.3f} km² ({low:.3f} to {high:.3f}), {row.not_classified:.0%} not known")


def plot(areas: geopandas.GeoDataFrame, path: str) -> None:
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    low, high = areas.water_area_m2_p05 / 1e6, areas.water_area_m2_p95 / 1e6
    axes.vlines(areas.date, low, high, linewidth=6, alpha=0.4, label="5–95 % of 20 samples")
    axes.plot(areas.date, areas.water_area_m2 / 1e6, "o-", label="mean of the samples")
    axes.set_ylabel("water, km²")
    axes.margins(y=0.2)
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main(*sys.argv[1:])
