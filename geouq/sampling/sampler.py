"""What a sampler is: all that the engine, the promise of memory, the checks and the tags know of who draws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from geouq.compiling.plan import Plan
from geouq.networks.model import Model
from geouq.sampling.window import Window


class Sampler(Protocol):
    """Draws logits for windows of a scene. A network gives logits, a sampler draws.

    Sample s is one network, or one map, over the whole scene: a function of (seed, s) and of absolute pixel positions,
    never of tiles, batches, devices or the number of samples. An object that cannot draw what was asked is refused with
    a ModelError where it is made.
    """

    @property
    def name(self) -> str:
        """What a map's tags call it."""

    @property
    def models(self) -> tuple[Model, ...]:
        """The models it draws from, the first of which decides classes, threshold and temperature."""

    @property
    def model(self) -> Model:
        """The first of ``models``."""

    @property
    def samples(self) -> float:
        """How many are asked for: 0 = one pass without any draw, ``math.inf`` = their limit, by a closed form."""

    @property
    def seed(self) -> int:
        """Of all its draws."""

    @property
    def batch(self) -> int:
        """Samples to compute at once."""

    @property
    def device(self) -> str:
        """Where logits are computed."""

    @property
    def precision(self) -> str:
        """Of the network's arithmetic, a key of PRECISIONS; what is drawn is float32."""

    @property
    def active(self) -> Mapping[str, float]:
        """The rates of the dropout sites that it samples at."""

    @property
    def varies(self) -> bool:
        """True if two samples differ."""

    @property
    def numbers(self) -> range:
        """The numbers of the samples that ``draw`` gives, range(1) for one pass; empty where none has a number."""

    @property
    def quadrature(self) -> tuple[float, ...]:
        """Weights, of sum 1, of draws that stand for a whole distribution; empty where draws are numbered samples."""

    def draw(self, window: Window, numbers: Sequence[int] | None = None) -> Iterator[tuple[int, Tensor]]:
        """Yield (number, the core's logits), in any order, for ``numbers`` (all by default).

        Logits are float32 (classes or 1, h, w) on ``device``, at the temperature of the first model.

        Raises
        ------
        ModelError : logits are not finite.
        torch.OutOfMemoryError : the device has not the memory for one sample (geouq.sampling.devices.must_fit).
        """

    def plan(self) -> Plan:
        """Return what the (first) network computes once a window, and what once a sample."""

    def bytes_for(self, pixels: int) -> int:
        """Return the promised bytes of live tensors for a window of ``pixels``."""

    def tags(self) -> dict[str, Any]:
        """Return what a map must say of these draws beside name, seed, number and sites: plain values."""

    def changed(self, **changes: Any) -> Sampler:
        """Return the same sampler with another ``samples``, ``batch``, ``device`` or ``precision``."""
