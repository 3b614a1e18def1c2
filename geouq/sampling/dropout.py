"""Monte Carlo dropout: sample s is the network with channel mask s at its active sites (Gal & Ghahramani 2016, arXiv
1506.02142), and with the place's effect s where the model has one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from geouq.compiling.blocks import Block, block_logits
from geouq.networks.sites import find_sites, set_masks
from geouq.networks.ssn import mean_of
from geouq.sampling.cores import on_core
from geouq.sampling.draws import dropout_masks
from geouq.sampling.one_model import DTYPES, OneModel, add_place_effects
from geouq.sampling.window import Window


class Dropout(OneModel):
    """Channels switched off, by (seed, sample, site, channel)."""

    name = "dropout"

    @property
    def active(self) -> dict[str, float]:
        """Rates of the sites that sample."""
        return self.model.active_sites(self.sites) if self.samples else {}

    def draw_samples(self, window: Window, numbers: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield (number, logits of the core): the suffix of the plan, once a sample."""
        blocks = on_core(self.device, self.start, window)
        yield from self.in_batches(numbers, lambda now: self._masked(blocks, now))

    def _masked(self, blocks: Sequence[Block], numbers: Sequence[int]) -> Tensor:
        """Return the logits of some samples, (S, classes or 1, h, w)."""
        plan = self.plan()
        if not plan.sites:
            return self.plain(blocks, len(numbers))  # they differ by the place's effect alone
        drawn = dropout_masks(plan.sites, plan.channels, self.seed, numbers)
        masks = [torch.from_numpy(drawn[site]).to(self.device, DTYPES[self.precision]) for site in plan.sites]
        return mean_of(self.model.network, block_logits(plan, blocks, masks))


def plain_logits(sampler: OneModel, x: Tensor, numbers: Sequence[int] | None = None) -> Iterator[Tensor]:
    """Yield what dropout draws for ``x`` (1, K, H, W), by S plain passes of the whole network: the oracle for tests."""
    network, sites = sampler.model.network, find_sites(sampler.model.network)
    channels = {name: sites[name].channels for name in sampler.active}
    try:
        for s in sampler.numbers if numbers is None else numbers:
            masks = dropout_masks(sampler.active, channels, sampler.seed, range(s, s + 1))
            set_masks(network, {name: torch.from_numpy(mask) for name, mask in masks.items()})
            with torch.inference_mode():
                logits = mean_of(network, network(x))
                add_place_effects(sampler, logits, range(s, s + 1))
            yield logits[0]
    finally:
        set_masks(network, None)
