"""Turn a map into polygons, whole across any seam, with what the map's layers and samples say of each.

Of a map of two classes these are the polygons of the positive one. Of more classes they are those of each, class after
class, in one layer whose attribute ``class`` has the name.

The map is read strip by strip (geouq.polygons.regions), so memory does not grow with its height. Polygons are
those of polygonising the whole mask with 4-connectivity; they follow pixel edges, and come in the order of their
last pixel in reading order. Attributes of a polygon:

``area_m2``
    sum of its pixels' areas on the ellipsoid (``geouq.grid.pixel_areas``), the same areas the map's total is
    made of. Without a CRS: in squared units of the grid.
``area_m2_p05, area_m2_p95``
    quantiles, over the samples, of the area *inside the polygon* that a sample calls water. Water that a sample
    sees outside is not in them, so they never exceed ``area_m2``. Null without a samples file.
``probability, uncertainty``
    plain mean over its pixels. For a binary map cut at 0.5 and for one of more classes, ``probability`` is taken from
    the confidence if that is all there is: in water the two are the same. Null if the map has no such layer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from geouq.errors import InputError, SceneError
from geouq.files import refuse_own
from geouq.grid import Roi, area_unit, pixel_areas
from geouq.layers import UNDECIDED, Legend, area_interval
from geouq.maps.votes import MapFile, Votes, beside, strips, sums
from geouq.polygons.features import FeatureWriter, check_vector_path
from geouq.polygons.frame import as_frame
from geouq.polygons.regions import polygons, regions

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

FIELDS = {
    "area_m2": "area in m²",
    "area_m2_p05": "area in m², 5 % quantile of the samples, inside",
    "area_m2_p95": "area in m², 95 % quantile of the samples, inside",
    "probability": "mean probability, 0 to 1",
    "uncertainty": "mean uncertainty, 0 to 1",
}


@dataclass(frozen=True)
class VectorSummary:
    """What became of a map: polygons written and left out, and their areas, in m² or, without a CRS, in ``unit``.

    ``undecided_area_m2`` is that of what is undecided, in no polygon; None where the map leaves nothing so.
    """

    polygons: int
    dropped: int
    area_m2: float
    dropped_area_m2: float
    unit: str = "m²"
    undecided_area_m2: float | None = None

    def __add__(self, other: VectorSummary) -> VectorSummary:
        kept, dropped = self.polygons + other.polygons, self.dropped + other.dropped
        areas = self.area_m2 + other.area_m2, self.dropped_area_m2 + other.dropped_area_m2
        return VectorSummary(kept, dropped, *areas, self.unit, self.undecided_area_m2)

    def __str__(self) -> str:
        text = f"{self.polygons} polygons, {self.area_m2:.6g} {self.unit}"
        if self.dropped:
            text += f"; {self.dropped} smaller ones left out, {self.dropped_area_m2:.6g} {self.unit}"
        if self.undecided_area_m2 is not None:
            text += f"; undecided {self.undecided_area_m2:.6g} {self.unit}"
        return text


@overload
def vectorize(
    map_path: str | os.PathLike[str],
    out_path: None = None,
    *,
    samples_path: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | None = None,
    min_area: float = 0.0,
    tile: int = 1024,
    on_progress: Callable[[int, int], None] | None = None,
) -> GeoDataFrame: ...
@overload
def vectorize(
    map_path: str | os.PathLike[str],
    out_path: str | os.PathLike[str],
    *,
    samples_path: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | None = None,
    min_area: float = 0.0,
    tile: int = 1024,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> VectorSummary: ...
def vectorize(
    map_path: str | os.PathLike[str],
    out_path: str | os.PathLike[str] | None = None,
    *,
    samples_path: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | None = None,
    min_area: float = 0.0,
    tile: int = 1024,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> VectorSummary | GeoDataFrame:
    """Write the classes of a map as polygons, or return them as a GeoDataFrame.

    Parameters
    ----------
    map_path : a map of geouq's (band ``mask``; uncertainty, probability and confidence if there), or any mask: a
        raster of one band. What its values mean is in its tags; else 1 is the positive class of two.
    out_path : .gpkg, .fgb, .geojson or .parquet; None: return a GeoDataFrame, with the summary in its ``attrs``.
    samples_path : the votes; default: ``<stem>_samples.tif`` beside the map, if that exists.
    classes : names of those that are wanted; default: the positive one of two, all of more.
    min_area : polygons with a smaller ``area_m2`` are left out.
    tile : the map is read in strips of whole rows, of about ``tile``² pixels; no effect on the polygons.
    overwrite : replace ``out_path`` if it exists.
    on_progress : called with (rows done, rows of the map) after each strip.

    Raises
    ------
    SceneError : if the map or its samples cannot be read or do not belong together.
    OutputError : if ``out_path`` exists, has another suffix, or cannot be written.
    InputError : if ``min_area`` is negative or no number, or the map has no class of a name.
    """
    if not min_area >= 0:
        raise InputError(f"min_area is {min_area}: give an area in m², 0 or more")
    if out_path is None:
        options: dict[str, Any] = {"samples_path": samples_path, "classes": classes, "min_area": min_area}
        return as_frame(lambda path: vectorize(map_path, path, **options, tile=tile, on_progress=on_progress))
    out = check_vector_path(out_path, overwrite)
    refuse_own(out, (map_path, samples_path or beside(Path(map_path))))
    with _Map(Path(map_path), samples_path, tile) as source:
        chosen = _chosen(source.legend, classes)
        several = None if classes is None and source.legend.binary else source.legend
        summary, done = VectorSummary(0, 0, 0.0, 0.0, source.unit), 0
        with FeatureWriter(out, source.fields, source.crs, source.origin(min_area), several) as writer:
            for of in chosen:
                source.turn_to(of)
                for rows, told in _one_class(source, writer, min_area):
                    done, summary = done + rows, summary + told
                    if on_progress:
                        on_progress(done, len(chosen) * source.geobox.shape[0])
            writer.finish(overwrite)
    return replace(summary, undecided_area_m2=source.undecided_area)


def _chosen(legend: Legend, names: Sequence[str] | None) -> list[int]:
    """Return the indices of the classes that become polygons, in their order."""
    if names is None:
        return [legend.positive] if legend.binary else list(range(len(legend.names)))
    return sorted({legend.index(name) for name in names})


def _one_class(source: _Map, writer: FeatureWriter, min_area: float) -> Iterator[tuple[int, VectorSummary]]:
    """Write the polygons of one class, strip by strip; yield rows done, and what became of the polygons there."""
    columns = source.geobox.shape[1]
    for strip, found in zip(source.strips, regions(source.masks(), columns, source.measure), strict=True):
        area = found.sums[:, 0]
        keep = area >= min_area
        outlines = found.outlines.of(np.where(keep, np.cumsum(keep) - 1, -1))
        shapes = polygons(outlines, int(keep.sum()), columns, source.geobox.affine)
        writer.append(shapes, source.attributes(found.sums[keep]), source.name)
        counts, areas = (int(keep.sum()), int((~keep).sum())), (float(area[keep].sum()), float(area[~keep].sum()))
        yield strip.shape[0], VectorSummary(*counts, *areas, source.unit)


def origin(run: str, min_area: float) -> str:
    """Return what polygons say of themselves: which run's map they show, and from what size (m²) on."""
    return f"geouq run {run}, polygons from {min_area:g} m²"


class _Map:
    """A map and its samples, open: strips of where a class is, and sums over what lies under its regions."""

    def __init__(self, path: Path, samples_path: str | os.PathLike[str] | None, tile: int) -> None:
        self._stack = ExitStack()
        self._map = self._stack.enter_context(MapFile(path))
        try:
            self.geobox, self.crs, self.legend = self._map.geobox, self._map.crs, self._map.legend
            self._mask = _mask_band(self._map)
            self._all_votes = self._open_votes(samples_path)
            self.turn_to(self.legend.positive)
        except BaseException:
            self._stack.close()
            raise
        self.strips = list(strips(self.geobox, tile * tile))

    def turn_to(self, of: int) -> None:
        """Show the class with an index from now on."""
        self.of, self.name, votes = of, self.legend.names[of], self._all_votes
        self._layers = _layer_bands(self._map, of)
        # none for the other one of two classes, and in files from before there were votes for each
        self._votes = votes if votes is not None and of in votes.classes else None
        self.undecided_area = 0.0 if self.legend.undecided else None

    def __enter__(self) -> _Map:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def unit(self) -> str:
        """Of areas."""
        return area_unit(self.crs, self.geobox.affine.determinant)

    @property
    def fields(self) -> dict[str, str]:
        """The attributes of polygons, and what they are called for people."""
        return {name: label.replace("m²", self.unit) for name, label in FIELDS.items()}

    def origin(self, min_area: float) -> str:
        """Return what polygons of this map say of themselves; nothing if the map names no run."""
        run = self._map.tags.get("GEOUQ_RUN")
        return origin(run, min_area) if run else ""

    def masks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first row, where the class is, with a margin of one pixel)."""
        rows, columns = self.geobox.shape
        for strip in self.strips:
            wide = Roi(max(strip.y0 - 1, 0), min(strip.y1 + 1, rows), 0, columns)
            values = self._map.read(self._mask, wide)
            padded = np.zeros((strip.shape[0] + 2, columns + 2), bool)
            inside = padded[wide.y0 - strip.y0 + 1 : wide.y1 - strip.y0 + 1, 1:-1]
            np.logical_and(values.data == self.of, ~np.ma.getmaskarray(values), out=inside)
            if self.undecided_area is not None:
                undecided = values.data[strip.y0 - wide.y0 :][: strip.shape[0]] == UNDECIDED
                self.undecided_area += float((undecided * pixel_areas(self.geobox, strip)).sum())
            yield strip.y0, padded

    def measure(self, row: int, labels: np.ndarray, count: int) -> np.ndarray:
        """Sum over the pixels of each label: area; of each layer, values and number; of each sample, area."""
        pixels, roi = labels > 0, Roi(row, row + labels.shape[0], 0, labels.shape[1])
        owner = labels[pixels] - 1
        area = np.broadcast_to(pixel_areas(self.geobox, roi), labels.shape)[pixels]
        columns: list[np.ndarray] = [np.bincount(owner, area, count)]
        for band in self._layers:
            if band is None:
                columns += [np.zeros(count)] * 2
                continue
            values = self._map.read(band, roi)[pixels]
            known = ~np.ma.getmaskarray(values)
            columns.append(np.bincount(owner[known], values.data[known], count))
            columns.append(np.bincount(owner[known], minlength=count))
        if self._votes is not None:
            votes, _ = self._votes.votes(roi, self.of)
            columns += list(sums(votes[pixels], area, owner, count, self._votes.samples).T)
        return np.stack(columns, axis=1)

    def attributes(self, sums: np.ndarray) -> np.ndarray:
        """Turn sums of regions (n, …) into their attributes (n, fields); NaN = not known."""
        out = np.full((len(sums), len(FIELDS)), np.nan)
        out[:, 0] = sums[:, 0]
        if self._votes is not None and len(sums):
            within = np.minimum(sums[:, 5:], sums[:, :1])  # where all say water, rounding may differ
            out[:, 1:3] = np.stack(area_interval(within), axis=1)
        for column, band in zip((3, 4), self._layers, strict=True):
            total, number = sums[:, 2 * column - 5], sums[:, 2 * column - 4]
            if band is not None:
                known = number > 0
                mean = total[known] / number[known]  # scaled here: sums of whole percents are exact
                out[known, column] = np.round(
                    mean * self._map.file.scales[band - 1] + self._map.file.offsets[band - 1], 6
                )
        return out

    def _open_votes(self, path: str | os.PathLike[str] | None) -> Votes | None:
        """Open the samples file, given or beside the map."""
        if path is None:
            path = beside(self._map.path)
            if not path.exists():
                return None
            with MapFile(path) as found:
                if found.tags.get("GEOUQ_SAMPLES") == "0":  # of one pass without dropout: no interval
                    return None
        votes = self._stack.enter_context(Votes(path))
        votes.check_map(self._map)
        return votes


def _mask_band(found: MapFile) -> int:
    mask = found.band("mask")
    if mask is not None:
        return mask
    if found.holds_votes:
        raise SceneError(
            f"{found.path} holds the votes of samples: give the map they belong to, which finds them by itself"
        )
    if found.file.count == 1:
        return 1
    raise SceneError(
        f"{found.path} has {found.file.count} bands and none is called mask: give a map, or a mask of one band"
    )


def _layer_bands(found: MapFile, of: int) -> tuple[int | None, int | None]:
    """Return the numbers of the bands that mean probability of a class, where it is mapped, and uncertainty."""
    legend = found.legend
    probability = found.band("probability") if of == legend.positive else None
    if not legend.binary:  # the class that is mapped is the likeliest one
        probability = probability or found.band(f"probability_{legend.names[of]}") or found.band("confidence")
    elif probability is None and found.number("GEOUQ_CUT", found.number("GEOUQ_THRESHOLD", 0)) == 0.5:
        probability = found.band("confidence")
    return probability, found.band("uncertainty")
