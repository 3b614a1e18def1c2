"""What is asked of an opener, and what it gives: plain values, settled before any pixel is read."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from geouq.grid import GeoBox
from geouq.sentinel1.preprocessing import Preprocessing
from geouq.validity import REFUSED


@dataclass(frozen=True)
class Request:
    """What to open, and how: ``open_scene`` says what the options are.

    ``paths`` are names as GDAL knows them; ``keys`` the band that each was given for, or empty strings.
    """

    keys: tuple[str, ...]
    paths: tuple[str, ...]
    scale: str = "auto"
    nodata: float | None = None
    bidx: Sequence[int] | None = None
    preprocessing: Preprocessing | None = None
    factor: tuple[float, ...] = (1.0,)
    offset: tuple[float, ...] = (0.0,)
    most_fill: float = REFUSED

    @property
    def rescaled(self) -> bool:
        """True if values are to be taken times a factor or plus an offset."""
        return (*self.factor, *self.offset) != (1.0, 0.0)


class BandPixels(Protocol):
    """Bands of a scene, (band, y, x) float32 with NaN where not valid, that are read by windows when it is sliced.

    path : what to call it in messages. sources : the files that it is read from, and the masks that blank it.
    geobox : its grid. block : rows and columns that are best read as one. token : what tells it from any other.
    """

    @property
    def path(self) -> str: ...  # noqa: D102
    @property
    def sources(self) -> tuple[list[str], list[str]]: ...  # noqa: D102
    @property
    def geobox(self) -> GeoBox: ...  # noqa: D102
    @property
    def shape(self) -> tuple[int, int, int]: ...  # noqa: D102
    @property
    def block(self) -> tuple[int, int]: ...  # noqa: D102
    @property
    def token(self) -> tuple[object, ...]: ...  # noqa: D102
    def read(self, bands: slice, rows: slice, columns: slice) -> np.ndarray: ...  # noqa: D102


@dataclass(frozen=True)
class Scene:
    """What an opener has settled before any pixel is read: plain values, but for the lazy parts.

    acquired : when the image was taken (geouq.rasters.acquired); empty if nothing says it.
    unlike : why its bands (geouq.likeness) or levels (geouq.units.likelier) are none of a radar image, or empty.
    """

    parts: tuple[BandPixels, ...]
    names: tuple[str, ...]
    units: str
    units_reason: str
    notes: tuple[str, ...]
    acquired: str = ""
    unlike: str = ""

    @property
    def geobox(self) -> GeoBox:
        """The grid that all parts share."""
        return self.parts[0].geobox

    @property
    def paths(self) -> list[str]:
        """Files that the parts' pixels are read from."""
        return [path for part in self.parts for path in part.sources[0]]

    @property
    def masks(self) -> list[str]:
        """Files of masks that the parts' pixels are read with."""
        return list(dict.fromkeys(path for part in self.parts for path in part.sources[1]))


def opened(bands: Iterable[Hashable], pixels: Any) -> str:
    """Return what ``open_scene`` says of the pixels that it gives, and of no others: their bands, and dask's name."""
    return f"{', '.join(map(str, bands))} of {getattr(pixels, 'name', None)}"
