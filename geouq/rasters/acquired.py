"""When an image was taken, where its file says so: in its metadata, or in its name as archives give names."""

from __future__ import annotations

import re
from collections.abc import Mapping

#: GDAL's Sentinel-1 driver, others, OPERA. TIFFTAG_DATETIME is none of them: it is when a program wrote the file.
_TAGS = ("ACQUISITION_START_TIME", "ACQUISITION_DATETIME", "ACQUISITION_DATE", "ZERO_DOPPLER_START_TIME")
_DAY = r"((?:19|20)\d\d){0}(0[1-9]|1[0-2]){0}(0[1-9]|[12]\d|3[01])"
_CLOCK = r"([01]\d|2[0-3]){0}([0-5]\d){0}([0-5]\d)"
_SAID = re.compile(rf"{_DAY.format('-')}(?:[T ]{_CLOCK.format(':')}|(?!\d))")
_NAMED = re.compile(rf"(?<!\d){_DAY.format('')}(?:[Tt]{_CLOCK.format('')}|(?!\d))")


def acquired(stem: str, tags: Mapping[str, str]) -> str:
    """Return when an image was taken (UTC), YYYY-MM-DDThh:mm:ssZ or YYYY-MM-DD alone; empty if nothing says it.

    Parameters
    ----------
    stem : the file's name: its first date is that of the image in those of ESA, OPERA and HyP3.
    tags : the file's metadata, which go before the name.
    """
    said = (match for tag in _TAGS if (match := _SAID.match(tags.get(tag, ""))))
    match = next(said, None) or _NAMED.search(stem)
    if not match:
        return ""
    year, month, day, *clock = match.groups()
    return f"{year}-{month}-{day}" + (f"T{':'.join(clock)}Z" if clock[0] else "")
