"""What lies beside a scene's files and belongs to it: the other polarisation, masks; and dates in names."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from geouq.rasters.raster import Raster
from geouq.sentinel1.safe import zip_members

_OTHER = {"VV": "VH", "VH": "VV", "HH": "HV", "HV": "HH"}
#: how the files end that analysis-ready products have their masks in: ASF HyP3's and OPERA's
_MASKS = ("ls_map", "mask")
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


def masks(raster: Raster) -> list[str]:
    """Return the masks of layover and shadow that lie beside a band's file: named alike but for the polarisation."""
    folder, name = os.path.split(raster.path)
    return [
        path
        for match in POLARISATION.finditer(name)
        for mask in _MASKS
        if _exists(path := os.path.join(folder, name[: match.start()] + mask + name[match.end() :]))
    ]


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
