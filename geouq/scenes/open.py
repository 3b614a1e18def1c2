"""``open_scene``: a file, or one file a band, as a lazy (band, y, x) DataArray that knows its grid and units.

What can be opened is a table: a new kind of input is a row in ``OPENERS``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from geouq.errors import InputError, SceneError
from geouq.gdal import guard
from geouq.rasters.windowed import chunk_shape
from geouq.scenes.rasters import bundle_scene, is_bundle, raster_scene
from geouq.scenes.scene import Request, Scene, opened
from geouq.sentinel1.preprocessing import Preprocessing
from geouq.sentinel1.safe import is_product
from geouq.units import DB, SCALES
from geouq.validity import REFUSED

if TYPE_CHECKING:
    import dask.array as da
    import xarray as xr

    from geouq.scenes.scene import BandPixels

Path = str | os.PathLike[str]
Source = Path | Sequence[Path] | Mapping[str, Path]

_CHUNK_BYTES = 64 << 20


def is_product_scene(request: Request) -> bool:
    """True if a Sentinel-1 product is among what is to be opened."""
    return any(is_product(path) for path in request.paths)


def product_scene(request: Request) -> Scene:
    """Open a Sentinel-1 product, calibrated and on a map."""
    from geouq.sentinel1.product import product_pixels  # here, for it needs SciPy, and a raster does not

    path = next(path for path in request.paths if is_product(path))
    if len(request.paths) > 1 or request.scale != "auto" or request.nodata is not None or request.rescaled:
        raise InputError(
            f"{path}: is a Sentinel-1 product, which is a scene of its own, with known units and nodata: "
            "give it alone, without --scale, --nodata, --factor and --offset"
        )
    part = product_pixels(path, request.keys[0].upper(), request.bidx, request.preprocessing or Preprocessing())
    notes = tuple(dict.fromkeys(part.notes))
    taken = f"{np.datetime_as_string(part.image.product.annotation.start, 's')}Z"
    return Scene((part,), part.image.polarisations, DB, f"calibrated to {part.quantity} here", notes, taken)


@dataclass(frozen=True)
class Opener:
    """A kind of input: what it is called, who recognises it, and who opens it."""

    name: str
    recognises: Callable[[Request], bool]
    opens: Callable[[Request], Scene]


#: kinds of input; the first that recognises what is asked for opens it
OPENERS = (
    Opener("Sentinel-1 product", is_product_scene, product_scene),
    Opener("folder or zip of one scene's bands", is_bundle, bundle_scene),
    Opener("rasters on one grid", lambda request: True, raster_scene),
)


def open_scene(
    source: Source,
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
    """Open a scene, lazily: metadata and a few windows are read now, pixels when they are computed.

    Parameters
    ----------
    source : a raster GDAL reads; several on one grid, whose bands are stacked; or band names with a file each,
        ``{"VV": "a.tif", "VH": "b.tif"}``; or a Sentinel-1 GRD product: its ``.SAFE`` folder, its zip.
    scale : what the pixel values are: db, power, amplitude, dn, reflectance, rgb; or auto, which decides from
        metadata and values (``units.decide_units``) and refuses what it cannot tell.
    nodata : value that is not valid, in place of what the files say. Without it undeclared fill is looked for
        (``geouq.validity``); values that the unit cannot have are not valid either way.
    bidx : numbers (from 1) of the bands to read from each file.
    chunk : side of dask's chunks in pixels, about; they hold whole blocks of the file.
    factor, offset : value · factor + offset is in those units, after the file's own scale; one number, or one a band.
    most_fill : share of pixels above which undeclared fill is refused, instead of noted and left out.
    preprocessing : how a Sentinel-1 product is calibrated and put on a map; for nothing else.

    Returns
    -------
    float32 DataArray (band, y, x), NaN where not valid in that band (nodata, mask, alpha, NaN, inf, or no possible
    measurement); the band's scale and offset are applied, and nothing else. Coordinates: ``band`` names, ``y`` and
    ``x`` of pixel centres (pixel numbers in rotated grids), ``spatial_ref``. Grids are the file's own, also rotated or
    south-up; a raster placed by ground control points alone comes warped through all of them onto a north-up grid. A
    product comes calibrated, on a map, in dB.
    attrs: ``units``, ``units_reason``, ``judged_in`` (the units in which it was looked for what cannot be; set others,
    and it is looked anew), ``source`` (list of paths, masks' and a DEM's too), ``read_as`` (what was asked for beside
    the paths), ``opened`` (which pixels these are: what is made of them, whose attributes may be the same, is looked at
    anew), ``bands`` (the numbers they were chosen by), ``acquired`` (when, if files or their names say it), and
    ``notes`` if anything was unusual.

    Raises
    ------
    SceneError : a file cannot be read or understood, or files do not share one grid.
    UnitsError : ``auto`` cannot tell the units, or most values cannot be in those said.
    InputError : an option is not what it must be.
    """
    scene = describe_scene(
        source,
        scale=scale,
        nodata=nodata,
        bidx=bidx,
        factor=factor,
        offset=offset,
        most_fill=most_fill,
        preprocessing=preprocessing,
    )
    beside = (preprocessing.dem, preprocessing.hand) if preprocessing else ()
    read_as = reading(scale, nodata, bidx, (factor, offset), preprocessing)
    return lazy_scene(scene, chunk, [path for path in beside if path], read_as, bidx)


def lazy_scene(
    scene: Scene, chunk: int, beside: Sequence[str], read_as: str, bidx: Sequence[int] | None
) -> xr.DataArray:
    """Return a described scene as ``open_scene`` gives it; ``beside`` are further files that it is made from."""
    if chunk < 1:
        raise InputError(f"chunk is {chunk}: give a number of pixels, 1 or more")
    import xarray as xr  # here, for it takes most of a second, and neither a refusal nor a description needs it

    from geouq.rasters.coords import grid_coords

    attrs: dict[str, object] = {"units": scene.units, "units_reason": scene.units_reason}
    attrs["judged_in"] = scene.units
    attrs["source"] = [*scene.paths, *scene.masks, *beside]
    attrs["read_as"] = read_as
    if bidx:
        attrs["bands"] = list(bidx)
    if scene.notes:
        attrs["notes"] = "; ".join(note.replace("; ", ", ") for note in scene.notes)
    if scene.unlike:
        attrs["unlike"] = scene.unlike
    if scene.acquired:
        attrs["acquired"] = scene.acquired
    coords = {"band": list(scene.names), **grid_coords(scene.geobox, scene.parts[0].path)}
    pixels = _lazy(scene.parts, chunk)
    attrs["opened"] = opened(scene.names, pixels)
    array = xr.DataArray(pixels, dims=("band", "y", "x"), coords=coords, attrs=attrs)
    array.encoding["grid_mapping"] = "spatial_ref"
    return array


def reading(
    scale: str,
    nodata: float | None,
    bidx: Sequence[int] | None,
    scaling: Sequence[float | Sequence[float]],
    preprocessing: Preprocessing | None,
) -> str:
    """Return all that was asked for beside the paths, as text: two readings of the same files may differ by it."""
    factor, offset = (_numbers(name, given) for name, given in zip(("factor", "offset"), scaling, strict=True))
    asked: dict[str, object] = {"scale": scale.lower(), "nodata": nodata, "bidx": None if bidx is None else list(bidx)}
    if (factor, offset) != ((1.0,), (0.0,)):
        asked |= {"factor": list(factor), "offset": list(offset)}
    steps = asdict(preprocessing or Preprocessing())
    steps |= {name: os.path.basename(steps[name]) for name in ("dem", "hand") if steps.get(name)}
    return ", ".join(f"{name} {value}" for name, value in (asked | steps).items() if value is not None)


def describe_scene(
    source: Source,
    *,
    scale: str = "auto",
    nodata: float | None = None,
    bidx: Sequence[int] | None = None,
    factor: float | Sequence[float] = (1.0,),
    offset: float | Sequence[float] = (0.0,),
    most_fill: float = REFUSED,
    preprocessing: Preprocessing | None = None,
) -> Scene:
    """Settle grid, bands and units of a scene; see ``open_scene`` for parameters and errors."""
    if scale.lower() not in ("auto", *SCALES):
        raise InputError(f"scale {scale!r} is none of auto, {', '.join(SCALES)}")
    keys, paths = _sources(source)
    for path in paths:
        guard(path)
    scaling = _numbers("factor", factor), _numbers("offset", offset)
    request = Request(keys, paths, scale.lower(), nodata, bidx, preprocessing, *scaling, most_fill)
    return next(opener.opens(request) for opener in OPENERS if opener.recognises(request))


def _numbers(name: str, given: float | Sequence[float]) -> tuple[float, ...]:
    """Return one number or several as floats; raise InputError for what is none."""
    try:
        return tuple(map(float, given if isinstance(given, Iterable) else (given,)))
    except (TypeError, ValueError):
        raise InputError(f"{name}={given!r}: give a number, or one a band") from None


def _sources(source: Source) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Band names that were given with the paths (empty strings otherwise), and paths."""
    if isinstance(source, Mapping):
        return tuple(source), tuple(os.fspath(path) for path in source.values())
    paths = [source] if isinstance(source, str | os.PathLike) or not isinstance(source, Iterable) else list(source)
    if isinstance(source, bytes) or not all(isinstance(path, str | os.PathLike) for path in paths):
        raise SceneError(f"a scene cannot be opened from {type(source).__name__}: give a path or a URL, or several")
    if not all(map(str, paths)) or not paths:
        raise SceneError("no file given: name a raster")
    return ("",) * len(paths), tuple(os.fspath(path) for path in paths)


def _lazy(parts: Sequence[BandPixels], chunk: int) -> da.Array:
    """The stacked parts as one dask array; a task reads one chunk of one file."""
    import dask.array as da  # here, as xarray above
    from dask.base import tokenize

    rows, columns = chunk_shape(parts[0].shape[1:], parts[0].block, chunk)
    deep = max(1, _CHUNK_BYTES // (4 * rows * columns))
    arrays = []
    for part in parts:
        name = f"scene-{tokenize(part.token, rows, columns)}"
        arrays.append(
            da.from_array(part, chunks=(deep, rows, columns), name=name, meta=np.empty((0, 0, 0), np.float32))
        )
    joined: da.Array = da.concatenate(arrays) if len(arrays) > 1 else arrays[0]
    return joined
