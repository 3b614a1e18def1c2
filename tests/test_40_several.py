"""Networks made of networks: the mean over turns (test-time augmentation), and of several models."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from geouq.cli.models import command as models
from geouq.cli.segment import command as segment_command
from geouq.compiling.plan import make_plan
from geouq.errors import ModelError
from geouq.grid import Roi
from geouq.networks.combine import combined, turned
from geouq.networks.model import Model
from geouq.networks.several import turn, turn_back
from geouq.sampling.dropout import plain_logits
from geouq.sampling.samplers import make_sampler
from geouq.segmentation.lazy import segment
from tests.helpers import as_scene, sample_logits, scene_values, small_model, small_ssn, write_raster
from tests.networks import model_of


def other_model():
    model = small_model(widths=(4, 6, 8))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in model.network.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=generator)
    return Model(model.network, model.spec).with_spec(name="other", temperature=2.0)


def test_turns_are_undone():
    x = torch.arange(24.0).reshape(1, 1, 4, 6)
    seen = {tuple(turn(x, how).flatten().tolist()) for how in range(8)}
    assert len(seen) == 8 and all(torch.equal(turn_back(turn(x, how), how), x) for how in range(8))


@pytest.mark.parametrize("samples", [0, 3])
def test_the_mean_over_turns_by_hand(samples):
    model = small_model()
    x = torch.randn(1, 2, 24, 40, generator=torch.Generator().manual_seed(1))
    sampler, plain = (make_sampler(m, samples=samples, seed=4, batch=2) for m in (turned(model), model))
    expected = 0
    for how in range(8):
        logits = torch.stack(list(plain_logits(plain, turn(x, how))))
        expected = expected + turn_back(logits, how) / 8
    found = torch.stack(list(sample_logits(sampler, x, Roi(0, 24, 0, 40))))
    assert torch.allclose(found, expected, atol=2e-5)
    assert not torch.allclose(expected, torch.stack(list(plain_logits(plain, x))), atol=1e-2)
    assert torch.allclose(torch.stack(list(plain_logits(sampler, x))), expected, atol=2e-5)


@pytest.mark.parametrize("make", [turned, lambda model: combined([model, other_model()], "both")])
@pytest.mark.parametrize("name", ["small", "deeplabv3+"])
def test_tiles_do_not_show_and_files_keep_it(make, name, tmp_path):
    if name != "small" and make is not turned:
        pytest.skip("both members are U-Nets")
    model = make(small_model() if name == "small" else model_of(name))
    scene = as_scene(scene_values(150, 130))
    ask = {"samples": 2, "layers": ("probability",)}
    whole = segment(scene, model=model, tile=256, **ask).compute()["probability"].values
    tiles = segment(scene, model=model, tile=48, **ask).compute()["probability"].values
    assert np.isfinite(whole).mean() > 0.9 and np.nanmax(np.abs(whole - tiles)) < 1e-5
    model.save(tmp_path / "m.safetensors")
    again = Model.load(tmp_path / "m.safetensors")
    assert again.hash == model.hash and again.spec.stride == model.spec.stride
    same = segment(scene, model=again, tile=256, **ask).compute()["probability"].values
    assert np.array_equal(same, whole, equal_nan=True)


def test_the_mean_of_logits_is_each_at_its_temperature():
    one, two = small_model(), other_model()
    both = combined([one, two], "both")
    x = torch.randn(1, 2, 16, 16)
    with torch.inference_mode():
        expected = (one.network(x) + two.network(x) / 2) / 2
        assert torch.allclose(both.network(x), expected, atol=1e-6)
    assert both.spec.temperature == 1 and set(both.active_sites()) == {
        f"{s}.{m}" for s in one.active_sites() for m in (0, 1)
    }
    assert set(both.active_sites(["decoder"])) == {"decoder.0.0", "decoder.1.0", "decoder.0.1", "decoder.1.1"}


def test_what_makes_no_mean_is_refused():
    with pytest.raises(ModelError, match="is for samples by dropout"):
        turned(small_ssn())
    with pytest.raises(ModelError, match="several --model instead"):
        combined([small_model(), small_model().with_spec(mean=(0.0, 0.0))], "x")
    with pytest.raises(ModelError, match="two or more"):
        combined([small_model()], "x")


class Shared(nn.Module):
    """One convolution and its normalisation, called on two bands in turn: siamese, as for two dates."""

    stride = 1

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        for norm in (self.norm, self.other):
            nn.init.uniform_(norm.running_var, 0.2, 3.0)
            nn.init.normal_(norm.running_mean)
        self.head = nn.Conv2d(8, 1, 1)

    def seen(self, x):
        return self.norm(self.conv(x))

    def forward(self, x):
        return self.head(torch.cat([self.seen(x[:, :1]), self.seen(x[:, 1:])], 1))


class Both(Shared):
    """The convolution is followed by two different normalisations."""

    def forward(self, x):
        return self.head(torch.cat([self.seen(x[:, :1]), self.other(self.conv(x[:, 1:]))], 1))


@pytest.mark.parametrize("kind", [Shared, Both])
def test_a_convolution_that_is_called_twice_is_folded_once(kind):
    torch.manual_seed(0)
    network, x = kind().eval(), torch.randn(1, 2, 8, 8)
    plan = make_plan(network, 2, 1, {})
    with torch.inference_mode():
        (found,) = plan.prefix(x)
        assert torch.allclose(found, network(x), atol=1e-5)


def test_the_command_line(tmp_path):
    one, two = (tmp_path / f"{name}.safetensors" for name in "ab")
    small_model().save(one)
    other_model().save(two)
    scene = write_raster(tmp_path / "s.tif", scene_values(60, 60), crs="EPSG:32633", nodata=np.nan)
    both = tmp_path / "both.safetensors"
    done = CliRunner().invoke(models, ["combine", str(one), str(two), "-o", str(both)])
    assert done.exit_code == 0, done.output
    assert Model.load(both).spec.name == "both"
    maps = []
    for more in ([], ["--tta", "d4"]):
        out = tmp_path / f"map{len(more)}.tif"
        told = [str(scene), "--scale", "db", "--model", str(both), "--samples", "2", "-o", str(out), "-q", *more]
        done = CliRunner().invoke(segment_command, told)
        assert done.exit_code == 0, done.output
        maps.append(out.read_bytes())
    assert maps[0] != maps[1]
