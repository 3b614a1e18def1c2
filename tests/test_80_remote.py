"""A run on a remote scene: killed, the scene replaced at its address, the same command given again."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import rasterio

import geouq
from geouq.errors import SceneError
from geouq.simulation.simulate import simulate_scene
from geouq.sources import state

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
COMMAND = [sys.executable, "-m", "geouq.cli.main", "segment"]


@pytest.fixture
def web(tmp_path):
    """A folder and the address that a server shows it under."""
    folder = tmp_path / "web"
    folder.mkdir()
    with subprocess.Popen([sys.executable, "-m", "tests.web", folder], stdout=subprocess.PIPE, text=True) as server:
        yield folder, f"http://127.0.0.1:{server.stdout.readline().strip()}"
        server.kill()


@pytest.mark.parametrize("replaced", [True, False])
def test_a_map_is_never_made_of_two_scenes(tmp_path, web, replaced):
    folder, url = web
    simulate_scene(folder / "r.tif", size=512, seed=1)
    simulate_scene(tmp_path / "other.tif", size=512, seed=2)
    out, parts = tmp_path / "map.tif", tmp_path / ".map.tif.geouq"
    options = [f"{url}/r.tif", "-o", out, "--tile", "128", "--samples", "2", "--model", "s1-water-fast"]
    process = subprocess.Popen([*COMMAND, *options], stderr=subprocess.DEVNULL, env=ENVIRONMENT)
    while process.poll() is None and len(list(parts.glob("*.part"))) < 5:  # more than are in flight: one has a receipt
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it was over before it could be killed"
    if not out.exists() and replaced:
        shutil.copy(tmp_path / "other.tif", folder / "r.tif")
    done = subprocess.run([*COMMAND, *options], capture_output=True, text=True)
    if replaced:
        assert done.returncode == 2 and "unfinished run with other settings (scene" in done.stderr, done.stderr
        assert not out.exists()
    else:
        assert done.returncode == 0 and out.exists(), done.stderr


@pytest.mark.parametrize("retries", ["4", "0"])
def test_a_server_that_drops_requests_does_not_show(tmp_path, web, monkeypatch, retries):
    """Every fifth is dropped; GDAL asks again by itself only where it can tell that the answer was cut off."""
    folder, url = web
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", retries)
    simulate_scene(folder / "r.tif", size=256, seed=1)
    asked = {"model": "s1-water-fast", "samples": 2, "tile": 64}
    geouq.run(geouq.open_scene(folder / "r.tif"), outputs=tmp_path / "local.tif", **asked)
    (folder / "drops").write_text("5")
    scene = geouq.open_scene(f"{url}/r.tif")
    assert any(scene.data.dask) and state(f"{url}/r.tif")[0][1:] != ()
    geouq.run(scene, outputs=tmp_path / "remote.tif", **asked)
    with rasterio.open(tmp_path / "local.tif") as one, rasterio.open(tmp_path / "remote.tif") as other:
        assert np.array_equal(one.read(), other.read())


def test_what_a_server_does_not_have_is_one_line(web):
    _, url = web
    started = time.monotonic()
    with pytest.raises(SceneError, match=r"r.tif: cannot be opened \(HTTP response code: 404\): check the address"):
        geouq.open_scene(f"{url}/r.tif")
    assert time.monotonic() - started < 3, "it is not asked for again"
