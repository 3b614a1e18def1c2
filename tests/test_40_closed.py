"""Samples = ∞: the closed form of dropout in a linear head, against all masks and against many samples."""

import itertools
import math

import numpy as np
import pytest
import torch

import geouq
from geouq.errors import InputError, ModelError
from geouq.grid import Roi
from geouq.sampling.closed import ClosedForm
from geouq.sampling.samplers import make_sampler
from tests.helpers import Seen, as_scene, sample_logits, scene_values, small_model

LAYERS = ("mask", "probability", "uncertainty", "confidence", "aleatoric", "epistemic", "std")


def head_model(rate=0.4, **changes):
    return small_model(dropout={"head": rate}, **changes)


@pytest.mark.parametrize("network", [{}, {"stem": 2}, {"up": "nearest"}], ids=str)
def test_moments_are_those_of_all_masks(network):
    rate = 0.4
    model = head_model(rate, **network)
    sampler = make_sampler(model, samples=math.inf)
    x, core = torch.randn(1, 2, 32, 24), Roi(3, 29, 0, 20)
    with torch.inference_mode():
        mean, variance = sampler.moments(Seen(x, core))
        plan, all_logits, chances = sampler.plan(), [], []
        kept = plan.prefix(x)
        for mask in itertools.product((0.0, 1 / (1 - rate)), repeat=4):
            weights = torch.tensor(mask).reshape(1, 4, 1, 1)
            result = plan.suffix(*kept, weights, *[of.box(Roi(0, 32, 0, 24), (32, 24)) for of, _ in plan.crops.steps])
            all_logits.append(result[0, 0, *core.slices].double())
            dropped = mask.count(0.0)
            chances.append(rate**dropped * (1 - rate) ** (4 - dropped))
    chance = torch.tensor(chances, dtype=torch.float64).reshape(-1, 1, 1)
    stack = torch.stack(all_logits)
    expected = (chance * stack).sum(0)
    assert (mean[0] - expected).abs().max() < 1e-5
    spread = (chance * (stack - expected) ** 2).sum(0)
    assert (variance[0] - spread).abs().max() < 1e-4 * float(spread.max())
    effect = make_sampler(model.with_spec(place_effect=1.5), samples=math.inf)
    with torch.inference_mode():
        _, more = effect.moments(Seen(x, core))
    assert (more - variance - 1.5**2).abs().max() < 1e-4


def test_layers_are_the_limit_of_a_thousand_samples():
    model = head_model(0.3, widths=(24, 8))
    model = model.with_spec(place_effect=0.7, temperature=1.3)
    scene = as_scene(scene_values(40, 48))
    exact = geouq.segment(scene, model, samples=math.inf, layers=LAYERS, tile=16).compute()
    many = geouq.segment(scene, model, samples=1000, layers=LAYERS).compute()
    whole = geouq.segment(scene, model, samples=math.inf, layers=LAYERS).compute()
    assert exact.attrs["samples"] == "inf" and exact.attrs["sampler"] == ClosedForm.name
    assert float(many["std"].max()) > 0.05
    for layer in LAYERS[1:]:
        np.testing.assert_allclose(exact[layer], many[layer], atol=0.03, err_msg=layer)
        np.testing.assert_allclose(exact[layer], whole[layer], atol=1e-5, err_msg=layer)
        assert float(np.abs(exact[layer] - many[layer]).mean()) < 0.006, layer
    clear = np.abs(many.probability.values - 0.5) > 0.03
    assert (exact["mask"].values == many["mask"].values)[clear].all()


def test_samples_tend_to_the_moments():
    model = head_model(0.5)
    x, core = torch.randn(1, 2, 16, 16), Roi(0, 16, 0, 16)
    with torch.inference_mode():
        mean, variance = make_sampler(model, samples=math.inf).moments(Seen(x, core))
        drawn = torch.stack(list(sample_logits(make_sampler(model, samples=2000, batch=500), x, core)))[:, 0]
    scale = float(variance.sqrt().max())
    assert (drawn.mean(0) - mean[0]).abs().max() < 0.15 * scale
    assert (drawn.std(0) - variance[0].sqrt()).abs().max() < 0.1 * scale


def test_where_there_is_no_closed_form():
    scene = as_scene(scene_values(20, 20))
    with pytest.raises(ModelError, match="--sites head"):
        geouq.segment(scene, small_model(), samples=math.inf)
    with pytest.raises(ModelError, match="one logit"):
        make_sampler(head_model(classes=3), samples=math.inf)
    with pytest.raises(InputError, match="votes"):
        geouq.segment(scene, head_model(), samples=math.inf, layers=("votes",))
    with pytest.raises(InputError, match="is for dropout"):
        geouq.segment(scene, head_model(), samples=math.inf, sampler="ssn")
    both = small_model(dropout={"head": 0.3, "decoder": 0.2})
    with pytest.raises(ModelError, match="samples at"):
        geouq.segment(scene, both, samples=math.inf)
    geouq.segment(scene, both, samples=math.inf, sites=("head",)).compute()
