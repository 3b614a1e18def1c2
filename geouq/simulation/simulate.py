"""Simulated Sentinel-1 scenes with their true water mask, of any size, in bounded memory.

For demonstrations, tests, benchmarks and users without data. ``landscape`` says what lies where and how
bright it is; this module lights it as a radar does: darker towards far range, blurred to the resolution,
speckled, the noise floor subtracted, the swath cut off. Each pixel is a pure function of the seed, its
absolute position and the scene's shape, so a window has the same bytes as that part of the whole scene.

Speckle is a Gaussian field, filtered to the correlation measured on GRDH products and mapped through the
quantiles of a gamma distribution (a Gaussian copula): its intensity has exactly the wanted number of
looks, which need not be whole, at a fraction of the cost of summing that many complex fields.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window
from scipy.special import gammaincinv, ndtr

from geouq.errors import InputError, OutputError
from geouq.files import check_free, whole
from geouq.grid import Roi, Tiling
from geouq.noise import philox, stream, uniform
from geouq.simulation.landscape import REFERENCE_ANGLE, Landscape, bell, surfaces

__all__ = ["Landscape", "random_landscape", "simulate_scene", "simulate_window"]

NODATA = 255  # of the truth
_BYTES = 3  # a pixel takes on disk, at least: 3.5 of a scene of 700²
_BLOCK = 256  # pixels worked on at a time, so that the working arrays stay in the processor's cache
_TILE = 1024  # pixels written at a time; whole TIFF tiles
_SLANT = 0.21  # columns per row by which the swath edge leans in a north-up grid (12° orbit inclination)
_STEPS = 4096  # of the quantile table over ±6 standard deviations


def simulate_window(
    shape: tuple[int, int], window: Roi, seed: int = 0, landscape: Landscape | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Simulate a window of a scene.

    Parameters
    ----------
    shape : (rows, columns) of the whole scene; fixes the incidence angles and the swath edge, nothing else.
    window : the pixels wanted, anywhere in the scene.
    seed : another seed is another landscape and other speckle.
    landscape : default ``Landscape()``; see also ``random_landscape``.

    Returns
    -------
    backscatter : float32 (2, rows, columns), sigma0 of VV and VH in dB, in steps of 1/256 dB; NaN beyond the
        swath edge.
    truth : uint8 (rows, columns), 0 land, 1 water, 255 beyond the swath edge.
    """
    landscape = landscape or Landscape()
    backscatter = np.empty((2, *window.shape), dtype=np.float32)
    truth = np.empty(window.shape, dtype=np.uint8)
    for tile in Tiling(window.shape, _BLOCK, 0, 1):
        c = tile.core
        block = Roi(window.y0 + c.y0, window.y0 + c.y1, window.x0 + c.x0, window.x0 + c.x1)
        backscatter[:, *c.slices], truth[c.slices] = _block(shape, block, seed, landscape)
    return backscatter, truth


def simulate_scene(
    path: str | os.PathLike[str],
    *,
    size: int | tuple[int, int] = 2048,
    seed: int = 0,
    truth: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    landscape: Landscape | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a simulated scene, and its true water mask if wanted, as tiled GeoTIFFs in UTM.

    Parameters
    ----------
    path : bands VV and VH, sigma0 in dB, float32, nodata NaN.
    size : pixels a side, or (rows, columns).
    truth : where the true mask goes: uint8, 0 land, 1 water, 255 nodata.
    overwrite : replace files that exist.
    on_progress : called with (tiles done, tiles in all).

    Raises
    ------
    InputError : a size or landscape without meaning.
    OutputError : an output exists, or cannot be written. No half-written file stays.
    """
    landscape = landscape or Landscape()
    shape = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    if min(shape) < 1:
        raise InputError(f"a scene of {shape[0]} x {shape[1]} pixels cannot be simulated: give a size of 1 or more")
    finals = [Path(p) for p in (path, truth) if p is not None]
    if len({p.absolute() for p in finals}) < len(finals):
        raise OutputError(f"{finals[0]}: scene and truth cannot be the same file: choose another name for one")
    for final in finals:
        if final.suffix.lower() not in (".tif", ".tiff"):
            raise OutputError(f"{final}: scenes are written as .tif: give it that suffix")
        check_free(final, overwrite)
    _check_room(finals, shape)
    with ExitStack() as stack:
        made = [stack.enter_context(whole(final, rasterio.errors.RasterioError, replace=overwrite)) for final in finals]
        _write(made, shape, seed, landscape, on_progress)


def _check_room(finals: list[Path], shape: tuple[int, int]) -> None:
    """Raise OutputError if the scene would not fit its disk, before hours are spent on it."""
    needed = shape[0] * shape[1] * _BYTES
    free = shutil.disk_usage(finals[0].parent).free if finals[0].parent.is_dir() else needed
    if needed > free:
        raise OutputError(
            f"{finals[0]}: a scene of {shape[0]} x {shape[1]} pixels takes some {needed / 1e9:.3g} GB, and its "
            f"disk has {free / 1e9:.3g}: give a smaller size, or make room"
        )


def random_landscape(seed: int) -> Landscape:
    """Draw a believable landscape, for training data that vary: every number from the range met in practice.

    Most differ from the default in weather, land and water; one in five is of 20 m and one in ten of 30 m pixels.
    """
    u = (float(v) for v in uniform(seed, 7, np.arange(64), dtype=np.float64))

    def between(low: float, high: float) -> float:
        return low + (high - low) * next(u)

    def ratio(low: float, high: float) -> float:
        return float(low * (high / low) ** next(u))

    def sometimes(chance: float, value: float) -> float:
        return value if next(u) < chance else 0.0

    resolution = (10.0,) * 7 + (20.0, 20.0, 30.0)
    near, span, land = between(30, 44), between(0, 3), between(-12.5, -7.5)
    water = between(-25.5, -20.5)
    return Landscape(
        resolution=resolution[int(10 * next(u))],
        looks=ratio(3.5, 9),
        speckle_correlation=between(0.35, 0.7),
        channel_correlation=between(0, 0.2),
        noise_floor=between(-33, -26),
        incidence=(near, near + span),
        land=(land, land - between(5.5, 8.5)),
        water=(water, min(water - between(3.5, 7.5), -26.0)),
        wind=ratio(0.7, 8),
        texture=between(0.4, 1.6),
        river_width=sometimes(0.8, ratio(60, 900)),
        river_spacing=ratio(3000, 16000),
        braiding=between(0, 1),
        stream_width=sometimes(0.8, ratio(15, 60)),
        lakes=sometimes(0.8, ratio(0.01, 0.2)),
        ponds=sometimes(0.8, ratio(0.001, 0.012)),
        flood=sometimes(0.6, between(0.05, 0.7)),
        forest=between(0, 0.6),
        urban=ratio(0.005, 0.12),
        field_size=ratio(70, 450),
        relief=sometimes(0.7, between(0.2, 2)),
        look_alikes=sometimes(0.9, between(0.2, 1)),
        swath_edge=sometimes(0.1, between(0.02, 0.3)),
    )


# ---------------------------------------------------------------- one block


def _block(shape: tuple[int, int], block: Roi, seed: int, landscape: Landscape) -> tuple[np.ndarray, np.ndarray]:
    grown = Roi(block.y0 - 1, block.y1 + 1, block.x0 - 1, block.x1 + 1)
    level, water, town = surfaces(grown, seed, landscape)
    level += _incidence_trend(shape, grown, water, landscape)
    y, x = np.arange(grown.y0, grown.y1)[:, None], np.arange(grown.x0, grown.x1)[None, :]
    words = philox((y, x, 0, 0), stream(seed, 0))
    mean = _blur(np.exp(level * np.float32(np.log(10) / 10)), 0.5, 2.0)
    bright = _blur(_targets(words[2], water, town, landscape), 0.5, 1.0)
    noise = np.float32(10 ** (landscape.noise_floor / 10))
    intensity = _speckle(words, landscape) * (mean + noise) - noise
    intensity[0] += bright
    intensity[1] += np.float32(0.15) * bright
    # What subtracting the noise floor leaves below zero comes out tiny, without a pile-up at one value.
    soft = np.float32(2.5e-4)
    intensity = (intensity + np.sqrt(intensity * intensity + soft * soft)) * np.float32(0.5)
    backscatter = np.rint(np.log10(np.maximum(intensity, np.float32(1e-6))) * np.float32(2560)) / np.float32(256)
    outside = _outside(shape, block, seed, landscape)
    backscatter[:, outside] = np.nan
    truth = np.where(outside, np.uint8(NODATA), water[1:-1, 1:-1].astype(np.uint8))
    return backscatter, truth


def _incidence_trend(shape: tuple[int, int], window: Roi, water: np.ndarray, landscape: Landscape) -> np.ndarray:
    """Offset in dB from the level at 38°: cosine squared on land, -0.25 and -0.1 dB a degree on water."""
    near, far = landscape.incidence
    angle = near + (far - near) * (np.arange(window.x0, window.x1) + 0.5) / shape[1]
    land = 20 * np.log10(np.cos(np.radians(angle)) / np.cos(np.radians(REFERENCE_ANGLE)))
    beyond = angle - REFERENCE_ANGLE
    return np.stack([np.where(water, -0.25 * beyond, land), np.where(water, -0.1 * beyond, land)]).astype(np.float32)


def _targets(words: np.ndarray, water: np.ndarray, town: np.ndarray, landscape: Landscape) -> np.ndarray:
    """Power of point targets: corners of houses in towns, farms, and now and then a ship."""
    share = np.where(
        town, np.float32(0.035), np.where(water, np.float32(3e-6), np.float32(0.007 * landscape.urban + 1e-12))
    )
    rank = (words.astype(np.float32) + np.float32(0.5)) * np.float32(2**-32) / share
    return np.where(rank < 1, np.float32(2.0) * np.minimum(rank, 1) ** np.float32(-0.75), 0).clip(0, 2000)


def _speckle(words: tuple[np.ndarray, ...], landscape: Landscape) -> np.ndarray:
    """Intensity of mean 1 for the inner pixels, float32 (2, rows, columns)."""
    rho = min(max(1.03 * landscape.speckle_correlation, 1e-3), 0.705)  # the quantiles below lose some 3 % of it
    side = (1 - np.sqrt(1 - 2 * rho**2)) / (2 * rho)  # of the filter (side, 1, side) that has this correlation
    z = _blur(np.stack([bell(words[0]), bell(words[1])]), side, np.sqrt(1 + 2 * side**2))
    shared = landscape.channel_correlation
    z[1] = np.float32(shared) * z[0] + np.float32(np.sqrt(1 - shared**2)) * z[1]
    index = np.clip(z * np.float32(_STEPS / 12) + np.float32(_STEPS / 2), 0, _STEPS).astype(np.int32)
    return np.asarray(_quantiles(landscape.looks)[index])


@lru_cache(maxsize=16)
def _quantiles(looks: float) -> np.ndarray:
    """Gamma quantiles (mean 1, variance 1/looks) at the probabilities of normal scores from -6 to 6."""
    score = (np.arange(_STEPS + 1) + 0.5) * (12 / _STEPS) - 6
    return np.asarray((gammaincinv(looks, ndtr(score)) / looks).astype(np.float32))


def _blur(a: np.ndarray, side: float, total: float) -> np.ndarray:
    """Filter the last two axes with (side, 1, side) / total; the outermost pixels are dropped."""
    s, t = np.float32(side), np.float32(1 / total)
    a = (a[..., 1:-1, :] + s * (a[..., :-2, :] + a[..., 2:, :])) * t
    return np.asarray((a[..., 1:-1] + s * (a[..., :-2] + a[..., 2:])) * t)


def _outside(shape: tuple[int, int], block: Roi, seed: int, landscape: Landscape) -> np.ndarray:
    """Return the pixels beyond the slanted edge of the swath, on the left or the right by seed."""
    rows, columns = shape
    y, x = np.arange(block.y0, block.y1)[:, None] + 0.5, np.arange(block.x0, block.x1)[None, :] + 0.5
    if landscape.swath_edge <= 0:
        return np.zeros(block.shape, dtype=bool)
    left = bool(uniform(seed, 8) < 0.5)
    slant = min(_SLANT, landscape.swath_edge * columns / rows)  # never more than the share asked for, on average
    away = columns - x if not left else x
    lean = (y - rows / 2) * (slant if not left else -slant)
    return np.asarray(away + lean < landscape.swath_edge * columns)


# ---------------------------------------------------------------- files


def _write(
    parts: list[Path],
    shape: tuple[int, int],
    seed: int,
    landscape: Landscape,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    common = {
        "driver": "GTiff", "height": shape[0], "width": shape[1], "crs": "EPSG:32633", "tiled": True, "blockxsize": 512,
        "blockysize": 512, "compress": "zstd", "zstd_level": 1, "BIGTIFF": "IF_SAFER",
        "transform": rasterio.Affine(landscape.resolution, 0, 400_000, 0, -landscape.resolution, 5_400_000),
    }  # fmt: skip
    tags = {"simulated_by": "geouq", "seed": str(seed), "recipe": json.dumps(asdict(landscape))}
    profiles = [
        {"count": 2, "dtype": "float32", "nodata": np.nan, "predictor": 3},
        {"count": 1, "dtype": "uint8", "nodata": NODATA},
    ]
    tiles = list(Tiling(shape, _TILE, 0, 1))
    with rasterio.Env(GDAL_CACHEMAX=64 << 20):
        files = [rasterio.open(p, "w", **common, **f) for p, f in zip(parts, profiles, strict=False)]
        try:
            _describe(files, tags)
            for done, tile in enumerate(tiles, 1):
                pixels = simulate_window(shape, tile.core, seed, landscape)
                c = tile.core
                for file, values in zip(files, pixels, strict=False):
                    file.write(values if values.ndim == 3 else values[None], window=Window(c.x0, c.y0, *c.shape[::-1]))
                if on_progress:
                    on_progress(done, len(tiles))
        finally:
            for file in files:
                file.close()


def _describe(files: list[rasterio.io.DatasetWriter], tags: dict[str, str]) -> None:
    for file in files:
        file.update_tags(**tags)
    files[0].descriptions, files[0].units = ("VV", "VH"), ("dB", "dB")
    if len(files) > 1:
        files[1].set_band_description(1, "water")
