"""Several scenes that lie beside one another as one: bursts of a pass, tiles of a date, slices of a data take.

Lazy: a window is read of those parts alone that it meets. Parts lie on one grid (one CRS, pixels of one size, whole
pixels apart); nothing is warped or blended. Where parts overlap, the first that is valid counts, band by band. Each
part is opened as the scene that it is, with its own nodata, masks of layover and fill, which no VRT over the
files would keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine

from geouq.errors import InputError, SceneError
from geouq.grid import GeoBox, Roi, corners_apart
from geouq.rasters.raster import LONGEST_SIDE, Pixels
from geouq.rasters.windowed import Windowed
from geouq.scenes.open import Source, describe_scene, lazy_scene, reading
from geouq.scenes.scene import BandPixels, Scene
from geouq.sentinel1.preprocessing import Preprocessing
from geouq.validity import REFUSED

if TYPE_CHECKING:
    import xarray as xr

#: seconds that images of one pass may be apart
_ONE_PASS = 3600
#: share of a pixel that corners may be beside those of the common grid
_APART = 0.01


@dataclass(frozen=True)
class Piece:
    """A scene in a mosaic: its parts, and where it lies in the mosaic's pixels."""

    parts: tuple[BandPixels, ...]
    place: Roi


@dataclass(frozen=True)
class MosaicPixels(Windowed):
    """The bands of several scenes on one grid, (band, y, x); read when it is sliced."""

    pieces: tuple[Piece, ...]
    geobox: GeoBox

    @property
    def path(self) -> str:
        """What to call it in messages."""
        return f"{self.pieces[0].parts[0].path} and {len(self.pieces) - 1} more"

    @property
    def sources(self) -> tuple[list[str], list[str]]:
        """The files of all pieces, and the masks that blank them."""
        found = [part.sources for piece in self.pieces for part in piece.parts]
        return [path for paths, _ in found for path in paths], [path for _, masks in found for path in masks]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(bands, rows, columns)."""
        return sum(part.shape[0] for part in self.pieces[0].parts), *self.geobox.shape

    @property
    def block(self) -> tuple[int, int]:
        """Rows and columns that are best read as one."""
        return self.pieces[0].parts[0].block

    @property
    def token(self) -> tuple[object, ...]:
        """What tells these pixels from any other."""
        told = [(piece.place, *(part.token for part in piece.parts)) for piece in self.pieces]
        return repr(self.geobox), *told

    def read(self, bands: slice, rows: slice, columns: slice) -> np.ndarray:
        """Read a window; slices without step, within the shape."""
        window = Roi(rows.start, rows.stop, columns.start, columns.stop)
        out = np.full((bands.stop - bands.start, *window.shape), np.nan, np.float32)
        for piece in self.pieces:
            common = window.intersect(piece.place)
            if common.empty:
                continue
            hole = out[:, *common.within(window).slices]
            if np.isnan(hole).any():
                values = _read(piece.parts, bands, common.within(piece.place))
                hole[...] = np.where(np.isnan(hole), values, hole)
        return out


def open_mosaic(
    sources: Sequence[Source],
    *,
    scale: str = "auto",
    nodata: float | None = None,
    bidx: Sequence[int] | None = None,
    chunk: int = 1024,
    factor: float | Sequence[float] = (1.0,),
    offset: float | Sequence[float] = (0.0,),
    most_fill: float = REFUSED,
    preprocessing: Preprocessing | None = None,
) -> xr.DataArray:
    """Open scenes of one date on one grid as one, lazily; where they overlap, the first that is valid counts.

    Parameters
    ----------
    sources : the scenes, two or more, each as ``open_scene`` takes it. The other parameters are those of
        ``open_scene``, for each of them.

    Returns
    -------
    As ``open_scene``, on the smallest grid that holds all scenes; NaN where none is valid.

    Raises
    ------
    SceneError : they cannot be joined: another CRS, grid, date, unit or other bands; or placed by control points.
    InputError : fewer than two. And as ``open_scene``.
    """
    if isinstance(sources, str) or len(sources) < 2:
        raise InputError("a mosaic is made of two scenes or more: give them all")
    asked: dict[str, Any] = {"scale": scale, "nodata": nodata, "bidx": bidx, "factor": factor, "offset": offset}
    asked |= {"most_fill": most_fill, "preprocessing": preprocessing}
    scenes = [describe_scene(source, **asked) for source in sources]
    read_as = f"mosaic, {reading(scale, nodata, bidx, (factor, offset), preprocessing)}"
    return lazy_scene(joined(scenes), chunk, [], read_as, bidx)


def joined(scenes: Sequence[Scene]) -> Scene:
    """Return scenes as one, on the smallest grid that holds all; see ``open_mosaic`` for errors."""
    first = scenes[0]
    for other in scenes:
        if why := _apart(first, other):
            raise SceneError(f"{first.paths[0]} and {other.paths[0]}: are not joined: {why}")
    places = [_place(first.geobox, scene) for scene in scenes]
    top, left = min(place.y0 for place in places), min(place.x0 for place in places)
    bottom, right = max(place.y1 for place in places), max(place.x1 for place in places)
    shape = bottom - top, right - left
    if max(shape) > LONGEST_SIDE:
        raise SceneError(
            f"{first.paths[0]}: with the others it is {shape[1]} x {shape[0]} pixels, longer than any scene"
        )
    corner = next((s.geobox for s, p in zip(scenes, places, strict=True) if (p.y0, p.x0) == (top, left)), None)
    affine = corner.affine if corner is not None else first.geobox.affine * Affine.translation(left, top)
    pieces = tuple(
        Piece(scene.parts, Roi(place.y0 - top, place.y1 - top, place.x0 - left, place.x1 - left))
        for scene, place in zip(scenes, places, strict=True)
    )
    notes = dict.fromkeys(note for scene in scenes for note in scene.notes)
    notes[f"a mosaic of {len(scenes)} scenes; where they overlap, the first that is valid counts"] = None
    part = MosaicPixels(pieces, GeoBox(shape, affine, first.geobox.crs))
    taken = min((scene.acquired for scene in scenes if scene.acquired), default="")
    unlike = next((scene.unlike for scene in scenes if scene.unlike), "")
    return Scene((part,), first.names, first.units, first.units_reason, tuple(notes), taken, unlike)


def _apart(first: Scene, other: Scene) -> str:
    """Say why two scenes cannot be joined, and what to do; empty if they can."""
    for scene in (first, other):
        if not all(type(part) is Pixels for part in scene.parts):
            return (
                f"{scene.paths[0]} is put on a map while it is read: put each on one grid first "
                "(geouq preprocess --crs --resolution; gdalwarp -t_srs -tr -tap)"
            )
    if other.names != first.names:
        return f"the bands of one are {', '.join(first.names)}, of the other {', '.join(other.names)}"
    if other.units != first.units:
        return f"one is in {first.units}, the other in {other.units}: give --scale"
    if not _one_pass(first.acquired, other.acquired):
        return f"they were taken at {first.acquired} and {other.acquired}"
    if other.geobox.crs != first.geobox.crs:
        return f"their CRS are {first.geobox.crs} and {other.geobox.crs}: warp one onto the other's grid first"
    return ""


def _one_pass(first: str, other: str) -> bool:
    """True unless times of acquisition are of two days, or where both tell it, more than an hour apart."""
    if not first or not other:
        return True
    if "T" in first and "T" in other:
        apart = np.datetime64(first.rstrip("Z")) - np.datetime64(other.rstrip("Z"))
        return bool(abs(apart) <= np.timedelta64(_ONE_PASS, "s"))
    return first[:10] == other[:10]


def _place(grid: GeoBox, scene: Scene) -> Roi:
    """Return where a scene lies in the pixels of a grid; SceneError unless these are its own, moved by whole pixels."""
    own = scene.geobox
    column, row = ~grid.affine * (own.affine.c, own.affine.f)
    column, row = round(column), round(row)
    moved = GeoBox(own.shape, grid.affine * Affine.translation(column, row), own.crs)
    if not corners_apart(moved, own) <= _APART:
        raise SceneError(
            f"{scene.paths[0]}: is not on the grid of the first scene (pixels of another size, or no whole pixels "
            "apart), so it is not joined: warp it onto that (gdalwarp -tr -tap)"
        )
    return Roi(row, row + own.shape[0], column, column + own.shape[1])


def _read(parts: Sequence[BandPixels], bands: slice, roi: Roi) -> np.ndarray:
    """Read some of the bands that several parts have together."""
    found, before = [], 0
    for part in parts:
        count = part.shape[0]
        own = slice(max(bands.start - before, 0), min(bands.stop - before, count))
        if own.start < own.stop:
            found.append(part.read(own, *roi.slices))
        before += count
    return np.concatenate(found)
