"""Write maps as Zarr groups: tiles in any order in, one whole group or none out.

Each band is an array of a group in format 2, which GDAL, xarray and QGIS read today (what GDAL 3.10 reads of format 3
ends at its codecs). Values, nodata and scale are those of the GeoTIFF; what they mean is said as the lazy step says it
(geouq.maps.cf). Chunks are the blocks of a map, each compressed by itself; a chunk that holds nothing but *not
classified* is not stored. The same map gives the same bytes, in whatever order its tiles came.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from pyproj import CRS
from pyproj.exceptions import ProjError

from geouq.errors import OutputError
from geouq.files import publish, scratch, writing
from geouq.grid import GeoBox, Roi, same_places
from geouq.layers import band_layer
from geouq.maps.bands import BLOCK, MapBand, bit_sum, nothing
from geouq.maps.cf import CONVENTIONS, cf_coords


def check_zarr(path: Path) -> None:
    """Raise OutputError unless a map can be written as a Zarr group of this name."""
    if path.suffix != ".zarr":
        raise OutputError(f"{path}: Zarr groups are written as .zarr: give it that suffix")
    if find_spec("zarr") is None:
        raise OutputError(f'{path}: .zarr needs zarr: pip install "geouq[zarr]", or leave out --zarr')


class ZarrWriter:
    """A Zarr group that is being written: tiles in any order, then ``finish``; nothing at ``path`` before that.

    Parameters
    ----------
    path : the finished group; one that is there is replaced by ``finish``.
    geobox : grid of the whole map. bands : ``map_bands``; votes have no place in it. tags : attributes of the group.
    options : creation options of GDAL's COG driver, none of which a Zarr group has.

    Raises
    ------
    OutputError : in any method, if the group cannot be written.
    """

    def __init__(
        self,
        path: Path,
        geobox: GeoBox,
        bands: Sequence[MapBand],
        tags: Mapping[str, object],
        options: Mapping[str, str],
    ) -> None:
        self.path, self.bands, self._geobox = path, tuple(bands), geobox
        self._sum = self._written = 0
        with writing(path), ExitStack() as stack:
            self._made = stack.enter_context(scratch(path)) / "made.zarr"
            self._arrays = _create(self._made, geobox, self.bands, tags)
            self._stack = stack.pop_all()

    def __enter__(self) -> ZarrWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def write(self, roi: Roi, array: np.ndarray) -> None:
        """Write the tile ``array`` (what ``quantise`` gave) at ``roi``."""
        with writing(self.path):
            for stored, plane in zip(self._arrays, array, strict=True):
                stored[roi.slices] = plane
        self._sum += bit_sum(array)
        self._written += array.shape[1] * array.shape[2]

    def finish(self, replace: bool = True) -> Path:
        """Check that the group holds what was written, by the sum of all values, in its CRS, and give it its name."""
        rest = self._geobox.shape[0] * self._geobox.shape[1] - self._written
        expected = self._sum + rest * bit_sum(nothing(self.bands))
        with writing(self.path, ProjError):
            if not same_places(self._geobox, _kept(self._made)):
                raise OSError("the finished group does not keep the CRS of the scene")
            rows = range(0, self._arrays[0].shape[0], BLOCK)
            found = sum(bit_sum(stored[row : row + BLOCK]) for stored in self._arrays for row in rows)
            if (found - expected) % 2**64:
                raise OSError("the finished group does not hold all that was written, is the disk full?")
            return publish(self._made, self.path, replace)


def _create(path: Path, geobox: GeoBox, bands: Sequence[MapBand], tags: Mapping[str, object]) -> list[Any]:
    """Make a group with coordinates and metadata, and return its arrays, in which nothing is classified."""
    import zarr  # here, for it is an extra
    from numcodecs import Zstd

    fill, coords = nothing(bands)[0, 0, 0], cf_coords(geobox)
    planned = da.full(tuple(geobox.shape), fill, chunks=BLOCK)
    group = xr.Dataset(attrs={name: str(value) for name, value in tags.items()} | CONVENTIONS)
    for band in bands:
        group[_name(band)] = xr.DataArray(planned, dims=("y", "x"), coords=coords, attrs=_attrs(band))
        group[_name(band)].encoding = _encoding(band, fill)
    encoding = {name: one.encoding | {"compressors": (Zstd(5),)} for name, one in group.variables.items()}
    group.to_zarr(path, mode="w-", compute=False, consolidated=True, zarr_format=2, encoding=encoding)
    opened: Any = zarr.open_group(path, mode="r+")
    return [opened[_name(band)] for band in bands]


def _kept(path: Path) -> CRS | None:
    """Return the CRS that a group says it has."""
    told = json.loads((path / "spatial_ref" / ".zattrs").read_bytes()).get("crs_wkt")
    return CRS.from_wkt(told) if told else None


def _name(band: MapBand) -> str:
    """Return the name of a band's array: where a class has a slash in its name, a group would begin."""
    return band.name.replace("/", "_")


def _attrs(band: MapBand) -> dict[str, Any]:
    layer = band_layer(band.name)
    attrs = {} if layer is None else layer.attrs(band.legend)
    if "flag_values" in attrs:  # CF: of the array's own type
        attrs["flag_values"] = attrs["flag_values"].astype(band.dtype)
    return attrs


def _encoding(band: MapBand, fill: np.generic) -> dict[str, Any]:
    scale = {"scale_factor": 0.01} if band.kind == "percent" else {}
    told = {"grid_mapping": "spatial_ref", "_FillValue": fill} | scale
    return told | {"dtype": band.dtype, "chunks": (BLOCK, BLOCK)}
