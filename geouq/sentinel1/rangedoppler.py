"""From a point on or above the ground to the line and pixel that a radar saw it in, by the range-Doppler equations.

A point is imaged at the *zero-Doppler time*, when the satellite's velocity is at a right angle to the line of sight:
``(P - S(t)) . V(t) = 0``, found by Newton's method on the interpolated orbit. The distance then is the slant range,
and the product's own polynomials turn it into ground range, hence pixels. Described in ESA's "Guide to Sentinel-1
Geocoding" (UZH-S1-GC-AD, issue 1.10, 2019) and Meier, Frei & Nüesch 1993 ("Precise terrain corrected geocoded
images", in Schreier (ed.), SAR Geocoding, chapter 7). Lines and pixels have integers at pixel centres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicHermiteSpline

from geouq.errors import SceneError
from geouq.sentinel1.annotation import Annotation

SPEED_OF_LIGHT = 299_792_458.0
#: How far beyond the image's slant ranges the polynomials hold, m; that far a mountain of 9 km moves a point.
_BEYOND = 12_000.0
#: Newton's method is quadratic here: from a guess within the orbit's arc, the fourth step is far below a microsecond.
_STEPS = 5


@dataclass(frozen=True, eq=False)
class RangeDoppler:
    """The imaging geometry of one product; times in s from its first line, positions Earth-fixed (EPSG:4978) in m.

    ``conversions`` (k, 2 + degree): time, slant range origin and coefficients from slant to ground range; ``inverse``
    likewise from ground to slant range; ``reach``: the slant ranges between which the first are trusted.
    """

    orbit: CubicHermiteSpline
    conversions: np.ndarray
    inverse: np.ndarray
    reach: tuple[float, float]
    line_interval: float
    range_spacing: float
    duration: float

    def image(self, longitude: np.ndarray, latitude: np.ndarray, height: np.ndarray) -> np.ndarray:
        """Return line and pixel of points, (2, …) float64.

        Parameters
        ----------
        longitude, latitude : degrees, WGS 84. height : m above its ellipsoid. All of one shape.
        """
        return self.view(longitude, latitude, height)[:2]

    def view(self, longitude: np.ndarray, latitude: np.ndarray, height: np.ndarray) -> np.ndarray:
        """Return line, pixel, slant range (m) and look angle off the geocentric nadir (radians), (4, …) float64."""
        point = np.stack(earth_fixed(longitude, latitude, height), -1)
        time, satellite = self._zero_doppler(point)
        sight = point - satellite
        slant_range, distance = np.sqrt((sight**2).sum(-1)), np.sqrt((satellite**2).sum(-1))
        look = np.arccos(-(sight * satellite).sum(-1) / (slant_range * distance))
        pixel = self._ground_range(time, slant_range) / self.range_spacing
        return np.stack([time / self.line_interval, pixel, slant_range, look])

    def ground(self, line: np.ndarray, pixel: np.ndarray, near: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Return longitude and latitude (2, …) of the points of height 0 that are imaged at lines and pixels.

        ``near``: guesses of both, degrees, within some 10 km; improved by Newton's method.
        """
        wanted, point, step = np.stack([line, pixel]), np.stack(near), 1e-4
        zero = np.zeros(np.shape(line))
        for _ in range(_STEPS):
            at = self.image(point[0], point[1], zero)
            east = (self.image(point[0] + step, point[1], zero) - at) / step
            north = (self.image(point[0], point[1] + step, zero) - at) / step
            miss, determinant = wanted - at, east[0] * north[1] - east[1] * north[0]
            point = (
                point
                + np.stack([miss[0] * north[1] - miss[1] * north[0], miss[1] * east[0] - miss[0] * east[1]])
                / determinant
            )
        return point

    def slant_spacing(self, lines: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """Return the slant range between neighbouring pixels in m, (n, m), for n lines and m pixels."""
        known, origin, _, *slopes = self.inverse.T
        time = lines * self.line_interval
        offset = pixels[None] * self.range_spacing - np.interp(time, known, origin)[:, None]
        spacing = np.zeros(offset.shape)
        for power, coefficient in reversed(list(enumerate(slopes, start=1))):
            spacing = spacing * offset + power * np.interp(time, known, coefficient)[:, None]
        return spacing * self.range_spacing

    def _zero_doppler(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Zero-Doppler time of points (…, 3), and the satellite's position (…, 3) then."""
        speed, acceleration = self.orbit.derivative(), self.orbit.derivative(2)
        time = np.full(point.shape[:-1], self.duration / 2)
        for _ in range(_STEPS):
            sight, velocity = point - self.orbit(time), speed(time)
            doppler = (sight * velocity).sum(-1)
            slope = (sight * acceleration(time)).sum(-1) - (velocity**2).sum(-1)
            time = time - doppler / slope
        return time, self.orbit(time)

    def _ground_range(self, time: np.ndarray, slant_range: np.ndarray) -> np.ndarray:
        """Ground range by the polynomials, interpolated between the two nearest in time.

        Far outside the image they may turn back into it; there, a straight line goes on.
        """
        known, origin, *coefficients = self.conversions.T
        within = np.clip(slant_range, *self.reach)
        offset = within - np.interp(time, known, origin)
        ground_range = np.zeros_like(offset)
        for coefficient in reversed(coefficients):
            ground_range = ground_range * offset + np.interp(time, known, coefficient)
        return np.asarray(ground_range + 1.5 * (slant_range - within))


def earth_fixed(longitude: np.ndarray, latitude: np.ndarray, height: np.ndarray) -> tuple[np.ndarray, ...]:
    """Geographic to Earth-fixed Cartesian coordinates on the WGS 84 ellipsoid (EPSG method 9602)."""
    axis, flattening = 6_378_137.0, 1 / 298.257223563
    squared = flattening * (2 - flattening)
    east, north = np.radians(longitude), np.radians(latitude)
    normal = axis / np.sqrt(1 - squared * np.sin(north) ** 2)
    flat = (normal + height) * np.cos(north)
    return flat * np.cos(east), flat * np.sin(east), (normal * (1 - squared) + height) * np.sin(north)


def range_doppler(annotation: Annotation, name: str) -> RangeDoppler:
    """Return the imaging geometry that an annotation describes.

    Raises
    ------
    SceneError : naming the product ``name``, if its orbit or its range polynomials are missing or do not fit.
    """
    orbit, conversions = annotation.orbit, sorted(annotation.conversions, key=lambda one: one.azimuth_time)
    time = _seconds(orbit.time, annotation)
    duration = (annotation.lines - 1) * annotation.line_interval
    if len(time) < 2 or not (np.diff(time) > 0).all() or time[0] > 0 or time[-1] < duration:
        raise SceneError(f"{name}: its orbit does not cover the image: download the product again")
    if not conversions or any(len({len(getattr(one, way)) for one in conversions}) != 1 for way in ("srgr", "grsr")):
        raise SceneError(f"{name}: has no usable slant to ground range polynomials: download the product again")
    known = _seconds(np.array([one.azimuth_time for one in conversions]), annotation)
    ranges = annotation.grid.slant_range_time * SPEED_OF_LIGHT / 2
    return RangeDoppler(
        reach=(float(ranges.min()) - _BEYOND, float(ranges.max()) + _BEYOND),
        orbit=CubicHermiteSpline(time, orbit.position, orbit.velocity),
        conversions=np.column_stack([known, [[one.slant_range_origin, *one.srgr] for one in conversions]]),
        inverse=np.column_stack([known, [[one.ground_range_origin, *one.grsr] for one in conversions]]),
        line_interval=annotation.line_interval,
        range_spacing=annotation.range_spacing,
        duration=duration,
    )


def _seconds(times: np.ndarray, annotation: Annotation) -> np.ndarray:
    return np.asarray((times - annotation.first_line_time) / np.timedelta64(1, "ns") * 1e-9)
