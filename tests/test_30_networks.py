"""Networks: named sites, and a halo that is what the network really sees."""

import pytest
import torch
from torch import nn

from geouq.errors import ModelError
from geouq.networks.receptive_field import measure_halo
from geouq.networks.sites import DropoutSite, expand_sites, find_sites, set_masks
from geouq.networks.unet import UNet, UNetConfig

CONFIGS = {
    "plain": UNetConfig(widths=(4, 6, 8)),
    "folded": UNetConfig(widths=(4, 6, 8), stem=2),
    "averaged": UNetConfig(widths=(4, 6, 8), stem=2, smooth=3),
    "nearest": UNetConfig(widths=(4, 6), up="nearest", norm=False, bands=3, classes=4),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes(name):
    config = CONFIGS[name]
    network = UNet(config).eval()
    x = torch.zeros(2, config.bands, 3 * network.stride, 2 * network.stride)
    assert network(x).shape == (2, config.classes, *x.shape[2:])


def test_default_widths_and_parameters():
    network = UNet(UNetConfig())
    assert network.stride == 16 and sum(p.numel() for p in network.parameters()) == 1_942_433


@pytest.mark.parametrize("name", CONFIGS)
def test_halo_is_enough_and_one_stride_less_is_not(name):
    config = CONFIGS[name]
    torch.manual_seed(0)
    network = UNet(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3)  # so that the far ends of the receptive field are seen at all
    stride = network.stride
    halo = measure_halo(network, config.bands, stride)
    assert halo is not None and halo % stride == 0
    size, start = 2 * halo + 4 * stride, halo + stride
    scene = torch.randn(1, config.bands, size, size)

    def error(margin: int) -> float:
        window = scene[..., start - margin : start + stride + margin, start - margin : start + stride + margin]
        core = network(window)[..., margin : margin + stride, margin : margin + stride]
        whole = network(scene)[..., start : start + stride, start : start + stride]
        return float((core - whole).abs().max())

    with torch.inference_mode():
        assert error(halo) < 1e-6 * error(0)
        assert error(halo - stride) > 1e-5 * error(0)


class Global(nn.Module):
    def forward(self, x):
        return x[:, :1] + x.mean((2, 3), keepdim=True)[:, :1]


@pytest.mark.parametrize("network", [Global(), nn.GroupNorm(1, 2), nn.Sequential(nn.Conv2d(2, 2, 1), Global())])
def test_no_finite_receptive_field(network):
    assert measure_halo(network, 2, 8) is None


def test_site_names_and_groups():
    network = UNet(UNetConfig(widths=(4, 6, 8)))
    names = list(find_sites(network))
    assert names == ["encoder.0", "encoder.1", "bottleneck", "decoder.0", "decoder.1", "head"]
    assert expand_sites(["last2", "bottleneck"], names) == ("bottleneck", "decoder.0", "decoder.1")
    assert expand_sites(["none"], names) == ()
    with pytest.raises(ModelError, match="choose among"):
        expand_sites(["decoder.9"], names)
    with pytest.raises(ModelError, match="below 1"):
        UNet(UNetConfig(dropout={"head": 1.0}))


def test_masks_from_outside_and_identity_without():
    site = DropoutSite("a", 3, 0.5).eval()
    x = torch.ones(1, 3, 2, 2)
    assert torch.equal(site(x), x)
    set_masks(site, {"a": torch.tensor([0.0, 2.0, 1.0]).view(1, 3, 1, 1)})
    assert site(x)[0, :, 0, 0].tolist() == [0, 2, 1]
    set_masks(site, None)
    site.train()
    torch.manual_seed(0)
    channels = site(torch.ones(64, 3, 4, 4)).flatten(2)
    assert set(channels.unique().tolist()) == {0.0, 2.0} and (channels == channels[..., :1]).all()
