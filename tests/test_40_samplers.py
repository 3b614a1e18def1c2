"""The protocol: the engine, the promise and the tags know no sampler by name, so that one made here is as good."""

import math
from dataclasses import dataclass, replace
from importlib import import_module

import numpy as np
import pytest
import torch

import geouq
from geouq.cli.evaluate import command as evaluate
from geouq.cli.segment import command as segment
from geouq.errors import InputError, ModelError
from geouq.grid import Roi
from geouq.networks.model import Model
from geouq.sampling.engine import predict_tile
from geouq.sampling.estimators import Question
from geouq.sampling.names import CHOICES, HELP, SAMPLERS
from geouq.sampling.samplers import make_sampler
from geouq.sampling.window import Window
from geouq.segmentation.job import Settings, prepare, run_attrs
from geouq.segmentation.tile import segment_tile
from tests.helpers import as_scene, scene_values, small_model, small_ssn


@dataclass(frozen=True)
class Coin:
    """Says water everywhere in every other sample, and nothing of its kind is known to the library."""

    model: Model
    samples: float = 4
    seed: int = 0
    batch: int = 1
    device: str = "cpu"
    precision: str = "float32"
    name = "coin"
    quadrature = ()
    active = {}
    varies = True

    @property
    def models(self):
        return (self.model,)

    @property
    def numbers(self):
        return range(int(self.samples))

    def draw(self, window, numbers=None):
        for s in self.numbers if numbers is None else numbers:
            yield s, torch.full((1, *window.core.shape), 9.0 if s % 2 else -9.0)

    def plan(self):
        return make_sampler(self.model, samples=0).plan()

    def bytes_for(self, pixels):
        return 12345 * pixels

    def tags(self):
        return {"sides": 2}

    def changed(self, **changes):
        return replace(self, **changes)


def test_a_sampler_of_ones_own_is_drawn_promised_and_told():
    values = scene_values(40, 30)
    job = prepare(as_scene(values), small_model(), Settings(layers=("probability", "votes")))
    job = replace(job, sampler=Coin(job.sampler.model))
    (tile,) = job.tiling
    found = segment_tile(job, values, tile)
    valid = np.isfinite(values).all(0)
    assert np.allclose(found.layers["probability"][valid], 0.5) and (found.layers["votes"][valid] == 0b1010).all()
    assert (found.areas > 0).tolist() == [False, True] * 2 and found.areas[1] == found.areas[3] and found.drawn == 4
    assert job.promise()["tensors"] == job.at_once * 12345 * job.tiling.largest_window and job.intervals
    told = run_attrs(job)
    assert (told["sampler"], told["sides"], told["samples"]) == ("coin", 2, 4)


def test_one_table_is_what_the_command_line_offers():
    for command in (segment, evaluate):
        (option,) = [p for p in command.params if p.name == "sampler"]
        assert tuple(option.type.choices) == CHOICES == ("auto", *SAMPLERS) and option.help == HELP
    assert all(name in HELP for name in SAMPLERS)
    for name, row in SAMPLERS.items():
        assert getattr(import_module(row.module), row.cls).name == name


def test_infinity_is_the_closed_form_and_has_no_numbers():
    model = small_model(dropout={"head": 0.3})
    closed = make_sampler(model, samples=math.inf)
    assert len(closed.numbers) == 0 and math.isclose(sum(closed.quadrature), 1) and closed.samples == math.inf
    job = prepare(as_scene(scene_values(20, 20)), model, Settings(samples=math.inf))
    assert not job.intervals and run_attrs(job)["samples"] == "inf"
    assert len(list(closed.draw(Window(scene_values(16, 16), np.ones((16, 16), bool), Roi(0, 16, 0, 16))))) == 32
    with pytest.raises(ModelError, match="takes one model"):
        make_sampler([model, model], samples=math.inf)
    with pytest.raises(InputError, match="is for dropout"):
        make_sampler(model, "ensemble", samples=math.inf)
    for samples in (2.5, -1, math.nan, -math.inf):
        with pytest.raises(ModelError, match="whole number"):
            make_sampler(model, samples=samples)
    with pytest.raises(InputError, match="whole number"):
        geouq.segment(as_scene(scene_values(20, 20)), model, samples=2.5)


def test_others_than_the_first_model_see_the_window_in_their_own_way():
    """What is made beside the device's work is for the model that it was made for alone."""
    first, other = small_model(dropout={}), small_model(dropout={}).with_spec(mean=(-3.0, -9.0))
    window = Window(scene_values(16, 16), np.ones((16, 16), bool), Roi(0, 16, 0, 16))
    window.prepare(first, "cpu")
    assert not torch.equal(window.seen_by(first, "cpu"), window.seen_by(other, "cpu"))
    fresh = Window(window.pixels, window.valid, window.core)
    assert torch.equal(window.seen_by(other, "cpu"), fresh.seen_by(other, "cpu"))


def test_changes_reach_all_members():
    both = make_sampler([small_model(), small_ssn()], samples=5, batch=2)
    changed = both.changed(samples=0, batch=3, precision="bfloat16", seed=4)
    assert [(m.samples, m.batch, m.precision, m.seed) for m in changed.members] == [(0, 3, "bfloat16", 4)] * 2
    assert (changed.samples, changed.numbers) == (0, range(1)) and both.samples == 5
    ask = Question(("probability",), 2, 1, 0.5, 1.0)
    window = Window(scene_values(16, 16), np.ones((16, 16), bool), Roi(0, 16, 0, 16))
    alone = predict_tile(make_sampler(small_model(), samples=0), ask, window, np.ones((1, 1)))
    ours = predict_tile(both.changed(samples=0), ask, window, np.ones((1, 1)))
    assert np.array_equal(alone.layers["probability"], ours.layers["probability"], equal_nan=True)
