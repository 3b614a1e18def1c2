"""FCN, LinkNet, PSPNet, DeepLabV3+: shapes, how far they see, sites, the plan, tiles, files, training."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from geouq.errors import ModelError
from geouq.grid import Roi
from geouq.networks.deeplab import DeepLab, DeepLabConfig
from geouq.networks.fcn import FCN, FCNConfig
from geouq.networks.linknet import LinkNet, LinkNetConfig
from geouq.networks.model import Model
from geouq.networks.pspnet import PSPNet, PSPNetConfig
from geouq.networks.receptive_field import measure_halo
from geouq.networks.sites import find_sites
from geouq.sampling.dropout import plain_logits
from geouq.sampling.one_model import OneModel
from geouq.sampling.samplers import make_sampler
from geouq.segmentation.lazy import segment
from tests.helpers import as_scene, geouq, pairs, sample_logits, scene_values
from tests.networks import FINITE, SMALL, model_of, network_of


@pytest.mark.parametrize("name", SMALL)
def test_shapes_of_odd_numbers_of_cells(name):
    network = network_of(name, bands=3, classes=4)
    stride = int(network.stride)
    for rows, columns in ((1, 1), (3, 1), (1, 5), (3, 5)):
        x = torch.zeros(2, 3, rows * stride, columns * stride)
        with torch.inference_mode():
            assert network(x).shape == (2, 4, *x.shape[2:])


@pytest.mark.parametrize("name", FINITE)
def test_halo_is_enough_and_one_stride_less_is_not(name):
    network, stride = network_of(name), int(network_of(name).stride)
    halo = measure_halo(network, 2, stride)
    assert halo is not None and halo % stride == 0
    start = halo + stride
    scene = torch.randn(1, 2, 2 * start + stride, 2 * start + stride, generator=torch.Generator().manual_seed(1))

    def error(margin: int) -> float:
        rows = slice(start - margin, start + stride + margin)
        core = network(scene[..., rows, rows])[..., margin : margin + stride, margin : margin + stride]
        whole = network(scene)[..., start : start + stride, start : start + stride]
        return float((core - whole).abs().max())

    with torch.inference_mode():
        assert error(halo) < 2e-6 * error(0) and error(halo - stride) > 1e-5 * error(0)


def test_what_averages_over_the_image_has_no_finite_halo():
    for name in set(SMALL) - set(FINITE):
        assert measure_halo(network_of(name), 2, int(network_of(name).stride)) is None


def test_sites():
    stages = [f"encoder.{i}" for i in range(5)]
    assert list(find_sites(network_of("fcn-8s"))) == [*stages, "bottleneck.0", "bottleneck.1"]
    sites = ["encoder.0", "encoder.1", "bottleneck", "decoder.0", "decoder.1", "decoder.2", "head"]
    assert list(find_sites(network_of("linknet"))) == sites
    assert list(find_sites(network_of("deeplabv3+"))) == [*stages[:3], "bottleneck", "decoder.0", "decoder.1"]
    assert list(find_sites(network_of("pspnet"))) == [*stages[:3], "bottleneck", "decoder.0"]
    assert find_sites(network_of("fcn-8s"))["bottleneck.1"].rate == 0.5
    with pytest.raises(ModelError, match="choose among encoder"):
        network_of("pspnet", dropout={"decoder.7": 0.1})


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("site", ["all", "bottleneck", "encoder.1", "last"])
def test_compiled_equals_plain_passes(name, site):
    last = list(find_sites(network_of(name)))[-1]
    model = model_of(name, dropout={last if site == "last" else site: 0.25})
    sampler = make_sampler(model, samples=3, seed=3, batch=2)
    x = torch.randn(1, 2, 64, 96, generator=torch.Generator().manual_seed(2))
    plain = torch.stack(list(plain_logits(sampler, x)))
    assert plain.std(0).max() > 0.01, "samples differ"
    for core in (Roi(0, 64, 0, 96), Roi(9, 21, 13, 30), Roi(63, 64, 0, 96), Roi(32, 64, 32, 64), Roi(5, 6, 95, 96)):
        with torch.inference_mode():
            compiled = torch.stack(list(sample_logits(sampler, x, core)))
        assert (plain[..., *core.slices].sigmoid() - compiled.sigmoid()).abs().max() <= 5e-6
    plan = sampler.plan()
    assert plan.traced and (plan.crops is not None or name not in FINITE)


@pytest.mark.parametrize("name", FINITE)
@pytest.mark.parametrize("site", ["all", "bottleneck"])
def test_blocks_do_not_show(name, site, monkeypatch):
    sampler = make_sampler(model_of(name, dropout={site: 0.25}), samples=2)
    x, core = torch.randn(1, 2, 96, 128, generator=torch.Generator().manual_seed(2)), Roi(3, 81, 0, 120)
    with torch.inference_mode():
        whole = torch.stack(list(sample_logits(sampler, x, core)))
        cut = replace(sampler.plan(), block=24)
        monkeypatch.setattr(OneModel, "plan", lambda sampler: cut)
        blocks = torch.stack(list(sample_logits(sampler, x, core)))
    assert (whole.sigmoid() - blocks.sigmoid()).abs().max() <= 2e-6


@pytest.mark.parametrize("name", FINITE)
def test_tiles_do_not_show(name):
    model = model_of(name)
    scene = as_scene(scene_values(150, 170))
    whole, tiled = (
        segment(scene, model, samples=3, layers=("mask", "probability"), tile=tile).compute() for tile in (512, 64)
    )
    assert np.nanmax(np.abs(whole.probability - tiled.probability)) <= 1e-5
    assert float(np.nanstd(whole.probability)) > 0.005


def test_a_pspnet_says_that_its_seams_are_approximate(tmp_path):
    model_of("pspnet").save(tmp_path / "p.safetensors")
    assert "seams are approximate" in geouq("models", "show", tmp_path / "p.safetensors").stdout


@pytest.mark.parametrize("name", SMALL)
def test_saved_and_loaded(name, tmp_path):
    model = model_of(name, classes=3)
    model.save(tmp_path / "m.safetensors")
    again = Model.load(tmp_path / "m.safetensors")
    x = torch.randn(1, 2, 64, 64)
    with torch.inference_mode():
        assert torch.equal(model.network(x), again.network(x)) and again.hash == model.hash


def test_settings_that_make_no_network():
    for config, changes in (
        (FCNConfig, {"finest": 4}),
        (FCNConfig, {"widths": (4,)}),
        (FCNConfig, {"kernel": 4}),
        (LinkNetConfig, {"widths": (4,)}),
        (PSPNetConfig, {"bins": ()}),
        (DeepLabConfig, {"rates": (0,)}),
    ):
        with pytest.raises(ModelError, match="not a"):
            config(**changes)


def test_settings_are_plain_values_that_read_back():
    for network, config in (
        (FCN, FCNConfig),
        (LinkNet, LinkNetConfig),
        (PSPNet, PSPNetConfig),
        (DeepLab, DeepLabConfig),
    ):
        plain = json.loads(json.dumps(config().to_dict()))
        assert config(**plain) == config() and network(config(**plain)).config == config()


NARROW = {
    "fcn-8s": ["widths=[4,4,4,4,4]", "dense=4", "kernel=1"],
    "linknet": ["widths=[4,4]", "depth=1"],
    "pspnet": ["widths=[4,4,4,4]", "depth=1"],
    "deeplabv3+": ["widths=[4,4,4,4]", "middle=0", "rates=[1]", "features=4", "low=4"],
}


@pytest.mark.parametrize("recipe", NARROW)
def test_recipes_train_some_steps(recipe, tmp_path):
    data = pairs(tmp_path / "data", ["a_1", "a_2", "b_1", "b_2"], size=64)
    changes = [f"arguments.{change}" for change in NARROW[recipe]] + ["size=64", "batch=1"]
    told = [word for change in changes for word in ("--set", change)]
    geouq("train", data, "--recipe", recipe, "-o", tmp_path / "out", "--steps", 3, "--val", "b", *told)
    model = Model.load(tmp_path / "out" / f"{recipe}.safetensors")
    assert model.spec.arguments["bands"] == 2 and model.active_sites()
