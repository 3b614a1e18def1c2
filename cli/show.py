"""Values as text for people."""

from __future__ import annotations

import re
from typing import Any

import click

#: what would move a terminal's cursor, change its title or turn the order of its letters: all controls but tab and
#: newline, other ends of lines, and marks that override the direction of writing
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """Return text with controls as backslash and code: band names and descriptions come from files of other people."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def say(text: str, err: bool = False, nl: bool = True) -> None:
    """Print text: the one way from geouq to a terminal, but for the bar of ``progress``."""
    click.echo(plain(text), err=err, nl=nl)


def told_in(crs: object, pixel: float) -> tuple[str, float]:
    """Return the unit that people are told areas in, and how many of those that are counted it has: m², or without a
    CRS squared units of the grid, of which a pixel has ``pixel``.
    """
    from geouq.grid import area_unit  # here: it brings odc-geo, which a refused option does not need

    return ("km²", 1e6) if crs else (area_unit(None, pixel), 1.0)


def table(values: dict[str, Any]) -> str:
    """Return names and values in two columns; what is empty is left out."""
    rows = {k: v for k, v in values.items() if v not in (None, "", [], {})}
    width = max(map(len, rows), default=0)
    return "\n".join(f"{name.replace('_', ' '):<{width}}  {_text(value)}" for name, value in rows.items())


def shortened(spec: dict[str, Any]) -> dict[str, Any]:
    """Return a model's spec with its tables from places left out as what they are of."""
    told = dict(spec)
    if spec.get("alarm"):
        maps, places, rules = spec["alarm"]["place"], set(spec["alarm"]["place"]), ", ".join(spec["alarm"]["wrong"])
        told["alarm"] = f"from {len(maps)} maps of {len(places)} places left out, with --decide {rules}"
    if spec.get("risk") and isinstance(spec["risk"], dict):
        told["risk"] = f"of {spec['risk']['places']} places left out, with --decide {', '.join(spec['risk']['loss'])}"
    return told


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:.8g}" if isinstance(value, float) else str(value)
