"""A scene into a map of classes by a classic rule: the same COG, tags and style as of any other map."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr

from geouq.classic.rules import FIT, Nearest, Threshold, kmeans, otsu
from geouq.errors import InputError
from geouq.files import check_free, refuse_own_scene
from geouq.grid import Roi, pixel_areas
from geouq.layers import NOT_CLASSIFIED, Legend
from geouq.maps.bands import map_bands, quantise
from geouq.maps.cog import MapWriter
from geouq.maps.styles import write_qml
from geouq.rasters.coords import scene_geobox

METHODS = ("otsu", "threshold", "kmeans")
#: regions that k-means may look for
MOST_REGIONS = 32


def classify(
    scene: xr.DataArray,
    path: str | os.PathLike[str],
    method: str = "otsu",
    *,
    threshold: float | None = None,
    regions: int = 2,
    above: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Map a scene by a classic method and write the map; memory is that of one of the scene's chunks.

    Parameters
    ----------
    scene : (band, y, x), NaN where not valid. "otsu" and "threshold" look at its first band, "kmeans" at all.
    path : the map, ``.tif``; its style is written beside it.
    threshold : of "threshold", in the scene's units. regions : of "kmeans", which is fitted on a lattice of pixels.
    above : class 1 is the brighter one, as water is in a water index; by default the darker one, as in backscatter.

    Returns
    -------
    ``method``; ``threshold`` or ``centres`` (a list a class); ``areas_m2`` by class (squared units without a CRS);
    ``not_classified_percent``; ``approximate``: the rule was fitted on some of the pixels.

    Raises
    ------
    InputError : an argument is not what it must be, or the scene cannot be divided. OutputError : the map cannot be
        written.
    """
    path = Path(path)
    _check(method, threshold, regions)
    if path.suffix.lower() not in (".tif", ".tiff"):
        raise InputError(f"{path}: maps are written as .tif: give it that suffix")
    style = path.with_suffix(".qml")
    refuse_own_scene(scene, (path, style))
    for file in (path, style):
        check_free(file, overwrite)
    rule, approximate = _fitted(scene, method, threshold, regions, above)
    legend = Legend()
    if method == "kmeans" and regions > 2:
        legend = Legend(tuple(f"region {number}" for number in range(1, regions + 1)), 0)
    areas, missing = np.zeros(len(legend.names)), 0
    geobox, bands = scene_geobox(scene), map_bands(["mask"], legend=legend)
    tags = legend.tags() | {"method": method, "version": version("geouq")}
    with MapWriter(path, geobox, bands, {f"GEOUQ_{key.upper()}": value for key, value in tags.items()}) as writer:
        for roi, values in _blocks(scene):
            valid = np.isfinite(values if method == "kmeans" else values[:1]).all(0)
            mask = np.where(valid, rule.apply(values), np.uint8(NOT_CLASSIFIED))
            writer.write(roi, quantise({"mask": mask}, bands))
            area = np.broadcast_to(pixel_areas(geobox, roi), mask.shape)
            areas += np.bincount(mask[valid], area[valid], len(areas))
            missing += int((~valid).sum())
        write_qml(style, ["mask"], False, legend, replace=overwrite)
        writer.finish(overwrite)
    found = {"threshold": rule.level} if isinstance(rule, Threshold) else {"centres": rule.centres.tolist()}
    named = dict(zip(legend.names, areas.tolist(), strict=True))
    share = 100 * missing / (scene.shape[1] * scene.shape[2])
    return {"method": method, **found, "areas_m2": named, "not_classified_percent": share, "approximate": approximate}


def _check(method: str, threshold: float | None, regions: int) -> None:
    if method not in METHODS:
        raise InputError(f"no method {method!r}: choose among {', '.join(METHODS)}")
    if (threshold is not None) != (method == "threshold"):
        raise InputError("a threshold is what the method threshold needs, and no other takes: give both, or neither")
    if threshold is not None and not np.isfinite(threshold):
        raise InputError(f"threshold {threshold} is no value of a pixel: give a finite number")
    if not 2 <= regions <= MOST_REGIONS or (regions > 2 and method != "kmeans"):
        raise InputError(f"{regions} regions: kmeans takes 2 to {MOST_REGIONS}, the other methods 2")


def _fitted(
    scene: xr.DataArray, method: str, threshold: float | None, regions: int, above: bool
) -> tuple[Threshold | Nearest, bool]:
    """Return the rule, and whether it was fitted on some of the scene's pixels alone."""
    if threshold is not None:
        return Threshold(threshold, above), False
    if method == "otsu":
        return otsu(lambda: (values for _, values in _blocks(scene)), above), False
    pixels, step = _lattice(scene)
    return kmeans(pixels, regions, above), step > 1


def _lattice(scene: xr.DataArray) -> tuple[np.ndarray, int]:
    """Return valid pixels (N, K) of every ``step``-th row and column, so that at most ``FIT`` are met; and step."""
    rows, columns = scene.shape[1:]
    step = max(1, int(np.ceil((rows * columns / FIT) ** 0.5)))
    found = []
    for roi, values in _blocks(scene):
        picked = values[:, -roi.y0 % step :: step, -roi.x0 % step :: step].reshape(len(values), -1).T
        found.append(picked[np.isfinite(picked).all(1)])
    return np.concatenate(found).astype(np.float64), step


def _blocks(scene: xr.DataArray) -> Iterator[tuple[Roi, np.ndarray]]:
    """Yield the scene's chunks: where, and the values (K, h, w)."""
    heights, widths = scene.chunks[1:] if scene.chunks else ((scene.shape[1],), (scene.shape[2],))
    for bottom, height in zip(accumulate(heights), heights, strict=True):
        for right, width in zip(accumulate(widths), widths, strict=True):
            roi = Roi(bottom - height, bottom, right - width, right)
            (values,) = dask.compute(scene.data[:, *roi.slices], scheduler="synchronous")
            yield roi, np.asarray(values)
