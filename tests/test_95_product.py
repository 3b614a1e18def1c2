"""Slow: a product of full size is read, calibrated and put on a map in memory that does not grow with what is read."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window

from tests.shared import PRODUCTS, SAFE, unpacked

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SAFE.exists(), reason="needs ../shared/data/safe"),
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc"),
]

READ = """
import re, sys
from pathlib import Path
from geouq.cli.main import prepare_process
prepare_process()
import numpy as np
import geouq
scene = geouq.open_scene(sys.argv[1])
rows, columns = scene.shape[1:]
for i in range(int(sys.argv[2])):
    y, x = rows // 4 + i // 8 * 512, columns // 4 + i % 8 * 1024
    part = scene[:, y : y + 1024, x : x + 1024].compute()
    assert np.isfinite(part).mean() > 0.9
print(scene.shape, re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def peak(product: Path, windows: int) -> int:
    """Peak RSS in MiB of a process that reads so many windows of 1024²."""
    done = subprocess.run([sys.executable, "-c", READ, str(product), str(windows)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(re.search(r"(\d+)$", done.stdout.strip())[1]) // 1024


def test_memory_does_not_grow_with_what_is_read(tmp_path):
    product = unpacked(PRODUCTS["3.31"], tmp_path)
    rng = np.random.default_rng(0)
    lines, pixels = 16854, 25931
    pattern = np.repeat(rng.integers(50, 400, (512, pixels // 61 + 1)), 61, axis=1)[:, :pixels].astype(np.uint16)
    profile = dict(driver="GTiff", dtype="uint16", count=1, blockysize=1, compress="deflate", zlevel=1)
    for annotation in (product / "annotation").glob("*.xml"):
        image = product / "measurement" / f"{annotation.stem}.tiff"
        with rasterio.open(image, "w", width=pixels, height=lines, **profile) as dataset:
            for line in range(0, lines, 512):
                count = min(512, lines - line)
                dataset.write(pattern[None, :count], window=Window(0, line, pixels, count))
    few, many = peak(product, 8), peak(product, 64)
    print(f"{few} MiB after 8 windows of 1 megapixel, {many} MiB after 64")
    assert many < 1.15 * few and many < 1024
