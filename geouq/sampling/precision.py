"""How exact arithmetic is, how fast, and which to take: measured, never guessed from a processor's name.

bfloat16 is twice as fast as float32 on one processor and nine times slower on another of the same make.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from geouq.errors import OutputError
from geouq.files import whole
from geouq.grid import Roi
from geouq.sampling.engine import predict_tile
from geouq.sampling.estimators import Question
from geouq.sampling.sampler import Sampler
from geouq.sampling.window import Window

#: bfloat16 must be this much faster to be taken, and may differ by at most this much in the mean.
WORTH, TOLERABLE = 1.2, 0.01
SECONDS = 0.4


@dataclass(frozen=True)
class Choice:
    """A precision, how many times as fast as float32 the reduced one is here, and how far off: |Δp|, max and mean."""

    precision: str
    speedup: float
    max_difference: float
    mean_difference: float

    def __str__(self) -> str:
        return (
            f"{self.precision} (bfloat16 is {self.speedup:.2f} times as fast as float32 here; probabilities differ by "
            f"{self.mean_difference:.1g} on average, {self.max_difference:.1g} at most)"
        )


def compare_precisions(sampler: Sampler, pixels: np.ndarray, precision: str) -> tuple[float, float]:
    """Return the largest and the mean |Δp| of the same samples in ``precision`` and in float32.

    ``pixels`` : (K, H, W) in the model's units, H and W multiples of its stride.
    """
    exact, rounded = (_probability(sampler.changed(precision=p), pixels) for p in ("float32", precision))
    difference = np.abs(exact - rounded)
    return float(difference.max()), float(difference.mean())


def choose_precision(sampler: Sampler) -> Choice:
    """Return the precision to take for a model on a device, from the cache or else by a measurement of about a second.

    The cache is ``geouq/precision.json`` in the user's cache folder (XDG Base Directory), by processor, torch, threads,
    device and model.
    """
    path = cache_file()
    key = "|".join(
        (_processor(sampler.device), torch.__version__, str(torch.get_num_threads()), sampler.model.hash)
        + tuple(sampler.active)
    )
    known = _read(path) if path else {}
    if key not in known:
        known[key] = measure_precision(sampler)
        if path:
            _write(path, {name: vars(choice) for name, choice in known.items()})
    return known[key]


def cache_file() -> Path | None:
    """Return the cache's file; None where no folder is the user's (no HOME, and nobody knows the user)."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "geouq" / "precision.json"
    except RuntimeError:
        return None


def measure_precision(sampler: Sampler, clock: Callable[[], float] = time.perf_counter) -> Choice:
    """Return the faster of float32 and bfloat16, alternating between them on a small window."""
    stride = sampler.model.spec.stride
    side = -(-256 // stride) * stride
    pixels = np.random.default_rng(0).normal(size=(len(sampler.model.spec.bands), side, side)).astype(np.float32)
    for k, (mean, std) in enumerate(zip(sampler.model.spec.mean, sampler.model.spec.std, strict=True)):
        pixels[k] = mean + std * pixels[k]
    small = sampler.changed(batch=1, **({} if sampler.quadrature else {"samples": min(sampler.samples, 2)}))
    largest, average = compare_precisions(small, pixels, "bfloat16")  # also makes the plans
    best = {"float32": float("inf"), "bfloat16": float("inf")}
    ends = clock() + 2 * SECONDS
    while True:
        for precision in best:
            began = clock()
            _probability(small.changed(precision=precision), pixels)
            best[precision] = min(best[precision], clock() - began)
        if clock() >= ends:
            break
    speedup = best["float32"] / max(best["bfloat16"], 1e-9)
    chosen = "bfloat16" if speedup >= WORTH and average <= TOLERABLE else "float32"
    return Choice(chosen, round(speedup, 3), largest, average)


def _probability(sampler: Sampler, pixels: np.ndarray) -> np.ndarray:
    spec, shape = sampler.model.spec, pixels.shape[1:]
    question = Question(("probability",), len(spec.classes), spec.legend.positive, spec.threshold, spec.temperature)
    core = Roi(0, shape[0], 0, shape[1])
    window = Window(pixels, np.ones(shape, bool), core)
    return predict_tile(sampler, question, window, np.ones((1, 1))).layers["probability"]


def _processor(device: str) -> str:
    if torch.device(device).type == "cuda":
        return str(torch.cuda.get_device_name(device))
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _read(path: Path) -> dict[str, Choice]:
    """Return what the cache holds; a damaged one holds nothing."""
    try:
        return {name: Choice(**values) for name, values in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _write(path: Path, known: dict[str, dict[str, Any]]) -> None:
    """Write the cache in one step; a cache that cannot be written is none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as made:
            made.write_text(json.dumps(known, indent=1))
    except (OSError, OutputError):
        pass
