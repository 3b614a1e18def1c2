"""segmentation_models_pytorch: its networks wrapped, traced, sampled, mapped by tiles, saved, and named."""

import sys

import numpy as np
import pytest
import rasterio
import torch

import geouq
from geouq.errors import ModelError
from geouq.grid import Roi
from geouq.sampling.dropout import plain_logits
from geouq.sampling.samplers import make_sampler
from geouq.segmentation.lazy import segment
from tests.helpers import as_scene, sample_logits, scene_values, write_raster
from tests.helpers import geouq as run

smp = pytest.importorskip("segmentation_models_pytorch", reason="not tried: pip install 'geouq[smp]'")

TOLD = {"bands": ("VV", "VH"), "units": "dB", "mean": (-12, -19), "std": (5, 5)}
DEEP = {"encoder_name": "resnet18", "encoder_weights": None, "in_channels": 2, "classes": 1}
#: of three levels, so that its halo is small
SMALL = DEEP | {"encoder_depth": 3, "decoder_channels": [16, 8, 8]}
CODE = """
import segmentation_models_pytorch as smp
from torch import nn


class Doubting(smp.Unet):
    def __init__(self, rate, **arguments):
        super().__init__(**arguments)
        self.segmentation_head.insert(0, nn.Dropout2d(rate))
"""


def model_of(kind, arguments, **told):
    torch.manual_seed(0)
    network = kind(**arguments).eval()
    for module in network.modules():  # as if trained: statistics that are not 0 and 1
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, 0, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return geouq.Model.wrap(network, arguments=arguments, **TOLD, **told)


@pytest.fixture
def doubting(tmp_path, monkeypatch):
    (tmp_path / "doubting.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    import doubting

    yield doubting.Doubting
    sys.modules.pop("doubting")


def test_a_unet_maps_by_its_public_name(tmp_path):
    model = model_of(smp.Unet, SMALL, stride=8)
    assert model.spec.architecture == "segmentation_models_pytorch:Unet" and model.halo is not None
    model.save(tmp_path / "m.safetensors")
    placed = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)}
    write_raster(tmp_path / "s.tif", scene_values(300, 340), **placed)
    told = ("--model", "segmentation_models_pytorch:Unet", "--weights", "m.safetensors", "--scale", "db")
    for tile in (64, 512):
        run("segment", "s.tif", "-o", f"{tile}.tif", *told, "--samples", 0, "--tile", tile, cwd=tmp_path)
    with rasterio.open(tmp_path / "64.tif") as tiled, rasterio.open(tmp_path / "512.tif") as whole:
        assert np.abs(tiled.read(2).astype(int) - whole.read(2)).max() <= 1 and len(np.unique(whole.read(2))) > 10


def test_a_unet_with_dropout_of_ones_own_has_no_seams(doubting):
    model = model_of(doubting, {"rate": 0.3, **SMALL}, stride=8)
    assert model.active_sites() == {"segmentation_head.0": 0.3}
    sampler = make_sampler(model, samples=3)
    plan = sampler.plan()
    assert plan.traced and plan.crops is not None
    scene = as_scene(scene_values(300, 340))
    whole, tiled = (
        segment(scene, model, samples=3, layers=("probability", "std"), tile=tile).compute() for tile in (512, 64)
    )
    for layer in ("probability", "std"):
        assert np.nanmax(np.abs(whole[layer] - tiled[layer])) <= 1e-5 and float(np.nanstd(whole[layer])) > 1e-4


@pytest.mark.parametrize("name", ["FPN", "PSPNet", "DeepLabV3Plus"])
def test_those_with_dropout_are_sampled_and_see_the_whole_window(name):
    model = model_of(getattr(smp, name), DEEP)
    assert model.halo is None and len(model.active_sites()) == 1
    sampler = make_sampler(model, samples=3, batch=2)
    assert sampler.plan().traced
    x = torch.randn(1, 2, 96, 64)
    plain = torch.stack(list(plain_logits(sampler, x)))
    with torch.inference_mode():
        ours = torch.stack(list(sample_logits(sampler, x, Roi(3, 96, 0, 50))))
    assert (ours - plain[..., 3:, :50]).abs().max() <= 1e-5 * float(plain.abs().max()) + 1e-6
    assert plain.std(0).max() > 0.001


def test_an_fpn_of_three_levels_gives_several_logits_a_pixel():
    with pytest.raises(ModelError, match="gives 64 x 64 logits for 16 x 16 pixels"):
        model_of(smp.FPN, DEEP | {"encoder_depth": 3}, stride=8)
