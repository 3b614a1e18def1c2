"""Guards whose loss nothing else would notice; each is also a mutation in tests/mutants.py."""

import numpy as np
import pytest
import shapely
import torch
from torch import nn

from geouq import units
from geouq.answers.zonal import zonal
from geouq.compiling.plan import make_plan
from geouq.errors import OutputError
from geouq.learning.training.train import TrainConfig, train
from geouq.networks.model import Model
from geouq.networks.sites import DropoutSite
from geouq.sampling.samplers import make_sampler
from geouq.segmentation import publishing
from geouq.segmentation.job import Settings, prepare
from geouq.segmentation.results import Outputs, resolve
from geouq.segmentation.run import run
from tests.helpers import as_scene, scene_values, small_model
from tests.maps import AFFINES, write_map, write_places


class TwoReaders(nn.Module):
    """What the ReLU and the batch normalisation read is read a second time; no crop is known of a roll."""

    def __init__(self) -> None:
        super().__init__()
        self.site = DropoutSite("a", 2, 0.3)
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1)
        nn.init.uniform_(self.norm.running_mean, 0.5, 1.5)
        nn.init.uniform_(self.norm.weight, 2, 3)

    def forward(self, x):
        x = self.first(self.site(x))
        x = torch.relu(x) + x
        y = self.second(x)
        return self.head(self.norm(y) + y).roll(0, 2)


def test_what_two_steps_read_is_neither_overwritten_nor_folded():
    torch.manual_seed(0)
    network = TwoReaders().eval()
    plan, x = make_plan(network, 2, 1, {"a": 0.3}), torch.randn(1, 2, 16, 16)
    assert plan.traced and plan.crops is None
    network.site.mask = torch.tensor([0.0, 1 / 0.7]).view(1, 2, 1, 1)
    with torch.inference_mode():
        kept = plan.prefix(x)
        compiled = plan.suffix(*(kept if isinstance(kept, tuple) else (kept,)), network.site.mask)
        assert (compiled - network(x)).abs().max() < 1e-5


def peak_bytes(work) -> int:
    """The most bytes that tensors made by ``work`` took at once, as torch's profiler counts them."""
    with torch.profiler.profile(profile_memory=True) as profile:
        work()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    mine = [e.nbytes() for e in events if e.start_thread_id() == events[0].start_thread_id()]  # not what others free
    return int(np.cumsum(mine).max())


@pytest.mark.parametrize("name", ["small", "s1-water", "s1-water-fast"])
def test_the_promise_of_memory_is_what_a_window_takes(name):
    model = small_model(widths=(8, 8, 8), dropout={"head": 0.3}) if name == "small" else Model.load(name)
    plan, side, threads = make_sampler(model, samples=2).plan(), 768, torch.get_num_threads()
    x = torch.randn(1, 2, side, side).contiguous(memory_format=torch.channels_last)
    torch.set_num_threads(1)  # as windows are computed; each thread has scratch of its own
    try:
        with torch.inference_mode():
            plan.prefix(x)
            taken = peak_bytes(lambda: plan.prefix(x)) / side**2
    finally:
        torch.set_num_threads(threads)
    assert 0.6 * plan.bytes_per_pixel < taken < 1.1 * plan.bytes_per_pixel


@pytest.mark.parametrize(("source", "target"), [("power", "dB"), ("amplitude", "dB"), ("amplitude", "power")])
def test_an_exact_zero_of_power_was_not_measured(source, target):
    out = units.convert(np.array([0.0, 0.01, -0.0], np.float32), source, target)
    assert np.isnan(out[[0, 2]]).all() and np.isfinite(out[1])


def test_averaged_weights_are_the_moving_average_of_those_of_each_step():
    rng = np.random.default_rng(0)
    batch = rng.normal(size=(2, 2, 8, 8)).astype(np.float32), np.ones((2, 8, 8), np.uint8), np.ones((2, 8, 8), bool)

    def trained(steps: int, average: float) -> torch.Tensor:
        torch.manual_seed(0)
        network = nn.Conv2d(2, 1, 1)
        config = TrainConfig(steps=steps, rate=0.1, warmup=0, schedule="constant", average=average)
        return train(network, lambda step: batch, config).weight.detach().clone()

    torch.manual_seed(0)
    expected = nn.Conv2d(2, 1, 1).weight.detach().clone()
    for step in range(6):
        keep = min(0.3, step / (step + 10))
        expected = keep * expected + (1 - keep) * trained(step + 1, 0.0)
    torch.testing.assert_close(trained(6, 0.3), expected)


def test_more_than_nothing_is_not_nothing(tmp_path):
    path, says, valid, *_ = write_map(tmp_path, affine=AFFINES["pixels"], crs=None)
    dry = np.argwhere(valid & ~says.any(0))[0]
    place = shapely.box(dry[1], dry[0], dry[1] + 1, dry[0] + 1)
    found = zonal(path, write_places(tmp_path / "p.gpkg", [place], None), shares=(0,))
    assert found["p_over_0"].tolist() == [0.0]


def test_the_map_gets_its_name_last(tmp_path, monkeypatch):
    published = []

    def stop(made, final, replace):
        published.append(final.name)
        raise OSError("the power is gone")

    monkeypatch.setattr(publishing, "publish", stop)
    scene = as_scene(scene_values(40, 40))
    outputs = Outputs(tmp_path / "m.tif", vector=tmp_path / "p.gpkg", preview=tmp_path / "m.png")
    job = prepare(scene, small_model(), Settings(samples=2, layers=("mask", "uncertainty", "confidence", "votes")))
    with pytest.raises(OutputError):
        run(scene, job, outputs)
    assert published and published[0] != "m.tif"
    assert resolve(job, outputs).files[-1] == tmp_path / "m.tif"
