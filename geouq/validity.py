"""Which pixel values can be measurements at all: within what is physically possible, and no constant fill.

Files often hold fill that no tag declares: -9999 of a resampling, 0.0 dB of SNAP's borders, 1e20, the 0 that gdalwarp
leaves around a scene. A network takes it for a measurement, mostly for water. So each band gets a ``Rule``, fixed from
a few windows (``first_windows``) before any tile is computed and the same for every pixel, so that no tiling shows.

Outside the unit's range (``units.RANGES``) nothing is valid. Inside it a value is fill if whole blocks of pixels hold
exactly that value, and it stands out from its neighbours among the values: radar pixels differ from one another by
speckle, so that 4 x 4 equal ones do not happen. A band that was clipped (its lowest or highest value, with others
just beside it) has real measurements there, and keeps them. Reflectances and colours do have flat areas, in one
band: there a value is fill only where all bands hold it.

What a few windows have not met is found where it lies: if no value of a band of backscatter repeats itself in any cell
of those windows (``CELL``), the band is speckle without steps, and what does repeat itself in a cell elsewhere is fill.
Cells are those of the image, counted from its first pixel, so that no window shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from geouq.errors import UnitsError
from geouq.units import AMPLITUDE, BACKSCATTER, DB, FLOOR_DB, POWER, RANGES, REFLECTANCE, RGB

#: Share of pixels that cannot be measurements from which it is told, and above which a scene is refused.
TOLD, REFUSED = 0.001, 0.5
#: Side of the blocks that hold one value, in pixels: of a band alone, of all together, of the least decibel; and how
#: many there must be.
_ALONE, _TOGETHER, _DARK, _FEWEST = 4, 8, 16, 4
#: More different values in constant blocks than this are an image enlarged by repeating pixels, not fill.
_MOST_VALUES = 8
#: Fill occurs this many times as often as the values next to it.
_STANDS_OUT = 20
#: A lowest or highest value this near to the next one is where a band was clipped, in dB, reflectance and bytes.
_CLIPPED = {DB: 0.25, POWER: 0.25, AMPLITUDE: 0.25, REFLECTANCE: 0.01, RGB: 1.0}


#: Side of the cells of an image, in pixels, a divisor of the sides of TIFF's tiles; and how many pixels of a cell hold
#: a value that repeats itself. Of 256 pixels of speckle not two are equal mostly, in float32.
CELL, _REPEATED = 16, 8


@dataclass(frozen=True)
class Rule:
    """What a band's values must be: between ``low`` and ``high``, in the unit, and none of ``fills``.

    ``speckle``: values strictly between these two do not repeat themselves in a cell, or they are fill (``repeated``).
    """

    low: float = -np.inf
    high: float = np.inf
    fills: tuple[float, ...] = ()
    speckle: tuple[float, float] | None = None

    def breaks(self, values: np.ndarray) -> np.ndarray:
        """Return where values (float32, any shape) cannot be measurements; False where they are NaN."""
        out = (values < np.float32(self.low)) | (values > np.float32(self.high))
        for fill in self.fills:
            out |= values == np.float32(fill)
        return out


#: of a band whose values may be anything
ANY = Rule()


@dataclass(frozen=True)
class Validity:
    """Rules of the bands of one image, and ``shared``: values that are fill where all its bands hold them.

    ``notes`` tell what is not valid by them, a line each; ``unlike`` why this is no radar image, or in another unit.
    """

    rules: tuple[Rule, ...]
    shared: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    unlike: str = ""

    @property
    def idle(self) -> bool:
        """True if every value is valid."""
        return not self.shared and all(rule == ANY for rule in self.rules)

    def blank(self, values: np.ndarray) -> np.ndarray:
        """Return values (bands, h, w) float32 with NaN where they cannot be measurements."""
        if self.idle:
            return values
        wrong = np.stack([rule.breaks(band) for rule, band in zip(self.rules, values, strict=True)])
        for fill in self.shared:
            wrong |= (values == np.float32(fill)).all(axis=0)
        return np.where(wrong, np.float32(np.nan), values)


def possible(bands: int, unit: str) -> Validity:
    """Return the validity of bands, no fill being known: what ``unit`` can have; anything in dn and unknown units."""
    rule = Rule(RANGES[unit].low, RANGES[unit].high) if unit in RANGES else ANY
    return Validity((rule,) * bands)


def measured(pixels: np.ndarray, present: Sequence[int], black: float | None = None) -> np.ndarray:
    """Return where pixels are measured, (h, w) bool, and make those of black padding NaN in place.

    A pixel is measured where all bands that are present are finite and one at least is above ``black``. Pictures cut
    from a larger one come turned, with corners that JPEG leaves almost black; nothing else tells them from land.

    Parameters
    ----------
    pixels : (K, h, w) in the model's units, NaN where not valid. present : indices of the bands that the image has.
    black : as in the model's spec; None: nothing is padding.
    """
    valid = np.isfinite(pixels[list(present)]).all(0)
    if black is not None:
        padding = valid & (pixels[list(present)] <= black).all(0)
        pixels[:, padding] = np.nan
        valid &= ~padding
    return np.asarray(valid)


def judge(windows: Sequence[np.ndarray], unit: str, find_fill: bool = True, most: float = REFUSED) -> Validity:
    """Fix the rules of an image's bands from some windows of it.

    Parameters
    ----------
    windows : (bands, h, w) float32 each, in ``unit``, NaN where not valid already.
    unit : of ``geouq.units``; in dn and unknown units nothing is impossible.
    find_fill : look for fill within the possible range too, not for impossible values alone.
    most : share of a band's pixels above which one constant fill is too much.

    Raises
    ------
    UnitsError : more than ``most`` of a band's pixels are one fill value, or more than half of its values lie here
        and there outside of the range; the line says which and what to give.
    """
    bands = windows[0].shape[0]
    if unit not in RANGES:
        return possible(bands, unit)
    low, high = RANGES[unit].low, RANGES[unit].high
    apart = unit in BACKSCATTER
    inside = [np.where((window < low) | (window > high), np.float32(np.nan), window) for window in windows]
    shared = _shared_fill(inside, unit) if find_fill and not apart else ()
    floor = (FLOOR_DB,) if find_fill and unit == DB and _whole_blocks_of_floor(inside) else ()
    rules, notes = [], []
    for number in range(bands):
        fills = _fill([window[number] for window in inside], unit) if find_fill and apart else ()
        rule = Rule(low, high, (*fills, *floor))
        speckle = _speckle([window[number] for window in windows], rule) if find_fill and apart else None
        rules.append(replace(rule, speckle=speckle))
        notes += _told(np.concatenate([window[number].ravel() for window in windows]), rules[-1], shared, unit, most)
    return Validity(tuple(rules), shared, tuple(dict.fromkeys(notes)))


def _told(values: np.ndarray, rule: Rule, shared: tuple[float, ...], unit: str, most: float) -> list[str]:
    """Say what share of a band's values is not valid by its rule; raise UnitsError if it is too much of them."""
    values = values[np.isfinite(values)]
    notes = []
    for fill in (*rule.fills, *shared):
        share = float((values == np.float32(fill)).mean())
        what = f"{_percent(share)} of the pixels are exactly {_number(fill)}, which is fill"
        notes += _say(share, most, f"{what} and not classified: give --nodata {_number(fill)} to be sure")
    outside = values[(values < rule.low) | (values > rule.high)]
    if not outside.size:
        return notes
    share = outside.size / values.size
    found, counts = np.unique(outside, return_counts=True)
    commonest = _number(found[counts.argmax()])
    what = f"{unit} from {rule.low:g} to {rule.high:g}"
    if counts.max() > outside.size / 2 and outside.size > 1:
        text = f"{_percent(share)} of the pixels are {commonest}, which is no {what}, and not classified"
        return notes + _say(share, most, f"{text}: give --nodata {commonest} to be sure")
    text = f"{_percent(share)} of the values, {_number(found[0])} to {_number(found[-1])}, are no {what}"
    return notes + _say(share, REFUSED, f"{text}: give the right --scale, or --factor and --offset of scaled numbers")


def _say(share: float, most: float, text: str) -> list[str]:
    if share > most:
        raise UnitsError(text)
    return [text] if share > TOLD else []


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else "all"


def _number(value: float) -> str:
    return f"{float(value):.8g}"


def repeated(values: np.ndarray, between: tuple[float, float]) -> np.ndarray:
    """Return where the pixels of an image are fill, since their cell holds the same value often.

    Parameters
    ----------
    values : (h, w) float32, NaN where not valid; its first pixel is the first of a cell.
    between : what is not strictly between these two may be where a band was clipped, and is kept.
    """
    out = np.zeros(values.shape, bool)
    alike = values[1:] == values[:-1], values[:, 1:] == values[:, :-1]
    if sum(map(np.count_nonzero, alike)) < _REPEATED - 1:
        return out  # almost always, and at once
    height, width = (-(-n // CELL) for n in values.shape)
    pairs = np.zeros(height * width, np.int64)
    for along, same in enumerate(alike):
        at = np.nonzero(same)
        inside = (at[along] + 1) % CELL != 0
        pairs += np.bincount((at[0] // CELL * width + at[1] // CELL)[inside], minlength=len(pairs))
    for cell in np.flatnonzero(pairs >= _REPEATED - 1):
        y, x = (int(n) * CELL for n in divmod(cell, width))
        part = values[y : y + CELL, x : x + CELL]
        found, which, counts = np.unique(part, return_inverse=True, return_counts=True)
        often = (counts >= _REPEATED) & (found > between[0]) & (found < between[1])
        out[y : y + CELL, x : x + CELL] = often[which].reshape(part.shape)
    return out


def floor_cells(values: np.ndarray) -> np.ndarray:
    """Return where an image, (K, h, w) from the first pixel of a cell on, is ``FLOOR_DB`` in all bands for half a cell.

    It is the decibel of a power kept above 0: single pixels of it are below the noise, 128 side by side were not
    measured.
    """
    floor = (values == FLOOR_DB).all(axis=0)
    out = np.zeros(floor.shape, bool)
    if not floor.any():
        return out
    for y in range(0, floor.shape[0], CELL):
        for x in range(0, floor.shape[1], CELL):
            cell = floor[y : y + CELL, x : x + CELL]
            out[y : y + CELL, x : x + CELL] = cell & (2 * np.count_nonzero(cell) >= cell.size)
    return out


# --- constant fill ---------------------------------------------------------------------------------------


def _fill(windows: Sequence[np.ndarray], unit: str) -> tuple[float, ...]:
    """Return the values of one band, windows (h, w), that are fill."""
    candidates = _in_blocks([_constant(window, _ALONE) for window in windows])
    if unit != DB:
        candidates = [value for value in candidates if value != 0]  # not measured in any case, and not worth a word
    else:
        candidates = [value for value in candidates if value != FLOOR_DB]  # measured, below the noise
    return _outstanding(windows, candidates, unit, zero_clipped=False)


def _speckle(windows: Sequence[np.ndarray], rule: Rule) -> tuple[float, float] | None:
    """Return the least and the largest value of a band's windows (h, w) by a rule, unless others repeat themselves."""
    known = [np.where(rule.breaks(window), np.float32(np.nan), window) for window in windows]
    values = np.concatenate([window[np.isfinite(window)] for window in known])
    between = (float(values.min()), float(values.max())) if values.size else None
    return None if between is None or any(repeated(window, between).any() for window in known) else between


def _whole_blocks_of_floor(windows: Sequence[np.ndarray]) -> bool:
    """True if blocks of all bands together hold the least decibel alone: log10 of a power kept above 0, not speckle."""
    blocks = [_constant(np.where((window == FLOOR_DB).all(axis=0), np.float32(1), np.nan), _DARK) for window in windows]
    return len(np.concatenate(blocks)) >= _FEWEST


def _shared_fill(windows: Sequence[np.ndarray], unit: str) -> tuple[float, ...]:
    """Return the values that all bands of windows (bands, h, w) hold together as fill."""
    blocks = []
    for window in windows:
        same = (window == window[:1]).all(axis=0)
        blocks.append(_constant(np.where(same, window[0], np.float32(np.nan)), _TOGETHER))
    candidates = _in_blocks(blocks)
    return _outstanding([window[0] for window in windows], candidates, unit, zero_clipped=len(windows[0]) == 1)


def _constant(values: np.ndarray, side: int) -> np.ndarray:
    """Return the value of each block of ``side``² pixels of an image (h, w) that holds but one."""
    rows, columns = (n // side for n in values.shape)
    blocks = values[: rows * side, : columns * side].reshape(rows, side, columns, side)
    low = blocks.min((1, 3))
    return np.asarray(low[low == blocks.max((1, 3))])


def _in_blocks(blocks: Sequence[np.ndarray]) -> list[float]:
    """Return the values that enough blocks hold; none if so many values come in blocks that all do."""
    found, counts = np.unique(np.concatenate(blocks), return_counts=True)
    return [] if len(found) > _MOST_VALUES else [float(v) for v in found[counts >= _FEWEST]]


def _outstanding(
    windows: Sequence[np.ndarray], candidates: list[float], unit: str, zero_clipped: bool
) -> tuple[float, ...]:
    """Return those of the candidates that are rather fill than where a band was clipped or its steps are coarse."""
    if not candidates:
        return ()
    values = np.concatenate([window.ravel() for window in windows])
    levels, counts = np.unique(values[np.isfinite(values)], return_counts=True)
    return tuple(
        value
        for value in candidates
        if _stands_out(levels, counts, value) and not ((value or zero_clipped) and _clipped(levels, value, unit))
    )


def _stands_out(levels: np.ndarray, counts: np.ndarray, value: float) -> bool:
    """True if a value occurs far more often than the two below and the two above it among those that occur."""
    at = int(np.searchsorted(levels, np.float32(value)))
    beside = np.r_[counts[max(at - 2, 0) : at], counts[at + 1 : at + 3]]
    if not beside.size:
        return value == 0  # all there is: nothing was measured, or an image of one tone
    return bool(counts[at] >= _STANDS_OUT * beside.max())


def _clipped(levels: np.ndarray, value: float, unit: str) -> bool:
    """True if a value is the lowest or highest of those that occur, with another one just beside it."""
    at = int(np.searchsorted(levels, np.float32(value)))
    if len(levels) < 2 or 0 < at < len(levels) - 1:
        return False
    pair = levels[[0, 1] if at == 0 else [-2, -1]].astype(float)
    if unit in (POWER, AMPLITUDE):
        pair = (10 if unit == POWER else 20) * np.log10(np.maximum(pair, np.finfo(np.float32).tiny))
    return bool(pair[1] - pair[0] <= _CLIPPED[unit])
