"""A Sentinel-1 product as pixels of a map: calibrated, warped onto a grid, in dB."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geouq.errors import SceneError
from geouq.grid import GeoBox
from geouq.rasters.windowed import Windowed
from geouq.sentinel1.grd import Calibrated, calibrate, read_product
from geouq.sentinel1.preprocessing import Preprocessing
from geouq.sentinel1.warp import GeocodedProduct, geocode_product
from geouq.sources import file_key
from geouq.units import DB, POWER, convert


@dataclass(frozen=True, eq=False)
class ProductPixels(Windowed):
    """A product's backscatter on a map: (band, y, x) float32 dB, NaN where not measured.

    image : the backscatter in radar geometry, linear power. warped : the same on the map, linear power.
    geocoding : notes for people on how pixels found their coordinates.
    """

    image: Calibrated
    warped: GeocodedProduct
    preprocessing: Preprocessing
    geocoding: tuple[str, ...]

    @property
    def path(self) -> str:
        """The path that the product was given by."""
        return self.image.product.path

    @property
    def sources(self) -> tuple[list[str], list[str]]:
        """The product; no masks."""
        return [self.path], []

    @property
    def quantity(self) -> str:
        """What the values are: sigma0, gamma0 or beta0."""
        return "gamma0" if self.preprocessing.rtc else self.image.quantity

    @property
    def geobox(self) -> GeoBox:
        """The map grid."""
        return self.warped.geobox

    @property
    def shape(self) -> tuple[int, int, int]:
        """(bands, rows, columns) of the map grid."""
        return self.warped.shape

    @property
    def block(self) -> tuple[int, int]:
        """Rows and columns that are best read as one."""
        return self.warped.block

    @property
    def token(self) -> tuple[object, ...]:
        """What tells these pixels from any other."""
        rasters = filter(None, (self.preprocessing.dem, self.preprocessing.hand))
        return self.image.token, self.preprocessing, repr(self.geobox), *map(file_key, rasters)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is unusual, what is done to the pixels, and what to expect of it, one line each."""
        return *self.image.product.notes, *self.image.steps, *self.geocoding, "values in dB"

    def read(self, bands: slice, rows: slice, columns: slice) -> np.ndarray:
        """Read a window of the map grid; slices without step, within the shape."""
        return convert(self.warped.read(bands, rows, columns), POWER, DB)


def product_pixels(
    path: str, polarisation: str, bidx: Sequence[int] | None, preprocessing: Preprocessing
) -> ProductPixels:
    """Return the pixels of a product on a map.

    Parameters
    ----------
    path : the product's folder, manifest or zip.
    polarisation : the only one wanted; empty for all.
    bidx : numbers (from 1) of the bands wanted, in the order VV, VH, HH, HV of those there are; None for all.
    preprocessing : what to do on the way.

    Raises
    ------
    SceneError, InputError : the product cannot be read, or not processed as asked.
    """
    product = read_product(path)
    wanted = (polarisation,) if polarisation else product.polarisations
    if bidx:
        if not all(1 <= number <= len(wanted) for number in bidx):
            raise SceneError(f"{path}: has {len(wanted)} bands, {', '.join(wanted)}: --bidx counts them from 1")
        wanted = tuple(wanted[number - 1] for number in bidx)
    image = calibrate(product, wanted, preprocessing.quantity, preprocessing.noise, preprocessing.speckle)
    warped, geocoding = geocode_product(image, product.annotation, path, preprocessing)
    return ProductPixels(image, warped, preprocessing, geocoding)
