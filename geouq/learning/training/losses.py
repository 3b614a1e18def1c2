"""Losses on logits that count only pixels measured and labelled.

``LOSSES`` holds those a recipe may name, all called as (logits (N, 1 or C, H, W), label (N, H, W), valid (N, H, W)). A
label is a class index, or for ``bce`` and ``bce_dice`` the share of class 1 in 0..1, which is what one logit means;
where ``valid`` is 0 it may be anything.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional


def bce(logits: Tensor, label: Tensor, valid: Tensor) -> Tensor:
    """Return the mean binary cross entropy over valid pixels, 0 if there is none; all three of shape (N, H, W)."""
    loss = functional.binary_cross_entropy_with_logits(logits, label, reduction="none")
    return (loss * valid).sum() / valid.sum().clamp(min=1)


def dice(logits: Tensor, label: Tensor, valid: Tensor) -> Tensor:
    """Return 1 − soft Dice of the batch's valid pixels (Milletari et al. 2016, arXiv 1606.04797), in 0..1.

    One pixel is added to both halves of the ratio, so that a batch without water asks for none.
    """
    probability = logits.sigmoid() * valid
    label = label * valid
    overlap = (probability * label).sum()
    return 1 - (2 * overlap + 1) / (probability.sum() + label.sum() + 1)


def bce_dice(logits: Tensor, label: Tensor, valid: Tensor) -> Tensor:
    """Return BCE + Dice."""
    return bce(logits, label, valid) + dice(logits, label, valid)


def cross_entropy(logits: Tensor, label: Tensor, valid: Tensor) -> Tensor:
    """Return the mean cross entropy over valid pixels, 0 if there is none; logits (N, 1 or C, H, W)."""
    return -_mean(_log_likelihood(logits, label, valid), valid)


def focal(logits: Tensor, label: Tensor, valid: Tensor, gamma: float = 2.0) -> Tensor:
    """Return the mean of −(1 − p)^gamma · ln p, p that of the true class (Lin et al. 2017, arXiv 1708.02002).

    ``gamma`` 0 is cross entropy; the larger, the less pixels count that are right already.
    """
    log_p = _log_likelihood(logits, label, valid)
    return -_mean((1 - log_p.exp()) ** gamma * log_p, valid)


def border_cross_entropy(
    logits: Tensor, label: Tensor, valid: Tensor, strength: float = 10.0, sigma: float = 5.0
) -> Tensor:
    """Return the cross entropy weighted by :func:`border_weights`: Σ w·loss / number of valid pixels."""
    weights = [border_weights(y, strength, sigma) for y in torch.where(valid > 0, label, 0).cpu().numpy()]
    weight = torch.from_numpy(np.stack(weights)).to(logits)
    return -_mean(weight * _log_likelihood(logits, label, valid), valid)


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


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    return (values * valid).sum() / valid.sum().clamp(min=1)


def _one_logit(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda logits, label, valid: loss(logits[:, 0], torch.where(valid > 0, label, 0).float(), valid)


#: name → loss
LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "bce": _one_logit(bce),
    "bce_dice": _one_logit(bce_dice),
    "cross_entropy": cross_entropy,
    "focal": focal,
    "border": border_cross_entropy,
}
