"""The shipped s1-water-ssn: its samples are whole maps of a scene it has never seen, near the truth, and differ."""

import numpy as np
import pytest

import geouq
from geouq.grid import Roi
from geouq.networks.model import WEIGHTS, Model, shipped_models
from geouq.scores.confusion import Confusion
from geouq.simulation.simulate import random_landscape, simulate_window
from tests.helpers import as_scene

SIZE = 256


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.load("s1-water-ssn")


@pytest.fixture(scope="module")
def truth_and_votes(model):
    pixels, truth = simulate_window((SIZE, SIZE), Roi(0, SIZE, 0, SIZE), 1007, random_landscape(1007))
    layers = geouq.segment(as_scene(pixels), model, samples=16, layers=("mask", "votes"), tile=SIZE).compute()
    return truth, layers["mask"].values, layers["votes"].values


def test_what_it_says_of_itself(model):
    spec = model.spec
    assert "s1-water-ssn" in shipped_models() and (WEIGHTS / "s1-water-ssn.md").exists()
    assert spec.sampler == "ssn" and spec.bands == ("VV", "VH") and spec.units == "dB"
    assert model.network.rank == 10 and spec.correlation == 512 and 0.5 <= spec.spread <= 4
    assert model.halo and model.halo < 256 and spec.scores["water_iou_held_out"]
    assert (WEIGHTS / "s1-water-ssn.safetensors").stat().st_size < 3e6


def test_each_sample_is_a_plausible_map(truth_and_votes):
    truth, mask, votes = truth_and_votes
    valid = truth <= 1
    samples = [(votes >> np.uint32(s)) & 1 for s in range(16)]
    scores = [Confusion().add(sample, truth, valid).iou for sample in samples]
    assert Confusion().add(mask, truth, valid).iou > 0.6 and min(scores) > 0.3
    areas = [float(sample[valid].mean()) for sample in samples]
    assert np.std(areas) > 0.002, "samples differ as a whole, not pixel by pixel"
    noisy = [np.mean(sample[:, 1:] != sample[:, :-1]) for sample in samples]
    assert np.median(noisy) < 2 * np.mean(truth[:, 1:] != truth[:, :-1]) + 0.02, "mostly no salt and pepper"
