"""The seed systems' networks: their parameter counts, and that they sample like any other network."""

import pytest
import torch
from torch import nn

from geouq.grid import Roi
from geouq.networks.model import Model, ModelSpec
from geouq.networks.seeds import MCDropoutUNet, PlainUNet
from geouq.networks.sites import find_sites
from geouq.networks.unet import UNet, UNetConfig
from geouq.sampling.dropout import plain_logits
from geouq.sampling.samplers import make_sampler
from tests.helpers import sample_logits

NARROW = {
    "mc-dropout-unet": (
        MCDropoutUNet,
        {"down": [[4, 4], [6, 6], [6, 8], [10, 10]], "up": [[8, 8], [6, 6], [4, 4]], "rate": 0.5},
    ),
    "plain-unet": (PlainUNet, {"widths": [4, 6, 8, 10, 12], "classes": 5, "rate": 0.3}),
}


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def test_mc_dropout_unet_has_the_published_parameters():
    network = MCDropoutUNet()
    running = sum(b.numel() for m in network.modules() if isinstance(m, nn.BatchNorm2d) for b in m.buffers())
    counters = sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())  # num_batches_tracked, torch's own
    assert parameters(network) == 7_345_793
    assert parameters(network) + running - counters == 7_351_169
    sites = find_sites(network)
    assert list(sites) == [
        *(f"encoder.{i}" for i in range(3)),
        "bottleneck",
        *(f"decoder.{i}" for i in range(3)),
    ]
    assert {site.rate for site in sites.values()} == {0.5}


def test_plain_unet_has_the_published_parameters():
    with torch.device("meta"):
        assert parameters(PlainUNet()) == 34_514_060


def test_skip_leaves_before_the_second_normalisation():
    network = MCDropoutUNet(**NARROW["mc-dropout-unet"][1]).eval()
    seen = {}
    network.up[2].conv1.register_forward_pre_hook(lambda m, args: seen.update(cat=args[0]))
    network.down[0].bn2.register_forward_pre_hook(lambda m, args: seen.update(skip=args[0]))
    network(torch.randn(1, 3, 16, 16))
    assert torch.equal(seen["cat"][:, :4], seen["skip"])


def model(name):
    build, arguments = NARROW[name]
    torch.manual_seed(3)
    network = build(**arguments)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in" if isinstance(module, nn.Conv2d) else "fan_out")
    with torch.no_grad():
        network.head.weight *= 0.2
    classes = ("land", "water", *(f"c{i}" for i in range(network.head.out_channels - 2)))
    spec = ModelSpec(
        name=name,
        architecture=name,
        arguments=arguments,
        bands=("R", "G", "B"),
        units="rgb",
        mean=(0.0, 0.0, 0.0),
        std=(255.0, 255.0, 255.0),
        clip=(0.0, 255.0),
        stride=network.stride,
        classes=classes,
    )
    return Model(network, spec)


@pytest.mark.parametrize("name", NARROW)
def test_compiled_equals_plain_passes(name):
    sampler = make_sampler(model(name), samples=4, seed=3, batch=2)
    x = torch.randn(1, 3, 48, 64)
    plain = torch.stack(list(plain_logits(sampler, x)))
    assert plain.std(0).max() > 0.01, "samples differ"
    for core in (Roi(0, 48, 0, 64), Roi(9, 21, 13, 30), Roi(5, 6, 63, 64)):
        with torch.inference_mode():
            compiled = torch.stack(list(sample_logits(sampler, x, core)))
        assert (plain[..., *core.slices].sigmoid() - compiled.sigmoid()).abs().max() <= 2e-6
    assert sampler.plan().traced


@pytest.mark.parametrize("name", NARROW)
def test_halo_is_enough(name):
    made = model(name)
    halo, stride = made.halo, made.spec.stride
    assert halo is not None and halo % stride == 0
    size, start = 2 * halo + 3 * stride, halo + stride
    torch.manual_seed(1)
    scene = torch.randn(1, 3, size, size)
    with torch.inference_mode():
        whole = made.network(scene)[..., start : start + stride, start : start + stride]
        window = scene[..., start - halo : start + stride + halo, start - halo : start + stride + halo]
        core = made.network(window)[..., halo : halo + stride, halo : halo + stride]
    assert (whole - core).abs().max() < 1e-5 * whole.abs().max()


@pytest.mark.parametrize("name", NARROW)
def test_saved_and_loaded(name, tmp_path):
    made = model(name)
    made.save(tmp_path / "m.safetensors")
    loaded = Model.load(tmp_path / "m.safetensors")
    assert loaded.hash == made.hash and loaded.active_sites() == made.active_sites()


def test_unet_16_is_a_setting_of_unet():
    config = UNetConfig(bands=3, widths=(16, 32, 64, 128, 256))
    assert parameters(UNet(config)) == 1_942_577
