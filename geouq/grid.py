"""The grid of a scene and its tiles: which pixels a tile answers for, and which it has to read.

A scene's grid is an odc-geo ``GeoBox`` (CRS + affine + shape), one immutable value. A *tile* names its
*core* (the pixels it answers for) and its *window* (core + halo: the pixels the network must see). Cores
cover each pixel exactly once. Windows start on the network's stride grid and are clipped at the scene,
padded at its right and bottom to a whole number of strides: so each window's edge is either a halo away
from its core or the edge of the padded scene itself, where the whole-scene pass pads with zeros as well.
That is why a tiled pass equals the whole-scene pass (docs/tiling.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from odc.geo.geobox import GeoBox
from pyproj import CRS, Geod, Proj, Transformer

__all__ = ["GeoBox", "Roi", "Tile", "Tiling", "pixel_areas", "geobox_roi"]


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


@dataclass(frozen=True)
class Tile:
    """One unit of work: the ``core`` it answers for and the ``window`` it reads, padding included."""

    index: int
    core: Roi
    window: Roi


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
                    yield Tile(index, core, self._window(whole))
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
        """Pixels of the largest window: what memory per tile is promised from."""
        return max((t.window.shape[0] * t.window.shape[1] for t in self), default=0)


def geobox_roi(geobox: GeoBox, roi: Roi) -> GeoBox:
    """Return the GeoBox of a part of ``geobox``."""
    return geobox[roi.y0 : roi.y1, roi.x0 : roi.x1]


def pixel_areas(geobox: GeoBox, roi: Roi) -> np.ndarray:
    """Areas on the ellipsoid of the pixels in ``roi``.

    Geographic grids: the Jacobian of the ellipsoid at each pixel's centre, M·N·cos(latitude). Projected grids:
    the pixel's area on the map over the projection's areal scale factor (from PROJ), evaluated on a lattice
    of at most 64 pixels and interpolated bilinearly. Both stay within 0.1 % of ``pyproj.Geod``
    for pixels up to a degree. Source: Snyder 1987, Map Projections: A Working Manual, USGS PP 1395.

    Returns
    -------
    float64 array that broadcasts to ``roi.shape``: (rows, 1) where area changes with the row alone, else
    (rows, columns). m²; without a CRS the unit is the squared unit of the transform (pixels if it has none).
    """
    affine = geobox.affine
    determinant = abs(affine.a * affine.e - affine.b * affine.d)
    rows, columns = roi.shape
    if geobox.crs is None:
        return np.full((rows, 1), determinant)
    crs = CRS.from_user_input(str(geobox.crs))
    y = np.arange(roi.y0, roi.y1) + 0.5
    x = np.arange(roi.x0, roi.x1) + 0.5
    if crs.is_geographic:
        if affine.d == 0:
            return _ellipsoid_areas(crs, affine.f + affine.e * y, determinant)[:, None]
        return _ellipsoid_areas(crs, affine.f + affine.e * y[:, None] + affine.d * x[None, :], determinant)
    return determinant * _projected_scale(crs, affine, y, x)


def _ellipsoid_areas(crs: CRS, latitude: np.ndarray, square_degrees: float) -> np.ndarray:
    geod = crs.get_geod() or Geod(ellps="WGS84")
    sine = np.sin(np.radians(latitude))
    n = geod.a / np.sqrt(1 - geod.es * sine**2)
    m = geod.a * (1 - geod.es) / (1 - geod.es * sine**2) ** 1.5
    return m * n * np.abs(np.cos(np.radians(latitude))) * square_degrees * np.radians(1) ** 2


def _projected_scale(crs: CRS, affine: object, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """True area (m²) per squared map unit at pixel centres, interpolated from a lattice."""

    def lattice(v: np.ndarray) -> np.ndarray:
        return np.linspace(v[0], v[-1], max(2, int(np.ceil((v[-1] - v[0]) / 64)) + 1))

    ly, lx = lattice(y), lattice(x)
    gx, gy = np.meshgrid(lx, ly)
    east, north = affine * (gx, gy)  # type: ignore[operator]
    to_geographic = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    longitude, latitude = to_geographic.transform(east, north)
    factors = Proj(crs).get_factors(longitude, latitude)
    unit = crs.axis_info[0].unit_conversion_factor or 1.0
    scale = unit**2 / np.asarray(factors.areal_scale)
    wy = np.interp(y, ly, np.arange(len(ly)))
    wx = np.interp(x, lx, np.arange(len(lx)))
    iy = np.minimum(wy.astype(int), len(ly) - 2)
    ix = np.minimum(wx.astype(int), len(lx) - 2)
    fy, fx = (wy - iy)[:, None], (wx - ix)[None, :]
    upper = scale[iy][:, ix] * (1 - fx) + scale[iy][:, ix + 1] * fx
    lower = scale[iy + 1][:, ix] * (1 - fx) + scale[iy + 1][:, ix + 1] * fx
    return np.asarray(upper * (1 - fy) + lower * fy)
