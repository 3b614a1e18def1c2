"""Draws, plan, engine, estimators: samples are networks of the scene, sums are exactly the definitions."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from geouq.compiling.plan import make_plan
from geouq.compiling.rewrites import AddConstant, Doubling
from geouq.errors import InputError, ModelError
from geouq.grid import Roi
from geouq.layers import LAYERS, area_interval, check_layers
from geouq.networks.model import Model
from geouq.networks.own import with_sites
from geouq.networks.sites import DropoutSite, find_sites
from geouq.sampling.draws import dropout_masks, place_effects
from geouq.sampling.dropout import plain_logits
from geouq.sampling.engine import predict_tile
from geouq.sampling.estimators import Question, RunningSums
from geouq.sampling.one_model import OneModel
from geouq.sampling.samplers import make_sampler
from geouq.sampling.window import Window
from tests.helpers import sample_logits, scene_values, small_model


def probabilities(logits: torch.Tensor) -> torch.Tensor:
    """(S, classes or 1, h, w): what the bound of 2e-6 is about."""
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(1)


def question(layers=LAYERS, classes=2, threshold=0.5, temperature=1.0, positive=1):
    return Question(tuple(layers), classes, positive, threshold, temperature)


# --- draws


def test_masks_are_a_pure_function_of_their_names():
    sites, channels = {"a": 0.3, "b": 0.5}, {"a": 40, "b": 7}
    fifty = dropout_masks(sites, channels, 5, range(50))
    twenty = dropout_masks(sites, channels, 5, range(20))
    seventh = dropout_masks({"b": 0.5}, channels, 5, range(7, 8))
    assert all(np.array_equal(fifty[s][:20], twenty[s]) for s in sites)
    assert np.array_equal(fifty["b"][7:8], seventh["b"])
    assert not np.array_equal(fifty["a"], dropout_masks(sites, channels, 6, range(50))["a"])
    assert not np.array_equal(fifty["a"][:, :7], fifty["b"])


def test_masks_keep_the_mean():
    masks = dropout_masks({"a": 0.3}, {"a": 500}, 0, range(400))["a"]
    assert set(np.unique(masks)) == {0, np.float32(1) / np.float32(0.7)}
    assert masks.mean() == pytest.approx(1, abs=4 * math.sqrt(0.3 / 0.7 / masks.size))
    flat = masks[..., 0, 0] > 0
    assert abs(np.corrcoef(flat[:, 0], flat[:, 1])[0, 1]) < 0.2


def test_place_effects_spread_evenly_and_belong_to_their_sample():
    fifty = place_effects(2.0, 3, range(50))
    assert np.array_equal(fifty[:20], place_effects(2.0, 3, range(20)))
    assert np.array_equal(fifty[7:9], place_effects(2.0, 3, range(7, 9)))
    assert not np.array_equal(fifty, place_effects(2.0, 4, range(50)))
    for seed in range(20):
        few = place_effects(1.0, seed, range(20))
        assert abs(few.mean()) < 0.25 and 0.8 < few.std() < 1.25
    assert np.array_equal(place_effects(0.0, 3, range(4)), np.zeros(4))


# --- plan


SITES = ["all", "encoder", "bottleneck", "decoder", "last2", "head", "decoder.0", "encoder.1"]
NETWORKS = [
    {},
    {"stem": 2},
    {"stem": 2, "smooth": 3},
    {"up": "nearest"},
    {"norm": False, "widths": (4, 6)},
    {"classes": 4, "bands": 3},
]


@pytest.mark.parametrize("network", NETWORKS, ids=str)
@pytest.mark.parametrize("site", SITES)
def test_compiled_equals_plain_passes(site, network):
    model = small_model(
        **network | {"dropout": {site: 0.25}} if site != "encoder.1" or "widths" not in network else network
    )
    sampler = make_sampler(model, samples=5, seed=3, batch=2)
    x = torch.randn(1, len(model.spec.bands), 32, 48)
    plain = torch.stack(list(plain_logits(sampler, x)))
    assert plain.std(0).max() > 0.01, "samples differ"
    for core in (Roi(0, 32, 0, 48), Roi(9, 21, 13, 30), Roi(31, 32, 0, 48), Roi(0, 16, 16, 32), Roi(5, 6, 47, 48)):
        with torch.inference_mode():
            compiled = torch.stack(list(sample_logits(sampler, x, core)))
        expected = plain[..., *core.slices]
        assert expected.shape == compiled.shape
        assert (probabilities(expected) - probabilities(compiled)).abs().max() <= 5e-6
    assert sampler.plan().traced and sampler.plan().crops is not None


@pytest.mark.parametrize("classes", [1, 3])
def test_a_place_effect_moves_the_positive_class_of_a_whole_sample(classes):
    model = small_model(classes=classes)
    x, core = torch.randn(1, 2, 16, 16), Roi(3, 12, 0, 16)
    with torch.inference_mode():
        before = torch.stack(list(sample_logits(make_sampler(model, samples=6, seed=2, batch=4), x, core)))
        sampler = make_sampler(model.with_spec(place_effect=1.5), samples=6, seed=2, batch=4)
        after = torch.stack(list(sample_logits(sampler, x, core)))
        (alone,) = sample_logits(make_sampler(sampler.model, samples=0), x, core)
        (plain,) = sample_logits(make_sampler(model, samples=0), x, core)
    moved = (after - before)[:, 0 if classes == 1 else 1]
    expected = torch.from_numpy(place_effects(1.5, 2, range(6)))[:, None, None]
    assert (moved - expected).abs().max() < 1e-5 and torch.equal(alone, plain)
    oracle = torch.stack(list(plain_logits(sampler, x)))[..., *core.slices]
    assert (probabilities(oracle) - probabilities(after)).abs().max() <= 2e-6
    if classes > 1:
        assert torch.equal(before[:, 0], after[:, 0])


@pytest.mark.parametrize("site", ["last2", "decoder.0"])
def test_a_mean_over_neighbours_becomes_part_of_the_last_convolution(site):
    sampler = make_sampler(small_model(stem=2, smooth=3, dropout={site: 0.3}), samples=2)
    layers = [m for m in sampler.plan().suffix.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.AvgPool2d)]
    assert not any(isinstance(m, torch.nn.AvgPool2d) for m in layers) and layers[-1].kernel_size == (3, 3)
    assert sampler.plan().crops is not None


@pytest.mark.parametrize("block", [1, 7, 16, 40, 0])
@pytest.mark.parametrize(
    "network", [{}, {"stem": 2, "smooth": 3, "dropout": {"decoder.0": 0.5}}, {"up": "nearest", "classes": 3}]
)
def test_blocks_do_not_show(monkeypatch, block, network):
    sampler = make_sampler(small_model(**network), samples=3, batch=2)
    x, core = torch.randn(1, 2, 48, 64), Roi(3, 41, 0, 64)
    with torch.inference_mode():
        whole = torch.stack(list(sample_logits(sampler, x, core)))
        plan = sampler.plan()
        cut = replace(plan, block=block)
        monkeypatch.setattr(OneModel, "plan", lambda sampler: cut)
        ours = torch.stack(list(sample_logits(sampler, x, core)))
    assert ours.shape == whole.shape and (probabilities(ours) - probabilities(whole)).abs().max() <= 2e-6


def test_doubling_and_convolution_become_one():
    for up in ("transpose", "nearest"):
        plan = make_plan(small_model(up=up).network, 2, 4, {"bottleneck": 0.3})
        layers = [m for m in plan.suffix.modules() if isinstance(m, nn.ConvTranspose2d)]
        assert [m.kernel_size for m in layers] == [(4, 4), (4, 4)], up


@pytest.mark.parametrize("sides", [(1, 1), (2, 5), (3, 3), (9, 7), (97, 97), (8, 5)])
def test_rewritten_layers_are_what_they_replace_at_any_size(sides):
    x = torch.randn(2, 4, *sides)
    merged, ones = Doubling(4, 3, bias=True), AddConstant(torch.randn(4, 1, 3, 3))
    plain = nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1)
    plain.load_state_dict(merged.state_dict())
    before = x.clone()
    with torch.inference_mode():
        assert (merged(x) - plain(x)).abs().max() < 1e-6
        assert (ones(x[:1]) - x[:1] - ones.conv(torch.ones(1, 1, *sides))).abs().max() < 1e-5
    assert torch.equal(x, before), "the cached prefix stays as it is"


def test_what_is_cached():
    plan = make_plan(small_model().network, 2, 4, {"bottleneck": 0.3, "decoder.0": 0.3})
    assert plan.splits == ("up_blocks.0.conv1", "up_blocks.1.conv1")
    assert list(plan.sites) == ["bottleneck", "decoder.0"] and plan.channels == {"bottleneck": 8, "decoder.0": 6}
    head = make_plan(small_model().network, 2, 4, {"head": 0.3})
    assert len(head.suffix_nodes) <= 3, "only the head is left for each sample"
    assert plan.bytes_per_pixel > 0 and plan.bytes_for(100, 4) > plan.bytes_for(100, 1)


class InPlace(nn.Module):
    """Steps that would overwrite a cached prefix if they were let to."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.site = DropoutSite("site", 6, 0.5)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Conv2d(6, 1, 1)

    def forward(self, x):
        x = self.conv(x)
        y = x * 2
        y = self.site(x) + y
        y += x
        x.mul_(0.5)
        return self.head(self.relu(y) + nn.functional.leaky_relu(x, inplace=True))


class Branches(nn.Module):
    """Data-dependent control flow: cannot be traced."""

    def __init__(self):
        super().__init__()
        self.conv, self.site = nn.Conv2d(2, 1, 3, padding=1), DropoutSite("site", 2, 0.5)

    def forward(self, x):
        return self.conv(self.site(x)) if x.sum() < 1e9 else x


class TwoReaders(nn.Module):
    """A convolution that is read beside its normalisation, and a sum that is read beside its ReLU."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.site, self.mix, self.head = DropoutSite("site", 6, 0.5), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 1, 1)
        nn.init.constant_(self.norm.weight, 3.0)
        nn.init.constant_(self.norm.bias, -1.0)

    def forward(self, x):
        x = self.conv(x)
        y = self.mix(self.site(self.norm(x) + x))
        return self.head(torch.relu(y) + y)


class Sliced(nn.Module):
    """Layers taken out of a sequence by a slice, which torch.fx does not find again."""

    def __init__(self):
        super().__init__()
        self.e = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), DropoutSite("site", 4, 0.5), nn.Conv2d(4, 1, 1)
        )

    def forward(self, x):
        return self.e[2:](self.e[:2](x))


class Named(nn.Module):
    """Logits in a dictionary, as torchvision's networks give them."""

    def __init__(self, traced):
        super().__init__()
        self.conv, self.traced = nn.Conv2d(2, 1, 3, padding=1), traced

    def forward(self, x):
        return {"out": self.conv(x)} if self.traced or x.sum() < 1e9 else {}


def custom(network):
    return Model(network, small_model().with_spec(architecture="custom", stride=1).spec)


@pytest.mark.parametrize(
    ("network", "traced"), [(InPlace(), True), (Branches(), False), (TwoReaders(), True), (Sliced(), False)]
)
def test_ones_own_network(network, traced):
    torch.manual_seed(0)
    sampler = make_sampler(custom(network), samples=6, batch=3)
    x = torch.randn(1, 2, 9, 11)
    plain = torch.stack(list(plain_logits(sampler, x.clone())))
    before = x.clone()
    for _ in range(2):  # a second time: nothing cached was spoilt
        with torch.inference_mode():
            ours = torch.stack(list(sample_logits(sampler, x, Roi(0, 9, 0, 11))))
        assert torch.equal(x, before) and (ours - plain).abs().max() < 1e-5
    assert sampler.plan().traced is traced


@pytest.mark.parametrize("traced", [True, False])
def test_a_network_that_gives_no_tensor_is_refused_in_one_line(traced):
    with pytest.raises(ModelError, match="returns a dictionary: wrap it"):
        sampler = make_sampler(custom(Named(traced)), samples=0)
        list(sample_logits(sampler, torch.zeros(1, 2, 8, 8), Roi(0, 8, 0, 8)))
    with pytest.raises(ModelError, match="returns a dictionary: wrap it"):
        custom(Named(traced)).halo  # noqa: B018 (measured when it is asked for)


class BranchesWithDropout(nn.Module):
    """As a user would write it: torch's own dropout, and a step that cannot be traced."""

    def __init__(self):
        super().__init__()
        self.first, self.drop, self.last = nn.Conv2d(2, 5, 3, padding=1), nn.Dropout2d(0.5), nn.Conv2d(5, 1, 1)

    def forward(self, x):
        y = self.drop(self.first(x))
        return self.last(y) if y.sum() < 1e9 else x[:, :1]


def test_a_users_dropout_samples_even_if_the_network_cannot_be_traced():
    torch.manual_seed(0)
    sampler = make_sampler(custom(with_sites(BranchesWithDropout(), 2, 1)), samples=6, batch=4)
    x = torch.randn(1, 2, 9, 11)
    plain = torch.stack(list(plain_logits(sampler, x)))
    with torch.inference_mode():
        ours = torch.stack(list(sample_logits(sampler, x, Roi(0, 9, 0, 11))))
    assert not sampler.plan().traced and plain.std(0).max() > 0.01
    assert (probabilities(ours) - probabilities(plain)).abs().max() <= 2e-6


class DropsTwice(nn.Module):
    """One dropout layer called at two places, as users write it, and a layer named like a mask."""

    def __init__(self, mode="nearest"):
        super().__init__()
        self.mask_first, self.drop, self.pool = nn.Conv2d(2, 6, 3, padding=1), nn.Dropout2d(0.5), nn.MaxPool2d(2)
        self.second, self.up, self.last = nn.Conv2d(6, 6, 3, padding=1), nn.Upsample(None, 2, mode), nn.Conv2d(6, 1, 1)

    def forward(self, x):
        y = self.pool(self.drop(torch.relu(self.mask_first(x))))
        return self.last(self.drop(self.second(self.up(y))))


def test_a_layer_called_twice_has_one_mask_and_weights_alone_do_not_make_a_plan():
    torch.manual_seed(0)
    networks = [with_sites(DropsTwice(mode), 2, 2) for mode in ("nearest", "bilinear")]
    networks[1].load_state_dict(networks[0].state_dict())
    x = torch.randn(1, 2, 16, 24)
    for network in networks:
        sampler = make_sampler(custom(network), samples=5, batch=2)
        plain = torch.stack(list(plain_logits(sampler, x)))
        with torch.inference_mode():
            ours = torch.stack(list(sample_logits(sampler, x, Roi(0, 16, 0, 24))))
        assert sampler.plan().traced and (probabilities(ours) - probabilities(plain)).abs().max() <= 2e-6


@pytest.mark.parametrize("batch", [1, 4])
def test_a_place_effect_alone_makes_samples(batch):
    sampler = make_sampler(small_model(dropout={}).with_spec(place_effect=1.5), samples=6, seed=2, batch=batch)
    x = torch.randn(1, 2, 32, 32)
    plain = torch.stack(list(plain_logits(sampler, x)))
    with torch.inference_mode():
        ours = torch.stack([logits.clone() for logits in sample_logits(sampler, x, Roi(0, 32, 0, 32))])
    assert ours.shape == plain.shape and (ours - plain).abs().max() < 1e-5 and plain.std(0).min() > 0.5


def test_what_is_pooled_again_is_one_block():
    plan = make_sampler(small_model(dropout={"encoder": 0.3}), samples=4).plan()
    assert plan.block == 0 and make_sampler(small_model(dropout={"decoder": 0.3}), samples=4).plan().block > 0
    head = make_sampler(small_model(dropout={"head": 0.3}, classes=12), samples=4).plan()
    assert head.bytes_for(1000, 8) - head.bytes_for(1000, 1) >= 7 * 2 * 12 * 4 * 1000, "each sample has its logits"


def test_statistics_and_weights_are_bit_identical_after_a_run():
    model = small_model(dropout={"all": 0.3})
    before = {k: v.clone() for k, v in model.network.state_dict().items()}
    sampler = make_sampler(model, samples=4)
    values = scene_values(32, 32)
    predict_tile(sampler, question(), Window(values, np.isfinite(values).all(0), Roi(0, 32, 0, 32)), np.ones((1, 1)))
    list(plain_logits(sampler, torch.randn(1, 2, 32, 32)))
    after = model.network.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert not model.network.training and all(s.mask is None for s in find_sites(model.network).values())


def test_no_active_dropout_is_refused_for_more_than_one_sample():
    with pytest.raises(ModelError, match="--samples 0"):
        make_sampler(small_model(dropout={}), samples=2)
    with pytest.raises(ModelError, match="no active dropout"):
        make_sampler(small_model(), samples=2, sites=("none",))
    assert (
        len(
            list(
                sample_logits(
                    make_sampler(small_model(dropout={}), samples=1), torch.zeros(1, 2, 8, 8), Roi(0, 8, 0, 8)
                )
            )
        )
        == 1
    )


def test_samples_zero_is_the_deterministic_network():
    model = small_model()
    x = torch.randn(1, 2, 16, 16)
    with torch.inference_mode():
        (logits,) = sample_logits(make_sampler(model, samples=0), x, Roi(0, 16, 0, 16))
        assert (logits - model.network(x)[0]).abs().max() < 1e-5


def test_half_precision_is_near_and_said_to_be_so():
    model = small_model(stem=2)
    values = scene_values(64, 64, holes=False)
    ask = question(("probability",))
    args = ask, Window(values, np.ones((64, 64), bool), Roi(0, 64, 0, 64)), np.ones((1, 1))
    exact = predict_tile(make_sampler(model, samples=8), *args).layers["probability"]
    rounded = predict_tile(make_sampler(model, samples=8, precision="bfloat16"), *args).layers["probability"]
    assert rounded.dtype == np.float32 and 0 < np.abs(rounded - exact).max() < 0.05
    with pytest.raises(ModelError, match="no precision"):
        make_sampler(model, precision="int8")


def test_logits_that_are_not_finite_fail_the_tile():
    model = small_model()
    with torch.no_grad():
        model.network.head.bias.fill_(torch.inf)
    values = scene_values(16, 16, holes=False)
    with pytest.raises(ModelError, match="not finite"):
        predict_tile(
            make_sampler(model), question(), Window(values, np.ones((16, 16), bool), Roi(0, 16, 0, 16)), np.ones((1, 1))
        )


# --- estimators


def by_definition(p: np.ndarray, q: Question) -> dict[str, np.ndarray]:
    """p (S, C, h, w) float64 → every layer, straight from the definitions."""

    def entropy(a, axis):
        return -np.sum(np.where(a > 0, a * np.log(np.maximum(a, 1e-300)), 0), axis=axis) / np.log(q.classes)

    mean, positive = p.mean(0), p[:, q.positive]
    binary = q.classes == 2
    says = positive >= q.threshold
    of_class = [says] if binary else [p.argmax(1) == c for c in range(q.classes)]
    votes = [sum(s[k].astype(np.uint64) << np.uint64(k) for k in range(len(p))) for s in of_class]
    return {
        "probability": mean[q.positive],
        "probabilities": mean,
        "mask": (mean[1] >= q.threshold).astype(int) if binary else mean.argmax(0),
        "confidence": mean.max(0),
        "uncertainty": entropy(mean, 0),
        "aleatoric": entropy(p, 1).mean(0),
        "epistemic": entropy(mean, 0) - entropy(p, 1).mean(0),
        "std": positive.std(0),
        "variation_ratio": 1 - modal(says if binary else p.argmax(1), q.classes),
        "votes": votes[0] if binary else np.array(votes),
    }


def modal(chosen: np.ndarray, classes: int) -> np.ndarray:
    """Classes (S, …) → the share of the samples whose class is the most frequent one."""
    return np.max([(chosen == c).mean(0) for c in range(classes)], axis=0)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 64),
    st.sampled_from([1, 2, 3, 5]),
    st.integers(0, 2**31),
    st.sampled_from([0.5, 0.3, 0.9]),
    st.floats(0.3, 3),
)
def test_layers_are_their_definitions(samples, channels, seed, threshold, temperature):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 4, (samples, channels, 5, 4)).astype(np.float32)
    valid = rng.random((5, 4)) > 0.2
    q = question(classes=max(channels, 2), threshold=threshold, temperature=temperature)
    area = rng.random((5, 1)) if seed % 2 else rng.random((5, 4))
    sums = RunningSums(q, torch.from_numpy(valid), torch.from_numpy(area), samples)
    for one in logits:
        sums.add(torch.from_numpy(one))
    z = logits.astype(np.float64) / temperature
    p = 1 / (1 + np.exp(-z)) if channels == 1 else np.exp(z) / np.exp(z).sum(1, keepdims=True)
    p = np.concatenate([1 - p, p], 1) if channels == 1 else p
    expected = by_definition(p, q)
    near = np.abs(p[:, 1] - threshold).min(0) < 1e-5 if max(channels, 2) == 2 else np.zeros((5, 4), bool)
    for name, layer in sums.layers().items():
        if name in ("mask", "votes"):
            certain = valid & ~near & (np.abs(expected["probability"] - threshold) > 1e-5)
            assert (layer[..., certain] == expected[name][..., certain]).all(), name
            assert (layer[..., ~valid] == (255 if name == "mask" else 0)).all()
        else:
            inside = np.broadcast_to(valid & ~near if name == "variation_ratio" else valid, layer.shape)
            np.testing.assert_allclose(layer[inside], expected[name][inside], atol=2e-6)
            assert np.isnan(layer[..., ~valid]).all()
    if not near.any():
        planes = expected["votes"].reshape(-1, 5, 4)
        votes = np.array([(planes >> np.uint64(s)) & np.uint64(1) for s in range(samples)], float)  # (S, 1 or C, 5, 4)
        areas = np.array([sums.areas[s].numpy() for s in range(samples)])
        np.testing.assert_allclose(areas, (votes * valid * area).sum((2, 3)), rtol=1e-6)


def test_vote_width_and_limit():
    for samples, dtype in ((32, np.uint32), (33, np.uint64)):
        sums = RunningSums(question(["votes"]), torch.ones(1, 1, dtype=bool), torch.ones(1, 1), samples)
        for _ in range(samples):
            sums.add(torch.full((1, 1, 1), 9.0))
        votes = sums.layers()["votes"]
        assert votes.dtype == dtype and int(votes[0, 0]) == 2**samples - 1
    with pytest.raises(InputError, match="at most 64"):
        check_layers(("votes",), 65)
    with pytest.raises(InputError, match="choose among"):
        check_layers(("masks",), 5)


def test_area_interval():
    assert area_interval(np.arange(101.0)) == (5.0, 95.0)


def test_a_plan_made_in_inference_mode_is_good_outside_of_it():
    sampler = make_sampler(small_model(widths=(4, 5)), samples=2)
    with torch.inference_mode():
        plan = sampler.plan()
    assert not any(tensor.is_inference() for half in (plan.prefix, plan.suffix) for tensor in half.parameters())
    plan.prefix(torch.zeros(1, 2, 16, 16))
