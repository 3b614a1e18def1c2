"""Samples of a Stochastic Segmentation Network (Monteiro et al. 2020, arXiv 2006.06015): one pass of the network gives
mean, diagonal and factor, and sample s adds its draw of the deviations (geouq.sampling.deviations), dropout off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from geouq.compiling.blocks import block_logits
from geouq.errors import ModelError
from geouq.networks.ssn import SSN, Distribution
from geouq.sampling.cores import each_on_core
from geouq.sampling.deviations import TOGETHER, Draw, Weights, draw_logits
from geouq.sampling.field import check_correlation
from geouq.sampling.one_model import OneModel
from geouq.sampling.window import Window

__all__ = ["StochasticSegmentation", "Weights"]


class StochasticSegmentation(OneModel):
    """The logits' own distribution, drawn by (seed, sample) and absolute position."""

    name = "ssn"

    @property
    def varies(self) -> bool:
        """True."""
        return True

    def check(self) -> None:
        """Raise ModelError for a network that is no SSN, for dropout sites, or for a length that is none."""
        spec = self.model.spec
        if not isinstance(self.model.network, SSN):
            raise ModelError(f"model {spec.name!r} is no SSN: use --sampler dropout, or a model that is one")
        if self.sites is not None:
            raise ModelError("an SSN samples with dropout off: leave out --sites, or use --sampler dropout")
        check_correlation(spec.correlation)
        super().check()

    def draw_samples(self, window: Window, numbers: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield (number, logits of the core): mean and deviations come from one pass, (1, C·(2 + R), h, w)."""
        yield from each_on_core(self.device, self._drawn(window, numbers))

    def _drawn(self, window: Window, numbers: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        network, spec = self.model.network, self.model.spec
        assert isinstance(network, SSN)
        parameters = block_logits(self.plan(), self.start(window), ()).float()
        spread = replace(self.weights, spread=spec.spread * self.weights.spread)
        distribution = spread.apply(Distribution(*(part[0] for part in network.split(parameters))))
        done = 0
        for logits in draw_logits(distribution, Draw(self.seed, spec.correlation, window.corner), numbers):
            yield from self.finish(logits, numbers[done : done + len(logits)])
            done += len(logits)

    def bytes_for(self, pixels: int) -> int:
        """Return the bytes of the one pass, and of a block of samples, its deviations and its noise."""
        network = self.model.network
        assert isinstance(network, SSN)
        parameters, together = 2 + network.rank, min(TOGETHER, len(self.numbers))
        return self.plan().bytes_for(pixels, 1) + 4 * pixels * network.classes * (2 * parameters + together + 8)

    def tags(self) -> dict[str, Any]:
        """Return what must be known of the deviations."""
        spec, weights = self.model.spec, self.weights
        factors = {"class_weights": weights.classes, "rank_weights": weights.ranks}
        told = {"correlation": spec.correlation, "spread": spec.spread * weights.spread}
        return told | {name: ",".join(f"{v:g}" for v in values) for name, values in factors.items() if values}
