"""Values as text for people."""

from __future__ import annotations

from typing import Any


def table(values: dict[str, Any]) -> str:
    """Return names and values in two columns; what is empty is left out."""
    rows = {k: v for k, v in values.items() if v not in (None, "", [], {})}
    width = max(map(len, rows), default=0)
    return "\n".join(f"{name.replace('_', ' '):<{width}}  {_text(value)}" for name, value in rows.items())


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:.8g}" if isinstance(value, float) else str(value)
