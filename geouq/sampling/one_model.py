"""What samplers of one model share: their settings, the compiled plan, the one pass, batches that fit the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from geouq.compiling.blocks import Block, block_logits, cut
from geouq.compiling.plan import Plan, make_plan
from geouq.errors import ModelError
from geouq.forks import lock
from geouq.layers import positive_logit
from geouq.networks.architectures import ARCHITECTURES
from geouq.networks.model import Model
from geouq.networks.own import told_apart
from geouq.networks.ssn import mean_of
from geouq.sampling.cores import in_order, is_cpu, on_core
from geouq.sampling.deviations import Weights
from geouq.sampling.devices import batch_that_fits, did_not_fit, exact_arithmetic
from geouq.sampling.draws import place_effects
from geouq.sampling.names import PRECISIONS
from geouq.sampling.window import Window

#: "bfloat16" is about twice as fast where the processor has it, slower where not, and rounds to 2 or 3 digits: with it
#: maps are the same for the same settings, but another tiling may show in the second digit of a probability.
DTYPES = {name: getattr(torch, name) for name in PRECISIONS}


@dataclass(frozen=True)
class OneModel:
    """A sampler of one model (geouq.sampling.sampler): a subclass says what one sample is.

    ``samples`` = 0 is one deterministic pass. Sample numbers start at 0.
    ``precision`` is that of the network's arithmetic; sums over samples are float32 always.

    sites : the dropout sites to sample at, or groups of them; None = all with a rate.
    weights : of an SSN's deviations.
    """

    model: Model
    samples: float = 20
    seed: int = 0
    batch: int = 1
    device: str = "cpu"
    precision: str = "float32"
    sites: tuple[str, ...] | None = None
    weights: Weights = Weights()

    name: ClassVar[str]
    quadrature: ClassVar[tuple[float, ...]] = ()

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ModelError(f"no precision {self.precision!r}: choose among {', '.join(PRECISIONS)}")
        if self.precision == "float16" and torch.device(self.device).type == "cpu":
            raise ModelError("float16 is for GPUs: take bfloat16 or float32 on a CPU")
        if self.batch < 1:
            raise ModelError(f"batch={self.batch}: give 1 or more")
        self.check()

    def check(self) -> None:
        """Raise ModelError for samples that this model has not."""
        check_number(self.samples)
        if self.samples > 1 and not self.varies:
            raise ModelError(
                f"model {self.model.spec.name!r} has no active dropout site, so its samples would all be equal: "
                "use --samples 0 for one deterministic pass, a model trained with dropout, or several models"
            )

    @property
    def models(self) -> tuple[Model, ...]:
        """The one."""
        return (self.model,)

    @property
    def active(self) -> dict[str, float]:
        """Rates of the sites that sample."""
        return {}

    @property
    def varies(self) -> bool:
        """True if two samples differ: by what is drawn, or by the place's effect."""
        return bool(self.active) or self.model.spec.place_effect > 0

    @property
    def numbers(self) -> range:
        """0 … samples − 1."""
        return range(max(int(self.samples), 1))

    def draw(self, window: Window, numbers: Sequence[int] | None = None) -> Iterator[tuple[int, Tensor]]:
        """Yield (number, logits of the core); see geouq.sampling.sampler."""
        draw = self.draw_samples if self.samples else self.one_pass
        yield from draw(window, self.numbers if numbers is None else numbers)

    def draw_samples(self, window: Window, numbers: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield (number, logits of the core) of real draws: what makes a sampler."""
        raise NotImplementedError

    def one_pass(self, window: Window, numbers: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield the logits of the network without any draw, the same for each of ``numbers``."""
        blocks = on_core(self.device, self.start, window)
        yield from self.in_batches(numbers, lambda now: self.plain(blocks, len(now)))

    def plain(self, blocks: Sequence[Block], count: int) -> Tensor:
        """Return ``count`` copies of the logits that draw nothing, (count, classes or 1, h, w)."""
        logits = mean_of(self.model.network, block_logits(self.plan(), blocks, ()))
        return logits.expand(count, -1, -1, -1).clone()  # perhaps a view of what the prefix made

    def start(self, window: Window) -> list[Block]:
        """Compute what all samples share, and return what each starts from, block by block of the core."""
        plan, x = self.plan(), window.seen_by(self.model, self.device)
        kept = plan.prefix(x.to(self.device, DTYPES[self.precision], memory_format=torch.channels_last))
        return cut(plan, kept if isinstance(kept, tuple) else (kept,), window.core, window.shape)

    def in_batches(
        self, numbers: Sequence[int], compute: Callable[[Sequence[int]], Tensor]
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield (number, logits) of what ``compute`` makes for some numbers at once, (S, classes or 1, h, w).

        On a processor batches are computed side by side. Where a GPU has not the memory for ``batch`` samples, half as
        many are tried.
        """
        if is_cpu(self.device):
            parts = (numbers[i : i + self.batch] for i in range(0, len(numbers), self.batch))
            for drawn in in_order(partial(self._finished, compute, now) for now in parts):
                yield from drawn
            return
        batch = batch_that_fits(self.device, self.batch)
        while numbers:
            fitted = self._if_it_fits(compute, numbers[:batch])
            if fitted is None:
                batch = did_not_fit(self.device, batch)
                continue
            yield from fitted
            numbers = numbers[len(fitted) :]

    def _if_it_fits(
        self, compute: Callable[[Sequence[int]], Tensor], numbers: Sequence[int]
    ) -> list[tuple[int, Tensor]] | None:
        """Return the logits of some numbers, or None where fewer at once may fit the device's memory."""
        try:
            return on_core(self.device, self._finished, compute, numbers)
        except torch.OutOfMemoryError:
            if len(numbers) == 1:
                raise
            return None

    def _finished(self, compute: Callable[[Sequence[int]], Tensor], numbers: Sequence[int]) -> list[tuple[int, Tensor]]:
        return list(self.finish(compute(numbers), numbers))

    def finish(self, logits: Tensor, numbers: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield (number, float32 logits) of samples (S, classes or 1, h, w) with their place effects, all finite."""
        add_place_effects(self, logits, numbers)
        self.check_finite(logits)
        for number, one in zip(numbers, logits, strict=True):
            yield number, one.float()

    def check_finite(self, numbers: Tensor) -> None:
        """Raise ModelError unless what the network gave is finite."""
        if not torch.isfinite(numbers.sum(dtype=torch.float32)):  # one number instead of one flag a pixel
            way_out = ": its weights are damaged: give another model"
            if self.precision == "float16":
                way_out = ": float16 ends at 65504, take --precision bfloat16"
            raise ModelError(f"model {self.model.spec.name!r} gave logits that are not finite numbers{way_out}")

    def plan(self) -> Plan:
        """Return the compiled plan, made once a process for a model, its sites and a device."""
        return compiled(self, self.model.network)

    def bytes_for(self, pixels: int) -> int:
        """Return the promised bytes of live tensors for a window of ``pixels``."""
        return self.plan().bytes_for(pixels, self.batch)

    def tags(self) -> dict[str, Any]:
        """Return nothing more."""
        return {}

    def changed(self, **changes: Any) -> Self:
        """Return the same sampler told otherwise."""
        return replace(self, **changes)


def check_number(samples: float) -> None:
    """Raise ModelError unless ``samples`` is a whole number, 0 or more."""
    if not isinstance(samples, int) or samples < 0:
        raise ModelError(f"samples={samples}: give a whole number, 0 or more")


def add_place_effects(sampler: OneModel, logits: Tensor, numbers: Sequence[int]) -> None:
    """Add each sample's offset to the positive class's logits (S, classes or 1, h, w), in place.

    One logit is that of class 1: where the positive class is 0, what raises its probability lowers the logit.
    """
    spec = sampler.model.spec
    if spec.place_effect and sampler.samples:
        effects = torch.from_numpy(place_effects(spec.place_effect, sampler.seed, numbers)).to(logits)
        positive = spec.legend.positive
        if logits.shape[1] == 1:
            effects = positive_logit(effects, positive)
        logits[:, positive if logits.shape[1] > 1 else 0] += effects[:, None, None]


KEPT_PLANS = 32  # members of an ensemble take turns, tile by tile
_LOCK = lock()
_PLANS: dict[tuple[str, ...], Plan] = {}


def compiled(sampler: OneModel, network: nn.Module, part: str = "") -> Plan:
    """Return the plan of the sampler's network, or of the ``part`` of it that is given, from the cache or made now."""
    spec, active = sampler.model.spec, sampler.active
    own = "" if spec.architecture in ARCHITECTURES else told_apart(network)
    key = (sampler.model.hash, own, part, ",".join(active), sampler.device, sampler.precision)
    with _LOCK, torch.inference_mode(False):  # who asks first may be in it, and others who use the plan not
        if key not in _PLANS:
            if torch.device(sampler.device).type == "cuda":
                exact_arithmetic()
            plan = make_plan(network, len(spec.bands), spec.stride, active)
            for half in (plan.prefix, plan.suffix):
                half.to(sampler.device, DTYPES[sampler.precision], memory_format=torch.channels_last)  # type: ignore[call-overload]
            _PLANS[key] = plan.in_blocks() if torch.device(sampler.device).type == "cpu" else plan
            if len(_PLANS) > KEPT_PLANS:
                del _PLANS[next(iter(_PLANS))]  # the oldest
        return _PLANS[key]
