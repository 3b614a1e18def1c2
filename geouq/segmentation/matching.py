"""Does a scene fit a model? Its bands by name, its units, what of it is valid, and the part of it that is asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from geouq import units
from geouq.errors import InputError, ModelError, SceneError, UnitsError
from geouq.grid import GeoBox, Roi, apply
from geouq.likeness import doubtful
from geouq.networks.model import Model
from geouq.rasters.windowed import first_windows
from geouq.scenes.arrays import as_opened
from geouq.scenes.bands import nameless, polarisation_in
from geouq.validity import Validity, judge


def check_array(scene: xr.DataArray) -> None:
    """Raise SceneError for a (band, y, x) array that holds no measured numbers."""
    if scene.dtype.kind not in "iuf":
        raise SceneError(f"the scene holds {scene.dtype} values: integers or floats are needed")
    packed = {key: scene.attrs.get(key, none) for key, none in (("scale_factor", 1), ("add_offset", 0))}
    if np.any(np.asarray(packed["scale_factor"]) != 1) or np.any(np.asarray(packed["add_offset"]) != 0):
        said = ", ".join(f"{key} {value}" for key, value in packed.items())
        raise SceneError(
            f"{scene_name(scene)} holds packed values ({said}): read it with open_scene or mask_and_scale=True, "
            "or apply these and drop the attributes"
        )


def match_bands(scene: xr.DataArray, model: Model) -> tuple[int | None, ...]:
    """Return for each of the model's bands its index in the scene: by name, or by order where names say nothing.

    Raises
    ------
    ModelError : the scene has not the bands the model needs.
    """
    spec = model.spec
    names = _band_names(scene)
    twice = [band for band in spec.bands if [name.upper() for name in names].count(band.upper()) > 1]
    if twice:
        raise ModelError(f"{scene_name(scene)} has several bands called {twice[0]}: keep one, or name them differently")
    index = {name.upper(): i for i, name in enumerate(names)}
    found = tuple(index.get(band.upper()) for band in spec.bands)
    if None not in found:
        return found
    if any(i is not None for i in found) and spec.missing_bands == "zero":
        return found
    chosen = "bands" in scene.attrs  # by their numbers, in the order wanted
    if (chosen or nameless(names)) and len(names) == len(spec.bands):
        return tuple(range(len(names)))
    have = ", ".join(n or "?" for n in names)
    raise ModelError(
        f"model {spec.name!r} needs bands {', '.join(spec.bands)}; {scene_name(scene)} has {have}: "
        "choose and order them with --bidx, or give one file a band (--vv, --vh)"
    )


def _band_names(scene: xr.DataArray) -> list[str]:
    """Return the bands' names: their coordinate, or where it only counts, what rioxarray calls ``long_name``."""
    first, count = scene.dims[0], scene.shape[0]
    names = [str(n) for n in scene[first].values] if first in scene.coords else [""] * count
    labels = scene.attrs.get("long_name") or ()
    labels = [labels] if isinstance(labels, str) else list(labels)
    if not nameless(names) or count < 2 or len(labels) < count:
        return [polarisation_in(name) or name for name in names]
    numbers = [re.sub(r"\D", "", name) for name in names]  # of a file's bands: xarray picks these, and not their labels
    at = [int(number) - 1 for number in numbers] if all(numbers) else list(range(count))
    if at != list(range(count)) and not all(0 <= i < len(labels) for i in at):
        return names
    return [polarisation_in(str(labels[i])) or str(labels[i]) for i in at]


def scene_units(scene: xr.DataArray) -> str:
    """Return the unit that a scene says its values are in; raise UnitsError if it says none that is known."""
    given = scene.attrs.get("units", "")
    alike = set(given) if isinstance(given, tuple | list) else {given}  # rioxarray: one for each band
    said = str(alike.pop() if len(alike) == 1 else given)
    unit = units.named_unit(said)
    if unit is None:
        raise UnitsError(
            f"the scene does not say what its values are (attrs['units'] is {said!r}): "
            f"set it to one of {', '.join(units.SCALES.values())}, or give scale="
        )
    return unit


def scene_name(scene: xr.DataArray) -> str:
    """Return what to call the scene in a message: its file, if it says so."""
    source = scene.attrs.get("source", [])
    return str(source) if isinstance(source, str) else ", ".join(map(str, source)) or "the scene"


def scene_origin(scene: xr.DataArray) -> dict[str, Any]:
    """Return what a map says of the scene it is made from, without where it lay: names of files, and when it was taken.

    Of an address no query is kept, which may hold a key.
    """
    given = scene.attrs.get("source", [])
    paths = [str(path) for path in ([given] if isinstance(given, str) else given)]
    names = [re.split(r"[?#]", path)[0].rstrip("/").rpartition("/")[2] for path in paths if not path.startswith("<")]
    shown = ["".join(c for c in name if c.isprintable()) for name in names]
    origin = {"source": list(dict.fromkeys(filter(None, shown))), "acquired": _acquired(scene)}
    return {name: value for name, value in origin.items() if value}


def _acquired(scene: xr.DataArray) -> Any:
    """Return when a scene was taken: at its one ``time``, which tells scenes of a stack apart, or as it says itself."""
    time = scene.coords.get("time")
    if time is None or time.ndim or time.dtype.kind != "M" or np.isnat(time.values):
        return scene.attrs.get("acquired", "")
    said = np.datetime_as_string(time.values, "s")
    return said.removesuffix("T00:00:00") if said.endswith("T00:00:00") else f"{said}Z"


def looked_at(scene: xr.DataArray) -> bool:
    """Return whether ``open_scene`` has looked already at what these values can be, in the units that they now say."""
    return as_opened(scene) and scene.attrs["judged_in"] == scene_units(scene)


def used_names(model: Model, bands: Sequence[int | None]) -> list[str]:
    """Return what a model takes the bands used for, in their order."""
    return [name for name, index in zip(model.spec.bands, bands, strict=True) if index is not None]


def scene_windows(scene: xr.DataArray, bands: Sequence[int | None]) -> list[Any]:
    """Return the (lazy) windows of the bands used that fill is looked for in."""
    used = [index for index in bands if index is not None]
    return [scene.data[used][:, rows, columns] for rows, columns in first_windows((scene.shape[1], scene.shape[2]))]


def scene_validity(
    windows: Sequence[np.ndarray], unit: str, nodata: float | None, name: str, bands: Sequence[str]
) -> Validity:
    """Fix which values of a scene can be measurements, from some windows of the bands used.

    ``bands`` : what a model takes them for, VV, VH or others.

    Raises
    ------
    UnitsError : most of them cannot, or all together they cannot be in ``unit`` (``units.plausible``).
    """
    measured = [without_nodata(window, nodata) for window in windows]
    try:
        validity = judge(measured, unit)
        left = np.concatenate([validity.blank(window).reshape(len(window), -1) for window in measured], axis=1)
        known = [values[np.isfinite(values)] for values in left]
        units.check_plausible(unit, np.concatenate(known), str(windows[0].dtype))
        doubt = doubtful([validity.blank(window) for window in measured], bands, unit)
        notes = filter(None, (*validity.notes, doubt))
        return replace(validity, notes=tuple(notes), unlike=doubt)
    except UnitsError as error:
        raise UnitsError(f"{name}: {error}") from None


def without_nodata(values: np.ndarray, nodata: float | None) -> np.ndarray:
    """Return values as float32, NaN where they are ``nodata``, infinite or NaN."""
    out = np.asarray(values).astype(np.float32)
    out[~np.isfinite(out)] = np.nan
    if nodata is not None and not np.isnan(nodata):
        out[np.asarray(values) == nodata] = np.nan
    return out


def bounds_roi(geobox: GeoBox, shape: tuple[int, int], bounds: tuple[float, float, float, float]) -> Roi:
    """Return the pixels of a scene inside (left, bottom, right, top) in its CRS.

    Raises
    ------
    InputError : there are none, or the bounds are reversed or not finite.
    """
    left, bottom, right, top = bounds
    if not np.isfinite(bounds).all():
        raise InputError(f"bounds {bounds} are not four finite numbers")
    if left > right or bottom > top:
        raise InputError(f"bounds {bounds} are reversed: give left, bottom, right and top, in this order")
    corners = [apply(~geobox.affine, x, y) for x in (left, right) for y in (bottom, top)]
    columns, rows = np.clip(np.transpose(corners), -1, np.array([shape[1], shape[0]])[:, None] + 1)  # NaN stays NaN
    if np.isnan([columns, rows]).any():
        raise InputError(f"bounds {bounds} are no numbers for the scene's CRS")
    roi = Roi(
        max(int(np.floor(min(rows) + 1e-6)), 0),
        min(int(np.ceil(max(rows) - 1e-6)), shape[0]),
        max(int(np.floor(min(columns) + 1e-6)), 0),
        min(int(np.ceil(max(columns) - 1e-6)), shape[1]),
    )
    if roi.empty:
        raise InputError(f"bounds {bounds} do not meet the scene, whose bounds are {tuple(geobox.boundingbox)}")
    return roi
