"""Answers about places: how much of each polygon is water, and how sure that is.

Every pixel counts with the share of it that lies inside a polygon (geouq.answers.coverage), times its area on the
ellipsoid. The sums are kept a sample at a time, so that samples stay whole maps: areas of several places in the same
sample may be added, and quantiles of those sums are the interval of all of them together. Columns added to a place:

``water_area_m2, water_area_m2_p05, water_area_m2_p95``
    mean, 5 % and 95 % quantile over the samples of the area that a sample calls water
``mask_area_m2, undecided_area_m2``
    area the map's mask calls water; null without a map. Area that it leaves undecided, if it leaves any so
``valid_area_m2, not_classified, outside``
    area that is classified; share of the place's part on the map that is not; share (of pixels) beyond the map
``p_over_X``
    share of samples in which more than X % of the classified area is water
``uncertainty``
    mean over the classified area, if the map has that layer
``samples, note``
    their number; what had to be done to the place, or why it has no answer

Without a CRS areas are in squared units of the grid. Memory is that of a strip of the map and a batch of places.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from geouq.answers.coverage import Coverage, Edges, coverage
from geouq.answers.layercopy import LayerCopy
from geouq.answers.places import Measured, Places, measure
from geouq.errors import InputError, OutputError
from geouq.files import refuse_own
from geouq.grid import Roi, area_unit, pixel_areas
from geouq.layers import UNDECIDED, area_interval
from geouq.maps.votes import expectation, open_votes, strips, sums
from geouq.polygons.features import check_vector_path
from geouq.polygons.frame import as_frame

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

_INSIDE, _GROUND, _VALID, _MASK, _UNDECIDED, _DOUBT, _DOUBTED, _SAMPLES = range(8)
_TIE = 1e-9  # relative: areas that differ by less are the same, so that rounding decides nothing
_BEYOND = 1e-4  # share outside that is worth a note: a border that was projected is not quite the border


@dataclass
class ZonalSummary:
    """What became of the places: their number, how many have an answer, areas of all together (overlaps twice).

    ``water_area_m2`` is the mean of the sums in each sample, ``mask_area_m2`` what the map's mask says (None without a
    map): they differ where the map is in doubt. ``undecided_area_m2`` is what the mask leaves undecided, None if it
    never does. Areas are in m², without a CRS in ``unit``. ``expectation`` is what the map says of how wrong it is
    likely to be. ``notes`` counts what was noted, ``renamed`` says which columns had to take another name.
    """

    places: int = 0
    answered: int = 0
    samples: int = 0
    valid_area_m2: float = 0.0
    water_area_m2: float = 0.0
    water_area_m2_p05: float = 0.0
    water_area_m2_p95: float = 0.0
    mask_area_m2: float | None = None
    unit: str = "m²"
    undecided_area_m2: float | None = None
    expectation: str | None = None
    notes: dict[str, int] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        text = (
            f"{self.places} places, {self.answered} with an answer; together {self.water_area_m2:.6g} {self.unit} of "
            f"water, the mean of {self.samples} samples (5–95 %: {self.water_area_m2_p05:.6g}–"
            f"{self.water_area_m2_p95:.6g} {self.unit})"
        )
        if self.mask_area_m2 is not None:
            text += f"; by the map's mask {self.mask_area_m2:.6g} {self.unit}"
        if self.undecided_area_m2 is not None:
            text += f", undecided {self.undecided_area_m2:.6g} {self.unit}"
        if self.places and not self.valid_area_m2:
            text = f"{self.places} places, none with an answer: nothing of the map is classified in any of them"
        notes = [f"{number} {note}" for note, number in self.notes.items()]
        return "; ".join([text, *notes, *([f"of the whole map: {self.expectation}"] if self.expectation else [])])


@overload
def zonal(
    map_path: str | os.PathLike[str],
    places: Places | GeoDataFrame | str | os.PathLike[str],
    out_path: None = None,
    *,
    shares: Sequence[float] = (50.0,),
) -> GeoDataFrame: ...
@overload
def zonal(
    map_path: str | os.PathLike[str],
    places: Places | GeoDataFrame | str | os.PathLike[str],
    out_path: str | os.PathLike[str],
    *,
    shares: Sequence[float] = (50.0,),
    with_samples: bool = False,
    overwrite: bool = False,
) -> ZonalSummary: ...
def zonal(
    map_path: str | os.PathLike[str],
    places: Places | GeoDataFrame | str | os.PathLike[str],
    out_path: str | os.PathLike[str] | None = None,
    *,
    shares: Sequence[float] = (50.0,),
    with_samples: bool = False,
    overwrite: bool = False,
) -> ZonalSummary | GeoDataFrame:
    """Write places with the water in each, and how sure that is, as columns added to their own; or return them.

    Parameters
    ----------
    map_path : a map of geouq's with its votes beside it (``<stem>_samples.tif``), or these votes alone.
    places : a vector file, ``Places`` to choose a layer or widen lines, or a GeoDataFrame. Their CRS may be another
        than the map's.
    out_path : .gpkg, .fgb, .geojson or .parquet; shapes and attributes of the places, and the columns above.
        None: return them as a GeoDataFrame, with the summary in its ``attrs``.
    shares : percentages X, 0 ≤ X < 100, of the columns ``p_over_X``.
    with_samples : add a table ``samples`` (place, id, sample, area_m2) to a GeoPackage: add up the areas of places
        sample by sample, and the quantiles of that are their interval together. ``place`` is the polygon's fid.
    overwrite : replace ``out_path`` if it exists.

    Raises
    ------
    SceneError : if there are no votes or they are not of this map.
    InputError : if the places cannot be read or are not of a kind that has an area, or one of places and map has a
        CRS and the other has not.
    OutputError : if ``out_path`` exists, cannot be written, or is one of the inputs.
    """
    if not isinstance(places, Places | str | os.PathLike):
        with _written(places) as file:
            options: Any = {"shares": shares, "with_samples": with_samples, "overwrite": overwrite}
            return zonal(map_path, file, out_path, **options)
    where = places if isinstance(places, Places) else Places(os.fspath(places))
    if out_path is None:
        if with_samples:
            raise InputError("a table of samples goes into a GeoPackage: give out_path")
        return as_frame(lambda path: zonal(map_path, where, path, shares=shares))
    out = _check(Path(out_path), where, shares, with_samples, overwrite)
    with ExitStack() as stack:
        rasters = stack.enter_context(_Rasters(map_path))
        layer = stack.enter_context(LayerCopy(where.path, where.layer, out))
        _check_inputs(out, where, layer, rasters)
        names = layer.add_columns(_columns(shares, rasters.undecided))
        votes = rasters.votes
        unit = area_unit(votes.crs, votes.geobox.affine.determinant)
        summary = ZonalSummary(layer.count, samples=votes.samples, unit=unit, expectation=rasters.expectation)
        summary.renamed = layer.renamed | {name: got for name, got in names.items() if got != name}
        total = np.zeros(votes.samples)
        for first, shapes in layer.batches():
            found = measure(shapes, layer.crs, where.buffer, votes.geobox)
            totals = rasters.sums(found.edges, len(shapes))
            answers = _answers(totals, found, shares)
            layer.fill(first, {names[name]: answers[name] for name in names})
            if with_samples:
                layer.add_samples(first, totals[:, _SAMPLES:])
            total += totals[:, _SAMPLES:].sum(axis=0)
            _count(summary, answers)
        summary.water_area_m2 = float(total.mean())
        summary.water_area_m2_p05, summary.water_area_m2_p95 = area_interval(total)
        if where.id is not None and (shared := layer.repeated(where.id)):
            summary.notes["with an id that others have too"] = shared
        layer.finish(with_samples, where.id, overwrite)
    return summary


@contextmanager
def _written(places: GeoDataFrame) -> Iterator[Path]:
    """Hold places in memory as a file."""
    if not hasattr(places, "to_file"):
        raise InputError(f"places are {type(places).__name__}: give a vector file, Places or a GeoDataFrame")
    with TemporaryDirectory(prefix="geouq-") as folder:
        file = Path(folder, "places.gpkg")
        places.to_file(file)
        yield file


def _check(out: Path, where: Places, shares: Sequence[float], with_samples: bool, overwrite: bool) -> Path:
    """Return ``out``, or raise an error for what can be seen to be wrong before anything is read."""
    if not all(0 <= share < 100 for share in shares) or len(set(shares)) < len(shares):
        raise InputError(f"shares of {', '.join(f'{x:g}' for x in shares)} %: give each once, 0 or more and below 100")
    if with_samples and out.suffix.lower() != ".gpkg":
        raise OutputError(f"{out}: a table of samples needs a GeoPackage: give a name that ends in .gpkg")
    if where.id is not None and not with_samples:
        raise InputError(f"the id {where.id!r} is for the table of samples: ask for that too")
    return check_vector_path(out, overwrite)


def _check_inputs(out: Path, where: Places, layer: LayerCopy, rasters: _Rasters) -> None:
    """Raise an error if map and places do not go together, or the output would replace one of them."""
    refuse_own(out, (where.path, rasters.votes.path, *([rasters.map.path] if rasters.map else [])))
    if where.id is not None and where.id not in layer.fields:
        raise InputError(f"{where.path} has no attribute {where.id!r}: it has {', '.join(layer.fields) or 'none'}")
    if (layer.crs is None) != (rasters.votes.crs is None):
        without, other = (where.path, rasters.votes.path) if layer.crs is None else (rasters.votes.path, where.path)
        raise InputError(f"{without} has no CRS and {other} has one: say what it is (ogr2ogr or gdal_edit, -a_srs)")


def _columns(shares: Sequence[float], undecided: bool) -> dict[str, str]:
    """Return the columns in their order, with their SQLite types."""
    decided = ("mask_area_m2", "undecided_area_m2") if undecided else ("mask_area_m2",)
    areas = ("water_area_m2", "water_area_m2_p05", "water_area_m2_p95", *decided, "valid_area_m2")
    names = (*areas, "not_classified", "outside", *map(_over, shares), "uncertainty")
    return dict.fromkeys(names, "REAL") | {"samples": "INTEGER", "note": "TEXT"}


def _over(share: float) -> str:
    return f"p_over_{np.format_float_positional(share, trim='-')}".replace(".", "_")  # 1e-05 is no name


def _count(summary: ZonalSummary, answers: dict[str, Any]) -> None:
    """Add a batch to the summary."""
    valid = np.asarray(answers["valid_area_m2"])
    summary.answered += int((valid > 0).sum())
    summary.valid_area_m2 += float(valid.sum())
    for name in ("mask_area_m2", "undecided_area_m2"):
        area = np.asarray(answers[name], float)
        if np.isfinite(area).any():
            setattr(summary, name, (getattr(summary, name) or 0.0) + float(np.nansum(area)))
    for note in "; ".join(text for text in answers["note"] if text).split("; "):
        if note:
            summary.notes[note] = summary.notes.get(note, 0) + 1


def _answers(totals: np.ndarray, found: Measured, shares: Sequence[float]) -> dict[str, Any]:
    """Turn sums (places, …) into columns; NaN = not known."""
    inside, ground, valid, mask, undecided, doubt, doubted = totals[:, :_SAMPLES].T
    areas = np.minimum(totals[:, _SAMPLES:], valid[:, None])  # where all is water, rounding may differ
    none = valid == 0
    low, high = area_interval(areas) if len(areas) else np.empty((2, 0))
    outside = 1 - _ratio(inside, found.area)
    outside = np.where(outside < _TIE, 0.0, outside)
    columns = {
        "water_area_m2": np.where(none, np.nan, areas.mean(axis=1)),
        "water_area_m2_p05": np.where(none, np.nan, low),
        "water_area_m2_p95": np.where(none, np.nan, high),
        "mask_area_m2": np.where(none, np.nan, mask),
        "undecided_area_m2": np.where(none, np.nan, undecided),
        "valid_area_m2": valid,
        "not_classified": np.maximum(1 - _ratio(valid, ground), 0),
        "outside": outside,
        "uncertainty": _ratio(doubt, doubted),
    }
    for share in shares:
        wet = (areas > (share / 100 * (1 + _TIE) * valid)[:, None]).mean(axis=1)
        columns[_over(share)] = np.where(none, np.nan, wet)
    notes = [
        "; ".join([*note, *_whereabouts(*where)]) for note, *where in zip(found.notes, inside, outside, strict=True)
    ]
    out: dict[str, Any] = {name: values.tolist() for name, values in columns.items()}
    return out | {"samples": [areas.shape[1]] * len(areas), "note": [note or None for note in notes]}


def _whereabouts(inside: float, outside: float) -> list[str]:
    """Return what is to be noted of pixels on the map, and a share beyond it."""
    if inside < _TIE and outside > 0:
        return ["outside the map"]
    return ["partly outside the map"] if outside > _BEYOND else []


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole, NaN where there is no whole."""
    return np.asarray(np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0))


class _Rasters:
    """Votes, and the map if there is one; a context manager."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.votes, self.map = open_votes(path)
        self._mask = self.map.band("mask") if self.map else None
        self._doubt = self.map.band("uncertainty") if self.map else None
        self.undecided = self.map is not None and self._mask is not None and self.map.legend.undecided
        self.expectation = expectation(self.map or self.votes)

    def __enter__(self) -> _Rasters:
        return self

    def __exit__(self, *_: object) -> None:
        self.votes.file.close()
        if self.map is not None:
            self.map.file.close()

    def sums(self, found: Edges, count: int) -> np.ndarray:
        """Sum over the pixels of ``count`` places: (count, 7 + samples), in the order of ``_INSIDE`` … ``_SAMPLES``."""
        out = np.zeros((count, _SAMPLES + self.votes.samples))
        out[:, _MASK] = np.nan if self._mask is None else 0.0
        out[:, _UNDECIDED] = 0.0 if self.undecided else np.nan
        order = np.argsort(found.y0)
        tops, taken, active = found.y0[order], 0, np.empty(0, np.int64)
        for strip in strips(self.votes.geobox):
            upto = int(np.searchsorted(tops, strip.y1))
            active = np.sort(np.concatenate([active[found.y1[active] > strip.y0], order[taken:upto]]))
            taken = upto
            self._add(out, found[active], strip)
        return out

    def _add(self, out: np.ndarray, found: Edges, strip: Roi) -> None:
        """Add the pixels of one strip, reading no more columns than there are places."""
        if not len(found):
            return
        left = max(int(np.floor(min(found.x0.min(), found.x1.min()))), 0)
        right = min(int(np.ceil(max(found.x0.max(), found.x1.max()))), strip.x1)
        if left >= right:
            return
        roi = Roi(strip.y0, strip.y1, left, right)
        layers = self._read(roi)
        for part in coverage(found, roi.y0, roi.y1, left, right):
            out[part.owners] += self._measure(layers, part)

    def _read(self, roi: Roi) -> _Strip:
        votes, valid = self.votes.votes(roi)
        rows = Roi(roi.y0, roi.y1, 0, self.votes.geobox.shape[1])  # whole: PROJ's rounding goes by where it is asked
        area = np.broadcast_to(pixel_areas(self.votes.geobox, rows), rows.shape)[:, roi.x0 : roi.x1]
        wet, open_, doubt = np.zeros(roi.shape, bool), np.zeros(roi.shape, bool), None
        if self.map is not None and self._mask is not None:
            mask = self.map.read(self._mask, roi)
            wet = (mask.data == self.map.legend.positive) & ~np.ma.getmaskarray(mask)
            open_ = mask.data == UNDECIDED
        if self.map is not None and self._doubt is not None:
            doubt = self.map.read(self._doubt, roi)
        return _Strip(roi, area.ravel(), votes.ravel(), valid.ravel(), wet.ravel(), open_.ravel(), doubt)

    def _measure(self, strip: _Strip, part: Coverage) -> np.ndarray:
        """Sum over the pixels of each of a few places; only the first two count what is not classified."""
        count = len(part.owners)
        out = np.zeros((count, _SAMPLES + self.votes.samples))
        pixel = (part.row - strip.roi.y0) * strip.roi.shape[1] + part.column - strip.roi.x0
        weight = part.share * strip.area[pixel]
        out[:, _INSIDE] = np.bincount(part.polygon, part.share, count)
        out[:, _GROUND] = np.bincount(part.polygon, weight, count)
        valid = strip.valid[pixel]
        polygon, pixel, weight = part.polygon[valid], pixel[valid], weight[valid]
        out[:, _VALID] = np.bincount(polygon, weight, count)
        wet = strip.wet[pixel]
        out[:, _MASK] = np.bincount(polygon[wet], weight[wet], count)
        open_ = strip.undecided[pixel]
        out[:, _UNDECIDED] = np.bincount(polygon[open_], weight[open_], count)
        if self.map is not None and strip.doubt is not None and self._doubt is not None:
            known = ~np.ma.getmaskarray(strip.doubt).ravel()[pixel]
            values = strip.doubt.data.ravel()[pixel[known]] * self.map.file.scales[self._doubt - 1]
            out[:, _DOUBT] = np.bincount(polygon[known], weight[known] * values, count)
            out[:, _DOUBTED] = np.bincount(polygon[known], weight[known], count)
        out[:, _SAMPLES:] = sums(strip.votes[pixel], weight, polygon, count, self.votes.samples)
        return out


@dataclass(frozen=True)
class _Strip:
    """Pixels of ``roi``, one after the other: area, votes, whether valid, what the mask says; uncertainty."""

    roi: Roi
    area: np.ndarray
    votes: np.ndarray
    valid: np.ndarray
    wet: np.ndarray
    undecided: np.ndarray
    doubt: np.ma.MaskedArray | None
