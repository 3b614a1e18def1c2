"""What layers say of themselves, so that ``to_netcdf`` and ``to_zarr`` leave files that GDAL, QGIS and xarray know.

CF conventions 1.11 (https://cfconventions.org): what a value means (3.3 long_name, 3.5 flags), which is none (2.5.1
_FillValue), and where it lies (4 coordinates, 5.6 grid mapping). What belongs to a file rather than to the array
(_FillValue, grid_mapping) is in ``encoding``, where rioxarray and odc-geo keep it and xarray's writers look for it.
Of whole numbers it is ``missing_value`` there: a _FillValue in the encoding of an array says to rioxarray that it is
decoded, so that NaN stands where it says nothing, which no whole number is; and in ``attrs`` it would stand in the way
of ``to_zarr(append_dim=…)``. The attribute ``nodata`` tells rioxarray and odc-geo.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from pyproj import CRS

from geouq.grid import GeoBox, Roi, geobox_roi
from geouq.layers import Layer, Legend
from geouq.rasters.coords import grid_coords

CONVENTIONS = {"Conventions": "CF-1.11"}


def layer_attrs(layer: Layer, legend: Legend) -> dict[str, Any]:
    """Return what a layer's array says of itself, given what a mask's values mean."""
    return layer.attrs(legend) | ({"nodata": layer.fill} if isinstance(layer.fill, np.integer) else {})


def layer_encoding(layer: Layer, mapping: str) -> dict[str, Any]:
    """Return what a file must hold beside a layer's attributes."""
    none = "missing_value" if isinstance(layer.fill, np.integer) else "_FillValue"
    return {"grid_mapping": mapping} | ({} if layer.fill is None else {none: layer.fill})


def map_coords(scene: xr.DataArray, geobox: GeoBox, region: Roi) -> tuple[dict[Any, Any], str]:
    """Return the coordinates of a map of part of a scene, and which of them is its grid mapping.

    scene : (…, band, y, x) on ``geobox``. region : the part, in the scene's pixels.

    All coordinates but the bands' are the scene's own; the grid mapping is that of the part.
    """
    part = scene.isel(dict(zip(scene.dims[-2:], region.slices, strict=True)))
    coords: dict[Any, Any] = {name: c for name, c in part.coords.items() if scene.dims[-3] not in c.dims}
    mapping, part_grid = grid_mapping(scene), geobox_roi(geobox, region)
    own = cf_coords(part_grid)
    coords[mapping] = own["spatial_ref"]
    for dim, axis in zip(scene.dims[-2:], "yx", strict=True):
        # of a rotated grid pixel numbers, which count from the part's first pixel
        values = own[axis] if _rotated(geobox) or dim not in coords else coords[dim]
        coords[dim] = _coordinate(dim, values, _axes(part_grid).get(axis, {}))
    return coords, mapping


def grid_mapping(scene: xr.DataArray) -> str:
    """Return the name of the coordinate that holds a scene's CRS, or where there is none the usual one."""
    named = scene.encoding.get("grid_mapping", scene.attrs.get("grid_mapping"))
    known = [str(name) for name, c in scene.coords.items() if {"spatial_ref", "crs_wkt", "GeoTransform"} & set(c.attrs)]
    return str(named) if named in scene.coords else next(iter(known), "spatial_ref")


def cf_coords(geobox: GeoBox) -> dict[Any, xr.DataArray]:
    """Return ``y``, ``x`` and ``spatial_ref`` of a grid, as a file must hold them."""
    own = grid_coords(geobox)
    return own | {axis: _coordinate(axis, own[axis], _axes(geobox).get(axis, {})) for axis in "yx"}


def _coordinate(dim: Any, values: xr.DataArray, attrs: dict[str, Any]) -> xr.DataArray:
    coordinate = xr.DataArray(values.values, dims=(dim,), attrs=values.attrs | attrs)
    coordinate.encoding = {"_FillValue": None}
    return coordinate


def _axes(geobox: GeoBox) -> dict[str, dict[str, Any]]:
    """Return the CF attributes of "x" and "y"; none where these are not axes of a CRS."""
    if geobox.crs is None or _rotated(geobox):
        return {}
    found = {axis.get("axis", "").lower(): axis for axis in CRS.from_user_input(str(geobox.crs)).cs_to_cf()}
    return {axis: dict(attrs) for axis, attrs in found.items() if axis in ("x", "y")}


def _rotated(geobox: GeoBox) -> bool:
    return bool(geobox.affine.b != 0 or geobox.affine.d != 0)
