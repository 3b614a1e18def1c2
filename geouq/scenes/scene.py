"""What is asked of an opener, and what it gives: plain values, settled before any pixel is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from geouq.grid import GeoBox
from geouq.rasters.raster import Pixels
from geouq.sentinel1.preprocessing import Preprocessing
from geouq.validity import REFUSED

if TYPE_CHECKING:
    from geouq.sentinel1.product import ProductPixels


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


@dataclass(frozen=True)
class Scene:
    """What an opener has settled before any pixel is read: plain values, but for the lazy parts.

    acquired : when the image was taken (geouq.rasters.acquired); empty if nothing says it.
    """

    parts: tuple[Pixels, ...] | tuple[ProductPixels]
    names: tuple[str, ...]
    units: str
    units_reason: str
    notes: tuple[str, ...]
    acquired: str = ""

    @property
    def geobox(self) -> GeoBox:
        """The grid that all parts share."""
        return self.parts[0].geobox

    @property
    def masks(self) -> list[str]:
        """Files of masks that the parts' pixels are read with."""
        used = [part.raster.layover for part in self.parts if isinstance(part, Pixels)]
        return list(dict.fromkeys(layover[0][0] for layover in used if layover))
