"""What a pixel value means: names of units, exact conversions between them, and refusals.

Backscatter comes as linear power (sigma0, gamma0), as amplitude (its square root), in decibels
(10·log10 of power), or as uncalibrated digital numbers (DN); optical images as reflectance (0..1) or as
8-bit RGB. dB, power and amplitude convert into one another exactly; nothing else does, and geouq never
guesses a calibration or stretches pixel values by a scene's own statistics.
"""

from __future__ import annotations

import numpy as np

from geouq.errors import UnitsError

DB, POWER, AMPLITUDE, DN, REFLECTANCE, RGB = "dB", "power", "amplitude", "dn", "reflectance", "rgb"

#: what ``--scale`` may be given, and the unit it names
SCALES = {
    "db": DB,
    "power": POWER,
    "amplitude": AMPLITUDE,
    "dn": DN,
    "reflectance": REFLECTANCE,
    "rgb": RGB,
}

#: Power at and below this (negative after noise subtraction, say) is reported as this many dB; far below
#: Sentinel-1's noise floor of about -22..-30 dB, so no surface is told apart by it.
FLOOR_DB = -60.0

_BACKSCATTER = (DB, POWER, AMPLITUDE)


def convert(values: np.ndarray, source: str, target: str) -> np.ndarray:
    """Convert pixel values between units, where that is exact.

    Parameters
    ----------
    values : float array, any shape; NaN (not valid) stays NaN.
    source, target : unit names, one of ``dB, power, amplitude, dn, reflectance, rgb``.

    Returns
    -------
    float32 array of the same shape. Towards dB: 10·log10(power) = 20·log10(amplitude), not below
    ``FLOOR_DB``; a negative power (noise subtracted) becomes ``FLOOR_DB``. An exact 0 in power or amplitude
    is what products write where nothing was measured, and becomes NaN.

    Raises
    ------
    UnitsError : if the two units do not convert exactly.
    """
    check_convertible(source, target)
    values = np.asarray(values, dtype=np.float32)
    if source == target:
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


def check_convertible(source: str, target: str) -> None:
    """Raise UnitsError, naming the flag to give, unless ``source`` converts exactly into ``target``."""
    if source == target or (source in _BACKSCATTER and target in _BACKSCATTER):
        return
    if source == DN and target in _BACKSCATTER:
        hint = "calibrate it to sigma0 first, or give --scale amplitude if the DN are calibrated amplitudes"
    else:
        hint = f"use a model for {source}, or say with --scale what the values really are"
    raise UnitsError(f"the scene is in {source}, the model needs {target}, and the two do not convert: {hint}")
