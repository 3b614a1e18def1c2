"""``open_scene``: a file, or one file a band, as a lazy (band, y, x) DataArray that knows its grid and units."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import dask.array as da
import numpy as np
import xarray as xr
from dask.base import tokenize

from geouq.errors import InputError, SceneError, UnitsError
from geouq.grid import GeoBox, corners_apart
from geouq.rasters.geocode import geocode
from geouq.rasters.raster import Band, Pixels, Raster, chunk_shape, grid_coords, inspect_raster, read_window
from geouq.rasters.windowed import spread_out
from geouq.sentinel1.grd import POLARISATIONS
from geouq.sentinel1.preprocessing import Preprocessing
from geouq.sentinel1.product import ProductPixels, product_pixels
from geouq.sentinel1.safe import is_product, zip_members
from geouq.units import DB, SCALES, Clues, decide_units

Path = str | os.PathLike[str]
Source = Path | Sequence[Path] | Mapping[str, Path]

#: words that may stand beside a polarisation in a band's name without making it something else
_BACKSCATTER_WORDS = set("sigma0 gamma0 beta0 sigma gamma beta nought db linear power amplitude intensity".split())
_BACKSCATTER_WORDS |= set("backscatter band polarisation polarization".split())
#: words in a file's name that say that it is not backscatter, whatever polarisation stands beside them
_OTHER_WORDS = set("mask label labels water coh coherence inc angle std number nlooks area layover shadow".split())
_CHUNK_BYTES = 64 << 20


@dataclass(frozen=True)
class Scene:
    """What ``open_scene`` has settled before any pixel is read: plain values, but for the lazy parts."""

    parts: tuple[Pixels, ...] | tuple[ProductPixels]
    names: tuple[str, ...]
    units: str
    units_reason: str
    notes: tuple[str, ...]

    @property
    def geobox(self) -> GeoBox:
        """The grid that all parts share."""
        return self.parts[0].geobox


def open_scene(
    source: Source,
    *,
    scale: str = "auto",
    nodata: float | None = None,
    bidx: Sequence[int] | None = None,
    chunk: int = 1024,
    preprocessing: Preprocessing | None = None,
) -> xr.DataArray:
    """Open a scene, lazily: metadata and a few windows are read now, pixels when they are computed.

    Parameters
    ----------
    source : a raster GDAL reads; several on one grid, whose bands are stacked; or band names with a file each,
        ``{"VV": "a.tif", "VH": "b.tif"}``; or a Sentinel-1 GRD product: its ``.SAFE`` folder, its zip.
    scale : what the pixel values are: db, power, amplitude, dn, reflectance, rgb; or auto, which decides from
        metadata and values (``units.decide_units``) and refuses what it cannot tell.
    nodata : value that is not valid, in place of what the files say.
    bidx : numbers (from 1) of the bands to read from each file.
    chunk : side of dask's chunks in pixels, about; they hold whole blocks of the file.
    preprocessing : how a Sentinel-1 product is calibrated and put on a map; for nothing else.

    Returns
    -------
    float32 DataArray (band, y, x), NaN where not valid in that band (nodata, mask, alpha, NaN, inf); the band's
    scale and offset are applied, and nothing else. Coordinates: ``band`` names, ``y`` and ``x`` of pixel centres
    (pixel numbers in rotated grids), ``spatial_ref``. Grids are the file's own, also rotated or south-up; a
    raster placed by ground control points alone comes warped through all of them onto a north-up grid. A product
    comes calibrated, on a map, in dB.
    attrs: ``units``, ``units_reason``, ``source`` (list of paths, a DEM's too), and ``notes`` if anything was unusual.

    Raises
    ------
    SceneError : a file cannot be read or understood, or files do not share one grid.
    UnitsError : ``auto`` cannot tell the units.
    InputError : an option is not what it must be.
    """
    if chunk < 1:
        raise InputError(f"chunk is {chunk}: give a number of pixels, 1 or more")
    scene = describe_scene(source, scale=scale, nodata=nodata, bidx=bidx, preprocessing=preprocessing)
    attrs: dict[str, object] = {"units": scene.units, "units_reason": scene.units_reason}
    beside = (preprocessing.dem, preprocessing.hand) if preprocessing else ()
    attrs["source"] = [part.path for part in scene.parts] + [path for path in beside if path]
    if scene.notes:
        attrs["notes"] = "; ".join(scene.notes)
    coords = {"band": list(scene.names), **grid_coords(scene.geobox)}
    array = xr.DataArray(_lazy(scene.parts, chunk), dims=("band", "y", "x"), coords=coords, attrs=attrs)
    array.encoding["grid_mapping"] = "spatial_ref"
    return array


def describe_scene(
    source: Source,
    *,
    scale: str = "auto",
    nodata: float | None = None,
    bidx: Sequence[int] | None = None,
    preprocessing: Preprocessing | None = None,
) -> Scene:
    """Settle grid, bands and units of a scene; see ``open_scene`` for parameters and errors."""
    if scale.lower() not in ("auto", *SCALES):
        raise InputError(f"scale {scale!r} is none of auto, {', '.join(SCALES)}")
    keys, paths = _sources(source)
    products = [path for path in paths if is_product(path)]
    if products:
        if len(paths) > 1 or scale.lower() != "auto" or nodata is not None:
            raise InputError(
                f"{products[0]}: is a Sentinel-1 product, which is a scene of its own, with known units and nodata: "
                "give it alone, without --scale and --nodata"
            )
        return _product_scene(paths[0], keys[0], bidx, preprocessing or Preprocessing())
    if len(paths) == 1 and not keys[0]:
        keys, paths = band_files(paths[0]) or (keys, paths)
    if preprocessing not in (None, Preprocessing()):
        raise InputError(f"{paths[0]}: is no Sentinel-1 product: leave out the options that say how to process one")
    rasters = [_inspect(path, key, bidx, nodata) for key, path in zip(keys, paths, strict=True)]
    for raster in rasters:
        if any(band.colour == "palette" for band in raster.bands) and scale.lower() != "dn":
            raise SceneError(
                f"{raster.path}: is a palette image, whose values are colour numbers, no measurements: "
                "give the data it was drawn from (or --scale dn, to take the numbers as they are)"
            )
    parts = tuple(geocode(raster) if raster.gcps else Pixels(raster) for raster in rasters)
    for part in parts[1:]:
        _check_same_grid(parts[0], part)
    names = _names(rasters, keys)
    units, reason = _units(rasters, names, scale.lower())
    notes = dict.fromkeys(note for raster in rasters for note in raster.notes)
    if rasters[0].gcps:
        notes[f"warped through its {len(rasters[0].gcps)} ground control points, without terrain correction"] = None
    if units == DB and names == ("band1", "band2"):
        names = ("VV", "VH")
        notes["two bands without names are taken as VV and VH"] = None
    return Scene(parts, names, units, reason, tuple(notes))


def _product_scene(path: str, key: str, bidx: Sequence[int] | None, preprocessing: Preprocessing) -> Scene:
    """A Sentinel-1 product as a scene; ``key`` is the polarisation it was given for, or empty."""
    part = product_pixels(path, key.upper(), bidx, preprocessing)
    names = part.image.polarisations
    return Scene((part,), names, DB, f"calibrated to {part.quantity} here", tuple(dict.fromkeys(part.notes)))


def _sources(source: Source) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Band names that were given with the paths (empty strings otherwise), and paths."""
    if isinstance(source, Mapping):
        return tuple(source), tuple(os.fspath(path) for path in source.values())
    paths = [source] if isinstance(source, str | os.PathLike) else list(source)
    if not all(map(str, paths)) or not paths:
        raise SceneError("no file given: name a raster")
    return ("",) * len(paths), tuple(os.fspath(path) for path in paths)


def _inspect(path: str, key: str, bidx: Sequence[int] | None, nodata: float | None) -> Raster:
    """One file's description; of several bands, the one that is meant by ``key``."""
    try:
        raster = inspect_raster(path, bidx, nodata)
    except SceneError as error:
        inside = _raster_in_zip(path)
        if inside:
            raise SceneError(f"{path}: is an archive: give what is in it, such as {inside}") from error
        if os.path.isdir(path):
            raise SceneError(f"{path}: is a folder: give a raster in it") from error
        raise
    if key and len(raster.bands) > 1:
        meant = [band for band in raster.bands if _polarisation(band.label) == key.upper()]
        if len(meant) != 1:
            raise SceneError(f"{path}: has {len(raster.bands)} bands: say with --bidx which one is {key}")
        raster = replace(raster, bands=tuple(meant))
    return raster


def band_files(path: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """Polarisations and files of the one scene whose bands lie in a folder or zip, as analysis-ready ones come.

    None for anything else, and where there are no files that are alike but for the polarisation in their names.

    Raises
    ------
    SceneError : there are several such scenes.
    """
    if os.path.isdir(path):
        inside = [os.path.join(path, name) for name in sorted(os.listdir(path))]
    elif path.lower().endswith(".zip") and os.path.isfile(path):
        inside = [f"/vsizip/{path}/{name}" for name in sorted(zip_members(path))]
    else:
        return None
    scenes: dict[str, dict[str, str]] = {}
    for file in inside:
        match = re.match(r"(.*[_-])(VV|VH|HH|HV)((?:\.rtc)?\.tiff?)$", file, re.IGNORECASE)
        if match:
            scenes.setdefault(f"{match[1]}*{match[3]}", {})[match[2].upper()] = file
    if len(scenes) > 1:
        some = ", ".join(os.path.basename(name) for name in list(scenes)[:3])
        raise SceneError(f"{path}: holds {len(scenes)} scenes ({some} …): give one, its files by --vv and --vh")
    found = next(iter(scenes.values()), {})
    names = tuple(name for name in POLARISATIONS if name in found)
    return (names, tuple(found[name] for name in names)) if found else None


def _raster_in_zip(path: str) -> str:
    """GDAL's name for the first raster in an archive, or for the archive's whole content; empty if it is none."""
    members = zip_members(path) if path.lower().endswith(".zip") and os.path.isfile(path) else []
    rasters = [name for name in members if name.lower().endswith((".tif", ".tiff", ".vrt", ".img"))]
    return f"/vsizip/{path}/{rasters[0]}" if rasters else f"/vsizip/{path}" if members else ""


def _check_same_grid(first: Pixels, other: Pixels) -> None:
    """Raise SceneError unless both have the same shape and CRS, and corners within a hundredth of a pixel."""
    a, b = first.geobox, other.geobox
    why = ""
    if a.shape != b.shape:
        why = f"{a.shape[1]} x {a.shape[0]} and {b.shape[1]} x {b.shape[0]} pixels"
    elif a.crs != b.crs:
        why = f"their CRS are {a.crs} and {b.crs}"
    elif corners_apart(a, b) > 0.01:
        why = "their transforms differ"
    if why:
        raise SceneError(
            f"{first.path} and {other.path}: are not on one grid ({why}): warp one onto the other's grid first"
        )


# --- band names and units --------------------------------------------------------------------------------


def _split(text: str) -> list[str]:
    return [word for word in re.split(r"[^A-Za-z0-9]+", text) if word]


def _polarisation(text: str, among: set[str] | None = None) -> str:
    """The one polarisation a text names, if no word beside it says otherwise; else an empty string."""
    words = _split(text)
    named = [word.upper() for word in words if word.upper() in POLARISATIONS]
    others = {word.lower() for word in words if word.upper() not in POLARISATIONS}
    clear = others <= _BACKSCATTER_WORDS if among is None else not others & among
    return named[0] if len(named) == 1 and clear else ""


def _names(rasters: Sequence[Raster], keys: Sequence[str]) -> tuple[str, ...]:
    """Band names: as given, as the file labels them, from the file's name or colours, or ``band1`` …; no two alike."""
    names: list[str] = []
    seen: Counter[str] = Counter()
    for raster, key in zip(rasters, keys, strict=True):
        labels = [band.label.strip() for band in raster.bands]
        if len(labels) > 1 and len(set(labels)) == 1 and not _polarisation(labels[0]):
            labels = [""] * len(labels)
        from_file = _polarisation(raster.stem, _OTHER_WORDS) if len(labels) == 1 else ""
        for band, label in zip(raster.bands, labels, strict=True):
            number = band.index if len(rasters) == 1 else len(names) + 1
            colour = band.colour if band.colour in ("red", "green", "blue") else ""
            given = key.upper() if key.upper() in POLARISATIONS else key
            name = given or _polarisation(label) or from_file or label or colour or f"band{number}"
            seen[name] += 1
            names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return tuple(names)


def _units(rasters: Sequence[Raster], names: Sequence[str], scale: str) -> tuple[str, str]:
    """Units of the scene and why; decided from the bands named by polarisation, if there are any."""
    if scale != "auto":
        return SCALES[scale], f"given as --scale {scale}"
    polarised = {name for name in names if name.split("_")[0] in POLARISATIONS and name[2:].strip("_0123456789") == ""}
    chosen = polarised or set(names)
    rest = iter(names)
    picked = [
        replace(raster, bands=tuple(band for band, name in zip(raster.bands, rest, strict=False) if name in chosen))
        for raster in rasters
    ]
    picked = [raster for raster in picked if raster.bands]
    bands = [band for raster in picked for band in raster.bands]
    clues = Clues(
        files=tuple(raster.stem for raster in picked),
        labels=tuple(band.label for band in bands),
        unit_tags=tuple(dict.fromkeys(band.unit_tag for band in bands if band.unit_tag)),
        dtype=bands[0].dtype,
        scaled=any((band.scale, band.offset) != (1, 0) for band in bands),
        polarised=bool(polarised),
        colour=_is_colour(bands),
        grd=all(raster.grd for raster in picked),
        values=tuple(band[np.isfinite(band)] for raster in picked for band in probe(raster)),
    )
    try:
        return decide_units(clues)
    except UnitsError as error:
        raise UnitsError(f"{picked[0].path}: {error}") from error


def probe(raster: Raster, most_bands: int = 8) -> np.ndarray:
    """Return values (bands, n) from at most 16 windows of 128² spread over the raster, always the same ones.

    A raster whose 16 windows hold no valid pixel is looked at in 256 windows of 32².
    """
    bands = raster.bands[:most_bands]
    values = np.empty((len(bands), 0), np.float32)
    for per_side, size in ((4, 128), (16, 32)):
        windows = [
            read_window(raster, bands, rows, columns).reshape(len(bands), -1)
            for rows in spread_out(raster.shape[0], per_side, size)
            for columns in spread_out(raster.shape[1], per_side, size)
        ]
        values = np.concatenate(windows, axis=1)
        if np.isfinite(values).any():
            break
    return values


def _is_colour(bands: Sequence[Band]) -> bool:
    """True for red, green and blue, unless the file says that they stand for polarisations."""
    words = {word.upper() for band in bands for word in _split(band.label)}
    return sorted(band.colour for band in bands) == ["blue", "green", "red"] and not words & set(POLARISATIONS)


def _lazy(parts: Sequence[Pixels | ProductPixels], chunk: int) -> da.Array:
    """The stacked parts as one dask array; a task reads one chunk of one file."""
    rows, columns = chunk_shape(parts[0].shape[1:], parts[0].block, chunk)
    deep = max(1, _CHUNK_BYTES // (4 * rows * columns))
    arrays = []
    for part in parts:
        name = f"scene-{tokenize(part.token, rows, columns)}"
        arrays.append(
            da.from_array(part, chunks=(deep, rows, columns), name=name, meta=np.empty((0, 0, 0), np.float32))
        )
    return da.concatenate(arrays) if len(arrays) > 1 else arrays[0]
