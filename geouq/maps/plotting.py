"""matplotlib as geouq uses it: its own settings, whatever the user's matplotlibrc says, and text that is only text."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl


@contextmanager
def own_settings(settings: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Draw and save under matplotlib's defaults and ``settings``; as a decorator too.

    A ``$`` in the name of a place, a class or a file is a letter here: no text is mathematics. For one that the font
    has not a box stands, and nothing is said.
    """
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        mpl.rcdefaults()
        rc: Any = {"text.parse_math": False, **(settings or {})}
        mpl.rcParams.update(rc)
        yield
