"""How far a network sees: measured from the network itself, whatever its weights.

NaN is contagious: through a convolution, even one with zero weights, through pooling, ReLU, normalisation with fixed
statistics and interpolation. So NaN is put on one side of a line on the network's stride grid, and
the farthest output it reaches on the other side *is* the halo a window needs there. A network that spreads it
over everything (global pooling, attention, instance or group norm over space) has no finite receptive field.
Background: Araujo et al. 2019, Computing Receptive Fields of Convolutional Neural Networks,
doi 10.23915/distill.00021.
"""

from __future__ import annotations

import torch
from torch import nn

from geouq.networks.sites import as_logits

#: Networks that see farther than this many pixels are treated as seeing everything.
LIMIT = 2048


def measure_halo(network: nn.Module, bands: int, stride: int) -> int | None:
    """Return the halo in pixels, a multiple of ``stride``, or None if the receptive field is not finite.

    The halo is exact for windows that start and end on the stride grid: outputs at least that far inside
    such a window depend on nothing outside it.
    """
    was_training = network.training
    network.eval()
    try:
        half = 8 * stride
        while half <= LIMIT:
            reach = max(_reach(network, bands, stride, half, axis) for axis in (2, 3))
            if reach < half:
                return -(-reach // stride) * stride
            half *= 2
    finally:
        network.train(was_training)
    return None


def _reach(network: nn.Module, bands: int, stride: int, half: int, axis: int) -> int:
    """Return how far NaN on one side of the middle reaches into the other; the worse of both directions."""
    parameter = next(network.parameters(), torch.zeros(()))
    shape = [1, bands, 2 * stride, 2 * stride]
    shape[axis] = 2 * half
    reach = 0
    for bad in (slice(0, half), slice(half, None)):
        x = torch.zeros(shape, dtype=parameter.dtype, device=parameter.device)
        x[(slice(None),) * axis + (bad,)] = torch.nan
        with torch.inference_mode():
            touched = as_logits(network(x))[0].isnan().amax(0).amax(3 - axis)  # (2·half,) along the axis
        other = touched[half:] if bad.start == 0 else touched[:half].flip(0)  # counted from the middle
        farthest = other.nonzero()
        reach = max(reach, int(farthest.max()) + 1 if len(farthest) else 0)
    return reach
