"""Dropout masks that belong to the scene: sample s is one network everywhere.

A channel's mask is a pure function of (seed, sample, site, channel): it does not know tiles, batches, devices or how
many samples there are, so tiles agree at their seams and sample 7 of 20 is sample 7 of 50.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

from geouq.noise import uniform


def dropout_masks(
    sites: Mapping[str, float], channels: Mapping[str, int], seed: int, samples: range
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
