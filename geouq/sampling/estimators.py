"""Running sums over samples, and the layers they become: never a stack of samples.

What a layer is, its formula and the sums it needs stand in geouq.layers; here is one function a layer (``_FORMULAS``).

Letters in shape comments: C classes, 1 of two classes with one logit, h rows and w columns of the core, r those rows
that are summed at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from geouq.decisions import Cut
from geouq.layers import (
    LAYERS,
    NOT_CLASSIFIED,
    UNDECIDED,
    by_class,
    mask_of_two,
    needed,
    positive_logit,
    says_positive,
    votes_dtype,
)

#: Rows that are summed at once on a CPU.
STRIP = 512


@dataclass(frozen=True)
class Question:
    """What is asked of the samples: ``layers``, the class that counts, where it counts, and how logits are cooled.

    classes, positive : how many there are, and the index of the one that counts (geouq.layers).
    threshold : probability at and above which a sample says the positive class; and the mask, unless there is a cut.
    tolerance : samples need not be drawn that could move no pixel's probability by more than this; 0: draw all.
    cut : where the mask of two classes is cut, and what of it is undecided. None: at the threshold, nothing.
    """

    layers: tuple[str, ...]
    classes: int
    positive: int
    threshold: float
    temperature: float
    tolerance: float = 0.0
    cut: Cut | None = None


class RunningSums:
    """Sums over samples for one window's core; ``add`` logits sample by sample, then ``layers``."""

    def __init__(self, question: Question, valid: Tensor, area: Tensor, samples: int) -> None:
        """Start with ``valid`` (h, w) bool, pixel ``area`` in m², broadcastable to (h, w), and the samples to come.

        Sums are kept on the device that ``valid`` is on; logits are expected there.
        """
        self.question, self.valid, self.area = question, valid, area.expand(valid.shape)
        self.samples = 0
        self.areas: dict[int, Tensor] = {}  # sample → area of the positive class of two, or of each of more, (1 or C,)
        needs, shape, device = needed(question.layers), valid.shape, valid.device
        self.mean = torch.zeros(0, device=device)  # of two classes with one logit: of the positive one alone
        self.entropy = torch.zeros(shape, device=device) if "entropy" in needs else None
        self.square = torch.zeros(2, *shape, device=device) if "squares" in needs else None
        planes = (question.classes if question.classes > 2 else 1, *shape)  # of two, the positive one alone
        self.counts = torch.zeros(planes, device=device) if "counts" in needs else None
        integers = torch.int64 if votes_dtype(samples).itemsize == 8 else torch.int32
        self.votes = torch.zeros(planes, dtype=integers, device=device) if "votes" in needs else None

    def add(self, logits: Tensor, number: int | None = None) -> None:
        """Add one sample's logits (classes or 1, h, w), float32; ``number`` is the sample's, in any order."""
        number = self.samples if number is None else number
        if self.samples == 0:
            self.mean = logits.new_zeros(logits.shape)
        areas = [self._add_rows(logits[:, rows], number, rows) for rows in self._strips()]
        self.areas[number] = torch.stack([torch.stack(of_class).sum() for of_class in zip(*areas, strict=True)])
        self.samples += 1

    def _strips(self) -> list[slice]:
        """Return the rows that are summed at once: on a CPU few, whose intermediate results stay in its cache."""
        height = len(self.valid)
        step = STRIP if self.valid.device.type == "cpu" else max(height, 1)
        return [slice(y, y + step) for y in range(0, height, step)]

    def _add_rows(self, logits: Tensor, number: int, rows: slice) -> list[Tensor]:
        """Add some rows of a sample's logits; return the areas there, float64: as ``areas`` has them."""
        probabilities = tempered(logits, self.question)  # (C or 1, r, w)
        if self.entropy is not None:
            self.entropy[rows] += _entropy(probabilities)  # (r, w)
        if self.square is not None:  # Welford 1962, doi 10.1080/00401706.1962.10490022
            centre, squares = self.square[:, rows]  # (r, w) each
            step = self._positive(probabilities) - centre  # (r, w)
            centre += step / (self.samples + 1)
            squares += step * (self._positive(probabilities) - centre)
        votes = self._votes(probabilities).logical_and_(self.valid[rows])  # (C or 1, r, w) bool
        if self.counts is not None:
            self.counts[:, rows] += votes
        if self.votes is not None:
            self.votes[:, rows] |= votes.to(self.votes.dtype) << number
        self.mean[:, rows] += probabilities  # (C or 1, r, w)
        return [(plane * self.area[rows]).sum(dtype=torch.float64) for plane in votes]

    def settled(self, samples: int) -> bool:
        """True if what is left of ``samples`` cannot move any valid pixel's p̄ by more than the tolerance.

        After n of S samples p̄_S lies between n/S·p̄_n and n/S·p̄_n + (S − n)/S, whatever the others say, so that it
        is at most (S − n)/S·max(p̄_n, 1 − p̄_n) away.
        """
        left = (samples - self.samples) / samples
        if left / 2 > self.question.tolerance or self.question.tolerance == 0:
            return False
        mean = self.mean / self.samples  # (C or 1, h, w)
        far = torch.maximum(mean, 1 - mean).amax(0)[self.valid].max()  # (C or 1, h, w) → (h, w) → (n valid,) → ()
        return left * float(far) <= self.question.tolerance

    def expect(self, logits: Sequence[tuple[Tensor, float]]) -> None:
        """Take logits (1, h, w) with weights that sum to 1 as the whole distribution, instead of samples."""
        self.samples = 1
        self.mean = torch.zeros(1, *self.valid.shape, device=self.valid.device)
        for one, weight in logits:
            probabilities = tempered(one, self.question)  # (1, h, w)
            self.mean.add_(probabilities, alpha=weight)
            if self.entropy is not None:
                self.entropy.add_(_entropy(probabilities), alpha=weight)
        if self.square is not None:
            for one, weight in logits:
                step = tempered(one, self.question)[0] - self.mean[0]  # (h, w)
                self.square[1].add_(step.square_(), alpha=weight)

    def empty_layers(self, samples: int) -> dict[str, np.ndarray]:
        """Return the layers of a core without a valid pixel, no sample having been drawn."""
        self.samples = samples
        self.mean = torch.zeros(self.question.classes, *self.valid.shape, device=self.valid.device)
        return self.layers()

    def _positive(self, probabilities: Tensor) -> Tensor:
        return probabilities[0 if len(probabilities) == 1 else self.question.positive]

    def _votes(self, probabilities: Tensor) -> Tensor:
        """Return where the positive class of two is chosen, (1, r, w) bool, or each of more, (C, r, w)."""
        if self.question.classes == 2:
            return self._decide(probabilities)[None]
        chosen = probabilities.argmax(0)  # (C, r, w) → (r, w)
        return torch.stack([chosen == number for number in range(self.question.classes)])

    def _decide(self, probabilities: Tensor) -> Tensor:
        """Return where the positive class is chosen, (h, w) bool."""
        chosen: Tensor = says_positive(probabilities, self.question.positive, self.question.threshold)
        return chosen

    def layers(self) -> dict[str, np.ndarray]:
        """Return the layers asked for: float32 with NaN, or integers with 255 or 0, where not valid.

        ``probabilities`` is (C, h, w), votes of more than two classes are, all others are (h, w).
        """
        means, invalid, out = _Means(self), ~self.valid, {}
        for name in self.question.layers:
            layer = _FORMULAS[name](means)
            if LAYERS[name].kind == "class":
                layer = layer.masked_fill(invalid, NOT_CLASSIFIED)
            elif LAYERS[name].kind == "percent":
                layer = layer.masked_fill(invalid, math.nan)
            array = layer.cpu().numpy()
            out[name] = array.view(votes_dtype(8 * array.itemsize)) if LAYERS[name].kind == "votes" else array
        return out


class _Means:
    """What sums over samples become, each computed once: the arguments of the layers' functions."""

    def __init__(self, sums: RunningSums) -> None:
        self.sums, self.question = sums, sums.question
        self.mean = sums.mean / sums.samples  # (C or 1, h, w)
        self.scale = math.log(max(self.question.classes, 2))

    @cached_property
    def classes(self) -> Tensor:
        """p̄ of each class, (C, h, w)."""
        return torch.stack(by_class(self.mean[0], self.question.positive)) if len(self.mean) == 1 else self.mean

    @cached_property
    def predictive(self) -> Tensor:
        """H(p̄), (h, w)."""
        return _entropy(self.mean)

    @cached_property
    def expected(self) -> Tensor:
        """The mean of H(p_s), (h, w)."""
        assert self.sums.entropy is not None
        return self.sums.entropy / self.sums.samples


def _mask(means: _Means) -> Tensor:
    if means.question.classes > 2:
        return means.classes.argmax(0).to(torch.uint8)  # (C, h, w) → (h, w)
    cut, positive = means.question.cut, means.question.positive
    if cut is None:
        chosen: Tensor = mask_of_two(means.sums._decide(means.mean), positive)
        return chosen.to(torch.uint8)
    mask: Tensor = mask_of_two(says_positive(means.mean, positive, cut.at), positive)
    return mask.to(torch.uint8).masked_fill(cut.undecided(means.sums._positive(means.mean)), UNDECIDED)


def _std(means: _Means) -> Tensor:
    assert means.sums.square is not None
    return (means.sums.square[1] / means.sums.samples).sqrt_()


def _variation_ratio(means: _Means) -> Tensor:
    """Freeman 1965, Elementary Applied Statistics; of the samples of a network: Gal 2016, thesis, section 3.3.1."""
    assert means.sums.counts is not None
    share = means.sums.counts / means.sums.samples  # (C or 1, h, w)
    return 1 - (torch.maximum(share[0], 1 - share[0]) if len(share) == 1 else share.amax(0))


def _votes(means: _Means) -> Tensor:
    assert means.sums.votes is not None
    return means.sums.votes if len(means.sums.votes) > 1 else means.sums.votes[0]


#: layer → its function of the sums: (h, w), or (C, h, w) where it has one plane a class
_FORMULAS: dict[str, Callable[[_Means], Tensor]] = {
    "mask": _mask,
    "uncertainty": lambda m: m.predictive / m.scale,
    "confidence": lambda m: m.classes.amax(0),
    "probability": lambda m: m.sums._positive(m.mean),
    "probabilities": lambda m: m.classes,
    "aleatoric": lambda m: m.expected / m.scale,
    "epistemic": lambda m: (m.predictive - m.expected).clamp_(min=0) / m.scale,
    "std": _std,
    "variation_ratio": _variation_ratio,
    "votes": _votes,
}


def tempered(logits: Tensor, question: Question) -> Tensor:
    """Return class probabilities (C, …) of logits (C, …), by softmax; or, of one logit, the positive class's (1, …)."""
    logits = logits / question.temperature
    if len(logits) > 1:
        return logits.softmax(0)
    one: Tensor = positive_logit(logits, question.positive)
    return one.sigmoid()


def _entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy in nats (h, w) of (1 or C, h, w) probabilities; 0·ln 0 = 0."""
    entropies: Tensor = torch.special.entr(probabilities)  # (C or 1, h, w)
    if len(probabilities) == 1:
        other: Tensor = torch.special.entr(1 - probabilities[0])
        return entropies[0] + other
    return entropies.sum(0)
