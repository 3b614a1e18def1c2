"""Grids of DataArrays: written into coordinates, and read from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from affine import Affine, AffineError
from odc.geo.xr import xr_coords

from geouq.errors import SceneError
from geouq.grid import GeoBox, apply, refuse_geocentric


def grid_coords(geobox: GeoBox, name: str = "the scene") -> dict[Any, xr.DataArray]:
    """Return the coordinates ``y``, ``x`` and ``spatial_ref`` by which odc-geo and rioxarray know the grid of ``name``.

    Unrotated grids have pixel centres in ``y`` and ``x``; rotated ones have pixel numbers there. Without a CRS,
    ``spatial_ref`` holds the transform alone.

    Raises
    ------
    SceneError : the CRS is not complete.
    """
    try:
        coords = dict(xr_coords(geobox, always_yx=True))
    except KeyError as error:
        raise SceneError(
            f"{name}: its CRS {geobox.crs.proj.name} lacks the parameter {error}: give it the right one first "  # type: ignore[union-attr]
            "(gdal_edit.py -a_srs)"
        ) from error
    if "spatial_ref" not in coords:
        transform = " ".join(repr(float(value)) for value in geobox.affine.to_gdal())
        coords["spatial_ref"] = xr.DataArray(np.int32(0), attrs={"GeoTransform": transform})
    return coords


def scene_geobox(scene: xr.DataArray) -> GeoBox:
    """Return the grid of a DataArray: as odc-geo or rioxarray wrote it, or from regular x and y coordinates.

    Raises
    ------
    SceneError : if it has none, or one that is not a single affine.
    """
    if "spatial_ref" in scene.coords and not {"spatial_ref", "crs_wkt"} & set(scene.coords["spatial_ref"].attrs):
        scene = scene.copy(deep=False)  # odc-geo looks at a transform without CRS only if it is named
        scene.encoding = {**scene.encoding, "grid_mapping": "spatial_ref"}
    try:
        geobox = scene.odc.geobox
        order = scene.odc.spatial_dims
    except (ValueError, KeyError, AttributeError, AffineError):
        geobox = order = None
    if order is not None and order != scene.dims[-2:]:
        raise SceneError(
            f"the scene's dimensions come as {', '.join(map(str, scene.dims))}: rows and columns must be the last two: "
            f"give scene.transpose(..., {', '.join(repr(str(dim)) for dim in order)})"
        )
    if not isinstance(geobox, GeoBox) or not _evenly_spaced(scene):
        raise SceneError(
            "the scene has no grid: give it regular x and y coordinates and a CRS "
            "(scene.odc.assign_crs or scene.rio.write_crs), or read it with open_scene"
        )
    _check_mapping(scene, geobox)
    placed = set(scene.dims[-2:]) <= set(scene.coords)
    if not placed:
        geobox = _placed_pixel_by_pixel(scene, geobox)
    if geobox.crs is not None:
        refuse_geocentric(geobox.crs.proj, "the scene")
    if placed and 1 in geobox.shape:
        geobox = _one_pixel_wide(scene, geobox)
    if geobox.crs is not None and geobox.crs.epsg and geobox.crs == f"EPSG:{geobox.crs.epsg}":
        return GeoBox(geobox.shape, geobox.affine, f"EPSG:{geobox.crs.epsg}")
    return geobox


def _check_mapping(scene: xr.DataArray, geobox: GeoBox) -> None:
    """Raise SceneError for a scene whose CRS has been left behind in the file."""
    named = scene.attrs.get("grid_mapping", scene.encoding.get("grid_mapping"))
    if geobox.crs is None and named is not None and named not in scene.coords:
        raise SceneError(
            f"the scene names a coordinate {named!r} for its CRS, and has it not: open it with decode_coords='all', "
            "or give it a CRS (scene.odc.assign_crs or scene.rio.write_crs)"
        )


def _evenly_spaced(scene: xr.DataArray) -> bool:
    """True unless a coordinate of the last two dimensions strays from even steps by a tenth of one."""
    for dim in scene.dims[-2:]:
        values = np.asarray(scene[dim], float)
        even = np.linspace(values[0], values[-1], len(values))
        if len(values) > 2 and not np.abs(values - even).max() <= abs(even[1] - even[0]) / 10:
            return False
    return True


def _placed_pixel_by_pixel(scene: xr.DataArray, geobox: GeoBox) -> GeoBox:
    """Return the grid of a scene without coordinates of rows and columns: it may be a part of that of its transform.

    rioxarray gives rotated rasters the centre of every pixel instead, ``xc`` and ``yc``.
    """
    dims = scene.dims[-2:]
    centres = [scene.coords[name].transpose(*dims).values for name in ("xc", "yc") if name in scene.coords]
    if len(centres) < 2:
        raise SceneError(
            f"the scene has no coordinates {' and '.join(map(str, dims))}, so nothing tells which part of its "
            "transform's grid it is: read it with them, or with open_scene"
        )
    corners = np.array([0, 0, -1, -1]), np.array([0, -1, 0, -1])
    column, row = apply(~geobox.affine, *(centre[corners] for centre in centres))
    x, y = round(column[0] - 0.5), round(row[0] - 0.5)
    rows, columns = (np.arange(size)[corner] for size, corner in zip(geobox.shape, corners, strict=True))
    if max(np.abs(column - 0.5 - x - columns).max(), np.abs(row - 0.5 - y - rows).max()) > 0.1:
        raise SceneError("the scene's pixels are not those of its transform: read it with open_scene, and thin it then")
    return GeoBox(geobox.shape, geobox.affine * Affine.translation(x, y), geobox.crs)


def _one_pixel_wide(scene: xr.DataArray, geobox: GeoBox) -> GeoBox:
    """Grid of a rotated scene one pixel high or wide, which odc-geo cannot get from its coordinates."""
    written = [c.attrs["GeoTransform"] for c in scene.coords.values() if c.ndim == 0 and "GeoTransform" in c.attrs]
    if not written:
        return geobox
    transform = Affine.from_gdal(*map(float, written[0].split()))
    if transform.b == 0 and transform.d == 0:
        place = apply(~transform, *(float(scene.coords[dim][0]) for dim in scene.dims[:-3:-1]))  # column, row
        off = [at % 1 - 0.5 for at, size in zip(place, geobox.shape[::-1], strict=True) if size == 1]
        if np.abs(off).max() > 0.1:
            raise SceneError(
                "the scene is one pixel high or wide, and lies between those of its transform, so nothing tells how "
                "large that pixel is: write the transform that it has (scene.rio.write_transform)"
            )
        return geobox
    row, column = (float(scene.coords[dim][0]) - 0.5 for dim in scene.dims[-2:])
    x, y = apply(transform, column, row)
    return GeoBox(geobox.shape, Affine(transform.a, transform.b, x, transform.d, transform.e, y), geobox.crs)
