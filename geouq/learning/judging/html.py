"""Pages from templates beside this module, which escape all names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from geouq.learning.judging import diagrams

_SETTINGS: dict[str, Any] = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True}


def render(template: str, **values: Any) -> str:
    """Return the page that a template makes of its values."""
    environment = Environment(loader=PackageLoader("geouq.learning.judging", ""), **_SETTINGS)
    return environment.get_template(template).render(**values)


def bold(text: str) -> str:
    """Return text in bold, escaped."""
    return Markup("<b>{}</b>").format(text)


def legend(classes: Sequence[str], positive: str) -> Sequence[tuple[str, str]]:
    """Return (colour, meaning) of the picture of errors."""
    nothing = (diagrams.NOTHING, "no label or not classified")
    if len(classes) > 2:
        return (diagrams.RIGHT, "right"), (diagrams.FALSE, "wrong"), nothing
    right = (diagrams.HIT, f"right: {positive}"), (diagrams.RIGHT, "right: other")
    return *right, (diagrams.MISSED, f"{positive} missed"), (diagrams.FALSE, f"false {positive}"), nothing
