"""``scene_info``: what a scene is, as plain values for people and programs."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from geouq.errors import UnitsError
from geouq.scenes.open import Scene, Source, describe_scene, probe
from geouq.scenes.raster import Raster, chunk_shape
from geouq.units import UNKNOWN

_OTHER = {"VV": "VH", "VH": "VV", "HH": "HV", "HV": "HH"}


def scene_info(
    source: Source,
    *,
    scale: str = "auto",
    nodata: float | None = None,
    bidx: Sequence[int] | None = None,
    chunk: int = 1024,
) -> dict[str, Any]:
    """Return what a scene is: files, grid, bands, units and why, validity, chunks; JSON-able values only.

    Parameters are those of ``open_scene``. Where units cannot be told, ``units`` is ``unknown`` and
    ``units_reason`` says what to give; nothing else of a scene is harder to describe for it. ``valid_share`` is
    the share of pixels valid in all bands, in a few windows spread over the files.

    Raises
    ------
    SceneError, InputError : as ``open_scene``.
    """
    units, reason = "", ""
    try:
        scene = describe_scene(source, scale=scale, nodata=nodata, bidx=bidx)
    except UnitsError as error:
        # Any scale will do to describe the rest.
        scene = describe_scene(source, scale="dn", nodata=nodata, bidx=bidx)
        units, reason = UNKNOWN, str(error)
    rasters = [part.raster for part in scene.parts]
    geobox = scene.geobox
    return {
        "files": [raster.path for raster in rasters],
        "driver": _common(raster.driver for raster in rasters),
        "columns": int(geobox.shape[1]),
        "rows": int(geobox.shape[0]),
        "bands": list(scene.names),
        "dtype": _common(band.dtype for band in scene.bands),
        "units": units or scene.units,
        "units_reason": reason or scene.units_reason,
        "nodata": _common(band.nodata for band in scene.bands),
        "mask": _mask(scene),
        "valid_share": _valid_share(rasters),
        "crs": None if geobox.crs is None else str(geobox.crs),
        "transform": [float(value) for value in geobox.affine[:6]],
        "resolution": [float(abs(geobox.resolution.x)), float(abs(geobox.resolution.y))],
        "bounds": [float(value) for value in geobox.boundingbox],
        "placed_by": f"{len(rasters[0].gcps)} ground control points" if rasters[0].gcps else "transform",
        "block": list(rasters[0].block),
        "chunk": list(chunk_shape(scene.parts[0].shape[1:], scene.parts[0].block, chunk)),
        "notes": list(scene.notes),
        "other_polarisation": _sibling(scene),
    }


def _common(values: Any) -> Any:
    """The value that all share, or the list of the different ones; NaN and infinity as text, for JSON has none."""
    odd = (float("inf"), float("-inf"))
    distinct = list(dict.fromkeys(str(value) if value != value or value in odd else value for value in values))
    return distinct[0] if len(distinct) == 1 else distinct


def _mask(scene: Scene) -> str | None:
    if any(part.raster.alpha for part in scene.parts):
        return "alpha band"
    return "mask band" if any(band.masked for band in scene.bands) else None


def _valid_share(rasters: Sequence[Raster]) -> float:
    probes = [np.isfinite(probe(raster)).all(axis=0) for raster in rasters]
    if len({len(valid) for valid in probes}) == 1:
        return float(np.logical_and.reduce(probes).mean())
    return float(min(valid.mean() for valid in probes))


def _sibling(scene: Scene) -> str | None:
    """The file beside this one that differs by the polarisation in its name alone, if it was not given too."""
    if len(scene.parts) > 1:
        return None
    folder, name = os.path.split(scene.parts[0].raster.path)
    for match in re.finditer(r"(?<![A-Za-z])(VV|VH|HH|HV)(?![A-Za-z])", name, re.IGNORECASE):
        other = _OTHER[match[0].upper()]
        other = other.lower() if match[0].islower() else other
        path = os.path.join(folder, name[: match.start()] + other + name[match.end() :])
        if os.path.isfile(path):
            return path
    return None
