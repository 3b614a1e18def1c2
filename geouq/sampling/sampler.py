"""The sampler: which model or models draw how many samples, and from what."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

import torch

from geouq.compiling.plan import Plan, make_plan
from geouq.errors import ModelError
from geouq.networks.model import Model
from geouq.networks.ssn import SSN
from geouq.sampling.field import check_correlation
from geouq.sampling.ssn import TOGETHER, Weights

#: "bfloat16" is about twice as fast where the processor has it, slower where not, and rounds to 2 or 3 digits: with it
#: maps are the same for the same settings, but another tiling may show in the second digit of a probability.
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
KINDS = ("dropout", "ssn", "ensemble")
#: No samples but their limit (geouq.sampling.closed); ``samples`` is 1 then.
CLOSED = "closed form"


@dataclass(frozen=True)
class Sampler:
    """What draws the samples: which model or models, how many, which seed, how many at once, where.

    ``samples`` = 0 is one deterministic pass of (the first) ``model``, dropout off. Sample numbers start at 0.
    ``precision`` is that of the network's arithmetic; sums over samples are float32 always.

    kind : "dropout" (Monte Carlo dropout, and the place's effect where the model has one), "ssn" (dropout off, logits
        drawn from the network's distribution), "ensemble", or "auto": an ensemble if there are ``others``, else what
        the model's spec says. In an ensemble of M models (Lakshminarayanan et al. 2017, arXiv 1612.01474) sample s
        is that of member s mod M alone: through its dropout mask s, or its SSN's draw s, where it has them.
    others : the members of an ensemble beside ``model``, with the same bands, units and classes.
    weights : of an SSN's deviations.
    """

    model: Model
    samples: int = 20
    seed: int = 0
    batch: int = 1
    device: str = "cpu"
    sites: tuple[str, ...] | None = None
    precision: str = "float32"
    kind: str = "auto"
    others: tuple[Model, ...] = ()
    weights: Weights = Weights()

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ModelError(f"no precision {self.precision!r}: choose among {', '.join(PRECISIONS)}")
        if self.precision == "float16" and torch.device(self.device).type == "cpu":
            raise ModelError("float16 is for GPUs: take bfloat16 or float32 on a CPU")
        if not isinstance(self.samples, int) or self.samples < 0:
            raise ModelError(f"samples={self.samples}: give a whole number, 0 or more")
        if self.batch < 1:
            raise ModelError(f"batch={self.batch}: give 1 or more")
        if self.kind == "auto":
            object.__setattr__(self, "kind", "ensemble" if self.others else self.model.spec.sampler)
        if self.kind not in (*KINDS, CLOSED):
            raise ModelError(f"no sampler {self.kind!r}: choose among {', '.join(KINDS)}, auto")
        if self.others and self.kind != "ensemble":
            raise ModelError(f"sampler {self.kind} takes one model, {1 + len(self.others)} are given: use ensemble")
        if self.kind == "ensemble" and not self.others:
            raise ModelError("an ensemble needs several models: give --model more than once")
        if self.kind == "ssn":
            _check_ssn(self)
        for other in self.others:
            _check_alike(self.model, other)
        members = self.members()
        if self.samples > len(members) and not any(member.varies for member in members):
            raise ModelError(self._alike_message())

    def _alike_message(self) -> str:
        if self.others:
            return (
                f"{1 + len(self.others)} models without an active dropout site give as many samples, "
                f"not {self.samples}: use --samples {1 + len(self.others)}"
            )
        return (
            f"model {self.model.spec.name!r} has no active dropout site, so its samples would all be equal: "
            "use --samples 0 for one deterministic pass, a model trained with dropout, or several models"
        )

    @property
    def varies(self) -> bool:
        """True if two samples of this model differ."""
        return self.kind == "ssn" or bool(self.active) or self.model.spec.place_effect > 0

    @property
    def models(self) -> tuple[Model, ...]:
        """All models."""
        return self.model, *self.others

    def members(self) -> tuple[Sampler, ...]:
        """Return one sampler a model; with ``samples`` = 0 that of the first alone."""
        if self.kind != "ensemble":
            return (self,)
        chosen = self.models if self.samples else self.models[:1]
        few = min(self.samples, 1)
        return tuple(replace(self, model=model, kind="auto", others=(), samples=few) for model in chosen)

    def numbers(self, member: int) -> range:
        """Return the numbers of the samples that a member draws."""
        return range(member, max(self.samples, 1), len(self.models) if self.samples else 1)

    @property
    def active(self) -> dict[str, float]:
        """Rates of the sites that sample."""
        return self.model.active_sites(self.sites) if self.samples and self.kind != "ssn" else {}

    def plan(self) -> Plan:
        """Return the compiled plan of (the first) model, made once a process for a model, its sites and a device."""
        return _compiled(self)

    def bytes_for(self, pixels: int) -> int:
        """Return the promised bytes of live tensors for a window of ``pixels``: members take turns."""
        return max(_bytes_for(member, pixels) for member in self.members())


KEPT_PLANS = 32  # members of an ensemble take turns, tile by tile
_LOCK = threading.Lock()
_PLANS: dict[tuple[str, str, tuple[str, ...], str, str], Plan] = {}


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


def _check_ssn(sampler: Sampler) -> None:
    if not isinstance(sampler.model.network, SSN):
        raise ModelError(f"model {sampler.model.spec.name!r} is no SSN: use --sampler dropout, or a model that is one")
    if sampler.sites is not None:
        raise ModelError("an SSN samples with dropout off: leave out --sites, or use --sampler dropout")
    check_correlation(sampler.model.spec.correlation)


def _bytes_for(sampler: Sampler, pixels: int) -> int:
    """Return the bytes of one model: of its plan, and of an SSN's block of samples, its deviations and its noise."""
    network, plan = sampler.model.network, _compiled(sampler)
    if sampler.kind != "ssn" or not isinstance(network, SSN):
        return plan.bytes_for(pixels, sampler.batch)
    parameters, together = 2 + network.rank, min(TOGETHER, max(sampler.samples, 1))
    return plan.bytes_for(pixels, 1) + 4 * pixels * network.classes * (2 * parameters + together + 8)


def _compiled(sampler: Sampler) -> Plan:
    spec, active = sampler.model.spec, sampler.active
    # two networks by a user's own code may have the same weights
    own = f"{type(sampler.model.network)} {sampler.model.network}" if spec.architecture == "custom" else ""
    key = (sampler.model.hash, own, tuple(active), sampler.device, sampler.precision)
    with _LOCK:
        if key not in _PLANS:
            plan = make_plan(sampler.model.network, len(spec.bands), spec.stride, active)
            for half in (plan.prefix, plan.suffix, *([plan.tail.suffix] if plan.tail else [])):
                half.to(sampler.device, PRECISIONS[sampler.precision], memory_format=torch.channels_last)  # type: ignore[call-overload]
            _PLANS[key] = plan.in_blocks() if torch.device(sampler.device).type == "cpu" else plan
            if len(_PLANS) > KEPT_PLANS:
                del _PLANS[next(iter(_PLANS))]  # the oldest
        return _PLANS[key]
