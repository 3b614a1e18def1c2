"""Whatever xarray hands over, as a scene: dimensions by name, bands as variables or along a dimension, any others.

``odc.stac.load`` and rioxarray's ``band_as_variable`` give a Dataset with a variable a band, stores and netCDF files
give values that are read when they are looked at, and people transpose what they have. None of that changes what a
scene is.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from odc.geo.xr import spatial_dims

from geouq.errors import InputError, SceneError
from geouq.scenes.bands import nameless, polarisation_in
from geouq.scenes.scene import opened
from geouq.units import SCALES, SYNONYMS, named_unit

#: names of the dimensions of rows and columns, in small letters
_PLACES = (
    ("y", "x"),
    ("yc", "xc"),
    ("latitude", "longitude"),
    ("lat", "lon"),
    ("northing", "easting"),
    ("row", "column"),
    ("row", "col"),
)
#: names of the dimension of bands
_BANDS = ("band", "bands", "variable", "channel", "pol", "polarization", "polarisation")
#: pixels a side of the pieces in which is read what xarray reads when it is looked at
_PIECE = 1024
_NODATA = ("_FillValue", "nodata", "missing_value")
_KEPT = (*_NODATA, "grid_mapping")


def scene_array(given: xr.DataArray | xr.Dataset, scale: str = "auto") -> xr.DataArray:
    """Return what xarray hands over as an array whose dimensions are any others, bands, rows, columns, in this order.

    Names stay as they are, and nothing that is lazy is read.

    Parameters
    ----------
    given : a DataArray with rows and columns, bands or not (then it is one), and any other dimensions. Or a Dataset:
        of its variables those named by polarisation (``vv``, ``Sigma0_VV``) are the bands, or else all that have
        rows and columns.
    scale : unit of the values (``units.SCALES``, ``units.SYNONYMS``), in place of what ``given`` says; or auto.

    Raises
    ------
    SceneError : rows and columns, or the dimension of bands, cannot be told; or one has no entry.
    InputError : no such scale.
    """
    if not isinstance(given, xr.DataArray | xr.Dataset):
        raise SceneError(f"the scene is a {type(given).__name__}: a DataArray or a Dataset is needed")
    place = _place(given)
    opened = _lazily(given, place)
    scene: xr.DataArray = _of_variables(opened, place) if isinstance(opened, xr.Dataset) else opened
    others = [dim for dim in scene.dims if dim not in place]
    band = _band_dim(scene, others)
    if band is None:
        name = scene.coords["band"].item() if "band" in scene.coords else _label(str(scene.name or ""), scene.attrs)
        scene, band = scene.drop_vars("band", errors="ignore").expand_dims(band=[str(name)]), "band"
    scene = scene.transpose(*(dim for dim in others if dim != band), band, *place)
    if 0 in scene.shape:
        raise SceneError(f"the scene is empty: its shape is {scene.shape}")
    if scale == "auto":
        return scene
    unit = named_unit(scale)
    if unit is None:
        raise InputError(f"scale {scale!r} is none of auto, {', '.join((*SCALES, *SYNONYMS))}")
    return scene.assign_attrs(units=unit)


def as_opened(scene: xr.DataArray) -> bool:
    """True unless a scene (band, y, x) was changed since it was opened: xarray hands attributes on, come what may."""
    bands = scene.coords.get(scene.dims[0])
    return bands is not None and scene.attrs.get("opened") == opened(bands.values, scene.data)


def _place(given: xr.DataArray | xr.Dataset) -> tuple[Hashable, Hashable]:
    """Return the dimensions of rows and columns: by their names, or the last two of an array with coordinates."""
    small = {str(dim).lower(): dim for dim in given.dims}
    for rows, columns in _PLACES:
        if rows in small and columns in small:
            return small[rows], small[columns]
    arrays = [given] if isinstance(given, xr.DataArray) else list(given.data_vars.values())
    found = next((dims for array in arrays if (dims := spatial_dims(array, relaxed=True))), None)
    if found is None:
        raise SceneError(
            f"the scene has dimensions {_listed(given.dims)}, none of which are known to be rows and columns: "
            "rename them to y and x"
        )
    return found


def _lazily(given: Any, place: Sequence[Hashable]) -> Any:
    """Return ``given``; if xarray has not read it yet, as dask arrays, because it would be read whole when touched."""
    variables = given.data_vars.values() if isinstance(given, xr.Dataset) else [given]
    in_memory = all(array.chunks is not None or array.variable._in_memory for array in variables)
    return given if in_memory else given.chunk({dim: _PIECE if dim in place else 1 for dim in given.dims})


def _band_dim(scene: xr.DataArray, others: Sequence[Hashable]) -> Hashable | None:
    """Return which of the dimensions beside rows and columns is that of the bands; None if there is one band only."""
    for dim in others:
        if str(dim).lower() in _BANDS:
            return dim
    labelled = [dim for dim in others if dim in scene.coords and scene[dim].dtype.kind in "UO"]
    named = [dim for dim in labelled if all(polarisation_in(str(label)) for label in scene[dim].values)]
    plain = [dim for dim in others if dim not in scene.coords or scene[dim].dtype.kind not in "mM"]
    likely = named or [dim for dim in plain if not re.search("time|date|orbit", str(dim), re.IGNORECASE)]
    if len(likely) > 1:
        raise SceneError(
            f"the scene has dimensions {_listed(scene.dims)}: which are the bands? rename that one to 'band'"
        )
    return likely[0] if likely else None


# --- a variable a band -----------------------------------------------------------------------------------


def _of_variables(data: xr.Dataset, place: Sequence[Hashable]) -> xr.DataArray:
    """Return the bands of a Dataset as one array; a variable that has bands itself as it is."""
    found = {
        str(name): array
        for name, array in data.data_vars.items()
        if set(place) <= set(array.dims) and array.dtype.kind in "iuf"
    }
    data = data.set_coords([name for array in found.values() if (name := _mapping(array)) in data.data_vars])
    whole = [name for name, array in found.items() if any(str(dim).lower() in _BANDS for dim in array.dims)]
    if len(whole) == 1 or len(found) == 1:
        return data[(whole or list(found))[0]]
    if not found or whole:
        raise SceneError(
            f"the scene is a Dataset of {_listed(data.data_vars)}: give the variables that are its bands, "
            "such as scene[['vv', 'vh']]"
        )
    polarised = [name for name, array in found.items() if polarisation_in(_label(name, array.attrs))]
    return _joined({name: data[name] for name in polarised or found})


def _joined(bands: Mapping[str, xr.DataArray]) -> xr.DataArray:
    """Return bands as one array with what all of them say; NaN where they hold their nodata, if these differ."""
    arrays = {name: array.drop_vars("band", errors="ignore") for name, array in bands.items()}
    if len({str(declared_nodata(array)) for array in arrays.values()}) > 1:
        arrays = {name: _without_nodata(array) for name, array in arrays.items()}
    labels = [_label(name, array.attrs) for name, array in arrays.items()]
    joined = xr.Dataset(arrays).to_array("band")
    joined.attrs = _alike(*(array.attrs for array in arrays.values()))
    for key in ("units", "scale_factor", "add_offset"):  # what they say otherwise is to be seen, and refused
        if key not in joined.attrs and any(key in array.attrs for array in arrays.values()):
            joined.attrs[key] = [array.attrs.get(key) for array in arrays.values()]
    joined.encoding = _alike(*({k: array.encoding.get(k) for k in _KEPT} for array in arrays.values()))
    return joined if len(set(labels)) < len(labels) else joined.assign_coords(band=labels)


def _label(name: str, attrs: Mapping[str, Any]) -> str:
    """Return what a band is called: of one that is only numbered, what its file says of it."""
    said = attrs.get("long_name", "")
    return said if isinstance(said, str) and said and nameless([name]) else name


def _alike(first: Mapping[str, Any], *rest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what all say alike."""
    return {
        key: value
        for key, value in first.items()
        if value is not None and all(key in other and np.array_equal(other[key], value) for other in rest)
    }


def declared_nodata(array: xr.DataArray) -> float | None:
    """Return the value that is not valid. What a reader has decoded to floats holds NaN there already.

    Raises
    ------
    SceneError : it is no number, nor the same one for each band.
    """
    holders = (array.attrs, array.encoding if array.dtype.kind in "iu" else {})
    found = next(((key, holder[key]) for holder in holders for key in _NODATA if holder.get(key) is not None), None)
    if found is None:
        return None
    try:
        (value,) = np.unique(np.asarray(found[1], float))
    except (TypeError, ValueError):
        raise SceneError(f"the scene's {found[0]} is {found[1]!r}: one number is needed there, or none") from None
    return float(value)


def _without_nodata(array: xr.DataArray) -> xr.DataArray:
    value = declared_nodata(array)
    valid = array if value is None or np.isnan(value) else array.where(array != value)
    return valid.assign_attrs({key: told for key, told in array.attrs.items() if key not in _NODATA})


def _mapping(array: xr.DataArray) -> Any:
    """Return the name of the variable that holds an array's CRS, if it says one."""
    return array.encoding.get("grid_mapping", array.attrs.get("grid_mapping"))


def _listed(names: Iterable[Hashable]) -> str:
    return ", ".join(map(str, names)) or "none"
