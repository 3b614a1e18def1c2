"""What is printed goes to a terminal, pipe or file of any kind; one that takes no more ends the command quietly."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import small_model

FULL = Path("/dev/full")


def run(*args, encoding: str = "utf-8", **streams) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "geouq.cli.main", *map(str, args)]
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    return subprocess.run(command, text=True, timeout=120, check=False, env=environment, errors="replace", **given)


@pytest.mark.skipif(not FULL.exists(), reason="a disk that is always full is a thing of Linux")
@pytest.mark.parametrize("words", (["--help"], ["--version"], ["models", "--json"], ["segment", "--help"]))
def test_a_full_disk_behind_stdout_is_one_line(words):
    with open(FULL, "w") as full:
        done = run(*words, stdout=full)
        unheard = run(*words, stdout=full, stderr=full)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("geouq: standard output cannot be written: No space left")
    assert unheard.returncode == 2


def test_a_reader_that_has_gone_is_no_traceback():
    for words in (["--help"], ["models"], ["train", "--recipe", "unet-16", "--show"]):
        reading, writing = os.pipe()
        os.close(reading)
        done = run(*words, stdout=writing)
        os.close(writing)
        assert done.returncode == 1 and not done.stderr


def test_closed_streams_are_no_traceback():
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        command = f'"{sys.executable}" -m geouq.cli.main models {closed}'
        done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0 and not done.stderr, closed


@pytest.mark.parametrize("encoding", ("latin-1", "ascii", "cp1252"))
def test_letters_that_the_encoding_has_not(encoding, tmp_path):
    """The lines of models hold an arrow, the help an ellipsis, and a file's name what it wants."""
    assert run("models", encoding=encoding).returncode == 0
    assert run("segment", "--help", encoding=encoding).returncode == 0
    name = tmp_path / "水→.safetensors"
    small_model().save(name)
    done = run("info", name, encoding=encoding)
    assert done.returncode == 0 and "file" in done.stdout and not done.stderr
    absent = run("info", "\udce9.tif", encoding=encoding)  # a byte of no letter
    assert (absent.returncode, absent.stderr.count("\n")) == (2, 1)
