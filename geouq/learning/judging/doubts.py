"""The alarm of a model of more than two classes: of maps of places left out, how much doubt, and how much was wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from geouq.alarm import OPEN, measured_alarm
from geouq.grid import pixel_areas
from geouq.learning.data.chip import LabelledChip
from geouq.learning.data.loading import open_chip
from geouq.learning.judging.labelled import labelled
from geouq.learning.judging.left_out import OnChip
from geouq.networks.model import Model
from geouq.sampling.engine import predict_tile
from geouq.segmentation.job import Settings, prepare


def class_alarm(
    groups: Sequence[tuple[Model, Sequence[LabelledChip]]], settings: Settings, on_chip: OnChip | None = None
) -> dict[str, Any]:
    """Return the alarm that a model file stores, a point a chip with a labelled pixel (geouq.alarm.measured_alarm).

    groups : models, each with chips of places that it has not seen. on_chip : called before each chip with its name,
        its number from 0, and how many there are.
    """
    chips = [(model, chip) for model, several in groups for chip in several]
    places, doubts, shares = [], [], []
    for number, (model, chip) in enumerate(chips):
        if on_chip:
            on_chip(chip.name, number, len(chips))
        found = doubt_and_wrong(model, chip, settings)
        if found is not None:
            places.append(chip.place)
            doubts.append(found[0])
            shares.append(found[1])
    return measured_alarm(places, doubts, {"accuracy": shares})


def doubt_and_wrong(model: Model, chip: LabelledChip, settings: Settings) -> tuple[float, float] | None:
    """Return the open share of a chip's classified area, and the share of its labelled area that is wrong.

    None : no pixel is both valid and labelled.
    """
    job = prepare(open_chip(chip), model, settings)
    open_area = known = wrong = total = 0.0
    for tile, window, label, keep in labelled(job, chip, everything=True):
        layers = predict_tile(job.sampler_of(tile), job.question, window, np.zeros(tile.whole.shape, np.float32)).layers
        part = tile.core.within(tile.whole).slices
        mask, uncertainty = layers["mask"][part], layers["uncertainty"][part]
        area = np.broadcast_to(pixel_areas(job.geobox, tile.core), label.shape)
        valid = np.isfinite(uncertainty)
        open_area, known = open_area + float(area[uncertainty > OPEN].sum()), known + float(area[valid].sum())
        wrong, total = wrong + float(area[keep & (mask != label)].sum()), total + float(area[keep].sum())
    return (open_area / known, wrong / total) if total else None
