"""One tile, segmented: the pure functions that dask, the durable run, the learning and the tests all call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from geouq import units
from geouq.grid import Tile, pixel_areas
from geouq.sampling.engine import TileResult, predict_tile
from geouq.sampling.window import Window
from geouq.segmentation.job import Job
from geouq.segmentation.matching import scene_validity, used_names, without_nodata
from geouq.validity import measured


def segment_tile(job: Job, values: np.ndarray, tile: Tile) -> TileResult:
    """Segment one tile: a pure function of the job, the scene's values in the tile's window, and the tile.

    ``values`` is (scene bands, h, w) over the part of the window inside the scene.
    """
    window = tile_window(job, values, tile)
    area = np.zeros(tile.whole.shape, np.float32)
    part = tile.core.within(tile.whole).slices
    area[part] = pixel_areas(job.geobox, tile.core)
    result = predict_tile(job.sampler_of(tile), job.question, window, area)
    layers = {name: layer[..., *part] for name, layer in result.layers.items()}
    return replace(result, layers=layers, valid=int(window.valid[tile.core.within(window.roi).slices].sum()))


def tile_window(job: Job, values: np.ndarray, tile: Tile) -> Window:
    """Return what samplers draw from for a tile, without regard to bounds."""
    seen = job.tiling.seen(tile.window)
    return Window(*tile_pixels(job, values, tile), tile.whole.within(seen), (seen.y0, seen.x0))


def tile_pixels(job: Job, values: np.ndarray, tile: Tile) -> tuple[np.ndarray, np.ndarray]:
    """Return a window as the model sees it, (K, h, w) in its units with NaN, and where that is measured."""
    seen = job.tiling.seen(tile.window)
    top, left = tile.window.y0 - seen.y0, tile.window.x0 - seen.x0
    pixels = np.full((len(job.bands), *seen.shape), np.nan, np.float32)
    bottom, right = (n - before - had for n, before, had in zip(seen.shape, (top, left), values.shape[1:], strict=True))
    present = [k for k, index in enumerate(job.bands) if index is not None]
    used = [index for index in job.bands if index is not None]
    bands = job.validity.blank(without_nodata(values[used], job.nodata))
    for k, band in zip(present, bands, strict=True):
        converted = units.convert(band, job.units, job.sampler.model.spec.units)
        pixels[k] = np.pad(converted, ((top, bottom), (left, right)), "symmetric")
    return pixels, measured(pixels, present, job.sampler.model.spec.black)


def look_first(job: Job, windows: Sequence[np.ndarray], name: str) -> Job:
    """Return a job that knows what is fill, from the windows of the scene that are looked at first."""
    names = used_names(job.sampler.model, job.bands)
    return replace(job, validity=scene_validity(windows, job.units, job.nodata, name, names))


def tile_values(scene: xr.DataArray, tile: Tile) -> Any:
    """Return the (lazy) values of the part of a tile's window that lies inside the scene."""
    rows, columns = tile.window.slices
    return scene.data[:, rows, columns]
