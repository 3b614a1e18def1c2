"""Runs on a cluster: the bytes are those of one machine, whoever computes, and whoever dies."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import dask.array
import numpy as np
import pytest
from affine import Affine

import geouq
from geouq.cli.checks import NOTE, OK, PROBLEM, _cluster_findings
from geouq.errors import GeouqError, InputError
from geouq.segmentation.cluster import connected
from geouq.segmentation.events import Started, TileDone
from tests.helpers import geouq as command
from tests.helpers import scene_values, small_model, write_raster

distributed = pytest.importorskip("distributed")
ASK = {"samples": 3, "tile": 32, "layers": ("mask", "uncertainty", "votes")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("cluster")
    values = scene_values(200, 170)
    write_raster(
        path / "scene_db.tif", values, crs="EPSG:32633", transform=Affine(10, 0, 5e5, 0, -10, 5e6), nodata=np.nan
    )
    small_model().save(path / "m.safetensors")
    run(path, "alone")
    return path


def run(folder: Path, name: str, **options) -> dict:
    scene = geouq.open_scene(folder / "scene_db.tif")
    (folder / name).mkdir(exist_ok=True)
    outputs = geouq.Outputs(folder / name / "map.tif", preview=folder / name / "map.png")
    return geouq.run(scene, folder / "m.safetensors", outputs, **(ASK | options))


def sums(folder: Path, name: str) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (folder / name).iterdir()}


def started(kind: str, file: Path, *more: str) -> subprocess.Popen:
    """A scheduler or worker of its own, which others know by a file."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": Path(__file__).parents[1]}
    program = [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--scheduler-file", str(file), "--no-dashboard"]
    return subprocess.Popen([*program, *more], **quiet)


def worker_of(file: Path) -> subprocess.Popen:
    return started("worker", file, "--nthreads", "1", "--no-nanny")


@contextmanager
def by_hand(folder: Path, workers: int) -> Iterator[tuple[Path, list[subprocess.Popen]]]:
    """A scheduler and workers, each a process started by itself, that know one another by a file."""
    file = folder / f"scheduler-{time.time_ns()}.json"
    processes = [started("scheduler", file, "--port", "0"), *(worker_of(file) for _ in range(workers))]
    try:
        while not file.exists():
            time.sleep(0.1)
        yield file, processes[1:]
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.mark.parametrize("scheduler", ["local:1", "local:2"])
def test_the_bytes_are_those_of_one_machine(folder, scheduler):
    name = scheduler.replace(":", "")
    seen = []
    summary = run(folder, name, scheduler=scheduler, on_event=seen.append)
    assert sums(folder, name) == sums(folder, "alone")
    assert summary["area_m2"] > 0 and isinstance(seen[0], Started)
    assert sum(event.pixels for event in seen if isinstance(event, TileDone)) == 200 * 170


def test_a_worker_that_dies_does_not_show(folder):
    with by_hand(folder, 2) as (file, workers):
        killed = []

        def kill(event) -> None:
            if isinstance(event, TileDone) and not killed:
                killed.append(os.kill(workers[0].pid, signal.SIGKILL))

        run(folder, "killed", scheduler=str(file), on_event=kill)
        assert killed and workers[0].wait() == -signal.SIGKILL and workers[1].poll() is None
    assert sums(folder, "killed") == sums(folder, "alone")


@pytest.mark.slow
def test_workers_that_die_and_others_that_come_do_not_show(folder):
    """Of two workers one is killed midway, and a third takes its place; then the second is killed too."""
    with by_hand(folder, 2) as (file, workers):
        seen, late = [], []

        def change(event) -> None:
            seen.append(event)
            done = sum(isinstance(one, TileDone) for one in seen)
            if isinstance(event, TileDone) and done == 3:
                os.kill(workers[0].pid, signal.SIGKILL)
                late.append(worker_of(file))
            if isinstance(event, TileDone) and done == 20:
                os.kill(workers[1].pid, signal.SIGKILL)

        run(folder, "replaced", scheduler=str(file), on_event=change)
        assert [worker.wait() for worker in workers] == [-signal.SIGKILL] * 2
        late[0].kill()
        late[0].wait()
    assert sums(folder, "replaced") == sums(folder, "alone")


def test_the_doctor_asks_a_cluster(folder, monkeypatch):
    with by_hand(folder, 1) as (file, _), connected(str(file)) as client:
        client.wait_for_workers(1, timeout=30)
        found = {one.check: one for one in _cluster_findings(str(file))}
        assert "1 workers, 1 threads" in found[f"cluster {file}"].text
        assert found["versions on the cluster"].state == OK
        monkeypatch.setattr("geouq.cli.checks._version", lambda name: "0" if name == "torch" else version(name))
        (told,) = [one for one in _cluster_findings(str(file)) if one.check == "versions on the cluster"]
        assert told.state == NOTE and told.text == f"torch 0 here, {version('torch')} there"
        monkeypatch.setattr("geouq.cli.checks._version", lambda name: "0" if name == "geouq" else version(name))
        (told,) = [one for one in _cluster_findings(str(file)) if one.check == "versions on the cluster"]
        assert told.state == PROBLEM and "geouq 0 here" in told.text
    monkeypatch.setattr("geouq.segmentation.cluster._ANSWER", 1)
    (told,) = _cluster_findings("tcp://127.0.0.1:9")
    assert told.state == PROBLEM and "does not answer" in told.text and told.fix


def test_a_run_goes_on_elsewhere(folder):
    class Enough(Exception):
        pass

    done = []

    def stop(event) -> None:
        done.append(event)
        if sum(isinstance(one, TileDone) for one in done) == 9:
            raise Enough

    with pytest.raises(Enough):
        run(folder, "moved", scheduler="local:1", on_event=stop)
    assert not (folder / "moved" / "map.tif").exists()
    assert run(folder, "moved")["tiles_continued"] >= 9
    assert sums(folder, "moved") == sums(folder, "alone")


def test_the_command_line(folder):
    asked = ["--model", "m.safetensors", "--samples", 3, "--tile", 32, "--layers", "mask,uncertainty,votes"]
    (folder / "cli").mkdir()
    asked += ["-o", "cli/map.tif", "--preview", "cli/map.png", "--scheduler", "local:2"]
    command("segment", "scene_db.tif", *asked, cwd=folder)
    assert sums(folder, "cli") == sums(folder, "alone")


def test_a_tile_that_fails_says_why(folder):
    model = small_model()
    model.network.head.weight.data[:] = np.nan
    with pytest.raises(GeouqError, match="not finite"):
        geouq.run(geouq.open_scene(folder / "scene_db.tif"), model, folder / "nan.tif", scheduler="local:1", **ASK)
    assert not (folder / "nan.tif").exists()


@pytest.mark.parametrize("where", ["what", "inproc://x", "tls://127.0.0.1:9", "tcp://127.0.0.1:9"])
def test_a_client_that_finds_no_scheduler_is_closed(where, monkeypatch):
    """One that was not closed itself when collected, maybe in the thread of the next client, and both waited."""
    made = []

    class Known(distributed.Client):
        def __init__(self, *args, **options) -> None:
            made.append(self)
            super().__init__(*args, **options)

    monkeypatch.setattr("distributed.Client", Known)
    monkeypatch.setattr("geouq.segmentation.cluster._ANSWER", 1)
    with pytest.raises(InputError, match="does not answer"), connected(where):
        pass
    assert [client.status for client in made] == ["closed"]


@pytest.mark.parametrize("content", ["{}", "[]", "", "tcp://127.0.0.1:9", '{"address":'])
def test_a_file_that_no_scheduler_wrote(tmp_path, content):
    (tmp_path / "scheduler.json").write_text(content)
    with pytest.raises(InputError, match="scheduler.json: not the file of a scheduler"):
        connected(str(tmp_path / "scheduler.json")).__enter__()


@pytest.mark.parametrize("where", ["local:0", "local:x", "tcp://127.0.0.1:1", "nothing.json", "what"])
def test_where_no_scheduler_is(where, monkeypatch):
    monkeypatch.setattr("geouq.segmentation.cluster._ANSWER", 1)
    with pytest.raises(InputError, match=r"does not answer|give local:N|no such file"), connected(where):
        pass


def test_a_scheduler_without_workers(folder, monkeypatch):
    monkeypatch.setattr("geouq.segmentation.cluster._PATIENCE", 1)
    with by_hand(folder, 0) as (file, _), pytest.raises(InputError, match="has no workers after 1 s"):
        run(folder, "none", scheduler=str(file))


def test_a_script_without_a_main_of_its_own_is_told(folder):
    (folder / "plain.py").write_text(
        "from geouq.segmentation.cluster import connected\nconnected('local:1').__enter__()\n"
    )
    told = subprocess.run([sys.executable, folder / "plain.py"], capture_output=True, text=True)
    said = [line for line in told.stderr.splitlines() if "InputError: scheduler 'local:1': its processes" in line]
    assert told.returncode == 1 and said[-1].endswith("if __name__ == '__main__':")  # among what dask's processes say


def test_what_dask_does_elsewhere_is_left_alone(monkeypatch):
    """A client that found no scheduler stayed dask's default, and whatever was computed next waited for ever."""
    monkeypatch.setattr("geouq.segmentation.cluster._ANSWER", 1)
    before = dask.config.get("scheduler", None)
    with pytest.raises(InputError, match="does not answer"), connected("tcp://127.0.0.1:9"):
        pass
    assert dask.config.get("scheduler", None) == before
    with connected("local:1"):
        assert dask.config.get("scheduler", None) == before
    assert int(dask.array.ones(3, chunks=1).sum().compute()) == 3
