"""Losses on logits that count only pixels measured and labelled, and the text a recipe names them by.

A loss is a sum of terms, ``"bce + dice"`` or ``"cross_entropy + 0.5 * tversky(0.3, 0.7)"``: names of ``LOSSES`` with an
optional weight before and parameters behind. All are called as (logits (N, 1 or C, H, W), label (N, H, W), valid
(N, H, W), weights (C or 2,) or None). A label is a class index, or for the terms in ``SHARES`` and one logit the share
of class 1 in 0..1; where ``valid`` is 0 it may be anything. Losses of pixels are here; those of regions in
geouq.learning.training.regions.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import isfinite
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from geouq.errors import InputError
from geouq.learning.training.regions import dice, jaccard, lovasz, tversky


def bce(logits: Tensor, label: Tensor, valid: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the binary cross entropy of one logit, averaged over valid pixels; 0 if there is none."""
    share = torch.where(valid > 0, label, 0).float()
    loss = functional.binary_cross_entropy_with_logits(logits[:, 0], share, reduction="none")
    if weights is not None:
        valid = valid * (weights[0] * (1 - share) + weights[1] * share)
    return _mean(loss, valid)


def bce_dice(logits: Tensor, label: Tensor, valid: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return BCE + Dice, as ``"bce + dice"`` does."""
    return bce(logits, label, valid, weights) + dice(logits, label, valid, weights)


def cross_entropy(logits: Tensor, label: Tensor, valid: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the mean cross entropy over valid pixels, 0 if there is none; weighted, Σ w·loss / Σ w."""
    return -_mean(_log_likelihood(logits, label, valid), _weighed(label, valid, weights))


def focal(logits: Tensor, label: Tensor, valid: Tensor, weights: Tensor | None = None, gamma: float = 2.0) -> Tensor:
    """Return the mean of −(1 − p)^gamma · ln p, p that of the true class (Lin et al. 2017, arXiv 1708.02002).

    ``gamma`` 0 is cross entropy; the larger, the less pixels count that are right already.
    """
    log_p = _log_likelihood(logits, label, valid)
    return -_mean((1 - log_p.exp()) ** gamma * log_p, _weighed(label, valid, weights))


def border_cross_entropy(
    logits: Tensor,
    label: Tensor,
    valid: Tensor,
    weights: Tensor | None = None,
    strength: float = 10.0,
    sigma: float = 5.0,
) -> Tensor:
    """Return the cross entropy weighted by :func:`border_weights`: Σ w·loss / number of valid pixels."""
    maps = [border_weights(y, strength, sigma) for y in torch.where(valid > 0, label, 0).cpu().numpy()]
    weight = torch.from_numpy(np.stack(maps)).to(logits)
    return -_mean(weight * _log_likelihood(logits, label, valid), _weighed(label, valid, weights))


def border_weights(label: np.ndarray, strength: float = 10.0, sigma: float = 5.0) -> np.ndarray:
    """Return the weight of each pixel, high in the gaps between objects: eq. 2 of Ronneberger et al. 2015.

    w = 1 + strength · exp(−(d1 + d2)² / (2 sigma²)) on class 0, 1 on objects; d1 and d2 are the distances in pixels to
    the nearest and the second nearest object (arXiv 1505.04597). The class weights of that equation are left
    to the sampler. Distances beyond 5 sigma count as infinite: what they would add is below strength · 4e-6.

    Parameters
    ----------
    label : (H, W) class index; an object is a 4-connected region of one class other than 0.

    Returns
    -------
    float32 (H, W).
    """
    first, second = np.full(label.shape, np.inf), np.full(label.shape, np.inf)
    reach = int(np.ceil(5 * sigma))
    for value in np.setdiff1d(np.unique(label), [0]):
        objects, _ = ndimage.label(label == value)
        for number, box in enumerate(ndimage.find_objects(objects), 1):
            part = tuple(slice(max(0, s.start - reach), s.stop + reach) for s in box)
            distance = ndimage.distance_transform_edt(objects[part] != number)
            second[part] = np.minimum(second[part], np.maximum(first[part], distance))
            first[part] = np.minimum(first[part], distance)
    near = np.exp(-((first + second) ** 2) / (2 * sigma**2))
    return np.where(label == 0, 1 + strength * near, 1).astype(np.float32)


def _log_likelihood(logits: Tensor, label: Tensor, valid: Tensor) -> Tensor:
    """Return ln p of the labelled class, (N, H, W); one logit stands for two classes."""
    if logits.shape[1] == 1:
        logits = torch.cat([torch.zeros_like(logits), logits], 1)
    index = torch.where(valid > 0, label, 0).long()
    return functional.log_softmax(logits, 1).gather(1, index[:, None])[:, 0]


def _weighed(label: Tensor, valid: Tensor, weights: Tensor | None) -> Tensor:
    """Return what each pixel counts, (N, H, W): its class's weight where it is valid."""
    return valid if weights is None else valid * weights[torch.where(valid > 0, label, 0).long()]


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    """Return the mean of values (N, H, W), each counted as often as ``valid`` says; 0 where nothing counts."""
    total = valid.sum()
    return (values * valid).sum() / torch.where(total > 0, total, 1)


#: name → loss
LOSSES: dict[str, Callable[..., Tensor]] = {
    "bce": bce,
    "bce_dice": bce_dice,
    "cross_entropy": cross_entropy,
    "focal": focal,
    "border": border_cross_entropy,
    "dice": dice,
    "jaccard": jaccard,
    "tversky": tversky,
    "lovasz": lovasz,
}
#: those of one logit whose labels may be shares
SHARES = ("bce", "bce_dice", "dice", "jaccard", "tversky")


# --- sums of terms


class Term(NamedTuple):
    """``weight`` times the loss of that ``name``, with its ``parameters`` in order."""

    weight: float
    name: str
    parameters: tuple[float, ...]


_TERM = re.compile(r"\s*(?:([^*()]+)\*)?\s*(\w+)\s*(?:\(([^()]*)\))?\s*")


@lru_cache(maxsize=64)
def parse_loss(text: str) -> tuple[Term, ...]:
    """Return the terms of a loss such as ``"bce + 0.5 * tversky(0.3, 0.7)"``.

    Raises
    ------
    InputError : a term, its weight or its parameters are not understood.
    """
    return tuple(_term(part, text) for part in re.split(r"\+(?![^(]*\))(?<![\d.][eE]\+)", text))


def _term(part: str, text: str) -> Term:
    found = _TERM.fullmatch(part)
    if found is None or found[2] not in LOSSES:
        named = part.strip() if found is None else found[2]
        raise InputError(f"{named!r} is none of {', '.join(LOSSES)}: a loss is a sum of these, 'bce + 0.5 * dice'")
    try:
        parameters = tuple(float(value) for value in (found[3] or "").split(",") if value.strip())
        weight = float(found[1]) if found[1] else 1.0
    except ValueError:
        raise InputError(f"loss {text!r}: {part.strip()!r} holds something that is no number") from None
    known = list(inspect.signature(LOSSES[found[2]]).parameters)[4:]
    if len(parameters) > len(known):
        takes = f"takes {', '.join(known)}" if known else "takes no parameters"
        raise InputError(f"loss {text!r}: {found[2]} {takes}, and {len(parameters)} numbers are given")
    if not all(isfinite(value) and value >= 0 for value in (weight, *parameters)):
        raise InputError(f"loss {text!r}: {part.strip()!r} holds a number that is not finite, or below 0")
    return Term(weight, found[2], parameters)


def takes_shares(loss: str) -> bool:
    """True if labels may be shares of class 1: no term of the loss needs classes."""
    return loss != "ssn" and all(term.name in SHARES for term in parse_loss(loss))


def for_classes(loss: str) -> str:
    """Return a loss as it is with more than two classes: binary cross entropy becomes cross entropy."""
    renamed = {"bce": "cross_entropy", "bce_dice": "cross_entropy"}
    return re.sub(r"\w+", lambda word: renamed.get(word[0], word[0]), loss)


def evaluate_loss(
    loss: str, logits: Tensor, truth: tuple[Tensor, Tensor], class_weights: Sequence[float] = ()
) -> Tensor:
    """Return a loss of logits (N, 1 or C, H, W) on ``truth``, label and valid (N, H, W).

    ``class_weights`` : one a class, two for one logit; none: all classes count alike.
    """
    weights = torch.tensor(class_weights, device=logits.device) if class_weights else None
    values = []
    for term in parse_loss(loss):
        value = LOSSES[term.name](logits, *truth, weights, *term.parameters)
        values.append(value if term.weight == 1 else term.weight * value)
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total
