"""Answers about places: how much of each polygon is water, or each class of a map, and how sure that is.

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

Of a map of more than two classes each has its own columns, which begin with its name: ``forest_area_m2``,
``forest_area_m2_p05``, ``forest_area_m2_p95``, ``forest_mask_area_m2``, ``forest_p_over_50``.

Without a CRS areas are in squared units of the grid. Memory is that of a strip of the map and a batch of places.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from geouq.answers.layercopy import LayerCopy
from geouq.answers.places import Measured, Places, measure
from geouq.answers.totals import MASKS, Totals, by_sample
from geouq.errors import InputError, OutputError
from geouq.files import refuse_own
from geouq.grid import area_unit
from geouq.layers import area_interval
from geouq.polygons.features import check_vector_path
from geouq.polygons.frame import as_frame

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

_TIE = 1e-9  # relative: areas that differ by less are the same, so that rounding decides nothing
_BEYOND = 1e-4  # share outside that is worth a note: a border that was projected is not quite the border


@dataclass
class ZonalSummary:
    """What became of the places: their number, how many have an answer, areas of all together (overlaps twice).

    ``water_area_m2`` is the mean of the sums in each sample, ``mask_area_m2`` what the map's mask says (None without a
    map): they differ where the map is in doubt. ``undecided_area_m2`` is what the mask leaves undecided, None if it
    never does. Areas are in m², without a CRS in ``unit``. ``expectation`` is what the map says of how wrong it is
    likely to be. ``by_class`` : of a map of more than two classes the same areas of each, by its name; the others are
    those of the positive class then. ``notes`` counts what was noted, ``renamed`` says which columns had to take
    another name.
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
    by_class: dict[str, dict[str, float | None]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {name: value for name, value in asdict(self).items() if name != "by_class" or value}

    def __str__(self) -> str:
        text = f"{self.places} places, {self.answered} with an answer; together "
        if self.by_class:
            areas = (f"{one['area_m2']:.6g} {self.unit} of {name}" for name, one in self.by_class.items())
            text += f"{', '.join(areas)}, the mean of {self.samples} samples"
        else:
            text += (
                f"{self.water_area_m2:.6g} {self.unit} of water, the mean of {self.samples} samples (5–95 %: "
                f"{self.water_area_m2_p05:.6g}–{self.water_area_m2_p95:.6g} {self.unit})"
            )
        if self.mask_area_m2 is not None and not self.by_class:
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
    places : a vector file, a GeoDataFrame, or ``Places`` of one to choose a layer or widen lines. Their CRS may be
        another than the map's.
    out_path : .gpkg, .fgb, .geojson or .parquet; shapes and attributes of the places, and the columns above.
        None: return them as a GeoDataFrame, with the summary in its ``attrs``.
    shares : percentages X, 0 ≤ X < 100, of the columns ``p_over_X``.
    with_samples : add a table ``samples`` (place, id, class where there are several, sample, area_m2) to a GeoPackage:
        add up the areas of places sample by sample, and the quantiles of that are their interval together. ``place`` is
        the polygon's fid.
    overwrite : replace ``out_path`` if it exists.

    Raises
    ------
    SceneError : if there are no votes or they are not of this map.
    InputError : if the places cannot be read or are not of a kind that has an area, or one of places and map has a
        CRS and the other has not.
    OutputError : if ``out_path`` exists, cannot be written, or is one of the inputs.
    """
    where = places if isinstance(places, Places) else Places(places)
    if not isinstance(where.path, str | os.PathLike):
        with _written(where.path) as file:
            options: Any = {"shares": shares, "with_samples": with_samples, "overwrite": overwrite}
            return zonal(map_path, replace(where, path=file), out_path, **options)
    if out_path is None:
        if with_samples:
            raise InputError("a table of samples goes into a GeoPackage: give out_path")
        return as_frame(lambda path: zonal(map_path, where, path, shares=shares))
    out = _check(Path(out_path), where, shares, with_samples, overwrite)
    with ExitStack() as stack:
        rasters = stack.enter_context(Totals(map_path))
        layer = stack.enter_context(LayerCopy(os.fspath(where.path), where.layer, out))
        _check_inputs(out, where, layer, rasters)
        votes, classes = rasters.votes, _class_columns(rasters.names)
        names = layer.add_columns(_columns(shares, rasters.undecided, classes))
        unit = area_unit(votes.crs, votes.geobox.affine.determinant)
        summary = ZonalSummary(layer.count, samples=votes.samples, unit=unit, expectation=rasters.expectation)
        summary.renamed = layer.renamed | {name: got for name, got in names.items() if got != name}
        total = np.zeros((len(classes), votes.samples))
        for first, shapes in layer.batches():
            found = measure(shapes, layer.crs, where.buffer, votes.geobox)
            totals = rasters.sums(found.edges, len(shapes))
            answers = _answers(totals, found, shares, classes)
            layer.fill(first, {names[name]: answers[name] for name in names})
            for k, (columns, areas) in enumerate(zip(classes, by_sample(totals, len(classes)), strict=True)):
                if with_samples:
                    layer.add_samples(first, areas, columns.name)
                total[k] += areas.sum(axis=0)
            _count(summary, answers, classes)
        _add_up(summary, classes, total, rasters.numbers.index(votes.of))
        if where.id is not None and (shared := layer.repeated(where.id)):
            summary.notes["with an id that others have too"] = shared
        layer.finish(with_samples, where.id, overwrite)
    return summary


def _add_up(summary: ZonalSummary, classes: Sequence[_ClassColumns], total: np.ndarray, positive: int) -> None:
    """Enter the areas of all places together, by class and sample (K, S); ``positive``: which of the classes is."""
    for k, columns in enumerate(classes):
        low, high = area_interval(total[k])
        areas = {"area_m2": float(total[k].mean()), "area_m2_p05": low, "area_m2_p95": high}
        if columns.name:
            summary.by_class[columns.name] = areas | summary.by_class.get(columns.name, {"mask_area_m2": None})
        if k == positive:
            summary.water_area_m2, summary.water_area_m2_p05, summary.water_area_m2_p95 = areas.values()
        if k == positive and columns.name:
            summary.mask_area_m2 = summary.by_class[columns.name]["mask_area_m2"]


@contextmanager
def _written(places: GeoDataFrame) -> Iterator[Path]:
    """Hold places in memory as a file."""
    if not hasattr(places, "to_file"):
        raise InputError(f"places are {type(places).__name__}: give a vector file, Places or a GeoDataFrame")
    several = [str(name) for name, kind in places.dtypes.items() if kind == "geometry"] if places.ndim == 2 else []
    if len(several) > 1:
        raise InputError(f"places have shapes in {' and '.join(several)}: drop all of these columns but one")
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


def _check_inputs(out: Path, where: Places, layer: LayerCopy, rasters: Totals) -> None:
    """Raise an error if map and places do not go together, or the output would replace one of them."""
    refuse_own(out, (where.path, rasters.votes.path, *([rasters.map.path] if rasters.map else [])))
    if where.id is not None and where.id not in layer.fields:
        raise InputError(f"{where.path} has no attribute {where.id!r}: it has {', '.join(layer.fields) or 'none'}")
    if (layer.crs is None) != (rasters.votes.crs is None):
        without, other = (where.path, rasters.votes.path) if layer.crs is None else (rasters.votes.path, where.path)
        raise InputError(f"{without} has no CRS and {other} has one: say what it is (ogr2ogr or gdal_edit, -a_srs)")


@dataclass(frozen=True)
class _ClassColumns:
    """The columns of a class: its ``name`` and how they begin; both empty where one class alone is asked about."""

    name: str = ""
    prefix: str = ""

    @property
    def areas(self) -> tuple[str, str, str]:
        """Mean, 5 % and 95 % quantile of the area."""
        area = f"{self.prefix or 'water_'}area_m2"
        return area, f"{area}_p05", f"{area}_p95"

    @property
    def mask(self) -> str:
        """Area by the mask."""
        return f"{self.prefix}mask_area_m2"

    def over(self, share: float) -> str:
        """Share of samples in which it is more than ``share`` percent."""
        text = np.format_float_positional(share, trim="-")  # 1e-05 is no name
        return f"{self.prefix}p_over_{text}".replace(".", "_")


def _class_columns(names: Sequence[str]) -> list[_ClassColumns]:
    """Return the columns of each class; ``names`` : none where a map is asked about one class alone."""
    words, apart = [_word(name) for name in names], list[str]()
    for k, word in enumerate(words):
        while words.count(word) > (word == words[k]) or word in apart:
            word = f"{word}_{k}"
        apart.append(word)
    return [_ClassColumns(name, f"{word}_") for name, word in zip(names, apart, strict=True)] or [_ClassColumns()]


def _word(name: str) -> str:
    """Return the name of a class as the beginning of columns' names, none of which is one of the others'."""
    word = re.sub(r"\W+", "_", name).strip("_").lower() or "class"
    return f"{word}_class" if re.fullmatch("valid|undecided|(.*_)?mask", word) else word


def _columns(shares: Sequence[float], undecided: bool, classes: Sequence[_ClassColumns]) -> dict[str, str]:
    """Return the columns in their order, with their SQLite types."""
    known = ("undecided_area_m2",) * undecided + ("valid_area_m2", "not_classified", "outside")
    if len(classes) == 1:
        (one,) = classes
        names = [*one.areas, one.mask, *known, *map(one.over, shares)]
    else:
        names = [name for one in classes for name in (*one.areas, one.mask, *map(one.over, shares))] + list(known)
    return dict.fromkeys([*names, "uncertainty"], "REAL") | {"samples": "INTEGER", "note": "TEXT"}


def _count(summary: ZonalSummary, answers: dict[str, Any], classes: Sequence[_ClassColumns]) -> None:
    """Add a batch to the summary."""
    valid = np.asarray(answers["valid_area_m2"])
    summary.answered += int((valid > 0).sum())
    summary.valid_area_m2 += float(valid.sum())
    for columns in classes:
        if columns.name:
            one = summary.by_class.setdefault(columns.name, {"mask_area_m2": None})
            one["mask_area_m2"] = _more(one["mask_area_m2"], answers[columns.mask])
        else:
            summary.mask_area_m2 = _more(summary.mask_area_m2, answers[columns.mask])
    summary.undecided_area_m2 = _more(summary.undecided_area_m2, answers["undecided_area_m2"])
    for note in "; ".join(text for text in answers["note"] if text).split("; "):
        if note:
            summary.notes[note] = summary.notes.get(note, 0) + 1


def _more(before: float | None, areas: Sequence[float]) -> float | None:
    """Return a sum of areas with more added; None as long as none is known."""
    area = np.asarray(areas, float)
    return (before or 0.0) + float(np.nansum(area)) if np.isfinite(area).any() else before


def _answers(
    totals: np.ndarray, found: Measured, shares: Sequence[float], classes: Sequence[_ClassColumns]
) -> dict[str, Any]:
    """Turn sums (places, …) into columns; NaN = not known."""
    inside, ground, valid, undecided, doubt, doubted = totals[:, :MASKS].T
    none = valid == 0
    outside = 1 - _ratio(inside, found.area)
    outside = np.where(outside < _TIE, 0.0, outside)
    columns = {
        "undecided_area_m2": np.where(none, np.nan, undecided),
        "valid_area_m2": valid,
        "not_classified": np.maximum(1 - _ratio(valid, ground), 0),
        "outside": outside,
        "uncertainty": _ratio(doubt, doubted),
    }
    for k, (names, areas) in enumerate(zip(classes, by_sample(totals, len(classes)), strict=True)):
        areas = np.minimum(areas, valid[:, None])  # where all is water, rounding may differ
        low, high = area_interval(areas) if len(areas) else np.empty((2, 0))
        told = dict(zip(names.areas, (areas.mean(axis=1), low, high), strict=True)) | {names.mask: totals[:, MASKS + k]}
        for share in shares:
            wet = (areas > (share / 100 * (1 + _TIE) * valid)[:, None]).mean(axis=1)
            told[names.over(share)] = wet
        columns |= {name: np.where(none, np.nan, values) for name, values in told.items()}
    notes = [
        "; ".join([*note, *_whereabouts(*where)]) for note, *where in zip(found.notes, inside, outside, strict=True)
    ]
    out: dict[str, Any] = {name: values.tolist() for name, values in columns.items()}
    return out | {"samples": [areas.shape[1]] * len(valid), "note": [note or None for note in notes]}


def _whereabouts(inside: float, outside: float) -> list[str]:
    """Return what is to be noted of pixels on the map, and a share beyond it."""
    if inside < _TIE and outside > 0:
        return ["outside the map"]
    return ["partly outside the map"] if outside > _BEYOND else []


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole, NaN where there is no whole."""
    return np.asarray(np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0))
