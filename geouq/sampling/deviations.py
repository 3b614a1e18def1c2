"""Deviations of a Stochastic Segmentation Network: sample s adds its draw of them to the mean, at next to no cost.

Mean, diagonal and factor come from one pass of the network; sample s adds P z_s + √D ε_s (geouq.networks.ssn,
geouq.sampling.field). That is linear in z, so S samples are S small matrix products over the core.

Letters in shape comments: n samples drawn together, R numbers of z (the rank), C logits a pixel, h rows, w columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from geouq.errors import ModelError
from geouq.networks.ssn import Distribution
from geouq.sampling.field import BLOCK, Correlation, add_deviations, pixel_noise

#: samples drawn at once: a whole number of what one call of the noise's generator serves
TOGETHER = 2 * BLOCK


@dataclass(frozen=True)
class Weights:
    """How an SSN's samples are made to differ from the model's own: section 4.3 of Monteiro et al. 2020.

    spread : times the deviations from the mean, the paper's temperature; 0 = the mean, every time.
    classes : a factor for the deviations of each logit. ranks : one for each number of z. Empty = 1 throughout.
    """

    spread: float = 1.0
    classes: tuple[float, ...] = ()
    ranks: tuple[float, ...] = ()

    def apply(self, distribution: Distribution) -> Distribution:
        """Return the distribution (mean (C, h, w), diagonal (C, h, w), factor (R, C, h, w)) of weighted deviations.

        Raises
        ------
        ModelError : there are not as many weights as logits or ranks.
        """
        mean, diagonal, factor = distribution
        rank, classes = factor.shape[:2]
        for what, weights, count in (("class", self.classes, classes), ("rank", self.ranks, rank)):
            if weights and len(weights) != count:
                raise ModelError(f"{len(weights)} {what} weights are given, and the model has {count}: give as many")
        if self == Weights():
            return distribution
        # (C, 1, 1) and (R, 1, 1, 1)
        by_class = self.spread * torch.tensor(self.classes or (1.0,) * classes, device=mean.device)[:, None, None]
        by_rank = torch.tensor(self.ranks or (1.0,) * rank, device=mean.device)[:, None, None, None]
        return Distribution(mean, diagonal * by_class**2, factor * by_class * by_rank)


@dataclass(frozen=True)
class Draw:
    """Which deviations: of which seed, correlated over what length (pixels, or "scene"), from which corner on.

    corner : absolute row and column of the distribution's first pixel in the scene.
    """

    seed: int
    correlation: Correlation
    corner: tuple[int, int]


def draw_logits(distribution: Distribution, draw: Draw, samples: Sequence[int]) -> Iterator[Tensor]:
    """Yield logits (n, C, h, w) of up to ``TOGETHER`` samples at a time, in the order of ``samples``.

    ``distribution`` : mean (C, h, w), diagonal (C, h, w) and factor (R, C, h, w), float32.
    """
    mean, diagonal, factor = distribution
    deviation = diagonal.sqrt()  # (C, h, w)
    for _, members in groupby(samples, lambda s: s // TOGETHER):
        block = list(members)
        noise = pixel_noise(draw.seed, block, len(mean), draw.corner, (mean.shape[1], mean.shape[2]))
        logits = torch.from_numpy(noise).to(mean.device).mul_(deviation).add_(mean)  # (n, C, h, w)
        if len(factor):
            add_deviations(logits, factor, draw.seed, block, draw.corner, draw.correlation)
        yield logits
