"""The sheet a preview is printed on: panels in rows, legends, scale bar, north arrow, one line of facts.

Sizes are in inches and points, so that letters keep their size whatever the shape of the scene. Drawn with
``matplotlib.figure.Figure`` alone: no global state, no display.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation
from pyproj import CRS, Geod

from geouq.files import whole
from geouq.grid import area_unit, to_degrees
from geouq.maps.plotting import own_settings

_INK, _FAINT, _PAPER, _HATCH = "#222222", "#8a8a8a", "#f7f7f7", "#c4c4c4"
_LINES = "/////"
_BAR, _BAND = "#1f78b4", "#dbe9f3"
_DPI = 160
_FEW = 4  # classes whose names are sure to stand in one row
_LONGEST = 800  # pixels of a panel's longer side, at most
_SMALL, _TEXT, _TITLE = 7.5, 9.0, 12.0  # points
_MARGIN, _GAP, _HEAD, _NAME, _LEGEND = 0.3, 0.25, 0.5, 0.26, 0.68  # inches; title, above and below a panel


def reduction(shape: tuple[int, int]) -> int:
    """Return how many pixels of a scene's side become one of its panel's."""
    return max(1, -(-max(shape) // _LONGEST))


@dataclass(frozen=True)
class Panel:
    """One picture: RGBA in 0..1, or one plane with NaN where there is nothing, and what its legend says.

    ``reach`` is how many (rows, columns) of the grid the picture covers, which may be more than there are.
    """

    title: str
    image: np.ndarray
    reach: tuple[int, int]
    legend: str = ""
    colours: str | Colormap = "gray"
    limits: tuple[float, float] = (0.0, 1.0)
    patches: tuple[tuple[str, str], ...] = ()  # (label, colour), instead of a colour bar
    extend: str = "neither"  # at which ends values go beyond the limits


@dataclass(frozen=True)
class Histogram:
    """How often ``values`` occur, with the part from ``low`` to ``high`` shaded; ``unit`` is what they are in."""

    title: str
    values: np.ndarray
    low: float
    high: float
    unit: str


@dataclass(frozen=True)
class Grid:
    """The grid the pictures show: (rows, columns), transform, CRS if there is one."""

    shape: tuple[int, int]
    transform: Affine
    crs: CRS | None

    @property
    def stretch(self) -> float:
        """How many times as high as wide a pixel is on the ground, in the middle; 1 where that is not known."""
        rows, columns = self.shape
        half_row, half_column = rows / 4, columns / 4
        high, _ = _ground(self, (columns / 2, rows / 2 - half_row), (columns / 2, rows / 2 + half_row))
        wide, _ = _ground(self, (columns / 2 - half_column, rows / 2), (columns / 2 + half_column, rows / 2))
        ratio = (high / half_row) / (wide / half_column) if high > 0 and wide > 0 else 1.0
        return float(ratio) if 0.05 < ratio < 20 else 1.0


@own_settings()
def draw(panels: Sequence[Panel | Histogram], grid: Grid, title: str, facts: Sequence[str]) -> Figure:
    """Lay the panels out in rows of four, two or one by the scene's shape; all sizes in inches."""
    stretch = grid.stretch
    aspect = grid.shape[1] / (grid.shape[0] * stretch)
    across = min(len(panels), 4) if aspect <= 1.6 else 2 if aspect <= 3.2 else 1
    width = {1: 10.0, 2: 6.2}.get(across, 3.6)
    width, height = (width, width / aspect) if aspect > 0.5 else (max(2.4, 7.2 * aspect), 7.2)
    height = min(max(height, 0.9), 7.2)
    down = -(-len(panels) // across)
    wide = 2 * _MARGIN + across * width + (across - 1) * _GAP
    lines = _lines(facts, int(wide / 0.073))
    below = max(_legend_height(panel, width) for panel in panels)
    tall = _HEAD + down * (height + _NAME + below) + 0.18 * len(lines) + 0.2
    figure = Figure(figsize=(wide, tall))
    kept = title if len(title) < 9 * wide else title[: int(9 * wide) - 1] + "…"
    figure.text(_MARGIN / wide, 1 - 0.3 / tall, kept, size=_TITLE, weight="bold", color=_INK, va="center")
    text: dict[str, Any] = {"size": _TEXT, "color": _INK, "linespacing": 1.4, "va": "bottom"}
    figure.text(_MARGIN / wide, 0.18 / tall, "\n".join(lines), **text)
    for i, panel in enumerate(panels):
        left = _MARGIN + (i % across) * (width + _GAP)
        bottom = tall - _HEAD - (i // across + 1) * (height + _NAME) - (i // across) * below
        axes = figure.add_axes((left / wide, bottom / tall, width / wide, height / tall))
        if isinstance(panel, Histogram):
            _bars(axes, panel)
            continue
        image = _show(axes, panel, grid.shape, stretch)
        box = (left / wide, (bottom - 0.16) / tall, min(0.75 * width, 2.6) / wide, 0.08 / tall)
        _legend(figure, panel, image, box, _legend_columns(panel, width))
    _scale_bar(figure, figure.axes[0], grid)
    _north(figure.axes[0], grid)
    return figure


def _legend_columns(panel: Panel, width: float) -> int:
    """Return in how many columns the meaning of a panel's colours is told, the panel being so many inches wide."""
    if len(panel.patches) <= _FEW:
        return _FEW
    longest = max(len(label) for label, _ in panel.patches)
    return max(1, min(_FEW, int(72 * width / (0.55 * _SMALL * longest + 3.2 * _SMALL))))  # points: letters, patch, gap


def _legend_height(panel: Panel | Histogram, width: float) -> float:
    """Return how many inches are to be left below a panel."""
    if isinstance(panel, Histogram) or len(panel.patches) <= _FEW:
        return _LEGEND
    rows = -(-len(panel.patches) // _legend_columns(panel, width))
    return max(_LEGEND, 0.25 + rows * 1.6 * _SMALL / 72)


def _lines(facts: Sequence[str], letters: int) -> list[str]:
    """Set the facts into as few lines of at most so many letters as they need."""
    lines = [facts[0]]
    for fact in facts[1:]:
        longer = f"{lines[-1]}   ·   {fact}"
        if len(longer) <= letters:
            lines[-1] = longer
        else:
            lines.append(fact)
    return lines


def _show(axes: Axes, panel: Panel, shape: tuple[int, int], stretch: float) -> AxesImage:
    """Draw a picture over hatched paper, which shows wherever there is no value; what is square stays square."""
    rows, columns = panel.image.shape[:2]
    bottom, right = panel.reach
    axes.patch.set(facecolor=_PAPER, edgecolor=_HATCH, hatch=_LINES, linewidth=0)
    image = axes.imshow(
        panel.image, extent=(0, right, bottom, 0), cmap=panel.colours, vmin=panel.limits[0], vmax=panel.limits[1],
        interpolation="nearest" if panel.patches or max(rows, columns) < 400 else "antialiased",
    )  # fmt: skip
    axes.set(xlim=(0, shape[1]), ylim=(shape[0], 0), xticks=[], yticks=[], anchor="NW", aspect=stretch)
    axes.set_title(panel.title, loc="left", size=_TEXT, color=_INK, weight="bold", pad=4)
    for spine in axes.spines.values():
        spine.set(linewidth=0.5, color=_FAINT)
    return image


def _bars(axes: Axes, panel: Histogram) -> None:
    """Draw a histogram, every value also as a tick at its bottom."""
    axes.axvspan(panel.low, panel.high, color=_BAND, linewidth=0)
    axes.hist(panel.values, bins=min(20, max(5, len(panel.values) // 3)), color=_BAR, edgecolor="white", linewidth=0.5)
    axes.plot(panel.values, np.zeros(len(panel.values)), "|", color=_INK, markersize=14)
    axes.set_ylim(0, axes.get_ylim()[1] * 1.1)
    axes.annotate("5–95 %", ((panel.low + panel.high) / 2, 0.96), xycoords=("data", "axes fraction"), size=_SMALL).set(
        color=_INK, ha="center", va="center"
    )
    axes.set_title(panel.title, loc="left", size=_TEXT, color=_INK, weight="bold", pad=4)
    axes.set_xlabel(panel.unit, size=_SMALL, color=_INK, labelpad=2)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.tick_params(labelsize=_SMALL, length=2, width=0.5, color=_FAINT, labelcolor=_INK, pad=2)
    axes.set_facecolor(_PAPER)
    for name, spine in axes.spines.items():
        spine.set(linewidth=0.5, color=_FAINT, visible=name in ("left", "bottom"))


@own_settings()
def save(figure: Figure, path: Path, description: str = "", replace: bool = True) -> None:
    """Write a PNG, whole or not at all (``files.whole``). ``description`` goes into its metadata.

    Raises
    ------
    OutputError : if it cannot be written.
    """
    FigureCanvasAgg(figure)
    told = {"Description": description} if description else {}
    with whole(path, replace=replace) as made:
        figure.savefig(made, format="png", dpi=_DPI, facecolor="white", metadata=told)


def area_text(square_metres: float, grid: Grid) -> str:
    """Return an area with three significant digits, km² or, below 0.01, m²; without a CRS as pixels or grid units²."""
    if grid.crs is None:
        return f"{square_metres:,.0f} {area_unit(None, grid.transform.determinant)}"
    if square_metres < 1e4:
        return f"{float(f'{square_metres:.3g}'):,.0f} m²"
    kilometres = square_metres / 1e6
    if kilometres < 1:
        return f"{kilometres:.3g} km²"
    return f"{kilometres:,.{max(0, 3 - len(str(int(kilometres))))}f} km²"


def _legend(
    figure: Figure, panel: Panel, image: AxesImage, box: tuple[float, float, float, float], columns: int
) -> None:
    """Draw a panel's colour bar, or the meaning of its colours in so many columns, below it."""
    if panel.patches:
        edge: dict[str, Any] = {"edgecolor": _FAINT, "linewidth": 0.5}
        handles = [
            Patch(facecolor=colour or _PAPER, hatch="" if colour else _LINES, label=label, **edge)
            for label, colour in panel.patches
        ]
        tight: dict[str, Any] = {
            "borderpad": 0,
            "borderaxespad": 0,
            "handlelength": 1.2,
            "handleheight": 0.9,
            "columnspacing": 1.2,
        }
        corner = (box[0], box[1] + box[3])
        figure.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=corner,
            ncols=columns,
            frameon=False,
            fontsize=_SMALL,
            labelcolor=_INK,
            **tight,
        )
    elif panel.image.ndim == 2:
        bar = figure.colorbar(image, cax=figure.add_axes(box), orientation="horizontal", extend=panel.extend)
        bar.locator = MaxNLocator(5, steps=[1, 2, 5, 10])
        bar.update_ticks()
        bar.outline.set(linewidth=0.5, edgecolor=_FAINT)
        bar.ax.tick_params(labelsize=_SMALL, length=2, width=0.5, color=_FAINT, labelcolor=_INK, pad=2)
        bar.ax.set_xlabel(panel.legend, size=_SMALL, color=_INK, labelpad=2)
    else:
        figure.text(box[0], box[1] + box[3], panel.legend, size=_SMALL, color=_INK, va="top")


def _scale_bar(figure: Figure, axes: Axes, grid: Grid) -> None:
    """Draw a bar of a round length, at most some 30 % of the width; nothing without a CRS."""
    rows, columns = grid.shape
    metres, _ = _ground(grid, (columns * 0.375, rows / 2), (columns * 0.625, rows / 2))
    if not metres > 0:
        return
    longest = 0.3 * metres * 4
    power = 10.0 ** np.floor(np.log10(longest))
    length = max(m * power for m in (1, 2, 5) if m * power <= longest)
    share = length / (4 * metres)
    label = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    _mark(axes, (0, 0), (9, 10), label, _SMALL).set(ha="left", va="bottom")
    corner = axes.transAxes + ScaledTranslation(9 / 72, 7 / 72, figure.dpi_scale_trans)
    for colour, thick in (("white", 4.0), (_INK, 2.0)):
        axes.plot([0, share], [0, 0], transform=corner, color=colour, linewidth=thick, solid_capstyle="butt")


def _north(axes: Axes, grid: Grid) -> None:
    """Draw an arrow where north is up, within 5°, at the middle of the map; nothing anywhere else."""
    rows, columns = grid.shape
    metres, azimuth = _ground(grid, (columns / 2, rows * 0.625), (columns / 2, rows * 0.375))
    if not (metres > 0 and abs(azimuth) < 5):
        return
    _mark(axes, (1, 1), (-10, -16), "N", _SMALL).set(ha="center", va="top", weight="bold")
    _mark(axes, (1, 1), (-10, -3), "▲", _TEXT).set(ha="center", va="top")


def _mark(axes: Axes, corner: tuple[int, int], offset: tuple[int, int], text: str, size: float) -> Text:
    """Write on a picture, some points from a corner, so that it is read on dark and bright ground."""
    mark = axes.annotate(text, corner, offset, xycoords="axes fraction", textcoords="offset points", size=size)
    mark.set(color=_INK, path_effects=[withStroke(linewidth=2.5, foreground="white")])
    return mark


def _ground(grid: Grid, start: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
    """Return metres on the ellipsoid and azimuth in degrees between two (column, row); NaN if not on Earth."""
    if grid.crs is None:
        return float("nan"), float("nan")
    (x0, y0), (x1, y1) = grid.transform * start, grid.transform * end
    longitude, latitude = to_degrees(grid.crs)([x0, x1], [y0, y1])
    if not np.isfinite([*longitude, *latitude]).all():
        return float("nan"), float("nan")
    geod = grid.crs.get_geod() or Geod(ellps="WGS84")
    azimuth, _, metres = geod.inv(longitude[0], latitude[0], longitude[1], latitude[1])
    return float(metres), float(azimuth)
