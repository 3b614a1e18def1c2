"""The grid of a scene and its tiles: which pixels a tile answers for, and which it has to read.

A scene's grid is an odc-geo ``GeoBox`` (CRS + affine + shape), one immutable value. A *tile* names its
*core* (the pixels it answers for) and its *window* (core + halo: the pixels the network must see). Cores
cover each pixel exactly once. Windows start on the network's stride grid and are clipped at the scene,
padded at its right and bottom to a whole number of strides: so each window's edge is either a halo away
from its core or the edge of the padded scene itself, where the whole-scene pass pads with zeros as well.
That is why a tiled pass equals the whole-scene pass (docs/tiling.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj import CRS, Geod, Transformer

from geouq.errors import SceneError

__all__ = [
    "GeoBox",
    "Roi",
    "Tile",
    "Tiling",
    "apply",
    "area_unit",
    "corners_apart",
    "degrees_per_unit",
    "geobox_roi",
    "metres_per_unit",
    "pieces",
    "pixel_areas",
    "refuse_geocentric",
    "same_grid",
    "same_places",
    "straight_length",
    "to_degrees",
    "wrap",
]

_RADIUS = 6.371e6  # of the Earth, m
#: Metres between nodes that areas are interpolated from: scale factors bend by (distance / radius)².
_FARTHEST = 1e5


@dataclass(frozen=True)
class Roi:
    """A rectangle of pixels, rows ``y0 ≤ y < y1`` and columns ``x0 ≤ x < x1``, in absolute scene pixels."""

    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def slices(self) -> tuple[slice, slice]:
        """Row and column slices."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    @property
    def empty(self) -> bool:
        """True if it holds no pixel."""
        return self.y1 <= self.y0 or self.x1 <= self.x0

    def intersect(self, other: Roi) -> Roi:
        """Return the pixels in both (possibly empty)."""
        return Roi(max(self.y0, other.y0), min(self.y1, other.y1), max(self.x0, other.x0), min(self.x1, other.x1))

    def within(self, outer: Roi) -> Roi:
        """Return this rectangle in coordinates relative to ``outer``'s upper left pixel."""
        return Roi(self.y0 - outer.y0, self.y1 - outer.y0, self.x0 - outer.x0, self.x1 - outer.x0)


#: pixels beyond the edge of a scene that a network sees mirrored, rounded up to its stride
MIRRORED = 32


@dataclass(frozen=True)
class Tile:
    """One unit of work: the ``core`` it answers for and the ``window`` it reads, padding included.

    ``whole`` is the core as it would be without bounds; all of it is computed, so that bounds do not even show in
    the rounding.
    """

    index: int
    core: Roi
    window: Roi
    whole: Roi


@dataclass(frozen=True)
class Tiling:
    """How a scene is cut: ``shape`` (rows, columns), cores of ``size``², ``halo`` and ``stride`` in pixels.

    ``bounds`` restricts the work to a part of the scene; windows stay those of the whole scene, so that the
    pixels come out the same.
    """

    shape: tuple[int, int]
    size: int
    halo: int
    stride: int
    bounds: Roi | None = None

    @property
    def padded(self) -> tuple[int, int]:
        """Scene shape rounded up to whole strides; pixels beyond the scene are not valid."""
        rows, columns = (-(-n // self.stride) * self.stride for n in self.shape)
        return rows, columns

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[Tile]:
        """Yield the tiles row by row; their cores cover ``bounds`` (or the scene) exactly once."""
        rows, columns = self.shape
        inside = self.bounds or Roi(0, rows, 0, columns)
        index = 0
        for y0 in range(0, rows, self.size):
            for x0 in range(0, columns, self.size):
                whole = Roi(y0, min(y0 + self.size, rows), x0, min(x0 + self.size, columns))
                core = whole.intersect(inside)
                if not core.empty:
                    yield Tile(index, core, self._window(whole), whole)
                    index += 1

    def _window(self, core: Roi) -> Roi:
        def reach(start: int, stop: int, limit: int) -> tuple[int, int]:
            low = (start - self.halo) // self.stride * self.stride
            high = -(-(stop + self.halo) // self.stride) * self.stride
            return max(low, 0), min(high, limit)

        padded = self.padded
        return Roi(*reach(core.y0, core.y1, padded[0]), *reach(core.x0, core.x1, padded[1]))

    @property
    def largest_window(self) -> int:
        """Pixels of the largest window as it is seen: what memory per tile is promised from."""
        return max((rows * columns for rows, columns in (self.seen(t.window).shape for t in self)), default=0)

    def seen(self, window: Roi) -> Roi:
        """Return what a network sees of a window: more, mirrored, beyond the edges of the scene that it reaches.

        Without it pixels at the edge are classified worse than others (mirroring: Ronneberger et al. 2015).
        """
        more, (rows, columns) = -(-MIRRORED // self.stride) * self.stride, self.padded
        top, left = (more if start == 0 else 0 for start in (window.y0, window.x0))
        bottom, right = (more if stop == end else 0 for stop, end in ((window.y1, rows), (window.x1, columns)))
        return Roi(window.y0 - top, window.y1 + bottom, window.x0 - left, window.x1 + right)


def geobox_roi(geobox: GeoBox, roi: Roi) -> GeoBox:
    """Return the GeoBox of a part of ``geobox``."""
    return geobox[roi.y0 : roi.y1, roi.x0 : roi.x1]


def apply(affine: Affine, x: Any, y: Any) -> tuple[Any, Any]:
    """Apply an affine to numbers or arrays (column, row), whatever the version of the affine library."""
    a, b, c, d, e, f = affine[:6]
    return a * x + b * y + c, d * x + e * y + f


def pieces(shape: tuple[int, int], height: int, width: int) -> Iterator[Roi]:
    """Yield rectangles of at most ``height`` x ``width`` pixels that cover a shape exactly once, row by row."""
    for y in range(0, shape[0], height):
        for x in range(0, shape[1], width):
            yield Roi(y, min(y + height, shape[0]), x, min(x + width, shape[1]))


def same_grid(grid: GeoBox, other: GeoBox) -> bool:
    """True if the CRS of two grids of the same shape are one, and their corners within half a pixel of one another."""
    return bool(grid.crs == other.crs and corners_apart(grid, other) < 0.5)


def corners_apart(grid: GeoBox, other: GeoBox) -> float:
    """How far, in pixels, the corners of another grid of the same shape lie from those of ``grid``."""
    corners = np.array([(0, 0), (grid.shape[1], 0), (0, grid.shape[0])], float).T
    column, row = apply(~grid.affine, *apply(other.affine, *corners))
    return float(np.hypot(column - corners[0], row - corners[1]).max())


def area_unit(crs: object, pixel: float) -> str:
    """Return what areas of a grid whose pixels have so many squared units are in: m²; without a CRS px if that is 1."""
    if crs is not None:
        return "m²"
    return "px" if abs(pixel) == 1 else "squared units of the grid"


def same_places(grid: GeoBox, other: CRS | None) -> bool:
    """True if a CRS, as a file has kept it, is that of ``grid``: equal, or one of another spelling and the same places.

    Of two CRS that are not equal, the corners and the middle of the grid must agree within a hundredth of a pixel;
    and two that have numbers of their own (EPSG) and not the same one are two, however near.

    Raises
    ------
    ProjError : PROJ cannot bring one into the other.
    """
    if grid.crs is None or other is None:
        return grid.crs is None and other is None
    crs = CRS.from_user_input(str(grid.crs))
    if other.equals(crs, ignore_axis_order=True):
        return True
    numbers = {found.to_epsg(min_confidence=100) for found in (crs, other)} - {None}
    if len(numbers) > 1:
        return False
    rows, columns = grid.shape
    corners = np.array([(0, 0), (columns, 0), (0, rows), (columns, rows), (columns / 2, rows / 2)], float).T
    there = Transformer.from_crs(crs, other, always_xy=True).transform(*apply(grid.affine, *corners))
    column, row = apply(~grid.affine, *map(np.asarray, there))
    away = np.hypot(column - corners[0], row - corners[1])
    return bool(np.isfinite(away).any() and away[np.isfinite(away)].max() < 0.01)


def pixel_areas(geobox: GeoBox, roi: Roi) -> np.ndarray:
    """Areas on the ellipsoid of the pixels in ``roi``, within 0.1 % of ``pyproj.Geod`` in every CRS PROJ can invert.

    In geographic grids the area of a pixel is M·N·cos φ·|∂(λ, φ)/∂(column, row)| with the ellipsoid's radii of
    curvature M and N at the pixel's centre (Snyder 1987, Map Projections: A Working Manual, USGS PP 1395, eq. 4-18 to
    4-20). In any other it is the cross product of the steps along its row and its column on the ellipsoid, in
    geocentric coordinates, where no pole and no meridian is special; the steps are central differences by PROJ, on a
    lattice of at most 64 pixels, or 100 km, between which the area is interpolated bilinearly.

    Returns
    -------
    float64 array that broadcasts to ``roi.shape``: (rows, 1) where area changes with the row alone, else
    (rows, columns). m²; without a CRS the squared unit of the transform (pixels if it has none).
    """
    a, b, _, d, e, f = geobox.affine[:6]
    determinant = abs(a * e - b * d)
    rows, columns = np.arange(roi.y0, roi.y1) + 0.5, np.arange(roi.x0, roi.x1) + 0.5
    if geobox.crs is None:
        return np.full((len(rows), 1), determinant)
    crs = CRS.from_user_input(str(geobox.crs))
    if not crs.is_geographic or crs.is_derived:
        return _areas_by_steps(crs, geobox.affine, rows, columns)
    unit = degrees_per_unit(crs)
    latitude = unit * (f + e * rows[:, None] + (d * columns[None, :] if d else 0))
    return np.asarray(_ellipsoid_factor(crs, latitude) * determinant * unit**2)


def refuse_geocentric(crs: CRS, scene: str) -> None:
    """Raise SceneError for a CRS whose x and y are distances from the centre of the Earth, and no place on a map."""
    if crs.is_geocentric:
        raise SceneError(
            f"{scene}: its CRS ({crs.name}) is geocentric, and places no pixel on a map: give it the right one first "
            "(gdal_edit.py -a_srs)"
        )


def degrees_per_unit(crs: CRS) -> float:
    """Return how many degrees one unit of a geographic CRS is: 1 mostly, 0.9 where it counts in grads."""
    return float(np.degrees(crs.axis_info[0].unit_conversion_factor))


def metres_per_unit(crs: CRS) -> float:
    """Return how long one unit of a CRS is on the ground: of latitude in geographic ones."""
    unit = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0
    return float(unit * _RADIUS if crs.is_geographic else unit)


def straight_length(crs: CRS, tolerance: float) -> float:
    """Return the length of edges, in units of ``crs``, that may be taken to another CRS by their ends alone.

    A line of length L that bends with the Earth is L²/8R from straight: at most ``tolerance`` metres.
    """
    return float(np.sqrt(8 * _RADIUS * tolerance) / metres_per_unit(crs))


def to_degrees(crs: CRS) -> Callable[[Any, Any], tuple[np.ndarray, np.ndarray]]:
    """Return a function from coordinates x, y of a CRS to longitude and latitude in degrees on its own ellipsoid.

    Longitudes count from the CRS's own prime meridian.
    """
    base = crs.geodetic_crs.to_2d() if crs.geodetic_crs is not None else CRS.from_epsg(4326)
    transform, unit = Transformer.from_crs(crs, base, always_xy=True).transform, degrees_per_unit(base)

    def degrees(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        longitude, latitude = transform(x, y)
        return unit * np.asarray(longitude), unit * np.asarray(latitude)

    return degrees


def _ellipsoid_factor(crs: CRS, latitude: np.ndarray) -> np.ndarray:
    """m² per square degree at a latitude in degrees: M·N·cos φ."""
    geod = crs.get_geod() or Geod(ellps="WGS84")
    sine = np.sin(np.radians(latitude))
    n = geod.a / np.sqrt(1 - geod.es * sine**2)
    m = geod.a * (1 - geod.es) / (1 - geod.es * sine**2) ** 1.5
    return np.asarray(m * n * np.abs(np.cos(np.radians(latitude))) * np.radians(1) ** 2)


def _areas_by_steps(crs: CRS, affine: Affine, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    step = float(np.clip(_FARTHEST / (metres_per_unit(crs) * np.sqrt(abs(affine.determinant))), 1, 64))
    y, x = _lattice(rows, step), _lattice(columns, step)
    geod, degrees = crs.get_geod() or Geod(ellps="WGS84"), to_degrees(crs)
    gx, gy = np.meshgrid(x, y)

    def geocentric(dx: float, dy: float) -> np.ndarray:
        longitude, latitude = np.radians(degrees(*apply(affine, gx + dx, gy + dy)))
        normal = geod.a / np.sqrt(1 - geod.es * np.sin(latitude) ** 2)
        across = normal * np.cos(latitude)
        up = normal * (1 - geod.es) * np.sin(latitude)
        return np.stack([across * np.cos(longitude), across * np.sin(longitude), up], axis=-1)  # (ny, nx, 3), m

    along_row, along_column = (geocentric(dx, dy) - geocentric(-dx, -dy) for dx, dy in ((0.5, 0.0), (0.0, 0.5)))
    areas = np.linalg.norm(np.cross(along_row, along_column), axis=-1)
    along_y = np.stack([np.interp(rows, y, column) for column in areas.T], 1)
    return np.stack([np.interp(columns, x, row) for row in along_y])


def _lattice(centres: np.ndarray, step: float) -> np.ndarray:
    """Nodes from the first to the last centre, at most ``step`` pixels apart."""
    steps = int(np.ceil((centres[-1] - centres[0]) / step))
    return np.linspace(centres[0], centres[-1], steps + 1)


def wrap(degrees: np.ndarray) -> np.ndarray:
    """Bring longitudes, or differences of them, in degrees into -180..180."""
    return (degrees + 180) % 360 - 180
