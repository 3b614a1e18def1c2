"""Progress: a bar on a terminal, which is gone when the command ends however it ends; plain lines elsewhere."""

import io
import os
import pty
import subprocess
import sys

import pytest

from geouq.cli import progress
from geouq.segmentation.events import Finishing, Noted, Started, TileDone

EVENTS = [
    Started(2, 0, 2_000_000, 0, {}),
    TileDone(1_000_000),
    Noted("[odd] note"),
    TileDone(1_000_000),
    Finishing("m"),
]


def test_plain_lines_where_there_is_no_terminal(capsys):
    with progress.RunProgress(quiet=False, verbose=True, interval=0.0) as shown:
        for event in EVENTS:
            shown(event)
    said = capsys.readouterr().err.splitlines()
    assert all(line.startswith("geouq: ") for line in said)
    assert said[1] == "geouq: 2 tiles, 2.0 megapixels" and "100 %" in said[4] and said[3] == "geouq: [odd] note"


def test_quiet_says_nothing(capsys):
    with progress.RunProgress(quiet=True, verbose=True) as shown:
        for event in EVENTS:
            shown(event)
    assert capsys.readouterr() == ("", "")


CODE = """
from geouq.cli.progress import RunProgress
from geouq.segmentation.events import *
with RunProgress(False, False) as shown:
    for event in (Started(2, 0, 2_000_000, 0, {}), TileDone(1_000_000), Noted("[odd] note"), TileDone(1_000_000)):
        shown(event)
    {end}
"""


@pytest.mark.parametrize("end", ["pass", "raise KeyboardInterrupt"])
def test_a_bar_on_a_terminal_gives_it_back(end):
    master, slave = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen([sys.executable, "-c", CODE.replace("{end}", end)], stderr=slave, env=environment)
    os.close(slave)
    said = io.BytesIO()
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:
            break
        if not chunk:
            break
        said.write(chunk)
    process.wait(60)
    text = said.getvalue().decode()
    assert "100%" in text and "geouq: [odd] note" in text and "━" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor, hidden and shown again


def test_training_counts_steps_on_from_where_it_resumes(capsys):
    bar = progress.Bar(unit="steps", scale=1.0, interval=0.0)
    bar.begin(10, 5)
    bar.advance(5, "loss 0.1")
    assert capsys.readouterr().err.startswith("geouq: 100 %") and bar._before == 5
