"""Last-layer Laplace (Daxberger et al. 2021, arXiv 2106.14806): the weights of the last layer have a posterior.

Logits are linear in these weights θ, so that around the trained ones their posterior is nearly normal. Its inverse
covariance is H + λ·I: λ is the prior's precision, H the generalised Gauss–Newton matrix, a sum over labelled pixels of

    Λ ⊗ φφᵀ,    Λ = (diag(p) − ppᵀ)/T², for one logit p(1 − p)/T²

with features φ, a 1 for the bias among them, and probabilities p at the temperature T. Behind a pixel shuffle each
position of a cell has weights of its own, and H one block a position. λ is that of the largest marginal likelihood of
the Laplace approximation (MacKay 1992, doi 10.1162/neco.1992.4.3.448); of its logarithm the part that depends on λ is,
with P weights, ½ (P ln λ − λ |θ|² − ln det(H + λ·I)).

Sample s is the network with the weights θ + L·ε_s. L·Lᵀ is the covariance and ε_s is normal by (seed, sample), so that
a sample is one network over the whole scene. All that comes before the last layer is computed once.

Letters in shape comments: F features, C logits a pixel, J positions of a cell, n = C·(F + 1), S samples, N pixels, H
rows and W columns of the window, h and w those of its core.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import ndtri
from torch import Tensor

from geouq.compiling.crops import crop
from geouq.compiling.plan import Plan
from geouq.errors import InputError, ModelError
from geouq.grid import Roi
from geouq.networks.head import Head
from geouq.networks.model import FACTOR, Model
from geouq.networks.ssn import SSN
from geouq.noise import uniform
from geouq.sampling.one_model import DTYPES, OneModel, compiled
from geouq.sampling.window import Window

#: the file format that a model with a posterior needs
FORMAT = 2
#: bounds of ln λ, and the most numbers that a factor may hold (256 MB)
BOUNDS, LARGEST = (-10.0, 20.0), 1 << 26
_PURPOSE = zlib.crc32(b"last layer")


class Laplace(OneModel):
    """The weights of the last layer, drawn by (seed, sample), dropout off."""

    name = "laplace"

    def check(self) -> None:
        """Raise ModelError for a model without a posterior that can be drawn from, or for dropout sites."""
        factor = self.model.fitted.get(FACTOR)
        if factor is None or self.model.spec.laplace is None:
            raise ModelError(
                f"model {self.model.spec.name!r} has no posterior of its last layer: fit one with geouq calibrate "
                "--laplace, or use another --sampler"
            )
        if self.sites is not None:
            raise ModelError("last-layer Laplace samples with dropout off: leave out --sites, or use --sampler dropout")
        if factor.shape != head_of(self.model).factor_shape or not torch.isfinite(factor).all():
            raise ModelError(f"the posterior of model {self.model.spec.name!r} is damaged: fit it again")
        super().check()

    @property
    def varies(self) -> bool:
        """True."""
        return True

    def plan(self) -> Plan:
        """Return the plan of all before the last layer; it has no part that differs between samples."""
        if not self.samples:
            return super().plan()
        return compiled(self, head_of(self.model).features, part="features")

    def draw_samples(self, window: Window, numbers: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield (number, logits of the core): a 1×1 convolution each."""
        head = head_of(self.model)
        core = window.core
        cells = Roi(core.y0 // head.fold, -(-core.y1 // head.fold), core.x0 // head.fold, -(-core.x1 // head.fold))
        inner = core.within(Roi(*(head.fold * v for v in (cells.y0, cells.y1, cells.x0, cells.x1))))
        features = crop(features_of(self, window), cells).float().contiguous()

        def compute(now: Sequence[int]) -> Tensor:
            weight, bias = draw_weights(self.model, self.seed, now)
            logits = head.apply(features, weight.to(self.device), bias.to(self.device))
            return crop(logits, inner)

        yield from self.in_batches(numbers, compute)

    def bytes_for(self, pixels: int) -> int:
        """Return the bytes of the features, and of the logits of a batch: as cells, as pixels, and those before."""
        if not self.samples:
            return super().bytes_for(pixels)
        head = head_of(self.model)
        held = head.weight.shape[1] / head.fold**2 + 3 * head.classes * self.batch
        return self.plan().bytes_for(pixels, 1) + int(4 * pixels * held)


def head_of(model: Model) -> Head:
    """Return the last layer of a model, or raise ModelError where it has none that this can be done with."""
    if isinstance(model.network, SSN):
        raise ModelError(f"model {model.spec.name!r} is an SSN, whose last layer gives a distribution: take another")
    try:
        return model.head
    except ModelError as error:
        raise ModelError(f"no posterior for model {model.spec.name!r}: {error}") from None


def features_of(sampler: OneModel, window: Window) -> Tensor:
    """Return the features of a whole window, (1, F, H/fold, W/fold), in the sampler's precision."""
    plan = compiled(sampler, head_of(sampler.model).features, part="features")
    x = window.seen_by(sampler.model, sampler.device)
    kept = plan.prefix(x.to(sampler.device, DTYPES[sampler.precision], memory_format=torch.channels_last))
    found: Tensor = plan.suffix(*kept) if isinstance(kept, tuple) else plan.suffix(kept)
    return found


def draw_weights(model: Model, seed: int, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the weights (S, C·J, F) and biases (S, C·J) of some samples' last layer."""
    head, factor = head_of(model), model.fitted[FACTOR].double()
    positions, size, _ = factor.shape
    drawn = uniform(seed, np.asarray(numbers)[:, None], _PURPOSE, np.arange(positions * size)[None], dtype=np.float64)
    noise = torch.from_numpy(ndtri(np.maximum(drawn, 2.0**-54))).reshape(len(numbers), positions, size)  # (S, J, n)
    # (J, n, n) and (S, J, n) → (S, J, n) → (S, J, C, F + 1)
    off = torch.einsum("jab,sjb->sja", factor, noise).unflatten(2, (head.classes, -1))
    drawn_weights = (off.transpose(1, 2).flatten(1, 2) + _with_bias(head)).float()  # (S, C·J, F + 1)
    return drawn_weights[..., :-1], drawn_weights[..., -1]


def _with_bias(head: Head) -> Tensor:
    """Return the trained weights and biases, (C·J, F + 1), float64."""
    return torch.cat([head.weight, head.bias[:, None]], 1).double()


class Curvature:
    """The sum H over pixels, (J, n, n), and the posterior that follows from it."""

    def __init__(self, model: Model, device: str = "cpu") -> None:
        """Start with no pixel; features are computed on ``device``."""
        self.model, self.head, self.pixels = model, head_of(model), 0
        self.once = OneModel(model, samples=0, device=device)
        shape = self.head.factor_shape
        if np.prod(shape) > LARGEST:
            raise ModelError(f"a posterior of {shape[0]} × {shape[1]}² numbers is too large for model files")
        self.sum = torch.zeros(shape, dtype=torch.float64)

    def add(self, window: Window, chosen: np.ndarray) -> None:
        """Add the pixels of a window's core that are ``chosen``, (h, w) bool."""
        y, x = (torch.from_numpy(v) for v in np.nonzero(chosen))
        y, x, fold = y + window.core.y0, x + window.core.x0, self.head.fold
        with torch.inference_mode():
            features = features_of(self.once, window)[0, :, y // fold, x // fold].cpu().double().T  # (F, N) → (N, F)
            self.add_pixels(features, (y % fold) * fold + x % fold)

    def add_pixels(self, features: Tensor, position: Tensor) -> None:
        """Add pixels of these features (N, F), at these positions in their cells, (N,) of 0 … J − 1."""
        known = torch.cat([features, features.new_ones(len(features), 1)], 1)  # (N, F + 1)
        weights = _with_bias(self.head).unflatten(0, (self.head.classes, -1))  # (C, J, F + 1)
        for j in range(len(self.sum)):
            phi = known[position == j]  # (M, F + 1), M of the N pixels
            curvature = logit_curvature(phi @ weights[:, j].T / self.model.spec.temperature)  # (M, C) → (M, C, C)
            curvature /= self.model.spec.temperature**2
            # (n, n) as (C, F + 1, C, F + 1)
            blocks = self.sum[j].view(self.head.classes, phi.shape[1], self.head.classes, phi.shape[1])
            for c, d in np.ndindex(self.head.classes, self.head.classes):
                blocks[c, :, d] += phi.T @ (curvature[:, c, d, None] * phi)  # (F + 1, M) @ (M, F + 1)
        self.pixels += len(features)

    def posterior(self) -> Model:
        """Return the model with the posterior that these pixels give, drawn from by default.

        Raises
        ------
        InputError : no pixel was added.
        """
        if not self.pixels:
            raise InputError("no pixel is both valid and labelled, so there is no posterior")
        values, vectors = torch.linalg.eigh(self.sum)  # (J, n), (J, n, n)
        values = values.clamp(min=0)
        precision = best_precision(values.numpy(), float(_with_bias(self.head).square().sum()))
        factor = vectors / (values + precision).sqrt()[:, None]  # (J, n, n) / (J, 1, n)
        told = {"layer": self.head.name, "pixels": self.pixels, "prior_precision": precision}
        spec = replace(self.model.spec, sampler=Laplace.name, laplace=told, format=FORMAT)
        return Model(self.model.network, spec, {**self.model.fitted, FACTOR: factor.float()})


def logit_curvature(logits: Tensor) -> Tensor:
    """Return the second derivative of −ln p by tempered logits (N, C), the same for each label: (N, C, C)."""
    if logits.shape[1] == 1:
        p = logits.sigmoid()
        return (p * (1 - p))[..., None]
    p = logits.softmax(1)
    return torch.diag_embed(p) - p[:, :, None] * p[:, None]


def best_precision(eigenvalues: np.ndarray, square: float) -> float:
    """Return the prior precision λ of the largest marginal likelihood.

    eigenvalues : of H, any shape. square : |θ|² of the trained weights.
    """

    def loss(log: float) -> float:
        precision = float(np.exp(log))
        return precision * square + float(np.log(eigenvalues + precision).sum()) - eigenvalues.size * log

    grid = np.linspace(*BOUNDS, 61)
    best = int(np.argmin([loss(log) for log in grid]))
    around = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    return float(np.exp(minimize_scalar(loss, bounds=around, method="bounded").x))
