"""What files call themselves reaches a terminal as letters: no escape sequence, title or turned text of theirs."""

import re
import sys
from pathlib import Path

import pytest
import rasterio

from geouq.cli import progress
from geouq.cli.show import plain
from tests.helpers import geouq, scene_values, small_model, write_raster

EVIL = "a\x1b]0;owned\x07b\x9b2Jc\r\u202ed"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")


def test_controls_become_their_codes_and_letters_stay():
    assert plain(EVIL) == r"a\x1b]0;owned\x07b\x9b2Jc\r\u202ed"
    assert plain("1 km²\tÜber–水 «ä»\nnext") == "1 km²\tÜber–水 «ä»\nnext"


@pytest.fixture
def folder(tmp_path):
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine.scale(10, -10)}
    path = write_raster(tmp_path / "s_db.tif", scene_values(40, 40), **place)
    with rasterio.open(path, "r+") as file:
        file.descriptions = ("VV", "VH")
    odd = write_raster(tmp_path / "odd.tif", scene_values(40, 40)[[0, 1, 0]], **place)
    with rasterio.open(odd, "r+") as file:
        file.descriptions = (EVIL, f"{EVIL}2", f"{EVIL}3")
    model = small_model().with_spec(description=EVIL, name=EVIL, licence=EVIL)
    model.save(tmp_path / "m.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["info", "odd.tif"], 0),
        (["info", "m.safetensors"], 0),
        (["models", "show", "m.safetensors"], 0),
        (["segment", "odd.tif", "--scale", "db", "--model", "m.safetensors"], 2),
        (["segment", "s_db.tif", "--model", "m.safetensors", "--samples", "0", "-v"], 0),
        (["segment", f"{EVIL}.tif"], 2),
        (["info", "--scale", EVIL], 2),
    ],
)
def test_nothing_raw_is_printed(folder, command, code):
    done = geouq(*command, cwd=folder, code=code)
    assert not RAW.search(done.stdout + done.stderr)
    assert "owned" in done.stdout + done.stderr


def test_neither_by_the_bar_of_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress.Bar() as bar:
        bar.line(EVIL)
    assert plain(EVIL) in capsys.readouterr().err


def test_there_is_one_way_to_print():
    for module in (Path(progress.__file__).parent).glob("*.py"):
        ways = re.findall(r"\bclick\.s?echo\b|(?<!console\.)\bprint\(|std(?:out|err)\.write", module.read_text())
        assert module.name == "show.py" or not ways, module
