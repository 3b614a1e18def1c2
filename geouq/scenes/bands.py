"""What the bands of a scene are called and what unit they are in: from labels, file names, tags and a few values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from geouq.errors import UnitsError
from geouq.rasters.raster import Band, Raster, read_window
from geouq.rasters.windowed import spread_out
from geouq.sentinel1.safe import POLARISATIONS
from geouq.units import SCALES, Clues, decide_units

#: words that may stand beside a polarisation in a band's name without making it something else
_BACKSCATTER_WORDS = set("sigma0 gamma0 beta0 sigma gamma beta nought db linear power amplitude intensity".split())
_BACKSCATTER_WORDS |= set("backscatter band polarisation polarization".split())
#: words in a file's name that say that it is not backscatter, whatever polarisation stands beside them
_OTHER_WORDS = set("mask label labels water coh coherence inc angle std number nlooks area layover shadow".split())


def _split(text: str) -> list[str]:
    return [word for word in re.split(r"[^A-Za-z0-9]+", text) if word]


def polarisation_in(text: str, among: set[str] | None = None) -> str:
    """The one polarisation a text names, if no word beside it says otherwise; else an empty string."""
    words = _split(text)
    named = [word.upper() for word in words if word.upper() in POLARISATIONS]
    others = {word.lower() for word in words if word.upper() not in POLARISATIONS}
    clear = others <= _BACKSCATTER_WORDS if among is None else not others & among
    return named[0] if len(named) == 1 and clear else ""


def band_names(rasters: Sequence[Raster], keys: Sequence[str]) -> tuple[str, ...]:
    """Band names: as given, as the file labels them, from the file's name or colours, or ``band1`` …; no two alike."""
    names: list[str] = []
    seen: Counter[str] = Counter()
    for raster, key in zip(rasters, keys, strict=True):
        labels = [band.label.strip() for band in raster.bands]
        if len(labels) > 1 and len(set(labels)) == 1 and not polarisation_in(labels[0]):
            labels = [""] * len(labels)
        from_file = polarisation_in(raster.stem, _OTHER_WORDS) if len(labels) == 1 else ""
        for band, label in zip(raster.bands, labels, strict=True):
            number = band.index if len(rasters) == 1 else len(names) + 1
            colour = band.colour if band.colour in ("red", "green", "blue") else ""
            given = key.upper() if key.upper() in POLARISATIONS else key
            name = given or polarisation_in(label) or from_file or label or colour or f"band{number}"
            seen[name] += 1
            names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return tuple(names)


def scene_units(rasters: Sequence[Raster], names: Sequence[str], scale: str) -> tuple[str, str]:
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
