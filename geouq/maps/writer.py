"""What a run needs of whoever writes its maps: tiles in any order in, one whole file or none out.

A new format is a class that can do this, and a row in ``WRITERS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from geouq.errors import OutputError
from geouq.grid import GeoBox, Roi
from geouq.maps.bands import MapBand
from geouq.maps.cog import MapWriter
from geouq.maps.zarr import ZarrWriter


class TileWriter(Protocol):
    """A map that is being written, a context manager; at its end there is no trace of it but the finished file.

    What ``finish`` makes holds all that was written (the writer looks), the grid, and the tags it was opened with.
    Each pixel is written at most once; pixels never written are not classified.
    """

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove whatever is not finished."""
        ...

    def write(self, roi: Roi, array: np.ndarray) -> None:
        """Write a tile (bands, rows, columns), as ``bands.quantise`` gives it, at ``roi`` of the map."""
        ...

    def finish(self, replace: bool = True) -> Path:
        """Check that the file is whole and give it its name; without ``replace`` what has the name by now is kept."""
        ...


#: from path, grid, bands, tags and creation options (``open_writer``)
_Opens = Callable[[Path, GeoBox, Sequence[MapBand], Mapping[str, object], Mapping[str, str]], TileWriter]
#: who writes a map, by the suffix of its name
WRITERS: Mapping[str, _Opens] = {".tif": MapWriter, ".tiff": MapWriter, ".zarr": ZarrWriter}


def open_writer(
    path: Path, geobox: GeoBox, bands: Sequence[MapBand], tags: Mapping[str, object], options: Mapping[str, str]
) -> TileWriter:
    """Return the writer of a new map.

    Parameters
    ----------
    path : the finished file. geobox : its grid. bands : what each holds. tags : its metadata.
    options : creation options of GDAL's COG driver; other formats have none.

    Raises
    ------
    OutputError : no writer is known for the suffix, or the file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in WRITERS:
        raise OutputError(f"{path}: maps are written as {' or '.join(WRITERS)}: give it one of these suffixes")
    return WRITERS[suffix](path, geobox, bands, tags, options)
