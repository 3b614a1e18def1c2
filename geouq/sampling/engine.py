"""The engine: one window through a plan, sample by sample, into layers. One inference at a time per device."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geouq.errors import ModelError, TileError
from geouq.grid import Roi
from geouq.model import Model
from geouq.networks.sites import find_sites, set_masks
from geouq.sampling.crops import crop
from geouq.sampling.draws import dropout_masks, place_effects
from geouq.sampling.estimators import Question, RunningSums
from geouq.sampling.plan import Plan, make_plan

#: "bfloat16" is about twice as fast where the processor has it, slower where not, and rounds to 2 or 3 digits: with it
#: maps are the same for the same settings, but another tiling may show in the second digit of a probability.
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Sampler:
    """MC dropout over a model: which sites, how many samples, which seed, how many at once, where.

    ``samples`` = 0 is one deterministic pass with dropout off. Sample numbers start at 0. ``precision`` is that of the
    network's arithmetic; sums over samples are float32 always.
    """

    model: Model
    samples: int = 20
    seed: int = 0
    batch: int = 1
    device: str = "cpu"
    sites: tuple[str, ...] | None = None
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ModelError(f"no precision {self.precision!r}: choose among {', '.join(PRECISIONS)}")
        if self.samples < 0 or self.batch < 1:
            raise ModelError(f"samples={self.samples}, batch={self.batch}: samples must be 0 or more, batch 1 or more")
        if self.samples > 1 and not self.active and not self.model.spec.place_effect:
            raise ModelError(
                f"model {self.model.spec.name!r} has no active dropout site, so its samples would all be equal: "
                "use --samples 0 for one deterministic pass, or a model trained with dropout"
            )

    @property
    def active(self) -> dict[str, float]:
        """Rates of the sites that sample."""
        return self.model.active_sites(self.sites) if self.samples else {}

    def plan(self) -> Plan:
        """Return the compiled plan, made once a process for a model, its sites and a device."""
        return _compiled(self)


@dataclass(frozen=True)
class TileResult:
    """Layers of a tile's core, (h, w) each, and the positive area in m² of each sample, float64 (S,)."""

    layers: dict[str, np.ndarray]
    areas: np.ndarray
    valid: int


KEPT_PLANS = 8
_LOCK = threading.Lock()
_PLANS: dict[tuple[str, tuple[str, ...], str, str], Plan] = {}
_DEVICES: dict[str, threading.Lock] = {}


def predict_tile(
    sampler: Sampler, question: Question, pixels: np.ndarray, valid: np.ndarray, core: Roi, area: np.ndarray
) -> TileResult:
    """Predict one tile: a pure function of its arguments.

    Parameters
    ----------
    pixels : float32 (K, H, W), the model's bands in its units; H and W are multiples of its stride.
    valid : bool (H, W); elsewhere the network sees 0 after normalisation, and the layers are not classified.
    core : the part of the window to answer for, in window coordinates.
    area : pixel areas of the core in m², broadcastable to its shape.

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
        x = sampler.model.normalise(pixels)
        x[:, ~valid] = 0
        for logits in sample_logits(sampler, torch.from_numpy(x)[None], core):
            sums.add(logits.float())
    return TileResult(sums.layers(), torch.stack(sums.areas).cpu().numpy(), int(inside.sum()))


def sample_logits(sampler: Sampler, x: Tensor, core: Roi) -> Iterator[Tensor]:
    """Yield the core's logits (classes or 1, h, w) for each sample, on the sampler's device.

    ``x`` : the window's normalised pixels (1, K, H, W).
    """
    plan = sampler.plan()
    window = (x.shape[2], x.shape[3])
    dtype = PRECISIONS[sampler.precision]
    kept = plan.prefix(x.to(sampler.device, dtype, memory_format=torch.channels_last))
    kept, boxes, inner = _shrink(plan, kept if isinstance(kept, tuple) else (kept,), core, window)
    first, count, batch = 0, max(sampler.samples, 1), sampler.batch
    while first < count:
        numbers = range(first, min(first + batch, count))
        drawn = dropout_masks(plan.sites, plan.channels, sampler.seed, numbers)
        masks = (torch.from_numpy(drawn[site]).to(sampler.device, dtype) for site in plan.sites)
        try:
            logits = crop(plan.suffix(*kept, *masks, *boxes), inner)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise TileError(f"a {window} window does not fit {sampler.device}: take a smaller --tile") from None
            batch //= 2
            continue
        _add_place_effects(logits, sampler, numbers)
        if not torch.isfinite(logits).all():
            raise TileError(f"model {sampler.model.spec.name!r} gave logits that are not finite numbers")
        yield from logits
        first = numbers.stop


def _shrink(
    plan: Plan, kept: tuple[Tensor, ...], core: Roi, window: tuple[int, int]
) -> tuple[tuple[Tensor, ...], list[Roi], Roi]:
    """Crop what the prefix kept to what the core needs; return it, the suffix's boxes, and the core in its result."""
    if plan.crops is None:
        return kept, [], core
    smaller = (crop(t, r.box(core, window)) for t, r in zip(kept, plan.crops.kept, strict=True))
    boxes = [to.box(core, window).within(of.box(core, window)) for of, to in plan.crops.steps]
    inner = core.within(plan.crops.result.box(core, window))
    return tuple(t.contiguous(memory_format=torch.channels_last) for t in smaller), boxes, inner


def plain_logits(sampler: Sampler, x: Tensor) -> Iterator[Tensor]:
    """Yield what :func:`sample_logits` does, by S plain passes of the whole network: the oracle for tests."""
    network, sites = sampler.model.network, find_sites(sampler.model.network)
    channels = {name: sites[name].channels for name in sampler.active}
    try:
        for s in range(max(sampler.samples, 1)):
            masks = dropout_masks(sampler.active, channels, sampler.seed, range(s, s + 1))
            set_masks(network, {name: torch.from_numpy(mask) for name, mask in masks.items()})
            with torch.inference_mode():
                logits = network(x)
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


def _compiled(sampler: Sampler) -> Plan:
    spec, active = sampler.model.spec, sampler.active
    key = (sampler.model.hash, tuple(active), sampler.device, sampler.precision)
    with _LOCK:
        if key not in _PLANS:
            plan = make_plan(sampler.model.network, len(spec.bands), spec.stride, active)
            for half in (plan.prefix, plan.suffix):
                half.to(sampler.device, PRECISIONS[sampler.precision], memory_format=torch.channels_last)  # type: ignore[call-overload]
            _PLANS[key] = plan
            if len(_PLANS) > KEPT_PLANS:
                del _PLANS[next(iter(_PLANS))]  # the oldest
        return _PLANS[key]


def _device_lock(device: str) -> threading.Lock:
    with _LOCK:
        return _DEVICES.setdefault(device, threading.Lock())
