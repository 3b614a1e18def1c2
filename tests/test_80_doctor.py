"""``geouq doctor``: what is well is said to be, and what is broken is named with its fix."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from geouq.cli import checks
from geouq.cli.checks import NOTE, OK, PROBLEM, Finding


def doctor(folder: Path, *options: str, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it in a process of its own, with variables set."""
    done = subprocess.run(
        [sys.executable, "-m", "geouq.cli.main", "doctor", *options],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | environment,
        timeout=300,
    )
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    return done


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Finding]:
    found = json.loads(done.stdout)
    return {one["check"]: Finding(**one) for one in found["findings"]}


def test_here_a_map_can_be_made(tmp_path):
    done = doctor(tmp_path)
    text = done.stdout
    assert done.stderr == ""
    assert "PROBLEM" not in text and "a map: a simulated scene was mapped" in text and "geouq" in text.splitlines()[2]
    found = json.loads(doctor(tmp_path, "--json").stdout)
    assert found["a_map_can_be_made"] and found["versions"]["torch"]
    assert {"packages", "gdal", "proj", "torch", "cores", "memory", "cpu", "a map"} <= {
        one["check"] for one in found["findings"] if one["state"] == OK
    } | {"memory", "cores"}
    assert not list(tmp_path.iterdir())


def test_broken_data_of_proj(tmp_path):
    done = doctor(tmp_path, "--json", code=1, PROJ_DATA=str(tmp_path))
    found = told(done)
    assert found["proj"].state == PROBLEM and "unset PROJ_DATA" in found["proj"].fix
    assert found["a map"].state == PROBLEM and not json.loads(done.stdout)["a_map_can_be_made"]
    assert "no map can be made here before this is mended: proj" in done.stderr and len(done.stderr.splitlines()) == 1


def test_what_stands_in_no_maps_way_is_a_note(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "file").write_text("")
    changed = {"OMP_NUM_THREADS": "1", "GDAL_DATA": "/nowhere", "XDG_CACHE_HOME": str(tmp_path / "file" / "cache")}
    found = told(doctor(tmp_path, "--json", **changed))
    assert (found["gdal"].state, found["gdal"].fix) == (NOTE, "unset GDAL_DATA")
    if (os.cpu_count() or 1) > 1:
        assert found["cores"].state == NOTE and "OMP_NUM_THREADS=1" in found["cores"].text
    assert found["cache"].state == NOTE and "XDG_CACHE_HOME" in found["cache"].fix


def test_a_library_that_cannot_be_imported_hides_nothing_else(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch_cpu.so: cannot open shared object file')")
    found = told(doctor(tmp_path, "--json", code=1, PYTHONPATH=str(tmp_path)))
    assert found["torch"].state == PROBLEM and "libtorch_cpu.so" in found["torch"].text
    assert found["gdal"].state == found["proj"].state == OK and found["a map"].state == PROBLEM


def test_old_and_missing_packages(monkeypatch):
    monkeypatch.setattr(
        checks, "requires", lambda name: ["numpy>=99.1", "nothing>=1", 'zarrr>=3; extra == "zarr"', "click"]
    )
    first, extras = checks._packages()
    assert first.state == PROBLEM and "numpy 99.1 (" in first.text and "nothing 1 (not there)" in first.text
    assert extras.state == NOTE and "zarrr" in extras.text


@pytest.mark.parametrize(("free", "state"), [(None, NOTE), (100 << 20, NOTE), (8 << 30, OK)])
def test_memory(monkeypatch, free, state):
    monkeypatch.setattr(checks, "_free_memory", lambda: free)
    (found,) = checks._memory()
    assert found.state == state and bool(found.fix) == (state == NOTE and free is not None)


def test_a_device_that_fails_or_differs(monkeypatch):
    import numpy as np
    import torch

    def probability(device: str):
        if device == "cuda:1":
            raise RuntimeError("no kernel image is available")
        return np.zeros(3) + 0.1 * (device == "cuda:0")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(checks, "_probability", probability)
    cpu, first, second = checks._devices()
    assert cpu.state == OK and first.state == second.state == NOTE
    assert "differs from the processor by 0.1" in first.text and "no kernel image" in second.text
