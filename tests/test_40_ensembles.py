"""Ensembles: sample s is member s mod M, with its own mask where the member has dropout; nothing else changes."""

import numpy as np
import pytest
import torch

import geouq
from geouq.errors import ModelError
from geouq.grid import Roi
from geouq.networks.model import Model
from geouq.networks.unet import UNet, UNetConfig
from geouq.sampling.engine import predict_tile
from geouq.sampling.estimators import Question
from geouq.sampling.sampler import Sampler
from geouq.sampling.samplers import make_sampler
from geouq.sampling.window import Window
from geouq.segmentation.job import Settings, prepare, run_attrs
from tests.helpers import as_scene, sample_logits, scene_values, small_model, small_ssn

CORE = Roi(3, 30, 0, 32)


def member(number: int, **changes) -> Model:
    """A model like the others, with weights of its own."""
    model = small_model(**changes)
    torch.manual_seed(number)
    with torch.no_grad():
        for weight in model.network.parameters():
            weight += 0.1 * weight.std(correction=0) * torch.randn_like(weight)
    return model


def layers(sampler: Sampler, temperature: float = 1.0) -> dict[str, np.ndarray]:
    ask = Question(("probability", "votes", "std"), 2, 1, 0.5, temperature)
    values = scene_values(32, 32)
    found = predict_tile(sampler, ask, Window(values, np.isfinite(values).all(0), CORE), np.ones((1, 1)))
    return found.layers | {"areas": found.areas}


def test_sample_s_is_member_s_mod_m_with_the_mask_of_sample_s():
    models = [member(1), member(2), member(3)]
    found = layers(make_sampler(models, samples=8, seed=4))
    alone = [layers(make_sampler(model, samples=8, seed=4)) for model in models]
    for s in range(8):
        ours = (found["votes"] >> np.uint32(s)) & 1
        assert np.array_equal(ours, (alone[s % 3]["votes"] >> np.uint32(s)) & 1)
        assert found["areas"][s] == alone[s % 3]["areas"][s]
    assert found["std"][np.isfinite(found["std"])].min() >= 0 and np.nanmax(found["std"]) > 0.01


def test_an_ensemble_without_dropout_is_the_mean_of_its_members():
    models = [member(n, dropout={}) for n in range(3)]
    found = layers(make_sampler(models, samples=3))["probability"]
    alone = [layers(make_sampler(model, samples=0))["probability"] for model in models]
    np.testing.assert_allclose(found, np.mean(alone, 0), atol=1e-6)
    with pytest.raises(ModelError, match="--samples 3"):
        make_sampler(models, samples=4)


def test_each_member_keeps_its_own_temperature_and_normalisation():
    models = [member(1, dropout={}).with_spec(temperature=2.0), member(2, dropout={}).with_spec(temperature=0.5)]
    models[1] = models[1].with_spec(mean=(-10.0, -18.0))
    found = layers(make_sampler([models[0], models[1]], samples=2), temperature=2.0)["probability"]
    alone = [layers(make_sampler(m, samples=0), temperature=m.spec.temperature)["probability"] for m in models]
    np.testing.assert_allclose(found, np.mean(alone, 0), atol=1e-6)


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ModelError, match="bands are"):
        make_sampler([small_model(), small_model(bands=3)])
    with pytest.raises(ModelError, match="classes are"):
        make_sampler([small_model(), small_model(classes=3)])
    with pytest.raises(ModelError, match="1 logits a pixel, the other 2"):
        make_sampler([small_model(), small_model(classes=2)])
    with pytest.raises(ModelError, match="no sampler 'votes'"):
        make_sampler(small_model().with_spec(sampler="votes"))
    with pytest.raises(ModelError, match="use ensemble"):
        make_sampler([small_model(), member(1)], "dropout")
    with pytest.raises(ModelError, match="more than once"):
        make_sampler(small_model(), "ensemble")
    with pytest.raises(ModelError, match="no sampler"):
        make_sampler(small_model(), "bayes")


def test_tiles_do_not_show_even_where_members_see_unequally_far():
    models = [member(1), member(2, widths=(4, 6, 8, 8)), member(3, widths=(4, 6), stem=2)]
    scene = as_scene(scene_values(90, 70))
    whole = geouq.segment(scene, models, samples=7, layers=("probability", "votes"), tile=1000)
    tiled = geouq.segment(scene, models, samples=7, layers=("probability", "votes"), tile=23, batch=2)
    np.testing.assert_allclose(whole.probability, tiled.probability, atol=1e-5)
    assert (whole.votes.values != tiled.votes.values).mean() < 1e-3
    job = prepare(scene, models, Settings())
    assert job.tiling.stride == 8 and job.tiling.halo == max(-(-m.halo // 8) * 8 for m in models)


def test_a_map_names_all_members():
    models = [member(1), member(2)]
    attrs = run_attrs(prepare(as_scene(scene_values(20, 20)), models, Settings()))
    assert attrs["model_hash"] == f"{models[0].hash}+{models[1].hash}" and attrs["sampler"] == "ensemble"
    assert attrs["model"] == "small+small"


def test_each_member_draws_as_it_is_made_to():
    x, models = torch.randn(1, 2, 32, 32), [member(1), small_ssn(), member(3, dropout={})]
    for order in (models, models[::-1], [models[1], models[0]]):
        sampler = make_sampler(order, samples=7, batch=2)
        assert [m.name for m in sampler.members] == ["ssn" if m is models[1] else "dropout" for m in order]
        for number, one in enumerate(sampler.members):
            with torch.inference_mode():
                drawn = list(sample_logits(one, x, CORE, (0, 0), sampler.numbers_of(number)))
            assert len(drawn) == len(sampler.numbers_of(number))
            spread = torch.stack(drawn)[..., 10:20, 10:20].std(0).max()
            assert spread == 0 if one.model is models[2] else spread > 0.01


def test_a_tolerance_reports_the_areas_of_the_samples_it_drew():
    models, values = [member(1), member(2)], scene_values(32, 32, holes=False)
    found = []
    for tolerance in (0.0, 0.3):
        ask = Question(("probability",), 2, 1, 0.5, 1.0, tolerance)
        sampler = make_sampler([models[0], models[1]], samples=20)
        found.append(predict_tile(sampler, ask, Window(values, np.ones((32, 32), bool), CORE), np.ones((1, 1))))
    drawn = sorted([*range(0, 20, 2), *range(1, 20, 2)][: found[1].drawn])
    assert 10 < found[1].drawn < 20 and found[1].areas.tolist() == found[0].areas[drawn].tolist()


def test_one_pass_is_that_of_the_first_member():
    models = [member(1), member(2)]
    x = torch.randn(1, 2, 32, 32)
    (alone,) = sample_logits(make_sampler(models[0], samples=0), x, CORE)
    sampler = make_sampler([models[0], models[1]], samples=0)
    (ours,) = sample_logits(sampler, x, CORE)
    assert torch.equal(alone, ours)


def test_members_of_another_architecture_may_join(tmp_path):
    config = UNetConfig(widths=(4, 4), dropout={"head": 0.5})
    network = UNet(config)
    other = Model(network, small_model().spec).with_spec(arguments=config.to_dict(), stride=network.stride)
    found = layers(make_sampler([small_model(), other], samples=4))
    assert np.isfinite(found["probability"]).any()
