"""Turn a map into polygons, whole across any seam, with what the map's layers and samples say of each.

The map is read strip by strip (geouq.maps.regions), so memory does not grow with its height. Polygons are
those of polygonising the whole mask with 4-connectivity; they follow pixel edges, and come in the order of their
last pixel in reading order. Attributes of a polygon:

``area_m2``
    sum of its pixels' areas on the ellipsoid (``geouq.grid.pixel_areas``), the same areas the map's total is
    made of. Without a CRS: in squared units of the grid.
``area_m2_p05, area_m2_p95``
    quantiles, over the samples, of the area *inside the polygon* that a sample calls water. Water that a sample
    sees outside is not in them, so they never exceed ``area_m2``. Null without a samples file.
``probability, uncertainty``
    plain mean over its pixels. For a binary map with threshold 0.5, ``probability`` is taken from the confidence if
    that is all there is: in water the two are the same. Null if the map has no such layer.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from geouq.errors import InputError, SceneError
from geouq.grid import Roi, pixel_areas
from geouq.maps.features import FeatureWriter, check_vector_path
from geouq.maps.regions import polygons, regions

FIELDS = ("area_m2", "area_m2_p05", "area_m2_p95", "probability", "uncertainty")


@dataclass(frozen=True)
class VectorSummary:
    """What became of a map: polygons written and left out, and their areas in m² (grid units without a CRS)."""

    polygons: int
    dropped: int
    area_m2: float
    dropped_area_m2: float

    def __str__(self) -> str:
        text = f"{self.polygons} polygons, {self.area_m2:.6g} m²"
        return text + (f"; {self.dropped} smaller ones left out, {self.dropped_area_m2:.6g} m²" if self.dropped else "")


def vectorize(
    map_path: str | os.PathLike[str],
    out_path: str | os.PathLike[str],
    *,
    samples_path: str | os.PathLike[str] | None = None,
    min_area: float = 0.0,
    tile: int = 1024,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> VectorSummary:
    """Write the positive class of a map as polygons.

    Parameters
    ----------
    map_path : a map of geouq's (band ``mask``; uncertainty, probability and confidence if there), or any mask: a
        raster of one band. The positive class is the tag ``GEOUQ_POSITIVE_CLASS``, or else 1.
    out_path : .gpkg, .fgb, .geojson or .parquet.
    samples_path : the votes; default: ``<stem>_samples.tif`` beside the map, if that exists.
    min_area : polygons with a smaller ``area_m2`` are left out.
    tile : the map is read in strips of whole rows, of about ``tile``² pixels; no effect on the polygons.
    overwrite : replace ``out_path`` if it exists.
    on_progress : called with (rows done, rows of the map) after each strip.

    Raises
    ------
    SceneError : if the map or its samples cannot be read or do not belong together.
    OutputError : if ``out_path`` exists, has another suffix, or cannot be written.
    InputError : if ``min_area`` is negative or no number.
    """
    if not min_area >= 0:
        raise InputError(f"min_area is {min_area}: give an area in m², 0 or more")
    out = check_vector_path(out_path, overwrite)
    kept, kept_area, dropped, dropped_area = 0, 0.0, 0, 0.0
    with _Map(Path(map_path), samples_path, tile) as source, FeatureWriter(out, FIELDS, source.crs) as writer:
        rows, columns = source.geobox.shape
        for done, found in zip(source.stops, regions(source.strips(), columns, source.measure), strict=True):
            area = found.sums[:, 0]
            keep = area >= min_area
            edges = found.edges.of(np.where(keep, np.cumsum(keep) - 1, -1))
            shapes = polygons(edges, int(keep.sum()), columns, source.geobox.affine)
            writer.append(shapes, source.attributes(found.sums[keep]))
            kept, dropped = kept + int(keep.sum()), dropped + int((~keep).sum())
            kept_area, dropped_area = kept_area + area[keep].sum(), dropped_area + area[~keep].sum()
            if on_progress:
                on_progress(done, rows)
        writer.finish()
    return VectorSummary(kept, dropped, float(kept_area), float(dropped_area))


class _Map:
    """A map and its samples, open: strips of its mask, and sums over what lies under its regions."""

    def __init__(self, path: Path, samples_path: str | os.PathLike[str] | None, tile: int) -> None:
        self.path, self._stack = path, ExitStack()
        self._file = self._stack.enter_context(_open(path))
        try:
            tags = self._file.tags()
            self.geobox = GeoBox(self._file.shape, self._file.transform, _crs(self._file))
            self.crs = _crs(self._file)
            self._positive = int(tags.get("GEOUQ_POSITIVE_CLASS", 1))
            self._mask = _mask_band(self._file, path)
            self._layers = _layer_bands(self._file)
            self._votes, self._samples = self._open_votes(samples_path)
        except BaseException:
            self._stack.close()
            raise
        rows, columns = self.geobox.shape
        step = max(1, tile * tile // columns)
        step = step // 512 * 512 if step >= 512 else 1 << step.bit_length() - 1  # fits blocks of 512
        self.stops = [min(start + step, rows) for start in range(0, rows, step)]

    def __enter__(self) -> _Map:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def strips(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, where the positive class is, with a margin of one pixel)."""
        rows, columns = self.geobox.shape
        start = 0
        for stop in self.stops:
            top, bottom = max(start - 1, 0), min(stop + 1, rows)
            values = self._read(self._file, self._mask, top, bottom)
            padded = np.zeros((stop - start + 2, columns + 2), bool)
            inside = padded[top - start + 1 : bottom - start + 1, 1:-1]
            np.logical_and(values.data == self._positive, ~np.ma.getmaskarray(values), out=inside)
            yield start, padded
            start = stop

    def measure(self, row: int, labels: np.ndarray, count: int) -> np.ndarray:
        """Sum over the pixels of each label: area; of each layer, values and number; of each sample, area."""
        rows, columns = labels.shape
        pixels = labels > 0
        owner = labels[pixels] - 1
        areas = pixel_areas(self.geobox, Roi(row, row + rows, 0, columns))
        area = np.broadcast_to(areas, labels.shape)[pixels]
        sums: list[np.ndarray] = [np.bincount(owner, area, count)]
        for band in self._layers:
            if band is None:
                sums += [np.zeros(count)] * 2
                continue
            values = self._layer(band, row, rows, pixels)
            known = ~np.isnan(values)
            sums += [np.bincount(owner[known], values[known], count), np.bincount(owner[known], minlength=count)]
        if self._votes is not None:
            votes = self._read(self._votes, 1, row, row + rows).filled(0)[pixels]
            for sample in range(self._samples):
                says = (votes >> votes.dtype.type(sample)) & votes.dtype.type(1) != 0
                sums.append(np.bincount(owner[says], area[says], count))
        return np.stack(sums, axis=1)

    def attributes(self, sums: np.ndarray) -> np.ndarray:
        """Turn sums of regions (n, …) into their attributes (n, fields); NaN = not known."""
        out = np.full((len(sums), len(FIELDS)), np.nan)
        out[:, 0] = sums[:, 0]
        if self._samples and len(sums):
            out[:, 1:3] = np.quantile(sums[:, 5:], (0.05, 0.95), axis=1).T
        for column, band in zip((3, 4), self._layers, strict=True):
            total, number = sums[:, 2 * column - 5], sums[:, 2 * column - 4]
            if band is not None:
                known = number > 0
                mean = total[known] / number[known]  # scaled here: sums of whole percents are exact
                out[known, column] = np.round(mean * self._file.scales[band - 1] + self._file.offsets[band - 1], 6)
        return out

    def _layer(self, band: int, row: int, rows: int, pixels: np.ndarray) -> np.ndarray:
        values = self._read(self._file, band, row, row + rows)
        known = ~np.ma.getmaskarray(values)[pixels]
        return np.where(known, values.data[pixels], np.nan)

    def _open_votes(self, path: str | os.PathLike[str] | None) -> tuple[rasterio.io.DatasetReader | None, int]:
        """Open the samples file, given or beside the map; return it and the number of samples."""
        beside = self.path.with_name(f"{self.path.stem}_samples.tif")
        if path is None and not beside.exists():
            return None, 0
        given, path = path is not None, Path(path or beside)
        votes = self._stack.enter_context(_open(path))
        if not given and votes.tags().get("GEOUQ_SAMPLES") == "0":  # of one pass without dropout: no interval
            return None, 0
        if (votes.shape, votes.transform) != (self._file.shape, self._file.transform):
            raise SceneError(f"{path} has another grid than {self.path}: give the samples of this map")
        mine, theirs = self._file.tags(), votes.tags()
        for tag in (f"GEOUQ_{name}" for name in ("MODEL_HASH", "SEED", "SAMPLES", "SITES", "THRESHOLD")):
            if mine.get(tag, theirs.get(tag)) != theirs.get(tag):
                raise SceneError(f"{path} and {self.path} are of different runs ({tag}): give this map's samples")
        samples = int(theirs.get("GEOUQ_SAMPLES", 0))
        if not 1 <= samples <= 64 or votes.dtypes[0] not in ("uint32", "uint64"):
            raise SceneError(f"{path} holds no votes: its tag GEOUQ_SAMPLES is {samples}, its type {votes.dtypes[0]}")
        return votes, samples

    def _read(self, file: rasterio.io.DatasetReader, band: int, start: int, stop: int) -> np.ma.MaskedArray:
        try:
            window = Window(0, start, file.width, stop - start)
            return file.read(band, window=window, masked=True)
        except RasterioError as error:
            raise SceneError(f"{file.name} cannot be read: {' '.join(str(error).split())}") from error


def _open(path: Path) -> rasterio.io.DatasetReader:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return rasterio.open(path)
    except RasterioError as error:
        raise SceneError(f"{path} cannot be read as a raster: {' '.join(str(error).split())}") from error


def _crs(file: rasterio.io.DatasetReader) -> str | None:
    return file.crs.to_string() if file.crs else None


def _mask_band(file: rasterio.io.DatasetReader, path: Path) -> int:
    if "mask" in file.descriptions:
        return int(file.descriptions.index("mask")) + 1
    if file.descriptions == ("votes",):
        raise SceneError(f"{path} holds the votes of samples: give the map they belong to, which finds them by itself")
    if file.count == 1:
        return 1
    raise SceneError(f"{path} has {file.count} bands and none is called mask: give a map, or a mask of one band")


def _layer_bands(file: rasterio.io.DatasetReader) -> tuple[int | None, int | None]:
    """Return the numbers of the bands that mean probability and uncertainty."""
    bands = {name: number for number, name in enumerate(file.descriptions, start=1)}
    probability = bands.get("probability")
    if probability is None and float(file.tags().get("GEOUQ_THRESHOLD", 0)) == 0.5:
        probability = bands.get("confidence")
    return probability, bands.get("uncertainty")
