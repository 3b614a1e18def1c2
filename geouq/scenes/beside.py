"""What lies beside a scene's files and belongs to it: the other polarisation, masks; and dates in names."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from geouq.rasters.raster import Raster, inspect_raster
from geouq.sentinel1.safe import zip_members

_OTHER = {"VV": "VH", "VH": "VV", "HH": "HV", "HV": "HH"}


@dataclass(frozen=True)
class Masks:
    """How a kind of product marks layover and shadow: in files whose names end so, by these bits of a byte.

    A file of that ending beside files that are not called as the product's (``named``) may mean anything.
    """

    ending: str
    named: re.Pattern[str]
    bits: int


#: ASF HyP3, from GAMMA: 2 and 4 active and passive layover, 8 and 16 shadow (HyP3 RTC Product Guide). OPERA: 1 shadow,
#: 2 layover, 3 both, 255 fill (OPERA RTC-S1 Product Specification, JPL D-108758).
_MASKS = (
    Masks("ls_map", re.compile(r"_RTC\d+_[A-Z]_[gs][pda][uw][nf][ec][dm]_"), 2 | 4 | 8 | 16),
    Masks("mask", re.compile(r"^OPERA_L2_RTC-S1_"), 1 | 2),
)
POLARISATION = re.compile(r"(?<![A-Za-z])(VV|VH|HH|HV)(?![A-Za-z])", re.IGNORECASE)
_DATE = re.compile(r"(?<![0-9])((?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01]))(?![0-9])")


def sibling(raster: Raster) -> str | None:
    """Return the file beside this one whose name differs by the polarisation alone; None without one."""
    folder, name = os.path.split(raster.path)
    for match in POLARISATION.finditer(name):
        other = _OTHER[match[0].upper()]
        other = other.lower() if match[0].islower() else other
        path = os.path.join(folder, name[: match.start()] + other + name[match.end() :])
        if _exists(path):
            return path
    return None


def masks(raster: Raster) -> dict[str, int]:
    """Return the masks of layover and shadow beside a band's file, named alike but for the polarisation.

    By path, with the bits of their values that mark layover and shadow; 0 where that is not known.
    """
    folder, name = os.path.split(raster.path)
    found = {}
    for match in POLARISATION.finditer(name):
        for kind in _MASKS:
            path = os.path.join(folder, name[: match.start()] + kind.ending + name[match.end() :])
            if _exists(path):
                found[path] = kind.bits if kind.named.search(name) else 0
    return found


def with_mask(raster: Raster) -> Raster:
    """Return a raster that is not valid where a mask beside it marks layover or shadow, if one on its grid does."""
    for path, bits in masks(raster).items():
        if not bits or raster.gcps:
            continue
        mask = inspect_raster(path)
        same = mask.shape == raster.shape and mask.crs == raster.crs and mask.transform == raster.transform
        if same and [band.dtype for band in mask.bands] == ["uint8"]:
            return replace(raster, layover=(mask.key, bits))
    return raster


def date(raster: Raster) -> str:
    """Return the first date (YYYYMMDD) in a file's name, which is that of the image; empty without one."""
    match = _DATE.search(raster.stem.replace("T", " "))
    return match[1] if match else ""


def several(rasters: Sequence[Raster], names: Sequence[Sequence[str]]) -> str:
    """Say why files are several scenes and not bands of one: the same band twice, or two dates; empty if they are one.

    ``names`` are those of each file's bands.
    """
    owners: dict[str, Raster] = {}
    for raster, bands in zip(rasters, names, strict=True):
        for band in bands:
            other = owners.setdefault(band, raster)
            if other is not raster:
                return f"{raster.path} and {other.path}: both hold {band}"
    dates = {date(raster): raster for raster in rasters if date(raster)}
    if len(dates) > 1:
        (first, a), (second, b) = list(dates.items())[:2]
        return f"{a.path} and {b.path}: are of {first} and {second}"
    return ""


def _exists(path: str) -> bool:
    archive = re.match(r"/vsizip/(.+?\.zip)/(.+)$", path, re.IGNORECASE)
    if archive and os.path.isfile(archive[1]):
        return archive[2] in zip_members(archive[1])
    return os.path.isfile(path)
