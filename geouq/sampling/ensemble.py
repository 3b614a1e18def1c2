"""Ensembles (Lakshminarayanan et al. 2017, arXiv 1612.01474): sample s of M models is that of member s mod M alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from geouq.compiling.plan import Plan
from geouq.errors import ModelError
from geouq.networks.model import Model
from geouq.sampling.one_model import OneModel, check_number
from geouq.sampling.window import Window


@dataclass(frozen=True)
class Ensemble:
    """Members in turn, each drawing as it is made to: through its dropout mask s, or its SSN's draw s, if it has them.

    ``samples`` = 0 is one pass of the first member. What is told of seed, batch, device and precision is the same for
    all members.
    """

    members: tuple[OneModel, ...]
    samples: float

    name: ClassVar[str] = "ensemble"
    quadrature: ClassVar[tuple[float, ...]] = ()

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise ModelError("an ensemble needs several models: give --model more than once")
        check_number(self.samples)
        for other in self.models[1:]:
            _check_alike(self.model, other)
        if self.samples > len(self.members) and not self.varies:
            raise ModelError(
                f"{len(self.members)} models without an active dropout site give as many samples, "
                f"not {self.samples}: use --samples {len(self.members)}"
            )

    @property
    def models(self) -> tuple[Model, ...]:
        """Those of all members."""
        return tuple(member.model for member in self.members)

    @property
    def model(self) -> Model:
        """That of the first member."""
        return self.members[0].model

    @property
    def seed(self) -> int:
        """Of all members."""
        return self.members[0].seed

    @property
    def batch(self) -> int:
        """Of all members."""
        return self.members[0].batch

    @property
    def device(self) -> str:
        """Of all members."""
        return self.members[0].device

    @property
    def precision(self) -> str:
        """Of all members."""
        return self.members[0].precision

    @property
    def active(self) -> dict[str, float]:
        """The first member's."""
        return self.members[0].active

    @property
    def varies(self) -> bool:
        """True if a member's samples differ."""
        return any(member.varies for member in self.members)

    @property
    def numbers(self) -> range:
        """0 … samples − 1."""
        return range(max(int(self.samples), 1))

    def numbers_of(self, member: int) -> range:
        """Return the numbers of the samples that a member draws."""
        if not self.samples:
            return range(1 if member == 0 else 0)
        return range(member, len(self.numbers), len(self.members))

    def draw(self, window: Window, numbers: Sequence[int] | None = None) -> Iterator[tuple[int, Tensor]]:
        """Yield (number, logits of the core), member by member, all at the first model's temperature."""
        for m, member in enumerate(self.members):
            scale = self.model.spec.temperature / member.model.spec.temperature
            mine = [s for s in self.numbers_of(m) if numbers is None or s in numbers]
            for number, logits in member.draw(window, mine) if mine else ():
                yield number, logits if scale == 1 else logits * scale

    def plan(self) -> Plan:
        """Return the first member's."""
        return self.members[0].plan()

    def bytes_for(self, pixels: int) -> int:
        """Return the most that a member takes: they take turns."""
        return max(member.bytes_for(pixels) for member in (self.members if self.samples else self.members[:1]))

    def tags(self) -> dict[str, Any]:
        """Return those of the first member that has any."""
        return next((tags for member in self.members if (tags := member.tags())), {})

    def changed(self, **changes: Any) -> Ensemble:
        """Return the same ensemble, all members told otherwise."""
        samples = changes.pop("samples", self.samples)
        return Ensemble(tuple(m.changed(samples=min(samples, 1), **changes) for m in self.members), samples)


def _check_alike(first: Model, other: Model) -> None:
    """Raise ModelError for members of an ensemble that do not take the same bands or give the same classes."""
    for what in ("bands", "units", "classes", "positive"):
        ours, theirs = getattr(first.spec, what), getattr(other.spec, what)
        if ours != theirs:
            raise ModelError(
                f"models {first.spec.name!r} and {other.spec.name!r} are no ensemble: {what} are {ours} and {theirs}"
            )
    if first.logits != other.logits:
        raise ModelError(
            f"models {first.spec.name!r} and {other.spec.name!r} are no ensemble: one has {first.logits} logits a "
            f"pixel, the other {other.logits}"
        )
