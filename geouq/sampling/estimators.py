"""Running sums over samples, and the layers they become: never a stack of samples.

Definitions (p_s class probabilities of sample s, p̄ their mean, C classes, H entropy in nats):
probability p̄ of the positive class; confidence max_c p̄_c; uncertainty H(p̄)/ln C; aleatoric mean_s H(p_s)/ln C;
epistemic = uncertainty − aleatoric (the mutual information of label and sample); std the population standard
deviation of the positive class over s; votes bit s set where p_s ≥ threshold. The split of entropies: Depeweg
et al. 2018 (arXiv 1710.07283).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geouq.errors import InputError

LAYERS = (
    "mask", "uncertainty", "confidence", "probability", "probabilities", "aleatoric", "epistemic", "std", "votes",
)  # fmt: skip
NOT_CLASSIFIED = 255
MAX_VOTES = 64
#: Rows that are summed at once on a CPU.
STRIP = 512


def check_layers(layers: tuple[str, ...], samples: float) -> None:
    """Raise InputError for a layer that does not exist or is asked for twice, or votes of more samples than bits."""
    if len(set(layers)) < len(layers):
        raise InputError(f"a layer is asked for twice among {', '.join(layers)}: name each once")
    for layer in layers:
        if layer not in LAYERS:
            raise InputError(f"no layer {layer!r}: choose among {', '.join(LAYERS)}")
    if "votes" in layers and samples > MAX_VOTES:
        raise InputError(f"votes hold one bit a sample, at most {MAX_VOTES}: {samples} samples are too many for it")


def check_tolerance(tolerance: float, layers: tuple[str, ...]) -> None:
    """Raise InputError for a tolerance that is no probability, or that says nothing about one of the layers."""
    if not 0 <= tolerance < 1:
        raise InputError(f"tolerance {tolerance} is not a difference of probabilities: give 0 (none) or more, below 1")
    unbounded = [layer for layer in layers if layer in ("votes", "std", "aleatoric", "epistemic")]
    if tolerance and unbounded:
        raise InputError(
            f"a tolerance bounds the probability, not {', '.join(unbounded)}: leave these layers out, or the tolerance"
        )


@dataclass(frozen=True)
class Question:
    """What is asked of the samples: ``layers``, the class that counts, where it counts, and how logits are cooled.

    tolerance : samples need not be drawn that could move no pixel's probability by more than this; 0: draw all.
    """

    layers: tuple[str, ...]
    classes: int
    positive: int
    threshold: float
    temperature: float
    tolerance: float = 0.0


class RunningSums:
    """Sums over samples for one window's core; ``add`` logits sample by sample, then ``layers``."""

    def __init__(self, question: Question, valid: Tensor, area: Tensor, samples: int) -> None:
        """Start with ``valid`` (h, w) bool, pixel ``area`` in m², broadcastable to (h, w), and the samples to come.

        Sums are kept on the device that ``valid`` is on; logits are expected there.
        """
        self.question, self.valid, self.area = question, valid, area.expand(valid.shape)
        self.samples = 0
        self.areas: dict[int, Tensor] = {}
        asked, shape, device = set(question.layers), valid.shape, valid.device
        self.mean = torch.zeros(0, device=device)
        self.entropy = torch.zeros(shape, device=device) if asked & {"aleatoric", "epistemic"} else None
        self.square = torch.zeros(2, *shape, device=device) if "std" in asked else None
        integers = torch.int64 if samples > 32 else torch.int32
        self.votes = torch.zeros(shape, dtype=integers, device=device) if "votes" in asked else None

    def add(self, logits: Tensor, number: int | None = None) -> None:
        """Add one sample's logits (classes or 1, h, w), float32; ``number`` is the sample's, in any order."""
        number = self.samples if number is None else number
        if self.samples == 0:
            self.mean = logits.new_zeros(logits.shape)
        areas = [self._add_rows(logits[:, rows], number, rows) for rows in self._strips()]
        self.areas[number] = torch.stack(areas).sum()
        self.samples += 1

    def _strips(self) -> list[slice]:
        """Return the rows that are summed at once: on a CPU few, whose intermediate results stay in its cache."""
        height = len(self.valid)
        step = STRIP if self.valid.device.type == "cpu" else max(height, 1)
        return [slice(y, y + step) for y in range(0, height, step)]

    def _add_rows(self, logits: Tensor, number: int, rows: slice) -> Tensor:
        """Add some rows of a sample's logits; return the positive class's area there, float64."""
        probabilities = _probabilities(logits / self.question.temperature)
        if self.entropy is not None:
            self.entropy[rows] += _entropy(probabilities)
        if self.square is not None:  # Welford 1962, doi 10.1080/00401706.1962.10490022
            centre, squares = self.square[:, rows]
            step = self._positive(probabilities) - centre
            centre += step / (self.samples + 1)
            squares += step * (self._positive(probabilities) - centre)
        votes = self._decide(probabilities).logical_and_(self.valid[rows])
        if self.votes is not None:
            self.votes[rows] |= votes.to(self.votes.dtype) << number
        self.mean[:, rows] += probabilities
        return (votes * self.area[rows]).sum(dtype=torch.float64)

    def settled(self, samples: int) -> bool:
        """True if what is left of ``samples`` cannot move any valid pixel's p̄ by more than the tolerance.

        After n of S samples p̄_S lies between n/S·p̄_n and n/S·p̄_n + (S − n)/S, whatever the others say, so that it
        is at most (S − n)/S·max(p̄_n, 1 − p̄_n) away.
        """
        left = (samples - self.samples) / samples
        if left / 2 > self.question.tolerance or self.question.tolerance == 0:
            return False
        mean = self.mean / self.samples
        far = torch.maximum(mean, 1 - mean).amax(0)[self.valid].max()
        return left * float(far) <= self.question.tolerance

    def expect(self, logits: Sequence[tuple[Tensor, float]]) -> None:
        """Take logits (1, h, w) with weights that sum to 1 as the whole distribution, in the place of samples."""
        self.samples = 1
        self.mean = torch.zeros(1, *self.valid.shape, device=self.valid.device)
        for one, weight in logits:
            probabilities = _probabilities(one / self.question.temperature)
            self.mean.add_(probabilities, alpha=weight)
            if self.entropy is not None:
                self.entropy.add_(_entropy(probabilities), alpha=weight)
        if self.square is not None:
            for one, weight in logits:
                step = _probabilities(one / self.question.temperature)[0] - self.mean[0]
                self.square[1].add_(step.square_(), alpha=weight)

    def empty_layers(self, samples: int) -> dict[str, np.ndarray]:
        """Return the layers of a core without a valid pixel, no sample having been drawn."""
        self.samples = samples
        self.mean = torch.zeros(self.question.classes, *self.valid.shape, device=self.valid.device)
        return self.layers()

    def _positive(self, probabilities: Tensor) -> Tensor:
        return probabilities[0 if len(probabilities) == 1 else self.question.positive]

    def _decide(self, probabilities: Tensor) -> Tensor:
        """Return where the positive class is chosen, (h, w) bool."""
        if self.question.classes == 2:
            return self._positive(probabilities) >= self.question.threshold
        return probabilities.argmax(0) == self.question.positive

    def layers(self) -> dict[str, np.ndarray]:
        """Return the layers asked for: float32 with NaN, or integers with 255 or 0, where not valid.

        ``probabilities`` is (C, h, w), all others are (h, w).
        """
        mean = self.mean / self.samples
        predictive = _entropy(mean) if {"uncertainty", "epistemic"} & set(self.question.layers) else None
        invalid = ~self.valid
        out = {}
        for name in self.question.layers:
            layer = self._layer(name, mean, predictive)
            if layer.dtype == torch.uint8:
                layer = layer.masked_fill(invalid, NOT_CLASSIFIED)
            elif layer.is_floating_point():
                layer = layer.masked_fill(invalid, math.nan)
            out[name] = layer.cpu().numpy()
        if "votes" in out:
            out["votes"] = out["votes"].view(np.uint64 if out["votes"].itemsize == 8 else np.uint32)
        return out

    def _layer(self, name: str, mean: Tensor, predictive: Tensor | None) -> Tensor:
        scale = math.log(max(self.question.classes, 2))
        full = torch.cat([1 - mean, mean]) if len(mean) == 1 else mean
        if name == "mask":
            if self.question.classes == 2:
                return self._decide(mean).to(torch.uint8)
            return full.argmax(0).to(torch.uint8)
        if name == "probability":
            return self._positive(mean)
        if name == "probabilities":
            return full
        if name == "confidence":
            return full.amax(0)
        if name == "votes" and self.votes is not None:
            return self.votes
        if name == "std" and self.square is not None:
            return (self.square[1] / self.samples).sqrt_()
        if name == "uncertainty" and predictive is not None:
            return predictive / scale
        assert self.entropy is not None
        expected = self.entropy / self.samples
        if name == "aleatoric":
            return expected / scale
        assert predictive is not None and name == "epistemic"
        return (predictive - expected).clamp_(min=0) / scale


def _probabilities(logits: Tensor) -> Tensor:
    """Return class probabilities: sigmoid of one logit, softmax over several."""
    return logits.sigmoid() if len(logits) == 1 else logits.softmax(0)


def _entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy in nats (h, w) of (1 or C, h, w) probabilities; 0·ln 0 = 0."""
    if len(probabilities) == 1:
        p = probabilities[0]
        return torch.special.entr(p) + torch.special.entr(1 - p)
    return torch.special.entr(probabilities).sum(0)


def area_interval(areas: np.ndarray) -> tuple[float, float]:
    """Return the 5 % and 95 % quantiles over samples of the positive area (S,), in the areas' own unit."""
    low, high = np.quantile(np.asarray(areas, np.float64), [0.05, 0.95])
    return float(low), float(high)
