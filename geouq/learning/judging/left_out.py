"""Chips of places that a model has not seen, mapped as ``segment`` maps them: histograms that hold all that is asked.

What a cut does to a chip (geouq.decisions), how much doubt it has (geouq.alarm) and whether its area is held: each
comes from a :class:`Mapped`, and no pixel is needed again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from geouq.alarm import OPEN
from geouq.decisions import STEPS, Cut, Decision, RankSums, wrong_shares
from geouq.grid import Tile, pixel_areas
from geouq.layers import NOT_CLASSIFIED, area_interval, mask_of_two
from geouq.learning.data.augment import WET
from geouq.learning.data.chip import LabelledChip
from geouq.learning.data.loading import load_label, open_chip
from geouq.learning.judging.labelled import labelled
from geouq.learning.judging.metrics import Calibration
from geouq.learning.judging.tally import Canvas, Picture
from geouq.networks.model import Model
from geouq.sampling.engine import predict_tile
from geouq.sampling.window import Window
from geouq.scores.confusion import Confusion
from geouq.segmentation.job import Job, Settings, prepare
from geouq.segmentation.tile import segment_tile, tile_values

#: layers that maps of chips left out are made of
LAYERS = ("probability", "uncertainty")
#: said before each chip: its name, its number from 0, and how many there are
OnChip = Callable[[str, int, int], None]


class AnyMapped(Protocol):
    """A chip as it is judged, of two classes or of more."""

    @property
    def place(self) -> str:
        """The place that it is of."""

    @property
    def pixels(self) -> int:
        """How many are labelled and classified."""

    def calibration(self, pixels: float) -> Calibration:
        """Return counts by probability for calibration errors, as of so many pixels."""


@dataclass(frozen=True)
class Mapped:
    """A labelled chip as a model maps it that has not seen its place. Areas in m², pixels without a CRS.

    fold : number of the group of chips that it is of, from 1. scene : of all its classified pixels, by p̄.
    dry, wet : of those labelled otherwise, and labelled positive. pixels : how many are labelled and classified.
    areas : (S,) the positive area of these, by each sample. open_area : of the classified ones, geouq.alarm.OPEN.
    """

    name: str
    dataset: str
    place: str
    fold: int
    scene: RankSums
    dry: RankSums
    wet: RankSums
    areas: np.ndarray
    pixels: int
    open_area: float

    @cached_property
    def truth(self) -> float:
        """The positive area of the label."""
        return float(self.wet.area.sum())

    @cached_property
    def total(self) -> float:
        """The labelled area."""
        return float(self.truth + self.dry.area.sum())

    @property
    def is_wet(self) -> bool:
        """True if the label is positive on a share of at least ``WET``."""
        return self.truth >= WET * self.total

    @property
    def doubt(self) -> float:
        """Open share of the classified area, 0..1: what an alarm goes by."""
        return float(self.open_area / self.scene.area.sum())

    @property
    def interval(self) -> tuple[float, float]:
        """The 90 % interval of the positive area."""
        return area_interval(self.areas)

    def cut(self, rule: str) -> float:
        """Return where the rule cuts this scene."""
        return Decision(rule).cut(self.scene).at

    def confusion(self, rule: str) -> Confusion:
        """Return how many labelled pixels are labelled and mapped how, by their areas, rounded."""
        first, each = math.ceil(self.cut(rule) * STEPS), self.pixels / self.total
        parts = (self.wet.area[first:], self.dry.area[first:], self.wet.area[:first], self.dry.area[:first])
        return Confusion(*(round(float(part.sum()) * each) for part in parts))

    def losses(self, rule: str) -> np.ndarray:
        """Return the share of the labelled area that is decided and wrong at each of ``LEVELS``."""
        return wrong_shares(self.dry.area, self.wet.area, self.cut(rule))

    def undecided(self, rule: str, level: float) -> float:
        """Return the share of the labelled area that is undecided at a confidence level."""
        cut = Cut.at_level(self.cut(rule), level)
        return float((self.dry.of_mask(cut)[2] + self.wet.of_mask(cut)[2]) / self.total)

    def calibration(self, pixels: float) -> Calibration:
        """Return counts by probability for calibration errors, as of so many pixels."""
        area, each = self.dry.area + self.wet.area, pixels / self.total
        return Calibration(area * each, (self.dry.expected + self.wet.expected) * each, self.wet.area * each)


def map_chips(
    groups: Sequence[tuple[Model, Sequence[LabelledChip]]], settings: Settings, on_chip: OnChip | None = None
) -> list[Mapped]:
    """Map the chips of each group with its model; those without a pixel that is valid and labelled are left out.

    Raises
    ------
    InputError : a label holds a class that the model has not.
    """
    found = [map_chip(model, chip, settings, fold) for fold, model, chip in each_chip_of(groups, on_chip)]
    return [one for one in found if one.pixels]


def each_chip_of(
    groups: Sequence[tuple[Model, Sequence[LabelledChip]]], on_chip: OnChip | None = None
) -> Iterator[tuple[int, Model, LabelledChip]]:
    """Yield each chip with the number of its group, from 1, and its model; say before each that it comes."""
    count, number = sum(len(chips) for _, chips in groups), 0
    for fold, (model, chips) in enumerate(groups, 1):
        for chip in chips:
            if on_chip:
                on_chip(chip.name, number, count)
            number += 1
            yield fold, model, chip


def map_chip(model: Model, chip: LabelledChip, settings: Settings, fold: int = 1) -> Mapped:
    """Map one chip of two classes, tile by tile, by the path that ``segment`` takes."""
    job = prepare(open_chip(chip), model, settings)
    found = [_map_tile(job, *it) for it in labelled(job, chip, everything=True)]
    scene, dry, wet = (RankSums.total([tile[part] for tile in found]) for part in range(3))
    areas, pixels, open_area = (np.sum([tile[part] for tile in found], axis=0) for part in (3, 4, 5))
    return Mapped(chip.name, chip.dataset, chip.place, fold, scene, dry, wet, areas, int(pixels), float(open_area))


def _map_tile(job: Job, tile: Tile, window: Window, label: np.ndarray, keep: np.ndarray) -> Any:
    """Return sums of all pixels, of those labelled otherwise and positive, samples' areas, a count, the open area."""
    area = np.broadcast_to(pixel_areas(job.geobox, tile.core), label.shape).astype(np.float32)
    counted = np.zeros(tile.whole.shape, np.float32)
    part = tile.core.within(tile.whole).slices
    counted[part] = area * keep
    result = predict_tile(job.sampler_of(tile), job.question, window, counted)
    p, doubt = (result.layers[name][part] for name in ("probability", "uncertainty"))
    positive = keep & (label == job.question.positive)
    chosen = (slice(None), keep & ~positive, positive)
    sums = [RankSums.of(p[where], area[where].astype(np.float64), doubt[where]) for where in chosen]
    return *sums, result.areas, int(keep.sum()), float(area[doubt > OPEN].sum(dtype=np.float64))


def draw_picture(model: Model, chip: LabelledChip, settings: Settings, at: float | None = None) -> Picture:
    """Return a picture of a chip, its label and its map, of two classes cut at a probability."""
    scene, positive = open_chip(chip), model.spec.legend.positive
    layers = LAYERS if at is not None else ("mask", "uncertainty")
    job, canvas = prepare(scene, model, replace(settings, layers=layers)), Canvas(scene)
    for tile in job.tiling:
        values = np.asarray(tile_values(scene, tile))
        found = segment_tile(job, values, tile).layers
        if at is not None:
            mask = mask_of_two(found["probability"] >= at, positive)
            mask = np.where(np.isfinite(found["probability"]), mask, NOT_CLASSIFIED).astype(np.uint8)
            found = {**found, "mask": mask}
        inside = tile.core.within(tile.window).slices
        canvas.add(tile.core, values[:, *inside], load_label(chip, tile.core), found)
    return canvas.finish(chip.name, job.units)


def pooled_calibration(chips: Iterable[AnyMapped], by_place: bool = False) -> Calibration:
    """Return the counts of all pixels together, or such in which every place weighs the same."""
    chips = list(chips)
    places = [chip.place for chip in chips]
    parts = [chip.calibration(1 / places.count(chip.place) if by_place else chip.pixels) for chip in chips]
    return Calibration(*(sum(getattr(part, name) for part in parts) for name in ("count", "probability", "positives")))
