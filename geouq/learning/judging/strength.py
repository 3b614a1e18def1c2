"""How far a model's samples lie apart, fitted so that their 90 % intervals of area hold on places left out.

Of an SSN the strength is ``spread``, a factor for its deviations; of any other model ``place_effect``, the standard
deviation of an offset of all logits. Both move sample s along a line: its logits at strength g are those at strength 1
plus (g − 1) times what one unit adds. So one drawing of a chip, at strength 1, says what every other would be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from geouq.grid import Tile, pixel_areas
from geouq.layers import area_interval, positive_logit
from geouq.learning.data.augment import WET
from geouq.learning.data.chip import LabelledChip
from geouq.learning.data.loading import open_chip
from geouq.learning.judging.labelled import labelled, lottery
from geouq.learning.judging.metrics import place_means
from geouq.learning.judging.temperature import Part
from geouq.networks.model import Model, ModelSpec
from geouq.sampling.devices import must_fit
from geouq.sampling.draws import place_effects
from geouq.sampling.window import Window
from geouq.segmentation.job import Job, Settings, prepare

#: strengths that are considered, by the field of the spec that holds them
STRENGTHS = {
    "spread": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0),
    "place_effect": tuple(k / 8 for k in range(25)),
}
#: share of the labelled area that an interval which nearly holds the label's may miss
NEARLY = 0.01
#: share of wet chips, and of dry ones, whose area the interval is to hold
COVERAGE = 0.9


@dataclass(frozen=True)
class Shaken:
    """What a chip left out says of the strength: samples are cut at 0.5.

    part : logits (S, C or 1, n) of some pixels at strength 1. towards : what one unit of strength adds to the positive
        class's, (S, 1 or n). areas : (strengths, S) the positive area of its labelled pixels. truth, total : of the
        label, and of all of them.
    """

    part: Part
    towards: np.ndarray
    areas: np.ndarray
    truth: float
    total: float

    def at(self, strength: float, positive: int) -> Part:
        """Return the part at a strength."""
        logits, more = self.part.logits.copy(), (strength - 1) * self.towards
        if logits.shape[1] == 1:
            more = positive_logit(more, positive)
        logits[:, positive if logits.shape[1] > 1 else 0] += more
        return replace(self.part, logits=logits)

    def held(self, missed: float = 0.0) -> np.ndarray:
        """Return at which strengths the interval holds the label's area, or misses at most a share of all, bool."""
        low, high = area_interval(self.areas)
        room = missed * self.total
        return np.asarray((low - room <= self.truth) & (self.truth <= high + room))

    def width(self) -> np.ndarray:
        """Return the interval's width at each strength, as a share of the labelled area."""
        low, high = area_interval(self.areas)
        return np.asarray((high - low) / self.total)


def strength_field(spec: ModelSpec) -> str:
    """Return the field of a model's spec that its strength is."""
    return "spread" if spec.sampler == "ssn" else "place_effect"


def shake(model: Model, chip: LabelledChip, settings: Settings, share: float) -> Shaken | None:
    """Draw a chip's samples at strength 1; keep a random ``share`` of their logits. None: no pixel can be used."""
    field = strength_field(model.spec)
    job = prepare(open_chip(chip), model.with_spec(**{field: 1.0}), settings)
    centre = job.sampler.changed(samples=0) if field == "spread" else None
    found = [_shake(job, centre, chip, share, it) for it in labelled(job, chip)]
    if not found:
        return None
    part = Part(
        chip.place,
        np.concatenate([one.part.logits for one in found], axis=2),
        np.concatenate([one.part.label for one in found]),
    )
    towards = found[0].towards if field == "place_effect" else np.concatenate([one.towards for one in found], axis=1)
    areas = np.sum([one.areas for one in found], axis=0)
    return Shaken(part, towards, areas, sum(one.truth for one in found), sum(one.total for one in found))


def _shake(
    job: Job, centre: Any, chip: LabelledChip, share: float, it: tuple[Tile, Window, np.ndarray, np.ndarray]
) -> Shaken:
    """Draw one tile."""
    tile, window, label, keep = it
    seed, positive = job.sampler.seed, job.question.positive
    chosen = (lottery(chip.name, tile.core, seed) < share)[keep]
    area = np.broadcast_to(pixel_areas(job.geobox, tile.core), keep.shape)[keep].astype(np.float32)
    effects = place_effects(1.0, seed, job.sampler.numbers)
    strengths = STRENGTHS[strength_field(job.sampler.model.spec)]
    logits, towards, areas = [], [], []
    with torch.inference_mode(), must_fit(window.shape, job.sampler.device):
        middle = None if centre is None else _positive(next(iter(centre.draw(window)))[1], keep, positive)
        for number, drawn in sorted(job.sampler.draw(window), key=lambda one: one[0]):
            one = _positive(drawn, keep, positive)
            more = one - middle if middle is not None else effects[number : number + 1]
            areas.append([area[one + (g - 1) * more >= 0].sum(dtype=np.float64) for g in strengths])
            logits.append(drawn.cpu().numpy()[:, keep][:, chosen])
            towards.append(more[chosen] if middle is not None else more)
    truth = area[label[keep] == positive].sum(dtype=np.float64)
    part = Part(chip.place, np.stack(logits), label[keep][chosen])
    return Shaken(part, np.stack(towards), np.array(areas).T, float(truth), float(area.sum(dtype=np.float64)))


def _positive(logits: torch.Tensor, keep: np.ndarray, positive: int) -> np.ndarray:
    """Return the log odds of the positive class of a sample's logits (C or 1, h, w) where ``keep``, (n,)."""
    values = logits.cpu().numpy()[:, keep]
    return np.asarray(
        positive_logit(values[0], positive) if len(values) == 1 else values[positive] - values[1 - positive]
    )


def fit_strength(chips: Sequence[Shaken], field: str) -> float:
    """Return the least strength at which the interval holds on ``COVERAGE`` of the wet chips, and of the dry ones.

    Each for itself: among chips that nobody could get wrong of one kind, those of the other are not to be lost. If none
    does, the one at which it holds on most of the kind that it holds less of.
    """
    held, wet = np.stack([one.held() for one in chips]), _wet(chips)
    coverage = np.min([held[kind].mean(axis=0) for kind in (wet, ~wet) if kind.any()], axis=0)
    enough = np.flatnonzero(coverage >= COVERAGE - 1e-9)
    return STRENGTHS[field][int(enough[0]) if len(enough) else int(coverage.argmax())]


def strength_rows(chips: Sequence[Shaken], field: str) -> Iterator[dict[str, Any]]:
    """Yield what each strength gives: on which share of chips the interval holds, wet and dry apart, and its width.

    ``places`` : the share in which every place weighs the same. ``nearly`` : held, or missed by at most ``NEARLY``.
    """
    held, nearly, width = (
        np.stack(v) for v in zip(*((c.held(), c.held(NEARLY), c.width()) for c in chips), strict=True)
    )
    wet = _wet(chips)
    coverage = place_means([one.part.place for one in chips], held)
    for k, strength in enumerate(STRENGTHS[field]):
        told = {"chips": held[:, k], "wet": held[wet, k], "dry": held[~wet, k], "nearly": nearly[:, k]}
        shares = {name: float(v.mean()) if v.size else None for name, v in told.items()}
        yield {field: strength, "places": float(coverage[k]), **shares, "median_width": float(np.median(width[:, k]))}


def _wet(chips: Sequence[Shaken]) -> np.ndarray:
    """Return which chips are wet, bool."""
    return np.array([one.truth >= WET * one.total for one in chips])
