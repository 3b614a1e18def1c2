"""A scene into a map of classes by a classic method: the same COG, tags, style and polygons as of any other map.

The scene is read in windows (geouq.classic.windows). What a method knows of the whole scene, levels or centres of
classes, is fitted first; then each window is called by that. Where this is not what the method would do with the whole
scene at once, the map's tag ``GEOUQ_APPROXIMATE`` says so.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from geouq.classic.features import REACH as TEXTURE_REACH
from geouq.classic.features import texture
from geouq.classic.regional import REACH as REGION_REACH
from geouq.classic.regional import Regional, check_method
from geouq.classic.rules import FIT, Levels, Nearest, Threshold, kmeans, otsu, valleys
from geouq.classic.smooth import MARGIN, check_smooth, smoothed
from geouq.classic.windows import WINDOW, windows
from geouq.errors import InputError, OutputError
from geouq.files import check_free, refuse_own_scene
from geouq.grid import Roi, pixel_areas
from geouq.layers import NOT_CLASSIFIED, Legend
from geouq.maps.bands import map_bands, quantise
from geouq.maps.cog import MapWriter
from geouq.maps.styles import write_qml
from geouq.maps.votes import beside
from geouq.polygons.features import check_vector_path
from geouq.polygons.vectorize import vectorize
from geouq.rasters.coords import scene_geobox

REGIONAL = ("edges", "region-growing", "split-merge")
METHODS = ("otsu", "threshold", "histogram", "kmeans", "texture", *REGIONAL)
#: methods that look at one band, the first; and those that know of two classes alone
ONE_BAND, TWO_CLASSES = ("otsu", "threshold", "histogram"), ("otsu", "threshold")
#: regions that may be looked for
MOST_REGIONS = 32


@dataclass(frozen=True)
class Classic:
    """What is asked of a classic method.

    threshold : of "threshold", in the scene's units. regions : how many classes; of "otsu" and "threshold" two.
    above : of two, class 1 is the brighter one, as water is in a water index; else the darker one, as in backscatter.
    smooth : the name of a light smoothing beforehand (geouq.classic.smooth), or None.

    Raises
    ------
    InputError : these do not go together.
    """

    method: str = "otsu"
    threshold: float | None = None
    regions: int = 2
    above: bool = False
    smooth: str | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"no method {self.method!r}: choose among {', '.join(METHODS)}")
        check_method(self.method)
        if (self.threshold is not None) != (self.method == "threshold"):
            raise InputError(
                "a threshold is what the method threshold needs, and no other takes: give both, or neither"
            )
        if self.threshold is not None and not np.isfinite(self.threshold):
            raise InputError(f"threshold {self.threshold} is no value of a pixel: give a finite number")
        if not 2 <= self.regions <= MOST_REGIONS or (self.regions > 2 and self.method in TWO_CLASSES):
            two, more = ", ".join(TWO_CLASSES), ", ".join(m for m in METHODS if m not in TWO_CLASSES)
            raise InputError(f"{self.regions} regions: {more} take 2 to {MOST_REGIONS}, {two} 2")

    @property
    def legend(self) -> Legend:
        """What values of the mask mean."""
        if self.regions == 2:
            return Legend()
        return Legend(tuple(f"region {number}" for number in range(1, self.regions + 1)), 0)

    @property
    def reach(self) -> int:
        """How far around a pixel the method looks, smoothing apart."""
        return TEXTURE_REACH if self.method == "texture" else REGION_REACH if self.method in REGIONAL else 0


def classify(
    scene: xr.DataArray,
    path: str | os.PathLike[str],
    method: str = "otsu",
    *,
    threshold: float | None = None,
    regions: int = 2,
    above: bool = False,
    smooth: str | None = None,
    vector: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Map a scene by a classic method and write the map; memory is that of a window.

    Parameters
    ----------
    scene : (band, y, x), NaN where not valid. "otsu", "threshold" and "histogram" look at its first band alone.
    path : the map, ``.tif``; its style is written beside it.
    method, threshold, regions, above, smooth : see ``Classic``.
    vector : polygons too, as of any map (geouq.polygons.vectorize).

    Returns
    -------
    ``method``; ``threshold``, ``thresholds`` or ``centres`` (a list a class); ``areas_m2`` by class (squared units
    without a CRS); ``not_classified_percent``; ``approximate``: ``notes`` say why, else they are empty.

    Raises
    ------
    InputError : an argument is not what it must be, or the scene cannot be divided. OutputError : the map cannot be
        written.
    """
    path, asked = Path(path), Classic(method, threshold, regions, above, smooth)
    check_smooth(smooth, str(scene.attrs.get("units", "")))
    if path.suffix.lower() not in (".tif", ".tiff"):
        raise InputError(f"{path}: maps are written as .tif: give it that suffix")
    files = (path, path.with_suffix(".qml"), *((check_vector_path(vector, overwrite),) if vector else ()))
    refuse_own_scene(scene, files)
    for file in files:
        check_free(file, overwrite)
    if vector is not None and beside(path).exists():
        raise OutputError(f"{beside(path)} holds the votes of another map: move it away, or call the map otherwise")
    rule, notes = _fitted(scene, asked)
    areas, missing = _write(scene, asked, rule, path, notes, overwrite)
    if vector is not None:
        vectorize(path, vector, overwrite=overwrite)
    named = dict(zip(asked.legend.names, areas.tolist(), strict=True))
    share = 100 * missing / (scene.shape[1] * scene.shape[2])
    about = {"approximate": bool(notes), "notes": notes}
    return {"method": method, **_told(rule), "areas_m2": named, "not_classified_percent": share, **about}


_Rule = Threshold | Levels | Nearest | Regional


def _write(
    scene: xr.DataArray, asked: Classic, rule: _Rule, path: Path, notes: list[str], overwrite: bool
) -> tuple[np.ndarray, int]:
    """Write map and style; return the area of each class, and how many pixels are not classified."""
    legend, geobox = asked.legend, scene_geobox(scene)
    areas, missing, bands = np.zeros(len(legend.names)), 0, map_bands(["mask"], legend=legend)
    tags = legend.tags() | {"method": asked.method, "version": version("geouq")}
    tags |= ({"smooth": asked.smooth} if asked.smooth else {}) | ({"approximate": "; ".join(notes)} if notes else {})
    with MapWriter(path, geobox, bands, {f"GEOUQ_{key.upper()}": value for key, value in tags.items()}) as writer:
        for roi, values in _described(scene, asked, asked.reach if asked.method in REGIONAL else 0):
            margin = (values.shape[1] - roi.shape[0]) // 2
            inner = slice(margin, values.shape[1] - margin), slice(margin, values.shape[2] - margin)
            valid = np.isfinite(values[:, *inner]).all(0)
            mask = np.where(valid, rule.apply(values)[inner], np.uint8(NOT_CLASSIFIED))
            writer.write(roi, quantise({"mask": mask}, bands))
            area = np.broadcast_to(pixel_areas(geobox, roi), mask.shape)
            areas += np.bincount(mask[valid], area[valid], len(areas))
            missing += int((~valid).sum())
        write_qml(path.with_suffix(".qml"), ["mask"], False, legend, replace=overwrite)
        writer.finish(overwrite)
    return areas, missing


def _described(scene: xr.DataArray, asked: Classic, margin: int = 0) -> Iterator[tuple[Roi, np.ndarray]]:
    """Yield windows and what describes their pixels, (features, h + 2·margin, w + 2·margin)."""
    used = scene[:1] if asked.method in ONE_BAND else scene
    around = TEXTURE_REACH if asked.method == "texture" else 0
    smoothing = MARGIN if asked.smooth else 0
    for roi, values in windows(used, margin + around + smoothing):
        if asked.smooth:
            values = smoothed(values, asked.smooth, str(scene.attrs.get("units", "")))
        yield roi, texture(values) if around else values


def _fitted(scene: xr.DataArray, asked: Classic) -> tuple[_Rule, list[str]]:
    """Return the rule, and why the map is approximate, if it is."""
    if asked.threshold is not None:
        return Threshold(asked.threshold, asked.above), []
    if asked.method in ONE_BAND:
        blocks = lambda: (values for _, values in _described(scene, asked))  # noqa: E731
        return otsu(blocks, asked.above) if asked.method == "otsu" else valleys(blocks, asked.regions, asked.above), []
    pixels, step = _lattice(scene, asked)
    rule = kmeans(pixels, asked.regions, asked.above, len(scene))
    notes = [f"classes are fitted on every {step}th row and column"] if step > 1 else []
    if asked.method not in REGIONAL:
        return rule, notes
    away = np.sqrt(rule.distances(pixels.T[..., None])[..., 0])  # (R, N)
    chosen = away.argmin(0)
    sure = np.array([np.median(away[r, chosen == r]) if (chosen == r).any() else 0.0 for r in range(asked.regions)])
    if max(scene.shape[1:]) > WINDOW:
        notes.append(f"regions are looked for in windows of {WINDOW} pixels with {REGION_REACH} around them")
    return Regional(asked.method, rule, sure), notes


def _lattice(scene: xr.DataArray, asked: Classic) -> tuple[np.ndarray, int]:
    """Return valid pixels (N, features) of every ``step``-th row and column, at most about ``FIT``; and step."""
    rows, columns = scene.shape[1:]
    step = max(1, int(np.ceil((rows * columns / FIT) ** 0.5)))
    found = []
    for roi, values in _described(scene, asked):
        picked = values[:, -roi.y0 % step :: step, -roi.x0 % step :: step].reshape(len(values), -1).T
        found.append(picked[np.isfinite(picked).all(1)])
    return np.concatenate(found).astype(np.float64), step


def _told(rule: _Rule) -> dict[str, Any]:
    """Return what a rule goes by, in plain values."""
    if isinstance(rule, Threshold):
        return {"threshold": rule.level}
    if isinstance(rule, Levels):
        return {"thresholds": list(rule.levels)}
    return {"centres": (rule.nearest if isinstance(rule, Regional) else rule).centres.tolist()}
