"""An imaginary landscape that goes on for ever: where its water lies and how bright each surface is to radar.

All of it is a pure function of a seed and the absolute pixel position. Smooth and fractal patterns are sums
of random lattices of 1, 2, 4 … pixels, each drawn with a counter-based generator and refined by quadratic
B-spline subdivision (Chaikin 1974, doi:10.1016/0146-664X(74)90028-8). Rivers and streams follow a contour line of
"distance across the valley plus noise", which meanders, and now and then leaves an oxbow lake behind; lakes
and ponds are what lies below a level of such a pattern (Saupe 1988, in: The Science of Fractal Images).
Levels of brightness: see ``Landscape``.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from geouq.errors import InputError
from geouq.grid import Roi
from geouq.noise import philox, stream, uniform

_LEVELS = 13  # lattices of 1 … 4096 pixels
_GAIN = 0.55  # standard deviation of unit lattice noise once it is refined: 11/20 per axis, in variance
_TABLE = 4096
REFERENCE_ANGLE = 38.0  # degrees of incidence at which the landscape's levels hold


@dataclass(frozen=True)
class Landscape:
    """What a simulated scene is made of; backscatter is sigma0 at 38° incidence.

    The defaults lie inside what Sentinel-1 GRDH chips with hand-drawn labels show (Sen1Floods11, STAC
    Overflow: India, Spain, USA, Ghana): median land -8…-11 dB VV and -14…-17 dB VH; water -17…-20 dB VV when
    calm, -10 dB when rough, and -22…-30 dB VH. The speckle of neighbouring pixels correlates by 0.65…0.7 there;
    looks are the product's own 4.4, which resampling in geocoding raises to 5…8.
    """

    resolution: float = 10.0  #: pixel size, m
    looks: float = 4.4  #: equivalent number of looks, mean² / variance of intensity
    speckle_correlation: float = 0.67  #: of intensity, one pixel apart (0 … 0.7)
    channel_correlation: float = 0.1  #: of speckle between VV and VH (0 … 1)
    noise_floor: float = -29.0  #: noise-equivalent sigma0, dB, subtracted as ground processors do
    incidence: tuple[float, float] = (31.0, 45.0)  #: at the left and right edge of the scene, degrees
    land: tuple[float, float] = (-10.0, -17.0)  #: mean of open land in VV, VH, dB
    water: tuple[float, float] = (-23.5, -29.0)  #: mean of calm water in VV, VH, dB
    wind: float = 2.0  #: median wind speed over water, m/s; 1 is calm, 10 rough
    texture: float = 1.0  #: factor on the contrast between fields and within surfaces (0 = flat land)
    river_width: float = 350.0  #: m; 0 = none
    river_spacing: float = 16000.0  #: mean distance between rivers, m
    braiding: float = 0.5  #: islands and side channels, 0 … 1
    stream_width: float = 25.0  #: m; 0 = none
    lakes: float = 0.05  #: share of the area below lake level
    ponds: float = 0.004  #: share of the area in ponds
    flood: float = 0.15  #: share of the fields and hollows beside rivers that stand under water
    forest: float = 0.2  #: share of the area
    urban: float = 0.03  #: share of the area
    field_size: float = 180.0  #: width of a field, m
    relief: float = 1.0  #: factor on the brightness of hill slopes; above 1 with radar shadow
    look_alikes: float = 0.5  #: 0 … 1: roads, airfields, bare sand, dark as water and yet land
    swath_edge: float = 0.04  #: share of the scene's columns beyond the edge of the swath, no data

    def __post_init__(self) -> None:
        for name in ("resolution", "looks", "river_spacing", "field_size"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} of a simulated scene is {getattr(self, name)}: give a number above 0")


@dataclass(frozen=True)
class _Pattern:
    """A random pattern: wavelengths in m from ``low`` to ``high``, amplitude ∝ wavelength**``hurst``."""

    low: float
    high: float
    hurst: float


# Patterns by name, four to a counter: those that reach down to the pixel stand together.
_PATTERNS = {
    "basin": _Pattern(40, 9000, 0.9),
    "shore": _Pattern(30, 400, 0.5),
    "cover": _Pattern(40, 3000, 0.5),
    "soil": _Pattern(30, 5000, 0.15),
    "pond": _Pattern(160, 400, 0.5),
    "meander": _Pattern(1500, 4500, 1.2),
    "brook": _Pattern(250, 2200, 1.1),
    "side": _Pattern(700, 3500, 0.9),
    "terrain": _Pattern(160, 12000, 0.9),
    "valley": _Pattern(9000, 40000, 1.0),
    "town": _Pattern(200, 6000, 0.6),
    "wind": _Pattern(800, 40000, 0.6),
}


def surfaces(window: Roi, seed: int, landscape: Landscape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what lies in a window of the landscape.

    Returns
    -------
    level : float32 (2, rows, columns), mean backscatter in VV and VH at 38° incidence, dB.
    water : bool (rows, columns).
    town : bool (rows, columns), where houses stand.
    """
    grown = Roi(window.y0 - 1, window.y1 + 1, window.x0 - 1, window.x1 + 1)
    fields = _patterns(grown, seed, landscape.resolution)
    y, x = ((np.arange(a, b, dtype=np.float32) + 0.5) * landscape.resolution for a, b in
            ((grown.y0, grown.y1), (grown.x0, grown.x1)))  # fmt: skip
    river, brook, distance = _rivers(fields, y[:, None], x[None, :], seed, landscape)
    slope = _gradient(fields["terrain"], landscape.resolution)[1]
    fields = {name: f[1:-1, 1:-1] for name, f in fields.items()}
    plots = _plots(y[1:-1, None], x[None, 1:-1], fields, seed, landscape)
    still = _still_water(fields, distance, plots, landscape)
    plots["bridge"] &= (river | brook) & ~still
    narrow = (brook | (fields["pond"] + 0.2 * fields["shore"] > 1.02 * _above(landscape.ponds))) & ~(river | still)
    water = (river | still | narrow) & ~plots["bridge"]
    town = (fields["town"] > _above(landscape.urban)) & ~water
    level = _land_level(fields, plots, slope, town, landscape)
    _dark_land(level, fields, plots, distance, slope, landscape)
    return np.where(water, _water_level(fields, narrow, landscape), level), water, town


def _above(share: float) -> float:
    """Return the level that a standard normal pattern exceeds on ``share`` of the area."""
    return NormalDist().inv_cdf(1 - min(max(share, 1e-9), 1 - 1e-9))


# ---------------------------------------------------------------- random patterns


def _patterns(window: Roi, seed: int, resolution: float) -> dict[str, np.ndarray]:
    """Return all patterns over a window, each about standard normal, float32 (rows, columns)."""
    amplitudes = np.array([_spectrum(p, resolution) for p in _PATTERNS.values()], dtype=np.float32)
    stack = _refine(window, 0, stream(seed, 1), amplitudes)
    return dict(zip(_PATTERNS, stack, strict=True))


def _spectrum(pattern: _Pattern, resolution: float) -> np.ndarray:
    """Amplitude of each lattice; a lattice of spacing s makes ripples some 4 s long."""
    wavelength = 4 * resolution * 2.0 ** np.arange(_LEVELS)
    amplitude = wavelength**pattern.hurst
    inside = (wavelength > pattern.low * 0.7) & (wavelength < pattern.high * 1.4)
    inside[0] = False  # detail of one pixel is speckle's business, and labels have none
    if not inside.any():  # between two lattices, or beyond them
        inside = np.arange(_LEVELS) == max(1, np.argmin(np.abs(np.log(wavelength / pattern.high))))
    amplitude = np.where(inside, amplitude, 0)
    return np.asarray(amplitude / (_GAIN * np.sqrt(np.sum(amplitude**2))))


def _refine(window: Roi, level: int, key: tuple[int, int], amplitudes: np.ndarray) -> np.ndarray:
    """Sum the lattices from ``level`` up over a window given in cells of 2**level pixels."""
    if level < _LEVELS - 1:
        parent = Roi((window.y0 >> 1) - 1, ((window.y1 - 1) >> 1) + 2, (window.x0 >> 1) - 1, ((window.x1 - 1) >> 1) + 2)
        fine = _subdivide(_subdivide(_refine(parent, level + 1, key, amplitudes), 1), 2)
        top, left = window.y0 - 2 * (parent.y0 + 1), window.x0 - 2 * (parent.x0 + 1)
        out = fine[:, top : top + window.shape[0], left : left + window.shape[1]]
    else:
        out = np.zeros((len(amplitudes), *window.shape), dtype=np.float32)
    y, x = np.arange(window.y0, window.y1)[:, None], np.arange(window.x0, window.x1)[None, :]
    for first in range(0, len(amplitudes), 4):
        if amplitudes[first : first + 4, level].any():
            words = philox((y, x, level, first), key)
            for i, word in enumerate(words):
                if amplitudes[first + i, level]:
                    out[first + i] += amplitudes[first + i, level] * bell(word)
    return out


def _subdivide(a: np.ndarray, axis: int) -> np.ndarray:
    """Refine cell values twofold along an axis, dropping the outermost cells: weights 3/4 and 1/4."""
    a = np.moveaxis(a, axis, 1)
    out = np.empty((a.shape[0], 2 * (a.shape[1] - 2), a.shape[2]), dtype=np.float32)
    near = a[:, 1:-1] * np.float32(0.75)
    np.add(near, a[:, :-2] * np.float32(0.25), out=out[:, 0::2])
    np.add(near, a[:, 2:] * np.float32(0.25), out=out[:, 1::2])
    return np.moveaxis(out, 1, axis)


def bell(words: np.ndarray) -> np.ndarray:
    """Turn random words into float32 of mean 0 and variance 1, bell-shaped: the sum of a word's four bytes."""
    pairs = (words & np.uint32(0x00FF00FF)) + ((words >> np.uint32(8)) & np.uint32(0x00FF00FF))
    total = (pairs & np.uint32(0xFFFF)) + (pairs >> np.uint32(16))
    return (total.astype(np.float32) - np.float32(510)) * np.float32((4 * (256**2 - 1) / 12) ** -0.5)


def _gradient(f: np.ndarray, resolution: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (d/dy, d/dx) per m of the inner pixels of ``f``."""
    half = np.float32(0.5 / resolution)
    return (f[2:, 1:-1] - f[:-2, 1:-1]) * half, (f[1:-1, 2:] - f[1:-1, :-2]) * half


# ---------------------------------------------------------------- water


def _rivers(
    fields: dict[str, np.ndarray], y: np.ndarray, x: np.ndarray, seed: int, landscape: Landscape
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where rivers run, where streams run, and the distance from the nearest river's middle in m."""
    inner = {name: f[1:-1, 1:-1] for name, f in fields.items()}
    angle, phase, other, other_phase = (float(u) for u in uniform(seed, 2, np.arange(4)))
    scale = max(landscape.river_width, 80.0) / 350.0
    valley = 2600.0 * fields["valley"] + 1000.0 * min(scale, 1.6) * fields["meander"]
    main = _contour(y, x, np.pi * angle, phase, landscape.river_spacing, valley, landscape.resolution)
    brook = 900.0 * fields["meander"] + 260.0 * fields["brook"]
    small = _contour(
        y,
        x,
        np.pi * (angle + 0.3 + 0.4 * other),
        other_phase,
        landscape.river_spacing / 3.1,
        brook,
        landscape.resolution,
    )
    width = landscape.river_width * np.exp(0.25 * inner["wind"] + 0.12 * inner["shore"], dtype=np.float32)
    island = (inner["side"] + 0.3 * inner["shore"] > 2.0 - 1.2 * landscape.braiding) & (main < 0.36 * width)
    river = (2 * main < width) & ~island
    for sign in (-1, 1) if landscape.braiding > 0 else ():  # side channels leave the river and find back to it
        bend = valley + np.float32(sign * (200 + 900 * scale) * landscape.braiding) * fields["side"]
        side = _contour(y, x, np.pi * angle, phase, landscape.river_spacing, bend, landscape.resolution)
        river |= 2 * side < width * (0.1 + 0.3 * landscape.braiding) * np.exp(0.5 * inner["brook"], dtype=np.float32)
    width = landscape.stream_width * np.exp(0.5 * inner["brook"], dtype=np.float32)
    return river, (2 * small < width) & (width > 1.3 * landscape.resolution), main


def _contour(
    y: np.ndarray, x: np.ndarray, angle: float, phase: float, spacing: float, bend: np.ndarray, resolution: float
) -> np.ndarray:
    """Distance in m of the inner pixels from lines ``spacing`` apart that are bent by a pattern in m."""
    across = y * np.float32(np.cos(angle)) + x * np.float32(np.sin(angle)) + bend
    gy, gx = _gradient(across, resolution)
    turns = across[1:-1, 1:-1] * np.float32(1 / spacing) + np.float32(phase)
    away = np.abs(turns - np.rint(turns)) * np.float32(spacing)
    return np.asarray(away / np.maximum(np.sqrt(gy * gy + gx * gx), np.float32(0.3)))


def _still_water(
    fields: dict[str, np.ndarray], distance: np.ndarray, plots: dict[str, np.ndarray], landscape: Landscape
) -> np.ndarray:
    """Return lakes, flooded hollows and flooded fields."""
    low = 0.9 * fields["basin"] - 0.43 * fields["terrain"]
    lake = low > _above(landscape.lakes)
    plain = 1 - distance * np.float32(1 / 2500) - 0.35 * fields["terrain"]
    hollow = (plain > 0) & (
        fields["basin"] + 0.25 * fields["cover"] + plain > 1.1 * _above(0.6 * landscape.flood) + 0.9
    )
    wet = plain + 0.7 * fields["side"] > 0.55
    flooded = wet & (plots["draw"] < 1.2 * landscape.flood) & (fields["cover"] < 0.9)
    return lake | (hollow & (landscape.flood > 0)) | flooded


def _water_level(fields: dict[str, np.ndarray], narrow: np.ndarray, landscape: Landscape) -> np.ndarray:
    """Backscatter of water in dB: some 14 dB per decade of wind in VV and 5 in VH, less on narrow water.

    The slope is what the CMOD5.N model (Hersbach 2010, doi:10.1175/2009JTECHO698.1) shows from 2 to 10 m/s.
    """
    gust = np.float32(0.18) * fields["wind"] + np.float32(0.03) * fields["soil"]
    wind = np.clip(np.float32(np.log10(max(landscape.wind, 0.1))) + gust, 0, 1.1)
    wind *= np.where(narrow, np.float32(0.35), np.float32(1))
    weeds = 4 * np.maximum(fields["cover"] - np.float32(1.4), 0)  # reeds and drowned crops break the mirror
    return np.stack([landscape.water[0] + 14 * wind + weeds, landscape.water[1] + 5 * wind + weeds]).astype(np.float32)


# ---------------------------------------------------------------- land


def _plots(
    y: np.ndarray, x: np.ndarray, fields: dict[str, np.ndarray], seed: int, landscape: Landscape
) -> dict[str, np.ndarray]:
    """Parishes, roads along their borders, and fields in rows at each parish's own angle.

    Returns ``number`` (which of the table of fields), ``draw`` (uniform, one per field), ``road``, ``bridge``.
    """
    warp = np.float32(220) * fields["side"]
    parish, border = _cells(y + warp, x - warp, 1900.0, seed)
    road = border < np.float32(max(6.0, 0.45 * landscape.resolution))
    angle = uniform(seed, 4, np.arange(_TABLE)) * np.float32(np.pi / 2)
    cosine, sine = np.cos(angle)[parish], np.sin(angle)[parish]
    offset = uniform(seed, 5, np.arange(_TABLE)) * np.float32(0.6)
    row = _strips((y * cosine - x * sine) * np.float32(1 / landscape.field_size), parish, 1, offset)
    number = _strips((y * sine + x * cosine) * np.float32(0.4 / landscape.field_size), parish, row, offset)
    number = _mix(parish, row, number)
    draw = uniform(seed, 6, np.arange(_TABLE))[number]
    bridge = road & (fields["valley"] + fields["meander"] > 0) & (landscape.look_alikes > 0)
    return {"number": number, "draw": draw, "road": road, "bridge": bridge}


def _cells(y: np.ndarray, x: np.ndarray, size: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Voronoi cells of a jittered grid: a number in 0 … 4095 for each, and the distance from its border in m."""
    y, x = y * np.float32(1 / size), x * np.float32(1 / size)
    iy, ix = (np.floor(v - np.float32(0.5)).astype(np.int32) for v in (y, x))
    jitter = (uniform(seed, 3, np.arange(_TABLE), [[0], [1]]) - np.float32(0.5)) * np.float32(0.56)
    best = second = np.full(y.shape, np.inf, dtype=np.float32)
    cell = np.zeros(y.shape, dtype=np.int64)
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        number = _mix(iy + dy, ix + dx, 0)
        away_y = y - (iy + np.float32(dy + 0.5)) - jitter[0][number]
        away_x = x - (ix + np.float32(dx + 0.5)) - jitter[1][number]
        square = away_y * away_y + away_x * away_x
        nearer = square < best
        second = np.where(nearer, best, np.minimum(second, square))
        best = np.where(nearer, square, best)
        cell = np.where(nearer, number, cell)
    return cell, (second - best) * np.float32(0.5 * size)


def _strips(position: np.ndarray, a: np.ndarray, b: np.ndarray | int, offset: np.ndarray) -> np.ndarray:
    """Return the index of the strip that a position falls in; strips are 0.4 … 1.6 wide."""
    index = np.floor(position).astype(np.int32)
    before = position - index < offset[_mix(a, b, index)]
    return np.asarray(index - before)


def _mix(a: np.ndarray, b: np.ndarray | int, c: np.ndarray | int) -> np.ndarray:
    """Hash three integers into a position in a table: a cell's number, the same wherever it is met."""
    with np.errstate(over="ignore"):
        h = a.astype(np.uint32) * np.uint32(0x8DA6B343)
        h = h + np.asarray(b).astype(np.uint32) * np.uint32(0xD8163841)
        h = h + np.asarray(c).astype(np.uint32) * np.uint32(0xCB1AB31F)
        h = (h ^ (h >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
    return (h >> np.uint32(20)).astype(np.int64)


def _land_level(
    fields: dict[str, np.ndarray],
    plots: dict[str, np.ndarray],
    slope: np.ndarray,
    town: np.ndarray,
    landscape: Landscape,
) -> np.ndarray:
    """Backscatter of land in dB: fields, heath, forest, towns, slopes towards and away from the radar."""
    normal = NormalDist()
    draws = np.array([normal.inv_cdf((i + 0.5) / _TABLE) for i in range(_TABLE)], dtype=np.float32)
    shared, own = draws, np.roll(draws, _TABLE // 3)
    tilled = np.clip(fields["terrain"] * np.float32(-0.5) + np.float32(0.6), 0.1, 1) * landscape.texture
    mottle = np.float32(0.6 * landscape.texture) * fields["soil"]
    forest = fields["cover"] - 0.2 * plots["draw"] + 0.15 > _above(landscape.forest)
    out = np.empty((2, *town.shape), dtype=np.float32)
    for i, (base, wood, houses) in enumerate(((landscape.land[0], 1.8, 4.5), (landscape.land[1], 3.4, 4.5))):
        crop = (1.6 * shared + 1.0 * own * (1, -1)[i])[plots["number"]]
        open_land = base + tilled * crop
        level = np.where(forest, np.float32(base + wood), open_land)
        level = np.where(town, base + houses + 1.5 * fields["shore"] + (1.5 * shared)[plots["number"]], level)
        out[i] = level + mottle
    out += np.clip(np.float32(-900 * landscape.relief) * slope * np.maximum(fields["terrain"], 0), -5, 6)
    return out


def _dark_land(
    level: np.ndarray,
    fields: dict[str, np.ndarray],
    plots: dict[str, np.ndarray],
    distance: np.ndarray,
    slope: np.ndarray,
    landscape: Landscape,
) -> None:
    """Put into ``level`` what is dark as water and yet land: roads, airfields, sand bars, radar shadow."""
    calm = np.array(landscape.water, dtype=np.float32)[:, None]
    bar = (distance < 1.6 * landscape.river_width) & (
        fields["soil"] + 0.5 * fields["shore"] > _above(0.5 * landscape.look_alikes) + 0.5
    )
    airfield = plots["draw"] < 0.004 * landscape.look_alikes
    shadow = slope * np.maximum(fields["terrain"], 0) > 0.012 / max(landscape.relief, 1e-3)
    for mask, lift in ((bar, (4.5, 4.5)), (airfield, (4.0, 3.5)), (plots["road"], (6.0, 5.5)), (shadow, (3.0, 2.5))):
        level[:, mask] = calm + np.array(lift, dtype=np.float32)[:, None]
    level[:, plots["bridge"]] = np.array([[-4.0], [-13.0]], dtype=np.float32)
