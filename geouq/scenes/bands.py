"""What the bands of a scene are called, and what their values mean and can be: from names, tags and a few values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from geouq.errors import UnitsError
from geouq.likeness import unlike
from geouq.rasters.raster import Band, Raster, read_window
from geouq.rasters.windowed import first_windows, spread_out
from geouq.scenes.scene import Request
from geouq.sentinel1.safe import POLARISATIONS
from geouq.units import BACKSCATTER, DB, SCALES, Clues, convert, decide_units, likelier
from geouq.validity import judge

#: words that may stand beside a polarisation in a band's name without making it something else
_BACKSCATTER_WORDS = set("sigma0 gamma0 beta0 sigma gamma beta nought db linear power amplitude intensity".split())
_BACKSCATTER_WORDS |= set("backscatter band polarisation polarization".split())
#: what two bands without names are called until their unit is known; in dB they are taken as VV and VH
NAMELESS = ("band1", "band2")
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


def nameless(names: Sequence[str]) -> bool:
    """True if names of bands only count them."""
    return all(re.fullmatch(r"(band)?[ _]?\d*", name.lower()) for name in names)


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


def measured(
    rasters: Sequence[Raster], names: Sequence[str], request: Request
) -> tuple[list[Raster], str, str, list[str], str]:
    """Settle what values mean, and which of them can be measurements.

    Decided from the bands named by polarisation, if there are any, and for them alone.

    Returns
    -------
    The rasters with rules for their bands, the unit, why it is that, notes on what is not valid, and why the bands are
    no radar image though their unit is one of backscatter (empty if nothing speaks against it; also among the notes).

    Raises
    ------
    UnitsError : units cannot be told, or most values cannot be in them.
    """
    polarised = {name for name in names if name.split("_")[0] in POLARISATIONS and name[2:].strip("_0123456789") == ""}
    chosen = polarised or set(names)
    rest = iter(names)
    own = [[next(rest) for _ in raster.bands] for raster in rasters]
    numbers = [[i for i, name in enumerate(group) if name in chosen] for group in own]
    picked = [
        replace(raster, bands=tuple(raster.bands[i] for i in some))
        for raster, some in zip(rasters, numbers, strict=True)
    ]
    looks = [look(raster) if raster.bands else [] for raster in picked]
    unit, reason = _units([raster for raster in picked if raster.bands], looks, bool(polarised), request.scale)
    ruled, notes, medians = list(rasters), list[str](), dict[str, float]()
    for at, (some, windows) in enumerate(zip(numbers, looks, strict=True)):
        if some:
            ruled[at], told = _ruled(rasters[at], some, windows, unit, request)
            notes += told
            seen = _medians(ruled[at], windows, some)
            medians |= {own[at][number]: median for number, median in zip(some, seen, strict=False)}
    doubt = _unlike(ruled, numbers, looks, own, unit) if unit in BACKSCATTER else ""
    doubt = likelier(unit, medians) or doubt
    return ruled, unit, reason, [*notes, *filter(None, [doubt])], doubt


def _unlike(
    rasters: Sequence[Raster],
    numbers: Sequence[Sequence[int]],
    looks: Sequence[list[np.ndarray]],
    names: Sequence[Sequence[str]],
    unit: str,
) -> str:
    """Say why some of the rasters' bands, which were looked at, are no radar image; empty if they may be."""
    bands: dict[str, list[np.ndarray]] = {}  # name: windows (h, w) in dB
    for raster, some, windows, own in zip(rasters, numbers, looks, names, strict=True):
        for at, number in enumerate(some[: len(windows[0]) if windows else 0]):
            rule = raster.bands[number].rule
            seen = [np.where(rule.breaks(window[at]), np.float32(np.nan), window[at]) for window in windows]
            bands[own[number]] = [convert(window, unit, DB) for window in seen]
    if unit == DB and tuple(bands) == NAMELESS:
        bands = dict(zip(("VV", "VH"), bands.values(), strict=True))
    if len({tuple(window.shape for window in windows) for windows in bands.values()}) != 1:
        return ""  # of several grids, which is refused elsewhere, or of one file the windows that are not empty
    return unlike([np.stack(windows) for windows in zip(*bands.values(), strict=True)], list(bands))


def _medians(raster: Raster, windows: Sequence[np.ndarray], numbers: Sequence[int]) -> list[float]:
    """Return the median of what can be a measurement of each of some bands, NaN where there is none."""
    found = []
    for at, number in enumerate(numbers[: len(windows[0]) if windows else 0]):
        values = np.concatenate([window[at].ravel() for window in windows])
        values = values[np.isfinite(values) & ~raster.bands[number].rule.breaks(values)]
        found.append(float(np.median(values)) if values.size else np.nan)
    return found


def _ruled(
    raster: Raster, some: Sequence[int], windows: Sequence[np.ndarray], unit: str, request: Request
) -> tuple[Raster, Sequence[str]]:
    """Give rules to ``some`` of a raster's bands, the first of which were looked at; and what is to be noted."""
    try:
        validity = judge(windows, unit, request.nodata is None, request.most_fill)
    except UnitsError as error:
        raise UnitsError(f"{raster.path}: {error}") from error
    beyond = replace(validity.rules[0], fills=(), speckle=None)
    rules = dict.fromkeys(some, beyond) | dict(zip(some, validity.rules, strict=False))
    bands = tuple(replace(band, rule=rules[i]) if i in rules else band for i, band in enumerate(raster.bands))
    whole = len(bands) == len(validity.rules)
    return replace(raster, bands=bands, shared_fill=validity.shared if whole else ()), validity.notes


def _units(
    rasters: Sequence[Raster], looks: Sequence[list[np.ndarray]], polarised: bool, scale: str
) -> tuple[str, str]:
    """Units of the scene and why, from bands and the windows of each file that were looked at."""
    bands = [band for raster in rasters for band in raster.bands]
    looked = [np.concatenate([w.reshape(len(w), -1) for w in windows], axis=1) for windows in looks if windows]
    clues = Clues(
        files=tuple(raster.stem for raster in rasters),
        labels=tuple(band.label for band in bands),
        unit_tags=tuple(dict.fromkeys(band.unit_tag for band in bands if band.unit_tag)),
        dtype=bands[0].dtype,
        scaled=any((band.scale, band.offset) != (1, 0) for band in bands),
        polarised=polarised,
        colour=_is_colour(bands),
        grd=all(raster.grd for raster in rasters),
        values=tuple(band[np.isfinite(band)] for values in looked for band in values),
    )
    try:
        return decide_units(clues, "" if scale == "auto" else SCALES[scale])
    except UnitsError as error:
        raise UnitsError(f"{rasters[0].path}: {error}") from error


def look(raster: Raster, edges: bool = True, most_bands: int = 8) -> list[np.ndarray]:
    """Return the windows (bands, h, w) of a raster that are looked at first, always the same ones.

    A raster whose windows hold no valid pixel is looked at in 256 windows of 32² instead.
    """
    raster = replace(raster, bands=raster.bands[:most_bands])
    found = [read_window(raster, raster.bands, *window) for window in first_windows(raster.shape, edges)]
    if any(np.isfinite(window).any() for window in found):
        return found
    rows, columns = (spread_out(length, 16, 32) for length in raster.shape)
    return [read_window(raster, raster.bands, row, column) for row in rows for column in columns]


def _is_colour(bands: Sequence[Band]) -> bool:
    """True for red, green and blue, unless the file says that they stand for polarisations."""
    words = {word.upper() for band in bands for word in _split(band.label)}
    return sorted(band.colour for band in bands) == ["blue", "green", "red"] and not words & set(POLARISATIONS)
