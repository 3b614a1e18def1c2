"""Chips of places left out, of more than two classes: mapped as ``segment`` maps them, and what was found on them.

A pixel is of the likeliest class, so there is no cut to choose, and no risk is promised. What is left is how right each
class is, how sure the model may be, whether areas are held, and doubt as a sign of wrong maps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from geouq.alarm import OPEN, measured_alarm
from geouq.grid import Tile, pixel_areas
from geouq.layers import area_interval
from geouq.learning.data.augment import WET
from geouq.learning.data.chip import LabelledChip
from geouq.learning.data.loading import open_chip
from geouq.learning.judging.decide import (
    FEWEST,
    Row,
    add_expectations,
    alarm_found,
    areas_held,
    calibration_found,
    points,
)
from geouq.learning.judging.labelled import labelled
from geouq.learning.judging.left_out import OnChip, each_chip_of
from geouq.learning.judging.metrics import Calibration, place_means
from geouq.learning.judging.tally import map_scores, plain
from geouq.networks.model import Model
from geouq.sampling.engine import predict_tile
from geouq.sampling.window import Window
from geouq.scores.confusion import ConfusionMatrix, mean
from geouq.segmentation.job import Job, Settings, prepare

#: layers that maps of more than two classes are judged by
LAYERS = ("mask", "uncertainty", "confidence")
#: what an alarm's points are measured with where there is no cut
RULE = "accuracy"


@dataclass(frozen=True)
class MappedClasses:
    """A labelled chip as a model maps it that has not seen its place. Areas in m², pixels without a CRS.

    fold : number of the group of chips that it is of, from 1. counts : (C, C) labelled pixels, a row a class of the
        label, a column one of the map. certainty : of these, how often the mapped class is right, by its probability.
    areas : (S, C) of each class in each sample, of the labelled pixels. truth : (C,) of each class in the label.
    doubt : open share of the classified area (geouq.alarm.OPEN). wrong : share of the labelled area that is wrong.
    """

    name: str
    dataset: str
    place: str
    fold: int
    counts: np.ndarray
    certainty: Calibration
    areas: np.ndarray
    truth: np.ndarray
    doubt: float
    wrong: float

    @property
    def pixels(self) -> int:
        """Labelled pixels."""
        return int(self.counts.sum())

    @cached_property
    def shares(self) -> np.ndarray:
        """Each class's share of the label's area, (C,)."""
        return np.asarray(self.truth / self.truth.sum())

    def calibration(self, pixels: float) -> Calibration:
        """Return counts by probability for calibration errors, as of so many pixels."""
        own, each = self.certainty, pixels / self.pixels
        return Calibration(own.count * each, own.probability * each, own.positives * each)


def map_classes(
    groups: Sequence[tuple[Model, Sequence[LabelledChip]]], settings: Settings, on_chip: OnChip | None = None
) -> list[MappedClasses]:
    """Map the chips of each group with its model; those without a pixel that is valid and labelled are left out.

    Raises
    ------
    InputError : a label holds a class that the model has not.
    """
    told = replace(settings, layers=LAYERS)
    found = (map_chip(model, chip, told, fold) for fold, model, chip in each_chip_of(groups, on_chip))
    return [one for one in found if one is not None]


def map_chip(model: Model, chip: LabelledChip, settings: Settings, fold: int = 1) -> MappedClasses | None:
    """Map one chip, tile by tile; None: no pixel of it is both valid and labelled."""
    job, classes = prepare(open_chip(chip), model, settings), len(model.spec.classes)
    matrix, certainty, truth = ConfusionMatrix(classes), Calibration(), np.zeros(classes)
    areas = np.zeros((max(len(job.sampler.numbers), 1), classes))
    open_area = known = wrong = total = 0.0
    for tile, window, label, keep in labelled(job, chip, everything=True):
        area = np.broadcast_to(pixel_areas(job.geobox, tile.core), label.shape)
        layers, sampled = _predict(job, tile, window, area * keep)
        mask, uncertainty, confidence = (layers[name] for name in LAYERS)
        valid, right = np.isfinite(uncertainty), keep & (mask == label)
        matrix.add(mask, label, keep)
        certainty.add(confidence, right, keep)
        areas += sampled
        truth += np.bincount(label[keep], area[keep], classes)
        open_area, known = open_area + float(area[uncertainty > OPEN].sum()), known + float(area[valid].sum())
        wrong, total = wrong + float(area[keep & ~right].sum()), total + float(area[keep].sum())
    if not total:
        return None
    told = matrix.counts, certainty, areas, truth, open_area / known, wrong / total
    return MappedClasses(chip.name, chip.dataset, chip.place, fold, *told)


def _predict(job: Job, tile: Tile, window: Window, counted: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the layers of a tile's core, and the ``counted`` area of each class in each sample, (S, C)."""
    area = np.zeros(tile.whole.shape, np.float32)
    part = tile.core.within(tile.whole).slices
    area[part] = counted
    result = predict_tile(job.sampler_of(tile), job.question, window, area)
    return {name: layer[part] for name, layer in result.layers.items()}, result.class_areas


def class_alarm(
    groups: Sequence[tuple[Model, Sequence[LabelledChip]]], settings: Settings, on_chip: OnChip | None = None
) -> dict[str, Any]:
    """Return the alarm that a model file stores, a point a chip with a labelled pixel (geouq.alarm.measured_alarm).

    groups : models, each with chips of places that it has not seen. on_chip : called before each chip with its name,
        its number from 0, and how many there are.
    """
    chips = map_classes(groups, settings, on_chip)
    return measured_alarm([c.place for c in chips], [c.doubt for c in chips], {RULE: [c.wrong for c in chips]})


# --- what was found


def found_on_classes(chips: Sequence[MappedClasses], names: Sequence[str]) -> dict[str, Any]:
    """Return what was found on chips left out, as plain values ready for JSON (None where a ratio has no meaning).

    ``pooled`` : scores of all pixels together, by class too, and the confusion matrix. ``classes`` : of each its share
    of the labels, the mean IoU over places, and how its areas are held. ``miou_places`` : mean over classes of the
    former. ``areas`` : of all pairs of a chip and a class that is ``WET`` of it or more. ``calibration``, ``alarm``,
    ``places``, ``chips`` : as geouq.learning.judging.decide.found_on has them.
    """
    rows = [_chip_row(chip, names) for chip in chips]
    add_expectations(rows, RULE)
    classes = [_class_row(name, chips, rows, number) for number, name in enumerate(names)]
    present = [one for name in names for one in _with_class(rows, name)]
    places = list(dict.fromkeys(chip.place for chip in chips))
    found: dict[str, Any] = plain(
        {
            "pooled": _scores([chip.counts for chip in chips]),
            "miou_places": mean([row["iou_places"] for row in classes]),
            "classes": classes,
            "calibration": calibration_found(chips),
            "areas": areas_held(present),
            "alarm": alarm_found(rows, RULE),
            "places": [_place_row(place, chips, rows, names) for place in places],
            "chips": rows,
        }
    )
    return found


def stored_of_classes(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a model's spec that are made from what was found: no alarm of too few places."""
    return {"alarm": points(found["chips"], [RULE]) if len(found["places"]) >= FEWEST else None}


def _scores(counts: Sequence[np.ndarray]) -> Row:
    """Return the scores of some chips' pixels together."""
    matrix = ConfusionMatrix(len(counts[0]))
    matrix.counts = np.sum(counts, axis=0)
    return {
        "pixels": int(matrix.counts.sum()),
        "accuracy": matrix.accuracy,
        "miou": matrix.miou,
        "f1": matrix.dice,
        "by_class": [map_scores(matrix.one(number)) for number in range(matrix.classes)],
        "confusion": matrix.counts.tolist(),
    }


def _chip_row(chip: MappedClasses, names: Sequence[str]) -> Row:
    """Return what is said of a chip."""
    scores = _scores([chip.counts])
    return {
        "name": chip.name,
        "dataset": chip.dataset,
        "place": chip.place,
        "fold": chip.fold,
        "pixels": chip.pixels,
        "doubt": round(chip.doubt, 6),
        "wrong": {RULE: round(chip.wrong, 6)},
        "miou": scores["miou"],
        "iou": {name: one["iou"] for name, one in zip(names, scores["by_class"], strict=True)},
        "area_labelled": float(chip.truth.sum()),
        "shares": dict(zip(names, chip.shares.tolist(), strict=True)),
        "areas": {name: _area(chip, number) for number, name in enumerate(names)},
    }


def _area(chip: MappedClasses, number: int) -> Row:
    """Return the area of a class in the label, its 90 % interval over the samples, and whether that holds it."""
    truth, (low, high) = float(chip.truth[number]), area_interval(chip.areas[:, number])
    return {"area": truth, "area_low": low, "area_high": high, "area_covered": bool(low <= truth <= high)}


def _with_class(rows: Sequence[Row], name: str) -> Iterator[Row]:
    """Yield what is said of a class's area in each chip that it is ``WET`` of or more."""
    for row in rows:
        if row["shares"][name] >= WET:
            yield {"place": row["place"], "area_labelled": row["area_labelled"], **row["areas"][name]}


def _class_row(name: str, chips: Sequence[MappedClasses], rows: Sequence[Row], number: int) -> Row:
    """Return what is said of a class. ``places``, ``folds`` : how many have a pixel of it in the label."""
    some = [row for row in rows if row["shares"][name] >= WET]
    truth = np.sum([chip.truth for chip in chips], axis=0)
    ious = place_means([row["place"] for row in some], np.array([row["iou"][name] for row in some])) if some else np.nan
    return {
        "class": name,
        "share": float(truth[number] / truth.sum()),
        "places": len({chip.place for chip in chips if chip.truth[number]}),
        "folds": len({chip.fold for chip in chips if chip.truth[number]}),
        "iou_places": float(ious),
        "areas": areas_held(list(_with_class(rows, name))),
    }


def _place_row(place: str, chips: Sequence[MappedClasses], rows: Sequence[Row], names: Sequence[str]) -> Row:
    """Return what is said of a place: scores of its pixels together, means over its chips, and areas held."""
    own = [row for row in rows if row["place"] == place]
    held = [one["area_covered"] for name in names for one in _with_class(own, name)]
    scores = _scores([chip.counts for chip in chips if chip.place == place])
    return {
        "place": place,
        "dataset": own[0]["dataset"],
        "fold": own[0]["fold"],
        "chips": len(own),
        **{key: scores[key] for key in ("pixels", "accuracy", "miou")},
        "wrong": {RULE: float(np.mean([row["wrong"][RULE] for row in own]))},
        "doubt": float(np.mean([row["doubt"] for row in own])),
        "areas": len(held),
        "covered": sum(held),
    }
