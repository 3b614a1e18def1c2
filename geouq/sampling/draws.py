"""Draws that belong to the scene: sample s is one network, and one idea of the place, everywhere.

A channel's mask is a pure function of (seed, sample, site, channel), a place's effect one of (seed, sample): they do
not know tiles, batches, devices or how many samples there are, so tiles agree at their seams and sample 7 of 20 is
sample 7 of 50.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.special import ndtri

from geouq.noise import uniform


def dropout_masks(
    sites: Mapping[str, float], channels: Mapping[str, int], seed: int, samples: Sequence[int]
) -> dict[str, np.ndarray]:
    """Return each site's masks for ``samples``: float32 (S, C, 1, 1), values 0 or 1/(1 − rate).

    Bernoulli channel dropout as in training: Gal & Ghahramani 2016 (arXiv 1506.02142).
    """
    numbers = np.asarray(samples)[:, None]
    masks = {}
    for name, rate in sites.items():
        draw = uniform(seed, numbers, zlib.crc32(name.encode()), np.arange(channels[name])[None, :])
        kept = (draw >= rate).astype(np.float32) / np.float32(1 - rate)
        masks[name] = kept[:, :, None, None]
    return masks


def place_effects(scale: float, seed: int, samples: Sequence[int]) -> np.ndarray:
    """Return one offset of the positive class's logit for each sample, float32 (S,), normal with deviation ``scale``.

    How bright soil and water are differs from place to place, and a network meets a place with an error that
    its dropout does not know of: too much water everywhere, or too little. ``scale`` is how large that error was, in
    logits, on places the model had not seen (a random intercept: Laird & Ware 1982, doi 10.2307/2529876).
    The quantiles follow van der Corput's sequence, turned by the seed, so that few samples already spread evenly.
    """
    turn = float(uniform(seed, zlib.crc32(b"place"), dtype=np.float64))
    quantiles = [(_van_der_corput(s) + turn) % 1 for s in samples]
    return np.asarray((scale * ndtri(np.clip(quantiles, 1e-6, 1 - 1e-6))).astype(np.float32))


def _van_der_corput(number: int) -> float:
    """Return the number's binary digits mirrored at the point: 0, 1/2, 1/4, 3/4, 1/8, …"""
    result, share = 0.0, 0.5
    while number:
        result += share * (number & 1)
        number, share = number >> 1, share / 2
    return result
