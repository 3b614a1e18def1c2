"""Polygons as a GeoDataFrame, for those who go on in Python: the columns that a file would have, and no file left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geopandas import GeoDataFrame


def as_frame(write: Callable[[Path], Any]) -> GeoDataFrame:
    """Return as a GeoDataFrame the polygons that ``write`` puts into the GeoPackage it is given.

    Parameters
    ----------
    write : called once with a path in a temporary folder; returns a summary (a dataclass), whose fields become the
        frame's ``attrs``.
    """
    import geopandas  # with pandas .4 s: needed where a frame is asked for, and nowhere else

    with TemporaryDirectory(prefix="geouq-") as folder:
        path = Path(folder) / "polygons.gpkg"
        summary = write(path)
        frame = geopandas.read_file(path, layer=0)  # what a GeoPackage has beside it is its style
    frame.attrs.update(asdict(summary))
    return frame
