"""Slow: memory promised and kept, whatever the scene's size; kills at scale. Run by `make check-slow`."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")]

#: Interpreter and libraries, MiB: what a process has after reading a scene's header, measured in the same test.
MEASURE = """
import re, runpy, sys
from pathlib import Path
def status(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
sys.argv = ["geouq", *{args!r}]
try:
    runpy.run_module("geouq.cli.main", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print("PEAK", status("VmHWM"), file=sys.stderr)
"""


def geouq(*args) -> tuple[str, str, int]:
    """Run the command line; return stdout, stderr and its peak RSS in MiB."""
    code = MEASURE.format(args=[str(a) for a in args])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr, int(re.search(r"PEAK (\d+)", done.stderr)[1])


def test_peak_memory_is_promised_and_does_not_grow_with_the_scene(tmp_path):
    peaks = {}
    for size in (64, 2500, 5000):  # 64: what the interpreter and its libraries take
        scene, out = tmp_path / f"{size}.tif", tmp_path / f"map{size}.tif"
        geouq("simulate", scene, "--size", size)
        extras = ["--vector", out.with_suffix(".gpkg"), "--preview", out.with_suffix(".png")]
        stdout, stderr, peaks[size] = geouq(
            "segment", scene, "-o", out, *extras, "--samples", 3, "--tile", 512, "-v", "--json"
        )
        promise = int(re.search(r"at most (\d+) MiB", stderr)[1])
        assert json.loads(stdout)["tiles"] == (-(-size // 512)) ** 2
    assert peaks[5000] <= peaks[64] + promise, (peaks, promise)
    assert peaks[5000] <= 1.2 * peaks[2500], peaks
    print(peaks, promise)
