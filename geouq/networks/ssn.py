"""Stochastic Segmentation Networks: logits as one normal distribution over all pixels (Monteiro et al. 2020,
arXiv 2006.06015).

The flattened logits of an image are η = μ + P z + √D ε with z of R numbers and ε of one a pixel and class, all standard
normal. Three 1×1 convolutions on the last features give the mean μ (C channels), the logarithm of the diagonal D (C)
and the factor P (R·C); here they are one convolution, the network's own head with C·(2 + R) channels in that
order. Pixels that share columns of P move together, so that a draw is one coherent map.

Letters in shape comments: N batch, K bands, C logits a pixel, R rank, H rows, W columns.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from geouq.errors import ModelError

#: what D is above, and the bounds of its logarithm: exp never overflows, and √D never loses its gradient
LEAST, BOUND = 1e-5, 10.0


class Distribution(NamedTuple):
    """The logits' distribution: ``mean`` and ``diagonal`` (variances) of (N, C, H, W), ``factor`` (N, R, C, H, W)."""

    mean: Tensor
    diagonal: Tensor
    factor: Tensor


class SSN(nn.Module):
    """A network whose head gives the parameters of the logits' distribution: (N, K, H, W) → (N, C·(2 + R), H, W).

    network : any segmentation network built with C·(2 + R) classes; the first C channels are the mean.
    classes : C; 1 = binary (sigmoid). rank : R; 0 leaves the diagonal alone, the ablation of the paper.
    fallbacks : images whose factor was left out of the training loss because it was not finite or too large.
    """

    def __init__(self, network: nn.Module, classes: int = 1, rank: int = 10) -> None:
        super().__init__()
        if classes < 1 or rank < 0:
            raise ModelError(f"an SSN of {classes} classes and rank {rank}: give 1 or more, and 0 or more")
        self.network, self.classes, self.rank, self.fallbacks = network, classes, rank, 0

    @property
    def stride(self) -> int:
        """Rows and columns must be multiples of this."""
        return int(self.network.stride)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(N, K, H, W) → parameters (N, C·(2 + R), H, W): mean, log-diagonal, factor (rank-major)."""
        parameters: Tensor = self.network(x)
        return parameters

    def split(self, parameters: Tensor) -> Distribution:
        """Return the distribution that the parameters (N, C·(2 + R), H, W) stand for, in their own precision."""
        c = self.classes
        mean, logarithm, factor = parameters.split([c, c, c * self.rank], 1)
        diagonal = logarithm.clamp(-BOUND, BOUND).exp() + LEAST
        return Distribution(mean, diagonal, factor.unflatten(1, (self.rank, c)) if self.rank else factor[:, :, None])

    def start_near_mean(self, share: float = 0.1, log_diagonal: float = -3.0) -> SSN:
        """Make a fresh head's deviations small, ``share`` of their size, and return self.

        A deviation as large as the mean drowns it before anything is learnt.
        """
        head = [m for m in self.network.modules() if isinstance(m, nn.Conv2d)][-1]
        fold = head.out_channels // (self.classes * (2 + self.rank))  # of a pixel shuffle behind the head
        with torch.no_grad():
            head.weight[self.classes * fold :] *= share
            if head.bias is not None:
                head.bias[self.classes * fold : 2 * self.classes * fold] = log_diagonal
        return self


def mean_of(network: nn.Module, logits: Tensor) -> Tensor:
    """Return what a network says without its deviations: an SSN's mean (N, C, H, W), another's logits as they are."""
    return logits[:, : network.classes] if isinstance(network, SSN) else logits
