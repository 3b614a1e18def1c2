"""The engine: one window through a plan, sample by sample, into layers. One inference at a time per device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from geouq.compiling.blocks import block_logits, cut
from geouq.errors import TileError
from geouq.grid import Roi
from geouq.networks.model import Model
from geouq.networks.sites import find_sites, set_masks
from geouq.networks.ssn import SSN, Distribution, mean_of
from geouq.sampling.closed import add_expectation, logit_moments
from geouq.sampling.devices import batch_that_fits, device_lock, did_not_fit, upload
from geouq.sampling.draws import dropout_masks, place_effects
from geouq.sampling.estimators import Question, RunningSums
from geouq.sampling.sampler import CLOSED, PRECISIONS, Sampler
from geouq.sampling.ssn import Draw, draw_logits


@dataclass(frozen=True)
class TileResult:
    """Layers of a tile's core, (h, w) each, and the positive area in m² of each sample drawn, float64 (S,).

    drawn : samples drawn: fewer than asked for where a tolerance let the tile stop, or where nothing is valid.
    batch : samples that were computed at once: fewer than asked for where a device had not the memory.
    """

    layers: dict[str, np.ndarray]
    areas: np.ndarray
    valid: int
    drawn: int = 0
    batch: int = 1


def predict_tile(
    sampler: Sampler,
    question: Question,
    pixels: np.ndarray,
    valid: np.ndarray,
    core: Roi,
    area: np.ndarray,
    *,
    origin: tuple[int, int] = (0, 0),
) -> TileResult:
    """Predict one tile: a pure function of its arguments.

    Parameters
    ----------
    pixels : float32 (K, H, W), the model's bands in its units; H and W are multiples of its stride.
    valid : bool (H, W); elsewhere the network sees 0 after normalisation, and the layers are not classified.
    core : the part of the window to answer for, in window coordinates.
    area : pixel areas of the core in m², broadcastable to its shape.
    origin : absolute row and column of the window's first pixel in the scene.

    Raises
    ------
    TileError : the device has not the memory for one sample, or logits are not finite.
    """
    rows, columns = core.slices
    count = max(sampler.samples, 1)
    if not valid[rows, columns].any():
        sums = RunningSums(question, *_on_cpu(valid[rows, columns], area), sampler.samples)
        return TileResult(sums.empty_layers(count), np.zeros(count), 0, batch=sampler.batch)
    inside = upload(np.ascontiguousarray(valid[rows, columns]), sampler.device)
    sums = RunningSums(
        question, inside, upload(np.ascontiguousarray(area, np.float32), sampler.device), sampler.samples
    )
    first = upload(_network_input(sampler.model, pixels, valid), sampler.device)  # beside what the device computes
    with device_lock(sampler.device), torch.inference_mode():
        if sampler.kind == CLOSED:
            add_expectation(sums, *logit_moments(sampler, first, core))
        windows = (
            upload(_network_input(member.model, pixels, valid), sampler.device) if m else first
            for m, member in enumerate(sampler.members())
        )
        for number, logits in _all_logits(sampler, windows, core, origin):
            sums.add(logits, number)
            if sums.settled(count):
                break
    areas = [float(sums.areas[number]) for number in sorted(sums.areas)]
    return TileResult(sums.layers(), np.array(areas), int(inside.sum()), sums.samples, batch_that_fits(sampler))


def _on_cpu(valid: np.ndarray, area: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(np.ascontiguousarray(valid)), torch.from_numpy(np.ascontiguousarray(area, np.float32))


def _network_input(model: Model, pixels: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Return (1, K, H, W) as the network sees it: normalised, 0 where not valid."""
    x = model.normalise(pixels)
    x[:, ~valid] = 0
    return x[None]


def _all_logits(
    sampler: Sampler, windows: Iterable[Tensor], core: Roi, origin: tuple[int, int]
) -> Iterator[tuple[int, Tensor]]:
    """Yield (number, float32 logits at the first model's temperature) of all samples of all members."""
    if sampler.kind == CLOSED:
        return
    for m, (member, x) in enumerate(zip(sampler.members(), windows, strict=True)):
        scale = sampler.model.spec.temperature / member.model.spec.temperature  # the question's is the first's
        numbers = sampler.numbers(m)
        for number, logits in zip(numbers, sample_logits(member, x, core, origin, numbers), strict=True):
            yield number, logits.float() if scale == 1 else logits.float() * scale


def sample_logits(
    sampler: Sampler, x: Tensor, core: Roi, origin: tuple[int, int] = (0, 0), numbers: range | None = None
) -> Iterator[Tensor]:
    """Yield the core's logits (classes or 1, h, w) for each sample of one model, on the sampler's device.

    Parameters
    ----------
    x : the window's normalised pixels (1, K, H, W). core : the part to answer for, in window coordinates.
    origin : absolute row and column of the window's first pixel in the scene.
    numbers : of the samples to draw; all by default.
    """
    plan = sampler.plan()
    window = (x.shape[2], x.shape[3])
    dtype = PRECISIONS[sampler.precision]
    try:
        kept = plan.prefix(x.to(sampler.device, dtype, memory_format=torch.channels_last))
        blocks = cut(plan, kept if isinstance(kept, tuple) else (kept,), core, window)
    except torch.OutOfMemoryError:
        raise TileError(f"a {window} window does not fit {sampler.device}: take a smaller --tile") from None
    del kept
    numbers, batch = range(max(sampler.samples, 1)) if numbers is None else numbers, batch_that_fits(sampler)
    if sampler.kind == "ssn" and sampler.samples:
        corner = origin[0] + core.y0, origin[1] + core.x0
        yield from _ssn_logits(sampler, block_logits(plan, blocks, ()), corner, numbers)
        return
    while numbers:
        now = numbers[:batch]
        drawn = dropout_masks(plan.sites, plan.channels, sampler.seed, now)
        masks = [torch.from_numpy(drawn[site]).to(sampler.device, dtype) for site in plan.sites]
        try:
            logits = mean_of(sampler.model.network, block_logits(plan, blocks, masks))
        except torch.OutOfMemoryError:
            batch = did_not_fit(sampler, batch)
            if batch == 0:
                raise TileError(f"a {window} window does not fit {sampler.device}: take a smaller --tile") from None
            continue
        if not plan.sites:  # the same for all samples so far, and perhaps a view of what the prefix made
            logits = logits.expand(len(now), -1, -1, -1).clone()
        yield from _checked(logits, sampler, now)
        numbers = numbers[len(now) :]


def _ssn_logits(sampler: Sampler, parameters: Tensor, corner: tuple[int, int], numbers: range) -> Iterator[Tensor]:
    """Yield an SSN's samples from the parameters of the core, (1, C·(2 + R), h, w)."""
    network, spec = sampler.model.network, sampler.model.spec
    assert isinstance(network, SSN)
    whole = network.split(parameters.float())
    spread = replace(sampler.weights, spread=spec.spread * sampler.weights.spread)
    distribution = spread.apply(Distribution(*(part[0] for part in whole)))
    done = 0
    for logits in draw_logits(distribution, Draw(sampler.seed, spec.correlation, corner), numbers):
        yield from _checked(logits, sampler, numbers[done : done + len(logits)])
        done += len(logits)


def _checked(logits: Tensor, sampler: Sampler, numbers: range) -> Tensor:
    """Return samples' logits (S, classes or 1, h, w) with their place effects, all finite."""
    _add_place_effects(logits, sampler, numbers)
    if not torch.isfinite(logits.sum(dtype=torch.float32)):  # one number instead of one flag a pixel
        raise TileError(f"model {sampler.model.spec.name!r} gave logits that are not finite numbers")
    return logits


def plain_logits(sampler: Sampler, x: Tensor, numbers: range | None = None) -> Iterator[Tensor]:
    """Yield what :func:`sample_logits` does, by S plain passes of the whole network: the oracle for tests."""
    network, sites = sampler.model.network, find_sites(sampler.model.network)
    channels = {name: sites[name].channels for name in sampler.active}
    try:
        for s in range(max(sampler.samples, 1)) if numbers is None else numbers:
            masks = dropout_masks(sampler.active, channels, sampler.seed, range(s, s + 1))
            set_masks(network, {name: torch.from_numpy(mask) for name, mask in masks.items()})
            with torch.inference_mode():
                logits = mean_of(network, network(x))
                _add_place_effects(logits, sampler, range(s, s + 1))
            yield logits[0]
    finally:
        set_masks(network, None)


def _add_place_effects(logits: Tensor, sampler: Sampler, numbers: range) -> None:
    """Add each sample's offset to the positive class's logits (S, classes or 1, h, w), in place."""
    spec = sampler.model.spec
    if spec.place_effect and sampler.samples:
        effects = torch.from_numpy(place_effects(spec.place_effect, sampler.seed, numbers)).to(logits)
        logits[:, spec.classes.index(spec.positive) if logits.shape[1] > 1 else 0] += effects[:, None, None]
