"""What the values of a model's spec must be: checked before anything is built from them, or any pixel is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any

from geouq.alarm import is_alarm
from geouq.decisions import RULES as CUTS
from geouq.decisions import is_risk, is_rule
from geouq.errors import ModelError
from geouq.units import RGB

#: rows and columns that a stride may have
LARGEST_STRIDE = 1024


def _is_number(value: Any, least: float = -math.inf, most: float = math.inf) -> bool:
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    return math.isfinite(value) and least <= float(value) <= most


def _are_names(value: Any, least: int) -> bool:
    return len(value) >= least and len(set(value)) == len(value) and all(isinstance(v, str) and v for v in value)


def _is_whole(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


#: field → what it must be, in words and as a test
RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "name": ("a text", lambda v: isinstance(v, str)),
    "architecture": ("a text", lambda v: isinstance(v, str)),
    "arguments": ("names with values", lambda v: isinstance(v, Mapping)),
    "bands": ("different names, one or more", lambda v: _are_names(v, 1)),
    "units": ("a text", lambda v: isinstance(v, str)),
    "mean": ("finite numbers", lambda v: all(map(_is_number, v))),
    "std": ("finite numbers above 0", lambda v: all(_is_number(x, 0) and x > 0 for x in v)),
    "clip": ("two finite numbers, the lower first", lambda v: len(v) == 2 and all(map(_is_number, v)) and v[0] < v[1]),
    "stride": (f"a whole number from 1 to {LARGEST_STRIDE}", lambda v: _is_whole(v, LARGEST_STRIDE)),
    "missing_bands": ("refuse or zero", lambda v: v in ("refuse", "zero")),
    "classes": ("different names, two or more", lambda v: _are_names(v, 2)),
    "temperature": ("a finite number above 0", lambda v: _is_number(v, 0) and v > 0),
    "place_effect": ("a finite number, 0 or more", lambda v: _is_number(v, 0)),
    "threshold": ("a number from 0 to 1", lambda v: _is_number(v, 0, 1)),
    "sampler": ("a text", lambda v: isinstance(v, str)),
    "correlation": ("a finite number or a text", lambda v: isinstance(v, str) or _is_number(v)),
    "spread": ("a finite number, 0 or more", lambda v: _is_number(v, 0)),
    "laplace": ("absent, or names with values", lambda v: v is None or isinstance(v, Mapping)),
    "black": ("absent, or a number, 0 or more", lambda v: v is None or _is_number(v, 0)),
    "decide": (f"absent, {', '.join(CUTS)}, or a probability as text", lambda v: v is None or is_rule(v)),
    "alarm": ("absent, or doubt and wrong shares of two maps or more", lambda v: v is None or is_alarm(v)),
    "risk": ("absent, or places, rising levels and losses from 0 to 1", lambda v: v is None or is_risk(v)),
    "trained_on": (
        "absent, or texts",
        lambda v: v is None or (isinstance(v, list | tuple) and all(isinstance(x, str) for x in v)),
    ),
    "scores": ("names with values", lambda v: isinstance(v, Mapping)),
    "format": ("a whole number, 1 or more", lambda v: _is_whole(v, 1 << 31)),
}


def check_values(values: Mapping[str, Any]) -> None:
    """Raise ModelError for the first field of a spec that is not what it must be."""
    for field, (what, fits) in RULES.items():
        if not fits(values[field]):
            raise ModelError(f"model {values['name']!r}: {field} is {_short(values[field])}: it must be {what}")
    if not len(values["bands"]) == len(values["mean"]) == len(values["std"]):
        raise ModelError(f"model {values['name']!r}: bands, mean and std differ in length")
    if values["black"] is not None and values["units"] != RGB:
        raise ModelError(f"model {values['name']!r}: black is for rgb, and its units are {values['units']}")
    for field in ("decide", "risk"):
        if values[field] is not None and len(values["classes"]) > 2:
            raise ModelError(
                f"model {values['name']!r}: {field} is for two classes, and it has {len(values['classes'])}"
            )
    if values["positive"] not in values["classes"]:
        raise ModelError(f"model {values['name']!r}: positive class not among its classes")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
