"""A finished model fitted to places that it was not trained on: temperature, cut, alarm and risk.

Each place is judged with a temperature fitted on the others (geouq.learning.judging.temperature), and what is decided
comes from the maps made so (geouq.learning.judging.decide).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from geouq.errors import InputError
from geouq.learning.data.chip import LabelledChip
from geouq.learning.data.loading import open_chip
from geouq.learning.data.splits import of_split
from geouq.learning.judging.decide import FEWEST, found_on, stored
from geouq.learning.judging.labelled import MOST_PIXELS, labelled, lottery, pixels_share
from geouq.learning.judging.left_out import LAYERS, OnChip, map_chips
from geouq.learning.judging.left_out_classes import class_alarm
from geouq.learning.judging.metrics import Calibration, ProperScores
from geouq.learning.judging.temperature import Part, collect, fit_temperature, mean_probabilities
from geouq.networks.model import Model
from geouq.sampling.laplace import Curvature
from geouq.segmentation.job import Settings, prepare

#: parts that the places are split in: each is judged with a temperature fitted on the others
FOLDS = 5
#: about how many pixels a posterior is fitted on: some dozens of chips hold no more that are independent
LAPLACE_PIXELS = 1_000


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
    left_out : of a model of two classes, what its maps decide on these places (geouq.learning.judging.decide.found_on);
        of more, ``alarm``: how much doubt they have, and how much of them is wrong.
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
    left_out: dict[str, Any] = field(default_factory=dict)


def calibrate(
    model: Model,
    chips: Sequence[LabelledChip],
    *,
    samples: int = 20,
    seed: int = 0,
    device: str = "auto",
    most_pixels: int = MOST_PIXELS,
    on_chip: OnChip | None = None,
) -> tuple[Model, Fit]:
    """Fit the temperature of a model, and return the model that has it, and what was found.

    On ``decide.FEWEST`` places or more it also gets the alarm of these maps, and of two classes their cut and risk.

    Chips of the split "validation" are taken if there are any, else all that are not of the split "train".

    Parameters
    ----------
    model, samples, seed, device : as for ``segment``.
    most_pixels : about how many pixels are kept, chosen at random by ``seed`` and their position in the chip.
    on_chip : called before each chip with its name, its number from 0, and how many there are, in both passes.

    Raises
    ------
    InputError : no pixel can be used, or the best temperature lies at a bound.
    """
    chips = of_split(chips, "validation")
    share, settings = pixels_share(chips, most_pixels), Settings(samples, seed, LAYERS, device=device)
    parts = []
    for number, chip in enumerate(chips):
        if on_chip:
            on_chip(chip.name, number, len(chips))
        parts.append(collect(model, chip, replace(settings, layers=("mask",)), share))
    parts = [part for part in parts if part.label.size]
    if not parts:
        raise InputError(f"none of the {len(chips)} chips has a pixel that is both valid and labelled")
    fit = fit_places(parts, model, seed)
    folds = [[c for c in chips if c.place in f] for f in _folds({part.place for part in parts}, seed)]
    if model.binary:
        fit = replace(fit, left_out=found_on(map_chips(_groups(model, folds, fit), settings, on_chip)))
        decided = stored(fit.left_out)
    else:
        fit = replace(fit, left_out={"alarm": class_alarm(_groups(model, folds, fit), settings, on_chip)})
        decided = fit.left_out if fit.places >= FEWEST else {"alarm": None}
    scores = {**model.spec.scores, "calibration": {"before": fit.scores_before, "after": fit.scores_after}}
    return model.with_spec(temperature=fit.temperature, scores=scores, **decided), fit


def _groups(
    model: Model, folds: Sequence[Sequence[LabelledChip]], fit: Fit
) -> list[tuple[Model, Sequence[LabelledChip]]]:
    """Return the chips of each fold with the model at the temperature fitted on the other folds."""
    temperatures = (fit.before,) * len(folds) if fit.kept else fit.fold_temperatures
    return [(model.with_spec(temperature=t), chips) for t, chips in zip(temperatures, folds, strict=True)]


def fit_laplace(
    model: Model,
    chips: Sequence[LabelledChip],
    *,
    seed: int = 0,
    device: str = "auto",
    most_pixels: int = LAPLACE_PIXELS,
    on_chip: OnChip | None = None,
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


def fit_places(parts: Sequence[Part], model: Model, seed: int = 0) -> Fit:
    """Fit one temperature on all parts, and judge it place by place with those fitted on the other places."""
    positive, before = model.spec.legend.positive, model.spec.temperature
    places = {part.place for part in parts}
    folds = _folds(places, seed)
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


def _folds(places: set[str], seed: int) -> list[set[str]]:
    shuffled = [sorted(places)[i] for i in np.random.default_rng(seed).permutation(len(places))]
    return [set(shuffled[i::FOLDS]) for i in range(min(FOLDS, len(places)))]


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
