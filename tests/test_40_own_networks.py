"""Networks of one's own code: wrapped, sampled, saved by importable name, loaded by who names the class."""

import importlib
import json
import sys

import numpy as np
import pytest
import rasterio
import torch
from torch import nn
from torch.nn import functional

import geouq
from geouq.errors import InputError, ModelError
from geouq.grid import Roi
from geouq.networks.own import build_own, importable_name, with_sites
from geouq.networks.sites import find_sites
from geouq.sampling.dropout import plain_logits
from geouq.sampling.samplers import make_sampler
from tests.helpers import geouq as run
from tests.helpers import pairs, sample_logits, scene_values, write_raster

CODE = """
import torch
from torch import nn
from torch.nn import functional

print("imported")


class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(2, width, 3, padding=1), nn.ReLU(), nn.Dropout(0.4))
        self.pool, self.up, self.drop = nn.MaxPool2d(2), nn.Upsample(scale_factor=2), nn.Dropout2d(0.3)
        self.dense = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(width, width))
        self.again, self.idle = self.drop, nn.Dropout(0.2)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x):
        x = self.inner(x)
        x = x + self.drop(self.up(self.pool(x)))
        return self.head(self.again(x))


def fire(command="echo"):
    print("fired", command)
"""
TOLD = {"bands": ("VV", "VH"), "units": "dB", "mean": (-12, -19), "std": (5, 5), "stride": 2}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder with a module of one's own; its name differs from test to test."""
    name = f"own_{abs(hash(str(tmp_path))) % 10**9}"
    (tmp_path / f"{name}.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)


def net_of(package, **arguments):
    torch.manual_seed(0)
    return importlib.import_module(package).Net(**arguments)


def test_plain_dropout_becomes_sites_of_whole_channels(package):
    own = net_of(package)
    model = geouq.Model.wrap(own, **TOLD)
    assert model.active_sites() == {"inner.2": 0.4, "drop": 0.3}
    assert not find_sites(own) and isinstance(own.drop, nn.Dropout2d), "the user's network stays as it was"
    sites = find_sites(model.network)
    assert sites["inner.2"].channels == 4 and model.network.again is model.network.drop is sites["drop"]
    assert model.halo == 2 and model.spec.positive == "water" and model.binary
    sampler = make_sampler(model, samples=6, batch=3)
    x = torch.randn(1, 2, 16, 20)
    plain = torch.stack(list(plain_logits(sampler, x)))
    with torch.inference_mode():
        ours = torch.stack(list(sample_logits(sampler, x, Roi(3, 16, 0, 20))))
    assert plain.std(0).max() > 0.01 and (ours - plain[..., 3:, :]).abs().max() < 1e-5


def test_saved_by_name_and_loaded_by_who_names_it(package, tmp_path, capsys):
    model = geouq.Model.wrap(net_of(package, width=6), arguments={"width": 6}, **TOLD)
    model.save(tmp_path / "m.safetensors")
    sys.modules.pop(package)
    capsys.readouterr()
    with pytest.raises(ModelError, match=f"--model {package}:Net --weights"):
        geouq.Model.load(tmp_path / "m.safetensors")
    with pytest.raises(ModelError, match="name it"):
        geouq.Model.load(tmp_path / "m.safetensors", network="os:system")
    assert package not in sys.modules and "imported" not in capsys.readouterr().out
    with pytest.raises(ModelError, match=r"is no class of torch\.nn\.Module"):
        build_own(f"{package}:fire", {})
    assert "fired" not in capsys.readouterr().out
    again = geouq.Model.load(tmp_path / "m.safetensors", network=f"{package}:Net")
    x = torch.randn(1, 2, 8, 8)
    with torch.inference_mode():
        assert torch.equal(again.network(x), model.network(x))
    assert again.hash == model.hash and again.active_sites() == model.active_sites()


def test_the_command_line_maps_with_it(package, tmp_path):
    geouq.Model.wrap(net_of(package), **TOLD).save(tmp_path / "m.safetensors")
    write_raster(
        tmp_path / "s.tif", scene_values(70, 90), crs="EPSG:32633", transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)
    )
    told = ("--model", f"{package}:Net", "--weights", "m.safetensors")
    run("segment", "s.tif", "-o", "w.tif", *told, "--scale", "db", "--samples", 4, "--tile", 32, cwd=tmp_path)
    run("segment", "s.tif", "-o", "one.tif", *told, "--scale", "db", "--samples", 4, "--tile", 512, cwd=tmp_path)
    with rasterio.open(tmp_path / "w.tif") as tiled, rasterio.open(tmp_path / "one.tif") as whole:
        assert np.abs(tiled.read(2).astype(int) - whole.read(2)).max() <= 1 and len(np.unique(tiled.read(2))) > 3
    assert "inner.2" in run("models", "show", f"{package}:Net", "--weights", "m.safetensors", cwd=tmp_path).stdout
    data = pairs(tmp_path / "data", ["a_1", "b_1"], size=24)
    scores = run("evaluate", told[1], data, *told[2:], "--samples", 2, "--json", cwd=tmp_path).stdout
    assert json.loads(scores.splitlines()[-1])["model"]["name"] == "Net"
    for args, words in (
        (("--model", f"{package}:Net"), "--weights is given 0 times for 1 models"),
        (("--weights", "m.safetensors"), "--weights is given 1 times for 0 models"),
        (("--model", "m.safetensors"), f"--model {package}:Net --weights"),
        (("--model", f"{package}:Gone", "--weights", "m.safetensors"), "name it"),
        (("--model", f"{package}:Net", "--weights", "s.tif"), "not a readable safetensors file"),
    ):
        error = run("segment", "s.tif", "-o", "x.tif", "--scale", "db", *args, cwd=tmp_path, code=2).stderr
        assert words in error and error.count("\n") == 1, error
    assert not (tmp_path / "x.tif").exists()


def test_what_cannot_be_loaded_again_is_not_saved(package, tmp_path):
    class Local(nn.Conv2d):
        pass

    wrong = geouq.Model.wrap(net_of(package, width=6), **TOLD)
    local = geouq.Model.wrap(Local(2, 1, 1), **TOLD)
    assert importable_name(Local(2, 1, 1)) == "custom"
    for model, words in ((wrong, "of another shape"), (local, "can be imported")):
        with pytest.raises(ModelError, match=words):
            model.save(tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists()


def test_bad_networks_are_refused_in_one_line():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.drop = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 1, 1), nn.Dropout2d(0.1)

        def forward(self, x):
            return self.drop(self.b(self.drop(self.a(x))))

    with pytest.raises(ModelError, match="dropout 'drop' is called on 1 and 3 channels"):
        with_sites(Shared(), 2, 1)
    with pytest.raises(ModelError, match="does not run on 2 x 8 x 8"):
        geouq.Model.wrap(nn.Conv2d(3, 1, 1), **TOLD)
    with pytest.raises(ModelError, match="names 2 classes, and its network gives 4"):
        geouq.Model.wrap(nn.Conv2d(2, 4, 1), **TOLD)
    with pytest.raises(ModelError, match="gives 2 x 2 logits for 4 x 4 pixels"):
        geouq.Model.wrap(nn.Conv2d(2, 1, 2, stride=2), **TOLD)
    flat = nn.Sequential(nn.Conv2d(2, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ModelError, match="gives 1 logits for 4 x 4 pixels"):
        geouq.Model.wrap(flat, **TOLD | {"stride": 2})
    with pytest.raises(InputError, match="units"):
        geouq.Model.wrap(nn.Conv2d(2, 1, 1), **TOLD | {"units": 3})
    with pytest.raises(ModelError, match="classes"):
        geouq.Model.wrap(nn.Conv2d(2, 1, 1), **TOLD | {"classes": ("water",)})
    assert with_sites(Shared().double().requires_grad_(False).b, 3, 1) is not None  # of its own dtype


class Asking(nn.Module):
    """Looks at sizes on the way, as many public networks do; ``how`` says what for."""

    def __init__(self, how="skip"):
        super().__init__()
        self.how = how
        self.enter, self.down = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=4, padding=1)
        self.deep = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Dropout2d(0.4))
        self.head = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x):
        rows, columns = x.shape[-2:]
        if rows % 4 or columns % 4:
            raise RuntimeError("rows and columns must be multiples of 4")
        fine = self.enter(x)
        deep = self.deep(torch.relu(self.down(fine)))
        if self.how == "pool":
            deep = functional.adaptive_avg_pool2d(deep, 2)
        if self.how == "size" and rows < 40:
            deep = -deep
        if self.how == "values" and x.sum() > 0:
            deep = -deep
        if self.how == "square" and rows == columns:
            deep = -deep
        if self.how == "high" and rows > columns:
            deep = -deep
        if self.how == "sevenths" and rows % 28 == 0:
            deep = -deep
        if self.how == "large" and rows > 300:
            deep = -deep
        if self.how == "format" and x.dtype == torch.float32:
            deep = -deep
        if self.how == "device" and x.device.type == "cpu":
            deep = -deep
        if self.how == "images":
            deep = torch.cat([one[None] for one in deep])
        size = [4 * (n // 4) for n in fine.shape[2:]]
        deep = functional.interpolate(deep, size=size, mode="bilinear")
        if deep.shape[2:] != fine.shape[2:]:
            deep = functional.pad(deep, (0, 1, 0, 1))
        return self.head(torch.cat([deep, fine], 1))


@pytest.mark.parametrize(("how", "traced", "cropped"), [("skip", True, True), ("pool", True, False)])
def test_questions_about_sizes_are_answered_for_every_window(how, traced, cropped):
    torch.manual_seed(1)
    model = geouq.Model.wrap(Asking(how), **TOLD | {"stride": 4})
    sampler = make_sampler(model, samples=4, batch=2)
    plan = sampler.plan()
    assert plan.traced is traced and (plan.crops is not None) is cropped
    for rows, columns in ((4, 8), (64, 48)):
        x = torch.randn(1, 2, rows, columns)
        plain = torch.stack(list(plain_logits(sampler, x)))
        with torch.inference_mode():
            ours = torch.stack(list(sample_logits(sampler, x, Roi(1, rows - 1, 0, columns))))
        assert plain.std(0).max() > 0.01 and (ours - plain[..., 1 : rows - 1, :]).abs().max() < 1e-5


HOWS = ["size", "values", "square", "high", "sevenths", "large", "format", "device", "images"]


@pytest.mark.parametrize("how", HOWS)
def test_questions_that_windows_answer_differently_leave_the_network_whole(how):
    torch.manual_seed(1)
    model = geouq.Model.wrap(Asking(how), **TOLD | {"stride": 4})
    sampler = make_sampler(model, samples=2)
    assert not sampler.plan().traced
    for side in (32, 48):
        x = torch.randn(1, 2, side, side) + 1
        with torch.inference_mode():
            ours = torch.stack(list(sample_logits(sampler, x, Roi(0, side, 0, side))))
        assert (ours - torch.stack(list(plain_logits(sampler, x)))).abs().max() < 1e-6


class Scaled(nn.Module):
    """Networks with the same weights that compute other things: by a private number, a tensor, a function."""

    def __init__(self, factor=1.0, shift=0.0, activation=torch.relu):
        super().__init__()
        self.one, self.site, self.activation = nn.Conv2d(2, 4, 1), nn.Dropout2d(0.3), activation
        self.head, self._factor, self.shift = nn.Conv2d(4, 1, 1), factor, torch.full((1,), shift)

    def forward(self, x):
        return self._factor * self.head(self.site(self.activation(self.one(x)))) + self.shift


def test_networks_of_equal_weights_have_plans_of_their_own():
    x = torch.randn(1, 2, 8, 8)
    for told in ({}, {"factor": 3.0}, {"shift": 2.0}, {"activation": torch.tanh}):
        torch.manual_seed(1)
        model = geouq.Model.wrap(Scaled(**told), **TOLD)
        sampler = make_sampler(model, samples=2)
        with torch.inference_mode():
            ours = torch.stack(list(sample_logits(sampler, x, Roi(0, 8, 0, 8))))
        assert (ours - torch.stack(list(plain_logits(sampler, x)))).abs().max() < 1e-5, told


def test_the_name_is_that_of_the_outermost_package_that_shows_the_class():
    assert importable_name(nn.Conv2d(2, 1, 1)) == "torch.nn:Conv2d"
    assert importable_name(Asking()) == f"{__name__}:Asking"
