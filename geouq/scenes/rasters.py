"""A scene from rasters: one file or several on one grid, or the files of one scene in a folder or zip."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np

from geouq.errors import InputError, SceneError
from geouq.grid import corners_apart
from geouq.rasters.geocode import geocode
from geouq.rasters.raster import Band, Pixels, Raster, inspect_raster
from geouq.scenes.bands import NAMELESS, band_names, measured, polarisation_in
from geouq.scenes.beside import date, masks, several, sibling, with_mask
from geouq.scenes.scene import Request, Scene
from geouq.sentinel1.preprocessing import Preprocessing
from geouq.sentinel1.safe import POLARISATIONS, zip_members
from geouq.units import DB

#: how rasters end that are looked for in folders and archives
RASTERS = (".tif", ".tiff", ".vrt", ".img")
#: what to do about several scenes that were given as one
_ONE = "give one, its bands by --vv and --vh, or -o FOLDER/ for a map each"


def raster_scene(request: Request) -> Scene:
    """Open one raster, or several on one grid whose bands are stacked; see ``open_scene`` for errors."""
    keys, paths = request.keys, request.paths
    if request.preprocessing not in (None, Preprocessing()):
        asked = " ".join(f"--{name}" for name in _given(request.preprocessing))
        raise InputError(
            f"{paths[0]}: is no Sentinel-1 product as ESA delivers it (.SAFE, .zip), which {asked} is for: leave it out"
        )
    numbers = _numbers(request)
    rasters = [_inspect(path, key, bidx, request.nodata) for key, path, bidx in zip(keys, paths, numbers, strict=True)]
    for raster in rasters:
        if any(band.colour == "palette" for band in raster.bands) and request.scale != "dn":
            raise SceneError(
                f"{raster.path}: is a palette image, whose values are colour numbers, no measurements: "
                "give the data it was drawn from (or --scale dn, to take the numbers as they are)"
            )
    if request.rescaled:
        rasters = _rescaled(rasters, request.factor, request.offset)
    names = band_names(rasters, keys)
    rasters = [with_mask(raster) for raster in rasters]
    rasters, units, reason, fill, unlike = measured(rasters, names, request)
    parts = tuple(geocode(raster) if raster.gcps else Pixels(raster) for raster in rasters)
    for part in parts[1:]:
        _check_same_grid(parts[0], part)
    notes = dict.fromkeys([*(note for raster in rasters for note in raster.notes), *fill])
    own = _own_names(rasters, names)
    if apart := several(rasters, own):
        if not all(keys):
            raise SceneError(f"{apart}, so they are several scenes: {_ONE}")
        days = " and ".join(
            f"{bands[0]} of {date(raster)}" for raster, bands in zip(rasters, own, strict=True) if date(raster)
        )
        unlike = unlike or f"its bands are of several days ({days}), and a model looks at one image"
        notes[unlike] = None
    notes |= dict.fromkeys(_told(rasters, own))
    if rasters[0].gcps:
        notes[f"warped through its {len(rasters[0].gcps)} ground control points, without terrain correction"] = None
    if units == DB and names == NAMELESS:
        names = ("VV", "VH")
        notes["two bands without names are taken as VV and VH"] = None
    taken = min((raster.acquired for raster in rasters if raster.acquired), default="")
    return Scene(parts, names, units, reason, tuple(notes), taken, unlike)


def _given(preprocessing: Preprocessing) -> list[str]:
    """Names of the options that are not as by default."""
    return [
        name if value is not False else f"no-{name}"
        for name, value in asdict(preprocessing).items()
        if value != getattr(Preprocessing(), name)
    ]


def _numbers(request: Request) -> list[Sequence[int] | None]:
    """Numbers of the bands to read from each file: one each where bands have files and as many numbers are given."""
    bidx, count = request.bidx, len(request.paths)
    if bidx and all(request.keys) and len(bidx) == count > 1:
        return [[number] for number in bidx]
    return [bidx] * count


def _own_names(rasters: Sequence[Raster], names: Sequence[str]) -> list[list[str]]:
    """Return the names of each raster's bands, without the numbers that tell them apart."""
    rest = iter(names)
    return [[_without_number(next(rest)) for _ in raster.bands] for raster in rasters]


def _told(rasters: Sequence[Raster], own: Sequence[Sequence[str]]) -> list[str]:
    """Say what a user may have meant otherwise; ``own`` are the names of each raster's bands."""
    notes = []
    for bands in own:
        for name in {name for name in bands if bands.count(name) > 1 and name in POLARISATIONS}:
            notes.append(f"{bands.count(name)} bands are called {name}, and the first is taken: choose with --bidx")
    other = sibling(rasters[0]) if len(rasters) == 1 and len(own[0]) == 1 and own[0][0] in POLARISATIONS else None
    if other:
        notes.append(f"{rasters[0].path} is {own[0][0]} alone, and {other} lies beside it: give both (--vv, --vh)")
    used = {raster.layover[0][0] for raster in rasters if raster.layover}
    for mask in dict.fromkeys(mask for raster in rasters for mask in masks(raster)):
        what = "not classified there" if mask in used else "it is not used: what is water there may be shadow"
        notes.append(f"{mask} marks layover and shadow: {what}")
    return notes


def _without_number(name: str) -> str:
    """A band's name without the number that tells it from one of the same name."""
    return re.sub(r"^(VV|VH|HH|HV|red|green|blue)_[0-9]+$", r"\1", name)


def is_bundle(request: Request) -> bool:
    """True for one folder or zip that holds the bands of one scene, a file each."""
    return len(request.paths) == 1 and not request.keys[0] and band_files(request.paths[0]) is not None


def bundle_scene(request: Request) -> Scene:
    """Open the files of one scene in a folder or zip."""
    keys, paths = band_files(request.paths[0]) or (request.keys, request.paths)
    return raster_scene(replace(request, keys=keys, paths=paths))


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
        meant = [band for band in raster.bands if polarisation_in(band.label) == key.upper()]
        if len(meant) != 1:
            raise SceneError(f"{path}: has {len(raster.bands)} bands: say with --bidx which one is {key}")
        raster = replace(raster, bands=tuple(meant))
    return raster


def _rescaled(rasters: Sequence[Raster], factor: Sequence[float], offset: Sequence[float]) -> list[Raster]:
    """Return rasters whose values are taken times ``factor`` plus ``offset``, after the file's own scale."""
    count = sum(len(raster.bands) for raster in rasters)
    for name, values in (("factor", factor), ("offset", offset)):
        if len(values) not in (1, count) or not np.isfinite(values).all():
            given = ", ".join(f"{value:g}" for value in values)
            raise InputError(f"{rasters[0].path}: has {count} bands, and {name} is {given}: give 1 number, or {count}")
    by = iter(np.broadcast_to(factor, count).tolist())
    plus = iter(np.broadcast_to(offset, count).tolist())
    return [
        replace(raster, bands=tuple(_times(band, next(by), next(plus)) for band in raster.bands)) for raster in rasters
    ]


def _times(band: Band, factor: float, offset: float) -> Band:
    return replace(band, scale=band.scale * factor, offset=band.offset * factor + offset)


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
    rasters = [name for name in members if name.lower().endswith(RASTERS)]
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
