"""A dense conditional random field by position alone: each pixel of a map is called as the pixels around it are.

Mean field of Krähenbühl and Koltun 2011 (arXiv 1210.5644, algorithm 1), with one Gaussian pairwise term and Potts
compatibility. The settings are those that Paul and Ganju 2021 (arXiv 2107.08369) smooth maps of floods by.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

#: probability that a given label is right, of the unary term
RIGHT = 0.7
#: standard deviation of the pairwise term, in pixels, and its weight
SIGMA, WEIGHT = 12.0, 4.0
STEPS = 20


def crf_labels(labels: np.ndarray, classes: int, valid: np.ndarray, sigma: float = SIGMA) -> np.ndarray:
    """Return labels (h, w) smoothed by those around them; what is not ``valid`` stays, and weighs nothing.

    labels : (h, w) class indices 0 to ``classes`` − 1 where ``valid`` (h, w). sigma : in pixels; a strip twice as wide,
        or a disc four times as wide, is lost.

    With p the distribution of a pixel's class, k(d) = exp(−d²/2σ²) and n = 1/√(k ∗ valid), a step is
    p ← softmax(log unary + WEIGHT · n · (k ∗ (n · p))): k is normalised symmetrically, and a pixel is one of its own
    neighbours, both as in the authors' code.
    """
    one_hot = labels == np.arange(classes)[:, None, None]
    unary = np.log(np.where(one_hot, RIGHT, (1 - RIGHT) / (classes - 1)))  # (C, h, w)
    reach = _blurred(valid.astype(np.float64), sigma)
    norm = np.where(valid, 1 / np.sqrt(np.maximum(reach, 1e-20)), 0.0)
    p = _softmax(unary)
    for _ in range(STEPS):
        around = np.stack([norm * _blurred(norm * one, sigma) for one in p])
        p = _softmax(unary + WEIGHT * around)
    return np.where(valid, p.argmax(0), labels).astype(labels.dtype)


def _blurred(plane: np.ndarray, sigma: float) -> np.ndarray:
    return np.asarray(gaussian_filter(plane, sigma, mode="constant"))


def _softmax(energy: np.ndarray) -> np.ndarray:
    """(C, h, w) → probabilities along the first axis."""
    e = np.exp(energy - energy.max(0))
    return np.asarray(e / e.sum(0))
