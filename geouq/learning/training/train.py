"""One training loop, short enough to read, whose every random number is a function of the seed and the step.

Batches, dropout masks and the cosine schedule are all looked up by step number. What is carried from step to step is in
:class:`State` and nowhere else: weights and their running average, the optimiser, and what the plateau schedule and
early stopping remember. So a resumed run on the same processor gives the same bytes.
"""

from __future__ import annotations

import copy
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import cos, inf, pi
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from geouq.errors import InputError
from geouq.files import whole
from geouq.learning.training.extra import Extra
from geouq.learning.training.freeze import freeze
from geouq.learning.training.losses import evaluate_loss, parse_loss
from geouq.learning.training.ssn_loss import Integral, ssn_nll
from geouq.networks.sites import find_sites, set_masks
from geouq.networks.ssn import SSN, mean_of

#: step → (pixels (N, K, H, W) normalised, label (N, H, W), valid (N, H, W) bool), and pixels that a teacher sees
Batches = Callable[[int], tuple[np.ndarray, ...]]
#: what a round of training came to: step, loss, rate, and the scores on what it was judged by
Row = dict[str, float]
OPTIMISERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "nadam": torch.optim.NAdam}
SCHEDULES = ("cosine", "plateau", "constant")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run.

    steps, warmup : optimiser steps in all, and those in which the rate rises from 0.
    every : steps a round; after each one the network is judged and the checkpoint rewritten.
    loss : a sum of terms of geouq.learning.training.losses, "bce + 0.5 * dice"; or "ssn" for a Stochastic
        Segmentation Network.
    class_weights : what each class counts in the loss, in order; "balanced": as its pixels are rare in the training
        labels (all / (classes · of it)); none: all pixels count alike.
    optimiser : "adamw", "adam" or "nadam" (Dozat 2016). rate, decay : its learning rate and weight decay.
    schedule : "cosine" (half a cosine to 0 after warmup), "constant", or "plateau" (times ``factor`` whenever
        ``plateau`` rounds bring no lower loss).
    patience : end after this many rounds without a lower loss, and keep the best weights; 0 = run to the end.
    floor : but never end before this many steps; a run by passes over the data has at least so many.
    sparse : weights of the three losses of sparse labels (geouq.learning.training.extra): nearest, farthest, neighbour.
    freeze : parts of the network that stay as they are: "encoder", or names of its modules.
    average : the weights' exponential moving average keeps this share a step (0 = the last weights).
    draws, antithetic : of the SSN's integral (geouq.learning.training.ssn_loss).
    mean_steps : first steps in which an SSN learns its mean alone, by cross entropy.
    bfloat16 : compute in bfloat16 where autocast holds it safe (weights stay float32).
    seed : of the dropout masks; batches bring their own.
    """

    steps: int = 1000
    warmup: int = 50
    every: int = 200
    loss: str = "bce_dice"
    class_weights: tuple[float, ...] | str = ()
    optimiser: str = "adamw"
    rate: float = 2e-3
    decay: float = 1e-2
    schedule: str = "cosine"
    plateau: int = 3
    factor: float = 0.3
    patience: int = 0
    floor: int = 300
    sparse: tuple[float, ...] = ()
    freeze: tuple[str, ...] = ()
    average: float = 0.99
    draws: int = 20
    antithetic: bool = True
    mean_steps: int = 0
    bfloat16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for value, known in (
            (self.optimiser, OPTIMISERS),
            (self.schedule, SCHEDULES),
        ):
            if value not in known:
                raise InputError(f"{value!r} is none of {', '.join(known)}")
        if self.loss != "ssn":
            parse_loss(self.loss)
        self._check_class_weights()
        if self.sparse and (len(self.sparse) != 3 or not all(0 <= weight < inf for weight in self.sparse)):
            raise InputError(f"sparse is {self.sparse}: it must be three weights, each 0 or more")
        for key, least in (("steps", 1), ("every", 1), ("warmup", 0), ("patience", 0), ("plateau", 1), ("draws", 1)):
            if getattr(self, key) < least:
                raise InputError(f"{key} is {getattr(self, key)}: it must be {least} or more")
        for key, ok, rule in (
            ("rate", 0 <= self.rate < inf, "0 or more"),
            ("decay", 0 <= self.decay < inf, "0 or more"),
            ("factor", 0 < self.factor <= 1, "above 0 and at most 1"),
            ("average", 0 <= self.average < 1, "at least 0 and below 1"),
        ):
            if not ok:
                raise InputError(f"{key} is {getattr(self, key)}: it must be {rule}")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed is {self.seed}: give a whole number from 0 to 4294967295")

    def _check_class_weights(self) -> None:
        given = self.class_weights
        known = given == "balanced" if isinstance(given, str) else all(0 < weight < inf for weight in given)
        if not known:
            raise InputError(f'class_weights is {given!r}: it must be numbers above 0, one a class, or "balanced"')
        if given and self.loss == "ssn":
            raise InputError('class_weights are for losses of pixels and regions: the loss "ssn" has none')


@dataclass
class State:
    """All that a run carries from step to step; ``average`` is the network to judge and to keep."""

    network: nn.Module
    optimiser: torch.optim.Optimizer
    average: nn.Module
    step: int = 0
    lost: float = 0.0  # sum of the losses since the round began
    factor: float = 1.0
    lowest: float = inf
    waited: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class Judge:
    """How a round ends: ``score(network)`` → scores, "val_loss" among them; ``show(rows)`` gets all rounds so far."""

    score: Callable[[nn.Module], Row]
    show: Callable[[list[Row]], None]


def train(
    network: nn.Module,
    batches: Batches,
    config: TrainConfig,
    checkpoint: str | Path | None = None,
    on_step: Callable[[int, float], None] | None = None,
    judge: Judge | None = None,
) -> nn.Module:
    """Train ``network`` in place and return it in eval mode, with averaged or, under ``patience``, the best weights.

    Parameters
    ----------
    network : (N, K, H, W) → logits (N, 1 or C, H, W), on the device to train on; its dropout sites are active.
    batches : gives the batch of a step.
    checkpoint : file to continue from if it exists, rewritten after each round and at the end.
    on_step : called with the step number and its loss.
    judge : without one, rounds are judged by their training loss.

    Raises
    ------
    InputError : the checkpoint belongs to a run with other settings, or the loss is not finite.
    OutputError : the checkpoint cannot be written.
    """
    state = _begin(network, config)
    _resume(checkpoint, config, state)
    while state.step < config.steps and not _stopped(state, config):
        loss = _advance(state, batches(state.step), config)
        if state.step % config.every == 0:
            _judge(state, config, judge)
            _save(checkpoint, config, state)
        if on_step:
            on_step(state.step - 1, loss)
    if state.step % config.every:  # an unfinished round: kept as it is, so that more steps go on from it
        _save(checkpoint, config, state)
        _judge(state, config, judge)
    set_masks(network, None)
    network.load_state_dict(state.best or state.average.state_dict())
    return network.eval()


def _begin(network: nn.Module, config: TrainConfig) -> State:
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    freeze(network, config.freeze)
    optimiser = OPTIMISERS[config.optimiser](network.parameters(), lr=config.rate, weight_decay=config.decay)
    return State(network, optimiser, copy.deepcopy(network) if config.average else network)


def _advance(state: State, batch: tuple[np.ndarray, ...], config: TrainConfig) -> float:
    """One step: rate, loss, gradients cut to norm 1, weights, their average."""
    for group in state.optimiser.param_groups:
        group["lr"] = config.rate * state.factor * schedule(state.step, config)
    loss = _loss(state.network, batch, config, state.step)
    if not torch.isfinite(loss):
        raise InputError(f"training diverged at step {state.step}: lower the learning rate ({config.rate})")
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(state.network.parameters(), 1.0)
    state.optimiser.step()
    if config.average:
        _blend(state.average, state.network, min(config.average, state.step / (state.step + 10)))
    state.step += 1
    state.lost += loss.item()
    return loss.item()


def _judge(state: State, config: TrainConfig, judge: Judge | None) -> None:
    """End a round: score, remember the best, lower the rate on a plateau."""
    rate = config.rate * state.factor * schedule(state.step - 1, config)
    row: Row = {"step": state.step, "loss": state.lost / ((state.step - 1) % config.every + 1), "rate": rate}
    if isinstance(state.network, SSN):
        row["fallbacks"], state.network.fallbacks = state.network.fallbacks, 0
    if judge:
        set_masks(state.average, None)
        row |= judge.score(state.average.eval())
        freeze(state.network, config.freeze)
    state.rows.append(row)
    state.lost = 0.0
    loss = row.get("val_loss", row["loss"])
    state.waited = 0 if loss < state.lowest else state.waited + 1
    if loss < state.lowest:
        state.lowest = loss
        state.best = _copy(state.average) if config.patience else {}
    if config.schedule == "plateau" and state.waited and state.waited % config.plateau == 0:
        state.factor *= config.factor
    if judge:
        judge.show(state.rows)


def _stopped(state: State, config: TrainConfig) -> bool:
    return 0 < config.patience <= state.waited and state.step >= config.floor


def schedule(step: int, config: TrainConfig) -> float:
    """Return the share of the learning rate at ``step``: a linear rise, then as the schedule says."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule != "cosine":
        return 1.0
    return 0.5 * (1 + cos(pi * (step - config.warmup) / max(1, config.steps - config.warmup)))


def seed_weights(network: nn.Module, seed: int) -> nn.Module:
    """Draw convolution weights anew (Kaiming normal, He et al. 2015), from the seed alone, and return the network."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network.start_near_mean() if isinstance(network, SSN) else network


def draw_masks(network: nn.Module, samples: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw one channel mask a sample for each site with a rate, (samples, C, 1, 1), values 0 or 1/(1 − rate)."""
    masks = {}
    for name, site in find_sites(network).items():
        if site.rate > 0:
            keep = torch.rand((samples, site.channels, 1, 1), generator=generator) >= site.rate
            masks[name] = keep.float() / (1 - site.rate)
    return masks


def _loss(network: nn.Module, batch: tuple[np.ndarray, ...], config: TrainConfig, step: int) -> Tensor:
    device = next(network.parameters()).device
    pixels, label, valid, *beside = (torch.from_numpy(a).to(device) for a in batch)
    generator = torch.Generator().manual_seed((config.seed << 32) + step)
    masks = draw_masks(network, len(pixels), generator)
    set_masks(network, {name: mask.to(device) for name, mask in masks.items()})
    with torch.autocast(device.type, torch.bfloat16, enabled=config.bfloat16):
        logits = network(pixels.float().contiguous(memory_format=torch.channels_last))
    truth = label, valid.float()
    loss = loss_of(network, logits.float(), truth, config, generator, step)
    return loss + network.extra_loss(pixels, truth, beside) if isinstance(network, Extra) else loss


def loss_of(
    network: nn.Module,
    logits: Tensor,
    truth: tuple[Tensor, Tensor],
    config: TrainConfig,
    generator: torch.Generator,
    step: int,
) -> Tensor:
    """Return the loss of a network's logits (N, C, H, W) on ``truth``, label and valid (N, H, W), as configured."""
    if config.loss != "ssn":
        if isinstance(config.class_weights, str):
            raise InputError("class_weights are to be counted first: settle the recipe by its data")
        return evaluate_loss(config.loss, logits, truth, config.class_weights)
    if not isinstance(network, SSN):
        raise InputError('the loss "ssn" is for Stochastic Segmentation Networks: take an architecture that is one')
    if step < config.mean_steps:
        return evaluate_loss("bce" if network.classes == 1 else "cross_entropy", mean_of(network, logits), truth)
    how = Integral(config.draws, config.antithetic)
    loss, left_out = ssn_nll(network.split(logits), *truth, how, generator)
    network.fallbacks += left_out
    return loss


def _blend(average: nn.Module, network: nn.Module, keep: float) -> None:
    for old, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if torch.equal(old, value):
            continue  # frozen: the mean of equals would differ by rounding
        if value.is_floating_point():
            old.mul_(keep).add_(value, alpha=1 - keep)
        else:
            old.copy_(value)


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


# --- checkpoints


def _identity(config: TrainConfig) -> str:
    """What must agree for a run to go on; the number of steps need not, unless the schedule follows it."""
    return repr(config if config.schedule == "cosine" else replace(config, steps=1))


def _save(path: str | Path | None, config: TrainConfig, state: State) -> None:
    if path is None:
        return
    values = {name: value for name, value in vars(state).items() if name not in ("network", "optimiser", "average")}
    values |= {name: getattr(state, name).state_dict() for name in ("network", "optimiser")}
    values |= {"average": state.average.state_dict()} if config.average else {}
    with whole(path, RuntimeError) as made:
        torch.save(values | {"config": _identity(config)}, made)


def _resume(path: str | Path | None, config: TrainConfig, state: State) -> None:
    """Load a checkpoint, if there is one, into the state."""
    if path is None or not Path(path).exists():
        return
    try:
        with zipfile.ZipFile(path) as parts:
            if damaged := parts.testzip():  # torch does not look: it would go on from numbers that are not those saved
                raise ValueError(damaged)
        values = torch.load(path, map_location=next(state.network.parameters()).device, weights_only=True)
    except Exception:  # what a damaged file raises depends on where it is damaged
        raise InputError(f"{path} is no readable checkpoint: remove it to start anew") from None
    if values.pop("config", None) != _identity(config):
        raise InputError(f"{path} is a checkpoint of a run with other settings: remove it, or train with those")
    for name, value in values.items():
        part = getattr(state, name)
        if isinstance(part, nn.Module | torch.optim.Optimizer):
            part.load_state_dict(value)
        else:
            setattr(state, name, value)
