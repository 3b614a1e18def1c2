"""What would break on a GPU, on a CPU: stand-ins for its memory, its arithmetic and its being another device."""

import contextlib
import json
import math
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from geouq.errors import ModelError, TileError
from geouq.grid import Roi
from geouq.networks.model import Model
from geouq.sampling import devices, one_model
from geouq.sampling.engine import TileResult, predict_tile
from geouq.sampling.estimators import Question, RunningSums
from geouq.sampling.laplace import Curvature
from geouq.sampling.one_model import OneModel
from geouq.sampling.sampler import Sampler
from geouq.sampling.samplers import make_sampler
from geouq.sampling.window import Window
from tests.helpers import scene_values, small_model, small_ssn

ROOT, SIDE = Path(__file__).parents[1], 32
ASK = Question(("mask", "probability"), 2, 1, 0.5, 1.0)


def window() -> Window:
    return Window(scene_values(SIDE, SIDE, holes=False), np.ones((SIDE, SIDE), bool), Roi(4, 28, 4, 28), (10, 20))


def with_posterior(model: Model) -> Model:
    curvature = Curvature(model)
    curvature.add(window(), np.ones((24, 24), bool))
    return curvature.posterior()


def head_alone() -> Model:
    return small_model(dropout={"head": 0.3})


SAMPLERS = {
    "one pass": lambda **told: make_sampler(small_model(), samples=0, **told),
    "dropout": lambda **told: make_sampler(small_model(), samples=5, batch=2, **told),
    "place": lambda **told: make_sampler(small_model().with_spec(place_effect=0.5), samples=3, **told),
    "ssn": lambda **told: make_sampler(small_ssn(), samples=3, **told),
    "ssn, scene": lambda **told: make_sampler(small_ssn(correlation="scene"), samples=3, **told),
    "ensemble": lambda **told: make_sampler([small_model(), small_model(widths=(4, 6))], samples=4, **told),
    "laplace": lambda **told: make_sampler(with_posterior(small_model()), "laplace", samples=3, **told),
    "closed form": lambda **told: make_sampler(head_alone(), samples=math.inf, **told),
}


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_all_that_a_sampler_needs_is_where_it_computes(name, precision, monkeypatch):
    """The device "meta" holds no numbers, and refuses to compute with tensors of another; convolutions are watched."""
    convolve = functional.conv2d

    def on_one_device(x, *others, **more):
        told = [x, *others, *more.values()]
        assert len({one.device for one in told if isinstance(one, torch.Tensor)}) == 1
        return convolve(x, *others, **more)

    monkeypatch.setattr(functional, "conv2d", on_one_device)
    monkeypatch.setattr(OneModel, "check_finite", lambda sampler, numbers: None)
    sampler = SAMPLERS[name](device="meta", precision=precision)
    drawn = list(sampler.draw(window()))
    assert len(drawn) == len(sampler.quadrature or sampler.numbers)
    for _, logits in drawn:
        assert logits.device.type == "meta" and logits.dtype == torch.float32 and logits.shape == (1, 24, 24)
    there = torch.ones(24, 24, dtype=torch.bool, device="meta")
    layers = ("mask", "probability", "std", "votes", "epistemic", "variation_ratio")
    sums = RunningSums(replace(ASK, layers=layers), there, torch.ones(1, 1, device="meta"), 8)
    for number, (_, logits) in enumerate(drawn):
        with torch.inference_mode():
            sums.add(logits, number)


@pytest.fixture
def settings_of_torch():
    places = {torch.backends.cudnn: ("allow_tf32", "deterministic", "benchmark"), torch.backends.cuda.matmul: ()}
    before = {(place, name): getattr(place, name) for place, names in places.items() for name in names}
    yield
    for (place, name), value in before.items():
        setattr(place, name, value)


def test_float32_on_a_gpu_is_float32_and_repeats_itself(settings_of_torch):
    assert torch.backends.cudnn.allow_tf32, "torch's default has changed: is exact_arithmetic still needed?"
    with contextlib.suppress(AssertionError, RuntimeError):  # there is no GPU here
        make_sampler(small_model(), samples=2, device="cuda").plan()
    assert not torch.backends.cudnn.allow_tf32 and torch.backends.cudnn.deterministic
    assert not torch.backends.cuda.matmul.allow_tf32


class Full(torch.nn.Module):
    """A suffix that finds no memory for more than one sample, with a large tensor in its hands."""

    def __init__(self, suffix: torch.nn.Module) -> None:
        super().__init__()
        self.suffix, self.held = suffix, []

    def forward(self, *inputs):
        if max(t.shape[0] for t in inputs if isinstance(t, torch.Tensor)) > 1:
            large = torch.ones(100)
            self.held.append(weakref.ref(large))
            raise torch.OutOfMemoryError("no room")
        return self.suffix(*inputs)


def on_a_gpu(monkeypatch, sampler: Sampler, **changes) -> None:
    plan = replace(sampler.plan(), **changes)
    monkeypatch.setattr(OneModel, "plan", lambda sampler: plan)
    monkeypatch.setattr(one_model, "is_cpu", lambda device: False)
    monkeypatch.setattr(devices, "_FITS", {})


def predict(sampler: Sampler):
    return predict_tile(sampler, ASK, window(), np.ones((1, 1)))


def test_what_did_not_fit_is_let_go_of_before_memory_is_asked_for_again(monkeypatch):
    sampler = make_sampler(small_model(), samples=4, batch=4)
    full = Full(sampler.plan().suffix)
    on_a_gpu(monkeypatch, sampler, suffix=full)
    alive = []

    def halve(device, batch):
        alive.append(full.held[-1]() is not None)
        return devices.did_not_fit(device, batch)

    monkeypatch.setattr(one_model, "did_not_fit", halve)
    assert predict(sampler).batch == 1 and alive == [False, False]


@pytest.mark.parametrize("where", ["upload", "RunningSums.add", "RunningSums.layers"])
def test_memory_that_runs_out_anywhere_names_the_way_out(where, monkeypatch):
    def no_room(*args):
        raise torch.OutOfMemoryError("no room")

    name = where.rpartition(".")[2]
    monkeypatch.setattr(RunningSums if "." in where else sys.modules["geouq.sampling.window"], name, no_room)
    with pytest.raises(TileError, match="smaller --tile"):
        predict(make_sampler(small_model(), samples=2))


def test_the_closed_form_of_half_precision_has_the_variance_of_float32(monkeypatch):
    """Features of 300 have squares that float16 cannot hold; bfloat16 stands in for what a CPU can compute."""
    model = head_alone()
    with torch.no_grad():
        model.network.head.weight /= 1000
    sampler = make_sampler(model, samples=math.inf)
    block = sampler.start(window())
    monkeypatch.setattr(type(sampler), "start", lambda self, window: start(self.precision))

    def start(precision):
        dtype = one_model.DTYPES[precision]
        return [replace(b, kept=tuple((300 * t.sign()).to(dtype) for t in b.kept)) for b in block]

    half = sampler.changed(device="cpu", precision="bfloat16")
    object.__setattr__(half, "precision", "float16")
    with torch.inference_mode():
        (_, exact), (_, rounded) = sampler.moments(window()), half.moments(window())
    assert torch.isfinite(rounded).all()
    torch.testing.assert_close(rounded, exact, rtol=2e-3, atol=1e-6)


def test_numbers_that_float16_cannot_hold_are_refused_with_the_way_out():
    sampler = make_sampler(small_model(), samples=2)
    object.__setattr__(sampler, "precision", "float16")
    with pytest.raises(ModelError, match="take --precision bfloat16"):
        list(sampler.finish(torch.full((1, 1, 4, 4), 7e4).half(), [0]))
    closed = make_sampler(head_alone(), samples=math.inf)
    with torch.no_grad():
        closed.model.network.head.weight[:] = torch.inf
    with pytest.raises(ModelError, match="not finite"):
        predict(make_sampler(Model(closed.model.network, closed.model.spec), samples=math.inf))


def test_the_benchmark_runs_small_on_a_cpu(tmp_path):
    out = tmp_path / "gpu.json"
    command = [sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--size", "128", "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["left out"] == [] and len(found["agreement"]) == 18 and found["memory"] == []
    for row in found["agreement"]:
        if row["precision"] == "float16":
            assert "float16 is for GPUs" in row["refused"]
        else:
            assert row["again the same bytes"] and row["masks equal"] > 0.99
            assert row["max |Δp|"] == 0 if row["precision"] == "float32" else 0 < row["mean |Δp|"] < 0.01
    assert [row["ended with"] for row in found["batches"]] == [1, 4, 10, 20]
    assert found["runs"][1]["again the same bytes"] and found["runs"][0]["Mpx/s, tiles"] > 0
    assert "| dropout | float32 |" in done.stdout
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert again.returncode == 2 and "exists" in again.stderr


def test_the_benchmark_of_little_memory_leaves_room_for_a_few_samples(monkeypatch):
    """With stand-ins for what it asks of a card: 1 GiB is free, a batch of 3 takes 8 MiB, more than 4 do not fit."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    bench = import_module("gpu")
    card = {"synchronize": None, "reset_peak_memory_stats": None, "empty_cache": None}
    card |= {"memory_allocated": 1 << 20, "max_memory_allocated": 9 << 20, "mem_get_info": (1 << 30, 2 << 30)}
    for name, value in card.items():
        monkeypatch.setattr(torch.cuda, name, lambda *args, value=value: value)
    monkeypatch.setattr(bench.Bench, "gpu", True)
    sampler = make_sampler(small_model(), samples=5)
    asked, empty = [], torch.empty
    monkeypatch.setattr(bench, "samplers", lambda: {"dropout": sampler})
    monkeypatch.setattr(torch, "empty", lambda *args, **told: asked.append(args) or empty(0))
    found = []

    def predict(sampler, pixels):
        found.append(sampler.batch)
        batch = sampler.batch if len(found) < 3 else 4
        shape = (8, 8)
        layers = {"mask": np.zeros(shape, np.uint8), "probability": np.zeros(shape, np.float32)}
        return TileResult(layers, np.zeros(5), 64, np.zeros((5, 0)), drawn=5, batch=batch)

    monkeypatch.setattr(bench, "predict", predict)
    where = bench.Bench("cpu", time.monotonic() + 100, [])
    (row,) = bench.little_memory(where, np.zeros((2, 8, 8), np.float32))
    assert found == [20, 3, 20] and asked == [((1 << 30) - (12 << 20),)]
    assert row["memory left, MiB"] == 12 and row["ended with"] == 4 and row["halved"] and row["masks equal"] == 1
