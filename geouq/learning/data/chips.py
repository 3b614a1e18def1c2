"""Labelled chips: small pieces of Sentinel-1 scenes with a water label and the place they come from.

A *place* is a geographic unit that splits keep whole: chips of one flood, or of neighbouring ground, share
it. Readers here know four public layouts (Sen1Floods11, STAC Overflow, DFC 2024, ETCI 2021) and turn each
into the same record: backscatter in dB with NaN where nothing was measured, a 0/1 label, and one mask that
is true where a pixel is both measured and labelled.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from geouq.errors import InputError, SceneError
from geouq.grid import Roi
from geouq.simulation.simulate import random_recipe, simulate_window
from geouq.units import DB, POWER, convert

#: the place of all simulated chips
SIMULATED = "simulated"
#: DFC 2024 track 1 stores linear power times this, as int16 (inferred from the levels; clipped at 32765).
_DFC_POWER = 1e4
#: DFC chips whose water label is drawn visibly wider than, or beside, the water; kept out of training.
DFC_COARSE = ("3", "9")


@dataclass(frozen=True)
class Chip:
    """One labelled piece of a scene.

    name, place : the file's name; the place that splits keep whole.
    pixels : (2, rows, columns) float32, VV and VH in dB, NaN = not measured.
    label : (rows, columns) uint8, 1 = water.
    valid : (rows, columns) bool, measured (in either band) and labelled.
    """

    name: str
    place: str
    pixels: np.ndarray
    label: np.ndarray
    valid: np.ndarray

    @cached_property  # each draw of a training sample asks every chip
    def water(self) -> float:
        """Share of water among valid pixels, 0..1 (0 where none is valid)."""
        return float(self.label[self.valid].mean()) if self.valid.any() else 0.0


def read_chips(folder: str | Path) -> list[Chip]:
    """Read the chips with backscatter in dB or linear power below ``folder``, in a fixed order.

    Looks into ``sen1floods11``, ``stacoverflow`` and ``dfc2024``; chips without a single valid pixel are left out.

    Raises
    ------
    InputError : the folder holds none of them. SceneError : a chip cannot be read.
    """
    folder = Path(folder)
    readers = (_sen1floods11(folder), _stacoverflow(folder), _dfc2024(folder))
    chips = [chip for reader in readers for chip in reader if chip.valid.any()]
    if not chips:
        raise InputError(f"{folder}: no labelled chips: it should hold sen1floods11/, stacoverflow/ or dfc2024/")
    return chips


def read_shapes(folder: str | Path, least: float = 0.02, most: float = 0.9) -> list[np.ndarray]:
    """Read outlines of real water, flood and permanent, from the ETCI 2021 labels below ``folder``.

    Returns
    -------
    (rows, columns) bool arrays, those with a share of water between ``least`` and ``most``.
    """
    floods = sorted(Path(folder).glob("etci2021/*/flood/*.png"))
    shapes = [(_read(f)[0] > 0) | (_read(f.parent.parent / "water" / f.name)[0] > 0) for f in floods]
    return [s for s in shapes if least <= s.mean() <= most]


def simulate_chips(count: int, seed: int, size: int = 512) -> list[Chip]:
    """Simulate ``count`` chips of ``size``² pixels, each of another landscape, weather and recipe."""
    whole = Roi(0, size, 0, size)
    chips = []
    for number in range(seed, seed + count):
        pixels, truth = simulate_window((size, size), whole, number, random_recipe(number))
        chips.append(_chip(f"simulated-{number}", SIMULATED, pixels, truth, truth <= 1))
    return chips


def leave_out(chips: Iterable[Chip], places: Iterable[str]) -> tuple[list[Chip], list[Chip]]:
    """Split ``chips`` into those of other places and those of ``places``."""
    chips, places = list(chips), set(places)
    return [c for c in chips if c.place not in places], [c for c in chips if c.place in places]


def _sen1floods11(folder: Path) -> Iterator[Chip]:
    """Yield Sen1Floods11 hand-labelled chips; the place is the flood (India, Spain, …), as named by the files."""
    for path in sorted(folder.glob("sen1floods11/*_S1Hand.tif")):
        label = _read(path.with_name(path.name.replace("_S1Hand", "_LabelHand")))[0]
        yield _chip(path.name[: -len("_S1Hand.tif")], path.name.split("_")[0], _read(path), label, label >= 0)


def _stacoverflow(folder: Path) -> Iterator[Chip]:
    """Yield STAC Overflow chips with a label; the three letters and two digits of a name are its flood and chip."""
    for vv in sorted(folder.glob("stacoverflow/*_vv.tif")):
        path = vv.with_name(vv.name.replace("_vv", ""))
        if path.exists():
            pixels = np.concatenate([_read(vv), _read(vv.with_name(vv.name.replace("_vv", "_vh")))])
            pixels = np.where(pixels == 0, np.nan, pixels)  # the files' own nodata
            label = _read(path)[0]
            yield _chip(path.stem, path.stem, pixels, label, label != 255)


def _dfc2024(folder: Path) -> Iterator[Chip]:
    """Yield DFC 2024 track 1 chips; where they lie is not published, each counts as a place of its own."""
    for path in sorted(folder.glob("dfc2024/images/*.tif")):
        if path.stem not in DFC_COARSE:
            power = np.maximum(_read(path)[:2].astype(np.float32), 0.5) / _DFC_POWER
            label = _read(folder / "dfc2024" / "labels" / f"{path.stem}.png")[0]
            yield _chip(f"dfc-{path.stem}", f"dfc-{path.stem}", convert(power, POWER, DB), label, label <= 1)


def _chip(name: str, place: str, pixels: np.ndarray, label: np.ndarray, labelled: np.ndarray) -> Chip:
    pixels = np.where(np.isfinite(pixels), pixels, np.nan).astype(np.float32)
    valid = labelled & np.isfinite(pixels).any(0)
    return Chip(name, place, pixels, (label == 1).astype(np.uint8), valid)


def _read(path: Path) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as source:
                return np.asarray(source.read())
    except RasterioError as error:
        raise SceneError(f"{path}: cannot be read as a raster: {error}; fetch the chip again") from error
