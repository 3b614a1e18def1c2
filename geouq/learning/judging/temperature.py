"""One temperature for the mean of the samples, from the logits of all samples at some pixels.

Dividing logits by a temperature T before the softmax makes a model less sure (T > 1) or surer (T < 1) without a say in
which class is the likeliest (Guo et al. 2017, arXiv 1706.04599). Here what is calibrated is what geouq reports: p̄, the
mean over samples of the tempered probabilities. That mean is no function of any sum over pixels, so the
logits of all samples are kept for a random, bounded part of the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from geouq.errors import InputError
from geouq.grid import pixel_areas
from geouq.layers import area_interval, by_class, says_positive
from geouq.learning.data.chip import LabelledChip
from geouq.learning.data.loading import open_chip
from geouq.learning.judging.labelled import labelled, lottery
from geouq.learning.judging.metrics import ProperScores
from geouq.networks.model import Model
from geouq.sampling.devices import must_fit
from geouq.sampling.estimators import Question, tempered
from geouq.segmentation.job import Settings, prepare

#: temperatures that are considered; a best one at either end is a sign that model and labels do not fit
BOUNDS = (0.2, 5.0)


@dataclass(frozen=True)
class Part:
    """One chip: logits (S, C or 1, n) and class indices (n,) of the pixels kept, and whether its area is covered."""

    place: str
    logits: np.ndarray
    label: np.ndarray
    covered: bool = False


def collect(model: Model, chip: LabelledChip, settings: Settings, share: float) -> Part:
    """Run a chip as ``segment`` would, and keep the logits of a random share of its valid, labelled pixels."""
    job = prepare(open_chip(chip), model, settings)
    logits: list[list[np.ndarray]] = [[] for _ in job.sampler.numbers]
    labels, truth, areas = [], 0.0, np.zeros(len(logits))
    positive = model.spec.legend.positive
    for tile, window, label, keep in labelled(job, chip):
        chosen = keep & (lottery(chip.name, tile.core, settings.seed) < share)
        labels.append(label[chosen])
        area = np.broadcast_to(pixel_areas(job.geobox, tile.core), keep.shape)[keep]
        truth += float(area[label[keep] == positive].sum())
        with torch.inference_mode(), must_fit(window.shape, job.sampler.device):
            for s, drawn in job.sampler.draw(window):
                sample = drawn.cpu().numpy()
                logits[s].append(sample[:, chosen])
                areas[s] += area[_says_positive(sample[:, keep], job.question)].sum()
    if not labels:
        return Part(chip.place, np.zeros((1, 1, 0), np.float32), np.zeros(0, np.int16))
    low, high = area_interval(areas)
    stacked = np.stack([np.concatenate(sample, axis=1) for sample in logits])
    return Part(chip.place, stacked, np.concatenate(labels), bool(low <= truth <= high))


def fit_temperature(parts: Sequence[Part], positive: int = 1, checked: bool = True) -> float:
    """Return the temperature in ``BOUNDS`` with the least negative log-likelihood of the samples' mean.

    ``positive`` : the index of the positive class.

    Raises
    ------
    InputError : ``checked``, and it lies at a bound.
    """

    def loss(log_temperature: float) -> float:
        proper = ProperScores()
        for part in parts:
            proper.add(mean_probabilities(part.logits, float(np.exp(log_temperature)), positive), part.label)
        return proper.nll

    grid = np.linspace(np.log(BOUNDS[0]), np.log(BOUNDS[1]), 17)
    best = int(np.argmin([loss(x) for x in grid]))
    if checked and best in (0, len(grid) - 1):
        raise InputError(
            f"no temperature between {BOUNDS[0]:g} and {BOUNDS[1]:g} fits, the best lies at the end: the labels hold "
            "one class only, or do not go with the model (geouq evaluate shows them)"
        )
    around = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    return float(np.exp(minimize_scalar(loss, bounds=around, method="bounded", options={"xatol": 1e-3}).x))


def mean_probabilities(logits: np.ndarray, temperature: float, positive: int = 1) -> np.ndarray:
    """Return p̄, (C, n): the mean over samples of the probabilities of tempered logits (S, C or 1, n)."""
    question = Question((), max(logits.shape[1], 2), positive, 0.5, temperature)
    total: Any = 0.0
    for sample in torch.from_numpy(logits):
        total = total + tempered(sample, question)
    mean = (total / len(logits)).numpy()
    return np.stack(by_class(mean[0], positive)) if len(mean) == 1 else mean


def _says_positive(logits: np.ndarray, question: Question) -> np.ndarray:
    """Return where one sample's map has the positive class, (n,) bool, from its logits (C or 1, n)."""
    chosen = says_positive(tempered(torch.from_numpy(logits), question), question.positive, question.threshold)
    return np.asarray(chosen)
