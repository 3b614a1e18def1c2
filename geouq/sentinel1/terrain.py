"""Heights of the ground: an elevation model as the surface that a radar image lies on.

The geometry wants heights above the WGS 84 ellipsoid, while most elevation models hold heights above the geoid,
which lies up to 107 m below and 85 m above it: 10 to 17 pixels in the image. Where PROJ has the grid of the geoid
that the model's CRS names (``us_nga_egm96_15.tif``, ``us_nga_egm08_25.tif``; ``projsync`` or ``pyproj sync`` fetch
them), heights are converted; where not, they are taken as they are, and the notes say so.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from affine import Affine
from pyproj import CRS, Transformer
from pyproj.crs import CompoundCRS
from pyproj.exceptions import CRSError, ProjError
from pyproj.transformer import TransformerGroup

from geouq.errors import SceneError
from geouq.grid import apply, degrees_per_unit, wrap
from geouq.rasters.geocode import unwrap
from geouq.rasters.raster import Raster, inspect_raster, read_window
from geouq.rasters.resample import interpolate
from geouq.sentinel1.geolocation import Spread, at_height

#: Heights on land, m, and above drainage.
_HEIGHTS = (-500.0, 9000.0)
_GEOID = "EPSG:3855"


@dataclass(frozen=True, eq=False)
class Field:
    """A raster of heights on the ground, read at any points.

    ``crs`` is the raster's CRS without its vertical part. A value that can be no height, such as nodata that the file
    does not declare, counts as missing.
    """

    raster: Raster
    crs: CRS

    @property
    def shape(self) -> tuple[int, int, int]:
        """(1, rows, columns)."""
        return 1, *self.raster.shape

    def read(self, bands: slice, rows: slice, columns: slice) -> np.ndarray:
        """Read a window."""
        values = read_window(self.raster, self.raster.bands[:1], rows, columns)
        values[(values < _HEIGHTS[0]) | (values > _HEIGHTS[1])] = np.nan
        return values

    def at(self, degrees: np.ndarray, spread: Spread) -> np.ndarray:
        """Return values, interpolated bilinearly, float32, NaN where there are none.

        Parameters
        ----------
        degrees : (2, …) longitude and latitude of lattice points. spread : interpolates from these to the points.
        """
        assert self.raster.transform is not None
        x, y = Transformer.from_crs(4326, self.crs, always_xy=True).transform(*degrees)
        if self.crs.is_geographic:
            # Turned into the raster's own round of longitudes, wherever that starts, without a cut inside.
            unit = degrees_per_unit(self.crs)
            middle = apply(Affine(*self.raster.transform), self.raster.shape[1] / 2, self.raster.shape[0] / 2)[0] * unit
            x = unwrap(wrap(x * unit - middle) + middle) / unit
        column, row = apply(~Affine(*self.raster.transform), x, y)
        return np.asarray(interpolate(self, slice(0, 1), spread(np.stack([row, column])) - 0.5)[0])


@dataclass(frozen=True, eq=False)
class Elevation:
    """An elevation model as a surface; ``geoid`` takes (longitude, latitude, height) to heights above the ellipsoid."""

    field: Field
    geoid: Transformer | None
    note: str

    levels = np.array([0.0, 3500.0, 8500.0])

    def heights(self, degrees: np.ndarray, spread: Spread) -> np.ndarray:
        """Heights above the ellipsoid in m, float64, NaN where unknown; see ``Field.at``."""
        values = self.field.at(degrees, spread).astype(np.float64)
        if self.geoid is not None:
            longitude, latitude = degrees
            undulation = self.geoid.transform(longitude, latitude, np.zeros_like(latitude))[2]
            values += spread(np.where(np.isfinite(undulation), undulation, np.nan))
        return values

    def locate(self, nodes: np.ndarray, degrees: np.ndarray, spread: Spread) -> np.ndarray:
        """Return line and pixel (2, …) of points of the surface; NaN where its height is unknown.

        Parameters
        ----------
        nodes : (3, 2, …) line and pixel of lattice points at ``levels``. degrees, spread : see ``Field.at``.
        """
        return at_height(spread(nodes), self.levels, self.heights(degrees, spread))


def open_field(path: str, what: str) -> Field:
    """Open a raster of heights; ``what`` it is, for errors.

    Raises
    ------
    SceneError : it cannot be read, or does not say where it lies.
    """
    raster = inspect_raster(path)
    if raster.transform is None or not raster.crs:
        raise SceneError(f"{path}: has no {'transform' if raster.crs else 'CRS'}: give {what} that is georeferenced")
    if len(raster.bands) > 1:
        raise SceneError(f"{path}: has {len(raster.bands)} bands: give {what}, which has one")
    crs = CRS.from_user_input(raster.crs)
    flat = crs.sub_crs_list[0] if crs.is_compound else crs.to_2d()
    if not (flat.is_geographic or flat.is_projected):
        raise SceneError(f"{path}: its CRS is neither geographic nor projected: warp it first")
    return Field(raster, flat)


def open_elevation(path: str) -> Elevation:
    """Open an elevation model, and settle what its heights are above.

    Raises
    ------
    SceneError : it cannot be read, or does not say where it lies.
    """
    field = open_field(path, "an elevation model")
    crs = CRS.from_user_input(field.raster.crs)
    if len(crs.axis_info) == 3 and not crs.is_compound:
        return Elevation(field, None, f"terrain corrected with {path}, whose heights are above the ellipsoid")
    vertical = crs.sub_crs_list[1] if crs.is_compound else CRS.from_user_input(_GEOID)
    said = vertical.name if crs.is_compound else f"{vertical.name} (assumed: its CRS does not say)"
    geoid = _geoid(vertical)
    if geoid is None:
        return Elevation(
            field,
            None,
            f"terrain corrected with {path}, whose heights are {said}: PROJ lacks the geoid's grid here, so they "
            "are taken as above the ellipsoid, which moves all by the geoid's height, up to 17 pixels "
            "(fetch the grid with projsync, or give heights above the ellipsoid)",
        )
    return Elevation(field, geoid, f"terrain corrected with {path}, heights converted from {said}")


def _geoid(vertical: CRS) -> Transformer | None:
    """From heights of a vertical CRS to heights above the ellipsoid, if PROJ here can do that in earnest."""
    try:
        source = CompoundCRS("WGS 84 and heights", [CRS.from_epsg(4326), vertical])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of the grid that is missing: the note says it
            group = TransformerGroup(source, 4979, always_xy=True)
    except (CRSError, ProjError):
        return None
    if not group.transformers or not group.best_available or "ballpark" in group.transformers[0].description:
        return None
    return group.transformers[0]
