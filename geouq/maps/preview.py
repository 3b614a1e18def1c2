"""A picture of a map for a report: the scene and the layers of the map side by side.

The map is read through its overviews. The scene is averaged over squares (backscatter in power), block by block or tile
by tile, in any order (``Squares``), so that memory is that of a few blocks however large the scene is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import rasterio
import xarray as xr
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from pyproj import CRS
from rasterio.errors import RasterioError

from geouq.errors import SceneError
from geouq.layers import LAYERS, NOT_CLASSIFIED, UNDECIDED, Legend
from geouq.maps.figure import Grid, Panel, area_text, draw, reduction, save
from geouq.maps.styles import value_colours
from geouq.units import BACKSCATTER, DB, DN, POWER, REFLECTANCE, RGB, convert

_BLOCK = 1024  # pixels a side of the scene in memory at a time, about


@dataclass(frozen=True)
class _Map:
    """What is drawn of a map, reduced; ``layers`` in 0..1 with NaN, the mask in class numbers with NaN."""

    layers: dict[str, np.ndarray]
    grid: Grid
    classes: dict[int, tuple[str, str]]  # value → name, colour
    positive: str


class Squares:
    """A scene averaged over the squares of a picture, from blocks of it that come in any order and need not fit them.

    Bands that are shown: three for red, green and blue; VV and VH (or HH and HV), since either may have decided; or the
    first.
    """

    def __init__(self, scene: xr.DataArray) -> None:
        """Start with nothing of ``scene`` (band, y, x); no pixel of it is read."""
        names = [str(n) for n in scene[scene.dims[0]].values] if scene.dims[0] in scene.coords else []
        self.unit = str(scene.attrs.get("units", ""))
        colour = _colour_bands(names, scene.shape[0]) if self.unit in (RGB, REFLECTANCE) else []
        pair = _polarised(names) if self.unit in BACKSCATTER else []
        self.bands = colour or pair or [0]
        self.name = names[0] if names and not names[0].isdigit() else "band 1"
        self.names = [names[band] for band in self.bands] if len(self.bands) == 2 else [self.name]
        self.shape: tuple[int, int] = (scene.shape[1], scene.shape[2])
        self.factor = reduction(self.shape)
        rows, columns = (-(-n // self.factor) for n in self.shape)
        self._sums = np.zeros((2, len(self.bands), rows, columns), np.float32)

    def part(self, values: np.ndarray, y: int, x: int) -> np.ndarray:
        """Return sums and counts (2, bands, …) of a block of the bands shown, (bands, h, w), that begins at (y, x)."""
        rows, columns = (
            np.maximum(np.arange(-(start % self.factor), size, self.factor), 0)
            for start, size in ((y, values.shape[1]), (x, values.shape[2]))
        )
        out = np.empty((2, len(values), len(rows), len(columns)), np.float32)
        for i, band in enumerate(values):
            band = np.asarray(band, dtype=np.float32)
            band = convert(band, self.unit, POWER) if self.unit in BACKSCATTER else band
            valid = np.isfinite(band)
            for j, plane in enumerate((np.where(valid, band, 0), valid)):
                sums = np.add.reduceat(plane, rows, 0, dtype=np.float64)
                out[j, i] = np.add.reduceat(sums, columns, 1)
        return out

    def add(self, part: np.ndarray, y: int, x: int) -> None:
        """Take what ``part`` gave for a block at (y, x)."""
        top, left = y // self.factor, x // self.factor
        self._sums[:, :, top : top + part.shape[2], left : left + part.shape[3]] += part

    def read(self, scene: xr.DataArray) -> None:
        """Take the whole scene, block by block."""
        step = max(1, _BLOCK // self.factor) * self.factor
        for y in range(0, self.shape[0], step):
            for x in range(0, self.shape[1], step):
                block = scene[self.bands, y : y + step, x : x + step].data
                block = block.compute(scheduler=dask.get) if hasattr(block, "compute") else block
                self.add(self.part(np.asarray(block), y, x), y, x)

    @property
    def mean(self) -> np.ndarray:
        """The averages (bands shown, rows, columns), NaN where no pixel is valid."""
        total, count = self._sums
        return np.where(count > 0, total / np.maximum(count, 1), np.float32(np.nan))

    @property
    def reach(self) -> tuple[int, int]:
        """Rows and columns of the scene that the averages cover: whole squares."""
        rows, columns = self._sums.shape[2:]
        return rows * self.factor, columns * self.factor


def preview(
    scene: xr.DataArray | Squares,
    map_path: str | os.PathLike[str],
    out_png: str | os.PathLike[str],
    *,
    title: str | None = None,
    summary: Mapping[str, Any] | None = None,
) -> None:
    """Draw scene and map into a PNG, with legends, scale bar and one line of findings.

    Parameters
    ----------
    scene : (band, y, x), numpy- or dask-backed, on the grid of the map; ``attrs["units"]``; NaN = not valid.
            Backscatter is shown in dB, both polarisations in one picture; RGB and reflectance in colour where there are
        three bands. Or its averages, where they have been taken already.
    map_path : a map; those of its bands that are described as a layer are drawn, but not one band a class.
        out_png : the picture; an existing one is replaced in one step.
    title : default: the name of the map file.
    summary : what ``run`` returns: ``area_m2``, ``area_m2_p05``, ``area_m2_p95``, ``not_classified_percent``,
        ``samples``, ``cut``, ``expectation``, ``by_class`` …; those given are told below the pictures.

    Raises
    ------
    SceneError : if the map cannot be read, or scene and map differ in shape.
    OutputError : if the picture cannot be written.
    """
    found = _read_map(Path(map_path))
    squares = scene if isinstance(scene, Squares) else Squares(scene)
    if squares.shape != found.grid.shape:
        shapes = " and ".join(f"{h} x {w}" for h, w in (squares.shape, found.grid.shape))
        raise SceneError(f"{map_path}: scene and map differ in size ({shapes}): give the scene the map was made of")
    if not isinstance(scene, Squares):
        squares.read(scene)
    panels = [_scene_panel(squares), *_map_panels(found)]
    figure = draw(panels, found.grid, title or Path(map_path).stem, _facts(found, summary or {}))
    run = (summary or {}).get("run")
    save(figure, Path(out_png), f"geouq run {run}" if run else "")


# ---------------------------------------------------------------- reading


def _read_map(path: Path) -> _Map:
    try:
        with rasterio.open(path) as file:
            factor = reduction(file.shape)
            rows, columns = (-(-n // factor) for n in file.shape)
            names = [d or "" for d in file.descriptions]
            layers = {}
            for name, layer in LAYERS.items():
                if name in names and layer.kind != "votes":
                    band = names.index(name) + 1
                    raw = file.read(band, out_shape=(rows, columns), masked=True)  # GDAL takes the overview
                    values = np.where(raw.mask | (raw.data == NOT_CLASSIFIED), np.nan, raw.data)
                    layers[name] = (values * file.scales[band - 1]).astype(np.float32)
            crs = CRS.from_user_input(file.crs.to_wkt()) if file.crs else None
            grid = Grid(file.shape, file.transform, crs)
            return _Map(layers, grid, *_classes(file, names, layers))
    except RasterioError as error:
        raise SceneError(f"{path}: cannot be read as a map: {error}") from error


def _classes(
    file: rasterio.io.DatasetReader, names: Sequence[str], layers: Mapping[str, np.ndarray]
) -> tuple[dict[int, tuple[str, str]], str]:
    """Return (name, colour) of each value, from the file's tags and colour table if any, and the positive one."""
    legend = Legend.of_tags(file.tags(), file.name)
    if "mask" not in layers:
        return {}, legend.positive_name
    mask = layers["mask"]
    highest = int(np.nanmax(mask, initial=0, where=mask != UNDECIDED if legend.undecided else True))
    labels = (*legend.names, *(f"class {i}" for i in range(len(legend.names), highest + 1)))
    legend = replace(legend, names=labels)
    colours = value_colours(legend)
    try:
        table = file.colormap(names.index("mask") + 1)
    except ValueError:  # the usual case: no colour table
        table = {}
    for i in colours:
        if any(table.get(i, (0, 0, 0))[:3]):  # black is what a transparent colour comes back as from a TIFF
            colours[i] = "#{:02x}{:02x}{:02x}".format(*table[i][:3])
    return {i: (name, colours[i]) for i, name in legend.values.items()}, legend.positive_name


# ---------------------------------------------------------------- panels


def _scene_panel(squares: Squares) -> Panel:
    unit = squares.unit
    if len(squares.bands) == 3:
        image = _colours(squares.mean, unit)
        return Panel("Scene", image, squares.reach, "natural colour" if unit == REFLECTANCE else "")
    if len(squares.bands) == 2:
        return _both_polarisations(squares)
    plane = squares.mean[0]
    if unit in BACKSCATTER:
        plane = convert(plane, POWER, DB)
    limits = _stretch(plane, step=1.0 if unit in BACKSCATTER else 0.0)
    measure = {DN: "digital numbers, not calibrated", REFLECTANCE: "reflectance", RGB: "8-bit value"}
    legend = "backscatter in dB" if unit in BACKSCATTER else measure.get(unit, "")
    return Panel(f"Scene, {squares.name}", plane, squares.reach, legend, "gray", limits, extend="both")


def _both_polarisations(squares: Squares) -> Panel:
    """Two polarisations in one picture, as is usual: red co-, green cross-polarised, blue their difference in dB."""
    first, second = (convert(plane, POWER, DB) for plane in squares.mean)
    planes, missing = (first, second, first - second), np.isnan(first) | np.isnan(second)
    scaled = []
    for plane in planes:
        low, high = _stretch(plane, step=1.0)
        scaled.append(np.clip((np.nan_to_num(plane) - low) / (high - low), 0, 1))
    image = np.dstack([*scaled, ~missing]).astype(np.float32)
    a, b = squares.names
    return Panel(f"Scene, {a} and {b}", image, squares.reach, f"red {a}, green {b}, blue {a} - {b} in dB")


def _polarised(names: Sequence[str]) -> list[int]:
    """Return the bands of a pair of polarisations; empty if there is none."""
    upper = [name.upper() for name in names]
    pairs = [pair for pair in (("VV", "VH"), ("HH", "HV")) if set(pair) <= set(upper)]
    return [upper.index(name) for name in pairs[0]] if pairs else []


def _colour_bands(names: Sequence[str], count: int) -> list[int]:
    """Return which bands are red, green and blue; empty if the scene has not got them."""
    lowered = [n.lower() for n in names]
    for wanted in (("red", "green", "blue"), ("r", "g", "b"), ("b04", "b03", "b02"), ("b4", "b3", "b2")):
        if all(w in lowered for w in wanted):
            return [lowered.index(w) for w in wanted]
    return [0, 1, 2] if count == 3 else []


def _colours(values: np.ndarray, unit: str) -> np.ndarray:
    """Return red, green, blue and opacity in 0..1."""
    low, high = (0.0, 255.0) if unit == RGB else _stretch(values)
    missing = np.isnan(values).any(axis=0)
    scaled = np.clip((np.nan_to_num(values) - low) / (high - low), 0, 1)
    return np.dstack([*scaled, ~missing]).astype(np.float32)


def _stretch(values: np.ndarray, step: float = 0.0) -> tuple[float, float]:
    """Return the 2 % and 98 % quantiles, rounded outwards to whole steps; for display alone."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return (-25.0, 0.0) if step else (0.0, 1.0)
    low, high = (float(q) for q in np.percentile(finite, (2, 98)))
    if step:
        low, high = float(np.floor(low / step) * step), float(np.ceil(high / step) * step)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _map_panels(found: _Map) -> list[Panel]:
    """Return one panel a layer that the map has, in the order of the table."""
    return [_mask_panel(found) if name == "mask" else _ramp_panel(found, name) for name in found.layers]


def _ramp_panel(found: _Map, name: str) -> Panel:
    layer = LAYERS[name]
    low, high = layer.limits(max(len(found.classes.keys() - {UNDECIDED}), 2))
    colours = LinearSegmentedColormap.from_list(name, layer.ramp)
    title = name.replace("_", " ").capitalize()
    values = 100 * found.layers[name]
    return Panel(title, values, found.grid.shape, layer.legend, colours, (100 * low, 100 * high))


def _mask_panel(found: _Map) -> Panel:
    mask, patches = found.layers["mask"], list(found.classes.values())
    palette = np.zeros((NOT_CLASSIFIED, 3), np.float32)
    palette[list(found.classes)] = [to_rgb(colour) for _, colour in patches]
    valid = np.isfinite(mask)
    image = np.dstack([palette[np.where(valid, mask, 0).astype(int)], valid]).astype(np.float32)
    if not valid.all():
        patches.append(("not classified", ""))
    title = "Mask" if len(found.classes.keys() - {UNDECIDED}) == 2 else "Classes"
    return Panel(title, image, found.grid.shape, patches=tuple(patches))


def _facts(found: _Map, summary: Mapping[str, Any]) -> list[str]:
    """Return what is told below the pictures, piece by piece."""
    rows, columns = found.grid.shape
    facts = [_class_fact(row, found.grid) for row in summary.get("by_class", ())]
    if "area_m2" in summary and not facts:
        low, high = summary.get("area_m2_p05"), summary.get("area_m2_p95")
        text = f"{found.positive.capitalize()}: {area_text(summary['area_m2'], found.grid)}"
        if low is not None and high is not None:
            text += f" (5–95 % of samples: {area_text(low, found.grid)} to {area_text(high, found.grid)})"
        facts.append(text)
    if summary.get("mean_uncertainty_positive") is not None and "by_class" not in summary:
        facts.append(f"mean uncertainty of the {found.positive}: {100 * summary['mean_uncertainty_positive']:.0f} %")
    facts += _decided(summary)
    warnings = summary.get("warnings", [])
    facts += [f"WARNING: {text}" for text in warnings]
    if summary.get("expectation") not in (None, *warnings):
        facts.append(summary["expectation"])
    if "not_classified_percent" in summary:
        facts.append(f"not classified: {summary['not_classified_percent']:.1f} %")
    if summary.get("samples"):
        facts.append(f"{summary['samples']} samples")
    if summary.get("model"):
        facts.append(f"model {summary['model']}")
    facts.append(f"{columns} × {rows} pixels")
    crs = found.grid.crs
    authority = crs.to_authority() if crs else None
    facts.append(":".join(authority) if authority else crs.name if crs else "no coordinate system")
    return facts


def _class_fact(row: Mapping[str, Any], grid: Grid) -> str:
    """Return the area of one of several classes, and its interval if there is one."""
    text = f"{row['name']}: {area_text(row['area_m2'], grid)}"
    if row["area_m2_p05"] is None:
        return text
    return f"{text} ({area_text(row['area_m2_p05'], grid)} to {area_text(row['area_m2_p95'], grid)})"


def _decided(summary: Mapping[str, Any]) -> list[str]:
    """Return where the mask was cut, and how much of what is classified is undecided."""
    facts = [f"cut at {summary['cut']:.2f} ({summary['decide']})"] if "cut" in summary and "decide" in summary else []
    if summary.get("undecided_area_m2") is not None and summary.get("valid_area_m2"):
        share = summary["undecided_area_m2"] / summary["valid_area_m2"]
        facts.append(f"undecided: {100 * share:.1f} % at a risk of {100 * summary['risk']:g} %")
    return facts
