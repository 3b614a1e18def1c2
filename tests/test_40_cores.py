"""Computations side by side: the same bytes on any number of cores, never more windows than promised, no hanging."""

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from geouq.grid import Roi
from geouq.sampling import cores
from geouq.sampling.engine import predict_tile
from geouq.sampling.estimators import Question
from geouq.sampling.samplers import make_sampler
from geouq.sampling.window import Window
from tests.helpers import small_model

DIGESTS = """
import hashlib, math, sys
import numpy as np
from geouq.grid import Roi
from geouq.networks.model import Model
from geouq.sampling.engine import predict_tile
from geouq.sampling.estimators import Question
from geouq.sampling.samplers import make_sampler
from geouq.sampling.window import Window
from tests.helpers import scene_values, small_model, small_ssn

fast = Model.load("s1-water-fast")
head = small_model(dropout={"head": 0.3})
for models, told in (
    (fast, {"samples": 3}), (fast, {"samples": 0}), (small_ssn(), {"samples": 5}),
    ([fast, Model.load("s1-water")], {"samples": 2}), (head, {"samples": math.inf}),
):
    sampler = make_sampler(models, **told)
    pixels = scene_values(416, 448)
    window = Window(pixels, np.isfinite(pixels).all(0), Roi(11, 401, 7, 431))
    layers = ("probability", "uncertainty")
    result = predict_tile(sampler, Question(layers, 2, 1, 0.5, 1.0), window, np.full((1, 1), 99.7))
    digest = hashlib.sha256(result.areas.tobytes())
    for layer in layers:
        digest.update(result.layers[layer].tobytes())
    print(digest.hexdigest())
"""


def digests(threads):
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([sys.executable, "-c", DIGESTS], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_bytes_do_not_depend_on_the_number_of_cores():
    one, two, three = map(digests, (1, 2, 3))
    assert len(one) == 5 and one == two == three


def predict(sampler, side=64):
    pixels = np.random.default_rng(0).normal(-15, 3, (2, side, side)).astype(np.float32)
    window = Window(pixels, np.ones((side, side), bool), Roi(0, side, 0, side))
    return predict_tile(sampler, Question(("probability",), 2, 1, 0.5, 1.0), window, np.ones((1, 1)))


def test_no_more_windows_at_once_than_memory_is_promised_for(monkeypatch):
    monkeypatch.setattr(cores, "_TURNS", {})
    monkeypatch.setattr(cores, "windows_at_once", lambda device: 2)
    sampler, inside, most = make_sampler(small_model(), samples=2), [], []
    draw = type(sampler).draw_samples

    def counted(self, window, numbers):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.05)
        yield from draw(self, window, numbers)
        inside.pop()

    monkeypatch.setattr(type(sampler), "draw_samples", counted)
    threads = [threading.Thread(target=predict, args=(sampler,)) for _ in range(5)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert max(most) == 2 and len(most) == 5


def test_arithmetic_has_one_thread_and_the_callers_keep_theirs():
    before = torch.get_num_threads()
    assert cores.on_core("cpu", torch.get_num_threads) == 1
    assert cores.on_core("cpu", lambda: cores.on_core("cpu", torch.get_num_threads)) == 1, "from a core itself"
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start(), thread.join()
    assert torch.get_num_threads() == before and found == [before]


def test_in_order_and_no_further_ahead_than_there_are_cores():
    started = []

    def job(n):
        started.append(n)
        time.sleep(0.02 * (n % 3 == 0))
        return n

    drawn = cores.in_order((lambda n=n: job(n)) for n in range(40))
    assert [next(drawn) for _ in range(5)] == [0, 1, 2, 3, 4]
    assert max(started) <= 5 + cores.count()
    drawn.close()
    assert list(cores.in_order((lambda n=n: job(n)) for n in range(9))) == list(range(9))


def test_an_error_comes_out_where_its_result_was_to():
    def fail():
        raise ValueError("seven")

    drawn = cores.in_order([lambda: 1, fail, lambda: 3])
    assert next(drawn) == 1
    with pytest.raises(ValueError, match="seven"):
        next(drawn)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_computes_too():
    sampler = make_sampler(small_model(), samples=2)
    expected = predict(sampler).layers["probability"]
    child = os.fork()
    if child == 0:
        same = np.array_equal(predict(sampler).layers["probability"], expected)
        os._exit(0 if same else 3)
    ends = time.monotonic() + 60
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < ends:
        time.sleep(0.05)
    if done == (0, 0):
        os.kill(child, 9), os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(done[1]) == 0


class Untraceable(torch.nn.Module):
    """A network of one's own that torch.fx cannot trace: it looks at its input's size."""

    def __init__(self):
        super().__init__()
        self.network = small_model().network

    def forward(self, x):
        return self.network(x) if int(x.shape[2]) > 0 and bool(x.isfinite().all()) else x[:, :1]


def test_samples_side_by_side_do_not_meet_in_a_network_that_runs_whole(monkeypatch):
    model = small_model()
    whole = replace(model, network=Untraceable(), spec=replace(model.spec, architecture="custom"))
    sampler = make_sampler(whole, samples=12)
    assert not sampler.plan().traced
    monkeypatch.setattr(cores, "_POOL", None)
    monkeypatch.setattr(cores, "count", lambda: 4)
    expected = predict(make_sampler(model, samples=12)).layers["probability"]
    threads = [threading.Thread(target=predict, args=(sampler,)) for _ in range(2)]
    [thread.start() for thread in threads]
    np.testing.assert_allclose(predict(sampler).layers["probability"], expected, atol=1e-5)
    [thread.join() for thread in threads]
