"""What Python users may give by mistake, refused in one line each: a type checker would have said so earlier."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from geouq.errors import InputError


def check_types(settings: Any) -> None:
    """Raise InputError for a setting that is no number where one is needed; None where it may be left open."""
    for name in ("seed", "tile", "batch"):
        value = getattr(settings, name)
        if not isinstance(value, Integral) and (value is not None or name == "seed"):
            raise InputError(f"{name}={value!r}: give a whole number")
    for name in ("samples", "threshold", "tolerance"):
        value = getattr(settings, name)
        if not isinstance(value, Real) and (value is not None or name != "threshold"):
            raise InputError(f"{name}={value!r}: give a number")
    if settings.bounds is not None and not (isinstance(settings.bounds, tuple | list) and len(settings.bounds) == 4):
        raise InputError(f"bounds={settings.bounds!r}: give left, bottom, right and top")
