"""Augmentation: what data may look like elsewhere, without leaving what is physical.

Pictures are turned; backscatter is also shifted in gain and speckled. For water in Sentinel-1 there is more: a square
is cut from a piece of labelled data, seen at another resolution, partly not measured or with a band missing. Because
labelled floods are few and mostly calm, water is also *painted*: the outline of real water, filled with backscatter
from smooth to wind-roughened, that keeps the piece's own speckle. All functions are pure: the generator they are given
decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional

from geouq.errors import InputError
from geouq.learning.data.examples import Example, resize, turned

#: VH, in dB, that open water hardly ever rises above, whatever the wind: the medians of 22 sea crops of OPERA with VV
#: of -18 to -12 dB are -29.4 to -25.7.
WINDY_SEA_VH = -25.0
#: share of land in an example from which water is held against it
DRY_IN_SIGHT = 0.05
#: What reads a piece.
Reader = Callable[[], Example]
#: share of water from which a piece counts as wet
WET = 0.02
#: dB that an augmentation may move backscatter by: the span from smooth water to a bright town
MOST_DB = 40


@dataclass(frozen=True)
class Augmentation:
    """How often, and how far, examples of "water" depart from the data. Probabilities 0..1; levels in dB.

    simulated : share of examples from simulated pieces, if there are any.
    zoom, zoom_range : resample, by a factor drawn log-uniformly (2 = pixels twice as large).
    paint : paint water over it. roughen : repaint its own labelled water.
    windy_vh : VH, in dB, that wind raises painted water towards.
    darken : bring a dry example as a whole to the level of dry grassland or bare soil.
    dim : darken some fields by up to ``dim_db`` in VV and a little less in VH, as bare smooth soil does; still land.
    speckle : multiply power by gamma noise of ``looks`` looks.
    gain_db : each band's offset is within ± this. wedge : a straight-edged part is not measured.
    no_vv, no_vh : the whole band is missing.
    """

    simulated: float = 0.3
    zoom: float = 0.5
    zoom_range: tuple[float, float] = (0.75, 3.0)
    paint: float = 0.4
    roughen: float = 0.25
    windy_vh: float = -20.0
    darken: float = 0.0
    dim: float = 0.5
    dim_db: float = 7.0
    speckle: float = 0.3
    looks: tuple[float, float] = (4.0, 30.0)
    gain_db: float = 1.5
    wedge: float = 0.1
    no_vv: float = 0.05
    no_vh: float = 0.18

    def __post_init__(self) -> None:
        for key in ("simulated", "zoom", "paint", "roughen", "darken", "dim", "speckle", "wedge", "no_vv", "no_vh"):
            if not 0 <= getattr(self, key) <= 1:
                raise InputError(f"{key} is {getattr(self, key)}: it is a probability, from 0 to 1")
        for key in ("dim_db", "gain_db"):
            if not 0 <= getattr(self, key) <= MOST_DB:
                raise InputError(f"{key} is {getattr(self, key)}: it must be from 0 to {MOST_DB} dB")
        if not -MOST_DB <= self.windy_vh <= 0:
            raise InputError(f"windy_vh is {self.windy_vh}: it must be from {-MOST_DB} to 0 dB")
        for key, least, most in (("zoom_range", 1 / 16, 16), ("looks", 0.1, 1e4)):
            span = getattr(self, key)
            if len(span) != 2 or not least <= span[0] <= span[1] <= most:
                raise InputError(f"{key} is {span}: it must be two numbers from {least} to {most}, the lower first")


class Group(NamedTuple):
    """Pieces of which one is drawn evenly, once the group is drawn in proportion to its weight."""

    pieces: Sequence[Reader]
    weight: float = 1.0


@dataclass(frozen=True)
class Pool:
    """Groups of pieces that examples are cut from: VV and VH in dB, label 0 or 1.

    real : of the data. wet : those with water that are drawn every other time. made : simulated.
    """

    real: Sequence[Group]
    wet: Sequence[Group]
    made: Sequence[Group] = ()

    def draw(self, simulated: float, rng: np.random.Generator) -> Sequence[Group]:
        """Draw what to cut from: simulated pieces with that probability, else, every other time, the wet ones."""
        pieces = self.wet if self.wet and rng.random() < 0.5 else self.real
        return self.made if self.made and (not self.real or rng.random() < simulated) else pieces


def turn(example: Example, rng: np.random.Generator) -> Example:
    """Apply one of the eight flips and quarter turns."""
    how = int(rng.integers(8))
    return Example(*(turned(array, how) for array in example))


def jitter_backscatter(
    example: Example, rng: np.random.Generator, gain_db: float = 1.5, bands: int | None = None
) -> Example:
    """Shift each band (dB) by up to ± ``gain_db``; every other time add speckle of 4 to 30 looks.

    ``bands`` : the first so many are backscatter, the others stay; all by default.
    """
    radar, others = example.pixels[:bands], example.pixels[len(example.pixels) if bands is None else bands :]
    pixels = radar + rng.uniform(-gain_db, gain_db, (len(radar), 1, 1))
    if rng.random() < 0.5:
        looks = rng.uniform(4, 30)
        gamma = rng.standard_gamma(looks, size=pixels.shape) / looks
        pixels = pixels + 10 * np.log10(np.maximum(gamma, 1e-6))
    return example._replace(pixels=np.concatenate([pixels.astype(np.float32), others]))


def draw_example(
    pool: Pool, shapes: Sequence[np.ndarray], size: int, how: Augmentation, rng: np.random.Generator
) -> Example:
    """Draw an example of ``size``² pixels: from a simulated piece or a real one, every other time from a wet one."""
    groups = pool.draw(how.simulated, rng)
    example = _cut(draw_piece(groups, rng), size, how, rng)
    for _ in range(4):  # hardly labelled: look elsewhere
        if example.valid.mean() >= 0.2:
            break
        example = _cut(draw_piece(groups, rng), size, how, rng)
    return distort(example, shapes, how, rng)


def draw_piece(groups: Sequence[Group], rng: np.random.Generator) -> Example:
    """Read a piece of a group, which is drawn in proportion to its weight."""
    weights = np.array([group.weight for group in groups])
    if (weights == weights[0]).all():
        number = int(rng.integers(len(groups)))
    else:
        number = int(np.searchsorted(np.cumsum(weights), rng.random() * weights.sum(), side="right"))
    pieces = groups[number].pieces
    return pieces[int(rng.integers(len(pieces)))]()


def distort(example: Example, shapes: Sequence[np.ndarray], how: Augmentation, rng: np.random.Generator) -> Example:
    """Paint, dim, speckle, shift and turn an example of VV and VH, and take parts of it away."""
    pixels, label, valid = example
    size = len(label)
    if how.darken and not label.any() and rng.random() < how.darken:
        pixels = darken(pixels, rng)
    if rng.random() < how.roughen and label.any():
        pixels = paint_water(pixels, label == 1, rng, how.windy_vh)
    if rng.random() < how.paint:
        shape = draw_shape(shapes, size, rng)
        pixels, label = paint_water(pixels, shape, rng, how.windy_vh), np.maximum(label, shape.astype(np.uint8))
    if rng.random() < how.dim:
        loss = how.dim_db * draw_fields(size, rng) * (label == 0)
        pixels = pixels - np.stack([loss, rng.uniform(0.4, 1) * loss])
    if rng.random() < how.speckle:
        looks = rng.uniform(*how.looks)
        gamma = rng.standard_gamma(looks, size=pixels.shape, dtype=np.float32) / np.float32(looks)
        pixels = pixels + 10 * np.log10(np.maximum(gamma, 1e-6))
    pixels = pixels + rng.uniform(-how.gain_db, how.gain_db, (2, 1, 1))
    if rng.random() < how.wedge:
        pixels = np.where(_wedge(size, rng), np.nan, pixels)
    lost = rng.random()
    if lost < how.no_vv + how.no_vh:
        pixels = pixels.copy()
        pixels[0 if lost < how.no_vv else 1] = np.nan
    valid = valid & np.isfinite(pixels).any(0)
    return turn(Example(pixels.astype(np.float32), label, valid), rng)


def darken(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shift dry ground, (2, h, w) dB, to the level of dry grassland or bare soil; what it varies by stays.

    VH becomes -24 to -19 dB, VV 5.5 to 11 dB more: over windy water it is 12 or more, over calm water VH is lower.
    """
    vh = rng.uniform(-24, -19)
    shift = np.array([vh + rng.uniform(5.5, 11), vh]) - np.nanmedian(pixels, axis=(1, 2))
    return np.asarray(pixels + np.minimum(shift, 0)[:, None, None], np.float32)


def paint_water(pixels: np.ndarray, shape: np.ndarray, rng: np.random.Generator, windy_vh: float = -20.0) -> np.ndarray:
    """Fill ``shape`` with water between calm and wind-roughened, and return the new dB pixels.

    Calm water: VV −25..−17.5 dB, VH −33..−24 dB. Wind raises VV towards −13..−7 dB and VH, much less, to ``windy_vh``,
    unevenly over the surface. VH stays 3 dB below the land around it, and up to 6 dB where VV is below it too, else
    no one could tell water from a bare field; with hardly any land in sight it stays below ``WINDY_SEA_VH``, else no
    one could tell it from dry grassland. Speckle is what the chip itself varies about its 7-pixel mean, so looks and
    correlation are the sensor's own.
    """
    size = shape.shape[0]
    strength = 0.0 if rng.random() < 0.4 else rng.random()
    wind = np.clip(strength + (strength > 0) * rng.uniform(0, 0.35) * smooth_noise(size, rng), 0, 1)
    calm_vv, calm_vh, rough_vv = rng.uniform(-25, -17.5), rng.uniform(-33, -24), rng.uniform(-13, -7)
    level = np.stack([calm_vv + wind * (rough_vv - calm_vv), calm_vh + 0.9 * wind * (windy_vh - calm_vh)])
    level += rng.uniform(0, 1.5) * smooth_noise(size, rng)
    dry = np.isfinite(pixels).all(0) & ~shape
    if shape.any():
        water, ceiling = level[:, shape].mean(axis=1), WINDY_SEA_VH
        if dry.sum() > DRY_IN_SIGHT * dry.size:
            land = np.median(pixels[:, dry], axis=1)
            ceiling = land[1] - 3 - np.clip((land[0] - water[0]) / 2, 0, 3)
        level[1] -= max(0.0, float(water[1] - ceiling))
    filled = level + _speckle(pixels)
    cover = _soften(shape, rng.uniform(0.4, 1.2))
    mixed = (1 - cover) * 10 ** (pixels / 10) + cover * 10 ** (filled / 10)
    return np.asarray(10 * np.log10(np.maximum(mixed, 1e-6)), np.float32)


def draw_shape(shapes: Sequence[np.ndarray], size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw an outline, (size, size) bool: real water, enlarged, turned, at times inverted, or cut from smooth noise."""
    if not shapes or rng.random() < 0.3:
        field = smooth_noise(size, rng) + 0.5 * smooth_noise(size, rng)
        return np.asarray(field > np.quantile(field, rng.uniform(0.3, 0.95)))
    shape = shapes[int(rng.integers(len(shapes)))]
    side = int(rng.integers(min(shape.shape) // 3, min(shape.shape) + 1))
    y, x = rng.integers(shape.shape[0] - side + 1), rng.integers(shape.shape[1] - side + 1)
    part = torch.from_numpy(shape[y : y + side, x : x + side].astype(np.float32))[None, None]
    large = functional.interpolate(part, (size, size), mode="bilinear", align_corners=False)[0, 0].numpy()
    shape = turned(large >= 0.5, int(rng.integers(8)))
    return ~shape if rng.random() < 0.2 else shape


def draw_fields(size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw how dark fields are: a turned mosaic of oblongs, (size, size) in 0..1; most are 0."""
    angle, cells = rng.uniform(0, np.pi / 2), rng.uniform(8, 50, 2)
    y, x = np.mgrid[0:size, 0:size]
    row = (np.cos(angle) * y + np.sin(angle) * x) // cells[0]
    column = (np.cos(angle) * x - np.sin(angle) * y) // cells[1]
    value = rng.random((64 + int(row.max()), 64 + int(np.ptp(column))))
    share = rng.uniform(0.05, 0.5)
    value = np.where(rng.random(value.shape) < share, value, 0)
    return _soften(value[row.astype(int), (column - column.min()).astype(int)], 0.8)


def smooth_noise(size: int, rng: np.random.Generator) -> np.ndarray:
    """Return a smooth random field, (size, size), mean about 0, standard deviation about 1; its grain is drawn too."""
    cells = int(rng.integers(2, 17))
    lattice = torch.from_numpy(rng.standard_normal((1, 1, cells + 3, cells + 3)).astype(np.float32))
    field = functional.interpolate(lattice, (size, size), mode="bicubic", align_corners=False)[0, 0]
    return (field / field.std()).numpy()


def _cut(piece: Example, size: int, how: Augmentation, rng: np.random.Generator) -> Example:
    """Cut a square at a random resolution: averages of linear power, as a coarser sensor would see them."""
    zoom = np.exp(rng.uniform(*np.log(how.zoom_range))) if rng.random() < how.zoom else 1.0
    side = round(size * zoom)
    grown = max(0, side - min(piece.label.shape))
    layers = np.stack([*piece.pixels, piece.label == 1, piece.valid]).astype(np.float32)
    if grown:
        layers = np.pad(layers, ((0, 0), (0, grown), (0, grown)), mode="symmetric")
    y, x = (int(rng.integers(n - side + 1)) for n in layers.shape[1:])
    layers = layers[:, y : y + side, x : x + side]
    pixels, label, valid = layers[:2], layers[2], layers[3]
    if side != size:
        power = resize(10 ** (pixels / 10), (size, size), area=True)
        pixels = 10 * np.log10(np.maximum(power, 1e-6))
        label, valid = resize(layers[2:], (size, size), area=True)
    return Example(pixels, (label >= 0.5).astype(np.uint8), valid > 0.99)


def _speckle(pixels: np.ndarray) -> np.ndarray:
    """Return how the chip varies about its 7-pixel mean, in dB, bright targets cut off."""
    filled = np.where(np.isfinite(pixels), pixels, 0)
    return np.asarray(np.clip(filled - ndimage.uniform_filter(filled, (0, 7, 7)), -12, 6))


def _soften(shape: np.ndarray, sigma: float) -> np.ndarray:
    return np.asarray(ndimage.gaussian_filter(shape.astype(np.float32), sigma))


def _wedge(size: int, rng: np.random.Generator) -> np.ndarray:
    """Return a half-plane that covers up to half of the square."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    return np.asarray(np.cos(angle) * x + np.sin(angle) * y > rng.uniform(0.05, 0.45))
