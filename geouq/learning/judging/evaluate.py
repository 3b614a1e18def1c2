"""How good a model's maps are on labelled data, and how well it knows, by the path that ``segment`` itself takes.

Chips are streamed: each is segmented tile by tile as a scene would be, and added to sums of its place, its dataset and
all data; no more than one tile's pixels are held. Only pixels that are valid and labelled count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import numpy as np
import xarray as xr

from geouq import noise
from geouq.decisions import Decision
from geouq.errors import InputError
from geouq.grid import Roi, Tile, pixel_areas
from geouq.layers import NOT_CLASSIFIED, Legend, by_class, says
from geouq.learning.data.chip import LabelledChip
from geouq.learning.data.loading import UNLABELLED, load, load_label, open_chip, windows
from geouq.learning.data.splits import of_split
from geouq.learning.judging.agreement import Agreement
from geouq.learning.judging.classical import ThresholdCounts, Yardsticks
from geouq.learning.judging.labelled import check_label, trained_on
from geouq.learning.judging.metrics import RiskCoverage, auroc
from geouq.learning.judging.tally import Areas, Canvas, LabelledPixels, Picture, Tally, map_scores, plain
from geouq.networks.model import Model
from geouq.scores.confusion import Confusion, mean
from geouq.segmentation.deciding import decided_tiles
from geouq.segmentation.job import Job, Settings, prepare
from geouq.segmentation.tile import segment_tile, tile_values
from geouq.units import BACKSCATTER, DB, POWER

#: windows that the classical methods see, in pixels a side
WINDOW = 1024
#: side in pixels of the squares of the chessboard on whose white squares noise is added, and the looks of that speckle
SQUARE, LOOKS = 64, 2
_PURPOSE = 0x6E6F6973  # keeps the noise's random numbers apart from any others


@dataclass(frozen=True)
class Evaluation:
    """``scores``: plain values, ready for JSON (None where a ratio has no meaning); ``pictures`` of some chips, whose
    values ``legend`` tells.
    """

    scores: dict[str, Any]
    pictures: list[Picture]
    legend: Legend


def evaluate(
    model: Model | Sequence[Model],
    chips: Sequence[LabelledChip],
    *,
    samples: int = 20,
    seed: int = 0,
    device: str = "auto",
    sampler: str = "auto",
    decide: str | float | None = None,
    most_pictures: int = 48,
    on_chip: Callable[[str, int, int], None] | None = None,
) -> Evaluation:
    """Score a model on labelled chips.

    Chips of the split "test" are taken if there are any, else all that are not of the split "train".

    Parameters
    ----------
    model, samples, seed, device, sampler, decide : as for ``segment``; at most 64 samples. Each chip is a scene of
        its own: a cut by the whole scene is that of the chip.
    most_pictures : of how many chips, evenly spread, pictures are kept.
    on_chip : called before each chip with its name, its number from 0, and how many there are.

    Returns
    -------
    Evaluation, whose ``scores`` hold: ``pooled`` (all pixels together), ``datasets``, ``places``, ``chips``,
    ``chip_mean`` (every chip weighing the same); ``one_pass`` (dropout off, doubt from the maximum of the softmax);
    ``areas`` (how often 90 % intervals cover the label's area); ``agreement`` (of samples and raters of the positive
    class: geouq.learning.judging.agreement); ``noise``; ``baselines`` (backscatter and two classes only); ``curves``;
    ``trained_on`` (how many of the chips the model was trained on, by their names, as far as its file says).

    Raises
    ------
    InputError : no chip, or no pixel, can be scored; or a label holds a class that the model has not.
    """
    chips = sorted(of_split(chips, "test"), key=lambda c: (c.dataset, c.place, c.name))
    models = [model] if isinstance(model, Model) else list(model)
    settings = Settings(samples, seed, _layers(models[0], samples), device=device, sampler=sampler, decide=decide)
    work = _Work(models, settings)
    shown = {c.name for c in chips[:: -(-len(chips) // max(most_pictures, 1))]} if most_pictures else set()
    pictures, number = [], 0
    for (dataset, place), group in groupby(chips, key=lambda c: (c.dataset, c.place)):
        tally = work.new_tally()
        for chip in group:
            if on_chip:
                on_chip(chip.name, number, len(chips))
            number += 1
            picture = work.add(chip, (tally, work.datasets.setdefault(dataset, work.new_tally()), work.pooled))
            pictures += [picture] if chip.name in shown and picture else []
        if tally.matrix.counts.any():
            work.places.append({"dataset": dataset, "place": place, **tally.scores()})
    if not work.chips:
        raise InputError(f"none of the {len(chips)} chips has a pixel that is both valid and labelled")
    return Evaluation(plain(work.scores()), pictures, work.model.spec.legend)


def corrupt(values: np.ndarray, unit: str, spread: float, corner: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Add noise on the white squares of a chessboard of ``SQUARE`` pixels, the same at the same place of a scene.

    Backscatter is multiplied by speckle of ``LOOKS`` looks (gamma, mean 1, in power); other units get Gaussian noise.

    Parameters
    ----------
    values : (bands, h, w) in ``unit``. spread : standard deviation of the Gaussian noise. corner : absolute row and
        column of the first pixel.
    """
    bands, rows, columns = (np.arange(n) for n in values.shape)
    y, x = (rows + corner[0])[:, None], columns + corner[1]
    drawn = [noise.uniform(seed, _PURPOSE, bands[:, None, None], y, x, k) for k in range(LOOKS)]
    drawn = [np.maximum(1 - u, 2**-24) for u in drawn]
    if unit in BACKSCATTER:
        gamma = -sum(np.log(u) for u in drawn) / LOOKS
        noisy = values + 10 * np.log10(gamma) if unit == DB else values * (gamma if unit == POWER else np.sqrt(gamma))
    else:
        noisy = values + spread * np.sqrt(-2 * np.log(drawn[0])) * np.cos(2 * np.pi * drawn[1])
    return np.asarray(np.where(chessboard((len(rows), len(columns)), corner), noisy, values), np.float32)


def chessboard(shape: tuple[int, int], corner: tuple[int, int]) -> np.ndarray:
    """Return where the white squares are, (rows, columns) bool, by absolute pixel."""
    y, x = (np.arange(n) + start for n, start in zip(shape, corner, strict=True))
    return np.asarray((y[:, None] // SQUARE + x // SQUARE) % 2 == 0)


# --- one chip after the other ----------------------------------------------------------------------------


class _Work:
    """The sums of an evaluation under way."""

    def __init__(self, models: Sequence[Model], settings: Settings) -> None:
        self.models, self.model, self.settings, spec = models, models[0], settings, models[0].spec
        self.positive = spec.legend.positive
        self.pooled, self.once = self.new_tally(), self.new_tally()
        self.datasets: dict[str, Tally] = {}
        self.places: list[dict[str, Any]] = []
        self.chips: list[dict[str, Any]] = []
        self.skipped: list[str] = []
        self.noisy, self.quiet = RiskCoverage(), RiskCoverage()
        self.yardsticks: dict[tuple[str, ...], Yardsticks] = {}
        self.sampler = ""
        self.decision: Decision | None = None

    def new_tally(self) -> Tally:
        """Return empty sums."""
        return Tally(len(self.model.spec.classes), self.positive)

    def add(self, chip: LabelledChip, tallies: Sequence[Tally]) -> Picture | None:
        """Score a chip; None, and nothing counted, where no pixel of it is valid and labelled."""
        scene, settings = open_chip(chip), self.settings
        job = prepare(scene, self.models, settings)
        self.sampler, self.decision = job.sampler.name, job.decision
        single_pass = replace(settings, samples=0, layers=_layers(self.model, 0), tile=job.tiling.size)
        once = prepare(scene, self.models, single_pass)
        own, areas, picture = self.new_tally(), Areas(len(job.sampler.numbers)), Canvas(scene)
        agreement = Agreement(len(job.sampler.numbers), 1 + len(chip.raters))
        singles = decided_tiles(once, _read(scene, once)) if settings.samples else None
        for tile, values, layers in decided_tiles(job, _read(scene, job)):
            single = next(singles)[2] if singles is not None else dict(layers)
            raters = np.stack([load_label(one, tile.core) for one in chip.by_rater()])
            check_label(chip, raters, self.model.spec.classes)
            label = raters[0]
            keep = (raters != UNLABELLED).all(0) & (layers["mask"] != NOT_CLASSIFIED)
            picture.add(tile.core, values[:, *_core(tile)], label, layers)
            if not keep.any():
                continue
            for tally in (own, *tallies):
                tally.add(self._pixels(layers, label, keep))
            single["uncertainty"] = (1 - single["confidence"]) * self.pooled.classes / (self.pooled.classes - 1)
            self.once.add(self._pixels(single, label, keep))
            self._disturb(job, values, tile, layers["uncertainty"], keep)
            agreement.add(
                *_positives(layers, keep, self.positive, len(job.sampler.numbers)), raters[:, keep] == self.positive
            )
            if "votes" in layers:
                votes = _positive_votes(layers, self.positive)
                areas.add(votes[keep], label[keep] == self.positive, _area(job, tile.core)[keep])
        if not own.matrix.counts.any():
            self.skipped.append(chip.name)
            return None
        row: dict[str, Any] = {
            "name": chip.name,
            "dataset": chip.dataset,
            "place": chip.place,
            **own.scores(),
            **areas.scores(),
            "raters": agreement.raters,
            **agreement.scores(),
        }
        if len(self.model.spec.classes) == 2 and job.units in BACKSCATTER:
            row["best_threshold_iou"] = self._measure(chip, scene, job, int(row["pixels"]))
        self.chips.append(row)
        return picture.finish(chip.name, job.units)

    def _pixels(self, layers: dict[str, np.ndarray], label: np.ndarray, keep: np.ndarray) -> LabelledPixels:
        if "probabilities" in layers:
            probabilities = layers["probabilities"][:, keep]
        else:
            p = layers["probability"][keep]
            probabilities = np.stack(by_class(p, self.positive))
        return LabelledPixels(label[keep], layers["mask"][keep], probabilities, layers["uncertainty"][keep])

    def _disturb(self, job: Job, values: np.ndarray, tile: Tile, quiet: np.ndarray, keep: np.ndarray) -> None:
        """Is doubt higher where noise was added? And, for comparison, without it."""
        spread = 0.5 * float(np.mean(self.model.spec.std))
        worse = corrupt(values, job.units, spread, (tile.window.y0, tile.window.x0), self.settings.seed)
        noisy = segment_tile(job, worse, tile).layers["uncertainty"]
        white = chessboard(tile.core.shape, (tile.core.y0, tile.core.x0))
        self.noisy.add(noisy, white, keep & np.isfinite(noisy))
        self.quiet.add(quiet, white, keep & np.isfinite(noisy))

    def _measure(self, chip: LabelledChip, scene: xr.DataArray, job: Job, pixels: int) -> float:
        """Score the classical methods on a chip; return the best IoU that one threshold could have, with hindsight."""
        names = tuple(str(scene["band"].values[i]) for i in job.bands if i is not None)
        yardsticks = self.yardsticks.setdefault(names, Yardsticks(names))
        counts = ThresholdCounts(len(names))
        for window in windows(chip, WINDOW):
            bands, label, valid = load(chip, names, DB, window)
            if valid.any():
                counts.merge(yardsticks.add_window(chip.place, bands, label == self.positive, valid))
        assert counts.water + counts.dry == pixels, (
            f"{chip.name}: the methods are scored on other pixels than the model"
        )
        yardsticks.add_chip(chip.place, counts)
        return counts.confusion(counts.best()).iou

    def scores(self) -> dict[str, Any]:
        """Return everything as plain values."""
        spec = self.model.spec
        told = ("name", "classes", "positive", "bands", "units", "temperature", "threshold", "training")
        model = {"hash": self.model.hash} | {key: getattr(spec, key) for key in told}
        model |= {"decide": self.decision.rule} if self.decision is not None else {}
        return {
            "model": model,
            "samples": self.settings.samples,
            "seed": self.settings.seed,
            "skipped": self.skipped,
            "trained_on": trained_on(self.models, (row["name"] for row in self.chips)),
            "pooled": self.pooled.scores(),
            "one_pass": self.once.scores(),
            "chip_mean": _mean_of_chips(self.chips, self.pooled.scores()),
            "datasets": [{"dataset": name, **tally.scores()} for name, tally in self.datasets.items()],
            "places": self.places,
            "chips": self.chips,
            "sampler": self.sampler,
            "areas": _coverage([row for row in self.chips if "area_low" in row]),
            "agreement": _mean_agreement(self.chips),
            "noise": {"auroc": auroc(self.noisy), "auroc_without_noise": auroc(self.quiet)},
            "baselines": [row for y in self.yardsticks.values() for row in _baseline_rows(y)],
            "curves": {"sampled": self.pooled.curves(), "one_pass": self.once.curves()},
        }


# --- small things ----------------------------------------------------------------------------------------


def _layers(model: Model, samples: int) -> tuple[str, ...]:
    layers = ("mask", "uncertainty", "confidence", "probability" if model.binary else "probabilities")
    return (*layers, "votes") if samples > 1 else layers


def _positives(
    layers: dict[str, np.ndarray], keep: np.ndarray, positive: int, samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return where each sample (S, n), and where the map (n,), says the positive class; without votes they are one."""
    mask = layers["mask"][keep] == positive
    if "votes" not in layers:
        return mask[None], mask
    votes = _positive_votes(layers, positive)[keep]
    return np.stack([says(votes, s) for s in range(samples)]), mask


def _positive_votes(layers: dict[str, np.ndarray], positive: int) -> np.ndarray:
    """Return the votes for the positive class, (h, w)."""
    votes = layers["votes"]
    return votes[positive] if votes.ndim == 3 else votes


def _mean_of_chips(rows: Sequence[dict[str, Any]], pooled: dict[str, Any]) -> dict[str, float]:
    """Return the mean over chips of each score that is a number, every chip weighing the same; pixels are their sum.

    A chip on which a score is a ratio of nothing (IoU of a class that is neither in label nor map) is left out of it.
    """
    names = [name for name, value in pooled.items() if isinstance(value, int | float) and name != "pixels"]
    return {"pixels": pooled["pixels"]} | {name: mean([row[name] for row in rows]) for name in names}


def _mean_agreement(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return the mean over chips of each score of :class:`Agreement`, where it has a meaning."""
    names = ("ged", "ged_unbiased", "diversity", "dice_raters")
    values = {name: [row[name] for row in rows if np.isfinite(row[name])] for name in names}
    return {name: float(np.mean(v)) if v else float("nan") for name, v in values.items()}


def _read(scene: xr.DataArray, job: Job) -> Iterator[tuple[Tile, np.ndarray]]:
    """Yield each tile with the scene's values in its window."""
    return ((tile, np.asarray(tile_values(scene, tile))) for tile in job.tiling)


def _core(tile: Tile) -> tuple[slice, slice]:
    return tile.core.within(tile.window).slices


def _area(job: Job, core: Roi) -> np.ndarray:
    return np.broadcast_to(pixel_areas(job.geobox, core), core.shape)


def _coverage(rows: Sequence[dict[str, Any]]) -> dict[str, float | int]:
    """Return how often intervals cover the label's area, how often they nearly do (to 1 %), and their mean width."""
    if not rows:
        return {}
    widths = [(row["area_high"] - row["area_low"]) / row["area_labelled"] for row in rows]
    covered = sum(row["area_covered"] for row in rows)
    near = sum(0 < row["area_missed_by"] <= 0.01 * row["area_labelled"] for row in rows)
    found = {"chips": len(rows), "covered": covered, "coverage": covered / len(rows), "nearly": near}
    return found | {"mean_width": float(np.mean(widths))}


def _baseline_rows(yardsticks: Yardsticks) -> Iterator[dict[str, Any]]:
    for method, details, places in yardsticks.results():
        pooled = sum(places.values(), Confusion())
        by_place = {place: count.iou for place, count in places.items()}
        yield {
            "method": method,
            "details": details,
            **map_scores(pooled),
            "accuracy": pooled.accuracy,
            "places": by_place,
        }
