"""Radar images onto a map grid, lazily: each window of the map finds its own pixels of the image.

For a window, line and pixel are computed on every 16th map pixel for three heights, and interpolated between: the
geometry is that smooth (``rangedoppler``), while heights are taken at every pixel, from the product's geolocation
grid (``geolocation``) or from a DEM (``terrain``). What is interpolated is linear power, bilinearly between the four
image pixels around: speckle keeps its mean, and positions are better than half a pixel. Pixels that were not
measured weigh nothing, and where the nearest one was not measured the result is not valid either, so that nodata
neither bleeds into the image nor the image into nodata. On a grid coarser than the image each map pixel is the mean
of as many interpolated points as image pixels fit in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Protocol

import numpy as np
from affine import Affine
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError

from geouq.errors import InputError, SceneError
from geouq.grid import GeoBox, apply, degrees_per_unit, wrap
from geouq.rasters.geocode import STEP, lattice_nodes, outline, spread, suited_map, unwrap
from geouq.rasters.resample import Image, inside, interpolate, mean_of_blocks
from geouq.rasters.windowed import Windowed, spread_out
from geouq.sentinel1.annotation import Annotation
from geouq.sentinel1.geolocation import Spread, at_height, expected_error, grid_surface
from geouq.sentinel1.preprocessing import Preprocessing
from geouq.sentinel1.rangedoppler import RangeDoppler, range_doppler
from geouq.sentinel1.relief import STEEPEST, Relief
from geouq.sentinel1.terrain import Field, open_elevation, open_field

#: The grid reaches this many pixels beyond the geolocation grid's outline, which is straight between its points.
MARGIN = 8
#: A window is computed so many rows at a time: its positions take ten times the memory of its pixels.
_STRIP, _WIDEST_STRIP = 256, 4096
#: The map's pixels may be so many times as large as the image's: each is a mean of the square of that.
_COARSEST = 100
_FINEST = 20
#: Floods do not reach higher above the nearest drainage than this, m (as the exclusion mask of Twele et al. 2016,
#: doi 10.1080/01431161.2016.1192304, has it).
HIGHEST_FLOOD = 15.0


#: why map pixels are not valid, as ``GeocodedProduct.flags`` numbers it from 1
REASONS = ("layover", "shadow", f"steeper than {STEEPEST:g}°", f"{HIGHEST_FLOOD:g} m or more above drainage", "outside")
HIGH, OUTSIDE = 4, 5


class Surface(Protocol):
    """What the image lies on: ``levels`` are three heights it lies between; see ``GridSurface``, ``Elevation``."""

    @property
    def levels(self) -> np.ndarray:
        """Three heights in m."""

    def locate(self, nodes: np.ndarray, degrees: np.ndarray, spread: Spread) -> np.ndarray:
        """Line and pixel of points of the surface."""


@dataclass(frozen=True, eq=False)
class GeocodedProduct(Windowed):
    """A radar image warped onto the grid ``geobox``: (band, y, x) float32 linear power, NaN where not valid.

    ``oversampling`` points a side are interpolated for each map pixel, and averaged. ``relief`` flags layover, shadow
    and steep slopes, and with ``flatten`` turns beta0 into terrain-flattened gamma0; ``hand`` flags what lies high
    above the drainage.
    """

    image: Image
    geobox: GeoBox
    geometry: RangeDoppler
    surface: Surface
    oversampling: int = 1
    relief: Relief | None = None
    flatten: bool = False
    hand: Field | None = None

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
        tall, wide = max(1, _STRIP // self.oversampling), max(1, _WIDEST_STRIP // self.oversampling)
        if columns.stop - columns.start > wide:
            return np.concatenate([self.read(bands, rows, part) for part in _parts(columns, wide)], axis=2)
        if rows.stop - rows.start > tall:
            return np.concatenate([self.read(bands, part, columns) for part in _parts(rows, tall)], axis=1)
        if self.oversampling > 1:
            fine = replace(self, geobox=self.geobox.zoom_out(1 / self.oversampling), oversampling=1)
            spans = (slice(s.start * self.oversampling, s.stop * self.oversampling) for s in (rows, columns))
            return mean_of_blocks(fine.read(bands, *spans), self.oversampling)
        where, flat = self._positions(rows, columns)
        values = interpolate(self.image, bands, where)
        if not np.isfinite(values).any():
            return values
        values[:, self._flags(where, flat, rows, columns) > 0] = np.nan
        if self.flatten and self.relief is not None:
            values /= self.relief.area(flat, where)
        return values

    def locate(self, rows: slice, columns: slice) -> np.ndarray:
        """Line and pixel of the map pixels' centres in a window, (2, rows, columns) float64; NaN if nowhere."""
        return self._positions(rows, columns)[0]

    def flags(self, rows: slice, columns: slice) -> np.ndarray:
        """Why map pixels (rows, columns) are not valid, whatever was measured there: 0, or 1 + index in ``REASONS``."""
        return self._flags(*self._positions(rows, columns), rows, columns)

    def _positions(self, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
        """Line and pixel of a window's pixels on the surface, and at height 0."""
        degrees, fill = _degrees(self.geobox, rows, columns), partial(spread, rows=rows, columns=columns)
        longitude, latitude = degrees
        levels, zero = self.surface.levels, np.zeros(latitude.shape)
        nodes = np.stack([self.geometry.image(longitude, latitude, zero + level) for level in levels])
        where = self.surface.locate(nodes, degrees, fill)
        return where, fill(at_height(nodes, levels, zero)) if self.relief else where

    def _flags(self, where: np.ndarray, flat: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
        out = np.zeros(where.shape[1:], np.uint8) if self.relief is None else self.relief.flags(flat)
        if self.hand is not None:
            fill = partial(spread, rows=rows, columns=columns)
            out[self.hand.at(_degrees(self.geobox, rows, columns), fill) >= HIGHEST_FLOOD] = HIGH
        out[~inside(self.image, where)] = OUTSIDE
        return out


def _parts(span: slice, size: int) -> Iterator[slice]:
    """A span cut into parts of ``size``."""
    return (slice(start, min(start + size, span.stop)) for start in range(span.start, span.stop, size))


def _degrees(geobox: GeoBox, rows: slice, columns: slice) -> np.ndarray:
    """Longitude and latitude of a window's lattice nodes, (2, ny, nx)."""
    return np.stack(_to_degrees(str(geobox.crs)).transform(*lattice_nodes(geobox, rows, columns)))


@cache
def _to_degrees(crs: str) -> Transformer:
    return Transformer.from_crs(crs, 4326, always_xy=True)


def geocode_product(
    image: Image, annotation: Annotation, name: str, steps: Preprocessing
) -> tuple[GeocodedProduct, tuple[str, ...]]:
    """Warp a calibrated image onto a map grid, lazily.

    Parameters
    ----------
    image : the image in radar geometry (``sentinel1.Calibrated``), calibrated to ``steps.quantity``.
    annotation : of one of its polarisations: all of a product share their geometry.
    name : what to call the product in errors.
    steps : where to (``crs``, ``resolution``: a north-up grid whose edges are multiples of it) and over what
        (``dem``, ``rtc``, ``hand``).

    Returns
    -------
    The pixels, and notes: in one line each, how they were located, and what to expect of that.

    Raises
    ------
    SceneError : the product's geometry is missing or contradicts itself; the DEM cannot be used.
    InputError : the CRS or the resolution cannot be used.
    """
    geometry = range_doppler(annotation, name)
    target = map_crs(annotation, steps.crs)
    spacing = _in_units_of(target, max(annotation.range_spacing, annotation.azimuth_spacing))
    resolution = float(f"{spacing:.1e}") if steps.resolution is None else steps.resolution
    if not spacing / _FINEST <= resolution <= _COARSEST * spacing:
        raise InputError(
            f"resolution {resolution:g} is not the side of a pixel: give one in units of the CRS, between a "
            f"{_FINEST}th of the product's pixels ({spacing / _FINEST:.3g}) and {_COARSEST} ({_COARSEST * spacing:.3g})"
        )
    geobox = map_grid(annotation, target, resolution, name)
    relief = None
    surface: Surface = grid_surface(annotation, geometry, name)
    notes = [expected_error(annotation)]
    if steps.dem is not None:
        surface = open_elevation(steps.dem)
        relief = Relief(geometry, surface, annotation)
        geobox, notes = _crop(geobox, surface.field, annotation, name, "a DEM"), [surface.note]
        if steps.rtc:
            notes.append("beta0 flattened to gamma0 by the area that the terrain shows the radar")
    hand = None if steps.hand is None else open_field(steps.hand, "heights above the nearest drainage")
    if hand is not None:
        _crop(geobox, hand, annotation, name, "heights above the nearest drainage")  # they meet, or it is refused
    oversampling = max(1, round(resolution / spacing))
    product = GeocodedProduct(image, geobox, geometry, surface, oversampling, relief, steps.rtc, hand)
    if relief is not None or hand is not None:
        notes.append(_shares(product))
    return product, tuple(notes)


def _shares(product: GeocodedProduct) -> str:
    """Say what share of the image's pixels is not valid and why, from 25 windows of 64² spread over the map, or all."""
    counts = np.zeros(len(REASONS) + 1)
    rows, columns = (spread_out(length, 5, 64) for length in product.geobox.shape)
    for top in rows:
        for left in columns:
            counts += np.bincount(product.flags(top, left).ravel(), minlength=len(counts))
    inside = max(counts[:OUTSIDE].sum(), 1)
    said = [
        f"{reason} {100 * n / inside:.1f} %" for reason, n in zip(REASONS[:-1], counts[1:OUTSIDE], strict=True) if n
    ]
    return f"not valid within the image, about: {', '.join(said) or 'nothing'}"


def _crop(geobox: GeoBox, dem: Field, annotation: Annotation, name: str, what: str) -> GeoBox:
    """The part of the grid that a raster of heights covers, padded to whole pixels; ``what`` it is, for the error.

    Raises
    ------
    SceneError : if they do not meet.
    """
    assert dem.raster.transform is not None
    x, y = apply(Affine(*dem.raster.transform), *outline(*dem.raster.shape).T)
    longitude, latitude = Transformer.from_crs(dem.crs, 4326, always_xy=True).transform(x, y)
    x, y = Transformer.from_crs(4326, str(geobox.crs), always_xy=True).transform(longitude, latitude)
    right, down = apply(~geobox.affine, x, y)
    low = np.maximum(np.floor([down.min(), right.min()]), 0)
    high = np.minimum(np.ceil([down.max(), right.max()]), geobox.shape)
    if _apart(annotation, longitude, latitude) or (high <= low).any():
        raise SceneError(f"{dem.raster.path}: does not meet {name}: give {what} of that place")
    if not np.isfinite([low, high]).all() or np.ptp(longitude) > 180:
        return geobox  # around a pole, or around the Earth
    (top, left), (bottom, end) = low.astype(int), high.astype(int)
    return geobox[top:bottom, left:end]


def _apart(annotation: Annotation, longitude: np.ndarray, latitude: np.ndarray) -> bool:
    """True if points, in degrees, lie elsewhere than around the product: maps may fold far from their middle."""
    grid = annotation.grid
    middle = float(unwrap(grid.longitude).mean())
    ours, theirs = (wrap(degrees - middle) for degrees in (grid.longitude, longitude))
    besides = np.ptp(longitude) < 180 and (theirs.max() < ours.min() or theirs.min() > ours.max())
    return bool(besides or latitude.max() < grid.latitude.min() or latitude.min() > grid.latitude.max())


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
    x, y = transform.transform(longitude, latitude)
    if crs.is_geographic:  # longitudes that run on, in its own unit and from its own meridian
        x = unwrap(x * degrees_per_unit(crs)) / degrees_per_unit(crs)
    back = np.stack(transform.transform(x, y, direction="INVERSE"))
    apart = np.abs(wrap(back - [longitude, latitude]))
    if not apart.max() < 1e-6 or (crs.is_geographic and np.ptp(longitude) > 180):
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
