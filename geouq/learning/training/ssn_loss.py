"""The loss of a Stochastic Segmentation Network: the likelihood of a whole label map, integrated over the logits.

−ln p(y|x) ≈ −ln (1/M Σ_m Π_pixels p(y_i | η_i^(m))), η^(m) drawn from the logits' distribution (Monteiro et al. 2020,
arXiv 2006.06015, eq. 5). The product over pixels stands inside the sum over draws: that is what makes a network
prefer draws that are right together. Only draws are needed, no density: nothing here can fail to factorise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from geouq.networks.ssn import Distribution

#: a factor with an entry above this, or none at all, is left out for the image: independent normals are left
LARGEST = 1e3


@dataclass(frozen=True)
class Integral:
    """How the integral is drawn: M ``draws``; ``antithetic``: half of them, and their mirror images about the mean."""

    draws: int = 20
    antithetic: bool = True


def ssn_nll(
    distribution: Distribution, label: Tensor, valid: Tensor, how: Integral, generator: torch.Generator
) -> tuple[Tensor, int]:
    """Return the batch's mean negative log-likelihood of a label map, over its mean number of valid pixels.

    Parameters
    ----------
    distribution : mean and diagonal (N, C, H, W), factor (N, R, C, H, W), float32; C = 1 is binary (sigmoid).
    label : (N, H, W), class index, or for C = 1 the share of class 1; anything where ``valid`` is 0.
    valid : (N, H, W), 0 or 1; elsewhere neither the factor nor the diagonal counts.

    Returns
    -------
    The loss in nats a pixel, and for how many images the factor was left out.
    """
    distribution, left_out = usable(distribution, valid)
    log_p = log_likelihoods(draw(distribution, how, generator), label, valid)
    nll = math.log(len(log_p)) - torch.logsumexp(log_p, 0)
    return nll.mean() / (valid.sum() / len(valid)).clamp(min=1), left_out


def usable(distribution: Distribution, valid: Tensor) -> tuple[Distribution, int]:
    """Return the distribution with deviations on valid pixels alone, and the number of images whose factor is dropped.

    A covariance blows up where logits are certain; where it has (not finite, or above ``LARGEST``), an image is left
    with independent normals of the same diagonal.
    """
    mean, diagonal, factor = distribution
    inside = valid[:, None]
    factor = torch.where(inside[:, None] > 0, factor, 0)
    fits = (factor.abs().flatten(1).amax(1) <= LARGEST) if factor.shape[1] else torch.ones(len(mean), dtype=torch.bool)
    left_out = len(mean) - int(fits.sum())
    if left_out:
        factor = torch.where(fits[:, None, None, None, None], factor, 0)
    return Distribution(mean, diagonal * inside, factor), left_out


def draw(distribution: Distribution, how: Integral, generator: torch.Generator) -> Tensor:
    """Return logits (M, N, C, H, W) of ``how.draws`` draws, one z an image; an odd number drops a mirror image."""
    mean, diagonal, factor = distribution
    count = -(-how.draws // 2) if how.antithetic else how.draws
    z = torch.randn((len(mean), count, factor.shape[1]), generator=generator).to(mean)
    noise = torch.randn((count, *mean.shape), generator=generator).to(mean)
    moved = torch.bmm(z, factor.flatten(2)).unflatten(2, mean.shape[1:]).transpose(0, 1)
    deviation = moved + noise * (diagonal + 1e-12).sqrt()  # a gradient also where the diagonal is 0
    if how.antithetic:
        deviation = torch.cat([deviation, -deviation])[: how.draws]
    drawn: Tensor = mean + deviation
    return drawn


def log_likelihoods(logits: Tensor, label: Tensor, valid: Tensor) -> Tensor:
    """Return ln p(label | logits) of whole maps: summed over valid pixels in float64, (M, N) for (M, N, C, H, W)."""
    if logits.shape[2] == 1:
        share = torch.where(valid > 0, label, 0).to(logits)
        log_p = share * logits[:, :, 0] - functional.softplus(logits[:, :, 0])
    else:
        index = torch.where(valid > 0, label, 0).long().expand(len(logits), -1, -1, -1)
        log_p = functional.log_softmax(logits, 2).gather(2, index[:, :, None])[:, :, 0]
    return (log_p * valid).flatten(2).sum(2, dtype=torch.float64)
