"""What relief does to a side-looking radar: layover, shadow, slopes, and how much ground each image pixel holds.

All is found along the lines of sight, in *profiles*: the terrain resampled to the image's own lines and ground
range, where "nearer to the radar" is simply "to the left". Along a profile

- the image pixel grows with ground range, except where slopes face the radar so steeply that their top is nearer to
  it than their foot: points that share their distance with others are *layover*;
- the look angle grows too, except behind terrain that hides what follows: *shadow*;
- a facet between two look angles dθ apart at distance R shows the radar the area R·dθ per metre of track. The sum of
  these over an image pixel, divided by the pixel's own slant range spacing, is what flat ground, slopes, foreshortening
  and layover alike divide its beta0 by to give gamma0: the area projection of Small 2011 ("Flattening Gamma:
  Radiometric Terrain Correction for SAR Imagery", doi 10.1109/TGRS.2011.2120616), written for zero-Doppler planes.

Terrain is looked at within ``REACH`` of each point, so that windows can be computed alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.ndimage import maximum_filter1d

from geouq.rasters.geocode import lattice, spread, unwrap
from geouq.rasters.resample import interpolate
from geouq.sentinel1.annotation import Annotation
from geouq.sentinel1.geolocation import at_height, between, index
from geouq.sentinel1.rangedoppler import RangeDoppler
from geouq.sentinel1.terrain import Elevation

#: Over this distance in m ground range, only 2.9 km of relief would throw layover (at 30° incidence), or shadow (60°).
REACH = 5000.0
#: Profiles for flags are as fine as the usual elevation models, m; heights are compared this far to each side.
BASE = 30.0
#: Slopes beyond this many degrees hold no water.
STEEPEST = 30.0
#: An image pixel that shows the radar less than this of the area it has itself is all but in shadow.
_LEAST_AREA = 0.1
#: A facet is spread over at most so many image pixels: those that span more are cliffs, and layover.
_WIDEST = 4

#: why a map pixel is not valid, and what ``Relief.flags`` has there
LAYOVER, SHADOW, STEEP = 1, 2, 3


@dataclass(frozen=True, eq=False)
class Profiles:
    """Terrain in rows of lines and columns of ground range, ``step`` image pixels apart, around a window.

    ``height`` (m), ``pixel`` (where in the image's line it is seen), ``slant_range`` (m) and ``look`` (radians).
    """

    rows: slice
    columns: slice
    step: int
    height: np.ndarray
    pixel: np.ndarray
    slant_range: np.ndarray
    look: np.ndarray


@dataclass(frozen=True, eq=False)
class Relief:
    """The terrain as one product's radar sees it."""

    geometry: RangeDoppler
    elevation: Elevation
    annotation: Annotation

    def flags(self, flat: np.ndarray) -> np.ndarray:
        """Return ``LAYOVER``, ``SHADOW``, ``STEEP`` or 0 for points, uint8 (h, w).

        Parameters
        ----------
        flat : (2, h, w) line and pixel at which the points would be seen at height 0.
        """
        spacing = self.annotation.range_spacing, self.annotation.azimuth_spacing
        profiles = self._profiles(flat, max(1, round(BASE / spacing[0])))
        step, cells = profiles.step, self._cells(profiles.step)
        out = np.zeros(profiles.height.shape, np.uint8)
        out[_slope(profiles.height, step * spacing[1], step * spacing[0]) > np.tan(np.radians(STEEPEST))] = STEEP
        out[_highest_before(profiles.look, cells) > profiles.look] = SHADOW
        out[_highest_before(profiles.pixel, cells) > profiles.pixel] = LAYOVER
        farther = -profiles.pixel[:, ::-1]
        out[(_highest_before(farther, cells) > farther)[:, ::-1]] = LAYOVER
        row = np.rint(flat[0] / step).astype(np.intp) - profiles.rows.start
        column = np.rint(flat[1] / step).astype(np.intp) - profiles.columns.start
        return np.asarray(out[row, column])

    def area(self, flat: np.ndarray, image: np.ndarray) -> np.ndarray:
        """Return the area that points' image pixels show the radar, in units of their own: beta0 / area = gamma0.

        Parameters
        ----------
        flat, image : (2, h, w) line and pixel of the points at height 0 and at their own.

        Returns
        -------
        (h, w) float32; 1 / tan(incidence angle) on flat ground; NaN where next to nothing is lit.
        """
        profiles = self._profiles(flat, 1)
        lit, first = self._lit(profiles)
        lines = np.arange(profiles.rows.start, profiles.rows.stop)
        pixels = np.arange(first, first + lit.shape[1])
        area = lit / self.geometry.slant_spacing(lines, pixels)
        area[area < _LEAST_AREA] = np.nan
        return np.asarray(interpolate(_Array(area), slice(0, 1), np.stack([flat[0] - lines[0], image[1] - first]))[0])

    def _lit(self, profiles: Profiles) -> tuple[np.ndarray, int]:
        """Metres of slant area that each image pixel shows, (lines, pixels), and the first of these pixels."""
        hidden = _highest_before(profiles.look, self._cells(profiles.step))
        width = np.clip(profiles.look[:, 1:] - hidden[:, :-1], 0, None)
        width *= (profiles.slant_range[:, 1:] + profiles.slant_range[:, :-1]) / 2
        near = np.minimum(profiles.pixel[:, 1:], profiles.pixel[:, :-1])
        far = np.maximum(np.maximum(profiles.pixel[:, 1:], profiles.pixel[:, :-1]), near + 1e-6)
        pixel = np.rint(near).astype(np.intp)
        far = np.minimum(far, pixel + _WIDEST - 0.5)
        first = int(pixel.min()) - 1
        shape = len(pixel), int(pixel.max()) - first + _WIDEST + 1
        index = (np.arange(shape[0])[:, None] * shape[1] + pixel - first).ravel()
        lit = np.zeros(shape[0] * shape[1])
        for cell in range(_WIDEST):
            overlap = np.minimum(far, pixel + cell + 0.5) - np.maximum(near, pixel + cell - 0.5)
            share = np.clip(overlap, 0, None) / (far - near)
            lit += np.bincount(index + cell, (width * share).ravel(), len(lit))
        return lit.reshape(shape), first

    def _cells(self, step: int) -> int:
        return int(np.ceil(REACH / (step * self.annotation.range_spacing)))

    def _profiles(self, flat: np.ndarray, step: int) -> Profiles:
        rows = _span(flat[0], step, 2 + round(BASE / self.annotation.azimuth_spacing))
        columns = _span(flat[1], step, self._cells(step) + 2)
        line, pixel = np.meshgrid(lattice(rows)[0] * step, lattice(columns)[0] * step, indexing="ij")
        degrees = self.geometry.ground(line, pixel, self._guess(line, pixel))
        levels = self.elevation.levels
        longitude, latitude = degrees
        nodes = np.stack([self.geometry.view(longitude, latitude, np.full(line.shape, level)) for level in levels])
        fill = partial(spread, rows=rows, columns=columns)
        height = np.nan_to_num(self.elevation.heights(degrees, fill))
        _, seen, slant_range, look = at_height(fill(nodes), levels, height)
        return Profiles(rows, columns, step, height, seen, slant_range, look)

    def _guess(self, line: np.ndarray, pixel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Longitude and latitude about where lines and pixels are, from the geolocation grid."""
        grid = self.annotation.grid
        rows, columns = index(line, grid.line[:, 0]), index(pixel, grid.pixel[0])
        return between(unwrap(grid.longitude), rows, columns), between(grid.latitude, rows, columns)


@dataclass(frozen=True, eq=False)
class _Array:
    """An array in the guise of an image that is read by windows."""

    values: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        return 1, *self.values.shape

    def read(self, bands: slice, rows: slice, columns: slice) -> np.ndarray:
        return self.values[None, rows, columns]


def _span(values: np.ndarray, step: int, margin: int) -> slice:
    """Cells of ``step`` that hold all finite values, and ``margin`` more on both sides."""
    return slice(int(np.nanmin(values) // step) - margin, int(np.nanmax(values) // step) + margin + 2)


def _highest_before(values: np.ndarray, cells: int) -> np.ndarray:
    """The highest of each value and those in at least ``cells`` columns to its left."""
    half = -(-cells // 2)
    return np.asarray(maximum_filter1d(values, 2 * half + 1, axis=1, mode="nearest", origin=half))


def _slope(height: np.ndarray, down: float, right: float) -> np.ndarray:
    """Tangent of the slope, from heights about ``BASE`` to each side; cells are ``down`` by ``right`` m."""
    y, x = max(1, round(BASE / down)), max(1, round(BASE / right))
    padded = np.pad(height, ((y, y), (x, x)), mode="edge")
    rise = (padded[2 * y :, x:-x] - padded[: -2 * y, x:-x]) / (2 * y * down)
    run = (padded[y:-y, 2 * x :] - padded[y:-y, : -2 * x]) / (2 * x * right)
    return np.asarray(np.hypot(rise, run))
