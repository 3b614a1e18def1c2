"""Slow: one map, one sha256, however many threads, workers and interruptions there were. Run by `make check-slow`."""

import hashlib
import os
import signal
import subprocess
import sys
import time

import pytest

import geouq
from tests.helpers import geouq as command_line

pytestmark = pytest.mark.slow
TOLD = ("--samples", "5", "--model", "s1-water-fast", "--tile", "256", "-q")
LAYERS = "mask,uncertainty,confidence,probability,votes"


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    path = tmp_path_factory.mktemp("same") / "scene.tif"
    command_line("simulate", path, "--size", 900, "--seed", 3)
    return path


def start(scene, out, threads):
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    words = ["segment", str(scene), "-o", str(out), *TOLD, "--layers", LAYERS, "--float32"]
    return subprocess.Popen([sys.executable, "-m", "geouq.cli.main", *words], env=environment)


def digests(out):
    files = (out, out.with_name(f"{out.stem}_samples.tif"))
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def test_threads_and_interruptions_leave_the_same_files(scene, tmp_path):
    found = {}
    for threads in (1, 2, 3):
        (tmp_path / str(threads)).mkdir()
        out = tmp_path / str(threads) / "m.tif"
        assert start(scene, out, threads).wait(timeout=300) == 0
        found[f"OMP_NUM_THREADS={threads}"] = digests(out)
    for first, then in ((1, 2), (3, 1)):
        (tmp_path / f"{first}-{then}").mkdir()
        out = tmp_path / f"{first}-{then}" / "m.tif"
        run, parts = start(scene, out, first), out.with_name(".m.tif.geouq")
        ends = time.monotonic() + 120
        while len(list(parts.glob("*.part"))) < 3 and run.poll() is None and time.monotonic() < ends:
            time.sleep(0.01)
        run.send_signal(signal.SIGKILL)
        assert run.wait(timeout=60) == -signal.SIGKILL, "it was over before it could be killed"
        assert 0 < len(list(parts.glob("*.part"))) < 16
        assert start(scene, out, then).wait(timeout=300) == 0
        found[f"killed with {first} threads, continued with {then}"] = digests(out)
    for how, digest in found.items():
        print(f"{how:48} {digest[0][:16]} {digest[1][:16]}")
    assert len({tuple(digest) for digest in found.values()}) == 1


def arrays(scene, **compute):
    layers = geouq.segment(
        geouq.open_scene(scene), "s1-water-fast", samples=5, tile=256, layers=("probability", "votes", "mask")
    ).compute(**compute)
    return hashlib.sha256(b"".join(layers[name].values.tobytes() for name in layers)).hexdigest()


def test_schedulers_and_workers_give_the_same_arrays(scene):
    found = {scheduler: arrays(scene, scheduler=scheduler) for scheduler in ("threads", "sync", "processes")}
    distributed = pytest.importorskip("distributed")
    for workers in (1, 2, 4):
        how = {"n_workers": workers, "threads_per_worker": 2, "processes": True, "dashboard_address": None}
        with distributed.LocalCluster(**how) as cluster, distributed.Client(cluster):
            found[f"{workers} workers"] = arrays(scene)
    for how, digest in found.items():
        print(f"{how:48} {digest[:16]}")
    assert len(set(found.values())) == 1
