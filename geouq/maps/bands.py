"""The bands of a map: what each holds, how layers are stored in it, and how four pixels become one.

Layers become the bands of a file by their kind:

==========  ==========================  =====================  =================  ==========================
kind        band holds                  data type              not classified     overview of 2x2 pixels
==========  ==========================  =====================  =================  ==========================
``class``   0, 1 … C-1; 254             uint8 (or float32)     255 (NaN)          geouq.maps.overviews
``percent`` 0..100, band scale 0.01     uint8                  255                mean of the valid ones
``float``   0..1                        float32                NaN                mean of the valid ones
``dB``      decibels                    float32                NaN                mean power of the valid ones
``bits``    bit s set: sample s says    uint32, uint64 beyond  internal mask,     the upper left pixel
            the positive class          32 samples             2³¹ or 2⁶³
==========  ==========================  =====================  =================  ==========================

*Votes* of 32 or 64 samples have every bit pattern as a legal value (all bits 0: land in all samples; all bits 1:
water in all), so none can be reserved for "not classified": every file of votes has GDAL's internal mask. Under it
is the highest bit alone, which is nodata too, where samples leave it free (all numbers but 32 and 64), and 0 else: a
pixel that is asked for its value (QGIS's Identify, gdallocationinfo) then does not answer "land in all samples".
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from geouq.layers import LAYERS, NOT_CLASSIFIED, Legend, votes_dtype

#: pixels a side of the blocks that maps are stored in
BLOCK = 512


@dataclass(frozen=True)
class MapBand:
    """One band of a map's file: ``name`` (the band's description), ``kind``, ``dtype``, what a mask's values mean,
    how many samples votes are of.
    """

    name: str
    kind: str
    dtype: str
    legend: Legend = Legend()
    samples: int = 0

    @property
    def nodata(self) -> float | None:
        """The value where it says nothing: of votes the highest bit alone if no sample has it, else None."""
        if self.kind != "bits":
            return NOT_CLASSIFIED if self.dtype == "uint8" else math.nan
        bits = 32 if self.dtype == "uint32" else 64
        return 1 << (bits - 1) if self.samples < bits else None

    def tags(self) -> dict[str, str]:
        """Return the band's metadata: of a mask the class that each value stands for."""
        if self.kind != "class":
            return {}
        return {f"CLASS_{value}": name for value, name in self.legend.values.items()}


def map_bands(names: Sequence[str], float32: bool = False, legend: Legend = Legend()) -> tuple[MapBand, ...]:  # noqa: B008 (frozen)
    """Return the bands of a map file: classes as they are, all other layers as percent (or as float32)."""
    dtype = "float32" if float32 else "uint8"
    number = "float" if float32 else "percent"
    kinds = [LAYERS[name].kind if name in LAYERS else "percent" for name in names]
    return tuple(
        MapBand(name, "class" if kind == "class" else number, dtype, legend)
        for name, kind in zip(names, kinds, strict=True)
    )


def vote_bands(samples: int, legend: Legend = Legend()) -> tuple[MapBand, ...]:  # noqa: B008 (frozen)
    """Return the bands of up to 64 samples' votes: one of two classes (the positive one's), else one each."""
    names = LAYERS["votes"].planes(legend.names) or ("votes",)
    return tuple(MapBand(name, "bits", votes_dtype(samples).name, samples=samples) for name in names)


def by_band(layers: Mapping[str, np.ndarray], legend: Legend) -> dict[str, np.ndarray]:
    """Return layers, those that have a plane a class as planes under the names of their bands, (rows, columns) each."""
    planes: dict[str, np.ndarray] = {}
    for name, layer in layers.items():
        names = LAYERS[name].planes(legend.names)
        planes |= dict(zip(names, layer, strict=True)) if names else {name: layer}
    return planes


def quantise(layers: Mapping[str, np.ndarray], bands: Sequence[MapBand]) -> np.ndarray:
    """Turn the layers of a tile into what its file stores; the same input gives the same bytes.

    Parameters
    ----------
    layers : by name, each (rows, columns). The mask is uint8 with 255 = not classified; votes are unsigned
        integers, not classified where the mask is; all others float in 0..1 (clipped), NaN = not classified.
    bands : those of one file, from ``map_bands`` or ``vote_bands``.

    Returns
    -------
    (bands, rows, columns) in the file's data type: percent rounded half up. For votes (bands + 1, rows, columns): the
    bits, and 255 where they are valid.
    """
    if bands[0].kind == "bits":
        valid = layers["mask"] != NOT_CLASSIFIED
        votes = [layers[band.name].astype(band.dtype) for band in bands]
        masked = [np.where(valid, bits, nothing(bands)[0]) for bits in votes]
        return np.stack([*masked, valid * votes[0].dtype.type(NOT_CLASSIFIED)])
    return np.stack([_quantise(layers[band.name], band) for band in bands])


def _quantise(layer: np.ndarray, band: MapBand) -> np.ndarray:
    if band.kind == "class":
        if band.dtype == "uint8":
            return layer.astype(np.uint8, copy=False)
        return np.where(layer == NOT_CLASSIFIED, np.float32(np.nan), layer.astype(np.float32))
    unit = np.clip(np.asarray(layer, dtype=np.float32), 0, 1)  # NaN stays NaN
    if band.kind == "float":
        return unit
    percent = np.floor(unit * np.float32(100) + np.float32(0.5))
    return np.where(np.isnan(percent), NOT_CLASSIFIED, percent).astype(np.uint8)


def nothing(bands: Sequence[MapBand]) -> np.ndarray:
    """Return one pixel that is not classified, as ``quantise`` gives it."""
    return np.full((len(bands), 1, 1), bands[0].nodata or 0, dtype=bands[0].dtype)


def bit_sum(array: np.ndarray) -> int:
    """Sum of the values as unsigned integers, modulo 2⁶⁴ (floats: of their bits, NaN being one value)."""
    if array.dtype.kind == "f":
        array = np.where(np.isnan(array), np.float32(np.nan), array).view(np.uint32)
    return int(array.sum(dtype=np.uint64))


def halve(block: np.ndarray, bands: Sequence[MapBand]) -> np.ndarray:
    """Reduce (bands, rows, columns) to half the rows and columns (rounded up), each band by its kind.

    Only valid pixels count; the result is valid where one of the four is. Percent: the mean, rounded half up. Bits:
    the upper left pixel, valid or not. Classes: not classified, for they are not made of the level below.
    """
    padding = [(0, 0), (0, block.shape[1] % 2), (0, block.shape[2] % 2)]
    kinds = {"percent": _mean_percent, "float": _mean_float, "dB": _mean_power}
    if bands[0].kind == "bits":
        return block[:, ::2, ::2]
    fill = np.nan if block.dtype.kind == "f" else NOT_CLASSIFIED
    padded = np.pad(block, padding, constant_values=fill)
    out = []
    for plane, band in zip(padded, bands, strict=True):
        if band.kind == "class":
            out.append(np.full_like(plane[::2, ::2], fill))
            continue
        four = np.stack([plane[y::2, x::2] for y in (0, 1) for x in (0, 1)])
        valid = ~np.isnan(four) if four.dtype.kind == "f" else four != NOT_CLASSIFIED
        half = kinds[band.kind](four, valid)
        out.append(np.where(valid.any(axis=0), half, fill).astype(block.dtype))
    return np.stack(out)


def _mean_percent(four: np.ndarray, valid: np.ndarray) -> np.ndarray:
    count = np.maximum(valid.sum(axis=0, dtype=np.uint16), 1)
    total = np.where(valid, four, 0).sum(axis=0, dtype=np.uint16)
    return np.asarray((2 * total + count) // (2 * count))


def _mean_float(four: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return np.asarray(np.where(valid, four, 0).sum(axis=0) / np.maximum(valid.sum(axis=0, dtype=np.float32), 1))


def _mean_power(four: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return np.asarray(10 * np.log10(np.maximum(_mean_float(10 ** (four / 10), valid), np.float32(1e-30))))
