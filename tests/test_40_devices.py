"""Memory that runs out, devices in turn, precision by measurement: all on a CPU, with stand-ins for what a GPU does."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from geouq.errors import InputError, ModelError, TileError
from geouq.grid import Roi
from geouq.sampling import devices, precision
from geouq.sampling.engine import predict_tile
from geouq.sampling.estimators import Question
from geouq.sampling.one_model import OneModel
from geouq.sampling.precision import Choice, choose_precision, compare_precisions, measure_precision
from geouq.sampling.samplers import make_sampler
from geouq.sampling.window import Window
from tests.helpers import scene_values, small_model

ASK = Question(("probability",), 2, 1, 0.5, 1.0)


def predict(sampler, side=32):
    values = scene_values(side, side, holes=False)
    return predict_tile(
        sampler, ASK, Window(values, np.ones((side, side), bool), Roi(0, side, 0, side)), np.ones((1, 1))
    )


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(devices, "_FITS", {})


class Small(torch.nn.Module):
    """A suffix on a device with memory for so many samples."""

    def __init__(self, suffix, limit):
        super().__init__()
        self.suffix, self.limit, self.tried = suffix, limit, []

    def forward(self, *inputs):
        samples = max(t.shape[0] for t in inputs if isinstance(t, torch.Tensor))
        self.tried.append(samples)
        if samples > self.limit:
            raise torch.OutOfMemoryError("no room")
        return self.suffix(*inputs)


def with_memory_for(monkeypatch, sampler, limit):
    plan = sampler.plan()
    small = Small(plan.suffix, limit)
    monkeypatch.setattr(OneModel, "plan", lambda sampler: replace(plan, suffix=small))
    monkeypatch.setattr("geouq.sampling.one_model.is_cpu", lambda device: False)  # which has no such memory
    return small


def test_memory_that_runs_out_halves_the_batch_and_says_so(monkeypatch):
    sampler = make_sampler(small_model(), samples=7, batch=6)
    whole = predict(sampler)
    assert whole.batch == 6
    small = with_memory_for(monkeypatch, sampler, 2)
    result = predict(sampler)
    assert small.tried == [6, 3, 1, 1, 1, 1, 1, 1, 1] and result.batch == 1
    np.testing.assert_allclose(result.layers["probability"], whole.layers["probability"], atol=2e-6)
    small.tried.clear()
    predict(sampler)
    assert small.tried[0] == 1, "the next tile need not find out again"


def test_one_sample_that_does_not_fit_names_the_way_out(monkeypatch):
    sampler = make_sampler(small_model(), samples=2)
    with_memory_for(monkeypatch, sampler, 0)
    with pytest.raises(TileError, match="smaller --tile"):
        predict(sampler)
    plan = sampler.plan()
    broken = replace(plan, prefix=Small(plan.prefix, 0))
    monkeypatch.setattr(OneModel, "plan", lambda sampler: broken)
    with pytest.raises(TileError, match="smaller --tile"):
        predict(sampler)


def test_devices_by_name():
    assert devices.choose_devices("cpu, cpu:0") == ("cpu", "cpu:0")
    with pytest.raises(InputError, match="named twice"):
        devices.choose_devices("cpu,cpu")
    with pytest.raises(InputError, match="cannot be used"):
        devices.choose_devices("cpu,cuda:77")
    with pytest.raises(InputError, match="meta"):
        devices.choose_devices("meta")


class Card:
    total_memory = 8 << 30


def test_tile_and_batch_from_a_gpus_memory(monkeypatch):
    """What would be chosen with a GPU of 8 GiB: arithmetic alone, no GPU is asked."""
    sampler = make_sampler(small_model(), samples=20)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Card)
    plan = replace(sampler.plan(), block=0)
    monkeypatch.setattr(OneModel, "plan", lambda sampler: plan)
    card = replace(sampler, device="cuda:0")
    assert devices.tensor_budget("cuda:0") == 2 << 30
    size = devices.choose_tile(card, (30_000, 30_000), 16)
    batch = devices.choose_batch(card, (30_000, 30_000), 16, size)
    window = (size + 32) ** 2
    assert 1 <= batch <= 20 and plan.bytes_for(window, batch) <= 2 << 30
    assert batch == 20 or plan.bytes_for(window, batch + 1) > 2 << 30
    assert devices.choose_batch(sampler, (30_000, 30_000), 16, size) == 1


def test_half_precision_of_gpus_is_refused_on_a_cpu():
    with pytest.raises(ModelError, match="float16 is for GPUs"):
        make_sampler(small_model(), precision="float16")


def test_differences_of_precisions():
    sampler = make_sampler(small_model(stem=2), samples=4)
    values = scene_values(64, 64, holes=False)
    largest, average = compare_precisions(sampler, values, "bfloat16")
    assert 0 < average < largest < 0.05
    assert compare_precisions(sampler, values, "float32") == (0, 0)


@pytest.mark.parametrize(("costs", "expected"), [((3.0, 1.0), "bfloat16"), ((1.0, 9.0), "float32")])
def test_precision_is_what_the_clock_says(monkeypatch, costs, expected):
    now = [0.0]

    def run(sampler, pixels):
        now[0] += costs[sampler.precision == "bfloat16"]
        return np.zeros((4, 4), np.float32)

    monkeypatch.setattr(precision, "_probability", run)
    choice = measure_precision(make_sampler(small_model(), samples=3), clock=lambda: now[0])
    assert choice.precision == expected and choice.speedup == pytest.approx(costs[0] / costs[1], abs=1e-3)


def test_a_precision_that_changes_the_map_is_not_taken(monkeypatch):
    monkeypatch.setattr(precision, "compare_precisions", lambda *args: (0.4, 0.05))
    times = iter(np.arange(0, 1e6, 0.3))
    monkeypatch.setattr(precision, "_probability", lambda *args: None)
    assert measure_precision(make_sampler(small_model()), clock=lambda: float(next(times))).precision == "float32"


def test_the_choice_is_cached_for_machine_and_model(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []
    made = Choice("bfloat16", 2.0, 0.01, 0.001)
    monkeypatch.setattr(precision, "measure_precision", lambda sampler: calls.append(1) or made)
    sampler = make_sampler(small_model())
    assert choose_precision(sampler) == choose_precision(sampler) == made and len(calls) == 1
    choose_precision(make_sampler(small_model(widths=(4, 6))))
    assert len(calls) == 2 and len(json.loads((tmp_path / "geouq" / "precision.json").read_text())) == 2
    for number, damaged in enumerate(("not JSON", "[]", '{"a": 1}', '{"a": {"b": 1}}')):
        (tmp_path / "geouq" / "precision.json").write_text(damaged)
        assert choose_precision(sampler) == made and len(calls) == 3 + number
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert choose_precision(sampler) == made, "a cache that cannot be written is none"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 54321)
    assert choose_precision(sampler) == made, "and so is one whose user has no home and no name"
