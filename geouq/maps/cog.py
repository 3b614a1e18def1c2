"""Write maps as Cloud Optimized GeoTIFFs: tiles in any order in, one whole file or none out.

*Overviews* are made here, level by level, and not by GDAL, which applies one rule to all bands of a file and
would average 0, 1 and 255 of a mask. The tiles go into an uncompressed raster, each level into another, a VRT
names them as overviews of one another, and GDAL's COG driver copies that. Memory is that of a few blocks.

*Colour tables* exist for one-band TIFFs only (TIFF 6.0, section 5), so only a mask that is alone in its file
carries one; for the others there is a QGIS style.

*A full disk* is not always an error to GDAL (what it flushes on closing may be lost silently), so the sum of
all values written is looked for again in the finished file before it gets its name.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import TracebackType
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
from pyproj import CRS
from pyproj.exceptions import ProjError
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from geouq.errors import InputError
from geouq.files import publish, scratch, writing
from geouq.grid import GeoBox, Roi, corners_apart, pieces, same_places
from geouq.layers import NOT_CLASSIFIED, Legend
from geouq.maps.bands import BLOCK, MapBand, bit_sum, halve, nothing, quantise
from geouq.maps.overviews import mask_levels
from geouq.maps.statistics import band_statistics
from geouq.maps.styles import colour_table

_CHUNK = 1024  # pixels a side that overviews are computed by: multiple of BLOCK, so that blocks are written once
_LOSSLESS = ("NONE", "LZW", "DEFLATE", "ZSTD", "LZMA", "LERC", "LERC_DEFLATE", "LERC_ZSTD")
# rasterio lets some of GDAL's errors through as they are, by a class that it does not export
_FAILURES = (RasterioError, rasterio._err.CPLE_BaseError, ProjError)
_PREDICTORS = ("YES", "NO", "STANDARD", "FLOATING_POINT")
_BIGTIFF = ("YES", "NO", "IF_NEEDED", "IF_SAFER")
_OPTIONS = ("COMPRESS", "LEVEL", "PREDICTOR", "BLOCKSIZE", "BIGTIFF", "NUM_THREADS", "GEOTIFF_VERSION")


def check_options(options: Mapping[str, str]) -> dict[str, str]:
    """Return creation options with upper-case names, or raise InputError for one that cannot be had.

    GDAL ignores what it does not know, and would write lossy or reprojected files on demand: a map must come
    back as it was written.
    """
    upper = {key.upper(): str(value).upper() for key, value in options.items()}
    for key in upper:
        if key not in _OPTIONS:
            raise InputError(f"creation option {key} is not one of {', '.join(_OPTIONS)}")
    if upper.get("COMPRESS", "ZSTD") not in _LOSSLESS:
        raise InputError(f"COMPRESS={upper['COMPRESS']} is not one of {', '.join(_LOSSLESS)}")
    if upper.get("BIGTIFF", "YES") not in _BIGTIFF:
        raise InputError(f"BIGTIFF={upper['BIGTIFF']} is not one of {', '.join(_BIGTIFF)}")
    block = upper.get("BLOCKSIZE", "512")
    if not block.isdecimal() or len(block) > 5 or int(block) < 128 or int(block) % 16:
        raise InputError(f"BLOCKSIZE={block} is not a multiple of 16 from 128 to 99984")
    most = {"ZSTD": 22, "LZMA": 9}.get(upper.get("COMPRESS", _codec()), 12)
    level = upper.get("LEVEL", "1")
    if not level.isdecimal() or len(level) > 5 or not 1 <= int(level) <= most:
        raise InputError(f"LEVEL={level} is not a number from 1 to {most}")
    if upper.get("PREDICTOR", "NO") not in _PREDICTORS:
        raise InputError(f"PREDICTOR={upper['PREDICTOR']} is not one of {', '.join(_PREDICTORS)}")
    return upper


class MapWriter:
    """A map that is being written: tiles in any order, then ``finish``; nothing at ``path`` before that.

    Use it as a context manager: whatever happens inside, the temporary files are gone at its end. Each pixel
    is to be written at most once; pixels never written are not classified.

    Parameters
    ----------
    path : the finished file; an existing one is replaced, by ``finish``, in one step.
    geobox : grid of the whole map (any affine; CRS or none).
    bands : ``map_bands`` or ``vote_bands``.
    tags : dataset metadata: model, hash, samples, seed, version, halo …
    options : creation options of GDAL's COG driver that override the ones set here (``check_options``).
    work : folder for temporary files, on the file system of ``path``; default: the folder of ``path``.

    Raises
    ------
    OutputError : in any method, if a file cannot be written; the message names ``path``.
    InputError : if an option is not one of ``check_options``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        geobox: GeoBox,
        bands: Sequence[MapBand],
        tags: Mapping[str, object] | None = None,
        options: Mapping[str, str] | None = None,
        work: str | os.PathLike[str] | None = None,
    ) -> None:
        self.path, self.geobox, self.bands = Path(path), geobox, tuple(bands)
        self._tags = {key: str(value) for key, value in (tags or {}).items()}
        self._options = check_options(options or {})
        self._sum = self._written = 0
        with writing(self.path, *_FAILURES), ExitStack() as stack:
            self._folder = stack.enter_context(scratch(self.path, work))
            self._base = _create(self._folder / "level0.tif", geobox, self.bands, self._tags)
            self._stack = stack.pop_all()

    def __enter__(self) -> MapWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._base.close()
        except (RasterioError, OSError):
            pass  # a failed base is found by `finish`, or the run has failed already
        self._stack.close()

    def write(self, roi: Roi, array: np.ndarray) -> None:
        """Write the tile ``array`` (what ``quantise`` gave) at ``roi``."""
        with writing(self.path, *_FAILURES):
            _put(self._base, _window(roi), array, self.bands)
        self._sum += bit_sum(array)
        self._written += array.shape[1] * array.shape[2]

    def finish(self, replace: bool = True) -> Path:
        """Build the overviews, write the COG, check that it is whole, and give it its name (``files.publish``)."""
        finished = self._folder / "finished.tif"
        defaults = {
            "COMPRESS": _codec(),
            "BLOCKSIZE": str(BLOCK),
            "BIGTIFF": "IF_SAFER",
            "NUM_THREADS": "ALL_CPUS",
            "OVERVIEWS": "FORCE_USE_EXISTING",
        }
        if "COMPRESS" not in self._options and _codec() == "ZSTD":
            defaults |= {"LEVEL": "5"}  # size of level 9, in half its time
        if self.bands[0].dtype == "float32" and "COMPRESS" not in self._options:
            defaults |= {"PREDICTOR": "YES", "LEVEL": "3"}  # size of level 9 without, in a fifth of its time
        with writing(self.path, *_FAILURES):
            self._base.close()
            self._add_statistics()
            vrt = self._vrt(self._overviews())
            rasterio.shutil.copy(vrt, finished, driver="COG", **(defaults | self._options))
            self._check(finished)
            publish(finished, self.path, replace)
        return self.path

    def _add_statistics(self) -> None:
        """Write what is known of each band's values into the base; sums of votes' bits mean nothing."""
        if self.bands[0].kind == "bits":
            return
        path, (rows, columns) = self._folder / "level0.tif", self.geobox.shape
        with rasterio.open(path) as base:
            blocks = (base.read(window=_window(roi)) for roi in _chunks(rows, columns))
            found = band_statistics(blocks, self.bands)
        with rasterio.open(path, "r+") as base:
            for number, tags in enumerate(found, 1):
                base.update_tags(number, **tags)

    def _overviews(self) -> list[Path]:
        """Write each level from the one below, until the last fits one block; return their files."""
        levels = [self._folder / "level0.tif"]
        geobox = self.geobox
        while max(geobox.shape) > BLOCK:
            geobox = geobox.zoom_out(2)  # shape rounded up
            rows, columns = geobox.shape
            levels.append(self._folder / f"level{len(levels)}.tif")
            with rasterio.open(levels[-2]) as below, _create(levels[-1], geobox, self.bands) as level:
                for roi in _chunks(rows, columns):
                    double = Roi(2 * roi.y0, 2 * roi.y1, 2 * roi.x0, 2 * roi.x1)
                    double = double.intersect(Roi(0, below.height, 0, below.width))
                    block = _get(below, _window(double), self.bands)
                    _put(level, _window(roi), halve(block, self.bands), self.bands)
        for number, band in enumerate(self.bands, 1):
            if band.kind == "class" and len(levels) > 1:
                self._mask_overviews(levels, number, band.legend)
        return levels[1:]

    def _mask_overviews(self, levels: list[Path], number: int, legend: Legend) -> None:
        """Write a mask, band ``number``, into its levels."""
        with ExitStack() as stack:
            base = stack.enter_context(rasterio.open(levels[0]))
            files = [stack.enter_context(rasterio.open(path, "r+")) for path in levels[1:]]

            def read(roi: Roi) -> np.ndarray:
                mask: np.ndarray = base.read(number, window=_window(roi))
                return mask if mask.dtype == np.uint8 else np.nan_to_num(mask, nan=NOT_CLASSIFIED).astype(np.uint8)

            for level, roi, mask in mask_levels(read, base.shape, len(files), legend):
                band = MapBand("mask", "class", base.dtypes[0], legend)
                files[level - 1].write(quantise({"mask": mask}, [band])[0], number, window=_window(roi))

    def _vrt(self, overviews: list[Path]) -> Path:
        """Write a VRT of the base whose bands name the levels as their overviews."""
        path = self._folder / "pyramid.vrt"
        rasterio.shutil.copy(self._folder / "level0.tif", path, driver="VRT")
        tree = ElementTree.parse(path)
        for number, band in enumerate(tree.getroot().findall("VRTRasterBand"), start=1):
            if self.bands[0].dtype == "uint64" and self.bands[0].nodata is not None:
                ElementTree.SubElement(band, "NoDataValue").text = str(self.bands[0].nodata)
            for level in overviews:
                overview = ElementTree.SubElement(band, "Overview")
                ElementTree.SubElement(overview, "SourceFilename", relativeToVRT="1").text = level.name
                ElementTree.SubElement(overview, "SourceBand").text = str(number)
        tree.write(path, encoding="utf-8")
        return path

    def _check(self, finished: Path) -> None:
        """Raise OSError unless the file has the grid and CRS that were asked for, and, by their sum, all values."""
        rows, columns = self.geobox.shape
        fill = 0 if self.bands[0].dtype == "uint64" else bit_sum(nothing(self.bands))  # as the base reads unwritten
        expected = self._sum + (rows * columns - self._written) * fill
        # without what GDAL keeps in a file beside, which does not go with the map
        with rasterio.Env(GDAL_PAM_ENABLED="NO"), rasterio.open(finished) as file:
            kept = CRS.from_wkt(file.crs.to_wkt()) if file.crs else None
            if not same_places(self.geobox, kept):
                raise OSError("the finished file does not keep the CRS of the scene")
            if file.shape != tuple(self.geobox.shape) or corners_apart(self.geobox, _grid_of(file)) > 0.01:
                raise OSError("the finished file does not keep the grid of the scene")
            found = sum(bit_sum(_get(file, _window(roi), self.bands)) for roi in _chunks(rows, columns))
        if (found - expected) % 2**64:
            raise OSError("the finished file does not hold all that was written, is the disk full?")


def _grid_of(file: rasterio.io.DatasetReader) -> GeoBox:
    return GeoBox(file.shape, file.transform, None)


def _create(
    path: Path, geobox: GeoBox, bands: Sequence[MapBand], tags: Mapping[str, str] | None = None
) -> rasterio.io.DatasetWriter:
    """Open a new uncompressed tiled GeoTIFF; what is not written in it reads as not classified."""
    percent = [band.kind == "percent" for band in bands]
    profile = dict(driver="GTiff", tiled=True, blockxsize=BLOCK, blockysize=BLOCK, bigtiff="IF_SAFER")
    # Three bytes a pixel would be taken for red, green and blue.
    profile |= dict(photometric="MINISBLACK", sparse_ok=True, interleave="pixel")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        file = rasterio.open(
            path,
            "w",
            height=geobox.shape[0],
            width=geobox.shape[1],
            count=len(bands),
            dtype=bands[0].dtype,
            nodata=None if bands[0].dtype == "uint64" else bands[0].nodata,  # rasterio would cut it short: see `_vrt`
            crs=None if geobox.crs is None else str(geobox.crs),
            transform=geobox.affine,
            **profile,
        )
    file.update_tags(**(tags or {}))
    file.descriptions = [band.name for band in bands]
    file.scales = [0.01 if scaled else 1.0 for scaled in percent]
    for number, band in enumerate(bands, 1):
        file.update_tags(number, **band.tags())
    file.units = [{"percent": "1", "dB": "dB"}.get(band.kind, "") for band in bands]
    if len(bands) == 1 and (bands[0].kind, bands[0].dtype) == ("class", "uint8"):
        file.write_colormap(1, colour_table(bands[0].legend))
    return file


def _put(file: rasterio.io.DatasetWriter, window: Window, array: np.ndarray, bands: Sequence[MapBand]) -> None:
    if bands[0].kind != "bits":
        file.write(array, window=window)
        return
    file.write(array[:-1], window=window)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        file.write_mask(array[-1].astype(np.uint8), window=window)


def _get(file: rasterio.io.DatasetReader, window: Window, bands: Sequence[MapBand]) -> np.ndarray:
    array: np.ndarray = file.read(window=window)
    if bands[0].kind != "bits":
        return array
    return np.concatenate([array, file.read_masks(1, window=window)[None].astype(array.dtype)])


def _chunks(rows: int, columns: int) -> Iterator[Roi]:
    return pieces((rows, columns), _CHUNK, _CHUNK)


def _window(roi: Roi) -> Window:
    return Window(roi.x0, roi.y0, roi.shape[1], roi.shape[0])


@cache
def _codec() -> str:
    """Return the better codec this GDAL has: ZSTD, or else DEFLATE."""
    try:
        with rasterio.MemoryFile() as memory, warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            memory.open(driver="GTiff", width=1, height=1, count=1, dtype="uint8", compress="ZSTD").close()
    except RasterioError:
        return "DEFLATE"
    return "ZSTD"
