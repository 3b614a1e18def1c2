"""One temperature for the mean of the samples, fitted on places the model was not trained on.

Dividing logits by a temperature T before the softmax makes a model less sure (T > 1) or surer (T < 1) without a say in
which class is the likeliest (Guo et al. 2017, arXiv 1706.04599). Here what is calibrated is what geouq reports: p̄, the
mean over samples of the tempered probabilities. That mean is no function of any sum over pixels, so the
logits of all samples are kept for a random, bounded part of the pixels.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from geouq import noise
from geouq.errors import InputError
from geouq.grid import Roi, Tile, pixel_areas
from geouq.layers import area_interval, by_class, says_positive
from geouq.learning.data.chip import LabelledChip
from geouq.learning.data.loading import UNLABELLED, load_label, open_chip
from geouq.learning.data.splits import of_split
from geouq.learning.judging.metrics import Calibration, ProperScores
from geouq.networks.model import Model
from geouq.sampling.devices import must_fit
from geouq.sampling.estimators import Question, tempered
from geouq.sampling.laplace import Curvature
from geouq.sampling.window import Window
from geouq.segmentation.job import Job, Settings, prepare
from geouq.segmentation.tile import tile_values, tile_window

#: temperatures that are considered; a best one at either end is a sign that model and labels do not fit
BOUNDS = (0.2, 5.0)
#: about how many pixels' logits are kept
MOST_PIXELS = 200_000
#: parts that the places are split in: each is judged with a temperature fitted on the others
FOLDS = 5
#: about how many pixels a posterior is fitted on: some dozens of chips hold no more that are independent
LAPLACE_PIXELS = 1_000
_PURPOSE = 0x63616C69  # keeps the choice of pixels apart from other random numbers


@dataclass(frozen=True)
class Fit:
    """What a calibration found.

    temperature : to be used from now on; before : the one the model had.
    scores_before, scores_after : of pixels of held-out places: ece, ece_equal_width, brier, nll.
    fold_temperatures : those behind ``scores_after``, each fitted without the places it was judged on.
    held_out : False where there is only one place, and fit and judgement share it.
    kept : True where no temperature did better on held-out places, so that the old one stays.
    pixels, chips, places : what it was fitted on.
    areas_covered : on how many chips the 90 % interval of the samples' areas covers the label's.
    """

    temperature: float
    before: float
    scores_before: dict[str, float]
    scores_after: dict[str, float]
    fold_temperatures: tuple[float, ...]
    held_out: bool
    kept: bool
    pixels: int
    chips: int
    places: int
    areas_covered: int


@dataclass(frozen=True)
class Part:
    """One chip: logits (S, C or 1, n) and class indices (n,) of the pixels kept, and whether its area is covered."""

    place: str
    logits: np.ndarray
    label: np.ndarray
    covered: bool = False


def calibrate(
    model: Model,
    chips: Sequence[LabelledChip],
    *,
    samples: int = 20,
    seed: int = 0,
    device: str = "auto",
    most_pixels: int = MOST_PIXELS,
    on_chip: Callable[[str, int, int], None] | None = None,
) -> tuple[Model, Fit]:
    """Fit the temperature of a model, and return the model that has it, and what was found.

    Chips of the split "validation" are taken if there are any, else all that are not of the split "train".

    Parameters
    ----------
    model, samples, seed, device : as for ``segment``.
    most_pixels : about how many pixels are kept, chosen at random by ``seed`` and their position in the chip.
    on_chip : called before each chip with its name, its number from 0, and how many there are.

    Raises
    ------
    InputError : no pixel can be used, or the best temperature lies at a bound.
    """
    chips = of_split(chips, "validation")
    share = pixels_share(chips, most_pixels)
    parts = []
    for number, chip in enumerate(chips):
        if on_chip:
            on_chip(chip.name, number, len(chips))
        parts.append(_collect(model, chip, Settings(samples, seed, ("mask",), device=device), share))
    parts = [part for part in parts if part.label.size]
    if not parts:
        raise InputError(f"none of the {len(chips)} chips has a pixel that is both valid and labelled")
    fit = fit_places(parts, model, seed)
    scores = {**model.spec.scores, "calibration": {"before": fit.scores_before, "after": fit.scores_after}}
    return model.with_spec(temperature=fit.temperature, scores=scores), fit


def fit_laplace(
    model: Model,
    chips: Sequence[LabelledChip],
    *,
    seed: int = 0,
    device: str = "auto",
    most_pixels: int = LAPLACE_PIXELS,
    on_chip: Callable[[str, int, int], None] | None = None,
) -> Model:
    """Return the model with a posterior of its last layer (geouq.sampling.laplace), drawn from by default.

    The temperature stays, and is that of the likelihood; fit it afterwards, for the samples that are drawn now. Chips
    are chosen as by :func:`calibrate`.

    Parameters
    ----------
    most_pixels : about how many pixels are taken. Each counts as one independent observation: twice as many make the
        posterior narrower by about √2.

    Raises
    ------
    InputError : no pixel can be used. ModelError : the last layer is none that this can be done with.
    """
    chips = of_split(chips, "validation")
    share = pixels_share(chips, most_pixels)
    curvature: Curvature | None = None
    for number, chip in enumerate(chips):
        if on_chip:
            on_chip(chip.name, number, len(chips))
        job = prepare(open_chip(chip), model, Settings(0, seed, ("mask",), device=device, sampler="dropout"))
        curvature = curvature or Curvature(model, job.sampler.device)
        for tile, window, _, keep in labelled(job, chip):
            curvature.add(window, keep & (lottery(chip.name, tile.core, seed) < share))
    if curvature is None:
        raise InputError("no chip is given to fit a posterior on")
    return curvature.posterior()


def pixels_share(chips: Sequence[LabelledChip], most: int = MOST_PIXELS) -> float:
    """Return which share of all pixels of some chips is about ``most``."""
    return most / max(1, sum(int(np.prod(open_chip(chip).shape[1:])) for chip in chips))


def fit_places(parts: Sequence[Part], model: Model, seed: int = 0) -> Fit:
    """Fit one temperature on all parts, and judge it place by place with those fitted on the other places."""
    positive, before = model.spec.legend.positive, model.spec.temperature
    places = sorted({part.place for part in parts})
    folds = [set(places[i] for i in fold) for fold in _folds(len(places), seed)]
    pairs = [([p for p in parts if p.place not in held], [p for p in parts if p.place in held]) for held in folds]
    pairs = pairs if len(places) > 1 else [(list(parts), list(parts))]
    temperatures = tuple(fit_temperature(known, positive, checked=False) for known, _ in pairs)
    judged = [(p, t) for (_, held), t in zip(pairs, temperatures, strict=True) for p in held]
    scores_before = _scores([(p, before) for p, _ in judged], positive)
    scores_after = _scores(judged, positive)
    kept = scores_after["nll"] >= scores_before["nll"]
    return Fit(
        before if kept else round(fit_temperature(parts, positive), 4),
        before,
        scores_before,
        scores_after,
        temperatures,
        held_out=len(places) > 1,
        kept=kept,
        pixels=sum(p.label.size for p in parts),
        chips=len(parts),
        places=len(places),
        areas_covered=sum(part.covered for part in parts),
    )


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


def _collect(model: Model, chip: LabelledChip, settings: Settings, share: float) -> Part:
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


def labelled(
    job: Job, chip: LabelledChip, everything: bool = False
) -> Iterator[tuple[Tile, Window, np.ndarray, np.ndarray]]:
    """Yield each tile with its window, the label of its core, and where that is both valid and labelled.

    ``everything`` : tiles without such a pixel, too.
    """
    for tile in job.tiling:
        label = load_label(chip, tile.core)
        classes = len(job.sampler.model.spec.classes)
        if label.max(initial=0) >= classes:
            raise InputError(f"{chip.label}: holds class {label.max()}, and the model has {classes}")
        window = tile_window(job, np.asarray(tile_values(open_chip(chip), tile)), tile)
        keep = (label != UNLABELLED) & window.valid[tile.core.within(tile.window).slices]
        if everything or keep.any():
            yield tile, window, label, keep


def lottery(name: str, core: Roi, seed: int) -> np.ndarray:
    """Return a number from 0 to 1 for each pixel, by the chip's name and the pixel's position alone."""
    rows, columns = core.slices
    y, x = np.arange(rows.start, rows.stop)[:, None], np.arange(columns.start, columns.stop)
    return noise.uniform(seed, _PURPOSE, zlib.crc32(name.encode()), y, x)


def _says_positive(logits: np.ndarray, question: Question) -> np.ndarray:
    """Return where one sample's map has the positive class, (n,) bool, from its logits (C or 1, n)."""
    chosen = says_positive(tempered(torch.from_numpy(logits), question), question.positive, question.threshold)
    return np.asarray(chosen)


def _folds(count: int, seed: int) -> list[np.ndarray]:
    order = np.random.default_rng(seed).permutation(count)
    return [order[i::FOLDS] for i in range(min(FOLDS, count))]


def _scores(judged: Sequence[tuple[Part, float]], positive: int) -> dict[str, float]:
    calibration, proper = Calibration(), ProperScores()
    for part, temperature in judged:
        p = mean_probabilities(part.logits, temperature, positive)
        proper.add(p, part.label)
        if len(p) == 2:
            calibration.add(p[positive], part.label == positive)
        else:
            calibration.add(p.max(0), p.argmax(0) == part.label)
    brier = calibration.brier if len(p) == 2 else proper.brier
    both = {"ece": calibration.ece(), "ece_equal_width": calibration.ece(equal_mass=False)}
    return {name: round(value, 6) for name, value in (both | {"brier": brier, "nll": proper.nll}).items()}
