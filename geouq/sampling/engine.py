"""The engine: one window through a sampler, draw by draw, into layers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geouq.sampling.cores import on_core, turn
from geouq.sampling.devices import batch_that_fits, must_fit
from geouq.sampling.estimators import Question, RunningSums
from geouq.sampling.sampler import Sampler
from geouq.sampling.window import Window, upload


@dataclass(frozen=True)
class TileResult:
    """Layers of a tile's core, (h, w) each, and the positive area in m² of each sample drawn, float64 (S,).

    class_areas : of more than two classes, the area of each in each sample, float64 (S, C); else (S, 0).
    drawn : samples drawn: fewer than asked for where a tolerance let the tile stop, or where nothing is valid.
    batch : samples that were computed at once: fewer than asked for where a device had not the memory.
    """

    layers: dict[str, np.ndarray]
    areas: np.ndarray
    valid: int
    class_areas: np.ndarray
    drawn: int = 0
    batch: int = 1


def predict_tile(sampler: Sampler, question: Question, window: Window, area: np.ndarray) -> TileResult:
    """Predict one tile: a pure function of its arguments. Where the window is not valid, layers are not classified.

    ``area`` : pixel areas of the core in m², broadcastable to its shape.

    Raises
    ------
    TileError : the device has not the memory for one sample. ModelError : logits are not finite.
    """
    valid, count = np.ascontiguousarray(window.valid[window.core.slices]), max(len(sampler.numbers), 1)
    planes = question.classes if question.classes > 2 else 1
    device = sampler.device if valid.any() else "cpu"
    with must_fit(window.shape, device):
        there = upload(valid, device), upload(np.ascontiguousarray(area, np.float32), device)
        sums = RunningSums(question, *there, count)
        if not valid.any():
            areas, of_class = _areas(question, np.zeros((count, planes)))
            return TileResult(sums.empty_layers(count), areas, 0, of_class, batch=sampler.batch)
        window.prepare(sampler.model, device)
        with turn(device):
            _sum_up(sums, sampler, window, count)
            layers = on_core(device, sums.layers)
        found = [sums.areas[number].cpu().numpy() for number in sorted(sums.areas)]
    areas, of_class = _areas(question, np.array(found).reshape(len(found), planes))
    batch = batch_that_fits(device, sampler.batch)
    return TileResult(layers, areas, int(valid.sum()), of_class, sums.samples, batch)


def _areas(question: Question, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the areas of the positive class (S,), and of more than two classes of each (S, C), else (S, 0).

    found : (S, 1) of two classes, of the positive one; (S, C) of more.
    """
    if question.classes > 2:
        return found[:, question.positive], found
    return found[:, 0], found[:, :0]


def _sum_up(sums: RunningSums, sampler: Sampler, window: Window, count: int) -> None:
    """Add what the sampler draws; stop where the ``count`` samples cannot move a probability any more."""
    drawn = sampler.draw(window)
    if sampler.quadrature:
        nodes = [(logits, weight) for (_, logits), weight in zip(drawn, sampler.quadrature, strict=True)]
        on_core(sampler.device, sums.expect, nodes)
        return
    for number, logits in drawn:
        on_core(sampler.device, sums.add, logits, number)
        if on_core(sampler.device, sums.settled, count):
            return
