"""The last linear layer of a network: a 1×1 convolution on its features, perhaps unfolded by a pixel shuffle.

It is found by what the network computes, not by its name: the last convolution whose output is the network's.
Letters in shape comments: N batch, K bands, F features, C logits a pixel, H rows, W columns.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from geouq.errors import ModelError


@dataclass(frozen=True)
class Head:
    """logits = pixel_shuffle(weight · features + bias, fold).

    name : of the layer in the network. features : the network before it, (N, K, H, W) → (N, F, H/fold, W/fold).
    weight : (C·fold², F). bias : (C·fold²,). The pixel at row i, column j of a cell of fold × fold pixels has the
    weights number c·fold² + i·fold + j of class c.
    """

    name: str
    features: nn.Module
    weight: Tensor
    bias: Tensor
    fold: int

    @property
    def classes(self) -> int:
        """C."""
        return len(self.weight) // self.fold**2

    @property
    def factor_shape(self) -> tuple[int, int, int]:
        """Shape of a factor of the weights' covariance: a pixel's position in its cell, then (C·(F + 1)) squared."""
        numbers = self.classes * (self.weight.shape[1] + 1)
        return self.fold**2, numbers, numbers

    def apply(self, features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return the logits (S, C, H, W) of S heads, weight (S, C·fold², F) and bias (S, C·fold²), for one window.

        ``features`` : (1, F, H/fold, W/fold).
        """
        found = functional.conv2d(features, weight.flatten(0, 1)[..., None, None], bias.flatten())
        return functional.pixel_shuffle(found.unflatten(1, weight.shape[:2])[0], self.fold)


def find_head(network: nn.Module, bands: int, stride: int) -> Head:
    """Return the head of a network in eval mode, which is not changed.

    Raises
    ------
    ModelError : its logits are not those of a 1×1 convolution, or not on a grid of whole cells.
    """
    calls: list[tuple[str, nn.Module, Tensor, Tensor]] = []
    handles = [
        module.register_forward_hook(lambda m, x, y, name=name: calls.append((name, m, x[0], y)))
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.PixelShuffle)
    ]
    x = torch.rand(1, bands, 2 * stride, 2 * stride, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            logits = network(x)
    finally:
        for handle in handles:
            handle.remove()
    last = max((i for i, (_, module, _, _) in enumerate(calls) if isinstance(module, nn.Conv2d)), default=None)
    if last is not None:
        name, layer, seen, _ = calls[last]
        assert isinstance(layer, nn.Conv2d)
        weight = layer.weight.detach().flatten(1)
        bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach()
        features = _without(network, [name, *(called for called, *_ in calls[last + 1 :])])
        head = Head(name, features, weight, bias, logits.shape[-1] // seen.shape[-1])
        if layer.kernel_size == (1, 1) and layer.groups == 1 and _is_head(head, x, logits):
            return head
    raise ModelError("the last layer of its network is no 1×1 convolution that gives the logits")


def _without(network: nn.Module, names: list[str]) -> nn.Module:
    """Return a copy of the network in which the layers named pass on what they are given."""
    network = copy.deepcopy(network)
    for name in names:
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, nn.Identity())
    return network


def _is_head(head: Head, x: Tensor, logits: Tensor) -> bool:
    """True if the features and the head give the network's logits."""
    with torch.no_grad():
        features = head.features(x)
        if features.shape[1] != head.weight.shape[1] or len(head.weight) % head.fold**2:
            return False
        found = head.apply(features, head.weight[None], head.bias[None])
    return found.shape == logits.shape and torch.allclose(found, logits, rtol=1e-3, atol=1e-4)
