"""A tile's window, as samplers take it: pixels in the models' units, which each network sees in its own way."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from geouq.grid import Roi
from geouq.networks.model import Model


class Window:
    """The pixels that one tile is computed from, and the part of them that it answers for."""

    def __init__(self, pixels: np.ndarray, valid: np.ndarray, core: Roi, origin: tuple[int, int] = (0, 0)) -> None:
        """Take float32 ``pixels`` (K, H, W), the models' bands in their units; H and W are multiples of their strides.

        valid : bool (H, W). core : the part to answer for, in window coordinates.
        origin : absolute row and column of the window's first pixel in the scene.
        """
        self.pixels, self.valid, self.core, self.origin = pixels, valid, core, origin
        self._ready: tuple[Model, Tensor] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """H and W."""
        rows, columns = self.valid.shape
        return rows, columns

    @property
    def roi(self) -> Roi:
        """Where it lies in the scene; it may reach beyond it."""
        (y, x), (rows, columns) = self.origin, self.shape
        return Roi(y, y + rows, x, x + columns)

    @property
    def corner(self) -> tuple[int, int]:
        """Absolute row and column of the core's first pixel."""
        return self.origin[0] + self.core.y0, self.origin[1] + self.core.x0

    def prepare(self, model: Model, device: str) -> None:
        """Make what :meth:`seen_by` returns for a model now, while the device still computes another tile."""
        self._ready = model, self.seen_by(model, device)

    def seen_by(self, model: Model, device: str) -> Tensor:
        """Return (1, K, H, W) as the model's network sees it, on a device: normalised, 0 where not valid."""
        if self._ready is not None and self._ready[0] is model:
            return self._ready[1]
        x = model.normalise(self.pixels)
        x[:, ~self.valid] = 0
        return upload(x[None], device)


def upload(array: np.ndarray, device: str) -> Tensor:
    """Return ``array`` on a device. To a GPU it goes beside what is being computed there, through pinned memory."""
    tensor = torch.from_numpy(array)
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    stream = torch.cuda.Stream(device)
    with torch.cuda.stream(stream):
        there = tensor.pin_memory().to(device, non_blocking=True)
    stream.synchronize()  # this thread waits; the one that computes does not
    there.record_stream(torch.cuda.current_stream(device))
    return there
