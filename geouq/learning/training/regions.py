"""Losses of regions: how well what a network calls a class and what is labelled so cover each other.

Unlike losses of pixels they weigh a small class like a large one. All are called as (logits (N, 1 or C, H, W),
label (N, H, W), valid (N, H, W), weights (C,) or None), sum over all valid pixels of the batch, and return one number:
for one logit that of class 1, whose label may be a share in 0..1; for C logits the mean over classes, each against all
others, weighted by ``weights``. Letters: p probability, y 1 on the class and 0 elsewhere; sums Σ over valid pixels.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional


def dice(logits: Tensor, label: Tensor, valid: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return 1 − soft Dice, 1 − (2 Σpy + 1) / (Σp + Σy + 1), in 0..1 (Milletari et al. 2016, arXiv 1606.04797).

    One pixel is added to both halves of the ratio, so that a batch without the class asks for none.
    """
    losses = [1 - (2 * (p * y).sum() + 1) / (p.sum() + y.sum() + 1) for p, y in _each_class(logits, label, valid)]
    return _mean_of_classes(losses, weights)


def jaccard(logits: Tensor, label: Tensor, valid: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return 1 − soft IoU, 1 − (Σpy + 1) / (Σp + Σy − Σpy + 1), in 0..1 (Rahman and Wang 2016, ISVC)."""
    losses = []
    for p, y in _each_class(logits, label, valid):
        both = (p * y).sum()
        losses.append(1 - (both + 1) / (p.sum() + y.sum() - both + 1))
    return _mean_of_classes(losses, weights)


def tversky(
    logits: Tensor, label: Tensor, valid: Tensor, weights: Tensor | None = None, alpha: float = 0.3, beta: float = 0.7
) -> Tensor:
    """Return 1 − (Σpy + 1) / (Σpy + alpha·Σp(1−y) + beta·Σ(1−p)y + 1), in 0..1 (Salehi et al. 2017, arXiv 1706.05721).

    ``alpha`` is the price of false positives, ``beta`` of false negatives: ½, ½ is Dice, 1, 1 is IoU.
    """
    losses = []
    for p, y in _each_class(logits, label, valid):
        both = (p * y).sum()
        losses.append(1 - (both + 1) / (both + alpha * (p.sum() - both) + beta * (y.sum() - both) + 1))
    return _mean_of_classes(losses, weights)


def lovasz(logits: Tensor, label: Tensor, valid: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the Lovász extension of 1 − IoU (Berman et al. 2018, arXiv 1705.08790), over the batch; 0 of nothing.

    One logit: the Lovász hinge, of errors 1 − logit·(2y − 1) above 0; labels are classes, not shares. C logits: the
    Lovász softmax, of errors |y − p|, over the classes that are labelled.
    """
    seen = valid > 0
    truth = label[seen]  # (pixels,)
    if logits.shape[1] == 1:
        y = truth.to(logits)
        return _extension(functional.relu(1 - logits[:, 0][seen] * (2 * y - 1)), y)
    p = logits.softmax(1).movedim(1, -1)[seen]  # (pixels, C)
    present = [c for c in range(logits.shape[1]) if (truth == c).any()]
    if not present:
        return logits.sum() * 0
    losses = [_extension((y - p[:, c]).abs(), y) for c in present for y in [(truth == c).to(p)]]
    return _mean_of_classes(losses, None if weights is None else weights[present])


def _extension(errors: Tensor, y: Tensor) -> Tensor:
    """Return Σ errors · gradient, pixels (n,) in falling order of their errors (algorithm 1 of Berman et al.)."""
    errors, order = errors.sort(descending=True)
    y = y[order]
    both, union = y.sum() - y.cumsum(0), y.sum() + (1 - y).cumsum(0)
    loss = 1 - both / union  # of the first pixels all wrong, (n,)
    return torch.dot(errors, torch.diff(loss, prepend=loss.new_zeros(1)))


def _each_class(logits: Tensor, label: Tensor, valid: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield p and y (N, H, W) of class 1 for one logit, else of each class; both 0 where not valid."""
    if logits.shape[1] == 1:
        yield logits[:, 0].sigmoid() * valid, torch.where(valid > 0, label, 0).float() * valid
        return
    for number, p in enumerate(logits.softmax(1).unbind(1)):
        yield p * valid, (label == number) * valid


def _mean_of_classes(losses: list[Tensor], weights: Tensor | None) -> Tensor:
    """Return the (weighted) mean of a number a class; one alone, that of class 1, is not weighed."""
    if len(losses) == 1:
        return losses[0]
    each = torch.stack(losses)
    return each.mean() if weights is None else (each * weights).sum() / weights.sum()
