"""Last-layer Laplace: the posterior against a brute-force one, its samples against the network, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

import geouq
from geouq.errors import InputError, ModelError
from geouq.grid import Roi
from geouq.learning.data.dataset import read_dataset
from geouq.learning.judging.calibrate import fit_laplace
from geouq.networks.head import find_head
from geouq.networks.model import FACTOR, Model
from geouq.networks.sites import DropoutSite
from geouq.sampling.laplace import Curvature, best_precision, draw_weights
from geouq.sampling.samplers import make_sampler
from geouq.sampling.window import Window
from geouq.segmentation.job import Settings, prepare, run_attrs
from tests.helpers import Seen, as_scene, sample_logits, scene_values, small_model, small_ssn, write_raster
from tests.helpers import geouq as command

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
NETWORKS = [{}, {"stem": 2}, {"classes": 3}, {"classes": 2, "stem": 2}]
CORE = Roi(3, 29, 5, 40)


def chosen_window(seed: int = 3) -> tuple[Window, np.ndarray]:
    """A window of noise, and a few pixels of its core."""
    values = scene_values(32, 48, seed=seed, holes=False)
    chosen = np.random.default_rng(seed).random(CORE.shape) < 0.3
    return Window(values, np.ones((32, 48), bool), CORE, (64, 32)), chosen


def fitted(**changes) -> Model:
    window, chosen = chosen_window()
    curvature = Curvature(small_model(**changes).with_spec(temperature=1.4))
    curvature.add(window, chosen)
    return curvature.posterior()


def logits_with(model: Model, theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Logits (1, C, H, W) of the whole network with the weights and biases ``theta`` in its last layer."""
    head = model.network.head
    size = head.weight.numel()
    parameters = dict(model.network.named_parameters())
    parameters |= {"head.weight": theta[:size].reshape(head.weight.shape), "head.bias": theta[size:]}
    return torch.func.functional_call(model.network, parameters, (x,))


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_the_posterior_is_that_of_automatic_differentiation(network):
    """Inverse covariance = Hessian of the negative log-likelihood of the pixels (linear logits: GGN = Hessian) + λ."""
    model = fitted(**network)
    window, chosen = chosen_window()
    places, size, _ = model.fitted[FACTOR].shape
    classes, features = model.head.classes, model.head.weight.shape[1]
    double = Model(model.network.double(), model.spec, model.fitted)
    x = window.seen_by(double, "cpu").double()
    where = np.zeros(window.shape, bool)
    where[CORE.slices] = chosen
    head = double.network.head
    theta = torch.cat([head.weight.detach().flatten(), head.bias.detach()])

    def loss(theta):
        logits = logits_with(double, theta, x)[0][:, where] / model.spec.temperature
        if len(logits) == 1:
            return functional.binary_cross_entropy_with_logits(logits[0], torch.zeros_like(logits[0]), reduction="sum")
        return functional.cross_entropy(logits.T, torch.zeros(logits.shape[1], dtype=torch.long), reduction="sum")

    hessian = torch.func.hessian(loss)(theta)
    precision = model.spec.laplace["prior_precision"]
    covariance = torch.linalg.inv(hessian + precision * torch.eye(len(theta), dtype=torch.float64))
    # from the order (place of the cell, class, feature) of the factor to that of the layer's parameters
    order = []
    for j in range(places):
        for row in (c * places + j for c in range(classes)):
            order += [row * features + f for f in range(features)] + [classes * places * features + row]
    ours = torch.block_diag(*(f @ f.T for f in model.fitted[FACTOR].double()))
    assert ours.shape == covariance.shape == (places * size,) * 2
    assert (ours - covariance[order][:, order]).abs().max() < 1e-5 * covariance.diagonal().max()
    assert model.spec.laplace["pixels"] == chosen.sum() and model.spec.sampler == "laplace"


def test_the_prior_is_that_of_the_largest_marginal_likelihood():
    """Against the exact evidence of a linear model, where the Laplace approximation is none."""
    rng = np.random.default_rng(0)
    design = rng.normal(size=(40, 6))
    target = design @ rng.normal(0, 0.5, 6) + rng.normal(size=40)

    def evidence(precision):
        covariance = np.eye(40) + design @ design.T / precision
        return -np.linalg.slogdet(covariance)[1] - target @ np.linalg.solve(covariance, target)

    precision = 1.0
    for _ in range(200):  # θ is that of λ: a fixed point
        theta = np.linalg.solve(design.T @ design + precision * np.eye(6), design.T @ target)
        precision = best_precision(np.linalg.eigvalsh(design.T @ design), float(theta @ theta))
    values = np.exp(np.linspace(-5, 5, 2001))
    assert abs(np.log(precision / values[np.argmax([evidence(v) for v in values])])) < 0.01


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_sample_s_is_one_network_with_other_last_weights(network):
    model = fitted(**network)
    sampler, x = make_sampler(model, samples=5, seed=3, batch=2), torch.randn(1, 2, 32, 48)
    with torch.inference_mode():
        drawn = torch.stack(list(sample_logits(sampler, x, CORE)))
        weight, bias = draw_weights(model, 3, range(5))
        for s in range(5):
            changed = dict(model.network.state_dict())
            changed |= {"head.weight": weight[s][..., None, None], "head.bias": bias[s]}
            plain = torch.func.functional_call(model.network, changed, (x,))
            assert (drawn[s] - plain[0, :, *CORE.slices]).abs().max() < 1e-4
        (once,) = sample_logits(sampler.changed(samples=0), x, CORE)
        assert (once - model.network(x)[0, :, *CORE.slices]).abs().max() < 1e-4
    assert drawn.std(0).max() > 1e-3, "samples differ"


@pytest.mark.parametrize("network", NETWORKS[:3], ids=str)
def test_mean_and_variance_of_many_samples(network):
    """The mean is the trained network, the variance φᵀΣφ."""
    model = fitted(**network)
    x, core = torch.randn(1, 2, 16, 16), Roi(0, 16, 0, 16)
    head, places = model.head, model.head.fold**2
    with torch.inference_mode():
        drawn = torch.stack(list(sample_logits(make_sampler(model, samples=4000, batch=500), x, core)))
        plain, features = model.network(x)[0], head.features(x)[0].double()
        covariance = (model.fitted[FACTOR].double() @ model.fitted[FACTOR].double().mT).unflatten(1, (head.classes, -1))
        known = torch.cat([features, torch.ones(1, *features.shape[1:])])
        variance = torch.empty(head.classes * places, *features.shape[1:], dtype=torch.float64)
        for c, j in np.ndindex(head.classes, places):
            block = covariance[j, c].unflatten(1, (head.classes, -1))[:, c]
            variance[c * places + j] = torch.einsum("fyx,fg,gyx->yx", known, block, known)
        variance = functional.pixel_shuffle(variance[None], head.fold)[0]
    assert ((drawn.mean(0) - plain).abs() < 6 * (variance / 4000).sqrt() + 1e-4).all()
    assert (drawn.var(0) / variance - 1).abs().max() < 0.15


def test_sample_7_of_20_is_sample_7_of_50_whatever_the_batch():
    model, x = fitted(stem=2), torch.randn(1, 2, 32, 48)
    with torch.inference_mode():
        few = list(sample_logits(make_sampler(model, samples=20), x, CORE))
        many = list(sample_logits(make_sampler(model, samples=50, batch=16), x, CORE))
        other = list(sample_logits(make_sampler(model, samples=20, seed=1), x, CORE))
    assert (few[7] - many[7]).abs().max() < 1e-5 < (few[7] - other[7]).abs().max()


def test_tiles_do_not_show():
    for model in (fitted(), fitted(stem=2).with_spec(place_effect=0.8), fitted(classes=3)):
        scene = as_scene(scene_values(90, 70))
        layers = ("probability", "std", "votes")
        whole = geouq.segment(scene, model, samples=6, layers=layers, tile=1000)
        tiled = geouq.segment(scene, model, samples=6, layers=layers, tile=23, batch=4)
        np.testing.assert_allclose(whole.probability, tiled.probability, atol=1e-5)
        assert (whole.votes.values != tiled.votes.values).mean() < 1e-3 and float(whole["std"].max()) > 1e-3
    told = run_attrs(prepare(scene, model, Settings()))
    assert (told["sampler"], told["sites"]) == ("laplace", "")


def test_members_of_an_ensemble_draw_from_their_own_posterior():
    sampler, x = make_sampler([fitted(), small_model(dropout={})], samples=6), torch.randn(1, 2, 32, 48)
    assert [m.name for m in sampler.members] == ["laplace", "dropout"]
    with torch.inference_mode():
        found = dict(sampler.draw(Seen(x, CORE)))
    assert not torch.equal(found[0], found[2]) and torch.equal(found[1], found[3])


def test_there_and_back_and_what_a_file_must_hold(tmp_path):
    model, path = fitted(stem=2), tmp_path / "m.safetensors"
    model.save(path)
    again = Model.load(path)
    assert again.spec == model.spec and again.hash == model.hash
    assert torch.equal(again.fitted[FACTOR], model.fitted[FACTOR])
    assert again.hash != Model(model.network, model.spec, {FACTOR: 2 * model.fitted[FACTOR]}).hash
    assert again.with_spec(temperature=2.0).fitted is again.fitted
    tensors, told = load_file(path), json.loads(model.spec.to_json())
    for damaged, says in (
        ({k: v for k, v in tensors.items() if k != FACTOR}, f"missing: {FACTOR}"),
        (tensors | {FACTOR: tensors[FACTOR][:, 1:].contiguous()}, f"another shape: {FACTOR}"),
        (tensors | {"laplace.more": torch.zeros(1)}, "unexpected: laplace.more"),
    ):
        save_file(damaged, path, metadata={"geouq": json.dumps(told)})
        with pytest.raises(ModelError, match=says):
            Model.load(path)
    save_file(tensors | {FACTOR: tensors[FACTOR] * torch.nan}, path, metadata={"geouq": json.dumps(told)})
    with pytest.raises(ModelError, match="damaged"):
        make_sampler(Model.load(path))
    save_file(tensors, path, metadata={"geouq": json.dumps({k: v for k, v in told.items() if k != "laplace"})})
    with pytest.raises(ModelError, match=f"unexpected: {FACTOR}"):
        Model.load(path)


def test_a_model_without_a_posterior_has_the_same_file_and_hash_as_ever():
    told = json.loads(small_model().spec.to_json())
    assert "laplace" not in told and told["format"] == 1
    assert json.loads(fitted().spec.to_json())["format"] == 2


class Tail(torch.nn.Module):
    """A network whose last layer is ``last``, behind it what ``after`` does."""

    def __init__(self, last, after=lambda x: x):
        super().__init__()
        self.body, self.last, self.after, self.stride = torch.nn.Conv2d(2, 6, 3, padding=1), last, after, 4

    def forward(self, x):
        return self.after(self.last(torch.relu(self.body(x))))


def test_the_last_layer_is_found_by_what_it_computes():
    head = find_head(Tail(torch.nn.Conv2d(6, 3, 1)).eval(), 2, 4)
    assert (head.name, head.fold, head.classes, head.factor_shape) == ("last", 1, 3, (1, 21, 21))
    head = find_head(Tail(torch.nn.Conv2d(6, 3, 1, bias=False)).eval(), 2, 4)
    assert not head.bias.any()
    sited = torch.nn.Sequential(DropoutSite("head", 6, 0.3), torch.nn.Conv2d(6, 4, 1), torch.nn.PixelShuffle(2))
    head = find_head(Tail(sited).eval(), 2, 4)
    assert (head.name, head.fold, head.classes) == ("last.1", 2, 1)
    for network in (
        Tail(torch.nn.Conv2d(6, 3, 3, padding=1)),
        Tail(torch.nn.Conv2d(6, 3, 1), torch.relu),
        Tail(torch.nn.Conv2d(6, 6, 1, groups=2)),
        Tail(torch.nn.Conv2d(6, 3, 1), lambda x: functional.interpolate(x, scale_factor=2)),
    ):
        with pytest.raises(ModelError, match="1×1"):
            find_head(network.eval(), 2, 4)


def test_what_cannot_be_drawn_is_refused_in_one_line():
    with pytest.raises(ModelError, match="geouq calibrate --laplace"):
        make_sampler(small_model(), "laplace")
    with pytest.raises(ModelError, match="leave out --sites"):
        make_sampler(fitted(), sites=("all",))
    with pytest.raises(ModelError, match="is an SSN"):
        Curvature(small_ssn())
    with pytest.raises(InputError, match="no posterior"):
        Curvature(small_model()).posterior()
    network = Tail(torch.nn.Conv2d(6, 1, 3, padding=1))
    custom = Model(network, replace(small_model().spec, architecture="custom", arguments={}, stride=4))
    with pytest.raises(ModelError, match="1×1"):
        Curvature(custom)
    with pytest.raises(InputError, match="is for dropout"):
        make_sampler(fitted(), "laplace", samples=float("inf"))
    assert make_sampler(fitted(), "dropout", samples=3).active, "the other samplers are there still"


def test_fitted_by_the_command_line(tmp_path):
    model, data = small_model(), tmp_path / "data"
    model.network.head.weight.data *= 10  # sure enough for a temperature to matter
    model.save(tmp_path / "m.safetensors")
    for i, name in enumerate(("a_1", "b_1")):
        values = scene_values(64, 64, seed=i, holes=False)
        write_raster(data / "images" / f"{name}.tif", values)
        p = geouq.segment(as_scene(values), model.with_spec(temperature=1.8), samples=5, layers=("probability",))
        drawn = np.random.default_rng(i).random((1, 64, 64)) < p.probability.values
        write_raster(data / "labels" / f"{name}.png", drawn.astype(np.uint8))
    told = ("m.safetensors", "data", "-o", "n.safetensors", "--laplace", "--samples", "4")
    done = command("calibrate", *told, cwd=tmp_path)
    found = Model.load(tmp_path / "n.safetensors")
    assert found.spec.sampler == "laplace" and "posterior of the last layer (head): " in done.stdout
    assert abs(found.spec.laplace["pixels"] - 1000) < 150
    assert found.spec.temperature != 1 and f"-> {found.spec.temperature:.4g}" in done.stdout
    ours = fit_laplace(Model.load(tmp_path / "m.safetensors"), read_dataset(data))
    assert torch.equal(ours.fitted[FACTOR], found.fitted[FACTOR])
    assert "prior_precision" in command("models", "show", "n.safetensors", cwd=tmp_path).stdout
