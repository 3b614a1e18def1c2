"""The grid of a map: the scene's own, in a CRS that a GeoTIFF can keep and areas can be measured in."""

from __future__ import annotations

import warnings

import numpy as np
import rasterio
import rasterio.crs
from pyproj import CRS
from pyproj.exceptions import ProjError
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError

from geouq.errors import SceneError
from geouq.grid import GeoBox, Roi, pixel_areas, same_places


def grid_of_map(geobox: GeoBox, scene: str) -> GeoBox:
    """Return the grid that the map of a scene has: the horizontal part of a CRS with heights, any other as it is.

    Tried before the first tile, by writing the CRS into a small file: what GDAL cannot keep it leaves out silently.

    Raises
    ------
    SceneError : a GeoTIFF cannot keep the CRS, or PROJ cannot use it.
    """
    if geobox.crs is None:
        return geobox
    try:
        crs = CRS.from_user_input(str(geobox.crs))
        flat = _horizontal(crs)
        grid = geobox if flat is crs else GeoBox(geobox.shape, geobox.affine, flat.to_wkt())
        kept = _kept(grid)
        pixel_areas(grid, Roi(0, 1, 0, 1))
        same = same_places(grid, kept)
    except (ProjError, CRSError, RasterioError, rasterio._err.CPLE_BaseError) as error:
        reason = " ".join(str(error).split())
        raise SceneError(
            f"{scene}: its CRS cannot be used ({reason[:200]}): check where PROJ looks for its data (PROJ_DATA, "
            "PROJ_LIB), or warp the scene to another CRS"
        ) from error
    if not same:
        raise SceneError(
            f"{scene}: no GeoTIFF can keep its CRS ({flat.name}): warp it to another one (gdalwarp -t_srs)"
        )
    return grid


def _horizontal(crs: CRS) -> CRS:
    """Return the part of a CRS that places things on a map; the very same if it has no other."""
    if crs.is_compound:
        return _horizontal(crs.sub_crs_list[0])
    return crs.to_2d() if len(crs.axis_info) > 2 else crs


def _kept(grid: GeoBox) -> CRS | None:
    """Return the CRS that a GeoTIFF of this grid comes back with."""
    shape = {"width": 1, "height": 1, "count": 1, "dtype": "uint8"}
    # GDAL keeps in a file beside, which a map has not, what the GeoTIFF itself cannot
    with rasterio.Env(GDAL_PAM_ENABLED="NO"), rasterio.MemoryFile() as memory, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open(driver="GTiff", crs=str(grid.crs), transform=grid.affine, **shape) as file:
            file.write(np.zeros((1, 1, 1), np.uint8))
        with memory.open() as file:
            return CRS.from_wkt(file.crs.to_wkt()) if file.crs else None
