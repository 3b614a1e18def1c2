"""``write_backscatter``: a scene's backscatter in dB as a Cloud Optimized GeoTIFF, chunk by chunk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from geouq.errors import InputError
from geouq.files import check_free, refuse_own_scene
from geouq.grid import Roi
from geouq.maps.bands import MapBand
from geouq.maps.cog import MapWriter, check_options
from geouq.rasters.coords import scene_geobox
from geouq.units import DB, check_convertible, convert

#: chunks computed at once: memory is that of so many, whatever the scene's size
IN_FLIGHT = min(4, os.cpu_count() or 1)


def write_backscatter(
    scene: xr.DataArray,
    path: str | os.PathLike[str],
    *,
    tags: Mapping[str, object] | None = None,
    options: Mapping[str, str] | None = None,
    overwrite: bool = False,
    on_pixels: Callable[[int], None] = lambda pixels: None,
) -> dict[str, Any]:
    """Write a scene's backscatter: float32 dB, NaN where not valid; overviews are means of power.

    Parameters
    ----------
    scene : (band, y, x), as ``open_scene`` gives it, in dB, power or amplitude; computed chunk by chunk.
    path : a ``.tif`` that is there in the end, or not at all.
    tags : the file's metadata. options : of GDAL's COG driver (``cog.check_options``).
    overwrite : replace ``path`` if it exists.
    on_pixels : told how many pixels have been written, now and then.

    Returns
    -------
    JSON-able summary: file, bands, rows, columns, crs, valid_percent (of pixels valid in all bands).

    Raises
    ------
    OutputError : the file exists or cannot be written. UnitsError, SceneError : the scene is no backscatter on a grid.
    """
    path = Path(path)
    _check_path(path, scene, overwrite)
    unit = str(scene.attrs.get("units", ""))
    check_convertible(unit, DB, path.name)
    checked = check_options(options or {})
    geobox = scene_geobox(scene)
    bands = tuple(MapBand(str(name), "dB", "float32") for name in scene[scene.dims[0]].values)
    data = scene.data if dask.is_dask_collection(scene.data) else da.from_array(scene.data)
    data = data.rechunk({0: -1})
    valid = 0
    with MapWriter(path, geobox, bands, tags, checked) as writer:
        chunks = _chunks(data)
        while batch := list(islice(chunks, IN_FLIGHT)):
            computed = dask.compute(*(block for _, block in batch))
            for (roi, _), values in zip(batch, computed, strict=True):
                decibels = convert(values, unit, DB)
                valid += int(np.isfinite(decibels).all(axis=0).sum())
                writer.write(roi, decibels)
                on_pixels(roi.shape[0] * roi.shape[1])
        writer.finish(overwrite)
    rows, columns = (int(n) for n in geobox.shape)
    return {
        "file": str(path),
        "bands": [band.name for band in bands],
        "rows": rows,
        "columns": columns,
        "crs": None if geobox.crs is None else str(geobox.crs),
        "valid_percent": round(100 * valid / (rows * columns), 3),
    }


def _check_path(path: Path, scene: xr.DataArray, overwrite: bool) -> None:
    if path.suffix.lower() not in (".tif", ".tiff"):
        raise InputError(f"{path} is not called .tif: give a GeoTIFF's name")
    refuse_own_scene(scene, [path])
    check_free(path, overwrite)


def _chunks(data: da.Array) -> Iterator[tuple[Roi, da.Array]]:
    """Each chunk of the map and where it lies, row by row."""
    y = 0
    for i, height in enumerate(data.chunks[1]):
        x = 0
        for j, width in enumerate(data.chunks[2]):
            yield Roi(y, y + height, x, x + width), data.blocks[0, i, j]
            x += width
        y += height
