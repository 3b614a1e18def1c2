"""Rasters placed by ground control points alone, such as Sentinel-1 GRD images: warped onto a map grid, lazily.

All points are used, through a thin-plate spline from map to image coordinates that meets every one of them
(Duchon 1977; the same family of warps as ``gdalwarp -tps``); never one affine fitted through them. Each output
pixel takes the value of the source pixel its centre falls into, so that no value is mixed from others and no
unit matters. Heights between the points are not known here: terrain is corrected as far as the points follow it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from affine import Affine
from pyproj import CRS, Transformer

from geouq.errors import SceneError
from geouq.grid import GeoBox, apply, degrees_per_unit, wrap
from geouq.rasters.raster import Pixels, Raster, read_window

if TYPE_CHECKING:
    from scipy.interpolate import RBFInterpolator

FEWEST_POINTS, MOST_POINTS = 4, 2500
#: The spline is evaluated every so many output pixels and interpolated between: off by under 0.05 source pixels.
STEP = 16
#: A point is wrong if the others predict it off by more than this share of the distance between points (and
#: by 5 pixels): points of real Sentinel-1 frames over mountains reach 0.15, as their heights differ.
WORST_MISFIT = 0.4


def fit_spline(source: np.ndarray, target: np.ndarray) -> RBFInterpolator:
    """Fit the spline that takes ``source`` points (n, 2) exactly to ``target`` points (n, 2); call it on (m, 2).

    Raises
    ------
    numpy.linalg.LinAlgError : if the points lie on one line or coincide.
    """
    from scipy.interpolate import RBFInterpolator  # needed by the few rasters without a grid

    spline = RBFInterpolator(source, target, kernel="thin_plate_spline")
    if not np.abs(spline(source) - target).max() < 1e-6 * np.ptp(target, axis=0).max():
        raise np.linalg.LinAlgError("control points coincide or lie on one line")
    return spline


def misfits(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return how far, in target units, the spline through all other points misses each point, (n,).

    The weight of a point over its element of the inverse's diagonal (Rippa 1999), of the system that a spline solves:
    r²·ln r to every node, and one and the point itself, which the weights do not see.
    """
    n = len(source)
    nodes = (source - source.mean(0)) / np.ptp(source, axis=0).max()
    squared = ((nodes[:, None] - nodes) ** 2).sum(-1)
    system = np.zeros((n + 3, n + 3))
    system[:n, :n] = 0.5 * squared * np.log(np.where(squared > 0, squared, 1))
    system[:n, n:] = np.hstack([np.ones((n, 1)), nodes])
    system[n:, :n] = system[:n, n:].T
    inverse = np.linalg.inv(system)[:n, :n]
    return np.asarray(np.hypot(*(inverse @ target / np.diag(inverse)[:, None]).T))


@dataclass(frozen=True, eq=False)
class GeocodedPixels(Pixels):
    """The pixels of a raster warped onto the grid ``target``: (band, y, x) float32, NaN outside the image."""

    target: GeoBox
    spline: RBFInterpolator  # from map coordinates to image (column, row)

    @property
    def geobox(self) -> GeoBox:
        """The map grid."""
        return self.target

    @property
    def shape(self) -> tuple[int, int, int]:
        """(bands, rows, columns) of the map grid."""
        rows, columns = self.target.shape
        return len(self.raster.bands), rows, columns

    @property
    def block(self) -> tuple[int, int]:
        """The lattice on which the spline is evaluated."""
        return STEP, STEP

    def read(self, bands: slice, rows: slice, columns: slice) -> np.ndarray:
        """Read a window of the map grid: each pixel is the source pixel that its centre falls into."""
        column, row = np.floor(self._locate(rows, columns)).astype(np.int64)
        height, width = self.raster.shape
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        picked = self.raster.bands[bands]
        out = np.full((len(picked), *inside.shape), np.nan, np.float32)
        if inside.any():
            row, column = row[inside], column[inside]
            top, left = int(row.min()), int(column.min())
            source = read_window(
                self.raster, picked, slice(top, int(row.max()) + 1), slice(left, int(column.max()) + 1)
            )
            out[:, inside] = source[:, row - top, column - left]
        return out

    def _locate(self, rows: slice, columns: slice) -> np.ndarray:
        """Image coordinates (2, rows, columns) of pixel centres."""
        x, y = lattice_nodes(self.target, rows, columns)
        nodes = self.spline(np.stack([x.ravel(), y.ravel()], 1)).T.reshape(2, *x.shape)
        return spread(nodes, rows, columns)


def lattice_nodes(geobox: GeoBox, rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray]:
    """Map coordinates x and y (ny, nx) of the centres of every ``STEP``-th pixel around a window.

    The lattice is the grid's, not the window's, so that what is interpolated from it is the same in any window.
    """
    x, y = apply(geobox.affine, *np.meshgrid(lattice(columns)[0] + 0.5, lattice(rows)[0] + 0.5))
    return np.asarray(x), np.asarray(y)


def spread(nodes: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """Interpolate values at ``lattice_nodes``, (…, ny, nx), bilinearly to the window's pixels, (…, rows, columns)."""
    _, iy, fy = lattice(rows)
    _, ix, fx = lattice(columns)
    lines = nodes[..., iy, :] * (1 - fy)[:, None] + nodes[..., iy + 1, :] * fy[:, None]
    return np.asarray(lines[..., ix] * (1 - fx) + lines[..., ix + 1] * fx)


def lattice(span: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lattice positions around a span, and for each of its pixels the one before it and the share of the next."""
    first = span.start // STEP
    positions = np.arange(first, (span.stop - 1) // STEP + 2) * STEP
    pixels = np.arange(span.start, span.stop)
    return positions, pixels // STEP - first, pixels % STEP / STEP


def geocode(raster: Raster) -> GeocodedPixels:
    """Return a raster's pixels on a map grid, warped through all its ground control points.

    The grid is that of the points if they are projected, else the UTM zone of their centre (polar
    stereographic beyond 84 degrees; the points' own degrees if they span more than UTM does justice to). Its
    pixels are as large as the source's are on the ground, rounded to two digits.

    Raises
    ------
    SceneError : if the points are too few or too many, have no CRS, do not cover the image, or contradict
        one another.
    """
    pixel, ground, crs = _points(raster)
    try:
        spline, forward = fit_spline(ground, pixel), fit_spline(pixel, ground)
        misfit = misfits(ground, pixel)
    except np.linalg.LinAlgError as error:
        raise _refusal(raster, "coincide or lie on one line") from error
    height, width = raster.shape
    spacing = np.sqrt(np.prod(np.ptp(pixel, axis=0)) / len(pixel))
    if misfit.max() > max(5.0, WORST_MISFIT * spacing):
        where = pixel[misfit.argmax()]
        raise _refusal(
            raster,
            f"contradict one another: the one at column {where[0]:.0f}, row {where[1]:.0f} is "
            f"{misfit.max():.0f} pixels from where the others put it",
        )
    edge = forward(outline(height, width))
    if not np.abs(spline(edge) - outline(height, width)).max() < max(5.0, WORST_MISFIT * spacing):
        raise _refusal(raster, "fold the image over itself")
    return GeocodedPixels(raster, _grid(edge, height * width, crs), spline)


def _refusal(raster: Raster, why: str) -> SceneError:
    return SceneError(f"{raster.path}: its {len(raster.gcps)} ground control points {why}: geocode it first")


def _points(raster: Raster) -> tuple[np.ndarray, np.ndarray, CRS]:
    """Control points as image (column, row) and map (x, y), checked, and the CRS of the map."""
    if len(raster.gcps) > MOST_POINTS:
        raise _refusal(raster, f"are more than {MOST_POINTS}")
    points = np.unique(np.array(raster.gcps), axis=0)
    if len(points) < FEWEST_POINTS:
        raise _refusal(raster, f"are fewer than {FEWEST_POINTS}, which only an affine guess would fit")
    crs = CRS.from_user_input(raster.gcp_crs) if raster.gcp_crs else None
    if crs is None or not (crs.is_geographic or crs.is_projected):
        raise _refusal(raster, "have no coordinate system")
    pixel, ground = points[:, :2], points[:, 2:]
    size = np.array(raster.shape[::-1])
    covered = np.clip(np.minimum(pixel.max(0), size) - np.maximum(pixel.min(0), 0), 0, None)
    if np.prod(covered / size) < 0.5:
        raise _refusal(raster, "do not cover the image")
    if crs.is_geographic:
        ground, crs = _to_map(ground, crs)
    if not np.isfinite(ground).all():
        raise _refusal(raster, "lie outside their coordinate system")
    return pixel, ground, crs


def _to_map(degrees: np.ndarray, crs: CRS) -> tuple[np.ndarray, CRS]:
    """Longitudes and latitudes on the map that suits them; longitudes run on across the antimeridian."""
    if degrees_per_unit(crs) != 1 or (crs.prime_meridian and crs.prime_meridian.longitude):
        degrees = np.stack(Transformer.from_crs(crs, 4326, always_xy=True).transform(*degrees.T), 1)
        crs = CRS.from_epsg(4326)
    longitude, latitude = unwrap(degrees[:, 0]), degrees[:, 1]
    epsg = suited_map(longitude, latitude)
    if epsg is None:
        return np.stack([longitude, latitude], 1), crs
    projected = CRS.from_epsg(epsg)
    x, y = Transformer.from_crs(crs, projected, always_xy=True).transform(longitude, latitude)
    return np.stack([x, y], 1), projected


def unwrap(longitude: np.ndarray) -> np.ndarray:
    """Longitudes in degrees that run on across the antimeridian: none is more than 180 from the first."""
    first = longitude.flat[0]
    return np.asarray(wrap(longitude - first) + first)


def suited_map(longitude: np.ndarray, latitude: np.ndarray) -> int | None:
    """EPSG code of the map that suits points in degrees (``unwrap``ped); None if only degrees do.

    The UTM zone of their centre; polar stereographic (3413, 3031) beyond 84 degrees and where a zone is too narrow.
    """
    middle = (latitude.min() + latitude.max()) / 2
    wide = np.ptp(longitude) * np.cos(np.radians(middle)) > 12 or np.ptp(latitude) > 20
    if wide and abs(middle) < 60:
        return None
    if wide or np.abs(latitude).max() > 84:
        return 3413 if middle > 0 else 3031
    centre = (longitude.min() + longitude.max()) / 2
    return (32600 if middle >= 0 else 32700) + int((centre + 180) % 360 // 6) + 1


def outline(height: int, width: int) -> np.ndarray:
    """Points (column, row) along the edge of an image, (n, 2)."""
    along = np.linspace(0, 1, 33)
    zero, one = np.zeros_like(along), np.ones_like(along)
    sides = [(along, zero), (along, one), (zero, along), (one, along)]
    return np.concatenate([np.stack([x * width, y * height], 1) for x, y in sides])


def _grid(edge: np.ndarray, pixels: int, crs: CRS) -> GeoBox:
    """North-up grid around an image's outline on the map, with about as large pixels as the image's."""
    order = np.argsort(np.arctan2(*(edge - edge.mean(0)).T))
    x, y = edge[order].T
    area = 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))
    resolution = float(f"{np.sqrt(area / pixels):.1e}")
    low, high = np.floor(edge.min(0) / resolution), np.ceil(edge.max(0) / resolution)
    columns, rows = (high - low).astype(int)
    affine = Affine(resolution, 0, low[0] * resolution, 0, -resolution, high[1] * resolution)
    return GeoBox((int(rows), int(columns)), affine, crs)
