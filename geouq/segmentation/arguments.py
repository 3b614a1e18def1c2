"""What Python users may give by mistake, refused in one line each: a type checker would have said so earlier."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from geouq.decisions import RULES, is_rule
from geouq.errors import InputError
from geouq.sampling.deviations import Weights


def check_types(settings: Any) -> None:
    """Raise InputError for a setting of the wrong kind or size; None where it may be left open."""
    for name in ("seed", "tile", "batch"):
        value = getattr(settings, name)
        if not _is(Integral, value) and (value is not None or name == "seed"):
            raise InputError(f"{name}={value!r}: give a whole number")
    for name in ("samples", "threshold", "risk", "tolerance"):
        value = getattr(settings, name)
        if not _is(Real, value) and (value is not None or name in ("samples", "tolerance")):
            raise InputError(f"{name}={value!r}: give a number")
    if settings.batch is not None and settings.batch < 1:
        raise InputError(f"batch={settings.batch}: give 1 or more samples to compute at once")
    if not settings.layers:
        raise InputError("layers=(): no layer is asked for: name one at least, such as 'mask'")
    if not isinstance(settings.weights, Weights):
        raise InputError(f"weights={settings.weights!r}: give geouq.sampling.deviations.Weights(), or leave it out")


def as_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return keywords of ``Settings`` from what Python users give: whole floats, one name or several, arrays, devices.

    Raises
    ------
    InputError : a value is of none of the kinds that can be meant.
    """
    kinds: dict[str, Callable[[Any], Any]] = {
        "samples": whole_samples,
        "layers": lambda value: names_in(value, "layers"),
        "device": str,
        "sites": lambda value: None if value is None else names_in(value, "sites"),
        "bounds": lambda value: None if value is None else four_bounds(value),
        "decide": rule_of,
    }
    return {name: kinds[name](value) if name in kinds else value for name, value in given.items()}


def rule_of(decide: Any) -> str | None:
    """Return the rule that a mask is to be cut by as text (geouq.decisions); raise InputError for what is none."""
    if decide is None or (isinstance(decide, str) and decide in RULES):
        return decide
    if not (_is(Real, decide) or is_rule(decide)) or not 0 <= float(decide) <= 1:
        raise InputError(f"decide {decide!r} is none of {', '.join(RULES)}, nor a probability from 0 to 1")
    return rule_for(float(decide))  # 0.50 is 0.5: one rule, and what was measured for it


def rule_for(threshold: float) -> str:
    """Return the rule by which a mask is cut at a threshold."""
    return "accuracy" if threshold == 0.5 else repr(float(threshold))


def whole_samples(samples: Any) -> float:
    """Return a number of samples as int, or ``math.inf``; raise InputError for anything else."""
    if not _is(Real, samples) or not (samples == np.inf or float(samples).is_integer()):
        raise InputError(f"samples={samples!r}: give a whole number, or math.inf")
    return float(samples) if samples == np.inf else int(samples)


def names_in(given: Any, what: str) -> tuple[str, ...]:
    """Return one name or several as a tuple; raise InputError for what is none."""
    several = (given,) if isinstance(given, str) or not isinstance(given, Iterable) else tuple(given)
    if not all(isinstance(name, str) for name in several):
        raise InputError(f"{what}={given!r}: give names, as the documentation of geouq.segment says")
    return several


def four_bounds(given: Any) -> tuple[float, float, float, float]:
    """Return (left, bottom, right, top) as floats; raise InputError for what is not four numbers."""
    sides = given.tolist() if isinstance(given, np.ndarray) else given
    if not isinstance(sides, Sequence) or len(sides) != 4 or not all(_is(Real, side) for side in sides):
        raise InputError(f"bounds={given!r}: give left, bottom, right and top, four numbers")
    left, bottom, right, top = map(float, sides)
    return left, bottom, right, top


def _is(kind: type, value: Any) -> bool:
    """True for a number of this kind; True and False, which Python counts among them, are none."""
    return isinstance(value, kind) and not isinstance(value, bool)
