"""Where a product's image lies on the ground when no elevation model is given: its own geolocation grid.

The grid has latitude, longitude and height at some 200 image points. Between them, positions follow the product's
range-Doppler geometry at heights interpolated bilinearly from the grid's, and what that geometry leaves at the grid
points (a fraction of a pixel, or up to 5 where a processor's range polynomials fitted badly: IPF 2.36) is
interpolated likewise and added. So every grid point is met, flat ground between points of one height comes out
exact, and one grid point on a mountain does not bend the plain beyond its neighbours, as a spline through it would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates

from geouq.errors import SceneError
from geouq.sentinel1.annotation import Annotation
from geouq.sentinel1.rangedoppler import RangeDoppler

#: A grid whose points the product's own orbit and polynomials miss by more pixels than this belongs to another image.
WORST_MISFIT = 20.0
_ROUNDS = 12

#: interpolates values on a lattice, (…, ny, nx), to the points of a window, (…, rows, columns)
Spread = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class GridSurface:
    """Heights of a geolocation grid as a surface over the image.

    ``line`` (n,) and ``pixel`` (m,) of its points; ``height`` (n, m) in m; ``misfit`` (2, n, m): line and pixel of
    the points less what the range-Doppler geometry says.
    """

    line: np.ndarray
    pixel: np.ndarray
    height: np.ndarray
    misfit: np.ndarray

    @property
    def levels(self) -> np.ndarray:
        """Three heights (m) that the surface lies between."""
        return np.array([self.height.min() - 1, self.height.mean(), self.height.max() + 1])

    def locate(self, nodes: np.ndarray, degrees: np.ndarray, spread: Spread) -> np.ndarray:
        """Return line and pixel (2, …) of points of the surface.

        Parameters
        ----------
        nodes : (3, 2, …) line and pixel of lattice points at ``levels``. degrees : (2, …) longitude and latitude of
            these, not needed here. spread : interpolates from the lattice to the points wanted. Heights bend at
            the grid's points, where a lattice is too coarse; so the pixel, which moves with height, is settled at
            each point again, and the line, which hardly does, is not.
        """
        height = np.full(nodes.shape[2:], self.levels[1])
        for _ in range(_ROUNDS):
            image = self._correct(at_height(nodes, self.levels, height))
            height = between(self.height, index(image[0], self.line), index(image[1], self.pixel))
        slope = at_height(nodes[:, 1], self.levels, height + 0.5) - at_height(nodes[:, 1], self.levels, height - 0.5)
        line, first, guess, slope = spread(np.stack([*image, height, slope]))
        rows, pixel = index(line, self.line), first
        for _ in range(2):
            height = between(self.height, rows, index(pixel, self.pixel))
            pixel = first + slope * (height - guess)
        return np.stack([line, pixel])

    def _correct(self, image: np.ndarray) -> np.ndarray:
        """Add to positions (2, …) what the geometry leaves at the grid points."""
        rows, columns = index(image[0], self.line), index(image[1], self.pixel)
        return np.asarray(image + np.stack([between(misfit, rows, columns) for misfit in self.misfit]))


def index(values: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Fractional index of values among rising ``nodes``, from the first to the last."""
    return np.asarray(np.interp(values, nodes, np.arange(len(nodes))))


def between(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Values (n, m) at fractional rows and columns of theirs, bilinearly."""
    return np.asarray(map_coordinates(values, [rows, columns], order=1, mode="nearest"))


def at_height(positions: np.ndarray, levels: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Interpolate positions (3, 2, …), given at three heights, to ``height`` (…), by the parabola through them."""
    a, b, c = levels
    weights = (
        (height - b) * (height - c) / ((a - b) * (a - c)),
        (height - a) * (height - c) / ((b - a) * (b - c)),
        (height - a) * (height - b) / ((c - a) * (c - b)),
    )
    return np.asarray(sum(weight * position for weight, position in zip(weights, positions, strict=True)))


def grid_surface(annotation: Annotation, geometry: RangeDoppler, name: str) -> GridSurface:
    """Return a product's geolocation grid as a surface that all its points lie on.

    Raises
    ------
    SceneError : naming the product ``name``, if the grid is none, does not cover the image, or contradicts the
        product's orbit.
    """
    grid = annotation.grid
    line, pixel = grid.line[:, 0], grid.pixel[0]
    covered = line[0] <= 0 and pixel[0] <= 0 and line[-1] >= annotation.lines - 2 and pixel[-1] >= annotation.pixels - 2
    if not covered:
        raise SceneError(f"{name}: its geolocation grid does not cover the image: download the product again")
    misfit = np.stack([grid.line, grid.pixel]) - geometry.image(grid.longitude, grid.latitude, grid.height)
    if not np.abs(misfit).max() <= WORST_MISFIT:
        raise SceneError(
            f"{name}: its geolocation grid and its orbit contradict each other by {np.abs(misfit).max():.0f} pixels: "
            "download the product again"
        )
    return GridSurface(line, pixel, grid.height, misfit)


def expected_error(annotation: Annotation) -> str:
    """Say in one line how far ground at another height than the grid's is off, from the incidence angles."""
    grid = annotation.grid
    near, far = (100 / np.tan(np.radians(angle)) for angle in (grid.incidence_angle.min(), grid.incidence_angle.max()))
    return (
        f"placed through all {grid.line.size} points of its geolocation grid at their heights "
        f"({grid.height.min():.0f} to {grid.height.max():.0f} m), without a DEM: ground 100 m above or below lies "
        f"{far:.0f} to {near:.0f} m off"
    )
