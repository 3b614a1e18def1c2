"""Networks made of networks: the mean of several, and that of one over the flips and quarter turns of what it sees.

Logits are averaged, at each pixel. A dropout site keeps its one mask through all turns, so that a sample is still one
network everywhere. Turns do not show at tiles: a window starts and ends on the stride grid, and so does its mirror
image in the mirror image of the padded scene; how far a network sees is measured in both directions of both axes.

Letters in shape comments: N batch, K bands, C logits a pixel, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from geouq.networks.sites import find_sites


def turn(x: Tensor, how: int) -> Tensor:
    """Return one of the eight flips and quarter turns, ``how`` 0..7, of rows and columns of x (N, C, H, W)."""
    x = torch.rot90(x, how % 4, (2, 3))
    return torch.flip(x, (3,)) if how >= 4 else x


def turn_back(x: Tensor, how: int) -> Tensor:
    """Undo :func:`turn`."""
    x = torch.flip(x, (3,)) if how >= 4 else x
    return torch.rot90(x, -(how % 4), (2, 3))


class Turned(nn.Module):
    """The mean of a network's logits over the eight flips and quarter turns of the image (the group D4)."""

    def __init__(self, network: nn.Module, stride: int) -> None:
        super().__init__()
        self.network, self.stride = network, stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, K, H, W) → logits (N, C, H, W)."""
        total = self.network(x)
        for how in range(1, 8):
            total = torch.add(total, turn_back(self.network(turn(x, how)), how))
        mean: Tensor = torch.mul(total, 1 / 8)
        return mean


class Mean(nn.Module):
    """The mean of several networks' logits, each times its ``scales``; sites are named ``<site>.<member>``."""

    def __init__(self, networks: Sequence[nn.Module], scales: Sequence[float]) -> None:
        super().__init__()
        self.members, self.scales = nn.ModuleList(networks), tuple(scales)
        self.stride = math.lcm(*(int(network.stride) for network in networks))  # type: ignore[arg-type]
        for number, network in enumerate(networks):
            for name, site in find_sites(network).items():
                site.name = f"{name}.{number}"

    def forward(self, x: Tensor) -> Tensor:
        """(N, K, H, W) → logits (N, C, H, W)."""
        total = torch.mul(self.members[0](x), self.scales[0])
        for member, scale in zip(self.members[1:], self.scales[1:], strict=True):
            total = torch.add(total, torch.mul(member(x), scale))
        mean: Tensor = torch.mul(total, 1 / len(self.scales))
        return mean
