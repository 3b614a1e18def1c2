"""SSN samples: one normal distribution over the whole scene, drawn window by window; its field has variance 1."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import geouq
from geouq.errors import ModelError
from geouq.grid import Roi
from geouq.networks.model import Model
from geouq.networks.ssn import SSN
from geouq.sampling.field import add_deviations, blend, field, pixel_noise, spacing
from geouq.sampling.samplers import make_sampler
from geouq.sampling.ssn import Weights
from geouq.segmentation.job import Settings, prepare, run_attrs
from tests.helpers import as_scene, sample_logits, scene_values, small_model, small_ssn

# --- the field


@pytest.mark.parametrize("correlation", [4, 17.3, 64, 300])
def test_the_fields_variance_is_one_at_every_pixel_by_its_weights(correlation):
    first, weights = blend(-500, 700, spacing(correlation))
    assert np.allclose((weights**2).sum(1), 1, atol=1e-12) and (weights >= 0).all()
    assert weights.shape[1] == (699 // spacing(correlation)) + 3 - first + 1


def test_the_fields_variance_is_one_as_drawn():
    z = field(3, range(150), 2, Roi(-50, 200, -30, 220), 8.0)
    assert abs(z.var() - 1) < 0.01 and abs(z.mean()) < 0.01
    phases = [z[..., y::6, x::6].var() for y in range(6) for x in range(6)]  # where on the lattice
    assert spacing(8.0) == 6 and np.abs(np.array(phases) - 1).max() < 0.02


@pytest.mark.parametrize("correlation", [24.0, 80.0])
def test_correlation_falls_to_1_over_e_at_its_length_and_depends_on_distance_alone(correlation):
    _, weights = blend(0, 600, spacing(correlation))
    covariance = weights @ weights.T
    length = round(correlation)
    at_length = np.diag(covariance, length)
    assert np.abs(at_length - np.exp(-1)).max() < 0.03
    for distance in (1, length // 2, length, 2 * length):
        along = np.diag(covariance, distance)
        assert along.max() - along.min() < 0.02, "stationary: the same wherever on the lattice"


def test_covariance_across_a_seam_is_that_inside():
    """Two windows that share an edge draw the very field of the whole."""
    whole = field(5, range(300), 1, Roi(0, 60, 0, 60), 30.0)
    left, right = field(5, range(300), 1, Roi(0, 60, 0, 25), 30.0), field(5, range(300), 1, Roi(0, 60, 25, 60), 30.0)
    np.testing.assert_allclose(np.concatenate([left, right], 3), whole, atol=1e-6)
    across = (left[..., 30, 23] * right[..., 30, 2]).mean()
    inside = (whole[..., 30, 33] * whole[..., 30, 37]).mean()
    assert abs(across - inside) < 0.15


@settings(max_examples=60, deadline=None)
@given(
    st.integers(-400, 400),
    st.integers(-400, 400),
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from([4, 9.7, 40, 256, "scene"]),
    st.integers(1, 2),
)
def test_the_fast_product_is_that_with_the_field(y, x, rows, columns, correlation, classes):
    factor = torch.randn(3, classes, rows, columns, generator=torch.Generator().manual_seed(rows))
    z = field(7, [2, 5, 19], 3, Roi(y, y + rows, x, x + columns), correlation)
    expected = np.einsum("srhw,rchw->schw", z, factor.numpy())
    logits = torch.ones(3, classes, rows, columns)
    add_deviations(logits, factor, 7, [2, 5, 19], (y, x), correlation)
    np.testing.assert_allclose(logits - 1, expected, atol=2e-5)


def test_draws_belong_to_seed_sample_and_place():
    roi = Roi(10, 40, 5, 30)
    twenty, three = field(1, range(20), 2, roi, 50), field(1, [7, 3, 11], 2, roi, 50)
    assert np.array_equal(twenty[[7, 3, 11]], three)
    assert not np.array_equal(twenty, field(2, range(20), 2, roi, 50))
    noise = pixel_noise(1, range(40), 2, (10, 5), (30, 25))
    assert np.array_equal(noise[[33, 2]], pixel_noise(1, [33, 2], 2, (10, 5), (30, 25)))
    assert np.array_equal(noise[:, :, 4:9, 3:], pixel_noise(1, range(40), 2, (14, 8), (5, 22)))
    assert abs(noise.mean()) < 0.01 and abs(noise.var() - 1) < 0.01
    flat = noise.reshape(80, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(80)).max() < 0.2, "samples and classes are independent"


# --- the sampler


def by_definition(model: Model, samples: range, x: torch.Tensor, seed: int) -> np.ndarray:
    """η = μ + P z + √D ε on the whole image, (S, C, H, W)."""
    mean, diagonal, factor = (p[0].numpy() for p in model.network.split(model.network(x).detach()))
    z = field(seed, samples, model.network.rank, Roi(0, x.shape[2], 0, x.shape[3]), model.spec.correlation)
    noise = pixel_noise(seed, samples, len(mean), (0, 0), x.shape[2:])
    return mean + np.einsum("srhw,rchw->schw", z, factor) + np.sqrt(diagonal) * noise


@pytest.mark.parametrize("stem", [1, 2])
@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("correlation", [30.0, "scene"])
def test_samples_are_draws_of_the_distribution(stem, rank, classes, correlation):
    model = small_ssn(rank, classes, correlation, stem=stem)
    x = torch.randn(1, 2, 32, 48)
    expected = by_definition(model, range(5), x, 3)
    assert expected.std(0).max() > 0.1
    with torch.inference_mode():
        for core in (Roi(0, 32, 0, 48), Roi(9, 21, 13, 30), Roi(31, 32, 0, 48)):
            ours = torch.stack(list(sample_logits(make_sampler(model, samples=5, seed=3), x, core)))
            np.testing.assert_allclose(ours, expected[..., *core.slices], rtol=1e-5, atol=1e-4)
        (mean,) = sample_logits(make_sampler(model, samples=0), x, Roi(0, 32, 0, 48))
    np.testing.assert_allclose(mean, model.network(x)[0, :classes].detach(), rtol=1e-5, atol=1e-5)


def layers(scene, model, **options):
    asked = ("probability", "std", "votes")
    return geouq.segment(scene, model, **{"samples": 5, "layers": asked} | options).compute(scheduler="threads")


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.integers(5, 100),
    st.integers(1, 3),
    st.sampled_from(["synchronous", "threads"]),
    st.sampled_from([25.0, "scene"]),
)
def test_no_tile_shows_in_the_map(rows, columns, tile, batch, scheduler, correlation):
    scene, model = as_scene(scene_values(rows, columns, seed=rows)), small_ssn(correlation=correlation)
    whole = layers(scene, model, tile=10_000)
    lazy = geouq.segment(scene, model, samples=5, layers=("probability", "std", "votes"), tile=tile, batch=batch)
    tiled = lazy.compute(scheduler=scheduler)
    np.testing.assert_allclose(whole["probability"], tiled["probability"], atol=1e-5)
    np.testing.assert_allclose(whole["std"], tiled["std"], atol=1e-5)
    assert (whole["votes"].values != tiled["votes"].values).mean() < 1e-3


def test_samples_do_not_know_how_many_they_are():
    scene, model = as_scene(scene_values(40, 50)), small_ssn()
    few, many = layers(scene, model, samples=7)["votes"].values, layers(scene, model, samples=30)["votes"].values
    assert np.array_equal(few, many & np.uint32(2**7 - 1))


def test_spread_and_weights_act_on_the_deviations_alone():
    model, x, core = small_ssn(classes=3), torch.randn(1, 2, 16, 16), Roi(0, 16, 0, 16)

    def draw(weights: Weights, changed: Model = model) -> torch.Tensor:
        with torch.inference_mode():
            return torch.stack(list(sample_logits(make_sampler(changed, samples=4, weights=weights), x, core)))

    (mean,) = sample_logits(make_sampler(model, samples=0), x, core)
    plain = draw(Weights())
    assert torch.allclose(draw(Weights(spread=0)), mean.detach().expand(4, -1, -1, -1), atol=1e-6)
    assert torch.allclose(draw(Weights(spread=2)) - mean, 2 * (plain - mean), atol=1e-4)
    assert torch.allclose(draw(Weights(), model.with_spec(spread=2.0)), draw(Weights(spread=2)), atol=1e-6)
    only = draw(Weights(classes=(0, 1, 0)))
    assert torch.allclose(only[:, 1], plain[:, 1], atol=1e-5) and torch.allclose(only[:, 0], mean[0].expand(4, -1, -1))
    one, rest = (draw(Weights(ranks=r)) for r in ((1, 0, 0), (0, 1, 1)))
    noise = draw(Weights(ranks=(0, 0, 0)))
    assert torch.allclose(one + rest - noise, plain, atol=1e-4), "the factor's columns add up"
    with pytest.raises(ModelError, match="2 rank weights"):
        draw(Weights(ranks=(1, 2)))


def test_an_ssn_with_dropout_may_sample_by_either():
    model = small_ssn(dropout={"decoder": 0.3}).with_spec(sampler="dropout")
    x, core = torch.randn(1, 2, 16, 16), Roi(0, 16, 0, 16)
    with torch.inference_mode():
        dropout = torch.stack(list(sample_logits(make_sampler(model, samples=3), x, core)))
        drawn = torch.stack(list(sample_logits(make_sampler(model, "ssn", samples=3), x, core)))
    assert dropout.shape == drawn.shape == (3, 1, 16, 16) and not torch.equal(dropout, drawn)


def test_an_ensemble_of_ssns():
    scene, models = as_scene(scene_values(30, 40)), [small_ssn(), small_ssn().with_spec(spread=0.5)]
    both = layers(scene, models, samples=6)["votes"].values
    for m, model in enumerate(models):
        alone = layers(scene, model, samples=6)["votes"].values
        bits = np.uint32(sum(1 << s for s in range(m, 6, 2)))
        assert np.array_equal(both & bits, alone & bits)


def test_a_map_says_how_its_samples_were_drawn(tmp_path):
    scene = as_scene(scene_values(20, 20))
    attrs = run_attrs(prepare(scene, small_ssn(), Settings(weights=Weights(spread=0.5, ranks=(1, 0, 2)))))
    assert (attrs["sampler"], attrs["correlation"], attrs["spread"], attrs["rank_weights"]) == ("ssn", 40, 0.5, "1,0,2")
    assert "correlation" not in run_attrs(prepare(scene, small_model(), Settings()))
    model = small_ssn(correlation="scene", stem=2)
    model.save(tmp_path / "ssn.safetensors")
    again = Model.load(tmp_path / "ssn.safetensors")
    assert again.hash == model.hash and isinstance(again.network, SSN) and again.spec.correlation == "scene"


def test_what_does_not_fit_is_refused():
    with pytest.raises(ModelError, match="is no SSN"):
        make_sampler(small_model(), "ssn")
    with pytest.raises(ModelError, match="leave out --sites"):
        make_sampler(small_ssn(), sites=("all",))
    with pytest.raises(ModelError, match="correlation is 'everywhere'"):
        make_sampler(small_ssn(correlation="everywhere"))
    with pytest.raises(ModelError, match="correlation is 2"):
        make_sampler(small_ssn(correlation=2))
