"""A minute of damaged and hostile files of every kind, the same ones each time (tests.fuzz)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 60


@pytest.mark.skipif(not hasattr(os, "fork"), reason="each input runs in a fork")
def test_a_minute_of_damaged_files(tmp_path):
    command = [sys.executable, "-m", "tests.fuzz", "--minutes", str(SECONDS / 60)]
    found = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        command, cwd=tmp_path, env=found, capture_output=True, text=True, check=False, timeout=20 * SECONDS
    )
    rows = [line.split() for line in done.stdout.splitlines()]
    (tried,) = (int(row[1]) for row in rows if row and row[0] == "all")
    assert done.returncode == 0, done.stdout + done.stderr
    assert tried >= 10, f"{tried} inputs are no test"
