"""A map of classes against a label on the same grid: any two rasters, of any size, read window by window.

A pixel counts where both say a class. What is not classified (255), undecided (254) or nodata in the map, and what is
not labelled (255, or nodata) in the label, is left out and counted.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from geouq.errors import InputError, SceneError
from geouq.gdal import read
from geouq.grid import Roi, pieces, same_grid
from geouq.layers import LAYERS, NOT_CLASSIFIED, UNDECIDED, Legend, misplaced
from geouq.rasters.raster import Pixels, Raster, inspect_raster, read_window
from geouq.rasters.windowed import chunk_shape
from geouq.scores.confusion import ConfusionMatrix

#: pixels a side of the windows that are read at once, about
_CHUNK = 1024

#: called with a window, and class indices of map and label (h, w), -1 where the pixel does not count
OnWindow = Callable[[Roi, np.ndarray, np.ndarray], None]


@dataclass(frozen=True)
class Score:
    """What was counted. ``counts`` go by (label, map); ``names`` are those of the classes, ``positive`` an index.

    left_out : pixels that do not count, by why; each pixel once, by the first reason that holds.
    """

    counts: ConfusionMatrix
    names: tuple[str, ...]
    positive: int
    left_out: dict[str, int]

    @property
    def pixels(self) -> int:
        """How many pixels count."""
        return int(self.counts.counts.sum())

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; None where a score is a ratio of nothing.

        ``accuracy``, ``miou`` and ``dice`` (means over the classes that occur in label or map); ``classes``, each with
        ``iou``, ``dice`` (which is F1), ``precision``, ``recall`` and its pixels in both; ``confusion``: rows are the
        label's classes, columns the map's.
        """
        return {
            "pixels": self.pixels,
            "left_out": self.left_out,
            "accuracy": _number(self.counts.accuracy),
            "miou": _number(self.counts.miou),
            "dice": _number(self.counts.dice),
            "classes": [self._of_class(number, name) for number, name in enumerate(self.names)],
            "confusion": self.counts.counts.tolist(),
        }

    def _of_class(self, number: int, name: str) -> dict[str, Any]:
        one = self.counts.one(number)
        scores = {"iou": one.iou, "dice": one.f1, "precision": one.precision, "recall": one.recall}
        pixels = {"label_pixels": one.tp + one.fn, "map_pixels": one.tp + one.fp}
        return {"class": number, "name": name} | {key: _number(value) for key, value in scores.items()} | pixels


def score(
    map_path: str | os.PathLike[str],
    label_path: str | os.PathLike[str],
    *,
    names: Sequence[str] | None = None,
    label_values: Sequence[float] | None = None,
    ignore: Sequence[float] = (),
    on_window: OnWindow | None = None,
) -> Score:
    """Score a map of class indices against a label of the same pixels.

    Parameters
    ----------
    map_path, label_path : any rasters GDAL reads, on one grid, of one band each, or with one that is called "mask".
        A label's nodata value of 0 nearly always stands for class 0, and is taken for it; so is one of
        ``label_values`` for its class.
    names : of the classes; by default those in the tags of the map, or else of the label; or the numbers.
    label_values : values in the label of class 0, 1 …; by default they are the classes' indices.
    ignore : values, of either, that say nothing, beside 255 and 254 (in a label with ``label_values`` these alone).
    on_window : see ``OnWindow``.

    Raises
    ------
    SceneError : a raster cannot be read, or has several bands. InputError : their grids differ, a value is no class,
        a class is named at two indices, or no pixel counts.
    """
    found, truth = _open(map_path), _open(label_path)
    (band,) = truth.bands
    if band.nodata in (0, *(label_values or ())):
        truth = replace(truth, bands=(replace(band, nodata=None),))
    _refuse_other_order(found, truth, names, label_values is None)
    refuse_other_grid(found, truth)
    counts, left_out = ConfusionMatrix(UNDECIDED), {"not_classified": 0, "undecided": 0, "not_labelled": 0}
    for roi in pieces(found.shape, *chunk_shape(found.shape, found.block, _CHUNK)):
        said = _values(found, roi, [NOT_CLASSIFIED, *ignore])
        if label_values is None:
            label = _values(truth, roi, [NOT_CLASSIFIED, *ignore])
        else:
            label = _as_classes(truth.path, _values(truth, roi, ignore), label_values)
        missing = np.isnan(said), said == UNDECIDED, np.isnan(label) | (label == UNDECIDED)
        counts_here = ~np.any(missing, axis=0)
        left = np.ones(said.shape, bool)
        for why, where in zip(left_out, missing, strict=True):
            left_out[why] += int((left & where).sum())
            left &= ~where
        said, label = _indices(found.path, said, counts_here), _indices(truth.path, label, counts_here)
        counts.add(said, label, counts_here)
        if on_window:
            on_window(roi, said, label)
    if not counts.counts.any():
        raise InputError(f"{found.path}: no pixel has a class both in it and in {truth.path}: nothing can be scored")
    return _named(counts, left_out, _legend([found, truth]), names)


def refuse_other_grid(found: Raster, truth: Raster) -> None:
    """Raise InputError unless two rasters have the same pixels; where one alone has a CRS, sizes alone are compared."""
    if found.shape != truth.shape:
        sizes = " and ".join(f"{raster.shape[1]} x {raster.shape[0]}" for raster in (found, truth))
        raise InputError(f"{truth.path}: differs in size from {found.path} ({sizes} pixels): warp one onto the other")
    if bool(found.crs) != bool(truth.crs) or not (found.transform and truth.transform):
        return
    if not same_grid(Pixels(found).geobox, Pixels(truth).geobox):
        raise InputError(f"{truth.path}: lies elsewhere than {found.path}: warp one onto the other's grid (gdalwarp)")


def _open(path: str | os.PathLike[str]) -> Raster:
    raster = inspect_raster(path)
    bands = [band for band in raster.bands if band.label == "mask"] or list(raster.bands)
    if len(bands) > 1:
        raise SceneError(
            f"{raster.path}: has {len(bands)} bands, none called mask: give classes in one (gdal_translate -b 1)"
        )
    if bands[0].label in LAYERS and bands[0].label != "mask":
        raise SceneError(
            f"{raster.path}: holds the layer {bands[0].label} of a map, and no classes: give one with a mask"
        )
    return replace(raster, bands=tuple(bands))


def _values(raster: Raster, roi: Roi, ignore: Sequence[float]) -> np.ndarray:
    """Return the values of a window, NaN where they say nothing."""
    values = read_window(raster, raster.bands, *roi.slices)[0]
    return np.where(np.isin(values, ignore), np.float32(np.nan), values)


def _as_classes(path: str, label: np.ndarray, values: Sequence[float]) -> np.ndarray:
    out = np.full_like(label, np.nan)
    for number, value in enumerate(values):
        out[label == value] = number
    unknown = np.isnan(out) & ~np.isnan(label)
    if unknown.any():
        raise InputError(f"{path}: holds {label[unknown][0]:g}, which is none of the label's values: name or ignore it")
    return out


def _indices(path: str, values: np.ndarray, here: np.ndarray) -> np.ndarray:
    """Return class indices int16, -1 where not ``here``; raise InputError for a value that is none."""
    odd = here & ((values < 0) | (values >= UNDECIDED) | (values != np.round(values)))
    if odd.any():
        raise InputError(f"{path}: holds {values[odd][0]:g}, which is no class: classes are 0 to {UNDECIDED - 1}")
    return np.asarray(np.where(here, values, -1), np.int16)


def positive_class(paths: Sequence[str | os.PathLike[str]]) -> int:
    """Return the index of the positive class, by the tags of the first raster that names its classes; else 1."""
    legend = _legend([inspect_raster(path) for path in paths])
    return legend.positive if legend else 1


def _refuse_other_order(found: Raster, truth: Raster, names: Sequence[str] | None, by_index: bool) -> None:
    """Raise InputError where one class is named at two indices; a label counts if its values are indices."""
    legends = [(str(raster.path), _legend([raster])) for raster in ((found, truth) if by_index else (found,))]
    told = [(path, legend.names) for path, legend in legends if legend]
    told += [("the names given", tuple(names))] if names else []
    for (one, ours), (other, theirs) in combinations(told, 2):
        name = misplaced(theirs, ours)
        if name is not None:
            raise InputError(
                f"{other}: {name} is class {theirs.index(name)}, and class {ours.index(name)} in {one}: "
                "give both in one order (--label-values tells that of a label)"
            )


def _legend(rasters: Sequence[Raster]) -> Legend | None:
    """Return what the tags of the first raster that names its classes say."""
    for raster in rasters:
        tags: dict[str, str] = read(raster.key, lambda dataset: dataset.tags())
        if "GEOUQ_CLASSES" in tags:
            return Legend.of_tags(tags, raster.path)
    return None


def _named(
    counts: ConfusionMatrix, left_out: dict[str, int], legend: Legend | None, names: Sequence[str] | None
) -> Score:
    """Return the counts of the classes that are named or occur."""
    known = Legend(tuple(names)).names if names else legend.names if legend else ()
    positive = legend.positive if legend else 1
    highest = int(np.flatnonzero(counts.counts.any(0) | counts.counts.any(1)).max())
    number = max(len(known), highest + 1, positive + 1)
    table = ConfusionMatrix(number)
    table.counts = counts.counts[:number, :number]
    return Score(table, (*known, *map(str, range(len(known), number))), positive, left_out)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
