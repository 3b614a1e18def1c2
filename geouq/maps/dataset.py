"""A Dataset of layers, as ``geouq.segment`` gives it, computed and written as a map's files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr
from dask.base import tokenize

from geouq.errors import OutputError, SceneError
from geouq.files import check_free
from geouq.grid import Roi
from geouq.layers import LAYERS, NOT_CLASSIFIED, Legend
from geouq.maps.bands import by_band, map_bands, quantise, vote_bands
from geouq.maps.cog import MapWriter
from geouq.maps.styles import write_qml, write_votes_qml
from geouq.maps.votes import beside
from geouq.rasters.coords import scene_geobox

#: rows of a map that is in memory to be written at once
_ROWS = 1024
#: a float64 has so many bits, each of which may be a vote
_WHOLE = 53


def write_map(
    layers: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    float32: bool = False,
    overwrite: bool = False,
    options: Mapping[str, str] | None = None,
) -> Path:
    """Compute layers and write them as ``geouq segment`` does: a COG and its style, votes in files of their own.

    They are computed by whatever scheduler dask has, a row of chunks at a time, which is what memory depends on; all at
    once where the mask goes by the whole scene (``cut`` is a coordinate). The tags are those of a run but for what it
    knows of the scene's file; the run's id goes by the layers' tasks or values.

    Parameters
    ----------
    layers : of one map. path : ``.tif``; votes go to ``<stem>_samples.tif``. float32 : floats 0..1, not percent.
    overwrite : replace files that exist. options : creation options of GDAL's COG driver.

    Raises
    ------
    SceneError : these are no layers of one map, or not all of its classes. OutputError : a file exists, or cannot be
    written.
    """
    path, legend = Path(path), _legend(layers)
    layers = _in_order(layers, legend)
    names = [band for name in layers.data_vars if name in LAYERS for band in LAYERS[str(name)].bands(legend.names)]
    if path.suffix.lower() not in (".tif", ".tiff"):
        raise OutputError(f"{path}: maps are written as .tif: give it that suffix")
    votes, style = beside(path), path.with_suffix(".qml")
    with_votes = "votes" in layers
    for file in (path, style, *((votes, votes.with_suffix(".qml")) if with_votes else ())):
        check_free(file, overwrite)
    grid = scene_geobox(layers["mask"])
    files = {path: map_bands(names, float32, legend)}
    if with_votes:
        files[votes] = vote_bands(int(layers.attrs["samples"]), legend)
    if "cut" in layers.coords:
        layers = layers.compute()  # the mask goes by all tiles, which would be sampled anew for each strip
    tags = _tags(layers)
    with ExitStack() as stack:
        writers = [stack.enter_context(MapWriter(file, grid, bands, tags, options)) for file, bands in files.items()]
        for roi, values in _strips(layers, legend):
            for writer in writers:
                writer.write(roi, quantise(values, writer.bands))
        write_qml(style, names, float32, legend, replace=overwrite)
        if with_votes:
            write_votes_qml(votes.with_suffix(".qml"), int(layers.attrs["samples"]), legend, overwrite)
        for writer in reversed(writers):  # the map last: when it is there, all is
            writer.finish(overwrite)
    return path


def _legend(layers: xr.Dataset) -> Legend:
    """Return what mask values mean; raise SceneError for what is no Dataset of one map's layers."""
    if "mask" not in layers or "model_hash" not in layers.attrs:
        raise SceneError("these are no layers that geouq.segment gave with the mask among them (layers=('mask', …))")
    others = layers["mask"].dims[:-2]
    if others:
        first = ", ".join(f"{dim}=0" for dim in others)
        raise SceneError(f"these are several maps, along {', '.join(map(str, others))}: give one, .isel({first})")
    return Legend.of_tags(_as_tags(layers.attrs), "the Dataset")


def _in_order(layers: xr.Dataset, legend: Legend) -> xr.Dataset:
    """Return layers with their classes, rows and columns in the order of files, whichever they come in.

    Raises
    ------
    SceneError : classes are left out, or votes are no bits any more.
    """
    planes = [name for name in layers.data_vars if name in LAYERS and LAYERS[str(name)].planes(legend.names)]
    if planes:
        found = [str(name) for name in np.atleast_1d(layers["class"].values)] if "class" in layers.coords else []
        if not all("class" in layers[name].dims for name in planes) or sorted(found) != sorted(legend.names):
            raise SceneError(
                f"{', '.join(map(str, planes))} of the classes {', '.join(found) or '?'}: "
                f"a map holds all of them ({', '.join(legend.names)}), or leave these layers out (drop_vars)"
            )
        layers = layers if found == list(legend.names) else layers.sel({"class": list(legend.names)})
    if "votes" in layers and layers["votes"].dtype.kind == "f" and int(layers.attrs["samples"]) > _WHOLE:
        raise SceneError(
            f"votes of more than {_WHOLE} samples have lost bits as {layers['votes'].dtype}: keep them whole numbers "
            "(layers['votes'].where(…, 0))"
        )
    return layers.transpose(..., *layers["mask"].dims)


def _tags(layers: xr.Dataset) -> dict[str, str]:
    told = {name: value for name, value in layers.attrs.items() if name != "Conventions"}
    told |= {"cut": float(layers["cut"])} if "cut" in layers.coords and layers["cut"].chunks is None else {}
    told |= {"version": version("geouq"), "run": tokenize(layers)[:16]}
    return _as_tags(told)


def _as_tags(told: Mapping[Any, Any]) -> dict[str, str]:
    return {f"GEOUQ_{name.upper()}": str(value) for name, value in told.items()}


def _strips(layers: xr.Dataset, legend: Legend) -> Iterator[tuple[Roi, dict[str, np.ndarray]]]:
    """Yield the layers by the names of their bands, a row of chunks at a time."""
    mask = layers["mask"]
    rows, columns = mask.shape
    heights = mask.chunks[0] if mask.chunks else [min(_ROWS, rows - start) for start in range(0, rows, _ROWS)]
    for stop, height in zip(accumulate(heights), heights, strict=True):
        strip = layers.isel({mask.dims[0]: slice(stop - height, stop)})
        (computed,) = dask.compute(strip)
        values = {str(name): computed[name].values for name in computed.data_vars if name in LAYERS}
        values = by_band(values, legend)
        values["mask"] = _as_stored(values["mask"])
        yield Roi(stop - height, stop, 0, columns), values


def _as_stored(mask: np.ndarray) -> np.ndarray:
    """Return a mask (h, w) as uint8: xarray makes floats of one that it reads from a file, and NaN of its nodata."""
    if mask.dtype.kind != "f":
        return mask
    stored = np.where(np.isnan(mask), np.float32(NOT_CLASSIFIED), mask)
    if (stored != np.clip(np.round(stored), 0, NOT_CLASSIFIED)).any():
        raise SceneError("the mask holds values between classes: resample it by nearest neighbour")
    return stored.astype(np.uint8)
