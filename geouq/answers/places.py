"""Places on the ground (districts, fields, buildings, roads) as edges in the pixels of a map.

What is read is only looked at, never changed: repairs, buffers and projections are for measuring. Lines that are
straight in the places' own coordinate system stay so: they are cut into pieces short enough (their sagitta is a
thousandth of a pixel) before they are projected onto the map.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely
from odc.geo.geobox import GeoBox
from pyproj import CRS, Transformer

from geouq.answers.coverage import Edges, edges, rings
from geouq.errors import InputError
from geouq.grid import apply, degrees_per_unit, metres_per_unit, straight_length

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

_MARGIN = 8  # pixels around the map that places are cut to where they reach far beyond
_ROUND = 32  # edges of a quarter circle in buffers


@dataclass(frozen=True)
class Places:
    """Which places are asked about.

    path : any vector file GDAL reads, or a GeoDataFrame, with polygons, or lines and points if there is a buffer.
    layer : by name, where the file has several.
    buffer : metres that each place is widened by on all sides (a road of 8 m is a line with 4). In units of the
        grid where nothing has a CRS.
    id : name of the attribute that tells places apart in the table of samples.
    """

    path: Path | str | GeoDataFrame
    layer: str | None = None
    buffer: float = 0.0
    id: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.buffer < np.inf:
            raise InputError(f"the buffer is {self.buffer}: give metres, 0 or more")


@dataclass(frozen=True)
class Measured:
    """Places on a map's grid: their ``edges`` (owner = place), ``area`` in pixels (NaN: unknown), and ``notes``."""

    edges: Edges
    area: np.ndarray
    notes: list[list[str]]


def measure(shapes: np.ndarray, crs: str | None, buffer: float, geobox: GeoBox) -> Measured:
    """Bring places onto the grid of a map.

    Parameters
    ----------
    shapes : (n,) shapely geometries of any kind, or None. Invalid polygons are repaired (``shapely.make_valid``, by
        structure): parts that overlap count once, holes are taken from their shell alone.
    crs : of the shapes; None if the map has none either.
    buffer : in metres; made in the UTM zone (or polar UPS) of each place's middle, so right to 0.1 %.

    Raises
    ------
    InputError : for points and lines without a buffer.
    """
    notes: list[list[str]] = [[] for _ in shapes]
    empty = shapely.is_missing(shapes) | shapely.is_empty(shapes)
    _note(notes, empty, "empty")
    coordinates, of = shapely.get_coordinates(shapes, return_index=True)
    nowhere = np.bincount(of, ~np.isfinite(coordinates).all(axis=1), len(shapes)) > 0
    _note(notes, nowhere, "coordinates are not numbers")
    empty |= nowhere
    if buffer == 0 and np.any(~empty & (shapely.get_dimensions(shapes) < 2)):
        raise InputError("points and lines have no area: give --buffer, the metres to widen them by")
    invalid = ~empty & ~shapely.is_valid(shapes)
    _note(notes, invalid, "repaired")
    shapes = shapes.copy()
    shapes[invalid] = shapely.make_valid(shapes[invalid], method="structure")  # what parts share is theirs
    area, parts = np.zeros(len(shapes)), []
    for chosen, polygons, own in _polygons(shapes, np.flatnonzero(~empty), crs, buffer):
        found, area[chosen] = _project(polygons, own, geobox)
        parts.append(replace(found, owner=chosen[found.owner]))
    _note(notes, ~empty & (area == 0), "no area")
    _note(notes, np.isnan(area), "cannot be projected onto the map")
    return Measured(Edges.join(parts), area, notes)


def _note(notes: list[list[str]], where: np.ndarray, text: str) -> None:
    for i in np.flatnonzero(where):
        notes[i].append(text)


def _polygons(
    shapes: np.ndarray, chosen: np.ndarray, crs: str | None, buffer: float
) -> Iterator[tuple[np.ndarray, np.ndarray, str | None]]:
    """Yield places that share a CRS: their numbers, (multi)polygons, that CRS."""
    if buffer == 0 or crs is None:
        wide = shapely.buffer(shapes[chosen], buffer, quad_segs=_ROUND) if buffer else shapes[chosen]
        yield chosen, _polygonal(wide), crs
        return
    zones = _zones(shapes[chosen], crs)
    for zone in np.unique(zones):
        inside, metric = chosen[zones == zone], f"EPSG:{zone}"
        straight = shapely.segmentize(shapes[inside], straight_length(CRS(crs), 0.001))
        moved = shapely.transform(straight, _transformer(crs, metric).transform, interleaved=False)
        yield inside, shapely.buffer(moved, buffer, quad_segs=_ROUND), metric


def _polygonal(shapes: np.ndarray) -> np.ndarray:
    """Return what is polygons in geometry collections, which repairs may leave, each place once; all else as it is."""
    mixed = np.flatnonzero(shapely.get_type_id(shapes) == shapely.GeometryType.GEOMETRYCOLLECTION)
    shapes = shapes.copy()
    for i in mixed:
        parts = shapely.get_parts(shapely.get_parts(shapes[i]))
        shapes[i] = shapely.union_all(parts[shapely.get_dimensions(parts) == 2])
    return shapes


def _zones(shapes: np.ndarray, crs: str) -> np.ndarray:
    """Return the EPSG code of the UTM zone, or the polar UPS grid, at the middle of each shape."""
    x0, y0, x1, y1 = shapely.bounds(shapes).T
    longitude, latitude = _transformer(crs, "EPSG:4326").transform((x0 + x1) / 2, (y0 + y1) / 2)
    if not np.isfinite([longitude, latitude]).all():
        raise InputError(f"places lie outside of what their CRS ({crs}) can describe: check that it is the right one")
    zone = ((np.asarray(longitude) + 180) // 6 % 60 + 1).astype(int)
    zone += np.where(np.asarray(latitude) < 0, 32700, 32600)
    return np.where(latitude > 84, 32661, np.where(latitude < -80, 32761, zone))


@cache
def _transformer(source: str, target: str) -> Transformer:
    return Transformer.from_crs(source, target, always_xy=True)


def _project(polygons: np.ndarray, crs: str | None, geobox: GeoBox) -> tuple[Edges, np.ndarray]:
    """Return the edges of polygons in pixels, and their areas in pixels (NaN where they cannot be projected)."""
    target = None if geobox.crs is None else str(geobox.crs)
    if crs is None or target is None or CRS(crs) == CRS(target):
        return _pixels(polygons, None, geobox)
    transformer = _transformer(crs, target)
    around = CRS(crs).is_geographic and CRS(target).is_geographic  # nothing is too far away to be projected
    reach = None if around else _reach(geobox, _transformer(target, crs), CRS(crs))
    scale = np.ones(len(polygons))
    if reach is not None:
        polygons, scale = _near(polygons, reach)
    pixel = np.sqrt(abs(geobox.affine.determinant)) * metres_per_unit(CRS(target))
    found, area = _pixels(shapely.segmentize(polygons, straight_length(CRS(crs), pixel / 1000)), transformer, geobox)
    away = np.isinf(scale)
    return found, np.where(away, np.inf, area * np.where(away, 1, scale))


def _near(polygons: np.ndarray, reach: shapely.Polygon) -> tuple[np.ndarray, np.ndarray]:
    """Cut polygons that go on far beyond the map, where they may not be projected, to what is near it.

    Returns
    -------
    The polygons, and how many times larger each was (inf: nothing of it is near).
    """
    low, high = np.array(reach.bounds).reshape(2, 2)
    bounds = shapely.bounds(polygons)
    far = (bounds[:, :2] < low - (high - low)).any(axis=1) | (bounds[:, 2:] > high + (high - low)).any(axis=1)
    polygons, scale = polygons.copy(), np.ones(len(polygons))
    before = shapely.area(polygons[far])
    polygons[far] = _polygonal(shapely.intersection(polygons[far], reach))
    after = shapely.area(polygons[far])
    scale[far] = np.divide(before, after, out=np.full(len(after), np.inf), where=after > 0)
    return polygons, scale


def _reach(geobox: GeoBox, transformer: Transformer, crs: CRS) -> shapely.Polygon | None:
    """Return the outline of the map and a margin in ``crs``; None if it cannot be drawn there (a pole, ±180°)."""
    rows, columns = geobox.shape
    box = shapely.box(-_MARGIN, -_MARGIN, columns + _MARGIN, rows + _MARGIN)
    corners = shapely.get_coordinates(shapely.segmentize(box, max(rows, columns) / 64)).T
    x, y = transformer.transform(*apply(geobox.affine, *corners))
    if not np.isfinite([x, y]).all() or (crs.is_geographic and np.ptp(x) > 180):
        return None
    outline = shapely.Polygon(np.stack([x, y], axis=1))
    return outline if outline.is_valid else None


def _pixels(polygons: np.ndarray, transformer: Transformer | None, geobox: GeoBox) -> tuple[Edges, np.ndarray]:
    coordinates, ring, owner, shell = rings(polygons)
    x, y = coordinates.T
    turn = _turn(geobox)
    if transformer is not None and len(x):
        x, y = transformer.transform(x, y)
        if turn:  # no ring jumps from one end of the longitudes to the other
            first = x[np.searchsorted(owner[ring], np.arange(len(polygons)))][owner[ring]]
            x = first + (x - first + turn / 2) % turn - turn / 2
    a, b, c, d, e, f = geobox.affine[:6]
    x, y, determinant = x - c, y - f, a * e - b * d  # differences first: no digits are lost
    pixels = np.stack([(e * x - b * y) / determinant, (a * y - d * x) / determinant], axis=1)
    lost = np.zeros(len(polygons), bool)
    lost[owner[ring[~np.isfinite(pixels).all(axis=1)]]] = True
    pixels[lost[owner[ring]]] = 0
    found, areas = edges(pixels, ring, owner, shell)
    if turn:
        found = _all_rounds(found, geobox, np.array([e, -d]) * turn / determinant)
    return found, np.where(lost, np.nan, np.bincount(owner, areas, len(polygons)))


def _turn(geobox: GeoBox) -> float:
    """Return once around the Earth in units of a map in longitude and latitude; 0 for any other map."""
    crs = None if geobox.crs is None else CRS(str(geobox.crs))
    return 360 / degrees_per_unit(crs) if crs is not None and crs.is_geographic else 0.0


def _all_rounds(found: Edges, geobox: GeoBox, turn: np.ndarray) -> Edges:
    """Add edges once more wherever they meet a map that counts its longitudes beyond ±180, or from 0 to 360.

    ``turn`` is once around the Earth, in columns and rows.
    """
    if not len(found):
        return found
    rows, columns = geobox.shape
    starts = np.flatnonzero(np.r_[True, found.owner[1:] != found.owner[:-1]])
    number = np.cumsum(np.r_[False, found.owner[1:] != found.owner[:-1]])
    left = np.minimum.reduceat(np.minimum(found.x0, found.x1), starts)
    right = np.maximum.reduceat(np.maximum(found.x0, found.x1), starts)
    top, bottom = np.minimum.reduceat(found.y0, starts), np.maximum.reduceat(found.y1, starts)
    parts = [found]
    for dx, dy in (turn * n for n in (-2, -1, 1, 2)):
        meets = (right + dx > 0) & (left + dx < columns) & (bottom + dy > 0) & (top + dy < rows)
        here = found[meets[number]]
        parts.append(replace(here, x0=here.x0 + dx, x1=here.x1 + dx, y0=here.y0 + dy, y1=here.y1 + dy))
    both = Edges.join(parts)
    return both[np.argsort(both.owner, kind="stable")]
