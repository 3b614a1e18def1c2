"""One raster file, as anything GDAL reads: what it says of itself, and its pixels with NaN where not valid.

``inspect_raster`` opens a file once and returns a ``Raster``, plain values that travel in a dask graph;
``Pixels`` is the array that dask slices: it opens the file again in the thread and process that reads.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from pyproj import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window

from geouq.errors import SceneError
from geouq.gdal import gdal_errors, insisting, open_dataset, read
from geouq.grid import GeoBox, apply, refuse_geocentric
from geouq.rasters.acquired import acquired
from geouq.rasters.windowed import Windowed
from geouq.sources import FileKey, file_key
from geouq.validity import ANY, CELL, Rule, Validity, floor_cells, repeated

#: A file is read in whole blocks; beyond this many pixels a block, reading any window would take gigabytes.
LARGEST_BLOCK = 2**27
#: A scene has a coordinate for each row and column; the Earth in pixels of 10 m is 4 million columns wide.
LONGEST_SIDE = 2**24


@dataclass(frozen=True)
class Band:
    """One band to be read: number in the file, what it holds, and how its missing pixels are marked.

    ``rule`` says which of its values, scale and offset applied, can be measurements.
    """

    index: int
    dtype: str
    nodata: float | None
    scale: float
    offset: float
    masked: bool
    label: str
    unit_tag: str
    colour: str
    rule: Rule = ANY


@dataclass(frozen=True)
class Raster:
    """What one file says of itself. ``transform`` is None without a usable one; ``crs`` is WKT or empty.

    ``grd``: an uncalibrated Sentinel-1 GRD image, which has 0 where nothing was measured (``zero_missing``).
    ``gcps`` are ground control points (column, row, x, y) in ``gcp_crs``, given only where there is no transform.
    ``layover``: a mask on the same grid, and the bits of its values where they mark that nothing else is valid.
    ``shared_fill``: values that are not valid where all ``bands`` hold them. ``acquired``: when, see ``acquired``.
    """

    key: FileKey
    driver: str
    shape: tuple[int, int]
    block: tuple[int, int]
    bands: tuple[Band, ...]
    alpha: int
    transform: tuple[float, ...] | None
    crs: str
    gcps: tuple[tuple[float, float, float, float], ...]
    gcp_crs: str
    grd: bool
    zero_missing: bool
    notes: tuple[str, ...]
    shared_fill: tuple[float, ...] = ()
    acquired: str = ""
    layover: tuple[FileKey, int] | None = None

    @property
    def path(self) -> str:
        """The path, or other GDAL name, that it was opened with."""
        return self.key[0]

    @property
    def stem(self) -> str:
        """File name without its folders and ending."""
        return os.path.splitext(os.path.basename(self.path.rstrip("/")))[0]


def inspect_raster(
    path: str | os.PathLike[str], bidx: Sequence[int] | None = None, nodata: float | None = None
) -> Raster:
    """Open a raster, and return what it says of itself; no pixel is read.

    Parameters
    ----------
    path : a file, or any name GDAL knows (``/vsizip/…``, ``NETCDF:"…":name``, a URL).
    bidx : numbers (from 1) of the bands to read; all but alpha bands by default.
    nodata : value that marks missing pixels, in place of what the file says.

    Raises
    ------
    SceneError : if the file cannot be opened, or holds nothing that can be a scene.
    """
    name = os.fspath(path)
    return insisting(name, lambda: _inspect(name, bidx, nodata))


def _inspect(name: str, bidx: Sequence[int] | None, nodata: float | None) -> Raster:
    with gdal_errors(name, "opened"), open_dataset(name) as dataset:
        if not dataset.count:
            raise SceneError(_no_bands(name, dataset))
        if max(dataset.shape) > LONGEST_SIDE:
            raise SceneError(
                f"{name}: is {dataset.width} x {dataset.height} pixels, longer than any scene: cut it (gdal_translate)"
            )
        bands = _bands(name, dataset, bidx, nodata)
        block = dataset.block_shapes[bands[0].index - 1]
        refuse_large_blocks(name, block)
        grd = _is_grd(name, dataset, bands[0])
        raster = Raster(
            key=file_key(name),
            driver=dataset.driver,
            shape=dataset.shape,
            block=block,
            bands=bands,
            alpha=_alpha(dataset),
            grd=grd,
            zero_missing=grd and nodata is None,
            **_georeference(name, dataset),
        )
        raster = replace(raster, acquired=acquired(raster.stem, dataset.tags()))
    if raster.zero_missing:
        raster = replace(raster, notes=(*raster.notes, "0 is not valid, as in every Sentinel-1 GRD image"))
    return raster


def refuse_large_blocks(name: str, block: tuple[int, int]) -> None:
    """Raise SceneError for a file whose blocks (rows, columns) are too large to be read whole."""
    if block[0] * block[1] > LARGEST_BLOCK:
        raise SceneError(
            f"{name}: is stored in blocks of {block[1]} x {block[0]} pixels, too large to read: "
            "rewrite it tiled first (gdal_translate -co TILED=YES)"
        )


@dataclass(frozen=True)
class Pixels(Windowed):
    """The pixels of a raster as an array (band, y, x); read when it is sliced."""

    raster: Raster

    @property
    def path(self) -> str:
        """The path, or other GDAL name, of the file."""
        return self.raster.path

    @property
    def sources(self) -> tuple[list[str], list[str]]:
        """The file, and the mask that blanks it, if there is one."""
        return [self.path], [] if self.raster.layover is None else [self.raster.layover[0][0]]

    @property
    def token(self) -> tuple[object, ...]:
        """What tells these pixels from any other."""
        return repr(self.raster), repr(self.geobox)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(bands, rows, columns)."""
        return len(self.raster.bands), *self.raster.shape

    @property
    def block(self) -> tuple[int, int]:
        """Rows and columns of the blocks that are read as one."""
        return self.raster.block

    @property
    def geobox(self) -> GeoBox:
        """The grid, just as the file has it; pixel coordinates without a transform."""
        affine = Affine(*self.raster.transform) if self.raster.transform else Affine.identity()
        try:
            return GeoBox(self.raster.shape, affine, self.raster.crs or None)
        except ValueError as error:
            raise SceneError(f"{self.raster.path}: its CRS is not understood: write a known one first") from error

    def read(self, bands: slice, rows: slice, columns: slice) -> np.ndarray:
        """Read a window; slices without step, within the shape."""
        return read_window(self.raster, self.raster.bands[bands], rows, columns)


def overview_factors(raster: Raster) -> list[int]:
    """Return how many times smaller than the image its overviews are, ascending; those that all bands have."""
    numbers = [band.index for band in raster.bands]
    found = read(raster.key, lambda dataset: [set(dataset.overviews(number)) for number in numbers])
    return sorted(set.intersection(*found))


def read_window(raster: Raster, bands: Sequence[Band], rows: slice, columns: slice, *, factor: int = 1) -> np.ndarray:
    """Return bands of a window, (band, y, x) float32: scale and offset applied, NaN where not valid.

    ``factor`` is one of ``overview_factors``: the window comes from that overview then, so many times smaller.

    Raises
    ------
    SceneError : if the file cannot be read there.
    """
    if factor == 1 and any(band.rule.speckle for band in bands):
        return _read_cells(raster, bands, rows, columns)
    if not raster.shared_fill:
        return _read_bands(raster, bands, rows, columns, factor)
    whole = Validity(tuple(band.rule for band in raster.bands), raster.shared_fill)
    values = whole.blank(_read_bands(raster, raster.bands, rows, columns, factor))
    return values[[raster.bands.index(band) for band in bands]]


def _read_cells(raster: Raster, bands: Sequence[Band], rows: slice, columns: slice) -> np.ndarray:
    """Read the cells that a window meets, for what repeats itself in one is fill in any window; return the window."""
    spans = list(zip((rows, columns), raster.shape, strict=True))
    low = [span.start // CELL * CELL for span, _ in spans]
    high = [min(-(-span.stop // CELL) * CELL, length) for span, length in spans]
    speckled = {band: band.rule.speckle for band in raster.bands if band.rule.speckle}
    every = list(dict.fromkeys((*bands, *speckled)))  # whichever are asked for: the floor goes by all of these
    values = _read_bands(raster, every, slice(low[0], high[0]), slice(low[1], high[1]), 1)
    if speckled:
        floor = floor_cells(values[[every.index(band) for band in speckled]])
        for band, between in speckled.items():
            layer = values[every.index(band)]
            layer[floor | repeated(layer, between)] = np.nan
    inside = values[:, rows.start - low[0] : rows.stop - low[0], columns.start - low[1] : columns.stop - low[1]]
    return inside[[every.index(band) for band in bands]]


def _read_bands(raster: Raster, bands: Sequence[Band], rows: slice, columns: slice, factor: int) -> np.ndarray:
    window = Window(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
    shape = -(-int(window.height) // factor), -(-int(window.width) // factor)
    asked: dict[str, Any] = {"window": window, "out_shape": shape}
    out = np.empty((len(bands), *shape), np.float32)

    def fill(dataset: rasterio.DatasetReader) -> None:
        opaque = dataset.read(raster.alpha, **asked) > 0 if raster.alpha else None
        for layer, band in zip(out, bands, strict=True):
            values = dataset.read(band.index, **asked)
            layer[...] = _measured(values, band)
            layer[~np.isfinite(layer)] = np.nan
            layer[_is_nodata(values, band.nodata)] = np.nan
            if raster.zero_missing:
                layer[values == 0] = np.nan
            if band.masked:
                layer[dataset.read_masks(band.index, **asked) == 0] = np.nan
            if opaque is not None:
                layer[~opaque] = np.nan
            layer[band.rule.breaks(layer)] = np.nan

    read(raster.key, fill)
    if raster.layover is not None:
        mask, bits = raster.layover
        out[:, read(mask, lambda dataset: dataset.read(1, **asked)) & bits != 0] = np.nan
    return out


def _measured(values: np.ndarray, band: Band) -> np.ndarray:
    if band.scale == 1 and band.offset == 0:
        with np.errstate(over="ignore"):
            return values.astype(np.float32)
    return (values * float(band.scale) + float(band.offset)).astype(np.float32)


def _is_nodata(values: np.ndarray, nodata: float | None) -> np.ndarray | bool:
    """Where raw values equal nodata: exactly for integers, within two units in the last place for floats.

    Decimal nodata tags are rounded on their way into and out of files; GDAL allows the same two units.
    """
    if nodata is None or np.isnan(nodata):
        return False
    if values.dtype.kind in "iu":
        info = np.iinfo(values.dtype)
        representable = float(nodata).is_integer() and info.min <= nodata <= info.max
        return values == values.dtype.type(int(nodata)) if representable else False
    with np.errstate(over="ignore", invalid="ignore"):
        marker = values.dtype.type(nodata)
        if not np.isfinite(marker):
            return np.asarray(values == marker)
        return np.asarray(np.abs(values - marker) <= 2 * np.abs(marker - np.nextafter(marker, values.dtype.type(0))))


def _no_bands(name: str, dataset: rasterio.DatasetReader) -> str:
    inside = dataset.subdatasets
    if not inside:
        return f"{name}: holds no raster bands: give a raster file"
    listed = ", ".join(inside[:6]) + (" …" if len(inside) > 6 else "")
    return f"{name}: holds {len(inside)} rasters: give one of them: {listed}"


def _alpha(dataset: rasterio.DatasetReader) -> int:
    """Number of the alpha band, 0 if there is none."""
    colours = dataset.colorinterp
    return colours.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in colours else 0


def _bands(
    name: str, dataset: rasterio.DatasetReader, bidx: Sequence[int] | None, nodata: float | None
) -> tuple[Band, ...]:
    count, colours = dataset.count, dataset.colorinterp
    wanted = list(bidx) if bidx else [i for i in range(1, count + 1) if colours[i - 1] != ColorInterp.alpha]
    missing = [i for i in wanted if not 1 <= i <= count]
    if missing or not wanted:
        which = f"has no band {missing[0]}" if missing else "has nothing but an alpha band"
        raise SceneError(f"{name}: {which}: its bands are 1 to {count}")
    dtypes, flags, markers = dataset.dtypes, dataset.mask_flag_enums, dataset.nodatavals
    labels, units, scales, offsets = dataset.descriptions, dataset.units, dataset.scales, dataset.offsets
    if any("complex" in dtypes[i - 1] for i in wanted):
        raise SceneError(f"{name}: holds complex values: detect the amplitude first (SLC products are not read)")
    by_dataset = [MaskFlags.per_dataset in flags[i - 1] and MaskFlags.alpha not in flags[i - 1] for i in wanted]
    height_unit = _height_unit(dataset.crs)
    bands = []
    for i, shared in zip(wanted, by_dataset, strict=True):
        own = not flags[i - 1]
        triple = shared and MaskFlags.nodata in flags[i - 1]
        # A mask outranks the nodata value, as it does in GDAL; what the caller says outranks both.
        marker = nodata if nodata is not None else None if own or shared else markers[i - 1]
        long = dtypes[i - 1] in ("int64", "uint64") and MaskFlags.nodata in flags[i - 1] and nodata is None
        if long and (marker is None or abs(marker) >= 2**53):
            own, marker = True, None  # GDAL knows it to the last digit, a float does not
        bands.append(
            Band(
                index=i,
                dtype=dtypes[i - 1],
                nodata=None if marker is None else float(marker),
                scale=float(scales[i - 1]),
                offset=float(offsets[i - 1]),
                masked=own or (shared and not (triple and nodata is not None)),
                label=labels[i - 1] or (dataset.tags(i).get("NETCDF_VARNAME", "") if count <= 64 else ""),
                unit_tag="" if units[i - 1] == height_unit else units[i - 1] or "",
                colour=colours[i - 1].name,
            )
        )
    return tuple(bands)


def _height_unit(crs: rasterio.CRS | None) -> str | None:
    """Unit of heights in a CRS that has them: GDAL gives it to every band without a unit."""
    found = CRS.from_wkt(crs.to_wkt()) if crs else None
    return str(found.axis_info[2].unit_name) if found is not None and len(found.axis_info) == 3 else None


def _is_grd(name: str, dataset: rasterio.DatasetReader, band: Band) -> bool:
    """True for a measurement file of a Sentinel-1 GRD product, whatever became of the rest of the product."""
    if band.dtype != "uint16":
        return False
    described = dataset.tags().get("TIFFTAG_IMAGEDESCRIPTION", "")
    named = re.search(r"S1[A-D]_(IW|EW|S[1-6])_GRD[FHM]_|s1[a-d]-(iw|ew|s[1-6])-grd-", name)
    return bool(named or re.match(r"Sentinel-1[A-D] \w+ GRD", described))


def _georeference(name: str, dataset: rasterio.DatasetReader) -> dict[str, Any]:
    """CRS, transform and control points as ``Raster`` keeps them, and notes on what was left out."""
    notes = []
    georeferenced = not dataset.transform.is_identity
    if georeferenced and not _tells_pixels_apart(dataset.transform, dataset.shape):
        raise SceneError(f"{name}: its transform tells no pixels apart: write a right one first (gdal_edit.py -a_ullr)")
    gcps, gcp_crs = dataset.gcps if not georeferenced else ([], None)
    crs = dataset.crs
    if not georeferenced and not gcps and dataset.rpcs or georeferenced and not crs and dataset.rpcs:
        raise SceneError(f"{name}: is placed by RPCs alone: orthorectify it first (gdalwarp -rpc)")
    if not georeferenced and dataset.tags(ns="GEOLOCATION"):
        raise SceneError(f"{name}: is placed by geolocation arrays alone: warp it first (gdalwarp -geoloc)")
    if crs and not georeferenced:
        crs = None
        notes.append("it has a CRS but no transform, and is treated as having neither")
    if crs and crs.to_wkt().startswith(("LOCAL_CS", "ENGCRS", "ENGINEERINGCRS")):
        crs = None
        notes.append("its CRS is a local one that does not tell where on Earth it is: ignored")
    if len(dataset.subdatasets) > 1:
        notes.append(f"the first of {len(dataset.subdatasets)} images in the file is read")
    return {
        "transform": tuple(dataset.transform)[:6] if georeferenced else None,
        "crs": _crs_text(name, crs) if crs else "",
        "gcps": tuple((p.col, p.row, p.x, p.y) for p in gcps),
        "gcp_crs": _crs_text(name, gcp_crs) if gcp_crs else "",
        "notes": tuple(notes),
    }


def _tells_pixels_apart(transform: Affine, shape: tuple[int, int]) -> bool:
    """True if a pixel is some hundreds of times as large as the last digit of coordinates of 53 bits."""
    corners = [apply(transform, x, y) for x in (0, shape[1]) for y in (0, shape[0])]
    return float(np.abs(corners).max()) * 2.0**-44 < float(np.sqrt(abs(transform.determinant)))  # not if it is NaN


def _crs_text(name: str, crs: rasterio.CRS) -> str:
    """``EPSG:…`` if that says just the same, else WKT; SceneError for one that places no pixel on a map."""
    refuse_geocentric(CRS.from_wkt(crs.to_wkt()), name)
    epsg = crs.to_epsg()
    if epsg and rasterio.CRS.from_epsg(epsg) == crs:
        return f"EPSG:{epsg}"
    return str(crs.to_wkt())
