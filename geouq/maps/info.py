"""What a map of geouq's own is, as plain values: what made it, and what it found."""

from __future__ import annotations

import json
import os
from typing import Any

from geouq.maps.votes import MapFile, expectation

_TAG = "GEOUQ_"


def _by_class(text: str) -> str:
    """Return what a map says of its classes, for people."""
    try:
        return ", ".join(f"{row['name']} {row['area_m2']:.6g}" for row in json.loads(text))
    except (ValueError, TypeError, KeyError):
        return ""


def map_info(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return what a map or a samples file says of itself, JSON-able; None for a raster that geouq did not make.

    Raises
    ------
    SceneError : if the file cannot be read as a raster.
    """
    with MapFile(path) as found:
        tags = {key.removeprefix(_TAG).lower(): text for key, text in found.tags.items() if key.startswith(_TAG)}
        if "version" not in tags:
            return None
        if "expectation" in tags:
            tags["expectation"] = expectation(found) or ""
        if "by_class" in tags:
            tags["by_class"] = _by_class(tags["by_class"])
        return {
            "file": str(found.path),
            "is": f"a map made by geouq {tags.pop('version')}, no scene: its bands are results",
            "bands": [name or f"band {i + 1}" for i, name in enumerate(found.file.descriptions)],
            "columns": int(found.geobox.shape[1]),
            "rows": int(found.geobox.shape[0]),
            "crs": found.crs,
            **tags,
        }
