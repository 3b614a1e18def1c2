"""Radar images onto a map grid, lazily: each window of the map finds its own pixels of the image.

For a window, line and pixel are computed on every 16th map pixel for three heights, and interpolated between: the
geometry is that smooth (``rangedoppler``), while heights are taken at every pixel, from the product's geolocation
grid (``geolocation``) or from a DEM (``terrain``). What is interpolated is linear power, bilinearly between the four
image pixels around: speckle keeps its mean, and positions are better than half a pixel. Pixels that were not
measured weigh nothing, and where the nearest one was not measured the result is not valid either, so that nodata
neither bleeds into the image nor the image into nodata. On a grid coarser than the image each map pixel is the mean
of as many samples as image pixels fit in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Protocol

import numpy as np
from affine import Affine
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError

from geouq.errors import InputError
from geouq.grid import GeoBox
from geouq.scenes.annotation import Annotation
from geouq.scenes.geocode import STEP, lattice_nodes, spread, suited_map, unwrap
from geouq.scenes.geolocation import GridSurface, expected_error, grid_surface
from geouq.scenes.rangedoppler import RangeDoppler, range_doppler
from geouq.scenes.windowed import Windowed

#: The grid reaches this many pixels beyond the geolocation grid's outline, which is straight between its points.
MARGIN = 8
#: power of valid pixels that average to exactly 0 (noise was subtracted): 0 would read as not measured
_NOTHING = np.finfo(np.float32).tiny


class Image(Protocol):
    """An image in radar geometry: linear power, NaN where not measured."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(bands, lines, pixels)."""

    def read(self, bands: slice, rows: slice, columns: slice) -> np.ndarray:
        """Read a window, float32."""


@dataclass(frozen=True, eq=False)
class GeocodedProduct(Windowed):
    """A radar image warped onto the grid ``geobox``: (band, y, x) float32 linear power, NaN where not valid.

    ``notes`` say in one line each how it was placed and what to expect of that.
    """

    image: Image
    geobox: GeoBox
    geometry: RangeDoppler
    surface: GridSurface
    samples: int
    notes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(bands, rows, columns) of the map grid."""
        rows, columns = self.geobox.shape
        return self.image.shape[0], rows, columns

    @property
    def block(self) -> tuple[int, int]:
        """The lattice on which the geometry is evaluated."""
        return STEP, STEP

    def read(self, bands: slice, rows: slice, columns: slice) -> np.ndarray:
        """Read a window of the map grid; slices without step, within the shape."""
        if self.samples == 1:
            return sample(self.image, bands, self.locate(rows, columns))
        fine = replace(self, geobox=self.geobox.zoom_out(1 / self.samples), samples=1)
        values = fine.read(bands, *(slice(s.start * self.samples, s.stop * self.samples) for s in (rows, columns)))
        return mean_of_blocks(values, self.samples)

    def locate(self, rows: slice, columns: slice) -> np.ndarray:
        """Line and pixel of the map pixels' centres in a window, (2, rows, columns) float64; NaN if nowhere."""
        longitude, latitude = _degrees(self.geobox, rows, columns)
        levels = self.surface.levels
        nodes = np.stack([self.geometry.image(longitude, latitude, np.full_like(latitude, h)) for h in levels])
        return self.surface.place(nodes, partial(spread, rows=rows, columns=columns))


def _degrees(geobox: GeoBox, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
    """Longitude and latitude of a window's lattice nodes."""
    longitude, latitude = _to_degrees(str(geobox.crs)).transform(*lattice_nodes(geobox, rows, columns))
    return longitude, latitude


@cache
def _to_degrees(crs: str) -> Transformer:
    return Transformer.from_crs(crs, 4326, always_xy=True)


def sample(image: Image, bands: slice, where: np.ndarray) -> np.ndarray:
    """Interpolate an image bilinearly at positions ``where`` (2, h, w): lines and pixels, integers at pixel centres.

    Returns
    -------
    (bands, h, w) float32. Of the four pixels around a position those that are not valid weigh nothing; the result
    is NaN where the nearest one is not valid, or lies outside the image.
    """
    count, lines, pixels = image.shape
    inside = (where[0] >= -0.5) & (where[0] < lines - 0.5) & (where[1] >= -0.5) & (where[1] < pixels - 0.5)
    out = np.full((len(range(count)[bands]), *inside.shape), np.nan, np.float32)
    if not inside.any():
        return out
    line, pixel = where[:, inside]
    (top, down, bottom), (left, right, end) = _neighbours(line, lines), _neighbours(pixel, pixels)
    source = image.read(bands, slice(int(top.min()), int(bottom.max()) + 1), slice(int(left.min()), int(end.max()) + 1))
    corner = top.min(), left.min()
    nearest = np.rint(line).astype(np.intp) - corner[0], np.rint(pixel).astype(np.intp) - corner[1]
    for layer, values in zip(out, source, strict=True):
        total = np.zeros(len(line), np.float32)
        weights = np.zeros(len(line), np.float32)
        for y, x, weight in (
            (top, left, (1 - down) * (1 - right)),
            (top, end, (1 - down) * right),
            (bottom, left, down * (1 - right)),
            (bottom, end, down * right),
        ):
            picked = values[y - corner[0], x - corner[1]]
            measured = np.isfinite(picked)
            total += np.where(measured, picked, 0) * weight
            weights += measured * weight
        power = total / np.maximum(weights, 1e-6)
        power[power == 0] = _NOTHING
        layer[inside] = np.where(np.isfinite(values[nearest]), power, np.nan)
    return out


def _neighbours(position: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pixel before each position, the share of the one after it, and that one; both within the image."""
    before = np.floor(position)
    share = (position - before).astype(np.float32)
    return (
        np.clip(before, 0, size - 1).astype(np.intp),
        share,
        np.clip(before + 1, 0, size - 1).astype(np.intp),
    )


def mean_of_blocks(values: np.ndarray, size: int) -> np.ndarray:
    """Mean of each block of ``size``² pixels over the valid ones; NaN where fewer than half of them are."""
    bands, rows, columns = values.shape
    blocks = values.reshape(bands, rows // size, size, columns // size, size)
    measured = np.isfinite(blocks)
    count = measured.sum((2, 4))
    total = np.where(measured, blocks, 0).sum((2, 4), dtype=np.float64)
    return np.where(2 * count >= size * size, total / np.maximum(count, 1), np.nan).astype(np.float32)


def geocode_product(
    image: Image, annotation: Annotation, name: str, crs: str | None = None, resolution: float | None = None
) -> GeocodedProduct:
    """Warp a calibrated image onto a map grid, lazily.

    Parameters
    ----------
    image : the image in radar geometry (``sentinel1.Calibrated``).
    annotation : of one of its polarisations: all of a product share their geometry.
    name : what to call the product in errors.
    crs : of the map; the UTM zone of the footprint's centre by default (polar stereographic beyond 84 degrees).
    resolution : pixel size in units of the CRS; the product's own pixel spacing by default. The grid is north-up,
        and its edges are multiples of it.

    Raises
    ------
    SceneError : the product's geometry is missing or contradicts itself.
    InputError : the CRS or the resolution cannot be used.
    """
    geometry = range_doppler(annotation, name)
    surface = grid_surface(annotation, geometry, name)
    target = map_crs(annotation, crs)
    spacing = _in_units_of(target, max(annotation.range_spacing, annotation.azimuth_spacing))
    resolution = float(f"{spacing:.1e}") if resolution is None else resolution
    if not (np.isfinite(resolution) and resolution > 0):
        raise InputError(f"resolution {resolution} is not a size: give the side of a pixel in units of the CRS")
    geobox = map_grid(annotation, target, resolution, name)
    samples = max(1, round(resolution / spacing))
    return GeocodedProduct(image, geobox, geometry, surface, samples, (expected_error(annotation),))


def map_crs(annotation: Annotation, crs: str | None) -> CRS:
    """Return the CRS asked for, or the one that suits a product's footprint.

    Raises
    ------
    InputError : the CRS is not known, or neither geographic nor projected.
    """
    if crs is None:
        grid = annotation.grid
        return CRS.from_epsg(suited_map(unwrap(grid.longitude), grid.latitude) or 4326)
    try:
        found = CRS.from_user_input(crs)
    except CRSError as error:
        raise InputError(f"--crs {crs}: is not a CRS that PROJ knows: give one such as EPSG:32633") from error
    if not (found.is_projected or found.is_geographic) or len(found.axis_info) != 2:
        raise InputError(f"--crs {crs}: is not a map of two dimensions: give one such as EPSG:32633")
    return found


def _in_units_of(crs: CRS, metres: float) -> float:
    """A length on the ground in units of a CRS: degrees of latitude in geographic ones."""
    unit = crs.axis_info[0].unit_conversion_factor
    return metres / (6_378_137.0 * unit) if crs.is_geographic else metres / unit


def map_grid(annotation: Annotation, crs: CRS, resolution: float, name: str) -> GeoBox:
    """North-up grid around a product's footprint, its edges at multiples of ``resolution``.

    Raises
    ------
    InputError : the footprint does not lie within the CRS, or the grid would have more than 2³¹ pixels a side.
    """
    grid = annotation.grid
    longitude, latitude = unwrap(grid.longitude), grid.latitude
    transform = Transformer.from_crs(4326, crs, always_xy=True)
    x, y = (longitude, latitude) if crs.is_geographic else transform.transform(longitude, latitude)
    if not np.isfinite([x, y]).all() or (crs.is_geographic and np.ptp(longitude) > 180):
        raise InputError(f"{name}: does not lie within {crs.name}: give another --crs, or none")
    low = np.floor(np.array([x.min(), y.min()]) / resolution) - MARGIN
    high = np.ceil(np.array([x.max(), y.max()]) / resolution) + MARGIN
    columns, rows = high - low
    if max(rows, columns) > 2**31 - 1:
        raise InputError(
            f"{name}: has {columns:.3g} x {rows:.3g} pixels at resolution {resolution:g}: give a larger one"
        )
    affine = Affine(resolution, 0, low[0] * resolution, 0, -resolution, high[1] * resolution)
    text = f"EPSG:{crs.to_epsg()}" if crs.to_epsg() else crs.to_wkt()
    return GeoBox((int(rows), int(columns)), affine, text)
