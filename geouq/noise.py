"""Random numbers that belong to a position in the world: a counter in, its numbers out, no state between.

Philox4x32-10 of Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3", SC'11,
doi:10.1145/2063384.2063405. A number is a pure function of the seed and of what it is for (a pixel, a
lattice point, a sample, a channel), so that any part of a scene is drawn alone, in any order, and comes out
the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85
_WORD = 0xFFFFFFFF
_CHUNK = 1 << 15  # counters at a time: the working arrays stay in the processor's cache

Words = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def philox(counters: tuple[ArrayLike, ArrayLike, ArrayLike, ArrayLike], key: tuple[int, int]) -> Words:
    """Return four uint32 arrays of random words for four broadcastable arrays of integer counters.

    Parameters
    ----------
    counters : four integers or integer arrays; each is taken modulo 2³².
    key : two integers, taken modulo 2³²; another key is another, independent stream.

    Returns
    -------
    Four uint32 arrays of the counters' common shape, uniform over 0..2³²-1.
    """
    arrays = [np.asarray(c) for c in counters]
    shape = np.broadcast_shapes(*(a.shape for a in arrays))
    flat = [np.broadcast_to((a & _WORD).astype(np.uint32), shape).reshape(-1) for a in arrays]
    out = np.empty((4, flat[0].size), dtype=np.uint32)
    for start in range(0, flat[0].size, _CHUNK):
        part = slice(start, start + _CHUNK)
        out[:, part] = _rounds([f[part] for f in flat], key)
    return tuple(word.reshape(shape) for word in out)  # type: ignore[return-value]


def _rounds(counters: list[np.ndarray], key: tuple[int, int]) -> Words:
    c0, c1, c2, c3 = counters
    for i in range(10):
        k0, k1 = (np.uint32((k + i * w) & _WORD) for k, w in zip(key, _WEYL, strict=True))
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        high0, high1 = (p0 >> np.uint64(32)).astype(np.uint32), (p1 >> np.uint64(32)).astype(np.uint32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, p1.astype(np.uint32), high0 ^ c3 ^ k1, p0.astype(np.uint32)
    return c0, c1, c2, c3


def stream(seed: int, *purpose: int) -> tuple[int, int]:
    """Return the philox key of a stream of its own for ``seed`` (any integer, modulo 2⁶⁴) and a purpose."""
    key = seed & _WORD, (seed >> 32) & _WORD
    for value in purpose:
        first, second, *_ = philox((value & _WORD, (value >> 32) & _WORD, 0, 1), key)
        key = int(first), int(second)
    return key


def uniform(seed: int, *coordinates: ArrayLike, dtype: DTypeLike = np.float32) -> np.ndarray:
    """Return uniform numbers in [0, 1), each a pure function of the seed and its coordinates.

    Parameters
    ----------
    seed : any integer, taken modulo 2⁶⁴.
    coordinates : integers or broadcastable integer arrays, such as (sample, site, channel) or
        (sample, class, y, x); the last four may be arrays, any before them are single integers. Fewer than
        four are filled up with 0 at the end.
    dtype : float32 (24 random bits) or float64 (53 random bits).

    Returns
    -------
    Array of the coordinates' common shape.
    """
    purpose, arrays = coordinates[:-4], coordinates[-4:]
    padded = (*arrays, 0, 0, 0, 0)
    words = philox(padded[:4], stream(seed, *(int(p) for p in purpose)))  # type: ignore[arg-type]
    if np.dtype(dtype) == np.float32:
        return (words[0] >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)
    bits = ((words[0] >> np.uint32(5)).astype(np.uint64) << np.uint64(26)) | (words[1] >> np.uint32(6))
    return bits * 2.0**-53
