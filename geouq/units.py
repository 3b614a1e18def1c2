"""What a pixel value means: names of units, exact conversions between them, and refusals.

Backscatter comes as linear power (sigma0, gamma0), as amplitude (its square root), in decibels
(10·log10 of power), or as uncalibrated digital numbers (DN); optical images as reflectance (0..1) or as
8-bit RGB. dB, power and amplitude convert into one another exactly; nothing else does, and geouq never
guesses a calibration or stretches pixel values by a scene's own statistics. ``decide_units`` tells the units of
a scene from what its files say and from some of its values, or refuses.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from geouq.errors import UnitsError

DB, POWER, AMPLITUDE, DN, REFLECTANCE, RGB = "dB", "power", "amplitude", "dn", "reflectance", "rgb"

#: Units of a scene in which no valid pixel was seen. It fits any model, as long as no valid pixel turns up.
UNKNOWN = "unknown"

#: what ``--scale`` may be given, and the unit it names
SCALES = {
    "db": DB,
    "power": POWER,
    "amplitude": AMPLITUDE,
    "dn": DN,
    "reflectance": REFLECTANCE,
    "rgb": RGB,
}

#: other names that a DataArray's ``units`` may have for them
SYNONYMS = {"decibel": DB, "decibels": DB, "linear": POWER, "intensity": POWER}


def named_unit(name: str) -> str | None:
    """Return the unit that is called ``name``, by its own name or another, in any letters; None if there is none."""
    known = {unit.lower(): unit for unit in (*SCALES.values(), UNKNOWN)} | SYNONYMS
    return known.get(name.lower())


#: Power at and below this (negative after noise subtraction, say) is reported as this many dB; far below
#: Sentinel-1's noise floor of about -22..-30 dB, so no surface is told apart by it.
FLOOR_DB = -60.0
#: Stands for the power of a valid pixel that came out as exactly 0, which would read as not measured.
LEAST_POWER = np.finfo(np.float32).tiny

#: units that convert into one another exactly
BACKSCATTER = (DB, POWER, AMPLITUDE)


@dataclass(frozen=True)
class Range:
    """Values that a unit can have at all, both ends included, and where they are from."""

    low: float
    high: float
    source: str


#: What lies outside cannot be a measurement, and is not valid. Units that are not here (dn) may hold anything.
RANGES = {
    DB: Range(
        -80.0,
        60.0,
        "16-bit Sentinel-1 images end at 65535² / A², 52 dB with the least A of calibration tables (170, stripmap "
        "gamma); noise is at most -22 dB (NESZ, ESA Sentinel-1 User Handbook), and what is left once it is "
        "subtracted lies a few decades below",
    ),
    POWER: Range(-0.1, 1e6, "as dB; where noise was subtracted, no lower than minus ten times the noise of -20 dB"),
    AMPLITUDE: Range(0.0, 1e3, "as dB"),
    REFLECTANCE: Range(
        -0.2, 1.6, "valid range of Landsat Collection 2 Level-2 surface reflectance, 1 to 65455 scaled (USGS LSDS-1619)"
    ),
    RGB: Range(0.0, 255.0, "8 bits"),
}
_FLAGS = f"{', '.join(list(SCALES)[:-1])} or {list(SCALES)[-1]}"


def convert(values: np.ndarray, source: str, target: str) -> np.ndarray:
    """Convert pixel values between units, where that is exact.

    Parameters
    ----------
    values : float array, any shape; NaN (not valid) stays NaN.
    source, target : unit names, one of ``dB, power, amplitude, dn, reflectance, rgb``; ``source`` may be
        ``unknown`` where nothing is valid.

    Returns
    -------
    float32 array of the same shape. Towards dB: 10·log10(power) = 20·log10(amplitude), not below
    ``FLOOR_DB``; a negative power (noise subtracted) becomes ``FLOOR_DB``. An exact 0 in power or amplitude
    is what products write where nothing was measured, and becomes NaN.

    Raises
    ------
    UnitsError : if the two units do not convert exactly, or valid values come in unknown units.
    """
    check_convertible(source, target)
    values = np.asarray(values, dtype=np.float32)
    if source == UNKNOWN and np.isfinite(values).any():
        raise UnitsError(f"the scene holds valid pixels in unknown units: give --scale {_FLAGS}")
    if source in (target, UNKNOWN):
        return values
    if source == DB:
        power = np.power(np.float32(10), values / np.float32(10))
        return power if target == POWER else np.sqrt(power)
    missing = values == 0
    power = values if source == POWER else np.square(values)
    if target == DB:
        out = 10 * np.log10(np.maximum(power, np.float32(10 ** (FLOOR_DB / 10))))
    else:
        out = power if target == POWER else np.sqrt(np.maximum(power, 0))
    out = out.astype(np.float32, copy=False)
    out[missing] = np.nan
    return out


def check_convertible(source: str, target: str, scene: str = "the scene") -> None:
    """Raise UnitsError, naming the scene and the flag to give, unless ``source`` converts exactly into ``target``."""
    if source in (target, UNKNOWN) or (source in BACKSCATTER and target in BACKSCATTER):
        return
    if source == DN and target in BACKSCATTER:
        hint = (
            "give the whole Sentinel-1 product it is from (.SAFE or .zip), calibrate it to sigma0 first, or give "
            "--scale amplitude if the DN are calibrated amplitudes"
        )
    else:
        hint = f"use a model for {source}, or say with --scale what the values really are"
    raise UnitsError(f"{scene} is in {source}, the model needs {target}, and the two do not convert: {hint}")


@dataclass(frozen=True)
class Clues:
    """What there is to tell units from.

    ``files``: file names without folders; ``labels``: band names and descriptions; ``unit_tags``: the units
    the file declares for its bands; ``dtype`` and ``scaled`` (a scale or offset is applied); ``polarised``:
    the bands are named VV, VH, HH or HV; ``colour``: they are red, green and blue; ``grd``: an uncalibrated
    Sentinel-1 GRD image; ``values``: for each band some of its valid values, 1-D.
    """

    files: tuple[str, ...]
    labels: tuple[str, ...]
    unit_tags: tuple[str, ...]
    dtype: str
    scaled: bool
    polarised: bool
    colour: bool
    grd: bool
    values: tuple[np.ndarray, ...]

    @property
    def pooled(self) -> np.ndarray:
        """The values of all bands together."""
        return np.concatenate([np.empty(0, np.float32), *self.values])


#: words in band names, unit tags and file names, and the unit each one names
_WORDS = {
    "db": DB,
    "decibel": DB,
    "decibels": DB,
    "power": POWER,
    "linear": POWER,
    "amplitude": AMPLITUDE,
    "amp": AMPLITUDE,
    "reflectance": REFLECTANCE,
    "dn": DN,
}
_CALIBRATED = {"sigma0", "gamma0", "beta0", "sigmanought", "gammanought", "nrb"}
#: Analysis-ready products by their file names: what they are, and their units.
_PRODUCTS = (
    # gamma or sigma nought, then power, decibel or amplitude, then flags: ..._RTC10_G_gpuned_54B9_VV
    (re.compile(r"_RTC\d+_[A-Z]_[gs]p[uw][nf][ec][dm]_", re.IGNORECASE), "ASF HyP3 RTC", POWER),
    (re.compile(r"_RTC\d+_[A-Z]_[gs]d[uw][nf][ec][dm]_", re.IGNORECASE), "ASF HyP3 RTC", DB),
    (re.compile(r"_RTC\d+_[A-Z]_[gs]a[uw][nf][ec][dm]_", re.IGNORECASE), "ASF HyP3 RTC", AMPLITUDE),
    (re.compile(r"^OPERA_L2_RTC-S1_"), "OPERA RTC-S1", POWER),
    (re.compile(r"^(iw|ew|s[1-6])-(vv|vh|hh|hv)\.rtc$"), "Planetary Computer RTC", POWER),
    (re.compile(r"^S1[A-D]_IW_GRDH_1S[A-Z]{2}_\d{8}T\d{6}_\d\d[A-Z]{3}_\d+_\d+_V[VH]$"), "BigEarthNet-S1", DB),
)
#: Medians of whole scenes in dB: wider than calm sea to cities. Cross-polarised backscatter is some 5 to 12 dB lower
#: than co-polarised, where noise does not hide it (Ulaby & Dobson 1989, Handbook of Radar Scattering Statistics).
_USUAL = {"VV": (-26.0, -2.0), "HH": (-26.0, -2.0), "VH": (-34.0, -9.0), "HV": (-34.0, -9.0)}
#: the co- and the cross-polarised band of an image
PAIRS = (("VV", "VH"), ("HH", "HV"))
#: Amplitudes below this (-30 dB) lie under the noise floor of any radar in use, so such values are power.
_AMPLITUDE_FLOOR = 10 ** (-30 / 20)


def decide_units(clues: Clues, given: str = "") -> tuple[str, str]:
    """Tell the units of a scene: as given, or from what its files say, or else from its values.

    Returns
    -------
    (unit, one sentence saying why). ``unknown`` if there is no valid value.

    Raises
    ------
    UnitsError : if it cannot be told, or values contradict what is given or said; names the flag to give.
    """
    finite = clues.pooled
    if given:
        if finite.size and not plausible(given, finite):
            raise UnitsError(
                f"{_seen(clues)}, which cannot be {given}: give the --scale that it is, "
                "or --factor and --offset if these are scaled numbers"
            )
        return given, f"given as --scale {given.lower()}"
    said, where = _said(clues)
    if said and (not finite.size or plausible(said, finite)):
        return said, f"{where} say {said}"
    if said:
        raise UnitsError(f"{where} say {said}, but {_seen(clues)}: give --scale {_FLAGS}")
    if clues.grd:
        return DN, "Sentinel-1 GRD images hold uncalibrated digital numbers"
    if clues.colour and clues.dtype == "uint8" and not clues.scaled and not clues.polarised:
        return RGB, "three bytes a pixel, red, green and blue"
    if not finite.size:
        return UNKNOWN, "no valid pixel was found where it was looked for"
    return _from_values(clues, finite)


def _words(texts: Iterable[str]) -> set[str]:
    return {word for text in texts for word in re.split(r"[^a-z0-9]+", text.lower()) if word}


def _said(clues: Clues) -> tuple[str, str]:
    """Units that metadata name without contradiction, and where; empty strings if none are."""
    known = {(unit, what) for name in clues.files for pattern, what, unit in _PRODUCTS if pattern.search(name)}
    known = known if clues.polarised else set()  # products hold angles and masks under like names
    what = " and ".join(sorted({what for _, what in known}))
    for found, where in (
        ({_WORDS[word] for word in _words(clues.unit_tags) if word in _WORDS}, "the bands' unit tags"),
        ({_WORDS[word] for word in _words(clues.labels) if word in _WORDS}, "the band names"),
        ({unit for unit, _ in known}, f"the names of {what} products"),
        ({_WORDS[word] for word in _words(clues.files) if word in _WORDS}, "the file names"),
    ):
        if len(found) == 1:
            return found.pop(), where
    return "", ""


def plausible(unit: str, values: np.ndarray) -> bool:
    """Return whether finite values (n,) can be in ``unit``: generous limits, to catch wrong tags and scaled integers.

    Values that cannot be in it one by one (fill, say) are left out, unless nothing else is there.
    """
    if unit not in RANGES:
        return True
    possible = values[(values >= RANGES[unit].low) & (values <= RANGES[unit].high)]
    if not possible.size:
        return False
    median, negative = float(np.median(possible)), float((possible < 0).mean())
    if unit == DB:
        return -60 < median < 15 and negative > 0.05
    limit = {POWER: 10.0, AMPLITUDE: 10**0.5}.get(unit, np.inf)
    return median <= limit and negative < (0.5 if unit == POWER else 0.05)  # power: where noise was subtracted


def check_plausible(unit: str, values: np.ndarray, dtype: str) -> None:
    """Raise UnitsError if valid values (n,) of an array that says it is in ``unit``, of this dtype, cannot be."""
    if values.size and not plausible(unit, values):
        raise UnitsError(f"{_run(values, dtype)}, which cannot be {unit}: set attrs['units'] to what they are")


def likelier(unit: str, medians: Mapping[str, float]) -> str:
    """Say what else may be meant than the unit that is said; empty if the levels do not show it.

    Power may be meant where amplitude is said, or the other way round; decibels may be half of what they should be
    (10·log10 of amplitude), or twice (20·log10 of power).

    medians : of each band, by name (VV, VH …, or any), in ``unit``.
    """
    if unit == DB:
        readings = {name: float(value) for name, value in medians.items() if np.isfinite(value)}
        for factor, meant in ((2, "10·log10 of amplitude"), (0.5, "20·log10 of power")):
            if told := _rather(readings, factor, unit, f"if they are {meant}", f"give --factor {factor}"):
                return told
        return ""
    other = {POWER: AMPLITUDE, AMPLITUDE: POWER}.get(unit, "")
    scale = 10 if unit == POWER else 20
    readings = {name: scale * float(np.log10(value)) for name, value in medians.items() if value > 0}
    return _rather(readings, 2 if unit == POWER else 0.5, unit, f"as {other}", "check --scale") if other else ""


def _rather(levels: Mapping[str, float], factor: float, unit: str, meant: str, fix: str) -> str:
    """Say that levels, medians in dB, are usual for scenes times ``factor`` alone; empty if that is not so."""
    other = {name: factor * level for name, level in levels.items()}
    if not levels or _usual(levels) or not _usual(other) or min(_differences(other), default=4) < 2:
        return ""
    seen, rather = (", ".join(f"{name} {level:.3g}" for name, level in found.items()) for found in (levels, other))
    return f"the medians are {seen} dB, read as {unit}, and {rather} dB {meant}, which is likelier: {fix}"


def _usual(levels: Mapping[str, float]) -> bool:
    """True if medians of a scene's bands, in dB, are such as scenes of land or sea have (``_USUAL``)."""
    for name, level in levels.items():
        low, high = _USUAL.get(name, (-34.0, -2.0))
        if not low <= level <= high:
            return False
    noisy = any(levels.get(cross, 0.0) < -15 for cross in ("VH", "HV"))
    return noisy or min(_differences(levels), default=4) >= 4


def _differences(levels: Mapping[str, float]) -> list[float]:
    """Return how far the cross-polarised band lies below the co-polarised one, of each such pair."""
    pairs = ((co, cross) for co, cross in PAIRS if co in levels and cross in levels)
    return [levels[co] - levels[cross] for co, cross in pairs]


def _seen(clues: Clues) -> str:
    return _run(clues.pooled, clues.dtype)


def _run(values: np.ndarray, dtype: str) -> str:
    low, median, high = np.quantile(values, [0.01, 0.5, 0.99])
    return f"its {dtype} values run {low:.4g} to {high:.4g}, median {median:.4g}"


def _from_values(clues: Clues, finite: np.ndarray) -> tuple[str, str]:
    """Units from values alone, where only one reading is physically possible."""
    seen = _seen(clues)
    fill = finite[(finite <= -9000) | (np.abs(finite) >= 1e30)]
    if fill.size:
        raise UnitsError(f"{fill[0]:.8g} looks like an undeclared nodata value: give --nodata {fill[0]:.8g}")
    if clues.unit_tags:
        raise UnitsError(f"it is in {', '.join(clues.unit_tags)}, which no model reads: give --scale {_FLAGS}")
    if clues.dtype.startswith(("int", "uint")) and not clues.scaled:
        why = "bytes stretched for display have no unit" if clues.dtype == "uint8" else "nothing says what they measure"
        raise UnitsError(f"{seen}, and {why}: give --scale {_FLAGS} (scaled integers: with --factor and --offset)")
    medians = [float(np.median(band)) for band in clues.values if band.size]
    if max(medians) < -2 and finite.min() > -100 and finite.max() < 60:
        return DB, f"{seen}: mostly negative, as only decibels are"
    if (finite < 0).mean() > 0.05:
        raise UnitsError(f"{seen}, which is no backscatter: give --scale {_FLAGS}")
    if _words(clues.labels + clues.files) & _CALIBRATED and max(medians) <= 10:
        return POWER, f"{seen}, and the names say calibrated backscatter"
    if clues.polarised and min(medians) < _AMPLITUDE_FLOOR and max(medians) <= 1:
        decibels = 20 * np.log10(max(min(medians), 1e-9))
        return POWER, f"{seen}: as amplitude, the darkest band's median would be {decibels:.0f} dB, below any noise"
    raise UnitsError(f"{seen}: power, amplitude or reflectance? give --scale {_FLAGS}")
