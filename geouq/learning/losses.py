"""Losses on logits that count only pixels measured and labelled."""

from __future__ import annotations

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
