"""No samples at all: dropout in a linear head has a closed form.

Where the only active site is the head's, a 1×1 convolution, a pixel's logit is b + Σ_c w_c·f_c·m_c with independent
masks m_c of mean 1 and variance r/(1 − r) at rate r. Hence exactly, as for infinitely many samples,

    mean = b + Σ_c w_c·f_c        variance = r/(1 − r) · Σ_c (w_c·f_c)²

to which a place's effect adds its own variance. Probabilities and entropies are means over the normal distribution with
these two moments, by Gauss–Hermite quadrature; that the logit is normal is the one approximation, good by the
central limit theorem for the 16 channels and more that heads have (fast dropout: Wang & Manning 2013, ICML 28(2)).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, fx, nn

from geouq.compiling.blocks import block_logits
from geouq.compiling.crops import crop, pixel_shuffle
from geouq.compiling.plan import Plan
from geouq.errors import ModelError
from geouq.sampling.cores import on_core
from geouq.sampling.dropout import Dropout
from geouq.sampling.one_model import DTYPES
from geouq.sampling.window import Window

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(32)


class ClosedForm(Dropout):
    """The limit of ever more dropout samples: draws are the nodes of a quadrature over the logit, none has a number."""

    name = "closed form"
    quadrature = tuple(_WEIGHTS / _WEIGHTS.sum())

    @property
    def numbers(self) -> range:
        """None."""
        return range(0)

    def check(self) -> None:
        """Raise ModelError unless the only active site is that of a linear head with one logit."""
        spec = self.model.spec
        if self.samples != math.inf:
            raise ModelError(f"samples={self.samples}: the closed form is that of infinitely many")
        if list(self.active) != ["head"] or not _is_linear(self.plan()) or len(spec.classes) != 2:
            raise ModelError(
                f"--samples inf needs dropout in the linear head alone of a network with one logit; {spec.name!r} "
                f"samples at {', '.join(self.active) or 'no site'}: give --sites head if it has a rate there, or a "
                "number"
            )

    def draw(self, window: Window, numbers: Sequence[int] | None = None) -> Iterator[tuple[int, Tensor]]:
        """Yield (node, logits of the core), one for each weight of the quadrature."""
        mean, variance = on_core(self.device, self.moments, window)
        deviation = variance.sqrt()
        for node, x in enumerate(_NODES):
            yield node, mean + deviation * x

    def moments(self, window: Window) -> tuple[Tensor, Tensor]:
        """Return mean and variance of the core's logit, (1, h, w) each, float32, over all masks and places' effects.

        The variance is computed in float32, whatever the network's precision: float16 ends at the square of 256.
        """
        plan, blocks = self.plan(), self.start(window)
        (rate,) = plan.sites.values()
        ones = torch.ones(1, *plan.channels.values(), 1, 1, dtype=DTYPES[self.precision], device=self.device)
        mean = block_logits(plan, blocks, [ones]).float()[0]
        squares = [replace(block, kept=tuple(t.float().square() for t in block.kept)) for block in blocks]
        variance = block_logits(replace(plan, suffix=_squared(plan.suffix)), squares, [ones.float()])[0]
        self.check_finite(mean + variance)
        return mean, variance * (rate / (1 - rate)) + self.model.spec.place_effect**2


def _is_linear(plan: Plan) -> bool:
    """True if the suffix is one 1×1 convolution, perhaps unfolded, with one logit."""
    if not plan.traced or not isinstance(plan.suffix, fx.GraphModule) or plan.crops is None:
        return False
    layers = [m for m in plan.suffix.modules() if isinstance(m, nn.Conv2d)]
    steps = [n for n in plan.suffix.graph.nodes if n.op not in ("placeholder", "output")]
    known = {torch.mul, crop, pixel_shuffle}
    linear = all(n.op == "call_module" or n.target in known for n in steps)
    modules = [n for n in steps if n.op == "call_module"]
    unfolded = [n.args[1] ** 2 for n in steps if n.target is pixel_shuffle]
    return (
        linear
        and len(layers) == len(modules) == 1
        and layers[0].kernel_size == (1, 1)
        and layers[0].groups == 1
        and layers[0].out_channels == int(np.prod(unfolded))
    )


def _squared(suffix: nn.Module) -> nn.Module:
    """Return the suffix with squared weights and no bias, float32."""
    squared = copy.deepcopy(suffix).float()
    with torch.no_grad():
        for layer in squared.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.square_()
                layer.bias = None
    return squared
