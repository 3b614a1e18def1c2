"""The engine: one window through a plan, sample by sample, into layers. One inference at a time per device."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from geouq.errors import TileError
from geouq.grid import Roi
from geouq.networks.sites import find_sites, set_masks
from geouq.networks.ssn import SSN, Distribution, mean_of
from geouq.sampling.blocks import block_logits, cut
from geouq.sampling.draws import dropout_masks, place_effects
from geouq.sampling.estimators import Question, RunningSums
from geouq.sampling.sampler import PRECISIONS, Sampler
from geouq.sampling.ssn import Draw, draw_logits


@dataclass(frozen=True)
class TileResult:
    """Layers of a tile's core, (h, w) each, and the positive area in m² of each sample, float64 (S,)."""

    layers: dict[str, np.ndarray]
    areas: np.ndarray
    valid: int


_LOCK = threading.Lock()
_DEVICES: dict[str, threading.Lock] = {}


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
    inside = torch.from_numpy(np.ascontiguousarray(valid[rows, columns])).to(sampler.device)
    weights = torch.from_numpy(np.ascontiguousarray(area, np.float32)).to(sampler.device)
    sums = RunningSums(question, inside, weights, sampler.samples)
    if not inside.any():
        return TileResult(sums.empty_layers(max(sampler.samples, 1)), np.zeros(max(sampler.samples, 1)), 0)
    with _device_lock(sampler.device), torch.inference_mode():
        for m, member in enumerate(sampler.members()):
            x = member.model.normalise(pixels)
            x[:, ~valid] = 0
            scale = sampler.model.spec.temperature / member.model.spec.temperature  # the question's is the first's
            numbers = sampler.numbers(m)
            drawn = sample_logits(member, torch.from_numpy(x)[None], core, origin, numbers)
            for s, logits in zip(numbers, drawn, strict=True):
                sums.add(logits.float() if scale == 1 else logits.float() * scale, s)
    return TileResult(sums.layers(), torch.stack(sums.areas).cpu().numpy(), int(inside.sum()))


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
    kept = plan.prefix(x.to(sampler.device, dtype, memory_format=torch.channels_last))
    blocks = cut(plan, kept if isinstance(kept, tuple) else (kept,), core, window)
    del kept
    numbers, batch = range(max(sampler.samples, 1)) if numbers is None else numbers, sampler.batch
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
            if batch == 1:
                raise TileError(f"a {window} window does not fit {sampler.device}: take a smaller --tile") from None
            batch //= 2
            continue
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


def _device_lock(device: str) -> threading.Lock:
    with _LOCK:
        return _DEVICES.setdefault(device, threading.Lock())
