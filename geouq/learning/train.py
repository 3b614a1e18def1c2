"""One training loop, short enough to read, whose every random number is a function of the seed and the step.

Batches, dropout masks and the learning rate are all looked up by step number: nothing is carried from step to step but
weights, their running average and the optimiser, so a resumed run on the same processor gives the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from geouq.errors import InputError
from geouq.learning.losses import bce_dice
from geouq.networks.sites import find_sites, set_masks

#: step → (pixels (N, K, H, W) normalised, label (N, H, W) 0/1, valid (N, H, W) bool)
Batches = Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a run.

    steps, warmup : optimiser steps in all, and those in which the rate rises from 0; a half cosine to 0 follows.
    rate, decay : AdamW's learning rate and weight decay.
    average : the weights' exponential moving average keeps this share a step (0 = the last weights).
    bfloat16 : compute in bfloat16 where autocast holds it safe (weights stay float32).
    seed : of the dropout masks; batches bring their own.
    """

    steps: int = 1000
    warmup: int = 50
    rate: float = 2e-3
    decay: float = 1e-2
    average: float = 0.99
    bfloat16: bool = False
    seed: int = 0


def train(
    network: nn.Module,
    batches: Batches,
    config: TrainConfig,
    checkpoint: str | Path | None = None,
    every: int = 200,
    on_step: Callable[[int, float], None] | None = None,
) -> nn.Module:
    """Train ``network`` in place on binary labels and return it in eval mode, with averaged weights.

    Parameters
    ----------
    network : (N, K, H, W) → logits (N, 1, H, W); its dropout sites are active.
    batches : gives the batch of a step.
    checkpoint, every : file to continue from if it exists, rewritten every so many steps.
    on_step : called with the step number and its loss.

    Raises
    ------
    InputError : the checkpoint belongs to a run with other settings, or the loss is not finite.
    """
    network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.rate, weight_decay=config.decay)
    average = {name: value.clone() for name, value in network.state_dict().items()}
    for step in range(_resume(checkpoint, config, network, optimiser, average), config.steps):
        for group in optimiser.param_groups:
            group["lr"] = config.rate * schedule(step, config)
        loss = _loss(network, batches(step), config, step)
        if not torch.isfinite(loss):
            raise InputError(f"training diverged at step {step}: lower the learning rate ({config.rate})")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        _blend(average, network.state_dict(), min(config.average, step / (step + 10)))
        if checkpoint and (step + 1) % every == 0:
            _save(checkpoint, config, step + 1, (network, optimiser, average))
        if on_step:
            on_step(step, loss.item())
    set_masks(network, None)
    network.load_state_dict(average)
    return network.eval()


def schedule(step: int, config: TrainConfig) -> float:
    """Return the share of the learning rate at ``step``: a linear rise, then half a cosine down."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    return 0.5 * (1 + cos(pi * (step - config.warmup) / max(1, config.steps - config.warmup)))


def seed_weights(network: nn.Module, seed: int) -> nn.Module:
    """Draw convolution weights anew (Kaiming normal, He et al. 2015), from the seed alone, and return the network."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


def draw_masks(network: nn.Module, samples: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw one channel mask a sample for each site with a rate, (samples, C, 1, 1), values 0 or 1/(1 − rate)."""
    masks = {}
    for name, site in find_sites(network).items():
        if site.rate > 0:
            keep = torch.rand((samples, site.channels, 1, 1), generator=generator) >= site.rate
            masks[name] = keep.float() / (1 - site.rate)
    return masks


def _loss(network: nn.Module, batch: tuple[np.ndarray, ...], config: TrainConfig, step: int) -> Tensor:
    pixels, label, valid = (torch.from_numpy(a).float() for a in batch)
    generator = torch.Generator().manual_seed((config.seed << 32) + step)
    set_masks(network, draw_masks(network, len(pixels), generator))
    with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
        logits = network(pixels.contiguous(memory_format=torch.channels_last))
    return bce_dice(logits.float()[:, 0], label, valid)


def _blend(average: dict[str, Tensor], state: dict[str, Tensor], keep: float) -> None:
    for name, value in state.items():
        if value.is_floating_point():
            average[name].mul_(keep).add_(value.detach(), alpha=1 - keep)
        else:
            average[name].copy_(value)


Parts = tuple[nn.Module, torch.optim.Optimizer, dict[str, Tensor]]


def _save(path: str | Path, config: TrainConfig, step: int, parts: Parts) -> None:
    network, optimiser, average = parts
    state = {"config": repr(config), "step": step, "network": network.state_dict()}
    torch.save(state | {"optimiser": optimiser.state_dict(), "average": average}, f"{path}.partial")
    os.replace(f"{path}.partial", path)


def _resume(
    path: str | Path | None,
    config: TrainConfig,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    average: dict[str, Tensor],
) -> int:
    """Load a checkpoint, if there is one, into the parts, and return the step to go on from."""
    if path is None or not Path(path).exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state["config"] != repr(config):
        raise InputError(f"{path} is a checkpoint of a run with other settings: remove it, or train with those")
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    average.update(state["average"])
    return int(state["step"])
